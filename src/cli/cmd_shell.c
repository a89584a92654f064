/* `latentpatch completion` and `latentpatch man`. */
#include "cli/help.h"
#include "cli/print.h"

static int print_and_end(const lp_command *command, lp_status status, lp_text *text, lp_error *err) {
    if (status == LP_OK) status = lp_print(lp_text_get(text), LP_PRINT_BLOCK, err);
    lp_text_release(text);
    return status == LP_ERR_USAGE ? lp_exit_usage(command, err) : lp_exit_with(NULL, status, err);
}

static int run_completion(const lp_command *command, int argc, char **argv) {
    lp_texts operands;
    lp_text text = {0};
    lp_error err = {0};
    int code = 0, shell = 0;
    if (!lp_command_begin(command, argc, argv, NULL, &operands, &code)) return code;
    while (lp_shell_names[shell] && strcmp(lp_shell_names[shell], operands.items[0]) != 0) shell++;
    lp_status status =
        lp_shell_names[shell]
            ? lp_completion((lp_shell)shell, &text, &err)
            : lp_fail(&err, LP_ERR_USAGE, "expected one of bash, zsh, fish, found \"%.60s\"", operands.items[0]);
    return print_and_end(command, status, &text, &err);
}

static int run_man(const lp_command *command, int argc, char **argv) {
    lp_texts operands;
    lp_text text = {0};
    lp_error err = {0};
    int code = 0;
    if (!lp_command_begin(command, argc, argv, NULL, &operands, &code)) return code;
    return print_and_end(command, lp_manual(&text, &err), &text, &err);
}

const lp_command lp_cmd_completion = {
    .name = "completion",
    .summary = "a script that teaches a shell to complete command lines",
    .usage = (const char *const[]){"bash|zsh|fish", NULL},
    .description = "Prints a completion script for a shell. For bash: `source <(latentpatch completion bash)`.",
    .operands = "one of bash, zsh, fish",
    .min_operands = 1,
    .max_operands = 1,
    .operand_kind = LP_OPERANDS_SHELLS,
    .run = run_completion,
};

const lp_command lp_cmd_man = {
    .name = "man",
    .summary = "the manual page, for `man -l`",
    .usage = (const char *const[]){"", NULL},
    .description = "Prints the manual page of the program: `latentpatch man | man -l -`.",
    .operands = "nothing",
    .operand_kind = LP_OPERANDS_TEXT,
    .run = run_man,
};
