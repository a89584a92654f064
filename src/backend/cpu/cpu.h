/* The cpu backend: base/gemm.h for matrix products, loops over rows for the rest, OpenMP over both. */
#ifndef LP_BACKEND_CPU_CPU_H
#define LP_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "base/versions.h"

typedef struct {
    lp_backend base;
    int32_t threads;
    const void *fetched[LP_FETCHES];
    float *products; /* [threads, LP_GEMM_WORKSPACE] */
    float *scratch;  /* of attention and of `choose`, grown as it is needed */
    size_t scratch_capacity;
    bool bounds_are_loose; /* `choose` found that they leave too much to compute */
} lp_backend_cpu;

static inline int32_t lp_cpu_threads(const lp_backend *be) {
    return ((const lp_backend_cpu *)be)->threads;
}

/* Threads for a loop over n rows that touches `width` numbers of each: waking the others costs more than a little work
 * does. */
static inline int32_t lp_cpu_team(const lp_backend *be, int32_t n, int64_t width) {
    return n * width < 1 << 17 ? 1 : lp_cpu_threads(be);
}

/* cpu_linear.c */
lp_status lp_cpu_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err);
void lp_cpu_linear_free(lp_backend *be, lp_backend_linear *linear);
lp_status lp_cpu_linear(lp_backend *be, const lp_backend_linear *linear, lp_form form, const float *x, int32_t n,
                        float *y, lp_error *err);

lp_status lp_cpu_choose(lp_backend *be, const lp_backend_linear *head, const float *x, int32_t n,
                        const lp_choosable *among, int32_t *best, bool *found, lp_error *err);

/* cpu_kernels.c: loops over rows, without a backend. Shapes as in backend.h. */
void lp_cpu_layer_norm(const float *x, const float *weight, const float *bias, float eps, int32_t width, float *y);
void lp_cpu_rms_norm(const float *x, const float *weight, float eps, int32_t width, float *y);
void lp_cpu_activate(lp_activation kind, bool gated, const float *x, int32_t width, float *y);
void lp_cpu_add(float *x, const float *y, int32_t width);
void lp_cpu_edit(float *x, const lp_row_edit *edit, const float *vectors);
int32_t lp_cpu_argmax(const float *x, int32_t n);
/* x, base [n] (base NULL: no divergence); token [2] */
/* One row of `top`. */
void lp_cpu_top(const float *x, int32_t n, int32_t top, int32_t *tokens, float *log_probability);
void lp_cpu_read_logits(const float *x, const float *base, int32_t n, const int32_t *token, lp_logit_stats *out);
/* out [n] = exp(x[i] - shift); returns their sum, added in sixteen lanes. */
float lp_cpu_exponentials(const float *x, float shift, int32_t n, float *out);

/* cpu_attention.c */
lp_status lp_cpu_store_kv(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                          int32_t n, const float *cosine, const float *sine, const lp_kv_pool *pool, int32_t layer,
                          lp_error *err);
lp_status lp_cpu_attend(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows, int32_t n,
                        const lp_kv_pool *pool, int32_t layer, lp_form form, float *out, lp_error *err);
lp_status lp_cpu_attend_chosen(lp_backend *be, const lp_model_config *config, const float *qkv,
                               const lp_row_choice *choices, int32_t n, const int32_t *slots, const lp_kv_pool *pool,
                               int32_t layer, float *out, lp_error *err);

#endif
