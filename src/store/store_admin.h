/* Looking after stores: what is in one, whether it is whole, a compressed copy, parts taken out, several made into one.
 *
 * Local functions of one process; none needs MPI to be started. What they make appears under its name only when it
 * is whole; archive and merge hold the lock of their output (lock.h) meanwhile. Reports are added to a text, ready to
 * be printed. */
#ifndef LP_STORE_STORE_ADMIN_H
#define LP_STORE_STORE_ADMIN_H

#include "base/text.h"

/* The activation store: a record file of this format (schemas/store-layout.md). Stores of version 2 are read by
 * everything here; `archive` and `merge` make stores of this version of them. */
#define LP_STORE_FORMAT "latentpatch-store"
enum { LP_STORE_VERSION = 3 };

typedef enum { LP_REPORT_TEXT, LP_REPORT_JSON } lp_report_form;

/* What a store (or the partial rows of a sweep) holds: format, provenance, how far, the datasets and their sizes. */
lp_status lp_store_info(const char *path, lp_report_form form, lp_text *out, lp_error *err);

typedef enum {
    LP_VERIFY_QUICK, /* that it opens, its shapes, journal and provenance, and that its length is what they need */
    LP_VERIFY_FULL   /* also the checksum of every journalled pair */
} lp_verify_depth;
typedef struct {
    int64_t n_pairs;
    int64_t n_done; /* journalled */
    int64_t n_bad;  /* of these, torn or altered */
} lp_verify_counts;
/* Names every bad pair. Returns LP_OK when all is well, LP_ERR_FORMAT when pairs are bad (the report is written all the
 * same), and the error of the first failure otherwise. */
lp_status lp_store_verify(const char *path, lp_verify_depth depth, lp_verify_counts *counts, lp_text *out,
                          lp_error *err);

/* Writes a compressed copy (shuffle, deflate and a checksum per chunk) with the same layout, which every command reads
 * like the store itself, and a manifest `<archive>.manifest.json` with SHA-256. The copy is read back and compared with
 * the store, pair by pair and table by table, before it gets its name. A bad pair is an error. */
lp_status lp_store_archive(const char *path, const char *archive, lp_text *out, lp_error *err);

typedef struct {
    const char *const *fields; /* [n_fields] paths ("runs/clean/resid_post") or their ends ("resid_post"); n 0: all */
    size_t n_fields;
    const int32_t *layers; /* [n_layers] of fields [layers, steps, width]; n 0: all */
    size_t n_layers;
    const int64_t *pairs; /* [n_pairs] indices, all journalled; n 0: all journalled pairs */
    size_t n_pairs;
} lp_export_options;
/* Writes one .npy a field [pairs, ...] into folder (made where missing), named by its path with '.' for '/', and
 * `pairs.txt`: index and id of each row. */
lp_status lp_store_export(const char *path, const char *folder, const lp_export_options *options, lp_text *out,
                          lp_error *err);

/* One store out of several, or out of one: a store of this version, which can be continued. They must agree in format,
 * datasets and identity; pair_file (may be NULL) is the digest of the pair file that describes the result, for stores
 * of different pair files, whose digests and lengths may then differ. Pairs are told apart by id, in the order of first
 * appearance; one that is journalled in several must have the same values in all. */
lp_status lp_store_merge(const char *const *paths, size_t n_paths, const char *merged, const char *pair_file,
                         lp_text *out, lp_error *err);

#endif
