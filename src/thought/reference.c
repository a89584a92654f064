/* One position of the forward pass, as a pipeline:
 *
 *   x = embedding                      [latent_in]
 *   GPT-2: x += positions[p]
 *   each layer:                        [resid_pre]
 *     h = norm(x); q|k|v = h Wqkv      (+ bias)
 *     Qwen3: norm of each head of q, k
 *                                      [k, v]
 *     LLaMA: rotate q, k;  cache k, v
 *     a = attention(q, cache) Wo       [attn_out]
 *     x += a                           [resid_mid]
 *     m = mlp(norm(x))                 [mlp_out]
 *     x += m                           [resid_post]
 *   y = norm(x)                        [latent_raw]
 */
#include "thought/reference.h"

#include "base/memory.h"
#include "base/pulse.h"
#include "nn/rope.h"
#include "nn/token_edit.h"

#include <math.h>

struct lp_reference {
    const lp_model *model;
    lp_protocol protocol;
    lp_vocabulary vocabulary;
    int32_t max_positions;
    lp_rope rope;
    float *keys, *values; /* [n_layers, max_positions, KV] of the run at hand */
    float *x, *h, *y;     /* [D] residual stream, normed input, final hidden */
    float *qkv;           /* [Q + 2 KV] */
    float *attention;     /* [Q] */
    float *hidden;        /* [2 F] */
    float *projected;     /* [projection's inner size] */
    float *scores;        /* [max_positions] */
    bool *allowed;        /* [max_positions] that the head at hand attends to */
    float *logits;        /* [n_embedded] */
    /* for token edits; NULL before the first */
    float *scales;     /* [n_embedded] */
    float *embeddings; /* [LP_MAX_NEAREST + 1, D] */
    double *work;      /* [(LP_MAX_NEAREST + 2) D] */
};

/* Sums are in double precision, so that what differs between an engine in float32 and this oracle is the engine's
 * rounding. */
enum { COLUMNS = 64, PARTS = 8 };

/* Without the sanitizers' checks of each element, which take nine tenths of a sanitized build's time: the matrix ends
 * where its tensor ends, x and y where the caller's buffers do. */
__attribute__((no_sanitize("address", "undefined"))) static void matrix_times(const lp_matrix *matrix, const float *x,
                                                                              float *y) {
    if (matrix->layout == LP_IN_OUT) {
        for (int64_t j = 0; j < matrix->n_out; j += COLUMNS) {
            int64_t n = matrix->n_out - j < COLUMNS ? matrix->n_out - j : COLUMNS;
            double sums[COLUMNS] = {0};
            for (int64_t i = 0; i < matrix->n_in; i++) {
                const float *row = matrix->data + i * matrix->n_out + j;
                double xi = (double)x[i];
                for (int64_t k = 0; k < n; k++) sums[k] += xi * (double)row[k];
            }
            for (int64_t k = 0; k < n; k++) y[j + k] = (float)sums[k];
        }
        return;
    }
    for (int64_t j = 0; j < matrix->n_out; j++) {
        const float *row = matrix->data + j * matrix->n_in;
        double part[PARTS] = {0}; /* several, so that the compiler may use vectors */
        int64_t i = 0;
        for (; i + PARTS <= matrix->n_in; i += PARTS)
            for (int k = 0; k < PARTS; k++) part[k] += (double)x[i + k] * (double)row[i + k];
        double sum = 0;
        for (int k = 0; k < PARTS; k++) sum += part[k];
        for (; i < matrix->n_in; i++) sum += (double)x[i] * (double)row[i];
        y[j] = (float)sum;
    }
}

static void linear(const lp_linear *linear, const float *x, float *y) {
    float *out = y;
    for (int p = 0; p < linear->n_parts; p++) {
        matrix_times(&linear->part[p], x, out);
        out += linear->part[p].n_out;
    }
    if (linear->bias)
        for (int64_t j = 0; j < linear->n_out; j++) y[j] += linear->bias[j];
}

