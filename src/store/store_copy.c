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

static void release_spec(borrowed_spec *b) {
    for (size_t i = 0; i < b->spec.n_tables; i++) {
        lp_mem_free(b->columns ? b->columns[i] : NULL);
        lp_mem_free(b->blocks ? b->blocks[i] : NULL);
    }
    lp_mem_free(b->columns);
    lp_mem_free(b->blocks);
    lp_mem_free(b->fields);
    lp_mem_free(b->tables);
    lp_mem_free(b->provenance);
    *b = (borrowed_spec){0};
}

static lp_status spec_texts(borrowed_spec *b, size_t index, const lp_open_table *table, lp_error *err) {
    lp_status status = LP_OK;
    size_t width = table->item_bytes;
    LP_TRY(lp_mem_new(&b->blocks[index], (size_t)table->n, width + 1, "texts", err));
    LP_TRY(lp_mem_new(&b->columns[index], (size_t)table->n, sizeof(char *), "texts", err));
    for (int64_t i = 0; i < table->n; i++) {
        char *at = b->blocks[index] + (size_t)i * (width + 1);
        memcpy(at, (const char *)table->block + (size_t)i * width, width);
        b->columns[index][i] = at;
    }
    b->tables[index].data = b->columns[index];
out:
    return status;
}

/* The spec of a file like `file`, of n_pairs pairs with these tables. */
static lp_status make_spec(const lp_record_file *file, int64_t n_pairs, const lp_open_tables *tables, borrowed_spec *b,
                           lp_error *err) {
    lp_status status = LP_OK;
    *b = (borrowed_spec){0};
    LP_TRY(lp_mem_new(&b->fields, file->n_fields, sizeof *b->fields, "spec", err));
    LP_TRY(lp_mem_new(&b->tables, tables->n, sizeof *b->tables, "spec", err));
    LP_TRY(lp_mem_new(&b->provenance, file->n_provenance, sizeof *b->provenance, "spec", err));
    LP_TRY(lp_mem_new(&b->columns, tables->n, sizeof *b->columns, "spec", err));
    LP_TRY(lp_mem_new(&b->blocks, tables->n, sizeof *b->blocks, "spec", err));
    for (size_t i = 0; i < file->n_fields; i++) b->fields[i] = file->fields[i].field;
    for (size_t i = 0; i < file->n_provenance; i++) b->provenance[i] = file->provenance[i];
    b->spec =
        (lp_record_file_spec){.format = file->format,
                              .version = strcmp(file->format, LP_STORE_FORMAT) == 0 ? LP_STORE_VERSION : file->version,
                              .n_pairs = n_pairs,
                              .fields = b->fields,
                              .n_fields = file->n_fields,
                              .tables = b->tables,
                              .n_tables = tables->n,
                              .provenance = b->provenance,
                              .n_provenance = file->n_provenance};
    for (size_t i = 0; i < tables->n; i++) {
        const lp_open_table *table = &tables->table[i];
        size_t number = lp_h5_item_bytes(table->type, table->item_bytes);
        b->tables[i] =
            (lp_table){.path = table->path, .type = table->type, .n_dims = 1, .dims = {table->n}, .data = table->block};
        if (table->type == LP_TEXT) {
            LP_TRY(spec_texts(b, i, table, err));
        } else if (table->item_bytes != number) {
            b->tables[i].n_dims = 2;
            b->tables[i].dims[1] = (int64_t)(table->item_bytes / number);
        }
    }
out:
    if (status != LP_OK) release_spec(b);
    return status;
}

/* record: of `from`; data [n_fields] is room for what is written. */
static lp_status copy_pair(lp_record_file *from, int64_t pair, lp_pair_record *record, lp_record_file *to, int64_t at,
                           const void **data, lp_error *err) {
    lp_status status = lp_record_file_load(from, pair, record, err);
    if (status != LP_OK) return status;
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

/* A copy with the names that belong to it is no input, and is not there yet; its lock is held until it is. */
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
    borrowed_spec b = {0};
    lp_record_file *copy = NULL;
    lp_pair_record record = {0};
    const void **data = NULL;
    LP_TRY(lp_record_file_read_tables(file, &tables, err));
    LP_TRY(make_spec(file, file->n_pairs, &tables, &b, err));
    LP_TRY(lp_mem_new(&data, file->n_fields, sizeof *data, "fields", err));
    LP_TRY(check_room(file, out, lp_record_file_n_done(file), err));
    LP_TRY(lp_record_file_fill(out->target, out, &b.spec, LP_COMPRESSED, err));
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
    release_spec(&b);
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
} merger;

