/* Wilson's score interval of a share (E. B. Wilson, "Probable inference, the law of succession, and statistical
 * inference", JASA 1927), without continuity correction. Pure. */
#ifndef LP_STORE_WILSON_H
#define LP_STORE_WILSON_H

#include "base/error.h"

typedef struct {
    double low;
    double high;
} lp_interval;

/* The 95 % interval of k of n, 0 <= k <= n; {0, 1} where n is 0. */
lp_interval lp_wilson95(int64_t k, int64_t n);

#endif
