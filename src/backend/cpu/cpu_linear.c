/* Linear layers: one product a part, cut into equal rows and columns for the threads. */
#include "backend/cpu/cpu.h"

#include "base/gemm.h"
#include "base/memory.h"

#include <omp.h>

struct lp_backend_linear {
    lp_linear host;
};

lp_status lp_cpu_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err) {
    (void)be;
    for (int p = 0; p < host->n_parts; p++) LP_ASSERT(host->part[p].data);
    lp_backend_linear *linear = NULL;
    lp_status status = lp_mem_new(&linear, 1, sizeof *linear, "linear layer", err);
    if (status != LP_OK) return status;
    linear->host = *host;
    *out = linear;
    return LP_OK;
}

void lp_cpu_linear_free(lp_backend *be, lp_backend_linear *linear) {
    (void)be;
    lp_mem_free(linear);
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* How a product is shared out: the rows where each thread gets enough of them, because W is copied once for all rows
 * of a call; otherwise the columns. */
typedef struct {
    int64_t rows, columns; /* of a call */
} share;

static share share_out(int32_t n, int64_t columns, int32_t threads) {
    enum { LEAST_ROWS = 128, COLUMN_STEP = 2 * LP_GEMM_PANEL };
    if (threads == 1) return (share){n, columns};
    if (n >= LEAST_ROWS * threads) return (share){(n + threads - 1) / threads, columns};
    int64_t steps = (columns + COLUMN_STEP - 1) / COLUMN_STEP;
    return (share){n, (steps + threads - 1) / threads * COLUMN_STEP};
}

lp_status lp_cpu_linear(lp_backend *be, const lp_backend_linear *linear, lp_form form, const float *x, int32_t n,
                        float *y, lp_error *err) {
    (void)form; /* floats */
    (void)err;
    if (n == 0) return LP_OK;
    lp_backend_cpu *cpu = (lp_backend_cpu *)be;
    const lp_linear *host = &linear->host;
    int64_t first_column = 0, stride = lp_linear_stride(host);
    for (int p = 0; p < host->n_parts; p++) {
        const lp_matrix *matrix = &host->part[p];
        bool in_out = matrix->layout == LP_IN_OUT, panels = matrix->layout == LP_PANELS;
        /* In panels, too, n_in floats lie between two columns that begin panels. */
        int64_t row_stride = in_out ? matrix->n_out : 1, column_stride = in_out ? 1 : matrix->n_in;
        int32_t team = lp_cpu_team(be, n, matrix->n_in * matrix->n_out / 8);
        share each = share_out(n, matrix->n_out, team);
#pragma omp parallel for collapse(2) num_threads(team) schedule(static)
        for (int64_t row = 0; row < n; row += each.rows)
            for (int64_t column = 0; column < matrix->n_out; column += each.columns) {
                const lp_gemm_product product = {
                    .rows = smaller(each.rows, n - row),
                    .columns = smaller(each.columns, matrix->n_out - column),
                    .depth = matrix->n_in,
                    .x = {.data = x + row * matrix->n_in, .row_stride = matrix->n_in, .column_stride = 1},
                    .w = {.data = matrix->data + column * column_stride,
                          .row_stride = row_stride,
                          .column_stride = column_stride},
                    .w_in_panels = panels,
                    .scale = 1,
                    .start = host->bias ? host->bias + first_column + column : NULL,
                    .y = y + row * stride + first_column + column,
                    .y_stride = stride};
                lp_gemm(&product, cpu->products + (size_t)omp_get_thread_num() * LP_GEMM_WORKSPACE);
            }
        uint64_t flops = 2 * (uint64_t)n * (uint64_t)matrix->n_in * (uint64_t)matrix->n_out;
        be->counters.gemm_flops += flops;
        be->counters.padded_flops += flops;
        first_column += matrix->n_out;
    }
    return LP_OK;
}
