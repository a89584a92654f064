#define PCRE2_CODE_UNIT_WIDTH 8
#include "token/pattern.h"

#include "base/memory.h"
#include "base/text.h"

#include <pcre2.h>

struct lp_pattern {
    pcre2_code *code;
};

struct lp_matcher {
    pcre2_match_data *data;
};

const char lp_pattern_byte_level[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Unicode's White_Space (PropList.txt), which is stable. */
static const char white_space[] =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}";

/* Letters and numbers that Unicode 15, 15.1 and 16 added to Unicode 14, which is what the oldest PCRE2 that we
 * meet (10.40) knows. */
static const char newer_letters[] =
    "\\x{1c89}-\\x{1c8a}\\x{a7cb}-\\x{a7cd}\\x{a7da}-\\x{a7dc}\\x{105c0}-\\x{105f3}\\x{10d4a}-\\x{10d65}"
    "\\x{10d6f}-\\x{10d85}\\x{10ec2}-\\x{10ec4}\\x{1123f}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138b}"
    "\\x{1138e}\\x{11390}-\\x{113b5}\\x{113b7}\\x{113d1}\\x{113d3}\\x{11bc0}-\\x{11be0}\\x{11f02}"
    "\\x{11f04}-\\x{11f10}\\x{11f12}-\\x{11f33}\\x{1342f}\\x{13441}-\\x{13446}\\x{13460}-\\x{143fa}"
    "\\x{16100}-\\x{1611d}\\x{16d40}-\\x{16d6c}\\x{18cff}\\x{1b132}\\x{1b155}\\x{1df25}-\\x{1df2a}"
    "\\x{1e030}-\\x{1e06d}\\x{1e4d0}-\\x{1e4eb}\\x{1e5d0}-\\x{1e5ed}\\x{1e5f0}\\x{2b739}"
    "\\x{2ebf0}-\\x{2ee5d}\\x{31350}-\\x{323af}";
static const char newer_numbers[] =
    "\\x{10d40}-\\x{10d49}\\x{116d0}-\\x{116e3}\\x{11bf0}-\\x{11bf9}\\x{11f50}-\\x{11f59}"
    "\\x{16130}-\\x{16139}\\x{16d70}-\\x{16d79}\\x{1ccf0}-\\x{1ccf9}\\x{1d2c0}-\\x{1d2d3}"
    "\\x{1e4f0}-\\x{1e4f9}\\x{1e5f1}-\\x{1e5fa}";

static lp_status refuse(const char *place, const char *at, const char *what, lp_error *err) {
    return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: %s is not supported in a pattern, found at \"%.40s\"", place, what,
                   at);
}

static lp_status add(lp_text *out, const char *bytes, lp_error *err) {
    return lp_text_add(out, bytes, strlen(bytes), err);
}

/* \p{name} at *at, moved past it. */
static lp_status translate_property(const char **at, bool in_class, const char *place, lp_text *out, lp_error *err) {
    const char *source = *at;
    const char *name = source + 3;
    size_t length = source[2] == '{' ? strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_") : 0;
    if (length == 0 || name[length] != '}') return refuse(place, source, "this form of \\p", err);
    bool negative = source[1] == 'P';
    const char *newer = "";
    if (length == 1 && name[0] == 'L') newer = newer_letters;
    if (length == 1 && name[0] == 'N') newer = newer_numbers;
    if (negative && in_class) return refuse(place, source, "\\P inside of [...]", err);
    if (!in_class) LP_CHECK(add(out, negative ? "[^" : "[", err));
    LP_CHECK(lp_text_format(out, err, "\\p{%.*s}%s", (int)length, name, newer));
    if (!in_class) LP_CHECK(add(out, "]", err));
    *at = name + length + 1;
    return LP_OK;
}

