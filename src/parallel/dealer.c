#include "parallel/dealer.h"

#include "base/memory.h"

typedef struct {
    int64_t cost;
    int64_t id;
} ranked;

static int larger_first(const void *left, const void *right) {
    const ranked *a = left;
    const ranked *b = right;
    if (a->cost != b->cost) return a->cost > b->cost ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

lp_status lp_dealer_init(lp_dealer *dealer, const int64_t *costs, const uint8_t *done, int64_t n, int n_ranks,
                         lp_error *err) {
    LP_ASSERT(n >= 0 && n_ranks > 0);
    lp_status status = LP_OK;
    ranked *units = NULL;
    int64_t *order = NULL;
    LP_TRY(lp_mem_new(&units, (size_t)n, sizeof *units, "work units", err));
    int64_t n_units = 0;
    for (int64_t i = 0; i < n; i++)
        if (!done || !done[i]) units[n_units++] = (ranked){.cost = costs ? costs[i] : 0, .id = i};
    qsort(units, (size_t)n_units, sizeof *units, larger_first);
    LP_TRY(lp_mem_new(&order, (size_t)n_units, sizeof *order, "order of work units", err));
    for (int64_t i = 0; i < n_units; i++) order[i] = units[i].id;
    *dealer = (lp_dealer){.order = order, .n_units = n_units, .n_ranks = n_ranks};
out:
    lp_mem_free(units);
    return status;
}

void lp_dealer_release(lp_dealer *dealer) {
    lp_mem_free(dealer->order);
    *dealer = (lp_dealer){0};
}

int64_t lp_dealer_grant(const lp_dealer *dealer, int64_t position, int64_t wanted) {
    LP_ASSERT(wanted >= 1 && position >= 0);
    if (position >= dealer->n_units) return 0;
    int64_t fair = (dealer->n_units - position) / (2 * (int64_t)dealer->n_ranks);
    if (fair < 1) fair = 1;
    return wanted < fair ? wanted : fair;
}
