#include "stage/plan.h"

#include "base/memory.h"

/* Writes back what is there. In a run of full length, this must change nothing. */
static bool writes_back(const lp_condition_set *set, const lp_condition *condition) {
    if (condition->n == 0) return false;
    for (size_t i = 0; i < condition->n; i++) {
        const lp_replacement *replacement = &set->replacements[condition->first + i];
        const lp_address *address = &replacement->at, *b = &replacement->from;
        bool same_place = address->phase == b->phase && address->index == b->index && address->site == b->site &&
                          address->layer == b->layer;
        if (replacement->donor != LP_DONOR_SELF || replacement->operation != LP_OP_REPLACE || !same_place) return false;
    }
    return true;
}

/* Families of conditions that write back what is there: controls, and of those that stop early each that is like an
 * earlier one. */
static lp_status find_written_back(lp_sweep_plan *plan, lp_error *err) {
    int32_t n_steps = plan->session->job.protocol.n_steps, *first = NULL; /* [2, n_stops] 1 + condition; 0: none yet */
    size_t n_stops = (size_t)n_steps + 1;
    lp_status status = lp_mem_new(&first, 2 * n_stops, sizeof *first, "conditions", err);
    for (size_t i = 0; status == LP_OK && i < plan->set->n; i++) {
        const lp_condition *condition = &plan->set->conditions[i];
        bool known = plan->family[i] != LP_FAMILY_NONE && plan->family[i] != LP_FAMILY_FED;
        if (!writes_back(plan->set, condition)) continue;
        plan->identity[i] = condition->n_steps_run == n_steps;
        if (known) continue;
        int32_t *other = &first[(size_t)condition->direction * n_stops + (size_t)condition->n_steps_run];
        if (plan->identity[i]) {
            plan->family[i] = LP_FAMILY_SELF;
        } else if (*other > 0) {
            plan->family[i] = LP_FAMILY_SELF_STOP;
            plan->fed_as[i] = *other - 1;
        } else {
            *other = (int32_t)i + 1;
        }
    }
    lp_mem_free(first);
    return status;
}

static int compare_i32(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static lp_status make_shapes(lp_sweep_plan *plan, lp_error *err) {
    const lp_session *session = plan->session;
    const int32_t *n_prompt[2] = {session->n_prompt[LP_CORRUPTED],
                                  session->n_prompt[LP_CLEAN]}; /* recipients, by direction */
    size_t n = (size_t)session->n_pairs;
    plan->shapes = (lp_run_shapes){.config = &session->model.config, .protocol = session->job.protocol};
    for (int d = 0; d < 2; d++) {
        LP_CHECK(lp_mem_new(&plan->lengths[d], n, sizeof(int32_t), "prompt lengths", err));
        int32_t *lengths = plan->lengths[d];
        size_t kept = 0;
        memcpy(lengths, n_prompt[d], n * sizeof *lengths);
        qsort(lengths, n, sizeof *lengths, compare_i32);
        for (size_t i = 0; i < n; i++)
            if (kept == 0 || lengths[i] != lengths[kept - 1]) lengths[kept++] = lengths[i];
        plan->shapes.n_prompt[d] = lengths;
        plan->shapes.n[d] = kept;
    }
    return LP_OK;
}

lp_status lp_sweep_plan_init(lp_session *session, lp_sweep_plan *out, lp_error *err) {
    lp_sweep_plan plan = {.session = session,
                          .set = &session->conditions,
                          .used = {[LP_DENOISE] = session->job.sweep.denoise, [LP_NOISE] = session->job.sweep.noise}};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&plan.layout, 1, sizeof *plan.layout, "store layout", err));
    LP_TRY(lp_store_layout_init(session, plan.layout, err));
    LP_TRY(lp_token_edits_init(session, plan.set, &plan.tokens, err));
    LP_TRY(lp_mem_new(&plan.dead, plan.set->n, sizeof *plan.dead, "conditions", err));
    LP_TRY(lp_mem_new(&plan.same_as, plan.set->n, sizeof *plan.same_as, "conditions", err));
    LP_TRY(make_shapes(&plan, err));
    LP_TRY(lp_mem_new(&plan.family, plan.set->n, sizeof *plan.family, "conditions", err));
    LP_TRY(lp_mem_new(&plan.fed_as, plan.set->n, sizeof *plan.fed_as, "conditions", err));
    LP_TRY(lp_conditions_compare(plan.set, &plan.shapes, plan.dead, plan.same_as, plan.family, plan.fed_as, err));
    LP_TRY(lp_mem_new(&plan.identity, plan.set->n, sizeof *plan.identity, "conditions", err));
    LP_TRY(find_written_back(&plan, err));
    for (size_t i = 0; i < plan.set->n; i++) plan.n_distinct += plan.same_as[i] == (int32_t)i;
    *out = plan;
    return LP_OK;
