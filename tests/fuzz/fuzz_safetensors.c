/* Fuzzes the safetensors reader: whatever it accepts must lie inside the input, which widening every element shows. */
#include "model/safetensors.h"
#include "tensor_walk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_tensor_list list = {0};
    lp_error err = {0};
    if (lp_safetensors_parse(data, size, "input", &list, &err) == LP_OK)
        walk_tensors(&list, data, size);
    else
        LP_ASSERT(err.text[0] != '\0');
    lp_tensor_list_release(&list);
    return 0;
}
