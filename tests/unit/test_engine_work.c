/* What the engine computes, and that it computes nothing twice.
 *
 * The sweep of residual-stream replacements is made by hand for one question and run with a hook on every computed
 * (row, layer): no two of them may have the same inputs (position, residual stream, and every key and value attended
 * to), and their number must be the one worked out here from the conditions and the answers alone. */
#include "test_engine_support.h"

#include "base/memory.h"
#include "base/pulse.h"

enum { T = 6, MAX_TOKENS = 8, PLENTY = 1 << 29 };

/* ---- A sweep ----------------------------------------------------------------------------------------------------- */

typedef struct {
    const lp_model *model;
    lp_executor_options options;
    const int32_t *prompt;
    int32_t n_prompt;
    int n_donors;
    const float *donors;   /* [n_donors, n_layers, T, D] */
    const uint64_t *masks; /* [n_masks] step sets */
    int n_masks;
} sweep;

typedef struct {
    lp_run_group group;
    lp_work_unit unit;
    lp_run_wanted *runs;
    lp_run_result *results;
    lp_edit_sequence *edits;
    const float **vectors;
    int32_t *tokens;
    size_t n;
} work;

static size_t run_of(const sweep *s, int donor, int32_t layer, int mask) {
    return 1 + ((size_t)donor * (size_t)s->model->config.n_layers + (size_t)layer) * (size_t)s->n_masks + (size_t)mask;
}

static void make_run(const sweep *s, work *w, int donor, int32_t layer, int mask) {
    const lp_model_config *c = &s->model->config;
    size_t at = run_of(s, donor, layer, mask);
    lp_condition_set set = {0};
    lp_condition *condition = NULL;
    OK(lp_condition_add(&set, "drawn", "", "", "", &condition, err));
    condition->n_steps_run = T;
    for (int32_t t = 0; t < T; t++) {
        if (!(s->masks[mask] >> t & 1)) continue;
        lp_replacement r = {.at = {.phase = LP_PHASE_THOUGHT,
                                   .index = t,
                                   .site = LP_SITE_RESID_POST,
                                   .layer = layer,
                                   .head = LP_ALL_HEADS},
                            .factor = 1,
                            .donor = LP_DONOR_FILE,
                            .vector = donor};
        r.from = r.at;
        OK(lp_condition_replace(&set, &r, err));
    }
    lp_run_shape shape = {.config = c, .protocol = s->options.protocol, .n_prompt = s->n_prompt};
    OK(lp_condition_effective(&set, 0, &shape, &w->edits[at], err));
    for (size_t i = 0; i < w->edits[at].n; i++) {
        const lp_address *to = &w->edits[at].edits[i].what.at;
        int64_t place = ((int64_t)donor * c->n_layers + to->layer) * T + to->index;
        w->vectors[at * T + i] = s->donors + place * c->d_model;
    }
    w->runs[at] = (lp_run_wanted){
        .edits = w->edits[at].edits, .vectors = w->vectors + at * T, .n_edits = w->edits[at].n, .n_steps = T};
    lp_condition_set_release(&set);
}

static void work_make(const sweep *s, work *w) {
    *w = (work){.n = run_of(s, s->n_donors, 0, 0)};
    OK(lp_mem_new(&w->runs, w->n, sizeof *w->runs, "runs", err));
    OK(lp_mem_new(&w->results, w->n, sizeof *w->results, "runs", err));
    OK(lp_mem_new(&w->edits, w->n, sizeof *w->edits, "runs", err));
    OK(lp_mem_new(&w->vectors, w->n * T, sizeof *w->vectors, "runs", err));
    OK(lp_mem_new(&w->tokens, w->n * MAX_TOKENS, sizeof *w->tokens, "runs", err));
    for (size_t i = 0; i < w->n; i++) w->results[i].tokens = w->tokens + i * MAX_TOKENS;
    w->runs[0].n_steps = T;
    for (int d = 0; d < s->n_donors; d++)
        for (int32_t l = 0; l < s->model->config.n_layers; l++)
            for (int m = 0; m < s->n_masks; m++) make_run(s, w, d, l, m);
    w->group = (lp_run_group){
        .prompt = s->prompt, .n_prompt = s->n_prompt, .runs = w->runs, .results = w->results, .n_runs = w->n};
    w->unit = (lp_work_unit){.groups = &w->group, .n_groups = 1};
}

