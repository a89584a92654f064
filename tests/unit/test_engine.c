/* The engine against the reference executor on random work, and against itself under other circumstances.
 *
 * The reference sums in double precision and the engine in single, and some runs of these random models carry a change
 * of the last bit far. How far is measured, run by run: the reference runs again on models whose norms' weights are one
 * bit off. A number of the engine may be off by BOUND of the largest one of its vector, plus TIMES what that does to
 * it. Tokens must be equal; where the reference's best two logits are closer than TIE_GAP of its largest, a run may
 * choose the other one: such runs are counted and must stay below one in 500.
 *
 * Sharing and batching cost no precision at all: each run alone, and all of them under another memory limit, batch
 * size, number of threads, order of units or company, give the same bits. */
#include "test_engine_support.h"

#include "backend/device.h"
#include "base/memory.h"
#include "support/check_backend.h"
#include "thought/reference.h"

#include <math.h>

/* With LP_TEST_CUDA the same on the cuda backend that stands beside this program, which is the emulated one. */
#if defined(LP_TEST_CUDA)
enum { DRAWS = 1, CHECKED_DRAWS = 0, INVARIANCE_DRAWS = 1, MODEL_STEP = 2 };
#elif defined(__SANITIZE_ADDRESS__)
enum { DRAWS = 3, CHECKED_DRAWS = 1, INVARIANCE_DRAWS = 1, MODEL_STEP = 1 };
#else
enum { DRAWS = 15, CHECKED_DRAWS = 5, INVARIANCE_DRAWS = 3, MODEL_STEP = 1 };
#endif
static const double BOUND = 1e-6, TIE_GAP = 1e-5;
enum { SHAKES = 6, TIMES = 8 };

static const char *const models[] = {"gpt2-ln", "gpt2-plain", "llama-gqa", "llama-rope3", "llama-bf16"};
enum { N_MODELS = sizeof models / sizeof models[0], PLENTY = 1 << 28 };

/* ---- Engine and reference ---------------------------------------------------------------------------------------- */

typedef struct {
    int64_t n_runs, n_metrics, n_captured, n_within, n_nowhere, n_ties, n_wrong;
    double worst, worst_times; /* error relative to the largest number; error in units of what shaking does */
} tally;

/* The model with every weight of its norms one bit larger or smaller. */
typedef struct {
    lp_model model;
    lp_block *blocks;
    float *weights;
} shaken_model;

static const float *shake(const float *weight, int32_t n, lp_random_key key, uint32_t *drawn, float *out) {
    for (int32_t i = 0; i < n; i++)
        out[i] = nextafterf(weight[i], lp_random_below(key, (*drawn)++, 2) ? INFINITY : -INFINITY);
    return out;
}

static void shaken_make(const lp_model *model, uint64_t seed, shaken_model *s) {
    int32_t d = model->config.d_model, n = model->config.n_layers;
    const lp_random_key key = {.seed = seed, .stream = 3};
    uint32_t drawn = 0;
    OK(lp_mem_new(&s->blocks, (size_t)n, sizeof *s->blocks, "shaken model", err));
    OK(lp_mem_new(&s->weights, (size_t)(2 * n + 1) * (size_t)d, sizeof(float), "shaken model", err));
    s->model = *model;
    s->model.blocks = s->blocks;
    float *at = s->weights;
    for (int32_t l = 0; l < n; l++, at += 2 * d) {
        s->blocks[l] = model->blocks[l];
        s->blocks[l].norm_attn.weight = shake(model->blocks[l].norm_attn.weight, d, key, &drawn, at);
        s->blocks[l].norm_mlp.weight = shake(model->blocks[l].norm_mlp.weight, d, key, &drawn, at + d);
    }
    s->model.final_norm.weight = shake(model->final_norm.weight, d, key, &drawn, at);
}

