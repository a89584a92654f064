#include "patch/expand.h"

#include "base/memory.h"

void lp_sweep_group_release(lp_sweep_group *group) {
    lp_mem_free(group->sites);
    lp_mem_free(group->layers);
    lp_mem_free(group->steps);
    lp_mem_free(group->indices);
    lp_mem_free(group->heads);
    lp_mem_free(group->donors);
    lp_mem_free(group->details);
    lp_mem_free(group->factors);
    lp_mem_free(group->from_layers);
    for (size_t i = 0; i < group->n_edges; i++) {
        lp_mem_free(group->edges[i].from);
        lp_mem_free(group->edges[i].to);
        lp_mem_free(group->edges[i].layers);
        lp_mem_free(group->edges[i].heads);
    }
    lp_mem_free(group->edges);
    *group = (lp_sweep_group){0};
}

/* One cell of the product that a group spans. */
typedef struct {
    const lp_sweep_group *group;
    lp_site site;
    const lp_layer_set *layers; /* NULL for sites without layers */
    size_t i_layers;
    const lp_step_set *steps; /* NULL outside the thought phase */
    int32_t index;            /* prompt and answer */
    size_t edges;             /* which choice of the lists of the group's edges, 0 to count_edges */
    bool has_site;            /* false: attention edges alone */
    int32_t head;
    lp_donor donor;
    int32_t draw; /* of SHUFFLED; otherwise 0 */
    lp_donor_detail detail;
    int32_t vector; /* of the replacements */
    float factor;
    lp_direction direction;
    lp_role role;
} cell;

static void add_word(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void add_word(char *out, size_t size, const char *format, ...) {
    size_t used = strlen(out);
    va_list args;
    va_start(args, format);
    vsnprintf(out + used, size - used, format, args);
    va_end(args);
}

static void defect_words(const cell *c, char *out, size_t size) {
    const lp_defects *d = &c->group->defects;
    out[0] = '\0';
    if (d->off_by_one) add_word(out, size, "off_by_one");
    if (d->prefill_leak) add_word(out, size, "%sprefill_leak", out[0] ? "," : "");
    if (d->decode_leak) add_word(out, size, "%sdecode_leak", out[0] ? "," : "");
}

/* One choice of the lists of an edge. */
typedef struct {
    const lp_edge_words *words;
    const lp_position_set *from, *to;
    const lp_layer_set *layers;
    const lp_layer_set *heads; /* NULL: all */
} edge_choice;

static size_t count_choices(const lp_edge_words *e) {
    return e->n_from * e->n_to * (e->n_layers ? e->n_layers : 1) * (e->n_heads ? e->n_heads : 1);
}

/* Choices of all lists of a group's edges. */
static size_t count_edges(const lp_sweep_group *g) {
    size_t n = 1;
    for (size_t i = 0; i < g->n_edges; i++) n *= count_choices(&g->edges[i]);
    return n;
}

/* Edge i of the cell; the last list varies fastest. */
static edge_choice edge_of(const cell *c, size_t i) {
    const lp_sweep_group *g = c->group;
    size_t rest = c->edges;
    for (size_t k = g->n_edges - 1; k > i; k--) rest /= count_choices(&g->edges[k]);
    const lp_edge_words *e = &g->edges[i];
    size_t n_layers = e->n_layers ? e->n_layers : 1, n_heads = e->n_heads ? e->n_heads : 1;
    edge_choice choice = {.words = e, .layers = c->layers};
    choice.to = &e->to[rest % e->n_to];
    rest /= e->n_to;
    choice.from = &e->from[rest % e->n_from];
    rest /= e->n_from;
    if (e->n_layers) choice.layers = &e->layers[rest % n_layers];
    rest /= n_layers;
    if (e->n_heads) choice.heads = &e->heads[rest % n_heads];
    return choice;
}

static bool is_one_query_head(const edge_choice *e) {
    return e->heads && e->heads->n == 1 && !e->words->by_kv_head;
}

/* "h3 answer:all>single:0"; where the edge is the only one of a condition, its layers and its query head have columns
 * of their own. */
static void edge_words(const cell *c, bool whole, char *out, size_t size) {
    out[0] = '\0';
    for (size_t i = 0; i < c->group->n_edges; i++) {
        const edge_choice e = edge_of(c, i);
        bool alone = !whole && !c->has_site && c->group->n_edges == 1;
        if (i > 0) add_word(out, size, "+");
        if (!alone) add_word(out, size, "L%s.", e.layers->words);
        if (e.heads && !(alone && is_one_query_head(&e)))
            add_word(out, size, "%s%s.", e.words->by_kv_head ? "kv" : "h", e.heads->words);
        add_word(out, size, "%s>%s", e.from->words, e.to->words);
    }
}

static void place_words(const cell *c, char *out, size_t size) {
    out[0] = '\0';
    if (!c->has_site) {
        edge_words(c, false, out, size);
        return;
    }
    if (c->steps)
        add_word(out, size, "%s", c->steps->words);
    else if (c->index == LP_INDEX_ALL)
        add_word(out, size, "%s:all", lp_phase_names()[c->group->phase]);
    else
        add_word(out, size, "%s:%d", lp_phase_names()[c->group->phase], c->index);
    if (c->group->n_edges == 0) return;
    char edges[LP_LONG_WORDS];
    edge_words(c, true, edges, sizeof edges);
    add_word(out, size, " without %s", edges);
}

/* The shortest decimal that reads back as this factor: two factors never share a name. */
static void add_factor(float factor, char *out, size_t size) {
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)factor);
        if (strtof(text, NULL) == factor) break;
    }
    add_word(out, size, ":%s", text);
}