/* LayerNorm where the norm has a bias, RMSNorm where it has none. */
static void normalise(const lp_norm *norm, const float *x, int32_t n, float eps, float *y) {
    double sum = 0, squares = 0;
    if (norm->bias) {
        for (int32_t i = 0; i < n; i++) sum += (double)x[i];
        double mean = sum / n;
        for (int32_t i = 0; i < n; i++) squares += ((double)x[i] - mean) * ((double)x[i] - mean);
        float scale = (float)(1.0 / sqrt(squares / n + (double)eps));
        for (int32_t i = 0; i < n; i++) y[i] = (x[i] - (float)mean) * scale * norm->weight[i] + norm->bias[i];
        return;
    }
    for (int32_t i = 0; i < n; i++) squares += (double)x[i] * (double)x[i];
    float scale = (float)(1.0 / sqrt(squares / n + (double)eps));
    for (int32_t i = 0; i < n; i++) y[i] = x[i] * scale * norm->weight[i];
}

static float activated(lp_activation kind, float x) {
    switch (kind) {
    case LP_ACT_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * (x + 0.044715f * x * x * x)));
    case LP_ACT_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    case LP_ACT_SILU: return x / (1.0f + expf(-x));
    }
    return x;
}

lp_status lp_reference_new(const lp_model *model, const lp_protocol *protocol, const lp_vocabulary *vocabulary,
                           int32_t max_positions, lp_reference **out, lp_error *err) {
    const lp_model_config *config = &model->config;
    lp_reference *reference = NULL;
    /* A model whose matrices were left has nothing to compute with; packed ones are for a backend. */
    LP_ASSERT(model->embedding.data && model->embedding.layout != LP_PANELS && model->head.layout != LP_PANELS);
    lp_status status = lp_mem_new(&reference, 1, sizeof *reference, "reference executor", err);
    if (status != LP_OK) return status;
    reference->model = model;
    reference->protocol = *protocol;
    reference->vocabulary = *vocabulary;
    reference->max_positions = max_positions < config->n_context ? max_positions : config->n_context;
    size_t n = (size_t)reference->max_positions;
    size_t kv = (size_t)(config->n_kv_heads * config->head_dim);
    size_t q = (size_t)(config->n_heads * config->head_dim);
    size_t d = (size_t)config->d_model;
    size_t inner = model->projection.present ? (size_t)model->projection.in.n_out : 1;
    LP_TRY(lp_rope_init(config, reference->max_positions, &reference->rope, err));
    LP_TRY(lp_mem_new(&reference->keys, (size_t)config->n_layers * n * kv, sizeof(float), "keys", err));
    LP_TRY(lp_mem_new(&reference->values, (size_t)config->n_layers * n * kv, sizeof(float), "values", err));
    LP_TRY(lp_mem_new(&reference->x, d, sizeof(float), "residual stream", err));
    LP_TRY(lp_mem_new(&reference->h, d, sizeof(float), "normed input", err));
    LP_TRY(lp_mem_new(&reference->y, d, sizeof(float), "final hidden", err));
    LP_TRY(lp_mem_new(&reference->qkv, q + 2 * kv, sizeof(float), "q, k, v", err));
    LP_TRY(lp_mem_new(&reference->attention, q, sizeof(float), "attention", err));
    LP_TRY(lp_mem_new(&reference->hidden, 2 * (size_t)config->d_ff, sizeof(float), "MLP", err));
    LP_TRY(lp_mem_new(&reference->projected, inner, sizeof(float), "projection", err));
    LP_TRY(lp_mem_new(&reference->scores, n, sizeof(float), "attention scores", err));
    LP_TRY(lp_mem_new(&reference->allowed, n, sizeof(bool), "attention scores", err));
    LP_TRY(lp_mem_new(&reference->logits, (size_t)config->n_embedded, sizeof(float), "logits", err));
    *out = reference;
    return LP_OK;
out:
    lp_reference_free(reference);
    return status;
}