static uint64_t hash_id(const char *id, size_t width) {
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t i = 0; i < width && id[i]; i++) hash = (hash ^ (unsigned char)id[i]) * UINT64_C(1099511628211);
    return hash ^ hash >> 29;
}

static bool same_id(const merged_pair *a, const char *id, size_t width) {
    size_t length = strnlen(id, width);
    return strnlen(a->id, a->width) == length && memcmp(a->id, id, length) == 0;
}

static int64_t find_or_add(merger *m, size_t input, int64_t pair) {
    const lp_open_table *ids = m->ids[input];
    const char *id = (const char *)ids->block + (size_t)pair * ids->item_bytes;
    size_t slot = hash_id(id, ids->item_bytes) & (m->n_slots - 1);
    while (m->slots[slot] && !same_id(&m->pairs[m->slots[slot] - 1], id, ids->item_bytes))
        slot = (slot + 1) & (m->n_slots - 1);
    if (m->slots[slot]) return m->slots[slot] - 1;
    m->pairs[m->n_pairs] =
        (merged_pair){.id = id, .width = ids->item_bytes, .input = input, .pair = pair, .holder_pair = -1};
    m->slots[slot] = ++m->n_pairs;
    return m->n_pairs - 1;
}

/* A pair that is there twice has the same values in both. */
static lp_status check_twin(merger *m, const merged_pair *held, size_t input, int64_t pair, lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *first = m->files[held->holder], *other = m->files[input];
    LP_TRY(lp_record_file_load(first, held->holder_pair, &m->records[held->holder], err));
    LP_TRY(lp_record_file_load(other, pair, &m->records[input], err));
    size_t f = first_difference(&m->records[held->holder], &m->records[input]);
    if (f < first->n_fields)
        LP_FAIL(LP_ERR_MISMATCH, "%s: pair %.*s differs from that of %s: /%s", other->path, (int)held->width, held->id,
                first->path, first->fields[f].field.path);
out:
    return status;
}

static lp_status match_pairs(merger *m, lp_error *err) {
    lp_status status = LP_OK;
    size_t total = 0;
    for (size_t k = 0; k < m->n; k++) total += (size_t)m->files[k]->n_pairs;
    for (m->n_slots = 1024; m->n_slots < 2 * total; m->n_slots *= 2) {
    }
    LP_TRY(lp_mem_new(&m->pairs, total, sizeof *m->pairs, "pairs", err));
    LP_TRY(lp_mem_new(&m->slots, m->n_slots, sizeof *m->slots, "pairs", err));
    for (size_t k = 0; k < m->n; k++) {
        LP_TRY(lp_mem_new(&m->at[k], (size_t)m->files[k]->n_pairs, sizeof(int64_t), "pairs", err));
        for (int64_t i = 0; i < m->files[k]->n_pairs; i++) {
            m->at[k][i] = find_or_add(m, k, i);
            merged_pair *pair = &m->pairs[m->at[k][i]];
            if (!m->files[k]->state[i]) continue;
            if (pair->holder_pair >= 0) {
                LP_TRY(check_twin(m, pair, k, i, err));
                continue;
            }
            pair->holder = k;
            pair->holder_pair = i;
        }
    }
out:
    return status;
}

