/* How fast this machine runs the job's model, for estimates of time: measured on one block and on the output head, with
 * rows as a sweep mostly has them. Local. */
#ifndef LP_STAGE_SPEED_H
#define LP_STAGE_SPEED_H

#include "stage/session.h"

typedef struct {
    double row_layer_s; /* seconds of one position in one block, attention over a prompt of n_prompt included */
    double head_row_s;  /* seconds of the logits of one position, and of choosing a token */
} lp_speed;

/* Computes one block of the model on this rank's backend, or on a cpu backend of its own where the session has none,
 * for about `wanted_s`; then the output head for as long. A model whose block takes longer runs once. Not for a session
 * without weights. LP_ERR_MEMORY: there is no room to measure. */
lp_status lp_speed_measure(const lp_session *session, int32_t n_prompt, double wanted_s, lp_speed *out, lp_error *err);

#endif
