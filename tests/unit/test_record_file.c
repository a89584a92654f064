/* The crash-safe record file, in one process: written, read, continued, refused, and found out when damaged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/memory.h"
#include "parallel/signals.h"
#include "store/record_file.h"

#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { N_PAIRS = 9, LAYERS = 3, STEPS = 2, WIDTH = 1000, TEXT = 24 };

static lp_parallel *parallel;
static char folder[64];
static char path[128];

static const int32_t layer_list[] = {0, 2, 5};
static const lp_field fields[] = {
    {.path = "runs/clean/resid_post",
     .type = LP_F32,
     .n_dims = 3,
     .dims = {LAYERS, STEPS, WIDTH},
     .description = "block outputs",
     .layers = layer_list,
     .n_layers = 3},
    {.path = "runs/clean/answer_len", .type = LP_I32},
    {.path = "runs/clean/number", .type = LP_F64},
    {.path = "runs/clean/answer_text", .type = LP_TEXT, .text_bytes = TEXT},
    {.path = "runs/clean/classes", .type = LP_U8, .n_dims = 1, .dims = {5}},
};
enum { N_FIELDS = sizeof fields / sizeof *fields };
static const char *const ids[N_PAIRS] = {"a", "b", "c", "d", "pair-é", "f", "g", "h", "i"};
static const double answers[N_PAIRS] = {1, 2.5, -3, 4, 5, 6, 7, 8, 9};
static const lp_table tables[] = {
    {.path = "pairs/id", .type = LP_TEXT, .n_dims = 1, .dims = {N_PAIRS}, .data = ids},
    {.path = "pairs/clean_answer", .type = LP_F64, .n_dims = 1, .dims = {N_PAIRS}, .data = answers},
};
static const lp_provenance_item provenance[] = {
    {"tool", "latentpatch 0", false},
    {"model", "sha256:abc", true},
    {"finished", "", false},
};

static lp_record_file_spec spec_of_test(void) {
    return (lp_record_file_spec){.format = "latentpatch-test",
                                 .version = 1,
                                 .n_pairs = N_PAIRS,
                                 .fields = fields,
                                 .n_fields = N_FIELDS,
                                 .tables = tables,
                                 .n_tables = 2,
                                 .provenance = provenance,
                                 .n_provenance = 3,
                                 .advice = "make another"};
}

typedef struct {
    float resid[LAYERS * STEPS * WIDTH];
    int32_t length;
    double number;
    char text[TEXT];
    uint8_t classes[5];
} record;

static void fill(record *out, int64_t pair) {
    memset(out, 0, sizeof *out);
    for (int i = 0; i < LAYERS * STEPS * WIDTH; i++) out->resid[i] = (float)(pair * 100000 + i);
    out->length = (int32_t)(pair * 3);
    out->number = pair == 2 ? (double)NAN : (double)pair / 3;
    snprintf(out->text, TEXT, "answer %lld", (long long)pair);
    for (int i = 0; i < 5; i++) out->classes[i] = (uint8_t)(pair + i);
}

static lp_status put(lp_record_file *file, int64_t pair, lp_error *err) {
    record values;
    fill(&values, pair);
    const void *data[N_FIELDS] = {values.resid, &values.length, &values.number, values.text, values.classes};
    return lp_record_file_write(file, pair, data, err);
}

static void assert_pair(lp_record_file *file, int64_t pair) {
    record expected;
    lp_error err = {0};
    fill(&expected, pair);
    lp_pair_record found = {0};
    if (lp_record_file_load(file, pair, &found, &err) != LP_OK) fail_msg("pair %lld: %s", (long long)pair, err.text);
    assert_memory_equal(lp_pair_record_field(&found, 0), expected.resid, sizeof expected.resid);
    assert_memory_equal(lp_pair_record_field(&found, 1), &expected.length, sizeof expected.length);
    assert_memory_equal(lp_pair_record_field(&found, 2), &expected.number, sizeof expected.number);
    assert_memory_equal(lp_pair_record_field(&found, 3), expected.text, TEXT);
    assert_memory_equal(lp_pair_record_field(&found, 4), expected.classes, 5);
    lp_pair_record_release(&found);
}

static lp_record_file *open_file(bool *created) {
    lp_record_file *file = NULL;
    lp_error err = {0};
    lp_record_file_spec spec = spec_of_test();
    if (lp_record_file_open(parallel, path, &spec, &file, created, &err) != LP_OK) fail_msg("%s", err.text);
    return file;
}

static lp_record_file *open_for_reading(void) {
    lp_record_file *file = NULL;
    lp_error err = {0};
    if (lp_record_file_open_read(path, &file, &err) != LP_OK) fail_msg("%s", err.text);
    return file;
}

static void make_with(int64_t n_written) {
    lp_error err = {0};
    unlink(path);
    lp_record_file *file = open_file(NULL);
    for (int64_t i = 0; i < n_written; i++)
        if (put(file, i, &err) != LP_OK) fail_msg("%s", err.text);
    lp_record_file_close(file);
}

static void written_is_read_back(void **state) {
    (void)state;
    lp_error err = {0};
    bool created = false;
    unlink(path);
    lp_record_file *file = open_file(&created);
    assert_true(created);
    for (int64_t i = 0; i < N_PAIRS; i += 2) assert_int_equal(put(file, i, &err), LP_OK);
    assert_int_equal(lp_record_file_n_done(file), 5);
    assert_int_equal(lp_record_file_note(file, "finished", "today", &err), LP_OK);
    assert_int_equal(lp_record_file_flush(file, &err), LP_OK);
    lp_record_file_close(file);

    file = open_for_reading();
    assert_int_equal(lp_record_file_n_pairs(file), N_PAIRS);
    assert_int_equal(lp_record_file_n_done(file), 5);
    for (int64_t i = 0; i < N_PAIRS; i++) {
        assert_int_equal(lp_record_file_state(file)[i], i % 2 == 0);
        if (i % 2 == 0) assert_pair(file, i);
    }
    lp_pair_record loaded = {0};
    assert_int_equal(lp_record_file_load(file, 1, &loaded, &err), LP_ERR_VALUE);
    lp_pair_record_release(&loaded);
    assert_non_null(strstr(err.text, "pair 1 is not written yet"));
    assert_string_equal(lp_record_file_provenance(file, "model"), "sha256:abc");
    assert_string_equal(lp_record_file_provenance(file, "finished"), "today");
    assert_null(lp_record_file_provenance(file, "nothing"));
    size_t index = 99;
    assert_true(lp_record_file_find(file, "runs/clean/resid_post", &index));
    assert_int_equal(index, 0);
    assert_false(lp_record_file_find(file, "runs/clean/other", &index));
    const lp_field *field = lp_record_file_describe(file, 0);
    assert_int_equal(field->n_layers, 3);
    assert_int_equal(field->layers[2], 5);
    assert_string_equal(field->description, "block outputs");
    lp_text said = {0};
    hid_t access_list = lp_h5_access();
    hid_t handle = H5Fopen(path, H5F_ACC_RDONLY, access_list);
    hid_t journal = H5Dopen2(handle, "journal/checksum", H5P_DEFAULT);
    assert_int_equal(lp_h5_get_text(journal, "description", &said, path, &err), LP_OK);
    assert_non_null(strstr(lp_text_get(&said), "XXH3-128"));
    lp_text_release(&said);
    H5Dclose(journal);
    H5Fclose(handle);
    H5Pclose(access_list);
    double number = 0;
    assert_int_equal(lp_record_file_read(file, 4, 2, &number, &err), LP_OK);
    assert_true(number == 4.0 / 3);
    char *block = NULL;
    int64_t n = 0;
    size_t bytes = 0;
    assert_int_equal(lp_record_file_table(file, "pairs/id", LP_TEXT, (void **)&block, &n, &bytes, &err), LP_OK);
    assert_int_equal(n, N_PAIRS);
    assert_int_equal(bytes, strlen("pair-é"));
    assert_memory_equal(block + 4 * bytes, "pair-é", bytes);
    lp_mem_free(block);
    double *found = NULL;
    assert_int_equal(lp_record_file_table(file, "pairs/clean_answer", LP_F64, (void **)&found, &n, &bytes, &err),
                     LP_OK);
    assert_memory_equal(found, answers, sizeof answers);
    lp_mem_free(found);
    lp_record_file_close(file);
}

static void continued_where_it_ended(void **state) {
    (void)state;
    lp_error err = {0};
    bool created = true;
    int64_t n_bad = -1;
    make_with(4);
    lp_record_file *file = open_file(&created);
    assert_false(created);
    assert_int_equal(lp_record_file_n_done(file), 4);
    assert_int_equal(lp_record_file_recheck(file, &n_bad, &err), LP_OK);
    assert_int_equal(n_bad, 0);
    for (int64_t i = 4; i < N_PAIRS; i++) assert_int_equal(put(file, i, &err), LP_OK);
    assert_int_equal(put(file, 0, &err), LP_OK);
    assert_int_equal(lp_record_file_forget(file, 7, &err), LP_OK);
    lp_record_file_close(file);
    file = open_for_reading();
    assert_int_equal(lp_record_file_n_done(file), N_PAIRS - 1);
    assert_int_equal(lp_record_file_state(file)[7], 0);
    for (int64_t i = 0; i < N_PAIRS; i++)
        if (i != 7) assert_pair(file, i);
    lp_record_file_close(file);
}

/* Same contents, written in another order and at another time: the same bytes. */
static void order_does_not_matter(void **state) {
    (void)state;
    lp_error err = {0};
    char first[LP_SHA256_HEX];
    char second[LP_SHA256_HEX];
    make_with(N_PAIRS);
    assert_int_equal(lp_sha256_of_file(path, first, &err), LP_OK);
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 50000000}, NULL);
    make_with(2);
    lp_record_file *file = open_file(NULL);
    for (int64_t i = N_PAIRS - 1; i >= 2; i--) assert_int_equal(put(file, i, &err), LP_OK);
    lp_record_file_close(file);
    assert_int_equal(lp_sha256_of_file(path, second, &err), LP_OK);
    assert_string_equal(first, second);
}

