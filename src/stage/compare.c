#include "stage/compare.h"

#include "base/memory.h"

#include <math.h>

/* Classes and answers of all rows of a results file. */
typedef struct {
    lp_results *results;
    int64_t n_pairs;
    int32_t n_conditions;
    uint8_t *outcome; /* [n_pairs, n_conditions] */
    int32_t *answer;  /* [n_pairs, n_conditions] */
} rows;

static void rows_release(rows *r) {
    lp_mem_free(r->outcome);
    lp_mem_free(r->answer);
}

static lp_status rows_read(lp_results *results, rows *out, lp_error *err) {
    rows r = {
        .results = results, .n_pairs = lp_results_n_pairs(results), .n_conditions = lp_results_n_conditions(results)};
    size_t n = (size_t)r.n_pairs * (size_t)r.n_conditions;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&r.outcome, n, sizeof *r.outcome, "classes", err));
    LP_TRY(lp_mem_new(&r.answer, n, sizeof *r.answer, "answers", err));
    LP_TRY(lp_results_outcomes(results, 0, r.n_pairs, r.outcome, err));
    LP_TRY(lp_results_answers(results, 0, r.n_pairs, r.answer, err));
    for (size_t i = 0; i < n; i++)
        if (r.outcome[i] >= LP_N_OUTCOMES && r.outcome[i] != LP_OUTCOME_NOT_RUN)
            LP_FAIL(LP_ERR_FORMAT, "/rows/class: expected 0 to %d, found %d", LP_N_OUTCOMES - 1, r.outcome[i]);
    *out = r;
    return LP_OK;
out:
    rows_release(&r);
    return status;
}

static size_t row_at(const rows *r, int64_t pair, int32_t condition) {
    return (size_t)pair * (size_t)r->n_conditions + (size_t)condition;
}

/* Lines about rows that differ: counted all, kept up to a number. */
typedef struct {
    lp_text text;
    int64_t n, most;
} listing;

static lp_status list_row(listing *lines, lp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
static lp_status list_row(listing *lines, lp_error *err, const char *format, ...) {
    char line[1024];
    if (lines->n++ >= lines->most && lines->most > 0) return LP_OK;
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    return lp_text_format(&lines->text, err, "  %s\n", line);
}

static lp_status put_listing(const listing *lines, lp_text *out, lp_error *err) {
    if (lines->n == 0) return LP_OK;
    lp_status status = lp_text_format(out, err, "\nrows that differ:\n%s", lp_text_get(&lines->text));
    int64_t left = lines->most > 0 ? lines->n - lines->most : 0;
    if (status == LP_OK && left > 0) status = lp_text_format(out, err, "  and %lld more (--all)\n", (long long)left);
    return status;
}

static lp_status add_origin(lp_results *results, lp_text *out, lp_error *err) {
    static const char *const keys[] = {"model", "protocol", "executor", "device", "dtype"};
    lp_text value = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0] && status == LP_OK; i++) {
        lp_text_clear(&value);
        status = lp_results_provenance(results, keys[i], &value, err);
        if (status == LP_OK) status = lp_text_format(out, err, "%s%s %s", i ? ", " : "", keys[i], lp_text_get(&value));
    }
    lp_text_release(&value);
    if (status != LP_OK) return status;
    return lp_text_format(out, err, "; %lld of %lld pairs included\n", (long long)lp_results_n_included(results),
                          (long long)lp_results_n_pairs(results));
}

/* ---- Published: unpatched runs ----------------------------------------------------------------------------------- */

static bool same_number(double a, double b) {
    return fabs(a - b) < 0.01;
}

