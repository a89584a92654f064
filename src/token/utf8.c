#include "token/utf8.h"

/* Three runs of bytes are not printable: 0..32, 127..160 and 173. */
uint32_t lp_byte_letter(unsigned char byte) {
    if (byte <= 32) return 0x100u + byte;
    if (byte >= 127 && byte <= 160) return 0x121u + byte - 127u;
    if (byte == 173) return 0x143;
    return byte;
}

int lp_letter_byte(uint32_t code_point) {
    if (code_point < 0x100) return lp_byte_letter((unsigned char)code_point) == code_point ? (int)code_point : -1;
    if (code_point <= 0x120) return (int)(code_point - 0x100);
    if (code_point <= 0x142) return (int)(code_point - 0x121 + 127);
    return code_point == 0x143 ? 173 : -1;
}

bool lp_utf8_is_space(uint32_t c) {
    return (c >= 0x9 && c <= 0xd) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}
