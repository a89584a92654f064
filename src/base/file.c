#include "base/file.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static lp_status fail_errno(lp_error *err, const char *path, const char *verb) {
    return lp_fail(err, LP_ERR_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
}

static lp_status open_regular(const char *path, int *fd, size_t *size, lp_error *err) {
    /* A pipe without a writer would be waited for. */
    int handle = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (handle < 0) return fail_errno(err, path, "open");
    struct stat info;
    lp_status status = LP_OK;
    if (fstat(handle, &info) != 0) {
        status = fail_errno(err, path, "stat");
    } else if (S_ISDIR(info.st_mode)) {
        status = lp_fail(err, LP_ERR_IO, "%s: expected a file, found a folder", path);
    } else if (!S_ISREG(info.st_mode)) {
        status = lp_fail(err, LP_ERR_IO, "%s: expected a regular file, found %s", path,
                         S_ISFIFO(info.st_mode)   ? "a pipe"
                         : S_ISSOCK(info.st_mode) ? "a socket"
                                                  : "a device");
    }
    if (status != LP_OK) {
        close(handle);
        return status;
    }
    *fd = handle;
    *size = (size_t)info.st_size;
    return LP_OK;
}

lp_status lp_file_check(const char *path, lp_error *err) {
    int fd = -1;
    size_t size = 0;
    lp_status status = open_regular(path, &fd, &size, err);
    if (status == LP_OK) close(fd);
    return status;
}

/* ---- Mapped files, for the handler of SIGBUS ---- */

enum { MAX_MAPS = 64 };
static struct {
    const unsigned char *volatile data;
    size_t size;
    char *path;
} maps[MAX_MAPS];

static void remember_map(const lp_mapped_file *file, const char *path) {
    for (int i = 0; i < MAX_MAPS; i++) {
        if (maps[i].data) continue;
        if (lp_mem_text(&maps[i].path, path, strlen(path), NULL) != LP_OK) return;
        maps[i].size = file->size;
        maps[i].data = file->mapping;
        return;
    }
}

static void forget_map(const lp_mapped_file *file) {
    for (int i = 0; i < MAX_MAPS; i++) {
        if (!file->mapping || maps[i].data != file->mapping) continue;
        maps[i].data = NULL;
        lp_mem_free(maps[i].path);
    }
}

static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(EXIT_FAILURE);
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
    const unsigned char *at = info->si_addr;
    (void)context;
    for (int i = 0; i < MAX_MAPS; i++) {
        if (!maps[i].data || at < maps[i].data || at >= maps[i].data + maps[i].size) continue;
        say("latentpatch: error: ");
        say(maps[i].path);
        say(": cannot be read any more: it was made shorter while it was in use, or its disk fails\n");
        _exit(EXIT_FAILURE);
    }
    signal(number, SIG_DFL);
    raise(number);
}

lp_status lp_file_watch_maps(lp_error *err) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, NULL) != 0)
        return lp_fail(err, LP_ERR_IO, "cannot set signal handlers: %s", strerror(errno));
    return LP_OK;
}

lp_status lp_file_map(const char *path, lp_mapped_file *out, lp_error *err) {
    static const unsigned char nothing[1];
    int fd = -1;
    size_t size = 0;
    lp_status status = open_regular(path, &fd, &size, err);
    if (status != LP_OK) return status;
    lp_mapped_file file = {.data = nothing, .size = size, .mapping = NULL};
    if (size > 0) {
        file.mapping = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (file.mapping == MAP_FAILED) {
            status = fail_errno(err, path, "map");
            close(fd);
            return status;
        }
        file.data = file.mapping;
        remember_map(&file, path);
    }
    close(fd);
    *out = file;
    return LP_OK;
}

void lp_file_unmap(lp_mapped_file *file) {
    forget_map(file);
    if (file->mapping) munmap(file->mapping, file->size);
    *file = (lp_mapped_file){0};
}

size_t lp_page_bytes(void) {
    long bytes = sysconf(_SC_PAGESIZE);
    return bytes > 0 ? (size_t)bytes : 4096;
}

void lp_pages_want(const void *bytes, size_t n) {
    size_t into = (uintptr_t)bytes % lp_page_bytes();
    if (n > 0) (void)madvise((void *)((uintptr_t)bytes - into), n + into, MADV_WILLNEED);
}

void lp_pages_let_go(const void *bytes, size_t n) {
    size_t page = lp_page_bytes(), skipped = (page - (uintptr_t)bytes % page) % page;
    if (n < skipped + page) return;
    (void)madvise((void *)((uintptr_t)bytes + skipped), (n - skipped) / page * page, MADV_DONTNEED);
}

lp_status lp_file_read(const char *path, size_t max_bytes, lp_text *out, lp_error *err) {
    int fd = -1;
    size_t size = 0;
    lp_status status = open_regular(path, &fd, &size, err);
    if (status != LP_OK) return status;
    char *buffer = NULL;
    if (size > max_bytes) LP_FAIL(LP_ERR_VALUE, "%s: too large: %zu bytes, at most %zu", path, size, max_bytes);
    LP_TRY(lp_mem_new(&buffer, size + 1, 1, path, err));
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(fd, buffer + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            status = fail_errno(err, path, "read");
            goto out;
        }
        if (n == 0) LP_FAIL(LP_ERR_IO, "%s: ended at byte %zu while being read, expected %zu", path, done, size);
        done += (size_t)n;
    }
    status = lp_text_add(out, buffer, size, err);
