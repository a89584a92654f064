#include "patch/engine_state.h"

#include "base/memory.h"
#include "patch/edges.h"

/* ---- Logits ---------------------------------------------------------------------------------------------------- */

static lp_status make_bars(lp_engine *engine, int32_t n, lp_error *err) {
    const lp_vocabulary *vocabulary = &engine->options->vocabulary;
    const float never = LP_NEVER_LOGIT;
    lp_mem_free(engine->out.barred);
    engine->out.barred = NULL;
    engine->out.barred_rows = 0;
    LP_CHECK(lp_mem_new(&engine->out.barred, (size_t)n * (size_t)vocabulary->n_not_chosen, sizeof(lp_row_edit),
                        "tokens never chosen", err));
    lp_row_edit *edit = engine->out.barred;
    for (int32_t row = 0; row < n; row++)
        for (int32_t i = 0; i < vocabulary->n_not_chosen; i++)
            *edit++ = (lp_row_edit){
                .row = row, .offset = vocabulary->not_chosen[i], .width = 1, .operation = (int32_t)LP_OP_REPLACE};
    if (!engine->out.never_logit) {
        LP_CHECK(lp_engine_alloc(engine, &engine->out.never_logit, sizeof never, "tokens never chosen", err));
        LP_CHECK(engine->be->upload(engine->be, engine->out.never_logit, &never, sizeof never, err));
    }
    engine->out.barred_rows = n;
    return LP_OK;
}

/* engine->out.logits = the head's of x [n, D] in `form`, of which tokens that are never chosen have none to speak of.
 */
static lp_status read_head(lp_engine *engine, lp_form form, const float *x, int32_t n, lp_error *err) {
    int32_t n_barred = engine->options->vocabulary.n_not_chosen;
    lp_status status = lp_forward_head(engine->forward, form, x, n, engine->out.logits, err);
    if (status != LP_OK || n_barred == 0) return status;
    if (n > engine->out.barred_rows) LP_TRY(make_bars(engine, n, err));
    LP_TRY(engine->be->edit_rows(engine->be, engine->out.logits, lp_logits_stride(&engine->options->model->config),
                                 engine->out.barred, n * n_barred, engine->out.never_logit, err));
out:
    return status;
}

/* ---- Lenses ---------------------------------------------------------------------------------------------------- */

/* The vectors lie on the host since their captures were taken. The workspace of the batches serves, after what the
 * batch under way does with it. */
static lp_status read_lens(lp_engine *engine, const lp_lens_wanted *lens, lp_error *err) {
    lp_backend *be = engine->be;
    const lp_model_config *config = &engine->options->model->config;
    size_t d = (size_t)config->d_model, top = (size_t)lens->top;
    int32_t candidates = engine->options->vocabulary.n_candidates;
    int32_t at_once = lp_engine_head_rows(engine->be, engine->max_rows);
    if ((size_t)at_once * top > engine->out.ranked_capacity) {
        lp_engine_release(engine, engine->out.ranked_tokens);
        lp_engine_release(engine, engine->out.ranked_numbers);
        engine->out.ranked_tokens = NULL;
        engine->out.ranked_numbers = NULL;
        LP_CHECK(lp_engine_alloc(engine, &engine->out.ranked_tokens, (size_t)at_once * top * sizeof(int32_t),
                                 "logit lens", err));
        LP_CHECK(lp_engine_alloc(engine, &engine->out.ranked_numbers, (size_t)at_once * top * sizeof(float),
                                 "logit lens", err));
        engine->out.ranked_capacity = (size_t)at_once * top;
    }
    for (int32_t first = 0; first < lens->n; first += at_once) {
        int32_t n = lens->n - first < at_once ? lens->n - first : at_once;
        size_t at = (size_t)first * top, found = (size_t)n * top;
        LP_CHECK(be->upload(be, engine->out.projected, lens->vectors + (size_t)first * d, (size_t)n * d * sizeof(float),
                            err));
        LP_CHECK(
            lp_forward_final_norm(engine->forward, engine->out.projected, n, LP_OPERAND, engine->out.gathered, err));
        LP_CHECK(read_head(engine, LP_OPERAND, engine->out.gathered, n, err));
        LP_CHECK(be->top(be, engine->out.logits, n, lp_logits_stride(config), candidates, lens->top,
                         engine->out.ranked_tokens, engine->out.ranked_numbers, err));
        LP_CHECK(be->download(be, lens->tokens + at, engine->out.ranked_tokens, found * sizeof(int32_t), err));
        LP_CHECK(be->download(be, lens->log_probability + at, engine->out.ranked_numbers, found * sizeof(float), err));
    }
    return LP_OK;
}

