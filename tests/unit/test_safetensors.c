/* The safetensors reader: what a good file gives, and one clear line for each way in which a file can be bad. */
#include "base/memory.h"
#include "model/safetensors.h"

#include <setjmp.h>

#include <cmocka.h>

/* length of the header (8 bytes), header, n_data bytes 0, 1, 2, ... */
static void make_file(const char *header, size_t n_data, lp_text *out) {
    lp_error err = {0};
    size_t n = strlen(header);
    char length[8] = {0};
    for (size_t i = 0; i < 8; i++) length[i] = (char)(n >> (8 * i) & 255);
    assert_int_equal(lp_text_add(out, length, sizeof length, &err), LP_OK);
    assert_int_equal(lp_text_add(out, header, n, &err), LP_OK);
    for (size_t i = 0; i < n_data; i++) {
        char byte = (char)(i & 127);
        assert_int_equal(lp_text_add(out, &byte, 1, &err), LP_OK);
    }
}

/* Parses a copy of exactly that size, so that a read past the end is seen by the sanitizers. */
static lp_status parse(const char *bytes, size_t size, lp_tensor_list *list, unsigned char **copy, lp_error *err) {
    *copy = malloc(size ? size : 1);
    assert_non_null(*copy);
    if (size) memcpy(*copy, bytes, size);
    return lp_safetensors_parse(*copy, size, "m.safetensors", list, err);
}

