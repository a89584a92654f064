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
    lp_row_table rows;   /* without groups every row is a group of its own */
    void *keys, *values; /* [n_slots, width] floats, or [n_slots, KV heads, head_dim filled up to 8] in bf16 */
    int64_t slot_bytes;
    bool is_bf16;
    int32_t width;
    int32_t n_heads, n_kv_heads, head_dim;
} lp_cuda_attention;

/* Where attention's results go, all heads of a row together. */
typedef struct {
    void *out;         /* [n, q_heads * head_dim] floats, or that as an operand */
    bool as_split;     /* of float32 keys and values: split rows; what lies in the place of q is overwritten */
    bool as_bf16;      /* of bf16 keys and values */
    int32_t *finished; /* as_split: [n] zeros, and zeros again afterwards */
} lp_cuda_attended;

enum {
    LP_CUDA_MAX_HEAD_DIM = 256,
    LP_CUDA_MAX_QUERIES = 32, /* query heads of one KV head */
    LP_CUDA_STEP = 8,         /* numbers: rows of operands, as products take them, have multiples of it */
    LP_CUDA_SPLIT_TAIL = 16   /* bytes after a row of a split operand; the first four are its exponent */
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

/* How numbers are written. BF16: rounded to nearest even, with zeros after width up to a multiple of LP_CUDA_STEP,
 * which is where the next row begins. SPLIT: rows of split.cuh: high and low fp16 parts, each filled up with zeros like
 * that, then LP_CUDA_SPLIT_TAIL bytes. */
typedef enum { LP_CUDA_AS_FLOATS, LP_CUDA_AS_BF16, LP_CUDA_AS_SPLIT } lp_cuda_form;

/* The three products of a split operand, added up: to [rows, n_out] = from times the powers of two of x's rows and of
 * the weights' columns, + bias; rows with NaN or infinity as float32 has them. `to` may be `from`. */
typedef struct {
    float *to;
    int64_t to_stride;
    const float *from;
    int64_t from_stride;
    int64_t rows, n_out;
    int32_t n_in;
    const void *x;            /* split rows of n_in numbers */
    const void *weights;      /* [n_out, low | high] fp16 */
    const int32_t *exponents; /* [n_out] of the weights */
    const float *bias;        /* [n_out] or NULL */
} lp_cuda_finish;

/* split.cu */
/* dst [rows] split rows = rows src_rows[i] (NULL: i) of src [., width] */
cudaError_t lp_cuda_split_rows(void *dst, const float *src, const int32_t *src_rows, int64_t rows, int32_t width,
                               cudaStream_t stream);
/* dst [rows, low | high] fp16, each part filled up with zeros to a multiple of LP_CUDA_STEP, and exponents [rows]:
 * element (i, j) of src lies at i * row_step + j * column_step. */
cudaError_t lp_cuda_split_weights(void *dst, int32_t *exponents, const float *src, int64_t rows, int32_t width,
                                  int64_t row_step, int64_t column_step, cudaStream_t stream);
cudaError_t lp_cuda_finish_split(const lp_cuda_finish *finish, cudaStream_t stream);

/* rows.cu; as: of the result */
cudaError_t lp_cuda_copy_rows(float *dst, const int32_t *dst_rows, const float *src, const int32_t *src_rows, int32_t n,
                              int32_t width, cudaStream_t stream);
cudaError_t lp_cuda_add_rows(float *x, const float *y, const int32_t *y_rows, int32_t n, int32_t width,
                             cudaStream_t stream);
cudaError_t lp_cuda_norm(const float *x, const float *weight, const float *bias, float eps, int32_t n, int32_t width,
                         lp_cuda_form as, void *y, cudaStream_t stream);
/* qkv [n] rows of `stride` floats: RMSNorm of its q_heads + kv_heads first heads of `width` numbers, in place. */
cudaError_t lp_cuda_norm_heads(float *qkv, int64_t stride, int32_t n, int32_t q_heads, int32_t kv_heads, int32_t width,
                               const float *q_weight, const float *k_weight, float eps, cudaStream_t stream);
cudaError_t lp_cuda_add_norm(float *x, const float *y, const float *weight, const float *bias, float eps, int32_t n,
                             int32_t width, lp_cuda_form as, void *h, cudaStream_t stream);
cudaError_t lp_cuda_activate(lp_activation kind, bool gated, const float *x, int32_t n, int32_t width, lp_cuda_form as,
                             void *y, cudaStream_t stream);
cudaError_t lp_cuda_edit_rows(float *x, int32_t stride, const lp_row_edit *edits, int32_t n, const float *vectors,
                              cudaStream_t stream);
cudaError_t lp_cuda_argmax(const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t *best,
                           cudaStream_t stream);
cudaError_t lp_cuda_scale_columns(float *x, int32_t n, int32_t width, int32_t n_columns, const float *scale,
                                  cudaStream_t stream);
cudaError_t lp_cuda_top(const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t top,
                        int32_t *tokens, float *log_probability, cudaStream_t stream);
cudaError_t lp_cuda_read_logits(const float *logits, float *saved, int32_t width, int32_t n_candidates,
                                const lp_logit_query *reads, int32_t n, lp_logit_stats *out, cudaStream_t stream);
cudaError_t lp_cuda_capture_rows(const float *x, int32_t stride, const lp_row_capture *captures, int32_t n, float *out,
                                 cudaStream_t stream);
/* dst [rows, dst_stride] = src [rows, width], in bf16 rounded to nearest even, zeros after width */
cudaError_t lp_cuda_pad_rows(float *dst, int64_t dst_stride, const float *src, int64_t rows, int64_t width,
                             cudaStream_t stream);
cudaError_t lp_cuda_to_bf16(void *dst, int64_t dst_stride, const float *src, const int32_t *src_rows, int64_t rows,
                            int64_t width, cudaStream_t stream);

/* probe.cu: for the probe of a product's algorithm */
/* x [n] of a type = numbers in [-1, 1] that depend on seed and place alone */
cudaError_t lp_cuda_fill(void *x, int64_t n, lp_cuda_stored type, uint32_t seed, cudaStream_t stream);
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
cudaError_t lp_cuda_copy_kv(void *keys, void *values, int64_t slot_bytes, const int32_t *from, const int32_t *to,
                            int32_t n, cudaStream_t stream);
cudaError_t lp_cuda_attend(const lp_cuda_attention *a, float *qkv, int32_t n, const lp_cuda_attended *to,
                           cudaStream_t stream);
/* choices [n], with at most most_heads heads each; a->rows is not used */
cudaError_t lp_cuda_attend_chosen(const lp_cuda_attention *a, const float *qkv, const lp_row_choice *choices, int32_t n,
                                  int32_t most_heads, const int32_t *slots, float *out, cudaStream_t stream);

/* attention_bf16.cu: of keys and values in bf16, 16 bytes aligned */
cudaError_t lp_cuda_attend_bf16(const lp_cuda_attention *a, float *qkv, int32_t n, const lp_cuda_attended *to,
                                cudaStream_t stream);
cudaError_t lp_cuda_attend_chosen_bf16(const lp_cuda_attention *a, const float *qkv, const lp_row_choice *choices,
                                       int32_t n, int32_t most_heads, const int32_t *slots, float *out,
                                       cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