out:
    lp_mem_free(buffer);
    close(fd);
    return status;
}

lp_path_kind lp_path_look(const char *path) {
    struct stat info;
    if (stat(path, &info) != 0) return LP_PATH_MISSING;
    if (S_ISREG(info.st_mode)) return LP_PATH_FILE;
    return S_ISDIR(info.st_mode) ? LP_PATH_FOLDER : LP_PATH_OTHER;
}

lp_status lp_path_join(const char *folder, const char *path, char **out, lp_error *err) {
    lp_text joined = {0};
    bool alone = path[0] == '/' || strcmp(folder, ".") == 0;
    const char *slash = folder[0] && folder[strlen(folder) - 1] == '/' ? "" : "/";
    lp_status status =
        alone ? lp_text_format(&joined, err, "%s", path) : lp_text_format(&joined, err, "%s%s%s", folder, slash, path);
    if (status != LP_OK) {
        lp_text_release(&joined);
        return status;
    }
    *out = joined.data;
    return LP_OK;
}

lp_status lp_path_folder(const char *path, char **out, lp_error *err) {
    const char *slash = strrchr(path, '/');
    if (!slash) return lp_mem_text(out, ".", 1, err);
    if (slash == path) return lp_mem_text(out, "/", 1, err);
    return lp_mem_text(out, path, (size_t)(slash - path), err);
}

/* Adds the components of `rest` to the resolved folder in *out. */
static lp_status add_components(const char *rest, lp_text *out, lp_error *err) {
    for (size_t length = 0; *rest; rest += length) {
        rest += strspn(rest, "/");
        length = strcspn(rest, "/");
        bool stays = length == 0 || (length == 1 && rest[0] == '.');
        if (length == 2 && strncmp(rest, "..", 2) == 0) {
            while (out->length > 1 && out->data[out->length - 1] != '/') out->length--;
            if (out->length > 1) out->length--;
            out->data[out->length] = '\0';
        } else if (!stays) {
            LP_CHECK(lp_text_format(out, err, "%s%.*s", out->length > 1 ? "/" : "", (int)length, rest));
        }
    }
    return LP_OK;
}

static lp_status resolve_once(const char *path, char **out, lp_error *err) {
    char *start = NULL, *real = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    size_t length = strlen(path), end = length;
    LP_TRY(lp_mem_text(&start, path, length, err));
    real = realpath(start, NULL);
    /* The longest part in front that exists; "" is the current folder. */
    while (!real && end > 0) {
        while (end > 0 && start[end - 1] != '/') end--;
        while (end > 1 && start[end - 1] == '/') end--;
        start[end] = '\0';
        real = realpath(end > 0 ? start : ".", NULL);
        if (end == 1) break;
    }
    LP_TRY(lp_text_format(&text, err, "%s", real ? real : "/"));
    LP_TRY(add_components(path + end, &text, err));
    *out = text.data;
    text = (lp_text){0};
out:
    lp_text_release(&text);
    lp_mem_free(start);
    free(real); /* from realpath */
    return status;
}

lp_status lp_path_resolve(const char *path, char **out, lp_error *err) {
    enum { MOST_LINKS = 40 };
    char target[PATH_MAX];
    char *found = NULL, *folder = NULL, *next = NULL;
    lp_status status = LP_OK;
    LP_TRY(resolve_once(path, &found, err));
    /* A link whose target is not there is still one: the file is made where it points. */
    for (int turn = 0;; turn++) {
        ssize_t n = readlink(found, target, sizeof target - 1);
        if (n <= 0) break;
        if (turn == MOST_LINKS) LP_FAIL(LP_ERR_IO, "%s: %s", path, strerror(ELOOP));
        target[n] = '\0';
        LP_TRY(lp_path_folder(found, &folder, err));
        LP_TRY(lp_path_join(folder, target, &next, err));
        lp_mem_free(folder);
        lp_mem_free(found);
        folder = found = NULL;
        LP_TRY(resolve_once(next, &found, err));
        lp_mem_free(next);
        next = NULL;
    }
    *out = found;
    found = NULL;
out:
    lp_mem_free(found);
    lp_mem_free(folder);
    lp_mem_free(next);
    return status;
}

lp_status lp_path_make_folder_for(const char *path, lp_error *err) {
    char *folder = NULL;
    lp_status status = lp_path_folder(path, &folder, err);
    if (status != LP_OK) return status;
    for (char *p = folder + 1; status == LP_OK; p++) {
        if (*p != '/' && *p != '\0') continue;
        char kept = *p;
        *p = '\0';
        if (mkdir(folder, 0777) != 0 && errno != EEXIST) status = fail_errno(err, folder, "make the folder");
        *p = kept;
        if (kept == '\0') break;
    }
    if (status == LP_OK && lp_path_look(folder) != LP_PATH_FOLDER)
        status = lp_fail(err, LP_ERR_IO, "%s: expected a folder", folder);
    lp_mem_free(folder);
    return status;
}
