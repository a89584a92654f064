#include "base/clock.h"
#include "base/json.h"
#include "base/memory.h"
#include "cli/model_options.h"
#include "cli/print.h"
#include "patch/lens.h"
#include "thought/reference.h"

#include <errno.h>

typedef struct {
    lp_job job;
    lp_model model;
    lp_tokenizer *tokenizer;
    lp_vocabulary vocabulary;
    lp_reference *reference;
    lp_token_list prompt;
    int32_t *answer;
    float *vectors; /* [1 + T, L, D] of the lens */
    float *logits;
    lp_capture *captures; /* [1 + T, L] */
    int32_t n_positions;  /* 1 + T; 0 without CODI parts */
} generate_state;

static void release(generate_state *generation) {
    lp_reference_free(generation->reference);
    lp_tokenizer_free(generation->tokenizer);
    lp_model_close(&generation->model);
    lp_token_list_release(&generation->prompt);
    lp_mem_free(generation->answer);
    lp_mem_free(generation->vectors);
    lp_mem_free(generation->logits);
    lp_mem_free(generation->captures);
    lp_job_release(&generation->job);
}

/* U+FFFD: what a token that is only a part of a character is shown as; its id then tells it from the others. */
#define REPLACEMENT "\xef\xbf\xbd"

static lp_status print_top(generate_state *generation, int32_t at, int32_t top, lp_error *err) {
    int32_t best[LP_MAX_LENS_TOP];
    float log_probability[LP_MAX_LENS_TOP];
    lp_text text = {0};
    lp_status status = LP_OK;
    lp_reference_lens(generation->reference,
                      generation->vectors + (size_t)at * (size_t)generation->model.config.d_model, LP_LENS_NORM,
                      generation->logits);
    int32_t n_candidates = generation->vocabulary.n_candidates - generation->vocabulary.n_not_chosen;
    if (top > n_candidates) top = n_candidates;
    lp_lens_rank(generation->logits, generation->vocabulary.n_candidates, top, best, log_probability);
    for (int32_t i = 0; i < top; i++) {
        lp_text_clear(&text);
        LP_TRY(lp_lens_show(generation->tokenizer, &generation->vocabulary, best[i], &text, err));
        printf("  %6.2f \"", (double)log_probability[i]);
        LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_LINE, err));
        printf("\"");
        if (strstr(lp_text_get(&text), REPLACEMENT)) printf(" (%d)", best[i]);
    }
    printf("\n");
out:
    lp_text_release(&text);
    return status;
}

static lp_status open_all(generate_state *generation, const lp_model_source *source, int32_t max_new, lp_error *err) {
    const char *folder = generation->job.model.tokenizer ? generation->job.model.tokenizer : source->base;
    LP_CHECK(lp_tokenizer_load(folder, &generation->tokenizer, err));
    LP_CHECK(lp_model_load(source, &generation->model, err));
    lp_protocol *protocol = &generation->job.protocol;
    if (!generation->model.has_thoughts) *protocol = lp_protocol_plain();
    LP_CHECK(lp_vocabulary_init(&generation->model, generation->tokenizer, folder, generation->job.decode.eos, protocol,
                                &generation->vocabulary, err));
    const lp_model_config *config = &generation->model.config;
    generation->n_positions = protocol->n_steps > 0 ? lp_lens_positions(protocol->n_steps) : 0;
    size_t n = (size_t)generation->n_positions * (size_t)config->n_layers;
    LP_CHECK(lp_mem_new(&generation->vectors, n * (size_t)config->d_model, sizeof(float), "states", err));
    LP_CHECK(lp_mem_new(&generation->captures, n, sizeof *generation->captures, "captures", err));
    LP_CHECK(lp_mem_new(&generation->logits, (size_t)config->n_embedded, sizeof(float), "logits", err));
    return lp_mem_new(&generation->answer, (size_t)max_new, sizeof(int32_t), "answer", err);
}

/* The prompt of a question, and an executor with room for it. */
static lp_status open_question(generate_state *generation, const char *question, int32_t max_new, lp_error *err) {
    const lp_protocol *protocol = &generation->job.protocol;
    lp_reference_free(generation->reference);
    generation->reference = NULL;
    LP_CHECK(lp_protocol_prompt(protocol, &generation->model, generation->tokenizer, &generation->vocabulary, question,
                                &generation->prompt, err));
    int32_t wanted =
        (int32_t)generation->prompt.n + protocol->n_steps + generation->vocabulary.n_answer_start + 1 + max_new;
    LP_CHECK(
        lp_reference_new(&generation->model, protocol, &generation->vocabulary, wanted, &generation->reference, err));
    if (generation->n_positions > 0)
        lp_lens_captures(&generation->model.config, (int32_t)generation->prompt.n, protocol->n_steps,
                         generation->vectors, generation->captures);
    return LP_OK;
}

