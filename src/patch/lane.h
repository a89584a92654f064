/* Lanes: one group on its way through the engine.
 *
 * A lane holds the group's tree and the state of each branch, and walks through the run position by position: the whole
 * prompt at once, then one position of all live branches at a time. For each row it says at which layer the row joins
 * and with whom it shares what lies below. The rules of sharing are here, and only here; the lane knows no backend.
 *
 * A branch shares with its reference (an ancestor that has a row at the same position) as long as both are fed the same
 * input: then the layers below the first changed K or V, and below the first event of its own, come out the same and
 * are not computed again. */
#ifndef LP_PATCH_LANE_H
#define LP_PATCH_LANE_H

#include "backend/backend.h"
#include "patch/tree.h"

/* What a branch is for. Readers are forced along given tokens and only yield metrics. */
typedef enum { LP_BRANCH_RUN, LP_BRANCH_READER, LP_BRANCH_ANSWER_CLEAN, LP_BRANCH_ANSWER_CORRUPTED } lp_branch_kind;

typedef struct {
    lp_branch plan;
    lp_branch_kind kind;
    int32_t base; /* readers: the branch whose metrics they fill; otherwise itself */
    bool started, alive;
    int32_t ref;           /* branch that it shares with; -1: none */
    int32_t dirty;         /* first layer with K or V that differ from the reference's; n_layers: none */
    bool output_differs;   /* the final hidden state of its last position differs from the reference's */
    int32_t prompt_length; /* shared prompt slots */
    int32_t n_tail;        /* slots behind those */
    int32_t next_slot;     /* free slots of the branch: [next_slot, end_slot) */
    int32_t end_slot;
    int32_t latent;     /* row of latents with the next input */
    int32_t next_token; /* id to be fed next in the answer */
    int32_t n_tokens;
    bool ended;
    bool read;             /* the reading is done or on its way */
    int32_t reader;        /* its reader along the prefix, -1: none */
    int32_t follower[2];   /* its readers along the clean and the corrupted answer, -1: none */
    const int32_t *forced; /* readers: tokens from n_tokens_forced_from on */
    int32_t n_forced;      /* how many of them in all */
    int32_t n_forced_used;
    double log_probability; /* of forced answers so far */
    float metrics[LP_N_METRICS];
} lp_lane_branch;

/* One row that a lane wants to be computed. */
typedef struct {
    int32_t branch;
    int32_t position;
    int32_t join;
    int32_t source; /* row, counted within the lane's rows of this wave; -1 where join is 0 */
    int32_t slot;
    int32_t prompt_length;
    int32_t n_tail; /* slots of the branch's tail that the row sees */
    int32_t token;  /* input: >= 0 a token, else the latent */
    int32_t latent;
    bool output;             /* something behind the last layer's K and V is needed */
    bool chooses;            /* its logits choose a token */
    bool feeds_step;         /* its projection is the input of the next thought step */
    int32_t first_own_event; /* events from here on are not in the source's vector */
} lp_lane_row;

typedef struct {
    const lp_executor_options *options;
    const lp_run_group *group;
    lp_tree tree;
    lp_lane_branch *branches;
    size_t branch_capacity;
    int32_t n_branches; /* of the tree, then readers */
    int32_t max_branches;
    int32_t n_start;                          /* tokens that the answer starts from */
    int32_t position;                         /* next position of the lane; 0: the prompt */
    int32_t prompt_slot, next_slot, end_slot; /* the lane's block of KV slots */
    int32_t *tails;                           /* [max_branches, tail_stride] slots */
    size_t tail_capacity;
    int32_t tail_stride;
    int32_t *tokens; /* [max_branches, token_stride] */
    size_t token_capacity;
    int32_t token_stride;
    lp_lane_row *rows; /* [n_rows] of the wave at hand, references before those who share with them */
    size_t row_capacity;
    int32_t n_rows;
    int32_t *first_row; /* [max_branches] first row of a branch in this wave, -1: none */
    size_t first_capacity;
    int32_t kept, end_kept; /* the lane's rows of kept logits: the unpatched run's at the reading's place, then those of
                               branches that read before it did, as early stops do */
    bool has_unpatched;
    int32_t *pending;     /* [n_pending] those branches */
    int32_t *pending_row; /* [n_pending] where their logits are kept */
    size_t pending_capacity, pending_row_capacity;
    int32_t n_pending, n_pending_rows;
    bool in_wave; /* the last rows were made and their outcomes not taken yet */
} lp_lane;

/* What a group will need at most: KV slots, rows of one wave, branches, rows of kept logits. */
typedef struct {
    int32_t slots;
    int32_t rows;
    int32_t branches;
    int32_t kept;
} lp_lane_need;

/* What is to be read of a wave's logits, and for whom. A list of the caller; {0} before. */
typedef struct {
    lp_lane *lane;
    int32_t branch;
    bool is_late; /* for lp_lane_take_late */
} lp_lane_reader;
typedef struct {
    lp_logit_read *reads;    /* [n] */
    lp_lane_reader *readers; /* [n] */
    size_t n, capacity, reader_capacity;
} lp_lane_reads;

/* Builds the lane's tree and counts. */
lp_status lp_lane_open(lp_lane *lane, const lp_executor_options *options, const lp_run_group *group, lp_lane_need *need,
                       lp_error *err);
/* Where what the lane needs begins. */
typedef struct {
    int32_t slot, latent, kept;
} lp_lane_place;
lp_status lp_lane_start(lp_lane *lane, const lp_lane_need *need, const lp_lane_place *place, lp_error *err);
void lp_lane_release(lp_lane *lane);

/* Number of rows of the next wave; 0: the lane is done. */
int32_t lp_lane_count_rows(lp_lane *lane);
/* Fills lane->rows for the next wave and steps on. */
lp_status lp_lane_make_rows(lp_lane *lane, lp_error *err);
/* True when the address of a capture is this position of the branch; an index outside its phase is nowhere. */
bool lp_lane_is_place(const lp_lane *lane, const lp_branch *branch, const lp_address *at, int32_t position);
/* Slots [n_tail] of a row's tail. */
const int32_t *lp_lane_tail(const lp_lane *lane, const lp_lane_row *row);

/* True when the branch's row holds the logits that divergences are taken from: they are to be read first. */
bool lp_lane_reads_unpatched(const lp_lane *lane, int32_t branch);
/* Adds what has to be read of the logits of a branch that had a row in this wave, which are row `row` of them, and what
 * others can now read of kept ones. Before lp_lane_take_token, branches in the same order. */
lp_status lp_lane_add_reads(lp_lane *lane, int32_t branch, int32_t row, lp_lane_reads *reads, lp_error *err);
/* The answer token of a branch that had a row in this wave: next, eos or the limit end it. reading: what
 * lp_lane_add_reads asked for, or NULL where it did not. */
void lp_lane_take_token(lp_lane *lane, int32_t branch, int32_t token, const lp_logit_reading *reading);
/* What was read for the branch of logits that had been kept. */
void lp_lane_take_late(lp_lane *lane, int32_t branch, const lp_logit_reading *reading);
/* The results of all runs, when the lane is done. */
void lp_lane_finish(lp_lane *lane);

#endif
