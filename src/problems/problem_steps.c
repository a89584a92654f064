#include "problems/problem_parts.h"

#include "problems/letters.h"

enum { OP_ADD = -1, OP_SUBTRACT = -2, OP_MULTIPLY = -3, OP_DIVIDE = -4, OP_NEGATE = -5, OP_PERCENT = -6 };
enum { MAX_NESTING = 12 };

/* Of + - * or /. */
static int code_of(char op) {
    return op == '+' ? OP_ADD : op == '-' ? OP_SUBTRACT : op == '*' ? OP_MULTIPLY : OP_DIVIDE;
}

static lp_reason reason_of(lp_rational_result result) {
    return result == LP_RATIONAL_OK         ? LP_REASON_NONE
           : result == LP_RATIONAL_OVERFLOW ? LP_REASON_OVERFLOW
                                            : LP_REASON_DIVISION_BY_ZERO;
}

/* ---- annotations ---- */

typedef struct {
    lp_graph *graph;
    size_t at, end;
    int nesting;
} expression_reader;

static void pass_blanks(expression_reader *in) {
    const char *text = in->graph->solution;
    while (in->at < in->end && (text[in->at] == ' ' || text[in->at] == '$')) in->at++;
}

static bool emit(lp_graph *graph, int code) {
    if (graph->n_code == LP_MAX_CODE) return false;
    graph->code[graph->n_code++] = (int16_t)code;
    return true;
}

static lp_place *add_place(lp_graph *graph, size_t at, size_t length, lp_place_kind kind, int step, lp_rational value) {
    if (graph->n_places == LP_MAX_PLACES) return NULL;
    lp_place *place = &graph->places[graph->n_places++];
    *place = (lp_place){.kind = kind, .step = step};
    place->number = (lp_number){.at = at, .length = length, .kind = LP_NUMBER_DIGITS, .value = value};
    for (size_t i = at; i < at + length; i++) {
        if (graph->solution[i] == ',') place->number.commas = true;
        if (graph->solution[i] == '.') place->number.decimals = (int)(at + length - i - 1);
    }
    return place;
}

static bool read_sum(expression_reader *in);

static bool read_atom(expression_reader *in) {
    lp_graph *graph = in->graph;
    const char *text = graph->solution;
    pass_blanks(in);
    if (in->at == in->end || in->nesting == MAX_NESTING) return false;
    in->nesting++;
    bool good = false;
    if (text[in->at] == '-' || text[in->at] == '+') {
        bool minus = text[in->at++] == '-';
        good = read_atom(in) && (!minus || emit(graph, OP_NEGATE));
    } else if (text[in->at] == '(') {
        in->at++;
        good = read_sum(in);
        pass_blanks(in);
        good = good && in->at < in->end && text[in->at++] == ')';
    } else {
        lp_rational value = {0, 1};
        size_t used = 0;
        lp_rational_scan(text + in->at, in->end - in->at, &value, &used);
        if (used > 0 && add_place(graph, in->at, used, LP_PLACE_OPERAND, graph->n_steps, value))
            good = emit(graph, graph->n_places - 1);
        in->at += used;
    }
    in->nesting--;
    pass_blanks(in);
    if (good && in->at < in->end && text[in->at] == '%') {
        in->at++;
        good = emit(graph, OP_PERCENT);
    }
    return good;
}

/* The operator at the cursor among * x X / and the UTF-8 signs for times and divided by; 0 when there is none. */
static int product_operator(expression_reader *in) {
    const char *text = in->graph->solution + in->at;
    size_t left = in->end - in->at;
    if (left == 0) return 0;
    if (*text == '*' || *text == 'x' || *text == 'X' || *text == '/') {
        in->at++;
        return *text == '/' ? OP_DIVIDE : OP_MULTIPLY;
    }
    if (left >= 2 && (memcmp(text, "\xc3\x97", 2) == 0 || memcmp(text, "\xc3\xb7", 2) == 0)) {
        in->at += 2;
        return text[1] == '\x97' ? OP_MULTIPLY : OP_DIVIDE;
    }
    return 0;
}

static bool read_product(expression_reader *in) {
    bool good = read_atom(in);
    for (;;) {
        pass_blanks(in);
        int op = good ? product_operator(in) : 0;
        if (op == 0) return good;
        good = read_atom(in) && emit(in->graph, op);
    }
}

static bool read_sum(expression_reader *in) {
    const char *text = in->graph->solution;
    bool good = read_product(in);
    for (;;) {
        pass_blanks(in);
        if (!good || in->at == in->end || (text[in->at] != '+' && text[in->at] != '-')) return good;
        int op = text[in->at++] == '+' ? OP_ADD : OP_SUBTRACT;
        good = read_product(in) && emit(in->graph, op);
    }
}