/* direction/donor/operation/site/layers/steps, followed by whatever differs from the default. */
static void cell_name(const cell *c, char *out, size_t size) {
    const lp_sweep_group *g = c->group;
    char place[LP_LONG_WORDS], defects[LP_WORDS], donor[LP_WORDS];
    place_words(c, place, sizeof place);
    defect_words(c, defects, sizeof defects);
    lp_donor_words(c->donor, &c->detail, donor, sizeof donor);
    out[0] = '\0';
    if (!c->has_site) {
        edge_words(c, true, place, sizeof place);
        add_word(out, size, "%s/forbid/%s", lp_direction_names()[c->direction], place);
        if (g->stop_after > 0) add_word(out, size, "/stop:%d", g->stop_after);
        return;
    }
    add_word(out, size, "%s/%s", lp_direction_names()[c->direction], donor);
    if (c->donor == LP_DONOR_FILE) add_word(out, size, "%d", g->vector);
    if (c->draw > 0) add_word(out, size, "%d", c->draw);
    add_word(out, size, "/%s", lp_operation_names()[g->operation]);
    if (g->subspace > 0) add_word(out, size, "(%d)", g->subspace - 1);
    if (lp_operation_has_factor(g->operation)) add_factor(c->factor, out, size);
    add_word(out, size, "/%s", lp_site_names()[c->site]);
    if (c->head != LP_ALL_HEADS) add_word(out, size, ".h%d", c->head);
    if (c->layers) add_word(out, size, "/L%s", c->layers->words);
    add_word(out, size, "/%s", place);
    if (g->from_other_site) add_word(out, size, "<%s", lp_site_names()[g->from_site]);
    if (g->from_layers) add_word(out, size, "<L%d", g->from_layers[c->i_layers]);
    if (g->from_step >= 0) add_word(out, size, "<step%d", g->from_step);
    if (g->stop_after > 0) add_word(out, size, "/stop:%d", g->stop_after);
    if (defects[0]) add_word(out, size, "/+%s", defects);
}

