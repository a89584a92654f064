#include "base/memory.h"
#include "base/printable.h"
#include "report/outcome_blocks.h"
#include "report/outcome_table.h"

enum { MOST_COLUMNS = 64, MOST_ROWS = 512, LABEL = 40, LAYER_WIDTH = 7 };

/* Indices of an outcome. */
enum { CLEAN = 0, CORRUPTED = 1 };

/* What a cell shows. */
typedef struct {
    int outcome;      /* whose share */
    int overtaken;    /* the outcome that it is compared with; -1: with none */
    const char *what; /* in words */
} grid_measure;

static grid_measure measure_of(const lp_result_condition *condition) {
    bool denoise = strcmp(condition->direction, "denoise") == 0;
    bool other_run =
        strcmp(condition->donor, denoise ? "clean" : "corrupted") == 0 && strcmp(condition->operation, "replace") == 0;
    if (denoise)
        return other_run ? (grid_measure){CLEAN, CORRUPTED, "clean answers in %; * more of them than corrupted answers"}
                         : (grid_measure){CORRUPTED, -1, "corrupted answers, the run's own, in %"};
    return other_run ? (grid_measure){CORRUPTED, CLEAN, "corrupted answers in %; * more of them than clean answers"}
                     : (grid_measure){CLEAN, -1, "clean answers, the run's own, in %"};
}

/* A block as a grid; texts are borrowed, [rows, columns] conditions are members of the block or -1. */
typedef struct {
    const lp_outcome_block *block;
    const char *rows[MOST_ROWS];
    char columns[MOST_COLUMNS][LABEL];
    int32_t *cells;               /* [n_rows, MOST_COLUMNS] */
    int n_rows, n_columns, width; /* of a column, blank included */
    size_t prefix;                /* bytes that all columns begin with, "first:" */
} grid_layout;

/* The index of the condition's column, or -1 where there are too many. */
static int column_of(grid_layout *grid, const char *words) {
    char label[LABEL];
    if (lp_printable(words, strlen(words), LP_PRINT_LINE, label, sizeof label) >= sizeof label) return -1;
    for (int i = 0; i < grid->n_columns; i++)
        if (strcmp(grid->columns[i], label) == 0) return i;
    if (grid->n_columns == MOST_COLUMNS) return -1;
    memcpy(grid->columns[grid->n_columns], label, sizeof label);
    return grid->n_columns++;
}

static int row_of(grid_layout *grid, const char *layers) {
    for (int i = grid->n_rows - 1; i >= 0; i--)
        if (strcmp(grid->rows[i], layers) == 0) return i;
    if (grid->n_rows == MOST_ROWS) return -1;
    grid->rows[grid->n_rows] = layers;
    return grid->n_rows++;
}

/* *fits: false where the block is not a grid of that width. */
static lp_status lay_out(const lp_outcome_block *block, int width, grid_layout *grid, bool *fits, lp_error *err) {
    lp_text words = {0};
    lp_status status = LP_OK;
    *fits = false;
    *grid = (grid_layout){.block = block, .width = 7};
    LP_TRY(lp_mem_new(&grid->cells, (size_t)MOST_ROWS * MOST_COLUMNS, sizeof *grid->cells, "table", err));
    for (size_t i = 0; i < (size_t)MOST_ROWS * MOST_COLUMNS; i++) grid->cells[i] = -1;
    for (int32_t i = 0; i < block->n; i++) {
        const lp_result_condition *condition = lp_outcome_member(block, i);
        LP_TRY(lp_outcome_words(condition, &words, err));
        int row = row_of(grid, condition->layers), column = column_of(grid, lp_text_get(&words));
        if (row < 0 || column < 0 || grid->cells[row * MOST_COLUMNS + column] >= 0) goto out;
        grid->cells[row * MOST_COLUMNS + column] = i;
    }
    const char *colon = strchr(grid->columns[0], ':');
    grid->prefix = colon ? (size_t)(colon - grid->columns[0]) + 1 : 0;
    for (int i = 0; i < grid->n_columns; i++)
        if (strncmp(grid->columns[i], grid->columns[0], grid->prefix) != 0) grid->prefix = 0;
    for (int i = 0; i < grid->n_columns; i++) {
        int length = (int)(strlen(grid->columns[i]) - grid->prefix) + 2;
        if (length > grid->width) grid->width = length;
    }
    *fits = 2 + LAYER_WIDTH + grid->n_columns * grid->width <= width;
out:
    lp_text_release(&words);
    return status;
}

