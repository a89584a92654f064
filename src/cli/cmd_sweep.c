#include "base/log.h"
#include "cli/job_command.h"
#include "cli/outputs.h"
#include "stage/check.h"

typedef struct {
    lp_job_options job;
    bool all;
} sweep_options;

static lp_status body(lp_session *session, const void *options, lp_error *err) {
    lp_sweep_report report;
    lp_standing standing;
    lp_status status = lp_stage_check(session, LP_CHECK_RESULTS, &standing, err);
    if (status == LP_OK) status = lp_stage_sweep(session, &report, err);
    if (status != LP_OK || lp_parallel_rank(session->parallel) != 0) return status;
    if (report.was_complete) lp_log(LP_LOG_INFO, "%s is complete already", session->job.results.file);
    return lp_print_results(session, ((const sweep_options *)options)->all, err);
}

static const lp_option table[] = {
    LP_JOB_OPTIONS(sweep_options),
    {.name = "--all",
     .kind = LP_OPTION_FLAG,
     .offset = offsetof(sweep_options, all),
     .help = "a line for every condition, with intervals, instead of the grid"},
};

static int run(const lp_command *command, int argc, char **argv) {
    sweep_options options = {0};
    return lp_job_command(command, argc, argv, &options.job, LP_JOB_WITH_MPI, body);
}

const lp_command lp_cmd_sweep = {
    .name = "sweep",
    .summary = "stage 2: all conditions, from the store into the results files",
    .usage = (const char *const[]){"JOB.json [options]", NULL},
    .description =
        "Stage 2. Reads the store of stage 1, runs every condition of the job's sweep on every pair that passes the filter, "
        "classifies the answers, and writes results (HDF5), a CSV in long format and a summary (JSON). Started "
        "again it does only what is missing. If the results are complete already, it says so.",
    .options = table,
    .n_options = sizeof table / sizeof table[0],
    .operands = "one job file",
    .min_operands = 1,
    .max_operands = 1,
    .run = run,
};
