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
    float *attention; /* [max_rows, Q], floats or an operand */
    float *mlp, *active; /* [mlp_rows, F or 2 F], [mlp_rows, F] operand */
    int32_t mlp_rows;    /* rows that the MLP takes at once */
    float *projected;    /* [max_rows, projection's inner size] */
    float *gelu;         /* the same, an operand; NULL: in place */
    lp_batch_lists lists;
    lp_row_edit *edits; /* host [edits_capacity] of one point */
    size_t edits_capacity;
    lp_nearest_row *token_edits; /* host [token_edits_capacity] of one point */
    size_t token_edits_capacity;
    lp_nearest nearest;
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

static int32_t q_width(const lp_model_config *config) {
    return config->n_heads * config->head_dim;
}

static int32_t kv_width(const lp_model_config *config) {
    return config->n_kv_heads * config->head_dim;
}

static int32_t mlp_width(const lp_model_config *config) {
    return config->arch == LP_ARCH_LLAMA ? 2 * config->d_ff : config->d_ff;
}

/* Floats of a row of q, k, v, or of an operand of the output projection, for which the last layer uses the same room.
 */
static int32_t qkv_floats(const lp_backend *be, const lp_model_config *config) {
    int32_t floats = q_width(config) + 2 * kv_width(config), operand = lp_operand_floats(be, q_width(config));
    return floats > operand ? floats : operand;
}

/* Do products read other forms than floats? Then activations need memory of their own. */
static bool has_operands(const lp_backend *be) {
    return be && be->operand_item_bytes > 0;
}

static size_t floats_per_row(const lp_backend *be, const lp_model *model) {
    const lp_model_config *config = &model->config;
    int32_t inner = model->projection.present ? (int32_t)model->projection.in.n_out : 1;
    return 3 * (size_t)config->d_model + (size_t)lp_operand_floats(be, config->d_model) +
           (size_t)qkv_floats(be, config) + (size_t)lp_operand_floats(be, q_width(config)) + (size_t)inner +
           (size_t)(has_operands(be) ? lp_operand_floats(be, inner) : 0);
}

/* The MLP's inner activations are wide: they are made for a part of a large batch at a time. */
static int32_t mlp_rows(const lp_backend *be) {
    enum { CPU_ROWS = 1024, MOST_ROWS = 2048 };
    int32_t rows = be ? be->batch_rows : CPU_ROWS;
    return rows < MOST_ROWS ? rows : MOST_ROWS;
}

size_t lp_forward_bytes(const lp_backend *be, const lp_model *model, int32_t max_rows) {
    const lp_model_config *config = &model->config;
    size_t rows = (size_t)max_rows + LP_ROW_PADDING;
    size_t mlp =
        (size_t)(mlp_rows(be) + LP_ROW_PADDING) * (size_t)(mlp_width(config) + lp_operand_floats(be, config->d_ff));
    return (rows * floats_per_row(be, model) + mlp) * sizeof(float) + rows * 64;
}

static void take_weights(lp_forward *forward, const lp_weights *weights) {
    forward->be = weights->be;
    forward->model = weights->model;
    forward->blocks = weights->blocks;
    forward->final_norm = weights->final_norm;
    forward->projection_norm = weights->projection_norm;
    forward->projection_in = weights->projection_in;
    forward->projection_out = weights->projection_out;
    forward->head = weights->head;
    forward->embedding = weights->embedding;
    forward->positions = weights->positions;
}

static lp_status make_rope(lp_forward *forward, int32_t max_positions, lp_error *err) {
    lp_status status = lp_rope_init(&forward->model->config, max_positions, &forward->rope, err);
    if (status != LP_OK || forward->rope.half == 0) return status;
    size_t n = (size_t)forward->rope.n_positions * (size_t)forward->rope.half;
    LP_TRY(forward->be->vector_new(forward->be, forward->rope.cosine, n, &forward->cosine, err));
    LP_TRY(forward->be->vector_new(forward->be, forward->rope.sine, n, &forward->sine, err));
out:
    return status;
}

