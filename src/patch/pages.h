/* Numbered pages of equal size: which are in use, and by how many users.
 *
 * The KV cache is made of pages of LP_PAGE_POSITIONS positions each: position k of page p is slot p x LP_PAGE_POSITIONS
 * + k of the backend's pool. A prompt lies in pages next to each other, which are taken from the low end; a branch
 * takes one page at a time, from the high end. A page that a child shares with its parent has two users, and is free
 * when the last one has given it back. Rows of saved logits are numbered in the same way. Pure: no memory of the
 * device. */
#ifndef LP_PATCH_PAGES_H
#define LP_PATCH_PAGES_H

#include "base/error.h"

enum { LP_PAGE_POSITIONS = 16 };

typedef struct {
    int32_t n;         /* pages in all */
    int32_t n_free;    /* of these */
    int32_t least_low; /* no page below is free */
    int32_t most_high; /* no page from here on is free */
    int32_t most_used; /* at once, ever */
    int32_t *users;    /* [n] 0: free */
} lp_page_pool;

lp_status lp_pages_init(lp_page_pool *pool, int32_t n, lp_error *err);
void lp_pages_release(lp_page_pool *pool);

/* First of n > 0 free pages next to each other, the lowest there are; -1: there are none. Each has one user now. */
int32_t lp_pages_take(lp_page_pool *pool, int32_t n);
/* The highest free page, which has one user now; -1: none is free. */
int32_t lp_pages_take_one(lp_page_pool *pool);
/* One user more of a page that has some. */
void lp_pages_share(lp_page_pool *pool, int32_t page);
/* One user less. */
void lp_pages_give(lp_page_pool *pool, int32_t page);

/* Pages that n positions take. */
static inline int32_t lp_pages_for(int32_t n_positions) {
    return n_positions > 0 ? (n_positions + LP_PAGE_POSITIONS - 1) / LP_PAGE_POSITIONS : 0;
}

#endif
