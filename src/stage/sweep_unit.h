/* Work units of a sweep: what the executor needs for one pair, and what becomes of its results. */
#ifndef LP_STAGE_SWEEP_UNIT_H
#define LP_STAGE_SWEEP_UNIT_H

#include "patch/metric_position.h"
#include "stage/plan.h"
#include "store/results.h"

/* One pair's runs in both directions. Its memory is used again for the next pair. */
typedef struct {
    lp_work_unit unit;
    lp_run_group groups[2];
    size_t n_distinct[2];   /* conditions of the direction that are not the same as an earlier one */
    int32_t *distinct[2];   /* [n_distinct] these */
    int32_t *condition[2];  /* [n_runs of the group <= n_distinct] condition of each run */
    lp_run_wanted *runs[2]; /* [n_distinct], as are the next */
    lp_edit_sequence *edits[2];
    const float ***vectors[2]; /* [n_distinct][n_edits] */
    size_t *vector_capacity[2];
    float *gathering[2];
    int32_t *unpatched[2];  /* [max_new_tokens] answer of the first run of the group */
    int32_t n_unpatched[2]; /* its tokens */
    lp_token_list prompts[2];
    lp_pair_metrics metrics_of[2];
    lp_result_rows rows; /* that are not written yet */
    uint8_t *ran;        /* [C] 1: the condition's row was among those */
    /* from step to step; NULL where it is not asked for */
    lp_step_reading *steps[2];    /* [n_distinct] */
    float *step_vectors[2];       /* [n_distinct, T, D] */
    float *step_numbers[2];       /* [n_distinct, T, LP_N_STEP_NUMBERS] */
    lp_capture *step_captures[2]; /* [n_distinct, T] */
    /* the lens of both unpatched runs, by side; NULL without one */
    lp_lens_wanted lens[2];
    float *lens_vectors[2];       /* [positions, layers, D] */
    lp_capture *lens_captures[2]; /* [positions, layers] */
    int32_t *lens_tokens;         /* [2, positions, layers, top] */
    float *lens_log_probability;  /* the same */
} lp_sweep_unit;

typedef struct {
    const lp_session *session;
    const lp_sweep_plan *plan;
    lp_record_file *store;     /* open for reading */
    lp_pair_record own, other; /* the pair that is prepared, and a donor pair of its */
    lp_lens_shape lens;        /* top 0: none */
    const char *metric_names[LP_MAX_METRICS];
    size_t n_answer_metrics, n_metrics;
    int32_t *next_same;      /* [C] the next condition with the same run, -1: none */
    lp_record_file *partial; /* rows go there */
    int64_t *counts;         /* [C, 4] outcomes of this rank's rows */
} lp_sweep_context;

lp_status lp_sweep_unit_new(const lp_sweep_context *context, lp_sweep_unit **out, lp_error *err);
void lp_sweep_unit_free(lp_sweep_unit *unit);
/* Makes the unit that of `pair`: prompts, donors, edits, metric positions. */
lp_status lp_sweep_unit_prepare(lp_sweep_context *context, lp_sweep_unit *unit, int64_t pair, lp_error *err);
/* The shape of the pair's unpatched run in direction d, its answer as the store has it. Reads the store. */
lp_status lp_sweep_unit_shape(const lp_sweep_context *context, int64_t pair, int d, lp_run_shape *out, lp_error *err);
/* Classifies the result of a run of the unit, as lp_work_source.run_done has it, and writes rows from time to time. */
lp_status lp_sweep_unit_take(lp_sweep_context *context, lp_sweep_unit *unit, size_t group, size_t run,
                             const lp_run_result *result, lp_error *err);
/* Writes the rows that are left and journals the pair. A condition that this pair cannot have (its own run or the
 * donor's lacks the position) has the outcome LP_OUTCOME_NOT_RUN. */
lp_status lp_sweep_unit_end(lp_sweep_context *context, lp_sweep_unit *unit, lp_error *err);

#endif
