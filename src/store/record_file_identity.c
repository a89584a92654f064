#include "store/record_file_internal.h"

#include "base/memory.h"

static const char default_advice[] = "name another file, or remove it";

/* What a digest stands for; it is not shown. */
static const char *input_of(const char *key) {
    static const char *const inputs[][2] = {{"model_files", "other model files"},
                                            {"tokenizer", "another tokenizer"},
                                            {"pair_file", "another pair file"},
                                            {"vectors", "other vectors (sweep.vectors)"}};
    for (size_t i = 0; i < sizeof inputs / sizeof *inputs; i++)
        if (strcmp(inputs[i][0], key) == 0) return inputs[i][1];
    return NULL;
}

lp_status lp_identity_fail(const char *path, const lp_provenance_item *want, const char *have, const char *advice,
                           lp_error *err) {
    const char *input = input_of(want->key);
    if (!have) have = "none";
    if (!advice) advice = default_advice;
    if (strcmp(want->key, "conditions") == 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: made by a sweep of other conditions: %s", path, advice);
    if (strcmp(want->key, "sites") == 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: keeps other sites: expected %.300s, found %.300s (store.sites): %s",
                       path, want->value, have, advice);
    if (strcmp(want->key, "n_pairs") == 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: holds %.20s pairs, this job has %.20s (pairs.limit): %s", path, have,
                       want->value, advice);
    if (input) return lp_fail(err, LP_ERR_MISMATCH, "%s: made with %s than this job's: %s", path, input, advice);
    return lp_fail(err, LP_ERR_MISMATCH, "%s: made with %s %.300s, this job says %.300s: %s", path, want->key, have,
                   want->value, advice);
}

static lp_status same_identity(const lp_record_file *file, const lp_record_file_spec *spec, lp_error *err) {
    for (size_t i = 0; i < spec->n_provenance; i++) {
        const lp_provenance_item *item = &spec->provenance[i];
        const char *found = lp_record_file_provenance(file, item->key);
        if (item->identity && (!found || strcmp(found, item->value) != 0))
            return lp_identity_fail(file->path, item, found, spec->advice, err);
    }
    return LP_OK;
}

static lp_status same_field(const lp_record_file *file, const lp_field *want, const lp_field *have, lp_error *err) {
    if (strcmp(want->path, have->path) != 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected dataset /%s, found /%s", file->path, want->path, have->path);
    bool same = want->type == have->type && want->n_dims == have->n_dims &&
                (want->type != LP_TEXT || want->text_bytes == have->text_bytes);
    int differs = -1;
    for (int d = 0; same && differs < 0 && d < want->n_dims; d++)
        if (want->dims[d] != have->dims[d]) differs = d;
    if (!same)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: /%s: expected %d dimensions of %s (%zu bytes), found %d of %s (%zu)",
                       file->path, want->path, want->n_dims + 1, lp_h5_type_name(want->type),
                       lp_h5_item_bytes(want->type, want->text_bytes), have->n_dims + 1, lp_h5_type_name(have->type),
                       lp_h5_item_bytes(have->type, have->text_bytes));
    if (differs >= 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: /%s: dimension %d: expected %lld, found %lld", file->path, want->path,
                       differs + 1, (long long)want->dims[differs], (long long)have->dims[differs]);
    return LP_OK;
}

static lp_status fail_row(const lp_record_file *file, const lp_record_file_spec *spec, const lp_table *want,
                          int64_t row, const char *found, const char *expected, lp_error *err) {
    return lp_fail(err, LP_ERR_MISMATCH, "%s: /%s, row %lld: expected %.100s, found %.100s: %s", file->path, want->path,
                   (long long)row, expected, found, spec->advice ? spec->advice : default_advice);
}

/* A file whose pairs are others, or in another order, says so in its tables, whatever its provenance has. */
static lp_status same_table(lp_record_file *file, const lp_record_file_spec *spec, const lp_table *want,
                            lp_error *err) {
    char *block = NULL;
    int64_t n = 0;
    size_t bytes = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_record_file_table(file, want->path, want->type, (void **)&block, &n, &bytes, err));
    size_t row_bytes = lp_h5_item_bytes(want->type, bytes);
    for (int d = 1; d < want->n_dims; d++) row_bytes *= (size_t)want->dims[d];
    if (n < want->dims[0] || bytes != row_bytes)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected at least %lld rows of %zu bytes, found %lld of %zu", file->path,
                want->path, (long long)want->dims[0], row_bytes, (long long)n, bytes);
    for (int64_t i = 0; i < want->dims[0]; i++) {
        const char *at = block + (size_t)i * bytes;
        if (want->type == LP_TEXT) {
            const char *text = ((const char *const *)want->data)[i];
            if (strlen(text) == strnlen(at, bytes) && memcmp(text, at, strlen(text)) == 0) continue;
            char found[128];
            snprintf(found, sizeof found, "%.*s", bytes < 100 ? (int)bytes : 100, at);
            status = fail_row(file, spec, want, i, found, text, err);
            goto out;
        }
        if (memcmp((const char *)want->data + (size_t)i * bytes, at, bytes) == 0) continue;
        status = fail_row(file, spec, want, i, "another number", "this job's", err);
        goto out;
    }
out:
    lp_mem_free(block);
    return status;
}

lp_status lp_record_file_compare(lp_record_file *file, const lp_record_file_spec *spec, lp_error *err) {
    if (strcmp(file->format, spec->format) != 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected a file of format %s, found %s", file->path, spec->format,
                       file->format);
    if (file->version < spec->version && spec->convert)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected version %d of its format, found %d: convert it with `%s %s`",
                       file->path, spec->version, file->version, spec->convert, file->path);
    if (file->version != spec->version)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected version %d of its format, found %d: %s", file->path,
                       spec->version, file->version, spec->advice ? spec->advice : default_advice);
    if (file->journal_version != LP_JOURNAL_VERSION)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: /journal: expected version %d, found %d: %s", file->path,
                       LP_JOURNAL_VERSION, file->journal_version, spec->advice ? spec->advice : default_advice);
    LP_CHECK(same_identity(file, spec, err));
    if (file->n_pairs < spec->n_pairs && spec->first_of_more)
        return lp_fail(
            err, LP_ERR_MISMATCH,
            "%s: made for %lld pairs, this job has %lld (pairs.limit); such a file does not grow: %s (one of %lld pairs "
            "does for the first %lld as well)",
            file->path, (long long)file->n_pairs, (long long)spec->n_pairs,
            spec->advice ? spec->advice : default_advice, (long long)spec->n_pairs, (long long)file->n_pairs);
    if (file->n_pairs != spec->n_pairs && !spec->first_of_more)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: holds %lld pairs, this job has %lld (pairs.limit): %s", file->path,
                       (long long)file->n_pairs, (long long)spec->n_pairs,
                       spec->advice ? spec->advice : default_advice);
    if (file->n_fields != spec->n_fields)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected %zu datasets, found %zu", file->path, spec->n_fields,
                       file->n_fields);
    for (size_t i = 0; i < spec->n_fields; i++)
        LP_CHECK(same_field(file, &spec->fields[i], &file->fields[i].field, err));
    for (size_t i = 0; i < spec->n_tables; i++) LP_CHECK(same_table(file, spec, &spec->tables[i], err));
    return LP_OK;
}