/* The names of a set: open addressing, each slot a condition + 1 or 0; kept at most half full. */
typedef struct {
    size_t *slots; /* [n_slots], a power of two */
    size_t n_slots;
} name_table;

static size_t hash_of(const char *name) {
    uint64_t hash = UINT64_C(14695981039346656037); /* FNV-1a */
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * UINT64_C(1099511628211);
    return (size_t)(hash ^ hash >> 32);
}

/* The slot of the name, or the free one where it belongs. */
static size_t *slot_of(const name_table *table, const lp_condition_set *set, const char *name) {
    size_t at = hash_of(name) & (table->n_slots - 1);
    while (table->slots[at] && strcmp(set->conditions[table->slots[at] - 1].name, name) != 0)
        at = (at + 1) & (table->n_slots - 1);
    return &table->slots[at];
}

static lp_status grow_names(name_table *table, const lp_condition_set *set, lp_error *err) {
    name_table larger = {.n_slots = table->n_slots ? 2 * table->n_slots : 256};
    lp_status status = lp_mem_new(&larger.slots, larger.n_slots, sizeof *larger.slots, "condition names", err);
    if (status != LP_OK) return status;
    for (size_t i = 0; i < set->n; i++) *slot_of(&larger, set, set->conditions[i].name) = i + 1;
    lp_mem_free(table->slots);
    *table = larger;
    return LP_OK;
}

/* A set that grows, and its names. */
typedef struct {
    int32_t n_draws; /* of SHUFFLED */
    lp_condition_set set;
    name_table names;
    const lp_model_config *config;
} building;

static bool has_name(const building *b, const char *name) {
    return b->names.n_slots > 0 && *slot_of(&b->names, &b->set, name) != 0;
}

/* To be called when the last condition of the set has its name. */
static lp_status note_name(building *b, lp_error *err) {
    if (2 * b->set.n >= b->names.n_slots) return grow_names(&b->names, &b->set, err);
    *slot_of(&b->names, &b->set, b->set.conditions[b->set.n - 1].name) = b->set.n;
    return LP_OK;
}

static lp_replacement make_replacement(const cell *c, int32_t layer, lp_phase phase, int32_t index, int32_t step) {
    const lp_sweep_group *g = c->group;
    lp_replacement r = {.at = {.phase = phase, .index = index, .site = c->site, .layer = layer, .head = c->head},
                        .operation = g->operation,
                        .factor = c->factor,
                        .subspace = g->subspace,
                        .donor = c->donor,
                        .vector = c->vector};
    r.from = r.at;
    if (g->phase == LP_PHASE_THOUGHT || g->from_step >= 0) {
        r.from.phase = LP_PHASE_THOUGHT;
        r.from.index = g->from_step >= 0 ? g->from_step : step;
    }
    if (g->from_other_site) r.from.site = g->from_site;
    if (!lp_site_has_layer(r.from.site)) r.from.layer = 0;
    if (g->from_layers) r.from.layer = g->from_layers[c->i_layers];
    if (g->defects.off_by_one) r.from.site = LP_SITE_RESID_PRE;
    return r;
}

/* The replacements of one layer of the cell. */
static lp_status add_layer(lp_condition_set *set, const cell *c, int32_t layer, int32_t n_steps, lp_error *err) {
    const lp_sweep_group *g = c->group;
    lp_replacement r;
    lp_status status = LP_OK;
    if (!c->steps) {
        r = make_replacement(c, layer, g->phase, c->index, 0);
        return lp_condition_replace(set, &r, err);
    }
    if (g->defects.prefill_leak && (c->steps->mask & 1)) {
        r = make_replacement(c, layer, LP_PHASE_PROMPT, -1, 0);
        LP_TRY(lp_condition_replace(set, &r, err));
    }
    for (int32_t t = 0; t < n_steps; t++) {
        if (!(c->steps->mask >> t & 1)) continue;
        r = make_replacement(c, layer, LP_PHASE_THOUGHT, t, t);
        LP_TRY(lp_condition_replace(set, &r, err));
    }
    if (g->defects.decode_leak && (c->steps->mask >> (n_steps - 1) & 1)) {
        r = make_replacement(c, layer, LP_PHASE_ANSWER, LP_INDEX_ALL, n_steps - 1);
        LP_TRY(lp_condition_replace(set, &r, err));
    }
out:
    return status;
}

