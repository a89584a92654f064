/* An interpreter for the pickles inside PyTorch checkpoints. It runs nothing: it knows the opcodes that torch.save
 * writes (protocols 2 to 5), and of all the callables that a pickle can name only those that build a state dict:
 *   collections.OrderedDict, torch._utils._rebuild_tensor_v2, torch._utils._rebuild_parameter,
 *   and the storage types torch.{Float,Half,BFloat16,Double,Long,Int,Short,Char,Byte,Bool}Storage.
 * Any other opcode or global is an error that names it. The result is the list of the tensors of the top-level dict;
 * where their bytes are is the caller's business. */
#ifndef LP_MODEL_PICKLE_H
#define LP_MODEL_PICKLE_H

#include "model/tensor_source.h"

typedef struct {
    const char *key; /* [key_length], borrowed from the pickle: the storage is the zip entry data/<key> */
    size_t key_length;
    lp_dtype dtype;
    uint64_t n_elements;
} lp_pickle_storage;

typedef struct {
    const char *name; /* [name_length], borrowed from the pickle: valid UTF-8 without NUL */
    size_t name_length;
    lp_pickle_storage storage;
    int64_t offset;  /* of the first element in the storage, in elements */
    lp_tensor shape; /* dtype, n_dims, shape, strides, n_elements; data is NULL. Lies inside the storage. */
} lp_pickle_tensor;

typedef struct {
    lp_pickle_tensor *tensors; /* [n], in the order of the dict */
    size_t n, capacity;
} lp_pickle_state;

/* data [size]; `file` names it in messages. On success the caller releases *out. This is the fuzz target. */
lp_status lp_pickle_parse(const void *data, size_t size, const char *file, lp_pickle_state *out, lp_error *err);
void lp_pickle_release(lp_pickle_state *state);

#endif
