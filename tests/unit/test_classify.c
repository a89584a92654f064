/* The outcome classifiers against cases whose values come from Python (tests/classify_cases.py), and, where the
 * outside data is, against what the original experiments recorded.
 *
 *   test_classify [CASES.jsonl]      with another case file in place of the committed one
 */
#include "pairs/classify.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "unit/outside_data.h"

#include <math.h>
#include <setjmp.h>

#include <cmocka.h>

static const char *cases_path = LP_SOURCE_DIR "/tests/fixtures/classify_cases.jsonl";

enum { SHOWN = 10 };

static int n_wrong;
static size_t n_checked;

static void begin(void) {
    n_wrong = 0;
    n_checked = 0;
}

static lp_outcome outcome_named(const char *name) {
    if (strcmp(name, "other_coherent") == 0) return LP_OTHER;
    for (int i = 0; i < LP_N_OUTCOMES; i++)
        if (strcmp(name, lp_outcome_names[i]) == 0) return (lp_outcome)i;
    fail_msg("no outcome is called \"%s\"", name);
    return LP_OTHER;
}

static const char *text_of(const cJSON *row, const char *key) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, key);
    if (!cJSON_IsString(value)) fail_msg("the row has no text \"%s\"", key);
    return value->valuestring;
}

/* The extracted number of a row: a number, or null for none. */
static bool number_of(const cJSON *row, const char *key, double *number) {
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(row, key);
    if (!cJSON_IsNumber(value) && !cJSON_IsNull(value)) fail_msg("the row has no number \"%s\"", key);
    *number = cJSON_IsNumber(value) ? value->valuedouble : 0;
    return cJSON_IsNumber(value);
}

static void check(const char *where, lp_classifier classifier, const char *text, double clean, double corrupted,
                  bool has_number, double number, const char *outcome) {
    lp_answer_outcome got = lp_classify(classifier, text, strlen(text), clean, corrupted);
    n_checked++;
    bool good = got.has_number == has_number && (!has_number || got.number == number) &&
                (!outcome || got.outcome == outcome_named(outcome));
    if (good || ++n_wrong > SHOWN) return;
    print_error("%s: %s: \"%s\" (clean %.17g, corrupted %.17g)\n  expected %s %.17g %s\n  found    %s %.17g %s\n",
                where, lp_classifier_names[classifier], text, clean, corrupted, has_number ? "number" : "none", number,
                outcome ? outcome : "", got.has_number ? "number" : "none", got.number, lp_outcome_names[got.outcome]);
}

/* Python writes infinite numbers as no JSON does; a number that overflows says the same. */
static void read_python_json(const char *path, lp_text *text) {
    lp_error error = {0};
    if (lp_file_read(path, (size_t)1 << 28, text, &error) != LP_OK) fail_msg("%s", error.text);
    for (char *at = text->data; (at = strstr(at, ": Infinity")) != NULL;) memcpy(at, ":    1e999", 10);
}

typedef void (*row_check)(const char *where, const cJSON *row);

static void for_each_line(const char *path, row_check check_row) {
    lp_error error = {0};
    lp_text text = {0};
    read_python_json(path, &text);
    size_t number = 0;
    for (char *line = text.data, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        char where[400];
        snprintf(where, sizeof where, "%.300s:%zu", path, ++number);
        cJSON *document = NULL;
        lp_json root;
        if (lp_json_parse(line, (size_t)(end - line), where, &document, &root, &error) != LP_OK)
            fail_msg("%s", error.text);
        check_row(where, document);
        cJSON_Delete(document);
    }
    lp_text_release(&text);
}

static void check_case(const char *where, const cJSON *row) {
    double number = 0, clean = 0, corrupted = 0;
    bool has_number = number_of(row, "number", &number);
    number_of(row, "clean", &clean);
    number_of(row, "corrupted", &corrupted);
    lp_classifier classifier =
        strcmp(text_of(row, "classifier"), "codi") == 0 ? LP_CLASSIFIER_CODI : LP_CLASSIFIER_SEED;
    check(where, classifier, text_of(row, "text"), clean, corrupted, has_number, number, text_of(row, "outcome"));
}

static void test_cases_from_python(void **state) {
    (void)state;
    begin();
    for_each_line(cases_path, check_case);
    print_message("%zu cases from Python, %d wrong\n", n_checked, n_wrong);
    assert_true(n_checked >= 900);
    assert_int_equal(n_wrong, 0);
}

