#include "support/check_backend.h"

#include "base/gemm.h"
#include "base/memory.h"

#include <math.h>

typedef struct {
    const char *begin;
    size_t bytes;
    char what[32];
} region;

typedef struct {
    lp_backend base;
    lp_backend *inner;
    region *regions;
    size_t n_regions, region_capacity;
    float *saved; /* rows that a call must not depend on, while they are poisoned */
    size_t saved_capacity;
    size_t fetch_bytes[LP_FETCHES]; /* under way */
} checker;

struct lp_backend_linear {
    lp_backend_linear *inner;
    int64_t n_in, n_out, y_stride;
};

static checker *of(lp_backend *be) {
    return (checker *)be;
}

static void poison(float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = NAN;
}

/* ---- Regions ----------------------------------------------------------------------------------------------------- */

static lp_status add_region(checker *c, const void *begin, size_t bytes, const char *what, lp_error *err) {
    lp_status status =
        lp_mem_grow(&c->regions, &c->region_capacity, c->n_regions + 1, sizeof *c->regions, "regions", err);
    if (status != LP_OK) return status;
    region *r = &c->regions[c->n_regions++];
    *r = (region){.begin = begin, .bytes = bytes};
    snprintf(r->what, sizeof r->what, "%s", what);
    return LP_OK;
}

static void remove_region(checker *c, const void *begin) {
    size_t i = c->n_regions;
    while (i > 0 && c->regions[i - 1].begin != (const char *)begin) i--;
    LP_ASSERT(i > 0);
    c->regions[i - 1] = c->regions[--c->n_regions];
}

static lp_status inside(lp_backend *be, const char *operation, const char *argument, const void *x, int64_t bytes,
                        lp_error *err) {
    const checker *c = of(be);
    if (bytes == 0) return LP_OK;
    for (size_t i = 0; i < c->n_regions; i++) {
        const region *r = &c->regions[i];
        if ((const char *)x >= r->begin && (const char *)x + bytes <= r->begin + r->bytes) return LP_OK;
    }
    return lp_fail(err, LP_ERR_DEVICE, "check: %s: %s: %lld bytes that lie in no allocation", operation, argument,
                   (long long)bytes);
}

static lp_status floats_inside(lp_backend *be, const char *operation, const char *argument, const float *x,
                               int64_t rows, int64_t width, lp_error *err) {
    return inside(be, operation, argument, x, rows * width * (int64_t)sizeof *x, err);
}

/* A list of n row numbers below `bound`; NULL stands for 0, 1, ... */
static lp_status list_inside(lp_backend *be, const char *operation, const char *argument, const int32_t *list,
                             int32_t n, int64_t bound, lp_error *err) {
    if (!list) return LP_OK;
    lp_status status = inside(be, operation, argument, list, n * (int64_t)sizeof *list, err);
    if (status != LP_OK) return status;
    for (int32_t i = 0; i < n; i++)
        if (list[i] < 0 || list[i] >= bound)
            return lp_fail(err, LP_ERR_DEVICE, "check: %s: %s[%d]: expected below %lld, found %d", operation, argument,
                           i, (long long)bound, list[i]);
    return LP_OK;
}

static lp_status no_nan(const char *operation, const float *x, int64_t rows, int64_t width, int64_t stride,
                        lp_error *err) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++)
            if (isnan(x[r * stride + i]))
                return lp_fail(err, LP_ERR_DEVICE, "check: %s: row %lld of %lld, column %lld: not a number", operation,
                               (long long)r, (long long)rows, (long long)i);
    return LP_OK;
}

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

static void check_free(lp_backend *be) {
    checker *c = of(be);
    lp_backend_free(c->inner);
    lp_mem_free(c->regions);
    lp_mem_free(c->saved);
    lp_mem_free(c);
}

