#include "problems/pair_check.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/printable.h"
#include "problems/letters.h"
#include "problems/pair_overlap.h"
#include "problems/pair_write.h"

#include <math.h>

#define DEFECT_TEXTS(code, name, meaning) {name, meaning},
static const struct { const char *name, *meaning; } defects[] = {LP_DEFECTS(DEFECT_TEXTS)};

const char *lp_defect_name(lp_defect defect) {
    return defects[defect].name;
}

typedef struct {
    const lp_pair_set *set;
    const lp_check_options *options;
    lp_check_report *report;
    lp_graph graph;
    lp_recomputed changed;
} pair_checker;

static void mark(pair_checker *checker, size_t i, lp_defect defect) {
    lp_check_report *report = checker->report;
    if (report->found[i] & 1u << defect) return;
    report->found[i] |= 1u << defect;
    if (report->counts[defect]++ == 0) report->first[defect] = i;
}

bool lp_check_is_sound(const lp_check_report *report, size_t i) {
    uint32_t fatal = (1u << LP_N_REAL_DEFECTS) - 1;
    if (report->unverified == LP_UNVERIFIED_REFUSE) fatal |= 1u << LP_NOTE_UNVERIFIED;
    return (report->found[i] & fatal) == 0;
}

/* ---- repeats ---- */

typedef struct {
    const char *first, *second; /* what must not occur twice */
    size_t index;
} occurrence;

static int compare_occurrences(const void *a, const void *b) {
    const occurrence *left = a, *right = b;
    int order = strcmp(left->first, right->first);
    if (order == 0) order = strcmp(left->second, right->second);
    return order != 0 ? order : left->index < right->index ? -1 : left->index > right->index;
}

static lp_status find_repeats(pair_checker *checker, lp_error *err) {
    lp_status status = LP_OK;
    occurrence *order = NULL;
    const lp_pair *pairs = checker->set->pairs;
    size_t n = checker->set->n;
    LP_TRY(lp_mem_new(&order, n, sizeof *order, "order of pairs", err));
    for (lp_defect defect = LP_DEFECT_REPEATED_ID; defect <= LP_DEFECT_REPEATED_QUESTION; defect++) {
        for (size_t i = 0; i < n; i++)
            order[i] = (occurrence){defect == LP_DEFECT_REPEATED_ID ? pairs[i].id : pairs[i].clean.question,
                                    defect == LP_DEFECT_REPEATED_PAIR ? pairs[i].corrupted.question : "", i};
        qsort(order, n, sizeof *order, compare_occurrences);
        for (size_t i = 1; i < n; i++) {
            const occurrence *a = &order[i - 1], *b = &order[i];
            bool other_source = strcmp(pairs[a->index].source, pairs[b->index].source) != 0;
            if (strcmp(a->first, b->first) == 0 && strcmp(a->second, b->second) == 0 &&
                (defect != LP_DEFECT_REPEATED_QUESTION || other_source))
                mark(checker, b->index, defect);
        }
    }
out:
    lp_mem_free(order);
    return status;
}

/* ---- the change ---- */

/* The place of the stated change: where putting `to` for `from` turns clean into corrupted; SIZE_MAX: nowhere. */
static size_t place_of_change(const lp_pair *pair) {
    const char *clean = pair->clean.question, *corrupted = pair->corrupted.question;
    size_t from = strlen(pair->change_from), to = strlen(pair->change_to);
    for (const char *at = from > 0 ? strstr(clean, pair->change_from) : NULL; at;
         at = strstr(at + 1, pair->change_from)) {
        size_t before = (size_t)(at - clean);
        if (strlen(corrupted) + from == strlen(clean) + to && memcmp(clean, corrupted, before) == 0 &&
            memcmp(corrupted + before, pair->change_to, to) == 0 && strcmp(at + from, corrupted + before + to) == 0)
            return before;
    }
    return SIZE_MAX;
}

/* The bytes around text[at..at+length) join it to further digits, by one of `joints` or directly. */
static bool is_joined(const char *text, size_t at, size_t length, const char *joints) {
    const char *after = text + at + length;
    bool left =
        at > 0 && (lp_is_digit(text[at - 1]) || (at > 1 && strchr(joints, text[at - 1]) && lp_is_digit(text[at - 2])));
    return left || lp_is_digit(after[0]) || (after[0] && strchr(joints, after[0]) && lp_is_digit(after[1]));
}

/* How many changes are stated ("3; 40" are two). */
static size_t count_changes(const char *text) {
    size_t n = 1;
    for (const char *at = strstr(text, "; "); at; at = strstr(at + 2, "; ")) n++;
    return n;
}