/* The edges of one row or more and one layer: one of each position to each range of positions. */
static lp_status add_edges_of_layer(lp_condition_set *set, const edge_choice *e, int32_t layer, int32_t head,
                                    lp_error *err) {
    lp_replacement r = {.at = {.phase = e->from->phase, .site = LP_SITE_Z, .layer = layer, .head = head},
                        .operation = LP_OP_FORBID,
                        .factor = 1.0f,
                        .donor = LP_DONOR_ZERO,
                        .from = {.phase = e->to->phase, .site = LP_SITE_Z, .layer = layer, .head = head}};
    int32_t from = 0, to = 0;
    lp_status status = LP_OK;
    for (bool more = lp_position_first(e->from, &from); more; more = lp_position_next(e->from, &from))
        for (bool also = lp_position_first(e->to, &to); also; also = lp_position_next(e->to, &to)) {
            r.at.index = from;
            r.from.index = to;
            LP_TRY(lp_condition_replace(set, &r, err));
        }
out:
    return status;
}

static lp_status add_edges(lp_condition_set *set, const cell *c, const lp_model_config *config, lp_error *err) {
    int32_t group = config->n_heads / config->n_kv_heads;
    lp_status status = LP_OK;
    for (size_t i = 0; i < c->group->n_edges; i++) {
        const edge_choice e = edge_of(c, i);
        int32_t queries = e.words->by_kv_head ? group : 1;
        for (int32_t l = 0; l < e.layers->n; l++) {
            if (!e.heads) LP_TRY(add_edges_of_layer(set, &e, e.layers->layers[l], LP_ALL_HEADS, err));
            for (int32_t h = 0; e.heads && h < e.heads->n * queries; h++)
                LP_TRY(add_edges_of_layer(set, &e, e.layers->layers[l],
                                          e.heads->layers[h / queries] * queries + h % queries, err));
        }
    }
out:
    return status;
}

static bool has_steps_after(const cell *c, int32_t n_steps) {
    uint64_t mask = c->steps ? c->steps->mask : 0;
    for (size_t i = 0; i < c->group->n_edges; i++) {
        const edge_choice e = edge_of(c, i);
        mask |= e.from->mask | e.to->mask;
    }
    return n_steps < LP_MAX_STEPS && mask >> n_steps;
}

/* What the columns say of attention edges alone. */
static void describe_edges(const cell *c, lp_condition *condition) {
    const edge_choice e = edge_of(c, 0);
    condition->operation = LP_OP_FORBID;
    condition->donor = LP_DONOR_ZERO;
    condition->phase = e.from->phase;
    condition->index = LP_INDEX_ALL;
    if (c->group->n_edges > 1) return;
    condition->layer = e.layers->n == 1 ? e.layers->layers[0] : -1;
    condition->mask = e.from->mask;
    if (!e.from->all) condition->index = e.from->first;
    if (is_one_query_head(&e)) condition->head = e.heads->layers[0];
}

