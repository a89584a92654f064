#include "test_engine_support.h"

#include "base/memory.h"

#include <math.h>

enum { N_VECTORS = 6, MAX_POOL = 10, MAX_PICKED = 5, LONGEST_PROMPT = 14, MAX_CAPTURES = 24 };

int32_t roll(dice *d, int32_t bound) {
    return (int32_t)lp_random_below(d->key, d->n++, (uint32_t)bound);
}

void *case_keep(engine_case *c, size_t n, size_t item_bytes) {
    void *block = NULL;
    OK(lp_mem_new(&block, n + 1, item_bytes, "test case", err));
    OK(lp_mem_grow(&c->kept, &c->kept_capacity, c->n_kept + 1, sizeof *c->kept, "test case", err));
    c->kept[c->n_kept++] = block;
    return block;
}

void case_release(engine_case *c) {
    for (size_t i = 0; i < c->n_kept; i++) lp_mem_free(c->kept[i]);
    lp_mem_free(c->kept);
    *c = (engine_case){0};
}

/* ---- Drawing ----------------------------------------------------------------------------------------------------- */

static lp_address draw_address(dice *d, const lp_model_config *config, int32_t n_prompt, int32_t n_steps) {
    lp_address at = {.head = LP_ALL_HEADS, .site = (lp_site)roll(d, LP_N_SITES)};
    int32_t phase = roll(d, 8);
    at.phase = phase < 2 ? LP_PHASE_PROMPT : phase < 6 ? LP_PHASE_THOUGHT : LP_PHASE_ANSWER;
    if (lp_site_has_layer(at.site)) at.layer = roll(d, config->n_layers);
    int32_t n_heads = lp_site_n_heads(config, at.site);
    if (n_heads > 0) at.head = roll(d, n_heads + 1) - 1;
    if (roll(d, 12) == 0) {
        at.index = LP_INDEX_ALL;
        return at;
    }
    switch (at.phase) {
    /* Some lie outside the prompt, from either end, and some after most answers. */
    case LP_PHASE_PROMPT: at.index = roll(d, 2) ? -1 - roll(d, n_prompt + 2) : roll(d, n_prompt + 4); break;
    case LP_PHASE_THOUGHT: at.index = roll(d, n_steps); break;
    case LP_PHASE_ANSWER: at.index = roll(d, 6) ? roll(d, 5) : roll(d, 20); break;
    }
    return at;
}

/* Makes it an attention edge, from its row to another place. */
static void forbid(dice *d, const lp_model_config *config, int32_t n_prompt, int32_t n_steps, lp_replacement *r) {
    r->from = draw_address(d, config, n_prompt, n_steps);
    r->operation = LP_OP_FORBID;
    r->at.site = LP_SITE_Z;
    r->at.layer = roll(d, config->n_layers);
    r->at.head = roll(d, 2) ? LP_ALL_HEADS : roll(d, config->n_heads);
    r->donor = LP_DONOR_ZERO;
    r->vector = 0;
    if (roll(d, 3) == 0) r->from.index = LP_INDEX_ALL;
    if (roll(d, 4) == 0) r->at.index = LP_INDEX_ALL;
}

static lp_replacement draw_replacement(dice *d, const lp_model_config *config, int32_t n_prompt, int32_t n_steps) {
    static const float factors[] = {0.5f, 1.0f, -1.0f, 1.5f};
    lp_replacement r = {.at = draw_address(d, config, n_prompt, n_steps)};
    int32_t operation = roll(d, 8);
    r.operation = operation < 4 ? (lp_operation)operation : LP_OP_REPLACE;
    r.factor = factors[roll(d, 4)];
    r.donor = roll(d, 8) == 0 ? LP_DONOR_ZERO : LP_DONOR_FILE;
    r.from = r.at;
    r.vector = r.donor == LP_DONOR_FILE ? roll(d, N_VECTORS) : 0;
    if (roll(d, 4) == 0) forbid(d, config, n_prompt, n_steps, &r);
    return r;
}

