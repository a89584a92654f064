/* The store's writing path beside plain MPI-IO: the same ranks, file system, sizes and places, in turns.
 *
 *   mpirun -n R bench_store_write FOLDER [PAIRS [LAYERS WIDTH [ROUNDS]]]
 *
 * A pair has the fields of a store of default sites (GPT-2 124M: 12 layers of 768). `plain` writes them with
 * MPI_File_write_at and nothing else; `store` is lp_record_file_write: the same writes, the checksum over them, and the
 * journal. Each writes a file that is new and has its final size; what is timed begins after its creation and ends
 * with the last write (page cache), and with the flush after it (disk). ROUNDS 0: only how long it takes to make and to
 * open the store. */
#include "base/checksum.h"
#include "base/memory.h"
#include "parallel/communicator.h"
#include "store/record_file.h"
#include "store/store_admin.h"

#include <time.h>
#include <unistd.h>

enum { STEPS = 6, TOKENS = 200, TEXT = 256, MAX_ROUNDS = 64, MAX_FIELDS = 32 };

typedef struct {
    const lp_parallel *parallel;
    int64_t n_pairs;
    int64_t pair_bytes; /* of the fields */
    lp_field fields[MAX_FIELDS];
    size_t n_fields;
    const void *data[MAX_FIELDS];
} work;

typedef struct {
    double cache_s, disk_s;
} seconds;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t bytes_of(const lp_field *field) {
    size_t n = lp_h5_item_bytes(field->type, field->text_bytes);
    for (int d = 0; d < field->n_dims; d++) n *= (size_t)field->dims[d];
    return n;
}

static lp_status add_field(work *w, const lp_field *field, lp_error *err) {
    void *data = NULL;
    lp_status status = lp_mem_new(&data, bytes_of(field), 1, "field", err);
    if (status != LP_OK) return status;
    for (size_t i = 0; i < bytes_of(field); i++) ((unsigned char *)data)[i] = (unsigned char)(i * 131 + i / 251);
    w->fields[w->n_fields] = *field;
    w->data[w->n_fields++] = data;
    w->pair_bytes += (int64_t)bytes_of(field);
    return LP_OK;
}

static lp_status make_fields(work *w, int32_t layers, int32_t width, lp_error *err) {
    static char paths[MAX_FIELDS][64];
    const struct {
        const char *name;
        lp_field field;
    } kinds[] = {
        {"resid_post", {.type = LP_F32, .n_dims = 3, .dims = {layers, STEPS, width}}},
        {"resid_pre", {.type = LP_F32, .n_dims = 3, .dims = {1, STEPS, width}}},
        {"latent_in", {.type = LP_F32, .n_dims = 2, .dims = {STEPS, width}}},
        {"latent_raw", {.type = LP_F32, .n_dims = 2, .dims = {STEPS, width}}},
        {"prompt_tokens", {.type = LP_I32}},
        {"answer_tokens", {.type = LP_I32, .n_dims = 1, .dims = {TOKENS}}},
        {"answer_len", {.type = LP_I32}},
        {"answer_ended", {.type = LP_U8}},
        {"answer_text", {.type = LP_TEXT, .text_bytes = TEXT}},
        {"number", {.type = LP_F64}},
        {"outcome", {.type = LP_U8}},
    };
    lp_status status = LP_OK;
    for (int side = 0; side < 2; side++)
        for (size_t i = 0; status == LP_OK && i < sizeof kinds / sizeof kinds[0]; i++) {
            lp_field field = kinds[i].field;
            char *path = paths[w->n_fields];
            snprintf(path, sizeof paths[0], "runs/%s/%s", side ? "corrupted" : "clean", kinds[i].name);
            field.path = path;
            status = add_field(w, &field, err);
        }
    return status;
}

static lp_status remove_file(const work *w, const char *path, lp_error *err) {
    if (lp_parallel_rank(w->parallel) == 0) unlink(path);
    return lp_parallel_barrier(w->parallel, err);
}

/* Waits for all, then gives the time since *start and starts again. */
static lp_status lap(const work *w, double start, double *out, lp_error *err) {
    lp_status status = lp_parallel_barrier(w->parallel, err);
    *out = now() - start;
    return status;
}

