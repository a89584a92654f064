#include "patch/engine_state.h"

#include "base/log.h"
#include "base/memory.h"

#include <time.h>

double lp_engine_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
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
    void **host[] = {(void **)&e->host.place,         (void **)&e->host.first_layer, (void **)&e->host.source_row,
                     (void **)&e->host.position,      (void **)&e->host.slot,        (void **)&e->host.prompt_begin,
                     (void **)&e->host.prompt_length, (void **)&e->host.tail_begin,  (void **)&e->host.tail_length,
                     (void **)&e->host.input,         (void **)&e->host.output,      (void **)&e->out.lists,
                     (void **)&e->batches[0].rows,    (void **)&e->batches[0].order, (void **)&e->batches[0].choosing,
                     (void **)&e->batches[1].rows,    (void **)&e->batches[1].order, (void **)&e->batches[1].choosing};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) {
        lp_mem_free(*host[i]);
        *host[i] = NULL;
    }
    lp_engine_release(e, e->out.dev_lists);
    lp_engine_release(e, e->out.gathered);
    lp_engine_release(e, e->out.projected);
    lp_engine_release(e, e->out.logits);
    e->out.dev_lists = NULL;
    e->out.gathered = e->out.projected = e->out.logits = NULL;
    e->max_rows = 0;
}

