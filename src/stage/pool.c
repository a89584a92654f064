#include "stage/pool.h"

#include "base/memory.h"

void *lp_stage_pool_take(lp_stage_pool *pool) {
    return pool->n_spare > 0 ? pool->spare[--pool->n_spare] : NULL;
}

lp_status lp_stage_pool_add(lp_stage_pool *pool, void *item, lp_error *err) {
    size_t n = pool->n_made + 1;
    LP_CHECK(lp_mem_grow(&pool->made, &pool->made_capacity, n, sizeof *pool->made, "pairs in work", err));
    LP_CHECK(lp_mem_grow(&pool->spare, &pool->spare_capacity, n, sizeof *pool->spare, "pairs in work", err));
    pool->made[pool->n_made++] = item;
    return LP_OK;
}

void lp_stage_pool_give(lp_stage_pool *pool, void *item) {
    pool->spare[pool->n_spare++] = item;
}

void lp_stage_pool_release(lp_stage_pool *pool) {
    lp_mem_free(pool->made);
    lp_mem_free(pool->spare);
    *pool = (lp_stage_pool){0};
}
