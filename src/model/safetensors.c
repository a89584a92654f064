#include "model/safetensors.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/reader.h"

typedef struct {
    uint64_t begin, end;
    size_t tensor; /* index in the list */
} data_range;

static const struct {
    const char *name;
    lp_dtype dtype;
} DTYPES[] = {{"F32", LP_F32}, {"F16", LP_F16}, {"BF16", LP_BF16}, {"F64", LP_F64}, {"I64", LP_I64},
              {"I32", LP_I32}, {"I16", LP_I16}, {"I8", LP_I8},     {"U8", LP_U8},   {"BOOL", LP_BOOL}};

static lp_status read_dtype(const lp_json *entry, lp_dtype *out, lp_error *err) {
    lp_json value;
    const char *name = NULL;
    LP_CHECK(lp_json_get(entry, "dtype", &value, err));
    LP_CHECK(lp_json_string(&value, &name, err));
    for (size_t i = 0; i < sizeof DTYPES / sizeof *DTYPES; i++)
        if (strcmp(DTYPES[i].name, name) == 0) {
            *out = DTYPES[i].dtype;
            return LP_OK;
        }
    return lp_json_fail(&value, err, "a dtype that is supported (F32, F16, BF16, F64, I64, I32, I16, I8, U8, BOOL)");
}

static lp_status read_shape(const lp_json *entry, lp_tensor *tensor, lp_error *err) {
    lp_json shape, item;
    size_t n_dims = 0;
    LP_CHECK(lp_json_get(entry, "shape", &shape, err));
    LP_CHECK(lp_json_array_size(&shape, &n_dims, err));
    if (n_dims > LP_TENSOR_MAX_DIMS) return lp_json_fail(&shape, err, "at most %d dimensions", LP_TENSOR_MAX_DIMS);
    tensor->n_dims = (int)n_dims;
    for (size_t d = 0; d < n_dims; d++) {
        LP_CHECK(lp_json_at(&shape, d, &item, err));
        LP_CHECK(lp_json_int(&item, 0, INT64_C(1) << 53, &tensor->shape[d], err));
    }
    lp_status status = lp_tensor_set_shape(tensor, err);
    if (status != LP_OK) lp_error_prefix(err, "%s: %s", shape.file, shape.path);
    return status;
}

static lp_status read_offsets(const lp_json *entry, uint64_t n_data, data_range *out, lp_error *err) {
    lp_json offsets, item;
    size_t n = 0;
    int64_t value[2] = {0};
    LP_CHECK(lp_json_get(entry, "data_offsets", &offsets, err));
    LP_CHECK(lp_json_array_size(&offsets, &n, err));
    if (n != 2) return lp_json_fail(&offsets, err, "two offsets");
    for (size_t i = 0; i < 2; i++) {
        LP_CHECK(lp_json_at(&offsets, i, &item, err));
        LP_CHECK(lp_json_int(&item, 0, INT64_C(1) << 53, &value[i], err));
    }
    if (value[0] > value[1] || (uint64_t)value[1] > n_data)
        return lp_json_fail(&offsets, err, "begin <= end <= the %llu data bytes of the file (is it cut short?)",
                            (unsigned long long)n_data);
    out->begin = (uint64_t)value[0];
    out->end = (uint64_t)value[1];
    return LP_OK;
}

static lp_status read_entry(const lp_json *entry, const unsigned char *data, uint64_t n_data, lp_tensor_list *list,
                            data_range *range, lp_error *err) {
    static const char *const keys[] = {"dtype", "shape", "data_offsets", NULL};
    lp_tensor tensor = {.file = entry->file};
    LP_CHECK(lp_json_only(entry, keys, err));
    LP_CHECK(read_dtype(entry, &tensor.dtype, err));
    LP_CHECK(read_shape(entry, &tensor, err));
    LP_CHECK(read_offsets(entry, n_data, range, err));
    uint64_t bytes = 0;
    const char *name = entry->node->string;
    if (!lp_mul_u64((uint64_t)tensor.n_elements, lp_dtype_bytes(tensor.dtype), &bytes) ||
        bytes != range->end - range->begin) {
        char shape[128];
        lp_tensor_shape_text(&tensor, shape, sizeof shape);
        return lp_fail(err, LP_ERR_FORMAT, "%s: tensor \"%.200s\": %s %s needs %llu bytes, its data_offsets hold %llu",
                       entry->file, name, shape, lp_dtype_name(tensor.dtype), (unsigned long long)bytes,
                       (unsigned long long)(range->end - range->begin));
    }
    tensor.data = data + range->begin;
    range->tensor = list->n;
    return lp_tensor_list_add(list, &tensor, name, strlen(name), err);
}

