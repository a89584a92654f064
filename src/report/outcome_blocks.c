#include "report/outcome_blocks.h"

#include "base/memory.h"
#include "base/printable.h"
#include "store/results_columns.h"

static bool same_block(const lp_result_condition *a, const lp_result_condition *b) {
    return strcmp(a->role, b->role) == 0 && strcmp(a->direction, b->direction) == 0 &&
           strcmp(a->donor, b->donor) == 0 && strcmp(a->operation, b->operation) == 0 &&
           strcmp(a->site, b->site) == 0 && strcmp(a->defects, b->defects) == 0 && a->vector == b->vector &&
           a->factor == b->factor;
}

const lp_result_condition *lp_outcome_member(const lp_outcome_block *block, int32_t i) {
    return lp_results_condition(block->results, block->members[i]);
}

const int64_t *lp_outcome_counts(const lp_outcome_block *block, int32_t i) {
    return lp_results_counts(block->results) + (size_t)block->members[i] * LP_N_OUTCOMES;
}

int64_t lp_outcome_total(const int64_t counts[LP_N_OUTCOMES]) {
    return counts[0] + counts[1] + counts[2] + counts[3];
}

lp_status lp_outcome_blocks(lp_results *results, lp_outcome_block **out, size_t *n_out, lp_error *err) {
    int32_t n = lp_results_n_conditions(results);
    lp_outcome_block *blocks = NULL;
    size_t n_blocks = 0, capacity = 0;
    bool *taken = NULL;
    lp_text words = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&taken, (size_t)n, sizeof *taken, "table", err));
    for (int32_t i = 0; i < n; i++) {
        const lp_result_condition *head = lp_results_condition(results, i);
        if (taken[i] || strcmp(head->role, "unpatched") == 0) continue;
        LP_TRY(lp_mem_grow(&blocks, &capacity, n_blocks + 1, sizeof *blocks, "table", err));
        lp_outcome_block *block = &blocks[n_blocks++];
        *block = (lp_outcome_block){.results = results, .width = 14};
        size_t members = 0;
        for (int32_t k = i; k < n; k++) members += !taken[k] && same_block(head, lp_results_condition(results, k));
        LP_TRY(lp_mem_new(&block->members, members, sizeof *block->members, "table", err));
        for (int32_t k = i; k < n; k++) {
            const lp_result_condition *condition = lp_results_condition(results, k);
            if (taken[k] || !same_block(head, condition)) continue;
            taken[k] = true;
            block->members[block->n++] = k;
            LP_TRY(lp_outcome_words(condition, &words, err));
            if ((int)words.length > block->width) block->width = (int)words.length;
        }
    }
    *out = blocks;
    *n_out = n_blocks;
    blocks = NULL;
out:
    if (blocks) lp_outcome_blocks_free(blocks, n_blocks);
    lp_mem_free(taken);
    lp_text_release(&words);
    return status;
}

void lp_outcome_blocks_free(lp_outcome_block *blocks, size_t n) {
    for (size_t i = 0; blocks && i < n; i++) lp_mem_free(blocks[i].members);
    lp_mem_free(blocks);
}

lp_status lp_outcome_words(const lp_result_condition *condition, lp_text *out, lp_error *err) {
    lp_text_clear(out);
    LP_CHECK(lp_text_format(out, err, "%s", condition->steps));
    if (condition->head >= 0) LP_CHECK(lp_text_format(out, err, " head %d", condition->head));
    if (condition->from_site[0] || condition->from_layer >= 0 || condition->from_step >= 0) {
        LP_CHECK(lp_text_format(out, err, " from"));
        if (condition->from_site[0]) LP_CHECK(lp_text_format(out, err, " %s", condition->from_site));
        if (condition->from_layer >= 0) LP_CHECK(lp_text_format(out, err, " L%d", condition->from_layer));
        if (condition->from_step >= 0) LP_CHECK(lp_text_format(out, err, " step %d", condition->from_step));
    }
    if (condition->stop_after > 0) LP_CHECK(lp_text_format(out, err, " stop after %d", condition->stop_after));
    return LP_OK;
}

/* Is the operation, whose name may be followed by details in brackets, one of the NULL-terminated list? */
static bool is_one_of(const char *operation, const char *const *names) {
    size_t length = strcspn(operation, "(");
    for (; *names; names++)
        if (strlen(*names) == length && strncmp(*names, operation, length) == 0) return true;
    return false;
}

