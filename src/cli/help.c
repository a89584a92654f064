#include "cli/help.h"

#include "base/build.h"

enum { WIDTH = 100, HELP_COLUMN = 26 };

lp_status lp_help_version(lp_text *out, lp_error *err) {
    return lp_text_format(out, err, "latentpatch %s (%s), %s, %s\n", lp_build_version(), lp_build_revision(),
                          lp_build_compiler(), lp_build_flags());
}

lp_status lp_help_fill(const char *paragraph, size_t indent, size_t used, size_t width, lp_text *out, lp_error *err) {
    size_t column = used;
    bool first = true;
    for (const char *p = paragraph; *p;) {
        size_t n = strcspn(p, " \n");
        if (!first && column + 1 + n > width) {
            LP_CHECK(lp_text_format(out, err, "\n%*s", (int)indent, ""));
            column = indent;
            first = true;
        }
        LP_CHECK(lp_text_format(out, err, "%s%.*s", first ? "" : " ", (int)n, p));
        column += n + !first;
        first = false;
        p += n;
        if (*p == '\n') {
            LP_CHECK(lp_text_format(out, err, "\n%*s", (int)indent, ""));
            column = indent;
            first = true;
            p++;
        }
        while (*p == ' ') p++;
    }
    return lp_text_add(out, "\n", 1, err);
}

lp_status lp_help_option(const lp_option *option, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(out, err, "%s", option->help));
    if (option->kind == LP_OPTION_INTEGER || option->kind == LP_OPTION_INTEGERS)
        LP_CHECK(option->max >= INT32_MAX
                     ? lp_text_format(out, err, "; an integer from %.0f", option->min)
                     : lp_text_format(out, err, "; an integer from %.0f to %.0f", option->min, option->max));
    if (option->kind == LP_OPTION_NUMBER)
        LP_CHECK(option->max > 1 ? lp_text_format(out, err, "; a positive number")
                                 : lp_text_format(out, err, "; a number between 0 and 1"));
    for (int i = 0; option->kind == LP_OPTION_CHOICE && option->choices[i]; i++)
        LP_CHECK(lp_text_format(out, err, "%s%s", i == 0 ? "; one of " : ", ", option->choices[i]));
    if (option->kind == LP_OPTION_TEXTS || option->kind == LP_OPTION_INTEGERS)
        LP_CHECK(lp_text_format(out, err, "; may be given several times"));
    return LP_OK;
}

static lp_status add_options(const lp_command *command, lp_text *out, lp_error *err) {
    lp_text words = {0};
    lp_status status = LP_OK;
    if (command->n_options > 0) LP_TRY(lp_text_add(out, "\n", 1, err));
    for (size_t i = 0; i < command->n_options; i++) {
        const lp_option *option = &command->options[i];
        lp_text_clear(&words);
        LP_TRY(lp_text_format(&words, err, "  %s%s%s", option->name, option->value ? " " : "",
                              option->value ? option->value : ""));
        size_t used = words.length;
        LP_TRY(lp_text_format(out, err, "%s", words.data));
        if (used + 2 > HELP_COLUMN)
            LP_TRY(lp_text_format(out, err, "\n%*s", HELP_COLUMN, ""));
        else
            LP_TRY(lp_text_format(out, err, "%*s", (int)(HELP_COLUMN - used), ""));
        lp_text_clear(&words);
        LP_TRY(lp_help_option(option, &words, err));
        LP_TRY(lp_help_fill(words.data, HELP_COLUMN, HELP_COLUMN, WIDTH, out, err));
    }
out:
    lp_text_release(&words);
    return status;
}

lp_status lp_help_command(const lp_command *command, lp_text *out, lp_error *err) {
    for (size_t i = 0; command->usage[i]; i++)
        LP_CHECK(lp_text_format(out, err, "%slatentpatch %s%s%s\n", i == 0 ? "usage: " : "       ", command->name,
                                command->usage[i][0] ? " " : "", command->usage[i]));
    LP_CHECK(lp_text_add(out, "\n", 1, err));
    LP_CHECK(lp_help_fill(command->description, 0, 0, WIDTH, out, err));
    return add_options(command, out, err);
}

lp_status lp_help_group(const char *word, lp_text *out, lp_error *err) {
    size_t length = strlen(word);
    for (size_t i = 0, n = 0; i < lp_n_commands; i++) {
        if (strncmp(lp_commands[i]->name, word, length) != 0 || lp_commands[i]->name[length] != ' ') continue;
        if (n++ > 0) LP_CHECK(lp_text_add(out, "\n", 1, err));
        LP_CHECK(lp_help_command(lp_commands[i], out, err));
    }
    return LP_OK;
}

lp_status lp_help_program(lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(out, err,
                            "latentpatch %s: activation patching of continuous thoughts, as a batch program\n\n"
                            "usage: latentpatch COMMAND ...              one process\n"
                            "       mpirun -n R latentpatch COMMAND ...  R ranks (run, cache, sweep)\n\n",
                            lp_build_version()));
    for (size_t i = 0; i < lp_n_commands; i++)
        LP_CHECK(lp_text_format(out, err, "  %-14s %s\n", lp_commands[i]->name, lp_commands[i]->summary));
    return lp_text_format(
        out, err,
        "\n`latentpatch COMMAND --help` describes a command and its options. Exit codes: 0 done, 1 error, "
        "2 wrong\ncommand line, 75 stopped on request (the same command continues).\n");
}
