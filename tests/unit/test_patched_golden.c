/* Parity of patched runs with transformers + peft (tests/golden/README.md): every site, phase, operation and donor,
 * both directions, several layers at once, and the published scripts' leaks; answers, and the continuous metrics with
 * the place where they are read. Each executor runs all of it: to add one, add a line to `executors`.
 *
 * The bound of a metric follows the conditioning of its row: how far the golden software's own float32 run is from its
 * float64 run (float32_error, of 1 + the size of a metric), there or in the unpatched run of that side, whichever is
 * more. Most rows are known to 3e-6; random weights amplify rounding in a few to 1e-4. A wrong rule of patching changes
 * logits by 1e-2 and more, or tokens. */
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "patch/metric_position.h"
#include "stage/token_edits.h"
#include "support/golden.h"
#include "support/units.h"

#include <math.h>

typedef lp_status (*execute_function)(const lp_executor_options *options, const lp_work_source *source, lp_error *err);

static lp_status execute_batched(const lp_executor_options *options, const lp_work_source *source, lp_error *err) {
    return execute_on_cpu(options, source, 0, err);
}

static const struct {
    const char *name;
    execute_function execute;
} executors[] = {{"reference", lp_execute_reference}, {"batched", execute_batched}};
enum { N_EXECUTORS = sizeof executors / sizeof executors[0] };

enum { CLEAN, CORRUPTED, N_SIDES };
static const char *const side_names[N_SIDES] = {"clean", "corrupted"};

enum { MAX_PAIRS = 8, MAX_IDS = 128, MAX_SUBSPACES = 64 };
#ifdef __SANITIZE_ADDRESS__
enum { EVERY = 10 }; /* rows: the sanitizers want every path, and take their time */
#else
enum { EVERY = 1 };
#endif

typedef struct {
    int32_t ids[MAX_IDS];
    size_t n;
} id_list;

/* A vector of one side's unpatched run. */
typedef struct {
    int side;
    lp_address from; /* index resolved */
    float *vector;
} donor_vector;

/* One question of a pair: what the file says and what our unpatched run gave. */
typedef struct {
    lp_json json;
    double answer;
    lp_token_list prompt;
    int32_t *tokens;
    lp_pair_metrics metrics;
    lp_run_wanted unpatched;
    lp_run_result result;
} side_run;

/* A patched run that the file's row is compared with. */
typedef struct {
    lp_json row;
    size_t condition;
    lp_edit_sequence edits;
    const float **vectors;
} patched_run;

typedef struct {
    side_run sides[N_SIDES];
    donor_vector *donors;
    size_t n_donors, donor_capacity;
    patched_run *rows[N_SIDES]; /* by recipient */
    lp_run_wanted *runs[N_SIDES];
    lp_run_result *results[N_SIDES];
    size_t n_rows[N_SIDES], row_capacity[N_SIDES];
    lp_run_group groups[N_SIDES];
    lp_work_unit unit;
} pair_work;

typedef struct {
    golden_model model;
    const golden_file *file;
    cJSON *document;
    lp_executor_options options;
    lp_condition_set set;
    float **explicit_vectors;
    lp_subspace subspaces[MAX_SUBSPACES];
    size_t n_subspaces;
    lp_token_edits tokens;
    size_t n_explicit, explicit_capacity;
    pair_work pairs[MAX_PAIRS];
    size_t n_pairs;
} fixture;

/* ---- Reading the file -------------------------------------------------------------------------------------------- */

static int64_t whole(const lp_json *object, const char *key, int64_t min, int64_t max) {
    lp_json value = golden_member(object, key);
    int64_t out = 0;
    OK(lp_json_int(&value, min, max, &out, err));
    return out;
}

static double number(const lp_json *object, const char *key) {
    lp_json value = golden_member(object, key);
    double out = 0;
    OK(lp_json_number(&value, -1e30, 1e30, &out, err));
    return out;
}

