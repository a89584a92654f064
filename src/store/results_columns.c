#include "store/results_columns.h"

#include "base/memory.h"

#include <math.h>

#define COLUMN(member, type, csv, description)                                                                         \
    { #member, type, offsetof(lp_result_condition, member), csv, description, false }
#define ADDED(member, type, description)                                                                               \
    { #member, type, offsetof(lp_result_condition, member), #member, description, true }
#define SHOWN(member, type, description) COLUMN(member, type, #member, description)

/* In the order of the CSV. A bool is written as the byte that it is. */
const lp_result_column lp_result_columns[LP_N_RESULT_COLUMNS] = {
    COLUMN(name, LP_TEXT, "condition", NULL),
    SHOWN(role, LP_TEXT, NULL),
    SHOWN(direction, LP_TEXT, NULL),
    SHOWN(phase, LP_TEXT, NULL),
    SHOWN(site, LP_TEXT, NULL),
    SHOWN(layer, LP_I32, "-1: none or several"),
    SHOWN(layers, LP_TEXT, NULL),
    SHOWN(head, LP_I32, "KV head of k and v, otherwise query head; -1: all or several, or none"),
    SHOWN(steps, LP_TEXT, NULL),
    COLUMN(step_mask, LP_U64, NULL, "bit t: thought step t"),
    SHOWN(n_steps, LP_I32, NULL),
    SHOWN(index, LP_TEXT, "position of a prompt or answer target, or all"),
    SHOWN(donor, LP_TEXT, NULL),
    SHOWN(vector, LP_I32, "of sweep.vectors; -1: the donor is not a file"),
    ADDED(draw, LP_I32, "of the donor shuffled; otherwise 0"),
    SHOWN(from_site, LP_TEXT, "empty: the target's"),
    SHOWN(from_layer, LP_I32, "-1: the target's"),
    SHOWN(from_step, LP_I32, "-1: the target's"),
    SHOWN(operation, LP_TEXT, NULL),
    SHOWN(factor, LP_F32, "1 for replace"),
    SHOWN(stop_after, LP_I32, "thought steps that the run makes; 0: all"),
    SHOWN(defects, LP_TEXT, NULL),
    SHOWN(dead, LP_U8, "1: no later position reads any of the replaced values"),
    COLUMN(identity, LP_U8, NULL, "1: writes back what is there: must change nothing"),
    COLUMN(same_as, LP_I32, NULL, "the first condition with the same effective replacements"),
};

lp_status lp_text_add_number(double value, bool single, lp_text *out, lp_error *err) {
    char text[40];
    if (isnan(value)) return LP_OK;
    for (int digits = single ? 6 : 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        double back = strtod(text, NULL);
        if (single ? (float)back == (float)value : back == value) break;
    }
    return lp_text_add(out, text, strlen(text), err);
}

static const void *member(const lp_result_column *column, const lp_result_condition *condition) {
    return (const char *)condition + column->offset;
}

lp_status lp_result_column_words(const lp_result_column *column, const lp_result_condition *condition, lp_text *out,
                                 lp_error *err) {
    const void *at = member(column, condition);
    switch (column->type) {
    case LP_TEXT: return lp_text_format(out, err, "%s", *(const char *const *)at);
    case LP_I32: return lp_text_format(out, err, "%d", *(const int32_t *)at);
    case LP_U64: return lp_text_format(out, err, "%llu", (unsigned long long)*(const uint64_t *)at);
    case LP_F32: return lp_text_add_number((double)*(const float *)at, true, out, err);
    case LP_U8: return lp_text_format(out, err, "%d", *(const bool *)at);
    default: LP_ASSERT(false); return LP_OK;
    }
}

static lp_status write_texts(hid_t file, const char *path, const lp_result_column *column,
                             const lp_result_condition *conditions, int32_t n, const char *file_name, lp_error *err) {
    const char **texts = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&texts, (size_t)n, sizeof *texts, "conditions", err));
    for (int32_t i = 0; i < n; i++) memcpy(&texts[i], member(column, &conditions[i]), sizeof *texts);
    status = lp_h5_put_strings(file, path, texts, n, column->description, file_name, err);
out:
    lp_mem_free(texts);
    return status;
}

static lp_status write_numbers(hid_t file, const char *path, const lp_result_column *column,
                               const lp_result_condition *conditions, int32_t n, const char *file_name, lp_error *err) {
    size_t bytes = lp_h5_item_bytes(column->type, 0);
    char *numbers = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&numbers, (size_t)n, bytes, "conditions", err));
    for (int32_t i = 0; i < n; i++) memcpy(numbers + (size_t)i * bytes, member(column, &conditions[i]), bytes);
    status = lp_h5_make_dataset(
        file,
        &(lp_h5_dataset){
            .path = path, .type = column->type, .n_dims = 1, .dims = {n}, .description = column->description},
        numbers, NULL, file_name, err);
out:
    lp_mem_free(numbers);
    return status;
}

lp_status lp_result_columns_write(hid_t file, const lp_result_condition *conditions, int32_t n, const char *file_name,
                                  lp_error *err) {
    lp_text path = {0};
    lp_status status = LP_OK;
    _Static_assert(sizeof(bool) == 1, "a flag is written as the byte that it is");
    for (int k = 0; k < LP_N_RESULT_COLUMNS; k++) {
        const lp_result_column *column = &lp_result_columns[k];
        lp_text_clear(&path);
        LP_TRY(lp_text_format(&path, err, "conditions/%s", column->name));
        status = (column->type == LP_TEXT ? write_texts : write_numbers)(file, path.data, column, conditions, n,
                                                                         file_name, err);
        if (status != LP_OK) goto out;
    }
out:
    lp_text_release(&path);
    return status;
}
