#include "stage/table.h"

#include "base/memory.h"
#include "store/wilson.h"

static bool same_block(const lp_result_condition *a, const lp_result_condition *b) {
    return strcmp(a->role, b->role) == 0 && strcmp(a->direction, b->direction) == 0 &&
           strcmp(a->donor, b->donor) == 0 && strcmp(a->operation, b->operation) == 0 &&
           strcmp(a->site, b->site) == 0 && strcmp(a->defects, b->defects) == 0;
}

static int64_t total_of(const int64_t *counts) {
    return counts[0] + counts[1] + counts[2] + counts[3];
}

static lp_status add_shares(const int64_t *counts, lp_text *out, lp_error *err) {
    int64_t n = total_of(counts);
    lp_status status = LP_OK;
    for (int k = 0; k < LP_N_CLASSES && status == LP_OK; k++) {
        lp_interval interval = lp_wilson95(counts[k], n);
        double share = n > 0 ? 100.0 * (double)counts[k] / (double)n : 0;
        status = lp_text_format(out, err, "  %5.1f [%4.1f-%5.1f]", share, 100 * interval.low, 100 * interval.high);
    }
    if (status == LP_OK) status = lp_text_format(out, err, "  %5lld", (long long)n);
    return status;
}

static lp_status add_line(const lp_result_condition *c, const int64_t *counts, lp_text *out, lp_error *err) {
    lp_status status = lp_text_format(out, err, "  %-9s %-14s", c->layers[0] ? c->layers : "-", c->steps);
    if (status == LP_OK) status = add_shares(counts, out, err);
    if (status == LP_OK) status = lp_text_format(out, err, "%s\n", c->dead ? "  dead" : "");
    return status;
}

static lp_status add_heading(const lp_result_condition *c, lp_text *out, lp_error *err) {
    const char *arrow = strcmp(c->direction, "denoise") == 0 ? "corrupted run" : "clean run";
    return lp_text_format(
        out, err, "\n%s%s: %s %s from the %s donor into the %s%s%s\n  %-9s %-14s  %-18s  %-18s  %-18s  %-18s  %5s\n",
        strcmp(c->role, "control") == 0 ? "control, " : "", c->direction, c->operation, c->site, c->donor, arrow,
        c->defects[0] ? ", defects: " : "", c->defects, "layer", "steps", "clean %", "corrupted %", "other %",
        "gibberish %", "n");
}

static lp_status add_blocks(lp_results *results, bool *printed, lp_text *out, lp_error *err) {
    int32_t n = lp_results_n_conditions(results);
    const int64_t *counts = lp_results_counts(results);
    lp_status status = LP_OK;
    for (int32_t i = 0; i < n; i++) {
        const lp_result_condition *head = lp_results_condition(results, i);
        if (printed[i] || strcmp(head->role, "unpatched") == 0) continue;
        LP_TRY(add_heading(head, out, err));
        for (int32_t k = i; k < n; k++) {
            const lp_result_condition *c = lp_results_condition(results, k);
            if (printed[k] || !same_block(head, c)) continue;
            printed[k] = true;
            LP_TRY(add_line(c, counts + (size_t)k * LP_N_CLASSES, out, err));
        }
    }
out:
    return status;
}

/* Pairs x conditions whose class differs from the unpatched run's, over self controls; and the same for all, as a
 * share. */
static lp_status add_verdict(lp_results *results, lp_text *out, lp_error *err) {
    lp_text unpatched = {0}, self = {0};
    lp_status status = LP_OK;
    int32_t dead = 0, n_self = 0;
    for (int32_t i = 0; i < lp_results_n_conditions(results); i++) {
        const lp_result_condition *c = lp_results_condition(results, i);
        dead += c->dead;
        n_self += strcmp(c->donor, "self") == 0;
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
    return status;
}

static lp_status add_origin(lp_results *results, lp_text *out, lp_error *err) {
    static const char *const keys[] = {"model", "protocol", "classifier", "executor", "dtype", "filter"};
    lp_status status = LP_OK;
    lp_text value = {0};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        lp_text_clear(&value);
        LP_TRY(lp_results_provenance(results, keys[i], &value, err));
        LP_TRY(lp_text_format(out, err, "%s%s %s", i ? ", " : "", keys[i], lp_text_get(&value)));
    }
    LP_TRY(lp_text_format(out, err, "\n%lld of %lld pairs included, %d conditions\n",
                          (long long)lp_results_n_included(results), (long long)lp_results_n_pairs(results),
                          lp_results_n_conditions(results)));
    const int64_t *counts = lp_results_counts(results);
    for (int32_t i = 0; i < lp_results_n_conditions(results); i++) {
        const lp_result_condition *c = lp_results_condition(results, i);
        if (strcmp(c->role, "unpatched") != 0) continue;
        LP_TRY(lp_text_format(out, err, "unpatched %-9s     ",
                              strcmp(c->direction, "denoise") == 0 ? "corrupted" : "clean"));
        LP_TRY(add_shares(counts + (size_t)i * LP_N_CLASSES, out, err));
        LP_TRY(lp_text_format(out, err, "\n"));
    }
out:
    lp_text_release(&value);
    return status;
}

lp_status lp_class_table(lp_results *results, lp_text *out, lp_error *err) {
    bool *printed = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&printed, (size_t)lp_results_n_conditions(results), sizeof *printed, "table", err));
    LP_TRY(add_origin(results, out, err));
    LP_TRY(add_blocks(results, printed, out, err));
    LP_TRY(add_verdict(results, out, err));
out:
    lp_mem_free(printed);
    return status;
}
