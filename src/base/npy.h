/* NumPy's .npy format (numpy.lib.format, versions 1.0 and 2.0), little-endian, C order: reading vectors, writing
 * arrays. */
#ifndef LP_BASE_NPY_H
#define LP_BASE_NPY_H

#include "base/error.h"

/* *out [*n] = all numbers of the array, whatever its shape, as float32; dtypes <f4, <f8 and <f2. Fails on anything else
 * and on NaN or infinity. Caller frees with lp_mem_free. */
lp_status lp_npy_read_f32(const char *path, float **out, size_t *n, lp_error *err);
/* The same from memory; `name` is for messages. */
lp_status lp_npy_parse_f32(const void *data, size_t size, const char *name, float **out, size_t *n, lp_error *err);

#endif
