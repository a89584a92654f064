/* Stage 2: every condition of the sweep on every included pair, from the store of stage 1 to the results files. */
#ifndef LP_STAGE_SWEEP_H
#define LP_STAGE_SWEEP_H

#include "stage/plan.h"

typedef struct {
    int64_t n_pairs, n_included, n_done_before;
    int64_t n_unpatched_differ; /* included pairs whose unpatched run in the sweep differs from the store's */
    int64_t n_self_differ;      /* rows of self controls whose answer differs from the unpatched one */
    bool was_complete;          /* the results were there already */
} lp_sweep_report;              /* valid on rank 0 */

/* Collective. The plan is that of lp_stage_check; its donors get their sums. Fails when the store is missing,
 * incomplete, or of another job (the message names the field). Continues a sweep that was interrupted. LP_ERR_STOPPED
 * when it was asked to stop early. */
lp_status lp_stage_sweep(lp_session *session, lp_sweep_plan *plan, lp_sweep_report *report, lp_error *err);

#endif
