#include "stage/sweep.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
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
    lp_sweep_plan plan;
    lp_sweep_context context;
    lp_deal *deal;
    lp_lock *lock;
    lp_stage_pool units;
    int64_t n_taken; /* units dealt to this rank and not done yet */
    /* what the results file says about pairs and conditions */
    lp_results_plan described;
    lp_result_condition *conditions;
    char (*indices)[12];    /* [C] of the conditions, in words */
    char (*operations)[24]; /* [C] the same */
    lp_sweep_identity *identity;
    lp_text families;      /* what is known of conditions beforehand, in words */
    const char **texts[4]; /* id, source, clean and corrupted question */
    char **answers[2];     /* texts of the unpatched answers, by side */
    double *numbers[2];
    uint8_t *correct[2];
    uint8_t *included;
    uint8_t *skip; /* pairs that are not dealt */
} sweep;

/* ---- Units ------------------------------------------------------------------------------------------------------- */

static lp_status take_unit(sweep *w, lp_sweep_unit **out, lp_error *err) {
    lp_sweep_unit *u = lp_stage_pool_take(&w->units);
    lp_status status = LP_OK;
    if (!u) {
        LP_TRY(lp_sweep_unit_new(&w->context, &u, err));
        status = lp_stage_pool_add(&w->units, u, err);
        if (status != LP_OK) lp_sweep_unit_free(u);
    }
    *out = u;
out:
    return status;
}

static lp_status next_pair(void *user, lp_work_unit **unit, lp_error *err) {
    sweep *w = user;
    const int64_t *ids = NULL;
    int64_t n = 0;
    lp_sweep_unit *u = NULL;
    lp_status status = LP_OK;
    *unit = NULL;
    /* Taking everything at once would leave nothing to the other ranks. */
    if (w->n_taken > 0 && w->n_taken >= lp_stage_share(w->session, lp_deal_total(w->deal))) return LP_OK;
    LP_TRY(lp_deal_next(w->deal, 1, &ids, &n, err));
    if (n == 0) return LP_OK;
    LP_TRY(take_unit(w, &u, err));
    LP_TRY(lp_sweep_unit_prepare(&w->context, u, ids[0], err));
    *unit = &u->unit;
    w->n_taken++;
out:
    return status;
}

static lp_status run_done(void *user, lp_work_unit *unit, size_t group, size_t run, const lp_run_result *result,
                          lp_error *err) {
    sweep *w = user;
    return lp_sweep_unit_take(&w->context, unit->user, group, run, result, err);
}

static lp_status pair_done(void *user, lp_work_unit *unit, lp_error *err) {
    sweep *w = user;
    lp_sweep_unit *u = unit->user;
    w->n_taken--;
    lp_status status = lp_sweep_unit_end(&w->context, u, err);
    if (status == LP_OK) lp_deal_done(w->deal, 1);
    lp_stage_pool_give(&w->units, u);
    return status;
}

/* ---- The store --------------------------------------------------------------------------------------------------- */

/* Opens the store for reading on this rank, checks that it belongs to this job and that every pair is there. */
static lp_status open_store(sweep *w, lp_error *err) {
    lp_session *s = w->session;
    lp_store_tables tables = {0};
    lp_record_file_spec spec;
    lp_provenance *expected = NULL;
    lp_status status = LP_OK;
    if (lp_path_look(s->job.store.file) != LP_PATH_FILE)
        LP_FAIL(LP_ERR_IO, "%s: no such store: run `latentpatch cache` first", s->job.store.file);
    LP_TRY(lp_record_file_open_read(s->job.store.file, &w->context.store, err));
    LP_TRY(lp_mem_new(&expected, 1, sizeof *expected, "provenance", err));
    LP_TRY(lp_store_spec(s, w->plan.layout, expected, &tables, &spec, err));
    LP_TRY(lp_record_file_compare(w->context.store, &spec, err));
    int64_t done = lp_record_file_n_done_of(w->context.store, s->n_pairs);
    if (done != s->n_pairs)
        LP_FAIL(LP_ERR_MISMATCH, "%s: expected %lld finished pairs, found %lld: run `latentpatch cache` again",
                s->job.store.file, (long long)s->n_pairs, (long long)done);
out:
    lp_store_tables_release(&tables);
    lp_mem_free(expected);
    return status;
}

/* What the unpatched runs answered, and which pairs the filter lets in. Each rank reads for itself: it is a few numbers
 * a pair. */
