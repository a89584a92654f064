/* What the engine says of the rows of a batch, in plain structs: backends take them, and so do the kernels of a device.
 */
#ifndef LP_BACKEND_ROWS_H
#define LP_BACKEND_ROWS_H

#include <stdint.h>

/* What attention needs to know of each row; dev arrays [n_rows] unless said otherwise. A row attends to the slots
 * prompt_begin .. prompt_begin + prompt_length - 1, then to tail[tail_begin .. tail_begin + tail_length - 1], in this
 * order; its own slot is among them. The groups, which a backend may ask for (wants_groups), only say which rows share
 * a prompt's slots, so that these are read once for several rows; without them (group_row NULL) results are the same.
 */
typedef struct {
    const int32_t *position;
    const int32_t *slot;
    const int32_t *prompt_begin;
    const int32_t *prompt_length;
    const int32_t *tail_begin;
    const int32_t *tail_length;
    const int32_t *tail;        /* slots */
    const int32_t *group_row;   /* [rows of the batch] row numbers, group by group, ascending within each */
    const int32_t *group_begin; /* [n_groups + 1] into group_row; a group has at most LP_GROUP_ROWS rows */
    int32_t n_groups;
} lp_row_table;

enum { LP_GROUP_ROWS = 32 };

/* Query heads of a row that attend to a list of slots of their own. */
typedef struct {
    int32_t row;
    int32_t first_head, n_heads; /* query heads */
    int32_t begin, length;       /* into the batch's list of slots; length > 0 */
} lp_row_choice;

/* One change of a row: x[row, offset .. offset + width) by operation (values of lp_operation) with vectors[vector ...].
 */
typedef struct {
    int32_t row;
    int32_t offset;
    int32_t width;
    int32_t operation;
    float factor;
    int64_t vector;       /* floats into the vectors of the batch */
    int64_t directions;   /* the same: [n_directions, width] orthonormal rows, of the operations with a subspace */
    int32_t n_directions; /* at most LP_MAX_EDIT_DIRECTIONS */
} lp_row_edit;
enum { LP_MAX_EDIT_DIRECTIONS = 64 };

/* A part of a row that is wanted: x[row, offset .. offset + width) goes to `out` floats into the result. */
typedef struct {
    int32_t row;
    int32_t offset;
    int32_t width;
    int64_t out;
} lp_row_capture;

/* One row of logits that is read on the device, and what is wanted of it. The candidates of decoding are its first
 * n_candidates; rows of `saved` are logits of earlier rows. */
typedef struct {
    int32_t row;       /* of the logits; -1: saved_row is read */
    int32_t saved_row; /* of saved: where the row is copied to before anything is read, or what is read; -1: neither */
    int32_t base;      /* row of saved whose distribution the divergence is from; -1: none */
    int32_t token[2];  /* whose logits are wanted; -1: none */
} lp_logit_query;

typedef struct {
    double log_sum;  /* log of the sum of exp(logit) */
    double kl;       /* sum of p (log p - log q), p: base, q: the row; NaN without base */
    double logit[2]; /* of the tokens; NaN without one */
} lp_logit_stats;

#endif
