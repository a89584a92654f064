#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/arguments.h"
#include "cli/print.h"
#include "job/job.h"

/* The job's protocol on this model, in words. */
static lp_status add_protocol(lp_job *job, const lp_model *model, lp_text *out, lp_error *err) {
    lp_tokenizer *tokenizer = NULL;
    lp_vocabulary vocabulary;
    lp_status status = LP_OK;
    LP_TRY(lp_tokenizer_load(job->model.base, &tokenizer, err));
    LP_TRY(lp_vocabulary_init(model, tokenizer, job->model.base, job->decode.eos, &job->protocol, &vocabulary, err));
    status = lp_protocol_describe(&job->protocol, &vocabulary, out, err);
out:
    lp_tokenizer_free(tokenizer);
    return status;
}

static const char help[] =
    "usage: latentpatch inspect JOB.json [--json]\n"
    "       latentpatch inspect --base FOLDER [--codi PATH] [--lora-alpha A] [--json]\n\n"
    "Reads a model as `cache` would and prints what it is: architecture, parameters by part, dtypes, LoRA, projection, special\n"
    "ids, context, SHA-256 of each file, and tensors that were not asked for. For a job also its protocol in words. Fails,\n"
    "naming the tensor, on what does not fit.\n";

int lp_cmd_inspect(int argc, char **argv) {
    const char *base = NULL, *codi = NULL, *alpha = NULL;
    bool json = false;
    const lp_option options[] = {{.name = "--base", .value = &base},
                                 {.name = "--codi", .value = &codi},
                                 {.name = "--lora-alpha", .value = &alpha},
                                 {.name = "--json", .flag = &json}};
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    lp_job job = {0};
    lp_model model = {0};
    lp_text text = {0};
    lp_status status = LP_OK;
    if (lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err) != LP_OK)
        return lp_exit_usage("inspect", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    if (operands.n != (base ? 0 : 1)) {
        lp_fail(err, LP_ERR_USAGE, "expected a job file or --base FOLDER");
        return lp_exit_usage("inspect", err);
    }
    lp_model_source source = {.base = base, .codi = codi, .lora_alpha = alpha ? strtod(alpha, NULL) : 32};
    if (codi && !alpha)
        lp_log(LP_LOG_WARN, "no --lora-alpha: 32 is taken, which the checkpoint's files cannot confirm");
    if (!base) {
        LP_TRY(lp_job_load(operands.operands[0], NULL, 0, &job, err));
        source = (lp_model_source){.base = job.model.base,
                                   .codi = job.model.codi,
                                   .lora_rank = job.model.lora_rank,
                                   .lora_alpha = job.model.lora_alpha,
                                   .base_rounding = job.model.base_rounding};
    }
    source.with_digests = true;
    LP_TRY(lp_model_load(&source, &model, err));
    LP_TRY(lp_model_inspect(&model, json ? LP_INSPECT_JSON : LP_INSPECT_TEXT, &text, err));
    if (!base && !json) LP_TRY(add_protocol(&job, &model, &text, err));
    LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err));
out:
    lp_text_release(&text);
    lp_model_close(&model);
    lp_job_release(&job);
    return lp_exit_with(NULL, status, err);
}
