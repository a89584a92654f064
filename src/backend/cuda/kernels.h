/* The kernels, as C functions that start them on a stream and return what the start returned. They check nothing:
 * indices and shapes are as in backend.h, all pointers are the device's. Each row's arithmetic has a fixed order that
 * depends on the row's own sizes alone; nothing is contracted unless it says fmaf (-fmad=false). */
#ifndef LP_BACKEND_CUDA_KERNELS_H
#define LP_BACKEND_CUDA_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/rows.h"
#include "model/activation.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rows of a batch and one layer of the pool. */
typedef struct {
    lp_row_table rows;    /* without groups every row is a group of its own */
    float *keys, *values; /* [n_slots, width] */
    int32_t width;
    int32_t n_heads, n_kv_heads, head_dim;
} lp_cuda_attention;

enum {
    LP_CUDA_MAX_HEAD_DIM = 256,
    LP_CUDA_MAX_QUERIES = 32, /* query heads of one KV head */
    LP_CUDA_BF16_STEP = 8     /* rows of bf16 operands have multiples of it */
};

/* Element types of stored tensors. */
typedef enum { LP_CUDA_STORED_F32, LP_CUDA_STORED_F16, LP_CUDA_STORED_BF16 } lp_cuda_stored;

/* A stored tensor as a factor: element (i, j) lies at i * row_step + j * column_step. */
typedef struct {
    const void *data;
    lp_cuda_stored type;
    int64_t row_step, column_step;
} lp_cuda_factor;

/* Weights made of stored tensors: to [rows, columns] = w + scale left right, in float32; left [rows, rank], right
 * [rank, columns]. */
typedef struct {
    const void *w; /* [rows, columns] */
    lp_cuda_stored type;
    bool through_f16; /* w is rounded to fp16 on its way */
    lp_cuda_factor left, right;
    int64_t rank; /* 0: to = w */
    float scale;
    int64_t rows, columns;
    void *to;       /* float32, or bf16 rounded to nearest even */
    int64_t stride; /* elements between rows of `to` */
    bool to_bf16;
    int32_t *not_finite; /* set to 1 where a value is NaN or infinity in float32; NULL: not asked */
} lp_cuda_merge;

/* rows.cu; as_bf16: the result is bf16, rounded to nearest even, with zeros after width up to a multiple of
 * LP_CUDA_BF16_STEP, which is where its next row begins */
cudaError_t lp_cuda_copy_rows(float *dst, const int32_t *dst_rows, const float *src, const int32_t *src_rows, int32_t n,
                              int32_t width, cudaStream_t stream);
cudaError_t lp_cuda_add_rows(float *x, const float *y, const int32_t *y_rows, int32_t n, int32_t width,
                             cudaStream_t stream);
cudaError_t lp_cuda_norm(const float *x, const float *weight, const float *bias, float eps, int32_t n, int32_t width,
                         bool as_bf16, void *y, cudaStream_t stream);
/* qkv [n] rows of `stride` floats: RMSNorm of its q_heads + kv_heads first heads of `width` numbers, in place. */
cudaError_t lp_cuda_norm_heads(float *qkv, int64_t stride, int32_t n, int32_t q_heads, int32_t kv_heads, int32_t width,
                               const float *q_weight, const float *k_weight, float eps, cudaStream_t stream);
cudaError_t lp_cuda_add_norm(float *x, const float *y, const float *weight, const float *bias, float eps, int32_t n,
                             int32_t width, bool as_bf16, void *h, cudaStream_t stream);
cudaError_t lp_cuda_activate(lp_activation kind, bool gated, const float *x, int32_t n, int32_t width, bool as_bf16,
                             void *y, cudaStream_t stream);
cudaError_t lp_cuda_edit_rows(float *x, int32_t stride, const lp_row_edit *edits, int32_t n, const float *vectors,
                              cudaStream_t stream);
cudaError_t lp_cuda_argmax(const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t *best,
                           cudaStream_t stream);
cudaError_t lp_cuda_top(const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t top,
                        int32_t *tokens, float *log_probability, cudaStream_t stream);
cudaError_t lp_cuda_read_logits(const float *logits, float *saved, int32_t width, int32_t n_candidates,
                                const lp_logit_query *reads, int32_t n, lp_logit_stats *out, cudaStream_t stream);
cudaError_t lp_cuda_capture_rows(const float *x, int32_t stride, const lp_row_capture *captures, int32_t n, float *out,
                                 cudaStream_t stream);
/* dst [rows, dst_stride] bf16 = src [rows, width] rounded to nearest even, zeros after width */
cudaError_t lp_cuda_to_bf16(void *dst, int64_t dst_stride, const float *src, int64_t rows, int64_t width,
                            cudaStream_t stream);

/* probe.cu: for the probe of a product's algorithm */
/* x [n] = numbers in [-1, 1) that depend on seed and place alone */
cudaError_t lp_cuda_fill(float *x, int64_t n, uint32_t seed, cudaStream_t stream);
/* dst row i = src row (i * step + shift) mod n_src, i < n */
cudaError_t lp_cuda_permute(float *dst, int32_t n, const float *src, int32_t n_src, int32_t step, int32_t shift,
                            int64_t width, cudaStream_t stream);
/* *differs = 1 where a row i < n of a is not, bit for bit, row (i * step + shift) mod n_b of b */
cudaError_t lp_cuda_compare(const float *a, int32_t n, const float *b, int32_t n_b, int32_t step, int32_t shift,
                            int64_t width, int32_t *differs, cudaStream_t stream);

/* merge.cu */
cudaError_t lp_cuda_merge_weights(const lp_cuda_merge *merge, cudaStream_t stream);

/* attention.cu */
cudaError_t lp_cuda_store_kv(const lp_cuda_attention *a, float *qkv, int32_t n, const float *cosine, const float *sine,
                             cudaStream_t stream);
cudaError_t lp_cuda_copy_kv(float *keys, float *values, int32_t width, const int32_t *from, const int32_t *to,
                            int32_t n, cudaStream_t stream);
cudaError_t lp_cuda_attend(const lp_cuda_attention *a, const float *qkv, int32_t n, float *out, cudaStream_t stream);
/* choices [n], with at most most_heads heads each; a->rows is not used */
cudaError_t lp_cuda_attend_chosen(const lp_cuda_attention *a, const float *qkv, const lp_row_choice *choices, int32_t n,
                                  int32_t most_heads, const int32_t *slots, float *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
