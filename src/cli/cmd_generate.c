#include "base/memory.h"
#include "cli/arguments.h"
#include "job/job.h"
#include "thought/reference.h"

#include <time.h>

static const char help[] =
    "usage: latentpatch generate JOB.json QUESTION [--top K] [--layers] [--set section.key=value]...\n"
    "       latentpatch generate --base FOLDER [--codi PATH] [--lora-alpha A] QUESTION [--top K]\n\n"
    "Answers one question under the job's protocol and shows each thought through the logit lens: the K most likely tokens (5\n"
    "by default) of its final hidden state; with --layers, of the residual stream behind every layer (final norm applied).\n"
    "A model without CODI parts simply continues the text.\n";

enum { MAX_TOP = 50 };

typedef struct {
    lp_job job;
    lp_model model;
    lp_tokenizer *tokenizer;
    lp_vocabulary vocabulary;
    lp_reference *reference;
    lp_token_list prompt;
    int32_t *answer;
    float *states; /* [T, L + 1, D]: resid_post of each layer, then latent_raw */
    float *logits;
    lp_capture *captures;
    int32_t n_captures;
} generation;

static void release(generation *g) {
    lp_reference_free(g->reference);
    lp_tokenizer_free(g->tokenizer);
    lp_model_close(&g->model);
    lp_token_list_release(&g->prompt);
    lp_mem_free(g->answer);
    lp_mem_free(g->states);
    lp_mem_free(g->logits);
    lp_mem_free(g->captures);
    lp_job_release(&g->job);
}

static lp_status print_top(const generation *g, const float *logits, int top, lp_error *err) {
    int32_t best[MAX_TOP];
    lp_text text = {0};
    lp_status status = LP_OK;
    int n = 0;
    for (int32_t id = 0; id < g->vocabulary.n_candidates; id++) {
        int at = n;
        while (at > 0 && logits[id] > logits[best[at - 1]]) at--;
        if (at >= top) continue;
        if (n < top) n++;
        memmove(best + at + 1, best + at, (size_t)(n - at - 1) * sizeof best[0]);
        best[at] = id;
    }
    for (int i = 0; i < n; i++) {
        lp_text_clear(&text);
        LP_TRY(lp_tokenizer_decode(g->tokenizer, &best[i], 1, LP_DECODE_ALL, &text, err));
        const char *shown = text.length ? text.data : best[i] == g->vocabulary.bot ? "<bot>" : "<pad>";
        printf("  %6.2f \"", (double)logits[best[i]]);
        for (const char *p = shown; *p; p++) {
            if (*p == '\n')
                printf("\\n");
            else
                putchar(*p);
        }
        printf("\"");
    }
    printf("\n");
out:
    lp_text_release(&text);
    return status;
}

static lp_status open_all(generation *g, const lp_model_source *source, const char *question, int32_t max_new,
                          lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_tokenizer_load(source->base, &g->tokenizer, err));
    LP_TRY(lp_model_load(source, &g->model, err));
    LP_TRY(lp_vocabulary_init(&g->model, g->tokenizer, source->base, g->job.decode.eos, &g->vocabulary, err));
    lp_protocol protocol = g->job.protocol;
    if (!g->model.is_codi) protocol.kind = LP_PROTOCOL_BOT_FIRST; /* a plain model's prompt is the bare question */
    LP_TRY(lp_protocol_prompt(&protocol, &g->model, g->tokenizer, &g->vocabulary, question, &g->prompt, err));
    int32_t wanted = (int32_t)g->prompt.n + protocol.n_steps + 2 + max_new;
    LP_TRY(lp_reference_new(&g->model, &protocol, &g->vocabulary, wanted, &g->reference, err));
    size_t d = (size_t)g->model.config.d_model;
    size_t per_step = (size_t)g->model.config.n_layers + 1;
    size_t t = g->model.is_codi ? (size_t)protocol.n_steps : 0;
    LP_TRY(lp_mem_new(&g->states, t * per_step * d, sizeof(float), "states", err));
    LP_TRY(lp_mem_new(&g->captures, t * per_step, sizeof *g->captures, "captures", err));
    LP_TRY(lp_mem_new(&g->logits, (size_t)g->model.config.n_embedded, sizeof(float), "logits", err));
    LP_TRY(lp_mem_new(&g->answer, (size_t)max_new, sizeof(int32_t), "answer", err));
    for (size_t i = 0; i < t * per_step; i++) {
        bool last = i % per_step == per_step - 1;
        g->captures[i] = (lp_capture){.at = {.phase = LP_PHASE_THOUGHT,
                                             .index = (int32_t)(i / per_step),
                                             .site = last ? LP_SITE_LATENT_RAW : LP_SITE_RESID_POST,
                                             .layer = last ? 0 : (int32_t)(i % per_step),
                                             .head = LP_ALL_HEADS},
                                      .out = g->states + i * d};
    }
    g->n_captures = (int32_t)(t * per_step);
