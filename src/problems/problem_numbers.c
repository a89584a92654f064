#include "problems/problem_numbers.h"

#include "problems/letters.h"

static const char *const small_words[] = {"zero",     "one",      "two",      "three",   "four",    "five",
                                          "six",      "seven",    "eight",    "nine",    "ten",     "eleven",
                                          "twelve",   "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
                                          "eighteen", "nineteen", "twenty"};
enum { N_SMALL_WORDS = 21 };

static const struct {
    const char *word;
    int value;
} round_words[] = {{"thirty", 30}, {"forty", 40},  {"fifty", 50},    {"sixty", 60},      {"seventy", 70},
                   {"eighty", 80}, {"ninety", 90}, {"hundred", 100}, {"thousand", 1000}, {"million", 1000000}};

/* top / bottom; bottom 1 for multiples. */
static const struct {
    const char *word;
    int top, bottom;
} implied_words[] = {
    {"half", 1, 2},      {"halves", 1, 2},     {"halved", 1, 2},  {"third", 1, 3},   {"thirds", 1, 3},
    {"quarter", 1, 4},   {"quarters", 1, 4},   {"fourth", 1, 4},  {"fourths", 1, 4}, {"fifth", 1, 5},
    {"fifths", 1, 5},    {"sixth", 1, 6},      {"sixths", 1, 6},  {"seventh", 1, 7}, {"sevenths", 1, 7},
    {"eighth", 1, 8},    {"eighths", 1, 8},    {"ninth", 1, 9},   {"ninths", 1, 9},  {"tenth", 1, 10},
    {"tenths", 1, 10},   {"twice", 2, 1},      {"double", 2, 1},  {"doubles", 2, 1}, {"doubled", 2, 1},
    {"doubling", 2, 1},  {"thrice", 3, 1},     {"triple", 3, 1},  {"triples", 3, 1}, {"tripled", 3, 1},
    {"quadruple", 4, 1}, {"quadrupled", 4, 1}, {"couple", 2, 1},  {"pair", 2, 1},    {"pairs", 2, 1},
    {"both", 2, 1},      {"dozen", 12, 1},     {"dozens", 12, 1}, {"twins", 2, 1},   {"triplets", 3, 1},
    {"twelfth", 1, 12},  {"fortnight", 14, 1},
};

/* A number after one of these is a name, not a quantity. */
static const char *const name_words[] = {
    "grade", "route", "highway", "number", "size",    "chapter", "level", "room", "day",   "week",  "year",  "round",
    "class", "month", "step",    "stage",  "section", "channel", "world", "act",  "phase", "group", "shift", "version"};

static bool starts_with(const char *text, size_t length, const char *prefix) {
    size_t n = strlen(prefix);
    if (n > length) return false;
    for (size_t i = 0; i < n; i++)
        if (lp_lower(text[i]) != prefix[i]) return false;
    return true;
}

/* The word (letters only) equals `word`. */
static bool same_word(const char *text, size_t length, const char *word) {
    return strlen(word) == length && starts_with(text, length, word);
}

bool lp_text_has_word(const char *text, size_t length, const char *word) {
    size_t n = strlen(word);
    bool open = n > 0 && word[n - 1] == '*';
    if (open) n--;
    for (size_t i = 0; i + n <= length; i++) {
        if (i > 0 && (lp_is_letter(text[i - 1]) || lp_is_digit(text[i - 1]))) continue;
        size_t k = 0;
        while (k < n && lp_lower(text[i + k]) == word[k]) k++;
        if (k == n && (open || i + n == length || !lp_is_letter(text[i + n]))) return true;
    }
    return false;
}

char lp_text_operator(const char *text, size_t at, size_t *length) {
    static const struct {
        const char *bytes;
        char op;
    } signs[] = {{"\xc3\x97", '*'}, {"\xc3\xb7", '/'}, {"\xe2\x80\x93", '-'}, {"\xe2\x88\x92", '-'}};
    char c = text[at], before = at > 0 ? text[at - 1] : ' ', after = c ? text[at + 1] : 0;
    *length = 1;
    if (c == '+' || c == '*') return c;
    if (c == '-' || c == '/') return lp_is_letter(after) || (c == '/' && lp_is_letter(before)) ? 0 : c;
    if ((c == 'x' || c == 'X') && !lp_is_letter(before) && !lp_is_letter(after)) return '*';
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        *length = strlen(signs[i].bytes);
        if (strncmp(text + at, signs[i].bytes, *length) == 0) return signs[i].op;
    }
    return 0;
}

const char *lp_number_word(lp_rational value) {
    return value.d == 1 && value.n >= 2 && value.n < N_SMALL_WORDS ? small_words[value.n] : NULL;
}

