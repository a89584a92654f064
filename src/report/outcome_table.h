/* The outcome table of a results file, as text for a terminal. */
#ifndef LP_REPORT_OUTCOME_TABLE_H
#define LP_REPORT_OUTCOME_TABLE_H

#include "base/text.h"
#include "store/results.h"

/* SHORT: blocks with very many conditions a layer get one line a layer. */
typedef enum { LP_TABLE_SHORT, LP_TABLE_ALL } lp_table_length;

/* Appends: what was run; the unpatched run; then for every combination of direction, donor, operation, site and defects
 * the table (layers x step sets): share of each outcome with its Wilson 95 % interval, n, and the mean KL where the
 * file has that metric; the controls; dead cells; and whether the sweep is sound (self controls and the unpatched run
 * changed nothing). */
lp_status lp_outcome_table(lp_results *results, lp_table_length length, lp_text *out, lp_error *err);

#endif
