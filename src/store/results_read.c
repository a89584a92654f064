#include "store/results.h"

#include "base/file.h"
#include "base/memory.h"
#include "store/results_columns.h"

#include <errno.h>
#include <unistd.h>

/* A column of texts, each with its NUL. */
typedef struct {
    char *block; /* [n, width + 1] */
    size_t width;
} column;

struct lp_results {
    char *path;
    hid_t file;
    int64_t n_pairs;
    int32_t n_conditions;
    lp_result_condition *conditions;
    column texts[LP_N_RESULT_COLUMNS]; /* of the columns that are texts */
    column id;
    column clean_text;
    column corrupted_text;
    int64_t *counts;
    uint8_t *included;
    /* the logit lens, once it was asked for */
    lp_lens_shape lens;
    int32_t *lens_tokens; /* [n_lens_tokens] ascending */
    int64_t n_lens_tokens;
    column lens_texts;
};

/* *block = the whole dataset `path` [n, ...] of n_dims dimensions; *n and *second (may be NULL) from its shape. */
static lp_status read_numbers(lp_results *results, const char *path, lp_dtype type, int n_dims, void *block, int64_t *n,
                              int64_t *second, lp_error *err) {
    lp_status status = LP_OK;
    int64_t dims[2] = {0, 1};
    hid_t dataset = H5I_INVALID_HID;
    void *data = NULL;
    LP_TRY(lp_h5_open_dataset(results->file, path, type, n_dims, dims, NULL, &dataset, results->path, err));
    if (n_dims == 2 && dims[1] > 0 && dims[0] > INT64_MAX / dims[1])
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: too large", results->path, path);
    LP_TRY(lp_h5_check_stored(dataset, (uint64_t)(dims[0] * dims[1]), lp_h5_item_bytes(type, 0), results->path, path,
                              err));
    LP_TRY(lp_mem_new(&data, (size_t)(dims[0] * dims[1]), lp_h5_item_bytes(type, 0), path, err));
    LP_TRY(lp_h5_read_part(dataset, 0, dims[0], data, results->path, path, err));
    *n = dims[0];
    if (second) *second = dims[1];
    memcpy(block, &data, sizeof data);
    data = NULL;
out:
    lp_mem_free(data);
    lp_h5_close(dataset);
    return status;
}

static lp_status read_column(lp_results *results, const char *path, int64_t n, column *out, lp_error *err) {
    lp_status status = LP_OK;
    int64_t found = 0;
    size_t width = 0;
    char *packed = NULL;
    hid_t dataset = H5I_INVALID_HID;
    LP_TRY(lp_h5_open_dataset(results->file, path, LP_TEXT, 1, &found, &width, &dataset, results->path, err));
    if (found != n)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected %lld entries, found %lld", results->path, path, (long long)n,
                (long long)found);
    LP_TRY(lp_h5_check_stored(dataset, (uint64_t)n, width, results->path, path, err));
    LP_TRY(lp_mem_new(&packed, (size_t)n, width, path, err));
    LP_TRY(lp_mem_new(&out->block, (size_t)n, width + 1, path, err));
    LP_TRY(lp_h5_read_part(dataset, 0, n, packed, results->path, path, err));
    for (int64_t i = 0; i < n; i++) memcpy(out->block + (size_t)i * (width + 1), packed + (size_t)i * width, width);
    out->width = width;
out:
    lp_mem_free(packed);
    lp_h5_close(dataset);
    return status;
}

static lp_status read_text_members(lp_results *results, const char *path, const lp_result_column *member, column *texts,
                                   lp_error *err) {
    lp_status status = read_column(results, path, results->n_conditions, texts, err);
    for (int32_t i = 0; status == LP_OK && i < results->n_conditions; i++) {
        const char *text = texts->block + (size_t)i * (texts->width + 1);
        memcpy((char *)&results->conditions[i] + member->offset, &text, sizeof text);
    }
    return status;
}

static lp_status read_number_members(lp_results *results, const char *path, const lp_result_column *member,
                                     lp_error *err) {
    size_t bytes = lp_h5_item_bytes(member->type, 0);
    char *numbers = NULL;
    int64_t n = 0;
    lp_status status = LP_OK;
    LP_TRY(read_numbers(results, path, member->type, 1, &numbers, &n, NULL, err));
    if (n != results->n_conditions)
        LP_FAIL(LP_ERR_FORMAT, "%s: /%s: expected %d entries, found %lld", results->path, path, results->n_conditions,
                (long long)n);
    for (int32_t i = 0; i < results->n_conditions; i++) {
        char *at = numbers + (size_t)i * bytes;
        if (member->type == LP_U8) *at = *at != 0; /* any other byte is not a bool */
        memcpy((char *)&results->conditions[i] + member->offset, at, bytes);
    }
out:
    lp_mem_free(numbers);
    return status;
}

