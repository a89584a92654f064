/* Conformance of backends: every operation against plain loops in double precision, and the contract that a row's bits
 * depend on nothing but the row: not on the number of rows of the call, on its place among them, or on threads. Runs on
 * the cpu backend with one and two threads, and through the checking backend. */
#include "backend/backend.h"
#include "backend/groups.h"
#include "base/gemm.h"
#include "base/gemm_argmax.h"
#include "base/memory.h"
#include "base/random.h"
#include "nn/site.h"
#include "support/check_backend.h"
#include "support/golden.h"

#include <math.h>

enum { N_BACKENDS = 3, MOST_ROWS = 700 };
static lp_backend *backends[N_BACKENDS];

/* Largest |got - wanted| against `bound`, both shown where it is over. */
static void assert_close(const char *what, double got, double wanted, double bound) {
    if (fabs(got - wanted) <= bound) return;
    fail_msg("%s: expected %.9g, found %.9g (bound %.2g)", what, wanted, got, bound);
}

static void *dev_new(lp_backend *be, size_t bytes) {
    void *dev = NULL;
    OK(be->alloc(be, bytes, "test", &dev, err));
    return dev;
}

static float *dev_floats(lp_backend *be, const float *host, size_t n) {
    float *dev = dev_new(be, n * sizeof *dev);
    if (host) OK(be->upload(be, dev, host, n * sizeof *dev, err));
    return dev;
}

static int32_t *dev_ints(lp_backend *be, const int32_t *host, size_t n) {
    int32_t *dev = dev_new(be, n * sizeof *dev);
    OK(be->upload(be, dev, host, n * sizeof *dev, err));
    return dev;
}

static float *normal(size_t n, uint32_t stream) {
    float *x = NULL;
    OK(lp_mem_new(&x, n, sizeof *x, "test", err));
    lp_random_normal((lp_random_key){.seed = 11, .stream = stream}, x, n);
    return x;
}

static void assert_bits(const char *what, const char *backend, const float *got, const float *wanted, int32_t n,
                        int64_t width) {
    for (int64_t i = 0; i < n * width; i++)
        if (memcmp(&got[i], &wanted[i], sizeof *got) != 0)
            fail_msg("%s on %s: row %lld of %d, column %lld: expected the bits of %.9g, found %.9g", what, backend,
                     (long long)(i / width), n, (long long)(i % width), (double)wanted[i], (double)got[i]);
}

/* ---- linear ------------------------------------------------------------------------------------------------------ */

typedef struct {
    const char *name;
    int64_t n_in, part[3]; /* columns of each part */
    lp_layout layout;
    bool bias;
} linear_case;

static const linear_case linear_cases[] = {
    {"gpt2-124m qkv", 768, {2304}, LP_IN_OUT, true},
    {"gpt2-124m attn_out", 768, {768}, LP_IN_OUT, true},
    {"gpt2-124m mlp_in", 768, {3072}, LP_IN_OUT, true},
    {"gpt2-124m mlp_out", 3072, {768}, LP_IN_OUT, true},
    {"gpt2-124m head, a part", 768, {1031}, LP_OUT_IN, false},
    {"llama-1b qkv", 2048, {2048, 512, 512}, LP_OUT_IN, false},
    {"llama-1b gate and up, a part", 2048, {512, 512}, LP_OUT_IN, false},
    {"llama-1b mlp_out, a part", 8192, {128}, LP_OUT_IN, false},
    {"demo qkv", 96, {288}, LP_IN_OUT, true},
    {"demo mlp_in", 96, {384}, LP_IN_OUT, true},
    {"demo llama qkv", 96, {96, 48, 48}, LP_OUT_IN, false},
    {"demo head", 96, {723}, LP_OUT_IN, false},
    {"tiny", 20, {60}, LP_IN_OUT, true},
    {"odd", 101, {77}, LP_OUT_IN, true},
    {"very small", 3, {2}, LP_IN_OUT, false},
    {"one column", 65, {1}, LP_OUT_IN, true},
};

static lp_linear linear_of(const linear_case *c, const float *weights, const float *bias) {
    lp_linear l = {.n_in = c->n_in, .bias = c->bias ? bias : NULL};
    for (; l.n_parts < 3 && c->part[l.n_parts] > 0; l.n_parts++) {
        l.part[l.n_parts] = (lp_matrix){
            .data = weights + c->n_in * l.n_out, .n_in = c->n_in, .n_out = c->part[l.n_parts], .layout = c->layout};
        l.n_out += c->part[l.n_parts];
    }
    return l;
}

static void check_linear_values(const linear_case *c, const lp_linear *l, const float *x, const float *y) {
    int64_t column = 0;
    for (int p = 0; p < l->n_parts; p++)
        for (int64_t j = 0; j < l->part[p].n_out; j++, column++) {
            const lp_matrix *m = &l->part[p];
            double sum = l->bias ? (double)l->bias[column] : 0, size = fabs(sum);
            for (int64_t i = 0; i < l->n_in; i++) {
                int64_t at = m->layout == LP_IN_OUT ? i * m->n_out + j : j * l->n_in + i;
                double term = (double)x[i] * (double)m->data[at];
                sum += term;
                size += fabs(term);
            }
            assert_close(c->name, (double)y[column], sum, 1e-6 * size + 1e-12);
        }
}

