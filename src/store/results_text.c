#include "store/results_text.h"

#include "base/json.h"
#include "base/memory.h"
#include "store/results_columns.h"
#include "store/wilson.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <unistd.h>

/* Columns of the rows in the order of the CSV; the metrics follow. */
enum { N_IN_CSV = 4 };
static const size_t in_csv[N_IN_CSV] = {LP_ROW_OUTCOME, LP_ROW_NUMBER, LP_ROW_CHANGED, LP_ROW_ANSWER_TOKENS};

static lp_status write_line(lp_csv *csv, const lp_text *line, lp_error *err) {
    if (fwrite(line->data, 1, line->length, csv->stream) != line->length)
        return lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", csv->path, strerror(errno));
    return LP_OK;
}

/* *out = what each row of the condition has in common, with a comma in front of each field. */
static lp_status condition_fields(const lp_result_condition *condition, char **out, lp_error *err) {
    lp_text line = {0};
    lp_status status = LP_OK;
    lp_text words = {0};
    for (int k = 0; k < LP_N_RESULT_COLUMNS; k++) {
        if (!lp_result_columns[k].csv) continue;
        lp_text_clear(&words);
        LP_TRY(lp_result_column_words(&lp_result_columns[k], condition, &words, err));
        LP_TRY(lp_text_add(&line, ",", 1, err));
        LP_TRY(lp_csv_quote(lp_text_get(&words), &line, err));
    }
    *out = line.data;
    line = (lp_text){0};
out:
    lp_text_release(&line);
    lp_text_release(&words);
    return status;
}

lp_status lp_text_output_begin(const char *path, lp_output *output, FILE **stream, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_path_make_folder_for(path, err));
    LP_TRY(lp_output_begin(path, output, err));
    int fd = fcntl(output->fd, F_DUPFD_CLOEXEC, 0);
    *stream = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (*stream) return LP_OK;
    status = lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    if (fd >= 0) close(fd);
out:
    return status;
}

lp_status lp_csv_begin(lp_csv *csv, const char *path, const lp_results_plan *plan, lp_error *err) {
    lp_status status = LP_OK;
    lp_text line = {0};
    csv->path = path;
    LP_TRY(lp_text_output_begin(path, &csv->output, &csv->stream, err));
    LP_TRY(lp_text_format(&line, err, "pair,source"));
    for (int k = 0; k < LP_N_RESULT_COLUMNS; k++)
        if (lp_result_columns[k].csv) LP_TRY(lp_text_format(&line, err, ",%s", lp_result_columns[k].csv));
    for (size_t k = 0; k < N_IN_CSV; k++) LP_TRY(lp_text_format(&line, err, ",%s", lp_row_column_at(in_csv[k])->csv));
    for (size_t m = 0; m < plan->n_metrics; m++) LP_TRY(lp_text_format(&line, err, ",%s", plan->metrics[m]));
    LP_TRY(lp_text_add(&line, "\n", 1, err));
    LP_TRY(lp_mem_new(&csv->conditions, (size_t)plan->n_conditions, sizeof *csv->conditions, "CSV", err));
    csv->n_conditions = plan->n_conditions;
    for (int32_t c = 0; c < plan->n_conditions; c++)
        LP_TRY(condition_fields(&plan->conditions[c], &csv->conditions[c], err));
    status = write_line(csv, &line, err);
out:
    lp_text_release(&line);
    return status;
}

/* The value of one row, with the comma in front. */
static lp_status add_value(size_t index, const void *const *columns, size_t c, const lp_answers *answers, lp_text *line,
                           lp_error *err) {
    const void *values = columns[index];
    bool not_run = ((const uint8_t *)columns[LP_ROW_OUTCOME])[c] == LP_OUTCOME_NOT_RUN;
    LP_CHECK(lp_text_add(line, ",", 1, err));
    if (index == LP_ROW_OUTCOME)
        return lp_text_put(line, not_run ? "not_run" : lp_outcome_names[((const uint8_t *)values)[c]], err);
    if (index == LP_ROW_ANSWER_TOKENS)
        return lp_csv_quote(not_run ? "" : lp_answers_text(answers, ((const int32_t *)values)[c]), line, err);
    switch (lp_row_column_at(index)->type) {
    case LP_U8: return lp_text_put(line, ((const uint8_t *)values)[c] ? "1" : "0", err);
    case LP_F32: return lp_text_add_number((double)((const float *)values)[c], true, line, err);
    case LP_F64: return lp_text_add_number(((const double *)values)[c], false, line, err);
    default: LP_ASSERT(false); return LP_OK;
    }
}