static lp_status answer(generate_state *generation, int32_t max_new, int32_t top, bool layers, lp_error *err) {
    const lp_model_config *config = &generation->model.config;
    lp_text text = {0};
    lp_run_request request = {.prompt = generation->prompt.ids,
                              .n_prompt = (int32_t)generation->prompt.n,
                              .n_steps = generation->job.protocol.n_steps,
                              .captures = generation->captures,
                              .n_captures = generation->n_positions * config->n_layers,
                              .max_new_tokens = max_new};
    lp_run_answer result;
    double start = lp_seconds_now();
    lp_status status = LP_OK;
    int32_t room = config->n_context - request.n_prompt - request.n_steps - generation->vocabulary.n_answer_start;
    if (request.max_new_tokens > room) request.max_new_tokens = room > 0 ? room : 1;
    LP_TRY(lp_reference_run(generation->reference, &request, generation->answer, &result, err));
    double took = lp_seconds_now() - start;
    for (int32_t p = 0; p < generation->n_positions; p++)
        for (int32_t l = layers ? 0 : config->n_layers - 1; l < config->n_layers; l++) {
            if (p == 0)
                printf("question ");
            else
                printf("thought %d", p - 1);
            if (layers) printf(" layer %-2d", l);
            LP_TRY(print_top(generation, p * config->n_layers + l, top, err));
        }
    LP_TRY(lp_tokenizer_decode(generation->tokenizer, generation->answer, (size_t)result.n_tokens, LP_DECODE_ANSWER,
                               &text, err));
    printf("answer: ");
    LP_TRY(lp_print_bytes(lp_text_get(&text), text.length, LP_PRINT_LINE, err));
    printf("\n");
    int32_t positions = request.n_prompt + request.n_steps + generation->vocabulary.n_answer_start + result.n_tokens;
    fprintf(stderr, "%d prompt tokens, %d answer tokens%s, %.1f positions/s (reference executor)\n", request.n_prompt,
            result.n_tokens, result.ended ? "" : " (limit reached)", positions / took);
out:
    lp_text_release(&text);
    return status;
}

typedef struct {
    lp_model_options model;
    int64_t top;
    bool layers;
} generate_options;

static const lp_option table[] = {
    LP_MODEL_OPTIONS(generate_options),
    LP_RANGE(INTEGER, "--top", generate_options, top, "K", 1, LP_MAX_LENS_TOP,
             "show the K most likely tokens (default 5)"),
    LP_FLAG("--layers", generate_options, layers, "show them after every layer, not only after the last"),
};

/* A question a line, each answered at once, so that one load of the model serves many tries. Empty lines are passed
 * over. */
static lp_status answer_input(generate_state *generation, int32_t max_new, const generate_options *options,
                              lp_error *err) {
    char *line = NULL;
    size_t room = 0;
    ssize_t length = 0;
    int64_t number = 0;
    lp_status status = LP_OK;
    while ((length = getline(&line, &room, stdin)) >= 0) {
        number++;
        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r')) line[--length] = '\0';
        if (length == 0) continue;
        size_t bad = strlen(line);
        bool good = bad == (size_t)length && lp_utf8_valid(line, (size_t)length, &bad);
        if (!good)
            LP_FAIL(LP_ERR_FORMAT, "standard input line %lld: expected UTF-8 text, found byte 0x%02x",
                    (long long)number, (unsigned char)line[bad]);
        printf("question: ");
        LP_TRY(lp_print(line, LP_PRINT_LINE, err));
        printf("\n");
        status = open_question(generation, line, max_new, err);
        if (status == LP_OK) status = answer(generation, max_new, (int32_t)options->top, options->layers, err);
        if (status != LP_OK) {
            lp_error_prefix(err, "standard input line %lld", (long long)number);
            goto out;
        }
        (void)fflush(stdout);
    }
    if (ferror(stdin)) status = lp_fail(err, LP_ERR_IO, "standard input: %s", strerror(errno));
out:
    free(line); /* from getline */
    return status;
}

static lp_status run(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const generate_options *options = given;
    generate_state generation = {0};
    lp_model_source source;
    int32_t max_new = 64;
    lp_status status = LP_OK;
    (void)out; /* each answer is printed at once */
    bool from_input = operands->n == (options->model.base ? 0 : 1);
    LP_CHECK(lp_model_options_check(&options->model, operands->n, from_input ? 0 : 1, "at most one question in quotes",
                                    err));
    generation.job.protocol = lp_protocol_preset(LP_PROTOCOL_CODI, 6);
    LP_TRY(lp_model_options_source(&options->model, operands->items[0], &generation.job, &source, err));
    if (!options->model.base) max_new = generation.job.decode.max_new_tokens;
    LP_TRY(open_all(&generation, &source, max_new, err));
    if (from_input) {
        status = answer_input(&generation, max_new, options, err);
        goto out;
    }
    LP_TRY(open_question(&generation, operands->items[operands->n - 1], max_new, err));
    status = answer(&generation, max_new, (int32_t)options->top, options->layers, err);
out:
    release(&generation);
    return status;
}

const lp_command lp_cmd_generate = {
    .name = "generate",
    .summary = "answer a question, with the top tokens of each thought",
    .usage = (const char *const[]){"JOB.json [QUESTION] [options]",
                                   "--base FOLDER [--codi PATH] [--lora-alpha A] [QUESTION] [options]", NULL},
    .description =
        "Answers a question under the job's protocol and shows the last question position and each thought "
        "through the logit lens: the most likely tokens after the last layer, with their log-probabilities. A "
        "model without CODI parts simply continues the text. Without a question, each line of standard input is one.",
    LP_OPTIONS(table, generate_options, .top = 5),
    LP_OPERANDS("a job file and at most one question in quotes", 0, 2),
    .run = run,
};
