/* Answers and metrics of a request: the tokens that branches choose or are forced along, and the numbers that are read
 * from their logits. */
#include "patch/request_internal.h"

#include "base/memory.h"

static bool matches_prefix(const lp_request *request, int32_t branch, int32_t n) {
    const lp_metric_position *metric_at = request->group->metric_at;
    return memcmp(lp_tokens_of(request, branch), metric_at->prefix, (size_t)n * sizeof(int32_t)) == 0;
}

/* True when a run, of the branch or of one that forks from it later, has its metrics still to come. */
static bool has_metrics_to_come(const lp_request *request, const lp_request_branch *branch) {
    return request->group->metric_at && branch->kind == LP_BRANCH_RUN && !branch->has_metrics &&
           (branch->plan.first_run >= 0 || branch->plan.last_fork >= request->position);
}

/* True when the logits at hand are those that metrics are read from. */
static bool is_metric_position(const lp_request *request, int32_t branch) {
    const lp_request_branch *request_branch = &request->branches[branch];
    const lp_metric_position *metric_at = request->group->metric_at;
    if (!metric_at || request_branch->n_tokens != metric_at->index) return false;
    return request_branch->kind == LP_BRANCH_FORCED_PREFIX ||
           (has_metrics_to_come(request, request_branch) && matches_prefix(request, branch, metric_at->index));
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
    lp_request_branch *branch = &request->branches[i];
    bool is_own = request->branches[from].base == of;
    *branch = request->branches[from];
    branch->plan = request->branches[of].plan;
    branch->kind = kind;
    branch->base = of;
    branch->started = branch->alive = true;
    branch->ended = false;
    branch->prefix_branch = branch->answer_branch[0] = branch->answer_branch[1] = -1;
    branch->sharing.ref = ref;
    if (!is_own) branch->sharing.dirty = request->options->model->config.n_layers;
    if (ref < 0) branch->sharing.dirty = 0;
    branch->row_layers = 0;
    branch->plan.parent = from;
    branch->plan.fork_position = request->position;
    branch->plan.first_run = -1;
    memcpy(lp_tail_of(request, i), lp_tail_of(request, from), (size_t)branch->n_tail * sizeof(int32_t));
    memcpy(lp_tokens_of(request, i), lp_tokens_of(request, from), (size_t)branch->n_tokens * sizeof(int32_t));
    branch->forced = forced;
    branch->n_forced = n_forced;
    branch->n_forced_used = 1;
    branch->next_token = forced[0];
    branch->log_probability = 0;
    lp_tokens_of(request, i)[branch->n_tokens++] = forced[0];
    branch->next_slot = branch->end_slot = 0;
    lp_branch_hold_pages(request, i);
    return i;
}

/* Runs that do nothing to the recipient: divergences are taken from theirs. */
static bool is_unpatched(const lp_request *request, const lp_branch *branch) {
    return branch->first_run >= 0 && branch->n_edits == 0 && branch->n_steps == request->options->protocol.n_steps;
}

bool lp_request_queries_unpatched(const lp_request *request, int32_t branch) {
    return is_metric_position(request, branch) &&
           is_unpatched(request, &request->branches[request->branches[branch].base].plan);
}

static lp_status add_query(lp_request *request, int32_t branch, const lp_logit_query *query, bool is_late,
                           lp_query_list *list, lp_error *err) {
    LP_CHECK(lp_mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items, "logit queries", err));
    LP_CHECK(
        lp_mem_grow(&list->owners, &list->owner_capacity, list->n + 1, sizeof *list->owners, "logit queries", err));
    list->items[list->n] = *query;
    list->owners[list->n++] = (lp_query_owner){.request = request, .branch = branch, .is_late = is_late};
    return LP_OK;
}

/* Saves the logits of a row whose metrics are read before the unpatched run's, for all that read there. */
static lp_status save_pending(lp_request *request, int32_t branch, lp_logit_query *query, lp_error *err) {
    bool is_run = request->branches[branch].kind == LP_BRANCH_RUN;
    int32_t row = request->n_pending_rows < request->n_early_rows ? request->early_rows[request->n_pending_rows] : -1;
    for (int32_t i = branch; i >= 0; i = is_run ? next_together(request, branch, i) : -1) {
        int32_t of = i == branch ? request->branches[branch].base : i;
        size_t n = (size_t)request->n_pending + 1;
        if (request->branches[of].plan.first_run < 0) continue;
        LP_CHECK(lp_mem_grow(&request->pending, &request->pending_capacity, n, sizeof(int32_t), "logit queries", err));
        LP_CHECK(lp_mem_grow(&request->pending_row, &request->pending_row_capacity, n, sizeof(int32_t), "logit queries",
                             err));
        request->pending[n - 1] = of;
        request->pending_row[n - 1] = row;
        request->n_pending++;
        LP_ASSERT(row >= 0);
        query->saved_row = row;
    }
    if (query->saved_row >= 0) request->n_pending_rows++;
    return LP_OK;
}

