/* Looking after stores: info, verify, archive, export, merge; each with what it must refuse. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "store/record_file.h"
#include "store/store_admin.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { P = 6, L = 3, T = 2, H = 500, TEXT = 8 };

static lp_parallel *parallel;
static char folder[64];

static const int32_t layers[] = {0, 2, 5};
static const lp_field fields[] = {
    {.path = "runs/clean/resid_post", .type = LP_F32, .n_dims = 3, .dims = {L, T, H}, .layers = layers, .n_layers = L},
    {.path = "runs/clean/number", .type = LP_F64},
    {.path = "runs/clean/answer_text", .type = LP_TEXT, .text_bytes = TEXT},
    {.path = "runs/corrupted/resid_post", .type = LP_F32, .n_dims = 3, .dims = {L, T, H}},
};

/* Writes pairs first .. first + P - 1 of an endless list, those of the mask, with `shift` added to their values. */
static void make_store(const char *path, int64_t first, unsigned mask, double shift, const char *model,
                       const char *pair_file) {
    static float resid[L * T * H];
    char names[P][16];
    const char *ids[P];
    double answers[P];
    lp_error err = {0};
    lp_record_file *file = NULL;
    unlink(path);
    for (int i = 0; i < P; i++) {
        snprintf(names[i], sizeof names[i], "pair-%lld", (long long)first + i);
        ids[i] = names[i];
        answers[i] = (double)(first + i) * 10;
    }
    /* Those of another list are said to be of a pair file of another length. */
    char n_pairs[16];
    snprintf(n_pairs, sizeof n_pairs, "%d", first > 0 ? P + 1 : P);
    const lp_table tables[] = {
        {.path = "pairs/clean_answer", .type = LP_F64, .n_dims = 1, .dims = {P}, .data = answers},
        {.path = "pairs/id", .type = LP_TEXT, .n_dims = 1, .dims = {P}, .data = ids},
    };
    const lp_provenance_item provenance[] = {{"model_files", model, true},
                                             {"pair_file", pair_file, true},
                                             {"n_pairs", n_pairs, true},
                                             {"host", "here", false}};
    const lp_record_file_spec spec = {.format = LP_STORE_FORMAT,
                                      .version = LP_STORE_VERSION,
                                      .n_pairs = P,
                                      .fields = fields,
                                      .n_fields = sizeof fields / sizeof *fields,
                                      .tables = tables,
                                      .n_tables = 2,
                                      .provenance = provenance,
                                      .n_provenance = 4};
    if (lp_record_file_open(parallel, path, &spec, &file, NULL, &err) != LP_OK) fail_msg("%s", err.text);
    for (int i = 0; i < P; i++) {
        if (!(mask >> i & 1)) continue;
        for (int k = 0; k < L * T * H; k++) resid[k] = (float)(shift + (double)((first + i) * 10000 + k));
        const double number = (double)(first + i) / 4;
        char text[TEXT] = "";
        snprintf(text, sizeof text, "t%lld", (long long)first + i);
        const void *data[] = {resid, &number, text, resid};
        if (lp_record_file_write(file, i, data, &err) != LP_OK) fail_msg("%s", err.text);
    }
    lp_record_file_close(file);
}

static const char *in_folder(const char *name) {
    static char paths[8][128];
    static int next;
    next = (next + 1) % 8;
    snprintf(paths[next], sizeof paths[next], "%s/%s", folder, name);
    return paths[next];
}