static void check_change(pair_checker *checker, size_t i) {
    const lp_pair *pair = &checker->set->pairs[i];
    if (strcmp(pair->clean.question, pair->corrupted.question) == 0) {
        mark(checker, i, LP_DEFECT_UNUSED_CHANGE);
        return;
    }
    size_t n_stated = 1, n_changed = 0;
    if (pair->change_from && pair->change_to) {
        size_t at = place_of_change(pair);
        if (at != SIZE_MAX) {
            const char *text = pair->clean.question;
            size_t length = strlen(pair->change_from);
            if (is_joined(text, at, length, ".,") || (at > 0 && text[at - 1] == '.'))
                mark(checker, i, LP_DEFECT_SPLIT_NUMBER);
            else if (is_joined(text, at, length, "/:"))
                mark(checker, i, LP_DEFECT_SPLIT_FRACTION);
            return;
        }
        n_stated = count_changes(pair->change_from);
    }
    lp_graph *graph = &checker->graph;
    graph->question = pair->clean.question;
    graph->question_length = strlen(pair->clean.question);
    lp_numbers_find(graph->question, graph->question_length, LP_TEXT_QUESTION, &graph->numbers);
    bool alike = lp_graph_take_variant(graph, pair->corrupted.question, &checker->changed) == LP_REASON_NONE;
    for (size_t k = 0; alike && k < graph->numbers.n; k++)
        n_changed += !lp_rational_equal(graph->numbers.items[k].value, checker->changed.numbers[k].value);
    bool stated_once = n_stated == 1 && pair->change_from;
    if (!alike || n_changed != n_stated || stated_once) mark(checker, i, LP_DEFECT_OTHER_CHANGE);
}

/* ---- answers ---- */

static bool same_number(double a, double b) {
    return fabs(a - b) <= 1e-9 * fmax(1.0, fabs(b));
}

static void check_answers(pair_checker *checker, size_t i) {
    const lp_pair *pair = &checker->set->pairs[i];
    double clean = pair->clean.answer, corrupted = pair->corrupted.answer;
    if (isnan(clean) || isnan(corrupted)) mark(checker, i, LP_DEFECT_MISSING_ANSWER);
    if (clean == corrupted) mark(checker, i, LP_DEFECT_EQUAL_ANSWERS);
    if (corrupted < 0) mark(checker, i, LP_DEFECT_NEGATIVE_ANSWER);
    if ((!isnan(clean) && clean != floor(clean)) || (!isnan(corrupted) && corrupted != floor(corrupted)))
        mark(checker, i, LP_NOTE_FRACTIONAL_ANSWER);
    lp_rational stated = {0, 1};
    if (!pair->clean.solution || isnan(clean) || !lp_solution_answer(pair->clean.solution, &stated)) return;
    if (same_number(clean, lp_rational_to_double(stated))) return;
    /* 1,234 read as 1: what is left of the first comma. */
    double cut = lp_rational_to_double(stated);
    while (fabs(cut) >= 1000) cut = trunc(cut / 1000);
    mark(checker, i, cut == clean ? LP_DEFECT_CUT_ANSWER : LP_DEFECT_CLEAN_ANSWER);
}

/* Recomputes the corrupted answer from the clean solution and the changed numbers. */
static void check_derivation(pair_checker *checker, size_t i) {
    const lp_pair *pair = &checker->set->pairs[i];
    lp_rational answer = {0, 1};
    bool known =
        pair->clean.solution && !isnan(pair->corrupted.answer) && lp_solution_answer(pair->clean.solution, &answer);
    lp_reason reason = known ? lp_graph_build(pair->clean.question, pair->clean.solution, answer, &checker->graph)
                             : LP_REASON_NO_ANSWER;
    if (reason == LP_REASON_CONDITIONAL) reason = LP_REASON_NONE;
    if (reason == LP_REASON_NONE) {
        lp_graph_unchanged(&checker->graph, &checker->changed);
        reason = lp_graph_take_variant(&checker->graph, pair->corrupted.question, &checker->changed);
    }
    if (reason == LP_REASON_NONE) reason = lp_graph_recompute(&checker->graph, &checker->changed);
    if (reason == LP_REASON_NONE && !lp_graph_equations_hold(&checker->graph, checker->changed.places))
        reason = LP_REASON_TEXT_EQUATION;
    checker->report->recomputed[i] = reason == LP_REASON_NONE ? lp_rational_to_double(checker->changed.answer) : NAN;
    if (reason != LP_REASON_NONE)
        mark(checker, i, LP_NOTE_UNVERIFIED);
    else if (same_number(pair->corrupted.answer, checker->report->recomputed[i]))
        checker->report->n_verified++;
    else
        mark(checker, i, LP_DEFECT_CORRUPTED_ANSWER);
}

