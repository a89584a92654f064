/* `latentpatch pairs make | check | convert`: pair files from word problems. */
#include "cli/arguments.h"
#include "cli/print.h"

#include "base/number.h"
#include "base/output.h"
#include "problems/pair_check.h"
#include "problems/pair_make.h"
#include "problems/pair_write.h"

/* "2-5", "3", "6-": inclusive; an open end is `most`. */
static lp_status parse_range(const char *option, const char *text, size_t length, int most, int *low, int *high,
                             lp_error *err) {
    const char *p = text, *end = text + length;
    int64_t first = 0, last = 0;
    bool good = lp_take_integer(&p, most, &first) && first >= 1;
    last = first;
    if (good && p < end && *p == '-') {
        last = most;
        good = ++p == end || (lp_take_integer(&p, most, &last) && last >= first);
    }
    if (!good || p != end)
        return lp_fail(err, LP_ERR_USAGE, "%s: expected a number or a range from 1 to %d such as 2-3, found \"%.*s\"",
                       option, most, length < 60 ? (int)length : 60, text);
    *low = (int)first;
    *high = (int)last;
    return LP_OK;
}

static lp_status parse_strata(const char *text, lp_make_options *out, lp_error *err) {
    lp_status status = LP_OK;
    while (status == LP_OK && text && *text) {
        size_t length = strcspn(text, ",");
        if (out->n_strata == LP_MAX_STRATA) return lp_fail(err, LP_ERR_USAGE, "--strata: more than %d", LP_MAX_STRATA);
        lp_stratum *stratum = &out->strata[out->n_strata++];
        status = parse_range("--strata", text, length, LP_MAX_STEPS, &stratum->min_steps, &stratum->max_steps, err);
        text += length + (text[length] == ',');
    }
    return status;
}

typedef struct {
    lp_named_tokenizer items[LP_MAX_TOKENIZERS];
    lp_tokenizer *owned[LP_MAX_TOKENIZERS];
    char names[LP_MAX_TOKENIZERS][64];
    size_t n;
} tokenizers;

/* Loads every NAME=PATH. */
static lp_status load_tokenizers(const char *const *values, size_t n, tokenizers *out, lp_error *err) {
    for (size_t i = 0; i < n; i++) {
        const char *equal = strchr(values[i], '=');
        if (!equal || equal == values[i] || equal - values[i] >= 64)
            return lp_fail(err, LP_ERR_USAGE, "--tokenizer: expected NAME=PATH, found \"%.60s\"", values[i]);
        if (out->n == LP_MAX_TOKENIZERS)
            return lp_fail(err, LP_ERR_USAGE, "--tokenizer: more than %d", LP_MAX_TOKENIZERS);
        snprintf(out->names[out->n], sizeof out->names[0], "%.*s", (int)(equal - values[i]), values[i]);
        LP_CHECK(lp_tokenizer_load(equal + 1, &out->owned[out->n], err));
        out->items[out->n] = (lp_named_tokenizer){out->names[out->n], out->owned[out->n]};
        out->n++;
    }
    return LP_OK;
}

static void release_tokenizers(tokenizers *list) {
    for (size_t i = 0; i < list->n; i++) lp_tokenizer_free(list->owned[i]);
}

/* ---- make ---- */

static const char *const forms[] = {"own", "original", "original-flat", NULL};
static const char *const which[] = {"any", "first", "last", NULL};
static const char *const digits[] = {"same", "any", NULL};
static const char *const sides[] = {"held-out", "training", "all", NULL};

typedef struct {
    const char *source, *output, *tune, *rejected, *prefix, *delta, *strata;
    int format; /* -1: not given */
    int change, digits, side, form;
    int64_t count, seed, per_problem; /* 0: not given */
    double tune_share;                /* 0: not given */
    lp_texts tokenizers;
    bool same_tokens, strict;
} make_options;

