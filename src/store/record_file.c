#include "store/record_file_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "parallel/communicator.h"

#include <errno.h>

lp_status lp_record_file_flush(lp_record_file *file, lp_error *err) {
    if (!file->parallel) return LP_OK;
    lp_status status = LP_OK;
    int code = MPI_File_sync(file->raw);
    if (code != MPI_SUCCESS) status = lp_record_fail_mpi(file, code, "flush", err);
    return lp_parallel_agree(file->parallel, status, err);
}

static lp_status select_pair(const lp_record_file *file, lp_open_field *field, int64_t pair, lp_error *err) {
    LP_ASSERT(pair >= 0 && pair < file->n_pairs);
    hsize_t start[LP_FIELD_MAX_DIMS + 1] = {(hsize_t)pair};
    hsize_t count[LP_FIELD_MAX_DIMS + 1] = {1};
    for (int d = 0; d < field->field.n_dims; d++) count[d + 1] = (hsize_t)field->field.dims[d];
    if (H5Sselect_hyperslab(field->space, H5S_SELECT_SET, start, NULL, count, NULL) < 0)
        return lp_h5_fail(err, file->path, "select pair %lld", (long long)pair);
    return LP_OK;
}

/* Items of a pair of the field along its first dimension, and the bytes of one. */
static int64_t items_of(const lp_open_field *field) {
    return field->field.n_dims > 0 ? field->field.dims[0] : 1;
}

static size_t item_bytes(const lp_open_field *field) {
    return field->bytes / (size_t)items_of(field);
}

/* Why `count` bytes were moved instead of `bytes`. */
static lp_status fail_raw(const lp_record_file *file, const lp_open_field *field, int64_t pair, const char *way,
                          int code, size_t bytes, int count, lp_error *err) {
    /* Open MPI 4.1 calls a failed write a success of 0 bytes, but does not clear the system's code. */
    int error = errno;
    char what[256];
    snprintf(what, sizeof what, "%s pair %lld of /%s", way, (long long)pair, field->field.path);
    if (code != MPI_SUCCESS) return lp_record_fail_mpi(file, code, what, err);
    const char *system = lp_io_guess(file->path);
    if (!system && error) system = strerror(error);
    if (system) return lp_fail(err, LP_ERR_IO, "%s: cannot %s: %s", file->path, what, system);
    return lp_fail(err, LP_ERR_IO, "%s: cannot %s: %d of %zu bytes moved", file->path, what, count, bytes);
}

/* Items [first, first + n) of a pair: into `out`, or from `data` where that is NULL. */
static lp_status move_raw(const lp_record_file *file, const lp_open_field *field, int64_t pair, int64_t first,
                          int64_t n, void *out, const void *data, lp_error *err) {
    MPI_Status done;
    int count = 0;
    size_t bytes = (size_t)n * item_bytes(field);
    int64_t at = field->file_offset + pair * (int64_t)field->bytes + first * (int64_t)item_bytes(field);
    if (field->file_offset < 0)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: is an archive, which cannot be written to", file->path);
    errno = 0;
    int code = out ? MPI_File_read_at(file->raw, at, out, (int)bytes, MPI_BYTE, &done)
                   : MPI_File_write_at(file->raw, at, data, (int)bytes, MPI_BYTE, &done);
    if (code == MPI_SUCCESS && MPI_Get_count(&done, MPI_BYTE, &count) == MPI_SUCCESS && count == (int)bytes)
        return LP_OK;
    return fail_raw(file, field, pair, out ? "read" : "write", code, bytes, count, err);
}

static lp_status write_field(lp_record_file *file, lp_open_field *field, int64_t pair, const void *data,
                             lp_error *err) {
    LP_ASSERT(pair >= 0 && pair < file->n_pairs);
    if (file->parallel) return move_raw(file, field, pair, 0, items_of(field), NULL, data, err);
    lp_status status = select_pair(file, field, pair, err);
    if (status == LP_OK && H5Dwrite(field->dataset, field->type, field->memory, field->space, H5P_DEFAULT, data) < 0)
        status = lp_h5_fail(err, file->path, "write pair %lld of /%s", (long long)pair, field->field.path);
    return status;
}

static lp_status read_field(lp_record_file *file, lp_open_field *field, int64_t pair, void *data, lp_error *err) {
    lp_status status = select_pair(file, field, pair, err);
    if (status == LP_OK && H5Dread(field->dataset, field->type, field->memory, field->space, H5P_DEFAULT, data) < 0)
        status = lp_h5_fail(err, file->path, "read pair %lld of /%s", (long long)pair, field->field.path);
    return status;
}

