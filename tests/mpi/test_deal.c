/* The processes of a job on 1, 2 and 4 ranks: agreement on errors, sums, shared memory, and dealing in each of its
 * ways: every unit exactly once, no stall while rank 0 computes, an end for all when one fails or is asked to stop. */
#include "mpi/check.h"

#include "base/memory.h"
#include "parallel/deal.h"
#include "parallel/signals.h"

#include <signal.h>
#include <time.h>
#include <unistd.h>

static void collectives(const lp_parallel *p) {
    int rank = lp_parallel_rank(p);
    int size = lp_parallel_size(p);
    int64_t sums[2] = {rank, 1};
    CHECK_OK(p, lp_parallel_sum_i64(p, sums, 2, err));
    if (rank == 0) CHECK_I64(p, size * (size - 1) / 2, sums[0]);
    CHECK_I64(p, rank == 0 ? size : 1, sums[1]);
    int64_t largest = rank * 10;
    CHECK_OK(p, lp_parallel_max_i64(p, &largest, 1, err));
    CHECK_I64(p, (size - 1) * 10, largest);
    char word[8] = "";
    if (rank == 0) memcpy(word, "abc", 4);
    CHECK_OK(p, lp_parallel_broadcast(p, word, sizeof word, err));
    CHECK(p, strcmp(word, "abc") == 0, "expected abc, found %s", word);
    CHECK_OK(p, lp_parallel_barrier(p, err));
    CHECK_I64(p, size, lp_parallel_node_size(p) * lp_parallel_n_nodes(p));
}

static lp_status mixed(int rank, int failing, lp_status status, lp_error *err) {
    return rank == failing ? lp_fail(err, status, "trouble %d", failing) : LP_OK;
}

static void agreement(const lp_parallel *p) {
    int rank = lp_parallel_rank(p);
    int size = lp_parallel_size(p);
    CHECK_OK(p, lp_parallel_agree(p, LP_OK, err));
    /* The rank is named where its machine can be at fault. */
    static const lp_status kinds[] = {LP_ERR_IO, LP_ERR_MEMORY, LP_ERR_VALUE, LP_ERR_FORMAT};
    for (int failing = 0; failing < size * 4; failing++) {
        lp_error err = {0};
        const lp_status kind = kinds[failing % 4];
        lp_status status = lp_parallel_agree(p, mixed(rank, failing / 4, kind, &err), &err);
        CHECK_I64(p, kind, status);
        char expected[64];
        snprintf(expected, sizeof expected, size == 1 || failing % 4 > 1 ? "trouble %d" : "trouble %d (rank %d)",
                 failing / 4, failing / 4);
        CHECK(p, strcmp(err.text, expected) == 0, "expected '%s', found '%s'", expected, err.text);
    }
    /* A failure counts more than a wish to stop, and what all say needs no rank. */
    lp_error err = {0};
    lp_status mine = rank == size - 1 ? lp_fail(&err, LP_ERR_IO, "disk") : lp_fail(&err, LP_ERR_STOPPED, "stop");
    CHECK_I64(p, LP_ERR_IO, lp_parallel_agree(p, mine, &err));
    mine = lp_fail(&err, LP_ERR_VALUE, "same");
    CHECK_I64(p, LP_ERR_VALUE, lp_parallel_agree(p, mine, &err));
    CHECK(p, strcmp(err.text, "same") == 0, "expected 'same', found '%s'", err.text);
}

static void shared_memory(const lp_parallel *p) {
    lp_shared *shared = NULL;
    enum { N = 100003 };
    CHECK_OK(p, lp_shared_new(p, N * sizeof(int32_t), &shared, err));
    int32_t *data = lp_shared_data(shared);
    CHECK_I64(p, 0, (uintptr_t)data % LP_ALIGNMENT);
    CHECK_OK(p, lp_shared_fence(shared, err));
    if (lp_parallel_node_rank(p) == 0)
        for (int i = 0; i < N; i++) data[i] = 7 * i;
    CHECK_OK(p, lp_shared_fence(shared, err));
    for (int i = 0; i < N; i++) CHECK_I64(p, 7 * i, data[i]);
    CHECK_OK(p, lp_shared_fence(shared, err));
    lp_shared_free(shared);
}

