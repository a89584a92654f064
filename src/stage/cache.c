#include "stage/cache.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "stage/estimate.h"
#include "stage/execute.h"
#include "stage/layout.h"
#include "stage/pool.h"
#include "stage/store_spec.h"
#include "store/lock.h"

#include <math.h>
#include <unistd.h>

/* The record of one pair while its two runs are made. */
typedef struct {
    lp_work_unit unit;
    lp_run_group groups[2];
    lp_run_wanted runs[2];
    lp_run_result results[2];
    lp_token_list prompts[2];
    lp_capture *captures; /* clean's, then corrupted's */
    int32_t n_captures;   /* of one side */
    void **data;          /* [n_fields] */
} cache_record;

typedef struct {
    lp_session *session;
    const lp_store_layout *layout;
    lp_provenance *provenance; /* of the store */
    lp_record_file_spec spec;
    lp_record_file *store; /* NULL: not open yet */
    bool created;
    lp_deal *deal;
    lp_stage_pool records;
    int64_t n_taken; /* pairs dealt to this rank and not done yet */
} cache_work;

static void record_free(const cache_work *work, cache_record *record) {
    if (!record) return;
    for (int side = 0; side < 2; side++) {
        lp_token_list_release(&record->prompts[side]);
        lp_mem_free(record->results[side].tokens);
    }
    for (size_t i = 0; record->data && i < work->layout->n_fields; i++) lp_mem_free(record->data[i]);
    lp_mem_free(record->data);
    lp_mem_free(record->captures);
    lp_mem_free(record);
}

static size_t field_items(const lp_field *field) {
    size_t n = 1;
    for (int d = 0; d < field->n_dims; d++) n *= (size_t)field->dims[d];
    return n;
}

static int32_t captures_of_one_side(const lp_store_layout *layout) {
    int32_t n = 0;
    for (size_t i = 0; i < layout->n_captured; i++) n += layout->captured[i].n_layers * layout->captured[i].n_indices;
    return n;
}

static lp_status record_new(const cache_work *work, cache_record **out, lp_error *err) {
    const lp_store_layout *layout = work->layout;
    cache_record *record = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&record, 1, sizeof *record, "pair record", err));
    record->n_captures = captures_of_one_side(layout);
    LP_TRY(lp_mem_new(&record->captures, 2 * (size_t)record->n_captures, sizeof *record->captures, "captures", err));
    LP_TRY(lp_mem_new(&record->data, layout->n_fields, sizeof *record->data, "pair record", err));
    for (size_t i = 0; i < layout->n_fields; i++) {
        const lp_field *field = &layout->fields[i];
        LP_TRY(lp_mem_new(&record->data[i], field_items(field), lp_h5_item_bytes(field->type, field->text_bytes),
                          field->path, err));
    }
    for (int side = 0; side < 2; side++)
        LP_TRY(lp_mem_new(&record->results[side].tokens, (size_t)work->session->job.decode.max_new_tokens,
                          sizeof(int32_t), "answer", err));
    *out = record;
    return LP_OK;
out:
    record_free(work, record);
    return status;
}

static lp_status record_take(cache_work *work, cache_record **out, lp_error *err) {
    cache_record *record = lp_stage_pool_take(&work->records);
    lp_status status = LP_OK;
    if (!record) {
        LP_TRY(record_new(work, &record, err));
        status = lp_stage_pool_add(&work->records, record, err);
        if (status != LP_OK) record_free(work, record);
    }
    *out = record;
out:
    return status;
}

