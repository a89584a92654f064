#include "base/text.h"

#include "base/memory.h"

lp_status lp_text_add(lp_text *text, const char *bytes, size_t length, lp_error *err) {
    LP_CHECK(lp_mem_grow(&text->data, &text->capacity, text->length + length + 1, 1, "text", err));
    if (length) memcpy(text->data + text->length, bytes, length);
    text->length += length;
    text->data[text->length] = '\0';
    return LP_OK;
}

lp_status lp_text_add_without_nul(lp_text *text, const char *bytes, size_t length, lp_error *err) {
    for (size_t at = 0; at < length; at++) {
        size_t n = strnlen(bytes + at, length - at);
        LP_CHECK(lp_text_add(text, bytes + at, n, err));
        at += n;
        if (at < length) LP_CHECK(lp_text_put(text, "\xef\xbf\xbd", err));
    }
    return LP_OK;
}

lp_status lp_text_put(lp_text *text, const char *string, lp_error *err) {
    return lp_text_add(text, string, strlen(string), err);
}

static lp_status add_format(lp_text *text, lp_error *err, const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    int wanted = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (wanted < 0) return lp_fail(err, LP_ERR_VALUE, "text: cannot be formatted");
    size_t length = (size_t)wanted;
    LP_CHECK(lp_mem_grow(&text->data, &text->capacity, text->length + length + 1, 1, "text", err));
    vsnprintf(text->data + text->length, length + 1, format, args);
    text->length += length;
    return LP_OK;
}

lp_status lp_text_format(lp_text *text, lp_error *err, const char *format, ...) {
    va_list args;
    va_start(args, format);
    lp_status status = add_format(text, err, format, args);
    va_end(args);
    return status;
}

lp_status lp_mem_format(char **out, lp_error *err, const char *format, ...) {
    lp_text text = {0};
    va_list args;
    va_start(args, format);
    lp_status status = add_format(&text, err, format, args);
    va_end(args);
    if (status == LP_OK) *out = text.data;
    return status;
}

lp_status lp_json_quote(const char *text, lp_text *out, lp_error *err) {
    const char *from = text;
    LP_CHECK(lp_text_put(out, "\"", err));
    for (const char *at = text;; at++) {
        unsigned char c = (unsigned char)*at;
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        LP_CHECK(lp_text_add(out, from, (size_t)(at - from), err));
        from = at + 1;
        if (c == 0) break;
        if (c == '"' || c == '\\')
            LP_CHECK(lp_text_format(out, err, "\\%c", c));
        else if (c == '\n')
            LP_CHECK(lp_text_put(out, "\\n", err));
        else
            LP_CHECK(lp_text_format(out, err, "\\u%04x", c));
    }
    return lp_text_put(out, "\"", err);
}

lp_status lp_json_format(lp_text *out, lp_error *err, const char *format, ...) {
    lp_status status = LP_OK;
    va_list args;
    va_start(args, format);
    for (;;) {
        size_t plain = strcspn(format, "%");
        LP_TRY(lp_text_add(out, format, plain, err));
        format += plain;
        if (!*format) break;
        LP_ASSERT(format[1] == 's');
        LP_TRY(lp_json_quote(va_arg(args, const char *), out, err));
        format += 2;
    }
out:
    va_end(args);
    return status;
}

lp_status lp_csv_quote(const char *field, lp_text *out, lp_error *err) {
    if (!field[strcspn(field, "\",\r\n")]) return lp_text_put(out, field, err);
    LP_CHECK(lp_text_put(out, "\"", err));
    for (const char *at = field;;) {
        size_t plain = strcspn(at, "\"");
        LP_CHECK(lp_text_add(out, at, plain, err));
        if (!at[plain]) break;
        LP_CHECK(lp_text_put(out, "\"\"", err));
        at += plain + 1;
    }
    return lp_text_put(out, "\"", err);
}

const char *lp_text_get(const lp_text *text) {
    return text->data ? text->data : "";
}

void lp_text_clear(lp_text *text) {
    text->length = 0;
    if (text->data) text->data[0] = '\0';
}

void lp_text_release(lp_text *text) {
    lp_mem_free(text->data);
    *text = (lp_text){0};
}

void lp_append_args(char *out, size_t size, const char *format, va_list args) {
    size_t used = strlen(out);
    vsnprintf(out + used, size - used, format, args);
}

void lp_append(char *out, size_t size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    lp_append_args(out, size, format, args);
    va_end(args);
}
