/* Backends: the operations of the forward pass as one table of functions.
 *
 * A backend owns its memory space. Pointers marked `dev` point there (on the cpu backend that is ordinary memory); the
 * others are the host's. Rows of a matrix lie one after the other. Operations are issued in order; `download` and
 * `sync` wait for those before them. Every operation computes each row from that row alone, in an order of arithmetic
 * that does not depend on the number of rows, on threads, or on what the other rows hold: this is the contract that
 * makes results independent of batching, and every backend tests it. Indices are trusted: the engine checks them.
 *
 * A slot that says "optional" may be NULL until lp_backend_use_defaults gives it what a backend in the host's memory
 * does there; the others are required. Callers never see a NULL. A backend without a device fails in its `_new`. */
#ifndef LP_BACKEND_BACKEND_H
#define LP_BACKEND_BACKEND_H

#include "backend/rows.h"
#include "base/error.h"
#include "model/model.h"

typedef struct lp_backend lp_backend;

/* Matrices that operations write have room for this many rows more than asked for: `linear` fills up tiles there. */
enum { LP_ROW_PADDING = 128 };

/* Rows of each part when n rows are taken at most `most` at a time, in parts as equal as possible. */
static inline int32_t lp_equal_part(int32_t n, int32_t most) {
    int32_t parts = (n + most - 1) / most;
    return (n + parts - 1) / parts;
}

/* A linear layer's weights in the backend's memory; opaque. */
typedef struct lp_backend_linear lp_backend_linear;

/* How a matrix is held that goes into a linear layer: floats, or as the backend multiplies them, for `linear` alone to
 * read; then rows of `width` numbers lie lp_operand_bytes apart. */
typedef enum { LP_FLOATS, LP_OPERAND } lp_form;

/* Keys and values of all positions in flight: dev [n_layers, n_slots] slots each. A slot is one position of one branch:
 * KV floats, or as the backend holds them (kv_item_bytes), for its own operations alone to read. */
typedef struct {
    float *keys;
    float *values;
    size_t slot_bytes; /* lp_kv_slot_bytes */
    int64_t n_slots;
    int32_t n_layers;
    int32_t width; /* KV */
} lp_kv_pool;

/* Tokens of which one is chosen: the first ones, of which the barred, a few, have a logit below every other. */
typedef struct {
    int32_t n_candidates;
    const int32_t *barred; /* host [n_barred] */
    int32_t n_barred;
    float barred_logit;
} lp_choosable;

/* Results under way to the host; see fetch_begin. */
enum { LP_FETCHES = 2 };

typedef struct {
    uint64_t gemm_flops;           /* 2 x rows x in x out, without padding; `choose` counts as its product */
    uint64_t padded_flops;         /* the same with the rows that tiles were filled up with */
    uint64_t bytes_up, bytes_down; /* copied to the device and back; 0 where that is the host */
    uint64_t n_waits;              /* times that the host waited for the device */
    uint64_t n_unaligned_products; /* shapes of products that got a tensor core kernel for operands at any address */
    uint64_t weight_bytes;         /* held for linear_new, matrix_new and vector_new; 0 where they are the host's own */
} lp_backend_counters;

struct lp_backend {
    const char *name;           /* "cpu", "cuda" */
    const char *description;    /* what it computes with: device or library, versions; for provenance */
    const char *device_id;      /* the same for two processes of a node that have the same device; NULL: the host */
    int64_t memory_bytes;       /* of the device, free when it was opened; 0: the host's memory */
    int32_t batch_rows;         /* rows of a batch that keep it busy */
    bool wants_groups;          /* attention gains from lp_row_table's groups */
    bool is_asynchronous;       /* operations return before they are done */
    int32_t operand_item_bytes; /* of operands: bytes of a number, rows filled up to 8 of them; 0: they are floats */
    int32_t operand_tail_bytes; /* after each row */
    int32_t kv_item_bytes;      /* of keys and values: bytes of a number, heads filled up to 8 of them; 0: floats */
    bool makes_weights; /* linear_new and matrix_new take matrices without data, and make them of their sources */
    bool takes_panels;  /* linear_new and matrix_new take matrices in panels, and are faster with them */
    lp_backend_counters counters;

    void (*free)(lp_backend *be);
    /* *out = dev memory of at least `bytes`, aligned to 64. */
    lp_status (*alloc)(lp_backend *be, size_t bytes, const char *what, void **out, lp_error *err);
    void (*release)(lp_backend *be, void *dev);
    lp_status (*upload)(lp_backend *be, void *dev, const void *host, size_t bytes, lp_error *err);
    lp_status (*download)(lp_backend *be, void *host, const void *dev, size_t bytes, lp_error *err);
    /* optional: nothing to wait for */
    lp_status (*sync)(lp_backend *be, lp_error *err);
    /* Sends `bytes` of dev on their way, as they are after the operations before; number fetch < LP_FETCHES is not
     * under way yet. dev stays as it is until fetch_end, which waits for these bytes alone, not for later operations.
     */
    lp_status (*fetch_begin)(lp_backend *be, int fetch, const void *dev, size_t bytes, lp_error *err);
    lp_status (*fetch_end)(lp_backend *be, int fetch, void *host, size_t bytes, lp_error *err);

