/* Readings: the place of a number in an answer, and the tokens of the two answers there. Answers of real runs are
 * compared with the reference implementation in test_patched_golden; here is what those do not hold. */
#include "patch/metric_position.h"

#include "base/file.h"
#include "support/golden.h"
#include "unit/outside_data.h"

enum { EOS = 268, MINUS_FIVE = 269 };

/* gpt2-ln's tokenizer with two tokens more: " -5", and one that is special. */
static lp_tokenizer *open_tokenizer(void) {
    static const char more[] =
        ",{\"id\":269,\"content\":\" -5\",\"single_word\":false,\"lstrip\":false,"
        "\"rstrip\":false,\"normalized\":false,\"special\":false},{\"id\":270,\"content\":\"<9>\","
        "\"single_word\":false,\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}";
    lp_text text = {0}, edited = {0};
    lp_tokenizer *tokenizer = NULL;
    OK(lp_file_read(LP_SOURCE_DIR "/tests/golden/models/gpt2-ln/base/tokenizer.json", 1 << 20, &text, err));
    const char *list = strstr(lp_text_get(&text), "\"added_tokens\"");
    assert_non_null(list);
    const char *close = strchr(list, ']');
    OK(lp_text_add(&edited, lp_text_get(&text), (size_t)(close - lp_text_get(&text)), err));
    OK(lp_text_add(&edited, more, strlen(more), err));
    OK(lp_text_add(&edited, close, strlen(close), err));
    OK(lp_tokenizer_parse(lp_text_get(&edited), edited.length, "edited", &tokenizer, err));
    lp_text_release(&text);
    lp_text_release(&edited);
    return tokenizer;
}

/* Token spellings, separated by blanks, to ids; "|" is the added token. */
static size_t ids_of(const lp_tokenizer *tokenizer, const char *spellings, int32_t out[32]) {
    size_t n = 0;
    for (const char *p = spellings; *p;) {
        char word[32];
        size_t length = strcspn(p, " ");
        memcpy(word, p, length);
        word[length] = '\0';
        out[n] = strcmp(word, "|") == 0     ? MINUS_FIVE
                 : strcmp(word, "eos") == 0 ? EOS
                                            : lp_tokenizer_find(tokenizer, word);
        if (out[n++] < 0) fail_msg("no token \"%s\"", word);
        p += length + (p[length] == ' ');
    }
    return n;
}

static void test_places(void **state) {
    (void)state;
    static const struct {
        const char *answer;
        const char *prefix; /* NULL: nothing to read */
        const char *clean, *corrupted;
    } cases[] = {
        {"", NULL, NULL, NULL},
        {"a b", NULL, NULL, NULL},
        {"<9> a", NULL, NULL, NULL}, /* a special token's digits are no text */
        {"12", "", "- 5 eos", "12 eos"},
        {"a 12", "a", "- 5 eos", "12 eos"},
        {"a \xc4\xa0"
         "1 2",
         "a", "| eos",
         "\xc4\xa0"
         "1 2 eos"}, /* lead: a blank */
        {"a |", "a", "| eos",
         "\xc4\xa0"
         "1 2 eos"},                         /* the lead's minus belongs to the number */
        {"a - 5", "a", "- 5 eos", "12 eos"}, /* the number begins with the minus, a token of its own */
        {"- 5", "", "- 5 eos", "12 eos"},
        {"a - a 5", "a - a", "- 5 eos", "12 eos"}, /* this minus is none of the number's */
        {"1 2", "", "- 5 eos", "12 eos"},
        {"<9> 12", "<9>", "- 5 eos", "12 eos"}, /* the prefix cannot be found again: the number alone */
    };
    lp_tokenizer *tokenizer = open_tokenizer();
    const lp_pair_metrics_options options = {
        .tokenizer = tokenizer, .eos = EOS, .clean_answer = -5, .corrupted_answer = 12};
    lp_pair_metrics metrics = {0}; /* used again and again */
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t answer[32], wanted[32];
        size_t n = ids_of(tokenizer, cases[i].answer, answer);
        OK(lp_pair_metrics_make(&options, answer, (int32_t)n, &metrics, err));
        if (metrics.usable != (cases[i].prefix != NULL))
            fail_msg("\"%s\": usable is %d", cases[i].answer, metrics.usable);
        if (!metrics.usable) continue;
        const lp_metric_position *r = &metrics.position;
        const struct {
            const char *what, *spellings;
            const int32_t *ids;
            int32_t n;
        } lists[] = {{"prefix", cases[i].prefix, r->prefix, r->index},
                     {"clean", cases[i].clean, r->clean.tokens, r->clean.n},
                     {"corrupted", cases[i].corrupted, r->corrupted.tokens, r->corrupted.n}};
        for (size_t k = 0; k < 3; k++) {
            n = ids_of(tokenizer, lists[k].spellings, wanted);
            bool same = n == (size_t)lists[k].n;
            for (size_t t = 0; same && t < n; t++) same = wanted[t] == lists[k].ids[t];
            if (!same) {
                for (int32_t t = 0; t < lists[k].n; t++) print_error(" %d", lists[k].ids[t]);
                print_error("\n");
                fail_msg("\"%s\": %s: expected \"%s\"", cases[i].answer, lists[k].what, lists[k].spellings);
            }
        }
        assert_false(r->whole_answers);
    }
    lp_pair_metrics_release(&metrics);
    lp_tokenizer_free(tokenizer);
}

