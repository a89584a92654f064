/* Which of several sources an operand has, where the texts leave no choice: by the word that stands after it in the
 * equation that is written out (3 women * 4 inches), and because every number and every step has a use. What neither
 * settles stays ambiguous. */
#include "problems/problem_parts.h"

#include "problems/letters.h"

enum { MAX_UNIT_WORDS = 3, MAX_UNIT = 24 };

/* What stands with a number: $ before it, % or words after it. */
typedef struct {
    char words[MAX_UNIT_WORDS][MAX_UNIT];
    int n;
} unit_words;

static void add_word(unit_words *out, const char *word, size_t length) {
    if (out->n == MAX_UNIT_WORDS || length >= MAX_UNIT) return;
    char *to = out->words[out->n++];
    for (size_t i = 0; i < length; i++) to[i] = lp_lower(word[i]);
    to[length] = 0;
}

/* The unit of the number whose sign, if any, ends before head, and whose digits end at tail. */
static unit_words read_unit(const char *text, size_t head, size_t tail) {
    unit_words found = {0};
    while (head > 0 && text[head - 1] == ' ') head--;
    if (head > 0 && text[head - 1] == '$') {
        add_word(&found, "$", 1);
        return found;
    }
    size_t at = tail;
    if (text[at] == ' ' || text[at] == '-') at++;
    if (text[at] == '%') {
        add_word(&found, "%", 1);
        return found;
    }
    while (lp_is_letter(text[at]) && found.n < MAX_UNIT_WORDS) {
        size_t end = at;
        while (lp_is_letter(text[end])) end++;
        add_word(&found, text + at, end - at);
        at = end;
        if (text[at] == ' ' || text[at] == '-') at++;
    }
    return found;
}

/* The same word, plural or not. */
static bool same_stem(const char *a, const char *b) {
    size_t n_a = strlen(a), n_b = strlen(b), n = n_a < n_b ? n_a : n_b;
    const char *rest = n_a < n_b ? b + n : a + n;
    return strncmp(a, b, n) == 0 && (*rest == 0 || strcmp(rest, "s") == 0 || strcmp(rest, "es") == 0);
}

static bool is_among(const char *word, const char *const *list) {
    for (; *list; list++)
        if (same_stem(word, *list)) return true;
    return false;
}

static bool names(const unit_words *unit, const char *word) {
    for (int i = 0; i < unit->n; i++)
        if (same_stem(unit->words[i], word)) return true;
    return false;
}

typedef enum { UNIT_OTHER, UNIT_UNKNOWN, UNIT_SAME } unit_match;

/* Whether the source is what the word names: SAME where it is the first word that stands with it (3 women), UNKNOWN
 * where nothing does, or the word comes later (12 red cars). */
static unit_match match_source(const lp_graph *graph, const lp_source *source, const char *word) {
    unit_words unit = {0};
    if (source->from == LP_FROM_QUESTION) {
        const lp_number *number = &graph->numbers.items[source->index];
        if (source->form != 0 || number->kind == LP_NUMBER_IMPLIED) return UNIT_UNKNOWN;
        unit = read_unit(graph->question, number->at, number->at + number->length);
    } else if (source->from == LP_FROM_STEP) {
        for (int i = 0; i < graph->n_places; i++) {
            const lp_place *shown = &graph->places[i];
            if (shown->kind != LP_PLACE_SHOWN || shown->step != source->index) continue;
            size_t head = graph->steps[source->index].expression_at - 2;
            unit = read_unit(graph->solution, head, shown->number.at + shown->number.length);
        }
    }
    if (unit.n > 0 && same_stem(unit.words[0], word)) return UNIT_SAME;
    return unit.n == 0 || names(&unit, word) ? UNIT_UNKNOWN : UNIT_OTHER;
}

/* Words that follow a number and are not a unit. */
static const char *const no_units[] = {"x",   "and", "more", "less", "times", "of",    "in",    "on",   "a",
                                       "an",  "the", "for",  "each", "per",   "to",    "is",    "or",   "from",
                                       "are", "by",  "at",   "was",  "so",    "fewer", "extra", "were", NULL};
/* Units that a constant could have as well (60 minutes, 12 months). */
static const char *const measures[] = {"$",     "%",       "second", "minute",  "hour",   "day",  "weekday", "week",
                                       "month", "year",    "decade", "inch",    "foot",   "feet", "yard",    "mile",
                                       "ounce", "pound",   "ton",    "gram",    "kg",     "cm",   "km",      "meter",
                                       "liter", "cup",     "pint",   "quart",   "gallon", "cent", "penny",   "nickel",
                                       "dime",  "quarter", "dollar", "percent", "degree", "leg",  NULL};