/* The same layer with its parts in panels; *panels: theirs. */
static lp_linear packed_of(const lp_linear *l, float **panels) {
    lp_linear packed = *l;
    int64_t n = 0;
    for (int p = 0; p < l->n_parts; p++) n += lp_gemm_panel_floats(l->n_in, l->part[p].n_out);
    *panels = normal((size_t)n, 4);
    float *at = *panels;
    for (int p = 0; p < l->n_parts; p++) {
        const lp_matrix *m = &l->part[p];
        for (int64_t i = 0; i < m->n_in; i++)
            for (int64_t j = 0; j < m->n_out; j++)
                at[lp_gemm_panel_at(m->n_in, i, j)] =
                    m->data[m->layout == LP_IN_OUT ? i * m->n_out + j : j * m->n_in + i];
        packed.part[p].data = at;
        packed.part[p].layout = LP_PANELS;
        at += lp_gemm_panel_floats(m->n_in, m->n_out);
    }
    return packed;
}

/* Rows of a layer in panels have the bits of the plain layer's, and its columns those of its embedding. */
static void check_panels(const linear_case *c, const lp_linear *l, lp_backend *be, const float *x, const float *whole) {
    enum { N = 300 };
    float *panels = NULL, *some = NULL;
    lp_backend_linear *w = NULL;
    lp_linear packed = packed_of(l, &panels);
    OK(lp_mem_new(&some, (size_t)(N * l->n_out), sizeof *some, "test", err));
    OK(be->linear_new(be, &packed, &w, err));
    float *in = dev_new(be, (size_t)((N + LP_ROW_PADDING) * c->n_in) * sizeof *in);
    float *out = dev_new(be, (size_t)((N + LP_ROW_PADDING) * l->n_out) * sizeof *out);
    OK(be->upload(be, in, x, (size_t)(N * c->n_in) * sizeof *x, err));
    OK(be->linear(be, w, LP_FLOATS, in, N, out, err));
    OK(be->download(be, some, out, (size_t)(N * l->n_out) * sizeof *some, err));
    if (memcmp(some, whole, (size_t)(N * l->n_out) * sizeof *some) != 0) fail_msg("%s: other bits in panels", c->name);
    const float *columns = NULL;
    const int32_t lists[] = {1, 0, 0, (int32_t)l->part[0].n_out - 1}, *rows = lists, *ids = lists + 2;
    void *dev_lists = dev_new(be, sizeof lists);
    OK(be->upload(be, dev_lists, lists, sizeof lists, err));
    OK(be->matrix_new(be, &packed.part[0], &columns, err));
    OK(be->copy_columns(be, in, dev_lists, columns, (int32_t *)dev_lists + 2, 2, (int32_t)c->n_in, err));
    for (int k = 0; k < 2; k++)
        for (int64_t i = 0; i < c->n_in; i++)
            assert_true(in[rows[k] * c->n_in + i] == packed.part[0].data[lp_gemm_panel_at(c->n_in, i, ids[k])]);
    be->release(be, dev_lists);
    be->vector_free(be, columns);
    be->linear_free(be, w);
    be->release(be, in);
    be->release(be, out);
    lp_mem_free(some);
    lp_mem_free(panels);
}

static void check_linear(const linear_case *c) {
    static const int32_t batches[][2] = {{0, 1},    {3, 1},     {699, 1}, {17, 2},  {9, 5},   {100, 15},
                                         {101, 16}, {50, 17},   {5, 37},  {64, 64}, {33, 65}, {1, 255},
                                         {40, 257}, {200, 500}, {0, 513}, {13, 687}};
    int64_t columns = c->part[0] + c->part[1] + c->part[2];
    float *weights = normal((size_t)(c->n_in * columns), 1), *bias = normal((size_t)columns, 2);
    float *x = normal((size_t)(MOST_ROWS * c->n_in), 3), *whole = NULL, *some = NULL;
    lp_linear l = linear_of(c, weights, bias);
    OK(lp_mem_new(&whole, (size_t)(MOST_ROWS * columns), sizeof *whole, "test", err));
    OK(lp_mem_new(&some, (size_t)(MOST_ROWS * columns), sizeof *some, "test", err));
    for (int b = 0; b < N_BACKENDS; b++) {
        lp_backend *be = backends[b];
        lp_backend_linear *w = NULL;
        OK(be->linear_new(be, &l, &w, err));
        float *in = dev_new(be, (size_t)((MOST_ROWS + LP_ROW_PADDING) * c->n_in) * sizeof *in);
        float *out = dev_new(be, (size_t)((MOST_ROWS + LP_ROW_PADDING) * columns) * sizeof *out);
        uint64_t flops = be->counters.gemm_flops;
        OK(be->upload(be, in, x, (size_t)(MOST_ROWS * c->n_in) * sizeof *x, err));
        OK(be->linear(be, w, LP_FLOATS, in, MOST_ROWS, out, err));
        OK(be->download(be, some, out, (size_t)(MOST_ROWS * columns) * sizeof *some, err));
        assert_int_equal(be->counters.gemm_flops - flops, 2 * (uint64_t)(MOST_ROWS * c->n_in * columns));
        if (b == 0) {
            memcpy(whole, some, (size_t)(MOST_ROWS * columns) * sizeof *some);
            static const int32_t rows[] = {0, 351, MOST_ROWS - 1};
            for (int i = 0; i < 3; i++) check_linear_values(c, &l, x + rows[i] * c->n_in, whole + rows[i] * columns);
        }
        assert_bits(c->name, be->name, some, whole, MOST_ROWS, columns);
        for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
            int32_t first = batches[i][0], n = batches[i][1];
            OK(be->upload(be, in, x + first * c->n_in, (size_t)(n * c->n_in) * sizeof *x, err));
            OK(be->linear(be, w, LP_FLOATS, in, n, out, err));
            OK(be->download(be, some, out, (size_t)(n * columns) * sizeof *some, err));
            assert_bits(c->name, be->name, some, whole + first * columns, n, columns);
        }
        be->release(be, in);
        be->release(be, out);
        be->linear_free(be, w);
        check_panels(c, &l, be, x, whole);
    }
    lp_mem_free(weights);
    lp_mem_free(bias);
    lp_mem_free(x);
    lp_mem_free(whole);
    lp_mem_free(some);
}

