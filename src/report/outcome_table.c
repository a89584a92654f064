#include "report/outcome_table.h"

#include "base/memory.h"
#include "base/printable.h"
#include "store/results_columns.h"
#include "store/wilson.h"

#include <math.h>

static bool same_block(const lp_result_condition *a, const lp_result_condition *b) {
    return strcmp(a->role, b->role) == 0 && strcmp(a->direction, b->direction) == 0 &&
           strcmp(a->donor, b->donor) == 0 && strcmp(a->operation, b->operation) == 0 &&
           strcmp(a->site, b->site) == 0 && strcmp(a->defects, b->defects) == 0 && a->vector == b->vector &&
           a->factor == b->factor;
}

static int64_t total_of(const int64_t *counts) {
    return counts[0] + counts[1] + counts[2] + counts[3];
}

static lp_status add_shares(const int64_t *counts, lp_text *out, lp_error *err) {
    int64_t n = total_of(counts);
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

/* *out = the step set, or the position, and what else tells the condition from its neighbours in the block. */
static lp_status set_words(const lp_result_condition *c, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_text_clear(out);
    LP_TRY(lp_text_format(out, err, "%s", c->steps));
    if (c->head >= 0) LP_TRY(lp_text_format(out, err, " head %d", c->head));
    if (c->from_site[0] || c->from_layer >= 0 || c->from_step >= 0) {
        LP_TRY(lp_text_format(out, err, " from"));
        if (c->from_site[0]) LP_TRY(lp_text_format(out, err, " %s", c->from_site));
        if (c->from_layer >= 0) LP_TRY(lp_text_format(out, err, " L%d", c->from_layer));
        if (c->from_step >= 0) LP_TRY(lp_text_format(out, err, " step %d", c->from_step));
    }
    if (c->stop_after > 0) LP_TRY(lp_text_format(out, err, " stop after %d", c->stop_after));
out:
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

/* A block of the table: the conditions that differ in layers and in what set_words says only. */
typedef struct {
    lp_results *results;
    const double *kl;       /* [C] mean_kl, or NULL */
    const int32_t *members; /* [n] conditions, in order */
    int32_t n;
    int width; /* of the words */
} block;

static lp_status add_heading(const block *b, const char *columns, lp_text *out, lp_error *err) {
    const lp_result_condition *c = lp_results_condition(b->results, b->members[0]);
    const char *run = strcmp(c->direction, "denoise") == 0 ? "corrupted run" : "clean run";
    bool scale = strcmp(c->operation, "scale") == 0;
    lp_status status = LP_OK;
    LP_TRY(lp_text_format(out, err, "\n%s%s: %s", strcmp(c->role, "control") == 0 ? "control, " : "", c->direction,
                          c->operation));
    if (strcmp(c->operation, "replace") != 0) {
        LP_TRY(lp_text_format(out, err, " x"));
        LP_TRY(lp_text_add_number((double)c->factor, true, out, err));
    }
    LP_TRY(lp_text_format(out, err, " %s", c->site));
    if (!scale && c->vector >= 0)
        LP_TRY(lp_text_format(out, err, " from file %d", c->vector));
    else if (!scale)
        LP_TRY(lp_text_format(out, err, " from the %s donor", c->donor));
    LP_TRY(lp_text_format(out, err, " %s the %s", scale ? "in" : "into", run));
    LP_TRY(lp_text_format(out, err, "%s%s%s\n", c->defects[0] ? ", defects: " : "", c->defects, columns));
out:
    return status;
}

static lp_status add_lines(const block *b, lp_text *words, lp_text *out, lp_error *err) {
    const int64_t *counts = lp_results_counts(b->results);
    lp_status status = LP_OK;
    LP_TRY(add_heading(b, "", out, err));
    LP_TRY(lp_text_format(out, err, "  %-9s %-*s", "layer", b->width, "steps"));
    LP_TRY(add_class_headings(out, err));
    LP_TRY(lp_text_format(out, err, "%s\n", b->kl ? "  mean KL" : ""));
    for (int32_t i = 0; i < b->n; i++) {
        const lp_result_condition *c = lp_results_condition(b->results, b->members[i]);
        LP_TRY(set_words(c, words, err));
        LP_TRY(lp_text_format(out, err, "  %-9s %-*s", c->layers[0] ? c->layers : "-", b->width, lp_text_get(words)));
        LP_TRY(add_shares(counts + (size_t)b->members[i] * LP_N_OUTCOMES, out, err));
        if (b->kl && isnan(b->kl[b->members[i]])) LP_TRY(lp_text_format(out, err, "  %7s", "-"));
        if (b->kl && !isnan(b->kl[b->members[i]])) LP_TRY(lp_text_format(out, err, "  %7.4f", b->kl[b->members[i]]));
        LP_TRY(lp_text_format(out, err, "%s\n", c->dead ? "  dead" : ""));
    }
out:
    return status;
}

/* ---- Blocks with very many conditions a layer: one line a layer ----------------------------------------------------
 */

typedef struct {
    double share; /* of one outcome, in per cent */
    int32_t condition;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->share != y->share) return x->share < y->share ? -1 : 1;
    return (x->condition > y->condition) - (x->condition < y->condition);
}

/* Lowest, median and highest share of outcome k over the members [first, end) that are not dead, and where the highest
 * is. */
static lp_status add_spread(const block *b, int32_t first, int32_t end, int k, ranked *order, lp_text *words,
                            lp_text *out, lp_error *err) {
    const int64_t *counts = lp_results_counts(b->results);
    size_t n = 0, n_live = 0;
    for (int32_t i = first; i < end; i++) {
        const int64_t *row = counts + (size_t)b->members[i] * LP_N_OUTCOMES;
        int64_t total = total_of(row);
        if (lp_results_condition(b->results, b->members[i])->dead) continue;
        n_live++;
        if (total > 0)
            order[n++] = (ranked){.share = 100.0 * (double)row[k] / (double)total, .condition = b->members[i]};
    }
    if (n == 0) return lp_text_format(out, err, "  %20s %-*s", n_live > 0 ? "-" : "all dead", b->width, "");
    qsort(order, n, sizeof *order, compare_ranked);
    lp_status status = LP_OK;
    lp_text_clear(words);
    if (order[0].share < order[n - 1].share)
        status = set_words(lp_results_condition(b->results, order[n - 1].condition), words, err);
    if (status == LP_OK)
        status = lp_text_format(out, err, "  %6.1f %6.1f %6.1f %-*s", order[0].share,
                                (order[(n - 1) / 2].share + order[n / 2].share) / 2, order[n - 1].share, b->width,
                                lp_text_get(words));
    return status;
}

static bool same_layers(const block *b, int32_t i, int32_t k) {
    return strcmp(lp_results_condition(b->results, b->members[i])->layers,
                  lp_results_condition(b->results, b->members[k])->layers) == 0;
}

static lp_status add_spreads(const block *b, lp_text *words, lp_text *out, lp_error *err) {
    ranked *order = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&order, (size_t)b->n, sizeof *order, "table", err));
    LP_TRY(add_heading(b, ", by layer: lowest, median and highest share", out, err));
    LP_TRY(lp_text_format(out, err, "  %-9s %5s  %20s %-*s  %20s %-*s  %20s highest at\n", "layer", "cells", "clean %",
                          b->width, "highest at", "corrupted %", b->width, "highest at", "gibberish %"));
    for (int32_t first = 0, end; first < b->n; first = end) {
        for (end = first; end < b->n && same_layers(b, first, end);) end++;
        const char *layers = lp_results_condition(b->results, b->members[first])->layers;
        LP_TRY(lp_text_format(out, err, "  %-9s %5d", layers[0] ? layers : "-", end - first));
        for (int k = 0; k < LP_N_OUTCOMES; k++)
            if (k != 2) LP_TRY(add_spread(b, first, end, k, order, words, out, err));
        LP_TRY(lp_text_format(out, err, "\n"));
    }
