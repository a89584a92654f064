/* Stores made out of stores: the compressed copy, and several merged into one. */
#include "store/store_admin.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/output.h"
#include "store/lock.h"
#include "store/record_file_internal.h"

#include <cjson/cJSON.h>
#include <sys/stat.h>

/* A spec with what it borrows. */
typedef struct {
    lp_record_file_spec spec;
    lp_field *fields;
    lp_table *tables;
    lp_provenance_item *provenance;
    const char ***columns; /* [n_tables] of texts; NULL for numbers */
    char **blocks;         /* [n_tables] the texts with their NULs */
} borrowed_spec;

static void release_spec(borrowed_spec *spec) {
    for (size_t i = 0; i < spec->spec.n_tables; i++) {
        lp_mem_free(spec->columns ? spec->columns[i] : NULL);
        lp_mem_free(spec->blocks ? spec->blocks[i] : NULL);
    }
    lp_mem_free(spec->columns);
    lp_mem_free(spec->blocks);
    lp_mem_free(spec->fields);
    lp_mem_free(spec->tables);
    lp_mem_free(spec->provenance);
    *spec = (borrowed_spec){0};
}

static lp_status spec_texts(borrowed_spec *spec, size_t index, const lp_open_table *table, lp_error *err) {
    size_t width = table->item_bytes;
    LP_CHECK(lp_mem_new(&spec->blocks[index], (size_t)table->n, width + 1, "texts", err));
    LP_CHECK(lp_mem_new(&spec->columns[index], (size_t)table->n, sizeof(char *), "texts", err));
    for (int64_t i = 0; i < table->n; i++) {
        char *at = spec->blocks[index] + (size_t)i * (width + 1);
        memcpy(at, (const char *)table->block + (size_t)i * width, width);
        spec->columns[index][i] = at;
    }
    spec->tables[index].data = spec->columns[index];
    return LP_OK;
}

/* The spec of a file like `file`, of n_pairs pairs with these tables. */
static lp_status make_spec(const lp_record_file *file, int64_t n_pairs, const lp_open_tables *tables,
                           borrowed_spec *spec, lp_error *err) {
    lp_status status = LP_OK;
    *spec = (borrowed_spec){0};
    LP_TRY(lp_mem_new(&spec->fields, file->n_fields, sizeof *spec->fields, "spec", err));
    LP_TRY(lp_mem_new(&spec->tables, tables->n, sizeof *spec->tables, "spec", err));
    LP_TRY(lp_mem_new(&spec->provenance, file->n_provenance, sizeof *spec->provenance, "spec", err));
    LP_TRY(lp_mem_new(&spec->columns, tables->n, sizeof *spec->columns, "spec", err));
    LP_TRY(lp_mem_new(&spec->blocks, tables->n, sizeof *spec->blocks, "spec", err));
    for (size_t i = 0; i < file->n_fields; i++) spec->fields[i] = file->fields[i].field;
    for (size_t i = 0; i < file->n_provenance; i++) spec->provenance[i] = file->provenance[i];
    spec->spec =
        (lp_record_file_spec){.format = file->format,
                              .version = strcmp(file->format, LP_STORE_FORMAT) == 0 ? LP_STORE_VERSION : file->version,
                              .n_pairs = n_pairs,
                              .fields = spec->fields,
                              .n_fields = file->n_fields,
                              .tables = spec->tables,
                              .n_tables = tables->n,
                              .provenance = spec->provenance,
                              .n_provenance = file->n_provenance};
    for (size_t i = 0; i < tables->n; i++) {
        const lp_open_table *table = &tables->table[i];
        size_t number = lp_h5_item_bytes(table->type, table->item_bytes);
        spec->tables[i] =
            (lp_table){.path = table->path, .type = table->type, .n_dims = 1, .dims = {table->n}, .data = table->block};
        if (table->type == LP_TEXT) {
            LP_TRY(spec_texts(spec, i, table, err));
        } else if (table->item_bytes != number) {
            spec->tables[i].n_dims = 2;
            spec->tables[i].dims[1] = (int64_t)(table->item_bytes / number);
        }
    }
out:
    if (status != LP_OK) release_spec(spec);
    return status;
}

/* record: of `from`; data [n_fields] is room for what is written. */
static lp_status copy_pair(lp_record_file *from, int64_t pair, lp_pair_record *record, lp_record_file *to, int64_t at,
                           const void **data, lp_error *err) {
    LP_CHECK(lp_record_file_load(from, pair, record, err));
    for (size_t i = 0; i < from->n_fields; i++) data[i] = lp_pair_record_field(record, i);
    return lp_record_file_write(to, at, data, err);
}

