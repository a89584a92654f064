/* Near duplicates: whether a question is close to one in a file of problems, numbers apart. Texts are compared by
 * their runs of six words in lower case, in which all numbers count as equal. */
#ifndef LP_PROBLEMS_PAIR_OVERLAP_H
#define LP_PROBLEMS_PAIR_OVERLAP_H

#include "problems/problem_source.h"

typedef struct lp_overlap lp_overlap;

/* Reads the questions of the file. */
lp_status lp_overlap_load(const char *path, lp_source_format format, lp_overlap **out, lp_error *err);
void lp_overlap_free(lp_overlap *overlap);
/* True when at least 70 % of the question's runs stand in one question of the file. */
bool lp_overlap_is_close(lp_overlap *overlap, const char *question);

#endif
