/* Matrix products whose rows do not depend on each other's company, on cuBLASLt.
 *
 * Each shape of product gets one algorithm for good, chosen without split-K and without reductions between blocks, so
 * that an element of the result is one block's sum over n_in in that block's order. Calls have whole tiles of
 * LP_CUDA_TILE_ROWS rows, at most call_tiles of them; what is missing at the end is filled up (the caller's buffers
 * have room for it) and not looked at. The library promises nothing about bits, so each shape is probed when its first
 * weights are made known (probe_algorithm): rows must come out the same in calls of every allowed number of tiles and
 * at other places. The first candidate, in the library's order, that passes is taken: first with all rows in one
 * product, then with the tiles as a strided batch; where none passes, one tile at a time, which cannot depend on the
 * number of rows. Nothing is chosen by timing, which would differ from run to run. */
#include "backend/cuda/cuda.h"

#include "base/memory.h"

enum { CANDIDATES = 16, BF16_STEP = LP_CUDA_BF16_STEP, ALIGNMENT = 16 };
static const size_t CALL_BYTES = (size_t)256 << 20; /* most result of one call: bounds the probe's memory */

struct lp_backend_linear {
    int64_t n_in, n_out;
    int64_t y_stride;    /* floats between rows of y */
    int64_t depth;       /* n_in, filled up with zeros to a multiple of BF16_STEP for bf16 */
    lp_layout layout;    /* as lp_matrix has it; all parts in one */
    const float *shared; /* the weights where they are one held matrix: vector_free */
    void *own;           /* otherwise: cudaFree */
    size_t own_bytes;
    const float *bias;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t weights, x, y;
    int32_t shape; /* of the backend's shapes */
};

static bool is_bf16(const lp_backend_cuda *cuda) {
    return cuda->dtype == LP_CUDA_BF16;
}

/* ---- Making weights known ---------------------------------------------------------------------------------------- */

/* *stride = elements between rows of the stored matrix, which has all parts in their common layout. */
static lp_status hold_weights(lp_backend_cuda *cuda, const lp_linear *host, lp_backend_linear *w, int64_t *stride,
                              lp_error *err) {
    bool out_in = w->layout == LP_OUT_IN;
    int64_t rows = out_in ? host->n_out : w->depth, first = 0;
    size_t item = is_bf16(cuda) ? 2 : sizeof(float);
    lp_status status = LP_OK;
    *stride = out_in ? host->n_in : host->n_out;
    if (!is_bf16(cuda) && host->n_parts == 1) return lp_cuda_matrix_new(&cuda->base, &host->part[0], &w->shared, err);
    if (is_bf16(cuda)) *stride = (*stride + BF16_STEP - 1) / BF16_STEP * BF16_STEP;
    size_t bytes = (size_t)rows * (size_t)*stride * item;
    LP_TRY(lp_cuda_alloc(&cuda->base, bytes, "weights", &w->own, err));
    w->own_bytes = bytes;
    cuda->base.counters.weight_bytes += bytes;
    LP_CUDA(cudaMemsetAsync(w->own, 0, bytes, cuda->stream));
    for (int p = 0; p < host->n_parts; p++) {
        int64_t at = out_in ? first * *stride : first;
        LP_TRY(
            lp_cuda_make_matrix(cuda, &host->part[p], (char *)w->own + (size_t)at * item, *stride, is_bf16(cuda), err));
        first += host->part[p].n_out;
    }
out:
    return status;
}

