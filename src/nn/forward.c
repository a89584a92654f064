#include "nn/forward.h"

#include "base/memory.h"
#include "base/pulse.h"
#include "nn/batch_lists.h"

struct lp_forward {
    lp_backend *be;
    const lp_model *model;
    int32_t max_rows;
    /* of the weights, which outlive this */
    const lp_block_weights *blocks;
    lp_norm_weights final_norm, projection_norm;
    const lp_backend_linear *projection_in, *projection_out, *head;
    const float *embedding, *positions;
    const float *cosine, *sine; /* dev; NULL without rope */
    lp_rope rope;
    /* workspace, dev; every matrix has LP_ROW_PADDING rows more */
    float *x, *x_out; /* [max_rows, D] residual stream; of the rows that go on after the last K and V */
    float *h, *sum;   /* [max_rows, D] normed input, an operand inside a layer; what a block part adds to the stream */
    float *qkv;       /* [max_rows, Q + 2 KV] */
    float *attention; /* [max_rows, Q] */
    float *mlp, *active; /* [mlp_rows, F or 2 F], [mlp_rows, F] operand */
    int32_t mlp_rows;    /* rows that the MLP takes at once */
    float *projected;    /* [max_rows, projection's inner size] */
    lp_batch_lists lists;
    lp_row_edit *edits; /* host [edits_capacity] of one point */
    size_t edits_capacity;
    lp_row_capture *captures; /* host [captures_capacity] of one point */
    size_t captures_capacity;
    lp_row_choice *choices; /* host [choices_capacity] of one layer */
    size_t choices_capacity;
    float *input; /* host [D], for the hook */
    uint64_t row_layers;
    lp_row_layer_hook hook;
    void *hook_user;
};

int32_t lp_forward_key(int32_t depth, int32_t first_layer) {
    bool taken_over = first_layer > 0 && depth == (first_layer - 1) * LP_N_SITES + LP_SITE_RESID_POST;
    return 2 * depth + (taken_over ? 1 : 0);
}

static int32_t q_width(const lp_model_config *c) {
    return c->n_heads * c->head_dim;
}

static int32_t kv_width(const lp_model_config *c) {
    return c->n_kv_heads * c->head_dim;
}

static int32_t mlp_width(const lp_model_config *c) {
    return c->arch == LP_ARCH_LLAMA ? 2 * c->d_ff : c->d_ff;
}

/* Floats of a row that is one of floats and one of an operand by turns. */
static int32_t operand_floats(const lp_backend *be, int32_t width) {
    size_t bytes = be ? lp_operand_bytes(be, LP_OPERAND, width) : 0;
    int32_t floats = (int32_t)((bytes + sizeof(float) - 1) / sizeof(float));
    return floats > width ? floats : width;
}

static size_t floats_per_row(const lp_backend *be, const lp_model *model) {
    const lp_model_config *c = &model->config;
    size_t projected = model->projection.present ? (size_t)model->projection.in.n_out : 1;
    return 3 * (size_t)c->d_model + (size_t)operand_floats(be, c->d_model) +
           (size_t)(2 * q_width(c) + 2 * kv_width(c)) + projected;
}

/* The MLP's inner activations are wide: they are made for a part of a large batch at a time. */
static int32_t mlp_rows(const lp_backend *be) {
    enum { CPU_ROWS = 1024, MOST_ROWS = 2048 };
    int32_t rows = be ? be->batch_rows : CPU_ROWS;
    return rows < MOST_ROWS ? rows : MOST_ROWS;
}

size_t lp_forward_bytes(const lp_backend *be, const lp_model *model, int32_t max_rows) {
    const lp_model_config *c = &model->config;
    size_t rows = (size_t)max_rows + LP_ROW_PADDING;
    size_t mlp = (size_t)(mlp_rows(be) + LP_ROW_PADDING) * (size_t)(mlp_width(c) + operand_floats(be, c->d_ff));
    return (rows * floats_per_row(be, model) + mlp) * sizeof(float) + rows * 64;
}

