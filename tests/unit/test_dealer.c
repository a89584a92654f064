/* The dealer, driven by a simulator: ranks of different speeds ask when they are free. No MPI, no real time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/random.h"
#include "parallel/dealer.h"
#include "parallel/progress.h"

#include <math.h>

static void order_is_largest_first(void **state) {
    (void)state;
    const int64_t costs[] = {5, 9, 5, 1, 9, 7};
    const uint8_t done[] = {0, 0, 0, 0, 1, 0};
    const int64_t expected[] = {1, 5, 0, 2, 3};
    lp_dealer dealer;
    lp_error err = {0};
    assert_int_equal(lp_dealer_init(&dealer, costs, done, 6, 2, &err), LP_OK);
    assert_int_equal(dealer.n_units, 5);
    for (int i = 0; i < 5; i++) assert_int_equal(dealer.order[i], expected[i]);
    lp_dealer_release(&dealer);
    assert_int_equal(lp_dealer_init(&dealer, NULL, NULL, 3, 2, &err), LP_OK);
    for (int i = 0; i < 3; i++) assert_int_equal(dealer.order[i], i);
    lp_dealer_release(&dealer);
}

static void grants(void **state) {
    (void)state;
    const struct {
        int64_t n_units;
        int n_ranks;
        int64_t position, wanted, expected;
    } cases[] = {
        {100, 2, 0, 1, 1},  {100, 2, 0, 8, 8},   {100, 2, 0, 50, 25}, {100, 2, 92, 8, 2}, {100, 2, 97, 8, 1},
        {100, 2, 99, 8, 1}, {100, 2, 100, 8, 0}, {3, 1024, 0, 8, 1},  {0, 4, 0, 1, 0},    {100, 1, 0, 64, 50},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const lp_dealer dealer = {.n_units = cases[i].n_units, .n_ranks = cases[i].n_ranks};
        int64_t found = lp_dealer_grant(&dealer, cases[i].position, cases[i].wanted);
        if (found != cases[i].expected)
            fail_msg("case %zu: expected %lld, found %lld", i, (long long)cases[i].expected, (long long)found);
    }
}

typedef struct {
    double free_at;
    int rank;
} event;

/* A heap of ranks by the time at which they are free. */
static void sink(event *heap, int n, int at) {
    for (;;) {
        int least = at;
        for (int child = 2 * at + 1; child <= 2 * at + 2 && child < n; child++)
            if (heap[child].free_at < heap[least].free_at) least = child;
        if (least == at) return;
        event held = heap[at];
        heap[at] = heap[least];
        heap[least] = held;
        at = least;
    }
}

typedef struct {
    double makespan;
    double ideal;
    int64_t n_twice;
    int64_t n_never;
} outcome;

/* speed [n_ranks]: units of cost a second; a rank whose speed is negative dies at the time -speed, in the middle of a
 * unit, and the job with it: what was done before is the done mask of the second life. */
static outcome simulate(const int64_t *costs, int64_t n, const double *speed, int n_ranks, int64_t batch, uint8_t *done,
                        double dies_at) {
    lp_dealer dealer;
    lp_error err = {0};
    outcome found = {0};
    event *heap = NULL;
    uint8_t *times = NULL;
    assert_int_equal(lp_dealer_init(&dealer, costs, done, n, n_ranks, &err), LP_OK);
    assert_int_equal(lp_mem_new(&heap, (size_t)n_ranks, sizeof *heap, "heap", &err), LP_OK);
    assert_int_equal(lp_mem_new(&times, (size_t)n, 1, "times", &err), LP_OK);
    double total_speed = 0;
    double total_cost = 0;
    for (int r = 0; r < n_ranks; r++) {
        heap[r] = (event){0, r};
        total_speed += speed[r];
    }
    for (int64_t i = 0; i < n; i++)
        if (!done[i]) total_cost += (double)costs[i];
    int64_t position = 0;
    for (;;) {
        int64_t granted = lp_dealer_grant(&dealer, position, batch);
        if (granted == 0) break;
        event *next = &heap[0];
        for (int64_t k = 0; k < granted; k++) {
            int64_t unit = dealer.order[position + k];
            next->free_at += (double)costs[unit] / speed[next->rank];
            times[unit]++;
            if (next->free_at <= dies_at) done[unit] = 1;
        }
        position += granted;
        if (next->free_at > found.makespan) found.makespan = next->free_at;
        sink(heap, n_ranks, 0);
    }
    found.ideal = total_cost / total_speed;
    for (int64_t i = 0; i < n; i++) {
        found.n_twice += times[i] > 1;
        found.n_never += times[i] == 0 && !done[i];
    }
    lp_mem_free(times);
    lp_mem_free(heap);
    lp_dealer_release(&dealer);
    return found;
}

