/* The insides of lp_record_file, for the files record_file*.c and the store's administration. */
#ifndef LP_STORE_RECORD_FILE_INTERNAL_H
#define LP_STORE_RECORD_FILE_INTERNAL_H

#include "base/output.h"
#include "parallel/communicator.h"
#include "store/record_file.h"

typedef struct {
    lp_field field;      /* path, description and layers owned */
    size_t bytes;        /* of one pair */
    size_t offset;       /* in the bytes of an lp_pair_record */
    int64_t file_offset; /* of pair 0 in the file, where pair i follows i * bytes later; -1: in an archive */
    bool compressed;     /* has filters */
    hid_t dataset;
    hid_t type;
    hid_t memory; /* space of one pair */
    hid_t space;  /* of the dataset; the selection in it is changed by every read and write */
} lp_open_field;

struct lp_record_file {
    const lp_parallel *parallel; /* NULL: opened by one process alone */
    bool writable;
    bool compressed; /* an archive: its fields have filters */
    char *path;
    char *format;
    int32_t version;
    int32_t journal_version;
    int64_t n_pairs;
    char *ids; /* [n_pairs, id_bytes] of `/pairs/id`; NULL where the file has no such table */
    size_t id_bytes;
    hid_t file;
    MPI_File raw;          /* MPI_FILE_NULL unless open for writing by all ranks */
    lp_open_field *fields; /* [n_fields] */
    size_t n_fields;
    lp_open_field state_field;
    lp_open_field checksum_field;
    uint8_t *state;                 /* [n_pairs] */
    lp_provenance_item *provenance; /* [n_provenance]; keys and values owned */
    size_t n_provenance;
    unsigned char *part; /* of a pair, for its checksum */
    size_t part_capacity;
    size_t pair_bytes;
    lp_checksum *sum;
};

/* Room for a provenance value that is filled in later (times, counts). */
enum { LP_NOTE_BYTES = 64 };

/* Attribute `version` of `/journal`. 1 (a file without it): the checksums cover the pairs' bytes alone, and every field
 * is contiguous. 2: the checksums say whose they are, and a field of two or more dimensions a pair lies in chunks. */
enum { LP_JOURNAL_VERSION = 2, LP_CHUNKED_DIMS = 2 };

/* LP_PLAIN: for MPI-IO, crash-safe: a pair's bytes in one piece, at a place that follows from its number.
 * LP_COMPRESSED: an archive, for one process; shuffle, deflate, fletcher32. */
typedef enum { LP_PLAIN, LP_COMPRESSED } lp_packing;
/* Makes the file whole under `path`; local to the calling rank. */
lp_status lp_record_file_make(const char *path, const lp_record_file_spec *spec, lp_packing packing, lp_error *err);
/* The same in the temporary file of an output, which the caller publishes; `name` for messages. */
lp_status lp_record_file_fill(const char *name, const lp_output *out, const lp_record_file_spec *spec,
                              lp_packing packing, lp_error *err);
/* Opens a file that lp_record_file_make made for writing by this process alone, over the plain driver: for files that
 * are made as a whole under a temporary name. */
lp_status lp_record_file_open_alone(const char *path, lp_record_file **out, lp_error *err);
/* Flushes and closes a file that was opened alone; the file is released in any case. */
lp_status lp_record_file_finish_alone(lp_record_file *file, lp_error *err);

/* An error of MPI-IO (`code`) on the file, in the words of the system where they can be found; always fails. */
lp_status lp_record_fail_mpi(const lp_record_file *file, int code, const char *what, lp_error *err);

/* Opens the dataset of a field and finds where its pairs lie (record_file_layout.c): field->dataset, ->file_offset and
 * ->compressed. Refuses links, data in other files, and layouts other than those of lp_record_file_make: a pair is
 * written at an offset that HDF5 does not check. */
lp_status lp_record_open_dataset(const lp_record_file *file, lp_open_field *field, lp_error *err);
/* Fails unless all fields and the journal lie in bytes of their own. */
lp_status lp_record_check_places(const lp_record_file *file, lp_error *err);
/* Fails where a part of `path` is a link to something that may lie elsewhere. */
lp_status lp_record_check_links(hid_t file, const char *path, const char *name, lp_error *err);

/* Attribute of a side table: SHA-256 of its bytes, in hexadecimal. */
#define LP_TABLE_DIGEST "sha256"

/* The side tables of an open file: every dataset that is neither a field nor the journal, in the order of names. */
typedef struct {
    char *path;
    lp_dtype type;
    void *block;
    int64_t n;
    size_t item_bytes;
} lp_open_table;
typedef struct {
    lp_open_table *table; /* [n] */
    size_t n;
} lp_open_tables;
lp_status lp_record_file_read_tables(lp_record_file *file, lp_open_tables *out, lp_error *err);
void lp_open_tables_release(lp_open_tables *tables);

/* Makes `/provenance` from items [n]. */
lp_status lp_provenance_make(hid_t file, const lp_provenance_item *items, size_t n, const char *name, lp_error *err);

#endif
