/* Times each operation of the cpu backend at the shapes of GPT-2 124M, in processor time of all threads: name,
 * microseconds a row, and what that is in GFLOP/s (matrix products) or GB/s of operands. Usage: micro [ROWS [THREADS]]
 */
#include "backend/backend.h"
#include "backend/groups.h"
#include "base/memory.h"
#include "base/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { D = 768, F = 3072, HEADS = 12, VOCABULARY = 50260, PROMPT = 70, TAIL = 14, LAYERS = 1 };

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        lp_error failed = {0};                                                                                         \
        lp_error *err = &failed;                                                                                       \
        if ((call) != LP_OK) {                                                                                         \
            fprintf(stderr, "micro: %s\n", failed.text);                                                               \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

typedef struct {
    lp_backend *be;
    int32_t rows;
    lp_backend_linear *w[5];
    lp_row_table table;
    lp_kv_pool pool;
    lp_model_config config;
    float *x, *y, *norm;
    int32_t *best;
} bench;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *numbers(size_t n) {
    float *x = NULL;
    CHECK(lp_mem_new(&x, n, sizeof *x, "numbers", err));
    for (size_t i = 0; i < n; i++) x[i] = (float)((i * 2654435761u >> 8) & 0xffff) / 65536.0f - 0.5f;
    return x;
}

typedef enum { QKV, ATTN_OUT, MLP_IN, MLP_OUT, HEAD, NORM, GELU, ADD, ATTEND, STORE, ARGMAX, N_OPERATIONS } operation;

static const struct {
    const char *name;
    int64_t n_in, n_out; /* of a matrix product; otherwise floats read and written a row */
} operations[N_OPERATIONS] = {{"linear qkv", D, 3 * D},
                              {"linear attn_out", D, D},
                              {"linear mlp_in", D, F},
                              {"linear mlp_out", F, D},
                              {"linear head", D, VOCABULARY},
                              {"layer norm", D, D},
                              {"GELU", F, F},
                              {"add", D, D},
                              {"attend, 84 positions", 2 * 84 * D, D},
                              {"store k, v", 2 * D, 2 * D},
                              {"argmax", VOCABULARY, 1}};

static void run(const bench *b, operation o) {
    lp_backend *be = b->be;
    switch (o) {
    case QKV:
    case ATTN_OUT:
    case MLP_IN:
    case MLP_OUT:
    case HEAD: CHECK(be->linear(be, b->w[o], LP_FLOATS, b->x, b->rows, b->y, err)); break;
    case NORM: CHECK(be->norm(be, b->x, b->norm, b->norm, 1e-5f, b->rows, D, LP_FLOATS, b->y, err)); break;
    case GELU: CHECK(be->activate(be, LP_ACT_GELU_TANH, false, b->x, b->rows, F, LP_FLOATS, b->y, err)); break;
    case ADD: CHECK(be->add_rows(be, b->y, b->x, NULL, b->rows, D, err)); break;
    case ATTEND: CHECK(be->attend(be, &b->config, b->x, &b->table, b->rows, &b->pool, 0, LP_FLOATS, b->y, err)); break;
    case STORE: CHECK(be->store_kv(be, &b->config, b->x, &b->table, b->rows, NULL, NULL, &b->pool, 0, err)); break;
    case ARGMAX: CHECK(be->argmax(be, b->y, b->rows, VOCABULARY, VOCABULARY - 1, b->best, err)); break;
    case N_OPERATIONS: break;
    }
}

/* Runs of 72 rows share a prompt, as a sweep's branches do. */
static void make_table(bench *b) {
    int32_t *lists = NULL, n = b->rows, runs = n / 72 + 1;
    uint64_t *scratch = NULL;
    CHECK(lp_mem_new(&lists, (size_t)n * (8 + TAIL) + 1, sizeof *lists, "rows", err));
    CHECK(lp_mem_new(&scratch, (size_t)n, sizeof *scratch, "rows", err));
    int32_t *tail = lists + 6 * n, *group_row = tail + n * TAIL, *group_begin = group_row + n;
    for (int32_t r = 0; r < n; r++) {
        lists[r] = PROMPT + TAIL - 1;
        lists[2 * n + r] = r / 72 * PROMPT;
        lists[3 * n + r] = PROMPT;
        lists[4 * n + r] = r * TAIL;
        lists[5 * n + r] = TAIL;
        for (int32_t t = 0; t < TAIL; t++) tail[r * TAIL + t] = runs * PROMPT + r * TAIL + t;
        lists[n + r] = tail[r * TAIL + TAIL - 1];
    }
    b->table = (lp_row_table){.position = lists,
                              .slot = lists + n,
                              .prompt_begin = lists + 2 * n,
                              .prompt_length = lists + 3 * n,
                              .tail_begin = lists + 4 * n,
                              .tail_length = lists + 5 * n,
                              .tail = tail,
                              .group_row = group_row,
                              .group_begin = group_begin};
    b->table.n_groups = lp_row_groups(lists + 2 * n, n, LP_GROUP_ROWS, group_row, group_begin, scratch);
    lp_mem_free(scratch);
    b->pool = (lp_kv_pool){.n_slots = runs * PROMPT + n * TAIL, .n_layers = LAYERS, .width = D};
    b->pool.keys = numbers((size_t)b->pool.n_slots * D);
    b->pool.values = numbers((size_t)b->pool.n_slots * D);
}

int main(int argc, char **argv) {
    bench b = {.rows = argc > 1 ? (int32_t)strtol(argv[1], NULL, 10) : 576,
               .config = {.n_heads = HEADS, .n_kv_heads = HEADS, .head_dim = D / HEADS}};
    int32_t threads = argc > 2 ? (int32_t)strtol(argv[2], NULL, 10) : 1;
    if (b.rows < 1 || threads < 1) return 2;
    CHECK(lp_backend_cpu_new(threads, &b.be, err));
    size_t padded = (size_t)b.rows + LP_ROW_PADDING;
    b.x = numbers(padded * F);
    b.y = numbers(padded * VOCABULARY);
    b.norm = numbers(D);
    CHECK(lp_mem_new(&b.best, (size_t)b.rows, sizeof *b.best, "tokens", err));
    make_table(&b);
    for (int o = QKV; o <= HEAD; o++) {
        int64_t n_in = operations[o].n_in, n_out = operations[o].n_out;
        lp_linear l = {
            .part = {{.data = numbers((size_t)(n_in * n_out)), .n_in = n_in, .n_out = n_out, .layout = LP_IN_OUT}},
            .n_parts = 1,
            .n_in = n_in,
            .n_out = n_out};
        CHECK(b.be->linear_new(b.be, &l, &b.w[o], err));
    }
    printf("%s, %d rows, %d threads\n", lp_backend_cpu_describe(), b.rows, threads);
    for (int o = 0; o < N_OPERATIONS; o++) {
        double best = 1e30;
        for (int k = 0; k < 5; k++) {
            double start = now();
            run(&b, (operation)o);
            double taken = now() - start;
            if (taken < best) best = taken;
        }
        double in = (double)operations[o].n_in, out = (double)operations[o].n_out, rows = (double)b.rows;
        double rate = o <= HEAD ? 2e-9 * rows * in * out / best : 4e-9 * rows * (in + out) / best;
        printf("%-22s %9.2f us a row  %7.1f %s\n", operations[o].name, 1e6 * best / rows, rate,
               o <= HEAD ? "GFLOP/s" : "GB/s");
    }
    return 0;
}
