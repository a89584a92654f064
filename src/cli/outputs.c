#include "cli/outputs.h"

#include "base/file.h"
#include "cli/print.h"
#include "report/outcome_table.h"

lp_status lp_print_cache_report(const lp_session *session, const lp_cache_report *report, lp_error *err) {
    char label[32];
    lp_status status = lp_print(session->job.model.name, LP_PRINT_LINE, err);
    printf(", protocol %s: clean right %lld, corrupted right %lld, both right %lld of %lld pairs\n",
           lp_protocol_label(&session->job.protocol, label), (long long)report->n_clean_right,
           (long long)report->n_corrupted_right, (long long)report->n_both_right, (long long)report->n_pairs);
    return status;
}

lp_status lp_print_outcomes(lp_results *results, bool all, lp_error *err) {
    lp_grid_options grid = {.width = lp_print_width(), .shade = lp_print_has_shades()};
    lp_text text = {0};
    lp_status status = all ? lp_outcome_table(results, &text, err) : lp_outcome_grid(results, &grid, &text, err);
    if (status == LP_OK && all) status = lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err);
    if (status == LP_OK && !all) lp_print_ours(lp_text_get(&text));
    lp_text_release(&text);
    return status;
}

lp_status lp_print_results(const lp_session *session, bool all, lp_error *err) {
    const lp_job *job = &session->job;
    lp_results *results = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_results_open(job->results.file, &results, err));
    LP_TRY(lp_print_outcomes(results, all, err));
    printf("\n");
    LP_TRY(lp_print_path("store", job->store.file, err));
    LP_TRY(lp_print_path("results", job->results.file, err));
    if (lp_path_look(job->results.csv) == LP_PATH_FILE) LP_TRY(lp_print_path("csv", job->results.csv, err));
    if (lp_path_look(job->results.summary) == LP_PATH_FILE) LP_TRY(lp_print_path("summary", job->results.summary, err));
out:
    lp_results_free(results);
    return status;
}
