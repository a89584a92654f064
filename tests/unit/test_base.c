/* src/base: element types, bounded reader, memory, text, errors, digests, files. */
#include "base/checksum.h"
#include "base/digest.h"
#include "base/dtype.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/output.h"
#include "base/printable.h"
#include "base/reader.h"
#include "base/text.h"

#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- Element types ----------------------------------------------------------------------------------------------- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* IEEE 754 binary16 and bfloat16, by arithmetic on their fields. */
static double value_of(uint16_t bits, int mantissa_bits, int bias) {
    int exponent = (bits & 0x7fff) >> mantissa_bits;
    int mantissa = bits & ((1 << mantissa_bits) - 1);
    double sign = bits & 0x8000 ? -1 : 1;
    if (exponent == 2 * bias + 1) return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0) return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

typedef struct {
    const char *name;
    int mantissa_bits, bias;
    uint16_t infinity;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
    lp_dtype dtype;
} narrow_type;

static const narrow_type narrow_types[] = {{"f16", 10, 15, 0x7c00, lp_f16_to_f32, lp_f32_to_f16, LP_F16},
                                           {"bf16", 7, 127, 0x7f80, lp_bf16_to_f32, lp_f32_to_bf16, LP_BF16}};

static void test_widen_every_value(void **state) {
    (void)state;
    static uint16_t all[65537];
    static float wide[65536];
    for (size_t k = 0; k < 2; k++) {
        const narrow_type *t = &narrow_types[k];
        unsigned char *odd = (unsigned char *)all + 1; /* files may hold tensors at any address */
        for (uint32_t i = 0; i < 65536; i++) {
            uint16_t half = (uint16_t)i;
            memcpy(odd + 2 * i, &half, 2);
        }
        lp_to_f32(odd, t->dtype, wide, 65536);
        for (uint32_t i = 0; i < 65536; i++) {
            double wanted = value_of((uint16_t)i, t->mantissa_bits, t->bias);
            float got = t->widen((uint16_t)i);
            if (isnan(wanted) ? !isnan(got) : bits_of(got) != bits_of((float)wanted))
                fail_msg("%s %04x: expected %a, found %a", t->name, i, wanted, (double)got);
            if (bits_of(got) != bits_of(wide[i])) fail_msg("%s %04x: lp_to_f32 gives %a", t->name, i, (double)wide[i]);
        }
    }
}

static void check_narrow(const narrow_type *t, float x, uint16_t wanted) {
    uint16_t got = t->narrow(x);
    if (got != wanted) fail_msg("%s of %a: expected %04x, found %04x", t->name, (double)x, wanted, got);
    got = t->narrow(-x);
    wanted |= 0x8000;
    if (got != wanted) fail_msg("%s of %a: expected %04x, found %04x", t->name, (double)-x, wanted, got);
}

/* Every value, every point in the middle of two neighbours (to even), and the floats on either side of it. */
static void test_narrow_every_boundary(void **state) {
    (void)state;
    for (size_t k = 0; k < 2; k++) {
        const narrow_type *t = &narrow_types[k];
        for (uint16_t low = 0; low < t->infinity; low++) {
            uint16_t high = (uint16_t)(low + 1);
            double a = value_of(low, t->mantissa_bits, t->bias);
            /* Infinity stands for the next value that would come. */
            double b = high == t->infinity ? ldexp(1, t->bias + 1) : value_of(high, t->mantissa_bits, t->bias);
            float middle = (float)((a + b) / 2);
            assert_true((double)middle == (a + b) / 2);
            check_narrow(t, (float)a, low);
            check_narrow(t, middle, low & 1 ? high : low);
            check_narrow(t, nextafterf(middle, 0), low);
            check_narrow(t, nextafterf(middle, INFINITY), high);
        }
        check_narrow(t, INFINITY, t->infinity);
        check_narrow(t, 0x1.fffffep127f, t->infinity);
        check_narrow(t, 0x1p-149f, 0);
        assert_true(isnan(t->widen(t->narrow(NAN))));
        uint32_t hidden_nan = 0x7f800001u; /* the set bit is lost in the narrow mantissa */
        float x;
        memcpy(&x, &hidden_nan, sizeof x);
        assert_true(isnan(t->widen(t->narrow(x))));
    }
    assert_true(lp_round_f16(1.0f + 0x1p-12f) == 1.0f);
    assert_true(lp_round_f16(65520.0f) == INFINITY);
}

