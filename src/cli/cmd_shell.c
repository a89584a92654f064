/* `latentpatch completion` and `latentpatch man`. */
#include "cli/help.h"

static lp_status run_completion(const void *options, const lp_texts *operands, lp_text *out, lp_error *err) {
    int shell = 0;
    (void)options;
    while (lp_shell_names[shell] && strcmp(lp_shell_names[shell], operands->items[0]) != 0) shell++;
    if (!lp_shell_names[shell])
        return lp_fail(err, LP_ERR_USAGE, "expected one of bash, zsh, fish, found \"%.60s\"", operands->items[0]);
    return lp_completion((lp_shell)shell, out, err);
}

static lp_status run_man(const void *options, const lp_texts *operands, lp_text *out, lp_error *err) {
    (void)options;
    (void)operands;
    return lp_manual(out, err);
}

const lp_command lp_cmd_completion = {
    .name = "completion",
    .summary = "a script that teaches a shell to complete command lines",
    .usage = (const char *const[]){"bash|zsh|fish", NULL},
    .description = "Prints a completion script for a shell. For bash: `source <(latentpatch completion bash)`.",
    LP_OPERANDS("one of bash, zsh, fish", 1, 1),
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