/* Row-major y [rows, n_out] = x W is column-major y' [n_out, rows] = W' x', which is how the library sees it. */
static lp_status describe(lp_backend_cuda *cuda, lp_backend_linear *w, int64_t stride, lp_error *err) {
    cudaDataType_t type = is_bf16(cuda) ? CUDA_R_16BF : CUDA_R_32F;
    cublasComputeType_t compute = cuda->dtype == LP_CUDA_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    bool out_in = w->layout == LP_OUT_IN;
    cublasOperation_t turn = out_in ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    uint64_t out = (uint64_t)w->n_out, depth = (uint64_t)w->depth;
    lp_status status = LP_OK;
    LP_CUDA_BLAS(cublasLtMatmulDescCreate(&w->operation, compute, CUDA_R_32F));
    LP_CUDA_BLAS(cublasLtMatmulDescSetAttribute(w->operation, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn));
    if (w->bias) {
        LP_CUDA_BLAS(
            cublasLtMatmulDescSetAttribute(w->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        LP_CUDA_BLAS(
            cublasLtMatmulDescSetAttribute(w->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &w->bias, sizeof w->bias));
    }
    LP_CUDA_BLAS(cublasLtMatrixLayoutCreate(&w->weights, type, out_in ? depth : out, out_in ? out : depth, stride));
    LP_CUDA_BLAS(cublasLtMatrixLayoutCreate(&w->x, type, depth, LP_CUDA_TILE_ROWS, w->depth));
    LP_CUDA_BLAS(cublasLtMatrixLayoutCreate(&w->y, CUDA_R_32F, out, LP_CUDA_TILE_ROWS, w->y_stride));
out:
    return status;
}

/* ---- Multiplying ------------------------------------------------------------------------------------------------- */

/* Prepares the layouts for products of `rows` rows, n_batch of them. */
static lp_status set_rows(lp_backend_cuda *cuda, const lp_backend_linear *w, int32_t rows, int32_t n_batch,
                          lp_error *err) {
    uint64_t columns = (uint64_t)rows;
    int64_t x_step = rows * w->depth, y_step = rows * w->y_stride, w_step = 0;
    struct {
        cublasLtMatrixLayout_t layout;
        int64_t step;
    } all[] = {{w->weights, w_step}, {w->x, x_step}, {w->y, y_step}};
    lp_status status = LP_OK;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (i > 0)
            LP_CUDA_BLAS(
                cublasLtMatrixLayoutSetAttribute(all[i].layout, CUBLASLT_MATRIX_LAYOUT_COLS, &columns, sizeof columns));
        LP_CUDA_BLAS(cublasLtMatrixLayoutSetAttribute(all[i].layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n_batch,
                                                      sizeof n_batch));
        LP_CUDA_BLAS(cublasLtMatrixLayoutSetAttribute(all[i].layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                                      &all[i].step, sizeof all[i].step));
    }
out:
    return status;
}

static cublasStatus_t call_library(lp_backend_cuda *cuda, const lp_backend_linear *w, const void *x, float *y,
                                   const cublasLtMatmulAlgo_t *algorithm) {
    const float one = 1.0f, zero = 0.0f;
    const void *weights = w->shared ? (const void *)w->shared : w->own;
    return cublasLtMatmul(cuda->blas, w->operation, &one, weights, w->weights, x, w->x, &zero, y, w->y, y, w->y,
                          algorithm, cuda->workspace, LP_CUDA_WORKSPACE_BYTES, cuda->stream);
}

/* One call: rows is a multiple of the tile; x fp32, or bf16 [rows, depth]. *refused: the library does not do this shape
 * with this algorithm; without it that is an error. */
static lp_status multiply(lp_backend_cuda *cuda, const lp_backend_linear *w, const void *x, int32_t rows, float *y,
                          const cublasLtMatmulAlgo_t *algorithm, lp_cuda_rows_mode mode, bool *refused, lp_error *err) {
    int32_t tiles = rows / LP_CUDA_TILE_ROWS;
    int32_t calls = mode == LP_CUDA_ROWS_BY_TILE ? tiles : 1;
    size_t x_bytes = (size_t)LP_CUDA_TILE_ROWS * (size_t)w->depth * (is_bf16(cuda) ? 2 : 4);
    lp_status status = LP_OK;
    LP_TRY(set_rows(cuda, w, mode == LP_CUDA_ROWS_TOGETHER ? rows : LP_CUDA_TILE_ROWS,
                    mode == LP_CUDA_ROWS_BATCHED ? tiles : 1, err));
    for (int32_t i = 0; i < calls; i++) {
        cublasStatus_t code = call_library(cuda, w, (const char *)x + (size_t)i * x_bytes,
                                           y + (int64_t)i * LP_CUDA_TILE_ROWS * w->y_stride, algorithm);
        if (refused && code != CUBLAS_STATUS_SUCCESS) {
            *refused = true;
            return LP_OK;
        }
        LP_TRY(lp_cuda_check_blas(cuda, code, "cublasLtMatmul", __FILE__, __LINE__, err));
    }
out:
    return status;
}

/* ---- Choosing the algorithm -------------------------------------------------------------------------------------- */

typedef struct {
    float *x, *moved; /* dev [rows, n_in] */
    void *rounded;    /* dev bf16 [rows, depth] */
    float *whole, *y; /* dev [rows, y_stride] */
    int32_t *differs; /* dev */
    int32_t rows;     /* of the largest call */
} probe;

static void probe_release(probe *p) {
    void *all[] = {p->x, p->moved, p->rounded, p->whole, p->y, p->differs};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) (void)cudaFree(all[i]);
}

