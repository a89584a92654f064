#include "problems/rational.h"

#include "problems/letters.h"

__extension__ typedef __int128 wide;

enum { MAX_DECIMALS = 18 };

static wide greatest_common_divisor(wide a, wide b) {
    while (b != 0) {
        wide rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

/* INT64_MIN is left out, so that every value has its negative. */
static bool fits(wide value) {
    return value <= INT64_MAX && value >= -INT64_MAX;
}

static lp_rational_result reduce(wide n, wide d, lp_rational *out) {
    if (d == 0) return LP_RATIONAL_DIVISION_BY_ZERO;
    wide divisor = greatest_common_divisor(n, d);
    if (d < 0) divisor = -divisor;
    n /= divisor;
    d /= divisor;
    if (!fits(n) || !fits(d)) return LP_RATIONAL_OVERFLOW;
    *out = (lp_rational){(int64_t)n, (int64_t)d};
    return LP_RATIONAL_OK;
}

lp_rational_result lp_rational_make(int64_t n, int64_t d, lp_rational *out) {
    return reduce(n, d, out);
}

/* |n|, d < 2^63: each product is below 2^126, and the sum of two below 2^127. */
lp_rational_result lp_rational_add(lp_rational a, lp_rational b, lp_rational *out) {
    return reduce((wide)a.n * b.d + (wide)b.n * a.d, (wide)a.d * b.d, out);
}

lp_rational_result lp_rational_subtract(lp_rational a, lp_rational b, lp_rational *out) {
    return reduce((wide)a.n * b.d - (wide)b.n * a.d, (wide)a.d * b.d, out);
}

lp_rational_result lp_rational_multiply(lp_rational a, lp_rational b, lp_rational *out) {
    return reduce((wide)a.n * b.n, (wide)a.d * b.d, out);
}

lp_rational_result lp_rational_divide(lp_rational a, lp_rational b, lp_rational *out) {
    return reduce((wide)a.n * b.d, (wide)a.d * b.n, out);
}

int lp_rational_compare(lp_rational a, lp_rational b) {
    wide left = (wide)a.n * b.d, right = (wide)b.n * a.d;
    return left < right ? -1 : left > right;
}

int lp_rational_decimals(lp_rational rational) {
    int decimals = 0;
    for (wide scale = 1; decimals <= MAX_DECIMALS; decimals++, scale *= 10)
        if (scale % rational.d == 0) return decimals;
    return -1;
}

double lp_rational_to_double(lp_rational rational) {
    return (double)rational.n / (double)rational.d;
}

static size_t count_digits(const char *text, size_t length) {
    size_t n = 0;
    while (n < length && lp_is_digit(text[n])) n++;
    return n;
}

void lp_rational_scan(const char *text, size_t length, lp_rational *out, size_t *used) {
    size_t end = count_digits(text, length);
    if (end > 0 && end <= 3)
        while (end + 3 < length && text[end] == ',' && count_digits(text + end + 1, length - end - 1) == 3) end += 4;
    size_t whole = end, decimals = 0;
    if (end < length && text[end] == '.') decimals = count_digits(text + end + 1, length - end - 1);
    if (decimals > 0) end += 1 + decimals;
    *used = 0;
    if (end == 0 || decimals > MAX_DECIMALS) return;
    wide n = 0, d = 1;
    for (size_t i = 0; i < end; i++) {
        if (!lp_is_digit(text[i])) continue;
        n = n * 10 + (text[i] - '0');
        if (i > whole) d *= 10;
        if (!fits(n)) return;
    }
    if (reduce(n, d, out) == LP_RATIONAL_OK) *used = end;
}

bool lp_rational_parse(const char *text, size_t length, lp_rational *out) {
    bool negative = length > 0 && text[0] == '-';
    size_t sign = length > 0 && (text[0] == '-' || text[0] == '+') ? 1 : 0, used = 0;
    lp_rational value = {0, 1};
    lp_rational_scan(text + sign, length - sign, &value, &used);
    if (used == 0 || used + sign != length) return false;
    if (negative) value.n = -value.n;
    *out = value;
    return true;
}

lp_status lp_rational_print(lp_rational rational, int min_decimals, lp_commas commas, lp_text *out, lp_error *err) {
    int decimals = lp_rational_decimals(rational);
    if (decimals < 0) return lp_text_format(out, err, "%lld/%lld", (long long)rational.n, (long long)rational.d);
    if (decimals < min_decimals) decimals = min_decimals;
    wide scale = 1;
    for (int i = 0; i < decimals && i < MAX_DECIMALS; i++) scale *= 10;
    wide scaled = (rational.n < 0 ? -(wide)rational.n : (wide)rational.n) * scale / rational.d;
    /* Backwards into a buffer: at most 19 + 18 digits, their commas, a point and a sign. */
    char text[64];
    size_t at = sizeof text;
    for (int i = 0; i <= decimals || scaled > 0; i++) {
        if (i == decimals && decimals > 0) text[--at] = '.';
        if (i > decimals && (i - decimals) % 3 == 0 && commas == LP_COMMAS_THOUSANDS) text[--at] = ',';
        text[--at] = (char)('0' + (int)(scaled % 10));
        scaled /= 10;
    }
    if (rational.n < 0) text[--at] = '-';
    return lp_text_add(out, text + at, sizeof text - at, err);
}
