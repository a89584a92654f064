/* Parts of a store as NumPy files (numpy.lib.format, version 1.0). */
#include "store/store_admin.h"

#include "base/memory.h"
#include "store/record_file_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

typedef struct {
    lp_record_file *file;
    const char *folder;
    int64_t *pairs; /* [n_pairs] */
    int64_t n_pairs;
    const lp_export_options *options;
} store_exporter;

static lp_status choose_pairs(store_exporter *exporter, lp_error *err) {
    const lp_export_options *options = exporter->options;
    size_t n = options->n_pairs ? options->n_pairs : (size_t)exporter->file->n_pairs;
    LP_CHECK(lp_mem_new(&exporter->pairs, n, sizeof *exporter->pairs, "pairs", err));
    for (size_t i = 0; i < n; i++) {
        int64_t pair = options->n_pairs ? options->pairs[i] : (int64_t)i;
        if (pair < 0 || pair >= exporter->file->n_pairs)
            return lp_fail(err, LP_ERR_VALUE, "%s: pair %lld: expected 0 to %lld", exporter->file->path,
                           (long long)pair, (long long)exporter->file->n_pairs - 1);
        if (exporter->file->state[pair])
            exporter->pairs[exporter->n_pairs++] = pair;
        else if (options->n_pairs)
            return lp_fail(err, LP_ERR_VALUE, "%s: pair %lld is not written yet", exporter->file->path,
                           (long long)pair);
    }
    if (exporter->n_pairs == 0) return lp_fail(err, LP_ERR_VALUE, "%s: no pair is written yet", exporter->file->path);
    return LP_OK;
}

static bool is_named(const char *path, const char *name) {
    size_t length = strlen(path);
    size_t end = strlen(name);
    if (strcmp(path, name) == 0) return true;
    return end < length && path[length - end - 1] == '/' && strcmp(path + length - end, name) == 0;
}

static lp_status check_names(const store_exporter *exporter, lp_error *err) {
    for (size_t k = 0; k < exporter->options->n_fields; k++) {
        bool found = false;
        for (size_t i = 0; !found && i < exporter->file->n_fields; i++)
            found = is_named(exporter->file->fields[i].field.path, exporter->options->fields[k]);
        if (!found)
            return lp_fail(err, LP_ERR_VALUE, "%s: has no dataset %s", exporter->file->path,
                           exporter->options->fields[k]);
    }
    return LP_OK;
}

static bool is_chosen(const store_exporter *exporter, const char *path) {
    for (size_t k = 0; k < exporter->options->n_fields; k++)
        if (is_named(path, exporter->options->fields[k])) return true;
    return exporter->options->n_fields == 0;
}

/* *index [n_layers] = where the wanted layers lie in the field; *n is 0 for a field that has no layers. */
static lp_status choose_layers(const store_exporter *exporter, const lp_field *field, int64_t **index, size_t *n,
                               lp_error *err) {
    lp_status status = LP_OK;
    int64_t *chosen = NULL;
    *n = 0;
    if (exporter->options->n_layers == 0 || field->n_dims != 3) return LP_OK;
    LP_TRY(lp_mem_new(&chosen, exporter->options->n_layers, sizeof *chosen, "layers", err));
    for (size_t k = 0; k < exporter->options->n_layers; k++) {
        int64_t at = -1;
        for (int64_t l = 0; l < field->dims[0]; l++) {
            int32_t layer = field->layers && (size_t)l < field->n_layers ? field->layers[l] : (int32_t)l;
            if (layer == exporter->options->layers[k]) at = l;
        }
        if (at < 0)
            LP_FAIL(LP_ERR_VALUE, "%s: /%s has no layer %d", exporter->file->path, field->path,
                    exporter->options->layers[k]);
        chosen[k] = at;
    }
    *n = exporter->options->n_layers;
    *index = chosen;
    chosen = NULL;
out:
    lp_mem_free(chosen);
    return status;
}

static lp_status npy_header(const lp_field *field, int64_t n_pairs, size_t n_layers, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_text text = {0};
    LP_TRY(lp_text_format(&text, err, "{'descr': '%s", lp_h5_npy_type(field->type)));
    if (field->type == LP_TEXT) LP_TRY(lp_text_format(&text, err, "%zu", field->text_bytes));
    LP_TRY(lp_text_format(&text, err, "', 'fortran_order': False, 'shape': (%lld,", (long long)n_pairs));
    for (int d = 0; d < field->n_dims; d++)
        LP_TRY(lp_text_format(&text, err, "%s%lld", d ? ", " : " ",
                              d == 0 && n_layers ? (long long)n_layers : (long long)field->dims[d]));
    LP_TRY(lp_text_format(&text, err, "), }"));
    /* Magic, version, length, dictionary, blanks, newline: a multiple of 64 bytes. */
    while ((10 + text.length + 1) % 64) LP_TRY(lp_text_add(&text, " ", 1, err));
    LP_TRY(lp_text_add(&text, "\n", 1, err));
    const unsigned char start[] = {
        0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)(text.length & 0xff), (unsigned char)(text.length >> 8)};
    LP_TRY(lp_text_add(out, (const char *)start, sizeof start, err));
    status = lp_text_add(out, text.data, text.length, err);
out:
    lp_text_release(&text);
    return status;
}

