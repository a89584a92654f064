#include "base/printable.h"

#include "base/memory.h"
#include "base/utf8.h"

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
        bool well_formed = false;
        size_t n = lp_utf8_next(text + i, length - i, &code, &well_formed), n_out = n;
        const char *shown = text + i;
        bool kept = layout == LP_PRINT_BLOCK && (code == '\n' || code == '\t');
        if (!well_formed)
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
        i += well_formed ? n : 1; /* bad bytes one by one */
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
