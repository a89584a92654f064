/* The lists of numbers that a batch's operations read: rows, tokens, KV slots. They are made on the host, in one block,
 * and copied to the backend's memory at once.
 *
 * Owns both blocks, which grow to the largest batch so far. Knows no weights and no activations. */
#ifndef LP_NN_BATCH_LISTS_H
#define LP_NN_BATCH_LISTS_H

#include "nn/forward.h"

typedef struct {
    /* Of the last batch; dev unless said otherwise. */
    lp_row_table rows;
    const int32_t *source;                   /* [n_rows] rows whose stream is taken over */
    int32_t n_fresh;                         /* rows with first_layer 0; each begins with a token or a latent: */
    const int32_t *token_rows, *token_ids;   /* [n_tokens] */
    const int32_t *latent_rows, *latent_ids; /* [n_latents] */
    int32_t n_tokens, n_latents;
    const int32_t *out_rows, *host_out_rows; /* [n_out] rows with output, ascending; the same on the host */
    int32_t n_out;
    const int32_t *compact;                 /* host [n_rows] row -> row among those with output, or -1 */
    const int32_t *output_from, *output_to; /* [n_output_copies] of those with output: rows that share all layers */
    int32_t n_output_copies;
    const int32_t *copy_from, *copy_to;    /* KV slots, layer by layer */
    int32_t copy_begin[LP_MAX_LAYERS + 1]; /* host [n_layers + 1] */
    const int32_t *chosen;                 /* slots of the batch's choices */
    /* What they lie in. */
    int32_t *host, *dev;
    size_t host_capacity, dev_capacity;
    int32_t *host_compact;
    size_t compact_capacity;
    uint64_t *group_keys; /* scratch of lp_row_groups */
    size_t group_keys_capacity;
} lp_batch_lists;

/* Makes the lists of a batch of a model with n_layers <= LP_MAX_LAYERS and uploads them. */
lp_status lp_batch_lists_make(lp_batch_lists *lists, lp_backend *be, const lp_forward_batch *batch, int32_t n_layers,
                              lp_error *err);
void lp_batch_lists_release(lp_batch_lists *lists, lp_backend *be);

#endif
