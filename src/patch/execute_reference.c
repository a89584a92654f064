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
} reference_worker;

/* What on_logits keeps: the logits at one index, or the log-probability of forced tokens from there on. */
typedef struct {
    int32_t index;
    int32_t n;
    float *logits;         /* NULL: not wanted */
    const int32_t *tokens; /* NULL: not wanted */
    int32_t n_tokens;
    bool seen;
    double log_probability;
} lens_listener;

static void listen(void *user, int32_t index, const float *logits) {
    lens_listener *listener = user;
    if (listener->logits && index == listener->index) {
        memcpy(listener->logits, logits, (size_t)listener->n * sizeof *logits);
        listener->seen = true;
    }
    int32_t k = index - listener->index;
    if (listener->tokens && k >= 0 && k < listener->n_tokens)
        listener->log_probability += lp_log_probability(logits, listener->n, listener->tokens[k]);
}

static lp_status run_forced(reference_worker *worker, const lp_run_request *like, const lp_metric_position *metric_at,
                            const int32_t *more, int32_t n_more, lens_listener *ear, lp_error *err) {
    lp_run_request request = *like;
    lp_run_answer answer;
    if (metric_at->index) memcpy(worker->forced, metric_at->prefix, (size_t)metric_at->index * sizeof *worker->forced);
    if (n_more) memcpy(worker->forced + metric_at->index, more, (size_t)n_more * sizeof *worker->forced);
    request.n_captures = 0;
    request.forced = worker->forced;
    request.n_forced = metric_at->index + n_more;
    request.max_new_tokens = request.n_forced + (n_more ? 0 : 1);
    request.on_logits = listen;
    request.user = ear;
    return lp_reference_run(worker->reference, &request, worker->scratch, &answer, err);
}

static void read_lens(reference_worker *worker, const lp_lens_wanted *lens) {
    size_t d = (size_t)worker->options->model->config.d_model, top = (size_t)lens->top;
    for (size_t i = 0; i < (size_t)lens->n; i++) {
        lp_reference_lens(worker->reference, lens->vectors + i * d, LP_LENS_NORM, worker->head);
        lp_lens_rank(worker->head, worker->options->vocabulary.n_candidates, lens->top, lens->tokens + i * top,
                     lens->log_probability + i * top);
    }
}

static void read_steps(reference_worker *worker, const lp_step_reading *unpatched, const lp_run_wanted *run) {
    int32_t d = worker->options->model->config.d_model, n = worker->options->vocabulary.n_candidates;
    bool differs[LP_MAX_STEPS];
    lp_step_compare(unpatched, run->steps, d, run->n_steps, differs);
    for (int32_t t = 0; t < run->steps->n_steps; t++) {
        if (!differs[t]) continue;
        int64_t at = (int64_t)t * d;
        lp_reference_lens(worker->reference, unpatched->vectors + at, LP_LENS_PLAIN, worker->head);
        memcpy(worker->unpatched, worker->head, (size_t)n * sizeof(float)); /* the metrics of the group are done */
        lp_reference_lens(worker->reference, run->steps->vectors + at, LP_LENS_PLAIN, worker->head);
        run->steps->numbers[t * LP_N_STEP_NUMBERS + LP_STEP_KL] =
            (float)lp_step_divergence(worker->unpatched, worker->head, n);
    }
}

/* What a run is to the others of its group: the one whose distribution they are compared with, or one of them. */
typedef enum { UNPATCHED_RUN, WITH_UNPATCHED, WITHOUT_UNPATCHED } run_kind;

static lp_status set_metrics(reference_worker *worker, const lp_run_request *request,
                             const lp_metric_position *metric_at, bool seen, run_kind kind, lp_run_result *result,
                             lp_error *err) {
    int32_t n = worker->options->vocabulary.n_candidates;
    if (!seen) {
        lens_listener again = {.index = metric_at->index, .n = n, .logits = worker->here};
        LP_CHECK(run_forced(worker, request, metric_at, NULL, 0, &again, err));
    }
    if (kind == UNPATCHED_RUN) memcpy(worker->unpatched, worker->here, (size_t)n * sizeof(float));
    lp_metrics_of_logits(worker->here, kind == WITHOUT_UNPATCHED ? NULL : worker->unpatched, n, metric_at,
                         result->metrics);
    for (int k = 0; k < 2; k++) {
        if (!lp_metric_position_forces(metric_at, k == 1)) continue;
        const int32_t *tokens = k ? metric_at->corrupted.tokens : metric_at->clean.tokens;
        int32_t n_tokens = k ? metric_at->corrupted.n : metric_at->clean.n;
        lens_listener whole = {.index = metric_at->index, .n = n, .tokens = tokens, .n_tokens = n_tokens};
        LP_CHECK(run_forced(worker, request, metric_at, tokens, n_tokens, &whole, err));
        result->metrics[k ? LP_METRIC_ANSWER_CORRUPTED : LP_METRIC_ANSWER_CLEAN] = (float)whole.log_probability;
    }
    return LP_OK;
}