static lp_status check_alloc(lp_backend *be, size_t bytes, const char *what, void **out, lp_error *err) {
    checker *c = of(be);
    void *dev = NULL;
    lp_status status = c->inner->alloc(c->inner, bytes, what, &dev, err);
    if (status != LP_OK) return status;
    memset(dev, 0xff, bytes);
    status = add_region(c, dev, bytes, what, err);
    if (status == LP_OK)
        *out = dev;
    else
        c->inner->release(c->inner, dev);
    return status;
}

static void check_release(lp_backend *be, void *dev) {
    if (dev) remove_region(of(be), dev);
    of(be)->inner->release(of(be)->inner, dev);
}

static lp_status check_upload(lp_backend *be, void *dev, const void *host, size_t bytes, lp_error *err) {
    lp_status status = inside(be, "upload", "dev", dev, (int64_t)bytes, err);
    return status != LP_OK ? status : of(be)->inner->upload(of(be)->inner, dev, host, bytes, err);
}

static lp_status check_download(lp_backend *be, void *host, const void *dev, size_t bytes, lp_error *err) {
    lp_status status = inside(be, "download", "dev", dev, (int64_t)bytes, err);
    return status != LP_OK ? status : of(be)->inner->download(of(be)->inner, host, dev, bytes, err);
}

static lp_status check_sync(lp_backend *be, lp_error *err) {
    return of(be)->inner->sync(of(be)->inner, err);
}

static lp_status check_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err) {
    lp_backend *inner = of(be)->inner;
    lp_backend_linear *w = NULL;
    lp_status status = lp_mem_new(&w, 1, sizeof *w, "linear layer", err);
    if (status != LP_OK) return status;
    w->n_in = host->n_in;
    w->n_out = host->n_out;
    w->y_stride = lp_linear_stride(host);
    status = inner->linear_new(inner, host, &w->inner, err);
    if (status == LP_OK)
        *out = w;
    else
        lp_mem_free(w);
    return status;
}

static void check_linear_free(lp_backend *be, lp_backend_linear *w) {
    of(be)->inner->linear_free(of(be)->inner, w->inner);
    lp_mem_free(w);
}

static lp_status check_matrix_new(lp_backend *be, const lp_matrix *host, const float **out, lp_error *err) {
    checker *c = of(be);
    const float *dev = NULL;
    lp_status status = c->inner->matrix_new(c->inner, host, &dev, err);
    int64_t n = host->layout == LP_PANELS ? lp_gemm_panel_floats(host->n_in, host->n_out) : host->n_in * host->n_out;
    if (status == LP_OK) status = add_region(c, dev, (size_t)n * sizeof *dev, "weights", err);
    if (status == LP_OK) *out = dev;
    return status;
}

static lp_status check_vector_new(lp_backend *be, const float *host, size_t n, const float **out, lp_error *err) {
    checker *c = of(be);
    const float *dev = NULL;
    lp_status status = c->inner->vector_new(c->inner, host, n, &dev, err);
    if (status == LP_OK) status = add_region(c, dev, n * sizeof *dev, "weights", err);
    if (status == LP_OK) *out = dev;
    return status;
}

static void check_vector_free(lp_backend *be, const float *vector) {
    remove_region(of(be), vector);
    of(be)->inner->vector_free(of(be)->inner, vector);
}

/* ---- Operations -------------------------------------------------------------------------------------------------- */

