#include "stage/check.h"

#include "base/file.h"
#include "base/memory.h"
#include "stage/store_spec.h"
#include "stage/sweep_identity.h"

/* A store may be made in order to compute the sweep's vectors from it. */
static bool vectors_are_there(const lp_job *job) {
    for (size_t i = 0; i < job->sweep.n_vectors; i++)
        if (lp_path_look(job->sweep.vectors[i]) == LP_PATH_MISSING) return false;
    return true;
}

static lp_status check_store(const lp_session *session, const lp_store_layout *layout, lp_standing *out,
                             lp_error *err) {
    lp_record_file *store = NULL;
    lp_provenance *expected = NULL;
    lp_store_tables tables = {0};
    lp_record_file_spec spec;
    lp_status status = LP_OK;
    if (lp_path_look(session->job.store.file) == LP_PATH_MISSING) return LP_OK;
    LP_TRY(lp_record_file_open_read(session->job.store.file, &store, err));
    LP_TRY(lp_mem_new(&expected, 1, sizeof *expected, "provenance", err));
    LP_TRY(lp_store_spec(session, layout, expected, &tables, &spec, err));
    LP_TRY(lp_record_file_compare(store, &spec, err));
    out->store_exists = true;
    out->n_done = lp_record_file_n_done_of(store, session->n_pairs);
out:
    lp_store_tables_release(&tables);
    lp_mem_free(expected);
    lp_record_file_close(store);
    return status;
}

static lp_status check_results(const lp_sweep_plan *plan, lp_standing *out, lp_error *err) {
    lp_sweep_identity *identity = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&identity, 1, sizeof *identity, "provenance", err));
    LP_TRY(lp_sweep_identity_init(plan->session, plan->set, identity, err));
    status = lp_sweep_look_at_results(plan->session, identity, &out->results_complete, err);
out:
    if (identity) lp_sweep_identity_release(identity);
    lp_mem_free(identity);
    return status;
}

static lp_status check_alone(lp_session *session, lp_check_for what, lp_sweep_plan *plan, lp_standing *out,
                             lp_error *err) {
    const lp_job *job = &session->job;
    bool results = what == LP_CHECK_RESULTS;
    if (results && !job->sweep.present)
        return lp_fail(err, LP_ERR_VALUE, "%s: $: the key \"sweep\" is missing", job->file);
    LP_CHECK(lp_sweep_plan_init(session, plan, err));
    if (results || vectors_are_there(job)) LP_CHECK(lp_sweep_plan_donors(plan, err));
    LP_CHECK(check_store(session, plan->layout, out, err));
    return results ? check_results(plan, out, err) : LP_OK;
}

lp_status lp_stage_check(lp_session *session, lp_check_for what, lp_sweep_plan *plan, lp_standing *out, lp_error *err) {
    *out = (lp_standing){0};
    return lp_parallel_agree(session->parallel, check_alone(session, what, plan, out, err), err);
}