/* The first field in which two pairs of the same fields differ; n_fields: none. */
static size_t first_difference(const lp_pair_record *a, const lp_pair_record *b) {
    size_t i = 0, n = a->file->n_fields;
    while (i < n && memcmp(lp_pair_record_field(a, i), lp_pair_record_field(b, i), a->file->fields[i].bytes) == 0) i++;
    return i;
}

static lp_status compare_tables(lp_record_file *copy, const lp_open_tables *expected, const char *name, lp_error *err) {
    lp_open_tables found = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_record_file_read_tables(copy, &found, err));
    bool same = found.n == expected->n;
    for (size_t i = 0; same && i < found.n; i++) {
        const lp_open_table *a = &expected->table[i];
        const lp_open_table *b = &found.table[i];
        same = strcmp(a->path, b->path) == 0 && a->type == b->type && a->n == b->n && a->item_bytes == b->item_bytes &&
               memcmp(a->block, b->block, (size_t)a->n * a->item_bytes) == 0;
    }
    if (!same) status = lp_fail(err, LP_ERR_IO, "%s: reads back with other tables", name);
out:
    lp_open_tables_release(&found);
    return status;
}

/* Fails now when the disk has no room for n pairs like those of `file`. */
static lp_status check_room(const lp_record_file *file, const lp_output *out, int64_t n, lp_error *err) {
    uint64_t bytes = 1 << 20;
    for (size_t i = 0; i < file->n_fields; i++) bytes += (uint64_t)file->fields[i].bytes * (uint64_t)n;
    return lp_h5_rehearse(out->target, out->fd, bytes, 0, err);
}

/* Every pair of `from` against pair at[i] of `copy` (NULL: the same index). */
static lp_status compare_pairs(lp_record_file *from, lp_record_file *copy, const int64_t *at, lp_error *err) {
    lp_status status = LP_OK;
    lp_pair_record expected = {0}, found = {0};
    for (int64_t i = 0; i < from->n_pairs; i++) {
        int64_t j = at ? at[i] : i;
        if (!from->state[i]) {
            if (!at && copy->state[j]) LP_FAIL(LP_ERR_IO, "%s: reads back with a pair %lld", copy->path, (long long)j);
            continue;
        }
        LP_TRY(lp_record_file_load(from, i, &expected, err));
        LP_TRY(lp_record_file_load(copy, j, &found, err));
        size_t f = first_difference(&expected, &found);
        if (f < from->n_fields)
            LP_FAIL(LP_ERR_IO, "%s: pair %lld reads back with other values of /%s", copy->path, (long long)j,
                    from->fields[f].field.path);
    }
out:
    lp_pair_record_release(&expected);
    lp_pair_record_release(&found);
    return status;
}

