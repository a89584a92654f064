/* Estimates for `plan` of what a sweep will cost, from the shapes alone. Local; computes no forward pass. */
#ifndef LP_STAGE_ESTIMATE_H
#define LP_STAGE_ESTIMATE_H

#include "stage/plan.h"
#include "stage/speed.h"

enum { LP_ASSUMED_ANSWER = 8 }; /* tokens of an answer, where none is known */

typedef struct {
    int64_t n_pairs;
    size_t n_conditions, n_distinct, n_dead, n_equal; /* n_equal: cells whose rows are copies of another cell's */
    int32_t branches;                                 /* of one pair, both directions, without those for metrics */
    double row_layers_scripts; /* every condition a clean run for its donors and a patched run, as the published scripts
                                  do */
    double row_layers_unshared; /* every distinct condition a run of its own */
    double
        row_layers_shared; /* the engine's: exact for prompt and thoughts; answers of `answer_tokens` that all differ */
    double gemm_flops;     /* of the shared row-layers and the output head */
    double head_rows;      /* positions whose logits are computed, of the shared runs */
    double cache_row_layers, cache_head_rows; /* of the unpatched runs of stage 1 */
    int64_t least_bytes, useful_bytes; /* of the engine: without these no run fits; beyond these more is of no use */
    int64_t store_bytes, results_bytes;
    int32_t n_prompt;      /* the median */
    int32_t answer_tokens; /* assumed */
} lp_estimate;

/* Counts one pair of typical length (the median prompt) and multiplies by the pairs of the job. */
lp_status lp_estimate_sweep(const lp_sweep_plan *plan, int32_t answer_tokens, lp_estimate *out, lp_error *err);

/* Seconds of the sweep on `ranks` ranks of this speed, and of `to_cache` (0 to 1) of the unpatched runs. */
double lp_estimate_seconds(const lp_estimate *estimate, double to_cache, const lp_speed *speed, int ranks);

#endif
