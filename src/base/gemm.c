#include "base/gemm.h"

#include "base/quad.h"

#include <stdatomic.h>

/* The product is made in this order, each loop inside the one above:
 *   blocks of rows, so that their part of x stays in the second cache;
 *   runs of the depth;
 *   panels of W's columns, copied together so that a panel stays in the first caches;
 *   tiles of rows: one call of a kernel, whose results stay in registers over the whole run.
 * A block's rows are copied so that a tile's operands lie in the order in which they are read. */
enum { MOST_TILE_ROWS = 14, MOST_PANEL = 32, BLOCK_TILES = LP_GEMM_BLOCK / MOST_TILE_ROWS };

typedef struct {
    int64_t depth;
    const float *a, *b;
    int64_t b_step;
    float scale;
    const float *start;
    int64_t start_stride;
    float *c;
    int64_t c_stride;
} tile_arguments;

typedef void (*tile_function)(const tile_arguments *t);

#define SET baseline
#define TARGET
#define VECTOR_BYTES 16
#define TILE_ROWS    6
#include "base/gemm_tile.h"

#ifdef __x86_64__
#define SET          avx2
#define TARGET       __attribute__((target("avx2,fma")))
#define VECTOR_BYTES 32
#define TILE_ROWS    6
#include "base/gemm_tile.h"

#define SET          avx512
#define TARGET       __attribute__((target("avx512f")))
#define VECTOR_BYTES 64
#define TILE_ROWS    14
#include "base/gemm_tile.h"
#endif

typedef struct {
    const char *name;
    int32_t tile_rows, panel; /* columns of a panel */
    const tile_function *tiles;
} kernel_set;

