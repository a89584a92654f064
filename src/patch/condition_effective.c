/* Which replacements really act, and when two conditions are the same: the one place for these rules.
 *
 * Who reads a vector at position p?
 *   - K and V of every layer are read by the later positions (and p itself) of the run;
 *   - the final hidden state of p (latent_raw) is read where p's output is used: by the next thought step, or by the
 * output head at an answer position that chooses a token. So a vector that comes into being after the last layer's K
 * and V acts only where p's output is used. That is nowhere for the last thought step, for prompt positions but the
 * last, for the last prompt position where step 0 is fed an embedding, and for the positions that open the answer but
 * the last.
 */
#include "patch/condition.h"

#include "base/memory.h"
#include "patch/edges.h"

static bool output_is_used(const lp_run_shape *shape, int32_t n_steps, lp_phase phase, int32_t index) {
    bool thoughts_read_output = shape->protocol.first_reads_prompt;
    switch (phase) {
    case LP_PHASE_PROMPT: return index == shape->n_prompt - 1 && thoughts_read_output && n_steps > 0;
    case LP_PHASE_THOUGHT: return index < n_steps - 1;
    case LP_PHASE_ANSWER: return index >= shape->protocol.n_answer_start - 1;
    }
    return true;
}

/* Only the position's own output reads it. */
static bool after_last_keys(const lp_run_shape *shape, const lp_address *at) {
    return at->site == LP_SITE_LATENT_RAW ||
           (at->layer == shape->config->n_layers - 1 && lp_site_is_after_keys(at->site));
}

static bool is_dead(const lp_run_shape *shape, int32_t n_steps, const lp_timed_edit *edit) {
    const lp_address *at = &edit->what.at;
    return !edit->all && after_last_keys(shape, at) && !output_is_used(shape, n_steps, at->phase, at->index);
}

static lp_status refuse_index(const lp_condition *condition, lp_phase phase, int32_t index, int32_t n, lp_error *err) {
    return lp_fail(err, LP_ERR_VALUE, "condition %s: %s index %d: expected one within %d positions", condition->name,
                   lp_phase_names()[phase], index, n);
}

static bool has_position(const lp_address *at, const lp_run_shape *shape) {
    if (at->index == LP_INDEX_ALL) return true;
    if (at->phase == LP_PHASE_PROMPT) return at->index < shape->n_prompt && at->index >= -shape->n_prompt;
    return at->phase != LP_PHASE_ANSWER || shape->n_answer == 0 || at->index < shape->n_answer;
}

/* The first index of the condition that the run does not have; NULL: it has all of them. */
static const int32_t *find_absent(const lp_condition_set *set, size_t index, const lp_run_shape *shape) {
    const lp_condition *condition = &set->conditions[index];
    for (size_t i = 0; i < condition->n; i++) {
        const lp_replacement *replacement = &set->replacements[condition->first + i];
        if (!has_position(&replacement->at, shape)) return &replacement->at.index;
        if (replacement->operation == LP_OP_FORBID && !has_position(&replacement->from, shape))
            return &replacement->from.index;
    }
    return NULL;
}

bool lp_condition_is_absent(const lp_condition_set *set, size_t index, const lp_run_shape *shape) {
    return find_absent(set, index, shape) != NULL;
}

static lp_status resolve_index(const lp_condition *condition, const lp_run_shape *shape, lp_phase phase, int32_t *index,
                               lp_error *err) {
    if (phase == LP_PHASE_ANSWER) {
        if (*index < 0 && *index != LP_INDEX_ALL)
            return lp_fail(err, LP_ERR_VALUE, "condition %s: answer positions cannot be counted from the end",
                           condition->name);
        return LP_OK;
    }
    int32_t n = phase == LP_PHASE_PROMPT ? shape->n_prompt : condition->n_steps_run;
    int32_t resolved = *index < 0 ? n + *index : *index;
    if (resolved < 0 || resolved >= n) return refuse_index(condition, phase, *index, n, err);
    *index = resolved;
    return LP_OK;
}

static int compare_i64(int64_t a, int64_t b) {
    return (a > b) - (a < b);
}

static int compare_floats(float a, float b) {
    return (a > b) - (a < b);
}

