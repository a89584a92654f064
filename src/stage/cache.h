/* Stage 1: the unpatched runs of every pair, their activations and answers, into the store. */
#ifndef LP_STAGE_CACHE_H
#define LP_STAGE_CACHE_H

#include "stage/layout.h"

typedef struct {
    int64_t n_pairs;
    int64_t n_done_before; /* found in the journal */
    int64_t n_clean_right, n_corrupted_right, n_both_right;
} lp_cache_report; /* valid on rank 0 */

/* Collective. Makes or continues the job's store, which has that layout; pairs in its journal are kept as they are.
 * LP_ERR_STOPPED when it was asked to stop before all pairs were done. */
lp_status lp_stage_cache(lp_session *session, const lp_store_layout *layout, lp_cache_report *report, lp_error *err);

#endif
