/* The parts of the CUDA backend that need no device: groups of rows, sizes of calls, the ring of pinned memory, devices
 * of ranks, and what is said when there is no GPU. */
#include "backend/cuda/plan.h"
#include "backend/device.h"
#include "backend/groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void test_groups(void **state) {
    (void)state;
    const int32_t prompt[] = {70, 0, 70, 0, 0, 5, 70, 70};
    int32_t rows[8], begin[9];
    uint64_t scratch[8];
    int32_t n = lp_row_groups(prompt, 8, 3, rows, begin, scratch);
    const int32_t want_rows[] = {1, 3, 4, 5, 0, 2, 6, 7}, want_begin[] = {0, 3, 4, 7, 8};
    assert_int_equal(n, 4);
    for (int i = 0; i < 8; i++) assert_int_equal(rows[i], want_rows[i]);
    for (int i = 0; i < 5; i++) assert_int_equal(begin[i], want_begin[i]);
    assert_int_equal(lp_row_groups(prompt, 0, 3, rows, begin, scratch), 0);
    assert_int_equal(begin[0], 0);
}

/* Every row is covered once, in order, and the filling stays below a tile. */
static void test_calls(void **state) {
    (void)state;
    for (int32_t tiles = 1; tiles <= LP_CUDA_CALL_TILES; tiles += 5)
        for (int32_t n = 0; n < 5000; n += n < 400 ? 1 : 97) {
            int32_t covered = 0, first = 0, rows = 0;
            for (int32_t i = 0; lp_cuda_call(n, tiles, i, &first, &rows); i++) {
                assert_int_equal(first, covered);
                assert_int_equal(rows % LP_CUDA_TILE_ROWS, 0);
                assert_true(rows > 0 && rows <= tiles * LP_CUDA_TILE_ROWS);
                covered += rows;
            }
            assert_true(covered >= n && covered - n < LP_CUDA_TILE_ROWS);
        }
    const struct {
        int64_t n_out;
        size_t limit;
        int32_t want;
    } sizes[] = {
        {2048, (size_t)256 << 20, 16}, {128259, (size_t)256 << 20, 4}, {1 << 30, 1 << 20, 1}, {1, 1 << 20, 16}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        assert_int_equal(lp_cuda_call_tiles(sizes[i].n_out, sizes[i].limit), sizes[i].want);
}

/* No place is handed out again before its segment's event was waited for, and no segment is waited for that was not
 * marked after its last place. */
static void test_ring(void **state) {
    (void)state;
    enum { SEGMENT = 4096, N = 3 };
    lp_cuda_ring ring = {.segment_bytes = SEGMENT, .n_segments = N};
    bool open[N] = {false};  /* has places that no event covers yet */
    size_t written[N] = {0}; /* end of what is in use */
    uint32_t random = 1;
    for (int i = 0; i < 20000; i++) {
        random = random * 1664525u + 1013904223u;
        size_t wanted = (random >> 8) % (i % 7 == 0 ? 3 * SEGMENT : 300) + 1;
        lp_cuda_place place = lp_cuda_ring_take(&ring, wanted);
        assert_true(place.bytes > 0 && place.bytes <= wanted && place.bytes <= SEGMENT);
        assert_true(place.bytes == wanted || place.bytes == SEGMENT);
        assert_int_equal(place.offset % 256, 0);
        if (place.close >= 0) open[place.close] = false;
        if (place.wait >= 0) {
            assert_false(open[place.wait]);
            written[place.wait] = 0;
        }
        size_t segment = place.offset / SEGMENT, begin = place.offset % SEGMENT;
        assert_true(segment < N && begin + place.bytes <= SEGMENT);
        assert_true(begin >= written[segment]);
        written[segment] = begin + place.bytes;
        open[segment] = true;
    }
}

static void test_devices(void **state) {
    (void)state;
    const struct { int32_t rank, devices, want; } cases[] = {{0, 8, 0}, {3, 4, 3}, {3, 2, 1}, {4, 2, 0}, {2, 1, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(lp_cuda_device_of(cases[i].rank, cases[i].devices), cases[i].want);
}

/* This program stands in a folder of its own, without the module; where the library path has none either, it is
 * missing. */
static void test_missing_module(void **state) {
    (void)state;
    lp_backend *be = NULL;
    lp_error err = {0};
    lp_device_options options = {.device = LP_USE_CUDA};
    lp_status status = lp_backend_open(&options, &be, &err);
    if (status == LP_OK) {
        lp_backend_free(be);
        skip();
    }
    assert_int_equal(status, LP_ERR_UNSUPPORTED);
    if (!strstr(err.text, "no CUDA device: "))
        assert_non_null(strstr(err.text, "this build has no CUDA backend: liblatentpatch_cuda.so: "));
    options.device = LP_USE_AUTO;
    assert_int_equal(lp_backend_open(&options, &be, &err), LP_OK);
    assert_string_equal(be->name, "cpu");
    lp_backend_free(be);
}

static void test_cpu_dtype(void **state) {
    (void)state;
    lp_backend *be = NULL;
    lp_error err = {0};
    lp_device_options options = {.device = LP_USE_CPU, .dtype = LP_USE_BF16};
    assert_int_equal(lp_backend_open(&options, &be, &err), LP_ERR_UNSUPPORTED);
    assert_string_equal(err.text, "the cpu backend computes in fp32 only, found \"bf16\"");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),  cmocka_unit_test(test_calls),     cmocka_unit_test(test_ring),
        cmocka_unit_test(test_devices), cmocka_unit_test(test_cpu_dtype), cmocka_unit_test(test_missing_module),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
