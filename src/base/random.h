/* Counter-based random numbers: Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC11). A number depends on its key and counter alone, never on the order in which numbers are asked for, so
 * results do not depend on ranks or batches. */
#ifndef LP_BASE_RANDOM_H
#define LP_BASE_RANDOM_H

#include "base/error.h"

/* out[4] = Philox-4x32-10 of counter and key. */
void lp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* What a number is for. seed: of the job. stream: keeps uses apart. a, b: free (pair, address, ...). */
typedef struct {
    uint64_t seed;
    uint32_t stream;
    uint32_t a;
    uint32_t b;
} lp_random_key;

/* The index-th 32 random bits of the key. */
uint32_t lp_random_u32(lp_random_key key, uint32_t index);
/* Uniform in [0, bound), exactly (rejection); bound > 0. */
uint32_t lp_random_below(lp_random_key key, uint32_t index, uint32_t bound);
/* out[n] = independent standard normal numbers (Box-Muller in double precision). */
void lp_random_normal(lp_random_key key, float *out, size_t n);

#endif
