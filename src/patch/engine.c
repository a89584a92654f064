#include "patch/engine.h"

#include "base/log.h"
#include "base/memory.h"
#include "patch/slots.h"
#include "patch/wave.h"

#include <time.h>

enum { MAX_IN_FLIGHT = 256 };

/* A unit in flight: one lane per group. */
typedef struct {
    lp_work_unit *unit;
    lp_lane *lanes; /* [lane_capacity], the first unit->n_groups in use */
    size_t lane_capacity;
    lp_lane_need *needs;
    size_t need_capacity;
    int32_t slot, n_slots;
    int32_t latent, n_latents;
    int32_t kept, n_kept;
} flight;

typedef struct {
    const lp_executor_options *options;
    const lp_engine_options *engine;
    const lp_work_source *source;
    lp_backend *be;
    const lp_weights *weights;
    lp_weights *own_weights; /* where none were given */
    lp_forward *forward;
    int32_t max_rows;
    lp_kv_pool pool;
    lp_slots kv_slots, latent_slots, kept_slots;
    float *latents; /* dev [latent_slots.n, D] */
    float *kept;    /* dev [kept_slots.n, logits' stride] */
    flight *flights[MAX_IN_FLIGHT];
    int32_t n_flights;
    flight *idle[MAX_IN_FLIGHT]; /* to be used again */
    int32_t n_idle;
    lp_work_unit *waiting; /* taken from the source, but does not fit yet */
    flight *waiting_flight;
    int32_t first_flight; /* where the next wave begins, so that all advance */
    lp_wave waves[LP_FETCHES];
    int n_waves; /* at once: two where the backend works while the host does */
    int32_t n_under_way;
    uint64_t n_started, n_finished;
    lp_wave *wave; /* the one being made */
    /* its batch, on the host */
    int32_t *place; /* [n_rows] where an unsorted row went */
    int32_t *join, *source_row, *position, *slot, *prompt_begin, *prompt_length, *tail_begin, *tail_length;
    lp_row_input *input;
    uint8_t *output;
    int32_t *tail;
    size_t tail_capacity;
    lp_forward_edit *edits;
    size_t edit_capacity;
    lp_forward_capture *captures;
    size_t capture_capacity;
    float *vectors; /* host */
    size_t vector_capacity;
    float *dev_vectors;
    size_t dev_vector_capacity;
    int32_t n_tail, n_edits, n_captures;
    size_t n_vectors;
    /* reading out */
    int32_t *lists;              /* host [3 max_rows] */
    int32_t *dev_lists;          /* dev [3 max_rows] */
    float *gathered, *projected; /* dev [max_rows, D] */
    float *logits;               /* dev [head_rows, lp_logits_stride] */
    int32_t *ranked_tokens;      /* dev [ranked_capacity] of a lens; NULL before the first */
    float *ranked_numbers;       /* dev, the same */
    size_t ranked_capacity;
    int64_t limit; /* bytes: memory_limit, or half of it */
    bool halved;
    double began;
    lp_engine_counters counters;
} engine;

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t slot_bytes(const engine *e) {
    const lp_model_config *c = &e->options->model->config;
    return 2 * sizeof(float) * (size_t)c->n_layers * (size_t)(c->n_kv_heads * c->head_dim);
}

static void release_dev(engine *e, void *dev) {
    if (dev) e->be->release(e->be, dev);
}

static void free_forward(engine *e) {
    if (e->forward) e->counters.row_layers += lp_forward_row_layers(e->forward);
    lp_forward_free(e->forward);
    e->forward = NULL;
}

