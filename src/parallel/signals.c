#include "parallel/signals.h"

#include "base/memory.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t caught; /* number of the signal, or 0 */
static char *stop_path;
static bool stop_seen;
static time_t looked_at = -1;

static void on_signal(int number) {
    caught = number;
}

/* The signals that ask a job to stop. */
static const struct {
    int number;
    const char *name;
} stops[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"}};
enum { N_STOPS = sizeof stops / sizeof stops[0] };

lp_status lp_signals_install(lp_error *err) {
    struct sigaction ignore = {.sa_handler = SIG_IGN}, before;
    sigemptyset(&ignore.sa_mask);
    for (size_t i = 0; i < N_STOPS; i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        sigemptyset(&action.sa_mask);
        /* A second Ctrl-C ends the process at once. */
        if (stops[i].number == SIGINT) action.sa_flags |= (int)SA_RESETHAND;
        if (sigaction(stops[i].number, NULL, &before) != 0) goto fail;
        /* Under nohup the end of the terminal is not a request. */
        if (stops[i].number == SIGHUP && before.sa_handler == SIG_IGN) continue;
        if (sigaction(stops[i].number, &action, NULL) != 0) goto fail;
    }
    if (sigaction(SIGXFSZ, &ignore, NULL) == 0) return LP_OK;
fail:
    return lp_fail(err, LP_ERR_IO, "cannot set signal handlers: %s", strerror(errno));
}

lp_status lp_stop_watch(const char *path, lp_error *err) {
    char *copy = NULL;
    if (path) {
        lp_status status = lp_mem_text(&copy, path, strlen(path), err);
        if (status != LP_OK) return status;
    }
    lp_mem_free(stop_path);
    stop_path = copy;
    looked_at = -1;
    return LP_OK;
}

bool lp_stop_requested(void) {
    if (caught || stop_seen) return true;
    if (!stop_path) return false;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (now.tv_sec == looked_at) return false;
    looked_at = now.tv_sec;
    stop_seen = access(stop_path, F_OK) == 0;
    return stop_seen;
}

const char *lp_stop_reason(void) {
    for (size_t i = 0; i < N_STOPS; i++)
        if (caught == stops[i].number) return stops[i].name;
    return stop_seen ? stop_path : "";
}

void lp_stop_clear(void) {
    caught = 0;
    stop_seen = false;
    looked_at = -1;
}
