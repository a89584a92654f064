/* Results in blocks: conditions that differ in layers and steps only. Shared by the long table and by the grid. */
#ifndef LP_REPORT_OUTCOME_BLOCKS_H
#define LP_REPORT_OUTCOME_BLOCKS_H

#include "base/text.h"
#include "store/results.h"

typedef struct {
    lp_results *results;
    int32_t *members; /* [n] conditions, in order */
    int32_t n;
    int width; /* of the longest words, at least 14 */
} lp_outcome_block;

/* *out = the blocks of a file in the order of their first condition, without the unpatched runs; each has all
 * conditions that agree in role, direction, donor, operation, site, defects, vector and factor. */
lp_status lp_outcome_blocks(lp_results *results, lp_outcome_block **out, size_t *n, lp_error *err);
void lp_outcome_blocks_free(lp_outcome_block *blocks, size_t n);
const lp_result_condition *lp_outcome_member(const lp_outcome_block *block, int32_t i);
/* The four counts of member i. */
const int64_t *lp_outcome_counts(const lp_outcome_block *block, int32_t i);
int64_t lp_outcome_total(const int64_t counts[LP_N_OUTCOMES]);
/* *out = the step set, or the position, and what else tells the condition from its neighbours in the block. */
lp_status lp_outcome_words(const lp_result_condition *condition, lp_text *out, lp_error *err);
/* *out += "denoise: replace resid_post from the clean donor into the corrupted run" + columns, in a line. */
lp_status lp_outcome_heading(const lp_outcome_block *block, const char *columns, lp_text *out, lp_error *err);
/* *out += how often the controls that must change nothing changed something, and what that says about the sweep. */
lp_status lp_outcome_conclusion(lp_results *results, lp_text *out, lp_error *err);

#endif