static void test_dtype_facts(void **state) {
    (void)state;
    static const struct {
        lp_dtype dtype;
        size_t bytes;
        const char *name;
    } cases[] = {{LP_F32, 4, "f32"}, {LP_F16, 2, "f16"},  {LP_BF16, 2, "bf16"}, {LP_F64, 8, "f64"},
                 {LP_I64, 8, "i64"}, {LP_I32, 4, "i32"},  {LP_I16, 2, "i16"},   {LP_I8, 1, "i8"},
                 {LP_U8, 1, "u8"},   {LP_BOOL, 1, "bool"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(lp_dtype_bytes(cases[i].dtype), cases[i].bytes);
        assert_string_equal(lp_dtype_name(cases[i].dtype), cases[i].name);
    }
    const float x[2] = {1.5f, -0.0f};
    float y[2] = {0, 0};
    lp_to_f32(x, LP_F32, y, 2);
    assert_memory_equal(x, y, sizeof x);
    lp_to_f32(NULL, LP_F32, y, 0);
}

/* ---- Reader ------------------------------------------------------------------------------------------------------ */

static void test_reader(void **state) {
    (void)state;
    static const unsigned char bytes[] = {0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, 0x09, 0x0a,
                                          0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 'a',  'b',  '\n', '\n', 'c'};
    lp_reader r = lp_reader_make(bytes, sizeof bytes, "file");
    lp_error err = {0};
    uint8_t u8 = 0;
    uint16_t u16 = 0;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    const unsigned char *p = NULL;
    const char *line = NULL;
    size_t length = 9;
    assert_int_equal(lp_read_u8(&r, &u8, &err), LP_OK);
    assert_int_equal(lp_read_u16(&r, &u16, &err), LP_OK);
    assert_int_equal(lp_read_u32(&r, &u32, &err), LP_OK);
    assert_int_equal(lp_read_u64(&r, &u64, &err), LP_OK);
    assert_int_equal(u8, 0x01);
    assert_int_equal(u16, 0x0302);
    assert_int_equal(u32, 0x07060504);
    assert_true(u64 == UINT64_C(0x0f0e0d0c0b0a0908));
    assert_int_equal(lp_read_line(&r, &line, &length, &err), LP_OK);
    assert_int_equal(length, 2);
    assert_memory_equal(line, "ab", 2);
    assert_int_equal(lp_read_line(&r, &line, &length, &err), LP_OK);
    assert_int_equal(length, 0);
    assert_int_equal(lp_reader_left(&r), 1);
    assert_int_equal(lp_read_line(&r, &line, &length, &err), LP_ERR_FORMAT);
    assert_string_equal(err.text, "file: line at byte 19 has no end");
    assert_int_equal(lp_read_u16(&r, &u16, &err), LP_ERR_FORMAT);
    assert_string_equal(err.text, "file: truncated at byte 19: expected 2 more bytes, found 1");
    assert_int_equal(r.offset, 19);
    assert_int_equal(lp_read_bytes(&r, SIZE_MAX, &p, &err), LP_ERR_FORMAT);
    assert_int_equal(lp_reader_seek(&r, sizeof bytes, &err), LP_OK);
    assert_int_equal(lp_read_bytes(&r, 0, &p, &err), LP_OK);
    assert_int_equal(lp_read_u8(&r, &u8, &err), LP_ERR_FORMAT);
    assert_int_equal(lp_reader_seek(&r, sizeof bytes + 1, &err), LP_ERR_FORMAT);
    assert_string_equal(err.text, "file: offset 21 is past the end (20 bytes)");
    lp_reader none = lp_reader_make(NULL, 0, "none");
    assert_int_equal(lp_read_line(&none, &line, &length, &err), LP_ERR_FORMAT);
}

static void test_overflow(void **state) {
    (void)state;
    uint64_t out = 0;
    assert_true(lp_mul_u64(UINT64_C(1) << 32, UINT64_C(0xffffffff), &out) && out == UINT64_C(0xffffffff00000000));
    assert_false(lp_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &out));
    assert_true(lp_mul_u64(0, UINT64_MAX, &out) && out == 0);
    assert_true(lp_add_u64(UINT64_MAX, 0, &out) && out == UINT64_MAX);
    assert_false(lp_add_u64(UINT64_MAX, 1, &out));
}