/* What the options ask for. */
typedef struct {
    lp_make_options make;
    tokenizers tokenizers;
    const char *output, *tune, *rejected;
    bool strict;
    int form;
} make_command;

static lp_status parse_make(const make_options *options, make_command *out, lp_error *err) {
    lp_make_options *make = &out->make;
    if (!options->source || options->format < 0 || !options->output)
        return lp_fail(err, LP_ERR_USAGE, "expected --source, --format and -o");
    if (options->tune && options->tune_share <= 0) return lp_fail(err, LP_ERR_USAGE, "--tune needs --tune-share");
    if (options->same_tokens && options->tokenizers.n == 0)
        return lp_fail(err, LP_ERR_USAGE, "--same-tokens needs --tokenizer");
    if (options->delta)
        LP_CHECK(parse_range("--delta", options->delta, strlen(options->delta), 99, &make->min_delta, &make->max_delta,
                             err));
    LP_CHECK(parse_strata(options->strata, make, err));
    make->path = options->source;
    make->prefix = options->prefix;
    make->count = (size_t)options->count;
    make->per_problem = (size_t)options->per_problem;
    make->tune_share = options->tune_share;
    make->format = (lp_source_format)options->format;
    make->seed = (uint64_t)options->seed;
    make->which = (lp_change_which)options->change;
    make->digits = (lp_digits_rule)options->digits;
    make->side = (lp_template_side)options->side;
    make->tokens = options->same_tokens ? LP_TOKENS_EQUAL : LP_TOKENS_IGNORE;
    out->output = options->output;
    out->tune = options->tune;
    out->rejected = options->rejected;
    out->strict = options->strict;
    out->form = options->form;
    LP_CHECK(load_tokenizers(options->tokenizers.items, options->tokenizers.n, &out->tokenizers, err));
    memcpy(make->tokenizers, out->tokenizers.items, sizeof make->tokenizers);
    make->n_tokenizers = out->tokenizers.n;
    return LP_OK;
}

static void print_summary(const lp_made *made, const make_command *command) {
    bool templates = command->make.format == LP_SOURCE_TEMPLATES;
    printf("%zu %s, %zu pairs available, %zu written\n", made->n_problems, templates ? "templates" : "problems",
           made->n_available, made->set.n);
    if (command->make.format == LP_SOURCE_GSM_PLUS)
        printf("%zu variants recomputed, %zu equal to their stated answer\n", made->n_linked, made->n_agreeing);
    printf("%-20s %9s %9s  %s\n", "verdict", templates ? "templates" : "problems", "changes", "meaning");
    for (int r = 0; r < LP_N_REASONS; r++)
        if (made->problems[r] || made->candidates[r])
            printf("%-20s %9zu %9zu  %s\n", r == LP_REASON_NONE ? "sound" : lp_reason_name((lp_reason)r),
                   made->problems[r], made->candidates[r], lp_reason_meaning((lp_reason)r));
}

/* Outputs (NULL: none) that are the file to be read, or each other, are refused before anything is written. */
static lp_status check_outputs(const char *input, const char *const *outputs, size_t n, lp_error *err) {
    lp_outputs list = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < n; i++)
        if (outputs[i] && lp_path_look(outputs[i]) != LP_PATH_OTHER)
            LP_TRY(lp_outputs_add(&list, outputs[i], "another output", outputs[i], NULL, err));
    status = lp_outputs_check_input(&list, "the file to be read", input, err);
out:
    lp_outputs_release(&list);
    return status;
}

static lp_status write_pairs(const lp_pair_set *set, const make_command *command, lp_pair_split only, const char *path,
                             lp_error *err) {
    const char *slash = strrchr(command->make.path, '/');
    lp_pairs_print_options print = {.format = (lp_pairs_format)command->form,
                                    .source = slash ? slash + 1 : command->make.path,
                                    .seed = (int64_t)command->make.seed,
                                    .only = only};
    lp_text text = {0};
    lp_status status = lp_pairs_print(set, &print, &text, err);
    if (status == LP_OK) status = lp_output_write(path, lp_text_get(&text), text.length, LP_OUTPUT_NEW, err);
    lp_text_release(&text);
    return status;
}

