#include "stage/sweep.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "stage/estimate.h"
#include "stage/execute.h"
#include "stage/pool.h"
#include "stage/store_spec.h"
#include "stage/sweep_identity.h"
#include "stage/sweep_unit.h"
#include "store/lock.h"

#include <math.h>

/* Everything of the sweep that lives as long as the stage, on each rank. */
typedef struct {
    lp_session *session;
    lp_sweep_plan *plan;
    lp_sweep_context context;
    bool created; /* the file of the rows was; valid where it is open */
    lp_deal *deal;
    lp_lock *lock;
    lp_stage_pool units;
    int64_t n_taken; /* units dealt to this rank and not done yet */
    /* what the results file says about pairs and conditions */
    lp_results_plan described;
    lp_result_condition *conditions;
    char (*indices)[12]; /* [C] of the conditions, in words */
    lp_sweep_identity *identity;
    lp_text families;      /* what is known of conditions beforehand, in words */
    lp_store_tables pairs; /* what the store says of them */
    char **answers[2];     /* texts of the unpatched answers, by side */
    uint8_t *correct[2];
    uint8_t *included;
    uint8_t *skip; /* pairs that are not dealt */
} sweep_work;

/* ---- Units ------------------------------------------------------------------------------------------------------- */

static lp_status take_unit(sweep_work *sweep, lp_sweep_unit **out, lp_error *err) {
    lp_sweep_unit *unit = lp_stage_pool_take(&sweep->units);
    lp_status status = LP_OK;
    if (!unit) {
        LP_TRY(lp_sweep_unit_new(&sweep->context, &unit, err));
        status = lp_stage_pool_add(&sweep->units, unit, err);
        if (status != LP_OK) lp_sweep_unit_free(unit);
    }
    *out = unit;
out:
    return status;
}

static lp_status next_pair(void *user, lp_work_unit **unit, lp_error *err) {
    sweep_work *sweep = user;
    const int64_t *ids = NULL;
    int64_t n = 0;
    lp_sweep_unit *sweep_unit = NULL;
    *unit = NULL;
    /* Taking everything at once would leave nothing to the other ranks. */
    if (sweep->n_taken > 0 && sweep->n_taken >= lp_stage_share(sweep->session, lp_deal_total(sweep->deal)))
        return LP_OK;
    LP_CHECK(lp_deal_next(sweep->deal, 1, &ids, &n, err));
    if (n == 0) return LP_OK;
    LP_CHECK(take_unit(sweep, &sweep_unit, err));
    LP_CHECK(lp_sweep_unit_prepare(&sweep->context, sweep_unit, ids[0], err));
    *unit = &sweep_unit->unit;
    sweep->n_taken++;
    return LP_OK;
}

static lp_status compare_store(sweep_work *sweep, lp_error *err) {
    lp_session *session = sweep->session;
    lp_store_tables tables = {0};
    lp_record_file_spec spec;
    lp_provenance *expected = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&expected, 1, sizeof *expected, "provenance", err));
    LP_TRY(lp_store_spec(session, sweep->plan->layout, expected, &tables, &spec, err));
    LP_TRY(lp_record_file_compare(sweep->context.store, &spec, err));
    if (sweep->pairs.texts[0]) goto out;
    sweep->pairs = tables;
    tables = (lp_store_tables){0};
out:
    lp_store_tables_release(&tables);
    lp_mem_free(expected);
    return status;
}

/* Collective. Opens the file of the rows where it is not open: it says which files it was made from. Where that was not
 * known when the store was compared, the store is compared once more. */
static lp_status open_rows(sweep_work *sweep, lp_error *err) {
    lp_session *session = sweep->session;
    bool late = !session->model_digests;
    if (sweep->context.partial) return LP_OK;
    LP_CHECK(lp_session_know_files(session, err));
    if (late) LP_CHECK(compare_store(sweep, err));
    lp_session_complete_provenance(session, &sweep->identity->provenance);
    return lp_results_partial_open(session->parallel, session->job.results.file, &sweep->described,
                                   &sweep->context.partial, &sweep->created, err);
}

static lp_status run_done(void *user, lp_work_unit *unit, size_t group, size_t run, const lp_run_result *result,
                          lp_error *err) {
    sweep_work *sweep = user;
    LP_CHECK(open_rows(sweep, err));
    return lp_sweep_unit_take(&sweep->context, unit->user, group, run, result, err);
}

