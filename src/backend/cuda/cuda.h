/* The cuda backend: cuBLASLt for matrix products (cuda_linear.c), our kernels for the rest (kernels.h), one stream.
 *
 * Everything is issued to the stream in order; the host waits in download and sync, when pinned memory is used again,
 * and while weights are made known. Operations allocate no device memory.
 * Every CUDA and cuBLAS call is checked; errors of kernels show at the next call that waits. */
#ifndef LP_BACKEND_CUDA_CUDA_H
#define LP_BACKEND_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "backend/cuda/kernels.h"
#include "backend/cuda/open.h"
#include "backend/cuda/plan.h"

enum {
    LP_CUDA_SEGMENTS = 8,
    LP_CUDA_SEGMENT_BYTES = 8 << 20,
    LP_CUDA_LIST_BYTES = 1 << 20,       /* of one kernel's list of edits, captures or queries */
    LP_CUDA_WORKSPACE_BYTES = 32 << 20, /* of the library's kernels; what NVIDIA recommends for Hopper */
    LP_CUDA_FINISHED_ROWS = 1 << 16,    /* of a call of attention that writes split operands */
    LP_CUDA_SHAPES = 1024
};

/* How the rows of a call are handed to the library; see cuda_linear.c. */
typedef enum { LP_CUDA_ROWS_TOGETHER, LP_CUDA_ROWS_BATCHED, LP_CUDA_ROWS_BY_TILE } lp_cuda_rows_mode;

/* A shape of product and the algorithm that was found for it. */
typedef struct {
    int64_t depth, width; /* numbers that are added up, results of a row */
    int64_t x_stride, w_stride, y_stride;
    lp_layout layout;
    bool bias;
    bool adds; /* to what is there */
    cublasLtMatmulAlgo_t algorithm;
    lp_cuda_rows_mode mode;
    int32_t call_tiles;
} lp_cuda_shape;

/* Device memory that grows while weights are made known. */
typedef struct {
    void *dev;
    size_t bytes;
} lp_cuda_room;

/* Matrices and vectors on the device, as float32; those of one key (the host's address, or that of the source that they
 * are made of) are held once. */
typedef struct lp_cuda_held {
    const void *key;
    size_t bytes;
    void *dev;
    int32_t users;
    struct lp_cuda_held *next;
} lp_cuda_held;

typedef struct {
    lp_backend base;
    int device;
    char device_name[128];
    char description[256];
    char device_id[2 * sizeof(cudaUUID_t) + 1];
    lp_cuda_dtype dtype;
    void (*log)(lp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
    cudaStream_t stream;
    cublasLtHandle_t blas;
    lp_cuda_ring ring;
    char *pinned; /* [LP_CUDA_SEGMENTS, LP_CUDA_SEGMENT_BYTES] */
    cudaEvent_t drained[LP_CUDA_SEGMENTS];
    void *list;        /* dev [LP_CUDA_LIST_BYTES] */
    void *workspace;   /* dev [LP_CUDA_WORKSPACE_BYTES]; calls of one stream take turns */
    int32_t *finished; /* dev [LP_CUDA_FINISHED_ROWS], zeros between kernels */
    struct {
        char *pinned;
        size_t capacity;
        cudaEvent_t arrived;
    } fetches[LP_FETCHES];
    lp_cuda_room packed, result; /* of one call of a product */
    lp_cuda_held *held;
    lp_cuda_shape shapes[LP_CUDA_SHAPES];
    int32_t n_shapes;
} lp_backend_cuda;

static inline lp_backend_cuda *lp_cuda_of(lp_backend *be) {
    return (lp_backend_cuda *)be;
}

/* LP_OK, or an error that names the call, the device and the library's words for it; LP_ERR_MEMORY where that is out,
 * else LP_ERR_DEVICE. */
lp_status lp_cuda_check(const lp_backend_cuda *cuda, cudaError_t code, const char *call, const char *file, int line,
                        lp_error *err);
lp_status lp_cuda_check_blas(const lp_backend_cuda *cuda, cublasStatus_t code, const char *call, const char *file,
                             int line, lp_error *err);
#define LP_CUDA(call)      LP_TRY(lp_cuda_check(cuda, (call), #call, __FILE__, __LINE__, err))
#define LP_CUDA_BLAS(call) LP_TRY(lp_cuda_check_blas(cuda, (call), #call, __FILE__, __LINE__, err))

/* cuda_memory.c */
lp_status lp_cuda_memory_init(lp_backend_cuda *cuda, lp_error *err);
void lp_cuda_memory_release(lp_backend_cuda *cuda);
lp_status lp_cuda_alloc(lp_backend *be, size_t bytes, const char *what, void **out, lp_error *err);
void lp_cuda_release(lp_backend *be, void *dev);
lp_status lp_cuda_upload(lp_backend *be, void *dev, const void *host, size_t bytes, lp_error *err);
lp_status lp_cuda_download(lp_backend *be, void *host, const void *dev, size_t bytes, lp_error *err);
lp_status lp_cuda_fetch_begin(lp_backend *be, int fetch, const void *dev, size_t bytes, lp_error *err);
lp_status lp_cuda_fetch_end(lp_backend *be, int fetch, void *host, size_t bytes, lp_error *err);
lp_status lp_cuda_sync(lp_backend *be, lp_error *err);
lp_status lp_cuda_vector_new(lp_backend *be, const float *host, size_t n, const float **out, lp_error *err);
void lp_cuda_vector_free(lp_backend *be, const float *vector);
/* NULL: not held. */
lp_cuda_held *lp_cuda_find_held(lp_backend_cuda *cuda, const void *key, size_t bytes);
/* Holds dev, which it takes on success, for one user. */
lp_status lp_cuda_hold(lp_backend_cuda *cuda, const void *key, size_t bytes, void *dev, lp_error *err);

/* cuda_weights.c */
lp_status lp_cuda_matrix_new(lp_backend *be, const lp_matrix *host, const float **out, lp_error *err);
/* to = the matrix's rows, in its layout, `stride` elements apart; float32, or rounded to bf16. */
lp_status lp_cuda_make_matrix(lp_backend_cuda *cuda, const lp_matrix *matrix, void *to, int64_t stride, bool to_bf16,
                              lp_error *err);

/* cuda_linear.c */
lp_status lp_cuda_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err);
void lp_cuda_linear_free(lp_backend *be, lp_backend_linear *linear);
lp_status lp_cuda_linear(lp_backend *be, const lp_backend_linear *linear, lp_form form, const float *x, int32_t n,
                         float *y, lp_error *err);

#endif