/* Which pairs both have, and whether their unpatched answers are the published ones. */
static lp_status compare_unpatched(const lp_published *published, lp_results *results, listing *lines, lp_text *out,
                                   lp_error *err) {
    static const char *const sides[2] = {"clean", "corrupted"};
    int64_t both = 0, here_only = 0, equal[2] = {0}, found = 0;
    const uint8_t *included = lp_results_included(results);
    bool filtered = published->kind == LP_PUBLISHED_PATCHING;
    lp_status status = LP_OK;
    for (int64_t p = 0; p < lp_results_n_pairs(results); p++) {
        const lp_published_pair *there = lp_published_find(published, lp_results_pair_id(results, p));
        const char *texts[2] = {lp_results_clean_text(results, p), lp_results_corrupted_text(results, p)};
        if (!there) {
            here_only += included[p];
            continue;
        }
        found++;
        both += included[p];
        for (int k = 0; k < 2 && there->text[k]; k++) {
            bool same = strcmp(texts[k], there->text[k]) == 0;
            equal[k] += same;
            if (!same)
                LP_TRY(list_row(lines, err, "pair %s, %s unpatched: published \"%.80s\", here \"%.80s\"", there->id,
                                sides[k], there->text[k], texts[k]));
        }
    }
    if (found == 0) LP_FAIL(LP_ERR_MISMATCH, "the two files have no pair in common (pairs are matched by their id)");
    LP_TRY(lp_text_format(out, err, "%lld pairs in both files", (long long)found));
    if (filtered)
        LP_TRY(lp_text_format(out, err, "; pass the filter in both: %lld, published only: %lld, here only: %lld",
                              (long long)both, (long long)((int64_t)published->n - both), (long long)here_only));
    if (published->kind != LP_PUBLISHED_NECESSITY)
        LP_TRY(lp_text_format(out, err, "\nunpatched texts equal: clean %lld, corrupted %lld of %lld",
                              (long long)equal[0], (long long)equal[1], (long long)found));
    status = lp_text_format(out, err, "\n");
out:
    return status;
}

/* ---- Published: patching ----------------------------------------------------------------------------------------- */

static bool is_patching(const lp_result_condition *c, uint64_t mask) {
    return strcmp(c->role, "effect") == 0 && strcmp(c->direction, "denoise") == 0 && strcmp(c->donor, "clean") == 0 &&
           strcmp(c->operation, "replace") == 0 && strcmp(c->site, "resid_post") == 0 && c->step_mask == mask &&
           c->layer >= 0 && !strstr(c->name, "<step") && !strstr(c->name, "/stop:");
}

static bool has_donor_layers(const lp_result_condition *c) {
    return strstr(c->name, "<L") != NULL;
}

/* The conditions that stand for early, middle and late among those that are done like `head`; false when the layers do
 * not say which. */
static bool choose_layers(const rows *r, const lp_result_condition *head, uint64_t mask,
                          const lp_compare_options *options, int32_t chosen[LP_PUBLISHED_LAYERS], bool *used) {
    int n = 0;
    bool given = options->layers[0] >= 0;
    for (int l = 0; l < LP_PUBLISHED_LAYERS; l++) chosen[l] = -1;
    for (int32_t i = 0; i < r->n_conditions; i++) {
        const lp_result_condition *c = lp_results_condition(r->results, i);
        if (!is_patching(c, mask) || strcmp(c->defects, head->defects) != 0 ||
            has_donor_layers(c) != has_donor_layers(head))
            continue;
        used[i] = true;
        for (int l = 0; l < LP_PUBLISHED_LAYERS && given; l++)
            if (c->layer == options->layers[l]) chosen[l] = i;
        bool again = given; /* first:4 and set:0,1,2,3 are the same */
        for (int l = 0; l < n; l++) again |= lp_results_condition(r->results, chosen[l])->layer == c->layer;
        if (again) continue;
        if (n == LP_PUBLISHED_LAYERS) return false;
        int at = n++;
        for (; at > 0 && lp_results_condition(r->results, chosen[at - 1])->layer > c->layer; at--)
            chosen[at] = chosen[at - 1];
        chosen[at] = i;
    }
    for (int l = 0; l < LP_PUBLISHED_LAYERS; l++)
        if (chosen[l] < 0) return false;
    return true;
}

static lp_status add_counts(const int64_t counts[LP_N_OUTCOMES], lp_text *out, lp_error *err) {
    char text[96];
    snprintf(text, sizeof text, "%lld/%lld/%lld/%lld", (long long)counts[0], (long long)counts[1], (long long)counts[2],
             (long long)counts[3]);
    return lp_text_format(out, err, "  %-20s", text);
}

