#include "cli/arguments.h"
#include "cli/print.h"
#include "report/lens_table.h"
#include "report/outcome_table.h"

static const char help[] =
    "usage: latentpatch summary RESULTS.h5 [--all]\n"
    "       latentpatch summary RESULTS.h5 --lens [--pair ID | --csv]\n\n"
    "Prints the class table of a results file: for each layer and step set the share of answers that are the clean one, the\n"
    "corrupted one, another number or gibberish, with Wilson 95 % intervals and n; then the controls. Where a layer has more\n"
    "than 60 conditions, its line says the lowest, median and highest share; --all prints every condition.\n\n"
    "--lens prints what the logit lens read in the unpatched runs (\"readout\": \"logit_lens top K\" of the job): by layer, at the\n"
    "last question position and at each thought, the token that most pairs have first. --pair ID: of one pair, with its\n"
    "probability. --csv: everything, as CSV.\n";

static lp_status print_lens(lp_results *results, const char *pair, bool csv, lp_error *err) {
    lp_text text = {0};
    lp_status status = LP_OK;
    if (!csv) {
        LP_TRY(pair ? lp_lens_pair_table(results, pair, &text, err) : lp_lens_table(results, &text, err));
        LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err));
        goto out;
    }
    LP_TRY(lp_lens_csv_heading(&text, err));
    for (int64_t i = 0; i < lp_results_n_pairs(results); i++) {
        LP_TRY(lp_lens_csv_pair(results, i, &text, err));
        LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err));
        lp_text_clear(&text);
    }
out:
    lp_text_release(&text);
    return status;
}

int lp_cmd_summary(int argc, char **argv) {
    bool all = false, lens = false, csv = false;
    const char *pair = NULL;
    const lp_option options[] = {{.name = "--all", .flag = &all},
                                 {.name = "--lens", .flag = &lens},
                                 {.name = "--csv", .flag = &csv},
                                 {.name = "--pair", .value = &pair}};
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    lp_results *results = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    if (lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err) != LP_OK)
        return lp_exit_usage("summary", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    if (operands.n != 1) {
        lp_fail(err, LP_ERR_USAGE, "expected one results file, found %zu operands", operands.n);
        return lp_exit_usage("summary", err);
    }
    if ((lens && all) || (!lens && (csv || pair)) || (csv && pair)) {
        lp_fail(err, LP_ERR_USAGE, "expected --all, or --lens with --pair ID or --csv");
        return lp_exit_usage("summary", err);
    }
    LP_TRY(lp_results_open(operands.operands[0], &results, err));
    if (lens) {
        status = print_lens(results, pair, csv, err);
        if (status != LP_OK) lp_error_prefix(err, "%s", operands.operands[0]);
        goto out;
    }
    LP_TRY(lp_outcome_table(results, all ? LP_TABLE_ALL : LP_TABLE_SHORT, &text, err));
    LP_TRY(lp_print(lp_text_get(&text), LP_PRINT_BLOCK, err));
out:
    lp_text_release(&text);
    lp_results_free(results);
    return lp_exit_with(NULL, status, err);
}
