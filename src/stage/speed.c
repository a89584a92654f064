#include "stage/speed.h"

#include "base/clock.h"
#include "base/memory.h"
#include "nn/forward.h"
#include "stage/device.h"

#include <math.h>

/* A batch of rows that all answer the same prompt, each at the position after it, through a model of one block. */
typedef struct {
    lp_backend *be, *own_be;
    lp_model model; /* the session's, as if it had one layer */
    lp_weights weights, *own_weights;
    lp_forward *forward;
    void *keys, *values, *logits, *best;
    lp_kv_pool pool;
    lp_row_input *input;
    uint8_t *output;
    int32_t *numbers; /* what the lists of the batch lie in */
    lp_forward_batch batch;
    int32_t n_candidates;
    const float *hidden; /* of the last batch, [n_out, D] */
    int32_t n_out;
} probe;

enum { FEWEST_ROWS = 16, CPU_ROWS = 512, DEVICE_ROWS = 1024, HEAD_ROWS = 64 };

static void probe_release(probe *p) {
    void *owned[] = {p->keys, p->values, p->logits, p->best};
    for (size_t i = 0; i < sizeof owned / sizeof owned[0]; i++)
        if (owned[i]) p->be->release(p->be, owned[i]);
    lp_forward_free(p->forward);
    lp_weights_free(p->own_weights);
    lp_backend_free(p->own_be);
    lp_mem_free(p->input);
    lp_mem_free(p->output);
    lp_mem_free(p->numbers);
}

static lp_status zeros(lp_backend *be, size_t n_floats, void **out, lp_error *err) {
    float *host = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&host, n_floats, sizeof *host, "measurement", err));
    LP_TRY(be->alloc(be, n_floats * sizeof *host, "measurement", out, err));
    LP_TRY(be->upload(be, *out, host, n_floats * sizeof *host, err));
out:
    lp_mem_free(host);
    return status;
}

/* Slots 0 .. n_prompt - 1 hold the prompt, and one slot more is each row's own. */
static lp_status fill_batch(probe *p, int32_t rows, int32_t n_prompt, lp_error *err) {
    enum { ZEROS, POSITION, SLOT, PROMPT_LENGTH, TAIL_BEGIN, TAIL_LENGTH, N_LISTS };
    int32_t *list[N_LISTS];
    size_t n = (size_t)rows;
    LP_CHECK(lp_mem_new(&p->input, n, sizeof *p->input, "measurement", err));
    LP_CHECK(lp_mem_new(&p->output, n, sizeof *p->output, "measurement", err));
    LP_CHECK(lp_mem_new(&p->numbers, N_LISTS * n, sizeof *p->numbers, "measurement", err));
    for (size_t i = 0; i < N_LISTS; i++) list[i] = p->numbers + i * n;
    for (int32_t i = 0; i < rows; i++) {
        p->input[i].token = i % p->n_candidates;
        p->output[i] = 1;
        list[POSITION][i] = n_prompt;
        list[SLOT][i] = n_prompt + i;
        list[PROMPT_LENGTH][i] = n_prompt;
        list[TAIL_BEGIN][i] = i;
        list[TAIL_LENGTH][i] = 1;
    }
    p->batch = (lp_forward_batch){.n_rows = rows,
                                  .first_layer = list[ZEROS],
                                  .source = list[ZEROS],
                                  .input = p->input,
                                  .output = p->output,
                                  .position = list[POSITION],
                                  .slot = list[SLOT],
                                  .prompt_begin = list[ZEROS],
                                  .prompt_length = list[PROMPT_LENGTH],
                                  .tail_begin = list[TAIL_BEGIN],
                                  .tail_length = list[TAIL_LENGTH],
                                  .tail = list[SLOT],
                                  .n_tail = rows,
                                  .pool = &p->pool};
    return LP_OK;
}

