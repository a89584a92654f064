#include "patch/engine_state.h"

#include "base/memory.h"

/* ---- Units ------------------------------------------------------------------------------------------------------- */

static void inflight_free(lp_inflight_pair *pair) {
    if (!pair) return;
    for (size_t i = 0; i < pair->request_capacity; i++) lp_request_release(&pair->requests[i]);
    lp_mem_free(pair->requests);
    lp_mem_free(pair->needs);
    lp_mem_free(pair);
}

static lp_status open_unit(lp_engine *e, lp_work_unit *unit, lp_inflight_pair **out, lp_error *err) {
    lp_inflight_pair *pair = e->n_idle > 0 ? e->idle[--e->n_idle] : NULL;
    lp_status status = LP_OK;
    if (!pair) LP_TRY(lp_mem_new(&pair, 1, sizeof *pair, "unit", err));
    pair->unit = unit;
    LP_TRY(
        lp_mem_grow(&pair->requests, &pair->request_capacity, unit->n_groups, sizeof *pair->requests, "requests", err));
    LP_TRY(lp_mem_grow(&pair->needs, &pair->need_capacity, unit->n_groups, sizeof *pair->needs, "requests", err));
    pair->n_slots = pair->n_latents = pair->n_saved = 0;
    for (size_t g = 0; g < unit->n_groups; g++) {
        LP_TRY(lp_request_open(&pair->requests[g], e->options, &unit->groups[g], &pair->needs[g], err));
        pair->n_slots += pair->needs[g].slots;
        pair->n_latents += pair->needs[g].branches;
        pair->n_saved += pair->needs[g].saved;
    }
    *out = pair;
    return LP_OK;
out:
    inflight_free(pair);
    return status;
}

static int32_t most_rows(const lp_inflight_pair *pair) {
    int32_t rows = 1;
    for (size_t g = 0; g < pair->unit->n_groups; g++)
        if (pair->needs[g].rows > rows) rows = pair->needs[g].rows;
    return rows;
}

/* Puts the waiting unit into flight; *entered is false when there is no room for it now. */
static lp_status enter(lp_engine *e, bool *entered, lp_error *err) {
    lp_inflight_pair *pair = e->waiting_pair;
    lp_status status = LP_OK;
    *entered = false;
    bool fits = pair->n_slots <= e->kv_slots.n && most_rows(pair) <= e->max_rows &&
                pair->n_latents <= e->latent_slots.n && pair->n_saved <= e->saved_slots.n;
    if (!fits) {
        if (e->n_inflight > 0) return LP_OK;
        LP_TRY(lp_engine_size_for(e, pair, most_rows(pair), err));
    }
    pair->slot = lp_slots_take(&e->kv_slots, pair->n_slots);
    pair->latent = lp_slots_take(&e->latent_slots, pair->n_latents);
    pair->saved = pair->n_saved > 0 ? lp_slots_take(&e->saved_slots, pair->n_saved) : 0;
    if (pair->slot < 0 || pair->latent < 0 || pair->saved < 0 || e->n_inflight == LP_MAX_INFLIGHT) {
        if (pair->slot >= 0) lp_slots_give(&e->kv_slots, pair->slot, pair->n_slots);
        if (pair->latent >= 0) lp_slots_give(&e->latent_slots, pair->latent, pair->n_latents);
        if (pair->saved >= 0) lp_slots_give(&e->saved_slots, pair->saved, pair->n_saved);
        return LP_OK;
    }
    lp_request_place place = {.slot = pair->slot, .latent = pair->latent, .saved = pair->saved};
    e->inflight[e->n_inflight++] = pair;
    e->waiting = NULL;
    e->waiting_pair = NULL;
    for (size_t g = 0; g < pair->unit->n_groups; g++) {
        LP_TRY(lp_request_start(&pair->requests[g], &pair->needs[g], &place, err));
        place.slot += pair->needs[g].slots;
        place.latent += pair->needs[g].branches;
        place.saved += pair->needs[g].saved;
    }
    *entered = true;
    if (e->n_inflight > e->counters.most_units) e->counters.most_units = e->n_inflight;
out:
    return status;
}

static int32_t rows_inflight(const lp_engine *e) {
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_inflight; i++)
        for (size_t g = 0; g < e->inflight[i]->unit->n_groups; g++) n += e->inflight[i]->needs[g].branches;
    return n;
}

