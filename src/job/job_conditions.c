/* The groups of sweep.conditions: JSON words to lp_sweep_group. */
#include "base/json.h"
#include "base/memory.h"
#include "job/job.h"

/* What a group's lists may hold together: each entry takes up to a kilobyte, for a byte or two of the job's text. */
enum { MAX_ENTRIES = 5000, MAX_EDGES = 64 };

typedef struct {
    lp_sweep_group *group;
    const lp_model_config *config;
    int32_t n_steps;
    size_t capacity, detail_capacity;
} condition_reading;

static size_t count_entries(const lp_sweep_group *group) {
    size_t n = group->n_sites + group->n_layers + group->n_steps + group->n_indices + group->n_heads + group->n_donors +
               group->n_factors;
    for (size_t i = 0; i < group->n_edges; i++) {
        const lp_edge_words *edge = &group->edges[i];
        n += edge->n_from + edge->n_to + edge->n_layers + edge->n_heads;
    }
    return n;
}

/* Calls `each` for every element of an array, or for the value itself where it is not an array. */
typedef lp_status (*element_reader)(const lp_json *value, void *user, lp_error *err);

static lp_status for_each(const lp_json *object, const char *key, element_reader each, const lp_sweep_group *group,
                          void *user, bool *present, lp_error *err) {
    lp_json value, element;
    lp_status status = lp_json_find(object, key, &value, err);
    if (status != LP_OK) return status;
    if (present) *present = value.node != NULL;
    if (!value.node) return LP_OK;
    if (!lp_json_is_array(&value)) return each(&value, user, err);
    size_t n = 0;
    status = lp_json_array_size(&value, &n, err);
    if (status == LP_OK && n == 0 && strcmp(key, "defects") != 0)
        return lp_json_fail(&value, err, "at least one element");
    for (lp_json_first(&value, &element); element.node && status == LP_OK; lp_json_next(&value, &element)) {
        status = each(&element, user, err);
        if (status == LP_OK && count_entries(group) > MAX_ENTRIES)
            return lp_fail(err, LP_ERR_VALUE,
                           "%s: %s: expected at most %d entries in the lists of one group, found more; split the group",
                           element.file, element.path, MAX_ENTRIES);
    }
    return status;
}

#define APPEND(array, count, value, what)                                                                              \
    do {                                                                                                               \
        lp_status grown = lp_mem_grow(&(array), &reading->capacity, (count) + 1, sizeof *(array), what, err);          \
        if (grown != LP_OK) return grown;                                                                              \
        (array)[(count)++] = (value);                                                                                  \
    } while (0)

/* The sites of a text such as "k+v". */
static lp_status read_site_words(const lp_json *value, const char *text, uint32_t *out, lp_error *err) {
    uint32_t sites = 0;
    for (const char *word = text; word; word = strchr(word, '+') ? strchr(word, '+') + 1 : NULL) {
        size_t length = strcspn(word, "+");
        int site = 0;
        while (site < LP_N_SITES &&
               (strlen(lp_site_names()[site]) != length || strncmp(lp_site_names()[site], word, length) != 0))
            site++;
        if (site == LP_N_SITES || sites >> site & 1 || !lp_site_has_layer((lp_site)site))
            return lp_json_fail(value, err, "different sites with layers and + between them, such as \"k+v\"");
        sites |= 1u << site;
    }
    *out = sites;
    return LP_OK;
}

static lp_status read_site(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    lp_sweep_group *group = reading->group;
    uint32_t sites = 0;
    int choice = 0;
    lp_status status = LP_OK;
    if (lp_json_is_string(value) && strchr(value->node->valuestring, '+')) {
        status = read_site_words(value, value->node->valuestring, &sites, err);
        choice = sites ? __builtin_ctz(sites) : 0;
    } else {
        status = lp_json_choice(value, lp_site_names(), &choice, err);
    }
    if (status == LP_OK)
        status = lp_mem_grow(&group->beside, &reading->detail_capacity, group->n_sites + 1, sizeof *group->beside,
                             "sites", err);
    if (status != LP_OK) return status;
    group->beside[group->n_sites] = sites & ~(1u << choice);
    APPEND(group->sites, group->n_sites, (lp_site)choice, "sites");
    return LP_OK;
}

static lp_status append_donor(condition_reading *reading, lp_donor donor, const lp_donor_detail *detail,
                              lp_error *err) {
    size_t n = reading->group->n_donors;
    LP_CHECK(lp_mem_grow(&reading->group->details, &reading->detail_capacity, n + 1, sizeof *reading->group->details,
                         "donors", err));
    reading->group->details[n] = *detail;
    APPEND(reading->group->donors, reading->group->n_donors, donor, "donors");
    return LP_OK;
}

