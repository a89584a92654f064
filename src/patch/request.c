#include "patch/request_internal.h"

#include "base/memory.h"

#include <math.h>

/* ---- Life cycle -------------------------------------------------------------------------------------------------- */

lp_status lp_request_open(lp_request *request, const lp_executor_options *options, const lp_run_group *group,
                          lp_page_pool *pages, lp_page_pool *saved, lp_error *err) {
    request->options = options;
    request->group = group;
    request->pages = pages;
    request->saved = saved;
    request->n_start = options->vocabulary.n_answer_start;
    request->n_done = request->n_parts = 0;
    request->prompt_page = request->saved_row = -1;
    request->prompt_is_ready = request->has_unpatched = request->is_active = request->in_batch = false;
    request->is_single = false;
    request->row_layers_lost = 0;
    request->sink = NULL;
    request->captures = request->captures_patched = false;
    for (size_t i = 0; i < group->n_runs; i++) {
        const lp_run_wanted *run = &group->runs[i];
        bool is_plain = run->n_edits == 0 && run->n_steps == options->protocol.n_steps;
        request->captures |= run->n_captures > 0;
        request->captures_patched |= run->n_captures > 0 && !is_plain;
    }
    return lp_run_order_make(&request->order, group, options->protocol.n_steps, err);
}

void lp_request_set_sink(lp_request *request, lp_result_sink *sink, lp_work_unit *unit, size_t group) {
    request->sink = sink;
    request->unit = unit;
    request->group_in_unit = group;
}

void lp_request_release(lp_request *request) {
    lp_run_order_release(&request->order);
    lp_tree_release(&request->tree);
    lp_mem_free(request->branches);
    lp_mem_free(request->tails);
    lp_mem_free(request->tokens);
    lp_mem_free(request->rows);
    lp_mem_free(request->first_row);
    lp_mem_free(request->early_rows);
    lp_mem_free(request->pending);
    lp_mem_free(request->pending_row);
    *request = (lp_request){0};
}

/* A batch of fewer rows would take hardly less memory. */
enum { LEAST_ROWS = 16 };

/* ---- What parts take --------------------------------------------------------------------------------------------- */

static int32_t prompt_pages(const lp_request *request) {
    return lp_pages_for(request->group->n_prompt);
}

/* Last position of a run of n_steps thought steps that is fed, with answers of n_tokens. */
static int32_t last_fed(const lp_request *request, int32_t n_steps, int32_t n_tokens) {
    return request->group->n_prompt + n_steps + request->n_start + n_tokens - 2;
}

/* Pages of a branch's own positions, but for the root's in the prompt. */
static int32_t own_pages(const lp_request *request, const lp_branch *branch, int32_t n_tokens) {
    int32_t first = branch->parent < 0 ? request->group->n_prompt : branch->fork_position, last = branch->last_fork;
    if (branch->first_run >= 0) {
        int32_t end = last_fed(request, branch->n_steps, n_tokens);
        if (end > last) last = end;
    }
    return lp_pages_for(last - first + 1);
}

/* Pages of the forced branches of one branch. */
static int32_t forced_pages(const lp_metric_position *metric_at) {
    int32_t n = lp_pages_for(metric_at->index);
    if (metric_at->whole_answers) n += lp_pages_for(metric_at->clean.n) + lp_pages_for(metric_at->corrupted.n);
    return n;
}

/* Does a branch yield metrics? One that others fork from in the answer stands for them until then. */
static bool yields_metrics(const lp_request *request, const lp_branch *branch) {
    return request->group->metric_at &&
           (branch->first_run >= 0 || branch->last_fork >= request->group->n_prompt + branch->n_steps);
}

static int32_t n_forced_branches(const lp_metric_position *metric_at) {
    return metric_at->whole_answers ? 3 : 1;
}

/* First position at which a run differs from the unpatched one; its last one where it never does. */
static int32_t first_difference(const lp_request *request, const lp_run_wanted *run, int32_t last) {
    int32_t first = last;
    if (run->n_edits > 0 && run->edits[0].position < first) first = run->edits[0].position;
    int32_t stop = request->group->n_prompt + run->n_steps;
    if (run->n_steps < request->options->protocol.n_steps && stop < first) first = stop;
    return first;
}