static lp_status add_cell(const grid_layout *grid, const grid_measure *measure, int32_t member, bool shade,
                          lp_text *out, lp_error *err) {
    if (member < 0) return lp_text_format(out, err, "%*s", grid->width, "");
    const int64_t *counts = lp_outcome_counts(grid->block, member);
    int64_t total = lp_outcome_total(counts);
    const char *mark = " ";
    if (total > 0 && measure->overtaken >= 0 && counts[measure->outcome] > counts[measure->overtaken]) mark = "*";
    if (lp_outcome_member(grid->block, member)->dead) mark = "=";
    if (total == 0) return lp_text_format(out, err, "%*s ", grid->width - 1, "-");
    double share = 100.0 * (double)counts[measure->outcome] / (double)total;
    if (!shade) return lp_text_format(out, err, "%*.1f%s", grid->width - 1, share, mark);
    /* Grey of xterm's 256 colours, from black to white, and a text that stands out. */
    int grey = 232 + (int)(share * 23 / 100 + 0.5);
    return lp_text_format(out, err, "\x1b[48;5;%dm\x1b[38;5;%dm%*.1f%s\x1b[0m", grey, share < 50 ? 255 : 232,
                          grid->width - 1, share, mark);
}

static lp_status add_grid(const grid_layout *grid, bool shade, lp_text *out, lp_error *err) {
    grid_measure measure = measure_of(lp_outcome_member(grid->block, 0));
    int64_t least = INT64_MAX, most = 0;
    bool dead = false;
    LP_CHECK(lp_outcome_heading(grid->block, "", out, err));
    for (int32_t i = 0; i < grid->block->n; i++) {
        int64_t n = lp_outcome_total(lp_outcome_counts(grid->block, i));
        if (n < least) least = n;
        if (n > most) most = n;
        dead |= lp_outcome_member(grid->block, i)->dead;
    }
    LP_CHECK(lp_text_format(out, err, "  %s%s", measure.what, dead ? "; = nothing reads it" : ""));
    LP_CHECK(least == most ? lp_text_format(out, err, "; n %lld\n", (long long)most)
                           : lp_text_format(out, err, "; n %lld to %lld\n", (long long)least, (long long)most));
    LP_CHECK(lp_text_format(out, err, "  %*s", LAYER_WIDTH, "layer"));
    for (int i = 0; i < grid->n_columns; i++) {
        /* The last digit of a number stands under the last letter. */
        const char *label = grid->columns[i] + grid->prefix;
        LP_CHECK(lp_text_format(out, err, "%*s ", grid->width - 1, label));
    }
    if (grid->prefix > 0) LP_CHECK(lp_text_format(out, err, " %.*s steps", (int)grid->prefix - 1, grid->columns[0]));
    LP_CHECK(lp_text_add(out, "\n", 1, err));
    for (int r = 0; r < grid->n_rows; r++) {
        char layers[LABEL];
        const char *text = grid->rows[r][0] ? grid->rows[r] : "-";
        (void)lp_printable(text, strlen(text), LP_PRINT_LINE, layers, sizeof layers);
        LP_CHECK(lp_text_format(out, err, "  %*s", LAYER_WIDTH, layers));
        for (int i = 0; i < grid->n_columns; i++)
            LP_CHECK(add_cell(grid, &measure, grid->cells[r * MOST_COLUMNS + i], shade, out, err));
        while (out->data[out->length - 1] == ' ') out->data[--out->length] = '\0';
        LP_CHECK(lp_text_add(out, "\n", 1, err));
    }
    return LP_OK;
}

/* ---- Blocks that are not grids: one line a layer ------------------------------------------------------------------
 */

typedef struct {
    double share; /* in per cent */
    int32_t member;
} ranked;

static int compare_ranked(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->share != y->share) return x->share < y->share ? -1 : 1;
    return (x->member > y->member) - (x->member < y->member);
}

static bool same_layers(const lp_outcome_block *block, int32_t i, int32_t k) {
    return strcmp(lp_outcome_member(block, i)->layers, lp_outcome_member(block, k)->layers) == 0;
}

