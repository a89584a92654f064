/* What a sweep found: one row per (pair, condition), as schemas/results-layout.md lays it out.
 *
 * While a sweep runs, ranks write rows as they become final to `<results>.partial`, a record file (record_file.h), so
 * that a killed job continues; a pair counts when all of its rows are there. At the end rank 0 streams them, pair by
 * pair in the order of the pair file, into the results file, the CSV and the summary; each is written under a temporary
 * name and renamed. The results file comes last, so when it exists, all three are complete. Nothing in them depends on
 * ranks or on the order of completion. */
#ifndef LP_STORE_RESULTS_H
#define LP_STORE_RESULTS_H

#include "pairs/classify.h"
#include "store/answers.h"
#include "store/record_file.h"
#include "store/result_rows.h"

enum { LP_RESULTS_VERSION = 2 };

/* A row of `/conditions`; texts are borrowed, and empty where a condition has no such thing. */
typedef struct {
    const char *name;
    const char *role; /* "effect", "control", "unpatched" */
    const char *direction;
    const char *phase;
    const char *site;
    int32_t layer; /* -1: none or several */
    const char *layers;
    int32_t head; /* KV head; -1: all, or none */
    const char *steps;
    uint64_t step_mask;
    int32_t n_steps;
    const char *index; /* phases prompt and answer: "-1", "all" */
    const char *donor;
    int32_t vector; /* -1: the donor is not a file */
    int32_t draw;   /* number of the draw of the donor shuffled; otherwise 0 */
    const char *from_site;
    int32_t from_layer, from_step; /* -1: the target's */
    const char *operation;
    float factor;
    int32_t stop_after; /* 0: the run makes all its thought steps */
    const char *defects;
    bool dead;
    bool identity; /* must change nothing: writes back what is there */
    int32_t same_as;
    /* Rows of included pairs that could not be run, by reason; for the summary only. */
    int64_t n_no_position; /* the recipient's run lacks the position */
    int64_t n_no_donor;    /* the donor's run lacks it */
    int64_t n_no_pair;     /* no other pair is foreign enough to be a shuffled donor */
} lp_result_condition;

/* The logit lens of the unpatched runs (patch/lens.h); top 0: none. */
typedef struct {
    int32_t n_positions; /* the last prompt position, then the thought steps */
    int32_t n_layers, top;
    lp_decode_answer *show; /* the text of one token; called with the `state` of lp_results_finish */
} lp_lens_shape;

/* Everything but the rows; all borrowed. P pairs, C conditions. */
typedef struct {
    int64_t n_pairs;
    const char *const *pair_id; /* [P], and so are the next */
    const char *const *pair_source;
    const char *const *clean_question;
    const char *const *corrupted_question;
    const double *clean_answer;
    const double *corrupted_answer;
    const char *const *clean_text;
    const char *const *corrupted_text;
    const uint8_t *clean_correct;
    const uint8_t *corrupted_correct;
    const uint8_t *included;
    const lp_result_condition *conditions; /* [C] */
    int32_t n_conditions;
    int32_t max_new_tokens;
    const char *const *metrics; /* [n_metrics] names */
    size_t n_metrics;
    lp_lens_shape lens;
    const lp_provenance_item *provenance; /* [n_provenance]; those with `identity` must agree to continue */
    size_t n_provenance;
} lp_results_plan;

/* Adds the name of the rows of a running sweep: beside the file that `results` is, links followed. */
lp_status lp_results_partial_path(const char *results, lp_text *out, lp_error *err);
/* Collective. Opens `<results>.partial` for writing: makes it, or continues one with the same identity. */
lp_status lp_results_partial_open(const lp_parallel *parallel, const char *results, const lp_results_plan *plan,
                                  lp_record_file **out, bool *created, lp_error *err);
/* *field = the first of the two fields of the lens, its tokens; the next is its log-probabilities. False without one.
 */
bool lp_results_partial_lens(const lp_record_file *partial, size_t *field);
/* Local: writes rows of a pair, whichever are final, and empties `rows`. The fields of the file are the columns of
 * result_rows.h. */
lp_status lp_results_partial_put(lp_record_file *partial, int64_t pair, lp_result_rows *rows, lp_error *err);
/* Local: journals a pair, whose rows were all put. lens_tokens, lens_log_probability [2, positions, layers, top] by
 * side, clean and corrupted; NULL in a file without a lens. */
lp_status lp_results_partial_end(lp_record_file *partial, int64_t pair, const int32_t *lens_tokens,
                                 const float *lens_log_probability, lp_error *err);
/* Local: adds to counts [C, 4] the outcomes of this rank's share of the pairs that an earlier life journalled, so that
 * the sum over the ranks counts every pair once. Call it after lp_record_file_recheck and before dealing. */
lp_status lp_results_partial_count(lp_record_file *partial, int64_t *counts, lp_error *err);

typedef struct {
    const char *results; /* "x.results.h5" */
    const char *csv;     /* NULL: none */
    const char *summary; /* NULL: none */
} lp_results_paths;

/* Local, on rank 0, after the partial file was closed by all: writes the three files from `<results>.partial` and
 * removes that. counts [C, 4]: outcome counts over the included pairs, as reduced over the ranks; they must agree with
 * the rows (LP_ERR_MISMATCH). decode: of the tokenizer. On failure none of the three appears or changes. */
lp_status lp_results_finish(const lp_results_paths *paths, const lp_results_plan *plan, const int64_t *counts,
                            lp_decode_answer *decode, void *state, lp_error *err);

/* Reading. */

typedef struct lp_results lp_results;
lp_status lp_results_open(const char *path, lp_results **out, lp_error *err);
void lp_results_free(lp_results *results);
int64_t lp_results_n_pairs(const lp_results *results);
int64_t lp_results_n_included(const lp_results *results);
int32_t lp_results_n_conditions(const lp_results *results);
const lp_result_condition *lp_results_condition(const lp_results *results, int32_t index);
/* [C, 4] */
const int64_t *lp_results_counts(const lp_results *results);
/* [P] */
const uint8_t *lp_results_included(const lp_results *results);
const char *lp_results_pair_id(const lp_results *results, int64_t pair);
bool lp_results_has_metric(const lp_results *results, const char *name);
/* out [n, C] = metric `name`; LP_ERR_VALUE where the file has none of that name. */
lp_status lp_results_metric(lp_results *results, const char *name, int64_t first, int64_t n, float *out, lp_error *err);
/* What the unpatched runs of the store answered. */
const char *lp_results_clean_text(const lp_results *results, int64_t pair);
const char *lp_results_corrupted_text(const lp_results *results, int64_t pair);
/* *out = the shape of the file's logit lens (show: NULL); top is 0 where it has none. Reads the token texts on its
 * first call. */
lp_status lp_results_lens(lp_results *results, lp_lens_shape *out, lp_error *err);
/* One pair of side 0 (clean) or 1 (corrupted): tokens, log_probability [positions, layers, top]; -1 and NaN where the
 * pair was not run. */
lp_status lp_results_lens_pair(lp_results *results, int side, int64_t pair, int32_t *tokens, float *log_probability,
                               lp_error *err);
/* The text of a token of the lens; NULL where the file has none of that id. Borrowed; after lp_results_lens. */
const char *lp_results_lens_text(const lp_results *results, int32_t token);
/* *out += value of a provenance key; nothing where there is none. */
lp_status lp_results_provenance(lp_results *results, const char *key, lp_text *out, lp_error *err);

#endif