    /* *out refers to, or holds a copy of, the host's weights, which must outlive it. A matrix without data is made of
     * its source: widened and merged in float32, then kept as the backend computes with it. Fails with LP_ERR_VALUE
     * where that gives NaN or infinity, naming the tensor. */
    lp_status (*linear_new)(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err);
    void (*linear_free)(lp_backend *be, lp_backend_linear *linear);
    /* *out = the matrix's values in dev memory, in its layout, float32: for looking rows up. Made of a source
     * as linear_new does; a linear layer of the same matrix shares what it can. Freed with vector_free. Optional: the
     * host's own. */
    lp_status (*matrix_new)(lp_backend *be, const lp_matrix *host, const float **out, lp_error *err);
    /* *out = the n floats in dev memory. Freed with vector_free. Optional, both: the host's own. */
    lp_status (*vector_new)(lp_backend *be, const float *host, size_t n, const float **out, lp_error *err);
    void (*vector_free)(lp_backend *be, const float *vector);

    /* y [n, out] = x [n, in] W + bias, rows lp_linear_stride apart; what lies between them may be written where it has
     * room for `out` up to a multiple of 64, and is left alone otherwise. form: of x */
    lp_status (*linear)(lp_backend *be, const lp_backend_linear *w, lp_form form, const float *x, int32_t n, float *y,
                        lp_error *err);
    /* dst [dst_rows[i]] = src [src_rows[i]], i < n; a NULL list stands for 0, 1, 2, ...; rows of `width` floats. The
     * lists do not overlap where dst == src. */
    lp_status (*copy_rows)(lp_backend *be, float *dst, const int32_t *dst_rows, const float *src,
                           const int32_t *src_rows, int32_t n, int32_t width, lp_error *err);
    /* dst [n] = rows src_rows[i] (NULL: row i) of src [., width], as operands. Optional: copy_rows */
    lp_status (*pack_rows)(lp_backend *be, float *dst, const float *src, const int32_t *src_rows, int32_t n,
                           int32_t width, lp_error *err);
    /* dst [dst_rows[i]] (NULL: row i) = columns[i] of matrix, of LP_PANELS [width, .]; required where takes_panels,
     * otherwise NULL */
    lp_status (*copy_columns)(lp_backend *be, float *dst, const int32_t *dst_rows, const float *matrix,
                              const int32_t *columns, int32_t n, int32_t width, lp_error *err);
    /* x [n, width] += y [y_rows[i]] (NULL: the same row) */
    lp_status (*add_rows)(lp_backend *be, float *x, const float *y, const int32_t *y_rows, int32_t n, int32_t width,
                          lp_error *err);
    /* y [n, width] = norm of x; bias NULL: RMSNorm, otherwise LayerNorm; form: of y */
    lp_status (*norm)(lp_backend *be, const float *x, const float *weight, const float *bias, float eps, int32_t n,
                      int32_t width, lp_form form, float *y, lp_error *err);
    /* x [n, width] += y, then h [n, width] = norm of x: the bits of add_rows and norm; form: of h */
    lp_status (*add_norm)(lp_backend *be, float *x, const float *y, const float *weight, const float *bias, float eps,
                          int32_t n, int32_t width, lp_form form, float *h, lp_error *err);
    /* qkv [n, Q + 2 KV]: RMSNorm (config->norm_eps) of each head of q and of k in place; weights dev [head_dim]. */
    lp_status (*norm_heads)(lp_backend *be, const lp_model_config *config, float *qkv, int32_t n, const float *q_weight,
                            const float *k_weight, lp_error *err);
    /* y [n, width] = act(x); gated: x is [n, 2 width] = gate | up and y = act(gate) * up; form: of y. y may be x when
     * not gated and both are floats. */
    lp_status (*activate)(lp_backend *be, lp_activation kind, bool gated, const float *x, int32_t n, int32_t width,
                          lp_form form, float *y, lp_error *err);
    /* qkv [n, Q + 2 KV]: rotates q in place and k on its way (cosine NULL: no rotation; tables [positions, head_dim /
     * 2]), and writes k and v to each row's slot of the layer. */
    lp_status (*store_kv)(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                          int32_t n, const float *cosine, const float *sine, const lp_kv_pool *pool, int32_t layer,
                          lp_error *err);
    /* K and V of one layer: slot to[i] = slot from[i], i < n */
    lp_status (*copy_kv)(lp_backend *be, const lp_kv_pool *pool, int32_t layer, const int32_t *from, const int32_t *to,
                         int32_t n, lp_error *err);
    /* out [n, Q] = softmax(q K / sqrt(head_dim)) V over each row's slots; form: of out. An operand may cost what qkv
     * has in the place of q. */
    lp_status (*attend)(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows, int32_t n,
                        const lp_kv_pool *pool, int32_t layer, lp_form form, float *out, lp_error *err);
    /* out [row, heads] = the same for each of the choices [n] (host), over slots [begin, begin + length) of `slots`
     * (dev) in place of the row's own: the bits of `attend` on a row without a prompt whose tail they are. No head of
     * a row is chosen twice. */
    lp_status (*attend_chosen)(lp_backend *be, const lp_model_config *config, const float *qkv,
                               const lp_row_choice *choices, int32_t n, const int32_t *slots, const lp_kv_pool *pool,
                               int32_t layer, float *out, lp_error *err);
    /* Applies edits [n] (host) to rows of x of `stride` floats; at most one edit a row and place, so their order does
     * not matter. */
    lp_status (*edit_rows)(lp_backend *be, float *x, int32_t stride, const lp_row_edit *edits, int32_t n,
                           const float *vectors, lp_error *err);
    /* best [n] (dev) = index of the largest of the first n_candidates of each row of logits [n, width]; ties to the
     * lowest; NaN never wins, and a row without another number gives 0. */
    lp_status (*argmax)(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                        int32_t *best, lp_error *err);
    /* A quicker way to the tokens than all logits. *found true: best [n] (dev) is what argmax would find in the logits
     * that `linear` makes of x [n, in] (operands), with barred_logit for the tokens `barred`. *found false: best is as
     * it was, and the caller has to compute the logits. Optional; by default *found is false. */
    lp_status (*choose)(lp_backend *be, const lp_backend_linear *head, const float *x, int32_t n,
                        const lp_choosable *among, int32_t *best, bool *found, lp_error *err);
    /* x[i, j] *= scale[j] for j < n_columns of each row of x [n, width] */
    lp_status (*scale_columns)(lp_backend *be, float *x, int32_t n, int32_t width, int32_t n_columns,
                               const float *scale, lp_error *err);
    /* The `top` likeliest of the first n_candidates of each row of logits [n, width], ties to the lowest: tokens [n,
     * top] and log_probability [n, top] (dev), the log softmax over the candidates, its sum made in double precision.
     * NaN never wins; where nothing is left the token is 0 and its number NaN. */
    lp_status (*top)(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t top,
                     int32_t *tokens, float *log_probability, lp_error *err);
    /* out [n] (dev) = what queries [n] (host) ask for; logits [., width], saved [., width] (dev). All sums are made in
     * double precision. Rows are copied to saved first, in any order. */
    lp_status (*read_logits)(lp_backend *be, const float *logits, float *saved, int32_t width, int32_t n_candidates,
                             const lp_logit_query *queries, int32_t n, lp_logit_stats *out, lp_error *err);
    /* out (dev), at each capture's place = width floats of row `row` of x, from offset on; captures [n] (host). */
    lp_status (*capture_rows)(lp_backend *be, const float *x, int32_t stride, const lp_row_capture *captures, int32_t n,
                              float *out, lp_error *err);
};

