/* Edits that depend on the nearest tokens: their arithmetic against formulas, the row that is nearest to itself, and
 * whole runs of both executors, alone and in company, on a model whose head is the embedding and on one whose head is
 * another matrix. */
#include "base/memory.h"
#include "nn/token_edit.h"
#include "support/golden.h"
#include "support/units.h"

#include <math.h>

enum { WIDTH = 3, N_STEPS = 3, MOST_TOKENS = 4, N_PROMPT = 5 };

static lp_edit edit_of(lp_operation operation, float factor, const lp_token_edit *token) {
    return (lp_edit){.operation = operation, .factor = factor, .token = token};
}

static void check_apply(const lp_edit *edit, const float *embeddings, int32_t n, const double want[WIDTH]) {
    float x[WIDTH] = {3, 4, 12};
    double work[(LP_MAX_NEAREST + 2) * WIDTH];
    lp_token_edit_apply(edit, embeddings, n, x, WIDTH, work);
    for (int i = 0; i < WIDTH; i++)
        if (fabs((double)x[i] - want[i]) > 1e-6 * (1 + fabs(want[i])))
            fail_msg("operation %d, number %d: expected %.9g, found %.9g", edit->operation, i, want[i], (double)x[i]);
}

/* x = (3, 4, 12), of norm 13. */
static void test_arithmetic(void **state) {
    (void)state;
    const float axes[2 * WIDTH] = {0, 2, 0, 1, 1, 0}, twice[3 * WIDTH] = {0, 2, 0, 0, 4, 0, 5, 0, 0};
    lp_token_edit plain = {.top = 1, .along = -1}, norm = plain, normed = plain, two = plain, along = plain;
    lp_edit edit = edit_of(LP_OP_REPLACE, 1, &plain);
    check_apply(&edit, axes, 1, (const double[]){0, 2, 0});
    norm.keep_norm = true;
    edit.token = &norm;
    check_apply(&edit, axes, 1, (const double[]){0, 13, 0});
    normed.layer_norm = true;
    edit.token = &normed; /* mean 2/3, variance 8/9 */
    double s = sqrt(8.0 / 9 + 1e-5), l = -2.0 / 3 / s, h = 4.0 / 3 / s;
    check_apply(&edit, axes, 1, (const double[]){l, h, l});
    edit = edit_of(LP_OP_ADD, -2, &plain);
    check_apply(&edit, axes, 1, (const double[]){3, 0, 12});
    edit = edit_of(LP_OP_LERP, 0.5f, &norm);
    check_apply(&edit, axes, 1, (const double[]){1.5, 8.5, 6});
    edit = edit_of(LP_OP_REMOVE, 1, &plain);
    check_apply(&edit, axes, 1, (const double[]){3, 0, 12});
    two.top = 2;
    edit.token = &two; /* the second row is no multiple of the first, and not at a right angle to it */
    check_apply(&edit, axes, 2, (const double[]){0, 0, 12});
    edit = edit_of(LP_OP_KEEP, 1, &two);
    check_apply(&edit, axes, 2, (const double[]){3, 4, 0});
    two.keep_norm = true;
    check_apply(&edit, axes, 2, (const double[]){3 * 13.0 / 5, 4 * 13.0 / 5, 0});
    /* A row that is a multiple of another adds nothing to the span. */
    two.keep_norm = false;
    two.top = 3;
    check_apply(&edit, twice, 3, (const double[]){3, 4, 0});
    /* 3 times the part along (1, 1, 0), which is 3.5 (1, 1, 0), of the vector as it was. */
    along.along = 7;
    along.times = 3;
    edit = edit_of(LP_OP_REMOVE, 1, &along);
    check_apply(&edit, axes, 2, (const double[]){3 + 10.5, 0 + 10.5, 12});
    /* With a vector of its own, an edit is what it is without a token edit. */
    const float vector[WIDTH] = {7, 8, 9};
    edit = edit_of(LP_OP_REPLACE, 1, &plain);
    edit.vector = vector;
    check_apply(&edit, NULL, 0, (const double[]){7, 8, 9});
}

