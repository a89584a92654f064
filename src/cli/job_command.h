/* What the commands on a job file share: MPI, arguments, the session, and the exits. */
#ifndef LP_CLI_JOB_COMMAND_H
#define LP_CLI_JOB_COMMAND_H

#include "cli/arguments.h"
#include "stage/session.h"

/* The options of the commands on a job file. */
typedef struct {
    lp_texts settings;
    bool verbose, quiet;
    bool all; /* print every condition */
} lp_job_options;

/* Of the table, commands that print no conditions take all but the last, `--all`. */
enum { LP_N_JOB_OPTIONS = 4 };
extern const lp_option lp_job_option_table[LP_N_JOB_OPTIONS];

/* Whether the command starts MPI. Without it one process answers, and signals end it at once. */
typedef enum { LP_JOB_WITH_MPI, LP_JOB_WITHOUT_MPI } lp_job_mpi;

/* What a command on a job file does besides what all of them share. The body runs on all ranks. */
typedef struct lp_job_form {
    lp_status (*body)(lp_session *session, const lp_job_options *options, lp_error *err);
    lp_job_mpi mpi;
} lp_job_form;

/* The members of lp_command that the commands on a job file share; the rest are its own words. */
#define LP_JOB_COMMAND(job_body, job_mpi, n_of_the_options)                                                            \
    .usage = (const char *const[]){"JOB.json [options]", NULL}, .options = lp_job_option_table,                        \
    .n_options = (n_of_the_options), LP_OPERANDS("one job file", 1, 1), .job = &(const lp_job_form) {                  \
        .body = (job_body), .mpi = (job_mpi)                                                                           \
    }

/* Reads the command line, starts MPI, opens the session, runs the body of command->job, and ends everything in order.
 * A failure is printed once, by rank 0. */
int lp_job_command(const lp_command *command, int argc, char **argv);

#endif
