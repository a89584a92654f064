/* The values of one slot: widened to float32 and, for a linear layer with LoRA, merged: W + alpha/r B A. */
#ifndef LP_MODEL_MERGE_H
#define LP_MODEL_MERGE_H

#include "model/codi_layout.h"

/* Writes the slot's values to dst. Linear layers become [n_in, n_out] with row stride ld >= n_out, whatever their
 * orientation in the file (with A [r, in] and B [out, r], W^T + scale A^T B^T); vectors and tables keep their shape
 * (ld = columns). rounding applies to the base tensor, not to LoRA. BLAS runs in the calling thread. */
lp_status lp_merge_slot(const lp_slot *slot, float scale, lp_widen_rounding rounding, float *dst, int64_t ld,
                        lp_error *err);

/* Fails where values [rows, columns] with row stride ld, which are those of the slot, hold NaN or infinity, naming the
 * tensor that brought it in. */
lp_status lp_merge_check_finite(const lp_slot *slot, const float *values, int64_t rows, int64_t columns, int64_t ld,
                                lp_error *err);

/* *out = the squared Frobenius norm of scale B A, by the trace of (A A^T)(B^T B). */
lp_status lp_merge_update_norm2(const lp_slot *slot, double scale, double *out, lp_error *err);

#endif