static lp_status make_pairs(const make_options *options, bool *short_of, lp_error *err) {
    make_command command = {0};
    lp_made made = {0};
    lp_text rejected = {0};
    lp_status status = LP_OK;
    LP_TRY(parse_make(options, &command, err));
    LP_TRY(check_outputs(options->source, (const char *const[]){options->output, options->tune, options->rejected}, 3,
                         err));
    if (command.rejected) command.make.rejected = &rejected;
    LP_TRY(lp_pairs_make(&command.make, &made, err));
    print_summary(&made, &command);
    if (command.rejected)
        LP_TRY(lp_output_write(command.rejected, lp_text_get(&rejected), rejected.length, LP_OUTPUT_NEW, err));
    if (made.set.n == 0) LP_FAIL(LP_ERR_VALUE, "%s: no sound pair could be made", command.make.path);
    if (command.tune) LP_TRY(write_pairs(&made.set, &command, LP_SPLIT_TUNE, command.tune, err));
    LP_TRY(write_pairs(&made.set, &command, command.tune ? LP_SPLIT_TEST : LP_SPLIT_NONE, command.output, err));
    if (made.set.n < command.make.count) {
        fprintf(stderr, "latentpatch: %s: %zu pairs were asked for, %zu are there\n",
                command.strict ? "error" : "warning", command.make.count, made.set.n);
        *short_of = command.strict;
    }
out:
    lp_made_release(&made);
    lp_text_release(&rejected);
    release_tokenizers(&command.tokenizers);
    return status;
}

/* The exit code of a command that did its work with this status; `failed`: what it found is a failure. */
static int exit_code(const lp_command *command, lp_status status, const lp_error *err, bool failed) {
    if (status == LP_ERR_USAGE) return lp_exit_usage(command, err);
    if (status != LP_OK) return lp_exit_with(NULL, status, err);
    return failed ? LP_EXIT_ERROR : LP_EXIT_OK;
}

static int run_make(const lp_command *command, int argc, char **argv) {
    make_options options = {.format = -1};
    lp_texts operands;
    lp_error err = {0};
    bool short_of = false;
    int code = 0;
    if (!lp_command_begin(command, argc, argv, &options, &operands, &code)) return code;
    lp_status status = make_pairs(&options, &short_of, &err);
    return exit_code(command, status, &err, short_of);
}

