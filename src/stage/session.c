#include "stage/session.h"

#include "base/build.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "stage/device.h"
#include "stage/job_files.h"
#include "store/results.h"

#include <time.h>

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
static void mark(lp_session *session, const char *what) {
    size_t n = strlen(session->timeline);
    snprintf(session->timeline + n, sizeof session->timeline - n, "%s%s %.3f", n ? ", " : "", what,
             lp_seconds_now() - session->opened);
}

/* Room for the arena; *there is false where a plan has to do without. */
static lp_status make_room(lp_session *session, lp_session_use use, bool *there, lp_error *err) {
    lp_error why = {0};
    size_t bytes = session->model.arena_bytes + sizeof(lp_model_turns);
    lp_status status = lp_shared_new(session->parallel, bytes, &session->arena, &why);
    *there = status == LP_OK;
    if (use == LP_FOR_PLANNING && status == LP_ERR_MEMORY) {
        lp_log(
            LP_LOG_WARN,
            "%s: there is no memory for the weights (%.1f GiB): they are not loaded, and so neither checked nor timed",
            session->job.file, (double)bytes / 1073741824.0);
        return LP_OK;
    }
    if (status != LP_OK) *err = why;
    return status;
}

static lp_status open_model(lp_session *session, lp_session_use use, lp_error *err) {
    lp_model_source source = {.base = session->job.model.base,
                              .codi = session->job.model.codi,
                              .lora_rank = session->job.model.lora_rank,
                              .lora_alpha = session->job.model.lora_alpha,
                              .base_rounding = session->job.model.base_rounding,
                              .with_digests = lp_parallel_rank(session->parallel) == 0};
    lp_status status = LP_OK;
    lp_watch_doing(session->watch, "the model's files");
    status = lp_model_open(&source, &session->model, err);
    lp_watch_doing(session->watch, "");
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    mark(session, "model files");
    LP_TRY(lp_stage_open_device(session, err));
    mark(session, "device");
    LP_TRY(lp_stage_choose_matrices(session, err));
    /* The ranks of a node fill their arena together. Whose turn it is stands in the same memory, after the arena. */
    size_t arena_bytes = session->model.arena_bytes;
    /* A node may have no room for it where others have. */
    bool there = false;
    LP_TRY(lp_parallel_agree(session->parallel, make_room(session, use, &there, err), err));
    session->without_weights = !there;
    if (!there) goto out;
    unsigned char *arena = lp_shared_data(session->arena);
    lp_model_turns *turns = (void *)(arena + arena_bytes);
    if (lp_parallel_node_rank(session->parallel) == 0) *turns = (lp_model_turns){0};
    LP_TRY(lp_shared_fence(session->arena, err));
    lp_watch_doing(session->watch, "the model's weights");
    status = lp_model_fill(&session->model, arena, turns, err);
    lp_watch_doing(session->watch, "");
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    LP_TRY(lp_shared_fence(session->arena, err));
    lp_model_fill_codes(&session->model, arena, lp_parallel_node_rank(session->parallel),
                        lp_parallel_node_size(session->parallel));
    LP_TRY(lp_shared_fence(session->arena, err));
    LP_TRY(lp_stage_make_weights(session, err));
    mark(session, "weights");
out:
    return status;
}

lp_status lp_session_know_files(lp_session *session, lp_error *err) {
    lp_text digests = {0};
    uint64_t length = 0;
    double began = lp_seconds_now();
    lp_status status = LP_OK;
    if (session->model_digests) return LP_OK;
    if (session->computes)
        lp_log(LP_LOG_DEBUG, "first results after %.3f seconds: they wait for the digests of the model's files",
               began - session->opened);
    if (lp_parallel_rank(session->parallel) == 0) {
        status = lp_model_digests(&session->model, &digests, err);
        length = digests.length;
    }
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    LP_TRY(lp_parallel_broadcast(session->parallel, &length, sizeof length, err));
    LP_TRY(lp_mem_new(&session->model_digests, (size_t)length + 1, 1, "digests", err));
    if (digests.data) memcpy(session->model_digests, digests.data, (size_t)length);
    LP_TRY(lp_parallel_broadcast(session->parallel, session->model_digests, (size_t)length, err));
    if (lp_parallel_rank(session->parallel) == 0) {
        double longest = 0, now = lp_seconds_now();
        int n = lp_model_digest_threads(&session->model, &longest);
        lp_log(LP_LOG_DEBUG,
               "digests asked for after %.3f seconds, known after %.3f (of %d threads, the longest took %.3f)",
               began - session->opened, now - session->opened, n, longest);
    }
out:
    lp_text_release(&digests);
    return status;
}