lp_status lp_csv_pair(lp_csv *csv, const lp_results_plan *plan, int64_t pair, const void *const *columns,
                      const lp_answers *answers, lp_error *err) {
    lp_status status = LP_OK;
    lp_text line = {0};
    for (size_t c = 0; c < (size_t)plan->n_conditions; c++) {
        lp_text_clear(&line);
        LP_TRY(lp_csv_quote(plan->pair_id[pair], &line, err));
        LP_TRY(lp_text_add(&line, ",", 1, err));
        LP_TRY(lp_csv_quote(plan->pair_source[pair], &line, err));
        LP_TRY(lp_text_put(&line, csv->conditions[c], err));
        for (size_t k = 0; k < N_IN_CSV + plan->n_metrics; k++)
            LP_TRY(
                add_value(k < N_IN_CSV ? in_csv[k] : LP_N_ROW_COLUMNS + k - N_IN_CSV, columns, c, answers, &line, err));
        LP_TRY(lp_text_add(&line, "\n", 1, err));
        LP_TRY(write_line(csv, &line, err));
    }
out:
    lp_text_release(&line);
    return status;
}

lp_status lp_csv_finish(lp_csv *csv, lp_error *err) {
    int failed = fclose(csv->stream);
    csv->stream = NULL;
    return failed ? lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", csv->path, strerror(errno)) : LP_OK;
}

lp_status lp_csv_commit(lp_csv *csv, lp_error *err) {
    return lp_output_publish(&csv->output, LP_OUTPUT_NEW, err);
}

void lp_csv_release(lp_csv *csv) {
    if (csv->stream) fclose(csv->stream);
    lp_output_discard(&csv->output);
    for (int32_t c = 0; csv->conditions && c < csv->n_conditions; c++) lp_mem_free(csv->conditions[c]);
    lp_mem_free(csv->conditions);
    *csv = (lp_csv){0};
}

/* cJSON reports a lack of memory by NULL: collected in one flag. */
typedef struct {
    bool good;
} summary_builder;

static cJSON *put(summary_builder *builder, cJSON *object, const char *key, cJSON *value) {
    if (!value || !object || !cJSON_AddItemToObject(object, key, value)) {
        cJSON_Delete(value);
        builder->good = false;
        return NULL;
    }
    return value;
}

static void put_text(summary_builder *builder, cJSON *object, const char *key, const char *value) {
    put(builder, object, key, cJSON_CreateString(value));
}

static void put_number(summary_builder *builder, cJSON *object, const char *key, double value) {
    put(builder, object, key, isfinite(value) ? cJSON_CreateNumber(value) : cJSON_CreateNull());
}

static void put_classes(summary_builder *builder, cJSON *object, const int64_t *counts, int64_t n) {
    cJSON *count = put(builder, object, "counts", cJSON_CreateObject());
    cJSON *share = put(builder, object, "share", cJSON_CreateObject());
    cJSON *interval = put(builder, object, "wilson95", cJSON_CreateObject());
    for (int k = 0; k < LP_N_OUTCOMES; k++) {
        const char *name = lp_outcome_names[k];
        lp_interval bounds = lp_wilson95(counts[k], n);
        put_number(builder, count, name, (double)counts[k]);
        put_number(builder, share, name, n ? (double)counts[k] / (double)n : (double)NAN);
        put(builder, interval, name, cJSON_CreateDoubleArray((const double[]){bounds.low, bounds.high}, 2));
    }
}

static double mean_of(const lp_results_plan *plan, const lp_result_sums *sums, size_t metric, int32_t condition) {
    size_t at = metric * (size_t)plan->n_conditions + (size_t)condition;
    return sums->metric_n[at] ? sums->metric_sum[at] / (double)sums->metric_n[at] : (double)NAN;
}

