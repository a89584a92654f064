#include "store/store_admin.h"

#include "base/digest.h"
#include "base/memory.h"
#include "base/printable.h"
#include "store/record_file_internal.h"

#include <cjson/cJSON.h>
#include <sys/stat.h>

static lp_status add_shape(const lp_record_file *file, size_t index, lp_text *out, lp_error *err) {
    const lp_field *field = lp_record_file_describe(file, index);
    lp_status status = lp_text_format(out, err, "[%lld", (long long)lp_record_file_n_pairs(file));
    for (int d = 0; status == LP_OK && d < field->n_dims; d++)
        status = lp_text_format(out, err, ", %lld", (long long)field->dims[d]);
    return status == LP_OK ? lp_text_add(out, "]", 1, err) : status;
}

static int64_t size_of(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (int64_t)info.st_size : -1;
}

static lp_status info_text(const lp_record_file *file, lp_text *out, lp_error *err) {
    lp_text words = {0};
    lp_status status = LP_OK;
    int64_t n_pairs = lp_record_file_n_pairs(file);
    int64_t n_done = lp_record_file_n_done(file);
    LP_TRY(lp_text_add(out, "file:     ", 10, err));
    LP_TRY(lp_text_add_printable(out, file->path, LP_PRINT_LINE, err));
    LP_TRY(lp_text_format(out, err, " (%.1f MB%s)\n", (double)size_of(file->path) / 1e6,
                          file->compressed ? ", archive" : ""));
    LP_TRY(lp_text_format(out, err, "format:   %s, version %d\n", file->format, file->version));
    LP_TRY(lp_text_format(out, err, "pairs:    %lld of %lld written\n", (long long)n_done, (long long)n_pairs));
    LP_TRY(lp_text_format(out, err, "datasets:\n"));
    for (size_t i = 0; i < file->n_fields; i++) {
        const lp_field *field = &file->fields[i].field;
        LP_TRY(lp_text_format(out, err, "  %-32s %-8s ", field->path, lp_h5_type_name(field->type)));
        LP_TRY(add_shape(file, i, out, err));
        LP_TRY(lp_text_format(out, err, ", %.1f MB\n", (double)file->fields[i].bytes * (double)n_pairs / 1e6));
    }
    LP_TRY(lp_text_format(out, err, "provenance (* must agree when the file is used again):\n"));
    for (size_t i = 0; i < file->n_provenance; i++) {
        const lp_provenance_item *item = &file->provenance[i];
        size_t line = strcspn(item->value, "\n");
        lp_text_clear(&words);
        LP_TRY(lp_text_format(&words, err, "  %c %-18s %.*s%s", item->identity ? '*' : ' ', item->key,
                              line > 100 ? 100 : (int)line, item->value, item->value[line] || line > 100 ? "..." : ""));
        LP_TRY(lp_text_add_printable(out, lp_text_get(&words), LP_PRINT_LINE, err));
        LP_TRY(lp_text_add(out, "\n", 1, err));
    }
out:
    lp_text_release(&words);
    return status;
}

static bool add_fields(const lp_record_file *file, cJSON *root) {
    cJSON *list = cJSON_AddArrayToObject(root, "datasets");
    for (size_t i = 0; list && i < file->n_fields; i++) {
        const lp_field *field = &file->fields[i].field;
        cJSON *object = cJSON_CreateObject();
        if (!cJSON_AddItemToArray(list, object)) return false;
        cJSON *shape = cJSON_AddArrayToObject(object, "shape");
        bool good = cJSON_AddStringToObject(object, "path", field->path) != NULL &&
                    cJSON_AddStringToObject(object, "type", lp_h5_type_name(field->type)) != NULL &&
                    cJSON_AddNumberToObject(object, "bytes_per_pair", (double)file->fields[i].bytes) != NULL &&
                    cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)file->n_pairs));
        for (int d = 0; good && d < field->n_dims; d++)
            good = cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)field->dims[d])) != 0;
        if (!good) return false;
    }
    return list != NULL;
}

static bool add_provenance(const lp_record_file *file, cJSON *root) {
    cJSON *all = cJSON_AddObjectToObject(root, "provenance");
    cJSON *identity = cJSON_AddArrayToObject(root, "identity");
    for (size_t i = 0; all && identity && i < file->n_provenance; i++) {
        const lp_provenance_item *item = &file->provenance[i];
        if (!cJSON_AddStringToObject(all, item->key, item->value)) return false;
        if (item->identity && !cJSON_AddItemToArray(identity, cJSON_CreateString(item->key))) return false;
    }
    return all && identity;
}

static lp_status info_json(const lp_record_file *file, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    char *text = NULL;
    cJSON *root = cJSON_CreateObject();
    bool good = root && cJSON_AddStringToObject(root, "file", file->path) &&
                cJSON_AddNumberToObject(root, "bytes", (double)size_of(file->path)) &&
                cJSON_AddStringToObject(root, "format", file->format) &&
                cJSON_AddNumberToObject(root, "version", file->version) &&
                cJSON_AddBoolToObject(root, "archive", file->compressed) &&
                cJSON_AddNumberToObject(root, "n_pairs", (double)file->n_pairs) &&
                cJSON_AddNumberToObject(root, "n_done", (double)lp_record_file_n_done(file)) &&
                add_fields(file, root) && add_provenance(file, root) && (text = cJSON_Print(root)) != NULL;
    if (!good) LP_FAIL(LP_ERR_MEMORY, "%s: out of memory", file->path);
    status = lp_text_format(out, err, "%s\n", text);
out:
    cJSON_free(text);
    cJSON_Delete(root);
    return status;
}

