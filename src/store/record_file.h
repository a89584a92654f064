/* A crash-safe HDF5 file of P records, called pairs: the activation store, and the rows of a running sweep.
 *
 * Layout: every field declared by the caller is a dataset [P, dims...], in chunks of one pair where a pair has two or
 * more dimensions, and contiguous otherwise; tables written at creation lie beside them; `/journal/{state, checksum}`
 * says which pairs are whole; `/provenance` holds attributes, some of which (`identity`) must agree when the file is
 * used again. The checksum of a pair covers the pair's number and id (`/pairs/id`, where the file has it) and, for each
 * field, its path and the pair's bytes.
 *
 * Crash safety. Rank 0 makes the whole file (all metadata, all space) under a temporary name, flushes it and
 * renames it. So a file that exists lacks nothing but data. Then ranks write whole pairs independently, by MPI-IO at
 * the places where HDF5 laid the datasets: the fields, then the checksum over them, then the state. No metadata changes
 * while data are written, so a killed job leaves a file that opens, with every journalled pair in it. If the machine
 * crashes and a state reached the disk before its data, the checksum finds the pair. A large pair may be written in
 * parts; it is journalled when all of them are there.
 *
 * Exclusion is the caller's business (lock.h). A file is open for writing by all ranks of one job, or for reading by
 * anybody. In memory are a byte and the id of each pair, and one pair or a piece of it. Not for several threads at
 * once. */
#ifndef LP_STORE_RECORD_FILE_H
#define LP_STORE_RECORD_FILE_H

#include "base/checksum.h"
#include "base/digest.h"
#include "parallel/parallel.h"
#include "store/h5.h"

enum { LP_FIELD_MAX_DIMS = 4 };

/* One dataset [P, dims...]. */
typedef struct {
    const char *path; /* without the leading slash: "runs/clean/resid_post" */
    lp_dtype type;
    int n_dims; /* 0: one number (or text) a pair */
    int64_t dims[LP_FIELD_MAX_DIMS];
    size_t text_bytes;       /* of LP_TEXT; data are NUL-padded */
    const char *description; /* attribute; NULL: none */
    const int32_t *layers;   /* [n_layers] attribute; NULL: none */
    size_t n_layers;
} lp_field;

/* A dataset written once, at creation; rank 0's data count. */
typedef struct {
    const char *path;
    lp_dtype type;
    int n_dims; /* of dims, which holds all of them */
    int64_t dims[LP_FIELD_MAX_DIMS];
    const void *data; /* of LP_TEXT: const char *const * [dims[0]], one dimension; otherwise the numbers */
    const char *description;
} lp_table;

typedef struct {
    const char *key;
    const char *value;
    bool identity; /* must agree when the file is used again */
} lp_provenance_item;

typedef struct {
    const char *format; /* "latentpatch-store" */
    int32_t version;
    int64_t n_pairs;
    bool first_of_more; /* a file of more pairs will do: the first n_pairs of it are meant */
    const lp_field *fields;
    size_t n_fields;
    const lp_table *tables;
    size_t n_tables;
    const lp_provenance_item *provenance;
    size_t n_provenance;
    const char *advice;  /* what to do with a file that does not fit: the end of the message */
    const char *convert; /* command that, followed by its path, converts a file of an older version; NULL: none */
} lp_record_file_spec;

typedef struct lp_record_file lp_record_file;

/* One pair of a file, read and verified. {0} before the first load; borrows the file. */
typedef struct {
    const lp_record_file *file;
    int64_t pair;
    unsigned char *bytes;
} lp_pair_record;

/* Life cycle. */

/* Collective. Opens `path` for writing: makes it when it is missing; otherwise it is continued, after format, version,
 * shape, fields, identity and the rows of the tables were compared (LP_ERR_MISMATCH names the first that differs, what
 * was expected and what was found). Fails on all ranks or on none. *created (may be NULL) says which it was. Everything
 * in spec is copied. */
lp_status lp_record_file_open(const lp_parallel *parallel, const char *path, const lp_record_file_spec *spec,
                              lp_record_file **out, bool *created, lp_error *err);
/* Local. The comparison that lp_record_file_open makes. */
lp_status lp_record_file_compare(lp_record_file *file, const lp_record_file_spec *spec, lp_error *err);
/* Local. The message of a file of another identity: `want` is this job's item, `have` (NULL: none) the file's value. */
lp_status lp_identity_fail(const char *path, const lp_provenance_item *want, const char *have, const char *advice,
                           lp_error *err);
