/* Standard output of every command: texts from outside with their control characters escaped, and an error where it
 * could not be written. */
#ifndef LP_CLI_PRINT_H
#define LP_CLI_PRINT_H

#include "base/printable.h"

/* Opens the standard streams that the caller left closed, so that no file of ours gets their numbers and is written by
 * a printf; what is printed to such a stream is an error at the end. */
void lp_print_begin(void);
/* Prints a text as base/printable.h shows it. Local. */
lp_status lp_print(const char *text, lp_print_layout layout, lp_error *err);
/* The same for bytes, which may hold NULs. Local. */
lp_status lp_print_bytes(const char *bytes, size_t length, lp_print_layout layout, lp_error *err);
/* Prints a text of ours as it is: what came from outside in it was escaped when it was made. Local. */
void lp_print_ours(const char *text);
/* Columns of the terminal that standard output is, or 100; and whether it knows the colours of xterm's 256 (NO_COLOR in
 * the environment says no). */
int lp_print_width(void);
bool lp_print_has_shades(void);
/* `name: path`, the path from the root of the file system. */
lp_status lp_print_path(const char *name, const char *path, lp_error *err);
/* Flushes standard output. Returns `code`, or LP_EXIT_ERROR with a line on stderr where something was lost and the
 * command itself went well. */
int lp_print_end(int code);

#endif
