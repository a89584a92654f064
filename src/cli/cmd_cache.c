#include "cli/job_command.h"
#include "cli/outputs.h"
#include "cli/print.h"
#include "stage/check.h"

static const char help[] =
    "usage: [mpirun -n R] latentpatch cache JOB.json [--set section.key=value]...\n\n"
    "Stage 1. Runs the clean and the corrupted question of every pair without patches and writes their activations, answers\n"
    "and outcomes into the job's store. Started again it does only what is missing.\n\n"
    "  --set section.key=value  change the job, e.g. --set pairs.limit=20 (the value is JSON, or plain text)\n"
    "  --verbose, --quiet       more or fewer messages on stderr\n";

static lp_status body(lp_session *session, lp_error *err) {
    lp_cache_report report;
    lp_standing standing;
    lp_status status = lp_stage_check(session, LP_CHECK_STORE, &standing, err);
    if (status == LP_OK) status = lp_stage_cache(session, &report, err);
    if (status != LP_OK || lp_parallel_rank(session->parallel) != 0) return status;
    status = lp_print_cache_report(session, &report, err);
    return status == LP_OK ? lp_print_path("store", session->job.store.file, err) : status;
}

int lp_cmd_cache(int argc, char **argv) {
    return lp_job_command("cache", help, argc, argv, body);
}