/* ---- Memory, text, errors ---------------------------------------------------------------------------------------- */

static void test_memory(void **state) {
    (void)state;
    lp_error err = {0};
    lp_mem_counters before = lp_mem_count();
    double *x = NULL;
    assert_int_equal(lp_mem_new(&x, 1000, sizeof *x, "numbers", &err), LP_OK);
    assert_int_equal((uintptr_t)x % LP_ALIGNMENT, 0);
    for (int i = 0; i < 1000; i++) assert_true(x[i] == 0);
    lp_mem_counters during = lp_mem_count();
    assert_true(during.live_bytes >= before.live_bytes + 8000 && during.peak_bytes >= during.live_bytes);
    assert_int_equal(during.n_allocations, before.n_allocations + 1);
    lp_mem_free(x);
    assert_int_equal(lp_mem_count().live_bytes, before.live_bytes);
    lp_mem_free(NULL);
    x = NULL;
    assert_int_equal(lp_mem_new(&x, 0, 8, "nothing", &err), LP_OK);
    assert_non_null(x);
    lp_mem_free(x);
    x = NULL;
    assert_int_equal(lp_mem_new(&x, SIZE_MAX / 4, 8, "shape", &err), LP_ERR_MEMORY);
    assert_non_null(strstr(err.text, "shape: size overflows: "));
    assert_int_equal(lp_mem_new(&x, SIZE_MAX / 2, 2, "shape", &err), LP_ERR_MEMORY);
    assert_null(x);
}

static void test_grow(void **state) {
    (void)state;
    lp_error err = {0};
    int32_t *x = NULL;
    size_t capacity = 0;
    for (int32_t i = 0; i < 5000; i++) {
        assert_int_equal(lp_mem_grow(&x, &capacity, (size_t)i + 1, sizeof *x, "list", &err), LP_OK);
        assert_true(capacity > (size_t)i);
        assert_int_equal(x[i], 0);
        x[i] = i;
    }
    for (int32_t i = 0; i < 5000; i++) assert_int_equal(x[i], i);
    size_t kept = capacity;
    int32_t *same = x;
    assert_int_equal(lp_mem_grow(&x, &capacity, 10, sizeof *x, "list", &err), LP_OK);
    assert_true(capacity == kept && x == same);
    assert_int_equal(lp_mem_grow(&x, &capacity, SIZE_MAX - 1, sizeof *x, "list", &err), LP_ERR_MEMORY);
    assert_true(capacity == kept && x == same);
    lp_mem_free(x);
    /* A list of one large item holds one. */
    char(*large)[1000] = NULL;
    capacity = 0;
    for (size_t n = 1; n <= 10; n++) {
        assert_int_equal(lp_mem_grow(&large, &capacity, n, sizeof *large, "list", &err), LP_OK);
        assert_true(n <= capacity && capacity <= n + n / 2);
    }
    lp_mem_free(large);
}

