#include "report/outcome_table.h"

#include "base/memory.h"
#include "base/printable.h"
#include "report/outcome_blocks.h"
#include "store/wilson.h"

#include <math.h>

static lp_status add_shares(const int64_t *counts, lp_text *out, lp_error *err) {
    int64_t n = lp_outcome_total(counts);
    lp_status status = LP_OK;
    for (int k = 0; k < LP_N_OUTCOMES && status == LP_OK; k++) {
        if (n == 0) {
            status = lp_text_format(out, err, "  %5s %12s", "-", "");
            continue;
        }
        lp_interval interval = lp_wilson95(counts[k], n);
        double share = 100.0 * (double)counts[k] / (double)n;
        status = lp_text_format(out, err, "  %5.1f [%4.1f-%5.1f]", share, 100 * interval.low, 100 * interval.high);
    }
    if (status == LP_OK) status = lp_text_format(out, err, "  %5lld", (long long)n);
    return status;
}

/* Headings of what add_shares appends. */
static lp_status add_class_headings(lp_text *out, lp_error *err) {
    return lp_text_format(out, err, "  %-18s  %-18s  %-18s  %-18s  %5s", "clean %", "corrupted %", "other %",
                          "gibberish %", "n");
}

/* *out [C] = the mean of the metric kl over the included pairs; NULL where the file has none. Caller frees with
 * lp_mem_free. */
static lp_status mean_kl(lp_results *results, double **out, lp_error *err) {
    enum { AT_ONCE = 65536 }; /* numbers */
    size_t n = (size_t)lp_results_n_conditions(results);
    int64_t block = (int64_t)(AT_ONCE / n) + 1, n_pairs = lp_results_n_pairs(results);
    const uint8_t *included = lp_results_included(results);
    float *values = NULL;
    double *mean = NULL;
    int64_t *defined = NULL;
    lp_status status = LP_OK;
    if (!lp_results_has_metric(results, "kl")) return LP_OK;
    LP_TRY(lp_mem_new(&values, (size_t)block * n, sizeof *values, "table", err));
    LP_TRY(lp_mem_new(&mean, n, sizeof *mean, "table", err));
    LP_TRY(lp_mem_new(&defined, n, sizeof *defined, "table", err));
    for (int64_t i = 0; i < n_pairs; i++) {
        const float *row = values + (size_t)(i % block) * n;
        if (i % block == 0)
            LP_TRY(lp_results_metric(results, "kl", i, n_pairs - i < block ? n_pairs - i : block, values, err));
        for (size_t c = 0; included[i] && c < n; c++) {
            if (isnan(row[c])) continue;
            mean[c] += (double)row[c];
            defined[c]++;
        }
    }
    for (size_t c = 0; c < n; c++) mean[c] = defined[c] ? mean[c] / (double)defined[c] : (double)NAN;
    *out = mean;
    mean = NULL;
out:
    lp_mem_free(values);
    lp_mem_free(mean);
    lp_mem_free(defined);
    return status;
}

static lp_status add_lines(const lp_outcome_block *block, const double *mean, lp_text *words, lp_text *out,
                           lp_error *err) {
    LP_CHECK(lp_outcome_heading(block, "", out, err));
    LP_CHECK(lp_text_format(out, err, "  %-9s %-*s", "layer", block->width, "steps"));
    LP_CHECK(add_class_headings(out, err));
    LP_CHECK(lp_text_format(out, err, "%s\n", mean ? "  mean KL" : ""));
    for (int32_t i = 0; i < block->n; i++) {
        const lp_result_condition *condition = lp_outcome_member(block, i);
        LP_CHECK(lp_outcome_words(condition, words, err));
        LP_CHECK(lp_text_format(out, err, "  %-9s %-*s", condition->layers[0] ? condition->layers : "-", block->width,
                                lp_text_get(words)));
        LP_CHECK(add_shares(lp_outcome_counts(block, i), out, err));
        if (mean && isnan(mean[block->members[i]])) LP_CHECK(lp_text_format(out, err, "  %7s", "-"));
        if (mean && !isnan(mean[block->members[i]]))
            LP_CHECK(lp_text_format(out, err, "  %7.4f", mean[block->members[i]]));
        LP_CHECK(lp_text_format(out, err, "%s\n", condition->dead ? "  dead" : ""));
    }
    return LP_OK;
}

static lp_status add_origin(lp_results *results, lp_text *out, lp_error *err) {
    enum { UNPATCHED_WIDTH = 26 }; /* so that the shares stand above those of most blocks */
    static const char *const keys[] = {"model", "protocol", "classifier", "executor", "dtype", "filter"};
    lp_status status = LP_OK;
    lp_text value = {0};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        lp_text_clear(&value);
        LP_TRY(lp_results_provenance(results, keys[i], &value, err));
        LP_TRY(lp_text_format(out, err, "%s%s ", i ? ", " : "", keys[i]));
        LP_TRY(lp_text_add_printable(out, lp_text_get(&value), LP_PRINT_LINE, err));
    }
    LP_TRY(lp_text_format(out, err, "\n%lld of %lld pairs included, %d conditions\n",
                          (long long)lp_results_n_included(results), (long long)lp_results_n_pairs(results),
                          lp_results_n_conditions(results)));
    LP_TRY(lp_text_format(out, err, "%-*s", UNPATCHED_WIDTH, ""));
    LP_TRY(add_class_headings(out, err));
    LP_TRY(lp_text_format(out, err, "\n"));
    const int64_t *counts = lp_results_counts(results);
    for (int32_t i = 0; i < lp_results_n_conditions(results); i++) {
        const lp_result_condition *condition = lp_results_condition(results, i);
        if (strcmp(condition->role, "unpatched") != 0) continue;
        LP_TRY(
            lp_text_format(out, err, "%-*s", UNPATCHED_WIDTH,
                           strcmp(condition->direction, "denoise") == 0 ? "unpatched corrupted" : "unpatched clean"));
        LP_TRY(add_shares(counts + (size_t)i * LP_N_OUTCOMES, out, err));
        LP_TRY(lp_text_format(out, err, "\n"));
    }
out:
    lp_text_release(&value);
    return status;
}

lp_status lp_outcome_table(lp_results *results, lp_text *out, lp_error *err) {
    lp_outcome_block *blocks = NULL;
    size_t n = 0;
    double *mean = NULL;
    lp_text words = {0};
    lp_status status = LP_OK;
    LP_TRY(add_origin(results, out, err));
    LP_TRY(lp_outcome_blocks(results, &blocks, &n, err));
    LP_TRY(mean_kl(results, &mean, err));
    for (size_t i = 0; i < n; i++) LP_TRY(add_lines(&blocks[i], mean, &words, out, err));
    LP_TRY(lp_outcome_conclusion(results, out, err));
out:
    lp_outcome_blocks_free(blocks, n);
    lp_mem_free(mean);
    lp_text_release(&words);
    return status;
}
