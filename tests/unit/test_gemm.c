/* Matrix products: against sums in double precision at the public models' shapes, the same bits however a product is
 * cut, and the same bits from all kernel sets with fused multiply-adds. The set is chosen once a process, so each set
 * that this processor runs has a process of its own, which leaves its results in shared memory. */
#include "base/gemm.h"
#include "base/memory.h"
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

typedef struct {
    const char *name;
    int64_t rows, columns, depth;
    bool turned; /* w as [columns, depth] */
    bool bias;
    float scale;
} product_case;

static const product_case cases[] = {
    {"gpt2-124m qkv, a part", 75, 450, 768, false, true, 1},
    {"gpt2-124m mlp_out, a part", 75, 68, 3072, false, true, 1},
    {"gpt2-124m head, a part", 75, 131, 768, true, false, 1},
    {"llama-1b gate, a part", 40, 64, 2048, true, false, 1},
    {"many rows", 1500, 33, 20, false, true, 1},
    {"LoRA", 256, 512, 128, true, false, 0.25f},
    {"one", 1, 1, 1, false, true, 2},
    {"one row", 1, 100, 385, true, true, 1},
    {"odd", 29, 77, 101, true, true, -3},
};
enum { N_CASES = sizeof cases / sizeof cases[0], MOST_RESULTS = 1 << 17 };

static const char *const sets[] = {"avx512", "avx2", "baseline"};
enum { N_SETS = sizeof sets / sizeof sets[0] };

/* What the processes leave, [set][case]. */
typedef struct {
    bool ran[N_SETS];
    float y[N_SETS][N_CASES][MOST_RESULTS];
    char wrong[N_SETS][200];
} results;
static results *shared;
static float *workspace;

static float *normal(size_t n, uint32_t stream) {
    float *x = NULL;
    lp_error err = {0};
    assert_int_equal(lp_mem_new(&x, n, sizeof *x, "test", &err), LP_OK);
    lp_random_normal((lp_random_key){.seed = 5, .stream = stream}, x, n);
    return x;
}

static lp_gemm_product product_of(const product_case *c, const float *x, const float *w, const float *bias, float *y) {
    return (lp_gemm_product){
        .rows = c->rows,
        .columns = c->columns,
        .depth = c->depth,
        .x = {.data = x, .row_stride = c->depth, .column_stride = 1},
        .w = {.data = w, .row_stride = c->turned ? 1 : c->columns, .column_stride = c->turned ? c->depth : 1},
        .scale = c->scale,
        .start = c->bias ? bias : NULL,
        .y = y,
        .y_stride = c->columns};
}

/* The product's w in panels. */
static float *panels_of(const lp_gemm_product *p) {
    float *packed = normal((size_t)lp_gemm_panel_floats(p->depth, p->columns), 6);
    for (int64_t k = 0; k < p->depth; k++)
        for (int64_t j = 0; j < p->columns; j++)
            packed[lp_gemm_panel_at(p->depth, k, j)] = p->w.data[k * p->w.row_stride + j * p->w.column_stride];
    return packed;
}

/* The same product in calls of `rows` x `columns`, written to z. */
static void multiply_cut(const lp_gemm_product *whole, int64_t rows, int64_t columns, float *z) {
    for (int64_t r = 0; r < whole->rows; r += rows)
        for (int64_t j = 0; j < whole->columns; j += columns) {
            lp_gemm_product part = *whole;
            part.rows = whole->rows - r < rows ? whole->rows - r : rows;
            part.columns = whole->columns - j < columns ? whole->columns - j : columns;
            part.x.data += r * whole->x.row_stride;
            part.w.data += j * (whole->w_in_panels ? whole->depth : whole->w.column_stride);
            if (part.start) part.start += j;
            part.y = z + r * whole->y_stride + j;
            lp_gemm(&part, workspace);
        }
}

static void check_values(const product_case *c, const lp_gemm_product *p, char wrong[200]) {
    for (int64_t r = 0; r<c->rows; r += c->rows> 4 ? c->rows / 4 : 1)
        for (int64_t j = 0; j < c->columns; j++) {
            double sum = 0, size = 0, start = p->start ? (double)p->start[j] : 0;
            for (int64_t k = 0; k < c->depth; k++) {
                double term = (double)p->x.data[r * p->x.row_stride + k] *
                              (double)p->w.data[k * p->w.row_stride + j * p->w.column_stride];
                sum += term;
                size += fabs(term);
            }
            double want = start + (double)c->scale * sum, found = (double)p->y[r * p->y_stride + j];
            double bound = 5e-7 * (fabs(start) + fabs((double)c->scale) * size);
            if (!(fabs(found - want) <= bound))
                snprintf(wrong, 200, "%s: row %lld, column %lld: expected %.9g +- %.2g, found %.9g", c->name,
                         (long long)r, (long long)j, want, bound, found);
        }
}

