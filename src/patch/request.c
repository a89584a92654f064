#include "patch/request.h"

#include "base/memory.h"

#include <math.h>

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static bool thoughts_read_prompt(const lp_request *request) {
    return request->options->protocol.first_reads_prompt;
}

/* First answer position of a branch. */
static int32_t answer_begin(const lp_request *request, const lp_request_branch *b) {
    return request->group->n_prompt + b->plan.n_steps;
}

/* ---- Opening ----------------------------------------------------------------------------------------------------- */

/* Positions that a branch of the tree can have of its own. */
static int32_t own_positions(const lp_request *request, const lp_branch *b) {
    int32_t last = b->last_fork;
    if (b->first_run >= 0)
        last = request->group->n_prompt + b->n_steps + request->n_start + request->options->max_new_tokens - 2;
    int32_t first = b->parent < 0 ? 0 : b->fork_position;
    return last >= first ? last - first + 1 : 0;
}

static int32_t answer_length(const lp_metric_position *metric_at) {
    return metric_at->clean.n > metric_at->corrupted.n ? metric_at->clean.n : metric_at->corrupted.n;
}

lp_status lp_request_open(lp_request *request, const lp_executor_options *options, const lp_run_group *group,
                          lp_request_need *need, lp_error *err) {
    request->options = options;
    request->group = group;
    request->n_start = options->vocabulary.n_answer_start;
    lp_status status = lp_tree_build(&request->tree, group, options->protocol.n_steps, err);
    if (status != LP_OK) return status;
    const lp_tree *tree = &request->tree;
    int32_t p = group->n_prompt, prompt_rows = p, forced = 0, early = 0;
    int64_t slots = 0;
    for (int32_t i = 0; i < tree->n; i++) {
        const lp_branch *b = &tree->branches[i];
        int32_t own = own_positions(request, b);
        slots += b->parent < 0 && own < p ? p : own;
        if (b->parent >= 0 && b->fork_position < p) prompt_rows += p - b->fork_position;
        early += b->first_run >= 0 && b->n_steps < options->protocol.n_steps;
        if (group->metric_at && (b->first_run >= 0 || b->last_fork >= p + b->n_steps)) {
            forced += group->metric_at->whole_answers ? 3 : 1;
            slots +=
                group->metric_at->index + (group->metric_at->whole_answers ? 2 * answer_length(group->metric_at) : 0);
        }
    }
    int32_t branches = tree->n + forced;
    if (slots > INT32_MAX / 2)
        return lp_fail(err, LP_ERR_MEMORY, "a pair needs %lld KV slots: too many", (long long)slots);
    *need = (lp_request_need){.slots = (int32_t)slots,
                              .branches = branches,
                              .rows = prompt_rows > branches ? prompt_rows : branches,
                              .saved = group->metric_at ? 1 + early : 0};
    return LP_OK;
}