static int64_t size_of(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 ? (int64_t)info.st_size : 0;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

enum { MANIFEST_BYTES = 16 << 20 };

/* A manifest that a killed process left beside an archive that never got its name: it is the archive's. */
static bool is_manifest_of(const char *path, const char *archive) {
    lp_text text = {0};
    cJSON *document = NULL;
    lp_json root, value;
    const char *word = NULL;
    bool own = lp_file_read(path, MANIFEST_BYTES, &text, NULL) == LP_OK &&
               lp_json_parse(lp_text_get(&text), text.length, path, &document, &root, NULL) == LP_OK;
    own = own && lp_json_get(&root, "format", &value, NULL) == LP_OK && lp_json_string(&value, &word, NULL) == LP_OK &&
          strcmp(word, "latentpatch-manifest") == 0;
    own = own && lp_json_get(&root, "file", &value, NULL) == LP_OK && lp_json_string(&value, &word, NULL) == LP_OK &&
          strcmp(word, base_name(archive)) == 0;
    cJSON_Delete(document);
    lp_text_release(&text);
    return own;
}

static lp_status write_manifest(const lp_record_file *file, const lp_output *made, lp_error *err) {
    lp_status status = LP_OK;
    lp_text path = {0};
    char *text = NULL;
    char digest[LP_SHA256_HEX];
    cJSON *root = cJSON_CreateObject();
    LP_TRY(lp_sha256_of_file(made->temporary, digest, err));
    LP_TRY(lp_text_format(&path, err, "%s.manifest.json", made->target));
    cJSON *identity = NULL;
    bool good = root && cJSON_AddStringToObject(root, "format", "latentpatch-manifest") &&
                cJSON_AddNumberToObject(root, "version", 1) &&
                cJSON_AddStringToObject(root, "file", base_name(made->target)) &&
                cJSON_AddNumberToObject(root, "bytes", (double)size_of(made->temporary)) &&
                cJSON_AddStringToObject(root, "sha256", digest) &&
                cJSON_AddStringToObject(root, "source", base_name(file->path)) &&
                cJSON_AddNumberToObject(root, "source_bytes", (double)size_of(file->path)) &&
                cJSON_AddNumberToObject(root, "n_pairs", (double)file->n_pairs) &&
                cJSON_AddNumberToObject(root, "n_done", (double)lp_record_file_n_done(file)) &&
                (identity = cJSON_AddObjectToObject(root, "identity")) != NULL;
    for (size_t i = 0; good && i < file->n_provenance; i++)
        if (file->provenance[i].identity)
            good = cJSON_AddStringToObject(identity, file->provenance[i].key, file->provenance[i].value) != NULL;
    if (good) text = cJSON_Print(root);
    if (!text) LP_FAIL(LP_ERR_MEMORY, "%s: out of memory", path.data);
    lp_output_mode mode = is_manifest_of(path.data, made->target) ? LP_OUTPUT_OWN : LP_OUTPUT_NEW;
    status = lp_output_write(path.data, text, strlen(text), mode, err);
out:
    cJSON_free(text);
    cJSON_Delete(root);
    lp_text_release(&path);
    return status;
}

/* A copy with the names that belong to it is not an input, and does not exist yet; its lock is held until it is. */
static lp_status begin_copy(const char *path, const char *word, const lp_derived_name *derived,
                            const char *const *inputs, size_t n_inputs, lp_lock **lock, lp_output *out, lp_error *err) {
    lp_outputs outputs = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_outputs_add(&outputs, path, word, path, derived, err));
    for (size_t i = 0; i < n_inputs; i++)
        LP_TRY(lp_outputs_check_input(&outputs, "a store to be read", inputs[i], err));
    LP_TRY(lp_lock_take(path, lock, err));
    if (lp_path_look(path) != LP_PATH_MISSING) LP_FAIL(LP_ERR_VALUE, "%s: exists already", path);
    status = lp_output_begin(path, out, err);
out:
    lp_outputs_release(&outputs);
    return status;
}

static lp_status archive_to(lp_record_file *file, const lp_output *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_open_tables tables = {0};
    borrowed_spec spec = {0};
    lp_record_file *copy = NULL;
    lp_pair_record record = {0};
    const void **data = NULL;
    LP_TRY(lp_record_file_read_tables(file, &tables, err));
    LP_TRY(make_spec(file, file->n_pairs, &tables, &spec, err));
    LP_TRY(lp_mem_new(&data, file->n_fields, sizeof *data, "fields", err));
    LP_TRY(check_room(file, out, lp_record_file_n_done(file), err));
    LP_TRY(lp_record_file_fill(out->target, out, &spec.spec, LP_COMPRESSED, err));
    LP_TRY(lp_record_file_open_alone(out->temporary, &copy, err));
    for (int64_t i = 0; i < file->n_pairs; i++)
        if (file->state[i]) LP_TRY(copy_pair(file, i, &record, copy, i, data, err));
    status = lp_record_file_finish_alone(copy, err);
    copy = NULL;
    if (status != LP_OK) goto out;
    LP_TRY(lp_record_file_open_read(out->temporary, &copy, err));
    LP_TRY(compare_tables(copy, &tables, out->target, err));
    status = compare_pairs(file, copy, NULL, err);
out:
    lp_record_file_close(copy);
    lp_pair_record_release(&record);
    lp_mem_free(data);
    release_spec(&spec);
    lp_open_tables_release(&tables);
    return status;
}

lp_status lp_store_archive(const char *path, const char *archive, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_output made = {.fd = -1};
    lp_lock *lock = NULL;
    lp_record_file *file = NULL;
    LP_TRY(begin_copy(archive, "the archive", lp_names_of_archive, &path, 1, &lock, &made, err));
    LP_TRY(lp_record_file_open_read(path, &file, err));
    LP_TRY(archive_to(file, &made, err));
    LP_TRY(write_manifest(file, &made, err));
    LP_TRY(lp_output_publish(&made, LP_OUTPUT_NEW, err));
    status = lp_text_format(out, err, "%s: %lld pairs, %.1f MB; archive %s: %.1f MB, read back and compared\n", path,
                            (long long)lp_record_file_n_done(file), (double)size_of(path) / 1e6, archive,
                            (double)size_of(archive) / 1e6);
out:
    lp_record_file_close(file);
    lp_output_discard(&made);
    lp_lock_release(lock);
    return status;
}

