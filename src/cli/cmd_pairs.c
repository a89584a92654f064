/* `latentpatch pairs make | check | convert`: pair files from word problems. */
#include "cli/arguments.h"
#include "cli/print.h"

#include "base/file.h"
#include "problems/pair_check.h"
#include "problems/pair_make.h"
#include "problems/pair_write.h"

#include <errno.h>

/* A verb of `pairs`: its line of use, and what its options mean. */
typedef struct {
    const char *name, *usage, *options;
} verb_help;

static const verb_help verbs[] = {
    {"make", "latentpatch pairs make --source FILE --format FORMAT -o PAIRS.json [options]\n",
     "make: pairs of problems that differ in one number, by rule; nothing that is not sure\n"
     "  --format F          gsm8k: JSON lines with question and answer, the answer a solution with <<...>> annotations\n"
     "                      gsm8k-aug: lines question||<<...>> <<...>>#### answer; svamp: its JSON array\n"
     "                      gsm-plus: JSON lines, each variant a pair with its seed question\n"
     "                      templates: texts with variables, as in jobs/demo/train/templates.json\n"
     "  --count N           how many pairs (default: all there are; of templates 100 each)\n"
     "  --seed S            of every random choice (default 0); the same seed gives the same bytes\n"
     "  --per-problem N     pairs of one problem (default 1)\n"
     "  --change WHICH      first, last or any number (default any)\n"
     "  --delta A-B         size of the change, in units of the number's last digit that is not 0 (default 1-5)\n"
     "  --digits RULE       same or any number of digits (default same)\n"
     "  --tokenizer NAME=P  count tokens by the tokenizer.json P; may be repeated\n"
     "  --same-tokens       only pairs whose questions have equal counts in every tokenizer\n"
     "  --strata LIST       share the count equally among numbers of steps: 2,3,4-5,6-\n"
     "  --tune-share X      mark this share of the problems \"tune\", the others \"test\"\n"
     "  --tune FILE         write the tune pairs to this file instead\n"
     "  --side SIDE         of templates: held-out, training or all (default held-out)\n"
     "  --prefix TEXT       of the ids (default: the source's name)\n"
     "  --to FORM           own, original or original-flat (default own)\n"
     "  --rejected FILE     one JSON line for each refusal: index, numbers, reason\n"
     "  --strict            exit 1 when there are fewer than --count\n"},
    {"check", "latentpatch pairs check PAIRS.json [options]\n",
     "check: the defects of a pair file (ours, or the original study's), as a table; exit 1 when there are any\n"
     "  --tokenizer NAME=P  count tokens by the tokenizer.json P; may be repeated\n"
     "  --same-tokens       the two questions of a pair have equal counts in every tokenizer\n"
     "  --max-tokens N      no question has more\n"
     "  --training FILE     no question is close to one of this file's\n"
     "  --training-format F its format (default gsm8k)\n"
     "  --verified          pairs whose corrupted answer cannot be recomputed are defects, too\n"
     "  --list FILE         one CSV line a pair: its defects, the stated and the recomputed answer\n"
     "  --fix FILE          write the sound pairs; exit 0 when there are any\n"},
    {"convert", "latentpatch pairs convert PAIRS.json --to FORM -o FILE\n",
     "convert: between our form and the original study's, in both directions; the form of PAIRS.json is recognised\n"
     "  --to FORM           own, original or original-flat\n"},
};
enum { N_VERBS = sizeof verbs / sizeof verbs[0] };

/* Of the verb; of all where it is none of them. */
static void print_help(const char *verb) {
    bool known = false;
    for (size_t i = 0; i < N_VERBS; i++) known |= strcmp(verbs[i].name, verb) == 0;
    for (size_t i = 0, n = 0; i < N_VERBS; i++)
        if (!known || strcmp(verbs[i].name, verb) == 0) printf("%s%s", n++ ? "       " : "usage: ", verbs[i].usage);
    for (size_t i = 0; i < N_VERBS; i++)
        if (!known || strcmp(verbs[i].name, verb) == 0) printf("\n%s", verbs[i].options);
}

/* ---- values of options; NULL means that the option was not given ---- */

static lp_status parse_integer(const char *option, const char *text, int64_t min, int64_t max, int64_t *out,
                               lp_error *err) {
    char *end = NULL;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (end == text || *end || errno || number < min || number > max)
        return lp_fail(err, LP_ERR_USAGE, "%s: expected an integer from %lld to %lld, found \"%.60s\"", option,
                       (long long)min, (long long)max, text);
    *out = number;
    return LP_OK;
}

static lp_status parse_size(const char *option, const char *text, int64_t max, size_t *out, lp_error *err) {
    int64_t number = 0;
    if (!text) return LP_OK;
    lp_status status = parse_integer(option, text, 1, max, &number, err);
    if (status == LP_OK) *out = (size_t)number;
    return status;
}