lp_reason lp_graph_evaluate(const lp_graph *graph, int start, int end, const lp_rational *places, lp_evaluation *out) {
    lp_rational stack[LP_MAX_STACK];
    int n = 0;
    out->n_differences = 0;
    for (int i = start; i < end; i++) {
        int code = graph->code[i];
        lp_rational_result result = LP_RATIONAL_OK;
        if (code >= 0) {
            if (n == LP_MAX_STACK) return LP_REASON_TOO_LARGE;
            stack[n++] = places[code];
        } else if (code == OP_NEGATE) {
            stack[n - 1].n = -stack[n - 1].n;
        } else if (code == OP_PERCENT) {
            result = lp_rational_divide(stack[n - 1], lp_rational_whole(100), &stack[n - 1]);
        } else {
            lp_rational right = stack[--n], *left = &stack[n - 1];
            if (code == OP_SUBTRACT && out->n_differences < LP_MAX_STACK)
                out->positive[out->n_differences++] = lp_rational_compare(*left, right) > 0;
            result = code == OP_ADD        ? lp_rational_add(*left, right, left)
                     : code == OP_SUBTRACT ? lp_rational_subtract(*left, right, left)
                     : code == OP_MULTIPLY ? lp_rational_multiply(*left, right, left)
                                           : lp_rational_divide(*left, right, left);
        }
        if (result != LP_RATIONAL_OK) return reason_of(result);
    }
    out->value = stack[0];
    return LP_REASON_NONE;
}

/* One annotation, text[at..end) between << and >>. */
static lp_reason read_step(lp_graph *graph, size_t at, size_t end) {
    const char *text = graph->solution;
    size_t first = at, last = end;
    while (first < end && text[first] != '=') first++;
    while (last > at && text[last - 1] != '=') last--;
    if (first == end || graph->n_steps == LP_MAX_STEPS)
        return first == end ? LP_REASON_BAD_ANNOTATION : LP_REASON_TOO_LARGE;
    lp_step *step = &graph->steps[graph->n_steps];
    *step = (lp_step){.expression_at = at, .expression_length = first - at, .code_start = graph->n_code};
    expression_reader in = {graph, at, first, 0};
    if (!read_sum(&in) || in.at != first) return LP_REASON_BAD_ANNOTATION;
    step->code_end = graph->n_code;
    int operands = 0;
    bool sum = true;
    for (int i = step->code_start; i < step->code_end; i++) {
        operands += graph->code[i] >= 0;
        sum = sum && (graph->code[i] >= 0 || graph->code[i] == OP_ADD);
    }
    step->n_terms = sum && operands > 1 ? operands : 0;
    while (last < end && (text[last] == ' ' || text[last] == '$')) last++;
    size_t used = 0, sign = last < end && text[last] == '-' ? 1 : 0;
    lp_rational_scan(text + last + sign, end - last - sign, &step->result, &used);
    size_t rest = last + sign + used;
    while (rest < end && (text[rest] == ' ' || text[rest] == '%')) rest++;
    if (used == 0 || rest != end || last == first) return LP_REASON_BAD_ANNOTATION;
    if (sign) step->result.n = -step->result.n;
    if (!add_place(graph, last, sign + used, LP_PLACE_RESULT, graph->n_steps, step->result)) return LP_REASON_TOO_LARGE;
    lp_rational values[LP_MAX_PLACES];
    for (int i = 0; i < graph->n_places; i++) values[i] = graph->places[i].number.value;
    lp_evaluation found;
    LP_CHECK_SOUND(lp_graph_evaluate(graph, step->code_start, step->code_end, values, &found));
    if (!lp_rational_equal(found.value, step->result)) return LP_REASON_INEXACT_STEP;
    graph->n_steps++;
    return LP_REASON_NONE;
}

lp_reason lp_graph_read_steps(lp_graph *graph) {
    const char *solution = graph->solution;
    for (const char *open = strstr(solution, "<<"); open;) {
        const char *close = strstr(open, ">>"), *next = strstr(open + 2, "<<");
        if (!close || (next && next < close)) return LP_REASON_BAD_ANNOTATION;
        lp_reason reason = read_step(graph, (size_t)(open - solution) + 2, (size_t)(close - solution));
        if (reason != LP_REASON_NONE) return reason;
        open = next;
    }
    return graph->n_steps > 0 ? LP_REASON_NONE : LP_REASON_NO_ANNOTATION;
}

/* ---- the text around the annotations ---- */

static bool inside_annotation(const lp_graph *graph, size_t at) {
    for (size_t i = at; i > 1; i--) {
        if (graph->solution[i - 1] == '>' && graph->solution[i - 2] == '>') return false;
        if (graph->solution[i - 1] == '<' && graph->solution[i - 2] == '<') return true;
    }
    return false;
}

