/* Attention edges: which positions a head of a row may not attend to.
 *
 * An edge edit is a timed edit with the operation FORBID at the site z of its row: the positions [key_begin, key_end)
 * of the run are left out of the head's softmax, at its position or, with `all`, at every answer position from there
 * on. This module brings the edge edits of a run into one form, so that equal sets of edges are equal edits, and says
 * what they leave. Pure. */
#ifndef LP_PATCH_EDGES_H
#define LP_PATCH_EDGES_H

#include "patch/condition.h"

static inline bool lp_is_edge(const lp_timed_edit *edit) {
    return edit->what.operation == LP_OP_FORBID;
}

/* Brings the edge edits of edits [*n], whose other edits stay, into their form: for each position, layer and head the
 * ranges ascend, and neither touch nor overlap; where all heads have the same ranges they are one edit of LP_ALL_HEADS.
 * The array grows as is needed; its order is lost. n_heads: query heads. */
lp_status lp_edges_normalise(lp_timed_edit **edits, size_t *n, size_t *capacity, int32_t n_heads, lp_error *err);

/* The first edge edit of edits [n] (in order of time) at whose position a head may attend to nothing; NULL: none. *head
 * = that head. */
const lp_timed_edit *lp_edges_find_empty(const lp_timed_edit *edits, size_t n, int32_t n_heads, int32_t *head);

/* allowed [position + 1]: the positions that a head of a layer attends to at `position`. Returns false where no edge
 * edit of edits [n] says anything of it; then all are. */
bool lp_edges_allowed(const lp_timed_edit *edits, size_t n, int32_t layer, int32_t head, int32_t position,
                      bool *allowed);

#endif