/* *out = the index of text among the names. */
static lp_status parse_choice(const char *option, const char *text, const char *const *names, int *out, lp_error *err) {
    if (!text) return LP_OK;
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], text) == 0) {
            *out = i;
            return LP_OK;
        }
    lp_text list = {0};
    lp_status status = LP_OK;
    for (int i = 0; names[i] && status == LP_OK; i++)
        status = lp_text_format(&list, err, "%s%s", i > 0 ? ", " : "", names[i]);
    if (status == LP_OK)
        status =
            lp_fail(err, LP_ERR_USAGE, "%s: expected one of %s, found \"%.60s\"", option, lp_text_get(&list), text);
    lp_text_release(&list);
    return status;
}

/* "2-5", "3", "6-": inclusive; an open end is `most`. */
static lp_status parse_range(const char *option, const char *text, size_t length, int most, int *low, int *high,
                             lp_error *err) {
    char part[64];
    int64_t first = 0, last = 0;
    snprintf(part, sizeof part, "%.*s", (int)(length < 60 ? length : 60), text);
    char *dash = strchr(part, '-');
    if (dash) *dash = 0;
    lp_status status = parse_integer(option, part, 1, most, &first, err);
    last = first;
    if (status == LP_OK && dash) last = most;
    if (status == LP_OK && dash && dash[1]) status = parse_integer(option, dash + 1, first, most, &last, err);
    *low = (int)first;
    *high = (int)last;
    return status;
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
    lp_status status = LP_OK;
    for (size_t i = 0; i < n; i++) {
        const char *equal = strchr(values[i], '=');
        if (!equal || equal == values[i] || equal - values[i] >= 64)
            LP_FAIL(LP_ERR_USAGE, "--tokenizer: expected NAME=PATH, found \"%.60s\"", values[i]);
        if (out->n == LP_MAX_TOKENIZERS) LP_FAIL(LP_ERR_USAGE, "--tokenizer: more than %d", LP_MAX_TOKENIZERS);
        snprintf(out->names[out->n], sizeof out->names[0], "%.*s", (int)(equal - values[i]), values[i]);
        LP_TRY(lp_tokenizer_load(equal + 1, &out->owned[out->n], err));
        out->items[out->n] = (lp_named_tokenizer){out->names[out->n], out->owned[out->n]};
        out->n++;
    }
out:
    return status;
}

static void release_tokenizers(tokenizers *list) {
    for (size_t i = 0; i < list->n; i++) lp_tokenizer_free(list->owned[i]);
}

/* ---- make ---- */

static const char *const forms[] = {"own", "original", "original-flat", NULL};

typedef struct {
    lp_make_options make;
    tokenizers tokenizers;
    const char *output, *tune, *rejected;
    bool strict;
    int form;
} make_command;

/* The options as they were written. */
typedef struct {
    const char *format, *count, *seed, *per_problem, *change, *delta, *digits, *strata, *tune_share, *side, *to;
    const char *tokenizers[LP_MAX_OPERANDS];
    size_t n_tokenizers;
    bool same_tokens;
} make_words;

