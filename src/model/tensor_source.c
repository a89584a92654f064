#include "model/tensor_source.h"

#include "base/memory.h"

#include <strings.h>

lp_status lp_tensor_list_add(lp_tensor_list *list, const lp_tensor *tensor, const char *name, size_t name_length,
                             lp_error *err) {
    LP_CHECK(lp_mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items, "tensor list", err));
    lp_tensor added = *tensor;
    LP_CHECK(lp_mem_text(&added.name, name, name_length, err));
    list->items[list->n++] = added;
    return LP_OK;
}

void lp_tensor_list_release(lp_tensor_list *list) {
    for (size_t i = 0; i < list->n; i++) lp_mem_free(list->items[i].name);
    lp_mem_free(list->items);
    *list = (lp_tensor_list){0};
}

lp_status lp_tensor_set_shape(lp_tensor *tensor, lp_error *err) {
    int64_t n = 1;
    bool empty = false, overflow = false;
    for (int d = tensor->n_dims; d-- > 0;) {
        tensor->strides[d] = n;
        if (tensor->shape[d] == 0)
            empty = true;
        else if (__builtin_mul_overflow(n, tensor->shape[d], &n))
            overflow = true;
        if (overflow) break;
    }
    if (overflow) return lp_fail(err, LP_ERR_FORMAT, "the product of the shape does not fit into 64 bits");
    tensor->n_elements = empty ? 0 : n;
    return LP_OK;
}

bool lp_tensor_is_contiguous(const lp_tensor *tensor) {
    int64_t expected = 1;
    for (int d = tensor->n_dims; d-- > 0;) {
        if (tensor->shape[d] != 1 && tensor->strides[d] != expected) return false;
        expected *= tensor->shape[d];
    }
    return true;
}

lp_tensor lp_tensor_block(const lp_tensor *tensor, int64_t row, int64_t n_rows, int64_t column, int64_t n_columns) {
    LP_ASSERT(tensor->n_dims == 1 || tensor->n_dims == 2);
    lp_tensor block = *tensor;
    int last = tensor->n_dims - 1;
    int64_t at = column * tensor->strides[last] + (last ? row * tensor->strides[0] : 0);
    block.data += (size_t)at * lp_dtype_bytes(tensor->dtype);
    block.shape[0] = n_rows;
    block.shape[last] = n_columns;
    block.n_elements = n_rows * n_columns;
    return block;
}

void lp_tensor_shape_text(const lp_tensor *tensor, char *out, size_t out_size) {
    size_t used = 0;
    int n = snprintf(out, out_size, "[");
    used += (size_t)n;
    for (int d = 0; d < tensor->n_dims && used < out_size; d++) {
        n = snprintf(out + used, out_size - used, "%s%lld", d ? ", " : "", (long long)tensor->shape[d]);
        used += (size_t)n;
    }
    if (used < out_size) snprintf(out + used, out_size - used, "]");
}

enum { TILE = 64, QUAD = 4 };

static void round_all(float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++) values[i] = lp_round_f16(values[i]);
}

/* Rows whose elements lie side by side in the file. */
static void widen_rows(const lp_tensor *tensor, int64_t rows, int64_t columns, int64_t row_stride,
                       lp_widen_rounding rounding, float *dst, int64_t ld) {
    size_t item = lp_dtype_bytes(tensor->dtype);
    for (int64_t i = 0; i < rows; i++) {
        lp_to_f32(tensor->data + (size_t)(i * row_stride) * item, tensor->dtype, dst + i * ld, (size_t)columns);
        if (rounding == LP_WIDEN_THROUGH_F16) round_all(dst + i * ld, columns);
    }
}

enum { TILE_STRIDE = TILE + QUAD }; /* not a power of two: its rows would share cache sets */

/* dst[i * ld + j] = tile[j * TILE_STRIDE + i], four by four, which compilers turn into shuffles. */
static void turn_tile(const float *tile, int64_t n_i, int64_t n_j, float *dst, int64_t ld) {
    int64_t whole_i = n_i / QUAD * QUAD, whole_j = n_j / QUAD * QUAD;
    for (int64_t i = 0; i < whole_i; i += QUAD)
        for (int64_t j = 0; j < whole_j; j += QUAD)
            for (int k = 0; k < QUAD; k++)
                for (int m = 0; m < QUAD; m++) dst[(i + k) * ld + j + m] = tile[(j + m) * TILE_STRIDE + i + k];
    for (int64_t i = 0; i < n_i; i++)
        for (int64_t j = i < whole_i ? whole_j : 0; j < n_j; j++) dst[i * ld + j] = tile[j * TILE_STRIDE + i];
}

