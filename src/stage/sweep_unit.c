#include "stage/sweep_unit.h"

#include "base/log.h"
#include "base/memory.h"

#include <math.h>

void lp_sweep_unit_free(lp_sweep_unit *unit) {
    if (!unit) return;
    for (int d = 0; d < 2; d++) {
        for (size_t i = 0; i < unit->n_distinct[d]; i++) {
            if (unit->edits[d]) lp_edit_sequence_release(&unit->edits[d][i]);
            if (unit->vectors[d]) lp_mem_free(unit->vectors[d][i]);
        }
        lp_mem_free(unit->distinct[d]);
        lp_mem_free(unit->condition[d]);
        lp_mem_free(unit->runs[d]);
        lp_mem_free(unit->edits[d]);
        lp_mem_free(unit->vectors[d]);
        lp_mem_free(unit->vector_capacity[d]);
        lp_mem_free(unit->gathering[d]);
        lp_mem_free(unit->unpatched[d]);
        lp_mem_free(unit->steps[d]);
        lp_mem_free(unit->step_vectors[d]);
        lp_mem_free(unit->step_numbers[d]);
        lp_mem_free(unit->step_captures[d]);
        lp_token_list_release(&unit->prompts[d]);
        lp_pair_metrics_release(&unit->metrics_of[d]);
    }
    lp_result_rows_release(&unit->rows);
    lp_mem_free(unit->ran);
    for (int side = 0; side < 2; side++) {
        lp_mem_free(unit->lens_vectors[side]);
        lp_mem_free(unit->lens_captures[side]);
    }
    lp_mem_free(unit->lens_tokens);
    lp_mem_free(unit->lens_log_probability);
    lp_mem_free(unit);
}

static int recipient_of(int direction) {
    return direction == LP_DENOISE ? LP_CORRUPTED : LP_CLEAN;
}

/* Room for the lens; a direction that the sweep does not have gets one run, the unpatched one. */
static lp_status new_lens(const lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err) {
    const lp_lens_shape *shape = &context->lens;
    size_t n = (size_t)shape->n_positions * (size_t)shape->n_layers, top = (size_t)shape->top;
    size_t d = (size_t)context->session->model.config.d_model;
    LP_CHECK(lp_mem_new(&unit->lens_tokens, 2 * n * top, sizeof *unit->lens_tokens, "logit lens", err));
    LP_CHECK(
        lp_mem_new(&unit->lens_log_probability, 2 * n * top, sizeof *unit->lens_log_probability, "logit lens", err));
    for (size_t side = 0; side < 2; side++) {
        LP_CHECK(lp_mem_new(&unit->lens_vectors[side], n * d, sizeof(float), "logit lens", err));
        LP_CHECK(lp_mem_new(&unit->lens_captures[side], n + (size_t)context->session->job.protocol.n_steps,
                            sizeof(lp_capture), "logit lens", err));
        unit->lens[side] = (lp_lens_wanted){.vectors = unit->lens_vectors[side],
                                            .n = (int32_t)n,
                                            .top = shape->top,
                                            .tokens = unit->lens_tokens + side * n * top,
                                            .log_probability = unit->lens_log_probability + side * n * top};
    }
    for (int direction = 0; direction < 2; direction++) {
        if (context->plan->used[direction]) continue;
        LP_CHECK(lp_mem_new(&unit->runs[direction], 1, sizeof *unit->runs[direction], "runs", err));
        unit->groups[direction].n_runs = 1;
    }
    return LP_OK;
}

static lp_status new_steps(const lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err) {
    const lp_session *session = context->session;
    size_t t = (size_t)session->job.protocol.n_steps, width = (size_t)session->model.config.d_model;
    for (int d = 0; d < 2; d++) {
        size_t n = unit->n_distinct[d];
        if (!context->plan->used[d]) continue;
        LP_CHECK(lp_mem_new(&unit->steps[d], n, sizeof *unit->steps[d], "thoughts", err));
        LP_CHECK(lp_mem_new(&unit->step_vectors[d], n * t * width, sizeof(float), "thoughts", err));
        LP_CHECK(lp_mem_new(&unit->step_numbers[d], n * t * LP_N_STEP_NUMBERS, sizeof(float), "thoughts", err));
        LP_CHECK(lp_mem_new(&unit->step_captures[d], n * t, sizeof *unit->step_captures[d], "thoughts", err));
        for (size_t i = 0; i < n; i++)
            unit->steps[d][i] = (lp_step_reading){.vectors = unit->step_vectors[d] + i * t * width,
                                                  .numbers = unit->step_numbers[d] + i * t * LP_N_STEP_NUMBERS,
                                                  .n_steps = (int32_t)t};
    }
    return LP_OK;
}