lp_status lp_request_start(lp_request *request, const lp_request_need *need, const lp_request_place *place,
                           lp_error *err) {
    const lp_executor_options *o = request->options;
    const lp_run_group *group = request->group;
    size_t n = (size_t)need->branches;
    int32_t forced = group->metric_at ? group->metric_at->index + answer_length(group->metric_at) : 0;
    int32_t longest = o->max_new_tokens > forced ? o->max_new_tokens : forced;
    lp_status status = LP_OK;
    request->max_branches = need->branches;
    request->tail_stride = group->n_prompt + o->protocol.n_steps + request->n_start + longest;
    request->token_stride = longest + 1;
    LP_TRY(lp_mem_grow(&request->branches, &request->branch_capacity, n, sizeof *request->branches, "branches", err));
    LP_TRY(lp_mem_grow(&request->tails, &request->tail_capacity, n * (size_t)request->tail_stride, sizeof(int32_t),
                       "branch slots", err));
    LP_TRY(lp_mem_grow(&request->tokens, &request->token_capacity, n * (size_t)request->token_stride, sizeof(int32_t),
                       "branch tokens", err));
    LP_TRY(lp_mem_grow(&request->rows, &request->row_capacity, (size_t)need->rows, sizeof *request->rows, "rows", err));
    LP_TRY(lp_mem_grow(&request->first_row, &request->first_capacity, n, sizeof(int32_t), "rows", err));
    request->has_unpatched = request->in_batch = false;
    request->n_pending = request->n_pending_rows = 0;
    request->position = 0;
    request->prompt_slot = place->slot;
    request->next_slot = place->slot + group->n_prompt;
    request->end_slot = place->slot + need->slots;
    request->saved = place->saved;
    request->end_saved = place->saved + need->saved;
    request->n_branches = request->tree.n;
    for (int32_t i = 0; i < need->branches; i++) {
        lp_request_branch *b = &request->branches[i];
        *b = (lp_request_branch){.base = i,
                                 .ref = -1,
                                 .prefix_branch = -1,
                                 .answer_branch = {-1, -1},
                                 .latent = place->latent + i,
                                 .next_token = -1};
        if (i < request->tree.n) b->plan = request->tree.branches[i];
        for (int m = 0; m < LP_N_METRICS; m++) b->metrics[m] = NAN;
    }
out:
    return status;
}

void lp_request_release(lp_request *request) {
    lp_tree_release(&request->tree);
    lp_mem_free(request->branches);
    lp_mem_free(request->tails);
    lp_mem_free(request->tokens);
    lp_mem_free(request->rows);
    lp_mem_free(request->first_row);
    lp_mem_free(request->pending);
    lp_mem_free(request->pending_row);
    *request = (lp_request){0};
}

/* ---- Branches in time -------------------------------------------------------------------------------------------- */

static int32_t *tail_of(const lp_request *request, int32_t branch) {
    return request->tails + (size_t)branch * (size_t)request->tail_stride;
}

static int32_t *tokens_of(const lp_request *request, int32_t branch) {
    return request->tokens + (size_t)branch * (size_t)request->token_stride;
}

static void take_slots(lp_request *request, lp_request_branch *b, int32_t n) {
    LP_ASSERT(request->next_slot + n <= request->end_slot);
    b->next_slot = request->next_slot;
    b->end_slot = request->next_slot + n;
    request->next_slot += n;
}

/* A branch begins: it inherits its parent's state as of the position before. */
static void start_branch(lp_request *request, int32_t i) {
    lp_request_branch *b = &request->branches[i];
    int32_t n_layers = request->options->model->config.n_layers;
    b->started = b->alive = true;
    b->dirty = n_layers;
    if (b->plan.parent < 0) {
        b->prompt_length = request->group->n_prompt;
        int32_t behind_prompt = own_positions(request, &b->plan) - request->group->n_prompt;
        take_slots(request, b, behind_prompt > 0 ? behind_prompt : 0);
        return;
    }
    int32_t own_latent = b->latent;
    const lp_request_branch *parent = &request->branches[b->plan.parent];
    b->ref = b->plan.stops ? -1 : b->plan.parent;
    b->prompt_length = smaller(parent->prompt_length, b->plan.fork_position);
    b->n_tail = 0;
    if (b->plan.fork_position > parent->prompt_length) {
        b->n_tail = b->plan.fork_position - parent->prompt_length;
        memcpy(tail_of(request, i), tail_of(request, b->plan.parent), (size_t)b->n_tail * sizeof(int32_t));
    }
    b->latent = own_latent;
    b->next_token = parent->next_token;
    b->n_tokens = parent->n_tokens;
    memcpy(tokens_of(request, i), tokens_of(request, b->plan.parent), (size_t)parent->n_tokens * sizeof(int32_t));
    take_slots(request, b, own_positions(request, &b->plan));
}

/* True while the branch has a row at the position. */
static bool goes_on(const lp_request_branch *b, int32_t position) {
    if (!b->alive) return false;
    return b->plan.first_run >= 0 || b->kind != LP_BRANCH_RUN || position <= b->plan.last_fork;
}

