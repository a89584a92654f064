/* The column with the largest number in each row of a product x W, found without most of the product.
 *
 * W is kept a second time as codes of 8 bits, with the norm of what rounding left of each column. A product of codes
 * gives for every number of the result a lower and an upper bound (the inequality of Cauchy and Schwarz on the
 * remainders, and the rounding of the sums in float32). Only panels of columns whose upper bound reaches the best lower
 * bound are then computed, by lp_gemm. So the column, ties included, is the one that lp_gemm and a search would give.
 *
 * W lies in panels (base/gemm.h). Knows no threads: a caller that has several gives each a range of panels. */
#ifndef LP_BASE_GEMM_ARGMAX_H
#define LP_BASE_GEMM_ARGMAX_H

#include "base/gemm.h"

/* Is it quicker here than the product? The processor needs products of bytes (AVX512-VNNI), and the kernel set avx512
 * must be in use. The functions work everywhere, for depths whose sums of codes fit into 32 bits. */
enum { LP_GEMM_ARGMAX_DEPTH = 65536 };
bool lp_gemm_argmax_is_quick(int64_t depth);

/* Bytes of the codes of W [depth, columns]; aligned to 64. */
size_t lp_gemm_codes_bytes(int64_t depth, int64_t columns);
/* Part number `part` of n_parts of them. Parts may be made at once. */
void lp_gemm_codes_make(const float *panels, int64_t depth, int64_t columns, int64_t part, int64_t n_parts,
                        void *codes);

typedef struct {
    int64_t rows, depth;
    int64_t columns;       /* of W */
    int64_t n_candidates;  /* columns to choose from: the first ones */
    const int32_t *barred; /* [n_barred] columns that count as barred_value, which is below every other number */
    int32_t n_barred;
    float barred_value;
    const float *x;      /* [rows, depth] */
    const float *panels; /* W */
    const void *codes;
} lp_gemm_argmax;

/* Panels of W that hold candidates. */
static inline int64_t lp_gemm_argmax_panels(const lp_gemm_argmax *a) {
    return (a->n_candidates + LP_GEMM_PANEL - 1) / LP_GEMM_PANEL;
}

/* The rows' codes; aligned to 64. */
size_t lp_gemm_row_codes_bytes(const lp_gemm_argmax *a);
void lp_gemm_row_codes_make(const lp_gemm_argmax *a, void *row_codes);

/* Rows of `upper`: those of x, filled up to tiles. */
int64_t lp_gemm_argmax_stride(const lp_gemm_argmax *a);
/* For panels [first, end): upper [panel][stride] bounds each row's candidates; lower [stride] becomes the largest lower
 * bound of these panels and of what it held. */
void lp_gemm_argmax_bound(const lp_gemm_argmax *a, const void *row_codes, int64_t first, int64_t end, float *lower,
                          float *upper);

/* For panels [first, end): best [rows] and value [rows] become the first candidate with the largest number among those
 * whose upper bound reaches lower [rows], where it is larger than value. To begin: best 0, value -INFINITY.
 * gathered [lp_gemm_argmax_gathered], workspace [LP_GEMM_WORKSPACE]: floats, aligned to 64. */
size_t lp_gemm_argmax_gathered(const lp_gemm_argmax *a);
void lp_gemm_argmax_settle(const lp_gemm_argmax *a, int64_t first, int64_t end, const float *lower, const float *upper,
                           float *gathered, float *workspace, int32_t *best, float *value);

#endif
