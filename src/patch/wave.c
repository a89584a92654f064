#include "patch/wave.h"

const lp_request_row *lp_wave_row_of(const lp_wave_row *w) {
    return &w->request->rows[w->request_row];
}

int32_t lp_wave_list_outcomes(lp_wave *w, const uint8_t *output, int32_t *lists, int32_t max_rows) {
    int32_t *step_from = lists, *step_to = lists + max_rows, *token_from = lists + 2 * max_rows;
    int32_t n_steps = 0;
    w->n_tokens = 0;
    /* What others' divergences are taken from comes first. */
    for (int first = 1; first >= 0; first--)
        for (int32_t at = 0, hidden = 0; at < w->n_rows; at++) {
            const lp_wave_row *r = &w->rows[w->order[at]];
            const lp_request_row *row = lp_wave_row_of(r);
            if (!output[at]) continue;
            if (row->feeds_step && first) {
                step_from[n_steps] = hidden;
                step_to[n_steps++] = r->request->branches[row->branch].latent;
            }
            if (row->chooses && lp_request_reads_unpatched(r->request, row->branch) == (first == 1)) {
                token_from[w->n_tokens] = hidden;
                w->choosing[w->n_tokens++] = at;
            }
            hidden++;
        }
    return n_steps;
}

bool lp_wave_reads_for(const lp_wave *w, size_t k, const lp_wave_row *r) {
    return k < w->reads.n && !w->reads.readers[k].is_late && w->reads.readers[k].request == r->request &&
           w->reads.readers[k].branch == lp_wave_row_of(r)->branch;
}

lp_status lp_wave_list_reads(lp_wave *w, int32_t most, lp_error *err) {
    lp_status status = LP_OK;
    w->reads.n = 0;
    w->head_rows = w->n_tokens > 0 ? lp_equal_part(w->n_tokens, most) : most;
    for (int32_t i = 0; i < w->n_tokens && status == LP_OK; i++) {
        const lp_wave_row *r = &w->rows[w->order[w->choosing[i]]];
        status = lp_request_add_reads(r->request, lp_wave_row_of(r)->branch, i % w->head_rows, &w->reads, err);
    }
    return status;
}

size_t lp_wave_readings_at(const lp_wave *w) {
    return (w->n_captured * sizeof(float) + 15) / 16 * 16;
}

size_t lp_wave_tokens_at(const lp_wave *w) {
    return lp_wave_readings_at(w) + w->reads.n * sizeof(lp_logit_reading);
}

size_t lp_wave_results_bytes(const lp_wave *w) {
    return lp_wave_tokens_at(w) + (size_t)w->n_tokens * sizeof(int32_t);
}

void lp_wave_hand_out(lp_wave *w) {
    for (int32_t i = 0; i < w->n_captures; i++)
        memcpy(w->captures[i].out, w->host_results + (size_t)w->captures[i].at * sizeof(float),
               (size_t)w->captures[i].width * sizeof(float));
    const lp_logit_reading *readings = (const lp_logit_reading *)(void *)(w->host_results + lp_wave_readings_at(w));
    const int32_t *best = (const int32_t *)(void *)(w->host_results + lp_wave_tokens_at(w));
    size_t read = 0;
    for (int32_t i = 0; i < w->n_tokens; i++) {
        const lp_wave_row *r = &w->rows[w->order[w->choosing[i]]];
        bool has_reading = lp_wave_reads_for(w, read, r);
        lp_request_take_token(r->request, lp_wave_row_of(r)->branch, best[i], has_reading ? &readings[read] : NULL);
        read += has_reading;
        for (; read < w->reads.n && w->reads.readers[read].is_late; read++)
            lp_request_take_late(w->reads.readers[read].request, w->reads.readers[read].branch, &readings[read]);
    }
    for (int32_t i = 0; i < w->n_rows; i++) w->rows[i].request->in_wave = false;
}