static void work_release(work *w) {
    for (size_t i = 0; i < w->n; i++) lp_edit_sequence_release(&w->edits[i]);
    lp_mem_free(w->runs);
    lp_mem_free(w->results);
    lp_mem_free(w->edits);
    lp_mem_free(w->vectors);
    lp_mem_free(w->tokens);
}

/* ---- Inputs of every computed (row, layer) ----------------------------------------------------------------------- */

typedef struct {
    uint64_t a, b;
} fingerprint;

typedef struct {
    fingerprint *all;
    size_t n, capacity;
    const lp_model_config *config;
} recorder;

static void mix(fingerprint *f, const void *data, size_t bytes) {
    const unsigned char *p = data;
    for (size_t i = 0; i < bytes; i += 4) {
        uint32_t word = 0;
        memcpy(&word, p + i, bytes - i < 4 ? bytes - i : 4);
        f->a = (f->a ^ word) * 0x9e3779b97f4a7c15u;
        f->a ^= f->a >> 29;
        f->b = (f->b + word) * 0xc2b2ae3d27d4eb4fu;
        f->b ^= f->b >> 31;
    }
}

static void record(void *user, const lp_forward_batch *batch, int32_t row, int32_t layer, const float *x) {
    recorder *r = user;
    const lp_kv_pool *pool = batch->pool;
    size_t width = (size_t)pool->width * sizeof(float);
    fingerprint f = {(uint64_t)layer + 1, (uint64_t)batch->position[row] + 1};
    int32_t prompt = batch->prompt_length[row], n = prompt + batch->tail_length[row];
    mix(&f, x, (size_t)r->config->d_model * sizeof *x);
    for (int32_t i = 0; i < n; i++) {
        int32_t slot = i < prompt ? batch->prompt_begin[row] + i : batch->tail[batch->tail_begin[row] + i - prompt];
        int64_t at = ((int64_t)layer * pool->n_slots + slot) * pool->width;
        mix(&f, pool->keys + at, width);
        mix(&f, pool->values + at, width);
    }
    OK(lp_mem_grow(&r->all, &r->capacity, r->n + 1, sizeof *r->all, "fingerprints", err));
    r->all[r->n++] = f;
}

static int compare_fingerprints(const void *pa, const void *pb) {
    const fingerprint *a = pa, *b = pb;
    if (a->a != b->a) return a->a < b->a ? -1 : 1;
    return (a->b > b->b) - (a->b < b->b);
}

static size_t count_repeats(recorder *r) {
    size_t repeats = 0;
    qsort(r->all, r->n, sizeof *r->all, compare_fingerprints);
    for (size_t i = 1; i < r->n; i++) repeats += compare_fingerprints(&r->all[i - 1], &r->all[i]) == 0;
    return repeats;
}

/* ---- What has to be computed ------------------------------------------------------------------------------------- */

static int32_t last_step(uint64_t mask) {
    int32_t last = -1;
    for (int32_t t = 0; t < T; t++)
        if (mask >> t & 1) last = t;
    return last;
}

/* Answer rows of a run: one for each token that it chose, all but the last of which are fed. */
static int32_t answer_rows(const lp_run_result *r) {
    return r->n_tokens + (r->ended ? 1 : 0);
}

/* The step set without its last step, if the sweep has it; otherwise the unpatched run. */
static size_t run_before(const sweep *s, int donor, int32_t layer, uint64_t mask) {
    uint64_t before = mask & ~(UINT64_C(1) << last_step(mask));
    for (int m = 0; m < s->n_masks; m++)
        if (before != 0 && s->masks[m] == before) return run_of(s, donor, layer, m);
    return 0;
}

/* Row-layers of one question: everything once for the unpatched run; a condition with last step t begins after its
 * layer at t, computes whole rows from t + 1 on, and its answer. Behind the last step of all only the layers above the
 * replaced one differ, as long as the answer is that of the run it comes from. At the last layer of the last step
 * nothing reads what is replaced. Every set without its last step must be in the sweep, or be empty. */