static const char *const way_names[] = {"shared", "messages", "messages without a thread"};

static void every_unit_once(const lp_parallel *p, lp_deal_way way) {
    enum { N = 203 };
    int64_t costs[N];
    uint8_t done[N] = {0};
    int64_t times[N] = {0};
    for (int i = 0; i < N; i++) costs[i] = (i * 37) % 101;
    for (int i = 0; i < N; i += 7) done[i] = 1;
    lp_deal *deal = NULL;
    CHECK_OK(p, lp_deal_new(p, &(lp_deal_options){.costs = costs, .done = done, .n_units = N, .way = way}, &deal, err));
    CHECK_I64(p, N - (N + 6) / 7, lp_deal_total(deal));
    for (;;) {
        const int64_t *units = NULL;
        int64_t n = 0;
        CHECK_OK(p, lp_deal_next(deal, 1 + lp_parallel_rank(p) * 4, &units, &n, err));
        if (n == 0) break;
        for (int64_t i = 0; i < n; i++) {
            CHECK(p, units[i] >= 0 && units[i] < N, "unit %lld of %d", (long long)units[i], N);
            times[units[i]]++;
        }
        lp_deal_done(deal, n);
    }
    CHECK_OK(p, lp_deal_end(deal, LP_OK, err));
    CHECK_OK(p, lp_parallel_sum_i64(p, times, N, err));
    if (lp_parallel_rank(p) != 0) return;
    for (int i = 0; i < N; i++) CHECK_I64(p, i % 7 != 0, times[i]);
}