/* States of other runs than the unpatched, gathered for one product of the head. */
typedef struct {
    const lp_step_reading *unpatched;
    lp_logit_query *queries; /* [at_once] */
    lp_logit_stats *stats;   /* [at_once] */
    float **kl;              /* [at_once] where they go */
    int32_t at_once, n;
} step_states;

static lp_status make_step_room(lp_engine *engine, int32_t n_steps, int32_t at_once, lp_error *err) {
    size_t row = (size_t)lp_logits_stride(&engine->options->model->config) * sizeof(float);
    if (engine->out.step_logits) return LP_OK;
    LP_CHECK(lp_engine_alloc(engine, &engine->out.step_logits, (size_t)n_steps * row, "logits of steps", err));
    return lp_engine_alloc(engine, &engine->out.step_stats, (size_t)at_once * sizeof(lp_logit_stats), "logits of steps",
                           err);
}

/* Logits of the states that lie in e->out.gathered, and what is asked of them. */
static lp_status read_step_states(lp_engine *engine, step_states *states, lp_error *err) {
    lp_backend *be = engine->be;
    int32_t width = lp_logits_stride(&engine->options->model->config);
    if (states->n == 0) return LP_OK;
    LP_CHECK(read_head(engine, LP_FLOATS, engine->out.gathered, states->n, err));
    LP_CHECK(be->read_logits(be, engine->out.logits, engine->out.step_logits, width,
                             engine->options->vocabulary.n_candidates, states->queries, states->n,
                             engine->out.step_stats, err));
    LP_CHECK(be->download(be, states->stats, engine->out.step_stats, (size_t)states->n * sizeof *states->stats, err));
    for (int32_t i = 0; i < states->n; i++) {
        if (!states->kl[i]) continue;
        double kl = states->stats[i].kl;
        *states->kl[i] = (float)(kl < 0 ? 0 : kl);
    }
    states->n = 0;
    return LP_OK;
}

static lp_status add_step_state(lp_engine *engine, step_states *states, const float *vector, int32_t step, float *kl,
                                lp_error *err) {
    int32_t d = engine->options->model->config.d_model;
    if (states->n == states->at_once) LP_CHECK(read_step_states(engine, states, err));
    LP_CHECK(engine->be->upload(engine->be, engine->out.gathered + (int64_t)states->n * d, vector,
                                (size_t)d * sizeof(float), err));
    states->queries[states->n] =
        (lp_logit_query){.row = states->n, .saved_row = kl ? -1 : step, .base = kl ? step : -1, .token = {-1, -1}};
    states->kl[states->n++] = kl;
    return LP_OK;
}

static lp_status read_step_changes(lp_engine *engine, const lp_run_group *group, lp_error *err) {
    int64_t first = lp_run_group_unpatched(group, engine->options->protocol.n_steps);
    int32_t d = engine->options->model->config.d_model;
    int32_t at_once = lp_engine_head_rows(engine->be, engine->max_rows);
    step_states states = {.at_once = at_once};
    bool differs[LP_MAX_STEPS], is_ready = false;
    lp_status status = LP_OK;
    if (first < 0 || !group->runs[first].steps) return LP_OK;
    states.unpatched = group->runs[first].steps;
    LP_TRY(make_step_room(engine, states.unpatched->n_steps, at_once, err));
    LP_TRY(lp_mem_new(&states.queries, (size_t)at_once, sizeof *states.queries, "logits of steps", err));
    LP_TRY(lp_mem_new(&states.stats, (size_t)at_once, sizeof *states.stats, "logits of steps", err));
    LP_TRY(lp_mem_new(&states.kl, (size_t)at_once, sizeof *states.kl, "logits of steps", err));
    for (size_t i = 0; i < group->n_runs; i++) {
        const lp_run_wanted *run = &group->runs[i];
        lp_step_compare(states.unpatched, run->steps, d, run->n_steps, differs);
        for (int32_t t = 0; t < run->steps->n_steps; t++) {
            if (!differs[t]) continue;
            for (int32_t k = 0; !is_ready && k < states.unpatched->n_steps; k++)
                LP_TRY(add_step_state(engine, &states, states.unpatched->vectors + (int64_t)k * d, k, NULL, err));
            if (!is_ready) LP_TRY(read_step_states(engine, &states, err));
            is_ready = true;
            LP_TRY(add_step_state(engine, &states, run->steps->vectors + (int64_t)t * d, t,
                                  &run->steps->numbers[t * LP_N_STEP_NUMBERS + LP_STEP_KL], err));
        }
    }
    LP_TRY(read_step_states(engine, &states, err));
out:
    lp_mem_free(states.queries);
    lp_mem_free(states.stats);
    lp_mem_free(states.kl);
    return status;
}

