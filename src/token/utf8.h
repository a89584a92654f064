/* UTF-8 by code point, and the 256 "byte letters" in which byte-level BPE spells its tokens.
 *
 * Ill-formed bytes are replaced as Python's errors="replace" and Rust's from_utf8_lossy do: one U+FFFD for each
 * maximal ill-formed subpart (Unicode, section 3.9). */
#ifndef LP_TOKEN_UTF8_H
#define LP_TOKEN_UTF8_H

#include "base/error.h"
#include "base/text.h"

enum { LP_UTF8_REPLACEMENT = 0xfffd };

/* The number of bytes, 1..4, of the sequence that bytes[0..size) starts with; size > 0. *code_point is its value,
 * or U+FFFD for an ill-formed subpart (then *well_formed is false). */
size_t lp_utf8_next(const char *bytes, size_t size, uint32_t *code_point, bool *well_formed);
/* Writes code_point (not a surrogate, below 0x110000) and returns its length, 1..4. */
size_t lp_utf8_put(uint32_t code_point, char out[4]);
/* Appends bytes[0..size) to *out with every ill-formed subpart replaced. */
lp_status lp_utf8_repair(const char *bytes, size_t size, lp_text *out, lp_error *err);

/* What Python's str.isspace and str.strip take for a space: Unicode's White_Space and U+001C to U+001F. */
bool lp_utf8_is_space(uint32_t code_point);

/* The letter that stands for a byte in tokenizer.json: printable Latin-1 for itself, the others from U+0100 on
 * (bytes_to_unicode of OpenAI's GPT-2 encoder). */
uint32_t lp_byte_letter(unsigned char byte);
/* The byte of a letter, or -1 when code_point is none of the 256. */
int lp_letter_byte(uint32_t code_point);

#endif
