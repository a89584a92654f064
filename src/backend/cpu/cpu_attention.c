/* Attention of ragged rows over [shared prompt + own tail], one (group of rows, KV head) at a time: the query heads of
 * a KV head share its keys and values, and the rows of a group their prompt's. Scores are dot products in sixteen
 * lanes, folded in a fixed order; the weighted sum of values runs over positions in order. For many queries the
 * prompt's keys are transposed block by block, so that vectors run over keys and no lanes are to be folded across a
 * vector: the sums are the same ones in the same order, hence the same bits. The prompt's values are copied together,
 * because one head's lie so far apart that few of them fit into the first cache at once. */
#include "backend/cpu/cpu.h"

#include "base/memory.h"
#include "base/quad.h"

#include <math.h>
#include <omp.h>

enum { LANES = 16, KEY_BLOCK = 64, KEYS_AT_ONCE = 32, CHUNK = 64, LEAST_QUERIES = 4 };

/* sums [LANES]: of the products of a and b, in lanes */
static inline __attribute__((always_inline)) void multiply_lanes(const float *a, const float *b, int32_t n,
                                                                 float *sums) {
    float lanes[LANES] = {0};
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += a[i + k] * b[i + k];
    for (int k = 0; k < LANES; k++) sums[k] = lanes[k];
    for (int k = 0; i < n; i++, k++) sums[k] += a[i] * b[i];
}

/* scores [n_queries, stride]: of n keys with the queries [n_queries, head_dim]; key p is at keys + slots[p] x
 * key_stride, or p x key_stride where slots is NULL. Lanes are folded for several keys at once, which is what the
 * compiler makes vectors of. */
LP_VERSIONS static void score_keys(const float *q, int32_t n_queries, int32_t head_dim, const float *keys,
                                   int64_t key_stride, const int32_t *slots, int32_t n, float scale, float *scores,
                                   int32_t stride) {
    float sums[LANES][16], half[LANES][8], quarter[LANES][4];
    for (int32_t first = 0; first < n; first += LANES)
        for (int32_t g = 0; g < n_queries; g++) {
            int32_t some = n - first < LANES ? n - first : LANES;
            for (int32_t p = 0; p < some; p++) {
                const float *key = keys + (slots ? slots[first + p] : first + p) * key_stride;
                multiply_lanes(q + g * head_dim, key, head_dim, sums[p]);
            }
            for (int32_t p = 0; p < some; p++)
                for (int k = 0; k < 8; k++) half[p][k] = sums[p][k] + sums[p][k + 8];
            for (int32_t p = 0; p < some; p++)
                for (int k = 0; k < 4; k++) quarter[p][k] = half[p][k] + half[p][k + 4];
            float *out = scores + g * stride + first;
            for (int32_t p = 0; p < some; p++)
                out[p] = ((quarter[p][0] + quarter[p][2]) + (quarter[p][1] + quarter[p][3])) * scale;
        }
}

/* out [head_dim, KEY_BLOCK] = the transpose of n keys, filled up with zeros. */
LP_VERSIONS static void transpose_keys(const float *keys, int64_t key_stride, int32_t n, int32_t head_dim, float *out) {
    int32_t n_quads = n / 4 * 4, i_quads = head_dim / 4 * 4;
    for (int32_t p = 0; p < n_quads; p += 4)
        for (int32_t i = 0; i < i_quads; i += 4)
            lp_transpose_quad(keys + p * key_stride + i, key_stride, KEY_BLOCK, out + i * KEY_BLOCK + p);
    for (int32_t p = 0; p < n; p++)
        for (int32_t i = p < n_quads ? i_quads : 0; i < head_dim; i++)
            out[i * KEY_BLOCK + p] = keys[p * key_stride + i];
    for (int32_t i = 0; i < head_dim; i++)
        for (int32_t p = n; p < KEY_BLOCK; p++) out[i * KEY_BLOCK + p] = 0;
}

/* Lanes k, k + 4, k + 8, k + 12 of score_keys, folded as there, of KEYS_AT_ONCE transposed keys. */
static inline __attribute__((always_inline)) void add_quarter(const float *q, int32_t head_dim, const float *keys,
                                                              int k, float *out) {
    float a[KEYS_AT_ONCE] = {0}, b[KEYS_AT_ONCE] = {0}, c[KEYS_AT_ONCE] = {0}, d[KEYS_AT_ONCE] = {0};
    for (int32_t i = k; i < head_dim; i += LANES) {
        const float *key = keys + i * KEY_BLOCK;
        for (int x = 0; x < KEYS_AT_ONCE; x++) a[x] += q[i] * key[x];
        if (i + 4 < head_dim)
            for (int x = 0; x < KEYS_AT_ONCE; x++) b[x] += q[i + 4] * key[4 * KEY_BLOCK + x];
        if (i + 8 < head_dim)
            for (int x = 0; x < KEYS_AT_ONCE; x++) c[x] += q[i + 8] * key[8 * KEY_BLOCK + x];
        if (i + 12 < head_dim)
            for (int x = 0; x < KEYS_AT_ONCE; x++) d[x] += q[i + 12] * key[12 * KEY_BLOCK + x];
    }
    for (int x = 0; x < KEYS_AT_ONCE; x++) out[x] = (a[x] + c[x]) + (b[x] + d[x]);
}

