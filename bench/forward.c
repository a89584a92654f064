/* Plain forward speed, with nothing shared: prefill and batched greedy decoding of B random prompts by the engine, in
 * tokens per second of processor time. Beside it: bench/forward_hf.py. Usage: forward BASE CODI LORA_ALPHA B PROMPT NEW
 */
#include "base/memory.h"
#include "patch/engine.h"

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

typedef struct {
    lp_work_unit unit;
    bool given;
} feed;

static lp_status next_unit(void *user, lp_work_unit **unit, lp_error *err) {
    (void)err;
    feed *f = user;
    *unit = f->given ? NULL : &f->unit;
    f->given = true;
    return LP_OK;
}

static lp_status unit_done(void *user, lp_work_unit *unit, lp_error *err) {
    (void)user;
    (void)unit;
    (void)err;
    return LP_OK;
}

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Seconds of one execution: B groups of one unpatched run each, without thoughts. */
static double seconds(const lp_model *model, lp_backend *be, int32_t batch, int32_t n_prompt, int32_t n_new) {
    lp_run_group *groups = NULL;
    lp_run_result *results = NULL;
    int32_t *tokens = NULL, *prompts = NULL;
    lp_run_wanted run = {0};
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
    feed f = {.unit = {.groups = groups, .n_groups = (size_t)batch}};
    lp_work_source source = {.user = &f, .next = next_unit, .done = unit_done};
    lp_executor_options options = {.model = model,
                                   .protocol = {.kind = LP_PROTOCOL_BOT_FIRST, .remove_eos = true},
                                   .vocabulary = {.pad = c->n_vocab,
                                                  .bot = c->n_vocab + 1,
                                                  .eot = c->n_vocab + 2,
                                                  .eos = -1,
                                                  .n_candidates = c->n_vocab + 2},
                                   .max_new_tokens = n_new,
                                   .max_positions = n_prompt + n_new + 1};
    lp_engine_options engine = {.backend = be, .memory_limit = INT64_C(8) << 30, .rows_wanted = batch * n_prompt};
    double start = processor_seconds();
    CHECK(lp_execute_batched(&options, &engine, &source, NULL, err));
    double taken = processor_seconds() - start;
    lp_mem_free(groups);
    lp_mem_free(results);
    lp_mem_free(tokens);
    lp_mem_free(prompts);
    return taken;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: forward BASE CODI LORA_ALPHA B PROMPT NEW\n");
        return 2;
    }
    lp_model model = {0};
    lp_backend *be = NULL;
    lp_model_source source = {.base = argv[1], .codi = argv[2], .lora_alpha = strtod(argv[3], NULL)};
    int32_t batch = (int32_t)strtol(argv[4], NULL, 10), n_prompt = (int32_t)strtol(argv[5], NULL, 10);
    int32_t n_new = (int32_t)strtol(argv[6], NULL, 10);
    if (batch < 1 || n_prompt < 1 || n_new < 1) return 2;
    CHECK(lp_model_load(&source, &model, err));
    CHECK(lp_backend_cpu_new(1, &be, err));
    double shortest = 1e30, longest = 1e30;
    seconds(&model, be, 1, 2, 1); /* probes the shapes */
    for (int k = 0; k < 3; k++) {
        double one = seconds(&model, be, batch, n_prompt, 1), all = seconds(&model, be, batch, n_prompt, 1 + n_new);
        if (one < shortest) shortest = one;
        if (all < longest) longest = all;
    }
    printf("prefill_tokens_per_s: %.0f\ndecode_tokens_per_s: %.0f\n", (double)batch * (n_prompt + 1) / shortest,
           (double)batch * n_new / (longest - shortest));
    lp_backend_free(be);
    lp_model_close(&model);
    return 0;
}
