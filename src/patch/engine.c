#include "patch/engine_state.h"

#include "base/memory.h"

/* ---- Units ------------------------------------------------------------------------------------------------------- */

static void flight_free(lp_flight *f) {
    if (!f) return;
    for (size_t i = 0; i < f->lane_capacity; i++) lp_lane_release(&f->lanes[i]);
    lp_mem_free(f->lanes);
    lp_mem_free(f->needs);
    lp_mem_free(f);
}

static lp_status open_unit(lp_engine *e, lp_work_unit *unit, lp_flight **out, lp_error *err) {
    lp_flight *f = e->n_idle > 0 ? e->idle[--e->n_idle] : NULL;
    lp_status status = LP_OK;
    if (!f) LP_TRY(lp_mem_new(&f, 1, sizeof *f, "unit", err));
    f->unit = unit;
    LP_TRY(lp_mem_grow(&f->lanes, &f->lane_capacity, unit->n_groups, sizeof *f->lanes, "lanes", err));
    LP_TRY(lp_mem_grow(&f->needs, &f->need_capacity, unit->n_groups, sizeof *f->needs, "lanes", err));
    f->n_slots = f->n_latents = f->n_kept = 0;
    for (size_t g = 0; g < unit->n_groups; g++) {
        LP_TRY(lp_lane_open(&f->lanes[g], e->options, &unit->groups[g], &f->needs[g], err));
        f->n_slots += f->needs[g].slots;
        f->n_latents += f->needs[g].branches;
        f->n_kept += f->needs[g].kept;
    }
    *out = f;
    return LP_OK;
out:
    flight_free(f);
    return status;
}

static int32_t most_rows(const lp_flight *f) {
    int32_t rows = 1;
    for (size_t g = 0; g < f->unit->n_groups; g++)
        if (f->needs[g].rows > rows) rows = f->needs[g].rows;
    return rows;
}

/* Puts the waiting unit into flight; *entered is false when there is no room for it now. */
static lp_status enter(lp_engine *e, bool *entered, lp_error *err) {
    lp_flight *f = e->waiting_flight;
    lp_status status = LP_OK;
    *entered = false;
    bool fits = f->n_slots <= e->kv_slots.n && most_rows(f) <= e->max_rows && f->n_latents <= e->latent_slots.n &&
                f->n_kept <= e->kept_slots.n;
    if (!fits) {
        if (e->n_flights > 0) return LP_OK;
        LP_TRY(lp_engine_size_for(e, f, most_rows(f), err));
    }
    f->slot = lp_slots_take(&e->kv_slots, f->n_slots);
    f->latent = lp_slots_take(&e->latent_slots, f->n_latents);
    f->kept = f->n_kept > 0 ? lp_slots_take(&e->kept_slots, f->n_kept) : 0;
    if (f->slot < 0 || f->latent < 0 || f->kept < 0 || e->n_flights == LP_MAX_IN_FLIGHT) {
        if (f->slot >= 0) lp_slots_give(&e->kv_slots, f->slot, f->n_slots);
        if (f->latent >= 0) lp_slots_give(&e->latent_slots, f->latent, f->n_latents);
        if (f->kept >= 0) lp_slots_give(&e->kept_slots, f->kept, f->n_kept);
        return LP_OK;
    }
    lp_lane_place place = {.slot = f->slot, .latent = f->latent, .kept = f->kept};
    e->flights[e->n_flights++] = f;
    e->waiting = NULL;
    e->waiting_flight = NULL;
    for (size_t g = 0; g < f->unit->n_groups; g++) {
        LP_TRY(lp_lane_start(&f->lanes[g], &f->needs[g], &place, err));
        place.slot += f->needs[g].slots;
        place.latent += f->needs[g].branches;
        place.kept += f->needs[g].kept;
    }
    *entered = true;
    if (e->n_flights > e->counters.most_units) e->counters.most_units = e->n_flights;
out:
    return status;
}

