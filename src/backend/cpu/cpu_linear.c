/* Matrix products whose rows do not depend on each other's company, on OpenBLAS.
 *
 * What was found (OpenBLAS 0.3.21, kernels Cooperlake and Haswell, sgemm): the bits of a row of C do not depend on the
 * number of rows of the call, nor on where in the call the row stands, as long as the call takes the packing path with
 * whole micro-tiles. They do depend on it with one row (which is handed to gemv), below about 16 rows with W transposed
 * (small-matrix kernels), and on the number of BLAS threads. So:
 *   - BLAS runs single-threaded; OpenMP runs over a grid of row tiles x column blocks;
 *   - a call has a multiple of ROW_STEP rows, at most ROW_TILE, and calls are equally large, because small ones are
 * slow; what is missing at the end is filled up (the caller's buffers have room for it) and its results are not looked
 * at;
 *   - a call has a multiple of COLUMN_STEP columns, LEAST_COLUMNS to MOST_COLUMNS, the last one also what is left: as
 * few calls as there are threads to feed, because each packs its operands anew;
 *   - this is not taken on trust: each shape is probed when its weights are made known (probe_shape), and where any bit
 * differs every call for it has exactly FIXED_ROWS rows and FIXED_COLUMNS columns, which cannot differ.
 * tests/unit/test_backend.c checks the outcome.
 */
#include "backend/cpu/cpu.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"

#include <cblas.h>

enum {
    ROW_STEP = 16,
    ROW_TILE = 1024,
    PROBE_ROWS = 256,
    FIXED_ROWS = 64,
    COLUMN_STEP = 64,
    LEAST_COLUMNS = 128,
    MOST_COLUMNS = 4096,
    FIXED_COLUMNS = 512,
    MAX_SHAPES = 64,
    MAX_PARTS = 3
};

struct lp_backend_linear {
    lp_linear host;
    bool is_free[MAX_PARTS]; /* calls may have any of the allowed sizes */
};

static void multiply(const lp_matrix *w, int64_t column, int64_t n_columns, const float *x, int32_t rows, float beta,
                     float *y, int64_t y_stride) {
    bool in_out = w->layout == LP_IN_OUT;
    const float *block = in_out ? w->data + column : w->data + column * w->n_in;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, in_out ? CblasNoTrans : CblasTrans, rows, (int)n_columns, (int)w->n_in,
                1.0f, x, (int)w->n_in, block, (int)(in_out ? w->n_out : w->n_in), beta, y, (int)y_stride);
}

/* Column blocks of a matrix: whole ones, the last with what is left over. */
static int64_t count_blocks(int64_t n_out, int64_t width) {
    return n_out < width ? 1 : n_out / width;
}

/* True when the product comes out the same in calls of all allowed sizes, wherever rows and columns stand. x holds
 * ROW_TILE rows, whole and part PROBE_ROWS x n_columns; part also ROW_TILE x LEAST_COLUMNS. */
static bool probe_block(const lp_matrix *w, int64_t column, int64_t n_columns, float *x, float *whole, float *part) {
    static const int32_t sizes[] = {16, 32, 48, 96, 192};
    static const int32_t blocks[] = {LEAST_COLUMNS, 320};
    int64_t n_few = n_columns < LEAST_COLUMNS ? n_columns : LEAST_COLUMNS;
    multiply(w, column, n_columns, x, PROBE_ROWS, 0.0f, whole, n_columns);
    multiply(w, column, n_few, x, ROW_TILE, 0.0f, part, n_few);
    for (int32_t r = 0; r < PROBE_ROWS; r++)
        if (memcmp(part + r * n_few, whole + r * n_columns, (size_t)n_few * sizeof(float)) != 0) return false;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int32_t first = PROBE_ROWS - sizes[i] - (i % 2 ? 0 : 5);
        multiply(w, column, n_columns, x + (int64_t)first * w->n_in, sizes[i], 0.0f, part, n_columns);
        if (memcmp(part, whole + (int64_t)first * n_columns, (size_t)sizes[i] * (size_t)n_columns * sizeof(float)) != 0)
            return false;
    }
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        for (int32_t rows = ROW_STEP; rows <= 64; rows += 64 - ROW_STEP) {
            int64_t n_blocks = count_blocks(n_columns, blocks[i]);
            for (int64_t b = 0; b < n_blocks; b++) {
                int64_t at = b * blocks[i], columns = b + 1 < n_blocks ? blocks[i] : n_columns - at;
                multiply(w, column + at, columns, x, rows, 0.0f, part + at, n_columns);
            }
            if (memcmp(part, whole, (size_t)rows * (size_t)n_columns * sizeof(float)) != 0) return false;
        }
    return true;
}

/* Shapes met so far, with what the probe said. Filled while weights are made known, by one thread. */
static struct {
    int64_t n_in, n_columns, stride;
    lp_layout layout;
    bool free_rows;
} shapes[MAX_SHAPES];
static size_t n_shapes;

