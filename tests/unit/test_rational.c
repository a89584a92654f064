/* Exact arithmetic. Expected values: Python's fractions.Fraction, and by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "problems/rational.h"

static void check_value(const char *what, lp_rational found, int64_t n, int64_t d) {
    if (found.n != n || found.d != d)
        fail_msg("%s: expected %lld/%lld, found %lld/%lld", what, (long long)n, (long long)d, (long long)found.n,
                 (long long)found.d);
}

static void operations(void **state) {
    (void)state;
    static const struct {
        char op;
        lp_rational a, b;
        lp_rational_result result;
        int64_t n, d;
    } cases[] = {
        {'+', {1, 10}, {2, 10}, LP_RATIONAL_OK, 3, 10},
        {'+', {1, 3}, {1, 6}, LP_RATIONAL_OK, 1, 2},
        {'-', {1, 2}, {3, 4}, LP_RATIONAL_OK, -1, 4},
        {'*', {-2, 3}, {9, 4}, LP_RATIONAL_OK, -3, 2},
        {'/', {1, 2}, {-1, 4}, LP_RATIONAL_OK, -2, 1},
        {'/', {1, 2}, {0, 1}, LP_RATIONAL_DIVISION_BY_ZERO, 0, 0},
        {'+', {INT64_MAX, 1}, {1, 1}, LP_RATIONAL_OVERFLOW, 0, 0},
        {'+', {INT64_MAX - 1, 1}, {1, 1}, LP_RATIONAL_OK, INT64_MAX, 1},
        {'-', {-INT64_MAX, 1}, {1, 1}, LP_RATIONAL_OVERFLOW, 0, 0},
        {'*', {INT64_MAX, 1}, {2, 1}, LP_RATIONAL_OVERFLOW, 0, 0},
        {'*', {INT64_MAX, 3}, {3, INT64_MAX}, LP_RATIONAL_OK, 1, 1},
        {'+', {1, INT64_MAX}, {1, INT64_MAX - 1}, LP_RATIONAL_OVERFLOW, 0, 0},
        {'*', {3037000500, 1}, {3037000500, 1}, LP_RATIONAL_OVERFLOW, 0, 0},
        {'*', {3037000499, 1}, {3037000499, 1}, LP_RATIONAL_OK, 9223372030926249001, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_rational a = {0, 1}, b = {0, 1}, found = {7, 7};
        lp_rational_make(cases[i].a.n, cases[i].a.d, &a);
        lp_rational_make(cases[i].b.n, cases[i].b.d, &b);
        lp_rational_result result = cases[i].op == '+'   ? lp_rational_add(a, b, &found)
                                    : cases[i].op == '-' ? lp_rational_subtract(a, b, &found)
                                    : cases[i].op == '*' ? lp_rational_multiply(a, b, &found)
                                                         : lp_rational_divide(a, b, &found);
        char what[40];
        snprintf(what, sizeof what, "case %zu (%c)", i, cases[i].op);
        if (result != cases[i].result) fail_msg("%s: expected result %d, found %d", what, cases[i].result, result);
        if (result == LP_RATIONAL_OK)
            check_value(what, found, cases[i].n, cases[i].d);
        else
            check_value(what, found, 7, 7);
    }
}

static void order(void **state) {
    (void)state;
    lp_rational third = {1, 3}, near = {333333333333333333, 1000000000000000000};
    assert_true(lp_rational_compare(third, near) > 0);
    assert_true(lp_rational_compare((lp_rational){-1, 2}, (lp_rational){1, 3}) < 0);
    assert_int_equal(lp_rational_compare(third, third), 0);
    assert_int_equal(lp_rational_decimals((lp_rational){1, 8}), 3);
    assert_int_equal(lp_rational_decimals((lp_rational){7, 1}), 0);
    assert_int_equal(lp_rational_decimals(third), -1);
}

static void scanning(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t used;
        int64_t n, d;
    } cases[] = {
        {"12 apples", 2, 12, 1},
        {"1,234,567.50!", 12, 2469135, 2},
        {"1,23", 1, 1, 1},
        {"12,345 and", 6, 12345, 1},
        {"1234,567", 4, 1234, 1},
        {"1,2345", 1, 1, 1},
        {".05", 3, 1, 20},
        {"5.", 1, 5, 1},
        {"0.80", 4, 4, 5},
        {"007", 3, 7, 1},
        {"9223372036854775807", 19, INT64_MAX, 1},
        {"9223372036854775808", 0, 0, 0},
        {"0.1234567890123456789", 0, 0, 0},
        {"x", 0, 0, 0},
        {"", 0, 0, 0},
        {".", 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_rational found = {0, 1};
        size_t used = 99;
        lp_rational_scan(cases[i].text, strlen(cases[i].text), &found, &used);
        if (used != cases[i].used) fail_msg("%s: expected %zu bytes, found %zu", cases[i].text, cases[i].used, used);
        if (used > 0) check_value(cases[i].text, found, cases[i].n, cases[i].d);
    }
    lp_rational found = {0, 1};
    assert_true(lp_rational_parse("-1,000", 6, &found));
    check_value("-1,000", found, -1000, 1);
    assert_false(lp_rational_parse("1 ", 2, &found));
    assert_false(lp_rational_parse("", 0, &found));
    assert_false(lp_rational_parse("--1", 3, &found));
}

static void printing(void **state) {
    (void)state;
    static const struct {
        lp_rational value;
        int decimals;
        lp_commas commas;
        const char *text;
    } cases[] = {
        {{5, 2}, 2, LP_COMMAS_NO, "2.50"},
        {{5, 2}, 0, LP_COMMAS_NO, "2.5"},
        {{1234567, 1}, 0, LP_COMMAS_THOUSANDS, "1,234,567"},
        {{-1000, 1}, 0, LP_COMMAS_THOUSANDS, "-1,000"},
        {{2000001, 2}, 2, LP_COMMAS_THOUSANDS, "1,000,000.50"},
        {{1, 20}, 0, LP_COMMAS_NO, "0.05"},
        {{1, 3}, 2, LP_COMMAS_NO, "1/3"},
        {{0, 1}, 0, LP_COMMAS_NO, "0"},
        {{0, 1}, 2, LP_COMMAS_NO, "0.00"},
        {{999, 1}, 0, LP_COMMAS_THOUSANDS, "999"},
        {{INT64_MAX, 1}, 0, LP_COMMAS_NO, "9223372036854775807"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_text text = {0};
        lp_error error;
        assert_int_equal(lp_rational_print(cases[i].value, cases[i].decimals, cases[i].commas, &text, &error), LP_OK);
        assert_string_equal(lp_text_get(&text), cases[i].text);
        lp_text_release(&text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(operations),
        cmocka_unit_test(order),
        cmocka_unit_test(scanning),
        cmocka_unit_test(printing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
