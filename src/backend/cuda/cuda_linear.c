/* Matrix products whose rows do not depend on each other's company, on cuBLASLt.
 *
 * Each shape of product gets one algorithm for good, chosen without split-K and without reductions between blocks, so
 * that an element of the result is one block's sum over n_in in that block's order. Calls have whole tiles of
 * LP_CUDA_TILE_ROWS rows, at most call_tiles of them; what is missing at the end is filled up (the caller's buffers
 * have room for it) and not looked at. The library promises nothing about bits, so each shape is probed when its first
 * weights are made known (probe_algorithm): rows must come out the same in calls of every allowed number of tiles and
 * at other places. The first candidate, in the library's order, that passes is taken: first with all rows in one
 * product, then with the tiles as a strided batch; where none passes, one tile at a time, which cannot depend on the
 * number of rows. Nothing is chosen by timing, which would differ from run to run.
 *
 * Widths are filled up with zeros (depth, width below), so that every argument is aligned: the library's kernels for
 * other addresses are several times slower. Operands that do not come like that are packed first, and results that the
 * caller's rows have no room for are made elsewhere and copied.
 *
 * Split operands (split.cuh) take three products of fp16, x = h + l, W = h' + l': one of depth 2 n_in for h l' + l h',
 * then h h' in pieces of SPLIT_PIECE, each added to what is there, as tensor cores cut their running sum; then a kernel
 * that applies the powers of two and the bias.
 *
 * On the ordinary units the library adds the n_in numbers of an element one by one in one float32 sum, whose rounding
 * errors make nearly all of the distance from float64 (bench/RESULTS.md has the figures by step). In pieces of
 * FLOAT_PIECE, each added to what is there, the error is about half as large. */
#include "backend/cuda/cuda.h"

#include "base/memory.h"

enum { CANDIDATES = 16, STEP = LP_CUDA_STEP, ALIGNMENT = 16, SPLIT_PIECE = 1024, FLOAT_PIECE = 512, MOST_TERMS = 3 };
static const size_t CALL_BYTES = (size_t)256 << 20; /* most result of one call: bounds the probe's memory */

/* Products of one shape that are added up: `count` of them, from x_at on and w_at on, side by side along the depth. */
typedef struct {
    int64_t depth, x_at, w_at;
    int32_t count;
    float alpha, beta; /* y = alpha x W + beta y */
    bool bias;         /* and the bias */
    cublasLtMatrixLayout_t weights, x;
    int32_t shape; /* of the backend's shapes */
} product_term;

struct lp_backend_linear {
    int64_t n_in, n_out;
    int64_t depth;       /* n_in, filled up with zeros to a multiple of STEP */
    int64_t width;       /* n_out, filled up by lp_cuda_padded_width */
    int64_t y_stride;    /* floats between rows of y */
    int64_t out_stride;  /* the same of what the products write: y, or the backend's room for results */
    int64_t x_stride;    /* elements between rows of an operand as the products take it */
    int64_t w_step;      /* elements between the weights of neighbouring inputs */
    lp_layout layout;    /* as lp_matrix has it; all parts in one */
    const float *shared; /* the weights where they are one held matrix: vector_free */
    void *own;           /* otherwise: cudaFree */
    int32_t *exponents;  /* split: dev [width]; cudaFree */
    float *bias;         /* dev [width] or NULL; cudaFree */
    size_t own_bytes;    /* of all three */
    cublasLtMatmulDesc_t operation, with_bias; /* NULL: no product has it */
    cublasLtMatrixLayout_t y;
    product_term terms[MOST_TERMS];
    int n_terms;
};

static bool is_split(const lp_backend_cuda *cuda) {
    return cuda->dtype == LP_CUDA_FP32_SPLIT;
}

static bool is_bf16(const lp_backend_cuda *cuda) {
    return cuda->dtype == LP_CUDA_BF16;
}

/* Of an operand as the products take it. */
static size_t item_bytes(const lp_backend_cuda *cuda) {
    return is_bf16(cuda) || is_split(cuda) ? 2 : sizeof(float);
}

static lp_cuda_stored element_type(const lp_backend_cuda *cuda) {
    return is_split(cuda) ? LP_CUDA_STORED_F16 : is_bf16(cuda) ? LP_CUDA_STORED_BF16 : LP_CUDA_STORED_F32;
}

