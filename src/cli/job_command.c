#include "cli/job_command.h"

#include "base/host.h"
#include "base/log.h"
#include "parallel/signals.h"

/* srun without PMIx starts processes that do not know of each other: each would do the whole job. */
static void warn_of_singletons(const lp_parallel *parallel, int rank, int launched) {
    if (lp_parallel_size(parallel) > 1 || launched == 1 || rank > 0) return;
    lp_log(
        LP_LOG_WARN,
        "the launcher started %d processes, but MPI connects none of them: each works alone. For one job on %d ranks, "
        "start them with srun --mpi=pmix (srun --mpi=list shows what there is) or with this MPI's own mpirun",
        launched, launched);
}

/* Where processes of one launch meet at a lock, the lock is not what is wrong. */
static void explain_busy(const lp_parallel *parallel, int launched, lp_status status, lp_error *err) {
    if (status != LP_ERR_BUSY || lp_parallel_size(parallel) > 1 || launched == 1) return;
    lp_error whole = {0};
    lp_fail(
        &whole, status,
        "%.900s. The launcher started %d processes that MPI did not connect (use srun --mpi=pmix): the other job may be "
        "one of them",
        err->text, launched);
    *err = whole;
}

static lp_status start(lp_job_mpi mpi, lp_parallel **out, lp_error *err) {
    enum { MPI_BYTES = 448 << 20 }; /* of address space: threads, shared segments, HDF5 */
    if (mpi == LP_JOB_WITH_MPI) LP_CHECK(lp_host_check_address_space(MPI_BYTES, "MPI", err));
    return mpi == LP_JOB_WITHOUT_MPI ? lp_parallel_alone(out, err) : lp_parallel_start(NULL, NULL, out, err);
}

const lp_option lp_job_option_table[LP_N_JOB_OPTIONS] = {
    LP_SET_OPTION(lp_job_options, settings),
    LP_FLAG("--verbose", lp_job_options, verbose, "more messages on standard error"),
    LP_FLAG("--quiet", lp_job_options, quiet, "warnings and errors only"),
    LP_FLAG(
        "--all", lp_job_options, all,
        "a line for every condition, with intervals, instead of the grid; of plan: each cell that is known beforehand"),
};

int lp_job_command(const lp_command *command, int argc, char **argv) {
    lp_job_options options = {0};
    lp_job_mpi mpi = command->job->mpi;
    lp_texts operands;
    lp_error error = {0}, *err = &error;
    lp_session session = {0};
    lp_parallel *parallel = NULL;
    /* Looked at now, because MPI sets such variables itself. */
    int rank = lp_parallel_launched_rank(), launched = lp_parallel_launched_size();
    int code = LP_EXIT_OK;
    if (!lp_command_begin(command, argc, argv, &options, &operands, &code)) return code;
    /* Under a launcher one process of a command without MPI is enough. */
    if (mpi == LP_JOB_WITHOUT_MPI && rank > 0) return LP_EXIT_OK;
    lp_status status = start(mpi, &parallel, err);
    if (status != LP_OK) return lp_exit_with(NULL, status, err);
    lp_log_setup(options.verbose ? LP_LOG_DEBUG
                 : options.quiet ? LP_LOG_WARN
                                 : LP_LOG_INFO,
                 lp_parallel_rank(parallel), lp_parallel_size(parallel));
    if (mpi == LP_JOB_WITH_MPI) {
        warn_of_singletons(parallel, rank, launched);
        LP_TRY(lp_parallel_agree(parallel, lp_signals_install(err), err));
    }
    LP_TRY(lp_session_open(parallel, mpi == LP_JOB_WITH_MPI ? LP_FOR_COMPUTING : LP_FOR_PLANNING, operands.items[0],
                           options.settings.items, options.settings.n, &session, err));
    LP_TRY(command->job->body(&session, &options, err));
out:
    explain_busy(parallel, launched, status, err);
    code = lp_exit_with(parallel, status, err);
    lp_signals_outcome(code);
    lp_session_close(&session);
    lp_parallel_finish(parallel);
    return code;
}