/* Reads the unit of a number of the solution's text; false when it has none. */
static bool read_text_unit(const lp_graph *graph, const lp_number *number, unit_words *out) {
    *out = read_unit(graph->solution, number->at, number->at + number->length);
    return out->n > 0 && !is_among(out->words[0], no_units);
}

/* The unit that the value has wherever else it stands before `written` on its line (5 rolls at $3, so 5*3), where it
 * has one unit only and stands in the step once. */
static bool find_mention(const lp_graph *graph, const lp_place *place, const lp_number *written, unit_words *out) {
    size_t line = written->at;
    bool found = false;
    while (line > 0 && graph->solution[line - 1] != '\n') line--;
    for (int i = 0; i < graph->n_places; i++) {
        const lp_place *other = &graph->places[i];
        if (other == place || !lp_rational_equal(other->number.value, written->value)) continue;
        if (other->kind == LP_PLACE_OPERAND && place->kind == LP_PLACE_OPERAND && other->step == place->step)
            return false;
        if (other->kind != LP_PLACE_TEXT && other->kind != LP_PLACE_SHOWN) continue;
        if (other->number.at < line || other->number.at >= written->at) continue;
        unit_words unit;
        if (!read_text_unit(graph, &other->number, &unit)) return false;
        if (found && !same_stem(out->words[0], unit.words[0])) return false;
        *out = unit;
        found = true;
    }
    return found;
}

/* The unit of a place, where the text gives it one. */
static bool find_unit(const lp_graph *graph, const lp_place *place, unit_words *out) {
    const lp_number *written = &place->number;
    if (place->kind == LP_PLACE_OPERAND) {
        if (place->partner < 0) return false;
        written = &graph->places[place->partner].number;
    }
    return read_text_unit(graph, written, out) || find_mention(graph, place, written, out);
}

/* Keeps the one source whose unit is the place's, where all others have another. A constant is ruled out with them
 * unless it could have the unit. */
static void narrow_by_unit(const lp_graph *graph, lp_place *place) {
    unit_words unit;
    int chosen = -1, n_steps = 0;
    if (place->n_sources + place->constant < 2 || !find_unit(graph, place, &unit)) return;
    if (place->constant && is_among(unit.words[0], measures)) return;
    for (int i = 0; i < place->n_sources; i++) {
        unit_match match = match_source(graph, &place->sources[i], unit.words[0]);
        n_steps += place->sources[i].from == LP_FROM_STEP;
        if (match == UNIT_OTHER) continue;
        if (match == UNIT_UNKNOWN || chosen >= 0) return;
        chosen = i;
    }
    /* Results are named too loosely to be told from each other. */
    if (chosen < 0 || n_steps > 1) return;
    place->sources[0] = place->sources[chosen];
    place->n_sources = 1;
    place->constant = false;
}

/* a/b in an annotation is the question's fraction a/b, not another a and another b, unless the question has both. */
static void link_fraction(lp_graph *graph, int i) {
    lp_place *top = &graph->places[i], *bottom = &graph->places[i + 1];
    size_t slash = top->number.at + top->number.length;
    if (top->kind != LP_PLACE_OPERAND || bottom->kind != LP_PLACE_OPERAND || top->step != bottom->step) return;
    if (graph->solution[slash] != '/' || bottom->number.at != slash + 1) return;
    int n = 0, found[LP_MAX_SOURCES];
    bool other_top = false, other_bottom = false;
    for (size_t k = 0; k < graph->numbers.n; k++) {
        const lp_number *number = &graph->numbers.items[k];
        bool fraction = number->kind == LP_NUMBER_FRACTION || number->kind == LP_NUMBER_IMPLIED;
        if (fraction && number->bottom > 1 && lp_rational_equal(top->number.value, lp_rational_whole(number->top)) &&
            lp_rational_equal(bottom->number.value, lp_rational_whole(number->bottom)) && n < LP_MAX_SOURCES)
            found[n++] = (int)k;
        if (fraction) continue;
        other_top = other_top || lp_rational_equal(number->value, top->number.value);
        other_bottom = other_bottom || lp_rational_equal(number->value, bottom->number.value);
    }
    if (n == 0 || (other_top && other_bottom)) return;
    for (int k = 0; k < n; k++) {
        top->sources[k] = (lp_source){LP_FROM_QUESTION, found[k], LP_FORM_TOP};
        bottom->sources[k] = (lp_source){LP_FROM_QUESTION, found[k], LP_FORM_BOTTOM};
    }
    top->n_sources = bottom->n_sources = n;
    top->constant = bottom->constant = false;
}

/* One of two equal factors of a step may count what no number of the question counts (her mother and her sister get 2
 * boxes each: 2*2). */
