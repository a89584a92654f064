/* Reader of what torch.save writes for a state dict: a zip archive whose data.pkl describes the tensors and whose
 * entries data/0, data/1, ... are the bytes of their storages. Tensors stay where they are in the file; nothing is
 * copied or run. The old format (before PyTorch 1.6) is refused with the way to convert it. */
#ifndef LP_MODEL_TORCH_BIN_H
#define LP_MODEL_TORCH_BIN_H

#include "model/tensor_source.h"

/* True for a zip archive, and for the old format (so that its parse can say what it is). */
bool lp_torch_bin_recognise(const void *data, size_t size);

/* Adds every tensor of the state dict to *out; elements are borrowed from data, `file` (for messages) too. */
lp_status lp_torch_bin_parse(const void *data, size_t size, const char *file, lp_tensor_list *out, lp_error *err);

#endif
