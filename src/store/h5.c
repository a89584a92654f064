#include "store/h5.h"

#include "base/memory.h"
#include "base/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "checksums are over little-endian bytes");

enum { H5_MAX_TEXT_ATTRIBUTE = 64 << 20 };

lp_status lp_h5_begin(lp_error *err) {
    /* The variable counts more than the access list, and HDF5 reads it once, when it starts. The lock is lock.h. */
    const char *locking = getenv("HDF5_USE_FILE_LOCKING");
    if ((!locking || strcmp(locking, "FALSE") != 0) && setenv("HDF5_USE_FILE_LOCKING", "FALSE", 1) != 0)
        return lp_fail(err, LP_ERR_MEMORY, "HDF5 cannot be started: %s", strerror(errno));
    if (H5open() < 0 || H5Eset_auto2(H5E_DEFAULT, NULL, NULL) < 0)
        return lp_fail(err, LP_ERR_HDF5, "HDF5 cannot be started");
    return LP_OK;
}

typedef struct {
    char innermost[256];
    char system[128]; /* the operating system's words, where an entry quotes them */
} reasons;

static herr_t collect(unsigned n, const H5E_error2_t *entry, void *state) {
    reasons *found = state;
    const char *text = entry->desc ? entry->desc : "";
    if (n == 0) snprintf(found->innermost, sizeof found->innermost, "%.200s", text);
    const char *quoted = strstr(text, "error message = '");
    if (quoted && !found->system[0]) {
        quoted += strlen("error message = '");
        snprintf(found->system, sizeof found->system, "%.*s", (int)strcspn(quoted, "'"), quoted);
    }
    return 0;
}

const char *lp_io_guess(const char *file) {
    struct statvfs room;
    struct rlimit limit;
    struct stat info;
    if (statvfs(file, &room) != 0) return NULL;
    if (room.f_bavail == 0) return strerror(ENOSPC);
    if (room.f_flag & ST_RDONLY) return strerror(EROFS);
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && stat(file, &info) == 0 &&
        (rlim_t)info.st_size > limit.rlim_cur)
        return strerror(EFBIG);
    return NULL;
}

lp_status lp_h5_fail(lp_error *err, const char *file, const char *format, ...) {
    char what[512];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    reasons found = {0};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, collect, &found);
    H5Eclear2(H5E_DEFAULT);
    if (H5Fis_hdf5(file) == 0)
        return lp_fail(err, LP_ERR_FORMAT, "%s: expected an HDF5 file, found something else", file);
    const char *guess = lp_io_guess(file);
    if (!found.system[0] && guess) snprintf(found.system, sizeof found.system, "%s", guess);
    if (found.system[0]) return lp_fail(err, LP_ERR_IO, "%s: cannot %s: %s", file, what, found.system);
    return lp_fail(err, LP_ERR_HDF5, "%s: cannot %s: HDF5: %s", file, what,
                   found.innermost[0] ? found.innermost : "no reason given");
}

static int leave_mpi(MPI_Comm comm, int key, void *value, void *state) {
    (void)comm, (void)key, (void)value, (void)state;
    fflush(NULL);
    _Exit(EXIT_FAILURE);
}

static void leave(void) {
    leave_mpi(MPI_COMM_NULL, 0, NULL, NULL);
}

/* A file that cannot be closed, because its disk fails, is freed by HDF5 1.10 although its identifier stays; at the end
 * of MPI, or of the process, HDF5 closes it again and crashes. The failure has a message by then and the exit code will
 * be 1; so the process leaves just before. Both lists of what is to be done at the end are worked through from the
 * back. */
static herr_t close_file(hid_t id) {
    int key = MPI_KEYVAL_INVALID;
    int started = 0;
    herr_t closed = H5Fclose(id);
    if (closed >= 0) return closed;
    MPI_Initialized(&started);
    if (started && MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, leave_mpi, &key, NULL) == MPI_SUCCESS)
        MPI_Comm_set_attr(MPI_COMM_SELF, key, NULL);
    atexit(leave);
    return closed;
}

void lp_h5_close(hid_t id) {
    if (id < 0) return;
    switch (H5Iget_type(id)) {
    case H5I_FILE: close_file(id); break;
    case H5I_GROUP: H5Gclose(id); break;
    case H5I_DATATYPE: H5Tclose(id); break;
    case H5I_DATASPACE: H5Sclose(id); break;
    case H5I_DATASET: H5Dclose(id); break;
    case H5I_ATTR: H5Aclose(id); break;
    case H5I_GENPROP_LST: H5Pclose(id); break;
    default: break;
    }
    H5Eclear2(H5E_DEFAULT);
}

