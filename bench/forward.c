/* Plain forward speed, with nothing shared: prefill, thoughts and batched greedy decoding of B random prompts by the
 * engine, in tokens per second: of processor time on one thread of the cpu, of wall time on a GPU. Beside it:
 * bench/forward_hf.py. Usage: forward BASE CODI LORA_ALPHA B PROMPT NEW [DEVICE [DTYPE]] */
#include "backend/device.h"
#include "base/memory.h"
#include "support/units.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        lp_error failed = {0};                                                                                         \
        lp_error *err = &failed;                                                                                       \
        if ((call) != LP_OK) {                                                                                         \
            fprintf(stderr, "forward: %s\n", failed.text);                                                             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static double seconds_of(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    int32_t batch, n_prompt, n_steps, n_new;
} sizes;

/* Seconds of one execution: B groups of one unpatched run each. */
static double seconds(const lp_weights *weights, const sizes *z) {
    int32_t batch = z->batch, n_prompt = z->n_prompt, n_new = z->n_new;
    lp_run_group *groups = NULL;
    lp_run_result *results = NULL;
    int32_t *tokens = NULL, *prompts = NULL;
    lp_run_wanted run = {.n_steps = z->n_steps};
    const lp_model *model = weights->model;
    lp_backend *be = weights->be;
    const lp_model_config *c = &model->config;
    CHECK(lp_mem_new(&groups, (size_t)batch, sizeof *groups, "groups", err));
    CHECK(lp_mem_new(&results, (size_t)batch, sizeof *results, "groups", err));
    CHECK(lp_mem_new(&tokens, (size_t)batch * (size_t)n_new, sizeof *tokens, "groups", err));
    CHECK(lp_mem_new(&prompts, (size_t)batch * (size_t)n_prompt, sizeof *prompts, "groups", err));
    for (int32_t i = 0; i < batch * n_prompt; i++) prompts[i] = (int32_t)((int64_t)(i + 1) * 7919 % c->n_vocab);
    for (int32_t b = 0; b < batch; b++) {
        results[b].tokens = tokens + b * n_new;
        groups[b] = (lp_run_group){
            .prompt = prompts + b * n_prompt, .n_prompt = n_prompt, .runs = &run, .results = &results[b], .n_runs = 1};
    }
    lp_work_unit unit = {.groups = groups, .n_groups = (size_t)batch};
    lp_executor_options options = {.model = model,
                                   .protocol = lp_protocol_preset(LP_PROTOCOL_BOT_FIRST, z->n_steps),
                                   .vocabulary = {.pad = c->n_vocab,
                                                  .bot = c->n_vocab + 1,
                                                  .eot = c->n_vocab + 2,
                                                  .eos = -1,
                                                  .first_input = c->n_vocab + 1,
                                                  .answer_start = {c->n_vocab + 2},
                                                  .n_answer_start = 1,
                                                  .n_candidates = c->n_vocab + 2},
                                   .max_new_tokens = n_new,
                                   .max_positions = n_prompt + z->n_steps + n_new + 1};
    lp_engine_options engine = {.backend = be,
                                .weights = weights,
                                .memory_limit = be->memory_bytes > 0 ? be->memory_bytes / 2 : INT64_C(8) << 30,
                                .rows_wanted = batch * n_prompt};
    clockid_t clock = be->is_asynchronous ? CLOCK_MONOTONIC : CLOCK_PROCESS_CPUTIME_ID;
    double start = seconds_of(clock);
    CHECK(execute_unit(&options, &engine, &unit, NULL, err));
    double taken = seconds_of(clock) - start;
    lp_mem_free(groups);
    lp_mem_free(results);
    lp_mem_free(tokens);
    lp_mem_free(prompts);
    return taken;
}

/* Place of a name in a NULL-terminated list; -1: not there. */
static int find(const char *const *names, const char *name) {
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

int main(int argc, char **argv) {
    static const char *const devices[] = {"auto", "cpu", "cuda", NULL}, *const dtypes[] = {"fp32",    "tf32",
                                                                                           "bf16",    "fp32-simt",
                                                                                           "fp32-tc", NULL};
    int device = find(devices, argc > 7 ? argv[7] : "cpu"), dtype = find(dtypes, argc > 8 ? argv[8] : "fp32");
    if (argc < 7 || argc > 9 || device < 0 || dtype < 0) {
        fprintf(
            stderr,
            "usage: forward BASE CODI LORA_ALPHA B PROMPT NEW [auto|cpu|cuda [fp32|tf32|bf16|fp32-simt|fp32-tc]]\n");
        return 2;
    }
    lp_model model = {0};
    lp_backend *be = NULL;
    lp_weights *weights = NULL;
    lp_model_source source = {.base = argv[1], .codi = argv[2], .lora_alpha = strtod(argv[3], NULL)};
    enum { STEPS = 6 };
    sizes none = {.batch = (int32_t)strtol(argv[4], NULL, 10),
                  .n_prompt = (int32_t)strtol(argv[5], NULL, 10),
                  .n_new = (int32_t)strtol(argv[6], NULL, 10)};
    if (none.batch < 1 || none.n_prompt < 1 || none.n_new < 1) return 2;
    sizes one = none, thinks = none, all = none;
    one.n_new = thinks.n_new = 1;
    thinks.n_steps = STEPS;
    all.n_new = 1 + none.n_new;
    CHECK(lp_model_load(&source, &model, err));
    lp_device_options options = {.device = (lp_device_use)device, .dtype = (lp_dtype_use)dtype, .threads = 1};
    CHECK(lp_backend_open(&options, &be, err));
    CHECK(lp_weights_new(be, &model, &weights, err));
    double prefill = 1e30, with_thoughts = 1e30, whole = 1e30;
    /* Memory and code are touched for the first time. */
    seconds(weights, &(sizes){.batch = 1, .n_prompt = 2, .n_steps = 1, .n_new = 1});
    for (int k = 0; k < 3; k++) {
        double taken[3] = {seconds(weights, &one), seconds(weights, &thinks), seconds(weights, &all)};
        if (taken[0] < prefill) prefill = taken[0];
        if (taken[1] < with_thoughts) with_thoughts = taken[1];
        if (taken[2] < whole) whole = taken[2];
    }
    double batch = none.batch;
    printf("prefill_tokens_per_s: %.0f\nthoughts_tokens_per_s: %.0f\ndecode_tokens_per_s: %.0f\n",
           batch * (none.n_prompt + 1) / prefill, batch * STEPS / (with_thoughts - prefill),
           batch * none.n_new / (whole - prefill));
    lp_weights_free(weights);
    lp_backend_free(be);
    lp_model_close(&model);
    return 0;
}
