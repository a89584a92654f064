#include "patch/engine_state.h"

#include "base/memory.h"
#include "patch/edges.h"

/* ---- Lenses ---------------------------------------------------------------------------------------------------- */

/* The vectors lie on the host since their captures were taken. The workspace of the batches serves, after what the
 * batch under way does with it. */
static lp_status read_lens(lp_engine *e, const lp_lens_wanted *lens, lp_error *err) {
    lp_backend *be = e->be;
    const lp_model_config *c = &e->options->model->config;
    size_t d = (size_t)c->d_model, top = (size_t)lens->top;
    int32_t candidates = e->options->vocabulary.n_candidates;
    int32_t at_once = lp_engine_head_rows(e->be, e->max_rows);
    lp_status status = LP_OK;
    if ((size_t)at_once * top > e->out.ranked_capacity) {
        lp_engine_release(e, e->out.ranked_tokens);
        lp_engine_release(e, e->out.ranked_numbers);
        e->out.ranked_tokens = NULL;
        e->out.ranked_numbers = NULL;
        LP_TRY(lp_engine_alloc(e, &e->out.ranked_tokens, (size_t)at_once * top * sizeof(int32_t), "logit lens", err));
        LP_TRY(lp_engine_alloc(e, &e->out.ranked_numbers, (size_t)at_once * top * sizeof(float), "logit lens", err));
        e->out.ranked_capacity = (size_t)at_once * top;
    }
    for (int32_t first = 0; first < lens->n; first += at_once) {
        int32_t n = lens->n - first < at_once ? lens->n - first : at_once;
        size_t at = (size_t)first * top, found = (size_t)n * top;
        LP_TRY(be->upload(be, e->out.gathered, lens->vectors + (size_t)first * d, (size_t)n * d * sizeof(float), err));
        LP_TRY(lp_forward_final_norm(e->forward, e->out.gathered, n, e->out.projected, err));
        LP_TRY(lp_forward_head(e->forward, e->out.projected, n, e->out.logits, err));
        LP_TRY(be->top(be, e->out.logits, n, lp_logits_stride(c), candidates, lens->top, e->out.ranked_tokens,
                       e->out.ranked_numbers, err));
        LP_TRY(be->download(be, lens->tokens + at, e->out.ranked_tokens, found * sizeof(int32_t), err));
        LP_TRY(be->download(be, lens->log_probability + at, e->out.ranked_numbers, found * sizeof(float), err));
    }
out:
    return status;
}

/* States of other runs than the unpatched, gathered for one product of the head. */
typedef struct {
    const lp_step_reading *unpatched;
    lp_logit_query *queries; /* [at_once] */
    lp_logit_stats *stats;   /* [at_once] */
    float **kl;              /* [at_once] where they go */
    int32_t at_once, n;
} step_states;

static lp_status make_step_room(lp_engine *e, int32_t n_steps, int32_t at_once, lp_error *err) {
    size_t row = (size_t)lp_logits_stride(&e->options->model->config) * sizeof(float);
    lp_status status = LP_OK;
    if (e->out.step_logits) return LP_OK;
    LP_TRY(lp_engine_alloc(e, &e->out.step_logits, (size_t)n_steps * row, "logits of steps", err));
    LP_TRY(lp_engine_alloc(e, &e->out.step_stats, (size_t)at_once * sizeof(lp_logit_stats), "logits of steps", err));
out:
    return status;
}

/* Logits of the states that lie in e->out.gathered, and what is asked of them. */
static lp_status read_step_states(lp_engine *e, step_states *s, lp_error *err) {
    lp_backend *be = e->be;
    int32_t width = lp_logits_stride(&e->options->model->config);
    lp_status status = LP_OK;
    if (s->n == 0) return LP_OK;
    LP_TRY(lp_forward_head(e->forward, e->out.gathered, s->n, e->out.logits, err));
    LP_TRY(be->read_logits(be, e->out.logits, e->out.step_logits, width, e->options->vocabulary.n_candidates,
                           s->queries, s->n, e->out.step_stats, err));
    LP_TRY(be->download(be, s->stats, e->out.step_stats, (size_t)s->n * sizeof *s->stats, err));
    for (int32_t i = 0; i < s->n; i++) {
        if (!s->kl[i]) continue;
        double kl = s->stats[i].kl;
        *s->kl[i] = (float)(kl < 0 ? 0 : kl);
    }
    s->n = 0;
out:
    return status;
}

