/* Output files: what is there is never replaced by accident, and outputs are told from inputs by what they are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "base/output.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

static char old_folder[4096], folder[64];
static bool signal_at_open;

/* open() of the program (the linker's --wrap): a signal comes as soon as the new file is there. */
int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    int fd = __real_open(path, flags, 0666);
    if (fd >= 0 && (flags & O_CREAT) && signal_at_open) raise(SIGTERM);
    return fd;
}

static int enter(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_output.XXXXXX");
    return getcwd(old_folder, sizeof old_folder) && mkdtemp(folder) && chdir(folder) == 0 ? 0 : -1;
}

static int clear(void **state) {
    (void)state;
    DIR *here = opendir(".");
    if (!here) return -1;
    for (struct dirent *entry = readdir(here); entry; entry = readdir(here))
        if (entry->d_name[0] != '.' && unlink(entry->d_name) != 0 && rmdir(entry->d_name) != 0) return -1;
    return closedir(here);
}

static int leave(void **state) {
    (void)state;
    return chdir(old_folder) == 0 && rmdir(folder) == 0 ? 0 : -1;
}

static void put(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
}

static void expect(const char *path, const char *wanted) {
    lp_text text = {0};
    lp_error err = {0};
    if (lp_file_read(path, 100, &text, &err) != LP_OK) fail_msg("%s", err.text);
    assert_string_equal(lp_text_get(&text), wanted);
    lp_text_release(&text);
}

static int count_files(void) {
    int n = 0;
    DIR *here = opendir(".");
    assert_non_null(here);
    for (struct dirent *entry = readdir(here); entry; entry = readdir(here)) n += entry->d_name[0] != '.';
    closedir(here);
    return n;
}

static void what_is_there_stays(void **state) {
    (void)state;
    static const struct {
        const char *there;
        lp_output_mode mode;
        lp_status status;
    } cases[] = {{NULL, LP_OUTPUT_NEW, LP_OK},         {"new", LP_OUTPUT_NEW, LP_OK},
                 {"old", LP_OUTPUT_NEW, LP_ERR_VALUE}, {"newer", LP_OUTPUT_NEW, LP_ERR_VALUE},
                 {"", LP_OUTPUT_NEW, LP_ERR_VALUE},    {"old", LP_OUTPUT_OWN, LP_OK}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_error err = {0};
        unlink("x");
        if (cases[i].there) put("x", cases[i].there);
        lp_status status = lp_output_write("x", "new", 3, cases[i].mode, &err);
        if (status != cases[i].status) fail_msg("case %zu: status %d: %s", i, status, err.text);
        if (status != LP_OK)
            assert_non_null(strstr(err.text, "x: exists already with other contents, and is not repl"));
        expect("x", status == LP_OK ? "new" : cases[i].there);
        assert_int_equal(count_files(), 1);
    }
}

static void links_are_followed(void **state) {
    (void)state;
    lp_error err = {0};
    struct stat info;
    put("other", "old");
    assert_int_equal(mkdir("far", 0700), 0);
    assert_int_equal(symlink("other", "to_old"), 0);
    assert_int_equal(symlink("far/made", "to_new"), 0);
    assert_int_equal(symlink("nowhere/made", "to_nowhere"), 0);
    assert_int_equal(lp_output_write("to_old", "new", 3, LP_OUTPUT_NEW, &err), LP_ERR_VALUE);
    expect("other", "old");
    if (lp_output_write("to_new", "new", 3, LP_OUTPUT_NEW, &err) != LP_OK) fail_msg("%s", err.text);
    expect("far/made", "new");
    assert_int_equal(lp_output_write("to_nowhere", "new", 3, LP_OUTPUT_NEW, &err), LP_ERR_IO);
    assert_string_equal(err.text, "to_nowhere: cannot write: No such file or directory");
    assert_int_equal(lstat("to_new", &info), 0);
    assert_true(S_ISLNK(info.st_mode));
    assert_int_equal(unlink("far/made"), 0);
}

/* A name that appears while the output is being written counts. */
static void appears_meanwhile(void **state) {
    (void)state;
    lp_output out = {.fd = -1};
    lp_error err = {0};
    assert_int_equal(lp_output_begin("x", &out, &err), LP_OK);
    assert_int_equal(write(out.fd, "mine", 4), 4);
    put("x", "theirs");
    assert_int_equal(lp_output_publish(&out, LP_OUTPUT_NEW, &err), LP_ERR_VALUE);
    lp_output_discard(&out);
    expect("x", "theirs");
    assert_int_equal(count_files(), 1);
}

