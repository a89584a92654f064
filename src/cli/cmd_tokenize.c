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
    LP_VALUE(PATH, "--tokenizer", tokenize_options, tokenizer, "FILE", "the tokenizer.json, or the folder of a model"),
    LP_VALUE(FILE, "--jsonl", tokenize_options, jsonl, "FILE",
             "take the texts from the lines of a file, each a JSON object"),
    LP_VALUE(TEXT, "--field", tokenize_options, field, "NAME", "with --jsonl: the key of the text"),
    LP_FLAG("--no-special", tokenize_options, no_special, "leave out what the tokenizer adds (LLaMA's begin of text)"),
};

static lp_status run(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const tokenize_options *options = given;
    lp_tokenizer *tokenizer = NULL;
    lp_status status = LP_OK;
    (void)out; /* the lines of a file are printed one by one */
    if (!options->tokenizer || !options->jsonl != !options->field || !options->jsonl != (operands->n > 0))
        return lp_fail(err, LP_ERR_USAGE, "expected --tokenizer FILE and texts, or --jsonl FILE with --field NAME");
    token_printer printer = {.special = options->no_special ? LP_TOKENS_PLAIN : LP_TOKENS_WITH_SPECIAL};
    LP_TRY(lp_tokenizer_load(options->tokenizer, &tokenizer, err));
    printer.tokenizer = tokenizer;
    if (options->jsonl) LP_TRY(print_jsonl(&printer, options->jsonl, options->field, err));
    for (size_t i = 0; i < operands->n; i++)
        LP_TRY(print_text(&printer, operands->items[i], strlen(operands->items[i]), err));
    fprintf(stderr, "%zu %s, %zu %s\n", printer.n_texts, printer.n_texts == 1 ? "text" : "texts", printer.n_tokens,
            printer.n_tokens == 1 ? "token" : "tokens");
out:
    lp_token_list_release(&printer.ids);
    lp_tokenizer_free(tokenizer);
    return status;
}

const lp_command lp_cmd_tokenize = {
    .name = "tokenize",
    .summary = "the token ids of texts",
    .usage = (const char *const[]){"--tokenizer FILE TEXT... [--no-special]",
                                   "--tokenizer FILE --jsonl FILE --field NAME [--no-special]", NULL},
    .description = "Prints one line of token ids for each text, and a count on standard error.",
    LP_OPTIONS(table, tokenize_options, 0),
    LP_OPERANDS("--tokenizer FILE and texts", 0, LP_MAX_OPERANDS),
    .operand_kind = LP_OPERANDS_TEXT,
    .run = run,
};