static lp_status matrix_new(lp_forward *forward, float **out, size_t rows, int32_t width, const char *what,
                            lp_error *err) {
    void *dev = NULL;
    lp_status status =
        forward->be->alloc(forward->be, (rows + LP_ROW_PADDING) * (size_t)width * sizeof(float), what, &dev, err);
    if (status == LP_OK) *out = dev;
    return status;
}

/* Does the MLP's activation need no memory of its own? */
static bool in_place(const lp_forward *forward) {
    return forward->model->config.arch != LP_ARCH_LLAMA && !has_operands(forward->be);
}

static lp_status make_workspace(lp_forward *forward, lp_error *err) {
    const lp_model_config *config = &forward->model->config;
    size_t rows = (size_t)forward->max_rows;
    int32_t d = config->d_model;
    int32_t inner = forward->model->projection.present ? (int32_t)forward->model->projection.in.n_out : 1;
    LP_CHECK(matrix_new(forward, &forward->x, rows, d, "residual stream", err));
    LP_CHECK(matrix_new(forward, &forward->x_out, rows, d, "residual stream", err));
    LP_CHECK(matrix_new(forward, &forward->h, rows, lp_operand_floats(forward->be, d), "normed input", err));
    LP_CHECK(matrix_new(forward, &forward->sum, rows, d, "block output", err));
    LP_CHECK(matrix_new(forward, &forward->qkv, rows, qkv_floats(forward->be, config), "q, k, v", err));
    LP_CHECK(matrix_new(forward, &forward->attention, rows, lp_operand_floats(forward->be, q_width(config)),
                        "attention", err));
    LP_CHECK(matrix_new(forward, &forward->mlp, (size_t)forward->mlp_rows, mlp_width(config), "MLP", err));
    if (!in_place(forward))
        LP_CHECK(matrix_new(forward, &forward->active, (size_t)forward->mlp_rows,
                            lp_operand_floats(forward->be, config->d_ff), "MLP", err));
    LP_CHECK(matrix_new(forward, &forward->projected, rows, inner, "projection", err));
    if (has_operands(forward->be))
        LP_CHECK(matrix_new(forward, &forward->gelu, rows, lp_operand_floats(forward->be, inner), "projection", err));
    LP_CHECK(lp_mem_new(&forward->input, (size_t)d, sizeof(float), "rows", err));
    return LP_OK;
}

static void free_workspace(lp_forward *forward) {
    float **matrices[] = {&forward->x,         &forward->x_out, &forward->h,      &forward->sum,       &forward->qkv,
                          &forward->attention, &forward->mlp,   &forward->active, &forward->projected, &forward->gelu};
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        if (*matrices[i]) forward->be->release(forward->be, *matrices[i]);
        *matrices[i] = NULL;
    }
    lp_mem_free(forward->input);
    forward->input = NULL;
}

lp_status lp_forward_resize(lp_forward *forward, int32_t max_rows, lp_error *err) {
    free_workspace(forward);
    forward->max_rows = max_rows;
    return make_workspace(forward, err);
}

lp_status lp_forward_new(const lp_weights *weights, int32_t max_rows, int32_t max_positions, lp_forward **out,
                         lp_error *err) {
    lp_forward *forward = NULL;
    lp_status status = lp_mem_new(&forward, 1, sizeof *forward, "forward pass", err);
    if (status != LP_OK) return status;
    forward->nearest.weights = weights;
    take_weights(forward, weights);
    forward->max_rows = max_rows;
    forward->mlp_rows = mlp_rows(forward->be);
    LP_TRY(make_rope(forward, max_positions, err));
    LP_TRY(make_workspace(forward, err));
    *out = forward;
    return LP_OK;
out:
    lp_forward_free(forward);
    return status;
}

void lp_forward_free(lp_forward *forward) {
    if (!forward) return;
    lp_backend *be = forward->be;
    if (forward->cosine) be->vector_free(be, forward->cosine);
    if (forward->sine) be->vector_free(be, forward->sine);
    free_workspace(forward);
    lp_batch_lists_release(&forward->lists, be);
    lp_nearest_release(&forward->nearest);
    lp_mem_free(forward->edits);
    lp_mem_free(forward->token_edits);
    lp_mem_free(forward->captures);
    lp_mem_free(forward->choices);
    lp_rope_release(&forward->rope);
    lp_mem_free(forward);
}

