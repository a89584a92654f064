/* Messages to the person who runs the job, on stderr, one line each. Results never go here.
 *
 * Local: each rank writes its own lines; below `warn` only rank 0 does, so that a job on 1,024 ranks reads
 * like one program. */
#ifndef LP_BASE_LOG_H
#define LP_BASE_LOG_H

#include "base/error.h"

typedef enum { LP_LOG_DEBUG, LP_LOG_INFO, LP_LOG_WARN, LP_LOG_ERROR } lp_log_level;

/* level: the lowest that is shown. rank, size: as MPI has them; size 1 hides the rank. */
void lp_log_setup(lp_log_level level, int rank, int size);
/* Whether messages of the level are shown on some rank. */
bool lp_log_shows(lp_log_level level);
void lp_log(lp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
