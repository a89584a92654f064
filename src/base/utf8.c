#include "base/utf8.h"

size_t lp_utf8_next(const char *bytes, size_t size, uint32_t *code_point, bool *well_formed) {
    const unsigned char *p = (const unsigned char *)bytes;
    unsigned char lead = p[0];
    *well_formed = true;
    if (lead < 0x80) {
        *code_point = lead;
        return 1;
    }
    size_t n = lead >= 0xc2 && lead <= 0xdf   ? 2
               : lead >= 0xe0 && lead <= 0xef ? 3
               : lead >= 0xf0 && lead <= 0xf4 ? 4
                                              : 0;
    /* The second byte's range excludes overlong forms, surrogates and values past U+10FFFF. */
    unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    uint32_t value = n == 2 ? lead & 0x1fu : n == 3 ? lead & 0x0fu : lead & 0x07u;
    size_t i = 1;
    while (i < n && i < size && p[i] >= low && p[i] <= high) {
        value = value << 6 | (p[i] & 0x3fu);
        low = 0x80;
        high = 0xbf;
        i++;
    }
    *well_formed = n > 0 && i == n;
    *code_point = *well_formed ? value : LP_UTF8_REPLACEMENT;
    return i;
}

size_t lp_utf8_put(uint32_t code_point, char out[4]) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    size_t n = code_point < 0x800 ? 2 : code_point < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        out[i] = (char)(0x80 | (code_point & 0x3f));
        code_point >>= 6;
    }
    out[0] = (char)((n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0) | code_point);
    return n;
}

lp_status lp_utf8_repair(const char *bytes, size_t size, lp_text *out, lp_error *err) {
    size_t good_from = 0, i = 0;
    while (i < size) {
        uint32_t code_point = 0;
        bool well_formed = false;
        size_t n = lp_utf8_next(bytes + i, size - i, &code_point, &well_formed);
        if (!well_formed) {
            char replacement[4];
            size_t length = lp_utf8_put(LP_UTF8_REPLACEMENT, replacement);
            LP_CHECK(lp_text_add(out, bytes + good_from, i - good_from, err));
            LP_CHECK(lp_text_add(out, replacement, length, err));
            good_from = i + n;
        }
        i += n;
    }
    return lp_text_add(out, bytes + good_from, size - good_from, err);
}

bool lp_utf8_valid(const char *bytes, size_t size, size_t *at) {
    for (size_t i = 0; i < size;) {
        uint32_t code_point = 0;
        bool well_formed = false;
        size_t n = lp_utf8_next(bytes + i, size - i, &code_point, &well_formed);
        if (!well_formed && at) *at = i;
        if (!well_formed) return false;
        i += n;
    }
    return true;
}
