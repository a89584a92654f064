/* The engine against the reference executor on random work, and against itself under other circumstances.
 *
 * Tokens must be equal; metrics agree to METRIC_BOUND, captured vectors to CAPTURE_BOUND of their largest number. The
 * reference sums in double precision, and some runs of these random models carry a change in the last bit further than
 * others: so one number in ONE_IN may be off by more, but none by more than SLACK times the bound. For the same reason,
 * where the reference's best two logits are closer than TIE_GAP of its largest, a run may choose the other one: such
 * runs are counted and must stay below one in 500. Under another memory limit, batch
 * size, number of threads, order of units or company the engine gives the same bits. */
#include "test_engine_support.h"

#include "backend/check/check.h"
#include "base/memory.h"
#include "thought/reference.h"

#include <math.h>

#if defined(__SANITIZE_ADDRESS__)
enum { DRAWS = 10, INVARIANCE_DRAWS = 2 };
#else
enum { DRAWS = 50, INVARIANCE_DRAWS = 8 };
#endif
static const double METRIC_BOUND = 1e-4, CAPTURE_BOUND = 1e-5, SLACK = 100, TIE_GAP = 1e-5;
enum { ONE_IN = 20 };

static const char *const models[] = {"gpt2-ln", "gpt2-plain", "llama-gqa", "llama-rope3", "llama-bf16"};
enum { N_MODELS = sizeof models / sizeof models[0], PLENTY = 1 << 28 };

/* ---- Engine and reference ---------------------------------------------------------------------------------------- */

typedef struct {
    int64_t n_runs, n_metrics, n_metrics_over, n_captured, n_captured_over, n_nowhere, n_ties, n_wrong;
    double worst_metric, worst_capture;
} tally;

/* The gap between the best two candidates at one index, relative to the largest logit. */
typedef struct {
    int32_t index, n;
    double gap;
} gap_listener;

static void listen(void *user, int32_t index, const float *logits) {
    gap_listener *l = user;
    if (index != l->index) return;
    double best = -INFINITY, second = -INFINITY, most = 0;
    for (int32_t i = 0; i < l->n; i++) {
        double x = (double)logits[i];
        if (fabs(x) > most) most = fabs(x);
        if (x > best) {
            second = best;
            best = x;
        } else if (x > second) {
            second = x;
        }
    }
    l->gap = (best - second) / most;
}

static double gap_at(const engine_case *c, size_t run, int32_t index) {
    size_t within = 0;
    const lp_run_group *group = case_group_of(c, run, &within);
    const lp_run_wanted *wanted = &group->runs[within];
    gap_listener ear = {.index = index, .n = c->options.vocabulary.n_candidates};
    lp_reference *reference = NULL;
    lp_edit *edits = NULL;
    int32_t tokens[64];
    lp_run_answer answer;
    OK(lp_mem_new(&edits, wanted->n_events, sizeof *edits, "edits", err));
    for (size_t i = 0; i < wanted->n_events; i++) {
        const lp_replacement *what = &wanted->events[i].what;
        edits[i] = (lp_edit){
            .at = what->at, .operation = what->operation, .factor = what->factor, .vector = wanted->vectors[i]};
    }
    OK(lp_reference_new(c->options.model, &c->options.protocol, &c->options.vocabulary, c->options.max_positions,
                        &reference, err));
    lp_run_request request = {.prompt = group->prompt,
                              .n_prompt = group->n_prompt,
                              .n_steps = wanted->n_steps,
                              .edits = edits,
                              .n_edits = (int32_t)wanted->n_events,
                              .max_new_tokens = c->options.max_new_tokens,
                              .on_logits = listen,
                              .user = &ear};
    OK(lp_reference_run(reference, &request, tokens, &answer, err));
    lp_reference_free(reference);
    lp_mem_free(edits);
    return ear.gap;
}