lp_status lp_engine_read_lenses(lp_engine *engine, const lp_work_unit *unit, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t g = 0; g < unit->n_groups && status == LP_OK; g++)
        if (unit->groups[g].n_runs > 0 && unit->groups[g].runs[0].steps)
            status = read_step_changes(engine, &unit->groups[g], err);
    for (size_t g = 0; g < unit->n_groups; g++)
        for (size_t i = 0; i < unit->groups[g].n_runs && status == LP_OK; i++)
            if (unit->groups[g].runs[i].lens) status = read_lens(engine, unit->groups[g].runs[i].lens, err);
    return status;
}

/* ---- Batches -------------------------------------------------------------------------------------------------------
 */

static lp_status add_floats(lp_engine *engine, const float *floats, size_t n, lp_error *err) {
    LP_CHECK(lp_mem_grow(&engine->host.vectors, &engine->host.vector_capacity, engine->host.n_vectors + n,
                         sizeof(float), "donor vectors", err));
    memcpy(engine->host.vectors + engine->host.n_vectors, floats, n * sizeof(float));
    engine->host.n_vectors += n;
    return LP_OK;
}

/* Edits of one subspace share its directions, where no other comes between. */
static lp_status add_directions(lp_engine *engine, const lp_subspace *subspace, lp_row_edit *edit, lp_error *err) {
    if (engine->host.directions != subspace->directions) {
        engine->host.directions = subspace->directions;
        engine->host.directions_at = (int64_t)engine->host.n_vectors;
        LP_CHECK(add_floats(engine, subspace->directions, (size_t)subspace->n * (size_t)subspace->width, err));
    }
    edit->directions = engine->host.directions_at;
    edit->n_directions = subspace->n;
    return LP_OK;
}

static lp_status add_edit(lp_engine *engine, const lp_request *request, const lp_request_row *row, int32_t place,
                          int32_t k, lp_error *err) {
    const lp_model_config *config = &engine->options->model->config;
    const float *vector = NULL;
    const lp_timed_edit *edit = lp_tree_edit(request->group, &request->branches[row->branch].plan, k, &vector);
    const lp_replacement *what = &edit->what;
    int32_t width = lp_site_width(config, what->at.site, what->at.head);
    lp_status status = lp_mem_grow(&engine->host.edits, &engine->host.edit_capacity, (size_t)engine->host.n_edits + 1,
                                   sizeof *engine->host.edits, "edits", err);
    if (status != LP_OK) return status;
    engine->host.edits[engine->host.n_edits++] =
        (lp_forward_edit){.key = lp_forward_key(edit->depth, row->first_layer),
                          .edit = {.row = place,
                                   .offset = lp_site_offset(config, what->at.head),
                                   .width = width,
                                   .operation = (int32_t)what->operation,
                                   .factor = what->factor}};
    lp_row_edit *added = &engine->host.edits[engine->host.n_edits - 1].edit;
    if (what->token > 0) {
        engine->host.edits[engine->host.n_edits - 1].token =
            (lp_edit){.operation = what->operation,
                      .factor = what->factor,
                      .vector = vector,
                      .subspace = what->subspace > 0 ? &request->group->subspaces[what->subspace - 1] : NULL,
                      .token = &request->group->token_edits[what->token - 1]};
        return status;
    }
    if (what->subspace > 0) status = add_directions(engine, &request->group->subspaces[what->subspace - 1], added, err);
    if (status != LP_OK || !vector) return status;
    added->vector = (int64_t)engine->host.n_vectors;
    return add_floats(engine, vector, (size_t)width, err);
}

/* Does the row itself have to make the edit? It is at the row's position, and the source's vector does not hold it yet.
 */
static bool is_own_edit(const lp_engine *engine, const lp_request_row *row, const lp_timed_edit *edit, int32_t k) {
    int32_t last_v = (engine->options->model->config.n_layers - 1) * LP_N_SITES + LP_SITE_V;
    bool here = edit->all ? row->position >= edit->position : edit->position == row->position;
    if (!here || (k < row->first_own_edit && edit->depth < row->first_layer * LP_N_SITES)) return false;
    /* `*` names eot too, whose output nobody reads where eos follows it. */
    if (!row->output && edit->depth > last_v) return false;
    return row->first_layer == 0 || edit->depth >= (row->first_layer - 1) * LP_N_SITES + LP_SITE_RESID_POST;
}

/* Adds the slots of the allowed positions of a row to those that are chosen, unless they are the ones of the choice
 * before, which is of the same row. */
