/* Reader of the zip archives that torch.save writes: entries are stored, not compressed; zip64 where a file needs it;
 * data at any alignment. Finds entries by the central directory and checks each against its local header. */
#ifndef LP_MODEL_TORCH_ZIP_H
#define LP_MODEL_TORCH_ZIP_H

#include "base/error.h"

typedef struct {
    const char *name; /* [name_length], borrowed from the file, not terminated */
    size_t name_length;
    const unsigned char *data; /* [size], borrowed from the file */
    size_t size;
} lp_zip_entry;

typedef struct {
    lp_zip_entry *entries; /* [n], in the order of the central directory */
    size_t n, capacity;
} lp_zip;

/* Lists the entries of data [size]; `file` names it in messages. Fails on entries that are compressed, encrypted,
 * outside the file or overlapping. On success the caller releases *out. This is the fuzz target. */
lp_status lp_zip_parse(const void *data, size_t size, const char *file, lp_zip *out, lp_error *err);
void lp_zip_release(lp_zip *zip);

/* The entry named prefix + suffix, or NULL. */
const lp_zip_entry *lp_zip_find(const lp_zip *zip, const char *prefix, size_t prefix_length, const char *suffix,
                                size_t suffix_length);

#endif
