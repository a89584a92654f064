#include "pairs/classify.h"

#include "pairs/unicode_letters.h"
#include "token/utf8.h"

#include <math.h>

const char *const lp_classifier_names[] = {"seed", "codi", NULL};
const char *const lp_outcome_names[] = {"clean_answer", "corrupted_answer", "other", "gibberish", NULL};
const char *const lp_outcome_short_names[] = {"clean", "corrupted", "other", "gibberish", NULL};
const char lp_outcome_codes[] = "0 clean_answer, 1 corrupted_answer, 2 other, 3 gibberish";

enum { SHORTEST_SENTENCE = 10, NO_CHARACTER = 0x110000 };

/* A text, and whether commas in it count as absent. Positions are byte offsets. */
typedef struct {
    const char *text;
    size_t length;
    bool without_commas;
} source;

/* The zeros of Unicode's decimal digits (category Nd), of which each is followed by its 1 to 9; Unicode 14. */
static const uint32_t digit_zeros[] = {
    0x30,    0x660,   0x6f0,   0x7c0,   0x966,   0x9e6,   0xa66,   0xae6,   0xb66,   0xbe6,   0xc66,
    0xce6,   0xd66,   0xde6,   0xe50,   0xed0,   0xf20,   0x1040,  0x1090,  0x17e0,  0x1810,  0x1946,
    0x19d0,  0x1a80,  0x1a90,  0x1b50,  0x1bb0,  0x1c40,  0x1c50,  0xa620,  0xa8d0,  0xa900,  0xa9d0,
    0xa9f0,  0xaa50,  0xabf0,  0xff10,  0x104a0, 0x10d30, 0x11066, 0x110f0, 0x11136, 0x111d0, 0x112f0,
    0x11450, 0x114d0, 0x11650, 0x116c0, 0x11730, 0x118e0, 0x11950, 0x11c50, 0x11d50, 0x11da0, 0x16a60,
    0x16ac0, 0x16b50, 0x1d7ce, 0x1d7d8, 0x1d7e2, 0x1d7ec, 0x1d7f6, 0x1e140, 0x1e2f0, 0x1e950, 0x1fbf0,
};

/* The character at `at` and the position after it; NO_CHARACTER at the end. */
static uint32_t character(const source *from, size_t at, size_t *next) {
    while (from->without_commas && at < from->length && from->text[at] == ',') at++;
    *next = at;
    if (at >= from->length) return NO_CHARACTER;
    uint32_t code_point = 0;
    bool well_formed = false;
    *next = at + lp_utf8_next(from->text + at, from->length - at, &code_point, &well_formed);
    return code_point;
}

/* The character before position `at` and where it starts; NO_CHARACTER at the start of the text. */
static uint32_t character_before(const source *from, size_t at, size_t *start) {
    *start = at;
    if (at == 0) return NO_CHARACTER;
    size_t next = 0;
    do --*start;
    while (*start > 0 && at - *start < 4 && ((unsigned char)from->text[*start] & 0xc0) == 0x80);
    uint32_t c = character(from, *start, &next);
    return next == at ? c : LP_UTF8_REPLACEMENT;
}

/* 0..9, or -1. */
static int digit(uint32_t c) {
    if (c < 0x80) return c >= '0' && c <= '9' ? (int)(c - '0') : -1;
    for (size_t i = 0; i < sizeof digit_zeros / sizeof *digit_zeros && digit_zeros[i] <= c; i++)
        if (c - digit_zeros[i] < 10) return (int)(c - digit_zeros[i]);
    return -1;
}