static void prepare_captures(const cache_work *work, cache_record *record, int side) {
    const lp_store_layout *layout = work->layout;
    lp_capture *capture = record->captures + (size_t)side * (size_t)record->n_captures;
    for (size_t i = 0; i < layout->n_captured; i++) {
        const lp_captured_site *captured = &layout->captured[i];
        float *out = record->data[lp_store_layout_site_field(layout, side, i)];
        /* Positions that the run does not have stay so; the record may hold another pair's. */
        for (size_t k = 0; k < field_items(&layout->fields[i]); k++) out[k] = NAN;
        for (int32_t l = 0; l < captured->n_layers; l++)
            for (int32_t k = 0; k < captured->n_indices; k++, out += captured->width) {
                int32_t index = captured->indices[k];
                if (captured->phase == LP_PHASE_PROMPT && index < 0) index += (int32_t)record->prompts[side].n;
                *capture++ = (lp_capture){.at = {.phase = captured->phase,
                                                 .index = index,
                                                 .site = captured->site,
                                                 .layer = captured->layers[l],
                                                 .head = LP_ALL_HEADS},
                                          .out = out};
            }
    }
}

static lp_status next_pair(void *user, lp_work_unit **unit, lp_error *err) {
    cache_work *work = user;
    const int64_t *ids = NULL;
    int64_t n = 0;
    cache_record *record = NULL;
    *unit = NULL;
    if (work->n_taken > 0 && work->n_taken >= lp_stage_share(work->session, lp_deal_total(work->deal))) return LP_OK;
    LP_CHECK(lp_deal_next(work->deal, 1, &ids, &n, err));
    if (n == 0) return LP_OK;
    LP_CHECK(record_take(work, &record, err));
    for (int side = 0; side < 2; side++) {
        LP_CHECK(lp_session_prompt(work->session, ids[0], side, &record->prompts[side], err));
        prepare_captures(work, record, side);
        record->runs[side] = (lp_run_wanted){.n_steps = work->session->job.protocol.n_steps,
                                             .captures = record->captures + (size_t)side * (size_t)record->n_captures,
                                             .n_captures = record->n_captures};
        record->groups[side] = (lp_run_group){.prompt = record->prompts[side].ids,
                                              .n_prompt = (int32_t)record->prompts[side].n,
                                              .runs = &record->runs[side],
                                              .results = &record->results[side],
                                              .n_runs = 1};
    }
    record->unit = (lp_work_unit){.id = ids[0], .groups = record->groups, .n_groups = 2, .user = record};
    *unit = &record->unit;
    work->n_taken++;
    return LP_OK;
}

static lp_status fill_answer(cache_work *work, cache_record *record, int side, lp_error *err) {
    const lp_session *session = work->session;
    const lp_store_layout *layout = work->layout;
    const lp_run_result *result = &record->results[side];
    const lp_pair *pair = &session->pairs.pairs[record->unit.id];
    lp_text text = {0}, kept = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_tokenizer_decode(session->tokenizer, result->tokens, (size_t)result->n_tokens, LP_DECODE_ANSWER, &text,
                               err));
    LP_TRY(lp_text_add_without_nul(&kept, lp_text_get(&text), text.length, err));
    lp_answer_outcome found = lp_classify(session->job.classifier, lp_text_get(&text), text.length, pair->clean.answer,
                                          pair->corrupted.answer);
#define STORED(what, type) ((type *)record->data[lp_store_layout_stored_field(layout, side, what)])
    *STORED(LP_STORED_PROMPT_TOKENS, int32_t) = (int32_t)record->prompts[side].n;
    int32_t *tokens = STORED(LP_STORED_ANSWER_TOKENS, int32_t);
    for (int32_t i = 0; i < session->job.decode.max_new_tokens; i++)
        tokens[i] = i < result->n_tokens ? result->tokens[i] : -1;
    *STORED(LP_STORED_ANSWER_LEN, int32_t) = result->n_tokens;
    *STORED(LP_STORED_ANSWER_ENDED, uint8_t) = result->ended;
    char *stored = STORED(LP_STORED_ANSWER_TEXT, char);
    size_t length = kept.length < LP_ANSWER_TEXT_BYTES ? kept.length : LP_ANSWER_TEXT_BYTES;
    while (length < kept.length && length > 0 && ((unsigned char)kept.data[length] & 0xc0) == 0x80) length--;
    memset(stored, 0, LP_ANSWER_TEXT_BYTES);
    memcpy(stored, lp_text_get(&kept), length);
    *STORED(LP_STORED_NUMBER, double) = found.has_number ? found.number : NAN;
    *STORED(LP_STORED_OUTCOME, uint8_t) = (uint8_t)found.outcome;