size_t lp_h5_item_bytes(lp_dtype type, size_t text_bytes) {
    return type == LP_TEXT ? text_bytes : lp_dtype_bytes(type);
}

/* The types that the program keeps in HDF5, and their NumPy descriptions. */
static const struct {
    lp_dtype type;
    const char *name, *npy;
} types[] = {{LP_F32, "float32", "<f4"}, {LP_F64, "float64", "<f8"}, {LP_I32, "int32", "<i4"}, {LP_I64, "int64", "<i8"},
             {LP_U64, "uint64", "<u8"},  {LP_U8, "uint8", "|u1"},    {LP_TEXT, "string", "|S"}};
enum { N_TYPES = sizeof types / sizeof *types };

const char *lp_h5_type_name(lp_dtype type) {
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].type == type) return types[i].name;
    return lp_dtype_name(type);
}

const char *lp_h5_npy_type(lp_dtype type) {
    for (size_t i = 0; i < N_TYPES; i++)
        if (types[i].type == type) return types[i].npy;
    LP_ASSERT(false);
    return NULL;
}

hid_t lp_h5_type(lp_dtype type, size_t text_bytes) {
    switch (type) {
    case LP_F32: return H5Tcopy(H5T_IEEE_F32LE);
    case LP_F64: return H5Tcopy(H5T_IEEE_F64LE);
    case LP_I32: return H5Tcopy(H5T_STD_I32LE);
    case LP_I64: return H5Tcopy(H5T_STD_I64LE);
    case LP_U64: return H5Tcopy(H5T_STD_U64LE);
    case LP_U8: return H5Tcopy(H5T_STD_U8LE);
    case LP_TEXT: break;
    default: return H5I_INVALID_HID; /* not kept in HDF5 */
    }
    hid_t text = H5Tcopy(H5T_C_S1);
    if (text < 0) return text;
    if (H5Tset_size(text, text_bytes) < 0 || H5Tset_strpad(text, H5T_STR_NULLPAD) < 0 ||
        H5Tset_cset(text, H5T_CSET_UTF8) < 0) {
        H5Tclose(text);
        return H5I_INVALID_HID;
    }
    return text;
}

lp_status lp_h5_type_of(hid_t dataset, lp_dtype *type, size_t *text_bytes, const char *file, const char *path,
                        lp_error *err) {
    hid_t found = H5Dget_type(dataset);
    if (found < 0) return lp_h5_fail(err, file, "read the type of /%s", path);
    bool known = false;
    if (H5Tget_class(found) == H5T_STRING && H5Tis_variable_str(found) == 0) {
        *type = LP_TEXT;
        if (text_bytes) *text_bytes = H5Tget_size(found);
        known = true;
    }
    for (size_t i = 0; !known && i < N_TYPES; i++) {
        if (types[i].type == LP_TEXT) continue;
        hid_t candidate = lp_h5_type(types[i].type, 0);
        known = H5Tequal(found, candidate) > 0;
        lp_h5_close(candidate);
        if (!known) continue;
        *type = types[i].type;
        if (text_bytes) *text_bytes = 0;
    }
    lp_h5_close(found);
    if (!known) return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: unknown element type", file, path);
    return LP_OK;
}

hid_t lp_h5_access(void) {
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0) return list;
    if (H5Pset_libver_bounds(list, H5F_LIBVER_V18, H5F_LIBVER_V18) < 0 ||
        H5Pset_fclose_degree(list, H5F_CLOSE_STRONG) < 0 || H5Pset_file_locking(list, 0, 1) < 0 ||
        H5Pset_sieve_buf_size(list, 0) < 0) {
        H5Pclose(list);
        return H5I_INVALID_HID;
    }
    return list;
}

lp_status lp_h5_rehearse(const char *file, int fd, uint64_t dense_bytes, uint64_t sparse_bytes, lp_error *err) {
    uint64_t total = dense_bytes + sparse_bytes;
    int code = total > INT64_MAX ? EFBIG : posix_fallocate(fd, 0, (off_t)dense_bytes);
    if (code == EOPNOTSUPP || code == EINVAL) code = 0;
    if (code == 0 && ftruncate(fd, (off_t)total) != 0) code = errno;
    if (ftruncate(fd, 0) != 0 && code == 0) code = errno;
    if (code == 0) return LP_OK;
    return lp_fail(err, LP_ERR_IO, "%s: cannot write %llu bytes: %s", file, (unsigned long long)total, strerror(code));
}