static lp_status read_part(lp_record_file *file, lp_open_field *field, int64_t pair, int64_t first, int64_t n,
                           void *data, lp_error *err) {
    LP_ASSERT(pair >= 0 && pair < file->n_pairs && first >= 0 && n >= 0 && first + n <= items_of(field));
    if (n == 0) return LP_OK;
    /* What HDF5 keeps in memory of a file that is being written may be old. */
    if (file->parallel && field->file_offset >= 0) return move_raw(file, field, pair, first, n, data, NULL, err);
    if (n == items_of(field)) return read_field(file, field, pair, data, err);
    hsize_t start[LP_FIELD_MAX_DIMS + 1] = {(hsize_t)pair, (hsize_t)first};
    hsize_t count[LP_FIELD_MAX_DIMS + 1] = {1, (hsize_t)n};
    for (int d = 1; d < field->field.n_dims; d++) count[d + 1] = (hsize_t)field->field.dims[d];
    lp_status status = LP_OK;
    hid_t memory = H5Screate_simple(field->field.n_dims + 1, count, NULL);
    if (memory < 0 || H5Sselect_hyperslab(field->space, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Dread(field->dataset, field->type, memory, field->space, H5P_DEFAULT, data) < 0)
        status = lp_h5_fail(err, file->path, "read pair %lld of /%s", (long long)pair, field->field.path);
    lp_h5_close(memory);
    return status;
}

/* A checksum says whose it is: of which pair, by number and id, and of which run and field, by path. */
static void begin_checksum(const lp_record_file *file, int64_t pair) {
    if (file->journal_version < 2) return;
    lp_checksum_add(file->sum, &pair, sizeof pair);
    if (file->ids) {
        const char *id = file->ids + (size_t)pair * file->id_bytes;
        lp_checksum_add(file->sum, id, strnlen(id, file->id_bytes));
    }
    lp_checksum_add(file->sum, "", 1);
}

static void begin_field_checksum(const lp_record_file *file, const lp_open_field *field) {
    if (file->journal_version >= 2) lp_checksum_add(file->sum, field->field.path, strlen(field->field.path) + 1);
}

static void add_to_checksum(const lp_record_file *file, const lp_open_field *field, const void *data) {
    begin_field_checksum(file, field);
    lp_checksum_add(file->sum, data, field->bytes);
}

/* The checksum of a pair as it lies in the file, which is read piece by piece. */
static lp_status sum_pair(lp_record_file *file, int64_t pair, unsigned char sum[LP_CHECKSUM_BYTES], lp_error *err) {
    enum { PIECE = 1 << 20 };
    lp_status status = LP_OK;
    begin_checksum(file, pair);
    for (size_t i = 0; i < file->n_fields; i++) {
        lp_open_field *field = &file->fields[i];
        int64_t all = items_of(field), at_once = all;
        /* Filters know whole pairs alone. */
        if (!field->compressed && field->bytes > PIECE) at_once = PIECE / (int64_t)item_bytes(field);
        if (at_once < 1) at_once = 1;
        size_t bytes = (size_t)at_once * item_bytes(field);
        if (bytes > PIECE)
            LP_TRY(lp_h5_check_stored(field->dataset, 1, field->bytes, file->path, field->field.path, err));
        LP_TRY(lp_mem_grow(&file->part, &file->part_capacity, bytes, 1, "one pair", err));
        begin_field_checksum(file, field);
        for (int64_t first = 0; first < all; first += at_once) {
            int64_t n = all - first < at_once ? all - first : at_once;
            LP_TRY(read_part(file, field, pair, first, n, file->part, err));
            lp_checksum_add(file->sum, file->part, (size_t)n * item_bytes(field));
        }
    }
out:
    lp_checksum_finish(file->sum, sum);
    return status;
}

static lp_status journal(lp_record_file *file, int64_t pair, const unsigned char sum[LP_CHECKSUM_BYTES],
                         lp_error *err) {
    const uint8_t written = 1;
    LP_CHECK(write_field(file, &file->checksum_field, pair, sum, err));
    LP_CHECK(write_field(file, &file->state_field, pair, &written, err));
    file->state[pair] = 1;
    return LP_OK;
}

lp_status lp_record_file_write_part(lp_record_file *file, int64_t pair, size_t index, int64_t first, int64_t n,
                                    const void *data, lp_error *err) {
    LP_ASSERT(file->writable && file->parallel && index < file->n_fields && pair >= 0 && pair < file->n_pairs);
    lp_open_field *field = &file->fields[index];
    LP_ASSERT(first >= 0 && n >= 0 && first + n <= items_of(field));
    lp_status status = file->state[pair] ? lp_record_file_forget(file, pair, err) : LP_OK;
    return status == LP_OK && n > 0 ? move_raw(file, field, pair, first, n, NULL, data, err) : status;
}

lp_status lp_record_file_end_pair(lp_record_file *file, int64_t pair, lp_error *err) {
    unsigned char sum[LP_CHECKSUM_BYTES];
    LP_ASSERT(file->writable && file->parallel && !file->state[pair]);
    lp_status status = sum_pair(file, pair, sum, err);
    return status == LP_OK ? journal(file, pair, sum, err) : status;
}

lp_status lp_record_file_write(lp_record_file *file, int64_t pair, const void *const *data, lp_error *err) {
    lp_status status = LP_OK;
    unsigned char checksum[LP_CHECKSUM_BYTES];
    LP_ASSERT(file->writable);
    /* A pair that is written again must not count as whole in between. */
    if (file->state[pair]) LP_TRY(lp_record_file_forget(file, pair, err));
    begin_checksum(file, pair);
    for (size_t i = 0; i < file->n_fields; i++) {
        LP_TRY(write_field(file, &file->fields[i], pair, data[i], err));
        add_to_checksum(file, &file->fields[i], data[i]);
    }
    lp_checksum_finish(file->sum, checksum);
    return journal(file, pair, checksum, err);
out:
    if (status != LP_OK) lp_checksum_finish(file->sum, checksum);
    return status;
}

lp_status lp_record_file_forget(lp_record_file *file, int64_t pair, lp_error *err) {
    const uint8_t nothing = 0;
    LP_ASSERT(file->writable);
    lp_status status = write_field(file, &file->state_field, pair, &nothing, err);
    if (status == LP_OK) file->state[pair] = 0;
    return status;
}

lp_status lp_record_file_recheck(lp_record_file *file, int64_t *n_bad, lp_error *err) {
    const lp_parallel *parallel = file->parallel;
    LP_ASSERT(parallel);
    lp_status status = LP_OK;
    int64_t rank = lp_parallel_rank(parallel);
    int64_t size = lp_parallel_size(parallel);
    int64_t bad = 0;
    for (int64_t i = file->n_pairs * rank / size; status == LP_OK && i < file->n_pairs * (rank + 1) / size; i++) {
        bool good = true;
        if (file->state[i]) status = lp_record_file_verify(file, i, &good, err);
        if (status != LP_OK || good) continue;
        status = lp_record_file_forget(file, i, err);
        bad++;
    }
    LP_TRY(lp_parallel_agree(parallel, status, err));
    LP_MPI(MPI_Allreduce(MPI_IN_PLACE, &bad, 1, MPI_INT64_T, MPI_SUM, parallel->comm));
    for (int64_t i = 0; i < file->n_pairs; i += INT32_MAX) {
        int64_t n = file->n_pairs - i < INT32_MAX ? file->n_pairs - i : INT32_MAX;
        LP_MPI(MPI_Allreduce(MPI_IN_PLACE, file->state + i, (int)n, MPI_UINT8_T, MPI_MIN, parallel->comm));
    }
    *n_bad = bad;
out:
    return status;
}

/* Reads all fields of a pair. */
static lp_status read_pair(lp_record_file *file, int64_t pair, lp_pair_record *record, lp_error *err) {
    LP_ASSERT(!record->file || record->file == file);
    for (size_t i = 0; !record->bytes && i < file->n_fields; i++)
        LP_CHECK(lp_h5_check_stored(file->fields[i].dataset, 1, file->fields[i].bytes, file->path,
                                    file->fields[i].field.path, err));
    if (!record->bytes) LP_CHECK(lp_mem_new(&record->bytes, file->pair_bytes, 1, "one pair", err));
    record->file = file;
    record->pair = pair;
    for (size_t i = 0; i < file->n_fields; i++)
        LP_CHECK(read_field(file, &file->fields[i], pair, record->bytes + file->fields[i].offset, err));
    return LP_OK;
}

static lp_status checksum_fits(lp_record_file *file, const lp_pair_record *record, bool *good, lp_error *err) {
    unsigned char expected[LP_CHECKSUM_BYTES];
    unsigned char found[LP_CHECKSUM_BYTES];
    LP_CHECK(read_field(file, &file->checksum_field, record->pair, expected, err));
    begin_checksum(file, record->pair);
    for (size_t i = 0; i < file->n_fields; i++)
        add_to_checksum(file, &file->fields[i], record->bytes + file->fields[i].offset);
    lp_checksum_finish(file->sum, found);
    *good = memcmp(expected, found, sizeof found) == 0;
    return LP_OK;
}

lp_status lp_record_file_load(lp_record_file *file, int64_t pair, lp_pair_record *record, lp_error *err) {
    bool good = false;
    LP_ASSERT(pair >= 0 && pair < file->n_pairs);
    if (file->state[pair] != 1)
        return lp_fail(err, LP_ERR_VALUE, "%s: pair %lld is not written yet", file->path, (long long)pair);
    LP_CHECK(read_pair(file, pair, record, err));
    LP_CHECK(checksum_fits(file, record, &good, err));
    if (!good)
        return lp_fail(err, LP_ERR_FORMAT, "%s: pair %lld does not fit its checksum: torn or altered", file->path,
                       (long long)pair);
    return LP_OK;
}

const void *lp_pair_record_field(const lp_pair_record *record, size_t index) {
    LP_ASSERT(record->bytes && index < record->file->n_fields);
    return record->bytes + record->file->fields[index].offset;
}

void lp_pair_record_release(lp_pair_record *record) {
    lp_mem_free(record->bytes);
    *record = (lp_pair_record){0};
}

lp_status lp_record_file_read(lp_record_file *file, int64_t pair, size_t index, void *out, lp_error *err) {
    LP_ASSERT(index < file->n_fields);
    return read_field(file, &file->fields[index], pair, out, err);
}

lp_status lp_record_file_read_part(lp_record_file *file, int64_t pair, size_t index, int64_t first, int64_t n,
                                   void *out, lp_error *err) {
    LP_ASSERT(index < file->n_fields);
    return read_part(file, &file->fields[index], pair, first, n, out, err);
}

lp_status lp_record_file_verify(lp_record_file *file, int64_t pair, bool *good, lp_error *err) {
    unsigned char expected[LP_CHECKSUM_BYTES], found[LP_CHECKSUM_BYTES];
    lp_status status = read_part(file, &file->checksum_field, pair, 0, LP_CHECKSUM_BYTES, expected, err);
    if (status == LP_OK) status = sum_pair(file, pair, found, err);
    if (status == LP_OK) *good = memcmp(expected, found, sizeof found) == 0;
    return status;
}

lp_status lp_record_file_table(lp_record_file *file, const char *path, lp_dtype type, void **block, int64_t *n,
                               size_t *item_bytes, lp_error *err) {
    lp_status status = LP_OK;
    void *data = NULL;
    hid_t dataset = H5I_INVALID_HID;
    hid_t space = H5I_INVALID_HID;
    LP_TRY(lp_record_check_links(file->file, path, file->path, err));
    dataset = H5Dopen2(file->file, path, H5P_DEFAULT);
    if (dataset < 0) {
        H5Eclear2(H5E_DEFAULT);
        LP_FAIL(LP_ERR_FORMAT, "%s: dataset /%s is missing", file->path, path);
    }
    lp_dtype found = LP_U8;
    size_t width = 0;
    LP_TRY(lp_h5_type_of(dataset, &found, &width, file->path, path, err));
    if (found != type)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected elements of type %s, found %s", file->path, path,
                lp_h5_type_name(type), lp_h5_type_name(found));
    space = H5Dget_space(dataset);
    hsize_t dims[H5S_MAX_RANK];
    int n_dims = H5Sget_simple_extent_dims(space, dims, NULL);
    size_t bytes = lp_h5_item_bytes(found, width);
    if (n_dims < 1) LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected at least one dimension", file->path, path);
    for (int d = 1; d < n_dims; d++)
        if (__builtin_mul_overflow(bytes, (size_t)dims[d], &bytes))
            LP_FAIL(LP_ERR_FORMAT, "%s: /%s: too large", file->path, path);
    LP_TRY(lp_h5_check_stored(dataset, dims[0], bytes, file->path, path, err));
    LP_TRY(lp_mem_new(&data, dims[0], bytes, path, err));
    LP_TRY(lp_h5_read_part(dataset, 0, (int64_t)dims[0], data, file->path, path, err));
    *n = (int64_t)dims[0];
    *item_bytes = bytes;
    *block = data;
    data = NULL;
out:
    lp_mem_free(data);
    lp_h5_close(space);
    lp_h5_close(dataset);
    return status;
}

