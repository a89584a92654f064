/* Protocols: which ids steer a run, prompts, answer starts, and what is refused. Prompts of real questions are compared
 * with the reference implementation in test_golden. */
#include "thought/protocol.h"

#include "base/file.h"
#include "support/golden.h"
#include "thought/reference.h"

static void test_vocabulary(void **state) {
    (void)state;
    /* llama-rope3's config.json lists two eos ids; tokenizer_config.json's token is the second. */
    golden_model m;
    lp_vocabulary v;
    lp_error error = {0};
    golden_model_open("llama-rope3", &m);
    int32_t n = m.model.config.n_vocab;
    assert_int_equal(m.model.config.eos_id, 257);
    assert_int_equal(m.vocabulary.eos, 258);
    assert_int_equal(m.vocabulary.pad, n);
    assert_int_equal(m.vocabulary.bot, n + 1);
    assert_int_equal(m.vocabulary.eot, n + 2);
    assert_int_equal(m.vocabulary.n_candidates, n + 2);
    const char *spelling = lp_tokenizer_spelling(m.tokenizer, 257);
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, spelling, &v, err));
    assert_int_equal(v.eos, 257);
    OK(lp_vocabulary_init(&m.model, m.tokenizer, "no/such/folder", NULL, &v, err));
    assert_int_equal(v.eos, 257); /* config.json's first */
    assert_int_equal(lp_vocabulary_init(&m.model, m.tokenizer, m.base, "<none>", &v, &error), LP_ERR_VALUE);
    assert_string_equal(error.text, "decode.eos: \"<none>\" is not a token of the tokenizer");
    lp_model bare = m.model;
    bare.is_codi = false;
    OK(lp_vocabulary_init(&bare, m.tokenizer, m.base, NULL, &v, err));
    assert_int_equal(v.n_candidates, n);
    assert_int_equal(v.eot, -1);
    bare.config.eos_id = -1;
    assert_int_equal(lp_vocabulary_init(&bare, m.tokenizer, "no/such/folder", NULL, &v, &error), LP_ERR_VALUE);
    assert_non_null(strstr(error.text, "no/such/folder: no end-of-sequence token: expected eos_token in"));
    bare.config.eos_id = n;
    assert_int_equal(lp_vocabulary_init(&bare, m.tokenizer, "no/such/folder", NULL, &v, &error), LP_ERR_VALUE);
    golden_model_close(&m);
}

static void test_tokenizer_config(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int32_t eos; /* < 0: refused */
        const char *message;
    } cases[] = {{"{\"eos_token\": {\"content\": \"<|bos|>\", \"lstrip\": false}}", 256, NULL},
                 {"{\"eos_token\": null}", 257, NULL},
                 {"{}", 257, NULL},
                 {"{\"eos_token\": \"</s>\"}", -1, "eos_token \"</s>\" is not a token of tokenizer.json"},
                 {"{\"eos_token\": 5}", -1, "$.eos_token: expected a string, found 5"},
                 {"{", -1, "malformed JSON"}};
    golden_model m;
    golden_model_open("llama-rope3", &m);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_vocabulary v = {0};
        lp_error error = {0};
        OK(lp_path_make_folder_for("test_protocol.dir/x", err));
        OK(lp_file_write("test_protocol.dir/tokenizer_config.json", cases[i].text, strlen(cases[i].text), err));
        lp_status status = lp_vocabulary_init(&m.model, m.tokenizer, "test_protocol.dir", NULL, &v, &error);
        if (cases[i].message) {
            assert_int_not_equal(status, LP_OK);
            if (!strstr(error.text, cases[i].message))
                fail_msg("expected ...%s, found %s", cases[i].message, error.text);
        } else {
            assert_int_equal(status, LP_OK);
            assert_int_equal(v.eos, cases[i].eos);
        }
    }
    golden_model_close(&m);
    assert_int_equal(remove("test_protocol.dir/tokenizer_config.json"), 0);
    assert_int_equal(remove("test_protocol.dir"), 0);
}

static void prompt_of(const golden_model *m, lp_protocol protocol, const char *question, lp_token_list *out) {
    OK(lp_protocol_prompt(&protocol, &m->model, m->tokenizer, &m->vocabulary, question, out, err));
}

static void check_same(const lp_token_list *a, const lp_token_list *b) {
    assert_int_equal(a->n, b->n);
    if (a->n) assert_memory_equal(a->ids, b->ids, a->n * sizeof *a->ids);
}

