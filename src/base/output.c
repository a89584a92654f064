#include "base/output.h"

#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

static lp_status fail_errno(lp_error *err, const char *path, const char *verb) {
    return lp_fail(err, LP_ERR_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
}

/* ---- Temporary files of this process, for lp_output_discard_all ---- */

enum { MAX_TEMPORARIES = 16 };
static char *volatile temporaries[MAX_TEMPORARIES];

void lp_output_remember(char *path) {
    for (int i = 0; i < MAX_TEMPORARIES; i++) {
        if (temporaries[i]) continue;
        temporaries[i] = path;
        return;
    }
}

void lp_output_forget(const char *path) {
    for (int i = 0; i < MAX_TEMPORARIES; i++)
        if (temporaries[i] == path) temporaries[i] = NULL;
}

void lp_output_hold_signals(sigset_t *before) {
    static const int ending[] = {SIGTERM, SIGINT, SIGHUP, SIGALRM /* the end of the time that they give */};
    sigset_t held;
    sigemptyset(&held);
    for (size_t i = 0; i < sizeof ending / sizeof ending[0]; i++) sigaddset(&held, ending[i]);
    pthread_sigmask(SIG_BLOCK, &held, before);
}

void lp_output_release_signals(const sigset_t *before) {
    pthread_sigmask(SIG_SETMASK, before, NULL);
}

void lp_output_discard_all(void) {
    for (int i = 0; i < MAX_TEMPORARIES; i++)
        if (temporaries[i]) unlink(temporaries[i]);
}

/* ---- One output file ---- */

static lp_status refuse_kind(const char *where, const char *path, const char *target, lp_error *err) {
    lp_path_kind kind = lp_path_look(target);
    bool folder = kind == LP_PATH_FOLDER || path[0] == '\0' || path[strlen(path) - 1] == '/';
    if (kind != LP_PATH_OTHER && !folder) return LP_OK;
    return lp_fail(err, LP_ERR_VALUE, "%s: expected a file, found %s (%s)", where,
                   folder ? "a folder" : "a device or a pipe", path);
}

const char *lp_output_token(void) {
    static char token[LP_OUTPUT_TOKEN + 1];
    uint64_t random = 0;
    if (token[0]) return token;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) return NULL;
    snprintf(token, sizeof token, "%016llx", (unsigned long long)random);
    return token;
}

void lp_output_remove_left(const char *path, const char *token) {
    char *place = NULL;
    if (strlen(token) != LP_OUTPUT_TOKEN || strspn(token, "0123456789abcdef") != LP_OUTPUT_TOKEN ||
        lp_path_folder(path, &place, NULL) != LP_OK)
        return;
    DIR *folder = opendir(place);
    for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
        /* .TOKEN-12345678.tmp */
        const char *name = entry->d_name, *dot = strstr(name, token);
        const char *rest = dot ? dot + LP_OUTPUT_TOKEN : NULL;
        bool left = dot && dot > name + 1 && dot[-1] == '.' && rest[0] == '-' &&
                    strspn(rest + 1, "0123456789abcdef") == 8 && strcmp(rest + 9, ".tmp") == 0;
        if (left) unlinkat(dirfd(folder), name, 0);
    }
    if (folder) closedir(folder);
    lp_mem_free(place);
}

lp_status lp_output_begin(const char *path, lp_output *out, lp_error *err) {
    lp_output made = {.fd = -1};
    lp_text name = {0};
    lp_status status = LP_OK;
    sigset_t before;
    lp_output_hold_signals(&before);
    LP_TRY(lp_path_resolve(path, &made.target, err));
    LP_TRY(refuse_kind(path, path, made.target, err));
    for (int turn = 0; made.fd < 0; turn++) {
        uint32_t random = 0;
        if (!lp_output_token() || getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) {
            status = fail_errno(err, path, "choose a temporary name");
            goto out;
        }
        lp_text_clear(&name);
        LP_TRY(lp_text_format(&name, err, "%s.%s-%08x.tmp", made.target, lp_output_token(), (unsigned)random));
        made.fd = open(name.data, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (made.fd >= 0 || (errno == EEXIST && turn < 3)) continue;
        status = fail_errno(err, path, "write");
        goto out;
    }
    made.temporary = name.data;
    name = (lp_text){0};
    lp_output_remember(made.temporary);
    *out = made;
    made = (lp_output){.fd = -1};
out:
    lp_output_release_signals(&before);
    lp_mem_free(made.target);
    lp_text_release(&name);
    return status;
}

/* Some file systems and kinds of files cannot be flushed: that is not a failure. */
static bool flushed(int fd) {
    return fsync(fd) == 0 || errno == EINVAL || errno == EROFS;
}

static lp_status flush_folder(const char *path, lp_error *err) {
    char *folder = NULL;
    lp_status status = lp_path_folder(path, &folder, err);
    if (status != LP_OK) return status;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* A folder may be writable and not readable. */
    if (fd >= 0 && !flushed(fd)) status = fail_errno(err, folder, "flush");
    if (fd >= 0) close(fd);
    lp_mem_free(folder);
    return status;
}

static lp_status same_bytes(const char *a, const char *b, bool *same, lp_error *err) {
    lp_mapped_file one = {0}, two = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_file_map(a, &one, err));
    LP_TRY(lp_file_map(b, &two, err));
    *same = one.size == two.size && memcmp(one.data, two.data, one.size) == 0;
out:
    lp_file_unmap(&one);
    lp_file_unmap(&two);
    return status;
}

