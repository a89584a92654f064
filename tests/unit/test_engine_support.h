/* Random work for executors: units of groups of runs with random edits, metric positions and captures, and what came of
 * them. For tests only; a case depends on nothing but its seed and limits. */
#ifndef LP_TESTS_UNIT_TEST_ENGINE_SUPPORT_H
#define LP_TESTS_UNIT_TEST_ENGINE_SUPPORT_H

#include "base/random.h"
#include "patch/engine.h"
#include "support/golden.h"
#include "support/units.h"

/* Numbers from a key, one after the other. */
typedef struct {
    lp_random_key key;
    uint32_t n;
} dice;
int32_t roll(dice *d, int32_t bound);

/* What one execution gave, of all runs in the order of units, groups and runs. */
typedef struct {
    lp_run_result *results; /* [n_runs] */
    int32_t *tokens;        /* [n_runs, max_new_tokens] */
    float *captured;        /* [n_captured] */
} case_outcome;

typedef struct {
    const char *model;
    uint64_t seed;
    lp_executor_options options;
    lp_work_unit *units;
    lp_run_group *groups; /* of all units */
    lp_run_wanted *runs;  /* of all groups */
    size_t n_units, n_groups, n_runs, n_captured;
    size_t *first_group; /* [n_units] */
    size_t *first_run;   /* [n_groups] */
    lp_capture *captures;
    size_t n_captures;
    size_t *capture_at; /* [n_captures] floats into `captured` */
    bool *is_forced;    /* [n_groups] the metric position's prefix is not what the unpatched run says */
    void **kept;        /* memory of the case */
    size_t n_kept, kept_capacity;
} engine_case;

/* Draws a case for the model: protocol, thoughts, prompts, runs, metric positions, captures. */
void case_make(engine_case *c, const char *name, const lp_model *model, const lp_vocabulary *vocabulary, uint64_t seed);
/* n zeroed items that live as long as the case. */
void *case_keep(engine_case *c, size_t n, size_t item_bytes);
void case_release(engine_case *c);

void outcome_make(engine_case *c, case_outcome *out);
void outcome_release(case_outcome *o);

/* Runs all units, or only unit `only` (>= 0), in the order given or backwards. engine NULL: the reference executor. */
typedef struct {
    const lp_engine_options *engine;
    int32_t only;
    bool backwards;
} case_order;
lp_status case_execute(engine_case *c, const case_order *order, case_outcome *out, lp_engine_counters *counters,
                       lp_error *err);
/* Runs one run of the case by the engine, as the only one of its group and unit. */
lp_status case_execute_alone(engine_case *c, const lp_engine_options *engine, size_t run, case_outcome *out,
                             lp_error *err);

/* Group and run within it of a flat run number. */
const lp_run_group *case_group_of(const engine_case *c, size_t run, size_t *within);
/* Words for messages. */
void case_describe(const engine_case *c, size_t run, char *out, size_t size);

#endif