/* The best first. */
static const kernel_set sets[] = {
#ifdef __x86_64__
    {"avx512", 14, 32, tiles_avx512},
    {"avx2", 6, 16, tiles_avx2},
#endif
    {"baseline", 6, 8, tiles_baseline},
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static bool runs_here(const kernel_set *set) {
#ifdef __x86_64__
    if (set->tiles == tiles_avx512) return __builtin_cpu_supports("avx512f") != 0;
    if (set->tiles == tiles_avx2) return __builtin_cpu_supports("avx2") != 0 && __builtin_cpu_supports("fma") != 0;
#endif
    return set->tiles == tiles_baseline;
}

static const float zeros[MOST_PANEL]; /* what a product without a start begins with */

/* The set that the user asks for, or NULL. */
static const kernel_set *wanted(void) {
    const char *name = getenv("LATENTPATCH_KERNELS");
    for (int i = 0; name && i < N_SETS; i++)
        if (strcmp(sets[i].name, name) == 0 && runs_here(&sets[i])) return &sets[i];
    return NULL;
}

static const kernel_set *kernels(void) {
    static _Atomic(const kernel_set *) chosen;
    const kernel_set *set = atomic_load_explicit(&chosen, memory_order_acquire);
    if (set) return set;
    set = wanted();
    for (int i = 0; !set && i < N_SETS; i++)
        if (runs_here(&sets[i])) set = &sets[i];
    atomic_store_explicit(&chosen, set, memory_order_release);
    return set;
}

const char *lp_gemm_kernels(void) {
    return kernels()->name;
}

lp_status lp_gemm_check_setting(lp_error *err) {
    const char *name = getenv("LATENTPATCH_KERNELS");
    if (!name || wanted()) return LP_OK;
    char names[64] = "";
    for (int i = 0; i < N_SETS; i++)
        if (runs_here(&sets[i]))
            snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", names[0] ? ", " : "", sets[i].name);
    return lp_fail(err, LP_ERR_VALUE, "LATENTPATCH_KERNELS: expected one of %s on this processor, found \"%s\"", names,
                   name);
}

/* out [depth, width] = n of the matrix's vectors side by side, filled up with zeros: vector i begins at m + i *
 * between, its terms are `step` apart, and one of the two is 1. */
static void interleave(const float *m, int64_t between, int64_t step, int64_t n, int64_t width, int64_t depth,
                       float *out) {
    int64_t n_quads = step == 1 ? n / 4 * 4 : 0, k_quads = depth / 4 * 4;
    for (int64_t i = 0; i < n_quads; i += 4)
        for (int64_t k = 0; k < k_quads; k += 4)
            lp_transpose_quad(m + i * between + k, between, width, out + k * width + i);
    for (int64_t k = 0; k < depth; k++) {
        int64_t i = k < k_quads ? n_quads : 0;
        if (between == 1)
            memcpy(out + k * width, m + k * step, (size_t)n * sizeof *out);
        else
            for (; i < n; i++) out[k * width + i] = m[i * between + k * step];
        for (i = n; i < width; i++) out[k * width + i] = 0;
    }
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* A block of rows over one run of the depth, its x packed: tiles of `tile` rows, each [depth, rows of the tile]. */
typedef struct {
    const kernel_set *set;
    const float *packed;
    int64_t rows, tile, depth;
    lp_gemm_view w;       /* from the run's first row on */
    int64_t panel_floats; /* of a whole panel of W; 0: W does not lie in panels */
} gemm_block;

/* Asks for part number `part` of n_parts of the panel of W at `w`, which is copied after the one at work: its vectors
 * lie in pages of their own, where the processor does not see them coming. */
static void want_panel(const gemm_block *block, const float *w, int64_t part, int64_t n_parts) {
    enum { LINE = 16 };
    bool turned = block->w.column_stride != 1;
    int64_t n = turned ? block->set->panel : block->depth, length = turned ? block->depth : block->set->panel;
    int64_t between = turned ? block->w.column_stride : block->w.row_stride, share = (n + n_parts - 1) / n_parts;
    for (int64_t i = part * share; i < smaller((part + 1) * share, n); i++)
        for (int64_t at = 0; at < length; at += LINE) __builtin_prefetch(w + i * between + at, 0, 2);
}

/* The block's columns of one panel: t.c = t.start + t.scale * packed t.b. next: the panel after it, or NULL. */
static void multiply_panel(const gemm_block *block, tile_arguments arguments, const float *next) {
    int64_t n_tiles = (block->rows + block->tile - 1) / block->tile;
    for (int64_t i = 0; i < n_tiles; i++) {
        int64_t row = i * block->tile, m = smaller(block->tile, block->rows - row);
        if (next) want_panel(block, next, i, n_tiles);
        arguments.a = block->packed + row * block->depth;
        block->set->tiles[m](&arguments);
        arguments.c += m * arguments.c_stride;
        arguments.start += m * arguments.start_stride;
    }
}

/* The same for a last panel of n columns: the result is made beside its place, which is narrower than a tile. */
static void multiply_part(const gemm_block *block, int64_t n, tile_arguments arguments) {
    float result[MOST_TILE_ROWS * MOST_PANEL], start[MOST_TILE_ROWS * MOST_PANEL] = {0};
    for (int64_t row = 0; row < block->rows; row += block->tile) {
        int64_t m = smaller(block->tile, block->rows - row);
        tile_arguments beside = arguments;
        for (int64_t i = 0; i < m; i++)
            memcpy(start + i * MOST_PANEL, arguments.start + i * arguments.start_stride, (size_t)n * sizeof *start);
        beside.a = block->packed + row * block->depth;
        beside.start = start;
        beside.c = result;
        beside.start_stride = beside.c_stride = MOST_PANEL;
        block->set->tiles[m](&beside);
        for (int64_t i = 0; i < m; i++)
            memcpy(arguments.c + i * arguments.c_stride, result + i * MOST_PANEL, (size_t)n * sizeof *result);
        arguments.c += m * arguments.c_stride;
        arguments.start += m * arguments.start_stride;
    }
}

/* W from `column` on, where a panel of the kernel set begins. */
static const float *columns_of(const gemm_block *block, int64_t column) {
    if (!block->panel_floats) return block->w.data + column * block->w.column_stride;
    return block->w.data + column / LP_GEMM_PANEL * block->panel_floats + column % LP_GEMM_PANEL;
}

/* t: of the block's first element, without what a panel sets. */
static void multiply_block(const gemm_block *block, int64_t columns, tile_arguments arguments, float *panel) {
    int64_t width = block->set->panel;
    bool few = block->rows <= 2 * block->tile; /* too few to copy W for */
    for (int64_t column = 0; column < columns; column += width) {
        int64_t n = smaller(width, columns - column);
        const float *w = columns_of(block, column);
        bool copied = !block->panel_floats && (!few || n < width || block->w.column_stride != 1);
        if (copied) interleave(w, block->w.column_stride, block->w.row_stride, n, width, block->depth, panel);
        tile_arguments here = arguments;
        here.b = copied ? panel : w;
        here.b_step = copied ? width : block->w.row_stride;
        here.c += column;
        if (arguments.start != zeros) here.start += column;
        if (n < width)
            multiply_part(block, n, here);
        else
            multiply_panel(block, here,
                           !few && column + 2 * width <= columns ? columns_of(block, column + width) : NULL);
    }
}

void lp_gemm(const lp_gemm_product *product, float *workspace) {
    const kernel_set *set = kernels();
    float *packed = workspace, *panel = workspace + LP_GEMM_RUN * LP_GEMM_BLOCK;
    if (product->rows <= 0) return;
    int64_t n_tiles = (product->rows + set->tile_rows - 1) / set->tile_rows;
    int64_t tile = (product->rows + n_tiles - 1) / n_tiles;
    int64_t n_blocks = (n_tiles + BLOCK_TILES - 1) / BLOCK_TILES;
    int64_t most = (n_tiles + n_blocks - 1) / n_blocks * tile; /* rows of a block */
    for (int64_t row = 0; row < product->rows; row += most)
        for (int64_t k = 0; k < product->depth; k += LP_GEMM_RUN) {
            gemm_block block = {.set = set,
                                .packed = packed,
                                .rows = smaller(most, product->rows - row),
                                .tile = tile,
                                .depth = smaller(LP_GEMM_RUN, product->depth - k),
                                .w = product->w};
            if (product->w_in_panels) {
                block.panel_floats = product->depth * LP_GEMM_PANEL;
                block.w.row_stride = LP_GEMM_PANEL;
                block.w.column_stride = 1;
            }
            block.w.data += k * block.w.row_stride;
            const float *x = product->x.data + row * product->x.row_stride + k * product->x.column_stride;
            for (int64_t r = 0; r < block.rows; r += tile) {
                int64_t m = smaller(tile, block.rows - r);
                interleave(x + r * product->x.row_stride, product->x.row_stride, product->x.column_stride, m, m,
                           block.depth, packed + r * block.depth);
            }
            float *y = product->y + row * product->y_stride;
            tile_arguments arguments = {
                .depth = block.depth, .scale = product->scale, .c = y, .c_stride = product->y_stride};
            arguments.start = k > 0 ? y : product->start ? product->start + row * product->start_stride : zeros;
            arguments.start_stride = k > 0 ? product->y_stride : product->start ? product->start_stride : 0;
            multiply_block(&block, product->columns, arguments, panel);
        }
}
