#include "store/record_file_internal.h"

#include "base/file.h"
#include "base/memory.h"
#include "parallel/communicator.h"

#include <errno.h>
#include <unistd.h>

/* Of a file by others; ours have some 50 of each. What is done with them grows with their square. */
enum { MAX_LISTED = 4096 };

static void close_handles(lp_open_field *field) {
    lp_h5_close(field->memory);
    lp_h5_close(field->space);
    lp_h5_close(field->type);
    lp_h5_close(field->dataset);
    field->memory = field->space = field->type = field->dataset = H5I_INVALID_HID;
}

static void release_field(lp_open_field *field) {
    close_handles(field);
    lp_mem_free((void *)(uintptr_t)field->field.path);
    lp_mem_free((void *)(uintptr_t)field->field.description);
    lp_mem_free((void *)(uintptr_t)field->field.layers);
}

static void clear_handles(lp_open_field *field) {
    *field = (lp_open_field){
        .dataset = H5I_INVALID_HID, .type = H5I_INVALID_HID, .memory = H5I_INVALID_HID, .space = H5I_INVALID_HID};
}

static void release(lp_record_file *file) {
    for (size_t i = 0; i < file->n_fields; i++) release_field(&file->fields[i]);
    release_field(&file->state_field);
    release_field(&file->checksum_field);
    lp_h5_close(file->file);
    if (file->raw != MPI_FILE_NULL) MPI_File_close(&file->raw);
    for (size_t i = 0; i < file->n_provenance; i++) {
        lp_mem_free((void *)(uintptr_t)file->provenance[i].key);
        lp_mem_free((void *)(uintptr_t)file->provenance[i].value);
    }
    lp_mem_free(file->provenance);
    lp_mem_free(file->fields);
    lp_mem_free(file->state);
    lp_mem_free(file->ids);
    lp_mem_free(file->part);
    lp_mem_free(file->format);
    lp_mem_free(file->path);
    lp_checksum_free(file->sum);
    lp_mem_free(file);
}

static lp_status new_file(const lp_parallel *parallel, const char *path, lp_record_file **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    LP_TRY(lp_mem_new(&file, 1, sizeof *file, "file state", err));
    file->parallel = parallel;
    file->file = H5I_INVALID_HID;
    file->raw = MPI_FILE_NULL;
    clear_handles(&file->state_field);
    clear_handles(&file->checksum_field);
    LP_TRY(lp_mem_text(&file->path, path, strlen(path), err));
    LP_TRY(lp_checksum_new(&file->sum, err));
    *out = file;
    file = NULL;
out:
    if (file) release(file);
    return status;
}

/* Opens the dataset of a field whose path and shape are known or about to be read. */
static lp_status open_handles(const lp_record_file *file, lp_open_field *field, lp_error *err) {
    hsize_t dims[H5S_MAX_RANK];
    LP_CHECK(lp_record_open_dataset(file, field, err));
    int n_dims = H5Sget_simple_extent_dims(field->space, dims, NULL);
    dims[0] = 1;
    field->memory = H5Screate_simple(n_dims, dims, NULL);
    return LP_OK;
}

/* Reads the attributes that belong to a field's description. */
static lp_status read_labels(lp_open_field *field, const char *name, lp_error *err) {
    lp_status status = LP_OK;
    lp_text text = {0};
    hid_t attribute = H5I_INVALID_HID;
    hid_t space = H5I_INVALID_HID;
    if (H5Aexists(field->dataset, "description") > 0) {
        char *copy = NULL;
        LP_TRY(lp_h5_get_text(field->dataset, "description", &text, name, err));
        LP_TRY(lp_mem_text(&copy, lp_text_get(&text), text.length, err));
        field->field.description = copy;
    }
    if (H5Aexists(field->dataset, "layers") > 0) {
        attribute = H5Aopen(field->dataset, "layers", H5P_DEFAULT);
        space = H5Aget_space(attribute);
        hssize_t n = H5Sget_simple_extent_npoints(space);
        if (n < 1 || n > 65536) LP_FAIL(LP_ERR_FORMAT, "%s: /%s: attribute layers is damaged", name, field->field.path);
        int32_t *layers = NULL;
        LP_TRY(lp_mem_new(&layers, (size_t)n, sizeof *layers, "layers", err));
        field->field.layers = layers;
        field->field.n_layers = (size_t)n;
        if (H5Aread(attribute, H5T_NATIVE_INT32, layers) < 0)
            status = lp_h5_fail(err, name, "read the attribute layers of /%s", field->field.path);
    }
out:
    lp_h5_close(space);
    lp_h5_close(attribute);
    lp_text_release(&text);
    return status;
}

