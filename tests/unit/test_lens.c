/* The logit lens: the rule of its ranking, and parity with transformers + peft (tests/golden/README.md) at the last
 * prompt position and each thought step, after each layer, for each executor.
 *
 * Bound of a log-probability: 1e-4, or 1e-5 of its own size where that is more, as of the metrics
 * (test_patched_golden): logits of these states agree to 1e-5 of their largest, which is some units. Tokens are
 * compared where the golden ranking is clear (neighbours 1e-4 apart). A lens without the final norm, or one position or
 * layer beside its place, gives other tokens and is off by 0.1 and more. */
#include "base/json.h"
#include "base/memory.h"
#include "support/golden.h"
#include "support/units.h"

#include <math.h>

/* ---- Ranking ----------------------------------------------------------------------------------------------------- */

static void test_rank(void **state) {
    (void)state;
    const float logits[6] = {1, 3, -INFINITY, 3, 2, 50};
    static const struct {
        int32_t n, top;
        int32_t wanted[6];
    } cases[] = {
        {5, 1, {1}},             /* ties to the lowest id; eot, the sixth, is no candidate */
        {5, 3, {1, 3, 4}},       /* both of the tie, then the next */
        {5, 5, {1, 3, 4, 0, 2}}, /* all of them */
        {6, 2, {5, 1}},
        {1, 1, {0}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int32_t found[6] = {-1, -1, -1, -1, -1, -1};
        float log_probability[6];
        lp_lens_rank(logits, cases[i].n, cases[i].top, found, log_probability);
        for (int32_t k = 0; k < cases[i].top; k++) {
            if (found[k] != cases[i].wanted[k])
                fail_msg("case %zu: rank %d: expected token %d, found %d", i, k, cases[i].wanted[k], found[k]);
            double wanted = lp_log_probability(logits, cases[i].n, found[k]);
            if (log_probability[k] != (float)wanted)
                fail_msg("case %zu: rank %d: expected %.9g, found %.9g", i, k, wanted, (double)log_probability[k]);
        }
        assert_true(cases[i].top == 6 || found[cases[i].top] == -1);
    }
}

static void test_show(void **state) {
    (void)state;
    golden_model m;
    lp_text text = {0};
    golden_model_open("gpt2-ln", &m);
    const int32_t newline = lp_tokenizer_find(m.tokenizer, "\xc4\x8a"),
                  tab = lp_tokenizer_find(m.tokenizer, "\xc4\x89");
    const int32_t blank = lp_tokenizer_find(m.tokenizer, "\xc4\xa0"), unknown = m.vocabulary.eot + 7;
    assert_true(newline >= 0 && tab >= 0 && blank >= 0);
    const struct {
        int32_t token;
        const char *wanted;
    } cases[] = {
        {newline, "\\n"}, {tab, "\\x09"}, {blank, " "}, {m.vocabulary.pad, "<pad>"}, {m.vocabulary.bot, "<bot>"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_text_clear(&text);
        OK(lp_lens_show(m.tokenizer, &m.vocabulary, cases[i].token, &text, err));
        assert_string_equal(lp_text_get(&text), cases[i].wanted);
    }
    char wanted[32];
    snprintf(wanted, sizeof wanted, "<%d>", unknown);
    lp_text_clear(&text);
    OK(lp_lens_show(m.tokenizer, &m.vocabulary, unknown, &text, err));
    assert_string_equal(lp_text_get(&text), wanted);
    lp_text_release(&text);
    golden_model_close(&m);
}

/* ---- Parity ------------------------------------------------------------------------------------------------------ */

static lp_status execute_batched(const lp_executor_options *options, const lp_work_source *source, lp_error *err) {
    /* Few rows, so that the vectors need several batches. */
    return execute_on_cpu(options, source, 4, err);
}

static const struct {
    const char *name;
    lp_status (*execute)(const lp_executor_options *options, const lp_work_source *source, lp_error *err);
} executors[] = {{"reference", lp_execute_reference}, {"batched", execute_batched}};

typedef struct {
    double worst;
    int64_t n_cells, n_clear, n_settled, n_wrong;
} tally;

static void compare_cell(const lp_json *wanted, const char *where, int32_t top, const int32_t *tokens,
                         const float *log_probability, tally *t) {
    lp_json ids = golden_member(wanted, "ids"), values = golden_member(wanted, "logp"), element;
    bool clear = golden_truth(wanted, "clear"), settled = golden_truth(wanted, "settled");
    t->n_cells++;
    t->n_clear += clear;
    t->n_settled += settled;
    for (int32_t k = 0; k < top; k++) {
        int64_t id = 0;
        double value = 0;
        OK(lp_json_at(&ids, (size_t)k, &element, err));
        OK(lp_json_int(&element, 0, INT32_MAX, &id, err));
        OK(lp_json_at(&values, (size_t)k, &element, err));
        OK(lp_json_number(&element, -1e6, 0, &value, err));
        double error = fabs((double)log_probability[k] - value), bound = fmax(1e-4, 1e-5 * fabs(value));
        if (settled && !(error / bound <= t->worst)) t->worst = error / bound;
        if ((!clear || id == tokens[k]) && (!settled || error <= bound)) continue;
        t->n_wrong++;
        print_error("%s, rank %d: expected token %lld at %.9g, found %d at %.9g\n", where, k, (long long)id, value,
                    tokens[k], (double)log_probability[k]);
    }
}

static void compare_question(const golden_file *file, const golden_model *m, const lp_protocol *protocol,
                             const lp_json *entry, int32_t top, size_t e, tally *t) {
    const lp_model_config *c = &m->model.config;
    lp_json question = golden_member(entry, "question"), cells = golden_member(entry, "cells"), layers, wanted;
    const char *text = NULL;
    lp_token_list prompt = {0};
    float *vectors = NULL, *log_probability = NULL;
    lp_capture *captures = NULL;
    int32_t *tokens = NULL;
    int32_t answer[1];
    int32_t positions = lp_lens_positions(protocol->n_steps), n = positions * c->n_layers;
    OK(lp_json_string(&question, &text, err));
    OK(lp_protocol_prompt(protocol, &m->model, m->tokenizer, &m->vocabulary, text, &prompt, err));
    OK(lp_mem_new(&vectors, (size_t)n * (size_t)c->d_model, sizeof(float), "lens", err));
    OK(lp_mem_new(&captures, (size_t)n, sizeof *captures, "lens", err));
    OK(lp_mem_new(&tokens, (size_t)n * (size_t)top, sizeof *tokens, "lens", err));
    OK(lp_mem_new(&log_probability, (size_t)n * (size_t)top, sizeof(float), "lens", err));
    lp_lens_captures(c, (int32_t)prompt.n, protocol->n_steps, vectors, captures);
    lp_lens_wanted lens = {
        .vectors = vectors, .n = n, .top = top, .tokens = tokens, .log_probability = log_probability};
    lp_run_wanted run = {.n_steps = protocol->n_steps, .captures = captures, .n_captures = n, .lens = &lens};
    lp_run_result result = {.tokens = answer};
    lp_run_group group = {
        .prompt = prompt.ids, .n_prompt = (int32_t)prompt.n, .runs = &run, .results = &result, .n_runs = 1};
    lp_work_unit unit = {.groups = &group, .n_groups = 1};
    unit_list list = {.units = (lp_work_unit *[]){&unit}, .n = 1};
    lp_work_source source = unit_list_source(&list);
    lp_executor_options options = {.model = &m->model,
                                   .protocol = *protocol,
                                   .vocabulary = m->vocabulary,
                                   .max_new_tokens = 1,
                                   .max_positions = c->n_context};
    OK(executors[e].execute(&options, &source, err));
    for (int32_t p = 0; p < positions; p++) {
        OK(lp_json_at(&cells, (size_t)p, &layers, err));
        for (int32_t l = 0; l < c->n_layers; l++) {
            char where[320];
            size_t at = ((size_t)p * (size_t)c->n_layers + (size_t)l) * (size_t)top;
            snprintf(where, sizeof where, "%s %.60s %.60s, \"%.60s\", position %d, layer %d", executors[e].name,
                     file->model, file->protocol, text, p, l);
            OK(lp_json_at(&layers, (size_t)l, &wanted, err));
            compare_cell(&wanted, where, top, tokens + at, log_probability + at, t);
        }
    }
    lp_token_list_release(&prompt);
    lp_mem_free(vectors);
    lp_mem_free(captures);
    lp_mem_free(tokens);
    lp_mem_free(log_probability);
}

static void test_parity(void **state) {
    (void)state;
    golden_file files[GOLDEN_MAX];
    size_t n = golden_files(".lens.json", files);
    int64_t n_wrong = 0;
    for (size_t i = 0; i < n; i++) {
        golden_model m;
        cJSON *document = NULL;
        lp_json root, value, questions, entry;
        int64_t thoughts = 0, top = 0;
        golden_model_open(files[i].model, &m);
        OK(lp_json_load(files[i].path, 1 << 24, &document, &root, err));
        value = golden_member(&root, "thoughts");
        OK(lp_json_int(&value, 1, 64, &thoughts, err));
        value = golden_member(&root, "top");
        OK(lp_json_int(&value, 1, LP_MAX_LENS_TOP, &top, err));
        lp_protocol protocol = golden_protocol(files[i].protocol, (int32_t)thoughts);
        golden_vocabulary(&m, files[i].protocol, &m.vocabulary);
        for (size_t e = 0; e < sizeof executors / sizeof executors[0]; e++) {
            tally t = {0};
            questions = golden_member(&root, "questions");
            for (lp_json_first(&questions, &entry); entry.node; lp_json_next(&questions, &entry))
                compare_question(&files[i], &m, &protocol, &entry, (int32_t)top, e, &t);
            printf("%-9s %-12s %-10s %lld cells, tokens compared in %lld; worst log-probability %.2f of its bound%s\n",
                   executors[e].name, files[i].model, files[i].protocol, (long long)t.n_cells, (long long)t.n_clear,
                   t.worst, t.n_wrong ? "  <-- WRONG" : "");
            assert_true(t.n_clear * 10 >= t.n_cells * 9 && t.n_settled * 10 >= t.n_cells * 9);
            n_wrong += t.n_wrong;
        }
        cJSON_Delete(document);
        golden_model_close(&m);
    }
    assert_int_equal(n_wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rank), cmocka_unit_test(test_show),
                                       cmocka_unit_test(test_parity)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
