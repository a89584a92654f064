/* Pairs from templates: word problems as plain data. A template file is
 *
 *   {"format": "latentpatch-templates", "version": 1, "about": "...", "result_range": [1, 60], "held_out_modulus": 6,
 *    "templates": [{"id": "get", "steps": 1, "text": "{n} has {a} {i} and gets {b} more. How many {i} has {n}?",
 *                   "words": {"n": ["Tom", "Ann"], "i": ["apples", "books"]},
 *                   "variables": {"a": [15, 50], "b": [2, 12]}, "constraints": ["r1 >= 2"],
 *                   "equations": [{"left": "a", "op": "+", "right": "b", "result": "r1"}], "answer": "r1"}, ...]}
 *
 * {x} stands for a variable (an integer of the inclusive range) or for a word. Equations run in order, each result an
 * exact integer of result_range; a side is a name or an integer; constraints compare two sides (< <= > >= == !=).
 * A combination of values is held out (kept from a model's training) when the first 4 bytes, big endian, of the
 * SHA-256 of "ID|a=3|b=4", modulo held_out_modulus, are 0. */
#ifndef LP_PROBLEMS_PAIR_TEMPLATE_H
#define LP_PROBLEMS_PAIR_TEMPLATE_H

#include "base/json.h"
#include "problems/pair_make.h"
#include "problems/rational.h"

enum {
    LP_TEMPLATE_VARIABLES = 12,
    LP_TEMPLATE_WORDS = 6,
    LP_TEMPLATE_EQUATIONS = 16,
    LP_TEMPLATE_CONSTRAINTS = 16,
    LP_TEMPLATE_NAMES = LP_TEMPLATE_VARIABLES + LP_TEMPLATE_EQUATIONS
};

/* A name (index of the template's values: variables, then results) or an integer. */
typedef struct {
    int name; /* -1: the integer */
    int64_t integer;
} lp_template_term;

typedef struct {
    const char *name;           /* borrowed from the document */
    const char *const *choices; /* [n_choices], borrowed from the file */
    size_t n_choices;
} lp_template_word;

typedef struct {
    const char *id, *text; /* borrowed from the document */
    const char *names[LP_TEMPLATE_NAMES];
    int64_t low[LP_TEMPLATE_VARIABLES], high[LP_TEMPLATE_VARIABLES];
    lp_template_word words[LP_TEMPLATE_WORDS];
    lp_template_term left[LP_TEMPLATE_EQUATIONS], right[LP_TEMPLATE_EQUATIONS];
    char op[LP_TEMPLATE_EQUATIONS]; /* + - * / */
    struct {
        lp_template_term left, right;
        int comparison; /* of "<", "<=", ">", ">=", "==", "!=" */
    } constraints[LP_TEMPLATE_CONSTRAINTS];
    int n_variables, n_equations, answer; /* names: variables, then results */
    size_t n_words, n_constraints;
} lp_template;

typedef struct {
    cJSON *document;
    const char **choices; /* all words' choices, one after the other */
    lp_template *items;
    size_t n;
    int64_t result_low, result_high;
    uint32_t held_out_modulus; /* 0: nothing is held out */
} lp_template_file;

lp_status lp_templates_load(const char *path, lp_template_file *out, lp_error *err);
lp_status lp_templates_parse(const char *text, size_t size, const char *name, lp_template_file *out, lp_error *err);
void lp_templates_release(lp_template_file *file);

/* values: the variables are given, the results are filled in. False where a result is not an integer of the range, or a
 * constraint fails. */
bool lp_template_solve(const lp_template_file *file, const lp_template *item, int64_t values[LP_TEMPLATE_NAMES]);
/* Whether the combination of variables is held out. */
lp_status lp_template_held_out(const lp_template_file *file, const lp_template *item, const int64_t *values, bool *out,
                               lp_error *err);
/* Appends the text with values and words (choice[w] of word w). */
lp_status lp_template_question(const lp_template *item, const int64_t *values, const uint32_t *choice, lp_text *out,
                               lp_error *err);
/* Appends the worked solution: one annotation a line, and the answer after ####. */
lp_status lp_template_solution(const lp_template *item, const int64_t *values, lp_text *out, lp_error *err);

/* Appends pairs of the options' template file to out->set. */
lp_status lp_pairs_make_from_templates(const lp_make_options *options, lp_made *out, lp_error *err);

#endif