/* Until the other ranks have each put a file into the folder; without a call of MPI. False after two minutes. */
static bool wait_for_files(const char *folder, int n) {
    for (int tries = 0; tries < 120000; tries++) {
        int found = 0;
        for (int rank = 1; rank <= n; rank++) {
            char path[64];
            snprintf(path, sizeof path, "%s/%d", folder, rank);
            found += access(path, F_OK) == 0;
        }
        if (found == n) return true;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return false;
}

static void put_file(const char *folder, int rank) {
    char path[64];
    snprintf(path, sizeof path, "%s/%d", folder, rank);
    FILE *file = fopen(path, "w");
    if (file) fclose(file);
}

static void remove_files(const char *folder, int n) {
    for (int rank = 1; rank <= n; rank++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%d", folder, rank);
        remove(path);
    }
    rmdir(folder);
}

/* Rank 0 takes the largest unit and works on it, without a call of MPI, until the others have done all the rest: they
 * must get it meanwhile. Where no thread answers for rank 0 they may wait for it, and only the counts are checked. */
static void no_stall(const lp_parallel *p, lp_deal_way way) {
    if (lp_parallel_size(p) == 1) return;
    enum { N = 41 };
    bool served = way != LP_DEAL_MESSAGES_NO_THREAD;
    int64_t costs[N] = {1000};
    char folder[32] = "/tmp/lp_deal_XXXXXX";
    bool is_first = lp_parallel_rank(p) == 0;
    if (is_first) CHECK(p, mkdtemp(folder) != NULL, "no folder %s", folder);
    CHECK_OK(p, lp_parallel_broadcast(p, folder, sizeof folder, err));
    lp_deal *deal = NULL;
    CHECK_OK(p, lp_deal_new(p, &(lp_deal_options){.costs = costs, .n_units = N, .way = way}, &deal, err));
    const int64_t *units = NULL;
    int64_t n = 0;
    int64_t mine = 0;
    if (is_first) {
        CHECK_OK(p, lp_deal_next(deal, 1, &units, &n, err));
        CHECK_I64(p, 0, units[0]);
        lp_parallel_barrier(p, NULL);
        if (served) CHECK(p, wait_for_files(folder, lp_parallel_size(p) - 1), "%s: the others wait", way_names[way]);
        lp_deal_done(deal, 1);
        mine = 1;
    } else {
        lp_parallel_barrier(p, NULL);
    }
    for (;;) {
        CHECK_OK(p, lp_deal_next(deal, 1, &units, &n, err));
        if (n == 0) break;
        lp_deal_done(deal, n);
        mine += n;
    }
    if (!is_first) put_file(folder, lp_parallel_rank(p));
    CHECK_OK(p, lp_deal_end(deal, LP_OK, err));
    if (is_first) remove_files(folder, lp_parallel_size(p) - 1);
    if (served && is_first) CHECK_I64(p, 1, mine);
    CHECK_OK(p, lp_parallel_sum_i64(p, &mine, 1, err));
    if (is_first) CHECK_I64(p, N, mine);
}

static void failing_rank_ends_all(const lp_parallel *p, lp_deal_way way) {
    enum { N = 1000000 };
    int failing = lp_parallel_size(p) - 1;
    lp_deal *deal = NULL;
    CHECK_OK(p, lp_deal_new(p, &(lp_deal_options){.n_units = N, .way = way}, &deal, err));
    lp_error trouble = {0};
    lp_status status = LP_OK;
    int64_t dealt = 0;
    for (int k = 0; status == LP_OK; k++) {
        const int64_t *units = NULL;
        int64_t n = 0;
        CHECK_OK(p, lp_deal_next(deal, 1, &units, &n, err));
        if (n == 0) break;
        dealt += n;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        if (lp_parallel_rank(p) == failing && k == 5) status = lp_fail(&trouble, LP_ERR_IO, "x.h5: disk full");
    }
    status = lp_deal_end(deal, status, &trouble);
    CHECK_I64(p, LP_ERR_IO, status);
    CHECK(p, strncmp(trouble.text, "x.h5: disk full", 15) == 0, "found '%s'", trouble.text);
    CHECK_OK(p, lp_parallel_sum_i64(p, &dealt, 1, err));
    if (lp_parallel_rank(p) == 0) CHECK(p, dealt < N, "all %d units were dealt", (int)N);
}

static void signal_stops_all(const lp_parallel *p, lp_deal_way way, int number) {
    enum { N = 1000000 };
    lp_deal *deal = NULL;
    CHECK_OK(p, lp_signals_install(err));
    CHECK_OK(p, lp_deal_new(p, &(lp_deal_options){.n_units = N, .way = way}, &deal, err));
    for (int k = 0;; k++) {
        const int64_t *units = NULL;
        int64_t n = 0;
        CHECK_OK(p, lp_deal_next(deal, 1, &units, &n, err));
        if (n == 0) break;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        lp_deal_done(deal, n);
        if (lp_parallel_rank(p) == lp_parallel_size(p) - 1 && k == 5) raise(number);
    }
    lp_error trouble = {0};
    CHECK_I64(p, LP_ERR_STOPPED, lp_deal_end(deal, LP_OK, &trouble));
    CHECK(p, strncmp(trouble.text, "stopped by ", 11) == 0 && strstr(trouble.text, " of 1000000 left"), "found '%s'",
          trouble.text);
    lp_stop_clear();
    CHECK_OK(p, lp_parallel_barrier(p, err));
}

int main(int argc, char **argv) {
    lp_parallel *p = NULL;
    lp_error err = {0};
    if (lp_parallel_start(&argc, &argv, &p, &err) != LP_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    /* The number of hosts may be given, to make sure of it. */
    if (argc > 1) CHECK_I64(p, strtol(argv[1], NULL, 10), lp_parallel_n_nodes(p));
    collectives(p);
    agreement(p);
    shared_memory(p);
    for (lp_deal_way way = LP_DEAL_AUTO; way <= LP_DEAL_MESSAGES_NO_THREAD; way++) {
        every_unit_once(p, way);
        no_stall(p, way);
        failing_rank_ends_all(p, way);
        signal_stops_all(p, way, SIGUSR1);
        signal_stops_all(p, way, SIGINT);
    }
    if (lp_parallel_rank(p) == 0) printf("%d ranks on %d hosts: good\n", lp_parallel_size(p), lp_parallel_n_nodes(p));
    lp_parallel_finish(p);
    return 0;
}