lp_status lp_h5_finish(hid_t *id, const char *file, const char *temporary, lp_error *err) {
    lp_status status = LP_OK;
    if (H5Fflush(*id, H5F_SCOPE_GLOBAL) < 0) status = lp_h5_fail(err, file, "write");
    herr_t closed = close_file(*id);
    *id = H5I_INVALID_HID;
    if (status != LP_OK) return status;
    if (closed < 0) return lp_h5_fail(err, file, "write");
    int fd = open(temporary, O_RDWR | O_CLOEXEC);
    int code = fd < 0 || (fsync(fd) != 0 && errno != EINVAL) ? errno : 0;
    if (fd >= 0) close(fd);
    return code ? lp_fail(err, LP_ERR_IO, "%s: cannot flush: %s", file, strerror(code)) : LP_OK;
}

hid_t lp_h5_dataset_creation(void) {
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);
    if (list < 0) return list;
    if (H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY) < 0 || H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) < 0 ||
        H5Pset_obj_track_times(list, 0) < 0) {
        H5Pclose(list);
        return H5I_INVALID_HID;
    }
    return list;
}

hid_t lp_h5_make_file(const char *path) {
    hid_t access = lp_h5_access();
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    hid_t file = H5I_INVALID_HID;
    if (access >= 0 && creation >= 0 && H5Pset_obj_track_times(creation, 0) >= 0)
        file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    if (creation >= 0) H5Pclose(creation);
    if (access >= 0) H5Pclose(access);
    return file;
}

lp_status lp_h5_plain_chunks(hid_t file, const char *file_name, lp_error *err) {
    if (H5Fset_libver_bounds(file, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0)
        return lp_h5_fail(err, file_name, "choose a format of chunks");
    return LP_OK;
}

/* Intermediate groups that HDF5 makes by itself would keep the time, and files with equal contents differ. */
lp_status lp_h5_make_group(hid_t file, const char *path, const char *file_name, lp_error *err) {
    lp_status status = LP_OK;
    char *part = NULL;
    hid_t group = H5I_INVALID_HID;
    hid_t creation = H5Pcreate(H5P_GROUP_CREATE);
    size_t length = strlen(path);
    LP_TRY(lp_mem_text(&part, path, length, err));
    if (creation < 0 || H5Pset_obj_track_times(creation, 0) < 0)
        LP_TRY(lp_h5_fail(err, file_name, "make the group /%s", path));
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != '\0') continue;
        part[i] = '\0';
        if (H5Lexists(file, part, H5P_DEFAULT) <= 0) {
            group = H5Gcreate2(file, part, H5P_DEFAULT, creation, H5P_DEFAULT);
            if (group < 0) LP_TRY(lp_h5_fail(err, file_name, "make the group /%s", part));
            lp_h5_close(group);
        }
        part[i] = path[i];
    }
out:
    lp_h5_close(creation);
    lp_mem_free(part);
    return status;
}

lp_status lp_h5_make_group_of(hid_t file, const char *path, const char *file_name, lp_error *err) {
    const char *slash = strrchr(path, '/');
    char *group = NULL;
    if (!slash) return LP_OK;
    lp_status status = lp_mem_text(&group, path, (size_t)(slash - path), err);
    if (status == LP_OK) status = lp_h5_make_group(file, group, file_name, err);
    lp_mem_free(group);
    return status;
}

static lp_status put_attribute(hid_t object, const char *key, hid_t type, hid_t space, const void *data,
                               const char *file, lp_error *err) {
    hid_t attribute = H5Acreate2(object, key, type, space, H5P_DEFAULT, H5P_DEFAULT);
    lp_status status = LP_OK;
    if (attribute < 0 || H5Awrite(attribute, type, data) < 0)
        status = lp_h5_fail(err, file, "write the attribute %s", key);
    lp_h5_close(attribute);
    return status;
}

lp_status lp_h5_put_text(hid_t object, const char *key, const char *value, size_t reserve, const char *file,
                         lp_error *err) {
    lp_status status = LP_OK;
    char *padded = NULL;
    size_t length = strlen(value);
    size_t bytes = length > reserve ? length : reserve;
    if (bytes == 0) bytes = 1;
    hid_t type = lp_h5_type(LP_TEXT, bytes);
    hid_t space = H5Screate(H5S_SCALAR);
    LP_TRY(lp_mem_new(&padded, bytes, 1, "attribute", err));
    memcpy(padded, value, length);
    status = put_attribute(object, key, type, space, padded, file, err);
out:
    lp_mem_free(padded);
    lp_h5_close(space);
    lp_h5_close(type);
    return status;
}

