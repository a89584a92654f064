#include "parallel/watch.h"

#include "base/memory.h"
#include "base/pulse.h"
#include "parallel/communicator.h"

#include <pthread.h>
#include <time.h>
#include <unistd.h>

enum { DOING = 192, HOST = 64, LOOKS = 16, MOST_MS = 1000, LAST_MS = 1, TAG = 1 };

/* What a rank sends to the next one. */
typedef struct {
    int64_t process;
    int64_t last; /* non-zero: no more words will come */
    char host[HOST];
    char doing[DOING];
} word;

struct lp_watch {
    const lp_parallel *parallel;
    MPI_Comm comm; /* of its own */
    bool ring;     /* the ranks hear of each other */
    int64_t limit_ms;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending;       /* under lock */
    bool news;         /* under lock: `doing` changed */
    char doing[DOING]; /* under lock */
    /* of the thread alone */
    word sent, heard;
    MPI_Request sending;
    uint64_t pulses;
    int64_t still_ms;  /* since this rank's last pulse */
    int64_t silent_ms; /* since the last word of the rank before */
};

static int rank_before(const lp_parallel *parallel) {
    return (parallel->rank + parallel->size - 1) % parallel->size;
}

static struct timespec from_now(int64_t ms) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = now.tv_nsec + ms % 1000 * 1000000;
    return (struct timespec){.tv_sec = now.tv_sec + ms / 1000 + ns / 1000000000, .tv_nsec = ns % 1000000000};
}

typedef enum { LOOK, NEWS, END } event;

/* Sleeps until the time of the next look, until there is something new to tell, or until the watch is to end. *doing is
 * what this rank says. */
static event wait_for_event(lp_watch *watch, const struct timespec *until, char doing[DOING]) {
    int woken = 0;
    pthread_mutex_lock(&watch->lock);
    while (!watch->ending && !watch->news && woken == 0)
        woken = pthread_cond_timedwait(&watch->changed, &watch->lock, until);
    event what = watch->ending ? END : watch->news ? NEWS : LOOK;
    watch->news = false;
    memcpy(doing, watch->doing, DOING);
    pthread_mutex_unlock(&watch->lock);
    return what;
}