static lp_status translate_escape(const char **at, bool in_class, const char *place, lp_text *out, lp_error *err) {
    const char *source = *at;
    char c = source[1];
    if (c == 'p' || c == 'P') return translate_property(at, in_class, place, out, err);
    if (c == 's' || (c == 'S' && !in_class)) {
        if (!in_class) LP_CHECK(add(out, c == 'S' ? "[^" : "[", err));
        LP_CHECK(add(out, white_space, err));
        if (!in_class) LP_CHECK(add(out, "]", err));
    } else if (c != '\0' && strchr("rnt!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c)) {
        LP_CHECK(lp_text_add(out, source, 2, err));
    } else {
        return refuse(place, source, "this escape", err);
    }
    *at = source + 2;
    return LP_OK;
}

/* A quantifier in braces; {n}?, {n}+ and {,n} mean different things to the two engines. */
static lp_status translate_braces(const char **at, const char *place, lp_text *out, lp_error *err) {
    const char *source = *at;
    const char *p = source + 1;
    size_t digits = strspn(p, "0123456789");
    p += digits;
    if (*p == ',') p += 1 + strspn(p + 1, "0123456789");
    if (digits == 0 || *p != '}' || p[1] == '?' || p[1] == '+') return refuse(place, source, "this use of braces", err);
    *at = p + 1;
    return lp_text_add(out, source, (size_t)(p + 1 - source), err);
}

static lp_status translate_group(const char **at, const char *place, lp_text *out, lp_error *err) {
    static const char *const openings[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    const char *source = *at;
    size_t length = source[1] == '?' ? 0 : 1;
    if (source[1] == '*') return refuse(place, source, "this kind of group", err);
    for (size_t i = 0; length == 0 && i < sizeof openings / sizeof *openings; i++)
        if (strncmp(source, openings[i], strlen(openings[i])) == 0) length = strlen(openings[i]);
    if (length == 0) return refuse(place, source, "this kind of group", err);
    *at = source + length;
    return lp_text_add(out, source, length, err);
}

static lp_status translate(const char *source, const char *place, lp_text *out, lp_error *err) {
    bool in_class = false;
    const char *at = source;
    while (*at) {
        if (*at == '\\') {
            LP_CHECK(translate_escape(&at, in_class, place, out, err));
            continue;
        }
        if (in_class) {
            if (*at == '[' || strncmp(at, "&&", 2) == 0) return refuse(place, at, "a class inside of [...]", err);
            in_class = *at != ']';
        } else if (*at == '(') {
            LP_CHECK(translate_group(&at, place, out, err));
            continue;
        } else if (*at == '{') {
            LP_CHECK(translate_braces(&at, place, out, err));
            continue;
        } else if (strchr("^$.}]", *at)) {
            return refuse(place, at, "this character, unescaped,", err);
        } else if (*at == '[') {
            in_class = true;
            size_t length = at[1] == '^' ? 2 : 1;
            if (at[length] == ']') return refuse(place, at, "an empty class", err);
            LP_CHECK(lp_text_add(out, at, length, err));
            at += length;
            continue;
        }
        LP_CHECK(lp_text_add(out, at, 1, err));
        at++;
    }
    return LP_OK;
}

lp_status lp_pattern_new(const char *source, const char *place, lp_pattern **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_text translated = {0};
    lp_pattern *pattern = NULL;
    LP_TRY(translate(source, place, &translated, err));
    LP_TRY(lp_mem_new(&pattern, 1, sizeof *pattern, "pattern", err));
    int code = 0;
    PCRE2_SIZE offset = 0;
    /* lp_pattern_find promises well-formed text, so it is not checked again at every match. */
    pattern->code = pcre2_compile((PCRE2_SPTR)lp_text_get(&translated), translated.length,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    if (!pattern->code) {
        PCRE2_UCHAR why[200] = "";
        pcre2_get_error_message(code, why, sizeof why);
        LP_FAIL(LP_ERR_FORMAT, "%s: PCRE2 cannot compile the pattern \"%.200s\": %s", place, source, (const char *)why);
    }
    /* Where the system forbids executable memory this fails, and matching is interpreted. */
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);
    *out = pattern;
    pattern = NULL;
out:
    lp_pattern_free(pattern);
    lp_text_release(&translated);
    return status;
}

void lp_pattern_free(lp_pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    lp_mem_free(pattern);
}

lp_status lp_matcher_new(lp_matcher **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_matcher *matcher = NULL;
    LP_TRY(lp_mem_new(&matcher, 1, sizeof *matcher, "matcher", err));
    matcher->data = pcre2_match_data_create(1, NULL);
    if (!matcher->data) LP_FAIL(LP_ERR_MEMORY, "matcher: out of memory");
    *out = matcher;
    matcher = NULL;
out:
    lp_matcher_free(matcher);
    return status;
}

void lp_matcher_free(lp_matcher *matcher) {
    if (!matcher) return;
    pcre2_match_data_free(matcher->data);
    lp_mem_free(matcher);
}

lp_status lp_pattern_find(const lp_pattern *pattern, lp_matcher *matcher, const char *text, size_t length, size_t from,
                          bool *found, size_t *start, size_t *end, lp_error *err) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int rc = pcre2_match(pattern->code, subject, length, from, PCRE2_NO_UTF_CHECK, matcher->data, NULL);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(pattern->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, matcher->data, NULL);
    if (rc == PCRE2_ERROR_NOMATCH) {
        *found = false;
        return LP_OK;
    }
    if (rc < 0) {
        PCRE2_UCHAR why[200] = "";
        pcre2_get_error_message(rc, why, sizeof why);
        return lp_fail(err, LP_ERR_VALUE, "pre-tokenization pattern: PCRE2 gave up at byte %zu of %zu: %s", from,
                       length, (const char *)why);
    }
    const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(matcher->data);
    *found = true;
    *start = offsets[0];
    *end = offsets[1];
    return LP_OK;
}