static int64_t filled_up(int64_t width) {
    return (width + STEP - 1) / STEP * STEP;
}

/* ---- Making weights known ---------------------------------------------------------------------------------------- */

static lp_status own_memory(lp_backend_cuda *cuda, lp_backend_linear *linear, size_t bytes, void **out, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_cuda_alloc(&cuda->base, bytes, "weights", out, err));
    linear->own_bytes += bytes;
    cuda->base.counters.weight_bytes += bytes;
    LP_CUDA(cudaMemsetAsync(*out, 0, bytes, cuda->stream));
out:
    return status;
}

/* Rows first .. of the split weights, of one part: of its float32, which are held or made for this. */
static lp_status split_part(lp_backend_cuda *cuda, const lp_matrix *matrix, int64_t first, lp_backend_linear *linear,
                            lp_error *err) {
    const bool out_in = matrix->layout == LP_OUT_IN;
    const int64_t row_step = out_in ? matrix->n_in : 1, column_step = out_in ? 1 : matrix->n_out;
    const float *floats = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_cuda_matrix_new(&cuda->base, matrix, &floats, err));
    LP_CUDA(lp_cuda_split_weights((char *)linear->own + (size_t)(first * 2 * linear->depth) * 2,
                                  linear->exponents + first, floats, matrix->n_out, (int32_t)matrix->n_in, row_step,
                                  column_step, cuda->stream));
out:
    if (floats) lp_cuda_vector_free(&cuda->base, floats);
    return status;
}

/* *stride = elements between rows of the stored matrix, which has all parts in their common layout. */
static lp_status hold_weights(lp_backend_cuda *cuda, const lp_linear *host, lp_backend_linear *linear, int64_t *stride,
                              lp_error *err) {
    const bool out_in = linear->layout == LP_OUT_IN, split = is_split(cuda);
    const int64_t rows = out_in || split ? linear->width : linear->depth;
    int64_t first = 0;
    lp_status status = LP_OK;
    *stride = split ? 2 * linear->depth : out_in ? linear->depth : linear->width;
    /* A held matrix of rows that are aligned has as many as its product is wide. */
    bool fits =
        out_in ? linear->depth == linear->n_in : linear->width == linear->n_out && linear->depth == linear->n_in;
    if (item_bytes(cuda) == sizeof(float) && host->n_parts == 1 && fits)
        return lp_cuda_matrix_new(&cuda->base, &host->part[0], &linear->shared, err);
    LP_TRY(own_memory(cuda, linear, (size_t)(rows * *stride) * item_bytes(cuda), &linear->own, err));
    if (split) {
        void *exponents = NULL;
        status = own_memory(cuda, linear, (size_t)linear->width * sizeof(int32_t), &exponents, err);
        linear->exponents = exponents;
        LP_TRY(status);
    }
    for (int p = 0; p < host->n_parts; p++) {
        int64_t at = out_in ? first * *stride : first;
        if (split)
            LP_TRY(split_part(cuda, &host->part[p], first, linear, err));
        else
            LP_TRY(lp_cuda_make_matrix(cuda, &host->part[p], (char *)linear->own + (size_t)at * item_bytes(cuda),
                                       *stride, is_bf16(cuda), err));
        first += host->part[p].n_out;
    }
out:
    return status;
}

static lp_status hold_bias(lp_backend_cuda *cuda, const float *bias, lp_backend_linear *linear, lp_error *err) {
    void *own = NULL;
    if (!bias) return LP_OK;
    lp_status status = own_memory(cuda, linear, (size_t)linear->width * sizeof(float), &own, err);
    linear->bias = own;
    if (status != LP_OK) return status;
    return lp_cuda_upload(&cuda->base, own, bias, (size_t)linear->n_out * sizeof(float), err);
}

/* Products of pieces of at most `most` numbers, whose weights begin at `w_from`: the first alone where it begins the
 * sum, the other whole ones, and what is left. */