/* The edits of a run with the first `n` of the replacements; false where they contradict each other. */
static bool make_edits(engine_case *c, const lp_replacement *picked, int32_t n, int32_t n_steps, int32_t n_prompt,
                       lp_run_wanted *run, const float *const *vectors) {
    lp_condition_set set = {0};
    lp_condition *condition = NULL;
    lp_edit_sequence list = {0};
    lp_error error = {0};
    OK(lp_condition_add(&set, "drawn", "", "", "", &condition, err));
    condition->n_steps_run = n_steps;
    for (int32_t i = 0; i < n; i++) OK(lp_condition_replace(&set, &picked[i], err));
    lp_run_shape shape = {.config = &c->options.model->config, .protocol = c->options.protocol, .n_prompt = n_prompt};
    bool good = lp_condition_effective(&set, 0, &shape, &list, &error) == LP_OK && !list.absent;
    if (good) {
        lp_timed_edit *edits = case_keep(c, list.n, sizeof *edits);
        const float **of = case_keep(c, list.n, sizeof *of);
        for (size_t i = 0; i < list.n; i++) {
            const lp_replacement *what = &list.edits[i].what;
            edits[i] = list.edits[i];
            of[i] = what->operation == LP_OP_SCALE || what->operation == LP_OP_FORBID ? NULL
                    : what->donor == LP_DONOR_ZERO                                    ? vectors[N_VECTORS]
                                                                                      : vectors[what->vector];
        }
        *run = (lp_run_wanted){.edits = edits, .vectors = of, .n_edits = list.n, .n_steps = n_steps};
    }
    lp_edit_sequence_release(&list);
    lp_condition_set_release(&set);
    return good;
}

static void draw_run(engine_case *c, dice *d, const lp_replacement *pool, int32_t n_pool, int32_t n_prompt,
                     const float *const *vectors, lp_run_wanted *run) {
    lp_replacement picked[MAX_PICKED];
    int32_t n = roll(d, MAX_PICKED + 1), steps = c->options.protocol.n_steps;
    int32_t n_steps = roll(d, 5) ? steps : 1 + roll(d, steps);
    for (int32_t i = 0; i < n; i++) picked[i] = pool[roll(d, n_pool)];
    while (!make_edits(c, picked, n, n_steps, n_prompt, run, vectors)) n--;
}

/* Captures of the group's first run, which is unpatched. */
static void draw_captures(engine_case *c, dice *d, lp_run_wanted *run, int32_t n_prompt) {
    const lp_model_config *config = &c->options.model->config;
    int32_t n = roll(d, MAX_CAPTURES + 1);
    size_t first = c->n_captures;
    for (int32_t i = 0; i < n; i++) {
        lp_address at = draw_address(d, config, n_prompt, run->n_steps);
        if (at.index == LP_INDEX_ALL) at.index = 0;
        if (at.phase == LP_PHASE_THOUGHT && roll(d, 6) == 0) at.index += run->n_steps;
        if (at.index < 0) at.index += n_prompt;
        c->captures[c->n_captures] = (lp_capture){.at = at};
        c->capture_at[c->n_captures++] = c->n_captured;
        c->n_captured += (size_t)lp_site_width(config, at.site, at.head);
    }
    run->captures = c->captures + first;
    run->n_captures = n;
}

/* Forced answers of a metric position: often what the run itself says there, then random tokens, then eos. */
static const int32_t *draw_answer(engine_case *c, dice *d, const lp_run_result *unpatched, int32_t index, int32_t *n) {
    int32_t *tokens = case_keep(c, 8, sizeof *tokens);
    int32_t length = roll(d, 4), same = roll(d, 3);
    *n = 0;
    if (roll(d, 10) == 0) return tokens;
    for (; *n < length; (*n)++)
        tokens[*n] = *n < same && index + *n < unpatched->n_tokens ? unpatched->tokens[index + *n]
                                                                   : roll(d, c->options.vocabulary.n_candidates);
    tokens[(*n)++] = c->options.vocabulary.eos;
    return tokens;
}