lp_status lp_number_print(const lp_number *number, const char *text, lp_rational value, lp_text *out, lp_error *err) {
    const char *word = number->kind == LP_NUMBER_WORD ? lp_number_word(value) : NULL;
    if (!word)
        return lp_rational_print(value, number->decimals, number->commas ? LP_COMMAS_THOUSANDS : LP_COMMAS_NO, out,
                                 err);
    bool capital = text[number->at] >= 'A' && text[number->at] <= 'Z';
    char first = capital ? (char)(word[0] - 'a' + 'A') : word[0];
    lp_status status = lp_text_add(out, &first, 1, err);
    return status == LP_OK ? lp_text_add(out, word + 1, strlen(word) - 1, err) : status;
}

static lp_number *append(lp_number_list *out, size_t at, size_t length, lp_number_kind kind, lp_rational value) {
    static lp_number spare;
    if (out->n == LP_MAX_NUMBERS) {
        out->overflow = true;
        return &spare;
    }
    lp_number *number = &out->items[out->n++];
    *number = (lp_number){.at = at, .length = length, .kind = kind, .value = value};
    return number;
}

/* The word before `at`, blanks passed over; *length 0 when there is none. */
static const char *word_before(const char *text, size_t at, size_t *length) {
    size_t end = at;
    while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == '#')) end--;
    size_t start = end;
    while (start > 0 && lp_is_letter(text[start - 1])) start--;
    *length = end - start;
    return text + start;
}

static bool follows_name_word(const char *text, size_t at) {
    size_t length = 0;
    const char *word = word_before(text, at, &length);
    for (size_t i = 0; i < sizeof name_words / sizeof *name_words; i++)
        if (same_word(word, length, name_words[i])) return true;
    return false;
}

/* What stands right after a number in digits and makes it no plain quantity. */
static bool has_fixing_tail(const char *text, size_t length, size_t end) {
    static const char *const tails[] = {"st", "nd", "rd", "th", "am", "pm", "a.m", "p.m", "s"};
    static const char *const spaced[] = {
        " am",      " pm",         " a.m",     " p.m",     " o'clock", " o\342\200\231clock",
        " hundred", " thousand",   " million", " billion", " squared", " by ",
        " in 1",    " and a half", " 1/",      " a half",  " half "};
    const char *rest = text + end;
    size_t left = length - end;
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        size_t n = strlen(tails[i]);
        if (starts_with(rest, left, tails[i]) && (left == n || !lp_is_letter(rest[n]))) return true;
    }
    for (size_t i = 0; i < sizeof spaced / sizeof *spaced; i++)
        if (starts_with(rest, left, spaced[i])) return true;
    if (left >= 2 && lp_lower(rest[0]) == 'k' && !lp_is_letter(rest[1])) return true;
    if (left >= 2 && (lp_lower(rest[0]) == 'x' || rest[0] == ':' || rest[0] == '-') && lp_is_digit(rest[1]))
        return true;
    if (left >= 4 && rest[0] == ' ' && lp_is_digit(rest[1]) && rest[2] == '/') return true;
    return left >= 4 && memcmp(rest, "\xe2\x80\x93", 3) == 0 && lp_is_digit(rest[3]);
}

static bool has_fixing_head(const char *text, size_t at) {
    if (at == 0) return false;
    char before = text[at - 1];
    if (lp_is_letter(before) || before == ':' || before == '#' || before == '/' || before == '.') return true;
    return before == '-' && (at == 1 || !lp_is_letter(text[at - 2]));
}

static void find_digits(const char *text, size_t length, lp_text_kind kind, size_t *at, lp_number_list *out) {
    lp_rational value = {0, 1}, bottom = {0, 1};
    size_t used = 0, more = 0;
    lp_rational_scan(text + *at, length - *at, &value, &used);
    if (used == 0) {
        size_t end = *at;
        while (end < length && (lp_is_digit(text[end]) || text[end] == '.')) end++;
        append(out, *at, end - *at, LP_NUMBER_FIXED, (lp_rational){0, 1});
        *at = end;
        return;
    }
    size_t end = *at + used;
    if (kind == LP_TEXT_QUESTION && value.d == 1 && end + 1 < length && text[end] == '/' && lp_is_digit(text[end + 1]))
        lp_rational_scan(text + end + 1, length - end - 1, &bottom, &more);
    if (more > 0 && bottom.d == 1 && bottom.n > 0) {
        lp_rational quotient = {0, 1};
        lp_rational_divide(value, bottom, &quotient);
        lp_number *fraction = append(out, *at, used + 1 + more, LP_NUMBER_FRACTION, quotient);
        fraction->top = value.n;
        fraction->bottom = bottom.n;
        *at = end + 1 + more;
        return;
    }
    lp_number *number = append(out, *at, used, LP_NUMBER_DIGITS, value);
    for (size_t i = *at; i < end; i++) {
        if (text[i] == ',') number->commas = true;
        if (text[i] == '.') number->decimals = (int)(end - i - 1);
    }
    /* Without a comma there was none to keep, unless the value had no room for one. */
    if (starts_with(text + end, length - end, "%") || starts_with(text + end, length - end, " %") ||
        starts_with(text + end, length - end, " percent") || starts_with(text + end, length - end, "-percent"))
        number->unit = LP_UNIT_PERCENT;
    else if (starts_with(text + end, length - end, " cent") || starts_with(text + end, length - end, "-cent"))
        number->unit = LP_UNIT_CENTS;
    bool year = used == 4 && value.d == 1 && value.n >= 1800 && value.n <= 2100 && !number->commas &&
                (*at == 0 || text[*at - 1] != '$');
    if (kind == LP_TEXT_QUESTION &&
        (year || has_fixing_head(text, *at) || has_fixing_tail(text, length, end) || follows_name_word(text, *at)))
        number->kind = LP_NUMBER_FIXED;
    *at = end;
}