static void unfinished_goes(void **state) {
    (void)state;
    lp_output out = {.fd = -1}, killed = {.fd = -1};
    lp_error err = {0};
    assert_int_equal(lp_output_begin("x", &out, &err), LP_OK);
    assert_int_equal(lp_output_begin("x", &killed, &err), LP_OK);
    assert_string_not_equal(out.temporary, killed.temporary);
    assert_int_equal(count_files(), 2);
    lp_output_discard(&out);
    assert_int_equal(count_files(), 1);
    lp_output_discard_all();
    assert_int_equal(count_files(), 0);
    lp_output_discard(&killed);
    /* The temporary files of a process that was killed, by its token; nothing else. */
    static const char *const left[] = {"x.0123456789abcdef-01234567.tmp", "y.csv.0123456789abcdef-89abcdef.tmp"};
    static const char *const others[] = {"0123456789abcdef-01234567.tmp", "x.0123456789abcdef-01234567.tmp.h5",
                                         "x.0123456789abcdef-0123456.tmp", "x.1123456789abcdef-01234567.tmp"};
    for (size_t i = 0; i < 2; i++) put(left[i], "");
    for (size_t i = 0; i < 4; i++) put(others[i], "");
    lp_output_remove_left("x", "");
    assert_int_equal(count_files(), 6);
    lp_output_remove_left("x", "0123456789abcdef");
    assert_int_equal(count_files(), 4);
    for (size_t i = 0; i < 4; i++) assert_int_equal(lp_path_look(others[i]), LP_PATH_FILE);
}

static void outputs_and_inputs(void **state) {
    (void)state;
    static const struct {
        const char *output, *input, *message; /* output: beside "r", results, and "s", a store */
    } cases[] = {
        {"c", "i", NULL},
        {"s", "i", "job: $.c: expected a file of its own, found the store (s)"},
        {"./far/../s", "i", "job: $.c: expected a file of its own, found the store (s)"},
        {"r.partial", "i", "job: $.c: expected a file of its own, found the rows of the running sweep (r.partial)"},
        {"s.stop", "i", "job: $.c: expected a file of its own, found the request to stop (s.stop)"},
        {"hard", "i", "job: $.c: expected a file of its own, found the store (s)"},
        {"link", "i", "job: $.c: expected a file of its own, found the store (s)"},
        {"dangling", "i", "job: $.c: expected a file of its own, found the results (r)"},
        {"c", "s", "job: $.s: expected a file of its own, found an input (s)"},
        {"c", "hard", "job: $.s: expected a file of its own, found an input (hard)"},
        {"c", "s.lock", "job: $.s: the lock (s.lock): expected a file of its own, found an input (s.lock)"},
        {"c", "r.lock", "job: $.r: the lock (r.lock): expected a file of its own, found an input (r.lock)"},
        {"far/inside", "far", "job: $.c: expected a file of its own, found an input (far/inside)"},
        {"far", "i", "job: $.c: expected a file, found a folder (far)"},
        {"new/", "i", "job: $.c: expected a file, found a folder (new/)"},
        {"pipe", "i", "job: $.c: expected a file, found a device or a pipe (pipe)"},
    };
    put("i", "");
    put("s", "");
    put("s.lock", "");
    assert_int_equal(mkdir("far", 0700), 0);
    put("far/inside", "");
    assert_int_equal(link("s", "hard"), 0);
    assert_int_equal(symlink("s", "link"), 0);
    assert_int_equal(symlink("r", "dangling"), 0);
    assert_int_equal(mkfifo("pipe", 0600), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_outputs outputs = {0};
        lp_error err = {0};
        assert_int_equal(lp_outputs_add(&outputs, "job: $.s", "the store", "s", lp_names_of_store, &err), LP_OK);
        assert_int_equal(lp_outputs_add(&outputs, "job: $.r", "the results", "r", lp_names_of_results, &err), LP_OK);
        lp_status status = lp_outputs_add(&outputs, "job: $.c", "the CSV", cases[i].output, NULL, &err);
        if (status == LP_OK) status = lp_outputs_check_input(&outputs, "an input", cases[i].input, &err);
        if (status != (cases[i].message ? LP_ERR_VALUE : LP_OK)) fail_msg("case %zu: %d %s", i, status, err.text);
        if (cases[i].message) assert_string_equal(err.text, cases[i].message);
        lp_outputs_release(&outputs);
    }
    assert_int_equal(unlink("far/inside"), 0);
}

static void on_signal(int number) {
    (void)number;
    lp_output_discard_all();
}

/* A handler that ends the process removes the file however early it comes. */
static void signal_at_once(void **state) {
    (void)state;
    lp_output out = {.fd = -1};
    lp_error err = {0};
    const struct sigaction action = {.sa_handler = on_signal};
    struct sigaction before;
    assert_int_equal(sigaction(SIGTERM, &action, &before), 0);
    signal_at_open = true;
    assert_int_equal(lp_output_begin("a", &out, &err), LP_OK);
    signal_at_open = false;
    assert_int_equal(count_files(), 0);
    lp_output_discard(&out);
    assert_int_equal(sigaction(SIGTERM, &before, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(what_is_there_stays, clear), cmocka_unit_test_teardown(links_are_followed, clear),
        cmocka_unit_test_teardown(appears_meanwhile, clear),   cmocka_unit_test_teardown(unfinished_goes, clear),
        cmocka_unit_test_teardown(signal_at_once, clear),      cmocka_unit_test_teardown(outputs_and_inputs, clear)};
    return cmocka_run_group_tests(tests, enter, leave);
}