/* scores [n rounded up to KEYS_AT_ONCE]: of n transposed keys with one query; the same bits as score_keys. */
LP_VERSIONS static void score_block(const float *q, int32_t head_dim, const float *keys, int32_t n, float scale,
                                    float *scores) {
    for (int32_t p = 0; p < n; p += KEYS_AT_ONCE) {
        float even[KEYS_AT_ONCE], odd[KEYS_AT_ONCE], more[KEYS_AT_ONCE];
        add_quarter(q, head_dim, keys + p, 0, even);
        add_quarter(q, head_dim, keys + p, 2, more);
        for (int x = 0; x < KEYS_AT_ONCE; x++) even[x] += more[x];
        add_quarter(q, head_dim, keys + p, 1, odd);
        add_quarter(q, head_dim, keys + p, 3, more);
        for (int x = 0; x < KEYS_AT_ONCE; x++) scores[p + x] = (even[x] + (odd[x] + more[x])) * scale;
    }
}

/* scores [n] = softmax of them */
LP_VERSIONS static void soften(float *scores, int32_t n) {
    float lanes[LANES];
    int32_t i = 0;
    for (int k = 0; k < LANES; k++) lanes[k] = scores[0];
    for (; i + LANES <= n; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] = scores[i + k] > lanes[k] ? scores[i + k] : lanes[k];
    for (int k = 0; i < n; i++, k++) lanes[k] = scores[i] > lanes[k] ? scores[i] : lanes[k];
    float most = lanes[0];
    for (int k = 1; k < LANES; k++) most = lanes[k] > most ? lanes[k] : most;
    float inverse = 1.0f / lp_cpu_exponentials(scores, most, n, scores);
    for (i = 0; i < n; i++) scores[i] *= inverse;
}

/* What a row's weights apply to: values of the prompt's slots, one after the other, then of the tail's. */
typedef struct {
    const float *prompt, *all; /* all: of slot 0 */
    const int32_t *tail;
    int32_t n_prompt, n_tail;
    int64_t prompt_stride, stride;
} value_rows;

/* out [width] = weighted sum of columns [at, at + width) of the values, width a constant of at most CHUNK. */
static inline __attribute__((always_inline)) void weigh_chunk(const float *weights, const value_rows *rows, int32_t at,
                                                              int32_t width, float *out) {
    float sums[CHUNK] = {0};
    for (int32_t p = 0; p < rows->n_prompt; p++) {
        const float *value = rows->prompt + p * rows->prompt_stride + at;
        for (int32_t i = 0; i < width; i++) sums[i] += weights[p] * value[i];
    }
    for (int32_t t = 0; t < rows->n_tail; t++) {
        const float *value = rows->all + rows->tail[t] * rows->stride + at;
        for (int32_t i = 0; i < width; i++) sums[i] += weights[rows->n_prompt + t] * value[i];
    }
    for (int32_t i = 0; i < width; i++) out[at + i] = sums[i];
}

LP_VERSIONS static void weigh_values(const float *weights, const value_rows *rows, int32_t head_dim, float *out) {
    int32_t at = 0;
    for (; at + CHUNK <= head_dim; at += CHUNK) weigh_chunk(weights, rows, at, CHUNK, out);
    for (; at + LANES <= head_dim; at += LANES) weigh_chunk(weights, rows, at, LANES, out);
    for (; at < head_dim; at++) weigh_chunk(weights, rows, at, 1, out);
}

/* The arguments of one call, for the loops inside. */
typedef struct {
    const lp_row_table *rows;
    int32_t head_dim, n_queries; /* of a row and KV head */
    int64_t q_width, qkv_width, kv_width;
    float scale;
    int32_t stride; /* of scores */
    const float *qkv, *keys, *values;
    float *out;
} cpu_attention;

/* Scores [n_rows, n_queries, stride] of the prompt's keys with all queries of the rows, one by one. */
static void score_rows(const cpu_attention *attention, const int32_t *row, int32_t n_rows, int32_t head,
                       const float *keys, float *scores) {
    for (int32_t i = 0; i < n_rows; i++) {
        const float *q =
            attention->qkv + row[i] * attention->qkv_width + (int64_t)head * attention->n_queries * attention->head_dim;
        score_keys(q, attention->n_queries, attention->head_dim, keys, attention->kv_width, NULL,
                   attention->rows->prompt_length[row[i]], attention->scale,
                   scores + (int64_t)i * attention->n_queries * attention->stride, attention->stride);
    }
}

