/* The rate of single-precision matrix products at a model's shapes: a plain CBLAS loop over the matrices of all its
 * blocks and its output head, one thread, without anything in between. Prints `gemm_peak: N` in GFLOP per second of
 * processor time. Usage: gemm_peak ROWS SECONDS [D F LAYERS VOCABULARY]. */
#include <cblas.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int n_in, n_out;
    float *data;
} matrix;

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float *numbers(size_t n) {
    float *x = aligned_alloc(64, (n * sizeof *x + 63) / 64 * 64);
    if (!x) exit(1);
    for (size_t i = 0; i < n; i++) x[i] = (float)((i * 2654435761u >> 8) & 0xffff) / 65536.0f - 0.5f;
    return x;
}

static matrix make(int n_in, int n_out) {
    return (matrix){n_in, n_out, numbers((size_t)n_in * (size_t)n_out)};
}

/* An OpenBLAS that is older than the processor takes its oldest kernels. It is started once more with ones that fit. */
static void take_fitting_kernels(char **argv) {
#ifdef __x86_64__
    if (getenv("OPENBLAS_CORETYPE") || strcmp(openblas_get_corename(), "Prescott") != 0) return;
    const char *fitting = __builtin_cpu_supports("avx512f") ? "SkylakeX" : "Haswell";
    if (!__builtin_cpu_supports("avx2") || setenv("OPENBLAS_CORETYPE", fitting, 1) != 0) return;
    (void)execv("/proc/self/exe", argv);
#else
    (void)argv;
#endif
}

int main(int argc, char **argv) {
    if (argc != 3 && argc != 7) {
        fprintf(stderr, "usage: gemm_peak ROWS SECONDS [D F LAYERS VOCABULARY]\n");
        return 2;
    }
    take_fitting_kernels(argv);
    int rows = (int)strtol(argv[1], NULL, 10);
    double wanted = strtod(argv[2], NULL);
    int d = argc == 7 ? (int)strtol(argv[3], NULL, 10) : 768, f = argc == 7 ? (int)strtol(argv[4], NULL, 10) : 3072;
    int layers = argc == 7 ? (int)strtol(argv[5], NULL, 10) : 12;
    int vocabulary = argc == 7 ? (int)strtol(argv[6], NULL, 10) : 50260;
    if (rows < 1 || d < 1 || f < 1 || layers < 1 || vocabulary < 1) return 2;
    int n = 4 * layers + 1;
    matrix *all = malloc((size_t)n * sizeof *all);
    if (!all) return 1;
    for (int l = 0; l < layers; l++) {
        all[4 * l] = make(d, 3 * d);
        all[4 * l + 1] = make(d, d);
        all[4 * l + 2] = make(d, f);
        all[4 * l + 3] = make(f, d);
    }
    all[n - 1] = make(d, vocabulary);
    size_t widest = (size_t)(f > d ? f : d);
    float *x = numbers((size_t)rows * widest);
    float *y = numbers((size_t)rows * (size_t)(vocabulary > 3 * d ? vocabulary : 3 * d));
    double flops = 0, best = 0, start = processor_seconds();
    openblas_set_num_threads(1);
    while (processor_seconds() - start < wanted) {
        double pass_start = processor_seconds(), pass_flops = 0;
        for (int i = 0; i < n; i++) {
            const matrix *w = &all[i];
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, w->n_out, w->n_in, 1.0f, x, w->n_in, w->data,
                        w->n_out, 0.0f, y, w->n_out);
            pass_flops += 2.0 * rows * (double)w->n_in * w->n_out;
        }
        double rate = pass_flops / (processor_seconds() - pass_start);
        if (rate > best) best = rate;
        flops += pass_flops;
    }
    double mean = flops / (processor_seconds() - start);
    printf("gemm_peak: %.1f\ngemm_peak_best: %.1f\nkernels: %s\n", mean * 1e-9, best * 1e-9, openblas_get_corename());
    for (int i = 0; i < n; i++) free(all[i].data);
    free(all);
    free(x);
    free(y);
    return 0;
}
