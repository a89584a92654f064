#include "cli/arguments.h"
#include "cli/outputs.h"
#include "cli/print.h"
#include "report/lens_table.h"
#include "report/outcome_table.h"

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

typedef struct {
    bool all, lens, csv;
    const char *pair;
} summary_options;

static const lp_option table[] = {
    LP_FLAG("--all", summary_options, all, "a line for every condition, with intervals"),
    LP_FLAG(
        "--lens", summary_options, lens,
        "show what the logit lens read in the unpatched runs: by layer, at the last question position and at each thought, "
        "the token that most pairs have first (the job needs \"readout\": \"logit_lens top K\")"),
    LP_VALUE(TEXT, "--pair", summary_options, pair, "ID", "with --lens: show one pair, with probabilities"),
    LP_FLAG("--csv", summary_options, csv, "with --lens: print everything as CSV"),
};

static lp_status run(const void *given, const lp_texts *operands, lp_text *out, lp_error *err) {
    const summary_options *options = given;
    lp_results *results = NULL;
    lp_status status = LP_OK;
    (void)out;
    if ((options->lens && options->all) || (!options->lens && (options->csv || options->pair)) ||
        (options->csv && options->pair))
        return lp_fail(err, LP_ERR_USAGE, "expected --all, or --lens with --pair ID or --csv");
    LP_TRY(lp_results_open(operands->items[0], &results, err));
    if (!options->lens) {
        status = lp_print_outcomes(results, options->all, err);
        goto out;
    }
    status = print_lens(results, options->pair, options->csv, err);
    if (status != LP_OK) lp_error_prefix(err, "%s", operands->items[0]);
out:
    lp_results_free(results);
    return status;
}

const lp_command lp_cmd_summary = {
    .name = "summary",
    .summary = "the table of a results file, or its logit lens",
    .usage = (const char *const[]){"RESULTS.h5 [--all]", "RESULTS.h5 --lens [--pair ID | --csv]", NULL},
    .description =
        "Prints what a sweep found: for each combination of donor, site and direction a grid, layers down and step sets "
        "across, with the share of the donor's answer (* where it overtakes the recipient's own answer), or with the share "
        "of the recipient's own answer where the donor is not the other run; then the controls, and whether the sweep is "
        "sound. --all prints a line for each condition, with all four outcomes and Wilson 95 % intervals.",
    LP_OPTIONS(table, summary_options, 0),
    LP_OPERANDS("one results file", 1, 1),
    .run = run,
};
