#include "backend/cuda/cuda.h"

#include "base/build.h"
#include "base/memory.h"

_Static_assert((int)LP_CUDA_TILE_ROWS <= (int)LP_ROW_PADDING, "a tile fits in the padding");

/* ---- Operations -------------------------------------------------------------------------------------------------- */

static lp_status cuda_copy_rows(lp_backend *be, float *dst, const int32_t *dst_rows, const float *src,
                                const int32_t *src_rows, int32_t n, int32_t width, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_copy_rows(dst, dst_rows, src, src_rows, n, width, cuda->stream));
out:
    return status;
}

static lp_status cuda_pack_rows(lp_backend *be, float *dst, const float *src, const int32_t *src_rows, int32_t n,
                                int32_t width, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    if (cuda->dtype == LP_CUDA_FP32_SPLIT)
        LP_CUDA(lp_cuda_split_rows(dst, src, src_rows, n, width, cuda->stream));
    else if (cuda->dtype == LP_CUDA_BF16)
        LP_CUDA(lp_cuda_to_bf16(dst, (int64_t)(lp_operand_bytes(be, LP_OPERAND, width) / 2), src, src_rows, n, width,
                                cuda->stream));
    else
        LP_CUDA(lp_cuda_copy_rows(dst, NULL, src, src_rows, n, width, cuda->stream));
out:
    return status;
}

static lp_status cuda_scale_columns(lp_backend *be, float *x, int32_t n, int32_t width, int32_t n_columns,
                                    const float *scale, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_scale_columns(x, n, width, n_columns, scale, cuda->stream));
out:
    return status;
}

static lp_status cuda_add_rows(lp_backend *be, float *x, const float *y, const int32_t *y_rows, int32_t n,
                               int32_t width, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_add_rows(x, y, y_rows, n, width, cuda->stream));
out:
    return status;
}

static lp_cuda_form written_as(const lp_backend_cuda *cuda, lp_form form) {
    if (form == LP_FLOATS) return LP_CUDA_AS_FLOATS;
    return cuda->dtype == LP_CUDA_BF16         ? LP_CUDA_AS_BF16
           : cuda->dtype == LP_CUDA_FP32_SPLIT ? LP_CUDA_AS_SPLIT
                                               : LP_CUDA_AS_FLOATS;
}

static lp_status cuda_norm(lp_backend *be, const float *x, const float *weight, const float *bias, float eps, int32_t n,
                           int32_t width, lp_form form, float *y, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_norm(x, weight, bias, eps, n, width, written_as(cuda, form), y, cuda->stream));
out:
    return status;
}

static lp_status cuda_norm_heads(lp_backend *be, const lp_model_config *config, float *qkv, int32_t n,
                                 const float *q_weight, const float *k_weight, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    int64_t stride = (int64_t)config->head_dim * (config->n_heads + 2 * config->n_kv_heads);
    LP_CUDA(lp_cuda_norm_heads(qkv, stride, n, config->n_heads, config->n_kv_heads, config->head_dim, q_weight,
                               k_weight, config->norm_eps, cuda->stream));
out:
    return status;
}

static lp_status cuda_add_norm(lp_backend *be, float *x, const float *y, const float *weight, const float *bias,
                               float eps, int32_t n, int32_t width, lp_form form, float *h, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_add_norm(x, y, weight, bias, eps, n, width, written_as(cuda, form), h, cuda->stream));
out:
    return status;
}

static lp_status cuda_activate(lp_backend *be, lp_activation kind, bool gated, const float *x, int32_t n, int32_t width,
                               lp_form form, float *y, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_activate(kind, gated, x, n, width, written_as(cuda, form), y, cuda->stream));
out:
    return status;
}

static lp_cuda_attention attention_of(const lp_backend_cuda *cuda, const lp_model_config *config,
                                      const lp_row_table *rows, const lp_kv_pool *pool, int32_t layer) {
    const size_t at = (size_t)layer * (size_t)pool->n_slots * pool->slot_bytes;
    return (lp_cuda_attention){.rows = *rows,
                               .keys = (char *)pool->keys + at,
                               .values = (char *)pool->values + at,
                               .slot_bytes = (int64_t)pool->slot_bytes,
                               .is_bf16 = cuda->dtype == LP_CUDA_BF16,
                               .width = pool->width,
                               .n_heads = config->n_heads,
                               .n_kv_heads = config->n_kv_heads,
                               .head_dim = config->head_dim};
}