static void shaken_release(shaken_model *s) {
    lp_mem_free(s->blocks);
    lp_mem_free(s->weights);
}

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
        if (fabs(x) > most && x > (double)LP_NEVER_LOGIT) most = fabs(x);
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
    OK(lp_mem_new(&edits, wanted->n_edits, sizeof *edits, "edits", err));
    for (size_t i = 0; i < wanted->n_edits; i++) {
        const lp_replacement *what = &wanted->edits[i].what;
        edits[i] = (lp_edit){.at = what->at,
                             .operation = what->operation,
                             .factor = what->factor,
                             .vector = wanted->vectors[i],
                             .key_begin = wanted->edits[i].key_begin,
                             .key_end = wanted->edits[i].key_end};
    }
    OK(lp_reference_new(c->options.model, &c->options.protocol, &c->options.vocabulary, c->options.max_positions,
                        &reference, err));
    lp_run_request request = {.prompt = group->prompt,
                              .n_prompt = group->n_prompt,
                              .n_steps = wanted->n_steps,
                              .edits = edits,
                              .n_edits = (int32_t)wanted->n_edits,
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

/* Counts one comparison and says whether it is within the bound. */
static bool within(double error, double largest, double shaken, tally *t) {
    t->n_within += error <= BOUND * largest;
    if (largest > 0) t->worst = fmax(t->worst, error / largest);
    t->worst_times = fmax(t->worst_times, (error - BOUND * largest) / shaken);
    return error <= BOUND * largest + TIMES * shaken;
}

/* Metrics of one run are differences of logits of one place: they are shaken together. */
static void compare_metrics(const engine_case *c, size_t run, const lp_run_result *got, const lp_run_result *wanted,
                            const case_outcome shaken[SHAKES], tally *t) {
    double moved = 0, largest = 1;
    for (int m = 0; m < LP_N_METRICS; m++) {
        double b = (double)wanted->metrics[m];
        if (isnan(b)) continue;
        largest = fmax(largest, fabs(b));
        for (int k = 0; k < SHAKES; k++) moved = fmax(moved, fabs((double)shaken[k].results[run].metrics[m] - b));
    }
    for (int m = 0; m < LP_N_METRICS; m++) {
        double a = (double)got->metrics[m], b = (double)wanted->metrics[m];
        if (isnan(a) && isnan(b)) continue;
        t->n_metrics++;
        if (within(fabs(a - b), largest, moved, t)) continue;
        char words[800];
        case_describe(c, run, words, sizeof words);
        print_error("%s\n  %s: expected %.9g, found %.9g; one bit moves it by %.2g\n", words, lp_metric_names()[m], b,
                    a, moved);
        t->n_wrong++;
    }
}

static double distance(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]));
    return most;
}

static void compare_captures(const engine_case *c, const case_outcome *got, const case_outcome *wanted,
                             const case_outcome shaken[SHAKES], tally *t) {
    for (size_t i = 0; i < c->n_captures; i++) {
        size_t first = c->capture_at[i], end = i + 1 < c->n_captures ? c->capture_at[i + 1] : c->n_captured;
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
        const float *of = wanted->captured + first;
        double largest = 0, moved = 0, error = distance(got->captured + first, of, end - first);
        for (size_t k = first; k < end; k++) largest = fmax(largest, fabs((double)wanted->captured[k]));
        for (int k = 0; k < SHAKES; k++) moved = fmax(moved, distance(shaken[k].captured + first, of, end - first));
        t->n_captured++;
        if (within(error, largest, moved, t)) continue;
        const lp_address *at = &c->captures[i].at;
        print_error("%s seed %llu: capture %s %d %s L%d h%d: off by %.2g of %.2g; one bit moves it by %.2g\n", c->model,
                    (unsigned long long)c->seed, lp_phase_names()[at->phase], at->index, lp_site_names()[at->site],
                    at->layer, at->head, error, largest, moved);
        t->n_wrong++;
    }
}