static lp_status pair_done(void *user, lp_work_unit *unit, lp_error *err) {
    sweep_work *sweep = user;
    lp_sweep_unit *sweep_unit = unit->user;
    sweep->n_taken--;
    lp_status status = open_rows(sweep, err);
    if (status == LP_OK) status = lp_sweep_unit_end(&sweep->context, sweep_unit, err);
    if (status == LP_OK) lp_deal_done(sweep->deal, 1);
    lp_stage_pool_give(&sweep->units, sweep_unit);
    return status;
}

/* ---- The store --------------------------------------------------------------------------------------------------- */

/* Opens the store for reading on this rank, checks that it belongs to this job and that every pair is there. */
static lp_status open_store(sweep_work *sweep, lp_error *err) {
    lp_session *session = sweep->session;
    if (lp_path_look(session->job.store.file) != LP_PATH_FILE)
        return lp_fail(err, LP_ERR_IO, "%s: no such store: run `latentpatch cache` first", session->job.store.file);
    LP_CHECK(lp_record_file_open_read(session->job.store.file, &sweep->context.store, err));
    LP_CHECK(compare_store(sweep, err));
    int64_t done = lp_record_file_n_done_of(sweep->context.store, session->n_pairs);
    if (done != session->n_pairs)
        return lp_fail(err, LP_ERR_MISMATCH,
                       "%s: expected %lld finished pairs, found %lld: run `latentpatch cache` again",
                       session->job.store.file, (long long)session->n_pairs, (long long)done);
    return LP_OK;
}

/* What the unpatched runs answered, and which pairs the filter lets in. Each rank reads for itself: it is a few numbers
 * a pair. */
static lp_status read_answers(sweep_work *sweep, lp_error *err) {
    lp_session *session = sweep->session;
    size_t p = (size_t)session->n_pairs;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&sweep->included, p, 1, "included pairs", err));
    LP_TRY(lp_mem_new(&sweep->skip, p, 1, "included pairs", err));
    for (int side = 0; side < 2; side++) {
        LP_TRY(lp_mem_new(&sweep->answers[side], p, sizeof(char *), "answers", err));
        LP_TRY(lp_mem_new(&sweep->correct[side], p, 1, "answers", err));
        for (size_t i = 0; i < p; i++) {
            bool right = false;
            LP_TRY(lp_store_answer(session, sweep->plan->layout, sweep->context.store, (int64_t)i, side, &text, &right,
                                   err));
            LP_TRY(lp_mem_text(&sweep->answers[side][i], lp_text_get(&text), text.length, err));
            sweep->correct[side][i] = right;
        }
    }
    for (size_t i = 0; i < p; i++) {
        bool clean = sweep->correct[LP_CLEAN][i], corrupted = sweep->correct[LP_CORRUPTED][i];
        sweep->included[i] = session->job.sweep.filter == LP_FILTER_ALL ||
                             (clean && (corrupted || session->job.sweep.filter == LP_FILTER_CLEAN_CORRECT));
    }
out:
    lp_text_release(&text);
    return status;
}

/* ---- What the results say about themselves ----------------------------------------------------------------------- */

