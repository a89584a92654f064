/* What the files of this folder share about HDF5: errors in our form, names with folders, attributes, types.
 *
 * From the first lp_h5_begin on, HDF5 prints no error stacks itself; its innermost message goes into our one line.
 * Handles are plain hid_t; a negative one is "none", and lp_h5_close accepts it. */
#ifndef LP_STORE_H5_H
#define LP_STORE_H5_H

#include "base/dtype.h"
#include "base/error.h"
#include "base/text.h"

#include <hdf5.h>

/* Call before the first use of HDF5; any number of times. */
lp_status lp_h5_begin(lp_error *err);
/* Writes `file: cannot <what>: <HDF5's innermost reason>`, with the operating system's where it can be found. */
lp_status lp_h5_fail(lp_error *err, const char *file, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Why a write to this file may have failed, in the system's words, when its library does not say: disk full, read-only,
 * over the limit of file sizes; NULL: none of these. */
const char *lp_io_guess(const char *file);
/* Closes any kind of handle; clears HDF5's error stack. */
void lp_h5_close(hid_t id);

/* Bytes of one item: text_bytes for LP_TEXT (fixed length, UTF-8, NUL-padded). Numbers are little-endian. */
size_t lp_h5_item_bytes(lp_dtype type, size_t text_bytes);
/* "float32", "string": as h5dump's and NumPy's readers know it. */
const char *lp_h5_type_name(lp_dtype type);
/* "<f4"; "|S" before the number of bytes of LP_TEXT. */
const char *lp_h5_npy_type(lp_dtype type);
/* New handle of the type in the file, which is the one in memory on a little-endian machine. */
hid_t lp_h5_type(lp_dtype type, size_t text_bytes);
/* The reverse; fails on a type that the program does not write. text_bytes may be NULL. */
lp_status lp_h5_type_of(hid_t dataset, lp_dtype *type, size_t *text_bytes, const char *file, const char *path,
                        lp_error *err);

/* Access list for all our files: the format of HDF5 1.8, readable everywhere, and no file locks of HDF5 (they are
 * missing on some file systems; lock.h is ours). The formats since 1.10 keep an "open for writing" flag in the file, so
 * that one whose writer was killed does not open again. */
hid_t lp_h5_access(void);
/* Lets the empty file fd take dense_bytes of space and be dense_bytes + sparse_bytes long, and empties it again.
 * HDF5 1.10 cannot give up a file that it fails to flush (the process dies at its end), so what is bound to fail has to
 * fail before. `file` is named in the message. */
lp_status lp_h5_rehearse(const char *file, int fd, uint64_t dense_bytes, uint64_t sparse_bytes, lp_error *err);
/* Flushes a new file to the disk and closes it; *id becomes H5I_INVALID_HID. It lies at `temporary`. */
lp_status lp_h5_finish(hid_t *id, const char *file, const char *temporary, lp_error *err);
/* Creation list of a dataset: allocated at once, never filled, no times (so that equal contents are equal bytes). */
hid_t lp_h5_dataset_creation(void);
/* Datasets that are made in this file from now on may have chunks without an index: those that are allocated early and
 * have no filter lie one after the other. Reading them takes HDF5 1.10. */
lp_status lp_h5_plain_chunks(hid_t file, const char *file_name, lp_error *err);
/* Makes an HDF5 file out of the empty file at `path`, and a group with those above it; neither keeps times. */
hid_t lp_h5_make_file(const char *path);
lp_status lp_h5_make_group(hid_t file, const char *path, const char *file_name, lp_error *err);
/* The group that dataset `path` lies in, if any. */
lp_status lp_h5_make_group_of(hid_t file, const char *path, const char *file_name, lp_error *err);

/* Attributes of an open object. Text is fixed-length UTF-8, at least reserve bytes long. */
lp_status lp_h5_put_text(hid_t object, const char *key, const char *value, size_t reserve, const char *file,
                         lp_error *err);
lp_status lp_h5_put_texts(hid_t object, const char *key, const char *const *values, size_t n, const char *file,
                          lp_error *err);
lp_status lp_h5_put_i32(hid_t object, const char *key, const int32_t *values, size_t n, const char *file,
                        lp_error *err);
lp_status lp_h5_get_text(hid_t object, const char *key, lp_text *out, const char *file, lp_error *err);
/* A scalar. */
lp_status lp_h5_get_i32(hid_t object, const char *key, int32_t *out, const char *file, lp_error *err);
/* Calls visit(state, text) for every element of an array of texts. */
lp_status lp_h5_each_text(hid_t object, const char *key, lp_status (*visit)(void *, const char *, lp_error *),
                          void *state, const char *file, lp_error *err);

/* Makes dataset `path` and writes it whole. dims [n_dims]; a dimension may be 0. chunk_first 0: contiguous;
 * otherwise chunks of that many first-dimension items with shuffle and deflate. */
typedef struct {
    const char *path;
    lp_dtype type;
    size_t text_bytes; /* of LP_TEXT */
    int n_dims;
    int64_t dims[5];
    const char *description; /* attribute; NULL: none */
    int64_t chunk_first;
} lp_h5_dataset;
/* *out (may be NULL) is the open dataset; data NULL: nothing is written. */
lp_status lp_h5_make_dataset(hid_t file, const lp_h5_dataset *dataset, const void *data, hid_t *out,
                             const char *file_name, lp_error *err);
/* Text of C strings: the width is that of the longest. strings [n]. */
lp_status lp_h5_put_strings(hid_t file, const char *path, const char *const *strings, int64_t n,
                            const char *description, const char *file_name, lp_error *err);
/* Fails where the file cannot hold n items of `bytes` bytes of this dataset, whatever its shape says: nothing may be
 * allocated from a shape alone. Data of a filter count as up to 1,100 times as long as they are stored (deflate's most
 * is 1,032). */
lp_status lp_h5_check_stored(hid_t dataset, uint64_t n, uint64_t bytes, const char *file_name, const char *path,
                             lp_error *err);
/* Reads items [first, first + n) of the first dimension into data, which is of the dataset's own type. */
lp_status lp_h5_read_part(hid_t dataset, int64_t first, int64_t n, void *data, const char *file_name, const char *path,
                          lp_error *err);
lp_status lp_h5_write_part(hid_t dataset, int64_t first, int64_t n, const void *data, const char *file_name,
                           const char *path, lp_error *err);
/* Opens dataset `path` and checks type and number of dimensions; dims [n_dims] is filled. */
lp_status lp_h5_open_dataset(hid_t file, const char *path, lp_dtype type, int n_dims, int64_t *dims, size_t *text_bytes,
                             hid_t *out, const char *file_name, lp_error *err);

#endif
