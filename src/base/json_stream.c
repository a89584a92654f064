#include "base/json_stream.h"

void lp_json_stream_begin(lp_json_stream *s, const char *text, const char *file, const lp_json_cut *cut) {
    s->text = text;
    s->file = file;
    s->at = cut->begin + 1;
    s->end = cut->end;
    s->begun = false;
}

void lp_json_stream_release(lp_json_stream *s) {
    lp_text_release(&s->string);
    *s = (lp_json_stream){0};
}

lp_status lp_json_stream_fail(const lp_json_stream *s, lp_error *err) {
    size_t line = 0, column = 0;
    lp_json_place(s->text, s->at, &line, &column);
    return lp_fail(err, LP_ERR_FORMAT, "%s:%zu:%zu: malformed JSON", s->file, line, column);
}

static char next(lp_json_stream *s) {
    while (s->at < s->end && strchr(" \t\n\r", s->text[s->at])) s->at++;
    return s->at < s->end ? s->text[s->at] : '\0';
}

bool lp_json_stream_take(lp_json_stream *s, char c) {
    if (next(s) != c) return false;
    s->at++;
    return true;
}

bool lp_json_stream_at_string(lp_json_stream *s) {
    return next(s) == '"';
}

lp_status lp_json_stream_more(lp_json_stream *s, bool *more, lp_error *err) {
    char c = next(s);
    *more = !(c == ']' || c == '}') || s->at + 1 < s->end;
    if (!*more) return LP_OK;
    if (s->begun && !lp_json_stream_take(s, ',')) return lp_json_stream_fail(s, err);
    s->begun = true;
    return LP_OK;
}

bool lp_json_stream_number(lp_json_stream *s, double *out) {
    char c = next(s);
    if (c != '-' && !(c >= '0' && c <= '9')) return false;
    size_t end = s->at;
    while (end < s->end && strchr("+-.0123456789eE", s->text[end])) end++;
    /* A bracket ends the value, so that strtod stops there at the latest; it knows more numbers than JSON, such as 0x1.
     */
    char *after = NULL;
    *out = strtod(s->text + s->at, &after);
    if (after != s->text + end) return false;
    s->at = end;
    return true;
}

/* The four hex digits at `at`; -1 where they are none. */
static int32_t code_unit(const lp_json_stream *s, size_t at) {
    int32_t value = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = i < s->end ? s->text[i] : '\0';
        int32_t digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* The character of \uXXXX, with its second half where it has one, in UTF-8; the stream stands at the first digit. */
static lp_status take_code(lp_json_stream *s, lp_error *err) {
    int32_t code = code_unit(s, s->at);
    if (code <= 0 || (code >= 0xdc00 && code <= 0xdfff)) return lp_json_stream_fail(s, err);
    s->at += 4;
    if (code >= 0xd800 && code <= 0xdbff) {
        bool escape = s->at + 1 < s->end && s->text[s->at] == '\\' && s->text[s->at + 1] == 'u';
        int32_t low = escape ? code_unit(s, s->at + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff) return lp_json_stream_fail(s, err);
        s->at += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    char bytes[4];
    size_t n = 0;
    if (code < 0x80) {
        bytes[n++] = (char)code;
    } else {
        int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
        static const int32_t lead[] = {0, 0xc0, 0xe0, 0xf0};
        bytes[n++] = (char)(lead[more] | code >> (6 * more));
        while (more-- > 0) bytes[n++] = (char)(0x80 | (code >> (6 * more) & 0x3f));
    }
    return lp_text_add(&s->string, bytes, n, err);
}

lp_status lp_json_stream_string(lp_json_stream *s, lp_error *err) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    lp_status status = LP_OK;
    lp_text_clear(&s->string);
    if (!lp_json_stream_take(s, '"')) return lp_json_stream_fail(s, err);
    for (;;) {
        size_t from = s->at;
        while (s->at < s->end && s->text[s->at] != '"' && s->text[s->at] != '\\' &&
               (unsigned char)s->text[s->at] >= 0x20)
            s->at++;
        LP_TRY(lp_text_add(&s->string, s->text + from, s->at - from, err));
        char c = s->at < s->end ? s->text[s->at] : '\0';
        if (c == '"') break;
        const char *name = c == '\\' && s->at + 1 < s->end ? strchr(names, s->text[s->at + 1]) : NULL;
        if (name) {
            LP_TRY(lp_text_add(&s->string, &values[name - names], 1, err));
            s->at += 2;
        } else if (c == '\\' && s->at + 1 < s->end && s->text[s->at + 1] == 'u') {
            s->at += 2;
            LP_TRY(take_code(s, err));
        } else {
            status = lp_json_stream_fail(s, err);
            goto out;
        }
    }
    s->at++;
out:
    return status;
}
