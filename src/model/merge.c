#include "model/merge.h"

#include "base/gemm.h"
#include "base/memory.h"
#include "base/versions.h"
#include "model/weight_source.h"

/* The tensor as row-major float32 [rows, columns]: itself where it is that already, else a copy in *copy. */
static lp_status as_matrix(const lp_tensor *tensor, float **copy, const float **out, lp_error *err) {
    if (tensor->dtype == LP_F32 && lp_tensor_is_contiguous(tensor) && (uintptr_t)tensor->data % sizeof(float) == 0) {
        *out = (const float *)(const void *)tensor->data;
        return LP_OK;
    }
    LP_CHECK(lp_mem_new(copy, (size_t)tensor->n_elements, sizeof **copy, tensor->name, err));
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

/* scratch: a block of rows beside their place, then lp_gemm's workspace. */
enum { STRIDE = LP_MERGE_ROWS + 16, BLOCK = (LP_MERGE_SCRATCH - LP_GEMM_WORKSPACE) / STRIDE };

/* y [n, columns] += scale * A^T B^T; a [rank, n] with rows a_stride apart, b [columns, rank] */
static void add_update(const float *a, int64_t a_stride, int64_t n, const float *b, int64_t columns, int64_t rank,
                       float scale, float *y, int64_t y_stride, float *workspace) {
    lp_gemm(&(lp_gemm_product){.rows = n,
                               .columns = columns,
                               .depth = rank,
                               .x = {.data = a, .row_stride = 1, .column_stride = a_stride},
                               .w = {.data = b, .row_stride = 1, .column_stride = rank},
                               .scale = scale,
                               .start = y,
                               .start_stride = y_stride,
                               .y = y,
                               .y_stride = y_stride},
            workspace);
}

/* Columns [column, column + n) of row k of the target = values [n]. */
static void put_row(const lp_merge_target *target, int64_t k, int64_t column, int64_t n, const float *values) {
    if (!target->packed) {
        memcpy(target->data + k * target->ld + column, values, (size_t)n * sizeof *values);
        return;
    }
    for (int64_t j = 0; j < n;) {
        int64_t at = target->column + column + j, left = LP_GEMM_PANEL - at % LP_GEMM_PANEL;
        int64_t some = left < n - j ? left : n - j;
        memcpy(target->data + lp_gemm_panel_at(target->ld, k, at), values + j, (size_t)some * sizeof *values);
        j += some;
    }
}

/* Rows of a linear layer [out, in]: columns of the arena's matrix. Its rows are often a power of two apart, so that few
 * of them fit into a cache together: each block is made beside it and copied once, whole. */
static lp_status merge_turned(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                              const lp_merge_target *target, float *scratch, lp_error *err) {
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
        if (a) add_update(a + i, n_in, n_i, b, n, rank, scale, scratch, STRIDE, scratch + BLOCK * STRIDE);
        LP_TRY(lp_merge_check_finite(slot, scratch, n_i, n, STRIDE, err));
        for (int64_t k = 0; k < n_i; k++) put_row(target, i + k, first, n, scratch + k * STRIDE);
    }
out:
    lp_mem_free(a_copy);
    lp_mem_free(b_copy);
    return status;
}

/* dst [n, n_columns], rows ld apart = rows first .. first + n - 1 and columns from `column` on of a tensor that keeps
 * its shape, merged: a [r, n_in] with its first row's columns, b [n_out, r] or NULL. */
static lp_status merge_block(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                             int64_t column, int64_t n_columns, const float *a, const float *b, float *dst, int64_t ld,
                             float *workspace, lp_error *err) {
    lp_tensor block = lp_tensor_block(slot->tensor, first, n, column, n_columns);
    lp_tensor_widen(&block, LP_WIDEN_AS_STORED, rounding, dst, ld);
    if (a) {
        int64_t rank = slot->lora_a->shape[0];
        add_update(a + first, slot->lora_a->shape[1], n, b + column * rank, n_columns, rank, scale, dst, ld, workspace);
    }
    return lp_merge_check_finite(slot, dst, n, n_columns, ld, err);
}

