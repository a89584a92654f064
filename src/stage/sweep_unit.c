#include "stage/sweep_unit.h"

#include "base/log.h"
#include "base/memory.h"

#include <math.h>

void lp_sweep_unit_free(lp_sweep_unit *u) {
    if (!u) return;
    for (int d = 0; d < 2; d++) {
        for (size_t i = 0; i < u->n_distinct[d]; i++) {
            if (u->edits[d]) lp_edit_sequence_release(&u->edits[d][i]);
            if (u->vectors[d]) lp_mem_free(u->vectors[d][i]);
        }
        lp_mem_free(u->distinct[d]);
        lp_mem_free(u->condition[d]);
        lp_mem_free(u->runs[d]);
        lp_mem_free(u->edits[d]);
        lp_mem_free(u->vectors[d]);
        lp_mem_free(u->vector_capacity[d]);
        lp_mem_free(u->gathering[d]);
        lp_mem_free(u->unpatched[d]);
        lp_mem_free(u->steps[d]);
        lp_mem_free(u->step_vectors[d]);
        lp_mem_free(u->step_numbers[d]);
        lp_mem_free(u->step_captures[d]);
        lp_token_list_release(&u->prompts[d]);
        lp_pair_metrics_release(&u->metrics_of[d]);
    }
    lp_result_rows_release(&u->rows);
    lp_mem_free(u->ran);
    for (int side = 0; side < 2; side++) {
        lp_mem_free(u->lens_vectors[side]);
        lp_mem_free(u->lens_captures[side]);
    }
    lp_mem_free(u->lens_tokens);
    lp_mem_free(u->lens_log_probability);
    lp_mem_free(u);
}

static int recipient_of(int direction) {
    return direction == LP_DENOISE ? LP_CORRUPTED : LP_CLEAN;
}

/* Room for the lens; a direction that the sweep does not have gets one run, the unpatched one. */
static lp_status new_lens(const lp_sweep_context *context, lp_sweep_unit *u, lp_error *err) {
    const lp_lens_shape *shape = &context->lens;
    size_t n = (size_t)shape->n_positions * (size_t)shape->n_layers, top = (size_t)shape->top;
    size_t d = (size_t)context->session->model.config.d_model;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&u->lens_tokens, 2 * n * top, sizeof *u->lens_tokens, "logit lens", err));
    LP_TRY(lp_mem_new(&u->lens_log_probability, 2 * n * top, sizeof *u->lens_log_probability, "logit lens", err));
    for (size_t side = 0; side < 2; side++) {
        LP_TRY(lp_mem_new(&u->lens_vectors[side], n * d, sizeof(float), "logit lens", err));
        LP_TRY(lp_mem_new(&u->lens_captures[side], n + (size_t)context->session->job.protocol.n_steps,
                          sizeof(lp_capture), "logit lens", err));
        u->lens[side] = (lp_lens_wanted){.vectors = u->lens_vectors[side],
                                         .n = (int32_t)n,
                                         .top = shape->top,
                                         .tokens = u->lens_tokens + side * n * top,
                                         .log_probability = u->lens_log_probability + side * n * top};
    }
    for (int direction = 0; direction < 2; direction++) {
        if (context->used[direction]) continue;
        LP_TRY(lp_mem_new(&u->runs[direction], 1, sizeof *u->runs[direction], "runs", err));
        u->groups[direction].n_runs = 1;
    }
out:
    return status;
}

static lp_status new_steps(const lp_sweep_context *context, lp_sweep_unit *u, lp_error *err) {
    const lp_session *s = context->session;
    size_t t = (size_t)s->job.protocol.n_steps, width = (size_t)s->model.config.d_model;
    lp_status status = LP_OK;
    for (int d = 0; d < 2; d++) {
        size_t n = u->n_distinct[d];
        if (!context->used[d]) continue;
        LP_TRY(lp_mem_new(&u->steps[d], n, sizeof *u->steps[d], "thoughts", err));
        LP_TRY(lp_mem_new(&u->step_vectors[d], n * t * width, sizeof(float), "thoughts", err));
        LP_TRY(lp_mem_new(&u->step_numbers[d], n * t * LP_N_STEP_NUMBERS, sizeof(float), "thoughts", err));
        LP_TRY(lp_mem_new(&u->step_captures[d], n * t, sizeof *u->step_captures[d], "thoughts", err));
        for (size_t i = 0; i < n; i++)
            u->steps[d][i] = (lp_step_reading){.vectors = u->step_vectors[d] + i * t * width,
                                               .numbers = u->step_numbers[d] + i * t * LP_N_STEP_NUMBERS,
                                               .n_steps = (int32_t)t};
    }
out:
    return status;
}

