/* No product of a public model may be unaligned: cuBLASLt then falls back to kernels that are several times slower
 * (128,259 columns ran at 111 TFLOP/s on an H100, 128,264 at 738). On a device each shape's weights are made known as
 * they are, and the backend counts the shapes that got a kernel for operands at any address (`verbose` names each
 * kernel's class). The emulated device refuses what is not aligned. It gets sizes that are equal modulo 64, on which
 * alone padding and alignment depend. */
#include "cuda/conformance.h"

#include "base/memory.h"

typedef struct {
    const char *name;
    int32_t d_model, q, kv, mlp, vocabulary; /* of config.json */
    bool is_gpt2;                            /* matrices [in, out] with bias, and no gate */
} public_shape;

static const public_shape shapes[] = {
    {"gpt2", 768, 768, 768, 3072, 50257, true},
    {"gpt2-medium", 1024, 1024, 1024, 4096, 50257, true},
    {"gpt2-large", 1280, 1280, 1280, 5120, 50257, true},
    {"gpt2-xl", 1600, 1600, 1600, 6400, 50257, true},
    {"Llama-3.2-1B", 2048, 2048, 512, 8192, 128256, false},
    {"Llama-3.2-3B", 3072, 3072, 1024, 8192, 128256, false},
    {"Llama-3.1-8B", 4096, 4096, 1024, 14336, 128256, false},
    {"Mistral-7B", 4096, 4096, 1024, 14336, 32000, false},
    {"Qwen2.5-0.5B", 896, 896, 128, 4864, 151936, false},
    {"Qwen2.5-1.5B", 1536, 1536, 256, 8960, 151936, false},
    {"Qwen2.5-3B", 2048, 2048, 256, 11008, 151936, false},
    {"Qwen2.5-7B", 3584, 3584, 512, 18944, 152064, false},
    {"Qwen3-0.6B", 1024, 2048, 1024, 3072, 151936, false},
    {"Qwen3-1.7B", 2048, 2048, 1024, 6144, 151936, false},
    {"Qwen3-4B", 2560, 4096, 1024, 9728, 151936, false},
    {"Qwen3-8B", 4096, 4096, 1024, 12288, 151936, false},
};
/* Rows that checkpoints add to the vocabulary: pad, bot, eot, latent tokens, and none. */
static const int32_t added[] = {0, 1, 2, 3, 5};

static int32_t size_for(const conformance *c, int32_t size) {
    return c->small ? 64 + size % 64 : size;
}

/* Makes weights of zeros known and multiplies one row with them. */
static void check_shape(conformance *c, const public_shape *shape, const char *what, int32_t in, int32_t out,
                        bool in_out, int32_t stride_step) {
    enum { ROWS = 1 };
    const int64_t n_in = size_for(c, in), n_out = size_for(c, out);
    const size_t stride = (size_t)((n_out + stride_step - 1) / stride_step * stride_step);
    float *data = conformance_zeros((size_t)(n_in * n_out) * sizeof *data),
          *bias = conformance_zeros((size_t)n_out * sizeof *bias);
    const lp_linear host = {
        .part = {{.data = data, .n_in = n_in, .n_out = n_out, .layout = in_out ? LP_IN_OUT : LP_OUT_IN}},
        .n_parts = 1,
        .n_in = n_in,
        .n_out = n_out,
        .bias = in_out ? bias : NULL,
        .stride = (int64_t)stride};
    lp_backend_linear *w = NULL;
    const uint64_t before = c->be->counters.n_unaligned_products;
    float *x = conformance_floats(c, data, (size_t)n_in, (size_t)n_in),
          *y = conformance_floats(c, NULL, stride, stride);
    float *got = conformance_zeros((size_t)n_out * sizeof *got);
    double *want = conformance_zeros((size_t)n_out * sizeof *want);
    RUN(c->be->linear_new(c->be, &host, &w, &c->err));
    RUN(c->be->linear(c->be, w, LP_FLOATS, x, ROWS, y, &c->err));
    conformance_fetch(c, got, y, (size_t)n_out * sizeof *got);
    conformance_near(c, got, want, (size_t)n_out, 0, "%s: %s, %d x %d", shape->name, what, in, out);
    conformance_true(c, c->be->counters.n_unaligned_products == before, "%s: %s, %d x %d: an unaligned product",
                     shape->name, what, in, out);
    c->be->linear_free(c->be, w);
    c->be->release(c->be, x);
    c->be->release(c->be, y);
    void *blocks[] = {data, bias, got, want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

void conformance_shapes(conformance *c) {
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const public_shape *s = &shapes[i];
        check_shape(c, s, "q|k|v", s->d_model, s->q + 2 * s->kv, s->is_gpt2, 1);
        check_shape(c, s, "attention's output", s->q, s->d_model, s->is_gpt2, 1);
        check_shape(c, s, "the MLP's input", s->d_model, s->is_gpt2 ? s->mlp : 2 * s->mlp, s->is_gpt2, 1);
        check_shape(c, s, "the MLP's output", s->mlp, s->d_model, s->is_gpt2, 1);
        check_shape(c, s, "the projection", s->d_model, s->d_model, false, 1);
        for (size_t k = 0; k < sizeof added / sizeof added[0]; k++) {
            if (!c->small && (added[k] == 1 || added[k] == 2)) continue; /* filled up to the width of 3 */
            check_shape(c, s, "the head", s->d_model, s->vocabulary + added[k], false, 1);
            if (c->small) check_shape(c, s, "the head, rows apart", s->d_model, s->vocabulary + added[k], false, 64);
        }
    }
}
