/* One step's batch: its rows, from the time they are made until their results are back.
 *
 * A batch knows which requests its rows are of, what is asked of their logits, and where its results lie. The engine
 * makes the batch and runs it. While a batch is under way nothing else touches its requests. Local. */
#ifndef LP_PATCH_STEP_BATCH_H
#define LP_PATCH_STEP_BATCH_H

#include "patch/request.h"

/* A row of the batch: which request, which of its rows. */
typedef struct {
    lp_request *request;
    int32_t request_row;
    int32_t first; /* of the request's rows in the unsorted lp_step_batch */
} lp_batch_row;

/* Where a captured vector goes. */
typedef struct {
    float *out;
    int32_t width;
    int64_t at; /* floats into the batch's captured */
} lp_batch_capture;

/* A batch on its way: what has to be known when its results arrive. Those are one block on the device, captured
 * vectors, logit stats and chosen tokens one after the other, and come back in one copy. */
typedef struct {
    int number;         /* of its fetch */
    lp_batch_row *rows; /* [n_rows] */
    int32_t *order;     /* [n_rows] unsorted rows by first layer */
    int32_t n_rows;
    int32_t *choosing; /* [n_tokens] rows of the batch that choose a token, in the order of their hidden states */
    int32_t n_tokens;
    lp_query_list queries; /* by choosing row */
    int32_t head_rows;     /* how many choosing rows a call of the output head takes */
    lp_batch_capture *captures;
    size_t capture_capacity;
    int32_t n_captures;
    size_t n_captured; /* floats */
    char *results;     /* dev */
    char *host_results;
    size_t capacity, host_capacity;
} lp_step_batch;

const lp_request_row *lp_batch_row_of(const lp_batch_row *row);
/* Lists of the batch's rows by what becomes of their hidden states, `lists` [3, max_rows]: hidden states of rows that
 * feed a step, the latents they become, hidden states of rows that choose. output [n_rows]: rows that have one. Returns
 * how many feed a step. */
int32_t lp_step_batch_list_outcomes(lp_step_batch *batch, const uint8_t *output, int32_t *lists, int32_t max_rows);
/* Asks the requests for their queries, and sets head_rows: equal parts of at most `most`. */
lp_status lp_step_batch_list_queries(lp_step_batch *batch, int32_t most, lp_error *err);
/* Is query k, if there is one, that of this row? */
bool lp_step_batch_queries_for(const lp_step_batch *batch, size_t k, const lp_batch_row *row);
/* Where the parts of the results begin, and their end: captured vectors are at 0. */
size_t lp_step_batch_stats_at(const lp_step_batch *batch);
size_t lp_step_batch_tokens_at(const lp_step_batch *batch);
size_t lp_step_batch_results_bytes(const lp_step_batch *batch);
/* Hands host_results out to captures and requests, which are free for the next batch then. */
void lp_step_batch_hand_out(lp_step_batch *batch);

#endif