/* "answer", or "result:0" and "equation:-1" with a step of the pairs' graph. */
static lp_status read_label(const lp_json *value, lp_donor_detail *out, lp_error *err) {
    static const char *const plain[] = {"answer", "source", "template", "steps", "change", NULL};
    const char *text = lp_json_is_string(value) ? value->node->valuestring : "";
    size_t length = strcspn(text, ":");
    int choice = 0;
    if (text[length] != ':') {
        lp_status status = lp_json_choice(value, plain, &choice, err);
        out->label = (lp_label)(choice + 1);
        return status;
    }
    char *end = NULL;
    long step = strtol(text + length + 1, &end, 10);
    bool is_number =
        strchr("-0123456789", text[length + 1]) && text[length + 1] && end != text + length + 1 && *end == '\0';
    out->label = strncmp(text, "result", length) == 0 && length == 6     ? LP_LABEL_RESULT
                 : strncmp(text, "equation", length) == 0 && length == 8 ? LP_LABEL_EQUATION
                                                                         : LP_LABEL_NONE;
    out->label_step = (int32_t)step;
    if (out->label == LP_LABEL_NONE || !is_number || step < -1000 || step > 1000)
        return lp_json_fail(value, err, "\"result:I\" or \"equation:I\" with a step from -1000 to 1000");
    return LP_OK;
}

/* The part of a donor's object that says what a mean is taken over. */
static lp_status read_mean(const lp_json *object, lp_donor_detail *out, lp_error *err) {
    static const char *const over[] = {"each", "all", NULL}, *const values[] = {"same", "different", NULL};
    lp_json value, by;
    int choice = 0;
    LP_CHECK(lp_json_opt_choice(object, "steps", over, &choice, err));
    out->all_steps = choice == 1;
    LP_CHECK(lp_json_find(object, "by", &by, err));
    if (by.node) LP_CHECK(read_label(&by, out, err));
    choice = 0;
    LP_CHECK(lp_json_find(object, "value", &value, err));
    if (value.node && !by.node) return lp_json_fail(&value, err, "the key \"by\" beside it");
    if (value.node) LP_CHECK(lp_json_choice(&value, values, &choice, err));
    out->is_different = choice == 1;
    LP_CHECK(lp_json_find(object, "least", &value, err));
    if (value.node && !by.node) return lp_json_fail(&value, err, "the key \"by\" beside it");
    return lp_json_opt_int32(object, "least", 1, 1000000, &out->least, err);
}

/* One donor for each sigma. */
static lp_status read_noise(const lp_json *object, condition_reading *reading, lp_error *err) {
    static const char *const units[] = {"deviation", "rms", NULL};
    lp_donor_detail detail = {0};
    lp_json sigma, entry;
    size_t n = 0;
    double number = 0;
    int choice = 0;
    LP_CHECK(read_mean(object, &detail, err));
    LP_JSON_OPT_ENUM(object, "around", lp_noise_centre_names(), detail.around);
    if (detail.around != LP_AROUND_MEAN && (detail.all_steps || detail.label != LP_LABEL_NONE))
        return lp_json_fail(object, err, "\"around\": \"mean\" beside the keys \"steps\" and \"by\"");
    LP_CHECK(lp_json_opt_choice(object, "in", units, &choice, err));
    detail.in_rms = choice == 1;
    LP_CHECK(lp_json_get(object, "sigma", &sigma, err));
    if (lp_json_is_array(&sigma)) {
        LP_CHECK(lp_json_array_size(&sigma, &n, err));
        if (n == 0) return lp_json_fail(&sigma, err, "at least one number");
        lp_json_first(&sigma, &entry);
    } else {
        entry = sigma;
    }
    while (entry.node) {
        LP_CHECK(lp_json_number(&entry, 0, 1e6, &number, err));
        detail.sigma = (float)number;
        LP_CHECK(append_donor(reading, LP_DONOR_NOISE, &detail, err));
        if (reading->group->n_donors > MAX_ENTRIES) return lp_json_fail(&entry, err, "at most %d sizes", MAX_ENTRIES);
        if (n == 0) break;
        lp_json_next(&sigma, &entry);
    }
    return LP_OK;
}

