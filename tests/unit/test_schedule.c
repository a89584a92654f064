/* Which parts of which units run: how many are taken in, whose rows make a batch, and who is set back when pages run
 * out. The engine's state is made by hand and no model is run; each run says tokens that depend on nothing but unit,
 * run and place. */
#include "support/golden.h"

#include "backend/device.h"
#include "base/memory.h"
#include "patch/engine_state.h"

enum { LAYERS = 2, PROMPT = 4, STEPS = 2, TOKENS = 40, N_UNITS = 6, N_RUNS = 3, MOST_ROWS = 64 };
/* Positions PROMPT to PROMPT + STEPS + TOKENS - 1 take 3 pages, the prompt takes one. */
enum { PAGES_OF_BRANCH = 3, PAGES_OF_UNIT = 1 + N_RUNS * PAGES_OF_BRANCH, PLENTY = 4 * N_UNITS * PAGES_OF_UNIT };
/* A run with its unpatched one up to where they part. */
enum { LEAST_PAGES = 1 + PAGES_OF_BRANCH + 1 };

typedef struct {
    lp_model model;
    lp_executor_options options;
    lp_engine_options engine;
    lp_backend backend;
    int32_t prompt[PROMPT];
    lp_timed_edit edits[N_RUNS];
    lp_run_wanted runs[N_RUNS];
    lp_run_result results[N_UNITS][N_RUNS];
    int32_t tokens[N_UNITS][N_RUNS][TOKENS];
    lp_run_group groups[N_UNITS];
    lp_work_unit units[N_UNITS];
    lp_work_source source;
    int32_t n_given, n_done;
    int64_t done[N_UNITS]; /* [n_done] ids in the order in which they were handed over */
    lp_batch_row rows[2][MOST_ROWS];
    lp_engine e;
} fixture;

static int32_t token_of(int64_t unit, int32_t run, int32_t k) {
    return (int32_t)(10000 * unit) + 100 * run + k;
}

static lp_status next_unit(void *user, lp_work_unit **unit, lp_error *err) {
    fixture *f = user;
    (void)err;
    *unit = f->n_given < N_UNITS ? &f->units[f->n_given++] : NULL;
    return LP_OK;
}

static lp_status unit_done(void *user, lp_work_unit *unit, lp_error *err) {
    fixture *f = user;
    (void)err;
    if (f->n_done == N_UNITS) fail_msg("unit %lld is done once more", (long long)unit->id);
    f->done[f->n_done++] = unit->id;
    return LP_OK;
}

/* Run 0 is unpatched; run i > 0 is edited at step 0, in layer i - 1. */
static fixture *fixture_new(int32_t n_pages, int32_t max_rows, int32_t rows_wanted, int32_t expected_tokens) {
    fixture *f = NULL;
    OK(lp_mem_new(&f, 1, sizeof *f, "fixture", err));
    f->model.config =
        (lp_model_config){.n_layers = LAYERS, .d_model = 4, .n_heads = 1, .n_kv_heads = 1, .head_dim = 4, .n_vocab = 8};
    f->options = (lp_executor_options){.model = &f->model,
                                       .protocol = lp_protocol_preset(LP_PROTOCOL_CODI, STEPS),
                                       .vocabulary = {.answer_start = {1}, .n_answer_start = 1},
                                       .max_new_tokens = TOKENS,
                                       .max_positions = PROMPT + STEPS + TOKENS};
    f->backend = (lp_backend){.batch_rows = MOST_ROWS};
    f->engine =
        (lp_engine_options){.backend = &f->backend, .rows_wanted = rows_wanted, .expected_tokens = expected_tokens};
    for (int32_t i = 0; i < N_RUNS; i++) {
        lp_timed_edit *edit = &f->edits[i];
        edit->position = PROMPT;
        edit->what.at = (lp_address){
            .phase = LP_PHASE_THOUGHT, .site = LP_SITE_RESID_POST, .layer = i > 0 ? i - 1 : 0, .head = LP_ALL_HEADS};
        edit->depth = lp_address_depth(&f->model.config, &edit->what.at);
        f->runs[i] = (lp_run_wanted){.edits = edit, .n_edits = i > 0, .n_steps = STEPS};
    }
    for (int32_t u = 0; u < N_UNITS; u++) {
        for (int32_t i = 0; i < N_RUNS; i++) f->results[u][i].tokens = f->tokens[u][i];
        f->groups[u] = (lp_run_group){
            .prompt = f->prompt, .n_prompt = PROMPT, .runs = f->runs, .results = f->results[u], .n_runs = N_RUNS};
        f->units[u] = (lp_work_unit){.id = u, .groups = &f->groups[u], .n_groups = 1};
    }
    f->source = (lp_work_source){.user = f, .next = next_unit, .done = unit_done};
    lp_engine *e = &f->e;
    e->options = &f->options;
    e->engine = &f->engine;
    e->source = &f->source;
    e->be = &f->backend;
    e->max_rows = max_rows;
    for (int i = 0; i < 2; i++) e->batches[i].rows = f->rows[i];
    OK(lp_pages_init(&e->kv.pages, n_pages, err));
    OK(lp_pages_init(&e->kv.saved_rows, 1, err));
    return f;
}

