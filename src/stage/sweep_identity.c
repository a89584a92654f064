#include "stage/sweep_identity.h"

#include "base/file.h"
#include "base/memory.h"
#include "store/results_text.h"

size_t lp_sweep_answer_metrics(const lp_job *job) {
    if (!job->metrics.logits && !job->metrics.answer_logprob) return 0;
    return job->metrics.answer_logprob ? LP_N_METRICS : LP_METRIC_ANSWER_CLEAN;
}

size_t lp_sweep_metrics(const lp_job *job, const char **out) {
    _Static_assert((int)LP_MAX_METRICS >= (int)LP_N_METRICS + (int)LP_MAX_STEPS * (int)LP_N_STEP_NUMBERS,
                   "all metrics");
    const char *const *names = lp_metric_names();
    size_t n = lp_sweep_answer_metrics(job);
    for (size_t i = 0; i < n; i++) out[i] = names[i];
    for (int32_t t = 0; job->metrics.steps && t < job->protocol.n_steps; t++)
        for (int32_t k = 0; k < LP_N_STEP_NUMBERS; k++) out[n++] = lp_step_number_name(t, k);
    return n;
}

static lp_status digest_conditions(const lp_condition_set *set, lp_sweep_identity *out, lp_error *err) {
    lp_text all = {0};
    unsigned char digest[LP_SHA256_BYTES];
    lp_status status = LP_OK;
    for (size_t i = 0; i < set->n; i++) LP_TRY(lp_text_format(&all, err, "%s\n", set->conditions[i].name));
    LP_TRY(lp_sha256_of(lp_text_get(&all), all.length, digest, err));
    lp_sha256_hex(digest, out->conditions);
out:
    lp_text_release(&all);
    return status;
}

static lp_status name_inputs(const lp_job *job, lp_sweep_identity *out, lp_error *err) {
    const char *names[LP_MAX_METRICS];
    size_t n = lp_sweep_metrics(job, names);
    for (size_t i = 0; i < n; i++) LP_CHECK(lp_text_format(&out->metrics, err, "%s%s", i ? ", " : "", names[i]));
    for (size_t i = 0; i < job->sweep.n_vectors; i++) {
        char hex[LP_SHA256_HEX];
        LP_CHECK(lp_sha256_of_file(job->sweep.vectors[i], hex, err));
        LP_CHECK(lp_text_format(&out->vectors, err, "%s%s", i ? "\n" : "", hex));
    }
    bool is_default = job->sweep.n_draws == 1 && job->sweep.shuffled_seeds[0] == job->sweep.seed;
    for (int32_t i = 0; !is_default && i < job->sweep.n_draws; i++)
        LP_CHECK(lp_text_format(&out->seeds, err, "%s%llu", i ? ", " : "",
                                (unsigned long long)job->sweep.shuffled_seeds[i]));
    return LP_OK;
}

lp_status lp_sweep_identity_init(const lp_session *session, const lp_condition_set *set, lp_sweep_identity *out,
                                 lp_error *err) {
    lp_provenance *provenance = &out->provenance;
    char text[32];
    lp_status status = LP_OK;
    out->metrics = out->vectors = out->seeds = (lp_text){0};
    LP_TRY(digest_conditions(set, out, err));
    LP_TRY(name_inputs(&session->job, out, err));
    lp_session_provenance(session, provenance);
    snprintf(text, sizeof text, "%lld", (long long)session->n_pairs);
    lp_provenance_add(provenance, "n_pairs", text, true);
    snprintf(text, sizeof text, "%llu", (unsigned long long)session->job.sweep.seed);
    lp_provenance_add(provenance, "seed", text, true);
    lp_provenance_add(provenance, "filter", lp_filter_names()[session->job.sweep.filter], true);
    lp_provenance_add(provenance, "conditions", out->conditions, true);
    lp_provenance_add(provenance, "classifier", lp_classifier_names[session->job.classifier], true);
    lp_provenance_add(provenance, "metrics", out->metrics.length ? lp_text_get(&out->metrics) : "none", true);
    lp_provenance_add(provenance, "vectors", out->vectors.length ? lp_text_get(&out->vectors) : "none", true);
    if (out->seeds.length) lp_provenance_add(provenance, "shuffled_seeds", lp_text_get(&out->seeds), true);
    if (session->job.lens_top > 0) {
        snprintf(text, sizeof text, "logit_lens top %d", session->job.lens_top);
        lp_provenance_add(provenance, "readout", text, true);
    }
    return LP_OK;
out:
    lp_sweep_identity_release(out);
    return status;
}