lp_status lp_outcome_heading(const lp_outcome_block *block, const char *columns, lp_text *out, lp_error *err) {
    const lp_result_condition *condition = lp_outcome_member(block, 0);
    const char *run = strcmp(condition->direction, "denoise") == 0 ? "corrupted run" : "clean run";
    static const char *const with_factor[] = {"add", "scale", "lerp", NULL};
    static const char *const without_donor[] = {"scale", "remove", "keep", "forbid", NULL};
    bool in_place = is_one_of(condition->operation, without_donor);
    lp_text line = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_text_format(&line, err, "%s%s: %s", strcmp(condition->role, "control") == 0 ? "control, " : "",
                          condition->direction, condition->operation));
    if (is_one_of(condition->operation, with_factor)) {
        LP_TRY(lp_text_format(&line, err, " x"));
        LP_TRY(lp_text_add_number((double)condition->factor, true, &line, err));
    }
    LP_TRY(lp_text_format(&line, err, " %s", condition->site));
    if (!in_place && condition->vector >= 0)
        LP_TRY(lp_text_format(&line, err, " from file %d", condition->vector));
    else if (!in_place)
        LP_TRY(lp_text_format(&line, err, " from the %s donor", condition->donor));
    LP_TRY(lp_text_format(&line, err, " %s the %s", in_place ? "in" : "into", run));
    LP_TRY(
        lp_text_format(&line, err, "%s%s%s", condition->defects[0] ? ", defects: " : "", condition->defects, columns));
    LP_TRY(lp_text_add(out, "\n", 1, err));
    LP_TRY(lp_text_add_printable(out, lp_text_get(&line), LP_PRINT_LINE, err));
    LP_TRY(lp_text_add(out, "\n", 1, err));
out:
    lp_text_release(&line);
    return status;
}

/* A number that the sweep noted in the provenance; 0 where there is none. */
static lp_status noted(lp_results *results, const char *key, long long *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_results_provenance(results, key, &text, err);
    *out = status == LP_OK ? strtoll(lp_text_get(&text), NULL, 10) : 0;
    lp_text_release(&text);
    return status;
}

static lp_status add_count(long long n, const char *what, lp_text *out, lp_error *err) {
    return n == 0 ? lp_text_format(out, err, "nothing changed\n")
                  : lp_text_format(out, err, "%lld %s changed\n", n, what);
}

lp_status lp_outcome_conclusion(lp_results *results, lp_text *out, lp_error *err) {
    lp_text filter = {0}, families = {0};
    lp_status status = LP_OK;
    int32_t dead = 0, n_self = 0;
    long long differ = 0, self_differ = 0, n_included = (long long)lp_results_n_included(results);
    if (n_included == 0) {
        LP_TRY(lp_results_provenance(results, "filter", &filter, err));
        LP_TRY(lp_text_format(out, err, "\nNOT TESTED: no pair of %lld passes the filter ",
                              (long long)lp_results_n_pairs(results)));
        LP_TRY(lp_text_add_printable(out, lp_text_get(&filter), LP_PRINT_LINE, err));
        status = lp_text_add(out, "\n", 1, err);
        goto out;
    }
    for (int32_t i = 0; i < lp_results_n_conditions(results); i++) {
        const lp_result_condition *condition = lp_results_condition(results, i);
        dead += condition->dead;
        n_self += condition->identity;
    }
    LP_TRY(noted(results, "control.unpatched_differ", &differ, err));
    LP_TRY(noted(results, "control.self_differ", &self_differ, err));
    LP_TRY(lp_text_format(out, err, "\nunpatched runs made again: %lld pairs, ", n_included));
    LP_TRY(add_count(differ, "of them", out, err));
    LP_TRY(lp_text_format(out, err, "self: %d condition%s, ", n_self, n_self == 1 ? "" : "s"));
    LP_TRY(n_self == 0 ? lp_text_format(out, err, "not tested\n") : add_count(self_differ, "answers", out, err));
    if (dead > 0)
        LP_TRY(lp_text_format(out, err, "dead: %d condition%s that nothing reads; left out of the statistics\n", dead,
                              dead == 1 ? "" : "s"));
    LP_TRY(lp_results_provenance(results, "known_beforehand", &families, err));
    LP_TRY(lp_text_format(out, err, "%s", lp_text_get(&families)));
    if (differ || self_differ)
        LP_TRY(
            lp_text_format(out, err, "NOT SOUND: a control that must change nothing did. Do not use these numbers.\n"));
    else if (n_self == 0)
        LP_TRY(lp_text_format(out, err, "This sweep has no self control, so its soundness was not tested.\n"));
    else
        LP_TRY(lp_text_format(out, err, "Sound: every control that must change nothing changed nothing.\n"));
out:
    lp_text_release(&filter);
    lp_text_release(&families);
    return status;
}