/* A branch may begin at `position` when its parent is there too (or was, for a branch that stops thinking). */
static bool begins(const lp_request *request, const lp_request_branch *b, int32_t position) {
    if (b->started || b->kind != LP_BRANCH_RUN || b->plan.fork_position != position) return false;
    return b->plan.parent < 0 || goes_on(&request->branches[b->plan.parent], position);
}

/* ---- Sharing ----------------------------------------------------------------------------------------------------- */

static bool is_at(const lp_timed_edit *edit, int32_t position) {
    return edit->all ? position >= edit->position : edit->position == position;
}

static int32_t edits_of(const lp_request *request, int32_t branch) {
    return branch < 0 ? 0 : request->branches[branch].plan.n_edits;
}

/* First layer with K or V changed by an edit. */
static int32_t first_changed_kv(const lp_timed_edit *edit, int32_t n_layers) {
    const lp_address *at = &edit->what.at;
    switch (at->site) {
    case LP_SITE_LATENT_IN: return 0;
    case LP_SITE_LATENT_RAW: return n_layers;
    case LP_SITE_RESID_PRE:
    case LP_SITE_K:
    case LP_SITE_V: return at->layer;
    default: return at->layer + 1;
    }
}

/* Is the branch fed at `position` what its reference is fed? The reference has a row there. */
static bool same_input(const lp_request *request, const lp_request_branch *b, int32_t position) {
    const lp_request_branch *ref = &request->branches[b->ref];
    int32_t p = request->group->n_prompt;
    if (position < p) return true;
    if (position < answer_begin(request, b)) {
        if (position >= answer_begin(request, ref)) return false;
        if (position == p && !thoughts_read_prompt(request)) return true;
        return position == b->plan.fork_position || !b->output_differs;
    }
    if (answer_begin(request, b) != answer_begin(request, ref)) return false;
    if (position - answer_begin(request, b) < request->n_start) return true;
    return b->next_token == ref->next_token;
}

static bool has_row(const lp_request *request, int32_t branch, int32_t position) {
    int32_t first = request->first_row[branch];
    if (first < 0 || request->rows[first].position > position) return false;
    int32_t at = first + position - request->rows[first].position;
    return at < request->n_rows && request->rows[at].branch == branch;
}

static int32_t row_at(const lp_request *request, int32_t branch, int32_t position) {
    int32_t first = request->first_row[branch];
    return first + position - request->rows[first].position;
}

/* Points the branch at the nearest ancestor that has a row here and is fed the same; drops sharing where there is none.
 */
static void find_reference(const lp_request *request, lp_request_branch *b, int32_t position) {
    if (b->kind != LP_BRANCH_RUN && b->plan.fork_position == position && has_row(request, b->plan.parent, position) &&
        request->branches[b->plan.parent].next_token == b->next_token) {
        b->ref = b->plan.parent;
        b->dirty = request->options->model->config.n_layers;
        return;
    }
    while (b->ref >= 0 && !has_row(request, b->ref, position)) {
        const lp_request_branch *ref = &request->branches[b->ref];
        b->dirty = smaller(b->dirty, ref->dirty);
        b->output_differs |= ref->output_differs;
        b->ref = ref->ref;
    }
    if (b->ref >= 0 && same_input(request, b, position)) return;
    /* Where both leave the prefix at once, the branches that are forced along it go on together. */
    b->ref = b->ref >= 0 && b->kind == LP_BRANCH_FORCED_PREFIX ? request->branches[b->ref].prefix_branch : -1;
    if (b->ref >= 0 && request->branches[b->ref].plan.fork_position == position && has_row(request, b->ref, position) &&
        same_input(request, b, position))
        return;
    b->ref = -1;
    b->dirty = 0;
}

