#include "problems/problem_parts.h"

/* ---- sources ---- */

/* The values that a number of the question may have in a solution; the same list for its old and its new value.
 * Returns how many. */
static int forms_of(const lp_number *number, lp_rational forms[LP_MAX_FORMS]) {
    const lp_rational value = number->value, one = {1, 1}, hundred = {100, 1};
    lp_rational *next = forms, share = {0, 1};
    *next++ = value;
    bool good = true;
    if (number->unit == LP_UNIT_PERCENT) {
        good = lp_rational_divide(value, hundred, &share) == LP_RATIONAL_OK;
        *next++ = share;
        good = good && lp_rational_subtract(one, share, next++) == LP_RATIONAL_OK;
        good = good && lp_rational_add(one, share, next++) == LP_RATIONAL_OK;
        good = good && lp_rational_subtract(hundred, value, next++) == LP_RATIONAL_OK;
        good = good && lp_rational_add(hundred, value, next++) == LP_RATIONAL_OK;
        /* 80/4 for 25% of 80, and for what is left of 80 after 75%. */
        if (value.n > 0 && lp_rational_compare(value, hundred) < 0) {
            lp_rational rest = {0, 1};
            good = good && lp_rational_divide(hundred, value, next++) == LP_RATIONAL_OK;
            good = good && lp_rational_subtract(hundred, value, &rest) == LP_RATIONAL_OK;
            good = good && lp_rational_divide(hundred, rest, next++) == LP_RATIONAL_OK;
        }
    } else if (number->unit == LP_UNIT_CENTS) {
        good = lp_rational_divide(value, hundred, next++) == LP_RATIONAL_OK;
    } else if (number->top != 0) {
        *next++ = lp_rational_whole(number->top);
        *next++ = lp_rational_whole(number->bottom);
        good = lp_rational_divide(one, value, next++) == LP_RATIONAL_OK;
        good = good && lp_rational_add(one, value, next++) == LP_RATIONAL_OK;
        good = good && lp_rational_subtract(one, value, next++) == LP_RATIONAL_OK;
        *next++ = lp_rational_whole(number->bottom - number->top);
    }
    return good ? (int)(next - forms) : 1;
}

/* Numbers that need no source where the texts have one of the words. top / bottom. */
static const struct {
    int top, bottom;
    const char *words[14];
} constants[] = {
    {1, 1, {""}},
    {0, 1, {""}},
    {2,
     1,
     {"half", "twice", "double*", "pair*", "couple*", "both", "average", "round-trip", "round trip", "each way",
      "other", "twin*", "bi*"}},
    {3, 1, {"third*", "triple*", "thrice", "yard*", "triplets", "tricycle*", "triangle*"}},
    {4, 1, {"quarter*", "fourth*", "square*", "month*", "week*", "quadruple*", "car", "cars", "legs", "gallon*"}},
    {5, 1, {"fifth*", "nickel*", "weekday*", "workday*", "school week", "work week"}},
    {6, 1, {"sixth*", "half a dozen", "half-dozen", "half dozen"}},
    {7, 1, {"week*", "day", "days", "daily"}},
    {8, 1, {"eighth*", "gallon*", "spider*", "octopus*"}},
    {10, 1, {"tenth*", "dime*", "decade*"}},
    {12, 1, {"dozen*", "year*", "month*", "annual*", "foot", "feet", "inch*", "noon", "midnight"}},
    {14, 1, {"week*", "fortnight*"}},
    {16, 1, {"ounce*", "pound*"}},
    {20, 1, {"score"}},
    {24, 1, {"day*", "hour*", "daily"}},
    {25, 1, {"quarter*"}},
    {28, 1, {"february"}},
    {30, 1, {"month*", "april", "june", "september", "november", "half an hour", "half hour", "half-hour"}},
    {31, 1, {"january", "march", "may", "july", "august", "october", "december"}},
    {36, 1, {"yard*"}},
    {50, 1, {"half"}},
    {52, 1, {"year*", "week*", "annual*"}},
    {60, 1, {"minute*", "hour*", "second*"}},
    {90, 1, {"right angle", "degree*"}},
    {100, 1, {"percent*", "cent", "cents", "dollar*", "penn*", "centimeter*", "meter*", "century", "hundred"}},
    {180, 1, {"angle*", "degree*", "triangle*"}},
    {360, 1, {"angle*", "degree*", "circle*"}},
    {365, 1, {"year*", "day*"}},
    {1000, 1, {"kilo*", "gram*", "liter*", "meter*", "milli*", "kg", "km", "thousand*", "ton", "tons"}},
    {2000, 1, {"ton", "tons"}},
    {3600, 1, {"hour*", "second*"}},
    {5280, 1, {"mile*"}},
    {1, 2, {"half", "twice", "double*", "50"}},
    {3, 2, {"half"}},
    {1, 4, {"quarter*"}},
    {3, 4, {"quarter*"}},
    {1, 10, {"dime*", "tenth*"}},
    {1, 20, {"nickel*"}},
    {1, 100, {"penn*", "percent*", "cent", "cents"}},
};