static int compare_ranges(const void *a, const void *b) {
    const data_range *left = a, *right = b;
    if (left->begin != right->begin) return left->begin < right->begin ? -1 : 1;
    if (left->end != right->end) return left->end < right->end ? -1 : 1;
    return 0;
}

static lp_status check_cover(data_range *ranges, size_t n, uint64_t n_data, const char *file,
                             const lp_tensor_list *list, lp_error *err) {
    if (n) qsort(ranges, n, sizeof *ranges, compare_ranges);
    uint64_t covered = 0;
    for (size_t i = 0; i < n; i++) {
        if (ranges[i].begin != covered)
            return lp_fail(err, LP_ERR_FORMAT, "%s: tensor \"%.200s\" begins at data byte %llu, expected %llu: %s",
                           file, list->items[ranges[i].tensor].name, (unsigned long long)ranges[i].begin,
                           (unsigned long long)covered,
                           ranges[i].begin < covered ? "it overlaps the one before" : "there is a gap before it");
        covered = ranges[i].end;
    }
    if (covered != n_data)
        return lp_fail(err, LP_ERR_FORMAT, "%s: %llu bytes after the last tensor belong to none", file,
                       (unsigned long long)(n_data - covered));
    return LP_OK;
}

static lp_status check_metadata(const lp_json *metadata, lp_error *err) {
    lp_json item;
    const char *text = NULL;
    if (!lp_json_is_object(metadata)) return lp_json_fail(metadata, err, "an object of strings");
    for (lp_json_first(metadata, &item); item.node; lp_json_next(metadata, &item))
        LP_CHECK(lp_json_string(&item, &text, err));
    return LP_OK;
}

lp_status lp_safetensors_parse(const void *data, size_t size, const char *file, lp_tensor_list *out, lp_error *err) {
    lp_reader reader = lp_reader_make(data, size, file);
    uint64_t n_header = 0;
    const unsigned char *header = NULL;
    cJSON *document = NULL;
    data_range *ranges = NULL;
    size_t n_ranges = 0, range_capacity = 0;
    lp_json root, entry;
    lp_status status = LP_OK;

    LP_TRY(lp_checkpoint_sniff(data, size, file, err));
    LP_TRY(lp_read_u64(&reader, &n_header, err));
    if (n_header > LP_SAFETENSORS_MAX_HEADER)
        LP_FAIL(LP_ERR_FORMAT, "%s: not a safetensors file: its first 8 bytes say a header of %llu bytes, at most %d",
                file, (unsigned long long)n_header, LP_SAFETENSORS_MAX_HEADER);
    LP_TRY(lp_read_bytes(&reader, (size_t)n_header, &header, err));
    if (n_header == 0 || header[0] != '{')
        LP_FAIL(LP_ERR_FORMAT, "%s: not a safetensors file: its header does not begin with '{'", file);
    LP_TRY(lp_json_parse((const char *)header, (size_t)n_header, file, &document, &root, err));
    uint64_t n_data = lp_reader_left(&reader);
    const unsigned char *first = reader.data + reader.offset;
    for (lp_json_first(&root, &entry); entry.node; lp_json_next(&root, &entry)) {
        if (strcmp(entry.node->string, "__metadata__") == 0) {
            LP_TRY(check_metadata(&entry, err));
            continue;
        }
        LP_TRY(lp_mem_grow(&ranges, &range_capacity, n_ranges + 1, sizeof *ranges, "tensor ranges", err));
        LP_TRY(read_entry(&entry, first, n_data, out, &ranges[n_ranges], err));
        n_ranges++;
    }
    status = check_cover(ranges, n_ranges, n_data, file, out, err);
out:
    lp_mem_free(ranges);
    cJSON_Delete(document);
    return status;
}