static void take_weights(lp_forward *f, const lp_weights *w) {
    f->be = w->be;
    f->model = w->model;
    f->blocks = w->blocks;
    f->final_norm = w->final_norm;
    f->projection_norm = w->projection_norm;
    f->projection_in = w->projection_in;
    f->projection_out = w->projection_out;
    f->head = w->head;
    f->embedding = w->embedding;
    f->positions = w->positions;
}

static lp_status make_rope(lp_forward *f, int32_t max_positions, lp_error *err) {
    lp_status status = lp_rope_init(&f->model->config, max_positions, &f->rope, err);
    if (status != LP_OK || f->rope.half == 0) return status;
    size_t n = (size_t)f->rope.n_positions * (size_t)f->rope.half;
    LP_TRY(f->be->vector_new(f->be, f->rope.cosine, n, &f->cosine, err));
    LP_TRY(f->be->vector_new(f->be, f->rope.sine, n, &f->sine, err));
out:
    return status;
}

static lp_status matrix_new(lp_forward *f, float **out, size_t rows, int32_t width, const char *what, lp_error *err) {
    void *dev = NULL;
    lp_status status = f->be->alloc(f->be, (rows + LP_ROW_PADDING) * (size_t)width * sizeof(float), what, &dev, err);
    if (status == LP_OK) *out = dev;
    return status;
}

/* Does the MLP's activation need no memory of its own? */
static bool in_place(const lp_forward *f) {
    return f->model->config.arch != LP_ARCH_LLAMA && f->be->operand_item_bytes == 0;
}

static lp_status make_workspace(lp_forward *f, lp_error *err) {
    const lp_model_config *c = &f->model->config;
    size_t rows = (size_t)f->max_rows;
    int32_t d = c->d_model;
    int32_t inner = f->model->projection.present ? (int32_t)f->model->projection.in.n_out : 1;
    lp_status status = LP_OK;
    LP_TRY(matrix_new(f, &f->x, rows, d, "residual stream", err));
    LP_TRY(matrix_new(f, &f->x_out, rows, d, "residual stream", err));
    LP_TRY(matrix_new(f, &f->h, rows, operand_floats(f->be, d), "normed input", err));
    LP_TRY(matrix_new(f, &f->sum, rows, d, "block output", err));
    LP_TRY(matrix_new(f, &f->qkv, rows, q_width(c) + 2 * kv_width(c), "q, k, v", err));
    LP_TRY(matrix_new(f, &f->attention, rows, q_width(c), "attention", err));
    LP_TRY(matrix_new(f, &f->mlp, (size_t)f->mlp_rows, mlp_width(c), "MLP", err));
    if (!in_place(f))
        LP_TRY(matrix_new(f, &f->active, (size_t)f->mlp_rows, operand_floats(f->be, c->d_ff), "MLP", err));
    LP_TRY(matrix_new(f, &f->projected, rows, inner, "projection", err));
    LP_TRY(lp_mem_new(&f->input, (size_t)d, sizeof(float), "rows", err));
out:
    return status;
}

static void free_workspace(lp_forward *f) {
    float **matrices[] = {&f->x, &f->x_out, &f->h, &f->sum, &f->qkv, &f->attention, &f->mlp, &f->active, &f->projected};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        if (*matrices[i]) f->be->release(f->be, *matrices[i]);
        *matrices[i] = NULL;
    }
    lp_mem_free(f->input);
    f->input = NULL;
}

lp_status lp_forward_resize(lp_forward *f, int32_t max_rows, lp_error *err) {
    free_workspace(f);
    f->max_rows = max_rows;
    return make_workspace(f, err);
}