lp_status lp_sweep_unit_new(const lp_sweep_context *context, lp_sweep_unit **out, lp_error *err) {
    const lp_sweep_plan *plan = context->plan;
    size_t c = plan->set->n;
    size_t a = (size_t)context->session->job.decode.max_new_tokens;
    lp_sweep_unit *unit = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&unit, 1, sizeof *unit, "sweep unit", err));
    for (int d = 0; d < 2; d++) {
        if (!context->plan->used[d]) continue;
        size_t n = 0;
        for (size_t i = 0; i < c; i++)
            n += plan->set->conditions[i].direction == (lp_direction)d && plan->same_as[i] == (int32_t)i;
        unit->n_distinct[d] = n;
        LP_TRY(lp_mem_new(&unit->distinct[d], n, sizeof *unit->distinct[d], "runs", err));
        LP_TRY(lp_mem_new(&unit->condition[d], n, sizeof *unit->condition[d], "runs", err));
        LP_TRY(lp_mem_new(&unit->runs[d], n, sizeof *unit->runs[d], "runs", err));
        LP_TRY(lp_mem_new(&unit->edits[d], n, sizeof *unit->edits[d], "runs", err));
        LP_TRY(lp_mem_new(&unit->vectors[d], n, sizeof *unit->vectors[d], "runs", err));
        LP_TRY(lp_mem_new(&unit->vector_capacity[d], n, sizeof *unit->vector_capacity[d], "runs", err));
        LP_TRY(lp_mem_new(&unit->gathering[d], context->plan->donors[d].n_floats, sizeof(float), "donor vectors", err));
        LP_TRY(lp_mem_new(&unit->unpatched[d], a, sizeof(int32_t), "answers", err));
        n = 0;
        for (size_t i = 0; i < c; i++) {
            if (plan->set->conditions[i].direction != (lp_direction)d || plan->same_as[i] != (int32_t)i) continue;
            unit->distinct[d][n++] = (int32_t)i;
        }
    }
    if (context->n_metrics > context->n_answer_metrics) LP_TRY(new_steps(context, unit, err));
    LP_TRY(lp_result_rows_init(&unit->rows, 0, c, a, context->n_metrics, err));
    LP_TRY(lp_mem_new(&unit->ran, c, 1, "rows", err));
    if (context->lens.top > 0) LP_TRY(new_lens(context, unit, err));
    *out = unit;
    return LP_OK;
out:
    lp_sweep_unit_free(unit);
    return status;
}

static void warn_of_context(const lp_sweep_context *context, const lp_sweep_unit *unit, int64_t pair, int d) {
    const lp_metric_position *metric_at = &unit->metrics_of[d].position;
    for (int k = 0; k < 2 && metric_at->whole_answers; k++)
        if ((k == 0 ? metric_at->clean.n : metric_at->corrupted.n) > 0 && !lp_metric_position_forces(metric_at, k == 1))
            lp_log(LP_LOG_WARN,
                   "pair %s (%s): the whole %s answer does not fit the model's context: its log-probability is NaN",
                   context->session->pairs.pairs[pair].id, lp_direction_names()[d], k == 0 ? "clean" : "corrupted");
}

lp_status lp_sweep_unit_shape(const lp_sweep_context *context, int64_t pair, int d, lp_run_shape *out, lp_error *err) {
    const lp_session *session = context->session;
    const lp_store_layout *layout = context->plan->layout;
    int side = recipient_of(d);
    int32_t n_tokens = 0;
    uint8_t ended = 0;
    LP_CHECK(lp_record_file_read(context->store, pair, lp_store_layout_stored_field(layout, side, LP_STORED_ANSWER_LEN),
                                 &n_tokens, err));
    LP_CHECK(lp_record_file_read(context->store, pair,
                                 lp_store_layout_stored_field(layout, side, LP_STORED_ANSWER_ENDED), &ended, err));
    /* The last token of an answer that was cut off is not fed back. */
    *out = (lp_run_shape){.config = &session->model.config,
                          .protocol = session->job.protocol,
                          .n_prompt = session->n_prompt[side][pair],
                          .n_answer = session->vocabulary.n_answer_start + n_tokens - (ended ? 0 : 1)};
    return LP_OK;
}

