/* Transposes of float matrices in tiles of four by four. */
#ifndef LP_BASE_QUAD_H
#define LP_BASE_QUAD_H

#include <stdint.h>

typedef float lp_quad __attribute__((vector_size(16), aligned(4), may_alias));

/* out [4, width] = the transpose of four vectors of four, which begin `between` floats apart */
static inline __attribute__((always_inline)) void lp_transpose_quad(const float *m, int64_t between, int64_t width,
                                                                    float *out) {
    lp_quad a = *(const lp_quad *)m, b = *(const lp_quad *)(m + between);
    lp_quad c = *(const lp_quad *)(m + 2 * between), d = *(const lp_quad *)(m + 3 * between);
    lp_quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    lp_quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    *(lp_quad *)out = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
    *(lp_quad *)(out + width) = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
    *(lp_quad *)(out + 2 * width) = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
    *(lp_quad *)(out + 3 * width) = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

#endif
