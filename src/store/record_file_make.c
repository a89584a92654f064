#include "store/record_file_internal.h"

#include "base/digest.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

static lp_status pair_bytes_of(const char *path, const lp_record_file_spec *spec, uint64_t *out, lp_error *err) {
    uint64_t sum = LP_CHECKSUM_BYTES + 1;
    for (size_t i = 0; i < spec->n_fields; i++) {
        const lp_field *field = &spec->fields[i];
        uint64_t bytes = lp_h5_item_bytes(field->type, field->text_bytes);
        bool good = bytes > 0;
        for (int d = 0; d < field->n_dims; d++) {
            LP_ASSERT(field->dims[d] > 0);
            good = good && lp_mul_u64(bytes, (uint64_t)field->dims[d], &bytes);
        }
        if (!good || !lp_add_u64(sum, bytes, &sum) || bytes > INT32_MAX)
            return lp_fail(err, LP_ERR_VALUE, "%s: /%s: expected less than 2 GiB a pair", path, field->path);
    }
    *out = sum;
    return LP_OK;
}

/* Better now than after hours: the data are allocated sparsely, so that HDF5 would notice only then. */
static lp_status check_room(const char *path, const lp_record_file_spec *spec, lp_error *err) {
    uint64_t bytes = 0;
    char *folder = NULL;
    lp_status status = LP_OK;
    LP_TRY(pair_bytes_of(path, spec, &bytes, err));
    if (!lp_mul_u64(bytes, (uint64_t)spec->n_pairs, &bytes) || bytes > INT64_MAX / 2)
        LP_FAIL(LP_ERR_VALUE, "%s: %lld pairs are too many for one file", path, (long long)spec->n_pairs);
    LP_TRY(lp_path_folder(path, &folder, err));
    struct statvfs room;
    if (statvfs(folder, &room) != 0) goto out;
    uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    if (free_bytes < bytes)
        LP_FAIL(LP_ERR_IO, "%s: needs %.1f MB, but %s has only %.1f MB free", path, (double)bytes / 1e6, folder,
                (double)free_bytes / 1e6);
out:
    lp_mem_free(folder);
    return status;
}

/* Archives: chunks of about this size, which the default chunk cache of a reader holds. */
enum { ARCHIVE_CHUNK_BYTES = 1 << 18, ARCHIVE_DEFLATE = 4 };

static herr_t set_layout(hid_t creation, int n_dims, hsize_t *chunk, hsize_t n_pairs, size_t bytes,
                         lp_packing packing) {
    if (packing == LP_PLAIN)
        return n_dims - 1 < (int)LP_CHUNKED_DIMS ? H5Pset_layout(creation, H5D_CONTIGUOUS)
                                                 : H5Pset_chunk(creation, n_dims, chunk);
    chunk[0] = bytes < ARCHIVE_CHUNK_BYTES ? ARCHIVE_CHUNK_BYTES / bytes : 1;
    if (chunk[0] > n_pairs) chunk[0] = n_pairs;
    if (H5Pset_alloc_time(creation, H5D_ALLOC_TIME_INCR) < 0 || H5Pset_chunk(creation, n_dims, chunk) < 0 ||
        H5Pset_shuffle(creation) < 0 || H5Pset_deflate(creation, ARCHIVE_DEFLATE) < 0)
        return -1;
    return H5Pset_fletcher32(creation);
}

