/* Recorded sequences of the forward pass: the checking backend compares the calls of batches that have one key. */
#include "support/golden.h"

#include "nn/forward.h"
#include "support/check_backend.h"

enum { ROWS = 3 };

static lp_error error, *failure = &error;

typedef struct {
    const char *what;
    int32_t first_layer[ROWS];
    uint8_t output[ROWS];
    int32_t token, tail; /* what lies in the lists may differ */
    bool same_calls;     /* as the case before */
} records_case;

static lp_backend *open_checked(void) {
    lp_backend *cpu = NULL, *be = NULL;
    OK(lp_backend_cpu_new(1, &cpu, err));
    OK(lp_backend_check_new(cpu, &be, err));
    return be;
}

static void run_case(lp_forward *forward, const lp_kv_pool *pool, const float *latents, const records_case *k) {
    static const int32_t zeros[ROWS] = {0}, slots[ROWS] = {0, 1, 2}, lengths[ROWS] = {1, 1, 1};
    lp_row_input input[ROWS] = {{.token = k->token}, {.token = k->token}, {.token = k->token}};
    const int32_t begins[ROWS] = {k->tail, k->tail + 1, k->tail + 2}, tail[2 * ROWS] = {0, 1, 2, 0, 1, 2};
    const lp_forward_batch batch = {.n_rows = ROWS,
                                    .first_layer = k->first_layer,
                                    .source = zeros,
                                    .input = input,
                                    .output = k->output,
                                    .position = zeros,
                                    .slot = slots,
                                    .prompt_begin = zeros,
                                    .prompt_length = zeros,
                                    .tail_begin = begins,
                                    .tail_length = lengths,
                                    .tail = tail,
                                    .n_tail = 2 * ROWS,
                                    .latents = latents,
                                    .pool = pool};
    const float *hidden = NULL;
    int32_t n_out = 0;
    lp_status status = lp_forward_run(forward, &batch, &hidden, &n_out, failure);
    if (status != LP_OK) fail_msg("%s: %s", k->what, error.text);
}

/* No two of these may be taken for each other; where they may, the backend counts a graph. */
static void test_keys(void **state) {
    static const records_case cases[] = {
        {"three rows", {0, 0, 0}, {1, 1, 1}, 5, 0, false},
        {"again", {0, 0, 0}, {1, 1, 1}, 5, 0, true},
        {"another token, other places of the tails", {0, 0, 0}, {1, 1, 1}, 9, 3, true},
        {"fewer outputs", {0, 0, 0}, {1, 0, 1}, 5, 0, false},
        {"other outputs", {0, 0, 0}, {1, 1, 0}, 5, 0, true},
        {"begins at 1", {0, 1, 1}, {1, 1, 1}, 5, 0, false},
        {"begins at 1 and 2", {0, 1, 2}, {1, 1, 1}, 5, 0, false},
        {"again", {0, 1, 2}, {1, 1, 1}, 7, 3, true},
        {"a row that shares all layers", {0, 1, 3}, {1, 1, 1}, 5, 0, false},
        {"and nobody reads it", {0, 1, 3}, {1, 1, 0}, 5, 0, false},
        {"but nobody reads the second", {0, 1, 3}, {1, 0, 1}, 5, 0, false},
    };
    golden_model m;
    lp_backend *be = *state;
    lp_weights *weights = NULL;
    lp_forward *forward = NULL;
    void *keys = NULL, *values = NULL, *latents = NULL;
    golden_model_open("gpt2-plain", &m);
    const lp_model_config *c = &m.model.config;
    assert_int_equal(c->n_layers, 3);
    lp_kv_pool pool = {.n_slots = ROWS, .n_layers = c->n_layers, .width = c->n_kv_heads * c->head_dim};
    size_t bytes = (size_t)pool.n_layers * ROWS * (size_t)pool.width * sizeof(float);
    OK(be->alloc(be, bytes, "keys", &keys, err));
    OK(be->alloc(be, bytes, "values", &values, err));
    OK(be->alloc(be, (size_t)c->d_model * sizeof(float), "latents", &latents, err));
    pool.keys = keys;
    pool.values = values;
    OK(lp_weights_new(be, &m.model, &weights, err));
    OK(lp_forward_new(weights, ROWS, 8, &forward, err));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t before = be->counters.n_graphs;
        run_case(forward, &pool, latents, &cases[i]);
        if (be->counters.n_graphs - before != (cases[i].same_calls ? 1 : 0))
            fail_msg("%s: expected %s calls, found %s", cases[i].what, cases[i].same_calls ? "the same" : "new",
                     cases[i].same_calls ? "new" : "the same");
    }
    lp_forward_free(forward);
    lp_weights_free(weights);
    be->release(be, keys);
    be->release(be, values);
    be->release(be, latents);
    golden_model_close(&m);
}

/* Under one key other calls are an error, and so is what no sequence may hold. */
static void test_refuses(void **state) {
    lp_backend *be = *state;
    const lp_record_key key = {{1}};
    void *x = NULL, *y = NULL;
    float host[8] = {0};
    bool replayed = true, again = true;
    OK(be->alloc(be, sizeof host, "x", &x, err));
    OK(be->alloc(be, sizeof host, "y", &y, err));
    OK(be->upload(be, x, host, sizeof host, err));
    OK(be->upload(be, y, host, sizeof host, err));
    for (int i = 0; i < 2; i++) {
        OK(be->record_begin(be, &key, &replayed, err));
        lp_status issued = be->add_rows(be, x, y, NULL, 1, i == 0 ? 8 : 4, failure);
        lp_status status = be->record_end(be, issued, &again, failure);
        assert_int_equal(status, i == 0 ? LP_OK : LP_ERR_DEVICE);
        assert_false(replayed || again);
    }
    assert_string_equal(error.text, "check: record_end: other calls than before under the same key");
    OK(be->record_begin(be, &key, &replayed, err));
    OK(be->upload(be, x, host, sizeof host, err));
    assert_int_equal(be->record_end(be, LP_OK, &again, failure), LP_ERR_DEVICE);
    assert_string_equal(error.text, "check: record_end: upload in a recorded sequence");
    OK(be->record_begin(be, &key, &replayed, err));
    assert_int_equal(be->record_end(be, LP_ERR_MEMORY, &again, failure), LP_ERR_MEMORY);
    be->release(be, x);
    be->release(be, y);
}

static int setup(void **state) {
    *state = open_checked();
    return 0;
}

static int teardown(void **state) {
    lp_backend_free(*state);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_refuses, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