static void test_text(void **state) {
    (void)state;
    lp_text t = {0};
    lp_error err = {0};
    assert_string_equal(lp_text_get(&t), "");
    lp_text_clear(&t);
    assert_int_equal(lp_text_add(&t, "", 0, &err), LP_OK);
    assert_int_equal(lp_text_add(&t, "a\0b", 3, &err), LP_OK);
    assert_int_equal(lp_text_format(&t, &err, "%d-%s", 12, "x"), LP_OK);
    assert_int_equal(t.length, 7);
    assert_memory_equal(t.data, "a\0b12-x", 8);
    lp_text_clear(&t);
    assert_string_equal(lp_text_get(&t), "");
    for (int i = 0; i < 500; i++) assert_int_equal(lp_text_format(&t, &err, "%03d,", i), LP_OK);
    assert_int_equal(t.length, 2000);
    assert_memory_equal(t.data + 4 * 499, "499,", 5);
    lp_text_release(&t);
    assert_null(t.data);
}

static void test_errors(void **state) {
    (void)state;
    lp_error err = {0};
    assert_int_equal(lp_fail(&err, LP_ERR_VALUE, "%s: bad\n\x1b[31mred\x7f", "f"), LP_ERR_VALUE);
    assert_string_equal(err.text, "f: bad\\n\\x1b[31mred\\u007f");
    assert_int_equal(lp_error_prefix(&err, "pair %d", 3), LP_ERR_VALUE);
    assert_string_equal(err.text, "pair 3: f: bad\\n\\x1b[31mred\\u007f");
    assert_int_equal(lp_fail(NULL, LP_ERR_IO, "x"), LP_ERR_IO);
    char big[3 * LP_ERROR_TEXT];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    lp_fail(&err, LP_ERR_IO, "%s", big);
    assert_int_equal(strlen(err.text), LP_ERROR_TEXT - 1);
    lp_error_prefix(&err, "%s", big);
    assert_true(strlen(err.text) < LP_ERROR_TEXT);
    for (int s = LP_ERR_UNSUPPORTED; s <= LP_OK; s++) assert_string_not_equal(lp_status_name((lp_status)s), "unknown");
}

/* What a terminal could obey, and what it may show. */
static void test_printable(void **state) {
    (void)state;
    static const struct {
        const char *text, *line, *block;
    } cases[] = {
        {"plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \\n", NULL, NULL},
        {"a\nb\tc\r", "a\\nb\\tc\\r", "a\nb\tc\\r"},
        {"\x1b[31m\x07\x7f", "\\x1b[31m\\x07\\u007f", "\\x1b[31m\\x07\\u007f"},
        {"\xc2\x9b\x33m", "\\u009b3m", "\\u009b3m"},                         /* CSI as one character */
        {"\xe2\x80\xae<\xe2\x80\xa8", "\\u202e<\\u2028", "\\u202e<\\u2028"}, /* right to left, line separator */
        {"\x9b\xff\xc3", "\\x9b\\xff\\xc3", "\\x9b\\xff\\xc3"},              /* no UTF-8 */
        {"\xc1\xa1\xed\xa0\x80", "\\xc1\\xa1\\xed\\xa0\\x80", NULL},         /* overlong, a surrogate */
        {"\xe0\x80\x8a\xf4\x90\x80\x80", "\\xe0\\x80\\x8a\\xf4\\x90\\x80\\x80", NULL}, /* overlong, beyond Unicode */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *line = cases[i].line ? cases[i].line : cases[i].text;
        const char *block = cases[i].block ? cases[i].block : line;
        lp_text text = {0};
        lp_error err = {0};
        assert_int_equal(lp_text_add_printable(&text, cases[i].text, LP_PRINT_LINE, &err), LP_OK);
        assert_string_equal(lp_text_get(&text), line);
        lp_text_clear(&text);
        assert_int_equal(lp_text_add_printable(&text, cases[i].text, LP_PRINT_BLOCK, &err), LP_OK);
        assert_string_equal(lp_text_get(&text), block);
        lp_text_release(&text);
    }
    char room[6];
    assert_int_equal(lp_printable("abc\x1b-", 5, LP_PRINT_LINE, room, sizeof room), 8);
    assert_string_equal(room, "abc"); /* no half of an escape, and nothing after it */
    assert_int_equal(lp_printable("", 0, LP_PRINT_LINE, room, sizeof room), 0);
    assert_string_equal(room, "");
}

