/* What the results of a sweep are made from, as their provenance says. It is known before anything is computed, so that
 * results of another sweep are noticed before stage 1. */
#ifndef LP_STAGE_SWEEP_IDENTITY_H
#define LP_STAGE_SWEEP_IDENTITY_H

#include "stage/plan.h"

typedef struct {
    lp_provenance provenance;
    char conditions[LP_SHA256_HEX]; /* digest of their names */
    lp_text metrics;                /* names */
    lp_text vectors;                /* SHA-256 of every vector file, one a line */
    lp_text seeds;                  /* of the draws of the donor shuffled; empty: the job names none */
} lp_sweep_identity;

/* Local. Values are borrowed from session and *out, which must stay where it is. Large: not for a stack. */
lp_status lp_sweep_identity_init(const lp_session *session, const lp_condition_set *set, lp_sweep_identity *out,
                                 lp_error *err);
void lp_sweep_identity_release(lp_sweep_identity *identity);

/* The metrics of the answers that the job asks for: the first so many of lp_metric. */
size_t lp_sweep_answer_metrics(const lp_job *job);
/* All that it asks for: their number; out [LP_MAX_METRICS] their names, those of the answers first, then those of the
 * steps, by step. */
size_t lp_sweep_metrics(const lp_job *job, const char **out);

/* Local. *complete: the job's results file is there, made by this very sweep. LP_ERR_MISMATCH where it, or what a
 * stopped sweep left beside it, is of another sweep; another error where it is not a results file. */
lp_status lp_sweep_look_at_results(const lp_session *session, const lp_sweep_identity *identity, bool *complete,
                                   lp_error *err);

#endif
