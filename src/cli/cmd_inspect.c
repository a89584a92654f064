#include "cli/model_options.h"
#include "cli/print.h"

/* The job's protocol on this model: in words after the others, or as "protocol" of the JSON object in *out. */
static lp_status add_protocol(lp_job *job, const lp_model *model, bool json, lp_text *out, lp_error *err) {
    lp_tokenizer *tokenizer = NULL;
    cJSON *root = NULL;
    char *printed = NULL;
    lp_vocabulary vocabulary;
    lp_status status = LP_OK;
    LP_TRY(lp_tokenizer_load(job->model.tokenizer, &tokenizer, err));
    LP_TRY(
        lp_vocabulary_init(model, tokenizer, job->model.tokenizer, job->decode.eos, &job->protocol, &vocabulary, err));
    if (!json) {
        status = lp_protocol_describe(&job->protocol, &vocabulary, out, err);
        goto out;
    }
    root = cJSON_Parse(lp_text_get(out));
    if (root) lp_protocol_json(&job->protocol, &vocabulary, cJSON_AddObjectToObject(root, "protocol"));
    printed = root ? cJSON_Print(root) : NULL;
    if (!printed) LP_FAIL(LP_ERR_MEMORY, "inspect: out of memory");
    lp_text_clear(out);
    status = lp_text_format(out, err, "%s\n", printed);
out:
    cJSON_free(printed);
    cJSON_Delete(root);
    lp_tokenizer_free(tokenizer);
    return status;
}

typedef struct {
    lp_model_options model;
    bool json;
} inspect_options;

static const lp_option table[] = {
    LP_MODEL_OPTIONS(inspect_options),
    LP_FLAG("--json", inspect_options, json, "print JSON"),
};

static lp_status run(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const inspect_options *options = given;
    lp_job job = {0};
    lp_model model = {0};
    lp_model_source source;
    lp_status status = LP_OK;
    LP_CHECK(lp_model_options_check(&options->model, operands->n, 0, "", err));
    LP_TRY(lp_model_options_source(&options->model, operands->items[0], &job, &source, err));
    source.with_digests = true;
    LP_TRY(lp_model_load(&source, &model, err));
    LP_TRY(lp_model_inspect(&model, options->json ? LP_INSPECT_JSON : LP_INSPECT_TEXT, out, err));
    if (!options->model.base) LP_TRY(add_protocol(&job, &model, options->json, out, err));
out:
    if (status != LP_OK) lp_text_clear(out);
    lp_model_close(&model);
    lp_job_release(&job);
    return status;
}

const lp_command lp_cmd_inspect = {
    .name = "inspect",
    .summary = "read a model and say what it is",
    .usage =
        (const char *const[]){"JOB.json [options]", "--base FOLDER [--codi PATH] [--lora-alpha A] [options]", NULL},
    .description =
        "Reads a model as `cache` would and prints what it is: architecture, parameters by part, dtypes, LoRA, "
        "projection, special ids, context, SHA-256 of each file, and tensors that were not asked for; for a job also its protocol. Fails on "
        "what does not fit, and names the tensor.",
    LP_OPTIONS(table, inspect_options, .json = false),
    LP_OPERANDS("a job file or --base FOLDER", 0, 1),
    .run = run,
};
