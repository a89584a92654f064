/* White space, and the 256 "byte letters" in which byte-level BPE spells its tokens. */
#ifndef LP_TOKEN_UTF8_H
#define LP_TOKEN_UTF8_H

#include "base/utf8.h"

/* What Python's str.isspace and str.strip take for a space: Unicode's White_Space and U+001C to U+001F. */
bool lp_utf8_is_space(uint32_t code_point);

/* The letter that stands for a byte in tokenizer.json: printable Latin-1 for itself, the others from U+0100 on
 * (bytes_to_unicode of OpenAI's GPT-2 encoder). */
uint32_t lp_byte_letter(unsigned char byte);
/* The byte of a letter, or -1 when code_point is none of the 256. */
int lp_letter_byte(uint32_t code_point);

#endif
