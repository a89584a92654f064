#include "patch/lane.h"

#include "base/memory.h"

#include <math.h>

static int32_t smaller(int32_t a, int32_t b) {
    return a < b ? a : b;
}

static bool thoughts_read_prompt(const lp_lane *lane) {
    return lane->options->protocol.first_reads_prompt;
}

/* First answer position of a branch. */
static int32_t answer_begin(const lp_lane *lane, const lp_lane_branch *b) {
    return lane->group->n_prompt + b->plan.n_steps;
}

/* ---- Opening ----------------------------------------------------------------------------------------------------- */

/* Positions that a branch of the tree can have of its own. */
static int32_t own_positions(const lp_lane *lane, const lp_branch *b) {
    int32_t last = b->last_fork;
    if (b->first_run >= 0)
        last = lane->group->n_prompt + b->n_steps + lane->n_start + lane->options->max_new_tokens - 2;
    int32_t first = b->parent < 0 ? 0 : b->fork_position;
    return last >= first ? last - first + 1 : 0;
}

static int32_t answer_length(const lp_reading *reading) {
    return reading->clean.n > reading->corrupted.n ? reading->clean.n : reading->corrupted.n;
}

lp_status lp_lane_open(lp_lane *lane, const lp_executor_options *options, const lp_run_group *group, lp_lane_need *need,
                       lp_error *err) {
    lane->options = options;
    lane->group = group;
    lane->n_start = options->vocabulary.n_answer_start;
    lp_status status = lp_tree_build(&lane->tree, group, options->protocol.n_steps, err);
    if (status != LP_OK) return status;
    const lp_tree *tree = &lane->tree;
    int32_t p = group->n_prompt, prompt_rows = p, readers = 0, early = 0;
    int64_t slots = 0;
    for (int32_t i = 0; i < tree->n; i++) {
        const lp_branch *b = &tree->branches[i];
        int32_t own = own_positions(lane, b);
        slots += b->parent < 0 && own < p ? p : own;
        if (b->parent >= 0 && b->fork_position < p) prompt_rows += p - b->fork_position;
        early += b->first_run >= 0 && b->n_steps < options->protocol.n_steps;
        if (group->reading && (b->first_run >= 0 || b->last_fork >= p + b->n_steps)) {
            readers += group->reading->whole_answers ? 3 : 1;
            slots += group->reading->index + (group->reading->whole_answers ? 2 * answer_length(group->reading) : 0);
        }
    }
    int32_t branches = tree->n + readers;
    if (slots > INT32_MAX / 2)
        return lp_fail(err, LP_ERR_MEMORY, "a pair needs %lld KV slots: too many", (long long)slots);
    *need = (lp_lane_need){.slots = (int32_t)slots,
                           .branches = branches,
                           .rows = prompt_rows > branches ? prompt_rows : branches,
                           .kept = group->reading ? 1 + early : 0};
    return LP_OK;
}