static void fixture_free(fixture *f) {
    lp_engine_schedule *s = &f->e.schedule;
    for (int32_t i = 0; i < s->n_inflight; i++) lp_engine_free_inflight(s->inflight[i]);
    for (int32_t i = 0; i < s->n_idle; i++) lp_engine_free_inflight(s->idle[i]);
    lp_engine_free_inflight(s->waiting);
    lp_pages_release(&f->e.kv.pages);
    lp_pages_release(&f->e.kv.saved_rows);
    lp_mem_free(f);
}

/* What a forward pass and lp_step_batch_hand_out would do. */
static void hand_out(fixture *f, const lp_step_batch *batch) {
    for (int32_t i = 0; i < batch->n_rows; i++) {
        lp_request *request = batch->rows[i].request;
        const lp_request_row *row = lp_batch_row_of(&batch->rows[i]);
        if (!row->chooses) continue;
        const lp_request_branch *b = &request->branches[row->branch];
        int64_t unit = request->group - f->groups;
        lp_request_accept_token(request, row->branch, token_of(unit, b->plan.run, b->n_tokens), NULL);
    }
    for (int32_t i = 0; i < batch->n_rows; i++) lp_request_end_step(batch->rows[i].request);
}

/* The unit whose rows a batch has, which are of one unit alone; -1: it has none. */
static int64_t unit_of(const fixture *f, const lp_step_batch *batch) {
    int64_t unit = batch->n_rows > 0 ? batch->rows[0].request->group - f->groups : -1;
    for (int32_t i = 0; i < batch->n_rows; i++) assert_int_equal(batch->rows[i].request->group - f->groups, unit);
    return unit;
}

static lp_request *request_of(fixture *f, int32_t place) {
    return &f->e.schedule.inflight[place]->requests[0];
}

/* Until all units are done; all results must be there, and nothing held. */
static void run_to_end(fixture *f) {
    lp_engine *e = &f->e;
    for (int steps = 0;; steps++) {
        if (steps > 100000) fail_msg("no end: %d of %d units are done", f->n_done, N_UNITS);
        OK(lp_engine_admit(e, err));
        if (e->schedule.n_inflight == 0) break;
        uint64_t before = e->counters.n_preemptions;
        e->n_under_way = 1;
        lp_engine_gather_rows(e, &e->batches[0]);
        e->n_under_way = 0;
        assert_int_equal(e->counters.n_preemptions, before); /* nobody is set back while a batch is under way */
        if (e->batches[0].n_rows == 0) lp_engine_gather_rows(e, &e->batches[0]);
        assert_in_range(e->batches[0].n_rows, 0, e->max_rows);
        hand_out(f, &e->batches[0]);
        OK(lp_engine_finish_units(e, err));
    }
    assert_int_equal(f->n_done, N_UNITS);
    for (int32_t u = 0; u < N_UNITS; u++) {
        assert_int_equal(f->done[u], u);
        for (int32_t i = 0; i < N_RUNS; i++) {
            assert_int_equal(f->results[u][i].n_tokens, TOKENS);
            for (int32_t k = 0; k < TOKENS; k++) assert_int_equal(f->tokens[u][i][k], token_of(u, i, k));
        }
    }
    assert_int_equal(e->kv.pages.n_free, e->kv.pages.n);
    assert_int_equal(e->counters.n_requests, N_UNITS);
}

/* ---- Tests ------------------------------------------------------------------------------------------------------- */

/* Units are taken in until there are rows for two batches. */
static void test_admission(void **state) {
    (void)state;
    fixture *f = fixture_new(PLENTY, MOST_ROWS, 4, TOKENS);
    OK(lp_engine_admit(&f->e, err));
    assert_int_equal(f->e.schedule.n_inflight, 3); /* 9 rows; 6 are less than 2 x 4 */
    assert_int_equal(f->n_given, 3);
    OK(lp_engine_admit(&f->e, err));
    assert_int_equal(f->n_given, 3);
    run_to_end(f);
    assert_int_equal(f->e.counters.most_units, 3);
    assert_int_equal(f->e.counters.n_preemptions, 0);
    assert_int_equal(f->e.counters.n_parts, N_UNITS);
    fixture_free(f);
}

