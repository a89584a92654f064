/* The lists of a batch: what a row is fed, where keys and values are copied from, which rows have an output. A batch of
 * five rows worked out by hand; the cpu backend's memory is the host's. */
#include "support/golden.h"

#include "backend/device.h"
#include "nn/batch_lists.h"

enum { ROWS = 5, LAYERS = 3, TAIL = 4 };

/* Rows 0 and 1 are computed whole; row 2 shares layer 0 with row 0, row 3 layers 0 and 1 with row 2, of which the first
 * is row 0's; row 4 shares all layers with row 1. */
static const int32_t first_layer[ROWS] = {0, 0, 1, 2, 3}, source[ROWS] = {-1, -1, 0, 2, 1};
static const lp_row_input input[ROWS] = {{7, 0}, {-1, 9}, {0, 0}, {0, 0}, {0, 0}};
static const uint8_t output[ROWS] = {0, 1, 0, 1, 1};
static const int32_t position[ROWS] = {4, 5, 4, 4, 5}, slot[ROWS] = {40, 51, 42, 43, 54};
static const int32_t prompt_begin[ROWS] = {0, 16, 0, 0, 16}, prompt_length[ROWS] = {5, 3, 4, 4, 3};
static const int32_t tail_begin[ROWS] = {0, 0, 1, 2, 0}, tail_length[ROWS] = {0, 1, 1, 1, 2};
static const int32_t tail[TAIL] = {51, 42, 43, 54};

static const lp_forward_batch batch = {.n_rows = ROWS,
                                       .first_layer = first_layer,
                                       .source = source,
                                       .input = input,
                                       .output = output,
                                       .position = position,
                                       .slot = slot,
                                       .prompt_begin = prompt_begin,
                                       .prompt_length = prompt_length,
                                       .tail_begin = tail_begin,
                                       .tail_length = tail_length,
                                       .tail = tail,
                                       .n_tail = TAIL};

static void same(const char *what, const int32_t *found, const int32_t *expected, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (found[i] != expected[i]) fail_msg("%s %d: expected %d, found %d", what, i, expected[i], found[i]);
}

static void check(const lp_batch_lists *l) {
    same("position", l->rows.position, position, ROWS);
    same("slot", l->rows.slot, slot, ROWS);
    same("prompt begin", l->rows.prompt_begin, prompt_begin, ROWS);
    same("prompt length", l->rows.prompt_length, prompt_length, ROWS);
    same("tail begin", l->rows.tail_begin, tail_begin, ROWS);
    same("tail length", l->rows.tail_length, tail_length, ROWS);
    same("tail", l->rows.tail, tail, TAIL);
    same("source", l->source, source, ROWS);
    assert_int_equal(l->n_fresh, 2);
    assert_int_equal(l->n_tokens, 1);
    same("token row", l->token_rows, (const int32_t[]){0}, 1);
    same("token", l->token_ids, (const int32_t[]){7}, 1);
    assert_int_equal(l->n_latents, 1);
    same("latent row", l->latent_rows, (const int32_t[]){1}, 1);
    same("latent", l->latent_ids, (const int32_t[]){9}, 1);
    assert_int_equal(l->n_out, 3);
    same("row with output", l->out_rows, (const int32_t[]){1, 3, 4}, 3);
    same("row with output, host", l->host_out_rows, (const int32_t[]){1, 3, 4}, 3);
    same("compact", l->compact, (const int32_t[]){-1, 0, -1, 1, 2}, ROWS);
    /* Row 4's output is row 1's. */
    assert_int_equal(l->n_output_copies, 1);
    same("output from", l->output_from, (const int32_t[]){0}, 1);
    same("output to", l->output_to, (const int32_t[]){2}, 1);
    /* Layer 0: rows 2 and 3 have row 0's keys and values, row 4 row 1's. Layer 1: row 3 has row 2's. */
    same("copies begin", l->copy_begin, (const int32_t[]){0, 3, 5, 6}, LAYERS + 1);
    same("copy from", l->copy_from, (const int32_t[]){40, 40, 51, 42, 51, 51}, 6);
    same("copy to", l->copy_to, (const int32_t[]){42, 43, 54, 43, 54, 54}, 6);
}

static void test_lists(void **state) {
    (void)state;
    lp_backend *be = NULL;
    lp_batch_lists lists = {.host = NULL};
    OK(lp_backend_cpu_new(1, &be, err));
    /* A second batch of the same shape finds its lists in the same places. */
    OK(lp_batch_lists_make(&lists, be, &batch, LAYERS, err));
    check(&lists);
    const int32_t *before = lists.copy_to;
    OK(lp_batch_lists_make(&lists, be, &batch, LAYERS, err));
    check(&lists);
    assert_ptr_equal(lists.copy_to, before);
    lp_batch_lists_release(&lists, be);
    lp_backend_free(be);
}

/* Rows of one prompt stand together for a backend that wants groups. */
static void test_groups(void **state) {
    (void)state;
    lp_backend *be = NULL;
    lp_batch_lists lists = {.host = NULL};
    OK(lp_backend_cpu_new(1, &be, err));
    be->wants_groups = true;
    OK(lp_batch_lists_make(&lists, be, &batch, LAYERS, err));
    check(&lists);
    assert_int_equal(lists.rows.n_groups, 2);
    same("group row", lists.rows.group_row, (const int32_t[]){0, 2, 3, 1, 4}, ROWS);
    same("group begin", lists.rows.group_begin, (const int32_t[]){0, 3, 5}, 3);
    lp_batch_lists_release(&lists, be);
    lp_backend_free(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lists), cmocka_unit_test(test_groups)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