static lp_status make_field(hid_t file, const lp_field *field, int64_t n_pairs, lp_packing packing, const char *name,
                            lp_error *err) {
    lp_status status = LP_OK;
    hsize_t dims[LP_FIELD_MAX_DIMS + 1] = {(hsize_t)n_pairs};
    hsize_t chunk[LP_FIELD_MAX_DIMS + 1] = {1};
    size_t bytes = lp_h5_item_bytes(field->type, field->text_bytes);
    for (int d = 0; d < field->n_dims; d++) {
        dims[d + 1] = chunk[d + 1] = (hsize_t)field->dims[d];
        bytes *= (size_t)field->dims[d];
    }
    hid_t dataset = H5I_INVALID_HID;
    hid_t type = lp_h5_type(field->type, field->text_bytes);
    hid_t space = H5Screate_simple(field->n_dims + 1, dims, NULL);
    hid_t creation = lp_h5_dataset_creation();
    LP_TRY(lp_h5_make_group_of(file, field->path, name, err));
    if (type < 0 || space < 0 || creation < 0 ||
        set_layout(creation, field->n_dims + 1, chunk, (hsize_t)n_pairs, bytes, packing) < 0 ||
        (dataset = H5Dcreate2(file, field->path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0)
        LP_TRY(lp_h5_fail(err, name, "make /%s", field->path));
    if (field->description) LP_TRY(lp_h5_put_text(dataset, "description", field->description, 0, name, err));
    if (field->layers) LP_TRY(lp_h5_put_i32(dataset, "layers", field->layers, field->n_layers, name, err));
out:
    lp_h5_close(dataset);
    lp_h5_close(creation);
    lp_h5_close(space);
    lp_h5_close(type);
    return status;
}

/* Gives a table the digest of its bytes: the checksums of the pairs do not cover it. */
static lp_status seal_table(hid_t file, const char *path, const char *name, lp_error *err) {
    lp_status status = LP_OK;
    uint8_t *block = NULL;
    unsigned char digest[LP_SHA256_BYTES];
    char hex[LP_SHA256_HEX];
    hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
    hid_t type = H5Dget_type(dataset);
    hid_t space = H5Dget_space(dataset);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    size_t item_bytes = H5Tget_size(type);
    if (n < 0 || item_bytes == 0) LP_TRY(lp_h5_fail(err, name, "open /%s", path));
    LP_TRY(lp_mem_new(&block, (size_t)n, item_bytes, path, err));
    if (n > 0 && H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, block) < 0)
        LP_TRY(lp_h5_fail(err, name, "read /%s", path));
    LP_TRY(lp_sha256_of(block, (size_t)n * item_bytes, digest, err));
    lp_sha256_hex(digest, hex);
    status = lp_h5_put_text(dataset, LP_TABLE_DIGEST, hex, 0, name, err);
out:
    lp_h5_close(space);
    lp_h5_close(type);
    lp_h5_close(dataset);
    lp_mem_free(block);
    return status;
}

static lp_status make_table(hid_t file, const lp_table *table, const char *name, lp_error *err) {
    lp_h5_dataset dataset = {
        .path = table->path, .type = table->type, .n_dims = table->n_dims, .description = table->description};
    for (int d = 0; d < table->n_dims; d++) dataset.dims[d] = table->dims[d];
    if (table->type == LP_TEXT)
        LP_CHECK(lp_h5_put_strings(file, table->path, table->data, table->dims[0], table->description, name, err));
    else
        LP_CHECK(lp_h5_make_dataset(file, &dataset, table->data, NULL, name, err));
    return seal_table(file, table->path, name, err);
}

static lp_status make_journal(hid_t file, const lp_record_file_spec *spec, const char *name, lp_error *err) {
    lp_status status = LP_OK;
    uint8_t *zeros = NULL;
    const char **paths = NULL;
    hid_t journal = H5I_INVALID_HID;
    const int32_t version = LP_JOURNAL_VERSION;
    const lp_field checksum = {.path = "journal/checksum",
                               .type = LP_U8,
                               .n_dims = 1,
                               .dims = {LP_CHECKSUM_BYTES},
                               .description = "XXH3-128 over the pair's number (int64) and id, then of each of the "
                                              "attribute fields its path and the pair's bytes; id and path end in NUL"};
    LP_TRY(lp_mem_new(&zeros, (size_t)spec->n_pairs, 1, "journal", err));
    LP_TRY(lp_mem_new(&paths, spec->n_fields, sizeof *paths, "journal", err));
    LP_TRY(lp_h5_make_dataset(file,
                              &(lp_h5_dataset){.path = "journal/state",
                                               .type = LP_U8,
                                               .n_dims = 1,
                                               .dims = {spec->n_pairs},
                                               .description = "1: the pair is written and checksummed"},
                              zeros, NULL, name, err));
    LP_TRY(make_field(file, &checksum, spec->n_pairs, LP_PLAIN, name, err));
    for (size_t i = 0; i < spec->n_fields; i++) paths[i] = spec->fields[i].path;
    journal = H5Gopen2(file, "journal", H5P_DEFAULT);
    if (journal < 0) LP_TRY(lp_h5_fail(err, name, "open /journal"));
    LP_TRY(lp_h5_put_texts(journal, "fields", paths, spec->n_fields, name, err));
    status = lp_h5_put_i32(journal, "version", &version, 1, name, err);
out:
    lp_h5_close(journal);
    lp_mem_free(paths);
    lp_mem_free(zeros);
    return status;
}

lp_status lp_provenance_make(hid_t file, const lp_provenance_item *items, size_t n, const char *name, lp_error *err) {
    lp_status status = LP_OK;
    const char **keys = NULL;
    size_t n_identity = 0;
    hid_t group = H5I_INVALID_HID;
    LP_TRY(lp_h5_make_group(file, "provenance", name, err));
    group = H5Gopen2(file, "provenance", H5P_DEFAULT);
    if (group < 0) LP_TRY(lp_h5_fail(err, name, "make /provenance"));
    LP_TRY(lp_mem_new(&keys, n, sizeof *keys, "provenance", err));
    for (size_t i = 0; i < n; i++) {
        const lp_provenance_item *item = &items[i];
        LP_TRY(lp_h5_put_text(group, item->key, item->value, LP_NOTE_BYTES, name, err));
        if (item->identity) keys[n_identity++] = item->key;
    }
    LP_TRY(lp_h5_put_texts(group, "identity", keys, n_identity, name, err));
    for (size_t i = 0; i < n; i++) keys[i] = items[i].key;
    status = lp_h5_put_texts(group, "keys", keys, n, name, err);
out:
    lp_mem_free(keys);
    lp_h5_close(group);
    return status;
}

static lp_status fill(hid_t file, const lp_record_file_spec *spec, lp_packing packing, const char *name,
                      lp_error *err) {
    lp_status status = LP_OK;
    hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    LP_TRY(lp_h5_put_text(root, "format", spec->format, 0, name, err));
    LP_TRY(lp_h5_put_i32(root, "version", &spec->version, 1, name, err));
    LP_TRY(lp_provenance_make(file, spec->provenance, spec->n_provenance, name, err));
    for (size_t i = 0; i < spec->n_tables; i++) LP_TRY(make_table(file, &spec->tables[i], name, err));
    LP_TRY(make_journal(file, spec, name, err));
    if (packing == LP_PLAIN) LP_TRY(lp_h5_plain_chunks(file, name, err));
    for (size_t i = 0; i < spec->n_fields; i++)
        LP_TRY(make_field(file, &spec->fields[i], spec->n_pairs, packing, name, err));
out:
    lp_h5_close(root);
    return status;
}

/* Bytes that creation writes at once: tables, the journal's states, metadata. */
static uint64_t dense_bytes_of(const lp_record_file_spec *spec) {
    uint64_t sum = (uint64_t)spec->n_pairs + (64 << 10);
    for (size_t i = 0; i < spec->n_provenance; i++) sum += strlen(spec->provenance[i].value) + 512;
    sum += spec->n_fields * 1024;
    for (size_t i = 0; i < spec->n_tables; i++) {
        const lp_table *table = &spec->tables[i];
        uint64_t bytes = lp_h5_item_bytes(table->type, 1);
        for (int d = 0; d < table->n_dims; d++) bytes *= (uint64_t)table->dims[d];
        if (table->type == LP_TEXT) {
            const char *const *texts = table->data;
            size_t longest = 1;
            for (int64_t j = 0; j < table->dims[0]; j++) {
                size_t length = strlen(texts[j]);
                if (length > longest) longest = length;
            }
            bytes *= longest;
        }
        sum += bytes + 1024;
    }
    return sum;
}

lp_status lp_record_file_fill(const char *name, const lp_output *out, const lp_record_file_spec *spec,
                              lp_packing packing, lp_error *err) {
    lp_status status = LP_OK;
    uint64_t bytes = 0;
    hid_t file = H5I_INVALID_HID;
    LP_ASSERT(spec->n_pairs > 0);
    LP_TRY(check_room(name, spec, err));
    LP_TRY(pair_bytes_of(name, spec, &bytes, err));
    LP_TRY(lp_h5_rehearse(name, out->fd, dense_bytes_of(spec), bytes * (uint64_t)spec->n_pairs, err));
    file = lp_h5_make_file(out->temporary);
    if (file < 0) LP_TRY(lp_h5_fail(err, name, "make the file"));
    LP_TRY(fill(file, spec, packing, name, err));
    status = lp_h5_finish(&file, name, out->temporary, err);
out:
    lp_h5_close(file);
    return status;
}

lp_status lp_record_file_make(const char *path, const lp_record_file_spec *spec, lp_packing packing, lp_error *err) {
    lp_status status = LP_OK;
    lp_output out = {.fd = -1};
    LP_TRY(lp_path_make_folder_for(path, err));
    LP_TRY(lp_output_begin(path, &out, err));
    LP_TRY(lp_record_file_fill(path, &out, spec, packing, err));
    status = lp_output_publish(&out, LP_OUTPUT_NEW, err);
out:
    lp_output_discard(&out);
    return status;
}
