/* Reader of safetensors files (huggingface/safetensors, "Format"): 8 bytes header length N, N bytes of JSON
 * { "name": {"dtype", "shape", "data_offsets": [begin, end]}, ..., "__metadata__": {...} }, then the data.
 *
 * As strict as the reference implementation: the header is at most 100 MB, names are unique, and the tensors' ranges
 * cover the data exactly, without overlaps and without gaps. Knows nothing of what the tensors are for. */
#ifndef LP_MODEL_SAFETENSORS_H
#define LP_MODEL_SAFETENSORS_H

#include "model/tensor_source.h"

enum { LP_SAFETENSORS_MAX_HEADER = 100000000 };

/* Adds every tensor of the file's bytes [size] to *out; elements are borrowed from data, `file` (for messages) too.
 * On failure *out may hold some of them. This is the fuzz target. */
lp_status lp_safetensors_parse(const void *data, size_t size, const char *file, lp_tensor_list *out, lp_error *err);

#endif