static lp_status measure_prompts(lp_session *session, lp_error *err) {
    const lp_job *job = &session->job;
    lp_token_list ids = {0};
    int32_t n_start = session->vocabulary.n_answer_start;
    int32_t rest = job->protocol.n_steps + n_start + job->decode.max_new_tokens - 1;
    lp_status status = LP_OK;
    for (int side = 0; side < 2; side++)
        LP_TRY(lp_mem_new(&session->n_prompt[side], (size_t)session->n_pairs, sizeof(int32_t), "prompt lengths", err));
    for (int64_t i = 0; i < session->n_pairs; i++)
        for (int side = 0; side < 2; side++) {
            LP_TRY(lp_session_prompt(session, i, side, &ids, err));
            if ((int64_t)ids.n + rest > session->model.config.n_context)
                LP_FAIL(
                    LP_ERR_VALUE,
                    "%s: pair %s (%s): expected at most %d positions (the model's context), found %zu of the prompt + %d "
                    "thoughts + %d for the answer (decode.max_new_tokens is %d)",
                    job->pairs.file, session->pairs.pairs[i].id, side == LP_CLEAN ? "clean" : "corrupted",
                    session->model.config.n_context, ids.n, job->protocol.n_steps,
                    n_start + job->decode.max_new_tokens - 1, job->decode.max_new_tokens);
            session->n_prompt[side][i] = (int32_t)ids.n;
            if ((int32_t)ids.n > session->longest_prompt) session->longest_prompt = (int32_t)ids.n;
        }
out:
    lp_token_list_release(&ids);
    return status;
}

/* A sweep that does not fit the model is refused before anything is computed. */
static lp_status make_conditions(lp_session *session, lp_error *err) {
    int32_t n_candidates = session->vocabulary.n_candidates - session->vocabulary.n_not_chosen;
    if (session->job.lens_top > n_candidates)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: $.readout: expected at most top %d (the tokens that may be chosen), found %d",
                       session->job.file, n_candidates, session->job.lens_top);
    if (!session->job.sweep.present) return LP_OK;
    return lp_job_conditions(&session->job, &session->model.config, &session->conditions, err);
}

static lp_status open_local(lp_session *session, const char *job_file, const char *const *settings, size_t n_settings,
                            lp_error *err) {
    LP_CHECK(lp_job_load(job_file, settings, n_settings, &session->job, err));
    LP_CHECK(lp_job_check_files(&session->job, err));
    session->resolved_job = session->job.text;
    lp_pairs_options options = {.mode = LP_PAIRS_STRICT, .equal_answers = session->job.pairs.equal_answers};
    LP_CHECK(lp_pairs_load(session->job.pairs.file, &options, &session->pairs, err));
    session->n_pairs = (int64_t)session->pairs.n;
    if (session->job.pairs.limit > 0 && session->job.pairs.limit < session->n_pairs)
        session->n_pairs = session->job.pairs.limit;
    return lp_tokenizer_load(session->job.model.tokenizer, &session->tokenizer, err);
}

/* May a session begin without the digests? On several ranks they would meet again to open the file, and those with the
 * shorter pairs would wait. Results that are there, or what belongs to them, are compared before anything is computed.
 */