static const char *text(const lp_json *object, const char *key) {
    lp_json value = golden_member(object, key);
    const char *out = NULL;
    OK(lp_json_string(&value, &out, err));
    return out;
}

static int choice(const lp_json *object, const char *key, const char *const *names) {
    lp_json value = golden_member(object, key);
    int out = 0;
    OK(lp_json_choice(&value, names, &out, err));
    return out;
}

static id_list ids(const lp_json *object, const char *key) {
    lp_json value = golden_member(object, key), element;
    id_list out = {.n = 0};
    for (lp_json_first(&value, &element); element.node; lp_json_next(&value, &element)) {
        int64_t id = 0;
        OK(lp_json_int(&element, 0, INT32_MAX, &id, err));
        assert_true(out.n < MAX_IDS);
        out.ids[out.n++] = (int32_t)id;
    }
    return out;
}

static lp_address address(const lp_json *json, const char *const keys[4]) {
    lp_address at = {.head = LP_ALL_HEADS};
    lp_json layer;
    at.phase = (lp_phase)choice(json, keys[0], lp_phase_names());
    lp_json index = golden_member(json, keys[1]);
    if (lp_json_is_string(&index))
        at.index = LP_INDEX_ALL;
    else
        at.index = (int32_t)whole(json, keys[1], -1000, 1000);
    at.site = (lp_site)choice(json, keys[2], lp_site_names());
    OK(lp_json_find(json, keys[3], &layer, err));
    if (layer.node) at.layer = (int32_t)whole(json, keys[3], 0, LP_MAX_LAYERS - 1);
    lp_json head;
    OK(lp_json_find(json, "head", &head, err));
    if (head.node) at.head = (int32_t)whole(json, "head", 0, 255);
    return at;
}

static int32_t read_vector(fixture *f, const lp_json *json, int32_t width) {
    lp_json values = golden_member(json, "vector"), element;
    float *vector = NULL;
    int32_t n = 0;
    OK(lp_mem_new(&vector, (size_t)width, sizeof *vector, "vector", err));
    for (lp_json_first(&values, &element); element.node; lp_json_next(&values, &element)) {
        double value = 0;
        OK(lp_json_number(&element, -1e6, 1e6, &value, err));
        assert_true(n < width);
        vector[n++] = (float)value;
    }
    assert_int_equal(n, width);
    OK(lp_mem_grow(&f->explicit_vectors, &f->explicit_capacity, f->n_explicit + 1, sizeof(float *), "vectors", err));
    f->explicit_vectors[f->n_explicit] = vector;
    return (int32_t)f->n_explicit++;
}

static int32_t read_directions(fixture *f, const lp_json *rows, int32_t width) {
    float *directions = NULL;
    size_t n = 0, at = 0;
    lp_json row, element;
    OK(lp_json_array_size(rows, &n, err));
    OK(lp_mem_new(&directions, n * (size_t)width, sizeof *directions, "directions", err));
    for (lp_json_first(rows, &row); row.node; lp_json_next(rows, &row))
        for (lp_json_first(&row, &element); element.node; lp_json_next(&row, &element)) {
            double value = 0;
            OK(lp_json_number(&element, -1, 1, &value, err));
            assert_true(at < n * (size_t)width);
            directions[at++] = (float)value;
        }
    assert_int_equal(at, n * (size_t)width);
    assert_true(f->n_subspaces < MAX_SUBSPACES);
    f->subspaces[f->n_subspaces] = (lp_subspace){.directions = directions, .n = (int32_t)n, .width = width};
    return (int32_t)++f->n_subspaces;
}