static lp_status open_field(lp_record_file *file, const char *path, lp_open_field *field, lp_error *err) {
    char *copy = NULL;
    LP_CHECK(lp_mem_text(&copy, path, strlen(path), err));
    field->field.path = copy;
    LP_CHECK(open_handles(file, field, err));
    LP_CHECK(lp_h5_type_of(field->dataset, &field->field.type, &field->field.text_bytes, file->path, path, err));
    int n_dims = H5Sget_simple_extent_ndims(field->space);
    hsize_t dims[LP_FIELD_MAX_DIMS + 1];
    H5Sget_simple_extent_dims(field->space, dims, NULL);
    field->field.n_dims = n_dims - 1;
    field->bytes = lp_h5_item_bytes(field->field.type, field->field.text_bytes);
    for (int d = 1; d < n_dims; d++) {
        if (dims[d] == 0 || dims[d] > UINT32_MAX / field->bytes)
            return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: a size is out of range", file->path, path);
        field->field.dims[d - 1] = (int64_t)dims[d];
        field->bytes *= dims[d];
    }
    return read_labels(field, file->path, err);
}

static lp_status add_field(void *state, const char *path, lp_error *err) {
    lp_record_file *file = state;
    size_t capacity = file->n_fields;
    if (capacity == MAX_LISTED)
        return lp_fail(err, LP_ERR_FORMAT, "%s: /journal: expected at most %d fields", file->path, MAX_LISTED);
    /* One more each time: fields are few. */
    lp_open_field *grown = NULL;
    LP_CHECK(lp_mem_new(&grown, capacity + 1, sizeof *grown, "fields", err));
    if (file->fields) memcpy(grown, file->fields, capacity * sizeof *grown);
    lp_mem_free(file->fields);
    file->fields = grown;
    lp_open_field *field = &grown[file->n_fields++];
    clear_handles(field);
    LP_CHECK(open_field(file, path, field, err));
    file->compressed = file->compressed || field->compressed;
    field->offset = file->pair_bytes;
    file->pair_bytes += (field->bytes + 63) / 64 * 64;
    return LP_OK;
}

static lp_status add_key(void *state, const char *key, lp_error *err) {
    lp_record_file *file = state;
    lp_provenance_item *grown = NULL;
    if (file->n_provenance == MAX_LISTED)
        return lp_fail(err, LP_ERR_FORMAT, "%s: /provenance: expected at most %d keys", file->path, MAX_LISTED);
    LP_CHECK(lp_mem_new(&grown, file->n_provenance + 1, sizeof *grown, "provenance", err));
    if (file->provenance) memcpy(grown, file->provenance, file->n_provenance * sizeof *grown);
    lp_mem_free(file->provenance);
    file->provenance = grown;
    char *copy = NULL;
    LP_CHECK(lp_mem_text(&copy, key, strlen(key), err));
    grown[file->n_provenance++].key = copy;
    return LP_OK;
}

static lp_status mark_identity(void *state, const char *key, lp_error *err) {
    (void)err;
    lp_record_file *file = state;
    for (size_t i = 0; i < file->n_provenance; i++)
        if (strcmp(file->provenance[i].key, key) == 0) file->provenance[i].identity = true;
    return LP_OK;
}