static lp_status parse_make(const make_words *words, make_command *out, lp_error *err) {
    static const char *const which[] = {"any", "first", "last", NULL};
    static const char *const digits[] = {"same", "any", NULL};
    static const char *const sides[] = {"held-out", "training", "all", NULL};
    lp_make_options *make = &out->make;
    lp_status status = LP_OK;
    int format = 0, change = 0, digit_rule = 0, side = 0;
    int64_t seed = 0;
    LP_TRY(parse_choice("--format", words->format, lp_source_format_names, &format, err));
    LP_TRY(parse_size("--count", words->count, 100000000, &make->count, err));
    if (words->seed) LP_TRY(parse_integer("--seed", words->seed, 0, INT64_C(1) << 53, &seed, err));
    LP_TRY(parse_size("--per-problem", words->per_problem, 16, &make->per_problem, err));
    LP_TRY(parse_choice("--change", words->change, which, &change, err));
    if (words->delta)
        LP_TRY(parse_range("--delta", words->delta, strlen(words->delta), 99, &make->min_delta, &make->max_delta, err));
    LP_TRY(parse_choice("--digits", words->digits, digits, &digit_rule, err));
    LP_TRY(parse_strata(words->strata, make, err));
    if (words->tune_share) {
        char *end = NULL;
        make->tune_share = strtod(words->tune_share, &end);
        if (end == words->tune_share || *end || !(make->tune_share > 0 && make->tune_share < 1))
            LP_FAIL(LP_ERR_USAGE, "--tune-share: expected a share between 0 and 1, found \"%.60s\"", words->tune_share);
    }
    LP_TRY(parse_choice("--side", words->side, sides, &side, err));
    LP_TRY(parse_choice("--to", words->to, forms, &out->form, err));
    make->format = (lp_source_format)format;
    make->seed = (uint64_t)seed;
    make->which = (lp_change_which)change;
    make->digits = (lp_digits_rule)digit_rule;
    make->side = (lp_template_side)side;
    make->tokens = words->same_tokens ? LP_TOKENS_EQUAL : LP_TOKENS_IGNORE;
    if (!make->path || !words->format || !out->output) LP_FAIL(LP_ERR_USAGE, "make needs --source, --format and -o");
    if (out->tune && !words->tune_share) LP_FAIL(LP_ERR_USAGE, "--tune needs --tune-share");
    if (words->same_tokens && words->n_tokenizers == 0) LP_FAIL(LP_ERR_USAGE, "--same-tokens needs --tokenizer");
    LP_TRY(load_tokenizers(words->tokenizers, words->n_tokenizers, &out->tokenizers, err));
    memcpy(make->tokenizers, out->tokenizers.items, sizeof make->tokenizers);
    make->n_tokenizers = out->tokenizers.n;
out:
    return status;
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

static lp_status write_pairs(const lp_pair_set *set, const make_command *command, lp_pair_split only, const char *path,
                             lp_error *err) {
    const char *slash = strrchr(command->make.path, '/');
    lp_pairs_print_options print = {.format = (lp_pairs_format)command->form,
                                    .source = slash ? slash + 1 : command->make.path,
                                    .seed = (int64_t)command->make.seed,
                                    .only = only};
    lp_text text = {0};
    lp_status status = lp_pairs_print(set, &print, &text, err);
    if (status == LP_OK) status = lp_file_write(path, lp_text_get(&text), text.length, err);
    lp_text_release(&text);
    return status;
}

static lp_status run_make(int argc, char **argv, bool *short_of, lp_error *err) {
    lp_status status = LP_OK;
    make_command command = {0};
    make_words words = {0};
    lp_operands operands;
    lp_made made = {0};
    lp_text rejected = {0};
    const lp_option options[] = {
        {.name = "--source", .value = &command.make.path},
        {.name = "--format", .value = &words.format},
        {.name = "--count", .value = &words.count},
        {.name = "--seed", .value = &words.seed},
        {.name = "--change", .value = &words.change},
        {.name = "--per-problem", .value = &words.per_problem},
        {.name = "--delta", .value = &words.delta},
        {.name = "--digits", .value = &words.digits},
        {.name = "--strata", .value = &words.strata},
        {.name = "--same-tokens", .flag = &words.same_tokens},
        {.name = "--tune", .value = &command.tune},
        {.name = "--tune-share", .value = &words.tune_share},
        {.name = "--side", .value = &words.side},
        {.name = "--prefix", .value = &command.make.prefix},
        {.name = "--to", .value = &words.to},
        {.name = "--rejected", .value = &command.rejected},
        {.name = "--strict", .flag = &command.strict},
        {.name = "-o", .value = &command.output},
        {.name = "--tokenizer", .values = words.tokenizers, .n_values = &words.n_tokenizers},
    };
    LP_TRY(lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err));
    if (operands.n > 0) LP_FAIL(LP_ERR_USAGE, "make: unexpected argument \"%.60s\"", operands.operands[0]);
    LP_TRY(parse_make(&words, &command, err));
    if (command.rejected) command.make.rejected = &rejected;
    LP_TRY(lp_pairs_make(&command.make, &made, err));
    print_summary(&made, &command);
    if (command.rejected) LP_TRY(lp_file_write(command.rejected, lp_text_get(&rejected), rejected.length, err));
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

/* ---- check ---- */

static lp_status run_check(int argc, char **argv, bool *unsound, lp_error *err) {
    lp_status status = LP_OK;
    lp_check_options check = {0};
    tokenizers list = {0};
    lp_operands operands;
    lp_pair_set set = {0};
    lp_check_report report = {0};
    lp_text text = {0}, table = {0};
    const char *fix = NULL, *listing = NULL, *max_tokens = NULL, *training_format = NULL;
    const char *names[LP_MAX_OPERANDS];
    size_t n_names = 0;
    bool same_tokens = false, verified = false;
    int format = LP_SOURCE_GSM8K;
    const lp_option options[] = {
        {.name = "--tokenizer", .values = names, .n_values = &n_names},
        {.name = "--same-tokens", .flag = &same_tokens},
        {.name = "--max-tokens", .value = &max_tokens},
        {.name = "--training", .value = &check.training_path},
        {.name = "--training-format", .value = &training_format},
        {.name = "--verified", .flag = &verified},
        {.name = "--list", .value = &listing},
        {.name = "--fix", .value = &fix},
    };
    LP_TRY(lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err));
    if (operands.n != 1) LP_FAIL(LP_ERR_USAGE, "check needs one pair file, found %zu", operands.n);
    LP_TRY(parse_choice("--training-format", training_format, lp_source_format_names, &format, err));
    if (format == LP_SOURCE_TEMPLATES) LP_FAIL(LP_ERR_USAGE, "--training-format: templates are no questions");
    LP_TRY(parse_size("--max-tokens", max_tokens, 1000000, &check.max_tokens, err));
    if (n_names == 0 && (max_tokens || same_tokens))
        LP_FAIL(LP_ERR_USAGE, "--max-tokens and --same-tokens need --tokenizer");
    LP_TRY(load_tokenizers(names, n_names, &list, err));
    memcpy(check.tokenizers, list.items, sizeof check.tokenizers);
    check.n_tokenizers = list.n;
    check.training_format = (lp_source_format)format;
    check.tokens = same_tokens ? LP_TOKENS_EQUAL : LP_TOKENS_IGNORE;
    check.unverified = verified ? LP_UNVERIFIED_REFUSE : LP_UNVERIFIED_ALLOW;
    const char *path = operands.operands[0];
    lp_pairs_options load = {.mode = LP_PAIRS_AUDIT};
    LP_TRY(lp_file_read(path, (size_t)1 << 30, &text, err));
    LP_TRY(lp_pairs_parse(lp_text_get(&text), text.length, path, &load, &set, err));
    LP_TRY(lp_pairs_check(&set, &check, &report, err));
    LP_TRY(lp_check_print(&set, &check, &report, &table, err));
    LP_TRY(lp_print(lp_text_get(&table), LP_PRINT_BLOCK, err));
    *unsound = report.n_sound < set.n;
    if (listing) {
        lp_text_clear(&table);
        LP_TRY(lp_check_list(&set, &report, &table, err));
        LP_TRY(lp_file_write(listing, lp_text_get(&table), table.length, err));
    }
    if (!fix) goto out;
    if (report.n_sound == 0) LP_FAIL(LP_ERR_VALUE, "%s: no pair is sound; nothing was written", path);
    lp_text_clear(&table);
    LP_TRY(lp_check_fix(&set, &report, path, lp_text_get(&text), text.length, &table, err));
    LP_TRY(lp_file_write(fix, lp_text_get(&table), table.length, err));
    *unsound = false;
out:
    lp_check_release(&report);
    lp_pairs_release(&set);
    lp_text_release(&text);
    lp_text_release(&table);
    release_tokenizers(&list);
    return status;
}