static bool compare_tokens(const engine_case *c, size_t run, const lp_run_result *got, const lp_run_result *wanted,
                           tally *t) {
    int32_t n = got->n_tokens < wanted->n_tokens ? got->n_tokens : wanted->n_tokens, at = 0;
    while (at < n && got->tokens[at] == wanted->tokens[at]) at++;
    if (at == got->n_tokens && at == wanted->n_tokens && got->ended == wanted->ended) return true;
    char words[800];
    double gap = gap_at(c, run, at);
    if (gap < TIE_GAP) {
        t->n_ties++;
        return false;
    }
    case_describe(c, run, words, sizeof words);
    print_error("%s\n  answers part at token %d: expected %d tokens%s, found %d%s; gap %.2g\n", words, at,
                wanted->n_tokens, wanted->ended ? ", eos" : "", got->n_tokens, got->ended ? ", eos" : "", gap);
    t->n_wrong++;
    return false;
}

static void compare_metrics(const engine_case *c, size_t run, const lp_run_result *got, const lp_run_result *wanted,
                            tally *t) {
    for (int m = 0; m < LP_N_METRICS; m++) {
        double a = (double)got->metrics[m], b = (double)wanted->metrics[m];
        if (isnan(a) && isnan(b)) continue;
        double error = fabs(a - b) / fmax(1, 0.1 * fabs(b));
        t->n_metrics++;
        t->worst_metric = fmax(t->worst_metric, error);
        t->n_metrics_over += !(error <= METRIC_BOUND);
        if (error <= SLACK * METRIC_BOUND) continue;
        char words[800];
        case_describe(c, run, words, sizeof words);
        print_error("%s\n  %s: expected %.9g, found %.9g\n", words, lp_metric_names()[m], b, a);
        t->n_wrong++;
    }
}

static void compare_captures(const engine_case *c, const case_outcome *got, const case_outcome *wanted, tally *t) {
    for (size_t i = 0; i < c->n_captures; i++) {
        size_t first = c->capture_at[i], end = i + 1 < c->n_captures ? c->capture_at[i + 1] : c->n_captured;
        double largest = 0, most = 0;
        if (isnan(wanted->captured[first]) || isnan(got->captured[first])) {
            t->n_nowhere++;
            if (isnan(wanted->captured[first]) && isnan(got->captured[first])) continue;
            const lp_address *nowhere = &c->captures[i].at;
            print_error("%s seed %llu: capture %s %d %s L%d h%d: %s has the position alone\n", c->model,
                        (unsigned long long)c->seed, lp_phase_names()[nowhere->phase], nowhere->index,
                        lp_site_names()[nowhere->site], nowhere->layer, nowhere->head,
                        isnan(got->captured[first]) ? "the reference" : "the engine");
            t->n_wrong++;
            continue;
        }
        for (size_t k = first; k < end; k++) {
            largest = fmax(largest, fabs((double)wanted->captured[k]));
            most = fmax(most, fabs((double)got->captured[k] - (double)wanted->captured[k]));
        }
        t->n_captured++;
        double error = largest > 0 ? most / largest : most;
        t->worst_capture = fmax(t->worst_capture, error);
        t->n_captured_over += !(error <= CAPTURE_BOUND);
        if (error <= SLACK * CAPTURE_BOUND) continue;
        const lp_address *at = &c->captures[i].at;
        print_error("%s seed %llu: capture %s %d %s L%d h%d: off by %.2g of its largest\n", c->model,
                    (unsigned long long)c->seed, lp_phase_names()[at->phase], at->index, lp_site_names()[at->site],
                    at->layer, at->head, error);
        t->n_wrong++;
    }
}

static void compare(const engine_case *c, const case_outcome *got, const case_outcome *wanted, tally *t) {
    for (size_t i = 0; i < c->n_runs; i++) {
        t->n_runs++;
        if (compare_tokens(c, i, &got->results[i], &wanted->results[i], t))
            compare_metrics(c, i, &got->results[i], &wanted->results[i], t);
    }
    compare_captures(c, got, wanted, t);
}

static uint64_t seed_of(size_t model, int draw) {
    return 1000 * (uint64_t)(model + 1) + (uint64_t)draw;
}