/* {"nearest_token": {...}} of a donor or of a subspace; `keys`: those that it may have. */
static lp_status read_nearest(const lp_json *value, const char *const *keys, lp_token_rule *out, lp_error *err) {
    static const char *const measures[] = {"dot", "cosine", NULL}, *const along_keys[] = {"token", "factor", NULL};
    lp_json member, part;
    const char *text = NULL;
    double factor = 0;
    lp_token_rule rule = {.chooses = true, .top = 1};
    LP_CHECK(lp_json_only(value, keys, err));
    LP_JSON_OPT_ENUM(value, "by", measures, rule.by);
    LP_CHECK(lp_json_opt_int32(value, "top", 1, LP_MAX_NEAREST, &rule.top, err));
    LP_CHECK(lp_json_opt_int32(value, "shift", -1000000, 1000000, &rule.shift, err));
    LP_CHECK(lp_json_opt_bool(value, "layer_norm", &rule.layer_norm, err));
    LP_CHECK(lp_json_opt_bool(value, "keep_norm", &rule.keep_norm, err));
    LP_CHECK(lp_json_find(value, "add_along", &member, err));
    if (member.node) {
        LP_CHECK(lp_json_only(&member, along_keys, err));
        LP_CHECK(lp_json_get(&member, "token", &part, err));
        LP_CHECK(lp_json_string(&part, &text, err));
        if (*text == '\0' || strlen(text) >= sizeof rule.along)
            return lp_json_fail(&part, err, "a text of 1 to %zu bytes", sizeof rule.along - 1);
        snprintf(rule.along, sizeof rule.along, "%s", text);
        LP_CHECK(lp_json_get_number(&member, "factor", -1e6, 1e6, &factor, err));
        rule.times = (float)factor;
    }
    *out = rule;
    return LP_OK;
}

static lp_status read_donor_object(const lp_json *value, condition_reading *reading, lp_error *err) {
    static const char *const kinds[] = {"mean", "noise", "nearest_token", NULL};
    static const char *const nearest_keys[] = {"by", "shift", "layer_norm", "keep_norm", NULL};
    static const char *const mean_keys[] = {"by", "value", "least", "steps", NULL};
    static const char *const noise_keys[] = {"sigma", "around", "in", "by", "value", "least", "steps", NULL};
    lp_donor_detail detail = {0};
    lp_json mean, noise, nearest;
    LP_CHECK(lp_json_only(value, kinds, err));
    LP_CHECK(lp_json_find(value, "nearest_token", &nearest, err));
    LP_CHECK(lp_json_find(value, "mean", &mean, err));
    LP_CHECK(lp_json_find(value, "noise", &noise, err));
    if ((mean.node != NULL) + (noise.node != NULL) + (nearest.node != NULL) != 1)
        return lp_json_fail(value, err, "one of the keys \"mean\", \"noise\" and \"nearest_token\"");
    if (nearest.node) {
        LP_CHECK(read_nearest(&nearest, nearest_keys, &detail.token, err));
        return append_donor(reading, LP_DONOR_TOKEN, &detail, err);
    }
    LP_CHECK(lp_json_only(mean.node ? &mean : &noise, mean.node ? mean_keys : noise_keys, err));
    if (noise.node) return read_noise(&noise, reading, err);
    LP_CHECK(read_mean(&mean, &detail, err));
    return append_donor(reading, LP_DONOR_MEAN, &detail, err);
}

static lp_status read_donor(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    lp_donor_detail plain = {0};
    int choice = 0;
    if (lp_json_is_object(value)) return read_donor_object(value, reading, err);
    lp_status status = lp_json_choice(value, lp_donor_names(), &choice, err);
    if (status == LP_OK && choice == LP_DONOR_NOISE)
        status = lp_json_fail(value, err, "an object with its size, such as {\"noise\": {\"sigma\": 1}}");
    if (status == LP_OK && choice == LP_DONOR_TOKEN) plain.token = (lp_token_rule){.chooses = true, .top = 1};
    if (status != LP_OK) return status;
    return append_donor(reading, (lp_donor)choice, &plain, err);
}

static void place_of(const lp_json *value, char *out, size_t size) {
    snprintf(out, size, "%s: %s", value->file, value->path);
}

static lp_status read_steps(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    const char *text = NULL;
    char where[1024];
    place_of(value, where, sizeof where);
    LP_CHECK(lp_json_string(value, &text, err));
    return lp_step_sets_parse(text, reading->n_steps, where, &reading->group->steps, &reading->group->n_steps,
                              &reading->capacity, err);
}

