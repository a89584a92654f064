/* Text from outside (file names, model output, names in files) made safe for a terminal. */
#ifndef LP_BASE_PRINTABLE_H
#define LP_BASE_PRINTABLE_H

#include "base/text.h"

typedef enum {
    LP_PRINT_LINE, /* a part of one line: a newline is escaped too */
    LP_PRINT_BLOCK /* whole lines: newlines and tabs stay */
} lp_print_layout;

/* Writes text [length] into out [room] with what a terminal could obey escaped: control characters as \n, \t, \r or
 * \x1b, those of U+007F to U+009F and the characters that turn the direction of writing as \u202e, bytes that are not
 * UTF-8 as \xff. out always ends with a NUL (and JSON
 * stays JSON, since cJSON itself escapes what is below U+0020); what does not fit is left off at the end of a
 * character. Returns the bytes that the whole would take, without the NUL; room 0 measures only (out may be NULL). */
size_t lp_printable(const char *text, size_t length, lp_print_layout layout, char *out, size_t room);

/* *out += the same. */
lp_status lp_text_add_printable(lp_text *out, const char *text, lp_print_layout layout, lp_error *err);

#endif
