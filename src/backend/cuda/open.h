/* What the program and the CUDA module (liblatentpatch_cuda.so) agree on. The program links none of CUDA's libraries:
 * it loads the module and calls its one function. */
#ifndef LP_BACKEND_CUDA_OPEN_H
#define LP_BACKEND_CUDA_OPEN_H

#include "backend/backend.h"
#include "base/log.h"

/* FP32_SPLIT: float32 as three products of fp16 on tensor cores, see cuda_linear.c. */
typedef enum { LP_CUDA_FP32, LP_CUDA_TF32, LP_CUDA_BF16, LP_CUDA_FP32_SPLIT } lp_cuda_dtype;

typedef struct {
    /* Of the program, to be compared with the module's own: both must come from one build. */
    size_t options_bytes, backend_bytes, row_table_bytes;
    const char *version;
    lp_cuda_dtype dtype; /* of the matrix products' operands; sums, the residual stream and norms are fp32 */
    int32_t node_rank;   /* rank among those of its node: chooses the device among those it sees */
    void (*log)(lp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
} lp_cuda_options;

/* Fails with LP_ERR_UNSUPPORTED where there is no driver or no device, and with LP_ERR_MISMATCH when the module is not
 * of the program's build. */
typedef lp_status (*lp_backend_cuda_open_function)(const lp_cuda_options *options, lp_backend **out, lp_error *err);
#define LP_CUDA_MODULE "liblatentpatch_cuda.so"
#define LP_CUDA_OPEN   "lp_backend_cuda_open"

#endif