static bool begins_with(const int32_t *tokens, int32_t n, const lp_metric_position *metric_at) {
    if (metric_at->index == 0) return true;
    return n >= metric_at->index && memcmp(tokens, metric_at->prefix, (size_t)metric_at->index * sizeof *tokens) == 0;
}

static lp_status execute_run(reference_worker *worker, const lp_run_group *group, size_t i, run_kind kind,
                             lp_error *err) {
    const lp_run_wanted *wanted = &group->runs[i];
    lp_run_result *result = worker->result.tokens ? &worker->result : &group->results[i];
    const lp_metric_position *metric_at = group->metric_at;
    lp_status status = LP_OK;
    LP_TRY(
        lp_mem_grow(&worker->edits, &worker->edit_capacity, wanted->n_edits + 1, sizeof *worker->edits, "edits", err));
    for (size_t k = 0; k < wanted->n_edits; k++) {
        const lp_replacement *what = &wanted->edits[k].what;
        worker->edits[k] = (lp_edit){.at = what->at,
                                     .operation = what->operation,
                                     .factor = what->factor,
                                     .vector = wanted->vectors[k],
                                     .subspace = what->subspace > 0 ? &group->subspaces[what->subspace - 1] : NULL,
                                     .token = what->token > 0 ? &group->token_edits[what->token - 1] : NULL,
                                     .key_begin = wanted->edits[k].key_begin,
                                     .key_end = wanted->edits[k].key_end};
    }
    lens_listener here = {.n = worker->options->vocabulary.n_candidates};
    lp_run_request request = {.prompt = group->prompt,
                              .n_prompt = group->n_prompt,
                              .n_steps = wanted->n_steps,
                              .edits = worker->edits,
                              .n_edits = (int32_t)wanted->n_edits,
                              .captures = wanted->captures,
                              .n_captures = wanted->n_captures,
                              .max_new_tokens = worker->options->max_new_tokens};
    if (metric_at) {
        here.index = metric_at->index;
        here.logits = worker->here;
        request.on_logits = listen;
        request.user = &here;
    }
    lp_run_answer answer;
    LP_TRY(lp_reference_run(worker->reference, &request, result->tokens, &answer, err));
    result->n_tokens = answer.n_tokens;
    result->ended = answer.ended;
    if (wanted->lens) read_lens(worker, wanted->lens);
    for (int m = 0; m < LP_N_METRICS; m++) result->metrics[m] = NAN;
    if (metric_at) {
        bool seen = here.seen && begins_with(result->tokens, result->n_tokens, metric_at);
        LP_TRY(set_metrics(worker, &request, metric_at, seen, kind, result, err));
    }
    if (worker->source->run_done)
        status = worker->source->run_done(worker->source->user, worker->unit, (size_t)(group - worker->unit->groups), i,
                                          result, err);
out:
    return status;
}

static lp_status execute_group(reference_worker *worker, const lp_run_group *group, lp_error *err) {
    int64_t first = lp_run_group_unpatched(group, worker->options->protocol.n_steps);
    if (first >= 0) LP_CHECK(execute_run(worker, group, (size_t)first, UNPATCHED_RUN, err));
    run_kind kind = first >= 0 ? WITH_UNPATCHED : WITHOUT_UNPATCHED;
    for (size_t i = 0; i < group->n_runs; i++)
        if ((int64_t)i != first) LP_CHECK(execute_run(worker, group, i, kind, err));
    for (size_t i = 0; first >= 0 && i < group->n_runs; i++)
        if (group->runs[i].steps) read_steps(worker, group->runs[first].steps, &group->runs[i]);
    return LP_OK;
}

lp_status lp_execute_reference(const lp_executor_options *options, const lp_work_source *source, lp_error *err) {
    reference_worker worker = {.options = options, .source = source};
    size_t n = (size_t)options->vocabulary.n_candidates;
    lp_status status = LP_OK;
    if (source->run_done)
        LP_TRY(lp_mem_new(&worker.result.tokens, (size_t)options->max_new_tokens, sizeof(int32_t), "tokens", err));
    LP_TRY(lp_reference_new(options->model, &options->protocol, &options->vocabulary, options->max_positions,
                            &worker.reference, err));
    LP_TRY(lp_mem_new(&worker.unpatched, n, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&worker.here, n, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&worker.head, (size_t)options->model->config.n_embedded, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&worker.scratch, (size_t)options->max_positions + 1, sizeof(int32_t), "tokens", err));
    LP_TRY(lp_mem_new(&worker.forced, (size_t)options->max_positions + 1, sizeof(int32_t), "tokens", err));
    for (;;) {
        LP_TRY(source->next(source->user, &worker.unit, err));
        if (!worker.unit) break;
        for (size_t g = 0; g < worker.unit->n_groups; g++) LP_TRY(execute_group(&worker, &worker.unit->groups[g], err));
        LP_TRY(source->done(source->user, worker.unit, err));
    }
out:
    lp_reference_free(worker.reference);
    lp_mem_free(worker.edits);
    lp_mem_free(worker.unpatched);
    lp_mem_free(worker.here);
    lp_mem_free(worker.head);
    lp_mem_free(worker.scratch);
    lp_mem_free(worker.forced);
    lp_mem_free(worker.result.tokens);
    return status;
}