static int compare_address(const lp_address *a, const lp_address *b) {
    int order = compare_i64(a->phase, b->phase);
    if (!order) order = compare_i64(a->index, b->index);
    if (!order) order = compare_i64(a->site, b->site);
    if (!order) order = compare_i64(a->layer, b->layer);
    if (!order) order = compare_i64(a->head, b->head);
    return order;
}

int lp_timed_edit_compare(const lp_timed_edit *a, const lp_timed_edit *b) {
    int order = compare_i64(a->position, b->position);
    if (!order) order = compare_i64(a->depth, b->depth);
    if (!order) order = compare_i64(lp_is_edge(b), lp_is_edge(a)); /* edges make z */
    if (!order) order = compare_i64(a->what.at.head, b->what.at.head);
    if (!order) order = compare_i64(a->all, b->all);
    if (!order) order = compare_i64(a->what.operation, b->what.operation);
    if (!order) order = compare_floats(a->what.factor, b->what.factor);
    if (!order) order = compare_i64(a->what.donor, b->what.donor);
    if (!order) order = compare_i64(a->what.vector, b->what.vector);
    if (!order) order = compare_i64(a->what.subspace, b->what.subspace);
    if (!order) order = compare_i64(a->what.token, b->what.token);
    if (!order) order = compare_address(&a->what.from, &b->what.from);
    if (!order) order = compare_i64(a->key_begin, b->key_begin);
    if (!order) order = compare_i64(a->key_end, b->key_end);
    return order;
}

static int compare_for_sort(const void *a, const void *b) {
    return lp_timed_edit_compare(a, b);
}

/* A thought step's, or a prompt's, address with LP_INDEX_ALL stands for each position of its phase. */
static int32_t count_positions(const lp_condition *condition, const lp_run_shape *shape, const lp_address *at) {
    if (at->index != LP_INDEX_ALL || at->phase == LP_PHASE_ANSWER) return 1;
    return at->phase == LP_PHASE_PROMPT ? shape->n_prompt : condition->n_steps_run;
}

/* The positions that an edge edit forbids, and from which position on; an empty range where it forbids nothing. */
static lp_status set_keys(const lp_condition *condition, const lp_run_shape *shape, lp_timed_edit *edit, bool *causal,
                          lp_error *err) {
    lp_address *from = &edit->what.from;
    bool all = from->index == LP_INDEX_ALL;
    int32_t thoughts = shape->n_prompt, answer = thoughts + condition->n_steps_run, begin = 0, end = INT32_MAX;
    LP_CHECK(all ? LP_OK : resolve_index(condition, shape, from->phase, &from->index, err));
    switch (from->phase) {
    case LP_PHASE_PROMPT: end = thoughts; break;
    case LP_PHASE_THOUGHT:
        begin = thoughts;
        end = answer;
        break;
    case LP_PHASE_ANSWER: begin = answer; break;
    }
    edit->key_begin = all ? begin : begin + from->index;
    edit->key_end = all ? end : edit->key_begin + 1;
    if (edit->all && edit->key_begin > edit->position) edit->position = edit->key_begin;
    if (!edit->all && edit->key_end > edit->position + 1) {
        edit->key_end = edit->position + 1;
        *causal = true;
    }
    *from = edit->what.at; /* keys say all: the same for edges of one head and of all */
    from->head = LP_ALL_HEADS;
    return LP_OK;
}

static lp_status make_edit(const lp_condition *condition, const lp_run_shape *shape, const lp_replacement *replacement,
                           int32_t offset, lp_timed_edit *out, bool *causal, lp_error *err) {
    lp_timed_edit edit = {.what = *replacement};
    lp_replacement *what = &edit.what;
    bool spread = what->at.index == LP_INDEX_ALL && what->at.phase != LP_PHASE_ANSWER;
    if (spread) {
        if (what->from.index == LP_INDEX_ALL && what->operation != LP_OP_FORBID) {
            what->from.index = offset;
            if (lp_donor_has_place(what->donor)) what->source += offset;
        }
        what->at.index = offset;
    }
    LP_CHECK(resolve_index(condition, shape, what->at.phase, &what->at.index, err));
    edit.all = what->at.index == LP_INDEX_ALL;
    int32_t index = edit.all ? 0 : what->at.index;
    switch (what->at.phase) {
    case LP_PHASE_PROMPT: edit.position = index; break;
    case LP_PHASE_THOUGHT: edit.position = shape->n_prompt + index; break;
    case LP_PHASE_ANSWER: edit.position = shape->n_prompt + condition->n_steps_run + index; break;
    }
    if (what->operation == LP_OP_FORBID) {
        LP_CHECK(set_keys(condition, shape, &edit, causal, err));
    }
    lp_address_canonical(&what->at);
    lp_address_canonical(&what->from);
    if (what->donor == LP_DONOR_SELF)
        what->donor = condition->direction == LP_DENOISE ? LP_DONOR_CORRUPTED : LP_DONOR_CLEAN;
    bool takes_none = what->operation != LP_OP_FORBID && !lp_operation_takes_vector(what->operation);
    bool without_place = !lp_donor_has_place(what->donor) || takes_none;
    if (without_place && what->operation != LP_OP_FORBID) what->from = what->at;
    if (takes_none) what->donor = LP_DONOR_ZERO;
    if (!lp_operation_has_factor(what->operation)) what->factor = 1.0f;
    edit.depth = lp_address_depth(shape->config, &what->at);
    *out = edit;
    return LP_OK;
}

