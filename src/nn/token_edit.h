/* Edits that depend on what the vector at hand says: which tokens' embeddings are nearest to it.
 *
 * "Nearest" is the largest dot product, or the largest cosine, among the rows of the input embedding (wte,
 * embed_tokens) that decoding may choose; ties go to the lowest id. The tokens are chosen anew whenever the edit is
 * made, from the vector as it is there. What becomes of the vector is computed here, on the host, for every executor
 * and backend alike; sums are in double precision. Knows no tokenizer and no executor. */
#ifndef LP_NN_TOKEN_EDIT_H
#define LP_NN_TOKEN_EDIT_H

#include "nn/site.h"

typedef enum { LP_NEAREST_DOT, LP_NEAREST_COSINE } lp_nearest_by;
enum { LP_MAX_NEAREST = 16 };

/* What an lp_edit with a token edit does:
 *   replace, add, lerp without a vector   v is the embedding of the nearest token
 *   remove, keep without a subspace       P projects onto the span of the `top` nearest embeddings
 *   all others                            as without a token edit
 * and nothing where the map says so. */
typedef struct lp_token_edit {
    lp_nearest_by by;
    int32_t top;        /* 1 .. LP_MAX_NEAREST */
    bool layer_norm;    /* the embedding is normed before it is used: mean 0, variance 1 (eps 1e-5) */
    bool keep_norm;     /* the embedding, or what `keep` leaves, is scaled to the norm of the vector */
    int32_t along;      /* remove: `times` the vector's part along this token's embedding is added; -1: none */
    float times;        /* any finite number */
    const int32_t *map; /* [candidates] the token that stands for the nearest one; -1: the vector is left as it is;
                           NULL: each stands for itself. Borrowed */
} lp_token_edit;

/* 1 / norm of an embedding row x [n], which turns its dot product into a cosine (up to the norm of the other vector);
 * 0 for zeros. */
float lp_token_scale(const float *x, int32_t n);

/* The tokens whose embeddings the edit takes, given the nearest ones [top], best first: out [n <= LP_MAX_NEAREST + 1].
 * Returns n, or -1 where the vector is left as it is. */
int32_t lp_token_edit_list(const lp_edit *edit, const int32_t *nearest, int32_t *out);

/* x [width] changed in place; embeddings [n, width] of the tokens of lp_token_edit_list, in that order. work: room for
 * (LP_MAX_NEAREST + 2) * width numbers. */
void lp_token_edit_apply(const lp_edit *edit, const float *embeddings, int32_t n, float *x, int32_t width,
                         double *work);

#endif
