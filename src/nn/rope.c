#include "nn/rope.h"

#include "base/memory.h"

#include <math.h>

/* Formulas: transformers' modeling_rope_utils, default, linear and llama3. */
static float scaled_frequency(const lp_model_config *config, float frequency) {
    if (config->rope == LP_ROPE_LINEAR) return frequency / (float)config->rope_factor;
    if (config->rope != LP_ROPE_LLAMA3) return frequency;
    const float two_pi = 6.28318530717958647692f;
    float factor = (float)config->rope_factor;
    float low = (float)config->rope_low_freq_factor;
    float high = (float)config->rope_high_freq_factor;
    float context = (float)config->rope_original_context;
    float wavelength = two_pi / frequency;
    if (wavelength > context / low) return frequency / factor;
    if (wavelength < context / high) return frequency;
    float smooth = (context / wavelength - low) / (high - low);
    return (1.0f - smooth) * frequency / factor + smooth * frequency;
}

lp_status lp_rope_init(const lp_model_config *config, int32_t n_positions, lp_rope *out, lp_error *err) {
    lp_rope rope = {.half = config->head_dim / 2, .n_positions = n_positions};
    lp_status status = LP_OK;
    if (config->rope == LP_ROPE_NONE) {
        *out = (lp_rope){0};
        return LP_OK;
    }
    size_t n = (size_t)n_positions * (size_t)rope.half;
    LP_TRY(lp_mem_new(&rope.cosine, n, sizeof *rope.cosine, "rope table", err));
    LP_TRY(lp_mem_new(&rope.sine, n, sizeof *rope.sine, "rope table", err));
    for (int32_t i = 0; i < rope.half; i++) {
        float exponent = (float)(2 * i) / (float)config->head_dim;
        float frequency = scaled_frequency(config, 1.0f / powf((float)config->rope_theta, exponent));
        for (int32_t p = 0; p < n_positions; p++) {
            float angle = (float)p * frequency;
            rope.cosine[(size_t)p * (size_t)rope.half + (size_t)i] = cosf(angle);
            rope.sine[(size_t)p * (size_t)rope.half + (size_t)i] = sinf(angle);
        }
    }
    *out = rope;
    return LP_OK;
out:
    lp_rope_release(&rope);
    return status;
}

void lp_rope_release(lp_rope *rope) {
    lp_mem_free(rope->cosine);
    lp_mem_free(rope->sine);
    *rope = (lp_rope){0};
}

void lp_rope_rotate(const lp_rope *rope, int32_t position, float *x) {
    LP_ASSERT(position >= 0 && position < rope->n_positions);
    const float *c = rope->cosine + (size_t)position * (size_t)rope->half;
    const float *s = rope->sine + (size_t)position * (size_t)rope->half;
    for (int32_t i = 0; i < rope->half; i++) {
        float a = x[i];
        float b = x[i + rope->half];
        x[i] = a * c[i] - b * s[i];
        x[i + rope->half] = b * c[i] + a * s[i];
    }
}
