/* The tree of distinct work: which runs of a group share what.
 *
 * Runs that begin with the same edits are one branch until they part. A branch forks from its parent at its first own
 * edit (or where it stops thinking early); the root has no edits, whether or not a run ends there. Runs with equal
 * edits are one branch. The runs of a group are put in order once, those with the most in common next to each other; a
 * tree is made of any part of that order. Pure: no weights, no backend. */
#ifndef LP_PATCH_TREE_H
#define LP_PATCH_TREE_H

#include "patch/executor.h"

typedef struct {
    int32_t parent;         /* -1: root */
    int32_t run;            /* representative run: its edits [0, n_edits) are those of the branch */
    int32_t first_run;      /* first of the runs that end here, -1: none; the others follow by lp_tree.next_run */
    int32_t n_edits;        /* inherited and own */
    int32_t n_inherited;    /* edits of the parent */
    int32_t n_steps;        /* thought steps that the branch makes */
    bool stops;             /* forks by ending its thoughts early */
    int32_t fork_position;  /* first position that is the branch's own; 0 for the root */
    int32_t last_fork;      /* last fork position of its children, -1: none */
    int32_t first_in_order; /* place in the order of the first run that ends here or in a descendant */
} lp_branch;

/* The runs of a group in order: as their edits are, in order of time. */
typedef struct {
    const lp_run_group *group;
    int32_t n_steps; /* thought steps of a run that does not stop early */
    int32_t n;       /* runs */
    void *sequences; /* [n], and as many for settling */
    size_t capacity;
    bool *is_done; /* [n] by run, for lp_run_order_settle */
    size_t done_capacity;
} lp_run_order;

typedef struct {
    lp_branch *branches; /* [n] parents before children, all descendants of a branch right after it */
    int32_t n;
    size_t capacity;
    int32_t *next_run; /* [runs of the group] next run that ends in the same branch, -1: none */
    size_t next_capacity;
} lp_tree;

/* Puts the group's runs in order, into *order ({0} or an earlier one, whose memory is used again). */
lp_status lp_run_order_make(lp_run_order *order, const lp_run_group *group, int32_t n_steps, lp_error *err);
void lp_run_order_release(lp_run_order *order);
/* Brings those of the runs at the places [first, end) that are done to the front of the stretch, and returns the place
 * after them. Those that are not stay in order, also with the places from `end` on. */
int32_t lp_run_order_settle(lp_run_order *order, int32_t first, int32_t end);

/* How many of its edits, and of its early stop, the run at place b begins with that the run at place a begins with,
 * too. */
int32_t lp_run_order_common(const lp_run_order *order, int32_t a, int32_t b);
/* Position of edit or stop `item` of the run at a place; INT32_MAX after the last. */
int32_t lp_run_order_position(const lp_run_order *order, int32_t place, int32_t item);

/* Builds the tree of the runs at the places [first, end) into *tree ({0} or an earlier one, whose memory is used
 * again).
 */
lp_status lp_tree_build(lp_tree *tree, const lp_run_order *order, int32_t first, int32_t end, lp_error *err);
/* Leaves the first n > 0 branches, and with them the runs in front of the place first_in_order of branch n. */
void lp_tree_truncate(lp_tree *tree, int32_t n);
void lp_tree_release(lp_tree *tree);

/* The edit i of a branch, and its vector. */
const lp_timed_edit *lp_tree_edit(const lp_run_group *group, const lp_branch *branch, int32_t i, const float **vector);

/* First layer that has to be computed again for an edit: where a row begins that shares everything below it. */
int32_t lp_timed_edit_first_layer(const lp_timed_edit *edit, int32_t n_layers);

#endif