static lp_status describe_conditions(sweep_work *sweep, lp_error *err) {
    const lp_condition_set *set = sweep->plan->set;
    LP_CHECK(lp_mem_new(&sweep->conditions, set->n, sizeof *sweep->conditions, "conditions", err));
    LP_CHECK(lp_mem_new(&sweep->indices, set->n, sizeof *sweep->indices, "conditions", err));
    for (size_t i = 0; i < set->n; i++) {
        const lp_condition *condition = &set->conditions[i];
        char *index = sweep->indices[i];
        bool unpatched = condition->role == LP_ROLE_UNPATCHED, edges = condition->operation == LP_OP_FORBID;
        if (!unpatched && condition->phase != LP_PHASE_THOUGHT && condition->index == LP_INDEX_ALL)
            snprintf(index, sizeof sweep->indices[i], "all");
        else if (!unpatched && condition->phase != LP_PHASE_THOUGHT)
            snprintf(index, sizeof sweep->indices[i], "%d", condition->index);
        sweep->conditions[i] = (lp_result_condition){
            .name = condition->name,
            .role = lp_role_names()[condition->role],
            .direction = lp_direction_names()[condition->direction],
            .phase = unpatched ? "" : lp_phase_names()[condition->phase],
            .site = unpatched ? ""
                    : edges   ? "attn_edge"
                              : condition->sites,
            .layer = condition->layer,
            .layers = condition->layers,
            .head = condition->head == LP_ALL_HEADS ? -1 : condition->head,
            .steps = condition->steps,
            .step_mask = condition->mask,
            .n_steps = __builtin_popcountll(condition->mask),
            .index = index,
            .donor = condition->donor_words ? condition->donor_words : "",
            .vector = condition->vector,
            .draw = condition->draw,
            .from_site = condition->from_other_site ? lp_site_names()[condition->from_site] : "",
            .from_layer = condition->from_layer,
            .from_step = condition->from_step,
            .operation = unpatched                    ? ""
                         : condition->operation_words ? condition->operation_words
                                                      : lp_operation_names()[condition->operation],
            .factor = condition->factor,
            .stop_after = condition->stop_after,
            .defects = condition->defects,
            .dead = sweep->plan->dead[i],
            .identity = sweep->plan->identity[i],
            .same_as = sweep->plan->same_as[i]};
    }
    return LP_OK;
}

static lp_status describe(sweep_work *sweep, lp_error *err) {
    lp_session *session = sweep->session;
    LP_CHECK(describe_conditions(sweep, err));
    LP_CHECK(lp_mem_new(&sweep->identity, 1, sizeof *sweep->identity, "provenance", err));
    LP_CHECK(lp_sweep_identity_init(session, sweep->plan->set, sweep->identity, err));
    lp_provenance *provenance = &sweep->identity->provenance;
    lp_provenance_add(provenance, "device", session->device, false);
    lp_provenance_add(provenance, "store.file", session->job.store.file, false);
    LP_CHECK(lp_sweep_plan_families(sweep->plan, LP_FAMILIES_ALONE, &sweep->families, err));
    if (sweep->families.length > 0)
        lp_provenance_add(provenance, "known_beforehand", lp_text_get(&sweep->families), false);
    static const char *const of_store[][2] = {{"start", "store.start"},       {"host", "store.host"},
                                              {"revision", "store.revision"}, {"ranks", "store.ranks"},
                                              {"n_pairs", "store.n_pairs"},   {"device", "store.device"}};
    for (size_t i = 0; i < sizeof of_store / sizeof of_store[0]; i++) {
        const char *value = lp_record_file_provenance(sweep->context.store, of_store[i][0]);
        if (value) lp_provenance_add(provenance, of_store[i][1], value, false);
    }
    sweep->described = (lp_results_plan){.n_pairs = session->n_pairs,
                                         .pair_id = sweep->pairs.texts[0],
                                         .pair_source = sweep->pairs.texts[1],
                                         .clean_question = sweep->pairs.texts[2],
                                         .corrupted_question = sweep->pairs.texts[3],
                                         .clean_answer = sweep->pairs.answers[LP_CLEAN],
                                         .corrupted_answer = sweep->pairs.answers[LP_CORRUPTED],
                                         .clean_text = (const char *const *)sweep->answers[LP_CLEAN],
                                         .corrupted_text = (const char *const *)sweep->answers[LP_CORRUPTED],
                                         .clean_correct = sweep->correct[LP_CLEAN],
                                         .corrupted_correct = sweep->correct[LP_CORRUPTED],
                                         .included = sweep->included,
                                         .conditions = sweep->conditions,
                                         .n_conditions = (int32_t)sweep->plan->set->n,
                                         .max_new_tokens = session->job.decode.max_new_tokens,
                                         .metrics = sweep->context.metric_names,
                                         .n_metrics = sweep->context.n_metrics,
                                         .lens = sweep->context.lens,
                                         .provenance = provenance->items,
                                         .n_provenance = provenance->n};
    return LP_OK;
}

static lp_status show_token(void *state, const int32_t *tokens, size_t n, lp_text *out, lp_error *err) {
    const lp_session *session = state;
    LP_ASSERT(n == 1);
    return lp_lens_show(session->tokenizer, &session->vocabulary, tokens[0], out, err);
}

