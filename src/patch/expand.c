#include "patch/expand.h"

#include "base/memory.h"
#include "base/text.h"

void lp_sweep_group_release(lp_sweep_group *group) {
    lp_mem_free(group->sites);
    lp_mem_free(group->beside);
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
    uint32_t beside;            /* further sites */
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
    int32_t vector;      /* of the replacements */
    lp_token_rule token; /* of the group and the donor */
    int32_t i_token;     /* of the replacements */
    float factor;
    lp_direction direction;
    lp_role role;
} sweep_cell;

static void defect_words(const sweep_cell *cell, char *out, size_t size) {
    const lp_defects *defects = &cell->group->defects;
    out[0] = '\0';
    if (defects->off_by_one) lp_append(out, size, "off_by_one");
    if (defects->prefill_leak) lp_append(out, size, "%sprefill_leak", out[0] ? "," : "");
    if (defects->decode_leak) lp_append(out, size, "%sdecode_leak", out[0] ? "," : "");
    if (defects->last_prompt) lp_append(out, size, "%slast_prompt", out[0] ? "," : "");
}

/* One choice of the lists of an edge. */
typedef struct {
    const lp_edge_words *words;
    const lp_position_set *from, *to;
    const lp_layer_set *layers;
    const lp_layer_set *heads; /* NULL: all */
} edge_choice;

static size_t count_choices(const lp_edge_words *words) {
    return words->n_from * words->n_to * (words->n_layers ? words->n_layers : 1) *
           (words->n_heads ? words->n_heads : 1);
}

/* Choices of all lists of a group's edges. */
static size_t count_edges(const lp_sweep_group *group) {
    size_t n = 1;
    for (size_t i = 0; i < group->n_edges; i++)
        if (__builtin_mul_overflow(n, count_choices(&group->edges[i]), &n)) return SIZE_MAX;
    return n;
}

/* Edge i of the cell; the last list varies fastest. */
static edge_choice edge_of(const sweep_cell *cell, size_t i) {
    const lp_sweep_group *group = cell->group;
    size_t rest = cell->edges;
    for (size_t k = group->n_edges - 1; k > i; k--) rest /= count_choices(&group->edges[k]);
    const lp_edge_words *words = &group->edges[i];
    size_t n_layers = words->n_layers ? words->n_layers : 1, n_heads = words->n_heads ? words->n_heads : 1;
    edge_choice choice = {.words = words, .layers = cell->layers};
    choice.to = &words->to[rest % words->n_to];
    rest /= words->n_to;
    choice.from = &words->from[rest % words->n_from];
    rest /= words->n_from;
    if (words->n_layers) choice.layers = &words->layers[rest % n_layers];
    rest /= n_layers;
    if (words->n_heads) choice.heads = &words->heads[rest % n_heads];
    return choice;
}

static bool is_one_query_head(const edge_choice *choice) {
    return choice->heads && choice->heads->n == 1 && !choice->words->by_kv_head;
}

/* "h3 answer:all>single:0"; where the edge is the only one of a condition, its layers and its query head have columns
 * of their own. */
static void edge_words(const sweep_cell *cell, bool whole, char *out, size_t size) {
    out[0] = '\0';
    for (size_t i = 0; i < cell->group->n_edges; i++) {
        const edge_choice choice = edge_of(cell, i);
        bool alone = !whole && !cell->has_site && cell->group->n_edges == 1;
        if (i > 0) lp_append(out, size, "+");
        if (!alone) lp_append(out, size, "L%s.", choice.layers->words);
        if (choice.heads && !(alone && is_one_query_head(&choice)))
            lp_append(out, size, "%s%s.", choice.words->by_kv_head ? "kv" : "h", choice.heads->words);
        lp_append(out, size, "%s>%s", choice.from->words, choice.to->words);
    }
}

static void place_words(const sweep_cell *cell, char *out, size_t size) {
    out[0] = '\0';
    if (!cell->has_site) {
        edge_words(cell, false, out, size);
        return;
    }
    if (cell->steps)
        lp_append(out, size, "%s", cell->steps->words);
    else if (cell->index == LP_INDEX_ALL)
        lp_append(out, size, "%s:all", lp_phase_names()[cell->group->phase]);
    else
        lp_append(out, size, "%s:%d", lp_phase_names()[cell->group->phase], cell->index);
    if (cell->group->n_edges == 0) return;
    char edges[LP_LONG_WORDS];
    edge_words(cell, true, edges, sizeof edges);
    lp_append(out, size, " without %s", edges);
}

