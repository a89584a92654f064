/* Unicode normalization form C (UAX #15), with the tables that the `tokenizers` package has. */
#ifndef LP_TOKEN_NFC_H
#define LP_TOKEN_NFC_H

#include "base/error.h"
#include "base/text.h"

/* Appends text[0..length), which is well-formed UTF-8, in normalization form C. */
lp_status lp_nfc(const char *text, size_t length, lp_text *out, lp_error *err);

#endif