#define MAKE(member) .offset = offsetof(make_options, member)
static const lp_option make_table[] = {
    {.name = "--source", .kind = LP_OPTION_FILE, MAKE(source), .value = "FILE", .help = "the problems"},
    {.name = "--format",
     .kind = LP_OPTION_CHOICE,
     MAKE(format),
     .value = "FORMAT",
     .choices = lp_source_format_names,
     .help =
         "form of the source. gsm8k: JSON lines with question and answer, the answer a solution with <<...>> "
         "annotations. gsm8k-aug: lines question||<<...>> <<...>>#### answer. svamp: its JSON array. gsm-plus: JSON "
         "lines, each variant a pair with its seed question. templates: texts with variables, as in "
         "jobs/demo/train/templates.json"},
    {.name = "-o", .kind = LP_OPTION_PATH, MAKE(output), .value = "PAIRS.json", .help = "the pair file to write"},
    {.name = "--count",
     .kind = LP_OPTION_INTEGER,
     MAKE(count),
     .value = "N",
     .min = 1,
     .max = 100000000,
     .help = "how many pairs (default: all there are; of templates 100 each)"},
    {.name = "--seed",
     .kind = LP_OPTION_INTEGER,
     MAKE(seed),
     .value = "S",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "seed of every random choice (default 0); the same seed gives the same bytes"},
    {.name = "--per-problem",
     .kind = LP_OPTION_INTEGER,
     MAKE(per_problem),
     .value = "N",
     .min = 1,
     .max = 16,
     .help = "pairs of one problem (default 1)"},
    {.name = "--change",
     .kind = LP_OPTION_CHOICE,
     MAKE(change),
     .value = "WHICH",
     .choices = which,
     .help = "the number that changes (default any)"},
    {.name = "--delta",
     .kind = LP_OPTION_TEXT,
     MAKE(delta),
     .value = "A-B",
     .help = "size of the change, in units of the number's last digit that is not 0 (default 1-5)"},
    {.name = "--digits",
     .kind = LP_OPTION_CHOICE,
     MAKE(digits),
     .value = "RULE",
     .choices = digits,
     .help = "whether the number keeps its number of digits (default same)"},
    {.name = "--tokenizer",
     .kind = LP_OPTION_TEXTS,
     MAKE(tokenizers),
     .value = "NAME=PATH",
     .help = "count tokens by this tokenizer.json"},
    {.name = "--same-tokens",
     .kind = LP_OPTION_FLAG,
     MAKE(same_tokens),
     .help = "only pairs whose questions have equal counts in every tokenizer"},
    {.name = "--strata",
     .kind = LP_OPTION_TEXT,
     MAKE(strata),
     .value = "LIST",
     .help = "share the count equally among numbers of steps: 2,3,4-5,6-"},
    {.name = "--tune-share",
     .kind = LP_OPTION_NUMBER,
     MAKE(tune_share),
     .value = "X",
     .min = 1e-6,
     .max = 1 - 1e-6,
     .help = "mark this share of the problems \"tune\", the others \"test\""},
    {.name = "--tune",
     .kind = LP_OPTION_PATH,
     MAKE(tune),
     .value = "FILE",
     .help = "write the tune pairs to this file instead"},
    {.name = "--side",
     .kind = LP_OPTION_CHOICE,
     MAKE(side),
     .value = "SIDE",
     .choices = sides,
     .help = "with --format templates: which templates are used (default held-out)"},
    {.name = "--prefix",
     .kind = LP_OPTION_TEXT,
     MAKE(prefix),
     .value = "TEXT",
     .help = "start of the ids (default: the source's name)"},
    {.name = "--to",
     .kind = LP_OPTION_CHOICE,
     MAKE(form),
     .value = "FORM",
     .choices = forms,
     .help = "form of the pair file: ours, or one of the published study's (default own)"},
    {.name = "--rejected",
     .kind = LP_OPTION_PATH,
     MAKE(rejected),
     .value = "FILE",
     .help = "write one JSON line for each refusal: index, numbers, reason"},
    {.name = "--strict",
     .kind = LP_OPTION_FLAG,
     MAKE(strict),
     .help = "exit code 1 when there are fewer pairs than --count"},
};
#undef MAKE

const lp_command lp_cmd_pairs_make = {
    .name = "pairs make",
    .summary = "make pairs of problems that differ in one number",
    .usage = (const char *const[]){"--source FILE --format FORMAT -o PAIRS.json [options]", NULL},
    .description = "Makes pairs of problems that differ in one number. The new answer is computed by rule, in exact "
                   "fractions; what is not sure is refused with a reason.",
    .options = make_table,
    .n_options = sizeof make_table / sizeof make_table[0],
    .operands = "options only",
    .run = run_make,
};

/* ---- check ---- */

typedef struct {
    lp_texts tokenizers;
    const char *training, *list, *fix;
    int training_format;
    int64_t max_tokens; /* 0: not given */
    bool same_tokens, verified;
} check_options;