static lp_status check_linear(lp_backend *be, const lp_backend_linear *w, lp_form form, const float *x, int32_t n,
                              float *y, lp_error *err) {
    checker *c = of(be);
    int64_t padded = (int64_t)n + LP_ROW_PADDING;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    LP_TRY(floats_inside(be, "linear", "x", x, padded, w->n_in, err));
    LP_TRY(floats_inside(be, "linear", "y", y, padded, w->y_stride, err));
    LP_TRY(no_nan("input of linear", x, n, w->n_in, w->n_in, err));
    /* The rows after x may be somebody else's: they are put back. Those after y are anybody's. */
    size_t behind = (size_t)LP_ROW_PADDING * (size_t)w->n_in;
    float *rest = (float *)(uintptr_t)(x + (int64_t)n * w->n_in);
    LP_TRY(lp_mem_grow(&c->saved, &c->saved_capacity, behind, sizeof(float), "rows", err));
    memcpy(c->saved, rest, behind * sizeof(float));
    poison(rest, (int64_t)behind);
    poison(y, padded * w->y_stride);
    status = c->inner->linear(c->inner, w->inner, form, x, n, y, err);
    be->counters = c->inner->counters;
    memcpy(rest, c->saved, behind * sizeof(float));
    poison(y + (int64_t)n * w->y_stride, (int64_t)LP_ROW_PADDING * w->y_stride);
    if (status == LP_OK) status = no_nan("linear", y, n, w->n_out, w->y_stride, err);
out:
    return status;
}

static int64_t rows_needed(const int32_t *list, int32_t n) {
    int64_t rows = n;
    for (int32_t i = 0; list && i < n; i++)
        if (i == 0 || list[i] + 1 > rows) rows = (int64_t)list[i] + 1;
    return rows;
}

static lp_status check_copy_rows(lp_backend *be, float *dst, const int32_t *dst_rows, const float *src,
                                 const int32_t *src_rows, int32_t n, int32_t width, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(list_inside(be, "copy_rows", "dst_rows", dst_rows, n, INT32_MAX, err));
    LP_TRY(list_inside(be, "copy_rows", "src_rows", src_rows, n, INT32_MAX, err));
    LP_TRY(floats_inside(be, "copy_rows", "dst", dst, rows_needed(dst_rows, n), width, err));
    LP_TRY(floats_inside(be, "copy_rows", "src", src, rows_needed(src_rows, n), width, err));
    LP_TRY(of(be)->inner->copy_rows(of(be)->inner, dst, dst_rows, src, src_rows, n, width, err));
    for (int32_t i = 0; i < n; i++)
        LP_TRY(no_nan("copy_rows", dst + (int64_t)(dst_rows ? dst_rows[i] : i) * width, 1, width, width, err));
out:
    return status;
}

static lp_status check_copy_columns(lp_backend *be, float *dst, const int32_t *dst_rows, const float *matrix,
                                    const int32_t *columns, int32_t n, int32_t width, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(list_inside(be, "copy_columns", "dst_rows", dst_rows, n, INT32_MAX, err));
    LP_TRY(list_inside(be, "copy_columns", "columns", columns, n, INT32_MAX, err));
    LP_TRY(floats_inside(be, "copy_columns", "dst", dst, rows_needed(dst_rows, n), width, err));
    for (int32_t i = 0; i < n; i++)
        LP_TRY(floats_inside(be, "copy_columns", "matrix", matrix, lp_gemm_panel_at(width, width - 1, columns[i]) + 1,
                             1, err));
    LP_TRY(of(be)->inner->copy_columns(of(be)->inner, dst, dst_rows, matrix, columns, n, width, err));
    for (int32_t i = 0; i < n; i++)
        LP_TRY(no_nan("copy_columns", dst + (int64_t)(dst_rows ? dst_rows[i] : i) * width, 1, width, width, err));
out:
    return status;
}

static lp_status check_add_rows(lp_backend *be, float *x, const float *y, const int32_t *y_rows, int32_t n,
                                int32_t width, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(list_inside(be, "add_rows", "y_rows", y_rows, n, INT32_MAX, err));
    LP_TRY(floats_inside(be, "add_rows", "x", x, n, width, err));
    LP_TRY(floats_inside(be, "add_rows", "y", y, rows_needed(y_rows, n), width, err));
    LP_TRY(of(be)->inner->add_rows(of(be)->inner, x, y, y_rows, n, width, err));
    LP_TRY(no_nan("add_rows", x, n, width, width, err));
out:
    return status;
}