static void check_golden(const char *where, const cJSON *row) {
    double number = 0, clean = 18, corrupted = 20;
    bool has_number = number_of(row, "extracted", &number);
    const cJSON *edge = cJSON_GetObjectItemCaseSensitive(row, "class_if_clean18_corrupted20");
    if (!edge) {
        number_of(row, "clean", &clean);
        number_of(row, "corrupted", &corrupted);
    }
    check(where, LP_CLASSIFIER_SEED, text_of(row, "text"), clean, corrupted, has_number, number,
          edge ? edge->valuestring : text_of(row, "class"));
}

static void test_golden_cases(void **state) {
    (void)state;
    char path[1024];
    begin();
    if (!outside_data("cot_exploration/reference/classify_golden.jsonl", path, sizeof path)) skip();
    for_each_line(path, check_golden);
    if (!outside_data("cot_exploration/reference/extract_edge_cases.jsonl", path, sizeof path)) skip();
    for_each_line(path, check_golden);
    print_message("%zu golden cases, %d wrong\n", n_checked, n_wrong);
    assert_int_equal(n_checked, 235 + 76);
    assert_int_equal(n_wrong, 0);
}

/* One run of a result file: its text, the number found in it and whether that was right. */
static void check_run(const char *where, const cJSON *run, const char *text_key, const char *number_key) {
    double number = 0, expected = 0;
    bool has_number = number_of(run, number_key, &number);
    number_of(run, "expected", &expected);
    check(where, LP_CLASSIFIER_SEED, text_of(run, text_key), expected, NAN, has_number, number, NULL);
    bool correct = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(run, "correct"));
    bool matches = has_number && lp_answers_match(LP_CLASSIFIER_SEED, number, expected);
    if (matches != correct && ++n_wrong <= SHOWN)
        print_error("%s: %.17g for %.17g: expected %s, found %s\n", where, number, expected,
                    correct ? "right" : "wrong", matches ? "right" : "wrong");
}

static cJSON *load(const char *name) {
    char path[1024];
    lp_error error = {0};
    lp_json root;
    lp_text text = {0};
    cJSON *document = NULL;
    if (!outside_data(name, path, sizeof path)) return NULL;
    read_python_json(path, &text);
    if (lp_json_parse(text.data, text.length, path, &document, &root, &error) != LP_OK) fail_msg("%s", error.text);
    lp_text_release(&text);
    return document;
}

static void check_patched(const char *where, const cJSON *pair) {
    const cJSON *clean = cJSON_GetObjectItemCaseSensitive(pair, "clean");
    const cJSON *corrupted = cJSON_GetObjectItemCaseSensitive(pair, "corrupted");
    const cJSON *layer = NULL;
    double clean_answer = 0, corrupted_answer = 0, number = 0;
    check_run(where, clean, "generated", "extracted");
    check_run(where, corrupted, "generated", "extracted");
    number_of(clean, "expected", &clean_answer);
    number_of(corrupted, "expected", &corrupted_answer);
    cJSON_ArrayForEach(layer, cJSON_GetObjectItemCaseSensitive(pair, "patched")) {
        bool has_number = number_of(layer, "extracted", &number);
        check(where, LP_CLASSIFIER_SEED, text_of(layer, "generated"), clean_answer, corrupted_answer, has_number,
              number, text_of(layer, "classification"));
    }
}

static void test_recorded_outcomes(void **state) {
    (void)state;
    static const char *const files[] = {"gpt2/both_correct_1tok",  "gpt2/ablation_2tok",  "gpt2/ablation_3tok",
                                        "gpt2/ablation_4tok",      "gpt2/ablation_5tok",  "gpt2/ablation_6tok_all",
                                        "llama/both_correct_1tok", "llama/ablation_1tok", "llama/ablation_2tok",
                                        "llama/ablation_3tok",     "llama/ablation_4tok", "llama/ablation_5tok",
                                        "llama/ablation_6tok"};
    char name[200];
    const cJSON *pair = NULL;
    begin();
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(name, sizeof name, "cot_exploration/results/%s.json", files[i]);
        cJSON *document = load(name);
        if (!document) skip();
        cJSON_ArrayForEach(pair, cJSON_GetObjectItemCaseSensitive(document, "valid_results"))
            check_patched(files[i], pair);
        cJSON_Delete(document);
    }
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "cot_exploration/results/%s/baseline_532.json", i ? "llama" : "gpt2");
        cJSON *document = load(name);
        if (!document) skip();
        cJSON_ArrayForEach(pair, cJSON_GetObjectItemCaseSensitive(document, "results")) {
            check_run(name, cJSON_GetObjectItemCaseSensitive(pair, "clean"), "output", "predicted");
            check_run(name, cJSON_GetObjectItemCaseSensitive(pair, "corrupted"), "output", "predicted");
        }
        cJSON_Delete(document);
    }
    print_message("%zu recorded texts, %d wrong\n", n_checked, n_wrong);
    assert_true(n_checked > 2128 + 800);
    assert_int_equal(n_wrong, 0);
}