static lp_status cuda_store_kv(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                               int32_t n, const float *cosine, const float *sine, const lp_kv_pool *pool, int32_t layer,
                               lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_cuda_attention attention = attention_of(cuda, config, rows, pool, layer);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_store_kv(&attention, qkv, n, cosine, sine, cuda->stream));
out:
    return status;
}

static lp_status cuda_copy_kv(lp_backend *be, const lp_kv_pool *pool, int32_t layer, const int32_t *from,
                              const int32_t *to, int32_t n, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    const size_t at = (size_t)layer * (size_t)pool->n_slots * pool->slot_bytes;
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_copy_kv((char *)pool->keys + at, (char *)pool->values + at, (int64_t)pool->slot_bytes, from, to, n,
                            cuda->stream));
out:
    return status;
}

static lp_status cuda_attend(lp_backend *be, const lp_model_config *config, float *qkv, const lp_row_table *rows,
                             int32_t n, const lp_kv_pool *pool, int32_t layer, lp_form form, float *out,
                             lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    if (config->head_dim > LP_CUDA_MAX_HEAD_DIM || config->n_heads / config->n_kv_heads > LP_CUDA_MAX_QUERIES)
        LP_FAIL(
            LP_ERR_UNSUPPORTED,
            "cuda backend: expected heads of at most %d numbers and at most %d query heads of a KV head, found %d and %d",
            LP_CUDA_MAX_HEAD_DIM, LP_CUDA_MAX_QUERIES, config->head_dim, config->n_heads / config->n_kv_heads);
    lp_cuda_attention attention = attention_of(cuda, config, rows, pool, layer);
    const lp_cuda_form as = written_as(cuda, form);
    const lp_cuda_attended to = {
        .out = out, .as_split = as == LP_CUDA_AS_SPLIT, .as_bf16 = as == LP_CUDA_AS_BF16, .finished = cuda->finished};
    LP_ASSERT(!to.as_split || n <= LP_CUDA_FINISHED_ROWS);
    LP_CUDA((attention.is_bf16 ? lp_cuda_attend_bf16 : lp_cuda_attend)(&attention, qkv, n, &to, cuda->stream));
out:
    return status;
}

/* Items that go to the device with the next kernel: as many of n, from `done` on, as its list has room for. */
static lp_status send_list(lp_backend_cuda *cuda, const void *items, int32_t n, size_t item_bytes, int32_t done,
                           int32_t *some, lp_error *err) {
    int32_t most = (int32_t)(LP_CUDA_LIST_BYTES / item_bytes);
    *some = n - done < most ? n - done : most;
    return lp_cuda_upload(&cuda->base, cuda->list, (const char *)items + (size_t)done * item_bytes,
                          (size_t)*some * item_bytes, err);
}

static lp_status cuda_attend_chosen(lp_backend *be, const lp_model_config *config, const float *qkv,
                                    const lp_row_choice *choices, int32_t n, const int32_t *slots,
                                    const lp_kv_pool *pool, int32_t layer, float *out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    const lp_cuda_attention attention = attention_of(cuda, config, &(lp_row_table){.n_groups = 0}, pool, layer);
    int32_t most_heads = 1;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < n; i++)
        if (choices[i].n_heads > most_heads) most_heads = choices[i].n_heads;
    for (int32_t done = 0, some = 0; done < n; done += some) {
        LP_TRY(send_list(cuda, choices, n, sizeof *choices, done, &some, err));
        LP_CUDA((attention.is_bf16 ? lp_cuda_attend_chosen_bf16 : lp_cuda_attend_chosen)(
            &attention, qkv, cuda->list, some, most_heads, slots, out, cuda->stream));
    }
out:
    return status;
}

static lp_status cuda_edit_rows(lp_backend *be, float *x, int32_t stride, const lp_row_edit *edits, int32_t n,
                                const float *vectors, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    for (int32_t done = 0, some = 0; done < n; done += some) {
        LP_TRY(send_list(cuda, edits, n, sizeof *edits, done, &some, err));
        LP_CUDA(lp_cuda_edit_rows(x, stride, cuda->list, some, vectors, cuda->stream));
    }
out:
    return status;
}

static lp_status cuda_read_logits(lp_backend *be, const float *logits, float *saved, int32_t width,
                                  int32_t n_candidates, const lp_logit_query *reads, int32_t n, lp_logit_stats *out,
                                  lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    for (int32_t done = 0, some = 0; done < n; done += some) {
        LP_TRY(send_list(cuda, reads, n, sizeof *reads, done, &some, err));
        LP_CUDA(lp_cuda_read_logits(logits, saved, width, n_candidates, cuda->list, some, out + done, cuda->stream));
    }
out:
    return status;
}