/* Gives the file its name where nothing has it; errno is EEXIST otherwise. */
static int name_new(const char *temporary, const char *target) {
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, target, RENAME_NOREPLACE) == 0) return 0;
    if (errno != EINVAL && errno != ENOSYS) return -1;
    /* A file system that cannot rename so: a second name, and the first one goes. */
    if (link(temporary, target) == 0) return unlink(temporary);
    if (errno != EPERM && errno != EOPNOTSUPP && errno != ENOSYS) return -1;
    struct stat there;
    if (lstat(target, &there) == 0) {
        errno = EEXIST;
        return -1;
    }
    return rename(temporary, target);
}

lp_status lp_output_publish(lp_output *out, lp_output_mode mode, lp_error *err) {
    bool good = flushed(out->fd);
    if (close(out->fd) != 0) good = false;
    out->fd = -1;
    if (!good) return fail_errno(err, out->target, "write");
    int code = mode == LP_OUTPUT_OWN ? rename(out->temporary, out->target) : name_new(out->temporary, out->target);
    if (code != 0 && errno == EEXIST) {
        bool same = false;
        LP_CHECK(refuse_kind(out->target, out->target, out->target, err));
        LP_CHECK(same_bytes(out->temporary, out->target, &same, err));
        if (!same)
            return lp_fail(
                err, LP_ERR_VALUE,
                "%s: exists already with other contents, and is not replaced (name another file, or remove it)",
                out->target);
        unlink(out->temporary);
    } else if (code != 0) {
        return fail_errno(err, out->target, "write");
    }
    lp_output_forget(out->temporary);
    lp_mem_free(out->temporary);
    out->temporary = NULL;
    return flush_folder(out->target, err);
}

void lp_output_discard(lp_output *out) {
    if (out->temporary) {
        if (out->fd >= 0) close(out->fd);
        unlink(out->temporary);
        lp_output_forget(out->temporary);
    }
    lp_mem_free(out->temporary);
    lp_mem_free(out->target);
    *out = (lp_output){.fd = -1};
}

static lp_status write_all(int fd, const char *path, const void *data, size_t size, lp_error *err) {
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(fd, (const char *)data + done, size - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(err, path, "write");
        done += (size_t)n;
    }
    return LP_OK;
}

/* A device or a pipe takes the bytes; a file of its name would stand in its place from then on. */
static lp_status write_into(const char *path, const void *data, size_t size, lp_error *err) {
    int fd = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return fail_errno(err, path, "write");
    lp_status status = write_all(fd, path, data, size, err);
    if (close(fd) != 0 && status == LP_OK) status = fail_errno(err, path, "write");
    return status;
}

lp_status lp_output_write(const char *path, const void *data, size_t size, lp_output_mode mode, lp_error *err) {
    lp_output out = {.fd = -1};
    lp_status status = LP_OK;
    if (lp_path_look(path) == LP_PATH_OTHER) return write_into(path, data, size, err);
    LP_TRY(lp_output_begin(path, &out, err));
    LP_TRY(write_all(out.fd, path, data, size, err));
    status = lp_output_publish(&out, mode, err);
out:
    lp_output_discard(&out);
    return status;
}

/* ---- Outputs against inputs ---- */

const lp_derived_name lp_names_locked[] = {{".lock", "the lock"}, {NULL, NULL}};
const lp_derived_name lp_names_of_store[] = {{".lock", "the lock"}, {".stop", "the request to stop"}, {NULL, NULL}};
const lp_derived_name lp_names_of_results[] = {{".partial", "the rows of the running sweep"},
                                               {".lock", "the lock"},
                                               {".stop", "the request to stop"},
                                               {NULL, NULL}};
const lp_derived_name lp_names_of_archive[] = {{".lock", "the lock"}, {".manifest.json", "the manifest"}, {NULL, NULL}};

struct lp_named_file {
    char *where; /* "job.json: $.results.csv"; of a derived name: "job.json: $.results.file: the lock (r.h5.lock)" */
    const char *word; /* "the store" */
    char *path;       /* as it was given */
    char *resolved;
    bool exists;
    dev_t device;
    ino_t inode;
};