static lp_status check_norm(lp_backend *be, const float *x, const float *weight, const float *bias, float eps,
                            int32_t n, int32_t width, lp_form form, float *y, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "norm", "x", x, n, width, err));
    LP_TRY(floats_inside(be, "norm", "weight", weight, 1, width, err));
    if (bias) LP_TRY(floats_inside(be, "norm", "bias", bias, 1, width, err));
    LP_TRY(floats_inside(be, "norm", "y", y, n, width, err));
    if (y != x) poison(y, (int64_t)n * width);
    LP_TRY(of(be)->inner->norm(of(be)->inner, x, weight, bias, eps, n, width, form, y, err));
    LP_TRY(no_nan("norm", y, n, width, width, err));
out:
    return status;
}

static lp_status check_norm_heads(lp_backend *be, const lp_model_config *config, float *qkv, int32_t n,
                                  const float *q_weight, const float *k_weight, lp_error *err) {
    int64_t stride = (int64_t)config->head_dim * (config->n_heads + 2 * config->n_kv_heads);
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "norm_heads", "qkv", qkv, n, stride, err));
    LP_TRY(floats_inside(be, "norm_heads", "weight of q", q_weight, 1, config->head_dim, err));
    LP_TRY(floats_inside(be, "norm_heads", "weight of k", k_weight, 1, config->head_dim, err));
    LP_TRY(of(be)->inner->norm_heads(of(be)->inner, config, qkv, n, q_weight, k_weight, err));
    LP_TRY(no_nan("norm_heads", qkv, n, stride, stride, err));
out:
    return status;
}

static lp_status check_add_norm(lp_backend *be, float *x, const float *y, const float *weight, const float *bias,
                                float eps, int32_t n, int32_t width, lp_form form, float *h, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "add_norm", "x", x, n, width, err));
    LP_TRY(floats_inside(be, "add_norm", "y", y, n, width, err));
    LP_TRY(floats_inside(be, "add_norm", "weight", weight, 1, width, err));
    if (bias) LP_TRY(floats_inside(be, "add_norm", "bias", bias, 1, width, err));
    LP_TRY(floats_inside(be, "add_norm", "h", h, n, width, err));
    poison(h, (int64_t)n * width);
    LP_TRY(of(be)->inner->add_norm(of(be)->inner, x, y, weight, bias, eps, n, width, form, h, err));
    LP_TRY(no_nan("add_norm", h, n, width, width, err));
out:
    return status;
}

static lp_status check_activate(lp_backend *be, lp_activation kind, bool gated, const float *x, int32_t n,
                                int32_t width, lp_form form, float *y, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "activate", "x", x, n, gated ? 2 * (int64_t)width : width, err));
    LP_TRY(floats_inside(be, "activate", "y", y, n, width, err));
    if (gated && x == y) LP_FAIL(LP_ERR_DEVICE, "check: activate: gated in place");
    if (y != x) poison(y, (int64_t)n * width);
    LP_TRY(of(be)->inner->activate(of(be)->inner, kind, gated, x, n, width, form, y, err));
    LP_TRY(no_nan("activate", y, n, width, width, err));
out:
    return status;
}

static lp_status pool_inside(lp_backend *be, const char *operation, const lp_kv_pool *pool, int32_t layer,
                             lp_error *err) {
    if (layer < 0 || layer >= pool->n_layers)
        return lp_fail(err, LP_ERR_DEVICE, "check: %s: layer %d of %d", operation, layer, pool->n_layers);
    int64_t rows = pool->n_layers * pool->n_slots;
    lp_status status = floats_inside(be, operation, "keys", pool->keys, rows, pool->width, err);
    return status != LP_OK ? status : floats_inside(be, operation, "values", pool->values, rows, pool->width, err);
}