static lp_status add_cell(building *b, cell *c, int32_t n_steps, lp_error *err) {
    const lp_sweep_group *g = c->group;
    lp_condition_set *set = &b->set;
    char name[2 * LP_LONG_WORDS], place[LP_LONG_WORDS], defects[LP_WORDS], donor[LP_WORDS];
    cell_name(c, name, sizeof name);
    if (has_name(b, name)) return LP_OK;
    if (strlen(name) >= LP_LONG_WORDS)
        return lp_fail(err, LP_ERR_VALUE,
                       "sweep.conditions: condition %.60s...: expected a name of less than %d bytes: "
                       "fewer edges in one condition",
                       name, LP_LONG_WORDS);
    place_words(c, place, sizeof place);
    defect_words(c, defects, sizeof defects);
    lp_donor_words(c->donor, &c->detail, donor, sizeof donor);
    int32_t n_steps_run = g->stop_after > 0 ? g->stop_after : n_steps;
    if (has_steps_after(c, n_steps_run))
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions: condition %s: a step beyond the end of the run (%d steps)",
                       name, n_steps_run);
    lp_condition *condition = NULL;
    lp_status status = LP_OK;
    const char *layers = c->layers ? c->layers->words : "";
    if (!c->has_site) layers = g->n_edges == 1 ? edge_of(c, 0).layers->words : "";
    LP_TRY(lp_condition_add(set, name, layers, place, defects, &condition, err));
    LP_TRY(note_name(b, err));
    condition->role = c->role;
    condition->direction = c->direction;
    condition->stop_after = g->stop_after;
    condition->n_steps_run = n_steps_run;
    if (!c->has_site) {
        describe_edges(c, condition);
        return add_edges(set, c, b->config, err);
    }
    c->vector = c->donor == LP_DONOR_FILE ? g->vector : c->draw;
    if (c->donor == LP_DONOR_MEAN || c->donor == LP_DONOR_NOISE)
        LP_TRY(lp_condition_detail(set, &c->detail, &c->vector, err));
    const char *like = set->n > 1 ? set->conditions[set->n - 2].donor_words : NULL;
    LP_TRY(lp_condition_text(set, donor, like, &condition->donor_words, err));
    condition->site = c->site;
    condition->phase = g->phase;
    condition->operation = g->operation;
    condition->subspace = g->subspace;
    condition->factor = c->factor;
    condition->donor = c->donor;
    condition->index = c->index;
    condition->head = c->head;
    condition->vector = c->donor == LP_DONOR_FILE ? g->vector : -1;
    condition->draw = c->draw;
    condition->from_other_site = g->from_other_site;
    condition->from_site = g->from_site;
    condition->from_layer = g->from_layers ? g->from_layers[c->i_layers] : -1;
    condition->from_step = g->from_step;
    condition->layer = c->layers && c->layers->n == 1 ? c->layers->layers[0] : -1;
    condition->mask = c->steps ? c->steps->mask : 0;
    if (!c->layers) LP_TRY(add_layer(set, c, 0, n_steps_run, err));
    for (int32_t i = 0; c->layers && i < c->layers->n; i++)
        LP_TRY(add_layer(set, c, c->layers->layers[i], n_steps_run, err));
    LP_TRY(add_edges(set, c, b->config, err));
out:
    return status;
}

static lp_status add_unpatched(lp_condition_set *set, lp_direction direction, int32_t n_steps, lp_error *err) {
    lp_condition *condition = NULL;
    char name[64];
    snprintf(name, sizeof name, "%s/unpatched", lp_direction_names()[direction]);
    lp_status status = lp_condition_add(set, name, "", "", "", &condition, err);
    if (status != LP_OK) return status;
    condition->role = LP_ROLE_UNPATCHED;
    condition->direction = direction;
    condition->n_steps_run = n_steps;
    return LP_OK;
}

static bool contains_site(const lp_sweep_group *g, bool with_layers) {
    for (size_t i = 0; i < g->n_sites; i++)
        if (lp_site_has_layer(g->sites[i]) == with_layers) return true;
    return false;
}

