/* Choosing and opening a backend.
 *
 * The CUDA backend is a module that is looked for beside the executable, in ../lib of its folder, and on the library
 * path; a program on a node without CUDA runs as well. */
#ifndef LP_BACKEND_DEVICE_H
#define LP_BACKEND_DEVICE_H

#include "backend/backend.h"

/* In the order of the job file's names. */
typedef enum { LP_USE_AUTO, LP_USE_CPU, LP_USE_CUDA } lp_device_use;
/* FP32_SIMT: float32 on the ordinary units of a GPU. FP32_TC: on its tensor cores, three products of fp16 each. FP32 is
 * one of them: see device.c. */
typedef enum { LP_USE_FP32, LP_USE_TF32, LP_USE_BF16, LP_USE_FP32_SIMT, LP_USE_FP32_TC } lp_dtype_use;

typedef struct {
    lp_device_use device; /* auto: cuda where the module loads and a device is there, otherwise cpu */
    lp_dtype_use dtype;
    int32_t node_rank; /* of this process among those of its node */
    int32_t threads;   /* cpu: OpenMP threads; 0: OpenMP's choice */
} lp_device_options;

/* Fails with LP_ERR_UNSUPPORTED where the build has no CUDA backend, there is no driver or no device, or the device
 * cannot do the dtype: the message says which (for auto with tf32 or bf16: why there is no GPU); with LP_ERR_DEVICE
 * where a device is there but fails, also for auto. Free the backend with lp_backend_free. */
lp_status lp_backend_open(const lp_device_options *options, lp_backend **out, lp_error *err);

#endif
