#include "problems/problem_parts.h"

#include <strings.h>

/* ---- which numbers may change ---- */

/* The number counts things that the question goes on to list: changing it would contradict the list. */
static bool is_enumerated(const lp_graph *graph, const lp_number *number) {
    static const char *const listing[] = {"first",  "second",    "third",        "last",  "other",
                                          "others", "another",   "respectively", "named", "former",
                                          "latter", "remaining", "rest",         NULL};
    static const char *const definite[] = {"the ", "these ", "those ", "all ", "other ", "any ",
                                           "its ", "their ", "his ",   "her ", "of the "};
    if (lp_rational_compare(number->value, lp_rational_whole(12)) > 0 || number->value.d != 1) return false;
    size_t end = number->at + number->length;
    const char *rest = graph->question + end;
    size_t stop = strcspn(rest, ".?!");
    if (memchr(rest, ':', stop)) return true;
    if (number->kind == LP_NUMBER_WORD)
        for (size_t i = 0; i < sizeof definite / sizeof *definite; i++) {
            size_t n = strlen(definite[i]);
            if (number->at >= n && strncasecmp(graph->question + number->at - n, definite[i], n) == 0) return true;
        }
    /* "the average of three scores": as many terms as the number says. */
    for (int s = 0; s < graph->n_steps; s++)
        if (lp_rational_equal(number->value, lp_rational_whole(graph->steps[s].n_terms))) return true;
    return lp_rational_compare(number->value, lp_rational_whole(5)) <= 0 && number->unit == LP_UNIT_NONE &&
           (number->at == 0 || graph->question[number->at - 1] != '$') && lp_question_has(graph, listing);
}

static bool is_stated(const lp_number_list *list, lp_rational value, size_t i, const size_t *parts, size_t n_parts) {
    bool involved = false;
    for (size_t k = 0; k < n_parts; k++) involved = involved || parts[k] == i;
    for (size_t c = 0; c < list->n; c++) {
        bool part = false;
        for (size_t k = 0; k < n_parts; k++) part = part || parts[k] == c;
        if (!part && (involved || c == i) && lp_rational_equal(value, list->items[c].value)) return true;
    }
    return false;
}

/* The question states a total of 10 or more as well as its two or three parts or its two factors, or percentages that
 * make 100; number i is one of these. */
static bool is_redundant(const lp_graph *graph, size_t i) {
    const lp_number_list *list = &graph->numbers;
    const lp_number *number = &list->items[i];
    const lp_rational ten = {10, 1}, hundred = {100, 1};
    lp_rational sum = {0, 1}, more = {0, 1};
    for (size_t a = 0; a < list->n; a++) {
        const lp_number *first = &list->items[a];
        if (first->kind == LP_NUMBER_IMPLIED) continue;
        if (number->unit == LP_UNIT_PERCENT && first->unit == LP_UNIT_PERCENT && a != i &&
            lp_rational_add(number->value, first->value, &sum) == LP_RATIONAL_OK && lp_rational_equal(sum, hundred))
            return true;
        for (size_t b = a + 1; b < list->n; b++) {
            const lp_number *second = &list->items[b];
            if (second->kind == LP_NUMBER_IMPLIED) continue;
            if (lp_rational_multiply(first->value, second->value, &sum) == LP_RATIONAL_OK &&
                lp_rational_compare(sum, ten) >= 0 && !lp_rational_equal(sum, first->value) &&
                !lp_rational_equal(sum, second->value) && is_stated(list, sum, i, (size_t[]){a, b}, 2))
                return true;
            if (lp_rational_add(first->value, second->value, &sum) != LP_RATIONAL_OK) continue;
            if (lp_rational_compare(sum, ten) >= 0 && is_stated(list, sum, i, (size_t[]){a, b}, 2)) return true;
            for (size_t c = b + 1; c < list->n; c++)
                if (list->items[c].kind != LP_NUMBER_IMPLIED &&
                    lp_rational_add(sum, list->items[c].value, &more) == LP_RATIONAL_OK &&
                    lp_rational_compare(more, ten) >= 0 && is_stated(list, more, i, (size_t[]){a, b, c}, 3))
                    return true;
        }
    }
    return false;
}

