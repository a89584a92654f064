#include "patch/tree.h"

#include "base/memory.h"

int32_t lp_timed_edit_first_layer(const lp_timed_edit *edit, int32_t n_layers) {
    const lp_address *at = &edit->what.at;
    switch (at->site) {
    case LP_SITE_LATENT_IN: return 0;
    case LP_SITE_RESID_POST: return at->layer + 1;
    case LP_SITE_LATENT_RAW: return n_layers;
    default: return at->layer;
    }
}

const lp_timed_edit *lp_tree_edit(const lp_run_group *group, const lp_branch *branch, int32_t i, const float **vector) {
    const lp_run_wanted *run = &group->runs[branch->run];
    if (vector) *vector = run->vectors[i];
    return &run->edits[i];
}

/* A run as a sequence of items: its edits in order of time, with one item more where it stops thinking early, in its
 * place. */
typedef struct {
    const lp_run_wanted *run;
    int32_t index;
    int32_t stop_at;       /* item number of the stop; -1: none */
    int32_t n;             /* items */
    int32_t stop_position; /* of the run */
} edit_sequence;

static const lp_timed_edit *edit_of(const edit_sequence *sequence, int32_t item) {
    if (sequence->stop_at >= 0 && item == sequence->stop_at) return NULL;
    return &sequence->run->edits[sequence->stop_at >= 0 && item > sequence->stop_at ? item - 1 : item];
}

static int compare_items(const edit_sequence *sequence, const edit_sequence *b, int32_t item) {
    const lp_timed_edit *edit = edit_of(sequence, item), *y = edit_of(b, item);
    if (!edit || !y) {
        if (!edit && !y)
            return (sequence->stop_position > b->stop_position) - (sequence->stop_position < b->stop_position);
        return edit ? 1 : -1;
    }
    return lp_timed_edit_compare(edit, y);
}

static int compare_sequences(const void *pa, const void *pb) {
    const edit_sequence *sequence = pa, *b = pb;
    for (int32_t i = 0; i < sequence->n && i < b->n; i++) {
        int order = compare_items(sequence, b, i);
        if (order) return order;
    }
    int order = (sequence->n > b->n) - (sequence->n < b->n);
    return order ? order : (sequence->index > b->index) - (sequence->index < b->index);
}

typedef struct {
    lp_tree *tree;
    const edit_sequence *sorted;
    int32_t n_steps;
} tree_build;

static int32_t edits_before(const edit_sequence *sequence, int32_t item) {
    return sequence->stop_at >= 0 && item > sequence->stop_at ? item - 1 : item;
}

/* The branch of the sorted runs [low, high), which share their first `shared` items with the parent. */
static lp_status add_branch(tree_build *build, int32_t low, int32_t high, int32_t shared, int32_t parent,
                            lp_error *err) {
    lp_tree *tree = build->tree;
    const edit_sequence *first = &build->sorted[low];
    int32_t depth = shared;
    /* How far all of them go together: to the end of the shortest (which sorts first) or to the first difference. The
     * root stays without edits: what it holds of the prompt then serves every tree of the group. */
    while (parent >= 0 && depth < first->n && compare_items(first, &build->sorted[high - 1], depth) == 0 &&
           build->sorted[high - 1].n > depth)
        depth++;
    LP_CHECK(
        lp_mem_grow(&tree->branches, &tree->capacity, (size_t)tree->n + 1, sizeof *tree->branches, "branches", err));
    int32_t self = tree->n++;
    bool stopped = first->stop_at >= 0 && first->stop_at < depth;
    lp_branch branch = {.parent = parent,
                        .run = first->index,
                        .first_run = -1,
                        .n_edits = edits_before(first, depth),
                        .n_inherited = parent < 0 ? 0 : tree->branches[parent].n_edits,
                        .n_steps = stopped ? first->run->n_steps : build->n_steps,
                        .last_fork = -1,
                        .first_in_order = low};
    if (parent >= 0) {
        const lp_timed_edit *edit = edit_of(first, shared);
        branch.stops = !edit;
        branch.fork_position = edit ? edit->position : first->stop_position;
        if (branch.fork_position > tree->branches[parent].last_fork)
            tree->branches[parent].last_fork = branch.fork_position;
    }
    tree->branches[self] = branch;
    int32_t at = low;
    for (; at < high && build->sorted[at].n == depth; at++) {
        tree->next_run[build->sorted[at].index] = tree->branches[self].first_run;
        tree->branches[self].first_run = build->sorted[at].index;
    }
    while (at < high) {
        int32_t end = at + 1;
        while (end < high && compare_items(&build->sorted[at], &build->sorted[end], depth) == 0) end++;
        LP_CHECK(add_branch(build, at, end, depth, self, err));
        at = end;
    }
    return LP_OK;
}