static void compare(const engine_case *c, const case_outcome *got, const case_outcome *wanted,
                    const case_outcome shaken[SHAKES], tally *t) {
    for (size_t i = 0; i < c->n_runs; i++) {
        t->n_runs++;
        if (compare_tokens(c, i, &got->results[i], &wanted->results[i], t))
            compare_metrics(c, i, &got->results[i], &wanted->results[i], shaken, t);
    }
    compare_captures(c, got, wanted, shaken, t);
}

static uint64_t seed_of(size_t model, int draw) {
    return 1000 * (uint64_t)(model + 1) + (uint64_t)draw;
}

static void check_against_reference(lp_backend *be, int all_draws) {
    int draws = golden_quick() ? 1 : all_draws;
    lp_engine_options engine = {.backend = be, .memory_limit = PLENTY};
    const case_order by_reference = {.only = -1}, by_engine = {.engine = &engine, .only = -1};
    tally t = {0};
    for (size_t m = 0; m < N_MODELS; m++) {
        golden_model model;
        shaken_model others[SHAKES];
        golden_model_open(models[m], &model);
        for (int i = 0; i < SHAKES; i++) shaken_make(&model.model, (uint64_t)i, &others[i]);
        for (int k = 0; k < draws; k++) {
            engine_case c;
            case_outcome wanted, got, shaken[SHAKES];
            case_make(&c, models[m], &model.model, &model.vocabulary, seed_of(m, k));
            outcome_make(&c, &wanted);
            outcome_make(&c, &got);
            OK(case_execute(&c, &by_reference, &wanted, NULL, err));
            OK(case_execute(&c, &by_engine, &got, NULL, err));
            for (int i = 0; i < SHAKES; i++) {
                outcome_make(&c, &shaken[i]);
                c.options.model = &others[i].model;
                OK(case_execute(&c, &by_reference, &shaken[i], NULL, err));
            }
            c.options.model = &model.model;
            compare(&c, &got, &wanted, shaken, &t);
            for (int i = 0; i < SHAKES; i++) outcome_release(&shaken[i]);
            outcome_release(&wanted);
            outcome_release(&got);
            case_release(&c);
        }
        for (int i = 0; i < SHAKES; i++) shaken_release(&others[i]);
        golden_model_close(&model);
    }
    printf("%s: %lld runs, %lld ties; %lld metrics and %lld captures, %lld of them within %.0e; worst %.1e, %.1f times "
           "what one bit does\n",
           be->name, (long long)t.n_runs, (long long)t.n_ties, (long long)t.n_metrics, (long long)t.n_captured,
           (long long)t.n_within, BOUND, t.worst, t.worst_times);
    assert_int_equal(t.n_wrong, 0);
    assert_true(t.n_ties * 500 < t.n_runs);
    assert_true(t.n_metrics > t.n_runs && t.n_captured > 0 && t.n_nowhere > 0);
}

