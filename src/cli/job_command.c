#include "cli/job_command.h"

#include "base/log.h"
#include "parallel/signals.h"

int lp_job_command(const char *name, const char *help, int argc, char **argv, lp_job_body body) {
    const char *settings[LP_MAX_OPERANDS];
    size_t n_settings = 0;
    bool verbose = false, quiet = false;
    const lp_option options[] = {{.name = "--set", .values = settings, .n_values = &n_settings},
                                 {.name = "--verbose", .flag = &verbose},
                                 {.name = "--quiet", .flag = &quiet}};
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    lp_session session = {0};
    lp_parallel *parallel = NULL;
    if (lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err) != LP_OK)
        return lp_exit_usage(name, err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    if (operands.n != 1) {
        lp_fail(err, LP_ERR_USAGE, "expected one job file, found %zu operands", operands.n);
        return lp_exit_usage(name, err);
    }
    lp_status status = lp_parallel_start(NULL, NULL, &parallel, err);
    if (status != LP_OK) return lp_exit_with(NULL, status, err);
    lp_log_setup(verbose ? LP_LOG_DEBUG
                 : quiet ? LP_LOG_WARN
                         : LP_LOG_INFO,
                 lp_parallel_rank(parallel), lp_parallel_size(parallel));
    LP_TRY(lp_parallel_agree(parallel, lp_signals_install(err), err));
    LP_TRY(lp_session_open(parallel, operands.operands[0], settings, n_settings, &session, err));
    LP_TRY(body(&session, err));
out:;
    int code = lp_exit_with(parallel, status, err);
    lp_session_close(&session);
    lp_parallel_finish(parallel);
    return code;
}