static uint64_t expected_row_layers(const sweep *s, const work *w, uint64_t *thought_rows) {
    int32_t n_layers = s->model->config.n_layers;
    uint64_t total = (uint64_t)(s->n_prompt + T + answer_rows(&w->results[0])) * (uint64_t)n_layers;
    *thought_rows = 0;
    for (int d = 0; d < s->n_donors; d++)
        for (int32_t l = 0; l < n_layers; l++)
            for (int m = 0; m < s->n_masks; m++) {
                const lp_run_result *own = &w->results[run_of(s, d, l, m)];
                int32_t t = last_step(s->masks[m]), above = n_layers - 1 - l;
                if (t == T - 1 && above == 0) continue;
                uint64_t thoughts = (uint64_t)(above + (T - 1 - t) * n_layers);
                *thought_rows += thoughts;
                total += thoughts;
                const lp_run_result *before = &w->results[run_before(s, d, l, s->masks[m])];
                bool together = t == T - 1;
                for (int32_t k = 0; k < answer_rows(own); k++) {
                    if (k > 0 && (k > before->n_tokens || own->tokens[k - 1] != before->tokens[k - 1]))
                        together = false;
                    total += (uint64_t)(together && k < answer_rows(before) ? above : n_layers);
                }
            }
    return total;
}

static void check_sweep(const char *name, const sweep *s, lp_backend *be) {
    work w;
    recorder r = {.config = &s->model->config};
    lp_engine_options engine = {.backend = be, .memory_limit = PLENTY, .hook = record, .hook_user = &r};
    lp_engine_counters counters = {0};
    uint64_t thought_rows = 0;
    int32_t n_layers = s->model->config.n_layers;
    work_make(s, &w);
    uint64_t shown = lp_row_layers();
    OK(execute_unit(&s->options, &engine, &w.unit, &counters, err));
    assert_int_equal(lp_row_layers() - shown, counters.row_layers); /* what the display of the progress counts */
    uint64_t expected = expected_row_layers(s, &w, &thought_rows);
    size_t repeats = count_repeats(&r);
    double steps = (double)thought_rows / n_layers / (double)(w.n - 1);
    printf("%s: %zu conditions, %llu row-layers, %.2f row-steps of thought a condition\n", name, w.n - 1,
           (unsigned long long)counters.row_layers, steps);
    if (counters.row_layers != expected)
        fail_msg("%s: expected %llu row-layers, found %llu", name, (unsigned long long)expected,
                 (unsigned long long)counters.row_layers);
    assert_int_equal(r.n, expected);
    if (repeats > 0) fail_msg("%s: %zu of %zu row-layers have the inputs of another one", name, repeats, r.n);
    if (s->n_masks == (1 << T) - 1) assert_true(steps <= 2);
    lp_mem_free(r.all);
    work_release(&w);
}

/* ---- On the demo models ------------------------------------------------------------------------------------------ */

static const char *const questions[] = {"Tom has 45 pens and loses 12 of them. How many pens are left?",
                                        "Ben shares 26 eggs among 2 friends. One friend gets 7 more. How many?",
                                        "Ada buys 12 cups and breaks 3. How many cups has Ada?"};
enum { N_QUESTIONS = sizeof questions / sizeof questions[0] };

/* donors[0]: the first question's own activations at resid_post; donors[1]: the third one's. */
static float *donors_of(const golden_model *m, const lp_executor_options *options, lp_backend *be) {
    const lp_model_config *c = &m->model.config;
    static const int from[2] = {0, 2};
    size_t per_run = (size_t)c->n_layers * T * (size_t)c->d_model;
    float *out = NULL;
    lp_capture *captures = NULL;
    OK(lp_mem_new(&out, 2 * per_run, sizeof *out, "donors", err));
    OK(lp_mem_new(&captures, (size_t)c->n_layers * T, sizeof *captures, "donors", err));
    for (size_t d = 0; d < 2; d++) {
        lp_token_list prompt = {0};
        int32_t tokens[MAX_TOKENS], n = 0;
        OK(lp_protocol_prompt(&options->protocol, &m->model, m->tokenizer, &m->vocabulary, questions[from[d]], &prompt,
                              err));
        for (int32_t l = 0; l < c->n_layers; l++)
            for (int32_t t = 0; t < T; t++, n++)
                captures[n] = (lp_capture){.at = {LP_PHASE_THOUGHT, t, LP_SITE_RESID_POST, l, LP_ALL_HEADS},
                                           .out = out + d * per_run + (size_t)n * (size_t)c->d_model};
        lp_run_wanted run = {.n_steps = T, .captures = captures, .n_captures = n};
        lp_run_result result = {.tokens = tokens};
        lp_run_group group = {
            .prompt = prompt.ids, .n_prompt = (int32_t)prompt.n, .runs = &run, .results = &result, .n_runs = 1};
        lp_work_unit unit = {.groups = &group, .n_groups = 1};
        lp_engine_options engine = {.backend = be, .memory_limit = PLENTY};
        OK(execute_unit(options, &engine, &unit, NULL, err));
        lp_token_list_release(&prompt);
    }
    lp_mem_free(captures);
    return out;
}