static lp_status read_provenance(lp_record_file *file, lp_error *err) {
    lp_status status = LP_OK;
    lp_text text = {0};
    hid_t group = H5I_INVALID_HID;
    LP_TRY(lp_record_check_links(file->file, "provenance", file->path, err));
    group = H5Gopen2(file->file, "provenance", H5P_DEFAULT);
    if (group < 0) {
        H5Eclear2(H5E_DEFAULT);
        LP_FAIL(LP_ERR_FORMAT, "%s: group /provenance is missing", file->path);
    }
    LP_TRY(lp_h5_each_text(group, "keys", add_key, file, file->path, err));
    LP_TRY(lp_h5_each_text(group, "identity", mark_identity, file, file->path, err));
    for (size_t i = 0; i < file->n_provenance; i++) {
        char *value = NULL;
        lp_text_clear(&text);
        LP_TRY(lp_h5_get_text(group, file->provenance[i].key, &text, file->path, err));
        LP_TRY(lp_mem_text(&value, lp_text_get(&text), text.length, err));
        file->provenance[i].value = value;
    }
out:
    lp_text_release(&text);
    lp_h5_close(group);
    return status;
}

/* The pairs' ids, which their checksums cover. */
static lp_status read_ids(lp_record_file *file, lp_error *err) {
    int64_t n = 0;
    if (H5Lexists(file->file, "pairs", H5P_DEFAULT) <= 0 || H5Lexists(file->file, "pairs/id", H5P_DEFAULT) <= 0)
        return LP_OK;
    LP_CHECK(lp_record_file_table(file, "pairs/id", LP_TEXT, (void **)&file->ids, &n, &file->id_bytes, err));
    if (n != file->n_pairs)
        return lp_fail(err, LP_ERR_FORMAT, "%s: /pairs/id: expected %lld ids, found %lld", file->path,
                       (long long)file->n_pairs, (long long)n);
    return LP_OK;
}

static lp_status read_journal(lp_record_file *file, lp_error *err) {
    lp_status status = LP_OK;
    hid_t dataset = H5I_INVALID_HID;
    hid_t group = H5I_INVALID_HID;
    LP_TRY(lp_record_check_links(file->file, "journal/state", file->path, err));
    LP_TRY(lp_h5_open_dataset(file->file, "journal/state", LP_U8, 1, &file->n_pairs, NULL, &dataset, file->path, err));
    if (file->n_pairs < 1) LP_FAIL(LP_ERR_FORMAT, "%s: no pairs", file->path);
    group = H5Gopen2(file->file, "journal", H5P_DEFAULT);
    file->journal_version = 1;
    if (H5Aexists(group, "version") > 0)
        LP_TRY(lp_h5_get_i32(group, "version", &file->journal_version, file->path, err));
    if (file->journal_version < 1 || file->journal_version > LP_JOURNAL_VERSION)
        LP_FAIL(LP_ERR_UNSUPPORTED, "%s: /journal: expected version 1 to %d, found %d", file->path, LP_JOURNAL_VERSION,
                file->journal_version);
    LP_TRY(lp_h5_check_stored(dataset, (uint64_t)file->n_pairs, 1, file->path, "journal/state", err));
    LP_TRY(lp_mem_new(&file->state, (size_t)file->n_pairs, 1, "journal", err));
    LP_TRY(lp_h5_read_part(dataset, 0, file->n_pairs, file->state, file->path, "journal/state", err));
    LP_TRY(open_field(file, "journal/state", &file->state_field, err));
    LP_TRY(open_field(file, "journal/checksum", &file->checksum_field, err));
    if (file->checksum_field.field.type != LP_U8 || file->checksum_field.bytes != LP_CHECKSUM_BYTES)
        LP_FAIL(LP_ERR_FORMAT, "%s: /journal/checksum: expected %d bytes a pair, found %zu", file->path,
                LP_CHECKSUM_BYTES, file->checksum_field.bytes);
    LP_TRY(lp_h5_each_text(group, "fields", add_field, file, file->path, err));
    LP_TRY(lp_record_check_places(file, err));
    status = read_ids(file, err);
out:
    lp_h5_close(group);
    lp_h5_close(dataset);
    return status;
}

/* Reads what the file says of itself. */
static lp_status read_contents(lp_record_file *file, lp_error *err) {
    lp_status status = LP_OK;
    lp_text format = {0};
    hid_t root = H5Gopen2(file->file, "/", H5P_DEFAULT);
    LP_TRY(lp_h5_get_text(root, "format", &format, file->path, err));
    LP_TRY(lp_mem_text(&file->format, lp_text_get(&format), format.length, err));
    if (H5Lexists(root, "journal", H5P_DEFAULT) <= 0)
        LP_FAIL(LP_ERR_FORMAT, "%s: expected an activation store, found a file of format %.100s without /journal",
                file->path, file->format);
    LP_TRY(lp_h5_get_i32(root, "version", &file->version, file->path, err));
    LP_TRY(read_journal(file, err));
    status = read_provenance(file, err);
out:
    lp_text_release(&format);
    lp_h5_close(root);
    return status;
}

