/* The logit lens of an unpatched run: what the model would say if it stopped here.
 *
 * The residual stream after each layer, at the last prompt position and at each thought step, goes through the final
 * norm and the output head; the candidates of decoding are ranked by the log softmax over all of them. After the
 * last layer, that is what the model itself says at that position. An executor reads the vectors that a run's captures
 * have filled. This module says, for every executor, where the vectors come from and how tokens are ranked. */
#ifndef LP_PATCH_LENS_H
#define LP_PATCH_LENS_H

#include "base/text.h"
#include "nn/site.h"
#include "thought/protocol.h"

enum { LP_MAX_LENS_TOP = 50 };

/* What to read of one run. Vectors, tokens and log-probabilities belong to the caller. */
typedef struct {
    const float *vectors; /* [n, D] filled by the run's captures */
    int32_t n;
    int32_t top;            /* 1 .. LP_MAX_LENS_TOP, at most the number of candidates */
    int32_t *tokens;        /* [n, top] likeliest first */
    float *log_probability; /* [n, top] natural logarithm */
} lp_lens_wanted;

/* Positions of a run that the lens reads: 0 is the last prompt position, 1 + t is thought step t. */
int32_t lp_lens_positions(int32_t n_steps);
/* Fills captures [positions * n_layers] so that vectors [positions, n_layers, d_model] receive what the lens reads. */
void lp_lens_captures(const lp_model_config *config, int32_t n_prompt, int32_t n_steps, float *vectors,
                      lp_capture *captures);
/* tokens, log_probability [top] = the likeliest of logits [n], ties to the lowest id. */
void lp_lens_rank(const float *logits, int32_t n, int32_t top, int32_t *tokens, float *log_probability);
/* *out += the token as one shows it: its text with control characters escaped; <pad>, <bot>, <id> where it has none. */
lp_status lp_lens_show(const lp_tokenizer *tokenizer, const lp_vocabulary *vocabulary, int32_t token, lp_text *out,
                       lp_error *err);

#endif