uint64_t lp_forward_row_layers(const lp_forward *forward) {
    return forward->row_layers;
}

void lp_forward_set_hook(lp_forward *forward, lp_row_layer_hook hook, void *user) {
    forward->hook = hook;
    forward->hook_user = user;
}

/* ---- One batch --------------------------------------------------------------------------------------------------- */

/* The batch on its way through the layers. */
typedef struct {
    lp_forward *f;
    const lp_forward_batch *batch;
    const lp_batch_lists *lists;
    int32_t next_edit, next_capture, next_choice;
    int32_t n_normed; /* rows whose input of the next block is normed already */
} forward_pass;

/* The next n edits. */
static lp_status edit(const forward_pass *pass, int32_t n, float *x, int32_t stride, bool compact, lp_error *err) {
    lp_forward *forward = pass->f;
    const lp_forward_batch *batch = pass->batch;
    int32_t n_plain = 0, n_token = 0;
    LP_CHECK(lp_mem_grow(&forward->edits, &forward->edits_capacity, (size_t)n, sizeof *forward->edits, "edits", err));
    for (int32_t i = 0; i < n; i++) {
        const lp_forward_edit *from = &batch->edits[pass->next_edit + i];
        if (from->token.token) continue;
        forward->edits[n_plain] = from->edit;
        if (compact) forward->edits[n_plain].row = pass->lists->compact[from->edit.row];
        LP_ASSERT(forward->edits[n_plain].row >= 0);
        n_plain++;
    }
    LP_CHECK(forward->be->edit_rows(forward->be, x, stride, forward->edits, n_plain, batch->vectors, err));
    if (n_plain == n) return LP_OK;
    LP_ASSERT(stride == forward->model->config.d_model);
    LP_CHECK(lp_mem_grow(&forward->token_edits, &forward->token_edits_capacity, (size_t)(n - n_plain),
                         sizeof *forward->token_edits, "edits", err));
    for (int by = LP_NEAREST_DOT; by <= LP_NEAREST_COSINE; by++)
        for (int32_t i = 0; i < n; i++) {
            const lp_forward_edit *from = &batch->edits[pass->next_edit + i];
            if (!from->token.token || (int)from->token.token->by != by) continue;
            int32_t row = compact ? pass->lists->compact[from->edit.row] : from->edit.row;
            LP_ASSERT(row >= 0);
            forward->token_edits[n_token++] = (lp_nearest_row){.row = row, .edit = &from->token};
        }
    return lp_nearest_edit(&forward->nearest, &batch->room, x, forward->token_edits, n_token, err);
}

static int32_t key_of(int32_t layer, lp_site site) {
    return 2 * (layer * LP_N_SITES + (int32_t)site);
}

/* Edits, then captures, of one key, on matrix x of `stride` floats. compact: rows are counted among those with output.
 */
static lp_status visit(forward_pass *pass, int32_t key, float *x, int32_t stride, bool compact, lp_error *err) {
    lp_forward *forward = pass->f;
    const lp_forward_batch *batch = pass->batch;
    LP_ASSERT(pass->next_edit == batch->n_edits || batch->edits[pass->next_edit].key >= key);
    LP_ASSERT(pass->next_capture == batch->n_captures || batch->captures[pass->next_capture].key >= key);
    int32_t n = 0;
    while (pass->next_edit + n < batch->n_edits && batch->edits[pass->next_edit + n].key == key) n++;
    if (n > 0) LP_CHECK(edit(pass, n, x, stride, compact, err));
    pass->next_edit += n;
    n = 0;
    while (pass->next_capture + n < batch->n_captures && batch->captures[pass->next_capture + n].key == key) n++;
    if (n > 0) {
        LP_CHECK(lp_mem_grow(&forward->captures, &forward->captures_capacity, (size_t)n, sizeof *forward->captures,
                             "captures", err));
        for (int32_t i = 0; i < n; i++) {
            const lp_forward_capture *capture = &batch->captures[pass->next_capture + i];
            int32_t row = compact ? pass->lists->compact[capture->row] : capture->row;
            LP_ASSERT(row >= 0);
            forward->captures[i] =
                (lp_row_capture){.row = row, .offset = capture->offset, .width = capture->width, .out = capture->out};
        }
        LP_CHECK(forward->be->capture_rows(forward->be, x, stride, forward->captures, n, batch->captured, err));
        pass->next_capture += n;
    }
    return LP_OK;
}