lp_status lp_request_add_queries(lp_request *request, int32_t branch, int32_t row, lp_query_list *list, lp_error *err) {
    const lp_metric_position *metric_at = request->group->metric_at;
    const lp_request_branch *request_branch = &request->branches[branch];
    lp_logit_query query = {.row = row, .saved_row = -1, .base = -1, .token = {-1, -1}};
    if (request_branch->kind == LP_BRANCH_FORCED_CLEAN || request_branch->kind == LP_BRANCH_FORCED_CORRUPTED) {
        query.token[0] = request_branch->forced[request_branch->n_forced_used];
        return add_query(request, branch, &query, false, list, err);
    }
    if (!is_metric_position(request, branch)) return LP_OK;
    if (metric_at->clean.n > 0) query.token[0] = metric_at->clean.tokens[0];
    if (metric_at->corrupted.n > 0) query.token[1] = metric_at->corrupted.tokens[0];
    bool becomes_known = !request->has_unpatched && lp_request_queries_unpatched(request, branch);
    if (becomes_known) {
        query.saved_row = request->saved_row;
        request->has_unpatched = true;
    }
    if (request->has_unpatched)
        query.base = request->saved_row;
    else if (is_unpatched(request, &request->tree.branches[0]))
        LP_CHECK(save_pending(request, branch, &query, err));
    LP_CHECK(add_query(request, branch, &query, false, list, err));
    for (int32_t k = 0; becomes_known && k < request->n_pending; k++) {
        lp_logit_query late = {
            .row = -1, .saved_row = request->pending_row[k], .base = request->saved_row, .token = {-1, -1}};
        LP_CHECK(add_query(request, request->pending[k], &late, true, list, err));
    }
    return LP_OK;
}

static void set_divergence(lp_request_branch *branch, double kl) {
    branch->metrics[LP_METRIC_KL] = (float)(kl < 0 ? 0 : kl);
}

void lp_request_accept_late(lp_request *request, int32_t branch, const lp_logit_stats *stats) {
    set_divergence(&request->branches[branch], stats->kl);
}

/* The metrics of the runs of tree branch i, but for those of whole answers. */
static void set_metrics(lp_request *request, int32_t i, const lp_logit_stats *stats) {
    lp_request_branch *branch = &request->branches[i];
    branch->has_metrics = true;
    if (branch->plan.first_run < 0) return;
    branch->metrics[LP_METRIC_LOGIT_CLEAN] = (float)stats->logit[0];
    branch->metrics[LP_METRIC_LOGIT_CORRUPTED] = (float)stats->logit[1];
    branch->metrics[LP_METRIC_LOGPROB_CLEAN] = (float)(stats->logit[0] - stats->log_sum);
    branch->metrics[LP_METRIC_LOGPROB_CORRUPTED] = (float)(stats->logit[1] - stats->log_sum);
    branch->metrics[LP_METRIC_LOGIT_DIFF] =
        branch->metrics[LP_METRIC_LOGIT_CLEAN] - branch->metrics[LP_METRIC_LOGIT_CORRUPTED];
    set_divergence(branch, stats->kl);
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
    int32_t with = is_own ? request->branches[from].sharing.ref : request->branches[of].plan.parent;
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
        lp_request_branch *request_branch = &request->branches[i];
        int32_t ref =
            i == branch ? request_branch->sharing.ref : request->branches[request_branch->plan.parent].prefix_branch;
        request_branch->has_metrics = true;
        request_branch->prefix_branch = spawn(request, branch, i, ref, LP_BRANCH_FORCED_PREFIX,
                                              metric_at->prefix + n_tokens, metric_at->index - n_tokens);
    }
}

static void accept_forced(lp_request *request, int32_t branch, const lp_logit_stats *stats) {
    lp_request_branch *request_branch = &request->branches[branch];
    if (request_branch->kind == LP_BRANCH_FORCED_PREFIX) {
        if (is_metric_position(request, branch)) {
            request_branch->alive = false;
            set_metrics_here(request, branch, stats);
            return;
        }
    } else {
        request_branch->log_probability += stats->logit[0] - stats->log_sum;
        if (request_branch->n_forced_used == request_branch->n_forced) {
            request->branches[request_branch->base]
                .metrics[answer_metrics[request_branch->kind == LP_BRANCH_FORCED_CLEAN ? 0 : 1]] =
                (float)request_branch->log_probability;
            request_branch->alive = false;
            return;
        }
    }
    request_branch->next_token = request_branch->forced[request_branch->n_forced_used++];
    lp_tokens_of(request, branch)[request_branch->n_tokens++] = request_branch->next_token;
}

void lp_request_accept_token(lp_request *request, int32_t branch, int32_t token, const lp_logit_stats *here) {
    const lp_metric_position *metric_at = request->group->metric_at;
    lp_request_branch *request_branch = &request->branches[branch];
    if (request_branch->kind != LP_BRANCH_RUN) {
        accept_forced(request, branch, here);
        return;
    }
    if (is_metric_position(request, branch)) set_metrics_here(request, branch, here);
    if (has_metrics_to_come(request, request_branch) && request_branch->n_tokens < metric_at->index &&
        token != metric_at->prefix[request_branch->n_tokens])
        leave_prefix(request, branch);
    if (lp_vocabulary_stops(&request->options->vocabulary, token)) {
        request_branch->ended = true;
        request_branch->alive = false;
        return;
    }
    lp_tokens_of(request, branch)[request_branch->n_tokens++] = token;
    request_branch->next_token = token;
    if (request_branch->n_tokens == request->options->max_new_tokens) request_branch->alive = false;
}
