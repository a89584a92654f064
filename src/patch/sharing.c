/* The rules of sharing.
 *
 * A branch shares with its reference as long as both are fed the same input: then the layers below the first changed K
 * or V, and below the first edit of its own, come out the same and are not computed again. Where the reference has no
 * row any more, its own reference takes its place. Pure. */
#include "patch/request_internal.h"

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
static bool same_input(const lp_request *request, const lp_request_branch *branch, int32_t position) {
    const lp_request_branch *ref = &request->branches[branch->sharing.ref];
    int32_t p = request->group->n_prompt;
    if (position < p) return true;
    if (position < lp_answer_begin(request, branch)) {
        if (position >= lp_answer_begin(request, ref)) return false;
        if (position == p && !lp_thoughts_read_prompt(request)) return true;
        return position == branch->plan.fork_position || !branch->sharing.output_differs;
    }
    if (lp_answer_begin(request, branch) != lp_answer_begin(request, ref)) return false;
    if (position - lp_answer_begin(request, branch) < request->n_start) return true;
    return branch->next_token == ref->next_token;
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
static void find_reference(const lp_request *request, lp_request_branch *branch, int32_t position) {
    if (branch->kind != LP_BRANCH_RUN && branch->plan.fork_position == position &&
        has_row(request, branch->plan.parent, position) &&
        request->branches[branch->plan.parent].next_token == branch->next_token) {
        branch->sharing.ref = branch->plan.parent;
        branch->sharing.dirty = request->options->model->config.n_layers;
        return;
    }
    while (branch->sharing.ref >= 0 && !has_row(request, branch->sharing.ref, position)) {
        const lp_request_branch *ref = &request->branches[branch->sharing.ref];
        branch->sharing.dirty = lp_smaller(branch->sharing.dirty, ref->sharing.dirty);
        branch->sharing.output_differs |= ref->sharing.output_differs;
        branch->sharing.ref = ref->sharing.ref;
    }
    if (branch->sharing.ref >= 0 && same_input(request, branch, position)) return;
    /* Where both leave the prefix at once, the branches that are forced along it go on together. */
    branch->sharing.ref = branch->sharing.ref >= 0 && branch->kind == LP_BRANCH_FORCED_PREFIX
                              ? request->branches[branch->sharing.ref].prefix_branch
                              : -1;
    if (branch->sharing.ref >= 0 && request->branches[branch->sharing.ref].plan.fork_position == position &&
        has_row(request, branch->sharing.ref, position) && same_input(request, branch, position))
        return;
    branch->sharing.ref = -1;
    branch->sharing.dirty = 0;
}

/* At which layer the row of a branch begins, and what that means for its later positions. */
void lp_share_row(lp_request *request, int32_t i, lp_request_row *row) {
    lp_request_branch *branch = &request->branches[i];
    int32_t n_layers = request->options->model->config.n_layers;
    find_reference(request, branch, row->position);
    int32_t ref = branch->sharing.ref;
    if (ref < 0) {
        row->first_layer = 0;
        branch->sharing.output_differs = true;
    } else {
        int32_t first_layer = branch->sharing.dirty, changed = branch->sharing.dirty;
        bool own_edit = false;
        for (int32_t k = edits_of(request, ref); k < branch->plan.n_edits; k++) {
            const lp_timed_edit *edit = lp_tree_edit(request->group, &branch->plan, k, NULL);
            if (!is_at(edit, row->position)) continue;
            own_edit = true;
            first_layer = lp_smaller(first_layer, lp_timed_edit_first_layer(edit, n_layers));
            changed = lp_smaller(changed, first_changed_kv(edit, n_layers));
        }
        row->first_layer = first_layer;
        branch->sharing.output_differs = first_layer < n_layers || own_edit;
        branch->sharing.dirty = changed;
    }
    row->source = -1;
    row->first_own_edit = 0;
    if (row->first_layer == 0) return;
    while (request->rows[row_at(request, ref, row->position)].first_layer >= row->first_layer) {
        ref = request->branches[ref].sharing.ref;
        LP_ASSERT(ref >= 0);
    }
    row->source = row_at(request, ref, row->position);
    row->first_own_edit = edits_of(request, ref);
}
