#include "store/lock.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/output.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_TURNS = 10, LOCK_FILE_BYTES = 4096 };

struct lp_lock {
    char *path;
    int fd;
    int of_file; /* of the output, where it has several names: its lock counts; -1: none */
};

typedef struct {
    char host[256];
    int64_t pid;
    char started[64];
    char slurm_job[64];              /* "" outside of Slurm */
    int64_t slurm_restart;           /* how often Slurm has requeued that job */
    char token[LP_OUTPUT_TOKEN + 1]; /* of its temporary files */
} holder;

static holder describe_self(void) {
    holder self = {.pid = (int64_t)getpid()};
    if (gethostname(self.host, sizeof self.host - 1) != 0) snprintf(self.host, sizeof self.host, "unknown");
    lp_utc_now(self.started);
    const char *job = getenv("SLURM_JOB_ID");
    const char *restart = getenv("SLURM_RESTART_COUNT");
    if (job) snprintf(self.slurm_job, sizeof self.slurm_job, "%.63s", job);
    if (restart) (void)lp_read_integer(restart, 0, INT64_MAX, &self.slurm_restart);
    if (lp_output_token()) snprintf(self.token, sizeof self.token, "%s", lp_output_token());
    return self;
}

static lp_status write_holder(int fd, const char *path, const holder *self, lp_error *err) {
    lp_status status = LP_OK;
    char *text = NULL;
    cJSON *object = cJSON_CreateObject();
    if (!object || !cJSON_AddStringToObject(object, "host", self->host) ||
        !cJSON_AddNumberToObject(object, "pid", (double)self->pid) ||
        !cJSON_AddStringToObject(object, "started", self->started) ||
        !cJSON_AddStringToObject(object, "slurm_job", self->slurm_job) ||
        !cJSON_AddStringToObject(object, "token", self->token) ||
        !cJSON_AddNumberToObject(object, "slurm_restart", (double)self->slurm_restart) ||
        !(text = cJSON_PrintUnformatted(object)))
        LP_FAIL(LP_ERR_MEMORY, "%s: out of memory", path);
    size_t length = strlen(text);
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, length, 0) != (ssize_t)length)
        LP_FAIL(LP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
out:
    cJSON_free(text);
    cJSON_Delete(object);
    return status;
}

static void copy_text(const lp_json *root, const char *key, char *out, size_t size) {
    lp_json value;
    const char *text = NULL;
    if (lp_json_find(root, key, &value, NULL) == LP_OK && value.node && lp_json_string(&value, &text, NULL) == LP_OK)
        snprintf(out, size, "%s", text);
}

/* What a lock file holds. EMPTY: its maker died, or is just about to write it. */
typedef enum { HOLDER_KNOWN, HOLDER_EMPTY, HOLDER_NONE } holder_kind;

static holder_kind read_holder(int fd, holder *out) {
    char text[LOCK_FILE_BYTES];
    struct stat info;
    ssize_t n = pread(fd, text, sizeof text, 0);
    cJSON *document = NULL;
    lp_json root;
    if (n == 0) return HOLDER_EMPTY;
    if (n < 0 || fstat(fd, &info) != 0 || info.st_size > (off_t)sizeof text ||
        lp_json_parse(text, (size_t)n, "lock", &document, &root, NULL) != LP_OK)
        return HOLDER_NONE;
    *out = (holder){0};
    copy_text(&root, "host", out->host, sizeof out->host);
    copy_text(&root, "started", out->started, sizeof out->started);
    copy_text(&root, "slurm_job", out->slurm_job, sizeof out->slurm_job);
    copy_text(&root, "token", out->token, sizeof out->token);
    lp_json restart;
    if (lp_json_find(&root, "slurm_restart", &restart, NULL) != LP_OK || !restart.node ||
        lp_json_int(&restart, 0, INT32_MAX, &out->slurm_restart, NULL) != LP_OK)
        out->slurm_restart = INT32_MAX;
    lp_json pid;
    bool good = lp_json_find(&root, "pid", &pid, NULL) == LP_OK && pid.node &&
                lp_json_int(&pid, 1, INT32_MAX, &out->pid, NULL) == LP_OK && out->host[0] && out->started[0];
    cJSON_Delete(document);
    return good ? HOLDER_KNOWN : HOLDER_NONE;
}

