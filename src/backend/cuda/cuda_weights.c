/* Matrices on the device: the host's float32, or made there of what the files hold. Stored tensors go up as they are, a
 * piece of whole rows at a time, and one kernel widens, merges and rounds them into their place. */
#include "backend/cuda/cuda.h"

#include "base/memory.h"
#include "model/weight_source.h"

static const size_t PIECE_BYTES = (size_t)16 << 20; /* of stored elements on the device at a time */

/* What lies on the device only while a matrix is made. */
typedef struct {
    void *piece;    /* rows of the base tensor */
    void *lora[2];  /* A, B, whole */
    int32_t *flag;  /* not finite */
    float *widened; /* host: rows that do not lie one after the other in the file */
} merge_workspace;

static void release_workspace(merge_workspace *workspace) {
    (void)cudaFree(workspace->piece);
    (void)cudaFree(workspace->lora[0]);
    (void)cudaFree(workspace->lora[1]);
    (void)cudaFree(workspace->flag);
    lp_mem_free(workspace->widened);
}

static lp_cuda_stored stored_type(lp_dtype type) {
    return type == LP_BF16 ? LP_CUDA_STORED_BF16 : type == LP_F16 ? LP_CUDA_STORED_F16 : LP_CUDA_STORED_F32;
}

/* Bytes of an element of the tensor as it goes up: what does not lie in one run is widened on the host. */
static size_t element_bytes(const lp_tensor *tensor) {
    return lp_tensor_is_contiguous(tensor) ? lp_dtype_bytes(tensor->dtype) : sizeof(float);
}

/* dev = rows first .. first + n - 1 of the tensor, row-major; *type says of what. */
static lp_status upload_stored(lp_backend_cuda *cuda, const lp_tensor *tensor, int64_t first, int64_t n, float *widened,
                               void *dev, lp_cuda_stored *type, lp_error *err) {
    int64_t columns = tensor->shape[1];
    lp_tensor rows = lp_tensor_block(tensor, first, n, 0, columns);
    const void *from = rows.data;
    *type = stored_type(tensor->dtype);
    if (!lp_tensor_is_contiguous(tensor)) {
        lp_tensor_widen(&rows, LP_WIDEN_AS_STORED, LP_WIDEN_EXACT, widened, columns);
        from = widened;
        *type = LP_CUDA_STORED_F32;
    }
    return lp_cuda_upload(&cuda->base, dev, from, (size_t)(n * columns) * element_bytes(tensor), err);
}

/* A LoRA factor on the device; element (i, j) of `as` is its element (j, i) where turned. */
static lp_status upload_factor(lp_backend_cuda *cuda, const lp_tensor *tensor, bool turned, void **dev,
                               lp_cuda_factor *as, lp_error *err) {
    size_t n = (size_t)tensor->n_elements;
    float *widened = NULL;
    lp_status status = LP_OK;
    if (!lp_tensor_is_contiguous(tensor)) LP_TRY(lp_mem_new(&widened, n, sizeof *widened, tensor->name, err));
    LP_TRY(lp_cuda_alloc(&cuda->base, n * element_bytes(tensor), "LoRA", dev, err));
    LP_TRY(upload_stored(cuda, tensor, 0, tensor->shape[0], widened, *dev, &as->type, err));
    as->data = *dev;
    as->row_step = turned ? 1 : tensor->shape[1];
    as->column_step = turned ? tensor->shape[1] : 1;
out:
    lp_mem_free(widened);
    return status;
}

/* OUT_IN: W + scale B A. IN_OUT: W + scale A^T B^T. */
static lp_status upload_lora(lp_backend_cuda *cuda, const lp_weight_source *source, lp_layout layout,
                             merge_workspace *workspace, lp_cuda_merge *merge, lp_error *err) {
    bool in_out = layout == LP_IN_OUT;
    lp_status status = LP_OK;
    merge->rank = source->lora_a->shape[0];
    merge->scale = source->scale;
    LP_TRY(
        upload_factor(cuda, source->lora_a, in_out, &workspace->lora[0], in_out ? &merge->left : &merge->right, err));
    LP_TRY(
        upload_factor(cuda, source->lora_b, in_out, &workspace->lora[1], in_out ? &merge->right : &merge->left, err));
out:
    return status;
}

static int64_t rows_of_piece(int64_t rows, size_t row_bytes) {
    int64_t most = (int64_t)(PIECE_BYTES / row_bytes);
    return most < 1 ? 1 : most < rows ? most : rows;
}

