/* The watch over a job's ranks. Without arguments: it begins and ends on all ranks, whatever they do or wait for, and
 * leaves moving and waiting ranks alone. `stuck`: the last rank says what it does and never moves again. */
#include "mpi/check.h"

#include "base/pulse.h"
#include "parallel/watch.h"

#include <time.h>
#include <unistd.h>

/* Far more than a rank of a busy machine may have to wait for a core. */
enum { LONG_MS = 60000, SHORT_MS = 200 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void begins_and_ends(const lp_parallel *p) {
    for (int i = 0; i < 30; i++) {
        lp_watch *watch = NULL;
        CHECK_OK(p, lp_watch_start(p, LONG_MS, &watch, err));
        for (int k = 0; k < i * lp_parallel_rank(p); k++) lp_watch_doing(watch, k % 2 ? "" : "unit");
        lp_watch_stop(watch);
    }
    lp_watch *none = NULL;
    CHECK_OK(p, lp_watch_start(p, 0, &none, err));
    CHECK(p, !none, "a limit of 0 started a watch");
    lp_watch_doing(none, "unit");
    lp_watch_stop(none);
}

/* One rank alone, so that nothing depends on when the others get a core. */
static void moving_and_waiting_are_left_alone(const lp_parallel *p) {
    if (lp_parallel_size(p) > 1) return;
    lp_watch *watch = NULL;
    CHECK_OK(p, lp_watch_start(p, SHORT_MS, &watch, err));
    lp_watch_doing(watch, "unit");
    for (double end = now() + 3e-3 * SHORT_MS; now() < end;) lp_pulse();
    lp_watch_doing(watch, "");
    for (double end = now() + 3e-3 * SHORT_MS; now() < end;) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    lp_watch_stop(watch);
}

static void get_stuck(const lp_parallel *p) {
    lp_watch *watch = NULL;
    CHECK_OK(p, lp_watch_start(p, SHORT_MS * 10, &watch, err));
    if (lp_parallel_rank(p) == lp_parallel_size(p) - 1) {
        lp_watch_doing(watch, "unit 7");
        for (;;) pause();
    }
    lp_watch_stop(watch);
    CHECK_OK(p, lp_parallel_barrier(p, err));
}

int main(int argc, char **argv) {
    lp_parallel *p = NULL;
    lp_error err = {0};
    if (lp_parallel_start(&argc, &argv, &p, &err) != LP_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (argc > 1) get_stuck(p);
    begins_and_ends(p);
    moving_and_waiting_are_left_alone(p);
    if (lp_parallel_rank(p) == 0) printf("%d ranks: good\n", lp_parallel_size(p));
    lp_parallel_finish(p);
    return 0;
}