/* ---- tokens ---- */

static lp_status check_tokens(pair_checker *checker, size_t i, lp_error *err) {
    const lp_check_options *options = checker->options;
    const lp_pair *pair = &checker->set->pairs[i];
    for (size_t t = 0; t < options->n_tokenizers; t++) {
        size_t counts[2], *most = &checker->report->max_tokens[t], *least = &checker->report->min_tokens[t];
        for (int k = 0; k < 2; k++) {
            const char *question = k == 0 ? pair->clean.question : pair->corrupted.question;
            LP_CHECK(lp_count_tokens(options->tokenizers[t].tokenizer, question, &counts[k], err));
            if (counts[k] > *most) *most = counts[k];
            if (counts[k] < *least || *least == 0) *least = counts[k];
            if (options->max_tokens > 0 && counts[k] > options->max_tokens) mark(checker, i, LP_DEFECT_TOO_LONG);
        }
        if (counts[0] != counts[1])
            mark(checker, i, options->tokens == LP_TOKENS_EQUAL ? LP_DEFECT_TOKEN_COUNT : LP_NOTE_TOKEN_COUNT);
    }
    return LP_OK;
}

static lp_status check_training(pair_checker *checker, lp_error *err) {
    lp_status status = LP_OK;
    lp_overlap *overlap = NULL;
    if (!checker->options->training_path) return LP_OK;
    LP_TRY(lp_overlap_load(checker->options->training_path, checker->options->training_format, &overlap, err));
    for (size_t i = 0; i < checker->set->n; i++)
        if (lp_overlap_is_close(overlap, checker->set->pairs[i].clean.question))
            mark(checker, i, LP_DEFECT_IN_TRAINING);
out:
    lp_overlap_free(overlap);
    return status;
}

/* ---- all ---- */

void lp_check_release(lp_check_report *report) {
    lp_mem_free(report->found);
    lp_mem_free(report->recomputed);
    *report = (lp_check_report){0};
}

static bool is_blank(const char *text) {
    return text[strspn(text, " \t\n\r\f\v")] == 0;
}

lp_status lp_pairs_check(const lp_pair_set *set, const lp_check_options *options, lp_check_report *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_check_report report = {.n = set->n, .unverified = options->unverified};
    pair_checker *checker = NULL;
    LP_TRY(lp_mem_new(&checker, 1, sizeof *checker, "pair checker", err));
    LP_TRY(lp_mem_new(&report.found, set->n, sizeof *report.found, "defects", err));
    LP_TRY(lp_mem_new(&report.recomputed, set->n, sizeof *report.recomputed, "recomputed answers", err));
    checker->set = set;
    checker->options = options;
    checker->report = &report;
    LP_TRY(find_repeats(checker, err));
    for (size_t i = 0; i < set->n; i++) {
        if (is_blank(set->pairs[i].clean.question) || is_blank(set->pairs[i].corrupted.question))
            mark(checker, i, LP_DEFECT_EMPTY_QUESTION);
        check_change(checker, i);
        check_answers(checker, i);
        check_derivation(checker, i);
        LP_TRY(check_tokens(checker, i, err));
    }
    LP_TRY(check_training(checker, err));
    for (size_t i = 0; i < set->n; i++) report.n_sound += lp_check_is_sound(&report, i);
    *out = report;
    report = (lp_check_report){0};
out:
    lp_check_release(&report);
    lp_mem_free(checker);
    return status;
}

lp_status lp_check_print(const lp_pair_set *set, const lp_check_options *options, const lp_check_report *report,
                         lp_text *out, lp_error *err) {
    static const char *const formats[] = {"latentpatch-pairs", "original", "original, flat"};
    LP_CHECK(lp_text_format(out, err, "%zu pairs (%s), %zu sound\n", set->n, formats[set->format], report->n_sound));
    if (set->n_unpaired > 0)
        LP_CHECK(lp_text_format(out, err, "%zu rows of no pair were passed over\n", set->n_unpaired));
    LP_CHECK(lp_text_format(out, err, "%-18s %6s  %-16s %s\n", "defect", "pairs", "first", "meaning"));
    for (int d = 0; d < LP_N_DEFECTS; d++) {
        if (report->counts[d] == 0) continue;
        bool note = d >= LP_N_REAL_DEFECTS && !(d == LP_NOTE_UNVERIFIED && report->unverified == LP_UNVERIFIED_REFUSE);
        const char *id = set->pairs[report->first[d]].id;
        char shown[61];
        (void)lp_printable(id, strlen(id), LP_PRINT_LINE, shown, sizeof shown);
        LP_CHECK(lp_text_format(out, err, "%-18s %6zu  %-16s %s%s\n", defects[d].name, report->counts[d], shown,
                                note ? "note: " : "", defects[d].meaning));
    }
    LP_CHECK(lp_text_format(out, err, "%-18s %6zu\n", "verified", report->n_verified));
    for (size_t t = 0; t < options->n_tokenizers; t++)
        LP_CHECK(lp_text_format(out, err, "%s: %zu to %zu tokens a question\n", options->tokenizers[t].name,
                                report->min_tokens[t], report->max_tokens[t]));
    return LP_OK;
}

