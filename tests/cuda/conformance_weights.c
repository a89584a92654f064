/* Weights that the device makes of stored tensors, against sums in double precision. */
#include "base/memory.h"
#include "cuda/conformance.h"
#include "model/weight_source.h"

#include <math.h>

/* How a tensor lies in its file. TURNED: column by column; GAPPED: with something else after each row. */
typedef enum { IN_ONE_RUN, TURNED, GAPPED } lying;

typedef struct {
    int64_t n_in, n_out;
    lp_layout layout;
    lp_dtype type, lora_type;
    lying lies, lora_lies;
    int64_t rank; /* 0: no LoRA */
    lp_widen_rounding rounding;
} weights_case;

/* A tensor and its values. */
typedef struct {
    lp_tensor tensor;
    float *values; /* [rows, columns] */
    unsigned char *bytes;
} stored;

enum { GAP = 5, ODD = 1 }; /* tensors of files begin at any address */

static void put(const stored *s, int64_t i, int64_t j, float value) {
    const lp_tensor *t = &s->tensor;
    size_t item = lp_dtype_bytes(t->dtype);
    unsigned char *at = s->bytes + ODD + (size_t)(i * t->strides[0] + j * t->strides[1]) * item;
    uint16_t half = t->dtype == LP_F16 ? lp_f32_to_f16(value) : lp_f32_to_bf16(value);
    if (t->dtype == LP_F32)
        memcpy(at, &value, item);
    else
        memcpy(at, &half, item);
    lp_to_f32(at, t->dtype, s->values + i * t->shape[1] + j, 1);
}

static void stored_make(stored *s, const char *name, lp_dtype type, lying lies, int64_t rows, int64_t columns,
                        uint32_t stream) {
    int64_t row_step = lies == TURNED ? 1 : lies == GAPPED ? columns + GAP : columns;
    int64_t column_step = lies == TURNED ? rows : 1;
    float *drawn = conformance_normal(stream, (size_t)(rows * columns));
    *s = (stored){.values = conformance_zeros((size_t)(rows * columns) * sizeof(float)),
                  .bytes = conformance_zeros((size_t)(rows * (columns + GAP)) * lp_dtype_bytes(type) + ODD)};
    s->tensor = (lp_tensor){.name = (char *)(uintptr_t)name,
                            .file = "weights.bin",
                            .dtype = type,
                            .n_dims = 2,
                            .shape = {rows, columns},
                            .strides = {row_step, column_step},
                            .n_elements = rows * columns,
                            .data = s->bytes + ODD};
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) put(s, i, j, drawn[i * columns + j]);
    lp_mem_free(drawn);
}

static void stored_release(stored *s) {
    lp_mem_free(s->values);
    lp_mem_free(s->bytes);
}

typedef struct {
    stored base, a, b;
    lp_weight_source source;
    lp_matrix matrix;
} made_of;

static const float SCALE = 0.37f;

static void made_of_make(made_of *m, const weights_case *k, uint32_t stream) {
    bool in_out = k->layout == LP_IN_OUT;
    *m = (made_of){0};
    stored_make(&m->base, "base.weight", k->type, k->lies, in_out ? k->n_in : k->n_out, in_out ? k->n_out : k->n_in,
                stream);
    m->source = (lp_weight_source){.tensor = &m->base.tensor, .rounding = k->rounding};
    if (k->rank > 0) {
        stored_make(&m->a, "lora_A.weight", k->lora_type, k->lora_lies, k->rank, k->n_in, stream + 1);
        stored_make(&m->b, "lora_B.weight", k->lora_type, k->lora_lies, k->n_out, k->rank, stream + 2);
        m->source.lora_a = &m->a.tensor;
        m->source.lora_b = &m->b.tensor;
        m->source.scale = SCALE;
    }
    m->matrix = (lp_matrix){.source = &m->source, .n_in = k->n_in, .n_out = k->n_out, .layout = k->layout};
}

static void made_of_release(made_of *m) {
    stored_release(&m->base);
    stored_release(&m->a);
    stored_release(&m->b);
}