static void test_equals_reference(void **state) {
    check_against_reference(*state, DRAWS);
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

/* Each run in a group of its own, so that it shares nothing. Of its metrics it lacks the distance from the unpatched
 * run, which is not there. */
static void check_alone(engine_case *c, const lp_engine_options *engine, case_outcome *got,
                        const case_outcome *wanted) {
    for (size_t i = 0; i < c->n_runs; i++) {
        memset(&got->results[i].metrics, 0, sizeof got->results[i].metrics);
        OK(case_execute_alone(c, engine, i, got, err));
        float *metrics = got->results[i].metrics;
        const float *all = wanted->results[i].metrics;
        if (isnan(metrics[LP_METRIC_KL])) metrics[LP_METRIC_KL] = all[LP_METRIC_KL];
        assert_same(c, got, wanted, i, 1, "the run alone");
    }
}

/* The bytes that the engine says it needs for one unit. */
static int64_t least_bytes(engine_case *c, lp_backend *be, int32_t unit, case_outcome *out) {
    lp_engine_options engine = {.backend = be, .memory_limit = 1};
    const case_order order = {.engine = &engine, .only = unit};
    lp_error error = {0};
    assert_int_equal(case_execute(c, &order, out, NULL, &error), LP_ERR_VALUE);
    const char *words = "engine.memory_limit: expected at least ";
    assert_memory_equal(error.text, words, strlen(words));
    int64_t bytes = strtoll(error.text + strlen(words), NULL, 10);
    char tail[64];
    snprintf(tail, sizeof tail, ", found %d", 1);
    assert_string_equal(error.text + strlen(error.text) - strlen(tail), tail);
    assert_true(bytes > 0);
    return bytes;
}

/* Every draw meets a few of the circumstances and limits, and the draws together meet all of them. An emulated device
 * takes a hundred times as long: there they meet some, and no run goes alone. */
#if defined(LP_TEST_CUDA)
enum { LIMITS_A_DRAW = 3, CIRCUMSTANCES_A_DRAW = 1, MORE_TOKENS = 12, GOES_ALONE = false };
#else
enum { LIMITS_A_DRAW = 5, CIRCUMSTANCES_A_DRAW = 3, MORE_TOKENS = 24, GOES_ALONE = true };
#endif
enum { LIMITS = 10 };

/* How often memory was so short that it came to that. */
typedef struct {
    int n_cases, n_in_parts, n_preempted; /* cases; those that went in parts, or were set back, at some limit */
    bool in_parts, preempted;             /* the case at hand */
    int n_at_limit[LIMITS];               /* cases that met it */
    int next, next_limit;                 /* circumstance, from the last on, and limit of the next case */
} shortage;

static void check_limit(engine_case *c, const lp_engine_options *engine, bool backwards, const char *words,
                        case_outcome *got, const case_outcome *wanted, shortage *seen) {
    const case_order order = {.engine = engine, .only = -1, .backwards = backwards};
    lp_engine_counters counters = {0};
    OK(case_execute(c, &order, got, &counters, err));
    assert_same(c, got, wanted, 0, c->n_runs, words);
    if ((int64_t)counters.peak_bytes > engine->memory_limit)
        fail_msg("%s seed %llu, %s: took %zu bytes", c->model, (unsigned long long)c->seed, words, counters.peak_bytes);
    assert_true(counters.most_pages <= counters.n_pages);
    assert_int_equal(counters.n_requests, c->n_groups);
    seen->in_parts |= counters.n_parts > counters.n_requests;
    seen->preempted |= counters.n_preemptions > 0;
}

static void check_circumstances(engine_case *c, lp_backend *one, lp_backend *two, shortage *seen) {
    case_outcome wanted, got;
    lp_engine_options plain = {.backend = one, .memory_limit = PLENTY};
    lp_engine_counters all = {0};
    int64_t least = 0;
    size_t n = c->n_runs;
    outcome_make(c, &wanted);
    outcome_make(c, &got);
    OK(case_execute(c, &(case_order){.engine = &plain, .only = -1}, &wanted, &all, err));
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
        {"two threads, two batches", {.backend = two, .memory_limit = PLENTY}, false},
        {"two threads, two batches, little memory, backwards",
         {.backend = two, .memory_limit = 2 * least, .rows_wanted = 16},
         true},
    };
    const int n_others = (int)(sizeof others / sizeof others[0]);
    for (int k = 0; k < CIRCUMSTANCES_A_DRAW; k++) {
        int i = n_others - 1 - seen->next++ % n_others;
        check_limit(c, &others[i].engine, others[i].backwards, others[i].words, &got, &wanted, seen);
    }
    /* Ten limits between the least and what is of use; half of them with parts that are made for answers of one token.
     */
    for (int k = 0; k < LIMITS_A_DRAW && (int64_t)all.peak_bytes > least; k++) {
        int i = seen->next_limit;
        seen->next_limit = (i + 3) % LIMITS;
        seen->n_at_limit[i]++;
        lp_engine_options engine = {.backend = i % 2 ? two : one,
                                    .memory_limit =
                                        least + ((int64_t)all.peak_bytes - least) * i * i / (4 * LIMITS * LIMITS),
                                    .expected_tokens = i % 4 < 3};
        char words[80];
        snprintf(words, sizeof words, "a memory limit of %lld bytes", (long long)engine.memory_limit);
        check_limit(c, &engine, i % 3 == 0, words, &got, &wanted, seen);
    }
    for (size_t u = 0; GOES_ALONE && u < c->n_units; u++) {
        const case_order order = {.engine = &plain, .only = (int32_t)u};
        size_t first = c->first_run[c->first_group[u]];
        size_t end = u + 1 < c->n_units ? c->first_run[c->first_group[u + 1]] : n;
        OK(case_execute(c, &order, &got, NULL, err));
        assert_same(c, &got, &wanted, first, end - first, "the unit alone");
    }
    if (GOES_ALONE && seen->n_cases % INVARIANCE_DRAWS == 0) check_alone(c, &plain, &got, &wanted);
    seen->n_cases++;
    seen->n_in_parts += seen->in_parts;
    seen->n_preempted += seen->preempted;
    seen->in_parts = seen->preempted = false;
    outcome_release(&wanted);
    outcome_release(&got);
}