lp_request_need lp_request_least(const lp_request *request) {
    const lp_run_group *group = request->group;
    const lp_metric_position *metric_at = group->metric_at;
    int32_t p = group->n_prompt, most = 0, in_prompt = p;
    for (size_t i = 0; i < group->n_runs; i++) {
        const lp_run_wanted *run = &group->runs[i];
        int32_t last = last_fed(request, run->n_steps, request->options->max_new_tokens);
        int32_t first = first_difference(request, run, last);
        int32_t pages = lp_pages_for(last - first + 1) + lp_pages_for(first - p + 1);
        if (first < p && 2 * p - first > in_prompt) in_prompt = 2 * p - first;
        if (pages > most) most = pages;
    }
    int32_t rows = metric_at ? 2 + n_forced_branches(metric_at) : 2;
    in_prompt = lp_smaller(in_prompt, LEAST_ROWS); /* it goes in chunks */
    return (lp_request_need){.pages = prompt_pages(request) + most + (metric_at ? forced_pages(metric_at) : 0),
                             .rows = rows > in_prompt ? rows : in_prompt,
                             .saved = metric_at ? 1 : 0};
}

static bool captures_prompt(const lp_run_wanted *run) {
    for (int32_t i = 0; i < run->n_captures; i++)
        if (run->captures[i].at.phase == LP_PHASE_PROMPT) return true;
    return false;
}

/* The prompt has to go through the model, again where a run of the part changes it or captures what is there. */
static bool needs_prompt(const lp_request *request) {
    const lp_run_group *group = request->group;
    if (!request->prompt_is_ready) return true;
    for (int32_t i = 0; i < request->tree.n; i++)
        for (int32_t run = request->tree.branches[i].first_run; run >= 0; run = request->tree.next_run[run]) {
            const lp_run_wanted *wanted = &group->runs[run];
            if (captures_prompt(wanted) || (wanted->n_edits > 0 && wanted->edits[0].position < group->n_prompt))
                return true;
        }
    return false;
}

static bool is_unpatched(const lp_request *request, const lp_branch *branch) {
    return branch->first_run >= 0 && branch->n_edits == 0 && branch->n_steps == request->options->protocol.n_steps;
}

/* What branches of the tree take, added up. */
typedef struct {
    int64_t pages, prompt_rows, rows, saved;
    int64_t in_prompt; /* branches that have rows there */
} need_sum;

static need_sum sum_of_none(const lp_request *request) {
    bool with_prompt = needs_prompt(request);
    return (need_sum){.pages = request->prompt_page < 0 ? prompt_pages(request) : 0,
                      .prompt_rows = with_prompt ? request->group->n_prompt : 0,
                      .in_prompt = with_prompt};
}

static void add_branch(const lp_request *request, int32_t i, int32_t n_tokens, need_sum *sum) {
    const lp_branch *branch = &request->tree.branches[i];
    const lp_metric_position *metric_at = request->group->metric_at;
    int32_t p = request->group->n_prompt;
    sum->pages += own_pages(request, branch, n_tokens);
    sum->rows++;
    if (branch->parent >= 0 && branch->fork_position < p) {
        sum->prompt_rows += p - branch->fork_position;
        sum->in_prompt++;
    }
    if (yields_metrics(request, branch)) {
        sum->pages += forced_pages(metric_at);
        sum->rows += n_forced_branches(metric_at);
    }
    bool is_early = branch->first_run >= 0 && branch->n_steps < request->options->protocol.n_steps;
    bool waits = is_early && !request->has_unpatched && is_unpatched(request, &request->tree.branches[0]);
    sum->saved += metric_at && waits;
}

static int32_t bounded(int64_t n) {
    return n < INT32_MAX ? (int32_t)n : INT32_MAX;
}

/* rows: of a batch, into which the prompt is cut. */
static lp_request_need need_of(const need_sum *sum, int32_t rows) {
    int64_t prompt_rows = sum->prompt_rows < rows ? sum->prompt_rows : rows;
    return (lp_request_need){.pages = bounded(sum->pages),
                             .rows = bounded(sum->rows > prompt_rows ? sum->rows : prompt_rows),
                             .saved = bounded(sum->saved)};
}

static bool fits(const need_sum *sum, const lp_request_need *limits) {
    lp_request_need need = need_of(sum, limits->rows);
    return need.pages <= limits->pages && need.rows <= limits->rows && need.saved <= limits->saved;
}