static lp_status read_layers(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    char where[1024], number[32];
    const char *text = number;
    int64_t layer = 0;
    lp_status status = LP_OK;
    place_of(value, where, sizeof where);
    if (lp_json_is_number(value)) {
        status = lp_json_int(value, 0, reading->config->n_layers - 1, &layer, err);
        snprintf(number, sizeof number, "%lld", (long long)layer);
    } else {
        status = lp_json_string(value, &text, err);
    }
    if (status != LP_OK) return status;
    return lp_layer_sets_parse(text, reading->config->n_layers, where, &reading->group->layers,
                               &reading->group->n_layers, &reading->capacity, err);
}

static lp_status read_index(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    int64_t index = LP_INDEX_ALL;
    bool all = lp_json_is_string(value) && strcmp(value->node->valuestring, "all") == 0;
    if (!all) LP_CHECK(lp_json_int(value, reading->group->phase == LP_PHASE_PROMPT ? -65536 : 0, 65536, &index, err));
    APPEND(reading->group->indices, reading->group->n_indices, (int32_t)index, "indices");
    return LP_OK;
}

static lp_status read_head(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    int64_t head = 0;
    int32_t n_heads = 0; /* of the site with the fewest */
    for (size_t i = 0; i < reading->group->n_sites * LP_N_SITES; i++) {
        size_t at = i / LP_N_SITES, site = i % LP_N_SITES;
        int32_t of_site = lp_site_n_heads(reading->config, (lp_site)site);
        bool named = reading->group->sites[at] == site || reading->group->beside[at] >> site & 1;
        if (named && of_site > 0 && (n_heads == 0 || of_site < n_heads)) n_heads = of_site;
    }
    LP_CHECK(lp_json_int(value, 0, (n_heads > 0 ? n_heads : reading->config->n_kv_heads) - 1, &head, err));
    APPEND(reading->group->heads, reading->group->n_heads, (int32_t)head, "heads");
    return LP_OK;
}

static lp_status read_factor(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    double factor = 0;
    LP_CHECK(lp_json_number(value, -1e6, 1e6, &factor, err));
    APPEND(reading->group->factors, reading->group->n_factors, (float)factor, "factors");
    return LP_OK;
}

static lp_status read_from_layer(const lp_json *value, void *user, lp_error *err) {
    condition_reading *reading = user;
    int64_t layer = 0;
    LP_CHECK(lp_json_int(value, 0, reading->config->n_layers - 1, &layer, err));
    reading->group->from_layers[reading->capacity++] = (int32_t)layer;
    return LP_OK;
}

/* A thought step from `least` to `most`. A protocol without thoughts has none, which a range from 1 to 0 does not say.
 */
static lp_status read_step(const lp_json *object, const char *key, int32_t least, int32_t most,
                           const condition_reading *reading, int32_t *out, lp_error *err) {
    lp_json value;
    LP_CHECK(lp_json_find(object, key, &value, err));
    if (value.node && reading->n_steps == 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected a protocol with thought steps, found protocol.steps 0",
                       value.file, value.path);
    return lp_json_opt_int32(object, key, least, most, out, err);
}

static lp_status read_from(const lp_json *group, condition_reading *reading, lp_error *err) {
    static const char *const keys[] = {"site", "layers", "step", NULL};
    lp_json from, value;
    lp_sweep_group *sweep_group = reading->group;
    sweep_group->from_step = -1;
    LP_CHECK(lp_json_find(group, "from", &from, err));
    if (!from.node) return LP_OK;
    LP_CHECK(lp_json_only(&from, keys, err));
    LP_CHECK(lp_json_find(&from, "site", &value, err));
    sweep_group->from_other_site = value.node != NULL;
    LP_JSON_OPT_ENUM(&from, "site", lp_site_names(), sweep_group->from_site);
    LP_CHECK(read_step(&from, "step", 0, reading->n_steps - 1, reading, &sweep_group->from_step, err));
    LP_CHECK(lp_json_find(&from, "layers", &value, err));
    if (value.node) {
        LP_CHECK(lp_mem_new(&sweep_group->from_layers, sweep_group->n_layers, sizeof *sweep_group->from_layers,
                            "donor layers", err));
        reading->capacity = 0;
        size_t n = 1;
        if (lp_json_is_array(&value)) LP_CHECK(lp_json_array_size(&value, &n, err));
        if (n != sweep_group->n_layers)
            return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected as many layers as the targets have (%zu), found %zu",
                           value.file, value.path, sweep_group->n_layers, n);
        LP_CHECK(for_each(&from, "layers", read_from_layer, sweep_group, reading, NULL, err));
    }
    return LP_OK;
}

/* ---- Attention edges --------------------------------------------------------------------------------------------- */