static bool has_cue(const lp_graph *graph, const char *word) {
    return *word == 0 || lp_text_has_word(graph->question, graph->question_length, word) ||
           lp_text_has_word(graph->solution, graph->solution_length, word);
}

static bool is_constant(const lp_graph *graph, lp_rational value) {
    const lp_rational hundredth = {1, 100};
    if ((lp_rational_equal(value, lp_rational_whole(100)) || lp_rational_equal(value, hundredth)) &&
        (strchr(graph->question, '%') || strchr(graph->solution, '%')))
        return true;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++) {
        if (value.n != constants[i].top || value.d != constants[i].bottom) continue;
        for (size_t k = 0; k < sizeof constants[i].words / sizeof *constants[i].words && constants[i].words[k]; k++)
            if (has_cue(graph, constants[i].words[k])) return true;
    }
    return false;
}

/* The operand is a factor or divisor, and as large as an earlier sum has terms: it may count them (the mean of three
 * scores), whatever number of the question has the same value. */
static bool may_count_terms(const lp_graph *graph, const lp_place *place) {
    if (place->kind != LP_PLACE_OPERAND || graph->steps[place->step].n_terms > 0) return false;
    for (int s = 0; s <= place->step; s++)
        if (lp_rational_equal(place->number.value, lp_rational_whole(graph->steps[s].n_terms))) return true;
    return false;
}

/* The number stands in front of a '/': 3 in 3/4. */
static bool is_numerator(const lp_graph *graph, const lp_place *place) {
    const char *after = graph->solution + place->number.at + place->number.length;
    return after[strspn(after, " ")] == '/';
}

/* Fills the sources of places[i]: everything in the question and among the first n_steps results that has its value. */
static lp_reason link_place(lp_graph *graph, int i, int n_steps) {
    lp_place *place = &graph->places[i];
    lp_rational forms[LP_MAX_FORMS], value = place->number.value;
    bool alone = false;
    place->n_sources = 0;
    for (size_t k = 0; k < graph->numbers.n; k++) {
        int n = forms_of(&graph->numbers.items[k], forms);
        for (int f = 0; f < n; f++) {
            if (!lp_rational_equal(forms[f], value)) continue;
            if (place->n_sources == LP_MAX_SOURCES) return LP_REASON_TOO_LARGE;
            place->sources[place->n_sources++] = (lp_source){LP_FROM_QUESTION, (int)k, f};
            bool numerator = graph->numbers.items[k].kind == LP_NUMBER_FRACTION && f == 1;
            if (numerator && !is_numerator(graph, place)) alone = true;
        }
    }
    for (int s = 0; s < n_steps; s++) {
        if (!lp_rational_equal(graph->steps[s].result, value)) continue;
        if (place->n_sources == LP_MAX_SOURCES) return LP_REASON_TOO_LARGE;
        place->sources[place->n_sources++] = (lp_source){LP_FROM_STEP, s, 0};
    }
    /* The 3 of 3/4 on its own may be another 3. */
    place->constant = alone || is_constant(graph, value) || may_count_terms(graph, place);
    return LP_REASON_NONE;
}

/* A number in front of an annotation, on its line, that is among the annotation's operands: the text writes the
 * equation out, so the number is that operand, whatever else it could be. */
