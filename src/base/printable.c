#include "base/printable.h"

#include "base/memory.h"

/* Bytes of the UTF-8 character at text, which are *code; 0 where it is none. */
static size_t character_at(const unsigned char *text, size_t left, uint32_t *code) {
    unsigned char c = text[0];
    size_t n = c < 0x80 ? 1 : c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
    if (n == 0 || n > left) return 0;
    *code = n == 1 ? c : c & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
        *code = *code << 6 | (text[i] & 0x3fu);
    }
    bool overlong = (n == 3 && *code < 0x800) || (n == 4 && *code < 0x10000);
    return overlong || *code > 0x10ffff || (*code >= 0xd800 && *code <= 0xdfff) ? 0 : n;
}

/* U+2028 and U+2029 end lines; the others turn the direction of what follows. */
static bool is_layout(uint32_t code) {
    return code == 0x061c || code == 0x200e || code == 0x200f || (code >= 0x2028 && code <= 0x202e) ||
           (code >= 0x2066 && code <= 0x2069);
}

size_t lp_printable(const char *text, size_t length, lp_print_layout layout, char *out, size_t room) {
    const unsigned char *p = (const unsigned char *)text;
    size_t whole = 0, used = 0;
    bool full = false;
    for (size_t i = 0; i < length;) {
        char escape[12];
        uint32_t code = 0;
        size_t n = character_at(p + i, length - i, &code), n_out = n;
        const char *shown = text + i;
        bool kept = layout == LP_PRINT_BLOCK && (code == '\n' || code == '\t');
        if (n == 0)
            shown = escape, n_out = (size_t)snprintf(escape, sizeof escape, "\\x%02x", p[i]);
        else if (!kept && (code == '\n' || code == '\t' || code == '\r'))
            shown = code == '\n' ? "\\n" : code == '\t' ? "\\t" : "\\r", n_out = 2;
        else if (!kept && code < 0x20)
            shown = escape, n_out = (size_t)snprintf(escape, sizeof escape, "\\x%02x", code);
        else if ((code >= 0x7f && code < 0xa0) || is_layout(code))
            shown = escape, n_out = (size_t)snprintf(escape, sizeof escape, "\\u%04x", code);
        full |= used + n_out >= room;
        if (!full) {
            memcpy(out + used, shown, n_out);
            used += n_out;
        }
        whole += n_out;
        i += n > 0 ? n : 1;
    }
    if (room > 0) out[used] = '\0';
    return whole;
}

lp_status lp_text_add_printable(lp_text *out, const char *text, lp_print_layout layout, lp_error *err) {
    size_t length = strlen(text), wanted = lp_printable(text, length, layout, NULL, 0);
    LP_CHECK(lp_mem_grow(&out->data, &out->capacity, out->length + wanted + 1, sizeof *out->data, "text", err));
    out->length += lp_printable(text, length, layout, out->data + out->length, wanted + 1);
    return LP_OK;
}
