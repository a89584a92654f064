#include "cli/arguments.h"
#include "stage/table.h"

static const char help[] =
    "usage: latentpatch summary RESULTS.h5\n\n"
    "Prints the class table of a results file: for each layer and step set the share of answers that are the clean one, the\n"
    "corrupted one, another number or gibberish, with Wilson 95 % intervals and n; then the controls.\n";

int lp_cmd_summary(int argc, char **argv) {
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    lp_results *results = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    if (lp_arguments_read(argc, argv, NULL, 0, &operands, err) != LP_OK) return lp_exit_usage("summary", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    if (operands.n != 1) {
        lp_fail(err, LP_ERR_USAGE, "expected one results file, found %zu operands", operands.n);
        return lp_exit_usage("summary", err);
    }
    LP_TRY(lp_results_open(operands.operands[0], &results, err));
    LP_TRY(lp_class_table(results, &text, err));
    printf("%s", lp_text_get(&text));
out:
    lp_text_release(&text);
    lp_results_free(results);
    return lp_exit_with(NULL, status, err);
}