/* The rule that the donor and the group make together. */
static lp_token_rule rule_of(const sweep_cell *cell) {
    lp_token_rule rule = cell->group->token;
    if (cell->donor == LP_DONOR_TOKEN) {
        rule = cell->detail.token;
        rule.only_numbers |= cell->group->token.only_numbers;
    }
    if (rule.top == 0) rule.top = 1;
    return rule;
}

/* "k", "k+v" */
static void site_words(const sweep_cell *cell, char *out, size_t size) {
    snprintf(out, size, "%s", lp_site_names()[cell->site]);
    for (int s = 0; s < LP_N_SITES; s++)
        if (cell->beside >> s & 1) lp_append(out, size, "+%s", lp_site_names()[s]);
}

/* The shortest decimal that reads back as this factor: two factors never share a name. */
static void add_factor(float factor, char *out, size_t size) {
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)factor);
        if (strtof(text, NULL) == factor) break;
    }
    lp_append(out, size, ":%s", text);
}

/* direction/donor/operation/site/layers/steps, followed by whatever differs from the default. */
static void cell_name(const sweep_cell *cell, char *out, size_t size) {
    const lp_sweep_group *group = cell->group;
    char place[LP_LONG_WORDS], defects[LP_WORDS], donor[LP_WORDS], sites[LP_WORDS], operation[LP_WORDS];
    place_words(cell, place, sizeof place);
    defect_words(cell, defects, sizeof defects);
    site_words(cell, sites, sizeof sites);
    lp_donor_words(cell->donor, &cell->detail, donor, sizeof donor);
    out[0] = '\0';
    if (!cell->has_site) {
        edge_words(cell, true, place, sizeof place);
        lp_append(out, size, "%s/forbid/%s", lp_direction_names()[cell->direction], place);
        if (group->stop_after > 0) lp_append(out, size, "/stop:%d", group->stop_after);
        return;
    }
    lp_append(out, size, "%s/%s", lp_direction_names()[cell->direction], donor);
    if (cell->donor == LP_DONOR_FILE) lp_append(out, size, "%d", group->vector);
    if (cell->draw > 0) lp_append(out, size, "%d", cell->draw);
    lp_operation_words(group->operation, group->subspace, &cell->token, operation, sizeof operation);
    lp_append(out, size, "/%s", operation);
    if (lp_operation_has_factor(group->operation)) add_factor(cell->factor, out, size);
    lp_append(out, size, "/%s", sites);
    if (cell->head != LP_ALL_HEADS) lp_append(out, size, ".h%d", cell->head);
    if (cell->layers) lp_append(out, size, "/L%s", cell->layers->words);
    lp_append(out, size, "/%s", place);
    if (group->from_other_site) lp_append(out, size, "<%s", lp_site_names()[group->from_site]);
    if (group->from_layers) lp_append(out, size, "<L%d", group->from_layers[cell->i_layers]);
    if (group->from_step >= 0) lp_append(out, size, "<step%d", group->from_step);
    if (group->stop_after > 0) lp_append(out, size, "/stop:%d", group->stop_after);
    if (defects[0]) lp_append(out, size, "/+%s", defects);
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
    LP_CHECK(lp_mem_new(&larger.slots, larger.n_slots, sizeof *larger.slots, "condition names", err));
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
    int64_t n_repeats; /* cells whose condition is in the set already */
} set_building;

static bool has_name(const set_building *building, const char *name) {
    return building->names.n_slots > 0 && *slot_of(&building->names, &building->set, name) != 0;
}

/* To be called when the last condition of the set has its name. */
static lp_status note_name(set_building *building, lp_error *err) {
    if (2 * building->set.n >= building->names.n_slots) return grow_names(&building->names, &building->set, err);
    *slot_of(&building->names, &building->set, building->set.conditions[building->set.n - 1].name) = building->set.n;
    return LP_OK;
}