/* The unpatched run of a direction's recipient: `denoise` is the corrupted run, `noise` the clean one. */
static int32_t find_unpatched(const lp_results_plan *plan, const char *direction) {
    for (int32_t c = 0; c < plan->n_conditions; c++)
        if (strcmp(plan->conditions[c].role, "unpatched") == 0 && strcmp(plan->conditions[c].direction, direction) == 0)
            return c;
    return -1;
}

void lp_recovery_add(const lp_results_plan *plan, const float *logit_diff, lp_result_sums *sums) {
    int32_t clean = find_unpatched(plan, "noise"), corrupted = find_unpatched(plan, "denoise");
    if (clean < 0 || corrupted < 0 || isnan(logit_diff[clean]) || isnan(logit_diff[corrupted])) return;
    for (int32_t c = 0; c < plan->n_conditions; c++) {
        if (isnan(logit_diff[c])) continue;
        sums->recovery[c][0] += (double)logit_diff[c];
        sums->recovery[c][1] += (double)logit_diff[corrupted];
        sums->recovery[c][2] += (double)logit_diff[clean];
    }
}

static void put_metrics(summary_builder *builder, cJSON *object, const lp_results_plan *plan,
                        const lp_result_sums *sums, int32_t condition) {
    if (plan->n_metrics == 0) return;
    bool both = find_unpatched(plan, "noise") >= 0 && find_unpatched(plan, "denoise") >= 0;
    cJSON *metrics = put(builder, object, "metrics", cJSON_CreateObject());
    for (size_t m = 0; m < plan->n_metrics; m++) {
        cJSON *metric = put(builder, metrics, plan->metrics[m], cJSON_CreateObject());
        put_number(builder, metric, "mean", mean_of(plan, sums, m, condition));
        put_number(builder, metric, "n", (double)sums->metric_n[m * (size_t)plan->n_conditions + (size_t)condition]);
        if (strcmp(plan->metrics[m], "logit_diff") != 0 || !both) continue;
        const double *of = sums->recovery[condition];
        put_number(builder, metric, "recovery", (of[0] - of[1]) / (of[2] - of[1]));
    }
}

static int64_t total_of(const int64_t *counts) {
    int64_t n = 0;
    for (int k = 0; k < LP_N_OUTCOMES; k++) n += counts[k];
    return n;
}

static void put_column(summary_builder *builder, cJSON *object, const lp_results_plan *plan,
                       const lp_result_column *column, const lp_result_condition *condition) {
    const void *at = (const char *)condition + column->offset;
    lp_text words = {0};
    lp_error ignored;
    switch (column->type) {
    case LP_TEXT: put_text(builder, object, column->name, *(const char *const *)at); break;
    case LP_U8: put(builder, object, column->name, cJSON_CreateBool(*(const bool *)at)); break;
    case LP_F32: /* as the double nearest to its shortest decimal: 0.1, not 0.10000000149 */
        builder->good &= lp_result_column_words(column, condition, &words, &ignored) == LP_OK;
        put_number(builder, object, column->name, strtod(lp_text_get(&words), NULL));
        break;
    case LP_I32:
        if (column->offset == offsetof(lp_result_condition, same_as))
            put_text(builder, object, column->name, plan->conditions[condition->same_as].name);
        else
            put_number(builder, object, column->name, (double)*(const int32_t *)at);
        break;
    default: /* the mask is for programs, which read the results file */ break;
    }
    lp_text_release(&words);
}

static cJSON *new_condition(summary_builder *builder, const lp_results_plan *plan, const int64_t *counts,
                            const lp_result_sums *sums, int32_t index) {
    const lp_result_condition *condition = &plan->conditions[index];
    cJSON *object = cJSON_CreateObject();
    builder->good &= object != NULL;
    int64_t n = total_of(counts);
    for (int k = 0; k < LP_N_RESULT_COLUMNS; k++) put_column(builder, object, plan, &lp_result_columns[k], condition);
    put_number(builder, object, "n", (double)n);
    put_number(builder, object, "n_changed", (double)sums->changed[index]);
    cJSON *not_run = put(builder, object, "not_run", cJSON_CreateObject());
    put_number(builder, not_run, "no_position", (double)condition->n_no_position);
    put_number(builder, not_run, "no_donor", (double)condition->n_no_donor);
    put_number(builder, not_run, "no_pair", (double)condition->n_no_pair);
    put_classes(builder, object, counts, n);
    put_metrics(builder, object, plan, sums, index);
    return object;
}

