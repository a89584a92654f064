#include "nn/nearest.h"

#include "base/memory.h"
#include "base/pulse.h"

/* to [n, D] (dev) = rows of the embedding; ids dev */
static lp_status copy_embeddings(const lp_nearest *nearest, float *to, const int32_t *ids, int32_t n, lp_error *err) {
    const lp_weights *weights = nearest->weights;
    lp_backend *be = weights->be;
    int32_t d = weights->model->config.d_model;
    if (weights->model->embedding.layout == LP_PANELS)
        return be->copy_columns(be, to, NULL, weights->embedding, ids, n, d, err);
    return be->copy_rows(be, to, NULL, weights->embedding, ids, n, d, err);
}

static lp_status make_lists(lp_nearest *nearest, size_t n, lp_error *err) {
    lp_backend *be = nearest->weights->be;
    void *dev = NULL;
    if (n <= nearest->list_capacity) return LP_OK;
    if (nearest->ids) be->release(be, nearest->ids);
    if (nearest->numbers) be->release(be, nearest->numbers);
    nearest->ids = NULL;
    nearest->numbers = NULL;
    nearest->list_capacity = 0;
    LP_CHECK(be->alloc(be, n * sizeof(int32_t), "nearest tokens", &dev, err));
    nearest->ids = dev;
    LP_CHECK(be->alloc(be, n * sizeof(float), "nearest tokens", &dev, err));
    nearest->numbers = dev;
    nearest->list_capacity = n;
    return LP_OK;
}

/* The embedding as a linear layer. */
static lp_status find_product(lp_nearest *nearest, const lp_backend_linear **out, lp_error *err) {
    const lp_weights *weights = nearest->weights;
    const lp_matrix *embedding = &weights->model->embedding;
    const lp_linear linear = {.part = {*embedding},
                              .n_parts = 1,
                              .n_in = embedding->n_in,
                              .n_out = embedding->n_out,
                              .stride = lp_logits_stride(&weights->model->config)};
    lp_status status = LP_OK;
    if (!weights->model->config.tied_head && !nearest->own_product)
        status = weights->be->linear_new(weights->be, &linear, &nearest->own_product, err);
    *out = nearest->own_product ? nearest->own_product : weights->head;
    return status;
}

/* Of every row of the embedding, some at a time. */
static lp_status make_scales(lp_nearest *nearest, const lp_nearest_room *room, lp_error *err) {
    const lp_weights *weights = nearest->weights;
    lp_backend *be = weights->be;
    int32_t d = weights->model->config.d_model, n = weights->model->config.n_embedded;
    int32_t at_once = room->n_rows < n ? room->n_rows : n;
    float *scales = NULL;
    void *dev = NULL;
    lp_status status = LP_OK;
    if (nearest->scales) return LP_OK;
    LP_TRY(lp_mem_new(&scales, (size_t)n, sizeof *scales, "norms of the embedding", err));
    LP_TRY(make_lists(nearest, (size_t)at_once, err));
    LP_TRY(lp_mem_grow(&nearest->lists, &nearest->host_list_capacity, (size_t)at_once, sizeof(int32_t), "tokens", err));
    LP_TRY(lp_mem_grow(&nearest->vectors, &nearest->vector_capacity, (size_t)at_once * (size_t)d, sizeof(float),
                       "embeddings", err));
    for (int32_t first = 0; first < n; first += at_once) {
        int32_t some = n - first < at_once ? n - first : at_once;
        for (int32_t i = 0; i < some; i++) nearest->lists[i] = first + i;
        lp_pulse();
        LP_TRY(be->upload(be, nearest->ids, nearest->lists, (size_t)some * sizeof(int32_t), err));
        LP_TRY(copy_embeddings(nearest, room->embeddings, nearest->ids, some, err));
        LP_TRY(be->download(be, nearest->vectors, room->embeddings, (size_t)some * (size_t)d * sizeof(float), err));
        for (int32_t i = 0; i < some; i++) scales[first + i] = lp_token_scale(nearest->vectors + (int64_t)i * d, d);
    }
    LP_TRY(be->alloc(be, (size_t)n * sizeof(float), "norms of the embedding", &dev, err));
    nearest->scales = dev;
    status = be->upload(be, nearest->scales, scales, (size_t)n * sizeof(float), err);
out:
    lp_mem_free(scales);
    return status;
}

/* The nearest tokens of room->x [n, D]: the first n * top of nearest->lists. */
static lp_status find_tokens(lp_nearest *nearest, const lp_nearest_room *room, lp_nearest_by by, int32_t n, int32_t top,
                             lp_error *err) {
    lp_backend *be = nearest->weights->be;
    int32_t stride = lp_logits_stride(&nearest->weights->model->config);
    const lp_backend_linear *product = NULL;
    size_t found = (size_t)n * (size_t)top;
    LP_CHECK(find_product(nearest, &product, err));
    if (by == LP_NEAREST_COSINE) LP_CHECK(make_scales(nearest, room, err));
    LP_CHECK(make_lists(nearest, found, err));
    LP_CHECK(be->linear(be, product, LP_FLOATS, room->x, n, room->logits, err));
    if (by == LP_NEAREST_COSINE)
        LP_CHECK(be->scale_columns(be, room->logits, n, stride, room->n_candidates, nearest->scales, err));
    LP_CHECK(be->top(be, room->logits, n, stride, room->n_candidates, top, nearest->ids, nearest->numbers, err));
    return be->download(be, nearest->lists, nearest->ids, found * sizeof(int32_t), err);
}