static lp_status check_alike(const lp_record_file *first, const lp_record_file *other, bool same_pair_file,
                             lp_error *err) {
    lp_status status = LP_OK;
    bool same = strcmp(first->format, other->format) == 0 && first->n_fields == other->n_fields;
    for (size_t i = 0; same && i < first->n_fields; i++) {
        const lp_field *a = &first->fields[i].field;
        const lp_field *b = &other->fields[i].field;
        same = strcmp(a->path, b->path) == 0 && a->type == b->type && a->n_dims == b->n_dims &&
               memcmp(a->dims, b->dims, sizeof a->dims) == 0 && first->fields[i].bytes == other->fields[i].bytes;
    }
    if (!same) LP_FAIL(LP_ERR_MISMATCH, "%s: its datasets differ from those of %s", other->path, first->path);
    for (size_t i = 0; i < first->n_provenance; i++) {
        const lp_provenance_item *item = &first->provenance[i];
        if (!same_pair_file && (strcmp(item->key, "pair_file") == 0 || strcmp(item->key, "n_pairs") == 0)) continue;
        const char *found = lp_record_file_provenance(other, item->key);
        if (item->identity && (!found || strcmp(found, item->value) != 0))
            LP_FAIL(LP_ERR_MISMATCH, "%s: made with another %s: expected %.300s, found %.300s", other->path, item->key,
                    item->value, found ? found : "none");
    }
out:
    return status;
}

/* The tables of the result, gathered from the inputs row by row. */
static lp_status merge_tables(const merger *m, lp_open_tables *out, lp_error *err) {
    lp_status status = LP_OK;
    const lp_open_tables *first = &m->tables[0];
    LP_TRY(lp_mem_new(&out->table, first->n, sizeof *out->table, "tables", err));
    for (size_t t = 0; t < first->n; t++) {
        lp_open_table *made = &out->table[out->n++];
        made->type = first->table[t].type;
        made->n = m->n_pairs;
        LP_TRY(lp_mem_text(&made->path, first->table[t].path, strlen(first->table[t].path), err));
        for (size_t k = 0; k < m->n; k++) {
            const lp_open_table *table = &m->tables[k].table[t];
            bool fits = m->tables[k].n == first->n && strcmp(table->path, made->path) == 0 &&
                        table->type == made->type && table->n == m->files[k]->n_pairs &&
                        (made->type == LP_TEXT || table->item_bytes == first->table[t].item_bytes);
            if (!fits)
                LP_FAIL(LP_ERR_MISMATCH, "%s: its tables differ from those of %s", m->files[k]->path,
                        m->files[0]->path);
            if (table->item_bytes > made->item_bytes) made->item_bytes = table->item_bytes;
        }
        LP_TRY(lp_mem_new(&made->block, (size_t)m->n_pairs, made->item_bytes, made->path, err));
        for (int64_t i = 0; i < m->n_pairs; i++) {
            const lp_open_table *table = &m->tables[m->pairs[i].input].table[t];
            memcpy((char *)made->block + (size_t)i * made->item_bytes,
                   (const char *)table->block + (size_t)m->pairs[i].pair * table->item_bytes, table->item_bytes);
        }
    }
out:
    return status;
}

static lp_status write_merged(merger *m, const lp_output *out, const char *pair_file, lp_error *err) {
    lp_status status = LP_OK;
    lp_open_tables tables = {0};
    borrowed_spec b = {0};
    lp_record_file *made = NULL;
    const void **data = NULL;
    char n_pairs[24];
    LP_TRY(merge_tables(m, &tables, err));
    LP_TRY(make_spec(m->files[0], m->n_pairs, &tables, &b, err));
    snprintf(n_pairs, sizeof n_pairs, "%lld", (long long)m->n_pairs);
    for (size_t i = 0; i < b.spec.n_provenance; i++) {
        if (pair_file && strcmp(b.provenance[i].key, "pair_file") == 0) b.provenance[i].value = pair_file;
        if (strcmp(b.provenance[i].key, "n_pairs") == 0) b.provenance[i].value = n_pairs;
    }
    LP_TRY(lp_mem_new(&data, m->files[0]->n_fields, sizeof *data, "fields", err));
    LP_TRY(check_room(m->files[0], out, m->n_pairs, err));
    LP_TRY(lp_record_file_fill(out->target, out, &b.spec, LP_PLAIN, err));
    LP_TRY(lp_record_file_open_alone(out->temporary, &made, err));
    for (int64_t i = 0; i < m->n_pairs; i++)
        if (m->pairs[i].holder_pair >= 0)
            LP_TRY(copy_pair(m->files[m->pairs[i].holder], m->pairs[i].holder_pair, &m->records[m->pairs[i].holder],
                             made, i, data, err));
    status = lp_record_file_finish_alone(made, err);
    made = NULL;
    if (status != LP_OK) goto out;
    LP_TRY(lp_record_file_open_read(out->temporary, &made, err));
    for (size_t k = 0; k < m->n; k++) LP_TRY(compare_pairs(m->files[k], made, m->at[k], err));
out:
    lp_record_file_close(made);
    lp_mem_free(data);
    release_spec(&b);
    lp_open_tables_release(&tables);
    return status;
}