static lp_status choose_slots(lp_engine *engine, const lp_request *request, const lp_request_row *row, int32_t place,
                              lp_row_choice *choice, lp_error *err) {
    const int32_t *tail = lp_request_tail(request, row);
    const lp_forward_choice *before =
        engine->host.n_choices > 0 ? &engine->host.choices[engine->host.n_choices - 1] : NULL;
    int32_t prompt = request->prompt_page * LP_PAGE_POSITIONS, n = engine->host.n_chosen;
    LP_CHECK(lp_mem_grow(&engine->host.chosen, &engine->host.chosen_capacity, (size_t)(n + row->position) + 1,
                         sizeof(int32_t), "attention edges", err));
    for (int32_t p = 0; p <= row->position; p++)
        if (engine->host.allowed[p])
            engine->host.chosen[n++] = p < row->prompt_length ? prompt + p : tail[p - row->prompt_length];
    choice->begin = engine->host.n_chosen;
    choice->length = n - engine->host.n_chosen;
    if (before && before->choice.row == place && before->choice.length == choice->length &&
        memcmp(engine->host.chosen + before->choice.begin, engine->host.chosen + choice->begin,
               (size_t)choice->length * sizeof(int32_t)) == 0)
        choice->begin = before->choice.begin;
    else
        engine->host.n_chosen = n;
    return LP_OK;
}

/* Chooses what the heads of a layer of the row attend to, where edges [k, end) of the branch, which are all of that
 * layer, say something of them. */
static lp_status add_choices(lp_engine *engine, const lp_request *request, const lp_request_row *row, int32_t place,
                             const lp_timed_edit *edits, int32_t n, int32_t layer, lp_error *err) {
    const lp_model_config *config = &engine->options->model->config;
    bool by_head = false;
    LP_CHECK(lp_mem_grow(&engine->host.allowed, &engine->host.allowed_capacity, (size_t)row->position + 1, sizeof(bool),
                         "attention edges", err));
    for (int32_t k = 0; k < n; k++)
        by_head |= lp_is_edge(&edits[k]) && edits[k].what.at.layer == layer && edits[k].what.at.head != LP_ALL_HEADS;
    int32_t at_once = by_head ? 1 : config->n_heads;
    for (int32_t head = 0; head < config->n_heads; head += at_once) {
        lp_row_choice choice = {.row = place, .first_head = head, .n_heads = at_once};
        if (!lp_edges_allowed(edits, (size_t)n, layer, head, row->position, engine->host.allowed)) continue;
        LP_CHECK(choose_slots(engine, request, row, place, &choice, err));
        LP_CHECK(lp_mem_grow(&engine->host.choices, &engine->host.choice_capacity, (size_t)engine->host.n_choices + 1,
                             sizeof *engine->host.choices, "attention edges", err));
        engine->host.choices[engine->host.n_choices++] = (lp_forward_choice){.layer = layer, .choice = choice};
    }
    return LP_OK;
}

/* What the row itself has to change: the edits at its position that its source's vector does not hold yet. */
static lp_status add_edits(lp_engine *engine, const lp_request *request, const lp_request_row *row, int32_t place,
                           lp_error *err) {
    const lp_branch *branch = &request->branches[row->branch].plan;
    int32_t n_layers = engine->options->model->config.n_layers;
    bool is_chosen[LP_MAX_LAYERS] = {false}, any = false;
    for (int32_t k = 0; k < branch->n_edits; k++) {
        const lp_timed_edit *edit = lp_tree_edit(request->group, branch, k, NULL);
        if (!is_own_edit(engine, row, edit, k)) continue;
        if (lp_is_edge(edit))
            any = is_chosen[edit->what.at.layer] = true;
        else
            LP_CHECK(add_edit(engine, request, row, place, k, err));
    }
    for (int32_t l = 0; any && l < n_layers; l++)
        if (is_chosen[l])
            LP_CHECK(add_choices(engine, request, row, place, lp_tree_edit(request->group, branch, 0, NULL),
                                 branch->n_edits, l, err));
    return LP_OK;
}