/* Local. Opens for reading, by this process alone. */
lp_status lp_record_file_open_read(const char *path, lp_record_file **out, lp_error *err);
/* Collective: every rank flushes to the disk what it wrote. Leaves the file open. Nothing to do for a reader. */
lp_status lp_record_file_flush(lp_record_file *file, lp_error *err);
/* Local. NULL is accepted. */
void lp_record_file_close(lp_record_file *file);

/* Writing; local. */

/* Writes all fields of a pair and then journals it. data [n_fields]: in the order of the spec. */
lp_status lp_record_file_write(lp_record_file *file, int64_t pair, const void *const *data, lp_error *err);
/* Writes a pair in parts, of a file that all ranks have open: items [first, first + n) of the first dimension of field
 * `index`. The first part takes the pair out of the journal. When all of it is there, lp_record_file_end_pair reads it
 * again piece by piece for its checksum, and journals it. */
lp_status lp_record_file_write_part(lp_record_file *file, int64_t pair, size_t index, int64_t first, int64_t n,
                                    const void *data, lp_error *err);
lp_status lp_record_file_end_pair(lp_record_file *file, int64_t pair, lp_error *err);
/* Takes a pair out of the journal (its data stay, undefined). */
lp_status lp_record_file_forget(lp_record_file *file, int64_t pair, lp_error *err);

/* Writing; collective. */

/* Replaces the value of a provenance key of the spec, cut to 64 bytes. Rank 0's value counts. */
lp_status lp_record_file_note(lp_record_file *file, const char *key, const char *value, lp_error *err);
/* Verifies the checksums of all journalled pairs, each rank a share, and forgets those that are torn or altered;
 * *n_bad is their number over all ranks. For a job that continues. The states are equal on all ranks after it. */
lp_status lp_record_file_recheck(lp_record_file *file, int64_t *n_bad, lp_error *err);

/* Reading; local. */

/* Reads a pair into *record, whose memory is used again by the next load, and verifies its checksum. Fails with
 * LP_ERR_VALUE when the pair is not journalled, with LP_ERR_FORMAT when it is torn or altered. A record is loaded from
 * one file only. */
lp_status lp_record_file_load(lp_record_file *file, int64_t pair, lp_pair_record *record, lp_error *err);
/* Field `index` of the record: its dims, of its type; valid until the next load. */
const void *lp_pair_record_field(const lp_pair_record *record, size_t index);
void lp_pair_record_release(lp_pair_record *record);
/* One field of one pair, without the checksum. */
lp_status lp_record_file_read(lp_record_file *file, int64_t pair, size_t index, void *out, lp_error *err);
/* Items [first, first + n) of the first dimension of one field, without the checksum; of a pair that this process is
 * writing, too. */
lp_status lp_record_file_read_part(lp_record_file *file, int64_t pair, size_t index, int64_t first, int64_t n,
                                   void *out, lp_error *err);
/* *good: the checksum of a journalled pair fits. Reads the pair piece by piece. */
lp_status lp_record_file_verify(lp_record_file *file, int64_t pair, bool *good, lp_error *err);
/* *block = table `path` as it lies in the file; *n its first dimension, *item_bytes the bytes of one item of it (the
 * fixed length of a text, which need not end in NUL). Caller frees with lp_mem_free. */
lp_status lp_record_file_table(lp_record_file *file, const char *path, lp_dtype type, void **block, int64_t *n,
                               size_t *item_bytes, lp_error *err);

/* What is in it; local, no input or output. */

const char *lp_record_file_path(const lp_record_file *file);
int64_t lp_record_file_n_pairs(const lp_record_file *file);
/* [P] 1 where journalled: as of opening, kept up to date for this process's own writes. */
const uint8_t *lp_record_file_state(const lp_record_file *file);
int64_t lp_record_file_n_done(const lp_record_file *file);
/* Of the first n pairs. */
int64_t lp_record_file_n_done_of(const lp_record_file *file, int64_t n);
const lp_field *lp_record_file_describe(const lp_record_file *file, size_t index);
size_t lp_record_file_field_bytes(const lp_record_file *file, size_t index);
/* *index of the field with this path; false when there is none. */
bool lp_record_file_find(const lp_record_file *file, const char *path, size_t *index);
/* Value of a provenance key, or NULL; borrowed. */
const char *lp_record_file_provenance(const lp_record_file *file, const char *key);

#endif