/* Everything that reads the first vector goes through the second, which is written over. */
static bool wipes_out(const lp_run_shape *shape, const lp_timed_edit *first, const lp_timed_edit *second) {
    if (second->what.operation != LP_OP_REPLACE || first->all || second->all || second->what.token > 0) return false;
    lp_site site = first->what.at.site, b = second->what.at.site;
    bool same_head = b == LP_SITE_Z && first->what.at.head == second->what.at.head;
    if (second->what.at.head != LP_ALL_HEADS && !same_head) return false;
    if (first->position != second->position) /* a thought's input is all that reads the output before it */
        return first->position + 1 == second->position && after_last_keys(shape, &first->what.at) &&
               b == LP_SITE_LATENT_IN && second->what.at.phase == LP_PHASE_THOUGHT;
    if (b == LP_SITE_LATENT_RAW) return after_last_keys(shape, &first->what.at);
    if (site == LP_SITE_LATENT_IN) return b == LP_SITE_RESID_PRE;
    if (first->what.at.layer != second->what.at.layer) return false;
    bool of_heads = site == LP_SITE_Q || site == LP_SITE_Z;
    if (b == LP_SITE_Z || b == LP_SITE_ATTN_OUT) return of_heads;
    if (b == LP_SITE_RESID_MID) return of_heads || site == LP_SITE_ATTN_OUT;
    return b == LP_SITE_RESID_POST && lp_site_is_after_keys(site);
}

static bool same_address(const lp_timed_edit *a, const lp_timed_edit *b) {
    int32_t ha = a->what.at.head, hb = b->what.at.head;
    bool same_position = a->position == b->position || a->all || b->all;
    return same_position && a->depth == b->depth && (ha == hb || ha == LP_ALL_HEADS || hb == LP_ALL_HEADS);
}

static lp_status refuse_empty(const lp_condition *condition, const lp_run_shape *shape, const lp_timed_edit *edits,
                              size_t n, lp_error *err) {
    int32_t head = 0;
    const lp_timed_edit *edge = lp_edges_find_empty(edits, n, shape->config->n_heads, &head);
    if (!edge) return LP_OK;
    const lp_address *at = &edge->what.at;
    int32_t before = at->phase == LP_PHASE_PROMPT    ? 0
                     : at->phase == LP_PHASE_THOUGHT ? shape->n_prompt
                                                     : shape->n_prompt + condition->n_steps_run;
    return lp_fail(
        err, LP_ERR_VALUE,
        "condition %s: %s %d may attend to nothing (layer %d, query head %d): expected at least one position "
        "that is left",
        condition->name, lp_phase_names()[at->phase], edge->position - before, at->layer, head);
}