lp_status lp_forward_new(const lp_weights *weights, int32_t max_rows, int32_t max_positions, lp_forward **out,
                         lp_error *err) {
    lp_forward *f = NULL;
    lp_status status = lp_mem_new(&f, 1, sizeof *f, "forward pass", err);
    if (status != LP_OK) return status;
    take_weights(f, weights);
    f->max_rows = max_rows;
    f->mlp_rows = mlp_rows(f->be);
    LP_TRY(make_rope(f, max_positions, err));
    LP_TRY(make_workspace(f, err));
    *out = f;
    return LP_OK;
out:
    lp_forward_free(f);
    return status;
}

void lp_forward_free(lp_forward *f) {
    if (!f) return;
    lp_backend *be = f->be;
    if (f->cosine) be->vector_free(be, f->cosine);
    if (f->sine) be->vector_free(be, f->sine);
    free_workspace(f);
    lp_batch_lists_release(&f->lists, be);
    lp_mem_free(f->edits);
    lp_mem_free(f->captures);
    lp_mem_free(f->choices);
    lp_rope_release(&f->rope);
    lp_mem_free(f);
}

uint64_t lp_forward_row_layers(const lp_forward *f) {
    return f->row_layers;
}

void lp_forward_set_hook(lp_forward *f, lp_row_layer_hook hook, void *user) {
    f->hook = hook;
    f->hook_user = user;
}

enum { KEY_SIZES = 8 }; /* words of a record's key in front of the rows by layer */

/* ---- One batch --------------------------------------------------------------------------------------------------- */

/* The batch on its way through the layers. */
typedef struct {
    lp_forward *f;
    const lp_forward_batch *batch;
    const lp_batch_lists *lists;
    int32_t next_edit, next_capture, next_choice;
    int32_t n_normed; /* rows whose input of the next block is normed already */
} pass;

/* Edits, then captures, of one key, on matrix x of `stride` floats. compact: rows are counted among those with output.
 */
static lp_status visit(pass *p, int32_t key, float *x, int32_t stride, bool compact, lp_error *err) {
    lp_forward *f = p->f;
    const lp_forward_batch *b = p->batch;
    lp_status status = LP_OK;
    LP_ASSERT(p->next_edit == b->n_edits || b->edits[p->next_edit].key >= key);
    LP_ASSERT(p->next_capture == b->n_captures || b->captures[p->next_capture].key >= key);
    int32_t n = 0;
    while (p->next_edit + n < b->n_edits && b->edits[p->next_edit + n].key == key) n++;
    if (n > 0) {
        LP_TRY(lp_mem_grow(&f->edits, &f->edits_capacity, (size_t)n, sizeof *f->edits, "edits", err));
        for (int32_t i = 0; i < n; i++) {
            f->edits[i] = b->edits[p->next_edit + i].edit;
            if (compact) f->edits[i].row = p->lists->compact[f->edits[i].row];
            LP_ASSERT(f->edits[i].row >= 0);
        }
        LP_TRY(f->be->edit_rows(f->be, x, stride, f->edits, n, b->vectors, err));
        p->next_edit += n;
    }
    n = 0;
    while (p->next_capture + n < b->n_captures && b->captures[p->next_capture + n].key == key) n++;
    if (n > 0) {
        LP_TRY(lp_mem_grow(&f->captures, &f->captures_capacity, (size_t)n, sizeof *f->captures, "captures", err));
        for (int32_t i = 0; i < n; i++) {
            const lp_forward_capture *c = &b->captures[p->next_capture + i];
            int32_t row = compact ? p->lists->compact[c->row] : c->row;
            LP_ASSERT(row >= 0);
            f->captures[i] = (lp_row_capture){.row = row, .offset = c->offset, .width = c->width, .out = c->out};
        }
        LP_TRY(f->be->capture_rows(f->be, x, stride, f->captures, n, b->captured, err));
        p->next_capture += n;
    }
out:
    return status;
}

