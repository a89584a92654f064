/* lp_conformance [cpu|cuda] [fp32|tf32|bf16|fp32-simt|fp32-tc] [small]: every operation of a backend
 * against plain loops in double precision, at odd and large sizes, and each row against the same row in other company,
 * bit for bit. Exit code 77 where there is no device. */
#include "cuda/conformance.h"

#include "base/dtype.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/random.h"

#include <float.h>
#include <math.h>

/* ---- Tools ------------------------------------------------------------------------------------------------------- */

static void die(const char *what, const char *why) {
    printf("%s: %s\n", what, why);
    exit(1);
}

void conformance_run(conformance *c, lp_status status, const char *call, int line) {
    if (status == LP_OK) return;
    printf("line %d: %s: %s\n", line, call, c->err.text);
    exit(1);
}

void *conformance_zeros(size_t bytes) {
    void *out = NULL;
    lp_error err = {0};
    if (lp_mem_new(&out, bytes, 1, "test", &err) != LP_OK) die("test", err.text);
    return out;
}

float *conformance_normal(uint32_t stream, size_t n) {
    float *out = conformance_zeros(n * sizeof *out);
    lp_random_normal((lp_random_key){.seed = 5, .stream = stream}, out, n);
    return out;
}

void *conformance_to_device(conformance *c, const void *host, size_t n_items, size_t item_bytes, size_t row) {
    void *dev = NULL;
    RUN(c->be->alloc(c->be, (n_items + LP_ROW_PADDING * row) * item_bytes, "test", &dev, &c->err));
    if (host) RUN(c->be->upload(c->be, dev, host, n_items * item_bytes, &c->err));
    return dev;
}

float *conformance_floats(conformance *c, const float *host, size_t n, size_t row) {
    return conformance_to_device(c, host, n, sizeof *host, row);
}

int32_t *conformance_ints(conformance *c, const int32_t *host, size_t n) {
    return conformance_to_device(c, host, n, sizeof *host, 0);
}

void conformance_fetch(conformance *c, void *host, const void *dev, size_t bytes) {
    RUN(c->be->download(c->be, host, dev, bytes, &c->err));
}

static void report(conformance *c, const char *format, va_list args) {
    c->n_failed++;
    printf("FAILED: ");
    vprintf(format, args);
}

void conformance_near(conformance *c, const float *got, const double *want, size_t n, double bound, const char *format,
                      ...) {
    double most = 0, worst = -1;
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - want[i]);
        if (fabs(want[i]) > most) most = fabs(want[i]);
        if (!(error <= worst)) {
            worst = error;
            at = i;
        }
        if (isnan(error)) break;
    }
    c->n_checks++;
    if (n == 0 || worst <= bound * most) return;
    va_list args;
    va_start(args, format);
    report(c, format, args);
    va_end(args);
    printf(": place %zu: got %.9g, expected %.9g, relative to the largest %.3g, bound %.3g\n", at, (double)got[at],
           want[at], worst / most, bound);
}

void conformance_same(conformance *c, const void *got, const void *want, size_t bytes, const char *format, ...) {
    c->n_checks++;
    if (memcmp(got, want, bytes) == 0) return;
    size_t at = 0;
    const uint32_t *a = got, *b = want;
    while (a[at] == b[at]) at++;
    va_list args;
    va_start(args, format);
    report(c, format, args);
    va_end(args);
    printf(": word %zu: got %08x, expected %08x\n", at, a[at], b[at]);
}

void conformance_true(conformance *c, bool condition, const char *format, ...) {
    c->n_checks++;
    if (condition) return;
    va_list args;
    va_start(args, format);
    report(c, format, args);
    va_end(args);
    printf("\n");
}

/* ---- Matrix products --------------------------------------------------------------------------------------------- */

typedef struct {
    int64_t n_in, n_out[3];
    int n_parts;
    lp_layout layout;
    bool bias, large;
    int32_t n;
} linear_case;