#undef STORED
out:
    lp_text_release(&kept);
    lp_text_release(&text);
    return status;
}

/* Collective. Opens the store for writing where it is not open: it says which files it was made from. */
static lp_status open_store(cache_work *work, lp_error *err) {
    lp_session *session = work->session;
    if (work->store) return LP_OK;
    LP_CHECK(lp_session_know_files(session, err));
    lp_session_complete_provenance(session, work->provenance);
    return lp_record_file_open(session->parallel, session->job.store.file, &work->spec, &work->store, &work->created,
                               err);
}

static lp_status pair_done(void *user, lp_work_unit *unit, lp_error *err) {
    cache_work *work = user;
    cache_record *record = unit->user;
    lp_status status = open_store(work, err);
    work->n_taken--;
    for (int side = 0; side < 2 && status == LP_OK; side++) status = fill_answer(work, record, side, err);
    if (status == LP_OK) status = lp_record_file_write(work->store, unit->id, (const void *const *)record->data, err);
    if (status == LP_OK) lp_deal_done(work->deal, 1);
    lp_stage_pool_give(&work->records, record);
    return status;
}

/* Reads every pair's answers. Rank 0. */
static lp_status count_right(const cache_work *work, lp_cache_report *report, lp_error *err) {
    const lp_session *session = work->session;
    lp_record_file *reader = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_record_file_open_read(session->job.store.file, &reader, err));
    for (int64_t i = 0; i < session->n_pairs; i++) {
        bool right[2];
        for (int side = 0; side < 2; side++)
            LP_TRY(lp_store_answer(session, work->layout, reader, i, side, &text, &right[side], err));
        report->n_clean_right += right[LP_CLEAN];
        report->n_corrupted_right += right[LP_CORRUPTED];
        report->n_both_right += right[LP_CLEAN] && right[LP_CORRUPTED];
    }
out:
    lp_record_file_close(reader);
    lp_text_release(&text);
    return status;
}

/* A store that is whole and cannot be written, nor locked, is used as it is: there is nothing to do. Rank 0; *finished
 * says whether it is one, and then the report is filled in. */
static lp_status use_read_only(const cache_work *work, lp_cache_report *report, int64_t *finished, lp_error *err) {
    const lp_session *session = work->session;
    const char *path = session->job.store.file;
    lp_record_file *reader = NULL;
    char *folder = NULL;
    lp_status status = LP_OK;
    *finished = 0;
    if (lp_path_look(path) != LP_PATH_FILE) return LP_OK;
    LP_TRY(lp_path_folder(path, &folder, err));
    if (access(path, W_OK) == 0 && access(folder, W_OK) == 0) goto out;
    LP_TRY(lp_record_file_open_read(path, &reader, err));
    LP_TRY(lp_record_file_compare(reader, &work->spec, err));
    report->n_done_before = lp_record_file_n_done_of(reader, session->n_pairs);
    if (report->n_done_before < session->n_pairs) goto out; /* what follows fails, with the reason */
    LP_TRY(count_right(work, report, err));
    lp_log(LP_LOG_INFO, "%s is complete and cannot be written: used as it is", path);
    *finished = 1;
out:
    lp_record_file_close(reader);
    lp_mem_free(folder);
    return status;
}

/* Both runs of a typical pair, for the display. */
static double row_layers_of_a_pair(const lp_session *session, const int64_t *costs) {
    double prompts = 0, rest = session->job.protocol.n_steps + LP_ASSUMED_ANSWER;
    for (int64_t i = 0; i < session->n_pairs; i++) prompts += (double)costs[i];
    return (prompts / (double)session->n_pairs + 2 * rest) * session->model.config.n_layers;
}

