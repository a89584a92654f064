/* Preloaded into a job to make the machine under it misbehave.
 *   LP_FAULT=eio:N      the Nth write below LP_FAULT_FOLDER and all after it fail with EIO
 *   LP_FAULT=once:N     only the Nth fails
 *   LP_FAULT=short:N    of every Nth write only half is done
 *   LP_FAULT=sync:N     the Nth fsync or fdatasync below the folder and all after it fail with EIO
 *   LP_FAULT=stop:N     at the Nth write below the folder the process is stopped (SIGSTOP)
 *   LP_FAULT=stuck:N    the Nth write below the folder never returns
 *   LP_FAULT=late       SIGTERM comes twice while MPI ends, as from mpiexec when another rank has ended with an error
 *   LP_FAULT=digest:FIFO  no digest that a thread beside the first makes ends before somebody writes to the FIFO
 *   LP_FAULT=clock      the time of day jumps years to and fro between two looks; the monotonic clock goes on as ever
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset);
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t offset);
int EVP_DigestFinal_ex(void *context, unsigned char *out, unsigned int *length); /* of OpenSSL */

enum { PASS, FAIL, HALF };

static atomic_long n_writes, n_syncs, n_looks;

static void *next(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

/* POSIX lets a pointer to a function be read from what dlsym gives; ISO C does not say so. */
#define NEXT(function)                                                                                                 \
    static __typeof__(function) *original;                                                                             \
    if (!original) {                                                                                                   \
        void *found = next(#function);                                                                                 \
        memcpy(&original, &found, sizeof found);                                                                       \
    }

static const char *plan_of(const char *word) {
    const char *plan = getenv("LP_FAULT");
    size_t length = strlen(word);
    return plan && strncmp(plan, word, length) == 0 ? plan + length : NULL;
}

static bool is_target(int fd) {
    char link[64];
    char path[4096];
    const char *folder = getenv("LP_FAULT_FOLDER");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || !folder) return false;
    path[length] = '\0';
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fate_of_write(int fd, size_t size) {
    const char *eio = plan_of("eio:");
    const char *once = plan_of("once:");
    const char *half = plan_of("short:");
    const char *stop = plan_of("stop:");
    const char *stuck = plan_of("stuck:");
    if ((!eio && !once && !half && !stop && !stuck) || !is_target(fd)) return PASS;
    long count = atomic_fetch_add(&n_writes, 1) + 1;
    if (stop && count == strtol(stop, NULL, 10)) raise(SIGSTOP);
    while (stuck && count == strtol(stuck, NULL, 10)) pause();
    if (stop || stuck) return PASS;
    if (eio) return count >= strtol(eio, NULL, 10) ? FAIL : PASS;
    if (once) return count == strtol(once, NULL, 10) ? FAIL : PASS;
    return size > 1 && count % strtol(half, NULL, 10) == 0 ? HALF : PASS;
}

static int fate_of_sync(int fd) {
    const char *sync = plan_of("sync:");
    if (!sync || !is_target(fd)) return PASS;
    return atomic_fetch_add(&n_syncs, 1) + 1 >= strtol(sync, NULL, 10) ? FAIL : PASS;
}

ssize_t write(int fd, const void *data, size_t size) {
    NEXT(write)
    int fate = fate_of_write(fd, size);
    if (fate == FAIL) {
        errno = EIO;
        return -1;
    }
    return original(fd, data, fate == HALF ? size / 2 : size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    NEXT(pwrite64)
    int fate = fate_of_write(fd, size);
    if (fate == FAIL) {
        errno = EIO;
        return -1;
    }
    return original(fd, data, fate == HALF ? size / 2 : size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t offset) {
    NEXT(pwritev64)
    int fate = fate_of_write(fd, n > 0 ? parts[0].iov_len : 0);
    if (fate == FAIL) {
        errno = EIO;
        return -1;
    }
    if (fate == HALF) n = n > 1 ? n / 2 : n;
    return original(fd, parts, n, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset) {
    return pwritev64(fd, parts, n, offset);
}

int fsync(int fd) {
    NEXT(fsync)
    if (fate_of_sync(fd) == FAIL) {
        errno = EIO;
        return -1;
    }
    return original(fd);
}

int fdatasync(int fd) {
    NEXT(fdatasync)
    if (fate_of_sync(fd) == FAIL) {
        errno = EIO;
        return -1;
    }
    return original(fd);
}

int MPI_Finalize(void);

int MPI_Finalize(void) {
    NEXT(MPI_Finalize)
    int result = original();
    for (int i = 0; plan_of("late") && i < 2; i++) raise(SIGTERM);
    return result;
}

int EVP_DigestFinal_ex(void *context, unsigned char *out, unsigned int *length) {
    NEXT(EVP_DigestFinal_ex)
    const char *fifo = plan_of("digest:");
    if (fifo && gettid() != getpid()) {
        int fd = open(fifo, O_RDONLY); /* waits for the one who writes */
        if (fd >= 0) close(fd);
    }
    return original(context, out, length);
}

static time_t jump(void) {
    static const time_t years[] = {0, -3, 10, -30, 1};
    if (!plan_of("clock")) return 0;
    long look = atomic_fetch_add(&n_looks, 1);
    return years[look % (long)(sizeof years / sizeof years[0])] * 365 * 86400;
}

time_t time(time_t *out) {
    NEXT(time)
    time_t now = original(NULL) + jump();
    if (out) *out = now;
    return now;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    NEXT(clock_gettime)
    int result = original(clock, out);
    if (result == 0 && clock == CLOCK_REALTIME) out->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    NEXT(gettimeofday)
    int result = original(out, zone);
    if (result == 0) out->tv_sec += jump();
    return result;
}
