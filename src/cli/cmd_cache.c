#include "cli/job_command.h"
#include "cli/outputs.h"
#include "cli/print.h"
#include "stage/check.h"

static lp_status body(lp_session *session, const lp_job_options *options, lp_error *err) {
    (void)options;
    lp_cache_report report;
    lp_standing standing;
    lp_sweep_plan plan = {0};
    lp_status status = lp_stage_check(session, LP_CHECK_STORE, &plan, &standing, err);
    if (status == LP_OK) status = lp_stage_cache(session, plan.layout, &report, err);
    lp_sweep_plan_release(&plan);
    if (status != LP_OK || lp_parallel_rank(session->parallel) != 0) return status;
    status = lp_print_cache_report(session, &report, err);
    return status == LP_OK ? lp_print_path("store", session->job.store.file, err) : status;
}

const lp_command lp_cmd_cache = {
    .name = "cache",
    .summary = "stage 1: the unpatched runs of every pair, into the activation store",
    .description =
        "Stage 1. Runs the clean and the corrupted question of every pair without patches and writes their activations, "
        "answers and outcomes into the job's store. Started again it does only what is missing.",
    LP_JOB_COMMAND(body, LP_JOB_WITH_MPI, LP_N_JOB_OPTIONS - 1),
};
