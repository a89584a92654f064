/* Donors: the vectors that a sweep writes into runs, taken from the store, computed, or read from files.
 *
 * The table lists every distinct vector that the conditions of a direction need (donor kind and address); per pair the
 * vectors are gathered once, and edits point into that gathering. Local. */
#ifndef LP_STAGE_DONORS_H
#define LP_STAGE_DONORS_H

#include "stage/labels.h"
#include "stage/layout.h"

/* Every other pair has something in common with this one. */
#define LP_NO_PAIR UINT32_MAX

/* One distinct vector. */
typedef struct {
    lp_donor donor; /* never SELF */
    lp_address from;
    int32_t vector; /* FILE: which; SHUFFLED: the draw; MEAN, NOISE: index of the detail */
    lp_donor_detail detail;
    int32_t width;
    size_t offset;   /* floats into the pair's gathering */
    size_t captured; /* store field and offset of the source vector; unused for ZERO and FILE */
    size_t at;
    int32_t labels;      /* MEAN and NOISE with a label: place in the table's */
    size_t group_counts; /* the same into n_in_group, [n_groups] */
    size_t
        group_sums; /* means over labelled pairs: floats into the table's group_sums, [n_groups of the label, width] */
} lp_donor_vector;

typedef struct {
    const lp_session *session;
    const lp_store_layout *layout;
    lp_donor_vector *vectors; /* [n] by lp_replacement.source; width 0: no run takes it */
    size_t n;
    size_t n_floats;      /* of one pair's gathering */
    int source_side;      /* run that MEAN, SHUFFLED and RANDOM start from: clean for denoise, corrupted for noise */
    uint32_t *other_pair; /* [n_draws, n_pairs] donor pair of SHUFFLED, or LP_NO_PAIR; NULL: no SHUFFLED */
    int32_t n_draws;
    double *sums;      /* [n_floats] sums for MEAN and NOISE over the pairs that have the position; NULL: neither */
    double *squares;   /* [n] sums of the squares of all of a vector's numbers */
    int64_t *n_summed; /* [n] how many pairs these are */
    lp_pair_labels *labels; /* [n_labels] */
    size_t n_labels, label_capacity;
    double *group_sums;  /* sums over the pairs of a group; see lp_donor_vector */
    int64_t *n_in_group; /* [n_group_counts] pairs of these that have the position */
    size_t n_group_sums, n_group_counts;
    float *files;         /* vectors read from files, one after the other */
    size_t *file_offsets; /* [n_vectors of the job] */
    size_t *file_sizes;
    lp_subspace *subspaces; /* [n_vectors of the job] those of the files that hold directions; directions owned */
} lp_donor_table;

/* Lists what the conditions of a direction need, at any of the prompt lengths, sets `source` of their replacements, and
 * checks that the store keeps it: the error names the condition, the address and the `store.sites` entry that would
 * keep it. */
lp_status lp_donor_table_init(const lp_session *session, const lp_store_layout *layout, lp_condition_set *set,
                              const lp_run_shapes *shapes, lp_direction direction, lp_donor_table *out, lp_error *err);
void lp_donor_table_release(lp_donor_table *table);

/* True when some condition needs sums over the store. Then the sums must be made before the first gathering: every
 * pair of the store is read once. */
bool lp_donor_table_needs_sums(const lp_donor_table *table);
lp_status lp_donor_table_sum(lp_donor_table *table, lp_record_file *store, lp_error *err);

/* out [n_floats] = all vectors of the table for the pair `own` of the store, but for those of SHUFFLED; NaN where the
 * donor's run does not have the position. */
void lp_donor_table_gather(const lp_donor_table *table, const lp_pair_record *own, float *out);
/* The pair that a draw of SHUFFLED takes its vectors from: one, chosen at random by the draw's seed, that has another
 * source and another template than `pair`, and none of its questions and answers; LP_NO_PAIR where there is none. */
uint32_t lp_donor_table_other(const lp_donor_table *table, int32_t draw, int64_t pair);
/* The vectors in `out` of one draw of SHUFFLED; other: the pair that it takes them from; NULL: none, so they are NaN.
 */
void lp_donor_table_gather_draw(const lp_donor_table *table, int32_t draw, const lp_pair_record *other, float *out);

/* The vector of an effective replacement in a gathering; NULL where the operation takes none, and for TOKEN. */
const float *lp_donor_table_vector(const lp_donor_table *table, const lp_replacement *what, const float *gathering);
/* Is such a vector there? */
bool lp_donor_has(const float *vector);

#endif
