/* The reference executor: one run, one position at a time, no sharing, no batching, no BLAS.
 *
 * It is the oracle for the batched engine, so it is written to be read: every vector of the sites (docs/design.md)
 * appears once, in order, in one function. Owns its scratch memory and the KV cache of the run at hand;
 * borrows the model. Not thread-safe: one object per thread. Results depend on nothing but the request. */
#ifndef LP_THOUGHT_REFERENCE_H
#define LP_THOUGHT_REFERENCE_H

#include "base/error.h"
#include "model/model.h"
#include "nn/site.h"
#include "thought/protocol.h"

typedef struct lp_reference lp_reference;

/* max_positions: the longest run (prompt + steps + answer) that will be asked for; at most the model's
 * context. */
lp_status lp_reference_new(const lp_model *model, const lp_protocol *protocol, const lp_vocabulary *vocabulary,
                           int32_t max_positions, lp_reference **out, lp_error *err);
void lp_reference_free(lp_reference *reference);

/* Called at each answer position whose logits choose a token: index = number of tokens generated so far,
 * logits [n_embedded]. */
typedef void (*lp_on_logits)(void *user, int32_t index, const float *logits);

typedef struct {
    const int32_t *prompt; /* [n_prompt] as lp_protocol_prompt makes it */
    int32_t n_prompt;
    int32_t n_steps; /* thought steps to run; fewer than the protocol's is an early stop */
    const lp_edit *edits;
    int32_t n_edits;
    const lp_capture *captures; /* an index past the end of its phase captures nothing */
    int32_t n_captures;
    int32_t max_new_tokens;
    const int32_t *forced; /* [n_forced] the first answer tokens, taken whatever the logits say */
    int32_t n_forced;
    lp_on_logits on_logits; /* or NULL */
    void *user;
} lp_run_request;

typedef struct {
    int32_t n_tokens; /* without the final eos */
    bool ended;       /* an eos was generated */
} lp_run_answer;

/* tokens [max_new_tokens] receives the answer. Fails when the run does not fit max_positions. */
lp_status lp_reference_run(lp_reference *reference, const lp_run_request *request, int32_t *tokens, lp_run_answer *out,
                           lp_error *err);

/* lens [n_embedded] = output head over the final norm of x [D] (for a vector that is already normed:
 * LP_LENS_PLAIN); LP_NEVER_LOGIT for tokens of the vocabulary's not_chosen. */
typedef enum { LP_LENS_NORM, LP_LENS_PLAIN } lp_lens;
void lp_reference_lens(lp_reference *reference, const float *x, lp_lens lens, float *logits);

#endif
