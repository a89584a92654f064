/* Watching over a running job, so that a hung rank ends it instead of keeping all others waiting.
 *
 * A thread of every rank looks two ways. At its own process: while the rank has said what it does (lp_watch_doing) and
 * no loop of it has counted a pulse (base/pulse.h) for the limit, it hangs in a device, a file system, or a lock. At
 * the rank before it in a ring: every rank sends a word to the next one several times within the limit, and one that is
 * silent is stopped, swapped out or cut off. Either way the thread prints one line that names the rank and what it had
 * in hand, and ends all ranks. A ring needs no leader: whichever ranks hang, the next one sees it.
 *
 * Waiting for others is no hang: a rank that only waits says that it does nothing. Time counts in the watcher's own
 * looks, so that a job that is suspended as a whole and continued goes on.
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