/* Bytes between rows of `width` numbers of a form. */
static inline size_t lp_operand_bytes(const lp_backend *be, lp_form form, int32_t width) {
    if (form == LP_OPERAND && be->operand_item_bytes > 0)
        return (size_t)((width + 7) / 8 * 8) * (size_t)be->operand_item_bytes + (size_t)be->operand_tail_bytes;
    return (size_t)width * sizeof(float);
}

/* Floats that a row takes which is one of floats and one of an operand by turns; be NULL: the cpu's. */
static inline int32_t lp_operand_floats(const lp_backend *be, int32_t width) {
    size_t bytes = be ? lp_operand_bytes(be, LP_OPERAND, width) : 0;
    int32_t floats = (int32_t)((bytes + sizeof(float) - 1) / sizeof(float));
    return floats > width ? floats : width;
}

/* Bytes of one slot of one layer: keys, or values. be NULL: the cpu's. */
static inline size_t lp_kv_slot_bytes(const lp_backend *be, const lp_model_config *config) {
    const size_t heads = (size_t)config->n_kv_heads, head_dim = (size_t)config->head_dim;
    if (be && be->kv_item_bytes > 0) return heads * ((head_dim + 7) / 8 * 8) * (size_t)be->kv_item_bytes;
    return heads * head_dim * sizeof(float);
}

/* Gives the optional slots that are NULL their defaults; the last step of a backend's `_new`. */
void lp_backend_use_defaults(lp_backend *be);

/* threads: OpenMP threads of this process; 0: OpenMP's own choice. */
lp_status lp_backend_cpu_new(int32_t threads, lp_backend **out, lp_error *err);
/* NULL is accepted. */
void lp_backend_free(lp_backend *be);
/* The kernel set that the cpu backend computes with, "kernels avx512"; for provenance. Static. */
const char *lp_backend_cpu_describe(void);

#endif
