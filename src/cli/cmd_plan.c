#include "base/memory.h"
#include "cli/job_command.h"
#include "stage/estimate.h"

#include <time.h>

static const char help[] =
    "usage: latentpatch plan JOB.json [--set section.key=value]...\n\n"
    "A dry run: reads the job, its pairs and its model, and says what `cache` and `sweep` would do: conditions, dead and equal\n"
    "cells, forward passes with and without sharing, memory, bytes. Runs nothing and writes nothing.\n";

/* Rate of a matrix product on this core, for the estimate of time: a short loop of multiply-adds that the compiler
 * vectorises is no BLAS, so the figure is a floor. */
static double measured_flops(void) {
    enum { N = 192 };
    static float a[N * N], b[N * N], c[N * N];
    struct timespec t0, t1;
    for (int i = 0; i < N * N; i++) a[i] = b[i] = (float)(i % 7);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    int rounds = 0;
    double seconds = 0;
    while (seconds < 0.1) {
        for (int i = 0; i < N; i++)
            for (int k = 0; k < N; k++)
                for (int j = 0; j < N; j++) c[i * N + j] += a[i * N + k] * b[k * N + j];
        rounds++;
        clock_gettime(CLOCK_MONOTONIC, &t1);
        seconds = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    }
    volatile float keep = c[0];
    (void)keep;
    return 2.0 * N * N * N * rounds / seconds;
}

static void print_bytes(const char *label, int64_t bytes) {
    const char *unit = bytes < 10 << 20 ? "KiB" : bytes < INT64_C(10) << 30 ? "MiB" : "GiB";
    double scale = bytes < 10 << 20 ? 1024.0 : bytes < INT64_C(10) << 30 ? 1048576.0 : 1073741824.0;
    printf("  %-34s %12.1f %s\n", label, (double)bytes / scale, unit);
}

static lp_status body(lp_session *session, lp_error *err) {
    lp_sweep_plan plan = {0};
    lp_estimate e;
    enum { ASSUMED_ANSWER = 8 };
    if (lp_parallel_rank(session->parallel) != 0) return LP_OK;
    lp_status status = LP_OK;
    LP_TRY(lp_sweep_plan_init(session, &plan, err));
    LP_TRY(lp_estimate_sweep(&plan, ASSUMED_ANSWER, &e, err));
    printf("%s, protocol %s, %lld pairs, %zu conditions\n", session->job.model.name,
           lp_protocol_names()[session->job.protocol.kind], (long long)e.n_pairs, e.n_conditions);
    printf("  %-34s %12zu\n  %-34s %12zu\n  %-34s %12zu\n  %-34s %12d\n", "distinct runs of a pair", e.n_distinct,
           "dead cells (can change nothing)", e.n_dead, "cells equal to another", e.n_equal, "branches of a pair",
           e.branches);
    printf("row-layers (one position through one block), all pairs, answers of %d tokens that all differ:\n",
           e.answer_tokens);
    printf("  %-34s %12.3g\n  %-34s %12.3g\n  %-34s %12.3g  (%.1f times fewer than the scripts)\n",
           "as the published scripts", e.row_layers_scripts, "one run a condition", e.row_layers_unshared, "shared",
           e.row_layers_shared, e.row_layers_scripts / e.row_layers_shared);
    printf("  %-34s %12.3g GFLOP\n", "matrix products", e.gemm_flops * 1e-9);
    printf("  %-34s %12.3g s on one core at least at %.1f GFLOP/s (plain loop; BLAS is faster)\n", "expected",
           e.gemm_flops / measured_flops(), measured_flops() * 1e-9);
    print_bytes("KV slots of a pair in flight", e.kv_bytes);
    print_bytes("workspace of a batch of 1024 rows", e.workspace_bytes);
    print_bytes("weights in memory (arena)", (int64_t)session->model.arena_bytes);
    print_bytes("store", e.store_bytes);
    print_bytes("rows while the sweep runs", e.results_bytes);
    for (size_t i = 0; i < plan.set.n; i++)
        if (plan.dead[i]) printf("dead: %s\n", plan.set.conditions[i].name);
    for (size_t i = 0; i < plan.set.n; i++)
        if (!plan.dead[i] && plan.same_as[i] != (int32_t)i)
            printf("equal: %s = %s\n", plan.set.conditions[i].name, plan.set.conditions[plan.same_as[i]].name);
out:
    lp_sweep_plan_release(&plan);
    return status;
}

int lp_cmd_plan(int argc, char **argv) {
    return lp_job_command("plan", help, argc, argv, body);
}
