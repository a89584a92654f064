/* A small job on a pair file, for the tests that kill it, fill its disk, and count its ranks.
 *
 *   record_writer write FILE PAIRS [US]   all ranks: lock, make or continue FILE, deal, write; US: pause in each pair.
 *                                       Journalled pairs go to FILE.log.RANK as well, one line each.
 *   record_writer check FILE PAIRS        one process: what the journal holds is right; prints how many pairs it holds
 *   record_writer same FILE PAIRS         all ranks: FILE written by many is the file written by one, byte for byte
 *
 * Exit codes as latentpatch has them: 0, 1 (one line on stderr), 75 (stopped on request). */
#include "mpi/check.h"

#include "base/memory.h"
#include "parallel/deal.h"
#include "parallel/signals.h"
#include "store/lock.h"
#include "store/record_file.h"

#include <fcntl.h>
#include <unistd.h>

enum { WIDTH = 24 * 1024, TEXT = 32, EXIT_STOPPED = 75 };

static const lp_field fields[] = {
    {.path = "runs/clean/resid_post", .type = LP_F32, .n_dims = 2, .dims = {4, WIDTH / 4}},
    {.path = "runs/clean/number", .type = LP_F64},
    {.path = "runs/clean/answer_text", .type = LP_TEXT, .text_bytes = TEXT},
};
static const lp_provenance_item provenance[] = {{"model", "none", true}};

typedef struct {
    float resid[WIDTH];
    double number;
    char text[TEXT];
} record;

static void fill(record *out, int64_t pair) {
    memset(out, 0, sizeof *out);
    for (int i = 0; i < WIDTH; i++) out->resid[i] = (float)((pair * 7919 + i) % 16777213);
    out->number = (double)pair / 7;
    snprintf(out->text, TEXT, "pair %lld", (long long)pair);
}

static lp_status write_pair(lp_record_file *file, int64_t pair, lp_error *err) {
    static record values;
    fill(&values, pair);
    const void *data[] = {values.resid, &values.number, values.text};
    return lp_record_file_write(file, pair, data, err);
}

static lp_record_file_spec spec_of(int64_t n_pairs) {
    return (lp_record_file_spec){.format = "latentpatch-test",
                                 .version = 1,
                                 .n_pairs = n_pairs,
                                 .fields = fields,
                                 .n_fields = sizeof fields / sizeof *fields,
                                 .provenance = provenance,
                                 .n_provenance = 1};
}

static lp_status deal_out(const lp_parallel *p, lp_record_file *file, int log, int pause_us, lp_error *err) {
    lp_status status = LP_OK;
    lp_deal *deal = NULL;
    LP_TRY(lp_deal_new(p,
                       &(lp_deal_options){.done = lp_record_file_state(file), .n_units = lp_record_file_n_pairs(file)},
                       &deal, err));
    for (;;) {
        const int64_t *units = NULL;
        int64_t n = 0;
        LP_TRY(lp_deal_next(deal, 1, &units, &n, err));
        if (n == 0) break;
        if (pause_us) usleep((useconds_t)pause_us);
        LP_TRY(write_pair(file, units[0], err));
        lp_deal_done(deal, 1);
        if (log >= 0) {
            char line[32];
            int length = snprintf(line, sizeof line, "%lld\n", (long long)units[0]);
            if (write(log, line, (size_t)length) != length) LP_FAIL(LP_ERR_IO, "log: cannot write");
        }
    }
out:
    return lp_deal_end(deal, status, err);
}

static lp_status job(const lp_parallel *p, const char *path, int64_t n_pairs, int pause_us, lp_error *err) {
    lp_status status = LP_OK;
    lp_lock *lock = NULL;
    lp_record_file *file = NULL;
    int log = -1;
    int64_t n_bad = 0;
    char name[512];
    const lp_record_file_spec spec = spec_of(n_pairs);
    LP_TRY(lp_lock_take_all(p, path, &lock, err));
    LP_TRY(lp_record_file_open(p, path, &spec, &file, NULL, err));
    LP_TRY(lp_record_file_recheck(file, &n_bad, err));
    if (lp_parallel_rank(p) == 0)
        printf("start %lld of %lld, torn %lld\n", (long long)lp_record_file_n_done(file), (long long)n_pairs,
               (long long)n_bad);
    fflush(stdout);
    if (pause_us) {
        snprintf(name, sizeof name, "%s.log.%d", path, lp_parallel_rank(p));
        log = open(name, O_WRONLY | O_CREAT | O_APPEND, 0644);
    }
    LP_TRY(deal_out(p, file, log, pause_us, err));
    status = lp_record_file_flush(file, err);
out:
    if (log >= 0) close(log);
    lp_record_file_close(file);
    lp_lock_release(lock);
    return status;
}