typedef struct {
    uint64_t masks[64];
    int n;
} step_sets;

static step_sets first_steps(void) {
    step_sets s = {.n = T};
    for (int k = 0; k < T; k++) s.masks[k] = (UINT64_C(2) << k) - 1;
    return s;
}

static step_sets single_steps(void) {
    step_sets s = {.n = T};
    for (int k = 0; k < T; k++) s.masks[k] = UINT64_C(1) << k;
    return s;
}

static step_sets all_subsets(void) {
    step_sets s = {.n = (1 << T) - 1};
    for (int k = 0; k < s.n; k++) s.masks[k] = (uint64_t)k + 1;
    return s;
}

static void check_demo(const char *model, lp_protocol_kind kind, lp_backend *be) {
    golden_model m;
    char name[80];
    golden_model_open(model, &m);
    lp_executor_options options = {.model = &m.model,
                                   .vocabulary = m.vocabulary,
                                   .protocol = lp_protocol_preset(kind, T),
                                   .max_new_tokens = MAX_TOKENS,
                                   .max_positions = m.model.config.n_context};
    lp_token_list prompt = {0};
    golden_resolve_roles(&options.protocol, &options.vocabulary);
    float *donors = donors_of(&m, &options, be);
    OK(lp_protocol_prompt(&options.protocol, &m.model, m.tokenizer, &m.vocabulary, questions[1], &prompt, err));
    sweep s = {.model = &m.model,
               .options = options,
               .prompt = prompt.ids,
               .n_prompt = (int32_t)prompt.n,
               .n_donors = 2,
               .donors = donors};
    const struct {
        const char *words;
        step_sets sets;
    } cases[] = {{"first:1-6", first_steps()}, {"single:0-5", single_steps()}, {"subset:all", all_subsets()}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        s.masks = cases[i].sets.masks;
        s.n_masks = cases[i].sets.n;
        snprintf(name, sizeof name, "%s %s %s", model, lp_protocol_names()[kind], cases[i].words);
        check_sweep(name, &s, be);
    }
    lp_token_list_release(&prompt);
    lp_mem_free(donors);
    golden_model_close(&m);
}

static void test_nothing_twice(void **state) {
    check_demo("demo-gpt2", LP_PROTOCOL_CODI, *state);
    check_demo("demo-llama", LP_PROTOCOL_BOT_FIRST, *state);
}

/* ---- The seed's shape -------------------------------------------------------------------------------------------- */

enum { DEEP_LAYERS = 12, DEEP_D = 16, DEEP_VOCABULARY = 40, SEED_PROMPT = 70 };

/* A GPT-2 of twelve small blocks, all of the same random weights. */
static void deep_model_open(lp_model *model, float **weights) {
    enum { SQUARE = DEEP_D * DEEP_D };
    size_t n = 16 * SQUARE + 32 * DEEP_D + DEEP_VOCABULARY * DEEP_D + 128 * DEEP_D;
    OK(lp_mem_new(weights, n, sizeof **weights, "weights", err));
    lp_random_normal((lp_random_key){.seed = 5}, *weights, n);
    for (size_t i = 0; i < n; i++) (*weights)[i] *= 0.4f;
    const float *at = *weights;
    *model = (lp_model){.config = {.arch = LP_ARCH_GPT2,
                                   .n_layers = DEEP_LAYERS,
                                   .d_model = DEEP_D,
                                   .n_heads = 2,
                                   .n_kv_heads = 2,
                                   .head_dim = DEEP_D / 2,
                                   .d_ff = DEEP_D,
                                   .n_vocab = DEEP_VOCABULARY - 3,
                                   .n_embedded = DEEP_VOCABULARY,
                                   .n_context = 128,
                                   .activation = LP_ACT_GELU_TANH,
                                   .norm_eps = 1e-5f,
                                   .tied_head = true},
                        .has_thoughts = true};
    OK(lp_mem_new(&model->blocks, DEEP_LAYERS, sizeof *model->blocks, "blocks", err));
    lp_norm norm = {.weight = at, .bias = at + DEEP_D};
    lp_block block = {.norm_attn = norm, .norm_mlp = norm};
    lp_linear *const linears[] = {&block.qkv, &block.attn_out, &block.mlp_in, &block.mlp_out};
    at += 2 * DEEP_D;
    for (int i = 0; i < 4; i++) {
        int64_t n_out = i == 0 ? 3 * DEEP_D : DEEP_D;
        *linears[i] = (lp_linear){.part = {{.data = at, .n_in = DEEP_D, .n_out = n_out, .layout = LP_IN_OUT}},
                                  .n_parts = 1,
                                  .n_in = DEEP_D,
                                  .n_out = n_out};
        at += DEEP_D * n_out;
    }
    for (int l = 0; l < DEEP_LAYERS; l++) model->blocks[l] = block;
    model->final_norm = norm;
    model->embedding = (lp_matrix){.data = at, .n_in = DEEP_D, .n_out = DEEP_VOCABULARY, .layout = LP_OUT_IN};
    model->head = model->embedding;
    model->positions = at + DEEP_VOCABULARY * DEEP_D;
}

