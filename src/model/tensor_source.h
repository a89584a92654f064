/* A tensor of a checkpoint file, whatever the format: name, element type, shape, strides and a pointer to its first
 * element inside the mapped file. The readers (safetensors, torch_bin) fill lists of these; nobody above them knows
 * which format a tensor came from.
 *
 * A list owns the names of its tensors; the elements and the file's name are borrowed from the map. A tensor in a list
 * has been checked: every element that its shape and strides reach lies inside the file. */
#ifndef LP_MODEL_TENSOR_SOURCE_H
#define LP_MODEL_TENSOR_SOURCE_H

#include "base/dtype.h"
#include "base/error.h"
#include "base/text.h"

enum { LP_TENSOR_MAX_DIMS = 8 };

typedef struct {
    char *name;
    const char *file; /* for messages */
    lp_dtype dtype;
    int n_dims;                          /* 0: a scalar */
    int64_t shape[LP_TENSOR_MAX_DIMS];   /* >= 0 */
    int64_t strides[LP_TENSOR_MAX_DIMS]; /* in elements, >= 0 */
    int64_t n_elements;                  /* product of the shape */
    const unsigned char *data;           /* of any alignment */
} lp_tensor;

typedef struct {
    lp_tensor *items; /* [n], in the order of the file */
    size_t n, capacity;
} lp_tensor_list;

/* Adds a copy of *tensor with a name of its own, name[0..name_length). */
lp_status lp_tensor_list_add(lp_tensor_list *list, const lp_tensor *tensor, const char *name, size_t name_length,
                             lp_error *err);
void lp_tensor_list_release(lp_tensor_list *list);

/* Sets n_elements and row-major strides from n_dims and shape. Fails where the product does not fit into 63 bits. */
lp_status lp_tensor_set_shape(lp_tensor *tensor, lp_error *err);
/* Row-major without gaps (strides of dimensions of size 1 do not matter). */
bool lp_tensor_is_contiguous(const lp_tensor *tensor);
/* Rows row .. row + n_rows - 1 and columns column .. column + n_columns - 1 of a tensor of two dimensions, or of one
 * (then it has one row); it borrows the tensor's name and elements. */
lp_tensor lp_tensor_block(const lp_tensor *tensor, int64_t row, int64_t n_rows, int64_t column, int64_t n_columns);
/* "[2, 3]" into out, shortened to its size. */
void lp_tensor_shape_text(const lp_tensor *tensor, char *out, size_t out_size);

/* How matrix element (i, j) of the result is found in the tensor. */
typedef enum { LP_WIDEN_AS_STORED, LP_WIDEN_TRANSPOSED } lp_widen_order;
typedef enum { LP_WIDEN_EXACT, LP_WIDEN_THROUGH_F16 } lp_widen_rounding;

/* dst[i * ld + j] = tensor[i, j] (or tensor[j, i]) as float32, for a tensor of 1 (then rows = 1) or 2 dimensions and
 * dtype F32, F16 or BF16. THROUGH_F16 rounds each value to the nearest f16 on the way. */
void lp_tensor_widen(const lp_tensor *tensor, lp_widen_order order, lp_widen_rounding rounding, float *dst, int64_t ld);

/* Recognises what is not a checkpoint at all but is often found in its place: an empty file, a Git LFS pointer, an HTML
 * page. Fails saying so; LP_OK for anything else. */
lp_status lp_checkpoint_sniff(const void *data, size_t size, const char *file, lp_error *err);

#endif
