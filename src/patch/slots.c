#include "patch/slots.h"

#include "base/memory.h"

enum { MAX_RANGES = 1024 };

lp_status lp_slots_init(lp_slots *slots, int32_t n, lp_error *err) {
    lp_slots fresh = {.n = n};
    lp_status status = lp_mem_new(&fresh.free, MAX_RANGES, sizeof *fresh.free, "slots", err);
    if (status != LP_OK) return status;
    fresh.capacity = MAX_RANGES;
    fresh.free[0] = (lp_slot_range){0, n};
    fresh.n_free = 1;
    *slots = fresh;
    return LP_OK;
}

void lp_slots_release(lp_slots *slots) {
    lp_mem_free(slots->free);
    *slots = (lp_slots){0};
}

int32_t lp_slots_take(lp_slots *slots, int32_t n) {
    for (size_t i = 0; i < slots->n_free; i++) {
        lp_slot_range *range = &slots->free[i];
        if (range->n < n) continue;
        int32_t begin = range->begin;
        range->begin += n;
        range->n -= n;
        if (range->n == 0) {
            slots->n_free--;
            memmove(range, range + 1, (slots->n_free - i) * sizeof *range);
        }
        return begin;
    }
    return -1;
}

void lp_slots_give(lp_slots *slots, int32_t begin, int32_t n) {
    if (n == 0) return;
    size_t i = 0;
    while (i < slots->n_free && slots->free[i].begin < begin) i++;
    bool joins_left = i > 0 && slots->free[i - 1].begin + slots->free[i - 1].n == begin;
    bool joins_right = i < slots->n_free && begin + n == slots->free[i].begin;
    if (joins_left && joins_right) {
        slots->free[i - 1].n += n + slots->free[i].n;
        slots->n_free--;
        memmove(&slots->free[i], &slots->free[i + 1], (slots->n_free - i) * sizeof *slots->free);
    } else if (joins_left) {
        slots->free[i - 1].n += n;
    } else if (joins_right) {
        slots->free[i].begin = begin;
        slots->free[i].n += n;
    } else {
        LP_ASSERT(slots->n_free < slots->capacity); /* there are fewer holders than ranges */
        memmove(&slots->free[i + 1], &slots->free[i], (slots->n_free - i) * sizeof *slots->free);
        slots->free[i] = (lp_slot_range){begin, n};
        slots->n_free++;
    }
}