static lp_status probe_init(lp_backend_cuda *cuda, const lp_backend_linear *w, int32_t rows, probe *p, lp_error *err) {
    size_t x_bytes = (size_t)rows * (size_t)w->n_in * sizeof(float),
           y_bytes = (size_t)rows * (size_t)w->y_stride * sizeof(float);
    void *all[6] = {NULL};
    size_t bytes[6] = {x_bytes, x_bytes, (size_t)rows * (size_t)w->depth * 2, y_bytes, y_bytes, sizeof(int32_t)};
    lp_status status = LP_OK;
    *p = (probe){.rows = rows};
    for (size_t i = 0; i < 6 && status == LP_OK; i++) {
        if (i == 2 && !is_bf16(cuda)) continue;
        status = lp_cuda_alloc(&cuda->base, bytes[i], "probe of a matrix product", &all[i], err);
    }
    p->x = all[0];
    p->moved = all[1];
    p->rounded = all[2];
    p->whole = all[3];
    p->y = all[4];
    p->differs = all[5];
    LP_TRY(status);
    LP_CUDA(lp_cuda_fill(p->x, rows * w->n_in, 1, cuda->stream));
    /* What lies between rows is not written, and compared. */
    LP_CUDA(cudaMemsetAsync(p->whole, 0, y_bytes, cuda->stream));
    LP_CUDA(cudaMemsetAsync(p->y, 0, y_bytes, cuda->stream));
out:
    return status;
}

static lp_status probe_multiply(lp_backend_cuda *cuda, const lp_backend_linear *w, const probe *p, const float *x,
                                int32_t rows, float *y, const cublasLtMatmulAlgo_t *algorithm, lp_cuda_rows_mode mode,
                                bool *refused, lp_error *err) {
    const void *from = x;
    lp_status status = LP_OK;
    if (is_bf16(cuda)) {
        LP_CUDA(lp_cuda_to_bf16(p->rounded, w->depth, x, rows, w->n_in, cuda->stream));
        from = p->rounded;
    }
    status = multiply(cuda, w, from, rows, y, algorithm, mode, refused, err);
out:
    return status;
}

/* *passed: rows have the same bits in calls of 1 .. call_tiles tiles, in another order and company. */
static lp_status probe_algorithm(lp_backend_cuda *cuda, const lp_backend_linear *w, const probe *p,
                                 const cublasLtMatmulAlgo_t *algorithm, lp_cuda_rows_mode mode, bool *passed,
                                 lp_error *err) {
    enum { STEP = 37 }; /* prime, so that i * STEP + shift meets each of the power-of-two many tiles' places */
    int32_t differs = 0;
    bool refused = false;
    lp_status status = LP_OK;
    *passed = false;
    LP_CUDA(cudaMemsetAsync(p->differs, 0, sizeof differs, cuda->stream));
    LP_TRY(probe_multiply(cuda, w, p, p->x, p->rows, p->whole, algorithm, mode, &refused, err));
    for (int32_t rows = LP_CUDA_TILE_ROWS; rows <= p->rows && !refused && !differs; rows += LP_CUDA_TILE_ROWS) {
        int32_t shift = rows / LP_CUDA_TILE_ROWS * 5;
        LP_CUDA(lp_cuda_permute(p->moved, rows, p->x, p->rows, STEP, shift, w->n_in, cuda->stream));
        LP_TRY(probe_multiply(cuda, w, p, p->moved, rows, p->y, algorithm, mode, &refused, err));
        LP_CUDA(lp_cuda_compare(p->y, rows, p->whole, p->rows, STEP, shift, w->y_stride, p->differs, cuda->stream));
        LP_TRY(lp_cuda_download(&cuda->base, &differs, p->differs, sizeof differs, err));
    }
    if (refused) LP_CUDA(cudaStreamSynchronize(cuda->stream));
    *passed = !refused && differs == 0;
out:
    return status;
}

static bool splits(const cublasLtMatmulAlgo_t *algorithm) {
    int32_t split = 0;
    uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_NONE;
    size_t written = 0;
    cublasStatus_t code = cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                                               sizeof split, &written);
    if (code == CUBLAS_STATUS_SUCCESS && (split > 1 || split < 0)) return true;
    code = cublasLtMatmulAlgoConfigGetAttribute(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &reduction,
                                                sizeof reduction, &written);
    return code == CUBLAS_STATUS_SUCCESS && reduction != CUBLASLT_REDUCTION_SCHEME_NONE;
}

