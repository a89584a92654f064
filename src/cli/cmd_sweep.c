#include "base/log.h"
#include "cli/job_command.h"
#include "cli/outputs.h"
#include "stage/check.h"

static const char help[] =
    "usage: [mpirun -n R] latentpatch sweep JOB.json [--set section.key=value]...\n\n"
    "Stage 2. Reads the store of stage 1, runs every condition of the job's sweep on every pair that passes the filter,\n"
    "classifies the answers, and writes results (HDF5), a CSV in long format and a summary (JSON). Started again it does only\n"
    "what is missing; where the results are complete already it says so.\n\n"
    "  --set section.key=value  change the job, e.g. --set sweep.filter=all\n"
    "  --verbose, --quiet       more or fewer messages on stderr\n";

static lp_status body(lp_session *session, lp_error *err) {
    lp_sweep_report report;
    lp_standing standing;
    lp_status status = lp_stage_check(session, LP_CHECK_RESULTS, &standing, err);
    if (status == LP_OK) status = lp_stage_sweep(session, &report, err);
    if (status != LP_OK || lp_parallel_rank(session->parallel) != 0) return status;
    if (report.was_complete) lp_log(LP_LOG_INFO, "%s is complete already", session->job.results.file);
    return lp_print_results(session, err);
}

int lp_cmd_sweep(int argc, char **argv) {
    return lp_job_command("sweep", help, argc, argv, body);
}