lp_status lp_condition_effective(const lp_condition_set *set, size_t index, const lp_run_shape *shape,
                                 lp_edit_sequence *out, lp_error *err) {
    const lp_condition *condition = &set->conditions[index];
    const lp_replacement *replacements = set->replacements + condition->first;
    lp_timed_edit *edits = NULL;
    size_t n = 0, kept = 0, wanted = 0, capacity = 0;
    lp_status status = LP_OK;
    if (lp_condition_is_absent(set, index, shape)) {
        lp_mem_free(out->edits);
        *out = (lp_edit_sequence){.absent = true};
        return LP_OK;
    }
    for (size_t i = 0; i < condition->n; i++) wanted += (size_t)count_positions(condition, shape, &replacements[i].at);
    /* Exactly: hundreds of thousands of lists are compared at a time. */
    LP_TRY(lp_mem_new(&edits, wanted, sizeof *edits, "edits", err));
    capacity = wanted;
    bool has_edges = false, causal = false, unread = false, overwritten = false;
    for (size_t i = 0; i < condition->n; i++) {
        int32_t positions = count_positions(condition, shape, &replacements[i].at);
        bool edge = replacements[i].operation == LP_OP_FORBID;
        has_edges |= edge;
        for (int32_t k = 0; k < positions; k++) {
            LP_TRY(make_edit(condition, shape, &replacements[i], k, &edits[n], &causal, err));
            n += !edge || edits[n].key_begin < edits[n].key_end;
        }
    }
    if (has_edges) LP_TRY(lp_edges_normalise(&edits, &n, &capacity, shape->config->n_heads, err));
    if (n > 1) qsort(edits, n, sizeof *edits, compare_for_sort);
    for (size_t i = 0; i < n; i++)
        for (size_t k = i + 1; k < n && (edits[i].all || edits[k].position == edits[i].position); k++) {
            if (lp_is_edge(&edits[i]) || lp_is_edge(&edits[k]) || !same_address(&edits[i], &edits[k])) continue;
            const lp_address *at = &edits[k].what.at;
            LP_FAIL(LP_ERR_VALUE, "condition %s: two replacements of the same address: %s %d %s layer %d",
                    condition->name, lp_phase_names()[at->phase], at->index, lp_site_names()[at->site], at->layer);
        }
    if (has_edges) LP_TRY(refuse_empty(condition, shape, edits, n, err));
    for (size_t i = 0; i < n; i++) {
        bool dead = is_dead(shape, condition->n_steps_run, &edits[i]), acts = !dead;
        for (size_t k = i + 1; k < n && acts && edits[k].position <= edits[i].position + 1; k++)
            acts = !wipes_out(shape, &edits[i], &edits[k]);
        unread |= dead;
        overwritten |= !dead && !acts;
        if (acts) edits[kept++] = edits[i];
    }
    lp_mem_free(out->edits);
    *out =
        (lp_edit_sequence){.edits = edits, .n = kept, .unread = unread, .causal = causal, .overwritten = overwritten};
    return LP_OK;
out:
    lp_mem_free(edits);
    return status;
}

void lp_edit_sequence_release(lp_edit_sequence *list) {
    lp_mem_free(list->edits);
    *list = (lp_edit_sequence){0};
}

/* ---- Comparison of whole conditions ------------------------------------------------------------------------------ */

typedef struct {
    const lp_edit_sequence *list;
    lp_direction direction;
    int32_t n_steps;
    int32_t before; /* the first condition that was the same at the lengths looked at so far */
    size_t index;
} keyed;

static int compare_lists(const void *pa, const void *pb) {
    const keyed *a = pa;
    const keyed *b = pb;
    int order = compare_i64(a->before, b->before);
    if (!order) order = compare_i64(a->direction, b->direction);
    if (!order) order = compare_i64(a->n_steps, b->n_steps);
    if (!order) order = compare_i64(a->list->absent, b->list->absent);
    if (!order) order = compare_i64((int64_t)a->list->n, (int64_t)b->list->n);
    for (size_t i = 0; i < a->list->n && !order; i++)
        order = lp_timed_edit_compare(&a->list->edits[i], &b->list->edits[i]);
    return order;
}

static int compare_keyed(const void *pa, const void *pb) {
    int order = compare_lists(pa, pb);
    const keyed *a = pa;
    const keyed *b = pb;
    return order ? order : compare_i64((int64_t)a->index, (int64_t)b->index);
}