static lp_status write_plain(const work *w, const char *path, seconds *out, lp_error *err) {
    lp_status status = LP_OK;
    MPI_File file = MPI_FILE_NULL;
    int64_t places[MAX_FIELDS], end = 2048;
    for (size_t f = 0; f < w->n_fields; f++) {
        places[f] = end;
        end += w->n_pairs * (int64_t)bytes_of(&w->fields[f]);
    }
    LP_TRY(remove_file(w, path, err));
    LP_MPI(MPI_File_open(w->parallel->comm, path, MPI_MODE_WRONLY | MPI_MODE_CREATE, MPI_INFO_NULL, &file));
    LP_MPI(MPI_File_set_size(file, end));
    LP_MPI(MPI_File_sync(file));
    LP_TRY(lp_parallel_barrier(w->parallel, err));
    double start = now();
    for (int64_t i = w->parallel->rank; i < w->n_pairs; i += w->parallel->size)
        for (size_t f = 0; f < w->n_fields; f++) {
            int n = (int)bytes_of(&w->fields[f]);
            LP_MPI(MPI_File_write_at(file, places[f] + i * n, w->data[f], n, MPI_BYTE, MPI_STATUS_IGNORE));
        }
    LP_TRY(lap(w, start, &out->cache_s, err));
    LP_MPI(MPI_File_sync(file));
    LP_TRY(lap(w, start, &out->disk_s, err));
out:
    if (file != MPI_FILE_NULL) MPI_File_close(&file);
    return status;
}

static lp_status open_store(const work *w, const char *path, lp_record_file **out, lp_error *err) {
    static const lp_provenance_item provenance[] = {{"model", "none", true}};
    const lp_record_file_spec spec = {.format = LP_STORE_FORMAT,
                                      .version = LP_STORE_VERSION,
                                      .n_pairs = w->n_pairs,
                                      .fields = w->fields,
                                      .n_fields = w->n_fields,
                                      .provenance = provenance,
                                      .n_provenance = 1};
    return lp_record_file_open(w->parallel, path, &spec, out, NULL, err);
}

/* How long it takes to make an empty store, and to open it again. */
static lp_status time_opening(const work *w, const char *path, lp_error *err) {
    double s[2];
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    LP_TRY(remove_file(w, path, err));
    for (int again = 0; again < 2; again++) {
        double start = now();
        LP_TRY(open_store(w, path, &file, err));
        LP_TRY(lap(w, start, &s[again], err));
        lp_record_file_close(file);
        file = NULL;
    }
    LP_TRY(remove_file(w, path, err));
    if (w->parallel->rank == 0)
        printf("%d ranks, %lld pairs of %lld bytes: made in %.2f s, opened again in %.2f s\n", w->parallel->size,
               (long long)w->n_pairs, (long long)w->pair_bytes, s[0], s[1]);
out:
    lp_record_file_close(file);
    return status;
}

static lp_status write_store(const work *w, const char *path, seconds *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_record_file *file = NULL;
    LP_TRY(remove_file(w, path, err));
    LP_TRY(open_store(w, path, &file, err));
    LP_TRY(lp_parallel_barrier(w->parallel, err));
    double start = now();
    for (int64_t i = w->parallel->rank; i < w->n_pairs; i += w->parallel->size)
        LP_TRY(lp_record_file_write(file, i, w->data, err));
    LP_TRY(lap(w, start, &out->cache_s, err));
    LP_TRY(lp_record_file_flush(file, err));
    LP_TRY(lap(w, start, &out->disk_s, err));
out:
    lp_record_file_close(file);
    return status;
}

