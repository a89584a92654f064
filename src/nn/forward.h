/* The forward pass over a batch of rows on a backend.
 *
 * A row is one position of one branch of a run. Rows are ragged and independent: each names its position, its KV slot
 * and the slots that it attends to. A row is computed from its first layer on. It shares the layers
 * below with another row of the batch, its source, and takes over the residual stream of the source at the first layer.
 * So rows are sorted by first layer, and layer l works on the first n(l) rows. Edits change vectors at the sites of
 * nn/site.h; captures copy them to a buffer of the caller.
 *
 * Owns the workspace; the weights are the caller's. The lists of a batch are kept, and grow to the largest so far. */
#ifndef LP_NN_FORWARD_H
#define LP_NN_FORWARD_H

#include "backend/backend.h"
#include "nn/nearest.h"
#include "nn/rope.h"
#include "nn/site.h"
#include "nn/weights.h"

typedef struct lp_forward lp_forward;

/* max_rows: largest batch; max_positions: of a run (for rotary tables). Borrows the weights, and their backend and
 * model. */
lp_status lp_forward_new(const lp_weights *weights, int32_t max_rows, int32_t max_positions, lp_forward **out,
                         lp_error *err);
void lp_forward_free(lp_forward *forward);
/* Makes the workspace that of batches of max_rows. After a failure only
 * lp_forward_resize and lp_forward_free may be called. */
lp_status lp_forward_resize(lp_forward *forward, int32_t max_rows, lp_error *err);
/* Bytes of workspace that a batch of max_rows needs on a backend; NULL: the cpu's. */
size_t lp_forward_bytes(const lp_backend *be, const lp_model *model, int32_t max_rows);

typedef struct {
    int32_t key; /* 2 x depth of the address, + 1 when the row begins; see lp_forward_key */
    lp_row_edit edit;
    lp_edit token; /* with a token edit, this is what is done to the row; otherwise `edit` is */
} lp_forward_edit;

typedef struct {
    int32_t key;
    int32_t row;
    int32_t offset, width; /* within the site's vector */
    int64_t out;           /* floats into the batch's captured */
} lp_forward_capture;

/* Heads of a row that, in one layer, attend to a list of slots in place of all of the row's. */
typedef struct {
    int32_t layer;
    lp_row_choice choice;
} lp_forward_choice;

/* Sort key of an edit or capture at `depth` (lp_address_depth) on a row that begins at `first_layer`: after the layer
 * that computes the site, or, where the row takes that very vector over from its source, when the row begins. */
int32_t lp_forward_key(int32_t depth, int32_t first_layer);

/* Where the input of a row with first_layer 0 comes from. */
typedef struct {
    int32_t token;  /* >= 0: row of the embedding */
    int32_t latent; /* otherwise: row of `latents` */
} lp_row_input;

typedef struct {
    int32_t n_rows;
    const int32_t *first_layer; /* [n_rows] ascending, 0 .. n_layers */
    const int32_t *source;      /* [n_rows] row with a smaller first_layer; unused where that is 0 */
    const lp_row_input *input;  /* [n_rows] used where first_layer is 0 */
    const uint8_t
        *output; /* [n_rows] 1: its final hidden state is wanted, or something above the last layer's K and V */
    const int32_t *position, *slot, *prompt_begin, *prompt_length, *tail_begin, *tail_length; /* [n_rows] */
    const int32_t *tail;                                                                      /* [n_tail] */
    int32_t n_tail;
    const lp_forward_edit *edits; /* [n_edits] sorted by key */
    int32_t n_edits;
    const lp_forward_capture *captures; /* [n_captures] sorted by key */
    int32_t n_captures;
    const lp_forward_choice *choices; /* [n_choices] sorted by layer, of rows that the layer computes */
    int32_t n_choices;
    const int32_t *chosen; /* [n_chosen] slots that choices refer to */
    int32_t n_chosen;
    float *captured;      /* dev: where captures go */
    const float *vectors; /* dev: donors' vectors of the edits */
    lp_nearest_room room; /* for token edits; unused without them */
    const float *latents; /* dev [., D]: inputs that are not tokens */
    const lp_kv_pool *pool;
} lp_forward_batch;

/* Runs the batch. *hidden (dev, valid until the next run) = latent_raw [n_out, D] of the rows with output, in their
 * order. */
lp_status lp_forward_run(lp_forward *forward, const lp_forward_batch *batch, const float **hidden, int32_t *n_out,
                         lp_error *err);

/* out [n, D] (dev) = projection, which the model has, of the operand hidden [n, D] (dev). */
lp_status lp_forward_project(lp_forward *forward, const float *hidden, int32_t n, float *out, lp_error *err);
/* out [n, D] (dev) = final norm of x [n, D] (dev). form: of out */
lp_status lp_forward_final_norm(lp_forward *forward, const float *x, int32_t n, lp_form form, float *out,
                                lp_error *err);
/* be->choose with the output head: hidden [n, D] (dev) are operands. */
lp_status lp_forward_choose(lp_forward *forward, const float *hidden, int32_t n, const lp_choosable *among,
                            int32_t *best, bool *found, lp_error *err);
/* logits [n, n_embedded] (dev), rows lp_logits_stride apart = output head over hidden [n, D] (dev) in `form`. */
lp_status lp_forward_head(lp_forward *forward, lp_form form, const float *hidden, int32_t n, float *logits,
                          lp_error *err);

/* (row, layer) pairs computed since the start. */
uint64_t lp_forward_row_layers(const lp_forward *forward);
/* Hook for tests: called for every computed (row, layer) with the row's input vector (host copy), when the K and V that
 * it attends to are all in the batch's pool; NULL: off. cpu backend only. */
typedef void (*lp_row_layer_hook)(void *user, const lp_forward_batch *batch, int32_t row, int32_t layer,
                                  const float *x);
void lp_forward_set_hook(lp_forward *forward, lp_row_layer_hook hook, void *user);

#endif
