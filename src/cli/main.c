#include "base/build.h"
#include "cli/arguments.h"
#include "cli/commands.h"
#include "cli/print.h"

#include <unistd.h>

typedef struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *what;
} command;

static const command commands[] = {
    {"run", lp_cmd_run, "cache (where the store does not fit already), sweep, and the class table"},
    {"cache", lp_cmd_cache, "stage 1: unpatched runs of every pair into the activation store"},
    {"sweep", lp_cmd_sweep, "stage 2: all conditions from the store, into the results files"},
    {"summary", lp_cmd_summary, "the class table of a results file, with intervals"},
    {"plan", lp_cmd_plan, "what a job will do: conditions, dead cells, work; computes nothing"},
    {"inspect", lp_cmd_inspect, "read a model and say what it is"},
    {"tokenize", lp_cmd_tokenize, "token ids of a text or of a JSONL field"},
    {"generate", lp_cmd_generate, "answer one question, with the top tokens of each thought"},
    {"pairs", lp_cmd_pairs, "make or check pair files"},
    {"store", lp_cmd_store, "info, verify, archive, export, merge"},
};

static void print_help(FILE *out) {
    fprintf(out, "latentpatch %s: activation patching of continuous thoughts, as a batch program\n\n",
            lp_build_version());
    fprintf(out, "usage: latentpatch COMMAND ...            one process\n");
    fprintf(out, "       mpirun -n R latentpatch COMMAND ...  R ranks (run, cache, sweep)\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].what);
    fprintf(
        out,
        "\nlatentpatch COMMAND --help says more. Exit codes: 0 done, 1 error, 2 usage, 75 stopped on request (run again to "
        "continue).\n");
}

/* OpenMP threads that wait spin unless told otherwise, which on shared cores costs many times the work of a small
 * model. The runtime reads that from the environment before main, so the program sets it and starts once more. What the
 * user has set stays; where there is no /proc the program just goes on. */
static void let_threads_sleep(char **argv) {
    char self[4096];
    if (getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || setenv("OMP_WAIT_POLICY", "passive", 1) != 0) return;
    self[n] = '\0';
    (void)execv(self, argv);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return LP_EXIT_USAGE;
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help(stdout);
        return LP_EXIT_OK;
    }
    if (strcmp(word, "--version") == 0) {
        printf("latentpatch %s (%s), %s, %s\n", lp_build_version(), lp_build_revision(), lp_build_compiler(),
               lp_build_flags());
        return LP_EXIT_OK;
    }
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        if (strcmp(word, commands[i].name) == 0) {
            let_threads_sleep(argv);
            return commands[i].run(argc - 2, argv + 2);
        }
    lp_error err;
    lp_fail(&err, LP_ERR_USAGE, "unknown command %.60s (latentpatch --help)", word);
    return lp_exit_with(NULL, LP_ERR_USAGE, &err);
}

int main(int argc, char **argv) {
    lp_print_begin();
    return lp_print_end(run(argc, argv));
}
