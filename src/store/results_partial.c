/* The partial file: the rows of a sweep that runs, or was killed. */
#include "base/file.h"
#include "base/memory.h"
#include "store/record_file_internal.h"
#include "store/results.h"

/* Its fields are the columns of the rows, in their order, and then the two of the lens. */
enum { N_LENS_FIELDS = 2, MAX_FIELDS = LP_MAX_ROW_COLUMNS + N_LENS_FIELDS, MAX_PATH = 96 };
static const char *const lens_paths[N_LENS_FIELDS] = {"readout/logit_lens/token", "readout/logit_lens/log_probability"};

lp_status lp_results_partial_path(const char *results, lp_text *out, lp_error *err) {
    char *resolved = NULL;
    lp_status status = lp_path_resolve(results, &resolved, err);
    if (status == LP_OK) status = lp_text_format(out, err, "%s.partial", resolved);
    lp_mem_free(resolved);
    return status;
}

typedef struct {
    lp_field fields[MAX_FIELDS];
    size_t n;
    char paths[LP_MAX_ROW_COLUMNS][MAX_PATH];
} partial_fields;

static lp_status describe(const lp_results_plan *plan, partial_fields *out, lp_error *err) {
    if (plan->n_metrics > LP_MAX_METRICS)
        return lp_fail(err, LP_ERR_VALUE, "metrics: at most %d, found %zu", LP_MAX_METRICS, plan->n_metrics);
    *out = (partial_fields){0};
    for (; out->n < LP_N_ROW_COLUMNS + plan->n_metrics; out->n++) {
        const lp_row_column *column = lp_row_column_at(out->n);
        snprintf(out->paths[out->n], MAX_PATH, "rows/%s",
                 column->name ? column->name : plan->metrics[out->n - LP_N_ROW_COLUMNS]);
        out->fields[out->n] = (lp_field){.path = out->paths[out->n],
                                         .type = column->type,
                                         .n_dims = column->per_token ? 2 : 1,
                                         .dims = {plan->n_conditions, column->per_token ? plan->max_new_tokens : 0}};
    }
    for (int i = 0; plan->lens.top > 0 && i < N_LENS_FIELDS; i++)
        out->fields[out->n++] = (lp_field){.path = lens_paths[i],
                                           .type = i == 0 ? LP_I32 : LP_F32,
                                           .n_dims = 4,
                                           .dims = {2, plan->lens.n_positions, plan->lens.n_layers, plan->lens.top}};
    return LP_OK;
}

lp_status lp_results_partial_open(const lp_parallel *parallel, const char *results, const lp_results_plan *plan,
                                  lp_record_file **out, bool *created, lp_error *err) {
    lp_status status = LP_OK;
    lp_text path = {0};
    partial_fields described;
    const char **names = NULL;
    lp_table tables[2];
    LP_TRY(lp_results_partial_path(results, &path, err));
    LP_TRY(describe(plan, &described, err));
    LP_TRY(lp_mem_new(&names, (size_t)plan->n_conditions, sizeof *names, "condition names", err));
    for (int32_t i = 0; i < plan->n_conditions; i++) names[i] = plan->conditions[i].name;
    tables[0] =
        (lp_table){.path = "pairs/id", .type = LP_TEXT, .n_dims = 1, .dims = {plan->n_pairs}, .data = plan->pair_id};
    tables[1] = (lp_table){
        .path = "conditions/name", .type = LP_TEXT, .n_dims = 1, .dims = {plan->n_conditions}, .data = names};
    const lp_record_file_spec spec = {.format = "latentpatch-results-partial",
                                      .version = 2,
                                      .n_pairs = plan->n_pairs,
                                      .fields = described.fields,
                                      .n_fields = described.n,
                                      .tables = tables,
                                      .n_tables = 2,
                                      .provenance = plan->provenance,
                                      .n_provenance = plan->n_provenance,
                                      .advice = "name another results.file, or remove it to begin anew"};
    status = lp_record_file_open(parallel, path.data, &spec, out, created, err);
out:
    lp_mem_free(names);
    lp_text_release(&path);
    return status;
}

bool lp_results_partial_lens(const lp_record_file *partial, size_t *field) {
    return lp_record_file_find(partial, lens_paths[0], field);
}

lp_status lp_results_partial_put(lp_record_file *partial, int64_t pair, lp_result_rows *rows, lp_error *err) {
    lp_result_rows_sort(rows);
    for (size_t k = 0; k < rows->n_columns; k++) {
        const char *ordered = lp_result_rows_ordered(rows, k);
        size_t bytes = lp_record_file_field_bytes(partial, k) / (size_t)partial->fields[k].field.dims[0];
        for (size_t i = 0, end = 0; i < rows->n; i = end) {
            int32_t first = lp_result_rows_condition(rows, i);
            for (end = i + 1; end < rows->n && lp_result_rows_condition(rows, end) == first + (int32_t)(end - i);)
                end++;
            LP_CHECK(lp_record_file_write_part(partial, pair, k, first, (int64_t)(end - i), ordered + i * bytes, err));
        }
    }
    rows->n = 0;
    return LP_OK;
}

lp_status lp_results_partial_end(lp_record_file *partial, int64_t pair, const int32_t *lens_tokens,
                                 const float *lens_log_probability, lp_error *err) {
    size_t lens = 0;
    if (lp_results_partial_lens(partial, &lens)) {
        LP_CHECK(lp_record_file_write_part(partial, pair, lens, 0, 2, lens_tokens, err));
        LP_CHECK(lp_record_file_write_part(partial, pair, lens + 1, 0, 2, lens_log_probability, err));
    }
    return lp_record_file_end_pair(partial, pair, err);
}

lp_status lp_results_partial_count(lp_record_file *partial, int64_t *counts, lp_error *err) {
    lp_status status = LP_OK;
    uint8_t *outcomes = NULL;
    size_t n_conditions = lp_record_file_field_bytes(partial, LP_ROW_OUTCOME);
    int64_t rank = partial->parallel ? lp_parallel_rank(partial->parallel) : 0;
    int64_t size = partial->parallel ? lp_parallel_size(partial->parallel) : 1;
    LP_TRY(lp_mem_new(&outcomes, n_conditions, 1, "outcomes", err));
    for (int64_t i = rank; i < partial->n_pairs; i += size) {
        if (partial->state[i] != 1) continue;
        LP_TRY(lp_record_file_read(partial, i, LP_ROW_OUTCOME, outcomes, err));
        for (size_t c = 0; c < n_conditions; c++)
            if (outcomes[c] < LP_N_OUTCOMES) counts[c * LP_N_OUTCOMES + outcomes[c]]++;
    }
out:
    lp_mem_free(outcomes);
    return status;
}