static void draw_metric_position(engine_case *c, dice *d, size_t group, const lp_run_result *unpatched) {
    if (unpatched->n_tokens == 0 || roll(d, 3) == 0) return;
    lp_metric_position *position = case_keep(c, 1, sizeof *position);
    int32_t *prefix = case_keep(c, (size_t)unpatched->n_tokens, sizeof *prefix);
    position->index = roll(d, unpatched->n_tokens);
    memcpy(prefix, unpatched->tokens, (size_t)position->index * sizeof *prefix);
    if (position->index > 0 && roll(d, 6) == 0) {
        prefix[roll(d, position->index)] = roll(d, c->options.vocabulary.n_candidates);
        c->is_forced[group] = true;
    }
    position->prefix = prefix;
    position->clean.tokens = draw_answer(c, d, unpatched, position->index, &position->clean.n);
    position->corrupted.tokens = draw_answer(c, d, unpatched, position->index, &position->corrupted.n);
    position->whole_answers = roll(d, 2);
    c->groups[group].metric_at = position;
}

static void draw_metric_positions(engine_case *c, dice *d) {
    case_outcome plain;
    const case_order order = {.only = -1};
    outcome_make(c, &plain);
    OK(case_execute(c, &order, &plain, NULL, err));
    for (size_t g = 0; g < c->n_groups; g++) {
        const lp_run_result *results = plain.results + c->first_run[g];
        size_t of = 0;
        while (of < c->groups[g].n_runs && c->groups[g].runs[of].n_edits > 0) of++;
        draw_metric_position(c, d, g, &results[of < c->groups[g].n_runs ? of : 0]);
    }
    outcome_release(&plain);
}

static void draw_group(engine_case *c, dice *d, size_t g, size_t first_run, int32_t n_runs) {
    const lp_model_config *config = &c->options.model->config;
    lp_replacement pool[MAX_POOL];
    int32_t n_pool = 3 + roll(d, MAX_POOL - 2), n_prompt = 2 + roll(d, LONGEST_PROMPT - 1);
    int32_t width =
        config->d_model > config->n_heads * config->head_dim ? config->d_model : config->n_heads * config->head_dim;
    float *vectors = case_keep(c, (size_t)(N_VECTORS + 1) * (size_t)width, sizeof *vectors);
    const float **vector = case_keep(c, N_VECTORS + 1, sizeof *vector);
    lp_random_normal((lp_random_key){.seed = c->seed, .stream = 2, .a = (uint32_t)g}, vectors,
                     (size_t)N_VECTORS * (size_t)width);
    for (int32_t i = 0; i <= N_VECTORS; i++) vector[i] = vectors + (size_t)i * (size_t)width;
    int32_t *prompt = case_keep(c, (size_t)n_prompt, sizeof *prompt);
    for (int32_t i = 0; i < n_prompt; i++) prompt[i] = roll(d, config->n_embedded);
    for (int32_t i = 0; i < n_pool; i++) pool[i] = draw_replacement(d, config, n_prompt, c->options.protocol.n_steps);
    for (int32_t i = 0; i < n_runs; i++) {
        lp_run_wanted *run = &c->runs[first_run + (size_t)i];
        if (i == 0 && roll(d, 8))
            make_edits(c, pool, 0, c->options.protocol.n_steps, n_prompt, run, vector);
        else
            draw_run(c, d, pool, n_pool, n_prompt, vector, run);
    }
    lp_run_wanted *first = &c->runs[first_run];
    if (first->n_edits == 0 && first->n_steps == c->options.protocol.n_steps && roll(d, 2))
        draw_captures(c, d, first, n_prompt);
    c->first_run[g] = first_run;
    c->groups[g] = (lp_run_group){.prompt = prompt, .n_prompt = n_prompt, .runs = first, .n_runs = (size_t)n_runs};
}

