/* JSON input: malformed text with its place, what cJSON would let through, and the getters' messages. */
#include "base/json_stream.h"

#include "base/output.h"

#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

static lp_status parse(const char *text, size_t size, cJSON **document, lp_json *root, lp_error *err) {
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    lp_status status = lp_json_parse(copy, size, "f.json", document, root, err);
    free(copy);
    return status;
}

#define BYTES(text) text, sizeof(text) - 1

static void test_malformed(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t size;
        const char *message;
    } cases[] = {
        {BYTES(""), "f.json:1:1: malformed JSON"},
        {BYTES("   "), "f.json:1:"},
        {BYTES("{"), "f.json:1:"},
        {BYTES("{\n \"a\": 1,\n \"b\": x\n}"), "f.json:3:7: malformed JSON"},
        {BYTES("{\"a\": 1\n \"b\": 2}"), "f.json:2:2: malformed JSON"},
        {BYTES("[1, 2,, 3]"), "f.json:1:7: malformed JSON"},
        {BYTES("[1, 064]"), "f.json:1:5: malformed JSON: a number"},
        {BYTES("{\"a\": 64.}"), "f.json:1:7: malformed JSON: a number"},
        {BYTES("[.5]"), "f.json:1:2: malformed JSON: a number"},
        {BYTES("[+5]"), "f.json:1:2: malformed JSON: a number"},
        {BYTES("[1e]"), "f.json:1:2: malformed JSON: a number"},
        {BYTES("[-]"), "f.json:1:2: malformed JSON: a number"},
        {BYTES("[1.2.3]"), "f.json:1:2: malformed JSON: a number"},
        {BYTES("[1, 2,]"), "f.json:1:"},
        {BYTES("nul"), "f.json:1:1: malformed JSON"},
        {BYTES("'a'"), "f.json:1:1: malformed JSON"},
        {BYTES("\"a"), "f.json:1:2: malformed JSON"},
        {BYTES("\"\\x\""), "f.json:1:"},
        {BYTES("\"\\ud800\""), "f.json:1:"},
        {BYTES("{} {}"), "f.json:1:4: text after the end of the JSON value"},
        {BYTES("{}\n\n  x"), "f.json:3:3: text after the end of the JSON value"},
        {BYTES("1\0"), "f.json:1:2: a NUL byte in JSON text"},
        {BYTES("{\"a\0b\": 1}"), "f.json:1:4: a NUL byte in JSON text"},
        {BYTES("{\n\"a\\u0000b\": 1}"), "f.json:2:3: a NUL character (\\u0000) in JSON text"},
        {BYTES("\"\xff\""), "f.json:1:2: not valid UTF-8 (byte 0xff)"},
        {BYTES("\n\"\xc3\""), "f.json:2:2: not valid UTF-8 (byte 0xc3)"},
        {BYTES("{\"a\": 1, \"b\": 2, \"a\": 3}"), "f.json: the key \"a\" occurs twice in one object"},
        {BYTES("[[{\"a\": 1, \"\\u0061\": 3}]]"), "f.json: the key \"a\" occurs twice in one object"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cJSON *document = NULL;
        lp_json root;
        lp_error err = {0};
        lp_status status = parse(cases[i].text, cases[i].size, &document, &root, &err);
        if (status != LP_ERR_FORMAT || strncmp(err.text, cases[i].message, strlen(cases[i].message)) != 0)
            fail_msg("case %zu %s: expected \"%s\", found %s \"%s\"", i, cases[i].text, cases[i].message,
                     lp_status_name(status), err.text);
        assert_null(document);
    }
}

static void test_accepted(void **state) {
    (void)state;
    static const char *const cases[] = {" {}\t\r\n",     "[\"\\\\u0000\"]",
                                        "[\"\\\"[[[\"]", "\"\\ud83d\\ude42\"",
                                        "-1.5e3",        "{\"a\":{\"a\":[{\"a\":1},{\"a\":1}]}}",
                                        "null"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        cJSON *document = NULL;
        lp_json root;
        lp_error err = {0};
        if (parse(cases[i], strlen(cases[i]), &document, &root, &err) != LP_OK) fail_msg("%s: %s", cases[i], err.text);
        assert_string_equal(root.path, "$");
        cJSON_Delete(document);
    }
}

