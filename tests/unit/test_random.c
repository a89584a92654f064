/* Philox-4x32-10 against the known answers of Random123 (kat_vectors, philox4x32 with 10 rounds), and what is made of
 * its numbers. */
#include "base/random.h"

#include <math.h>
#include <setjmp.h>

#include <cmocka.h>

static void test_known_answers(void **state) {
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], wanted[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        lp_philox(cases[i].counter, cases[i].key, out);
        for (int k = 0; k < 4; k++)
            if (out[k] != cases[i].wanted[k])
                fail_msg("case %zu word %d: expected %08x, found %08x", i, k, cases[i].wanted[k], out[k]);
    }
}

static void test_place_of_seed_and_index(void **state) {
    (void)state;
    const lp_random_key zero = {0};
    static const uint32_t first[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    for (uint32_t i = 0; i < 4; i++) assert_int_equal(lp_random_u32(zero, i), first[i]);
    /* Every part of the key counts. */
    lp_random_key other[] = {zero, zero, zero, zero, zero};
    other[0].seed = 1;
    other[1].seed = UINT64_C(1) << 32;
    other[2].stream = 1;
    other[3].a = 1;
    other[4].b = 1;
    for (int i = 0; i < 5; i++) {
        assert_int_not_equal(lp_random_u32(other[i], 0), first[0]);
        for (int k = 0; k < i; k++) assert_int_not_equal(lp_random_u32(other[i], 0), lp_random_u32(other[k], 0));
    }
}

static void test_below(void **state) {
    (void)state;
    enum { N = 60000, BOUND = 6 };
    const lp_random_key key = {.seed = 7, .stream = 3};
    int count[BOUND] = {0};
    for (uint32_t i = 0; i < N; i++) {
        uint32_t value = lp_random_below(key, i, BOUND);
        assert_true(value < BOUND);
        count[value]++;
        assert_int_equal(lp_random_below(key, i, 1), 0);
    }
    /* Chi-squared with 5 degrees of freedom: above 20.5 once in 1,000 keys; this key is fixed. */
    double chi = 0, expected = (double)N / BOUND;
    for (int k = 0; k < BOUND; k++) chi += (count[k] - expected) * (count[k] - expected) / expected;
    if (chi > 20.5) fail_msg("chi-squared %g", chi);
    /* A bound that rejects every third number stays uniform: the upper half of 3 * 2^30 is half of it. */
    int upper = 0;
    for (uint32_t i = 0; i < N; i++) upper += lp_random_below(key, i, 3u << 30) >= 3u << 29;
    if (abs(upper - N / 2) > 500) fail_msg("expected about %d in the upper half, found %d", N / 2, upper);
}

static void test_normal(void **state) {
    (void)state;
    enum { N = 40001 };
    static float x[N], again[N];
    const lp_random_key key = {.seed = 11, .stream = 2, .a = 5};
    lp_random_normal(key, x, N);
    lp_random_normal(key, again, 17);
    assert_memory_equal(x, again, 17 * sizeof(float));
    double mean = 0, square = 0, cube = 0, fourth = 0, neighbours = 0;
    for (int i = 0; i < N; i++) {
        double v = (double)x[i];
        assert_true(isfinite(v));
        mean += v / N;
        if (i > 0) neighbours += v * (double)x[i - 1] / (N - 1);
        square += v * v / N;
        cube += v * v * v / N;
        fourth += v * v * v * v / N;
    }
    /* Four standard errors: sqrt(1, 2, 15, 96, 1 / N). */
    if (fabs(neighbours) > 0.02) fail_msg("neighbours correlate: %g", neighbours);
    if (fabs(mean) > 0.02 || fabs(square - 1) > 0.0283 || fabs(cube) > 0.0775 || fabs(fourth - 3) > 0.196)
        fail_msg("moments %g %g %g %g", mean, square, cube, fourth);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known_answers),
                                       cmocka_unit_test(test_place_of_seed_and_index), cmocka_unit_test(test_below),
                                       cmocka_unit_test(test_normal)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
