/* Readings: where the continuous metrics of a pair are read, from the recipient's unpatched answer.
 *
 * The place is in front of the first answer token whose text has a digit (DESIGN 3). A whole answer is the number's
 * text as it is tokenised behind the recipient's own prefix and what that token has in front of its digits (a blank,
 * for GPT-2), then eos. Where that tokenises the prefix differently, the number's text is tokenised by itself. */
#ifndef LP_STAGE_READING_H
#define LP_STAGE_READING_H

#include "stage/session.h"

typedef struct {
    lp_reading reading; /* points into the lists below */
    bool usable;        /* false: the answer has no number, so there is nothing to read */
    lp_token_list prefix, clean, corrupted;
} lp_pair_reading;

/* tokens [n]: the recipient's unpatched answer. *out is {0} or an earlier one, whose memory is used again. Local. */
lp_status lp_pair_reading_make(const lp_session *session, int64_t pair, const int32_t *tokens, int32_t n,
                               lp_pair_reading *out, lp_error *err);
void lp_pair_reading_release(lp_pair_reading *reading);

#endif
