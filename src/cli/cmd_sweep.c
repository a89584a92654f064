#include "base/log.h"
#include "cli/job_command.h"
#include "cli/outputs.h"
#include "stage/check.h"

static lp_status body(lp_session *session, const lp_job_options *options, lp_error *err) {
    lp_sweep_report report;
    lp_standing standing;
    lp_sweep_plan plan = {0};
    lp_status status = lp_stage_check(session, LP_CHECK_RESULTS, &plan, &standing, err);
    if (status == LP_OK) status = lp_stage_sweep(session, &plan, &report, err);
    lp_sweep_plan_release(&plan);
    if (status != LP_OK || lp_parallel_rank(session->parallel) != 0) return status;
    if (report.was_complete) lp_log(LP_LOG_INFO, "%s is complete already", session->job.results.file);
    return lp_print_results(session, options->all, err);
}

const lp_command lp_cmd_sweep = {
    .name = "sweep",
    .summary = "stage 2: all conditions, from the store into the results files",
    .description =
        "Stage 2. Reads the store of stage 1, runs every condition of the job's sweep on every pair that passes the filter, "
        "classifies the answers, and writes results (HDF5), a CSV in long format and a summary (JSON). Started "
        "again it does only what is missing. If the results are complete already, it says so.",
    LP_JOB_COMMAND(body, LP_JOB_WITH_MPI, LP_N_JOB_OPTIONS),
};