/* What the rows' heads attend to, over all their slots or over those that are left to them. form: of the result */
static lp_status attend(forward_pass *pass, int32_t layer, int32_t n_rows, lp_form form, lp_error *err) {
    lp_forward *forward = pass->f;
    const lp_forward_batch *batch = pass->batch;
    const lp_model_config *config = &forward->model->config;
    int32_t n = 0;
    LP_CHECK(forward->be->attend(forward->be, config, forward->qkv, &pass->lists->rows, n_rows, batch->pool, layer,
                                 form, forward->attention, err));
    while (pass->next_choice + n < batch->n_choices && batch->choices[pass->next_choice + n].layer == layer) n++;
    if (n == 0) return LP_OK;
    LP_CHECK(lp_mem_grow(&forward->choices, &forward->choices_capacity, (size_t)n, sizeof *forward->choices,
                         "attention edges", err));
    for (int32_t i = 0; i < n; i++) {
        forward->choices[i] = batch->choices[pass->next_choice + i].choice;
        LP_ASSERT(forward->choices[i].row < n_rows && forward->choices[i].length > 0);
    }
    LP_CHECK(forward->be->attend_chosen(forward->be, config, forward->qkv, forward->choices, n, pass->lists->chosen,
                                        batch->pool, layer, forward->attention, err));
    pass->next_choice += n;
    return LP_OK;
}

static lp_status begin(forward_pass *pass, lp_error *err) {
    lp_forward *forward = pass->f;
    lp_backend *be = forward->be;
    int32_t d = forward->model->config.d_model;
    const lp_batch_lists *lists = pass->lists;
    if (forward->model->embedding.layout == LP_PANELS)
        LP_CHECK(be->copy_columns(be, forward->x, lists->token_rows, forward->embedding, lists->token_ids,
                                  lists->n_tokens, d, err));
    else
        LP_CHECK(be->copy_rows(be, forward->x, lists->token_rows, forward->embedding, lists->token_ids, lists->n_tokens,
                               d, err));
    LP_CHECK(be->copy_rows(be, forward->x, pass->lists->latent_rows, pass->batch->latents, pass->lists->latent_ids,
                           pass->lists->n_latents, d, err));
    LP_CHECK(visit(pass, -2, forward->x, d, false, err));
    if (forward->positions)
        LP_CHECK(
            be->add_rows(be, forward->x, forward->positions, pass->lists->rows.position, pass->lists->n_fresh, d, err));
    return visit(pass, key_of(0, LP_SITE_RESID_PRE), forward->x, d, false, err);
}

/* Rows whose first layer is `layer` take over their sources' streams. Returns the number of rows from there on in *n.
 */
static lp_status begin_rows(forward_pass *pass, int32_t layer, int32_t *n, lp_error *err) {
    lp_forward *forward = pass->f;
    int32_t d = forward->model->config.d_model;
    int32_t first = *n, last = first;
    while (last < pass->batch->n_rows && pass->batch->first_layer[last] == layer) last++;
    *n = last;
    if (layer == 0 || last == first) return LP_OK;
    lp_status status = forward->be->copy_rows(forward->be, forward->x + (int64_t)first * d, NULL, forward->x,
                                              pass->lists->source + first, last - first, d, err);
    if (status == LP_OK) status = visit(pass, key_of(layer - 1, LP_SITE_RESID_POST) + 1, forward->x, d, false, err);
    return status;
}

