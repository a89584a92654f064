/* From step to step: how far the thoughts of a run are from those of the unpatched run of its group.
 *
 * At each thought step the final hidden state (latent_raw, after edits there) is compared with the unpatched run's:
 * their cosine, the size of the difference, and the divergence of what the two would say there by the logit lens. A run
 * that is changed at step i thus gives row i of the matrix of effects from step to step. Executors capture the states
 * and read the lens; all else is here. */
#ifndef LP_PATCH_STEP_CHANGE_H
#define LP_PATCH_STEP_CHANGE_H

#include "nn/site.h"
#include "thought/protocol.h"

enum { LP_STEP_COSINE, LP_STEP_CHANGE, LP_STEP_KL, LP_N_STEP_NUMBERS };

/* What to read of one run; all memory is the caller's. The unpatched run of a group needs its vectors, too. */
typedef struct {
    float *vectors;  /* [n_steps, D] filled by the run's captures; NaN before: where they leave one so it is the
                        unpatched  run's */
    float *numbers;  /* [n_steps, LP_N_STEP_NUMBERS] cosine; |difference| / |unpatched|; KL(unpatched || this run) over
                        the candidates, natural logarithm. NaN at steps that the run does not make */
    int32_t n_steps; /* of a run that does not stop early */
} lp_step_reading;

/* Names of the numbers: "step3_kl", by step and number; static. */
const char *lp_step_number_name(int32_t step, int32_t number);

/* Fills captures [reading->n_steps], and forgets the vectors and numbers of an earlier run. */
void lp_step_captures(const lp_model_config *config, lp_step_reading *reading, lp_capture *captures);
/* Sets cosine and difference of the steps [0, n_steps_run) and completes the vectors. differs [n_steps]: where the lens
 * has to be read; where it has not, KL is set to 0. Local. */
void lp_step_compare(const lp_step_reading *unpatched, lp_step_reading *reading, int32_t d_model, int32_t n_steps_run,
                     bool *differs);
/* KL(base || other) of two rows of logits. */
double lp_step_divergence(const float *base, const float *other, int32_t n_candidates);

#endif