static lp_status open_hdf5(lp_record_file *file, unsigned access_flags, lp_error *err) {
    hid_t list = lp_h5_access();
    lp_status status = LP_OK;
    file->file = H5Fopen(file->path, access_flags, list);
    if (file->file < 0) status = lp_h5_fail(err, file->path, "open");
    lp_h5_close(list);
    return status;
}

static lp_status open_by_one(const char *path, bool writable, lp_record_file **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    LP_TRY(lp_h5_begin(err));
    LP_TRY(lp_file_check(path, err));
    LP_TRY(new_file(NULL, path, &file, err));
    file->writable = writable;
    LP_TRY(open_hdf5(file, writable ? H5F_ACC_RDWR : H5F_ACC_RDONLY, err));
    LP_TRY(read_contents(file, err));
    *out = file;
    file = NULL;
out:
    if (file) release(file);
    return status;
}

lp_status lp_record_fail_mpi(const lp_record_file *file, int code, const char *what, lp_error *err) {
    char text[MPI_MAX_ERROR_STRING] = "";
    int length = 0;
    const char *system = lp_io_guess(file->path);
    if (!system && MPI_Error_string(code, text, &length) != MPI_SUCCESS) snprintf(text, sizeof text, "error %d", code);
    return lp_fail(err, LP_ERR_IO, "%s: cannot %s: %s", file->path, what, system ? system : text);
}

lp_status lp_record_file_open_read(const char *path, lp_record_file **out, lp_error *err) {
    return open_by_one(path, false, out, err);
}

lp_status lp_record_file_open_alone(const char *path, lp_record_file **out, lp_error *err) {
    return open_by_one(path, true, out, err);
}

lp_status lp_record_file_finish_alone(lp_record_file *file, lp_error *err) {
    LP_ASSERT(!file->parallel);
    lp_status status = lp_h5_finish(&file->file, file->path, file->path, err);
    release(file);
    return status;
}

