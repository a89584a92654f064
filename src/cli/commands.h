/* The commands of the program: one file each, one table (main.c). Only this folder prints results and errors. */
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

/* Each gets the arguments behind its own word and returns the exit code. */
int lp_cmd_inspect(int argc, char **argv);
int lp_cmd_tokenize(int argc, char **argv);
int lp_cmd_generate(int argc, char **argv);
int lp_cmd_pairs(int argc, char **argv);
int lp_cmd_plan(int argc, char **argv);
int lp_cmd_cache(int argc, char **argv);
int lp_cmd_sweep(int argc, char **argv);
int lp_cmd_run(int argc, char **argv);
int lp_cmd_summary(int argc, char **argv);
int lp_cmd_store(int argc, char **argv);

#endif