static void add_pieces(lp_backend_linear *linear, int64_t most, int64_t w_from, bool begins) {
    const int64_t piece = linear->depth < most ? linear->depth : most, rest = linear->depth % piece,
                  whole = linear->depth - rest, first = begins ? piece : 0;
    product_term *terms = linear->terms;
    if (begins)
        terms[linear->n_terms++] =
            (product_term){.depth = piece, .w_at = w_from, .count = 1, .alpha = 1.0f, .bias = linear->bias != NULL};
    if (whole > first)
        terms[linear->n_terms++] = (product_term){.depth = piece,
                                                  .x_at = first,
                                                  .w_at = w_from + first,
                                                  .count = (int32_t)((whole - first) / piece),
                                                  .alpha = 1.0f,
                                                  .beta = 1.0f};
    if (rest > 0)
        terms[linear->n_terms++] = (product_term){
            .depth = rest, .x_at = whole, .w_at = w_from + whole, .count = 1, .alpha = 1.0f, .beta = 1.0f};
}

static void make_terms(const lp_backend_cuda *cuda, lp_backend_linear *linear) {
    if (!is_split(cuda)) {
        add_pieces(linear, cuda->dtype == LP_CUDA_FP32 ? FLOAT_PIECE : linear->depth, 0, true);
        return;
    }
    linear->terms[linear->n_terms++] = (product_term){.depth = 2 * linear->depth, .count = 1, .alpha = 1.0f / 2048.0f};
    add_pieces(linear, SPLIT_PIECE, linear->depth, false);
}

