/* The lock beside an output file: taken once, told apart from one whose holder is gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/output.h"
#include "store/lock.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[64];
static char output[96];
static char path[128];

static void write_lock(const char *text) {
    lp_error err = {0};
    if (lp_output_write(path, text, strlen(text), LP_OUTPUT_OWN, &err) != LP_OK) fail_msg("%s", err.text);
}

static void write_holder(const char *host, long pid, const char *job, int restart) {
    char text[512];
    snprintf(
        text, sizeof text,
        "{\"host\":\"%s\",\"pid\":%ld,\"started\":\"2025-01-02T03:04:05Z\",\"slurm_job\":\"%s\",\"slurm_restart\":%d}",
        host, pid, job, restart);
    write_lock(text);
}

/* A process number that is surely not in use: of a child that was waited for. */
static long dead_pid(void) {
    pid_t child = fork();
    if (child == 0) _exit(0);
    waitpid(child, NULL, 0);
    return (long)child;
}

static const char *this_host(void) {
    static char host[256];
    assert_int_equal(gethostname(host, sizeof host), 0);
    return host;
}

static int clear(void **state) {
    (void)state;
    unlink(path);
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_RESTART_COUNT");
    return 0;
}

static void taken_and_released(void **state) {
    (void)state;
    lp_lock *lock = NULL;
    lp_error err = {0};
    for (int i = 0; i < 2; i++) {
        if (lp_lock_take(output, &lock, &err) != LP_OK) fail_msg("%s", err.text);
        assert_int_equal(lp_path_look(path), LP_PATH_FILE);
        lp_lock_release(lock);
        assert_int_equal(lp_path_look(path), LP_PATH_MISSING);
    }
}

static void second_job_is_refused(void **state) {
    (void)state;
    lp_lock *lock = NULL;
    lp_error err = {0};
    assert_int_equal(lp_lock_take(output, &lock, &err), LP_OK);
    pid_t child = fork();
    if (child == 0) {
        lp_lock *second = NULL;
        lp_error refused = {0};
        char expected[800];
        snprintf(expected, sizeof expected, "%s: in use by another job: host %s, process %ld, started 20", output,
                 this_host(), (long)getppid());
        lp_status status = lp_lock_take(output, &second, &refused);
        bool good = status == LP_ERR_BUSY && strncmp(refused.text, expected, strlen(expected)) == 0;
        if (!good) fprintf(stderr, "expected '%s...', found %d '%s'\n", expected, status, refused.text);
        _exit(good ? 0 : 1);
    }
    int code = 0;
    waitpid(child, &code, 0);
    assert_int_equal(code, 0);
    /* The refused one did not touch it. */
    assert_int_equal(lp_path_look(path), LP_PATH_FILE);
    lp_lock_release(lock);
}

static void killed_holder_is_replaced(void **state) {
    (void)state;
    int ready[2];
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        lp_lock *held = NULL;
        char good = lp_lock_take(output, &held, NULL) == LP_OK;
        if (write(ready[1], &good, 1) != 1) _exit(1);
        pause();
        _exit(0);
    }
    char good = 0;
    assert_true(read(ready[0], &good, 1) == 1);
    assert_true(good);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    lp_lock *lock = NULL;
    lp_error err = {0};
    if (lp_lock_take(output, &lock, &err) != LP_OK) fail_msg("%s", err.text);
    lp_lock_release(lock);
    close(ready[0]);
    close(ready[1]);
}

static void old_locks(void **state) {
    (void)state;
    const struct {
        const char *name;
        const char *host; /* NULL: this one */
        const char *job;
        int restart;
        const char *my_job;
        const char *my_restart;
        lp_status expected;
    } cases[] = {
        {"this host, nobody holds it", NULL, "", 0, NULL, NULL, LP_OK},
        {"another host", "node17", "", 0, NULL, NULL, LP_ERR_BUSY},
        {"another host, another Slurm job", "node17", "41", 0, "42", "1", LP_ERR_BUSY},
        {"another host, same Slurm job, requeued", "node17", "42", 0, "42", "1", LP_OK},
        {"another host, same Slurm job, same life", "node17", "42", 1, "42", "1", LP_ERR_BUSY},
        {"another host, same Slurm job, first life", "node17", "42", 0, "42", NULL, LP_ERR_BUSY},
    };
    long pid = dead_pid();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_lock *lock = NULL;
        lp_error err = {0};
        clear(NULL);
        if (cases[i].my_job) setenv("SLURM_JOB_ID", cases[i].my_job, 1);
        if (cases[i].my_restart) setenv("SLURM_RESTART_COUNT", cases[i].my_restart, 1);
        write_holder(cases[i].host ? cases[i].host : this_host(), pid, cases[i].job, cases[i].restart);
        lp_status found = lp_lock_take(output, &lock, &err);
        if (found != cases[i].expected)
            fail_msg("%s: expected %d, found %d '%s'", cases[i].name, cases[i].expected, found, err.text);
        if (found == LP_ERR_BUSY && !strstr(err.text, "host node17, process")) fail_msg("found '%s'", err.text);
        lp_lock_release(lock);
    }
}