/* Lengths like those of GSM8K questions in tokens: log-normal, median 95, from 30 to 300, and their answers. */
static void draw_costs(int64_t *costs, int64_t n) {
    float *normal = NULL;
    lp_error err = {0};
    assert_int_equal(lp_mem_new(&normal, (size_t)n, sizeof *normal, "normal", &err), LP_OK);
    lp_random_normal((lp_random_key){.seed = 7}, normal, (size_t)n);
    for (int64_t i = 0; i < n; i++) {
        double length = 95 * exp(0.4 * (double)normal[i]);
        costs[i] = (int64_t)(length < 30 ? 30 : length > 300 ? 300 : length);
    }
    lp_mem_free(normal);
}

static void large_jobs_are_balanced(void **state) {
    (void)state;
    enum { RANKS = 1024, UNITS = 100000 };
    static int64_t costs[UNITS];
    static uint8_t done[UNITS];
    static double speed[RANKS];
    draw_costs(costs, UNITS);
    const struct {
        const char *name;
        int64_t batch;
        double slow_share; /* of the ranks */
        double slow_speed;
        double least; /* efficiency */
    } cases[] = {
        {"equal ranks", 1, 0, 1, 0.98},
        {"equal ranks, batches of 16", 16, 0, 1, 0.95},
        {"stragglers at half speed", 1, 0.05, 0.5, 0.98},
        {"stragglers at a tenth", 1, 0.02, 0.1, 0.95},
        {"stragglers at half speed, batches of 8", 8, 0.05, 0.5, 0.95},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memset(done, 0, sizeof done);
        for (int r = 0; r < RANKS; r++) {
            double draw = (double)lp_random_u32((lp_random_key){.seed = 11}, (uint32_t)r) / 4294967296.0;
            speed[r] = 100 * (draw < cases[i].slow_share ? cases[i].slow_speed : 0.97 + 0.06 * draw);
        }
        outcome found = simulate(costs, UNITS, speed, RANKS, cases[i].batch, done, 0);
        double efficiency = found.ideal / found.makespan;
        print_message("%-40s efficiency %.4f\n", cases[i].name, efficiency);
        if (efficiency < cases[i].least)
            fail_msg("%s: expected at least %.2f, found %.4f", cases[i].name, cases[i].least, efficiency);
        assert_int_equal(found.n_twice, 0);
        assert_int_equal(found.n_never, 0);
    }
}

/* A rank dies and the job with it, five times; each life does what the journal does not hold. What was under way is
 * lost, and the time of each life counts in full. */
