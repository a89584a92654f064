/* What both stages share: the executor and its device, the dealing of pairs, and the request to stop. */
#ifndef LP_STAGE_EXECUTE_H
#define LP_STAGE_EXECUTE_H

#include "parallel/deal.h"
#include "stage/layout.h"

/* Runs what `source` gives with the executor and device that the job names; leaves what the engine counted in
 * session->counters. Local. */
lp_status lp_stage_execute(lp_session *session, const lp_work_source *source, lp_error *err);

/* From now on the existence of `<output>.stop` asks this stage to stop. Local. */
lp_status lp_stage_watch(const char *output, lp_error *err);
/* Removes the request once it was followed (status is LP_ERR_STOPPED), or the next start would stop as well. Local;
 * rank 0 does it. */
void lp_stage_stopped(const lp_session *session, const char *output, lp_status status);

/* How many of n_units one rank may have in hand at once: a quarter of its fair share, so that the ranks end together,
 * but enough for matrix products of a good size where there are few units. */
int64_t lp_stage_share(const lp_session *session, int64_t n_units);

/* Pairs to be done by all ranks together. */
typedef struct {
    const char *label;           /* "cache" */
    const char *output;          /* file that the work goes to, for messages */
    const int64_t *costs;        /* [n_pairs] */
    const uint8_t *skip;         /* [n_pairs] not to be done */
    int64_t total, before;       /* for the progress: pairs in all, and those done by earlier lives of the job */
    double row_layers;           /* for the progress, of a typical pair on the batched executor; 0: not known */
    lp_record_file *const *file; /* that the pairs are written to; opened before the first is written, or earlier */
    const bool *created;         /* by this life of the job; valid where *file is open */
    lp_work_source source;
    lp_deal **deal; /* set while the work runs, for the source's functions; NULL again at the end */
} lp_stage_work;

/* Collective. Deals the pairs out, runs them with the job's executor, shows the progress, and returns the status of all
 * ranks. A file that was created for this and got no pair is removed where it fails, unless it was asked to stop. */
lp_status lp_stage_run(lp_session *session, const lp_stage_work *work, lp_error *err);

#endif
