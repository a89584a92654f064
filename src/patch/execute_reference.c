/* The reference executor over work units: one run after the other, nothing shared. */
#include "base/memory.h"
#include "patch/executor.h"
#include "thought/reference.h"

#include <math.h>

typedef struct {
    const lp_executor_options *options;
    lp_reference *reference;
    lp_edit *edits;
    size_t edit_capacity;
    float *unpatched; /* [n_candidates] logits at the metric position */
    float *here;      /* [n_candidates] the same of the run at hand */
    float *head;      /* [n_embedded] of the lens */
    int32_t *scratch; /* [max_positions] */
    int32_t *forced;  /* [max_positions] */
    /* Where the source takes results one by one: the run at hand. */
    const lp_work_source *source;
    lp_work_unit *unit;
    lp_run_result result;
} worker;

/* What on_logits keeps: the logits at one index, or the log-probability of forced tokens from there on. */
typedef struct {
    int32_t index;
    int32_t n;
    float *logits;         /* NULL: not wanted */
    const int32_t *tokens; /* NULL: not wanted */
    int32_t n_tokens;
    bool seen;
    double log_probability;
} listener;

static void listen(void *user, int32_t index, const float *logits) {
    listener *l = user;
    if (l->logits && index == l->index) {
        memcpy(l->logits, logits, (size_t)l->n * sizeof *logits);
        l->seen = true;
    }
    int32_t k = index - l->index;
    if (l->tokens && k >= 0 && k < l->n_tokens) l->log_probability += lp_log_probability(logits, l->n, l->tokens[k]);
}

static lp_status run_forced(worker *w, const lp_run_request *like, const lp_metric_position *metric_at,
                            const int32_t *more, int32_t n_more, listener *ear, lp_error *err) {
    lp_run_request request = *like;
    lp_run_answer answer;
    if (metric_at->index) memcpy(w->forced, metric_at->prefix, (size_t)metric_at->index * sizeof *w->forced);
    if (n_more) memcpy(w->forced + metric_at->index, more, (size_t)n_more * sizeof *w->forced);
    request.n_captures = 0;
    request.forced = w->forced;
    request.n_forced = metric_at->index + n_more;
    request.max_new_tokens = request.n_forced + (n_more ? 0 : 1);
    request.on_logits = listen;
    request.user = ear;
    return lp_reference_run(w->reference, &request, w->scratch, &answer, err);
}

static void read_lens(worker *w, const lp_lens_wanted *lens) {
    size_t d = (size_t)w->options->model->config.d_model, top = (size_t)lens->top;
    for (size_t i = 0; i < (size_t)lens->n; i++) {
        lp_reference_lens(w->reference, lens->vectors + i * d, LP_LENS_NORM, w->head);
        lp_lens_rank(w->head, w->options->vocabulary.n_candidates, lens->top, lens->tokens + i * top,
                     lens->log_probability + i * top);
    }
}

static void read_steps(worker *w, const lp_step_reading *unpatched, const lp_run_wanted *run) {
    int32_t d = w->options->model->config.d_model, n = w->options->vocabulary.n_candidates;
    bool differs[LP_MAX_STEPS];
    lp_step_compare(unpatched, run->steps, d, run->n_steps, differs);
    for (int32_t t = 0; t < run->steps->n_steps; t++) {
        if (!differs[t]) continue;
        int64_t at = (int64_t)t * d;
        lp_reference_lens(w->reference, unpatched->vectors + at, LP_LENS_PLAIN, w->head);
        memcpy(w->unpatched, w->head, (size_t)n * sizeof(float)); /* the metrics of the group are done */
        lp_reference_lens(w->reference, run->steps->vectors + at, LP_LENS_PLAIN, w->head);
        run->steps->numbers[t * LP_N_STEP_NUMBERS + LP_STEP_KL] = (float)lp_step_divergence(w->unpatched, w->head, n);
    }
}

/* What a run is to the others of its group: the one whose distribution they are compared with, or one of them. */
typedef enum { UNPATCHED_RUN, WITH_UNPATCHED, WITHOUT_UNPATCHED } run_kind;

static lp_status set_metrics(worker *w, const lp_run_request *request, const lp_metric_position *metric_at, bool seen,
                             run_kind kind, lp_run_result *result, lp_error *err) {
    int32_t n = w->options->vocabulary.n_candidates;
    lp_status status = LP_OK;
    if (!seen) {
        listener again = {.index = metric_at->index, .n = n, .logits = w->here};
        LP_TRY(run_forced(w, request, metric_at, NULL, 0, &again, err));
    }
    if (kind == UNPATCHED_RUN) memcpy(w->unpatched, w->here, (size_t)n * sizeof(float));
    lp_metrics_of_logits(w->here, kind == WITHOUT_UNPATCHED ? NULL : w->unpatched, n, metric_at, result->metrics);
    if (lp_metric_position_forces(metric_at, false)) {
        listener whole = {
            .index = metric_at->index, .n = n, .tokens = metric_at->clean.tokens, .n_tokens = metric_at->clean.n};
        LP_TRY(run_forced(w, request, metric_at, metric_at->clean.tokens, metric_at->clean.n, &whole, err));
        result->metrics[LP_METRIC_ANSWER_CLEAN] = (float)whole.log_probability;
    }
    if (lp_metric_position_forces(metric_at, true)) {
        listener whole = {.index = metric_at->index,
                          .n = n,
                          .tokens = metric_at->corrupted.tokens,
                          .n_tokens = metric_at->corrupted.n};
        LP_TRY(run_forced(w, request, metric_at, metric_at->corrupted.tokens, metric_at->corrupted.n, &whole, err));
        result->metrics[LP_METRIC_ANSWER_CORRUPTED] = (float)whole.log_probability;
    }
out:
    return status;
}