static lp_status prepare_direction(lp_sweep_context *context, lp_sweep_unit *unit, int64_t pair, int d, lp_error *err) {
    const lp_session *session = context->session;
    int side = recipient_of(d);
    LP_CHECK(lp_session_prompt(session, pair, side, &unit->prompts[d], err));
    lp_donor_table_gather(&context->plan->donors[d], &context->own, unit->gathering[d]);
    for (int32_t draw = 0; draw < context->plan->donors[d].n_draws; draw++) {
        uint32_t other = lp_donor_table_other(&context->plan->donors[d], draw, pair);
        if (other != LP_NO_PAIR) LP_CHECK(lp_record_file_load(context->store, other, &context->other, err));
        lp_donor_table_gather_draw(&context->plan->donors[d], draw, other == LP_NO_PAIR ? NULL : &context->other,
                                   unit->gathering[d]);
    }
    lp_run_shape shape;
    LP_CHECK(lp_sweep_unit_shape(context, pair, d, &shape, err));
    size_t i = 0;
    for (size_t k = 0; k < unit->n_distinct[d]; k++) {
        lp_edit_sequence *edits = &unit->edits[d][i];
        size_t condition = (size_t)unit->distinct[d][k];
        LP_CHECK(lp_condition_effective(context->plan->set, condition, &shape, edits, err));
        if (edits->absent) continue;
        LP_CHECK(lp_mem_grow(&unit->vectors[d][i], &unit->vector_capacity[d][i], edits->n + 1, sizeof(float *),
                             "donor vectors", err));
        bool complete = true;
        for (size_t e = 0; e < edits->n; e++) {
            const lp_replacement *what = &edits->edits[e].what;
            unit->vectors[d][i][e] = lp_donor_table_vector(&context->plan->donors[d], what, unit->gathering[d]);
            complete &= lp_donor_has(unit->vectors[d][i][e]);
        }
        if (!complete) continue;
        unit->condition[d][i] = (int32_t)condition;
        unit->runs[d][i] = (lp_run_wanted){.edits = edits->edits,
                                           .vectors = unit->vectors[d][i],
                                           .n_edits = edits->n,
                                           .n_steps = context->plan->set->conditions[condition].n_steps_run};
        if (unit->steps[d]) {
            lp_capture *captures = unit->step_captures[d] + i * (size_t)unit->steps[d][i].n_steps;
            lp_step_captures(&session->model.config, &unit->steps[d][i], captures);
            unit->runs[d][i].steps = &unit->steps[d][i];
            unit->runs[d][i].captures = captures;
            unit->runs[d][i].n_captures = unit->steps[d][i].n_steps;
        }
        i++;
    }
    unit->groups[d].n_runs = i;
    unit->groups[d].prompt = unit->prompts[d].ids;
    unit->groups[d].n_prompt = (int32_t)unit->prompts[d].n;
    unit->groups[d].runs = unit->runs[d];
    unit->groups[d].subspaces = context->plan->donors[d].subspaces;
    unit->groups[d].token_edits = context->plan->tokens.edits;
    unit->groups[d].metric_at = NULL;
    if (context->n_answer_metrics > 0) {
        const int32_t *tokens = lp_pair_record_field(
            &context->own, lp_store_layout_stored_field(context->plan->layout, side, LP_STORED_ANSWER_TOKENS));
        const int32_t *n = lp_pair_record_field(
            &context->own, lp_store_layout_stored_field(context->plan->layout, side, LP_STORED_ANSWER_LEN));
        int32_t taken =
            unit->groups[d].n_prompt + session->job.protocol.n_steps + session->vocabulary.n_answer_start - 1;
        lp_pair_metrics_options options = {.tokenizer = session->tokenizer,
                                           .eos = session->vocabulary.eos,
                                           .clean_answer = lp_session_side(session, pair, LP_CLEAN)->answer,
                                           .corrupted_answer = lp_session_side(session, pair, LP_CORRUPTED)->answer,
                                           .whole_answers = session->job.metrics.answer_logprob,
                                           .room = lp_session_max_positions(session) - taken};
        LP_CHECK(lp_pair_metrics_make(&options, tokens, *n, &unit->metrics_of[d], err));
        if (unit->metrics_of[d].usable) {
            unit->groups[d].metric_at = &unit->metrics_of[d].position;
            warn_of_context(context, unit, pair, d);
        }
    }
    return LP_OK;
}