void lp_reference_free(lp_reference *reference) {
    if (!reference) return;
    lp_rope_release(&reference->rope);
    lp_mem_free(reference->keys);
    lp_mem_free(reference->values);
    lp_mem_free(reference->x);
    lp_mem_free(reference->h);
    lp_mem_free(reference->y);
    lp_mem_free(reference->qkv);
    lp_mem_free(reference->attention);
    lp_mem_free(reference->hidden);
    lp_mem_free(reference->projected);
    lp_mem_free(reference->scores);
    lp_mem_free(reference->allowed);
    lp_mem_free(reference->logits);
    lp_mem_free(reference->scales);
    lp_mem_free(reference->embeddings);
    lp_mem_free(reference->work);
    lp_mem_free(reference);
}

/* Where in the run the forward pass is, and what the request wants there. */
typedef struct {
    const lp_run_request *request;
    lp_phase phase;
    int32_t index;    /* within the phase */
    int32_t position; /* within the run */
} place;

static bool is_here(const place *at, const lp_address *address, lp_site site, int32_t layer) {
    return address->phase == at->phase && address->site == site && address->layer == layer &&
           (address->index == at->index || address->index == LP_INDEX_ALL);
}

/* tokens [top]: those with the largest of the scores [n], ties to the lowest. */
static void choose_nearest(const float *scores, int32_t n, int32_t top, int32_t *tokens) {
    int32_t found = 0;
    for (int32_t id = 0; id < n; id++) {
        if (found == top && !(scores[id] > scores[tokens[top - 1]])) continue;
        int32_t at = found < top ? found++ : top - 1;
        for (; at > 0 && scores[id] > scores[tokens[at - 1]]; at--) tokens[at] = tokens[at - 1];
        tokens[at] = id;
    }
}

/* Chooses the tokens nearest to x [D], and makes the edit. The logits are free while a position is computed. */
static void edit_by_tokens(const lp_reference *reference, const lp_edit *edit, float *x) {
    const lp_model *model = reference->model;
    int32_t d = model->config.d_model, n = reference->vocabulary.n_candidates;
    int32_t nearest[LP_MAX_NEAREST], wanted[LP_MAX_NEAREST + 1];
    matrix_times(&model->embedding, x, reference->logits);
    if (edit->token->by == LP_NEAREST_COSINE)
        for (int32_t id = 0; id < n; id++) reference->logits[id] *= reference->scales[id];
    choose_nearest(reference->logits, n, edit->token->top, nearest);
    int32_t n_wanted = lp_token_edit_list(edit, nearest, wanted);
    for (int32_t i = 0; i < n_wanted; i++)
        memcpy(reference->embeddings + (int64_t)i * d, model->embedding.data + (int64_t)wanted[i] * d,
               (size_t)d * sizeof(float));
    if (n_wanted >= 0) lp_token_edit_apply(edit, reference->embeddings, n_wanted, x, d, reference->work);
}

static lp_status prepare_tokens(lp_reference *reference, lp_error *err) {
    const lp_model *model = reference->model;
    size_t d = (size_t)model->config.d_model, n = (size_t)model->config.n_embedded;
    if (reference->work) return LP_OK;
    LP_CHECK(lp_mem_new(&reference->scales, n, sizeof(float), "norms of the embedding", err));
    for (size_t id = 0; id < n; id++)
        reference->scales[id] = lp_token_scale(model->embedding.data + id * d, (int32_t)d);
    LP_CHECK(lp_mem_new(&reference->embeddings, (LP_MAX_NEAREST + 1) * d, sizeof(float), "embeddings", err));
    return lp_mem_new(&reference->work, (LP_MAX_NEAREST + 2) * d, sizeof(double), "embeddings", err);
}