static lp_status read_conditions(lp_results *results, lp_error *err) {
    lp_text path = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&results->conditions, (size_t)results->n_conditions, sizeof *results->conditions, "conditions",
                      err));
    for (size_t k = 0; k < LP_N_RESULT_COLUMNS; k++) {
        const lp_result_column *member = &lp_result_columns[k];
        lp_text_clear(&path);
        LP_TRY(lp_text_format(&path, err, "conditions/%s", member->name));
        if (member->is_optional && H5Lexists(results->file, path.data, H5P_DEFAULT) <= 0) continue;
        if (member->type == LP_TEXT)
            LP_TRY(read_text_members(results, path.data, member, &results->texts[k], err));
        else
            LP_TRY(read_number_members(results, path.data, member, err));
    }
    for (int32_t i = 0; i < results->n_conditions; i++) {
        int32_t same_as = results->conditions[i].same_as;
        if (same_as < 0 || same_as >= results->n_conditions)
            LP_FAIL(LP_ERR_FORMAT, "%s: /conditions/same_as: expected 0 to %d, found %d", results->path,
                    results->n_conditions - 1, same_as);
    }
out:
    lp_text_release(&path);
    return status;
}

/* Opens a dataset that has a number for each pair and condition. */
static lp_status open_rows(const lp_results *results, const char *path, lp_dtype type, hid_t *out, lp_error *err) {
    int64_t shape[2];
    LP_CHECK(lp_h5_open_dataset(results->file, path, type, 2, shape, NULL, out, results->path, err));
    if (shape[0] == results->n_pairs && shape[1] == results->n_conditions) return LP_OK;
    return lp_fail(err, LP_ERR_FORMAT, "%s: /%s: expected %lld x %d, found %lld x %lld", results->path, path,
                   (long long)results->n_pairs, results->n_conditions, (long long)shape[0], (long long)shape[1]);
}

/* What is counted are pairs of the sweep, so that sums of counts are small. */
static lp_status check_counts(const lp_results *results, lp_error *err) {
    int64_t most = 0;
    for (int64_t i = 0; i < results->n_pairs; i++) most += results->included[i] != 0;
    for (int32_t i = 0; i < results->n_conditions; i++) {
        int64_t left = most;
        for (int k = 0; k < LP_N_OUTCOMES; k++) {
            int64_t count = results->counts[(size_t)i * LP_N_OUTCOMES + (size_t)k];
            if (count < 0 || count > left)
                return lp_fail(err, LP_ERR_FORMAT, "%s: /counts[%d, %d]: expected 0 to %lld of %lld pairs, found %lld",
                               results->path, i, k, (long long)left, (long long)most, (long long)count);
            left -= count;
        }
    }
    return LP_OK;
}

static lp_status read_all(lp_results *results, lp_error *err) {
    lp_status status = LP_OK;
    lp_text format = {0};
    int32_t version = 0;
    int64_t n = 0;
    int64_t n_outcomes = 0;
    hid_t outcomes = H5I_INVALID_HID;
    hid_t root = H5Gopen2(results->file, "/", H5P_DEFAULT);
    LP_TRY(lp_h5_get_text(root, "format", &format, results->path, err));
    if (strcmp(lp_text_get(&format), "latentpatch-results") != 0)
        LP_FAIL(LP_ERR_FORMAT, "%s: expected a file of format latentpatch-results, found %.100s", results->path,
                lp_text_get(&format));
    LP_TRY(lp_h5_get_i32(root, "version", &version, results->path, err));
    if (version != LP_RESULTS_VERSION)
        LP_FAIL(LP_ERR_UNSUPPORTED, "%s: expected version %d of its format, found %d", results->path,
                LP_RESULTS_VERSION, version);
    LP_TRY(read_numbers(results, "counts", LP_I64, 2, &results->counts, &n, &n_outcomes, err));
    if (n < 1 || n > INT32_MAX || n_outcomes != LP_N_OUTCOMES)
        LP_FAIL(LP_ERR_FORMAT, "%s: /counts: expected %d classes, found %lld", results->path, LP_N_OUTCOMES,
                (long long)n_outcomes);
    results->n_conditions = (int32_t)n;
    LP_TRY(read_conditions(results, err));
    LP_TRY(read_numbers(results, "pairs/included", LP_U8, 1, &results->included, &results->n_pairs, NULL, err));
    LP_TRY(read_column(results, "pairs/id", results->n_pairs, &results->id, err));
    LP_TRY(read_column(results, "pairs/clean_text", results->n_pairs, &results->clean_text, err));
    LP_TRY(read_column(results, "pairs/corrupted_text", results->n_pairs, &results->corrupted_text, err));
    LP_TRY(open_rows(results, "rows/class", LP_U8, &outcomes, err));
    status = check_counts(results, err);
out:
    lp_text_release(&format);
    lp_h5_close(outcomes);
    lp_h5_close(root);
    return status;
}

