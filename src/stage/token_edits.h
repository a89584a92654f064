/* Token rules of a sweep's conditions, made ready for a model: which tokens are numbers, and what stands for them. */
#ifndef LP_STAGE_TOKEN_EDITS_H
#define LP_STAGE_TOKEN_EDITS_H

#include "stage/session.h"

typedef struct {
    lp_token_edit *edits; /* [n] of the set's token rules, in their order; maps owned */
    size_t n;
} lp_token_edits;

/* A token is a number where its text begins with a digit, or with one blank and a digit. With a shift, the first run of
 * digits in the text is counted up or down, and the token of that text is taken; where that is not a single token of
 * the candidates of decoding, or the number would be negative, the vector is left as it is. Fails where the text of a
 * rule's `along` is not one token. */
lp_status lp_token_edits_init(const lp_session *session, const lp_condition_set *set, lp_token_edits *out,
                              lp_error *err);
void lp_token_edits_release(lp_token_edits *edits);

#endif