/* A unit that finds no room for its part waits, and no other is taken in after it. */
static void test_no_room(void **state) {
    (void)state;
    enum { NEED = 1 + N_RUNS }; /* pages with answers of one token */
    fixture *f = fixture_new(2 * NEED, MOST_ROWS, MOST_ROWS, 1);
    OK(lp_engine_admit(&f->e, err));
    assert_int_equal(f->e.schedule.n_inflight, 3);
    assert_int_equal(f->n_given, 3);
    assert_true(request_of(f, 0)->is_active && request_of(f, 1)->is_active);
    assert_false(request_of(f, 2)->is_active);
    fixture_free(f);
}

/* Where a batch has room for one unit, each comes in its turn, and one that is under way is left alone. */
static void test_turns(void **state) {
    (void)state;
    fixture *f = fixture_new(PLENTY, PROMPT + 1, 4, TOKENS);
    lp_engine *e = &f->e;
    OK(lp_engine_admit(e, err));
    assert_int_equal(e->schedule.n_inflight, 3);
    for (int64_t turn = 0; turn < 7; turn++) {
        lp_engine_gather_rows(e, &e->batches[0]);
        assert_int_equal(unit_of(f, &e->batches[0]), turn % 3);
        hand_out(f, &e->batches[0]);
    }
    lp_engine_gather_rows(e, &e->batches[0]);
    assert_int_equal(unit_of(f, &e->batches[0]), 1);
    e->n_under_way = 1;
    for (int turn = 0; turn < 3; turn++) {
        lp_engine_gather_rows(e, &e->batches[1]);
        assert_int_equal(unit_of(f, &e->batches[1]), turn == 1 ? 0 : 2);
        hand_out(f, &e->batches[1]);
    }
    fixture_free(f);
}

/* Answers are longer than was expected: the youngest are set back, the oldest unit is done first, and what was set back
 * says the same in the end. */
static void test_preemption(void **state) {
    (void)state;
    fixture *f = fixture_new(PAGES_OF_UNIT + 2, MOST_ROWS, MOST_ROWS, 1);
    run_to_end(f);
    assert_true(f->e.counters.n_preemptions > 0);
    assert_true(f->e.counters.row_layers_lost > 0);
    fixture_free(f);
}

/* With the least memory that is allowed every run is made alone in the end. */
static void test_least(void **state) {
    (void)state;
    for (int32_t expected = 1; expected <= TOKENS; expected += TOKENS - 1) {
        fixture *f = fixture_new(LEAST_PAGES, MOST_ROWS, MOST_ROWS, expected);
        run_to_end(f);
        assert_true(f->e.counters.n_parts > N_UNITS);
        fixture_free(f);
    }
}

/* Pages grow to twice as many, and to what the limit allows; the memory taken is what a page is said to take. */
static void test_growth(void **state) {
    (void)state;
    enum { FIRST = 4, MOST = 10 };
    fixture *f = fixture_new(FIRST, MOST_ROWS, MOST_ROWS, 1);
    lp_engine *e = &f->e;
    lp_backend *cpu = NULL;
    OK(lp_backend_cpu_new(1, &cpu, err));
    e->be = cpu;
    e->limit = MOST * lp_engine_page_bytes(cpu, &f->model) + lp_engine_page_bytes(cpu, &f->model) / 2;
    static const int32_t pages[] = {FIRST, 2 * FIRST, MOST, MOST};
    for (size_t i = 0; i < sizeof pages / sizeof pages[0]; i++) {
        assert_int_equal(e->kv.pages.n, pages[i]);
        assert_int_equal(e->kv.pages.n_free, pages[i]);
        assert_int_equal(lp_engine_can_grow(e), pages[i] < MOST);
        OK(lp_engine_grow(e, err));
    }
    assert_int_equal(e->kv.pool.n_slots, MOST * LP_PAGE_POSITIONS);
    assert_int_equal(e->counters.peak_bytes, MOST * lp_engine_page_bytes(cpu, &f->model));
    assert_true((int64_t)e->counters.peak_bytes <= e->limit);
    lp_engine_free_pools(e);
    lp_backend_free(cpu);
    fixture_free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_admission), cmocka_unit_test(test_no_room),
                                       cmocka_unit_test(test_turns),     cmocka_unit_test(test_preemption),
                                       cmocka_unit_test(test_least),     cmocka_unit_test(test_growth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