lp_status lp_request_plan_part(lp_request *request, const lp_request_need *limits, int32_t expected_tokens,
                               lp_request_need *need, lp_error *err) {
    lp_tree *tree = &request->tree;
    int32_t left = request->order.n - request->n_done,
            tokens = lp_smaller(expected_tokens, request->options->max_new_tokens);
    LP_ASSERT(left > 0 && !request->is_active);
    /* More runs than rows are in no part, but for those that are equal. */
    request->part_end = request->n_done + lp_smaller(left, limits->rows > 1 && !request->is_single ? limits->rows : 1);
    LP_CHECK(lp_tree_build(tree, &request->order, request->n_done, request->part_end, err));
    need_sum total = sum_of_none(request), before = total;
    int32_t n = 0, n_with_runs = 0;
    for (; n < tree->n; n++) {
        before = total;
        add_branch(request, n, tokens, &total);
        if (n_with_runs > 0 && !fits(&total, limits)) break;
        n_with_runs += tree->branches[n].first_run >= 0;
    }
    if (n < tree->n) {
        request->part_end = tree->branches[n].first_in_order;
        while (tree->branches[n - 1].first_run < 0) n--;
        lp_tree_truncate(tree, n);
        total = before;
    }
    if (n_with_runs == 1 && n > 2 && !fits(&total, limits)) {
        request->is_single = true; /* a tree of one run has no ancestors but the root */
        return lp_request_plan_part(request, limits, expected_tokens, need, err);
    }
    *need = need_of(&total, limits->rows);
    request->batch_rows = limits->rows;
    return LP_OK;
}

/* ---- Pages of branches ------------------------------------------------------------------------------------------- */

/* The next page of a tail after place *at. */
static int32_t next_page(const int32_t *tail, int32_t n, int32_t *at) {
    int32_t page = tail[*at] / LP_PAGE_POSITIONS;
    while (*at < n && tail[*at] / LP_PAGE_POSITIONS == page) ++*at;
    return page;
}

void lp_branch_hold_pages(lp_request *request, int32_t branch) {
    lp_request_branch *request_branch = &request->branches[branch];
    const int32_t *tail = lp_tail_of(request, branch);
    for (int32_t at = 0; at < request_branch->n_tail;)
        lp_pages_share(request->pages, next_page(tail, request_branch->n_tail, &at));
    request_branch->holds_pages = true;
}

void lp_branch_give_pages(lp_request *request, int32_t branch) {
    lp_request_branch *request_branch = &request->branches[branch];
    const int32_t *tail = lp_tail_of(request, branch);
    if (!request_branch->holds_pages) return;
    for (int32_t at = 0; at < request_branch->n_tail;)
        lp_pages_give(request->pages, next_page(tail, request_branch->n_tail, &at));
    request_branch->holds_pages = false;
}

static int32_t take_slot(lp_request *request, int32_t branch) {
    lp_request_branch *request_branch = &request->branches[branch];
    if (request_branch->next_slot == request_branch->end_slot) {
        int32_t page = lp_pages_take_one(request->pages);
        LP_ASSERT(page >= 0);
        request_branch->next_slot = page * LP_PAGE_POSITIONS;
        request_branch->end_slot = request_branch->next_slot + LP_PAGE_POSITIONS;
        if (request_branch->latent < 0) request_branch->latent = page;
    }
    LP_ASSERT(request_branch->n_tail < request->tail_stride);
    lp_tail_of(request, branch)[request_branch->n_tail++] = request_branch->next_slot;
    return request_branch->next_slot++;
}

/* ---- Branches in time -------------------------------------------------------------------------------------------- */

/* A branch begins: it inherits its parent's state as of the position before. */
static void start_branch(lp_request *request, int32_t i) {
    lp_request_branch *branch = &request->branches[i];
    branch->started = branch->alive = true;
    branch->sharing.dirty = request->options->model->config.n_layers;
    branch->prompt_length = request->group->n_prompt;
    if (branch->plan.parent >= 0) {
        const lp_request_branch *parent = &request->branches[branch->plan.parent];
        branch->sharing.ref = branch->plan.stops ? -1 : branch->plan.parent;
        branch->prompt_length = lp_smaller(parent->prompt_length, branch->plan.fork_position);
        branch->n_tail = 0;
        if (branch->plan.fork_position > parent->prompt_length) {
            branch->n_tail = branch->plan.fork_position - parent->prompt_length;
            memcpy(lp_tail_of(request, i), lp_tail_of(request, branch->plan.parent),
                   (size_t)branch->n_tail * sizeof(int32_t));
        }
        branch->next_token = parent->next_token;
        branch->n_tokens = parent->n_tokens;
        memcpy(lp_tokens_of(request, i), lp_tokens_of(request, branch->plan.parent),
               (size_t)parent->n_tokens * sizeof(int32_t));
    }
    lp_branch_hold_pages(request, i);
}