/* The forward pass stays. */
static void free_workspace(engine *e) {
    void **host[] = {(void **)&e->place,         (void **)&e->join,           (void **)&e->source_row,
                     (void **)&e->position,      (void **)&e->slot,           (void **)&e->prompt_begin,
                     (void **)&e->prompt_length, (void **)&e->tail_begin,     (void **)&e->tail_length,
                     (void **)&e->input,         (void **)&e->output,         (void **)&e->lists,
                     (void **)&e->waves[0].rows, (void **)&e->waves[0].order, (void **)&e->waves[0].choosing,
                     (void **)&e->waves[1].rows, (void **)&e->waves[1].order, (void **)&e->waves[1].choosing};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) {
        lp_mem_free(*host[i]);
        *host[i] = NULL;
    }
    release_dev(e, e->dev_lists);
    release_dev(e, e->gathered);
    release_dev(e, e->projected);
    e->dev_lists = NULL;
    e->gathered = e->projected = NULL;
    e->max_rows = 0;
}

static lp_status dev_new(engine *e, void *out, size_t bytes, const char *what, lp_error *err) {
    void *dev = NULL;
    lp_status status = e->be->alloc(e->be, bytes, what, &dev, err);
    if (status == LP_OK) memcpy(out, &dev, sizeof dev);
    return status;
}

/* Rows that the output head takes at once: its logits are wide. */
static int32_t head_rows(const engine *e) {
    enum { MOST_ROWS = 1024 };
    return e->be->batch_rows / 2 < MOST_ROWS ? e->be->batch_rows / 2 : MOST_ROWS;
}

/* Bytes of everything but KV slots and latents, for batches of `rows`. */
static int64_t work_bytes(const engine *e, int64_t rows) {
    const lp_model_config *c = &e->options->model->config;
    int64_t gathered = 2 * (rows + LP_ROW_PADDING) * c->d_model;
    int64_t logits = (head_rows(e) + LP_ROW_PADDING) * lp_logits_stride(c);
    return (int64_t)lp_forward_bytes(e->be, e->options->model, (int32_t)rows) +
           (gathered + logits) * (int64_t)sizeof(float);
}

