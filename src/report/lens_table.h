/* The logit lens of a results file, as text: tables for a terminal, CSV for everything else. */
#ifndef LP_REPORT_LENS_TABLE_H
#define LP_REPORT_LENS_TABLE_H

#include "base/text.h"
#include "store/results.h"

/* Appends, for the clean and the corrupted runs, a table layers x positions: the token that most of the included pairs
 * have first there, and the share of pairs that do. LP_ERR_VALUE where the file has no lens. */
lp_status lp_lens_table(lp_results *results, lp_text *out, lp_error *err);
/* The same for one pair, by its id: its likeliest token and the probability. LP_ERR_VALUE on an id that the file does
 * not have, and on a pair that was not run. */
lp_status lp_lens_pair_table(lp_results *results, const char *id, lp_text *out, lp_error *err);

/* CSV in long format: the heading, then the lines of one pair (none where it was not run). */
lp_status lp_lens_csv_heading(lp_text *out, lp_error *err);
lp_status lp_lens_csv_pair(lp_results *results, int64_t pair, lp_text *out, lp_error *err);

#endif
