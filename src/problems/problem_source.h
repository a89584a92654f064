/* Files of annotated word problems. Every format becomes the same thing: a question, a worked solution with
 * <<expression=result>> annotations, and the stated answer. */
#ifndef LP_PROBLEMS_PROBLEM_SOURCE_H
#define LP_PROBLEMS_PROBLEM_SOURCE_H

#include "problems/rational.h"

typedef enum {
    LP_SOURCE_GSM8K,     /* JSON lines {question, answer}; the answer is a worked solution ending in #### */
    LP_SOURCE_GSM8K_AUG, /* text lines question||<<..>> <<..>> #### answer */
    LP_SOURCE_SVAMP,     /* JSON array {Body, Question, Equation, Answer} */
    LP_SOURCE_GSM_PLUS,  /* JSON lines {question, answer, seed_question, seed_solution, seed_answer, ...} */
    LP_SOURCE_TEMPLATES  /* not read here: see pair_template.h */
} lp_source_format;

/* NULL-terminated, in the order of the enum: "gsm8k", "gsm8k-aug", "svamp", "gsm-plus", "templates". */
extern const char *const lp_source_format_names[];
/* Those of them that hold questions: all but "templates". NULL-terminated, in the same order. */
extern const char *const lp_question_format_names[];

/* The same problem with other numbers. */
typedef struct {
    char *question, *kind;
    lp_rational answer;
    bool has_answer;
} lp_problem_variant;

typedef struct {
    char *question, *solution;
    lp_rational answer;
    lp_problem_variant *variant; /* GSM-Plus; NULL otherwise */
    bool has_answer;             /* false: none is stated, or none that is a number */
    size_t index;                /* record of the file, from 0 */
} lp_problem;

typedef struct {
    lp_problem *items;
    size_t n, capacity;
} lp_problem_list; /* {0} is empty */

/* Fails with file, line and column on malformed JSON, on text that is not UTF-8, on records without the format's keys,
 * and on a file without any record. */
lp_status lp_problems_load(const char *path, lp_source_format format, lp_problem_list *out, lp_error *err);
lp_status lp_problems_parse(const char *text, size_t size, const char *name, lp_source_format format,
                            lp_problem_list *out, lp_error *err);
void lp_problems_release(lp_problem_list *list);

/* The number after the last "####" of a worked solution. */
bool lp_solution_answer(const char *solution, lp_rational *out);

#endif
