/* Token edits (token_edit.h) of a batch's rows on a backend: finds the tokens nearest to each row, and changes it.
 *
 * Scores are made on the device, by the output head's product where the head is the embedding; the chosen rows come to
 * the host, are changed there, and go back. So each row is changed by itself, in one way on every backend. Owns lists
 * of its own and, once it is asked for cosines, the norms of the embedding; borrows the weights. */
#ifndef LP_NN_NEAREST_H
#define LP_NN_NEAREST_H

#include "nn/token_edit.h"
#include "nn/weights.h"

typedef struct {
    const lp_weights *weights;
    lp_backend_linear *own_product; /* the embedding as a linear layer, where the head is another matrix */
    float *scales;                  /* dev [n_embedded] lp_token_scale of each; NULL before they are asked for */
    int32_t *ids;                   /* dev [list_capacity] */
    float *numbers;                 /* dev [list_capacity] */
    size_t list_capacity;
    /* host */
    lp_row_capture *rows;
    size_t row_capacity;
    lp_row_edit *back;
    size_t back_capacity;
    int32_t *lists;
    size_t host_list_capacity;
    float *vectors;
    size_t vector_capacity;
    double *work;
} lp_nearest;

/* Memory of the caller that a call may use. */
typedef struct {
    float *x, *embeddings; /* dev [n_rows + LP_ROW_PADDING, D] */
    int32_t n_rows;
    float *logits; /* dev [n_logits + LP_ROW_PADDING, lp_logits_stride] */
    int32_t n_logits;
    int32_t n_candidates; /* the tokens that may be the nearest are 0 .. n_candidates - 1 */
} lp_nearest_room;

typedef struct {
    int32_t row;
    const lp_edit *edit; /* its token edit is not NULL */
} lp_nearest_row;

/* Changes rows of x, of D floats, by the edits [n]. At most one edit a row. */
lp_status lp_nearest_edit(lp_nearest *nearest, const lp_nearest_room *room, float *x, const lp_nearest_row *edits,
                          int32_t n, lp_error *err);
void lp_nearest_release(lp_nearest *nearest);

#endif