lp_status lp_results_open(const char *path, lp_results **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_results *results = NULL;
    hid_t list = H5I_INVALID_HID;
    LP_TRY(lp_h5_begin(err));
    LP_TRY(lp_file_check(path, err));
    LP_TRY(lp_mem_new(&results, 1, sizeof *results, "results", err));
    results->file = H5I_INVALID_HID;
    LP_TRY(lp_mem_text(&results->path, path, strlen(path), err));
    list = lp_h5_access();
    results->file = H5Fopen(path, H5F_ACC_RDONLY, list);
    if (results->file < 0) LP_TRY(lp_h5_fail(err, path, "open"));
    LP_TRY(read_all(results, err));
    *out = results;
    results = NULL;
out:
    lp_h5_close(list);
    lp_results_free(results);
    return status;
}

void lp_results_free(lp_results *results) {
    if (!results) return;
    lp_h5_close(results->file);
    for (size_t k = 0; k < LP_N_RESULT_COLUMNS; k++) lp_mem_free(results->texts[k].block);
    lp_mem_free(results->id.block);
    lp_mem_free(results->clean_text.block);
    lp_mem_free(results->corrupted_text.block);
    lp_mem_free(results->lens_tokens);
    lp_mem_free(results->lens_texts.block);
    lp_mem_free(results->conditions);
    lp_mem_free(results->counts);
    lp_mem_free(results->included);
    lp_mem_free(results->path);
    lp_mem_free(results);
}

int64_t lp_results_n_pairs(const lp_results *results) {
    return results->n_pairs;
}

int64_t lp_results_n_included(const lp_results *results) {
    int64_t n = 0;
    for (int64_t i = 0; i < results->n_pairs; i++) n += results->included[i] != 0;
    return n;
}

int32_t lp_results_n_conditions(const lp_results *results) {
    return results->n_conditions;
}

const lp_result_condition *lp_results_condition(const lp_results *results, int32_t index) {
    LP_ASSERT(index >= 0 && index < results->n_conditions);
    return &results->conditions[index];
}

const int64_t *lp_results_counts(const lp_results *results) {
    return results->counts;
}

const uint8_t *lp_results_included(const lp_results *results) {
    return results->included;
}

const char *lp_results_pair_id(const lp_results *results, int64_t pair) {
    LP_ASSERT(pair >= 0 && pair < results->n_pairs);
    return results->id.block + (size_t)pair * (results->id.width + 1);
}

const char *lp_results_clean_text(const lp_results *results, int64_t pair) {
    LP_ASSERT(pair >= 0 && pair < results->n_pairs);
    return results->clean_text.block + (size_t)pair * (results->clean_text.width + 1);
}

const char *lp_results_corrupted_text(const lp_results *results, int64_t pair) {
    LP_ASSERT(pair >= 0 && pair < results->n_pairs);
    return results->corrupted_text.block + (size_t)pair * (results->corrupted_text.width + 1);
}

bool lp_results_has_metric(const lp_results *results, const char *name) {
    char path[128];
    snprintf(path, sizeof path, "rows/%s", name);
    return H5Lexists(results->file, path, H5P_DEFAULT) > 0;
}

lp_status lp_results_metric(lp_results *results, const char *name, int64_t first, int64_t n, float *out,
                            lp_error *err) {
    lp_status status = LP_OK;
    lp_text path = {0};
    hid_t dataset = H5I_INVALID_HID;
    LP_TRY(lp_text_format(&path, err, "rows/%s", name));
    if (!lp_results_has_metric(results, name)) LP_FAIL(LP_ERR_VALUE, "%s: has no metric %s", results->path, name);
    LP_TRY(open_rows(results, path.data, LP_F32, &dataset, err));
    status = lp_h5_read_part(dataset, first, n, out, results->path, path.data, err);
out:
    lp_h5_close(dataset);
    lp_text_release(&path);
    return status;
}

