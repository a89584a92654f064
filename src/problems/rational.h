/* Exact fractions of 64-bit integers: the arithmetic of word problems, where 0.1 + 0.2 has to be 0.3 and an
 * overflow has to be noticed. A value is always in lowest terms with a positive denominator. */
#ifndef LP_PROBLEMS_RATIONAL_H
#define LP_PROBLEMS_RATIONAL_H

#include "base/error.h"
#include "base/text.h"

typedef struct {
    int64_t n;
    int64_t d; /* > 0, prime to n */
} lp_rational;

typedef enum { LP_RATIONAL_OK, LP_RATIONAL_OVERFLOW, LP_RATIONAL_DIVISION_BY_ZERO } lp_rational_result;

static inline lp_rational lp_rational_whole(int64_t n) {
    return (lp_rational){n, 1};
}

/* n / d in lowest terms. */
lp_rational_result lp_rational_make(int64_t n, int64_t d, lp_rational *out);
lp_rational_result lp_rational_add(lp_rational a, lp_rational b, lp_rational *out);
lp_rational_result lp_rational_subtract(lp_rational a, lp_rational b, lp_rational *out);
lp_rational_result lp_rational_multiply(lp_rational a, lp_rational b, lp_rational *out);
lp_rational_result lp_rational_divide(lp_rational a, lp_rational b, lp_rational *out);

/* < 0, 0 or > 0, exactly. */
int lp_rational_compare(lp_rational a, lp_rational b);
static inline bool lp_rational_equal(lp_rational a, lp_rational b) {
    return a.n == b.n && a.d == b.d;
}
static inline bool lp_rational_is_whole(lp_rational rational) {
    return rational.d == 1;
}
/* How many decimals the value has; -1 when its decimal expansion does not end, or not within 18 digits. */
int lp_rational_decimals(lp_rational rational);
double lp_rational_to_double(lp_rational rational);

/* The unsigned number that starts text[0..length): digits, with commas between groups of three, with decimals, or
 * decimals alone (".05"). *used = its length, 0 when no number starts there or it does not fit. A comma or point
 * that no digit follows is not part of it. */
void lp_rational_scan(const char *text, size_t length, lp_rational *out, size_t *used);
/* The whole of text[0..length) as a number, with an optional sign. */
bool lp_rational_parse(const char *text, size_t length, lp_rational *out);

typedef enum { LP_COMMAS_NO, LP_COMMAS_THOUSANDS } lp_commas;
/* Adds the value with at least min_decimals decimals ("2.50"); as "n/d" where its decimals do not end. */
lp_status lp_rational_print(lp_rational rational, int min_decimals, lp_commas commas, lp_text *out, lp_error *err);

#endif