static lp_status add_step_state(lp_engine *e, step_states *s, const float *vector, int32_t step, float *kl,
                                lp_error *err) {
    int32_t d = e->options->model->config.d_model;
    lp_status status = LP_OK;
    if (s->n == s->at_once) LP_TRY(read_step_states(e, s, err));
    LP_TRY(e->be->upload(e->be, e->out.gathered + (int64_t)s->n * d, vector, (size_t)d * sizeof(float), err));
    s->queries[s->n] =
        (lp_logit_query){.row = s->n, .saved_row = kl ? -1 : step, .base = kl ? step : -1, .token = {-1, -1}};
    s->kl[s->n++] = kl;
out:
    return status;
}

static lp_status read_step_changes(lp_engine *e, const lp_run_group *group, lp_error *err) {
    int64_t first = lp_run_group_unpatched(group, e->options->protocol.n_steps);
    int32_t d = e->options->model->config.d_model;
    int32_t at_once = lp_engine_head_rows(e->be, e->max_rows);
    step_states s = {.at_once = at_once};
    bool differs[LP_MAX_STEPS], is_ready = false;
    lp_status status = LP_OK;
    if (first < 0 || !group->runs[first].steps) return LP_OK;
    s.unpatched = group->runs[first].steps;
    LP_TRY(make_step_room(e, s.unpatched->n_steps, at_once, err));
    LP_TRY(lp_mem_new(&s.queries, (size_t)at_once, sizeof *s.queries, "logits of steps", err));
    LP_TRY(lp_mem_new(&s.stats, (size_t)at_once, sizeof *s.stats, "logits of steps", err));
    LP_TRY(lp_mem_new(&s.kl, (size_t)at_once, sizeof *s.kl, "logits of steps", err));
    for (size_t i = 0; i < group->n_runs; i++) {
        const lp_run_wanted *run = &group->runs[i];
        lp_step_compare(s.unpatched, run->steps, d, run->n_steps, differs);
        for (int32_t t = 0; t < run->steps->n_steps; t++) {
            if (!differs[t]) continue;
            for (int32_t k = 0; !is_ready && k < s.unpatched->n_steps; k++)
                LP_TRY(add_step_state(e, &s, s.unpatched->vectors + (int64_t)k * d, k, NULL, err));
            if (!is_ready) LP_TRY(read_step_states(e, &s, err));
            is_ready = true;
            LP_TRY(add_step_state(e, &s, run->steps->vectors + (int64_t)t * d, t,
                                  &run->steps->numbers[t * LP_N_STEP_NUMBERS + LP_STEP_KL], err));
        }
    }
    LP_TRY(read_step_states(e, &s, err));
out:
    lp_mem_free(s.queries);
    lp_mem_free(s.stats);
    lp_mem_free(s.kl);
    return status;
}

lp_status lp_engine_read_lenses(lp_engine *e, const lp_work_unit *unit, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t g = 0; g < unit->n_groups && status == LP_OK; g++)
        if (unit->groups[g].n_runs > 0 && unit->groups[g].runs[0].steps)
            status = read_step_changes(e, &unit->groups[g], err);
    for (size_t g = 0; g < unit->n_groups; g++)
        for (size_t i = 0; i < unit->groups[g].n_runs && status == LP_OK; i++)
            if (unit->groups[g].runs[i].lens) status = read_lens(e, unit->groups[g].runs[i].lens, err);
    return status;
}

/* ---- Batches -------------------------------------------------------------------------------------------------------
 */