/* The published scripts run, for each condition, the clean question's prompt and thoughts and then the whole patched
 * run. Ours runs both questions once and what the conditions change. */
static void test_seed_shape(void **state) {
    lp_model model;
    float *weights = NULL, *donors = NULL;
    int32_t prompt[SEED_PROMPT];
    work w;
    deep_model_open(&model, &weights);
    size_t n_donors = (size_t)DEEP_LAYERS * T * DEEP_D;
    OK(lp_mem_new(&donors, n_donors, sizeof *donors, "donors", err));
    lp_random_normal((lp_random_key){.seed = 6}, donors, n_donors);
    for (int32_t i = 0; i < SEED_PROMPT; i++) prompt[i] = (i * 7 + 3) % DEEP_VOCABULARY;
    step_sets sets = first_steps();
    sweep s = {.model = &model,
               .options = {.model = &model,
                           /* No token ends the answer. */
                           .vocabulary = {.pad = DEEP_VOCABULARY - 3,
                                          .bot = DEEP_VOCABULARY - 2,
                                          .eot = DEEP_VOCABULARY - 1,
                                          .eos = -1,
                                          .first_input = -1,
                                          .answer_start = {DEEP_VOCABULARY - 1},
                                          .n_answer_start = 1,
                                          .n_candidates = DEEP_VOCABULARY - 1},
                           .protocol = lp_protocol_preset(LP_PROTOCOL_CODI, T),
                           .max_new_tokens = MAX_TOKENS,
                           .max_positions = 128},
               .prompt = prompt,
               .n_prompt = SEED_PROMPT,
               .n_donors = 1,
               .donors = donors,
               .masks = sets.masks,
               .n_masks = sets.n};
    check_sweep("seed's shape, first:1-6", &s, *state);
    lp_engine_options engine = {.backend = *state, .memory_limit = PLENTY};
    lp_engine_counters counters = {0};
    work_make(&s, &w);
    OK(execute_unit(&s.options, &engine, &w.unit, &counters, err));
    uint64_t clean_run = (SEED_PROMPT + T + MAX_TOKENS) * DEEP_LAYERS;
    uint64_t scripts = (uint64_t)(w.n - 1) * (2 * (SEED_PROMPT + T) + MAX_TOKENS) * DEEP_LAYERS;
    double saving = (double)scripts / (double)(counters.row_layers + clean_run);
    printf("row-layers: the scripts' way %llu, ours %llu: %.1f times fewer\n", (unsigned long long)scripts,
           (unsigned long long)(counters.row_layers + clean_run), saving);
    assert_true(saving >= 10);
    work_release(&w);
    lp_mem_free(donors);
    lp_mem_free(weights);
    lp_mem_free(model.blocks);
}

static int setup(void **state) {
    lp_backend *be = NULL;
    OK(lp_backend_cpu_new(1, &be, err));
    *state = be;
    return 0;
}

static int teardown(void **state) {
    lp_backend_free(*state);
    return 0;
}

int main(void) {
    if (!golden_kernels_run_here()) return GOLDEN_SKIPPED;
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_nothing_twice, setup, teardown),
                                       cmocka_unit_test_setup_teardown(test_seed_shape, setup, teardown)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