static void test_linear(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof linear_cases / sizeof linear_cases[0]; i++) check_linear(&linear_cases[i]);
}

/* ---- Operations on single rows ----------------------------------------------------------------------------------- */

static const int32_t widths[] = {1, 3, 15, 16, 17, 20, 96, 100, 768, 2048, 3073};
enum { N_WIDTHS = sizeof widths / sizeof widths[0], ROWS = 70 };

typedef enum { NORM_LAYER, NORM_RMS, GELU_TANH, GELU_ERF, SILU, GELU_TANH_GATED, SILU_GATED, N_ROW_OPS } row_op;
static const char *const row_op_names[] = {"layer norm", "RMS norm",   "GELU tanh", "GELU erf",
                                           "SiLU",       "GELU gated", "SiLU gated"};

static bool is_gated(row_op op) {
    return op == GELU_TANH_GATED || op == SILU_GATED;
}

static void run_row_op(lp_backend *be, row_op op, const float *x, const float *weight, const float *bias, int32_t n,
                       int32_t width, float *y) {
    lp_activation kind = op == GELU_ERF                   ? LP_ACT_GELU_ERF
                         : op == SILU || op == SILU_GATED ? LP_ACT_SILU
                                                          : LP_ACT_GELU_TANH;
    if (op == NORM_LAYER || op == NORM_RMS)
        OK(be->norm(be, x, weight, op == NORM_LAYER ? bias : NULL, 1e-5f, n, width, LP_FLOATS, y, err));
    else
        OK(be->activate(be, kind, is_gated(op), x, n, width, LP_FLOATS, y, err));
}