/* The numbers of the solution's text, outside annotations. */
static lp_reason read_text_numbers(lp_graph *graph) {
    lp_number_list list;
    lp_numbers_find(graph->solution, graph->solution_length, LP_TEXT_SOLUTION, &list);
    if (list.overflow) return LP_REASON_TOO_LARGE;
    const char *final = strstr(graph->solution, "####");
    for (size_t i = 0; i < list.n; i++) {
        const lp_number *number = &list.items[i];
        if (inside_annotation(graph, number->at)) continue;
        if (graph->n_places == LP_MAX_PLACES) return LP_REASON_TOO_LARGE;
        lp_place *place = &graph->places[graph->n_places++];
        *place = (lp_place){.number = *number, .kind = LP_PLACE_TEXT};
        if (final && number->at > (size_t)(final - graph->solution)) {
            place->kind = LP_PLACE_FINAL;
            continue;
        }
        size_t before = number->at;
        while (before > 0 && (graph->solution[before - 1] == '$' || graph->solution[before - 1] == ' ')) before--;
        if (before < 2 || memcmp(graph->solution + before - 2, ">>", 2) != 0) continue;
        for (int s = 0; s < graph->n_steps; s++) {
            lp_step *step = &graph->steps[s];
            size_t next = step->expression_at + step->expression_length;
            const char *close = strstr(graph->solution + next, ">>");
            if (!close || (size_t)(close - graph->solution) + 2 != before) continue;
            if (!lp_rational_equal(step->result, number->value)) continue;
            place->kind = LP_PLACE_SHOWN;
            place->step = s;
            step->percent = number->unit == LP_UNIT_PERCENT;
        }
    }
    return LP_REASON_NONE;
}

/* The text is cut at '=' and line ends, annotations left out, and each part read as tokens. */
typedef int step_token; /* an index of places, an operator (< 0), or one of the two below */
enum { TOKEN_WORD = LP_MAX_PLACES, TOKEN_STOP, MAX_TOKENS = 64 };

/* The place that starts at this byte and is neither an operand nor a result; -1 when there is none. */
static int place_at(const lp_graph *graph, size_t at) {
    for (int i = 0; i < graph->n_places; i++)
        if (graph->places[i].number.at == at && graph->places[i].kind != LP_PLACE_OPERAND &&
            graph->places[i].kind != LP_PLACE_RESULT)
            return i;
    return -1;
}

/* Reads text[at..end) as tokens; the last MAX_TOKENS when there are more. Returns how many. */
static int read_tokens(const lp_graph *graph, size_t at, size_t end, step_token tokens[MAX_TOKENS]) {
    const char *text = graph->solution;
    int n = 0;
    while (at < end) {
        size_t length = 1;
        int code = TOKEN_STOP, place = place_at(graph, at);
        if (place >= 0) {
            code = place;
            length = graph->places[place].number.length;
        } else if (end - at >= 2 && memcmp(text + at, "<<", 2) == 0) {
            const char *close = strstr(text + at, ">>");
            at = close ? (size_t)(close - text) + 2 : end;
            continue;
        } else {
            char op = lp_text_operator(text, at, &length);
            /* A dash between numbers is a range as often as a minus, so it is not an operator here. */
            bool known = op != 0 && length < 3;
            if (known)
                code = code_of(op);
            else if (strchr(" $%", text[at]))
                code = text[at] == '%' ? OP_PERCENT : 0;
            else if (lp_is_letter(text[at]) || strchr("/-'", text[at]))
                code = TOKEN_WORD;
            if (!known) length = 1;
        }
        at += length;
        if (code == 0) continue;
        if (code == TOKEN_WORD && n > 0 && tokens[n - 1] == TOKEN_WORD) continue;
        if (n == MAX_TOKENS) memmove(tokens, tokens + 1, sizeof *tokens * (size_t)--n);
        tokens[n++] = code;
    }
    return n;
}

static bool is_number(step_token token) {
    return token >= 0 && token < LP_MAX_PLACES;
}
static bool is_operator(step_token token) {
    return token < 0 && token >= OP_DIVIDE;
}

