#include "base/memory.h"

#include <stdatomic.h>

/* Right in front of the block. */
typedef struct {
    size_t bytes;
    void *raw; /* what calloc gave */
} block_header;

_Static_assert(sizeof(block_header) == 16, "a header is as wide as what calloc aligns to");

static atomic_size_t live_bytes;
static atomic_size_t peak_bytes;
static atomic_uint_fast64_t n_allocations;

static void count_up(size_t bytes) {
    size_t live = atomic_fetch_add(&live_bytes, bytes) + bytes;
    size_t peak = atomic_load(&peak_bytes);
    while (live > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, live)) {
    }
    atomic_fetch_add(&n_allocations, 1);
}

/* calloc, not aligned_alloc and memset: large blocks come zeroed from the system, and pages that are never touched take
 * no memory. calloc aligns to 16 bytes, as wide as the header is. */
static lp_status new_block(void *out, size_t bytes, size_t alignment, const char *what, lp_error *err) {
    size_t total = bytes + alignment;
    unsigned char *raw = calloc(1, total);
    if (!raw) return lp_fail(err, LP_ERR_MEMORY, "%s: out of memory: %zu bytes wanted", what, bytes);
    void *block = raw + alignment - (uintptr_t)raw % alignment;
    *((block_header *)block - 1) = (block_header){.bytes = total, .raw = raw};
    count_up(total);
    memcpy(out, &block, sizeof block);
    return LP_OK;
}

lp_status lp_mem_new(void *out, size_t n_items, size_t item_bytes, const char *what, lp_error *err) {
    size_t bytes = 0;
    if (__builtin_mul_overflow(n_items, item_bytes, &bytes) || bytes > SIZE_MAX / 2)
        return lp_fail(err, LP_ERR_MEMORY, "%s: size overflows: %zu items of %zu bytes", what, n_items, item_bytes);
    return new_block(out, bytes, LP_ALIGNMENT, what, err);
}

void lp_mem_free(void *block) {
    if (!block) return;
    const block_header *header = (const block_header *)block - 1;
    atomic_fetch_sub(&live_bytes, header->bytes);
    free(header->raw);
}

enum { SMALL_ITEM_BYTES = 128 };

lp_status lp_mem_grow(void *block, size_t *capacity, size_t n_items, size_t item_bytes, const char *what,
                      lp_error *err) {
    void *old = NULL;
    memcpy(&old, block, sizeof old);
    if (old && n_items <= *capacity) return LP_OK;
    /* Many short lists of large items must not take memory for items that they never get. */
    const size_t least = item_bytes < SMALL_ITEM_BYTES ? 16 : 1;
    size_t wanted = *capacity < least ? least : *capacity;
    while (wanted < n_items) {
        if (wanted > SIZE_MAX / 2) return lp_fail(err, LP_ERR_MEMORY, "%s: too many items: %zu", what, n_items);
        wanted += (wanted + 1) / 2;
    }
    void *fresh = NULL;
    LP_CHECK(lp_mem_new(&fresh, wanted, item_bytes, what, err));
    if (old) memcpy(fresh, old, *capacity * item_bytes);
    lp_mem_free(old);
    memcpy(block, &fresh, sizeof fresh);
    *capacity = wanted;
    return LP_OK;
}

lp_status lp_mem_text(char **out, const char *text, size_t length, lp_error *err) {
    char *copy = NULL;
    LP_CHECK(new_block(&copy, length + 1, sizeof(block_header), "text", err));
    if (length) memcpy(copy, text, length);
    *out = copy;
    return LP_OK;
}

lp_status lp_mem_strdup(char **out, const char *text, lp_error *err) {
    return lp_mem_text(out, text, strlen(text), err);
}

lp_mem_counters lp_mem_count(void) {
    return (lp_mem_counters){.live_bytes = atomic_load(&live_bytes),
                             .peak_bytes = atomic_load(&peak_bytes),
                             .n_allocations = atomic_load(&n_allocations)};
}