/* Where in the file the bytes of pair `pair` of resid_post lie: the float is unique to it. */
static off_t find_pair(int64_t pair) {
    record values;
    fill(&values, pair);
    int fd = open(path, O_RDONLY);
    struct stat info;
    assert_int_equal(fstat(fd, &info), 0);
    unsigned char *bytes = malloc((size_t)info.st_size);
    assert_true(pread(fd, bytes, (size_t)info.st_size, 0) == (ssize_t)info.st_size);
    close(fd);
    unsigned char *at = memmem(bytes, (size_t)info.st_size, values.resid, 64);
    assert_non_null(at);
    off_t offset = at - bytes;
    free(bytes);
    return offset;
}

static void altered_pair_is_found(void **state) {
    (void)state;
    lp_error err = {0};
    make_with(N_PAIRS);
    int fd = open(path, O_RDWR);
    off_t at = find_pair(5) + 777;
    unsigned char byte = 0;
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    lp_record_file *file = open_for_reading();
    lp_pair_record loaded = {0};
    assert_int_equal(lp_record_file_load(file, 5, &loaded, &err), LP_ERR_FORMAT);
    lp_pair_record_release(&loaded);
    assert_non_null(strstr(err.text, "pair 5 does not fit its checksum: torn or altered"));
    assert_pair(file, 4);
    bool good = true;
    assert_int_equal(lp_record_file_verify(file, 5, &good, &err), LP_OK);
    assert_false(good);
    lp_record_file_close(file);
    file = open_file(NULL);
    int64_t n_bad = 0;
    assert_int_equal(lp_record_file_recheck(file, &n_bad, &err), LP_OK);
    assert_int_equal(n_bad, 1);
    assert_int_equal(lp_record_file_state(file)[5], 0);
    assert_int_equal(put(file, 5, &err), LP_OK);
    lp_record_file_close(file);
    file = open_for_reading();
    for (int64_t i = 0; i < N_PAIRS; i++) assert_pair(file, i);
    lp_record_file_close(file);
}

