/* What the files of a request share: request.c has the life of parts and branches, sharing.c what a row has in common
 * with others, request_metrics.c answers and metrics. */
#ifndef LP_PATCH_REQUEST_INTERNAL_H
#define LP_PATCH_REQUEST_INTERNAL_H

#include "patch/request.h"

static inline int32_t lp_smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static inline bool lp_thoughts_read_prompt(const lp_request *request) {
    return request->options->protocol.first_reads_prompt;
}

/* First answer position of a branch. */
static inline int32_t lp_answer_begin(const lp_request *request, const lp_request_branch *branch) {
    return request->group->n_prompt + branch->plan.n_steps;
}

static inline int32_t *lp_tail_of(const lp_request *request, int32_t branch) {
    return request->tails + (size_t)branch * (size_t)request->tail_stride;
}

static inline int32_t *lp_tokens_of(const lp_request *request, int32_t branch) {
    return request->tokens + (size_t)branch * (size_t)request->token_stride;
}

/* Tokens of the longer of the two forced answers. */
static inline int32_t lp_longer_answer(const lp_metric_position *metric_at) {
    return metric_at->clean.n > metric_at->corrupted.n ? metric_at->clean.n : metric_at->corrupted.n;
}

/* The branch begins to hold the pages of its tail, or no longer does. */
void lp_branch_hold_pages(lp_request *request, int32_t branch);
void lp_branch_give_pages(lp_request *request, int32_t branch);

/* Sets the row's first layer, source and first own edit, and what they mean for the branch's later positions. The rows
 * of its ancestors at this position have been made. */
void lp_share_row(lp_request *request, int32_t branch, lp_request_row *row);

#endif
