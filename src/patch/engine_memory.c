#include "patch/engine_state.h"

#include "base/log.h"
#include "base/memory.h"

#include <time.h>

double lp_engine_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void lp_engine_release(lp_engine *engine, void *dev) {
    if (dev) engine->be->release(engine->be, dev);
}

void lp_engine_free_forward(lp_engine *engine) {
    if (engine->forward) engine->counters.row_layers += lp_forward_row_layers(engine->forward);
    lp_forward_free(engine->forward);
    engine->forward = NULL;
}

/* The forward pass stays. */
void lp_engine_free_workspace(lp_engine *engine) {
    void **host[] = {(void **)&engine->host.place,          (void **)&engine->host.first_layer,
                     (void **)&engine->host.source_row,     (void **)&engine->host.position,
                     (void **)&engine->host.slot,           (void **)&engine->host.prompt_begin,
                     (void **)&engine->host.prompt_length,  (void **)&engine->host.tail_begin,
                     (void **)&engine->host.tail_length,    (void **)&engine->host.input,
                     (void **)&engine->host.output,         (void **)&engine->out.lists,
                     (void **)&engine->batches[0].rows,     (void **)&engine->batches[0].order,
                     (void **)&engine->batches[0].choosing, (void **)&engine->batches[1].rows,
                     (void **)&engine->batches[1].order,    (void **)&engine->batches[1].choosing};
    for (size_t i = 0; i < sizeof host / sizeof host[0]; i++) {
        lp_mem_free(*host[i]);
        *host[i] = NULL;
    }
    lp_engine_release(engine, engine->out.dev_lists);
    lp_engine_release(engine, engine->out.gathered);
    lp_engine_release(engine, engine->out.projected);
    lp_engine_release(engine, engine->out.logits);
    engine->out.dev_lists = NULL;
    engine->out.gathered = engine->out.projected = engine->out.logits = NULL;
    engine->max_rows = 0;
}

lp_status lp_engine_alloc(lp_engine *engine, void *out, size_t bytes, const char *what, lp_error *err) {
    void *dev = NULL;
    lp_status status = engine->be->alloc(engine->be, bytes, what, &dev, err);
    if (status == LP_OK) memcpy(out, &dev, sizeof dev);
    return status;
}

/* Makes the workspace that of batches of `rows`. */
static lp_status make_workspace(lp_engine *engine, int32_t rows, lp_error *err) {
    if (rows == engine->max_rows) return LP_OK;
    lp_engine_free_workspace(engine);
    size_t n = (size_t)rows, d = (size_t)engine->options->model->config.d_model;
    if (engine->forward) {
        LP_CHECK(lp_forward_resize(engine->forward, rows, err));
    } else {
        if (!engine->weights) {
            LP_CHECK(lp_weights_new(engine->be, engine->options->model, &engine->own_weights, err));
            engine->weights = engine->own_weights;
        }
        LP_CHECK(lp_forward_new(engine->weights, rows, engine->options->max_positions, &engine->forward, err));
    }
    lp_forward_set_hook(engine->forward, engine->engine->hook, engine->engine->hook_user);
    for (int i = 0; i < engine->n_batches; i++) {
        LP_CHECK(lp_mem_new(&engine->batches[i].rows, n, sizeof *engine->batches[i].rows, "rows", err));
        LP_CHECK(lp_mem_new(&engine->batches[i].order, n, sizeof(int32_t), "rows", err));
        LP_CHECK(lp_mem_new(&engine->batches[i].choosing, n, sizeof(int32_t), "rows", err));
    }
    int32_t **lists[] = {&engine->host.place,         &engine->host.first_layer, &engine->host.source_row,
                         &engine->host.position,      &engine->host.slot,        &engine->host.prompt_begin,
                         &engine->host.prompt_length, &engine->host.tail_begin,  &engine->host.tail_length};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        LP_CHECK(lp_mem_new(lists[i], n, sizeof(int32_t), "rows", err));
    LP_CHECK(lp_mem_new(&engine->host.input, n, sizeof *engine->host.input, "rows", err));
    LP_CHECK(lp_mem_new(&engine->host.output, n, sizeof *engine->host.output, "rows", err));
    LP_CHECK(lp_mem_new(&engine->out.lists, 3 * n, sizeof(int32_t), "rows", err));
    LP_CHECK(lp_engine_alloc(engine, &engine->out.dev_lists, 3 * n * sizeof(int32_t), "rows", err));
    LP_CHECK(lp_engine_alloc(engine, &engine->out.gathered,
                             (n + LP_ROW_PADDING) * (size_t)lp_operand_floats(engine->be, (int32_t)d) * sizeof(float),
                             "hidden states", err));
    LP_CHECK(lp_engine_alloc(engine, &engine->out.projected, (n + LP_ROW_PADDING) * d * sizeof(float), "hidden states",
                             err));
    LP_CHECK(lp_engine_alloc(engine, &engine->out.logits,
                             (size_t)(lp_engine_head_rows(engine->be, rows) + LP_ROW_PADDING) *
                                 (size_t)lp_logits_stride(&engine->options->model->config) * sizeof(float),
                             "logits", err));
    engine->max_rows = rows;
    engine->counters.workspace_bytes = (size_t)lp_engine_work_bytes(engine->be, engine->options->model, rows);
    return LP_OK;
}

static void free_pages(lp_engine *engine) {
    lp_engine_release(engine, engine->kv.pool.keys);
    lp_engine_release(engine, engine->kv.pool.values);
    lp_engine_release(engine, engine->kv.latents);
    engine->kv.pool.keys = engine->kv.pool.values = engine->kv.latents = NULL;
    lp_pages_release(&engine->kv.pages);
}