lp_status lp_lane_start(lp_lane *lane, const lp_lane_need *need, const lp_lane_place *place, lp_error *err) {
    const lp_executor_options *o = lane->options;
    const lp_run_group *group = lane->group;
    size_t n = (size_t)need->branches;
    int32_t forced = group->reading ? group->reading->index + answer_length(group->reading) : 0;
    int32_t longest = o->max_new_tokens > forced ? o->max_new_tokens : forced;
    lp_status status = LP_OK;
    lane->max_branches = need->branches;
    lane->tail_stride = group->n_prompt + o->protocol.n_steps + lane->n_start + longest;
    lane->token_stride = longest + 1;
    LP_TRY(lp_mem_grow(&lane->branches, &lane->branch_capacity, n, sizeof *lane->branches, "branches", err));
    LP_TRY(lp_mem_grow(&lane->tails, &lane->tail_capacity, n * (size_t)lane->tail_stride, sizeof(int32_t),
                       "branch slots", err));
    LP_TRY(lp_mem_grow(&lane->tokens, &lane->token_capacity, n * (size_t)lane->token_stride, sizeof(int32_t),
                       "branch tokens", err));
    LP_TRY(lp_mem_grow(&lane->rows, &lane->row_capacity, (size_t)need->rows, sizeof *lane->rows, "rows", err));
    LP_TRY(lp_mem_grow(&lane->first_row, &lane->first_capacity, n, sizeof(int32_t), "rows", err));
    lane->has_unpatched = lane->in_wave = false;
    lane->n_pending = lane->n_pending_rows = 0;
    lane->position = 0;
    lane->prompt_slot = place->slot;
    lane->next_slot = place->slot + group->n_prompt;
    lane->end_slot = place->slot + need->slots;
    lane->kept = place->kept;
    lane->end_kept = place->kept + need->kept;
    lane->n_branches = lane->tree.n;
    for (int32_t i = 0; i < need->branches; i++) {
        lp_lane_branch *b = &lane->branches[i];
        *b = (lp_lane_branch){
            .base = i, .ref = -1, .reader = -1, .follower = {-1, -1}, .latent = place->latent + i, .next_token = -1};
        if (i < lane->tree.n) b->plan = lane->tree.branches[i];
        for (int m = 0; m < LP_N_METRICS; m++) b->metrics[m] = NAN;
    }
out:
    return status;
}

void lp_lane_release(lp_lane *lane) {
    lp_tree_release(&lane->tree);
    lp_mem_free(lane->branches);
    lp_mem_free(lane->tails);
    lp_mem_free(lane->tokens);
    lp_mem_free(lane->rows);
    lp_mem_free(lane->first_row);
    lp_mem_free(lane->pending);
    lp_mem_free(lane->pending_row);
    *lane = (lp_lane){0};
}

/* ---- Branches in time -------------------------------------------------------------------------------------------- */

static int32_t *tail_of(const lp_lane *lane, int32_t branch) {
    return lane->tails + (size_t)branch * (size_t)lane->tail_stride;
}

static int32_t *tokens_of(const lp_lane *lane, int32_t branch) {
    return lane->tokens + (size_t)branch * (size_t)lane->token_stride;
}

static void take_slots(lp_lane *lane, lp_lane_branch *b, int32_t n) {
    LP_ASSERT(lane->next_slot + n <= lane->end_slot);
    b->next_slot = lane->next_slot;
    b->end_slot = lane->next_slot + n;
    lane->next_slot += n;
}

/* A branch begins: it inherits its parent's state as of the position before. */
static void start_branch(lp_lane *lane, int32_t i) {
    lp_lane_branch *b = &lane->branches[i];
    int32_t n_layers = lane->options->model->config.n_layers;
    b->started = b->alive = true;
    b->dirty = n_layers;
    if (b->plan.parent < 0) {
        b->prompt_length = lane->group->n_prompt;
        int32_t behind_prompt = own_positions(lane, &b->plan) - lane->group->n_prompt;
        take_slots(lane, b, behind_prompt > 0 ? behind_prompt : 0);
        return;
    }
    int32_t own_latent = b->latent;
    const lp_lane_branch *parent = &lane->branches[b->plan.parent];
    b->ref = b->plan.stops ? -1 : b->plan.parent;
    b->prompt_length = smaller(parent->prompt_length, b->plan.fork_position);
    b->n_tail = 0;
    if (b->plan.fork_position > parent->prompt_length) {
        b->n_tail = b->plan.fork_position - parent->prompt_length;
        memcpy(tail_of(lane, i), tail_of(lane, b->plan.parent), (size_t)b->n_tail * sizeof(int32_t));
    }
    b->latent = own_latent;
    b->next_token = parent->next_token;
    b->n_tokens = parent->n_tokens;
    memcpy(tokens_of(lane, i), tokens_of(lane, b->plan.parent), (size_t)parent->n_tokens * sizeof(int32_t));
    take_slots(lane, b, own_positions(lane, &b->plan));
}

/* True while the branch has a row at the position. */
static bool goes_on(const lp_lane_branch *b, int32_t position) {
    if (!b->alive) return false;
    return b->plan.first_run >= 0 || b->kind != LP_BRANCH_RUN || position <= b->plan.last_fork;
}