static lp_status check(const char *path, int64_t n_pairs, lp_error *err) {
    static record values;
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    lp_pair_record found = {0};
    LP_TRY(lp_record_file_open_read(path, &file, err));
    if (lp_record_file_n_pairs(file) != n_pairs)
        LP_FAIL(LP_ERR_VALUE, "%lld pairs", (long long)lp_record_file_n_pairs(file));
    for (int64_t i = 0; i < n_pairs; i++) {
        if (!lp_record_file_state(file)[i]) continue;
        fill(&values, i);
        LP_TRY(lp_record_file_load(file, i, &found, err));
        if (memcmp(lp_pair_record_field(&found, 0), values.resid, sizeof values.resid) != 0 ||
            memcmp(lp_pair_record_field(&found, 1), &values.number, sizeof values.number) != 0 ||
            memcmp(lp_pair_record_field(&found, 2), values.text, sizeof values.text) != 0)
            LP_FAIL(LP_ERR_VALUE, "pair %lld holds other values", (long long)i);
    }
    for (int rank = 0; rank < 16; rank++) {
        char name[512];
        snprintf(name, sizeof name, "%s.log.%d", path, rank);
        FILE *log = fopen(name, "r");
        if (!log) continue;
        char line[32];
        while (status == LP_OK && fgets(line, sizeof line, log)) {
            long long pair = strtoll(line, NULL, 10);
            if (strchr(line, '\n') && !lp_record_file_state(file)[pair])
                status = lp_fail(err, LP_ERR_VALUE, "pair %lld was journalled and is lost", pair);
        }
        fclose(log);
    }
    if (status == LP_OK) printf("done %lld\n", (long long)lp_record_file_n_done(file));
out:
    lp_pair_record_release(&found);
    lp_record_file_close(file);
    return status;
}

static void same(const lp_parallel *p, const char *path, int64_t n_pairs) {
    char one[512];
    char digest[2][LP_SHA256_HEX];
    lp_record_file *file = NULL;
    bool created = false;
    const lp_record_file_spec spec = spec_of(n_pairs);
    snprintf(one, sizeof one, "%s.one", path);
    CHECK_OK(p, job(p, path, n_pairs, 0, err));
    CHECK_OK(p, lp_record_file_open(p, one, &spec, &file, &created, err));
    CHECK(p, created, "%s existed", one);
    if (lp_parallel_rank(p) == 0)
        for (int64_t i = 0; i < n_pairs; i++) CHECK_OK(p, write_pair(file, i, err));
    CHECK_OK(p, lp_record_file_note(file, "model", "noted", err));
    CHECK_OK(p, lp_record_file_note(file, "model", "none", err));
    lp_record_file_close(file);
    CHECK_OK(p, lp_sha256_of_file(path, digest[0], err));
    CHECK_OK(p, lp_sha256_of_file(one, digest[1], err));
    CHECK(p, strcmp(digest[0], digest[1]) == 0, "%s and %s", digest[0], digest[1]);
    /* Each rank reads for itself, and a pair that was forgotten by one is forgotten for all. */
    CHECK_OK(p, lp_record_file_open_read(path, &file, err));
    CHECK_I64(p, n_pairs, lp_record_file_n_done(file));
    lp_record_file_close(file);
    CHECK_OK(p, lp_parallel_barrier(p, err));
    if (lp_parallel_rank(p) == 0) {
        int fd = open(path, O_RDWR);
        const unsigned char junk[64] = {1, 2, 3};
        CHECK(p, pwrite(fd, junk, sizeof junk, lseek(fd, 0, SEEK_END) / 2) == (ssize_t)sizeof junk, "pwrite");
        close(fd);
        unlink(one);
    }
    CHECK_OK(p, lp_parallel_barrier(p, err));
    CHECK_OK(p, lp_record_file_open(p, path, &spec, &file, &created, err));
    CHECK(p, !created, "%s was made anew", path);
    int64_t n_bad = 0;
    CHECK_OK(p, lp_record_file_recheck(file, &n_bad, err));
    CHECK_I64(p, 1, n_bad);
    CHECK_I64(p, n_pairs - 1, lp_record_file_n_done(file));
    lp_record_file_close(file);
    lp_error trouble = {0};
    lp_record_file_spec other = spec;
    other.n_pairs++;
    CHECK_I64(p, LP_ERR_MISMATCH, lp_record_file_open(p, path, &other, &file, &created, &trouble));
    CHECK(p, strstr(trouble.text, "holds 40 pairs, this job has 41"), "found '%s'", trouble.text);
    if (lp_parallel_rank(p) == 0) unlink(path);
}

int main(int argc, char **argv) {
    lp_error err = {0};
    lp_parallel *p = NULL;
    if (argc < 4) {
        fprintf(stderr, "usage: record_writer write|check|same FILE PAIRS [US]\n");
        return 2;
    }
    int64_t n_pairs = strtoll(argv[3], NULL, 10);
    int pause_us = argc > 4 ? (int)strtol(argv[4], NULL, 10) : 0;
    lp_status status = LP_OK;
    if (strcmp(argv[1], "check") == 0) {
        status = check(argv[2], n_pairs, &err);
    } else {
        status = lp_parallel_start(&argc, &argv, &p, &err);
        if (status == LP_OK) status = lp_signals_install(&err);
        if (status == LP_OK && strcmp(argv[1], "write") == 0)
            status = job(p, argv[2], n_pairs, pause_us, &err);
        else if (status == LP_OK)
            same(p, argv[2], n_pairs);
    }
    if (status != LP_OK && (!p || lp_parallel_rank(p) == 0)) fprintf(stderr, "record_writer: %s\n", err.text);
    lp_parallel_finish(p);
    return status == LP_OK ? 0 : status == LP_ERR_STOPPED ? EXIT_STOPPED : 1;
}