/* *block = n texts of *width bytes each, NUL-padded. */
static lp_status pad_texts(const char *const *texts, size_t n, char **block, size_t *width, lp_error *err) {
    size_t longest = 1;
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(texts[i]);
        if (length > longest) longest = length;
    }
    char *out = NULL;
    LP_CHECK(lp_mem_new(&out, n, longest, "table of texts", err));
    for (size_t i = 0; i < n; i++) memcpy(out + i * longest, texts[i], strlen(texts[i]));
    *block = out;
    *width = longest;
    return LP_OK;
}

lp_status lp_h5_put_texts(hid_t object, const char *key, const char *const *values, size_t n, const char *file,
                          lp_error *err) {
    lp_status status = LP_OK;
    char *block = NULL;
    size_t width = 1;
    hid_t type = H5I_INVALID_HID;
    hid_t space = H5I_INVALID_HID;
    LP_TRY(pad_texts(values, n, &block, &width, err));
    type = lp_h5_type(LP_TEXT, width);
    hsize_t dims[1] = {n};
    space = n ? H5Screate_simple(1, dims, NULL) : H5Screate(H5S_NULL);
    status = put_attribute(object, key, type, space, block, file, err);
out:
    lp_mem_free(block);
    lp_h5_close(space);
    lp_h5_close(type);
    return status;
}

lp_status lp_h5_put_i32(hid_t object, const char *key, const int32_t *values, size_t n, const char *file,
                        lp_error *err) {
    hsize_t dims[1] = {n};
    hid_t space = n == 1 ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, dims, NULL);
    hid_t type = lp_h5_type(LP_I32, 0);
    lp_status status = put_attribute(object, key, type, space, values, file, err);
    lp_h5_close(type);
    lp_h5_close(space);
    return status;
}

typedef struct {
    char *block; /* [n, width] */
    size_t width;
    size_t n;
} text_block;

static lp_status get_texts(hid_t object, const char *key, text_block *out, const char *file, lp_error *err) {
    lp_status status = LP_OK;
    char *block = NULL;
    hid_t type = H5I_INVALID_HID;
    hid_t space = H5I_INVALID_HID;
    hid_t attribute = H5Aopen(object, key, H5P_DEFAULT);
    if (attribute < 0) {
        H5Eclear2(H5E_DEFAULT);
        LP_FAIL(LP_ERR_FORMAT, "%s: attribute %s is missing", file, key);
    }
    type = H5Aget_type(attribute);
    space = H5Aget_space(attribute);
    if (type < 0 || space < 0) LP_TRY(lp_h5_fail(err, file, "read the attribute %s", key));
    if (H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) != 0)
        LP_FAIL(LP_ERR_FORMAT, "%s: attribute %s: expected a text of fixed length", file, key);
    size_t width = H5Tget_size(type);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    if (n < 0 || width == 0 || (size_t)n > H5_MAX_TEXT_ATTRIBUTE / width)
        LP_FAIL(LP_ERR_FORMAT, "%s: attribute %s: too large", file, key);
    LP_TRY(lp_mem_new(&block, (size_t)n, width, "attribute", err));
    if (n > 0 && H5Aread(attribute, type, block) < 0) LP_TRY(lp_h5_fail(err, file, "read the attribute %s", key));
    *out = (text_block){.block = block, .width = width, .n = (size_t)n};
    block = NULL;
out:
    lp_mem_free(block);
    lp_h5_close(space);
    lp_h5_close(type);
    lp_h5_close(attribute);
    return status;
}

lp_status lp_h5_get_text(hid_t object, const char *key, lp_text *out, const char *file, lp_error *err) {
    text_block texts = {0};
    lp_status status = get_texts(object, key, &texts, file, err);
    if (status == LP_OK) status = lp_text_add(out, texts.block, strnlen(texts.block, texts.width * texts.n), err);
    lp_mem_free(texts.block);
    return status;
}

lp_status lp_h5_each_text(hid_t object, const char *key, lp_status (*visit)(void *, const char *, lp_error *),
                          void *state, const char *file, lp_error *err) {
    text_block texts = {0};
    lp_text one = {0};
    lp_status status = get_texts(object, key, &texts, file, err);
    for (size_t i = 0; status == LP_OK && i < texts.n; i++) {
        const char *at = texts.block + i * texts.width;
        lp_text_clear(&one);
        status = lp_text_add(&one, at, strnlen(at, texts.width), err);
        if (status == LP_OK) status = visit(state, lp_text_get(&one), err);
    }
    lp_text_release(&one);
    lp_mem_free(texts.block);
    return status;
}

