/* Executors: what turns wanted runs into answers and metrics.
 *
 * Work comes in units (a pair, as a rule). A unit holds groups; a group is one question with all the runs that are
 * wanted of it. The reference executor does them one by one; the engine (engine.h) does many units at once and shares
 * what runs have in common. Both read the same structures and give the same results. Nothing here knows files, MPI or
 * outcomes. */
#ifndef LP_PATCH_EXECUTOR_H
#define LP_PATCH_EXECUTOR_H

#include "base/error.h"
#include "nn/site.h"
#include "nn/token_edit.h"
#include "patch/condition.h"
#include "patch/lens.h"
#include "patch/step_change.h"
#include "thought/protocol.h"

/* Continuous metrics of one run, read where the unpatched recipient emits the first token of its number, after its own
 * answer up to there (forced where the patched run says something else). NaN where undefined. Natural logarithms;
 * distributions are over the candidates of decoding. */
typedef enum {
    LP_METRIC_LOGIT_CLEAN,     /* logit of the first token of the clean answer's number */
    LP_METRIC_LOGIT_CORRUPTED, /* the same for the corrupted answer */
    LP_METRIC_LOGPROB_CLEAN,   /* log softmax of these */
    LP_METRIC_LOGPROB_CORRUPTED,
    LP_METRIC_LOGIT_DIFF,      /* logit of the clean answer less that of the corrupted one */
    LP_METRIC_KL,              /* KL(unpatched || this run) of the two distributions */
    LP_METRIC_ANSWER_CLEAN,    /* log-probability of the whole clean number and eos, teacher-forced */
    LP_METRIC_ANSWER_CORRUPTED /* the same for the corrupted number */
} lp_metric;
enum { LP_N_METRICS = 8 };
/* Names as in results files; NULL-terminated. */
const char *const *lp_metric_names(void);

/* Where and what to read in the runs of a group. */
typedef struct {
    int32_t index;         /* number of answer tokens in front of the place */
    const int32_t *prefix; /* [index] the unpatched recipient's tokens up to there */
    struct {
        const int32_t *tokens; /* [n] the number in that context, then eos */
        int32_t n;             /* 0: this answer is not forced (its tokens do not continue the prefix) */
    } clean, corrupted;
    bool whole_answers; /* the ANSWER metrics too */
    int32_t room;       /* answer tokens for which the context has positions; 0: enough for all of these */
} lp_metric_position;
/* Is the whole clean (corrupted: the other) answer forced? False where it is not wanted, where there is none, and where
 * it would end beyond the context: its ANSWER metric is NaN then. */
bool lp_metric_position_forces(const lp_metric_position *metric_at, bool corrupted);

/* One wanted run: edits in order of time, with their vectors. */
typedef struct {
    const lp_timed_edit *edits;  /* [n_edits] */
    const float *const *vectors; /* [n_edits] [width of the site]; NULL entries for SCALE */
    size_t n_edits;
    int32_t n_steps;            /* thought steps to run */
    const lp_capture *captures; /* one whose position the run does not have leaves its `out` as it is */
    int32_t n_captures;
    const lp_lens_wanted *lens; /* NULL: none; for runs without edits */
    lp_step_reading *steps;     /* NULL: none; else all runs of the group have one, and one of them is unpatched */
} lp_run_wanted;

typedef struct {
    int32_t *tokens; /* [max_new_tokens] */
    int32_t n_tokens;
    bool ended;                  /* by eos */
    float metrics[LP_N_METRICS]; /* NaN without a metric position */
} lp_run_result;

typedef struct {
    const int32_t *prompt;
    int32_t n_prompt;
    const lp_run_wanted *runs; /* [n_runs] */
    lp_run_result *results;    /* [n_runs] filled by the executor; tokens provided by the caller. Unused where the
                                  source takes results one by one */
    size_t n_runs;
    const lp_subspace *subspaces;        /* edits name the i-th as i + 1 */
    const lp_token_edit *token_edits;    /* the same */
    const lp_metric_position *metric_at; /* NULL: no metrics. KL needs an unpatched run (no edits) among the runs */
} lp_run_group;

typedef struct {
    int64_t id; /* the caller's: pair number */
    const lp_run_group *groups;
    size_t n_groups;
    void *user;
} lp_work_unit;

/* Where units come from and go to. All are called by the thread that called the executor. */
typedef struct {
    void *user;
    /* *unit = the next unit, borrowed until done; NULL when there is none left. */
    lp_status (*next)(void *user, lp_work_unit **unit, lp_error *err);
    /* NULL, or takes the result of one run as soon as it is final, in any order and before `done`, instead of
     * group->results. group, run: places in the unit. result->tokens are valid during the call. */
    lp_status (*run_done)(void *user, lp_work_unit *unit, size_t group, size_t run, const lp_run_result *result,
                          lp_error *err);
    /* The unit's results, captures, lenses and step readings are complete. */
    lp_status (*done)(void *user, lp_work_unit *unit, lp_error *err);
} lp_work_source;

typedef struct {
    const lp_model *model;
    lp_protocol protocol;
    lp_vocabulary vocabulary;
    int32_t max_new_tokens;
    int32_t max_positions; /* the longest run that will come */
} lp_executor_options;

/* Runs everything that `source` gives with the reference executor. */
lp_status lp_execute_reference(const lp_executor_options *options, const lp_work_source *source, lp_error *err);

/* The run of the group that is not changed and makes all its thought steps; -1: none. */
int64_t lp_run_group_unpatched(const lp_run_group *group, int32_t n_steps);

/* Metrics of one position from its logits. logits, unpatched [n] (unpatched NULL: KL is NaN). Fills out up to KL. */
void lp_metrics_of_logits(const float *logits, const float *unpatched, int32_t n, const lp_metric_position *metric_at,
                          float out[LP_N_METRICS]);
/* log of the sum of exp(logits[n]), summed in double precision in order. */
double lp_log_sum_exp(const float *logits, int32_t n);
/* log softmax(logits[n])[token]. */
double lp_log_probability(const float *logits, int32_t n, int32_t token);

#endif
