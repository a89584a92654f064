/* The engine: many units at once on a backend, everything that runs share computed once.
 *
 * Works in batches. A batch takes the next position (or the whole prompt) of as many requests as fit, puts their rows
 * into one batch, runs the forward pass, and hands each row's outcome back to its request. Units enter as memory
 * allows, go through in parts where it is short (request.h), and leave when all their runs are done. When pages of keys
 * and values run out, the youngest branches are set back and run again later. Results do not depend on which rows share
 * a batch (backend.h), so neither on the memory limit, the parts, nor the order of units. */
#ifndef LP_PATCH_ENGINE_H
#define LP_PATCH_ENGINE_H

#include "backend/backend.h"
#include "nn/forward.h"
#include "patch/executor.h"

typedef struct {
    lp_backend *backend;       /* borrowed */
    const lp_weights *weights; /* borrowed, of that backend; NULL: made for this execution */
    int64_t memory_limit;      /* bytes for pages, saved logits and workspace */
    int64_t memory_most;       /* what the limit is raised to at most where one run needs it; 0: it is not */
    int32_t
        rows_wanted; /* rows that a batch should have before no more units are taken in; 0: the backend's batch_rows */
    int32_t expected_tokens; /* that answers are taken to have when parts are made; 0: as those before had */
    lp_row_layer_hook hook;  /* for tests; NULL: off */
    void *hook_user;
} lp_engine_options;

typedef struct {
    uint64_t row_layers; /* (row, layer) pairs computed */
    uint64_t rows;       /* rows of all batches */
    uint64_t batches;
    uint64_t gemm_flops;                           /* without padding */
    uint64_t padded_flops;                         /* with the rows that tiles were filled up with */
    size_t kv_bytes, saved_bytes, workspace_bytes; /* at the end */
    size_t peak_bytes;                             /* the most that they were together */
    int32_t n_pages, most_pages;                   /* of keys and values: there are; in use at most */
    int32_t most_units;                            /* in flight at once */
    uint64_t n_parts, n_requests;                  /* parts that requests went through in */
    uint64_t n_preemptions;                        /* branches set back, with what hung on them */
    uint64_t row_layers_lost;                      /* computed for them, or again for later parts; of row_layers.
                                                      Layers that a row would have shared with a row of another part
                                                      are not among them */
    double seconds;                                /* in all */
    double seconds_first;                          /* until the first unit was done */
    uint64_t bytes_up, bytes_down, n_waits;        /* as lp_backend_counters */
} lp_engine_counters;

/* Runs everything that `source` gives. `next` is asked again after a NULL as long as units are in flight, so a source
 * may hold units back. Captures are for runs without edits. Fails with LP_ERR_VALUE when one run does not fit the
 * memory limit. counters may be NULL. */
lp_status lp_execute_batched(const lp_executor_options *options, const lp_engine_options *engine,
                             const lp_work_source *source, lp_engine_counters *counters, lp_error *err);

#endif