static lp_status open_lens(lp_results *results, int side, const char *what, lp_dtype type, int64_t dims[4], hid_t *out,
                           lp_error *err) {
    char path[64];
    snprintf(path, sizeof path, "readout/logit_lens/%s/%s", side == 0 ? "clean" : "corrupted", what);
    LP_CHECK(lp_h5_open_dataset(results->file, path, type, 4, dims, NULL, out, results->path, err));
    bool good = dims[0] == results->n_pairs;
    for (int i = 1; i < 4; i++) good = good && dims[i] >= 1 && dims[i] <= 65536;
    if (good && results->lens.top > 0)
        good =
            dims[1] == results->lens.n_positions && dims[2] == results->lens.n_layers && dims[3] == results->lens.top;
    if (good) return LP_OK;
    lp_h5_close(*out);
    return lp_fail(err, LP_ERR_FORMAT,
                   "%s: /%s: found %lld x %lld x %lld x %lld, which does not fit a lens of %lld pairs", results->path,
                   path, (long long)dims[0], (long long)dims[1], (long long)dims[2], (long long)dims[3],
                   (long long)results->n_pairs);
}

lp_status lp_results_lens(lp_results *results, lp_lens_shape *out, lp_error *err) {
    int64_t dims[4];
    hid_t dataset = H5I_INVALID_HID;
    *out = results->lens;
    if (results->lens.top > 0) return LP_OK;
    if (H5Lexists(results->file, "readout", H5P_DEFAULT) <= 0) return LP_OK;
    LP_CHECK(open_lens(results, 0, "token", LP_I32, dims, &dataset, err));
    lp_h5_close(dataset);
    lp_mem_free(results->lens_tokens);
    results->lens_tokens = NULL;
    LP_CHECK(read_numbers(results, "readout/logit_lens/token_id", LP_I32, 1, &results->lens_tokens,
                          &results->n_lens_tokens, NULL, err));
    for (int64_t i = 1; i < results->n_lens_tokens; i++)
        if (results->lens_tokens[i - 1] >= results->lens_tokens[i])
            return lp_fail(err, LP_ERR_FORMAT, "%s: /readout/logit_lens/token_id: not ascending", results->path);
    lp_mem_free(results->lens_texts.block);
    results->lens_texts = (column){0};
    LP_CHECK(read_column(results, "readout/logit_lens/token_text", results->n_lens_tokens, &results->lens_texts, err));
    results->lens =
        (lp_lens_shape){.n_positions = (int32_t)dims[1], .n_layers = (int32_t)dims[2], .top = (int32_t)dims[3]};
    *out = results->lens;
    return LP_OK;
}

lp_status lp_results_lens_pair(lp_results *results, int side, int64_t pair, int32_t *tokens, float *log_probability,
                               lp_error *err) {
    int64_t dims[4];
    hid_t token = H5I_INVALID_HID, probability = H5I_INVALID_HID;
    lp_status status = LP_OK;
    LP_ASSERT(pair >= 0 && pair < results->n_pairs && results->lens.top > 0);
    LP_TRY(open_lens(results, side, "token", LP_I32, dims, &token, err));
    LP_TRY(open_lens(results, side, "log_probability", LP_F32, dims, &probability, err));
    LP_TRY(lp_h5_read_part(token, pair, 1, tokens, results->path, "readout/logit_lens", err));
    LP_TRY(lp_h5_read_part(probability, pair, 1, log_probability, results->path, "readout/logit_lens", err));
out:
    lp_h5_close(token);
    lp_h5_close(probability);
    return status;
}

const char *lp_results_lens_text(const lp_results *results, int32_t token) {
    int64_t low = 0, high = results->n_lens_tokens;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (results->lens_tokens[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == results->n_lens_tokens || results->lens_tokens[low] != token) return NULL;
    return results->lens_texts.block + (size_t)low * (results->lens_texts.width + 1);
}

lp_status lp_results_provenance(lp_results *results, const char *key, lp_text *out, lp_error *err) {
    hid_t group = H5Gopen2(results->file, "provenance", H5P_DEFAULT);
    lp_status status = LP_OK;
    if (group < 0)
        status = lp_h5_fail(err, results->path, "open /provenance");
    else if (H5Aexists(group, key) > 0)
        status = lp_h5_get_text(group, key, out, results->path, err);
    lp_h5_close(group);
    return status;
}