static lp_status check_pairs(const check_options *options, const char *path, bool *unsound, lp_error *err) {
    lp_check_options check = {.training_path = options->training,
                              .training_format = (lp_source_format)options->training_format,
                              .max_tokens = (size_t)options->max_tokens,
                              .tokens = options->same_tokens ? LP_TOKENS_EQUAL : LP_TOKENS_IGNORE,
                              .unverified = options->verified ? LP_UNVERIFIED_REFUSE : LP_UNVERIFIED_ALLOW};
    lp_pairs_options load = {.mode = LP_PAIRS_AUDIT};
    tokenizers list = {0};
    lp_pair_set set = {0};
    lp_check_report report = {0};
    lp_text text = {0}, table = {0};
    lp_status status = LP_OK;
    if (options->tokenizers.n == 0 && (options->max_tokens || options->same_tokens))
        LP_FAIL(LP_ERR_USAGE, "--max-tokens and --same-tokens need --tokenizer");
    LP_TRY(check_outputs(path, (const char *const[]){options->list, options->fix}, 2, err));
    LP_TRY(load_tokenizers(options->tokenizers.items, options->tokenizers.n, &list, err));
    memcpy(check.tokenizers, list.items, sizeof check.tokenizers);
    check.n_tokenizers = list.n;
    LP_TRY(lp_file_read(path, (size_t)1 << 30, &text, err));
    LP_TRY(lp_pairs_parse(lp_text_get(&text), text.length, path, &load, &set, err));
    LP_TRY(lp_pairs_check(&set, &check, &report, err));
    LP_TRY(lp_check_print(&set, &check, &report, &table, err));
    LP_TRY(lp_print(lp_text_get(&table), LP_PRINT_BLOCK, err));
    *unsound = report.n_sound < set.n;
    if (options->list) {
        lp_text_clear(&table);
        LP_TRY(lp_check_list(&set, &report, &table, err));
        LP_TRY(lp_output_write(options->list, lp_text_get(&table), table.length, LP_OUTPUT_NEW, err));
    }
    if (!options->fix) goto out;
    if (report.n_sound == 0) LP_FAIL(LP_ERR_VALUE, "%s: no pair is sound; nothing was written", path);
    lp_text_clear(&table);
    LP_TRY(lp_check_fix(&set, &report, path, lp_text_get(&text), text.length, &table, err));
    LP_TRY(lp_output_write(options->fix, lp_text_get(&table), table.length, LP_OUTPUT_NEW, err));
    *unsound = false;
out:
    lp_check_release(&report);
    lp_pairs_release(&set);
    lp_text_release(&text);
    lp_text_release(&table);
    release_tokenizers(&list);
    return status;
}

static int run_check(const lp_command *command, int argc, char **argv) {
    check_options options = {.training_format = LP_SOURCE_GSM8K};
    lp_texts operands;
    lp_error err = {0};
    bool unsound = false;
    int code = 0;
    if (!lp_command_begin(command, argc, argv, &options, &operands, &code)) return code;
    lp_status status = check_pairs(&options, operands.items[0], &unsound, &err);
    return exit_code(command, status, &err, unsound);
}

#define CHECK(member) .offset = offsetof(check_options, member)
static const lp_option check_table[] = {
    {.name = "--tokenizer",
     .kind = LP_OPTION_TEXTS,
     CHECK(tokenizers),
     .value = "NAME=PATH",
     .help = "count tokens by this tokenizer.json"},
    {.name = "--same-tokens",
     .kind = LP_OPTION_FLAG,
     CHECK(same_tokens),
     .help = "the two questions of a pair have equal counts in every tokenizer"},
    {.name = "--max-tokens",
     .kind = LP_OPTION_INTEGER,
     CHECK(max_tokens),
     .value = "N",
     .min = 1,
     .max = 1000000,
     .help = "no question has more tokens"},
    {.name = "--training",
     .kind = LP_OPTION_FILE,
     CHECK(training),
     .value = "FILE",
     .help = "no question is close to one of this file's"},
    {.name = "--training-format",
     .kind = LP_OPTION_CHOICE,
     CHECK(training_format),
     .value = "FORMAT",
     .choices = lp_question_format_names,
     .help = "form of the training file (default gsm8k)"},
    {.name = "--verified",
     .kind = LP_OPTION_FLAG,
     CHECK(verified),
     .help = "a pair whose corrupted answer cannot be recomputed is a defect, too"},
    {.name = "--list",
     .kind = LP_OPTION_PATH,
     CHECK(list),
     .value = "FILE",
     .help = "write one CSV line for each pair: its defects, the stated and the recomputed answer"},
    {.name = "--fix",
     .kind = LP_OPTION_PATH,
     CHECK(fix),
     .value = "FILE",
     .help = "write the sound pairs to this file; exit code 0 when there are any"},
};
#undef CHECK