static void test_numbers(void **state) {
    (void)state;
    static const char *const refused[] = {
        "", " 1", "1 ", "+1", "1x", "0x10", "--1", "1.", "1.0", "1e3", "x", "- 1", "9223372036854775808", "nan"};
    static const struct {
        const char *text;
        double value;
    } numbers[] = {{"32", 32}, {"-0.5", -0.5}, {"1e-3", 1e-3}, {".5", 0.5}, {"2.E+2", 200}, {"007", 7}};
    static const char *const no_numbers[] = {"",   "32x", "1e", "1e400", "inf", "nan", "0x1p3", " 1",
                                             "1 ", "+1",  ".",  "1,5",   "-",   "e5",  "1e+",   "1.5.2"};
    int64_t integer = 77;
    double number = 77;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (lp_read_integer(refused[i], INT64_MIN, INT64_MAX, &integer) || integer != 77)
            fail_msg("\"%s\" was read", refused[i]);
    assert_true(lp_read_integer("-12", -12, 5, &integer) && integer == -12);
    assert_false(lp_read_integer("-13", -12, 5, &integer));
    assert_false(lp_read_integer("6", -12, 5, &integer));
    assert_true(lp_read_integer("9223372036854775807", 0, INT64_MAX, &integer) && integer == INT64_MAX);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        if (!lp_read_number(numbers[i].text, &number) || number != numbers[i].value)
            fail_msg("\"%s\": expected %g, found %g", numbers[i].text, numbers[i].value, number);
    for (size_t i = 0; i < sizeof no_numbers / sizeof no_numbers[0]; i++)
        if (lp_read_number(no_numbers[i], &number)) fail_msg("\"%s\" was read", no_numbers[i]);
    const char *list = "12,3";
    assert_true(lp_take_integer(&list, 12, &integer) && integer == 12 && strcmp(list, ",3") == 0);
    assert_false(lp_take_integer(&list, 12, &integer));
    list = "7";
    assert_false(lp_take_integer(&list, 6, &integer));
}