/* What the rows' heads attend to, over all their slots or over those that are left to them. */
static lp_status attend(pass *p, int32_t layer, int32_t n_rows, lp_error *err) {
    lp_forward *f = p->f;
    const lp_forward_batch *b = p->batch;
    const lp_model_config *c = &f->model->config;
    int32_t n = 0;
    lp_status status = LP_OK;
    LP_TRY(f->be->attend(f->be, c, f->qkv, &p->lists->rows, n_rows, b->pool, layer, f->attention, err));
    while (p->next_choice + n < b->n_choices && b->choices[p->next_choice + n].layer == layer) n++;
    if (n == 0) return LP_OK;
    LP_TRY(lp_mem_grow(&f->choices, &f->choices_capacity, (size_t)n, sizeof *f->choices, "attention edges", err));
    for (int32_t i = 0; i < n; i++) {
        f->choices[i] = b->choices[p->next_choice + i].choice;
        LP_ASSERT(f->choices[i].row < n_rows && f->choices[i].length > 0);
    }
    LP_TRY(f->be->attend_chosen(f->be, c, f->qkv, f->choices, n, p->lists->chosen, b->pool, layer, f->attention, err));
    p->next_choice += n;
out:
    return status;
}

static int32_t key_of(int32_t layer, lp_site site) {
    return 2 * (layer * LP_N_SITES + (int32_t)site);
}

static lp_status begin(pass *p, lp_error *err) {
    lp_forward *f = p->f;
    lp_backend *be = f->be;
    int32_t d = f->model->config.d_model;
    lp_status status = LP_OK;
    const lp_batch_lists *lists = p->lists;
    if (f->model->embedding.layout == LP_PANELS)
        LP_TRY(be->copy_columns(be, f->x, lists->token_rows, f->embedding, lists->token_ids, lists->n_tokens, d, err));
    else
        LP_TRY(be->copy_rows(be, f->x, lists->token_rows, f->embedding, lists->token_ids, lists->n_tokens, d, err));
    LP_TRY(be->copy_rows(be, f->x, p->lists->latent_rows, p->batch->latents, p->lists->latent_ids, p->lists->n_latents,
                         d, err));
    LP_TRY(visit(p, -2, f->x, d, false, err));
    if (f->positions) LP_TRY(be->add_rows(be, f->x, f->positions, p->lists->rows.position, p->lists->n_fresh, d, err));
    LP_TRY(visit(p, key_of(0, LP_SITE_RESID_PRE), f->x, d, false, err));
out:
    return status;
}

/* Rows whose first layer is `layer` take over their sources' streams. Returns the number of rows from there on in *n.
 */
static lp_status begin_rows(pass *p, int32_t layer, int32_t *n, lp_error *err) {
    lp_forward *f = p->f;
    int32_t d = f->model->config.d_model;
    int32_t first = *n, last = first;
    while (last < p->batch->n_rows && p->batch->first_layer[last] == layer) last++;
    *n = last;
    if (layer == 0 || last == first) return LP_OK;
    lp_status status =
        f->be->copy_rows(f->be, f->x + (int64_t)first * d, NULL, f->x, p->lists->source + first, last - first, d, err);
    if (status == LP_OK) status = visit(p, key_of(layer - 1, LP_SITE_RESID_POST) + 1, f->x, d, false, err);
    return status;
}

static lp_status report_inputs(const pass *p, int32_t layer, int32_t n, lp_error *err) {
    lp_forward *f = p->f;
    int32_t d = f->model->config.d_model;
    for (int32_t r = 0; r < n; r++) {
        lp_status status = f->be->download(f->be, f->input, f->x + (int64_t)r * d, (size_t)d * sizeof(float), err);
        if (status != LP_OK) return status;
        f->hook(f->hook_user, p->batch, r, layer, f->input);
    }
    return LP_OK;
}

/* Row `row` of h, which the layers' products read. */
static float *operand_row(const lp_forward *f, int64_t row) {
    size_t bytes = lp_operand_bytes(f->be, LP_OPERAND, f->model->config.d_model);
    return (float *)(void *)((char *)f->h + (size_t)row * bytes);
}