lp_status lp_run_order_make(lp_run_order *order, const lp_run_group *group, int32_t n_steps, lp_error *err) {
    LP_ASSERT(group->n_runs > 0 && group->n_runs < INT32_MAX);
    lp_status status =
        lp_mem_grow(&order->sequences, &order->capacity, 2 * group->n_runs, sizeof(edit_sequence), "runs", err);
    if (status == LP_OK)
        status = lp_mem_grow(&order->is_done, &order->done_capacity, group->n_runs, sizeof(bool), "runs", err);
    if (status != LP_OK) return status;
    memset(order->is_done, 0, group->n_runs * sizeof(bool));
    edit_sequence *sorted = order->sequences;
    order->group = group;
    order->n_steps = n_steps;
    order->n = (int32_t)group->n_runs;
    for (size_t i = 0; i < group->n_runs; i++) {
        const lp_run_wanted *run = &group->runs[i];
        edit_sequence *sequence = &sorted[i];
        *sequence = (edit_sequence){.run = run, .index = (int32_t)i, .stop_at = -1, .n = (int32_t)run->n_edits};
        if (run->n_steps < n_steps) {
            sequence->stop_position = group->n_prompt + run->n_steps;
            sequence->stop_at = 0;
            while (sequence->stop_at < sequence->n && run->edits[sequence->stop_at].position < sequence->stop_position)
                sequence->stop_at++;
            sequence->n++;
        }
    }
    if (group->n_runs > 1) qsort(sorted, group->n_runs, sizeof *sorted, compare_sequences);
    return LP_OK;
}

void lp_run_order_release(lp_run_order *order) {
    lp_mem_free(order->sequences);
    lp_mem_free(order->is_done);
    *order = (lp_run_order){0};
}

int32_t lp_run_order_settle(lp_run_order *order, int32_t first, int32_t end) {
    edit_sequence *sorted = order->sequences, *left = sorted + order->n;
    int32_t n_left = 0, place = first;
    for (int32_t i = first; i < end; i++) {
        if (order->is_done[sorted[i].index])
            sorted[place++] = sorted[i];
        else
            left[n_left++] = sorted[i];
    }
    if (n_left > 0) memcpy(sorted + place, left, (size_t)n_left * sizeof *left);
    return place;
}

int32_t lp_run_order_common(const lp_run_order *order, int32_t a, int32_t b) {
    const edit_sequence *sequence = (const edit_sequence *)order->sequences + a,
                        *y = (const edit_sequence *)order->sequences + b;
    int32_t n = 0;
    while (n < sequence->n && n < y->n && compare_items(sequence, y, n) == 0) n++;
    return n;
}

int32_t lp_run_order_position(const lp_run_order *order, int32_t place, int32_t item) {
    const edit_sequence *sequence = (const edit_sequence *)order->sequences + place;
    if (item >= sequence->n) return INT32_MAX;
    const lp_timed_edit *edit = edit_of(sequence, item);
    return edit ? edit->position : sequence->stop_position;
}

lp_status lp_tree_build(lp_tree *tree, const lp_run_order *order, int32_t first, int32_t end, lp_error *err) {
    LP_ASSERT(0 <= first && first < end && end <= order->n);
    tree_build build = {.tree = tree, .sorted = order->sequences, .n_steps = order->n_steps};
    LP_CHECK(lp_mem_grow(&tree->next_run, &tree->next_capacity, order->group->n_runs, sizeof *tree->next_run,
                         "branches", err));
    tree->n = 0;
    return add_branch(&build, first, end, 0, -1, err);
}

void lp_tree_truncate(lp_tree *tree, int32_t n) {
    LP_ASSERT(n > 0 && n <= tree->n);
    tree->n = n;
    for (int32_t i = 0; i < n; i++) tree->branches[i].last_fork = -1;
    for (int32_t i = 1; i < n; i++) {
        lp_branch *parent = &tree->branches[tree->branches[i].parent];
        if (tree->branches[i].fork_position > parent->last_fork) parent->last_fork = tree->branches[i].fork_position;
    }
}

void lp_tree_release(lp_tree *tree) {
    lp_mem_free(tree->branches);
    lp_mem_free(tree->next_run);
    *tree = (lp_tree){0};
}