static lp_status report_inputs(const forward_pass *pass, int32_t layer, int32_t n, lp_error *err) {
    lp_forward *forward = pass->f;
    int32_t d = forward->model->config.d_model;
    for (int32_t r = 0; r < n; r++) {
        LP_CHECK(forward->be->download(forward->be, forward->input, forward->x + (int64_t)r * d,
                                       (size_t)d * sizeof(float), err));
        forward->hook(forward->hook_user, pass->batch, r, layer, forward->input);
    }
    return LP_OK;
}

/* Row `row` of h, which the layers' products read. */
static float *operand_row(const lp_forward *forward, int64_t row) {
    size_t bytes = lp_operand_bytes(forward->be, LP_OPERAND, forward->model->config.d_model);
    return (float *)(void *)((char *)forward->h + (size_t)row * bytes);
}

static lp_status mlp(lp_forward *forward, const lp_block_weights *weights, int32_t n, lp_error *err) {
    lp_backend *be = forward->be;
    const lp_model_config *config = &forward->model->config;
    bool gated = config->arch == LP_ARCH_LLAMA;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    int32_t part = lp_equal_part(n, forward->mlp_rows);
    for (int32_t first = 0; first < n && status == LP_OK; first += part) {
        int32_t rows = n - first < part ? n - first : part;
        float *active = in_place(forward) ? forward->mlp : forward->active;
        lp_pulse();
        status = be->linear(be, weights->mlp_in, LP_OPERAND, operand_row(forward, first), rows, forward->mlp, err);
        if (status == LP_OK)
            status =
                be->activate(be, config->activation, gated, forward->mlp, rows, config->d_ff, LP_OPERAND, active, err);
        if (status == LP_OK)
            status = be->linear(be, weights->mlp_out, LP_OPERAND, active, rows,
                                forward->sum + (int64_t)first * config->d_model, err);
    }
    return status;
}

static bool has_edits(const forward_pass *pass, int32_t key) {
    return pass->next_edit < pass->batch->n_edits && pass->batch->edits[pass->next_edit].key == key;
}

static bool has_captures(const forward_pass *pass, int32_t key) {
    return pass->next_capture < pass->batch->n_captures && pass->batch->captures[pass->next_capture].key == key;
}

static bool has_choices(const forward_pass *pass, int32_t layer) {
    return pass->next_choice < pass->batch->n_choices && pass->batch->choices[pass->next_choice].layer == layer;
}

/* x [n, D] += f->sum, with the edits and captures of `key`; f->h = norm of x. */
static lp_status add_and_norm(forward_pass *pass, int32_t key, float *x, int32_t n, const lp_norm_weights *weights,
                              bool compact, lp_error *err) {
    lp_forward *forward = pass->f;
    lp_backend *be = forward->be;
    const lp_model_config *config = &forward->model->config;
    bool changes = has_edits(pass, key);
    if (changes)
        LP_CHECK(be->add_rows(be, x, forward->sum, NULL, n, config->d_model, err));
    else
        LP_CHECK(be->add_norm(be, x, forward->sum, weights->weight, weights->bias, config->norm_eps, n, config->d_model,
                              LP_OPERAND, forward->h, err));
    LP_CHECK(visit(pass, key, x, config->d_model, compact, err));
    if (changes)
        LP_CHECK(be->norm(be, x, weights->weight, weights->bias, config->norm_eps, n, config->d_model, LP_OPERAND,
                          forward->h, err));
    return LP_OK;
}