static double activated(row_op op, double x) {
    if (op == GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    if (op == SILU || op == SILU_GATED) return x / (1 + exp(-x));
    return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
}

static void check_row_values(row_op op, const float *x, const float *weight, const float *bias, int32_t width,
                             const float *y) {
    double mean = 0, square = 0;
    for (int32_t i = 0; i < width && op == NORM_LAYER; i++) mean += (double)x[i] / width;
    for (int32_t i = 0; i < width; i++) square += ((double)x[i] - mean) * ((double)x[i] - mean) / width;
    for (int32_t i = 0; i < width; i++) {
        double wanted, size = 1;
        if (op == NORM_LAYER || op == NORM_RMS) {
            wanted = ((double)x[i] - mean) / sqrt(square + 1e-5) * (double)weight[i];
            /* A mean near the numbers themselves leaves few digits. */
            size = fabs(wanted) + (fabs((double)x[i]) + fabs(mean)) / sqrt(square + 1e-5) * fabs((double)weight[i]);
            if (op == NORM_LAYER) wanted += (double)bias[i];
            size += fabs(wanted);
        } else {
            wanted = activated(op, (double)x[i]) * (is_gated(op) ? (double)x[width + i] : 1);
            size = fabs(wanted) + fabs((double)x[i]) * (is_gated(op) ? fabs((double)x[width + i]) : 1);
        }
        assert_close(row_op_names[op], (double)y[i], wanted, 2e-6 * size + 1e-12);
    }
}

static void check_row_op(row_op op, int32_t width) {
    int64_t in_width = is_gated(op) ? 2 * (int64_t)width : width;
    float *x = normal((size_t)(ROWS * in_width), 4), *weight = normal((size_t)width, 5);
    float *bias = normal((size_t)width, 6), *y = NULL, *first = NULL;
    for (int64_t i = 0; i < ROWS * in_width; i++) x[i] *= 3;
    x[0] = 60;
    if (ROWS * in_width > 1) x[ROWS * in_width - 1] = -95;
    OK(lp_mem_new(&y, (size_t)(ROWS * width), sizeof *y, "test", err));
    OK(lp_mem_new(&first, (size_t)(ROWS * width), sizeof *first, "test", err));
    for (int b = 0; b < N_BACKENDS; b++) {
        lp_backend *be = backends[b];
        float *in = dev_floats(be, x, (size_t)(ROWS * in_width)), *out = dev_floats(be, NULL, (size_t)(ROWS * width));
        float *w = dev_floats(be, weight, (size_t)width), *c = dev_floats(be, bias, (size_t)width);
        run_row_op(be, op, in, w, c, ROWS, width, out);
        OK(be->download(be, y, out, (size_t)(ROWS * width) * sizeof *y, err));
        if (b == 0) {
            memcpy(first, y, (size_t)(ROWS * width) * sizeof *y);
            for (int32_t r = 0; r < ROWS; r++)
                check_row_values(op, x + r * in_width, weight, bias, width, y + (int64_t)r * width);
        }
        assert_bits(row_op_names[op], be->name, y, first, ROWS, width);
        for (int32_t r = 0; r < ROWS; r += 23) {
            int32_t n = r == 46 ? 5 : 1;
            run_row_op(be, op, in + r * in_width, w, c, n, width, out);
            OK(be->download(be, y, out, (size_t)(n * width) * sizeof *y, err));
            assert_bits(row_op_names[op], be->name, y, first + (int64_t)r * width, n, width);
        }
        be->release(be, in);
        be->release(be, out);
        be->release(be, w);
        be->release(be, c);
    }
    lp_mem_free(x);
    lp_mem_free(weight);
    lp_mem_free(bias);
    lp_mem_free(y);
    lp_mem_free(first);
}

static void test_rows(void **state) {
    (void)state;
    for (int op = 0; op < N_ROW_OPS; op++)
        for (int i = 0; i < N_WIDTHS; i++) check_row_op((row_op)op, widths[i]);
}

static void test_copy_and_add(void **state) {
    (void)state;
    enum { N = 40, WIDTH = 21 };
    float *x = normal(N * WIDTH, 7), *y = normal(N * WIDTH, 8), got[N * WIDTH];
    int32_t from[N], to[N];
    for (int32_t i = 0; i < N; i++) {
        from[i] = (i * 7) % N;
        to[i] = (i * 11 + 3) % N;
    }
    for (int b = 0; b < N_BACKENDS; b++) {
        lp_backend *be = backends[b];
        float *dx = dev_floats(be, x, N * WIDTH), *dy = dev_floats(be, y, N * WIDTH);
        int32_t *dev_from = dev_ints(be, from, N), *dev_to = dev_ints(be, to, N);
        OK(be->copy_rows(be, dy, dev_to, dx, dev_from, N, WIDTH, err));
        OK(be->download(be, got, dy, sizeof got, err));
        for (int32_t i = 0; i < N; i++) assert_memory_equal(got + to[i] * WIDTH, x + from[i] * WIDTH, WIDTH * 4);
        OK(be->copy_rows(be, dy, NULL, dx + WIDTH, NULL, N - 1, WIDTH, err));
        OK(be->download(be, got, dy, (N - 1) * WIDTH * sizeof *got, err));
        assert_memory_equal(got, x + WIDTH, (N - 1) * WIDTH * 4);
        OK(be->upload(be, dy, y, N * WIDTH * sizeof *y, err));
        OK(be->add_rows(be, dx, dy, dev_from, N, WIDTH, err));
        OK(be->add_rows(be, dx, dy, NULL, N, WIDTH, err));
        OK(be->download(be, got, dx, sizeof got, err));
        for (int32_t i = 0; i < N * WIDTH; i++) {
            float wanted = x[i] + y[from[i / WIDTH] * WIDTH + i % WIDTH];
            wanted += y[i];
            assert_bits("add_rows", be->name, &got[i], &wanted, 1, 1);
        }
        be->release(be, dx);
        be->release(be, dy);
        be->release(be, dev_from);
        be->release(be, dev_to);
    }
    lp_mem_free(x);
    lp_mem_free(y);
}

static void test_edits(void **state) {
    (void)state;
    enum { N = 6, STRIDE = 30, WIDTH = 11, AT = 7 };
    float *x = normal(N * STRIDE, 9), *v = normal(N * WIDTH, 10), got[N * STRIDE];
    lp_row_edit edits[4];
    for (int32_t i = 0; i < 4; i++)
        edits[i] = (lp_row_edit){
            .row = i + 1, .offset = AT, .width = WIDTH, .operation = i, .factor = 0.3f, .vector = (int64_t)i * WIDTH};
    for (int b = 0; b < N_BACKENDS; b++) {
        lp_backend *be = backends[b];
        float *dx = dev_floats(be, x, N * STRIDE), *dv = dev_floats(be, v, N * WIDTH);
        OK(be->edit_rows(be, dx, STRIDE, edits, 4, dv, err));
        OK(be->download(be, got, dx, sizeof got, err));
        for (int32_t i = 0; i < N * STRIDE; i++) {
            int32_t row = i / STRIDE, k = i % STRIDE - AT;
            float wanted = x[i];
            if (row >= 1 && row <= 4 && k >= 0 && k < WIDTH) {
                lp_edit edit = {
                    .operation = (lp_operation)(row - 1), .factor = 0.3f, .vector = v + (row - 1) * WIDTH + k};
                lp_edit_apply(&edit, &wanted, 1);
            }
            assert_bits("edit_rows", be->name, &got[i], &wanted, 1, 1);
        }
        be->release(be, dx);
        be->release(be, dv);
    }
    lp_mem_free(x);
    lp_mem_free(v);
}

static void test_argmax(void **state) {
    (void)state;
    enum { N = 40 };
    static const int32_t sizes[] = {1, 2, 15, 16, 17, 33, 500, 5001};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        int32_t n = sizes[s], width = n + 3, got[N];
        float *x = normal((size_t)(N * width), 12);
        for (int32_t r = 0; r < N; r++) {
            float *row = x + (int64_t)r * width;
            row[n] = row[n + 1] = row[n + 2] = 100; /* no candidates */
            if (r % 4 == 1) row[(r * 7) % n] = row[(r * 13) % n] = 50;
            if (r % 4 == 2) row[n - 1] = 50;
            if (r % 4 == 3)
                for (int32_t i = 0; i < n; i++) row[i] = -2;
        }
        for (int b = 0; b < N_BACKENDS; b++) {
            lp_backend *be = backends[b];
            float *dx = dev_floats(be, x, (size_t)(N * width));
            int32_t *best = dev_new(be, sizeof got);
            OK(be->argmax(be, dx, N, width, n, best, err));
            OK(be->download(be, got, best, sizeof got, err));
            for (int32_t r = 0; r < N; r++) {
                int32_t wanted = 0;
                for (int32_t i = 1; i < n; i++)
                    if (x[(int64_t)r * width + i] > x[(int64_t)r * width + wanted]) wanted = i;
                assert_int_equal(got[r], wanted);
            }
            be->release(be, dx);
            be->release(be, best);
        }
        lp_mem_free(x);
    }
}

