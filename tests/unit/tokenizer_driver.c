/* Runs the tokenizer for tests/tokenizer_random.py: texts come in on stdin, each a 32-bit little-endian length and that
 * many bytes; for each text go out the number of ids, the ids, the length of their decoding, and the decoding.
 *
 *   tokenizer_driver TOKENIZER.json plain|special all|skip
 */
#include "token/tokenizer.h"

#include "base/memory.h"

static lp_status run(const char *path, lp_token_special special, lp_decode_special skip, lp_error *err) {
    lp_status status = LP_OK;
    lp_tokenizer *tokenizer = NULL;
    lp_token_list ids = {0};
    lp_text decoded = {0};
    char *text = NULL;
    size_t capacity = 0;
    uint32_t length = 0;
    LP_TRY(lp_tokenizer_load(path, &tokenizer, err));
    while (fread(&length, sizeof length, 1, stdin) == 1) {
        LP_TRY(lp_mem_grow(&text, &capacity, length + 1u, 1, "text", err));
        if (fread(text, 1, length, stdin) != length) LP_FAIL(LP_ERR_IO, "stdin: ended inside of a text");
        ids.n = 0;
        lp_text_clear(&decoded);
        LP_TRY(lp_tokenizer_encode(tokenizer, text, length, special, &ids, err));
        LP_TRY(lp_tokenizer_decode(tokenizer, ids.ids, ids.n, skip, &decoded, err));
        uint32_t n = (uint32_t)ids.n, n_decoded = (uint32_t)decoded.length;
        fwrite(&n, sizeof n, 1, stdout);
        if (n) fwrite(ids.ids, sizeof *ids.ids, n, stdout);
        fwrite(&n_decoded, sizeof n_decoded, 1, stdout);
        fwrite(lp_text_get(&decoded), 1, n_decoded, stdout);
    }
    if (fflush(stdout) != 0) LP_FAIL(LP_ERR_IO, "stdout: cannot be written");
out:
    lp_mem_free(text);
    lp_text_release(&decoded);
    lp_token_list_release(&ids);
    lp_tokenizer_free(tokenizer);
    return status;
}

int main(int argc, char **argv) {
    lp_error error = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: tokenizer_driver TOKENIZER.json plain|special all|skip\n");
        return 2;
    }
    lp_status status = run(argv[1], strcmp(argv[2], "special") == 0 ? LP_TOKENS_WITH_SPECIAL : LP_TOKENS_PLAIN,
                           strcmp(argv[3], "skip") == 0 ? LP_DECODE_SKIP_SPECIAL : LP_DECODE_ALL, &error);
    if (status != LP_OK) fprintf(stderr, "tokenizer_driver: %s\n", error.text);
    return status == LP_OK ? 0 : 1;
}
