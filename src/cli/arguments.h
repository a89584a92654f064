/* Command lines: options and operands, and the exits that all commands share. */
#ifndef LP_CLI_ARGUMENTS_H
#define LP_CLI_ARGUMENTS_H

#include "cli/commands.h"

enum { LP_MAX_OPERANDS = 64 };

/* One option of a command. Either a flag (value NULL) or one with a value; `values` collects an option that may be
 * repeated. */
typedef struct {
    const char *name; /* "--set" */
    bool *flag;
    const char **value;
    const char **values; /* [LP_MAX_OPERANDS] */
    size_t *n_values;
} lp_option;

typedef struct {
    const char *operands[LP_MAX_OPERANDS];
    size_t n;
    bool help; /* --help or -h was given */
} lp_operands;

/* Reads argv [argc] by the table `options` [n]; the rest are operands. `--name value` and `--name=value` are the same;
 * what follows
 * `--` is operands. Fails with LP_ERR_USAGE on an unknown option and on a missing value. */
lp_status lp_arguments_read(int argc, char **argv, const lp_option *options, size_t n, lp_operands *out, lp_error *err);

/* Prints `latentpatch: error: ...` (rank 0 only where parallel is given) and returns the exit code of the status. */
int lp_exit_with(const lp_parallel *parallel, lp_status status, const lp_error *err);
/* Usage errors of a command: the error and where to find help. */
int lp_exit_usage(const char *command, const lp_error *err);

#endif
