/* The columns of the condition table, once for all that write or read them: `/conditions` of a results file, the CSV
 * and the summary. What they mean is in schemas/results-layout.md. */
#ifndef LP_STORE_RESULTS_COLUMNS_H
#define LP_STORE_RESULTS_COLUMNS_H

#include "store/results.h"

/* One member of lp_result_condition. */
typedef struct {
    const char *name; /* in `/conditions` and in the summary */
    lp_dtype type;
    size_t offset;
    const char *csv;         /* heading of the CSV column; NULL: not in the CSV */
    const char *description; /* attribute of the dataset; NULL: none */
    bool is_optional;        /* files of earlier versions lack it: 0 there */
} lp_result_column;

enum { LP_N_RESULT_COLUMNS = 25 };
extern const lp_result_column lp_result_columns[LP_N_RESULT_COLUMNS];

/* A member as a text (LP_TEXT), or as a number in the fewest digits that read back the same. */
lp_status lp_result_column_words(const lp_result_column *column, const lp_result_condition *condition, lp_text *out,
                                 lp_error *err);
/* Makes all datasets of `/conditions`. */
lp_status lp_result_columns_write(hid_t file, const lp_result_condition *conditions, int32_t n, const char *file_name,
                                  lp_error *err);
/* *out += `value` in the fewest digits that read back as the same double, or float where `single`; nothing for NaN. */
lp_status lp_text_add_number(double value, bool single, lp_text *out, lp_error *err);

#endif
