/* A model's weights in a backend's memory: made once, read by any number of forward passes.
 *
 * Owns the backend's handles; borrows backend and model. Where the backend makes weights, the matrices that the model
 * leaves (lp_model_leave_matrices) are made here of what its files hold; afterwards nothing of them stays on the host.
 * Local. */
#ifndef LP_NN_WEIGHTS_H
#define LP_NN_WEIGHTS_H

#include "backend/backend.h"

typedef struct {
    const float *weight, *bias; /* dev [D]; bias NULL: RMSNorm */
} lp_norm_weights;

typedef struct {
    lp_norm_weights norm_attn, norm_mlp;
    const float *norm_q, *norm_k; /* dev [head_dim]; NULL: heads are not normed */
    lp_backend_linear *qkv, *attn_out, *mlp_in, *mlp_out;
} lp_block_weights;

typedef struct {
    lp_backend *be;
    const lp_model *model;
    lp_block_weights *blocks; /* [n_layers] */
    lp_norm_weights final_norm, projection_norm;
    lp_backend_linear *projection_in, *projection_out; /* NULL without a projection */
    lp_backend_linear *head;
    const float *embedding; /* dev [n_embedded, D], or [D, n_embedded] in panels where the model has it so */
    const float *positions; /* dev [n_context, D]; NULL for LLaMA */
} lp_weights;

/* Floats between rows of logits: of a vocabulary of any size, these begin where whole cache lines do, and products may
 * be as wide. */
static inline int32_t lp_logits_stride(const lp_model_config *config) {
    return (config->n_embedded + 63) / 64 * 64;
}

/* Fails as the backend's linear_new: out of memory, or NaN or infinity in a tensor, which is named. */
lp_status lp_weights_new(lp_backend *be, const lp_model *model, lp_weights **out, lp_error *err);
/* NULL is accepted. */
void lp_weights_free(lp_weights *weights);

#endif