/* Edits, then captures, of one site; x is the site's whole vector. */
static void visit(const lp_reference *reference, const place *at, lp_site site, int32_t layer, float *x) {
    const lp_model_config *config = &reference->model->config;
    const lp_run_request *request = at->request;
    for (int32_t i = 0; i < request->n_edits; i++) {
        const lp_edit *edit = &request->edits[i];
        if (edit->operation == LP_OP_FORBID || !is_here(at, &edit->at, site, layer)) continue;
        if (edit->token)
            edit_by_tokens(reference, edit, x);
        else
            lp_edit_apply(edit, x + lp_site_offset(config, edit->at.head), lp_site_width(config, site, edit->at.head));
    }
    for (int32_t i = 0; i < request->n_captures; i++) {
        const lp_capture *capture = &request->captures[i];
        if (!is_here(at, &capture->at, site, layer)) continue;
        memcpy(capture->out, x + lp_site_offset(config, capture->at.head),
               (size_t)lp_site_width(config, site, capture->at.head) * sizeof *x);
    }
}

/* r->allowed [position + 1] for one query head */
static void allow(lp_reference *reference, const place *at, int32_t layer, int32_t head) {
    for (int32_t p = 0; p <= at->position; p++) reference->allowed[p] = true;
    for (int32_t i = 0; i < at->request->n_edits; i++) {
        const lp_edit *edit = &at->request->edits[i];
        if (edit->operation != LP_OP_FORBID || !is_here(at, &edit->at, LP_SITE_Z, layer)) continue;
        if (edit->at.head != LP_ALL_HEADS && edit->at.head != head) continue;
        for (int32_t p = edit->key_begin; p < edit->key_end && p <= at->position; p++) reference->allowed[p] = false;
    }
}

static void attend(lp_reference *reference, const place *at, int32_t layer) {
    const lp_model_config *config = &reference->model->config;
    int32_t position = at->position, hd = config->head_dim;
    int32_t kv = config->n_kv_heads * hd;
    int32_t group = config->n_heads / config->n_kv_heads;
    float scale = 1.0f / sqrtf((float)hd);
    const float *keys = reference->keys + (size_t)layer * (size_t)reference->max_positions * (size_t)kv;
    const float *values = reference->values + (size_t)layer * (size_t)reference->max_positions * (size_t)kv;
    for (int32_t head = 0; head < config->n_heads; head++) {
        const float *q = reference->qkv + (size_t)head * (size_t)hd;
        size_t column = (size_t)(head / group) * (size_t)hd;
        float most = -INFINITY;
        allow(reference, at, layer, head);
        for (int32_t p = 0; p <= position; p++) {
            if (!reference->allowed[p]) continue;
            const float *k = keys + (size_t)p * (size_t)kv + column;
            double dot = 0;
            for (int32_t i = 0; i < hd; i++) dot += (double)q[i] * (double)k[i];
            reference->scores[p] = (float)dot * scale;
            if (reference->scores[p] > most) most = reference->scores[p];
        }
        double total = 0;
        for (int32_t p = 0; p <= position; p++) {
            if (!reference->allowed[p]) continue;
            reference->scores[p] = expf(reference->scores[p] - most);
            total += (double)reference->scores[p];
        }
        float *out = reference->attention + (size_t)head * (size_t)hd;
        memset(out, 0, (size_t)hd * sizeof *out);
        for (int32_t p = 0; p <= position; p++) {
            if (!reference->allowed[p]) continue;
            const float *v = values + (size_t)p * (size_t)kv + column;
            float weight = reference->scores[p] / (float)total;
            for (int32_t i = 0; i < hd; i++) out[i] += weight * v[i];
        }
    }
}