/* What must not change an answer, and whether it did. */
static void put_check(summary_builder *builder, cJSON *root, const char *key, const lp_results_plan *plan,
                      const int64_t *counts, const lp_result_sums *sums, bool (*picked)(const lp_result_condition *)) {
    int64_t n_conditions = 0;
    int64_t n_rows = 0;
    int64_t n_changed = 0;
    for (int32_t c = 0; c < plan->n_conditions; c++) {
        if (!picked(&plan->conditions[c])) continue;
        n_conditions++;
        n_rows += total_of(counts + (size_t)c * LP_N_OUTCOMES);
        n_changed += sums->changed[c];
    }
    cJSON *object = put(builder, root, key, cJSON_CreateObject());
    put_number(builder, object, "n_conditions", (double)n_conditions);
    put_number(builder, object, "n_rows", (double)n_rows);
    put_number(builder, object, "n_changed", (double)n_changed);
}

static bool is_identity(const lp_result_condition *condition) {
    return condition->identity;
}

static bool is_dead(const lp_result_condition *condition) {
    return condition->dead;
}

static const char *provenance_of(const lp_results_plan *plan, const char *key) {
    for (size_t i = 0; i < plan->n_provenance; i++)
        if (strcmp(plan->provenance[i].key, key) == 0) return plan->provenance[i].value;
    return "";
}

/* The unpatched runs, made again by the sweep, against those of the store. */
static void put_again(summary_builder *builder, cJSON *controls, const lp_results_plan *plan, int64_t n_included) {
    int64_t n = 0;
    for (int32_t c = 0; c < plan->n_conditions; c++) n += strcmp(plan->conditions[c].role, "unpatched") == 0;
    cJSON *object = put(builder, controls, "unpatched", cJSON_CreateObject());
    put_number(builder, object, "n_conditions", (double)n);
    put_number(builder, object, "n_rows", (double)(n * n_included));
    put_number(builder, object, "n_changed", strtod(provenance_of(plan, "control.unpatched_differ"), NULL));
}

/* Every item as the text that the results file has; the job as the JSON that it is. */
static void put_provenance(summary_builder *builder, cJSON *root, const lp_results_plan *plan) {
    cJSON *object = put(builder, root, "provenance", cJSON_CreateObject());
    for (size_t i = 0; i < plan->n_provenance; i++) {
        const lp_provenance_item *item = &plan->provenance[i];
        cJSON *job = strcmp(item->key, "job") == 0 ? cJSON_Parse(item->value) : NULL;
        put(builder, object, item->key, job ? job : cJSON_CreateString(item->value));
    }
}

static void put_unpatched(summary_builder *builder, cJSON *root, const lp_results_plan *plan) {
    int64_t clean = 0;
    int64_t corrupted = 0;
    int64_t both = 0;
    for (int64_t i = 0; i < plan->n_pairs; i++) {
        clean += plan->clean_correct[i] != 0;
        corrupted += plan->corrupted_correct[i] != 0;
        both += plan->clean_correct[i] && plan->corrupted_correct[i];
    }
    cJSON *object = put(builder, root, "unpatched", cJSON_CreateObject());
    put_number(builder, object, "clean_correct", (double)clean);
    put_number(builder, object, "corrupted_correct", (double)corrupted);
    put_number(builder, object, "both_correct", (double)both);
}

bool lp_summary_is_of(const char *path, const lp_provenance_item *items, size_t n) {
    enum { MOST_BYTES = 1 << 30 };
    lp_text text = {0};
    cJSON *document = NULL;
    lp_json root, provenance, value;
    const char *word = NULL;
    bool own = lp_file_read(path, MOST_BYTES, &text, NULL) == LP_OK &&
               lp_json_parse(lp_text_get(&text), text.length, path, &document, &root, NULL) == LP_OK;
    own = own && lp_json_get(&root, "format", &value, NULL) == LP_OK && lp_json_string(&value, &word, NULL) == LP_OK &&
          strcmp(word, "latentpatch-summary") == 0 && lp_json_get(&root, "provenance", &provenance, NULL) == LP_OK;
    for (size_t i = 0; own && i < n; i++)
        own = !items[i].identity || (lp_json_get(&provenance, items[i].key, &value, NULL) == LP_OK &&
                                     lp_json_string(&value, &word, NULL) == LP_OK && strcmp(word, items[i].value) == 0);
    cJSON_Delete(document);
    lp_text_release(&text);
    return own;
}