static lp_status read_answers(sweep *w, lp_error *err) {
    lp_session *s = w->session;
    size_t p = (size_t)s->n_pairs;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&w->included, p, 1, "included pairs", err));
    LP_TRY(lp_mem_new(&w->skip, p, 1, "included pairs", err));
    for (int side = 0; side < 2; side++) {
        LP_TRY(lp_mem_new(&w->answers[side], p, sizeof(char *), "answers", err));
        LP_TRY(lp_mem_new(&w->numbers[side], p, sizeof(double), "answers", err));
        LP_TRY(lp_mem_new(&w->correct[side], p, 1, "answers", err));
        for (size_t i = 0; i < p; i++) {
            bool right = false;
            LP_TRY(lp_store_answer(s, w->plan.layout, w->context.store, (int64_t)i, side, &text, &right, err));
            LP_TRY(lp_mem_text(&w->answers[side][i], lp_text_get(&text), text.length, err));
            w->numbers[side][i] = lp_session_side(s, (int64_t)i, side)->answer;
            w->correct[side][i] = right;
        }
    }
    for (size_t i = 0; i < p; i++) {
        bool clean = w->correct[LP_CLEAN][i], corrupted = w->correct[LP_CORRUPTED][i];
        w->included[i] = s->job.sweep.filter == LP_FILTER_ALL ||
                         (clean && (corrupted || s->job.sweep.filter == LP_FILTER_CLEAN_CORRECT));
    }
out:
    lp_text_release(&text);
    return status;
}

/* ---- What the results say about themselves ----------------------------------------------------------------------- */

static lp_status describe_conditions(sweep *w, lp_error *err) {
    const lp_condition_set *set = &w->plan.set;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&w->conditions, set->n, sizeof *w->conditions, "conditions", err));
    LP_TRY(lp_mem_new(&w->indices, set->n, sizeof *w->indices, "conditions", err));
    LP_TRY(lp_mem_new(&w->operations, set->n, sizeof *w->operations, "conditions", err));
    for (size_t i = 0; i < set->n; i++) {
        const lp_condition *c = &set->conditions[i];
        char *index = w->indices[i];
        snprintf(w->operations[i], sizeof w->operations[i], c->subspace > 0 ? "%s(%d)" : "%s",
                 lp_operation_names()[c->operation], c->subspace - 1);
        bool unpatched = c->role == LP_ROLE_UNPATCHED, edges = c->operation == LP_OP_FORBID;
        if (!unpatched && c->phase != LP_PHASE_THOUGHT && c->index == LP_INDEX_ALL)
            snprintf(index, sizeof w->indices[i], "all");
        else if (!unpatched && c->phase != LP_PHASE_THOUGHT)
            snprintf(index, sizeof w->indices[i], "%d", c->index);
        w->conditions[i] = (lp_result_condition){.name = c->name,
                                                 .role = lp_role_names()[c->role],
                                                 .direction = lp_direction_names()[c->direction],
                                                 .phase = unpatched ? "" : lp_phase_names()[c->phase],
                                                 .site = unpatched ? ""
                                                         : edges   ? "attn_edge"
                                                                   : lp_site_names()[c->site],
                                                 .layer = c->layer,
                                                 .layers = c->layers,
                                                 .head = c->head == LP_ALL_HEADS ? -1 : c->head,
                                                 .steps = c->steps,
                                                 .step_mask = c->mask,
                                                 .n_steps = __builtin_popcountll(c->mask),
                                                 .index = index,
                                                 .donor = c->donor_words ? c->donor_words : "",
                                                 .vector = c->vector,
                                                 .draw = c->draw,
                                                 .from_site = c->from_other_site ? lp_site_names()[c->from_site] : "",
                                                 .from_layer = c->from_layer,
                                                 .from_step = c->from_step,
                                                 .operation = unpatched ? "" : w->operations[i],
                                                 .factor = c->factor,
                                                 .stop_after = c->stop_after,
                                                 .defects = c->defects,
                                                 .dead = w->plan.dead[i],
                                                 .identity = w->plan.identity[i],
                                                 .same_as = w->plan.same_as[i]};
    }
out:
    return status;
}