/* The unpatched run of the direction, the first of its group, gets the lens. */
static lp_status prepare_lens(lp_sweep_context *context, lp_sweep_unit *unit, int64_t pair, int d, lp_error *err) {
    const lp_session *session = context->session;
    int side = recipient_of(d);
    int32_t n_steps = session->job.protocol.n_steps;
    if (!context->plan->used[d]) {
        LP_CHECK(lp_session_prompt(session, pair, side, &unit->prompts[d], err));
        unit->runs[d][0] = (lp_run_wanted){.n_steps = n_steps};
        unit->groups[d] = (lp_run_group){.prompt = unit->prompts[d].ids,
                                         .n_prompt = (int32_t)unit->prompts[d].n,
                                         .runs = unit->runs[d],
                                         .n_runs = 1};
    }
    lp_run_wanted *unpatched = &unit->runs[d][0];
    LP_ASSERT(unpatched->n_edits == 0 && unpatched->n_steps == n_steps);
    lp_lens_captures(&session->model.config, unit->groups[d].n_prompt, n_steps, unit->lens_vectors[side],
                     unit->lens_captures[side]);
    unpatched->captures = unit->lens_captures[side];
    unpatched->n_captures = unit->lens[side].n;
    if (unpatched->steps) {
        lp_step_captures(&session->model.config, unpatched->steps, unit->lens_captures[side] + unit->lens[side].n);
        unpatched->n_captures += n_steps;
    }
    unpatched->lens = &unit->lens[side];
    return LP_OK;
}

lp_status lp_sweep_unit_prepare(lp_sweep_context *context, lp_sweep_unit *unit, int64_t pair, lp_error *err) {
    size_t n = 0, first = context->plan->used[0] || context->lens.top > 0 ? 0 : 1;
    memset(unit->ran, 0, context->plan->set->n);
    LP_CHECK(lp_record_file_load(context->store, pair, &context->own, err));
    for (int d = 0; d < 2; d++) {
        if (context->plan->used[d]) LP_CHECK(prepare_direction(context, unit, pair, d, err));
        if (context->lens.top > 0) LP_CHECK(prepare_lens(context, unit, pair, d, err));
        n += context->plan->used[d] || context->lens.top > 0;
    }
    unit->unit = (lp_work_unit){.id = pair, .groups = unit->groups + first, .n_groups = n, .user = unit};
    return LP_OK;
}

/* Adds a row of the result; all but `changed`, for which the unpatched run's answer may still be missing. */
static lp_status add_row(lp_sweep_context *context, lp_sweep_unit *unit, int32_t condition, const lp_run_result *result,
                         lp_error *err) {
    const lp_session *session = context->session;
    const lp_pair *pair = &session->pairs.pairs[unit->unit.id];
    lp_text text = {0};
    lp_status status =
        lp_tokenizer_decode(session->tokenizer, result->tokens, (size_t)result->n_tokens, LP_DECODE_ANSWER, &text, err);
    if (status == LP_OK) {
        lp_answer_outcome found = lp_classify(session->job.classifier, lp_text_get(&text), text.length,
                                              pair->clean.answer, pair->corrupted.answer);
        size_t at = lp_result_rows_add(&unit->rows, condition);
#define ROW(column_of, type) ((type *)unit->rows.column[column_of] + at)
        *ROW(LP_ROW_OUTCOME, uint8_t) = (uint8_t)found.outcome;
        *ROW(LP_ROW_NUMBER, double) = found.has_number ? found.number : NAN;
        *ROW(LP_ROW_ANSWER_LEN, int32_t) = result->n_tokens;
        if (result->n_tokens > 0)
            memcpy((int32_t *)unit->rows.column[LP_ROW_ANSWER_TOKENS] + at * unit->rows.max_new_tokens, result->tokens,
                   (size_t)result->n_tokens * sizeof(int32_t));
        for (size_t m = 0; m < context->n_answer_metrics; m++) *ROW(LP_N_ROW_COLUMNS + m, float) = result->metrics[m];
#undef ROW
    }
    lp_text_release(&text);
    return status;
}

static lp_status write_when_full(lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err) {
    if (unit->rows.n < unit->rows.capacity) return LP_OK;
    return lp_results_partial_put(context->partial, unit->unit.id, &unit->rows, err);
}

