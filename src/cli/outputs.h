/* What the commands on a job print at their end. */
#ifndef LP_CLI_OUTPUTS_H
#define LP_CLI_OUTPUTS_H

#include "base/text.h"
#include "stage/cache.h"
#include "stage/sweep.h"
#include "store/results.h"

/* Rank 0: how the unpatched runs did. */
lp_status lp_print_cache_report(const lp_session *session, const lp_cache_report *report, lp_error *err);
/* The outcomes of a results file: the grid, or with `all` a line for each condition. */
lp_status lp_print_outcomes(lp_results *results, bool all, lp_error *err);
/* Rank 0: the outcomes of the job's results file, then, one a line, store, results, csv and summary with their
 * paths; of csv and summary those that are there. */
lp_status lp_print_results(const lp_session *session, bool all, lp_error *err);

#endif
