/* Pair files: reading, and the rules that every pair of a run has to keep.
 *
 * A pair is one problem twice, clean and corrupted, with different answers. The reader takes two kinds of
 * file, told apart by their outermost value:
 *
 *   an object    {"format": "latentpatch-pairs", "version": 1, "source": "...", "pairs": [...]}, our own
 *                (schemas/pairs.schema.json); unknown keys are errors;
 *   an array     the original study's files: objects {pair_id, clean {question, answer, full_answer},
 * corrupted {question, answer, changed_number}, ...}, or flat rows {pair_id, variant, question, answer, ...}
 *                of which two with one pair_id make a pair; keys that we do not use are passed over.
 *
 * The reader changes nothing: questions are used as given. The set keeps the order of the file, and stays as it
 * is until the release. */
#ifndef LP_PAIRS_PAIRS_H
#define LP_PAIRS_PAIRS_H

#include "base/digest.h"
#include "base/error.h"

typedef struct {
    char *question;
    double answer;  /* NaN: absent (only under LP_PAIRS_AUDIT) */
    char *solution; /* the worked solution; NULL when absent */
} lp_pair_side;

/* One step of the worked solution. */
typedef struct {
    char *equation;
    char *clean, *corrupted; /* its results, as exact decimals */
} lp_pair_step;

typedef enum { LP_SPLIT_NONE, LP_SPLIT_TUNE, LP_SPLIT_TEST } lp_pair_split;

typedef struct {
    char *id;     /* unique in the set; an integer id is its decimal text */
    char *source; /* the problem that the pair was made from; absent: its template, else its id: pairs of one source are
                     not independent */
    char *template; /* the text that the problem was written from; NULL when absent */
    lp_pair_side clean, corrupted;
    char *change_from, *change_to; /* the changed number as both questions spell it; NULL when absent */
    char *extra;                   /* what else is written with it: JSON members, each after ", "; NULL: nothing */
    int64_t n_steps;               /* steps of the worked solution; -1 when absent */
    lp_pair_step *graph;           /* [n_graph] NULL when absent */
    size_t n_graph;
    lp_pair_split split;
    size_t place; /* element of the file's array (flat rows: that of the clean one) */
} lp_pair;

typedef enum { LP_PAIRS_OWN, LP_PAIRS_ORIGINAL, LP_PAIRS_ORIGINAL_FLAT } lp_pairs_format;

typedef struct {
    lp_pair *pairs; /* [n], owned */
    size_t n;
    size_t n_unpaired;          /* flat rows without a partner (only under LP_PAIRS_AUDIT; else an error) */
    lp_pairs_format format;     /* of the file */
    char digest[LP_SHA256_HEX]; /* SHA-256 of the file's bytes */
} lp_pair_set;

/* Equal answers cannot tell a patched run from an unpatched one. */
typedef enum { LP_EQUAL_ANSWERS_REFUSE, LP_EQUAL_ANSWERS_ALLOW } lp_equal_answers;
/* AUDIT keeps pairs that a run must refuse (repeated ids, equal or missing answers, empty questions), for
 * `pairs check`; only a file that is not a pair file at all fails. */
typedef enum { LP_PAIRS_STRICT, LP_PAIRS_AUDIT } lp_pairs_mode;

/* {0} is the default: strict, equal answers refused. */
typedef struct {
    lp_pairs_mode mode;
    lp_equal_answers equal_answers;
} lp_pairs_options;

/* Reads a file of at most 1 GiB. Fails with the file and the JSON path on: malformed JSON (line and column),
 * invalid UTF-8 or NUL, an unknown key, an empty list, a repeated id (both places), an empty question, an
 * answer that is missing or beyond 1e15, equal answers. *out is left alone on failure. */
lp_status lp_pairs_load(const char *path, const lp_pairs_options *options, lp_pair_set *out, lp_error *err);
/* The same from memory; `name` is for messages. The fuzz target. */
lp_status lp_pairs_parse(const char *text, size_t size, const char *name, const lp_pairs_options *options,
                         lp_pair_set *out, lp_error *err);
/* Frees what one pair owns. */
void lp_pair_release(lp_pair *pair);
/* {0} and a released set are accepted. */
void lp_pairs_release(lp_pair_set *set);

#endif
