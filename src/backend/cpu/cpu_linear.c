/* Linear layers: one product a part, cut into equal rows and columns for the threads; and the largest of a product's
 * numbers. */
#include "backend/cpu/cpu.h"

#include "base/gemm.h"
#include "base/gemm_argmax.h"
#include "base/memory.h"

#include <math.h>
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

/* Where `choose` works, in floats; each begins at a multiple of 64 bytes. */
typedef struct {
    size_t row_codes, upper, lower, value, best, gathered; /* the last four: one for each thread */
    size_t of_thread, total;
} choose_layout;

static size_t aligned(size_t floats) {
    const size_t step = LP_ALIGNMENT / sizeof(float);
    return (floats + step - 1) / step * step;
}

static choose_layout lay_out(const lp_gemm_argmax *a, int32_t team) {
    choose_layout l = {0};
    size_t stride = aligned((size_t)lp_gemm_argmax_stride(a));
    l.upper = aligned(lp_gemm_row_codes_bytes(a) / sizeof(float));
    l.lower = l.upper + aligned((size_t)(lp_gemm_argmax_stride(a) * lp_gemm_argmax_panels(a)));
    l.value = l.lower + stride;
    l.best = l.value + stride;
    l.gathered = l.best + stride;
    l.of_thread = 3 * stride + aligned(lp_gemm_argmax_gathered(a));
    l.total = l.lower + l.of_thread * (size_t)team;
    return l;
}

/* How many of the rows' panels the bounds leave. */
static int64_t count_left(const lp_gemm_argmax *a, const float *lower, const float *upper) {
    int64_t left = 0, stride = lp_gemm_argmax_stride(a);
    for (int64_t panel = 0; panel < lp_gemm_argmax_panels(a); panel++)
        for (int64_t row = 0; row < a->rows; row++) left += upper[panel * stride + row] >= lower[row];
    return left;
}

lp_status lp_cpu_choose(lp_backend *be, const lp_backend_linear *head, const float *x, int32_t n,
                        const lp_choosable *among, int32_t *best, bool *found, lp_error *err) {
    enum { LOOSE = 8 }; /* an eighth of the product left: the bounds cost more than they save */
    lp_backend_cpu *cpu = (lp_backend_cpu *)be;
    const lp_matrix *matrix = &head->host.part[0];
    *found = false;
    if (n == 0 || head->host.bias || !matrix->codes || cpu->bounds_are_loose) return LP_OK;
    const lp_gemm_argmax a = {.rows = n,
                              .depth = matrix->n_in,
                              .columns = matrix->n_out,
                              .n_candidates = among->n_candidates,
                              .barred = among->barred,
                              .n_barred = among->n_barred,
                              .barred_value = among->barred_logit,
                              .x = x,
                              .panels = matrix->data,
                              .codes = matrix->codes};
    int32_t team = lp_cpu_team(be, n, matrix->n_in * matrix->n_out / 8);
    const choose_layout l = lay_out(&a, team);
    LP_CHECK(lp_mem_grow(&cpu->scratch, &cpu->scratch_capacity, l.total, sizeof(float), "chosen tokens", err));
    float *work = cpu->scratch, *upper = work + l.upper, *lower = work + l.lower;
    int64_t n_panels = lp_gemm_argmax_panels(&a), stride = lp_gemm_argmax_stride(&a);
    lp_gemm_row_codes_make(&a, work + l.row_codes);
#pragma omp parallel for num_threads(team) schedule(static)
    for (int32_t t = 0; t < team; t++) {
        float *own = lower + (size_t)t * l.of_thread;
        for (int64_t i = 0; i < stride; i++) own[i] = -INFINITY;
        lp_gemm_argmax_bound(&a, work + l.row_codes, n_panels * t / team, n_panels * (t + 1) / team, own, upper);
    }
    for (int32_t t = 1; t < team; t++)
        for (int32_t i = 0; i < n; i++) lower[i] = fmaxf(lower[i], lower[(size_t)t * l.of_thread + (size_t)i]);
    if (count_left(&a, lower, upper) > n_panels * n / LOOSE) {
        cpu->bounds_are_loose = n_panels > LOOSE;
        return LP_OK;
    }
#pragma omp parallel for num_threads(team) schedule(static)
    for (int32_t t = 0; t < team; t++) {
        float *of_thread = work + (size_t)t * l.of_thread, *value = of_thread + l.value;
        int32_t *own = t == 0 ? best : (int32_t *)(void *)(of_thread + l.best);
        for (int32_t i = 0; i < n; i++) {
            value[i] = -INFINITY;
            own[i] = 0;
        }
        lp_gemm_argmax_settle(&a, n_panels * t / team, n_panels * (t + 1) / team, lower, upper, of_thread + l.gathered,
                              cpu->products + (size_t)omp_get_thread_num() * LP_GEMM_WORKSPACE, own, value);
    }
    for (int32_t t = 1; t < team; t++)
        for (int32_t i = 0; i < n; i++) {
            const float *of_thread = work + (size_t)t * l.of_thread;
            if (!(of_thread[l.value + (size_t)i] > work[l.value + (size_t)i])) continue;
            work[l.value + (size_t)i] = of_thread[l.value + (size_t)i];
            best[i] = ((const int32_t *)(const void *)(of_thread + l.best))[i];
        }
    uint64_t flops = 2 * (uint64_t)n * (uint64_t)matrix->n_in * (uint64_t)matrix->n_out;
    be->counters.gemm_flops += flops;
    be->counters.padded_flops += flops;
    *found = true;
    return LP_OK;
}
