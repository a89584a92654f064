/* `latentpatch init`: a starter job from what the folders hold. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "cli/model_options.h"
#include "cli/print.h"
#include "model/hf_config.h"
#include "pairs/pairs.h"
#include "thought/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STEPS = 6, MOST_NEW_TOKENS = 200 };

typedef struct {
    lp_model_options model;
    const char *pairs;
} init_options;

/* What is there. */
typedef struct {
    lp_model model;
    lp_tokenizer *tokenizer;
    lp_protocol protocol;
    lp_vocabulary vocabulary;
    lp_pair_set pairs;
    int64_t lora_rank, projection_width; /* 0: none */
    int32_t longest;                     /* prompt positions of the longest question */
    int32_t max_new_tokens;
} init_findings;

static void release(init_findings *findings) {
    lp_pairs_release(&findings->pairs);
    lp_tokenizer_free(findings->tokenizer);
    lp_model_close(&findings->model);
}

/* What `inspect` says of the checkpoint's parts. */
static lp_status look_at_model(init_findings *findings, lp_error *err) {
    lp_text text = {0};
    cJSON *document = NULL;
    lp_json root, part;
    lp_status status = LP_OK;
    LP_TRY(lp_model_inspect(&findings->model, LP_INSPECT_JSON, &text, err));
    LP_TRY(lp_json_parse(lp_text_get(&text), text.length, "inspect", &document, &root, err));
    LP_TRY(lp_json_find(&root, "lora", &part, err));
    if (part.node) LP_TRY(lp_json_get_int(&part, "rank", 0, INT32_MAX, &findings->lora_rank, err));
    LP_TRY(lp_json_find(&root, "projection", &part, err));
    if (part.node) LP_TRY(lp_json_get_int(&part, "width", 0, INT32_MAX, &findings->projection_width, err));
out:
    cJSON_Delete(document);
    lp_text_release(&text);
    return status;
}

/* The longest prompt, and how many tokens of an answer fit the model's context after it. */
static lp_status measure(init_findings *findings, const char *file, lp_error *err) {
    lp_token_list ids = {0};
    size_t longest = 0;
    lp_status status = LP_OK;
    for (size_t i = 0; i < findings->pairs.n; i++)
        for (int side = 0; side < 2; side++) {
            const lp_pair *pair = &findings->pairs.pairs[i];
            const char *question = side == 0 ? pair->clean.question : pair->corrupted.question;
            LP_TRY(lp_protocol_prompt(&findings->protocol, &findings->model, findings->tokenizer, &findings->vocabulary,
                                      question, &ids, err));
            if (ids.n <= (size_t)findings->longest) continue;
            findings->longest = (int32_t)ids.n;
            longest = i;
        }
    int32_t room =
        findings->model.config.n_context - findings->longest - STEPS - findings->vocabulary.n_answer_start + 1;
    if (room < 1)
        LP_FAIL(LP_ERR_VALUE, "%s: pair %s: %d prompt tokens leave no room for an answer in a context of %d", file,
                findings->pairs.pairs[longest].id, findings->longest, findings->model.config.n_context);
    findings->max_new_tokens = room < MOST_NEW_TOKENS ? room : MOST_NEW_TOKENS;
out:
    lp_token_list_release(&ids);
    return status;
}

static lp_status look(const init_options *options, const lp_model_source *source, init_findings *findings,
                      lp_error *err) {
    lp_pairs_options strict = {0};
    LP_CHECK(lp_pairs_load(options->pairs, &strict, &findings->pairs, err));
    LP_CHECK(lp_tokenizer_load(source->base, &findings->tokenizer, err));
    LP_CHECK(lp_model_load(source, &findings->model, err));
    if (!findings->model.has_thoughts)
        return lp_fail(err, LP_ERR_VALUE, "%s: no parts of a CODI checkpoint: expected its three added tokens",
                       source->codi);
    LP_CHECK(look_at_model(findings, err));
    findings->protocol =
        lp_protocol_preset(findings->projection_width > 0 ? LP_PROTOCOL_CODI : LP_PROTOCOL_COCONUT, STEPS);
    LP_CHECK(lp_vocabulary_init(&findings->model, findings->tokenizer, source->base, NULL, &findings->protocol,
                                &findings->vocabulary, err));
    return measure(findings, options->pairs, err);
}

