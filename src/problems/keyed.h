/* Indices that are sorted by a key: use qsort with lp_keyed_compare. */
#ifndef LP_PROBLEMS_KEYED_H
#define LP_PROBLEMS_KEYED_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t key;
    size_t index;
} lp_keyed;

static inline int lp_keyed_compare(const void *a, const void *b) {
    const lp_keyed *left = a, *right = b;
    if (left->key != right->key) return left->key < right->key ? -1 : 1;
    return left->index < right->index ? -1 : left->index > right->index;
}

#endif