static lp_status check_store_kv(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                                int32_t n, const float *cosine, const float *sine, const lp_kv_pool *pool,
                                int32_t layer, lp_error *err) {
    int64_t q = (int64_t)config->n_heads * config->head_dim, stride = q + 2 * (int64_t)pool->width;
    int32_t half = config->head_dim / 2;
    lp_status status = LP_OK;
    LP_TRY(pool_inside(be, "store_kv", pool, layer, err));
    LP_TRY(floats_inside(be, "store_kv", "qkv", qkv, n, stride, err));
    LP_TRY(list_inside(be, "store_kv", "slot", rows->slot, n, pool->n_slots, err));
    LP_TRY(list_inside(be, "store_kv", "position", rows->position, n, config->n_context, err));
    if (cosine) {
        LP_TRY(floats_inside(be, "store_kv", "cosine", cosine, rows_needed(rows->position, n), half, err));
        LP_TRY(floats_inside(be, "store_kv", "sine", sine, rows_needed(rows->position, n), half, err));
    }
    LP_TRY(of(be)->inner->store_kv(of(be)->inner, config, qkv, rows, n, cosine, sine, pool, layer, err));
    LP_TRY(no_nan("store_kv", qkv, n, stride, stride, err));
out:
    return status;
}

static lp_status check_copy_kv(lp_backend *be, const lp_kv_pool *pool, int32_t layer, const int32_t *from,
                               const int32_t *to, int32_t n, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(pool_inside(be, "copy_kv", pool, layer, err));
    LP_TRY(list_inside(be, "copy_kv", "from", from, n, pool->n_slots, err));
    LP_TRY(list_inside(be, "copy_kv", "to", to, n, pool->n_slots, err));
    LP_TRY(of(be)->inner->copy_kv(of(be)->inner, pool, layer, from, to, n, err));
out:
    return status;
}

/* Prompt slots and tail of each row, its own slot among them. */
static lp_status table_inside(lp_backend *be, const lp_row_table *rows, int32_t n, const lp_kv_pool *pool,
                              lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(list_inside(be, "attend", "slot", rows->slot, n, pool->n_slots, err));
    LP_TRY(list_inside(be, "attend", "prompt_begin", rows->prompt_begin, n, pool->n_slots, err));
    LP_TRY(list_inside(be, "attend", "prompt_length", rows->prompt_length, n, pool->n_slots + 1, err));
    LP_TRY(list_inside(be, "attend", "tail_begin", rows->tail_begin, n, INT32_MAX, err));
    LP_TRY(list_inside(be, "attend", "tail_length", rows->tail_length, n, INT32_MAX, err));
    for (int32_t r = 0; r < n; r++) {
        const int32_t *tail = rows->tail + rows->tail_begin[r];
        int32_t begin = rows->prompt_begin[r], end = begin + rows->prompt_length[r];
        bool own = rows->slot[r] >= begin && rows->slot[r] < end;
        LP_TRY(list_inside(be, "attend", "tail", tail, rows->tail_length[r], pool->n_slots, err));
        for (int32_t t = 0; t < rows->tail_length[r]; t++) own |= tail[t] == rows->slot[r];
        if (end > pool->n_slots || !own)
            LP_FAIL(LP_ERR_DEVICE, "check: attend: row %d: prompt slots %d to %d of %lld, %s", r, begin, end,
                    (long long)pool->n_slots, own ? "its own among them" : "its own not among them");
    }
out:
    return status;
}

static lp_status check_attend(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                              int32_t n, const lp_kv_pool *pool, int32_t layer, lp_form form, float *out,
                              lp_error *err) {
    int64_t q = (int64_t)config->n_heads * config->head_dim;
    lp_status status = LP_OK;
    LP_TRY(pool_inside(be, "attend", pool, layer, err));
    LP_TRY(floats_inside(be, "attend", "qkv", qkv, n, q + 2 * (int64_t)pool->width, err));
    LP_TRY(floats_inside(be, "attend", "out", out, n, q, err));
    LP_TRY(table_inside(be, rows, n, pool, err));
    poison(out, (int64_t)n * q);
    LP_TRY(of(be)->inner->attend(of(be)->inner, config, qkv, rows, n, pool, layer, form, out, err));
    LP_TRY(no_nan("attend", out, n, q, q, err));
out:
    return status;
}

