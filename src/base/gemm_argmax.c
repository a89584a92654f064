#include "base/gemm_argmax.h"

#include "base/memory.h"

#include <float.h>
#include <math.h>
#include <string.h>

#ifdef __x86_64__
#include <immintrin.h>
#endif

/* A number t = x . w in exact arithmetic, with x = r p + dx and w = s q + dw (p, q: codes; r, s: steps), is
 * r s (p . q) + dx . (s q) + x . dw. So it is at most |dx| |s q| + |x| |dw| away from r s (p . q). lp_gemm's sum
 * differs from t by at most ROUNDING(depth) |x| |w|, whatever the order of its terms. */
#define ROUNDING(depth) ((double)((depth) + 32) * 0x1p-24)
#define SLACK           1.0001 /* for what is rounded here */
#define TINY            1e-36f /* more than sums of subnormal products lose */
#define WILD            1e15   /* a larger norm is not bounded: squares and products could overflow */

enum { PANEL = LP_GEMM_PANEL, TILE = 14, QUAD = 4, MOST_CODE = 127, GATHER = 64 };
_Static_assert((int64_t)LP_GEMM_ARGMAX_DEPTH *(128 + MOST_CODE) * MOST_CODE <= INT32_MAX, "sums of codes");

/* Of a panel: codes [quads][PANEL][QUAD], then these. */
typedef struct {
    float step[PANEL];
    float of_norm[PANEL];      /* what a row's norm is multiplied with in the bound, */
    float of_remainder[PANEL]; /* and the norm of its remainder */
    int32_t shift[PANEL];      /* 128 x sum of the codes: rows' codes are stored with 128 added */
} panel_tail;

/* Of a tile: codes [quads][TILE][QUAD], then these. */
typedef struct {
    float step[TILE], norm[TILE], remainder[TILE];
    float filler[6];
} tile_tail;

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t quads_of(int64_t depth) {
    return (depth + QUAD - 1) / QUAD;
}

static size_t panel_bytes(int64_t depth) {
    return (size_t)quads_of(depth) * PANEL * QUAD + sizeof(panel_tail);
}

static size_t tile_codes(int64_t depth) {
    return ((size_t)quads_of(depth) * TILE * QUAD + LP_ALIGNMENT - 1) / LP_ALIGNMENT * LP_ALIGNMENT;
}

static size_t tile_bytes(int64_t depth) {
    return tile_codes(depth) + sizeof(tile_tail);
}

static int64_t n_tiles(const lp_gemm_argmax *a) {
    return (a->rows + TILE - 1) / TILE;
}

size_t lp_gemm_codes_bytes(int64_t depth, int64_t columns) {
    return (size_t)((columns + PANEL - 1) / PANEL) * panel_bytes(depth);
}

size_t lp_gemm_row_codes_bytes(const lp_gemm_argmax *a) {
    return (size_t)n_tiles(a) * tile_bytes(a->depth);
}

int64_t lp_gemm_argmax_stride(const lp_gemm_argmax *a) {
    return n_tiles(a) * TILE;
}

size_t lp_gemm_argmax_gathered(const lp_gemm_argmax *a) {
    return GATHER * (size_t)(a->depth + PANEL);
}

/* Of up to PANEL vectors that are made codes of together. */
typedef struct {
    double whole[PANEL], coded[PANEL], remainder[PANEL]; /* norms */
    float step[PANEL];
    int32_t sum[PANEL]; /* of the codes */
} coded_group;

/* Number k of vector j is x[k * k_step + j * j_step]; its code goes to out[(k / QUAD * width + j) * QUAD + k % QUAD]. A
 * vector whose norm is NaN or at least WILD has codes 0 and step 0. */