/* r->x holds the embedding; on return r->y holds latent_raw. */
static void forward(lp_reference *reference, const place *at) {
    const lp_model *model = reference->model;
    const lp_model_config *config = &model->config;
    size_t hd = (size_t)config->head_dim;
    size_t kv = (size_t)config->n_kv_heads * hd;
    size_t q = (size_t)config->n_heads * hd;
    int32_t d = config->d_model;
    visit(reference, at, LP_SITE_LATENT_IN, 0, reference->x);
    if (model->positions)
        for (int32_t i = 0; i < d; i++)
            reference->x[i] += model->positions[(size_t)at->position * (size_t)d + (size_t)i];
    for (int32_t l = 0; l < config->n_layers; l++) {
        const lp_block *block = &model->blocks[l];
        lp_pulse();
        visit(reference, at, LP_SITE_RESID_PRE, l, reference->x);
        normalise(&block->norm_attn, reference->x, d, config->norm_eps, reference->h);
        linear(&block->qkv, reference->h, reference->qkv);
        for (size_t head = 0; block->norm_q.weight && head < (size_t)(config->n_heads + config->n_kv_heads); head++) {
            float *x = reference->qkv + head * hd;
            normalise(head < (size_t)config->n_heads ? &block->norm_q : &block->norm_k, x, config->head_dim,
                      config->norm_eps, x);
        }
        visit(reference, at, LP_SITE_Q, l, reference->qkv);
        visit(reference, at, LP_SITE_K, l, reference->qkv + q);
        visit(reference, at, LP_SITE_V, l, reference->qkv + q + kv);
        if (reference->rope.half > 0)
            for (size_t head = 0; head < (size_t)(config->n_heads + config->n_kv_heads); head++)
                lp_rope_rotate(&reference->rope, at->position, reference->qkv + head * hd);
        size_t slot = ((size_t)l * (size_t)reference->max_positions + (size_t)at->position) * kv;
        memcpy(reference->keys + slot, reference->qkv + q, kv * sizeof(float));
        memcpy(reference->values + slot, reference->qkv + q + kv, kv * sizeof(float));
        attend(reference, at, l);
        visit(reference, at, LP_SITE_Z, l, reference->attention);
        linear(&block->attn_out, reference->attention, reference->h);
        visit(reference, at, LP_SITE_ATTN_OUT, l, reference->h);
        for (int32_t i = 0; i < d; i++) reference->x[i] += reference->h[i];
        visit(reference, at, LP_SITE_RESID_MID, l, reference->x);
        normalise(&block->norm_mlp, reference->x, d, config->norm_eps, reference->h);
        linear(&block->mlp_in, reference->h, reference->hidden);
        if (config->arch == LP_ARCH_LLAMA)
            for (int32_t i = 0; i < config->d_ff; i++)
                reference->hidden[i] =
                    activated(config->activation, reference->hidden[i]) * reference->hidden[config->d_ff + i];
        else
            for (int32_t i = 0; i < config->d_ff; i++)
                reference->hidden[i] = activated(config->activation, reference->hidden[i]);
        linear(&block->mlp_out, reference->hidden, reference->h);
        visit(reference, at, LP_SITE_MLP_OUT, l, reference->h);
        for (int32_t i = 0; i < d; i++) reference->x[i] += reference->h[i];
        visit(reference, at, LP_SITE_RESID_POST, l, reference->x);
    }
    normalise(&model->final_norm, reference->x, d, config->norm_eps, reference->y);
    visit(reference, at, LP_SITE_LATENT_RAW, 0, reference->y);
}

static void embed(lp_reference *reference, int32_t id) {
    size_t d = (size_t)reference->model->config.d_model;
    memcpy(reference->x, reference->model->embedding.data + (size_t)id * d, d * sizeof(float));
}