/* ---- Attention --------------------------------------------------------------------------------------------------- */

typedef struct {
    int32_t n_heads, n_kv_heads, head_dim;
    bool rotated;
} attention_case;

static const attention_case attention_cases[] = {{12, 12, 64, false}, {32, 8, 64, true}, {4, 4, 24, false},
                                                 {6, 2, 6, true},     {3, 1, 10, true},  {1, 1, 2, true}};

enum { A_ROWS = 75, A_SLOTS = 400, A_LAYERS = 2, A_LAYER = 1, A_CONTEXT = 128, MOST_TAIL = 30, N_LISTS = 9 };

/* Rows of three runs: prompt slots 0.., 100.., 200.. of different lengths, tails in scattered slots after 300. */
typedef struct {
    int32_t position[A_ROWS], slot[A_ROWS], prompt_begin[A_ROWS], prompt_length[A_ROWS], tail_begin[A_ROWS],
        tail_length[A_ROWS], tail[A_ROWS * MOST_TAIL];
} host_table;

static void make_table(host_table *t) {
    for (int32_t r = 0; r < A_ROWS; r++) {
        int32_t run = r % 3, shared = 1 + (r * 5 + run * 17) % 90, own = 1 + (r * 3) % MOST_TAIL;
        t->prompt_begin[r] = 100 * run;
        t->prompt_length[r] = shared;
        t->tail_begin[r] = r * MOST_TAIL;
        t->tail_length[r] = own;
        for (int32_t i = 0; i < own; i++) t->tail[r * MOST_TAIL + i] = 300 + (r + (own - 1 - i) * 3) % 75;
        t->slot[r] = 300 + r;
        t->position[r] = shared + own - 1;
    }
}

/* Rows from `first` on, with groups where the backend wants them. */
static lp_row_table upload_table(lp_backend *be, const host_table *t, int32_t first, bool groups,
                                 int32_t *lists[N_LISTS]) {
    int32_t group_row[A_ROWS], group_begin[A_ROWS + 1];
    uint64_t scratch[A_ROWS];
    int32_t n_groups =
        lp_row_groups(t->prompt_begin + first, A_ROWS - first, LP_GROUP_ROWS, group_row, group_begin, scratch);
    lists[0] = dev_ints(be, t->position + first, (size_t)(A_ROWS - first));
    lists[1] = dev_ints(be, t->slot + first, (size_t)(A_ROWS - first));
    lists[2] = dev_ints(be, t->prompt_begin + first, (size_t)(A_ROWS - first));
    lists[3] = dev_ints(be, t->prompt_length + first, (size_t)(A_ROWS - first));
    lists[4] = dev_ints(be, t->tail_begin + first, (size_t)(A_ROWS - first));
    lists[5] = dev_ints(be, t->tail_length + first, (size_t)(A_ROWS - first));
    lists[6] = dev_ints(be, t->tail, A_ROWS * MOST_TAIL);
    lists[7] = dev_ints(be, group_row, (size_t)(A_ROWS - first));
    lists[8] = dev_ints(be, group_begin, (size_t)n_groups + 1);
    return (lp_row_table){.position = lists[0],
                          .slot = lists[1],
                          .prompt_begin = lists[2],
                          .prompt_length = lists[3],
                          .tail_begin = lists[4],
                          .tail_length = lists[5],
                          .tail = lists[6],
                          .group_row = groups ? lists[7] : NULL,
                          .group_begin = lists[8],
                          .n_groups = n_groups};
}