out:
    lp_sweep_plan_release(&plan);
    return status;
}

lp_status lp_sweep_plan_donors(lp_sweep_plan *plan, lp_error *err) {
    for (int d = 0; d < 2; d++)
        if (plan->used[d])
            LP_CHECK(lp_donor_table_init(plan->session, plan->layout, plan->set, &plan->shapes, (lp_direction)d,
                                         &plan->donors[d], err));
    return LP_OK;
}

void lp_sweep_plan_release(lp_sweep_plan *plan) {
    if (plan->layout) lp_store_layout_release(plan->layout);
    lp_mem_free(plan->layout);
    lp_token_edits_release(&plan->tokens);
    for (int d = 0; d < 2; d++) lp_donor_table_release(&plan->donors[d]);
    for (int d = 0; d < 2; d++) lp_mem_free(plan->lengths[d]);
    lp_mem_free(plan->dead);
    lp_mem_free(plan->same_as);
    lp_mem_free(plan->identity);
    lp_mem_free(plan->family);
    lp_mem_free(plan->fed_as);
    *plan = (lp_sweep_plan){0};
}

int32_t lp_sweep_plan_like(const lp_sweep_plan *plan, size_t condition) {
    switch (plan->family[condition]) {
    case LP_FAMILY_EQUAL_UNREAD:
    case LP_FAMILY_EQUAL_OVERWRITTEN:
    case LP_FAMILY_EQUAL_CAUSAL:
    case LP_FAMILY_EQUAL_WORDS: return plan->same_as[condition];
    case LP_FAMILY_SELF_STOP:
    case LP_FAMILY_FED: return plan->fed_as[condition];
    default: return -1;
    }
}

lp_status lp_sweep_plan_families(const lp_sweep_plan *plan, lp_family_detail detail, lp_text *out, lp_error *err) {
    size_t count[LP_N_FAMILIES] = {0}, example[LP_N_FAMILIES] = {0};
    for (size_t i = plan->set->n; i-- > 0;) {
        count[plan->family[i]]++;
        example[plan->family[i]] = i;
    }
    for (int f = LP_FAMILY_NONE + 1; f < LP_N_FAMILIES; f++) {
        if (count[f] == 0) continue;
        int32_t like = lp_sweep_plan_like(plan, example[f]);
        const char *reason = lp_condition_family_reason((lp_condition_family)f);
        size_t kind = strcspn(reason, ":");
        LP_CHECK(lp_text_format(out, err, "%.*s, %zu condition%s%s", (int)kind, reason, count[f],
                                count[f] == 1 ? "" : "s", reason + kind));
        if (detail == LP_FAMILIES_WITH_EXAMPLES)
            LP_CHECK(lp_text_format(out, err, ", such as %s%s%s", plan->set->conditions[example[f]].name,
                                    like < 0 ? "" : " = ", like < 0 ? "" : plan->set->conditions[like].name));
        LP_CHECK(lp_text_add(out, "\n", 1, err));
    }
    return LP_OK;
}
