/* Where the datasets of a record file lie. Pairs are written by offset, past HDF5: what is not laid out as
 * lp_record_file_make does it has to be refused before that.
 *
 * Chunks of one pair are allocated when the file is made, and lie one after the other. HDF5 1.10 walks over all chunks
 * to find the address of one, which takes 40 s for every address of 100,000 pairs; a few addresses show the rule. */
#include "base/memory.h"
#include "store/record_file_internal.h"

enum { N_PLACES = 9 };

lp_status lp_record_check_links(hid_t file, const char *path, const char *name, lp_error *err) {
    lp_status status = LP_OK;
    char *part = NULL;
    size_t length = strlen(path);
    LP_TRY(lp_mem_text(&part, path, length, err));
    for (size_t i = 1; i <= length; i++) {
        H5L_info_t info;
        if (path[i] != '/' && path[i] != '\0') continue;
        part[i] = '\0';
        if (H5Lget_info(file, part, &info, H5P_DEFAULT) < 0) {
            H5Eclear2(H5E_DEFAULT);
            LP_FAIL(LP_ERR_FORMAT, "%s: /%s is missing", name, part);
        }
        if (info.type != H5L_TYPE_HARD)
            LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected data of this file, found %s link", name, part,
                    info.type == H5L_TYPE_SOFT ? "a soft" : "an external");
        part[i] = path[i];
    }
out:
    lp_mem_free(part);
    return status;
}

static const char *layout_name(H5D_layout_t layout) {
    switch (layout) {
    case H5D_COMPACT: return "compact data";
    case H5D_CONTIGUOUS: return "contiguous data";
    case H5D_CHUNKED: return "chunks";
    default: return "data of other datasets";
    }
}

/* field->file_offset from the addresses of some chunks; creation: of the dataset, which is chunked without filters. */
static lp_status find_chunks(const lp_record_file *file, lp_open_field *field, hid_t creation, lp_error *err) {
    const char *path = field->field.path;
    hsize_t dims[H5S_MAX_RANK], chunk[H5S_MAX_RANK], at[H5S_MAX_RANK] = {0};
    int n_dims = H5Sget_simple_extent_dims(field->space, dims, NULL);
    uint64_t bytes = H5Tget_size(field->type);
    bool one_pair = H5Pget_chunk(creation, H5S_MAX_RANK, chunk) == n_dims && chunk[0] == 1;
    for (int d = 1; one_pair && d < n_dims; d++) {
        one_pair = chunk[d] == dims[d];
        bytes *= chunk[d];
    }
    if (!one_pair) return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: expected chunks of one pair", file->path, path);
    const int64_t last = file->n_pairs - 1;
    for (int64_t i = 0; i < N_PLACES; i++) {
        haddr_t address = HADDR_UNDEF;
        hsize_t size = 0;
        unsigned mask = 0;
        int64_t pair = last * i / (N_PLACES - 1);
        at[0] = (hsize_t)pair;
        if (H5Dget_chunk_info_by_coord(field->dataset, at, &mask, &address, &size) < 0)
            return lp_h5_fail(err, file->path, "find pair %lld of /%s", (long long)pair, path);
        if (address == HADDR_UNDEF || size != bytes)
            return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: pair %lld has no place in the file", file->path, path,
                           (long long)pair);
        if (i == 0) field->file_offset = (int64_t)address;
        if (address != (haddr_t)field->file_offset + (haddr_t)pair * bytes)
            return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: expected pair %lld at byte %llu of the file, found it at %llu",
                           file->path, path, (long long)pair,
                           (unsigned long long)((haddr_t)field->file_offset + (haddr_t)pair * bytes),
                           (unsigned long long)address);
    }
    return LP_OK;
}