static void check_attended(const attention_case *a, const host_table *t, int32_t r, const float *q, const float *keys,
                           const float *values, const float *out) {
    int32_t hd = a->head_dim, kv = a->n_kv_heads * hd, n = t->prompt_length[r] + t->tail_length[r];
    for (int32_t h = 0; h < a->n_heads; h++) {
        double weights[128], total = 0, most = -INFINITY;
        const float *key_of[128], *value_of[128];
        for (int32_t p = 0; p < n; p++) {
            int32_t slot =
                p < t->prompt_length[r] ? t->prompt_begin[r] + p : t->tail[t->tail_begin[r] + p - t->prompt_length[r]];
            int64_t at = ((int64_t)A_LAYER * A_SLOTS + slot) * kv + (int64_t)(h / (a->n_heads / a->n_kv_heads)) * hd;
            key_of[p] = keys + at;
            value_of[p] = values + at;
            double dot = 0;
            for (int32_t i = 0; i < hd; i++) dot += (double)q[h * hd + i] * (double)key_of[p][i];
            weights[p] = dot / sqrt(hd);
            most = fmax(most, weights[p]);
        }
        for (int32_t p = 0; p < n; p++) total += weights[p] = exp(weights[p] - most);
        for (int32_t i = 0; i < hd; i++) {
            double wanted = 0;
            for (int32_t p = 0; p < n; p++) wanted += weights[p] / total * (double)value_of[p][i];
            assert_close("attend", (double)out[h * hd + i], wanted, 2e-5);
        }
    }
}

static void check_rotated(const attention_case *a, const host_table *t, int32_t r, const float *before,
                          const float *after, const float *cosine, const float *sine) {
    int32_t half = a->head_dim / 2, heads = a->n_heads + a->n_kv_heads;
    for (int32_t i = 0; i < heads * a->head_dim; i++) {
        int32_t k = i % a->head_dim;
        double c = (double)cosine[t->position[r] * half + k % half], s = (double)sine[t->position[r] * half + k % half];
        double wanted = (double)before[i];
        if (a->rotated)
            wanted = k < half ? c * (double)before[i] - s * (double)before[i + half]
                              : c * (double)before[i] + s * (double)before[i - half];
        assert_close("rotation", (double)after[i], wanted, 2e-6 * (fabs(wanted) + 1));
    }
}

static void check_attention(const attention_case *a) {
    static host_table table;
    lp_model_config config = {
        .n_heads = a->n_heads, .n_kv_heads = a->n_kv_heads, .head_dim = a->head_dim, .n_context = A_CONTEXT};
    int32_t q = a->n_heads * a->head_dim, kv = a->n_kv_heads * a->head_dim, half = a->head_dim / 2;
    int64_t stride = q + 2 * (int64_t)kv;
    size_t n_pool = (size_t)(A_LAYERS * A_SLOTS) * (size_t)kv, n_qkv = (size_t)(A_ROWS * stride);
    float *qkv = normal(n_qkv, 13), *keys = normal(n_pool, 14), *values = normal(n_pool, 15),
          *angles = normal((size_t)(A_CONTEXT * half), 16);
    float *cosine = normal((size_t)(A_CONTEXT * half), 0), *sine = normal((size_t)(A_CONTEXT * half), 0);
    float *after = normal(n_qkv, 0), *new_keys = normal(n_pool, 0), *new_values = normal(n_pool, 0);
    float *out = normal((size_t)(A_ROWS * q), 0), *first = normal((size_t)(A_ROWS * q), 0);
    for (int32_t i = 0; i < A_CONTEXT * half; i++) {
        cosine[i] = cosf(3 * angles[i]);
        sine[i] = sinf(3 * angles[i]);
    }
    make_table(&table);
    for (int b = 0; b < N_BACKENDS; b++) {
        lp_backend *be = backends[b];
        lp_kv_pool pool = {.keys = dev_floats(be, keys, n_pool),
                           .values = dev_floats(be, values, n_pool),
                           .n_slots = A_SLOTS,
                           .n_layers = A_LAYERS,
                           .width = kv};
        float *dev_qkv = dev_floats(be, qkv, n_qkv), *dev_out = dev_floats(be, NULL, (size_t)(A_ROWS * q));
        float *dev_cosine = dev_floats(be, cosine, (size_t)(A_CONTEXT * half));
        float *dev_sine = dev_floats(be, sine, (size_t)(A_CONTEXT * half));
        int32_t *lists[N_LISTS];
        lp_row_table rows = upload_table(be, &table, 0, b > 0, lists); /* groups or none: the same bits */
        OK(be->store_kv(be, &config, dev_qkv, &rows, A_ROWS, a->rotated ? dev_cosine : NULL, dev_sine, &pool, A_LAYER,
                        err));
        OK(be->attend(be, &config, dev_qkv, &rows, A_ROWS, &pool, A_LAYER, LP_FLOATS, dev_out, err));
        OK(be->download(be, after, dev_qkv, n_qkv * sizeof *after, err));
        OK(be->download(be, new_keys, pool.keys, n_pool * sizeof *keys, err));
        OK(be->download(be, new_values, pool.values, n_pool * sizeof *values, err));
        OK(be->download(be, out, dev_out, (size_t)(A_ROWS * q) * sizeof *out, err));
        if (b == 0) memcpy(first, out, (size_t)(A_ROWS * q) * sizeof *out);
        assert_bits("attend", be->name, out, first, A_ROWS, q);
        for (int32_t r = 0; r < A_ROWS && b == 0; r++) {
            const float *row = after + r * stride;
            int64_t slot = ((int64_t)A_LAYER * A_SLOTS + table.slot[r]) * kv;
            check_rotated(a, &table, r, qkv + r * stride, row, cosine, sine);
            assert_memory_equal(new_keys + slot, row + q, (size_t)kv * sizeof(float));
            assert_memory_equal(new_values + slot, qkv + r * stride + q + kv, (size_t)kv * sizeof(float));
            check_attended(a, &table, r, row, new_keys, new_values, out + (int64_t)r * q);
        }
        assert_memory_equal(new_keys, keys, (size_t)(A_SLOTS * kv) * sizeof(float));
        /* The first 50 of the batch alone, as below the first layer of the others. */
        OK(be->attend(be, &config, dev_qkv, &rows, 50, &pool, A_LAYER, LP_FLOATS, dev_out, err));
        OK(be->download(be, out, dev_out, (size_t)(50 * q) * sizeof *out, err));
        assert_bits("attend, before others begin", be->name, out, first, 50, q);
        /* The same rows in other company: the last 30 alone, then the last one. */
        for (int32_t begin = A_ROWS - 30; begin < A_ROWS; begin += 29) {
            int32_t *some_lists[N_LISTS], n = A_ROWS - begin;
            lp_row_table some = upload_table(be, &table, begin, b > 0, some_lists);
            OK(be->attend(be, &config, dev_qkv + begin * stride, &some, n, &pool, A_LAYER, LP_FLOATS, dev_out, err));
            OK(be->download(be, out, dev_out, (size_t)(n * q) * sizeof *out, err));
            assert_bits("attend, fewer rows", be->name, out, first + (int64_t)begin * q, n, q);
            for (int i = 0; i < N_LISTS; i++) be->release(be, some_lists[i]);
        }
        int32_t from[2] = {5, 110}, to[2] = {390, 391};
        int32_t *dev_from = dev_ints(be, from, 2), *dev_to = dev_ints(be, to, 2);
        OK(be->copy_kv(be, &pool, A_LAYER, dev_from, dev_to, 2, err));
        OK(be->download(be, new_keys, pool.keys, n_pool * sizeof *keys, err));
        for (int i = 0; i < 2; i++)
            assert_memory_equal(new_keys + (A_SLOTS + to[i]) * kv, keys + (A_SLOTS + from[i]) * kv,
                                (size_t)kv * sizeof(float));
        void *all[] = {pool.keys, pool.values, dev_qkv, dev_out, dev_cosine, dev_sine, dev_from, dev_to};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) be->release(be, all[i]);
        for (int i = 0; i < N_LISTS; i++) be->release(be, lists[i]);
    }
    float *host[] = {qkv, keys, values, angles, cosine, sine, after, new_keys, new_values, out, first};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) lp_mem_free(host[i]);
}

