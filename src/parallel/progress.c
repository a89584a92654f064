#include "parallel/progress.h"

#include "base/memory.h"

#include <pthread.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { TERMINAL_MS = 250, LINES_MS = 5000, LINE = 256 };

struct lp_progress {
    lp_progress_options options;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending; /* under lock */
    bool terminal;
    struct timespec start;
    char shown[LINE]; /* the last line; of one thread at a time */
};

static double seconds_since(const struct timespec *start) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - start->tv_sec) + 1e-9 * (double)(now.tv_nsec - start->tv_nsec);
}

/* "42 s", "3 min 05 s", "2 h 10 min" */
static void format_time(char *out, size_t size, double seconds) {
    long long s = seconds < 1e15 ? (long long)(seconds + 0.5) : (long long)1e15;
    if (s < 60)
        snprintf(out, size, "%lld s", s);
    else if (s < 3600)
        snprintf(out, size, "%lld min %02lld s", s / 60, s % 60);
    else
        snprintf(out, size, "%lld h %02lld min", s / 3600, s % 3600 / 60);
}

/* Returns whether it fits. */
static bool write_line(char *out, size_t size, const lp_progress_options *options, int64_t n_here, double share,
                       double seconds, bool lives_too) {
    int64_t n = options->before + n_here;
    double rate = seconds > 0 ? (double)n_here / seconds : 0;
    bool early = n_here == 0 && n < options->total && share > 0;
    char span[64], percent[64] = "", lives[64] = "", end[128] = "";
    if (share > 0.99) share = 0.99; /* an estimate, and the first unit is not done */
    if (n >= options->total && n_here == 0 && options->before > 0)
        return (size_t)snprintf(out, size, "%s: complete already (%lld %s)", options->label, (long long)n,
                                options->unit) < size;
    if (options->before > 0 && lives_too)
        snprintf(lives, sizeof lives, ", %lld now and %lld before", (long long)n_here, (long long)options->before);
    if (n < options->total && rate > 0) snprintf(percent, sizeof percent, " (%d%%)", (int)(100 * n / options->total));
    if (early) {
        double before = (double)options->before / (double)options->total;
        snprintf(percent, sizeof percent, " (%.1f%%)", 100 * (before + (1 - before) * share));
    }
    if (n >= options->total) {
        format_time(span, sizeof span, seconds);
        snprintf(end, sizeof end, ", %.1f/s, took %s", rate, span);
    } else if (rate > 0) {
        format_time(span, sizeof span, (double)(options->total - n) / rate);
        snprintf(end, sizeof end, ", %.1f/s, %s left", rate, span);
    } else if (early) {
        format_time(span, sizeof span, seconds * (1 - share) / share);
        snprintf(end, sizeof end, ", about %s left", span);
    }
    return (size_t)snprintf(out, size, "%s: %lld of %lld %s%s%s%s", options->label, (long long)n,
                            (long long)options->total, options->unit, percent, lives, end) < size;
}

void lp_progress_line(char *out, size_t size, const lp_progress_options *options, int64_t n_here, double share,
                      double seconds) {
    if (!write_line(out, size, options, n_here, share, seconds, true))
        write_line(out, size, options, n_here, share, seconds, false);
}

/* A line that the terminal would wrap could not be rewritten; its last column stays free. */
static size_t most_bytes(const lp_progress *progress) {
    struct winsize window;
    if (!progress->terminal || ioctl(STDERR_FILENO, TIOCGWINSZ, &window) != 0 || window.ws_col == 0) return LINE;
    return window.ws_col < LINE ? window.ws_col : LINE;
}

static void show(lp_progress *progress, bool last) {
    char line[LINE];
    const lp_progress_options *options = &progress->options;
    lp_progress_line(line, last ? LINE : most_bytes(progress), options, options->count(options->state),
                     options->share ? options->share(options->state) : 0, seconds_since(&progress->start));
    if (progress->terminal)
        fprintf(stderr, "\r\033[K%s%s", line, last ? "\n" : "");
    else if (strcmp(line, progress->shown) != 0)
        fprintf(stderr, "%s\n", line);
    fflush(stderr);
    snprintf(progress->shown, sizeof progress->shown, "%s", line);
}

static void *progress_main(void *argument) {
    lp_progress *progress = argument;
    /* At once, since the first pair may take long. Nothing to do is said once, at the end. */
    if (progress->options.before < progress->options.total) show(progress, false);
    pthread_mutex_lock(&progress->lock);
    while (!progress->ending) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + (progress->terminal ? TERMINAL_MS : LINES_MS) * INT64_C(1000000);
        until.tv_sec += ns / 1000000000;
        until.tv_nsec = ns % 1000000000;
        int woken = pthread_cond_timedwait(&progress->changed, &progress->lock, &until);
        if (woken != 0 && !progress->ending) show(progress, false);
    }
    pthread_mutex_unlock(&progress->lock);
    return NULL;
}

lp_status lp_progress_start(const lp_progress_options *options, lp_progress **out, lp_error *err) {
    lp_progress *progress = NULL;
    lp_status status = LP_OK;
    if (options->quiet) {
        *out = NULL;
        return LP_OK;
    }
    LP_TRY(lp_mem_new(&progress, 1, sizeof *progress, "progress", err));
    progress->options = *options;
    progress->terminal = isatty(STDERR_FILENO) != 0;
    clock_gettime(CLOCK_MONOTONIC, &progress->start);
    /* The monotonic clock: a jump of the wall clock must not stop the display. */
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&progress->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&progress->lock, NULL);
    int failed = pthread_create(&progress->thread, NULL, progress_main, progress);
    if (failed) LP_FAIL(LP_ERR_IO, "cannot start a thread: %s", strerror(failed));
    *out = progress;
    progress = NULL;
out:
    lp_mem_free(progress);
    return status;
}

void lp_progress_stop(lp_progress *progress) {
    if (!progress) return;
    pthread_mutex_lock(&progress->lock);
    progress->ending = true;
    pthread_cond_signal(&progress->changed);
    pthread_mutex_unlock(&progress->lock);
    pthread_join(progress->thread, NULL);
    show(progress, true);
    pthread_cond_destroy(&progress->changed);
    pthread_mutex_destroy(&progress->lock);
    lp_mem_free(progress);
}