/* One block over the first n rows; after the last layer's K and V only the rows with output go on, in x_out. */
static lp_status run_layer(forward_pass *pass, int32_t layer, int32_t n, lp_error *err) {
    lp_forward *forward = pass->f;
    lp_backend *be = forward->be;
    const lp_model_config *config = &forward->model->config;
    const lp_block_weights *weights = &forward->blocks[layer];
    int32_t d = config->d_model, q = q_width(config), kv = kv_width(config), stride = q + 2 * kv;
    bool last = layer == config->n_layers - 1;
    forward->row_layers += (uint64_t)n;
    lp_count_row_layers((uint64_t)n);
    lp_pulse();
    LP_CHECK(be->norm(be, forward->x + (int64_t)pass->n_normed * d, weights->norm_attn.weight, weights->norm_attn.bias,
                      config->norm_eps, n - pass->n_normed, d, LP_OPERAND, operand_row(forward, pass->n_normed), err));
    LP_CHECK(be->linear(be, weights->qkv, LP_OPERAND, forward->h, n, forward->qkv, err));
    if (weights->norm_q) LP_CHECK(be->norm_heads(be, config, forward->qkv, n, weights->norm_q, weights->norm_k, err));
    LP_CHECK(visit(pass, key_of(layer, LP_SITE_Q), forward->qkv, stride, false, err));
    LP_CHECK(visit(pass, key_of(layer, LP_SITE_K), forward->qkv + q, stride, false, err));
    LP_CHECK(visit(pass, key_of(layer, LP_SITE_V), forward->qkv + q + kv, stride, false, err));
    LP_CHECK(be->store_kv(be, config, forward->qkv, &pass->lists->rows, n, forward->cosine, forward->sine,
                          pass->batch->pool, layer, err));
    int32_t first_copy = pass->lists->copy_begin[layer];
    LP_CHECK(be->copy_kv(be, pass->batch->pool, layer, pass->lists->copy_from + first_copy,
                         pass->lists->copy_to + first_copy, pass->lists->copy_begin[layer + 1] - first_copy, err));
    if (forward->hook) LP_CHECK(report_inputs(pass, layer, n, err));
    /* Attention writes what the next product reads, unless somebody comes between. */
    const int32_t z = key_of(layer, LP_SITE_Z);
    const bool chosen = has_choices(pass, layer), untouched = !has_edits(pass, z) && !has_captures(pass, z);
    const lp_form form = untouched && (last || !chosen) ? LP_OPERAND : LP_FLOATS;
    LP_CHECK(attend(pass, layer, n, last ? LP_FLOATS : form, err));
    float *x = forward->x, *attention = forward->attention;
    if (last) {
        /* Rows that share all layers are at the end of out_rows and have no attention of their own. */
        int32_t computed = 0;
        while (computed < pass->lists->n_out && pass->lists->host_out_rows[computed] < n) computed++;
        x = forward->x_out;
        attention = forward->qkv;
        LP_CHECK(be->copy_rows(be, x, NULL, forward->x, pass->lists->out_rows, computed, d, err));
        if (form == LP_OPERAND)
            LP_CHECK(be->pack_rows(be, attention, forward->attention, pass->lists->out_rows, computed, q, err));
        else
            LP_CHECK(be->copy_rows(be, attention, NULL, forward->attention, pass->lists->out_rows, computed, q, err));
        n = computed;
    }
    LP_CHECK(visit(pass, key_of(layer, LP_SITE_Z), attention, q, last, err));
    LP_CHECK(be->linear(be, weights->attn_out, form, attention, n, forward->sum, err));
    LP_CHECK(visit(pass, key_of(layer, LP_SITE_ATTN_OUT), forward->sum, d, last, err));
    LP_CHECK(add_and_norm(pass, key_of(layer, LP_SITE_RESID_MID), x, n, &weights->norm_mlp, last, err));
    LP_CHECK(mlp(forward, weights, n, err));
    LP_CHECK(visit(pass, key_of(layer, LP_SITE_MLP_OUT), forward->sum, d, last, err));
    int32_t post = key_of(layer, LP_SITE_RESID_POST);
    if (last) {
        LP_CHECK(be->add_rows(be, x, forward->sum, NULL, n, d, err));
        LP_CHECK(visit(pass, post, x, d, true, err));
    } else {
        LP_CHECK(add_and_norm(pass, post, x, n, &forward->blocks[layer + 1].norm_attn, false, err));
        pass->n_normed = n;
    }
    return LP_OK;
}