static void read_token_rule(fixture *f, const lp_json *json, lp_replacement *r) {
    static const char *const measures[] = {"dot", "cosine", NULL};
    lp_token_rule rule = {.chooses = r->donor == LP_DONOR_TOKEN || lp_operation_has_subspace(r->operation), .top = 1};
    lp_json value;
    OK(lp_json_find(json, "by", &value, err));
    if (value.node) rule.by = (lp_nearest_by)choice(json, "by", measures);
    OK(lp_json_find(json, "top", &value, err));
    if (value.node) rule.top = (int32_t)whole(json, "top", 1, LP_MAX_NEAREST);
    OK(lp_json_find(json, "shift", &value, err));
    if (value.node) rule.shift = (int32_t)whole(json, "shift", -10, 10);
    OK(lp_json_find(json, "add_along", &value, err));
    if (value.node) {
        snprintf(rule.along, sizeof rule.along, "%s", text(json, "add_along"));
        rule.times = (float)number(json, "factor");
    }
    struct {
        const char *key;
        bool *to;
    } flags[] = {
        {"layer_norm", &rule.layer_norm}, {"keep_norm", &rule.keep_norm}, {"only_numbers", &rule.only_numbers}};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        OK(lp_json_find(json, flags[i].key, &value, err));
        if (value.node) OK(lp_json_bool(&value, flags[i].to, err));
    }
    OK(lp_condition_token_rule(&f->set, &rule, &r->token, err));
}

static void read_replacement(fixture *f, const lp_json *json) {
    static const char *const target[4] = {"phase", "index", "site", "layer"};
    static const char *const source[4] = {"donor_phase", "donor_index", "donor_site", "donor_layer"};
    lp_replacement r = {.at = address(json, target), .factor = (float)number(json, "factor")};
    r.operation = (lp_operation)choice(json, "operation", lp_operation_names());
    r.from = r.at;
    lp_json directions;
    OK(lp_json_find(json, "directions", &directions, err));
    if (directions.node)
        r.subspace = read_directions(f, &directions, lp_site_width(&f->model.model.config, r.at.site, r.at.head));
    if (lp_operation_takes_vector(r.operation)) {
        const char *donor = text(json, "donor");
        if (strcmp(donor, "vector") == 0) {
            r.donor = LP_DONOR_FILE;
            r.vector = read_vector(f, json, lp_site_width(&f->model.model.config, r.at.site, LP_ALL_HEADS));
        } else {
            r.donor = (lp_donor)choice(json, "donor", lp_donor_names());
        }
        if (r.donor == LP_DONOR_CLEAN || r.donor == LP_DONOR_CORRUPTED) r.from = address(json, source);
    }
    lp_json token;
    OK(lp_json_find(json, "token", &token, err));
    if (token.node) read_token_rule(f, &token, &r);
    OK(lp_condition_replace(&f->set, &r, err));
}

/* {"phase", "index", "layer", "head", "to_phase", "to_index"}: what a row may not attend to. */
static void read_edge(fixture *f, const lp_json *json) {
    lp_replacement r = {.operation = LP_OP_FORBID, .factor = 1, .donor = LP_DONOR_ZERO};
    lp_json to = golden_member(json, "to_index"), index = golden_member(json, "index"), head;
    OK(lp_json_find(json, "head", &head, err));
    r.at = (lp_address){.phase = (lp_phase)choice(json, "phase", lp_phase_names()),
                        .site = LP_SITE_Z,
                        .layer = (int32_t)whole(json, "layer", 0, LP_MAX_LAYERS - 1),
                        .head = LP_ALL_HEADS};
    if (head.node) r.at.head = (int32_t)whole(json, "head", 0, 1000);
    r.from = r.at;
    r.from.phase = (lp_phase)choice(json, "to_phase", lp_phase_names());
    r.at.index = lp_json_is_string(&index) ? LP_INDEX_ALL : (int32_t)whole(json, "index", -1000, 1000);
    r.from.index = lp_json_is_string(&to) ? LP_INDEX_ALL : (int32_t)whole(json, "to_index", -1000, 1000);
    OK(lp_condition_replace(&f->set, &r, err));
}

