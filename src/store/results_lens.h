/* Writing the logit lens of the unpatched runs into a results file, pair by pair; for results.c. */
#ifndef LP_STORE_RESULTS_LENS_H
#define LP_STORE_RESULTS_LENS_H

#include "store/results.h"

typedef struct {
    const lp_results_plan *plan;
    const char *path; /* of the results file, for messages */
    hid_t file;
    hid_t token_set[2], probability_set[2]; /* by side: clean, corrupted */
    size_t of_side;                         /* numbers of one side of one pair */
    int64_t block, n_held, first;           /* pairs of one chunk, held now, the first of them */
    int32_t *tokens[2];                     /* [block, of_side] */
    float *log_probability[2];
    int32_t *seen; /* [n_seen] distinct tokens, ascending */
    size_t n_seen, seen_capacity;
} lp_lens_writer;

/* Makes the datasets; *out may be {0} and released without. Borrows everything. */
lp_status lp_lens_writer_begin(lp_lens_writer *out, hid_t file, const lp_results_plan *plan, const char *path,
                               lp_error *err);
/* The next pair: tokens, log_probability [2, positions, layers, top]; NULL where the pair was not run. */
lp_status lp_lens_writer_add(lp_lens_writer *writer, const int32_t *tokens, const float *log_probability,
                             lp_error *err);
/* Writes what is held, and the table of token texts. */
lp_status lp_lens_writer_end(lp_lens_writer *writer, void *state, lp_error *err);
void lp_lens_writer_release(lp_lens_writer *writer);

#endif