/* The rest of a compound such as twenty-five or two hundred: *value is updated, the length of all returned. */
static size_t read_compound(const char *text, size_t length, size_t end, int *value) {
    size_t next = end;
    while (next < length && (text[next] == ' ' || text[next] == '-')) next++;
    size_t stop = next;
    while (stop < length && lp_is_letter(text[stop])) stop++;
    if (next == end || next == stop) return end;
    const char *word = text + next;
    if (*value >= 20 && *value < 100 && *value % 10 == 0)
        for (int i = 1; i < 10; i++)
            if (same_word(word, stop - next, small_words[i])) {
                *value += i;
                return stop;
            }
    int times = same_word(word, stop - next, "hundred") ? 100 : same_word(word, stop - next, "thousand") ? 1000 : 0;
    if (*value < 100 && times > 0) {
        *value *= times;
        return stop;
    }
    return end;
}

static void find_word(const char *text, size_t length, lp_text_kind kind, size_t at, size_t end, lp_number_list *out) {
    int value = -1;
    for (int i = 0; i < N_SMALL_WORDS; i++)
        if (same_word(text + at, end - at, small_words[i])) value = i;
    bool small = value >= 0;
    for (size_t i = 0; i < sizeof round_words / sizeof *round_words; i++)
        if (same_word(text + at, end - at, round_words[i].word)) value = round_words[i].value;
    if (value >= 0) {
        size_t stop = read_compound(text, length, end, &value);
        lp_number *number = append(out, at, stop - at, LP_NUMBER_FIXED, lp_rational_whole(value));
        if (small && value >= 2 && stop == end) number->kind = LP_NUMBER_WORD;
        const char *rest = text + stop;
        size_t left = length - stop;
        if (starts_with(rest, left, " percent")) number->unit = LP_UNIT_PERCENT;
        if (starts_with(rest, left, " cent")) number->unit = LP_UNIT_CENTS;
        static const char *const tails[] = {"third",   "quarter",       "fourth",  "fifth",   "sixth",
                                            "seventh", "eighth",        "ninth",   "tenth",   "and a half",
                                            "and one", "and a quarter", "o'clock", "hundred", "by"};
        for (size_t i = 0; left > 0 && i < sizeof tails / sizeof *tails; i++)
            if (starts_with(rest + 1, left - 1, tails[i])) number->kind = LP_NUMBER_FIXED;
        if (kind == LP_TEXT_QUESTION && follows_name_word(text, at)) number->kind = LP_NUMBER_FIXED;
        return;
    }
    for (size_t i = 0; kind == LP_TEXT_QUESTION && i < sizeof implied_words / sizeof *implied_words; i++) {
        if (!same_word(text + at, end - at, implied_words[i].word)) continue;
        lp_rational implied = {0, 1};
        lp_rational_make(implied_words[i].top, implied_words[i].bottom, &implied);
        lp_number *number = append(out, at, end - at, LP_NUMBER_IMPLIED, implied);
        number->top = implied_words[i].top;
        number->bottom = implied_words[i].bottom;
    }
}

void lp_numbers_find(const char *text, size_t length, lp_text_kind kind, lp_number_list *out) {
    out->n = 0;
    out->overflow = false;
    for (size_t at = 0; at < length;) {
        bool decimal =
            text[at] == '.' && at + 1 < length && lp_is_digit(text[at + 1]) && (at == 0 || !lp_is_digit(text[at - 1]));
        if (lp_is_digit(text[at]) || decimal) {
            find_digits(text, length, kind, &at, out);
        } else if (lp_is_letter(text[at])) {
            size_t end = at;
            while (end < length && lp_is_letter(text[end])) end++;
            size_t before = out->n;
            find_word(text, length, kind, at, end, out);
            if (out->n > before && out->items[out->n - 1].at == at) end = at + out->items[out->n - 1].length;
            at = end;
        } else {
            at++;
        }
    }
    /* A mixed number (2 1/2, two thirds) is not two numbers: its parts stay as they are. */
    for (size_t i = 1; i < out->n; i++) {
        lp_number *left = &out->items[i - 1], *right = &out->items[i];
        if (right->kind == LP_NUMBER_FRACTION && left->at + left->length + 1 == right->at) left->kind = LP_NUMBER_FIXED;
    }
}
