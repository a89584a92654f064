/* The commands of the program: one file each, one table (commands.c). Only this folder prints results and errors. */
#ifndef LP_CLI_COMMANDS_H
#define LP_CLI_COMMANDS_H

#include "base/error.h"
#include "parallel/parallel.h"

/* Exit codes of the program. */
enum {
    LP_EXIT_OK = 0,
    LP_EXIT_ERROR = 1,
    LP_EXIT_USAGE = 2,
    LP_EXIT_STOPPED = 75 /* ended early on request, everything done is kept; the Slurm scripts requeue on it */
};

typedef struct lp_command lp_command; /* arguments.h */

extern const lp_command lp_cmd_run, lp_cmd_cache, lp_cmd_sweep, lp_cmd_summary, lp_cmd_plan, lp_cmd_init,
    lp_cmd_inspect, lp_cmd_tokenize, lp_cmd_generate, lp_cmd_pairs_make, lp_cmd_pairs_check, lp_cmd_pairs_convert,
    lp_cmd_store_info, lp_cmd_store_verify, lp_cmd_store_archive, lp_cmd_store_export, lp_cmd_store_merge,
    lp_cmd_completion, lp_cmd_man;

#endif
