#include "stage/session.h"

#include "base/build.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "stage/device.h"
#include "stage/job_files.h"

const lp_pair_side *lp_session_side(const lp_session *session, int64_t pair, int side) {
    const lp_pair *p = &session->pairs.pairs[pair];
    return side == LP_CLEAN ? &p->clean : &p->corrupted;
}

lp_status lp_session_prompt(const lp_session *session, int64_t pair, int side, lp_token_list *out, lp_error *err) {
    const char *question = lp_session_side(session, pair, side)->question;
    lp_status status = lp_protocol_prompt(&session->job.protocol, &session->model, session->tokenizer,
                                          &session->vocabulary, question, out, err);
    if (status != LP_OK)
        lp_error_prefix(err, "%s: pair %s (%s)", session->job.pairs.file, session->pairs.pairs[pair].id,
                        side == LP_CLEAN ? "clean" : "corrupted");
    return status;
}

/* Notes that `what` is ready. */
static void mark(lp_session *s, const char *what) {
    size_t n = strlen(s->timeline);
    snprintf(s->timeline + n, sizeof s->timeline - n, "%s%s %.3f", n ? ", " : "", what, lp_seconds_now() - s->opened);
}

static lp_status open_model(lp_session *s, lp_error *err) {
    lp_model_source source = {.base = s->job.model.base,
                              .codi = s->job.model.codi,
                              .lora_rank = s->job.model.lora_rank,
                              .lora_alpha = s->job.model.lora_alpha,
                              .base_rounding = s->job.model.base_rounding,
                              .with_digests = lp_parallel_rank(s->parallel) == 0};
    lp_status status = LP_OK;
    lp_watch_doing(s->watch, "the model's files");
    status = lp_model_open(&source, &s->model, err);
    lp_watch_doing(s->watch, "");
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
    mark(s, "model files");
    LP_TRY(lp_stage_open_device(s, err));
    mark(s, "device");
    LP_TRY(lp_stage_choose_matrices(s, err));
    /* The ranks of a node fill their arena together. Whose turn it is stands in the same memory, after the arena. */
    size_t arena_bytes = s->model.arena_bytes;
    /* A node may have no room for it where others have. */
    status = lp_shared_new(s->parallel, arena_bytes + sizeof(lp_model_turns), &s->arena, err);
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
    unsigned char *arena = lp_shared_data(s->arena);
    lp_model_turns *turns = (void *)(arena + arena_bytes);
    if (lp_parallel_node_rank(s->parallel) == 0) *turns = (lp_model_turns){0};
    LP_TRY(lp_shared_fence(s->arena, err));
    lp_watch_doing(s->watch, "the model's weights");
    status = lp_model_fill(&s->model, arena, turns, err);
    lp_watch_doing(s->watch, "");
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
    LP_TRY(lp_shared_fence(s->arena, err));
    LP_TRY(lp_stage_make_weights(s, err));
    mark(s, "weights");
out:
    return status;
}

/* The digests come last: they are made while the rest is prepared. Files that carry them are opened after this. */
static lp_status take_digests(lp_session *s, lp_error *err) {
    lp_text digests = {0};
    uint64_t length = 0;
    lp_status status = LP_OK;
    if (lp_parallel_rank(s->parallel) == 0) {
        lp_watch_doing(s->watch, "the digests of the model's files");
        status = lp_model_digests(&s->model, &digests, err);
        lp_watch_doing(s->watch, "");
        length = digests.length;
    }
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
    LP_TRY(lp_parallel_broadcast(s->parallel, &length, sizeof length, err));
    LP_TRY(lp_mem_new(&s->model_digests, (size_t)length + 1, 1, "digests", err));
    if (digests.data) memcpy(s->model_digests, digests.data, (size_t)length);
    LP_TRY(lp_parallel_broadcast(s->parallel, s->model_digests, (size_t)length, err));
    mark(s, "digests");
    if (lp_parallel_rank(s->parallel) == 0) {
        double longest = 0;
        int n = lp_model_digest_threads(&s->model, &longest);
        lp_log(LP_LOG_DEBUG, "ready after seconds: %s (of %d threads, the longest took %.3f)", s->timeline, n, longest);
    }
out:
    lp_text_release(&digests);
    return status;
}