lp_status lp_sweep_unit_take(lp_sweep_context *context, lp_sweep_unit *unit, size_t group, size_t run,
                             const lp_run_result *result, lp_error *err) {
    size_t d = (size_t)(unit->unit.groups + group - unit->groups);
    if (!context->plan->used[d]) return LP_OK; /* there for the lens */
    if (run == 0) {
        unit->n_unpatched[d] = result->n_tokens;
        if (result->n_tokens > 0)
            memcpy(unit->unpatched[d], result->tokens, (size_t)result->n_tokens * sizeof *unit->unpatched[d]);
    }
    for (int32_t c = unit->condition[d][run]; c >= 0; c = context->next_same[c]) {
        LP_CHECK(write_when_full(context, unit, err));
        LP_CHECK(add_row(context, unit, c, result, err));
        uint8_t outcome = ((uint8_t *)unit->rows.column[LP_ROW_OUTCOME])[unit->rows.n - 1];
        context->counts[(size_t)c * LP_N_OUTCOMES + outcome]++;
        unit->ran[c] = 1;
    }
    return LP_OK;
}

/* The answers of rows [first, first + n) are in `lengths` and `tokens`: which differ from the unpatched run's? */
static void find_changed(const lp_sweep_context *context, lp_sweep_unit *unit, size_t first, size_t n,
                         const int32_t *lengths, const int32_t *tokens) {
    size_t a = unit->rows.max_new_tokens;
    for (size_t i = 0; i < n; i++) {
        int d = (int)context->plan->set->conditions[first + i].direction;
        size_t bytes = (size_t)unit->n_unpatched[d] * sizeof *tokens;
        if (unit->ran[first + i])
            unit->ran[first + i] = lengths[i] != unit->n_unpatched[d] ||
                                   (bytes > 0 && memcmp(tokens + i * a, unit->unpatched[d], bytes) != 0);
    }
}

/* An answer that is as long as the unpatched run's ends as that does: by a stop token where it is short. */
static lp_status write_changed(lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err) {
    size_t c = context->plan->set->n, at_once = unit->rows.capacity;
    int32_t *lengths = unit->rows.column[LP_ROW_ANSWER_LEN], *tokens = unit->rows.column[LP_ROW_ANSWER_TOKENS];
    int64_t pair = unit->unit.id;
    for (size_t first = 0; first < c; first += at_once) {
        size_t n = c - first < at_once ? c - first : at_once;
        LP_CHECK(lp_record_file_read_part(context->partial, pair, LP_ROW_ANSWER_LEN, (int64_t)first, (int64_t)n,
                                          lengths, err));
        LP_CHECK(lp_record_file_read_part(context->partial, pair, LP_ROW_ANSWER_TOKENS, (int64_t)first, (int64_t)n,
                                          tokens, err));
        find_changed(context, unit, first, n, lengths, tokens);
    }
    return lp_record_file_write_part(context->partial, pair, LP_ROW_CHANGED, 0, (int64_t)c, unit->ran, err);
}

/* The numbers of the steps come when all runs of the pair are there. */
static lp_status write_steps(lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err) {
    size_t n = context->plan->set->n;
    float *column = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&column, n, sizeof *column, "thoughts", err));
    for (size_t m = context->n_answer_metrics; m < context->n_metrics; m++) {
        for (size_t c = 0; c < n; c++) column[c] = NAN;
        for (int d = 0; d < 2; d++)
            for (size_t run = 0; unit->steps[d] && run < unit->groups[d].n_runs; run++)
                for (int32_t c = unit->condition[d][run]; c >= 0; c = context->next_same[c])
                    column[c] = unit->steps[d][run].numbers[m - context->n_answer_metrics];
        LP_TRY(lp_record_file_write_part(context->partial, unit->unit.id, LP_N_ROW_COLUMNS + m, 0, (int64_t)n, column,
                                         err));
    }
out:
    lp_mem_free(column);
    return status;
}

lp_status lp_sweep_unit_end(lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t c = 0; c < context->plan->set->n; c++) {
        if (unit->ran[c]) continue;
        LP_TRY(write_when_full(context, unit, err));
        lp_result_rows_add(&unit->rows, (int32_t)c);
    }
    LP_TRY(lp_results_partial_put(context->partial, unit->unit.id, &unit->rows, err));
    LP_TRY(write_changed(context, unit, err));
    LP_TRY(write_steps(context, unit, err));
    status =
        lp_results_partial_end(context->partial, unit->unit.id, unit->lens_tokens, unit->lens_log_probability, err);
out:
    unit->rows.n = 0;
    return status;
}