/* A branch may begin at `position` when its parent is there too (or was, for a branch that stops thinking). */
static bool begins(const lp_lane *lane, const lp_lane_branch *b, int32_t position) {
    if (b->started || b->kind != LP_BRANCH_RUN || b->plan.fork_position != position) return false;
    return b->plan.parent < 0 || goes_on(&lane->branches[b->plan.parent], position);
}

/* ---- Sharing ----------------------------------------------------------------------------------------------------- */

static bool is_at(const lp_event *event, int32_t position) {
    return event->all ? position >= event->position : event->position == position;
}

static int32_t events_of(const lp_lane *lane, int32_t branch) {
    return branch < 0 ? 0 : lane->branches[branch].plan.n_events;
}

/* First layer with K or V changed by an event. */
static int32_t first_changed_kv(const lp_event *event, int32_t n_layers) {
    const lp_address *at = &event->what.at;
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
static bool same_input(const lp_lane *lane, const lp_lane_branch *b, int32_t position) {
    const lp_lane_branch *ref = &lane->branches[b->ref];
    int32_t p = lane->group->n_prompt;
    if (position < p) return true;
    if (position < answer_begin(lane, b)) {
        if (position >= answer_begin(lane, ref)) return false;
        if (position == p && !thoughts_read_prompt(lane)) return true;
        return position == b->plan.fork_position || !b->output_differs;
    }
    if (answer_begin(lane, b) != answer_begin(lane, ref)) return false;
    if (position - answer_begin(lane, b) < lane->n_start) return true;
    return b->next_token == ref->next_token;
}

static bool has_row(const lp_lane *lane, int32_t branch, int32_t position) {
    int32_t first = lane->first_row[branch];
    if (first < 0 || lane->rows[first].position > position) return false;
    int32_t at = first + position - lane->rows[first].position;
    return at < lane->n_rows && lane->rows[at].branch == branch;
}

static int32_t row_at(const lp_lane *lane, int32_t branch, int32_t position) {
    int32_t first = lane->first_row[branch];
    return first + position - lane->rows[first].position;
}

/* Points the branch at the nearest ancestor that has a row here and is fed the same; drops sharing where there is none.
 */
static void find_reference(const lp_lane *lane, lp_lane_branch *b, int32_t position) {
    if (b->kind != LP_BRANCH_RUN && b->plan.fork_position == position && has_row(lane, b->plan.parent, position) &&
        lane->branches[b->plan.parent].next_token == b->next_token) {
        b->ref = b->plan.parent;
        b->dirty = lane->options->model->config.n_layers;
        return;
    }
    while (b->ref >= 0 && !has_row(lane, b->ref, position)) {
        const lp_lane_branch *ref = &lane->branches[b->ref];
        b->dirty = smaller(b->dirty, ref->dirty);
        b->output_differs |= ref->output_differs;
        b->ref = ref->ref;
    }
    if (b->ref >= 0 && same_input(lane, b, position)) return;
    /* Where both leave the prefix at once, their readers go on together. */
    b->ref = b->ref >= 0 && b->kind == LP_BRANCH_READER ? lane->branches[b->ref].reader : -1;
    if (b->ref >= 0 && lane->branches[b->ref].plan.fork_position == position && has_row(lane, b->ref, position) &&
        same_input(lane, b, position))
        return;
    b->ref = -1;
    b->dirty = 0;
}

/* Where the row of a branch joins, and what that means for its later positions. */
static void share(lp_lane *lane, int32_t i, lp_lane_row *row) {
    lp_lane_branch *b = &lane->branches[i];
    int32_t n_layers = lane->options->model->config.n_layers;
    find_reference(lane, b, row->position);
    int32_t ref = b->ref;
    if (ref < 0) {
        row->join = 0;
        b->output_differs = true;
    } else {
        int32_t join = b->dirty, changed = b->dirty;
        bool own_event = false;
        for (int32_t k = events_of(lane, ref); k < b->plan.n_events; k++) {
            const lp_event *event = lp_tree_event(lane->group, &b->plan, k, NULL);
            if (!is_at(event, row->position)) continue;
            own_event = true;
            join = smaller(join, lp_event_join_layer(event, n_layers));
            changed = smaller(changed, first_changed_kv(event, n_layers));
        }
        row->join = join;
        b->output_differs = join < n_layers || own_event;
        b->dirty = changed;
    }
    row->source = -1;
    row->first_own_event = 0;
    if (row->join == 0) return;
    while (lane->rows[row_at(lane, ref, row->position)].join >= row->join) {
        ref = lane->branches[ref].ref;
        LP_ASSERT(ref >= 0);
    }
    row->source = row_at(lane, ref, row->position);
    row->first_own_event = events_of(lane, ref);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

/* The row of latents that a thought step is fed from: at its fork a branch is fed what its parent is fed. */
static int32_t input_latent(const lp_lane *lane, int32_t i, int32_t position) {
    while (lane->branches[i].plan.parent >= 0 && lane->branches[i].plan.fork_position == position)
        i = lane->branches[i].plan.parent;
    return lane->branches[i].latent;
}

static void add_row(lp_lane *lane, int32_t i, int32_t position) {
    lp_lane_branch *b = &lane->branches[i];
    int32_t p = lane->group->n_prompt, begin = answer_begin(lane, b);
    lp_lane_row row = {.branch = i, .position = position, .token = -1, .latent = b->latent};
    if (position < p) {
        row.token = lane->group->prompt[position];
        row.output = row.feeds_step = position == p - 1 && thoughts_read_prompt(lane) && b->plan.n_steps > 0;
    } else if (position < begin) {
        if (position == p && !thoughts_read_prompt(lane)) row.token = lane->options->vocabulary.first_input;
        row.latent = input_latent(lane, i, position);
        row.output = row.feeds_step = position < begin - 1;
    } else {
        int32_t k = position - begin;
        row.token = k < lane->n_start ? lane->options->vocabulary.answer_start[k] : b->next_token;
        row.output = row.chooses = k >= lane->n_start - 1;
    }
    bool root_prompt = b->plan.parent < 0 && position < p;
    row.slot = root_prompt ? lane->prompt_slot + position : b->next_slot++;
    LP_ASSERT(root_prompt || b->next_slot <= b->end_slot);
    row.prompt_length = root_prompt ? position + 1 : b->prompt_length;
    if (!root_prompt) {
        LP_ASSERT(b->n_tail < lane->tail_stride);
        tail_of(lane, i)[b->n_tail++] = row.slot;
        row.n_tail = b->n_tail;
    }
    int32_t at = lane->n_rows;
    share(lane, i, &row);
    lane->rows[at] = row;
    if (lane->first_row[i] < 0) lane->first_row[i] = at;
    lane->n_rows++;
}

bool lp_lane_is_place(const lp_lane *lane, const lp_branch *branch, const lp_address *at, int32_t position) {
    int32_t n_prompt = lane->group->n_prompt, answer = n_prompt + branch->n_steps;
    switch (at->phase) {
    case LP_PHASE_PROMPT: return position == at->index && position < n_prompt;
    case LP_PHASE_THOUGHT: return at->index >= 0 && position == n_prompt + at->index && position < answer;
    case LP_PHASE_ANSWER: return at->index >= 0 && position == answer + at->index;
    }
    return false;
}

/* Captures ask for vectors behind the last layer's K and V. */
static void mark_captured_outputs(lp_lane *lane) {
    for (int32_t i = 0; i < lane->n_rows; i++) {
        lp_lane_row *row = &lane->rows[i];
        const lp_lane_branch *b = &lane->branches[row->branch];
        if (b->plan.first_run < 0 || b->plan.n_events > 0) continue;
        for (int32_t i_run = b->plan.first_run; i_run >= 0; i_run = lane->tree.next_run[i_run]) {
            const lp_run_wanted *run = &lane->group->runs[i_run];
            for (int32_t k = 0; k < run->n_captures && !row->output; k++)
                row->output = lp_lane_is_place(lane, &b->plan, &run->captures[k].at, row->position);
        }
    }
}

static int32_t end_of_wave(const lp_lane *lane) {
    return lane->position == 0 ? lane->group->n_prompt : lane->position + 1;
}

/* Will a branch that has not begun begin at `position`? Its ancestors may begin there too. */
static bool will_begin(const lp_lane *lane, const lp_lane_branch *b, int32_t position) {
    while (!b->started && b->plan.fork_position == position && b->plan.parent >= 0) b = &lane->branches[b->plan.parent];
    return b->started ? goes_on(b, position) : b->plan.fork_position == position;
}

int32_t lp_lane_count_rows(lp_lane *lane) {
    int32_t n = 0, end = end_of_wave(lane);
    for (int32_t i = 0; i < lane->n_branches; i++) {
        const lp_lane_branch *b = &lane->branches[i];
        if (b->started) {
            n += goes_on(b, lane->position);
        } else if (b->kind == LP_BRANCH_RUN && b->plan.fork_position < end) {
            bool with_parent = lane->position == 0 || will_begin(lane, b, lane->position);
            n += with_parent ? end - (b->plan.parent < 0 ? 0 : b->plan.fork_position) : 0;
        }
    }
    return n;
}

lp_status lp_lane_make_rows(lp_lane *lane, lp_error *err) {
    (void)err;
    int32_t end = end_of_wave(lane);
    lane->n_rows = 0;
    for (int32_t i = 0; i < lane->n_branches; i++) lane->first_row[i] = -1;
    for (int32_t i = 0; i < lane->n_branches; i++) {
        lp_lane_branch *b = &lane->branches[i];
        for (int32_t q = lane->position; q < end; q++) {
            if (begins(lane, b, q)) start_branch(lane, i);
            if (b->started && goes_on(b, q)) add_row(lane, i, q);
        }
    }
    mark_captured_outputs(lane);
    lane->position = end;
    lane->in_wave = true;
    for (int32_t i = 0; i < lane->n_branches; i++) {
        lp_lane_branch *b = &lane->branches[i];
        if (b->alive && !goes_on(b, end)) b->alive = false;
    }
    return LP_OK;
}

const int32_t *lp_lane_tail(const lp_lane *lane, const lp_lane_row *row) {
    return tail_of(lane, row->branch);
}

/* ---- Answers and readings ---------------------------------------------------------------------------------------- */

static bool matches_prefix(const lp_lane *lane, int32_t branch, int32_t n) {
    const lp_reading *reading = lane->group->reading;
    return memcmp(tokens_of(lane, branch), reading->prefix, (size_t)n * sizeof(int32_t)) == 0;
}

/* True when a run, of the branch or of one that forks from it later, has its reading still to come. */
static bool has_to_read(const lp_lane *lane, const lp_lane_branch *b) {
    return lane->group->reading && b->kind == LP_BRANCH_RUN && !b->read &&
           (b->plan.first_run >= 0 || b->plan.last_fork >= lane->position);
}

/* True when the logits at hand are those at the reading's place. */
static bool is_reading_place(const lp_lane *lane, int32_t branch) {
    const lp_lane_branch *b = &lane->branches[branch];
    const lp_reading *reading = lane->group->reading;
    if (!reading || b->n_tokens != reading->index) return false;
    return b->kind == LP_BRANCH_READER || (has_to_read(lane, b) && matches_prefix(lane, branch, reading->index));
}

/* Next branch after i (first: i = branch) that has done the same as `branch` so far: itself, and those behind it that
 * have not begun; -1: none. They read together, but what they read behind their forks is their own. */
static int32_t next_together(const lp_lane *lane, int32_t branch, int32_t i) {
    if (lane->branches[branch].plan.last_fork < lane->position) return -1;
    for (i++; i < lane->tree.n; i++) {
        int32_t at = i;
        while (at >= 0 && !lane->branches[at].started) at = lane->branches[at].plan.parent;
        if (at == branch && at != i) return i;
    }
    return -1;
}

/* A reader with the events of `of`, that goes on from branch `from` with forced tokens, the first of which is fed
 * next. It shares with `ref` as `from` does with its reference, or as a branch does that has yet to fork. */
static int32_t spawn(lp_lane *lane, int32_t from, int32_t of, int32_t ref, lp_branch_kind kind, const int32_t *forced,
                     int32_t n_forced) {
    LP_ASSERT(lane->n_branches < lane->max_branches);
    int32_t i = lane->n_branches++;
    lp_lane_branch *b = &lane->branches[i];
    int32_t own_latent = b->latent;
    bool is_own = lane->branches[from].base == of;
    *b = lane->branches[from];
    b->plan = lane->branches[of].plan;
    b->kind = kind;
    b->base = of;
    b->started = b->alive = true;
    b->ended = false;
    b->reader = b->follower[0] = b->follower[1] = -1;
    b->ref = ref;
    if (!is_own) b->dirty = lane->options->model->config.n_layers;
    if (ref < 0) b->dirty = 0;
    b->latent = own_latent;
    b->plan.parent = from;
    b->plan.fork_position = lane->position;
    b->plan.first_run = -1;
    memcpy(tail_of(lane, i), tail_of(lane, from), (size_t)b->n_tail * sizeof(int32_t));
    memcpy(tokens_of(lane, i), tokens_of(lane, from), (size_t)b->n_tokens * sizeof(int32_t));
    b->forced = forced;
    b->n_forced = n_forced;
    b->n_forced_used = 1;
    b->next_token = forced[0];
    b->log_probability = 0;
    tokens_of(lane, i)[b->n_tokens++] = forced[0];
    take_slots(lane, b, n_forced);
    return i;
}

/* Runs that do nothing to the recipient: divergences are taken from theirs. */
static bool is_unpatched(const lp_lane *lane, const lp_branch *b) {
    return b->first_run >= 0 && b->n_events == 0 && b->n_steps == lane->options->protocol.n_steps;
}

bool lp_lane_reads_unpatched(const lp_lane *lane, int32_t branch) {
    return is_reading_place(lane, branch) && is_unpatched(lane, &lane->branches[lane->branches[branch].base].plan);
}

static lp_status add_read(lp_lane *lane, int32_t branch, const lp_logit_read *read, bool is_late, lp_lane_reads *reads,
                          lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&reads->reads, &reads->capacity, reads->n + 1, sizeof *reads->reads, "readings", err));
    LP_TRY(
        lp_mem_grow(&reads->readers, &reads->reader_capacity, reads->n + 1, sizeof *reads->readers, "readings", err));
    reads->reads[reads->n] = *read;
    reads->readers[reads->n++] = (lp_lane_reader){.lane = lane, .branch = branch, .is_late = is_late};
out:
    return status;
}