static lp_status checksum_speed(const work *w, double *bytes_per_s, lp_error *err) {
    enum { PAIRS = 100 };
    unsigned char found[LP_CHECKSUM_BYTES];
    lp_checksum *sum = NULL;
    struct timespec begin, end;
    lp_status status = lp_checksum_new(&sum, err);
    if (status != LP_OK) return status;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    for (int i = 0; i < PAIRS; i++) {
        for (size_t f = 0; f < w->n_fields; f++) lp_checksum_add(sum, w->data[f], bytes_of(&w->fields[f]));
        lp_checksum_finish(sum, found);
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    double cpu_s = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    *bytes_per_s = PAIRS * (double)w->pair_bytes / cpu_s;
    lp_checksum_free(sum);
    return LP_OK;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *values, int n) {
    qsort(values, (size_t)n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

static void report(const char *what, const double *plain, const double *store, int rounds, double bytes) {
    double speed[2][MAX_ROUNDS], ratio[MAX_ROUNDS];
    for (int r = 0; r < rounds; r++) {
        speed[0][r] = 1e-6 * bytes / plain[r];
        speed[1][r] = 1e-6 * bytes / store[r];
        ratio[r] = plain[r] / store[r];
    }
    double middle = median(ratio, rounds);
    printf("%s: plain %.0f MB/s, store %.0f MB/s, ratio %.2f (%.2f to %.2f)\n", what, median(speed[0], rounds),
           median(speed[1], rounds), middle, ratio[0], ratio[rounds - 1]);
}

static lp_status measure(work *w, const char *folder, int rounds, lp_error *err) {
    char path[4096];
    double plain[2][MAX_ROUNDS], store[2][MAX_ROUNDS], digest = 0;
    lp_status status = LP_OK;
    snprintf(path, sizeof path, "%s/bench_store_write.h5", folder);
    LP_TRY(time_opening(w, path, err));
    if (rounds == 0) return LP_OK;
    LP_TRY(checksum_speed(w, &digest, err));
    /* One round in front warms up what is made once: libraries, the allocator, the folder. */
    for (int r = -1; r < rounds; r++) {
        seconds p = {0}, s = {0};
        if (r % 2) LP_TRY(write_plain(w, path, &p, err));
        LP_TRY(write_store(w, path, &s, err));
        if (r % 2 == 0) LP_TRY(write_plain(w, path, &p, err));
        if (r < 0) continue;
        plain[0][r] = p.cache_s;
        plain[1][r] = p.disk_s;
        store[0][r] = s.cache_s;
        store[1][r] = s.disk_s;
    }
    LP_TRY(remove_file(w, path, err));
    if (w->parallel->rank > 0) return LP_OK;
    double bytes = (double)w->n_pairs * (double)w->pair_bytes;
    printf("%d ranks, %lld pairs of %lld bytes, %d rounds; checksum alone %.0f MB a second of CPU\n", w->parallel->size,
           (long long)w->n_pairs, (long long)w->pair_bytes, rounds, 1e-6 * digest);
    report("until the last write", plain[0], store[0], rounds, bytes);
    report("until flushed to disk", plain[1], store[1], rounds, bytes);
out:
    return status;
}

int main(int argc, char **argv) {
    lp_parallel *parallel = NULL;
    lp_error error = {0}, *err = &error;
    lp_status status = LP_OK;
    work w = {0};
    if (argc < 2) {
        fprintf(stderr, "usage: mpirun -n R bench_store_write FOLDER [PAIRS [LAYERS WIDTH [ROUNDS]]]\n");
        return 2;
    }
    int rounds = argc > 5 ? (int)strtol(argv[5], NULL, 10) : 7;
    if (rounds < 0 || rounds > MAX_ROUNDS) rounds = 7;
    LP_TRY(lp_parallel_start(&argc, &argv, &parallel, err));
    w.parallel = parallel;
    w.n_pairs = argc > 2 ? strtoll(argv[2], NULL, 10) : 400;
    LP_TRY(make_fields(&w, argc > 4 ? (int32_t)strtol(argv[3], NULL, 10) : 12,
                       argc > 4 ? (int32_t)strtol(argv[4], NULL, 10) : 768, err));
    status = measure(&w, argv[1], rounds, err);
out:
    if (status != LP_OK) fprintf(stderr, "bench_store_write: %s\n", error.text);
    for (size_t f = 0; f < w.n_fields; f++) lp_mem_free((void *)(uintptr_t)w.data[f]);
    lp_parallel_finish(parallel);
    return status != LP_OK;
}
