/* Fuzzes the zip reader, and the whole .bin reader on top of it. */
#include "model/torch_bin.h"
#include "model/torch_zip.h"
#include "tensor_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_zip zip = {0};
    lp_tensor_list list = {0};
    lp_error err = {0};
    if (lp_zip_parse(data, size, "input", &zip, &err) == LP_OK) {
        for (size_t i = 0; i < zip.n; i++) {
            const lp_zip_entry *entry = &zip.entries[i];
            LP_ASSERT(entry->data >= data && entry->size <= size && (size_t)(entry->data - data) <= size - entry->size);
            LP_ASSERT(lp_zip_find(&zip, entry->name, entry->name_length, "", 0) != NULL);
        }
    } else {
        LP_ASSERT(err.text[0] != '\0' && zip.n == 0);
    }
    lp_zip_release(&zip);
    if (lp_torch_bin_parse(data, size, "input", &list, &err) == LP_OK) walk_tensors(&list, data, size);
    lp_tensor_list_release(&list);
    return 0;
}
