/* What the conformance programs' parts share: a backend under test, device arrays, and comparisons that print both
 * values. No test library, so that the program runs on a bare GPU machine. */
#ifndef LP_TESTS_CUDA_CONFORMANCE_H
#define LP_TESTS_CUDA_CONFORMANCE_H

#include "backend/backend.h"
#include "backend/device.h"

typedef struct {
    lp_backend *be;
    lp_dtype_use dtype;
    bool small; /* leave out the large sizes */
    int n_checks, n_failed;
    lp_error err;
} conformance;

/* Ends the program with the backend's message when an operation fails. */
#define RUN(call) conformance_run(c, (call), #call, __LINE__)
void conformance_run(conformance *c, lp_status status, const char *call, int line);

/* n normal numbers; freed with lp_mem_free. */
float *conformance_normal(uint32_t stream, size_t n);
void *conformance_zeros(size_t bytes);

/* Device copies, with LP_ROW_PADDING rows of `row` items more; freed with the backend's release. */
void *conformance_to_device(conformance *c, const void *host, size_t n_items, size_t item_bytes, size_t row);
float *conformance_floats(conformance *c, const float *host, size_t n, size_t row);
int32_t *conformance_ints(conformance *c, const int32_t *host, size_t n);
void conformance_fetch(conformance *c, void *host, const void *dev, size_t bytes);

/* Room for an operand, or floats, of n rows: nothing of it is a number yet. Freed with the backend's release. */
float *conformance_operand_room(conformance *c, size_t n, size_t width);
/* dev has floats [n, width] as operands. */
void conformance_same_operand(conformance *c, const void *dev, const float *floats, int32_t n, int32_t width,
                              const char *operation);

/* x rounded to what keys and values are held as. */
float conformance_held(const conformance *c, float x);

/* max |got - want| <= bound * max |want| */
void conformance_near(conformance *c, const float *got, const double *want, size_t n, double bound, const char *format,
                      ...) __attribute__((format(printf, 6, 7)));
/* The same bits. */
void conformance_same(conformance *c, const void *got, const void *want, size_t bytes, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
void conformance_true(conformance *c, bool condition, const char *format, ...) __attribute__((format(printf, 3, 4)));

void conformance_attention(conformance *c);
void conformance_weights(conformance *c);
void conformance_shapes(conformance *c);

#endif
