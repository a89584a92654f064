/* How far a job is, for the person who watches: on a terminal one line that is rewritten, elsewhere a line
 * at the start and every few seconds, at the end one line with the time taken. A thread of its own writes, so that a
 * long unit of work does not hold the display up; it only reads a counter and never calls MPI. Local; meant for rank 0.
 */
#ifndef LP_PARALLEL_PROGRESS_H
#define LP_PARALLEL_PROGRESS_H

#include "base/error.h"

typedef struct lp_progress lp_progress;

typedef struct {
    const char *label;                   /* "cache"; borrowed until the end */
    const char *unit;                    /* plural, "pairs"; borrowed until the end */
    int64_t total;                       /* units in all, those of earlier lives of the job included */
    int64_t before;                      /* of these, done by earlier lives */
    int64_t (*count)(const void *state); /* done in this life; called from another thread */
    /* The share of the work of this life that is done, 0 to 1, by a count that is finer than units; shown until the
     * first unit is done. 0: not known. NULL: never. Called from another thread. */
    double (*share)(const void *state);
    const void *state;
    bool quiet; /* show nothing */
} lp_progress_options;

lp_status lp_progress_start(const lp_progress_options *options, lp_progress **out, lp_error *err);
/* Ends the display with its last line; must come before the counter goes away. NULL is accepted. */
void lp_progress_stop(lp_progress *progress);

/* One line of text: how many of the total are done, n_here of them in `seconds` of this life, whose rate it gives.
 * Where n_here is 0, the time left follows from the share of the work that is done, if that is not 0. A line that does
 * not fit into size leaves out what earlier lives did, and is cut if that is not enough. */
void lp_progress_line(char *out, size_t size, const lp_progress_options *options, int64_t n_here, double share,
                      double seconds);

#endif