/* At which layer the row of a branch begins, and what that means for its later positions. */
static void share(lp_request *request, int32_t i, lp_request_row *row) {
    lp_request_branch *b = &request->branches[i];
    int32_t n_layers = request->options->model->config.n_layers;
    find_reference(request, b, row->position);
    int32_t ref = b->ref;
    if (ref < 0) {
        row->first_layer = 0;
        b->output_differs = true;
    } else {
        int32_t first_layer = b->dirty, changed = b->dirty;
        bool own_edit = false;
        for (int32_t k = edits_of(request, ref); k < b->plan.n_edits; k++) {
            const lp_timed_edit *edit = lp_tree_edit(request->group, &b->plan, k, NULL);
            if (!is_at(edit, row->position)) continue;
            own_edit = true;
            first_layer = smaller(first_layer, lp_timed_edit_first_layer(edit, n_layers));
            changed = smaller(changed, first_changed_kv(edit, n_layers));
        }
        row->first_layer = first_layer;
        b->output_differs = first_layer < n_layers || own_edit;
        b->dirty = changed;
    }
    row->source = -1;
    row->first_own_edit = 0;
    if (row->first_layer == 0) return;
    while (request->rows[row_at(request, ref, row->position)].first_layer >= row->first_layer) {
        ref = request->branches[ref].ref;
        LP_ASSERT(ref >= 0);
    }
    row->source = row_at(request, ref, row->position);
    row->first_own_edit = edits_of(request, ref);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* The row of latents that a thought step is fed from: at its fork a branch is fed what its parent is fed. */
static int32_t input_latent(const lp_request *request, int32_t i, int32_t position) {
    while (request->branches[i].plan.parent >= 0 && request->branches[i].plan.fork_position == position)
        i = request->branches[i].plan.parent;
    return request->branches[i].latent;
}

static void add_row(lp_request *request, int32_t i, int32_t position) {
    lp_request_branch *b = &request->branches[i];
    int32_t p = request->group->n_prompt, begin = answer_begin(request, b);
    lp_request_row row = {.branch = i, .position = position, .token = -1, .latent = b->latent};
    if (position < p) {
        row.token = request->group->prompt[position];
        row.output = row.feeds_step = position == p - 1 && thoughts_read_prompt(request) && b->plan.n_steps > 0;
    } else if (position < begin) {
        if (position == p && !thoughts_read_prompt(request)) row.token = request->options->vocabulary.first_input;
        row.latent = input_latent(request, i, position);
        row.output = row.feeds_step = position < begin - 1;
    } else {
        int32_t k = position - begin;
        row.token = k < request->n_start ? request->options->vocabulary.answer_start[k] : b->next_token;
        row.output = row.chooses = k >= request->n_start - 1;
    }
    bool root_prompt = b->plan.parent < 0 && position < p;
    row.slot = root_prompt ? request->prompt_slot + position : b->next_slot++;
    LP_ASSERT(root_prompt || b->next_slot <= b->end_slot);
    row.prompt_length = root_prompt ? position + 1 : b->prompt_length;
    if (!root_prompt) {
        LP_ASSERT(b->n_tail < request->tail_stride);
        tail_of(request, i)[b->n_tail++] = row.slot;
        row.n_tail = b->n_tail;
    }
    int32_t at = request->n_rows;
    share(request, i, &row);
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

/* Captures ask for vectors after the last layer's K and V. */
static void mark_captured_outputs(lp_request *request) {
    for (int32_t i = 0; i < request->n_rows; i++) {
        lp_request_row *row = &request->rows[i];
        const lp_request_branch *b = &request->branches[row->branch];
        if (b->plan.first_run < 0 || b->plan.n_edits > 0) continue;
        for (int32_t i_run = b->plan.first_run; i_run >= 0; i_run = request->tree.next_run[i_run]) {
            const lp_run_wanted *run = &request->group->runs[i_run];
            for (int32_t k = 0; k < run->n_captures && !row->output; k++)
                row->output = lp_request_is_place(request, &b->plan, &run->captures[k].at, row->position);
        }
    }
}

static int32_t end_of_batch(const lp_request *request) {
    return request->position == 0 ? request->group->n_prompt : request->position + 1;
}

/* Will a branch that has not begun begin at `position`? Its ancestors may begin there too. */
static bool will_begin(const lp_request *request, const lp_request_branch *b, int32_t position) {
    while (!b->started && b->plan.fork_position == position && b->plan.parent >= 0)
        b = &request->branches[b->plan.parent];
    return b->started ? goes_on(b, position) : b->plan.fork_position == position;
}

int32_t lp_request_count_rows(lp_request *request) {
    int32_t n = 0, end = end_of_batch(request);
    for (int32_t i = 0; i < request->n_branches; i++) {
        const lp_request_branch *b = &request->branches[i];
        if (b->started) {
            n += goes_on(b, request->position);
        } else if (b->kind == LP_BRANCH_RUN && b->plan.fork_position < end) {
            bool with_parent = request->position == 0 || will_begin(request, b, request->position);
            n += with_parent ? end - (b->plan.parent < 0 ? 0 : b->plan.fork_position) : 0;
        }
    }
    return n;
}

lp_status lp_request_make_rows(lp_request *request, lp_error *err) {
    (void)err;
    int32_t end = end_of_batch(request);
    request->n_rows = 0;
    for (int32_t i = 0; i < request->n_branches; i++) request->first_row[i] = -1;
    for (int32_t i = 0; i < request->n_branches; i++) {
        lp_request_branch *b = &request->branches[i];
        for (int32_t q = request->position; q < end; q++) {
            if (begins(request, b, q)) start_branch(request, i);
            if (b->started && goes_on(b, q)) add_row(request, i, q);
        }
    }
    mark_captured_outputs(request);
    request->position = end;
    request->in_batch = true;
    for (int32_t i = 0; i < request->n_branches; i++) {
        lp_request_branch *b = &request->branches[i];
        if (b->alive && !goes_on(b, end)) b->alive = false;
    }
    return LP_OK;
}

const int32_t *lp_request_tail(const lp_request *request, const lp_request_row *row) {
    return tail_of(request, row->branch);
}

/* ---- Answers and metrics ----------------------------------------------------------------------------------------- */

static bool matches_prefix(const lp_request *request, int32_t branch, int32_t n) {
    const lp_metric_position *metric_at = request->group->metric_at;
    return memcmp(tokens_of(request, branch), metric_at->prefix, (size_t)n * sizeof(int32_t)) == 0;
}

/* True when a run, of the branch or of one that forks from it later, has its metrics still to come. */
static bool has_metrics_to_come(const lp_request *request, const lp_request_branch *b) {
    return request->group->metric_at && b->kind == LP_BRANCH_RUN && !b->has_metrics &&
           (b->plan.first_run >= 0 || b->plan.last_fork >= request->position);
}

/* True when the logits at hand are those that metrics are read from. */
static bool is_metric_position(const lp_request *request, int32_t branch) {
    const lp_request_branch *b = &request->branches[branch];
    const lp_metric_position *metric_at = request->group->metric_at;
    if (!metric_at || b->n_tokens != metric_at->index) return false;
    return b->kind == LP_BRANCH_FORCED_PREFIX ||
           (has_metrics_to_come(request, b) && matches_prefix(request, branch, metric_at->index));
}

/* Next branch after i (first: i = branch) that has done the same as `branch` so far: itself, and those after it that
 * have not begun; -1: none. They share their metrics' logits; what they read after their forks is their own. */
static int32_t next_together(const lp_request *request, int32_t branch, int32_t i) {
    if (request->branches[branch].plan.last_fork < request->position) return -1;
    for (i++; i < request->tree.n; i++) {
        int32_t at = i;
        while (at >= 0 && !request->branches[at].started) at = request->branches[at].plan.parent;
        if (at == branch && at != i) return i;
    }
    return -1;
}

/* A forced branch with the edits of `of`, that goes on from branch `from` with forced tokens, the first of which is fed
 * next. It shares with `ref` as `from` does with its reference, or as a branch does that has yet to fork. */
static int32_t spawn(lp_request *request, int32_t from, int32_t of, int32_t ref, lp_branch_kind kind,
                     const int32_t *forced, int32_t n_forced) {
    LP_ASSERT(request->n_branches < request->max_branches);
    int32_t i = request->n_branches++;
    lp_request_branch *b = &request->branches[i];
    int32_t own_latent = b->latent;
    bool is_own = request->branches[from].base == of;
    *b = request->branches[from];
    b->plan = request->branches[of].plan;
    b->kind = kind;
    b->base = of;
    b->started = b->alive = true;
    b->ended = false;
    b->prefix_branch = b->answer_branch[0] = b->answer_branch[1] = -1;
    b->ref = ref;
    if (!is_own) b->dirty = request->options->model->config.n_layers;
    if (ref < 0) b->dirty = 0;
    b->latent = own_latent;
    b->plan.parent = from;
    b->plan.fork_position = request->position;
    b->plan.first_run = -1;
    memcpy(tail_of(request, i), tail_of(request, from), (size_t)b->n_tail * sizeof(int32_t));
    memcpy(tokens_of(request, i), tokens_of(request, from), (size_t)b->n_tokens * sizeof(int32_t));
    b->forced = forced;
    b->n_forced = n_forced;
    b->n_forced_used = 1;
    b->next_token = forced[0];
    b->log_probability = 0;
    tokens_of(request, i)[b->n_tokens++] = forced[0];
    take_slots(request, b, n_forced);
    return i;
}

/* Runs that do nothing to the recipient: divergences are taken from theirs. */
static bool is_unpatched(const lp_request *request, const lp_branch *b) {
    return b->first_run >= 0 && b->n_edits == 0 && b->n_steps == request->options->protocol.n_steps;
}

bool lp_request_queries_unpatched(const lp_request *request, int32_t branch) {
    return is_metric_position(request, branch) &&
           is_unpatched(request, &request->branches[request->branches[branch].base].plan);
}

static lp_status add_query(lp_request *request, int32_t branch, const lp_logit_query *query, bool is_late,
                           lp_query_list *list, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items, "logit queries", err));
    LP_TRY(lp_mem_grow(&list->owners, &list->owner_capacity, list->n + 1, sizeof *list->owners, "logit queries", err));
    list->items[list->n] = *query;
    list->owners[list->n++] = (lp_query_owner){.request = request, .branch = branch, .is_late = is_late};
out:
    return status;
}

