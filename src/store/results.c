#include "store/results.h"

#include "base/memory.h"
#include "base/output.h"
#include "store/record_file_internal.h"
#include "store/results_columns.h"
#include "store/results_lens.h"
#include "store/results_text.h"

#include <errno.h>
#include <math.h>
#include <unistd.h>

/* Rows of one chunk of the final file: this many numbers at least. */
enum { BLOCK_NUMBERS = 65536 };

/* Everything that lp_results_finish holds. */
typedef struct {
    const lp_results_plan *plan;
    const char *path;
    lp_output output;
    hid_t file;
    lp_record_file *partial;
    int32_t *lengths;     /* [C] of the answers of the pair at hand */
    int32_t *tokens;      /* [n_tokens_held, max_new_tokens] of some of them */
    int32_t *lens_tokens; /* of that pair; NULL without a lens */
    float *lens_log_probability;
    lp_answers answers;
    lp_csv csv;
    lp_output summary;
    lp_result_sums sums;
    lp_lens_writer lens;
    int64_t *counts; /* [C, 4] of the rows */
    int64_t block;   /* pairs of one chunk */
    int64_t n_held;  /* pairs in the buffers below */
    int64_t first;   /* the first of them */
    /* The columns of the results file; unused where a column is not published. */
    size_t n_columns;
    void *held[LP_MAX_ROW_COLUMNS]; /* each [block, C] */
    hid_t set[LP_MAX_ROW_COLUMNS];
} results_finisher;

static lp_status put_numbers(const results_finisher *finisher, const char *path, lp_dtype type, int64_t n,
                             const void *data, const char *description, lp_error *err) {
    return lp_h5_make_dataset(
        finisher->file,
        &(lp_h5_dataset){.path = path, .type = type, .n_dims = 1, .dims = {n}, .description = description}, data, NULL,
        finisher->path, err);
}