/* Edits [n] of one kind of nearness. */
static lp_status edit_some(lp_nearest *nearest, const lp_nearest_room *room, float *x, const lp_nearest_row *edits,
                           int32_t n, int32_t top, lp_error *err) {
    lp_backend *be = nearest->weights->be;
    int32_t d = nearest->weights->model->config.d_model, n_wanted = 0, most = LP_MAX_NEAREST + 1;
    size_t width = (size_t)d;
    LP_CHECK(lp_mem_grow(&nearest->lists, &nearest->host_list_capacity, (size_t)n * (size_t)(top + 2 * most),
                         sizeof(int32_t), "tokens", err));
    LP_CHECK(lp_mem_grow(&nearest->rows, &nearest->row_capacity, (size_t)n, sizeof *nearest->rows, "rows", err));
    LP_CHECK(lp_mem_grow(&nearest->back, &nearest->back_capacity, (size_t)n, sizeof *nearest->back, "rows", err));
    LP_CHECK(lp_mem_grow(&nearest->vectors, &nearest->vector_capacity, (size_t)n * (size_t)(top + 2) * width,
                         sizeof(float), "embeddings", err));
    for (int32_t i = 0; i < n; i++) {
        nearest->rows[i] = (lp_row_capture){.row = edits[i].row, .width = d, .out = (int64_t)i * d};
        nearest->back[i] = (lp_row_edit){.row = edits[i].row, .width = d, .vector = (int64_t)i * d};
    }
    LP_CHECK(be->capture_rows(be, x, d, nearest->rows, n, room->x, err));
    LP_CHECK(find_tokens(nearest, room, edits[0].edit->token->by, n, top, err));
    int32_t *n_each = nearest->lists + n * top, *wanted = n_each + n;
    for (int32_t i = 0; i < n; i++) {
        n_each[i] = lp_token_edit_list(edits[i].edit, nearest->lists + i * top, wanted + n_wanted);
        n_wanted += n_each[i] > 0 ? n_each[i] : 0;
    }
    float *rows = nearest->vectors, *embeddings = rows + (size_t)n * width;
    LP_CHECK(be->download(be, rows, room->x, (size_t)n * width * sizeof(float), err));
    if (n_wanted > 0) {
        LP_CHECK(make_lists(nearest, (size_t)n_wanted, err));
        LP_CHECK(be->upload(be, nearest->ids, wanted, (size_t)n_wanted * sizeof(int32_t), err));
        LP_CHECK(copy_embeddings(nearest, room->embeddings, nearest->ids, n_wanted, err));
        LP_CHECK(be->download(be, embeddings, room->embeddings, (size_t)n_wanted * width * sizeof(float), err));
    }
    for (int32_t i = 0; i < n; i++) {
        if (n_each[i] < 0) continue;
        lp_token_edit_apply(edits[i].edit, embeddings, n_each[i], rows + (size_t)i * width, d, nearest->work);
        embeddings += (size_t)n_each[i] * width;
    }
    LP_CHECK(be->upload(be, room->x, rows, (size_t)n * width * sizeof(float), err));
    return be->edit_rows(be, x, d, nearest->back, n, room->x, err);
}

lp_status lp_nearest_edit(lp_nearest *nearest, const lp_nearest_room *room, float *x, const lp_nearest_row *edits,
                          int32_t n, lp_error *err) {
    size_t width = (size_t)nearest->weights->model->config.d_model;
    if (!nearest->work)
        LP_CHECK(lp_mem_new(&nearest->work, (LP_MAX_NEAREST + 2) * width, sizeof(double), "embeddings", err));
    for (int32_t first = 0, some = 0; first < n; first += some) {
        const lp_token_edit *like = edits[first].edit->token;
        int32_t top = 1, most = room->n_logits;
        for (some = 0; first + some < n && some < most && edits[first + some].edit->token->by == like->by; some++) {
            const lp_token_edit *token = edits[first + some].edit->token;
            int32_t more = token->top > top ? token->top : top;
            int32_t fit = (room->n_rows + LP_ROW_PADDING) / (more + 1);
            if (some == fit) break;
            most = fit < most ? fit : most;
            top = more;
        }
        LP_CHECK(edit_some(nearest, room, x, edits + first, some, top, err));
    }
    return LP_OK;
}

void lp_nearest_release(lp_nearest *nearest) {
    if (!nearest->weights) return;
    lp_backend *be = nearest->weights->be;
    if (nearest->own_product) be->linear_free(be, nearest->own_product);
    if (nearest->scales) be->release(be, nearest->scales);
    if (nearest->ids) be->release(be, nearest->ids);
    if (nearest->numbers) be->release(be, nearest->numbers);
    lp_mem_free(nearest->rows);
    lp_mem_free(nearest->back);
    lp_mem_free(nearest->lists);
    lp_mem_free(nearest->vectors);
    lp_mem_free(nearest->work);
    *nearest = (lp_nearest){0};
}
