#include "backend/cpu/cpu.h"

#include "base/gemm.h"
#include "base/memory.h"

#include <omp.h>

static void cpu_free(lp_backend *be) {
    lp_mem_free(((lp_backend_cpu *)be)->products);
    lp_mem_free(((lp_backend_cpu *)be)->scratch);
    lp_mem_free(be);
}

static lp_status cpu_alloc(lp_backend *be, size_t bytes, const char *what, void **out, lp_error *err) {
    (void)be;
    return lp_mem_new(out, bytes, 1, what, err);
}

static void cpu_release(lp_backend *be, void *dev) {
    (void)be;
    lp_mem_free(dev);
}

static lp_status cpu_upload(lp_backend *be, void *dev, const void *host, size_t bytes, lp_error *err) {
    (void)be;
    (void)err;
    if (bytes) memcpy(dev, host, bytes);
    return LP_OK;
}

static lp_status cpu_download(lp_backend *be, void *host, const void *dev, size_t bytes, lp_error *err) {
    (void)be;
    (void)err;
    if (bytes) memcpy(host, dev, bytes);
    return LP_OK;
}

static lp_status cpu_copy_rows(lp_backend *be, float *dst, const int32_t *dst_rows, const float *src,
                               const int32_t *src_rows, int32_t n, int32_t width, lp_error *err) {
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++)
        memcpy(dst + (int64_t)(dst_rows ? dst_rows[i] : i) * width, src + (int64_t)(src_rows ? src_rows[i] : i) * width,
               (size_t)width * sizeof(float));
    return LP_OK;
}

static lp_status cpu_copy_columns(lp_backend *be, float *dst, const int32_t *dst_rows, const float *matrix,
                                  const int32_t *columns, int32_t n, int32_t width, lp_error *err) {
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++) {
        const float *column = matrix + lp_gemm_panel_at(width, 0, columns[i]);
        float *row = dst + (int64_t)(dst_rows ? dst_rows[i] : i) * width;
        for (int32_t k = 0; k < width; k++) row[k] = column[(int64_t)k * LP_GEMM_PANEL];
    }
    return LP_OK;
}

static lp_status cpu_scale_columns(lp_backend *be, float *x, int32_t n, int32_t width, int32_t n_columns,
                                   const float *scale, lp_error *err) {
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, n_columns)) schedule(static)
    for (int32_t i = 0; i < n; i++) {
        float *row = x + (int64_t)i * width;
        for (int32_t j = 0; j < n_columns; j++) row[j] *= scale[j];
    }
    return LP_OK;
}

static lp_status cpu_add_rows(lp_backend *be, float *x, const float *y, const int32_t *y_rows, int32_t n, int32_t width,
                              lp_error *err) {
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++)
        lp_cpu_add(x + (int64_t)i * width, y + (int64_t)(y_rows ? y_rows[i] : i) * width, width);
    return LP_OK;
}

static void norm_row(const float *x, const float *weight, const float *bias, float eps, int32_t width, float *y) {
    if (bias)
        lp_cpu_layer_norm(x, weight, bias, eps, width, y);
    else
        lp_cpu_rms_norm(x, weight, eps, width, y);
}

static lp_status cpu_norm(lp_backend *be, const float *x, const float *weight, const float *bias, float eps, int32_t n,
                          int32_t width, lp_form form, float *y, lp_error *err) {
    (void)form; /* floats */
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++) norm_row(x + (int64_t)i * width, weight, bias, eps, width, y + (int64_t)i * width);
    return LP_OK;
}

static lp_status cpu_norm_heads(lp_backend *be, const lp_model_config *config, float *qkv, int32_t n,
                                const float *q_weight, const float *k_weight, lp_error *err) {
    (void)err;
    int32_t hd = config->head_dim, q = config->n_heads, normed = q + config->n_kv_heads;
    int64_t stride = (int64_t)hd * (normed + config->n_kv_heads);
#pragma omp parallel for num_threads(lp_cpu_team(be, n, stride)) schedule(static)
    for (int32_t i = 0; i < n; i++)
        for (int32_t h = 0; h < normed; h++) {
            float *x = qkv + i * stride + (int64_t)h * hd;
            lp_cpu_rms_norm(x, h < q ? q_weight : k_weight, config->norm_eps, hd, x);
        }
    return LP_OK;
}

static lp_status cpu_add_norm(lp_backend *be, float *x, const float *y, const float *weight, const float *bias,
                              float eps, int32_t n, int32_t width, lp_form form, float *h, lp_error *err) {
    (void)form; /* floats */
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++) {
        int64_t at = (int64_t)i * width;
        lp_cpu_add(x + at, y + at, width);
        norm_row(x + at, weight, bias, eps, width, h + at);
    }
    return LP_OK;
}

static lp_status cpu_activate(lp_backend *be, lp_activation kind, bool gated, const float *x, int32_t n, int32_t width,
                              lp_form form, float *y, lp_error *err) {
    (void)form; /* floats */
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++)
        lp_cpu_activate(kind, gated, x + (int64_t)i * width * (gated ? 2 : 1), width, y + (int64_t)i * width);
    return LP_OK;
}

static lp_status cpu_copy_kv(lp_backend *be, const lp_kv_pool *pool, int32_t layer, const int32_t *from,
                             const int32_t *to, int32_t n, lp_error *err) {
    (void)be;
    (void)err;
    int64_t at = (int64_t)layer * pool->n_slots * pool->width;
    size_t bytes = (size_t)pool->width * sizeof(float);
    for (int32_t i = 0; i < n; i++) {
        memcpy(pool->keys + at + (int64_t)to[i] * pool->width, pool->keys + at + (int64_t)from[i] * pool->width, bytes);
        memcpy(pool->values + at + (int64_t)to[i] * pool->width, pool->values + at + (int64_t)from[i] * pool->width,
               bytes);
    }
    return LP_OK;
}

