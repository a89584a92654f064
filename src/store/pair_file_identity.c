#include "store/pair_file_internal.h"

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

static lp_status same_identity(const lp_pair_file *file, const lp_pair_file_spec *spec, lp_error *err) {
    for (size_t i = 0; i < spec->n_provenance; i++) {
        const lp_provenance_item *item = &spec->provenance[i];
        const char *found = lp_pair_file_provenance(file, item->key);
        if (item->identity && (!found || strcmp(found, item->value) != 0))
            return lp_identity_fail(file->path, item, found, spec->advice, err);
    }
    return LP_OK;
}

static lp_status same_field(const lp_pair_file *file, const lp_field *want, const lp_field *have, lp_error *err) {
    if (strcmp(want->path, have->path) != 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected dataset /%s, found /%s", file->path, want->path, have->path);
    bool same = want->type == have->type && want->n_dims == have->n_dims &&
                (want->type != LP_FIELD_TEXT || want->text_bytes == have->text_bytes);
    int differs = -1;
    for (int d = 0; same && differs < 0 && d < want->n_dims; d++)
        if (want->dims[d] != have->dims[d]) differs = d;
    if (!same)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: /%s: expected %d dimensions of %s (%zu bytes), found %d of %s (%zu)",
                       file->path, want->path, want->n_dims + 1, lp_field_type_name(want->type),
                       lp_field_type_bytes(want->type, want->text_bytes), have->n_dims + 1,
                       lp_field_type_name(have->type), lp_field_type_bytes(have->type, have->text_bytes));
    if (differs >= 0)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: /%s: dimension %d: expected %lld, found %lld", file->path, want->path,
                       differs + 1, (long long)want->dims[differs], (long long)have->dims[differs]);
    return LP_OK;
}

lp_status lp_pair_file_compare(const lp_pair_file *file, const lp_pair_file_spec *spec, lp_error *err) {
    lp_status status = LP_OK;
    if (strcmp(file->format, spec->format) != 0)
        LP_FAIL(LP_ERR_MISMATCH, "%s: expected a file of format %s, found %s", file->path, spec->format, file->format);
    if (file->version != spec->version)
        LP_FAIL(LP_ERR_MISMATCH, "%s: expected version %d of its format, found %d", file->path, spec->version,
                file->version);
    LP_TRY(same_identity(file, spec, err));
    if (file->n_pairs < spec->n_pairs || (file->n_pairs > spec->n_pairs && !spec->first_of_more))
        LP_FAIL(LP_ERR_MISMATCH, "%s: holds %lld pairs, this job has %lld (pairs.limit): %s", file->path,
                (long long)file->n_pairs, (long long)spec->n_pairs, spec->advice ? spec->advice : default_advice);
    if (file->n_fields != spec->n_fields)
        LP_FAIL(LP_ERR_MISMATCH, "%s: expected %zu datasets, found %zu", file->path, spec->n_fields, file->n_fields);
    for (size_t i = 0; i < spec->n_fields; i++) LP_TRY(same_field(file, &spec->fields[i], &file->fields[i].field, err));
out:
    return status;
}
