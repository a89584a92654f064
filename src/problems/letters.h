/* Digits and letters of ASCII, whatever the locale. */
#ifndef LP_PROBLEMS_LETTERS_H
#define LP_PROBLEMS_LETTERS_H

#include <stdbool.h>

static inline bool lp_is_digit(char c) {
    return c >= '0' && c <= '9';
}
static inline char lp_lower(char c) {
    return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}
static inline bool lp_is_letter(char c) {
    return lp_lower(c) >= 'a' && lp_lower(c) <= 'z';
}

#endif
