/* The engine: many units at once on a backend, everything that runs share computed once.
 *
 * Works in batches. A batch takes the next position (or the whole prompt) of as many requests as fit, puts their rows
 * into one batch, runs the forward pass, and hands each row's outcome back to its request. Units enter as memory allows
 * and leave when all their requests are done. Results do not depend on which rows share a batch (backend.h), so neither
 * on the memory limit nor on the order of units. */
#ifndef LP_PATCH_ENGINE_H
#define LP_PATCH_ENGINE_H

#include "backend/backend.h"
#include "nn/forward.h"
#include "patch/executor.h"

typedef struct {
    lp_backend *backend;       /* borrowed */
    const lp_weights *weights; /* borrowed, of that backend; NULL: made for this execution */
    int64_t memory_limit;      /* bytes for KV slots and workspace */
    int32_t
        rows_wanted; /* rows that a batch should have before no more units are taken in; 0: the backend's batch_rows */
    lp_row_layer_hook hook; /* for tests; NULL: off */
    void *hook_user;
} lp_engine_options;

typedef struct {
    uint64_t row_layers; /* (row, layer) pairs computed */
    uint64_t rows;       /* rows of all batches */
    uint64_t batches;
    uint64_t gemm_flops;   /* without padding */
    uint64_t padded_flops; /* with the rows that tiles were filled up with */
    size_t kv_bytes, workspace_bytes;
    int32_t most_units;                               /* in flight at once */
    double seconds;                                   /* in all */
    double seconds_first;                             /* until the first unit was done */
    uint64_t bytes_up, bytes_down, n_waits, n_graphs; /* as lp_backend_counters */
} lp_engine_counters;

/* Runs everything that `source` gives. `next` is asked again after a NULL as long as units are in flight, so a source
 * may hold units back. Captures are for runs without edits. Fails with LP_ERR_MEMORY when one unit does not fit the
 * memory limit. counters may be NULL. */
lp_status lp_execute_batched(const lp_executor_options *options, const lp_engine_options *engine,
                             const lp_work_source *source, lp_engine_counters *counters, lp_error *err);

#endif
