/* The engine's state, for its own files: engine.c goes from batch to batch, engine_memory.c sizes and holds what they
 * work in. Local. */
#ifndef LP_PATCH_ENGINE_STATE_H
#define LP_PATCH_ENGINE_STATE_H

#include "nn/forward.h"
#include "patch/engine.h"
#include "patch/slots.h"
#include "patch/step_batch.h"

enum { LP_MAX_INFLIGHT = 256 };

/* A unit in flight: one request per group. */
typedef struct {
    lp_work_unit *unit;
    lp_request *requests; /* [request_capacity], the first unit->n_groups in use */
    size_t request_capacity;
    lp_request_need *needs;
    size_t need_capacity;
    int32_t slot, n_slots;
    int32_t latent, n_latents;
    int32_t saved, n_saved;
} lp_inflight_pair;

typedef struct {
    const lp_executor_options *options;
    const lp_engine_options *engine;
    const lp_work_source *source;
    lp_backend *be;
    const lp_weights *weights;
    lp_weights *own_weights; /* where none were given, from the first unit on */
    lp_forward *forward;
    int32_t max_rows;
    lp_kv_pool pool;
    lp_slots kv_slots, latent_slots, saved_slots;
    float *latents; /* dev [latent_slots.n, D] */
    float *saved;   /* dev [saved_slots.n, logits' stride] */
    lp_inflight_pair *inflight[LP_MAX_INFLIGHT];
    int32_t n_inflight;
    lp_inflight_pair *idle[LP_MAX_INFLIGHT]; /* to be used again */
    int32_t n_idle;
    lp_work_unit *waiting; /* taken from the source, but does not fit yet */
    lp_inflight_pair *waiting_pair;
    int32_t first_inflight; /* where the next batch begins, so that all advance */
    lp_step_batch batches[LP_FETCHES];
    int n_batches; /* at once: two where the backend works while the host does */
    int32_t n_under_way;
    uint64_t n_started, n_finished;
    lp_step_batch *batch; /* the one being made */
    /* its batch, on the host */
    int32_t *place; /* [n_rows] where an unsorted row went */
    int32_t *first_layer, *source_row, *position, *slot, *prompt_begin, *prompt_length, *tail_begin, *tail_length;
    lp_row_input *input;
    uint8_t *output;
    int32_t *tail;
    size_t tail_capacity;
    lp_forward_edit *edits;
    size_t edit_capacity;
    lp_forward_capture *captures;
    size_t capture_capacity;
    float *vectors; /* host */
    size_t vector_capacity;
    float *dev_vectors;
    size_t dev_vector_capacity;
    int32_t n_tail, n_edits, n_captures;
    size_t n_vectors;
    /* reading out */
    int32_t *lists;              /* host [3 max_rows] */
    int32_t *dev_lists;          /* dev [3 max_rows] */
    float *gathered, *projected; /* dev [max_rows, D] */
    float *logits;               /* dev [head_rows, lp_logits_stride] */
    int32_t *ranked_tokens;      /* dev [ranked_capacity] of a lens; NULL before the first */
    float *ranked_numbers;       /* dev, the same */
    size_t ranked_capacity;
    int64_t limit; /* bytes: memory_limit, or half of it */
    bool halved;
    double began;
    lp_engine_counters counters;
} lp_engine;

/* Of a clock that only goes on. */
double lp_engine_seconds(void);
/* *out, a pointer of any type = new dev memory. */
lp_status lp_engine_alloc(lp_engine *e, void *out, size_t bytes, const char *what, lp_error *err);
/* NULL is accepted. */
void lp_engine_release(lp_engine *e, void *dev);
/* Rows that the output head takes at once: its logits are wide. */
int32_t lp_engine_head_rows(const lp_engine *e);
/* Makes workspace and pool those of units like this one, whose largest batch has `rows`. Called while nothing is in
 * flight. A device that has less free than the limit promised gets a second try with half of it, once. */
lp_status lp_engine_size_for(lp_engine *e, const lp_inflight_pair *pair, int32_t rows, lp_error *err);
void lp_engine_free_forward(lp_engine *e);
void lp_engine_free_workspace(lp_engine *e);
void lp_engine_free_pool(lp_engine *e);

#endif