/* Takes in units until the batches are full, memory is, or the source gives none. */
static lp_status admit(lp_engine *e, lp_error *err) {
    int32_t wanted = e->engine->rows_wanted > 0 ? e->engine->rows_wanted : e->be->batch_rows;
    lp_status status = LP_OK;
    while (e->n_inflight == 0 || (rows_inflight(e) < 2 * wanted && e->n_inflight < LP_MAX_INFLIGHT)) {
        bool entered = false;
        if (!e->waiting) {
            LP_TRY(e->source->next(e->source->user, &e->waiting, err));
            if (!e->waiting) break;
            LP_TRY(open_unit(e, e->waiting, &e->waiting_pair, err));
        }
        LP_TRY(enter(e, &entered, err));
        if (!entered) break;
    }
out:
    return status;
}

/* The vectors lie on the host since their captures were taken. The workspace of the batches serves, after what the
 * batch under way does with it. */
static lp_status read_lens(lp_engine *e, const lp_lens_wanted *lens, lp_error *err) {
    lp_backend *be = e->be;
    const lp_model_config *c = &e->options->model->config;
    size_t d = (size_t)c->d_model, top = (size_t)lens->top;
    int32_t candidates = e->options->vocabulary.n_candidates;
    int32_t at_once = lp_engine_head_rows(e) < e->max_rows ? lp_engine_head_rows(e) : e->max_rows;
    lp_status status = LP_OK;
    if ((size_t)at_once * top > e->ranked_capacity) {
        lp_engine_release(e, e->ranked_tokens);
        lp_engine_release(e, e->ranked_numbers);
        e->ranked_tokens = NULL;
        e->ranked_numbers = NULL;
        LP_TRY(lp_engine_alloc(e, &e->ranked_tokens, (size_t)at_once * top * sizeof(int32_t), "logit lens", err));
        LP_TRY(lp_engine_alloc(e, &e->ranked_numbers, (size_t)at_once * top * sizeof(float), "logit lens", err));
        e->ranked_capacity = (size_t)at_once * top;
    }
    for (int32_t first = 0; first < lens->n; first += at_once) {
        int32_t n = lens->n - first < at_once ? lens->n - first : at_once;
        size_t at = (size_t)first * top, found = (size_t)n * top;
        LP_TRY(be->upload(be, e->gathered, lens->vectors + (size_t)first * d, (size_t)n * d * sizeof(float), err));
        LP_TRY(lp_forward_final_norm(e->forward, e->gathered, n, e->projected, err));
        LP_TRY(lp_forward_head(e->forward, e->projected, n, e->logits, err));
        LP_TRY(be->top(be, e->logits, n, lp_logits_stride(c), candidates, lens->top, e->ranked_tokens,
                       e->ranked_numbers, err));
        LP_TRY(be->download(be, lens->tokens + at, e->ranked_tokens, found * sizeof(int32_t), err));
        LP_TRY(be->download(be, lens->log_probability + at, e->ranked_numbers, found * sizeof(float), err));
    }
out:
    return status;
}

static lp_status read_lenses(lp_engine *e, const lp_work_unit *unit, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t g = 0; g < unit->n_groups; g++)
        for (size_t i = 0; i < unit->groups[g].n_runs && status == LP_OK; i++)
            if (unit->groups[g].runs[i].lens) status = read_lens(e, unit->groups[g].runs[i].lens, err);
    return status;
}

static lp_status finish_units(lp_engine *e, lp_error *err) {
    int32_t n_left = 0;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < e->n_inflight; i++) {
        lp_inflight_pair *pair = e->inflight[i];
        bool done = status == LP_OK;
        for (size_t g = 0; done && g < pair->unit->n_groups; g++)
            done = !pair->requests[g].in_batch && lp_request_count_rows(&pair->requests[g]) == 0;
        if (!done) {
            e->inflight[n_left++] = pair;
            continue;
        }
        for (size_t g = 0; g < pair->unit->n_groups; g++) lp_request_finish(&pair->requests[g]);
        lp_slots_give(&e->kv_slots, pair->slot, pair->n_slots);
        lp_slots_give(&e->latent_slots, pair->latent, pair->n_latents);
        lp_slots_give(&e->saved_slots, pair->saved, pair->n_saved);
        status = read_lenses(e, pair->unit, err);
        if (status == LP_OK) status = e->source->done(e->source->user, pair->unit, err);
        if (e->counters.seconds_first == 0) e->counters.seconds_first = lp_engine_seconds() - e->began;
        e->idle[e->n_idle++] = pair;
    }
    e->n_inflight = n_left;
    return status;
}

/* ---- Batches -------------------------------------------------------------------------------------------------------
 */