/* True while the branch has a row at the position. */
static bool goes_on(const lp_request_branch *branch, int32_t position) {
    if (!branch->alive) return false;
    return branch->plan.first_run >= 0 || branch->kind != LP_BRANCH_RUN || position <= branch->plan.last_fork;
}

/* A branch may begin at `position` when its parent is there too (or was, for a branch that stops thinking). */
static bool begins(const lp_request *request, const lp_request_branch *branch, int32_t position) {
    if (branch->started || branch->kind != LP_BRANCH_RUN || branch->plan.fork_position != position) return false;
    return branch->plan.parent < 0 || goes_on(&request->branches[branch->plan.parent], position);
}

/* The branch whose state one that has not begun would inherit. */
static int32_t stands_for(const lp_request *request, int32_t branch) {
    while (!request->branches[branch].started) branch = request->branches[branch].plan.parent;
    return branch;
}

/* ---- Parts ------------------------------------------------------------------------------------------------------- */

int32_t lp_request_most_rows(const lp_request *request) {
    need_sum sum = {0};
    for (int32_t i = 0; i < request->tree.n; i++) add_branch(request, i, 0, &sum);
    return bounded(sum.rows);
}

bool lp_request_reserve_saved(lp_request *request) {
    if (request->group->metric_at && request->saved_row < 0) request->saved_row = lp_pages_take(request->saved, 1);
    return !request->group->metric_at || request->saved_row >= 0;
}

/* Rows of saved logits of the part's early stops. */
static lp_status take_early_rows(lp_request *request, int64_t n, lp_error *err) {
    lp_status status =
        lp_mem_grow(&request->early_rows, &request->early_capacity, (size_t)n, sizeof(int32_t), "saved logits", err);
    for (request->n_early_rows = 0; status == LP_OK && request->n_early_rows < n; request->n_early_rows++) {
        request->early_rows[request->n_early_rows] = lp_pages_take_one(request->saved);
        LP_ASSERT(request->early_rows[request->n_early_rows] >= 0);
    }
    return status;
}

static void give_early_rows(lp_request *request) {
    for (int32_t i = 0; i < request->n_early_rows; i++) lp_pages_give(request->saved, request->early_rows[i]);
    request->n_early_rows = 0;
}

static void give_prompt(lp_request *request) {
    for (int32_t i = 0; request->prompt_page >= 0 && i < prompt_pages(request); i++)
        lp_pages_give(request->pages, request->prompt_page + i);
    request->prompt_page = -1;
    request->prompt_is_ready = false;
}

static lp_status make_room_for_part(lp_request *request, int32_t most_rows, lp_error *err) {
    const lp_executor_options *options = request->options;
    const lp_run_group *group = request->group;
    const lp_metric_position *metric_at = group->metric_at;
    size_t n = (size_t)request->max_branches;
    int32_t forced = metric_at ? metric_at->index + lp_longer_answer(metric_at) : 0;
    int32_t longest = options->max_new_tokens > forced ? options->max_new_tokens : forced;
    request->tail_stride = group->n_prompt + options->protocol.n_steps + request->n_start + longest;
    request->token_stride = longest + 1;
    LP_CHECK(lp_mem_grow(&request->branches, &request->branch_capacity, n, sizeof *request->branches, "branches", err));
    LP_CHECK(lp_mem_grow(&request->tails, &request->tail_capacity, n * (size_t)request->tail_stride, sizeof(int32_t),
                         "branch slots", err));
    LP_CHECK(lp_mem_grow(&request->tokens, &request->token_capacity, n * (size_t)request->token_stride, sizeof(int32_t),
                         "branch tokens", err));
    LP_CHECK(
        lp_mem_grow(&request->rows, &request->row_capacity, (size_t)most_rows, sizeof *request->rows, "rows", err));
    return lp_mem_grow(&request->first_row, &request->first_capacity, n, sizeof(int32_t), "rows", err);
}

