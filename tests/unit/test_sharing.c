/* What rows share: at which layer the row of every run begins at every position, of whose row it takes what lies below,
 * and which of its edits are not in there. The values are worked out by hand from the rules at the top of sharing.c. No
 * model is run: the tokens that runs say are given. */
#include "support/golden.h"

#include "patch/request.h"

enum { LAYERS = 4, PROMPT = 3, STEPS = 3, ANSWER = PROMPT + STEPS, TOKENS = 3, END = ANSWER + TOKENS };
enum {
    UNPATCHED,
    IN_PROMPT,
    IN_THOUGHTS,
    LAST_STEP,
    THEN_ABOVE,
    THEN_BELOW,
    THEN_AT,
    STOPS,
    RAW,
    OTHER_TOKEN,
    TOP,
    ALL,
    N_RUNS
};
enum { USUAL = 5, OTHER = 7, EOS = 9, NONE = -1 };

typedef struct {
    lp_site site;
    int32_t layer, position;
    bool all;
} drawn_edit;

/* Runs by their edits; THEN_ABOVE, THEN_BELOW and THEN_AT go on where LAST_STEP ends. */
static const struct {
    int32_t n, n_steps;
    drawn_edit edits[2];
} drawn[N_RUNS] = {
    [UNPATCHED] = {0, STEPS, {{0}}},
    [IN_PROMPT] = {1, STEPS, {{LP_SITE_RESID_POST, 1, 1, false}}},
    [IN_THOUGHTS] = {1, STEPS, {{LP_SITE_RESID_POST, 1, PROMPT + 1, false}}},
    [LAST_STEP] = {1, STEPS, {{LP_SITE_ATTN_OUT, 2, ANSWER - 1, false}}},
    [THEN_ABOVE] = {2, STEPS, {{LP_SITE_ATTN_OUT, 2, ANSWER - 1, false}, {LP_SITE_RESID_POST, 3, ANSWER, false}}},
    [THEN_BELOW] = {2, STEPS, {{LP_SITE_ATTN_OUT, 2, ANSWER - 1, false}, {LP_SITE_K, 1, ANSWER, false}}},
    [THEN_AT] = {2, STEPS, {{LP_SITE_ATTN_OUT, 2, ANSWER - 1, false}, {LP_SITE_ATTN_OUT, 3, ANSWER, false}}},
    [STOPS] = {0, STEPS - 1, {{0}}},
    [RAW] = {1, STEPS, {{LP_SITE_LATENT_RAW, 0, PROMPT, false}}},
    [OTHER_TOKEN] = {1, STEPS, {{LP_SITE_MLP_OUT, 2, ANSWER - 1, false}}},
    [TOP] = {1, STEPS, {{LP_SITE_MLP_OUT, 3, ANSWER - 1, false}}},
    [ALL] = {1, STEPS, {{LP_SITE_RESID_MID, 2, ANSWER, true}}},
};

/* What one row is to be: the layer that it begins at, the run whose row is its source, its first own edit. */
typedef struct {
    int32_t first_layer, source, own;
} shared;
#define WHOLE                                                                                                          \
    { 0, NONE, 0 }
#define FROM(layer, run, own)                                                                                          \
    { layer, run, own }
#define NO_ROW                                                                                                         \
    { NONE, NONE, 0 }
#define NO_PROMPT NO_ROW, NO_ROW, NO_ROW

typedef struct {
    shared at[N_RUNS][END];
} rows_by_run;

/* What every run says. */
typedef struct {
    int32_t tokens[N_RUNS][TOKENS];
} speech;

