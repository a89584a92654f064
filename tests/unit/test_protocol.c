/* Protocols: which ids steer a run, prompts, answer starts, and what is refused. Prompts of real questions are compared
 * with the reference implementation in test_golden. */
#include "thought/protocol.h"

#include "base/output.h"
#include "support/golden.h"
#include "thought/reference.h"

/* Under codi; a model without CODI parts continues its prompt. */
static lp_status init(const lp_model *model, const lp_tokenizer *tokenizer, const char *base, const char *eos,
                      lp_vocabulary *out, lp_error *err) {
    lp_protocol protocol = model->has_thoughts ? lp_protocol_preset(LP_PROTOCOL_CODI, 6) : lp_protocol_plain();
    return lp_vocabulary_init(model, tokenizer, base, eos, &protocol, out, err);
}

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
    OK(init(&m.model, m.tokenizer, m.base, spelling, &v, err));
    assert_int_equal(v.eos, 257);
    OK(init(&m.model, m.tokenizer, "no/such/folder", NULL, &v, err));
    assert_int_equal(v.eos, 257); /* config.json's first is scored, and each of them ends an answer */
    assert_int_equal(v.n_stop, 2);
    assert_true(lp_vocabulary_stops(&v, 257) && lp_vocabulary_stops(&v, 258));
    assert_int_equal(init(&m.model, m.tokenizer, m.base, "<none>", &v, &error), LP_ERR_VALUE);
    assert_string_equal(error.text, "decode.eos: \"<none>\" is not a token of the tokenizer");
    lp_model bare = m.model;
    bare.has_thoughts = false;
    OK(init(&bare, m.tokenizer, m.base, NULL, &v, err));
    assert_int_equal(v.n_candidates, n);
    assert_int_equal(v.eot, -1);
    bare.config.n_eos = 0;
    assert_int_equal(init(&bare, m.tokenizer, "no/such/folder", NULL, &v, &error), LP_ERR_VALUE);
    assert_non_null(strstr(error.text, "no/such/folder: no end-of-sequence token: expected eos_token in"));
    bare.config.n_eos = 1;
    bare.config.eos_ids[0] = n;
    assert_int_equal(init(&bare, m.tokenizer, "no/such/folder", NULL, &v, &error), LP_ERR_VALUE);
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
        OK(lp_output_write("test_protocol.dir/tokenizer_config.json", cases[i].text, strlen(cases[i].text),
                           LP_OUTPUT_OWN, err));
        lp_status status = init(&m.model, m.tokenizer, "test_protocol.dir", NULL, &v, &error);
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

static void write_config(const char *name, const char *text) {
    char path[80];
    snprintf(path, sizeof path, "test_ends.dir/%s", name);
    if (text)
        OK(lp_output_write(path, text, strlen(text), LP_OUTPUT_OWN, err));
    else
        assert_int_equal(remove(path), 0);
}

/* Which files say what ends an answer, and which of them counts. */
static void test_ends(void **state) {
    (void)state;
    golden_model m;
    lp_vocabulary v;
    lp_error error = {0};
    golden_model_open("llama-rope3", &m);
    OK(lp_path_make_folder_for("test_ends.dir/x", err));
    write_config("generation_config.json", "{\"eos_token_id\": [258, 256, 97]}");
    OK(init(&m.model, m.tokenizer, "test_ends.dir", NULL, &v, err));
    assert_int_equal(v.eos, 258);
    assert_int_equal(v.n_stop, 3);
    assert_true(lp_vocabulary_stops(&v, 258) && lp_vocabulary_stops(&v, 256) && lp_vocabulary_stops(&v, 97));
    write_config("generation_config.json", "{\"eos_token_id\": 97}");
    OK(init(&m.model, m.tokenizer, "test_ends.dir", NULL, &v, err));
    assert_int_equal(v.n_stop, 1);
    write_config("generation_config.json", "{\"eos_token_id\": [97, 100000]}");
    assert_int_not_equal(init(&m.model, m.tokenizer, "test_ends.dir", NULL, &v, &error), LP_OK);
    assert_non_null(strstr(error.text, "generation_config.json: $.eos_token_id[1]: expected an integer from 0 to"));
    /* The tokenizer's own token alone, whichever of its two files names it. */
    write_config("special_tokens_map.json", "{\"eos_token\": {\"content\": \"<|eot|>\"}}");
    OK(init(&m.model, m.tokenizer, "test_ends.dir", NULL, &v, err));
    assert_int_equal(v.eos, 258);
    assert_int_equal(v.n_stop, 1);
    write_config("tokenizer_config.json", "{\"eos_token\": \"<|eot|>\"}");
    OK(init(&m.model, m.tokenizer, "test_ends.dir", NULL, &v, err));
    write_config("tokenizer_config.json", "{\"eos_token\": \"<|end_of_text|>\"}");
    assert_int_equal(init(&m.model, m.tokenizer, "test_ends.dir", NULL, &v, &error), LP_ERR_MISMATCH);
    assert_string_equal(error.text, "test_ends.dir: eos_token is 257 in tokenizer_config.json, but 258 in "
                                    "special_tokens_map.json: set decode.eos");
    OK(init(&m.model, m.tokenizer, "test_ends.dir", "<|eot|>", &v, err));
    assert_int_equal(v.eos, 258);
    static const char *const names[] = {"generation_config.json", "special_tokens_map.json", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) write_config(names[i], NULL);
    assert_int_equal(remove("test_ends.dir"), 0);
    golden_model_close(&m);
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
    /* codi adds [eos] bot after the same tokens. */
    prompt_of(&m, golden_protocol("codi", 6), "7 pens?", &other);
    assert_int_equal(other.ids[other.n - 1], m.vocabulary.bot);
    other.n--;
    check_same(&plain, &other);
    prompt_of(&m, golden_protocol("codi-keep-eos", 6), "7 pens?", &other);
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
    small.config.n_embedded = 10;
    assert_int_equal(lp_protocol_prompt(&bot_first, &small, m.tokenizer, &m.vocabulary, "abc", &other, &error),
                     LP_ERR_MISMATCH);
    assert_non_null(strstr(error.text, "but the model's embedding has 10 rows"));
    golden_model_close(&m);
    lp_token_list_release(&plain);
    lp_token_list_release(&other);
}