/* Lowest, median and highest share over the members [first, end) that are not dead, and where the highest is. */
static lp_status add_spread(const lp_outcome_block *block, int32_t first, int32_t end, int outcome, ranked *order,
                            lp_text *words, lp_text *out, lp_error *err) {
    size_t n = 0, n_live = 0;
    for (int32_t i = first; i < end; i++) {
        const int64_t *counts = lp_outcome_counts(block, i);
        int64_t total = lp_outcome_total(counts);
        if (lp_outcome_member(block, i)->dead) continue;
        n_live++;
        if (total > 0) order[n++] = (ranked){.share = 100.0 * (double)counts[outcome] / (double)total, .member = i};
    }
    if (n == 0) return lp_text_format(out, err, "  %20s\n", n_live > 0 ? "-" : "all dead");
    qsort(order, n, sizeof *order, compare_ranked);
    LP_CHECK(lp_text_format(out, err, "  %6.1f %6.1f %7.1f", order[0].share,
                            (order[(n - 1) / 2].share + order[n / 2].share) / 2, order[n - 1].share));
    if (order[0].share < order[n - 1].share) {
        LP_CHECK(lp_outcome_words(lp_outcome_member(block, order[n - 1].member), words, err));
        LP_CHECK(lp_text_format(out, err, "  "));
        LP_CHECK(lp_text_add_printable(out, lp_text_get(words), LP_PRINT_LINE, err));
    }
    return lp_text_add(out, "\n", 1, err);
}

static lp_status add_spreads(const lp_outcome_block *block, lp_text *words, lp_text *out, lp_error *err) {
    grid_measure measure = measure_of(lp_outcome_member(block, 0));
    ranked *order = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&order, (size_t)block->n, sizeof *order, "table", err));
    LP_TRY(lp_outcome_heading(block, "", out, err));
    LP_TRY(lp_text_format(out, err, "  %.*s\n", (int)strcspn(measure.what, ";"), measure.what));
    LP_TRY(lp_text_format(out, err, "  %*s %5s  %6s %6s %7s  highest at\n", LAYER_WIDTH, "layer", "cells", "lowest",
                          "median", "highest"));
    for (int32_t first = 0, end; first < block->n; first = end) {
        for (end = first; end < block->n && same_layers(block, first, end);) end++;
        const char *layers = lp_outcome_member(block, first)->layers;
        char shown[LABEL];
        (void)lp_printable(layers, strlen(layers), LP_PRINT_LINE, shown, sizeof shown);
        LP_TRY(lp_text_format(out, err, "  %*s %5d", LAYER_WIDTH, shown[0] ? shown : "-", end - first));
        LP_TRY(add_spread(block, first, end, measure.outcome, order, words, out, err));
    }
out:
    lp_mem_free(order);
    return status;
}

/* ---- Controls, each in one line ------------------------------------------------------------------------------------
 */

/* A control that may change something: how often the answer of the run that the direction takes values from came out.
 */
static lp_status add_control(const lp_outcome_block *block, lp_text *words, lp_text *out, lp_error *err) {
    const lp_result_condition *condition = lp_outcome_member(block, 0);
    bool denoise = strcmp(condition->direction, "denoise") == 0;
    int outcome = denoise ? CLEAN : CORRUPTED;
    double highest = -1;
    int32_t at = 0;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < block->n; i++) {
        const int64_t *counts = lp_outcome_counts(block, i);
        int64_t total = lp_outcome_total(counts);
        double share = total > 0 ? 100.0 * (double)counts[outcome] / (double)total : -1;
        if (share <= highest) continue;
        highest = share;
        at = i;
    }
    LP_TRY(lp_text_add(out, "\n", 1, err));
    LP_TRY(lp_text_add_printable(out, condition->donor, LP_PRINT_LINE, err));
    LP_TRY(lp_text_format(out, err, " (%s, ", denoise ? "denoise" : "noise"));
    LP_TRY(lp_text_add_printable(out, condition->site, LP_PRINT_LINE, err));
    LP_TRY(lp_text_format(out, err, "): %d condition%s, ", block->n, block->n == 1 ? "" : "s"));
    if (highest < 0) LP_TRY(lp_text_format(out, err, "not run"));
    LP_TRY(lp_text_format(out, err, "at most %.1f %% %s answers", highest, denoise ? "clean" : "corrupted"));
    if (highest > 0) {
        LP_TRY(lp_outcome_words(lp_outcome_member(block, at), words, err));
        LP_TRY(lp_text_format(out, err, " ("));
        if (lp_outcome_member(block, at)->layers[0]) {
            LP_TRY(lp_text_format(out, err, "layer "));
            LP_TRY(lp_text_add_printable(out, lp_outcome_member(block, at)->layers, LP_PRINT_LINE, err));
            LP_TRY(lp_text_format(out, err, ", "));
        }
        LP_TRY(lp_text_add_printable(out, lp_text_get(words), LP_PRINT_LINE, err));
        LP_TRY(lp_text_add(out, ")", 1, err));
    }