lp_status lp_sweep_unit_new(const lp_sweep_context *context, lp_sweep_unit **out, lp_error *err) {
    const lp_sweep_plan *plan = context->plan;
    size_t c = plan->set.n;
    size_t a = (size_t)context->session->job.decode.max_new_tokens;
    lp_sweep_unit *u = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&u, 1, sizeof *u, "sweep unit", err));
    for (int d = 0; d < 2; d++) {
        if (!context->used[d]) continue;
        size_t n = 0;
        for (size_t i = 0; i < c; i++)
            n += plan->set.conditions[i].direction == (lp_direction)d && plan->same_as[i] == (int32_t)i;
        u->n_distinct[d] = n;
        LP_TRY(lp_mem_new(&u->distinct[d], n, sizeof *u->distinct[d], "runs", err));
        LP_TRY(lp_mem_new(&u->condition[d], n, sizeof *u->condition[d], "runs", err));
        LP_TRY(lp_mem_new(&u->runs[d], n, sizeof *u->runs[d], "runs", err));
        LP_TRY(lp_mem_new(&u->edits[d], n, sizeof *u->edits[d], "runs", err));
        LP_TRY(lp_mem_new(&u->vectors[d], n, sizeof *u->vectors[d], "runs", err));
        LP_TRY(lp_mem_new(&u->vector_capacity[d], n, sizeof *u->vector_capacity[d], "runs", err));
        LP_TRY(lp_mem_new(&u->gathering[d], context->donors[d].n_floats, sizeof(float), "donor vectors", err));
        LP_TRY(lp_mem_new(&u->unpatched[d], a, sizeof(int32_t), "answers", err));
        n = 0;
        for (size_t i = 0; i < c; i++) {
            if (plan->set.conditions[i].direction != (lp_direction)d || plan->same_as[i] != (int32_t)i) continue;
            u->distinct[d][n++] = (int32_t)i;
        }
    }
    if (context->n_metrics > context->n_answer_metrics) LP_TRY(new_steps(context, u, err));
    LP_TRY(lp_result_rows_init(&u->rows, 0, c, a, context->n_metrics, err));
    LP_TRY(lp_mem_new(&u->ran, c, 1, "rows", err));
    if (context->lens.top > 0) LP_TRY(new_lens(context, u, err));
    *out = u;
    return LP_OK;
out:
    lp_sweep_unit_free(u);
    return status;
}

static void warn_of_context(const lp_sweep_context *w, const lp_sweep_unit *u, int64_t pair, int d) {
    const lp_metric_position *metric_at = &u->metrics_of[d].position;
    for (int k = 0; k < 2 && metric_at->whole_answers; k++)
        if ((k == 0 ? metric_at->clean.n : metric_at->corrupted.n) > 0 && !lp_metric_position_forces(metric_at, k == 1))
            lp_log(LP_LOG_WARN,
                   "pair %s (%s): the whole %s answer does not fit the model's context: its log-probability is NaN",
                   w->session->pairs.pairs[pair].id, lp_direction_names()[d], k == 0 ? "clean" : "corrupted");
}

lp_status lp_sweep_unit_shape(const lp_sweep_context *w, int64_t pair, int d, lp_run_shape *out, lp_error *err) {
    const lp_session *s = w->session;
    const lp_store_layout *layout = w->plan->layout;
    int side = recipient_of(d);
    int32_t n_tokens = 0;
    uint8_t ended = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_record_file_read(w->store, pair, lp_store_layout_stored_field(layout, side, LP_STORED_ANSWER_LEN),
                               &n_tokens, err));
    LP_TRY(lp_record_file_read(w->store, pair, lp_store_layout_stored_field(layout, side, LP_STORED_ANSWER_ENDED),
                               &ended, err));
    /* The last token of an answer that was cut off is not fed back. */
    *out = (lp_run_shape){.config = &s->model.config,
                          .protocol = s->job.protocol,
                          .n_prompt = s->n_prompt[side][pair],
                          .n_answer = s->vocabulary.n_answer_start + n_tokens - (ended ? 0 : 1)};
out:
    return status;
}

