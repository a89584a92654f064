/* Conformance of the KV pool and attention: against double precision, with and without groups, alone, and with the
 * border between prompt and tail elsewhere. */
#include "cuda/conformance.h"

#include "backend/groups.h"
#include "base/dtype.h"
#include "base/memory.h"
#include "base/random.h"

#include <math.h>

float conformance_held(const conformance *c, float x) {
    return c->be->kv_item_bytes == 2 ? lp_bf16_to_f32(lp_f32_to_bf16(x)) : x;
}

typedef struct {
    int32_t n_heads, n_kv_heads, head_dim;
    bool rope, large;
} attention_case;

/* Between float32 [n, KV] and keys or values as the backend holds them: in bf16, heads filled up with zeros to a
 * multiple of 8. */
static void *held_form(const conformance *c, const lp_model_config *config, const float *x, size_t n) {
    const size_t slot = lp_kv_slot_bytes(c->be, config), hd = (size_t)config->head_dim, step = (hd + 7) / 8 * 8;
    char *out = conformance_zeros(n * slot);
    for (size_t i = 0; i < n * (size_t)config->n_kv_heads; i++)
        for (size_t d = 0; d < hd; d++) {
            if (c->be->kv_item_bytes == 2)
                ((uint16_t *)(void *)out)[i * step + d] = lp_f32_to_bf16(x[i * hd + d]);
            else
                ((float *)(void *)out)[i * hd + d] = x[i * hd + d];
        }
    return out;
}

static float *new_pool(conformance *c, const lp_model_config *config, const float *x, size_t n) {
    void *held = held_form(c, config, x, n);
    float *dev = conformance_to_device(c, held, n, lp_kv_slot_bytes(c->be, config), 0);
    lp_mem_free(held);
    return dev;
}

/* x [n, KV] = what is held; what fills heads up must be zeros. */
static void fetch_pool(conformance *c, const lp_model_config *config, float *x, const float *dev, size_t n) {
    const size_t slot = lp_kv_slot_bytes(c->be, config), hd = (size_t)config->head_dim, step = (hd + 7) / 8 * 8;
    char *held = conformance_zeros(n * slot);
    conformance_fetch(c, held, dev, n * slot);
    bool right = true;
    for (size_t i = 0; i < n * (size_t)config->n_kv_heads; i++)
        for (size_t d = 0; d < (c->be->kv_item_bytes == 2 ? step : hd); d++) {
            const float value = c->be->kv_item_bytes == 2 ? lp_bf16_to_f32(((uint16_t *)(void *)held)[i * step + d])
                                                          : ((float *)(void *)held)[i * hd + d];
            if (d < hd)
                x[i * hd + d] = value;
            else
                right &= value == 0.0f;
        }
    conformance_true(c, right, "heads of %zu are filled up with zeros", hd);
    lp_mem_free(held);
}

enum { N_PROMPTS = 3, MAX_TAIL = 40, LAYER = 1, N_LAYERS = 2, POSITIONS = 300 };
static const int32_t prompt_lengths[N_PROMPTS] = {33, 70, 131};

/* Host arrays of a row table and their copies on the device. */
typedef struct {
    int32_t n, n_tail;
    int32_t *position, *slot, *prompt_begin, *prompt_length, *tail_begin, *tail_length, *tail;
    int32_t *group_row, *group_begin, n_groups;
    void *dev[9];
    lp_row_table table;
} row_table;

static row_table new_rows(int32_t n) {
    row_table t = {.n = n};
    int32_t **lists[] = {&t.position,   &t.slot,        &t.prompt_begin, &t.prompt_length,
                         &t.tail_begin, &t.tail_length, &t.group_row,    &t.group_begin};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        *lists[i] = conformance_zeros((size_t)(n + 1) * sizeof(int32_t));
    t.tail = conformance_zeros((size_t)n * POSITIONS * sizeof(int32_t));
    return t;
}

