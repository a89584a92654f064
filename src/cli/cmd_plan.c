#include "backend/backend.h"
#include "cli/job_command.h"
#include "cli/print.h"
#include "stage/check.h"
#include "stage/device.h"
#include "stage/estimate.h"

static void print_bytes(const char *label, int64_t bytes) {
    const char *unit = bytes < 10 << 20 ? "KiB" : bytes < INT64_C(10) << 30 ? "MiB" : "GiB";
    double scale = bytes < 10 << 20 ? 1024.0 : bytes < INT64_C(10) << 30 ? 1048576.0 : 1073741824.0;
    printf("  %-34s %12.1f %s\n", label, (double)bytes / scale, unit);
}

/* Not of the reference executor, which is for comparisons on a few pairs. */
static lp_status print_time(const lp_session *session, const lp_standing *standing, const lp_estimate *estimate,
                            lp_error *err) {
    char threads[64] = "";
    int32_t n = lp_stage_threads(session);
    bool device = session->backend && session->backend->is_asynchronous;
    lp_speed speed;
    if (session->without_weights || session->job.engine.executor == LP_EXECUTOR_REFERENCE) return LP_OK;
    lp_error unmeasured = {0};
    lp_status status = lp_speed_measure(session, estimate->n_prompt, 0.1, &speed, &unmeasured);
    if (status == LP_ERR_MEMORY) {
        printf("  %-34s %12s: %s\n", "expected, about", "not known", unmeasured.text);
        return LP_OK;
    }
    if (status != LP_OK) return lp_fail(err, status, "%s", unmeasured.text);
    if (!device) snprintf(threads, sizeof threads, " of %d thread%s", n, n == 1 ? "" : "s");
    double to_cache = 1 - (double)standing->n_done / (double)session->n_pairs;
    printf("  %-34s %12.3g s on the %s, one rank%s: from the measured time of one block and of the output head\n",
           "expected, about", lp_estimate_seconds(estimate, to_cache, &speed, 1), device ? "GPU" : "cpu", threads);
    return LP_OK;
}

static lp_status print_standing(const lp_session *session, const lp_standing *standing, lp_error *err) {
    printf("store: ");
    LP_CHECK(lp_print(session->job.store.file, LP_PRINT_LINE, err));
    if (!standing->store_exists)
        printf(", not made yet\n");
    else if (standing->n_done == session->n_pairs)
        printf(", complete\n");
    else
        printf(", %lld of %lld pairs\n", (long long)standing->n_done, (long long)session->n_pairs);
    if (!standing->results_complete) return LP_OK;
    printf("results: ");
    LP_CHECK(lp_print(session->job.results.file, LP_PRINT_LINE, err));
    printf(", complete\n");
    return LP_OK;
}

/* What is known of conditions before they are made: by family, or each of them. */
static lp_status print_families(const lp_sweep_plan *plan, bool all, lp_error *err) {
    lp_text families = {0};
    bool any = false;
    lp_status status = LP_OK;
    for (size_t i = 0; i < plan->set->n; i++) any |= plan->family[i] != LP_FAMILY_NONE;
    if (!any) return LP_OK;
    printf("known beforehand%s:\n", all ? "" : " (--all lists each)");
    LP_TRY(lp_sweep_plan_families(plan, LP_FAMILIES_WITH_EXAMPLES, &families, err));
    LP_TRY(lp_print(lp_text_get(&families), LP_PRINT_BLOCK, err));
    for (size_t i = 0; i < plan->set->n && all; i++) {
        int32_t like = lp_sweep_plan_like(plan, i);
        if (plan->family[i] == LP_FAMILY_NONE) continue;
        const char *reason = lp_condition_family_reason(plan->family[i]);
        printf("%.*s: %s%s%s\n", (int)strcspn(reason, ":"), reason, plan->set->conditions[i].name,
               like < 0 ? "" : " = ", like < 0 ? "" : plan->set->conditions[like].name);
    }
out:
    lp_text_release(&families);
    return status;
}

static lp_status body(lp_session *session, const lp_job_options *options, lp_error *err) {
    lp_sweep_plan plan = {0};
    lp_standing standing;
    lp_estimate estimate;
    lp_text words = {0};
    char label[32];
    lp_status status = LP_OK;
    LP_TRY(lp_stage_check(session, LP_CHECK_RESULTS, &plan, &standing, err));
    if (lp_parallel_rank(session->parallel) != 0) goto out;
    LP_TRY(lp_estimate_sweep(&plan, LP_ASSUMED_ANSWER, &estimate, err));
    LP_TRY(lp_print(session->job.model.name, LP_PRINT_LINE, err));
    printf(", protocol %s, %lld pairs, %zu conditions\n", lp_protocol_label(&session->job.protocol, label),
           (long long)estimate.n_pairs, estimate.n_conditions);
    LP_TRY(lp_protocol_describe(&session->job.protocol, &session->vocabulary, &words, err));
    LP_TRY(lp_print(lp_text_get(&words), LP_PRINT_BLOCK, err));
    printf("  %-34s %12zu\n  %-34s %12zu\n  %-34s %12zu\n  %-34s %12d\n", "distinct runs of a pair",
           estimate.n_distinct, "dead cells (can change nothing)", estimate.n_dead, "cells equal to another",
           estimate.n_equal, "branches of a pair", estimate.branches);
    printf("row-layers (one position through one block), all pairs, answers of %d tokens that all differ:\n",
           estimate.answer_tokens);
    printf("  %-34s %12.3g\n  %-34s %12.3g\n  %-34s %12.3g  (%.1f times fewer than the scripts)\n",
           "as the published scripts", estimate.row_layers_scripts, "one run a condition", estimate.row_layers_unshared,
           "shared", estimate.row_layers_shared, estimate.row_layers_scripts / estimate.row_layers_shared);
    printf("  %-34s %12.3g GFLOP\n", "matrix products", estimate.gemm_flops * 1e-9);
    LP_TRY(print_time(session, &standing, &estimate, err));
    print_bytes("least memory limit of the engine", estimate.least_bytes);
    print_bytes("memory limit for full speed", estimate.useful_bytes);
    print_bytes("weights in memory (arena)", (int64_t)session->model.arena_bytes);
    if (session->backend && session->backend->counters.weight_bytes > 0)
        print_bytes("weights on the device", (int64_t)session->backend->counters.weight_bytes);
    print_bytes("store", estimate.store_bytes);
    print_bytes("rows while the sweep runs", estimate.results_bytes);
    LP_TRY(print_standing(session, &standing, err));
    LP_TRY(print_families(&plan, options->all, err));
out:
    lp_text_release(&words);
    lp_sweep_plan_release(&plan);
    return status;
}

const lp_command lp_cmd_plan = {
    .name = "plan",
    .summary = "what a job will do: conditions, dead cells, work; computes nothing",
    .description =
        "A dry run. Reads the job, its pairs and its model, and says what `cache` and `sweep` would do: conditions, dead and equal "
        "cells, forward passes with and without sharing, memory, bytes, and how the store stands. It runs no "
        "pair, writes nothing, and does not start MPI. What `run` would refuse before its first pair is an error here too.",
    LP_JOB_COMMAND(body, LP_JOB_WITHOUT_MPI, LP_N_JOB_OPTIONS),
};