static int32_t rows_in_flight(const lp_engine *e) {
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_flights; i++)
        for (size_t g = 0; g < e->flights[i]->unit->n_groups; g++) n += e->flights[i]->needs[g].branches;
    return n;
}

/* Takes in units until the batches are full, memory is, or the source gives none. */
static lp_status admit(lp_engine *e, lp_error *err) {
    int32_t wanted = e->engine->rows_wanted > 0 ? e->engine->rows_wanted : e->be->batch_rows;
    lp_status status = LP_OK;
    while (e->n_flights == 0 || (rows_in_flight(e) < 2 * wanted && e->n_flights < LP_MAX_IN_FLIGHT)) {
        bool entered = false;
        if (!e->waiting) {
            LP_TRY(e->source->next(e->source->user, &e->waiting, err));
            if (!e->waiting) break;
            LP_TRY(open_unit(e, e->waiting, &e->waiting_flight, err));
        }
        LP_TRY(enter(e, &entered, err));
        if (!entered) break;
    }
out:
    return status;
}

/* The vectors lie on the host since their captures were taken. The workspace of the waves serves, behind what the wave
 * under way does with it. */
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
    int32_t kept = 0;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < e->n_flights; i++) {
        lp_flight *f = e->flights[i];
        bool done = status == LP_OK;
        for (size_t g = 0; done && g < f->unit->n_groups; g++)
            done = !f->lanes[g].in_wave && lp_lane_count_rows(&f->lanes[g]) == 0;
        if (!done) {
            e->flights[kept++] = f;
            continue;
        }
        for (size_t g = 0; g < f->unit->n_groups; g++) lp_lane_finish(&f->lanes[g]);
        lp_slots_give(&e->kv_slots, f->slot, f->n_slots);
        lp_slots_give(&e->latent_slots, f->latent, f->n_latents);
        lp_slots_give(&e->kept_slots, f->kept, f->n_kept);
        status = read_lenses(e, f->unit, err);
        if (status == LP_OK) status = e->source->done(e->source->user, f->unit, err);
        if (e->counters.seconds_first == 0) e->counters.seconds_first = lp_engine_seconds() - e->began;
        e->idle[e->n_idle++] = f;
    }
    e->n_flights = kept;
    return status;
}

/* ---- Waves ------------------------------------------------------------------------------------------------------- */