/* Releases of cJSON differ in how many characters of a number they read. */
static void test_long_numbers(void **state) {
    (void)state;
    static const int lengths[] = {62, 63, 64, 65, 300, 400};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char text[2048], wrong[1024], digits[401] = {0};
        cJSON *document = NULL;
        lp_json root;
        lp_error err = {0};
        for (int k = 0; k < lengths[i]; k++) digits[k] = (char)('1' + k % 9);
        int size = snprintf(text, sizeof text, "[-%s,%s,0.%s, \"%s\"]", digits, digits, digits + 10, digits);
        if (parse(text, (size_t)size, &document, &root, &err) != LP_OK) fail_msg("%s: %s", text, err.text);
        assert_true(cJSON_GetArrayItem(document, 0)->valuedouble == -strtod(digits, NULL));
        assert_true(cJSON_GetArrayItem(document, 1)->valuedouble == strtod(digits, NULL));
        digits[8] = '0';
        digits[9] = '.';
        assert_true(cJSON_GetArrayItem(document, 2)->valuedouble == strtod(digits + 8, NULL));
        digits[8] = '9';
        digits[9] = '1';
        assert_string_equal(cJSON_GetArrayItem(document, 3)->valuestring, digits);
        cJSON_Delete(document);
        document = NULL;
        size = snprintf(wrong, sizeof wrong, "[%s,\n%s x]", digits, digits);
        assert_int_equal(parse(wrong, (size_t)size, &document, &root, &err), LP_ERR_FORMAT);
        snprintf(text, sizeof text, "f.json:2:%d: malformed JSON", lengths[i] + 2);
        assert_string_equal(err.text, text);
    }
}

static void test_depth(void **state) {
    (void)state;
    char text[2 * LP_JSON_MAX_DEPTH + 3];
    for (size_t depth = LP_JSON_MAX_DEPTH; depth <= LP_JSON_MAX_DEPTH + 1; depth++) {
        cJSON *document = NULL;
        lp_json root;
        lp_error err = {0};
        memset(text, '[', depth);
        memset(text + depth, ']', depth);
        lp_status status = parse(text, 2 * depth, &document, &root, &err);
        assert_int_equal(status, depth == LP_JSON_MAX_DEPTH ? LP_OK : LP_ERR_FORMAT);
        if (status != LP_OK) assert_string_equal(err.text, "f.json: JSON nested deeper than 64");
        cJSON_Delete(document);
    }
}

/* RFC 3629's table of well-formed sequences, at its edges. */
static void test_utf8(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        int bad; /* -1: valid */
    } cases[] = {{BYTES(""), -1},
                 {BYTES("a\x7f"), -1},
                 {BYTES("\xc2\x80\xdf\xbf"), -1},
                 {BYTES("\xe0\xa0\x80\xef\xbf\xbf"), -1},
                 {BYTES("\xed\x9f\xbf\xee\x80\x80"), -1},
                 {BYTES("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"), -1},
                 {BYTES("a\x80"), 1},
                 {BYTES("\xc1\xbf"), 0},
                 {BYTES("\xc0\x80"), 0},
                 {BYTES("\xe0\x9f\xbf"), 0},
                 {BYTES("\xed\xa0\x80"), 0},
                 {BYTES("\xf0\x8f\xbf\xbf"), 0},
                 {BYTES("\xf4\x90\x80\x80"), 0},
                 {BYTES("\xf5\x80\x80\x80"), 0},
                 {BYTES("ab\xe2\x82"), 2},
                 {BYTES("\xe2\x28\xa1"), 0},
                 {BYTES("\xfe"), 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t at = 99;
        bool valid = lp_utf8_valid(cases[i].bytes, cases[i].size, &at);
        if (valid != (cases[i].bad < 0) || (!valid && at != (size_t)cases[i].bad))
            fail_msg("case %zu: expected %d, found %d at %zu", i, cases[i].bad, valid, at);
    }
}