/* Keeps the logits of a row that reads before the unpatched run does, for all that read there. */
static lp_status keep_pending(lp_lane *lane, int32_t branch, lp_logit_read *read, lp_error *err) {
    bool is_run = lane->branches[branch].kind == LP_BRANCH_RUN;
    int32_t row = lane->kept + 1 + lane->n_pending_rows;
    lp_status status = LP_OK;
    for (int32_t i = branch; i >= 0; i = is_run ? next_together(lane, branch, i) : -1) {
        int32_t of = i == branch ? lane->branches[branch].base : i;
        size_t n = (size_t)lane->n_pending + 1;
        if (lane->branches[of].plan.first_run < 0) continue;
        LP_TRY(lp_mem_grow(&lane->pending, &lane->pending_capacity, n, sizeof(int32_t), "readings", err));
        LP_TRY(lp_mem_grow(&lane->pending_row, &lane->pending_row_capacity, n, sizeof(int32_t), "readings", err));
        lane->pending[n - 1] = of;
        lane->pending_row[n - 1] = row;
        lane->n_pending++;
        read->kept_row = row;
    }
    if (read->kept_row >= 0) {
        LP_ASSERT(row < lane->end_kept);
        lane->n_pending_rows++;
    }
out:
    return status;
}

lp_status lp_lane_add_reads(lp_lane *lane, int32_t branch, int32_t row, lp_lane_reads *reads, lp_error *err) {
    const lp_reading *reading = lane->group->reading;
    const lp_lane_branch *b = &lane->branches[branch];
    lp_logit_read read = {.row = row, .kept_row = -1, .base = -1, .token = {-1, -1}};
    lp_status status = LP_OK;
    if (b->kind == LP_BRANCH_ANSWER_CLEAN || b->kind == LP_BRANCH_ANSWER_CORRUPTED) {
        read.token[0] = b->forced[b->n_forced_used];
        return add_read(lane, branch, &read, false, reads, err);
    }
    if (!is_reading_place(lane, branch)) return LP_OK;
    if (reading->clean.n > 0) read.token[0] = reading->clean.tokens[0];
    if (reading->corrupted.n > 0) read.token[1] = reading->corrupted.tokens[0];
    bool becomes_known = !lane->has_unpatched && lp_lane_reads_unpatched(lane, branch);
    if (becomes_known) {
        read.kept_row = lane->kept;
        lane->has_unpatched = true;
    }
    if (lane->has_unpatched)
        read.base = lane->kept;
    else if (is_unpatched(lane, &lane->tree.branches[0]))
        LP_TRY(keep_pending(lane, branch, &read, err));
    LP_TRY(add_read(lane, branch, &read, false, reads, err));
    for (int32_t k = 0; becomes_known && k < lane->n_pending; k++) {
        lp_logit_read late = {.row = -1, .kept_row = lane->pending_row[k], .base = lane->kept, .token = {-1, -1}};
        LP_TRY(add_read(lane, lane->pending[k], &late, true, reads, err));
    }
out:
    return status;
}