/* The layer of the donor's vector is the target's, unless the group names its own. */
static lp_status check_donor_layers(const lp_sweep_group *g, size_t index, lp_error *err) {
    for (size_t i = 0; i < g->n_sites; i++) {
        lp_site target = g->sites[i], from = g->from_other_site ? g->from_site : target;
        if (g->from_layers && !lp_site_has_layer(from))
            return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].from.layers: %s has no layers", index,
                           lp_site_names()[from]);
        if (!g->from_layers && lp_site_has_layer(from) && !lp_site_has_layer(target))
            return lp_fail(err, LP_ERR_VALUE,
                           "sweep.conditions[%zu].from: expected the key \"layers\" (and as many in the condition's "
                           "own), as %s has layers and %s none",
                           index, lp_site_names()[from], lp_site_names()[target]);
    }
    return LP_OK;
}

static lp_status check_edges(const lp_sweep_group *g, size_t index, int32_t n_steps, lp_error *err) {
    bool no_layers = g->n_sites == 0 ? g->n_layers == 0 : !contains_site(g, true) || contains_site(g, false);
    for (size_t i = 0; i < g->n_edges; i++)
        if (g->edges[i].n_layers == 0 && no_layers)
            return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].forbid: no layers", index);
    if (g->n_edges > 0 && g->stop_after > n_steps)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].stop_after: expected 1 to %d, found %d", index,
                       n_steps, g->stop_after);
    return LP_OK;
}

static lp_status check_group(const lp_sweep_group *g, size_t index, const lp_model_config *config, int32_t n_steps,
                             lp_error *err) {
    lp_status edges = check_edges(g, index, n_steps, err);
    if (edges != LP_OK || (g->n_sites == 0 && g->n_edges > 0)) return edges;
    if (g->n_sites == 0 || g->n_donors == 0)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu]: no sites or no donors", index);
    if (contains_site(g, true) && g->n_layers == 0)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu]: no layers", index);
    if (g->phase == LP_PHASE_THOUGHT ? g->n_steps == 0 : g->n_indices == 0)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu]: no %s", index,
                       g->phase == LP_PHASE_THOUGHT ? "steps" : "index");
    if (g->n_heads == 0 || g->n_factors == 0)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu]: no %s", index, g->n_heads ? "factor" : "heads");
    bool any_defect = g->defects.off_by_one || g->defects.prefill_leak || g->defects.decode_leak;
    if (any_defect && g->phase != LP_PHASE_THOUGHT)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].defects: only for phase thought", index);
    for (size_t i = 0; g->details && i < g->n_donors; i++) {
        if (g->donors[i] == LP_DONOR_NOISE && g->details[i].around == LP_AROUND_OWN && g->operation != LP_OP_ADD)
            return lp_fail(err, LP_ERR_VALUE,
                           "sweep.conditions[%zu].donor: noise around the run's own vector is added to it: expected "
                           "operation \"add\", or \"around\": \"zero\" or \"mean\"",
                           index);
        if (g->details[i].all_steps && g->phase != LP_PHASE_THOUGHT && g->from_step < 0)
            return lp_fail(err, LP_ERR_VALUE,
                           "sweep.conditions[%zu].donor: \"steps\": \"all\" is only for thought steps", index);
    }
    if (g->defects.off_by_one && (g->n_sites != 1 || g->sites[0] != LP_SITE_RESID_POST))
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].defects: off_by_one is only for site resid_post",
                       index);
    if (g->stop_after > n_steps)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].stop_after: expected 1 to %d, found %d", index,
                       n_steps, g->stop_after);
    if (g->from_step >= n_steps)
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].from.step: expected 0 to %d, found %d", index,
                       n_steps - 1, g->from_step);
    for (size_t i = 0; i < g->n_heads * g->n_sites; i++) {
        int32_t head = g->heads[i / g->n_sites], n_heads = lp_site_n_heads(config, g->sites[i % g->n_sites]);
        if (head == LP_ALL_HEADS || (head >= 0 && head < n_heads)) continue;
        if (n_heads == 0)
            return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].heads: only for the sites q, k, v and z", index);
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].heads: expected heads 0 to %d of %s, found %d", index,
                       n_heads - 1, lp_site_names()[g->sites[i % g->n_sites]], head);
    }
    for (size_t i = 0; i < g->n_layers && g->from_layers; i++)
        if (g->layers[i].n != 1)
            return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu].from.layers: only for single target layers",
                           index);
    return check_donor_layers(g, index, err);
}