typedef struct {
    lp_edge_words *edge;
    lp_position_set **sets; /* where positions go */
    size_t *n_sets;
    lp_phase phase;
    const condition_reading *group;
    size_t capacity;
} edge_reading;

static lp_status read_position_steps(const lp_json *value, void *user, lp_error *err) {
    edge_reading *edge = user;
    const char *text = NULL;
    char where[1024];
    lp_step_set *steps = NULL;
    size_t n = 0, capacity = 0;
    place_of(value, where, sizeof where);
    lp_status status = LP_OK;
    LP_TRY(lp_json_string(value, &text, err));
    LP_TRY(lp_step_sets_parse(text, edge->group->n_steps, where, &steps, &n, &capacity, err));
    LP_TRY(lp_mem_grow(edge->sets, &edge->capacity, *edge->n_sets + n, sizeof **edge->sets, "position sets", err));
    for (size_t i = 0; i < n; i++) {
        lp_position_set *set = &(*edge->sets)[(*edge->n_sets)++];
        *set = (lp_position_set){.phase = LP_PHASE_THOUGHT, .mask = steps[i].mask};
        snprintf(set->words, sizeof set->words, "%s%.240s", strcmp(steps[i].words, "all") == 0 ? "thought:" : "",
                 steps[i].words);
    }
out:
    lp_mem_free(steps);
    return status;
}

static lp_status read_position_index(const lp_json *value, void *user, lp_error *err) {
    edge_reading *edge = user;
    const char *text = NULL;
    char where[1024], number[32];
    int64_t index = 0;
    lp_status status = LP_OK;
    place_of(value, where, sizeof where);
    if (lp_json_is_string(value)) {
        status = lp_json_string(value, &text, err);
    } else {
        status = lp_json_int(value, edge->phase == LP_PHASE_PROMPT ? -65536 : 0, 65536, &index, err);
        snprintf(number, sizeof number, "%lld", (long long)index);
        text = number;
    }
    if (status != LP_OK) return status;
    return lp_position_sets_parse(text, edge->phase, where, edge->sets, edge->n_sets, &edge->capacity, err);
}

/* {"phase": ..., "steps": ...} or {"phase": ..., "index": ...}; without either, the whole phase. */
static lp_status read_positions(const lp_json *edge, const char *key, const condition_reading *group,
                                lp_position_set **sets, size_t *n_sets, lp_error *err) {
    static const char *const keys[] = {"phase", "steps", "index", NULL};
    edge_reading r = {.sets = sets, .n_sets = n_sets, .group = group, .phase = LP_PHASE_THOUGHT};
    lp_json place, value;
    bool present = false;
    LP_CHECK(lp_json_get(edge, key, &place, err));
    LP_CHECK(lp_json_only(&place, keys, err));
    LP_JSON_OPT_ENUM(&place, "phase", lp_phase_names(), r.phase);
    bool thought = r.phase == LP_PHASE_THOUGHT;
    LP_CHECK(lp_json_find(&place, thought ? "index" : "steps", &value, err));
    if (value.node)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: %s", value.file, value.path,
                       thought ? "only for the phases prompt and answer" : "only for phase thought");
    if (thought && group->n_steps == 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected a phase of the run, found thought, and protocol.steps is 0",
                       place.file, place.path);
    LP_CHECK(for_each(&place, thought ? "steps" : "index", thought ? read_position_steps : read_position_index,
                      group->group, &r, &present, err));
    if (present) return LP_OK;
    LP_CHECK(lp_mem_grow(sets, &r.capacity, 1, sizeof **sets, "position sets", err));
    (*sets)[(*n_sets)++] = (lp_position_set){.phase = r.phase,
                                             .all = !thought,
                                             .mask = !thought               ? 0
                                                     : group->n_steps >= 64 ? UINT64_MAX
                                                                            : (UINT64_C(1) << group->n_steps) - 1};
    snprintf((*sets)[0].words, sizeof(*sets)[0].words, "%s:all", lp_phase_names()[r.phase]);
    return LP_OK;
}

static lp_status read_edge_layers(const lp_json *value, void *user, lp_error *err) {
    edge_reading *edge = user;
    condition_reading like = *edge->group;
    lp_sweep_group layers = {.layers = edge->edge->layers, .n_layers = edge->edge->n_layers};
    like.group = &layers;
    like.capacity = edge->capacity;
    lp_status status = read_layers(value, &like, err);
    edge->edge->layers = layers.layers;
    edge->edge->n_layers = layers.n_layers;
    edge->capacity = like.capacity;
    return status;
}