static void deaths_lose_nothing(void **state) {
    (void)state;
    enum { RANKS = 1024, UNITS = 100000, DEATHS = 5, LIFE = 15 };
    static int64_t costs[UNITS];
    static uint8_t done[UNITS];
    static double speed[RANKS];
    double total_speed = 0, total_cost = 0, time = 0;
    draw_costs(costs, UNITS);
    memset(done, 0, sizeof done);
    for (int r = 0; r < RANKS; r++) total_speed += speed[r] = r % 20 == 7 ? 50 : 100;
    for (int i = 0; i < UNITS; i++) total_cost += (double)costs[i];
    int64_t n_done = 0;
    for (int life = 0; life <= DEATHS; life++) {
        outcome found = simulate(costs, UNITS, speed, RANKS, 1, done, life < DEATHS ? LIFE : 1e18);
        assert_int_equal(found.n_twice, 0);
        int64_t now = 0;
        for (int64_t i = 0; i < UNITS; i++) now += done[i];
        assert_true(now > n_done);
        n_done = now;
        time += life < DEATHS ? LIFE : found.makespan;
    }
    assert_int_equal(n_done, UNITS);
    double efficiency = total_cost / total_speed / time;
    print_message("%-40s efficiency %.4f\n", "five deaths, stragglers at half speed", efficiency);
    if (efficiency < 0.95) fail_msg("expected at least 0.95, found %.4f", efficiency);
}

static int64_t nothing(const void *state) {
    (void)state;
    return 0;
}

static void progress_lines(void **state) {
    (void)state;
    const struct {
        int64_t total, before, here;
        double seconds;
        const char *expected;
        double share;
    } cases[] = {
        {100, 0, 0, 3, "cache: 0 of 100 pairs", 0},
        {100, 0, 50, 10, "cache: 50 of 100 pairs (50%), 5.0/s, 10 s left", 0},
        {100, 40, 0, 3, "cache: 40 of 100 pairs, 0 now and 40 before", 0},
        {100, 40, 10, 10, "cache: 50 of 100 pairs (50%), 10 now and 40 before, 1.0/s, 50 s left", 0},
        {100, 40, 60, 60, "cache: 100 of 100 pairs, 60 now and 40 before, 1.0/s, took 1 min 00 s", 0},
        {1000, 0, 10, 10, "cache: 10 of 1000 pairs (1%), 1.0/s, 16 min 30 s left", 0},
        {100000, 0, 10, 10, "cache: 10 of 100000 pairs (0%), 1.0/s, 27 h 46 min left", 0},
        {100, 0, 100, 65, "cache: 100 of 100 pairs, 1.5/s, took 1 min 05 s", 0},
        {100, 100, 0, 0, "cache: complete already (100 pairs)", 0},
        /* Before the first pair is done, by the share of the work. */
        {2, 0, 0, 90, "cache: 0 of 2 pairs (12.5%), about 10 min 30 s left", 0.125},
        {100, 40, 0, 10, "cache: 40 of 100 pairs (70.0%), 0 now and 40 before, about 10 s left", 0.5},
        {2, 0, 0, 99, "cache: 0 of 2 pairs (99.0%), about 1 s left", 1.7},
        {2, 0, 1, 90, "cache: 1 of 2 pairs (50%), 0.0/s, 1 min 30 s left", 0.125},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const lp_progress_options options = {
            .label = "cache", .unit = "pairs", .total = cases[i].total, .before = cases[i].before, .count = nothing};
        char line[256];
        lp_progress_line(line, sizeof line, &options, cases[i].here, cases[i].share, cases[i].seconds);
        assert_string_equal(line, cases[i].expected);
    }
    const lp_progress_options long_line = {
        .label = "sweep", .unit = "pairs", .total = 1000000, .before = 120000, .count = nothing};
    char narrow[80], narrower[20];
    lp_progress_line(narrow, sizeof narrow, &long_line, 3456, 0, 100);
    assert_string_equal(narrow, "sweep: 123456 of 1000000 pairs (12%), 34.6/s, 7 h 02 min left");
    lp_progress_line(narrower, sizeof narrower, &long_line, 3456, 0, 100);
    assert_string_equal(narrower, "sweep: 123456 of 10");
    lp_progress *progress = NULL;
    lp_error err = {0};
    assert_int_equal(lp_progress_start(&(lp_progress_options){.quiet = true}, &progress, &err), LP_OK);
    assert_null(progress);
    lp_progress_stop(progress);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(order_is_largest_first),  cmocka_unit_test(grants),
        cmocka_unit_test(large_jobs_are_balanced), cmocka_unit_test(deaths_lose_nothing),
        cmocka_unit_test(progress_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