/* merge says where to and how; *not_finite: a value is NaN or infinity. */
static lp_status make_of_source(lp_backend_cuda *cuda, const lp_weight_source *source, lp_layout layout,
                                lp_cuda_merge *merge, bool *not_finite, lp_error *err) {
    const lp_tensor *tensor = source->tensor;
    const int64_t rows = merge->rows;
    const size_t row_bytes = (size_t)merge->columns * element_bytes(tensor), item = merge->to_bf16 ? 2 : sizeof(float);
    const int64_t step = rows_of_piece(rows, row_bytes);
    char *const to = merge->to;
    merge_workspace workspace = {0};
    void *flag = NULL;
    int32_t seen = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_cuda_alloc(&cuda->base, (size_t)step * row_bytes, "stored weights", &workspace.piece, err));
    LP_TRY(lp_cuda_alloc(&cuda->base, sizeof seen, "weights", &flag, err));
    workspace.flag = flag;
    LP_CUDA(cudaMemsetAsync(workspace.flag, 0, sizeof seen, cuda->stream));
    if (!lp_tensor_is_contiguous(tensor))
        LP_TRY(lp_mem_new(&workspace.widened, (size_t)(step * merge->columns), sizeof(float), tensor->name, err));
    merge->w = workspace.piece;
    merge->through_f16 = source->rounding == LP_WIDEN_THROUGH_F16;
    merge->not_finite = workspace.flag;
    if (source->lora_a) LP_TRY(upload_lora(cuda, source, layout, &workspace, merge, err));
    const char *const left = merge->left.data;
    const size_t left_step = (size_t)merge->left.row_step * (merge->left.type == LP_CUDA_STORED_F32 ? 4 : 2);
    for (int64_t first = 0; first < rows; first += step) {
        merge->rows = rows - first < step ? rows - first : step;
        merge->to = to + (size_t)(first * merge->stride) * item;
        if (left) merge->left.data = left + (size_t)first * left_step;
        LP_TRY(upload_stored(cuda, tensor, first, merge->rows, workspace.widened, workspace.piece, &merge->type, err));
        LP_CUDA(lp_cuda_merge_weights(merge, cuda->stream));
    }
    LP_TRY(lp_cuda_download(&cuda->base, &seen, workspace.flag, sizeof seen, err));
    *not_finite = seen != 0;
out:
    release_workspace(&workspace);
    return status;
}

static size_t matrix_bytes(const lp_matrix *matrix) {
    return (size_t)matrix->n_in * (size_t)matrix->n_out * sizeof(float);
}

/* A matrix has as many rows as a product with it is wide, zeros from its own end on. */
static size_t held_bytes(const lp_matrix *matrix) {
    if (matrix->layout == LP_IN_OUT) return matrix_bytes(matrix);
    return (size_t)matrix->n_in * (size_t)lp_cuda_padded_width(matrix->n_out) * sizeof(float);
}

static const void *key_of(const lp_matrix *matrix) {
    return matrix->data ? (const void *)matrix->data : (const void *)matrix->source;
}

lp_status lp_cuda_make_matrix(lp_backend_cuda *cuda, const lp_matrix *matrix, void *to, int64_t stride, bool to_bf16,
                              lp_error *err) {
    bool out_in = matrix->layout == LP_OUT_IN, not_finite = false;
    lp_cuda_merge merge = {.rows = out_in ? matrix->n_out : matrix->n_in,
                           .columns = out_in ? matrix->n_in : matrix->n_out,
                           .to = to,
                           .stride = stride,
                           .to_bf16 = to_bf16};
    const lp_cuda_held *held = lp_cuda_find_held(cuda, key_of(matrix), held_bytes(matrix));
    lp_status status = LP_OK;
    if (held) {
        merge.w = held->dev;
        merge.type = LP_CUDA_STORED_F32;
        LP_CUDA(lp_cuda_merge_weights(&merge, cuda->stream));
    } else if (matrix->data) {
        lp_tensor tensor = {.name = "weights",
                            .dtype = LP_F32,
                            .n_dims = 2,
                            .shape = {merge.rows, merge.columns},
                            .strides = {merge.columns, 1},
                            .n_elements = merge.rows * merge.columns,
                            .data = (const unsigned char *)matrix->data};
        const lp_weight_source source = {.tensor = &tensor};
        status = make_of_source(cuda, &source, matrix->layout, &merge, &not_finite, err);
    } else {
        LP_TRY(make_of_source(cuda, matrix->source, matrix->layout, &merge, &not_finite, err));
        if (not_finite) status = lp_weight_source_refuse(matrix->source, err);
    }
out:
    return status;
}

lp_status lp_cuda_matrix_new(lp_backend *be, const lp_matrix *host, const float **out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_cuda_held *held = lp_cuda_find_held(cuda, key_of(host), held_bytes(host));
    if (held) {
        held->users++;
        *out = held->dev;
        return LP_OK;
    }
    void *dev = NULL;
    const size_t bytes = held_bytes(host);
    lp_status status = lp_cuda_alloc(be, bytes, "weights", &dev, err);
    if (status != LP_OK) return status;
    if (bytes > matrix_bytes(host))
        LP_CUDA(cudaMemsetAsync((char *)dev + matrix_bytes(host), 0, bytes - matrix_bytes(host), cuda->stream));
    LP_TRY(lp_cuda_make_matrix(cuda, host, dev, host->layout == LP_OUT_IN ? host->n_in : host->n_out, false, err));
    LP_TRY(lp_cuda_hold(cuda, key_of(host), bytes, dev, err));
    *out = dev;
    return LP_OK;
out:
    (void)cudaFree(dev);
    return status;
}