static void mismatch_names_what_differs(void **state) {
    (void)state;
    make_with(1);
    lp_provenance_item other_model[] = {{"tool", "latentpatch 1", false}, {"model", "sha256:def", true}};
    lp_field other_shape[N_FIELDS];
    memcpy(other_shape, fields, sizeof fields);
    other_shape[0].dims[2] = WIDTH + 1;
    lp_field other_type[N_FIELDS];
    memcpy(other_type, fields, sizeof fields);
    other_type[2].type = LP_I64;
    lp_field other_path[N_FIELDS];
    memcpy(other_path, fields, sizeof fields);
    other_path[4].path = "runs/clean/colour";
    const char *other_ids[N_PAIRS];
    memcpy(other_ids, ids, sizeof ids);
    other_ids[4] = "pair-";
    double other_answers[N_PAIRS];
    memcpy(other_answers, answers, sizeof answers);
    other_answers[8] = 9.5;
    lp_table other_tables[2][2];
    for (int i = 0; i < 2; i++) memcpy(other_tables[i], tables, sizeof tables);
    other_tables[0][0].data = other_ids;
    other_tables[1][1].data = other_answers;
    struct {
        const char *name;
        lp_record_file_spec spec;
        const char *message;
    } cases[] = {
        {"model", spec_of_test(), "made with model sha256:abc, this job says sha256:def: make another"},
        {"shape", spec_of_test(), "/runs/clean/resid_post: dimension 3: expected 1001, found 1000"},
        {"type", spec_of_test(),
         "/runs/clean/number: expected 1 dimensions of int64 (8 bytes), found 1 of float64 (8)"},
        {"path", spec_of_test(), "expected dataset /runs/clean/colour, found /runs/clean/classes"},
        {"fields", spec_of_test(), "expected 3 datasets, found 5"},
        {"pairs", spec_of_test(), "holds 9 pairs, this job has 8 (pairs.limit): make another"},
        {"format", spec_of_test(), "expected a file of format latentpatch-other, found latentpatch-test"},
        {"version", spec_of_test(), "expected version 2 of its format, found 1"},
        {"more pairs", spec_of_test(),
         "made for 9 pairs, this job has 10 (pairs.limit); such a file does not grow: make another (one of 10 pairs does "
         "for the first 9 as well)"},
        {"ids", spec_of_test(), "/pairs/id, row 4: expected pair-, found pair-é: make another"},
        {"answers", spec_of_test(),
         "/pairs/clean_answer, row 8: expected this job's, found another number: make another"},
    };
    cases[0].spec.provenance = other_model;
    cases[0].spec.n_provenance = 2;
    cases[1].spec.fields = other_shape;
    cases[2].spec.fields = other_type;
    cases[3].spec.fields = other_path;
    cases[4].spec.n_fields = 3;
    cases[5].spec.n_pairs = 8;
    cases[6].spec.format = "latentpatch-other";
    cases[7].spec.version = 2;
    cases[8].spec.n_pairs = 10;
    cases[8].spec.first_of_more = true;
    cases[9].spec.tables = other_tables[0];
    cases[10].spec.tables = other_tables[1];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_record_file *file = NULL;
        lp_error err = {0};
        lp_status status = lp_record_file_open(parallel, path, &cases[i].spec, &file, NULL, &err);
        if (status != LP_ERR_MISMATCH || !strstr(err.text, cases[i].message) || strstr(err.text, path) != err.text)
            fail_msg("%s: expected '%s', found %d '%s'", cases[i].name, cases[i].message, status, err.text);
        assert_null(file);
    }
    /* A provenance entry that is not part of the identity may change. */
    lp_provenance_item other_tool[] = {{"tool", "latentpatch 9", false}, {"model", "sha256:abc", true}};
    lp_record_file_spec spec = spec_of_test();
    spec.provenance = other_tool;
    spec.n_provenance = 2;
    lp_record_file *file = NULL;
    lp_error err = {0};
    assert_int_equal(lp_record_file_open(parallel, path, &spec, &file, NULL, &err), LP_OK);
    lp_record_file_close(file);
}