/* Prompt positions whose rows, of every branch that has some there, fit a batch. */
static int32_t chunk_of(const lp_request *request, const need_sum *sum) {
    if (sum->prompt_rows <= request->batch_rows) return request->group->n_prompt;
    int64_t n = request->batch_rows / sum->in_prompt;
    return n > 1 ? (int32_t)n : 1;
}

/* The ancestors that the first run of the part has in common with the last one that is done are made again: as whole
 * branches, or, where they forked in another place in the earlier part, up to there. */
static void mark_known(lp_request *request) {
    const lp_run_order *order = &request->order;
    int32_t first = request->n_done;
    if (first == 0) return;
    int32_t common = lp_run_order_common(order, first - 1, first);
    for (int32_t i = 0; i < request->tree.n && request->tree.branches[i].first_in_order == first; i++) {
        const lp_branch *branch = &request->tree.branches[i];
        int32_t n_items = branch->n_edits + (branch->n_steps < request->options->protocol.n_steps);
        request->branches[i].known_until = n_items <= common ? INT32_MAX : lp_run_order_position(order, first, common);
    }
}

lp_status lp_request_begin_part(lp_request *request, bool *begun, lp_error *err) {
    lp_tree *tree = &request->tree;
    bool with_prompt = needs_prompt(request);
    need_sum sum = sum_of_none(request);
    LP_ASSERT(!request->group->metric_at || request->saved_row >= 0);
    for (int32_t i = 0; i < tree->n; i++) add_branch(request, i, 0, &sum);
    request->max_branches = (int32_t)sum.rows;
    *begun = false;
    request->chunk = chunk_of(request, &sum);
    LP_CHECK(make_room_for_part(request, need_of(&sum, request->batch_rows).rows, err));
    if (request->prompt_page < 0) request->prompt_page = lp_pages_take(request->pages, prompt_pages(request));
    if (request->prompt_page < 0) return LP_OK;
    LP_CHECK(take_early_rows(request, sum.saved, err));
    request->n_branches = tree->n;
    request->n_pending = request->n_pending_rows = request->n_rows = 0;
    for (int32_t i = 0; i < request->max_branches; i++) {
        lp_request_branch *branch = &request->branches[i];
        *branch = (lp_request_branch){.base = i,
                                      .sharing = {.ref = -1},
                                      .prefix_branch = -1,
                                      .answer_branch = {-1, -1},
                                      .latent = -1,
                                      .next_token = -1};
        if (i < tree->n) branch->plan = tree->branches[i];
        for (int m = 0; m < LP_N_METRICS; m++) branch->metrics[m] = NAN;
    }
    mark_known(request);
    request->position = with_prompt ? 0 : request->group->n_prompt;
    if (!with_prompt) start_branch(request, 0);
    request->is_active = *begun = true;
    request->n_parts++;
    return LP_OK;
}

int32_t lp_request_pages_to_come(const lp_request *request, int32_t expected_tokens) {
    int64_t n = 0;
    int32_t tokens = lp_smaller(expected_tokens, request->options->max_new_tokens);
    if (!request->is_active) return 0;
    for (int32_t i = 0; i < request->n_branches; i++) {
        const lp_request_branch *branch = &request->branches[i];
        if (branch->is_set_back || (branch->started && !branch->alive)) continue;
        if (!branch->started) {
            n += own_pages(request, &branch->plan, tokens);
        } else {
            int32_t last = branch->plan.last_fork;
            if (branch->kind != LP_BRANCH_RUN)
                last = request->position + branch->n_forced - branch->n_forced_used;
            else if (branch->plan.first_run >= 0 && last_fed(request, branch->plan.n_steps, tokens) > last)
                last = last_fed(request, branch->plan.n_steps, tokens);
            n += lp_pages_for(last - request->position + 1 - (branch->end_slot - branch->next_slot));
        }
        if (branch->kind == LP_BRANCH_RUN && !branch->has_metrics && yields_metrics(request, &branch->plan))
            n += forced_pages(request->group->metric_at);
    }
    return bounded(n);
}

static void set_back(lp_request *request, int32_t i) {
    lp_request_branch *branch = &request->branches[i];
    lp_branch_give_pages(request, i);
    request->row_layers_lost += branch->row_layers;
    branch->started = branch->is_set_back = true;
    branch->alive = false;
}

