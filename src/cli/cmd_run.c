#include "base/log.h"
#include "cli/job_command.h"
#include "cli/outputs.h"
#include "stage/check.h"

static const char help[] =
    "usage: [mpirun -n R] latentpatch run JOB.json [--set section.key=value]...\n\n"
    "Both stages and the class table: `cache` (only what the store does not hold yet), then `sweep`, then `summary`.\n\n"
    "  --set section.key=value  change the job\n"
    "  --verbose, --quiet       more or fewer messages on stderr\n";

static lp_status body(lp_session *session, lp_error *err) {
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

int lp_cmd_run(int argc, char **argv) {
    return lp_job_command("run", help, argc, argv, body);
}