static void flip(const char *path, float unique, int bit) {
    lp_mapped_file map;
    lp_error err = {0};
    assert_int_equal(lp_file_map(path, &map, &err), LP_OK);
    const unsigned char *found = memmem(map.data, map.size, &unique, sizeof unique);
    assert_non_null(found);
    off_t at = found - map.data;
    unsigned char byte = (unsigned char)(*found ^ (1U << bit));
    lp_file_unmap(&map);
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

static void info_says_what_is_there(void **state) {
    (void)state;
    const char *path = in_folder("info.h5");
    lp_text text = {0};
    lp_error err = {0};
    make_store(path, 0, 0x0f, 0, "m1", "p1");
    if (lp_store_info(path, LP_REPORT_TEXT, &text, &err) != LP_OK) fail_msg("%s", err.text);
    const char *const expected[] = {"pairs:    4 of 6 written\n",
                                    "latentpatch-store, version 3",
                                    "runs/clean/resid_post",
                                    "[6, 3, 2, 500]",
                                    "* model_files",
                                    "  host "};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(text.data, expected[i])) fail_msg("expected '%s' in:\n%s", expected[i], text.data);
    lp_text_clear(&text);
    assert_int_equal(lp_store_info(path, LP_REPORT_JSON, &text, &err), LP_OK);
    cJSON *document = NULL;
    lp_json root, value;
    int64_t n = 0;
    assert_int_equal(lp_json_parse(text.data, text.length, "info", &document, &root, &err), LP_OK);
    assert_int_equal(lp_json_get(&root, "n_done", &value, &err), LP_OK);
    assert_int_equal(lp_json_int(&value, 0, 100, &n, &err), LP_OK);
    assert_int_equal(n, 4);
    cJSON_Delete(document);
    lp_text_release(&text);
    assert_int_equal(lp_store_info(in_folder("nothing.h5"), LP_REPORT_TEXT, &text, &err), LP_ERR_IO);
}

static void verify_names_bad_pairs(void **state) {
    (void)state;
    const char *path = in_folder("verify.h5");
    lp_text text = {0};
    lp_error err = {0};
    lp_verify_counts counts;
    make_store(path, 0, 0x1f, 0, "m1", "p1");
    assert_int_equal(lp_store_verify(path, LP_VERIFY_FULL, &counts, &text, &err), LP_OK);
    assert_int_equal(counts.n_done, 5);
    assert_int_equal(counts.n_bad, 0);
    flip(path, 31234.0F, 3);
    lp_text_clear(&text);
    assert_int_equal(lp_store_verify(path, LP_VERIFY_QUICK, &counts, &text, &err), LP_OK);
    assert_int_equal(lp_store_verify(path, LP_VERIFY_FULL, &counts, &text, &err), LP_ERR_FORMAT);
    assert_int_equal(counts.n_bad, 1);
    if (!strstr(text.data, "bad: pair 3 (id pair-3) does not fit its checksum\n")) fail_msg("found %s", text.data);
    assert_non_null(strstr(err.text, "1 of 5 pairs are torn or altered"));
    lp_text_release(&text);
}

/* Every bit that is flipped somewhere in a pair's data is found; the positions are spread over the file. */
static void every_flip_is_found(void **state) {
    (void)state;
    const char *path = in_folder("flips.h5");
    lp_error err = {0};
    make_store(path, 0, 0x3f, 0, "m1", "p1");
    int n_found = 0;
    for (int i = 0; i < 200; i++) {
        lp_text text = {0};
        lp_verify_counts counts;
        float unique = (float)((1 + i % (P - 1)) * 10000 + (i * 37) % (L * T * H));
        flip(path, unique, i % 8);
        n_found += lp_store_verify(path, LP_VERIFY_FULL, &counts, &text, &err) == LP_ERR_FORMAT && counts.n_bad == 1;
        lp_text_release(&text);
        make_store(path, 0, 0x3f, 0, "m1", "p1");
    }
    assert_int_equal(n_found, 200);
}