static void upload_rows(conformance *c, row_table *t, bool grouped) {
    size_t n = (size_t)t->n;
    uint64_t *scratch = conformance_zeros(n * sizeof *scratch);
    t->n_groups = lp_row_groups(t->prompt_begin, t->n, LP_GROUP_ROWS, t->group_row, t->group_begin, scratch);
    lp_mem_free(scratch);
    const int32_t *host[] = {t->position,    t->slot, t->prompt_begin, t->prompt_length, t->tail_begin,
                             t->tail_length, t->tail, t->group_row,    t->group_begin};
    size_t sizes[] = {n, n, n, n, n, n, (size_t)t->n_tail, n, (size_t)t->n_groups + 1};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) t->dev[i] = conformance_ints(c, host[i], sizes[i]);
    t->table = (lp_row_table){.position = t->dev[0],
                              .slot = t->dev[1],
                              .prompt_begin = t->dev[2],
                              .prompt_length = t->dev[3],
                              .tail_begin = t->dev[4],
                              .tail_length = t->dev[5],
                              .tail = t->dev[6]};
    if (grouped) {
        t->table.group_row = t->dev[7];
        t->table.group_begin = t->dev[8];
        t->table.n_groups = t->n_groups;
    }
}

static void release_rows(conformance *c, row_table *t) {
    for (size_t i = 0; i < sizeof t->dev / sizeof t->dev[0]; i++)
        if (t->dev[i]) c->be->release(c->be, t->dev[i]);
    void *host[] = {t->position,    t->slot, t->prompt_begin, t->prompt_length, t->tail_begin,
                    t->tail_length, t->tail, t->group_row,    t->group_begin};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) lp_mem_free(host[i]);
}

static void append_tail(row_table *t, int32_t r, int32_t slot) {
    if (t->tail_length[r] == 0) t->tail_begin[r] = t->n_tail;
    t->tail[t->n_tail++] = slot;
    t->tail_length[r]++;
}

/* Rows of three prompts in turn: parts of prompts as when they are read for the first time, whole prompts with tails of
 * 0 .. MAX_TAIL slots, and one row that has no prompt at all. Slots of prompts come first in the pool. */
static row_table make_rows(int32_t n, int32_t n_slots) {
    row_table t = new_rows(n);
    int32_t begin[N_PROMPTS + 1] = {0};
    for (int p = 0; p < N_PROMPTS; p++) begin[p + 1] = begin[p] + prompt_lengths[p];
    lp_random_key key = {.seed = 8, .stream = 1};
    uint32_t draw = 0;
    for (int32_t r = 0; r < n; r++) {
        int32_t p = r % N_PROMPTS, whole = prompt_lengths[p];
        bool early = r % 5 == 3;
        t.prompt_begin[r] = begin[p];
        t.prompt_length[r] = early ? 1 + (int32_t)lp_random_below(key, draw++, (uint32_t)whole) : whole;
        int32_t n_tail = early ? 0 : (int32_t)lp_random_below(key, draw++, MAX_TAIL + 1);
        if (r == n - 1 && n > 4) {
            t.prompt_length[r] = 0;
            n_tail = 3;
        }
        for (int32_t i = 0; i < n_tail; i++)
            append_tail(&t, r,
                        begin[N_PROMPTS] +
                            (int32_t)lp_random_below(key, draw++, (uint32_t)(n_slots - begin[N_PROMPTS])));
        t.position[r] = t.prompt_length[r] + n_tail - 1;
        t.slot[r] = t.tail_length[r] > 0 ? t.tail[t.tail_begin[r] + n_tail - 1] : begin[p] + t.prompt_length[r] - 1;
    }
    return t;
}

static int32_t slot_at(const row_table *t, int32_t r, int32_t i) {
    return i < t->prompt_length[r] ? t->prompt_begin[r] + i : t->tail[t->tail_begin[r] + i - t->prompt_length[r]];
}

