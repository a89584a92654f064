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
/* `name: path`, the path from the root of the file system. */
lp_status lp_print_path(const char *name, const char *path, lp_error *err);
/* Flushes standard output. Returns `code`, or LP_EXIT_ERROR with a line on stderr where something was lost and the
 * command itself went well. */
int lp_print_end(int code);

#endif