static void assert_same_pairs(const char *one, const char *other, int64_t n) {
    lp_record_file *a = NULL;
    lp_record_file *b = NULL;
    lp_error err = {0};
    assert_int_equal(lp_record_file_open_read(one, &a, &err), LP_OK);
    if (lp_record_file_open_read(other, &b, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lp_record_file_n_done(b), n);
    lp_pair_record in_a = {0}, in_b = {0};
    for (int64_t i = 0; i < P; i++) {
        assert_int_equal(lp_record_file_state(a)[i], lp_record_file_state(b)[i]);
        if (!lp_record_file_state(a)[i]) continue;
        assert_int_equal(lp_record_file_load(a, i, &in_a, &err), LP_OK);
        if (lp_record_file_load(b, i, &in_b, &err) != LP_OK) fail_msg("%s", err.text);
        for (size_t f = 0; f < 4; f++)
            assert_memory_equal(lp_pair_record_field(&in_a, f), lp_pair_record_field(&in_b, f),
                                lp_record_file_field_bytes(a, f));
    }
    lp_pair_record_release(&in_a);
    lp_pair_record_release(&in_b);
    lp_record_file_close(a);
    lp_record_file_close(b);
}

static void archive_is_a_store(void **state) {
    (void)state;
    const char *path = in_folder("a.h5");
    const char *archive = in_folder("a.archive.h5");
    lp_text text = {0};
    lp_error err = {0};
    lp_verify_counts counts;
    make_store(path, 0, 0x3d, 0, "m1", "p1");
    if (lp_store_archive(path, archive, &text, &err) != LP_OK) fail_msg("%s", err.text);
    assert_non_null(strstr(text.data, "5 pairs"));
    assert_same_pairs(path, archive, 5);
    struct stat before, after;
    assert_int_equal(stat(path, &before), 0);
    assert_int_equal(stat(archive, &after), 0);
    assert_true(after.st_size < before.st_size);
    assert_int_equal(lp_store_verify(archive, LP_VERIFY_FULL, &counts, &text, &err), LP_OK);
    assert_int_equal(counts.n_done, 5);
    /* The manifest names the file's digest. */
    cJSON *document = NULL;
    lp_json root, value;
    char digest[LP_SHA256_HEX];
    const char *named = NULL;
    assert_int_equal(lp_sha256_of_file(archive, digest, &err), LP_OK);
    if (lp_json_load(in_folder("a.archive.h5.manifest.json"), 65536, &document, &root, &err) != LP_OK)
        fail_msg("%s", err.text);
    assert_int_equal(lp_json_get(&root, "sha256", &value, &err), LP_OK);
    assert_int_equal(lp_json_string(&value, &named, &err), LP_OK);
    assert_string_equal(named, digest);
    cJSON_Delete(document);
    /* It is not written over, an incomplete one is not continued, and a damaged store is not archived. */
    assert_int_equal(lp_store_archive(path, archive, &text, &err), LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "exists already"));
    flip(path, 20123.0F, 5);
    assert_int_equal(lp_store_archive(path, in_folder("b.archive.h5"), &text, &err), LP_ERR_FORMAT);
    assert_non_null(strstr(err.text, "pair 2 does not fit its checksum"));
    assert_int_equal(lp_path_look(in_folder("b.archive.h5")), LP_PATH_MISSING);
    assert_int_equal(lp_path_look(in_folder("b.archive.h5.tmp")), LP_PATH_MISSING);
    lp_text_release(&text);
}

static void incomplete_archive_is_not_continued(void **state) {
    (void)state;
    const char *path = in_folder("c.h5");
    const char *archive = in_folder("c.archive.h5");
    lp_text text = {0};
    lp_error err = {0};
    lp_record_file *file = NULL;
    make_store(path, 0, 0x01, 0, "m1", "p1");
    assert_int_equal(lp_store_archive(path, archive, &text, &err), LP_OK);
    const lp_provenance_item provenance[] = {{"model_files", "m1", true}};
    const lp_record_file_spec spec = {.format = LP_STORE_FORMAT,
                                      .version = LP_STORE_VERSION,
                                      .n_pairs = P,
                                      .fields = fields,
                                      .n_fields = 4,
                                      .provenance = provenance,
                                      .n_provenance = 1};
    assert_int_equal(lp_record_file_open(parallel, archive, &spec, &file, NULL, &err), LP_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.text, "is an archive, which cannot be continued: 1 of 6 pairs are there"));
    lp_text_release(&text);
}