static lp_status cuda_capture_rows(lp_backend *be, const float *x, int32_t stride, const lp_row_capture *captures,
                                   int32_t n, float *out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    for (int32_t done = 0, some = 0; done < n; done += some) {
        LP_TRY(send_list(cuda, captures, n, sizeof *captures, done, &some, err));
        LP_CUDA(lp_cuda_capture_rows(x, stride, cuda->list, some, out, cuda->stream));
    }
out:
    return status;
}

static lp_status cuda_argmax(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                             int32_t *best, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_argmax(logits, n, width, n_candidates, best, cuda->stream));
out:
    return status;
}

static lp_status cuda_top(lp_backend *be, const float *logits, int32_t n, int32_t width, int32_t n_candidates,
                          int32_t top, int32_t *tokens, float *log_probability, lp_error *err) {
    const lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(lp_cuda_top(logits, n, width, n_candidates, top, tokens, log_probability, cuda->stream));
out:
    return status;
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

static void cuda_free(lp_backend *be) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_cuda_memory_release(cuda);
    if (cuda->blas) (void)cublasLtDestroy(cuda->blas);
    if (cuda->stream) (void)cudaStreamDestroy(cuda->stream);
    lp_mem_free(cuda);
}

/* *n_devices > 0, or an error that says why there is none. */
static lp_status count_devices(int *n_devices, lp_error *err) {
    int driver = 0, runtime = 0;
    *n_devices = 0; /* a failing cudaGetDeviceCount does not write it */
    cudaError_t code = cudaGetDeviceCount(n_devices);
    if (code == cudaSuccess && *n_devices > 0) return LP_OK;
    if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
    if (cudaRuntimeGetVersion(&runtime) != cudaSuccess) runtime = 0;
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (driver == 0) return lp_fail(err, LP_ERR_UNSUPPORTED, "no CUDA device: no NVIDIA driver was found on this node");
    if (code == cudaErrorInsufficientDriver)
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "no CUDA device: expected a driver for CUDA %d.%d or later, found one for %d.%d", runtime / 1000,
                       runtime % 1000 / 10, driver / 1000, driver % 1000 / 10);
    if (code == cudaSuccess || code == cudaErrorNoDevice)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "no CUDA device: none is visible to this process%s%.64s%s",
                       visible ? " (CUDA_VISIBLE_DEVICES is \"" : "", visible ? visible : "", visible ? "\")" : "");
    return lp_fail(err, LP_ERR_DEVICE, "cudaGetDeviceCount: %s (%s)", cudaGetErrorString(code), cudaGetErrorName(code));
}

static lp_status choose_device(lp_backend_cuda *cuda, const lp_cuda_options *options, lp_error *err) {
    static const char *const dtypes[] = {"fp32-simt", "tf32", "bf16", "fp32-tc"};
    struct cudaDeviceProp properties;
    int n_devices = 0, driver = 0, runtime = 0;
    size_t available = 0, total = 0;
    lp_status status = LP_OK;
    LP_TRY(count_devices(&n_devices, err));
    cuda->device = lp_cuda_device_of(options->node_rank, n_devices);
    snprintf(cuda->device_name, sizeof cuda->device_name, "?");
    LP_CUDA(cudaSetDevice(cuda->device));
    LP_CUDA(cudaGetDeviceProperties(&properties, cuda->device));
    snprintf(cuda->device_name, sizeof cuda->device_name, "%.120s", properties.name);
    if (properties.major < 8)
        LP_FAIL(LP_ERR_UNSUPPORTED, "no CUDA device: expected compute capability 8.0 or later, found %d.%d (%s)",
                properties.major, properties.minor, cuda->device_name);
    LP_CUDA(cudaMemGetInfo(&available, &total));
    LP_CUDA(cudaDriverGetVersion(&driver));
    LP_CUDA(cudaRuntimeGetVersion(&runtime));
    snprintf(cuda->description, sizeof cuda->description,
             "%s (sm_%d%d, %d multiprocessors, %.1f GiB), driver for CUDA %d.%d, runtime %d.%d, cuBLASLt %zu, %s",
             cuda->device_name, properties.major, properties.minor, properties.multiProcessorCount,
             (double)total / 1073741824.0, driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10,
             cublasLtGetVersion(), dtypes[options->dtype]);
    cuda->log(LP_LOG_DEBUG, "device %d of %d for rank %d of this node", cuda->device, n_devices, options->node_rank);
    cuda->base.memory_bytes = (int64_t)available;
    for (size_t i = 0; i < sizeof properties.uuid.bytes; i++)
        snprintf(cuda->device_id + 2 * i, 3, "%02x", (unsigned)(unsigned char)properties.uuid.bytes[i]);
out:
    return status;
}

