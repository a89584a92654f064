#include "nn/weights.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pulse.h"
#include "model/weight_source.h"

static lp_status norm_new(lp_backend *be, const lp_norm *norm, int32_t d, lp_norm_weights *out, lp_error *err) {
    lp_status status = be->vector_new(be, norm->weight, (size_t)d, &out->weight, err);
    if (status == LP_OK && norm->bias) status = be->vector_new(be, norm->bias, (size_t)d, &out->bias, err);
    return status;
}

static void norm_free(lp_backend *be, const lp_norm_weights *norm) {
    if (norm->weight) be->vector_free(be, norm->weight);
    if (norm->bias) be->vector_free(be, norm->bias);
}

/* Reads ahead what the disk has still to deliver. */
static void want(const lp_linear *linear) {
    for (int p = 0; p < linear->n_parts; p++)
        if (linear->part[p].source) lp_weight_source_want(linear->part[p].source);
}

static lp_status linear_new(lp_backend *be, const lp_linear *linear, lp_backend_linear **out, lp_error *err) {
    lp_pulse();
    lp_status status = be->linear_new(be, linear, out, err);
    for (int p = 0; p < linear->n_parts; p++)
        if (linear->part[p].source) lp_weight_source_let_go(linear->part[p].source);
    return status;
}

static void linear_free(lp_backend *be, lp_backend_linear *linear) {
    if (linear) be->linear_free(be, linear);
}

static lp_status make_block(lp_backend *be, const lp_block *from, const lp_model_config *config, lp_block_weights *to,
                            lp_error *err) {
    int32_t d = config->d_model;
    const lp_linear *linears[] = {&from->qkv, &from->attn_out, &from->mlp_in, &from->mlp_out};
    lp_backend_linear **made[] = {&to->qkv, &to->attn_out, &to->mlp_in, &to->mlp_out};
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) want(linears[i]);
    LP_CHECK(norm_new(be, &from->norm_attn, d, &to->norm_attn, err));
    LP_CHECK(norm_new(be, &from->norm_mlp, d, &to->norm_mlp, err));
    if (from->norm_q.weight) {
        LP_CHECK(be->vector_new(be, from->norm_q.weight, (size_t)config->head_dim, &to->norm_q, err));
        LP_CHECK(be->vector_new(be, from->norm_k.weight, (size_t)config->head_dim, &to->norm_k, err));
    }
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) LP_CHECK(linear_new(be, linears[i], made[i], err));
    return LP_OK;
}

static lp_status make_projection(lp_weights *weights, lp_error *err) {
    const lp_projection *projection = &weights->model->projection;
    lp_status status = LP_OK;
    if (!projection->present) return LP_OK;
    LP_TRY(linear_new(weights->be, &projection->in, &weights->projection_in, err));
    LP_TRY(linear_new(weights->be, &projection->out, &weights->projection_out, err));
    if (projection->has_norm)
        status =
            norm_new(weights->be, &projection->norm, weights->model->config.d_model, &weights->projection_norm, err);
out:
    return status;
}

lp_status lp_weights_new(lp_backend *be, const lp_model *model, lp_weights **out, lp_error *err) {
    const lp_model_config *config = &model->config;
    double start = lp_seconds_now();
    uint64_t bytes_before = be->counters.bytes_up;
    lp_weights *weights = NULL;
    lp_status status = lp_mem_new(&weights, 1, sizeof *weights, "weights", err);
    if (status != LP_OK) return status;
    weights->be = be;
    weights->model = model;
    LP_TRY(lp_mem_new(&weights->blocks, (size_t)config->n_layers, sizeof *weights->blocks, "blocks", err));
    /* The embedding first: a head that is the same then shares it. */
    if (model->embedding.source) lp_weight_source_want(model->embedding.source);
    LP_TRY(be->matrix_new(be, &model->embedding, &weights->embedding, err));
    lp_linear head = {.part = {model->head},
                      .n_parts = 1,
                      .n_in = model->head.n_in,
                      .n_out = model->head.n_out,
                      .stride = lp_logits_stride(config)};
    want(&head);
    LP_TRY(linear_new(be, &head, &weights->head, err));
    if (model->embedding.source) lp_weight_source_let_go(model->embedding.source);
    if (model->positions) {
        size_t n = (size_t)config->n_context * (size_t)config->d_model;
        LP_TRY(be->vector_new(be, model->positions, n, &weights->positions, err));
    }
    for (int32_t l = 0; l < config->n_layers; l++)
        LP_TRY(make_block(be, &model->blocks[l], config, &weights->blocks[l], err));
    LP_TRY(norm_new(be, &model->final_norm, config->d_model, &weights->final_norm, err));
    LP_TRY(make_projection(weights, err));
    LP_TRY(be->sync(be, err));
    lp_log(LP_LOG_DEBUG, "weights in %.3f s, %.1f MiB up, %.1f MiB held", lp_seconds_now() - start,
           (double)(be->counters.bytes_up - bytes_before) / 1048576.0, (double)be->counters.weight_bytes / 1048576.0);
    *out = weights;
    return LP_OK;
out:
    lp_weights_free(weights);
    return status;
}

void lp_weights_free(lp_weights *w) {
    if (!w) return;
    lp_backend *be = w->be;
    for (int32_t l = 0; w->blocks && l < w->model->config.n_layers; l++) {
        const lp_block_weights *block_weights = &w->blocks[l];
        norm_free(be, &block_weights->norm_attn);
        norm_free(be, &block_weights->norm_mlp);
        if (block_weights->norm_q) be->vector_free(be, block_weights->norm_q);
        if (block_weights->norm_k) be->vector_free(be, block_weights->norm_k);
        linear_free(be, block_weights->qkv);
        linear_free(be, block_weights->attn_out);
        linear_free(be, block_weights->mlp_in);
        linear_free(be, block_weights->mlp_out);
    }
    norm_free(be, &w->final_norm);
    norm_free(be, &w->projection_norm);
    linear_free(be, w->projection_in);
    linear_free(be, w->projection_out);
    linear_free(be, w->head);
    if (w->embedding) be->vector_free(be, w->embedding);
    if (w->positions) be->vector_free(be, w->positions);
    lp_mem_free(w->blocks);
    lp_mem_free(w);
}