/* The same, with the keys transposed: `longest` of them. */
static void score_together(const cpu_attention *attention, const int32_t *row, int32_t n_rows, int32_t head,
                           const float *keys, int32_t longest, float *transposed, float *scores) {
    const lp_row_table *table = attention->rows;
    int32_t hd = attention->head_dim;
    for (int32_t first = 0; first < longest; first += KEY_BLOCK) {
        int32_t n = longest - first < KEY_BLOCK ? longest - first : KEY_BLOCK;
        transpose_keys(keys + first * attention->kv_width, attention->kv_width, n, hd, transposed);
        for (int32_t i = 0; i < n_rows * attention->n_queries; i++) {
            int32_t r = row[i / attention->n_queries];
            int32_t seen = table->prompt_length[r] - first < n ? table->prompt_length[r] - first : n;
            const float *q = attention->qkv + r * attention->qkv_width +
                             ((int64_t)head * attention->n_queries + i % attention->n_queries) * hd;
            score_block(q, hd, transposed, seen, attention->scale, scores + (int64_t)i * attention->stride + first);
        }
    }
}

LP_VERSIONS static void gather_values(const float *values, int64_t value_stride, int32_t n, int32_t head_dim,
                                      float *out) {
    for (int32_t p = 0; p < n; p++)
        for (int32_t i = 0; i < head_dim; i++) out[p * head_dim + i] = values[p * value_stride + i];
}

/* Rows [n_rows <= LP_GROUP_ROWS] that share a prompt, one KV head. scratch: see scratch_floats. */
static void attend_group(const cpu_attention *attention, const int32_t *row, int32_t n_rows, int32_t head,
                         float *scratch) {
    const lp_row_table *table = attention->rows;
    int32_t hd = attention->head_dim, longest = 0;
    int64_t prompt = table->prompt_begin[row[0]] * attention->kv_width + (int64_t)head * hd,
            prompt_stride = attention->kv_width;
    const float *prompt_values = attention->values + prompt;
    float *scores = scratch + hd * (KEY_BLOCK + (int64_t)attention->stride);
    for (int32_t i = 0; i < n_rows; i++)
        if (table->prompt_length[row[i]] > longest) longest = table->prompt_length[row[i]];
    if (n_rows * attention->n_queries >= LEAST_QUERIES) {
        float *together = scratch + (int64_t)hd * KEY_BLOCK;
        score_together(attention, row, n_rows, head, attention->keys + prompt, longest, scratch, scores);
        gather_values(prompt_values, attention->kv_width, longest, hd, together);
        prompt_values = together;
        prompt_stride = hd;
    } else {
        score_rows(attention, row, n_rows, head, attention->keys + prompt, scores);
    }
    for (int32_t i = 0; i < n_rows; i++) {
        int32_t r = row[i], n_prompt = table->prompt_length[r], n_tail = table->tail_length[r];
        int64_t first_query = (int64_t)head * attention->n_queries * hd;
        float *mine = scores + (int64_t)i * attention->n_queries * attention->stride;
        const value_rows values = {.prompt = prompt_values,
                                   .all = attention->values + (int64_t)head * hd,
                                   .tail = table->tail + table->tail_begin[r],
                                   .n_prompt = n_prompt,
                                   .n_tail = n_tail,
                                   .prompt_stride = prompt_stride,
                                   .stride = attention->kv_width};
        score_keys(attention->qkv + r * attention->qkv_width + first_query, attention->n_queries, hd,
                   attention->keys + (int64_t)head * hd, attention->kv_width, values.tail, n_tail, attention->scale,
                   mine + n_prompt, attention->stride);
        for (int32_t g = 0; g < attention->n_queries; g++) {
            soften(mine + (int64_t)g * attention->stride, n_prompt + n_tail);
            weigh_values(mine + (int64_t)g * attention->stride, &values, hd,
                         attention->out + r * attention->q_width + first_query + (int64_t)g * hd);
        }
    }
}

/* Of rows that see at most `longest` slots; without the row table. */
static cpu_attention attention_of(const lp_model_config *config, const float *qkv, const lp_kv_pool *pool,
                                  int32_t layer, int32_t longest, float *out) {
    int64_t q_width = (int64_t)config->n_heads * config->head_dim;
    int64_t layer_at = (int64_t)layer * pool->n_slots * pool->width;
    return (cpu_attention){.head_dim = config->head_dim,
                           .n_queries = config->n_heads / config->n_kv_heads,
                           .q_width = q_width,
                           .qkv_width = q_width + 2 * (int64_t)pool->width,
                           .kv_width = pool->width,
                           .scale = 1.0f / sqrtf((float)config->head_dim),
                           .stride = (longest + KEYS_AT_ONCE - 1) / KEYS_AT_ONCE * KEYS_AT_ONCE,
                           .qkv = qkv,
                           .keys = pool->keys + layer_at,
                           .values = pool->values + layer_at,
                           .out = out};
}