/* Calls add_cell for the whole product of a group in one direction, with one donor. `largest_only` keeps the largest
 * step set: for the self control. */
static lp_status add_product(building *b, const lp_sweep_group *g, lp_direction direction, lp_role role, lp_donor donor,
                             const lp_donor_detail *detail, bool largest_only, int32_t n_steps, lp_error *err) {
    const lp_step_set *largest = g->steps;
    for (size_t t = 1; t < g->n_steps; t++)
        if (__builtin_popcountll(g->steps[t].mask) > __builtin_popcountll(largest->mask)) largest = &g->steps[t];
    size_t n_places = g->phase != LP_PHASE_THOUGHT ? g->n_indices : largest_only ? 1 : g->n_steps;
    size_t n_edges = count_edges(g);
    lp_status status = LP_OK;
    cell c = {.group = g, .direction = direction, .role = role, .donor = donor, .has_site = true};
    if (detail) c.detail = *detail;
    for (c.draw = 0; c.draw < (donor == LP_DONOR_SHUFFLED ? b->n_draws : 1); c.draw++)
        for (size_t s = 0; s < g->n_sites; s++) {
            c.site = g->sites[s];
            size_t n_layers = lp_site_has_layer(c.site) || g->from_layers ? g->n_layers : 1;
            for (size_t h = 0; h < g->n_heads; h++)
                for (size_t l = 0; l < n_layers; l++)
                    for (size_t f = 0; f < g->n_factors; f++)
                        for (size_t p = 0; p < n_places; p++) {
                            c.head = g->heads[h];
                            c.layers = lp_site_has_layer(c.site) ? &g->layers[l] : NULL;
                            c.i_layers = l;
                            c.factor = g->factors[f];
                            c.steps = g->phase != LP_PHASE_THOUGHT ? NULL : largest_only ? largest : &g->steps[p];
                            c.index = g->phase != LP_PHASE_THOUGHT ? g->indices[p] : 0;
                            for (c.edges = 0; c.edges < n_edges; c.edges++) LP_TRY(add_cell(b, &c, n_steps, err));
                        }
        }
out:
    return status;
}

/* The same for a group of attention edges alone. */
static lp_status add_edge_product(building *b, const lp_sweep_group *g, lp_direction direction, int32_t n_steps,
                                  lp_error *err) {
    size_t n_edges = count_edges(g);
    cell c = {.group = g, .direction = direction, .role = LP_ROLE_EFFECT, .head = LP_ALL_HEADS};
    bool own = false;
    lp_status status = LP_OK;
    for (size_t i = 0; i < g->n_edges; i++) own |= g->edges[i].n_layers == 0;
    for (size_t l = 0; l < (own ? g->n_layers : 1); l++)
        for (c.edges = 0; c.edges < n_edges; c.edges++) {
            c.layers = own ? &g->layers[l] : NULL;
            LP_TRY(add_cell(b, &c, n_steps, err));
        }
out:
    return status;
}

static bool has_donor(const lp_sweep_group *g, lp_donor donor) {
    for (size_t i = 0; i < g->n_donors; i++)
        if (g->donors[i] == donor) return true;
    return false;
}

/* The recipient's own run changes nothing only as a plain replacement from the same address. */
static bool own_is_identity(const lp_sweep_group *g) {
    bool plain = !g->from_other_site && !g->from_layers && g->from_step < 0;
    bool leaks = g->defects.off_by_one || g->defects.prefill_leak || g->defects.decode_leak;
    return g->operation == LP_OP_REPLACE && plain && !leaks && g->stop_after == 0 && g->n_edges == 0;
}

