/* The dealer of work units, as a pure state machine: no MPI, no clock, so that a simulator can drive it.
 *
 * The order is fixed by the costs alone (largest first, equal ones by index): every rank computes it for
 * itself, and dealing is handing out positions in it from a counter. A rank asks when it is free, so that
 * slow ranks simply ask less often; large units first leaves small ones to even out the end (Graham, "Bounds
 * on multiprocessing timing anomalies", 1969). */
#ifndef LP_PARALLEL_DEALER_H
#define LP_PARALLEL_DEALER_H

#include "base/error.h"

typedef struct {
    int64_t *order; /* [n_units] ids of the units still to do, in the order of dealing; owned */
    int64_t n_units;
    int n_ranks;
} lp_dealer;

/* costs [n] >= 0, e.g. tokens; NULL: all equal. done [n]: non-zero where a unit is not to be dealt; NULL:
 * none. */
lp_status lp_dealer_init(lp_dealer *dealer, const int64_t *costs, const uint8_t *done, int64_t n, int n_ranks,
                         lp_error *err);
void lp_dealer_release(lp_dealer *dealer);

/* How many units a rank that would like `wanted` (>= 1) at once gets when the counter stands at `position`: a
 * rank never gets more than half of its fair share of what is left, so that batching does not spoil the
 * balance at the end. 0 when nothing is left. */
int64_t lp_dealer_grant(const lp_dealer *dealer, int64_t position, int64_t wanted);

#endif