static bool may_begin(const lp_session *session) {
    const lp_job *job = &session->job;
    lp_text partial = {0};
    if (lp_parallel_size(session->parallel) > 1) return false;
    bool nothing = true;
    if (job->results.file) {
        nothing = lp_results_partial_path(job->results.file, &partial, NULL) == LP_OK &&
                  lp_path_look(lp_text_get(&partial)) == LP_PATH_MISSING &&
                  lp_path_look(job->results.file) == LP_PATH_MISSING &&
                  lp_path_look(job->results.summary) == LP_PATH_MISSING;
        lp_text_release(&partial);
    }
    return nothing;
}

lp_status lp_session_open(const lp_parallel *parallel, lp_session_use use, const char *job_file,
                          const char *const *settings, size_t n_settings, lp_session *session, lp_error *err) {
    lp_status status = LP_OK;
    *session = (lp_session){.parallel = parallel, .opened = lp_seconds_now()};
    LP_TRY(lp_parallel_agree(parallel, open_local(session, job_file, settings, n_settings, err), err));
    mark(session, "job and pairs");
    LP_TRY(lp_watch_start(parallel, INT64_C(1000) * session->job.engine.hang_limit_s, &session->watch, err));
    LP_TRY(open_model(session, use, err));
    status = lp_vocabulary_init(&session->model, session->tokenizer, session->job.model.tokenizer,
                                session->job.decode.eos, &session->job.protocol, &session->vocabulary, err);
    if (status == LP_OK) status = make_conditions(session, err);
    if (status == LP_OK) status = measure_prompts(session, err);
    LP_TRY(lp_parallel_agree(parallel, status, err));
    mark(session, "prompts");
    if (lp_parallel_rank(parallel) == 0)
        lp_log(LP_LOG_DEBUG, "ready after seconds: %s; %.3f of processor time", session->timeline,
               (double)clock() / CLOCKS_PER_SEC);
    if (use == LP_FOR_PLANNING || !may_begin(session)) {
        lp_watch_doing(session->watch, "the digests of the model's files");
        status = lp_session_know_files(session, err);
        lp_watch_doing(session->watch, "");
        LP_TRY(status);
    }
    session->computes = !session->model_digests;
    return LP_OK;
out:
    lp_session_close(session);
    return status;
}

void lp_session_close(lp_session *session) {
    lp_watch_stop(session->watch);
    lp_weights_free(session->weights);
    lp_backend_free(session->backend);
    lp_model_close(&session->model);
    lp_shared_free(session->arena);
    lp_tokenizer_free(session->tokenizer);
    lp_pairs_release(&session->pairs);
    for (int side = 0; side < 2; side++) lp_mem_free(session->n_prompt[side]);
    lp_mem_free(session->model_digests);
    lp_condition_set_release(&session->conditions);
    lp_job_release(&session->job);
    *session = (lp_session){0};
}

int32_t lp_session_max_positions(const lp_session *session) {
    enum { FORCED_ANSWER = 2 * LP_ANSWER_TEXT }; /* a number, what stands in front of it, and eos */
    int32_t most = session->longest_prompt + session->job.protocol.n_steps + session->vocabulary.n_answer_start + 1 +
                   session->job.decode.max_new_tokens + FORCED_ANSWER;
    return most < session->model.config.n_context ? most : session->model.config.n_context;
}

lp_executor_options lp_session_executor(const lp_session *session) {
    return (lp_executor_options){.model = &session->model,
                                 .protocol = session->job.protocol,
                                 .vocabulary = session->vocabulary,
                                 .max_new_tokens = session->job.decode.max_new_tokens,
                                 .max_positions = lp_session_max_positions(session)};
}

void lp_provenance_add(lp_provenance *provenance, const char *key, const char *value, bool identity) {
    LP_ASSERT(provenance->n < LP_MAX_PROVENANCE);
    char *copy = provenance->texts[provenance->n];
    if (strlen(value) < LP_PROVENANCE_TEXT) {
        snprintf(copy, LP_PROVENANCE_TEXT, "%s", value);
        value = copy;
    }
    provenance->items[provenance->n++] = (lp_provenance_item){.key = key, .value = value, .identity = identity};
}