/* Tokens that are never chosen, among those that answers are made of. */
static void bar_tokens(lp_vocabulary *vocabulary, uint64_t seed) {
    enum { N_BARRED = 12, LETTERS = 96 };
    dice d = {.key = {.seed = seed, .stream = 4}};
    for (int32_t i = 0; i < N_BARRED; i++) {
        int32_t id = i * (LETTERS / N_BARRED) + roll(&d, LETTERS / N_BARRED);
        if (id != vocabulary->eos) vocabulary->not_chosen[vocabulary->n_not_chosen++] = id;
    }
}

void case_make(engine_case *c, const char *name, const lp_model *model, const lp_vocabulary *vocabulary,
               uint64_t seed) {
    dice d = {.key = {.seed = seed, .stream = 1}};
    *c = (engine_case){.model = name, .seed = seed};
    c->options =
        (lp_executor_options){.model = model, .vocabulary = *vocabulary, .max_positions = model->config.n_context};
    int32_t steps = 1 + roll(&d, 6);
    c->options.protocol = lp_protocol_preset((lp_protocol_kind)roll(&d, 4), steps);
    if (roll(&d, 2)) lp_protocol_keep_eos(&c->options.protocol);
    c->options.max_new_tokens = 1 + roll(&d, 12);
    golden_resolve_roles(&c->options.protocol, &c->options.vocabulary);
    if (roll(&d, 2)) c->options.vocabulary.stop[c->options.vocabulary.n_stop++] = roll(&d, 200);
    if ((seed / 2000 + seed) % 2) bar_tokens(&c->options.vocabulary, seed);
    int32_t sizes[8], groups_of[4];
    c->n_units = 1 + (size_t)roll(&d, 3);
    for (size_t u = 0; u < c->n_units; u++) {
        groups_of[u] = 1 + roll(&d, 2);
        for (int32_t g = 0; g < groups_of[u]; g++) {
            sizes[c->n_groups] = 1 + roll(&d, roll(&d, 4) ? 10 : 40);
            c->n_runs += (size_t)sizes[c->n_groups++];
        }
    }
    c->units = case_keep(c, c->n_units, sizeof *c->units);
    c->groups = case_keep(c, c->n_groups, sizeof *c->groups);
    c->runs = case_keep(c, c->n_runs, sizeof *c->runs);
    c->first_group = case_keep(c, c->n_units, sizeof *c->first_group);
    c->first_run = case_keep(c, c->n_groups, sizeof *c->first_run);
    c->is_forced = case_keep(c, c->n_groups, sizeof *c->is_forced);
    c->captures = case_keep(c, c->n_groups * MAX_CAPTURES, sizeof *c->captures);
    c->capture_at = case_keep(c, c->n_groups * MAX_CAPTURES, sizeof *c->capture_at);
    size_t run = 0, group = 0;
    for (size_t u = 0; u < c->n_units; u++) {
        c->first_group[u] = group;
        c->units[u] = (lp_work_unit){.id = (int64_t)u, .groups = c->groups + group, .n_groups = (size_t)groups_of[u]};
        for (int32_t g = 0; g < groups_of[u]; g++, group++) {
            draw_group(c, &d, group, run, sizes[group]);
            run += (size_t)sizes[group];
        }
    }
    draw_metric_positions(c, &d);
}

/* ---- Executing --------------------------------------------------------------------------------------------------- */