static lp_status add_floats(lp_engine *e, const float *floats, size_t n, lp_error *err) {
    lp_status status = lp_mem_grow(&e->host.vectors, &e->host.vector_capacity, e->host.n_vectors + n, sizeof(float),
                                   "donor vectors", err);
    if (status != LP_OK) return status;
    memcpy(e->host.vectors + e->host.n_vectors, floats, n * sizeof(float));
    e->host.n_vectors += n;
    return LP_OK;
}

/* Edits of one subspace share its directions, where no other comes between. */
static lp_status add_directions(lp_engine *e, const lp_subspace *s, lp_row_edit *edit, lp_error *err) {
    if (e->host.directions != s->directions) {
        e->host.directions = s->directions;
        e->host.directions_at = (int64_t)e->host.n_vectors;
        lp_status status = add_floats(e, s->directions, (size_t)s->n * (size_t)s->width, err);
        if (status != LP_OK) return status;
    }
    edit->directions = e->host.directions_at;
    edit->n_directions = s->n;
    return LP_OK;
}

static lp_status add_edit(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place, int32_t k,
                          lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    const float *vector = NULL;
    const lp_timed_edit *edit = lp_tree_edit(request->group, &request->branches[row->branch].plan, k, &vector);
    const lp_replacement *what = &edit->what;
    int32_t width = lp_site_width(c, what->at.site, what->at.head);
    lp_status status = lp_mem_grow(&e->host.edits, &e->host.edit_capacity, (size_t)e->host.n_edits + 1,
                                   sizeof *e->host.edits, "edits", err);
    if (status != LP_OK) return status;
    e->host.edits[e->host.n_edits++] = (lp_forward_edit){.key = lp_forward_key(edit->depth, row->first_layer),
                                                         .edit = {.row = place,
                                                                  .offset = lp_site_offset(c, what->at.head),
                                                                  .width = width,
                                                                  .operation = (int32_t)what->operation,
                                                                  .factor = what->factor}};
    lp_row_edit *added = &e->host.edits[e->host.n_edits - 1].edit;
    if (what->subspace > 0) status = add_directions(e, &request->group->subspaces[what->subspace - 1], added, err);
    if (status != LP_OK || !vector) return status;
    added->vector = (int64_t)e->host.n_vectors;
    return add_floats(e, vector, (size_t)width, err);
}

/* Does the row itself have to make the edit? It is at the row's position, and the source's vector does not hold it yet.
 */
static bool is_own_edit(const lp_engine *e, const lp_request_row *row, const lp_timed_edit *edit, int32_t k) {
    int32_t last_v = (e->options->model->config.n_layers - 1) * LP_N_SITES + LP_SITE_V;
    bool here = edit->all ? row->position >= edit->position : edit->position == row->position;
    if (!here || (k < row->first_own_edit && edit->depth < row->first_layer * LP_N_SITES)) return false;
    /* `*` names eot too, whose output nobody reads where eos follows it. */
    if (!row->output && edit->depth > last_v) return false;
    return row->first_layer == 0 || edit->depth >= (row->first_layer - 1) * LP_N_SITES + LP_SITE_RESID_POST;
}

/* Adds the slots of the allowed positions of a row to those that are chosen, unless they are the ones of the choice
 * before, which is of the same row. */
static lp_status choose_slots(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place,
                              lp_row_choice *choice, lp_error *err) {
    const int32_t *tail = lp_request_tail(request, row);
    const lp_forward_choice *before = e->host.n_choices > 0 ? &e->host.choices[e->host.n_choices - 1] : NULL;
    int32_t prompt = request->prompt_page * LP_PAGE_POSITIONS, n = e->host.n_chosen;
    lp_status status = lp_mem_grow(&e->host.chosen, &e->host.chosen_capacity, (size_t)(n + row->position) + 1,
                                   sizeof(int32_t), "attention edges", err);
    if (status != LP_OK) return status;
    for (int32_t p = 0; p <= row->position; p++)
        if (e->host.allowed[p])
            e->host.chosen[n++] = p < row->prompt_length ? prompt + p : tail[p - row->prompt_length];
    choice->begin = e->host.n_chosen;
    choice->length = n - e->host.n_chosen;
    if (before && before->choice.row == place && before->choice.length == choice->length &&
        memcmp(e->host.chosen + before->choice.begin, e->host.chosen + choice->begin,
               (size_t)choice->length * sizeof(int32_t)) == 0)
        choice->begin = before->choice.begin;
    else
        e->host.n_chosen = n;
    return LP_OK;
}

