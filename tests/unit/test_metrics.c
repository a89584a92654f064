/* Metrics of one position against torch (log_softmax in float64), and which of them an executor leaves undefined. */
#include "base/memory.h"
#include "patch/engine.h"
#include "support/golden.h"
#include "support/units.h"

#include <math.h>

static void check(const char *what, double got, double wanted) {
    if (!(fabs(got - wanted) <= 1e-6 * fmax(1, fabs(wanted))))
        fail_msg("%s: expected %.9g, found %.9g", what, wanted, got);
}

static void test_one_position(void **state) {
    (void)state;
    /* The fifth number is eot's: no candidate, whatever its logit. */
    const float logits[5] = {1.5f, -2.0f, 0.25f, 1.0f, 50.0f};
    const float before[5] = {0.5f, 1.0f, -1.25f, 2.0f, -50.0f};
    const int32_t clean[2] = {3, 0}, corrupted[1] = {1};
    const lp_metric_position metric_at = {.clean = {clean, 2}, .corrupted = {corrupted, 1}};
    float out[LP_N_METRICS];
    lp_metrics_of_logits(logits, before, 4, &metric_at, out);
    check("logit_clean", (double)out[LP_METRIC_LOGIT_CLEAN], 1.0);
    check("logit_corrupted", (double)out[LP_METRIC_LOGIT_CORRUPTED], -2.0);
    check("logprob_clean", (double)out[LP_METRIC_LOGPROB_CLEAN], -1.154007540918);
    check("logprob_corrupted", (double)out[LP_METRIC_LOGPROB_CORRUPTED], -4.154007540918);
    check("logit_diff", (double)out[LP_METRIC_LOGIT_DIFF], 3.0);
    check("kl", (double)out[LP_METRIC_KL], 0.783712674040);
    check("log probability", lp_log_probability(before, 4, 2), -3.738447373600);
    lp_metrics_of_logits(before, before, 4, &metric_at, out);
    assert_true(out[LP_METRIC_KL] == 0);

    const lp_metric_position nothing = {.clean = {NULL, 0}, .corrupted = {NULL, 0}};
    lp_metrics_of_logits(logits, NULL, 4, &nothing, out);
    for (int m = 0; m <= LP_METRIC_KL; m++) assert_true(isnan(out[m]));
    /* Far apart logits neither overflow nor vanish. */
    const float far[2] = {200.0f, -200.0f}, near[2] = {-200.0f, 200.0f};
    const lp_metric_position second = {.clean = {corrupted, 1}};
    lp_metrics_of_logits(far, near, 2, &second, out);
    check("kl of opposites", (double)out[LP_METRIC_KL], 400.0);
    check("log probability of the unlikely", lp_log_probability(far, 2, 1), -400.0);
    for (int m = 0; m < LP_N_METRICS; m++) assert_string_not_equal(lp_metric_names()[m], "");
    assert_null(lp_metric_names()[LP_N_METRICS]);
}

/* ---- An executor's groups ---------------------------------------------------------------------------------------- */

enum { N_TOKENS = 6 };

typedef struct {
    golden_model model;
    lp_token_list prompt;
    float *zeros;
    const float *vectors[1];
    lp_timed_edit edit;
    int32_t tokens[3][N_TOKENS];
    lp_run_result results[3];
} fixture;

/* max_positions 0: the model's context. batched: by the engine, otherwise by the reference. */
static lp_status execute_within(fixture *f, const lp_run_wanted *runs, size_t n, const lp_metric_position *metric_at,
                                int32_t max_positions, bool batched, lp_error *err) {
    lp_run_group group = {.prompt = f->prompt.ids,
                          .n_prompt = (int32_t)f->prompt.n,
                          .runs = runs,
                          .results = f->results,
                          .n_runs = n,
                          .metric_at = metric_at};
    lp_work_unit unit = {.groups = &group, .n_groups = 1};
    unit_list list = {.units = (lp_work_unit *[]){&unit}, .n = 1};
    lp_work_source source = unit_list_source(&list);
    lp_executor_options options = {.model = &f->model.model,
                                   .protocol = golden_protocol("codi", 6),
                                   .vocabulary = f->model.vocabulary,
                                   .max_new_tokens = N_TOKENS,
                                   .max_positions = max_positions ? max_positions : f->model.model.config.n_context};
    for (int i = 0; i < 3; i++) f->results[i] = (lp_run_result){.tokens = f->tokens[i]};
    return batched ? execute_on_cpu(&options, &source, 0, err) : lp_execute_reference(&options, &source, err);
}

static void execute(fixture *f, const lp_run_wanted *runs, size_t n, const lp_metric_position *metric_at) {
    OK(execute_within(f, runs, n, metric_at, 0, false, err));
}