/* Pairs of all inputs by id: an open hash table over the ids of their `/pairs/id`. */
typedef struct {
    const char *id; /* [width] of its file's table, not NUL-terminated */
    size_t width;
    size_t input; /* that it was first seen in, and where */
    int64_t pair;
    int64_t holder_pair; /* where it is journalled; -1: nowhere yet */
    size_t holder;
} merged_pair;

typedef struct {
    lp_record_file **files;  /* [n], as are the next */
    lp_pair_record *records; /* the pair that was read last */
    lp_open_tables *tables;
    const lp_open_table **ids;
    size_t n;
    merged_pair *pairs; /* [n_pairs] in the order of first appearance */
    int64_t n_pairs;
    int64_t *slots; /* [n_slots] index + 1 */
    size_t n_slots;
    int64_t **at; /* [n][pairs of the input] index in `pairs` */
} store_merger;

static uint64_t hash_id(const char *id, size_t width) {
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < width && id[i]; i++) hash = (hash ^ (unsigned char)id[i]) * UINT64_C(1099511628211);
    return hash ^ hash >> 29;
}

static bool same_id(const merged_pair *pair, const char *id, size_t width) {
    size_t length = strnlen(id, width);
    return strnlen(pair->id, pair->width) == length && memcmp(pair->id, id, length) == 0;
}

static int64_t find_or_add(store_merger *merger, size_t input, int64_t pair) {
    const lp_open_table *ids = merger->ids[input];
    const char *id = (const char *)ids->block + (size_t)pair * ids->item_bytes;
    size_t slot = hash_id(id, ids->item_bytes) & (merger->n_slots - 1);
    while (merger->slots[slot] && !same_id(&merger->pairs[merger->slots[slot] - 1], id, ids->item_bytes))
        slot = (slot + 1) & (merger->n_slots - 1);
    if (merger->slots[slot]) return merger->slots[slot] - 1;
    merger->pairs[merger->n_pairs] =
        (merged_pair){.id = id, .width = ids->item_bytes, .input = input, .pair = pair, .holder_pair = -1};
    merger->slots[slot] = ++merger->n_pairs;
    return merger->n_pairs - 1;
}

/* A pair that is there twice has the same values in both. */
static lp_status check_twin(store_merger *merger, const merged_pair *held, size_t input, int64_t pair, lp_error *err) {
    lp_record_file *first = merger->files[held->holder], *other = merger->files[input];
    LP_CHECK(lp_record_file_load(first, held->holder_pair, &merger->records[held->holder], err));
    LP_CHECK(lp_record_file_load(other, pair, &merger->records[input], err));
    size_t f = first_difference(&merger->records[held->holder], &merger->records[input]);
    if (f < first->n_fields)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: pair %.*s differs from that of %s: /%s", other->path,
                       (int)held->width, held->id, first->path, first->fields[f].field.path);
    return LP_OK;
}

static lp_status match_pairs(store_merger *merger, lp_error *err) {
    size_t total = 0;
    for (size_t k = 0; k < merger->n; k++) total += (size_t)merger->files[k]->n_pairs;
    for (merger->n_slots = 1024; merger->n_slots < 2 * total; merger->n_slots *= 2) {
    }
    LP_CHECK(lp_mem_new(&merger->pairs, total, sizeof *merger->pairs, "pairs", err));
    LP_CHECK(lp_mem_new(&merger->slots, merger->n_slots, sizeof *merger->slots, "pairs", err));
    for (size_t k = 0; k < merger->n; k++) {
        LP_CHECK(lp_mem_new(&merger->at[k], (size_t)merger->files[k]->n_pairs, sizeof(int64_t), "pairs", err));
        for (int64_t i = 0; i < merger->files[k]->n_pairs; i++) {
            merger->at[k][i] = find_or_add(merger, k, i);
            merged_pair *pair = &merger->pairs[merger->at[k][i]];
            if (!merger->files[k]->state[i]) continue;
            if (pair->holder_pair >= 0) {
                LP_CHECK(check_twin(merger, pair, k, i, err));
                continue;
            }
            pair->holder = k;
            pair->holder_pair = i;
        }
    }
    return LP_OK;
}

