/* Watching over a running job, so that a hung rank ends it instead of keeping all others waiting.
 *
 * A thread of every rank watches two things. The first is its own process. A rank that has said what it does
 * (lp_watch_doing), but whose loops have not counted a pulse (base/pulse.h) for the limit, hangs in a device, a file
 * system or a lock. The second is the rank before it in a ring. Every rank sends a word to the next one several times
 * within the limit; a rank that is silent was stopped, swapped out or cut off. In both cases the thread prints one line
 * that names the rank and what it had in hand, and ends all ranks. A ring needs no leader, because the next rank sees
 * it, whichever ranks hang.
 *
 * A rank that waits for others does not count as hung: it says that it does nothing. Time is counted in the watcher's
 * own looks, so that a job that is suspended as a whole and then continued goes on.
 *
 * Without MPI_THREAD_MULTIPLE each rank looks at itself alone. */
#ifndef LP_PARALLEL_WATCH_H
#define LP_PARALLEL_WATCH_H

#include "parallel/parallel.h"

typedef struct lp_watch lp_watch;

/* Collective; fails on all ranks or on none. limit_ms is the same on all ranks; 0: nobody is watched, *out is NULL. */
lp_status lp_watch_start(const lp_parallel *parallel, int64_t limit_ms, lp_watch **out, lp_error *err);
/* Collective. NULL is accepted, on all ranks. */
void lp_watch_stop(lp_watch *watch);

/* Local. What this rank does from now on, such as "pair 17"; it has to count pulses meanwhile. "": it waits for others.
 * Copied; NULL watch is accepted. */
void lp_watch_doing(lp_watch *watch, const char *what);

#endif
