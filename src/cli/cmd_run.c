#include "base/log.h"
#include "cli/job_command.h"
#include "cli/outputs.h"
#include "stage/check.h"

static lp_status body(lp_session *session, const void *options, lp_error *err) {
    (void)options;
    lp_cache_report cached;
    lp_sweep_report swept;
    lp_standing standing;
    bool first = lp_parallel_rank(session->parallel) == 0;
    lp_status status = LP_OK;
    if (!session->job.sweep.present)
        LP_FAIL(LP_ERR_VALUE, "%s: $: the key \"sweep\" is missing (latentpatch cache runs stage 1 alone)",
                session->job.file);
    LP_TRY(lp_stage_check(session, LP_CHECK_RESULTS, &standing, err));
    LP_TRY(lp_stage_cache(session, &cached, err));
    if (first) LP_TRY(lp_print_cache_report(session, &cached, err));
    LP_TRY(lp_stage_sweep(session, &swept, err));
    if (first && swept.was_complete) lp_log(LP_LOG_INFO, "%s is complete already", session->job.results.file);
    if (first) LP_TRY(lp_print_results(session, err));
out:
    return status;
}

typedef struct {
    lp_job_options job;
} run_options;

static const lp_option table[] = {LP_JOB_OPTIONS(run_options)};

static int run(const lp_command *command, int argc, char **argv) {
    run_options options = {0};
    return lp_job_command(command, argc, argv, &options.job, LP_JOB_WITH_MPI, body);
}

const lp_command lp_cmd_run = {
    .name = "run",
    .summary = "cache (where the store does not fit already), sweep, and the table",
    .usage = (const char *const[]){"JOB.json [options]", NULL},
    .description =
        "Runs both stages and prints the table of classes: `cache` (only what the store does not hold yet), then `sweep`, then "
        "`summary`. Started again it does only what is missing.",
    .options = table,
    .n_options = sizeof table / sizeof table[0],
    .operands = "one job file",
    .min_operands = 1,
    .max_operands = 1,
    .run = run,
};
