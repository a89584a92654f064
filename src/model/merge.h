/* The values of a slot: widened to float32 and, for a linear layer with LoRA, merged: W + alpha/r B A. */
#ifndef LP_MODEL_MERGE_H
#define LP_MODEL_MERGE_H

#include "base/gemm.h"
#include "model/codi_layout.h"

/* A slot is computed in pieces of whole rows of its file's tensor: at most LP_MERGE_ROWS of a linear layer [out, in],
 * any number of the other shapes. */
enum { LP_MERGE_ROWS = 256, LP_MERGE_SCRATCH = 512 * (LP_MERGE_ROWS + 16) + LP_GEMM_WORKSPACE };

/* Where the values go: a matrix whose rows are ld apart, or the columns from `column` on of one in panels (base/gemm.h)
 * whose depth is ld. */
typedef struct {
    float *data;
    int64_t ld;
    bool packed;
    int64_t column;
} lp_merge_target;

/* Writes rows first .. first + n - 1 of the file's tensor into the slot's place, merged, and fails where they hold NaN
 * or infinity, naming the tensor that brought it in. Linear layers [out, in], and tables where the place is packed,
 * become [n_in, n_out] (with A [r, in] and B [out, r], W^T + scale A^T B^T); the other shapes keep theirs (unless
 * packed, ld = columns). At most LP_MERGE_ROWS rows where the place is packed. rounding applies to the base tensor, not
 * to LoRA. Runs in the calling thread. scratch [LP_MERGE_SCRATCH]. */
lp_status lp_merge_rows(const lp_slot *slot, float scale, lp_widen_rounding rounding, int64_t first, int64_t n,
                        const lp_merge_target *target, float *scratch, lp_error *err);

/* Fails where values [rows, columns] with row stride ld, which are those of the slot, hold NaN or infinity, naming the
 * tensor that brought it in. */
lp_status lp_merge_check_finite(const lp_slot *slot, const float *values, int64_t rows, int64_t columns, int64_t ld,
                                lp_error *err);

/* *out = the squared Frobenius norm of scale B A, by the trace of (A A^T)(B^T B). */
lp_status lp_merge_update_norm2(const lp_slot *slot, double scale, double *out, lp_error *err);

#endif
