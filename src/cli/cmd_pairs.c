/* `latentpatch pairs make | check | convert`: pair files from word problems. */
#include "cli/arguments.h"

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
static lp_status load_tokenizers(const lp_texts *values, tokenizers *out, lp_error *err) {
    for (size_t i = 0; i < values->n; i++) {
        const char *value = values->items[i], *equal = strchr(value, '=');
        if (!equal || equal == value || equal - value >= 64)
            return lp_fail(err, LP_ERR_USAGE, "--tokenizer: expected NAME=PATH, found \"%.60s\"", value);
        if (out->n == LP_MAX_TOKENIZERS)
            return lp_fail(err, LP_ERR_USAGE, "--tokenizer: more than %d", LP_MAX_TOKENIZERS);
        snprintf(out->names[out->n], sizeof out->names[0], "%.*s", (int)(equal - value), value);
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

/* What the options ask for; the tokenizers are loaded into *loaded. */
static lp_status parse_make(const make_options *options, tokenizers *loaded, lp_make_options *make, lp_error *err) {
    if (!options->source || options->format < 0 || !options->output)
        return lp_fail(err, LP_ERR_USAGE, "expected --source, --format and -o");
    if (options->tune && options->tune_share <= 0) return lp_fail(err, LP_ERR_USAGE, "--tune needs --tune-share");
    if (options->same_tokens && options->tokenizers.n == 0)
        return lp_fail(err, LP_ERR_USAGE, "--same-tokens needs --tokenizer");
    *make = (lp_make_options){.path = options->source,
                              .prefix = options->prefix,
                              .count = (size_t)options->count,
                              .per_problem = (size_t)options->per_problem,
                              .tune_share = options->tune_share,
                              .format = (lp_source_format)options->format,
                              .seed = (uint64_t)options->seed,
                              .which = (lp_change_which)options->change,
                              .digits = (lp_digits_rule)options->digits,
                              .side = (lp_template_side)options->side,
                              .tokens = options->same_tokens ? LP_TOKENS_EQUAL : LP_TOKENS_IGNORE};
    if (options->delta)
        LP_CHECK(parse_range("--delta", options->delta, strlen(options->delta), 99, &make->min_delta, &make->max_delta,
                             err));
    LP_CHECK(parse_strata(options->strata, make, err));
    LP_CHECK(load_tokenizers(&options->tokenizers, loaded, err));
    memcpy(make->tokenizers, loaded->items, sizeof make->tokenizers);
    make->n_tokenizers = loaded->n;
    return LP_OK;
}

static lp_status print_summary(const lp_made *made, lp_source_format format, lp_text *out, lp_error *err) {
    const char *unit = format == LP_SOURCE_TEMPLATES ? "templates" : "problems";
    LP_CHECK(lp_text_format(out, err, "%zu %s, %zu pairs available, %zu written\n", made->n_problems, unit,
                            made->n_available, made->set.n));
    if (format == LP_SOURCE_GSM_PLUS)
        LP_CHECK(lp_text_format(out, err, "%zu variants recomputed, %zu equal to their stated answer\n", made->n_linked,
                                made->n_agreeing));
    LP_CHECK(lp_text_format(out, err, "%-20s %9s %9s  %s\n", "verdict", unit, "changes", "meaning"));
    for (int r = 0; r < LP_N_REASONS; r++)
        if (made->problems[r] || made->candidates[r])
            LP_CHECK(lp_text_format(out, err, "%-20s %9zu %9zu  %s\n",
                                    r == LP_REASON_NONE ? "sound" : lp_reason_name((lp_reason)r), made->problems[r],
                                    made->candidates[r], lp_reason_meaning((lp_reason)r)));
    return LP_OK;
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

static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static lp_status write_pairs(const lp_pair_set *set, const lp_pairs_print_options *print, const char *path,
                             lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_pairs_print(set, print, &text, err);
    if (status == LP_OK) status = lp_output_write(path, lp_text_get(&text), text.length, LP_OUTPUT_NEW, err);
    lp_text_release(&text);
    return status;
}

static lp_status make_pairs(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const make_options *options = given;
    lp_make_options make;
    lp_pairs_print_options print = {.format = (lp_pairs_format)options->form, .seed = options->seed};
    tokenizers loaded = {0};
    lp_made made = {0};
    lp_text rejected = {0};
    lp_status status = LP_OK;
    (void)operands;
    LP_TRY(parse_make(options, &loaded, &make, err));
    LP_TRY(check_outputs(options->source, (const char *const[]){options->output, options->tune, options->rejected}, 3,
                         err));
    if (options->rejected) make.rejected = &rejected;
    LP_TRY(lp_pairs_make(&make, &made, err));
    LP_TRY(print_summary(&made, make.format, out, err));
    if (options->rejected)
        LP_TRY(lp_output_write(options->rejected, lp_text_get(&rejected), rejected.length, LP_OUTPUT_NEW, err));
    if (made.set.n == 0) LP_FAIL(LP_ERR_VALUE, "%s: no sound pair could be made", make.path);
    print.source = file_name(make.path);
    if (options->tune) {
        print.only = LP_SPLIT_TUNE;
        LP_TRY(write_pairs(&made.set, &print, options->tune, err));
        print.only = LP_SPLIT_TEST;
    }
    LP_TRY(write_pairs(&made.set, &print, options->output, err));
    if (made.set.n >= make.count) goto out;
    if (options->strict) LP_FAIL(LP_ERR_VALUE, "%zu pairs were asked for, %zu are there", make.count, made.set.n);
    fprintf(stderr, "latentpatch: warning: %zu pairs were asked for, %zu are there\n", make.count, made.set.n);
out:
    lp_made_release(&made);
    lp_text_release(&rejected);
    release_tokenizers(&loaded);
    return status;
}

static const lp_option make_table[] = {
    LP_VALUE(FILE, "--source", make_options, source, "FILE", "the problems"),
    LP_CHOICE(
        "--format", make_options, format, "FORMAT", lp_source_format_names,
        "form of the source. gsm8k: JSON lines with question and answer, the answer a solution with <<...>> "
        "annotations. gsm8k-aug: lines question||<<...>> <<...>>#### answer. svamp: its JSON array. gsm-plus: JSON "
        "lines, each variant a pair with its seed question. templates: texts with variables, as in "
        "jobs/demo/train/templates.json"),
    LP_VALUE(PATH, "-o", make_options, output, "PAIRS.json", "the pair file to write"),
    LP_RANGE(INTEGER, "--count", make_options, count, "N", 1, 100000000,
             "how many pairs (default: all there are; of templates 100 each)"),
    LP_RANGE(INTEGER, "--seed", make_options, seed, "S", 0, 9007199254740992.0,
             "seed of every random choice (default 0); the same seed gives the same bytes"),
    LP_RANGE(INTEGER, "--per-problem", make_options, per_problem, "N", 1, 16, "pairs of one problem (default 1)"),
    LP_CHOICE("--change", make_options, change, "WHICH", which, "the number that changes (default any)"),
    LP_VALUE(TEXT, "--delta", make_options, delta, "A-B",
             "size of the change, in units of the number's last digit that is not 0 (default 1-5)"),
    LP_CHOICE("--digits", make_options, digits, "RULE", digits,
              "whether the number keeps its number of digits (default same)"),
    LP_VALUE(TEXTS, "--tokenizer", make_options, tokenizers, "NAME=PATH", "count tokens by this tokenizer.json"),
    LP_FLAG("--same-tokens", make_options, same_tokens,
            "only pairs whose questions have equal counts in every tokenizer"),
    LP_VALUE(TEXT, "--strata", make_options, strata, "LIST",
             "share the count equally among numbers of steps: 2,3,4-5,6-"),
    LP_RANGE(NUMBER, "--tune-share", make_options, tune_share, "X", 1e-6, 1 - 1e-6,
             "mark this share of the problems \"tune\", the others \"test\""),
    LP_VALUE(PATH, "--tune", make_options, tune, "FILE", "write the tune pairs to this file instead"),
    LP_CHOICE("--side", make_options, side, "SIDE", sides,
              "with --format templates: which templates are used (default held-out)"),
    LP_VALUE(TEXT, "--prefix", make_options, prefix, "TEXT", "start of the ids (default: the source's name)"),
    LP_CHOICE("--to", make_options, form, "FORM", forms,
              "form of the pair file: ours, or one of the published study's (default own)"),
    LP_VALUE(PATH, "--rejected", make_options, rejected, "FILE",
             "write one JSON line for each refusal: index, numbers, reason"),
    LP_FLAG("--strict", make_options, strict, "exit code 1 when there are fewer pairs than --count"),
};

const lp_command lp_cmd_pairs_make = {
    .name = "pairs make",
    .summary = "make pairs of problems that differ in one number",
    .usage = (const char *const[]){"--source FILE --format FORMAT -o PAIRS.json [options]", NULL},
    .description = "Makes pairs of problems that differ in one number. The new answer is computed by rule, in exact "
                   "fractions; what is not sure is refused with a reason.",
    LP_OPTIONS(make_table, make_options, .format = -1),
    LP_OPERANDS("options only", 0, 0),
    .run = make_pairs,
};

/* ---- check ---- */

typedef struct {
    lp_texts tokenizers;
    const char *training, *list, *fix;
    int training_format;
    int64_t max_tokens; /* 0: not given */
    bool same_tokens, verified;
} check_options;

static lp_status check_pairs(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const check_options *options = given;
    const char *path = operands->items[0];
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
    LP_TRY(load_tokenizers(&options->tokenizers, &list, err));
    memcpy(check.tokenizers, list.items, sizeof check.tokenizers);
    check.n_tokenizers = list.n;
    LP_TRY(lp_file_read(path, (size_t)1 << 30, &text, err));
    LP_TRY(lp_pairs_parse(lp_text_get(&text), text.length, path, &load, &set, err));
    LP_TRY(lp_pairs_check(&set, &check, &report, err));
    LP_TRY(lp_check_print(&set, &check, &report, out, err));
    if (options->list) {
        LP_TRY(lp_check_list(&set, &report, &table, err));
        LP_TRY(lp_output_write(options->list, lp_text_get(&table), table.length, LP_OUTPUT_NEW, err));
    }
    if (!options->fix) {
        if (report.n_sound < set.n) status = LP_ERR_VALUE; /* the table says why */
        goto out;
    }
    if (report.n_sound == 0) LP_FAIL(LP_ERR_VALUE, "%s: no pair is sound; nothing was written", path);
    lp_text_clear(&table);
    LP_TRY(lp_check_fix(&set, &report, path, lp_text_get(&text), text.length, &table, err));
    status = lp_output_write(options->fix, lp_text_get(&table), table.length, LP_OUTPUT_NEW, err);
out:
    lp_check_release(&report);
    lp_pairs_release(&set);
    lp_text_release(&text);
    lp_text_release(&table);
    release_tokenizers(&list);
    return status;
}

static const lp_option check_table[] = {
    LP_VALUE(TEXTS, "--tokenizer", check_options, tokenizers, "NAME=PATH", "count tokens by this tokenizer.json"),
    LP_FLAG("--same-tokens", check_options, same_tokens,
            "the two questions of a pair have equal counts in every tokenizer"),
    LP_RANGE(INTEGER, "--max-tokens", check_options, max_tokens, "N", 1, 1000000, "no question has more tokens"),
    LP_VALUE(FILE, "--training", check_options, training, "FILE", "no question is close to one of this file's"),
    LP_CHOICE("--training-format", check_options, training_format, "FORMAT", lp_question_format_names,
              "form of the training file (default gsm8k)"),
    LP_FLAG("--verified", check_options, verified,
            "a pair whose corrupted answer cannot be recomputed is a defect, too"),
    LP_VALUE(PATH, "--list", check_options, list, "FILE",
             "write one CSV line for each pair: its defects, the stated and the recomputed answer"),
    LP_VALUE(PATH, "--fix", check_options, fix, "FILE",
             "write the sound pairs to this file; exit code 0 when there are any"),
};

const lp_command lp_cmd_pairs_check = {
    .name = "pairs check",
    .summary = "list the defects of a pair file",
    .usage = (const char *const[]){"PAIRS.json [options]", NULL},
    .description =
        "Prints the defects of a pair file (ours, or the original study's) as a table. The exit code is 1 when "
        "there are any.",
    LP_OPTIONS(check_table, check_options, .training_format = LP_SOURCE_GSM8K),
    LP_OPERANDS("one pair file", 1, 1),
    .run = check_pairs,
};

/* ---- convert ---- */

typedef struct {
    int form; /* -1: not given */
    const char *output;
} convert_options;

static lp_status convert_pairs(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const convert_options *options = given;
    const char *path = operands->items[0];
    lp_pairs_options load = {.equal_answers = LP_EQUAL_ANSWERS_ALLOW};
    lp_pair_set set = {0};
    if (options->form < 0 || !options->output) return lp_fail(err, LP_ERR_USAGE, "expected one pair file, --to and -o");
    LP_CHECK(check_outputs(path, &options->output, 1, err));
    LP_CHECK(lp_pairs_load(path, &load, &set, err));
    lp_pairs_print_options print = {.format = (lp_pairs_format)options->form, .source = file_name(path), .seed = -1};
    lp_status status = write_pairs(&set, &print, options->output, err);
    if (status == LP_OK) status = lp_text_format(out, err, "%zu pairs written\n", set.n);
    lp_pairs_release(&set);
    return status;
}

static const lp_option convert_table[] = {
    LP_CHOICE("--to", convert_options, form, "FORM", forms, "the form to write: ours, or one of the published study's"),
    LP_VALUE(PATH, "-o", convert_options, output, "FILE", "the pair file to write"),
};

const lp_command lp_cmd_pairs_convert = {
    .name = "pairs convert",
    .summary = "convert a pair file from or to the published study's form",
    .usage = (const char *const[]){"PAIRS.json --to FORM -o FILE", NULL},
    .description = "Converts between our form and the original study's, in both directions. The form of PAIRS.json is "
                   "recognised.",
    LP_OPTIONS(convert_table, convert_options, .form = -1),
    LP_OPERANDS("one pair file, --to and -o", 1, 1),
    .run = convert_pairs,
};
