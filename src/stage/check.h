/* What can be checked before anything is computed, for every command on a job. A job that cannot run is refused now,
 * not after stage 1. */
#ifndef LP_STAGE_CHECK_H
#define LP_STAGE_CHECK_H

#include "stage/plan.h"

/* STORE: the job's store will be made or continued. RESULTS: its sweep will run as well. */
typedef enum { LP_CHECK_STORE, LP_CHECK_RESULTS } lp_check_for;

/* How the files of the job stand; valid on every rank. */
typedef struct {
    bool store_exists;
    int64_t n_done; /* of the job's pairs, in the store */
    bool results_complete;
} lp_standing;

/* Collective. Makes the plan ({0} before; the caller releases it, also after a failure) and checks, where the job has a
 * sweep, its donors (vector files, what the store must keep,
 * how many pairs they need; with LP_CHECK_STORE only if all vector files are there); then the store, if there is one:
 * it must be this job's. With LP_CHECK_RESULTS also the results file. Writes nothing. */
lp_status lp_stage_check(lp_session *session, lp_check_for what, lp_sweep_plan *plan, lp_standing *out, lp_error *err);

#endif
