#include "cli/model_options.h"

#include "base/log.h"

enum { DEFAULT_ALPHA = 32 };

lp_status lp_model_options_check(const lp_model_options *options, size_t n_operands, size_t n_more, const char *more,
                                 lp_error *err) {
    if (!options->base && (options->codi || options->lora_alpha > 0))
        return lp_fail(err, LP_ERR_USAGE, "%s needs --base: with a job file, use --set %s",
                       options->codi ? "--codi" : "--lora-alpha",
                       options->codi ? "model.codi=PATH" : "model.lora.alpha=A");
    if (options->base && options->settings.n > 0)
        return lp_fail(err, LP_ERR_USAGE, "--set changes a job file: expected one instead of --base");
    size_t wanted = n_more + (options->base ? 0 : 1);
    if (n_operands != wanted)
        return lp_fail(err, LP_ERR_USAGE, "expected %s%s%s, found %zu operand%s",
                       options->base ? "--base FOLDER" : "a job file",
                       n_more > 0      ? " and "
                       : options->base ? " alone"
                                       : " or --base FOLDER",
                       n_more > 0 ? more : "", n_operands, n_operands == 1 ? "" : "s");
    return LP_OK;
}

lp_status lp_model_options_source(const lp_model_options *options, const char *job_file, lp_job *job,
                                  lp_model_source *out, lp_error *err) {
    if (options->base) {
        if (options->codi && options->lora_alpha <= 0)
            lp_log(LP_LOG_WARN,
                   "Using alpha = %d. The checkpoint does not record alpha, so check this value "
                   "(--lora-alpha).",
                   DEFAULT_ALPHA);
        *out = (lp_model_source){.base = options->base,
                                 .codi = options->codi,
                                 .lora_alpha = options->lora_alpha > 0 ? options->lora_alpha : DEFAULT_ALPHA};
        return LP_OK;
    }
    lp_status status = lp_job_load(job_file, options->settings.items, options->settings.n, job, err);
    if (status == LP_OK)
        *out = (lp_model_source){.base = job->model.base,
                                 .codi = job->model.codi,
                                 .lora_rank = job->model.lora_rank,
                                 .lora_alpha = job->model.lora_alpha,
                                 .base_rounding = job->model.base_rounding};
    return status;
}