static void read_conditions(fixture *f, const lp_json *root) {
    lp_json conditions = golden_member(root, "conditions"), entry, element;
    for (lp_json_first(&conditions, &entry); entry.node; lp_json_next(&conditions, &entry)) {
        lp_condition *condition = NULL;
        OK(lp_condition_add(&f->set, text(&entry, "name"), "", "", "", &condition, err));
        condition->direction = (lp_direction)choice(&entry, "direction", lp_direction_names());
        condition->n_steps_run = f->options.protocol.n_steps;
        lp_json list = golden_member(&entry, "replacements");
        for (lp_json_first(&list, &element); element.node; lp_json_next(&list, &element)) read_replacement(f, &element);
        OK(lp_json_find(&entry, "edges", &list, err));
        if (!list.node) continue;
        for (lp_json_first(&list, &element); element.node; lp_json_next(&list, &element)) read_edge(f, &element);
    }
    assert_true(f->set.n > 0);
}

/* ---- Work -------------------------------------------------------------------------------------------------------- */

static void execute(fixture *f, execute_function function) {
    lp_work_unit *units[MAX_PAIRS];
    for (size_t i = 0; i < f->n_pairs; i++) units[i] = &f->pairs[i].unit;
    unit_list list = {.units = units, .n = f->n_pairs};
    lp_work_source source = unit_list_source(&list);
    OK(function(&f->options, &source, err));
    assert_int_equal(list.n_done, f->n_pairs);
}

static int recipient(const lp_condition *condition) {
    return condition->direction == LP_DENOISE ? CORRUPTED : CLEAN;
}

/* The donor's vector, asked for where it is not yet: it is filled when the unpatched runs are made. */
static const float *donor(fixture *f, pair_work *p, const lp_replacement *what) {
    static const float zeros[4096];
    if (!lp_operation_takes_vector(what->operation) || what->donor == LP_DONOR_TOKEN) return NULL;
    if (what->donor == LP_DONOR_FILE) return f->explicit_vectors[what->vector];
    int32_t width = lp_site_width(&f->model.model.config, what->from.site, what->from.head);
    assert_true(width <= 4096);
    if (what->donor == LP_DONOR_ZERO) return zeros;
    donor_vector wanted = {.side = what->donor == LP_DONOR_CLEAN ? CLEAN : CORRUPTED, .from = what->from};
    if (wanted.from.index < 0) {
        assert_int_equal(wanted.from.phase, LP_PHASE_PROMPT);
        wanted.from.index += (int32_t)p->sides[wanted.side].prompt.n;
    }
    for (size_t i = 0; i < p->n_donors; i++)
        if (p->donors[i].side == wanted.side && memcmp(&p->donors[i].from, &wanted.from, sizeof wanted.from) == 0)
            return p->donors[i].vector;
    OK(lp_mem_new(&wanted.vector, (size_t)width, sizeof(float), "donor", err));
    for (int32_t i = 0; i < width; i++) wanted.vector[i] = NAN;
    OK(lp_mem_grow(&p->donors, &p->donor_capacity, p->n_donors + 1, sizeof *p->donors, "donors", err));
    p->donors[p->n_donors++] = wanted;
    return wanted.vector;
}

static void read_side(fixture *f, const lp_json *json, side_run *side) {
    const golden_model *m = &f->model;
    side->json = *json;
    side->answer = number(json, "answer");
    OK(lp_protocol_prompt(&f->options.protocol, &m->model, m->tokenizer, &m->vocabulary, text(json, "question"),
                          &side->prompt, err));
    OK(lp_mem_new(&side->tokens, (size_t)f->options.max_new_tokens, sizeof(int32_t), "answer", err));
    side->unpatched.n_steps = f->options.protocol.n_steps;
    side->result.tokens = side->tokens;
}

