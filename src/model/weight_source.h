/* What a matrix of weights is made of, for those who make it elsewhere than in the arena: a device that takes the
 * tensors as the files hold them.
 *
 *   values = base + scale B A     base widened to float32 (through fp16 where it says so), A and B widened exactly
 *
 * Borrows the tensors from the model's files. Needs nothing but src/base, so that a module can carry it. */
#ifndef LP_MODEL_WEIGHT_SOURCE_H
#define LP_MODEL_WEIGHT_SOURCE_H

#include "model/model.h"
#include "model/tensor_source.h"

struct lp_weight_source {
    const lp_tensor *tensor;          /* [rows, columns] as the matrix's layout has it, F32, F16 or BF16 */
    const lp_tensor *lora_a, *lora_b; /* [r, in], [out, r]; NULL where there is no LoRA */
    float scale;                      /* alpha / r */
    lp_widen_rounding rounding;       /* of the base tensor */
};

/* Hints: the tensors will be read soon; they were read and need not stay resident. For tensors in mapped files. */
void lp_weight_source_want(const lp_weight_source *source);
void lp_weight_source_let_go(const lp_weight_source *source);

/* The failure where a value made of these tensors came out as NaN or infinity: names the tensor that holds one, or says
 * that the values became infinite. Reads the tensors whole, slowly. */
lp_status lp_weight_source_refuse(const lp_weight_source *source, lp_error *err);

#endif