static lp_status add_edit(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place, int32_t k,
                          lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    const float *vector = NULL;
    const lp_timed_edit *edit = lp_tree_edit(request->group, &request->branches[row->branch].plan, k, &vector);
    const lp_replacement *what = &edit->what;
    int32_t width = lp_site_width(c, what->at.site, what->at.head);
    lp_status status =
        lp_mem_grow(&e->edits, &e->edit_capacity, (size_t)e->n_edits + 1, sizeof *e->edits, "edits", err);
    if (status != LP_OK) return status;
    e->edits[e->n_edits++] = (lp_forward_edit){.key = lp_forward_key(edit->depth, row->first_layer),
                                               .edit = {.row = place,
                                                        .offset = lp_site_offset(c, what->at.head),
                                                        .width = width,
                                                        .operation = (int32_t)what->operation,
                                                        .factor = what->factor,
                                                        .vector = (int64_t)e->n_vectors}};
    if (!vector) return LP_OK;
    status = lp_mem_grow(&e->vectors, &e->vector_capacity, e->n_vectors + (size_t)width, sizeof(float), "donor vectors",
                         err);
    if (status != LP_OK) return status;
    memcpy(e->vectors + e->n_vectors, vector, (size_t)width * sizeof(float));
    e->n_vectors += (size_t)width;
    return LP_OK;
}

/* What the row itself has to change: the edits at its position that its source's vector does not hold yet. */
static lp_status add_edits(lp_engine *e, const lp_request *request, const lp_request_row *row, int32_t place,
                           lp_error *err) {
    const lp_branch *branch = &request->branches[row->branch].plan;
    int32_t last_v = (e->options->model->config.n_layers - 1) * LP_N_SITES + LP_SITE_V;
    for (int32_t k = 0; k < branch->n_edits; k++) {
        const lp_timed_edit *edit = lp_tree_edit(request->group, branch, k, NULL);
        bool here = edit->all ? row->position >= edit->position : edit->position == row->position;
        if (!here || (k < row->first_own_edit && edit->depth < row->first_layer * LP_N_SITES)) continue;
        /* `*` names eot too, whose output nobody reads where eos follows it. */
        if (!row->output && edit->depth > last_v) continue;
        if (row->first_layer == 0 || edit->depth >= (row->first_layer - 1) * LP_N_SITES + LP_SITE_RESID_POST) {
            lp_status status = add_edit(e, request, row, place, k, err);
            if (status != LP_OK) return status;
        }
    }
    return LP_OK;
}

