#include "cli/outputs.h"

#include "stage/table.h"

void lp_print_cache_report(const lp_session *session, const lp_cache_report *report) {
    printf("%s, protocol %s: clean right %lld, corrupted right %lld, both right %lld of %lld pairs\n",
           session->job.model.name, lp_protocol_names()[session->job.protocol.kind], (long long)report->n_clean_right,
           (long long)report->n_corrupted_right, (long long)report->n_both_right, (long long)report->n_pairs);
}

lp_status lp_print_results(const lp_session *session, lp_error *err) {
    const lp_job *job = &session->job;
    lp_results *results = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_results_open(job->results.file, &results, err));
    LP_TRY(lp_class_table(results, &text, err));
    printf("%s\nstore: %s\nresults: %s\ncsv: %s\nsummary: %s\n", lp_text_get(&text), job->store.file, job->results.file,
           job->results.csv, job->results.summary);
out:
    lp_text_release(&text);
    lp_results_free(results);
    return status;
}