static void test_match(void **state) {
    (void)state;
    static const struct {
        double a, b;
        bool seed, codi;
    } cases[] = {
        {17, 17, true, true},        {17, 17.009, true, false},    {17, 17.01, false, false},
        {17.02, 17.01, true, false}, {0.01, 0, false, false},      {17, 17.02, false, false},
        {-3, 3, false, false},       {0.0, -0.0, true, true},      {NAN, NAN, false, false},
        {NAN, 17, false, false},     {INFINITY, 17, false, false}, {INFINITY, INFINITY, false, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool seed = lp_answers_match(LP_CLASSIFIER_SEED, cases[i].a, cases[i].b);
        bool codi = lp_answers_match(LP_CLASSIFIER_CODI, cases[i].a, cases[i].b);
        if (seed != cases[i].seed || codi != cases[i].codi)
            fail_msg("%g and %g: expected seed %d codi %d, found %d %d", cases[i].a, cases[i].b, cases[i].seed,
                     cases[i].codi, seed, codi);
    }
}

/* Bytes that no code point begins with, and a NUL, are characters like any other that is no digit and no letter. */
static void test_odd_bytes(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t length;
        bool has_number;
        double number;
        lp_outcome outcome;
    } cases[] = {
        {"\xff\xfe\x80\x80\x80\x80\x80\x80\x80\x80\x80", 11, false, 0, LP_GIBBERISH},
        {"answer is\x80 17", 13, true, 17, LP_CLEAN_ANSWER},
        {"1\xe2\x80", 3, true, 1, LP_OTHER},
        {"12\0"
         "17",
         5, true, 17, LP_CLEAN_ANSWER},
        {"17\x80\x80\x80\x80\x80", 7, true, 17, LP_CLEAN_ANSWER},
        {"\xd9\xa1\xd9", 3, true, 1, LP_OTHER},
        {"17", 1, true, 1, LP_OTHER},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_answer_outcome got = lp_classify(LP_CLASSIFIER_SEED, cases[i].text, cases[i].length, 17, 20);
        if (got.has_number != cases[i].has_number || got.number != cases[i].number || got.outcome != cases[i].outcome)
            fail_msg("case %zu: expected %d %g %s, found %d %g %s", i, cases[i].has_number, cases[i].number,
                     lp_outcome_names[cases[i].outcome], got.has_number, got.number, lp_outcome_names[got.outcome]);
    }
}

static void test_answer_text(void **state) {
    (void)state;
    static const struct {
        double answer;
        const char *text;
    } cases[] = {
        {17, "17"},
        {97.5, "97.5"},
        {-3, "-3"},
        {0, "0"},
        {-0.0, "-0"},
        {100, "100"},
        {1234567, "1234567"},
        {0.1, "0.1"},
        {0.30000000000000004, "0.30000000000000004"},
        {1.0 / 3, "0.3333333333333333"},
        {9.33, "9.33"},
        {0.00001, "0.00001"},
        {999999999999999, "999999999999999"},
        {999999999999999.9, "999999999999999.9"},
        {100000000000000, "100000000000000"},
        {-0.00000012345678901234566, "-0.00000012345678901234566"},
        {1e15, "1e+15"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {-2.2250738585072014e-308, "-2.2250738585072014e-308"},
        {5e-324, "5e-324"},
        {INFINITY, "inf"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[LP_ANSWER_TEXT];
        lp_answer_text(cases[i].answer, text);
        if (strcmp(text, cases[i].text) != 0 || strtod(text, NULL) != cases[i].answer)
            fail_msg("%.17g: expected %s, found %s", cases[i].answer, cases[i].text, text);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) cases_path = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cases_from_python), cmocka_unit_test(test_golden_cases),
        cmocka_unit_test(test_recorded_outcomes), cmocka_unit_test(test_match),
        cmocka_unit_test(test_odd_bytes),         cmocka_unit_test(test_answer_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
