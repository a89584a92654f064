#include "base/build.h"
#include "cli/help.h"

/* roff: a backslash, a leading dot or quote, and a hyphen mean something else than themselves. */
static lp_status add_roff(const char *text, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    bool line_start = out->length == 0 || out->data[out->length - 1] == '\n';
    for (const char *p = text; *p && status == LP_OK; p++) {
        if (line_start && (*p == '.' || *p == '\'')) status = lp_text_add(out, "\\&", 2, err);
        line_start = *p == '\n';
        if (status != LP_OK) break;
        if (*p == '\\')
            status = lp_text_add(out, "\\e", 2, err);
        else if (*p == '-')
            status = lp_text_add(out, "\\-", 2, err);
        else
            status = lp_text_add(out, p, 1, err);
    }
    return status;
}

static lp_status add_option(const lp_option *option, lp_text *out, lp_error *err) {
    lp_text words = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_text_format(out, err, ".TP\n.B "));
    LP_TRY(add_roff(option->name, out, err));
    if (option->value) LP_TRY(lp_text_format(out, err, " \\fI%s\\fR", option->value));
    LP_TRY(lp_text_add(out, "\n", 1, err));
    LP_TRY(lp_help_option(option, &words, err));
    LP_TRY(add_roff(lp_text_get(&words), out, err));
    LP_TRY(lp_text_add(out, "\n", 1, err));
out:
    lp_text_release(&words);
    return status;
}

static lp_status add_command(const lp_command *command, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_format(out, err, ".SS %s\n", command->name));
    for (size_t i = 0; command->usage[i]; i++) {
        LP_CHECK(lp_text_format(out, err, "%s.B latentpatch %s\n", i > 0 ? ".br\n" : "", command->name));
        LP_CHECK(add_roff(command->usage[i], out, err));
        if (command->usage[i][0]) LP_CHECK(lp_text_add(out, "\n", 1, err));
    }
    LP_CHECK(lp_text_format(out, err, ".PP\n"));
    LP_CHECK(add_roff(command->description, out, err));
    LP_CHECK(lp_text_add(out, "\n", 1, err));
    for (size_t i = 0; i < command->n_options; i++) LP_CHECK(add_option(&command->options[i], out, err));
    return LP_OK;
}

lp_status lp_manual(lp_text *out, lp_error *err) {
    static const char *const codes[][2] = {
        {"0", "The command did what it was asked for."},
        {"1",
         "There was an error. One line on standard error names the file, the place, what was expected and what was found."},
        {"2", "The command line is wrong."},
        {"75",
         "The stage stopped on request (SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2 or a stop file). Everything that was "
         "done is kept, and the same command continues."}};
    LP_CHECK(
        lp_text_format(out, err, ".TH LATENTPATCH 1 \"\" \"latentpatch %s\" \"User Commands\"\n", lp_build_version()));
    LP_CHECK(lp_text_format(
        out, err,
        ".SH NAME\nlatentpatch \\- activation patching of continuous\\-thought language models\n"
        ".SH SYNOPSIS\n.B latentpatch\n.I COMMAND\n[\\fIARGUMENT\\fR]...\n.br\n"
        ".B mpirun \\-n\n.I R\n.B latentpatch\n.I COMMAND\n[\\fIARGUMENT\\fR]...\n"
        ".SH DESCRIPTION\n"
        "The program takes a language model that reasons in continuous thoughts and asks which of its\n"
        "activations cause the answer. It caches the activations of a clean and of a corrupted question,\n"
        "writes those of one run into the other at every layer, step and count that a job file names, lets\n"
        "the model answer, and counts what comes out. MPI ranks share the pairs of questions.\n"
        ".PP\nEvery command prints its help with\n.BR \\-\\-help ,\nand the version with\n"
        ".BR \\-\\-version .\n.SH COMMANDS\n"));
    for (size_t i = 0; i < lp_n_commands; i++) LP_CHECK(add_command(lp_commands[i], out, err));
    LP_CHECK(lp_text_format(out, err, ".SH EXIT STATUS\n"));
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        LP_CHECK(lp_text_format(out, err, ".TP\n.B %s\n%s\n", codes[i][0], codes[i][1]));
    return lp_text_format(out, err,
                          ".SH FILES\n.TP\n.I *.store.h5\nthe activation store of a job (HDF5)\n"
                          ".TP\n.IR *.results.h5 \", \" *.csv \", \" *.summary.json\nwhat a sweep found\n"
                          ".TP\n.I *.results.h5.partial\nthe rows of a sweep that is not done\n"
                          ".TP\n.I *.lock\nkeeps a second job away from an output in use\n"
                          ".TP\n.I *.stop\na file of this name asks the job that writes the output to stop\n"
                          ".SH ENVIRONMENT\nEnvironment variables do not change results.\n"
                          ".SH SEE ALSO\n.BR mpirun (1),\n.BR srun (1)\n");
}
