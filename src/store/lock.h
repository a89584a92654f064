/* One job at a time on an output file: a lock file beside it, `<output>.lock`, links of the output followed. An output
 * with several hard links is locked itself as well.
 *
 * A file of that name that is not a lock file is refused and left alone, and none is opened through a link. The lock
 * file is made with O_EXCL, held with flock() while the process lives and says in JSON who holds it. HDF5 over MPI-IO
 * takes no locks at all, so this is the only thing that keeps two jobs apart. A lock left by a dead process is taken
 * over with a warning where that is certain: on the same host (flock is free, or the process is gone where the file
 * system has no flock), or when it was left by an earlier life of the same Slurm job. */
#ifndef LP_STORE_LOCK_H
#define LP_STORE_LOCK_H

#include "parallel/parallel.h"

typedef struct lp_lock lp_lock;

/* Local. Fails with LP_ERR_BUSY, naming the holder's host, process and start, when another one holds it. */
lp_status lp_lock_take(const char *output, lp_lock **out, lp_error *err);
/* Removes the lock file. NULL is accepted. */
void lp_lock_release(lp_lock *lock);

/* Collective: rank 0 takes the lock for all; *out is NULL on the others. */
lp_status lp_lock_take_all(const lp_parallel *parallel, const char *output, lp_lock **out, lp_error *err);

#endif