/* Saves the logits of a row whose metrics are read before the unpatched run's, for all that read there. */
static lp_status save_pending(lp_request *request, int32_t branch, lp_logit_query *query, lp_error *err) {
    bool is_run = request->branches[branch].kind == LP_BRANCH_RUN;
    int32_t row = request->saved + 1 + request->n_pending_rows;
    lp_status status = LP_OK;
    for (int32_t i = branch; i >= 0; i = is_run ? next_together(request, branch, i) : -1) {
        int32_t of = i == branch ? request->branches[branch].base : i;
        size_t n = (size_t)request->n_pending + 1;
        if (request->branches[of].plan.first_run < 0) continue;
        LP_TRY(lp_mem_grow(&request->pending, &request->pending_capacity, n, sizeof(int32_t), "logit queries", err));
        LP_TRY(lp_mem_grow(&request->pending_row, &request->pending_row_capacity, n, sizeof(int32_t), "logit queries",
                           err));
        request->pending[n - 1] = of;
        request->pending_row[n - 1] = row;
        request->n_pending++;
        query->saved_row = row;
    }
    if (query->saved_row >= 0) {
        LP_ASSERT(row < request->end_saved);
        request->n_pending_rows++;
    }
out:
    return status;
}

lp_status lp_request_add_queries(lp_request *request, int32_t branch, int32_t row, lp_query_list *list, lp_error *err) {
    const lp_metric_position *metric_at = request->group->metric_at;
    const lp_request_branch *b = &request->branches[branch];
    lp_logit_query query = {.row = row, .saved_row = -1, .base = -1, .token = {-1, -1}};
    lp_status status = LP_OK;
    if (b->kind == LP_BRANCH_FORCED_CLEAN || b->kind == LP_BRANCH_FORCED_CORRUPTED) {
        query.token[0] = b->forced[b->n_forced_used];
        return add_query(request, branch, &query, false, list, err);
    }
    if (!is_metric_position(request, branch)) return LP_OK;
    if (metric_at->clean.n > 0) query.token[0] = metric_at->clean.tokens[0];
    if (metric_at->corrupted.n > 0) query.token[1] = metric_at->corrupted.tokens[0];
    bool becomes_known = !request->has_unpatched && lp_request_queries_unpatched(request, branch);
    if (becomes_known) {
        query.saved_row = request->saved;
        request->has_unpatched = true;
    }
    if (request->has_unpatched)
        query.base = request->saved;
    else if (is_unpatched(request, &request->tree.branches[0]))
        LP_TRY(save_pending(request, branch, &query, err));
    LP_TRY(add_query(request, branch, &query, false, list, err));
    for (int32_t k = 0; becomes_known && k < request->n_pending; k++) {
        lp_logit_query late = {
            .row = -1, .saved_row = request->pending_row[k], .base = request->saved, .token = {-1, -1}};
        LP_TRY(add_query(request, request->pending[k], &late, true, list, err));
    }
out:
    return status;
}

