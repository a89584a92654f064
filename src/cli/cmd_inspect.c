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
    {.name = "--json", .kind = LP_OPTION_FLAG, .offset = offsetof(inspect_options, json), .help = "print JSON"},
};

static int run(const lp_command *command, int argc, char **argv) {
    inspect_options options = {0};
    lp_texts operands;
    lp_error error = {0}, *err = &error;
    lp_job job = {0};
    lp_model model = {0};
    lp_model_source source;
    lp_text text = {0};
    int code = 0;
    if (!lp_command_begin(command, argc, argv, &options, &operands, &code)) return code;
    lp_status status = lp_model_options_check(&options.model, operands.n, 0, "", err);
    if (status != LP_OK) return lp_exit_usage(command, err);
    LP_TRY(lp_model_options_source(&options.model, operands.items[0], &job, &source, err));
    source.with_digests = true;
    LP_TRY(lp_model_load(&source, &model, err));
    LP_TRY(lp_model_inspect(&model, options.json ? LP_INSPECT_JSON : LP_INSPECT_TEXT, &text, err));
    if (!options.model.base) LP_TRY(add_protocol(&job, &model, options.json, &text, err));
    LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err));
out:
    lp_text_release(&text);
    lp_model_close(&model);
    lp_job_release(&job);
    return lp_exit_with(NULL, status, err);
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
    .options = table,
    .n_options = sizeof table / sizeof table[0],
    .operands = "a job file or --base FOLDER",
    .max_operands = 1,
    .run = run,
};