/* Chooses what the heads of a layer of the row attend to, where edges [k, end) of the branch, which are all of that
 * layer, say something of them. */
static lp_status add_choices(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place,
                             const lp_timed_edit *edits, int32_t n, int32_t layer, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    bool by_head = false;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&e->host.allowed, &e->host.allowed_capacity, (size_t)row->position + 1, sizeof(bool),
                       "attention edges", err));
    for (int32_t k = 0; k < n; k++)
        by_head |= lp_is_edge(&edits[k]) && edits[k].what.at.layer == layer && edits[k].what.at.head != LP_ALL_HEADS;
    int32_t at_once = by_head ? 1 : c->n_heads;
    for (int32_t head = 0; head < c->n_heads; head += at_once) {
        lp_row_choice choice = {.row = place, .first_head = head, .n_heads = at_once};
        if (!lp_edges_allowed(edits, (size_t)n, layer, head, row->position, e->host.allowed)) continue;
        LP_TRY(choose_slots(e, request, row, place, &choice, err));
        LP_TRY(lp_mem_grow(&e->host.choices, &e->host.choice_capacity, (size_t)e->host.n_choices + 1,
                           sizeof *e->host.choices, "attention edges", err));
        e->host.choices[e->host.n_choices++] = (lp_forward_choice){.layer = layer, .choice = choice};
    }
out:
    return status;
}

/* What the row itself has to change: the edits at its position that its source's vector does not hold yet. */
static lp_status add_edits(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place,
                           lp_error *err) {
    const lp_branch *branch = &request->branches[row->branch].plan;
    int32_t n_layers = e->options->model->config.n_layers;
    bool is_chosen[LP_MAX_LAYERS] = {false}, any = false;
    lp_status status = LP_OK;
    for (int32_t k = 0; k < branch->n_edits; k++) {
        const lp_timed_edit *edit = lp_tree_edit(request->group, branch, k, NULL);
        if (!is_own_edit(e, row, edit, k)) continue;
        if (lp_is_edge(edit))
            any = is_chosen[edit->what.at.layer] = true;
        else
            LP_TRY(add_edit(e, request, row, place, k, err));
    }
    for (int32_t l = 0; any && l < n_layers; l++)
        if (is_chosen[l])
            LP_TRY(add_choices(e, request, row, place, lp_tree_edit(request->group, branch, 0, NULL), branch->n_edits,
                               l, err));
out:
    return status;
}

static lp_status add_captures_of(lp_engine *e, const lp_request *request, const lp_run_wanted *run,
                                 const lp_branch *branch, const lp_request_row *row, int32_t place, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    lp_status status = LP_OK;
    for (int32_t k = 0; k < run->n_captures; k++) {
        lp_address at = run->captures[k].at;
        if (!lp_request_is_place(request, branch, &at, row->position)) continue;
        lp_address_canonical(&at);
        lp_step_batch *batch = e->batch;
        size_t n = (size_t)e->host.n_captures + 1;
        int32_t width = lp_site_width(c, at.site, at.head);
        LP_TRY(lp_mem_grow(&e->host.captures, &e->host.capture_capacity, n, sizeof *e->host.captures, "captures", err));
        LP_TRY(lp_mem_grow(&batch->captures, &batch->capture_capacity, n, sizeof *batch->captures, "captures", err));
        batch->captures[n - 1] =
            (lp_batch_capture){.out = run->captures[k].out, .width = width, .at = (int64_t)batch->n_captured};
        e->host.captures[e->host.n_captures++] =
            (lp_forward_capture){.key = lp_forward_key(lp_address_depth(c, &at), row->first_layer),
                                 .row = place,
                                 .offset = lp_site_offset(c, at.head),
                                 .width = width,
                                 .out = (int64_t)batch->n_captured};
        batch->n_captured += (size_t)width;
    }
out:
    return status;
}

