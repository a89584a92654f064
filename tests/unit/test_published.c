/* Published per-pair files: the kinds that there are, what is refused, and that class counts of the real files (outside
 * data) are those of the table that was recomputed from them independently. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/text.h"
#include "stage/published.h"

#include <stdio.h>
#include <stdlib.h>

#define LAYER(class, text) "{\"classification\": \"" class "\", \"generated\": \"" text "\"}"
#define PATCHED                                                                                                        \
    "{\"early\": " LAYER("gibberish", "/") ", \"middle\": " LAYER("clean_answer", "5") ", \"late\": " LAYER(           \
        "other_coherent", "no NaN") "}"
#define PAIR                                                                                                           \
    "{\"pair_id\": 7, \"clean\": {\"generated\": \"5\"}, \"corrupted\": {\"generated\": \"6\"}, \"patched\": " PATCHED \
    "}"

static void patching_is_read(void **state) {
    (void)state;
    static const char text[] =
        "{\"valid_results\": [" PAIR "], \"config\": {\"tokens_patched\": 3}, \"x\": [Infinity, -Infinity, NaN]}";
    lp_published p = {0};
    lp_error err = {0};
    if (lp_published_parse(text, sizeof text - 1, "f", &p, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(p.kind, LP_PUBLISHED_PATCHING);
    assert_int_equal(p.n_tokens, 3);
    assert_int_equal(p.n, 1);
    assert_string_equal(p.pairs[0].id, "7");
    assert_string_equal(p.pairs[0].text[1], "6");
    const int classes[] = {3, 0, 2};
    for (int l = 0; l < LP_PUBLISHED_LAYERS; l++) assert_int_equal(p.pairs[0].outcome[l], classes[l]);
    assert_string_equal(p.pairs[0].patched[2], "no NaN");
    assert_ptr_equal(lp_published_find(&p, "7"), &p.pairs[0]);
    assert_null(lp_published_find(&p, "8"));
    lp_published_release(&p);
}

static void other_kinds_are_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        lp_published_kind kind;
        bool correct[2], ablated[2];
    } cases[] = {
        {"[{\"pair_id\": 1, \"clean_baseline_correct\": true, \"clean_ablated_correct\": false, "
         "\"corrupted_baseline_correct\": false, \"corrupted_ablated_correct\": true}]",
         LP_PUBLISHED_NECESSITY,
         {true, false},
         {false, true}},
        {"{\"results\": [{\"pair_id\": 1, \"clean\": {\"baseline_correct\": false, \"ablated_correct\": true}, "
         "\"corrupted\": {\"baseline_correct\": true, \"ablated_correct\": false}}]}",
         LP_PUBLISHED_NECESSITY,
         {false, true},
         {true, false}},
        {"{\"results\": [{\"pair_id\": 1, \"both_correct\": false, \"clean\": {\"output\": \"a\", \"correct\": true}, "
         "\"corrupted\": {\"output\": \"b\", \"correct\": false}}]}",
         LP_PUBLISHED_BASELINE,
         {true, false},
         {false, false}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_published p = {0};
        lp_error err = {0};
        if (lp_published_parse(cases[i].text, strlen(cases[i].text), "f", &p, &err) != LP_OK)
            fail_msg("case %zu: %s", i, err.text);
        assert_int_equal(p.kind, cases[i].kind);
        for (int k = 0; k < 2; k++) {
            assert_int_equal(p.pairs[0].correct[k], cases[i].correct[k]);
            assert_int_equal(p.pairs[0].ablated[k], cases[i].ablated[k]);
        }
        lp_published_release(&p);
    }
}

static void bad_files_are_refused(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{}", "f: $: expected per-pair results"},
        {"[]", "at least one pair"},
        {"{\"valid_results\": [], \"config\": {\"tokens_patched\": 7}}", "$.config.tokens_patched"},
        {"{\"valid_results\": [{\"pair_id\": 1.5}]}", "$.valid_results[0].pair_id"},
        {"[{\"pair_id\": 1, \"clean_baseline_correct\": 1}]", "$[0].clean_baseline_correct"},
        {"[{\"pair_id\": Infinity}]", "$[0]: the key \"pair_id\" is missing"},
        {"[{\"pair_id\": \"Infinity", "malformed JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_published p = {0};
        lp_error err = {0};
        assert_int_not_equal(lp_published_parse(cases[i].text, strlen(cases[i].text), "f", &p, &err), LP_OK);
        if (!strstr(err.text, cases[i].message))
            fail_msg("case %zu: expected \"%s\", found \"%s\"", i, cases[i].message, err.text);
        assert_null(p.pairs);
    }
}

/* ---- Outside data ------------------------------------------------------------------------------------------------ */

static bool results_folder(char *out, size_t size) {
    const char *data = getenv("LATENTPATCH_TEST_DATA");
    snprintf(out, size, "%s/cot_exploration/results", data ? data : LP_SOURCE_DIR "/../shared/data");
    return lp_path_look(out) == LP_PATH_FOLDER;
}

/* One line of the table: model,file,layer,n,clean,corrupted,other,gibberish,... */
static void check_line(const char *folder, const char *line) {
    char model[16], file[64], layer[16], path[1024];
    int n = 0, counts[4] = {0}, found[4] = {0}, at = -1;
    if (sscanf(line, "%15[^,],%63[^,],%15[^,],%d,%d,%d,%d,%d", model, file, layer, &n, &counts[0], &counts[1],
               &counts[2], &counts[3]) != 8)
        fail_msg("bad line: %s", line);
    for (int l = 0; l < LP_PUBLISHED_LAYERS; l++)
        if (strcmp(layer, lp_published_layers[l]) == 0) at = l;
    assert_int_not_equal(at, -1);
    snprintf(path, sizeof path, "%s/%s/%s.json", folder, model, file);
    if (lp_path_look(path) != LP_PATH_FILE) return;
    lp_published p = {0};
    lp_error err = {0};
    if (lp_published_load(path, &p, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(p.n, n);
    for (size_t i = 0; i < p.n; i++) found[p.pairs[i].outcome[at]]++;
    for (int k = 0; k < 4; k++)
        if (found[k] != counts[k])
            fail_msg("%s, %s, class %d: expected %d, found %d", path, layer, k, counts[k], found[k]);
    lp_published_release(&p);
}

static void published_counts_are_the_recomputed_ones(void **state) {
    (void)state;
    char folder[512], path[600];
    lp_text text = {0};
    lp_error err = {0};
    int n = 0;
    if (!results_folder(folder, sizeof folder)) {
        print_message("skipped: no outside data\n");
        skip();
    }
    snprintf(path, sizeof path, "%s/recomputed_tables.csv", folder);
    if (lp_file_read(path, 1 << 20, &text, &err) != LP_OK) fail_msg("%s", err.text);
    char *line = strchr(text.data, '\n');
    while (line && line[1]) {
        char *next = strchr(++line, '\n');
        if (next) *next = '\0';
        check_line(folder, line);
        n++;
        line = next;
    }
    if (n < 30) fail_msg("expected at least 30 lines in %s, found %d", path, n);
    lp_text_release(&text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(patching_is_read),
        cmocka_unit_test(other_kinds_are_read),
        cmocka_unit_test(bad_files_are_refused),
        cmocka_unit_test(published_counts_are_the_recomputed_ones),
    };
    return cmocka_run_group_tests_name("published", tests, NULL, NULL);
}