/* Candidates for calls of `rows` rows in `mode`, the library's favourite first. */
static lp_status ask_candidates(lp_backend_cuda *cuda, const lp_backend_linear *w, int32_t rows, lp_cuda_rows_mode mode,
                                cublasLtMatmulHeuristicResult_t *results, int *n, lp_error *err) {
    cublasLtMatmulPreference_t wish = NULL;
    uint64_t workspace = LP_CUDA_WORKSPACE_BYTES;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE, alignment = ALIGNMENT;
    static const cublasLtMatmulPreferenceAttributes_t operands[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    lp_status status = LP_OK;
    *n = 0;
    LP_CUDA_BLAS(cublasLtMatmulPreferenceCreate(&wish));
    LP_CUDA_BLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                                      sizeof workspace));
    LP_CUDA_BLAS(cublasLtMatmulPreferenceSetAttribute(wish, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                                                      sizeof reductions));
    for (size_t i = 0; i < sizeof operands / sizeof operands[0]; i++)
        LP_CUDA_BLAS(cublasLtMatmulPreferenceSetAttribute(wish, operands[i], &alignment, sizeof alignment));
    bool together = mode == LP_CUDA_ROWS_TOGETHER;
    LP_TRY(set_rows(cuda, w, together ? rows : LP_CUDA_TILE_ROWS,
                    mode == LP_CUDA_ROWS_BATCHED ? rows / LP_CUDA_TILE_ROWS : 1, err));
    cublasStatus_t code = cublasLtMatmulAlgoGetHeuristic(cuda->blas, w->operation, w->weights, w->x, w->y, w->y, wish,
                                                         CANDIDATES, results, n);
    if (code == CUBLAS_STATUS_NOT_SUPPORTED) {
        *n = 0;
    } else {
        LP_TRY(lp_cuda_check_blas(cuda, code, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__, err));
    }
out:
    if (wish) (void)cublasLtMatmulPreferenceDestroy(wish);
    return status;
}

static lp_status choose_algorithm(lp_backend_cuda *cuda, const lp_backend_linear *w, lp_cuda_shape *shape,
                                  lp_error *err) {
    static const lp_cuda_rows_mode modes[] = {LP_CUDA_ROWS_TOGETHER, LP_CUDA_ROWS_BATCHED, LP_CUDA_ROWS_BY_TILE};
    static const char *const mode_names[] = {"all rows at once", "batched by tile", "tile by tile"};
    probe p = {0};
    bool passed = false;
    int tried = 0;
    lp_status status = LP_OK;
    LP_TRY(probe_init(cuda, w, shape->call_tiles * LP_CUDA_TILE_ROWS, &p, err));
    for (size_t m = 0; m < sizeof modes / sizeof modes[0] && !passed; m++) {
        cublasLtMatmulHeuristicResult_t results[CANDIDATES];
        int n = 0;
        LP_TRY(ask_candidates(cuda, w, p.rows, modes[m], results, &n, err));
        for (int i = 0; i < n && !passed; i++) {
            if (results[i].state != CUBLAS_STATUS_SUCCESS || results[i].workspaceSize > LP_CUDA_WORKSPACE_BYTES ||
                splits(&results[i].algo))
                continue;
            tried++;
            LP_TRY(probe_algorithm(cuda, w, &p, &results[i].algo, modes[m], &passed, err));
            shape->algorithm = results[i].algo;
            shape->mode = modes[m];
        }
    }
    if (!passed)
        LP_FAIL(
            LP_ERR_DEVICE,
            "device %d (%s): no algorithm of cuBLASLt gives a row of a %lld x %lld product the same bits whatever else is in the batch (%d tried)",
            cuda->device, cuda->device_name, (long long)w->n_in, (long long)w->n_out, tried);
    cuda->log(LP_LOG_DEBUG, "product %lld x %lld: candidate %d, %s, up to %d rows a call", (long long)w->n_in,
              (long long)w->n_out, tried, mode_names[shape->mode], p.rows);
out:
    probe_release(&p);
    return status;
}

static lp_status find_shape(lp_backend_cuda *cuda, lp_backend_linear *w, lp_error *err) {
    for (w->shape = 0; w->shape < cuda->n_shapes; w->shape++) {
        const lp_cuda_shape *s = &cuda->shapes[w->shape];
        if (s->n_in == w->n_in && s->n_out == w->n_out && s->y_stride == w->y_stride && s->layout == w->layout &&
            s->bias == (w->bias != NULL))
            return LP_OK;
    }
    if (cuda->n_shapes == LP_CUDA_SHAPES)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "cuda backend: more than %d shapes of matrix products", LP_CUDA_SHAPES);
    lp_cuda_shape shape = {.n_in = w->n_in,
                           .n_out = w->n_out,
                           .y_stride = w->y_stride,
                           .layout = w->layout,
                           .bias = w->bias != NULL,
                           .call_tiles = lp_cuda_call_tiles(w->y_stride, CALL_BYTES)};
    lp_status status = choose_algorithm(cuda, w, &shape, err);
    if (status == LP_OK) cuda->shapes[cuda->n_shapes++] = shape;
    return status;
}