lp_reason lp_graph_changeable(const lp_graph *graph, size_t i) {
    const lp_number *number = &graph->numbers.items[i];
    int user = -1;
    if (number->kind != LP_NUMBER_DIGITS && number->kind != LP_NUMBER_WORD) return LP_REASON_FIXED_NUMBER;
    if (number->value.n <= 0 || lp_rational_equal(number->value, lp_rational_whole(1))) return LP_REASON_FIXED_NUMBER;
    for (size_t k = 0; k < graph->numbers.n; k++)
        if (k != i && lp_rational_equal(graph->numbers.items[k].value, number->value)) return LP_REASON_REPEATED_VALUE;
    if (lp_graph_users(graph, LP_FROM_QUESTION, (int)i, &user) == 0) return LP_REASON_NOT_LINKED;
    if (is_enumerated(graph, number)) return LP_REASON_ENUMERATED;
    return is_redundant(graph, i) ? LP_REASON_REDUNDANT : LP_REASON_NONE;
}

int64_t lp_graph_limit(const lp_graph *graph, size_t i) {
    static const struct {
        const char *unit, *period;
        int64_t limit;
    } limits[] = {{"day", "week", 7},   {"hour", "day", 24},  {"minute", "hour", 60}, {"month", "year", 12},
                  {"week", "year", 52}, {"week", "month", 4}, {"day", "month", 28},   {"day", "year", 365}};
    static const char *const links[] = {" a ",      " per ",     " each ",     " every ",  " in a ",
                                        " of the ", " of each ", " of every ", " in one ", " out of the "};
    const lp_number *number = &graph->numbers.items[i];
    if (number->unit == LP_UNIT_PERCENT && number->value.n <= 100 * number->value.d) return 99;
    const char *rest = graph->question + number->at + number->length;
    if (*rest == ' ' || *rest == '-') rest++;
    for (size_t k = 0; k < sizeof limits / sizeof *limits; k++) {
        size_t n = strlen(limits[k].unit);
        if (strncasecmp(rest, limits[k].unit, n) != 0) continue;
        const char *after = rest + n + (rest[n] == 's');
        for (size_t l = 0; l < sizeof links / sizeof *links; l++) {
            size_t m = strlen(links[l]);
            if (strncasecmp(after, links[l], m) == 0 &&
                strncasecmp(after + m, limits[k].period, strlen(limits[k].period)) == 0)
                return limits[k].limit;
        }
    }
    return 0;
}

/* Spoken with a vowel first: 8, 11, 18, 80, 800, 8,000, 11,000 ... */
static bool starts_with_vowel(lp_rational value) {
    int64_t whole = value.n / value.d, first = whole, group = whole;
    while (first >= 10) first /= 10;
    while (group >= 1000) group /= 1000;
    return first == 8 || group == 11 || group == 18;
}

bool lp_graph_article_fits(const lp_graph *graph, size_t i, lp_rational value) {
    const lp_number *number = &graph->numbers.items[i];
    size_t at = number->at;
    if (at > 0 && graph->question[at - 1] == '$') at--;
    if (at == 0 || graph->question[at - 1] != ' ') return true;
    size_t end = at - 1, start = end;
    while (start > 0 && graph->question[start - 1] != ' ') start--;
    const char *word = graph->question + start;
    bool article =
        (end - start == 1 && strncasecmp(word, "a", 1) == 0) || (end - start == 2 && strncasecmp(word, "an", 2) == 0);
    return !article || starts_with_vowel(number->value) == starts_with_vowel(value);
}

/* ---- variants ---- */