static lp_status refuse(const char *output, const char *path, const holder *other, lp_error *err) {
    return lp_fail(err, LP_ERR_BUSY,
                   "%s: in use by another job: host %s, process %lld, started %s (if that job is gone, remove %s)",
                   output, other->host, (long long)other->pid, other->started, path);
}

/* Whether the file at fd may be taken over; the caller holds its flock when has_flock. */
static bool is_stale(const holder *other, const holder *self, bool has_flock) {
    /* Slurm requeues a job only when its earlier life has ended, on whatever host. */
    if (self->slurm_job[0] && strcmp(other->slurm_job, self->slurm_job) == 0 &&
        self->slurm_restart > other->slurm_restart)
        return true;
    if (strcmp(other->host, self->host) != 0) return false;
    return has_flock || (kill((pid_t)other->pid, 0) != 0 && errno == ESRCH);
}

/* One attempt. *again: the file changed under us. */
static lp_status attempt(const char *output, const char *path, const holder *self, int *out, bool *again,
                         lp_error *err) {
    lp_status status = LP_OK;
    *again = false;
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    bool fresh = fd >= 0;
    if (!fresh && errno == EEXIST) fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ELOOP) return lp_fail(err, LP_ERR_BUSY, "%s: expected a lock file, found a symbolic link", path);
        *again = errno == ENOENT && lp_path_look(path) == LP_PATH_MISSING && !fresh;
        return lp_fail(err, LP_ERR_IO, "%s: cannot make the lock file: %s", path, strerror(errno));
    }
    bool has_flock = false;
    bool ours = false; /* the name is that of the file that we made and hold: only then may we remove it */
    holder other;
    struct stat held;
    struct stat named;
    if (fstat(fd, &held) != 0 || !S_ISREG(held.st_mode))
        LP_FAIL(LP_ERR_BUSY, "%s: expected a lock file, found something else", path);
    holder_kind kind = fresh ? HOLDER_EMPTY : read_holder(fd, &other);
    if (kind == HOLDER_NONE)
        LP_FAIL(LP_ERR_BUSY,
                "%s: expected a lock file, found other contents: it is left alone (move it, or name another "
                "output than %s)",
                path, output);
    has_flock = flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (!has_flock && errno == EWOULDBLOCK) {
        if (kind == HOLDER_EMPTY) {
            *again = true;
            LP_FAIL(LP_ERR_BUSY, "%s: in use by another job, which has not said who it is (%s)", output, path);
        }
        status = refuse(output, path, &other, err);
        goto out;
    }
    /* Between open and flock its holder may have ended and removed it. */
    if (fstat(fd, &held) != 0 || lstat(path, &named) != 0 || held.st_ino != named.st_ino ||
        held.st_dev != named.st_dev) {
        *again = true;
        LP_FAIL(LP_ERR_BUSY, "%s: the lock file %s keeps changing", output, path);
    }
    ours = fresh && has_flock;
    if (!fresh) kind = read_holder(fd, &other);
    if (kind == HOLDER_KNOWN) {
        if (!is_stale(&other, self, has_flock)) LP_TRY(refuse(output, path, &other, err));
        lp_log(LP_LOG_WARN, "%s: taking over the lock of a job that is gone (host %s, process %lld, started %s)",
               output, other.host, (long long)other.pid, other.started);
        lp_output_remove_left(path, other.token);
    } else if (!fresh && !has_flock) {
        LP_FAIL(LP_ERR_BUSY, "%s: %s exists and does not say who holds it (if no job is running, remove it)", output,
                path);
    }
    LP_TRY(write_holder(fd, path, self, err));
    *out = fd;
    fd = -1;