/* ---- The job file ------------------------------------------------------------------------------------------------ */

/* *out += the path as JSON: relative to `folder` where the way is short, so that both may move together. Both exist. */
static lp_status add_path(const char *path, const char *folder, lp_text *out, lp_error *err) {
    enum { MOST_UP = 2 };
    lp_text shown = {0};
    lp_status status = LP_OK;
    char *whole = realpath(path, NULL), *from = realpath(folder, NULL);
    if (!whole || !from) LP_FAIL(LP_ERR_IO, "%s: %s", whole ? folder : path, strerror(errno));
    int up = 0;
    size_t n = strlen(from);
    for (; up <= MOST_UP && n > 0; up++) {
        if (strncmp(whole, from, n) == 0 && whole[n] == '/') break;
        while (n > 0 && from[n - 1] != '/') n--;
        if (n > 0) n--;
    }
    bool near = n > 0 && up <= MOST_UP;
    for (int i = 0; near && i < up; i++) LP_TRY(lp_text_put(&shown, "../", err));
    LP_TRY(lp_text_put(&shown, near ? whole + n + 1 : whole, err));
    status = lp_json_quote(lp_text_get(&shown), out, err);
out:
    free(whole); /* from realpath */
    free(from);
    lp_text_release(&shown);
    return status;
}

/* *out = the schema that lies beside the program, built or installed; NULL where there is none. Caller frees. */
static char *find_schema(void) {
    static const char *const places[] = {"/../schemas/job.schema.json",
                                         "/../share/latentpatch/schemas/job.schema.json"};
    char self[4096];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0) return NULL;
    self[n] = '\0';
    *strrchr(self, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        lp_text path = {0};
        char *whole = lp_text_format(&path, NULL, "%s%s", self, places[i]) == LP_OK ? realpath(path.data, NULL) : NULL;
        lp_text_release(&path);
        if (whole) return whole;
    }
    return NULL;
}

static lp_status add_schema(lp_text *out, lp_error *err) {
    char *schema = find_schema();
    if (!schema) return LP_OK;
    lp_status status = lp_json_format(out, err, "  \"$schema\": %s,\n", schema);
    free(schema); /* from realpath */
    return status;
}