static lp_status open_inputs(merger *m, const char *const *paths, size_t n, bool same_pair_file, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&m->files, n, sizeof *m->files, "inputs", err));
    LP_TRY(lp_mem_new(&m->records, n, sizeof *m->records, "inputs", err));
    LP_TRY(lp_mem_new(&m->tables, n, sizeof *m->tables, "inputs", err));
    LP_TRY(lp_mem_new(&m->ids, n, sizeof *m->ids, "inputs", err));
    LP_TRY(lp_mem_new(&m->at, n, sizeof *m->at, "inputs", err));
    for (; m->n < n; m->n++) {
        lp_open_tables *tables = &m->tables[m->n];
        LP_TRY(lp_record_file_open_read(paths[m->n], &m->files[m->n], err));
        LP_TRY(lp_record_file_read_tables(m->files[m->n], tables, err));
        for (size_t t = 0; t < tables->n; t++)
            if (strcmp(tables->table[t].path, "pairs/id") == 0) m->ids[m->n] = &tables->table[t];
        if (!m->ids[m->n] || m->ids[m->n]->type != LP_TEXT || m->ids[m->n]->n != m->files[m->n]->n_pairs)
            LP_FAIL(LP_ERR_FORMAT, "%s: /pairs/id: expected one id a pair", paths[m->n]);
        LP_TRY(check_alike(m->files[0], m->files[m->n], same_pair_file, err));
    }
out:
    if (status != LP_OK && m->files && m->n < n) m->n++;
    return status;
}

static void release_merger(merger *m) {
    for (size_t k = 0; k < m->n; k++) {
        if (m->records) lp_pair_record_release(&m->records[k]);
        lp_record_file_close(m->files[k]);
        if (m->tables) lp_open_tables_release(&m->tables[k]);
        if (m->at) lp_mem_free(m->at[k]);
    }
    lp_mem_free(m->files);
    lp_mem_free(m->records);
    lp_mem_free(m->tables);
    lp_mem_free(m->ids);
    lp_mem_free(m->at);
    lp_mem_free(m->pairs);
    lp_mem_free(m->slots);
}

lp_status lp_store_merge(const char *const *paths, size_t n_paths, const char *merged, const char *pair_file,
                         lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_output made = {.fd = -1};
    lp_lock *lock = NULL;
    merger m = {0};
    int64_t n_done = 0;
    if (n_paths == 0) LP_FAIL(LP_ERR_USAGE, "merge: no stores named");
    LP_TRY(begin_copy(merged, "the merged store", lp_names_locked, paths, n_paths, &lock, &made, err));
    LP_TRY(open_inputs(&m, paths, n_paths, pair_file == NULL, err));
    LP_TRY(match_pairs(&m, err));
    LP_TRY(write_merged(&m, &made, pair_file, err));
    LP_TRY(lp_output_publish(&made, LP_OUTPUT_NEW, err));
    for (int64_t i = 0; i < m.n_pairs; i++) n_done += m.pairs[i].holder_pair >= 0;
    status = lp_text_format(out, err, "%s: %lld of %lld pairs from %zu stores, read back and compared\n", merged,
                            (long long)n_done, (long long)m.n_pairs, n_paths);
out:
    release_merger(&m);
    lp_output_discard(&made);
    lp_lock_release(lock);
    return status;
}
