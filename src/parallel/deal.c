#include "parallel/deal.h"

#include "base/memory.h"
#include "base/pulse.h"
#include "parallel/communicator.h"
#include "parallel/dealer.h"
#include "parallel/signals.h"

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

enum { TAG_REQUEST = 1, TAG_REPLY = 2 };
enum { FLAG_FAILED = 1, FLAG_STOP = 2 };

/* In the shared memory of rank 0's host. */
typedef struct {
    _Atomic int64_t position; /* in the dealer's order */
    _Atomic int64_t n_done;
    _Atomic int64_t flags;
} board;

/* wanted 0: this rank asks for nothing more, and gets no reply. */
typedef struct {
    int64_t wanted;
    int64_t n_done; /* since the last request */
    int64_t flags;
} request;

typedef struct {
    int64_t first;
    int64_t n;
} reply;

struct lp_deal {
    const lp_parallel *parallel;
    MPI_Comm comm; /* of its own, so that no message of others is taken for a request */
    lp_dealer dealer;
    lp_shared *shared;
    board *board; /* NULL on ranks that reach it by messages */
    bool joined;  /* the shared memory and the communicator exist */
    int n_remote; /* on rank 0: ranks that reach the board by messages */
    int n_ended;  /* those that asked for nothing more */
    bool has_server;
    pthread_t server;
    int64_t unreported; /* on remote ranks: done since the last request */
};

static int64_t take(lp_deal *deal, int64_t wanted, int64_t *first) {
    board *on = deal->board;
    int64_t position = atomic_load(&on->position);
    for (;;) {
        int64_t n = atomic_load(&on->flags) ? 0 : lp_dealer_grant(&deal->dealer, position, wanted);
        *first = position;
        if (n == 0 || atomic_compare_exchange_weak(&on->position, &position, position + n)) return n;
    }
}

static void nap(void) {
    nanosleep(&(struct timespec){.tv_nsec = 100 * 1000}, NULL);
}

/* Answers the requests that have arrived; *n is their number. */
static lp_status serve(lp_deal *deal, int *n, lp_error *err) {
    for (*n = 0;; ++*n) {
        int there = 0;
        MPI_Status from;
        LP_MPI(MPI_Iprobe(MPI_ANY_SOURCE, TAG_REQUEST, deal->comm, &there, &from));
        if (!there) break;
        request asked;
        LP_MPI(
            MPI_Recv(&asked, (int)sizeof asked, MPI_BYTE, from.MPI_SOURCE, TAG_REQUEST, deal->comm, MPI_STATUS_IGNORE));
        atomic_fetch_add(&deal->board->n_done, asked.n_done);
        if (asked.flags) atomic_fetch_or(&deal->board->flags, asked.flags);
        if (asked.wanted == 0) {
            deal->n_ended++;
            continue;
        }
        reply answer = {0};
        answer.n = take(deal, asked.wanted, &answer.first);
        LP_MPI(MPI_Send(&answer, (int)sizeof answer, MPI_BYTE, from.MPI_SOURCE, TAG_REPLY, deal->comm));
    }
    return LP_OK;
}

/* Until every remote rank has ended. */
static lp_status serve_all(lp_deal *deal, lp_error *err) {
    while (deal->n_ended < deal->n_remote) {
        int n = 0;
        lp_status status = serve(deal, &n, err);
        if (status != LP_OK) return status;
        if (n == 0) nap();
    }
    return LP_OK;
}

static void *server_main(void *argument) {
    lp_deal *deal = argument;
    lp_error err = {0};
    /* Ranks that wait for an answer that will not come cannot be told otherwise. */
    if (serve_all(deal, &err) != LP_OK) lp_parallel_abort(deal->parallel, 1, err.text);
    return NULL;
}

/* Collective on success of the local parts alone. */
static lp_status join(lp_deal *deal, const lp_deal_options *options, lp_error *err) {
    const lp_parallel *parallel = deal->parallel;
    LP_MPI(MPI_Comm_dup(parallel->comm, &deal->comm));
    deal->joined = true;
    LP_CHECK(lp_parallel_agree(parallel, lp_shared_new(parallel, sizeof(board), &deal->shared, err), err));
    if (lp_parallel_node_rank(parallel) == 0) memset(lp_shared_data(deal->shared), 0, sizeof(board));
    LP_CHECK(lp_shared_fence(deal->shared, err));
    bool remote = parallel->node_leader != 0;
    if (options->way != LP_DEAL_AUTO && parallel->rank != 0) remote = true;
    if (!remote) deal->board = lp_shared_data(deal->shared);
    int mine = remote, all = 0, failed = 0;
    LP_MPI(MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_SUM, parallel->comm));
    lp_status status = LP_OK;
    if (parallel->rank == 0) {
        deal->n_remote = all;
        deal->has_server = all > 0 && parallel->threads && options->way != LP_DEAL_MESSAGES_NO_THREAD;
        if (deal->has_server) failed = pthread_create(&deal->server, NULL, server_main, deal);
        if (failed) {
            deal->has_server = false;
            status = lp_fail(err, LP_ERR_IO, "cannot start a thread: %s", strerror(failed));
        }
    }
    return lp_parallel_agree(parallel, status, err);
}

/* Collective. */
static void release(lp_deal *deal) {
    if (deal->joined) {
        lp_shared_free(deal->shared);
        MPI_Comm_free(&deal->comm);
    }
    lp_dealer_release(&deal->dealer);
    lp_mem_free(deal);
}

