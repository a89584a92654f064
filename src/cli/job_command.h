/* What the commands on a job file share: MPI, arguments, the session, and the exits. */
#ifndef LP_CLI_JOB_COMMAND_H
#define LP_CLI_JOB_COMMAND_H

#include "cli/arguments.h"
#include "stage/session.h"

/* The body of a command; runs on all ranks. */
typedef lp_status (*lp_job_body)(lp_session *session, lp_error *err);

/* Reads `JOB.json [--set section.key=value]... [--verbose]`, starts MPI, opens the session, runs the body, and ends
 * everything in order. A failure is printed once, by rank 0. */
int lp_job_command(const char *name, const char *help, int argc, char **argv, lp_job_body body);

#endif