/* The two tokenizers of the published models, with the ids that the Python package tokenizers gives these texts. */
static void test_negative_numbers(void **state) {
    (void)state;
    enum { MOST = 4, END = 0 };
    static const struct {
        const char *tokenizer, *answer;
        int32_t index, clean[MOST], corrupted[MOST]; /* END after the last; nothing before it: no such answer */
    } cases[] = {
        {"gpt2", "The answer is: -7", 4, {1105}, {532, 22}},
        {"gpt2", "The answer is: 12", 4, {1105}, {532, 22}},
        {"gpt2", "The answer is: $-7", 5, {1065}, {12, 22}},
        {"gpt2", "The answer is:-7", 3, {25, 1065}, {21912, 22}},
        {"gpt2", "x=12", 2, {1065}, {0}}, /* "x=-7" has another second token */
        {"llama3", "The answer is: -7", 4, {220, 717}, {482, 22}},
        {"llama3", "The answer is: 12", 5, {717}, {0}},
        {"llama3", "The answer is: $12", 5, {717}, {12, 22}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[1024];
        if (!outside_data(cases[i].tokenizer, path, sizeof path)) skip();
        lp_tokenizer *tokenizer = NULL;
        lp_token_list answer = {0};
        lp_pair_metrics metrics = {0};
        OK(lp_tokenizer_load(path, &tokenizer, err));
        OK(lp_tokenizer_encode(tokenizer, cases[i].answer, strlen(cases[i].answer), LP_TOKENS_PLAIN, &answer, err));
        const lp_pair_metrics_options options = {
            .tokenizer = tokenizer, .eos = END, .clean_answer = 12, .corrupted_answer = -7};
        OK(lp_pair_metrics_make(&options, answer.ids, (int32_t)answer.n, &metrics, err));
        const lp_metric_position *r = &metrics.position;
        assert_true(metrics.usable);
        if (r->index != cases[i].index)
            fail_msg("%s, %s: expected index %d, found %d", cases[i].tokenizer, cases[i].answer, cases[i].index,
                     r->index);
        for (int k = 0; k < 2; k++) {
            const int32_t *wanted = k ? cases[i].corrupted : cases[i].clean, *found;
            int32_t n = k ? r->corrupted.n : r->clean.n, n_wanted = 0;
            found = k ? r->corrupted.tokens : r->clean.tokens;
            while (wanted[n_wanted] != END) n_wanted++;
            n_wanted += n_wanted > 0; /* eos */
            if (n == n_wanted && (n == 0 || memcmp(found, wanted, (size_t)n * sizeof *found) == 0)) continue;
            for (int32_t t = 0; t < n; t++) print_error(" %d", found[t]);
            fail_msg("%s, %s: %s: expected %d tokens, %d first; found the above", cases[i].tokenizer, cases[i].answer,
                     k ? "corrupted" : "clean", n_wanted, wanted[0]);
        }
        lp_pair_metrics_release(&metrics);
        lp_token_list_release(&answer);
        lp_tokenizer_free(tokenizer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_places), cmocka_unit_test(test_negative_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