lp_status lp_store_info(const char *path, lp_report_form form, lp_text *out, lp_error *err) {
    lp_record_file *file = NULL;
    lp_status status = lp_record_file_open_read(path, &file, err);
    if (status != LP_OK) return status;
    status = form == LP_REPORT_JSON ? info_json(file, out, err) : info_text(file, out, err);
    lp_record_file_close(file);
    return status;
}

static lp_status check_journal(const lp_record_file *file, lp_error *err) {
    uint64_t bytes = 0;
    for (int64_t i = 0; i < file->n_pairs; i++)
        if (file->state[i] > 1)
            return lp_fail(err, LP_ERR_FORMAT, "%s: /journal/state: pair %lld: expected 0 or 1, found %d", file->path,
                           (long long)i, file->state[i]);
    if (file->n_fields == 0) return lp_fail(err, LP_ERR_FORMAT, "%s: no datasets", file->path);
    if (file->n_provenance == 0) return lp_fail(err, LP_ERR_FORMAT, "%s: no provenance", file->path);
    for (size_t i = 0; i < file->n_fields; i++) bytes += file->fields[i].bytes;
    bytes *= (uint64_t)file->n_pairs;
    if (!file->compressed && size_of(file->path) >= 0 && (uint64_t)size_of(file->path) < bytes)
        return lp_fail(err, LP_ERR_FORMAT, "%s: expected at least %llu bytes, found %lld", file->path,
                       (unsigned long long)bytes, (long long)size_of(file->path));
    return LP_OK;
}

/* "3 (id p3)", or the bare number where the file names no pairs. */
static lp_status add_pair_name(lp_record_file *file, int64_t pair, lp_text *out, lp_error *err) {
    char *ids = NULL;
    int64_t n = 0;
    size_t width = 0;
    lp_status status = lp_text_format(out, err, "%lld", (long long)pair);
    if (status == LP_OK && lp_record_file_table(file, "pairs/id", LP_TEXT, (void **)&ids, &n, &width, NULL) == LP_OK &&
        pair < n)
        status = lp_text_format(out, err, " (id %.*s)", (int)width, ids + (size_t)pair * width);
    lp_mem_free(ids);
    return status;
}

static lp_status check_tables(lp_record_file *file, lp_error *err) {
    lp_status status = LP_OK;
    lp_open_tables tables = {0};
    lp_text expected = {0};
    hid_t dataset = H5I_INVALID_HID;
    LP_TRY(lp_record_file_read_tables(file, &tables, err));
    for (size_t i = 0; i < tables.n; i++) {
        const lp_open_table *table = &tables.table[i];
        unsigned char digest[LP_SHA256_BYTES];
        char found[LP_SHA256_HEX];
        lp_text_release(&expected);
        dataset = H5Dopen2(file->file, table->path, H5P_DEFAULT);
        LP_TRY(lp_h5_get_text(dataset, LP_TABLE_DIGEST, &expected, file->path, err));
        LP_TRY(lp_sha256_of(table->block, (size_t)table->n * table->item_bytes, digest, err));
        lp_sha256_hex(digest, found);
        if (strcmp(lp_text_get(&expected), found) != 0)
            LP_FAIL(LP_ERR_FORMAT, "%s: /%s is altered: expected SHA-256 %s, found %s", file->path, table->path,
                    lp_text_get(&expected), found);
        lp_h5_close(dataset);
        dataset = H5I_INVALID_HID;
    }
out:
    lp_h5_close(dataset);
    lp_text_release(&expected);
    lp_open_tables_release(&tables);
    return status;
}

lp_status lp_store_verify(const char *path, lp_verify_depth depth, lp_verify_counts *counts, lp_text *out,
                          lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    lp_error trouble = {0};
    *counts = (lp_verify_counts){0};
    LP_TRY(lp_record_file_open_read(path, &file, err));
    LP_TRY(check_journal(file, err));
    if (depth == LP_VERIFY_FULL) LP_TRY(check_tables(file, err));
    counts->n_pairs = file->n_pairs;
    counts->n_done = lp_record_file_n_done(file);
    for (int64_t i = 0; depth == LP_VERIFY_FULL && i < file->n_pairs; i++) {
        bool good = true;
        /* A chunk that cannot be read (an archive has a checksum of each) is a bad pair, too. */
        if (!file->state[i] || (lp_record_file_verify(file, i, &good, &trouble) == LP_OK && good)) continue;
        counts->n_bad++;
        LP_TRY(lp_text_format(out, err, "bad: pair "));
        LP_TRY(add_pair_name(file, i, out, err));
        LP_TRY(lp_text_format(out, err, " does not fit its checksum\n"));
    }
    LP_TRY(lp_text_format(out, err, "%s: %lld of %lld pairs written, ", path, (long long)counts->n_done,
                          (long long)counts->n_pairs));
    if (depth == LP_VERIFY_QUICK)
        LP_TRY(lp_text_format(out, err, "checksums not looked at\n"));
    else
        LP_TRY(lp_text_format(out, err, "%lld bad\n", (long long)counts->n_bad));
    if (counts->n_bad)
        LP_FAIL(LP_ERR_FORMAT, "%s: %lld of %lld pairs are torn or altered; `cache` computes them again", path,
                (long long)counts->n_bad, (long long)counts->n_done);
out:
    lp_record_file_close(file);
    return status;
}
