#include "cli/arguments.h"

static const lp_option *find_option(const lp_option *options, size_t n, const char *word, size_t length) {
    for (size_t i = 0; i < n; i++)
        if (strlen(options[i].name) == length && strncmp(options[i].name, word, length) == 0) return &options[i];
    return NULL;
}

static lp_status take_value(const lp_option *option, const char *value, lp_error *err) {
    if (option->value) *option->value = value;
    if (option->values) {
        if (*option->n_values == LP_MAX_OPERANDS)
            return lp_fail(err, LP_ERR_USAGE, "%s: given more than %d times", option->name, LP_MAX_OPERANDS);
        option->values[(*option->n_values)++] = value;
    }
    return LP_OK;
}

lp_status lp_arguments_read(int argc, char **argv, const lp_option *options, size_t n, lp_operands *out,
                            lp_error *err) {
    bool only_operands = false;
    *out = (lp_operands){0};
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (only_operands || word[0] != '-' || word[1] == '\0') {
            if (out->n == LP_MAX_OPERANDS) return lp_fail(err, LP_ERR_USAGE, "more than %d operands", LP_MAX_OPERANDS);
            out->operands[out->n++] = word;
            continue;
        }
        if (strcmp(word, "--") == 0) {
            only_operands = true;
            continue;
        }
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
            out->help = true;
            continue;
        }
        const char *equals = strchr(word, '=');
        size_t length = equals ? (size_t)(equals - word) : strlen(word);
        const lp_option *option = find_option(options, n, word, length);
        if (!option) return lp_fail(err, LP_ERR_USAGE, "unknown option %.*s", (int)length, word);
        if (option->flag) {
            if (equals) return lp_fail(err, LP_ERR_USAGE, "%s takes no value", option->name);
            *option->flag = true;
            continue;
        }
        if (!equals && i + 1 == argc) return lp_fail(err, LP_ERR_USAGE, "%s needs a value", option->name);
        lp_status status = take_value(option, equals ? equals + 1 : argv[++i], err);
        if (status != LP_OK) return status;
    }
    return LP_OK;
}

int lp_exit_with(const lp_parallel *parallel, lp_status status, const lp_error *err) {
    if (status == LP_OK) return LP_EXIT_OK;
    if (!parallel || lp_parallel_rank(parallel) == 0) {
        if (status == LP_ERR_STOPPED)
            fprintf(stderr, "latentpatch: %s\n", err->text);
        else
            fprintf(stderr, "latentpatch: error: %s\n", err->text);
    }
    if (status == LP_ERR_STOPPED) return LP_EXIT_STOPPED;
    return status == LP_ERR_USAGE ? LP_EXIT_USAGE : LP_EXIT_ERROR;
}

int lp_exit_usage(const char *command, const lp_error *err) {
    fprintf(stderr, "latentpatch: error: %s: %s (latentpatch %s --help)\n", command, err->text, command);
    return LP_EXIT_USAGE;
}