static lp_status compare_layer(const lp_published *published, const rows *r, int layer, int32_t condition,
                               listing *lines, lp_text *out, lp_error *err) {
    const lp_result_condition *c = lp_results_condition(r->results, condition);
    int64_t n = 0, same_outcome = 0, same_text = 0, counts[2][LP_N_OUTCOMES] = {{0}};
    lp_status status = LP_OK;
    for (int64_t p = 0; p < r->n_pairs; p++) {
        const lp_published_pair *there = lp_published_find(published, lp_results_pair_id(r->results, p));
        uint8_t outcome = r->outcome[row_at(r, p, condition)];
        lp_result_answer answer;
        if (!there || outcome == LP_OUTCOME_NOT_RUN) continue;
        LP_TRY(lp_results_answer(r->results, r->answer[row_at(r, p, condition)], &answer, err));
        bool text_equal = strcmp(answer.text, there->patched[layer]) == 0;
        n++;
        same_outcome += outcome == there->outcome[layer];
        same_text += text_equal;
        counts[0][there->outcome[layer]]++;
        counts[1][outcome]++;
        if (outcome != there->outcome[layer] || !text_equal)
            LP_TRY(list_row(lines, err, "pair %s, %s: published %s \"%.80s\", here %s \"%.80s\"", there->id, c->name,
                            lp_outcome_names[there->outcome[layer]], there->patched[layer], lp_outcome_names[outcome],
                            answer.text));
    }
    LP_TRY(lp_text_format(out, err, "  %-7s L%-4d %8lld %8lld %6lld", lp_published_layers[layer], c->layer,
                          (long long)same_outcome, (long long)same_text, (long long)n));
    LP_TRY(add_counts(counts[0], out, err));
    LP_TRY(add_counts(counts[1], out, err));
    status = lp_text_format(out, err, "\n");
out:
    return status;
}

static lp_status compare_patching(const lp_published *published, const rows *r, const lp_compare_options *options,
                                  listing *lines, lp_text *out, lp_error *err) {
    uint64_t mask = (UINT64_C(1) << published->n_tokens) - 1;
    int32_t chosen[LP_PUBLISHED_LAYERS], n_found = 0, n_tables = 0;
    bool *used = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&used, (size_t)r->n_conditions, sizeof *used, "conditions", err));
    for (int32_t i = 0; i < r->n_conditions; i++) {
        const lp_result_condition *head = lp_results_condition(r->results, i);
        if (used[i] || !is_patching(head, mask)) continue;
        n_found++;
        if (!choose_layers(r, head, mask, options, chosen, used)) continue;
        n_tables++;
        LP_TRY(lp_text_format(out, err, "\nfirst %d thoughts, defects: %s%s\n", published->n_tokens,
                              head->defects[0] ? head->defects : "none",
                              has_donor_layers(head) ? ", donor from other layers" : ""));
        LP_TRY(lp_text_format(out, err, "  %-7s %-5s %8s %8s %6s  %-20s  %-20s\n", "", "layer",
                              "classes=", "texts=", "pairs", "published c/c/o/g", "here c/c/o/g"));
        for (int l = 0; l < LP_PUBLISHED_LAYERS; l++)
            LP_TRY(compare_layer(published, r, l, chosen[l], lines, out, err));
    }
    if (n_found == 0)
        LP_FAIL(LP_ERR_MISMATCH, "the results have no condition denoise/clean/replace/resid_post with first:%d",
                published->n_tokens);
    if (n_tables == 0)
        LP_FAIL(LP_ERR_VALUE,
                "the results have not three layers at first:%d, or not those given: say which are early, middle and "
                "late, e.g. --layers 4,8,14",
                published->n_tokens);
out:
    lp_mem_free(used);
    return status;
}

/* ---- Published: all thoughts zeroed ------------------------------------------------------------------------------ */

/* The answer of side `k` is right: its own class, or the clean one where both answers are the same. */
static bool is_right(const rows *r, int64_t pair, int k, uint8_t outcome) {
    bool equal = same_number(lp_results_clean_answer(r->results, pair), lp_results_corrupted_answer(r->results, pair));
    return outcome == k || (outcome == 0 && equal);
}

