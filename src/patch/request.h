/* Requests: one question with all its runs (a group) on its way through the engine.
 *
 * A request goes through the engine in parts. A part is a stretch of the runs in their order (tree.h), as many as
 * memory and a batch have room for; where there is enough, it is all of them. Within a part the request holds the tree
 * of its runs and the state of each branch, and walks through the run position by position: the prompt at once, or in
 * chunks where a batch is shorter, then one position of all live branches at a time. For each row it says at which
 * layer the row begins and with whom it shares what lies below (sharing.c). What the prompt left in its pages serves
 * the parts that follow.
 *
 * Keys and values lie in pages. A branch takes a page when it has a row and no slot for it, shares its parent's pages
 * up to the fork, and gives all of them back when it has ended. When pages run out, lp_request_shed sets the last runs
 * of a part back: they are made again in a later part, to the same bits. A request knows no backend. */
#ifndef LP_PATCH_REQUEST_H
#define LP_PATCH_REQUEST_H

#include "backend/backend.h"
#include "patch/pages.h"
#include "patch/tree.h"

/* What a branch is for. Forced branches are fed given tokens and only yield metrics. */
typedef enum {
    LP_BRANCH_RUN,
    LP_BRANCH_FORCED_PREFIX,
    LP_BRANCH_FORCED_CLEAN,
    LP_BRANCH_FORCED_CORRUPTED
} lp_branch_kind;

/* What a branch has in common with its reference: an ancestor that has a row at the same position. */
typedef struct {
    int32_t ref;         /* branch; -1: none */
    int32_t dirty;       /* first layer with K or V that differ from the reference's; n_layers: none */
    bool output_differs; /* the final hidden state of its last position differs from the reference's */
} lp_sharing;

typedef struct {
    lp_branch plan;
    lp_branch_kind kind;
    int32_t base; /* forced branches: the branch whose metrics they fill; otherwise itself */
    bool started, alive;
    bool is_set_back;    /* its runs are made in a later part */
    bool holds_pages;    /* those of its tail */
    int32_t known_until; /* an earlier part computed its rows at the positions below */
    lp_sharing sharing;
    int32_t prompt_length;       /* shared prompt slots */
    int32_t n_tail;              /* slots after those */
    int32_t next_slot, end_slot; /* free slots of its last page */
    int32_t latent;              /* row of latents with the next input: its first own page */
    int32_t next_token;          /* id to be fed next in the answer */
    int32_t n_tokens;
    bool ended;
    uint64_t row_layers;      /* computed for it */
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
    int32_t n_tail;         /* slots of the branch's tail that the row sees */
    int32_t token;          /* input: >= 0 a token, else the latent */
    int32_t latent;         /* row of latents that it is fed */
    int32_t next_latent;    /* row of latents that its projection goes to, where feeds_step */
    bool output;            /* something after the last layer's K and V is needed */
    bool chooses;           /* its logits choose a token */
    bool feeds_step;        /* its projection is the input of the next thought step */
    int32_t first_own_edit; /* edits from here on are not in the source's vector */
} lp_request_row;

/* A source that takes results one by one, and its first failure, after which it gets no more. */
typedef struct {
    const lp_work_source *source;
    lp_error err; /* err.status LP_OK: none */
} lp_result_sink;

typedef struct {
    /* of the request */
    const lp_executor_options *options;
    const lp_run_group *group;
    lp_result_sink *sink; /* borrowed; NULL: results go to group->results */
    lp_work_unit *unit;   /* for the sink, and which of its groups this is */
    size_t group_in_unit;
    lp_page_pool *pages, *saved; /* borrowed: of the KV cache; of rows of saved logits */
    bool captures;               /* some run captures something */
    bool captures_patched;       /* one that is changed */
    lp_run_order order;
    int32_t n_start;      /* tokens that the answer starts from */
    int32_t n_done;       /* runs that are done: the first of the order */
    int32_t prompt_page;  /* first page of the prompt, whose row of latents holds the input of step 0; -1: none held */
    bool prompt_is_ready; /* the prompt's keys, values and latent are there */
    int32_t saved_row;    /* where the unpatched run's logits at the metric position are saved; -1: none held */
    bool has_unpatched;   /* they are there, or on their way */
    int32_t n_parts;      /* begun */
    uint64_t row_layers_lost; /* computed for what was set back, and again for later parts */
    /* of the part at hand */
    bool is_active;
    bool is_single;   /* the part, or the next one, is of one run alone */
    int32_t part_end; /* its runs are [n_done, part_end) of the order */
    lp_tree tree;
    lp_request_branch *branches;
    size_t branch_capacity;
    int32_t n_branches; /* of the tree as it was at first, then forced ones */
    int32_t max_branches;
    int32_t position;   /* next position; below n_prompt: the prompt, or the rest of it, is to come */
    int32_t batch_rows; /* that limit the part */
    int32_t chunk;      /* prompt positions that go through the model at once */
    int32_t *tails;     /* [max_branches, tail_stride] slots */
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
    int32_t *early_rows; /* [n_early_rows] rows of saved logits for branches whose metrics are read before the unpatched
                            run gets there, as early stops do */
    int32_t n_early_rows;
    size_t early_capacity;
    int32_t *pending;     /* [n_pending] those branches */
    int32_t *pending_row; /* [n_pending] where their logits are saved */
    size_t pending_capacity, pending_row_capacity;
    int32_t n_pending, n_pending_rows;
    bool in_batch; /* the last rows were made and their outcomes not accepted yet */
} lp_request;

