#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/reader.h"
#include "cli/arguments.h"
#include "token/tokenizer.h"

typedef struct {
    const lp_tokenizer *tokenizer;
    lp_token_special special;
    lp_token_list ids;
    size_t n_texts, n_tokens;
} token_printer;

static lp_status print_text(token_printer *printer, const char *text, size_t length, lp_error *err) {
    printer->ids.n = 0;
    LP_CHECK(lp_tokenizer_encode(printer->tokenizer, text, length, printer->special, &printer->ids, err));
    for (size_t i = 0; i < printer->ids.n; i++) printf(i ? " %d" : "%d", printer->ids.ids[i]);
    printf("\n");
    printer->n_texts++;
    printer->n_tokens += printer->ids.n;
    return LP_OK;
}

static lp_status print_jsonl(token_printer *printer, const char *file, const char *field, lp_error *err) {
    lp_mapped_file mapped = {0};
    lp_status status = lp_file_map(file, &mapped, err);
    if (status != LP_OK) return status;
    cJSON *document = NULL;
    char *where = NULL;
    size_t line = 0;
    const char *at = (const char *)mapped.data, *end = at + mapped.size;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t length = newline ? (size_t)(newline - at) : (size_t)(end - at);
        line++;
        if (length > 0) {
            lp_json root, value;
            lp_text name = {0};
            LP_TRY(lp_text_format(&name, err, "%s line %zu", file, line));
            lp_mem_free(where);
            where = name.data;
            LP_TRY(lp_json_parse(at, length, where, &document, &root, err));
            LP_TRY(lp_json_get(&root, field, &value, err));
            const char *text = NULL;
            LP_TRY(lp_json_string(&value, &text, err));
            LP_TRY(print_text(printer, text, strlen(text), err));
            cJSON_Delete(document);
            document = NULL;
        }
        at = newline ? newline + 1 : end;
    }
out:
    cJSON_Delete(document);
    lp_mem_free(where);
    lp_file_unmap(&mapped);
    return status;
}

typedef struct {
    const char *tokenizer, *jsonl, *field;
    bool no_special;
} tokenize_options;

static const lp_option table[] = {
    {.name = "--tokenizer",
     .kind = LP_OPTION_PATH,
     .offset = offsetof(tokenize_options, tokenizer),
     .value = "FILE",
     .help = "the tokenizer.json, or the folder of a model"},
    {.name = "--jsonl",
     .kind = LP_OPTION_FILE,
     .offset = offsetof(tokenize_options, jsonl),
     .value = "FILE",
     .help = "take the texts from the lines of a file, each a JSON object"},
    {.name = "--field",
     .kind = LP_OPTION_TEXT,
     .offset = offsetof(tokenize_options, field),
     .value = "NAME",
     .help = "with --jsonl: the key of the text"},
    {.name = "--no-special",
     .kind = LP_OPTION_FLAG,
     .offset = offsetof(tokenize_options, no_special),
     .help = "leave out what the tokenizer adds (LLaMA's begin of text)"},
};

static int run(const lp_command *command, int argc, char **argv) {
    tokenize_options options = {0};
    lp_texts operands;
    lp_error error = {0}, *err = &error;
    lp_tokenizer *tokenizer = NULL;
    lp_status status = LP_OK;
    int code = 0;
    if (!lp_command_begin(command, argc, argv, &options, &operands, &code)) return code;
    if (!options.tokenizer || !options.jsonl != !options.field || (options.jsonl ? operands.n > 0 : operands.n == 0)) {
        lp_fail(err, LP_ERR_USAGE, "expected --tokenizer FILE and texts, or --jsonl FILE with --field NAME");
        return lp_exit_usage(command, err);
    }
    token_printer printer = {.special = options.no_special ? LP_TOKENS_PLAIN : LP_TOKENS_WITH_SPECIAL};
    LP_TRY(lp_tokenizer_load(options.tokenizer, &tokenizer, err));
    printer.tokenizer = tokenizer;
    if (options.jsonl) LP_TRY(print_jsonl(&printer, options.jsonl, options.field, err));
    for (size_t i = 0; i < operands.n; i++)
        LP_TRY(print_text(&printer, operands.items[i], strlen(operands.items[i]), err));
    fprintf(stderr, "%zu %s, %zu %s\n", printer.n_texts, printer.n_texts == 1 ? "text" : "texts", printer.n_tokens,
            printer.n_tokens == 1 ? "token" : "tokens");
out:
    lp_token_list_release(&printer.ids);
    lp_tokenizer_free(tokenizer);
    return lp_exit_with(NULL, status, err);
}

const lp_command lp_cmd_tokenize = {
    .name = "tokenize",
    .summary = "the token ids of texts",
    .usage = (const char *const[]){"--tokenizer FILE TEXT... [--no-special]",
                                   "--tokenizer FILE --jsonl FILE --field NAME [--no-special]", NULL},
    .description = "Prints one line of token ids for each text, and a count on standard error.",
    .options = table,
    .n_options = sizeof table / sizeof table[0],
    .operands = "--tokenizer FILE and texts",
    .max_operands = LP_MAX_OPERANDS,
    .operand_kind = LP_OPERANDS_TEXT,
    .run = run,
};
