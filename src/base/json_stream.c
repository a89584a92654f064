#include "base/json_stream.h"

void lp_json_stream_begin(lp_json_stream *stream, const char *text, const char *file, const lp_json_cut *cut) {
    stream->text = text;
    stream->file = file;
    stream->at = cut->begin + 1;
    stream->end = cut->end;
    stream->begun = false;
}

void lp_json_stream_release(lp_json_stream *stream) {
    lp_text_release(&stream->string);
    *stream = (lp_json_stream){0};
}

lp_status lp_json_stream_fail(const lp_json_stream *stream, lp_error *err) {
    size_t line = 0, column = 0;
    lp_json_place(stream->text, stream->at, &line, &column);
    return lp_fail(err, LP_ERR_FORMAT, "%s:%zu:%zu: malformed JSON", stream->file, line, column);
}

static char next(lp_json_stream *stream) {
    while (stream->at < stream->end && strchr(" \t\n\r", stream->text[stream->at])) stream->at++;
    return stream->at < stream->end ? stream->text[stream->at] : '\0';
}

bool lp_json_stream_take(lp_json_stream *stream, char c) {
    if (next(stream) != c) return false;
    stream->at++;
    return true;
}

bool lp_json_stream_at_string(lp_json_stream *stream) {
    return next(stream) == '"';
}

lp_status lp_json_stream_more(lp_json_stream *stream, bool *more, lp_error *err) {
    char c = next(stream);
    *more = !(c == ']' || c == '}') || stream->at + 1 < stream->end;
    if (!*more) return LP_OK;
    if (stream->begun && !lp_json_stream_take(stream, ',')) return lp_json_stream_fail(stream, err);
    stream->begun = true;
    return LP_OK;
}

bool lp_json_stream_number(lp_json_stream *stream, double *out) {
    char c = next(stream);
    if (c != '-' && !(c >= '0' && c <= '9')) return false;
    size_t end = stream->at;
    while (end < stream->end && strchr("+-.0123456789eE", stream->text[end])) end++;
    /* A bracket ends the value, so that strtod stops there at the latest; it knows more numbers than JSON, such as 0x1.
     */
    char *after = NULL;
    *out = strtod(stream->text + stream->at, &after);
    if (after != stream->text + end) return false;
    stream->at = end;
    return true;
}

/* The four hex digits at `at`; -1 where they are none. */
static int32_t code_unit(const lp_json_stream *stream, size_t at) {
    int32_t value = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = i < stream->end ? stream->text[i] : '\0';
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
static lp_status take_code(lp_json_stream *stream, lp_error *err) {
    int32_t code = code_unit(stream, stream->at);
    if (code <= 0 || (code >= 0xdc00 && code <= 0xdfff)) return lp_json_stream_fail(stream, err);
    stream->at += 4;
    if (code >= 0xd800 && code <= 0xdbff) {
        bool escape =
            stream->at + 1 < stream->end && stream->text[stream->at] == '\\' && stream->text[stream->at + 1] == 'u';
        int32_t low = escape ? code_unit(stream, stream->at + 2) : -1;
        if (low < 0xdc00 || low > 0xdfff) return lp_json_stream_fail(stream, err);
        stream->at += 6;
        code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    char bytes[4];
    size_t n = lp_utf8_put((uint32_t)code, bytes);
    return lp_text_add(&stream->string, bytes, n, err);
}

lp_status lp_json_stream_string(lp_json_stream *stream, lp_error *err) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    lp_text_clear(&stream->string);
    if (!lp_json_stream_take(stream, '"')) return lp_json_stream_fail(stream, err);
    for (;;) {
        size_t from = stream->at;
        while (stream->at < stream->end && stream->text[stream->at] != '"' && stream->text[stream->at] != '\\' &&
               (unsigned char)stream->text[stream->at] >= 0x20)
            stream->at++;
        LP_CHECK(lp_text_add(&stream->string, stream->text + from, stream->at - from, err));
        char c = stream->at < stream->end ? stream->text[stream->at] : '\0';
        if (c == '"') break;
        const char *name =
            c == '\\' && stream->at + 1 < stream->end ? strchr(names, stream->text[stream->at + 1]) : NULL;
        if (name) {
            LP_CHECK(lp_text_add(&stream->string, &values[name - names], 1, err));
            stream->at += 2;
        } else if (c == '\\' && stream->at + 1 < stream->end && stream->text[stream->at + 1] == 'u') {
            stream->at += 2;
            LP_CHECK(take_code(stream, err));
        } else {
            return lp_json_stream_fail(stream, err);
        }
    }
    stream->at++;
    return LP_OK;
}