static lp_status mlp(lp_forward *f, const lp_block_weights *w, int32_t n, lp_error *err) {
    lp_backend *be = f->be;
    const lp_model_config *c = &f->model->config;
    bool gated = c->arch == LP_ARCH_LLAMA;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    int32_t part = lp_equal_part(n, f->mlp_rows);
    for (int32_t first = 0; first < n && status == LP_OK; first += part) {
        int32_t rows = n - first < part ? n - first : part;
        float *active = in_place(f) ? f->mlp : f->active;
        lp_pulse();
        status = be->linear(be, w->mlp_in, LP_OPERAND, operand_row(f, first), rows, f->mlp, err);
        if (status == LP_OK)
            status = be->activate(be, c->activation, gated, f->mlp, rows, c->d_ff, LP_OPERAND, active, err);
        if (status == LP_OK)
            status = be->linear(be, w->mlp_out, LP_OPERAND, active, rows, f->sum + (int64_t)first * c->d_model, err);
    }
    return status;
}

static bool has_edits(const pass *p, int32_t key) {
    return p->next_edit < p->batch->n_edits && p->batch->edits[p->next_edit].key == key;
}

/* x [n, D] += f->sum, with the edits and captures of `key`; f->h = norm of x. */
static lp_status add_and_norm(pass *p, int32_t key, float *x, int32_t n, const lp_norm_weights *w, bool compact,
                              lp_error *err) {
    lp_forward *f = p->f;
    lp_backend *be = f->be;
    const lp_model_config *c = &f->model->config;
    bool changes = has_edits(p, key);
    lp_status status = LP_OK;
    if (changes)
        LP_TRY(be->add_rows(be, x, f->sum, NULL, n, c->d_model, err));
    else
        LP_TRY(be->add_norm(be, x, f->sum, w->weight, w->bias, c->norm_eps, n, c->d_model, LP_OPERAND, f->h, err));
    LP_TRY(visit(p, key, x, c->d_model, compact, err));
    if (changes) LP_TRY(be->norm(be, x, w->weight, w->bias, c->norm_eps, n, c->d_model, LP_OPERAND, f->h, err));
out:
    return status;
}

/* One block over the first n rows; after the last layer's K and V only the rows with output go on, in x_out. */
static lp_status run_layer(pass *p, int32_t layer, int32_t n, lp_error *err) {
    lp_forward *f = p->f;
    lp_backend *be = f->be;
    const lp_model_config *c = &f->model->config;
    const lp_block_weights *w = &f->blocks[layer];
    int32_t d = c->d_model, q = q_width(c), kv = kv_width(c), stride = q + 2 * kv;
    bool last = layer == c->n_layers - 1;
    lp_status status = LP_OK;
    f->row_layers += (uint64_t)n;
    lp_pulse();
    LP_TRY(be->norm(be, f->x + (int64_t)p->n_normed * d, w->norm_attn.weight, w->norm_attn.bias, c->norm_eps,
                    n - p->n_normed, d, LP_OPERAND, operand_row(f, p->n_normed), err));
    LP_TRY(be->linear(be, w->qkv, LP_OPERAND, f->h, n, f->qkv, err));
    if (w->norm_q) LP_TRY(be->norm_heads(be, c, f->qkv, n, w->norm_q, w->norm_k, err));
    LP_TRY(visit(p, key_of(layer, LP_SITE_Q), f->qkv, stride, false, err));
    LP_TRY(visit(p, key_of(layer, LP_SITE_K), f->qkv + q, stride, false, err));
    LP_TRY(visit(p, key_of(layer, LP_SITE_V), f->qkv + q + kv, stride, false, err));
    LP_TRY(be->store_kv(be, c, f->qkv, &p->lists->rows, n, f->cosine, f->sine, p->batch->pool, layer, err));
    int32_t first_copy = p->lists->copy_begin[layer];
    LP_TRY(be->copy_kv(be, p->batch->pool, layer, p->lists->copy_from + first_copy, p->lists->copy_to + first_copy,
                       p->lists->copy_begin[layer + 1] - first_copy, err));
    if (f->hook) LP_TRY(report_inputs(p, layer, n, err));
    LP_TRY(attend(p, layer, n, err));
    float *x = f->x, *attention = f->attention;
    if (last) {
        /* Rows that share all layers are at the end of out_rows and have no attention of their own. */
        int32_t computed = 0;
        while (computed < p->lists->n_out && p->lists->host_out_rows[computed] < n) computed++;
        x = f->x_out;
        attention = f->qkv;
        LP_TRY(be->copy_rows(be, x, NULL, f->x, p->lists->out_rows, computed, d, err));
        LP_TRY(be->copy_rows(be, attention, NULL, f->attention, p->lists->out_rows, computed, q, err));
        n = computed;
    }
    LP_TRY(visit(p, key_of(layer, LP_SITE_Z), attention, q, last, err));
    LP_TRY(be->linear(be, w->attn_out, LP_FLOATS, attention, n, f->sum, err));
    LP_TRY(visit(p, key_of(layer, LP_SITE_ATTN_OUT), f->sum, d, last, err));
    LP_TRY(add_and_norm(p, key_of(layer, LP_SITE_RESID_MID), x, n, &w->norm_mlp, last, err));
    LP_TRY(mlp(f, w, n, err));
    LP_TRY(visit(p, key_of(layer, LP_SITE_MLP_OUT), f->sum, d, last, err));
    int32_t post = key_of(layer, LP_SITE_RESID_POST);
    if (last) {
        LP_TRY(be->add_rows(be, x, f->sum, NULL, n, d, err));
        LP_TRY(visit(p, post, x, d, true, err));
    } else {
        LP_TRY(add_and_norm(p, post, x, n, &f->blocks[layer + 1].norm_attn, false, err));
        p->n_normed = n;
    }
out:
    return status;
}