static bool is_letter(uint32_t c) {
    size_t low = 0, high = sizeof unicode_letters / sizeof *unicode_letters;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c > unicode_letters[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sizeof unicode_letters / sizeof *unicode_letters && c >= unicode_letters[low].first;
}

static size_t skip_spaces(const source *from, size_t at) {
    size_t next = 0;
    while (lp_utf8_is_space(character(from, at, &next))) at = next;
    return at;
}

static size_t skip_digits(const source *from, size_t at) {
    size_t next = 0;
    while (digit(character(from, at, &next)) >= 0) at = next;
    return at;
}

/* -?\d+\.?\d* at `at`; *end is the position after it. That is codi's number; the seed's, -?\d+(\.\d+)?, does without
 * a point that no digit follows, which changes neither its value nor where the next number may begin. */
static bool number_at(const source *from, size_t at, size_t *end) {
    size_t next = 0;
    if (character(from, at, &next) == '-') at = next;
    if (digit(character(from, at, &next)) < 0) return false;
    *end = skip_digits(from, at);
    if (character(from, *end, &next) == '.') *end = skip_digits(from, next);
    return true;
}

/* The double nearest to the number in [start, end): as Python's float(). */
static double value_of(const source *from, size_t start, size_t end) {
    /* More digits than any double needs to be told from its neighbours (767); of the rest only counts whether there
     * is one that is not zero. */
    enum { MOST = 800 };
    char digits[MOST + 64];
    size_t n = 0;
    int64_t exponent = 0;
    bool negative = false, fraction = false, rest = false;
    for (size_t at = start, next = 0; at < end; at = next) {
        uint32_t c = character(from, at, &next);
        if (c == '-') {
            negative = true;
        } else if (c == '.') {
            fraction = true;
        } else {
            int d = digit(c);
            if (d < 0) continue;
            if (n < MOST && (n > 0 || d > 0)) {
                digits[n++] = (char)('0' + d);
                exponent -= fraction;
            } else {
                rest = rest || d > 0;
                exponent += n < MOST ? -(int64_t)fraction : !fraction;
            }
        }
    }
    if (rest) {
        digits[n++] = '1';
        exponent--;
    }
    if (n == 0) return negative ? -0.0 : 0.0;
    snprintf(digits + n, sizeof digits - n, "e%lld", (long long)exponent);
    double value = strtod(digits, NULL);
    return negative ? -value : value;
}

/* A lower-case ASCII word at `at` in any case; Python's IGNORECASE also takes U+017F for s and U+0130, U+0131 for i. */
static bool word_at(const source *from, size_t at, const char *word, size_t *end) {
    for (; *word; word++) {
        uint32_t c = character(from, at, &at);
        if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
        if (c == 0x17f) c = 's';
        if (c == 0x130 || c == 0x131) c = 'i';
        if (c != (unsigned char)*word) return false;
    }
    *end = at;
    return true;
}

/* Rule 1: ####, white space, number. */
static bool after_hashes(const source *from, size_t at, size_t *start, size_t *end) {
    if (!word_at(from, at, "####", start)) return false;
    *start = skip_spaces(from, *start);
    return number_at(from, *start, end);
}

/* Rule 2: (answer|total|result)(\s+is)?\s*[:=]?\s*\$?\s*number. */
static bool after_keyword(const source *from, size_t at, size_t *start, size_t *end) {
    if (!word_at(from, at, "answer", &at) && !word_at(from, at, "total", &at) && !word_at(from, at, "result", &at))
        return false;
    size_t spaced = skip_spaces(from, at), next = 0;
    if (spaced > at) word_at(from, spaced, "is", &spaced);
    at = skip_spaces(from, spaced);
    uint32_t c = character(from, at, &next);
    if (c == ':' || c == '=') at = skip_spaces(from, next);
    if (character(from, at, &next) == '$') at = skip_spaces(from, next);
    *start = at;
    return number_at(from, at, end);
}

/* Start of the digits that end at `end`. */
static size_t digits_before(const source *from, size_t end) {
    size_t start = 0;
    while (digit(character_before(from, end, &start)) >= 0) end = start;
    return end;
}

/* Rule 3: the number that reaches the end of the text, white space aside; of several readings the longest. */
static bool at_the_end(const source *from, size_t *start, size_t *end) {
    size_t before = 0;
    *end = from->length;
    while (lp_utf8_is_space(character_before(from, *end, &before))) *end = before;
    *start = digits_before(from, *end);
    if (*start == *end) return false;
    if (character_before(from, *start, &before) == '.') {
        size_t whole = digits_before(from, before);
        if (whole < before) *start = whole;
    }
    if (character_before(from, *start, &before) == '-') *start = before;
    return true;
}

/* Rule 4, and all of codi: the last of the numbers that do not overlap, found from the left. */
static bool last_number(const source *from, size_t *start, size_t *end) {
    bool found = false;
    for (size_t at = 0, next = 0; at < from->length; at = next) {
        if (number_at(from, at, &next)) {
            *start = at;
            *end = next;
            found = true;
        } else {
            character(from, at, &next);
        }
    }
    return found;
}

typedef bool (*rule)(const source *from, size_t at, size_t *start, size_t *end);

static bool leftmost(const source *from, rule matches, size_t *start, size_t *end) {
    for (size_t at = 0, next = 0; at < from->length; at = next) {
        if (matches(from, at, start, end)) return true;
        character(from, at, &next);
    }
    return false;
}

bool lp_extract_number(lp_classifier classifier, const char *text, size_t length, double *number) {
    source from = {.text = text, .length = length, .without_commas = classifier == LP_CLASSIFIER_CODI};
    size_t start = 0, end = 0;
    bool found = classifier == LP_CLASSIFIER_SEED &&
                 (leftmost(&from, after_hashes, &start, &end) || leftmost(&from, after_keyword, &start, &end) ||
                  at_the_end(&from, &start, &end));
    if (!found && !last_number(&from, &start, &end)) return false;
    *number = value_of(&from, start, end);
    return true;
}

bool lp_answers_match(lp_classifier classifier, double a, double b) {
    return classifier == LP_CLASSIFIER_CODI ? a == b : fabs(a - b) < LP_SEED_TOLERANCE;
}

static bool is_gibberish(const char *text, size_t length) {
    source from = {.text = text, .length = length};
    size_t n = 0;
    bool letter = false;
    for (size_t at = 0; at < length; n++) letter = is_letter(character(&from, at, &at)) || letter;
    return n < SHORTEST_SENTENCE || !letter;
}

lp_answer_outcome lp_classify(lp_classifier classifier, const char *text, size_t length, double clean_answer,
                              double corrupted_answer) {
    lp_answer_outcome found = {.outcome = LP_OTHER};
    found.has_number = lp_extract_number(classifier, text, length, &found.number);
    if (!found.has_number)
        found.outcome = is_gibberish(text, length) ? LP_GIBBERISH : LP_OTHER;
    else if (lp_answers_match(classifier, found.number, clean_answer))
        found.outcome = LP_CLEAN_ANSWER;
    else if (lp_answers_match(classifier, found.number, corrupted_answer))
        found.outcome = LP_CORRUPTED_ANSWER;
    return found;
}

void lp_answer_text(double answer, char out[LP_ANSWER_TEXT]) {
    if (!isfinite(answer)) {
        snprintf(out, LP_ANSWER_TEXT, "%s", isnan(answer) ? "nan" : answer < 0 ? "-inf" : "inf");
        return;
    }
    int precision = 0;
    do snprintf(out, LP_ANSWER_TEXT, "%.*e", precision, answer);
    while (strtod(out, NULL) != answer && ++precision < 17);
    double size = fabs(answer);
    if (size != 0 && (size < 1e-7 || size >= 1e15)) return;
    const char *exponent = strchr(out, 'e');
    long scale = exponent ? strtol(exponent + 1, NULL, 10) : 0;
    int decimals = precision > scale ? (int)(precision - scale) : 0;
    snprintf(out, LP_ANSWER_TEXT, "%.*f", decimals, answer);
}