void outcome_make(engine_case *c, case_outcome *out) {
    size_t a = (size_t)c->options.max_new_tokens;
    *out = (case_outcome){0};
    OK(lp_mem_new(&out->results, c->n_runs, sizeof *out->results, "outcome", err));
    OK(lp_mem_new(&out->tokens, c->n_runs * a, sizeof *out->tokens, "outcome", err));
    OK(lp_mem_new(&out->captured, c->n_captured, sizeof *out->captured, "outcome", err));
    for (size_t i = 0; i < c->n_runs; i++) out->results[i].tokens = out->tokens + i * a;
    /* What no position of the run fills stays as it is. */
    for (size_t i = 0; i < c->n_captured; i++) out->captured[i] = NAN;
}

void outcome_release(case_outcome *o) {
    lp_mem_free(o->results);
    lp_mem_free(o->tokens);
    lp_mem_free(o->captured);
    *o = (case_outcome){0};
}

lp_status case_execute(engine_case *c, const case_order *order, case_outcome *out, lp_engine_counters *counters,
                       lp_error *err) {
    unit_list list = {.n = order->only >= 0 ? 1 : c->n_units};
    lp_work_unit **units = NULL;
    lp_status status = lp_mem_new(&units, list.n, sizeof *units, "units", err);
    if (status != LP_OK) return status;
    for (size_t i = 0; i < list.n; i++)
        units[i] = &c->units[order->only >= 0 ? (size_t)order->only : order->backwards ? list.n - 1 - i : i];
    list.units = units;
    lp_work_source source = unit_list_source(&list);
    for (size_t g = 0; g < c->n_groups; g++) c->groups[g].results = out->results + c->first_run[g];
    for (size_t i = 0; i < c->n_captures; i++) c->captures[i].out = out->captured + c->capture_at[i];
    status = order->engine ? lp_execute_batched(&c->options, order->engine, &source, counters, err)
                           : lp_execute_reference(&c->options, &source, err);
    lp_mem_free(units);
    if (status == LP_OK) assert_int_equal(list.n_done, list.n);
    return status;
}

lp_status case_execute_alone(engine_case *c, const lp_engine_options *engine, size_t run, case_outcome *out,
                             lp_error *err) {
    size_t within = 0;
    lp_run_group group = *case_group_of(c, run, &within);
    group.runs = &c->runs[run];
    group.n_runs = 1;
    lp_work_unit unit = {.groups = &group, .n_groups = 1};
    engine_case one = *c;
    one.units = &unit;
    one.groups = &group;
    one.n_units = one.n_groups = 1;
    one.first_run = &run;
    return case_execute(&one, &(case_order){.engine = engine, .only = -1}, out, NULL, err);
}

const lp_run_group *case_group_of(const engine_case *c, size_t run, size_t *within) {
    size_t g = c->n_groups - 1;
    while (c->first_run[g] > run) g--;
    *within = run - c->first_run[g];
    return &c->groups[g];
}

void case_describe(const engine_case *c, size_t run, char *out, size_t size) {
    size_t within = 0;
    const lp_run_group *group = case_group_of(c, run, &within);
    const lp_run_wanted *wanted = &group->runs[within];
    int at = snprintf(out, size, "%s seed %llu %s T %d%s run %zu of group %td, prompt %d, %d steps:", c->model,
                      (unsigned long long)c->seed, lp_protocol_names()[c->options.protocol.kind],
                      c->options.protocol.n_steps, c->options.protocol.changed ? " eos" : "", within, group - c->groups,
                      group->n_prompt, wanted->n_steps);
    for (size_t i = 0; i < wanted->n_edits && at > 0 && (size_t)at < size; i++) {
        const lp_replacement *what = &wanted->edits[i].what;
        at += snprintf(out + at, size - (size_t)at, " [%d%s %s L%d h%d %s %d %d-%d]", wanted->edits[i].position,
                       wanted->edits[i].all ? "..." : "", lp_site_names()[what->at.site], what->at.layer, what->at.head,
                       lp_operation_names()[what->operation], what->vector, wanted->edits[i].key_begin,
                       wanted->edits[i].key_end);
    }
}
