#include "base/dtype.h"

#include "base/versions.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {[LP_F32] = {"f32", 4}, [LP_F16] = {"f16", 2},   [LP_BF16] = {"bf16", 2}, [LP_F64] = {"f64", 8},
              [LP_I64] = {"i64", 8}, [LP_I32] = {"i32", 4},   [LP_I16] = {"i16", 2},   [LP_I8] = {"i8", 1},
              [LP_U8] = {"u8", 1},   [LP_BOOL] = {"bool", 1}, [LP_U64] = {"u64", 8},   [LP_TEXT] = {"text", 1}};
enum { N_DTYPES = sizeof dtypes / sizeof dtypes[0] };

size_t lp_dtype_bytes(lp_dtype dtype) {
    return (size_t)dtype < N_DTYPES ? dtypes[dtype].bytes : 0;
}

const char *lp_dtype_name(lp_dtype dtype) {
    return (size_t)dtype < N_DTYPES ? dtypes[dtype].name : "unknown";
}

static float from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t to_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float lp_bf16_to_f32(uint16_t bits) {
    return from_bits((uint32_t)bits << 16);
}

uint16_t lp_f32_to_bf16(float value) {
    uint32_t bits = to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float lp_f16_to_f32(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = bits >> 10 & 31u;
    uint32_t mantissa = bits & 1023u;
    if (exponent == 31) return from_bits(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return from_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
}

uint16_t lp_f32_to_f16(float value) {
    uint32_t bits = to_bits(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) return sign | 0x7c00u; /* from 65520 on: infinity */
    if (magnitude < 0x38800000u) {                       /* below 2^-14: subnormal, in units of 2^-24 */
        if (magnitude < 0x33000000u) return sign;        /* below 2^-25 */
        uint32_t shift = 126u - (magnitude >> 23);
        uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
        uint32_t half = mantissa >> shift;
        uint32_t rest = mantissa & ((1u << shift) - 1u);
        uint32_t middle = 1u << (shift - 1u);
        if (rest > middle || (rest == middle && (half & 1u))) half++;
        return (uint16_t)(sign | half);
    }
    uint32_t half = (magnitude - 0x38000000u) >> 13;
    uint32_t rest = magnitude & 0x1fffu;
    if (rest > 0x1000u || (rest == 0x1000u && (half & 1u))) half++;
    return (uint16_t)(sign | half);
}

float lp_round_f16(float value) {
    return lp_f16_to_f32(lp_f32_to_f16(value));
}

/* A loop of its own, because the compiler can then vectorise it. */
LP_VERSIONS static void widen_bf16(const unsigned char *bytes, float *out, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, bytes + 2 * i, sizeof bits);
        uint32_t wide = (uint32_t)bits << 16;
        memcpy(out + i, &wide, sizeof wide);
    }
}

void lp_to_f32(const void *src, lp_dtype dtype, float *out, size_t n) {
    const unsigned char *bytes = src;
    if (dtype == LP_F32) {
        if (n) memcpy(out, src, n * sizeof *out);
        return;
    }
    LP_ASSERT(dtype == LP_F16 || dtype == LP_BF16);
    if (dtype == LP_BF16) {
        widen_bf16(bytes, out, n);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t bits;
        memcpy(&bits, bytes + 2 * i, sizeof bits);
        out[i] = lp_f16_to_f32(bits);
    }
}