static lp_status probe_init(const lp_session *session, int32_t n_prompt, probe *p, lp_error *err) {
    const lp_model_config *config = &p->model.config;
    p->model = session->model;
    p->model.config.n_layers = 1;
    p->n_candidates = session->vocabulary.n_candidates;
    p->be = session->backend;
    if (!p->be) {
        LP_CHECK(lp_backend_cpu_new(lp_stage_threads(session), &p->own_be, err));
        p->be = p->own_be;
    }
    if (session->weights) {
        p->weights = *session->weights;
    } else {
        LP_CHECK(lp_weights_new(p->be, &p->model, &p->own_weights, err));
        p->weights = *p->own_weights;
    }
    p->weights.model = &p->model;
    int32_t rows = p->be->is_asynchronous ? DEVICE_ROWS : CPU_ROWS;
    LP_CHECK(lp_forward_new(&p->weights, rows, n_prompt + 1, &p->forward, err));
    p->pool = (lp_kv_pool){.n_slots = n_prompt + rows, .n_layers = 1, .width = config->n_kv_heads * config->head_dim};
    size_t n_floats = (size_t)p->pool.n_slots * (size_t)p->pool.width;
    LP_CHECK(zeros(p->be, n_floats, &p->keys, err));
    LP_CHECK(zeros(p->be, n_floats, &p->values, err));
    p->pool.keys = p->keys;
    p->pool.values = p->values;
    size_t logits = (size_t)(HEAD_ROWS + LP_ROW_PADDING) * (size_t)lp_logits_stride(config);
    LP_CHECK(p->be->alloc(p->be, logits * sizeof(float), "measurement", &p->logits, err));
    LP_CHECK(p->be->alloc(p->be, HEAD_ROWS * sizeof(int32_t), "measurement", &p->best, err));
    return fill_batch(p, rows, n_prompt, err);
}

static lp_status run_block(probe *p, int32_t rows, lp_error *err) {
    p->batch.n_rows = p->batch.n_tail = rows;
    return lp_forward_run(p->forward, &p->batch, &p->hidden, &p->n_out, err);
}

static lp_status run_head(probe *p, int32_t rows, lp_error *err) {
    LP_CHECK(lp_forward_head(p->forward, LP_FLOATS, p->hidden, rows, p->logits, err));
    return p->be->argmax(p->be, p->logits, rows, lp_logits_stride(&p->model.config), p->n_candidates, p->best, err);
}

/* *seconds of one row: of the fastest call, which nothing else on the machine has disturbed, with as many rows, up to
 * `most`, as can be had in a part of wanted_s. The first call, which touches memory and loads kernels, is not the only
 * one. */
static lp_status measure(probe *p, lp_status (*call)(probe *p, int32_t rows, lp_error *err), int32_t most,
                         double wanted_s, double *seconds, lp_error *err) {
    enum { MORE = 4 };
    double start = lp_seconds_now(), fastest = INFINITY;
    int32_t rows = FEWEST_ROWS < most ? FEWEST_ROWS : most;
    for (int n = 0; n < 2 || lp_seconds_now() - start < wanted_s; n++) {
        double before = lp_seconds_now();
        LP_CHECK(call(p, rows, err));
        LP_CHECK(p->be->sync(p->be, err));
        double taken = lp_seconds_now() - before;
        if (taken < fastest) fastest = taken;
        if (rows == most || MORE * taken >= wanted_s) continue;
        rows = MORE * rows < most ? MORE * rows : most;
        fastest = INFINITY;
        n = 0;
    }
    *seconds = fastest / rows;
    return LP_OK;
}

lp_status lp_speed_measure(const lp_session *session, int32_t n_prompt, double wanted_s, lp_speed *out, lp_error *err) {
    probe p = {0};
    lp_speed speed = {0};
    lp_status status = LP_OK;
    LP_TRY(probe_init(session, n_prompt, &p, err));
    LP_TRY(measure(&p, run_block, p.batch.n_rows, wanted_s, &speed.row_layer_s, err));
    LP_TRY(measure(&p, run_head, p.n_out < HEAD_ROWS ? p.n_out : HEAD_ROWS, wanted_s, &speed.head_row_s, err));
    *out = speed;
out:
    probe_release(&p);
    return status;
}