static void add_row(fixture *f, const lp_json *row) {
    pair_work *p = &f->pairs[whole(row, "pair", 0, (int64_t)f->n_pairs - 1)];
    patched_run run = {.row = *row, .condition = (size_t)whole(row, "condition", 0, (int64_t)f->set.n - 1)};
    int side = recipient(&f->set.conditions[run.condition]);
    lp_run_shape shape = {.config = &f->model.model.config,
                          .protocol = f->options.protocol,
                          .n_prompt = (int32_t)p->sides[side].prompt.n};
    OK(lp_condition_effective(&f->set, run.condition, &shape, &run.edits, err));
    OK(lp_mem_new(&run.vectors, run.edits.n, sizeof(float *), "vectors", err));
    for (size_t i = 0; i < run.edits.n; i++) run.vectors[i] = donor(f, p, &run.edits.edits[i].what);
    OK(lp_mem_grow(&p->rows[side], &p->row_capacity[side], p->n_rows[side] + 1, sizeof run, "rows", err));
    p->rows[side][p->n_rows[side]++] = run;
}

/* Units of the unpatched runs, with a capture for every vector that a row wants. */
static void prepare_unpatched(pair_work *p) {
    for (int s = 0; s < N_SIDES; s++) {
        lp_capture *captures = NULL;
        OK(lp_mem_new(&captures, p->n_donors, sizeof *captures, "captures", err));
        side_run *side = &p->sides[s];
        side->unpatched.n_captures = 0;
        for (size_t i = 0; i < p->n_donors; i++)
            if (p->donors[i].side == s)
                captures[side->unpatched.n_captures++] =
                    (lp_capture){.at = p->donors[i].from, .out = p->donors[i].vector};
        side->unpatched.captures = captures;
        p->groups[s] = (lp_run_group){.prompt = side->prompt.ids,
                                      .n_prompt = (int32_t)side->prompt.n,
                                      .runs = &side->unpatched,
                                      .results = &side->result,
                                      .n_runs = 1};
    }
    p->unit = (lp_work_unit){.groups = p->groups, .n_groups = N_SIDES};
}

/* Units of the patched runs, the unpatched recipient in front. */
static void prepare_patched(fixture *f, pair_work *p) {
    for (int s = 0; s < N_SIDES; s++) {
        size_t n = p->n_rows[s] + 1;
        OK(lp_mem_new(&p->runs[s], n, sizeof *p->runs[s], "runs", err));
        OK(lp_mem_new(&p->results[s], n, sizeof *p->results[s], "results", err));
        for (size_t i = 0; i < n; i++) {
            p->runs[s][i].n_steps = f->options.protocol.n_steps;
            OK(lp_mem_new(&p->results[s][i].tokens, (size_t)f->options.max_new_tokens, sizeof(int32_t), "answer", err));
            if (i == 0) continue;
            const patched_run *row = &p->rows[s][i - 1];
            p->runs[s][i].edits = row->edits.edits;
            p->runs[s][i].n_edits = row->edits.n;
            p->runs[s][i].vectors = row->vectors;
        }
        p->groups[s].runs = p->runs[s];
        p->groups[s].results = p->results[s];
        p->groups[s].n_runs = n;
        p->groups[s].subspaces = f->subspaces;
        p->groups[s].token_edits = f->tokens.edits;
        p->groups[s].metric_at = p->sides[s].metrics.usable ? &p->sides[s].metrics.position : NULL;
    }
}

/* ---- Comparison -------------------------------------------------------------------------------------------------- */

typedef struct {
    double worst; /* largest error / bound */
    char where[200];
    int n_rows, n_clear, n_settled, n_metrics, n_over, n_wrong;
} tally;

/* Of 1 + a metric's size: what any two programs may differ by, and how much of the golden software's own error. */
static const double least_bound = 1e-4, error_factor = 8;

static bool same_ids(const id_list *wanted, const int32_t *got, size_t n) {
    return wanted->n == n && memcmp(wanted->ids, got, n * sizeof *got) == 0;
}

static void show_ids(const char *what, const int32_t *list, size_t n) {
    print_error("  %s", what);
    for (size_t i = 0; i < n; i++) print_error(" %d", list[i]);
    print_error("\n");
}

static void compare_ids(tally *t, const char *where, const id_list *wanted, const int32_t *got, size_t n) {
    if (same_ids(wanted, got, n)) return;
    t->n_wrong++;
    print_error("%s: tokens differ\n", where);
    show_ids("expected", wanted->ids, wanted->n);
    show_ids("found   ", got, n);
}

