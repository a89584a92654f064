#include "stage/estimate.h"

#include "base/memory.h"
#include "patch/engine_sizes.h"
#include "stage/sweep_identity.h"
#include "store/result_rows.h"

static int compare_i32(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static lp_status median_prompt(const lp_session *session, int32_t *out, lp_error *err) {
    int32_t *lengths = NULL;
    size_t n = (size_t)session->n_pairs;
    LP_CHECK(lp_mem_new(&lengths, n, sizeof *lengths, "prompt lengths", err));
    memcpy(lengths, session->n_prompt[LP_CORRUPTED], n * sizeof *lengths);
    qsort(lengths, n, sizeof *lengths, compare_i32);
    *out = lengths[n / 2];
    lp_mem_free(lengths);
    return LP_OK;
}

/* Floating point operations of one row through one block, and through the output head. */
static double block_flops(const lp_model_config *config) {
    double d = config->d_model, q = (double)config->n_heads * config->head_dim,
           kv = (double)config->n_kv_heads * config->head_dim;
    double mlp = (config->arch == LP_ARCH_LLAMA ? 3.0 : 2.0) * d * config->d_ff;
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
} estimate_sample;

static void sample_release(estimate_sample *sample) {
    for (size_t i = 0; sample->edits && i < sample->n_edits; i++) lp_edit_sequence_release(&sample->edits[i]);
    lp_mem_free(sample->edits);
    lp_mem_free(sample->runs);
    lp_mem_free(sample->results);
    lp_mem_free(sample->vectors);
    lp_mem_free(sample->prompt);
    lp_mem_free(sample->tokens);
    *sample = (estimate_sample){0};
}

static lp_status sample_init(const lp_sweep_plan *plan, int direction, int32_t n_prompt, estimate_sample *out,
                             lp_error *err) {
    const lp_session *session = plan->session;
    estimate_sample sample = {0};
    size_t n = 0, longest = 1;
    lp_status status = LP_OK;
    for (size_t i = 0; i < plan->set->n; i++)
        n += plan->set->conditions[i].direction == (lp_direction)direction && plan->same_as[i] == (int32_t)i;
    LP_TRY(lp_mem_new(&sample.edits, n, sizeof *sample.edits, "plan", err));
    sample.n_edits = n;
    LP_TRY(lp_mem_new(&sample.runs, n, sizeof *sample.runs, "plan", err));
    LP_TRY(lp_mem_new(&sample.results, n, sizeof *sample.results, "plan", err));
    LP_TRY(lp_mem_new(&sample.prompt, (size_t)n_prompt, sizeof(int32_t), "plan", err));
    LP_TRY(lp_mem_new(&sample.tokens, n * (size_t)session->job.decode.max_new_tokens, sizeof(int32_t), "plan", err));
    lp_run_shape shape = {.config = &session->model.config, .protocol = session->job.protocol, .n_prompt = n_prompt};
    n = 0;
    for (size_t i = 0; i < plan->set->n; i++) {
        if (plan->set->conditions[i].direction != (lp_direction)direction || plan->same_as[i] != (int32_t)i) continue;
        LP_TRY(lp_condition_effective(plan->set, i, &shape, &sample.edits[n], err));
        if (sample.edits[n].absent) continue;
        if (sample.edits[n].n > longest) longest = sample.edits[n].n;
        sample.runs[n] = (lp_run_wanted){.edits = sample.edits[n].edits,
                                         .n_edits = sample.edits[n].n,
                                         .n_steps = plan->set->conditions[i].n_steps_run};
        sample.results[n].tokens = sample.tokens + n * (size_t)session->job.decode.max_new_tokens;
        n++;
    }
    LP_TRY(lp_mem_new(&sample.vectors, longest, sizeof *sample.vectors, "plan", err));
    for (size_t i = 0; i < n; i++) sample.runs[i].vectors = sample.vectors;
    sample.group.n_runs = n;
    sample.group.prompt = sample.prompt;
    sample.group.n_prompt = n_prompt;
    sample.group.runs = sample.runs;
    sample.group.results = sample.results;
    *out = sample;
    return LP_OK;
out:
    sample_release(&sample);
    return status;
}

/* Walks the request as the engine would and counts. Answers end after answer_tokens. */
static lp_status count_direction(const lp_sweep_plan *plan, int direction, int32_t n_prompt, lp_estimate *estimate,
                                 lp_error *err) {
    const lp_session *session = plan->session;
    const lp_model_config *config = &session->model.config;
    lp_executor_options options = lp_session_executor(session);
    const lp_request_need all = {INT32_MAX, INT32_MAX, INT32_MAX};
    lp_request_need need;
    lp_request request = {0};
    lp_page_pool pages = {0};
    estimate_sample sample = {0};
    bool begun = false;
    lp_status status = LP_OK;
    options.max_new_tokens = estimate->answer_tokens;
    LP_TRY(sample_init(plan, direction, n_prompt, &sample, err));
    LP_TRY(lp_request_open(&request, &options, &sample.group, &pages, NULL, err));
    LP_TRY(lp_request_plan_part(&request, &all, estimate->answer_tokens, &need, err));
    LP_TRY(lp_pages_init(&pages, need.pages, err));
    LP_TRY(lp_request_begin_part(&request, &begun, err));
    LP_ASSERT(begun);
    estimate->branches += request.tree.n;
    double head_rows = 0, row_layers = 0;
    while (lp_request_count_rows(&request, NULL) > 0) {
        lp_request_make_rows(&request);
        for (int32_t i = 0; i < request.n_rows; i++) {
            const lp_request_row *row = &request.rows[i];
            row_layers += config->n_layers - row->first_layer;
            if (!row->chooses) continue;
            head_rows++;
            bool ends = request.branches[row->branch].n_tokens + 1 >= estimate->answer_tokens;
            /* Distinct tokens, so that no two branches are taken to agree. */
            int32_t token = ends ? options.vocabulary.eos : row->branch % options.vocabulary.n_candidates;
            if (!ends && lp_vocabulary_stops(&options.vocabulary, token)) token = token > 0 ? token - 1 : 1;
            lp_request_accept_token(&request, row->branch, token, NULL);
        }
        lp_request_end_step(&request);
    }
    double runs = (double)sample.group.n_runs;
    double positions = n_prompt + session->job.protocol.n_steps + 1 + estimate->answer_tokens - 1;
    estimate->row_layers_shared += row_layers;
    estimate->row_layers_unshared += runs * positions * config->n_layers;
    double thoughts_only = n_prompt + session->job.protocol.n_steps;
    estimate->row_layers_scripts += runs * (positions + thoughts_only) * config->n_layers;
    estimate->head_rows += head_rows;
    estimate->gemm_flops += row_layers * block_flops(config) + head_rows * 2.0 * config->d_model * config->n_embedded;
out:
    lp_request_release(&request);
    lp_pages_release(&pages);
    sample_release(&sample);
    return status;
}

/* The memory that the engine can do with, and that is of use to it, for a pair with the longest prompts. */
static lp_status size_memory(const lp_sweep_plan *plan, lp_estimate *estimate, lp_error *err) {
    enum { NUMBER_TOKENS = 8 };
    const lp_session *session = plan->session;
    const lp_job *job = &session->job;
    const lp_metric_position metric_at = {.index = job->decode.max_new_tokens,
                                          .clean.n = NUMBER_TOKENS,
                                          .corrupted.n = NUMBER_TOKENS,
                                          .whole_answers = job->metrics.answer_logprob};
    lp_executor_options options = lp_session_executor(session);
    lp_request requests[2] = {{0}};
    estimate_sample samples[2];
    lp_unit_need unit;
    size_t n = 0;
    lp_status status = LP_OK;
    memset(samples, 0, sizeof samples);
    for (int d = 0; d < 2; d++) {
        if (!plan->used[d]) continue;
        LP_TRY(sample_init(plan, d, plan->shapes.n_prompt[d][plan->shapes.n[d] - 1], &samples[n], err));
        if (lp_sweep_answer_metrics(job) > 0) samples[n].group.metric_at = &metric_at;
        LP_TRY(lp_request_open(&requests[n], &options, &samples[n].group, NULL, NULL, err));
        n++;
    }
    LP_TRY(lp_unit_need_of(requests, n, &unit, err));
    estimate->least_bytes = lp_engine_least_bytes(session->backend, &session->model, &unit);
    estimate->useful_bytes = lp_engine_size(session->backend, &session->model, &unit, 0, INT64_MAX / 4).bytes;
out:
    for (int i = 0; i < 2; i++) {
        lp_request_release(&requests[i]);
        sample_release(&samples[i]);
    }
    return status;
}

lp_status lp_estimate_sweep(const lp_sweep_plan *plan, int32_t answer_tokens, lp_estimate *out, lp_error *err) {
    const lp_session *session = plan->session;
    lp_estimate estimate = {.n_pairs = session->n_pairs, .n_conditions = plan->set->n, .n_distinct = plan->n_distinct};
    estimate.answer_tokens =
        answer_tokens < session->job.decode.max_new_tokens ? answer_tokens : session->job.decode.max_new_tokens;
    int32_t n_prompt = 0;
    LP_CHECK(median_prompt(session, &n_prompt, err));
    estimate.n_prompt = n_prompt;
    for (size_t i = 0; i < plan->set->n; i++) {
        estimate.n_dead += plan->dead[i];
        estimate.n_equal += plan->same_as[i] != (int32_t)i && !plan->dead[i];
    }
    for (int d = 0; d < 2; d++)
        if (plan->used[d]) LP_CHECK(count_direction(plan, d, n_prompt, &estimate, err));
    double pairs = (double)session->n_pairs;
    estimate.row_layers_scripts *= pairs;
    estimate.row_layers_unshared *= pairs;
    estimate.row_layers_shared *= pairs;
    estimate.head_rows *= pairs;
    estimate.gemm_flops *= pairs;
    LP_CHECK(size_memory(plan, &estimate, err));
    const lp_model_config *config = &session->model.config;
    double positions = n_prompt + session->job.protocol.n_steps + 1 + estimate.answer_tokens - 1;
    estimate.cache_row_layers = 2 * pairs * positions * config->n_layers;
    estimate.cache_head_rows = 2 * pairs * estimate.answer_tokens;
    for (size_t i = 0; i < plan->layout->n_fields; i++) {
        const lp_field *field = &plan->layout->fields[i];
        int64_t bytes = (int64_t)lp_h5_item_bytes(field->type, field->text_bytes);
        for (int d = 0; d < field->n_dims; d++) bytes *= field->dims[d];
        estimate.store_bytes += bytes * session->n_pairs;
    }
    const char *metrics[LP_MAX_METRICS];
    int64_t numbers = session->job.decode.max_new_tokens + (int64_t)lp_sweep_metrics(&session->job, metrics);
    estimate.results_bytes = session->n_pairs * (int64_t)plan->set->n * (14 + 4 * numbers);
    int64_t lens = (int64_t)lp_lens_positions(session->job.protocol.n_steps) * session->model.config.n_layers *
                   session->job.lens_top;
    estimate.results_bytes += session->n_pairs * 2 * lens * (int64_t)(sizeof(int32_t) + sizeof(float));
    *out = estimate;
    return LP_OK;
}

double lp_estimate_seconds(const lp_estimate *estimate, double to_cache, const lp_speed *speed, int ranks) {
    double row_layers = estimate->row_layers_shared + to_cache * estimate->cache_row_layers;
    double head_rows = estimate->head_rows + to_cache * estimate->cache_head_rows;
    return (row_layers * speed->row_layer_s + head_rows * speed->head_row_s) / ranks;
}