static void nap(int64_t ms) {
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

/* A word is skipped while the one before it is still on its way: nothing here may wait. */
static lp_status speak(lp_watch *watch, const char *doing, bool last, lp_error *err) {
    int done = 1;
    if (watch->sending != MPI_REQUEST_NULL) LP_MPI(MPI_Test(&watch->sending, &done, MPI_STATUS_IGNORE));
    if (!done || watch->sent.last) return LP_OK;
    watch->sent = (word){.process = getpid(), .last = last};
    snprintf(watch->sent.host, HOST, "%.*s", HOST - 1, watch->parallel->host);
    snprintf(watch->sent.doing, DOING, "%s", doing);
    LP_MPI(MPI_Isend(&watch->sent, (int)sizeof watch->sent, MPI_BYTE,
                     (watch->parallel->rank + 1) % watch->parallel->size, TAG, watch->comm, &watch->sending));
    return LP_OK;
}

static lp_status listen(lp_watch *watch, lp_error *err) {
    for (;;) {
        int there = 0;
        int from = rank_before(watch->parallel);
        LP_MPI(MPI_Iprobe(from, TAG, watch->comm, &there, MPI_STATUS_IGNORE));
        if (!there) return LP_OK;
        LP_MPI(MPI_Recv(&watch->heard, (int)sizeof watch->heard, MPI_BYTE, from, TAG, watch->comm, MPI_STATUS_IGNORE));
        watch->silent_ms = 0;
    }
    return LP_OK;
}

static void end_all(const lp_watch *watch, int rank, const word *of, const char *what) {
    lp_error why;
    lp_fail(
        &why, LP_ERR_BUSY,
        "rank %d (host %s, process %lld) hangs: %s for %lld s (engine.hang_limit), in hand: %s; all ranks are ended, "
        "and the same command continues",
        rank, of->host[0] ? of->host : "unknown", (long long)of->process, what,
        (long long)(watch->limit_ms + 999) / 1000, of->doing[0] ? of->doing : "nothing");
    lp_parallel_abort(watch->parallel, 1, why.text);
}

static void look_at_self(lp_watch *watch, const char *doing, int64_t ms) {
    uint64_t now = lp_pulses();
    watch->still_ms = doing[0] == '\0' || now != watch->pulses ? 0 : watch->still_ms + ms;
    watch->pulses = now;
    if (watch->still_ms < watch->limit_ms) return;
    word mine = {.process = getpid()};
    snprintf(mine.host, HOST, "%.*s", HOST - 1, watch->parallel->host);
    snprintf(mine.doing, DOING, "%s", doing);
    end_all(watch, watch->parallel->rank, &mine, "not moved");
}

static lp_status look_at_others(lp_watch *watch, const char *doing, bool last, int64_t ms, lp_error *err) {
    LP_CHECK(speak(watch, doing, last, err));
    watch->silent_ms += ms;
    LP_CHECK(listen(watch, err));
    if (watch->silent_ms >= watch->limit_ms && !watch->heard.last)
        end_all(watch, rank_before(watch->parallel), &watch->heard, "silent");
    return LP_OK;
}

/* Both neighbours know that this one ends. */
static lp_status is_over(lp_watch *watch, bool *over, lp_error *err) {
    int sent = 1;
    if (watch->sending != MPI_REQUEST_NULL) LP_MPI(MPI_Test(&watch->sending, &sent, MPI_STATUS_IGNORE));
    *over = watch->sent.last && sent && watch->heard.last;
    return LP_OK;
}

static void *watch_main(void *argument) {
    lp_watch *watch = argument;
    lp_error err = {0};
    char doing[DOING];
    int64_t look_ms = watch->limit_ms / LOOKS;
    if (look_ms < 1) look_ms = 1;
    if (look_ms > MOST_MS) look_ms = MOST_MS;
    struct timespec until = from_now(look_ms);
    event what = LOOK;
    bool over = false;
    lp_status status = LP_OK;
    while (what != END && status == LP_OK) {
        what = wait_for_event(watch, &until, doing);
        int64_t passed_ms = what == LOOK ? look_ms : 0;
        if (what == LOOK) until = from_now(look_ms);
        if (what == LOOK) look_at_self(watch, doing, look_ms);
        if (watch->ring) status = look_at_others(watch, doing, what == END, passed_ms, &err);
    }
    while (watch->ring && !over && status == LP_OK) {
        nap(LAST_MS);
        status = look_at_others(watch, "", true, LAST_MS, &err);
        if (status == LP_OK) status = is_over(watch, &over, &err);
    }
    if (status != LP_OK) lp_parallel_abort(watch->parallel, 1, err.text);
    return NULL;
}

static lp_status start_thread(lp_watch *watch, lp_error *err) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&watch->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&watch->lock, NULL);
    int failed = pthread_create(&watch->thread, NULL, watch_main, watch);
    return failed ? lp_fail(err, LP_ERR_IO, "cannot start a thread: %s", strerror(failed)) : LP_OK;
}

lp_status lp_watch_start(const lp_parallel *parallel, int64_t limit_ms, lp_watch **out, lp_error *err) {
    lp_watch *watch = NULL;
    *out = NULL;
    if (limit_ms == 0 || parallel->comm == MPI_COMM_NULL) return LP_OK;
    lp_status status = lp_parallel_agree(parallel, lp_mem_new(&watch, 1, sizeof *watch, "watch", err), err);
    if (status != LP_OK) {
        lp_mem_free(watch);
        return status;
    }
    *watch = (lp_watch){.parallel = parallel,
                        .comm = MPI_COMM_NULL,
                        .ring = parallel->size > 1 && parallel->threads,
                        .limit_ms = limit_ms,
                        .sending = MPI_REQUEST_NULL};
    LP_TRY_MPI(MPI_Comm_dup(parallel->comm, &watch->comm));
    status = start_thread(watch, err);
    if (status != LP_OK) lp_parallel_abort(parallel, 1, err->text);
    *out = watch;
    watch = NULL;
out:
    lp_mem_free(watch);
    return status;
}

void lp_watch_stop(lp_watch *watch) {
    if (!watch) return;
    pthread_mutex_lock(&watch->lock);
    watch->ending = true;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
    pthread_join(watch->thread, NULL);
    MPI_Comm_free(&watch->comm);
    pthread_cond_destroy(&watch->changed);
    pthread_mutex_destroy(&watch->lock);
    lp_mem_free(watch);
}

void lp_watch_doing(lp_watch *watch, const char *what) {
    if (!watch) return;
    lp_pulse();
    pthread_mutex_lock(&watch->lock);
    snprintf(watch->doing, DOING, "%s", what);
    watch->news = true;
    pthread_cond_signal(&watch->changed);
    pthread_mutex_unlock(&watch->lock);
}
