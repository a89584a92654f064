#include "patch/edges.h"

#include "base/memory.h"

static int order(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

/* By row and layer, then by head and range. */
static int compare_edges(const void *pa, const void *pb) {
    const lp_timed_edit *edit = pa, *b = pb;
    int o = order(edit->position, b->position);
    if (!o) o = order(edit->depth, b->depth);
    if (!o) o = order(edit->all, b->all);
    if (!o) o = order(edit->what.at.head, b->what.at.head);
    if (!o) o = order(edit->key_begin, b->key_begin);
    return o ? o : order(edit->key_end, b->key_end);
}

static bool same_row(const lp_timed_edit *a, const lp_timed_edit *b) {
    return a->position == b->position && a->depth == b->depth && a->all == b->all;
}

/* Edges of one row and layer, one range an edit. */
typedef struct {
    lp_timed_edit *items;
    size_t n, capacity;
} edge_list;

static lp_status append(edge_list *list, const lp_timed_edit *edge, int32_t head, lp_error *err) {
    LP_CHECK(lp_mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items, "attention edges", err));
    list->items[list->n] = *edge;
    list->items[list->n++].what.at.head = head;
    return LP_OK;
}

/* Adds what edges [n] of a row forbid a head, those of all heads included, as ranges that neither touch nor overlap. */
static lp_status add_ranges(edge_list *list, const lp_timed_edit *edges, size_t n, int32_t head, lp_error *err) {
    size_t first = list->n, last = 0;
    for (size_t i = 0; i < n; i++)
        if (edges[i].what.at.head == head || edges[i].what.at.head == LP_ALL_HEADS)
            LP_CHECK(append(list, &edges[i], head, err));
    if (list->n == first) return LP_OK;
    qsort(list->items + first, list->n - first, sizeof *list->items, compare_edges);
    last = first;
    for (size_t i = first + 1; i < list->n; i++) {
        lp_timed_edit *before = &list->items[last];
        if (list->items[i].key_begin > before->key_end)
            list->items[++last] = list->items[i];
        else if (list->items[i].key_end > before->key_end)
            before->key_end = list->items[i].key_end;
    }
    list->n = last + 1;
    return LP_OK;
}

/* The last edges of `list` from `b` have the ranges of the n edges from `a`. The list may be empty. */
static bool same_ranges(const edge_list *list, size_t a, size_t n, size_t b) {
    if (list->n - b != n) return false;
    for (size_t i = 0; i < n; i++) {
        const lp_timed_edit *one = &list->items[a + i], *other = &list->items[b + i];
        if (one->key_begin != other->key_begin || one->key_end != other->key_end) return false;
    }
    return true;
}

/* Adds edges [n], which are all of one row and layer, in their form. */
static lp_status add_row(edge_list *list, const lp_timed_edit *edges, size_t n, int32_t n_heads, lp_error *err) {
    size_t begin = list->n, n_first = 0;
    bool same = true;
    if (edges[n - 1].what.at.head == LP_ALL_HEADS) return add_ranges(list, edges, n, LP_ALL_HEADS, err);
    for (int32_t h = 0; h < n_heads; h++) {
        size_t first = list->n;
        LP_CHECK(add_ranges(list, edges, n, h, err));
        if (h == 0) n_first = list->n - begin;
        same &= same_ranges(list, begin, n_first, first);
    }
    if (!same) return LP_OK;
    list->n = begin + n_first;
    for (size_t i = begin; i < list->n; i++) list->items[i].what.at.head = LP_ALL_HEADS;
    return LP_OK;
}

lp_status lp_edges_normalise(lp_timed_edit **edits, size_t *n, size_t *capacity, int32_t n_heads, lp_error *err) {
    edge_list given = {0}, made = {0};
    size_t kept = 0;
    lp_status status = LP_OK;
    for (size_t i = 0; i < *n; i++) {
        if (lp_is_edge(&(*edits)[i]))
            LP_TRY(append(&given, &(*edits)[i], (*edits)[i].what.at.head, err));
        else
            (*edits)[kept++] = (*edits)[i];
    }
    if (given.n > 1) qsort(given.items, given.n, sizeof *given.items, compare_edges);
    for (size_t i = 0, end = 0; i < given.n; i = end) {
        while (end < given.n && same_row(&given.items[i], &given.items[end])) end++;
        LP_TRY(add_row(&made, given.items + i, end - i, n_heads, err));
    }
    LP_TRY(lp_mem_grow(edits, capacity, kept + made.n, sizeof **edits, "edits", err));
    if (made.n) memcpy(*edits + kept, made.items, made.n * sizeof **edits);
    *n = kept + made.n;
out:
    lp_mem_free(given.items);
    lp_mem_free(made.items);
    return status;
}

/* Does the edge edit say something of the head at this position? */
static bool applies(const lp_timed_edit *edit, int32_t depth, int32_t head, int32_t position) {
    if (!lp_is_edge(edit) || edit->depth != depth) return false;
    if (edit->all ? edit->position > position : edit->position != position) return false;
    return edit->what.at.head == LP_ALL_HEADS || edit->what.at.head == head;
}

/* Is every position up to this one forbidden to the head? */
static bool is_empty(const lp_timed_edit *edits, size_t n, int32_t depth, int32_t head, int32_t position) {
    int32_t covered = 0;
    for (bool more = true; more && covered <= position;) {
        more = false;
        for (size_t i = 0; i < n && edits[i].position <= position; i++) {
            if (!applies(&edits[i], depth, head, position)) continue;
            if (edits[i].key_begin > covered || edits[i].key_end <= covered) continue;
            covered = edits[i].key_end;
            more = true;
        }
    }
    return covered > position;
}

const lp_timed_edit *lp_edges_find_empty(const lp_timed_edit *edits, size_t n, int32_t n_heads, int32_t *head) {
    for (size_t i = 0; i < n; i++) {
        const lp_timed_edit *edit = &edits[i];
        bool by_head = false; /* one of all heads may meet edges of single heads at the same row */
        if (!lp_is_edge(edit)) continue;
        for (size_t k = 0; k < n && edit->what.at.head == LP_ALL_HEADS && edits[k].position <= edit->position; k++)
            by_head |= lp_is_edge(&edits[k]) && edits[k].depth == edit->depth && edits[k].what.at.head != LP_ALL_HEADS;
        int32_t first = edit->what.at.head == LP_ALL_HEADS ? 0 : edit->what.at.head,
                last = by_head ? n_heads - 1 : first;
        for (int32_t h = first; h <= last; h++) {
            if (!is_empty(edits, n, edit->depth, h, edit->position)) continue;
            *head = h;
            return edit;
        }
    }
    return NULL;
}

bool lp_edges_allowed(const lp_timed_edit *edits, size_t n, int32_t layer, int32_t head, int32_t position,
                      bool *allowed) {
    int32_t depth = layer * LP_N_SITES + LP_SITE_Z;
    bool any = false;
    for (size_t i = 0; i < n && edits[i].position <= position; i++) {
        if (!applies(&edits[i], depth, head, position)) continue;
        for (int32_t p = 0; p <= position && !any; p++) allowed[p] = true;
        any = true;
        for (int32_t p = edits[i].key_begin; p < edits[i].key_end && p <= position; p++) allowed[p] = false;
    }
    return any;
}