/* Compiles numbers and operators, words passed over, products before sums. False when they do not alternate. */
static bool compile(lp_graph *graph, const step_token *tokens, int n) {
    int pending_sum = 0, pending_product = 0;
    bool number_next = true;
    for (int i = 0; i < n; i++) {
        int code = tokens[i];
        if (code == TOKEN_WORD) continue;
        if (code == OP_PERCENT) {
            if (number_next || !emit(graph, OP_PERCENT)) return false;
        } else if (is_number(tokens[i])) {
            if (!number_next || !emit(graph, code)) return false;
            number_next = false;
        } else {
            if (number_next || code == TOKEN_STOP) return false;
            if (pending_product && !emit(graph, pending_product)) return false;
            pending_product = 0;
            if (code == OP_MULTIPLY || code == OP_DIVIDE) {
                pending_product = code;
            } else {
                if (pending_sum && !emit(graph, pending_sum)) return false;
                pending_sum = code;
            }
            number_next = true;
        }
    }
    if (number_next) return false;
    if (pending_product && !emit(graph, pending_product)) return false;
    return !pending_sum || emit(graph, pending_sum);
}

/* The first of the tokens at the end that make an expression: back over number, operator, number ... */
static int expression_start(const step_token *tokens, int n) {
    int start = n, i = n;
    for (;;) {
        while (i > 0 && (tokens[i - 1] == TOKEN_WORD || tokens[i - 1] == OP_PERCENT)) i--;
        if (i == 0 || !is_number(tokens[i - 1])) return start;
        start = --i;
        while (i > 0 && tokens[i - 1] == TOKEN_WORD) i--;
        if (i == 0 || !is_operator(tokens[i - 1])) return start;
        i--;
    }
}

/* One past the last of the tokens at the front that make an expression. */
static int expression_end(const step_token *tokens, int n) {
    int end = 0, i = 0;
    for (;;) {
        while (i < n && tokens[i] == TOKEN_WORD) i++;
        if (i == n || !is_number(tokens[i])) return end;
        end = ++i;
        if (i < n && tokens[i] == OP_PERCENT) end = ++i;
        while (i < n && tokens[i] == TOKEN_WORD) i++;
        if (i == n || !is_operator(tokens[i])) return end;
        i++;
    }
}

static bool holds(const lp_graph *graph, const lp_text_equation *equation, const lp_rational *places) {
    int start = equation->left_start, middle = equation->right_start;
    lp_evaluation left, right;
    return lp_graph_evaluate(graph, start, middle, places, &left) == LP_REASON_NONE &&
           lp_graph_evaluate(graph, middle, equation->end, places, &right) == LP_REASON_NONE &&
           lp_rational_equal(left.value, right.value);
}

/* Adds the equation of text[at..middle) and text[middle + 1..end) where it has an operator and holds. */
static lp_reason add_equation(lp_graph *graph, size_t at, size_t middle, size_t end) {
    step_token left[MAX_TOKENS], right[MAX_TOKENS];
    int n_left = read_tokens(graph, at, middle, left), n_right = read_tokens(graph, middle + 1, end, right);
    int start = expression_start(left, n_left), stop = expression_end(right, n_right), saved = graph->n_code;
    if (start == n_left || stop == 0) return LP_REASON_NONE;
    lp_text_equation equation = {.left_start = saved};
    bool good = compile(graph, left + start, n_left - start);
    equation.right_start = graph->n_code;
    good = good && compile(graph, right, stop);
    equation.end = graph->n_code;
    lp_rational values[LP_MAX_PLACES];
    for (int i = 0; i < graph->n_places; i++) values[i] = graph->places[i].number.value;
    good = good && equation.end - saved > 2 && holds(graph, &equation, values);
    if (!good) {
        graph->n_code = saved;
        return LP_REASON_NONE;
    }
    if (graph->n_equations == LP_MAX_EQUATIONS) return LP_REASON_TOO_LARGE;
    graph->equations[graph->n_equations++] = equation;
    return LP_REASON_NONE;
}

/* The next '=' or line end of the text, outside annotations. */
static size_t next_border(const lp_graph *graph, size_t at) {
    const char *text = graph->solution;
    while (at < graph->solution_length && text[at] != '=' && text[at] != '\n') {
        const char *close = strncmp(text + at, "<<", 2) == 0 ? strstr(text + at, ">>") : NULL;
        at = close ? (size_t)(close - text) + 2 : at + 1;
    }
    return at;
}

lp_reason lp_graph_read_text(lp_graph *graph) {
    lp_reason reason = read_text_numbers(graph);
    size_t at = 0, middle = next_border(graph, 0);
    while (reason == LP_REASON_NONE && middle < graph->solution_length) {
        size_t end = next_border(graph, middle + 1);
        if (graph->solution[middle] == '=') reason = add_equation(graph, at, middle, end);
        at = middle + 1;
        middle = end;
    }
    return reason;
}

bool lp_graph_equations_hold(const lp_graph *graph, const lp_rational *places) {
    for (int i = 0; i < graph->n_equations; i++)
        if (!holds(graph, &graph->equations[i], places)) return false;
    return true;
}
