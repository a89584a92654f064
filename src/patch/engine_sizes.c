#include "patch/engine_sizes.h"

#include "nn/forward.h"

enum { MOST_UNITS = 256, CPU_ROWS = 1024 };

lp_request_need lp_unit_least(const lp_request *requests, size_t n) {
    lp_request_need unit = {0};
    for (size_t g = 0; g < n; g++) {
        lp_request_need least = lp_request_least(&requests[g]);
        if (least.pages > unit.pages) unit.pages = least.pages;
        if (least.rows > unit.rows) unit.rows = least.rows;
        unit.saved += least.saved;
    }
    return unit;
}

lp_status lp_unit_need_of(lp_request *requests, size_t n, lp_unit_need *out, lp_error *err) {
    const lp_request_need all = {INT32_MAX, INT32_MAX, INT32_MAX};
    lp_unit_need unit = {.least = lp_unit_least(requests, n)};
    for (size_t g = 0; g < n; g++) {
        lp_request_need need;
        LP_CHECK(lp_request_plan_part(&requests[g], &all, LP_FIRST_GUESS, &need, err));
        unit.whole.pages = need.pages < INT32_MAX - unit.whole.pages ? unit.whole.pages + need.pages : INT32_MAX;
        unit.whole.saved += need.saved + (requests[g].group->metric_at ? 1 : 0);
        if (need.rows > unit.whole.rows) unit.whole.rows = need.rows;
        unit.branches += lp_request_most_rows(&requests[g]);
    }
    *out = unit;
    return LP_OK;
}

static int64_t at_least(int64_t value, int64_t floor) {
    return value > floor ? value : floor;
}

static int64_t at_most(int64_t value, int64_t ceiling) {
    return value < ceiling ? value : ceiling;
}

static int32_t batch_rows(const lp_backend *be) {
    return be ? be->batch_rows : CPU_ROWS;
}

int32_t lp_engine_head_rows(const lp_backend *be, int32_t rows) {
    enum { MOST_ROWS = 1024 };
    int32_t most = batch_rows(be) / 2 < MOST_ROWS ? batch_rows(be) / 2 : MOST_ROWS;
    return most < rows ? most : rows;
}

int64_t lp_engine_work_bytes(const lp_backend *be, const lp_model *model, int32_t rows) {
    const lp_model_config *config = &model->config;
    int64_t gathered = ((int64_t)rows + LP_ROW_PADDING) * (config->d_model + lp_operand_floats(be, config->d_model));
    int64_t logits = (lp_engine_head_rows(be, rows) + LP_ROW_PADDING) * (int64_t)lp_logits_stride(config);
    return (int64_t)lp_forward_bytes(be, model, rows) + (gathered + logits) * (int64_t)sizeof(float);
}

int64_t lp_engine_page_bytes(const lp_backend *be, const lp_model *model) {
    const lp_model_config *config = &model->config;
    int64_t position = 2 * (int64_t)config->n_layers * (int64_t)lp_kv_slot_bytes(be, config);
    return LP_PAGE_POSITIONS * position + config->d_model * (int64_t)sizeof(float);
}

int64_t lp_engine_saved_bytes(const lp_model *model) {
    return (int64_t)lp_logits_stride(&model->config) * (int64_t)sizeof(float);
}

static int64_t bytes_of(const lp_backend *be, const lp_model *model, int64_t rows, int64_t pages, int64_t saved) {
    return lp_engine_work_bytes(be, model, (int32_t)rows) + pages * lp_engine_page_bytes(be, model) +
           saved * lp_engine_saved_bytes(model);
}

int64_t lp_engine_least_bytes(const lp_backend *be, const lp_model *model, const lp_unit_need *unit) {
    return bytes_of(be, model, unit->least.rows, unit->least.pages, unit->least.saved);
}

lp_engine_sizes lp_engine_size(const lp_backend *be, const lp_model *model, const lp_unit_need *unit,
                               int32_t rows_wanted, int64_t limit) {
    int64_t wanted = rows_wanted > 0 ? rows_wanted : batch_rows(be), least_rows = unit->least.rows;
    int64_t least = lp_engine_least_bytes(be, model, unit),
            least_work = lp_engine_work_bytes(be, model, unit->least.rows);
    /* Units in flight at once: enough for two full batches, and one more, as units may come that are longer. */
    int64_t units = (2 * wanted + unit->branches - 1) / at_least(unit->branches, 1) + 1;
    units = at_most(units, MOST_UNITS);
    /* Of a unit with more branches than four batches have rows, those of four batches. */
    double share = (double)(4 * wanted) / (double)at_least(unit->branches, 1);
    int64_t whole = share < 1 ? (int64_t)(share * unit->whole.pages) : unit->whole.pages;
    int64_t pages = at_least(units * at_least(whole, 1), unit->least.pages);
    int64_t rows = at_least(at_most(at_least(wanted, unit->whole.rows), 4 * wanted), least_rows);
    /* Half of what is left beyond the least goes to wider batches at most; a batch never has more rows than positions.
     */
    while (rows > least_rows && (lp_engine_work_bytes(be, model, (int32_t)rows) - least_work > (limit - least) / 2))
        rows = at_least(rows / 2, least_rows);
    int64_t left = limit - bytes_of(be, model, rows, unit->least.pages, unit->least.saved);
    int64_t saved = unit->least.saved;
    if (saved > 0) {
        int64_t useful = at_least(units * unit->whole.saved, saved) - saved;
        saved += at_most(useful, at_least(left / 8, 0) / lp_engine_saved_bytes(model));
        left -= (saved - unit->least.saved) * lp_engine_saved_bytes(model);
    }
    pages = at_most(pages, unit->least.pages + at_least(left, 0) / lp_engine_page_bytes(be, model));
    pages = at_most(pages, INT32_MAX / 2 / LP_PAGE_POSITIONS);
    return (lp_engine_sizes){.rows = (int32_t)rows,
                             .pages = (int32_t)pages,
                             .saved = (int32_t)saved,
                             .bytes = bytes_of(be, model, rows, pages, saved)};
}
