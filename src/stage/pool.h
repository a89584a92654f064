/* What a stage keeps of one pair while the pair is in work, used again for the next pair. An item is made when none is
 * spare. All are released together at the end of the stage, also those that a failure left in work. */
#ifndef LP_STAGE_POOL_H
#define LP_STAGE_POOL_H

#include "base/error.h"

typedef struct {
    void **made;  /* [n_made] all of them, owned by the caller's release */
    void **spare; /* [n_spare] not in work; room for n_made */
    size_t n_made, n_spare, made_capacity, spare_capacity;
} lp_stage_pool;

/* A spare item, or NULL. */
void *lp_stage_pool_take(lp_stage_pool *pool);
/* Adds a new item, which is in work. On failure the caller keeps it. */
lp_status lp_stage_pool_add(lp_stage_pool *pool, void *item, lp_error *err);
void lp_stage_pool_give(lp_stage_pool *pool, void *item);
/* Frees the lists, not the items. */
void lp_stage_pool_release(lp_stage_pool *pool);

#endif
