/* For the fuzz targets of the tensor formats: touches every element of every tensor that was accepted. */
#ifndef LP_TESTS_FUZZ_TENSOR_WALK_H
#define LP_TESTS_FUZZ_TENSOR_WALK_H

#include "model/tensor_source.h"

/* Views with stride 0 can have more elements than the input has bytes: those are only looked at. */
enum { WALK_MAX_ELEMENTS = 1 << 14 };

static inline void walk_tensors(const lp_tensor_list *list, const uint8_t *data, size_t size) {
    static float out[WALK_MAX_ELEMENTS];
    for (size_t i = 0; i < list->n; i++) {
        const lp_tensor *t = &list->items[i];
        LP_ASSERT(t->n_dims <= LP_TENSOR_MAX_DIMS && t->n_elements >= 0);
        if (t->n_elements == 0) continue;
        size_t reach = lp_dtype_bytes(t->dtype);
        for (int d = 0; d < t->n_dims; d++)
            reach += (size_t)(t->shape[d] - 1) * (size_t)t->strides[d] * lp_dtype_bytes(t->dtype);
        LP_ASSERT(t->data >= data && reach <= size && (size_t)(t->data - data) <= size - reach);
        bool widens = t->dtype == LP_F32 || t->dtype == LP_F16 || t->dtype == LP_BF16;
        if (!widens || t->n_dims < 1 || t->n_dims > 2 || t->n_elements > WALK_MAX_ELEMENTS) continue;
        int64_t rows = t->n_dims == 2 ? t->shape[0] : 1;
        lp_tensor_widen(t, LP_WIDEN_AS_STORED, LP_WIDEN_EXACT, out, t->n_elements / rows);
        lp_tensor_widen(t, LP_WIDEN_TRANSPOSED, LP_WIDEN_THROUGH_F16, out, rows);
    }
}

#endif