static lp_status check_alike(const lp_record_file *first, const lp_record_file *other, bool same_pair_file,
                             lp_error *err) {
    bool same = strcmp(first->format, other->format) == 0 && first->n_fields == other->n_fields;
    for (size_t i = 0; same && i < first->n_fields; i++) {
        const lp_field *a = &first->fields[i].field;
        const lp_field *b = &other->fields[i].field;
        same = strcmp(a->path, b->path) == 0 && a->type == b->type && a->n_dims == b->n_dims &&
               memcmp(a->dims, b->dims, sizeof a->dims) == 0 && first->fields[i].bytes == other->fields[i].bytes;
    }
    if (!same)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: its datasets differ from those of %s", other->path, first->path);
    for (size_t i = 0; i < first->n_provenance; i++) {
        const lp_provenance_item *item = &first->provenance[i];
        if (!same_pair_file && (strcmp(item->key, "pair_file") == 0 || strcmp(item->key, "n_pairs") == 0)) continue;
        const char *found = lp_record_file_provenance(other, item->key);
        if (item->identity && (!found || strcmp(found, item->value) != 0))
            return lp_fail(err, LP_ERR_MISMATCH, "%s: made with another %s: expected %.300s, found %.300s", other->path,
                           item->key, item->value, found ? found : "none");
    }
    return LP_OK;
}

/* The tables of the result, gathered from the inputs row by row. */
static lp_status merge_tables(const store_merger *merger, lp_open_tables *out, lp_error *err) {
    const lp_open_tables *first = &merger->tables[0];
    LP_CHECK(lp_mem_new(&out->table, first->n, sizeof *out->table, "tables", err));
    for (size_t t = 0; t < first->n; t++) {
        lp_open_table *made = &out->table[out->n++];
        made->type = first->table[t].type;
        made->n = merger->n_pairs;
        LP_CHECK(lp_mem_text(&made->path, first->table[t].path, strlen(first->table[t].path), err));
        for (size_t k = 0; k < merger->n; k++) {
            const lp_open_table *table = &merger->tables[k].table[t];
            bool fits = merger->tables[k].n == first->n && strcmp(table->path, made->path) == 0 &&
                        table->type == made->type && table->n == merger->files[k]->n_pairs &&
                        (made->type == LP_TEXT || table->item_bytes == first->table[t].item_bytes);
            if (!fits)
                return lp_fail(err, LP_ERR_MISMATCH, "%s: its tables differ from those of %s", merger->files[k]->path,
                               merger->files[0]->path);
            if (table->item_bytes > made->item_bytes) made->item_bytes = table->item_bytes;
        }
        LP_CHECK(lp_mem_new(&made->block, (size_t)merger->n_pairs, made->item_bytes, made->path, err));
        for (int64_t i = 0; i < merger->n_pairs; i++) {
            const lp_open_table *table = &merger->tables[merger->pairs[i].input].table[t];
            memcpy((char *)made->block + (size_t)i * made->item_bytes,
                   (const char *)table->block + (size_t)merger->pairs[i].pair * table->item_bytes, table->item_bytes);
        }
    }
    return LP_OK;
}

static lp_status write_merged(store_merger *merger, const lp_output *out, const char *pair_file, lp_error *err) {
    lp_status status = LP_OK;
    lp_open_tables tables = {0};
    borrowed_spec spec = {0};
    lp_record_file *made = NULL;
    const void **data = NULL;
    char n_pairs[24];
    LP_TRY(merge_tables(merger, &tables, err));
    LP_TRY(make_spec(merger->files[0], merger->n_pairs, &tables, &spec, err));
    snprintf(n_pairs, sizeof n_pairs, "%lld", (long long)merger->n_pairs);
    for (size_t i = 0; i < spec.spec.n_provenance; i++) {
        if (pair_file && strcmp(spec.provenance[i].key, "pair_file") == 0) spec.provenance[i].value = pair_file;
        if (strcmp(spec.provenance[i].key, "n_pairs") == 0) spec.provenance[i].value = n_pairs;
    }
    LP_TRY(lp_mem_new(&data, merger->files[0]->n_fields, sizeof *data, "fields", err));
    LP_TRY(check_room(merger->files[0], out, merger->n_pairs, err));
    LP_TRY(lp_record_file_fill(out->target, out, &spec.spec, LP_PLAIN, err));
    LP_TRY(lp_record_file_open_alone(out->temporary, &made, err));
    for (int64_t i = 0; i < merger->n_pairs; i++)
        if (merger->pairs[i].holder_pair >= 0)
            LP_TRY(copy_pair(merger->files[merger->pairs[i].holder], merger->pairs[i].holder_pair,
                             &merger->records[merger->pairs[i].holder], made, i, data, err));
    status = lp_record_file_finish_alone(made, err);
    made = NULL;
    if (status != LP_OK) goto out;
    LP_TRY(lp_record_file_open_read(out->temporary, &made, err));
    for (size_t k = 0; k < merger->n; k++) LP_TRY(compare_pairs(merger->files[k], made, merger->at[k], err));
out:
    lp_record_file_close(made);
    lp_mem_free(data);
    release_spec(&spec);
    lp_open_tables_release(&tables);
    return status;
}