static void write_bytes(const char *name, const char *bytes, size_t size) {
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(write(fd, bytes, size) == (ssize_t)size);
    close(fd);
}

/* Every length of a cut file, in steps: never a crash, never a pair that passes for whole. */
static void cut_files_are_refused(void **state) {
    (void)state;
    make_with(N_PAIRS);
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    for (off_t cut = info.st_size - 1; cut > 0; cut -= info.st_size / 23) {
        assert_int_equal(truncate(path, cut), 0);
        lp_record_file *file = NULL;
        lp_error err = {0};
        lp_status status = lp_record_file_open_read(path, &file, &err);
        if (status == LP_OK) fail_msg("cut at %lld of %lld: opened", (long long)cut, (long long)info.st_size);
        assert_true(strstr(err.text, path) == err.text);
    }
    lp_record_file *file = NULL;
    lp_error err = {0};
    write_bytes(path, "not a store at all", 18);
    assert_int_not_equal(lp_record_file_open_read(path, &file, &err), LP_OK);
    lp_record_file_spec spec = spec_of_test();
    assert_int_not_equal(lp_record_file_open(parallel, path, &spec, &file, NULL, &err), LP_OK);
    assert_true(strstr(err.text, path) == err.text);
    unlink(path);
    assert_int_equal(lp_record_file_open_read(path, &file, &err), LP_ERR_IO);
    assert_non_null(strstr(err.text, "No such file"));
}