static void test_fields(void **state) {
    (void)state;
    golden_model m;
    golden_model_open("gpt2-ln", &m);
    const int32_t n = m.model.config.n_vocab, eos = m.vocabulary.eos;
    lp_vocabulary v;
    lp_token_list prompt = {0}, question = {0};
    lp_text words = {0};
    lp_error error = {0};
    char text[200];

    lp_protocol p = golden_protocol("codi-keep-eos", 6);
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.n_answer_start, 2);
    assert_int_equal(v.answer_start[0], n + 2);
    assert_int_equal(v.answer_start[1], eos);
    assert_int_equal(v.first_input, -1);

    p = lp_protocol_preset(LP_PROTOCOL_CODI_EOS, 6);
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.n_answer_start, 1);
    OK(lp_protocol_prompt(&p, &m.model, m.tokenizer, &v, "7 pens?", &prompt, err));
    assert_int_equal(prompt.ids[prompt.n - 1], n + 1);
    assert_int_equal(prompt.ids[prompt.n - 2], eos);

    p = lp_protocol_preset(LP_PROTOCOL_BOT_FIRST, 6);
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.first_input, n + 1);

    /* Coconut's three tokens are start, end, latent; a text in front is tokenized with the question. */
    p = lp_protocol_preset(LP_PROTOCOL_COCONUT, 6);
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.bot, n);
    assert_int_equal(v.answer_start[0], n + 1);
    assert_int_equal(v.n_candidates, n + 3);
    OK(lp_protocol_prompt(&p, &m.model, m.tokenizer, &v, "7 pens?", &prompt, err));
    OK(lp_tokenizer_encode(m.tokenizer, "7 pens?\n", 8, LP_TOKENS_WITH_SPECIAL, &question, err));
    assert_int_equal(prompt.ids[--prompt.n], n);
    check_same(&question, &prompt);

    /* Single fields. */
    p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
    p.stop.n = 0;
    assert_true(lp_marker_add(&p.stop, (lp_marker){.kind = LP_MARKER_TOKEN, .text = "<|endoftext|>"}));
    assert_true(lp_marker_add(&p.stop, (lp_marker){.kind = LP_MARKER_TOKEN, .id = 7}));
    assert_true(lp_marker_add(&p.answer_start, (lp_marker){.kind = LP_MARKER_TEXT, .text = "12"}));
    assert_true(lp_marker_add(&p.not_chosen, (lp_marker){.kind = LP_MARKER_BOT}));
    p.changed = true;
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.n_stop, 2);
    assert_true(lp_vocabulary_stops(&v, eos) && lp_vocabulary_stops(&v, 7) && !lp_vocabulary_stops(&v, 8));
    assert_int_equal(v.n_answer_start, 2);
    assert_int_equal(p.n_answer_start, 2);
    assert_int_equal(v.answer_start[1], lp_tokenizer_find(m.tokenizer, "12"));
    assert_int_equal(v.n_candidates, n + 1);
    assert_string_equal(lp_marker_list_text(&p.answer_start, text, sizeof text), "eot, text \"12\"");
    assert_string_equal(lp_marker_list_text(&p.stop, text, sizeof text), "token \"<|endoftext|>\", token 7");
    OK(lp_protocol_describe(&p, &v, &words, err));
    assert_non_null(strstr(lp_text_get(&words),
                           "protocol       codi (changed)\n  prompt       the question, then bot\n  "
                           "thoughts     3 steps; each is fed the projected final hidden state"));

    /* Tokens that are never chosen, at the end of the vocabulary and within it. */
    p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
    assert_true(lp_marker_add(&p.not_chosen, (lp_marker){.kind = LP_MARKER_TOKEN, .id = 9}));
    assert_true(lp_marker_add(&p.not_chosen, (lp_marker){.kind = LP_MARKER_TOKEN, .text = "12"}));
    assert_true(lp_marker_add(&p.not_chosen, (lp_marker){.kind = LP_MARKER_TOKEN, .id = 9}));
    OK(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.n_candidates, n + 2);
    assert_int_equal(v.n_not_chosen, 2);
    assert_int_equal(v.not_chosen[0], 9);
    assert_int_equal(v.not_chosen[1], lp_tokenizer_find(m.tokenizer, "12"));
    char ids[200];
    lp_vocabulary_text(&v, ids, sizeof ids);
    snprintf(text, sizeof text, "below %d, but not 9 %d", n + 2, v.not_chosen[1]);
    assert_string_equal(ids + strlen(ids) - strlen(text), text);

    /* The tokens around thoughts by what the checkpoint has: rows, names, config.json, the job. */
    lp_model other = m.model;
    static const struct {
        int32_t rows, bot, eot; /* rows beyond V; ids less V, or -1: not found */
    } rows[] = {{0, -1, -1}, {1, -1, -1}, {2, 0, 1}, {3, 1, 2}, {5, 1, 2}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
        other.config.n_embedded = n + rows[i].rows;
        lp_status status = lp_vocabulary_init(&other, m.tokenizer, m.base, NULL, &p, &v, &error);
        if (rows[i].bot < 0) {
            assert_int_equal(status, LP_ERR_VALUE);
            continue;
        }
        assert_int_equal(status, LP_OK);
        assert_int_equal(v.bot, n + rows[i].bot);
        assert_int_equal(v.eot, n + rows[i].eot);
        assert_int_equal(v.n_candidates, n + rows[i].eot);
    }
    other = m.model;
    other.config.latent_start_id = 5;
    other.config.latent_end_id = 6;
    p = lp_protocol_preset(LP_PROTOCOL_COCONUT, 3);
    OK(lp_vocabulary_init(&other, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.bot, 5);
    assert_int_equal(v.answer_start[0], 6);
    p.tokens[LP_ROLE_BOT] = (lp_given_token){.given = true, .text = "12"};
    p.tokens[LP_ROLE_EOT] = (lp_given_token){.given = true, .id = 9};
    OK(lp_vocabulary_init(&other, m.tokenizer, m.base, NULL, &p, &v, err));
    assert_int_equal(v.bot, lp_tokenizer_find(m.tokenizer, "12"));
    assert_int_equal(v.eot, 9);
    p.tokens[LP_ROLE_EOT].id = 100000;
    assert_int_equal(lp_vocabulary_init(&other, m.tokenizer, m.base, NULL, &p, &v, &error), LP_ERR_VALUE);
    assert_string_equal(error.text,
                        "protocol.tokens.eot: token id 100000 lies outside the model's embedding of 272 rows");

    /* What is refused. */
    static const struct {
        lp_marker marker;
        const char *message;
    } bad[] = {{{.kind = LP_MARKER_TOKEN, .text = "<none>"},
                "protocol.answer_start: \"<none>\" is not a token of the tokenizer"},
               {{.kind = LP_MARKER_TOKEN, .id = 100000},
                "protocol.answer_start: token id 100000 lies outside the model's embedding of 272 rows"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
        p.answer_start.items[0] = bad[i].marker;
        assert_int_equal(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, &error), LP_ERR_VALUE);
        assert_string_equal(error.text, bad[i].message);
    }
    lp_model small = m.model;
    small.config.n_vocab = small.config.n_embedded = 2;
    p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
    const char *first = lp_tokenizer_spelling(m.tokenizer, 0);
    p.tokens[LP_ROLE_BOT] = (lp_given_token){.given = true, .id = 0};
    p.tokens[LP_ROLE_EOT] = (lp_given_token){.given = true, .id = 1};
    assert_int_equal(lp_vocabulary_init(&small, m.tokenizer, m.base, first, &p, &v, &error), LP_ERR_VALUE);
    assert_string_equal(error.text, "protocol.not_chosen leaves 1 tokens to choose from");
    p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
    p.first_reads_prompt = false;
    p.first_input = (lp_marker){.kind = LP_MARKER_TEXT, .text = "7"};
    assert_int_equal(lp_vocabulary_init(&m.model, m.tokenizer, m.base, NULL, &p, &v, &error), LP_ERR_VALUE);
    assert_string_equal(error.text, "protocol.first_input: expected a token, found a text");
    lp_model bare = m.model;
    bare.has_thoughts = false;
    p = lp_protocol_preset(LP_PROTOCOL_CODI, 3);
    assert_int_equal(lp_vocabulary_init(&bare, m.tokenizer, m.base, NULL, &p, &v, &error), LP_ERR_VALUE);
    assert_string_equal(error.text,
                        "protocol.answer_start names the eot token, which was not found: config.json and the tokenizer "
                        "name none, and the embedding has 272 rows for a vocabulary of 269; expected a thought "
                        "checkpoint (model.codi), or its id in protocol.tokens");
    lp_text_release(&words);
    lp_token_list_release(&prompt);
    lp_token_list_release(&question);
    golden_model_close(&m);
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
                                       cmocka_unit_test(test_ends),       cmocka_unit_test(test_prompts),
                                       cmocka_unit_test(test_fields),     cmocka_unit_test(test_longest_run)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