static lp_status find_place(const lp_record_file *file, lp_open_field *field, hid_t creation, lp_error *err) {
    const char *path = field->field.path;
    H5D_layout_t layout = H5Pget_layout(creation);
    bool chunked = file->journal_version >= 2 && H5Sget_simple_extent_ndims(field->space) - 1 >= (int)LP_CHUNKED_DIMS;
    if (H5Pget_external_count(creation) != 0)
        return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: expected data of this file, found external data", file->path,
                       path);
    field->compressed = H5Pget_nfilters(creation) > 0;
    field->file_offset = -1;
    if (field->compressed) return LP_OK;
    if (layout != (chunked ? H5D_CHUNKED : H5D_CONTIGUOUS))
        return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: expected %s, found %s", file->path, path,
                       chunked ? "chunks of one pair" : "contiguous data", layout_name(layout));
    if (chunked) return find_chunks(file, field, creation, err);
    haddr_t offset = H5Dget_offset(field->dataset);
    if (offset == HADDR_UNDEF) return lp_fail(err, LP_ERR_FORMAT, "%s: /%s has no place in the file", file->path, path);
    field->file_offset = (int64_t)offset;
    return LP_OK;
}

/* Reads of a plain file go past HDF5's cache of chunks: what other ranks write by offset would not be seen in it. */
static hid_t without_cache(const lp_record_file *file, const char *path) {
    hid_t access = H5Pcreate(H5P_DATASET_ACCESS);
    hid_t dataset = H5I_INVALID_HID;
    if (access >= 0 && H5Pset_chunk_cache(access, 0, 0, 0) >= 0) dataset = H5Dopen2(file->file, path, access);
    lp_h5_close(access);
    return dataset;
}

lp_status lp_record_open_dataset(const lp_record_file *file, lp_open_field *field, lp_error *err) {
    const char *path = field->field.path;
    lp_status status = LP_OK;
    hid_t creation = H5I_INVALID_HID;
    LP_TRY(lp_record_check_links(file->file, path, file->path, err));
    field->dataset = H5Dopen2(file->file, path, H5P_DEFAULT);
    creation = field->dataset < 0 ? H5I_INVALID_HID : H5Dget_create_plist(field->dataset);
    if (creation >= 0 && H5Pget_nfilters(creation) == 0) {
        lp_h5_close(field->dataset);
        field->dataset = without_cache(file, path);
    }
    if (creation < 0 || field->dataset < 0) LP_TRY(lp_h5_fail(err, file->path, "open the dataset /%s", path));
    field->type = H5Dget_type(field->dataset);
    field->space = H5Dget_space(field->dataset);
    int n_dims = H5Sget_simple_extent_ndims(field->space);
    if (n_dims < 1 || n_dims > LP_FIELD_MAX_DIMS + 1)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected 1 to %d dimensions, found %d", file->path, path,
                LP_FIELD_MAX_DIMS + 1, n_dims);
    hsize_t dims[H5S_MAX_RANK];
    H5Sget_simple_extent_dims(field->space, dims, NULL);
    if (dims[0] != (hsize_t)file->n_pairs)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected %lld pairs, found %llu", file->path, path, (long long)file->n_pairs,
                (unsigned long long)dims[0]);
    status = find_place(file, field, creation, err);
out:
    lp_h5_close(creation);
    return status;
}

lp_status lp_record_check_places(const lp_record_file *file, lp_error *err) {
    const size_t n = file->n_fields + 2;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < i; j++) {
            const lp_open_field *pair[2];
            for (int k = 0; k < 2; k++) {
                size_t index = k ? j : i;
                pair[k] = index < file->n_fields    ? &file->fields[index]
                          : index == file->n_fields ? &file->state_field
                                                    : &file->checksum_field;
            }
            if (pair[0]->file_offset < 0 || pair[1]->file_offset < 0) continue;
            int64_t end[2];
            for (int k = 0; k < 2; k++) end[k] = pair[k]->file_offset + file->n_pairs * (int64_t)pair[k]->bytes;
            if (pair[0]->file_offset < end[1] && pair[1]->file_offset < end[0])
                return lp_fail(err, LP_ERR_FORMAT, "%s: /%s and /%s lie in the same bytes of the file", file->path,
                               pair[1]->field.path, pair[0]->field.path);
        }
    return LP_OK;
}