out:
    lp_mem_free(order);
    return status;
}

/* More conditions in a row on the same layers than one reads line by line. */
static bool is_crowded(const block *b) {
    enum { READABLE = 60 };
    for (int32_t first = 0, end; first < b->n; first = end) {
        for (end = first; end < b->n && same_layers(b, first, end);) end++;
        if (end - first > READABLE) return true;
    }
    return false;
}

static lp_status add_blocks(lp_results *results, lp_table_length length, lp_text *out, lp_error *err) {
    int32_t n = lp_results_n_conditions(results), n_short = 0;
    bool *printed = NULL;
    int32_t *members = NULL;
    double *kl = NULL;
    lp_text words = {0};
    lp_status status = LP_OK;
    LP_TRY(mean_kl(results, &kl, err));
    LP_TRY(lp_mem_new(&printed, (size_t)n, sizeof *printed, "table", err));
    LP_TRY(lp_mem_new(&members, (size_t)n, sizeof *members, "table", err));
    for (int32_t i = 0; i < n; i++) {
        const lp_result_condition *head = lp_results_condition(results, i);
        if (printed[i] || strcmp(head->role, "unpatched") == 0) continue;
        block b = {.results = results, .kl = kl, .members = members, .width = 14};
        for (int32_t k = i; k < n; k++) {
            const lp_result_condition *c = lp_results_condition(results, k);
            if (printed[k] || !same_block(head, c)) continue;
            printed[k] = true;
            members[b.n++] = k;
            LP_TRY(set_words(c, &words, err));
            if ((int)words.length > b.width) b.width = (int)words.length;
        }
        if (length == LP_TABLE_SHORT && is_crowded(&b)) {
            LP_TRY(add_spreads(&b, &words, out, err));
            n_short++;
        } else {
            LP_TRY(add_lines(&b, &words, out, err));
        }
    }
    if (n_short > 0)
        LP_TRY(lp_text_format(out, err, "\n`latentpatch summary RESULTS.h5 --all` prints a line for each condition\n"));
out:
    lp_mem_free(kl);
    lp_mem_free(printed);
    lp_mem_free(members);
    lp_text_release(&words);
    return status;
}

