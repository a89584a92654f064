#include "base/memory.h"
#include "stage/sweep.h"

/* Writes back what is there, into a run of full length: must change nothing. */
static bool is_identity(const lp_condition_set *set, const lp_condition *condition, int32_t n_steps) {
    if (condition->n == 0 || condition->n_steps_run != n_steps) return false;
    for (size_t i = 0; i < condition->n; i++) {
        const lp_replacement *r = &set->replacements[condition->first + i];
        const lp_address *a = &r->at, *b = &r->from;
        bool same_place = a->phase == b->phase && a->index == b->index && a->site == b->site && a->layer == b->layer;
        if (r->donor != LP_DONOR_SELF || r->operation != LP_OP_REPLACE || !same_place) return false;
    }
    return true;
}

lp_status lp_sweep_plan_init(const lp_session *session, lp_sweep_plan *out, lp_error *err) {
    lp_sweep_plan plan = {.session = session};
    lp_status status = LP_OK;
    lp_run_shape shape = {
        .config = &session->model.config, .protocol = session->job.protocol, .n_prompt = session->longest_prompt};
    LP_TRY(lp_mem_new(&plan.layout, 1, sizeof *plan.layout, "store layout", err));
    LP_TRY(lp_store_layout_init(session, plan.layout, err));
    LP_TRY(lp_job_conditions(&session->job, &session->model.config, &plan.set, err));
    LP_TRY(lp_mem_new(&plan.dead, plan.set.n, sizeof *plan.dead, "conditions", err));
    LP_TRY(lp_mem_new(&plan.same_as, plan.set.n, sizeof *plan.same_as, "conditions", err));
    LP_TRY(lp_conditions_compare(&plan.set, &shape, plan.dead, plan.same_as, err));
    LP_TRY(lp_mem_new(&plan.identity, plan.set.n, sizeof *plan.identity, "conditions", err));
    for (size_t i = 0; i < plan.set.n; i++)
        plan.identity[i] = is_identity(&plan.set, &plan.set.conditions[i], session->job.protocol.n_steps);
    for (size_t i = 0; i < plan.set.n; i++) plan.n_distinct += plan.same_as[i] == (int32_t)i;
    *out = plan;
    return LP_OK;
out:
    lp_sweep_plan_release(&plan);
    return status;
}

void lp_sweep_plan_release(lp_sweep_plan *plan) {
    if (plan->layout) lp_store_layout_release(plan->layout);
    lp_mem_free(plan->layout);
    lp_condition_set_release(&plan->set);
    lp_mem_free(plan->dead);
    lp_mem_free(plan->same_as);
    lp_mem_free(plan->identity);
    *plan = (lp_sweep_plan){0};
}