static void reference_attention(const attention_case *k, const row_table *t, int32_t r, const float *qkv,
                                const float *keys, const float *values, double *out) {
    int32_t hd = k->head_dim, kv = k->n_kv_heads * hd, q = k->n_heads * hd;
    int32_t length = t->prompt_length[r] + t->tail_length[r];
    double *scores = conformance_zeros((size_t)length * sizeof *scores);
    for (int32_t h = 0; h < k->n_heads; h++) {
        const float *query = qkv + (int64_t)r * (q + 2 * kv) + h * hd;
        int32_t head = h / (k->n_heads / k->n_kv_heads) * hd;
        double most = -INFINITY, total = 0;
        for (int32_t i = 0; i < length; i++) {
            const float *key = keys + (int64_t)slot_at(t, r, i) * kv + head;
            scores[i] = 0;
            for (int32_t d = 0; d < hd; d++) scores[i] += (double)query[d] * key[d];
            scores[i] /= sqrt(hd);
            most = fmax(most, scores[i]);
        }
        for (int32_t i = 0; i < length; i++) total += scores[i] = exp(scores[i] - most);
        for (int32_t d = 0; d < hd; d++) {
            double sum = 0;
            for (int32_t i = 0; i < length; i++)
                sum += scores[i] / total * values[(int64_t)slot_at(t, r, i) * kv + head + d];
            out[h * hd + d] = sum;
        }
    }
    lp_mem_free(scores);
}

typedef struct {
    conformance *c;
    const attention_case *k;
    lp_model_config config;
    int32_t n_slots, q, kv, stride; /* widths of a row's queries, of K, of q|k|v */
    lp_kv_pool pool;                /* dev */
    float *keys, *values;           /* host, of one layer */
} attention_test;

static void attend(attention_test *a, const row_table *t, int32_t n, const float *qkv, float *out) {
    conformance *c = a->c;
    float *dev = conformance_floats(c, qkv, (size_t)t->n * (size_t)a->stride, 0);
    float *dev_out = conformance_floats(c, NULL, (size_t)t->n * (size_t)a->q, 0);
    RUN(c->be->attend(c->be, &a->config, dev, &t->table, n, &a->pool, LAYER, LP_FLOATS, dev_out, &c->err));
    conformance_fetch(c, out, dev_out, (size_t)n * (size_t)a->q * sizeof(float));
    c->be->release(c->be, dev);
    c->be->release(c->be, dev_out);
}

/* As an operand the result is what it is as floats; twice, as the first call must leave nothing behind. */
static void check_attended_operand(attention_test *a, const row_table *t, int32_t n, const float *qkv,
                                   const float *floats) {
    conformance *c = a->c;
    float *dev_out = conformance_operand_room(c, (size_t)n, (size_t)a->q);
    for (int i = 0; i < 2; i++) {
        float *dev = conformance_floats(c, qkv, (size_t)t->n * (size_t)a->stride, 0);
        RUN(c->be->attend(c->be, &a->config, dev, &t->table, n, &a->pool, LAYER, LP_OPERAND, dev_out, &c->err));
        conformance_same_operand(c, dev_out, floats, n, a->q, "attend");
        c->be->release(c->be, dev);
    }
    c->be->release(c->be, dev_out);
}

/* The same rows with the last `moved` slots of their prompts in the tail instead. */
static row_table move_border(const row_table *from, int32_t moved) {
    row_table t = new_rows(from->n);
    for (int32_t r = 0; r < from->n; r++) {
        int32_t length = from->prompt_length[r], prompt = length > moved ? length - moved : 0;
        t.prompt_begin[r] = from->prompt_begin[r];
        t.prompt_length[r] = prompt;
        t.position[r] = from->position[r];
        t.slot[r] = from->slot[r];
        for (int32_t i = prompt; i < length + from->tail_length[r]; i++) append_tail(&t, r, slot_at(from, r, i));
    }
    return t;
}