static void test_getters(void **state) {
    (void)state;
    static const char text[] =
        "{\"s\":\"x\",\"i\":7,\"big\":9007199254740993,\"f\":1.5,\"t\":true,\"n\":null,\"a\":[10,[20,30]],"
        "\"o\":{\"k\":\"v\",\"l\":1}}";
    static const char *const choices[] = {"w", "x", NULL};
    static const char *const keys[] = {"k", NULL};
    cJSON *document = NULL;
    lp_json root, v, e;
    lp_error err = {0};
    const char *s = NULL;
    int64_t i = 0;
    double f = 0;
    bool b = false;
    int choice = -1;
    size_t n = 0;
    assert_int_equal(parse(text, strlen(text), &document, &root, &err), LP_OK);
#define GET(key) assert_int_equal(lp_json_get(&root, key, &v, &err), LP_OK)
#define FAILS(call, message)                                                                                           \
    do {                                                                                                               \
        assert_int_equal((call), LP_ERR_VALUE);                                                                        \
        assert_string_equal(err.text, message);                                                                        \
    } while (0)
    GET("s");
    assert_int_equal(lp_json_string(&v, &s, &err), LP_OK);
    assert_string_equal(s, "x");
    assert_int_equal(lp_json_choice(&v, choices, &choice, &err), LP_OK);
    assert_int_equal(choice, 1);
    FAILS(lp_json_int(&v, 0, 9, &i, &err), "f.json: $.s: expected an integer from 0 to 9, found \"x\"");
    GET("i");
    assert_int_equal(lp_json_int(&v, 7, 7, &i, &err), LP_OK);
    assert_int_equal(i, 7);
    FAILS(lp_json_int(&v, 8, 9, &i, &err), "f.json: $.i: expected an integer from 8 to 9, found 7");
    FAILS(lp_json_string(&v, &s, &err), "f.json: $.i: expected a string, found 7");
    FAILS(lp_json_choice(&v, choices, &choice, &err), "f.json: $.i: expected one of \"w\", \"x\", found 7");
    FAILS(lp_json_bool(&v, &b, &err), "f.json: $.i: expected true or false, found 7");
    GET("big");
    assert_int_equal(lp_json_int(&v, 0, INT64_MAX, &i, &err), LP_OK); /* 2^53 + 1 reads as 2^53 */
    GET("f");
    assert_int_equal(lp_json_number(&v, 1, 2, &f, &err), LP_OK);
    assert_true(f == 1.5);
    FAILS(lp_json_int(&v, 0, 9, &i, &err), "f.json: $.f: expected an integer from 0 to 9, found 1.5");
    FAILS(lp_json_number(&v, 2, 3, &f, &err), "f.json: $.f: expected a number from 2 to 3, found 1.5");
    GET("t");
    assert_int_equal(lp_json_bool(&v, &b, &err), LP_OK);
    assert_true(b);
    FAILS(lp_json_number(&v, 0, 1, &f, &err), "f.json: $.t: expected a number from 0 to 1, found true");
    FAILS(lp_json_get(&root, "n", &v, &err), "f.json: $: the key \"n\" is missing");
    assert_int_equal(lp_json_find(&root, "n", &v, &err), LP_OK);
    assert_null(v.node);
    FAILS(lp_json_get(&root, "S", &v, &err), "f.json: $: the key \"S\" is missing");
    GET("a");
    assert_int_equal(lp_json_array_size(&v, &n, &err), LP_OK);
    assert_int_equal(n, 2);
    assert_int_equal(lp_json_at(&v, 1, &e, &err), LP_OK);
    FAILS(lp_json_string(&e, &s, &err), "f.json: $.a[1]: expected a string, found [20,30]");
    lp_json_first(&v, &e);
    assert_string_equal(e.path, "$.a[0]");
    lp_json_next(&v, &e);
    assert_string_equal(e.path, "$.a[1]");
    lp_json inner;
    lp_json_first(&e, &inner);
    lp_json_next(&e, &inner);
    assert_string_equal(inner.path, "$.a[1][1]");
    lp_json_next(&e, &inner);
    assert_null(inner.node);
    FAILS(lp_json_find(&v, "k", &e, &err), "f.json: $.a: expected an object, found [10,[20,30]]");
    GET("o");
    lp_json_first(&v, &e);
    assert_string_equal(e.path, "$.o.k");
    lp_json_next(&v, &e);
    assert_string_equal(e.path, "$.o.l");
    FAILS(lp_json_only(&v, keys, &err), "f.json: $.o: unknown key \"l\" (known: k)");
    FAILS(lp_json_array_size(&v, &n, &err), "f.json: $.o: expected an array, found {\"k\":\"v\",\"l\":1}");
    GET("s");
    FAILS(lp_json_only(&v, keys, &err), "f.json: $.s: expected an object, found \"x\"");
    lp_json none = {.file = "f.json", .path = "$.z"};
    FAILS(lp_json_string(&none, &s, &err), "f.json: $.z: expected a string, found nothing");
    cJSON_Delete(document);
}