static void take_divergence(lp_lane_branch *b, double kl) {
    b->metrics[LP_METRIC_KL] = (float)(kl < 0 ? 0 : kl);
}

void lp_lane_take_late(lp_lane *lane, int32_t branch, const lp_logit_reading *reading) {
    take_divergence(&lane->branches[branch], reading->kl);
}

/* The metrics at the reading's place of the runs of tree branch i. */
static void read_metrics(lp_lane *lane, int32_t i, const lp_logit_reading *reading) {
    lp_lane_branch *b = &lane->branches[i];
    b->read = true;
    if (b->plan.first_run < 0) return;
    b->metrics[LP_METRIC_LOGIT_CLEAN] = (float)reading->logit[0];
    b->metrics[LP_METRIC_LOGIT_CORRUPTED] = (float)reading->logit[1];
    b->metrics[LP_METRIC_LOGPROB_CLEAN] = (float)(reading->logit[0] - reading->log_sum);
    b->metrics[LP_METRIC_LOGPROB_CORRUPTED] = (float)(reading->logit[1] - reading->log_sum);
    b->metrics[LP_METRIC_LOGIT_DIFF] = b->metrics[LP_METRIC_LOGIT_CLEAN] - b->metrics[LP_METRIC_LOGIT_CORRUPTED];
    take_divergence(b, reading->kl);
}

