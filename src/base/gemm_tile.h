/* One kernel set of gemm.c, which includes this once for each. The includer defines SET (suffix of the names), TARGET
 * (attribute of the functions), VECTOR_BYTES and TILE_ROWS: 6, or 14 where there are 32 vector registers. */
#define JOIN_(a, b) a##_##b
#define JOIN(a, b)  JOIN_(a, b)
#define NAME(word)  JOIN(word, SET)
#define VECTOR      NAME(vector)
#define LANES       (VECTOR_BYTES / 4)

typedef float VECTOR __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

/* c [m, 2 LANES] = start + scale * a b; a [depth, m], b [depth, 2 LANES] with rows b_step apart. m is a constant. */
TARGET static inline __attribute__((always_inline)) void NAME(multiply)(const int m, const tile_arguments *t) {
    VECTOR left[TILE_ROWS], right[TILE_ROWS];
    const float *a = t->a, *b = t->b;
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        left[i] = (VECTOR){0};
        right[i] = (VECTOR){0};
        __builtin_prefetch(t->c + i * t->c_stride, 1);
        __builtin_prefetch(t->c + i * t->c_stride + 2 * LANES - 1, 1);
    }
    for (int64_t k = 0; k < t->depth; k++) {
        VECTOR b_left = *(const VECTOR *)b, b_right = *(const VECTOR *)(b + LANES);
        __builtin_prefetch(a + 16 * m);
        __builtin_prefetch(b + 8 * t->b_step);
        if (VECTOR_BYTES == 64) __builtin_prefetch(b + 8 * t->b_step + LANES);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            left[i] += b_left * a[i];
            right[i] += b_right * a[i];
        }
        a += m;
        b += t->b_step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        const float *start = t->start + i * t->start_stride;
        float *c = t->c + i * t->c_stride;
        VECTOR l = *(const VECTOR *)start + left[i] * t->scale;
        VECTOR r = *(const VECTOR *)(start + LANES) + right[i] * t->scale;
        *(VECTOR *)c = l;
        *(VECTOR *)(c + LANES) = r;
    }
}

#define TILE(M)                                                                                                        \
    TARGET static void NAME(multiply_##M)(const tile_arguments *t) {                                                   \
        NAME(multiply)(M, t);                                                                                          \
    }
TILE(1)
TILE(2)
TILE(3)
TILE(4)
TILE(5)
TILE(6)
#if TILE_ROWS == 14
TILE(7)
TILE(8)
TILE(9)
TILE(10)
TILE(11)
TILE(12)
TILE(13)
TILE(14)
#endif
#undef TILE

static const tile_function NAME(tiles)[TILE_ROWS + 1] = {
    [1] = NAME(multiply_1),   [2] = NAME(multiply_2),   [3] = NAME(multiply_3),   [4] = NAME(multiply_4),
    [5] = NAME(multiply_5),   [6] = NAME(multiply_6),
#if TILE_ROWS == 14
    [7] = NAME(multiply_7),   [8] = NAME(multiply_8),   [9] = NAME(multiply_9),   [10] = NAME(multiply_10),
    [11] = NAME(multiply_11), [12] = NAME(multiply_12), [13] = NAME(multiply_13), [14] = NAME(multiply_14),
#endif
};

#undef JOIN_
#undef JOIN
#undef NAME
#undef VECTOR
#undef LANES
#undef SET
#undef TARGET
#undef VECTOR_BYTES
#undef TILE_ROWS