static lp_status measure_prompts(lp_session *s, lp_error *err) {
    const lp_job *job = &s->job;
    lp_token_list ids = {0};
    int32_t n_start = s->vocabulary.n_answer_start;
    int32_t rest = job->protocol.n_steps + n_start + job->decode.max_new_tokens - 1;
    lp_status status = LP_OK;
    for (int side = 0; side < 2; side++)
        LP_TRY(lp_mem_new(&s->n_prompt[side], (size_t)s->n_pairs, sizeof(int32_t), "prompt lengths", err));
    for (int64_t i = 0; i < s->n_pairs; i++)
        for (int side = 0; side < 2; side++) {
            LP_TRY(lp_session_prompt(s, i, side, &ids, err));
            if ((int64_t)ids.n + rest > s->model.config.n_context)
                LP_FAIL(
                    LP_ERR_VALUE,
                    "%s: pair %s (%s): expected at most %d positions (the model's context), found %zu of the prompt + %d "
                    "thoughts + %d for the answer (decode.max_new_tokens is %d)",
                    job->pairs.file, s->pairs.pairs[i].id, side == LP_CLEAN ? "clean" : "corrupted",
                    s->model.config.n_context, ids.n, job->protocol.n_steps, n_start + job->decode.max_new_tokens - 1,
                    job->decode.max_new_tokens);
            s->n_prompt[side][i] = (int32_t)ids.n;
            if ((int32_t)ids.n > s->longest_prompt) s->longest_prompt = (int32_t)ids.n;
        }
out:
    lp_token_list_release(&ids);
    return status;
}

/* A sweep that does not fit the model is refused before anything is computed. */
static lp_status check_conditions(const lp_session *s, lp_error *err) {
    lp_condition_set set = {0};
    if (s->job.lens_top > s->vocabulary.n_candidates)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: $.readout: expected at most top %d (the tokens that may be chosen), found %d", s->job.file,
                       s->vocabulary.n_candidates, s->job.lens_top);
    if (!s->job.sweep.present) return LP_OK;
    lp_status status = lp_job_conditions(&s->job, &s->model.config, &set, err);
    lp_condition_set_release(&set);
    return status;
}

static lp_status open_local(lp_session *s, const char *job_file, const char *const *settings, size_t n_settings,
                            lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_job_load(job_file, settings, n_settings, &s->job, err));
    LP_TRY(lp_job_check_files(&s->job, err));
    LP_TRY(lp_job_resolved(&s->job, &s->resolved_job, err));
    lp_pairs_options options = {.mode = LP_PAIRS_STRICT, .equal_answers = s->job.pairs.equal_answers};
    LP_TRY(lp_pairs_load(s->job.pairs.file, &options, &s->pairs, err));
    s->n_pairs = (int64_t)s->pairs.n;
    if (s->job.pairs.limit > 0 && s->job.pairs.limit < s->n_pairs) s->n_pairs = s->job.pairs.limit;
    LP_TRY(lp_tokenizer_load(s->job.model.tokenizer, &s->tokenizer, err));
out:
    return status;
}

lp_status lp_session_open(const lp_parallel *parallel, const char *job_file, const char *const *settings,
                          size_t n_settings, lp_session *s, lp_error *err) {
    lp_status status = LP_OK;
    *s = (lp_session){.parallel = parallel, .opened = lp_seconds_now()};
    LP_TRY(lp_parallel_agree(parallel, open_local(s, job_file, settings, n_settings, err), err));
    mark(s, "job and pairs");
    LP_TRY(lp_watch_start(parallel, INT64_C(1000) * s->job.engine.hang_limit_s, &s->watch, err));
    LP_TRY(open_model(s, err));
    status = lp_vocabulary_init(&s->model, s->tokenizer, s->job.model.tokenizer, s->job.decode.eos, &s->job.protocol,
                                &s->vocabulary, err);
    if (status == LP_OK) status = check_conditions(s, err);
    if (status == LP_OK) status = measure_prompts(s, err);
    LP_TRY(lp_parallel_agree(parallel, status, err));
    mark(s, "prompts");
    LP_TRY(take_digests(s, err));
    return LP_OK;
out:
    lp_session_close(s);
    return status;
}

void lp_session_close(lp_session *s) {
    lp_watch_stop(s->watch);
    lp_weights_free(s->weights);
    lp_backend_free(s->backend);
    lp_model_close(&s->model);
    lp_shared_free(s->arena);
    lp_tokenizer_free(s->tokenizer);
    lp_pairs_release(&s->pairs);
    for (int side = 0; side < 2; side++) lp_mem_free(s->n_prompt[side]);
    lp_mem_free(s->model_digests);
    lp_mem_free(s->resolved_job);
    lp_job_release(&s->job);
    *s = (lp_session){0};
}