static lp_status describe(sweep *w, lp_error *err) {
    lp_session *s = w->session;
    size_t p = (size_t)s->n_pairs;
    lp_status status = LP_OK;
    LP_TRY(describe_conditions(w, err));
    for (int i = 0; i < 4; i++) LP_TRY(lp_mem_new(&w->texts[i], p, sizeof(char *), "pairs", err));
    for (size_t i = 0; i < p; i++) {
        const lp_pair *pair = &s->pairs.pairs[i];
        w->texts[0][i] = pair->id;
        w->texts[1][i] = pair->source;
        w->texts[2][i] = pair->clean.question;
        w->texts[3][i] = pair->corrupted.question;
    }
    LP_TRY(lp_mem_new(&w->identity, 1, sizeof *w->identity, "provenance", err));
    LP_TRY(lp_sweep_identity_init(s, &w->plan.set, w->identity, err));
    lp_provenance *provenance = &w->identity->provenance;
    lp_provenance_add(provenance, "device", s->device, false);
    lp_provenance_add(provenance, "store.file", s->job.store.file, false);
    LP_TRY(lp_sweep_plan_families(&w->plan, LP_FAMILIES_ALONE, &w->families, err));
    if (w->families.length > 0) lp_provenance_add(provenance, "known_beforehand", lp_text_get(&w->families), false);
    static const char *const of_store[][2] = {{"start", "store.start"},       {"host", "store.host"},
                                              {"revision", "store.revision"}, {"ranks", "store.ranks"},
                                              {"n_pairs", "store.n_pairs"},   {"device", "store.device"}};
    for (size_t i = 0; i < sizeof of_store / sizeof of_store[0]; i++) {
        const char *value = lp_record_file_provenance(w->context.store, of_store[i][0]);
        if (value) lp_provenance_add(provenance, of_store[i][1], value, false);
    }
    w->described = (lp_results_plan){.n_pairs = s->n_pairs,
                                     .pair_id = w->texts[0],
                                     .pair_source = w->texts[1],
                                     .clean_question = w->texts[2],
                                     .corrupted_question = w->texts[3],
                                     .clean_answer = w->numbers[LP_CLEAN],
                                     .corrupted_answer = w->numbers[LP_CORRUPTED],
                                     .clean_text = (const char *const *)w->answers[LP_CLEAN],
                                     .corrupted_text = (const char *const *)w->answers[LP_CORRUPTED],
                                     .clean_correct = w->correct[LP_CLEAN],
                                     .corrupted_correct = w->correct[LP_CORRUPTED],
                                     .included = w->included,
                                     .conditions = w->conditions,
                                     .n_conditions = (int32_t)w->plan.set.n,
                                     .max_new_tokens = s->job.decode.max_new_tokens,
                                     .metrics = w->context.metric_names,
                                     .n_metrics = w->context.n_metrics,
                                     .lens = w->context.lens,
                                     .provenance = provenance->items,
                                     .n_provenance = provenance->n};
out:
    return status;
}

static lp_status show_token(void *state, const int32_t *tokens, size_t n, lp_text *out, lp_error *err) {
    const lp_session *s = state;
    LP_ASSERT(n == 1);
    return lp_lens_show(s->tokenizer, &s->vocabulary, tokens[0], out, err);
}

/* Conditions with the same run, one after the other. */
static lp_status link_same(sweep *w, lp_error *err) {
    int32_t *next = NULL;
    lp_status status = lp_mem_new(&next, w->plan.set.n, sizeof *next, "conditions", err);
    for (size_t i = 0; status == LP_OK && i < w->plan.set.n; i++) next[i] = -1;
    for (size_t i = w->plan.set.n; status == LP_OK && i-- > 0;) {
        size_t first = (size_t)w->plan.same_as[i];
        if (first == i) continue;
        next[i] = next[first];
        next[first] = (int32_t)i;
    }
    w->context.next_same = next;
    return status;
}

