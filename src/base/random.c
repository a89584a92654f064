#include "base/random.h"

#include <math.h>

void lp_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static void block_of(lp_random_key key, uint32_t block, uint32_t out[4]) {
    const uint32_t counter[4] = {block, key.stream, key.a, key.b};
    const uint32_t words[2] = {(uint32_t)key.seed, (uint32_t)(key.seed >> 32)};
    lp_philox(counter, words, out);
}

uint32_t lp_random_u32(lp_random_key key, uint32_t index) {
    uint32_t out[4];
    block_of(key, index / 4, out);
    return out[index % 4];
}

uint32_t lp_random_below(lp_random_key key, uint32_t index, uint32_t bound) {
    LP_ASSERT(bound > 0);
    /* Tries 0, 1, 2, ... of this index are drawn from far apart counters, so that indices stay independent.
     */
    uint32_t limit = UINT32_MAX - UINT32_MAX % bound;
    for (uint32_t attempt = 0;; attempt++) {
        lp_random_key k = key;
        k.stream ^= attempt << 16;
        uint32_t value = lp_random_u32(k, index);
        if (value < limit || attempt == 64) return value % bound;
    }
}

void lp_random_normal(lp_random_key key, float *out, size_t n) {
    const double two_pi = 6.283185307179586476925286766559;
    for (size_t i = 0; i < n; i += 2) {
        uint32_t bits[4];
        block_of(key, (uint32_t)(i / 2), bits);
        /* u in (0, 1], v in [0, 1), 53 bits each. */
        double u = ((double)(((uint64_t)bits[0] << 21) ^ (bits[1] >> 11)) + 1.0) * 0x1p-53;
        double v = (double)(((uint64_t)bits[2] << 21) ^ (bits[3] >> 11)) * 0x1p-53;
        double radius = sqrt(-2.0 * log(u));
        out[i] = (float)(radius * cos(two_pi * v));
        if (i + 1 < n) out[i + 1] = (float)(radius * sin(two_pi * v));
    }
}
