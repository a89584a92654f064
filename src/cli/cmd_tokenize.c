#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/reader.h"
#include "cli/arguments.h"
#include "token/tokenizer.h"

static const char help[] =
    "usage: latentpatch tokenize --tokenizer tokenizer.json TEXT... [--no-special]\n"
    "       latentpatch tokenize --tokenizer tokenizer.json --jsonl FILE --field NAME [--no-special]\n\n"
    "Prints one line of token ids per text, and a count on stderr. --no-special leaves out what the tokenizer adds (LLaMA's\n"
    "begin of text).\n";

typedef struct {
    const lp_tokenizer *tokenizer;
    lp_token_special special;
    lp_token_list ids;
    size_t n_texts, n_tokens;
} printer;

static lp_status print_text(printer *p, const char *text, size_t length, lp_error *err) {
    p->ids.n = 0;
    lp_status status = lp_tokenizer_encode(p->tokenizer, text, length, p->special, &p->ids, err);
    if (status != LP_OK) return status;
    for (size_t i = 0; i < p->ids.n; i++) printf(i ? " %d" : "%d", p->ids.ids[i]);
    printf("\n");
    p->n_texts++;
    p->n_tokens += p->ids.n;
    return LP_OK;
}

static lp_status print_jsonl(printer *p, const char *file, const char *field, lp_error *err) {
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
            LP_TRY(print_text(p, text, strlen(text), err));
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

int lp_cmd_tokenize(int argc, char **argv) {
    const char *tokenizer_path = NULL, *jsonl = NULL, *field = NULL;
    bool no_special = false;
    const lp_option options[] = {{.name = "--tokenizer", .value = &tokenizer_path},
                                 {.name = "--jsonl", .value = &jsonl},
                                 {.name = "--field", .value = &field},
                                 {.name = "--no-special", .flag = &no_special}};
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    lp_tokenizer *tokenizer = NULL;
    lp_status status = LP_OK;
    if (lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err) != LP_OK)
        return lp_exit_usage("tokenize", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    if (!tokenizer_path || (jsonl ? !field || operands.n > 0 : operands.n == 0)) {
        lp_fail(err, LP_ERR_USAGE, "expected --tokenizer FILE and texts, or --jsonl FILE with --field NAME");
        return lp_exit_usage("tokenize", err);
    }
    printer p = {.special = no_special ? LP_TOKENS_PLAIN : LP_TOKENS_WITH_SPECIAL};
    LP_TRY(lp_tokenizer_load(tokenizer_path, &tokenizer, err));
    p.tokenizer = tokenizer;
    if (jsonl) LP_TRY(print_jsonl(&p, jsonl, field, err));
    for (size_t i = 0; i < operands.n; i++)
        LP_TRY(print_text(&p, operands.operands[i], strlen(operands.operands[i]), err));
    fprintf(stderr, "%zu %s, %zu %s\n", p.n_texts, p.n_texts == 1 ? "text" : "texts", p.n_tokens,
            p.n_tokens == 1 ? "token" : "tokens");
out:
    lp_token_list_release(&p.ids);
    lp_tokenizer_free(tokenizer);
    return lp_exit_with(NULL, status, err);
}