/* Of every third row, some heads attend to every slot but some: the bits of a row whose tail they are. */
static void check_chosen(attention_test *a, const row_table *from, const float *qkv, const float *all, int32_t n) {
    conformance *c = a->c;
    int32_t heads = a->config.n_heads, hd = a->config.head_dim, n_choices = 0, n_slots = 0;
    size_t q = (size_t)a->q, bytes = (size_t)n * q * sizeof(float);
    row_table left = new_rows(n);
    lp_row_choice *choices = conformance_zeros((size_t)(2 * n) * sizeof *choices);
    int32_t *slots = conformance_zeros((size_t)n * POSITIONS * sizeof *slots);
    float *want = conformance_zeros(bytes), *got = conformance_zeros(bytes);
    for (int32_t r = 0; r < n; r++) {
        int32_t length = from->prompt_length[r] + from->tail_length[r], begin = n_slots;
        left.prompt_begin[r] = from->prompt_begin[r];
        left.position[r] = from->position[r];
        left.slot[r] = from->slot[r];
        for (int32_t i = 0; i < length; i++) {
            if (i != length - 1 && (i + r) % 4 == 1) continue;
            append_tail(&left, r, slot_at(from, r, i));
            slots[n_slots++] = slot_at(from, r, i);
        }
        if (r % 3 != 0) continue;
        int32_t part = heads > 1 ? heads / 2 : 1;
        choices[n_choices++] = (lp_row_choice){r, 0, part, begin, n_slots - begin};
        if (r % 2 == 0 && heads > part + 1)
            choices[n_choices++] = (lp_row_choice){r, heads - 1, 1, begin, n_slots - begin};
    }
    upload_rows(c, &left, true);
    attend(a, &left, n, qkv, want);
    float *dev = conformance_floats(c, qkv, (size_t)n * (size_t)a->stride, 0);
    float *dev_out = conformance_floats(c, all, (size_t)n * q, 0);
    int32_t *dev_slots = conformance_ints(c, slots, (size_t)n_slots);
    RUN(c->be->attend_chosen(c->be, &a->config, dev, choices, n_choices, dev_slots, &a->pool, LAYER, dev_out, &c->err));
    conformance_fetch(c, got, dev_out, bytes);
    for (int32_t r = 0, k = 0; r < n; r++) {
        for (size_t h = 0; h < (size_t)heads; h++) {
            bool is_chosen = false;
            for (int32_t i = k; i < n_choices && choices[i].row == r; i++)
                is_chosen |=
                    (int32_t)h >= choices[i].first_head && (int32_t)h < choices[i].first_head + choices[i].n_heads;
            size_t at = (size_t)r * q + h * (size_t)hd;
            conformance_same(c, got + at, (is_chosen ? want : all) + at, (size_t)hd * sizeof(float),
                             "attend_chosen %d/%d heads of %d: row %d of %d, head %zu", heads, a->config.n_kv_heads, hd,
                             r, n, h);
        }
        while (k < n_choices && choices[k].row == r) k++;
    }
    void *devs[] = {dev, dev_out, dev_slots}, *blocks[] = {choices, slots, want, got};
    for (size_t i = 0; i < sizeof devs / sizeof devs[0]; i++) c->be->release(c->be, devs[i]);
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
    release_rows(c, &left);
}

/* One row's last slot holds NaN: it has NaN, and no other row has another bit. */
static void check_poisoned(attention_test *a, const row_table *from, const float *qkv, const float *all, int32_t n) {
    conformance *c = a->c;
    const size_t q = (size_t)a->q;
    const int32_t row = n / 2;
    float *got = conformance_zeros((size_t)n * q * sizeof *got);
    row_table t = move_border(from, 0);
    if (t.tail_length[row] > 0) {
        t.tail[t.tail_begin[row] + t.tail_length[row] - 1] = a->n_slots;
        upload_rows(c, &t, true);
        attend(a, &t, n, qkv, got);
        for (int32_t r = 0; r < n; r++) {
            bool is_nan = isnan(got[(size_t)r * q]);
            conformance_true(c, is_nan == (r == row), "attend %d/%d heads of %d: row %d of %d beside NaN in row %d",
                             a->config.n_heads, a->config.n_kv_heads, a->config.head_dim, r, n, row);
            if (r != row)
                conformance_same(c, got + (size_t)r * q, all + (size_t)r * q, q * sizeof *got,
                                 "attend %d/%d heads of %d: row %d of %d beside NaN in row %d", a->config.n_heads,
                                 a->config.n_kv_heads, a->config.head_dim, r, n, row);
        }
    }
    release_rows(c, &t);
    lp_mem_free(got);
}