/* Conditions with the same run, one after the other. */
static lp_status link_same(sweep_work *sweep, lp_error *err) {
    int32_t *next = NULL;
    lp_status status = lp_mem_new(&next, sweep->plan->set->n, sizeof *next, "conditions", err);
    for (size_t i = 0; status == LP_OK && i < sweep->plan->set->n; i++) next[i] = -1;
    for (size_t i = sweep->plan->set->n; status == LP_OK && i-- > 0;) {
        size_t first = (size_t)sweep->plan->same_as[i];
        if (first == i) continue;
        next[i] = next[first];
        next[first] = (int32_t)i;
    }
    sweep->context.next_same = next;
    return status;
}

/* All that one rank can prepare by itself. */
static lp_status prepare(sweep_work *sweep, lp_error *err) {
    lp_session *session = sweep->session;
    lp_sweep_plan *plan = sweep->plan;
    sweep->context = (lp_sweep_context){.session = session, .plan = plan};
    sweep->context.n_answer_metrics = lp_sweep_answer_metrics(&session->job);
    sweep->context.n_metrics = lp_sweep_metrics(&session->job, sweep->context.metric_names);
    if (session->job.lens_top > 0)
        sweep->context.lens = (lp_lens_shape){.n_positions = lp_lens_positions(session->job.protocol.n_steps),
                                              .n_layers = session->model.config.n_layers,
                                              .top = session->job.lens_top,
                                              .show = show_token};
    LP_CHECK(open_store(sweep, err));
    for (int d = 0; d < 2; d++)
        if (lp_donor_table_needs_sums(&plan->donors[d]))
            LP_CHECK(lp_donor_table_sum(&plan->donors[d], sweep->context.store, err));
    LP_CHECK(read_answers(sweep, err));
    LP_CHECK(describe(sweep, err));
    LP_CHECK(link_same(sweep, err));
    return lp_mem_new(&sweep->context.counts, sweep->plan->set->n * LP_N_OUTCOMES, sizeof *sweep->context.counts,
                      "counts", err);
}

/* ---- The stage --------------------------------------------------------------------------------------------------- */

static lp_status run_all(sweep_work *sweep, const int64_t *costs, lp_sweep_report *report, lp_error *err) {
    lp_session *session = sweep->session;
    const uint8_t *state = sweep->context.partial ? lp_record_file_state(sweep->context.partial) : NULL;
    for (int64_t i = 0; i < session->n_pairs; i++) {
        bool done = state && state[i];
        sweep->skip[i] = done || !sweep->included[i];
        report->n_included += sweep->included[i];
        report->n_done_before += done && sweep->included[i];
    }
    /* For the display alone. */
    if (lp_parallel_rank(session->parallel) == 0 && lp_log_shows(LP_LOG_INFO) && session->row_layers_a_pair <= 0) {
        lp_estimate estimate;
        lp_error ignored = {0};
        if (lp_estimate_sweep(sweep->plan, LP_ASSUMED_ANSWER, &estimate, &ignored) == LP_OK)
            session->row_layers_a_pair = estimate.row_layers_shared / (double)estimate.n_pairs;
    }
    lp_stage_work work = {.label = "sweep",
                          .output = session->job.results.file,
                          .costs = costs,
                          .skip = sweep->skip,
                          .total = report->n_included,
                          .before = report->n_done_before,
                          .row_layers = session->row_layers_a_pair,
                          .file = &sweep->context.partial,
                          .created = &sweep->created,
                          .source = {.user = sweep, .next = next_pair, .run_done = run_done, .done = pair_done},
                          .deal = &sweep->deal};
    lp_status status = lp_stage_run(session, &work, err);
    /* A stage that was asked to stop leaves its file, also where no pair was done. */
    if (status == LP_OK || status == LP_ERR_STOPPED) {
        lp_status opened = open_rows(sweep, err);
        if (opened != LP_OK) status = opened;
    }
    return status;
}

static lp_status decode_answer(void *state, const int32_t *tokens, size_t n, lp_text *out, lp_error *err) {
    const lp_session *session = state;
    return lp_tokenizer_decode(session->tokenizer, tokens, n, LP_DECODE_ANSWER, out, err);
}