const lp_command lp_cmd_pairs_check = {
    .name = "pairs check",
    .summary = "list the defects of a pair file",
    .usage = (const char *const[]){"PAIRS.json [options]", NULL},
    .description =
        "Prints the defects of a pair file (ours, or the original study's) as a table. The exit code is 1 when "
        "there are any.",
    .options = check_table,
    .n_options = sizeof check_table / sizeof check_table[0],
    .operands = "one pair file",
    .min_operands = 1,
    .max_operands = 1,
    .run = run_check,
};

/* ---- convert ---- */

typedef struct {
    int form; /* -1: not given */
    const char *output;
} convert_options;

static lp_status convert_pairs(const convert_options *options, const char *path, lp_error *err) {
    lp_pair_set set = {0};
    lp_text text = {0};
    lp_status status = LP_OK;
    if (options->form < 0 || !options->output) LP_FAIL(LP_ERR_USAGE, "expected one pair file, --to and -o");
    LP_TRY(check_outputs(path, &options->output, 1, err));
    const char *slash = strrchr(path, '/');
    lp_pairs_options load = {.equal_answers = LP_EQUAL_ANSWERS_ALLOW};
    LP_TRY(lp_pairs_load(path, &load, &set, err));
    lp_pairs_print_options print = {
        .format = (lp_pairs_format)options->form, .source = slash ? slash + 1 : path, .seed = -1};
    LP_TRY(lp_pairs_print(&set, &print, &text, err));
    LP_TRY(lp_output_write(options->output, lp_text_get(&text), text.length, LP_OUTPUT_NEW, err));
    printf("%zu pairs written\n", set.n);
out:
    lp_pairs_release(&set);
    lp_text_release(&text);
    return status;
}

static int run_convert(const lp_command *command, int argc, char **argv) {
    convert_options options = {.form = -1};
    lp_texts operands;
    lp_error err = {0};
    int code = 0;
    if (!lp_command_begin(command, argc, argv, &options, &operands, &code)) return code;
    return exit_code(command, convert_pairs(&options, operands.items[0], &err), &err, false);
}

static const lp_option convert_table[] = {
    {.name = "--to",
     .kind = LP_OPTION_CHOICE,
     .offset = offsetof(convert_options, form),
     .value = "FORM",
     .choices = forms,
     .help = "the form to write: ours, or one of the published study's"},
    {.name = "-o",
     .kind = LP_OPTION_PATH,
     .offset = offsetof(convert_options, output),
     .value = "FILE",
     .help = "the pair file to write"},
};

const lp_command lp_cmd_pairs_convert = {
    .name = "pairs convert",
    .summary = "convert a pair file from or to the published study's form",
    .usage = (const char *const[]){"PAIRS.json --to FORM -o FILE", NULL},
    .description = "Converts between our form and the original study's, in both directions. The form of PAIRS.json is "
                   "recognised.",
    .options = convert_table,
    .n_options = sizeof convert_table / sizeof convert_table[0],
    .operands = "one pair file, --to and -o",
    .min_operands = 1,
    .max_operands = 1,
    .run = run_convert,
};