static lp_status read_edge_heads(const lp_json *value, void *user, lp_error *err) {
    edge_reading *edge = user;
    const lp_model_config *config = edge->group->config;
    int32_t n_heads = edge->edge->by_kv_head ? config->n_kv_heads : config->n_heads;
    char where[1024], number[32];
    const char *text = number;
    int64_t head = 0;
    place_of(value, where, sizeof where);
    if (lp_json_is_number(value)) {
        LP_CHECK(lp_json_int(value, 0, n_heads - 1, &head, err));
        snprintf(number, sizeof number, "%lld", (long long)head);
    } else {
        LP_CHECK(lp_json_string(value, &text, err));
    }
    return lp_head_sets_parse(text, n_heads, where, &edge->edge->heads, &edge->edge->n_heads, &edge->capacity, err);
}

static lp_status read_edge(const lp_json *value, void *user, lp_error *err) {
    static const char *const keys[] = {"from", "to", "layers", "heads", "kv_heads", "comment", NULL};
    condition_reading *reading = user;
    lp_json other;
    bool by_query = false;
    LP_CHECK(lp_json_only(value, keys, err));
    if (reading->group->n_edges == MAX_EDGES)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected at most %d entries of forbid in one group, found more",
                       value->file, value->path, MAX_EDGES);
    LP_CHECK(lp_mem_grow(&reading->group->edges, &reading->capacity, reading->group->n_edges + 1,
                         sizeof *reading->group->edges, "attention edges", err));
    lp_edge_words *edge = &reading->group->edges[reading->group->n_edges++];
    *edge = (lp_edge_words){.n_from = 0};
    edge_reading e = {.edge = edge, .group = reading};
    LP_CHECK(read_positions(value, "from", reading, &edge->from, &edge->n_from, err));
    LP_CHECK(read_positions(value, "to", reading, &edge->to, &edge->n_to, err));
    LP_CHECK(for_each(value, "layers", read_edge_layers, reading->group, &e, NULL, err));
    e.capacity = 0;
    LP_CHECK(for_each(value, "heads", read_edge_heads, reading->group, &e, &by_query, err));
    LP_CHECK(lp_json_find(value, "kv_heads", &other, err));
    if (by_query && other.node)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected heads or kv_heads, found both", other.file, other.path);
    edge->by_kv_head = !by_query && other.node != NULL;
    return for_each(value, "kv_heads", read_edge_heads, reading->group, &e, NULL, err);
}

static lp_status read_defect(const lp_json *value, void *user, lp_error *err) {
    static const char *const names[] = {"off_by_one", "prefill_leak", "decode_leak", NULL};
    condition_reading *reading = user;
    int choice = 0;
    LP_CHECK(lp_json_choice(value, names, &choice, err));
    reading->group->defects.off_by_one |= choice == 0;
    reading->group->defects.prefill_leak |= choice == 1;
    reading->group->defects.decode_leak |= choice == 2;
    return LP_OK;
}

/* Keys that would be passed over without a word. */
static lp_status refuse_unused(const lp_json *entry, const lp_sweep_group *group, lp_error *err) {
    static const char *const names[] = {"steps", "index", "factor", "vector"};
    bool thought = group->phase == LP_PHASE_THOUGHT, file = false;
    for (size_t i = 0; i < group->n_donors; i++) file |= group->donors[i] == LP_DONOR_FILE;
    const bool unused[] = {!thought, thought, !lp_operation_has_factor(group->operation), !file};
    static const char *const reasons[] = {"only for phase thought", "only for the phases prompt and answer",
                                          "only for the operations add, scale and lerp", "only for donor file"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        lp_json value;
        LP_CHECK(lp_json_find(entry, names[i], &value, err));
        if (unused[i] && value.node)
            return lp_fail(err, LP_ERR_VALUE, "%s: %s: %s", value.file, value.path, reasons[i]);
    }
    return LP_OK;
}

/* Keys that say how a site is changed, where none is. */
static lp_status refuse_without_site(const lp_json *entry, lp_error *err) {
    static const char *const names[] = {"phase", "steps",   "index",  "heads",    "donor", "operation",  "factor",
                                        "from",  "defects", "vector", "subspace", "only",  "last_prompt"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        lp_json value;
        LP_CHECK(lp_json_find(entry, names[i], &value, err));
        if (value.node) return lp_fail(err, LP_ERR_VALUE, "%s: %s: only together with a site", value.file, value.path);
    }
    return LP_OK;
}

