/* Weights that a device makes of what checkpoints hold (tests/model_fixtures.py), against those that the host merges,
 * which test_model.c compares with peft's. Runs on the cuda backend that stands beside this program. */
#include "backend/device.h"
#include "base/memory.h"
#include "model/weight_source.h"
#include "nn/weights.h"

#include <math.h>
#include <setjmp.h>

#include <cmocka.h>

#define FIXTURES LP_SOURCE_DIR "/tests/fixtures/model/"

/* Both sides sum a handful of float32 products, in different orders. */
static const double MAX_RELATIVE_ERROR = 1e-6;

typedef struct {
    const char *base, *codi; /* below FIXTURES; codi NULL: a plain model */
    lp_base_rounding rounding;
} weights_case;

static const weights_case CASES[] = {
    {"gpt2-base", NULL, LP_BASE_AS_STORED},
    {"gpt2-base", "gpt2-f32.safetensors", LP_BASE_AS_STORED},
    {"gpt2-base", "gpt2-f32.safetensors", LP_BASE_FP16},
    {"gpt2-base", "gpt2-mixed.bin", LP_BASE_AS_STORED},
    {"gpt2-base", "gpt2-trained.safetensors", LP_BASE_AS_STORED},
    {"llama-base", NULL, LP_BASE_FP16},
    {"llama-base", "llama-f32.safetensors", LP_BASE_AS_STORED},
    {"llama-base", "llama-f32.safetensors", LP_BASE_FP16},
    {"llama-base", "llama-mixed.bin", LP_BASE_AS_STORED},
    {"llama-untied-base", "llama-full.bin", LP_BASE_AS_STORED},
};

static lp_error error, *err = &error;
#define OK(call)                                                                                                       \
    do {                                                                                                               \
        if ((call) != LP_OK) fail_msg("%s", err->text);                                                                \
    } while (0)

typedef struct {
    lp_model host, left;
    void *arena;
} models;

static void models_open(const weights_case *c, models *m) {
    char base[256], codi[256];
    snprintf(base, sizeof base, "%s%s", FIXTURES, c->base);
    snprintf(codi, sizeof codi, "%s%s", FIXTURES, c->codi ? c->codi : "");
    lp_model_source source = {
        .base = base, .codi = c->codi ? codi : NULL, .lora_alpha = 5, .base_rounding = c->rounding};
    OK(lp_model_load(&source, &m->host, err));
    OK(lp_model_open(&source, &m->left, err));
    lp_model_leave_matrices(&m->left);
    OK(lp_mem_new(&m->arena, m->left.arena_bytes, 1, "arena", err));
    OK(lp_model_fill(&m->left, m->arena, NULL, err));
}

static void models_close(models *m) {
    lp_model_close(&m->host);
    lp_model_close(&m->left);
    lp_mem_free(m->arena);
}

static float at(const float *data, const lp_matrix *m, int64_t in, int64_t out) {
    return data[m->layout == LP_IN_OUT ? in * m->n_out + out : out * m->n_in + in];
}

/* The host's parts and the device's may be cut differently: both are [n_in, n_out] side by side. */
static void compare(lp_backend *be, const char *what, const lp_linear *host, const lp_linear *left) {
    double worst = 0, largest = 0;
    int64_t column = 0;
    bool merged = false;
    assert_int_equal(host->n_in, left->n_in);
    assert_int_equal(host->n_out, left->n_out);
    for (int p = 0; p < left->n_parts; column += left->part[p++].n_out) {
        const lp_matrix *m = &left->part[p];
        size_t n = (size_t)(m->n_in * m->n_out);
        const float *dev = NULL;
        float *got = NULL;
        OK(lp_mem_new(&got, n, sizeof *got, "weights", err));
        OK(be->matrix_new(be, m, &dev, err));
        OK(be->download(be, got, dev, n * sizeof *got, err));
        for (int64_t o = 0; o < m->n_out; o++) {
            int64_t out = column + o;
            int q = 0;
            while (out >= host->part[q].n_out) out -= host->part[q++].n_out;
            for (int64_t i = 0; i < m->n_in; i++) {
                double want = (double)at(host->part[q].data, &host->part[q], i, out);
                worst = fmax(worst, fabs((double)at(got, m, i, o) - want));
                largest = fmax(largest, fabs(want));
            }
        }
        merged = merged || m->source->lora_a;
        be->vector_free(be, dev);
        lp_mem_free(got);
    }
    double bound = merged ? MAX_RELATIVE_ERROR : 0;
    if (!(worst <= bound * largest)) fail_msg("%s: max relative error %g, at most %g", what, worst / largest, bound);
}

