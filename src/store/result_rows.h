/* The rows that a sweep makes of one pair: one value of every column for every condition.
 *
 * One table of the columns drives all that is done with them: the memory of a pair's rows, the partial file, the
 * results file, the CSV, and what a row holds that was not run. A metric is a column as well; its name is the sweep's.
 */
#ifndef LP_STORE_RESULT_ROWS_H
#define LP_STORE_RESULT_ROWS_H

#include "store/h5.h"

enum { LP_OUTCOME_NOT_RUN = 255, LP_MAX_METRICS = 16 };

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

typedef struct {
    size_t n_conditions, max_new_tokens;
    size_t n_columns;                 /* LP_N_ROW_COLUMNS + the metrics */
    void *column[LP_MAX_ROW_COLUMNS]; /* each [C], or [C, max_new_tokens], of its type; owned */
    const int32_t *lens_tokens;       /* [2, positions, layers, top] by side: clean, corrupted; NULL without a lens */
    const float *lens_log_probability;
} lp_result_rows;

lp_status lp_result_rows_init(lp_result_rows *rows, size_t n_conditions, size_t max_new_tokens, size_t n_metrics,
                              lp_error *err);
void lp_result_rows_release(lp_result_rows *rows);
/* No row was run. */
void lp_result_rows_clear(lp_result_rows *rows);
/* Row `to` becomes what row `from` is. */
void lp_result_rows_copy(lp_result_rows *rows, size_t from, size_t to);

#endif