/* All that one rank can prepare by itself. */
static lp_status prepare(sweep *w, lp_error *err) {
    lp_session *s = w->session;
    lp_status status = LP_OK;
    LP_TRY(lp_sweep_plan_init(s, &w->plan, err));
    w->context = (lp_sweep_context){.session = s, .plan = &w->plan};
    w->context.used[LP_DENOISE] = s->job.sweep.denoise;
    w->context.used[LP_NOISE] = s->job.sweep.noise;
    w->context.n_answer_metrics = lp_sweep_answer_metrics(&s->job);
    w->context.n_metrics = lp_sweep_metrics(&s->job, w->context.metric_names);
    if (s->job.lens_top > 0)
        w->context.lens = (lp_lens_shape){.n_positions = lp_lens_positions(s->job.protocol.n_steps),
                                          .n_layers = s->model.config.n_layers,
                                          .top = s->job.lens_top,
                                          .show = show_token};
    LP_TRY(open_store(w, err));
    for (int d = 0; d < 2; d++) {
        if (!w->context.used[d]) continue;
        LP_TRY(lp_donor_table_init(s, w->plan.layout, &w->plan.set, &w->plan.shapes, (lp_direction)d,
                                   &w->context.donors[d], err));
        if (lp_donor_table_needs_sums(&w->context.donors[d]))
            LP_TRY(lp_donor_table_sum(&w->context.donors[d], w->context.store, err));
    }
    LP_TRY(read_answers(w, err));
    LP_TRY(describe(w, err));
    LP_TRY(link_same(w, err));
    LP_TRY(lp_mem_new(&w->context.counts, w->plan.set.n * LP_N_OUTCOMES, sizeof *w->context.counts, "counts", err));
out:
    return status;
}

/* ---- The stage --------------------------------------------------------------------------------------------------- */

static lp_status run_all(sweep *w, const int64_t *costs, bool created, lp_sweep_report *report, lp_error *err) {
    lp_session *s = w->session;
    const uint8_t *state = lp_record_file_state(w->context.partial);
    for (int64_t i = 0; i < s->n_pairs; i++) {
        w->skip[i] = state[i] || !w->included[i];
        report->n_included += w->included[i];
        report->n_done_before += state[i] && w->included[i];
    }
    lp_stage_work work = {.label = "sweep",
                          .output = s->job.results.file,
                          .costs = costs,
                          .skip = w->skip,
                          .total = report->n_included,
                          .before = report->n_done_before,
                          .file = w->context.partial,
                          .created = created,
                          .source = {.user = w, .next = next_pair, .run_done = run_done, .done = pair_done},
                          .deal = &w->deal};
    return lp_stage_run(s, &work, err);
}

static lp_status decode_answer(void *state, const int32_t *tokens, size_t n, lp_text *out, lp_error *err) {
    const lp_session *s = state;
    return lp_tokenizer_decode(s->tokenizer, tokens, n, LP_DECODE_ANSWER, out, err);
}

/* Why the row was not run; shapes: of the pair's unpatched run in each direction. */
static void count_not_run(sweep *w, int64_t pair, const lp_run_shape shapes[2], size_t condition) {
    const lp_condition *c = &w->plan.set.conditions[condition];
    const lp_donor_table *donors = &w->context.donors[c->direction];
    lp_result_condition *counted = &w->conditions[condition];
    if (lp_condition_is_absent(&w->plan.set, condition, &shapes[c->direction]))
        counted->n_no_position++;
    else if (c->donor == LP_DONOR_SHUFFLED && lp_donor_table_other(donors, c->draw, pair) == LP_NO_PAIR)
        counted->n_no_pair++;
    else
        counted->n_no_donor++;
}

