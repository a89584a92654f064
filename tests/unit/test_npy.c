/* .npy files with the headers that numpy writes, byte for byte, and damaged ones. */
#include "base/memory.h"
#include "base/npy.h"
#include "base/output.h"

#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

enum { HEADER = 118, PREFIX = 10 };

/* A version 1.0 file: magic, header padded with blanks to 128 bytes in all, then data. */
static size_t make(const char *dict, const void *data, size_t bytes, unsigned char out[512]) {
    memcpy(out, "\x93NUMPY\x01\x00\x76\x00", PREFIX);
    memset(out + PREFIX, ' ', HEADER);
    memcpy(out + PREFIX, dict, strlen(dict));
    out[PREFIX + HEADER - 1] = '\n';
    memcpy(out + PREFIX + HEADER, data, bytes);
    return PREFIX + HEADER + bytes;
}

static lp_status parse(const unsigned char *bytes, size_t size, float **out, size_t *n, lp_error *err) {
    unsigned char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    lp_status status = lp_npy_parse_f32(copy, size, "v.npy", out, n, err);
    free(copy);
    return status;
}

static void test_types_and_shapes(void **state) {
    (void)state;
    static const float f4[] = {1.5f, -2.25f, 0.0f};
    static const double f8[] = {1.5, -2.25, 0.0};
    static const uint16_t f2[] = {0x3e00, 0xc080, 0x0000};
    static const struct {
        const char *dict;
        const void *data;
        size_t bytes;
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", f4, sizeof f4},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", f8, sizeof f8},
        {"{'descr': '<f2', 'fortran_order': False, 'shape': (3,), }", f2, sizeof f2},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }", f4, sizeof f4},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (3,), }", f4, sizeof f4},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (3, 1), }", f4, sizeof f4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char file[512];
        float *out = NULL;
        size_t n = 0;
        lp_error err = {0};
        size_t size = make(cases[i].dict, cases[i].data, cases[i].bytes, file);
        if (parse(file, size, &out, &n, &err) != LP_OK) fail_msg("%s: %s", cases[i].dict, err.text);
        assert_int_equal(n, 3);
        for (size_t k = 0; k < 3; k++) assert_true(out[k] == f4[k]);
        lp_mem_free(out);
        for (size_t cut = 0; cut < size; cut++)
            if (parse(file, cut, &out, &n, &err) == LP_OK) fail_msg("%s: accepted when cut at %zu", cases[i].dict, cut);
    }
}

static void test_other_forms(void **state) {
    (void)state;
    unsigned char file[512], second[512];
    float *out = NULL;
    size_t n = 9;
    lp_error err = {0};
    const float one = 2.5f;
    /* A scalar, an empty array, and version 2.0 with its 4-byte length. */
    size_t size = make("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", &one, 4, file);
    assert_int_equal(parse(file, size, &out, &n, &err), LP_OK);
    assert_int_equal(n, 1);
    lp_mem_free(out);
    memcpy(second, "\x93NUMPY\x02\x00\x76\x00\x00\x00", 12);
    memcpy(second + 12, file + PREFIX, size - PREFIX);
    assert_int_equal(parse(second, size + 2, &out, &n, &err), LP_OK);
    assert_true(n == 1 && out[0] == one);
    lp_mem_free(out);
    size = make("{'descr': '<f4', 'fortran_order': False, 'shape': (0,), }", &one, 0, file);
    assert_int_equal(parse(file, size, &out, &n, &err), LP_OK);
    assert_int_equal(n, 0);
    lp_mem_free(out);
    out = NULL;
    assert_int_equal(lp_output_write("test_npy.tmp", file, size, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_npy_read_f32("test_npy.tmp", &out, &n, &err), LP_OK);
    lp_mem_free(out);
    assert_int_equal(unlink("test_npy.tmp"), 0);
    assert_int_equal(lp_npy_read_f32("test_npy.tmp", &out, &n, &err), LP_ERR_IO);
}

static void test_refusals(void **state) {
    (void)state;
    static const uint32_t numbers[] = {0x3f800000, 0x7f800000, 0x7fc00000};
    static const double huge = 1e300;
    static const struct {
        const char *dict;
        const void *data;
        size_t bytes;
        const char *message;
    } cases[] = {
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", numbers, 4,
         "v.npy: expected dtype float16, float32 or "
         "float64, found '<i4'"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }", numbers, 4, "v.npy: expected dtype float16"},
        {"{'descr': '<f4', 'fortran_order': False, }", numbers, 4,
         "v.npy: header: expected descr, fortran_order and shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1, }", numbers, 4, "v.npy: header: expected a shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", numbers, 4, "v.npy: header: expected a shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0x1,), }", numbers, 4, "v.npy: header: expected a shape"},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", numbers, 4, "v.npy: header: expected descr"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", numbers, 4,
         "v.npy: header: expected descr"},
        {"{'x': '<f4', 'fortran_order': False, 'shape': (1,), 'y': '<f4'}", numbers, 4,
         "v.npy: header: expected descr"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } 1", numbers, 4, "v.npy: header: expected descr"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", numbers, 4, "v.npy: expected C order"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", numbers, 12,
         "v.npy: expected 8 bytes of data, found 12"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", numbers, 4,
         "v.npy: shape overflows"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904,), }", numbers, 0, "v.npy: expected "},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", numbers, 8, "v.npy: number 1 is not finite"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", &numbers[2], 4, "v.npy: number 0 is not finite"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }", &huge, 8, "v.npy: number 0 is not finite"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char file[512];
        float *out = NULL;
        size_t n = 0;
        lp_error err = {0};
        size_t size = make(cases[i].dict, cases[i].data, cases[i].bytes, file);
        if (parse(file, size, &out, &n, &err) == LP_OK ||
            strncmp(err.text, cases[i].message, strlen(cases[i].message)) != 0)
            fail_msg("%s: expected \"%s\", found \"%s\"", cases[i].dict, cases[i].message, err.text);
        assert_null(out);
    }
    float *out = NULL;
    size_t n = 0;
    lp_error err = {0};
    assert_int_equal(parse((const unsigned char *)"\x93NUMPX\x01\x00", 8, &out, &n, &err), LP_ERR_FORMAT);
    assert_string_equal(err.text, "v.npy: not an .npy file");
    assert_int_equal(parse((const unsigned char *)"\x93NUMPY\x03\x00\x00\x00\x00\x00", 12, &out, &n, &err),
                     LP_ERR_UNSUPPORTED);
    assert_string_equal(err.text, "v.npy: .npy version 3.0: expected 1.0 or 2.0");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_types_and_shapes), cmocka_unit_test(test_other_forms),
                                       cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