static lp_status prepare_direction(lp_sweep_context *w, lp_sweep_unit *u, int64_t pair, int d, lp_error *err) {
    const lp_session *s = w->session;
    int side = recipient_of(d);
    lp_status status = LP_OK;
    LP_TRY(lp_session_prompt(s, pair, side, &u->prompts[d], err));
    lp_donor_table_gather(&w->donors[d], &w->own, u->gathering[d]);
    for (int32_t draw = 0; draw < w->donors[d].n_draws; draw++) {
        uint32_t other = lp_donor_table_other(&w->donors[d], draw, pair);
        if (other != LP_NO_PAIR) LP_TRY(lp_record_file_load(w->store, other, &w->other, err));
        lp_donor_table_gather_draw(&w->donors[d], draw, other == LP_NO_PAIR ? NULL : &w->other, u->gathering[d]);
    }
    lp_run_shape shape;
    LP_TRY(lp_sweep_unit_shape(w, pair, d, &shape, err));
    size_t i = 0;
    for (size_t k = 0; k < u->n_distinct[d]; k++) {
        lp_edit_sequence *edits = &u->edits[d][i];
        size_t condition = (size_t)u->distinct[d][k];
        LP_TRY(lp_condition_effective(&w->plan->set, condition, &shape, edits, err));
        if (edits->absent) continue;
        LP_TRY(lp_mem_grow(&u->vectors[d][i], &u->vector_capacity[d][i], edits->n + 1, sizeof(float *), "donor vectors",
                           err));
        bool complete = true;
        for (size_t e = 0; e < edits->n; e++) {
            const lp_replacement *what = &edits->edits[e].what;
            u->vectors[d][i][e] = lp_donor_table_vector(&w->donors[d], what, u->gathering[d]);
            complete &= lp_donor_has(u->vectors[d][i][e]);
        }
        if (!complete) continue;
        u->condition[d][i] = (int32_t)condition;
        u->runs[d][i] = (lp_run_wanted){.edits = edits->edits,
                                        .vectors = u->vectors[d][i],
                                        .n_edits = edits->n,
                                        .n_steps = w->plan->set.conditions[condition].n_steps_run};
        if (u->steps[d]) {
            lp_capture *captures = u->step_captures[d] + i * (size_t)u->steps[d][i].n_steps;
            lp_step_captures(&s->model.config, &u->steps[d][i], captures);
            u->runs[d][i].steps = &u->steps[d][i];
            u->runs[d][i].captures = captures;
            u->runs[d][i].n_captures = u->steps[d][i].n_steps;
        }
        i++;
    }
    u->groups[d].n_runs = i;
    u->groups[d].prompt = u->prompts[d].ids;
    u->groups[d].n_prompt = (int32_t)u->prompts[d].n;
    u->groups[d].runs = u->runs[d];
    u->groups[d].subspaces = w->donors[d].subspaces;
    u->groups[d].metric_at = NULL;
    if (w->n_answer_metrics > 0) {
        const int32_t *tokens =
            lp_pair_record_field(&w->own, lp_store_layout_stored_field(w->plan->layout, side, LP_STORED_ANSWER_TOKENS));
        const int32_t *n =
            lp_pair_record_field(&w->own, lp_store_layout_stored_field(w->plan->layout, side, LP_STORED_ANSWER_LEN));
        int32_t taken = u->groups[d].n_prompt + s->job.protocol.n_steps + s->vocabulary.n_answer_start - 1;
        lp_pair_metrics_options options = {.tokenizer = s->tokenizer,
                                           .eos = s->vocabulary.eos,
                                           .clean_answer = lp_session_side(s, pair, LP_CLEAN)->answer,
                                           .corrupted_answer = lp_session_side(s, pair, LP_CORRUPTED)->answer,
                                           .whole_answers = s->job.metrics.answer_logprob,
                                           .room = lp_session_max_positions(s) - taken};
        LP_TRY(lp_pair_metrics_make(&options, tokens, *n, &u->metrics_of[d], err));
        if (u->metrics_of[d].usable) {
            u->groups[d].metric_at = &u->metrics_of[d].position;
            warn_of_context(w, u, pair, d);
        }
    }
out:
    return status;
}

