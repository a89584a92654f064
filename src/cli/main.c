#include "cli/arguments.h"
#include "cli/help.h"
#include "cli/job_command.h"
#include "cli/print.h"
#include "parallel/signals.h"

#include <unistd.h>

/* OpenMP threads that wait spin unless told otherwise, which on shared cores costs many times the work of a small
 * model. The runtime reads that from the environment before main, so the program sets it and starts once more. What the
 * user has set stays; where there is no /proc the program just goes on. */
static void let_threads_sleep(char **argv) {
    char self[4096];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || setenv("OMP_WAIT_POLICY", "passive", 1) != 0) return;
    self[n] = '\0';
    lp_signals_before_exec();
    (void)execv(self, argv);
}

/* Prints the version (--version), the help of the commands that begin with `word`, or that of the program (NULL). */
static int print_help(const char *word) {
    lp_text text = {0};
    lp_error err = {0};
    lp_status status = !word                            ? lp_help_program(&text, &err)
                       : strcmp(word, "--version") == 0 ? lp_help_version(&text, &err)
                                                        : lp_help_group(word, &text, &err);
    if (status == LP_OK) status = lp_print(lp_text_get(&text), LP_PRINT_BLOCK, &err);
    lp_text_release(&text);
    return lp_exit_with(NULL, status, &err);
}

static bool is_help(const char *word) {
    return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

/* The words of the command line that are the command's name: 1 or 2, or 0 where it is another. */
static int match(const lp_command *command, int argc, char **argv) {
    const char *second = strchr(command->name, ' ');
    size_t length = second ? (size_t)(second - command->name) : strlen(command->name);
    if (argc < 2 || strlen(argv[1]) != length || strncmp(argv[1], command->name, length) != 0) return 0;
    if (!second) return 1;
    return argc > 2 && strcmp(argv[2], second + 1) == 0 ? 2 : 0;
}

/* `pairs` or `store` without one of their verbs. */
static int run_group(int argc, char **argv) {
    lp_text verbs = {0};
    lp_error err = {0};
    size_t length = strlen(argv[1]);
    lp_status status = LP_OK;
    for (size_t i = 0; i < lp_n_commands && status == LP_OK; i++) {
        const char *name = lp_commands[i]->name;
        if (strncmp(name, argv[1], length) != 0 || name[length] != ' ') continue;
        if (argc > 2 && is_help(argv[2])) {
            lp_text_release(&verbs);
            return print_help(argv[1]);
        }
        status = lp_text_format(&verbs, &err, "%s%s", verbs.length ? ", " : "", name + length + 1);
    }
    if (status == LP_OK && verbs.length > 0)
        status = lp_fail(&err, LP_ERR_USAGE, "%s: expected one of %s, found %.60s (latentpatch %s --help)", argv[1],
                         verbs.data, argc > 2 ? argv[2] : "nothing", argv[1]);
    else if (status == LP_OK)
        status = lp_fail(&err, LP_ERR_USAGE, "unknown command %.60s (latentpatch --help)", argv[1]);
    lp_text_release(&verbs);
    return lp_exit_with(NULL, status, &err);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        lp_text text = {0};
        lp_error err = {0};
        if (lp_help_program(&text, &err) == LP_OK) fprintf(stderr, "%s", lp_text_get(&text));
        lp_text_release(&text);
        return LP_EXIT_USAGE;
    }
    if (is_help(argv[1])) return print_help(NULL);
    if (strcmp(argv[1], "--version") == 0) return print_help(argv[1]);
    for (size_t i = 0; i < lp_n_commands; i++) {
        int words = match(lp_commands[i], argc, argv);
        if (words == 0) continue;
        lp_error err = {0};
        let_threads_sleep(argv);
        if (lp_signals_end(&err) != LP_OK) return lp_exit_with(NULL, LP_ERR_IO, &err);
        int (*start)(const lp_command *, int, char **) = lp_commands[i]->job ? lp_job_command : lp_command_run;
        return start(lp_commands[i], argc - 1 - words, argv + 1 + words);
    }
    return run_group(argc, argv);
}

int main(int argc, char **argv) {
    lp_print_begin();
    return lp_print_end(run(argc, argv));
}