static void release(lp_named_file *file) {
    lp_mem_free(file->where);
    lp_mem_free(file->path);
    lp_mem_free(file->resolved);
}

static lp_status look(const char *word, const char *path, lp_named_file *out, lp_error *err) {
    struct stat found;
    lp_named_file file = {.word = word};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_text(&file.path, path, strlen(path), err));
    LP_TRY(lp_path_resolve(path, &file.resolved, err));
    file.exists = stat(path, &found) == 0;
    if (file.exists) {
        file.device = found.st_dev;
        file.inode = found.st_ino;
    }
    *out = file;
    file = (lp_named_file){0};
out:
    release(&file);
    return status;
}

static bool is_same(const lp_named_file *a, const lp_named_file *b) {
    if (a->exists && b->exists) return a->device == b->device && a->inode == b->inode;
    return strcmp(a->resolved, b->resolved) == 0;
}

/* Adds the file, which is taken, where no earlier output is the same; `where` is a text of this call's. */
static lp_status add(lp_outputs *outputs, const char *where, lp_named_file *file, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_mem_text(&file->where, where, strlen(where), err));
    for (size_t i = 0; i < outputs->n; i++)
        if (is_same(&outputs->files[i], file))
            LP_FAIL(LP_ERR_VALUE, "%s: expected a file of its own, found %s (%s)", where, outputs->files[i].word,
                    outputs->files[i].path);
    LP_TRY(lp_mem_grow(&outputs->files, &outputs->capacity, outputs->n + 1, sizeof *outputs->files, "outputs", err));
    outputs->files[outputs->n++] = *file;
    *file = (lp_named_file){0};
out:
    release(file);
    return status;
}

lp_status lp_outputs_add(lp_outputs *outputs, const char *where, const char *word, const char *path,
                         const lp_derived_name *derived, lp_error *err) {
    lp_named_file file = {0};
    lp_text name = {0}, place = {0};
    lp_status status = LP_OK;
    size_t first = outputs->n;
    LP_TRY(look(word, path, &file, err));
    size_t length = strlen(file.resolved);
    if (length > LP_OUTPUT_PATH_BYTES) {
        release(&file);
        LP_FAIL(LP_ERR_VALUE, "%s: expected a path of at most %d bytes, found %zu", where, LP_OUTPUT_PATH_BYTES,
                length);
    }
    status = refuse_kind(where, path, file.resolved, err);
    if (status != LP_OK) {
        release(&file);
        goto out;
    }
    LP_TRY(add(outputs, where, &file, err));
    struct stat there;
    bool is_link = lstat(path, &there) == 0 && S_ISLNK(there.st_mode);
    for (const lp_derived_name *derived_name = derived; derived_name && derived_name->suffix; derived_name++) {
        lp_text_clear(&name);
        lp_text_clear(&place);
        /* They lie beside the file that a link points to. */
        LP_TRY(
            lp_text_format(&name, err, "%s%s", is_link ? outputs->files[first].resolved : path, derived_name->suffix));
        LP_TRY(lp_text_format(&place, err, "%s: %s (%s)", where, derived_name->word, lp_text_get(&name)));
        LP_TRY(look(derived_name->word, lp_text_get(&name), &file, err));
        LP_TRY(add(outputs, lp_text_get(&place), &file, err));
    }
out:
    lp_text_release(&name);
    lp_text_release(&place);
    return status;
}

static lp_status check_file(const lp_outputs *outputs, const char *word, const char *path, lp_error *err) {
    lp_named_file input = {0};
    lp_status status = look(word, path, &input, err);
    for (size_t i = 0; status == LP_OK && i < outputs->n; i++)
        if (is_same(&outputs->files[i], &input))
            status = lp_fail(err, LP_ERR_VALUE, "%s: expected a file of its own, found %s (%s)",
                             outputs->files[i].where, word, path);
    release(&input);
    return status;
}

lp_status lp_outputs_check_input(const lp_outputs *outputs, const char *word, const char *path, lp_error *err) {
    lp_text file = {0};
    lp_status status = LP_OK;
    DIR *folder = opendir(path);
    if (!folder) return check_file(outputs, word, path, err);
    for (struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        lp_text_clear(&file);
        LP_TRY(lp_text_format(&file, err, "%s/%s", path, entry->d_name));
        LP_TRY(check_file(outputs, word, lp_text_get(&file), err));
    }
out:
    closedir(folder);
    lp_text_release(&file);
    return status;
}

void lp_outputs_release(lp_outputs *outputs) {
    for (size_t i = 0; i < outputs->n; i++) release(&outputs->files[i]);
    lp_mem_free(outputs->files);
    *outputs = (lp_outputs){0};
}