/* Text of a hostile file cannot forge lines or overrun the message. */
static void test_long_values(void **state) {
    (void)state;
    char text[1200] = "{\"";
    memset(text + 2, 'k', 500);
    memcpy(text + 502, "\":\"", 4);
    size_t used = strlen(text);
    memset(text + used, 'v', 500);
    memcpy(text + used + 500, "\"}", 3);
    cJSON *document = NULL;
    lp_json root, v;
    lp_error err = {0};
    int64_t i = 0;
    assert_int_equal(parse(text, strlen(text), &document, &root, &err), LP_OK);
    lp_json_first(&root, &v);
    assert_int_equal(lp_json_int(&v, 0, 1, &i, &err), LP_ERR_VALUE);
    assert_true(strlen(err.text) < 200);
    assert_non_null(strstr(err.text, "vvv..."));
    cJSON_Delete(document);
    static const char newline[] = "{\"a\":\"x\\nf.json: forged\"}";
    assert_int_equal(parse(newline, sizeof newline - 1, &document, &root, &err), LP_OK);
    lp_json_first(&root, &v);
    assert_int_equal(lp_json_int(&v, 0, 1, &i, &err), LP_ERR_VALUE);
    assert_null(strchr(err.text, '\n'));
    cJSON_Delete(document);
}

