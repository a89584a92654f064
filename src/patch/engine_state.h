/* The engine's state, for its own files: engine.c goes from batch to batch, engine_schedule.c decides which parts of
 * which pairs run, engine_memory.c holds what they work in. Local. */
#ifndef LP_PATCH_ENGINE_STATE_H
#define LP_PATCH_ENGINE_STATE_H

#include "nn/forward.h"
#include "patch/engine.h"
#include "patch/engine_sizes.h"
#include "patch/step_batch.h"

enum { LP_MAX_INFLIGHT = 256 };

/* A unit in flight: one request per group. */
typedef struct {
    lp_work_unit *unit;
    lp_request *requests; /* [request_capacity], the first unit->n_groups in use */
    size_t request_capacity;
} lp_inflight_pair;

/* Memory that lives across batches: keys and values, latents, saved logits. */
typedef struct {
    lp_kv_pool pool;
    lp_page_pool pages;      /* of the pool */
    lp_page_pool saved_rows; /* of saved */
    float *latents;          /* dev [pages.n, D] */
    float *saved;            /* dev [saved_rows.n, logits' stride] */
} lp_engine_pools;

/* One batch on the host, as the forward pass takes it. */
typedef struct {
    int32_t *place; /* [n_rows] where an unsorted row went */
    int32_t *first_layer, *source_row, *position, *slot, *prompt_begin, *prompt_length, *tail_begin, *tail_length;
    lp_row_input *input;
    uint8_t *output;
    int32_t *tail;
    size_t tail_capacity;
    lp_forward_edit *edits;
    size_t edit_capacity;
    const float *directions; /* of the last subspace whose directions are in the batch's vectors; NULL: none are */
    int64_t directions_at;   /* there */
    lp_forward_capture *captures;
    size_t capture_capacity;
    float *vectors;
    size_t vector_capacity;
    float *dev_vectors; /* dev, the same */
    size_t dev_vector_capacity;
    lp_forward_choice *choices; /* of rows whose attention lacks some positions */
    size_t choice_capacity;
    int32_t *chosen; /* [n_chosen] slots that are left to them */
    size_t chosen_capacity;
    bool *allowed; /* [allowed_capacity] positions of the row at hand */
    size_t allowed_capacity;
    int32_t n_tail, n_edits, n_captures, n_choices, n_chosen;
    size_t n_vectors;
} lp_engine_rows;

/* What becomes of hidden states. */
typedef struct {
    int32_t *lists;             /* host [3 max_rows] */
    int32_t *dev_lists;         /* dev [3 max_rows] */
    float *gathered;            /* dev [max_rows, D], floats or an operand */
    float *projected;           /* dev [max_rows, D] */
    float *logits;              /* dev [head_rows, lp_logits_stride] */
    int32_t *ranked_tokens;     /* dev [ranked_capacity] of a lens; NULL before the first */
    float *ranked_numbers;      /* dev, the same */
    float *step_logits;         /* dev [n_steps, logits stride] of an unpatched run's thoughts; NULL: never asked for */
    lp_logit_stats *step_stats; /* dev, as many as rows of logits */
    size_t ranked_capacity;
    lp_row_edit *barred; /* host [barred_rows, n_not_chosen]: what makes their logits LP_NEVER_LOGIT */
    float *never_logit;  /* dev [1]; NULL: not needed so far */
    int32_t barred_rows;
} lp_engine_outputs;

typedef struct {
    lp_inflight_pair *inflight[LP_MAX_INFLIGHT]; /* [n_inflight] the oldest first */
    int32_t n_inflight;
    lp_inflight_pair *idle[LP_MAX_INFLIGHT]; /* to be used again */
    int32_t n_idle;
    lp_inflight_pair *waiting;          /* taken from the source, but not in flight yet */
    int32_t first_inflight;             /* where the next batch begins, so that all advance */
    int64_t n_answers, n_answer_tokens; /* of runs that are done */
    bool wants_growth;                  /* pages ran out, and the limit allows more of them */
} lp_engine_schedule;

typedef struct {
    const lp_executor_options *options;
    const lp_engine_options *engine;
    const lp_work_source *source;
    lp_result_sink sink; /* of the source */
    lp_backend *be;
    const lp_weights *weights;
    lp_weights *own_weights; /* where none were given, from the first unit on */
    lp_forward *forward;
    int32_t max_rows;
    lp_engine_pools kv;
    lp_engine_schedule schedule;
    lp_engine_rows host;
    lp_engine_outputs out;
    lp_step_batch batches[LP_FETCHES];
    int n_batches; /* at once: two where the backend works while the host does */
    int32_t n_under_way;
    uint64_t n_started, n_finished;
    lp_step_batch *batch; /* the one being made */
    int64_t limit;        /* bytes: memory_limit, or half of it */
    bool halved;
    double began;
    lp_engine_counters counters;
} lp_engine;

/* ---- engine_schedule.c ------------------------------------------------------------------------------------------- */

/* Begins parts, and takes in units, until the batches are full, memory is, or the source gives none. */
lp_status lp_engine_admit(lp_engine *engine, lp_error *err);
/* Is some part begun and not at its end? */
bool lp_engine_is_active(const lp_engine *engine);
/* Gathers rows of as many requests as fit, beginning with another unit each time. Where none of them has the pages that
 * it needs, and no batch is under way, others are set back for the oldest. */
void lp_engine_gather_rows(lp_engine *engine, lp_step_batch *batch);
/* Ends parts that have no rows left, and hands units over that are done. */
lp_status lp_engine_finish_units(lp_engine *engine, lp_error *err);
void lp_engine_free_inflight(lp_inflight_pair *pair);

/* ---- engine.c ---------------------------------------------------------------------------------------------------- */

/* Reads the lenses of a unit whose captures are there. */
lp_status lp_engine_read_lenses(lp_engine *engine, const lp_work_unit *unit, lp_error *err);

/* ---- engine_memory.c --------------------------------------------------------------------------------------------- */

/* Of a clock that only goes on. */
double lp_engine_seconds(void);
/* *out, a pointer of any type = new dev memory. */
lp_status lp_engine_alloc(lp_engine *engine, void *out, size_t bytes, const char *what, lp_error *err);
/* NULL is accepted. */
void lp_engine_release(lp_engine *engine, void *dev);
/* Makes workspace and pools those of units like this one. Called while nothing is in flight. A device that has less
 * free than the limit promised gets a second try with half of it, once. */
lp_status lp_engine_size_for(lp_engine *engine, const lp_unit_need *unit, lp_error *err);
/* Does the limit allow more pages? */
bool lp_engine_can_grow(const lp_engine *engine);
/* Twice as many pages, or as many as the limit allows. Called while none is in use. */
lp_status lp_engine_grow(lp_engine *engine, lp_error *err);
void lp_engine_free_forward(lp_engine *engine);
void lp_engine_free_workspace(lp_engine *engine);
void lp_engine_free_pools(lp_engine *engine);

#endif
