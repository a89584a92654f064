#include "cli/job_command.h"

#include "base/log.h"
#include "parallel/signals.h"

int lp_job_command(const lp_command *command, int argc, char **argv, lp_job_options *options, lp_job_body body) {
    lp_texts operands;
    lp_error error = {0}, *err = &error;
    lp_session session = {0};
    lp_parallel *parallel = NULL;
    int code = LP_EXIT_OK;
    if (!lp_command_begin(command, argc, argv, options, &operands, &code)) return code;
    lp_status status = lp_parallel_start(NULL, NULL, &parallel, err);
    if (status != LP_OK) return lp_exit_with(NULL, status, err);
    lp_log_setup(options->verbose ? LP_LOG_DEBUG
                 : options->quiet ? LP_LOG_WARN
                                  : LP_LOG_INFO,
                 lp_parallel_rank(parallel), lp_parallel_size(parallel));
    LP_TRY(lp_parallel_agree(parallel, lp_signals_install(err), err));
    LP_TRY(lp_session_open(parallel, operands.items[0], options->settings.items, options->settings.n, &session, err));
    LP_TRY(body(&session, options, err));
out:
    code = lp_exit_with(parallel, status, err);
    lp_session_close(&session);
    lp_parallel_finish(parallel);
    return code;
}