void lp_sweep_identity_release(lp_sweep_identity *identity) {
    lp_text_release(&identity->metrics);
    lp_text_release(&identity->vectors);
    lp_text_release(&identity->seeds);
}

static lp_status compare_results(const lp_session *session, const lp_sweep_identity *identity, lp_error *err) {
    static const char advice[] = "name another results.file, or remove it";
    const char *path = session->job.results.file;
    lp_results *results = NULL;
    lp_text found = {0}, filter = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_results_open(path, &results, err));
    for (size_t i = 0; i < identity->provenance.n; i++) {
        const lp_provenance_item *item = &identity->provenance.items[i];
        if (!item->identity) continue;
        lp_text_clear(&found);
        LP_TRY(lp_results_provenance(results, item->key, &found, err));
        if (strcmp(lp_text_get(&found), item->value) == 0) continue;
        if (strcmp(item->key, "conditions") == 0) {
            LP_TRY(lp_results_provenance(results, "filter", &filter, err));
            LP_FAIL(LP_ERR_MISMATCH, "%s: holds the results of other conditions (%d, filter %.40s): %s", path,
                    lp_results_n_conditions(results), lp_text_get(&filter), advice);
        }
        status = lp_identity_fail(path, item, found.length ? lp_text_get(&found) : NULL, advice, err);
        goto out;
    }
out:
    lp_results_free(results);
    lp_text_release(&found);
    lp_text_release(&filter);
    return status;
}

/* The rows that a stopped sweep left. */
static lp_status compare_rows(const char *path, const lp_sweep_identity *identity, lp_error *err) {
    lp_record_file *rows = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_record_file_open_read(path, &rows, err));
    for (size_t i = 0; i < identity->provenance.n; i++) {
        const lp_provenance_item *item = &identity->provenance.items[i];
        const char *found = lp_record_file_provenance(rows, item->key);
        if (!item->identity || (found && strcmp(found, item->value) == 0)) continue;
        status = lp_identity_fail(path, item, found, "name another results.file, or remove it to begin anew", err);
        goto out;
    }
out:
    lp_record_file_close(rows);
    return status;
}

/* The CSV and the summary are written with the results file. Where that is not there, what has their names must be of
 * the same results: left by a life that ended between the three, or the results file was removed to make it again. The
 * CSV does not say whose it is; it is compared byte by byte when the new one is whole. */
static lp_status check_texts(const lp_session *session, const lp_sweep_identity *identity, bool has_rows,
                             lp_error *err) {
    static const char advice[] = "is there already and is not of these results: name another, or remove it";
    const char *csv = session->job.results.csv, *summary = session->job.results.summary;
    bool has_summary = lp_path_look(summary) == LP_PATH_FILE;
    if (has_summary && !lp_summary_is_of(summary, identity->provenance.items, identity->provenance.n))
        return lp_fail(err, LP_ERR_MISMATCH, "%s: %s", summary, advice);
    if (lp_path_look(csv) == LP_PATH_FILE && !has_rows && !has_summary)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: %s", csv, advice);
    return LP_OK;
}

lp_status lp_sweep_look_at_results(const lp_session *session, const lp_sweep_identity *identity, bool *complete,
                                   lp_error *err) {
    lp_text partial = {0};
    lp_status status = LP_OK;
    *complete = false;
    if (lp_path_look(session->job.results.file) == LP_PATH_FILE) {
        status = compare_results(session, identity, err);
        *complete = status == LP_OK;
        return status;
    }
    LP_TRY(lp_results_partial_path(session->job.results.file, &partial, err));
    bool has_rows = lp_path_look(partial.data) == LP_PATH_FILE;
    if (has_rows) LP_TRY(compare_rows(partial.data, identity, err));
    status = check_texts(session, identity, has_rows, err);
out:
    lp_text_release(&partial);
    return status;
}