/* Rows that share everything with their source take its stream over after the last layer. */
static lp_status copy_outputs(pass *p, lp_error *err) {
    lp_forward *f = p->f;
    int32_t d = f->model->config.d_model, n_layers = f->model->config.n_layers;
    lp_status status = f->be->copy_rows(f->be, f->x_out, p->lists->output_to, f->x_out, p->lists->output_from,
                                        p->lists->n_output_copies, d, err);
    if (status == LP_OK) status = visit(p, key_of(n_layers - 1, LP_SITE_RESID_POST) + 1, f->x_out, d, true, err);
    return status;
}

/* From the inputs to the normed final states. */
static lp_status run_layers(pass *p, lp_error *err) {
    lp_forward *f = p->f;
    const lp_model_config *c = &f->model->config;
    int32_t n = 0;
    lp_status status = LP_OK;
    LP_TRY(begin_rows(p, 0, &n, err));
    LP_TRY(begin(p, err));
    for (int32_t l = 0; l < c->n_layers; l++) {
        if (l > 0) LP_TRY(begin_rows(p, l, &n, err));
        LP_TRY(run_layer(p, l, n, err));
    }
    LP_TRY(copy_outputs(p, err));
    LP_TRY(lp_forward_final_norm(f, f->x_out, p->lists->n_out, f->h, err));
    LP_TRY(visit(p, 2 * c->n_layers * LP_N_SITES, f->h, c->d_model, true, err));
out:
    return status;
}

/* A batch without edits and captures, as most of decoding is, issues the same calls whenever these are equal: the
 * number of rows by layer gives that of the rows that begin and of the slots that are copied there. */
static lp_record_key record_key(const pass *p) {
    const lp_forward_batch *b = p->batch;
    lp_record_key key = {{(uint64_t)(uintptr_t)p->f, (uint64_t)(uintptr_t)b->pool->keys,
                          (uint64_t)(uintptr_t)b->latents, (uint64_t)p->lists->n_tokens, (uint64_t)p->lists->n_latents,
                          (uint64_t)p->lists->n_out, (uint64_t)p->lists->n_output_copies,
                          (uint64_t)p->lists->rows.n_groups}};
    for (int32_t r = 0; r < b->n_rows; r++) key.words[KEY_SIZES + b->first_layer[r]]++;
    return key;
}