static void say_not_run(const sweep *w) {
    int64_t n_no_position = 0, n_no_donor = 0, n_no_pair = 0;
    for (size_t i = 0; i < w->plan.set.n; i++) {
        n_no_position += w->conditions[i].n_no_position;
        n_no_donor += w->conditions[i].n_no_donor;
        n_no_pair += w->conditions[i].n_no_pair;
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
static lp_status count_failed_controls(sweep *w, int64_t differ[2], lp_error *err) {
    lp_session *s = w->session;
    size_t c = w->plan.set.n, a = (size_t)s->job.decode.max_new_tokens;
    lp_text path = {0};
    lp_record_file *rows = NULL;
    uint8_t *outcome = NULL, *changed = NULL;
    int32_t *stored = NULL, *tokens = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_results_partial_path(s->job.results.file, &path, err));
    LP_TRY(lp_record_file_open_read(path.data, &rows, err));
    LP_TRY(lp_mem_new(&stored, a, sizeof *stored, "answer", err));
    LP_TRY(lp_mem_new(&tokens, a, sizeof *tokens, "answer", err));
    LP_TRY(lp_mem_new(&outcome, c, 1, "outcomes", err));
    LP_TRY(lp_mem_new(&changed, c, 1, "outcomes", err));
    for (int64_t i = 0; i < s->n_pairs; i++) {
        if (!w->included[i]) continue;
        lp_run_shape shapes[2] = {{0}};
        for (int d = 0; d < 2; d++)
            if (w->context.used[d]) LP_TRY(lp_sweep_unit_shape(&w->context, i, d, &shapes[d], err));
        LP_TRY(lp_record_file_read(rows, i, LP_ROW_CHANGED, changed, err));
        LP_TRY(lp_record_file_read(rows, i, LP_ROW_OUTCOME, outcome, err));
        for (size_t k = 0; k < c; k++) {
            const lp_condition *condition = &w->plan.set.conditions[k];
            differ[1] += w->plan.identity[k] && changed[k];
            if (outcome[k] == LP_OUTCOME_NOT_RUN) count_not_run(w, i, shapes, k);
            if (condition->role != LP_ROLE_UNPATCHED) continue;
            int side = condition->direction == LP_DENOISE ? LP_CORRUPTED : LP_CLEAN;
            LP_TRY(lp_record_file_read(w->context.store, i,
                                       lp_store_layout_stored_field(w->plan.layout, side, LP_STORED_ANSWER_TOKENS),
                                       stored, err));
            LP_TRY(lp_record_file_read_part(rows, i, LP_ROW_ANSWER_TOKENS, (int64_t)k, 1, tokens, err));
            if (memcmp(stored, tokens, a * sizeof *stored) != 0) {
                differ[0]++;
                lp_log(LP_LOG_WARN, "pair %s: the unpatched run differs from the store's", s->pairs.pairs[i].id);
            }
        }
    }
    say_not_run(w);
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

static lp_status count_engine(const lp_session *s, engine_texts *out, lp_error *err) {
    const lp_engine_counters *c = &s->counters;
    int64_t most = c->most_pages;
    int64_t n[] = {(int64_t)c->n_preemptions, (int64_t)c->n_parts,         (int64_t)c->n_requests, (int64_t)c->rows,
                   (int64_t)c->batches,       (int64_t)c->row_layers_lost, (int64_t)c->row_layers};
    lp_status status = lp_parallel_sum_i64(s->parallel, n, sizeof n / sizeof n[0], err);
    if (status == LP_OK) status = lp_parallel_max_i64(s->parallel, &most, 1, err);
    if (status != LP_OK) return status;
    snprintf(out->pages, sizeof out->pages, "%lld", (long long)most);
    snprintf(out->preemptions, sizeof out->preemptions, "%lld", (long long)n[0]);
    snprintf(out->parts, sizeof out->parts, "%.3f", n[2] > 0 ? (double)n[1] / (double)n[2] : 0.0);
    snprintf(out->rows, sizeof out->rows, "%.1f", n[4] > 0 ? (double)n[3] / (double)n[4] : 0.0);
    snprintf(out->again, sizeof out->again, "%.6f", n[6] > 0 ? (double)n[5] / (double)n[6] : 0.0);
    return LP_OK;
}

static lp_status finish(sweep *w, lp_sweep_report *report, lp_error *err) {
    lp_session *s = w->session;
    lp_provenance *provenance = &w->identity->provenance;
    lp_results_paths paths = {
        .results = s->job.results.file, .csv = s->job.results.csv, .summary = s->job.results.summary};
    lp_status status = LP_OK;
    engine_texts engine;
    LP_TRY(lp_parallel_sum_i64(s->parallel, w->context.counts, w->plan.set.n * LP_N_OUTCOMES, err));
    LP_TRY(count_engine(s, &engine, err));
    lp_record_file_close(w->context.partial);
    w->context.partial = NULL;
    if (lp_parallel_rank(s->parallel) == 0) {
        char now[LP_UTC_TEXT];
        int64_t failed[2] = {0};
        status = count_failed_controls(w, failed, err);
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
        w->described.n_provenance = provenance->n;
        if (status == LP_OK)
            status = lp_results_finish(&paths, &w->described, w->context.counts, decode_answer, s, err);
    }
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
out:
    return status;
}

static void release(sweep *w) {
    for (size_t i = 0; i < w->units.n_made; i++) lp_sweep_unit_free(w->units.made[i]);
    lp_stage_pool_release(&w->units);
    lp_record_file_close(w->context.partial);
    lp_lock_release(w->lock);
    lp_pair_record_release(&w->context.own);
    lp_pair_record_release(&w->context.other);
    lp_record_file_close(w->context.store);
    for (int d = 0; d < 2; d++) lp_donor_table_release(&w->context.donors[d]);
    size_t p = (size_t)w->session->n_pairs;
    for (int side = 0; side < 2; side++) {
        for (size_t i = 0; w->answers[side] && i < p; i++) lp_mem_free(w->answers[side][i]);
        lp_mem_free(w->answers[side]);
        lp_mem_free(w->numbers[side]);
        lp_mem_free(w->correct[side]);
    }
    for (int i = 0; i < 4; i++) lp_mem_free(w->texts[i]);
    lp_mem_free(w->included);
    lp_mem_free(w->skip);
    lp_mem_free(w->conditions);
    lp_mem_free(w->indices);
    lp_mem_free(w->operations);
    if (w->identity) lp_sweep_identity_release(w->identity);
    lp_text_release(&w->families);
    lp_mem_free(w->identity);
    lp_mem_free(w->context.counts);
    lp_mem_free(w->context.next_same);
    lp_sweep_plan_release(&w->plan);
}

/* Of all three outputs: better refused now than when the work is done. */
static lp_status make_folders(const lp_job *job, lp_error *err) {
    lp_status status = lp_path_make_folder_for(job->results.file, err);
    if (status == LP_OK) status = lp_path_make_folder_for(job->results.csv, err);
    if (status == LP_OK) status = lp_path_make_folder_for(job->results.summary, err);
    return status;
}

/* The two other outputs are written with the results file, and only then. */
static void say_missing(const lp_session *s) {
    const char *const outputs[] = {s->job.results.csv, s->job.results.summary};
    for (size_t i = 0; i < sizeof outputs / sizeof *outputs; i++)
        if (lp_parallel_rank(s->parallel) == 0 && lp_path_look(outputs[i]) == LP_PATH_MISSING)
            lp_log(LP_LOG_WARN,
                   "%s is missing: it is made together with %s; remove that file and run again to get both", outputs[i],
                   s->job.results.file);
}

lp_status lp_stage_sweep(lp_session *s, lp_sweep_report *report, lp_error *err) {
    sweep w = {.session = s};
    int64_t *costs = NULL;
    int64_t n_bad = 0;
    uint8_t complete = 0;
    bool created = false;
    lp_status status = LP_OK;
    *report = (lp_sweep_report){.n_pairs = s->n_pairs};
    LP_TRY(lp_parallel_agree(s->parallel, prepare(&w, err), err));
    LP_TRY(lp_mem_new(&costs, (size_t)s->n_pairs, sizeof *costs, "costs", err));
    for (int64_t i = 0; i < s->n_pairs; i++) costs[i] = s->n_prompt[0][i] + s->n_prompt[1][i];
    status = lp_parallel_rank(s->parallel) == 0 ? make_folders(&s->job, err) : LP_OK;
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
    LP_TRY(lp_lock_take_all(s->parallel, s->job.results.file, &w.lock, err));
    LP_TRY(lp_parallel_agree(s->parallel, lp_stage_watch(s->job.results.file, err), err));
    bool is_complete = false;
    if (lp_parallel_rank(s->parallel) == 0) status = lp_sweep_look_at_results(s, w.identity, &is_complete, err);
    LP_TRY(lp_parallel_agree(s->parallel, status, err));
    complete = is_complete;
    LP_TRY(lp_parallel_broadcast(s->parallel, &complete, sizeof complete, err));
    if (complete) {
        report->was_complete = true;
        say_missing(s);
        for (int64_t i = 0; i < s->n_pairs; i++) report->n_included += w.included[i];
        goto out;
    }
    LP_TRY(lp_results_partial_open(s->parallel, s->job.results.file, &w.described, &w.context.partial, &created, err));
    if (!created) {
        LP_TRY(lp_record_file_recheck(w.context.partial, &n_bad, err));
        if (n_bad > 0)
            lp_log(LP_LOG_WARN, "%s.partial: the rows of %lld pairs were torn; they are made again",
                   s->job.results.file, (long long)n_bad);
        LP_TRY(lp_parallel_agree(s->parallel, lp_results_partial_count(w.context.partial, w.context.counts, err), err));
    }
    LP_TRY(run_all(&w, costs, created, report, err));
    LP_TRY(finish(&w, report, err));
out:
    release(&w);
    lp_mem_free(costs);
    return status;
}