static void compare_metric(tally *t, const char *where, const char *name, double got, double wanted,
                           double float32_error) {
    double error = fabs(got - wanted), bound = (least_bound + error_factor * float32_error) * (1 + fabs(wanted));
    t->n_metrics++;
    if (!(error / bound <= t->worst)) {
        t->worst = error / bound;
        snprintf(t->where, sizeof t->where, "%.120s: %s", where, name);
    }
    if (error <= bound) return;
    t->n_over++;
    t->n_wrong++;
    print_error("%s: %s: expected %.9g +- %.2g, found %.9g\n", where, name, wanted, bound, got);
}

static void compare_metrics(tally *t, const char *where, const lp_json *wanted, double float32_error,
                            const float got[LP_N_METRICS]) {
    double total = number(wanted, "logsumexp");
    double clean = number(wanted, "logit_clean"), corrupted = number(wanted, "logit_corrupted");
    const double all[LP_N_METRICS] = {[LP_METRIC_LOGIT_CLEAN] = clean,
                                      [LP_METRIC_LOGIT_CORRUPTED] = corrupted,
                                      [LP_METRIC_LOGPROB_CLEAN] = clean - total,
                                      [LP_METRIC_LOGPROB_CORRUPTED] = corrupted - total,
                                      [LP_METRIC_LOGIT_DIFF] = clean - corrupted,
                                      [LP_METRIC_KL] = number(wanted, "kl"),
                                      [LP_METRIC_ANSWER_CLEAN] = number(wanted, "answer_logprob_clean"),
                                      [LP_METRIC_ANSWER_CORRUPTED] = number(wanted, "answer_logprob_corrupted")};
    for (int m = 0; m < LP_N_METRICS; m++)
        compare_metric(t, where, lp_metric_names()[m], (double)got[m], all[m], float32_error);
}

static void make_metric_position(fixture *f, pair_work *p, int s, tally *t) {
    side_run *side = &p->sides[s];
    char where[200];
    lp_pair_metrics_options options = {.tokenizer = f->model.tokenizer,
                                       .eos = f->model.vocabulary.eos,
                                       .clean_answer = p->sides[CLEAN].answer,
                                       .corrupted_answer = p->sides[CORRUPTED].answer,
                                       .whole_answers = true};
    snprintf(where, sizeof where, "pair %d %s", (int)(p - f->pairs), side_names[s]);
    id_list answer = ids(&side->json, "answer_ids");
    compare_ids(t, where, &answer, side->tokens, (size_t)side->result.n_tokens);
    OK(lp_pair_metrics_make(&options, side->tokens, side->result.n_tokens, &side->metrics, err));
    assert_true(side->metrics.usable);
    const lp_metric_position *r = &side->metrics.position;
    id_list prefix = ids(&side->json, "metric_prefix");
    compare_ids(t, where, &prefix, r->prefix, (size_t)r->index);
    const char *const keys[N_SIDES] = {"metric_clean_ids", "metric_corrupted_ids"};
    const int32_t *const tokens[N_SIDES] = {r->clean.tokens, r->corrupted.tokens};
    const int32_t n[N_SIDES] = {r->clean.n, r->corrupted.n};
    for (int k = 0; k < N_SIDES; k++) {
        id_list wanted = ids(&side->json, keys[k]);
        assert_true(wanted.n < MAX_IDS);
        wanted.ids[wanted.n++] = options.eos;
        compare_ids(t, where, &wanted, tokens[k], (size_t)n[k]);
    }
}

/* A self-patch and a dead one change nothing, to the bit. */
static bool must_change_nothing(const fixture *f, const patched_run *row) {
    const char *name = f->set.conditions[row->condition].name;
    return strncmp(name, "self ", 5) == 0 || strncmp(name, "dead ", 5) == 0;
}

