/* Annotations for worked solutions that lack some. An equation that the text writes out (40 - 10 = 30 eggs) becomes
 * one, and an annotation that only repeats its result (<<400=400>>) gets the expression in front of it. This module
 * does not check whether an annotation is right; the equation graph evaluates it like any other. */
#ifndef LP_PROBLEMS_PROBLEM_ANNOTATE_H
#define LP_PROBLEMS_PROBLEM_ANNOTATE_H

#include "problems/rational.h"

/* Appends the solution with the annotations added to *out; *n_added is how many. */
lp_status lp_solution_annotate(const char *solution, lp_text *out, size_t *n_added, lp_error *err);

#endif