static lp_status write_text(FILE *stream, const char *text, size_t n, const char *path, lp_error *err) {
    if (fwrite(text, 1, n, stream) == n) return LP_OK;
    return lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

/* A condition as it stands in the list: two levels deep. */
static lp_status write_condition(const char *text, bool first, FILE *stream, const char *path, lp_error *err) {
    if (!first) LP_CHECK(write_text(stream, ", ", 2, path, err));
    for (const char *at = text, *end = NULL; *at; at = end) {
        end = strchr(at, '\n');
        end = end ? end + 1 : at + strlen(at);
        LP_CHECK(write_text(stream, at, (size_t)(end - at), path, err));
        if (end[-1] == '\n') LP_CHECK(write_text(stream, "\t\t", 2, path, err));
    }
    return LP_OK;
}

static lp_status write_conditions(const lp_results_plan *plan, const int64_t *counts, const lp_result_sums *sums,
                                  FILE *stream, const char *path, lp_error *err) {
    lp_status status = LP_OK;
    for (int32_t c = 0; status == LP_OK && c < plan->n_conditions; c++) {
        summary_builder builder = {.good = true};
        cJSON *object = new_condition(&builder, plan, counts + (size_t)c * LP_N_OUTCOMES, sums, c);
        char *text = builder.good ? cJSON_Print(object) : NULL;
        status = text ? write_condition(text, c == 0, stream, path, err)
                      : lp_fail(err, LP_ERR_MEMORY, "summary: out of memory");
        cJSON_free(text);
        cJSON_Delete(object);
    }
    return status;
}

/* A tree of all conditions would take 10 kB each, so the document is printed with an empty list, and the conditions are
 * written one by one in its place. */
lp_status lp_summary_write(const lp_results_plan *plan, const int64_t *counts, const lp_result_sums *sums, FILE *stream,
                           const char *path, lp_error *err) {
    static const char list[] = "\n\t\"conditions\":\t[";
    lp_status status = LP_OK;
    summary_builder builder = {.good = true};
    char *text = NULL, *at = NULL;
    int64_t n_included = 0;
    for (int64_t i = 0; i < plan->n_pairs; i++) n_included += plan->included[i] != 0;
    cJSON *root = cJSON_CreateObject();
    put_text(&builder, root, "format", "latentpatch-summary");
    put_number(&builder, root, "version", 2);
    put_text(&builder, root, "model", provenance_of(plan, "model"));
    put_text(&builder, root, "protocol", provenance_of(plan, "protocol"));
    put_text(&builder, root, "classifier", provenance_of(plan, "classifier"));
    put_number(&builder, root, "n_pairs", (double)plan->n_pairs);
    put_number(&builder, root, "n_included", (double)n_included);
    put_unpatched(&builder, root, plan);
    cJSON *controls = put(&builder, root, "controls", cJSON_CreateObject());
    put_again(&builder, controls, plan, n_included);
    put_check(&builder, controls, "self", plan, counts, sums, is_identity);
    put_check(&builder, controls, "dead", plan, counts, sums, is_dead);
    put(&builder, root, "conditions", cJSON_CreateArray());
    put_provenance(&builder, root, plan);
    if (builder.good) text = cJSON_Print(root);
    if (!text) LP_FAIL(LP_ERR_MEMORY, "summary: out of memory");
    at = strstr(text, list); /* the first: a line break in a text is escaped, and the job comes later */
    LP_ASSERT(at != NULL);
    at += sizeof list - 1;
    LP_TRY(write_text(stream, text, (size_t)(at - text), path, err));
    LP_TRY(write_conditions(plan, counts, sums, stream, path, err));
    LP_TRY(write_text(stream, at, strlen(at), path, err));
    status = write_text(stream, "\n", 1, path, err);
out:
    cJSON_free(text);
    cJSON_Delete(root);
    return status;
}
