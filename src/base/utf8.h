/* UTF-8 (RFC 3629) by code point.
 *
 * Ill-formed bytes are replaced as Python's errors="replace" and Rust's from_utf8_lossy do: one U+FFFD for each
 * maximal ill-formed subpart (Unicode, section 3.9). */
#ifndef LP_BASE_UTF8_H
#define LP_BASE_UTF8_H

#include "base/text.h"

enum { LP_UTF8_REPLACEMENT = 0xfffd };

/* The number of bytes, 1..4, of the sequence that bytes[0..size) starts with; size > 0. *code_point is its value,
 * or U+FFFD for an ill-formed subpart (then *well_formed is false). */
size_t lp_utf8_next(const char *bytes, size_t size, uint32_t *code_point, bool *well_formed);
/* Writes code_point (not a surrogate, below 0x110000) and returns its length, 1..4. */
size_t lp_utf8_put(uint32_t code_point, char out[4]);
/* Appends bytes[0..size) to *out with every ill-formed subpart replaced. */
lp_status lp_utf8_repair(const char *bytes, size_t size, lp_text *out, lp_error *err);

/* True when bytes[0..size) is well formed; otherwise *at is the offset of the first bad byte. */
bool lp_utf8_valid(const char *bytes, size_t size, size_t *at);

#endif