lp_status lp_stage_cache(lp_session *session, const lp_store_layout *layout, lp_cache_report *report, lp_error *err) {
    cache_work w = {.session = session, .layout = layout};
    lp_store_tables tables = {0};
    lp_lock *lock = NULL;
    int64_t *costs = NULL;
    int64_t n_bad = 0;
    lp_status status = LP_OK;
    *report = (lp_cache_report){.n_pairs = session->n_pairs};
    LP_TRY(lp_mem_new(&w.provenance, 1, sizeof *w.provenance, "provenance", err));
    LP_TRY(lp_mem_new(&costs, (size_t)session->n_pairs, sizeof *costs, "costs", err));
    for (int64_t i = 0; i < session->n_pairs; i++) costs[i] = session->n_prompt[0][i] + session->n_prompt[1][i];
    /* A new store is opened when there is something to write: its first pairs may be computed before it is known what
     * the model's files hold. */
    bool exists = lp_path_look(session->job.store.file) != LP_PATH_MISSING;
    if (exists) LP_TRY(lp_session_know_files(session, err));
    LP_TRY(
        lp_parallel_agree(session->parallel, lp_store_spec(session, layout, w.provenance, &tables, &w.spec, err), err));
    int64_t finished = 0;
    status = lp_parallel_rank(session->parallel) == 0 ? use_read_only(&w, report, &finished, err) : LP_OK;
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    LP_TRY(lp_parallel_max_i64(session->parallel, &finished, 1, err));
    if (finished) goto out;
    status = lp_parallel_rank(session->parallel) == 0 ? lp_path_make_folder_for(session->job.store.file, err) : LP_OK;
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    LP_TRY(lp_lock_take_all(session->parallel, session->job.store.file, &lock, err));
    LP_TRY(lp_parallel_agree(session->parallel, lp_stage_watch(session->job.store.file, err), err));
    if (exists || session->model_digests) LP_TRY(open_store(&w, err));
    if (w.store && !w.created) {
        LP_TRY(lp_record_file_recheck(w.store, &n_bad, err));
        if (n_bad > 0)
            lp_log(LP_LOG_WARN, "%s: %lld pairs were torn or altered; they are made again", session->job.store.file,
                   (long long)n_bad);
    }
    report->n_done_before = w.store ? lp_record_file_n_done_of(w.store, session->n_pairs) : 0;
    lp_stage_work work = {.label = "cache",
                          .output = session->job.store.file,
                          .costs = costs,
                          .skip = w.store ? lp_record_file_state(w.store) : NULL,
                          .total = session->n_pairs,
                          .before = report->n_done_before,
                          .row_layers = row_layers_of_a_pair(session, costs),
                          .file = &w.store,
                          .created = &w.created,
                          .source = {.user = &w, .next = next_pair, .done = pair_done},
                          .deal = &w.deal};
    status = lp_stage_run(session, &work, err);
    /* A stage that was asked to stop leaves its file, also where no pair was done. */
    if (status == LP_OK || status == LP_ERR_STOPPED) {
        lp_status opened = open_store(&w, err);
        if (opened != LP_OK) status = opened;
    }
    LP_TRY(status);
    if (report->n_done_before < session->n_pairs) {
        char now[LP_UTC_TEXT];
        lp_utc_now(now);
        LP_TRY(lp_record_file_note(w.store, "end", now, err));
    }
    LP_TRY(lp_record_file_flush(w.store, err));
    status = lp_parallel_rank(session->parallel) == 0 ? count_right(&w, report, err) : LP_OK;
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
out:
    for (size_t i = 0; i < w.records.n_made; i++) record_free(&w, w.records.made[i]);
    lp_stage_pool_release(&w.records);
    lp_record_file_close(w.store);
    lp_lock_release(lock);
    lp_store_tables_release(&tables);
    lp_mem_free(w.provenance);
    lp_mem_free(costs);
    return status;
}