static void run_case(int set, int i) {
    static const int64_t cuts[][2] = {{1, 1000}, {13, 64}, {14, 32}, {29, 50}, {1000, 1}, {700, 16}};
    const product_case *c = &cases[i];
    size_t n = (size_t)(c->rows * c->columns);
    char *wrong = shared->wrong[set];
    assert_true(n <= MOST_RESULTS);
    float *x = normal((size_t)(c->rows * c->depth), 1), *w = normal((size_t)(c->depth * c->columns), 2);
    float *bias = normal((size_t)c->columns, 3), *z = normal(n, 4);
    float *y = shared->y[set][i];
    lp_gemm_product p = product_of(c, x, w, bias, y);
    lp_gemm(&p, workspace);
    check_values(c, &p, wrong);
    for (size_t k = 0; k < sizeof cuts / sizeof cuts[0]; k++) {
        if (c->columns * c->rows > 20000 && cuts[k][0] * cuts[k][1] < 2000) continue; /* thousands of calls */
        multiply_cut(&p, cuts[k][0], cuts[k][1], z);
        if (memcmp(y, z, n * sizeof *y) != 0)
            snprintf(wrong, 200, "%s: other bits in calls of %lld x %lld", c->name, (long long)cuts[k][0],
                     (long long)cuts[k][1]);
    }
    static const int64_t panel_cuts[][2] = {{1000, 1000}, {1500, 64}, {29, 32}, {700, 32}};
    float *panels = panels_of(&p);
    p.w = (lp_gemm_view){.data = panels};
    p.w_in_panels = true;
    for (size_t k = 0; k < sizeof panel_cuts / sizeof panel_cuts[0]; k++) {
        memset(z, 0x7f, n * sizeof *z);
        multiply_cut(&p, panel_cuts[k][0], panel_cuts[k][1], z);
        if (memcmp(y, z, n * sizeof *y) != 0)
            snprintf(wrong, 200, "%s: other bits with panels in calls of %lld x %lld", c->name,
                     (long long)panel_cuts[k][0], (long long)panel_cuts[k][1]);
    }
    lp_mem_free(panels);
    lp_mem_free(x);
    lp_mem_free(w);
    lp_mem_free(bias);
    lp_mem_free(z);
}

static void run_set(int set) {
    lp_error err = {0};
    setenv("LATENTPATCH_KERNELS", sets[set], 1);
    if (lp_gemm_check_setting(&err) != LP_OK) return; /* not on this processor */
    shared->ran[set] = true;
    if (strcmp(lp_gemm_kernels(), sets[set]) != 0) snprintf(shared->wrong[set], 200, "took %s", lp_gemm_kernels());
    for (int i = 0; i < N_CASES; i++) run_case(set, i);
}

static void test_sets(void **state) {
    (void)state;
    for (int set = 0; set < N_SETS; set++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            run_set(set);
            _exit(0);
        }
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) fail_msg("%s: ended with status %d", sets[set], status);
        if (shared->wrong[set][0]) fail_msg("%s: %s", sets[set], shared->wrong[set]);
        print_message("%s: %s\n", sets[set], shared->ran[set] ? "checked" : "not on this processor");
    }
    assert_true(shared->ran[N_SETS - 1]);
    if (shared->ran[0] && shared->ran[1])
        for (int i = 0; i < N_CASES; i++)
            assert_memory_equal(shared->y[0][i], shared->y[1][i],
                                (size_t)(cases[i].rows * cases[i].columns) * sizeof(float));
}

static void test_accumulates(void **state) {
    (void)state;
    const float x[] = {1, 2, 3, 4}, w[] = {10, 100};
    float y[] = {1, -7, 2, -7};
    lp_gemm(&(lp_gemm_product){.rows = 2,
                               .columns = 1,
                               .depth = 2,
                               .x = {.data = x, .row_stride = 1, .column_stride = 2}, /* [[1, 3], [2, 4]] */
                               .w = {.data = w, .row_stride = 1, .column_stride = 1},
                               .scale = 2,
                               .start = y,
                               .start_stride = 2,
                               .y = y,
                               .y_stride = 2},
            workspace);
    const float want[] = {621, -7, 842, -7};
    assert_memory_equal(y, want, sizeof want);
}

static void test_setting(void **state) {
    (void)state;
    lp_error err = {0};
    setenv("LATENTPATCH_KERNELS", "sse9", 1);
    assert_int_equal(lp_gemm_check_setting(&err), LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "LATENTPATCH_KERNELS: expected one of "));
    assert_non_null(strstr(err.text, "baseline on this processor, found \"sse9\""));
    unsetenv("LATENTPATCH_KERNELS");
    assert_int_equal(lp_gemm_check_setting(&err), LP_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sets), cmocka_unit_test(test_accumulates),
                                       cmocka_unit_test(test_setting)};
    unsetenv("LATENTPATCH_KERNELS");
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 1;
    lp_error err = {0};
    if (lp_mem_new(&workspace, LP_GEMM_WORKSPACE, sizeof *workspace, "products", &err) != LP_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    lp_mem_free(workspace);
    return failed;
}