/* FIPS 180-4's examples. */
static void test_digest(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } cases[] = {{"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
                 {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
                 {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"}};
    lp_sha256 *digest = NULL;
    lp_error err = {0};
    assert_int_equal(lp_sha256_new(&digest, &err), LP_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char raw[LP_SHA256_BYTES];
        char hex[LP_SHA256_HEX];
        size_t n = strlen(cases[i].text);
        assert_int_equal(lp_sha256_of(cases[i].text, n, raw, &err), LP_OK);
        lp_sha256_hex(raw, hex);
        assert_string_equal(hex, cases[i].hex);
        for (size_t k = 0; k < n; k++) assert_int_equal(lp_sha256_add(digest, cases[i].text + k, 1, &err), LP_OK);
        assert_int_equal(lp_sha256_finish(digest, raw, &err), LP_OK);
        lp_sha256_hex(raw, hex);
        assert_string_equal(hex, cases[i].hex);
    }
    lp_sha256_free(digest);
}

/* As printed by `xxhsum -H2`. */
static void test_checksum(void **state) {
    (void)state;
    enum { LARGE = 100003 };
    static unsigned char large[LARGE];
    for (size_t i = 0; i < LARGE; i++) large[i] = (unsigned char)(i * 131 + i / 251);
    const struct {
        const void *data;
        size_t n;
        const char *hex;
    } cases[] = {{"", 0, "99aa06d3014798d86001c324468d497f"},
                 {"abc", 3, "06b05ab6733a618578af5f94892f3950"},
                 {large, LARGE, "54f9521fc16dfd86537ab90700b7edcd"}};
    lp_checksum *sum = NULL;
    lp_error err = {0};
    assert_int_equal(lp_checksum_new(&sum, &err), LP_OK);
    for (size_t piece = 1; piece < 2 * LARGE; piece = piece * 7 + 3)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            unsigned char found[LP_CHECKSUM_BYTES];
            char hex[2 * LP_CHECKSUM_BYTES + 1];
            const unsigned char *data = cases[i].data;
            for (size_t at = 0; at < cases[i].n; at += piece)
                lp_checksum_add(sum, data + at, cases[i].n - at < piece ? cases[i].n - at : piece);
            lp_checksum_finish(sum, found);
            for (size_t k = 0; k < LP_CHECKSUM_BYTES; k++) snprintf(hex + 2 * k, 3, "%02x", found[k]);
            assert_string_equal(hex, cases[i].hex);
        }
    lp_checksum_free(sum);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

static void test_files(void **state) {
    (void)state;
    static const char name[] = "test_base.tmp";
    lp_error err = {0};
    lp_text text = {0};
    lp_mapped_file map = {0};
    char hex[LP_SHA256_HEX];
    assert_int_equal(lp_output_write(name, "first", 5, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_output_write(name, "abc", 3, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_file_read(name, 3, &text, &err), LP_OK);
    assert_string_equal(lp_text_get(&text), "abc");
    assert_int_equal(lp_file_read(name, 2, &text, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "test_base.tmp: too large: 3 bytes, at most 2");
    assert_int_equal(lp_file_map(name, &map, &err), LP_OK);
    assert_int_equal(map.size, 3);
    assert_memory_equal(map.data, "abc", 3);
    lp_file_unmap(&map);
    assert_int_equal(lp_sha256_of_file(name, hex, &err), LP_OK);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(lp_output_write(name, "", 0, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_file_map(name, &map, &err), LP_OK);
    assert_int_equal(map.size, 0);
    assert_non_null(map.data);
    lp_file_unmap(&map);
    assert_int_equal(lp_path_look(name), LP_PATH_FILE);
    assert_int_equal(unlink(name), 0);
    assert_int_equal(lp_path_look(name), LP_PATH_MISSING);
    assert_int_equal(lp_file_map(name, &map, &err), LP_ERR_IO);
    assert_string_equal(err.text, "test_base.tmp: cannot open: No such file or directory");
    assert_int_equal(lp_file_read(".", 10, &text, &err), LP_ERR_IO);
    assert_string_equal(err.text, ".: expected a file, found a folder");
    assert_int_equal(lp_file_map("/dev/null", &map, &err), LP_ERR_IO);
    assert_string_equal(err.text, "/dev/null: expected a regular file, found a device");
    assert_int_equal(lp_path_look("."), LP_PATH_FOLDER);
    assert_int_equal(lp_path_look("/dev/null"), LP_PATH_OTHER);
    lp_text_release(&text);
}

/* A write that fails leaves what was there, and nothing beside it. */
static void test_failed_write(void **state) {
    (void)state;
    lp_error err = {0};
    lp_text text = {0};
    assert_int_equal(lp_output_write("test_base.missing/x", "a", 1, LP_OUTPUT_OWN, &err), LP_ERR_IO);
    assert_string_equal(err.text, "test_base.missing/x: cannot write: No such file or directory");
    assert_int_equal(lp_path_make_folder_for("test_base.dir/a/b/x", &err), LP_OK);
    assert_int_equal(lp_path_make_folder_for("test_base.dir/a/b/x", &err), LP_OK);
    assert_int_equal(lp_output_write("test_base.dir/a/b", "a", 1, LP_OUTPUT_OWN, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "test_base.dir/a/b: expected a file, found a folder (test_base.dir/a/b)");
    assert_int_equal(lp_output_write("test_base.dir/a/b/x", "a", 1, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_file_read("test_base.dir/a/b/x", 1, &text, &err), LP_OK);
    assert_string_equal(lp_text_get(&text), "a");
    assert_int_equal(lp_path_make_folder_for("test_base.dir/a/b/x/y", &err), LP_ERR_IO);
    assert_non_null(strstr(err.text, "test_base.dir/a/b/x"));
    assert_int_equal(unlink("test_base.dir/a/b/x"), 0);
    assert_int_equal(rmdir("test_base.dir/a/b"), 0);
    assert_int_equal(rmdir("test_base.dir/a"), 0);
    assert_int_equal(rmdir("test_base.dir"), 0);
    lp_text_release(&text);
}

/* What stands at the path stays what it is. */
static void test_write_to_links_and_pipes(void **state) {
    (void)state;
    static const char pipe_name[] = "test_base.pipe", link_name[] = "test_base.link", file_name[] = "test_base.linked";
    lp_error err = {0};
    char found[8] = "";
    lp_text text = {0};
    struct stat info;
    unlink(pipe_name);
    unlink(link_name);
    assert_int_equal(mkfifo(pipe_name, 0600), 0);
    int fd = open(pipe_name, O_RDWR | O_NONBLOCK);
    assert_true(fd >= 0);
    if (lp_output_write(pipe_name, "abc", 3, LP_OUTPUT_OWN, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(read(fd, found, sizeof found), 3);
    assert_memory_equal(found, "abc", 3);
    close(fd);
    assert_int_equal(lp_path_look(pipe_name), LP_PATH_OTHER);
    assert_int_equal(lp_output_write(file_name, "old", 3, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(symlink(file_name, link_name), 0);
    if (lp_output_write(link_name, "new", 3, LP_OUTPUT_OWN, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lstat(link_name, &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(lp_file_read(file_name, 100, &text, &err), LP_OK);
    assert_string_equal(lp_text_get(&text), "new");
    lp_text_release(&text);
    unlink(pipe_name);
    unlink(link_name);
    unlink(file_name);
}

static void test_paths(void **state) {
    (void)state;
    static const struct {
        const char *folder, *path, *joined;
    } joins[] = {{"a/b", "c", "a/b/c"}, {"a", "/c", "/c"}, {".", "c", "c"}, {"/", "c", "/c"}, {"a/", "c", "a/c"}};
    static const struct {
        const char *path, *folder;
    } folders[] = {{"a/b/c", "a/b"}, {"c", "."}, {"/c", "/"}, {"a/", "a"}};
    lp_error err = {0};
    for (size_t i = 0; i < sizeof joins / sizeof joins[0]; i++) {
        char *out = NULL;
        assert_int_equal(lp_path_join(joins[i].folder, joins[i].path, &out, &err), LP_OK);
        assert_string_equal(out, joins[i].joined);
        lp_mem_free(out);
    }
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        char *out = NULL;
        assert_int_equal(lp_path_folder(folders[i].path, &out, &err), LP_OK);
        assert_string_equal(out, folders[i].folder);
        lp_mem_free(out);
    }
}

/* Links and folders that exist are followed; the rest is text. As deep as a path may be. */
static void test_resolve(void **state) {
    (void)state;
    static const struct {
        const char *path, *end;
    } cases[] = {{"test_base.dir/real/x", "/test_base.dir/real/x"},
                 {"test_base.dir/link/x", "/test_base.dir/real/x"},
                 {"./test_base.dir//link/./x", "/test_base.dir/real/x"},
                 {"test_base.dir/link/new/../x", "/test_base.dir/real/x"},
                 {"test_base.dir/link/../x", "/test_base.dir/x"},
                 {"test_base.dir/link", "/test_base.dir/real"},
                 {"test_base.dir/chain", "/test_base.dir/real/none"},
                 {"test_base.new", "/test_base.new"}};
    lp_error err = {0};
    char *out = NULL;
    assert_int_equal(lp_path_make_folder_for("test_base.dir/real/x", &err), LP_OK);
    assert_int_equal(symlink("real", "test_base.dir/link"), 0);
    assert_int_equal(symlink("dangling", "test_base.dir/chain"), 0);
    assert_int_equal(symlink("link/none", "test_base.dir/dangling"), 0);
    char *here = realpath(".", NULL);
    assert_non_null(here);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(lp_path_resolve(cases[i].path, &out, &err), LP_OK);
        if (strncmp(out, here, strlen(here)) != 0 || strcmp(out + strlen(here), cases[i].end) != 0)
            fail_msg("%s: found %s", cases[i].path, out);
        lp_mem_free(out);
    }
    free(here);
    assert_int_equal(lp_path_resolve("/../..//no such/../x", &out, &err), LP_OK);
    assert_string_equal(out, "/x");
    lp_mem_free(out);
    char deep[2 * 2000 + 2] = "/";
    for (size_t i = 0; i < 2000; i++) memcpy(deep + 1 + 2 * i, i == 0 ? "n/" : "d/", 2);
    deep[2 * 2000] = '\0';
    assert_int_equal(lp_path_resolve(deep, &out, &err), LP_OK);
    assert_string_equal(out, deep);
    lp_mem_free(out);
    static const char *const links[] = {"test_base.dir/link", "test_base.dir/chain", "test_base.dir/dangling"};
    for (size_t i = 0; i < 3; i++) assert_int_equal(unlink(links[i]), 0);
    assert_int_equal(rmdir("test_base.dir/real"), 0);
    assert_int_equal(rmdir("test_base.dir"), 0);
}

/* A mapped file that is made shorter: the process ends with a line that names it. */
static void test_shortened_map(void **state) {
    (void)state;
    static const char name[] = "test_base.tmp";
    lp_error err = {0};
    lp_mapped_file map;
    char text[16384] = "", said[256] = "";
    int lines[2], code = 0;
    assert_int_equal(lp_output_write(name, text, sizeof text, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(pipe(lines), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(lines[1], STDERR_FILENO);
        if (lp_file_watch_maps(&err) != LP_OK || lp_file_map(name, &map, &err) != LP_OK || truncate(name, 0) != 0)
            _exit(3);
        _exit(((const volatile unsigned char *)map.data)[12000] ? 4 : 5);
    }
    assert_int_equal(waitpid(child, &code, 0), child);
    assert_true(WIFEXITED(code));
    assert_int_equal(WEXITSTATUS(code), 1);
    assert_true(read(lines[0], said, sizeof said - 1) > 0);
    assert_string_equal(said,
                        "latentpatch: error: test_base.tmp: cannot be read any more: it was made shorter while it was "
                        "in use, or its disk fails\n");
    close(lines[0]);
    close(lines[1]);
    unlink(name);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_widen_every_value),
                                       cmocka_unit_test(test_narrow_every_boundary),
                                       cmocka_unit_test(test_dtype_facts),
                                       cmocka_unit_test(test_reader),
                                       cmocka_unit_test(test_overflow),
                                       cmocka_unit_test(test_memory),
                                       cmocka_unit_test(test_grow),
                                       cmocka_unit_test(test_text),
                                       cmocka_unit_test(test_errors),
                                       cmocka_unit_test(test_printable),
                                       cmocka_unit_test(test_numbers),
                                       cmocka_unit_test(test_digest),
                                       cmocka_unit_test(test_checksum),
                                       cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_failed_write),
                                       cmocka_unit_test(test_write_to_links_and_pipes),
                                       cmocka_unit_test(test_paths),
                                       cmocka_unit_test(test_resolve),
                                       cmocka_unit_test(test_shortened_map)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