/* ---- convert ---- */

static lp_status run_convert(int argc, char **argv, lp_error *err) {
    lp_status status = LP_OK;
    lp_pair_set set = {0};
    lp_text text = {0};
    lp_operands operands;
    const char *to = NULL, *output = NULL;
    int form = 0;
    const lp_option options[] = {{.name = "--to", .value = &to}, {.name = "-o", .value = &output}};
    LP_TRY(lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err));
    if (operands.n != 1 || !to || !output) LP_FAIL(LP_ERR_USAGE, "convert needs one pair file, --to and -o");
    LP_TRY(parse_choice("--to", to, forms, &form, err));
    const char *path = operands.operands[0], *slash = strrchr(path, '/');
    lp_pairs_options load = {.equal_answers = LP_EQUAL_ANSWERS_ALLOW};
    LP_TRY(lp_pairs_load(path, &load, &set, err));
    lp_pairs_print_options print = {.format = (lp_pairs_format)form, .source = slash ? slash + 1 : path, .seed = -1};
    LP_TRY(lp_pairs_print(&set, &print, &text, err));
    LP_TRY(lp_file_write(output, lp_text_get(&text), text.length, err));
    printf("%zu pairs written\n", set.n);
out:
    lp_pairs_release(&set);
    lp_text_release(&text);
    return status;
}

int lp_cmd_pairs(int argc, char **argv) {
    lp_error err = {0};
    bool failed = false;
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help(argv[0]);
            return LP_EXIT_OK;
        }
    lp_status status = LP_OK;
    if (argc > 0 && strcmp(argv[0], "make") == 0)
        status = run_make(argc - 1, argv + 1, &failed, &err);
    else if (argc > 0 && strcmp(argv[0], "check") == 0)
        status = run_check(argc - 1, argv + 1, &failed, &err);
    else if (argc > 0 && strcmp(argv[0], "convert") == 0)
        status = run_convert(argc - 1, argv + 1, &err);
    else
        status = lp_fail(&err, LP_ERR_USAGE, "expected make, check or convert");
    if (status == LP_ERR_USAGE) return lp_exit_usage("pairs", &err);
    if (status != LP_OK) return lp_exit_with(NULL, status, &err);
    return failed ? LP_EXIT_ERROR : LP_EXIT_OK;
}