int32_t lp_session_max_positions(const lp_session *s) {
    enum { FORCED_ANSWER = 2 * LP_ANSWER_TEXT }; /* a number, what stands in front of it, and eos */
    int32_t most = s->longest_prompt + s->job.protocol.n_steps + s->vocabulary.n_answer_start + 1 +
                   s->job.decode.max_new_tokens + FORCED_ANSWER;
    return most < s->model.config.n_context ? most : s->model.config.n_context;
}

lp_executor_options lp_session_executor(const lp_session *s) {
    return (lp_executor_options){.model = &s->model,
                                 .protocol = s->job.protocol,
                                 .vocabulary = s->vocabulary,
                                 .max_new_tokens = s->job.decode.max_new_tokens,
                                 .max_positions = lp_session_max_positions(s)};
}

void lp_provenance_add(lp_provenance *p, const char *key, const char *value, bool identity) {
    LP_ASSERT(p->n < LP_MAX_PROVENANCE);
    char *copy = p->texts[p->n];
    if (strlen(value) < LP_PROVENANCE_TEXT) {
        snprintf(copy, LP_PROVENANCE_TEXT, "%s", value);
        value = copy;
    }
    p->items[p->n++] = (lp_provenance_item){.key = key, .value = value, .identity = identity};
}

static void add_number(lp_provenance *p, const char *key, double value, bool identity) {
    char text[32];
    snprintf(text, sizeof text, "%.17g", value);
    lp_provenance_add(p, key, text, identity);
}

static void add_protocol(const lp_session *s, lp_provenance *p) {
    const lp_protocol *protocol = &s->job.protocol;
    const struct {
        const char *key;
        const lp_marker_list *list;
    } lists[] = {{"after_question", &protocol->after_question},
                 {"answer_start", &protocol->answer_start},
                 {"not_chosen", &protocol->not_chosen},
                 {"stop", &protocol->stop}};
    char label[32], text[LP_PROVENANCE_TEXT];
    lp_provenance_add(p, "protocol", lp_protocol_label(protocol, label), true);
    add_number(p, "steps", protocol->n_steps, true);
    lp_provenance_add(p, "normalise_spaces", protocol->normalise_spaces ? "true" : "false", true);
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        lp_marker_list_text(lists[i].list, text, sizeof text);
        lp_provenance_add(p, lists[i].key, text, true);
    }
    lp_provenance_add(p, "first_input", lp_protocol_first_input(protocol, text, sizeof text), true);
    lp_provenance_add(p, "feedback", lp_feedback_names()[protocol->feedback], true);
    lp_vocabulary_text(&s->vocabulary, text, sizeof text);
    lp_provenance_add(p, "token_ids", text, true);
}

void lp_session_provenance(const lp_session *s, lp_provenance *p) {
    char now[LP_UTC_TEXT];
    lp_utc_now(now);
    const lp_job *job = &s->job;
    *p = (lp_provenance){0};
    lp_provenance_add(p, "tool", "latentpatch", false);
    lp_provenance_add(p, "version", lp_build_version(), false);
    lp_provenance_add(p, "revision", lp_build_revision(), false);
    lp_provenance_add(p, "compiler", lp_build_compiler(), false);
    lp_provenance_add(p, "flags", lp_build_flags(), false);
    lp_provenance_add(p, "mpi", lp_parallel_library(), false);
    lp_provenance_add(p, "host", lp_parallel_host(s->parallel), false);
    add_number(p, "ranks", lp_parallel_size(s->parallel), false);
    lp_provenance_add(p, "start", now, false);
    lp_provenance_add(p, "end", "", false);
    lp_provenance_add(p, "job", s->resolved_job, false);
    lp_provenance_add(p, "model", job->model.name, false);
    lp_provenance_add(p, "model_files", s->model_digests, true);
    lp_provenance_add(p, "tokenizer", lp_tokenizer_digest(s->tokenizer), true);
    lp_provenance_add(p, "clean_up_spaces", lp_tokenizer_cleans_up(s->tokenizer) ? "true" : "false", true);
    lp_provenance_add(p, "pair_file", s->pairs.digest, true);
    add_protocol(s, p);
    add_number(p, "lora_alpha", job->model.lora_alpha, true);
    lp_provenance_add(p, "base_rounding", job->model.base_rounding == LP_BASE_FP16 ? "fp16" : "none", true);
    add_number(p, "max_new_tokens", job->decode.max_new_tokens, true);
    add_number(p, "eos", s->vocabulary.eos, true);
    lp_provenance_add(p, "dtype", lp_compute_names()[job->engine.dtype], true);
    lp_provenance_add(p, "executor", lp_executor_names()[job->engine.executor], false);
}