static const rows_by_run expected = {
    .at = {
        [UNPATCHED] = {WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE},
        /* Prompt positions after the edit are fed the same; thoughts are not. */
        [IN_PROMPT] = {NO_ROW, FROM(2, UNPATCHED, 0), FROM(2, UNPATCHED, 0), WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE},
        [IN_THOUGHTS] = {NO_PROMPT, NO_ROW, FROM(2, UNPATCHED, 0), WHOLE, WHOLE, WHOLE, WHOLE},
        /* attn_out[2] changes keys and values from layer 3 on; the answer is fed the same tokens. */
        [LAST_STEP] = {NO_PROMPT, NO_ROW, NO_ROW, FROM(2, UNPATCHED, 0), FROM(3, UNPATCHED, 0), FROM(3, UNPATCHED, 0),
                       FROM(3, UNPATCHED, 0)},
        /* Nothing is left to compute; the source has its first edit in it. */
        [THEN_ABOVE] = {NO_PROMPT, NO_ROW, NO_ROW, NO_ROW, FROM(4, LAST_STEP, 1), FROM(4, LAST_STEP, 1),
                        FROM(4, LAST_STEP, 1)},
        /* The parent's row begins above layer 1 itself, so that the source is its parent's. */
        [THEN_BELOW] = {NO_PROMPT, NO_ROW, NO_ROW, NO_ROW, FROM(1, UNPATCHED, 0), FROM(1, UNPATCHED, 0),
                        FROM(1, UNPATCHED, 0)},
        /* At first the parent's row begins where this one does; then it has what was changed below. */
        [THEN_AT] = {NO_PROMPT, NO_ROW, NO_ROW, NO_ROW, FROM(3, UNPATCHED, 0), FROM(4, LAST_STEP, 1),
                     FROM(4, LAST_STEP, 1)},
        [STOPS] = {NO_PROMPT, NO_ROW, NO_ROW, WHOLE, WHOLE, WHOLE, NO_ROW},
        /* latent_raw leaves keys and values as they are, but the next step is fed something else. */
        [RAW] = {NO_PROMPT, FROM(4, UNPATCHED, 0), WHOLE, WHOLE, WHOLE, WHOLE, WHOLE},
        /* It says another token first, and the usual one next: what it has read differs from then on. */
        [OTHER_TOKEN] = {NO_PROMPT, NO_ROW, NO_ROW, FROM(2, UNPATCHED, 0), FROM(3, UNPATCHED, 0), WHOLE, WHOLE},
        /* The last layer's output is in no key or value. */
        [TOP] = {NO_PROMPT, NO_ROW, NO_ROW, FROM(3, UNPATCHED, 0), FROM(4, UNPATCHED, 0), FROM(4, UNPATCHED, 0),
                 FROM(4, UNPATCHED, 0)},
        [ALL] = {NO_PROMPT, NO_ROW, NO_ROW, NO_ROW, FROM(2, UNPATCHED, 0), FROM(2, UNPATCHED, 0),
                 FROM(2, UNPATCHED, 0)},
    }};

/* ---- Driving a request ------------------------------------------------------------------------------------------- */

typedef struct {
    lp_model model;
    lp_executor_options options;
    int32_t prompt[PROMPT];
    lp_timed_edit edits[N_RUNS][2];
    lp_run_wanted runs[N_RUNS];
    lp_run_result results[N_RUNS];
    int32_t tokens[N_RUNS][TOKENS];
    lp_run_group group;
    lp_page_pool pages, saved;
    lp_request request;
} fixture;

static void fixture_make(fixture *f, lp_protocol_kind kind) {
    lp_model_config *c = &f->model.config;
    *f = (fixture){.model.config = {.n_layers = LAYERS, .n_heads = 1, .n_kv_heads = 1, .head_dim = 4, .d_model = 4}};
    f->options =
        (lp_executor_options){.model = &f->model,
                              .protocol = lp_protocol_preset(kind, STEPS),
                              .vocabulary = {.answer_start = {1}, .n_answer_start = 1, .stop = {EOS}, .n_stop = 1},
                              .max_new_tokens = TOKENS,
                              .max_positions = END};
    for (int32_t i = 0; i < N_RUNS; i++) {
        for (int32_t k = 0; k < drawn[i].n; k++) {
            const drawn_edit *d = &drawn[i].edits[k];
            lp_timed_edit *edit = &f->edits[i][k];
            *edit = (lp_timed_edit){.position = d->position, .all = d->all};
            edit->what.at = (lp_address){.site = d->site, .layer = d->layer, .head = LP_ALL_HEADS};
            edit->depth = lp_address_depth(c, &edit->what.at);
        }
        f->runs[i] = (lp_run_wanted){.edits = f->edits[i], .n_edits = (size_t)drawn[i].n, .n_steps = drawn[i].n_steps};
        f->results[i].tokens = f->tokens[i];
    }
    f->group = (lp_run_group){
        .prompt = f->prompt, .n_prompt = PROMPT, .runs = f->runs, .results = f->results, .n_runs = N_RUNS};
    OK(lp_pages_init(&f->pages, 64, err));
    OK(lp_pages_init(&f->saved, 1, err));
    OK(lp_request_open(&f->request, &f->options, &f->group, &f->pages, &f->saved, err));
}