/* Why the row was not run; shapes: of the pair's unpatched run in each direction. */
static void count_not_run(sweep_work *sweep, int64_t pair, const lp_run_shape shapes[2], size_t condition) {
    const lp_condition *c = &sweep->plan->set->conditions[condition];
    const lp_donor_table *donors = &sweep->plan->donors[c->direction];
    lp_result_condition *counted = &sweep->conditions[condition];
    if (lp_condition_is_absent(sweep->plan->set, condition, &shapes[c->direction]))
        counted->n_no_position++;
    else if (c->donor == LP_DONOR_SHUFFLED && lp_donor_table_other(donors, c->draw, pair) == LP_NO_PAIR)
        counted->n_no_pair++;
    else
        counted->n_no_donor++;
}

static void say_not_run(const sweep_work *sweep) {
    int64_t n_no_position = 0, n_no_donor = 0, n_no_pair = 0;
    for (size_t i = 0; i < sweep->plan->set->n; i++) {
        n_no_position += sweep->conditions[i].n_no_position;
        n_no_donor += sweep->conditions[i].n_no_donor;
        n_no_pair += sweep->conditions[i].n_no_pair;
    }
    if (n_no_position + n_no_donor > 0)
        lp_log(LP_LOG_WARN,
               "%lld rows were not run: in %lld the pair's own run lacks a position that the condition names, in %lld "
               "the donor's run does",
               (long long)(n_no_position + n_no_donor), (long long)n_no_position, (long long)n_no_donor);
    if (n_no_pair > 0)
        lp_log(
            LP_LOG_WARN,
            "%lld rows of the donor shuffled were not run: every other pair has the source, the template, a question "
            "or an answer of the pair itself",
            (long long)n_no_pair);
}

/* How often controls that must change nothing changed something, over all rows, whichever life of the job made them:
 * differ[0] counts unpatched runs that differ from the store's answers, differ[1] rows of identity controls; and rows
 * that were not run. Rank 0, after the partial file was closed. */
static lp_status count_failed_controls(sweep_work *sweep, int64_t differ[2], lp_error *err) {
    lp_session *session = sweep->session;
    size_t c = sweep->plan->set->n, a = (size_t)session->job.decode.max_new_tokens;
    lp_text path = {0};
    lp_record_file *rows = NULL;
    uint8_t *outcome = NULL, *changed = NULL;
    int32_t *stored = NULL, *tokens = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_results_partial_path(session->job.results.file, &path, err));
    LP_TRY(lp_record_file_open_read(path.data, &rows, err));
    LP_TRY(lp_mem_new(&stored, a, sizeof *stored, "answer", err));
    LP_TRY(lp_mem_new(&tokens, a, sizeof *tokens, "answer", err));
    LP_TRY(lp_mem_new(&outcome, c, 1, "outcomes", err));
    LP_TRY(lp_mem_new(&changed, c, 1, "outcomes", err));
    for (int64_t i = 0; i < session->n_pairs; i++) {
        if (!sweep->included[i]) continue;
        lp_run_shape shapes[2] = {{0}};
        for (int d = 0; d < 2; d++)
            if (sweep->plan->used[d]) LP_TRY(lp_sweep_unit_shape(&sweep->context, i, d, &shapes[d], err));
        LP_TRY(lp_record_file_read(rows, i, LP_ROW_CHANGED, changed, err));
        LP_TRY(lp_record_file_read(rows, i, LP_ROW_OUTCOME, outcome, err));
        for (size_t k = 0; k < c; k++) {
            const lp_condition *condition = &sweep->plan->set->conditions[k];
            differ[1] += sweep->plan->identity[k] && changed[k];
            if (outcome[k] == LP_OUTCOME_NOT_RUN) count_not_run(sweep, i, shapes, k);
            if (condition->role != LP_ROLE_UNPATCHED) continue;
            int side = condition->direction == LP_DENOISE ? LP_CORRUPTED : LP_CLEAN;
            LP_TRY(lp_record_file_read(sweep->context.store, i,
                                       lp_store_layout_stored_field(sweep->plan->layout, side, LP_STORED_ANSWER_TOKENS),
                                       stored, err));
            LP_TRY(lp_record_file_read_part(rows, i, LP_ROW_ANSWER_TOKENS, (int64_t)k, 1, tokens, err));
            if (memcmp(stored, tokens, a * sizeof *stored) != 0) {
                differ[0]++;
                lp_log(LP_LOG_WARN, "pair %s: the unpatched run differs from the store's", session->pairs.pairs[i].id);
            }
        }
    }
    say_not_run(sweep);