static const char GOOD[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                           "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[8,20]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                           "\"none\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[20,20]},"
                           "\"one\":{\"dtype\":\"F16\",\"shape\":[],\"data_offsets\":[20,22]}}   ";

static void test_good_file(void **state) {
    (void)state;
    lp_text file = {0};
    lp_tensor_list list = {0};
    lp_error err = {0};
    unsigned char *copy = NULL;
    make_file(GOOD, 22, &file);
    if (parse(file.data, file.length, &list, &copy, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(list.n, 4);
    const lp_tensor *b = &list.items[0];
    assert_string_equal(b->name, "b");
    assert_int_equal(b->dtype, LP_BF16);
    assert_int_equal(b->n_dims, 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->strides[0], 3);
    assert_int_equal(b->n_elements, 6);
    assert_int_equal(b->data[0], 8);
    assert_int_equal(list.items[1].data[0], 0);
    assert_int_equal(list.items[2].n_elements, 0);
    assert_int_equal(list.items[3].n_dims, 0);
    assert_int_equal(list.items[3].n_elements, 1);
    lp_tensor_list_release(&list);
    lp_text_release(&file);
    free(copy);
}

static void test_every_truncation_fails(void **state) {
    (void)state;
    lp_text file = {0};
    make_file(GOOD, 22, &file);
    for (size_t size = 0; size < file.length; size++) {
        lp_tensor_list list = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        lp_status status = parse(file.data, size, &list, &copy, &err);
        if (status == LP_OK) fail_msg("the first %zu of %zu bytes were taken as a whole file", size, file.length);
        assert_true(strncmp(err.text, "m.safetensors: ", 15) == 0);
        lp_tensor_list_release(&list);
        free(copy);
    }
    lp_text_release(&file);
}

#define ONE(body)       "{\"w\":{" body "}}"
#define F32_2           "\"dtype\":\"F32\",\"shape\":[2]"
#define TENSOR(n, b, e) "\"" n "\":{\"dtype\":\"U8\",\"shape\":[" #e "],\"data_offsets\":[" #b ",4]}"

static const struct {
    const char *header;
    size_t n_data;
    const char *message;
} BAD_HEADERS[] = {
    {"", 0, "its header does not begin with '{'"},
    {"[]", 0, "its header does not begin with '{'"},
    {"{", 0, "malformed JSON"},
    {"{}x", 0, "text after the end of the JSON value"},
    {"{\"w\":3}", 0, "$.w: expected an object, found 3"},
    {ONE(F32_2), 0, "$.w: the key \"data_offsets\" is missing"},
    {ONE("\"dtype\":\"F32\",\"data_offsets\":[0,8]"), 8, "$.w: the key \"shape\" is missing"},
    {ONE("\"shape\":[2],\"data_offsets\":[0,8]"), 8, "$.w: the key \"dtype\" is missing"},
    {ONE(F32_2 ",\"data_offsets\":[0,8],\"extra\":1"), 8, "unknown key \"extra\""},
    {ONE("\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]"), 2, "$.w.dtype: expected a dtype that is"},
    {ONE("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]"), 8, "$.w.shape[0]: expected an integer from 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,8]"), 8, "$.w.shape[0]: expected an integer from 0"},
    {ONE("\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]"), 8, "$.w.shape: expected an array"},
    {ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,2],\"data_offsets\":[0,8]"), 8, "at most 8 dimensions"},
    {ONE("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]"), 8,
     "$.w.shape: the product of the shape does not fit into 64 bits"},
    {ONE("\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,8]"), 8, "expected an integer from 0"},
    {ONE("\"dtype\":\"F64\",\"shape\":[2147483648,2147483648],\"data_offsets\":[0,8]"), 8,
     "tensor \"w\": [2147483648, 2147483648] f64 needs"},
    {ONE(F32_2 ",\"data_offsets\":[0,8]"), 7, "$.w.data_offsets: expected begin <= end <= the 7 data bytes"},
    {ONE(F32_2 ",\"data_offsets\":[8,0]"), 8, "$.w.data_offsets: expected begin <= end"},
    {ONE(F32_2 ",\"data_offsets\":[0,8,8]"), 8, "$.w.data_offsets: expected two offsets"},
    {ONE(F32_2 ",\"data_offsets\":[0,1e30]"), 8, "$.w.data_offsets[1]: expected an integer"},
    {ONE(F32_2 ",\"data_offsets\":[0,4]"), 4, "tensor \"w\": [2] f32 needs 8 bytes, its data_offsets hold 4"},
    {ONE(F32_2 ",\"data_offsets\":[0,12]"), 12, "tensor \"w\": [2] f32 needs 8 bytes, its data_offsets hold 12"},
    {ONE(F32_2 ",\"data_offsets\":[4,12]"), 12, "begins at data byte 4, expected 0: there is a gap before it"},
    {ONE(F32_2 ",\"data_offsets\":[0,8]"), 9, "1 bytes after the last tensor belong to none"},
    {"{" TENSOR("v", 0, 4) "," TENSOR("w", 2, 2) "}", 4,
     "begins at data byte 2, expected 4: it overlaps the one before"},
    {"{" TENSOR("v", 0, 4) "," TENSOR("w", 0, 4) "}", 4, "begins at data byte 0, expected 4: it overlaps"},
    {"{" TENSOR("w", 0, 4) "," TENSOR("w", 0, 4) "}", 4, "the key \"w\" occurs twice in one object"},
    {"{\"__metadata__\":{\"n\":1}}", 0, "$.__metadata__.n: expected a string, found 1"},
    {"{\"__metadata__\":[]}", 0, "$.__metadata__: expected an object of strings"},
};

static void test_bad_headers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_HEADERS / sizeof *BAD_HEADERS; i++) {
        lp_text file = {0};
        lp_tensor_list list = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        make_file(BAD_HEADERS[i].header, BAD_HEADERS[i].n_data, &file);
        lp_status status = parse(file.data, file.length, &list, &copy, &err);
        if (status == LP_OK) fail_msg("%s: was taken, expected \"%s\"", BAD_HEADERS[i].header, BAD_HEADERS[i].message);
        if (!strstr(err.text, BAD_HEADERS[i].message) || strncmp(err.text, "m.safetensors: ", 2) != 0)
            fail_msg("%s: expected \"%s\", found \"%s\"", BAD_HEADERS[i].header, BAD_HEADERS[i].message, err.text);
        lp_tensor_list_release(&list);
        lp_text_release(&file);
        free(copy);
    }
}

