#include "model/merge.h"

#include "base/memory.h"
#include "base/versions.h"
#include "model/weight_source.h"

#include <cblas.h>

/* The tensor as row-major float32 [rows, columns]: itself where it is that already, else a copy in *copy. */
static lp_status as_matrix(const lp_tensor *tensor, float **copy, const float **out, lp_error *err) {
    if (tensor->dtype == LP_F32 && lp_tensor_is_contiguous(tensor) && (uintptr_t)tensor->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)tensor->data;
        return LP_OK;
    }
    lp_status status = lp_mem_new(copy, (size_t)tensor->n_elements, sizeof **copy, tensor->name, err);
    if (status != LP_OK) return status;
    lp_tensor_widen(tensor, LP_WIDEN_AS_STORED, LP_WIDEN_EXACT, *copy, tensor->shape[1]);
    *out = *copy;
    return LP_OK;
}

LP_VERSIONS static bool all_finite(const float *values, int64_t n) {
    uint32_t bad = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, values + i, sizeof bits);
        bad |= (uint32_t)((bits & 0x7f800000u) == 0x7f800000u);
    }
    return bad == 0;
}

lp_status lp_merge_check_finite(const lp_slot *slot, const float *values, int64_t rows, int64_t columns, int64_t ld,
                                lp_error *err) {
    bool finite = true;
    for (int64_t i = 0; finite && i < rows; i++) finite = all_finite(values + i * ld, columns);
    if (finite) return LP_OK;
    const lp_weight_source made_of = {.tensor = slot->tensor, .lora_a = slot->lora_a, .lora_b = slot->lora_b};
    return lp_weight_source_refuse(&made_of, err);
}

/* Rows of a linear layer [out, in]: columns of the arena's matrix. Its rows are often a power of two apart, so that few
 * of them fit into a cache together: each block is made beside it and copied once, whole. */
static lp_status merge_turned(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                              float *dst, int64_t ld, float *scratch, lp_error *err) {
    enum { STRIDE = LP_MERGE_ROWS + 16, BLOCK = LP_MERGE_SCRATCH / STRIDE };
    float *a_copy = NULL, *b_copy = NULL;
    const float *a = NULL, *b = NULL;
    int64_t n_in = slot->columns, rank = 0;
    lp_status status = LP_OK;
    LP_ASSERT(n <= LP_MERGE_ROWS);
    if (slot->lora_a) {
        rank = slot->lora_a->shape[0];
        lp_tensor b_rows = lp_tensor_block(slot->lora_b, first, n, 0, rank);
        LP_TRY(as_matrix(slot->lora_a, &a_copy, &a, err));
        LP_TRY(as_matrix(&b_rows, &b_copy, &b, err));
    }
    for (int64_t i = 0; i < n_in; i += BLOCK) {
        int64_t n_i = n_in - i < BLOCK ? n_in - i : BLOCK;
        lp_tensor block = lp_tensor_block(slot->tensor, first, n, i, n_i);
        lp_tensor_widen(&block, LP_WIDEN_TRANSPOSED, rounding, scratch, STRIDE);
        if (a)
            cblas_sgemm(CblasRowMajor, CblasTrans, CblasTrans, (blasint)n_i, (blasint)n, (blasint)rank, scale, a + i,
                        (blasint)n_in, b, (blasint)rank, 1.0f, scratch, STRIDE);
        LP_TRY(lp_merge_check_finite(slot, scratch, n_i, n, STRIDE, err));
        for (int64_t k = 0; k < n_i; k++)
            memcpy(dst + (i + k) * ld + first, scratch + k * STRIDE, (size_t)n * sizeof *dst);
    }
out:
    lp_mem_free(a_copy);
    lp_mem_free(b_copy);
    return status;
}

lp_status lp_merge_rows(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                        float *dst, int64_t ld, float *scratch, lp_error *err) {
    if (slot->shape == LP_SHAPE_LINEAR) return merge_turned(slot, scale, rounding, first, n, dst, ld, scratch, err);
    float *a_copy = NULL, *b_copy = NULL;
    const float *a = NULL, *b = NULL;
    lp_status status = LP_OK;
    lp_tensor rows = lp_tensor_block(slot->tensor, first, n, 0, slot->columns);
    dst += first * ld;
    lp_tensor_widen(&rows, LP_WIDEN_AS_STORED, rounding, dst, ld);
    if (slot->lora_a) {
        int64_t rank = slot->lora_a->shape[0];
        lp_tensor a_columns = lp_tensor_block(slot->lora_a, 0, rank, first, n);
        LP_TRY(as_matrix(&a_columns, &a_copy, &a, err));
        LP_TRY(as_matrix(slot->lora_b, &b_copy, &b, err));
        cblas_sgemm(CblasRowMajor, CblasTrans, CblasTrans, (blasint)n, (blasint)slot->columns, (blasint)rank, scale, a,
                    (blasint)n, b, (blasint)rank, 1.0f, dst, (blasint)ld);
    }
    status = lp_merge_check_finite(slot, dst, n, slot->columns, ld, err);
out:
    lp_mem_free(a_copy);
    lp_mem_free(b_copy);
    return status;
}

static lp_status widen_to_double(const lp_tensor *tensor, double **out, lp_error *err) {
    float *copy = NULL;
    const float *values = NULL;
    double *wide = NULL;
    lp_status status = LP_OK;
    LP_TRY(as_matrix(tensor, &copy, &values, err));
    LP_TRY(lp_mem_new(&wide, (size_t)tensor->n_elements, sizeof *wide, tensor->name, err));
    for (int64_t i = 0; i < tensor->n_elements; i++) wide[i] = (double)values[i];
    *out = wide;
out:
    lp_mem_free(copy);
    return status;
}

lp_status lp_merge_update_norm2(const lp_slot *slot, double scale, double *out, lp_error *err) {
    double *a = NULL, *b = NULL, *gram = NULL;
    lp_status status = LP_OK;
    int64_t rank = slot->lora_a->shape[0], n_in = slot->lora_a->shape[1], n_out = slot->lora_b->shape[0];
    size_t n = (size_t)(rank * rank);
    LP_TRY(widen_to_double(slot->lora_a, &a, err));
    LP_TRY(widen_to_double(slot->lora_b, &b, err));
    LP_TRY(lp_mem_new(&gram, 2 * n, sizeof *gram, "LoRA Gram matrices", err));
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rank, (blasint)rank, (blasint)n_in, 1.0, a,
                (blasint)n_in, a, (blasint)n_in, 0.0, gram, (blasint)rank);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)rank, (blasint)rank, (blasint)n_out, 1.0, b,
                (blasint)rank, b, (blasint)rank, 0.0, gram + n, (blasint)rank);
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += gram[i] * gram[n + i];
    *out = sum > 0 ? scale * scale * sum : 0;
out:
    lp_mem_free(a);
    lp_mem_free(b);
    lp_mem_free(gram);
    return status;
}
