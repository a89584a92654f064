/* Matrix products in float32 whose rows do not depend on the rows beside them.
 *
 * An element of the result is a sum over the depth in runs of LP_GEMM_RUN terms. The terms of a run are added in
 * order, then the runs. This order is the same for any number of rows and columns, so a product may be cut into calls
 * in any way. With fused multiply-adds (the kernel sets avx512 and avx2, and other processors that have them) it also
 * gives the same bits on every processor; the set "baseline" rounds each product by itself.
 *
 * The kernel set is the best one that the processor runs, or the one that the environment variable LATENTPATCH_KERNELS
 * names. Knows no threads: a caller that has several gives each a part of the rows or columns, and its own workspace.
 * The way of working (panels of W, tiles of rows, runs of the depth) is that of Goto and van de Geijn 2008. */
#ifndef LP_BASE_GEMM_H
#define LP_BASE_GEMM_H

#include "base/error.h"

/* LP_GEMM_WORKSPACE: floats that a call works in. */
enum { LP_GEMM_RUN = 384, LP_GEMM_BLOCK = 672, LP_GEMM_WORKSPACE = LP_GEMM_RUN * (LP_GEMM_BLOCK + 32) };

/* Element (i, j) of a matrix is at data[i * row_stride + j * column_stride]. One of the strides is 1. */
typedef struct {
    const float *data;
    int64_t row_stride, column_stride;
} lp_gemm_view;

/* W in panels of LP_GEMM_PANEL columns, each [depth, LP_GEMM_PANEL]; what fills up the last one does not matter. Every
 * kernel set reads it as it lies, where it copies another layout at each call. lp_gemm_panel_at: the place of element
 * (k, j). */
enum { LP_GEMM_PANEL = 32 };
static inline int64_t lp_gemm_panel_at(int64_t depth, int64_t k, int64_t j) {
    return (j / LP_GEMM_PANEL * depth + k) * LP_GEMM_PANEL + j % LP_GEMM_PANEL;
}
static inline int64_t lp_gemm_panel_floats(int64_t depth, int64_t columns) {
    return (columns + LP_GEMM_PANEL - 1) / LP_GEMM_PANEL * LP_GEMM_PANEL * depth;
}

/* y [rows, columns] = start + scale * x [rows, depth] w [depth, columns] */
typedef struct {
    int64_t rows, columns, depth;
    lp_gemm_view x, w;
    bool w_in_panels; /* w.data: of the panels, aligned to 64 bytes; its strides are not read */
    float scale;
    const float
        *start; /* rows start_stride apart; a stride of 0 gives every row the same (a bias); may be y; NULL: 0 */
    int64_t start_stride;
    float *y; /* rows y_stride apart; what lies between them is left alone */
    int64_t y_stride;
} lp_gemm_product;

/* workspace [LP_GEMM_WORKSPACE], aligned to 64 bytes */
void lp_gemm(const lp_gemm_product *product, float *workspace);

/* Fails where LATENTPATCH_KERNELS names no kernel set, or one that this processor cannot run; lp_gemm then takes the
 * best one. */
lp_status lp_gemm_check_setting(lp_error *err);
/* The kernel set in use: "avx512", "avx2" or "baseline". Static. */
const char *lp_gemm_kernels(void);

#endif
