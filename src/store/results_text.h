/* The two text forms of the results: the CSV in long format, and the summary as JSON. For results.c. */
#ifndef LP_STORE_RESULTS_TEXT_H
#define LP_STORE_RESULTS_TEXT_H

#include "base/output.h"
#include "store/results.h"

/* A text file under a temporary name; nothing appears under `path` before lp_csv_commit. */
typedef struct {
    const char *path;
    lp_output output;
    FILE *stream;
    char **conditions; /* [n_conditions] the fields that all rows of a condition have in common */
    int32_t n_conditions;
} lp_csv;

lp_status lp_csv_begin(lp_csv *csv, const char *path, const lp_results_plan *plan, lp_error *err);
/* The rows of one included pair: columns [n_columns] as published, each [C]. */
lp_status lp_csv_pair(lp_csv *csv, const lp_results_plan *plan, int64_t pair, const void *const *columns,
                      const lp_answers *answers, lp_error *err);
/* Flushes to the disk and closes; the file keeps its temporary name. */
lp_status lp_csv_finish(lp_csv *csv, lp_error *err);
lp_status lp_csv_commit(lp_csv *csv, lp_error *err);
/* Removes what was not committed. */
void lp_csv_release(lp_csv *csv);

/* Sums over the included pairs, in the order of the pair file. */
typedef struct {
    int64_t *changed;   /* [C] rows whose tokens differ from the unpatched recipient's */
    double *metric_sum; /* [n_metrics, C] */
    int64_t *metric_n;  /* [n_metrics, C] rows where the metric is defined */
    /* [C] of the logit difference: the condition's, the unpatched corrupted and the unpatched clean run's, over the
     * pairs where all three are defined; else the recovery would compare different pairs. */
    double (*recovery)[3];
} lp_result_sums;

/* Adds one pair to `recovery`, with its logit differences [C]; nothing in a sweep of one direction. */
void lp_recovery_add(const lp_results_plan *plan, const float *logit_diff, lp_result_sums *sums);

/* True where `path` is a summary of results with the same identity as these items [n]. */
bool lp_summary_is_of(const char *path, const lp_provenance_item *items, size_t n);
/* Writes the summary as JSON, schemas/summary.schema.json, condition by condition. path: for messages. */
lp_status lp_summary_write(const lp_results_plan *plan, const int64_t *counts, const lp_result_sums *sums, FILE *stream,
                           const char *path, lp_error *err);
/* Begins the output of that name; *stream, which the caller closes, writes to it. */
lp_status lp_text_output_begin(const char *path, lp_output *output, FILE **stream, lp_error *err);

#endif