/* Room for one call's inputs rounded to bf16. */
static lp_status make_rounded(lp_backend_cuda *cuda, const lp_backend_linear *w, lp_error *err) {
    size_t bytes = (size_t)cuda->shapes[w->shape].call_tiles * LP_CUDA_TILE_ROWS * (size_t)w->depth * 2;
    if (!is_bf16(cuda) || bytes <= cuda->rounded_bytes) return LP_OK;
    lp_cuda_record_forget(cuda);
    (void)cudaFree(cuda->rounded); /* waits for what still reads it */
    cuda->rounded = NULL;
    cuda->rounded_bytes = 0;
    lp_status status = lp_cuda_alloc(&cuda->base, bytes, "bf16 inputs", &cuda->rounded, err);
    if (status == LP_OK) cuda->rounded_bytes = bytes;
    return status;
}

lp_status lp_cuda_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_backend_linear *w = NULL;
    int64_t stride = 0;
    lp_status status = LP_OK;
    for (int p = 1; p < host->n_parts; p++)
        if (host->part[p].layout != host->part[0].layout)
            return lp_fail(err, LP_ERR_UNSUPPORTED, "cuda backend: the parts of a linear layer differ in layout");
    LP_TRY(lp_mem_new(&w, 1, sizeof *w, "linear layer", err));
    w->n_in = host->n_in;
    w->n_out = host->n_out;
    w->y_stride = lp_linear_stride(host);
    w->depth = is_bf16(cuda) ? (host->n_in + BF16_STEP - 1) / BF16_STEP * BF16_STEP : host->n_in;
    w->layout = host->part[0].layout;
    if (host->bias) LP_TRY(lp_cuda_vector_new(be, host->bias, (size_t)host->n_out, &w->bias, err));
    LP_TRY(hold_weights(cuda, host, w, &stride, err));
    LP_TRY(describe(cuda, w, stride, err));
    LP_TRY(find_shape(cuda, w, err));
    LP_TRY(make_rounded(cuda, w, err));
    *out = w;
    return LP_OK;
out:
    lp_cuda_linear_free(be, w);
    return status;
}

void lp_cuda_linear_free(lp_backend *be, lp_backend_linear *w) {
    if (!w) return;
    if (w->bias) lp_cuda_vector_free(be, w->bias);
    if (w->shared) lp_cuda_vector_free(be, w->shared);
    if (w->own) lp_cuda_record_forget(lp_cuda_of(be));
    (void)cudaFree(w->own);
    be->counters.weight_bytes -= w->own_bytes;
    if (w->operation) (void)cublasLtMatmulDescDestroy(w->operation);
    cublasLtMatrixLayout_t layouts[] = {w->weights, w->x, w->y};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        if (layouts[i]) (void)cublasLtMatrixLayoutDestroy(layouts[i]);
    lp_mem_free(w);
}

lp_status lp_cuda_linear(lp_backend *be, const lp_backend_linear *w, lp_form form, const float *x, int32_t n, float *y,
                         lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    const lp_cuda_shape *shape = &cuda->shapes[w->shape];
    size_t row_bytes = lp_operand_bytes(be, form, (int32_t)w->n_in);
    lp_status status = LP_OK;
    LP_ASSERT((uintptr_t)x % ALIGNMENT == 0 && (uintptr_t)y % ALIGNMENT == 0);
    int32_t first = 0, rows = 0;
    for (int32_t i = 0; lp_cuda_call(n, shape->call_tiles, i, &first, &rows); i++) {
        const void *from = (const char *)x + (size_t)first * row_bytes;
        if (is_bf16(cuda) && form == LP_FLOATS) {
            LP_CUDA(lp_cuda_to_bf16(cuda->rounded, w->depth, from, rows, w->n_in, cuda->stream));
            from = cuda->rounded;
        }
        LP_TRY(multiply(cuda, w, from, rows, y + first * w->y_stride, &shape->algorithm, shape->mode, NULL, err));
        be->counters.padded_flops += 2 * (uint64_t)rows * (uint64_t)w->n_in * (uint64_t)w->n_out;
    }
    be->counters.gemm_flops += 2 * (uint64_t)n * (uint64_t)w->n_in * (uint64_t)w->n_out;
out:
    return status;
}
