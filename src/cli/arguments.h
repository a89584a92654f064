/* Command lines. One table says of every command what it is for and which options it has (name, kind, range, help);
 * reading a command line, --help, --version, completion.h's scripts and manual.h's page all come out of it. */
#ifndef LP_CLI_ARGUMENTS_H
#define LP_CLI_ARGUMENTS_H

#include "base/text.h"
#include "cli/commands.h"

enum { LP_MAX_OPERANDS = 64 };

/* What an option is followed by, and so the type of its place in the command's struct of options. */
typedef enum {
    LP_OPTION_FLAG,     /* nothing: bool */
    LP_OPTION_TEXT,     /* const char *, borrowed; NULL: not given. So are the next three. */
    LP_OPTION_FILE,     /* a file that is there */
    LP_OPTION_FOLDER,   /* a folder that is there */
    LP_OPTION_PATH,     /* a file or a folder, there or not */
    LP_OPTION_INTEGER,  /* int64_t in [min, max] */
    LP_OPTION_NUMBER,   /* double in [min, max]: positive, or a share between 0 and 1 */
    LP_OPTION_CHOICE,   /* int: index into `choices` */
    LP_OPTION_TEXTS,    /* lp_texts: may be given several times */
    LP_OPTION_INTEGERS, /* lp_integers, each in [min, max]: may be given several times */
    LP_N_OPTION_KINDS
} lp_option_kind;

typedef struct {
    const char *items[LP_MAX_OPERANDS]; /* borrowed */
    size_t n;
} lp_texts;

typedef struct {
    int64_t items[LP_MAX_OPERANDS];
    size_t n;
} lp_integers;

typedef struct {
    const char *name; /* "--top" */
    lp_option_kind kind;
    size_t offset;     /* of its place in the command's struct of options */
    const char *value; /* what stands for the value in help, "K"; NULL for a flag */
    const char *help;  /* without range and choices, which are added */
    double min, max;
    const char *const *choices; /* NULL-terminated */
} lp_option;

/* Rows of a table of options; their place is `member` of `type`, the command's struct of options. */
#define LP_FLAG(word, type, member, text)                                                                              \
    { .name = (word), .kind = LP_OPTION_FLAG, .offset = offsetof(type, member), .help = (text) }
#define LP_VALUE(of_kind, word, type, member, shown, text) LP_RANGE(of_kind, word, type, member, shown, 0, 0, text)
#define LP_RANGE(of_kind, word, type, member, shown, least, most, text)                                                \
    {                                                                                                                  \
        .name = (word), .kind = LP_OPTION_##of_kind, .offset = offsetof(type, member), .value = (shown),               \
        .help = (text), .min = (least), .max = (most)                                                                  \
    }
#define LP_CHOICE(word, type, member, shown, names, text)                                                              \
    {                                                                                                                  \
        .name = (word), .kind = LP_OPTION_CHOICE, .offset = offsetof(type, member), .value = (shown), .help = (text),  \
        .choices = (names)                                                                                             \
    }
/* The option that changes a job file. */
#define LP_SET_OPTION(type, member)                                                                                    \
    LP_VALUE(TEXTS, "--set", type, member, "KEY=VALUE",                                                                \
             "change one value of the job, e.g. --set pairs.limit=20; VALUE is JSON, or plain text")

/* What completion offers for operands. */
typedef enum { LP_OPERANDS_FILES, LP_OPERANDS_TEXT, LP_OPERANDS_SHELLS } lp_operand_kind;

struct lp_command {
    const char *name;         /* "run", "pairs make" */
    const char *summary;      /* what it does, in one line */
    const char *const *usage; /* what follows the name, one text a form; NULL-terminated */
    const char *description;  /* paragraphs, parted by newlines; they are filled to the width of the page */
    const lp_option *options;
    size_t n_options;
    const char *operands; /* "one job file": for messages */
    size_t min_operands, max_operands;
    lp_operand_kind operand_kind;
    const void *defaults; /* [options_bytes], of the command's struct of options */
    size_t options_bytes;
    /* Does the work. *out += what is then printed on standard output, also after a failure. A failure without a text
     * has been explained by what was printed. NULL of a command on a job file, which has `job` (job_command.h) instead.
     */
    lp_status (*run)(const void *options, const lp_texts *operands, lp_text *out, lp_error *err);
    const struct lp_job_form *job;
};

/* Members of lp_command: the options, with their defaults after the type of the struct; the operands. */
#define LP_OPTIONS(table, type, ...)                                                                                   \
    .options = (table), .n_options = sizeof(table) / sizeof(table)[0], .defaults = &(const type){__VA_ARGS__},         \
    .options_bytes = sizeof(type)
#define LP_OPERANDS(words, least, most) .operands = (words), .min_operands = (least), .max_operands = (most)

/* All commands, in the order of the help. */
extern const lp_command *const lp_commands[];
extern const size_t lp_n_commands;

/* Reads argv [argc], the words after the command's own, into `options`, the command's struct of options, which holds
 * the defaults; a word that is not an option is an operand. `--name value` and `--name=value` are the same; what
 * follows `--` is operands. Returns true when the command is to go on; otherwise (--help, --version, an error)
 * everything is printed and *code is the exit code. */
bool lp_command_begin(const lp_command *command, int argc, char **argv, void *options, lp_texts *operands, int *code);

/* Reads the command line, runs the command, prints, and returns the exit code. */
int lp_command_run(const lp_command *command, int argc, char **argv);

/* Prints `latentpatch: error: ...` (rank 0 only where parallel is given) and returns the exit code of the status. */
int lp_exit_with(const lp_parallel *parallel, lp_status status, const lp_error *err);
/* Usage errors of a command: the error and where to find help. */
int lp_exit_usage(const lp_command *command, const lp_error *err);

#endif