static void test_equals_reference(void **state) {
    lp_backend *be = *state;
    lp_engine_options engine = {.backend = be, .memory_limit = PLENTY};
    const case_order by_reference = {.only = -1}, by_engine = {.engine = &engine, .only = -1};
    tally t = {0};
    for (size_t m = 0; m < N_MODELS; m++) {
        golden_model model;
        golden_model_open(models[m], &model);
        for (int k = 0; k < DRAWS; k++) {
            engine_case c;
            case_outcome wanted, got;
            case_make(&c, models[m], &model.model, &model.vocabulary, seed_of(m, k));
            outcome_make(&c, &wanted);
            outcome_make(&c, &got);
            OK(case_execute(&c, &by_reference, &wanted, NULL, err));
            OK(case_execute(&c, &by_engine, &got, NULL, err));
            compare(&c, &got, &wanted, &t);
            outcome_release(&wanted);
            outcome_release(&got);
            case_release(&c);
        }
        golden_model_close(&model);
    }
    printf("%s: %lld runs, %lld ties; %lld of %lld metrics over their bound, worst %.1e; %lld of %lld captures, worst "
           "%.1e\n",
           be->name, (long long)t.n_runs, (long long)t.n_ties, (long long)t.n_metrics_over, (long long)t.n_metrics,
           t.worst_metric, (long long)t.n_captured_over, (long long)t.n_captured, t.worst_capture);
    assert_int_equal(t.n_wrong, 0);
    assert_true(t.n_metrics_over * ONE_IN <= t.n_metrics && t.n_captured_over * ONE_IN <= t.n_captured);
    assert_true(t.n_ties * 500 < t.n_runs);
    assert_true(t.n_metrics > t.n_runs && t.n_captured > 0 && t.n_nowhere > 0);
}

/* ---- The same bits under other circumstances --------------------------------------------------------------------- */

static bool same_bits(const float *a, const float *b, size_t n) {
    return memcmp(a, b, n * sizeof *a) == 0;
}

/* Compares the runs [first, first + n) and all captures that lie in them. */
static void assert_same(const engine_case *c, const case_outcome *got, const case_outcome *wanted, size_t first,
                        size_t n, const char *circumstance) {
    char words[800];
    for (size_t i = first; i < first + n; i++) {
        const lp_run_result *a = &got->results[i], *b = &wanted->results[i];
        bool same = a->n_tokens == b->n_tokens && a->ended == b->ended &&
                    memcmp(a->tokens, b->tokens, (size_t)b->n_tokens * sizeof *a->tokens) == 0 &&
                    same_bits(a->metrics, b->metrics, LP_N_METRICS);
        if (same) continue;
        case_describe(c, i, words, sizeof words);
        fail_msg("%s\n  not the same bits with %s: %d and %d tokens", words, circumstance, b->n_tokens, a->n_tokens);
    }
    for (size_t i = 0; i < c->n_captures; i++) {
        size_t begin = c->capture_at[i], end = i + 1 < c->n_captures ? c->capture_at[i + 1] : c->n_captured;
        bool ours = false;
        for (size_t k = first; k < first + n; k++)
            ours |=
                c->captures + i >= c->runs[k].captures && c->captures + i < c->runs[k].captures + c->runs[k].n_captures;
        if (ours && !same_bits(got->captured + begin, wanted->captured + begin, end - begin))
            fail_msg("%s seed %llu: capture %zu: not the same bits with %s", c->model, (unsigned long long)c->seed, i,
                     circumstance);
    }
}

/* The bytes that the engine says it needs for one unit. */
static int64_t least_bytes(engine_case *c, lp_backend *be, int32_t unit, case_outcome *out) {
    lp_engine_options engine = {.backend = be, .memory_limit = 1};
    const case_order order = {.engine = &engine, .only = unit};
    lp_error error = {0};
    assert_int_equal(case_execute(c, &order, out, NULL, &error), LP_ERR_MEMORY);
    const char *words = "engine.memory_limit: expected at least ";
    assert_memory_equal(error.text, words, strlen(words));
    int64_t bytes = strtoll(error.text + strlen(words), NULL, 10);
    char tail[64];
    snprintf(tail, sizeof tail, ", found %d", 1);
    assert_string_equal(error.text + strlen(error.text) - strlen(tail), tail);
    assert_true(bytes > 0);
    return bytes;
}