/* Makes or checks the file; on rank 0 alone. */
static lp_status prepare(const char *path, const lp_record_file_spec *spec, int64_t *created, lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *there = NULL;
    *created = lp_path_look(path) == LP_PATH_MISSING;
    if (*created) return lp_record_file_make(path, spec, LP_PLAIN, err);
    LP_TRY(lp_record_file_open_read(path, &there, err));
    LP_TRY(lp_record_file_compare(there, spec, err));
    if (there->compressed && lp_record_file_n_done_of(there, spec->n_pairs) < spec->n_pairs)
        LP_FAIL(
            LP_ERR_UNSUPPORTED,
            "%s: is an archive, which cannot be continued: %lld of %lld pairs are there; continue the store that it "
            "was made of",
            path, (long long)lp_record_file_n_done_of(there, spec->n_pairs), (long long)spec->n_pairs);
    if (access(path, W_OK) != 0) LP_FAIL(LP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
out:
    lp_record_file_close(there);
    return status;
}

/* HDF5 only reads: the places of the datasets. The pairs are written by MPI-IO at those places (H5Dget_offset), because
 * HDF5 1.10 rewrites its superblock when a file that it opened for writing is closed, and cannot close a file on
 * a disk that fails: other ranks wait in its barriers for ever, or the process dies in MPI_Finalize. Opened like this
 * it has nothing to write, a kill finds no metadata under way, and an error is that of the write itself. */
static lp_status open_parallel(lp_record_file *file, lp_error *err) {
    lp_status status = open_hdf5(file, H5F_ACC_RDONLY, err);
    if (status == LP_OK) status = read_contents(file, err);
    status = lp_parallel_agree(file->parallel, status, err);
    if (status != LP_OK) return status;
    file->writable = true;
    int code = MPI_File_open(file->parallel->comm, file->path, MPI_MODE_RDWR, MPI_INFO_NULL, &file->raw);
    if (code != MPI_SUCCESS) {
        file->raw = MPI_FILE_NULL;
        status = lp_record_fail_mpi(file, code, "open for writing", err);
    }
    return lp_parallel_agree(file->parallel, status, err);
}

lp_status lp_record_file_open(const lp_parallel *parallel, const char *path, const lp_record_file_spec *spec,
                              lp_record_file **out, bool *created, lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    int64_t fresh = 0;
    LP_TRY(lp_parallel_agree(parallel, lp_h5_begin(err), err));
    if (lp_parallel_rank(parallel) == 0) status = prepare(path, spec, &fresh, err);
    LP_TRY(lp_parallel_agree(parallel, status, err));
    LP_TRY(lp_parallel_broadcast(parallel, &fresh, sizeof fresh, err));
    LP_TRY(lp_parallel_agree(parallel, new_file(parallel, path, &file, err), err));
    LP_TRY(open_parallel(file, err));
    if (created) *created = fresh != 0;
    *out = file;
    file = NULL;
out:
    if (file) release(file);
    return status;
}

void lp_record_file_close(lp_record_file *file) {
    if (file) release(file);
}

static lp_status write_note(lp_record_file *file, const char *key, const char *value, lp_error *err) {
    lp_status status = LP_OK;
    char *padded = NULL;
    hid_t group = H5Gopen2(file->file, "provenance", H5P_DEFAULT);
    hid_t attribute = H5Aopen(group, key, H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute);
    size_t room = H5Tget_size(type);
    if (room == 0) LP_TRY(lp_h5_fail(err, file->path, "open the attribute %s", key));
    LP_TRY(lp_mem_new(&padded, room, 1, "attribute", err));
    memcpy(padded, value, strnlen(value, room));
    if (H5Awrite(attribute, type, padded) < 0) status = lp_h5_fail(err, file->path, "write the attribute %s", key);
out:
    lp_mem_free(padded);
    lp_h5_close(type);
    lp_h5_close(attribute);
    lp_h5_close(group);
    return status;
}

static void close_all_handles(lp_record_file *file) {
    for (size_t i = 0; i < file->n_fields; i++) close_handles(&file->fields[i]);
    close_handles(&file->state_field);
    close_handles(&file->checksum_field);
    lp_h5_close(file->file);
    file->file = H5I_INVALID_HID;
}

/* HDF5 does not open a file for writing that it holds open for reading: close, write, open again. */
static lp_status reopen_for_note(lp_record_file *file, const char *key, const char *value, lp_error *err) {
    close_all_handles(file);
    LP_CHECK(open_hdf5(file, H5F_ACC_RDWR, err));
    LP_CHECK(write_note(file, key, value, err));
    LP_CHECK(lp_h5_finish(&file->file, file->path, file->path, err));
    LP_CHECK(open_hdf5(file, H5F_ACC_RDONLY, err));
    for (size_t i = 0; i < file->n_fields; i++) LP_CHECK(open_handles(file, &file->fields[i], err));
    LP_CHECK(open_handles(file, &file->state_field, err));
    return open_handles(file, &file->checksum_field, err);
}

lp_status lp_record_file_note(lp_record_file *file, const char *key, const char *value, lp_error *err) {
    lp_status status = LP_OK;
    lp_provenance_item *item = NULL;
    char text[LP_NOTE_BYTES + 1] = "";
    char *copy = NULL;
    LP_ASSERT(file->parallel);
    for (size_t i = 0; i < file->n_provenance; i++)
        if (strcmp(file->provenance[i].key, key) == 0) item = &file->provenance[i];
    if (!item) return lp_fail(err, LP_ERR_VALUE, "%s: provenance has no key %s", file->path, key);
    memcpy(text, value, strnlen(value, LP_NOTE_BYTES));
    LP_TRY(lp_parallel_broadcast(file->parallel, text, sizeof text, err));
    if (lp_parallel_rank(file->parallel) == 0) status = reopen_for_note(file, key, text, err);
    LP_TRY(lp_parallel_agree(file->parallel, status, err));
    LP_TRY(lp_mem_text(&copy, text, strlen(text), err));
    lp_mem_free((void *)(uintptr_t)item->value);
    item->value = copy;
out:
    return status;
}