static void link_written_out(lp_graph *graph, lp_place *place) {
    for (int s = 0; s < graph->n_steps; s++) {
        size_t at = place->number.at, annotation = graph->steps[s].expression_at;
        if (annotation < at) continue;
        if (memchr(graph->solution + at, '\n', annotation - at)) return;
        int n = 0;
        for (int i = 0; i < graph->n_places && n < LP_MAX_SOURCES; i++) {
            const lp_place *other = &graph->places[i];
            if (other->kind == LP_PLACE_OPERAND && other->step == s &&
                lp_rational_equal(other->number.value, place->number.value))
                place->sources[n++] = (lp_source){LP_FROM_PLACE, i, 0};
        }
        if (n > 0) {
            place->n_sources = n;
            place->constant = false;
        }
        return;
    }
}

/* A constant that the writer may have made in his head from a number that now changes (4 people are 3 friends and
 * one more): one more or less than it, or its sum or difference with another number of the question. */
static bool may_be_derived(const lp_graph *graph, const lp_recomputed *changed, lp_rational constant) {
    if (constant.d != 1 || constant.n < 2 || constant.n == 60 || constant.n == 100 || constant.n == 1000) return false;
    for (size_t i = 0; i < graph->numbers.n; i++) {
        lp_rational value = graph->numbers.items[i].value, made = {0, 1};
        if (lp_rational_equal(value, changed->numbers[i].value)) continue;
        for (size_t k = 0; k <= graph->numbers.n; k++) {
            lp_rational other = k == graph->numbers.n ? lp_rational_whole(1) : graph->numbers.items[k].value;
            if (k == i) continue;
            if (lp_rational_add(value, other, &made) == LP_RATIONAL_OK && lp_rational_equal(made, constant))
                return true;
            if (lp_rational_subtract(value, other, &made) != LP_RATIONAL_OK) continue;
            if (made.n < 0) made.n = -made.n;
            if (lp_rational_equal(made, constant)) return true;
        }
    }
    return false;
}

lp_reason lp_graph_resolve(const lp_graph *graph, const lp_recomputed *changed, const lp_place *place,
                           lp_rational *out) {
    lp_rational forms[LP_MAX_FORMS], found = place->number.value;
    bool any = place->constant;
    for (int i = 0; i < place->n_sources; i++) {
        const lp_source *source = &place->sources[i];
        lp_rational value = {0, 1};
        if (source->from == LP_FROM_STEP) {
            value = changed->steps[source->index];
        } else if (source->from == LP_FROM_PLACE) {
            value = changed->places[source->index];
        } else {
            const lp_number *before = &graph->numbers.items[source->index], *after = &changed->numbers[source->index];
            bool alike = before->unit == after->unit && (before->top != 0) == (after->top != 0);
            int n = forms_of(after, forms);
            if (source->form >= (alike ? n : 1)) return LP_REASON_AMBIGUOUS_LINK;
            value = forms[source->form];
        }
        if (any && !lp_rational_equal(value, found)) return LP_REASON_AMBIGUOUS_LINK;
        found = value;
        any = true;
    }
    if (place->constant && place->n_sources == 0 && may_be_derived(graph, changed, found))
        return LP_REASON_AMBIGUOUS_LINK;
    if (!any) return place->kind == LP_PLACE_TEXT ? LP_REASON_UNEXPLAINED_TEXT : LP_REASON_UNEXPLAINED_OPERAND;
    *out = found;
    return LP_REASON_NONE;
}

lp_reason lp_graph_link(lp_graph *graph) {
    lp_reason reason = LP_REASON_NONE;
    for (int i = 0; i < graph->n_places && reason == LP_REASON_NONE; i++) {
        lp_place *place = &graph->places[i];
        if (place->kind == LP_PLACE_OPERAND) reason = link_place(graph, i, place->step);
        if (place->kind != LP_PLACE_TEXT) continue;
        reason = link_place(graph, i, graph->n_steps);
        link_written_out(graph, place);
    }
    if (reason == LP_REASON_NONE) lp_graph_narrow(graph);
    return reason;
}

bool lp_question_has(const lp_graph *graph, const char *const *words) {
    for (; *words; words++)
        if (lp_text_has_word(graph->question, graph->question_length, *words)) return true;
    return false;
}

int lp_graph_users(const lp_graph *graph, lp_source_kind from, int index, int *user) {
    int n = 0;
    for (int i = 0; i < graph->n_places; i++) {
        const lp_place *place = &graph->places[i];
        int k = 0;
        while (k < place->n_sources && (place->sources[k].from != from || place->sources[k].index != index)) k++;
        if (place->kind != LP_PLACE_OPERAND || k == place->n_sources) continue;
        *user = i;
        n++;
    }
    return n;
}