static void fixture_release(fixture *f) {
    lp_request_release(&f->request);
    lp_pages_release(&f->pages);
    lp_pages_release(&f->saved);
}

/* *got = what the rows were, in batches of max_rows at most, which are counted. */
static int run_in_batches(fixture *f, const speech *says, int32_t max_rows, rows_by_run *got) {
    lp_request *request = &f->request;
    const lp_request_need limits = {64, max_rows, 1};
    int n_batches = 0;
    lp_request_need need;
    int64_t n_answers = 0, n_tokens = 0;
    bool begun = false;
    for (int i = 0; i < N_RUNS; i++)
        for (int q = 0; q < END; q++) got->at[i][q] = (shared)NO_ROW;
    OK(lp_request_plan_part(request, &limits, TOKENS, &need, err));
    OK(lp_request_begin_part(request, &begun, err));
    assert_true(begun);
    int32_t n_rows = 0, n_pages = 0, n_free = 0;
    while ((n_rows = lp_request_count_rows(request, &n_pages)) > 0) {
        n_free = f->pages.n_free;
        lp_request_make_rows(request);
        n_batches++;
        assert_true(request->n_rows <= n_rows && n_rows <= max_rows && n_free - f->pages.n_free <= n_pages);
        for (int32_t r = 0; r < request->n_rows; r++) {
            const lp_request_row *row = &request->rows[r];
            const lp_request_branch *b = &request->branches[row->branch];
            int32_t source =
                row->source < 0 ? NONE : request->branches[request->rows[row->source].branch].plan.first_run;
            assert_true(row->source < r);
            if (row->source >= 0) assert_int_equal(request->rows[row->source].position, row->position);
            got->at[b->plan.first_run][row->position] = (shared){row->first_layer, source, row->first_own_edit};
            if (row->chooses)
                lp_request_accept_token(request, row->branch, says->tokens[b->plan.first_run][b->n_tokens], NULL);
        }
        lp_request_end_step(request);
    }
    lp_request_end_part(request, &n_answers, &n_tokens);
    assert_true(lp_request_is_done(request));
    assert_int_equal(n_answers, f->group.n_runs);
    assert_int_equal(f->pages.n_free, f->pages.n);
    return n_batches;
}

static void run_all(fixture *f, const speech *says, rows_by_run *got) {
    assert_int_equal(run_in_batches(f, says, 64, got), 1 + STEPS + TOKENS);
}

static void same_rows(const rows_by_run *got, const rows_by_run *wanted) {
    for (int i = 0; i < N_RUNS; i++)
        for (int q = 0; q < END; q++)
            if (memcmp(&got->at[i][q], &wanted->at[i][q], sizeof(shared)) != 0)
                fail_msg("run %d, position %d: from layer %d of run %d, own edits from %d; expected %d, %d, %d", i, q,
                         got->at[i][q].first_layer, got->at[i][q].source, got->at[i][q].own,
                         wanted->at[i][q].first_layer, wanted->at[i][q].source, wanted->at[i][q].own);
}

static void usual_tokens(speech *says) {
    for (int i = 0; i < N_RUNS; i++)
        for (int k = 0; k < TOKENS; k++) says->tokens[i][k] = USUAL;
    says->tokens[OTHER_TOKEN][0] = OTHER;
}

/* ---- Tests ------------------------------------------------------------------------------------------------------- */

static void test_rows(void **state) {
    (void)state;
    fixture f;
    speech says;
    rows_by_run got;
    usual_tokens(&says);
    fixture_make(&f, LP_PROTOCOL_CODI);
    run_all(&f, &says, &got);
    same_rows(&got, &expected);
    fixture_release(&f);
}

