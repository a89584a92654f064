/* The device of a session: opened once, with the weights that stay there until the session ends. */
#ifndef LP_STAGE_DEVICE_H
#define LP_STAGE_DEVICE_H

#include "stage/session.h"

/* Collective. Opens the backend that the job asks for, on this rank's device; none for the reference executor. Ranks of
 * a node that have the same device share its memory evenly; one of them says so. */
lp_status lp_stage_open_device(lp_session *session, lp_error *err);

/* Collective. How the ranks of a node, which share their arena, have the model's matrices: left out where every rank
 * has a device that makes them of the model's files, in panels where every rank's backend takes those, else plain. */
lp_status lp_stage_choose_matrices(lp_session *session, lp_error *err);

/* Collective. The model's weights on a backend that makes them of the model's files: what is wrong with those shows
 * here. Other backends get theirs when something is computed. */
lp_status lp_stage_make_weights(lp_session *session, lp_error *err);

/* Threads of this rank: those of the job, or its share of the node (lp_parallel_cpus). Local. */
int32_t lp_stage_threads(const lp_session *session);

#endif