static void test_load(void **state) {
    (void)state;
    cJSON *document = NULL;
    lp_json root;
    lp_error err = {0};
    assert_int_equal(lp_json_load("test_json.none", 100, &document, &root, &err), LP_ERR_IO);
    assert_string_equal(err.text, "test_json.none: cannot open: No such file or directory");
    assert_int_equal(lp_output_write("test_json.tmp", "[1,\n2,\n!]", 9, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_json_load("test_json.tmp", 8, &document, &root, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "test_json.tmp: too large: 9 bytes, at most 8");
    assert_int_equal(lp_json_load("test_json.tmp", 9, &document, &root, &err), LP_ERR_FORMAT);
    assert_string_equal(err.text, "test_json.tmp:3:1: malformed JSON");
    assert_int_equal(unlink("test_json.tmp"), 0);
}

/* A text of very many values takes 40 times its size as a tree: refused before any of it is made. */
static void test_memory_of_dense_text(void **state) {
    (void)state;
    enum { N = 4 << 20 };
    lp_error err = {0};
    cJSON *document = NULL;
    lp_json root;
    char *text = malloc(2 * N + 2);
    assert_non_null(text);
    text[0] = '[';
    for (size_t i = 0; i < N; i++) memcpy(text + 1 + 2 * i, "1,", 2);
    text[2 * N] = ']';
    assert_int_equal(lp_json_parse(text, 2 * N + 1, "f", &document, &root, &err), LP_ERR_FORMAT);
    assert_non_null(strstr(err.text, "f: 8388609 bytes of JSON of so many small values that they need "));
    assert_non_null(strstr(err.text, "expected at most 100663308 (12 for each byte)"));
    /* The same length of text with fewer values. */
    memset(text + 1, ' ', 2 * N - 1);
    if (lp_json_parse(text, 2 * N + 1, "f", &document, &root, &err) != LP_OK) fail_msg("%s", err.text);
    cJSON_Delete(document);
    free(text);
}

/* What is left out of the tree costs no tree, keeps its place for messages, and is read value by value. */
static void test_around(void **state) {
    (void)state;
    static const char text[] =
        "{\"a\": {\"list\": [\"x\\\"]\", \"\\u00e9\\ud83d\\ude00\\n\",\n 1, [2]], \"map\": {\"k\": 3e0}},\n"
        " \"b\": {\"list\": [4]}}";
    lp_json_cut cuts[] = {
        {.parent = "a", .key = "list"}, {.parent = "a", .key = "map"}, {.parent = "c", .key = "list"}};
    lp_json_stream stream = {0};
    lp_error err = {0};
    cJSON *document = NULL;
    lp_json root, a, b, part;
    size_t n = 0;
    double number = 0;
    bool more = false;
    if (lp_json_parse_around(text, strlen(text), "f", cuts, 3, &document, &root, &err) != LP_OK)
        fail_msg("%s", err.text);
    assert_int_equal(lp_json_get(&root, "a", &a, &err), LP_OK);
    assert_int_equal(lp_json_get(&a, "list", &part, &err), LP_OK);
    assert_int_equal(lp_json_array_size(&part, &n, &err), LP_OK);
    assert_int_equal(n, 0);
    assert_int_equal(lp_json_get(&root, "b", &b, &err), LP_OK);
    assert_int_equal(lp_json_get(&b, "list", &part, &err), LP_OK);
    assert_int_equal(lp_json_array_size(&part, &n, &err), LP_OK);
    assert_int_equal(n, 1);
    assert_int_equal(cuts[2].end, 0);
    lp_json_stream_begin(&stream, text, "f", &cuts[0]);
    static const char *const strings[] = {"x\"]", "\xc3\xa9\xf0\x9f\x98\x80\n"};
    for (size_t i = 0; i < 2; i++) {
        assert_true(lp_json_stream_more(&stream, &more, &err) == LP_OK && more && lp_json_stream_at_string(&stream));
        assert_int_equal(lp_json_stream_string(&stream, &err), LP_OK);
        assert_string_equal(lp_text_get(&stream.string), strings[i]);
    }
    assert_true(lp_json_stream_more(&stream, &more, &err) == LP_OK && more && !lp_json_stream_at_string(&stream));
    assert_true(lp_json_stream_number(&stream, &number) && number == 1);
    assert_true(lp_json_stream_more(&stream, &more, &err) == LP_OK && more && !lp_json_stream_number(&stream, &number));
    assert_int_equal(lp_json_stream_string(&stream, &err), LP_ERR_FORMAT);
    assert_string_equal(err.text, "f:2:5: malformed JSON");
    assert_true(lp_json_stream_take(&stream, '[') && lp_json_stream_number(&stream, &number) && number == 2);
    assert_true(lp_json_stream_take(&stream, ']'));
    assert_true(lp_json_stream_more(&stream, &more, &err) == LP_OK && !more);
    lp_json_stream_begin(&stream, text, "f", &cuts[1]);
    assert_true(lp_json_stream_more(&stream, &more, &err) == LP_OK && more);
    assert_int_equal(lp_json_stream_string(&stream, &err), LP_OK);
    assert_true(lp_json_stream_take(&stream, ':') && lp_json_stream_number(&stream, &number) && number == 3);
    assert_true(lp_json_stream_more(&stream, &more, &err) == LP_OK && !more);
    lp_json_stream_release(&stream);
    cJSON_Delete(document);
    /* The syntax of what is left out counts when it is read. */
    static const char *const bad[] = {"[\"\\x\"]", "[\"\\ud83d\"]", "[\"\\udc00\"]", "[\"\t\"]", "[\"a\" \"b\"]",
                                      "[0x1]",     "[,\"a\"]",      "[\"a\"}]",      "[\"a\",]"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        lp_json_cut all = {.end = strlen(bad[i])};
        lp_status status = LP_OK;
        lp_json_stream_begin(&stream, bad[i], "f", &all);
        for (more = true; status == LP_OK && more;) {
            status = lp_json_stream_more(&stream, &more, &err);
            if (status == LP_OK && more) status = lp_json_stream_string(&stream, &err);
        }
        if (status != LP_ERR_FORMAT) fail_msg("%s was read", bad[i]);
    }
    lp_json_stream_release(&stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_malformed),
                                       cmocka_unit_test(test_accepted),
                                       cmocka_unit_test(test_long_numbers),
                                       cmocka_unit_test(test_depth),
                                       cmocka_unit_test(test_utf8),
                                       cmocka_unit_test(test_getters),
                                       cmocka_unit_test(test_long_values),
                                       cmocka_unit_test(test_load),
                                       cmocka_unit_test(test_memory_of_dense_text),
                                       cmocka_unit_test(test_around)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
