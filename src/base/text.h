/* Text that grows: a byte string with its length, always NUL-terminated once anything was added. */
#ifndef LP_BASE_TEXT_H
#define LP_BASE_TEXT_H

#include "base/error.h"

typedef struct {
    char *data; /* NULL while empty; otherwise data[length] == 0 */
    size_t length;
    size_t capacity;
} lp_text;

/* {0} is an empty text. */
lp_status lp_text_add(lp_text *text, const char *bytes, size_t length, lp_error *err);
/* The same with U+FFFD for each NUL, which would end the text in a C string, and so in one of HDF5. */
lp_status lp_text_add_without_nul(lp_text *text, const char *bytes, size_t length, lp_error *err);
/* The same for a C string. */
lp_status lp_text_put(lp_text *text, const char *string, lp_error *err);
lp_status lp_text_format(lp_text *text, lp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* *out = the text of the format; caller frees with lp_mem_free. */
lp_status lp_mem_format(char **out, lp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Adds a JSON string, quotes included. */
lp_status lp_json_quote(const char *string, lp_text *out, lp_error *err);
/* Adds the format, in which each %s becomes a JSON string, quotes included; no other conversion is known. */
lp_status lp_json_format(lp_text *out, lp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Adds one field of a CSV line, quoted where RFC 4180 asks for it. */
lp_status lp_csv_quote(const char *field, lp_text *out, lp_error *err);
/* The text as a C string; "" while empty. Borrowed. */
const char *lp_text_get(const lp_text *text);
/* Length 0, memory kept. */
void lp_text_clear(lp_text *text);
void lp_text_release(lp_text *text);

/* Adds to the C string in out [size]; what does not fit is cut. */
void lp_append(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
void lp_append_args(char *out, size_t size, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

#endif