/* The side tables. */

typedef struct {
    lp_record_file *file;
    lp_open_tables *tables;
    lp_error *err;
    lp_status status;
} table_visit;

static bool is_field(const lp_record_file *file, const char *path) {
    size_t index = 0;
    return lp_record_file_find(file, path, &index);
}

static lp_status add_table(table_visit *visit, const char *path, lp_error *err) {
    lp_status status = LP_OK;
    lp_open_table *grown = NULL;
    lp_dtype type = LP_U8;
    hid_t dataset = H5Dopen2(visit->file->file, path, H5P_DEFAULT);
    LP_TRY(lp_h5_type_of(dataset, &type, NULL, visit->file->path, path, err));
    LP_TRY(lp_mem_new(&grown, visit->tables->n + 1, sizeof *grown, "tables", err));
    if (visit->tables->n) memcpy(grown, visit->tables->table, visit->tables->n * sizeof *grown);
    lp_mem_free(visit->tables->table);
    visit->tables->table = grown;
    lp_open_table *table = &grown[visit->tables->n++];
    table->type = type;
    LP_TRY(lp_mem_text(&table->path, path, strlen(path), err));
    status = lp_record_file_table(visit->file, path, type, &table->block, &table->n, &table->item_bytes, err);
out:
    lp_h5_close(dataset);
    return status;
}