/* Makes the workspace that of batches of `rows`. */
static lp_status make_workspace(engine *e, int32_t rows, lp_error *err) {
    if (rows == e->max_rows) return LP_OK;
    free_workspace(e);
    size_t n = (size_t)rows, d = (size_t)e->options->model->config.d_model;
    lp_status status = LP_OK;
    if (e->forward) {
        LP_TRY(lp_forward_resize(e->forward, rows, err));
    } else {
        LP_TRY(lp_forward_new(e->weights, rows, e->options->max_positions, &e->forward, err));
    }
    lp_forward_set_hook(e->forward, e->engine->hook, e->engine->hook_user);
    for (int i = 0; i < e->n_waves; i++) {
        LP_TRY(lp_mem_new(&e->waves[i].rows, n, sizeof *e->waves[i].rows, "rows", err));
        LP_TRY(lp_mem_new(&e->waves[i].order, n, sizeof(int32_t), "rows", err));
        LP_TRY(lp_mem_new(&e->waves[i].choosing, n, sizeof(int32_t), "rows", err));
    }
    int32_t **lists[] = {&e->place,        &e->join,          &e->source_row, &e->position,   &e->slot,
                         &e->prompt_begin, &e->prompt_length, &e->tail_begin, &e->tail_length};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        LP_TRY(lp_mem_new(lists[i], n, sizeof(int32_t), "rows", err));
    LP_TRY(lp_mem_new(&e->input, n, sizeof *e->input, "rows", err));
    LP_TRY(lp_mem_new(&e->output, n, sizeof *e->output, "rows", err));
    LP_TRY(lp_mem_new(&e->lists, 3 * n, sizeof(int32_t), "rows", err));
    LP_TRY(dev_new(e, &e->dev_lists, 3 * n * sizeof(int32_t), "rows", err));
    LP_TRY(dev_new(e, &e->gathered, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states", err));
    LP_TRY(dev_new(e, &e->projected, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states", err));
    e->max_rows = rows;
    e->counters.workspace_bytes = (size_t)work_bytes(e, rows);
out:
    return status;
}

static void free_pool(engine *e) {
    release_dev(e, e->pool.keys);
    release_dev(e, e->pool.values);
    release_dev(e, e->latents);
    release_dev(e, e->kept);
    e->pool.keys = e->pool.values = e->latents = e->kept = NULL;
    lp_slots_release(&e->kv_slots);
    lp_slots_release(&e->latent_slots);
    lp_slots_release(&e->kept_slots);
}

static lp_status make_pool(engine *e, int32_t n_slots, int32_t n_latents, int32_t n_kept, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    lp_status status = LP_OK;
    free_pool(e);
    e->pool.n_slots = n_slots;
    e->pool.n_layers = c->n_layers;
    e->pool.width = c->n_kv_heads * c->head_dim;
    LP_TRY(dev_new(e, &e->pool.keys, (size_t)n_slots * slot_bytes(e) / 2, "keys", err));
    LP_TRY(dev_new(e, &e->pool.values, (size_t)n_slots * slot_bytes(e) / 2, "values", err));
    LP_TRY(dev_new(e, &e->latents, (size_t)n_latents * (size_t)c->d_model * sizeof(float), "latents", err));
    LP_TRY(dev_new(e, &e->kept, (size_t)n_kept * (size_t)lp_logits_stride(c) * sizeof(float), "kept logits", err));
    LP_TRY(lp_slots_init(&e->kv_slots, n_slots, err));
    LP_TRY(lp_slots_init(&e->latent_slots, n_latents, err));
    LP_TRY(lp_slots_init(&e->kept_slots, n_kept, err));
    e->counters.kv_bytes = (size_t)n_slots * slot_bytes(e);
out:
    return status;
}

static int64_t at_least(int64_t value, int64_t floor) {
    return value > floor ? value : floor;
}

static int64_t at_most(int64_t value, int64_t ceiling) {
    return value < ceiling ? value : ceiling;
}

/* Bytes that a unit needs in flight. */
static int64_t unit_bytes(const engine *e, const flight *f) {
    const lp_model_config *c = &e->options->model->config;
    return f->n_slots * (int64_t)slot_bytes(e) +
           (f->n_latents * (int64_t)c->d_model + f->n_kept * (int64_t)lp_logits_stride(c)) * (int64_t)sizeof(float);
}

/* Sizes workspace and pool for units like this one, whose largest wave has `rows`, within e->limit bytes. */
static lp_status size_within_limit(engine *e, const flight *f, int32_t rows, lp_error *err) {
    int64_t wanted = e->engine->rows_wanted > 0 ? e->engine->rows_wanted : e->be->batch_rows;
    int64_t limit = e->limit;
    int32_t slots = f->n_slots, branches = f->n_latents;
    int64_t unit = unit_bytes(e, f), least_work = work_bytes(e, rows), least = least_work + unit;
    if (least > limit)
        return lp_fail(
            err, LP_ERR_MEMORY,
            "engine.memory_limit: expected at least %lld bytes for one pair of this sweep (%d KV slots, %d rows), found %lld",
            (long long)least, slots, rows, (long long)limit);
    /* Half of what is left beyond one unit goes to wider batches, where that is wanted; the rest to more units. */
    int64_t max_rows = at_least(wanted, rows);
    while (max_rows > rows && work_bytes(e, max_rows) - least_work > (limit - least) / 2)
        max_rows = at_least(max_rows / 2, rows);
    if (e->max_rows > max_rows && work_bytes(e, e->max_rows) + unit <= limit) max_rows = e->max_rows;
    lp_status status = make_workspace(e, (int32_t)max_rows, err);
    if (status != LP_OK) return status;
    int64_t fit = (limit - work_bytes(e, max_rows)) / unit;
    int64_t units = at_least((2 * wanted + branches - 1) / at_least(branches, 1), 1);
    units = at_most(at_most(units, fit), MAX_IN_FLIGHT);
    /* Room for one more, as units may come that are longer than this one. */
    if (units > 1) units = at_most(units + 1, fit);
    units = at_least(at_most(units, INT32_MAX / 2 / at_least(slots, branches)), 1);
    return make_pool(e, (int32_t)units * slots, (int32_t)units * branches, (int32_t)units * f->n_kept, err);
}

/* The same. Called while nothing is in flight. A device that has less free than the limit promised (others use it too)
 * gets a second try with half of it, once. */
static lp_status size_for(engine *e, const flight *f, int32_t rows, lp_error *err) {
    lp_error why = {0};
    lp_status status = size_within_limit(e, f, rows, &why);
    bool by_device = status == LP_ERR_MEMORY && work_bytes(e, rows) + unit_bytes(e, f) <= e->limit;
    if (by_device && e->be->memory_bytes > 0 && !e->halved) {
        e->halved = true;
        e->limit /= 2;
        lp_log(LP_LOG_WARN, "%s; going on with a memory limit of %lld MiB", why.text, (long long)(e->limit >> 20));
        free_workspace(e);
        free_pool(e);
        status = size_within_limit(e, f, rows, &why);
        if (status == LP_OK) return LP_OK;
        return lp_fail(err, status, "%s; expected that with engine.memory_limit %lld MiB it would fit: set less",
                       why.text, (long long)(e->limit >> 20));
    }
    return status == LP_OK ? LP_OK : lp_fail(err, status, "%s", why.text);
}

/* ---- Units ------------------------------------------------------------------------------------------------------- */

static void flight_free(flight *f) {
    if (!f) return;
    for (size_t i = 0; i < f->lane_capacity; i++) lp_lane_release(&f->lanes[i]);
    lp_mem_free(f->lanes);
    lp_mem_free(f->needs);
    lp_mem_free(f);
}

static lp_status open_unit(engine *e, lp_work_unit *unit, flight **out, lp_error *err) {
    flight *f = e->n_idle > 0 ? e->idle[--e->n_idle] : NULL;
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

static int32_t most_rows(const flight *f) {
    int32_t rows = 1;
    for (size_t g = 0; g < f->unit->n_groups; g++)
        if (f->needs[g].rows > rows) rows = f->needs[g].rows;
    return rows;
}

/* Puts the waiting unit into flight; *entered is false when there is no room for it now. */
static lp_status enter(engine *e, bool *entered, lp_error *err) {
    flight *f = e->waiting_flight;
    lp_status status = LP_OK;
    *entered = false;
    bool fits = f->n_slots <= e->kv_slots.n && most_rows(f) <= e->max_rows && f->n_latents <= e->latent_slots.n &&
                f->n_kept <= e->kept_slots.n;
    if (!fits) {
        if (e->n_flights > 0) return LP_OK;
        LP_TRY(size_for(e, f, most_rows(f), err));
    }
    f->slot = lp_slots_take(&e->kv_slots, f->n_slots);
    f->latent = lp_slots_take(&e->latent_slots, f->n_latents);
    f->kept = f->n_kept > 0 ? lp_slots_take(&e->kept_slots, f->n_kept) : 0;
    if (f->slot < 0 || f->latent < 0 || f->kept < 0 || e->n_flights == MAX_IN_FLIGHT) {
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

static int32_t rows_in_flight(const engine *e) {
    int32_t n = 0;
    for (int32_t i = 0; i < e->n_flights; i++)
        for (size_t g = 0; g < e->flights[i]->unit->n_groups; g++) n += e->flights[i]->needs[g].branches;
    return n;
}

/* Takes in units until the batches are full, memory is, or the source gives none. */
static lp_status admit(engine *e, lp_error *err) {
    int32_t wanted = e->engine->rows_wanted > 0 ? e->engine->rows_wanted : e->be->batch_rows;
    lp_status status = LP_OK;
    while (e->n_flights == 0 || (rows_in_flight(e) < 2 * wanted && e->n_flights < MAX_IN_FLIGHT)) {
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
static lp_status read_lens(engine *e, const lp_lens_wanted *lens, lp_error *err) {
    lp_backend *be = e->be;
    const lp_model_config *c = &e->options->model->config;
    size_t d = (size_t)c->d_model, top = (size_t)lens->top;
    int32_t candidates = e->options->vocabulary.n_candidates;
    int32_t at_once = head_rows(e) < e->max_rows ? head_rows(e) : e->max_rows;
    lp_status status = LP_OK;
    if ((size_t)at_once * top > e->ranked_capacity) {
        release_dev(e, e->ranked_tokens);
        release_dev(e, e->ranked_numbers);
        e->ranked_tokens = NULL;
        e->ranked_numbers = NULL;
        LP_TRY(dev_new(e, &e->ranked_tokens, (size_t)at_once * top * sizeof(int32_t), "logit lens", err));
        LP_TRY(dev_new(e, &e->ranked_numbers, (size_t)at_once * top * sizeof(float), "logit lens", err));
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

static lp_status read_lenses(engine *e, const lp_work_unit *unit, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t g = 0; g < unit->n_groups; g++)
        for (size_t i = 0; i < unit->groups[g].n_runs && status == LP_OK; i++)
            if (unit->groups[g].runs[i].lens) status = read_lens(e, unit->groups[g].runs[i].lens, err);
    return status;
}

static lp_status finish_units(engine *e, lp_error *err) {
    int32_t kept = 0;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < e->n_flights; i++) {
        flight *f = e->flights[i];
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
        if (e->counters.seconds_first == 0) e->counters.seconds_first = seconds_now() - e->began;
        e->idle[e->n_idle++] = f;
    }
    e->n_flights = kept;
    return status;
}

/* ---- Waves ------------------------------------------------------------------------------------------------------- */

static lp_status add_edit(engine *e, const lp_lane *lane, const lp_lane_row *row, int32_t place, int32_t k,
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
static lp_status add_edits(engine *e, const lp_lane *lane, const lp_lane_row *row, int32_t place, lp_error *err) {
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

static lp_status add_captures_of(engine *e, const lp_lane *lane, const lp_run_wanted *run, const lp_branch *branch,
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

static lp_status add_captures(engine *e, const lp_lane *lane, const lp_lane_row *row, int32_t place, lp_error *err) {
    const lp_branch *branch = &lane->branches[row->branch].plan;
    lp_status status = LP_OK;
    if (branch->n_events > 0) return LP_OK;
    for (int32_t run = branch->first_run; run >= 0 && status == LP_OK; run = lane->tree.next_run[run])
        status = add_captures_of(e, lane, &lane->group->runs[run], branch, row, place, err);
    return status;
}

/* Gathers rows of as many lanes as fit, beginning with another unit each time. */
static lp_status gather_rows(engine *e, lp_wave *w, lp_error *err) {
    w->n_rows = 0;
    for (int32_t i = 0; i < e->n_flights; i++) {
        flight *f = e->flights[(e->first_flight + i) % e->n_flights];
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
static void sort_rows(engine *e, lp_wave *w) {
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

static lp_status fill_batch(engine *e, lp_wave *made, lp_error *err) {
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
        release_dev(e, e->dev_vectors);
        e->dev_vectors = NULL;
        LP_TRY(dev_new(e, &e->dev_vectors, 2 * e->n_vectors * sizeof(float), "donor vectors", err));
        e->dev_vector_capacity = 2 * e->n_vectors;
    }
    LP_TRY(e->be->upload(e->be, e->dev_vectors, e->vectors, e->n_vectors * sizeof(float), err));
out:
    return status;
}

/* ---- Reading out ------------------------------------------------------------------------------------------------- */

static lp_status make_results(engine *e, lp_wave *w, lp_error *err) {
    size_t bytes = lp_wave_results_bytes(w);
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&w->host_results, &w->host_capacity, bytes, 1, "results", err));
    if (bytes <= w->capacity) return LP_OK;
    release_dev(e, w->results);
    w->results = NULL;
    w->capacity = 0;
    LP_TRY(dev_new(e, &w->results, 2 * bytes, "results", err));
    w->capacity = 2 * bytes;
out:
    return status;
}

static lp_status read_steps(engine *e, const float *hidden, int32_t n, lp_error *err) {
    lp_backend *be = e->be;
    int32_t d = e->options->model->config.d_model;
    lp_status status = LP_OK;
    if (n == 0) return LP_OK;
    LP_TRY(be->copy_rows(be, e->gathered, NULL, hidden, e->dev_lists, n, d, err));
    LP_TRY(lp_forward_project(e->forward, e->gathered, n, e->projected, err));
    LP_TRY(be->copy_rows(be, e->latents, e->dev_lists + e->max_rows, e->projected, NULL, n, d, err));
out:
    return status;
}

/* Logits never leave the device: tokens are chosen and numbers read there. */
static lp_status read_tokens(engine *e, lp_wave *w, const float *hidden, lp_error *err) {
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
static lp_status start_wave(engine *e, bool *started, lp_error *err) {
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
    LP_TRY(lp_wave_list_reads(w, head_rows(e), err));
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
static lp_status finish_wave(engine *e, lp_error *err) {
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

static void release(engine *e) {
    for (int32_t i = 0; i < e->n_flights; i++) flight_free(e->flights[i]);
    for (int32_t i = 0; i < e->n_idle; i++) flight_free(e->idle[i]);
    flight_free(e->waiting_flight);
    free_forward(e);
    lp_weights_free(e->own_weights);
    free_workspace(e);
    free_pool(e);
    release_dev(e, e->dev_vectors);
    release_dev(e, e->logits);
    release_dev(e, e->ranked_tokens);
    release_dev(e, e->ranked_numbers);
    lp_mem_free(e->tail);
    lp_mem_free(e->edits);
    lp_mem_free(e->captures);
    lp_mem_free(e->vectors);
    for (int i = 0; i < LP_FETCHES; i++) {
        lp_wave *w = &e->waves[i];
        release_dev(e, w->results);
        lp_mem_free(w->host_results);
        lp_mem_free(w->captures);
        lp_mem_free(w->reads.reads);
        lp_mem_free(w->reads.readers);
    }
}

lp_status lp_execute_batched(const lp_executor_options *options, const lp_engine_options *engine_options,
                             const lp_work_source *source, lp_engine_counters *counters, lp_error *err) {
    engine *e = NULL;
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
    e->began = seconds_now();
    const lp_backend_counters before = e->be->counters;
    e->weights = engine_options->weights;
    if (!e->weights) {
        LP_TRY(lp_weights_new(e->be, options->model, &e->own_weights, err));
        e->weights = e->own_weights;
    }
    LP_TRY(dev_new(e, &e->logits, (size_t)(head_rows(e) + LP_ROW_PADDING) * (size_t)lp_logits_stride(c) * sizeof(float),
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
    free_forward(e);
    const lp_backend_counters after = e->be->counters;
    e->counters.gemm_flops = after.gemm_flops - before.gemm_flops;
    e->counters.padded_flops = after.padded_flops - before.padded_flops;
    e->counters.bytes_up = after.bytes_up - before.bytes_up;
    e->counters.bytes_down = after.bytes_down - before.bytes_down;
    e->counters.n_waits = after.n_waits - before.n_waits;
    e->counters.n_graphs = after.n_graphs - before.n_graphs;
    e->counters.seconds = seconds_now() - e->began;
    if (counters) *counters = e->counters;
out:
    release(e);
    lp_mem_free(e);
    return status;
}