static lp_status add_edit(lp_engine *e, const lp_lane *lane, const lp_lane_row *row, int32_t place, int32_t k,
                          lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    const float *vector = NULL;
    const lp_event *event = lp_tree_event(lane->group, &lane->branches[row->branch].plan, k, &vector);
    const lp_replacement *what = &event->what;
    int32_t width = lp_site_width(c, what->at.site, what->at.head);
    lp_status status =
        lp_mem_grow(&e->edits, &e->edit_capacity, (size_t)e->n_edits + 1, sizeof *e->edits, "edits", err);
    if (status != LP_OK) return status;
    e->edits[e->n_edits++] = (lp_forward_edit){.key = lp_forward_key(event->depth, row->join),
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

/* The edits that the row itself has to make: events at its position that its source's vector does not hold yet. */
static lp_status add_edits(lp_engine *e, const lp_lane *lane, const lp_lane_row *row, int32_t place, lp_error *err) {
    const lp_branch *branch = &lane->branches[row->branch].plan;
    int32_t last_v = (e->options->model->config.n_layers - 1) * LP_N_SITES + LP_SITE_V;
    for (int32_t k = 0; k < branch->n_events; k++) {
        const lp_event *event = lp_tree_event(lane->group, branch, k, NULL);
        bool here = event->all ? row->position >= event->position : event->position == row->position;
        if (!here || (k < row->first_own_event && event->depth < row->join * LP_N_SITES)) continue;
        /* `*` names eot too, whose output nobody reads where eos follows it. */
        if (!row->output && event->depth > last_v) continue;
        if (row->join == 0 || event->depth >= (row->join - 1) * LP_N_SITES + LP_SITE_RESID_POST) {
            lp_status status = add_edit(e, lane, row, place, k, err);
            if (status != LP_OK) return status;
        }
    }
    return LP_OK;
}

static lp_status add_captures_of(lp_engine *e, const lp_lane *lane, const lp_run_wanted *run, const lp_branch *branch,
                                 const lp_lane_row *row, int32_t place, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    lp_status status = LP_OK;
    for (int32_t k = 0; k < run->n_captures; k++) {
        lp_address at = run->captures[k].at;
        if (!lp_lane_is_place(lane, branch, &at, row->position)) continue;
        if (at.site == LP_SITE_RESID_PRE && at.layer > 0) {
            at.site = LP_SITE_RESID_POST;
            at.layer--;
        }
        lp_wave *w = e->wave;
        size_t n = (size_t)e->n_captures + 1;
        int32_t width = lp_site_width(c, at.site, at.head);
        LP_TRY(lp_mem_grow(&e->captures, &e->capture_capacity, n, sizeof *e->captures, "captures", err));
        LP_TRY(lp_mem_grow(&w->captures, &w->capture_capacity, n, sizeof *w->captures, "captures", err));
        w->captures[n - 1] =
            (lp_wave_capture){.out = run->captures[k].out, .width = width, .at = (int64_t)w->n_captured};
        e->captures[e->n_captures++] = (lp_forward_capture){.key = lp_forward_key(lp_address_depth(c, &at), row->join),
                                                            .row = place,
                                                            .offset = lp_site_offset(c, at.head),
                                                            .width = width,
                                                            .out = (int64_t)w->n_captured};
        w->n_captured += (size_t)width;
    }
out:
    return status;
}

static lp_status add_captures(lp_engine *e, const lp_lane *lane, const lp_lane_row *row, int32_t place, lp_error *err) {
    const lp_branch *branch = &lane->branches[row->branch].plan;
    lp_status status = LP_OK;
    if (branch->n_events > 0) return LP_OK;
    for (int32_t run = branch->first_run; run >= 0 && status == LP_OK; run = lane->tree.next_run[run])
        status = add_captures_of(e, lane, &lane->group->runs[run], branch, row, place, err);
    return status;
}

/* Gathers rows of as many lanes as fit, beginning with another unit each time. */
static lp_status gather_rows(lp_engine *e, lp_wave *w, lp_error *err) {
    w->n_rows = 0;
    for (int32_t i = 0; i < e->n_flights; i++) {
        lp_flight *f = e->flights[(e->first_flight + i) % e->n_flights];
        for (size_t g = 0; g < f->unit->n_groups; g++) {
            lp_lane *lane = &f->lanes[g];
            if (lane->in_wave) continue;
            int32_t n = lp_lane_count_rows(lane);
            if (n == 0 || w->n_rows + n > e->max_rows) continue;
            lp_status status = lp_lane_make_rows(lane, err);
            if (status != LP_OK) return status;
            LP_ASSERT(lane->n_rows > 0 && lane->n_rows <= n);
            int32_t first = w->n_rows;
            for (int32_t r = 0; r < lane->n_rows; r++)
                w->rows[w->n_rows++] = (lp_wave_row){.lane = lane, .lane_row = r, .first = first};
        }
    }
    e->first_flight = e->n_flights > 0 ? (e->first_flight + 1) % e->n_flights : 0;
    return LP_OK;
}

/* order: rows by join, those of equal join as they were. */
static void sort_rows(lp_engine *e, lp_wave *w) {
    int32_t count[512] = {0};
    int32_t n_layers = e->options->model->config.n_layers;
    for (int32_t i = 0; i < w->n_rows; i++) count[lp_wave_row_of(&w->rows[i])->join + 1]++;
    for (int32_t l = 0; l <= n_layers; l++) count[l + 1] += count[l];
    for (int32_t i = 0; i < w->n_rows; i++) {
        int32_t at = count[lp_wave_row_of(&w->rows[i])->join]++;
        w->order[at] = i;
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

static lp_status fill_batch(lp_engine *e, lp_wave *made, lp_error *err) {
    lp_status status = LP_OK;
    e->n_tail = e->n_edits = e->n_captures = 0;
    e->n_vectors = made->n_captured = 0;
    for (int32_t at = 0; at < made->n_rows; at++) {
        const lp_wave_row *w = &made->rows[made->order[at]];
        const lp_lane_row *row = &w->lane->rows[w->lane_row];
        e->join[at] = row->join;
        e->source_row[at] = row->source < 0 ? 0 : e->place[w->first + row->source];
        e->input[at] = (lp_row_input){.token = row->token, .latent = row->latent};
        e->output[at] = row->output;
        e->position[at] = row->position;
        e->slot[at] = row->slot;
        e->prompt_begin[at] = w->lane->prompt_slot;
        e->prompt_length[at] = row->prompt_length;
        e->tail_begin[at] = e->n_tail;
        e->tail_length[at] = row->n_tail;
        LP_TRY(lp_mem_grow(&e->tail, &e->tail_capacity, (size_t)(e->n_tail + row->n_tail) + 1, sizeof(int32_t), "slots",
                           err));
        if (row->n_tail) memcpy(e->tail + e->n_tail, lp_lane_tail(w->lane, row), (size_t)row->n_tail * sizeof(int32_t));
        e->n_tail += row->n_tail;
        LP_TRY(add_edits(e, w->lane, row, at, err));
        LP_TRY(add_captures(e, w->lane, row, at, err));
    }
    /* A row that takes its source's final state needs it computed. */
    int32_t n_layers = e->options->model->config.n_layers;
    for (int32_t at = made->n_rows - 1; at >= 0 && e->join[at] == n_layers; at--)
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

static lp_status make_results(lp_engine *e, lp_wave *w, lp_error *err) {
    size_t bytes = lp_wave_results_bytes(w);
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&w->host_results, &w->host_capacity, bytes, 1, "results", err));
    if (bytes <= w->capacity) return LP_OK;
    lp_engine_release(e, w->results);
    w->results = NULL;
    w->capacity = 0;
    LP_TRY(lp_engine_alloc(e, &w->results, 2 * bytes, "results", err));
    w->capacity = 2 * bytes;
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
static lp_status read_tokens(lp_engine *e, lp_wave *w, const float *hidden, lp_error *err) {
    lp_backend *be = e->be;
    int32_t d = e->options->model->config.d_model, width = lp_logits_stride(&e->options->model->config);
    int32_t candidates = e->options->vocabulary.n_candidates, n = w->n_tokens;
    lp_logit_reading *readings = (lp_logit_reading *)(void *)(w->results + lp_wave_readings_at(w));
    int32_t *best = (int32_t *)(void *)(w->results + lp_wave_tokens_at(w));
    size_t read = 0;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    LP_TRY(be->copy_rows(be, e->gathered, NULL, hidden, e->dev_lists + 2 * e->max_rows, n, d, err));
    for (int32_t first = 0, i = 0; first < n; first += w->head_rows) {
        int32_t rows = n - first < w->head_rows ? n - first : w->head_rows;
        size_t end = read;
        LP_TRY(lp_forward_head(e->forward, e->gathered + (int64_t)first * d, rows, e->logits, err));
        LP_TRY(be->argmax(be, e->logits, rows, width, candidates, best + first, err));
        for (; i < first + rows; i++) {
            const lp_wave_row *r = &w->rows[w->order[w->choosing[i]]];
            if (lp_wave_reads_for(w, end, r)) end++;
            while (end < w->reads.n && w->reads.readers[end].is_late) end++;
        }
        LP_TRY(be->read_logits(be, e->logits, e->kept, width, candidates, w->reads.reads + read, (int32_t)(end - read),
                               readings + read, err));
        read = end;
    }
    LP_ASSERT(read == w->reads.n);
out:
    return status;
}

/* ---- The loop ---------------------------------------------------------------------------------------------------- */

/* Issues the next wave, where there are rows for one. */
static lp_status start_wave(lp_engine *e, bool *started, lp_error *err) {
    lp_wave *w = &e->waves[e->n_started % (uint64_t)e->n_waves];
    const float *hidden = NULL;
    int32_t n_out = 0;
    lp_status status = LP_OK;
    *started = false;
    if (e->n_under_way == e->n_waves) return LP_OK;
    e->wave = w;
    LP_TRY(gather_rows(e, w, err));
    if (w->n_rows == 0) return LP_OK;
    sort_rows(e, w);
    LP_TRY(fill_batch(e, w, err));
    w->n_captures = e->n_captures;
    int32_t n_steps = lp_wave_list_outcomes(w, e->output, e->lists, e->max_rows);
    LP_TRY(lp_wave_list_reads(w, lp_engine_head_rows(e), err));
    LP_TRY(make_results(e, w, err));
    lp_forward_batch batch = {.n_rows = w->n_rows,
                              .join = e->join,
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
                              .captured = (float *)(void *)w->results,
                              .vectors = e->dev_vectors,
                              .latents = e->latents,
                              .pool = &e->pool};
    LP_TRY(lp_forward_run(e->forward, &batch, &hidden, &n_out, err));
    LP_TRY(e->be->upload(e->be, e->dev_lists, e->lists, 3 * (size_t)e->max_rows * sizeof(int32_t), err));
    LP_TRY(read_steps(e, hidden, n_steps, err));
    LP_TRY(read_tokens(e, w, hidden, err));
    if (lp_wave_results_bytes(w) > 0)
        LP_TRY(e->be->fetch_begin(e->be, w->number, w->results, lp_wave_results_bytes(w), err));
    e->counters.waves++;
    e->counters.rows += (uint64_t)w->n_rows;
    e->n_started++;
    e->n_under_way++;
    *started = true;
out:
    return status;
}

/* Waits for the oldest wave and hands its results out. */
static lp_status finish_wave(lp_engine *e, lp_error *err) {
    lp_wave *w = &e->waves[e->n_finished % (uint64_t)e->n_waves];
    lp_status status = LP_OK;
    if (lp_wave_results_bytes(w) > 0)
        LP_TRY(e->be->fetch_end(e->be, w->number, w->host_results, lp_wave_results_bytes(w), err));
    lp_wave_hand_out(w);
    e->n_finished++;
    e->n_under_way--;
out:
    return status;
}

static void release(lp_engine *e) {
    for (int32_t i = 0; i < e->n_flights; i++) flight_free(e->flights[i]);
    for (int32_t i = 0; i < e->n_idle; i++) flight_free(e->idle[i]);
    flight_free(e->waiting_flight);
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
        lp_wave *w = &e->waves[i];
        lp_engine_release(e, w->results);
        lp_mem_free(w->host_results);
        lp_mem_free(w->captures);
        lp_mem_free(w->reads.reads);
        lp_mem_free(w->reads.readers);
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
    e->n_waves = e->be->is_asynchronous ? LP_FETCHES : 1;
    for (int i = 0; i < LP_FETCHES; i++) e->waves[i].number = i;
    e->began = lp_engine_seconds();
    const lp_backend_counters before = e->be->counters;
    e->weights = engine_options->weights;
    LP_TRY(lp_engine_alloc(
        e, &e->logits, (size_t)(lp_engine_head_rows(e) + LP_ROW_PADDING) * (size_t)lp_logits_stride(c) * sizeof(float),
        "logits", err));
    /* Units are taken in, and read from their store, while waves are under way. */
    for (;;) {
        bool started = false;
        LP_TRY(admit(e, err));
        if (e->n_flights == 0) break;
        LP_TRY(start_wave(e, &started, err));
        LP_ASSERT(started || e->n_under_way > 0);
        if (started && e->n_under_way < e->n_waves) continue;
        LP_TRY(finish_wave(e, err));
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
