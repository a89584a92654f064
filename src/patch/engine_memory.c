#include "patch/engine_state.h"

#include "base/log.h"
#include "base/memory.h"

#include <time.h>

double lp_engine_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t slot_bytes(const lp_engine *e) {
    const lp_model_config *c = &e->options->model->config;
    return 2 * sizeof(float) * (size_t)c->n_layers * (size_t)(c->n_kv_heads * c->head_dim);
}

void lp_engine_release(lp_engine *e, void *dev) {
    if (dev) e->be->release(e->be, dev);
}

void lp_engine_free_forward(lp_engine *e) {
    if (e->forward) e->counters.row_layers += lp_forward_row_layers(e->forward);
    lp_forward_free(e->forward);
    e->forward = NULL;
}

/* The forward pass stays. */
void lp_engine_free_workspace(lp_engine *e) {
    void **host[] = {(void **)&e->place,
                     (void **)&e->first_layer,
                     (void **)&e->source_row,
                     (void **)&e->position,
                     (void **)&e->slot,
                     (void **)&e->prompt_begin,
                     (void **)&e->prompt_length,
                     (void **)&e->tail_begin,
                     (void **)&e->tail_length,
                     (void **)&e->input,
                     (void **)&e->output,
                     (void **)&e->lists,
                     (void **)&e->batches[0].rows,
                     (void **)&e->batches[0].order,
                     (void **)&e->batches[0].choosing,
                     (void **)&e->batches[1].rows,
                     (void **)&e->batches[1].order,
                     (void **)&e->batches[1].choosing};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) {
        lp_mem_free(*host[i]);
        *host[i] = NULL;
    }
    lp_engine_release(e, e->dev_lists);
    lp_engine_release(e, e->gathered);
    lp_engine_release(e, e->projected);
    e->dev_lists = NULL;
    e->gathered = e->projected = NULL;
    e->max_rows = 0;
}

lp_status lp_engine_alloc(lp_engine *e, void *out, size_t bytes, const char *what, lp_error *err) {
    void *dev = NULL;
    lp_status status = e->be->alloc(e->be, bytes, what, &dev, err);
    if (status == LP_OK) memcpy(out, &dev, sizeof dev);
    return status;
}

int32_t lp_engine_head_rows(const lp_engine *e) {
    enum { MOST_ROWS = 1024 };
    return e->be->batch_rows / 2 < MOST_ROWS ? e->be->batch_rows / 2 : MOST_ROWS;
}

/* Bytes of everything but KV slots and latents, for batches of `rows`. */
static int64_t work_bytes(const lp_engine *e, int64_t rows) {
    const lp_model_config *c = &e->options->model->config;
    int64_t gathered = 2 * (rows + LP_ROW_PADDING) * c->d_model;
    int64_t logits = (lp_engine_head_rows(e) + LP_ROW_PADDING) * lp_logits_stride(c);
    return (int64_t)lp_forward_bytes(e->be, e->options->model, (int32_t)rows) +
           (gathered + logits) * (int64_t)sizeof(float);
}