static lp_status add_captures_of(lp_engine *e, const lp_request *request, const lp_run_wanted *run,
                                 const lp_branch *branch, const lp_request_row *row, int32_t place, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    lp_status status = LP_OK;
    for (int32_t k = 0; k < run->n_captures; k++) {
        lp_address at = run->captures[k].at;
        if (!lp_request_is_place(request, branch, &at, row->position)) continue;
        if (at.site == LP_SITE_RESID_PRE && at.layer > 0) {
            at.site = LP_SITE_RESID_POST;
            at.layer--;
        }
        lp_step_batch *batch = e->batch;
        size_t n = (size_t)e->n_captures + 1;
        int32_t width = lp_site_width(c, at.site, at.head);
        LP_TRY(lp_mem_grow(&e->captures, &e->capture_capacity, n, sizeof *e->captures, "captures", err));
        LP_TRY(lp_mem_grow(&batch->captures, &batch->capture_capacity, n, sizeof *batch->captures, "captures", err));
        batch->captures[n - 1] =
            (lp_batch_capture){.out = run->captures[k].out, .width = width, .at = (int64_t)batch->n_captured};
        e->captures[e->n_captures++] =
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
    const lp_branch *branch = &request->branches[row->branch].plan;
    lp_status status = LP_OK;
    if (branch->n_edits > 0) return LP_OK;
    for (int32_t run = branch->first_run; run >= 0 && status == LP_OK; run = request->tree.next_run[run])
        status = add_captures_of(e, request, &request->group->runs[run], branch, row, place, err);
    return status;
}

/* Gathers rows of as many requests as fit, beginning with another unit each time. */
static lp_status gather_rows(lp_engine *e, lp_step_batch *batch, lp_error *err) {
    batch->n_rows = 0;
    for (int32_t i = 0; i < e->n_inflight; i++) {
        lp_inflight_pair *pair = e->inflight[(e->first_inflight + i) % e->n_inflight];
        for (size_t g = 0; g < pair->unit->n_groups; g++) {
            lp_request *request = &pair->requests[g];
            if (request->in_batch) continue;
            int32_t n = lp_request_count_rows(request);
            if (n == 0 || batch->n_rows + n > e->max_rows) continue;
            lp_status status = lp_request_make_rows(request, err);
            if (status != LP_OK) return status;
            LP_ASSERT(request->n_rows > 0 && request->n_rows <= n);
            int32_t first = batch->n_rows;
            for (int32_t r = 0; r < request->n_rows; r++)
                batch->rows[batch->n_rows++] = (lp_batch_row){.request = request, .request_row = r, .first = first};
        }
    }
    e->first_inflight = e->n_inflight > 0 ? (e->first_inflight + 1) % e->n_inflight : 0;
    return LP_OK;
}

/* order: rows by first layer, those with the same one as they were. */
static void sort_rows(lp_engine *e, lp_step_batch *batch) {
    int32_t count[512] = {0};
    int32_t n_layers = e->options->model->config.n_layers;
    for (int32_t i = 0; i < batch->n_rows; i++) count[lp_batch_row_of(&batch->rows[i])->first_layer + 1]++;
    for (int32_t l = 0; l <= n_layers; l++) count[l + 1] += count[l];
    for (int32_t i = 0; i < batch->n_rows; i++) {
        int32_t at = count[lp_batch_row_of(&batch->rows[i])->first_layer]++;
        batch->order[at] = i;
        e->place[i] = at;
    }
}

static int compare_edits(const void *a, const void *b) {
    const lp_forward_edit *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return (x->edit.row > y->edit.row) - (x->edit.row < y->edit.row);
}

static int compare_captures(const void *a, const void *b) {
    const lp_forward_capture *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

static lp_status fill_batch(lp_engine *e, lp_step_batch *batch, lp_error *err) {
    lp_status status = LP_OK;
    e->n_tail = e->n_edits = e->n_captures = 0;
    e->n_vectors = batch->n_captured = 0;
    for (int32_t at = 0; at < batch->n_rows; at++) {
        const lp_batch_row *from = &batch->rows[batch->order[at]];
        const lp_request_row *row = &from->request->rows[from->request_row];
        e->first_layer[at] = row->first_layer;
        e->source_row[at] = row->source < 0 ? 0 : e->place[from->first + row->source];
        e->input[at] = (lp_row_input){.token = row->token, .latent = row->latent};
        e->output[at] = row->output;
        e->position[at] = row->position;
        e->slot[at] = row->slot;
        e->prompt_begin[at] = from->request->prompt_slot;
        e->prompt_length[at] = row->prompt_length;
        e->tail_begin[at] = e->n_tail;
        e->tail_length[at] = row->n_tail;
        LP_TRY(lp_mem_grow(&e->tail, &e->tail_capacity, (size_t)(e->n_tail + row->n_tail) + 1, sizeof(int32_t), "slots",
                           err));
        if (row->n_tail)
            memcpy(e->tail + e->n_tail, lp_request_tail(from->request, row), (size_t)row->n_tail * sizeof(int32_t));
        e->n_tail += row->n_tail;
        LP_TRY(add_edits(e, from->request, row, at, err));
        LP_TRY(add_captures(e, from->request, row, at, err));
    }
    /* A row that takes its source's final state needs it computed. */
    int32_t n_layers = e->options->model->config.n_layers;
    for (int32_t at = batch->n_rows - 1; at >= 0 && e->first_layer[at] == n_layers; at--)
        if (e->output[at]) e->output[e->source_row[at]] = 1;
    if (e->n_edits > 1) qsort(e->edits, (size_t)e->n_edits, sizeof *e->edits, compare_edits);
    if (e->n_captures > 1) qsort(e->captures, (size_t)e->n_captures, sizeof *e->captures, compare_captures);
    if (e->n_vectors > e->dev_vector_capacity) {
        lp_engine_release(e, e->dev_vectors);
        e->dev_vectors = NULL;
        LP_TRY(lp_engine_alloc(e, &e->dev_vectors, 2 * e->n_vectors * sizeof(float), "donor vectors", err));
        e->dev_vector_capacity = 2 * e->n_vectors;
    }
    LP_TRY(e->be->upload(e->be, e->dev_vectors, e->vectors, e->n_vectors * sizeof(float), err));
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
    LP_TRY(be->copy_rows(be, e->gathered, NULL, hidden, e->dev_lists, n, d, err));
    const float *fed = e->gathered;
    if (e->options->protocol.feedback == LP_FEEDBACK_PROJECTION) {
        LP_TRY(lp_forward_project(e->forward, e->gathered, n, e->projected, err));
        fed = e->projected;
    }
    LP_TRY(be->copy_rows(be, e->latents, e->dev_lists + e->max_rows, fed, NULL, n, d, err));
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
    LP_TRY(be->copy_rows(be, e->gathered, NULL, hidden, e->dev_lists + 2 * e->max_rows, n, d, err));
    for (int32_t first = 0, i = 0; first < n; first += batch->head_rows) {
        int32_t rows = n - first < batch->head_rows ? n - first : batch->head_rows;
        size_t end = n_asked;
        LP_TRY(lp_forward_head(e->forward, e->gathered + (int64_t)first * d, rows, e->logits, err));
        LP_TRY(be->argmax(be, e->logits, rows, width, candidates, best + first, err));
        for (; i < first + rows; i++) {
            const lp_batch_row *r = &batch->rows[batch->order[batch->choosing[i]]];
            if (lp_step_batch_queries_for(batch, end, r)) end++;
            while (end < batch->queries.n && batch->queries.owners[end].is_late) end++;
        }
        LP_TRY(be->read_logits(be, e->logits, e->saved, width, candidates, batch->queries.items + n_asked,
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
    LP_TRY(gather_rows(e, batch, err));
    if (batch->n_rows == 0) return LP_OK;
    sort_rows(e, batch);
    LP_TRY(fill_batch(e, batch, err));
    batch->n_captures = e->n_captures;
    int32_t n_steps = lp_step_batch_list_outcomes(batch, e->output, e->lists, e->max_rows);
    LP_TRY(lp_step_batch_list_queries(batch, lp_engine_head_rows(e), err));
    LP_TRY(make_results(e, batch, err));
    lp_forward_batch input = {.n_rows = batch->n_rows,
                              .first_layer = e->first_layer,
                              .source = e->source_row,
                              .input = e->input,
                              .output = e->output,
                              .position = e->position,
                              .slot = e->slot,
                              .prompt_begin = e->prompt_begin,
                              .prompt_length = e->prompt_length,
                              .tail_begin = e->tail_begin,
                              .tail_length = e->tail_length,
                              .tail = e->tail,
                              .n_tail = e->n_tail,
                              .edits = e->edits,
                              .n_edits = e->n_edits,
                              .captures = e->captures,
                              .n_captures = e->n_captures,
                              .captured = (float *)(void *)batch->results,
                              .vectors = e->dev_vectors,
                              .latents = e->latents,
                              .pool = &e->pool};
    LP_TRY(lp_forward_run(e->forward, &input, &hidden, &n_out, err));
    LP_TRY(e->be->upload(e->be, e->dev_lists, e->lists, 3 * (size_t)e->max_rows * sizeof(int32_t), err));
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
    for (int32_t i = 0; i < e->n_inflight; i++) inflight_free(e->inflight[i]);
    for (int32_t i = 0; i < e->n_idle; i++) inflight_free(e->idle[i]);
    inflight_free(e->waiting_pair);
    lp_engine_free_forward(e);
    lp_weights_free(e->own_weights);
    lp_engine_free_workspace(e);
    lp_engine_free_pool(e);
    lp_engine_release(e, e->dev_vectors);
    lp_engine_release(e, e->logits);
    lp_engine_release(e, e->ranked_tokens);
    lp_engine_release(e, e->ranked_numbers);
    lp_mem_free(e->tail);
    lp_mem_free(e->edits);
    lp_mem_free(e->captures);
    lp_mem_free(e->vectors);
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
    const lp_model_config *c = &options->model->config;
    lp_status status = lp_mem_new(&e, 1, sizeof *e, "engine", err);
    if (status != LP_OK) return status;
    e->options = options;
    e->engine = engine_options;
    e->source = source;
    e->be = engine_options->backend;
    e->limit = engine_options->memory_limit;
    e->n_batches = e->be->is_asynchronous ? LP_FETCHES : 1;
    for (int i = 0; i < LP_FETCHES; i++) e->batches[i].number = i;
    e->began = lp_engine_seconds();
    const lp_backend_counters before = e->be->counters;
    e->weights = engine_options->weights;
    LP_TRY(lp_engine_alloc(
        e, &e->logits, (size_t)(lp_engine_head_rows(e) + LP_ROW_PADDING) * (size_t)lp_logits_stride(c) * sizeof(float),
        "logits", err));
    /* Units are taken in, and read from their store, while batches are under way. */
    for (;;) {
        bool started = false;
        LP_TRY(admit(e, err));
        if (e->n_inflight == 0) break;
        LP_TRY(start_batch(e, &started, err));
        LP_ASSERT(started || e->n_under_way > 0);
        if (started && e->n_under_way < e->n_batches) continue;
        LP_TRY(finish_batch(e, err));
        LP_TRY(finish_units(e, err));
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