static void doubt_equal_factors(lp_graph *graph, int i) {
    lp_place *left = &graph->places[i], *right = &graph->places[i + 1];
    const lp_rational value = left->number.value;
    if (left->kind != LP_PLACE_OPERAND || right->kind != LP_PLACE_OPERAND || left->step != right->step) return;
    if (!lp_rational_equal(value, right->number.value) || value.d != 1 || value.n > 12) return;
    const char *between = graph->solution + left->number.at + left->number.length;
    if (strchr("*xX", between[strspn(between, " ")]) != NULL) left->constant = right->constant = true;
}

/* ---- every number and every step has a use ---- */

/* Who claims an operand: a source that no other operand can have. */
typedef struct {
    int n, index;
    lp_source_kind from;
    bool strong; /* a problem in which this source had no use would be refused */
} claim;

static void add_claim(const lp_graph *graph, lp_source_kind from, int index, bool strong, claim claims[LP_MAX_PLACES]) {
    int user = -1;
    if (lp_graph_users(graph, from, index, &user) != 1) return;
    claims[user] = (claim){.n = claims[user].n + 1, .from = from, .index = index, .strong = strong};
}

/* One round; false when nothing changed. */
static bool narrow_by_use(lp_graph *graph) {
    claim claims[LP_MAX_PLACES] = {0};
    bool changed = false;
    for (size_t k = 0; k < graph->numbers.n; k++) {
        const lp_number *number = &graph->numbers.items[k];
        bool above_one = number->value.n > number->value.d;
        add_claim(graph, LP_FROM_QUESTION, (int)k, number->kind == LP_NUMBER_DIGITS && above_one, claims);
    }
    for (int s = 0; s + 1 < graph->n_steps; s++) add_claim(graph, LP_FROM_STEP, s, true, claims);
    for (int i = 0; i < graph->n_places; i++) {
        lp_place *place = &graph->places[i];
        if (claims[i].n != 1 || !claims[i].strong || place->n_sources + place->constant < 2) continue;
        int n = 0;
        unit_words unit;
        lp_source claimant = {claims[i].from, claims[i].index, 0};
        if (find_unit(graph, place, &unit) && match_source(graph, &claimant, unit.words[0]) == UNIT_OTHER) continue;
        for (int k = 0; k < place->n_sources; k++)
            if (place->sources[k].from == claims[i].from && place->sources[k].index == claims[i].index)
                place->sources[n++] = place->sources[k];
        changed = changed || n < place->n_sources || place->constant;
        place->n_sources = n;
        place->constant = false;
    }
    return changed;
}

/* ---- equations that the text writes out ---- */

/* Where the last numbers of the text before the annotation, on its line, are its operands in their order, each is the
 * other's partner. */
static void pair_written_out(lp_graph *graph, int s) {
    int operands[LP_MAX_PLACES], texts[LP_MAX_PLACES], n = 0, m = 0;
    size_t at = graph->steps[s].expression_at, line = at;
    while (line > 0 && graph->solution[line - 1] != '\n') line--;
    for (int i = 0; i < graph->n_places; i++) {
        const lp_place *place = &graph->places[i];
        if (place->kind == LP_PLACE_OPERAND && place->step == s) operands[n++] = i;
        if (place->kind == LP_PLACE_SHOWN && place->number.at >= line && place->number.at < at) m = 0;
        if (place->kind == LP_PLACE_TEXT && place->number.at >= line && place->number.at < at) texts[m++] = i;
    }
    if (m < n) return;
    for (int k = 0; k < n; k++)
        if (!lp_rational_equal(graph->places[operands[k]].number.value, graph->places[texts[m - n + k]].number.value))
            return;
    for (int k = 0; k < n; k++) {
        lp_place *operand = &graph->places[operands[k]], *text = &graph->places[texts[m - n + k]];
        operand->partner = texts[m - n + k];
        text->partner = operands[k];
        text->sources[0] = (lp_source){LP_FROM_PLACE, operands[k], 0};
        text->n_sources = 1;
        text->constant = false;
    }
}

void lp_graph_narrow(lp_graph *graph) {
    for (int i = 0; i < graph->n_places; i++) graph->places[i].partner = -1;
    for (int i = 0; i + 1 < graph->n_places; i++) doubt_equal_factors(graph, i);
    for (int s = 0; s < graph->n_steps; s++) pair_written_out(graph, s);
    for (int i = 0; i + 1 < graph->n_places; i++) link_fraction(graph, i);
    for (int i = 0; i < graph->n_places; i++) {
        lp_place *place = &graph->places[i];
        if (place->kind == LP_PLACE_OPERAND || (place->kind == LP_PLACE_TEXT && place->partner < 0))
            narrow_by_unit(graph, place);
    }
    while (narrow_by_use(graph)) {
    }
}
