/* Checking pair files: each defect on a pair made for it, the counts on the original study's files as an independent
 * reading of those files gives them, and what --fix writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "problems/pair_check.h"
#include "unit/outside_data.h"

#define PAIR(id, question, answer, solution, corrupted, other, change)                                                 \
    "{\"pair_id\": " id ", \"clean\": {\"question\": \"" question "\", \"answer\": " answer                            \
    ", \"full_answer\": \"" solution "\"}, \"corrupted\": {\"question\": \"" corrupted "\", \"answer\": " other        \
    ", \"changed_number\": \"" change "\"}}"
#define SUM  "<<5+7=12>>\\n#### 12"
#define GOOD PAIR("1", "A has 5 and B 7. Sum?", "12", SUM, "A has 6 and B 7. Sum?", "13", "5 -> 6")

static lp_pair_set parse(const char *text) {
    lp_pair_set set = {0};
    lp_error error = {0};
    lp_pairs_options options = {.mode = LP_PAIRS_AUDIT};
    if (lp_pairs_parse(text, strlen(text), "p", &options, &set, &error) != LP_OK) fail_msg("%s", error.text);
    return set;
}

static lp_check_report check(const lp_pair_set *set, const lp_check_options *options) {
    lp_check_report report = {0};
    lp_error error = {0};
    if (lp_pairs_check(set, options, &report, &error) != LP_OK) fail_msg("%s", error.text);
    return report;
}

static void each_defect(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t pair;
        const char *defects; /* of that pair, all of them */
    } cases[] = {
        {"[" GOOD "]", 0, ""},
        {"[" GOOD ", " GOOD "]", 1, "repeated-id repeated-pair "},
        {"[" GOOD ", " PAIR("2", "A has 5 and B 7. Sum?", "12", SUM, "A has 5 and B 8. Sum?", "13", "7 -> 8") "]", 1,
         "repeated-question "},
        {"[" PAIR("1", "A has 5 and B 7. Sum?", "12", SUM, "A has 6 and B 7. Sum?", "12", "5 -> 6") "]", 0,
         "equal-answers corrupted-answer "},
        {"[" PAIR("1", "A has 5 and B 7. Sum?", "12", SUM, "A has 6 and B 7. Sum?", "null", "5 -> 6") "]", 0,
         "missing-answer unverified "},
        {"[" PAIR("1", "A has 5 and B 7. Sum?", "11", SUM, "A has 6 and B 7. Sum?", "13", "5 -> 6") "]", 0,
         "clean-answer "},
        {"[" PAIR("1", "A has 5000 and B 7. Sum?", "5", "<<5000+7=5007>>\\n#### 5,007", "A has 6000 and B 7. Sum?",
                  "6007", "5000 -> 6000") "]",
         0, "cut-answer "},
        {"[" PAIR("1", "A has 5 and eats 7. Rest?", "-2", "<<5-7=-2>>\\n#### -2", "A has 6 and eats 7. Rest?", "-1",
                  "5 -> 6") "]",
         0, "negative-answer "},
        {"[" PAIR("1", "A has 5.5 and B 7. Sum?", "12.5", "<<5.5+7=12.5>>\\n#### 12.5", "A has 6.5 and B 7. Sum?",
                  "13.5", "5 -> 6") "]",
         0, "split-number fractional-answer "},
        {"[" PAIR("1", "A has 1/2 and B 7. Sum?", "7.5", "", "A has 1/3 and B 7. Sum?", "7", "2 -> 3") "]", 0,
         "split-fraction unverified fractional-answer "},
        {"[" PAIR("1", "A has 5 and B 7. Sum?", "12", SUM, "A has 6 and B 8. Sum?", "14", "5 -> 6") "]", 0,
         "other-change "},
        {"[" PAIR("1", "A has 5 and B 7. Sum?", "12", SUM, "C has 6 and B 7. Sum?", "13", "5 -> 6") "]", 0,
         "other-change unverified "},
        {"[" PAIR("1", "A has 5 and B 7. Sum?", "12", SUM, "A has 5 and B 7. Sum?", "13", "5 -> 6") "]", 0,
         "corrupted-answer unused-change "},
        {"[" PAIR("1", " ", "12", SUM, "A has 5 and B 7. Sum?", "13", "5 -> 6") "]", 0,
         "empty-question other-change unverified "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_pair_set set = parse(cases[i].text);
        lp_check_options options = {0};
        lp_check_report report = check(&set, &options);
        char found[400] = "";
        size_t used = 0;
        for (int d = 0; d < LP_N_DEFECTS; d++)
            if (report.found[cases[i].pair] & 1u << d)
                used += (size_t)snprintf(found + used, sizeof found - used, "%s ", lp_defect_name((lp_defect)d));
        if (strcmp(found, cases[i].defects) != 0)
            fail_msg("case %zu: expected \"%s\", found \"%s\"", i, cases[i].defects, found);
        lp_check_release(&report);
        lp_pairs_release(&set);
    }
}

