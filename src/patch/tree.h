/* The tree of distinct work of one group: which runs share what.
 *
 * Runs that begin with the same edits are one branch until they part. A branch forks from its parent at its first own
 * edit (or where it stops thinking early); the root is the unpatched run, or what all runs have in common. Runs with
 * equal edits are one branch. Pure: no weights, no backend. */
#ifndef LP_PATCH_TREE_H
#define LP_PATCH_TREE_H

#include "patch/executor.h"

typedef struct {
    int32_t parent;        /* -1: root */
    int32_t run;           /* representative run: its edits [0, n_edits) are those of the branch */
    int32_t first_run;     /* first of the runs that end here, -1: none; the others follow by lp_tree.next_run */
    int32_t n_edits;       /* inherited and own */
    int32_t n_inherited;   /* edits of the parent */
    int32_t n_steps;       /* thought steps that the branch makes */
    bool stops;            /* forks by ending its thoughts early */
    int32_t fork_position; /* first position that is the branch's own; 0 for the root */
    int32_t last_fork;     /* last fork position of its children, -1: none */
} lp_branch;

typedef struct {
    lp_branch *branches; /* [n] parents before children */
    int32_t n;
    size_t capacity;
    int32_t *next_run; /* [n_runs] next run that ends in the same branch, -1: none */
    size_t next_capacity;
    void *scratch; /* sorting; kept for the next tree */
    size_t scratch_capacity;
} lp_tree;

/* Builds the tree of the group's runs into *tree ({0} or an earlier one, whose memory is used again). */
lp_status lp_tree_build(lp_tree *tree, const lp_run_group *group, int32_t n_steps, lp_error *err);
void lp_tree_release(lp_tree *tree);

/* The edit i of a branch, and its vector. */
const lp_timed_edit *lp_tree_edit(const lp_run_group *group, const lp_branch *branch, int32_t i, const float **vector);

/* First layer that has to be computed again for an edit: where a row begins that shares everything below it. */
int32_t lp_timed_edit_first_layer(const lp_timed_edit *edit, int32_t n_layers);

#endif
