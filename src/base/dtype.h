/* Element types of files and of buffers, and exact widening to float32. */
#ifndef LP_BASE_DTYPE_H
#define LP_BASE_DTYPE_H

#include "base/error.h"

/* LP_TEXT: of a fixed number of bytes, which its dataset says. */
typedef enum {
    LP_F32,
    LP_F16,
    LP_BF16,
    LP_F64,
    LP_I64,
    LP_I32,
    LP_I16,
    LP_I8,
    LP_U8,
    LP_BOOL,
    LP_U64,
    LP_TEXT
} lp_dtype;

/* Of one number; 1 for LP_TEXT. */
size_t lp_dtype_bytes(lp_dtype dtype);
const char *lp_dtype_name(lp_dtype dtype); /* "f32", "bf16", ... */

/* out[n] = src[n] widened; src is F32, F16 or BF16 (exact), of any alignment. */
void lp_to_f32(const void *src, lp_dtype dtype, float *out, size_t n);
/* value rounded to the nearest f16 (ties to even; overflow to infinity), widened again. */
float lp_round_f16(float value);
float lp_f16_to_f32(uint16_t bits);
uint16_t lp_f32_to_f16(float value);
float lp_bf16_to_f32(uint16_t bits);
uint16_t lp_f32_to_bf16(float value); /* nearest, ties to even */

#endif