out:
    if (fd >= 0) {
        if (ours) unlink(path);
        close(fd);
    }
    return status;
}

/* An output with several names (hard links) has several lock files: there the file itself is locked too, one byte far
 * beyond its end, so that readers who lock whole files are not kept out where there is one name. */
static lp_status lock_names(const char *output, const char *resolved, lp_lock *lock, lp_error *err) {
    struct flock byte = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)1 << 62, .l_len = 1};
    struct stat info;
    int fd = open(resolved, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0) return LP_OK; /* not there, or not to be written: then nothing is written */
    if (fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_nlink > 1) {
        if (fcntl(fd, F_OFD_SETLK, &byte) == 0) {
            lock->of_file = fd;
            return LP_OK;
        }
        if (errno == EAGAIN || errno == EACCES) {
            close(fd);
            return lp_fail(err, LP_ERR_BUSY, "%s: in use by another job, which has another name for the file", output);
        }
    }
    close(fd);
    return LP_OK;
}

lp_status lp_lock_take(const char *output, lp_lock **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_lock *lock = NULL;
    lp_text path = {0};
    holder self = describe_self();
    char *resolved = NULL;
    sigset_t before;
    LP_TRY(lp_mem_new(&lock, 1, sizeof *lock, "lock", err));
    lock->fd = lock->of_file = -1;
    LP_TRY(lp_path_make_folder_for(output, err));
    LP_TRY(lp_path_resolve(output, &resolved, err));
    LP_TRY(lp_text_format(&path, err, "%s.lock", resolved));
    for (int turn = 0; turn < LOCK_TURNS; turn++) {
        bool again = false;
        /* A signal that ends the process finds the new lock file among those to remove, or not made yet. */
        lp_output_hold_signals(&before);
        status = attempt(output, path.data, &self, &lock->fd, &again, err);
        if (status == LP_OK) lp_output_remember(path.data);
        lp_output_release_signals(&before);
        if (!again) break;
        nanosleep(&(struct timespec){.tv_nsec = 20 * 1000 * 1000}, NULL);
    }
    if (status != LP_OK) goto out;
    lock->path = path.data;
    path = (lp_text){0};
    LP_TRY(lock_names(output, resolved, lock, err));
    *out = lock;
    lock = NULL;
out:
    if (lock && lock->path) {
        lp_lock_release(lock);
        lock = NULL;
    }
    lp_text_release(&path);
    lp_mem_free(resolved);
    lp_mem_free(lock);
    return status;
}

void lp_lock_release(lp_lock *lock) {
    struct stat held, named;
    sigset_t before;
    if (!lock) return;
    lp_output_hold_signals(&before);
    lp_output_forget(lock->path);
    /* A name that is another file's by now is left alone. */
    if (fstat(lock->fd, &held) == 0 && lstat(lock->path, &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev)
        unlink(lock->path);
    lp_output_release_signals(&before);
    close(lock->fd);
    if (lock->of_file >= 0) close(lock->of_file);
    lp_mem_free(lock->path);
    lp_mem_free(lock);
}

lp_status lp_lock_take_all(const lp_parallel *parallel, const char *output, lp_lock **out, lp_error *err) {
    lp_lock *lock = NULL;
    lp_status status = LP_OK;
    if (lp_parallel_rank(parallel) == 0) status = lp_lock_take(output, &lock, err);
    /* A signal that ends this rank may leave others that still write. */
    if (lock && lp_parallel_size(parallel) > 1) lp_output_forget(lock->path);
    status = lp_parallel_agree(parallel, status, err);
    if (status != LP_OK) {
        lp_lock_release(lock);
        return status;
    }
    *out = lock;
    return LP_OK;
}