static void fix_keeps_the_sound(void **state) {
    (void)state;
    const char *own =
        "{\"format\": \"latentpatch-pairs\", \"version\": 1, \"about\": \"x\", \"pairs\": [{\"id\": \"a\", \"notes\": "
        "\"kept\", \"clean\": {\"question\": \"5?\", \"answer\": 5}, \"corrupted\": {\"question\": \"6?\", \"answer\": 6}}, "
        "{\"id\": \"b\", \"clean\": {\"question\": \"7?\", \"answer\": 5}, \"corrupted\": {\"question\": \"8?\", \"answer\": 5}}]}";
    const char *const texts[] = {own, "[" GOOD ", " GOOD "]"};
    for (size_t i = 0; i < 2; i++) {
        lp_pair_set set = parse(texts[i]), fixed = {0};
        lp_check_options options = {0};
        lp_check_report report = check(&set, &options);
        lp_text out = {0};
        lp_error error = {0};
        assert_int_equal(report.n_sound, 1);
        if (lp_check_fix(&set, &report, "p", texts[i], strlen(texts[i]), &out, &error) != LP_OK)
            fail_msg("%s", error.text);
        lp_pairs_options strict = {0};
        if (lp_pairs_parse(lp_text_get(&out), out.length, "fixed", &strict, &fixed, &error) != LP_OK)
            fail_msg("%s", error.text);
        assert_int_equal(fixed.n, 1);
        assert_int_equal(fixed.format, LP_PAIRS_OWN);
        assert_string_equal(fixed.pairs[0].id, set.pairs[0].id);
        if (i == 0) assert_non_null(strstr(lp_text_get(&out), "\"about\": \"x\""));
        if (i == 0) assert_non_null(strstr(lp_text_get(&out), "\"notes\":\"kept\""));
        lp_text_release(&out);
        lp_check_release(&report);
        lp_pairs_release(&set);
        lp_pairs_release(&fixed);
    }
}

static void tokens(void **state) {
    (void)state;
    lp_tokenizer *tokenizer = NULL;
    lp_error error = {0};
    if (lp_tokenizer_load(LP_SOURCE_DIR "/tests/fixtures/tokenizer_gpt2.json", &tokenizer, &error) != LP_OK)
        fail_msg("%s", error.text);
    lp_pair_set set = parse("[" GOOD ", " PAIR("2", "A has 5 and B 9. Sum?", "14", "", "A has 500000 and B 9. Sum?",
                                               "15", "5 -> 500000") "]");
    lp_check_options options = {.tokenizers = {{"t", tokenizer}}, .n_tokenizers = 1};
    lp_check_report report = check(&set, &options);
    assert_int_equal(report.counts[LP_NOTE_TOKEN_COUNT], 1);
    assert_int_equal(report.first[LP_NOTE_TOKEN_COUNT], 1);
    assert_int_equal(report.n_sound, 2);
    size_t longest = report.max_tokens[0];
    lp_check_release(&report);
    options.tokens = LP_TOKENS_EQUAL;
    options.max_tokens = longest - 1;
    report = check(&set, &options);
    assert_int_equal(report.counts[LP_DEFECT_TOKEN_COUNT], 1);
    assert_true(report.counts[LP_DEFECT_TOO_LONG] >= 1);
    assert_false(lp_check_is_sound(&report, 1));
    lp_check_release(&report);
    lp_pairs_release(&set);
    lp_tokenizer_free(tokenizer);
}