lp_status lp_engine_alloc(lp_engine *e, void *out, size_t bytes, const char *what, lp_error *err) {
    void *dev = NULL;
    lp_status status = e->be->alloc(e->be, bytes, what, &dev, err);
    if (status == LP_OK) memcpy(out, &dev, sizeof dev);
    return status;
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
    int32_t **lists[] = {&e->host.place,         &e->host.first_layer, &e->host.source_row,
                         &e->host.position,      &e->host.slot,        &e->host.prompt_begin,
                         &e->host.prompt_length, &e->host.tail_begin,  &e->host.tail_length};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        LP_TRY(lp_mem_new(lists[i], n, sizeof(int32_t), "rows", err));
    LP_TRY(lp_mem_new(&e->host.input, n, sizeof *e->host.input, "rows", err));
    LP_TRY(lp_mem_new(&e->host.output, n, sizeof *e->host.output, "rows", err));
    LP_TRY(lp_mem_new(&e->out.lists, 3 * n, sizeof(int32_t), "rows", err));
    LP_TRY(lp_engine_alloc(e, &e->out.dev_lists, 3 * n * sizeof(int32_t), "rows", err));
    LP_TRY(lp_engine_alloc(e, &e->out.gathered, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states", err));
    LP_TRY(lp_engine_alloc(e, &e->out.projected, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states", err));
    LP_TRY(lp_engine_alloc(e, &e->out.logits,
                           (size_t)(lp_engine_head_rows(e->be, rows) + LP_ROW_PADDING) *
                               (size_t)lp_logits_stride(&e->options->model->config) * sizeof(float),
                           "logits", err));
    e->max_rows = rows;
    e->counters.workspace_bytes = (size_t)lp_engine_work_bytes(e->be, e->options->model, rows);
out:
    return status;
}

static void free_pages(lp_engine *e) {
    lp_engine_release(e, e->kv.pool.keys);
    lp_engine_release(e, e->kv.pool.values);
    lp_engine_release(e, e->kv.latents);
    e->kv.pool.keys = e->kv.pool.values = e->kv.latents = NULL;
    lp_pages_release(&e->kv.pages);
}

void lp_engine_free_pools(lp_engine *e) {
    free_pages(e);
    lp_engine_release(e, e->kv.saved);
    e->kv.saved = NULL;
    lp_pages_release(&e->kv.saved_rows);
}

static void note_peak(lp_engine *e) {
    lp_engine_counters *c = &e->counters;
    size_t now = c->kv_bytes + c->saved_bytes + c->workspace_bytes;
    if (now > c->peak_bytes) c->peak_bytes = now;
}

static lp_status make_pages(lp_engine *e, int32_t n, lp_error *err) {
    const lp_model_config *c = &e->options->model->config;
    size_t width = (size_t)c->n_kv_heads * (size_t)c->head_dim, slots = (size_t)n * LP_PAGE_POSITIONS;
    size_t bytes = slots * (size_t)c->n_layers * width * sizeof(float);
    int32_t most = e->kv.pages.most_used;
    lp_status status = LP_OK;
    free_pages(e);
    e->kv.pool.n_slots = (int64_t)slots;
    e->kv.pool.n_layers = c->n_layers;
    e->kv.pool.width = (int32_t)width;
    LP_TRY(lp_engine_alloc(e, &e->kv.pool.keys, bytes, "keys", err));
    LP_TRY(lp_engine_alloc(e, &e->kv.pool.values, bytes, "values", err));
    LP_TRY(lp_engine_alloc(e, &e->kv.latents, (size_t)n * (size_t)c->d_model * sizeof(float), "latents", err));
    LP_TRY(lp_pages_init(&e->kv.pages, n, err));
    e->kv.pages.most_used = most;
    e->counters.kv_bytes = (size_t)n * (size_t)lp_engine_page_bytes(e->options->model);
    note_peak(e);
out:
    return status;
}

static lp_status make_pools(lp_engine *e, const lp_engine_sizes *sizes, lp_error *err) {
    size_t saved_bytes = (size_t)lp_engine_saved_bytes(e->options->model);
    lp_status status = LP_OK;
    e->counters.saved_bytes = (size_t)sizes->saved * saved_bytes;
    LP_TRY(make_pages(e, sizes->pages, err));
    LP_TRY(lp_engine_alloc(e, &e->kv.saved, (size_t)sizes->saved * saved_bytes, "saved logits", err));
    LP_TRY(lp_pages_init(&e->kv.saved_rows, sizes->saved, err));
out:
    return status;
}

static lp_status size_within_limit(lp_engine *e, const lp_unit_need *unit, lp_error *err) {
    const lp_model *model = e->options->model;
    int64_t least = lp_engine_least_bytes(e->be, model, unit);
    if (least > e->limit && least <= e->engine->memory_most && !e->halved) e->limit = least;
    if (least > e->limit)
        return lp_fail(
            err, LP_ERR_MEMORY,
            "engine.memory_limit: expected at least %lld bytes for one run of this job (%d pages of keys and "
            "values, %d rows), found %lld",
            (long long)least, unit->least.pages, unit->least.rows, (long long)e->limit);
    lp_engine_sizes sizes = lp_engine_size(e->be, model, unit, e->engine->rows_wanted, e->limit);
    lp_engine_free_pools(e);
    lp_status status = make_workspace(e, sizes.rows, err);
    return status == LP_OK ? make_pools(e, &sizes, err) : status;
}

lp_status lp_engine_size_for(lp_engine *e, const lp_unit_need *unit, lp_error *err) {
    lp_error why = {0};
    lp_status status = size_within_limit(e, unit, &why);
    bool by_device = status == LP_ERR_MEMORY && lp_engine_least_bytes(e->be, e->options->model, unit) <= e->limit;
    if (by_device && e->be->memory_bytes > 0 && !e->halved) {
        e->halved = true;
        e->limit /= 2;
        lp_log(LP_LOG_WARN, "%s; going on with a memory limit of %lld MiB", why.text, (long long)(e->limit >> 20));
        lp_engine_free_workspace(e);
        lp_engine_free_pools(e);
        status = size_within_limit(e, unit, &why);
        if (status == LP_OK) return LP_OK;
        return lp_fail(err, status, "%s; expected that with engine.memory_limit %lld MiB it would fit: set less",
                       why.text, (long long)(e->limit >> 20));
    }
    return status == LP_OK ? LP_OK : lp_fail(err, status, "%s", why.text);
}

static int32_t most_pages(const lp_engine *e) {
    int64_t left = e->limit - (int64_t)e->counters.workspace_bytes - (int64_t)e->counters.saved_bytes;
    int64_t fit = left / lp_engine_page_bytes(e->options->model), twice = 2 * (int64_t)e->kv.pages.n;
    int64_t most = INT32_MAX / 2 / LP_PAGE_POSITIONS;
    if (fit < twice) twice = fit;
    return (int32_t)(twice < most ? twice : most);
}

bool lp_engine_can_grow(const lp_engine *e) {
    return most_pages(e) > e->kv.pages.n;
}

lp_status lp_engine_grow(lp_engine *e, lp_error *err) {
    lp_error why = {0};
    int32_t before = e->kv.pages.n;
    LP_ASSERT(e->kv.pages.n_free == before);
    if (!lp_engine_can_grow(e) || make_pages(e, most_pages(e), &why) == LP_OK) return LP_OK;
    return make_pages(e, before, err); /* the device has no more */
}