/* Of one thread: transposed keys [head_dim, KEY_BLOCK], values [stride, head_dim], scores [rows, n_queries, stride]. */
static size_t scratch_floats(const cpu_attention *attention) {
    return (size_t)attention->head_dim * (KEY_BLOCK + (size_t)attention->stride) +
           (size_t)LP_GROUP_ROWS * (size_t)attention->n_queries * (size_t)attention->stride;
}

lp_status lp_cpu_attend(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows, int32_t n,
                        const lp_kv_pool *pool, int32_t layer, lp_form form, float *out, lp_error *err) {
    (void)form; /* operands are floats */
    lp_backend_cpu *cpu = (lp_backend_cpu *)be;
    int32_t longest = 1;
    for (int32_t r = 0; r < n; r++) {
        int32_t length = rows->prompt_length[r] + rows->tail_length[r];
        if (length > longest) longest = length;
    }
    cpu_attention attention = attention_of(config, qkv, pool, layer, longest, out);
    attention.rows = rows;
    size_t each = scratch_floats(&attention);
    int32_t n_groups = rows->group_row ? rows->n_groups : n;
    lp_status status = lp_mem_grow(&cpu->scratch, &cpu->scratch_capacity, each * (size_t)cpu->threads, sizeof(float),
                                   "attention scores", err);
    if (status != LP_OK) return status;
#pragma omp parallel for collapse(2) num_threads(lp_cpu_team(be, n, attention.q_width *longest / 8)) schedule(dynamic)
    for (int32_t g = 0; g < n_groups; g++)
        for (int32_t head = 0; head < config->n_kv_heads; head++) {
            const int32_t *row = rows->group_row ? rows->group_row + rows->group_begin[g] : &g;
            int32_t n_rows = rows->group_row ? rows->group_begin[g + 1] - rows->group_begin[g] : 1;
            while (n_rows > 0 && row[n_rows - 1] >= n) n_rows--; /* rows that begin later; a group's rows ascend */
            if (n_rows > 0)
                attend_group(&attention, row, n_rows, head, cpu->scratch + each * (size_t)omp_get_thread_num());
        }
    return LP_OK;
}

/* The query heads of one choice, by KV head. scores [query heads of a KV head, stride] */
static void attend_choice(const cpu_attention *attention, const lp_row_choice *choice, const int32_t *slots,
                          float *scores) {
    int32_t hd = attention->head_dim, end = choice->first_head + choice->n_heads;
    const int32_t *list = slots + choice->begin;
    for (int32_t first = choice->first_head, next; first < end; first = next) {
        int32_t head = first / attention->n_queries;
        next = (head + 1) * attention->n_queries < end ? (head + 1) * attention->n_queries : end;
        const value_rows values = {.all = attention->values + (int64_t)head * hd,
                                   .tail = list,
                                   .n_tail = choice->length,
                                   .stride = attention->kv_width};
        score_keys(attention->qkv + choice->row * attention->qkv_width + (int64_t)first * hd, next - first, hd,
                   attention->keys + (int64_t)head * hd, attention->kv_width, list, choice->length, attention->scale,
                   scores, attention->stride);
        for (int32_t h = first; h < next; h++) {
            float *mine = scores + (int64_t)(h - first) * attention->stride;
            soften(mine, choice->length);
            weigh_values(mine, &values, hd, attention->out + choice->row * attention->q_width + (int64_t)h * hd);
        }
    }
}

lp_status lp_cpu_attend_chosen(lp_backend *be, const lp_model_config *config, const float *qkv,
                               const lp_row_choice *choices, int32_t n, const int32_t *slots, const lp_kv_pool *pool,
                               int32_t layer, float *out, lp_error *err) {
    lp_backend_cpu *cpu = (lp_backend_cpu *)be;
    int32_t longest = 1;
    for (int32_t i = 0; i < n; i++)
        if (choices[i].length > longest) longest = choices[i].length;
    const cpu_attention attention = attention_of(config, qkv, pool, layer, longest, out);
    size_t each = (size_t)attention.n_queries * (size_t)attention.stride;
    lp_status status = lp_mem_grow(&cpu->scratch, &cpu->scratch_capacity, each * (size_t)cpu->threads, sizeof(float),
                                   "attention scores", err);
    if (status != LP_OK) return status;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, attention.q_width *longest / 8)) schedule(dynamic)
    for (int32_t i = 0; i < n; i++)
        attend_choice(&attention, &choices[i], slots, cpu->scratch + each * (size_t)omp_get_thread_num());
    return LP_OK;
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