static void check_attend(attention_test *a, int32_t n) {
    conformance *c = a->c;
    const attention_case *k = a->k;
    size_t q = (size_t)a->q, bytes = (size_t)n * q * sizeof(float);
    float *qkv = conformance_normal(80, (size_t)n * (size_t)a->stride);
    for (size_t i = 0; i < (size_t)n * (size_t)a->stride; i++) qkv[i] = conformance_held(c, qkv[i]);
    float *grouped = conformance_zeros(bytes), *other = conformance_zeros(bytes);
    double *want = conformance_zeros(q * sizeof *want);
    row_table t = make_rows(n, a->n_slots);
    upload_rows(c, &t, true);
    attend(a, &t, n, qkv, grouped);
    check_attended_operand(a, &t, n, qkv, grouped);
    for (int32_t r = 0; r<n; r += n> 40 ? 7 : 1) {
        reference_attention(k, &t, r, qkv, a->keys, a->values, want);
        /* In bf16 weights are rounded, by 2^-8 of each at most. */
        conformance_near(c, grouped + (size_t)r * q, want, q, c->be->kv_item_bytes == 2 ? 0x1p-8 : 1e-5,
                         "attend %d/%d heads of %d: row %d of %d, %d + %d slots", k->n_heads, k->n_kv_heads,
                         k->head_dim, r, n, t.prompt_length[r], t.tail_length[r]);
    }
    check_chosen(a, &t, qkv, grouped, n);
    check_poisoned(a, &t, qkv, grouped, n);
    lp_row_table with_groups = t.table;
    t.table.group_row = t.table.group_begin = NULL;
    t.table.n_groups = 0;
    attend(a, &t, n, qkv, other);
    conformance_same(c, other, grouped, bytes, "attend %d/%d heads of %d: without groups", k->n_heads, k->n_kv_heads,
                     k->head_dim);
    t.table = with_groups;
    memset(other, 0, bytes);
    attend(a, &t, n / 2, qkv, other);
    conformance_same(c, other, grouped, bytes / (size_t)n * (size_t)(n / 2),
                     "attend %d/%d heads of %d: the first half of the rows", k->n_heads, k->n_kv_heads, k->head_dim);
    for (int32_t moved = 1; moved < 64; moved = 2 * moved + 5) {
        row_table border = move_border(&t, moved);
        upload_rows(c, &border, true);
        attend(a, &border, n, qkv, other);
        conformance_same(c, other, grouped, bytes, "attend %d/%d heads of %d: %d slots of the prompt in the tail",
                         k->n_heads, k->n_kv_heads, k->head_dim, moved);
        release_rows(c, &border);
    }
    release_rows(c, &t);
    void *blocks[] = {qkv, grouped, other, want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

/* Each head of q and of k normed with its own weights; v as it was; a row alone gives the same bits. */
static void check_norm_heads(conformance *c, const attention_test *a, const float *qkv, int32_t n) {
    int32_t hd = a->config.head_dim, normed = a->config.n_heads + a->config.n_kv_heads;
    size_t stride = (size_t)a->stride, all = (size_t)n * stride;
    float *q_weight = conformance_normal(93, (size_t)hd), *k_weight = conformance_normal(94, (size_t)hd),
          *got = conformance_zeros(all * sizeof(float)), *alone = conformance_zeros(stride * sizeof(float));
    double *want = conformance_zeros(all * sizeof(double));
    for (size_t i = 0; i < all; i++) want[i] = qkv[i];
    for (int32_t r = 0; r < n; r++)
        for (int32_t h = 0; h < normed; h++) {
            double *x = want + (size_t)r * stride + (size_t)(h * hd), square = 0;
            for (int32_t i = 0; i < hd; i++) square += x[i] * x[i] / hd;
            for (int32_t i = 0; i < hd; i++)
                x[i] *= (double)(h < a->config.n_heads ? q_weight : k_weight)[i] /
                        sqrt(square + (double)a->config.norm_eps);
        }
    float *dev = conformance_floats(c, qkv, all, 0), *last = conformance_floats(c, qkv + all - stride, stride, 0);
    const float *dev_q = NULL, *dev_k = NULL;
    RUN(c->be->vector_new(c->be, q_weight, (size_t)hd, &dev_q, &c->err));
    RUN(c->be->vector_new(c->be, k_weight, (size_t)hd, &dev_k, &c->err));
    RUN(c->be->norm_heads(c->be, &a->config, dev, n, dev_q, dev_k, &c->err));
    conformance_fetch(c, got, dev, all * sizeof(float));
    conformance_near(c, got, want, all, 1e-6, "norm_heads %d/%d heads of %d", a->config.n_heads, a->config.n_kv_heads,
                     hd);
    RUN(c->be->norm_heads(c->be, &a->config, last, 1, dev_q, dev_k, &c->err));
    conformance_fetch(c, alone, last, stride * sizeof(float));
    conformance_same(c, alone, got + all - stride, stride * sizeof(float), "norm_heads: the last row alone");
    c->be->vector_free(c->be, dev_q);
    c->be->vector_free(c->be, dev_k);
    c->be->release(c->be, dev);
    c->be->release(c->be, last);
    void *blocks[] = {q_weight, k_weight, got, alone, want};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

/* Rows with a slot each: rotated q in place, k and v in the pool of the layer, the other layer untouched. */
static void check_store(attention_test *a, int32_t n) {
    conformance *c = a->c;
    const attention_case *k = a->k;
    int32_t hd = k->head_dim, half = hd / 2;
    size_t stride = (size_t)a->stride, kv = (size_t)a->kv, q = (size_t)a->q, pool = (size_t)a->n_slots * kv;
    float *qkv = conformance_normal(90, (size_t)n * stride),
          *got = conformance_zeros((size_t)n * stride * sizeof(float));
    float *cosine = conformance_normal(91, (size_t)(POSITIONS * half)),
          *sine = conformance_normal(92, (size_t)(POSITIONS * half));
    float *keys = conformance_zeros(2 * pool * sizeof(float)), *values = conformance_zeros(2 * pool * sizeof(float));
    double *want = conformance_zeros(stride * sizeof *want);
    row_table t = new_rows(n);
    for (int32_t r = 0; r < n; r++) {
        t.position[r] = (r * 7) % POSITIONS;
        t.slot[r] = a->n_slots - 1 - r;
    }
    upload_rows(c, &t, false);
    const size_t n_held = N_LAYERS * (size_t)a->n_slots;
    lp_kv_pool fresh = {
        .slot_bytes = lp_kv_slot_bytes(c->be, &a->config), .n_slots = a->n_slots, .n_layers = N_LAYERS, .width = a->kv};
    fresh.keys = new_pool(c, &a->config, keys, n_held);
    fresh.values = new_pool(c, &a->config, values, n_held);
    float *dev = conformance_floats(c, qkv, (size_t)n * stride, 0);
    float *dev_cosine = conformance_floats(c, cosine, (size_t)(POSITIONS * half), 0);
    float *dev_sine = conformance_floats(c, sine, (size_t)(POSITIONS * half), 0);
    RUN(c->be->store_kv(c->be, &a->config, dev, &t.table, n, k->rope ? dev_cosine : NULL, dev_sine, &fresh, LAYER,
                        &c->err));
    conformance_fetch(c, got, dev, (size_t)n * stride * sizeof(float));
    fetch_pool(c, &a->config, keys, fresh.keys, n_held);
    fetch_pool(c, &a->config, values, fresh.values, n_held);
    check_norm_heads(c, a, qkv, n);
    for (int32_t r = 0; r < n; r++) {
        const float *from = qkv + (size_t)r * stride;
        for (size_t i = 0; i < stride; i++) want[i] = from[i];
        for (int32_t h = 0; k->rope && h < k->n_heads + k->n_kv_heads; h++)
            for (int32_t i = 0; i < half; i++) {
                size_t x = (size_t)(h * hd + i), y = x + (size_t)half;
                double co = cosine[t.position[r] * half + i], si = sine[t.position[r] * half + i];
                want[x] = from[x] * co - from[y] * si;
                want[y] = from[y] * co + from[x] * si;
            }
        size_t slot = (size_t)t.slot[r] * kv;
        conformance_near(c, got + (size_t)r * stride, want, q, 1e-6, "store_kv: queries of row %d, rope %d", r,
                         k->rope);
        conformance_near(c, keys + pool + slot, want + q, kv, c->be->kv_item_bytes == 2 ? 0x1p-8 : 1e-6,
                         "store_kv: keys of row %d, rope %d", r, k->rope);
        for (size_t i = q + kv; i < stride; i++) want[i] = conformance_held(c, from[i]);
        conformance_near(c, values + pool + slot, want + q + kv, kv, 0, "store_kv: values of row %d", r);
    }
    float *zero = conformance_zeros(pool * sizeof(float));
    conformance_same(c, keys, zero, pool * sizeof(float), "store_kv: keys of the other layer");
    conformance_same(c, values, zero, pool * sizeof(float), "store_kv: values of the other layer");

    /* copy_kv of the slots just written to the first ones */
    int32_t *to = conformance_zeros((size_t)n * sizeof *to);
    for (int32_t r = 0; r < n; r++) to[r] = r;
    int32_t *dev_to = conformance_ints(c, to, (size_t)n);
    RUN(c->be->copy_kv(c->be, &fresh, LAYER, t.table.slot, dev_to, n, &c->err));
    float *after = conformance_zeros(2 * pool * sizeof(float));
    for (int side = 0; side < 2; side++) {
        float *expected = side ? values : keys;
        for (int32_t r = 0; r < n; r++)
            memcpy(expected + pool + (size_t)to[r] * kv, expected + pool + (size_t)t.slot[r] * kv, kv * sizeof(float));
        fetch_pool(c, &a->config, after, side ? fresh.values : fresh.keys, n_held);
        conformance_same(c, after, expected, 2 * pool * sizeof(float), "copy_kv: %s", side ? "values" : "keys");
    }
    release_rows(c, &t);
    void *devs[] = {fresh.keys, fresh.values, dev, dev_cosine, dev_sine, dev_to};
    for (size_t i = 0; i < sizeof devs / sizeof devs[0]; i++) c->be->release(c->be, devs[i]);
    void *blocks[] = {qkv, got, cosine, sine, keys, values, want, zero, to, after};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) lp_mem_free(blocks[i]);
}

void conformance_attention(conformance *c) {
    static const attention_case cases[] = {
        {.n_heads = 4, .n_kv_heads = 4, .head_dim = 8},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .rope = true},
        {.n_heads = 8, .n_kv_heads = 2, .head_dim = 64, .rope = true},
        {.n_heads = 6, .n_kv_heads = 2, .head_dim = 48, .rope = true},
        {.n_heads = 5, .n_kv_heads = 1, .head_dim = 18, .rope = true},
        {.n_heads = 32, .n_kv_heads = 1, .head_dim = 16},
        {.n_heads = 4, .n_kv_heads = 1, .head_dim = 128, .rope = true, .large = true},
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 256, .large = true},
        {.n_heads = 12, .n_kv_heads = 12, .head_dim = 64, .large = true},
        {.n_heads = 32, .n_kv_heads = 8, .head_dim = 64, .rope = true, .large = true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const attention_case *k = &cases[i];
        if (k->large && c->small) continue;
        attention_test a = {.c = c, .k = k, .n_slots = 600};
        a.config = (lp_model_config){
            .n_heads = k->n_heads, .n_kv_heads = k->n_kv_heads, .head_dim = k->head_dim, .norm_eps = 1e-6f};
        a.q = k->n_heads * k->head_dim;
        a.kv = k->n_kv_heads * k->head_dim;
        a.stride = a.q + 2 * a.kv;
        /* The last slot is for check_poisoned. */
        const size_t n_slots = (size_t)a.n_slots + 1, layer = n_slots * (size_t)a.kv;
        float *keys = conformance_normal(70, N_LAYERS * layer), *values = conformance_normal(71, N_LAYERS * layer);
        for (size_t j = 0; j < N_LAYERS * layer; j++) {
            keys[j] = conformance_held(c, keys[j]);
            values[j] = conformance_held(c, values[j]);
            if (j % layer >= layer - (size_t)a.kv) keys[j] = values[j] = NAN;
        }
        a.pool = (lp_kv_pool){.slot_bytes = lp_kv_slot_bytes(c->be, &a.config),
                              .n_slots = (int64_t)n_slots,
                              .n_layers = N_LAYERS,
                              .width = a.kv};
        a.pool.keys = new_pool(c, &a.config, keys, N_LAYERS * n_slots);
        a.pool.values = new_pool(c, &a.config, values, N_LAYERS * n_slots);
        a.keys = keys + LAYER * layer;
        a.values = values + LAYER * layer;
        check_attend(&a, 2);
        check_attend(&a, 133);
        if (!c->small && k->large) check_attend(&a, 700);
        check_store(&a, 37);
        c->be->release(c->be, a.pool.keys);
        c->be->release(c->be, a.pool.values);
        lp_mem_free(keys);
        lp_mem_free(values);
    }
}