out:
    return status;
}

/* What was run, and the unpatched runs, in two or three lines. */
static lp_status add_origin(lp_results *results, lp_text *out, lp_error *err) {
    static const char *const keys[] = {"model", "protocol", "dtype", "filter"};
    lp_text value = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        lp_text_clear(&value);
        LP_TRY(lp_results_provenance(results, keys[i], &value, err));
        LP_TRY(lp_text_format(out, err, "%s%s", i ? ", " : "", i == 1 || i == 3 ? keys[i] : ""));
        if (i == 1 || i == 3) LP_TRY(lp_text_add(out, " ", 1, err));
        LP_TRY(lp_text_add_printable(out, lp_text_get(&value), LP_PRINT_LINE, err));
    }
    LP_TRY(lp_text_format(out, err, "\n%lld of %lld pairs included, %d conditions\n",
                          (long long)lp_results_n_included(results), (long long)lp_results_n_pairs(results),
                          lp_results_n_conditions(results)));
    for (int32_t i = 0; i < lp_results_n_conditions(results); i++) {
        const lp_result_condition *condition = lp_results_condition(results, i);
        const int64_t *counts = lp_results_counts(results) + (size_t)i * LP_N_OUTCOMES;
        int64_t total = lp_outcome_total(counts);
        if (strcmp(condition->role, "unpatched") != 0 || total == 0) continue;
        LP_TRY(lp_text_format(
            out, err, "unpatched %s run:", strcmp(condition->direction, "denoise") == 0 ? "corrupted" : "clean"));
        for (int k = 0; k < LP_N_OUTCOMES; k++)
            LP_TRY(lp_text_format(out, err, "%s %.1f %% %s", k ? "," : "", 100.0 * (double)counts[k] / (double)total,
                                  lp_outcome_short_names[k]));
        LP_TRY(lp_text_add(out, "\n", 1, err));
    }
out:
    lp_text_release(&value);
    return status;
}

lp_status lp_outcome_grid(lp_results *results, const lp_grid_options *options, lp_text *out, lp_error *err) {
    lp_outcome_block *blocks = NULL;
    size_t n = 0;
    grid_layout *grid = NULL;
    lp_text words = {0};
    lp_status status = LP_OK;
    LP_TRY(add_origin(results, out, err));
    LP_TRY(lp_outcome_blocks(results, &blocks, &n, err));
    LP_TRY(lp_mem_new(&grid, 1, sizeof *grid, "table", err));
    bool tested = lp_results_n_included(results) > 0; /* else there is nothing but dashes to show */
    for (size_t i = 0; i < n && tested; i++) {
        bool fits = false;
        if (strcmp(lp_outcome_member(&blocks[i], 0)->role, "control") == 0) continue;
        lp_mem_free(grid->cells);
        LP_TRY(lay_out(&blocks[i], options->width, grid, &fits, err));
        LP_TRY(fits ? add_grid(grid, options->shade, out, err) : add_spreads(&blocks[i], &words, out, err));
    }
    size_t n_controls = 0;
    for (size_t i = 0; i < n && tested; i++) {
        const lp_result_condition *condition = lp_outcome_member(&blocks[i], 0);
        if (strcmp(condition->role, "control") != 0 || strcmp(condition->donor, "self") == 0) continue;
        LP_TRY(add_control(&blocks[i], &words, out, err));
        n_controls++;
    }
    if (n_controls > 0) LP_TRY(lp_text_add(out, "\n", 1, err));
    LP_TRY(lp_outcome_conclusion(results, out, err));
out:
    if (grid) lp_mem_free(grid->cells);
    lp_mem_free(grid);
    lp_outcome_blocks_free(blocks, n);
    lp_text_release(&words);
    return status;
}
