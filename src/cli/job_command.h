/* What the commands on a job file share: MPI, arguments, the session, and the exits. */
#ifndef LP_CLI_JOB_COMMAND_H
#define LP_CLI_JOB_COMMAND_H

#include "cli/arguments.h"
#include "stage/session.h"

/* The options of every command on a job file; the first member of the command's own struct of options. */
typedef struct {
    lp_texts settings;
    bool verbose, quiet;
} lp_job_options;

#define LP_JOB_OPTIONS(type)                                                                                           \
    LP_SET_OPTION(type, job.settings),                                                                                 \
        {.name = "--verbose",                                                                                          \
         .kind = LP_OPTION_FLAG,                                                                                       \
         .offset = offsetof(type, job.verbose),                                                                        \
         .help = "more messages on standard error"},                                                                   \
    {                                                                                                                  \
        .name = "--quiet", .kind = LP_OPTION_FLAG, .offset = offsetof(type, job.quiet),                                \
        .help = "warnings and errors only"                                                                             \
    }

/* The body of a command; runs on all ranks. options: the command's struct, as lp_command_begin filled it. */
typedef lp_status (*lp_job_body)(lp_session *session, const void *options, lp_error *err);

/* Whether the command starts MPI. Without it one process answers, and signals end it at once. */
typedef enum { LP_JOB_WITH_MPI, LP_JOB_WITHOUT_MPI } lp_job_mpi;

/* Reads the command line into `options`, whose first member is lp_job_options, starts MPI, opens the session, runs the
 * body, and ends everything in order. A failure is printed once, by rank 0. */
int lp_job_command(const lp_command *command, int argc, char **argv, lp_job_options *options, lp_job_mpi mpi,
                   lp_job_body body);

#endif
