#include "stage/check.h"

#include "base/file.h"
#include "base/memory.h"
#include "stage/donors.h"
#include "stage/store_spec.h"
#include "stage/sweep_identity.h"

/* The donors of every direction, as the sweep will list them. */
static lp_status check_donors(lp_sweep_plan *plan, lp_error *err) {
    const lp_session *session = plan->session;
    const bool used[2] = {[LP_DENOISE] = session->job.sweep.denoise, [LP_NOISE] = session->job.sweep.noise};
    lp_status status = LP_OK;
    for (int d = 0; status == LP_OK && d < 2; d++) {
        lp_donor_table donors = {0};
        if (!used[d]) continue;
        status = lp_donor_table_init(session, plan->layout, &plan->set, &plan->shapes, (lp_direction)d, &donors, err);
        lp_donor_table_release(&donors);
    }
    return status;
}

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
    LP_TRY(lp_sweep_identity_init(plan->session, &plan->set, identity, err));
    status = lp_sweep_look_at_results(plan->session, identity, &out->results_complete, err);
out:
    if (identity) lp_sweep_identity_release(identity);
    lp_mem_free(identity);
    return status;
}

static lp_status check_alone(const lp_session *session, lp_check_for what, lp_standing *out, lp_error *err) {
    lp_store_layout *layout = NULL;
    lp_sweep_plan plan = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&layout, 1, sizeof *layout, "store layout", err));
    LP_TRY(lp_store_layout_init(session, layout, err));
    if (session->job.sweep.present) {
        LP_TRY(lp_sweep_plan_init(session, &plan, err));
        if (what == LP_CHECK_RESULTS || vectors_are_there(&session->job)) LP_TRY(check_donors(&plan, err));
    }
    LP_TRY(check_store(session, layout, out, err));
    if (session->job.sweep.present && what == LP_CHECK_RESULTS) LP_TRY(check_results(&plan, out, err));
out:
    lp_sweep_plan_release(&plan);
    if (layout) lp_store_layout_release(layout);
    lp_mem_free(layout);
    return status;
}

lp_status lp_stage_check(lp_session *session, lp_check_for what, lp_standing *out, lp_error *err) {
    lp_standing standing = {0};
    LP_CHECK(lp_parallel_agree(session->parallel, check_alone(session, what, &standing, err), err));
    *out = standing;
    return LP_OK;
}