/* Where step 0 is fed a token, it is fed the same whatever the prompt computed. */
static void test_first_input(void **state) {
    (void)state;
    fixture f;
    speech says;
    rows_by_run got, wanted = expected;
    usual_tokens(&says);
    wanted.at[IN_PROMPT][PROMPT] = (shared)FROM(2, UNPATCHED, 0);
    fixture_make(&f, LP_PROTOCOL_BOT_FIRST);
    run_all(&f, &says, &got);
    same_rows(&got, &wanted);
    fixture_release(&f);
}

/* Where the reference has ended its answer, its own reference takes its place: what differed from that one is computed,
 * too. */
static void test_reference_ends(void **state) {
    (void)state;
    fixture f;
    speech says;
    rows_by_run got, wanted = expected;
    usual_tokens(&says);
    says.tokens[LAST_STEP][0] = EOS;
    for (int q = ANSWER + 1; q < END; q++) {
        wanted.at[LAST_STEP][q] = (shared)NO_ROW;
        wanted.at[THEN_ABOVE][q] = wanted.at[THEN_AT][q] = (shared)FROM(3, UNPATCHED, 0);
    }
    fixture_make(&f, LP_PROTOCOL_CODI);
    run_all(&f, &says, &got);
    same_rows(&got, &wanted);
    fixture_release(&f);
}

/* A prompt that is longer than a batch goes in chunks, and shares in them what it would share at once. */
static void test_chunks(void **state) {
    (void)state;
    fixture f;
    speech says;
    rows_by_run got, wanted = expected;
    usual_tokens(&says);
    for (int i = IN_PROMPT + 1; i < N_RUNS; i++)
        for (int q = 0; q < END; q++) wanted.at[i][q] = (shared)NO_ROW;
    for (int32_t max_rows = 2; max_rows < 6; max_rows++) {
        fixture_make(&f, LP_PROTOCOL_CODI);
        f.group.n_runs = 2;
        OK(lp_request_open(&f.request, &f.options, &f.group, &f.pages, &f.saved, err));
        /* Two runs have rows in the prompt. */
        int chunk = max_rows < 5 ? max_rows / 2 : PROMPT, n_chunks = (PROMPT + chunk - 1) / chunk;
        assert_int_equal(run_in_batches(&f, &says, max_rows, &got), n_chunks + STEPS + TOKENS);
        same_rows(&got, &wanted);
        fixture_release(&f);
    }
}

/* The second part makes again what its run shares with the last one of the first: the unpatched thoughts up to the
 * fork (3 rows of 4 layers), and the row of the fork up to the second edit (2 layers). */
static void test_border_of_parts(void **state) {
    (void)state;
    enum { N = 3 };
    static const int picked[N] = {UNPATCHED, LAST_STEP, THEN_ABOVE};
    const lp_request_need limits = {64, 2, 1};
    lp_run_wanted runs[N];
    fixture f;
    int64_t n_answers = 0, n_tokens = 0;
    fixture_make(&f, LP_PROTOCOL_CODI);
    lp_request *request = &f.request;
    for (int i = 0; i < N; i++) runs[i] = f.runs[picked[i]];
    f.group.runs = runs;
    f.group.n_runs = N;
    OK(lp_request_open(request, &f.options, &f.group, &f.pages, &f.saved, err));
    while (!lp_request_is_done(request)) {
        lp_request_need need;
        bool begun = false;
        OK(lp_request_plan_part(request, &limits, TOKENS, &need, err));
        OK(lp_request_begin_part(request, &begun, err));
        assert_true(begun);
        while (lp_request_count_rows(request, NULL) > 0) {
            lp_request_make_rows(request);
            for (int32_t r = 0; r < request->n_rows; r++)
                if (request->rows[r].chooses) lp_request_accept_token(request, request->rows[r].branch, USUAL, NULL);
            lp_request_end_step(request);
        }
        lp_request_end_part(request, &n_answers, &n_tokens);
    }
    assert_int_equal(n_answers, N);
    assert_int_equal(request->n_parts, 2);
    assert_int_equal(request->row_layers_lost, 3 * LAYERS + 2);
    fixture_release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rows), cmocka_unit_test(test_first_input),
                                       cmocka_unit_test(test_reference_ends), cmocka_unit_test(test_chunks),
                                       cmocka_unit_test(test_border_of_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