/* "comment": "...", of one section. */
static lp_status add_comment(lp_text *out, lp_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static lp_status add_comment(lp_text *out, lp_error *err, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return lp_json_format(out, err, "    \"comment\": %s,\n", text);
}

static lp_status write_model(const init_findings *findings, const init_options *options, const char *folder,
                             lp_text *out, lp_error *err) {
    const lp_model_config *config = &findings->model.config;
    char lora[256] = "It has no LoRA.";
    if (findings->lora_rank > 0 && options->model.lora_alpha > 0)
        snprintf(lora, sizeof lora, "LoRA of rank %lld.", (long long)findings->lora_rank);
    else if (findings->lora_rank > 0)
        snprintf(
            lora, sizeof lora,
            "LoRA of rank %lld. The checkpoint does not record alpha: 32 is a guess, so check it. A wrong alpha gives a "
            "model that answers worse, and no error.",
            (long long)findings->lora_rank);
    LP_CHECK(lp_text_format(out, err, "  \"model\": {\n"));
    LP_CHECK(add_comment(out, err, "%s: %d layers of width %d, a context of %d positions. %s",
                         lp_family_name(config->family), config->n_layers, config->d_model, config->n_context, lora));
    LP_CHECK(lp_text_format(out, err, "    \"base\": "));
    LP_CHECK(add_path(options->model.base, folder, out, err));
    LP_CHECK(lp_text_format(out, err, ",\n    \"codi\": "));
    LP_CHECK(add_path(options->model.codi, folder, out, err));
    if (findings->lora_rank > 0)
        LP_CHECK(lp_text_format(out, err, ",\n    \"lora\": {\"rank\": %lld, \"alpha\": %.15g}",
                                (long long)findings->lora_rank,
                                options->model.lora_alpha > 0 ? options->model.lora_alpha : 32.0));
    return lp_text_format(out, err, "\n  },\n");
}

/* store, results: the outputs, as the job names them. */
static lp_status write_job(const init_findings *findings, const init_options *options, const char *folder,
                           const char *store, const char *results, lp_text *out, lp_error *err) {
    bool projection = findings->projection_width > 0;
    LP_CHECK(lp_text_format(out, err, "{\n"));
    LP_CHECK(add_schema(out, err));
    LP_CHECK(lp_text_format(
        out, err,
        "  \"comment\": \"A starter job. `latentpatch plan` says what it will do, `latentpatch run` does "
        "it. Paths are relative to this file.\",\n"));
    LP_CHECK(write_model(findings, options, folder, out, err));
    LP_CHECK(lp_text_format(out, err, "  \"protocol\": {\n"));
    LP_CHECK(add_comment(out, err, "%s. `bot-first` is how the published patching scripts run a CODI model.",
                         projection ? "The checkpoint has a projection: CODI's own evaluation fits it"
                                    : "The checkpoint has no projection: the hidden state itself is the next input"));
    LP_CHECK(lp_text_format(out, err, "    \"name\": \"%s\",\n    \"steps\": %d\n  },\n",
                            lp_protocol_names()[findings->protocol.kind], STEPS));
    LP_CHECK(lp_text_format(out, err, "  \"pairs\": {\n"));
    LP_CHECK(add_comment(out, err,
                         "%zu pairs; the longest prompt takes %d positions. A \"limit\" takes the first ones only.",
                         findings->pairs.n, findings->longest));
    LP_CHECK(lp_text_format(out, err, "    \"file\": "));
    LP_CHECK(add_path(options->pairs, folder, out, err));
    LP_CHECK(lp_json_format(out, err, "\n  },\n  \"store\": {\"file\": %s},\n  \"sweep\": {\n", store));
    LP_CHECK(add_comment(
        out, err,
        "At each of the %d layers, the clean values of the first 1 to %d thoughts are written into the "
        "corrupted run. Only pairs that the model answers right both ways count. Controls are added: the "
        "run's own values, %s",
        findings->model.config.n_layers, STEPS,
        findings->pairs.n > 1 ? "and those of another pair." : "but no other pair's, since there is one pair."));
    LP_CHECK(
        lp_text_format(out, err,
                       "    \"filter\": \"both-correct\",\n    \"directions\": [\"denoise\"],\n    \"controls\": "
                       "[\"self\"%s],\n    \"conditions\": [\n      {\"site\": \"resid_post\", \"layers\": \"all\", "
                       "\"steps\": \"first:1-%d\", \"donor\": \"clean\"}\n    ]\n  },\n  \"decode\": {\n",
                       findings->pairs.n > 1 ? ", \"shuffled\"" : "", STEPS));
    LP_CHECK(add_comment(out, err,
                         findings->max_new_tokens < MOST_NEW_TOKENS
                             ? "The longest answer that fits the model's context after the longest prompt."
                             : "The longest answer. Most answers end far earlier."));
    LP_CHECK(lp_text_format(out, err, "    \"max_new_tokens\": %d\n  },\n", findings->max_new_tokens));
    return lp_json_format(out, err, "  \"results\": {\"file\": %s}\n}\n", results);
}

/* A new file: what is there already is never replaced. */
static lp_status write_new(const char *path, const lp_text *text, lp_error *err) {
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return lp_fail(err, LP_ERR_IO,
                       errno == EEXIST ? "%s: is there already: name another file" : "%s: cannot be made: %s", path,
                       strerror(errno));
    size_t done = 0;
    while (done < text->length) {
        ssize_t n = write(fd, text->data + done, text->length - done);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        done += (size_t)n;
    }
    int why = errno;
    if (done == text->length && fsync(fd) == 0 && close(fd) == 0) return LP_OK;
    if (done == text->length) why = errno;
    (void)unlink(path);
    return lp_fail(err, LP_ERR_IO, "%s: cannot be written: %s", path, strerror(why));
}

/* The outputs that the job would name must be free, so that `run` takes the job as it is. */
static lp_status refuse_outputs(const char *folder, const char *name, lp_error *err) {
    static const char *const endings[] = {"store.h5", "results.h5", "csv", "summary.json"};
    lp_text path = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++) {
        struct stat info;
        lp_text_clear(&path);
        LP_TRY(lp_text_format(&path, err, "%s/out/%s.%s", folder, name, endings[i]));
        if (lstat(path.data, &info) == 0)
            LP_FAIL(LP_ERR_VALUE, "%s: is there already: its name follows from the job's, so name the job otherwise",
                    path.data);
    }
out:
    lp_text_release(&path);
    return status;
}