static void encode(const float *x, int64_t depth, int64_t k_step, int64_t j_step, int n, int width, int8_t *out,
                   coded_group *g) {
    float most[PANEL] = {0}, turns[PANEL] = {0};
    *g = (coded_group){0};
    for (int64_t k = 0; k < depth; k++)
        for (int j = 0; j < n; j++) {
            float value = x[k * k_step + j * j_step], size = fabsf(value);
            most[j] = size > most[j] ? size : most[j];
            g->whole[j] += (double)value * (double)value;
        }
    for (int j = 0; j < n; j++) {
        g->whole[j] = sqrt(g->whole[j]);
        float step = most[j] / MOST_CODE;
        if (!(g->whole[j] < WILD) || step < FLT_MIN) continue;
        g->step[j] = step;
        turns[j] = 1 / step;
    }
    for (int64_t k = 0; k < depth; k++)
        for (int j = 0; j < n; j++) {
            float value = x[k * k_step + j * j_step], turned = g->step[j] > 0 ? value * turns[j] : 0;
            int32_t code = (int32_t)(turned + (turned < 0 ? -0.5f : 0.5f));
            double coded = (double)g->step[j] * code, left = (double)value - coded;
            out[(k / QUAD * width + j) * QUAD + k % QUAD] = (int8_t)code;
            g->sum[j] += code;
            g->coded[j] += coded * coded;
            g->remainder[j] += left * left;
        }
    for (int j = 0; j < n; j++) {
        g->coded[j] = sqrt(g->coded[j]);
        g->remainder[j] = sqrt(g->remainder[j]);
    }
}

static void make_panel(const float *w, int64_t depth, int n, unsigned char *out) {
    panel_tail *tail = (void *)(out + panel_bytes(depth) - sizeof *tail);
    coded_group g;
    memset(out, 0, panel_bytes(depth));
    encode(w, depth, PANEL, 1, n, PANEL, (int8_t *)out, &g);
    for (int j = 0; j < n; j++) {
        bool wild = !(g.whole[j] < WILD);
        double rounding = ROUNDING(depth) * g.whole[j];
        tail->step[j] = g.step[j];
        tail->shift[j] = 128 * g.sum[j];
        tail->of_norm[j] = wild ? FLT_MAX : (float)(SLACK * (g.remainder[j] + rounding));
        tail->of_remainder[j] = wild ? 0 : (float)(SLACK * (g.coded[j] + rounding));
    }
}

void lp_gemm_codes_make(const float *panels, int64_t depth, int64_t columns, int64_t part, int64_t n_parts,
                        void *codes) {
    int64_t n = (columns + PANEL - 1) / PANEL;
    for (int64_t p = n * part / n_parts; p < n * (part + 1) / n_parts; p++)
        make_panel(panels + p * depth * PANEL, depth, (int)smaller(PANEL, columns - p * PANEL),
                   (unsigned char *)codes + (size_t)p * panel_bytes(depth));
}

/* A row that cannot be bounded has nothing but zeros, like those that fill up the last tile: then every panel's upper
 * bound reaches the best lower bound. */
void lp_gemm_row_codes_make(const lp_gemm_argmax *a, void *row_codes) {
    memset(row_codes, 0, lp_gemm_row_codes_bytes(a));
    for (int64_t t = 0; t < n_tiles(a); t++) {
        unsigned char *tile = (unsigned char *)row_codes + (size_t)t * tile_bytes(a->depth);
        tile_tail *tail = (void *)(tile + tile_codes(a->depth));
        int n = (int)smaller(TILE, a->rows - t * TILE);
        coded_group g;
        encode(a->x + t * TILE * a->depth, a->depth, 1, a->depth, n, TILE, (int8_t *)tile, &g);
        for (size_t i = 0; i < tile_codes(a->depth); i++) tile[i] ^= 0x80; /* + 128 */
        for (int i = 0; i < n; i++) {
            if (!(g.whole[i] < WILD)) continue;
            tail->step[i] = g.step[i];
            tail->norm[i] = (float)(SLACK * g.whole[i]);
            tail->remainder[i] = (float)(SLACK * g.remainder[i]);
        }
    }
}

/* ---- Kernels: of one tile and one panel -------------------------------------------------------------------------- */

/* sums [TILE][PANEL] */
typedef void (*multiply_function)(const unsigned char *rows, const int8_t *columns, int64_t quads, int32_t *sums);
/* Bit j of a mask stands for column j: `mine` may be chosen, `all` are looked at. */
typedef void (*bound_function)(const int32_t *sums, const tile_tail *rows, const panel_tail *columns, uint32_t mine,
                               uint32_t all, float *lower, float *upper);

static void multiply_plain(const unsigned char *rows, const int8_t *columns, int64_t quads, int32_t *sums) {
    memset(sums, 0, TILE * PANEL * sizeof *sums);
    for (int64_t quad = 0; quad < quads; quad++)
        for (int i = 0; i < TILE; i++)
            for (int j = 0; j < PANEL; j++)
                for (int k = 0; k < QUAD; k++)
                    sums[i * PANEL + j] += rows[(quad * TILE + i) * QUAD + k] * columns[(quad * PANEL + j) * QUAD + k];
}