static lp_status check_attend_chosen(lp_backend *be, const lp_model_config *config, const float *qkv,
                                     const lp_row_choice *choices, int32_t n, const int32_t *slots,
                                     const lp_kv_pool *pool, int32_t layer, float *out, lp_error *err) {
    int64_t hd = config->head_dim, q = config->n_heads * hd;
    lp_status status = LP_OK;
    LP_TRY(pool_inside(be, "attend_chosen", pool, layer, err));
    for (int32_t i = 0; i < n; i++) {
        const lp_row_choice *c = &choices[i];
        if (c->row < 0 || c->first_head < 0 || c->n_heads < 1 || c->first_head + c->n_heads > config->n_heads ||
            c->length < 1)
            LP_FAIL(LP_ERR_DEVICE, "check: attend_chosen: choice %d: row %d, heads %d + %d of %d, %d slots", i, c->row,
                    c->first_head, c->n_heads, config->n_heads, c->length);
        LP_TRY(list_inside(be, "attend_chosen", "slots", slots + c->begin, c->length, pool->n_slots, err));
        LP_TRY(floats_inside(be, "attend_chosen", "qkv", qkv, c->row + 1, q + 2 * (int64_t)pool->width, err));
        LP_TRY(floats_inside(be, "attend_chosen", "out", out, c->row + 1, q, err));
        poison(out + c->row * q + c->first_head * hd, c->n_heads * hd);
    }
    LP_TRY(of(be)->inner->attend_chosen(of(be)->inner, config, qkv, choices, n, slots, pool, layer, out, err));
    for (int32_t i = 0; i < n; i++)
        LP_TRY(no_nan("attend_chosen", out + choices[i].row * q + choices[i].first_head * hd, 1,
                      choices[i].n_heads * hd, q, err));
out:
    return status;
}

static lp_status check_edit_rows(lp_backend *be, float *x, int32_t stride, const lp_row_edit *edits, int32_t n,
                                 const float *vectors, lp_error *err) {
    lp_status status = LP_OK;
    for (int32_t i = 0; i < n; i++) {
        const lp_row_edit *e = &edits[i];
        float *at = x + (int64_t)e->row * stride + e->offset;
        if (e->row < 0 || e->offset < 0 || e->width < 0)
            LP_FAIL(LP_ERR_DEVICE, "check: edit_rows: edit %d: row %d, offset %d, width %d", i, e->row, e->offset,
                    e->width);
        LP_TRY(floats_inside(be, "edit_rows", "x", at, 1, e->width, err));
        if (e->operation != 2) LP_TRY(floats_inside(be, "edit_rows", "vectors", vectors + e->vector, 1, e->width, err));
        LP_TRY(no_nan("input of edit_rows", at, 1, e->width, e->width, err));
    }
    LP_TRY(of(be)->inner->edit_rows(of(be)->inner, x, stride, edits, n, vectors, err));
    for (int32_t i = 0; i < n; i++)
        LP_TRY(
            no_nan("edit_rows", x + (int64_t)edits[i].row * stride + edits[i].offset, 1, edits[i].width, stride, err));
out:
    return status;
}

static lp_status check_argmax(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                              int32_t *best, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "argmax", "logits", logits, n, width, err));
    LP_TRY(inside(be, "argmax", "best", best, n * (int64_t)sizeof *best, err));
    LP_TRY(no_nan("input of argmax", logits, n, n_candidates, width, err));
    for (int32_t i = 0; i < n; i++) best[i] = -1;
    LP_TRY(of(be)->inner->argmax(of(be)->inner, logits, n, width, n_candidates, best, err));
    LP_TRY(list_inside(be, "argmax", "best", best, n, n_candidates, err));