static lp_status add_captures_of(lp_engine *engine, const lp_request *request, const lp_run_wanted *run,
                                 const lp_branch *branch, const lp_request_row *row, int32_t place, lp_error *err) {
    const lp_model_config *config = &engine->options->model->config;
    for (int32_t k = 0; k < run->n_captures; k++) {
        lp_address at = run->captures[k].at;
        if (!lp_request_is_place(request, branch, &at, row->position)) continue;
        lp_address_canonical(&at);
        lp_step_batch *batch = engine->batch;
        size_t n = (size_t)engine->host.n_captures + 1;
        int32_t width = lp_site_width(config, at.site, at.head);
        LP_CHECK(lp_mem_grow(&engine->host.captures, &engine->host.capture_capacity, n, sizeof *engine->host.captures,
                             "captures", err));
        LP_CHECK(lp_mem_grow(&batch->captures, &batch->capture_capacity, n, sizeof *batch->captures, "captures", err));
        batch->captures[n - 1] =
            (lp_batch_capture){.out = run->captures[k].out, .width = width, .at = (int64_t)batch->n_captured};
        engine->host.captures[engine->host.n_captures++] =
            (lp_forward_capture){.key = lp_forward_key(lp_address_depth(config, &at), row->first_layer),
                                 .row = place,
                                 .offset = lp_site_offset(config, at.head),
                                 .width = width,
                                 .out = (int64_t)batch->n_captured};
        batch->n_captured += (size_t)width;
    }
    return LP_OK;
}

static lp_status add_captures(lp_engine *engine, const lp_request *request, const lp_request_row *row, int32_t place,
                              lp_error *err) {
    lp_status status = LP_OK;
    for (int32_t i = lp_request_first_carried(request, row); i >= 0 && status == LP_OK;
         i = lp_request_next_carried(request, row, i)) {
        const lp_branch *branch = &request->branches[i].plan;
        for (int32_t run = branch->first_run; run >= 0 && status == LP_OK; run = request->tree.next_run[run])
            status = add_captures_of(engine, request, &request->group->runs[run], branch, row, place, err);
    }
    return status;
}

/* order: rows by first layer, those with the same one as they were. */
static void sort_rows(lp_engine *engine, lp_step_batch *batch) {
    int32_t n_layers = engine->options->model->config.n_layers;
    int32_t count[LP_MAX_LAYERS + 2] = {0}; /* rows by first layer, one place later: 0 to n_layers, 1 to n_layers + 1 */
    LP_ASSERT(n_layers <= LP_MAX_LAYERS);
    for (int32_t i = 0; i < batch->n_rows; i++) count[lp_batch_row_of(&batch->rows[i])->first_layer + 1]++;
    for (int32_t l = 0; l <= n_layers; l++) count[l + 1] += count[l];
    for (int32_t i = 0; i < batch->n_rows; i++) {
        int32_t at = count[lp_batch_row_of(&batch->rows[i])->first_layer]++;
        batch->order[at] = i;
        engine->host.place[i] = at;
    }
}

static int compare_edits(const void *a, const void *b) {
    const lp_forward_edit *edit = a, *y = b;
    if (edit->key != y->key) return edit->key < y->key ? -1 : 1;
    return (edit->edit.row > y->edit.row) - (edit->edit.row < y->edit.row);
}

static int compare_choices(const void *a, const void *b) {
    const lp_forward_choice *choice = a, *y = b;
    if (choice->layer != y->layer) return choice->layer < y->layer ? -1 : 1;
    if (choice->choice.row != y->choice.row) return choice->choice.row < y->choice.row ? -1 : 1;
    return (choice->choice.first_head > y->choice.first_head) - (choice->choice.first_head < y->choice.first_head);
}

static int compare_captures(const void *a, const void *b) {
    const lp_forward_capture *capture = a, *y = b;
    return (capture->key > y->key) - (capture->key < y->key);
}