/* What something takes, or may take at most. */
typedef struct {
    int32_t pages;
    int32_t rows;  /* of one batch */
    int32_t saved; /* rows of saved logits */
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

/* ---- Life cycle -------------------------------------------------------------------------------------------------- */

/* Begins a request ({0} or an earlier one, whose memory is used again). Borrows the rest. */
lp_status lp_request_open(lp_request *request, const lp_executor_options *options, const lp_run_group *group,
                          lp_page_pool *pages, lp_page_pool *saved, lp_error *err);
void lp_request_release(lp_request *request);
/* From now on results go to sink->source. group: which one of the unit's this request is. */
void lp_request_set_sink(lp_request *request, lp_result_sink *sink, lp_work_unit *unit, size_t group);
/* What the longest single run takes, with an answer of max_new_tokens, the unpatched run up to where it differs and its
 * forced branches: with less no part can be made. */
lp_request_need lp_request_least(const lp_request *request);
static inline bool lp_request_is_done(const lp_request *request) {
    return request->n_done == request->order.n;
}

/* ---- Parts ------------------------------------------------------------------------------------------------------- */

/* Makes the next part: of the runs that are left as many as fit `limits`, with answers of expected_tokens, and at least
 * one. *need = what it takes then, the prompt's pages included where they are not held. */
lp_status lp_request_plan_part(lp_request *request, const lp_request_need *limits, int32_t expected_tokens,
                               lp_request_need *need, lp_error *err);
/* Rows that the planned part can have at once when it decodes. */
int32_t lp_request_most_rows(const lp_request *request);
/* Takes the row of saved logits that the request keeps from its first part to its last; false where none is free. */
bool lp_request_reserve_saved(lp_request *request);
/* Begins the part that was planned. *begun is false where the prompt finds no pages next to each other. */
lp_status lp_request_begin_part(lp_request *request, bool *begun, lp_error *err);
/* Pages that the part will still take, with answers of expected_tokens. */
int32_t lp_request_pages_to_come(const lp_request *request, int32_t expected_tokens);
/* Sets back the last branch that still runs, with what hangs on it, whose runs are made again in a later part; false
 * where nothing else would go on. Not while the request is in a batch. */
bool lp_request_shed(lp_request *request);
/* Sets back all that still runs, ends the part as below, and gives the prompt's pages back too. Not while the request
 * is in a batch. */
void lp_request_drop(lp_request *request, int64_t *n_answers, int64_t *n_tokens);
/* Hands out the results of the part's runs, when it has no rows left; adds how many answers there were, and their
 * tokens.
 */
void lp_request_end_part(lp_request *request, int64_t *n_answers, int64_t *n_tokens);

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

/* Number of rows of the next batch; 0: the part is done. *pages (NULL: not asked) = pages that they take. */
int32_t lp_request_count_rows(const lp_request *request, int32_t *pages);
/* Fills request->rows for the next batch and steps on. There are pages for it. */
void lp_request_make_rows(lp_request *request);
/* True when the address of a capture is this position of the branch; an index outside its phase is nowhere. */
bool lp_request_is_place(const lp_request *request, const lp_branch *branch, const lp_address *at, int32_t position);
/* The branches of the tree whose runs are at this row at its position: its own, and those that fork from it later. -1:
 * none, or no more; only where runs capture something. */
int32_t lp_request_first_carried(const lp_request *request, const lp_request_row *row);
int32_t lp_request_next_carried(const lp_request *request, const lp_request_row *row, int32_t branch);
/* Slots [n_tail] of a row's tail. */
const int32_t *lp_request_tail(const lp_request *request, const lp_request_row *row);
/* After the outcomes of all rows were accepted: branches that have ended give their pages back. */
void lp_request_end_step(lp_request *request);

/* ---- Answers and metrics (request_metrics.c) --------------------------------------------------------------------- */

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

#endif
