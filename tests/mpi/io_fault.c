/* Preloaded into a job to make its disk misbehave: LP_IO_FAULT=eio:N fails the Nth write to a *.h5 file and all after
 * it with EIO; LP_IO_FAULT=short:N writes only half of every Nth request. */
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset);
ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t offset);

static atomic_long n_writes;

static int is_target(int fd) {
    char link[64];
    char path[512];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return length > 3 && memcmp(path + length - 3, ".h5", 3) == 0;
}

enum { PASS, FAIL, HALF };

static int fate(int fd, size_t size) {
    const char *plan = getenv("LP_IO_FAULT");
    if (!plan || !is_target(fd)) return PASS;
    long count = atomic_fetch_add(&n_writes, 1) + 1;
    if (strncmp(plan, "eio:", 4) == 0) return count >= strtol(plan + 4, NULL, 10) ? FAIL : PASS;
    if (strncmp(plan, "short:", 6) == 0 && size > 1) return count % strtol(plan + 6, NULL, 10) == 0 ? HALF : PASS;
    return PASS;
}

ssize_t pwrite64(int fd, const void *data, size_t size, off_t offset) {
    static ssize_t (*next)(int, const void *, size_t, off_t);
    if (!next) {
        void *found = dlsym(RTLD_NEXT, "pwrite64");
        memcpy(&next, &found, sizeof next);
    }
    int what = fate(fd, size);
    if (what == FAIL) {
        errno = EIO;
        return -1;
    }
    return next(fd, data, what == HALF ? size / 2 : size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int n, off_t offset) {
    static ssize_t (*next)(int, const struct iovec *, int, off_t);
    if (!next) {
        void *found = dlsym(RTLD_NEXT, "pwritev64");
        memcpy(&next, &found, sizeof next);
    }
    int what = fate(fd, n > 0 ? parts[0].iov_len : 0);
    if (what == FAIL) {
        errno = EIO;
        return -1;
    }
    if (what == HALF) return pwrite64(fd, parts[0].iov_base, parts[0].iov_len / 2, offset);
    return next(fd, parts, n, offset);
}

ssize_t pwritev(int fd, const struct iovec *parts, int n, off_t offset) {
    return pwritev64(fd, parts, n, offset);
}