static void add_number(lp_provenance *provenance, const char *key, double value, bool identity) {
    char text[32];
    snprintf(text, sizeof text, "%.17g", value);
    lp_provenance_add(provenance, key, text, identity);
}

static void add_protocol(const lp_session *session, lp_provenance *provenance) {
    const lp_protocol *protocol = &session->job.protocol;
    const struct {
        const char *key;
        const lp_marker_list *list;
    } lists[] = {{"after_question", &protocol->after_question},
                 {"answer_start", &protocol->answer_start},
                 {"not_chosen", &protocol->not_chosen},
                 {"stop", &protocol->stop}};
    char label[32], text[LP_PROVENANCE_TEXT];
    lp_provenance_add(provenance, "protocol", lp_protocol_label(protocol, label), true);
    add_number(provenance, "steps", protocol->n_steps, true);
    lp_provenance_add(provenance, "normalise_spaces", protocol->normalise_spaces ? "true" : "false", true);
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        lp_marker_list_text(lists[i].list, text, sizeof text);
        lp_provenance_add(provenance, lists[i].key, text, true);
    }
    lp_provenance_add(provenance, "first_input", lp_protocol_first_input(protocol, text, sizeof text), true);
    lp_provenance_add(provenance, "feedback", lp_feedback_names()[protocol->feedback], true);
    lp_vocabulary_text(&session->vocabulary, text, sizeof text);
    lp_provenance_add(provenance, "token_ids", text, true);
}

static const char model_files[] = "model_files";

void lp_session_provenance(const lp_session *session, lp_provenance *provenance) {
    char now[LP_UTC_TEXT];
    lp_utc_now(now);
    const lp_job *job = &session->job;
    *provenance = (lp_provenance){0};
    lp_provenance_add(provenance, "tool", "latentpatch", false);
    lp_provenance_add(provenance, "version", lp_build_version(), false);
    lp_provenance_add(provenance, "revision", lp_build_revision(), false);
    lp_provenance_add(provenance, "compiler", lp_build_compiler(), false);
    lp_provenance_add(provenance, "flags", lp_build_flags(), false);
    lp_provenance_add(provenance, "mpi", lp_parallel_library(), false);
    lp_provenance_add(provenance, "host", lp_parallel_host(session->parallel), false);
    add_number(provenance, "ranks", lp_parallel_size(session->parallel), false);
    lp_provenance_add(provenance, "start", now, false);
    lp_provenance_add(provenance, "end", "", false);
    lp_provenance_add(provenance, "job", session->resolved_job, false);
    lp_provenance_add(provenance, "model", job->model.name, false);
    bool known = session->model_digests != NULL;
    lp_provenance_add(provenance, model_files, known ? session->model_digests : "", known);
    lp_provenance_add(provenance, "tokenizer", lp_tokenizer_digest(session->tokenizer), true);
    lp_provenance_add(provenance, "clean_up_spaces", lp_tokenizer_cleans_up(session->tokenizer) ? "true" : "false",
                      true);
    lp_provenance_add(provenance, "pair_file", session->pairs.digest, true);
    add_protocol(session, provenance);
    add_number(provenance, "lora_alpha", job->model.lora_alpha, true);
    lp_provenance_add(provenance, "base_rounding", job->model.base_rounding == LP_BASE_FP16 ? "fp16" : "none", true);
    add_number(provenance, "max_new_tokens", job->decode.max_new_tokens, true);
    add_number(provenance, "eos", session->vocabulary.eos, true);
    lp_provenance_add(provenance, "dtype", lp_compute_names()[job->engine.dtype], true);
    lp_provenance_add(provenance, "executor", lp_executor_names()[job->engine.executor], false);
}

void lp_session_complete_provenance(const lp_session *session, lp_provenance *provenance) {
    LP_ASSERT(session->model_digests);
    for (size_t i = 0; i < provenance->n; i++)
        if (strcmp(provenance->items[i].key, model_files) == 0) {
            provenance->items[i].value = session->model_digests;
            provenance->items[i].identity = true;
        }
}
