/* Row kernels. Sums run in sixteen lanes that are folded in a fixed order at the end: that is what vector units want,
 * and the same on each of them. exp is a polynomial of our own, because the C library's is neither vectorised nor the
 * same everywhere. */
#include "backend/cpu/cpu.h"

#include <math.h>

enum { LANES = 16 };

static inline __attribute__((always_inline)) float fold(const float lanes[LANES]) {
    float half[8];
    for (int i = 0; i < 8; i++) half[i] = lanes[i] + lanes[i + 8];
    float quarter[4];
    for (int i = 0; i < 4; i++) quarter[i] = half[i] + half[i + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

/* exp(x), relative error below 2e-7 for -87 <= x <= 88, outside of which x is taken as the nearest of them: x = n ln 2
 * + r with |r| <= ln 2 / 2, exp(r) by its Taylor polynomial of degree 7. Adding and taking away 1.5 x 2^23 rounds to a
 * whole number. Without branches, so that it vectorises. */
static inline __attribute__((always_inline)) float exponential(float x) {
    float clamped = x < -87.0f ? -87.0f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    float whole = (clamped * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float r = clamped - whole * 0.693359375f;
    r = r - whole * -2.12194440e-4f;
    float p = 1.9841270e-4f;
    p = p * r + 1.3888889e-3f;
    p = p * r + 8.3333333e-3f;
    p = p * r + 4.1666667e-2f;
    p = p * r + 1.6666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {.bits = ((int32_t)whole + 127) << 23};
    return p * power.value;
}

LP_VERSIONS float lp_cpu_exponentials(const float *x, float shift, int32_t n, float *out) {
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) {
            float e = exponential(x[i + k] - shift);
            out[i + k] = e;
            lanes[k] += e;
        }
    for (int k = 0; i < n; i++, k++) {
        out[i] = exponential(x[i] - shift);
        lanes[k] += out[i];
    }
    return fold(lanes);
}

LP_VERSIONS void lp_cpu_layer_norm(const float *x, const float *weight, const float *bias, float eps, int32_t width,
                                   float *y) {
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k];
    for (int k = 0; i < width; i++, k++) lanes[k] += x[i];
    float mean = fold(lanes) / (float)width;
    for (int k = 0; k < LANES; k++) lanes[k] = 0;
    for (i = 0; i + LANES <= width; i += LANES)
        for (int k = 0; k < LANES; k++) {
            float d = x[i + k] - mean;
            lanes[k] += d * d;
        }
    for (int k = 0; i < width; i++, k++) lanes[k] += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(fold(lanes) / (float)width + eps);
    for (i = 0; i < width; i++) y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

LP_VERSIONS void lp_cpu_rms_norm(const float *x, const float *weight, float eps, int32_t width, float *y) {
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= width; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k] * x[i + k];
    for (int k = 0; i < width; i++, k++) lanes[k] += x[i] * x[i];
    float scale = 1.0f / sqrtf(fold(lanes) / (float)width + eps);
    for (i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

/* Of GELU and SiLU: y = x / (1 + exp(-2u)), because 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)). The exponentials of many
 * numbers first, in a loop of their own: where the compiler sees the division beside the clamp of `exponential` it
 * divides by the clamped value for all numbers, and that gives denormals, on which a processor takes ten times as long.
 * y may be x. */
enum { BATCH = 128 };

static inline __attribute__((always_inline)) float gelu_exponent(float x) {
    return -2.0f * (0.7978845608028654f * (x + 0.044715f * x * x * x));
}

LP_VERSIONS static void exponentials_of_negatives(lp_activation kind, const float *x, int32_t n, float *out) {
    if (kind == LP_ACT_GELU_TANH)
        for (int32_t i = 0; i < n; i++) out[i] = exponential(gelu_exponent(x[i]));
    else
        for (int32_t i = 0; i < n; i++) out[i] = exponential(-x[i]);
}

LP_VERSIONS static void divide(const float *x, const float *exponentials, const float *up, int32_t n, float *y) {
    if (up) {
#pragma omp simd
        for (int32_t i = 0; i < n; i++) y[i] = x[i] / (1.0f + exponentials[i]) * up[i];
    } else {
#pragma omp simd
        for (int32_t i = 0; i < n; i++) y[i] = x[i] / (1.0f + exponentials[i]);
    }
}

void lp_cpu_activate(lp_activation kind, bool gated, const float *x, int32_t width, float *y) {
    const float *up = gated ? x + width : NULL;
    float exponentials[BATCH];
    if (kind == LP_ACT_GELU_ERF) {
        for (int32_t i = 0; i < width; i++) {
            float value = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678118654752f));
            y[i] = up ? value * up[i] : value;
        }
        return;
    }
    for (int32_t at = 0; at < width; at += BATCH) {
        int32_t n = width - at < BATCH ? width - at : BATCH;
        exponentials_of_negatives(kind, x + at, n, exponentials);
        divide(x + at, exponentials, up ? up + at : NULL, n, y + at);
    }
}

LP_VERSIONS void lp_cpu_add(float *x, const float *y, int32_t width) {
    for (int32_t i = 0; i < width; i++) x[i] += y[i];
}

/* remove, keep, swap: 5, 6, 7 */
static void edit_in_subspace(float *x, const lp_row_edit *edit, const float *vector, const float *directions) {
    int32_t n = edit->n_directions, width = edit->width;
    double at[LP_MAX_EDIT_DIRECTIONS];
    for (int32_t j = 0; j < n; j++) {
        const float *direction = directions + (int64_t)j * width;
        at[j] = 0;
        for (int32_t i = 0; i < width; i++) {
            double from = edit->operation == 7 ? (double)x[i] - (double)vector[i] : (double)x[i];
            at[j] += from * (double)direction[i];
        }
    }
    for (int32_t i = 0; i < width; i++) {
        double part = 0;
        for (int32_t j = 0; j < n; j++) part += at[j] * (double)directions[(int64_t)j * width + i];
        x[i] = (float)(edit->operation == 6 ? part : (double)x[i] - part);
    }
}

/* The operations of lp_operation, by their number: replace, add, scale, lerp; remove, keep, swap from 5 on. */
void lp_cpu_edit(float *x, const lp_row_edit *edit, const float *vectors) {
    const float *vector = vectors + edit->vector;
    float f = edit->factor;
    if (edit->operation >= 5) {
        edit_in_subspace(x, edit, vector, vectors + edit->directions);
        return;
    }
    switch (edit->operation) {
    case 0: memcpy(x, vector, (size_t)edit->width * sizeof *x); break;
    case 1:
        for (int32_t i = 0; i < edit->width; i++) x[i] = x[i] + f * vector[i];
        break;
    case 2:
        for (int32_t i = 0; i < edit->width; i++) x[i] = f * x[i];
        break;
    default:
        for (int32_t i = 0; i < edit->width; i++) x[i] = (1.0f - f) * x[i] + f * vector[i];
    }
}

/* The largest of n <= ARGMAX_BLOCK numbers; NaN is larger than nothing. */
enum { ARGMAX_BLOCK = 1024 };
static inline __attribute__((always_inline)) float largest(const float *x, int32_t n) {
    float lanes[LANES];
    for (int k = 0; k < LANES; k++) lanes[k] = -INFINITY;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] = x[i + k] > lanes[k] ? x[i + k] : lanes[k];
    for (; i < n; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    float most = lanes[0];
    for (int k = 1; k < LANES; k++) most = lanes[k] > most ? lanes[k] : most;
    return most;
}

/* The first block that holds the largest number, then its place there: the row is read once. */
LP_VERSIONS int32_t lp_cpu_argmax(const float *x, int32_t n) {
    float most = -INFINITY;
    int32_t block = 0;
    for (int32_t at = 0; at < n; at += ARGMAX_BLOCK) {
        float here = largest(x + at, n - at < ARGMAX_BLOCK ? n - at : ARGMAX_BLOCK);
        if (here > most) {
            most = here;
            block = at;
        }
    }
    for (int32_t i = block; i < n; i++)
        if (x[i] == most) return i;
    return 0;
}

static double log_sum_exp(const float *x, int32_t n) {
    double most = (double)x[lp_cpu_argmax(x, n)], sum = 0;
    for (int32_t i = 0; i < n; i++) sum += exp((double)x[i] - most);
    return most + log(sum);
}

void lp_cpu_top(const float *x, int32_t n, int32_t top, int32_t *tokens, float *log_probability) {
    int32_t found = 0;
    for (int32_t id = 0; id < n; id++) {
        if (isnan(x[id]) || (found == top && !(x[id] > x[tokens[top - 1]]))) continue;
        int32_t at = found < top ? found++ : top - 1;
        for (; at > 0 && x[id] > x[tokens[at - 1]]; at--) tokens[at] = tokens[at - 1];
        tokens[at] = id;
    }
    double sum = log_sum_exp(x, n);
    for (int32_t k = 0; k < top; k++) {
        if (k >= found) tokens[k] = 0;
        log_probability[k] = k < found ? (float)((double)x[tokens[k]] - sum) : NAN;
    }
}

void lp_cpu_read_logits(const float *x, const float *base, int32_t n, const int32_t *token, lp_logit_stats *out) {
    *out = (lp_logit_stats){.log_sum = log_sum_exp(x, n), .kl = NAN, .logit = {NAN, NAN}};
    for (int k = 0; k < 2; k++)
        if (token[k] >= 0) out->logit[k] = (double)x[token[k]];
    if (!base) return;
    double before = log_sum_exp(base, n), kl = 0;
    for (int32_t i = 0; i < n; i++) {
        double p = (double)base[i] - before;
        kl += exp(p) * (p - ((double)x[i] - out->log_sum));
    }
    out->kl = kl;
}