/* The unpatched run of the direction, the first of its group, gets the lens. */
static lp_status prepare_lens(lp_sweep_context *w, lp_sweep_unit *u, int64_t pair, int d, lp_error *err) {
    const lp_session *s = w->session;
    int side = recipient_of(d);
    int32_t n_steps = s->job.protocol.n_steps;
    if (!w->used[d]) {
        lp_status status = lp_session_prompt(s, pair, side, &u->prompts[d], err);
        if (status != LP_OK) return status;
        u->runs[d][0] = (lp_run_wanted){.n_steps = n_steps};
        u->groups[d] = (lp_run_group){
            .prompt = u->prompts[d].ids, .n_prompt = (int32_t)u->prompts[d].n, .runs = u->runs[d], .n_runs = 1};
    }
    lp_run_wanted *unpatched = &u->runs[d][0];
    LP_ASSERT(unpatched->n_edits == 0 && unpatched->n_steps == n_steps);
    lp_lens_captures(&s->model.config, u->groups[d].n_prompt, n_steps, u->lens_vectors[side], u->lens_captures[side]);
    unpatched->captures = u->lens_captures[side];
    unpatched->n_captures = u->lens[side].n;
    if (unpatched->steps) {
        lp_step_captures(&s->model.config, unpatched->steps, u->lens_captures[side] + u->lens[side].n);
        unpatched->n_captures += n_steps;
    }
    unpatched->lens = &u->lens[side];
    return LP_OK;
}

lp_status lp_sweep_unit_prepare(lp_sweep_context *w, lp_sweep_unit *u, int64_t pair, lp_error *err) {
    size_t n = 0, first = w->used[0] || w->lens.top > 0 ? 0 : 1;
    lp_status status = LP_OK;
    memset(u->ran, 0, w->plan->set.n);
    LP_TRY(lp_record_file_load(w->store, pair, &w->own, err));
    for (int d = 0; d < 2; d++) {
        if (w->used[d]) LP_TRY(prepare_direction(w, u, pair, d, err));
        if (w->lens.top > 0) LP_TRY(prepare_lens(w, u, pair, d, err));
        n += w->used[d] || w->lens.top > 0;
    }
    u->unit = (lp_work_unit){.id = pair, .groups = u->groups + first, .n_groups = n, .user = u};
out:
    return status;
}

/* Adds a row of the result; all but `changed`, for which the unpatched run's answer may still be missing. */
static lp_status add_row(lp_sweep_context *w, lp_sweep_unit *u, int32_t condition, const lp_run_result *result,
                         lp_error *err) {
    const lp_session *s = w->session;
    const lp_pair *pair = &s->pairs.pairs[u->unit.id];
    lp_text text = {0};
    lp_status status =
        lp_tokenizer_decode(s->tokenizer, result->tokens, (size_t)result->n_tokens, LP_DECODE_ANSWER, &text, err);
    if (status == LP_OK) {
        lp_answer_outcome found =
            lp_classify(s->job.classifier, lp_text_get(&text), text.length, pair->clean.answer, pair->corrupted.answer);
        size_t at = lp_result_rows_add(&u->rows, condition);
#define ROW(column_of, type) ((type *)u->rows.column[column_of] + at)
        *ROW(LP_ROW_OUTCOME, uint8_t) = (uint8_t)found.outcome;
        *ROW(LP_ROW_NUMBER, double) = found.has_number ? found.number : NAN;
        *ROW(LP_ROW_ANSWER_LEN, int32_t) = result->n_tokens;
        if (result->n_tokens > 0)
            memcpy((int32_t *)u->rows.column[LP_ROW_ANSWER_TOKENS] + at * u->rows.max_new_tokens, result->tokens,
                   (size_t)result->n_tokens * sizeof(int32_t));
        for (size_t m = 0; m < w->n_answer_metrics; m++) *ROW(LP_N_ROW_COLUMNS + m, float) = result->metrics[m];
#undef ROW
    }
    lp_text_release(&text);
    return status;
}

static lp_status write_when_full(lp_sweep_context *w, lp_sweep_unit *u, lp_error *err) {
    if (u->rows.n < u->rows.capacity) return LP_OK;
    return lp_results_partial_put(w->partial, u->unit.id, &u->rows, err);
}