static lp_status fill_batch(lp_engine *engine, lp_step_batch *batch, lp_error *err) {
    engine->host.n_tail = engine->host.n_edits = engine->host.n_captures = engine->host.n_choices =
        engine->host.n_chosen = 0;
    engine->host.n_vectors = batch->n_captured = 0;
    engine->host.directions = NULL;
    for (int32_t at = 0; at < batch->n_rows; at++) {
        const lp_batch_row *from = &batch->rows[batch->order[at]];
        const lp_request_row *row = &from->request->rows[from->request_row];
        engine->host.first_layer[at] = row->first_layer;
        engine->host.source_row[at] = row->source < 0 ? 0 : engine->host.place[from->first + row->source];
        engine->host.input[at] = (lp_row_input){.token = row->token, .latent = row->latent};
        engine->host.output[at] = row->output;
        engine->host.position[at] = row->position;
        engine->host.slot[at] = row->slot;
        engine->host.prompt_begin[at] = from->request->prompt_page * LP_PAGE_POSITIONS;
        engine->host.prompt_length[at] = row->prompt_length;
        engine->host.tail_begin[at] = engine->host.n_tail;
        engine->host.tail_length[at] = row->n_tail;
        LP_CHECK(lp_mem_grow(&engine->host.tail, &engine->host.tail_capacity,
                             (size_t)(engine->host.n_tail + row->n_tail) + 1, sizeof(int32_t), "slots", err));
        if (row->n_tail)
            memcpy(engine->host.tail + engine->host.n_tail, lp_request_tail(from->request, row),
                   (size_t)row->n_tail * sizeof(int32_t));
        engine->host.n_tail += row->n_tail;
        LP_CHECK(add_edits(engine, from->request, row, at, err));
        LP_CHECK(add_captures(engine, from->request, row, at, err));
    }
    /* A row that takes its source's final state needs it computed. */
    int32_t n_layers = engine->options->model->config.n_layers;
    for (int32_t at = batch->n_rows - 1; at >= 0 && engine->host.first_layer[at] == n_layers; at--)
        if (engine->host.output[at]) engine->host.output[engine->host.source_row[at]] = 1;
    if (engine->host.n_edits > 1)
        qsort(engine->host.edits, (size_t)engine->host.n_edits, sizeof *engine->host.edits, compare_edits);
    if (engine->host.n_choices > 1)
        qsort(engine->host.choices, (size_t)engine->host.n_choices, sizeof *engine->host.choices, compare_choices);
    if (engine->host.n_captures > 1)
        qsort(engine->host.captures, (size_t)engine->host.n_captures, sizeof *engine->host.captures, compare_captures);
    if (engine->host.n_vectors > engine->host.dev_vector_capacity) {
        lp_engine_release(engine, engine->host.dev_vectors);
        engine->host.dev_vectors = NULL;
        LP_CHECK(lp_engine_alloc(engine, &engine->host.dev_vectors, 2 * engine->host.n_vectors * sizeof(float),
                                 "donor vectors", err));
        engine->host.dev_vector_capacity = 2 * engine->host.n_vectors;
    }
    return engine->be->upload(engine->be, engine->host.dev_vectors, engine->host.vectors,
                              engine->host.n_vectors * sizeof(float), err);
}

/* ---- Reading out ------------------------------------------------------------------------------------------------- */

static lp_status make_results(lp_engine *engine, lp_step_batch *batch, lp_error *err) {
    size_t bytes = lp_step_batch_results_bytes(batch);
    LP_CHECK(lp_mem_grow(&batch->host_results, &batch->host_capacity, bytes, 1, "results", err));
    if (bytes <= batch->capacity) return LP_OK;
    lp_engine_release(engine, batch->results);
    batch->results = NULL;
    batch->capacity = 0;
    LP_CHECK(lp_engine_alloc(engine, &batch->results, 2 * bytes, "results", err));
    batch->capacity = 2 * bytes;
    return LP_OK;
}

static lp_status read_steps(lp_engine *engine, const float *hidden, int32_t n, lp_error *err) {
    lp_backend *be = engine->be;
    int32_t d = engine->options->model->config.d_model;
    if (n == 0) return LP_OK;
    const float *fed = engine->out.gathered;
    if (engine->options->protocol.feedback == LP_FEEDBACK_PROJECTION && engine->options->model->projection.present) {
        LP_CHECK(be->pack_rows(be, engine->out.gathered, hidden, engine->out.dev_lists, n, d, err));
        LP_CHECK(lp_forward_project(engine->forward, engine->out.gathered, n, engine->out.projected, err));
        fed = engine->out.projected;
    } else {
        LP_CHECK(be->copy_rows(be, engine->out.gathered, NULL, hidden, engine->out.dev_lists, n, d, err));
    }
    return be->copy_rows(be, engine->kv.latents, engine->out.dev_lists + engine->max_rows, fed, NULL, n, d, err);
}