out:
    return status;
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static lp_status answer(generation *g, int32_t max_new, int top, bool layers, lp_error *err) {
    const lp_model_config *c = &g->model.config;
    lp_text text = {0};
    lp_run_request request = {.prompt = g->prompt.ids,
                              .n_prompt = (int32_t)g->prompt.n,
                              .n_steps = g->job.protocol.n_steps,
                              .captures = g->captures,
                              .n_captures = g->n_captures,
                              .max_new_tokens = max_new};
    lp_run_answer result;
    double start = seconds();
    lp_status status = LP_OK;
    int32_t room = c->n_context - request.n_prompt - (g->model.is_codi ? request.n_steps + 1 : 0);
    if (request.max_new_tokens > room) request.max_new_tokens = room > 0 ? room : 1;
    LP_TRY(lp_reference_run(g->reference, &request, g->answer, &result, err));
    double took = seconds() - start;
    int32_t per_step = c->n_layers + 1;
    for (int32_t i = 0; i < g->n_captures; i++) {
        bool last = i % per_step == per_step - 1;
        if (!last && !layers) continue;
        if (last)
            printf("thought %d final   ", i / per_step);
        else
            printf("thought %d layer %-2d", i / per_step, i % per_step);
        lp_reference_lens(g->reference, g->states + (size_t)i * (size_t)c->d_model, last ? LP_LENS_PLAIN : LP_LENS_NORM,
                          g->logits);
        LP_TRY(print_top(g, g->logits, top, err));
    }
    LP_TRY(lp_tokenizer_decode(g->tokenizer, g->answer, (size_t)result.n_tokens, LP_DECODE_SKIP_SPECIAL, &text, err));
    printf("answer: %s\n", lp_text_get(&text));
    int32_t positions = request.n_prompt + (g->model.is_codi ? request.n_steps + 1 : 0) + result.n_tokens;
    fprintf(stderr, "%d prompt tokens, %d answer tokens%s, %.1f positions/s (reference executor)\n", request.n_prompt,
            result.n_tokens, result.ended ? "" : " (limit reached)", positions / took);
out:
    lp_text_release(&text);
    return status;
}

int lp_cmd_generate(int argc, char **argv) {
    const char *base = NULL, *codi = NULL, *alpha = NULL, *top_text = "5", *settings[LP_MAX_OPERANDS];
    size_t n_settings = 0;
    bool layers = false;
    const lp_option options[] = {
        {.name = "--base", .value = &base},        {.name = "--codi", .value = &codi},
        {.name = "--lora-alpha", .value = &alpha}, {.name = "--top", .value = &top_text},
        {.name = "--layers", .flag = &layers},     {.name = "--set", .values = settings, .n_values = &n_settings}};
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    generation g = {0};
    lp_status status = LP_OK;
    if (lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err) != LP_OK)
        return lp_exit_usage("generate", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    char *end = NULL;
    long top = strtol(top_text, &end, 10);
    if (operands.n != (base ? 1 : 2) || *end || top < 1 || top > MAX_TOP) {
        lp_fail(err, LP_ERR_USAGE, "expected a job file (or --base FOLDER) and one question; --top from 1 to %d",
                MAX_TOP);
        return lp_exit_usage("generate", err);
    }
    lp_model_source source = {.base = base, .codi = codi, .lora_alpha = alpha ? strtod(alpha, NULL) : 32};
    int32_t max_new = 64;
    g.job.protocol = (lp_protocol){.kind = LP_PROTOCOL_CODI, .n_steps = 6, .remove_eos = true};
    if (!base) {
        LP_TRY(lp_job_load(operands.operands[0], settings, n_settings, &g.job, err));
        source = (lp_model_source){.base = g.job.model.base,
                                   .codi = g.job.model.codi,
                                   .lora_rank = g.job.model.lora_rank,
                                   .lora_alpha = g.job.model.lora_alpha,
                                   .base_rounding = g.job.model.base_rounding};
        max_new = g.job.decode.max_new_tokens;
    }
    LP_TRY(open_all(&g, &source, operands.operands[operands.n - 1], max_new, err));
    LP_TRY(answer(&g, max_new, (int)top, layers, err));
out:
    release(&g);
    return lp_exit_with(NULL, status, err);
}