static void bound_plain(const int32_t *sums, const tile_tail *rows, const panel_tail *columns, uint32_t mine,
                        uint32_t all, float *lower, float *upper) {
    for (int i = 0; i < TILE; i++) {
        upper[i] = -INFINITY;
        for (int j = 0; j < PANEL; j++) {
            float about = rows->step[i] * columns->step[j] * (float)(sums[i * PANEL + j] - columns->shift[j]);
            float away = rows->norm[i] * columns->of_norm[j] + rows->remainder[i] * columns->of_remainder[j] + TINY;
            if ((mine >> j & 1) && about - away > lower[i]) lower[i] = about - away;
            if ((all >> j & 1) && about + away > upper[i]) upper[i] = about + away;
        }
    }
}

#ifdef __x86_64__
/* Not checked by AddressSanitizer: under it GCC 13 keeps the vectors of a function where they are not aligned. The
 * plain functions above read the same. */
#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vnni"), no_sanitize("address")))
typedef int32_t vector __attribute__((vector_size(64)));

VNNI static void multiply_vnni(const unsigned char *rows, const int8_t *columns, int64_t quads, int32_t *sums) {
    vector left[TILE], right[TILE];
#pragma GCC unroll 16
    for (int i = 0; i < TILE; i++) left[i] = right[i] = (vector){0};
    for (int64_t quad = 0; quad < quads; quad++) {
        __m512i l = _mm512_load_si512(columns), r = _mm512_load_si512(columns + 64);
#pragma GCC unroll 16
        for (int i = 0; i < TILE; i++) {
            int32_t four;
            memcpy(&four, rows + i * QUAD, sizeof four);
            __m512i x = _mm512_set1_epi32(four);
            left[i] = (vector)_mm512_dpbusd_epi32((__m512i)left[i], x, l);
            right[i] = (vector)_mm512_dpbusd_epi32((__m512i)right[i], x, r);
        }
        rows += TILE * QUAD;
        columns += PANEL * QUAD;
    }
#pragma GCC unroll 16
    for (int i = 0; i < TILE; i++) {
        memcpy(sums + i * PANEL, &left[i], sizeof left[i]);
        memcpy(sums + i * PANEL + PANEL / 2, &right[i], sizeof right[i]);
    }
}

VNNI static void bound_vnni(const int32_t *sums, const tile_tail *rows, const panel_tail *columns, uint32_t mine,
                            uint32_t all, float *lower, float *upper) {
    __m512 low[TILE], high[TILE];
    for (int i = 0; i < TILE; i++) low[i] = high[i] = _mm512_set1_ps(-INFINITY);
    for (int half = 0; half < 2; half++, mine >>= PANEL / 2, all >>= PANEL / 2) {
        int at = half * PANEL / 2;
        __mmask16 to_choose = (__mmask16)(mine & 0xffff), to_see = (__mmask16)(all & 0xffff);
        __m512 step = _mm512_loadu_ps(columns->step + at), norm = _mm512_loadu_ps(columns->of_norm + at);
        __m512 remainder = _mm512_loadu_ps(columns->of_remainder + at);
        __m512i shift = _mm512_loadu_si512(columns->shift + at);
        for (int i = 0; i < TILE; i++) {
            __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(sums + i * PANEL + at), shift));
            __m512 about = _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(rows->step[i]), step), sum);
            __m512 away = _mm512_add_ps(_mm512_mul_ps(_mm512_set1_ps(rows->norm[i]), norm), _mm512_set1_ps(TINY));
            away = _mm512_add_ps(away, _mm512_mul_ps(_mm512_set1_ps(rows->remainder[i]), remainder));
            low[i] = _mm512_mask_max_ps(low[i], to_choose, low[i], _mm512_sub_ps(about, away));
            high[i] = _mm512_mask_max_ps(high[i], to_see, high[i], _mm512_add_ps(about, away));
        }
    }
    for (int i = 0; i < TILE; i++) {
        float most = _mm512_reduce_max_ps(low[i]);
        if (most > lower[i]) lower[i] = most;
        upper[i] = _mm512_reduce_max_ps(high[i]);
    }
}
#endif

static bool has_vnni(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && strcmp(lp_gemm_kernels(), "avx512") == 0;
#else
    return false;
#endif
}

