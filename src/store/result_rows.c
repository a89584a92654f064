#include "store/result_rows.h"

#include "base/memory.h"

#include <math.h>

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

lp_status lp_result_rows_init(lp_result_rows *rows, size_t n_conditions, size_t max_new_tokens, size_t n_metrics,
                              lp_error *err) {
    lp_status status = LP_OK;
    *rows = (lp_result_rows){
        .n_conditions = n_conditions, .max_new_tokens = max_new_tokens, .n_columns = LP_N_ROW_COLUMNS + n_metrics};
    LP_ASSERT(n_metrics <= LP_MAX_METRICS);
    for (size_t k = 0; k < rows->n_columns; k++)
        LP_TRY(lp_mem_new(&rows->column[k], n_conditions * width_of(rows, k),
                          lp_h5_item_bytes(lp_row_column_at(k)->type, 0), "rows", err));
out:
    if (status != LP_OK) lp_result_rows_release(rows);
    return status;
}

void lp_result_rows_release(lp_result_rows *rows) {
    for (size_t k = 0; k < rows->n_columns; k++) lp_mem_free(rows->column[k]);
    *rows = (lp_result_rows){0};
}

void lp_result_rows_clear(lp_result_rows *rows) {
    for (size_t k = 0; k < rows->n_columns; k++)
        lp_row_column_fill(lp_row_column_at(k), rows->column[k], rows->n_conditions * width_of(rows, k));
}

void lp_result_rows_copy(lp_result_rows *rows, size_t from, size_t to) {
    for (size_t k = 0; k < rows->n_columns; k++) {
        size_t bytes = width_of(rows, k) * lp_h5_item_bytes(lp_row_column_at(k)->type, 0);
        memcpy((char *)rows->column[k] + to * bytes, (char *)rows->column[k] + from * bytes, bytes);
    }
}