static void set_divergence(lp_request_branch *b, double kl) {
    b->metrics[LP_METRIC_KL] = (float)(kl < 0 ? 0 : kl);
}

void lp_request_accept_late(lp_request *request, int32_t branch, const lp_logit_stats *stats) {
    set_divergence(&request->branches[branch], stats->kl);
}

/* The metrics of the runs of tree branch i, but for those of whole answers. */
static void set_metrics(lp_request *request, int32_t i, const lp_logit_stats *stats) {
    lp_request_branch *b = &request->branches[i];
    b->has_metrics = true;
    if (b->plan.first_run < 0) return;
    b->metrics[LP_METRIC_LOGIT_CLEAN] = (float)stats->logit[0];
    b->metrics[LP_METRIC_LOGIT_CORRUPTED] = (float)stats->logit[1];
    b->metrics[LP_METRIC_LOGPROB_CLEAN] = (float)(stats->logit[0] - stats->log_sum);
    b->metrics[LP_METRIC_LOGPROB_CORRUPTED] = (float)(stats->logit[1] - stats->log_sum);
    b->metrics[LP_METRIC_LOGIT_DIFF] = b->metrics[LP_METRIC_LOGIT_CLEAN] - b->metrics[LP_METRIC_LOGIT_CORRUPTED];
    set_divergence(b, stats->kl);
}

