/* Asking a running job to end early: SIGUSR1, SIGUSR2, or a file named for it; and to end now: SIGTERM, SIGINT, SIGHUP.
 *
 * The first kind sets a flag, which workers look at between units of work; nothing is interrupted. The second kind sets
 * it too, and ends the process within a second: what was in hand by then is not journalled, and the next start makes
 * it again. A second signal ends the process at once. SIGXFSZ is ignored by every command, so that a write beyond a
 * file size limit is an error and not a death. */
#ifndef LP_PARALLEL_SIGNALS_H
#define LP_PARALLEL_SIGNALS_H

#include "base/error.h"

/* For commands other than jobs, and until lp_signals_install: SIGTERM, SIGINT and SIGHUP end the process at once, and
 * its temporary files go with it. */
lp_status lp_signals_end(lp_error *err);
/* Before this process executes a program: SIGHUP is ignored again, where it was when this one started. */
void lp_signals_before_exec(void);
/* Local; call after lp_parallel_start, because MPI may set handlers of its own. */
lp_status lp_signals_install(lp_error *err);
/* The ranks agree how the job ends, and one of them said why. Where the exit code is not 0, a signal from now on ends
 * the process with that code and without a word: the first rank that exits with an error makes mpiexec send SIGTERM to
 * the others. */
void lp_signals_outcome(int code);
/* Names the file whose existence is a request to stop (`<output>.stop`); NULL for none. Copied. */
lp_status lp_stop_watch(const char *path, lp_error *err);
/* True once a signal came or the file was seen; stays true. The file is looked at once a second at most. */
bool lp_stop_requested(void);
/* What asked: "SIGTERM", "SIGUSR1", ..., the path of the stop file, or "". */
const char *lp_stop_reason(void);
/* Forgets a request; for tests. */
void lp_stop_clear(void);

#endif