lp_status lp_sweep_unit_take(lp_sweep_context *w, lp_sweep_unit *u, size_t group, size_t run,
                             const lp_run_result *result, lp_error *err) {
    size_t d = (size_t)(u->unit.groups + group - u->groups);
    lp_status status = LP_OK;
    if (!w->used[d]) return LP_OK; /* there for the lens */
    if (run == 0) {
        u->n_unpatched[d] = result->n_tokens;
        if (result->n_tokens > 0)
            memcpy(u->unpatched[d], result->tokens, (size_t)result->n_tokens * sizeof *u->unpatched[d]);
    }
    for (int32_t c = u->condition[d][run]; c >= 0; c = w->next_same[c]) {
        LP_TRY(write_when_full(w, u, err));
        LP_TRY(add_row(w, u, c, result, err));
        uint8_t outcome = ((uint8_t *)u->rows.column[LP_ROW_OUTCOME])[u->rows.n - 1];
        w->counts[(size_t)c * LP_N_OUTCOMES + outcome]++;
        u->ran[c] = 1;
    }
out:
    return status;
}

/* The answers of rows [first, first + n) are in `lengths` and `tokens`: which differ from the unpatched run's? */
static void find_changed(const lp_sweep_context *w, lp_sweep_unit *u, size_t first, size_t n, const int32_t *lengths,
                         const int32_t *tokens) {
    size_t a = u->rows.max_new_tokens;
    for (size_t i = 0; i < n; i++) {
        int d = (int)w->plan->set.conditions[first + i].direction;
        size_t bytes = (size_t)u->n_unpatched[d] * sizeof *tokens;
        if (u->ran[first + i])
            u->ran[first + i] =
                lengths[i] != u->n_unpatched[d] || (bytes > 0 && memcmp(tokens + i * a, u->unpatched[d], bytes) != 0);
    }
}

/* An answer that is as long as the unpatched run's ends as that does: by a stop token where it is short. */
static lp_status write_changed(lp_sweep_context *w, lp_sweep_unit *u, lp_error *err) {
    size_t c = w->plan->set.n, at_once = u->rows.capacity;
    int32_t *lengths = u->rows.column[LP_ROW_ANSWER_LEN], *tokens = u->rows.column[LP_ROW_ANSWER_TOKENS];
    int64_t pair = u->unit.id;
    lp_status status = LP_OK;
    for (size_t first = 0; first < c; first += at_once) {
        size_t n = c - first < at_once ? c - first : at_once;
        LP_TRY(lp_record_file_read_part(w->partial, pair, LP_ROW_ANSWER_LEN, (int64_t)first, (int64_t)n, lengths, err));
        LP_TRY(
            lp_record_file_read_part(w->partial, pair, LP_ROW_ANSWER_TOKENS, (int64_t)first, (int64_t)n, tokens, err));
        find_changed(w, u, first, n, lengths, tokens);
    }
    status = lp_record_file_write_part(w->partial, pair, LP_ROW_CHANGED, 0, (int64_t)c, u->ran, err);
out:
    return status;
}

/* The numbers of the steps come when all runs of the pair are there. */
static lp_status write_steps(lp_sweep_context *w, lp_sweep_unit *u, lp_error *err) {
    size_t n = w->plan->set.n;
    float *column = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&column, n, sizeof *column, "thoughts", err));
    for (size_t m = w->n_answer_metrics; m < w->n_metrics; m++) {
        for (size_t c = 0; c < n; c++) column[c] = NAN;
        for (int d = 0; d < 2; d++)
            for (size_t run = 0; u->steps[d] && run < u->groups[d].n_runs; run++)
                for (int32_t c = u->condition[d][run]; c >= 0; c = w->next_same[c])
                    column[c] = u->steps[d][run].numbers[m - w->n_answer_metrics];
        LP_TRY(lp_record_file_write_part(w->partial, u->unit.id, LP_N_ROW_COLUMNS + m, 0, (int64_t)n, column, err));
    }
out:
    lp_mem_free(column);
    return status;
}

lp_status lp_sweep_unit_end(lp_sweep_context *w, lp_sweep_unit *u, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t c = 0; c < w->plan->set.n; c++) {
        if (u->ran[c]) continue;
        LP_TRY(write_when_full(w, u, err));
        lp_result_rows_add(&u->rows, (int32_t)c);
    }
    LP_TRY(lp_results_partial_put(w->partial, u->unit.id, &u->rows, err));
    LP_TRY(write_changed(w, u, err));
    LP_TRY(write_steps(w, u, err));
    status = lp_results_partial_end(w->partial, u->unit.id, u->lens_tokens, u->lens_log_probability, err);
out:
    u->rows.n = 0;
    return status;
}
