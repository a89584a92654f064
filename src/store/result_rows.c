#include "store/result_rows.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

static const lp_row_column columns[LP_N_ROW_COLUMNS] = {
    [LP_ROW_OUTCOME] = {.name = "class",
                        .published = "class",
                        .csv = "class",
                        .description = "class of the answer; 255: not run",
                        .type = LP_U8,
                        .not_run = LP_OUTCOME_NOT_RUN},
    [LP_ROW_NUMBER] = {.name = "number",
                       .published = "number",
                       .csv = "number",
                       .description = "number found in the answer",
                       .type = LP_F64,
                       .not_run = (double)NAN},
    [LP_ROW_ANSWER_LEN] = {.name = "answer_len", .published = "", .csv = "", .type = LP_I32},
    [LP_ROW_ANSWER_TOKENS] = {.name = "answer_tokens",
                              .published = "answer",
                              .csv = "text",
                              .description = "index into /answers; -1: not run",
                              .type = LP_I32,
                              .per_token = true,
                              .not_run = -1},
    [LP_ROW_CHANGED] = {.name = "changed",
                        .published = "changed",
                        .csv = "changed",
                        .description = "1: tokens differ from the unpatched recipient's",
                        .type = LP_U8},
};
static const lp_row_column metric = {.type = LP_F32, .not_run = (double)NAN};

const lp_row_column *lp_row_column_at(size_t index) {
    LP_ASSERT(index < LP_MAX_ROW_COLUMNS);
    return index < LP_N_ROW_COLUMNS ? &columns[index] : &metric;
}

void lp_row_column_fill(const lp_row_column *column, void *out, size_t n) {
    for (size_t i = 0; i < n; i++) switch (column->type) {
        case LP_U8: ((uint8_t *)out)[i] = (uint8_t)column->not_run; break;
        case LP_I32: ((int32_t *)out)[i] = (int32_t)column->not_run; break;
        case LP_F32: ((float *)out)[i] = (float)column->not_run; break;
        case LP_F64: ((double *)out)[i] = column->not_run; break;
        default: LP_ASSERT(false);
        }
}

/* Values of one row. */
static size_t width_of(const lp_result_rows *rows, size_t index) {
    return lp_row_column_at(index)->per_token ? rows->max_new_tokens : 1;
}

static size_t bytes_of(const lp_result_rows *rows, size_t index) {
    return width_of(rows, index) * lp_h5_item_bytes(lp_row_column_at(index)->type, 0);
}

lp_status lp_result_rows_init(lp_result_rows *rows, size_t capacity, size_t n_conditions, size_t max_new_tokens,
                              size_t n_metrics, lp_error *err) {
    size_t row = 0;
    lp_status status = LP_OK;
    *rows = (lp_result_rows){.max_new_tokens = max_new_tokens, .n_columns = LP_N_ROW_COLUMNS + n_metrics};
    LP_ASSERT(n_metrics <= LP_MAX_METRICS && n_conditions > 0);
    for (size_t k = 0; k < rows->n_columns; k++) row += bytes_of(rows, k);
    if (capacity == 0) capacity = LP_ROWS_BYTES / row < n_conditions ? LP_ROWS_BYTES / row + 1 : n_conditions;
    rows->capacity = capacity;
    for (size_t k = 0; k < rows->n_columns; k++)
        LP_TRY(lp_mem_new(&rows->column[k], capacity, bytes_of(rows, k), "rows", err));
    LP_TRY(lp_mem_new(&rows->condition, capacity, sizeof *rows->condition, "rows", err));
    LP_TRY(lp_mem_new(&rows->sorted, 2 * capacity, sizeof *rows->sorted, "rows", err));
    LP_TRY(lp_mem_new(&rows->ordered, capacity, max_new_tokens * sizeof(int32_t) + sizeof(double), "rows", err));
out:
    if (status != LP_OK) lp_result_rows_release(rows);
    return status;
}

void lp_result_rows_release(lp_result_rows *rows) {
    for (size_t k = 0; k < rows->n_columns; k++) lp_mem_free(rows->column[k]);
    lp_mem_free(rows->condition);
    lp_mem_free(rows->sorted);
    lp_mem_free(rows->ordered);
    *rows = (lp_result_rows){0};
}

size_t lp_result_rows_add(lp_result_rows *rows, int32_t condition) {
    size_t at = rows->n++;
    LP_ASSERT(at < rows->capacity);
    rows->condition[at] = condition;
    for (size_t k = 0; k < rows->n_columns; k++)
        lp_row_column_fill(lp_row_column_at(k), (char *)rows->column[k] + at * bytes_of(rows, k), width_of(rows, k));
    return at;
}

static int compare_conditions(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void lp_result_rows_sort(lp_result_rows *rows) {
    for (size_t i = 0; i < rows->n; i++) {
        rows->sorted[2 * i] = rows->condition[i];
        rows->sorted[2 * i + 1] = (int32_t)i;
    }
    if (rows->n > 1) qsort(rows->sorted, rows->n, 2 * sizeof *rows->sorted, compare_conditions);
}

const void *lp_result_rows_ordered(lp_result_rows *rows, size_t index) {
    size_t bytes = bytes_of(rows, index);
    for (size_t i = 0; i < rows->n; i++) {
        size_t from = (size_t)rows->sorted[2 * i + 1];
        memcpy((char *)rows->ordered + i * bytes, (char *)rows->column[index] + from * bytes, bytes);
    }
    return rows->ordered;
}
