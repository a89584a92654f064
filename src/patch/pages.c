#include "patch/pages.h"

#include "base/memory.h"

lp_status lp_pages_init(lp_page_pool *pool, int32_t n, lp_error *err) {
    lp_page_pool fresh = {.n = n, .n_free = n, .most_high = n};
    lp_status status = lp_mem_new(&fresh.users, (size_t)n, sizeof *fresh.users, "pages", err);
    if (status == LP_OK) *pool = fresh;
    return status;
}

void lp_pages_release(lp_page_pool *pool) {
    lp_mem_free(pool->users);
    *pool = (lp_page_pool){0};
}

static void note_taken(lp_page_pool *pool, int32_t first, int32_t n) {
    for (int32_t i = first; i < first + n; i++) pool->users[i] = 1;
    pool->n_free -= n;
    if (pool->n - pool->n_free > pool->most_used) pool->most_used = pool->n - pool->n_free;
}

int32_t lp_pages_take(lp_page_pool *pool, int32_t n) {
    LP_ASSERT(n > 0);
    if (n > pool->n_free) return -1;
    while (pool->least_low < pool->n && pool->users[pool->least_low] > 0) pool->least_low++;
    for (int32_t first = pool->least_low, i = first; i < pool->n; i++) {
        if (pool->users[i] > 0) {
            first = i + 1;
        } else if (i + 1 - first == n) {
            note_taken(pool, first, n);
            return first;
        }
    }
    return -1;
}

int32_t lp_pages_take_one(lp_page_pool *pool) {
    if (pool->n_free == 0) return -1;
    while (pool->users[pool->most_high - 1] > 0) pool->most_high--;
    note_taken(pool, --pool->most_high, 1);
    return pool->most_high;
}

void lp_pages_share(lp_page_pool *pool, int32_t page) {
    LP_ASSERT(page >= 0 && page < pool->n && pool->users[page] > 0);
    pool->users[page]++;
}

void lp_pages_give(lp_page_pool *pool, int32_t page) {
    LP_ASSERT(page >= 0 && page < pool->n && pool->users[page] > 0);
    if (--pool->users[page] > 0) return;
    pool->n_free++;
    if (page < pool->least_low) pool->least_low = page;
    if (page >= pool->most_high) pool->most_high = page + 1;
}