static void test_kl_needs_an_unpatched_run(void **state) {
    (void)state;
    fixture f = {0};
    golden_model_open("gpt2-ln", &f.model);
    lp_protocol protocol = golden_protocol("codi", 6);
    OK(lp_protocol_prompt(&protocol, &f.model.model, f.model.tokenizer, &f.model.vocabulary, "7 pens, 3?", &f.prompt,
                          err));
    OK(lp_mem_new(&f.zeros, (size_t)f.model.model.config.d_model, sizeof(float), "zeros", err));
    f.vectors[0] = f.zeros;
    f.edit.what.at = (lp_address){LP_PHASE_THOUGHT, 2, LP_SITE_RESID_POST, 0, LP_ALL_HEADS};
    const lp_run_wanted unpatched = {.n_steps = 6};
    const lp_run_wanted patched = {.edits = &f.edit, .vectors = f.vectors, .n_edits = 1, .n_steps = 6};
    const lp_run_wanted runs[3] = {patched, unpatched, unpatched};

    execute(&f, runs, 3, NULL);
    for (int i = 0; i < 3; i++)
        for (int m = 0; m < LP_N_METRICS; m++) assert_true(isnan(f.results[i].metrics[m]));

    /* A prefix that no run says: it is forced for all of them, the unpatched one too. */
    const int32_t first = (f.tokens[1][0] + 1) % 100, number[2] = {20, f.model.vocabulary.eos};
    const lp_metric_position positions[2] = {
        {.index = 0, .clean = {number, 2}, .corrupted = {number, 2}, .whole_answers = true},
        {.index = 1, .prefix = &first, .clean = {number, 2}, .corrupted = {number, 2}, .whole_answers = true}};
    for (int i = 0; i < 2; i++) {
        execute(&f, runs, 3, &positions[i]);
        float kl = f.results[0].metrics[LP_METRIC_KL];
        if (!(kl > 0) || f.results[1].metrics[LP_METRIC_KL] != 0 || f.results[2].metrics[LP_METRIC_KL] != 0)
            fail_msg("position %d: KL %g of the patched run, %g and %g of the unpatched ones", i, (double)kl,
                     (double)f.results[1].metrics[LP_METRIC_KL], (double)f.results[2].metrics[LP_METRIC_KL]);
        /* eos after the number makes the whole answer less likely than its only token. */
        assert_true(f.results[0].metrics[LP_METRIC_ANSWER_CLEAN] < f.results[0].metrics[LP_METRIC_LOGPROB_CLEAN]);
        execute(&f, runs, 1, &positions[i]);
        assert_true(isnan(f.results[0].metrics[LP_METRIC_KL]));
        assert_true(isfinite(f.results[0].metrics[LP_METRIC_LOGIT_CLEAN]));
    }
    lp_mem_free(f.zeros);
    lp_token_list_release(&f.prompt);
    golden_model_close(&f.model);
}

/* A whole answer that ends with the last position of the context is read; one that is a token longer is not, and
 * nothing else changes. */
static void test_answers_at_the_end_of_the_context(void **state) {
    (void)state;
    enum { N_NUMBER = 12 };
    fixture f = {0};
    golden_model_open("gpt2-ln", &f.model);
    lp_protocol protocol = golden_protocol("codi", 6);
    OK(lp_protocol_prompt(&protocol, &f.model.model, f.model.tokenizer, &f.model.vocabulary, "7 pens, 3?", &f.prompt,
                          err));
    OK(lp_mem_new(&f.zeros, (size_t)f.model.model.config.d_model, sizeof(float), "zeros", err));
    f.vectors[0] = f.zeros;
    f.edit.what.at = (lp_address){LP_PHASE_THOUGHT, 2, LP_SITE_RESID_POST, 0, LP_ALL_HEADS};
    const lp_run_wanted runs[2] = {{.n_steps = 6},
                                   {.edits = &f.edit, .vectors = f.vectors, .n_edits = 1, .n_steps = 6}};
    const int32_t first = 30;
    int32_t number[N_NUMBER + 1];
    for (int32_t i = 0; i < N_NUMBER; i++) number[i] = 20 + i;
    number[N_NUMBER] = f.model.vocabulary.eos;
    lp_metric_position metric_at = {.index = 1,
                                    .prefix = &first,
                                    .clean = {number + 1, N_NUMBER}, /* one token shorter */
                                    .corrupted = {number, N_NUMBER + 1},
                                    .whole_answers = true};
    int32_t before = (int32_t)f.prompt.n + 6; /* the start of the answer is fed after these */
    int32_t long_enough = before + 1 + metric_at.index + N_NUMBER;
    for (int batched = 0; batched < 2; batched++) {
        float plenty[2][LP_N_METRICS];
        metric_at.room = 0;
        OK(execute_within(&f, runs, 2, &metric_at, 0, batched, err));
        for (int i = 0; i < 2; i++) memcpy(plenty[i], f.results[i].metrics, sizeof plenty[i]);
        for (int32_t less = 0; less < 3; less++) {
            int32_t max_positions = long_enough - less;
            metric_at.room = max_positions - before;
            OK(execute_within(&f, runs, 2, &metric_at, max_positions, batched, err));
            for (int i = 0; i < 2; i++)
                for (int k = 0; k < LP_N_METRICS; k++) {
                    float wanted = plenty[i][k], found = f.results[i].metrics[k];
                    if (k == LP_METRIC_ANSWER_CORRUPTED && less > 0) wanted = NAN;
                    if (k == LP_METRIC_ANSWER_CLEAN && less > 1) wanted = NAN;
                    if (!(found == wanted || (isnan(found) && isnan(wanted))))
                        fail_msg("%s, %d positions too few, run %d, %s: expected %.9g, found %.9g",
                                 batched ? "batched" : "reference", less, i, lp_metric_names()[k], (double)wanted,
                                 (double)found);
                }
        }
    }
    lp_mem_free(f.zeros);
    lp_token_list_release(&f.prompt);
    golden_model_close(&f.model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_position),
                                       cmocka_unit_test(test_kl_needs_an_unpatched_run),
                                       cmocka_unit_test(test_answers_at_the_end_of_the_context)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