static void exported_as_npy(void **state) {
    (void)state;
    const char *path = in_folder("e.h5");
    const char *target = in_folder("npy");
    lp_text text = {0};
    lp_error err = {0};
    make_store(path, 0, 0x36, 0, "m1", "p1");
    const char *const names[] = {"resid_post", "runs/clean/number", "answer_text"};
    const int32_t some_layers[] = {2};
    const int64_t pairs[] = {4, 1};
    /* Layer 2 is the second of the clean run's list and the third of the corrupted run, which has no list. */
    const lp_export_options options = {
        .fields = names, .n_fields = 3, .layers = some_layers, .n_layers = 1, .pairs = pairs, .n_pairs = 2};
    if (lp_store_export(path, target, &options, &text, &err) != LP_OK) fail_msg("%s", err.text);
    const struct {
        const char *name;
        const char *header;
        size_t at;
        float expected;
    } cases[] = {
        {"npy/runs.clean.resid_post.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 2, 500), }", 0,
         40000 + T * H},
        {"npy/runs.clean.resid_post.npy", "(2, 1, 2, 500)", T * H, 10000 + T * H},
        {"npy/runs.corrupted.resid_post.npy", "(2, 1, 2, 500)", 0, 40000 + 2 * T * H},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_text file = {0};
        if (lp_file_read(in_folder(cases[i].name), 1 << 20, &file, &err) != LP_OK) fail_msg("%s", err.text);
        assert_memory_equal(file.data, "\x93NUMPY\x01\x00", 8);
        size_t start = 10 + (size_t)(unsigned char)file.data[8] + 256 * (size_t)(unsigned char)file.data[9];
        assert_int_equal(start % 64, 0);
        assert_int_equal(file.length - start, 2 * T * H * 4);
        assert_non_null(strstr(file.data + 10, cases[i].header));
        float found = 0;
        memcpy(&found, file.data + start + cases[i].at * 4, 4);
        if (found != cases[i].expected)
            fail_msg("case %zu: expected %g, found %g", i, (double)cases[i].expected, (double)found);
        lp_text_release(&file);
    }
    lp_text list = {0};
    assert_int_equal(lp_file_read(in_folder("npy/pairs.txt"), 4096, &list, &err), LP_OK);
    assert_string_equal(list.data, "4\tpair-4\n1\tpair-1\n");
    lp_text_release(&list);
    assert_int_equal(lp_path_look(in_folder("npy/runs.clean.number.npy")), LP_PATH_FILE);
    const char *const wrong[] = {"colour"};
    assert_int_equal(lp_store_export(path, target, &(lp_export_options){.fields = wrong, .n_fields = 1}, &text, &err),
                     LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "has no dataset colour"));
    const int64_t missing[] = {0};
    assert_int_equal(lp_store_export(path, target, &(lp_export_options){.pairs = missing, .n_pairs = 1}, &text, &err),
                     LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "pair 0 is not written yet"));
    const int32_t no_layer[] = {4};
    assert_int_equal(
        lp_store_export(path, target, &(lp_export_options){.layers = no_layer, .n_layers = 1}, &text, &err),
        LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "/runs/clean/resid_post has no layer 4"));
    lp_text_release(&text);
}