static void test_prompts(void **state) {
    (void)state;
    golden_model m;
    golden_model_open("llama-gqa", &m);
    lp_token_list plain = {0}, other = {0};
    lp_protocol bot_first = golden_protocol("bot-first", 6);
    prompt_of(&m, bot_first, "7 pens?", &plain);
    assert_int_equal(plain.ids[0], m.model.config.bos_id);
    /* codi adds [eos] bot behind the same tokens. */
    prompt_of(&m, golden_protocol("codi", 6), "7 pens?", &other);
    assert_int_equal(other.ids[other.n - 1], m.vocabulary.bot);
    other.n--;
    check_same(&plain, &other);
    prompt_of(&m, golden_protocol("codi-eos", 6), "7 pens?", &other);
    assert_int_equal(other.ids[other.n - 1], m.vocabulary.bot);
    assert_int_equal(other.ids[other.n - 2], m.vocabulary.eos);
    other.n -= 2;
    check_same(&plain, &other);
    /* Python: question.strip().replace("  ", " ") */
    static const char *const spaces[][2] = {
        {" \t7 pens? \n", "7 pens?"}, {"7  pens?", "7 pens?"},      {"7   pens?", "7  pens?"},
        {"7    pens?", "7  pens?"},   {"7\t\tpens?", "7\t\tpens?"}, {"\u3000\u00a07 pens?\u2003\u00a0", "7 pens?"}};
    lp_protocol normalising = bot_first;
    normalising.normalise_spaces = true;
    for (size_t i = 0; i < sizeof spaces / sizeof spaces[0]; i++) {
        prompt_of(&m, normalising, spaces[i][0], &other);
        prompt_of(&m, bot_first, spaces[i][1], &plain);
        check_same(&plain, &other);
    }
    prompt_of(&m, bot_first, "7  pens?", &other);
    prompt_of(&m, bot_first, "7 pens?", &plain);
    assert_true(plain.n != other.n);
    golden_model_close(&m);

    golden_model_open("gpt2-ln", &m);
    lp_error error = {0};
    assert_int_equal(lp_protocol_prompt(&bot_first, &m.model, m.tokenizer, &m.vocabulary, "", &other, &error),
                     LP_ERR_VALUE);
    assert_string_equal(error.text, "the question has no tokens");
    lp_model small = m.model;
    small.config.n_vocab = 10;
    assert_int_equal(lp_protocol_prompt(&bot_first, &small, m.tokenizer, &m.vocabulary, "abc", &other, &error),
                     LP_ERR_MISMATCH);
    assert_non_null(strstr(error.text, "but the model's vocabulary has 10 tokens"));
    golden_model_close(&m);
    lp_token_list_release(&plain);
    lp_token_list_release(&other);
}

static void test_answer_start(void **state) {
    (void)state;
    const lp_vocabulary v = {.pad = 10, .bot = 11, .eot = 12, .eos = 3, .n_candidates = 12};
    lp_protocol protocol = {.remove_eos = true};
    int32_t ids[2];
    assert_int_equal(lp_protocol_answer_start(&protocol, &v, ids), 1);
    assert_int_equal(ids[0], 12);
    protocol.remove_eos = false;
    assert_int_equal(lp_protocol_answer_start(&protocol, &v, ids), 2);
    assert_int_equal(ids[0], 12);
    assert_int_equal(ids[1], 3);
}

/* A run that does not fit is refused before it starts, to the position. */
static void test_longest_run(void **state) {
    (void)state;
    golden_model m;
    golden_model_open("gpt2-ln", &m);
    lp_protocol protocol = golden_protocol("codi", 6);
    lp_reference *reference = NULL;
    OK(lp_reference_new(&m.model, &protocol, &m.vocabulary, 20, &reference, err));
    const int32_t prompt[10] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    int32_t tokens[8];
    lp_run_answer answer;
    lp_error error = {0};
    lp_run_request request = {.prompt = prompt, .n_prompt = 10, .n_steps = 6, .max_new_tokens = 4};
    OK(lp_reference_run(reference, &request, tokens, &answer, err));
    request.max_new_tokens = 5;
    assert_int_equal(lp_reference_run(reference, &request, tokens, &answer, &error), LP_ERR_VALUE);
    assert_string_equal(error.text, "run of 10 prompt + 6 thought + 5 answer positions: expected at most 20 in all");
    request.n_steps = 5;
    OK(lp_reference_run(reference, &request, tokens, &answer, err));
    request.n_prompt = 0;
    assert_int_equal(lp_reference_run(reference, &request, tokens, &answer, &error), LP_ERR_VALUE);
    lp_reference_free(reference);
    golden_model_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_vocabulary), cmocka_unit_test(test_tokenizer_config),
                                       cmocka_unit_test(test_prompts), cmocka_unit_test(test_answer_start),
                                       cmocka_unit_test(test_longest_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