static herr_t look_at(hid_t group, const char *path, const H5L_info_t *info, void *state) {
    table_visit *visit = state;
    if (info->type != H5L_TYPE_HARD) {
        visit->status = lp_record_check_links(group, path, visit->file->path, visit->err);
        return 1;
    }
    if (strncmp(path, "journal/", 8) == 0 || is_field(visit->file, path)) return 0;
    hid_t object = H5Oopen(group, path, H5P_DEFAULT);
    bool is_dataset = object >= 0 && H5Iget_type(object) == H5I_DATASET;
    if (object < 0) visit->status = lp_h5_fail(visit->err, visit->file->path, "open /%s", path);
    lp_h5_close(object);
    if (is_dataset) visit->status = add_table(visit, path, visit->err);
    return visit->status == LP_OK ? 0 : 1;
}

lp_status lp_record_file_read_tables(lp_record_file *file, lp_open_tables *out, lp_error *err) {
    lp_open_tables tables = {0};
    table_visit visit = {.file = file, .tables = &tables, .err = err};
    if (H5Lvisit(file->file, H5_INDEX_NAME, H5_ITER_INC, look_at, &visit) < 0 && visit.status == LP_OK)
        visit.status = lp_h5_fail(err, file->path, "list the datasets");
    if (visit.status != LP_OK) {
        lp_open_tables_release(&tables);
        return visit.status;
    }
    *out = tables;
    return LP_OK;
}