lp_status lp_h5_get_i32(hid_t object, const char *key, int32_t *out, const char *file, lp_error *err) {
    hid_t attribute = H5Aopen(object, key, H5P_DEFAULT);
    if (attribute < 0) {
        H5Eclear2(H5E_DEFAULT);
        return lp_fail(err, LP_ERR_FORMAT, "%s: attribute %s is missing", file, key);
    }
    lp_status status = LP_OK;
    hid_t space = H5Aget_space(attribute);
    int32_t value = 0;
    if (H5Sget_simple_extent_npoints(space) != 1 || H5Aread(attribute, H5T_NATIVE_INT32, &value) < 0)
        status = lp_h5_fail(err, file, "read the attribute %s", key);
    else
        *out = value;
    lp_h5_close(space);
    lp_h5_close(attribute);
    return status;
}

static lp_status set_chunks(hid_t creation, const lp_h5_dataset *dataset, const hsize_t *dims, const char *file,
                            lp_error *err) {
    hsize_t chunk[5];
    for (int i = 0; i < dataset->n_dims; i++) chunk[i] = dims[i] ? dims[i] : 1;
    if ((hsize_t)dataset->chunk_first < chunk[0]) chunk[0] = (hsize_t)dataset->chunk_first;
    if (H5Pset_alloc_time(creation, H5D_ALLOC_TIME_INCR) < 0 || H5Pset_chunk(creation, dataset->n_dims, chunk) < 0 ||
        H5Pset_shuffle(creation) < 0 || H5Pset_deflate(creation, 6) < 0)
        return lp_h5_fail(err, file, "set chunks of /%s", dataset->path);
    return LP_OK;
}