static double expected(const weights_case *k, const made_of *m, int64_t in, int64_t out) {
    int64_t at = k->layout == LP_IN_OUT ? in * k->n_out + out : out * k->n_in + in;
    float base = m->base.values[at];
    double sum = 0;
    if (k->rounding == LP_WIDEN_THROUGH_F16) base = lp_round_f16(base);
    for (int64_t r = 0; r < k->rank; r++)
        sum += (double)m->b.values[out * k->rank + r] * (double)m->a.values[r * k->n_in + in];
    return (double)base + (double)SCALE * sum;
}

/* The matrix, and a linear layer of it. values [n_in, n_out] = what the device made. */
static void check_matrix(conformance *c, const weights_case *k, const made_of *m, float *values) {
    size_t n = (size_t)(k->n_in * k->n_out);
    float *got = conformance_zeros(n * sizeof *got);
    double *want = conformance_zeros(n * sizeof *want);
    const float *dev = NULL;
    RUN(c->be->matrix_new(c->be, &m->matrix, &dev, &c->err));
    conformance_fetch(c, got, dev, n * sizeof *got);
    for (int64_t i = 0; i < k->n_in; i++)
        for (int64_t o = 0; o < k->n_out; o++) {
            int64_t at = k->layout == LP_IN_OUT ? i * k->n_out + o : o * k->n_in + i;
            want[at] = expected(k, m, i, o);
            values[i * k->n_out + o] = got[at];
        }
    /* A sum of float32 products loses at most rank + 2 roundings of its largest part; none without LoRA. */
    double bound = k->rank > 0 ? (double)(k->rank + 2) * 6e-8 : 0;
    conformance_near(c, got, want, n, bound, "weights %lld x %lld, layout %d, %s lying %d, rank %lld of %s lying %d",
                     (long long)k->n_in, (long long)k->n_out, (int)k->layout, lp_dtype_name(k->type), (int)k->lies,
                     (long long)k->rank, lp_dtype_name(k->lora_type), (int)k->lora_lies);
    c->be->vector_free(c->be, dev);
    lp_mem_free(got);
    lp_mem_free(want);
}

static float rounded_as(const conformance *c, float x) {
    return c->dtype == LP_USE_BF16 ? lp_bf16_to_f32(lp_f32_to_bf16(x)) : x;
}

/* The product of the unit matrix and a layer of all cases side by side gives the weights that it holds. */
static void check_layer(conformance *c, const weights_case *cases, int n_parts) {
    made_of parts[3];
    float *values[3] = {NULL};
    lp_linear host = {.n_parts = n_parts, .n_in = cases[0].n_in};
    for (int p = 0; p < n_parts; p++) {
        made_of_make(&parts[p], &cases[p], (uint32_t)(20 + 3 * p));
        values[p] = conformance_zeros((size_t)(cases[p].n_in * cases[p].n_out) * sizeof(float));
        check_matrix(c, &cases[p], &parts[p], values[p]);
        host.part[p] = parts[p].matrix;
        host.n_out += cases[p].n_out;
    }
    size_t in = (size_t)host.n_in, out = (size_t)host.n_out;
    float *unit = conformance_zeros(in * in * sizeof(float)), *got = conformance_zeros(in * out * sizeof(float));
    float *want = conformance_zeros(in * out * sizeof(float));
    double *near = conformance_zeros(in * out * sizeof(double));
    for (size_t i = 0; i < in; i++) unit[i * in + i] = 1.0f;
    for (size_t i = 0; i < in; i++)
        for (size_t p = 0, at = i * out; p < (size_t)n_parts; p++)
            for (int64_t o = 0; o < cases[p].n_out; o++, at++) {
                want[at] = rounded_as(c, values[p][(int64_t)i * cases[p].n_out + o]);
                near[at] = (double)want[at];
            }
    lp_backend_linear *w = NULL;
    uint64_t held = c->be->counters.weight_bytes;
    RUN(c->be->linear_new(c->be, &host, &w, &c->err));
    float *dev_x = conformance_floats(c, unit, in * in, in), *dev_y = conformance_floats(c, NULL, in * out, out);
    RUN(c->be->linear(c->be, w, LP_FLOATS, dev_x, (int32_t)in, dev_y, &c->err));
    conformance_fetch(c, got, dev_y, in * out * sizeof(float));
    if (c->dtype == LP_USE_TF32 || c->dtype == LP_USE_FP32_TC)
        conformance_near(c, got, near, in * out, c->dtype == LP_USE_TF32 ? 1e-3 : 2.4e-7,
                         "layer of %d parts, %zu x %zu", n_parts, in, out);
    else
        conformance_same(c, got, want, in * out * sizeof(float), "layer of %d parts, %zu x %zu", n_parts, in, out);
    c->be->linear_free(c->be, w);
    conformance_true(c, c->be->counters.weight_bytes == held, "layer of %d parts: %llu bytes of weights stay", n_parts,
                     (unsigned long long)(c->be->counters.weight_bytes - held));
    c->be->release(c->be, dev_x);
    c->be->release(c->be, dev_y);
    void *blocks[] = {unit, got, want, near};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
    for (int p = 0; p < n_parts; p++) {
        lp_mem_free(values[p]);
        made_of_release(&parts[p]);
    }
}