/* What the dtype makes of an operand of a product. tf32 is left as it is: its rounding is the hardware's. */
static double operand(const conformance *c, float x) {
    uint32_t bits;
    if (c->dtype != LP_USE_BF16) return x;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* One row of fp32-tc: high and low parts, then the exponent; see split.cuh. */
static void split_row(const float *x, int32_t width, char *row) {
    size_t depth = (size_t)(width + 7) / 8 * 8;
    uint16_t *high = (uint16_t *)(void *)row, *low = high + depth;
    float most = 0;
    int e = 0;
    for (int32_t i = 0; i < width; i++) most = fmaxf(most, fabsf(x[i]));
    (void)frexpf(most, &e);
    for (int32_t i = 0; i < width; i++) {
        float scaled = ldexpf(x[i], -e);
        high[i] = lp_f32_to_f16(scaled);
        low[i] = lp_f32_to_f16((scaled - lp_f16_to_f32(high[i])) * 2048.0f);
        /* What is not 0 stays so. */
        if (x[i] != 0 && (high[i] & 0x7fff) == 0 && (low[i] & 0x7fff) == 0) low[i] = x[i] < 0 ? 0x8001 : 0x0001;
    }
    int32_t exponent = e;
    memcpy(row + 4 * depth, &exponent, sizeof exponent);
}

/* floats [n, width] as the backend's operands have them; *bytes of all rows. Freed with lp_mem_free. */
static void *as_operand(const conformance *c, const float *floats, int32_t n, int32_t width, size_t *bytes) {
    size_t row = lp_operand_bytes(c->be, LP_OPERAND, width), w = (size_t)width;
    char *out = conformance_zeros((size_t)n * row);
    *bytes = (size_t)n * row;
    if (c->be->operand_item_bytes == 0) memcpy(out, floats, *bytes);
    for (size_t r = 0; r < (size_t)n && c->be->operand_item_bytes > 0; r++) {
        uint16_t *to = (uint16_t *)(void *)(out + r * row);
        if (c->dtype == LP_USE_BF16)
            for (size_t i = 0; i < w; i++) to[i] = lp_f32_to_bf16(floats[r * w + i]);
        else
            split_row(floats + r * w, width, out + r * row);
    }
    return out;
}

/* Room for an operand, or floats, of n rows: nothing of it is a number yet. */
float *conformance_operand_room(conformance *c, size_t n, size_t width) {
    size_t row = lp_operand_bytes(c->be, LP_OPERAND, (int32_t)width) / sizeof(float);
    if (row < width) row = width;
    float *nothing = conformance_zeros(n * row * sizeof *nothing);
    memset(nothing, 0xff, n * row * sizeof *nothing);
    float *dev = conformance_floats(c, nothing, n * row, row);
    lp_mem_free(nothing);
    return dev;
}

/* An operation's result as an operand is that as floats, rounded. */
void conformance_same_operand(conformance *c, const void *dev, const float *floats, int32_t n, int32_t width,
                              const char *operation) {
    size_t bytes = 0;
    void *want = as_operand(c, floats, n, width, &bytes), *got = conformance_zeros(bytes);
    conformance_fetch(c, got, dev, bytes);
    conformance_same(c, got, want, bytes, "%s %d x %d as an operand", operation, n, width);
    lp_mem_free(want);
    lp_mem_free(got);
}

static void reference_row(const conformance *c, const lp_linear *w, const float *x, double *y) {
    int64_t column = 0;
    for (int p = 0; p < w->n_parts; p++) {
        const lp_matrix *m = &w->part[p];
        for (int64_t o = 0; o < m->n_out; o++, column++) {
            double sum = w->bias ? w->bias[column] : 0;
            for (int64_t i = 0; i < m->n_in; i++)
                sum += operand(c, x[i]) *
                       operand(c, m->layout == LP_OUT_IN ? m->data[o * m->n_in + i] : m->data[i * m->n_out + o]);
            y[column] = sum;
        }
    }
}

/* The product of x as an operand has the bits of y, that of x. */
static void check_operand(conformance *c, const lp_backend_linear *w, const float *x, const linear_case *k,
                          const float *y, float *dev_y) {
    size_t bytes = 0, out = 0;
    for (int p = 0; p < k->n_parts; p++) out += (size_t)k->n_out[p];
    void *operand = as_operand(c, x, k->n, (int32_t)k->n_in, &bytes);
    float *got = conformance_zeros((size_t)k->n * out * sizeof(float));
    float *dev = conformance_operand_room(c, (size_t)k->n, (size_t)k->n_in);
    RUN(c->be->upload(c->be, dev, operand, bytes, &c->err));
    RUN(c->be->linear(c->be, w, LP_OPERAND, dev, k->n, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, (size_t)k->n * out * sizeof(float));
    conformance_same(c, got, y, (size_t)k->n * out * sizeof(float), "linear %d x %lld of an operand", k->n,
                     (long long)k->n_in);
    c->be->release(c->be, dev);
    lp_mem_free(operand);
    lp_mem_free(got);
}

/* With rows further apart the values are y's, and nothing is written beyond the room that a product may fill up. */
static void check_stride(conformance *c, const lp_linear *host, const float *x, int32_t n, const float *y,
                         size_t stride) {
    lp_linear wide = *host;
    size_t out = (size_t)host->n_out, rows = (size_t)n, in = (size_t)host->n_in, full = (out + 63) / 64 * 64,
           last = stride >= full ? full : out;
    lp_backend_linear *w = NULL;
    wide.stride = (int64_t)stride;
    float *got = conformance_zeros(rows * stride * sizeof *got);
    double *want = conformance_zeros(rows * out * sizeof *want);
    for (size_t i = 0; i < rows * out; i++) want[i] = (double)y[i];
    for (size_t i = 0; i < rows * stride; i++) got[i] = -7;
    float *dev_x = conformance_floats(c, x, rows * in, in), *dev_y = conformance_floats(c, got, rows * stride, stride);
    RUN(c->be->linear_new(c->be, &wide, &w, &c->err));
    RUN(c->be->linear(c->be, w, LP_FLOATS, dev_x, n, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, rows * stride * sizeof *got);
    bool untouched = true;
    for (size_t r = 0; r < rows; r++) {
        for (size_t i = last; i < stride; i++) untouched &= got[r * stride + i] == -7;
        memmove(got + r * out, got + r * stride, out * sizeof *got);
    }
    conformance_true(c, untouched, "linear %zu x %zu: numbers %zu apart are written between its rows", in, out, stride);
    conformance_near(c, got, want, rows * out, c->dtype == LP_USE_TF32 ? 3e-3 : 1e-5, "linear %zu x %zu, rows apart",
                     in, out);
    c->be->linear_free(c->be, w);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_y);
    lp_mem_free(got);
    lp_mem_free(want);
}

static void check_linear(conformance *c, const linear_case *k) {
    lp_linear host = {.n_parts = k->n_parts, .n_in = k->n_in};
    float *data[3] = {NULL}, *bias = NULL;
    for (int p = 0; p < k->n_parts; p++) {
        data[p] = conformance_normal((uint32_t)p, (size_t)(k->n_in * k->n_out[p]));
        host.part[p] = (lp_matrix){.data = data[p], .n_in = k->n_in, .n_out = k->n_out[p], .layout = k->layout};
        host.n_out += k->n_out[p];
    }
    if (k->bias) host.bias = bias = conformance_normal(9, (size_t)host.n_out);
    size_t n = (size_t)k->n, in = (size_t)k->n_in, out = (size_t)host.n_out;
    float *x = conformance_normal(10, n * in), *y = conformance_zeros(n * out * sizeof(float)),
          *again = conformance_zeros(n * out * sizeof(float));
    lp_backend_linear *w = NULL;
    RUN(c->be->linear_new(c->be, &host, &w, &c->err));
    float *dev_x = conformance_floats(c, x, n * in, in), *dev_y = conformance_floats(c, NULL, n * out, out);
    RUN(c->be->linear(c->be, w, LP_FLOATS, dev_x, k->n, dev_y, &c->err));
    conformance_fetch(c, y, dev_y, n * out * sizeof(float));
    check_operand(c, w, x, k, y, dev_y);
    check_stride(c, &host, x, k->n, y, out + 29);
    check_stride(c, &host, x, k->n, y, (out + 63) / 64 * 64 + 64);

    double *want = conformance_zeros(out * sizeof(double));
    double bound = c->dtype == LP_USE_TF32 ? 3e-3 : 1e-5;
    for (size_t r = 0; r<n; r += n> 7 ? n / 7 : 1) {
        reference_row(c, &host, x + r * in, want);
        conformance_near(c, y + r * out, want, out, bound, "linear %zu x %zu, row %zu of %zu", in, out, r, n);
    }
    /* The first rows of a batch, then a row in the middle of others that were reversed. */
    const int32_t counts[] = {1, 2, 17, 64, 65, 128, 129, 200, 1000, 2048};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0] && counts[i] < k->n; i++) {
        RUN(c->be->linear(c->be, w, LP_FLOATS, dev_x, counts[i], dev_y, &c->err));
        conformance_fetch(c, again, dev_y, (size_t)counts[i] * out * sizeof(float));
        conformance_same(c, again, y, (size_t)counts[i] * out * sizeof(float), "linear %zu x %zu: %d rows of %zu", in,
                         out, counts[i], n);
    }
    int32_t *turned = conformance_zeros(n * sizeof *turned);
    for (size_t r = 0; r < n; r++) turned[r] = (int32_t)(n - 1 - r);
    int32_t *dev_turned = conformance_ints(c, turned, n);
    float *dev_reversed = conformance_floats(c, NULL, n * in, in);
    RUN(c->be->copy_rows(c->be, dev_reversed, NULL, dev_x, dev_turned, k->n, (int32_t)in, &c->err));
    RUN(c->be->linear(c->be, w, LP_FLOATS, dev_reversed, k->n, dev_y, &c->err));
    conformance_fetch(c, again, dev_y, n * out * sizeof(float));
    for (size_t r = 0; r < n; r++)
        if (memcmp(again + (n - 1 - r) * out, y + r * out, out * sizeof(float)) != 0) {
            conformance_same(c, again + (n - 1 - r) * out, y + r * out, out * sizeof(float),
                             "linear %zu x %zu: row %zu of %zu at another place", in, out, r, n);
            break;
        }
    c->be->linear_free(c->be, w);
    void *dev[] = {dev_x, dev_y, dev_turned, dev_reversed};
    for (size_t i = 0; i < sizeof dev / sizeof dev[0]; i++) c->be->release(c->be, dev[i]);
    void *host_blocks[] = {data[0], data[1], data[2], bias, x, y, again, want, turned};
    for (size_t i = 0; i < sizeof host_blocks / sizeof host_blocks[0]; i++) lp_mem_free(host_blocks[i]);
}

