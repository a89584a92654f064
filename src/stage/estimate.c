#include "stage/estimate.h"

#include "base/memory.h"
#include "patch/engine_sizes.h"
#include "stage/sweep_identity.h"
#include "store/result_rows.h"

static int compare_i32(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static lp_status median_prompt(const lp_session *s, int32_t *out, lp_error *err) {
    int32_t *lengths = NULL;
    size_t n = (size_t)s->n_pairs;
    lp_status status = lp_mem_new(&lengths, n, sizeof *lengths, "prompt lengths", err);
    if (status != LP_OK) return status;
    memcpy(lengths, s->n_prompt[LP_CORRUPTED], n * sizeof *lengths);
    qsort(lengths, n, sizeof *lengths, compare_i32);
    *out = lengths[n / 2];
    lp_mem_free(lengths);
    return LP_OK;
}

/* Floating point operations of one row through one block, and through the output head. */
static double block_flops(const lp_model_config *c) {
    double d = c->d_model, q = (double)c->n_heads * c->head_dim, kv = (double)c->n_kv_heads * c->head_dim;
    double mlp = (c->arch == LP_ARCH_LLAMA ? 3.0 : 2.0) * d * c->d_ff;
    return 2 * (d * (q + 2 * kv) + q * d + mlp);
}

/* The distinct runs of one direction as a group, with answers that never end and differ everywhere. */
typedef struct {
    lp_run_group group;
    lp_run_wanted *runs;
    lp_run_result *results;
    lp_edit_sequence *edits; /* [n_edits] */
    size_t n_edits;
    const float **vectors;
    int32_t *prompt, *tokens;
} sample;

static void sample_release(sample *s) {
    for (size_t i = 0; s->edits && i < s->n_edits; i++) lp_edit_sequence_release(&s->edits[i]);
    lp_mem_free(s->edits);
    lp_mem_free(s->runs);
    lp_mem_free(s->results);
    lp_mem_free(s->vectors);
    lp_mem_free(s->prompt);
    lp_mem_free(s->tokens);
    *s = (sample){0};
}

static lp_status sample_init(const lp_sweep_plan *plan, int direction, int32_t n_prompt, sample *out, lp_error *err) {
    const lp_session *session = plan->session;
    sample s = {0};
    size_t n = 0, longest = 1;
    lp_status status = LP_OK;
    for (size_t i = 0; i < plan->set.n; i++)
        n += plan->set.conditions[i].direction == (lp_direction)direction && plan->same_as[i] == (int32_t)i;
    LP_TRY(lp_mem_new(&s.edits, n, sizeof *s.edits, "plan", err));
    s.n_edits = n;
    LP_TRY(lp_mem_new(&s.runs, n, sizeof *s.runs, "plan", err));
    LP_TRY(lp_mem_new(&s.results, n, sizeof *s.results, "plan", err));
    LP_TRY(lp_mem_new(&s.prompt, (size_t)n_prompt, sizeof(int32_t), "plan", err));
    LP_TRY(lp_mem_new(&s.tokens, n * (size_t)session->job.decode.max_new_tokens, sizeof(int32_t), "plan", err));
    lp_run_shape shape = {.config = &session->model.config, .protocol = session->job.protocol, .n_prompt = n_prompt};
    n = 0;
    for (size_t i = 0; i < plan->set.n; i++) {
        if (plan->set.conditions[i].direction != (lp_direction)direction || plan->same_as[i] != (int32_t)i) continue;
        LP_TRY(lp_condition_effective(&plan->set, i, &shape, &s.edits[n], err));
        if (s.edits[n].absent) continue;
        if (s.edits[n].n > longest) longest = s.edits[n].n;
        s.runs[n] = (lp_run_wanted){
            .edits = s.edits[n].edits, .n_edits = s.edits[n].n, .n_steps = plan->set.conditions[i].n_steps_run};
        s.results[n].tokens = s.tokens + n * (size_t)session->job.decode.max_new_tokens;
        n++;
    }
    LP_TRY(lp_mem_new(&s.vectors, longest, sizeof *s.vectors, "plan", err));
    for (size_t i = 0; i < n; i++) s.runs[i].vectors = s.vectors;
    s.group.n_runs = n;
    s.group.prompt = s.prompt;
    s.group.n_prompt = n_prompt;
    s.group.runs = s.runs;
    s.group.results = s.results;
    *out = s;
    return LP_OK;
out:
    sample_release(&s);
    return status;
}

/* Walks the request as the engine would and counts. Answers end after answer_tokens. */
static lp_status count_direction(const lp_sweep_plan *plan, int direction, int32_t n_prompt, lp_estimate *e,
                                 lp_error *err) {
    const lp_session *session = plan->session;
    const lp_model_config *c = &session->model.config;
    lp_executor_options options = lp_session_executor(session);
    const lp_request_need all = {INT32_MAX, INT32_MAX, INT32_MAX};
    lp_request_need need;
    lp_request request = {0};
    lp_page_pool pages = {0};
    sample s = {0};
    bool begun = false;
    lp_status status = LP_OK;
    options.max_new_tokens = e->answer_tokens;
    LP_TRY(sample_init(plan, direction, n_prompt, &s, err));
    LP_TRY(lp_request_open(&request, &options, &s.group, &pages, NULL, err));
    LP_TRY(lp_request_plan_part(&request, &all, e->answer_tokens, &need, err));
    LP_TRY(lp_pages_init(&pages, need.pages, err));
    LP_TRY(lp_request_begin_part(&request, &begun, err));
    LP_ASSERT(begun);
    e->branches += request.tree.n;
    double head_rows = 0, row_layers = 0;
    while (lp_request_count_rows(&request, NULL) > 0) {
        lp_request_make_rows(&request);
        for (int32_t i = 0; i < request.n_rows; i++) {
            const lp_request_row *row = &request.rows[i];
            row_layers += c->n_layers - row->first_layer;
            if (!row->chooses) continue;
            head_rows++;
            bool ends = request.branches[row->branch].n_tokens + 1 >= e->answer_tokens;
            /* Distinct tokens, so that no two branches are taken to agree. */
            int32_t token = ends ? options.vocabulary.eos : row->branch % options.vocabulary.n_candidates;
            if (!ends && lp_vocabulary_stops(&options.vocabulary, token)) token = token > 0 ? token - 1 : 1;
            lp_request_accept_token(&request, row->branch, token, NULL);
        }
        lp_request_end_step(&request);
    }
    double runs = (double)s.group.n_runs;
    double positions = n_prompt + session->job.protocol.n_steps + 1 + e->answer_tokens - 1;
    e->row_layers_shared += row_layers;
    e->row_layers_unshared += runs * positions * c->n_layers;
    double thoughts_only = n_prompt + session->job.protocol.n_steps;
    e->row_layers_scripts += runs * (positions + thoughts_only) * c->n_layers;
    e->gemm_flops += row_layers * block_flops(c) + head_rows * 2.0 * c->d_model * c->n_embedded;
out:
    lp_request_release(&request);
    lp_pages_release(&pages);
    sample_release(&s);
    return status;
}

/* The memory that the engine can do with, and that is of use to it, for a pair with the longest prompts. */
static lp_status size_memory(const lp_sweep_plan *plan, lp_estimate *e, lp_error *err) {
    enum { NUMBER_TOKENS = 8 };
    const lp_session *session = plan->session;
    const lp_job *job = &session->job;
    const bool used[2] = {[LP_DENOISE] = job->sweep.denoise, [LP_NOISE] = job->sweep.noise};
    const lp_metric_position metric_at = {.index = job->decode.max_new_tokens,
                                          .clean.n = NUMBER_TOKENS,
                                          .corrupted.n = NUMBER_TOKENS,
                                          .whole_answers = job->metrics.answer_logprob};
    lp_executor_options options = lp_session_executor(session);
    lp_request requests[2] = {{0}};
    sample samples[2];
    lp_unit_need unit;
    size_t n = 0;
    lp_status status = LP_OK;
    memset(samples, 0, sizeof samples);
    for (int d = 0; d < 2; d++) {
        if (!used[d]) continue;
        LP_TRY(sample_init(plan, d, plan->shapes.n_prompt[d][plan->shapes.n[d] - 1], &samples[n], err));
        if (lp_sweep_answer_metrics(job) > 0) samples[n].group.metric_at = &metric_at;
        LP_TRY(lp_request_open(&requests[n], &options, &samples[n].group, NULL, NULL, err));
        n++;
    }
    LP_TRY(lp_unit_need_of(requests, n, &unit, err));
    e->least_bytes = lp_engine_least_bytes(session->backend, &session->model, &unit);
    e->useful_bytes = lp_engine_size(session->backend, &session->model, &unit, 0, INT64_MAX / 4).bytes;
out:
    for (int i = 0; i < 2; i++) {
        lp_request_release(&requests[i]);
        sample_release(&samples[i]);
    }
    return status;
}

lp_status lp_estimate_sweep(const lp_sweep_plan *plan, int32_t answer_tokens, lp_estimate *out, lp_error *err) {
    const lp_session *s = plan->session;
    lp_estimate e = {.n_pairs = s->n_pairs, .n_conditions = plan->set.n, .n_distinct = plan->n_distinct};
    e.answer_tokens = answer_tokens < s->job.decode.max_new_tokens ? answer_tokens : s->job.decode.max_new_tokens;
    int32_t n_prompt = 0;
    lp_status status = LP_OK;
    LP_TRY(median_prompt(s, &n_prompt, err));
    for (size_t i = 0; i < plan->set.n; i++) {
        e.n_dead += plan->dead[i];
        e.n_equal += plan->same_as[i] != (int32_t)i && !plan->dead[i];
    }
    if (s->job.sweep.denoise) LP_TRY(count_direction(plan, LP_DENOISE, n_prompt, &e, err));
    if (s->job.sweep.noise) LP_TRY(count_direction(plan, LP_NOISE, n_prompt, &e, err));
    double pairs = (double)s->n_pairs;
    e.row_layers_scripts *= pairs;
    e.row_layers_unshared *= pairs;
    e.row_layers_shared *= pairs;
    e.gemm_flops *= pairs;
    LP_TRY(size_memory(plan, &e, err));
    const lp_model_config *c = &s->model.config;
    double positions = n_prompt + s->job.protocol.n_steps + 1 + e.answer_tokens - 1;
    e.cache_flops =
        2 * pairs * (positions * c->n_layers * block_flops(c) + e.answer_tokens * 2.0 * c->d_model * c->n_embedded);
    for (size_t i = 0; i < plan->layout->n_fields; i++) {
        const lp_field *field = &plan->layout->fields[i];
        int64_t bytes = (int64_t)lp_h5_item_bytes(field->type, field->text_bytes);
        for (int d = 0; d < field->n_dims; d++) bytes *= field->dims[d];
        e.store_bytes += bytes * s->n_pairs;
    }
    const char *metrics[LP_MAX_METRICS];
    int64_t numbers = s->job.decode.max_new_tokens + (int64_t)lp_sweep_metrics(&s->job, metrics);
    e.results_bytes = s->n_pairs * (int64_t)plan->set.n * (14 + 4 * numbers);
    int64_t lens = (int64_t)lp_lens_positions(s->job.protocol.n_steps) * s->model.config.n_layers * s->job.lens_top;
    e.results_bytes += s->n_pairs * 2 * lens * (int64_t)(sizeof(int32_t) + sizeof(float));
    *out = e;
out:
    return status;
}