/* r->x = what the next step is fed after r->y */
static void project(lp_reference *reference) {
    const lp_projection *projection = &reference->model->projection;
    int32_t d = reference->model->config.d_model;
    if (!projection->present || reference->protocol.feedback == LP_FEEDBACK_NONE) {
        memcpy(reference->x, reference->y, (size_t)d * sizeof(float));
        return;
    }
    linear(&projection->in, reference->y, reference->projected);
    for (int64_t i = 0; i < projection->in.n_out; i++)
        reference->projected[i] = activated(LP_ACT_GELU_ERF, reference->projected[i]);
    if (!projection->has_norm) {
        linear(&projection->out, reference->projected, reference->x);
        return;
    }
    linear(&projection->out, reference->projected, reference->h);
    normalise(&projection->norm, reference->h, d, 1e-5f, reference->x);
}

static int32_t choose(const lp_reference *reference) {
    int32_t best = 0;
    for (int32_t i = 1; i < reference->vocabulary.n_candidates; i++)
        if (reference->logits[i] > reference->logits[best]) best = i;
    return best;
}

lp_status lp_reference_run(lp_reference *reference, const lp_run_request *request, int32_t *tokens, lp_run_answer *out,
                           lp_error *err) {
    int32_t n_steps = request->n_steps, n_start = reference->vocabulary.n_answer_start;
    int64_t longest = (int64_t)request->n_prompt + n_steps + n_start + request->max_new_tokens - 1;
    if (request->n_prompt < 1 || longest > reference->max_positions)
        return lp_fail(err, LP_ERR_VALUE,
                       "run of %d prompt + %d thought + %d answer positions: expected at most %d in all",
                       request->n_prompt, n_steps, n_start + request->max_new_tokens - 1, reference->max_positions);
    for (int32_t i = 0; i < request->n_edits; i++) {
        LP_CHECK(request->edits[i].token ? prepare_tokens(reference, err) : LP_OK);
    }
    place at = {.request = request, .phase = LP_PHASE_PROMPT};
    for (at.index = 0; at.index < request->n_prompt; at.index++, at.position++) {
        embed(reference, request->prompt[at.index]);
        forward(reference, &at);
    }
    at.phase = LP_PHASE_THOUGHT;
    for (at.index = 0; at.index < n_steps; at.index++, at.position++) {
        if (at.index == 0 && reference->vocabulary.first_input >= 0)
            embed(reference, reference->vocabulary.first_input);
        else
            project(reference);
        forward(reference, &at);
    }
    at.phase = LP_PHASE_ANSWER;
    at.index = 0;
    for (; at.index < n_start; at.index++, at.position++) {
        embed(reference, reference->vocabulary.answer_start[at.index]);
        forward(reference, &at);
    }
    lp_run_answer answer = {0};
    while (answer.n_tokens < request->max_new_tokens) {
        lp_reference_lens(reference, reference->y, LP_LENS_PLAIN, reference->logits);
        if (request->on_logits) request->on_logits(request->user, answer.n_tokens, reference->logits);
        bool forced = answer.n_tokens < request->n_forced;
        int32_t next = forced ? request->forced[answer.n_tokens] : choose(reference);
        if (!forced && lp_vocabulary_stops(&reference->vocabulary, next)) {
            answer.ended = true;
            break;
        }
        tokens[answer.n_tokens++] = next;
        if (answer.n_tokens == request->max_new_tokens) break;
        embed(reference, next);
        forward(reference, &at);
        at.index++;
        at.position++;
    }
    *out = answer;
    return LP_OK;
}

void lp_reference_lens(lp_reference *reference, const float *x, lp_lens lens, float *logits) {
    const lp_model *model = reference->model;
    if (lens == LP_LENS_NORM) {
        normalise(&model->final_norm, x, model->config.d_model, model->config.norm_eps, reference->h);
        x = reference->h;
    }
    matrix_times(&model->head, x, logits);
    const lp_vocabulary *vocabulary = &reference->vocabulary;
    for (int32_t i = 0; i < vocabulary->n_not_chosen; i++) logits[vocabulary->not_chosen[i]] = LP_NEVER_LOGIT;
}
