/* The BPE model: tokens by spelling and by id, merges by pair, and the merging itself.
 *
 * Tokens are spelt in byte letters (token/utf8.h). Filled once, then read-only. Agrees with models/bpe of the
 * `tokenizers` package: the pair of lowest rank is merged first, the leftmost among equals. */
#ifndef LP_TOKEN_BPE_H
#define LP_TOKEN_BPE_H

#include "base/text.h"
#include "token/tokenizer.h"

typedef struct {
    size_t at;       /* in spellings */
    uint32_t length; /* bytes */
    bool known;
} lp_bpe_token;

typedef struct {
    uint64_t pair; /* left id << 32 | right id */
    int32_t rank;
    int32_t merged; /* id; -1 marks a free slot */
} lp_bpe_merge;

typedef struct {
    lp_text spellings;    /* each with a final NUL */
    lp_bpe_token *tokens; /* [n_tokens], by id */
    size_t n_tokens;
    int32_t *by_spelling; /* [n_spelling_slots], open addressing; id or -1 */
    size_t n_spelling_slots;
    lp_bpe_merge *merges; /* [n_merge_slots], open addressing */
    size_t n_merge_slots;
    size_t n_vocab;          /* ids below are the model's own; added tokens follow */
    int32_t byte_token[256]; /* the token of each single byte; -1: none, such bytes are dropped */
    bool ignore_merges;
} lp_bpe;

/* Working memory of lp_bpe_encode, for reuse from piece to piece. {0} is empty. */
typedef struct {
    lp_text letters;
    struct lp_bpe_symbol *symbols;
    size_t symbols_capacity;
    struct lp_bpe_candidate *heap;
    size_t heap_capacity;
    size_t n_heap;
} lp_bpe_scratch;
void lp_bpe_scratch_release(lp_bpe_scratch *scratch);

/* Room for n_tokens ids, the first n_vocab of which are the model's, and n_merges merges. */
lp_status lp_bpe_init(lp_bpe *bpe, size_t n_vocab, size_t n_tokens, size_t n_merges, lp_error *err);
void lp_bpe_release(lp_bpe *bpe);

/* *added is false when the id or the spelling is taken; id < n_tokens. */
lp_status lp_bpe_add_token(lp_bpe *bpe, int32_t id, const char *spelling, bool *added, lp_error *err);
/* left, right, merged: ids. A pair that occurs again takes the later rank, as in HF. */
void lp_bpe_add_merge(lp_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t merged);
/* To be called after the model's own tokens are in: fills byte_token. */
void lp_bpe_find_bytes(lp_bpe *bpe);

/* The id of a spelling of `length` bytes, or -1. */
int32_t lp_bpe_find(const lp_bpe *bpe, const char *spelling, size_t length);
/* The spelling of an id, NUL-terminated; NULL where there is none. */
const char *lp_bpe_spelling(const lp_bpe *bpe, int32_t id);

/* Appends the tokens of one pre-token of raw bytes. length < 2^31. */
lp_status lp_bpe_encode(const lp_bpe *bpe, const char *bytes, size_t length, lp_bpe_scratch *scratch,
                        lp_token_list *out, lp_error *err);

#endif