/* A limit on the size of files stands for a full disk: creation fails with one line and leaves nothing. */
static void no_room_is_said(void **state) {
    (void)state;
    unlink(path);
    lp_error err = {0};
    lp_record_file *file = NULL;
    lp_record_file_spec spec = spec_of_test();
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {.rlim_cur = 100000, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    lp_status status = lp_record_file_open(parallel, path, &spec, &file, NULL, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, LP_ERR_IO);
    if (!strstr(err.text, path) || !strstr(err.text, "File too large")) fail_msg("found '%s'", err.text);
    assert_int_not_equal(access(path, F_OK), 0);
    char temporaries[160];
    snprintf(temporaries, sizeof temporaries, "%s.*.tmp", path);
    glob_t left = {0};
    if (glob(temporaries, 0, NULL, &left) != GLOB_NOMATCH) fail_msg("'%s' is left", left.gl_pathv[0]);
    globfree(&left);
    spec.n_pairs = INT64_C(1) << 44;
    spec.n_tables = 0;
    assert_int_equal(lp_record_file_open(parallel, path, &spec, &file, NULL, &err), LP_ERR_IO);
    if (!strstr(err.text, "MB free")) fail_msg("found '%s'", err.text);
}

/* A write that fails later is an error of that pair, and the pair is not journalled. */
static void failed_write_is_said(void **state) {
    (void)state;
    lp_error err = {0};
    unlink(path);
    lp_record_file *file = open_file(NULL);
    assert_int_equal(put(file, 0, &err), LP_OK);
    struct rlimit old;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {.rlim_cur = 60000, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    lp_status status = put(file, 8, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(status, LP_ERR_IO);
    if (strstr(err.text, path) != err.text ||
        !strstr(err.text, "write pair 8 of /runs/clean/resid_post: File too large"))
        fail_msg("found '%s'", err.text);
    assert_int_equal(put(file, 1, &err), LP_OK);
    lp_record_file_close(file);
    file = open_for_reading();
    assert_int_equal(lp_record_file_n_done(file), 2);
    assert_pair(file, 0);
    assert_pair(file, 1);
    lp_record_file_close(file);
}

int main(int argc, char **argv) {
    lp_error err = {0};
    if (lp_parallel_start(&argc, &argv, &parallel, &err) != LP_OK || lp_signals_install(&err) != LP_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    snprintf(folder, sizeof folder, "record_file.XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(path, sizeof path, "%s/test.store.h5", folder);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_is_read_back),
        cmocka_unit_test(continued_where_it_ended),
        cmocka_unit_test(order_does_not_matter),
        cmocka_unit_test(altered_pair_is_found),
        cmocka_unit_test(mismatch_names_what_differs),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(no_room_is_said),
        cmocka_unit_test(failed_write_is_said),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(folder);
    lp_parallel_finish(parallel);
    return failed;
}
