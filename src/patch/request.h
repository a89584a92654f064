/* Requests: one question with all its runs (a group) on its way through the engine.
 *
 * A request holds the tree of the group and the state of each branch, and walks through the run position by position:
 * the whole prompt at once, then one position of all live branches at a time. For each row it says at which layer the
 * row begins and with whom it shares what lies below. The rules of sharing are here, and only here; the request knows
 * no backend.
 *
 * A branch shares with its reference (an ancestor that has a row at the same position) as long as both are fed the same
 * input: then the layers below the first changed K or V, and below the first edit of its own, come out the same and
 * are not computed again. */
#ifndef LP_PATCH_REQUEST_H
#define LP_PATCH_REQUEST_H

#include "backend/backend.h"
#include "patch/tree.h"

/* What a branch is for. Forced branches are fed given tokens and only yield metrics. */
typedef enum {
    LP_BRANCH_RUN,
    LP_BRANCH_FORCED_PREFIX,
    LP_BRANCH_FORCED_CLEAN,
    LP_BRANCH_FORCED_CORRUPTED
} lp_branch_kind;

typedef struct {
    lp_branch plan;
    lp_branch_kind kind;
    int32_t base; /* forced branches: the branch whose metrics they fill; otherwise itself */
    bool started, alive;
    int32_t ref;           /* branch that it shares with; -1: none */
    int32_t dirty;         /* first layer with K or V that differ from the reference's; n_layers: none */
    bool output_differs;   /* the final hidden state of its last position differs from the reference's */
    int32_t prompt_length; /* shared prompt slots */
    int32_t n_tail;        /* further slots */
    int32_t next_slot;     /* free slots of the branch: [next_slot, end_slot) */
    int32_t end_slot;
    int32_t latent;     /* row of latents with the next input */
    int32_t next_token; /* id to be fed next in the answer */
    int32_t n_tokens;
    bool ended;
    bool has_metrics;         /* or they are on their way */
    int32_t prefix_branch;    /* the branch that is forced along the prefix for it, -1: none */
    int32_t answer_branch[2]; /* those along the clean and the corrupted answer, -1: none */
    const int32_t *forced;    /* forced branches: the tokens that are fed */
    int32_t n_forced;         /* how many of them in all */
    int32_t n_forced_used;
    double log_probability; /* of forced answers so far */
    float metrics[LP_N_METRICS];
} lp_request_branch;

/* One row that a request wants to be computed. */
typedef struct {
    int32_t branch;
    int32_t position;
    int32_t first_layer;
    int32_t source; /* row, counted within the request's rows of this batch; -1 where first_layer is 0 */
    int32_t slot;
    int32_t prompt_length;
    int32_t n_tail; /* slots of the branch's tail that the row sees */
    int32_t token;  /* input: >= 0 a token, else the latent */
    int32_t latent;
    bool output;            /* something after the last layer's K and V is needed */
    bool chooses;           /* its logits choose a token */
    bool feeds_step;        /* its projection is the input of the next thought step */
    int32_t first_own_edit; /* edits from here on are not in the source's vector */
} lp_request_row;

typedef struct {
    const lp_executor_options *options;
    const lp_run_group *group;
    lp_tree tree;
    lp_request_branch *branches;
    size_t branch_capacity;
    int32_t n_branches; /* of the tree, then forced ones */
    int32_t max_branches;
    int32_t n_start;                          /* tokens that the answer starts from */
    int32_t position;                         /* next position of the request; 0: the prompt */
    int32_t prompt_slot, next_slot, end_slot; /* the request's block of KV slots */
    int32_t *tails;                           /* [max_branches, tail_stride] slots */
    size_t tail_capacity;
    int32_t tail_stride;
    int32_t *tokens; /* [max_branches, token_stride] */
    size_t token_capacity;
    int32_t token_stride;
    lp_request_row *rows; /* [n_rows] of the batch at hand, references before those who share with them */
    size_t row_capacity;
    int32_t n_rows;
    int32_t *first_row; /* [max_branches] first row of a branch in this batch, -1: none */
    size_t first_capacity;
    int32_t saved, end_saved; /* the request's rows of saved logits: the unpatched run's at the metric position, then
                                 those of branches whose metrics are read before it gets there, as early stops do */
    bool has_unpatched;
    int32_t *pending;     /* [n_pending] those branches */
    int32_t *pending_row; /* [n_pending] where their logits are saved */
    size_t pending_capacity, pending_row_capacity;
    int32_t n_pending, n_pending_rows;
    bool in_batch; /* the last rows were made and their outcomes not taken yet */
} lp_request;

/* What a group will need at most: KV slots, rows of one batch, branches, rows of saved logits. */
typedef struct {
    int32_t slots;
    int32_t rows;
    int32_t branches;
    int32_t saved;
} lp_request_need;

/* Queries of a batch's logits, and whom they are for. A list of the caller; {0} before. */
typedef struct {
    lp_request *request;
    int32_t branch;
    bool is_late; /* for lp_request_accept_late */
} lp_query_owner;
typedef struct {
    lp_logit_query *items;  /* [n] */
    lp_query_owner *owners; /* [n] */
    size_t n, capacity, owner_capacity;
} lp_query_list;

/* Builds the request's tree and counts. */
lp_status lp_request_open(lp_request *request, const lp_executor_options *options, const lp_run_group *group,
                          lp_request_need *need, lp_error *err);
/* Where what the request needs begins. */
typedef struct {
    int32_t slot, latent, saved;
} lp_request_place;
lp_status lp_request_start(lp_request *request, const lp_request_need *need, const lp_request_place *place,
                           lp_error *err);
void lp_request_release(lp_request *request);

/* Number of rows of the next batch; 0: the request is done. */
int32_t lp_request_count_rows(lp_request *request);
/* Fills request->rows for the next batch and steps on. */
lp_status lp_request_make_rows(lp_request *request, lp_error *err);
/* True when the address of a capture is this position of the branch; an index outside its phase is nowhere. */
bool lp_request_is_place(const lp_request *request, const lp_branch *branch, const lp_address *at, int32_t position);
/* Slots [n_tail] of a row's tail. */
const int32_t *lp_request_tail(const lp_request *request, const lp_request_row *row);

/* True when the branch's row holds the logits that divergences are taken from, which are queried first. */
bool lp_request_queries_unpatched(const lp_request *request, int32_t branch);
/* Adds the queries of a branch that had a row in this batch, whose logits are row `row`, and those that others can
 * now make of saved logits. Before lp_request_accept_token, branches in the same order. */
lp_status lp_request_add_queries(lp_request *request, int32_t branch, int32_t row, lp_query_list *list, lp_error *err);
/* The answer token of a branch that had a row in this batch: next, eos or the limit end it. stats: what
 * lp_request_add_queries asked for, or NULL where it did not. */
void lp_request_accept_token(lp_request *request, int32_t branch, int32_t token, const lp_logit_stats *stats);
/* What was read for the branch of logits that had been saved. */
void lp_request_accept_late(lp_request *request, int32_t branch, const lp_logit_stats *stats);
/* The results of all runs, when the request is done. */
void lp_request_finish(lp_request *request);

#endif
