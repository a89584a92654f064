#include "cli/outputs.h"

#include "base/file.h"
#include "report/outcome_table.h"

void lp_print_cache_report(const lp_session *session, const lp_cache_report *report) {
    char label[32];
    printf("%s, protocol %s: clean right %lld, corrupted right %lld, both right %lld of %lld pairs\n",
           session->job.model.name, lp_protocol_label(&session->job.protocol, label), (long long)report->n_clean_right,
           (long long)report->n_corrupted_right, (long long)report->n_both_right, (long long)report->n_pairs);
}

void lp_print_path(const char *name, const char *path) {
    char *whole = realpath(path, NULL);
    printf("%s: %s\n", name, whole ? whole : path);
    free(whole); /* from realpath */
}

lp_status lp_print_results(const lp_session *session, lp_error *err) {
    const lp_job *job = &session->job;
    lp_results *results = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_results_open(job->results.file, &results, err));
    LP_TRY(lp_outcome_table(results, LP_TABLE_SHORT, &text, err));
    printf("%s\n", lp_text_get(&text));
    lp_print_path("store", job->store.file);
    lp_print_path("results", job->results.file);
    if (lp_path_look(job->results.csv) == LP_PATH_FILE) lp_print_path("csv", job->results.csv);
    if (lp_path_look(job->results.summary) == LP_PATH_FILE) lp_print_path("summary", job->results.summary);
out:
    lp_text_release(&text);
    lp_results_free(results);
    return status;
}
