/* Contiguous ranges of numbered slots: taken first-fit, given back, joined with their neighbours. */
#ifndef LP_PATCH_SLOTS_H
#define LP_PATCH_SLOTS_H

#include "base/error.h"

typedef struct {
    int32_t begin, n;
} lp_slot_range;

typedef struct {
    int32_t n;           /* slots in all */
    lp_slot_range *free; /* [n_free] by begin, never touching */
    size_t n_free;
    size_t capacity;
} lp_slots;

lp_status lp_slots_init(lp_slots *slots, int32_t n, lp_error *err);
void lp_slots_release(lp_slots *slots);
/* First slot of n >= 0 free ones in a row, or -1. */
int32_t lp_slots_take(lp_slots *slots, int32_t n);
/* Gives back a range that was taken. */
void lp_slots_give(lp_slots *slots, int32_t begin, int32_t n);

#endif
