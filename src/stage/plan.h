/* What a sweep will do, known before anything is computed: its conditions, which of them are the same or can change
 * nothing, and where the store keeps what they take. */
#ifndef LP_STAGE_PLAN_H
#define LP_STAGE_PLAN_H

#include "stage/layout.h"

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

#endif
