/* The pair file reader: both kinds of file, every refusal with its text, and writing back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "pairs/pairs.h"
#include "problems/pair_write.h"
#include "unit/outside_data.h"

#include <math.h>

#define HEAD "{\"format\": \"latentpatch-pairs\", \"version\": 1, \"pairs\": "
#define SIDES                                                                                                          \
    "\"clean\": {\"question\": \"2 and 3?\", \"answer\": 5}, \"corrupted\": {\"question\": \"2 and 4?\", \"answer\": 6}"
#define PAIR(id) "{\"id\": " id ", " SIDES "}"
#define ORIGINAL(id, corrupted)                                                                                        \
    "{\"pair_id\": " id ", \"clean\": {\"question\": \"2 and 3?\", \"answer\": 5, \"full_answer\": \"<<2+3=5>>\"}, "   \
    "\"corrupted\": {\"question\": \"2 and 4?\", \"answer\": " corrupted                                               \
    ", \"changed_number\": \"3 -> 4\"}, \"notes\": \"\"}"
#define ROW(id, variant, answer)                                                                                       \
    "{\"pair_id\": " id ", \"variant\": \"" variant "\", \"question\": \"" variant "?\", \"answer\": " answer          \
    ", \"reasoning_steps\": 2, \"needs_cot\": true}"

static lp_status parse(const char *text, const lp_pairs_options *options, lp_pair_set *out, lp_error *err) {
    return lp_pairs_parse(text, strlen(text), "p.json", options, out, err);
}

static void own_format(void **state) {
    (void)state;
    const char *text = HEAD "[" PAIR(
        "\"a\"") ", {\"id\": 7, \"source\": \"train#3\", \"index\": 3, \"steps\": 2, "
                 "\"change\": {\"from\": \"3\", \"to\": \"4\"}, \"split\": \"tune\", \"template\": \"t\", "
                 "\"tokens\": {\"gpt2\": [5, 5]}, \"notes\": \"n\", \"graph\": [{\"equation\": \"2+3\", "
                 "\"clean\": \"5\", \"corrupted\": \"6\", \"uses\": [0]}], \"clean\": {\"question\": \"q\\u00e9\", "
                 "\"answer\": -0.5, \"solution\": \"s\"}, \"corrupted\": {\"question\": \"r\", \"answer\": 1e3}}]}";
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {0};
    if (parse(text, &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(set.n, 2);
    assert_int_equal(set.format, LP_PAIRS_OWN);
    assert_string_equal(set.pairs[0].id, "a");
    assert_string_equal(set.pairs[0].source, "a");
    assert_null(set.pairs[0].change_from);
    assert_int_equal(set.pairs[0].n_steps, -1);
    assert_string_equal(set.pairs[1].id, "7");
    assert_string_equal(set.pairs[1].source, "train#3");
    assert_string_equal(set.pairs[1].change_to, "4");
    assert_int_equal(set.pairs[1].n_steps, 2);
    assert_int_equal(set.pairs[1].split, LP_SPLIT_TUNE);
    assert_string_equal(set.pairs[1].clean.question, "q\xc3\xa9");
    assert_true(set.pairs[1].clean.answer == -0.5);
    assert_true(set.pairs[1].corrupted.answer == 1000);
    lp_pairs_release(&set);
    lp_pairs_release(&set);
}

/* Pairs of one template are not independent: it is their source where none is given. */
static void template_is_the_source(void **state) {
    (void)state;
    const char *text = HEAD "[" PAIR("1") ", {\"id\": 2, \"template\": \"t\", " SIDES "}]}";
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {0};
    if (parse(text, &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_string_equal(set.pairs[0].source, "1");
    assert_string_equal(set.pairs[1].source, "t");
    lp_pairs_release(&set);
}

static void digest_is_of_the_bytes(void **state) {
    (void)state;
    /* sha256sum of the text. */
    const char *text = HEAD "[" PAIR("1") "]}";
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {0};
    assert_int_equal(parse(text, &options, &set, &error), LP_OK);
    assert_string_equal(set.digest, "c0ca9547e84fe0d6f1ef12ba15f4ce52884b4f30477f7ea45f8d89ea6f91a921");
    lp_pairs_release(&set);
}

static void original_formats(void **state) {
    (void)state;
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {0};
    if (parse("[" ORIGINAL("12", "6") "]", &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(set.format, LP_PAIRS_ORIGINAL);
    assert_string_equal(set.pairs[0].id, "12");
    assert_string_equal(set.pairs[0].change_from, "3");
    assert_string_equal(set.pairs[0].change_to, "4");
    assert_string_equal(set.pairs[0].clean.solution, "<<2+3=5>>");
    lp_pairs_release(&set);
    const char *flat = "[" ROW("3", "corrupted", "9") ", " ROW("5", "clean", "1") ", " ROW("3", "clean", "8") ", " ROW(
        "5", "corrupted", "2") "]";
    if (parse(flat, &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(set.format, LP_PAIRS_ORIGINAL_FLAT);
    assert_int_equal(set.n, 2);
    assert_string_equal(set.pairs[0].id, "5");
    assert_string_equal(set.pairs[1].id, "3");
    assert_true(set.pairs[1].clean.answer == 8 && set.pairs[1].corrupted.answer == 9);
    assert_int_equal(set.pairs[1].n_steps, 2);
    lp_pairs_release(&set);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {HEAD "[]}", "p.json: $.pairs: expected at least one pair, found []"},
        {"[]", "p.json: $: expected at least one pair, found []"},
        {"3", "expected a pair file"},
        {"[3]", "p.json: $[0]: expected a pair (an object), found 3"},
        {"", "p.json:1:1: malformed JSON"},
        {"{\"format\": \"other\", \"version\": 1, \"pairs\": []}", "$.format: expected one of \"latentpatch-pairs\""},
        {"{\"format\": \"latentpatch-pairs\", \"version\": 2, \"pairs\": []}",
         "$.version: expected an integer from 1 to 1"},
        {"{\"version\": 1}", "the key \"format\" is missing"},
        {HEAD "[" PAIR("1") "], \"extra\": 1}", "$: unknown key \"extra\""},
        {HEAD "[{\"id\": 1, \"colour\": 2, " SIDES "}]}", "$.pairs[0]: unknown key \"colour\""},
        {HEAD "[{\"id\": 1, \"source\": null, " SIDES "}]}", "$.pairs[0].source: expected a value"},
        {HEAD "[{" SIDES "}]}", "$.pairs[0]: the key \"id\" is missing"},
        {HEAD "[" PAIR("\" \"") "]}", "$.pairs[0].id: expected an integer"},
        {HEAD "[" PAIR("\"a\\tb\"") "]}", "$.pairs[0].id: expected an integer"},
        {HEAD "[" PAIR("1.5") "]}", "$.pairs[0].id: expected an integer"},
        {HEAD "[" PAIR("-1") "]}", "$.pairs[0].id: expected an integer"},
        {HEAD "[" PAIR("7") ", " PAIR("8") ", " PAIR("\"7\"") "]}",
         "p.json: the id \"7\" occurs twice: $.pairs[0] and $.pairs[2]"},
        {HEAD "[{\"id\": 1, \"clean\": {\"question\": \" \\n\", \"answer\": 1}, \"corrupted\": {\"question\": \"q\", "
              "\"answer\": 2}}]}",
         "$.pairs[0].clean.question: expected a question that is not empty"},
        {HEAD "[{\"id\": 1, \"clean\": {\"question\": \"q\", \"answer\": 1}, \"corrupted\": {\"question\": \"r\"}}]}",
         "$.pairs[0].corrupted.answer: expected a number as answer, found nothing"},
        {HEAD "[{\"id\": 1, \"clean\": {\"question\": \"q\", \"answer\": 1e999}, \"corrupted\": {\"question\": \"r\", "
              "\"answer\": 2}}]}",
         "$.pairs[0].clean.answer: expected a number from -1e+15 to 1e+15"},
        {HEAD "[{\"id\": 1, \"clean\": {\"question\": \"q\", \"answer\": \"5\"}, \"corrupted\": {\"question\": \"r\", "
              "\"answer\": 2}}]}",
         "$.pairs[0].clean.answer: expected a number"},
        {HEAD "[{\"id\": \"x\", \"clean\": {\"question\": \"q\", \"answer\": 5}, \"corrupted\": {\"question\": \"r\", "
              "\"answer\": 5}}]}",
         "$.pairs[0]: pair \"x\" has the answers 5 and 5, which count as one"},
        {HEAD "[{\"id\": \"x\", \"clean\": {\"question\": \"q\", \"answer\": 33}, \"corrupted\": {\"question\": \"r\", "
              "\"answer\": 33.005}}]}",
         "$.pairs[0]: pair \"x\" has the answers 33 and 33.005, which count as one"},
        {HEAD "[{\"id\": 1, \"tokens\": {\"a\": [1]}, " SIDES "}]}", "$.pairs[0].tokens.a: expected two counts"},
        {HEAD "[{\"id\": 1, \"split\": \"dev\", " SIDES "}]}", "$.pairs[0].split: expected one of \"tune\", \"test\""},
        {HEAD "[{\"id\": 1, \"change\": {\"from\": \"1\"}, " SIDES "}]}",
         "$.pairs[0].change: the key \"to\" is missing"},
        {HEAD "[" PAIR("1") "]", "malformed JSON"},
        {HEAD "[{\"id\": 1, \"clean\": {\"question\": \"a\\u0000b\", \"answer\": 5}}]}", "a NUL character"},
        {HEAD "[{\"id\": \"\xff\"}]}", "not valid UTF-8 (byte 0xff)"},
        {"[" ORIGINAL("1", "null") "]", "$[0].corrupted.answer: expected a number as answer, found nothing"},
        {"[" ORIGINAL("1", "6") ", " ORIGINAL("1", "6") "]", "the id \"1\" occurs twice: $[0] and $[1]"},
        {"[" ORIGINAL("1", "5") "]", "pairs.equal_answers \"allow\""},
        {"[" ROW("1", "clean", "5") "]", "$[0]: the clean row of pair_id 1 has no partner"},
        {"[" ROW("1", "clean", "5") ", " ROW("1", "clean", "6") "]", "pair_id 1 has two clean rows: $[0] and $[1]"},
        {"[{\"variant\": \"clean\", \"question\": \"q\", \"answer\": 1}]", "$[0]: the key \"pair_id\" is missing"},
    };
    lp_pairs_options options = {0};
    size_t live = lp_mem_count().live_bytes;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_pair_set set = {.n = 99};
        lp_error error = {0};
        if (parse(cases[i].text, &options, &set, &error) == LP_OK) fail_msg("accepted: %s", cases[i].text);
        if (!strstr(error.text, cases[i].message))
            fail_msg("%s\n  expected: %s\n  found:    %s", cases[i].text, cases[i].message, error.text);
        assert_int_equal(set.n, 99);
        assert_int_equal(lp_mem_count().live_bytes, live);
    }
}

static void equal_answers_allowed(void **state) {
    (void)state;
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {.equal_answers = LP_EQUAL_ANSWERS_ALLOW};
    if (parse("[" ORIGINAL("1", "5") "]", &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    lp_pairs_release(&set);
}

static void audit_keeps_defects(void **state) {
    (void)state;
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {.mode = LP_PAIRS_AUDIT};
    const char *text = "[" ORIGINAL("1", "null") ", " ORIGINAL("1", "5") "]";
    if (parse(text, &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(set.n, 2);
    assert_true(isnan(set.pairs[0].corrupted.answer));
    lp_pairs_release(&set);
    const char *flat = "[" ROW("1", "clean", "null") ", " ROW("2", "clean", "1") ", " ROW("1", "corrupted", "2") "]";
    if (parse(flat, &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(set.n, 1);
    assert_int_equal(set.n_unpaired, 1);
    lp_pairs_release(&set);
}

/* What is written is read back the same, in each form. */
static void round_trip(void **state) {
    (void)state;
    const char *text =
        "[{\"pair_id\": 12, \"clean\": {\"question\": \"\\\"2\\\"\\n\\\\ \\t3?\", \"answer\": 0.1}, \"corrupted\": "
        "{\"question\": \"2 4\", \"answer\": 1234567, \"changed_number\": \"3 -> 4\"}}]";
    lp_pairs_options options = {0};
    lp_error error = {0};
    for (int form = LP_PAIRS_OWN; form <= LP_PAIRS_ORIGINAL_FLAT; form++) {
        lp_pair_set first = {0}, second = {0};
        lp_text out = {0};
        if (parse(text, &options, &first, &error) != LP_OK) fail_msg("%s", error.text);
        lp_pairs_print_options print = {.format = (lp_pairs_format)form, .source = "s", .seed = -1};
        if (lp_pairs_print(&first, &print, &out, &error) != LP_OK) fail_msg("%s", error.text);
        if (parse(lp_text_get(&out), &options, &second, &error) != LP_OK) fail_msg("form %d: %s", form, error.text);
        assert_int_equal(second.n, 1);
        assert_int_equal(second.format, form);
        assert_string_equal(second.pairs[0].id, "12");
        assert_string_equal(second.pairs[0].clean.question, first.pairs[0].clean.question);
        assert_true(second.pairs[0].clean.answer == 0.1 && second.pairs[0].corrupted.answer == 1234567);
        if (form != LP_PAIRS_ORIGINAL_FLAT) assert_string_equal(second.pairs[0].change_to, "4");
        lp_text_release(&out);
        lp_pairs_release(&first);
        lp_pairs_release(&second);
    }
}

/* The seed's own 45 pairs load as they are; the 532 say which id is repeated. */
static void outside_files(void **state) {
    (void)state;
    char path[1024];
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {0};
    if (!outside_data("cot_exploration/pairs/pairs_045_seed_run.json", path, sizeof path)) skip();
    if (lp_pairs_load(path, &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(set.n, 45);
    lp_pairs_release(&set);
    assert_true(outside_data("cot_exploration/pairs/pairs_532_gpt4.json", path, sizeof path));
    assert_int_not_equal(lp_pairs_load(path, &options, &set, &error), LP_OK);
    assert_non_null(strstr(error.text, "the id \"300\" occurs twice: $[268] and $[300]"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_format),
        cmocka_unit_test(template_is_the_source),
        cmocka_unit_test(digest_is_of_the_bytes),
        cmocka_unit_test(original_formats),
        cmocka_unit_test(refusals),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(equal_answers_allowed),
        cmocka_unit_test(outside_files),
        cmocka_unit_test(audit_keeps_defects),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