static lp_status add_captures(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place,
                              lp_error *err) {
    lp_status status = LP_OK;
    for (int32_t i = lp_request_first_carried(request, row); i >= 0 && status == LP_OK;
         i = lp_request_next_carried(request, row, i)) {
        const lp_branch *branch = &request->branches[i].plan;
        for (int32_t run = branch->first_run; run >= 0 && status == LP_OK; run = request->tree.next_run[run])
            status = add_captures_of(e, request, &request->group->runs[run], branch, row, place, err);
    }
    return status;
}

/* order: rows by first layer, those with the same one as they were. */
static void sort_rows(lp_engine *e, lp_step_batch *batch) {
    int32_t n_layers = e->options->model->config.n_layers;
    int32_t count[LP_MAX_LAYERS + 2] = {0}; /* rows by first layer, one place later: 0 to n_layers, 1 to n_layers + 1 */
    LP_ASSERT(n_layers <= LP_MAX_LAYERS);
    for (int32_t i = 0; i < batch->n_rows; i++) count[lp_batch_row_of(&batch->rows[i])->first_layer + 1]++;
    for (int32_t l = 0; l <= n_layers; l++) count[l + 1] += count[l];
    for (int32_t i = 0; i < batch->n_rows; i++) {
        int32_t at = count[lp_batch_row_of(&batch->rows[i])->first_layer]++;
        batch->order[at] = i;
        e->host.place[i] = at;
    }
}

static int compare_edits(const void *a, const void *b) {
    const lp_forward_edit *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->edit.row > y->edit.row) - (x->edit.row < y->edit.row);
}

static int compare_choices(const void *a, const void *b) {
    const lp_forward_choice *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->choice.row != y->choice.row) return x->choice.row < y->choice.row ? -1 : 1;
    return (x->choice.first_head > y->choice.first_head) - (x->choice.first_head < y->choice.first_head);
}

