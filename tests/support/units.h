/* Work for an executor from a list: what tests and benchmarks of the executors need around the work itself. */
#ifndef LP_TESTS_SUPPORT_UNITS_H
#define LP_TESTS_SUPPORT_UNITS_H

#include "patch/engine.h"

/* Units that are given in the order of the list, each once. */
typedef struct {
    lp_work_unit *const *units; /* [n] borrowed */
    size_t n, n_given, n_done;
} unit_list;

/* Gives the list from its beginning; the list must live as long as the source. */
lp_work_source unit_list_source(unit_list *list);

/* Runs a source with the batched executor on one thread of the cpu, in batches of rows_wanted rows (0: its default). */
lp_status execute_on_cpu(const lp_executor_options *options, const lp_work_source *source, int32_t rows_wanted,
                         lp_error *err);
/* Runs one unit with the batched executor. counters: NULL, or what it counted. */
lp_status execute_unit(const lp_executor_options *options, const lp_engine_options *engine, lp_work_unit *unit,
                       lp_engine_counters *counters, lp_error *err);

#endif
