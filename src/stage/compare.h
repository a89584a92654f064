/* Results beside other results: a published file of the original study, or another results file of ours. Text for a
 * terminal is appended to *out. Local; no MPI. */
#ifndef LP_STAGE_COMPARE_H
#define LP_STAGE_COMPARE_H

#include "base/text.h"
#include "stage/published.h"
#include "store/results.h"

typedef struct {
    /* What early, middle and late are; all -1: the three layers that the results have there. */
    int32_t layers[LP_PUBLISHED_LAYERS];
    int64_t most_lines; /* differing rows that are listed; 0: all */
} lp_compare_options;

/* Per condition: how many pairs have the published class and the published text, and both class counts; then the rows
 * that differ. Patching files are set beside the conditions denoise/clean/replace/resid_post with the same steps, one
 * table for each way that the results have them (defects, donor layers); necessity files beside the zero donor at all
 * steps. Fails where the results have no such condition. */
lp_status lp_compare_published(const lp_published *published, lp_results *results, const lp_compare_options *options,
                               lp_text *out, lp_error *err);

/* Rows of the conditions (by name) and pairs (by id) that both files have and whose class or answer tokens differ. */
lp_status lp_compare_results(lp_results *a, lp_results *b, const lp_compare_options *options, lp_text *out,
                             lp_error *err);

#endif
