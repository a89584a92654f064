/* Rotary position embedding (Su et al., 2104.09864) in the arithmetic of Hugging Face's LLaMA: float32
 * frequencies, float32 angle = position * frequency, "rotate half" pairing of dimension i with i +
 * head_dim/2. */
#ifndef LP_NN_ROPE_H
#define LP_NN_ROPE_H

#include "base/error.h"
#include "model/model.h"

typedef struct {
    float *cosine; /* [n_positions, half] owned */
    float *sine;   /* [n_positions, half] owned */
    int32_t half;  /* head_dim / 2 */
    int32_t n_positions;
} lp_rope;

/* Tables for positions 0 .. n_positions-1, with the scaling that the config names. Without rope (GPT-2): an
 * empty table. */
lp_status lp_rope_init(const lp_model_config *config, int32_t n_positions, lp_rope *out, lp_error *err);
void lp_rope_release(lp_rope *rope);

/* x [head_dim] rotated in place for `position`. */
void lp_rope_rotate(const lp_rope *rope, int32_t position, float *x);

#endif