static const struct {
    const char *bytes;
    size_t size;
    const char *message;
} BAD_FILES[] = {
    {"", 0, "m.safetensors: the file is empty"},
    {"\1\0\0\0\0\0\0", 7, "m.safetensors: truncated at byte 0: expected 8 more bytes, found 7"},
    {"\3\0\0\0\0\0\0\0{}", 10, "m.safetensors: truncated at byte 8: expected 3 more bytes, found 2"},
    {"\1\341\365\5\0\0\0\0{}", 10, "its first 8 bytes say a header of 100000001 bytes, at most 100000000"},
    {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", 64,
     "this is a Git LFS pointer, not the file"},
    {"<!DOCTYPE html><html><body>Sign in</body></html>", 48, "this is an HTML page, not the file"},
    {"\xef\xbb\xbf\n  <HTML lang=en>", 20, "this is an HTML page, not the file"},
};

static void test_bad_files(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_FILES / sizeof *BAD_FILES; i++) {
        lp_tensor_list list = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        lp_status status = parse(BAD_FILES[i].bytes, BAD_FILES[i].size, &list, &copy, &err);
        if (status != LP_ERR_FORMAT || !strstr(err.text, BAD_FILES[i].message))
            fail_msg("expected \"%s\", found \"%s\"", BAD_FILES[i].message, err.text);
        lp_tensor_list_release(&list);
        free(copy);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* Every orientation and stride gives the same matrix. */
static void test_widening(void **state) {
    (void)state;
    enum { ROWS = 70, COLUMNS = 131 };
    uint16_t *stored = malloc(2 * ROWS * COLUMNS * sizeof *stored);
    float *found = malloc(ROWS * (COLUMNS + 3) * sizeof *found);
    assert_non_null(stored);
    assert_non_null(found);
    const struct {
        int64_t shape[2], strides[2];
        lp_widen_order order;
    } cases[] = {{{ROWS, COLUMNS}, {COLUMNS, 1}, LP_WIDEN_AS_STORED},
                 {{ROWS, COLUMNS}, {1, ROWS}, LP_WIDEN_AS_STORED},
                 {{ROWS, COLUMNS}, {2 * COLUMNS, 2}, LP_WIDEN_AS_STORED},
                 {{COLUMNS, ROWS}, {ROWS, 1}, LP_WIDEN_TRANSPOSED},
                 {{COLUMNS, ROWS}, {1, COLUMNS}, LP_WIDEN_TRANSPOSED}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        bool turned = cases[c].order == LP_WIDEN_TRANSPOSED;
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < COLUMNS; j++)
                stored[turned ? j * cases[c].strides[0] + i * cases[c].strides[1]
                              : i * cases[c].strides[0] + j * cases[c].strides[1]] =
                    lp_f32_to_bf16((float)(i * 2 + j % 2));
        lp_tensor tensor = {.dtype = LP_BF16, .n_dims = 2, .data = (const unsigned char *)stored};
        memcpy(tensor.shape, cases[c].shape, sizeof cases[c].shape);
        memcpy(tensor.strides, cases[c].strides, sizeof cases[c].strides);
        lp_tensor_widen(&tensor, cases[c].order, LP_WIDEN_EXACT, found, COLUMNS + 3);
        for (int64_t i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < COLUMNS; j++)
                if (found[i * (COLUMNS + 3) + j] != (float)(i * 2 + j % 2))
                    fail_msg("case %zu: [%lld, %lld]: expected %g, found %g", c, (long long)i, (long long)j,
                             (double)(i * 2 + j % 2), (double)found[i * (COLUMNS + 3) + j]);
    }
    float exact[2] = {1.0f + 0x1p-12f, 3.0f};
    lp_tensor vector = {
        .dtype = LP_F32, .n_dims = 1, .shape = {2}, .strides = {1}, .data = (const unsigned char *)exact};
    lp_tensor_widen(&vector, LP_WIDEN_AS_STORED, LP_WIDEN_THROUGH_F16, found, 2);
    assert_true(found[0] == 1.0f && found[1] == 3.0f);
    free(stored);
    free(found);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file),   cmocka_unit_test(test_every_truncation_fails),
        cmocka_unit_test(test_bad_headers), cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_widening),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