static lp_status refuse_own_run(const lp_sweep_group *g, size_t index, lp_direction direction, lp_error *err) {
    lp_donor own = direction == LP_DENOISE ? LP_DONOR_CORRUPTED : LP_DONOR_CLEAN;
    lp_donor other = direction == LP_DENOISE ? LP_DONOR_CLEAN : LP_DONOR_CORRUPTED;
    if (!has_donor(g, own) || has_donor(g, other) || !own_is_identity(g)) return LP_OK;
    return lp_fail(err, LP_ERR_VALUE,
                   "sweep.conditions[%zu].donor: \"%s\" is the recipient's own run in direction %s and would change "
                   "nothing: expected [\"clean\", \"corrupted\"], the other run in each direction",
                   index, lp_donor_names()[own], lp_direction_names()[direction]);
}

lp_status lp_conditions_expand(const lp_sweep_words *words, const lp_model_config *config, int32_t n_steps,
                               lp_condition_set *out, lp_error *err) {
    building b = {.config = config, .n_draws = words->n_draws > 0 ? words->n_draws : 1};
    lp_status status = LP_OK;
    const bool wanted[2] = {words->denoise, words->noise};
    if (words->n_groups == 0) LP_FAIL(LP_ERR_VALUE, "sweep.conditions: expected at least one condition, found none");
    if (!words->denoise && !words->noise) LP_FAIL(LP_ERR_VALUE, "sweep.directions: no direction");
    for (size_t i = 0; i < words->n_groups; i++) LP_TRY(check_group(&words->groups[i], i, config, n_steps, err));
    for (int d = 0; d < 2; d++)
        if (wanted[d]) LP_TRY(add_unpatched(&b.set, (lp_direction)d, n_steps, err));
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; wanted[d] && i < words->n_groups; i++) {
            const lp_sweep_group *g = &words->groups[i];
            lp_donor own = d == LP_DENOISE ? LP_DONOR_CORRUPTED : LP_DONOR_CLEAN;
            lp_donor other = d == LP_DENOISE ? LP_DONOR_CLEAN : LP_DONOR_CORRUPTED;
            if (g->n_sites == 0) {
                LP_TRY(add_edge_product(&b, g, (lp_direction)d, n_steps, err));
                continue;
            }
            LP_TRY(refuse_own_run(g, i, (lp_direction)d, err));
            bool means_other_run = g->other_run || (has_donor(g, own) && has_donor(g, other) && own_is_identity(g));
            for (size_t k = 0; k < g->n_donors; k++) {
                if (means_other_run && g->donors[k] == own) continue; /* nothing but the self control */
                bool control = g->donors[k] == LP_DONOR_SELF || g->donors[k] == LP_DONOR_SHUFFLED;
                lp_role role = control ? LP_ROLE_CONTROL : LP_ROLE_EFFECT;
                LP_TRY(add_product(&b, g, (lp_direction)d, role, g->donors[k], g->details ? &g->details[k] : NULL,
                                   false, n_steps, err));
            }
        }
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; wanted[d] && i < words->n_groups; i++) {
            const lp_sweep_group *g = &words->groups[i];
            if (g->n_sites == 0) continue;
            lp_direction direction = (lp_direction)d;
            bool from_other_run = has_donor(g, d == LP_DENOISE ? LP_DONOR_CLEAN : LP_DONOR_CORRUPTED);
            if (words->controls.self && g->phase == LP_PHASE_THOUGHT && own_is_identity(g))
                LP_TRY(add_product(&b, g, direction, LP_ROLE_CONTROL, LP_DONOR_SELF, NULL, true, n_steps, err));
            if (words->controls.shuffled && from_other_run)
                LP_TRY(add_product(&b, g, direction, LP_ROLE_CONTROL, LP_DONOR_SHUFFLED, NULL, false, n_steps, err));
        }
    *out = b.set;
    b.set = (lp_condition_set){0};
out:
    lp_mem_free(b.names.slots);
    lp_condition_set_release(&b.set);
    return status;
}