/* As `run` will read it. */
static lp_status check_job(const char *path, const lp_model_config *config, size_t *n_conditions, lp_error *err) {
    lp_job job = {0};
    lp_condition_set set = {0};
    lp_status status = lp_job_load(path, NULL, 0, &job, err);
    if (status == LP_OK) status = lp_job_conditions(&job, config, &set, err);
    *n_conditions = set.n;
    lp_condition_set_release(&set);
    lp_job_release(&job);
    return status;
}

static lp_status init(const init_options *options, const char *path, lp_error *err) {
    init_findings findings = {0};
    lp_job none = {0};
    lp_model_source source;
    lp_text text = {0};
    char *folder = NULL, *name = NULL, *store = NULL, *results = NULL;
    size_t n_conditions = 0;
    struct stat info;
    lp_status status = LP_OK;
    if (lstat(path, &info) == 0) LP_FAIL(LP_ERR_VALUE, "%s: is there already: name another file", path);
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path, *dot = strrchr(last, '.');
    LP_TRY(lp_mem_text(&name, last, dot && dot > last ? (size_t)(dot - last) : strlen(last), err));
    LP_TRY(lp_path_folder(path, &folder, err));
    LP_TRY(refuse_outputs(folder, name, err));
    LP_TRY(lp_model_options_source(&options->model, NULL, &none, &source, err));
    LP_TRY(look(options, &source, &findings, err));
    LP_TRY(lp_mem_format(&store, err, "out/%s.store.h5", name));
    LP_TRY(lp_mem_format(&results, err, "out/%s.results.h5", name));
    LP_TRY(write_job(&findings, options, folder, store, results, &text, err));
    LP_TRY(write_new(path, &text, err));
    status = check_job(path, &findings.model.config, &n_conditions, err);
    if (status != LP_OK) {
        (void)unlink(path);
        goto out;
    }
    LP_TRY(lp_print_path("job", path, err));
    printf("%s, %d layers; protocol %s; %zu pairs, %zu conditions\n", lp_family_name(findings.model.config.family),
           findings.model.config.n_layers, lp_protocol_names()[findings.protocol.kind], findings.pairs.n, n_conditions);
out:
    release(&findings);
    lp_job_release(&none);
    lp_text_release(&text);
    lp_mem_free(folder);
    lp_mem_free(name);
    lp_mem_free(store);
    lp_mem_free(results);
    return status;
}

static lp_status run(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const init_options *options = given;
    (void)out;
    if (!options->model.base || !options->model.codi || !options->pairs)
        return lp_fail(err, LP_ERR_USAGE, "expected --base FOLDER, --codi PATH and --pairs FILE");
    return init(options, operands->items[0], err);
}

static const lp_option table[] = {
    LP_VALUE(FOLDER, "--base", init_options, model.base, "FOLDER", "the base model"),
    LP_VALUE(PATH, "--codi", init_options, model.codi, "PATH", "the checkpoint, a folder or a file"),
    LP_VALUE(FILE, "--pairs", init_options, pairs, "FILE", "the pair file (`latentpatch pairs make` makes one)"),
    LP_RANGE(NUMBER, "--lora-alpha", init_options, model.lora_alpha, "A", 1e-6, 1e6,
             "alpha of the checkpoint's LoRA (default 32, a guess)"),
};

const lp_command lp_cmd_init = {
    .name = "init",
    .summary = "write a starter job from what the folders of a model hold",
    .usage = (const char *const[]){"JOB.json --base FOLDER --codi PATH --pairs FILE [--lora-alpha A]", NULL},
    .description =
        "Looks at a base model, a checkpoint and a pair file and writes a job that `run` takes as it is. Comments "
        "in the job say what was found and what to check. A file that is there already is never replaced.",
    LP_OPTIONS(table, init_options, .pairs = NULL),
    LP_OPERANDS("the name of the job file to write", 1, 1),
    .run = run,
};