static lp_backend *open_backend(int32_t threads) {
    lp_backend *be = NULL;
#if defined(LP_TEST_CUDA)
    (void)threads;
    OK(lp_backend_open(&(lp_device_options){.device = LP_USE_CUDA}, &be, err));
    assert_true(be->is_asynchronous);
#else
    OK(lp_backend_cpu_new(threads, &be, err));
#endif
    return be;
}

static void test_invariance(void **state) {
    lp_backend *two = open_backend(2);
    shortage seen = {0};
    two->is_asynchronous = true; /* two batches at once */
    for (size_t m = 0; m < N_MODELS; m += MODEL_STEP) {
        golden_model model;
        golden_model_open(models[m], &model);
        for (int k = 0; k < (golden_quick() ? 1 : INVARIANCE_DRAWS); k++) {
            engine_case c;
            case_make(&c, models[m], &model.model, &model.vocabulary, seed_of(m, 500 + k));
            c.options.max_new_tokens += MORE_TOKENS; /* so that answers go on for some pages */
            check_circumstances(&c, *state, two, &seen);
            case_release(&c);
        }
        golden_model_close(&model);
    }
    printf("%d cases, %d of them in parts at some limit, %d with preemptions\n", seen.n_cases, seen.n_in_parts,
           seen.n_preempted);
    assert_true(2 * seen.n_in_parts > seen.n_cases);
#if defined(LP_TEST_CUDA)
    assert_true(seen.n_preempted > 0); /* of few cases */
#else
    assert_true(2 * seen.n_preempted > seen.n_cases);
    for (int i = 0; i < LIMITS; i++) assert_true(seen.n_at_limit[i] > 0);
#endif
    lp_backend_free(two);
}

static int setup(void **state) {
    *state = open_backend(1);
    return 0;
}

#if !defined(LP_TEST_CUDA)
static void test_equals_reference_checked(void **state) {
    check_against_reference(*state, CHECKED_DRAWS);
}

static int setup_checked(void **state) {
    lp_backend *cpu = NULL, *be = NULL;
    OK(lp_backend_cpu_new(1, &cpu, err));
    OK(lp_backend_check_new(cpu, &be, err));
    *state = be;
    return 0;
}
#endif

static int teardown(void **state) {
    lp_backend_free(*state);
    return 0;
}

int main(void) {
    if (!golden_kernels_run_here()) return GOLDEN_SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_equals_reference, setup, teardown),
#if !defined(LP_TEST_CUDA)
        cmocka_unit_test_setup_teardown(test_equals_reference_checked, setup_checked, teardown),
#endif
        cmocka_unit_test_setup_teardown(test_invariance, setup, teardown)
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