static const lp_metric answer_metrics[2] = {LP_METRIC_ANSWER_CLEAN, LP_METRIC_ANSWER_CORRUPTED};

/* From the reading's place on along answer k (0: clean, 1: corrupted), with the events of `of`. */
static void follow_answer(lp_lane *lane, int32_t from, int32_t of, int k, const lp_logit_reading *here) {
    const lp_reading *reading = lane->group->reading;
    const int32_t *tokens = k == 0 ? reading->clean.tokens : reading->corrupted.tokens;
    int32_t n_tokens = k == 0 ? reading->clean.n : reading->corrupted.n;
    if (!lp_reading_follows(reading, k == 1)) return;
    double log_probability = here->logit[k] - here->log_sum;
    if (n_tokens == 1) {
        lane->branches[of].metrics[answer_metrics[k]] = (float)log_probability;
        return;
    }
    bool is_own = lane->branches[from].base == of;
    int32_t with = is_own ? lane->branches[from].ref : lane->branches[of].plan.parent;
    int32_t ref = with >= 0 ? lane->branches[with].follower[k] : -1;
    int32_t i =
        spawn(lane, from, of, ref, k == 0 ? LP_BRANCH_ANSWER_CLEAN : LP_BRANCH_ANSWER_CORRUPTED, tokens, n_tokens - 1);
    lane->branches[i].log_probability = log_probability;
    lane->branches[is_own ? from : of].follower[k] = i;
}