static lp_status put_pairs(const results_finisher *finisher, lp_error *err) {
    const lp_results_plan *plan = finisher->plan;
    const struct {
        const char *path;
        const char *const *texts;
    } texts[] = {{"pairs/id", plan->pair_id},
                 {"pairs/source", plan->pair_source},
                 {"pairs/clean_question", plan->clean_question},
                 {"pairs/corrupted_question", plan->corrupted_question},
                 {"pairs/clean_text", plan->clean_text},
                 {"pairs/corrupted_text", plan->corrupted_text}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        LP_CHECK(
            lp_h5_put_strings(finisher->file, texts[i].path, texts[i].texts, plan->n_pairs, NULL, finisher->path, err));
    LP_CHECK(put_numbers(finisher, "pairs/clean_answer", LP_F64, plan->n_pairs, plan->clean_answer, NULL, err));
    LP_CHECK(put_numbers(finisher, "pairs/corrupted_answer", LP_F64, plan->n_pairs, plan->corrupted_answer, NULL, err));
    LP_CHECK(put_numbers(finisher, "pairs/clean_correct", LP_U8, plan->n_pairs, plan->clean_correct, NULL, err));
    LP_CHECK(
        put_numbers(finisher, "pairs/corrupted_correct", LP_U8, plan->n_pairs, plan->corrupted_correct, NULL, err));
    return put_numbers(finisher, "pairs/included", LP_U8, plan->n_pairs, plan->included,
                       "1: the pair passes the sweep's filter", err);
}

/* Name of a column's dataset below `rows`; "": it is not published. */
static const char *published_name(const results_finisher *finisher, size_t index) {
    const char *name = lp_row_column_at(index)->published;
    return name ? name : finisher->plan->metrics[index - LP_N_ROW_COLUMNS];
}

static lp_status begin_column(results_finisher *finisher, size_t index, lp_error *err) {
    const lp_row_column *column = lp_row_column_at(index);
    const char *name = published_name(finisher, index);
    lp_text path = {0};
    lp_status status = LP_OK;
    if (!*name) return LP_OK;
    LP_TRY(lp_text_format(&path, err, "rows/%s", name));
    LP_TRY(lp_h5_make_dataset(finisher->file,
                              &(lp_h5_dataset){.path = path.data,
                                               .type = column->type,
                                               .n_dims = 2,
                                               .dims = {finisher->plan->n_pairs, finisher->plan->n_conditions},
                                               .description = column->description,
                                               .chunk_first = finisher->block},
                              NULL, &finisher->set[index], finisher->path, err));
    if (index == LP_ROW_OUTCOME)
        LP_TRY(lp_h5_put_texts(finisher->set[index], "classes", lp_outcome_names, LP_N_OUTCOMES, finisher->path, err));
    status = lp_mem_new(&finisher->held[index], (size_t)finisher->block * (size_t)finisher->plan->n_conditions,
                        lp_h5_item_bytes(column->type, 0), "rows", err);
out:
    lp_text_release(&path);
    return status;
}

/* Answers that are read at once. */
static size_t answers_at_once(const lp_results_plan *plan) {
    size_t n = (size_t)BLOCK_NUMBERS / (size_t)plan->max_new_tokens + 1;
    return n < (size_t)plan->n_conditions ? n : (size_t)plan->n_conditions;
}

static lp_status begin_rows(results_finisher *finisher, lp_error *err) {
    const lp_results_plan *plan = finisher->plan;
    const size_t n = (size_t)plan->n_conditions;
    finisher->block = BLOCK_NUMBERS / plan->n_conditions;
    if (finisher->block < 1) finisher->block = 1;
    if (finisher->block > plan->n_pairs) finisher->block = plan->n_pairs;
    for (size_t k = 0; k < finisher->n_columns; k++) LP_CHECK(begin_column(finisher, k, err));
    const size_t lens = 2 * (size_t)plan->lens.n_positions * (size_t)plan->lens.n_layers * (size_t)plan->lens.top;
    LP_CHECK(lp_mem_new(&finisher->lengths, n, sizeof *finisher->lengths, "answers", err));
    LP_CHECK(lp_mem_new(&finisher->tokens, answers_at_once(plan) * (size_t)plan->max_new_tokens,
                        sizeof *finisher->tokens, "answers", err));
    LP_CHECK(lp_mem_new(&finisher->lens_tokens, lens, sizeof *finisher->lens_tokens, "logit lens", err));
    LP_CHECK(
        lp_mem_new(&finisher->lens_log_probability, lens, sizeof *finisher->lens_log_probability, "logit lens", err));
    LP_CHECK(lp_mem_new(&finisher->counts, n * LP_N_OUTCOMES, sizeof *finisher->counts, "counts", err));
    LP_CHECK(lp_mem_new(&finisher->sums.changed, n, sizeof *finisher->sums.changed, "sums", err));
    LP_CHECK(
        lp_mem_new(&finisher->sums.metric_sum, n * plan->n_metrics, sizeof *finisher->sums.metric_sum, "sums", err));
    LP_CHECK(lp_mem_new(&finisher->sums.metric_n, n * plan->n_metrics, sizeof *finisher->sums.metric_n, "sums", err));
    return lp_mem_new(&finisher->sums.recovery, n, sizeof *finisher->sums.recovery, "sums", err);
}

static lp_status flush_rows(results_finisher *finisher, lp_error *err) {
    for (size_t k = 0; k < finisher->n_columns; k++)
        if (finisher->held[k])
            LP_CHECK(lp_h5_write_part(finisher->set[k], finisher->first, finisher->n_held, finisher->held[k],
                                      finisher->path, published_name(finisher, k), err));
    finisher->first += finisher->n_held;
    finisher->n_held = 0;
    return LP_OK;
}

/* Where the rows of the next pair are held. */
static void *held_at(const results_finisher *finisher, size_t index) {
    size_t bytes = lp_h5_item_bytes(lp_row_column_at(index)->type, 0);
    return (char *)finisher->held[index] + (size_t)finisher->n_held * (size_t)finisher->plan->n_conditions * bytes;
}

static lp_status hold_not_run(results_finisher *finisher, lp_error *err) {
    for (size_t k = 0; k < finisher->n_columns; k++)
        if (finisher->held[k])
            lp_row_column_fill(lp_row_column_at(k), held_at(finisher, k), (size_t)finisher->plan->n_conditions);
    return finisher->plan->lens.top > 0 ? lp_lens_writer_add(&finisher->lens, NULL, NULL, err) : LP_OK;
}

/* Numbers the answers of a pair, and counts its outcomes. */
static lp_status hold_answers(results_finisher *finisher, int64_t pair, lp_error *err) {
    const lp_results_plan *plan = finisher->plan;
    const uint8_t *outcome = held_at(finisher, LP_ROW_OUTCOME), *changed = held_at(finisher, LP_ROW_CHANGED);
    const int32_t *lengths = finisher->lengths;
    const size_t at_once = answers_at_once(plan), n = (size_t)plan->n_conditions;
    int32_t *answer = held_at(finisher, LP_ROW_ANSWER_TOKENS);
    for (size_t c = 0; c < n; c++) {
        if (c % at_once == 0)
            LP_CHECK(lp_record_file_read_part(finisher->partial, pair, LP_ROW_ANSWER_TOKENS, (int64_t)c,
                                              (int64_t)(n - c < at_once ? n - c : at_once), finisher->tokens, err));
        bool not_run = outcome[c] == LP_OUTCOME_NOT_RUN;
        if (lengths[c] < 0 || lengths[c] > plan->max_new_tokens || (outcome[c] >= LP_N_OUTCOMES && !not_run))
            return lp_fail(err, LP_ERR_FORMAT, "%s: pair %s, condition %s: class %d, answer of %d tokens",
                           finisher->path, plan->pair_id[pair], plan->conditions[c].name, outcome[c], lengths[c]);
        answer[c] = -1;
        if (not_run) continue;
        LP_CHECK(lp_answers_add(&finisher->answers, finisher->tokens + c % at_once * (size_t)plan->max_new_tokens,
                                (size_t)lengths[c], &answer[c], err));
        finisher->counts[c * LP_N_OUTCOMES + outcome[c]]++;
        finisher->sums.changed[c] += changed[c] != 0;
    }
    return LP_OK;
}

static void sum_metric(results_finisher *finisher, size_t m) {
    const size_t n = (size_t)finisher->plan->n_conditions;
    const float *values = held_at(finisher, LP_N_ROW_COLUMNS + m);
    for (size_t c = 0; c < n; c++) {
        if (isnan(values[c])) continue;
        finisher->sums.metric_sum[m * n + c] += (double)values[c];
        finisher->sums.metric_n[m * n + c]++;
    }
    if (strcmp(finisher->plan->metrics[m], "logit_diff") == 0) lp_recovery_add(finisher->plan, values, &finisher->sums);
}

static lp_status hold_pair(results_finisher *finisher, int64_t pair, lp_error *err) {
    const lp_results_plan *plan = finisher->plan;
    const void *columns[LP_MAX_ROW_COLUMNS] = {NULL};
    size_t lens = 0;
    bool good = false;
    LP_CHECK(lp_record_file_verify(finisher->partial, pair, &good, err));
    if (!good)
        return lp_fail(err, LP_ERR_FORMAT, "%s: pair %lld does not fit its checksum: torn or altered",
                       lp_record_file_path(finisher->partial), (long long)pair);
    LP_CHECK(lp_record_file_read(finisher->partial, pair, LP_ROW_ANSWER_LEN, finisher->lengths, err));
    for (size_t k = 0; k < finisher->n_columns; k++) {
        if (!finisher->held[k]) continue;
        columns[k] = held_at(finisher, k);
        if (!lp_row_column_at(k)->per_token)
            LP_CHECK(lp_record_file_read(finisher->partial, pair, k, held_at(finisher, k), err));
    }
    LP_CHECK(hold_answers(finisher, pair, err));
    for (size_t m = 0; m < plan->n_metrics; m++) sum_metric(finisher, m);
    if (plan->lens.top > 0 && lp_results_partial_lens(finisher->partial, &lens)) {
        LP_CHECK(lp_record_file_read(finisher->partial, pair, lens, finisher->lens_tokens, err));
        LP_CHECK(lp_record_file_read(finisher->partial, pair, lens + 1, finisher->lens_log_probability, err));
        LP_CHECK(lp_lens_writer_add(&finisher->lens, finisher->lens_tokens, finisher->lens_log_probability, err));
    }
    if (finisher->csv.stream) return lp_csv_pair(&finisher->csv, plan, pair, columns, &finisher->answers, err);
    return LP_OK;
}

static lp_status stream_rows(results_finisher *finisher, lp_error *err) {
    for (int64_t pair = 0; pair < finisher->plan->n_pairs; pair++) {
        if (finisher->plan->included[pair])
            LP_CHECK(hold_pair(finisher, pair, err));
        else
            LP_CHECK(hold_not_run(finisher, err));
        if (++finisher->n_held == finisher->block) LP_CHECK(flush_rows(finisher, err));
    }
    return flush_rows(finisher, err);
}

static lp_status check_counts(const results_finisher *finisher, const int64_t *counts, lp_error *err) {
    for (int32_t c = 0; c < finisher->plan->n_conditions; c++)
        for (int k = 0; k < LP_N_OUTCOMES; k++) {
            size_t at = (size_t)c * LP_N_OUTCOMES + (size_t)k;
            if (counts[at] != finisher->counts[at])
                return lp_fail(err, LP_ERR_MISMATCH, "%s: condition %s, %s: the ranks counted %lld, the rows say %lld",
                               finisher->path, finisher->plan->conditions[c].name, lp_outcome_names[k],
                               (long long)counts[at], (long long)finisher->counts[at]);
        }
    return LP_OK;
}

static lp_status put_answer_texts(const results_finisher *finisher, lp_error *err) {
    enum { AT_ONCE = 4096 };
    const char *texts[AT_ONCE];
    lp_status status = LP_OK;
    const hsize_t dims[1] = {(hsize_t)finisher->answers.n};
    hid_t dataset = H5I_INVALID_HID;
    hid_t memory = H5I_INVALID_HID;
    hid_t space = H5Screate_simple(1, dims, NULL);
    hid_t type = H5Tcopy(H5T_C_S1);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    if (space < 0 || type < 0 || H5Tset_size(type, H5T_VARIABLE) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0 ||
        creation < 0 || H5Pset_obj_track_times(creation, 0) < 0 ||
        (dataset = H5Dcreate2(finisher->file, "answers/text", type, space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0)
        LP_TRY(lp_h5_fail(err, finisher->path, "make /answers/text"));
    for (int32_t first = 0; first < finisher->answers.n; first += AT_ONCE) {
        hsize_t start[1] = {(hsize_t)first};
        hsize_t n[1] = {(hsize_t)(finisher->answers.n - first < AT_ONCE ? finisher->answers.n - first : AT_ONCE)};
        for (int32_t i = 0; i < (int32_t)n[0]; i++) texts[i] = lp_answers_text(&finisher->answers, first + i);
        memory = H5Screate_simple(1, n, NULL);
        if (memory < 0 || H5Sselect_hyperslab(space, H5S_SELECT_SET, start, NULL, n, NULL) < 0 ||
            H5Dwrite(dataset, type, memory, space, H5P_DEFAULT, texts) < 0)
            LP_TRY(lp_h5_fail(err, finisher->path, "write /answers/text"));
        lp_h5_close(memory);
        memory = H5I_INVALID_HID;
    }
out:
    lp_h5_close(memory);
    lp_h5_close(dataset);
    lp_h5_close(creation);
    lp_h5_close(type);
    lp_h5_close(space);
    return status;
}

static lp_status put_answers(const results_finisher *finisher, lp_error *err) {
    LP_CHECK(put_numbers(finisher, "answers/tokens", LP_I32, (int64_t)finisher->answers.n_tokens,
                         finisher->answers.tokens, "all distinct answers, one after the other", err));
    LP_CHECK(put_numbers(finisher, "answers/offset", LP_I64, finisher->answers.n + INT64_C(1), finisher->answers.offset,
                         "answer i is tokens[offset[i] : offset[i+1]]", err));
    return put_answer_texts(finisher, err);
}

/* The upper bound of what the file will take. */
static uint64_t file_bytes(const lp_results_plan *plan) {
    uint64_t row = 1 + 8 + 4 + 1 + 4 * plan->n_metrics;
    uint64_t lens = 16 * (uint64_t)plan->lens.n_positions * (uint64_t)plan->lens.n_layers * (uint64_t)plan->lens.top;
    uint64_t pair = row * (uint64_t)plan->n_conditions + lens + 4096;
    uint64_t texts = 0;
    for (int64_t i = 0; i < plan->n_pairs; i++)
        texts += strlen(plan->clean_question[i]) + strlen(plan->corrupted_question[i]);
    return pair * (uint64_t)plan->n_pairs + 2 * texts + (1 << 20);
}

static lp_status write_file(results_finisher *finisher, const int64_t *counts, void *state, lp_error *err) {
    const lp_results_plan *plan = finisher->plan;
    const int32_t version = LP_RESULTS_VERSION;
    lp_status status = LP_OK;
    hid_t root = H5I_INVALID_HID;
    LP_TRY(lp_h5_rehearse(finisher->path, finisher->output.fd, file_bytes(plan), 0, err));
    finisher->file = lp_h5_make_file(finisher->output.temporary);
    if (finisher->file < 0) LP_TRY(lp_h5_fail(err, finisher->path, "make the file"));
    root = H5Gopen2(finisher->file, "/", H5P_DEFAULT);
    LP_TRY(lp_h5_put_text(root, "format", "latentpatch-results", 0, finisher->path, err));
    LP_TRY(lp_h5_put_i32(root, "version", &version, 1, finisher->path, err));
    LP_TRY(lp_provenance_make(finisher->file, plan->provenance, plan->n_provenance, finisher->path, err));
    LP_TRY(put_pairs(finisher, err));
    LP_TRY(lp_result_columns_write(finisher->file, plan->conditions, plan->n_conditions, finisher->path, err));
    LP_TRY(begin_rows(finisher, err));
    if (plan->lens.top > 0) LP_TRY(lp_lens_writer_begin(&finisher->lens, finisher->file, plan, finisher->path, err));
    LP_TRY(stream_rows(finisher, err));
    LP_TRY(check_counts(finisher, counts, err));
    if (plan->lens.top > 0) LP_TRY(lp_lens_writer_end(&finisher->lens, state, err));
    LP_TRY(put_answers(finisher, err));
    status = lp_h5_make_dataset(finisher->file,
                                &(lp_h5_dataset){.path = "counts",
                                                 .type = LP_I64,
                                                 .n_dims = 2,
                                                 .dims = {plan->n_conditions, LP_N_OUTCOMES},
                                                 .description = "class counts over the included pairs"},
                                counts, NULL, finisher->path, err);
    /* Chunks that wait in memory are written here: closing a dataset would lose them without a word. */
    if (status == LP_OK && H5Fflush(finisher->file, H5F_SCOPE_GLOBAL) < 0)
        status = lp_h5_fail(err, finisher->path, "write the rows");
out:
    for (size_t k = 0; k < finisher->n_columns; k++) lp_h5_close(finisher->set[k]);
    lp_lens_writer_release(&finisher->lens);
    lp_h5_close(root);
    if (status == LP_OK) status = lp_h5_finish(&finisher->file, finisher->path, finisher->output.temporary, err);
    return status;
}

static lp_status check_complete(const results_finisher *finisher, lp_error *err) {
    int64_t missing = 0;
    if (lp_record_file_n_pairs(finisher->partial) != finisher->plan->n_pairs)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: expected %lld pairs, found %lld",
                       lp_record_file_path(finisher->partial), (long long)finisher->plan->n_pairs,
                       (long long)lp_record_file_n_pairs(finisher->partial));
    for (int64_t i = 0; i < finisher->plan->n_pairs; i++)
        missing += finisher->plan->included[i] && lp_record_file_state(finisher->partial)[i] != 1;
    if (missing)
        return lp_fail(err, LP_ERR_VALUE, "%s: rows of %lld pairs are missing", lp_record_file_path(finisher->partial),
                       (long long)missing);
    return LP_OK;
}

static void release(results_finisher *finisher) {
    lp_h5_close(finisher->file);
    lp_mem_free(finisher->lengths);
    lp_mem_free(finisher->tokens);
    lp_mem_free(finisher->lens_tokens);
    lp_mem_free(finisher->lens_log_probability);
    lp_record_file_close(finisher->partial);
    lp_answers_release(&finisher->answers);
    lp_csv_release(&finisher->csv);
    lp_output_discard(&finisher->output);
    lp_output_discard(&finisher->summary);
    lp_mem_free(finisher->sums.changed);
    lp_mem_free(finisher->sums.metric_sum);
    lp_mem_free(finisher->sums.metric_n);
    lp_mem_free(finisher->sums.recovery);
    lp_mem_free(finisher->counts);
    for (size_t k = 0; k < finisher->n_columns; k++) lp_mem_free(finisher->held[k]);
}

/* Under its temporary name. */
static lp_status write_summary(results_finisher *finisher, const char *path, const int64_t *counts, lp_error *err) {
    FILE *stream = NULL;
    lp_status status = lp_text_output_begin(path, &finisher->summary, &stream, err);
    if (status != LP_OK) return status;
    status = lp_summary_write(finisher->plan, counts, &finisher->sums, stream, path, err);
    if (fclose(stream) != 0 && status == LP_OK)
        status = lp_fail(err, LP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    return status;
}

lp_status lp_results_finish(const lp_results_paths *paths, const lp_results_plan *plan, const int64_t *counts,
                            lp_decode_answer *decode, void *state, lp_error *err) {
    lp_status status = LP_OK;
    lp_text partial = {0};
    results_finisher finisher = {.plan = plan,
                                 .path = paths->results,
                                 .output = {.fd = -1},
                                 .csv = {.output = {.fd = -1}},
                                 .summary = {.fd = -1},
                                 .file = H5I_INVALID_HID,
                                 .n_columns = LP_N_ROW_COLUMNS + plan->n_metrics};
    for (size_t k = 0; k < LP_MAX_ROW_COLUMNS; k++) finisher.set[k] = H5I_INVALID_HID;
    LP_TRY(lp_h5_begin(err));
    LP_TRY(lp_results_partial_path(paths->results, &partial, err));
    LP_TRY(lp_record_file_open_read(partial.data, &finisher.partial, err));
    LP_TRY(check_complete(&finisher, err));
    LP_TRY(lp_answers_init(&finisher.answers, decode, state, err));
    LP_TRY(lp_output_begin(paths->results, &finisher.output, err));
    if (paths->csv) LP_TRY(lp_csv_begin(&finisher.csv, paths->csv, plan, err));
    LP_TRY(write_file(&finisher, counts, state, err));
    if (paths->csv) LP_TRY(lp_csv_finish(&finisher.csv, err));
    if (paths->summary) LP_TRY(write_summary(&finisher, paths->summary, counts, err));
    if (paths->csv) LP_TRY(lp_csv_commit(&finisher.csv, err));
    if (paths->summary) {
        /* A life that ended between the three names wrote it with its own times. */
        bool own = lp_summary_is_of(paths->summary, plan->provenance, plan->n_provenance);
        LP_TRY(lp_output_publish(&finisher.summary, own ? LP_OUTPUT_OWN : LP_OUTPUT_NEW, err));
    }
    LP_TRY(lp_output_publish(&finisher.output, LP_OUTPUT_NEW, err));
    unlink(partial.data);
out:
    release(&finisher);
    lp_text_release(&partial);
    return status;
}