static lp_status cpu_edit_rows(lp_backend *be, float *x, int32_t stride, const lp_row_edit *edits, int32_t n,
                               const float *vectors, lp_error *err) {
    (void)be;
    (void)err;
    for (int32_t i = 0; i < n; i++)
        lp_cpu_edit(x + (int64_t)edits[i].row * stride + edits[i].offset, &edits[i], vectors);
    return LP_OK;
}

static lp_status cpu_argmax(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                            int32_t *best, lp_error *err) {
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(static)
    for (int32_t i = 0; i < n; i++) best[i] = lp_cpu_argmax(logits + (int64_t)i * width, n_candidates);
    return LP_OK;
}

static lp_status cpu_top(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                         int32_t top, int32_t *tokens, float *log_probability, lp_error *err) {
    (void)err;
#pragma omp parallel for num_threads(lp_cpu_team(be, n, width)) schedule(dynamic)
    for (int32_t i = 0; i < n; i++) {
        int64_t at = (int64_t)i * top;
        lp_cpu_top(logits + (int64_t)i * width, n_candidates, top, tokens + at, log_probability + at);
    }
    return LP_OK;
}

static lp_status cpu_fetch_begin(lp_backend *be, int fetch, const void *dev, size_t bytes, lp_error *err) {
    (void)bytes;
    (void)err;
    ((lp_backend_cpu *)be)->fetched[fetch] = dev;
    return LP_OK;
}

static lp_status cpu_fetch_end(lp_backend *be, int fetch, void *host, size_t bytes, lp_error *err) {
    (void)err;
    if (bytes) memcpy(host, ((lp_backend_cpu *)be)->fetched[fetch], bytes);
    return LP_OK;
}

static lp_status cpu_read_logits(lp_backend *be, const float *logits, float *saved, int32_t width, int32_t n_candidates,
                                 const lp_logit_query *reads, int32_t n, lp_logit_stats *out, lp_error *err) {
    (void)err;
    for (int32_t i = 0; i < n; i++)
        if (reads[i].row >= 0 && reads[i].saved_row >= 0)
            memcpy(saved + (int64_t)reads[i].saved_row * width, logits + (int64_t)reads[i].row * width,
                   (size_t)width * sizeof(float));
#pragma omp parallel for num_threads(lp_cpu_team(be, n, n_candidates)) schedule(dynamic)
    for (int32_t i = 0; i < n; i++) {
        const lp_logit_query *query = &reads[i];
        const float *row =
            query->row >= 0 ? logits + (int64_t)query->row * width : saved + (int64_t)query->saved_row * width;
        lp_cpu_read_logits(row, query->base >= 0 ? saved + (int64_t)query->base * width : NULL, n_candidates,
                           query->token, &out[i]);
    }
    return LP_OK;
}

static lp_status cpu_capture_rows(lp_backend *be, const float *x, int32_t stride, const lp_row_capture *captures,
                                  int32_t n, float *out, lp_error *err) {
    (void)be;
    (void)err;
    for (int32_t i = 0; i < n; i++)
        memcpy(out + captures[i].out, x + (int64_t)captures[i].row * stride + captures[i].offset,
               (size_t)captures[i].width * sizeof(float));
    return LP_OK;
}

lp_status lp_backend_cpu_new(int32_t threads, lp_backend **out, lp_error *err) {
    lp_backend_cpu *cpu = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_gemm_check_setting(err));
    LP_TRY(lp_mem_new(&cpu, 1, sizeof *cpu, "cpu backend", err));
    cpu->threads = threads > 0 ? threads : omp_get_max_threads();
    LP_TRY(lp_mem_new(&cpu->products, (size_t)cpu->threads * LP_GEMM_WORKSPACE, sizeof(float), "products", err));
    cpu->base = (lp_backend){.name = "cpu",
                             .description = lp_backend_cpu_describe(),
                             .batch_rows = 1024,
                             .wants_groups = true,
                             .takes_panels = true,
                             .free = cpu_free,
                             .alloc = cpu_alloc,
                             .release = cpu_release,
                             .upload = cpu_upload,
                             .download = cpu_download,
                             .fetch_begin = cpu_fetch_begin,
                             .fetch_end = cpu_fetch_end,
                             .linear_new = lp_cpu_linear_new,
                             .linear_free = lp_cpu_linear_free,
                             .linear = lp_cpu_linear,
                             .copy_rows = cpu_copy_rows,
                             .copy_columns = cpu_copy_columns,
                             .add_rows = cpu_add_rows,
                             .norm = cpu_norm,
                             .add_norm = cpu_add_norm,
                             .norm_heads = cpu_norm_heads,
                             .activate = cpu_activate,
                             .store_kv = lp_cpu_store_kv,
                             .copy_kv = cpu_copy_kv,
                             .attend = lp_cpu_attend,
                             .attend_chosen = lp_cpu_attend_chosen,
                             .edit_rows = cpu_edit_rows,
                             .argmax = cpu_argmax,
                             .choose = lp_cpu_choose,
                             .scale_columns = cpu_scale_columns,
                             .top = cpu_top,
                             .read_logits = cpu_read_logits,
                             .capture_rows = cpu_capture_rows};
    lp_backend_use_defaults(&cpu->base);
    *out = &cpu->base;
    return LP_OK;
out:
    lp_mem_free(cpu);
    return status;
}

const char *lp_backend_cpu_describe(void) {
    static char text[64];
    snprintf(text, sizeof text, "kernels %.40s", lp_gemm_kernels());
    return text;
}