static void check_circumstances(engine_case *c, lp_backend *one, lp_backend *two) {
    case_outcome wanted, got;
    lp_engine_options plain = {.backend = one, .memory_limit = PLENTY};
    int64_t least = 0;
    size_t n = c->n_runs;
    outcome_make(c, &wanted);
    outcome_make(c, &got);
    OK(case_execute(c, &(case_order){.engine = &plain, .only = -1}, &wanted, NULL, err));
    for (size_t u = 0; u < c->n_units; u++) {
        int64_t bytes = least_bytes(c, one, (int32_t)u, &got);
        if (bytes > least) least = bytes;
    }
    const struct {
        const char *words;
        lp_engine_options engine;
        bool backwards;
    } others[] = {
        {"rows_wanted 1", {.backend = one, .memory_limit = PLENTY, .rows_wanted = 1}, false},
        {"rows_wanted 7", {.backend = one, .memory_limit = PLENTY, .rows_wanted = 7}, true},
        {"rows_wanted 64", {.backend = one, .memory_limit = PLENTY, .rows_wanted = 64}, false},
        {"rows_wanted 1024, backwards", {.backend = one, .memory_limit = PLENTY, .rows_wanted = 1024}, true},
        {"the least memory", {.backend = one, .memory_limit = least}, false},
        {"the least memory, backwards", {.backend = one, .memory_limit = least}, true},
        {"little memory", {.backend = one, .memory_limit = least + least / 3}, false},
        {"two threads", {.backend = two, .memory_limit = PLENTY}, false},
        {"two threads, little memory, backwards", {.backend = two, .memory_limit = 2 * least, .rows_wanted = 16}, true},
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const case_order order = {.engine = &others[i].engine, .only = -1, .backwards = others[i].backwards};
        lp_engine_counters counters = {0};
        OK(case_execute(c, &order, &got, &counters, err));
        assert_same(c, &got, &wanted, 0, n, others[i].words);
        assert_true((int64_t)(counters.kv_bytes + counters.workspace_bytes) <= others[i].engine.memory_limit);
    }
    for (size_t u = 0; u < c->n_units; u++) {
        const case_order order = {.engine = &plain, .only = (int32_t)u};
        size_t first = c->first_run[c->first_group[u]];
        size_t end = u + 1 < c->n_units ? c->first_run[c->first_group[u + 1]] : n;
        OK(case_execute(c, &order, &got, NULL, err));
        assert_same(c, &got, &wanted, first, end - first, "the unit alone");
    }
    outcome_release(&wanted);
    outcome_release(&got);
}

static void test_invariance(void **state) {
    lp_backend *two = NULL;
    OK(lp_backend_cpu_new(2, &two, err));
    for (size_t m = 0; m < N_MODELS; m++) {
        golden_model model;
        golden_model_open(models[m], &model);
        for (int k = 0; k < INVARIANCE_DRAWS; k++) {
            engine_case c;
            case_make(&c, models[m], &model.model, &model.vocabulary, seed_of(m, 500 + k));
            check_circumstances(&c, *state, two);
            case_release(&c);
        }
        golden_model_close(&model);
    }
    lp_backend_free(two);
}

static int setup(void **state) {
    lp_backend *be = NULL;
    OK(lp_backend_cpu_new(1, &be, err));
    *state = be;
    return 0;
}

static int setup_checked(void **state) {
    lp_backend *cpu = NULL, *be = NULL;
    OK(lp_backend_cpu_new(1, &cpu, err));
    OK(lp_backend_check_new(cpu, &be, err));
    *state = be;
    return 0;
}

static int teardown(void **state) {
    lp_backend_free(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_equals_reference, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_equals_reference, setup_checked, teardown),
                                       cmocka_unit_test_setup_teardown(test_invariance, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