static lp_status describe_operation(lp_backend_cuda *cuda, const lp_backend_linear *linear, bool bias,
                                    cublasLtMatmulDesc_t *out, lp_error *err) {
    const cublasComputeType_t compute = cuda->dtype == LP_CUDA_TF32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    const cublasOperation_t turn = linear->layout == LP_OUT_IN || is_split(cuda) ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    lp_status status = LP_OK;
    LP_CUDA_BLAS(cublasLtMatmulDescCreate(out, compute, CUDA_R_32F));
    LP_CUDA_BLAS(cublasLtMatmulDescSetAttribute(*out, CUBLASLT_MATMUL_DESC_TRANSA, &turn, sizeof turn));
    if (bias) {
        LP_CUDA_BLAS(cublasLtMatmulDescSetAttribute(*out, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
        LP_CUDA_BLAS(cublasLtMatmulDescSetAttribute(*out, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &linear->bias,
                                                    sizeof linear->bias));
    }
out:
    return status;
}

/* Row-major y [rows, width] = x W is column-major y' [width, rows] = W' x', which is how the library sees it. */
static lp_status describe(lp_backend_cuda *cuda, lp_backend_linear *linear, int64_t stride, lp_error *err) {
    const cudaDataType_t type = is_split(cuda) ? CUDA_R_16F : is_bf16(cuda) ? CUDA_R_16BF : CUDA_R_32F;
    const bool turned = linear->layout == LP_OUT_IN || is_split(cuda);
    const uint64_t out = (uint64_t)linear->width;
    lp_status status = LP_OK;
    linear->w_step = turned ? 1 : stride;
    LP_TRY(describe_operation(cuda, linear, false, &linear->operation, err));
    if (linear->bias && !is_split(cuda)) LP_TRY(describe_operation(cuda, linear, true, &linear->with_bias, err));
    make_terms(cuda, linear);
    for (int i = 0; i < linear->n_terms; i++) {
        product_term *term = &linear->terms[i];
        const uint64_t depth = (uint64_t)term->depth;
        LP_CUDA_BLAS(
            cublasLtMatrixLayoutCreate(&term->weights, type, turned ? depth : out, turned ? out : depth, stride));
        LP_CUDA_BLAS(cublasLtMatrixLayoutCreate(&term->x, type, depth, LP_CUDA_TILE_ROWS, linear->x_stride));
    }
    LP_CUDA_BLAS(cublasLtMatrixLayoutCreate(&linear->y, CUDA_R_32F, out, LP_CUDA_TILE_ROWS, linear->out_stride));
out:
    return status;
}

/* ---- Multiplying ------------------------------------------------------------------------------------------------- */

/* Prepares the layouts for products of `rows` rows, n_batch of them. */
static lp_status set_rows(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term,
                          int32_t rows, int32_t n_batch, lp_error *err) {
    uint64_t columns = (uint64_t)rows;
    int64_t x_step = rows * linear->x_stride, y_step = rows * linear->out_stride, w_step = 0;
    struct {
        cublasLtMatrixLayout_t layout;
        int64_t step;
    } all[] = {{term->weights, w_step}, {term->x, x_step}, {linear->y, y_step}};
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

static cublasLtMatmulDesc_t operation_of(const lp_backend_linear *linear, const product_term *term) {
    return term->bias ? linear->with_bias : linear->operation;
}

/* Product i of a term; x and y as the layouts have them. */
static cublasStatus_t call_library(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term,
                                   int32_t i, const char *x, float *y, const cublasLtMatmulAlgo_t *algorithm) {
    const char *weights = linear->shared ? (const char *)linear->shared : linear->own;
    const size_t along = (size_t)(i * term->depth), item = item_bytes(cuda);
    return cublasLtMatmul(cuda->blas, operation_of(linear, term), &term->alpha,
                          weights + ((size_t)term->w_at + along) * (size_t)linear->w_step * item, term->weights,
                          x + ((size_t)term->x_at + along) * item, term->x, &term->beta, y, linear->y, y, linear->y,
                          algorithm, cuda->workspace, LP_CUDA_WORKSPACE_BYTES, cuda->stream);
}

/* The first n products of a term, in one call: rows is a multiple of the tile; x [rows, x_stride] as products take it.
 * *refused: the library does not do this shape with this algorithm; without it that is an error. */
static lp_status multiply(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term, int32_t n,
                          const void *x, int32_t rows, float *y, const cublasLtMatmulAlgo_t *algorithm,
                          lp_cuda_rows_mode mode, bool *refused, lp_error *err) {
    int32_t tiles = rows / LP_CUDA_TILE_ROWS;
    int32_t calls = mode == LP_CUDA_ROWS_BY_TILE ? tiles : 1;
    size_t x_bytes = (size_t)LP_CUDA_TILE_ROWS * (size_t)linear->x_stride * item_bytes(cuda);
    lp_status status = LP_OK;
    LP_TRY(set_rows(cuda, linear, term, mode == LP_CUDA_ROWS_TOGETHER ? rows : LP_CUDA_TILE_ROWS,
                    mode == LP_CUDA_ROWS_BATCHED ? tiles : 1, err));
    for (int32_t i = 0; i < n; i++)
        for (int32_t k = 0; k < calls; k++) {
            cublasStatus_t code = call_library(cuda, linear, term, i, (const char *)x + (size_t)k * x_bytes,
                                               y + (int64_t)k * LP_CUDA_TILE_ROWS * linear->out_stride, algorithm);
            if (refused && code != CUBLAS_STATUS_SUCCESS) {
                *refused = true;
                return LP_OK;
            }
            LP_TRY(lp_cuda_check_blas(cuda, code, "cublasLtMatmul", __FILE__, __LINE__, err));
        }
out:
    return status;
}

static bool is_packed(const lp_backend_cuda *cuda, const lp_backend_linear *linear, lp_form form) {
    if (cuda->base.operand_item_bytes > 0) return form == LP_OPERAND;
    return linear->depth == linear->n_in;
}

/* to [rows, x_stride] = x [rows, n_in] floats, as the products take them. */
static cudaError_t pack(lp_backend_cuda *cuda, const lp_backend_linear *linear, const float *x, int64_t rows,
                        void *to) {
    if (is_split(cuda)) return lp_cuda_split_rows(to, x, NULL, rows, (int32_t)linear->n_in, cuda->stream);
    if (is_bf16(cuda)) return lp_cuda_to_bf16(to, linear->x_stride, x, NULL, rows, linear->n_in, cuda->stream);
    return lp_cuda_pad_rows(to, linear->x_stride, x, rows, linear->n_in, cuda->stream);
}

/* ---- Choosing the algorithm -------------------------------------------------------------------------------------- */

typedef struct {
    float *x, *moved; /* dev [rows, x_stride] as the products take them: 4-byte words */
    float *whole, *y; /* dev [rows, out_stride] */
    int32_t *differs; /* dev */
    int32_t rows;     /* of the largest call */
    int64_t words;    /* of a row of x */
} linear_probe;

static void probe_release(linear_probe *probe) {
    void *all[] = {probe->x, probe->moved, probe->whole, probe->y, probe->differs};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) (void)cudaFree(all[i]);
}

static lp_status probe_init(lp_backend_cuda *cuda, const lp_backend_linear *linear, int32_t rows, linear_probe *probe,
                            lp_error *err) {
    const size_t x_bytes = (size_t)(rows * linear->x_stride) * item_bytes(cuda),
                 y_bytes = (size_t)rows * (size_t)linear->out_stride * sizeof(float);
    const size_t bytes[] = {x_bytes, x_bytes, y_bytes, y_bytes, sizeof(int32_t)};
    void *all[5] = {NULL};
    lp_status status = LP_OK;
    *probe = (linear_probe){.rows = rows, .words = linear->x_stride * (int64_t)item_bytes(cuda) / 4};
    for (size_t i = 0; i < 5 && status == LP_OK; i++)
        status = lp_cuda_alloc(&cuda->base, bytes[i], "probe of a matrix product", &all[i], err);
    probe->x = all[0];
    probe->moved = all[1];
    probe->whole = all[2];
    probe->y = all[3];
    probe->differs = all[4];
    LP_TRY(status);
    LP_CUDA(lp_cuda_fill(probe->x, rows * linear->x_stride, element_type(cuda), 1, cuda->stream));
out:
    return status;
}

static lp_status probe_multiply(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term,
                                const float *x, int32_t rows, float *y, const cublasLtMatmulAlgo_t *algorithm,
                                lp_cuda_rows_mode mode, bool *refused, lp_error *err) {
    lp_status status = LP_OK;
    /* What is added to, and what lies between rows, which is not written and compared. */
    LP_CUDA(cudaMemsetAsync(y, 0, (size_t)(rows * linear->out_stride) * sizeof(float), cuda->stream));
    status = multiply(cuda, linear, term, 1, x, rows, y, algorithm, mode, refused, err);
out:
    return status;
}

/* *passed: rows have the same bits in calls of 1 .. call_tiles tiles, in another order and company. */
static lp_status probe_algorithm(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term,
                                 const linear_probe *probe, const cublasLtMatmulAlgo_t *algorithm,
                                 lp_cuda_rows_mode mode, bool *passed, lp_error *err) {
    enum { STRIDE = 37 }; /* prime, so that i * STRIDE + shift meets each of the power-of-two many tiles' places */
    int32_t differs = 0;
    bool refused = false;
    lp_status status = LP_OK;
    *passed = false;
    LP_CUDA(cudaMemsetAsync(probe->differs, 0, sizeof differs, cuda->stream));
    LP_TRY(probe_multiply(cuda, linear, term, probe->x, probe->rows, probe->whole, algorithm, mode, &refused, err));
    for (int32_t rows = LP_CUDA_TILE_ROWS; rows <= probe->rows && !refused && !differs; rows += LP_CUDA_TILE_ROWS) {
        int32_t shift = rows / LP_CUDA_TILE_ROWS * 5;
        LP_CUDA(lp_cuda_permute(probe->moved, rows, probe->x, probe->rows, STRIDE, shift, probe->words, cuda->stream));
        LP_TRY(probe_multiply(cuda, linear, term, probe->moved, rows, probe->y, algorithm, mode, &refused, err));
        LP_CUDA(lp_cuda_compare(probe->y, rows, probe->whole, probe->rows, STRIDE, shift, linear->out_stride,
                                probe->differs, cuda->stream));
        LP_TRY(lp_cuda_download(&cuda->base, &differs, probe->differs, sizeof differs, err));
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
static lp_status ask_candidates(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term,
                                int32_t rows, lp_cuda_rows_mode mode, cublasLtMatmulHeuristicResult_t *results, int *n,
                                lp_error *err) {
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
    LP_TRY(set_rows(cuda, linear, term, together ? rows : LP_CUDA_TILE_ROWS,
                    mode == LP_CUDA_ROWS_BATCHED ? rows / LP_CUDA_TILE_ROWS : 1, err));
    cublasStatus_t code = cublasLtMatmulAlgoGetHeuristic(cuda->blas, operation_of(linear, term), term->weights, term->x,
                                                         linear->y, linear->y, wish, CANDIDATES, results, n);
    if (code == CUBLAS_STATUS_NOT_SUPPORTED) {
        *n = 0;
    } else {
        LP_TRY(lp_cuda_check_blas(cuda, code, "cublasLtMatmulAlgoGetHeuristic", __FILE__, __LINE__, err));
    }
out:
    if (wish) (void)cublasLtMatmulPreferenceDestroy(wish);
    return status;
}

/* What the library says of an algorithm; 0 where it does not say. */
static uint64_t capability(const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoCapAttributes_t what) {
    uint64_t value = 0;
    size_t written = 0, bytes = what == CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS ? sizeof value : sizeof(uint32_t);
    cublasStatus_t code = cublasLtMatmulAlgoCapGetAttribute(algorithm, what, &value, bytes, &written);
    return code == CUBLAS_STATUS_SUCCESS && written == bytes ? value : 0;
}

static int32_t configuration(const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulAlgoConfigAttributes_t what) {
    int32_t value = 0;
    size_t written = 0;
    cublasStatus_t code = cublasLtMatmulAlgoConfigGetAttribute(algorithm, what, &value, sizeof value, &written);
    return code == CUBLAS_STATUS_SUCCESS && written == sizeof value ? value : -1;
}

/* Says which class of kernel a shape got, and counts those of tensor cores that are made for operands at any address.
 */
static void report_algorithm(lp_backend_cuda *cuda, const lp_cuda_shape *shape, int candidate) {
    static const char *const modes[] = {"all rows at once", "batched by tile", "tile by tile"};
    const cublasLtMatmulAlgo_t *cublasLtMatmulAlgo = &shape->algorithm;
    const uint64_t flags = capability(cublasLtMatmulAlgo, CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS);
    const uint64_t of_weights = capability(cublasLtMatmulAlgo, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES),
                   of_x = capability(cublasLtMatmulAlgo, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES);
    const bool tensor_cores = (flags & CUBLASLT_NUMERICAL_IMPL_FLAGS_TENSOR_OP_MASK) != 0;
    const uint64_t least = of_weights < of_x ? of_weights : of_x;
    if (tensor_cores && least > 0 && least < ALIGNMENT) cuda->base.counters.n_unaligned_products++;
    cuda->log(LP_LOG_DEBUG,
              "product %lld x %lld: candidate %d, algorithm %d, tile %d, %s, operands at multiples of %llu bytes, %s, "
              "up to %d rows a call",
              (long long)shape->depth, (long long)shape->width, candidate,
              (int)configuration(cublasLtMatmulAlgo, CUBLASLT_ALGO_CONFIG_ID),
              (int)configuration(cublasLtMatmulAlgo, CUBLASLT_ALGO_CONFIG_TILE_ID),
              tensor_cores ? "tensor cores" : "ordinary units", (unsigned long long)least, modes[shape->mode],
              (int)shape->call_tiles * LP_CUDA_TILE_ROWS);
}

static lp_status choose_algorithm(lp_backend_cuda *cuda, const lp_backend_linear *linear, const product_term *term,
                                  lp_cuda_shape *shape, lp_error *err) {
    static const lp_cuda_rows_mode modes[] = {LP_CUDA_ROWS_TOGETHER, LP_CUDA_ROWS_BATCHED, LP_CUDA_ROWS_BY_TILE};
    linear_probe probe = {0};
    bool passed = false;
    int tried = 0;
    lp_status status = LP_OK;
    LP_TRY(probe_init(cuda, linear, shape->call_tiles * LP_CUDA_TILE_ROWS, &probe, err));
    for (size_t m = 0; m < sizeof modes / sizeof modes[0] && !passed; m++) {
        cublasLtMatmulHeuristicResult_t results[CANDIDATES];
        int n = 0;
        LP_TRY(ask_candidates(cuda, linear, term, probe.rows, modes[m], results, &n, err));
        for (int i = 0; i < n && !passed; i++) {
            if (results[i].state != CUBLAS_STATUS_SUCCESS || results[i].workspaceSize > LP_CUDA_WORKSPACE_BYTES ||
                splits(&results[i].algo))
                continue;
            tried++;
            LP_TRY(probe_algorithm(cuda, linear, term, &probe, &results[i].algo, modes[m], &passed, err));
            shape->algorithm = results[i].algo;
            shape->mode = modes[m];
        }
    }
    if (!passed)
        LP_FAIL(
            LP_ERR_DEVICE,
            "device %d (%s): no algorithm of cuBLASLt gives a row of a %lld x %lld product the same bits whatever else is in the batch (%d tried)",
            cuda->device, cuda->device_name, (long long)term->depth, (long long)linear->width, tried);
    report_algorithm(cuda, shape, tried);
out:
    probe_release(&probe);
    return status;
}

static bool same_shape(const lp_cuda_shape *a, const lp_cuda_shape *b) {
    return a->depth == b->depth && a->width == b->width && a->x_stride == b->x_stride && a->w_stride == b->w_stride &&
           a->y_stride == b->y_stride && a->layout == b->layout && a->bias == b->bias && a->adds == b->adds;
}

static lp_status find_shape(lp_backend_cuda *cuda, const lp_backend_linear *linear, int64_t stride, product_term *term,
                            lp_error *err) {
    lp_cuda_shape shape = {.depth = term->depth,
                           .width = linear->width,
                           .x_stride = linear->x_stride,
                           .w_stride = stride,
                           .y_stride = linear->out_stride,
                           .layout = is_split(cuda) ? LP_OUT_IN : linear->layout,
                           .bias = term->bias,
                           .adds = term->beta != 0.0f,
                           .call_tiles = lp_cuda_call_tiles(linear->out_stride, CALL_BYTES)};
    for (term->shape = 0; term->shape < cuda->n_shapes; term->shape++)
        if (same_shape(&cuda->shapes[term->shape], &shape)) return LP_OK;
    if (cuda->n_shapes == LP_CUDA_SHAPES)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "cuda backend: more than %d shapes of matrix products", LP_CUDA_SHAPES);
    lp_status status = choose_algorithm(cuda, linear, term, &shape, err);
    if (status == LP_OK) cuda->shapes[cuda->n_shapes++] = shape;
    return status;
}

/* Makes room for one call. */
static lp_status make_room(lp_backend_cuda *cuda, lp_cuda_room *room, size_t bytes, const char *what, lp_error *err) {
    if (bytes <= room->bytes) return LP_OK;
    (void)cudaFree(room->dev); /* waits for what still reads it */
    *room = (lp_cuda_room){0};
    lp_status status = lp_cuda_alloc(&cuda->base, bytes, what, &room->dev, err);
    if (status == LP_OK) room->bytes = bytes;
    return status;
}

static lp_status make_rooms(lp_backend_cuda *cuda, const lp_backend_linear *linear, lp_error *err) {
    const size_t rows = (size_t)cuda->shapes[linear->terms[0].shape].call_tiles * LP_CUDA_TILE_ROWS;
    lp_status status = LP_OK;
    if (!is_packed(cuda, linear, LP_FLOATS))
        status = make_room(cuda, &cuda->packed, rows * (size_t)linear->x_stride * item_bytes(cuda), "operands", err);
    if (status == LP_OK && linear->out_stride != linear->y_stride)
        status = make_room(cuda, &cuda->result, rows * (size_t)linear->out_stride * sizeof(float), "results", err);
    return status;
}

lp_status lp_cuda_linear_new(lp_backend *be, const lp_linear *host, lp_backend_linear **out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_backend_linear *linear = NULL;
    int64_t stride = 0;
    lp_status status = LP_OK;
    for (int p = 1; p < host->n_parts; p++)
        if (host->part[p].layout != host->part[0].layout)
            return lp_fail(err, LP_ERR_UNSUPPORTED, "cuda backend: the parts of a linear layer differ in layout");
    LP_TRY(lp_mem_new(&linear, 1, sizeof *linear, "linear layer", err));
    linear->n_in = host->n_in;
    linear->n_out = host->n_out;
    linear->depth = filled_up(host->n_in);
    linear->width = lp_cuda_padded_width(host->n_out);
    linear->y_stride = lp_linear_stride(host);
    linear->out_stride =
        linear->y_stride % STEP == 0 && linear->y_stride >= linear->width ? linear->y_stride : linear->width;
    linear->x_stride =
        is_split(cuda) ? (int64_t)lp_operand_bytes(be, LP_OPERAND, (int32_t)linear->n_in) / 2 : linear->depth;
    linear->layout = host->part[0].layout;
    LP_TRY(hold_bias(cuda, host->bias, linear, err));
    LP_TRY(hold_weights(cuda, host, linear, &stride, err));
    LP_TRY(describe(cuda, linear, stride, err));
    for (int i = 0; i < linear->n_terms; i++) LP_TRY(find_shape(cuda, linear, stride, &linear->terms[i], err));
    LP_TRY(make_rooms(cuda, linear, err));
    *out = linear;
    return LP_OK;
out:
    lp_cuda_linear_free(be, linear);
    return status;
}

void lp_cuda_linear_free(lp_backend *be, lp_backend_linear *linear) {
    if (!linear) return;
    if (linear->shared) lp_cuda_vector_free(be, linear->shared);
    (void)cudaFree(linear->own);
    (void)cudaFree(linear->exponents);
    (void)cudaFree(linear->bias);
    be->counters.weight_bytes -= linear->own_bytes;
    if (linear->operation) (void)cublasLtMatmulDescDestroy(linear->operation);
    if (linear->with_bias) (void)cublasLtMatmulDescDestroy(linear->with_bias);
    if (linear->y) (void)cublasLtMatrixLayoutDestroy(linear->y);
    for (int i = 0; i < linear->n_terms; i++) {
        if (linear->terms[i].weights) (void)cublasLtMatrixLayoutDestroy(linear->terms[i].weights);
        if (linear->terms[i].x) (void)cublasLtMatrixLayoutDestroy(linear->terms[i].x);
    }
    lp_mem_free(linear);
}

/* y [rows, y_stride] = result [rows, out_stride] and what is left to do. */
static lp_status finish(lp_backend_cuda *cuda, const lp_backend_linear *linear, const void *x, const float *result,
                        int32_t rows, float *y, lp_error *err) {
    lp_status status = LP_OK;
    if (is_split(cuda)) {
        const lp_cuda_finish last = {.to = y,
                                     .to_stride = linear->y_stride,
                                     .from = result,
                                     .from_stride = linear->out_stride,
                                     .rows = rows,
                                     .n_out = linear->n_out,
                                     .n_in = (int32_t)linear->n_in,
                                     .x = x,
                                     .weights = linear->own,
                                     .exponents = linear->exponents,
                                     .bias = linear->bias};
        LP_CUDA(lp_cuda_finish_split(&last, cuda->stream));
    } else if (result != y) {
        LP_CUDA(cudaMemcpy2DAsync(y, (size_t)linear->y_stride * sizeof *y, result,
                                  (size_t)linear->out_stride * sizeof *y, (size_t)linear->n_out * sizeof *y,
                                  (size_t)rows, cudaMemcpyDeviceToDevice, cuda->stream));
    }
out:
    return status;
}

lp_status lp_cuda_linear(lp_backend *be, const lp_backend_linear *linear, lp_form form, const float *x, int32_t n,
                         float *y, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    const size_t row_bytes = lp_operand_bytes(be, form, (int32_t)linear->n_in);
    const int32_t call_tiles = cuda->shapes[linear->terms[0].shape].call_tiles;
    lp_status status = LP_OK;
    LP_ASSERT((uintptr_t)x % ALIGNMENT == 0 && (uintptr_t)y % ALIGNMENT == 0);
    int32_t first = 0, rows = 0;
    for (int32_t i = 0; lp_cuda_call(n, call_tiles, i, &first, &rows); i++) {
        const void *from = (const char *)x + (size_t)first * row_bytes;
        float *to = y + first * linear->y_stride,
              *result = linear->out_stride == linear->y_stride ? to : cuda->result.dev;
        if (!is_packed(cuda, linear, form)) {
            LP_CUDA(pack(cuda, linear, from, rows, cuda->packed.dev));
            from = cuda->packed.dev;
        }
        for (int k = 0; k < linear->n_terms; k++) {
            const product_term *term = &linear->terms[k];
            const lp_cuda_shape *shape = &cuda->shapes[term->shape];
            LP_TRY(multiply(cuda, linear, term, term->count, from, rows, result, &shape->algorithm, shape->mode, NULL,
                            err));
        }
        LP_TRY(finish(cuda, linear, from, result, rows, to, err));
        be->counters.padded_flops += 2 * (uint64_t)rows * (uint64_t)linear->n_in * (uint64_t)linear->n_out;
    }
    be->counters.gemm_flops += 2 * (uint64_t)n * (uint64_t)linear->n_in * (uint64_t)linear->n_out;
out:
    return status;
}