typedef struct {
    lp_text path;
    lp_output file;
    FILE *stream;
} npy_output;

static lp_status begin_output(npy_output *output, const char *folder, const char *name, const char *end,
                              lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_text_format(&output->path, err, "%s/", folder));
    size_t start = output->path.length;
    LP_TRY(lp_text_format(&output->path, err, "%s%s", name, end));
    for (char *c = output->path.data + start; *c; c++)
        if (*c == '/') *c = '.';
    LP_TRY(lp_path_make_folder_for(output->path.data, err));
    LP_TRY(lp_output_begin(output->path.data, &output->file, err));
    int fd = fcntl(output->file.fd, F_DUPFD_CLOEXEC, 0);
    output->stream = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (output->stream) goto out;
    status = lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", output->path.data, strerror(errno));
    if (fd >= 0) close(fd);
out:
    return status;
}

static lp_status put(npy_output *output, const void *data, size_t size, lp_error *err) {
    if (fwrite(data, 1, size, output->stream) == size) return LP_OK;
    return lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", output->path.data, strerror(errno));
}

static lp_status end_output(npy_output *output, lp_status status, lp_error *err) {
    if (output->stream && fclose(output->stream) != 0 && status == LP_OK)
        status = lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", output->path.data, strerror(errno));
    if (output->stream && status == LP_OK) status = lp_output_publish(&output->file, LP_OUTPUT_NEW, err);
    lp_output_discard(&output->file);
    lp_text_release(&output->path);
    return status;
}

static lp_status export_field(store_exporter *exporter, size_t index, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    npy_output output = {.file = {.fd = -1}};
    lp_text header = {0};
    int64_t *layers = NULL;
    size_t n_layers = 0;
    unsigned char *values = NULL;
    const lp_field *field = &exporter->file->fields[index].field;
    const size_t bytes = exporter->file->fields[index].bytes;
    LP_TRY(choose_layers(exporter, field, &layers, &n_layers, err));
    LP_TRY(lp_mem_new(&values, bytes, 1, "one pair", err));
    LP_TRY(begin_output(&output, exporter->folder, field->path, ".npy", err));
    LP_TRY(npy_header(field, exporter->n_pairs, n_layers, &header, err));
    LP_TRY(put(&output, header.data, header.length, err));
    for (int64_t i = 0; i < exporter->n_pairs; i++) {
        LP_TRY(lp_record_file_read(exporter->file, exporter->pairs[i], index, values, err));
        if (n_layers == 0) LP_TRY(put(&output, values, bytes, err));
        for (size_t k = 0; k < n_layers; k++) {
            size_t one = bytes / (size_t)field->dims[0];
            LP_TRY(put(&output, values + (size_t)layers[k] * one, one, err));
        }
    }
    LP_TRY(lp_text_format(out, err, "%s\n", output.path.data));
out:
    status = end_output(&output, status, err);
    lp_text_release(&header);
    lp_mem_free(values);
    lp_mem_free(layers);
    return status;
}

static lp_status export_ids(store_exporter *exporter, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    npy_output output = {.file = {.fd = -1}};
    lp_text line = {0};
    char *ids = NULL;
    int64_t n = 0;
    size_t width = 0;
    LP_TRY(lp_record_file_table(exporter->file, "pairs/id", LP_TEXT, (void **)&ids, &n, &width, err));
    if (n != exporter->file->n_pairs)
        LP_FAIL(LP_ERR_FORMAT, "%s: /pairs/id: expected one id a pair", exporter->file->path);
    LP_TRY(begin_output(&output, exporter->folder, "pairs", ".txt", err));
    for (int64_t i = 0; i < exporter->n_pairs; i++) {
        lp_text_clear(&line);
        LP_TRY(lp_text_format(&line, err, "%lld\t%.*s\n", (long long)exporter->pairs[i], (int)width,
                              ids + (size_t)exporter->pairs[i] * width));
        LP_TRY(put(&output, line.data, line.length, err));
    }
    LP_TRY(lp_text_format(out, err, "%s\n", output.path.data));
out:
    status = end_output(&output, status, err);
    lp_text_release(&line);
    lp_mem_free(ids);
    return status;
}

lp_status lp_store_export(const char *path, const char *folder, const lp_export_options *options, lp_text *out,
                          lp_error *err) {
    lp_status status = LP_OK;
    store_exporter exporter = {.folder = folder, .options = options};
    lp_pair_record record = {0};
    LP_TRY(lp_record_file_open_read(path, &exporter.file, err));
    LP_TRY(check_names(&exporter, err));
    LP_TRY(choose_pairs(&exporter, err));
    /* The whole pair is verified once, before any of its fields is taken out. */
    for (int64_t i = 0; i < exporter.n_pairs; i++)
        LP_TRY(lp_record_file_load(exporter.file, exporter.pairs[i], &record, err));
    for (size_t i = 0; i < exporter.file->n_fields; i++)
        if (is_chosen(&exporter, exporter.file->fields[i].field.path)) LP_TRY(export_field(&exporter, i, out, err));
    status = export_ids(&exporter, out, err);
out:
    lp_mem_free(exporter.pairs);
    lp_pair_record_release(&record);
    lp_record_file_close(exporter.file);
    return status;
}