/* Logits never leave the device: tokens are chosen and numbers read there. */
static lp_status read_tokens(lp_engine *engine, lp_step_batch *batch, const float *hidden, lp_error *err) {
    lp_backend *be = engine->be;
    int32_t d = engine->options->model->config.d_model, width = lp_logits_stride(&engine->options->model->config);
    int32_t candidates = engine->options->vocabulary.n_candidates, n = batch->n_tokens;
    lp_logit_stats *stats = (lp_logit_stats *)(void *)(batch->results + lp_step_batch_stats_at(batch));
    int32_t *best = (int32_t *)(void *)(batch->results + lp_step_batch_tokens_at(batch));
    size_t n_asked = 0;
    const lp_vocabulary *vocabulary = &engine->options->vocabulary;
    const lp_choosable among = {.n_candidates = candidates,
                                .barred = vocabulary->not_chosen,
                                .n_barred = vocabulary->n_not_chosen,
                                .barred_logit = LP_NEVER_LOGIT};
    if (n == 0) return LP_OK;
    LP_CHECK(be->pack_rows(be, engine->out.gathered, hidden, engine->out.dev_lists + 2 * engine->max_rows, n, d, err));
    for (int32_t first = 0, i = 0; first < n; first += batch->head_rows) {
        int32_t rows = n - first < batch->head_rows ? n - first : batch->head_rows;
        size_t end = n_asked;
        const char *from = (const char *)engine->out.gathered + (size_t)first * lp_operand_bytes(be, LP_OPERAND, d);
        /* Where nobody asks for logits the tokens alone will do. */
        bool chosen = false;
        if (batch->queries.n == 0)
            LP_CHECK(lp_forward_choose(engine->forward, (const float *)(const void *)from, rows, &among, best + first,
                                       &chosen, err));
        if (chosen) continue;
        LP_CHECK(read_head(engine, LP_OPERAND, (const float *)(const void *)from, rows, err));
        LP_CHECK(be->argmax(be, engine->out.logits, rows, width, candidates, best + first, err));
        for (; i < first + rows; i++) {
            const lp_batch_row *row = &batch->rows[batch->order[batch->choosing[i]]];
            if (lp_step_batch_queries_for(batch, end, row)) end++;
            while (end < batch->queries.n && batch->queries.owners[end].is_late) end++;
        }
        LP_CHECK(be->read_logits(be, engine->out.logits, engine->kv.saved, width, candidates,
                                 batch->queries.items + n_asked, (int32_t)(end - n_asked), stats + n_asked, err));
        n_asked = end;
    }
    LP_ASSERT(n_asked == batch->queries.n);
    return LP_OK;
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

/* Issues the next batch, where there are rows for one. */
static lp_status start_batch(lp_engine *engine, bool *started, lp_error *err) {
    lp_step_batch *batch = &engine->batches[engine->n_started % (uint64_t)engine->n_batches];
    const float *hidden = NULL;
    int32_t n_out = 0;
    *started = false;
    if (engine->n_under_way == engine->n_batches) return LP_OK;
    engine->batch = batch;
    lp_engine_gather_rows(engine, batch);
    if (batch->n_rows == 0) return LP_OK;
    sort_rows(engine, batch);
    LP_CHECK(fill_batch(engine, batch, err));
    batch->n_captures = engine->host.n_captures;
    int32_t n_steps = lp_step_batch_list_outcomes(batch, engine->host.output, engine->out.lists, engine->max_rows);
    LP_CHECK(lp_step_batch_list_queries(batch, lp_engine_head_rows(engine->be, engine->max_rows), err));
    LP_CHECK(make_results(engine, batch, err));
    lp_forward_batch input = {.n_rows = batch->n_rows,
                              .first_layer = engine->host.first_layer,
                              .source = engine->host.source_row,
                              .input = engine->host.input,
                              .output = engine->host.output,
                              .position = engine->host.position,
                              .slot = engine->host.slot,
                              .prompt_begin = engine->host.prompt_begin,
                              .prompt_length = engine->host.prompt_length,
                              .tail_begin = engine->host.tail_begin,
                              .tail_length = engine->host.tail_length,
                              .tail = engine->host.tail,
                              .n_tail = engine->host.n_tail,
                              .edits = engine->host.edits,
                              .n_edits = engine->host.n_edits,
                              .captures = engine->host.captures,
                              .n_captures = engine->host.n_captures,
                              .choices = engine->host.choices,
                              .n_choices = engine->host.n_choices,
                              .chosen = engine->host.chosen,
                              .n_chosen = engine->host.n_chosen,
                              .captured = (float *)(void *)batch->results,
                              .vectors = engine->host.dev_vectors,
                              .room = {.x = engine->out.gathered,
                                       .embeddings = engine->out.projected,
                                       .n_rows = engine->max_rows,
                                       .logits = engine->out.logits,
                                       .n_logits = lp_engine_head_rows(engine->be, engine->max_rows),
                                       .n_candidates = engine->options->vocabulary.n_candidates},
                              .latents = engine->kv.latents,
                              .pool = &engine->kv.pool};
    LP_CHECK(lp_forward_run(engine->forward, &input, &hidden, &n_out, err));
    LP_CHECK(engine->be->upload(engine->be, engine->out.dev_lists, engine->out.lists,
                                3 * (size_t)engine->max_rows * sizeof(int32_t), err));
    LP_CHECK(read_steps(engine, hidden, n_steps, err));
    LP_CHECK(read_tokens(engine, batch, hidden, err));
    if (lp_step_batch_results_bytes(batch) > 0)
        LP_CHECK(engine->be->fetch_begin(engine->be, batch->number, batch->results, lp_step_batch_results_bytes(batch),
                                         err));
    engine->counters.batches++;
    engine->counters.rows += (uint64_t)batch->n_rows;
    engine->n_started++;
    engine->n_under_way++;
    *started = true;
    return LP_OK;
}

/* Waits for the oldest batch and hands its results out. */
static lp_status finish_batch(lp_engine *engine, lp_error *err) {
    lp_step_batch *batch = &engine->batches[engine->n_finished % (uint64_t)engine->n_batches];
    if (lp_step_batch_results_bytes(batch) > 0)
        LP_CHECK(engine->be->fetch_end(engine->be, batch->number, batch->host_results,
                                       lp_step_batch_results_bytes(batch), err));
    lp_step_batch_hand_out(batch);
    engine->n_finished++;
    engine->n_under_way--;
    return LP_OK;
}

static void release(lp_engine *engine) {
    lp_engine_schedule *schedule = &engine->schedule;
    for (int32_t i = 0; i < schedule->n_inflight; i++) lp_engine_free_inflight(schedule->inflight[i]);
    for (int32_t i = 0; i < schedule->n_idle; i++) lp_engine_free_inflight(schedule->idle[i]);
    lp_engine_free_inflight(schedule->waiting);
    lp_engine_free_forward(engine);
    lp_weights_free(engine->own_weights);
    lp_engine_free_workspace(engine);
    lp_engine_free_pools(engine);
    lp_engine_release(engine, engine->host.dev_vectors);
    lp_engine_release(engine, engine->out.ranked_tokens);
    lp_engine_release(engine, engine->out.ranked_numbers);
    lp_engine_release(engine, engine->out.step_logits);
    lp_engine_release(engine, engine->out.step_stats);
    lp_engine_release(engine, engine->out.never_logit);
    lp_mem_free(engine->out.barred);
    lp_mem_free(engine->host.tail);
    lp_mem_free(engine->host.edits);
    lp_mem_free(engine->host.captures);
    lp_mem_free(engine->host.choices);
    lp_mem_free(engine->host.chosen);
    lp_mem_free(engine->host.allowed);
    lp_mem_free(engine->host.vectors);
    for (int i = 0; i < LP_FETCHES; i++) {
        lp_step_batch *batch = &engine->batches[i];
        lp_engine_release(engine, batch->results);
        lp_mem_free(batch->host_results);
        lp_mem_free(batch->captures);
        lp_mem_free(batch->queries.items);
        lp_mem_free(batch->queries.owners);
    }
}

lp_status lp_execute_batched(const lp_executor_options *options, const lp_engine_options *engine_options,
                             const lp_work_source *source, lp_engine_counters *counters, lp_error *err) {
    lp_engine *engine = NULL;
    lp_status status = lp_mem_new(&engine, 1, sizeof *engine, "engine", err);
    if (status != LP_OK) return status;
    engine->options = options;
    engine->engine = engine_options;
    engine->source = source;
    engine->sink.source = source;
    engine->be = engine_options->backend;
    engine->limit = engine_options->memory_limit;
    engine->n_batches = engine->be->is_asynchronous ? LP_FETCHES : 1;
    for (int i = 0; i < LP_FETCHES; i++) engine->batches[i].number = i;
    engine->began = lp_engine_seconds();
    const lp_backend_counters before = engine->be->counters;
    engine->weights = engine_options->weights;
    /* Units are taken in, and read from their store, while batches are under way. */
    for (;;) {
        bool started = false;
        LP_TRY(lp_engine_admit(engine, err));
        if (engine->schedule.n_inflight == 0) break;
        LP_TRY(start_batch(engine, &started, err));
        if (started && engine->n_under_way < engine->n_batches) continue;
        if (engine->n_under_way > 0) LP_TRY(finish_batch(engine, err));
        LP_TRY(lp_engine_finish_units(engine, err));
    }
    lp_engine_free_forward(engine);
    const lp_backend_counters after = engine->be->counters;
    engine->counters.gemm_flops = after.gemm_flops - before.gemm_flops;
    engine->counters.padded_flops = after.padded_flops - before.padded_flops;
    engine->counters.bytes_up = after.bytes_up - before.bytes_up;
    engine->counters.bytes_down = after.bytes_down - before.bytes_down;
    engine->counters.n_waits = after.n_waits - before.n_waits;
    engine->counters.seconds = lp_engine_seconds() - engine->began;
    if (counters) *counters = engine->counters;
out:
    release(engine);
    lp_mem_free(engine);
    return status;
}