lp_status lp_deal_new(const lp_parallel *parallel, const lp_deal_options *options, lp_deal **out, lp_error *err) {
    lp_deal *deal = NULL;
    lp_status status = lp_mem_new(&deal, 1, sizeof *deal, "dealer", err);
    if (status == LP_OK) {
        deal->parallel = parallel;
        status = lp_dealer_init(&deal->dealer, options->costs, options->done, options->n_units, parallel->size, err);
    }
    status = lp_parallel_agree(parallel, status, err);
    if (status == LP_OK) status = join(deal, options, err);
    if (status != LP_OK) {
        if (deal) release(deal);
        return status;
    }
    *out = deal;
    return LP_OK;
}

static lp_status send_request(lp_deal *deal, int64_t wanted, int64_t flags, lp_error *err) {
    request asked = {.wanted = wanted, .n_done = deal->unreported, .flags = flags};
    LP_MPI(MPI_Send(&asked, (int)sizeof asked, MPI_BYTE, 0, TAG_REQUEST, deal->comm));
    deal->unreported = 0;
    return LP_OK;
}

static lp_status ask(lp_deal *deal, int64_t wanted, int64_t flags, reply *answer, lp_error *err) {
    MPI_Request pending = MPI_REQUEST_NULL;
    LP_MPI(MPI_Irecv(answer, (int)sizeof *answer, MPI_BYTE, 0, TAG_REPLY, deal->comm, &pending));
    LP_CHECK(send_request(deal, wanted, flags, err));
    for (;;) {
        int done = 0;
        LP_MPI(MPI_Test(&pending, &done, MPI_STATUS_IGNORE));
        if (done) break;
        /* Rank 0 may answer late; that is its hang then, not this rank's. */
        lp_pulse();
        nap();
    }
    return LP_OK;
}

lp_status lp_deal_next(lp_deal *deal, int64_t wanted, const int64_t **units, int64_t *n, lp_error *err) {
    int64_t flags = lp_stop_requested() ? FLAG_STOP : 0;
    reply answer = {0};
    if (deal->board) {
        if (flags) atomic_fetch_or(&deal->board->flags, flags);
        if (deal->n_remote > 0 && !deal->has_server) {
            int served = 0;
            LP_CHECK(serve(deal, &served, err));
        }
        answer.n = take(deal, wanted, &answer.first);
    } else {
        LP_CHECK(ask(deal, wanted, flags, &answer, err));
    }
    LP_ASSERT(answer.n >= 0 && (answer.n == 0 || answer.first + answer.n <= deal->dealer.n_units));
    *units = deal->dealer.order + (answer.n > 0 ? answer.first : 0);
    *n = answer.n;
    return LP_OK;
}

void lp_deal_done(lp_deal *deal, int64_t n) {
    if (deal->board)
        atomic_fetch_add(&deal->board->n_done, n);
    else
        deal->unreported += n;
}

int64_t lp_deal_total(const lp_deal *deal) {
    return deal->dealer.n_units;
}

int64_t lp_deal_count(const lp_deal *deal) {
    return deal->board ? atomic_load(&deal->board->n_done) : 0;
}

/* Says why units are left, when they are. Collective. */
static lp_status look_for_stop(lp_deal *deal, lp_error *err) {
    struct {
        int64_t flags;
        int64_t n_left;
        char reason[256];
    } end = {0};
    if (deal->parallel->rank == 0) {
        end.flags = atomic_load(&deal->board->flags);
        end.n_left = deal->dealer.n_units - atomic_load(&deal->board->n_done);
        snprintf(end.reason, sizeof end.reason, "%s", lp_stop_reason());
    }
    LP_CHECK(lp_parallel_broadcast(deal->parallel, &end, sizeof end, err));
    if ((end.flags & FLAG_STOP) && end.n_left > 0)
        return lp_fail(err, LP_ERR_STOPPED, "stopped by %s: %lld of %lld left; the same command continues",
                       end.reason[0] ? end.reason : "a request to another rank", (long long)end.n_left,
                       (long long)deal->dealer.n_units);
    return LP_OK;
}

lp_status lp_deal_join(lp_deal *deal, lp_status mine, lp_error *err) {
    const lp_parallel *parallel = deal->parallel;
    lp_error ignored;
    int64_t flags = mine == LP_OK ? 0 : FLAG_FAILED;
    if (deal->board) {
        if (flags) atomic_fetch_or(&deal->board->flags, flags);
    } else if (send_request(deal, 0, flags, &ignored) != LP_OK) {
        lp_parallel_abort(parallel, 1, ignored.text);
    }
    if (deal->has_server)
        pthread_join(deal->server, NULL);
    else if (parallel->rank == 0 && serve_all(deal, &ignored) != LP_OK)
        lp_parallel_abort(parallel, 1, ignored.text);
    /* The wait for the slowest rank happens asleep. */
    lp_status status = lp_parallel_barrier(parallel, mine == LP_OK ? err : &ignored);
    if (status == LP_OK) status = lp_parallel_agree(parallel, mine, err);
    if (status == LP_OK) status = look_for_stop(deal, err);
    return status;
}

void lp_deal_free(lp_deal *deal) {
    if (deal) release(deal);
}

lp_status lp_deal_end(lp_deal *deal, lp_status mine, lp_error *err) {
    if (!deal) return mine;
    lp_status status = lp_deal_join(deal, mine, err);
    lp_deal_free(deal);
    return status;
}