static void read_here(lp_lane *lane, int32_t branch, const lp_logit_reading *reading) {
    bool is_run = lane->branches[branch].kind == LP_BRANCH_RUN;
    for (int32_t i = branch; i >= 0; i = is_run ? next_together(lane, branch, i) : -1) {
        int32_t of = i == branch ? lane->branches[branch].base : i;
        read_metrics(lane, of, reading);
        for (int k = 0; k < 2; k++) follow_answer(lane, branch, of, k, reading);
    }
}

/* The answer leaves the prefix: from here readers go on along it. */
static void leave_prefix(lp_lane *lane, int32_t branch) {
    const lp_reading *reading = lane->group->reading;
    int32_t n_tokens = lane->branches[branch].n_tokens;
    for (int32_t i = branch; i >= 0; i = next_together(lane, branch, i)) {
        lp_lane_branch *b = &lane->branches[i];
        int32_t ref = i == branch ? b->ref : lane->branches[b->plan.parent].reader;
        b->read = true;
        b->reader =
            spawn(lane, branch, i, ref, LP_BRANCH_READER, reading->prefix + n_tokens, reading->index - n_tokens);
    }
}

static void take_forced(lp_lane *lane, int32_t branch, const lp_logit_reading *reading) {
    lp_lane_branch *b = &lane->branches[branch];
    if (b->kind == LP_BRANCH_READER) {
        if (is_reading_place(lane, branch)) {
            b->alive = false;
            read_here(lane, branch, reading);
            return;
        }
    } else {
        b->log_probability += reading->logit[0] - reading->log_sum;
        if (b->n_forced_used == b->n_forced) {
            lane->branches[b->base].metrics[answer_metrics[b->kind == LP_BRANCH_ANSWER_CLEAN ? 0 : 1]] =
                (float)b->log_probability;
            b->alive = false;
            return;
        }
    }
    b->next_token = b->forced[b->n_forced_used++];
    tokens_of(lane, branch)[b->n_tokens++] = b->next_token;
}