lp_status lp_h5_make_dataset(hid_t file, const lp_h5_dataset *dataset, const void *data, hid_t *out,
                             const char *file_name, lp_error *err) {
    lp_status status = LP_OK;
    hsize_t dims[5] = {0};
    size_t n_items = 1;
    for (int i = 0; i < dataset->n_dims; i++) {
        dims[i] = (hsize_t)dataset->dims[i];
        n_items *= (size_t)dataset->dims[i];
    }
    hid_t made = H5I_INVALID_HID;
    hid_t type = lp_h5_type(dataset->type, dataset->text_bytes);
    hid_t space = H5Screate_simple(dataset->n_dims, dims, NULL);
    hid_t creation = lp_h5_dataset_creation();
    LP_TRY(lp_h5_make_group_of(file, dataset->path, file_name, err));
    if (type < 0 || space < 0 || creation < 0) LP_TRY(lp_h5_fail(err, file_name, "describe /%s", dataset->path));
    if (dataset->chunk_first > 0 && n_items > 0) LP_TRY(set_chunks(creation, dataset, dims, file_name, err));
    made = H5Dcreate2(file, dataset->path, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
    if (made < 0) LP_TRY(lp_h5_fail(err, file_name, "make /%s", dataset->path));
    if (data && n_items > 0 && H5Dwrite(made, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)
        LP_TRY(lp_h5_fail(err, file_name, "write /%s", dataset->path));
    if (dataset->description) LP_TRY(lp_h5_put_text(made, "description", dataset->description, 0, file_name, err));
    if (out) {
        *out = made;
        made = H5I_INVALID_HID;
    }
out:
    lp_h5_close(made);
    lp_h5_close(creation);
    lp_h5_close(space);
    lp_h5_close(type);
    return status;
}

lp_status lp_h5_put_strings(hid_t file, const char *path, const char *const *strings, int64_t n,
                            const char *description, const char *file_name, lp_error *err) {
    char *block = NULL;
    size_t width = 1;
    lp_status status = pad_texts(strings, (size_t)n, &block, &width, err);
    if (status != LP_OK) return status;
    status = lp_h5_make_dataset(
        file,
        &(lp_h5_dataset){
            .path = path, .type = LP_TEXT, .text_bytes = width, .n_dims = 1, .dims = {n}, .description = description},
        block, NULL, file_name, err);
    lp_mem_free(block);
    return status;
}

lp_status lp_h5_check_stored(hid_t dataset, uint64_t n, uint64_t bytes, const char *file_name, const char *path,
                             lp_error *err) {
    enum { MOST_BY_FILTER = 1100 };
    hid_t creation = H5Dget_create_plist(dataset);
    uint64_t stored = H5Dget_storage_size(dataset), whole = 0;
    bool filtered = creation >= 0 && H5Pget_nfilters(creation) > 0;
    lp_h5_close(creation);
    if (lp_mul_u64(n, bytes, &whole) && (filtered ? whole / MOST_BY_FILTER : whole) <= stored) return LP_OK;
    return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: its shape says %llu items of %llu bytes, found %llu bytes of data",
                   file_name, path, (unsigned long long)n, (unsigned long long)bytes, (unsigned long long)stored);
}

/* *part = a selection of items [first, first + n) of the dataset, *memory = a space of their shape. */
static int select_part(hid_t dataset, int64_t first, int64_t n, hid_t *part, hid_t *memory) {
    hsize_t dims[H5S_MAX_RANK];
    hsize_t start[H5S_MAX_RANK] = {0};
    *part = H5Dget_space(dataset);
    if (*part < 0) return -1;
    int n_dims = H5Sget_simple_extent_dims(*part, dims, NULL);
    if (n_dims < 1 || first < 0 || n < 0 || (hsize_t)first + (hsize_t)n > dims[0]) return -1;
    start[0] = (hsize_t)first;
    dims[0] = (hsize_t)n;
    *memory = H5Screate_simple(n_dims, dims, NULL);
    if (*memory < 0) return -1;
    return H5Sselect_hyperslab(*part, H5S_SELECT_SET, start, NULL, dims, NULL) < 0 ? -1 : 0;
}

/* Reads into `out`, or writes `data` where that is NULL. */
static lp_status move_part(hid_t dataset, int64_t first, int64_t n, void *out, const void *data, const char *file_name,
                           const char *path, lp_error *err) {
    hid_t part = H5I_INVALID_HID;
    hid_t memory = H5I_INVALID_HID;
    hid_t type = H5Dget_type(dataset);
    lp_status status = LP_OK;
    if (n > 0 && (select_part(dataset, first, n, &part, &memory) < 0 ||
                  (out ? H5Dread(dataset, type, memory, part, H5P_DEFAULT, out)
                       : H5Dwrite(dataset, type, memory, part, H5P_DEFAULT, data)) < 0))
        status = lp_h5_fail(err, file_name, "%s /%s", out ? "read" : "write", path);
    lp_h5_close(memory);
    lp_h5_close(part);
    lp_h5_close(type);
    return status;
}

lp_status lp_h5_read_part(hid_t dataset, int64_t first, int64_t n, void *data, const char *file_name, const char *path,
                          lp_error *err) {
    return move_part(dataset, first, n, data, NULL, file_name, path, err);
}

lp_status lp_h5_write_part(hid_t dataset, int64_t first, int64_t n, const void *data, const char *file_name,
                           const char *path, lp_error *err) {
    return move_part(dataset, first, n, NULL, data, file_name, path, err);
}

lp_status lp_h5_open_dataset(hid_t file, const char *path, lp_dtype type, int n_dims, int64_t *dims, size_t *text_bytes,
                             hid_t *out, const char *file_name, lp_error *err) {
    lp_status status = LP_OK;
    hid_t space = H5I_INVALID_HID;
    hid_t dataset = H5Dopen2(file, path, H5P_DEFAULT);
    if (dataset < 0) {
        H5Eclear2(H5E_DEFAULT);
        LP_FAIL(LP_ERR_FORMAT, "%s: dataset /%s is missing", file_name, path);
    }
    lp_dtype found = LP_U8;
    LP_TRY(lp_h5_type_of(dataset, &found, text_bytes, file_name, path, err));
    if (found != type)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected elements of type %s, found %s", file_name, path,
                lp_h5_type_name(type), lp_h5_type_name(found));
    space = H5Dget_space(dataset);
    int rank = H5Sget_simple_extent_ndims(space);
    if (rank != n_dims)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected %d dimensions, found %d", file_name, path, n_dims, rank);
    hsize_t shape[H5S_MAX_RANK];
    H5Sget_simple_extent_dims(space, shape, NULL);
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] > INT64_MAX) LP_FAIL(LP_ERR_FORMAT, "%s: /%s: too large", file_name, path);
        dims[i] = (int64_t)shape[i];
    }
    *out = dataset;
    dataset = H5I_INVALID_HID;
out:
    lp_h5_close(space);
    lp_h5_close(dataset);
    return status;
}