/* Makes the workspace that of batches of `rows`. */
static lp_status make_workspace(lp_engine *e, int32_t rows, lp_error *err) {
    if (rows == e->max_rows) return LP_OK;
    lp_engine_free_workspace(e);
    size_t n = (size_t)rows, d = (size_t)e->options->model->config.d_model;
    lp_status status = LP_OK;
    if (e->forward) {
        LP_TRY(lp_forward_resize(e->forward, rows, err));
    } else {
        if (!e->weights) {
            LP_TRY(lp_weights_new(e->be, e->options->model, &e->own_weights, err));
            e->weights = e->own_weights;
        }
        LP_TRY(lp_forward_new(e->weights, rows, e->options->max_positions, &e->forward, err));
    }
    lp_forward_set_hook(e->forward, e->engine->hook, e->engine->hook_user);
    for (int i = 0; i < e->n_batches; i++) {
        LP_TRY(lp_mem_new(&e->batches[i].rows, n, sizeof *e->batches[i].rows, "rows", err));
        LP_TRY(lp_mem_new(&e->batches[i].order, n, sizeof(int32_t), "rows", err));
        LP_TRY(lp_mem_new(&e->batches[i].choosing, n, sizeof(int32_t), "rows", err));
    }
    int32_t **lists[] = {&e->place,        &e->first_layer,   &e->source_row, &e->position,   &e->slot,
                         &e->prompt_begin, &e->prompt_length, &e->tail_begin, &e->tail_length};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        LP_TRY(lp_mem_new(lists[i], n, sizeof(int32_t), "rows", err));
    LP_TRY(lp_mem_new(&e->input, n, sizeof *e->input, "rows", err));
    LP_TRY(lp_mem_new(&e->output, n, sizeof *e->output, "rows", err));
    LP_TRY(lp_mem_new(&e->lists, 3 * n, sizeof(int32_t), "rows", err));
    LP_TRY(lp_engine_alloc(e, &e->dev_lists, 3 * n * sizeof(int32_t), "rows", err));
    LP_TRY(lp_engine_alloc(e, &e->gathered, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states", err));
    LP_TRY(lp_engine_alloc(e, &e->projected, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states", err));
    e->max_rows = rows;
    e->counters.workspace_bytes = (size_t)work_bytes(e, rows);
out:
    return status;
}

void lp_engine_free_pool(lp_engine *e) {
    lp_engine_release(e, e->pool.keys);
    lp_engine_release(e, e->pool.values);
    lp_engine_release(e, e->latents);
    lp_engine_release(e, e->saved);
    e->pool.keys = e->pool.values = e->latents = e->saved = NULL;
    lp_slots_release(&e->kv_slots);
    lp_slots_release(&e->latent_slots);
    lp_slots_release(&e->saved_slots);
}

static lp_status make_pool(lp_engine *e, int32_t n_slots, int32_t n_latents, int32_t n_saved, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    lp_status status = LP_OK;
    lp_engine_free_pool(e);
    e->pool.n_slots = n_slots;
    e->pool.n_layers = c->n_layers;
    e->pool.width = c->n_kv_heads * c->head_dim;
    LP_TRY(lp_engine_alloc(e, &e->pool.keys, (size_t)n_slots * slot_bytes(e) / 2, "keys", err));
    LP_TRY(lp_engine_alloc(e, &e->pool.values, (size_t)n_slots * slot_bytes(e) / 2, "values", err));
    LP_TRY(lp_engine_alloc(e, &e->latents, (size_t)n_latents * (size_t)c->d_model * sizeof(float), "latents", err));
    LP_TRY(lp_engine_alloc(e, &e->saved, (size_t)n_saved * (size_t)lp_logits_stride(c) * sizeof(float), "saved logits",
                           err));
    LP_TRY(lp_slots_init(&e->kv_slots, n_slots, err));
    LP_TRY(lp_slots_init(&e->latent_slots, n_latents, err));
    LP_TRY(lp_slots_init(&e->saved_slots, n_saved, err));
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
static int64_t unit_bytes(const lp_engine *e, const lp_inflight_pair *pair) {
    const lp_model_config *c = &e->options->model->config;
    return pair->n_slots * (int64_t)slot_bytes(e) +
           (pair->n_latents * (int64_t)c->d_model + pair->n_saved * (int64_t)lp_logits_stride(c)) *
               (int64_t)sizeof(float);
}

/* Sizes workspace and pool for units like this one, whose largest batch has `rows`, within e->limit bytes. */
static lp_status size_within_limit(lp_engine *e, const lp_inflight_pair *pair, int32_t rows, lp_error *err) {
    int64_t wanted = e->engine->rows_wanted > 0 ? e->engine->rows_wanted : e->be->batch_rows;
    int64_t limit = e->limit;
    int32_t slots = pair->n_slots, branches = pair->n_latents;
    int64_t unit = unit_bytes(e, pair), least_work = work_bytes(e, rows), least = least_work + unit;
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
    units = at_most(at_most(units, fit), LP_MAX_INFLIGHT);
    /* Room for one more, as units may come that are longer than this one. */
    if (units > 1) units = at_most(units + 1, fit);
    units = at_least(at_most(units, INT32_MAX / 2 / at_least(slots, branches)), 1);
    return make_pool(e, (int32_t)units * slots, (int32_t)units * branches, (int32_t)units * pair->n_saved, err);
}

lp_status lp_engine_size_for(lp_engine *e, const lp_inflight_pair *pair, int32_t rows, lp_error *err) {
    lp_error why = {0};
    lp_status status = size_within_limit(e, pair, rows, &why);
    bool by_device = status == LP_ERR_MEMORY && work_bytes(e, rows) + unit_bytes(e, pair) <= e->limit;
    if (by_device && e->be->memory_bytes > 0 && !e->halved) {
        e->halved = true;
        e->limit /= 2;
        lp_log(LP_LOG_WARN, "%s; going on with a memory limit of %lld MiB", why.text, (long long)(e->limit >> 20));
        lp_engine_free_workspace(e);
        lp_engine_free_pool(e);
        status = size_within_limit(e, pair, rows, &why);
        if (status == LP_OK) return LP_OK;
        return lp_fail(err, status, "%s; expected that with engine.memory_limit %lld MiB it would fit: set less",
                       why.text, (long long)(e->limit >> 20));
    }
    return status == LP_OK ? LP_OK : lp_fail(err, status, "%s", why.text);
}