/* Blocks that fit into the scratch, each copied to its panels. */
static lp_status merge_to_panels(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                                 const float *a, const float *b, const lp_merge_target *target, float *scratch,
                                 lp_error *err) {
    enum { COLUMNS = 2048, ROWS = BLOCK * STRIDE / COLUMNS };
    for (int64_t row = first; row < first + n; row += ROWS)
        for (int64_t column = 0; column < slot->columns; column += COLUMNS) {
            int64_t rows = first + n - row < ROWS ? first + n - row : ROWS;
            int64_t columns = slot->columns - column < COLUMNS ? slot->columns - column : COLUMNS;
            LP_CHECK(merge_block(slot, scale, rounding, row, rows, column, columns, a, b, scratch, COLUMNS,
                                 scratch + BLOCK * STRIDE, err));
            for (int64_t k = 0; k < rows; k++) put_row(target, row + k, column, columns, scratch + k * COLUMNS);
        }
    return LP_OK;
}

lp_status lp_merge_rows(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                        const lp_merge_target *target, float *scratch, lp_error *err) {
    if (slot->shape == LP_SHAPE_LINEAR || (target->packed && slot->shape == LP_SHAPE_TABLE))
        return merge_turned(slot, scale, rounding, first, n, target, scratch, err);
    float *a_copy = NULL, *b_copy = NULL;
    const float *a = NULL, *b = NULL;
    lp_status status = LP_OK;
    if (slot->lora_a) {
        LP_TRY(as_matrix(slot->lora_a, &a_copy, &a, err));
        LP_TRY(as_matrix(slot->lora_b, &b_copy, &b, err));
    }
    if (target->packed)
        status = merge_to_panels(slot, scale, rounding, first, n, a, b, target, scratch, err);
    else
        status = merge_block(slot, scale, rounding, first, n, 0, slot->columns, a, b, target->data + first * target->ld,
                             target->ld, scratch + BLOCK * STRIDE, err);
out:
    lp_mem_free(a_copy);
    lp_mem_free(b_copy);
    return status;
}

/* gram [rank, rank], its lower half = the sum of products of the `rank` vectors of a matrix: number i of them is at
 * rows + i * between, its n terms are `step` apart. row [rank] */
LP_VERSIONS static void add_products(const float *rows, int64_t between, int64_t step, int64_t n, int64_t rank,
                                     double *row, double *gram) {
    for (int64_t k = 0; k < n; k++) {
        for (int64_t i = 0; i < rank; i++) row[i] = (double)rows[i * between + k * step];
        for (int64_t i = 0; i < rank; i++)
            for (int64_t j = 0; j <= i; j++) gram[i * rank + j] += row[i] * row[j];
    }
}

lp_status lp_merge_update_norm2(const lp_slot *slot, double scale, double *out, lp_error *err) {
    float *a_copy = NULL, *b_copy = NULL;
    const float *a = NULL, *b = NULL;
    double *gram = NULL, sum = 0;
    lp_status status = LP_OK;
    int64_t rank = slot->lora_a->shape[0], n_in = slot->lora_a->shape[1], n_out = slot->lora_b->shape[0];
    size_t n = (size_t)(rank * rank);
    LP_TRY(as_matrix(slot->lora_a, &a_copy, &a, err));
    LP_TRY(as_matrix(slot->lora_b, &b_copy, &b, err));
    LP_TRY(lp_mem_new(&gram, 2 * n + (size_t)rank, sizeof *gram, "LoRA Gram matrices", err));
    add_products(a, n_in, 1, n_in, rank, gram + 2 * n, gram);
    add_products(b, 1, rank, n_out, rank, gram + 2 * n, gram + n);
    for (int64_t i = 0; i < rank; i++) /* the upper half is the lower one */
        for (int64_t j = 0; j <= i; j++)
            sum += (i == j ? 1 : 2) * gram[i * rank + j] * gram[n + (size_t)(i * rank + j)];
    *out = sum > 0 ? scale * scale * sum : 0;
out:
    lp_mem_free(a_copy);
    lp_mem_free(b_copy);
    lp_mem_free(gram);
    return status;
}
