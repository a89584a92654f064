/* What the files of the equation graph share among themselves (problem_steps.c, problem_sources.c, problem_context.c,
 * problem_graph.c, problem_change.c). Not for others. */
#ifndef LP_PROBLEMS_PROBLEM_PARTS_H
#define LP_PROBLEMS_PROBLEM_PARTS_H

#include "problems/problem_graph.h"

/* Returns the call's reason where it is one. */
#define LP_CHECK_SOUND(call)                                                                                           \
    do {                                                                                                               \
        const lp_reason lp_found = (call);                                                                             \
        if (lp_found != LP_REASON_NONE) return lp_found;                                                               \
    } while (0)

enum { LP_MAX_STACK = 32, LP_MAX_FORMS = 8 };

/* Forms of a fraction: its two parts. */
enum { LP_FORM_TOP = 1, LP_FORM_BOTTOM = 2 };

typedef struct {
    lp_rational value;
    bool positive[LP_MAX_STACK]; /* of each difference, in order */
    int n_differences;
} lp_evaluation;

/* Runs code[start..end) with these values of the places. */
lp_reason lp_graph_evaluate(const lp_graph *graph, int start, int end, const lp_rational *places, lp_evaluation *out);

/* Reads all annotations: steps, and the places inside them. */
lp_reason lp_graph_read_steps(lp_graph *graph);
/* Adds the numbers outside annotations to the places, and finds the equations that they write out. */
lp_reason lp_graph_read_text(lp_graph *graph);

/* Finds the sources of every operand and text number. */
lp_reason lp_graph_link(lp_graph *graph);
/* Rules sources out that the texts around an operand leave no room for (problem_context.c). */
void lp_graph_narrow(lp_graph *graph);
/* The new value of a place that is not a result: the value that all its sources give, or a refusal. */
lp_reason lp_graph_resolve(const lp_graph *graph, const lp_recomputed *changed, const lp_place *place,
                           lp_rational *out);
/* How many operands can come from the question's number, or the step, of that index; *user = the last of them. */
int lp_graph_users(const lp_graph *graph, lp_source_kind from, int index, int *user);
/* True when the question has one of the words (NULL-terminated list; see lp_text_has_word). */
bool lp_question_has(const lp_graph *graph, const char *const *words);

#endif
