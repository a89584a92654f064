/* Pair files: writing. */
#ifndef LP_PROBLEMS_PAIR_WRITE_H
#define LP_PROBLEMS_PAIR_WRITE_H

#include "base/text.h"
#include "pairs/pairs.h"

typedef struct {
    lp_pairs_format format;
    const char *source; /* of our own format's head; NULL: left out */
    int64_t seed;       /* likewise; -1: left out */
    lp_pair_split only; /* NONE: all pairs */
} lp_pairs_print_options;

/* Adds the set as a file of the format, one pair a line. */
lp_status lp_pairs_print(const lp_pair_set *set, const lp_pairs_print_options *options, lp_text *out, lp_error *err);

#endif