static lp_status open_inputs(store_merger *merger, const char *const *paths, size_t n, bool same_pair_file,
                             lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&merger->files, n, sizeof *merger->files, "inputs", err));
    LP_TRY(lp_mem_new(&merger->records, n, sizeof *merger->records, "inputs", err));
    LP_TRY(lp_mem_new(&merger->tables, n, sizeof *merger->tables, "inputs", err));
    LP_TRY(lp_mem_new(&merger->ids, n, sizeof *merger->ids, "inputs", err));
    LP_TRY(lp_mem_new(&merger->at, n, sizeof *merger->at, "inputs", err));
    for (; merger->n < n; merger->n++) {
        lp_open_tables *tables = &merger->tables[merger->n];
        LP_TRY(lp_record_file_open_read(paths[merger->n], &merger->files[merger->n], err));
        LP_TRY(lp_record_file_read_tables(merger->files[merger->n], tables, err));
        for (size_t t = 0; t < tables->n; t++)
            if (strcmp(tables->table[t].path, "pairs/id") == 0) merger->ids[merger->n] = &tables->table[t];
        if (!merger->ids[merger->n] || merger->ids[merger->n]->type != LP_TEXT ||
            merger->ids[merger->n]->n != merger->files[merger->n]->n_pairs)
            LP_FAIL(LP_ERR_FORMAT, "%s: /pairs/id: expected one id a pair", paths[merger->n]);
        LP_TRY(check_alike(merger->files[0], merger->files[merger->n], same_pair_file, err));
    }
out:
    if (status != LP_OK && merger->files && merger->n < n) merger->n++;
    return status;
}

static void release_merger(store_merger *merger) {
    for (size_t k = 0; k < merger->n; k++) {
        if (merger->records) lp_pair_record_release(&merger->records[k]);
        lp_record_file_close(merger->files[k]);
        if (merger->tables) lp_open_tables_release(&merger->tables[k]);
        if (merger->at) lp_mem_free(merger->at[k]);
    }
    lp_mem_free(merger->files);
    lp_mem_free(merger->records);
    lp_mem_free(merger->tables);
    lp_mem_free(merger->ids);
    lp_mem_free(merger->at);
    lp_mem_free(merger->pairs);
    lp_mem_free(merger->slots);
}

lp_status lp_store_merge(const char *const *paths, size_t n_paths, const char *merged, const char *pair_file,
                         lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_output made = {.fd = -1};
    lp_lock *lock = NULL;
    store_merger merger = {0};
    int64_t n_done = 0;
    if (n_paths == 0) LP_FAIL(LP_ERR_USAGE, "merge: no stores named");
    LP_TRY(begin_copy(merged, "the merged store", lp_names_locked, paths, n_paths, &lock, &made, err));
    LP_TRY(open_inputs(&merger, paths, n_paths, pair_file == NULL, err));
    LP_TRY(match_pairs(&merger, err));
    LP_TRY(write_merged(&merger, &made, pair_file, err));
    LP_TRY(lp_output_publish(&made, LP_OUTPUT_NEW, err));
    for (int64_t i = 0; i < merger.n_pairs; i++) n_done += merger.pairs[i].holder_pair >= 0;
    status = lp_text_format(out, err, "%s: %lld of %lld pairs from %zu stores, read back and compared\n", merged,
                            (long long)n_done, (long long)merger.n_pairs, n_paths);
out:
    release_merger(&merger);
    lp_output_discard(&made);
    lp_lock_release(lock);
    return status;
}