out:
    lp_record_file_close(rows);
    lp_mem_free(outcome);
    lp_mem_free(changed);
    lp_mem_free(tokens);
    lp_mem_free(stored);
    lp_text_release(&path);
    return status;
}

/* What the engine counted on all ranks, in this life of the job: five texts for the provenance. Collective. */
typedef struct {
    char pages[24], preemptions[24], parts[24], rows[24], again[24];
} engine_texts;

static lp_status count_engine(const lp_session *session, engine_texts *out, lp_error *err) {
    const lp_engine_counters *counters = &session->counters;
    int64_t most = counters->most_pages;
    int64_t n[] = {(int64_t)counters->n_preemptions, (int64_t)counters->n_parts, (int64_t)counters->n_requests,
                   (int64_t)counters->rows,          (int64_t)counters->batches, (int64_t)counters->row_layers_lost,
                   (int64_t)counters->row_layers};
    lp_status status = lp_parallel_sum_i64(session->parallel, n, sizeof n / sizeof n[0], err);
    if (status == LP_OK) status = lp_parallel_max_i64(session->parallel, &most, 1, err);
    if (status != LP_OK) return status;
    snprintf(out->pages, sizeof out->pages, "%lld", (long long)most);
    snprintf(out->preemptions, sizeof out->preemptions, "%lld", (long long)n[0]);
    snprintf(out->parts, sizeof out->parts, "%.3f", n[2] > 0 ? (double)n[1] / (double)n[2] : 0.0);
    snprintf(out->rows, sizeof out->rows, "%.1f", n[4] > 0 ? (double)n[3] / (double)n[4] : 0.0);
    snprintf(out->again, sizeof out->again, "%.6f", n[6] > 0 ? (double)n[5] / (double)n[6] : 0.0);
    return LP_OK;
}

static lp_status finish(sweep_work *sweep, lp_sweep_report *report, lp_error *err) {
    lp_session *session = sweep->session;
    lp_provenance *provenance = &sweep->identity->provenance;
    lp_results_paths paths = {
        .results = session->job.results.file, .csv = session->job.results.csv, .summary = session->job.results.summary};
    lp_status status = LP_OK;
    engine_texts engine;
    LP_TRY(lp_parallel_sum_i64(session->parallel, sweep->context.counts, sweep->plan->set->n * LP_N_OUTCOMES, err));
    LP_TRY(count_engine(session, &engine, err));
    lp_record_file_close(sweep->context.partial);
    sweep->context.partial = NULL;
    if (lp_parallel_rank(session->parallel) == 0) {
        char now[LP_UTC_TEXT];
        int64_t failed[2] = {0};
        status = count_failed_controls(sweep, failed, err);
        report->n_unpatched_differ = failed[0];
        report->n_self_differ = failed[1];
        lp_utc_now(now);
        for (size_t i = 0; i < provenance->n; i++)
            if (strcmp(provenance->items[i].key, "end") == 0) provenance->items[i].value = now;
        char differ[2][24];
        for (int i = 0; i < 2; i++) snprintf(differ[i], sizeof differ[i], "%lld", (long long)failed[i]);
        lp_provenance_add(provenance, "control.unpatched_differ", differ[0], false);
        lp_provenance_add(provenance, "control.self_differ", differ[1], false);
        lp_provenance_add(provenance, "engine.most_pages", engine.pages, false);
        lp_provenance_add(provenance, "engine.preemptions", engine.preemptions, false);
        lp_provenance_add(provenance, "engine.parts_per_request", engine.parts, false);
        lp_provenance_add(provenance, "engine.rows_per_batch", engine.rows, false);
        lp_provenance_add(provenance, "engine.recomputed", engine.again, false);
        sweep->described.n_provenance = provenance->n;
        if (status == LP_OK)
            status = lp_results_finish(&paths, &sweep->described, sweep->context.counts, decode_answer, session, err);
    }
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
out:
    return status;
}

