/* The distinct answers of a results file, numbered in the order of first use: the tokens of each and their text. The
 * text of an answer is decoded once. A hash table over the token bytes; memory grows with the number of distinct
 * answers only. */
#ifndef LP_STORE_ANSWERS_H
#define LP_STORE_ANSWERS_H

#include "base/text.h"

/* Adds the text of tokens [n], without special tokens, to *out. */
typedef lp_status lp_decode_answer(void *state, const int32_t *tokens, size_t n, lp_text *out, lp_error *err);

typedef struct {
    int32_t *tokens; /* of all answers, one after the other */
    size_t n_tokens;
    size_t token_capacity;
    int64_t *offset; /* [n + 1] into tokens */
    size_t offset_capacity;
    lp_text text;         /* of all answers, each with its NUL at the end and U+FFFD for others */
    size_t *text_offset;  /* [n] */
    size_t text_capacity; /* of text_offset */
    int32_t n;
    int32_t *slots; /* [n_slots] answer + 1, or 0; n_slots is a power of two */
    size_t n_slots;
    lp_decode_answer *decode;
    void *state;
} lp_answers;

lp_status lp_answers_init(lp_answers *answers, lp_decode_answer *decode, void *state, lp_error *err);
void lp_answers_release(lp_answers *answers);
/* *index = number of the answer; a new one where these tokens were not seen before. */
lp_status lp_answers_add(lp_answers *answers, const int32_t *tokens, size_t n, int32_t *index, lp_error *err);
/* Borrowed until the next lp_answers_add. */
const char *lp_answers_text(const lp_answers *answers, int32_t index);

#endif