/* Rows and columns of all orders of magnitude, 0, infinity and NaN, as float32 has them. */
static void check_range(conformance *c, lp_layout layout) {
    enum { IN = 40, OUT = 21, SCALES = 14, ZERO = SCALES, LARGE, INFINITE, OPPOSITE, NOT_A_NUMBER, ROWS };
    float *x = conformance_normal(11, ROWS * IN), *w = conformance_normal(12, IN * OUT),
          *got = conformance_zeros(ROWS * OUT * sizeof *got);
    float *data = conformance_zeros(IN * OUT * sizeof *data);
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < IN; i++) {
            float *at = &x[r * IN + i];
            *at = r == ZERO ? 0.0f : r == LARGE ? 0x1p+120f : ldexpf(*at, r < SCALES ? 20 * r - 145 : 0);
        }
    x[INFINITE * IN + 7] = INFINITY;
    x[OPPOSITE * IN + 7] = -INFINITY;
    x[OPPOSITE * IN + 23] = INFINITY;
    x[NOT_A_NUMBER * IN + 39] = NAN;
    /* Column 0 is 0, column 1 all the same, 2 has a 0 where rows have infinity. */
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++) {
            float *at = &w[i * OUT + o];
            *at = o == 0 || (o == 2 && i == 7) ? 0.0f : o == 1 ? 0x1p+20f : ldexpf(*at, 10 * o - 110);
            data[layout == LP_OUT_IN ? o * IN + i : i * OUT + o] = *at;
        }
    lp_linear host = {
        .part = {{.data = data, .n_in = IN, .n_out = OUT, .layout = layout}}, .n_parts = 1, .n_in = IN, .n_out = OUT};
    lp_backend_linear *linear = NULL;
    RUN(c->be->linear_new(c->be, &host, &linear, &c->err));
    float *dev_x = conformance_floats(c, x, ROWS * IN, IN), *dev_y = conformance_floats(c, NULL, ROWS * OUT, OUT);
    RUN(c->be->linear(c->be, linear, LP_FLOATS, dev_x, ROWS, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, ROWS * OUT * sizeof *got);
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUT; o++) {
            double want = 0, size = 0;
            for (int i = 0; i < IN; i++) {
                const double product = (double)x[r * IN + i] * (double)w[i * OUT + o];
                want += product;
                size += fabs(product);
            }
            const float is = got[r * OUT + o], rounded = (float)want;
            bool right = isnan(rounded) ? isnan(is) : is == rounded;
            /* Where parts of the sum are infinite in float32 though it is not, either is right. */
            if (isfinite(want) && fabs(want) != size && size > (double)FLT_MAX) right = true;
            if (isfinite(is) && isfinite(rounded)) right |= fabs((double)is - want) <= 2e-6 * size + IN * 0x1p-149;
            conformance_true(c, right,
                             "linear of all magnitudes, layout %d: row %d, column %d: got %.9g, expected %.9g",
                             (int)layout, r, o, (double)is, want);
        }
    c->be->linear_free(c->be, linear);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_y);
    void *blocks[] = {x, w, got, data};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

/* An element of 8,192 products that are added one by one is 1.7e-6 of its size from float64 (root mean square), which
 * would be most of what a model's states are away. */
static void check_long_sums(conformance *c, lp_layout layout, bool has_bias) {
    enum { IN = 8192 + 24, OUT = 40, ROWS = 6 };
    float *x = conformance_normal(13, ROWS * IN), *w = conformance_normal(14, IN * OUT),
          *bias = conformance_normal(15, OUT), *got = conformance_zeros(ROWS * OUT * sizeof *got);
    double error = 0, size = 0;
    lp_linear host = {.part = {{.data = w, .n_in = IN, .n_out = OUT, .layout = layout}},
                      .bias = has_bias ? bias : NULL,
                      .n_parts = 1,
                      .n_in = IN,
                      .n_out = OUT};
    lp_backend_linear *linear = NULL;
    RUN(c->be->linear_new(c->be, &host, &linear, &c->err));
    float *dev_x = conformance_floats(c, x, ROWS * IN, IN), *dev_y = conformance_floats(c, NULL, ROWS * OUT, OUT);
    RUN(c->be->linear(c->be, linear, LP_FLOATS, dev_x, ROWS, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, ROWS * OUT * sizeof *got);
    for (int r = 0; r < ROWS; r++)
        for (int o = 0; o < OUT; o++) {
            double want = has_bias ? (double)bias[o] : 0;
            for (int i = 0; i < IN; i++)
                want += (double)x[r * IN + i] * (double)(layout == LP_OUT_IN ? w[o * IN + i] : w[i * OUT + o]);
            error += (got[r * OUT + o] - want) * (got[r * OUT + o] - want);
            size += want * want;
        }
    conformance_true(c, sqrt(error / size) < 7e-7, "sums of %d, layout %d, bias %d: error %.2g of their size", IN,
                     (int)layout, has_bias, sqrt(error / size));
    c->be->linear_free(c->be, linear);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_y);
    void *blocks[] = {x, w, bias, got};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

/* Widths that are no multiple of 8, of the operand and of the result: the emulated device refuses a product with an
 * argument that is not aligned. */
static void check_widths(conformance *c) {
    static const int32_t widths[] = {1, 4, 12, 31, 65};
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; i++) {
        int32_t width = widths[i];
        check_linear(c, &(linear_case){.n_in = width, .n_out = {24}, .n_parts = 1, .layout = LP_OUT_IN, .n = 2});
        check_linear(c, &(linear_case){.n_in = 24, .n_out = {width}, .n_parts = 1, .layout = LP_IN_OUT, .n = 2});
        check_linear(
            c, &(linear_case){.n_in = 16, .n_out = {width}, .n_parts = 1, .layout = LP_OUT_IN, .bias = true, .n = 2});
    }
}