static void release(sweep_work *sweep) {
    for (size_t i = 0; i < sweep->units.n_made; i++) lp_sweep_unit_free(sweep->units.made[i]);
    lp_stage_pool_release(&sweep->units);
    lp_record_file_close(sweep->context.partial);
    lp_lock_release(sweep->lock);
    lp_pair_record_release(&sweep->context.own);
    lp_pair_record_release(&sweep->context.other);
    lp_record_file_close(sweep->context.store);
    size_t p = (size_t)sweep->session->n_pairs;
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; sweep->answers[side] && i < p; i++) lp_mem_free(sweep->answers[side][i]);
        lp_mem_free(sweep->answers[side]);
        lp_mem_free(sweep->correct[side]);
    }
    lp_store_tables_release(&sweep->pairs);
    lp_mem_free(sweep->included);
    lp_mem_free(sweep->skip);
    lp_mem_free(sweep->conditions);
    lp_mem_free(sweep->indices);
    if (sweep->identity) lp_sweep_identity_release(sweep->identity);
    lp_text_release(&sweep->families);
    lp_mem_free(sweep->identity);
    lp_mem_free(sweep->context.counts);
    lp_mem_free(sweep->context.next_same);
}

/* Of all three outputs: better refused now than when the work is done. */
static lp_status make_folders(const lp_job *job, lp_error *err) {
    lp_status status = lp_path_make_folder_for(job->results.file, err);
    if (status == LP_OK) status = lp_path_make_folder_for(job->results.csv, err);
    if (status == LP_OK) status = lp_path_make_folder_for(job->results.summary, err);
    return status;
}

/* The two other outputs are written with the results file, and only then. */
static void say_missing(const lp_session *session) {
    const char *const outputs[] = {session->job.results.csv, session->job.results.summary};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        if (lp_parallel_rank(session->parallel) == 0 && lp_path_look(outputs[i]) == LP_PATH_MISSING)
            lp_log(LP_LOG_WARN,
                   "%s is missing: it is made together with %s; remove that file and run again to get both", outputs[i],
                   session->job.results.file);
}

lp_status lp_stage_sweep(lp_session *session, lp_sweep_plan *plan, lp_sweep_report *report, lp_error *err) {
    sweep_work sweep = {.session = session, .plan = plan};
    int64_t *costs = NULL;
    int64_t n_bad = 0;
    uint8_t complete = 0;
    lp_status status = LP_OK;
    *report = (lp_sweep_report){.n_pairs = session->n_pairs};
    LP_TRY(lp_parallel_agree(session->parallel, prepare(&sweep, err), err));
    LP_TRY(lp_mem_new(&costs, (size_t)session->n_pairs, sizeof *costs, "costs", err));
    for (int64_t i = 0; i < session->n_pairs; i++) costs[i] = session->n_prompt[0][i] + session->n_prompt[1][i];
    status = lp_parallel_rank(session->parallel) == 0 ? make_folders(&session->job, err) : LP_OK;
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    LP_TRY(lp_lock_take_all(session->parallel, session->job.results.file, &sweep.lock, err));
    LP_TRY(lp_parallel_agree(session->parallel, lp_stage_watch(session->job.results.file, err), err));
    bool is_complete = false;
    if (lp_parallel_rank(session->parallel) == 0)
        status = lp_sweep_look_at_results(session, sweep.identity, &is_complete, err);
    LP_TRY(lp_parallel_agree(session->parallel, status, err));
    complete = is_complete;
    LP_TRY(lp_parallel_broadcast(session->parallel, &complete, sizeof complete, err));
    if (complete) {
        report->was_complete = true;
        say_missing(session);
        for (int64_t i = 0; i < session->n_pairs; i++) report->n_included += sweep.included[i];
        goto out;
    }
    if (session->model_digests) LP_TRY(open_rows(&sweep, err));
    if (sweep.context.partial && !sweep.created) {
        LP_TRY(lp_record_file_recheck(sweep.context.partial, &n_bad, err));
        if (n_bad > 0)
            lp_log(LP_LOG_WARN, "%s.partial: the rows of %lld pairs were torn; they are made again",
                   session->job.results.file, (long long)n_bad);
        LP_TRY(lp_parallel_agree(session->parallel,
                                 lp_results_partial_count(sweep.context.partial, sweep.context.counts, err), err));
    }
    LP_TRY(run_all(&sweep, costs, report, err));
    LP_TRY(finish(&sweep, report, err));
out:
    release(&sweep);
    lp_mem_free(costs);
    return status;
}
