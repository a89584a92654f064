#include "support/units.h"

static lp_status next_unit(void *user, lp_work_unit **unit, lp_error *err) {
    (void)err;
    unit_list *list = user;
    *unit = list->n_given < list->n ? list->units[list->n_given++] : NULL;
    return LP_OK;
}

static lp_status unit_done(void *user, lp_work_unit *unit, lp_error *err) {
    (void)unit;
    (void)err;
    ((unit_list *)user)->n_done++;
    return LP_OK;
}

lp_work_source unit_list_source(unit_list *list) {
    list->n_given = list->n_done = 0;
    return (lp_work_source){.user = list, .next = next_unit, .done = unit_done};
}

lp_status execute_on_cpu(const lp_executor_options *options, const lp_work_source *source, int32_t rows_wanted,
                         lp_error *err) {
    lp_backend *backend = NULL;
    lp_status status = lp_backend_cpu_new(1, &backend, err);
    lp_engine_options engine = {.backend = backend, .memory_limit = 256 << 20, .rows_wanted = rows_wanted};
    if (status == LP_OK) status = lp_execute_batched(options, &engine, source, NULL, err);
    lp_backend_free(backend);
    return status;
}

lp_status execute_unit(const lp_executor_options *options, const lp_engine_options *engine, lp_work_unit *unit,
                       lp_engine_counters *counters, lp_error *err) {
    unit_list list = {.units = &unit, .n = 1};
    lp_work_source source = unit_list_source(&list);
    return lp_execute_batched(options, engine, &source, counters, err);
}
