#include "cli/arguments.h"

#include "base/memory.h"
#include "base/number.h"
#include "cli/help.h"
#include "cli/job_command.h"
#include "cli/print.h"

static const lp_option *find_option(const lp_command *command, const char *word, size_t length) {
    for (size_t i = 0; i < command->n_options; i++) {
        const lp_option *option = &command->options[i];
        if (strlen(option->name) == length && strncmp(option->name, word, length) == 0) return option;
    }
    return NULL;
}

/* An option of another command is a likely mistake: say whose it is. */
static lp_status fail_unknown(const char *word, size_t length, lp_error *err) {
    lp_text owners = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < lp_n_commands && status == LP_OK; i++)
        if (find_option(lp_commands[i], word, length))
            status = lp_text_format(&owners, err, "%s%s", owners.length ? ", " : "", lp_commands[i]->name);
    status =
        owners.length > 0
            ? lp_fail(err, LP_ERR_USAGE, "unknown option %.*s: it is an option of %s", (int)length, word, owners.data)
            : lp_fail(err, LP_ERR_USAGE, "unknown option %.*s", length > 60 ? 60 : (int)length, word);
    lp_text_release(&owners);
    return status;
}

static lp_status read_integer(const lp_option *option, const char *text, int64_t *out, lp_error *err) {
    if (lp_read_integer(text, (int64_t)option->min, (int64_t)option->max, out)) return LP_OK;
    return lp_fail(err, LP_ERR_USAGE, "%s: expected an integer from %.0f to %.0f, found \"%.60s\"", option->name,
                   option->min, option->max, text);
}

static lp_status read_number(const lp_option *option, const char *text, double *out, lp_error *err) {
    double value = 0;
    if (lp_read_number(text, &value) && value >= option->min && value <= option->max) {
        *out = value;
        return LP_OK;
    }
    return lp_fail(err, LP_ERR_USAGE, "%s: expected a number from %g to %g, found \"%.60s\"", option->name, option->min,
                   option->max, text);
}

static lp_status read_choice(const lp_option *option, const char *text, int *out, lp_error *err) {
    lp_text list = {0};
    lp_status status = LP_OK;
    for (int i = 0; option->choices[i]; i++)
        if (strcmp(option->choices[i], text) == 0) {
            *out = i;
            return LP_OK;
        }
    for (int i = 0; option->choices[i] && status == LP_OK; i++)
        status = lp_text_format(&list, err, "%s%s", i > 0 ? ", " : "", option->choices[i]);
    if (status == LP_OK)
        status = lp_fail(err, LP_ERR_USAGE, "%s: expected one of %s, found \"%.60s\"", option->name, lp_text_get(&list),
                         text);
    lp_text_release(&list);
    return status;
}

static lp_status read_value(const lp_option *option, const char *text, void *options, lp_error *err) {
    void *place = (char *)options + option->offset;
    lp_texts *texts = place;
    lp_integers *integers = place;
    switch (option->kind) {
    case LP_OPTION_INTEGER: return read_integer(option, text, place, err);
    case LP_OPTION_NUMBER: return read_number(option, text, place, err);
    case LP_OPTION_CHOICE: return read_choice(option, text, place, err);
    case LP_OPTION_TEXTS:
        if (texts->n == LP_MAX_OPERANDS) break;
        texts->items[texts->n++] = text;
        return LP_OK;
    case LP_OPTION_INTEGERS:
        if (integers->n == LP_MAX_OPERANDS) break;
        return read_integer(option, text, &integers->items[integers->n++], err);
    default:
        if (!*text) return lp_fail(err, LP_ERR_USAGE, "%s: expected a value, found an empty one", option->name);
        *(const char **)place = text;
        return LP_OK;
    }
    return lp_fail(err, LP_ERR_USAGE, "%s: given more than %d times", option->name, LP_MAX_OPERANDS);
}