bool lp_gemm_argmax_is_quick(int64_t depth) {
    return depth <= LP_GEMM_ARGMAX_DEPTH && has_vnni();
}

/* ---- The search -------------------------------------------------------------------------------------------------- */

static uint32_t candidates_of(const lp_gemm_argmax *a, int64_t panel) {
    int64_t n = a->n_candidates - panel * PANEL;
    return n >= PANEL ? UINT32_MAX : (UINT32_C(1) << n) - 1;
}

static uint32_t barred_of(const lp_gemm_argmax *a, int64_t panel) {
    uint32_t mask = 0;
    for (int32_t i = 0; i < a->n_barred; i++)
        if (a->barred[i] / PANEL == panel) mask |= UINT32_C(1) << a->barred[i] % PANEL;
    return mask;
}

void lp_gemm_argmax_bound(const lp_gemm_argmax *a, const void *row_codes, int64_t first, int64_t end, float *lower,
                          float *upper) {
    multiply_function multiply = multiply_plain;
    bound_function bound = bound_plain;
#ifdef __x86_64__
    if (has_vnni()) {
        multiply = multiply_vnni;
        bound = bound_vnni;
    }
#endif
    int64_t quads = quads_of(a->depth), stride = lp_gemm_argmax_stride(a);
    int32_t sums[TILE * PANEL];
    for (int64_t panel = first; panel < end; panel++) {
        const unsigned char *columns = (const unsigned char *)a->codes + (size_t)panel * panel_bytes(a->depth);
        const panel_tail *of_columns = (const void *)(columns + panel_bytes(a->depth) - sizeof *of_columns);
        uint32_t all = candidates_of(a, panel), mine = all & ~barred_of(a, panel);
        for (int64_t tile = 0; tile < n_tiles(a); tile++) {
            const unsigned char *rows = (const unsigned char *)row_codes + (size_t)tile * tile_bytes(a->depth);
            multiply(rows, (const int8_t *)columns, quads, sums);
            bound(sums, (const void *)(rows + tile_codes(a->depth)), of_columns, mine, all, lower + tile * TILE,
                  upper + panel * stride + tile * TILE);
        }
    }
}

/* Computes n gathered rows of a panel and looks at their candidates. */
static void settle_rows(const lp_gemm_argmax *a, int64_t panel, const int64_t *rows, int64_t n, float *gathered,
                        float *workspace, int32_t *best, float *value) {
    float *y = gathered + GATHER * a->depth;
    lp_gemm_product product = {.rows = n,
                               .columns = smaller(PANEL, a->columns - panel * PANEL),
                               .depth = a->depth,
                               .x = {.data = gathered, .row_stride = a->depth, .column_stride = 1},
                               .w = {.data = a->panels + panel * a->depth * PANEL},
                               .w_in_panels = true,
                               .scale = 1,
                               .y = y,
                               .y_stride = PANEL};
    for (int64_t i = 0; i < n; i++)
        memcpy(gathered + i * a->depth, a->x + rows[i] * a->depth, (size_t)a->depth * sizeof *gathered);
    lp_gemm(&product, workspace);
    uint32_t barred = barred_of(a, panel);
    for (int64_t i = 0; i < n; i++)
        for (uint32_t mask = candidates_of(a, panel); mask; mask &= mask - 1) {
            int j = __builtin_ctz(mask);
            float here = barred >> j & 1 ? a->barred_value : y[i * PANEL + j];
            if (!(here > value[rows[i]])) continue;
            value[rows[i]] = here;
            best[rows[i]] = (int32_t)(panel * PANEL + j);
        }
}

void lp_gemm_argmax_settle(const lp_gemm_argmax *a, int64_t first, int64_t end, const float *lower, const float *upper,
                           float *gathered, float *workspace, int32_t *best, float *value) {
    int64_t rows[GATHER], n = 0, stride = lp_gemm_argmax_stride(a);
    for (int64_t panel = first; panel < end; panel++) {
        for (int64_t row = 0; row < a->rows; row++) {
            if (upper[panel * stride + row] < lower[row]) continue;
            rows[n++] = row;
            if (n == GATHER) settle_rows(a, panel, rows, n, gathered, workspace, best, value);
            if (n == GATHER) n = 0;
        }
        if (n > 0) settle_rows(a, panel, rows, n, gathered, workspace, best, value);
        n = 0;
    }
}
