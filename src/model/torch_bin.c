#include "model/torch_bin.h"

#include "base/memory.h"
#include "model/pickle.h"
#include "model/torch_zip.h"

static const char PICKLE_NAME[] = "/data.pkl";

/* torch.save before version 1.6: a pickle of this number comes first. */
static bool is_legacy(const void *data, size_t size) {
    static const unsigned char magic[] = {0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, '.'};
    const unsigned char *bytes = data;
    return size >= 2 + sizeof magic && bytes[0] == 0x80 && memcmp(bytes + 2, magic, sizeof magic) == 0;
}

bool lp_torch_bin_recognise(const void *data, size_t size) {
    return (size >= 4 && memcmp(data, "PK\3\4", 4) == 0) || is_legacy(data, size);
}

/* *prefix_length: of "<archive name>" in the names "<archive name>/data.pkl", "<archive name>/data/0". */
static lp_status find_pickle(const lp_zip *zip, const char *file, const lp_zip_entry **out, size_t *prefix_length,
                             lp_error *err) {
    const size_t n = sizeof PICKLE_NAME - 1;
    const lp_zip_entry *found = NULL;
    for (size_t i = 0; i < zip->n; i++) {
        const lp_zip_entry *entry = &zip->entries[i];
        if (entry->name_length <= n || memcmp(entry->name + entry->name_length - n, PICKLE_NAME, n) != 0) continue;
        if (found) return lp_fail(err, LP_ERR_FORMAT, "%s: two entries are named */data.pkl", file);
        found = entry;
    }
    if (!found)
        return lp_fail(err, LP_ERR_FORMAT, "%s: a zip archive, but not a PyTorch checkpoint: no entry */data.pkl",
                       file);
    *prefix_length = found->name_length - n;
    if (lp_zip_find(zip, found->name, *prefix_length, "/constants.pkl", strlen("/constants.pkl")))
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "%s: a TorchScript archive, not a checkpoint: save the module's state_dict() with torch.save",
                       file);
    const lp_zip_entry *order = lp_zip_find(zip, found->name, *prefix_length, "/byteorder", strlen("/byteorder"));
    if (order && (order->size != 6 || memcmp(order->data, "little", 6) != 0))
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: written on a big-endian machine", file);
    *out = found;
    return LP_OK;
}

static int compare_entries(const void *a, const void *b) {
    const lp_zip_entry *left = a, *right = b;
    size_t n = left->name_length < right->name_length ? left->name_length : right->name_length;
    int order = memcmp(left->name, right->name, n);
    if (order != 0) return order;
    return left->name_length < right->name_length ? -1 : left->name_length > right->name_length;
}

/* Zip entries sorted by name, so that each storage is found by bisection. */
static lp_status find_storage(const lp_zip *sorted, const lp_zip_entry *pickle, size_t prefix_length,
                              const lp_pickle_tensor *tensor, const char *file, const lp_zip_entry **out,
                              lp_error *err) {
    const lp_pickle_storage *storage = &tensor->storage;
    lp_text name = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_text_add(&name, pickle->name, prefix_length, err));
    LP_TRY(lp_text_add(&name, "/data/", 6, err));
    LP_TRY(lp_text_add(&name, storage->key, storage->key_length, err));
    lp_zip_entry wanted = {.name = name.data, .name_length = name.length};
    const lp_zip_entry *found = bsearch(&wanted, sorted->entries, sorted->n, sizeof *sorted->entries, compare_entries);
    if (!found)
        LP_FAIL(LP_ERR_FORMAT, "%s: tensor \"%.*s\": its storage, the entry data/%.*s, is missing", file,
                (int)(tensor->name_length < 200 ? tensor->name_length : 200), tensor->name,
                (int)(storage->key_length < 40 ? storage->key_length : 40), storage->key);
    if (found->size / lp_dtype_bytes(storage->dtype) < storage->n_elements)
        LP_FAIL(LP_ERR_FORMAT,
                "%s: tensor \"%.*s\": its storage of %llu %s values needs more than the %zu bytes of data/%.*s", file,
                (int)(tensor->name_length < 200 ? tensor->name_length : 200), tensor->name,
                (unsigned long long)storage->n_elements, lp_dtype_name(storage->dtype), found->size,
                (int)(storage->key_length < 40 ? storage->key_length : 40), storage->key);
    *out = found;
out:
    lp_text_release(&name);
    return status;
}

/* A dict has each key once; a pickle can say one twice (the last counts in Python, but no writer does that). */
static lp_status add_tensors(const lp_pickle_state *state, lp_zip *zip, const lp_zip_entry *pickle,
                             size_t prefix_length, const char *file, lp_tensor_list *out, lp_error *err) {
    lp_zip_entry kept = *pickle;
    qsort(zip->entries, zip->n, sizeof *zip->entries, compare_entries);
    for (size_t i = 0; i < state->n; i++) {
        const lp_pickle_tensor *source = &state->tensors[i];
        const lp_zip_entry *storage = NULL;
        LP_CHECK(find_storage(zip, &kept, prefix_length, source, file, &storage, err));
        lp_tensor tensor = source->shape;
        tensor.file = file;
        tensor.data = storage->data + (size_t)source->offset * lp_dtype_bytes(tensor.dtype);
        LP_CHECK(lp_tensor_list_add(out, &tensor, source->name, source->name_length, err));
    }
    return LP_OK;
}

lp_status lp_torch_bin_parse(const void *data, size_t size, const char *file, lp_tensor_list *out, lp_error *err) {
    lp_zip zip = {0};
    lp_pickle_state state = {0};
    const lp_zip_entry *pickle = NULL;
    size_t prefix_length = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_checkpoint_sniff(data, size, file, err));
    if (is_legacy(data, size))
        LP_FAIL(LP_ERR_UNSUPPORTED,
                "%s: written in PyTorch's old format (before 1.6): convert it with python -c \"import torch; "
                "torch.save(torch.load('OLD.bin', map_location='cpu'), 'NEW.bin')\"",
                file);
    LP_TRY(lp_zip_parse(data, size, file, &zip, err));
    LP_TRY(find_pickle(&zip, file, &pickle, &prefix_length, err));
    LP_TRY(lp_pickle_parse(pickle->data, pickle->size, file, &state, err));
    status = add_tensors(&state, &zip, pickle, prefix_length, file, out, err);
out:
    lp_pickle_release(&state);
    lp_zip_release(&zip);
    return status;
}
