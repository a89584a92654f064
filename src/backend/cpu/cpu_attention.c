/* Attention of ragged rows over [shared prompt + own tail], one (row, KV head) at a time: the query heads of a KV head
 * share its keys and values. Scores are dot products in sixteen lanes; the weighted sum of values runs over positions
 * in order. */
#include "backend/cpu/cpu.h"

#include "base/memory.h"

#include <math.h>
#include <omp.h>

enum { LANES = 16, MAX_STACK_SCORES = 4096 };

static inline __attribute__((always_inline)) float dot(const float *a, const float *b, int32_t n) {
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += a[i + k] * b[i + k];
    for (int k = 0; i < n; i++, k++) lanes[k] += a[i] * b[i];
    float half[8];
    for (int k = 0; k < 8; k++) half[k] = lanes[k] + lanes[k + 8];
    float quarter[4];
    for (int k = 0; k < 4; k++) quarter[k] = half[k] + half[k + 4];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

/* scores [group, stride]: of one key with the queries of its group */
LP_VERSIONS static void score_keys(const float *q, int32_t group, int32_t head_dim, const float *keys,
                                   int64_t key_stride, int32_t n, float scale, float *scores, int32_t stride) {
    for (int32_t p = 0; p < n; p++)
        for (int32_t g = 0; g < group; g++)
            scores[g * stride + p] = dot(q + g * head_dim, keys + p * key_stride, head_dim) * scale;
}

LP_VERSIONS static void add_values(const float *weights, int32_t stride, int32_t group, int32_t head_dim,
                                   const float *values, int64_t value_stride, int32_t n, float *out) {
    for (int32_t p = 0; p < n; p++)
        for (int32_t g = 0; g < group; g++) {
            float w = weights[g * stride + p];
            const float *v = values + p * value_stride;
            float *o = out + g * head_dim;
            for (int32_t i = 0; i < head_dim; i++) o[i] += w * v[i];
        }
}

/* One row, one KV head. scores [group, stride >= length] is scratch. */
static void attend_one(const lp_model_config *config, const float *q, const lp_row_table *rows, int32_t r,
                       const float *keys, const float *values, int32_t width, float *scores, int32_t stride,
                       float *out) {
    int32_t hd = config->head_dim;
    int32_t group = config->n_heads / config->n_kv_heads;
    int32_t n_prompt = rows->prompt_length[r], n_tail = rows->tail_length[r];
    const int32_t *tail = rows->tail + rows->tail_begin[r];
    int64_t begin = (int64_t)rows->prompt_begin[r] * width;
    float scale = 1.0f / sqrtf((float)hd);
    score_keys(q, group, hd, keys + begin, width, n_prompt, scale, scores, stride);
    for (int32_t t = 0; t < n_tail; t++)
        score_keys(q, group, hd, keys + (int64_t)tail[t] * width, width, 1, scale, scores + n_prompt + t, stride);
    int32_t n = n_prompt + n_tail;
    for (int32_t g = 0; g < group; g++) {
        float *s = scores + (int64_t)g * stride;
        float most = s[0];
        for (int32_t p = 1; p < n; p++) most = s[p] > most ? s[p] : most;
        float total = lp_cpu_exponentials(s, most, n, s);
        float inverse = 1.0f / total;
        for (int32_t p = 0; p < n; p++) s[p] *= inverse;
    }
    memset(out, 0, (size_t)(group * hd) * sizeof *out);
    add_values(scores, stride, group, hd, values + begin, width, n_prompt, out);
    for (int32_t t = 0; t < n_tail; t++)
        add_values(scores + n_prompt + t, stride, group, hd, values + (int64_t)tail[t] * width, width, 1, out);
}

lp_status lp_cpu_attend(lp_backend *be, const lp_model_config *config, const float *qkv, const lp_row_table *rows,
                        int32_t n, const lp_kv_pool *pool, int32_t layer, float *out, lp_error *err) {
    int32_t hd = config->head_dim;
    int32_t group = config->n_heads / config->n_kv_heads;
    int32_t q_width = config->n_heads * hd;
    int64_t qkv_width = q_width + 2 * (int64_t)pool->width;
    int64_t layer_at = (int64_t)layer * pool->n_slots * pool->width;
    const float *keys = pool->keys + layer_at, *values = pool->values + layer_at;
    int32_t longest = 1;
    for (int32_t r = 0; r < n; r++) {
        int32_t length = rows->prompt_length[r] + rows->tail_length[r];
        if (length > longest) longest = length;
    }
    int32_t stride = (longest + LANES - 1) / LANES * LANES;
    float *scratch = NULL;
    lp_status status = LP_OK;
    int32_t threads = lp_cpu_threads(be);
    size_t each = (size_t)group * (size_t)stride;
    bool on_stack = each <= MAX_STACK_SCORES;
    if (!on_stack) LP_TRY(lp_mem_new(&scratch, each * (size_t)threads, sizeof(float), "attention scores", err));
#pragma omp parallel for num_threads(lp_cpu_team(be, n, (int64_t)q_width *longest / 8)) schedule(static)
    for (int32_t r = 0; r < n; r++) {
        float local[MAX_STACK_SCORES];
        float *scores = on_stack ? local : scratch + each * (size_t)omp_get_thread_num();
        for (int32_t h = 0; h < config->n_kv_heads; h++)
            attend_one(config, qkv + r * qkv_width + (int64_t)h * group * hd, rows, r, keys + (int64_t)h * hd,
                       values + (int64_t)h * hd, pool->width, scores, stride,
                       out + (int64_t)r * q_width + (int64_t)h * group * hd);
    }
out:
    lp_mem_free(scratch);
    return status;
}

static void rotate(float *x, const float *c, const float *s, int32_t half) {
    for (int32_t i = 0; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * c[i] - b * s[i];
        x[i + half] = b * c[i] + a * s[i];
    }
}

lp_status lp_cpu_store_kv(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                          int32_t n, const float *cosine, const float *sine, const lp_kv_pool *pool, int32_t layer,
                          lp_error *err) {
    (void)err;
    int32_t hd = config->head_dim, half = hd / 2;
    int32_t q_width = config->n_heads * hd;
    int64_t qkv_width = q_width + 2 * (int64_t)pool->width;
    int64_t layer_at = (int64_t)layer * pool->n_slots * pool->width;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, qkv_width)) schedule(static)
    for (int32_t r = 0; r < n; r++) {
        float *row = qkv + r * qkv_width;
        int64_t at = (int64_t)rows->position[r] * half;
        for (int32_t h = 0; cosine && h < config->n_heads + config->n_kv_heads; h++)
            rotate(row + (int64_t)h * hd, cosine + at, sine + at, half);
        int64_t slot = layer_at + (int64_t)rows->slot[r] * pool->width;
        memcpy(pool->keys + slot, row + q_width, (size_t)pool->width * sizeof(float));
        memcpy(pool->values + slot, row + q_width + pool->width, (size_t)pool->width * sizeof(float));
    }
    return LP_OK;
}
