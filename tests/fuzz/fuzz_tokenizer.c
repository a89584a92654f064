/* Fuzzes the reader of tokenizer.json, and encoding and decoding. Input that begins with '{' is a tokenizer.json,
 * which, if it is accepted, encodes its own text; other input is a text for the tokenizers of the fixtures. */
#include "token/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void round_trip(const lp_tokenizer *tokenizer, const char *text, size_t size) {
    lp_error error = {0};
    lp_token_list ids = {0};
    lp_text decoded = {0};
    if (lp_tokenizer_encode(tokenizer, text, size, LP_TOKENS_WITH_SPECIAL, &ids, &error) == LP_OK) {
        for (size_t i = 0; i < ids.n; i++) LP_ASSERT(lp_tokenizer_spelling(tokenizer, ids.ids[i]) != NULL);
        LP_ASSERT(lp_tokenizer_decode(tokenizer, ids.ids, ids.n, LP_DECODE_ALL, &decoded, &error) == LP_OK);
        LP_ASSERT(lp_tokenizer_decode(tokenizer, ids.ids, ids.n, LP_DECODE_SKIP_SPECIAL, &decoded, &error) == LP_OK);
    } else {
        LP_ASSERT(error.text[0] != '\0' && ids.n == 0);
    }
    lp_text_release(&decoded);
    lp_token_list_release(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static lp_tokenizer *known[2];
    lp_error error = {0};
    const char *text = size ? (const char *)data : "";
    for (size_t i = 0; i < 2 && !known[i]; i++) {
        const char *path = i ? LP_SOURCE_DIR "/tests/fixtures/tokenizer_llama.json"
                             : LP_SOURCE_DIR "/tests/fixtures/tokenizer_gpt2.json";
        LP_ASSERT(lp_tokenizer_load(path, &known[i], &error) == LP_OK);
    }
    if (size == 0 || text[0] != '{') {
        for (size_t i = 0; i < 2; i++) round_trip(known[i], text, size);
        return 0;
    }
    lp_tokenizer *tokenizer = NULL;
    if (lp_tokenizer_parse(text, size, "fuzz", &tokenizer, &error) == LP_OK)
        round_trip(tokenizer, text, size);
    else
        LP_ASSERT(error.text[0] != '\0' && !tokenizer);
    lp_tokenizer_free(tokenizer);
    return 0;
}
