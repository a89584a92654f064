/* Making pairs by rule: from each problem, a corrupted twin in which one number differs and every step of the worked
 * solution stays sound. What is not sure is not taken, and every refusal is counted by its reason.
 *
 * The result depends on the source's bytes, the options and the seed alone: random choices are keyed by seed and
 * problem, so that a problem gives the same pair whatever stands around it. */
#ifndef LP_PROBLEMS_PAIR_MAKE_H
#define LP_PROBLEMS_PAIR_MAKE_H

#include "problems/pair_options.h"

/* Fails when the source cannot be read. Fewer pairs than count is no failure: compare made->set.n. */
lp_status lp_pairs_make(const lp_make_options *options, lp_made *out, lp_error *err);

#endif