out:
    return status;
}

static lp_status check_scale_columns(lp_backend *be, float *x, int32_t n, int32_t width, int32_t n_columns,
                                     const float *scale, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "scale_columns", "x", x, n, width, err));
    LP_TRY(floats_inside(be, "scale_columns", "scale", scale, 1, n_columns, err));
    LP_TRY(no_nan("scale of scale_columns", scale, 1, n_columns, n_columns, err));
    LP_TRY(no_nan("input of scale_columns", x, n, n_columns, width, err));
    LP_TRY(of(be)->inner->scale_columns(of(be)->inner, x, n, width, n_columns, scale, err));
out:
    return status;
}

static lp_status check_top(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                           int32_t top, int32_t *tokens, float *log_probability, lp_error *err) {
    int64_t all = (int64_t)n * top;
    lp_status status = LP_OK;
    LP_TRY(floats_inside(be, "top", "logits", logits, n, width, err));
    LP_TRY(inside(be, "top", "tokens", tokens, all * (int64_t)sizeof *tokens, err));
    LP_TRY(floats_inside(be, "top", "log_probability", log_probability, n, top, err));
    LP_TRY(no_nan("input of top", logits, n, n_candidates, width, err));
    if (top < 1 || top > n_candidates) LP_FAIL(LP_ERR_DEVICE, "check: top: %d of %d candidates", top, n_candidates);
    for (int64_t i = 0; i < all; i++) tokens[i] = -1;
    poison(log_probability, all);
    LP_TRY(of(be)->inner->top(of(be)->inner, logits, n, width, n_candidates, top, tokens, log_probability, err));
    for (int32_t i = 0; i < n; i++)
        LP_TRY(list_inside(be, "top", "tokens", tokens + (int64_t)i * top, top, n_candidates, err));
    LP_TRY(no_nan("top", log_probability, n, top, top, err));
out:
    return status;
}

static lp_status check_fetch_begin(lp_backend *be, int fetch, const void *dev, size_t bytes, lp_error *err) {
    checker *c = of(be);
    lp_status status = LP_OK;
    LP_TRY(inside(be, "fetch_begin", "dev", dev, (int64_t)bytes, err));
    if (fetch < 0 || fetch >= LP_FETCHES || c->fetch_bytes[fetch])
        LP_FAIL(LP_ERR_DEVICE, "check: fetch_begin: fetch %d is under way already, or none", fetch);
    c->fetch_bytes[fetch] = bytes;
    status = c->inner->fetch_begin(c->inner, fetch, dev, bytes, err);
out:
    return status;
}

static lp_status check_fetch_end(lp_backend *be, int fetch, void *host, size_t bytes, lp_error *err) {
    checker *c = of(be);
    if (c->fetch_bytes[fetch] != bytes)
        return lp_fail(err, LP_ERR_DEVICE,
                       "check: fetch_end: expected %zu bytes, as the beginning of fetch %d, found %zu",
                       c->fetch_bytes[fetch], fetch, bytes);
    c->fetch_bytes[fetch] = 0;
    return c->inner->fetch_end(c->inner, fetch, host, bytes, err);
}