static lp_replacement make_replacement(const sweep_cell *cell, lp_site site, int32_t layer, lp_phase phase,
                                       int32_t index, int32_t step) {
    const lp_sweep_group *group = cell->group;
    lp_replacement replacement = {
        .at = {.phase = phase, .index = index, .site = site, .layer = layer, .head = cell->head},
        .operation = group->operation,
        .factor = cell->factor,
        .subspace = group->subspace,
        .token = cell->i_token,
        .donor = cell->donor,
        .vector = cell->vector};
    replacement.from = replacement.at;
    if (group->phase == LP_PHASE_THOUGHT || group->from_step >= 0) {
        replacement.from.phase = LP_PHASE_THOUGHT;
        replacement.from.index = group->from_step >= 0 ? group->from_step : step;
    }
    if (group->from_other_site) replacement.from.site = group->from_site;
    if (!lp_site_has_layer(replacement.from.site)) replacement.from.layer = 0;
    if (group->from_layers) replacement.from.layer = group->from_layers[cell->i_layers];
    if (group->defects.off_by_one) replacement.from.site = LP_SITE_RESID_PRE;
    return replacement;
}

/* The replacements of one site and layer of the cell. */
static lp_status add_site(lp_condition_set *set, const sweep_cell *cell, lp_site site, int32_t layer, int32_t n_steps,
                          lp_error *err) {
    const lp_sweep_group *group = cell->group;
    lp_replacement replacement;
    if (!cell->steps) {
        replacement = make_replacement(cell, site, layer, group->phase, cell->index, 0);
        return lp_condition_replace(set, &replacement, err);
    }
    if (group->defects.prefill_leak && (cell->steps->mask & 1)) {
        replacement = make_replacement(cell, site, layer, LP_PHASE_PROMPT, -1, 0);
        LP_CHECK(lp_condition_replace(set, &replacement, err));
    }
    if (group->defects.last_prompt) {
        replacement = make_replacement(cell, site, layer, LP_PHASE_PROMPT, -1, 0);
        if (group->from_step < 0) {
            replacement.from.phase = LP_PHASE_PROMPT;
            replacement.from.index = -1;
        }
        LP_CHECK(lp_condition_replace(set, &replacement, err));
    }
    for (int32_t t = 0; t < n_steps; t++) {
        if (!(cell->steps->mask >> t & 1)) continue;
        replacement = make_replacement(cell, site, layer, LP_PHASE_THOUGHT, t, t);
        LP_CHECK(lp_condition_replace(set, &replacement, err));
    }
    if (group->defects.decode_leak && (cell->steps->mask >> (n_steps - 1) & 1)) {
        replacement = make_replacement(cell, site, layer, LP_PHASE_ANSWER, LP_INDEX_ALL, n_steps - 1);
        LP_CHECK(lp_condition_replace(set, &replacement, err));
    }
    return LP_OK;
}

/* The replacements of one layer of the cell. */
static lp_status add_layer(lp_condition_set *set, const sweep_cell *cell, int32_t layer, int32_t n_steps,
                           lp_error *err) {
    lp_status status = add_site(set, cell, cell->site, layer, n_steps, err);
    for (int s = 0; s < LP_N_SITES && status == LP_OK; s++)
        if (cell->beside >> s & 1) status = add_site(set, cell, (lp_site)s, layer, n_steps, err);
    return status;
}

/* The edges of one row or more and one layer: one of each position to each range of positions. */
static lp_status add_edges_of_layer(lp_condition_set *set, const edge_choice *choice, int32_t layer, int32_t head,
                                    lp_error *err) {
    lp_replacement replacement = {
        .at = {.phase = choice->from->phase, .site = LP_SITE_Z, .layer = layer, .head = head},
        .operation = LP_OP_FORBID,
        .factor = 1.0f,
        .donor = LP_DONOR_ZERO,
        .from = {.phase = choice->to->phase, .site = LP_SITE_Z, .layer = layer, .head = head}};
    int32_t from = 0, to = 0;
    for (bool more = lp_position_first(choice->from, &from); more; more = lp_position_next(choice->from, &from))
        for (bool also = lp_position_first(choice->to, &to); also; also = lp_position_next(choice->to, &to)) {
            replacement.at.index = from;
            replacement.from.index = to;
            LP_CHECK(lp_condition_replace(set, &replacement, err));
        }
    return LP_OK;
}

static lp_status add_edges(lp_condition_set *set, const sweep_cell *cell, const lp_model_config *config,
                           lp_error *err) {
    int32_t group = config->n_heads / config->n_kv_heads;
    for (size_t i = 0; i < cell->group->n_edges; i++) {
        const edge_choice choice = edge_of(cell, i);
        int32_t queries = choice.words->by_kv_head ? group : 1;
        for (int32_t l = 0; l < choice.layers->n; l++) {
            if (!choice.heads) LP_CHECK(add_edges_of_layer(set, &choice, choice.layers->layers[l], LP_ALL_HEADS, err));
            for (int32_t h = 0; choice.heads && h < choice.heads->n * queries; h++)
                LP_CHECK(add_edges_of_layer(set, &choice, choice.layers->layers[l],
                                            choice.heads->layers[h / queries] * queries + h % queries, err));
        }
    }
    return LP_OK;
}