/* Columns whose elements lie side by side: through a tile, so that reads and writes are both in runs. */
static void widen_columns(const lp_tensor *tensor, int64_t rows, int64_t columns, int64_t column_stride,
                          lp_widen_rounding rounding, float *dst, int64_t ld) {
    float tile[TILE * TILE_STRIDE];
    size_t item = lp_dtype_bytes(tensor->dtype);
    for (int64_t i0 = 0; i0 < rows; i0 += TILE) {
        int64_t n_i = rows - i0 < TILE ? rows - i0 : TILE;
        for (int64_t j0 = 0; j0 < columns; j0 += TILE) {
            int64_t n_j = columns - j0 < TILE ? columns - j0 : TILE;
            for (int64_t j = 0; j < n_j; j++) {
                float *row = tile + j * TILE_STRIDE;
                const unsigned char *src = tensor->data + (size_t)((j0 + j) * column_stride + i0) * item;
                lp_to_f32(src, tensor->dtype, row, (size_t)n_i);
                if (rounding == LP_WIDEN_THROUGH_F16) round_all(row, n_i);
            }
            turn_tile(tile, n_i, n_j, dst + i0 * ld + j0, ld);
        }
    }
}

void lp_tensor_widen(const lp_tensor *tensor, lp_widen_order order, lp_widen_rounding rounding, float *dst,
                     int64_t ld) {
    LP_ASSERT(tensor->n_dims == 1 || tensor->n_dims == 2);
    int row_dim = tensor->n_dims - 2, column_dim = tensor->n_dims - 1;
    int64_t rows = row_dim < 0 ? 1 : tensor->shape[row_dim];
    int64_t row_stride = row_dim < 0 ? 0 : tensor->strides[row_dim];
    int64_t columns = tensor->shape[column_dim], column_stride = tensor->strides[column_dim];
    if (order == LP_WIDEN_TRANSPOSED) {
        int64_t kept = rows, kept_stride = row_stride;
        rows = columns;
        row_stride = column_stride;
        columns = kept;
        column_stride = kept_stride;
    }
    if (column_stride == 1 || columns == 1) {
        widen_rows(tensor, rows, columns, row_stride, rounding, dst, ld);
    } else if (row_stride == 1) {
        widen_columns(tensor, rows, columns, column_stride, rounding, dst, ld);
    } else {
        size_t item = lp_dtype_bytes(tensor->dtype);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < columns; j++) {
                float *value = dst + i * ld + j;
                lp_to_f32(tensor->data + (size_t)(i * row_stride + j * column_stride) * item, tensor->dtype, value, 1);
                if (rounding == LP_WIDEN_THROUGH_F16) round_all(value, 1);
            }
    }
}

lp_status lp_checkpoint_sniff(const void *data, size_t size, const char *file, lp_error *err) {
    static const char lfs[] = "version https://git-lfs.github.com/spec/";
    const char *text = data;
    if (size == 0) return lp_fail(err, LP_ERR_FORMAT, "%s: the file is empty", file);
    if (size >= sizeof lfs - 1 && memcmp(text, lfs, sizeof lfs - 1) == 0)
        return lp_fail(err, LP_ERR_FORMAT,
                       "%s: this is a Git LFS pointer, not the file: fetch it with `git lfs pull`, or download it "
                       "from the model's page",
                       file);
    size_t at = size >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    while (at < size && at < 1024 && strchr(" \t\r\n", text[at]) && text[at]) at++;
    static const char *const openings[] = {"<!doctype html", "<html", "<head", "<?xml"};
    for (size_t i = 0; i < sizeof openings / sizeof *openings; i++) {
        size_t n = strlen(openings[i]);
        if (size - at >= n && strncasecmp(text + at, openings[i], n) == 0)
            return lp_fail(err, LP_ERR_FORMAT,
                           "%s: this is an HTML page, not the file: download the file itself (the page's "
                           "\"download\" or \"resolve\" link)",
                           file);
    }
    return LP_OK;
}
