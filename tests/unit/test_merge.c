/* Merging in pieces: matrices wider and higher than one block, cut as the arena's pieces are, against the formula in
 * double precision. */
#include "model/merge.h"

#include "base/memory.h"
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

enum { ROWS = 301, COLUMNS = 1102, RANK = 5, PADDING = 7, LEFT = 45 /* columns of a fused matrix */ };

static uint16_t base[ROWS * COLUMNS];
static float lora_a[RANK * COLUMNS], lora_b[COLUMNS * RANK];
static float scratch[LP_MERGE_SCRATCH], place[COLUMNS * (ROWS + LEFT + 64) + ROWS * 64];

static lp_tensor tensor_of(const void *data, lp_dtype dtype, int64_t rows, int64_t columns) {
    lp_tensor t = {
        .name = (char *)"w", .file = "f", .dtype = dtype, .n_dims = 2, .shape = {rows, columns}, .data = data};
    lp_error err = {0};
    assert_int_equal(lp_tensor_set_shape(&t, &err), LP_OK);
    return t;
}

static void fill_inputs(void) {
    static float normal[ROWS * COLUMNS];
    lp_random_normal((lp_random_key){.seed = 3, .stream = 1}, normal, ROWS * COLUMNS);
    for (int i = 0; i < ROWS * COLUMNS; i++) base[i] = lp_f32_to_bf16(normal[i]);
    lp_random_normal((lp_random_key){.seed = 3, .stream = 2}, lora_a, RANK * COLUMNS);
    lp_random_normal((lp_random_key){.seed = 3, .stream = 3}, lora_b, COLUMNS * RANK);
}

typedef struct {
    lp_slot_shape shape;
    bool has_lora;
    int64_t step; /* rows of a piece */
    bool packed;
} merge_case;

static const merge_case CASES[] = {
    {LP_SHAPE_LINEAR, true, LP_MERGE_ROWS, false},
    {LP_SHAPE_LINEAR, false, LP_MERGE_ROWS, false},
    {LP_SHAPE_LINEAR, true, 41, false},
    {LP_SHAPE_CONV1D, true, 128, false},
    {LP_SHAPE_CONV1D, true, ROWS, false},
    {LP_SHAPE_TABLE, false, 128, false},
    {LP_SHAPE_LINEAR, true, 41, true},
    {LP_SHAPE_CONV1D, true, LP_MERGE_ROWS, true},
    {LP_SHAPE_TABLE, false, 100, true},
};

/* A [RANK, in] and B [out, RANK]: a linear layer's file is [out, in], a Conv1D's [in, out]. */
static double expected(const merge_case *c, int64_t row, int64_t column, double scale) {
    double value = (double)lp_bf16_to_f32(base[row * COLUMNS + column]);
    bool turned = c->shape == LP_SHAPE_LINEAR;
    int64_t out = turned ? row : column, in = turned ? column : row, n_in = turned ? COLUMNS : ROWS;
    for (int64_t r = 0; c->has_lora && r < RANK; r++)
        value += scale * (double)lora_b[out * RANK + r] * (double)lora_a[r * n_in + in];
    return value;
}

/* Is the place the transpose of the file's tensor? */
static bool is_turned(const merge_case *c) {
    return c->shape == LP_SHAPE_LINEAR || (c->packed && c->shape == LP_SHAPE_TABLE);
}

/* Where the value of the file's row and column goes. */
static int64_t place_of(const merge_case *c, int64_t row, int64_t column) {
    int64_t in = is_turned(c) ? column : row, out = is_turned(c) ? row : column;
    if (c->packed) return lp_gemm_panel_at(is_turned(c) ? COLUMNS : ROWS, in, LEFT + out);
    return is_turned(c) ? in * (ROWS + PADDING) + out : in * COLUMNS + out;
}

static lp_status merge(const merge_case *c, lp_error *err) {
    bool turned = c->shape == LP_SHAPE_LINEAR;
    lp_tensor w = tensor_of(base, LP_BF16, ROWS, COLUMNS);
    lp_tensor a = tensor_of(lora_a, LP_F32, RANK, turned ? COLUMNS : ROWS);
    lp_tensor b = tensor_of(lora_b, LP_F32, turned ? ROWS : COLUMNS, RANK);
    lp_slot slot = {.shape = c->shape, .rows = ROWS, .columns = COLUMNS, .tensor = &w};
    if (c->has_lora) {
        slot.lora_a = &a;
        slot.lora_b = &b;
    }
    int64_t ld = turned ? ROWS + PADDING : COLUMNS;
    if (c->packed) ld = is_turned(c) ? COLUMNS : ROWS;
    const lp_merge_target target = {.data = place, .ld = ld, .packed = c->packed, .column = c->packed ? LEFT : 0};
    for (int64_t first = 0; first < ROWS; first += c->step) {
        int64_t n = ROWS - first < c->step ? ROWS - first : c->step;
        lp_status status = lp_merge_rows(&slot, 0.25f, LP_WIDEN_EXACT, first, n, &target, scratch, err);
        if (status != LP_OK) return status;
    }
    return LP_OK;
}

static void test_pieces(void **state) {
    (void)state;
    fill_inputs();
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const merge_case *c = &CASES[i];
        lp_error err = {0};
        for (size_t k = 0; k < sizeof place / sizeof *place; k++) place[k] = -77;
        if (merge(c, &err) != LP_OK) fail_msg("case %zu: %s", i, err.text);
        for (int64_t row = 0; row < ROWS; row++)
            for (int64_t column = 0; column < COLUMNS; column++) {
                double found = (double)place[place_of(c, row, column)];
                double want = expected(c, row, column, 0.25);
                if (fabs(found - want) > 1e-6 * (1 + fabs(want)))
                    fail_msg("case %zu [%lld, %lld]: expected %.9g, found %.9g", i, (long long)row, (long long)column,
                             want, found);
            }
        for (int64_t in = 0; c->packed && in < (is_turned(c) ? COLUMNS : ROWS); in++)
            for (int64_t k = 0; k < LEFT; k++)
                if (place[lp_gemm_panel_at(is_turned(c) ? COLUMNS : ROWS, in, k)] != -77)
                    fail_msg("case %zu: wrote into another slot's columns", i);
        for (int64_t in = 0; is_turned(c) && !c->packed && in < COLUMNS; in++)
            for (int64_t k = ROWS; k < ROWS + PADDING; k++)
                if (place[in * (ROWS + PADDING) + k] != -77) fail_msg("case %zu: wrote beside its columns", i);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* One NaN, in the last element of each shape. */
static void test_not_finite(void **state) {
    (void)state;
    fill_inputs();
    base[ROWS * COLUMNS - 1] = 0x7fc0;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        lp_error err = {0};
        assert_int_equal(merge(&CASES[i], &err), LP_ERR_VALUE);
        assert_string_equal(err.text, "f: tensor \"w\" holds NaN or infinity");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pieces), cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
