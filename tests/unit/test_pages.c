/* Numbered pages and their users; the order of runs, the trees that are made of parts of it, and what is set back. */
#include "support/golden.h"

#include "patch/pages.h"
#include "patch/tree.h"

/* ---- Pages ------------------------------------------------------------------------------------------------------- */

static void test_pages(void **state) {
    (void)state;
    lp_page_pool pool;
    OK(lp_pages_init(&pool, 8, err));
    assert_int_equal(lp_pages_take(&pool, 3), 0);
    assert_int_equal(lp_pages_take_one(&pool), 7);
    assert_int_equal(lp_pages_take_one(&pool), 6);
    assert_int_equal(lp_pages_take(&pool, 4), -1); /* three are free */
    lp_pages_share(&pool, 6);
    lp_pages_give(&pool, 6);
    assert_int_equal(pool.n_free, 3); /* it has a user yet */
    lp_pages_give(&pool, 6);
    assert_int_equal(pool.n_free, 4);
    lp_pages_give(&pool, 1);
    assert_int_equal(lp_pages_take(&pool, 5), -1); /* five are free, but not next to each other */
    assert_int_equal(lp_pages_take(&pool, 1), 1);  /* the lowest */
    assert_int_equal(lp_pages_take(&pool, 4), 3);
    assert_int_equal(lp_pages_take_one(&pool), -1);
    assert_int_equal(pool.most_used, 8);
    lp_pages_release(&pool);
    OK(lp_pages_init(&pool, 3, err));
    assert_int_equal(lp_pages_take_one(&pool), 2);
    lp_pages_give(&pool, 2);
    assert_int_equal(lp_pages_take_one(&pool), 2); /* the highest again, not the one below */
    lp_pages_release(&pool);
    assert_int_equal(lp_pages_for(0), 0);
    assert_int_equal(lp_pages_for(1), 1);
    assert_int_equal(lp_pages_for(LP_PAGE_POSITIONS), 1);
    assert_int_equal(lp_pages_for(LP_PAGE_POSITIONS + 1), 2);
}

/* ---- Order and trees --------------------------------------------------------------------------------------------- */

enum { N = 6, STEPS = 6, PROMPT = 10 };

static lp_timed_edit edit_at(int32_t step, int32_t layer) {
    return (lp_timed_edit){.position = PROMPT + step,
                           .depth = layer * LP_N_SITES + LP_SITE_RESID_POST,
                           .what = {.at = {.phase = LP_PHASE_THOUGHT,
                                           .index = step,
                                           .site = LP_SITE_RESID_POST,
                                           .layer = layer,
                                           .head = LP_ALL_HEADS}}};
}

/* Runs 0 to 5: steps 0 and 1 at layer 1; none; step 0 at layer 1; step 3 at layer 0; step 0 at layer 2; 0, 1 and 2
 * at 1.
 */
static const struct {
    int32_t n, steps[3], layer;
} drawn[N] = {{2, {0, 1}, 1}, {0, {0}, 0}, {1, {0}, 1}, {1, {3}, 0}, {1, {0}, 2}, {3, {0, 1, 2}, 1}};

typedef struct {
    lp_timed_edit edits[N][3];
    lp_run_wanted runs[N];
    lp_run_group group;
} fixture;

static void fixture_make(fixture *f) {
    *f = (fixture){.group = {.n_prompt = PROMPT, .n_runs = N}};
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < drawn[i].n; k++) f->edits[i][k] = edit_at(drawn[i].steps[k], drawn[i].layer);
        f->runs[i] = (lp_run_wanted){.edits = f->edits[i], .n_edits = (size_t)drawn[i].n, .n_steps = STEPS};
    }
    f->group.runs = f->runs;
}

static void test_tree(void **state) {
    (void)state;
    fixture f;
    lp_run_order order = {0};
    lp_tree tree = {0};
    fixture_make(&f);
    OK(lp_run_order_make(&order, &f.group, STEPS, err));
    OK(lp_tree_build(&tree, &order, 0, N, err));
    /* In order: 1 (none), 2, 0, 5 (each goes on where the one before ends), 4, 3. */
    static const int32_t run[N] = {1, 2, 0, 5, 4, 3}, parent[N] = {-1, 0, 1, 2, 0, 0};
    static const int32_t fork[N] = {0, PROMPT, PROMPT + 1, PROMPT + 2, PROMPT, PROMPT + 3};
    assert_int_equal(tree.n, N);
    for (int32_t i = 0; i < N; i++) {
        const lp_branch *b = &tree.branches[i];
        if (b->first_run != run[i] || b->parent != parent[i] || b->fork_position != fork[i] || b->first_in_order != i)
            fail_msg("branch %d: run %d, parent %d, fork %d, place %d", i, b->first_run, b->parent, b->fork_position,
                     b->first_in_order);
    }
    assert_int_equal(tree.branches[0].last_fork, PROMPT + 3);
    lp_tree_truncate(&tree, 4);
    assert_int_equal(tree.branches[0].last_fork, PROMPT);
    /* The part from place 3 on: its root has no run, and one branch holds all three edits of run 5. */
    OK(lp_tree_build(&tree, &order, 3, N, err));
    assert_int_equal(tree.n, 4);
    assert_int_equal(tree.branches[0].first_run, -1);
    assert_int_equal(tree.branches[0].n_edits, 0);
    assert_int_equal(tree.branches[1].n_edits, 3);
    assert_int_equal(tree.branches[1].fork_position, PROMPT);
    lp_tree_release(&tree);
    lp_run_order_release(&order);
}

/* What was set back stays in order, in front of the rest. */
static void test_settle(void **state) {
    (void)state;
    fixture f;
    lp_run_order order = {0};
    lp_tree tree = {0};
    fixture_make(&f);
    OK(lp_run_order_make(&order, &f.group, STEPS, err));
    order.is_done[1] = order.is_done[0] = true; /* places 0 and 2 of [0, 4) */
    assert_int_equal(lp_run_order_settle(&order, 0, 4), 2);
    OK(lp_tree_build(&tree, &order, 2, N, err));
    static const int32_t run[] = {-1, 2, 5, 4, 3};
    assert_int_equal(tree.n, 5);
    for (int32_t i = 0; i < 5; i++) assert_int_equal(tree.branches[i].first_run, run[i]);
    lp_tree_release(&tree);
    lp_run_order_release(&order);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pages), cmocka_unit_test(test_tree),
                                       cmocka_unit_test(test_settle)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
