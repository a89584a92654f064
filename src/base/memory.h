/* Memory: aligned allocation that reports failure as an error and counts what is live.
 *
 * Every large or data-dependent buffer of the program comes from here, so that the counters can be part of
 * the tests (memory bounds, no allocation inside the layer loop). Not thread-local: the counters are atomic.
 */
#ifndef LP_BASE_MEMORY_H
#define LP_BASE_MEMORY_H

#include "base/error.h"

enum { LP_ALIGNMENT = 64 };

/* *out = n_items x item_bytes zeroed bytes, aligned to LP_ALIGNMENT; caller frees with lp_mem_free.
 * Zero items give a valid pointer. Fails on overflow of the product and when memory is out; `what` names the
 * buffer in the message. *out is left alone on failure. */
lp_status lp_mem_new(void *out, size_t n_items, size_t item_bytes, const char *what, lp_error *err);

/* Grows *block (NULL or from lp_mem_new) to at least n_items, keeping its contents; new items are zero.
 * *capacity is updated; growth is geometric. */
lp_status lp_mem_grow(void *block, size_t *capacity, size_t n_items, size_t item_bytes, const char *what,
                      lp_error *err);

/* NULL is accepted. */
void lp_mem_free(void *block);

/* *out = a copy of text[0..length) with a final NUL, aligned to 16 bytes; caller frees with lp_mem_free. */
lp_status lp_mem_text(char **out, const char *text, size_t length, lp_error *err);
/* The same for a C string. */
lp_status lp_mem_strdup(char **out, const char *text, lp_error *err);

typedef struct {
    size_t live_bytes;
    size_t peak_bytes;
    uint64_t n_allocations; /* ever */
} lp_mem_counters;
lp_mem_counters lp_mem_count(void);

#endif