static bool has_steps_after(const sweep_cell *cell, int32_t n_steps) {
    uint64_t mask = cell->steps ? cell->steps->mask : 0;
    for (size_t i = 0; i < cell->group->n_edges; i++) {
        const edge_choice choice = edge_of(cell, i);
        mask |= choice.from->mask | choice.to->mask;
    }
    return n_steps < LP_MAX_STEPS && mask >> n_steps;
}

/* What the columns say of attention edges alone. */
static void describe_edges(const sweep_cell *cell, lp_condition *condition) {
    const edge_choice choice = edge_of(cell, 0);
    condition->operation = LP_OP_FORBID;
    condition->donor = LP_DONOR_ZERO;
    condition->phase = choice.from->phase;
    condition->index = LP_INDEX_ALL;
    if (cell->group->n_edges > 1) return;
    condition->layer = choice.layers->n == 1 ? choice.layers->layers[0] : -1;
    condition->mask = choice.from->mask;
    if (!choice.from->all) condition->index = choice.from->first;
    if (is_one_query_head(&choice)) condition->head = choice.heads->layers[0];
}

static lp_status add_cell(set_building *building, sweep_cell *cell, int32_t n_steps, lp_error *err) {
    const lp_sweep_group *group = cell->group;
    lp_condition_set *set = &building->set;
    char name[2 * LP_LONG_WORDS], place[LP_LONG_WORDS], defects[LP_WORDS], donor[LP_WORDS], sites[LP_WORDS];
    cell->token = rule_of(cell);
    cell_name(cell, name, sizeof name);
    if (has_name(building, name)) {
        if (building->n_repeats++ < LP_MAX_CONDITIONS) return LP_OK;
        return lp_fail(
            err, LP_ERR_VALUE,
            "sweep.conditions: expected at most %d conditions that are there already, found more (one is %.100s)",
            LP_MAX_CONDITIONS, name);
    }
    if (strlen(name) >= LP_LONG_WORDS)
        return lp_fail(err, LP_ERR_VALUE,
                       "sweep.conditions: condition %.60s...: expected a name of less than %d bytes: "
                       "fewer edges in one condition",
                       name, LP_LONG_WORDS);
    place_words(cell, place, sizeof place);
    defect_words(cell, defects, sizeof defects);
    lp_donor_words(cell->donor, &cell->detail, donor, sizeof donor);
    int32_t n_steps_run = group->stop_after > 0 ? group->stop_after : n_steps;
    if (has_steps_after(cell, n_steps_run))
        return lp_fail(err, LP_ERR_VALUE, "sweep.conditions: condition %s: a step beyond the end of the run (%d steps)",
                       name, n_steps_run);
    lp_condition *condition = NULL;
    const char *layers = cell->layers ? cell->layers->words : "";
    if (!cell->has_site) layers = group->n_edges == 1 ? edge_of(cell, 0).layers->words : "";
    LP_CHECK(lp_condition_add(set, name, layers, place, defects, &condition, err));
    LP_CHECK(note_name(building, err));
    condition->role = cell->role;
    condition->direction = cell->direction;
    condition->stop_after = group->stop_after;
    condition->n_steps_run = n_steps_run;
    if (!cell->has_site) {
        describe_edges(cell, condition);
        return add_edges(set, cell, building->config, err);
    }
    cell->vector = cell->donor == LP_DONOR_FILE ? group->vector : cell->draw;
    if (cell->donor == LP_DONOR_MEAN || cell->donor == LP_DONOR_NOISE)
        LP_CHECK(lp_condition_detail(set, &cell->detail, &cell->vector, err));
    const char *like = set->n > 1 ? set->conditions[set->n - 2].donor_words : NULL;
    LP_CHECK(lp_condition_text(set, donor, like, &condition->donor_words, err));
    like = set->n > 1 ? set->conditions[set->n - 2].sites : NULL;
    site_words(cell, sites, sizeof sites);
    LP_CHECK(lp_condition_text(set, sites, like, &condition->sites, err));
    like = set->n > 1 ? set->conditions[set->n - 2].operation_words : NULL;
    lp_operation_words(group->operation, group->subspace, &cell->token, sites, sizeof sites);
    LP_CHECK(lp_condition_text(set, sites, like, &condition->operation_words, err));
    cell->i_token = 0;
    if (cell->token.chooses || cell->token.only_numbers)
        LP_CHECK(lp_condition_token_rule(set, &cell->token, &cell->i_token, err));
    condition->site = cell->site;
    condition->phase = group->phase;
    condition->operation = group->operation;
    condition->subspace = group->subspace;
    condition->factor = cell->factor;
    condition->donor = cell->donor;
    condition->index = cell->index;
    condition->head = cell->head;
    condition->vector = cell->donor == LP_DONOR_FILE ? group->vector : -1;
    condition->draw = cell->draw;
    condition->from_other_site = group->from_other_site;
    condition->from_site = group->from_site;
    condition->from_layer = group->from_layers ? group->from_layers[cell->i_layers] : -1;
    condition->from_step = group->from_step;
    condition->layer = cell->layers && cell->layers->n == 1 ? cell->layers->layers[0] : -1;
    condition->mask = cell->steps ? cell->steps->mask : 0;
    if (!cell->layers) LP_CHECK(add_layer(set, cell, 0, n_steps_run, err));
    for (int32_t i = 0; cell->layers && i < cell->layers->n; i++)
        LP_CHECK(add_layer(set, cell, cell->layers->layers[i], n_steps_run, err));
    return add_edges(set, cell, building->config, err);
}