static void test_attention(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof attention_cases / sizeof attention_cases[0]; i++)
        check_attention(&attention_cases[i]);
}

/* ---- The checking backend ---------------------------------------------------------------------------------------- */

static void test_check_refuses(void **state) {
    (void)state;
    lp_backend *be = backends[2];
    float numbers[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    int32_t rows[2] = {0, 9};
    float *x = dev_floats(be, numbers, 8), *fresh = dev_floats(be, NULL, 8);
    int32_t *list = dev_ints(be, rows, 2);
    lp_error error = {0};
    assert_int_equal(be->copy_rows(be, x, NULL, fresh, NULL, 2, 4, &error), LP_ERR_DEVICE);
    assert_string_equal(error.text, "check: copy_rows: row 0 of 1, column 0: not a number");
    OK(be->upload(be, x, numbers, sizeof numbers, err));
    assert_int_equal(be->copy_rows(be, fresh, NULL, x, list, 2, 4, &error), LP_ERR_DEVICE);
    assert_string_equal(error.text, "check: copy_rows: src: 160 bytes that lie in no allocation");
    assert_int_equal(be->add_rows(be, x, numbers, NULL, 2, 4, &error), LP_ERR_DEVICE);
    assert_string_equal(error.text, "check: add_rows: y: 32 bytes that lie in no allocation");
    be->release(be, x);
    be->release(be, fresh);
    be->release(be, list);
}

static int setup(void **state) {
    (void)state;
    lp_backend *inner = NULL;
    OK(lp_backend_cpu_new(1, &backends[0], err));
    OK(lp_backend_cpu_new(2, &backends[1], err));
    OK(lp_backend_cpu_new(1, &inner, err));
    OK(lp_backend_check_new(inner, &backends[2], err));
    return 0;
}

/* ---- choose ------------------------------------------------------------------------------------------------------ */

typedef struct {
    int32_t depth, columns, n_candidates;
} choose_case;

/* x [n, depth] of 90 rows, some of them like columns of w, which then win, or a hard case for bounds. */
static void make_hard_rows(const choose_case *c, const float *w, float *x) {
    const float hard[] = {NAN, INFINITY, 1e30f, 1e-44f, 0};
    for (int32_t i = 0; i < 10; i++) {
        float *row = x + (int64_t)i * 9 * c->depth;
        for (int32_t k = 0; k < c->depth; k++) row[k] = w[lp_gemm_panel_at(c->depth, k, 37 * i)];
    }
    for (int32_t i = 0; i < 5; i++) {
        float *row = x + (int64_t)(8 + 13 * i) * c->depth;
        for (int32_t k = 0; k < c->depth; k++) row[k] = i < 2 ? hard[i] : row[k] * hard[i];
    }
}

/* What rounding to codes leaves is as large as it can be, and all of it adds up: of columns 700 and 900, and of 1100
 * and 1300, the product of the codes alone prefers the second, which is smaller. */
static void make_adversaries(const choose_case *c, float *w, float *x) {
    int32_t half = c->depth / 2;
    float left = 0.49f * (float)(half - 1), more = floorf(0.6f * left);
    for (int32_t k = 0; k < c->depth; k++) {
        bool first = k < half, begins = k % half == 0;
        float rounded = begins ? 127 : 0.49f;
        x[3 * c->depth + k] = first;
        x[4 * c->depth + k] = k >= half && k < 2 * half ? rounded : 0;
        w[lp_gemm_panel_at(c->depth, k, 700)] = first ? rounded : 0;
        w[lp_gemm_panel_at(c->depth, k, 900)] = k == 0 ? 127 : k == 1 ? more : 0;
        w[lp_gemm_panel_at(c->depth, k, 1100)] = k >= half && k < 2 * half ? 10 : 0;
        w[lp_gemm_panel_at(c->depth, k, 1300)] = k == half ? (127 + more) / 12.7f : 0;
    }
}

/* The token that bounds lead to is that of the logits: with equal columns, barred tokens, and rows without numbers. */
static void test_choose(void **state) {
    (void)state;
    enum { N = 90 };
    static const choose_case cases[] = {{96, 2003, 2000}, {385, 4100, 4100}, {30, 2500, 2499}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const choose_case *c = &cases[i];
        size_t n_panels = (size_t)lp_gemm_panel_floats(c->depth, c->columns), n_x = (size_t)(N * c->depth);
        float *w = normal(n_panels, 21), *x = normal(n_x, 22), *logits = normal((size_t)(N * c->columns), 23);
        const int32_t barred[] = {74, 400};
        int32_t n = c->n_candidates, wanted[N], got[N];
        const lp_choosable among = {.n_candidates = n, .barred = barred, .n_barred = 2, .barred_logit = -1e30f};
        for (int32_t k = 0; k < c->depth; k++) {
            w[lp_gemm_panel_at(c->depth, k, 333)] = w[lp_gemm_panel_at(c->depth, k, 111)];
            w[lp_gemm_panel_at(c->depth, k, 148)] *= 1 + 1e-6f;
            w[lp_gemm_panel_at(c->depth, k, 149)] = w[lp_gemm_panel_at(c->depth, k, 148)];
            w[lp_gemm_panel_at(c->depth, k, 12)] = 0;
        }
        make_hard_rows(c, w, x);
        make_adversaries(c, w, x);
        void *codes = NULL;
        OK(lp_mem_new(&codes, lp_gemm_codes_bytes(c->depth, c->columns), 1, "test", err));
        for (int part = 0; part < 3; part++) lp_gemm_codes_make(w, c->depth, c->columns, part, 3, codes);
        const lp_linear head = {
            .part = {{.data = w, .n_in = c->depth, .n_out = c->columns, .layout = LP_PANELS, .codes = codes}},
            .n_parts = 1,
            .n_in = c->depth,
            .n_out = c->columns};
        for (int b = 0; b < N_BACKENDS; b++) {
            lp_backend *be = backends[b];
            lp_backend_linear *linear = NULL;
            bool found = false;
            if (strcmp(be->name, "cpu") != 0) continue; /* the checking backend wants numbers */
            OK(be->linear_new(be, &head, &linear, err));
            float *dx = dev_floats(be, NULL, (size_t)((N + LP_ROW_PADDING) * c->depth));
            OK(be->upload(be, dx, x, n_x * sizeof *x, err));
            float *y = dev_floats(be, NULL, (size_t)((N + LP_ROW_PADDING) * c->columns));
            int32_t *best = dev_new(be, sizeof got);
            OK(be->linear(be, linear, LP_OPERAND, dx, N, y, err));
            OK(be->download(be, logits, y, (size_t)(N * c->columns) * sizeof *logits, err));
            for (int32_t r = 0; r < N; r++) {
                float *row = logits + (int64_t)r * c->columns;
                for (int k = 0; k < 2; k++) row[barred[k]] = among.barred_logit;
                wanted[r] = 0;
                float most = -INFINITY;
                for (int32_t j = 0; j < n; j++) {
                    if (!(row[j] > most)) continue;
                    most = row[j];
                    wanted[r] = j;
                }
            }
            OK(be->choose(be, linear, dx, N, &among, best, &found, err));
            if (!found) fail_msg("case %zu: the bounds left too much", i);
            OK(be->download(be, got, best, sizeof got, err));
            for (int32_t r = 0; r < N; r++)
                if (got[r] != wanted[r] || (r == 3 && got[r] != 700) || (r == 4 && got[r] != 1100))
                    fail_msg("case %zu on %s, row %d: expected %d, found %d", i, be->name, r, wanted[r], got[r]);
            be->linear_free(be, linear);
            be->release(be, dx);
            be->release(be, y);
            be->release(be, best);
        }
        lp_mem_free(codes);
        lp_mem_free(w);
        lp_mem_free(x);
        lp_mem_free(logits);
    }
}

static int teardown(void **state) {
    (void)state;
    for (int b = 0; b < N_BACKENDS; b++) lp_backend_free(backends[b]);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear),       cmocka_unit_test(test_rows),
                                       cmocka_unit_test(test_copy_and_add), cmocka_unit_test(test_edits),
                                       cmocka_unit_test(test_argmax),       cmocka_unit_test(test_choose),
                                       cmocka_unit_test(test_attention),    cmocka_unit_test(test_check_refuses)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