/* The library reads these, and computes other numbers for it. What is computed is said by the job alone. */
static void forget_overrides(const lp_backend_cuda *cuda) {
    static const char *const names[] = {"NVIDIA_TF32_OVERRIDE", "CUBLAS_EMULATE_SINGLE_PRECISION",
                                        "CUBLAS_EMULATION_STRATEGY", "CUBLASLT_HEURISTICS_LUT_FILE"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (!getenv(names[i])) continue;
        cuda->log(LP_LOG_WARN, "%s has no effect: the job says in which arithmetic it computes (engine.dtype)",
                  names[i]);
        (void)unsetenv(names[i]);
    }
}

static lp_status check_build(const lp_cuda_options *options, lp_error *err) {
    if (options->options_bytes == sizeof *options && options->backend_bytes == sizeof(lp_backend) &&
        options->row_table_bytes == sizeof(lp_row_table) && strcmp(options->version, lp_build_version()) == 0)
        return LP_OK;
    return lp_fail(err, LP_ERR_MISMATCH, "%s is of another build: expected version %s, found %s", LP_CUDA_MODULE,
                   options->version, lp_build_version());
}

__attribute__((visibility("default"))) lp_status lp_backend_cuda_open(const lp_cuda_options *options, lp_backend **out,
                                                                      lp_error *err);

lp_status lp_backend_cuda_open(const lp_cuda_options *options, lp_backend **out, lp_error *err) {
    lp_backend_cuda *cuda = NULL;
    lp_status status = LP_OK;
    LP_TRY(check_build(options, err));
    LP_TRY(lp_mem_new(&cuda, 1, sizeof *cuda, "cuda backend", err));
    cuda->dtype = options->dtype;
    cuda->log = options->log;
    cuda->base = (lp_backend){.name = "cuda",
                              .description = cuda->description,
                              .device_id = cuda->device_id,
                              .batch_rows = 4096,
                              .wants_groups = true,
                              .is_asynchronous = true,
                              .operand_item_bytes = options->dtype == LP_CUDA_BF16         ? 2
                                                    : options->dtype == LP_CUDA_FP32_SPLIT ? 4
                                                                                           : 0,
                              .kv_item_bytes = options->dtype == LP_CUDA_BF16 ? 2 : 0,
                              .operand_tail_bytes = options->dtype == LP_CUDA_FP32_SPLIT ? LP_CUDA_SPLIT_TAIL : 0,
                              .makes_weights = true,
                              .free = cuda_free,
                              .alloc = lp_cuda_alloc,
                              .release = lp_cuda_release,
                              .upload = lp_cuda_upload,
                              .download = lp_cuda_download,
                              .sync = lp_cuda_sync,
                              .fetch_begin = lp_cuda_fetch_begin,
                              .fetch_end = lp_cuda_fetch_end,
                              .linear_new = lp_cuda_linear_new,
                              .linear_free = lp_cuda_linear_free,
                              .matrix_new = lp_cuda_matrix_new,
                              .vector_new = lp_cuda_vector_new,
                              .vector_free = lp_cuda_vector_free,
                              .linear = lp_cuda_linear,
                              .copy_rows = cuda_copy_rows,
                              .pack_rows = cuda_pack_rows,
                              .add_rows = cuda_add_rows,
                              .norm = cuda_norm,
                              .add_norm = cuda_add_norm,
                              .norm_heads = cuda_norm_heads,
                              .activate = cuda_activate,
                              .store_kv = cuda_store_kv,
                              .copy_kv = cuda_copy_kv,
                              .attend = cuda_attend,
                              .attend_chosen = cuda_attend_chosen,
                              .edit_rows = cuda_edit_rows,
                              .argmax = cuda_argmax,
                              .scale_columns = cuda_scale_columns,
                              .top = cuda_top,
                              .read_logits = cuda_read_logits,
                              .capture_rows = cuda_capture_rows};
    LP_TRY(choose_device(cuda, options, err));
    LP_CUDA(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking));
    forget_overrides(cuda);
    LP_CUDA_BLAS(cublasLtCreate(&cuda->blas));
    LP_TRY(lp_cuda_memory_init(cuda, err));
    *out = &cuda->base;
    return LP_OK;
out:
    if (cuda) cuda_free(&cuda->base);
    return status;
}