static const lp_metric answer_metrics[2] = {LP_METRIC_ANSWER_CLEAN, LP_METRIC_ANSWER_CORRUPTED};

/* From the metric position on along answer k (0: clean, 1: corrupted), with the edits of `of`. */
static void force_answer(lp_request *request, int32_t from, int32_t of, int k, const lp_logit_stats *here) {
    const lp_metric_position *metric_at = request->group->metric_at;
    const int32_t *tokens = k == 0 ? metric_at->clean.tokens : metric_at->corrupted.tokens;
    int32_t n_tokens = k == 0 ? metric_at->clean.n : metric_at->corrupted.n;
    if (!lp_metric_position_forces(metric_at, k == 1)) return;
    double log_probability = here->logit[k] - here->log_sum;
    if (n_tokens == 1) {
        request->branches[of].metrics[answer_metrics[k]] = (float)log_probability;
        return;
    }
    bool is_own = request->branches[from].base == of;
    int32_t with = is_own ? request->branches[from].ref : request->branches[of].plan.parent;
    int32_t ref = with >= 0 ? request->branches[with].answer_branch[k] : -1;
    int32_t i = spawn(request, from, of, ref, k == 0 ? LP_BRANCH_FORCED_CLEAN : LP_BRANCH_FORCED_CORRUPTED, tokens,
                      n_tokens - 1);
    request->branches[i].log_probability = log_probability;
    request->branches[is_own ? from : of].answer_branch[k] = i;
}