static void compare_rows(const fixture *f, const pair_work *p, int s, tally *t) {
    const lp_run_result *unpatched = &p->results[s][0];
    char where[200];
    snprintf(where, sizeof where, "pair %d %s unpatched", (int)(p - f->pairs), side_names[s]);
    id_list answer = ids(&p->sides[s].json, "answer_ids");
    lp_json metrics = golden_member(&p->sides[s].json, "metrics");
    compare_ids(t, where, &answer, unpatched->tokens, (size_t)unpatched->n_tokens);
    double side_error = number(&p->sides[s].json, "float32_error");
    compare_metrics(t, where, &metrics, side_error, unpatched->metrics);
    for (size_t i = 0; i < p->n_rows[s]; i++) {
        const patched_run *row = &p->rows[s][i];
        const lp_run_result *got = &p->results[s][i + 1];
        snprintf(where, sizeof where, "pair %d \"%.120s\"", (int)(p - f->pairs),
                 f->set.conditions[row->condition].name);
        id_list wanted = ids(&row->row, "answer_ids");
        bool clear = golden_truth(&row->row, "clear");
        if (clear) compare_ids(t, where, &wanted, got->tokens, (size_t)got->n_tokens);
        if (clear && got->ended != (got->n_tokens < f->options.max_new_tokens)) t->n_wrong++;
        compare_metrics(t, where, &row->row, fmax(side_error, number(&row->row, "float32_error")), got->metrics);
        t->n_settled += golden_truth(&row->row, "settled");
        t->n_rows++;
        t->n_clear += clear;
        if (must_change_nothing(f, row)) assert_memory_equal(got->metrics, unpatched->metrics, sizeof got->metrics);
    }
}

/* ---- One file ---------------------------------------------------------------------------------------------------- */

static void open_file(fixture *f, const golden_file *file) {
    lp_json root, list, entry;
    *f = (fixture){.file = file};
    golden_model_open(file->model, &f->model);
    OK(lp_json_load(file->path, 1 << 26, &f->document, &root, err));
    f->options = (lp_executor_options){
        .model = &f->model.model,
        .protocol = golden_protocol(file->protocol, (int32_t)whole(&root, "thoughts", 1, 64)),
        .vocabulary = f->model.vocabulary,
        .max_new_tokens = (int32_t)whole(&root, "max_new_tokens", 1, MAX_IDS),
        .max_positions = f->model.model.config.n_context,
    };
    golden_vocabulary(&f->model, file->protocol, &f->model.vocabulary);
    f->options.vocabulary = f->model.vocabulary;
    read_conditions(f, &root);
    static lp_session session; /* what a sweep takes the rules' words from */
    session.tokenizer = f->model.tokenizer;
    session.vocabulary = f->options.vocabulary;
    OK(lp_token_edits_init(&session, &f->set, &f->tokens, err));
    list = golden_member(&root, "pairs");
    for (lp_json_first(&list, &entry); entry.node; lp_json_next(&list, &entry)) {
        assert_true(f->n_pairs < MAX_PAIRS);
        pair_work *p = &f->pairs[f->n_pairs++];
        for (int s = 0; s < N_SIDES; s++) {
            lp_json side = golden_member(&entry, side_names[s]);
            read_side(f, &side, &p->sides[s]);
        }
    }
    list = golden_member(&root, "rows");
    size_t i = 0;
    for (lp_json_first(&list, &entry); entry.node; lp_json_next(&list, &entry))
        if (i++ % EVERY == 0) add_row(f, &entry);
}

static void close_results(fixture *f) {
    for (size_t i = 0; i < f->n_pairs; i++)
        for (int s = 0; s < N_SIDES; s++) {
            pair_work *p = &f->pairs[i];
            for (size_t k = 0; p->results[s] && k <= p->n_rows[s]; k++) lp_mem_free(p->results[s][k].tokens);
            lp_mem_free(p->results[s]);
            lp_mem_free(p->runs[s]);
            p->results[s] = NULL;
            p->runs[s] = NULL;
            lp_mem_free((void *)(uintptr_t)p->sides[s].unpatched.captures);
            p->sides[s].unpatched.captures = NULL;
        }
}

