#include "problems/pair_options.h"

#include "problems/pair_write.h"

void lp_made_release(lp_made *made) {
    lp_pairs_release(&made->set);
    *made = (lp_made){0};
}

lp_status lp_pair_count_tokens(const lp_named_tokenizer *tokenizers, size_t n, const char *clean, const char *corrupted,
                               bool *equal, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_token_list list = {0};
    *equal = true;
    LP_TRY(lp_text_add(out, "{", 1, err));
    for (size_t i = 0; i < n; i++) {
        size_t counts[2];
        const char *const texts[] = {clean, corrupted};
        for (size_t k = 0; k < 2; k++) {
            list.n = 0;
            LP_TRY(lp_tokenizer_encode(tokenizers[i].tokenizer, texts[k], strlen(texts[k]), LP_TOKENS_WITH_SPECIAL,
                                       &list, err));
            counts[k] = list.n;
        }
        *equal = *equal && counts[0] == counts[1];
        if (i > 0) LP_TRY(lp_text_add(out, ", ", 2, err));
        LP_TRY(lp_json_quote(tokenizers[i].name, out, err));
        LP_TRY(lp_text_format(out, err, ": [%zu, %zu]", counts[0], counts[1]));
    }
    LP_TRY(lp_text_add(out, "}", 1, err));
out:
    lp_token_list_release(&list);
    return status;
}
