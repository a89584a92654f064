/* Byte-level BPE tokenizers from Hugging Face's tokenizer.json: GPT-2 and LLaMA-3 (and whatever is built of the same
 * parts: ByteLevel or Split+ByteLevel pre-tokenizer, BPE model, TemplateProcessing, ByteLevel decoder).
 *
 * A tokenizer is immutable after loading and may be used by several threads at once. A part of the file that is not
 * understood is an error that names it, never ignored. Agrees with the `tokenizers` package, token for token. */
#ifndef LP_TOKEN_TOKENIZER_H
#define LP_TOKEN_TOKENIZER_H

#include "base/error.h"
#include "base/text.h"

typedef struct lp_tokenizer lp_tokenizer;

/* path: tokenizer.json, or a folder that holds one, or else vocab.json and merges.txt (tokenizer_files.h). */
lp_status lp_tokenizer_load(const char *path, lp_tokenizer **out, lp_error *err);
/* The same from memory; `name` is for messages. The fuzz target. */
lp_status lp_tokenizer_parse(const char *text, size_t size, const char *name, lp_tokenizer **out, lp_error *err);
void lp_tokenizer_free(lp_tokenizer *tokenizer);

/* With: what the post-processor adds (LLaMA-3: BOS in front). Special tokens that stand in the text are recognised
 * either way, as the HF library does by default. */
typedef enum { LP_TOKENS_PLAIN, LP_TOKENS_WITH_SPECIAL } lp_token_special;

typedef struct {
    int32_t *ids;
    size_t n;
    size_t capacity;
} lp_token_list; /* {0} is empty; release frees */
lp_status lp_token_list_add(lp_token_list *list, const int32_t *ids, size_t n, lp_error *err);
void lp_token_list_release(lp_token_list *list);

/* Appends the ids of text[0..length) to *out. Bytes that are not UTF-8 are taken as HF does after decoding with
 * errors="replace" (U+FFFD). */
lp_status lp_tokenizer_encode(const lp_tokenizer *tokenizer, const char *text, size_t length, lp_token_special special,
                              lp_token_list *out, lp_error *err);

/* ANSWER: without special tokens, and cleaned up where tokenizer_config.json says clean_up_tokenization_spaces, as
 * transformers decodes: no blank in front of . ? ! , and English contractions. */
typedef enum { LP_DECODE_ALL, LP_DECODE_SKIP_SPECIAL, LP_DECODE_ANSWER } lp_decode_special;
/* Appends the text of ids[0..n) to *out; byte sequences that are not UTF-8 become U+FFFD, as in HF. Ids that the
 * tokenizer does not know (CODI's three tokens) give nothing. */
lp_status lp_tokenizer_decode(const lp_tokenizer *tokenizer, const int32_t *ids, size_t n, lp_decode_special special,
                              lp_text *out, lp_error *err);

int32_t lp_tokenizer_size(const lp_tokenizer *tokenizer); /* highest id + 1 */
/* The id of a token or added token spelt as in tokenizer.json; -1 where there is none. */
int32_t lp_tokenizer_find(const lp_tokenizer *tokenizer, const char *token);
/* The token as tokenizer.json spells it; NULL for an unknown id. Borrowed. */
const char *lp_tokenizer_spelling(const lp_tokenizer *tokenizer, int32_t id);
/* True for added tokens marked special. */
bool lp_tokenizer_is_special(const lp_tokenizer *tokenizer, int32_t id);
/* What LP_DECODE_ANSWER does beyond SKIP_SPECIAL. */
bool lp_tokenizer_cleans_up(const lp_tokenizer *tokenizer);
/* SHA-256 (64 hex digits) of the file that was read; for provenance. Borrowed. */
const char *lp_tokenizer_digest(const lp_tokenizer *tokenizer);

#endif