/* Sets tree branch `base` back: with its forced branches, and with those that would fork from it. */
static void set_back_all_of(lp_request *request, int32_t base) {
    int32_t n_left = 0;
    for (int32_t i = base + 1; i < request->tree.n; i++)
        if (!request->branches[i].started && stands_for(request, i) == base) request->branches[i].is_set_back = true;
    for (int32_t i = base + 1; i < request->tree.n; i++)
        if (request->branches[i].is_set_back && !request->branches[i].started) set_back(request, i);
    for (int32_t i = request->tree.n; i < request->n_branches; i++)
        if (!request->branches[i].is_set_back && request->branches[request->branches[i].base].is_set_back)
            set_back(request, i);
    for (int32_t i = request->tree.n; i < request->n_branches; i++)
        if (!request->branches[i].is_set_back && request->branches[i].base == base) set_back(request, i);
    set_back(request, base);
    for (int32_t i = 0; i < request->tree.n; i++) request->branches[i].plan.last_fork = -1;
    for (int32_t i = 1; i < request->tree.n; i++) {
        const lp_branch *plan = &request->branches[i].plan;
        lp_branch *parent = &request->branches[plan->parent].plan;
        if (!request->branches[i].is_set_back && plan->fork_position > parent->last_fork)
            parent->last_fork = plan->fork_position;
    }
    for (int32_t k = 0; k < request->n_pending; k++) {
        if (request->branches[request->pending[k]].is_set_back) continue;
        request->pending[n_left] = request->pending[k];
        request->pending_row[n_left++] = request->pending_row[k];
    }
    request->n_pending = n_left;
}

/* Does the branch still do something for runs of its own, or that will fork from it? */
static bool is_of_use(const lp_request *request, const lp_request_branch *branch) {
    return branch->alive && (branch->plan.first_run >= 0 || branch->kind != LP_BRANCH_RUN ||
                             branch->plan.last_fork >= request->position);
}

bool lp_request_shed(lp_request *request) {
    int32_t last = -1;
    bool others = false;
    LP_ASSERT(!request->in_batch);
    if (!request->is_active) return false;
    for (int32_t i = 0; i < request->n_branches; i++)
        if (is_of_use(request, &request->branches[i]) && request->branches[i].base > last)
            last = request->branches[i].base;
    for (int32_t i = 0; i < request->n_branches; i++)
        others |= is_of_use(request, &request->branches[i]) && request->branches[i].base != last;
    if (last < 0 || !others) return false;
    set_back_all_of(request, last);
    for (int32_t i = 0; i < request->n_branches; i++) {
        lp_request_branch *branch = &request->branches[i];
        if (!branch->alive || goes_on(branch, request->position)) continue;
        branch->alive = false;
        lp_branch_give_pages(request, i);
    }
    return true;
}

static void hand_out(lp_request *request, int32_t run, const lp_run_result *result) {
    lp_result_sink *sink = request->sink;
    if (sink) {
        const lp_work_source *source = sink->source;
        if (sink->err.status == LP_OK)
            sink->err.status =
                source->run_done(source->user, request->unit, request->group_in_unit, (size_t)run, result, &sink->err);
        return;
    }
    lp_run_result *out = &request->group->results[run];
    int32_t *tokens = out->tokens;
    if (result->n_tokens > 0) memcpy(tokens, result->tokens, (size_t)result->n_tokens * sizeof *tokens);
    *out = *result;
    out->tokens = tokens;
}

void lp_request_end_part(lp_request *request, int64_t *n_answers, int64_t *n_tokens) {
    LP_ASSERT(request->is_active && !request->in_batch);
    for (int32_t i = 0; i < request->tree.n; i++) {
        if (request->branches[i].is_set_back) continue;
        /* A branch that never forked did what its parent did: its first edit lies after the end of the answer. */
        int32_t of = stands_for(request, i);
        const lp_request_branch *branch = &request->branches[of];
        for (int32_t run = request->tree.branches[i].first_run; run >= 0; run = request->tree.next_run[run]) {
            lp_run_result result = {
                .tokens = lp_tokens_of(request, of), .n_tokens = branch->n_tokens, .ended = branch->ended};
            memcpy(result.metrics, request->branches[i].metrics, sizeof result.metrics);
            hand_out(request, run, &result);
            request->order.is_done[run] = true;
            ++*n_answers;
            *n_tokens += branch->n_tokens + branch->ended;
        }
    }
    for (int32_t i = 0; i < request->n_branches; i++) lp_branch_give_pages(request, i);
    give_early_rows(request);
    request->is_active = request->is_single = false;
    request->n_done = lp_run_order_settle(&request->order, request->n_done, request->part_end);
    if (!lp_request_is_done(request)) return;
    give_prompt(request);
    if (request->saved_row >= 0) lp_pages_give(request->saved, request->saved_row);
    request->saved_row = -1;
}