void lp_lane_take_token(lp_lane *lane, int32_t branch, int32_t token, const lp_logit_reading *here) {
    const lp_reading *reading = lane->group->reading;
    lp_lane_branch *b = &lane->branches[branch];
    if (b->kind != LP_BRANCH_RUN) {
        take_forced(lane, branch, here);
        return;
    }
    if (is_reading_place(lane, branch)) read_here(lane, branch, here);
    if (has_to_read(lane, b) && b->n_tokens < reading->index && token != reading->prefix[b->n_tokens])
        leave_prefix(lane, branch);
    if (lp_vocabulary_stops(&lane->options->vocabulary, token)) {
        b->ended = true;
        b->alive = false;
        return;
    }
    tokens_of(lane, branch)[b->n_tokens++] = token;
    b->next_token = token;
    if (b->n_tokens == lane->options->max_new_tokens) b->alive = false;
}

void lp_lane_finish(lp_lane *lane) {
    for (int32_t i = 0; i < lane->tree.n; i++) {
        /* A branch that never forked did what its parent did: its first event lies behind the end of the answer. */
        int32_t of = i;
        while (!lane->branches[of].started) of = lane->branches[of].plan.parent;
        const lp_lane_branch *b = &lane->branches[of];
        for (int32_t run = lane->branches[i].plan.first_run; run >= 0; run = lane->tree.next_run[run]) {
            lp_run_result *result = &lane->group->results[run];
            memcpy(result->tokens, tokens_of(lane, of), (size_t)b->n_tokens * sizeof(int32_t));
            result->n_tokens = b->n_tokens;
            result->ended = b->ended;
            memcpy(result->metrics, lane->branches[i].metrics, sizeof result->metrics);
        }
    }
}
