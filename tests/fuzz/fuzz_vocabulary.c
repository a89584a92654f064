/* Fuzzes the older files of a tokenizer, one after the other with a NUL between them: vocab.json, merges.txt and, where
 * there is a third part, tokenizer_config.json. What is accepted is parsed as the tokenizer.json that it was made into.
 */
#include "token/tokenizer.h"
#include "token/tokenizer_files.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static lp_tokenizer_file take(const char **at, const char *end) {
    const char *stop = *at < end ? memchr(*at, 0, (size_t)(end - *at)) : NULL;
    lp_tokenizer_file part = {*at, (size_t)((stop ? stop : end) - *at)};
    *at = stop ? stop + 1 : NULL;
    return part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *at = size ? (const char *)data : "", *end = at + size;
    const lp_tokenizer_file none = {NULL, 0}, empty = {"", 0};
    lp_error error = {0};
    lp_text text = {0};
    lp_tokenizer *tokenizer = NULL;
    lp_tokenizer_file vocab = take(&at, end);
    lp_tokenizer_file merges = at ? take(&at, end) : empty;
    lp_tokenizer_file config = at ? (lp_tokenizer_file){at, (size_t)(end - at)} : none;
    if (lp_tokenizer_compose_parse("fuzz", vocab, merges, config, &text, &error) != LP_OK)
        LP_ASSERT(error.text[0] != '\0' && text.length == 0);
    else if (lp_tokenizer_parse(text.data, text.length, "fuzz", &tokenizer, &error) != LP_OK)
        LP_ASSERT(error.text[0] != '\0' && !tokenizer);
    lp_tokenizer_free(tokenizer);
    lp_text_release(&text);
    return 0;
}
