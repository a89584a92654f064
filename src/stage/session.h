/* A session holds everything that a stage needs open, on every rank: job, pairs, tokenizer, model (weights once per
 * node, or once per rank on its device), backend, the sweep's conditions, and the identity that files made from them
 * carry. Functions are collective unless said otherwise. */
#ifndef LP_STAGE_SESSION_H
#define LP_STAGE_SESSION_H

#include "job/job.h"
#include "nn/weights.h"
#include "pairs/pairs.h"
#include "parallel/watch.h"
#include "patch/engine.h"
#include "patch/executor.h"
#include "store/record_file.h"

/* The two sides of a pair, as indices. */
enum { LP_CLEAN = 0, LP_CORRUPTED = 1 };

typedef struct {
    const lp_parallel *parallel; /* borrowed */
    lp_job job;
    lp_pair_set pairs;
    int64_t n_pairs; /* of the job's limit */
    lp_tokenizer *tokenizer;
    lp_model model;
    lp_shared *arena;     /* of the model, one a node */
    bool without_weights; /* there was no memory for the arena; see lp_session_open */
    lp_vocabulary vocabulary;
    lp_condition_set
        conditions;       /* of the job's sweep; none without one. Donor tables set `source` of its replacements */
    int32_t *n_prompt[2]; /* [n_pairs] prompt positions of each side */
    int32_t longest_prompt;
    lp_backend *backend;         /* of this rank; NULL with the reference executor */
    lp_engine_counters counters; /* of the last execution on this rank */
    lp_weights *weights;         /* there; NULL with the reference executor, and where the engine makes them (cpu) */
    char device[320];            /* what this rank computes with; for provenance */
    char *model_digests;         /* one line a file, see lp_model_digests; NULL: not known yet */
    bool computes;               /* without them */
    double opened;               /* when, lp_seconds_now */
    char timeline[256];          /* what was ready how long after that; for --verbose */
    const char *resolved_job;    /* JSON; borrowed from the job */
    double row_layers_a_pair;    /* of a sweep, estimated; 0: not yet */
    lp_watch *watch;             /* runs as long as the session; NULL: engine.hang_limit is 0 */
} lp_session;

/* What a session is for. PLANNING goes on, with a warning, where there is no memory for the weights: then the model has
 * its shapes alone, and nothing can be computed with it. */
typedef enum { LP_FOR_COMPUTING, LP_FOR_PLANNING } lp_session_use;

/* Opens everything that the job names and checks that each run fits the model's context (the message names the pair).
 * Parts of a session point to others: it stays where it was opened. After a failure it is {0}.
 *
 * The digests of the model's files may take longer than everything else. A session of one rank that finds no results to
 * be compared with opens before they are known. Its stages compute meanwhile, but write nothing: they call
 * lp_session_know_files before they open a file for writing. */
lp_status lp_session_open(const lp_parallel *parallel, lp_session_use use, const char *job_file,
                          const char *const *settings, size_t n_settings, lp_session *session, lp_error *err);
void lp_session_close(lp_session *session);
/* Collective. Waits for the digests of the model's files where they are not known yet. Fails where a file cannot be
 * read. */
lp_status lp_session_know_files(lp_session *session, lp_error *err);

/* Local. The prompt of one side of a pair; *out is cleared first. */
lp_status lp_session_prompt(const lp_session *session, int64_t pair, int side, lp_token_list *out, lp_error *err);
/* Local. */
const lp_pair_side *lp_session_side(const lp_session *session, int64_t pair, int side);
/* Positions of the longest run of the job, with room for forced answers. Local. */
int32_t lp_session_max_positions(const lp_session *session);
/* Options for an executor. Local. */
lp_executor_options lp_session_executor(const lp_session *session);

enum { LP_MAX_PROVENANCE = 80, LP_PROVENANCE_TEXT = 160 };
typedef struct {
    lp_provenance_item items[LP_MAX_PROVENANCE];
    char texts[LP_MAX_PROVENANCE][LP_PROVENANCE_TEXT]; /* backs short values */
    size_t n;
} lp_provenance;
/* What a file made in this session says about its origin; values are borrowed from the session. The digests of the
 * model's files are missing and belong to no identity as long as they are not known. Local. */
void lp_session_provenance(const lp_session *session, lp_provenance *out);
/* Adds to what lp_session_provenance made the digests, which are known now. Local. */
void lp_session_complete_provenance(const lp_session *session, lp_provenance *provenance);
/* Adds an item; long values (over LP_PROVENANCE_TEXT - 1 bytes) are borrowed, short ones copied. */
void lp_provenance_add(lp_provenance *provenance, const char *key, const char *value, bool identity);

#endif