void lp_engine_free_pools(lp_engine *engine) {
    free_pages(engine);
    lp_engine_release(engine, engine->kv.saved);
    engine->kv.saved = NULL;
    lp_pages_release(&engine->kv.saved_rows);
}

static void note_peak(lp_engine *engine) {
    lp_engine_counters *counters = &engine->counters;
    size_t now = counters->kv_bytes + counters->saved_bytes + counters->workspace_bytes;
    if (now > counters->peak_bytes) counters->peak_bytes = now;
}

static lp_status make_pages(lp_engine *engine, int32_t n, lp_error *err) {
    const lp_model_config *config = &engine->options->model->config;
    size_t width = (size_t)config->n_kv_heads * (size_t)config->head_dim, slots = (size_t)n * LP_PAGE_POSITIONS;
    const size_t slot_bytes = lp_kv_slot_bytes(engine->be, config);
    size_t bytes = slots * (size_t)config->n_layers * slot_bytes;
    int32_t most = engine->kv.pages.most_used;
    free_pages(engine);
    engine->kv.pool.n_slots = (int64_t)slots;
    engine->kv.pool.n_layers = config->n_layers;
    engine->kv.pool.width = (int32_t)width;
    engine->kv.pool.slot_bytes = slot_bytes;
    LP_CHECK(lp_engine_alloc(engine, &engine->kv.pool.keys, bytes, "keys", err));
    LP_CHECK(lp_engine_alloc(engine, &engine->kv.pool.values, bytes, "values", err));
    LP_CHECK(lp_engine_alloc(engine, &engine->kv.latents, (size_t)n * (size_t)config->d_model * sizeof(float),
                             "latents", err));
    LP_CHECK(lp_pages_init(&engine->kv.pages, n, err));
    engine->kv.pages.most_used = most;
    engine->counters.kv_bytes = (size_t)n * (size_t)lp_engine_page_bytes(engine->be, engine->options->model);
    note_peak(engine);
    return LP_OK;
}

static lp_status make_pools(lp_engine *engine, const lp_engine_sizes *sizes, lp_error *err) {
    size_t saved_bytes = (size_t)lp_engine_saved_bytes(engine->options->model);
    engine->counters.saved_bytes = (size_t)sizes->saved * saved_bytes;
    LP_CHECK(make_pages(engine, sizes->pages, err));
    LP_CHECK(lp_engine_alloc(engine, &engine->kv.saved, (size_t)sizes->saved * saved_bytes, "saved logits", err));
    return lp_pages_init(&engine->kv.saved_rows, sizes->saved, err);
}

static lp_status size_within_limit(lp_engine *engine, const lp_unit_need *unit, lp_error *err) {
    const lp_model *model = engine->options->model;
    int64_t least = lp_engine_least_bytes(engine->be, model, unit);
    if (least > engine->limit && least <= engine->engine->memory_most && !engine->halved) engine->limit = least;
    if (least > engine->limit)
        return lp_fail(
            err, LP_ERR_VALUE,
            "engine.memory_limit: expected at least %lld bytes for one run of this job (%d pages of keys and "
            "values, %d rows), found %lld",
            (long long)least, unit->least.pages, unit->least.rows, (long long)engine->limit);
    lp_engine_sizes sizes = lp_engine_size(engine->be, model, unit, engine->engine->rows_wanted, engine->limit);
    lp_engine_free_pools(engine);
    lp_status status = make_workspace(engine, sizes.rows, err);
    return status == LP_OK ? make_pools(engine, &sizes, err) : status;
}

lp_status lp_engine_size_for(lp_engine *engine, const lp_unit_need *unit, lp_error *err) {
    lp_error why = {0};
    lp_status status = size_within_limit(engine, unit, &why);
    bool by_device =
        status == LP_ERR_MEMORY && lp_engine_least_bytes(engine->be, engine->options->model, unit) <= engine->limit;
    if (by_device && engine->be->memory_bytes > 0 && !engine->halved) {
        engine->halved = true;
        engine->limit /= 2;
        lp_log(LP_LOG_WARN, "%s; going on with a memory limit of %lld MiB", why.text, (long long)(engine->limit >> 20));
        lp_engine_free_workspace(engine);
        lp_engine_free_pools(engine);
        status = size_within_limit(engine, unit, &why);
        if (status == LP_OK) return LP_OK;
        return lp_fail(err, status, "%s; expected that with engine.memory_limit %lld MiB it would fit: set less",
                       why.text, (long long)(engine->limit >> 20));
    }
    return status == LP_OK ? LP_OK : lp_fail(err, status, "%s", why.text);
}

static int32_t most_pages(const lp_engine *engine) {
    int64_t left = engine->limit - (int64_t)engine->counters.workspace_bytes - (int64_t)engine->counters.saved_bytes;
    int64_t fit = left / lp_engine_page_bytes(engine->be, engine->options->model),
            twice = 2 * (int64_t)engine->kv.pages.n;
    int64_t most = INT32_MAX / 2 / LP_PAGE_POSITIONS;
    if (fit < twice) twice = fit;
    return (int32_t)(twice < most ? twice : most);
}

bool lp_engine_can_grow(const lp_engine *engine) {
    return most_pages(engine) > engine->kv.pages.n;
}

lp_status lp_engine_grow(lp_engine *engine, lp_error *err) {
    lp_error why = {0};
    int32_t before = engine->kv.pages.n;
    LP_ASSERT(engine->kv.pages.n_free == before);
    if (!lp_engine_can_grow(engine) || make_pages(engine, most_pages(engine), &why) == LP_OK) return LP_OK;
    return make_pages(engine, before, err); /* the device has no more */
}