/* How often the controls that must change nothing changed something, and what that says about the sweep. */
static lp_status add_conclusion(lp_results *results, lp_text *out, lp_error *err) {
    lp_text unpatched = {0}, self = {0}, filter = {0};
    lp_status status = LP_OK;
    int32_t dead = 0, n_self = 0;
    if (lp_results_n_included(results) == 0) {
        LP_TRY(lp_results_provenance(results, "filter", &filter, err));
        status = lp_text_format(out, err, "\nNOT TESTED: no pair of %lld passes the filter %s\n",
                                (long long)lp_results_n_pairs(results), lp_text_get(&filter));
        goto out;
    }
    for (int32_t i = 0; i < lp_results_n_conditions(results); i++) {
        const lp_result_condition *c = lp_results_condition(results, i);
        dead += c->dead;
        n_self += c->identity;
    }
    LP_TRY(lp_results_provenance(results, "control.unpatched_differ", &unpatched, err));
    LP_TRY(lp_results_provenance(results, "control.self_differ", &self, err));
    long long differ = strtoll(lp_text_get(&unpatched), NULL, 10), self_differ = strtoll(lp_text_get(&self), NULL, 10);
    LP_TRY(lp_text_format(
        out, err,
        "\ncontrols: unpatched run again: %lld of %lld pairs differ from the store; self: %lld rows of %d conditions changed; "
        "dead cells: %d\n",
        differ, (long long)lp_results_n_included(results), self_differ, n_self, dead));
    if (differ || self_differ)
        LP_TRY(
            lp_text_format(out, err, "NOT SOUND: a control that must change nothing did. Do not use these numbers.\n"));
    else if (n_self == 0)
        LP_TRY(lp_text_format(out, err, "no self control in this sweep: soundness was not tested\n"));
    else
        LP_TRY(lp_text_format(out, err, "sound: every control that must change nothing changed nothing\n"));
out:
    lp_text_release(&unpatched);
    lp_text_release(&self);
    lp_text_release(&filter);
    return status;
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
        const lp_result_condition *c = lp_results_condition(results, i);
        if (strcmp(c->role, "unpatched") != 0) continue;
        LP_TRY(lp_text_format(out, err, "%-*s", UNPATCHED_WIDTH,
                              strcmp(c->direction, "denoise") == 0 ? "unpatched corrupted" : "unpatched clean"));
        LP_TRY(add_shares(counts + (size_t)i * LP_N_OUTCOMES, out, err));
        LP_TRY(lp_text_format(out, err, "\n"));
    }
out:
    lp_text_release(&value);
    return status;
}

lp_status lp_outcome_table(lp_results *results, lp_table_length length, lp_text *out, lp_error *err) {
    lp_status status = add_origin(results, out, err);
    if (status == LP_OK) status = add_blocks(results, length, out, err);
    if (status == LP_OK) status = add_conclusion(results, out, err);
    return status;
}