lp_status lp_check_list(const lp_pair_set *set, const lp_check_report *report, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_put(out, "element,id,sound,defects,corrupted_answer,recomputed\n", err));
    for (size_t i = 0; i < set->n; i++) {
        const char *separator = "";
        LP_CHECK(lp_text_format(out, err, "%zu,", set->pairs[i].place));
        LP_CHECK(lp_csv_quote(set->pairs[i].id, out, err));
        LP_CHECK(lp_text_format(out, err, ",%d,", lp_check_is_sound(report, i) ? 1 : 0));
        for (int d = 0; d < LP_N_DEFECTS; d++) {
            if (!(report->found[i] & 1u << d)) continue;
            LP_CHECK(lp_text_format(out, err, "%s%s", separator, defects[d].name));
            separator = " ";
        }
        LP_CHECK(lp_text_put(out, ",", err));
        if (!isnan(set->pairs[i].corrupted.answer))
            LP_CHECK(lp_text_format(out, err, "%.15g", set->pairs[i].corrupted.answer));
        LP_CHECK(lp_text_put(out, ",", err));
        if (!isnan(report->recomputed[i])) LP_CHECK(lp_text_format(out, err, "%.15g", report->recomputed[i]));
        LP_CHECK(lp_text_put(out, "\n", err));
    }
    return LP_OK;
}

/* ---- fixing ---- */

static lp_status print_value(const cJSON *node, lp_text *out, lp_error *err) {
    char *text = cJSON_PrintUnformatted(node);
    if (!text) return lp_fail(err, LP_ERR_MEMORY, "out of memory while writing JSON");
    lp_status status = lp_text_put(out, text, err);
    cJSON_free(text);
    return status;
}

/* Our own file again, without the pairs that are not sound. */
static lp_status fix_own(const lp_check_report *report, const lp_json *root, lp_text *out, lp_error *err) {
    const cJSON *member = NULL, *pair = NULL;
    size_t i = 0, n = 0;
    LP_CHECK(lp_text_put(out, "{", err));
    cJSON_ArrayForEach(member, root->node) {
        if (strcmp(member->string, "pairs") == 0) continue;
        LP_CHECK(lp_json_format(out, err, "%s: ", member->string));
        LP_CHECK(print_value(member, out, err));
        LP_CHECK(lp_text_put(out, ", ", err));
    }
    LP_CHECK(lp_text_put(out, "\"pairs\": [", err));
    cJSON_ArrayForEach(pair, cJSON_GetObjectItemCaseSensitive(root->node, "pairs")) {
        if (!lp_check_is_sound(report, i++)) continue;
        LP_CHECK(lp_text_format(out, err, "%s\n  ", n++ > 0 ? "," : ""));
        LP_CHECK(print_value(pair, out, err));
    }
    return lp_text_put(out, "\n]}\n", err);
}

lp_status lp_check_fix(const lp_pair_set *set, const lp_check_report *report, const char *name, const char *text,
                       size_t size, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    cJSON *document = NULL;
    lp_pair_set sound = {0};
    if (set->format == LP_PAIRS_OWN) {
        lp_json root;
        LP_TRY(lp_json_parse(text, size, name, &document, &root, err));
        LP_TRY(fix_own(report, &root, out, err));
    } else {
        const char *slash = strrchr(name, '/');
        LP_TRY(lp_mem_new(&sound.pairs, set->n, sizeof *sound.pairs, "sound pairs", err));
        for (size_t i = 0; i < set->n; i++)
            if (lp_check_is_sound(report, i)) sound.pairs[sound.n++] = set->pairs[i]; /* borrowed */
        lp_pairs_print_options print = {.source = slash ? slash + 1 : name, .seed = -1};
        LP_TRY(lp_pairs_print(&sound, &print, out, err));
    }
out:
    lp_mem_free(sound.pairs);
    cJSON_Delete(document);
    return status;
}