void lp_request_drop(lp_request *request, int64_t *n_answers, int64_t *n_tokens) {
    LP_ASSERT(!request->in_batch);
    if (request->is_active) {
        for (int32_t i = 0; i < request->n_branches; i++) {
            int32_t base = request->branches[i].base;
            if (request->branches[i].alive && !request->branches[base].is_set_back) set_back_all_of(request, base);
        }
        bool has_begun = request->branches[0].started;
        for (int32_t i = 0; i < request->tree.n && !has_begun; i++) set_back(request, i);
        lp_request_end_part(request, n_answers, n_tokens);
    }
    give_prompt(request);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* The row of latents that a thought step is fed from: at its fork a branch is fed what its parent is fed. */
static int32_t input_latent(const lp_request *request, int32_t i, int32_t position) {
    while (request->branches[i].plan.parent >= 0 && request->branches[i].plan.fork_position == position)
        i = request->branches[i].plan.parent;
    bool after_prompt = request->branches[i].plan.parent < 0 && position == request->group->n_prompt;
    return after_prompt ? request->prompt_page : request->branches[i].latent;
}

static void add_row(lp_request *request, int32_t i, int32_t position) {
    lp_request_branch *branch = &request->branches[i];
    int32_t p = request->group->n_prompt, begin = lp_answer_begin(request, branch);
    lp_request_row row = {.branch = i, .position = position, .token = -1};
    bool root_prompt = branch->plan.parent < 0 && position < p;
    row.slot = root_prompt ? request->prompt_page * LP_PAGE_POSITIONS + position : take_slot(request, i);
    row.prompt_length = root_prompt ? position + 1 : branch->prompt_length;
    row.n_tail = root_prompt ? 0 : branch->n_tail;
    row.next_latent = root_prompt ? request->prompt_page : branch->latent;
    if (position < p) {
        row.token = request->group->prompt[position];
        row.output = row.feeds_step = position == p - 1 && lp_thoughts_read_prompt(request) && branch->plan.n_steps > 0;
    } else if (position < begin) {
        if (position == p && !lp_thoughts_read_prompt(request)) row.token = request->options->vocabulary.first_input;
        row.latent = input_latent(request, i, position);
        row.output = row.feeds_step = position < begin - 1;
    } else {
        int32_t k = position - begin;
        row.token = k < request->n_start ? request->options->vocabulary.answer_start[k] : branch->next_token;
        row.output = row.chooses = k >= request->n_start - 1;
    }
    int32_t at = request->n_rows;
    lp_share_row(request, i, &row);
    uint64_t row_layers = (uint64_t)(request->options->model->config.n_layers - row.first_layer);
    branch->row_layers += row_layers;
    if (position < branch->known_until) request->row_layers_lost += row_layers;
    request->rows[at] = row;
    if (request->first_row[i] < 0) request->first_row[i] = at;
    request->n_rows++;
}

bool lp_request_is_place(const lp_request *request, const lp_branch *branch, const lp_address *at, int32_t position) {
    int32_t n_prompt = request->group->n_prompt, answer = n_prompt + branch->n_steps;
    switch (at->phase) {
    case LP_PHASE_PROMPT: return position == at->index && position < n_prompt;
    case LP_PHASE_THOUGHT: return at->index >= 0 && position == n_prompt + at->index && position < answer;
    case LP_PHASE_ANSWER: return at->index >= 0 && position == answer + at->index;
    }
    return false;
}

/* Is the run that ends in `branch` at the row's position still one with the row's branch? */
static bool is_carried(const lp_request *request, const lp_request_row *row, int32_t branch) {
    while (branch != row->branch) {
        const lp_branch *b = &request->branches[branch].plan;
        if (b->parent < 0 || b->fork_position <= row->position) return false;
        branch = b->parent;
    }
    return true;
}

int32_t lp_request_first_carried(const lp_request *request, const lp_request_row *row) {
    if (!request->captures || row->branch >= request->tree.n) return -1;
    if (request->branches[row->branch].plan.first_run >= 0) return row->branch;
    return lp_request_next_carried(request, row, row->branch);
}

int32_t lp_request_next_carried(const lp_request *request, const lp_request_row *row, int32_t branch) {
    if (!request->captures_patched) return -1;
    for (int32_t i = branch + 1; i < request->tree.n && request->branches[i].plan.parent >= row->branch; i++)
        if (request->branches[i].plan.first_run >= 0 && is_carried(request, row, i)) return i;
    return -1;
}

/* Captures ask for vectors after the last layer's K and V. */
static void mark_captured_outputs(lp_request *request) {
    for (int32_t i = 0; i < request->n_rows; i++) {
        lp_request_row *row = &request->rows[i];
        for (int32_t at = lp_request_first_carried(request, row); at >= 0 && !row->output;
             at = lp_request_next_carried(request, row, at)) {
            const lp_branch *branch = &request->branches[at].plan;
            for (int32_t i_run = branch->first_run; i_run >= 0; i_run = request->tree.next_run[i_run]) {
                const lp_run_wanted *run = &request->group->runs[i_run];
                for (int32_t k = 0; k < run->n_captures && !row->output; k++)
                    row->output = lp_request_is_place(request, branch, &run->captures[k].at, row->position);
            }
        }
    }
}

static int32_t end_of_step(const lp_request *request) {
    int32_t p = request->group->n_prompt;
    return request->position < p ? lp_smaller(p, request->position + request->chunk) : request->position + 1;
}

/* Will a branch that has not begun begin at `position`? Its ancestors may begin there too. */
static bool will_begin(const lp_request *request, const lp_request_branch *branch, int32_t position) {
    while (!branch->started && branch->plan.fork_position == position && branch->plan.parent >= 0)
        branch = &request->branches[branch->plan.parent];
    return branch->started ? goes_on(branch, position) : branch->plan.fork_position == position;
}

int32_t lp_request_count_rows(const lp_request *request, int32_t *pages) {
    int32_t n = 0, n_pages = 0, end = end_of_step(request);
    bool in_prompt = request->position < request->group->n_prompt;
    for (int32_t i = 0; request->is_active && i < request->n_branches; i++) {
        const lp_request_branch *branch = &request->branches[i];
        if (branch->started) {
            if (!goes_on(branch, request->position)) continue;
            int32_t rows = end - request->position;
            n += rows;
            if (!in_prompt || branch->plan.parent >= 0)
                n_pages += lp_pages_for(rows - (branch->end_slot - branch->next_slot));
        } else if (branch->kind == LP_BRANCH_RUN && branch->plan.fork_position < end &&
                   (in_prompt || will_begin(request, branch, request->position))) {
            int32_t rows = end - branch->plan.fork_position;
            n += rows;
            if (branch->plan.parent >= 0) n_pages += lp_pages_for(rows);
        }
    }
    if (pages) *pages = n_pages;
    return n;
}

void lp_request_make_rows(lp_request *request) {
    int32_t end = end_of_step(request), p = request->group->n_prompt;
    request->n_rows = 0;
    for (int32_t i = 0; i < request->n_branches; i++) request->first_row[i] = -1;
    for (int32_t i = 0; i < request->n_branches; i++) {
        lp_request_branch *branch = &request->branches[i];
        for (int32_t q = request->position; q < end; q++) {
            if (begins(request, branch, q)) start_branch(request, i);
            if (branch->started && goes_on(branch, q)) add_row(request, i, q);
        }
    }
    mark_captured_outputs(request);
    if (request->position < p && end == p) request->prompt_is_ready = goes_on(&request->branches[0], p - 1);
    request->position = end;
    request->in_batch = true;
    for (int32_t i = 0; i < request->n_branches; i++) {
        lp_request_branch *branch = &request->branches[i];
        if (branch->alive && !goes_on(branch, end)) branch->alive = false;
    }
}

const int32_t *lp_request_tail(const lp_request *request, const lp_request_row *row) {
    return lp_tail_of(request, row->branch);
}

void lp_request_end_step(lp_request *request) {
    request->in_batch = false;
    for (int32_t i = 0; i < request->n_branches; i++)
        if (!request->branches[i].alive) lp_branch_give_pages(request, i);
}