/* *ended: --help or --version was printed. */
static lp_status read_words(const lp_command *command, int argc, char **argv, void *options, lp_texts *operands,
                            bool *ended, lp_error *err) {
    bool only_operands = false;
    lp_text text = {0};
    lp_status status = LP_OK;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (only_operands || word[0] != '-' || word[1] == '\0') {
            if (operands->n == LP_MAX_OPERANDS) LP_FAIL(LP_ERR_USAGE, "more than %d operands", LP_MAX_OPERANDS);
            operands->items[operands->n++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_operands = true;
            continue;
        }
        *ended = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "--version") == 0;
        if (*ended) {
            LP_TRY(strcmp(word, "--version") == 0 ? lp_help_version(&text, err) : lp_help_command(command, &text, err));
            LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err));
            goto out;
        }
        const char *equals = strchr(word, '=');
        size_t length = equals ? (size_t)(equals - word) : strlen(word);
        const lp_option *option = find_option(command, word, length);
        if (!option) LP_TRY(fail_unknown(word, length, err));
        if (option->kind == LP_OPTION_FLAG) {
            if (equals) LP_FAIL(LP_ERR_USAGE, "%s takes no value", option->name);
            *(bool *)((char *)options + option->offset) = true;
            continue;
        }
        if (!equals && i + 1 == argc) LP_FAIL(LP_ERR_USAGE, "%s needs a value", option->name);
        LP_TRY(read_value(option, equals ? equals + 1 : argv[++i], options, err));
    }
    if (operands->n < command->min_operands || operands->n > command->max_operands)
        LP_FAIL(LP_ERR_USAGE, "expected %s, found %zu operand%s", command->operands, operands->n,
                operands->n == 1 ? "" : "s");
    for (size_t i = 0; i < operands->n && command->min_operands > 0; i++)
        if (operands->items[i][0] == '\0') LP_FAIL(LP_ERR_USAGE, "expected %s, found an empty name", command->operands);
out:
    lp_text_release(&text);
    return status;
}

bool lp_command_begin(const lp_command *command, int argc, char **argv, void *options, lp_texts *operands, int *code) {
    lp_error err = {0};
    bool ended = false;
    *operands = (lp_texts){0};
    lp_status status = read_words(command, argc, argv, options, operands, &ended, &err);
    *code = status == LP_OK ? LP_EXIT_OK : lp_exit_usage(command, &err);
    return status == LP_OK && !ended;
}

int lp_command_run(const lp_command *command, int argc, char **argv) {
    lp_error err = {0};
    lp_texts operands;
    lp_text out = {0};
    void *options = NULL;
    int code = LP_EXIT_OK;
    lp_status status = lp_mem_new(&options, 1, command->options_bytes, "options", &err);
    if (status != LP_OK) return lp_exit_with(NULL, status, &err);
    if (command->options_bytes > 0) memcpy(options, command->defaults, command->options_bytes);
    if (lp_command_begin(command, argc, argv, options, &operands, &code)) {
        status = command->run(options, &operands, &out, &err);
        lp_status printed = lp_print(lp_text_get(&out), LP_PRINT_BLOCK, status == LP_OK ? &err : NULL);
        if (status == LP_OK) status = printed;
        code = status == LP_ERR_USAGE ? lp_exit_usage(command, &err) : lp_exit_with(NULL, status, &err);
    }
    lp_text_release(&out);
    lp_mem_free(options);
    return code;
}

int lp_exit_with(const lp_parallel *parallel, lp_status status, const lp_error *err) {
    if (status == LP_OK) return LP_EXIT_OK;
    if (err->text[0] && (!parallel || lp_parallel_rank(parallel) == 0))
        fprintf(stderr, "latentpatch: %s%s\n", status == LP_ERR_STOPPED ? "" : "error: ", err->text);
    if (status == LP_ERR_STOPPED) return LP_EXIT_STOPPED;
    return status == LP_ERR_USAGE ? LP_EXIT_USAGE : LP_EXIT_ERROR;
}

int lp_exit_usage(const lp_command *command, const lp_error *err) {
    /* All ranks of a launch have the same words. Rank 0 says what is wrong with them. A rank that ended with an error
     * of its own could make the launcher end rank 0 before that. */
    if (command->job && command->job->mpi == LP_JOB_WITH_MPI && lp_parallel_launched_rank() > 0) return LP_EXIT_OK;
    fprintf(stderr, "latentpatch: error: %s: %s (latentpatch %s --help)\n", command->name, err->text, command->name);
    return LP_EXIT_USAGE;
}