/* An embedding that is the output head too goes up once. */
static void check_tied(conformance *c) {
    const weights_case k = {.n_in = 40, .n_out = 300, .layout = LP_OUT_IN, .type = LP_BF16};
    made_of m;
    made_of_make(&m, &k, 40);
    lp_linear head = {.part = {m.matrix}, .n_parts = 1, .n_in = k.n_in, .n_out = k.n_out};
    lp_backend_linear *w = NULL;
    const float *embedding = NULL;
    uint64_t up = c->be->counters.bytes_up, held = c->be->counters.weight_bytes;
    RUN(c->be->matrix_new(c->be, &m.matrix, &embedding, &c->err));
    RUN(c->be->linear_new(c->be, &head, &w, &c->err));
    up = c->be->counters.bytes_up - up;
    held = c->be->counters.weight_bytes - held;
    /* Rows up to a multiple of 64. */
    uint64_t n = (uint64_t)(k.n_in * k.n_out), rows = 320, padded = (uint64_t)k.n_in * rows;
    uint64_t expected_held = padded * (c->dtype == LP_USE_BF16 ? 6 : c->dtype == LP_USE_FP32_TC ? 8 : 4);
    if (c->dtype == LP_USE_FP32_TC) expected_held += rows * sizeof(int32_t);
    conformance_true(c, up == 2 * n, "tied head: %llu bytes went up, expected %llu", (unsigned long long)up,
                     (unsigned long long)(2 * n));
    conformance_true(c, held == expected_held, "tied head: %llu bytes are held, expected %llu",
                     (unsigned long long)held, (unsigned long long)expected_held);
    c->be->linear_free(c->be, w);
    c->be->vector_free(c->be, embedding);
    made_of_release(&m);
}

typedef enum { IN_BASE, IN_A, IN_B } place_of_value;