static bool begins_with(const int32_t *tokens, int32_t n, const lp_metric_position *metric_at) {
    if (metric_at->index == 0) return true;
    return n >= metric_at->index && memcmp(tokens, metric_at->prefix, (size_t)metric_at->index * sizeof *tokens) == 0;
}

static lp_status execute_run(worker *w, const lp_run_group *group, size_t i, run_kind kind, lp_error *err) {
    const lp_run_wanted *wanted = &group->runs[i];
    lp_run_result *result = w->result.tokens ? &w->result : &group->results[i];
    const lp_metric_position *metric_at = group->metric_at;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&w->edits, &w->edit_capacity, wanted->n_edits + 1, sizeof *w->edits, "edits", err));
    for (size_t k = 0; k < wanted->n_edits; k++) {
        const lp_replacement *what = &wanted->edits[k].what;
        w->edits[k] = (lp_edit){.at = what->at,
                                .operation = what->operation,
                                .factor = what->factor,
                                .vector = wanted->vectors[k],
                                .subspace = what->subspace > 0 ? &group->subspaces[what->subspace - 1] : NULL,
                                .key_begin = wanted->edits[k].key_begin,
                                .key_end = wanted->edits[k].key_end};
    }
    listener here = {.n = w->options->vocabulary.n_candidates};
    lp_run_request request = {.prompt = group->prompt,
                              .n_prompt = group->n_prompt,
                              .n_steps = wanted->n_steps,
                              .edits = w->edits,
                              .n_edits = (int32_t)wanted->n_edits,
                              .captures = wanted->captures,
                              .n_captures = wanted->n_captures,
                              .max_new_tokens = w->options->max_new_tokens};
    if (metric_at) {
        here.index = metric_at->index;
        here.logits = w->here;
        request.on_logits = listen;
        request.user = &here;
    }
    lp_run_answer answer;
    LP_TRY(lp_reference_run(w->reference, &request, result->tokens, &answer, err));
    result->n_tokens = answer.n_tokens;
    result->ended = answer.ended;
    if (wanted->lens) read_lens(w, wanted->lens);
    for (int m = 0; m < LP_N_METRICS; m++) result->metrics[m] = NAN;
    if (metric_at) {
        bool seen = here.seen && begins_with(result->tokens, result->n_tokens, metric_at);
        LP_TRY(set_metrics(w, &request, metric_at, seen, kind, result, err));
    }
    if (w->source->run_done)
        status = w->source->run_done(w->source->user, w->unit, (size_t)(group - w->unit->groups), i, result, err);
out:
    return status;
}

static lp_status execute_group(worker *w, const lp_run_group *group, lp_error *err) {
    int64_t first = lp_run_group_unpatched(group, w->options->protocol.n_steps);
    lp_status status = LP_OK;
    if (first >= 0) LP_TRY(execute_run(w, group, (size_t)first, UNPATCHED_RUN, err));
    run_kind kind = first >= 0 ? WITH_UNPATCHED : WITHOUT_UNPATCHED;
    for (size_t i = 0; i < group->n_runs; i++)
        if ((int64_t)i != first) LP_TRY(execute_run(w, group, i, kind, err));
    for (size_t i = 0; first >= 0 && i < group->n_runs; i++)
        if (group->runs[i].steps) read_steps(w, group->runs[first].steps, &group->runs[i]);
out:
    return status;
}

lp_status lp_execute_reference(const lp_executor_options *options, const lp_work_source *source, lp_error *err) {
    worker w = {.options = options, .source = source};
    size_t n = (size_t)options->vocabulary.n_candidates;
    lp_status status = LP_OK;
    if (source->run_done)
        LP_TRY(lp_mem_new(&w.result.tokens, (size_t)options->max_new_tokens, sizeof(int32_t), "tokens", err));
    LP_TRY(lp_reference_new(options->model, &options->protocol, &options->vocabulary, options->max_positions,
                            &w.reference, err));
    LP_TRY(lp_mem_new(&w.unpatched, n, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&w.here, n, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&w.head, (size_t)options->model->config.n_embedded, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&w.scratch, (size_t)options->max_positions + 1, sizeof(int32_t), "tokens", err));
    LP_TRY(lp_mem_new(&w.forced, (size_t)options->max_positions + 1, sizeof(int32_t), "tokens", err));
    for (;;) {
        LP_TRY(source->next(source->user, &w.unit, err));
        if (!w.unit) break;
        for (size_t g = 0; g < w.unit->n_groups; g++) LP_TRY(execute_group(&w, &w.unit->groups[g], err));
        LP_TRY(source->done(source->user, w.unit, err));
    }
out:
    lp_reference_free(w.reference);
    lp_mem_free(w.edits);
    lp_mem_free(w.unpatched);
    lp_mem_free(w.here);
    lp_mem_free(w.head);
    lp_mem_free(w.scratch);
    lp_mem_free(w.forced);
    lp_mem_free(w.result.tokens);
    return status;
}
