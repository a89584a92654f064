#include "patch/step_batch.h"

const lp_request_row *lp_batch_row_of(const lp_batch_row *row) {
    return &row->request->rows[row->request_row];
}

int32_t lp_step_batch_list_outcomes(lp_step_batch *batch, const uint8_t *output, int32_t *lists, int32_t max_rows) {
    int32_t *step_from = lists, *step_to = lists + max_rows, *token_from = lists + 2 * max_rows;
    int32_t n_steps = 0;
    batch->n_tokens = 0;
    /* What others' divergences are taken from comes first. */
    for (int first = 1; first >= 0; first--)
        for (int32_t at = 0, hidden = 0; at < batch->n_rows; at++) {
            const lp_batch_row *batch_row = &batch->rows[batch->order[at]];
            const lp_request_row *row = lp_batch_row_of(batch_row);
            if (!output[at]) continue;
            if (row->feeds_step && first) {
                step_from[n_steps] = hidden;
                step_to[n_steps++] = row->next_latent;
            }
            if (row->chooses && lp_request_queries_unpatched(batch_row->request, row->branch) == (first == 1)) {
                token_from[batch->n_tokens] = hidden;
                batch->choosing[batch->n_tokens++] = at;
            }
            hidden++;
        }
    return n_steps;
}

bool lp_step_batch_queries_for(const lp_step_batch *batch, size_t k, const lp_batch_row *row) {
    return k < batch->queries.n && !batch->queries.owners[k].is_late &&
           batch->queries.owners[k].request == row->request &&
           batch->queries.owners[k].branch == lp_batch_row_of(row)->branch;
}

lp_status lp_step_batch_list_queries(lp_step_batch *batch, int32_t most, lp_error *err) {
    lp_status status = LP_OK;
    batch->queries.n = 0;
    batch->head_rows = batch->n_tokens > 0 ? lp_equal_part(batch->n_tokens, most) : most;
    for (int32_t i = 0; i < batch->n_tokens && status == LP_OK; i++) {
        const lp_batch_row *row = &batch->rows[batch->order[batch->choosing[i]]];
        status = lp_request_add_queries(row->request, lp_batch_row_of(row)->branch, i % batch->head_rows,
                                        &batch->queries, err);
    }
    return status;
}

size_t lp_step_batch_stats_at(const lp_step_batch *batch) {
    return (batch->n_captured * sizeof(float) + 15) / 16 * 16;
}

size_t lp_step_batch_tokens_at(const lp_step_batch *batch) {
    return lp_step_batch_stats_at(batch) + batch->queries.n * sizeof(lp_logit_stats);
}

size_t lp_step_batch_results_bytes(const lp_step_batch *batch) {
    return lp_step_batch_tokens_at(batch) + (size_t)batch->n_tokens * sizeof(int32_t);
}

void lp_step_batch_hand_out(lp_step_batch *batch) {
    for (int32_t i = 0; i < batch->n_captures; i++)
        memcpy(batch->captures[i].out, batch->host_results + (size_t)batch->captures[i].at * sizeof(float),
               (size_t)batch->captures[i].width * sizeof(float));
    const lp_logit_stats *stats = (const lp_logit_stats *)(void *)(batch->host_results + lp_step_batch_stats_at(batch));
    const int32_t *best = (const int32_t *)(void *)(batch->host_results + lp_step_batch_tokens_at(batch));
    size_t at_query = 0;
    for (int32_t i = 0; i < batch->n_tokens; i++) {
        const lp_batch_row *row = &batch->rows[batch->order[batch->choosing[i]]];
        bool has_stats = lp_step_batch_queries_for(batch, at_query, row);
        lp_request_accept_token(row->request, lp_batch_row_of(row)->branch, best[i],
                                has_stats ? &stats[at_query] : NULL);
        at_query += has_stats;
        for (; at_query < batch->queries.n && batch->queries.owners[at_query].is_late; at_query++)
            lp_request_accept_late(batch->queries.owners[at_query].request, batch->queries.owners[at_query].branch,
                                   &stats[at_query]);
    }
    for (int32_t i = 0; i < batch->n_rows; i++)
        if (batch->rows[i].request->in_batch) lp_request_end_step(batch->rows[i].request);
}
