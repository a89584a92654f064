/* Commands that read one model: a job file names it, or --base, --codi and --lora-alpha do. */
#ifndef LP_CLI_MODEL_OPTIONS_H
#define LP_CLI_MODEL_OPTIONS_H

#include "cli/arguments.h"
#include "job/job.h"

typedef struct {
    const char *base, *codi;
    double lora_alpha; /* 0: not given */
    lp_texts settings;
} lp_model_options;

#define LP_MODEL_OPTIONS(type)                                                                                         \
    LP_VALUE(FOLDER, "--base", type, model.base, "FOLDER", "the base model, instead of a job file"),                   \
        LP_VALUE(PATH, "--codi", type, model.codi, "PATH",                                                             \
                 "the checkpoint that goes with --base, a folder or a file"),                                          \
        LP_RANGE(NUMBER, "--lora-alpha", type, model.lora_alpha, "A", 1e-6, 1e6, "alpha of its LoRA (default 32)"),    \
        LP_SET_OPTION(type, model.settings)

/* Checks that the options agree with each other and with the number of operands: `n_more` of them, `more` in words,
 * come after the job file. */
lp_status lp_model_options_check(const lp_model_options *options, size_t n_operands, size_t n_more, const char *more,
                                 lp_error *err);
/* *out = what to load: of the job file, which is read into *job, or of the options; borrows from both. Caller releases
 * the job in either case. */
lp_status lp_model_options_source(const lp_model_options *options, const char *job_file, lp_job *job,
                                  lp_model_source *out, lp_error *err);

#endif
