/* The numbers that an English word problem names: digits with thousands commas, decimals, percent, money, fractions,
 * number words, and words that imply a number (half, twice, dozen). Each number comes with its place, so that it
 * can be changed, and says whether a change is safe. This module knows nothing of solutions. */
#ifndef LP_PROBLEMS_PROBLEM_NUMBERS_H
#define LP_PROBLEMS_PROBLEM_NUMBERS_H

#include "problems/rational.h"

enum { LP_MAX_NUMBERS = 96 };

typedef enum {
    LP_NUMBER_DIGITS,   /* 12   1,200   0.5   .05 */
    LP_NUMBER_WORD,     /* two .. twenty */
    LP_NUMBER_FRACTION, /* 2/3: value, parts */
    LP_NUMBER_IMPLIED,  /* half, twice, third, dozen: what the word stands for */
    LP_NUMBER_FIXED     /* a number that is not a quantity, or whose change is not safe: 3rd, 5:30, 2019, one, 5k */
} lp_number_kind;

typedef enum { LP_UNIT_NONE, LP_UNIT_PERCENT, LP_UNIT_CENTS } lp_number_unit;

typedef struct {
    size_t at, length; /* bytes of the text, without sign, $ or % */
    lp_rational value;
    lp_number_kind kind;
    lp_number_unit unit;
    int64_t top, bottom; /* parts of a fraction; top 0 otherwise */
    int decimals;        /* shown after the point */
    bool commas;
} lp_number;

typedef struct {
    lp_number items[LP_MAX_NUMBERS];
    size_t n;
    bool overflow; /* the text names more; they are left out */
} lp_number_list;

/* QUESTION: as above. SOLUTION: worked text, where 48/2 is a division, and no word implies a number. */
typedef enum { LP_TEXT_QUESTION, LP_TEXT_SOLUTION } lp_text_kind;
void lp_numbers_find(const char *text, size_t length, lp_text_kind kind, lp_number_list *out);

/* The operator + - * / that stands at text[at] between quantities (x and the signs of Unicode are read as these) and
 * its bytes; 0 when there is none, or the sign is inside a word (cups/day, 4-inch, x as a letter). */
char lp_text_operator(const char *text, size_t at, size_t *length);

/* The words for 2 to 20, lower case; NULL for other values. */
const char *lp_number_word(lp_rational value);

/* Writes the value as `number` is written (commas, decimals, a word for a word where there is one). */
lp_status lp_number_print(const lp_number *number, const char *text, lp_rational value, lp_text *out, lp_error *err);

/* True when `word` stands in text[0..length) at word borders, whatever its case; a '*' at its end leaves the end open.
 */
bool lp_text_has_word(const char *text, size_t length, const char *word);

#endif
