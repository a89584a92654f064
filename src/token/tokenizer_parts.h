/* What a tokenizer is made of; shared by its reader (tokenizer_json.c) and its user (tokenizer.c) only. */
#ifndef LP_TOKEN_TOKENIZER_PARTS_H
#define LP_TOKEN_TOKENIZER_PARTS_H

#include "base/digest.h"
#include "token/bpe.h"
#include "token/pattern.h"
#include "token/tokenizer.h"

enum { LP_TOKENIZER_MAX_STEPS = 8 };

typedef struct {
    int32_t id;
    size_t length; /* bytes of its spelling, at least 1 */
    bool special;
    bool single_word; /* only where no word character touches it */
    bool lstrip;      /* swallows the white space before it */
    bool rstrip;
    bool normalized; /* looked for after normalization, so after those that are not */
} lp_added_token;

/* One pre-tokenizer: put a space in front of a piece that has none, then cut the piece into matches and gaps. */
typedef struct {
    bool prefix_space;
    lp_pattern *pattern; /* owned; NULL: no cutting */
} lp_pretoken_step;

struct lp_tokenizer {
    lp_bpe bpe;
    lp_added_token *added; /* [n_added], longest first */
    size_t n_added;
    bool added_starts[256]; /* bytes that an added token may begin with */
    bool *special;          /* [bpe.n_tokens] */
    lp_pattern *word;       /* a word character at the start of text; NULL where no token asks for it */
    bool clean_up;          /* of decoded answers */
    bool nfc;               /* texts are normalized, after the added tokens that are looked for before */
    lp_pretoken_step steps[LP_TOKENIZER_MAX_STEPS];
    size_t n_steps;
    lp_token_list before; /* what the post-processor puts around a text */
    lp_token_list after;
    char digest[LP_SHA256_HEX];
};

/* Fills a zeroed tokenizer from the text of a tokenizer.json; on failure the caller releases what was made. */
lp_status lp_tokenizer_read(const char *text, size_t size, const char *name, lp_tokenizer *tokenizer, lp_error *err);

#endif
