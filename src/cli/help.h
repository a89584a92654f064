/* What the table of commands says, for people: help, version, manual page, and scripts for the completion of shells. */
#ifndef LP_CLI_HELP_H
#define LP_CLI_HELP_H

#include "cli/arguments.h"

/* *out += the help of one command, of the commands whose name begins with a word ("pairs"), and of the program. */
lp_status lp_help_command(const lp_command *command, lp_text *out, lp_error *err);
lp_status lp_help_group(const char *word, lp_text *out, lp_error *err);
lp_status lp_help_program(lp_text *out, lp_error *err);
/* *out += "latentpatch 0.2.0 (revision), compiler, flags". */
lp_status lp_help_version(lp_text *out, lp_error *err);
/* *out += the option's help with its range or choices. */
lp_status lp_help_option(const lp_option *option, lp_text *out, lp_error *err);
/* *out += a paragraph filled to lines of `width` bytes, those after the first begin with `indent` blanks; `used` bytes
 * of the first line are taken. */
lp_status lp_help_fill(const char *paragraph, size_t indent, size_t used, size_t width, lp_text *out, lp_error *err);

/* *out += a manual page, section 1, in the language of man(7). */
lp_status lp_manual(lp_text *out, lp_error *err);

typedef enum { LP_SHELL_BASH, LP_SHELL_ZSH, LP_SHELL_FISH } lp_shell;
extern const char *const lp_shell_names[]; /* NULL-terminated */
/* *out += a script that teaches the shell to complete command lines. */
lp_status lp_completion(lp_shell shell, lp_text *out, lp_error *err);

#endif