/* A value somewhere in one of the tensors: the layer is refused, and names it. */
static void check_refused(conformance *c) {
    static const struct {
        place_of_value where;
        float value;
        lp_dtype type;
        lp_widen_rounding rounding;
        const char *message;
    } cases[] = {
        {IN_BASE, NAN, LP_F32, LP_WIDEN_EXACT, "weights.bin: tensor \"base.weight\" holds NaN or infinity"},
        {IN_BASE, INFINITY, LP_F16, LP_WIDEN_EXACT, "weights.bin: tensor \"base.weight\" holds NaN or infinity"},
        {IN_A, NAN, LP_BF16, LP_WIDEN_EXACT, "weights.bin: tensor \"lora_A.weight\" holds NaN or infinity"},
        {IN_B, -INFINITY, LP_F32, LP_WIDEN_EXACT, "weights.bin: tensor \"lora_B.weight\" holds NaN or infinity"},
        {IN_BASE, 65520.0f, LP_F32, LP_WIDEN_THROUGH_F16,
         "weights.bin: tensor \"base.weight\" becomes infinite when it is rounded or merged with its LoRA update"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int layout = LP_IN_OUT; layout <= LP_OUT_IN; layout++) {
            const weights_case k = {.n_in = 70,
                                    .n_out = 130,
                                    .layout = (lp_layout)layout,
                                    .type = cases[i].type,
                                    .lora_type = cases[i].type,
                                    .rank = 19,
                                    .rounding = cases[i].rounding};
            made_of m;
            made_of_make(&m, &k, 50);
            const stored *bad = cases[i].where == IN_A ? &m.a : cases[i].where == IN_B ? &m.b : &m.base;
            put(bad, bad->tensor.shape[0] - 1, bad->tensor.shape[1] - 1, cases[i].value);
            lp_linear host = {.part = {m.matrix}, .n_parts = 1, .n_in = k.n_in, .n_out = k.n_out};
            lp_backend_linear *w = NULL;
            lp_error err = {0};
            uint64_t held = c->be->counters.weight_bytes;
            lp_status status = c->be->linear_new(c->be, &host, &w, &err);
            conformance_true(c, status == LP_ERR_VALUE && strcmp(err.text, cases[i].message) == 0,
                             "refusal %zu: got status %d \"%s\", expected %d \"%s\"", i, (int)status, err.text,
                             (int)LP_ERR_VALUE, cases[i].message);
            conformance_true(c, c->be->counters.weight_bytes == held, "refusal %zu: weights stay on the device", i);
            made_of_release(&m);
        }
}

void conformance_weights(conformance *c) {
    static const weights_case qkv[] = {
        {48, 96, LP_OUT_IN, LP_BF16, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 16, LP_WIDEN_EXACT},
        {48, 33, LP_OUT_IN, LP_F16, LP_BF16, TURNED, GAPPED, 16, LP_WIDEN_EXACT},
        {48, 32, LP_OUT_IN, LP_F32, LP_F16, GAPPED, TURNED, 5, LP_WIDEN_THROUGH_F16},
    };
    static const weights_case turned[] = {
        {37, 71, LP_IN_OUT, LP_F16, LP_F32, IN_ONE_RUN, TURNED, 33, LP_WIDEN_EXACT},
        {37, 65, LP_IN_OUT, LP_BF16, LP_BF16, GAPPED, IN_ONE_RUN, 1, LP_WIDEN_EXACT},
        {37, 8, LP_IN_OUT, LP_F32, LP_F16, TURNED, GAPPED, 0, LP_WIDEN_THROUGH_F16},
    };
    static const weights_case alone[] = {
        {1, 1, LP_OUT_IN, LP_F32, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 1, LP_WIDEN_EXACT},
        {130, 70, LP_OUT_IN, LP_BF16, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 128, LP_WIDEN_EXACT},
        {130, 70, LP_IN_OUT, LP_BF16, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 128, LP_WIDEN_EXACT},
        {64, 64, LP_OUT_IN, LP_F32, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 0, LP_WIDEN_EXACT},
        {64, 64, LP_IN_OUT, LP_F16, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 0, LP_WIDEN_THROUGH_F16},
    };
    /* More bytes than go up at once. */
    static const weights_case pieces[] = {
        {1030, 4110, LP_OUT_IN, LP_F32, LP_BF16, IN_ONE_RUN, IN_ONE_RUN, 2, LP_WIDEN_EXACT},
        {4110, 1030, LP_IN_OUT, LP_F32, LP_F32, IN_ONE_RUN, IN_ONE_RUN, 2, LP_WIDEN_EXACT},
        {4110, 1030, LP_IN_OUT, LP_BF16, LP_F32, TURNED, IN_ONE_RUN, 0, LP_WIDEN_EXACT},
    };
    if (!c->be->makes_weights) return;
    check_layer(c, qkv, 3);
    check_layer(c, turned, 3);
    for (size_t i = 0; i < sizeof alone / sizeof alone[0]; i++) check_layer(c, &alone[i], 1);
    for (size_t i = 0; i < sizeof pieces / sizeof pieces[0]; i++) {
        made_of m;
        made_of_make(&m, &pieces[i], 60);
        float *values = conformance_zeros((size_t)(pieces[i].n_in * pieces[i].n_out) * sizeof *values);
        check_matrix(c, &pieces[i], &m, values);
        lp_mem_free(values);
        made_of_release(&m);
    }
    check_tied(c);
    check_refused(c);
}