/* Rows that share everything with their source take its stream over after the last layer. */
static lp_status copy_outputs(forward_pass *pass, lp_error *err) {
    lp_forward *forward = pass->f;
    int32_t d = forward->model->config.d_model, n_layers = forward->model->config.n_layers;
    lp_status status = forward->be->copy_rows(forward->be, forward->x_out, pass->lists->output_to, forward->x_out,
                                              pass->lists->output_from, pass->lists->n_output_copies, d, err);
    if (status == LP_OK)
        status = visit(pass, key_of(n_layers - 1, LP_SITE_RESID_POST) + 1, forward->x_out, d, true, err);
    return status;
}

/* From the inputs to the normed final states. */
static lp_status run_layers(forward_pass *pass, lp_error *err) {
    lp_forward *forward = pass->f;
    const lp_model_config *config = &forward->model->config;
    int32_t n = 0;
    LP_CHECK(begin_rows(pass, 0, &n, err));
    LP_CHECK(begin(pass, err));
    for (int32_t l = 0; l < config->n_layers; l++) {
        if (l > 0) LP_CHECK(begin_rows(pass, l, &n, err));
        LP_CHECK(run_layer(pass, l, n, err));
    }
    LP_CHECK(copy_outputs(pass, err));
    LP_CHECK(lp_forward_final_norm(forward, forward->x_out, pass->lists->n_out, LP_FLOATS, forward->h, err));
    LP_CHECK(visit(pass, 2 * config->n_layers * LP_N_SITES, forward->h, config->d_model, true, err));
    return LP_OK;
}

lp_status lp_forward_run(lp_forward *forward, const lp_forward_batch *batch, const float **hidden, int32_t *n_out,
                         lp_error *err) {
    forward_pass pass = {.f = forward, .batch = batch, .lists = &forward->lists};
    LP_ASSERT(batch->n_rows <= forward->max_rows);
    LP_CHECK(lp_batch_lists_make(&forward->lists, forward->be, batch, forward->model->config.n_layers, err));
    LP_CHECK(run_layers(&pass, err));
    LP_ASSERT(pass.next_edit == batch->n_edits && pass.next_capture == batch->n_captures &&
              pass.next_choice == batch->n_choices);
    *hidden = forward->h;
    *n_out = pass.lists->n_out;
    return LP_OK;
}

lp_status lp_forward_project(lp_forward *forward, const float *hidden, int32_t n, float *out, lp_error *err) {
    lp_backend *be = forward->be;
    int32_t d = forward->model->config.d_model;
    const lp_projection *projection = &forward->model->projection;
    float *active = forward->gelu ? forward->gelu : forward->projected;
    lp_status status = LP_OK;
    LP_ASSERT(projection->present);
    LP_TRY(be->linear(be, forward->projection_in, LP_OPERAND, hidden, n, forward->projected, err));
    LP_TRY(be->activate(be, LP_ACT_GELU_ERF, false, forward->projected, n, (int32_t)projection->in.n_out, LP_OPERAND,
                        active, err));
    LP_TRY(be->linear(be, forward->projection_out, LP_OPERAND, active, n, forward->sum, err));
    if (projection->has_norm)
        status = be->norm(be, forward->sum, forward->projection_norm.weight, forward->projection_norm.bias, 1e-5f, n, d,
                          LP_FLOATS, out, err);
    else
        status = be->copy_rows(be, out, NULL, forward->sum, NULL, n, d, err);
out:
    return status;
}

lp_status lp_forward_final_norm(lp_forward *forward, const float *x, int32_t n, lp_form form, float *out,
                                lp_error *err) {
    const lp_model_config *config = &forward->model->config;
    return forward->be->norm(forward->be, x, forward->final_norm.weight, forward->final_norm.bias, config->norm_eps, n,
                             config->d_model, form, out, err);
}

lp_status lp_forward_choose(lp_forward *forward, const float *hidden, int32_t n, const lp_choosable *among,
                            int32_t *best, bool *found, lp_error *err) {
    lp_pulse();
    return forward->be->choose(forward->be, forward->head, hidden, n, among, best, found, err);
}

lp_status lp_forward_head(lp_forward *forward, lp_form form, const float *hidden, int32_t n, float *logits,
                          lp_error *err) {
    lp_pulse();
    return forward->be->linear(forward->be, forward->head, form, hidden, n, logits, err);
}
