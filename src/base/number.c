#include "base/number.h"

#include <math.h>

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool lp_take_integer(const char **text, int64_t max, int64_t *out) {
    const char *p = *text;
    int64_t value = 0;
    if (!is_digit(*p)) return false;
    for (; is_digit(*p); p++) {
        int64_t digit = *p - '0';
        if (digit > max || value > (max - digit) / 10) return false;
        value = 10 * value + digit;
    }
    *text = p;
    *out = value;
    return true;
}

bool lp_read_integer(const char *text, int64_t min, int64_t max, int64_t *out) {
    const char *p = text + (text[0] == '-');
    int64_t value = 0;
    if (!lp_take_integer(&p, INT64_MAX, &value) || *p) return false;
    if (text[0] == '-') value = -value;
    if (value < min || value > max) return false;
    *out = value;
    return true;
}

bool lp_read_number(const char *text, double *out) {
    const char *p = text + (text[0] == '-');
    size_t digits = 0;
    for (; is_digit(*p); p++) digits++;
    if (*p == '.')
        for (p++; is_digit(*p); p++) digits++;
    if (digits == 0) return false;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '-' || *p == '+') p++;
        if (!is_digit(*p)) return false;
        while (is_digit(*p)) p++;
    }
    if (*p) return false;
    double value = strtod(text, NULL);
    if (!isfinite(value)) return false;
    *out = value;
    return true;
}