/* Counted in those files by a Python script of their own: ids, answers, and what stands beside the changed digits. */
static void original_files(void **state) {
    (void)state;
    static const struct {
        const char *name;
        size_t n, repeated, equal, missing, cut, negative, split, fractional;
    } cases[] = {
        {"pairs_045_seed_run.json", 45, 0, 0, 0, 0, 0, 3, 7},
        {"pairs_045_before_fixes.json", 45, 0, 0, 0, 0, 0, 3, 8},
        {"pairs_532_gpt4.json", 532, 32, 111, 0, 5, 5, 28, 0},
        {"pairs_200_ranked.json", 200, 10, 34, 0, 0, 0, 9, 0},
        {"pairs_101_matched.json", 101, 5, 14, 0, 0, 0, 4, 0},
        {"pairs_043_cot_dependent.json", 43, 3, 6, 0, 0, 0, 2, 0},
        {"pairs_174_heuristic.json", 174, 0, 0, 82, 0, 2, 9, 0},
        {"pairs_232_heuristic.json", 232, 0, 0, 113, 1, 5, 10, 0},
        {"pairs_066_llama_corrected_flat.json", 66, 0, 9, 0, 0, 0, 0, 0},
    };
    char path[1024], name[200];
    if (!outside_data("cot_exploration/pairs", path, sizeof path)) skip();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_pair_set set = {0};
        lp_error error = {0};
        lp_pairs_options load = {.mode = LP_PAIRS_AUDIT};
        lp_check_options options = {0};
        snprintf(name, sizeof name, "cot_exploration/pairs/%s", cases[i].name);
        assert_true(outside_data(name, path, sizeof path));
        if (lp_pairs_load(path, &load, &set, &error) != LP_OK) fail_msg("%s", error.text);
        lp_check_report report = check(&set, &options);
        const size_t expected[] = {cases[i].n,   cases[i].repeated, cases[i].equal, cases[i].missing,
                                   cases[i].cut, cases[i].negative, cases[i].split, cases[i].fractional};
        const size_t found[] = {set.n,
                                report.counts[LP_DEFECT_REPEATED_ID],
                                report.counts[LP_DEFECT_EQUAL_ANSWERS],
                                report.counts[LP_DEFECT_MISSING_ANSWER],
                                report.counts[LP_DEFECT_CUT_ANSWER],
                                report.counts[LP_DEFECT_NEGATIVE_ANSWER],
                                report.counts[LP_DEFECT_SPLIT_NUMBER],
                                report.counts[LP_NOTE_FRACTIONAL_ANSWER]};
        for (size_t k = 0; k < sizeof found / sizeof found[0]; k++)
            if (found[k] != expected[k])
                fail_msg("%s: count %zu: expected %zu, found %zu", cases[i].name, k, expected[k], found[k]);
        lp_check_release(&report);
        lp_pairs_release(&set);
    }
}

/* Every question of GSM8K's test set is close to itself, and few are close to one of the training set. */
static void near_duplicates(void **state) {
    (void)state;
    char path[1024];
    if (!outside_data("gsm8k/test.jsonl", path, sizeof path)) skip();
    lp_pair_set set = parse("[" GOOD ", " PAIR(
        "2",
        "Janet\\u2019s ducks lay 99 eggs per day. She eats five for breakfast every "
        "morning and bakes muffins for her friends every day with 7. She sells the remainder at the "
        "farmers' market daily for $3 per fresh duck egg. How much in dollars does she make every day?",
        "1", "", "Janet", "2", "a -> b") "]");
    lp_check_options options = {.training_path = path, .training_format = LP_SOURCE_GSM8K};
    lp_check_report report = check(&set, &options);
    assert_int_equal(report.counts[LP_DEFECT_IN_TRAINING], 1);
    assert_int_equal(report.first[LP_DEFECT_IN_TRAINING], 1);
    lp_check_release(&report);
    lp_pairs_release(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_defect),    cmocka_unit_test(fix_keeps_the_sound), cmocka_unit_test(tokens),
        cmocka_unit_test(original_files), cmocka_unit_test(near_duplicates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
