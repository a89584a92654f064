/* The equation graph of a worked word problem, and what becomes of it when numbers of the question change.
 *
 * The worked solution carries annotations <<expression=result>> (GSM8K). Each annotation is a step. Each operand of
 * a step stands for a number of the question (as it is, or as v/100, 1 - v/100 ... of a percentage), for the result
 * of an earlier step, or for a constant that the texts explain (60 where minutes or hours are named). All sources
 * that an operand could have are kept. A change is accepted only where all of them give the same new value, so the
 * program never guesses.
 *
 * All arithmetic is exact. Nothing is allocated: a graph is a large struct of the caller that is used again and again.
 */
#ifndef LP_PROBLEMS_PROBLEM_GRAPH_H
#define LP_PROBLEMS_PROBLEM_GRAPH_H

#include "problems/problem_numbers.h"
#include "problems/problem_reason.h"

enum { LP_MAX_STEPS = 40, LP_MAX_PLACES = 400, LP_MAX_CODE = 1000, LP_MAX_EQUATIONS = 60 };

/* What a number of the solution is. */
typedef enum {
    LP_PLACE_OPERAND, /* of the step, inside << >> */
    LP_PLACE_RESULT,  /* of the step, inside << >> */
    LP_PLACE_SHOWN,   /* the step's result, repeated after >> */
    LP_PLACE_TEXT,    /* anywhere else */
    LP_PLACE_FINAL    /* after #### */
} lp_place_kind;

/* Where an operand or a number of the text can come from. */
typedef enum { LP_FROM_QUESTION, LP_FROM_STEP, LP_FROM_PLACE } lp_source_kind;
typedef struct {
    lp_source_kind from;
    int index; /* of the question's number, of the step, or of the operand that a text writes out (48/2 = <<48/2=24>>)
                */
    int form;  /* of the question's number: 0 as it is; 1.. what is made of percentages, fractions ... */
} lp_source;

enum { LP_MAX_SOURCES = 16 };

typedef struct {
    lp_number number; /* at, length: bytes of the solution */
    lp_place_kind kind;
    int step; /* of OPERAND, RESULT, SHOWN */
    lp_source sources[LP_MAX_SOURCES];
    int n_sources;
    bool constant; /* can stand for itself: 60 where hours are named */
    int partner;   /* of an operand, the number of the text that writes it out, and the other way round; -1: none */
} lp_place;

typedef struct {
    size_t expression_at, expression_length; /* left of the last '=' */
    int code_start, code_end;
    lp_rational result;
    bool percent; /* shown with % */
    int n_terms;  /* of a plain sum; 0 otherwise */
} lp_step;

/* An equation that the text writes out (12/3 = 4), outside annotations: two ranges of code. */
typedef struct {
    int left_start, right_start, end;
} lp_text_equation;

typedef struct {
    const char *question, *solution; /* borrowed */
    size_t question_length, solution_length;
    lp_rational answer;
    lp_number_list numbers; /* of the question */
    lp_step steps[LP_MAX_STEPS];
    int n_steps;
    lp_place places[LP_MAX_PLACES]; /* in the order of the text */
    int n_places;
    lp_text_equation equations[LP_MAX_EQUATIONS]; /* those that hold */
    int n_equations;
    int16_t code[LP_MAX_CODE]; /* reverse Polish: an index of places, or an operator below 0 */
    int n_code;
} lp_graph;

/* Reads question and solution, finds the steps, and recomputes them unchanged: every step must give its stated result,
 * the last one the answer, and every number of the solution must have a source. The texts are borrowed. */
lp_reason lp_graph_build(const char *question, const char *solution, lp_rational answer, lp_graph *out);

/* The graph after a change. */
typedef struct {
    lp_number numbers[LP_MAX_NUMBERS]; /* of the question; what counts is value, unit and parts */
    lp_rational places[LP_MAX_PLACES]; /* of the solution */
    lp_rational steps[LP_MAX_STEPS];   /* results */
    lp_rational answer;
} lp_recomputed;

/* Sets *out to the unchanged graph: the caller then changes out->numbers. */
void lp_graph_unchanged(const lp_graph *graph, lp_recomputed *out);
/* Recomputes everything from out->numbers. Fails where sources disagree and on division by zero and overflow; says
 * nothing on whether the result makes sense. */
lp_reason lp_graph_recompute(const lp_graph *graph, lp_recomputed *out);
/* Whether every step of the recomputed graph is as sound as it was: whole where it was whole, positive where it was
 * positive, no percentage over 100 that was under it, no ratio that crosses 1, no changed step without a use, and every
 * equation in the text holds still. */
lp_reason lp_graph_sound(const lp_graph *graph, const lp_recomputed *changed);

/* False when an equation that the solution's text writes out does not hold with these values of the places. */
bool lp_graph_equations_hold(const lp_graph *graph, const lp_rational *places);

/* Whether the question's number i may be changed at all, before any value is tried. */
lp_reason lp_graph_changeable(const lp_graph *graph, size_t i);
/* The highest value that the text around number i leaves sensible (7 before "days a week"); 0: no limit. */
int64_t lp_graph_limit(const lp_graph *graph, size_t i);

/* Whether the a or an in front of number i still fits when it has another value (an 8-hour day). */
bool lp_graph_article_fits(const lp_graph *graph, size_t i, lp_rational value);

/* Takes the numbers of another question that is this one in all but its numbers; else OTHER_TEXT. */
lp_reason lp_graph_take_variant(const lp_graph *graph, const char *variant, lp_recomputed *out);

/* The texts with the new numbers; appended. */
lp_status lp_graph_question(const lp_graph *graph, const lp_recomputed *changed, lp_text *out, lp_error *err);
lp_status lp_graph_solution(const lp_graph *graph, const lp_recomputed *changed, lp_text *out, lp_error *err);
/* Appends the indices of the steps whose results step s uses, as a JSON array. */
lp_status lp_graph_uses(const lp_graph *graph, int s, lp_text *out, lp_error *err);

#endif
