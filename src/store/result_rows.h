/* The rows that a sweep makes of one pair: one value of every column for every condition.
 *
 * One table of the columns drives all that is done with them: the memory of a pair's rows, the partial file, the
 * results file, the CSV, and what a row holds that was not run. A metric is a column as well; its name is the sweep's.
 */
#ifndef LP_STORE_RESULT_ROWS_H
#define LP_STORE_RESULT_ROWS_H

#include "store/h5.h"

enum { LP_OUTCOME_NOT_RUN = 255, LP_MAX_METRICS = 208 };

/* Column numbers; that of metric m is LP_N_ROW_COLUMNS + m. They are the field numbers of the partial file, too. */
enum {
    LP_ROW_OUTCOME,
    LP_ROW_NUMBER,
    LP_ROW_ANSWER_LEN,
    LP_ROW_ANSWER_TOKENS,
    LP_ROW_CHANGED,
    LP_N_ROW_COLUMNS,
    LP_MAX_ROW_COLUMNS = LP_N_ROW_COLUMNS + LP_MAX_METRICS
};

typedef struct {
    const char *name;        /* dataset below `rows` of the partial file; NULL: the metric's name, here as below */
    const char *published;   /* dataset below `rows` of the results file; "": only the partial file has the column */
    const char *csv;         /* heading in the CSV; "": not there */
    const char *description; /* attribute of the published dataset; NULL: none */
    lp_dtype type;
    bool per_token; /* [C, max_new_tokens]; published as the number of the answer in `/answers` */
    double not_run; /* what a row holds that was not run */
} lp_row_column;

/* Column `index`, a metric's included. */
const lp_row_column *lp_row_column_at(size_t index);
/* out[n] = not_run, in the column's type. */
void lp_row_column_fill(const lp_row_column *column, void *out, size_t n);

/* Rows that are final and not written yet, in the order in which they came. */
typedef struct {
    size_t capacity, max_new_tokens;
    size_t n_columns;                 /* LP_N_ROW_COLUMNS + the metrics */
    size_t n;                         /* rows in use */
    int32_t *condition;               /* [n] whose they are */
    void *column[LP_MAX_ROW_COLUMNS]; /* each [n], or [n, max_new_tokens], of its type; owned */
    int32_t *sorted;                  /* [n, 2] conditions in order, each with the place of its row */
    void *ordered;                    /* room for one column in that order */
} lp_result_rows;

/* Room for `capacity` rows; 0: as many as LP_ROWS_BYTES take, but no more than `n_conditions`. */
enum { LP_ROWS_BYTES = 1 << 20 };
lp_status lp_result_rows_init(lp_result_rows *rows, size_t capacity, size_t n_conditions, size_t max_new_tokens,
                              size_t n_metrics, lp_error *err);
void lp_result_rows_release(lp_result_rows *rows);
/* Adds a row that was not run, of a condition that has none yet, and returns its place. There is room for it. */
size_t lp_result_rows_add(lp_result_rows *rows, int32_t condition);
/* Puts the conditions in order, for lp_result_rows_ordered: column `index` in that order, valid until the next call. */
void lp_result_rows_sort(lp_result_rows *rows);
const void *lp_result_rows_ordered(lp_result_rows *rows, size_t index);
static inline int32_t lp_result_rows_condition(const lp_result_rows *rows, size_t i) {
    return rows->sorted[2 * i];
}

#endif