static void set_metrics_here(lp_request *request, int32_t branch, const lp_logit_stats *stats) {
    bool is_run = request->branches[branch].kind == LP_BRANCH_RUN;
    for (int32_t i = branch; i >= 0; i = is_run ? next_together(request, branch, i) : -1) {
        int32_t of = i == branch ? request->branches[branch].base : i;
        set_metrics(request, of, stats);
        for (int k = 0; k < 2; k++) force_answer(request, branch, of, k, stats);
    }
}

/* The answer leaves the prefix: from here forced branches go on along it. */
static void leave_prefix(lp_request *request, int32_t branch) {
    const lp_metric_position *metric_at = request->group->metric_at;
    int32_t n_tokens = request->branches[branch].n_tokens;
    for (int32_t i = branch; i >= 0; i = next_together(request, branch, i)) {
        lp_request_branch *b = &request->branches[i];
        int32_t ref = i == branch ? b->ref : request->branches[b->plan.parent].prefix_branch;
        b->has_metrics = true;
        b->prefix_branch = spawn(request, branch, i, ref, LP_BRANCH_FORCED_PREFIX, metric_at->prefix + n_tokens,
                                 metric_at->index - n_tokens);
    }
}

static void accept_forced(lp_request *request, int32_t branch, const lp_logit_stats *stats) {
    lp_request_branch *b = &request->branches[branch];
    if (b->kind == LP_BRANCH_FORCED_PREFIX) {
        if (is_metric_position(request, branch)) {
            b->alive = false;
            set_metrics_here(request, branch, stats);
            return;
        }
    } else {
        b->log_probability += stats->logit[0] - stats->log_sum;
        if (b->n_forced_used == b->n_forced) {
            request->branches[b->base].metrics[answer_metrics[b->kind == LP_BRANCH_FORCED_CLEAN ? 0 : 1]] =
                (float)b->log_probability;
            b->alive = false;
            return;
        }
    }
    b->next_token = b->forced[b->n_forced_used++];
    tokens_of(request, branch)[b->n_tokens++] = b->next_token;
}

void lp_request_accept_token(lp_request *request, int32_t branch, int32_t token, const lp_logit_stats *here) {
    const lp_metric_position *metric_at = request->group->metric_at;
    lp_request_branch *b = &request->branches[branch];
    if (b->kind != LP_BRANCH_RUN) {
        accept_forced(request, branch, here);
        return;
    }
    if (is_metric_position(request, branch)) set_metrics_here(request, branch, here);
    if (has_metrics_to_come(request, b) && b->n_tokens < metric_at->index && token != metric_at->prefix[b->n_tokens])
        leave_prefix(request, branch);
    if (lp_vocabulary_stops(&request->options->vocabulary, token)) {
        b->ended = true;
        b->alive = false;
        return;
    }
    tokens_of(request, branch)[b->n_tokens++] = token;
    b->next_token = token;
    if (b->n_tokens == request->options->max_new_tokens) b->alive = false;
}

void lp_request_finish(lp_request *request) {
    for (int32_t i = 0; i < request->tree.n; i++) {
        /* A branch that never forked did what its parent did: its first edit lies after the end of the answer. */
        int32_t of = i;
        while (!request->branches[of].started) of = request->branches[of].plan.parent;
        const lp_request_branch *b = &request->branches[of];
        for (int32_t run = request->branches[i].plan.first_run; run >= 0; run = request->tree.next_run[run]) {
            lp_run_result *result = &request->group->results[run];
            memcpy(result->tokens, tokens_of(request, of), (size_t)b->n_tokens * sizeof(int32_t));
            result->n_tokens = b->n_tokens;
            result->ended = b->ended;
            memcpy(result->metrics, request->branches[i].metrics, sizeof result->metrics);
        }
    }
}