static lp_status compare_zeroed(const lp_published *published, const rows *r, int32_t condition, listing *lines,
                                lp_text *out, lp_error *err) {
    const lp_result_condition *c = lp_results_condition(r->results, condition);
    int k = strcmp(c->direction, "noise") == 0 ? 0 : 1; /* whose run was changed */
    int64_t n = 0, same = 0, right[2] = {0};
    lp_status status = LP_OK;
    for (int64_t p = 0; p < r->n_pairs; p++) {
        const lp_published_pair *there = lp_published_find(published, lp_results_pair_id(r->results, p));
        uint8_t outcome = r->outcome[row_at(r, p, condition)];
        if (!there || outcome == LP_OUTCOME_NOT_RUN) continue;
        bool here = is_right(r, p, k, outcome);
        n++;
        same += here == there->ablated[k];
        right[0] += there->ablated[k];
        right[1] += here;
        if (here != there->ablated[k])
            LP_TRY(list_row(lines, err, "pair %s, %s: published %s, here %s (%s)", there->id, c->name,
                            there->ablated[k] ? "right" : "wrong", here ? "right" : "wrong",
                            lp_outcome_names[outcome]));
    }
    status = lp_text_format(out, err, "  %-9s L%-6s %-28s %6lld %6lld %10lld %6lld\n", k ? "corrupted" : "clean",
                            c->layers, c->defects[0] ? c->defects : "none", (long long)same, (long long)n,
                            (long long)right[0], (long long)right[1]);
out:
    return status;
}

static lp_status compare_necessity(const lp_published *published, const rows *r, listing *lines, lp_text *out,
                                   lp_error *err) {
    uint64_t mask = (UINT64_C(1) << LP_PUBLISHED_THOUGHTS) - 1;
    int32_t n_found = 0;
    lp_status status =
        lp_text_format(out, err, "\nall thoughts zeroed: answers still right\n  %-9s %-7s %-28s %6s %6s %10s %6s\n",
                       "run", "layer", "defects", "equal", "pairs", "published", "here");
    for (int32_t i = 0; i < r->n_conditions && status == LP_OK; i++) {
        const lp_result_condition *c = lp_results_condition(r->results, i);
        if (strcmp(c->donor, "zero") != 0 || strcmp(c->operation, "replace") != 0 ||
            strcmp(c->site, "resid_post") != 0 || c->step_mask != mask)
            continue;
        n_found++;
        status = compare_zeroed(published, r, i, lines, out, err);
    }
    if (status == LP_OK && n_found == 0)
        return lp_fail(err, LP_ERR_MISMATCH, "the results have no condition zero/replace/resid_post at all %d steps",
                       LP_PUBLISHED_THOUGHTS);
    return status;
}

lp_status lp_compare_published(const lp_published *published, lp_results *results, const lp_compare_options *options,
                               lp_text *out, lp_error *err) {
    rows r = {0};
    listing lines = {.most = options->most_lines};
    lp_status status = LP_OK;
    LP_TRY(rows_read(results, &r, err));
    LP_TRY(lp_text_format(out, err, "here: "));
    LP_TRY(add_origin(results, out, err));
    LP_TRY(compare_unpatched(published, results, &lines, out, err));
    if (published->kind == LP_PUBLISHED_PATCHING)
        LP_TRY(compare_patching(published, &r, options, &lines, out, err));
    else if (published->kind == LP_PUBLISHED_NECESSITY)
        LP_TRY(compare_necessity(published, &r, &lines, out, err));
    status = put_listing(&lines, out, err);
out:
    lp_text_release(&lines.text);
    rows_release(&r);
    return status;
}

/* ---- Two results files ------------------------------------------------------------------------------------------- */

static int64_t find_pair(lp_results *results, const char *id, int64_t guess) {
    int64_t n = lp_results_n_pairs(results);
    if (guess < n && strcmp(lp_results_pair_id(results, guess), id) == 0) return guess;
    for (int64_t p = 0; p < n; p++)
        if (strcmp(lp_results_pair_id(results, p), id) == 0) return p;
    return -1;
}

static int32_t find_condition(lp_results *results, const char *name, int32_t guess) {
    int32_t n = lp_results_n_conditions(results);
    if (guess < n && strcmp(lp_results_condition(results, guess)->name, name) == 0) return guess;
    for (int32_t i = 0; i < n; i++)
        if (strcmp(lp_results_condition(results, i)->name, name) == 0) return i;
    return -1;
}