static int compare_captures(const void *a, const void *b) {
    const lp_forward_capture *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

static lp_status fill_batch(lp_engine *e, lp_step_batch *batch, lp_error *err) {
    lp_status status = LP_OK;
    e->host.n_tail = e->host.n_edits = e->host.n_captures = e->host.n_choices = e->host.n_chosen = 0;
    e->host.n_vectors = batch->n_captured = 0;
    e->host.directions = NULL;
    for (int32_t at = 0; at < batch->n_rows; at++) {
        const lp_batch_row *from = &batch->rows[batch->order[at]];
        const lp_request_row *row = &from->request->rows[from->request_row];
        e->host.first_layer[at] = row->first_layer;
        e->host.source_row[at] = row->source < 0 ? 0 : e->host.place[from->first + row->source];
        e->host.input[at] = (lp_row_input){.token = row->token, .latent = row->latent};
        e->host.output[at] = row->output;
        e->host.position[at] = row->position;
        e->host.slot[at] = row->slot;
        e->host.prompt_begin[at] = from->request->prompt_page * LP_PAGE_POSITIONS;
        e->host.prompt_length[at] = row->prompt_length;
        e->host.tail_begin[at] = e->host.n_tail;
        e->host.tail_length[at] = row->n_tail;
        LP_TRY(lp_mem_grow(&e->host.tail, &e->host.tail_capacity, (size_t)(e->host.n_tail + row->n_tail) + 1,
                           sizeof(int32_t), "slots", err));
        if (row->n_tail)
            memcpy(e->host.tail + e->host.n_tail, lp_request_tail(from->request, row),
                   (size_t)row->n_tail * sizeof(int32_t));
        e->host.n_tail += row->n_tail;
        LP_TRY(add_edits(e, from->request, row, at, err));
        LP_TRY(add_captures(e, from->request, row, at, err));
    }
    /* A row that takes its source's final state needs it computed. */
    int32_t n_layers = e->options->model->config.n_layers;
    for (int32_t at = batch->n_rows - 1; at >= 0 && e->host.first_layer[at] == n_layers; at--)
        if (e->host.output[at]) e->host.output[e->host.source_row[at]] = 1;
    if (e->host.n_edits > 1) qsort(e->host.edits, (size_t)e->host.n_edits, sizeof *e->host.edits, compare_edits);
    if (e->host.n_choices > 1)
        qsort(e->host.choices, (size_t)e->host.n_choices, sizeof *e->host.choices, compare_choices);
    if (e->host.n_captures > 1)
        qsort(e->host.captures, (size_t)e->host.n_captures, sizeof *e->host.captures, compare_captures);
    if (e->host.n_vectors > e->host.dev_vector_capacity) {
        lp_engine_release(e, e->host.dev_vectors);
        e->host.dev_vectors = NULL;
        LP_TRY(lp_engine_alloc(e, &e->host.dev_vectors, 2 * e->host.n_vectors * sizeof(float), "donor vectors", err));
        e->host.dev_vector_capacity = 2 * e->host.n_vectors;
    }
    LP_TRY(e->be->upload(e->be, e->host.dev_vectors, e->host.vectors, e->host.n_vectors * sizeof(float), err));
out:
    return status;
}

/* ---- Reading out ------------------------------------------------------------------------------------------------- */

static lp_status make_results(lp_engine *e, lp_step_batch *batch, lp_error *err) {
    size_t bytes = lp_step_batch_results_bytes(batch);
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&batch->host_results, &batch->host_capacity, bytes, 1, "results", err));
    if (bytes <= batch->capacity) return LP_OK;
    lp_engine_release(e, batch->results);
    batch->results = NULL;
    batch->capacity = 0;
    LP_TRY(lp_engine_alloc(e, &batch->results, 2 * bytes, "results", err));
    batch->capacity = 2 * bytes;
out:
    return status;
}

static lp_status read_steps(lp_engine *e, const float *hidden, int32_t n, lp_error *err) {
    lp_backend *be = e->be;
    int32_t d = e->options->model->config.d_model;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    LP_TRY(be->copy_rows(be, e->out.gathered, NULL, hidden, e->out.dev_lists, n, d, err));
    const float *fed = e->out.gathered;
    if (e->options->protocol.feedback == LP_FEEDBACK_PROJECTION) {
        LP_TRY(lp_forward_project(e->forward, e->out.gathered, n, e->out.projected, err));
        fed = e->out.projected;
    }
    LP_TRY(be->copy_rows(be, e->kv.latents, e->out.dev_lists + e->max_rows, fed, NULL, n, d, err));
out:
    return status;
}

