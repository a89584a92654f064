#include "store/wilson.h"

#include <math.h>

lp_interval lp_wilson95(int64_t k, int64_t n) {
    LP_ASSERT(k >= 0 && k <= n);
    if (n == 0) return (lp_interval){0, 1};
    const double z = 1.959963984540054; /* 0.975 quantile of the normal distribution */
    double share = (double)k / (double)n;
    double scale = 1 + z * z / (double)n;
    double centre = (share + z * z / (2 * (double)n)) / scale;
    double half = z / scale * sqrt(share * (1 - share) / (double)n + z * z / (4.0 * (double)n * (double)n));
    /* Exact at the ends, where rounding would leave 1e-17. */
    return (lp_interval){k == 0 ? 0 : centre - half, k == n ? 1 : centre + half};
}