static lp_status check_read_logits(lp_backend *be, const float *logits, float *saved, int32_t width,
                                   int32_t n_candidates, const lp_logit_query *reads, int32_t n, lp_logit_stats *out,
                                   lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(inside(be, "read_logits", "out", out, n * (int64_t)sizeof *out, err));
    for (int32_t i = 0; i < n; i++) {
        const lp_logit_query *r = &reads[i];
        if (r->row >= 0)
            LP_TRY(floats_inside(be, "read_logits", "logits", logits + (int64_t)r->row * width, 1, width, err));
        if (r->saved_row >= 0)
            LP_TRY(floats_inside(be, "read_logits", "saved", saved + (int64_t)r->saved_row * width, 1, width, err));
        if (r->base >= 0)
            LP_TRY(floats_inside(be, "read_logits", "saved", saved + (int64_t)r->base * width, 1, width, err));
        if ((r->row < 0 && r->saved_row < 0) || r->token[0] >= n_candidates || r->token[1] >= n_candidates)
            LP_FAIL(LP_ERR_DEVICE, "check: read_logits: read %d: row %d, saved %d, tokens %d and %d of %d", i, r->row,
                    r->saved_row, r->token[0], r->token[1], n_candidates);
    }
    LP_TRY(of(be)->inner->read_logits(of(be)->inner, logits, saved, width, n_candidates, reads, n, out, err));
    for (int32_t i = 0; i < n; i++)
        if (isnan(out[i].log_sum) || (reads[i].base >= 0 && isnan(out[i].kl)))
            LP_FAIL(LP_ERR_DEVICE, "check: read_logits: read %d: not a number", i);
out:
    return status;
}

static lp_status check_capture_rows(lp_backend *be, const float *x, int32_t stride, const lp_row_capture *captures,
                                    int32_t n, float *out, lp_error *err) {
    lp_status status = LP_OK;
    for (int32_t i = 0; i < n; i++) {
        const lp_row_capture *t = &captures[i];
        const float *at = x + (int64_t)t->row * stride + t->offset;
        LP_TRY(floats_inside(be, "capture_rows", "x", at, 1, t->width, err));
        LP_TRY(floats_inside(be, "capture_rows", "out", out + t->out, 1, t->width, err));
        LP_TRY(no_nan("input of capture_rows", at, 1, t->width, t->width, err));
    }
    status = of(be)->inner->capture_rows(of(be)->inner, x, stride, captures, n, out, err);
out:
    return status;
}

lp_status lp_backend_check_new(lp_backend *inner, lp_backend **out, lp_error *err) {
    checker *c = NULL;
    lp_status status = lp_mem_new(&c, 1, sizeof *c, "checking backend", err);
    if (status != LP_OK) return status;
    c->inner = inner;
    c->base = (lp_backend){.name = "check",
                           .description = inner->description,
                           .device_id = inner->device_id,
                           .memory_bytes = inner->memory_bytes,
                           .batch_rows = inner->batch_rows,
                           .wants_groups = inner->wants_groups,
                           .kv_item_bytes = inner->kv_item_bytes,
                           .is_asynchronous = inner->is_asynchronous,
                           .makes_weights = inner->makes_weights,
                           .takes_panels = inner->takes_panels,
                           .free = check_free,
                           .alloc = check_alloc,
                           .release = check_release,
                           .upload = check_upload,
                           .download = check_download,
                           .sync = check_sync,
                           .fetch_begin = check_fetch_begin,
                           .fetch_end = check_fetch_end,
                           .linear_new = check_linear_new,
                           .linear_free = check_linear_free,
                           .matrix_new = check_matrix_new,
                           .vector_new = check_vector_new,
                           .vector_free = check_vector_free,
                           .linear = check_linear,
                           .copy_rows = check_copy_rows,
                           .copy_columns = check_copy_columns,
                           .add_rows = check_add_rows,
                           .norm = check_norm,
                           .add_norm = check_add_norm,
                           .norm_heads = check_norm_heads,
                           .activate = check_activate,
                           .store_kv = check_store_kv,
                           .copy_kv = check_copy_kv,
                           .attend = check_attend,
                           .attend_chosen = check_attend_chosen,
                           .edit_rows = check_edit_rows,
                           .argmax = check_argmax,
                           .scale_columns = check_scale_columns,
                           .top = check_top,
                           .read_logits = check_read_logits,
                           .capture_rows = check_capture_rows};
    lp_backend_use_defaults(&c->base);
    *out = &c->base;
    return LP_OK;
}
