#include "cli/arguments.h"
#include "stage/compare.h"

static const char help[] =
    "usage: latentpatch compare PUBLISHED.json RESULTS.h5 [--layers A,B,C] [--all]\n"
    "       latentpatch compare FIRST.h5 SECOND.h5 [--all]\n\n"
    "Sets the per-pair results of the original study (JSON of its scripts: patching, necessity or baseline runs) beside a\n"
    "results file: for each condition how many pairs have the published class and text. Or lists the rows in which two\n"
    "results files differ, for instance fp32 and bf16. Differences are no error.\n\n"
    "  --layers A,B,C  which layers are early, middle and late, where the results have not just three\n"
    "  --all           list all rows that differ, not the first 20\n";

static lp_status read_layers(const char *text, int32_t layers[LP_PUBLISHED_LAYERS], lp_error *err) {
    const char *p = text;
    for (int i = 0; i < LP_PUBLISHED_LAYERS; i++) {
        char *end = NULL;
        long layer = strtol(p, &end, 10);
        if (end == p || layer < 0 || layer > 255 || *end != (i + 1 < LP_PUBLISHED_LAYERS ? ',' : '\0'))
            return lp_fail(err, LP_ERR_USAGE, "--layers: expected three layers such as 4,8,14, found \"%.60s\"", text);
        layers[i] = (int32_t)layer;
        p = end + 1;
    }
    return LP_OK;
}

static bool is_json(const char *path) {
    size_t n = strlen(path);
    return n > 5 && strcmp(path + n - 5, ".json") == 0;
}

int lp_cmd_compare(int argc, char **argv) {
    lp_operands operands;
    const char *layers = NULL;
    bool all = false;
    const lp_option options[] = {{.name = "--layers", .value = &layers}, {.name = "--all", .flag = &all}};
    lp_compare_options wanted = {.layers = {-1, -1, -1}, .most_lines = 20};
    lp_error error = {0}, *err = &error;
    lp_published published = {0};
    lp_results *first = NULL, *second = NULL;
    lp_text text = {0};
    lp_status status = lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err);
    if (status != LP_OK) return lp_exit_usage("compare", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    if (operands.n != 2) {
        lp_fail(err, LP_ERR_USAGE, "expected two files, found %zu operands", operands.n);
        return lp_exit_usage("compare", err);
    }
    if (layers && read_layers(layers, wanted.layers, err) != LP_OK) return lp_exit_usage("compare", err);
    if (all) wanted.most_lines = 0;
    LP_TRY(lp_results_open(operands.operands[1], &second, err));
    if (is_json(operands.operands[0])) {
        LP_TRY(lp_published_load(operands.operands[0], &published, err));
        LP_TRY(lp_compare_published(&published, second, &wanted, &text, err));
    } else {
        LP_TRY(lp_results_open(operands.operands[0], &first, err));
        LP_TRY(lp_compare_results(first, second, &wanted, &text, err));
    }
    printf("%s", lp_text_get(&text));
out:
    lp_text_release(&text);
    lp_published_release(&published);
    lp_results_free(first);
    lp_results_free(second);
    return lp_exit_with(NULL, status, err);
}
