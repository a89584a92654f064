#include "problems/problem_annotate.h"

#include "problems/letters.h"
#include "problems/problem_numbers.h"

enum { MAX_TOKENS = 64 };

typedef enum { TOKEN_NUMBER, TOKEN_OPERATOR, TOKEN_WORD, TOKEN_STOP } token_kind;

typedef struct {
    token_kind kind;
    size_t at, length;
    char op;      /* + - * / */
    bool percent; /* of a number */
} token;

static size_t annotation_end(const char *text, size_t at) {
    const char *close = strstr(text + at, ">>");
    return close ? (size_t)(close - text) + 2 : strlen(text);
}

/* Reads text[at..end) as tokens, annotations and blanks left out; the last MAX_TOKENS when there are more. */
static int read_tokens(const char *text, size_t at, size_t end, token tokens[MAX_TOKENS]) {
    int n = 0;
    while (at < end) {
        token next = {.kind = TOKEN_STOP, .at = at, .length = 1};
        size_t sign = 0;
        lp_rational value = {0, 1};
        size_t used = 0;
        if (strncmp(text + at, "<<", 2) == 0) {
            at = annotation_end(text, at);
            continue;
        }
        if (text[at] == ' ' || text[at] == '$') {
            at++;
            continue;
        }
        if (lp_is_digit(text[at]) || text[at] == '.') lp_rational_scan(text + at, end - at, &value, &used);
        if (used > 0) {
            next.length = used;
            next.percent = text[at + used] == '%';
            /* 12A and 20x + ... are not plain numbers. */
            bool plain = !lp_is_letter(text[at + used]) || (text[at + used] == 'x' && lp_is_digit(text[at + used + 1]));
            next.kind = plain ? TOKEN_NUMBER : TOKEN_STOP;
        } else if ((next.op = lp_text_operator(text, at, &sign)) != 0) {
            next.kind = TOKEN_OPERATOR;
            next.length = sign;
        } else if (lp_is_letter(text[at]) || strchr("/-'", text[at])) {
            next.kind = TOKEN_WORD;
            while (lp_is_letter(text[at + next.length]) || strchr("/-'", text[at + next.length]) != NULL) {
                if (text[at + next.length] == 0) break;
                next.length++;
            }
        }
        at += next.length + next.percent;
        if (n == MAX_TOKENS) memmove(tokens, tokens + 1, sizeof *tokens * (size_t)--n);
        tokens[n++] = next;
    }
    return n;
}

/* The first of the tokens at the end that make number, operator, number ..., words passed over; n when there are not
 * two numbers. */
static int expression_start(const token *tokens, int n) {
    int start = n, numbers = 0;
    for (int i = n; i > 0;) {
        while (i > 0 && tokens[i - 1].kind == TOKEN_WORD) i--;
        if (i == 0 || tokens[i - 1].kind != TOKEN_NUMBER) break;
        start = --i;
        numbers++;
        while (i > 0 && tokens[i - 1].kind == TOKEN_WORD) i--;
        if (i == 0 || tokens[i - 1].kind != TOKEN_OPERATOR) return numbers > 1 ? start : n;
        i--;
    }
    /* The text before is an operator or a sign without a number, so the expression is not whole. */
    return n;
}

static lp_status print_expression(const char *text, const token *tokens, int n, lp_text *out, lp_error *err) {
    for (int i = 0; i < n; i++) {
        if (tokens[i].kind == TOKEN_OPERATOR) LP_CHECK(lp_text_add(out, &tokens[i].op, 1, err));
        if (tokens[i].kind != TOKEN_NUMBER) continue;
        for (size_t k = 0; k < tokens[i].length; k++)
            if (text[tokens[i].at + k] != ',') LP_CHECK(lp_text_add(out, text + tokens[i].at + k, 1, err));
        if (tokens[i].percent) LP_CHECK(lp_text_put(out, "%", err));
    }
    return LP_OK;
}

/* The number right of '=' is a result and not the start of another expression. */
static bool is_result(const char *text, size_t end) {
    size_t length = 0;
    if (lp_is_letter(text[end]) || text[end] == '%') return false;
    while (text[end] == ' ') end++;
    return !lp_is_digit(text[end]) && text[end] != '(' && lp_text_operator(text, end, &length) == 0;
}

/* The bytes of a bare annotation <<400=400>> at text[at]; 0 when it is none. */
static size_t bare_annotation(const char *text, size_t at) {
    lp_rational left = {0, 1}, right = {0, 1};
    size_t used = 0, more = 0, size = strlen(text);
    if (strncmp(text + at, "<<", 2) != 0) return 0;
    lp_rational_scan(text + at + 2, size - at - 2, &left, &used);
    if (used == 0 || text[at + 2 + used] != '=') return 0;
    lp_rational_scan(text + at + 3 + used, size - at - 3 - used, &right, &more);
    bool bare = more > 0 && strncmp(text + at + 3 + used + more, ">>", 2) == 0 && lp_rational_equal(left, right);
    return bare ? used + more + 5 : 0;
}

lp_status lp_solution_annotate(const char *solution, lp_text *out, size_t *n_added, lp_error *err) {
    size_t size = strlen(solution), segment = 0, written = 0;
    *n_added = 0;
    for (size_t at = 0; at < size;) {
        if (strncmp(solution + at, "<<", 2) == 0) {
            at = annotation_end(solution, at);
            continue;
        }
        if (solution[at] == '\n') segment = at + 1;
        if (solution[at] != '=') {
            at++;
            continue;
        }
        size_t value_at = at + 1, used = 0;
        while (solution[value_at] == ' ' || solution[value_at] == '$') value_at++;
        token tokens[MAX_TOKENS];
        int n = read_tokens(solution, segment, at, tokens), start = expression_start(tokens, n);
        size_t bare = bare_annotation(solution, value_at);
        lp_rational value = {0, 1};
        segment = ++at;
        lp_rational_scan(solution + value_at, size - value_at, &value, &used);
        if (start == n || (bare == 0 && (used == 0 || !is_result(solution, value_at + used)))) continue;
        LP_CHECK(lp_text_add(out, solution + written, value_at - written, err));
        LP_CHECK(lp_text_put(out, "<<", err));
        LP_CHECK(print_expression(solution, tokens + start, n - start, out, err));
        if (bare > 0) {
            const char *equal = strchr(solution + value_at, '=');
            written = (size_t)(equal - solution);
        } else {
            LP_CHECK(lp_text_put(out, "=", err));
            for (size_t k = 0; k < used; k++)
                if (solution[value_at + k] != ',') LP_CHECK(lp_text_add(out, solution + value_at + k, 1, err));
            LP_CHECK(lp_text_put(out, ">>", err));
            written = value_at;
        }
        at = bare > 0 ? value_at + bare : value_at + used;
        (*n_added)++;
    }
    return lp_text_add(out, solution + written, size - written, err);
}