static void merged_from_shards(void **state) {
    (void)state;
    const char *all = in_folder("all.h5");
    const char *one = in_folder("one.h5");
    const char *two = in_folder("two.h5");
    const char *merged = in_folder("merged.h5");
    lp_text text = {0};
    lp_error err = {0};
    make_store(all, 0, 0x3f, 0, "m1", "p1");
    make_store(one, 0, 0x07, 0, "m1", "p1");
    make_store(two, 0, 0x3c, 0, "m1", "p1");
    const char *const shards[] = {one, two};
    unlink(merged);
    if (lp_store_merge(shards, 2, merged, NULL, &text, &err) != LP_OK) fail_msg("%s", err.text);
    assert_same_pairs(all, merged, P);
    /* The very bytes of the store that was made in one go. */
    char digest[2][LP_SHA256_HEX];
    assert_int_equal(lp_sha256_of_file(all, digest[0], &err), LP_OK);
    assert_int_equal(lp_sha256_of_file(merged, digest[1], &err), LP_OK);
    assert_string_equal(digest[0], digest[1]);
    assert_int_equal(lp_store_merge(shards, 2, merged, NULL, &text, &err), LP_ERR_VALUE);

    const char *const result = in_folder("merged2.h5");
    make_store(two, 0, 0x3c, 1, "m1", "p1");
    assert_int_equal(lp_store_merge(shards, 2, result, NULL, &text, &err), LP_ERR_MISMATCH);
    assert_non_null(strstr(err.text, "pair pair-2 differs from that of"));
    make_store(two, 0, 0x38, 0, "m2", "p1");
    assert_int_equal(lp_store_merge(shards, 2, result, NULL, &text, &err), LP_ERR_MISMATCH);
    assert_non_null(strstr(err.text, "made with another model_files: expected m1, found m2"));
    make_store(two, 100, 0x3f, 0, "m1", "p2");
    assert_int_equal(lp_store_merge(shards, 2, result, NULL, &text, &err), LP_ERR_MISMATCH);
    assert_non_null(strstr(err.text, "made with another pair_file"));
    assert_int_equal(lp_path_look(result), LP_PATH_MISSING);
    if (lp_store_merge(shards, 2, result, "p12", &text, &err) != LP_OK) fail_msg("%s", err.text);
    lp_record_file *file = NULL;
    assert_int_equal(lp_record_file_open_read(result, &file, &err), LP_OK);
    assert_int_equal(lp_record_file_n_pairs(file), 2 * P);
    assert_int_equal(lp_record_file_n_done(file), 3 + P);
    assert_string_equal(lp_record_file_provenance(file, "pair_file"), "p12");
    assert_string_equal(lp_record_file_provenance(file, "n_pairs"), "12");
    double *answers = NULL;
    int64_t n = 0;
    size_t bytes = 0;
    assert_int_equal(lp_record_file_table(file, "pairs/clean_answer", LP_F64, (void **)&answers, &n, &bytes, &err),
                     LP_OK);
    assert_true(answers[0] == 0 && answers[P] == 1000);
    lp_mem_free(answers);
    lp_pair_record record = {0};
    assert_int_equal(lp_record_file_load(file, P + 1, &record, &err), LP_OK);
    double number = 0;
    memcpy(&number, lp_pair_record_field(&record, 1), sizeof number);
    lp_pair_record_release(&record);
    assert_true(number == 101.0 / 4);
    lp_record_file_close(file);
    lp_text_release(&text);
}

int main(int argc, char **argv) {
    lp_error err = {0};
    if (lp_parallel_start(&argc, &argv, &parallel, &err) != LP_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    snprintf(folder, sizeof folder, "store_admin.XXXXXX");
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(info_says_what_is_there),
        cmocka_unit_test(verify_names_bad_pairs),
        cmocka_unit_test(every_flip_is_found),
        cmocka_unit_test(archive_is_a_store),
        cmocka_unit_test(incomplete_archive_is_not_continued),
        cmocka_unit_test(exported_as_npy),
        cmocka_unit_test(merged_from_shards),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    const char *const made[] = {"info.h5",
                                "verify.h5",
                                "flips.h5",
                                "a.h5",
                                "a.archive.h5",
                                "a.archive.h5.manifest.json",
                                "c.h5",
                                "c.archive.h5",
                                "c.archive.h5.manifest.json",
                                "e.h5",
                                "all.h5",
                                "one.h5",
                                "two.h5",
                                "merged.h5",
                                "merged2.h5",
                                "npy/pairs.txt",
                                "npy/runs.clean.resid_post.npy",
                                "npy/runs.clean.number.npy",
                                "npy/runs.clean.answer_text.npy",
                                "npy/runs.corrupted.resid_post.npy"};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) unlink(in_folder(made[i]));
    rmdir(in_folder("npy"));
    if (rmdir(folder) != 0) fprintf(stderr, "%s: something is left\n", folder), failed = 1;
    lp_parallel_finish(parallel);
    return failed;
}