static lp_status run_recorded(pass *p, lp_error *err) {
    lp_forward *f = p->f;
    const lp_record_key key = record_key(p);
    const pass before = *p;
    uint64_t computed = f->row_layers, row_layers = 0;
    lp_status status = LP_OK;
    for (int32_t r = 0; r < p->batch->n_rows; r++)
        row_layers += (uint64_t)(f->model->config.n_layers - p->batch->first_layer[r]);
    for (bool again = true, replayed = false; again;) {
        *p = before;
        f->row_layers = computed;
        LP_TRY(f->be->record_begin(f->be, &key, &replayed, err));
        if (replayed) {
            lp_pulse();
            f->row_layers += row_layers;
            break;
        }
        status = run_layers(p, err);
        LP_TRY(f->be->record_end(f->be, status, &again, err));
    }
out:
    return status;
}

lp_status lp_forward_run(lp_forward *f, const lp_forward_batch *batch, const float **hidden, int32_t *n_out,
                         lp_error *err) {
    pass p = {.f = f, .batch = batch, .lists = &f->lists};
    lp_status status = LP_OK;
    LP_ASSERT(batch->n_rows <= f->max_rows);
    LP_TRY(lp_batch_lists_make(&f->lists, f->be, batch, f->model->config.n_layers, err));
    bool plain = batch->n_edits == 0 && batch->n_captures == 0 && batch->n_choices == 0 && !f->hook &&
                 KEY_SIZES + f->model->config.n_layers < LP_RECORD_WORDS;
    if (plain && batch->n_rows <= f->be->record_rows)
        LP_TRY(run_recorded(&p, err));
    else
        LP_TRY(run_layers(&p, err));
    LP_ASSERT(p.next_edit == batch->n_edits && p.next_capture == batch->n_captures &&
              p.next_choice == batch->n_choices);
    *hidden = f->h;
    *n_out = p.lists->n_out;
out:
    return status;
}

lp_status lp_forward_project(lp_forward *f, const float *hidden, int32_t n, float *out, lp_error *err) {
    lp_backend *be = f->be;
    int32_t d = f->model->config.d_model;
    const lp_projection *p = &f->model->projection;
    if (!p->present) return be->copy_rows(be, out, NULL, hidden, NULL, n, d, err);
    lp_status status = LP_OK;
    LP_TRY(be->linear(be, f->projection_in, LP_FLOATS, hidden, n, f->projected, err));
    LP_TRY(
        be->activate(be, LP_ACT_GELU_ERF, false, f->projected, n, (int32_t)p->in.n_out, LP_FLOATS, f->projected, err));
    if (!p->has_norm) {
        LP_TRY(be->linear(be, f->projection_out, LP_FLOATS, f->projected, n, f->sum, err));
        status = be->copy_rows(be, out, NULL, f->sum, NULL, n, d, err);
        goto out;
    }
    LP_TRY(be->linear(be, f->projection_out, LP_FLOATS, f->projected, n, f->sum, err));
    LP_TRY(be->norm(be, f->sum, f->projection_norm.weight, f->projection_norm.bias, 1e-5f, n, d, LP_FLOATS, out, err));
out:
    return status;
}

lp_status lp_forward_final_norm(lp_forward *f, const float *x, int32_t n, float *out, lp_error *err) {
    const lp_model_config *c = &f->model->config;
    return f->be->norm(f->be, x, f->final_norm.weight, f->final_norm.bias, c->norm_eps, n, c->d_model, LP_FLOATS, out,
                       err);
}

lp_status lp_forward_head(lp_forward *f, const float *hidden, int32_t n, float *logits, lp_error *err) {
    lp_pulse();
    return f->be->linear(f->be, f->head, LP_FLOATS, hidden, n, logits, err);
}