/* The texts between the numbers are the same, white space folded. */
static bool same_between(const char *a, size_t n_a, const char *b, size_t n_b) {
    size_t i = 0, k = 0;
    for (;;) {
        size_t blanks_a = strspn(a + i, " \n\t"), blanks_b = strspn(b + k, " \n\t");
        if (blanks_a > n_a - i) blanks_a = n_a - i;
        if (blanks_b > n_b - k) blanks_b = n_b - k;
        bool inner_a = blanks_a > 0, inner_b = blanks_b > 0;
        i += blanks_a;
        k += blanks_b;
        if (i == n_a || k == n_b) return i == n_a && k == n_b;
        if (inner_a != inner_b || a[i] != b[k]) return false;
        i++;
        k++;
    }
}

lp_reason lp_graph_take_variant(const lp_graph *graph, const char *variant, lp_recomputed *out) {
    const lp_number_list *own = &graph->numbers;
    lp_number_list other;
    lp_numbers_find(variant, strlen(variant), LP_TEXT_QUESTION, &other);
    if (other.n != own->n) return LP_REASON_OTHER_TEXT;
    size_t at = 0, other_at = 0;
    for (size_t i = 0; i <= own->n; i++) {
        size_t end = i < own->n ? own->items[i].at : graph->question_length;
        size_t other_end = i < own->n ? other.items[i].at : strlen(variant);
        if (!same_between(graph->question + at, end - at, variant + other_at, other_end - other_at))
            return LP_REASON_OTHER_TEXT;
        if (i == own->n) break;
        out->numbers[i] = other.items[i];
        at = end + own->items[i].length;
        other_at = other_end + other.items[i].length;
    }
    return LP_REASON_NONE;
}

/* ---- writing ---- */

/* Adds text[*at..) up to the number, and the number with its new value; *at moves beyond it. */
static lp_status print_changed(const char *text, const lp_number *number, lp_rational value, size_t *at, lp_text *out,
                               lp_error *err) {
    if (lp_rational_equal(number->value, value)) return LP_OK;
    LP_CHECK(lp_text_add(out, text + *at, number->at - *at, err));
    *at = number->at + number->length;
    return lp_number_print(number, text, value, out, err);
}

lp_status lp_graph_question(const lp_graph *graph, const lp_recomputed *changed, lp_text *out, lp_error *err) {
    size_t at = 0;
    for (size_t i = 0; i < graph->numbers.n; i++)
        LP_CHECK(print_changed(graph->question, &graph->numbers.items[i], changed->numbers[i].value, &at, out, err));
    return lp_text_put(out, graph->question + at, err);
}

static int compare_places(const void *a, const void *b) {
    const lp_place *const *left = a;
    const lp_place *const *right = b;
    return (*left)->number.at < (*right)->number.at ? -1 : (*left)->number.at > (*right)->number.at;
}

lp_status lp_graph_solution(const lp_graph *graph, const lp_recomputed *changed, lp_text *out, lp_error *err) {
    const lp_place *order[LP_MAX_PLACES];
    size_t n = (size_t)graph->n_places, at = 0;
    for (size_t i = 0; i < n; i++) order[i] = &graph->places[i];
    qsort(order, n, sizeof *order, compare_places);
    for (size_t i = 0; i < n; i++)
        LP_CHECK(print_changed(graph->solution, &order[i]->number, changed->places[order[i] - graph->places], &at, out,
                               err));
    return lp_text_put(out, graph->solution + at, err);
}

lp_status lp_graph_uses(const lp_graph *graph, int s, lp_text *out, lp_error *err) {
    bool used[LP_MAX_STEPS] = {false};
    for (int i = 0; i < graph->n_places; i++) {
        if (graph->places[i].kind != LP_PLACE_OPERAND || graph->places[i].step != s) continue;
        for (int k = 0; k < graph->places[i].n_sources; k++)
            if (graph->places[i].sources[k].from == LP_FROM_STEP) used[graph->places[i].sources[k].index] = true;
    }
    const char *comma = "";
    LP_CHECK(lp_text_put(out, "[", err));
    for (int k = 0; k < s; k++) {
        if (!used[k]) continue;
        LP_CHECK(lp_text_format(out, err, "%s%d", comma, k));
        comma = ", ";
    }
    return lp_text_put(out, "]", err);
}
