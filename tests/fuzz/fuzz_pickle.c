/* Fuzzes the pickle interpreter. */
#include "model/pickle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_pickle_state state = {0};
    lp_error err = {0};
    if (lp_pickle_parse(data, size, "input", &state, &err) == LP_OK) {
        for (size_t i = 0; i < state.n; i++) {
            const lp_pickle_tensor *t = &state.tensors[i];
            LP_ASSERT(t->name_length > 0 && !memchr(t->name, 0, t->name_length));
            LP_ASSERT(t->offset >= 0 && t->shape.n_elements >= 0 && t->shape.dtype == t->storage.dtype);
            LP_ASSERT((uint64_t)t->offset <= t->storage.n_elements);
        }
    } else {
        LP_ASSERT(err.text[0] != '\0' && state.n == 0);
    }
    lp_pickle_release(&state);
    return 0;
}