void lp_open_tables_release(lp_open_tables *tables) {
    for (size_t i = 0; i < tables->n; i++) {
        lp_mem_free(tables->table[i].path);
        lp_mem_free(tables->table[i].block);
    }
    lp_mem_free(tables->table);
    *tables = (lp_open_tables){0};
}

const char *lp_record_file_path(const lp_record_file *file) {
    return file->path;
}

int64_t lp_record_file_n_pairs(const lp_record_file *file) {
    return file->n_pairs;
}

const uint8_t *lp_record_file_state(const lp_record_file *file) {
    return file->state;
}

int64_t lp_record_file_n_done(const lp_record_file *file) {
    return lp_record_file_n_done_of(file, file->n_pairs);
}

int64_t lp_record_file_n_done_of(const lp_record_file *file, int64_t n) {
    int64_t n_done = 0;
    LP_ASSERT(n <= file->n_pairs);
    for (int64_t i = 0; i < n; i++) n_done += file->state[i] == 1;
    return n_done;
}

const lp_field *lp_record_file_describe(const lp_record_file *file, size_t index) {
    LP_ASSERT(index < file->n_fields);
    return &file->fields[index].field;
}

size_t lp_record_file_field_bytes(const lp_record_file *file, size_t index) {
    LP_ASSERT(index < file->n_fields);
    return file->fields[index].bytes;
}

bool lp_record_file_find(const lp_record_file *file, const char *path, size_t *index) {
    for (size_t i = 0; i < file->n_fields; i++) {
        if (strcmp(file->fields[i].field.path, path) != 0) continue;
        *index = i;
        return true;
    }
    return false;
}

const char *lp_record_file_provenance(const lp_record_file *file, const char *key) {
    for (size_t i = 0; i < file->n_provenance; i++)
        if (strcmp(file->provenance[i].key, key) == 0) return file->provenance[i].value;
    return NULL;
}
