#include "parallel/signals.h"

#include "base/memory.h"
#include "base/output.h"

#include <errno.h>
#include <mpi.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_STOPPED = 75 };
static volatile sig_atomic_t caught; /* number of the signal, or 0 */
static volatile sig_atomic_t speaks = 1, end_code = EXIT_STOPPED;
static char *stop_path;
static bool stop_seen;
static time_t looked_at = -1;

/* Only functions that a handler may call from here to lp_signals_install. */

static void end_now(int number) {
    static const char text[] =
        "latentpatch: stopped by a signal before what was in hand was done; the same command continues\n";
    (void)number;
    lp_output_discard_all();
    if (speaks && write(STDERR_FILENO, text, sizeof text - 1) < 0) _exit(EXIT_FAILURE);
    _exit(end_code);
}

static void on_signal(int number) {
    caught = number;
}

/* The signals that ask a job to stop. */
static const struct {
    int number;
    const char *name;
} stops[] = {{SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGHUP, "SIGHUP"}, {SIGUSR1, "SIGUSR1"}, {SIGUSR2, "SIGUSR2"}};
enum { N_STOPS = sizeof stops / sizeof stops[0] };

/* What is in hand has this long to be done; a second signal does not wait. */
static void on_urgent_signal(int number) {
    const struct itimerval soon = {.it_value = {.tv_usec = 800 * 1000}};
    if (caught == number) end_now(number);
    caught = number;
    setitimer(ITIMER_REAL, &soon, NULL);
}

static void end_by(int number) {
    lp_output_discard_all();
    signal(number, SIG_DFL);
    raise(number);
}

static lp_status set_handlers(const int *numbers, size_t n, void (*handler)(int), lp_error *err) {
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < n; i++)
        if (sigaction(numbers[i], &action, NULL) != 0)
            return lp_fail(err, LP_ERR_IO, "cannot set signal handlers: %s", strerror(errno));
    return LP_OK;
}

static const int urgent[] = {SIGTERM, SIGINT, SIGHUP /* last */}, patient[] = {SIGUSR1, SIGUSR2};

/* nohup's choice stays. It is looked at before the libraries that this program is linked with begin, because one of
 * them (UCX, of Open MPI 5) takes SIGHUP for itself. Sanitizers begin after that too, and their sigaction does not work
 * until then, so the kernel is asked, and nothing here is instrumented. */
static bool hangup_ignored;

__attribute__((no_sanitize("address", "undefined"))) static void look_at_hangup(void) {
    struct {
        void (*handler)(int); /* the kernel's structure begins with it, on x86-64 and on arm64 */
        unsigned long rest[31];
    } hangup;
    hangup_ignored = syscall(SYS_rt_sigaction, SIGHUP, NULL, &hangup, (size_t)8 /* bytes of its mask */) == 0 &&
                     hangup.handler == SIG_IGN;
}

__attribute__((section(".preinit_array"), used)) static void (*const look_first)(void) = look_at_hangup;

void lp_signals_before_exec(void) {
    if (hangup_ignored) signal(SIGHUP, SIG_IGN);
}

static lp_status set_urgent(void (*handler)(int), lp_error *err) {
    lp_status status = set_handlers(urgent, 2, handler, err);
    if (status == LP_OK) status = set_handlers((const int[]){SIGXFSZ}, 1, SIG_IGN, err);
    return status == LP_OK ? set_handlers(&urgent[2], 1, hangup_ignored ? SIG_IGN : handler, err) : status;
}

lp_status lp_signals_end(lp_error *err) {
    lp_status status = lp_file_watch_maps(err);
    return status == LP_OK ? set_urgent(end_by, err) : status;
}

lp_status lp_signals_install(lp_error *err) {
    int started = 0, rank = 0;
    MPI_Initialized(&started);
    if (started && MPI_Comm_rank(MPI_COMM_WORLD, &rank) == MPI_SUCCESS) speaks = rank == 0;
    lp_status status = set_urgent(on_urgent_signal, err);
    if (status == LP_OK) status = set_handlers(patient, 2, on_signal, err);
    if (status == LP_OK) status = set_handlers((const int[]){SIGALRM}, 1, end_now, err);
    /* MPI has a handler of its own. */
    if (status == LP_OK) status = lp_file_watch_maps(err);
    return status;
}

void lp_signals_outcome(int code) {
    if (code == 0) return;
    speaks = 0;
    end_code = code;
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
    const struct itimerval never = {.it_value = {.tv_sec = 0}};
    setitimer(ITIMER_REAL, &never, NULL);
    caught = 0;
    stop_seen = false;
    looked_at = -1;
}