static lp_status probe_shape(const lp_matrix *w, int64_t column, int64_t n_columns, bool *free_rows, lp_error *err) {
    int64_t stride = w->layout == LP_IN_OUT ? w->n_out : w->n_in;
    for (size_t i = 0; i < n_shapes; i++)
        if (shapes[i].n_in == w->n_in && shapes[i].n_columns == n_columns && shapes[i].layout == w->layout &&
            shapes[i].stride == stride) {
            *free_rows = shapes[i].free_rows;
            return LP_OK;
        }
    float *x = NULL, *whole = NULL, *part = NULL;
    lp_status status = LP_OK;
    size_t n = (size_t)ROW_TILE * (size_t)w->n_in, n_whole = (size_t)PROBE_ROWS * (size_t)n_columns;
    size_t n_few = (size_t)ROW_TILE * LEAST_COLUMNS;
    LP_TRY(lp_mem_new(&x, n, sizeof(float), "probe", err));
    LP_TRY(lp_mem_new(&whole, n_whole, sizeof(float), "probe", err));
    LP_TRY(lp_mem_new(&part, n_whole > n_few ? n_whole : n_few, sizeof(float), "probe", err));
    lp_random_normal((lp_random_key){.seed = 1, .stream = 77}, x, n);
    *free_rows = probe_block(w, column, n_columns, x, whole, part);
    lp_log(LP_LOG_DEBUG, "sgemm %lld x %lld: rows %s on the call's size", (long long)w->n_in, (long long)n_columns,
           *free_rows ? "do not depend" : "depend");
    if (n_shapes < MAX_SHAPES) {
        shapes[n_shapes].n_in = w->n_in;
        shapes[n_shapes].n_columns = n_columns;
        shapes[n_shapes].stride = stride;
        shapes[n_shapes].layout = w->layout;
        shapes[n_shapes++].free_rows = *free_rows;
    }
out:
    lp_mem_free(x);
    lp_mem_free(whole);
    lp_mem_free(part);
    return status;
}

lp_status lp_cpu_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err) {
    (void)be;
    lp_backend_linear *w = NULL;
    lp_status status = lp_mem_new(&w, 1, sizeof *w, "linear layer", err);
    if (status != LP_OK) return status;
    w->host = *host;
    for (int p = 0; p < host->n_parts; p++) {
        const lp_matrix *m = &host->part[p];
        LP_ASSERT(m->data);
        int64_t last = (count_blocks(m->n_out, MOST_COLUMNS) - 1) * MOST_COLUMNS;
        bool first_free = true, last_free = true;
        if (last > 0) LP_TRY(probe_shape(m, 0, MOST_COLUMNS, &first_free, err));
        LP_TRY(probe_shape(m, last, m->n_out - last, &last_free, err));
        w->is_free[p] = first_free && last_free;
    }
    *out = w;
    return LP_OK;
out:
    lp_mem_free(w);
    return status;
}

void lp_cpu_linear_free(lp_backend *be, lp_backend_linear *linear) {
    (void)be;
    lp_mem_free(linear);
}

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static int32_t round_up(int32_t n, int32_t step) {
    return (n + step - 1) / step * step;
}

/* Columns of a call, so that n_tiles row tiles keep the threads busy. */
static int64_t columns_of_call(int64_t n_out, int32_t n_tiles, int32_t threads) {
    int64_t most = n_out < MOST_COLUMNS ? n_out : MOST_COLUMNS;
    int32_t shares = n_tiles % threads == 0 ? 1 : threads;
    int64_t columns = (most / shares + COLUMN_STEP - 1) / COLUMN_STEP * COLUMN_STEP;
    if (shares == 1 || columns > MOST_COLUMNS) columns = most;
    return columns < LEAST_COLUMNS ? LEAST_COLUMNS : columns;
}

lp_status lp_cpu_linear(lp_backend *be, const lp_backend_linear *w, lp_form form, const float *x, int32_t n, float *y,
                        lp_error *err) {
    (void)form; /* floats */
    (void)err;
    if (n == 0) return LP_OK;
    const lp_linear *host = &w->host;
    int32_t threads = lp_cpu_threads(be);
    int64_t first_column = 0, stride = lp_linear_stride(host);
    for (int p = 0; p < host->n_parts; p++) {
        const lp_matrix *m = &host->part[p];
        int32_t step = w->is_free[p] ? ROW_STEP : FIXED_ROWS;
        int32_t tile = w->is_free[p] ? round_up(lp_equal_part(n, ROW_TILE), ROW_STEP) : FIXED_ROWS;
        int32_t n_tiles = (n + tile - 1) / tile;
        int64_t width = w->is_free[p] ? columns_of_call(m->n_out, n_tiles, threads) : FIXED_COLUMNS;
        int32_t n_blocks = (int32_t)count_blocks(m->n_out, width);
#pragma omp parallel for collapse(2) num_threads(threads) schedule(dynamic)
        for (int32_t t = 0; t < n_tiles; t++)
            for (int32_t b = 0; b < n_blocks; b++) {
                int32_t first = t * tile;
                int32_t rows = smaller(tile, n - first);
                int32_t padded = round_up(rows, step);
                int64_t column = b * width;
                int64_t columns = b + 1 < n_blocks ? width : m->n_out - column;
                float *out = y + (int64_t)first * stride + first_column + column;
                const float *bias = host->bias ? host->bias + first_column + column : NULL;
                for (int32_t r = 0; bias && r < padded; r++)
                    memcpy(out + r * stride, bias, (size_t)columns * sizeof(float));
                multiply(m, column, columns, x + (int64_t)first * m->n_in, padded, bias ? 1.0f : 0.0f, out, stride);
            }
        int32_t rest = n % tile;
        int64_t padded_rows = (int64_t)(n - rest) + round_up(rest, step);
        be->counters.gemm_flops += 2 * (uint64_t)n * (uint64_t)m->n_in * (uint64_t)m->n_out;
        be->counters.padded_flops += 2 * (uint64_t)padded_rows * (uint64_t)m->n_in * (uint64_t)m->n_out;
        first_column += m->n_out;
    }
    return LP_OK;
}
