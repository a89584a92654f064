/* Stage 2: every condition of the sweep on every included pair, from the store of stage 1 to the results files. */
#ifndef LP_STAGE_SWEEP_H
#define LP_STAGE_SWEEP_H

#include "stage/layout.h"

/* What a sweep will do, without doing it; also what `plan` prints. */
typedef struct {
    const lp_session *session;
    lp_store_layout *layout;
    lp_condition_set set;
    int32_t *lengths[2];  /* by direction: prompt lengths of its recipients, ascending, each once */
    lp_run_shapes shapes; /* borrows them */
    bool *dead;           /* [set.n] */
    int32_t *same_as;     /* [set.n] */
    bool *identity;       /* [set.n] controls that must change nothing: self, replaced at its own address */
    size_t n_distinct;
} lp_sweep_plan;

/* Local. */
lp_status lp_sweep_plan_init(const lp_session *session, lp_sweep_plan *out, lp_error *err);
void lp_sweep_plan_release(lp_sweep_plan *plan);

typedef struct {
    int64_t n_pairs, n_included, n_done_before;
    int64_t n_unpatched_differ; /* included pairs whose unpatched run in the sweep differs from the store's */
    int64_t n_self_differ;      /* rows of self controls whose answer differs from the unpatched one */
    bool was_complete;          /* the results were there already */
} lp_sweep_report;              /* valid on rank 0 */

/* Collective. Fails when the store is missing, incomplete, or of another job (the message names the field). Continues a
 * sweep that was interrupted. LP_ERR_STOPPED when it was asked to stop early. */
lp_status lp_stage_sweep(lp_session *session, lp_sweep_report *report, lp_error *err);

#endif