static void close_file(fixture *f) {
    for (size_t i = 0; i < f->n_pairs; i++) {
        pair_work *p = &f->pairs[i];
        for (int s = 0; s < N_SIDES; s++) {
            for (size_t k = 0; k < p->n_rows[s]; k++) {
                lp_edit_sequence_release(&p->rows[s][k].edits);
                lp_mem_free(p->rows[s][k].vectors);
            }
            lp_mem_free(p->rows[s]);
            lp_mem_free(p->sides[s].tokens);
            lp_token_list_release(&p->sides[s].prompt);
            lp_pair_metrics_release(&p->sides[s].metrics);
        }
        for (size_t k = 0; k < p->n_donors; k++) lp_mem_free(p->donors[k].vector);
        lp_mem_free(p->donors);
    }
    for (size_t i = 0; i < f->n_explicit; i++) lp_mem_free(f->explicit_vectors[i]);
    lp_mem_free(f->explicit_vectors);
    for (size_t i = 0; i < f->n_subspaces; i++) lp_mem_free((void *)(uintptr_t)f->subspaces[i].directions);
    lp_token_edits_release(&f->tokens);
    lp_condition_set_release(&f->set);
    cJSON_Delete(f->document);
    golden_model_close(&f->model);
}

static void check_files(const char *suffix) {
    golden_file files[GOLDEN_MAX];
    size_t n = golden_files(suffix, files);
    assert_true(n > 0);
    static fixture f;
    int n_wrong = 0;
    for (size_t i = 0; i < n; i += golden_quick() ? 4 : 1) {
        open_file(&f, &files[i]);
        for (int e = 0; e < N_EXECUTORS; e++) {
            tally t = {0};
            for (size_t p = 0; p < f.n_pairs; p++) prepare_unpatched(&f.pairs[p]);
            execute(&f, executors[e].execute);
            for (size_t p = 0; p < f.n_pairs; p++)
                for (int s = 0; s < N_SIDES; s++) make_metric_position(&f, &f.pairs[p], s, &t);
            for (size_t p = 0; p < f.n_pairs; p++) prepare_patched(&f, &f.pairs[p]);
            execute(&f, executors[e].execute);
            for (size_t p = 0; p < f.n_pairs; p++)
                for (int s = 0; s < N_SIDES; s++) compare_rows(&f, &f.pairs[p], s, &t);
            printf(
                "%-9s %-12s %-10s %d rows, %d with tokens compared; %d of %d metrics over their bound, worst %.2f times "
                "(%s)%s\n",
                executors[e].name, files[i].model, files[i].protocol, t.n_rows, t.n_clear, t.n_over, t.n_metrics,
                t.worst, t.where, t.n_wrong ? "  <-- WRONG" : "");
            assert_true(t.n_rows > 0 && t.n_clear * 10 >= t.n_rows * 9 && t.n_settled * 3 >= t.n_rows * 2);
            n_wrong += t.n_wrong;
            close_results(&f);
        }
        close_file(&f);
    }
    assert_int_equal(n_wrong, 0);
}

static void test_patched_runs(void **state) {
    (void)state;
    check_files(".patched.json");
}

/* Queries, what heads attended to, and attention edges. */
static void test_attention(void **state) {
    (void)state;
    check_files(".attention.json");
}

/* Operations within a subspace. */
static void test_subspaces(void **state) {
    (void)state;
    check_files(".subspace.json");
}

/* Edits that depend on the nearest tokens. */
static void test_tokens(void **state) {
    (void)state;
    check_files(".tokens.json");
}

int main(void) {
    if (!golden_kernels_run_here()) return GOLDEN_SKIPPED;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_patched_runs), cmocka_unit_test(test_attention),
                                       cmocka_unit_test(test_subspaces), cmocka_unit_test(test_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