typedef struct {
    int64_t n, same_outcome, same_answer;
    int64_t one_only; /* rows that one file ran and the other did not */
} agreement;

static lp_status compare_row(const rows *a, const rows *b, size_t row_a, size_t row_b, const char *pair,
                             const char *condition, agreement *sum, listing *lines, lp_error *err) {
    bool run_a = a->outcome[row_a] != LP_OUTCOME_NOT_RUN, run_b = b->outcome[row_b] != LP_OUTCOME_NOT_RUN;
    lp_result_answer x, y;
    lp_status status = LP_OK;
    sum->one_only += run_a != run_b;
    if (!run_a || !run_b) return LP_OK;
    LP_TRY(lp_results_answer(a->results, a->answer[row_a], &x, err));
    LP_TRY(lp_results_answer(b->results, b->answer[row_b], &y, err));
    bool same_outcome = a->outcome[row_a] == b->outcome[row_b];
    bool same_answer = x.n_tokens == y.n_tokens &&
                       (x.n_tokens == 0 || memcmp(x.tokens, y.tokens, (size_t)x.n_tokens * sizeof *x.tokens) == 0);
    sum->n++;
    sum->same_outcome += same_outcome;
    sum->same_answer += same_answer;
    if (!same_outcome || !same_answer)
        status = list_row(lines, err, "pair %s, %s: %s \"%.80s\" -> %s \"%.80s\"", pair, condition,
                          lp_outcome_names[a->outcome[row_a]], x.text, lp_outcome_names[b->outcome[row_b]], y.text);
out:
    return status;
}

lp_status lp_compare_results(lp_results *a, lp_results *b, const lp_compare_options *options, lp_text *out,
                             lp_error *err) {
    rows ra = {0}, rb = {0};
    listing lines = {.most = options->most_lines};
    agreement sum = {0};
    int32_t *condition = NULL;
    int32_t n_conditions = 0;
    int64_t n_pairs = 0;
    lp_status status = LP_OK;
    LP_TRY(rows_read(a, &ra, err));
    LP_TRY(rows_read(b, &rb, err));
    LP_TRY(lp_mem_new(&condition, (size_t)ra.n_conditions, sizeof *condition, "conditions", err));
    for (int32_t i = 0; i < ra.n_conditions; i++) {
        condition[i] = find_condition(b, lp_results_condition(a, i)->name, i);
        n_conditions += condition[i] >= 0;
    }
    for (int64_t p = 0; p < ra.n_pairs; p++) {
        const char *id = lp_results_pair_id(a, p);
        int64_t q = find_pair(b, id, p);
        n_pairs += q >= 0;
        for (int32_t i = 0; i < ra.n_conditions && q >= 0; i++)
            if (condition[i] >= 0)
                LP_TRY(compare_row(&ra, &rb, row_at(&ra, p, i), row_at(&rb, q, condition[i]), id,
                                   lp_results_condition(a, i)->name, &sum, &lines, err));
    }
    LP_TRY(lp_text_format(out, err, "first:  "));
    LP_TRY(add_origin(a, out, err));
    LP_TRY(lp_text_format(out, err, "second: "));
    LP_TRY(add_origin(b, out, err));
    LP_TRY(lp_text_format(out, err, "in both: %lld pairs, %d conditions (first file %lld and %d, second %lld and %d)\n",
                          (long long)n_pairs, n_conditions, (long long)ra.n_pairs, ra.n_conditions,
                          (long long)rb.n_pairs, rb.n_conditions));
    LP_TRY(lp_text_format(out, err,
                          "rows: %lld  class differs: %lld  answer differs: %lld  run in one file only: %lld\n",
                          (long long)sum.n, (long long)(sum.n - sum.same_outcome), (long long)(sum.n - sum.same_answer),
                          (long long)sum.one_only));
    if (n_pairs == 0 || n_conditions == 0) LP_FAIL(LP_ERR_MISMATCH, "the two files have no rows in common");
    status = put_listing(&lines, out, err);
out:
    lp_mem_free(condition);
    lp_text_release(&lines.text);
    rows_release(&ra);
    rows_release(&rb);
    return status;
}
