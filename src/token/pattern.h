/* Pre-tokenization patterns: written for Oniguruma (which Hugging Face uses), run by PCRE2.
 *
 * The two differ in what a few constructs mean. A pattern is therefore translated, and whatever is not known to
 * mean the same is refused: \s is Unicode's White_Space (PCRE2's has U+180E too), and \p{L} and \p{N} are Unicode
 * 16's whatever Unicode PCRE2 was built with, so that the same text has the same tokens on every machine.
 * Immutable; several threads may match with one pattern, each with a lp_matcher of its own. */
#ifndef LP_TOKEN_PATTERN_H
#define LP_TOKEN_PATTERN_H

#include "base/error.h"

typedef struct lp_pattern lp_pattern;
typedef struct lp_matcher lp_matcher;

/* The pattern that HF's ByteLevel pre-tokenizer has built in (GPT-2's). */
extern const char lp_pattern_byte_level[];

/* source: Oniguruma, in UTF-8. Messages begin with `place` (file and JSON path). */
lp_status lp_pattern_new(const char *source, const char *place, lp_pattern **out, lp_error *err);
void lp_pattern_free(lp_pattern *pattern);

lp_status lp_matcher_new(lp_matcher **out, lp_error *err);
void lp_matcher_free(lp_matcher *matcher);

/* The first match in text[from..length), where text[0..length) is well-formed UTF-8: *found, and then
 * text[*start..*end). */
lp_status lp_pattern_find(const lp_pattern *pattern, lp_matcher *matcher, const char *text, size_t length, size_t from,
                          bool *found, size_t *start, size_t *end, lp_error *err);

#endif
