#include "base/log.h"
#include "cli/job_command.h"
#include "cli/outputs.h"
#include "stage/check.h"
#include "stage/estimate.h"

/* "1 s", "42 s", "3 min", "2 h" */
static const char *time_words(double seconds, char out[32]) {
    if (seconds < 90)
        snprintf(out, 32, "%.0f s", seconds < 1 ? 1 : seconds);
    else if (seconds < 5400)
        snprintf(out, 32, "%.0f min", seconds / 60);
    else
        snprintf(out, 32, "%.0f h", seconds / 3600);
    return out;
}

/* Two lines before anything is computed: what, and how long. Rank 0. */
static lp_status say_what(lp_session *session, const lp_sweep_plan *plan, const lp_standing *standing, lp_error *err) {
    lp_estimate estimate;
    lp_speed speed;
    lp_error unmeasured = {0};
    char label[32], words[32];
    lp_status status = LP_OK;
    if (!lp_log_shows(LP_LOG_INFO) || standing->results_complete) goto out;
    LP_TRY(lp_estimate_sweep(plan, LP_ASSUMED_ANSWER, &estimate, err));
    session->row_layers_a_pair = estimate.row_layers_shared / (double)estimate.n_pairs;
    double to_cache = 1 - (double)standing->n_done / (double)session->n_pairs;
    int ranks = lp_parallel_size(session->parallel);
    lp_log(LP_LOG_INFO, "%.100s, protocol %s: %lld pairs, %zu conditions each, %zu of them distinct",
           session->job.model.name, lp_protocol_label(&session->job.protocol, label), (long long)estimate.n_pairs,
           estimate.n_conditions, estimate.n_distinct);
    /* The reference executor is for comparisons on a few pairs; nobody waits for it. */
    if (session->job.engine.executor == LP_EXECUTOR_REFERENCE) goto out;
    status = lp_speed_measure(session, estimate.n_prompt, 0.015, &speed, &unmeasured);
    if (status == LP_ERR_MEMORY) {
        lp_log(LP_LOG_DEBUG, "expected: not known: %s", unmeasured.text);
        status = LP_OK;
        goto out;
    }
    if (status != LP_OK) LP_FAIL(status, "%s", unmeasured.text);
    lp_log(LP_LOG_INFO, "expected: about %s on %d rank%s, if all pairs pass the filter and answers have %d tokens",
           time_words(lp_estimate_seconds(&estimate, to_cache, &speed, ranks), words), ranks, ranks == 1 ? "" : "s",
           estimate.answer_tokens);
out:
    return status;
}

/* Said at once: a model that answers nothing right leaves nothing to sweep. */
static void warn_of_accuracy(const lp_session *session, const lp_cache_report *report) {
    if (report->n_pairs == 0 || report->n_both_right > 0) return;
    lp_log(
        LP_LOG_WARN,
        "the model answers no pair of %lld right both ways (clean %lld, corrupted %lld). Check model.lora.alpha, the "
        "protocol and the checkpoint%s",
        (long long)report->n_pairs, (long long)report->n_clean_right, (long long)report->n_corrupted_right,
        session->job.sweep.filter == LP_FILTER_BOTH_CORRECT ? ": no pair passes the filter both-correct" : "");
}

static lp_status body(lp_session *session, const lp_job_options *options, lp_error *err) {
    lp_cache_report cached;
    lp_sweep_report swept;
    lp_standing standing;
    lp_sweep_plan plan = {0};
    bool first = lp_parallel_rank(session->parallel) == 0;
    lp_status status = LP_OK;
    if (!session->job.sweep.present)
        LP_FAIL(LP_ERR_VALUE, "%s: $: the key \"sweep\" is missing (latentpatch cache runs stage 1 alone)",
                session->job.file);
    LP_TRY(lp_stage_check(session, LP_CHECK_RESULTS, &plan, &standing, err));
    status = first ? say_what(session, &plan, &standing, err) : LP_OK;
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    LP_TRY(lp_stage_cache(session, plan.layout, &cached, err));
    if (first) {
        LP_TRY(lp_print_cache_report(session, &cached, err));
        warn_of_accuracy(session, &cached);
    }
    LP_TRY(lp_stage_sweep(session, &plan, &swept, err));
    if (first && swept.was_complete) lp_log(LP_LOG_INFO, "%s is complete already", session->job.results.file);
    if (first) LP_TRY(lp_print_results(session, options->all, err));
out:
    lp_sweep_plan_release(&plan);
    return status;
}

const lp_command lp_cmd_run = {
    .name = "run",
    .summary = "cache (where the store does not fit already), sweep, and the table",
    .description =
        "Runs both stages and prints the table of outcomes: `cache` (only what the store does not hold yet), then `sweep`, then "
        "`summary`. Started again it does only what is missing.",
    LP_JOB_COMMAND(body, LP_JOB_WITH_MPI, LP_N_JOB_OPTIONS),
};