/* What the operations within a subspace need, and the others have not. */
static lp_status read_subspace(const lp_job *job, const lp_json *entry, condition_reading *reading, lp_error *err) {
    lp_sweep_group *group = reading->group;
    lp_json value, donor, nearest;
    int64_t index = 0;
    bool has_subspace = lp_operation_has_subspace(group->operation);
    LP_CHECK(lp_json_find(entry, "subspace", &value, err));
    if (value.node && !has_subspace)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: only for the operations remove, keep and swap", value.file,
                       value.path);
    if (!has_subspace) return LP_OK;
    LP_CHECK(lp_json_get(entry, "subspace", &value, err));
    if (lp_json_is_object(&value)) {
        static const char *const kinds[] = {"nearest_token", NULL};
        static const char *const remove_keys[] = {"by", "top", "add_along", NULL};
        static const char *const keep_keys[] = {"by", "top", "keep_norm", NULL};
        if (group->operation == LP_OP_SWAP)
            return lp_json_fail(&value, err, "an index into sweep.vectors with the operation swap");
        LP_CHECK(lp_json_only(&value, kinds, err));
        LP_CHECK(lp_json_get(&value, "nearest_token", &nearest, err));
        LP_CHECK(read_nearest(&nearest, group->operation == LP_OP_KEEP ? keep_keys : remove_keys, &group->token, err));
    } else {
        if (job->sweep.n_vectors == 0)
            return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected files in $.sweep.vectors, found none", value.file,
                           value.path);
        LP_CHECK(lp_json_int(&value, 0, (int64_t)job->sweep.n_vectors - 1, &index, err));
        group->subspace = (int32_t)index + 1;
    }
    if (lp_operation_takes_vector(group->operation)) return LP_OK;
    LP_CHECK(lp_json_find(entry, "donor", &donor, err));
    if (donor.node)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: the operations remove and keep take none", donor.file, donor.path);
    group->donors[0] = LP_DONOR_ZERO;
    group->n_donors = 1;
    group->other_run = false;
    return LP_OK;
}

static lp_status read_group(const lp_job *job, const lp_json *entry, condition_reading *reading, lp_error *err) {
    static const char *const keys[] = {
        "phase",   "site",       "layers", "steps",  "index",    "heads",   "donor", "operation",   "factor", "from",
        "defects", "stop_after", "vector", "forbid", "subspace", "comment", "only",  "last_prompt", NULL};
    static const char *const only[] = {"all", "numbers", NULL};
    static const char *const operations[] = {"replace", "add", "scale", "lerp", "remove", "keep", "swap", NULL};
    static const lp_operation operation_of[] = {LP_OP_REPLACE, LP_OP_ADD,  LP_OP_SCALE, LP_OP_LERP,
                                                LP_OP_REMOVE,  LP_OP_KEEP, LP_OP_SWAP};
    lp_sweep_group *group = reading->group;
    lp_json value;
    int choice = 0;
    bool present = false, edges = false;
    LP_CHECK(lp_json_only(entry, keys, err));
    group->phase = LP_PHASE_THOUGHT;
    LP_JSON_OPT_ENUM(entry, "phase", lp_phase_names(), group->phase);
    LP_CHECK(for_each(entry, "forbid", read_edge, group, reading, &edges, err));
    reading->capacity = reading->detail_capacity = 0;
    LP_CHECK(for_each(entry, "site", read_site, group, reading, &present, err));
    reading->capacity = reading->detail_capacity = 0;
    if (!present && edges) LP_CHECK(refuse_without_site(entry, err));
    if (!present && !edges) LP_CHECK(lp_json_get(entry, "site", &value, err));
    LP_CHECK(for_each(entry, "layers", read_layers, group, reading, NULL, err));
    reading->capacity = 0;
    LP_CHECK(for_each(entry, "steps", read_steps, group, reading, NULL, err));
    reading->capacity = 0;
    LP_CHECK(for_each(entry, "index", read_index, group, reading, NULL, err));
    reading->capacity = 0;
    LP_CHECK(for_each(entry, "heads", read_head, group, reading, &present, err));
    if (!present) APPEND(group->heads, group->n_heads, LP_ALL_HEADS, "heads");
    reading->capacity = 0;
    LP_CHECK(for_each(entry, "donor", read_donor, group, reading, &present, err));
    if (!present) {
        reading->capacity = 0;
        lp_donor_detail plain = {0};
        LP_CHECK(append_donor(reading, LP_DONOR_CLEAN, &plain, err));
        LP_CHECK(append_donor(reading, LP_DONOR_CORRUPTED, &plain, err));
        group->other_run = true;
    }
    reading->capacity = 0;
    LP_CHECK(for_each(entry, "factor", read_factor, group, reading, &present, err));
    if (!present) APPEND(group->factors, group->n_factors, 1.0f, "factors");
    choice = LP_OP_REPLACE;
    LP_CHECK(lp_json_opt_choice(entry, "operation", operations, &choice, err));
    group->operation = operation_of[choice];
    LP_CHECK(read_subspace(job, entry, reading, err));
    choice = 0;
    LP_CHECK(lp_json_opt_choice(entry, "only", only, &choice, err));
    group->token.only_numbers = choice == 1;
    LP_CHECK(lp_json_opt_bool(entry, "last_prompt", &group->defects.last_prompt, err));
    LP_CHECK(read_from(entry, reading, err));
    LP_CHECK(for_each(entry, "defects", read_defect, group, reading, NULL, err));
    LP_CHECK(read_step(entry, "stop_after", 1, reading->n_steps, reading, &group->stop_after, err));
    LP_CHECK(lp_json_find(entry, "vector", &value, err));
    if (value.node && job->sweep.n_vectors == 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected files in $.sweep.vectors, found none", value.file,
                       value.path);
    LP_CHECK(lp_json_opt_int32(entry, "vector", 0, (int64_t)job->sweep.n_vectors - 1, &group->vector, err));
    for (size_t i = 0; i < group->n_donors; i++)
        if (group->donors[i] == LP_DONOR_FILE && !value.node)
            return lp_fail(err, LP_ERR_VALUE,
                           "%s: %s: donor \"file\" needs the key \"vector\" (an index into sweep.vectors)", entry->file,
                           entry->path);
    return refuse_unused(entry, group, err);
}