static lp_status add_unpatched(lp_condition_set *set, lp_direction direction, int32_t n_steps, lp_error *err) {
    lp_condition *condition = NULL;
    char name[64];
    snprintf(name, sizeof name, "%s/unpatched", lp_direction_names()[direction]);
    LP_CHECK(lp_condition_add(set, name, "", "", "", &condition, err));
    condition->role = LP_ROLE_UNPATCHED;
    condition->direction = direction;
    condition->n_steps_run = n_steps;
    return LP_OK;
}

static bool contains_site(const lp_sweep_group *group, bool with_layers) {
    for (size_t i = 0; i < group->n_sites; i++)
        if (lp_site_has_layer(group->sites[i]) == with_layers) return true;
    return false;
}

/* What is wrong with a group: "sweep.conditions[3]" and the text. */
static lp_status refuse(size_t index, lp_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
static lp_status refuse(size_t index, lp_error *err, const char *format, ...) {
    char what[400] = "";
    va_list args;
    va_start(args, format);
    lp_append_args(what, sizeof what, format, args);
    va_end(args);
    return lp_fail(err, LP_ERR_VALUE, "sweep.conditions[%zu]%s", index, what);
}

/* Tokens are nearest to vectors as wide as an embedding. */
static lp_status check_tokens(const lp_sweep_group *group, size_t index, const lp_model_config *config, lp_error *err) {
    bool chooses = group->token.chooses, by_tokens = chooses || group->token.only_numbers;
    for (size_t i = 0; i < group->n_donors; i++) {
        if (group->donors[i] != LP_DONOR_TOKEN) continue;
        by_tokens = true;
        if (group->operation != LP_OP_REPLACE && group->operation != LP_OP_ADD && group->operation != LP_OP_LERP)
            return refuse(index, err, ".donor: nearest_token is only for the operations replace, add and lerp");
        if (group->from_other_site || group->from_layers || group->from_step >= 0)
            return refuse(index, err, ".from: not for the donor nearest_token");
    }
    for (size_t i = 0; by_tokens && i < group->n_sites; i++)
        for (int s = 0; s < LP_N_SITES; s++) {
            uint32_t sites = 1u << group->sites[i] | (group->beside ? group->beside[i] : 0);
            if ((sites >> s & 1) && lp_site_n_heads(config, (lp_site)s) > 0)
                return refuse(index, err,
                              ".site: expected sites as wide as an embedding beside nearest_token "
                              "and \"only\", found %s",
                              lp_site_names()[s]);
        }
    return LP_OK;
}

/* The layer of the donor's vector is the target's, unless the group names its own. */
static lp_status check_donor_layers(const lp_sweep_group *group, size_t index, lp_error *err) {
    for (size_t i = 0; i < group->n_sites; i++) { /* those beside it have layers where it has */
        lp_site target = group->sites[i], from = group->from_other_site ? group->from_site : target;
        if (group->from_layers && !lp_site_has_layer(from))
            return refuse(index, err, ".from.layers: %s has no layers", lp_site_names()[from]);
        if (!group->from_layers && lp_site_has_layer(from) && !lp_site_has_layer(target))
            return refuse(index, err,
                          ".from: expected the key \"layers\" (and as many in the condition's "
                          "own), as %s has layers and %s none",
                          lp_site_names()[from], lp_site_names()[target]);
    }
    return LP_OK;
}

static lp_status check_edges(const lp_sweep_group *group, size_t index, int32_t n_steps, lp_error *err) {
    bool no_layers =
        group->n_sites == 0 ? group->n_layers == 0 : !contains_site(group, true) || contains_site(group, false);
    for (size_t i = 0; i < group->n_edges; i++)
        if (group->edges[i].n_layers == 0 && no_layers) return refuse(index, err, ".forbid: no layers");
    if (group->n_edges > 0 && group->stop_after > n_steps)
        return refuse(index, err, ".stop_after: expected 1 to %d, found %d", n_steps, group->stop_after);
    return LP_OK;
}

static lp_status check_group(const lp_sweep_group *group, size_t index, const lp_model_config *config, int32_t n_steps,
                             lp_error *err) {
    lp_status edges = check_edges(group, index, n_steps, err);
    if (edges != LP_OK || (group->n_sites == 0 && group->n_edges > 0)) return edges;
    if (group->n_sites == 0 || group->n_donors == 0) return refuse(index, err, ": no sites or no donors");
    if (contains_site(group, true) && group->n_layers == 0) return refuse(index, err, ": no layers");
    if (group->phase == LP_PHASE_THOUGHT ? group->n_steps == 0 : group->n_indices == 0)
        return refuse(index, err, ": no %s", group->phase == LP_PHASE_THOUGHT ? "steps" : "index");
    if (group->n_heads == 0 || group->n_factors == 0)
        return refuse(index, err, ": no %s", group->n_heads ? "factor" : "heads");
    if (group->defects.last_prompt && (group->phase != LP_PHASE_THOUGHT || group->defects.prefill_leak))
        return refuse(index, err, ".last_prompt: only for phase thought, without the defect prefill_leak");
    bool any_defect = group->defects.off_by_one || group->defects.prefill_leak || group->defects.decode_leak;
    if (any_defect && group->phase != LP_PHASE_THOUGHT) return refuse(index, err, ".defects: only for phase thought");
    for (size_t i = 0; group->details && i < group->n_donors; i++) {
        if (group->donors[i] == LP_DONOR_NOISE && group->details[i].around == LP_AROUND_OWN &&
            group->operation != LP_OP_ADD)
            return refuse(index, err,
                          ".donor: noise around the run's own vector is added to it: expected "
                          "operation \"add\", or \"around\": \"zero\" or \"mean\"");
        if (group->details[i].all_steps && group->phase != LP_PHASE_THOUGHT && group->from_step < 0)
            return refuse(index, err, ".donor: \"steps\": \"all\" is only for thought steps");
    }
    bool alone = group->n_sites == 1 && (!group->beside || group->beside[0] == 0);
    if (group->defects.off_by_one && (!alone || group->sites[0] != LP_SITE_RESID_POST))
        return refuse(index, err, ".defects: off_by_one is only for site resid_post");
    if (group->stop_after > n_steps)
        return refuse(index, err, ".stop_after: expected 1 to %d, found %d", n_steps, group->stop_after);
    if (group->from_step >= n_steps)
        return refuse(index, err, ".from.step: expected 0 to %d, found %d", n_steps - 1, group->from_step);
    for (size_t i = 0; i < group->n_heads * group->n_sites; i++) {
        size_t at = i % group->n_sites;
        uint32_t sites = 1u << group->sites[at] | (group->beside ? group->beside[at] : 0);
        int32_t head = group->heads[i / group->n_sites];
        for (int s = 0; s < LP_N_SITES; s++) {
            int32_t n_heads = lp_site_n_heads(config, (lp_site)s);
            if (!(sites >> s & 1) || head == LP_ALL_HEADS || (head >= 0 && head < n_heads)) continue;
            if (n_heads == 0) return refuse(index, err, ".heads: only for the sites q, k, v and z");
            return refuse(index, err, ".heads: expected heads 0 to %d of %s, found %d", n_heads - 1, lp_site_names()[s],
                          head);
        }
    }
    for (size_t i = 0; i < group->n_layers && group->from_layers; i++)
        if (group->layers[i].n != 1) return refuse(index, err, ".from.layers: only for single target layers");
    lp_status tokens = check_tokens(group, index, config, err);
    return tokens == LP_OK ? check_donor_layers(group, index, err) : tokens;
}

/* Calls add_cell for the whole product of a group in one direction, with one donor. `largest_only` keeps the largest
 * step set: for the self control. */
static lp_status add_product(set_building *building, const lp_sweep_group *group, lp_direction direction, lp_role role,
                             lp_donor donor, const lp_donor_detail *detail, bool largest_only, int32_t n_steps,
                             lp_error *err) {
    const lp_step_set *largest = group->steps;
    for (size_t t = 1; t < group->n_steps; t++)
        if (__builtin_popcountll(group->steps[t].mask) > __builtin_popcountll(largest->mask))
            largest = &group->steps[t];
    size_t n_places = group->phase != LP_PHASE_THOUGHT ? group->n_indices : largest_only ? 1 : group->n_steps;
    size_t n_edges = count_edges(group);
    sweep_cell cell = {.group = group, .direction = direction, .role = role, .donor = donor, .has_site = true};
    if (detail) cell.detail = *detail;
    for (cell.draw = 0; cell.draw < (donor == LP_DONOR_SHUFFLED ? building->n_draws : 1); cell.draw++)
        for (size_t s = 0; s < group->n_sites; s++) {
            cell.site = group->sites[s];
            cell.beside = group->beside ? group->beside[s] : 0;
            size_t n_layers = lp_site_has_layer(cell.site) || group->from_layers ? group->n_layers : 1;
            for (size_t h = 0; h < group->n_heads; h++)
                for (size_t l = 0; l < n_layers; l++)
                    for (size_t f = 0; f < group->n_factors; f++)
                        for (size_t p = 0; p < n_places; p++) {
                            cell.head = group->heads[h];
                            cell.layers = lp_site_has_layer(cell.site) ? &group->layers[l] : NULL;
                            cell.i_layers = l;
                            cell.factor = group->factors[f];
                            cell.steps = group->phase != LP_PHASE_THOUGHT ? NULL
                                         : largest_only                   ? largest
                                                                          : &group->steps[p];
                            cell.index = group->phase != LP_PHASE_THOUGHT ? group->indices[p] : 0;
                            for (cell.edges = 0; cell.edges < n_edges; cell.edges++)
                                LP_CHECK(add_cell(building, &cell, n_steps, err));
                        }
        }
    return LP_OK;
}

/* The same for a group of attention edges alone. */
static lp_status add_edge_product(set_building *building, const lp_sweep_group *group, lp_direction direction,
                                  int32_t n_steps, lp_error *err) {
    size_t n_edges = count_edges(group);
    sweep_cell cell = {.group = group, .direction = direction, .role = LP_ROLE_EFFECT, .head = LP_ALL_HEADS};
    bool own = false;
    for (size_t i = 0; i < group->n_edges; i++) own |= group->edges[i].n_layers == 0;
    for (size_t l = 0; l < (own ? group->n_layers : 1); l++)
        for (cell.edges = 0; cell.edges < n_edges; cell.edges++) {
            cell.layers = own ? &group->layers[l] : NULL;
            LP_CHECK(add_cell(building, &cell, n_steps, err));
        }
    return LP_OK;
}

static bool has_donor(const lp_sweep_group *group, lp_donor donor) {
    for (size_t i = 0; i < group->n_donors; i++)
        if (group->donors[i] == donor) return true;
    return false;
}

/* The recipient's own run changes nothing only as a plain replacement from the same address. */
static bool own_is_identity(const lp_sweep_group *group) {
    bool plain = !group->from_other_site && !group->from_layers && group->from_step < 0;
    bool leaks = group->defects.off_by_one || group->defects.prefill_leak || group->defects.decode_leak;
    return group->operation == LP_OP_REPLACE && plain && !leaks && group->stop_after == 0 && group->n_edges == 0;
}

static lp_status refuse_own_run(const lp_sweep_group *group, size_t index, lp_direction direction, lp_error *err) {
    lp_donor own = direction == LP_DENOISE ? LP_DONOR_CORRUPTED : LP_DONOR_CLEAN;
    lp_donor other = direction == LP_DENOISE ? LP_DONOR_CLEAN : LP_DONOR_CORRUPTED;
    if (!has_donor(group, own) || has_donor(group, other) || !own_is_identity(group)) return LP_OK;
    return refuse(index, err,
                  ".donor: \"%s\" is the recipient's own run in direction %s and would change "
                  "nothing: expected [\"clean\", \"corrupted\"], the other run in each direction",
                  lp_donor_names()[own], lp_direction_names()[direction]);
}

/* The effects of one group in one direction. */
static lp_status add_effects(set_building *building, const lp_sweep_group *group, size_t index, lp_direction direction,
                             int32_t n_steps, lp_error *err) {
    const lp_donor own = direction == LP_DENOISE ? LP_DONOR_CORRUPTED : LP_DONOR_CLEAN;
    const lp_donor other = direction == LP_DENOISE ? LP_DONOR_CLEAN : LP_DONOR_CORRUPTED;
    lp_status status = LP_OK;
    if (group->n_sites == 0) return add_edge_product(building, group, direction, n_steps, err);
    LP_TRY(refuse_own_run(group, index, direction, err));
    bool means_other_run =
        group->other_run || (has_donor(group, own) && has_donor(group, other) && own_is_identity(group));
    for (size_t k = 0; k < group->n_donors; k++) {
        if (means_other_run && group->donors[k] == own) continue; /* nothing but the self control */
        bool control = group->donors[k] == LP_DONOR_SELF || group->donors[k] == LP_DONOR_SHUFFLED;
        lp_role role = control ? LP_ROLE_CONTROL : LP_ROLE_EFFECT;
        LP_TRY(add_product(building, group, direction, role, group->donors[k],
                           group->details ? &group->details[k] : NULL, false, n_steps, err));
    }
out:
    return status;
}

static lp_status add_controls(set_building *building, const lp_sweep_group *group, const lp_controls *controls,
                              lp_direction direction, int32_t n_steps, lp_error *err) {
    bool from_other_run = has_donor(group, direction == LP_DENOISE ? LP_DONOR_CLEAN : LP_DONOR_CORRUPTED);
    lp_status status = LP_OK;
    if (group->n_sites == 0) return LP_OK;
    if (controls->self && group->phase == LP_PHASE_THOUGHT && own_is_identity(group))
        LP_TRY(add_product(building, group, direction, LP_ROLE_CONTROL, LP_DONOR_SELF, NULL, true, n_steps, err));
    if (controls->shuffled && from_other_run)
        LP_TRY(add_product(building, group, direction, LP_ROLE_CONTROL, LP_DONOR_SHUFFLED, NULL, false, n_steps, err));
out:
    return status;
}

lp_status lp_conditions_expand(const lp_sweep_words *words, const lp_model_config *config, int32_t n_steps,
                               lp_condition_set *out, lp_error *err) {
    set_building building = {.config = config, .n_draws = words->n_draws > 0 ? words->n_draws : 1};
    lp_status status = LP_OK;
    const bool wanted[2] = {words->denoise, words->noise};
    const bool has_controls = words->controls.self || words->controls.shuffled;
    const lp_sweep_group *group = NULL;
    if (words->n_groups == 0) LP_FAIL(LP_ERR_VALUE, "sweep.conditions: expected at least one condition, found none");
    if (!words->denoise && !words->noise) LP_FAIL(LP_ERR_VALUE, "sweep.directions: no direction");
    for (int d = 0; d < 2; d++)
        if (wanted[d]) LP_TRY(add_unpatched(&building.set, (lp_direction)d, n_steps, err));
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; wanted[d] && i < words->n_groups; i++) {
            LP_TRY(words->group(words->user, i, &group, err));
            if (d == 0 || !wanted[0]) LP_TRY(check_group(group, i, config, n_steps, err));
            LP_TRY(add_effects(&building, group, i, (lp_direction)d, n_steps, err));
        }
    for (int d = 0; d < 2; d++)
        for (size_t i = 0; wanted[d] && has_controls && i < words->n_groups; i++) {
            LP_TRY(words->group(words->user, i, &group, err));
            LP_TRY(add_controls(&building, group, &words->controls, (lp_direction)d, n_steps, err));
        }
    *out = building.set;
    building.set = (lp_condition_set){0};
out:
    lp_mem_free(building.names.slots);
    lp_condition_set_release(&building.set);
    return status;
}