/* Logits never leave the device: tokens are chosen and numbers read there. */
static lp_status read_tokens(lp_engine *e, lp_step_batch *batch, const float *hidden, lp_error *err) {
    lp_backend *be = e->be;
    int32_t d = e->options->model->config.d_model, width = lp_logits_stride(&e->options->model->config);
    int32_t candidates = e->options->vocabulary.n_candidates, n = batch->n_tokens;
    lp_logit_stats *stats = (lp_logit_stats *)(void *)(batch->results + lp_step_batch_stats_at(batch));
    int32_t *best = (int32_t *)(void *)(batch->results + lp_step_batch_tokens_at(batch));
    size_t n_asked = 0;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    LP_TRY(be->copy_rows(be, e->out.gathered, NULL, hidden, e->out.dev_lists + 2 * e->max_rows, n, d, err));
    for (int32_t first = 0, i = 0; first < n; first += batch->head_rows) {
        int32_t rows = n - first < batch->head_rows ? n - first : batch->head_rows;
        size_t end = n_asked;
        LP_TRY(lp_forward_head(e->forward, e->out.gathered + (int64_t)first * d, rows, e->out.logits, err));
        LP_TRY(be->argmax(be, e->out.logits, rows, width, candidates, best + first, err));
        for (; i < first + rows; i++) {
            const lp_batch_row *r = &batch->rows[batch->order[batch->choosing[i]]];
            if (lp_step_batch_queries_for(batch, end, r)) end++;
            while (end < batch->queries.n && batch->queries.owners[end].is_late) end++;
        }
        LP_TRY(be->read_logits(be, e->out.logits, e->kv.saved, width, candidates, batch->queries.items + n_asked,
                               (int32_t)(end - n_asked), stats + n_asked, err));
        n_asked = end;
    }
    LP_ASSERT(n_asked == batch->queries.n);
out:
    return status;
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

/* Issues the next batch, where there are rows for one. */
static lp_status start_batch(lp_engine *e, bool *started, lp_error *err) {
    lp_step_batch *batch = &e->batches[e->n_started % (uint64_t)e->n_batches];
    const float *hidden = NULL;
    int32_t n_out = 0;
    lp_status status = LP_OK;
    *started = false;
    if (e->n_under_way == e->n_batches) return LP_OK;
    e->batch = batch;
    lp_engine_gather_rows(e, batch);
    if (batch->n_rows == 0) return LP_OK;
    sort_rows(e, batch);
    LP_TRY(fill_batch(e, batch, err));
    batch->n_captures = e->host.n_captures;
    int32_t n_steps = lp_step_batch_list_outcomes(batch, e->host.output, e->out.lists, e->max_rows);
    LP_TRY(lp_step_batch_list_queries(batch, lp_engine_head_rows(e->be, e->max_rows), err));
    LP_TRY(make_results(e, batch, err));
    lp_forward_batch input = {.n_rows = batch->n_rows,
                              .first_layer = e->host.first_layer,
                              .source = e->host.source_row,
                              .input = e->host.input,
                              .output = e->host.output,
                              .position = e->host.position,
                              .slot = e->host.slot,
                              .prompt_begin = e->host.prompt_begin,
                              .prompt_length = e->host.prompt_length,
                              .tail_begin = e->host.tail_begin,
                              .tail_length = e->host.tail_length,
                              .tail = e->host.tail,
                              .n_tail = e->host.n_tail,
                              .edits = e->host.edits,
                              .n_edits = e->host.n_edits,
                              .captures = e->host.captures,
                              .n_captures = e->host.n_captures,
                              .choices = e->host.choices,
                              .n_choices = e->host.n_choices,
                              .chosen = e->host.chosen,
                              .n_chosen = e->host.n_chosen,
                              .captured = (float *)(void *)batch->results,
                              .vectors = e->host.dev_vectors,
                              .latents = e->kv.latents,
                              .pool = &e->kv.pool};
    LP_TRY(lp_forward_run(e->forward, &input, &hidden, &n_out, err));
    LP_TRY(e->be->upload(e->be, e->out.dev_lists, e->out.lists, 3 * (size_t)e->max_rows * sizeof(int32_t), err));
    LP_TRY(read_steps(e, hidden, n_steps, err));
    LP_TRY(read_tokens(e, batch, hidden, err));
    if (lp_step_batch_results_bytes(batch) > 0)
        LP_TRY(e->be->fetch_begin(e->be, batch->number, batch->results, lp_step_batch_results_bytes(batch), err));
    e->counters.batches++;
    e->counters.rows += (uint64_t)batch->n_rows;
    e->n_started++;
    e->n_under_way++;
    *started = true;
out:
    return status;
}

/* Waits for the oldest batch and hands its results out. */
static lp_status finish_batch(lp_engine *e, lp_error *err) {
    lp_step_batch *batch = &e->batches[e->n_finished % (uint64_t)e->n_batches];
    lp_status status = LP_OK;
    if (lp_step_batch_results_bytes(batch) > 0)
        LP_TRY(e->be->fetch_end(e->be, batch->number, batch->host_results, lp_step_batch_results_bytes(batch), err));
    lp_step_batch_hand_out(batch);
    e->n_finished++;
    e->n_under_way--;
out:
    return status;
}

static void release(lp_engine *e) {
    lp_engine_schedule *schedule = &e->schedule;
    for (int32_t i = 0; i < schedule->n_inflight; i++) lp_engine_free_inflight(schedule->inflight[i]);
    for (int32_t i = 0; i < schedule->n_idle; i++) lp_engine_free_inflight(schedule->idle[i]);
    lp_engine_free_inflight(schedule->waiting);
    lp_engine_free_forward(e);
    lp_weights_free(e->own_weights);
    lp_engine_free_workspace(e);
    lp_engine_free_pools(e);
    lp_engine_release(e, e->host.dev_vectors);
    lp_engine_release(e, e->out.ranked_tokens);
    lp_engine_release(e, e->out.ranked_numbers);
    lp_engine_release(e, e->out.step_logits);
    lp_engine_release(e, e->out.step_stats);
    lp_mem_free(e->host.tail);
    lp_mem_free(e->host.edits);
    lp_mem_free(e->host.captures);
    lp_mem_free(e->host.choices);
    lp_mem_free(e->host.chosen);
    lp_mem_free(e->host.allowed);
    lp_mem_free(e->host.vectors);
    for (int i = 0; i < LP_FETCHES; i++) {
        lp_step_batch *batch = &e->batches[i];
        lp_engine_release(e, batch->results);
        lp_mem_free(batch->host_results);
        lp_mem_free(batch->captures);
        lp_mem_free(batch->queries.items);
        lp_mem_free(batch->queries.owners);
    }
}

lp_status lp_execute_batched(const lp_executor_options *options, const lp_engine_options *engine_options,
                             const lp_work_source *source, lp_engine_counters *counters, lp_error *err) {
    lp_engine *e = NULL;
    lp_status status = lp_mem_new(&e, 1, sizeof *e, "engine", err);
    if (status != LP_OK) return status;
    e->options = options;
    e->engine = engine_options;
    e->source = source;
    e->sink.source = source;
    e->be = engine_options->backend;
    e->limit = engine_options->memory_limit;
    e->n_batches = e->be->is_asynchronous ? LP_FETCHES : 1;
    for (int i = 0; i < LP_FETCHES; i++) e->batches[i].number = i;
    e->began = lp_engine_seconds();
    const lp_backend_counters before = e->be->counters;
    e->weights = engine_options->weights;
    /* Units are taken in, and read from their store, while batches are under way. */
    for (;;) {
        bool started = false;
        LP_TRY(lp_engine_admit(e, err));
        if (e->schedule.n_inflight == 0) break;
        LP_TRY(start_batch(e, &started, err));
        if (started && e->n_under_way < e->n_batches) continue;
        if (e->n_under_way > 0) LP_TRY(finish_batch(e, err));
        LP_TRY(lp_engine_finish_units(e, err));
    }
    lp_engine_free_forward(e);
    const lp_backend_counters after = e->be->counters;
    e->counters.gemm_flops = after.gemm_flops - before.gemm_flops;
    e->counters.padded_flops = after.padded_flops - before.padded_flops;
    e->counters.bytes_up = after.bytes_up - before.bytes_up;
    e->counters.bytes_down = after.bytes_down - before.bytes_down;
    e->counters.n_waits = after.n_waits - before.n_waits;
    e->counters.n_graphs = after.n_graphs - before.n_graphs;
    e->counters.seconds = lp_engine_seconds() - e->began;
    if (counters) *counters = e->counters;
out:
    release(e);
    lp_mem_free(e);
    return status;
}