static void check_linears(conformance *c) {
    static const linear_case cases[] = {
        {.n_in = 5, .n_out = {7}, .n_parts = 1, .layout = LP_OUT_IN, .n = 3},
        {.n_in = 5, .n_out = {7}, .n_parts = 1, .layout = LP_IN_OUT, .bias = true, .n = 130},
        {.n_in = 64, .n_out = {64}, .n_parts = 1, .layout = LP_OUT_IN, .n = 1},
        {.n_in = 96, .n_out = {131}, .n_parts = 1, .layout = LP_IN_OUT, .bias = true, .n = 300},
        {.n_in = 99, .n_out = {33, 5, 5}, .n_parts = 3, .layout = LP_OUT_IN, .n = 257},
        {.n_in = 64, .n_out = {48, 16, 16}, .n_parts = 3, .layout = LP_IN_OUT, .bias = true, .n = 100},
        {.n_in = 32, .n_out = {40}, .n_parts = 1, .layout = LP_OUT_IN, .n = 2500},
        {.n_in = 2100, .n_out = {5}, .n_parts = 1, .layout = LP_OUT_IN, .bias = true, .n = 3},
        {.n_in = 768, .n_out = {2304}, .n_parts = 1, .layout = LP_IN_OUT, .bias = true, .large = true, .n = 300},
        {.n_in = 3072, .n_out = {768}, .n_parts = 1, .layout = LP_IN_OUT, .bias = true, .large = true, .n = 300},
        {.n_in = 2048, .n_out = {2048, 512, 512}, .n_parts = 3, .layout = LP_OUT_IN, .large = true, .n = 1030},
        {.n_in = 2048, .n_out = {50260}, .n_parts = 1, .layout = LP_OUT_IN, .large = true, .n = 140},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        if (!cases[i].large || !c->small) check_linear(c, &cases[i]);
    check_widths(c);
    if (c->dtype == LP_USE_TF32 || c->dtype == LP_USE_BF16) return;
    for (int layout = LP_IN_OUT; layout <= LP_OUT_IN; layout++) {
        check_range(c, (lp_layout)layout);
        for (int bias = 0; bias < 2; bias++) check_long_sums(c, (lp_layout)layout, bias);
    }
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static void check_copy_and_add(conformance *c, int32_t n, int32_t width) {
    size_t all = (size_t)n * (size_t)width, w = (size_t)width;
    float *x = conformance_normal(20, all), *y = conformance_normal(21, all),
          *got = conformance_zeros(all * sizeof(float)), *want = conformance_zeros(all * sizeof(float));
    int32_t *from = conformance_zeros((size_t)n * sizeof *from), *to = conformance_zeros((size_t)n * sizeof *to);
    for (int32_t i = 0; i < n; i++) {
        from[i] = (int32_t)lp_random_below((lp_random_key){.seed = 6}, (uint32_t)i, (uint32_t)n);
        to[i] = n - 1 - i;
    }
    float *dev_x = conformance_floats(c, x, all, w), *dev_y = conformance_floats(c, y, all, w);
    int32_t *dev_from = conformance_ints(c, from, (size_t)n), *dev_to = conformance_ints(c, to, (size_t)n);
    for (int lists = 0; lists < 4; lists++) {
        for (int32_t i = 0; i < n; i++)
            memcpy(want + (size_t)(lists & 1 ? to[i] : i) * w, x + (size_t)(lists & 2 ? from[i] : i) * w,
                   w * sizeof(float));
        RUN(c->be->copy_rows(c->be, dev_y, lists & 1 ? dev_to : NULL, dev_x, lists & 2 ? dev_from : NULL, n, width,
                             &c->err));
        conformance_fetch(c, got, dev_y, all * sizeof(float));
        conformance_same(c, got, want, all * sizeof(float), "copy_rows %d x %d, lists %d", n, width, lists);
    }
    float *dev_operand = conformance_operand_room(c, (size_t)n, w);
    for (int lists = 0; lists < 2; lists++) {
        for (int32_t i = 0; i < n; i++)
            memcpy(want + (size_t)i * w, x + (size_t)(lists ? from[i] : i) * w, w * sizeof(float));
        RUN(c->be->pack_rows(c->be, dev_operand, dev_x, lists ? dev_from : NULL, n, width, &c->err));
        conformance_same_operand(c, dev_operand, want, n, width, "pack_rows");
    }
    c->be->release(c->be, dev_operand);
    RUN(c->be->upload(c->be, dev_y, y, all * sizeof(float), &c->err));
    for (int lists = 0; lists < 2; lists++) {
        RUN(c->be->upload(c->be, dev_x, x, all * sizeof(float), &c->err));
        for (size_t i = 0; i < all; i++) want[i] = x[i] + y[(lists ? (size_t)from[i / w] : i / w) * w + i % w];
        RUN(c->be->add_rows(c->be, dev_x, dev_y, lists ? dev_from : NULL, n, width, &c->err));
        conformance_fetch(c, got, dev_x, all * sizeof(float));
        conformance_same(c, got, want, all * sizeof(float), "add_rows %d x %d, lists %d", n, width, lists);
    }
    void *dev[] = {dev_x, dev_y, dev_from, dev_to};
    for (size_t i = 0; i < sizeof dev / sizeof dev[0]; i++) c->be->release(c->be, dev[i]);
    void *blocks[] = {x, y, got, want, from, to};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

static void check_scale(conformance *c, int32_t n, int32_t width, int32_t n_columns) {
    size_t all = (size_t)n * (size_t)width;
    float *x = conformance_normal(23, all), *scale = conformance_normal(24, (size_t)n_columns),
          *got = conformance_zeros(all * sizeof(float)), *want = conformance_zeros(all * sizeof(float));
    float *dev_x = conformance_floats(c, x, all, (size_t)width),
          *dev_scale = conformance_floats(c, scale, (size_t)n_columns, (size_t)n_columns);
    for (size_t i = 0; i < all; i++)
        want[i] = i % (size_t)width < (size_t)n_columns ? x[i] * scale[i % (size_t)width] : x[i];
    RUN(c->be->scale_columns(c->be, dev_x, n, width, n_columns, dev_scale, &c->err));
    conformance_fetch(c, got, dev_x, all * sizeof(float));
    conformance_same(c, got, want, all * sizeof(float), "scale_columns %d x %d of %d", n, n_columns, width);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_scale);
    void *blocks[] = {x, scale, got, want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

static void check_norm(conformance *c, int32_t n, int32_t width, bool has_bias) {
    size_t all = (size_t)n * (size_t)width, w = (size_t)width;
    const float eps = 1e-5f;
    float *x = conformance_normal(30, all), *weight = conformance_normal(31, w), *bias = conformance_normal(32, w),
          *got = conformance_zeros(all * sizeof(float)), *alone = conformance_zeros(w * sizeof(float));
    double *want = conformance_zeros(all * sizeof(double));
    for (size_t i = 0; i < all; i++) x[i] = x[i] * 3 + 1;
    for (size_t r = 0; r < (size_t)n; r++) {
        const float *row = x + r * w;
        double mean = 0, square = 0;
        for (size_t i = 0; i < w && has_bias; i++) mean += row[i] / (double)width;
        for (size_t i = 0; i < w; i++) square += (row[i] - mean) * (row[i] - mean) / (double)width;
        for (size_t i = 0; i < w; i++)
            want[r * w + i] =
                (row[i] - mean) / sqrt(square + (double)eps) * weight[i] + (has_bias ? (double)bias[i] : 0);
    }
    float *dev_x = conformance_floats(c, x, all, w), *dev_y = conformance_floats(c, NULL, all, w);
    const float *dev_weight = NULL, *dev_bias = NULL;
    RUN(c->be->vector_new(c->be, weight, w, &dev_weight, &c->err));
    RUN(c->be->vector_new(c->be, bias, w, &dev_bias, &c->err));
    RUN(c->be->norm(c->be, dev_x, dev_weight, has_bias ? dev_bias : NULL, eps, n, width, LP_FLOATS, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, all * sizeof(float));
    conformance_near(c, got, want, all, 1e-5, "norm %d x %d, bias %d", n, width, has_bias);
    RUN(c->be->norm(c->be, dev_x + all - w, dev_weight, has_bias ? dev_bias : NULL, eps, 1, width, LP_FLOATS, dev_y,
                    &c->err));
    conformance_fetch(c, alone, dev_y, w * sizeof(float));
    conformance_same(c, alone, got + all - w, w * sizeof(float), "norm %d x %d: the last row alone", n, width);
    float *dev_operand = conformance_operand_room(c, (size_t)n, w);
    RUN(c->be->norm(c->be, dev_x, dev_weight, has_bias ? dev_bias : NULL, eps, n, width, LP_OPERAND, dev_operand,
                    &c->err));
    conformance_same_operand(c, dev_operand, got, n, width, "norm");
    c->be->release(c->be, dev_operand);
    /* dev_x + dev_z both ways. */
    float *z = conformance_normal(33, all), *both = conformance_zeros(all * sizeof(float));
    float *dev_z = conformance_floats(c, z, all, w), *dev_sum = conformance_floats(c, x, all, w);
    RUN(c->be->add_norm(c->be, dev_x, dev_z, dev_weight, has_bias ? dev_bias : NULL, eps, n, width, LP_FLOATS, dev_y,
                        &c->err));
    conformance_fetch(c, got, dev_y, all * sizeof(float));
    RUN(c->be->add_rows(c->be, dev_sum, dev_z, NULL, n, width, &c->err));
    RUN(c->be->norm(c->be, dev_sum, dev_weight, has_bias ? dev_bias : NULL, eps, n, width, LP_FLOATS, dev_y, &c->err));
    conformance_fetch(c, both, dev_y, all * sizeof(float));
    conformance_same(c, got, both, all * sizeof(float), "add_norm %d x %d, bias %d: normed", n, width, has_bias);
    RUN(c->be->upload(c->be, dev_x, x, all * sizeof(float), &c->err));
    dev_operand = conformance_operand_room(c, (size_t)n, w);
    RUN(c->be->add_norm(c->be, dev_x, dev_z, dev_weight, has_bias ? dev_bias : NULL, eps, n, width, LP_OPERAND,
                        dev_operand, &c->err));
    conformance_same_operand(c, dev_operand, both, n, width, "add_norm");
    c->be->release(c->be, dev_operand);
    conformance_fetch(c, got, dev_x, all * sizeof(float));
    conformance_fetch(c, both, dev_sum, all * sizeof(float));
    conformance_same(c, got, both, all * sizeof(float), "add_norm %d x %d, bias %d: sums", n, width, has_bias);
    c->be->release(c->be, dev_z);
    c->be->release(c->be, dev_sum);
    c->be->vector_free(c->be, dev_weight);
    c->be->vector_free(c->be, dev_bias);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_y);
    void *blocks[] = {x, weight, bias, got, alone, want, z, both};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

static double activation(lp_activation kind, double x) {
    if (kind == LP_ACT_GELU_ERF) return 0.5 * x * (1 + erf(x / sqrt(2)));
    if (kind == LP_ACT_SILU) return x / (1 + exp(-x));
    return 0.5 * x * (1 + tanh(sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

static void check_activation(conformance *c, lp_activation kind, bool gated, int32_t n, int32_t width) {
    size_t rows = (size_t)n, w = (size_t)width, in = gated ? 2 * w : w;
    float *x = conformance_normal(40, rows * in), *got = conformance_zeros(rows * w * sizeof(float));
    double *want = conformance_zeros(rows * w * sizeof(double));
    for (size_t i = 0; i < rows * in; i++) x[i] *= 4;
    x[0] = -60;
    x[1] = 60;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < w; i++)
            want[r * w + i] = activation(kind, x[r * in + i]) * (gated ? (double)x[r * in + w + i] : 1);
    float *dev_x = conformance_floats(c, x, rows * in, in), *dev_y = conformance_floats(c, NULL, rows * w, w);
    RUN(c->be->activate(c->be, kind, gated, dev_x, n, width, LP_FLOATS, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, rows * w * sizeof(float));
    conformance_near(c, got, want, rows * w, 1e-6, "activate %d, gated %d, %d x %d", (int)kind, gated, n, width);
    float *dev_operand = conformance_operand_room(c, rows, w);
    RUN(c->be->activate(c->be, kind, gated, dev_x, n, width, LP_OPERAND, dev_operand, &c->err));
    conformance_same_operand(c, dev_operand, got, n, width, "activate");
    c->be->release(c->be, dev_operand);
    if (!gated) {
        float *in_place = conformance_zeros(rows * w * sizeof(float));
        RUN(c->be->activate(c->be, kind, gated, dev_x, n, width, LP_FLOATS, dev_x, &c->err));
        conformance_fetch(c, in_place, dev_x, rows * w * sizeof(float));
        conformance_same(c, in_place, got, rows * w * sizeof(float), "activate %d in place", (int)kind);
        lp_mem_free(in_place);
    }
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_y);
    void *blocks[] = {x, got, want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

static void check_edits(conformance *c) {
    enum { N = 9, STRIDE = 70, VECTORS = 200 };
    static const lp_row_edit edits[] = {
        {.row = 0, .offset = 0, .width = STRIDE, .operation = 0, .factor = 1, .vector = 3},
        {.row = 3, .offset = 5, .width = 33, .operation = 1, .factor = -0.5f, .vector = 100},
        {.row = 3, .offset = 40, .width = 30, .operation = 2, .factor = 0.25f, .vector = 0},
        {.row = 8, .offset = 1, .width = 64, .operation = 3, .factor = 0.3f, .vector = 64},
        {.row = 4, .offset = 0, .width = 70, .operation = 5, .directions = 10, .n_directions = 1},
        {.row = 5, .offset = 6, .width = 60, .operation = 6, .directions = 2, .n_directions = 3},
        {.row = 6, .offset = 3, .width = 33, .operation = 7, .vector = 7, .directions = 90, .n_directions = 2},
    };
    float *x = conformance_normal(50, N * STRIDE), *vectors = conformance_normal(51, VECTORS);
    float *got = conformance_zeros(N * STRIDE * sizeof(float));
    double *want = conformance_zeros(N * STRIDE * sizeof(double));
    for (size_t i = 0; i < N * STRIDE; i++) want[i] = x[i];
    for (size_t e = 4; e < sizeof edits / sizeof edits[0]; e++)
        for (int32_t j = 0; j < edits[e].n_directions; j++) {
            const float *direction = vectors + edits[e].directions + j * edits[e].width;
            float *row = x + edits[e].row * STRIDE + edits[e].offset;
            double *to = want + edits[e].row * STRIDE + edits[e].offset, at = 0;
            for (int32_t i = 0; i < edits[e].width; i++)
                at += direction[i] * (row[i] - (edits[e].operation == 7 ? (double)vectors[edits[e].vector + i] : 0));
            for (int32_t i = 0; i < edits[e].width; i++) {
                if (edits[e].operation == 6 && j == 0) to[i] = 0;
                to[i] += edits[e].operation == 6 ? at * direction[i] : -at * direction[i];
            }
        }
    for (size_t e = 0; e < 4; e++)
        for (int32_t i = 0; i < edits[e].width; i++) {
            size_t at = (size_t)(edits[e].row * STRIDE + edits[e].offset + i);
            double v = vectors[edits[e].vector + i], f = edits[e].factor;
            const double results[] = {v, x[at] + f * v, f * x[at], (1 - f) * x[at] + f * v};
            want[at] = results[edits[e].operation];
        }
    float *dev_x = conformance_floats(c, x, N * STRIDE, STRIDE), *dev_v = conformance_floats(c, vectors, VECTORS, 0);
    RUN(c->be->edit_rows(c->be, dev_x, STRIDE, edits, (int32_t)(sizeof edits / sizeof edits[0]), dev_v, &c->err));
    conformance_fetch(c, got, dev_x, N * STRIDE * sizeof(float));
    conformance_near(c, got, want, N * STRIDE, 1e-6, "edit_rows");
    conformance_same(c, got, vectors + 3, STRIDE * sizeof(float), "edit_rows: replace");
    conformance_same(c, got + STRIDE, x + STRIDE, 2 * STRIDE * sizeof(float), "edit_rows: untouched rows");
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_v);
    void *blocks[] = {x, vectors, got, want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

static void check_argmax(conformance *c, int32_t width, int32_t n_candidates) {
    enum { N = 5 };
    size_t w = (size_t)width, last = (size_t)n_candidates - 1;
    float *x = conformance_normal(60, N * w);
    int32_t got[N], want[N];
    for (size_t i = 0; i < w; i++) x[i] = 1;                 /* all the same */
    x[w + last] = x[w + last / 2] = 100;                     /* a tie */
    for (size_t i = 0; i < last; i += 3) x[2 * w + i] = NAN; /* never the largest */
    for (size_t i = 0; i < w; i++) x[3 * w + i] = -INFINITY;
    for (size_t i = (size_t)n_candidates; i < w; i++) x[4 * w + i] = 1000; /* not to be looked at */
    for (size_t r = 0; r < N; r++) {
        want[r] = -1;
        for (int32_t i = 0; i < n_candidates; i++)
            if (!isnan(x[r * w + (size_t)i]) && (want[r] < 0 || x[r * w + (size_t)i] > x[r * w + (size_t)want[r]]))
                want[r] = i;
        if (want[r] < 0) want[r] = 0;
    }
    float *dev_x = conformance_floats(c, x, N * w, w);
    int32_t *best = conformance_ints(c, NULL, N);
    RUN(c->be->argmax(c->be, dev_x, N, width, n_candidates, best, &c->err));
    conformance_fetch(c, got, best, sizeof got);
    for (int r = 0; r < N; r++)
        conformance_true(c, got[r] == want[r], "argmax of %d: row %d: got %d, expected %d", n_candidates, r, got[r],
                         want[r]);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, best);
    lp_mem_free(x);
}

static double log_sum_exp(const float *x, int32_t n) {
    double most = -INFINITY, sum = 0;
    for (int32_t i = 0; i < n; i++)
        if (x[i] > most) most = x[i];
    for (int32_t i = 0; i < n; i++) sum += exp(x[i] - most);
    return most + log(sum);
}

/* Rows 0 and 2 are saved as 1 and 0, and in a second call row 3 is read against saved row 0 (row 2), saved row 1
 * against it, and row 1 without a base. */
static void check_logit_queries(conformance *c, int32_t width, int32_t n_candidates) {
    enum { N = 4, READS = 5 };
    size_t w = (size_t)width;
    float *x = conformance_normal(61, N * w);
    for (size_t i = 0; i < N * w; i++) x[i] *= 8;
    for (size_t r = 0; r < N; r++)
        for (size_t i = (size_t)n_candidates; i < w; i++) x[r * w + i] = 1000; /* not to be looked at */
    const lp_logit_query reads[READS] = {{0, 1, -1, {2, -1}},
                                         {2, 0, 0, {-1, -1}},
                                         {3, -1, 0, {0, n_candidates - 1}},
                                         {-1, 1, 0, {-1, 3}},
                                         {1, -1, -1, {n_candidates - 1, 1}}};
    const int row_of[READS] = {0, 2, 3, 0, 1}, base_of[READS] = {-1, 2, 2, 2, -1};
    lp_logit_stats got[READS];
    float *dev_x = conformance_floats(c, x, N * w, w), *saved = conformance_floats(c, NULL, 2 * w, 0);
    lp_logit_stats *out = conformance_to_device(c, NULL, READS, sizeof *out, 0);
    RUN(c->be->read_logits(c->be, dev_x, saved, width, n_candidates, reads, 2, out, &c->err));
    RUN(c->be->read_logits(c->be, dev_x, saved, width, n_candidates, reads + 2, READS - 2, out + 2, &c->err));
    conformance_fetch(c, got, out, sizeof got);
    for (int i = 0; i < READS; i++) {
        const float *row = x + (size_t)row_of[i] * w;
        double log_sum = log_sum_exp(row, n_candidates), kl = 0, before = 0;
        if (base_of[i] >= 0) {
            const float *base = x + (size_t)base_of[i] * w;
            before = log_sum_exp(base, n_candidates);
            for (int32_t k = 0; k < n_candidates; k++)
                kl += exp(base[k] - before) * (base[k] - before - (row[k] - log_sum));
        }
        bool right = fabs(got[i].log_sum - log_sum) < 1e-9 &&
                     (base_of[i] < 0 ? isnan(got[i].kl) : fabs(got[i].kl - kl) < 1e-9 * (1 + kl));
        if (row_of[i] == base_of[i]) right &= got[i].kl == 0;
        for (int k = 0; k < 2; k++) {
            int32_t token = reads[i].token[k];
            right &= token < 0 ? isnan(got[i].logit[k]) : got[i].logit[k] == (double)row[token];
        }
        conformance_true(c, right,
                         "read_logits of %d: read %d: log_sum %.12g, kl %.12g, logits %g %g, expected %.12g and %.12g",
                         width, i, got[i].log_sum, got[i].kl, got[i].logit[0], got[i].logit[1], log_sum, kl);
    }
    c->be->release(c->be, dev_x);
    c->be->release(c->be, saved);
    c->be->release(c->be, out);
    lp_mem_free(x);
}

static void check_top(conformance *c, int32_t width, int32_t candidates, int32_t top) {
    enum { ROWS = 4 };
    size_t w = (size_t)width, k = (size_t)top;
    float *x = conformance_normal(90, ROWS * w), *numbers = conformance_zeros(ROWS * k * sizeof *numbers);
    double *want = conformance_zeros(ROWS * k * sizeof *want);
    int32_t *tokens = conformance_zeros(ROWS * k * sizeof *tokens),
            *right = conformance_zeros(ROWS * k * sizeof *right);
    char *used = conformance_zeros(w);
    /* Row 1 has few values, so that most are ties; row 2 is all equal; row 3 has NaN, and largest values beyond. */
    for (size_t i = 0; i < w; i++) {
        x[w + i] = (float)((int)(x[w + i] * 2));
        x[2 * w + i] = -3;
        if (i >= (size_t)candidates) x[3 * w + i] = 100;
    }
    x[3 * w + 1] = NAN;
    for (size_t r = 0; r < ROWS; r++) {
        double sum = 0;
        memset(used, 0, w);
        for (size_t i = 0; i < (size_t)candidates; i++) sum += exp((double)x[r * w + i]);
        for (size_t j = 0; j < k; j++) {
            int32_t best = -1;
            for (int32_t i = 0; i < candidates; i++)
                if (!used[i] && !isnan(x[r * w + (size_t)i]) &&
                    (best < 0 || x[r * w + (size_t)i] > x[r * w + (size_t)best]))
                    best = i;
            right[r * k + j] = best;
            used[best] = 1;
            want[r * k + j] = (double)x[r * w + (size_t)best] - log(sum);
        }
    }
    float *dev_x = conformance_floats(c, x, ROWS * w, w), *dev_numbers = conformance_floats(c, NULL, ROWS * k, 0);
    int32_t *dev_tokens = conformance_ints(c, NULL, ROWS * k);
    RUN(c->be->top(c->be, dev_x, ROWS, width, candidates, top, dev_tokens, dev_numbers, &c->err));
    conformance_fetch(c, tokens, dev_tokens, ROWS * k * sizeof *tokens);
    conformance_fetch(c, numbers, dev_numbers, ROWS * k * sizeof *numbers);
    conformance_same(c, tokens, right, ROWS * k * sizeof *tokens, "top %d of %d", top, candidates);
    conformance_near(c, numbers, want, 3 * k, 1e-6, "top %d of %d: log-probabilities", top, candidates);
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_numbers);
    c->be->release(c->be, dev_tokens);
    void *blocks[] = {x, numbers, want, tokens, right, used};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

/* Takes more than one list holds; and two fetches on their way while the memory behind them goes on to change. */
static void check_captures(conformance *c) {
    enum { ROWS = 9, STRIDE = 70, N = 70001 };
    float *x = conformance_normal(62, ROWS * STRIDE), *got = conformance_zeros(3 * N * sizeof *got);
    lp_row_capture *captures = conformance_zeros(N * sizeof *captures);
    float *dev_x = conformance_floats(c, x, ROWS * STRIDE, 0), *out = conformance_floats(c, NULL, 3 * N, 0);
    for (int32_t i = 0; i < N; i++)
        captures[i] =
            (lp_row_capture){.row = i % ROWS, .offset = i % 60, .width = i % 3 + 1, .out = 3 * (int64_t)(N - 1 - i)};
    RUN(c->be->capture_rows(c->be, dev_x, STRIDE, captures, N, out, &c->err));
    RUN(c->be->fetch_begin(c->be, 0, out, 3 * N * sizeof *got, &c->err));
    RUN(c->be->fetch_begin(c->be, 1, dev_x, ROWS * STRIDE * sizeof *got, &c->err));
    RUN(c->be->fetch_end(c->be, 0, got, 3 * N * sizeof *got, &c->err));
    bool right = true;
    for (int32_t i = 0; i < N; i++)
        right &= memcmp(got + captures[i].out, x + captures[i].row * STRIDE + captures[i].offset,
                        (size_t)captures[i].width * sizeof *x) == 0;
    conformance_true(c, right, "capture_rows");
    RUN(c->be->fetch_end(c->be, 1, got, ROWS * STRIDE * sizeof *got, &c->err));
    conformance_same(c, got, x, ROWS * STRIDE * sizeof *got, "fetch");
    c->be->release(c->be, dev_x);
    c->be->release(c->be, out);
    lp_mem_free(captures);
    lp_mem_free(x);
    lp_mem_free(got);
}

static void check_memory(conformance *c) {
    size_t n = c->small ? 1000003 : 30000007; /* floats: several rounds of any staging buffer */
    float *x = conformance_normal(70, 4096), *all = conformance_zeros(n * sizeof *all),
          *back = conformance_zeros(n * sizeof *back);
    for (size_t i = 0; i < n; i++) all[i] = x[i % 4096] + (float)(i / 4096);
    float *dev = conformance_floats(c, all, n, 0);
    conformance_fetch(c, back, dev, n * sizeof *back);
    conformance_same(c, back, all, n * sizeof *back, "upload and download of %zu floats", n);
    void *none = NULL;
    lp_error err = {0};
    lp_status status = c->be->alloc(c->be, (size_t)1 << 52, "far too much", &none, &err);
    conformance_true(c, status == LP_ERR_MEMORY, "alloc of 4 PiB: got status %d, expected %d", (int)status,
                     (int)LP_ERR_MEMORY);
    conformance_true(c, strstr(err.text, "far too much") && strstr(err.text, "4503599627370496"),
                     "alloc of 4 PiB: the message names neither what nor how much: %s", err.text);
    RUN(c->be->add_rows(c->be, dev, dev, NULL, 1, 16, &c->err));
    RUN(c->be->sync(c->be, &c->err));
    c->be->release(c->be, dev);
    lp_mem_free(x);
    lp_mem_free(all);
    lp_mem_free(back);
}

static void check_rows(conformance *c) {
    static const int32_t sizes[][2] = {{1, 1}, {3, 5}, {7, 64}, {33, 770}, {9, 4}, {5, 2049}, {70000, 4}};
    size_t n_sizes = sizeof sizes / sizeof sizes[0] - (c->small ? 1 : 0);
    for (size_t i = 0; i < n_sizes; i++) check_copy_and_add(c, sizes[i][0], sizes[i][1]);
    for (size_t i = 1; i < n_sizes; i++)
        for (int bias = 0; bias < 2; bias++) check_norm(c, sizes[i][0], sizes[i][1], bias);
    for (int kind = LP_ACT_GELU_TANH; kind <= LP_ACT_SILU; kind++)
        for (int gated = 0; gated < 2; gated++) {
            check_activation(c, (lp_activation)kind, gated, 3, 5);
            check_activation(c, (lp_activation)kind, gated, 65, 256);
            check_activation(c, (lp_activation)kind, gated, 7, 12);
            if (!c->small) check_activation(c, (lp_activation)kind, gated, 513, 8192);
        }
    check_edits(c);
    check_scale(c, 3, 7, 5);
    check_scale(c, 65, 320, 301);
    check_argmax(c, 7, 5);
    check_argmax(c, 1000, 999);
    check_logit_queries(c, 7, 5);
    check_logit_queries(c, c->small ? 3001 : 128259, c->small ? 3000 : 128258);
    check_top(c, 9, 7, 5);
    check_top(c, c->small ? 3001 : 128259, c->small ? 3000 : 128258, 50);
    check_captures(c);
    check_argmax(c, c->small ? 3001 : 128259, c->small ? 3000 : 128258);
    check_memory(c);
}

/* ---- Main -------------------------------------------------------------------------------------------------------- */

static int choice(const char *word, const char *const *words, int n) {
    for (int i = 0; i < n; i++)
        if (strcmp(word, words[i]) == 0) return i;
    return -1;
}

int main(int argc, char **argv) {
    static const char *const devices[] = {"auto", "cpu", "cuda"}, *const dtypes[] = {"fp32", "tf32", "bf16",
                                                                                     "fp32-simt", "fp32-tc"};
    static const char *const names[] = {"rows", "attention", "products", "weights", "shapes"};
    lp_device_options options = {.device = LP_USE_CPU};
    int parts = 31; /* bits, of names */
    conformance state = {0}, *c = &state;
    for (int i = 1; i < argc; i++) {
        int device = choice(argv[i], devices, 3), dtype = choice(argv[i], dtypes, 5), part = choice(argv[i], names, 5);
        if (device > 0) {
            options.device = (lp_device_use)device;
        } else if (dtype >= 0) {
            options.dtype = (lp_dtype_use)dtype;
        } else if (part >= 0) {
            parts = (parts == 31 ? 0 : parts) | 1 << part;
        } else if (strcmp(argv[i], "small") == 0) {
            c->small = true;
        } else if (strcmp(argv[i], "verbose") == 0) {
            lp_log_setup(LP_LOG_DEBUG, 0, 1);
        } else {
            fprintf(stderr, "usage: lp_conformance [cpu|cuda] [fp32|tf32|bf16|fp32-simt|fp32-tc] [small] [verbose] "
                            "[rows] [attention] [products] [weights] [shapes]\n");
            return 2;
        }
    }
    lp_status status = lp_backend_open(&options, &c->be, &c->err);
    if (status == LP_ERR_UNSUPPORTED && options.device == LP_USE_CUDA) {
        printf("skipped: no CUDA device (%s)\n", c->err.text);
        return 77;
    }
    if (status != LP_OK) die("lp_backend_open", c->err.text);
    c->dtype = options.dtype;
    printf("%s: %s\n", c->be->name, c->be->description);
    if (parts & 1) check_rows(c);
    if (parts & 2) conformance_attention(c);
    if (parts & 4) check_linears(c);
    if (parts & 8) conformance_weights(c);
    if (parts & 16) conformance_shapes(c);
    conformance_true(c, c->be->counters.n_unaligned_products == 0,
                     "%llu shapes of products got a kernel for operands at any address",
                     (unsigned long long)c->be->counters.n_unaligned_products);
    lp_backend_free(c->be);
    printf("%d checks, %d failed\n", c->n_checks, c->n_failed);
    return c->n_failed ? 1 : 0;
}