const char *lp_condition_family_reason(lp_condition_family family) {
    static const char *const reasons[LP_N_FAMILIES] = {
        [LP_FAMILY_DEAD_UNREAD] = "dead: no later position reads what is changed",
        [LP_FAMILY_DEAD_CAUSAL] = "dead: causality forbids these attention edges anyway",
        [LP_FAMILY_EQUAL_UNREAD] = "equal: no later position reads the part in which the two differ",
        [LP_FAMILY_EQUAL_OVERWRITTEN] =
            "equal: a later replacement takes the place of the part in which the two differ",
        [LP_FAMILY_EQUAL_CAUSAL] = "equal: causality forbids the attention edges in which the two differ",
        [LP_FAMILY_EQUAL_WORDS] = "equal: the two name the same replacements or edges in different words",
        [LP_FAMILY_SELF] = "control: the run's own values are written back, which must change nothing",
        [LP_FAMILY_SELF_STOP] =
            "control: the two stop equally early and write back the run's own values, so they must agree",
        [LP_FAMILY_FED] = "equal but for rounding: a step's last output is read by the next step's input alone"};
    return reasons[family];
}

size_t lp_conditions_count_shapes(const lp_condition_set *set, const lp_run_shapes *shapes, lp_direction direction) {
    for (size_t i = 0; i < set->n; i++) {
        const lp_condition *condition = &set->conditions[i];
        for (size_t k = 0; k < condition->n && condition->direction == direction; k++) {
            const lp_replacement *replacement = &set->replacements[condition->first + k];
            bool many_keys = replacement->operation == LP_OP_FORBID && replacement->from.phase == LP_PHASE_PROMPT &&
                             replacement->from.index != -1 && replacement->from.index != LP_INDEX_ALL;
            if ((replacement->at.phase == LP_PHASE_PROMPT && replacement->at.index != -1) || many_keys)
                return shapes->n[direction];
        }
    }
    return shapes->n[direction] > 0 ? 1 : 0;
}

/* What is known of a condition, at some length. */
typedef struct {
    bool present;
    bool unread, overwritten, causal; /* something of it */
} found_of;

/* What the three arrays say after one length more. */
typedef struct {
    const lp_condition_set *set;
    bool *dead;
    int32_t *same_as;
    found_of *found;
    int32_t *fed_as;
    lp_edit_sequence *lists;
    keyed *order;
} condition_comparison;

/* Is the replaced vector read by nothing but the input of the step after it, and the new one as what some step of
 * another run was fed? Its projection is what that step was fed. */
static bool is_fed_forward(const lp_run_shape *shape, int32_t n_steps, const lp_timed_edit *edit) {
    const lp_replacement *what = &edit->what;
    const lp_address *at = &what->at, *from = &what->from;
    bool of_a_run =
        what->donor == LP_DONOR_CLEAN || what->donor == LP_DONOR_CORRUPTED || what->donor == LP_DONOR_SHUFFLED;
    bool same_place = at->site == from->site && at->layer == from->layer && at->head == LP_ALL_HEADS;
    return of_a_run && what->operation == LP_OP_REPLACE && what->token == 0 && !edit->all && same_place &&
           after_last_keys(shape, at) && (at->site == LP_SITE_RESID_POST || at->site == LP_SITE_LATENT_RAW) &&
           at->phase == LP_PHASE_THOUGHT && from->phase == LP_PHASE_THOUGHT && at->index < n_steps - 1 &&
           from->index < shape->protocol.n_steps - 1;
}

/* Names such replacements by the input that they become. */
static void feed_forward(const lp_run_shape *shape, int32_t n_steps, lp_edit_sequence *list) {
    for (size_t i = 0; i < list->n; i++) {
        lp_timed_edit *edit = &list->edits[i];
        if (!is_fed_forward(shape, n_steps, edit)) continue;
        edit->position++;
        edit->what.at = (lp_address){LP_PHASE_THOUGHT, edit->what.at.index + 1, LP_SITE_LATENT_IN, 0, LP_ALL_HEADS};
        edit->what.from = (lp_address){LP_PHASE_THOUGHT, edit->what.from.index + 1, LP_SITE_LATENT_IN, 0, LP_ALL_HEADS};
        edit->depth = lp_address_depth(shape->config, &edit->what.at);
    }
    if (list->n > 1) qsort(list->edits, list->n, sizeof *list->edits, compare_for_sort);
}

static lp_condition_family family_of(const condition_comparison *comparison, size_t i) {
    size_t other = (size_t)comparison->same_as[i];
    const found_of *of = &comparison->found[i];
    if (comparison->dead[i]) return of->causal && !of->unread ? LP_FAMILY_DEAD_CAUSAL : LP_FAMILY_DEAD_UNREAD;
    if (other == i) return comparison->fed_as[i] != (int32_t)i ? LP_FAMILY_FED : LP_FAMILY_NONE;
    const found_of *of_other = &comparison->found[other];
    if (of->unread || of_other->unread) return LP_FAMILY_EQUAL_UNREAD;
    if (of->overwritten || of_other->overwritten) return LP_FAMILY_EQUAL_OVERWRITTEN;
    return of->causal || of_other->causal ? LP_FAMILY_EQUAL_CAUSAL : LP_FAMILY_EQUAL_WORDS;
}

