#include "model/weight_source.h"

#include "base/file.h"

#include <math.h>

static void tell(const lp_tensor *tensor, void (*hint)(const void *bytes, size_t n)) {
    if (tensor && lp_tensor_is_contiguous(tensor))
        hint(tensor->data, (size_t)tensor->n_elements * lp_dtype_bytes(tensor->dtype));
}

static void tell_all(const lp_weight_source *source, void (*hint)(const void *bytes, size_t n)) {
    tell(source->tensor, hint);
    tell(source->lora_a, hint);
    tell(source->lora_b, hint);
}

void lp_weight_source_want(const lp_weight_source *source) {
    tell_all(source, lp_pages_want);
}

void lp_weight_source_let_go(const lp_weight_source *source) {
    tell_all(source, lp_pages_let_go);
}

static bool is_finite(const lp_tensor *tensor) {
    int64_t columns = tensor->shape[tensor->n_dims - 1], rows = tensor->n_dims == 2 ? tensor->shape[0] : 1;
    size_t item = lp_dtype_bytes(tensor->dtype);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            int64_t at = j * tensor->strides[tensor->n_dims - 1] + (tensor->n_dims == 2 ? i * tensor->strides[0] : 0);
            float value = 0;
            lp_to_f32(tensor->data + (size_t)at * item, tensor->dtype, &value, 1);
            if (!isfinite(value)) return false;
        }
    return true;
}

lp_status lp_weight_source_refuse(const lp_weight_source *source, lp_error *err) {
    const lp_tensor *parts[] = {source->tensor, source->lora_a, source->lora_b};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i] && !is_finite(parts[i]))
            return lp_fail(err, LP_ERR_VALUE, "%s: tensor \"%.200s\" holds NaN or infinity", parts[i]->file,
                           parts[i]->name);
    return lp_fail(err, LP_ERR_VALUE, "%s: tensor \"%.200s\" becomes infinite when it is %s", source->tensor->file,
                   source->tensor->name, source->lora_a ? "rounded or merged with its LoRA update" : "rounded to fp16");
}
