#include "problems/problem_parts.h"

void lp_graph_unchanged(const lp_graph *graph, lp_recomputed *out) {
    for (size_t i = 0; i < graph->numbers.n; i++) out->numbers[i] = graph->numbers.items[i];
    for (int i = 0; i < graph->n_places; i++) out->places[i] = graph->places[i].number.value;
    for (int s = 0; s < graph->n_steps; s++) out->steps[s] = graph->steps[s].result;
    out->answer = graph->answer;
}

lp_reason lp_graph_recompute(const lp_graph *graph, lp_recomputed *out) {
    /* Operands of a step stand before its result, and the steps in order, so one pass over the places does. */
    for (int i = 0; i < graph->n_places; i++) {
        const lp_place *place = &graph->places[i];
        if (place->kind == LP_PLACE_OPERAND) {
            LP_CHECK_SOUND(lp_graph_resolve(graph, out, place, &out->places[i]));
        } else if (place->kind == LP_PLACE_RESULT) {
            const lp_step *step = &graph->steps[place->step];
            lp_evaluation found;
            LP_CHECK_SOUND(lp_graph_evaluate(graph, step->code_start, step->code_end, out->places, &found));
            out->places[i] = out->steps[place->step] = found.value;
        }
    }
    out->answer = out->steps[graph->n_steps - 1];
    for (int i = 0; i < graph->n_places; i++) {
        const lp_place *place = &graph->places[i];
        if (place->kind == LP_PLACE_SHOWN) out->places[i] = out->steps[place->step];
        if (place->kind == LP_PLACE_FINAL) out->places[i] = out->answer;
        if (place->kind == LP_PLACE_TEXT) LP_CHECK_SOUND(lp_graph_resolve(graph, out, place, &out->places[i]));
    }
    return LP_REASON_NONE;
}

static int sign_of(lp_rational value) {
    return value.n < 0 ? -1 : value.n > 0;
}

lp_reason lp_graph_sound(const lp_graph *graph, const lp_recomputed *changed) {
    const lp_rational one = {1, 1}, hundred = {100, 1};
    lp_recomputed unchanged;
    int user = -1;
    lp_graph_unchanged(graph, &unchanged);
    for (int s = 0; s < graph->n_steps; s++) {
        const lp_step *step = &graph->steps[s];
        lp_rational before = step->result, after = changed->steps[s];
        if (lp_rational_equal(before, after)) continue;
        int decimals = lp_rational_decimals(after);
        if (decimals < 0 || decimals > lp_rational_decimals(before)) return LP_REASON_NOT_WHOLE;
        if (sign_of(before) != sign_of(after)) return LP_REASON_NOT_POSITIVE;
        lp_evaluation old, new;
        if (lp_graph_evaluate(graph, step->code_start, step->code_end, unchanged.places, &old) != LP_REASON_NONE ||
            lp_graph_evaluate(graph, step->code_start, step->code_end, changed->places, &new) != LP_REASON_NONE)
            return LP_REASON_OVERFLOW;
        for (int i = 0; i < old.n_differences; i++)
            if (old.positive[i] != new.positive[i]) return LP_REASON_NOT_POSITIVE;
        if (step->percent && lp_rational_compare(before, hundred) <= 0 && lp_rational_compare(after, hundred) > 0)
            return LP_REASON_PERCENT_RANGE;
        if (lp_rational_compare(before, one) < 0 ? lp_rational_compare(after, one) >= 0
                                                 : lp_rational_compare(after, one) < 0)
            return LP_REASON_CROSSES_ONE;
        if (s < graph->n_steps - 1 && lp_graph_users(graph, LP_FROM_STEP, s, &user) == 0) return LP_REASON_LOOSE_STEP;
    }
    for (int i = 0; i < graph->n_places; i++) {
        const lp_place *place = &graph->places[i];
        lp_rational before = place->number.value, after = changed->places[i];
        if (place->kind != LP_PLACE_OPERAND || lp_rational_equal(before, after)) continue;
        if (lp_rational_decimals(after) < 0 || (before.d == 1 && after.d != 1)) return LP_REASON_NOT_WHOLE;
    }
    if (!lp_graph_equations_hold(graph, changed->places)) return LP_REASON_TEXT_EQUATION;
    return lp_rational_equal(changed->answer, graph->answer) ? LP_REASON_EQUAL_ANSWER : LP_REASON_NONE;
}

/* ---- building ---- */

/* Wordings whose outcome can turn with a number in a way that no equation shows, and numbers that no step uses: a
 * threshold, a capacity or a total that a change may break. */
static bool is_conditional(const lp_graph *graph) {
    static const char *const superlatives[] = {
        "cheapest", "cheaper",  "largest",  "smallest", "highest", "lowest",      "oldest",      "youngest", "fastest",
        "slowest",  "tallest",  "shortest", "longest",  "biggest", "whichever",   "maximum",     "minimum",  "fewest",
        "best",     "heaviest", "lightest", "most",     "round",   "rounded",     "rounds",      "nearest",  "median",
        "range",    "mode",     "prime",    "odd",      "even",    "probability", "consecutive", NULL};
    if (lp_question_has(graph, superlatives)) return true;
    for (size_t i = 0; i < graph->numbers.n; i++) {
        const lp_number *number = &graph->numbers.items[i];
        int user = -1;
        if (number->kind == LP_NUMBER_DIGITS && number->value.n > number->value.d &&
            lp_graph_users(graph, LP_FROM_QUESTION, (int)i, &user) == 0)
            return true;
    }
    return false;
}

lp_reason lp_graph_build(const char *question, const char *solution, lp_rational answer, lp_graph *out) {
    out->question = question;
    out->solution = solution;
    out->question_length = strlen(question);
    out->solution_length = strlen(solution);
    out->answer = answer;
    out->n_steps = out->n_places = out->n_code = out->n_equations = 0;
    lp_numbers_find(question, out->question_length, LP_TEXT_QUESTION, &out->numbers);
    if (out->numbers.overflow) return LP_REASON_TOO_LARGE;
    LP_CHECK_SOUND(lp_graph_read_steps(out));
    if (!lp_rational_equal(out->steps[out->n_steps - 1].result, answer)) return LP_REASON_ANSWER_NOT_DERIVED;
    LP_CHECK_SOUND(lp_graph_read_text(out));
    LP_CHECK_SOUND(lp_graph_link(out));
    lp_recomputed unchanged;
    lp_graph_unchanged(out, &unchanged);
    LP_CHECK_SOUND(lp_graph_recompute(out, &unchanged));
    return is_conditional(out) ? LP_REASON_CONDITIONAL : LP_REASON_NONE;
}