/* The maker of an empty file died before it wrote. Other contents are somebody's. */
static void a_file_that_is_no_lock(void **state) {
    (void)state;
    const char *const contents[] = {"", "{", "[]", "{\"host\":5}", "\xff\xfe", "{\"host\": \"h\", \"pid\": 3}"};
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        lp_lock *lock = NULL;
        lp_error err = {0};
        lp_text text = {0};
        write_lock(contents[i]);
        lp_status found = lp_lock_take(output, &lock, &err);
        if (found != (i == 0 ? LP_OK : LP_ERR_BUSY)) fail_msg("\"%s\": %s", contents[i], err.text);
        lp_lock_release(lock);
        if (i == 0) continue;
        assert_non_null(strstr(err.text, "expected a lock file, found other contents"));
        assert_int_equal(lp_file_read(path, 100, &text, &err), LP_OK);
        assert_string_equal(lp_text_get(&text), contents[i]);
        lp_text_release(&text);
    }
    assert_int_equal(unlink(path), 0);
}

static void a_link_is_no_lock(void **state) {
    (void)state;
    lp_lock *lock = NULL;
    lp_error err = {0};
    assert_int_equal(symlink("victim", path), 0);
    assert_int_equal(lp_lock_take(output, &lock, &err), LP_ERR_BUSY);
    assert_non_null(strstr(err.text, "expected a lock file, found a symbolic link"));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(lp_lock_take(output, &lock, &err), LP_ERR_BUSY);
    assert_non_null(strstr(err.text, "expected a lock file, found something else"));
    assert_int_equal(unlink(path), 0);
}

/* One file by another name: a link to it, or a hard link. */
static void the_lock_is_the_files(void **state) {
    (void)state;
    lp_text link_name = {0}, hard = {0};
    lp_lock *lock = NULL, *second = NULL;
    lp_error err = {0};
    assert_int_equal(lp_text_format(&link_name, &err, "%s.link", output), LP_OK);
    assert_int_equal(lp_text_format(&hard, &err, "%s.hard", output), LP_OK);
    assert_int_equal(lp_output_write(output, "x", 1, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(symlink("x.store.h5", link_name.data), 0);
    assert_int_equal(link(output, hard.data), 0);
    if (lp_lock_take(link_name.data, &lock, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lp_lock_take(output, &second, &err), LP_ERR_BUSY);
    assert_non_null(strstr(err.text, "in use by another job: host"));
    assert_int_equal(lp_lock_take(hard.data, &second, &err), LP_ERR_BUSY);
    assert_non_null(strstr(err.text, "in use by another job, which has another name for the file"));
    lp_lock_release(lock);
    if (lp_lock_take(hard.data, &second, &err) != LP_OK) fail_msg("%s", err.text);
    lp_lock_release(second);
    unlink(link_name.data);
    unlink(hard.data);
    unlink(output);
    lp_text_release(&link_name);
    lp_text_release(&hard);
}

static void unwritable_folder_is_said(void **state) {
    (void)state;
    lp_lock *lock = NULL;
    lp_error err = {0};
    assert_int_equal(lp_lock_take("/proc/nowhere/x.h5", &lock, &err), LP_ERR_IO);
    assert_true(strncmp(err.text, "/proc/nowhere", 13) == 0);
}

/* Ten processes at once: one holds it, and each gets it in turn. */
static void many_at_once(void **state) {
    (void)state;
    char counter[128];
    snprintf(counter, sizeof counter, "%s/inside", folder);
    for (int i = 0; i < 10; i++) {
        if (fork() != 0) continue;
        lp_lock *lock = NULL;
        for (int turn = 0; turn < 2000 && lp_lock_take(output, &lock, NULL) != LP_OK; turn++) usleep(2000);
        if (!lock) _exit(2);
        int fd = open(counter, O_CREAT | O_EXCL | O_WRONLY, 0644);
        if (fd < 0) _exit(3);
        usleep(1000);
        close(fd);
        unlink(counter);
        lp_lock_release(lock);
        _exit(0);
    }
    for (int i = 0; i < 10; i++) {
        int code = 0;
        wait(&code);
        assert_int_equal(code, 0);
    }
}

int main(void) {
    snprintf(folder, sizeof folder, "lock.XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(output, sizeof output, "%s/x.store.h5", folder);
    snprintf(path, sizeof path, "%s.lock", output);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(taken_and_released, clear, clear),
        cmocka_unit_test_setup_teardown(second_job_is_refused, clear, clear),
        cmocka_unit_test_setup_teardown(killed_holder_is_replaced, clear, clear),
        cmocka_unit_test_setup_teardown(old_locks, clear, clear),
        cmocka_unit_test_setup_teardown(a_file_that_is_no_lock, clear, clear),
        cmocka_unit_test_setup_teardown(a_link_is_no_lock, clear, clear),
        cmocka_unit_test_setup_teardown(the_lock_is_the_files, clear, clear),
        cmocka_unit_test_setup_teardown(unwritable_folder_is_said, clear, clear),
        cmocka_unit_test_setup_teardown(many_at_once, clear, clear),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    rmdir(folder);
    return failed;
}