static void test_lists(void **state) {
    (void)state;
    const int32_t nearest[3] = {2, 0, 1}, map[4] = {-1, 1, 3, 0}, closed[4] = {0, 1, -1, 3};
    lp_token_edit token = {.top = 1, .along = -1, .map = map};
    lp_edit edit = edit_of(LP_OP_REPLACE, 1, &token);
    int32_t out[LP_MAX_NEAREST + 1];
    assert_int_equal(lp_token_edit_list(&edit, nearest, out), 1);
    assert_int_equal(out[0], 3); /* what stands for token 2 */
    token.map = closed;
    assert_int_equal(lp_token_edit_list(&edit, nearest, out), -1);
    token = (lp_token_edit){.top = 3, .along = 9};
    edit = edit_of(LP_OP_REMOVE, 1, &token);
    assert_int_equal(lp_token_edit_list(&edit, nearest, out), 4);
    for (int i = 0; i < 3; i++) assert_int_equal(out[i], nearest[i]);
    assert_int_equal(out[3], 9);
    edit.operation = LP_OP_SCALE;
    assert_int_equal(lp_token_edit_list(&edit, nearest, out), 0);
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

typedef struct {
    lp_phase phase;
    int32_t index;
    lp_site site;
    int32_t layer;
    lp_operation operation;
    float factor;
    bool zero; /* the vector is zeros, and the token only a condition; otherwise the embedding, or the span */
    lp_token_edit token;
} run_case;

static int32_t odd_only[4096]; /* token: itself, where it is odd */

static const run_case cases[] = {
    /* nothing changes: an embedding is nearest to itself */
    {LP_PHASE_PROMPT, LP_INDEX_ALL, LP_SITE_LATENT_IN, 0, LP_OP_REPLACE, 1, false, {.by = 1, .top = 1, .along = -1}},
    {LP_PHASE_PROMPT,
     LP_INDEX_ALL,
     LP_SITE_LATENT_IN,
     0,
     LP_OP_REPLACE,
     1,
     false,
     {.by = 1, .top = 1, .along = -1, .keep_norm = true}},
    /* every kind, at sites and phases of all kinds */
    {LP_PHASE_THOUGHT, LP_INDEX_ALL, LP_SITE_LATENT_RAW, 0, LP_OP_REPLACE, 1, false, {.top = 1, .along = -1}},
    {LP_PHASE_THOUGHT, 1, LP_SITE_LATENT_RAW, 0, LP_OP_REPLACE, 1, false, {.by = 1, .top = 1, .along = -1}},
    {LP_PHASE_THOUGHT, 0, LP_SITE_RESID_POST, 0, LP_OP_LERP, 0.5f, false, {.top = 1, .along = -1, .layer_norm = true}},
    {LP_PHASE_THOUGHT, LP_INDEX_ALL, LP_SITE_LATENT_IN, 0, LP_OP_KEEP, 1, false, {.by = 1, .top = 5, .along = -1}},
    {LP_PHASE_PROMPT, -1, LP_SITE_LATENT_RAW, 0, LP_OP_REMOVE, 1, false, {.top = 16, .along = 3, .times = 2}},
    {LP_PHASE_THOUGHT,
     LP_INDEX_ALL,
     LP_SITE_ATTN_OUT,
     1,
     LP_OP_REPLACE,
     1,
     true,
     {.top = 1, .along = -1, .map = odd_only}},
    {LP_PHASE_ANSWER, LP_INDEX_ALL, LP_SITE_MLP_OUT, 0, LP_OP_SCALE, 2, true, {.top = 1, .along = -1, .map = odd_only}},
    {LP_PHASE_ANSWER, 1, LP_SITE_RESID_MID, 1, LP_OP_ADD, 0.1f, false, {.by = 1, .top = 1, .along = -1}}};
enum { N_CASES = sizeof cases / sizeof cases[0], N_RUNS = N_CASES + 1, N_SAME = 3 };

typedef struct {
    int32_t tokens[N_RUNS][MOST_TOKENS];
    lp_run_result results[N_RUNS];
    float captured[N_RUNS][N_STEPS][64];
} outcome;

typedef struct {
    golden_model model;
    lp_executor_options options;
    int32_t prompt[N_PROMPT];
    lp_condition_set set;
    lp_edit_sequence edits[N_RUNS];
    lp_token_edit tokens[N_CASES];
    lp_run_wanted runs[N_RUNS];
    lp_capture captures[N_RUNS][N_STEPS];
    const float *vectors[N_RUNS][16];
} fixture;

static void make(const char *name, fixture *f) {
    static const float zeros[4096];
    golden_model_open(name, &f->model);
    f->options = (lp_executor_options){.model = &f->model.model,
                                       .protocol = golden_protocol("codi", N_STEPS),
                                       .vocabulary = f->model.vocabulary,
                                       .max_new_tokens = MOST_TOKENS,
                                       .max_positions = 64};
    golden_resolve_roles(&f->options.protocol, &f->options.vocabulary);
    assert_true(f->model.model.config.d_model <= 64 && f->options.vocabulary.n_candidates <= 4096);
    for (int i = 0; i < 4096; i++) odd_only[i] = i % 2 ? i : -1;
    for (int i = 0; i < N_PROMPT; i++) f->prompt[i] = 3 + 2 * i;
    lp_run_shape shape = {.config = &f->model.model.config, .protocol = f->options.protocol, .n_prompt = N_PROMPT};
    for (size_t r = 0; r < N_RUNS; r++) {
        lp_condition *condition = NULL;
        char text[32];
        snprintf(text, sizeof text, "run %zu", r);
        OK(lp_condition_add(&f->set, text, "", "", "", &condition, err));
        condition->n_steps_run = N_STEPS;
        if (r > 0) {
            const run_case *of = &cases[r - 1];
            f->tokens[r - 1] = of->token;
            lp_replacement what = {.at = {of->phase, of->index, of->site, of->layer, LP_ALL_HEADS},
                                   .operation = of->operation,
                                   .factor = of->factor,
                                   .donor = of->zero || lp_operation_has_subspace(of->operation) ? LP_DONOR_ZERO
                                                                                                 : LP_DONOR_TOKEN,
                                   .token = (int32_t)r};
            what.from = what.at;
            OK(lp_condition_replace(&f->set, &what, err));
        }
        OK(lp_condition_effective(&f->set, r, &shape, &f->edits[r], err));
        for (size_t e = 0; e < f->edits[r].n; e++)
            f->vectors[r][e] = r > 0 && cases[r - 1].zero && cases[r - 1].operation == LP_OP_REPLACE ? zeros : NULL;
        f->runs[r] = (lp_run_wanted){.edits = f->edits[r].edits,
                                     .vectors = f->vectors[r],
                                     .n_edits = f->edits[r].n,
                                     .n_steps = N_STEPS,
                                     .captures = f->captures[r],
                                     .n_captures = N_STEPS};
    }
}

static void drop(fixture *f) {
    for (size_t r = 0; r < N_RUNS; r++) lp_edit_sequence_release(&f->edits[r]);
    lp_condition_set_release(&f->set);
    golden_model_close(&f->model);
}

/* rows_wanted < 0: the reference executor. Runs [first, first + n). */
static void execute(fixture *f, size_t first, size_t n, int32_t rows_wanted, outcome *out) {
    for (size_t r = first; r < first + n; r++) {
        out->results[r] = (lp_run_result){.tokens = out->tokens[r]};
        for (int32_t t = 0; t < N_STEPS; t++)
            f->captures[r][t] =
                (lp_capture){{LP_PHASE_THOUGHT, t, LP_SITE_LATENT_RAW, 0, LP_ALL_HEADS}, out->captured[r][t]};
    }
    lp_run_group group = {.prompt = f->prompt,
                          .n_prompt = N_PROMPT,
                          .runs = f->runs + first,
                          .results = out->results + first,
                          .n_runs = n,
                          .token_edits = f->tokens};
    lp_work_unit unit = {.groups = &group, .n_groups = 1}, *units = &unit;
    unit_list list = {.units = &units, .n = 1};
    lp_work_source source = unit_list_source(&list);
    if (rows_wanted < 0)
        OK(lp_execute_reference(&f->options, &source, err));
    else
        OK(execute_on_cpu(&f->options, &source, rows_wanted, err));
}

static void same_bits(const fixture *f, size_t run, const outcome *a, size_t of, const outcome *b, const char *what) {
    size_t bytes = (size_t)f->model.model.config.d_model * sizeof(float);
    for (int32_t t = 0; t < N_STEPS; t++)
        if (memcmp(a->captured[run][t], b->captured[of][t], bytes) != 0)
            fail_msg("run %zu, thought %d: expected the bits of %s", run, t, what);
    assert_int_equal(a->results[run].n_tokens, b->results[of].n_tokens);
    assert_memory_equal(a->tokens[run], b->tokens[of], (size_t)a->results[run].n_tokens * sizeof(int32_t));
}

static void check_runs(const char *name) {
    static fixture f;
    static outcome reference, together, narrow, alone;
    f = (fixture){.prompt = {0}};
    reference = together = narrow = alone = (outcome){.tokens = {{0}}};
    make(name, &f);
    int32_t d = f.model.model.config.d_model;
    execute(&f, 0, N_RUNS, -1, &reference);
    execute(&f, 0, N_RUNS, 0, &together);
    execute(&f, 0, N_RUNS, 3, &narrow);
    for (size_t r = 0; r < N_RUNS; r++) {
        execute(&f, r, 1, 0, &alone);
        same_bits(&f, r, &alone, r, &together, "the run among others");
        same_bits(&f, r, &narrow, r, &together, "the run in large batches");
        for (int32_t t = 0; t < N_STEPS; t++)
            for (int32_t i = 0; i < d; i++) {
                double want = (double)reference.captured[r][t][i], got = (double)together.captured[r][t][i];
                if (fabs(want - got) > 1e-4 * (1 + fabs(want)))
                    fail_msg("%s, run %zu, thought %d, number %d: expected %.9g, found %.9g", name, r, t, i, want, got);
            }
        bool differs = memcmp(together.captured[r], together.captured[0], sizeof together.captured[0]) != 0;
        /* of answers nothing is captured */
        if (r >= N_SAME && cases[r - 1].phase != LP_PHASE_ANSWER && !differs) fail_msg("run %zu changes nothing", r);
    }
    for (size_t r = 1; r < N_SAME; r++) {
        same_bits(&f, r, &reference, 0, &reference, "the unpatched run");
        same_bits(&f, r, &together, 0, &together, "the unpatched run");
    }
    drop(&f);
}

static void test_runs_with_tied_head(void **state) {
    (void)state;
    check_runs("gpt2-ln");
}

static void test_runs_with_untied_head(void **state) {
    (void)state;
    check_runs("llama-rope3");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_arithmetic), cmocka_unit_test(test_lists),
                                       cmocka_unit_test(test_runs_with_tied_head),
                                       cmocka_unit_test(test_runs_with_untied_head)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