/* Walks the text of the groups: each becomes a tree of its own, which is gone when the next one is read. */
typedef struct {
    const lp_job *job;
    const lp_model_config *config;
    const char *at, *end; /* what is left of the text */
    cJSON *document;      /* of the last group read */
    lp_sweep_group group;
    size_t n_read;
    bool failed;
} group_walk;

static void forget_group(group_walk *walk) {
    cJSON_Delete(walk->document);
    walk->document = NULL;
    lp_sweep_group_release(&walk->group);
}

static lp_status next_group(void *user, size_t i, const lp_sweep_group **out, lp_error *err) {
    group_walk *walk = user;
    lp_status status = LP_OK;
    *out = &walk->group;
    if (walk->n_read == i + 1) return LP_OK;
    if (i == 0) {
        walk->at = walk->job->sweep.groups;
        walk->n_read = 0;
    }
    LP_ASSERT(walk->n_read == i);
    forget_group(walk);
    walk->document = cJSON_ParseWithLengthOpts(walk->at + 1, (size_t)(walk->end - walk->at - 1), &walk->at, 0);
    lp_json entry = {.node = walk->document, .file = walk->job->file};
    snprintf(entry.path, sizeof entry.path, "$.sweep.conditions[%zu]", i);
    /* It was printed from a tree: only memory can fail. */
    if (!walk->document) LP_FAIL(LP_ERR_MEMORY, "%s: %s: out of memory", entry.file, entry.path);
    condition_reading reading = {.group = &walk->group, .config = walk->config, .n_steps = walk->job->protocol.n_steps};
    LP_TRY(read_group(walk->job, &entry, &reading, err));
    walk->n_read = i + 1;
out:
    walk->failed = status != LP_OK;
    return status;
}

lp_status lp_job_conditions(const lp_job *job, const lp_model_config *config, lp_condition_set *out, lp_error *err) {
    if (!job->sweep.present) return lp_fail(err, LP_ERR_VALUE, "%s: $: the key \"sweep\" is missing", job->file);
    group_walk walk = {.job = job, .config = config, .end = job->sweep.groups + strlen(job->sweep.groups)};
    lp_sweep_words words = {.group = next_group,
                            .user = &walk,
                            .n_groups = job->sweep.n_groups,
                            .denoise = job->sweep.denoise,
                            .noise = job->sweep.noise,
                            .controls = job->sweep.controls,
                            .n_draws = job->sweep.n_draws};
    lp_error found = {0};
    lp_status status = lp_conditions_expand(&words, config, job->protocol.n_steps, out, &found);
    if (status != LP_OK && walk.failed) status = lp_fail(err, status, "%s", found.text);
    if (status != LP_OK && !walk.failed) status = lp_fail(err, status, "%s: $.%s", job->file, found.text);
    forget_group(&walk);
    return status;
}