/* of[i] = the first of the n conditions in `order` that is the same as i. */
static void find_repeats(condition_comparison *comparison, size_t n, int32_t *of) {
    keyed *order = comparison->order;
    if (n > 1) qsort(order, n, sizeof *order, compare_keyed);
    for (size_t k = 0; k < n; k++) {
        bool repeats = k > 0 && compare_lists(&order[k - 1], &order[k]) == 0;
        of[order[k].index] = repeats ? of[order[k - 1].index] : (int32_t)order[k].index;
    }
}

static lp_status compare_at(condition_comparison *comparison, const lp_run_shape *shape, lp_direction direction,
                            lp_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < comparison->set->n; i++) {
        const lp_condition *condition = &comparison->set->conditions[i];
        if (condition->direction != direction) continue;
        lp_edit_sequence *list = &comparison->lists[i];
        found_of *found = &comparison->found[i];
        LP_CHECK(lp_condition_effective(comparison->set, i, shape, list, err));
        comparison->order[n++] = (keyed){list, direction, condition->n_steps_run, comparison->same_as[i], i};
        found->present |= !list->absent;
        found->unread |= list->unread;
        found->overwritten |= list->overwritten;
        found->causal |= list->causal;
        if (list->n > 0) comparison->dead[i] = false;
    }
    find_repeats(comparison, n, comparison->same_as);
    /* The same comparison of what the steps are fed. */
    for (size_t k = 0; k < n; k++) {
        size_t i = comparison->order[k].index;
        feed_forward(shape, comparison->set->conditions[i].n_steps_run, &comparison->lists[i]);
        comparison->order[k].before = comparison->fed_as[i];
    }
    find_repeats(comparison, n, comparison->fed_as);
    return LP_OK;
}

lp_status lp_conditions_compare(const lp_condition_set *set, const lp_run_shapes *shapes, bool *dead, int32_t *same_as,
                                lp_condition_family *family, int32_t *fed_as, lp_error *err) {
    condition_comparison comparison = {.set = set, .dead = dead, .same_as = same_as, .fed_as = fed_as};
    lp_run_shape shape = {.config = shapes->config, .protocol = shapes->protocol};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&comparison.found, set->n, sizeof *comparison.found, "edit lists", err));
    LP_TRY(lp_mem_new(&comparison.lists, set->n, sizeof *comparison.lists, "edit lists", err));
    LP_TRY(lp_mem_new(&comparison.order, set->n, sizeof *comparison.order, "edit lists", err));
    for (size_t i = 0; i < set->n; i++) {
        dead[i] = set->conditions[i].n > 0 && set->conditions[i].n_steps_run == shapes->protocol.n_steps;
        same_as[i] = fed_as[i] = 0;
    }
    int32_t longest[2] = {0};
    for (int d = 0; d < 2; d++)
        for (size_t k = 0; k < lp_conditions_count_shapes(set, shapes, (lp_direction)d); k++) {
            shape.n_prompt = shapes->n_prompt[d][k];
            if (shape.n_prompt > longest[d]) longest[d] = shape.n_prompt;
            LP_TRY(compare_at(&comparison, &shape, (lp_direction)d, err));
        }
    for (size_t i = 0; i < set->n; i++) {
        const lp_condition *condition = &set->conditions[i];
        shape.n_prompt = longest[condition->direction];
        if (comparison.found[i].present || shape.n_prompt == 0) continue;
        status = refuse_index(condition, LP_PHASE_PROMPT, *find_absent(set, i, &shape), shape.n_prompt, err);
        goto out;
    }
    for (size_t i = 0; i < set->n; i++) family[i] = family_of(&comparison, i);
out:
    for (size_t i = 0; comparison.lists && i < set->n; i++) lp_edit_sequence_release(&comparison.lists[i]);
    lp_mem_free(comparison.found);
    lp_mem_free(comparison.lists);
    lp_mem_free(comparison.order);
    return status;
}