static lp_linear alone(const lp_matrix *m) {
    return (lp_linear){.part = {*m}, .n_parts = 1, .n_in = m->n_in, .n_out = m->n_out};
}

static void compare_all(lp_backend *be, const weights_case *c, const models *m) {
    char what[320];
    for (int32_t l = 0; l < m->host.config.n_layers; l++) {
        const lp_block *a = &m->host.blocks[l], *b = &m->left.blocks[l];
        const struct {
            const char *name;
            const lp_linear *host, *left;
        } all[] = {{"qkv", &a->qkv, &b->qkv},
                   {"attn_out", &a->attn_out, &b->attn_out},
                   {"mlp_in", &a->mlp_in, &b->mlp_in},
                   {"mlp_out", &a->mlp_out, &b->mlp_out}};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
            snprintf(what, sizeof what, "%s, %s: block %d, %s", c->base, c->codi ? c->codi : "plain", l, all[i].name);
            compare(be, what, all[i].host, all[i].left);
        }
    }
    lp_linear tables[][2] = {{alone(&m->host.embedding), alone(&m->left.embedding)},
                             {alone(&m->host.head), alone(&m->left.head)}};
    for (size_t i = 0; i < 2; i++) compare(be, i ? "head" : "embedding", &tables[i][0], &tables[i][1]);
    if (!m->host.projection.present) return;
    compare(be, "projection, in", &m->host.projection.in, &m->left.projection.in);
    compare(be, "projection, out", &m->host.projection.out, &m->left.projection.out);
}

static void test_weights_equal_the_hosts(void **state) {
    (void)state;
    lp_backend *be = NULL;
    OK(lp_backend_open(&(lp_device_options){.device = LP_USE_CUDA}, &be, err));
    assert_true(be->makes_weights);
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        models m = {0};
        models_open(&CASES[i], &m);
        compare_all(be, &CASES[i], &m);
        models_close(&m);
    }
    assert_int_equal(be->counters.weight_bytes, 0);
    lp_backend_free(be);
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* All weights of a model, in each dtype: made from the files and from the host's values they take the same room;
 * nothing stays. */
static void test_all_at_once(void **state) {
    (void)state;
    for (int dtype = LP_USE_FP32; dtype <= LP_USE_FP32_TC; dtype++) {
        models m = {0};
        lp_backend *be = NULL;
        uint64_t held[2];
        OK(lp_backend_open(&(lp_device_options){.device = LP_USE_CUDA, .dtype = (lp_dtype_use)dtype}, &be, err));
        models_open(&CASES[1], &m);
        const lp_model *both[] = {&m.host, &m.left};
        for (size_t i = 0; i < 2; i++) {
            lp_weights *weights = NULL;
            OK(lp_weights_new(be, both[i], &weights, err));
            held[i] = be->counters.weight_bytes;
            assert_true(be->counters.bytes_up > 0);
            lp_weights_free(weights);
            assert_int_equal(be->counters.weight_bytes, 0);
        }
        assert_true(held[0] > 0);
        assert_int_equal(held[0], held[1]);
        models_close(&m);
        lp_backend_free(be);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_weights_equal_the_hosts),
                                       cmocka_unit_test(test_all_at_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
