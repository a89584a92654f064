/* Attention edges: their form, what they leave, which are dead or refused, and that a row to which a step is forbidden
 * gives the bits of a row whose cache does not hold that step. */
#include "support/golden.h"

#include "nn/forward.h"
#include "patch/edges.h"
#include "support/check_backend.h"

#include "base/memory.h"

enum { L = 3, T = 4, P = 5, HEADS = 4, KV_HEADS = 2, ANSWER = P + T };
static const lp_model_config config = {
    .n_layers = L, .d_model = 8, .n_heads = HEADS, .n_kv_heads = KV_HEADS, .head_dim = 4, .n_embedded = 13};
static lp_error error, *failure = &error;

/* ---- Effective edges --------------------------------------------------------------------------------------------- */

enum { ALL = LP_INDEX_ALL, MOST = 10 };
#define EDGE(row_phase, row, key_phase, key, on_layer, of_head)                                                        \
    {                                                                                                                  \
        .at = {LP_PHASE_##row_phase, row, LP_SITE_Z, on_layer, of_head}, .operation = LP_OP_FORBID, .factor = 1,       \
        .donor = LP_DONOR_ZERO, .from = {                                                                              \
            LP_PHASE_##key_phase,                                                                                      \
            key,                                                                                                       \
            LP_SITE_Z,                                                                                                 \
            on_layer,                                                                                                  \
            of_head                                                                                                    \
        }                                                                                                              \
    }
#define REPLACE(row_phase, row, on_site, on_layer, of_head)                                                            \
    {                                                                                                                  \
        .at = {LP_PHASE_##row_phase, row, LP_SITE_##on_site, on_layer, of_head}, .factor = 1, .from = {                \
            LP_PHASE_##row_phase,                                                                                      \
            row,                                                                                                       \
            LP_SITE_##on_site,                                                                                         \
            on_layer,                                                                                                  \
            of_head                                                                                                    \
        }                                                                                                              \
    }

/* `wanted`: edges as "position[...] layer.head begin-end"; other edits as their site. */
typedef struct {
    const char *what, *wanted;
    lp_replacement list[MOST];
    int32_t n_steps;  /* 0: T */
    bool is_refused;  /* `wanted` is the message */
    int32_t n_answer; /* 0: not known */
} edge_case;

static void show(const lp_edit_sequence *edits, lp_text *out) {
    for (size_t i = 0; i < edits->n; i++) {
        const lp_timed_edit *e = &edits->edits[i];
        char end[16] = "";
        if (e->key_end != INT32_MAX) snprintf(end, sizeof end, "%d", e->key_end);
        if (lp_is_edge(e))
            OK(lp_text_format(out, err, "%s%d%s %d.%d %d-%s", i ? ", " : "", e->position, e->all ? "..." : "",
                              e->what.at.layer, e->what.at.head, e->key_begin, end));
        else
            OK(lp_text_format(out, err, "%s%s", i ? ", " : "", lp_site_names()[e->what.at.site]));
    }
}

static void run_case(const edge_case *c) {
    lp_condition_set set = {0};
    lp_condition *condition = NULL;
    lp_edit_sequence edits = {0};
    lp_text found = {0};
    lp_run_shape shape = {
        .config = &config, .protocol = lp_protocol_preset(LP_PROTOCOL_CODI, T), .n_prompt = P, .n_answer = c->n_answer};
    OK(lp_condition_add(&set, "x", "", "", "", &condition, err));
    condition->n_steps_run = c->n_steps ? c->n_steps : T;
    for (int i = 0; i < MOST && c->list[i].factor != 0; i++) OK(lp_condition_replace(&set, &c->list[i], err));
    lp_status status = lp_condition_effective(&set, 0, &shape, &edits, failure);
    if (c->is_refused) {
        if (status != LP_ERR_VALUE || strcmp(error.text, c->wanted) != 0)
            fail_msg("%s: expected \"%s\", found %s \"%s\"", c->what, c->wanted, lp_status_name(status), error.text);
    } else {
        if (status != LP_OK) fail_msg("%s: %s", c->what, error.text);
        if (edits.absent) OK(lp_text_format(&found, err, "absent"));
        show(&edits, &found);
        if (strcmp(lp_text_get(&found), c->wanted) != 0)
            fail_msg("%s: expected \"%s\", found \"%s\"", c->what, c->wanted, lp_text_get(&found));
    }
    lp_text_release(&found);
    lp_edit_sequence_release(&edits);
    lp_condition_set_release(&set);
}

static void test_effective(void **state) {
    (void)state;
    static const edge_case cases[] = {
        {"step to step", "8 1.-1 5-6", {EDGE(THOUGHT, 3, THOUGHT, 0, 1, -1)}, 0, false, 0},
        {"a step to itself", "7 1.2 7-8", {EDGE(THOUGHT, 2, THOUGHT, 2, 1, 2)}, 0, false, 0},
        {"causality forbids a later step", "", {EDGE(THOUGHT, 1, THOUGHT, 2, 1, -1)}, 0, false, 0},
        {"and the answer", "", {EDGE(THOUGHT, 1, ANSWER, ALL, 1, -1)}, 0, false, 0},
        {"all steps to all steps, as far as they come",
         "5 0.-1 5-6, 6 0.-1 5-7, 7 0.-1 5-8, 8 0.-1 5-9",
         {EDGE(THOUGHT, ALL, THOUGHT, ALL, 0, -1)},
         0,
         false,
         0},
        {"all steps to the prompt",
         "5 2.0 0-5, 6 2.0 0-5, 7 2.0 0-5",
         {EDGE(THOUGHT, ALL, PROMPT, ALL, 2, 0)},
         0,
         false,
         0},
        {"the prompt's end counted from the end", "4 1.-1 3-4", {EDGE(PROMPT, -1, PROMPT, -2, 1, -1)}, 0, false, 0},
        {"answers to steps", "9... 2.-1 5-9", {EDGE(ANSWER, ALL, THOUGHT, ALL, 2, -1)}, 0, false, 0},
        {"answers to steps, stopped early", "7... 2.-1 5-7", {EDGE(ANSWER, ALL, THOUGHT, ALL, 2, -1)}, 2, false, 0},
        {"answers to one of them", "11... 0.-1 11-12", {EDGE(ANSWER, ALL, ANSWER, 2, 0, -1)}, 0, false, 0},
        {"one answer position to all", "10 0.-1 9-11", {EDGE(ANSWER, 1, ANSWER, ALL, 0, -1)}, 0, false, 0},
        {"neighbours become one range",
         "8 1.-1 3-7",
         {EDGE(THOUGHT, 3, THOUGHT, 1, 1, -1), EDGE(THOUGHT, 3, PROMPT, -2, 1, -1), EDGE(THOUGHT, 3, THOUGHT, 0, 1, -1),
          EDGE(THOUGHT, 3, PROMPT, 4, 1, -1)},
         0,
         false,
         0},
        {"a gap stays",
         "8 1.-1 2-3, 8 1.-1 5-6",
         {EDGE(THOUGHT, 3, THOUGHT, 0, 1, -1), EDGE(THOUGHT, 3, PROMPT, 2, 1, -1)},
         0,
         false,
         0},
        {"every head is all heads",
         "8 1.-1 5-6",
         {EDGE(THOUGHT, 3, THOUGHT, 0, 1, 2), EDGE(THOUGHT, 3, THOUGHT, 0, 1, 0), EDGE(THOUGHT, 3, THOUGHT, 0, 1, 1),
          EDGE(THOUGHT, 3, THOUGHT, 0, 1, 3)},
         0,
         false,
         0},
        {"one head on top of all",
         "8 1.0 5-6, 8 1.1 5-7, 8 1.2 5-6, 8 1.3 5-6",
         {EDGE(THOUGHT, 3, THOUGHT, 0, 1, -1), EDGE(THOUGHT, 3, THOUGHT, 1, 1, 1)},
         0,
         false,
         0},
        {"one head within all",
         "8 1.-1 5-9",
         {EDGE(THOUGHT, 3, THOUGHT, ALL, 1, -1), EDGE(THOUGHT, 3, THOUGHT, 1, 1, 1)},
         0,
         false,
         0},
        {"nobody reads the last step's last layer", "", {EDGE(THOUGHT, 3, THOUGHT, 0, 2, -1)}, 0, false, 0},
        {"but the one before is read", "7 2.-1 5-6", {EDGE(THOUGHT, 2, THOUGHT, 0, 2, -1)}, 0, false, 0},
        {"beside a replacement",
         "resid_post, 8 1.-1 5-6",
         {EDGE(THOUGHT, 3, THOUGHT, 0, 1, -1), REPLACE(THOUGHT, 0, RESID_POST, 1, -1)},
         0,
         false,
         0},
        {"written over at z", "z", {EDGE(THOUGHT, 2, THOUGHT, 0, 1, -1), REPLACE(THOUGHT, 2, Z, 1, -1)}, 0, false, 0},
        {"written over at z of the head",
         "z",
         {EDGE(THOUGHT, 2, THOUGHT, 0, 1, 3), REPLACE(THOUGHT, 2, Z, 1, 3)},
         0,
         false,
         0},
        {"another head is not",
         "7 1.2 5-6, z",
         {EDGE(THOUGHT, 2, THOUGHT, 0, 1, 2), REPLACE(THOUGHT, 2, Z, 1, 3)},
         0,
         false,
         0},
        {"written over by the attention's output",
         "attn_out",
         {EDGE(THOUGHT, 2, THOUGHT, 0, 1, 2), REPLACE(THOUGHT, 2, ATTN_OUT, 1, -1), REPLACE(THOUGHT, 2, Q, 1, 0)},
         0,
         false,
         0},
        {"written over after the attention",
         "resid_mid",
         {EDGE(THOUGHT, 2, THOUGHT, 0, 1, 2), REPLACE(THOUGHT, 2, RESID_MID, 1, -1), REPLACE(THOUGHT, 2, Z, 1, 0)},
         0,
         false,
         0},
        {"queries and what heads attended to, last step, last layer",
         "",
         {REPLACE(THOUGHT, 3, Q, 2, -1), REPLACE(THOUGHT, 3, Z, 2, 1)},
         0,
         false,
         0},
        {"a prompt position that is not there", "absent", {EDGE(THOUGHT, 0, PROMPT, 7, 0, -1)}, 0, false, 0},
        {"an answer position that is not there", "absent", {EDGE(ANSWER, 3, PROMPT, 0, 0, -1)}, 0, false, 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) run_case(&cases[i]);
}

static void test_refusals(void **state) {
    (void)state;
#define NOTHING(place, layer, head)                                                                                    \
    "condition x: " place " may attend to nothing (layer " #layer ", query head " #head                                \
    "): expected at least one position that is left"
    static const edge_case cases[] = {
        {"the first position, itself", NOTHING("prompt 0", 1, 0), {EDGE(PROMPT, 0, PROMPT, 0, 1, -1)}, 0, true, 0},
        {"all of the prompt", NOTHING("prompt 0", 1, 2), {EDGE(PROMPT, ALL, PROMPT, ALL, 1, 2)}, 0, true, 0},
        {"prompt and steps",
         NOTHING("thought 1", 0, 0),
         {EDGE(THOUGHT, 1, PROMPT, ALL, 0, -1), EDGE(THOUGHT, 1, THOUGHT, ALL, 0, -1)},
         0,
         true,
         0},
        {"the answer, everything",
         NOTHING("answer 0", 0, 0),
         {EDGE(ANSWER, ALL, PROMPT, ALL, 0, -1), EDGE(ANSWER, ALL, THOUGHT, ALL, 0, -1),
          EDGE(ANSWER, ALL, ANSWER, ALL, 0, -1)},
         0,
         true,
         0},
        {"one answer position, by two kinds of edges",
         NOTHING("answer 1", 0, 2),
         {EDGE(ANSWER, ALL, PROMPT, ALL, 0, 2), EDGE(ANSWER, ALL, THOUGHT, ALL, 0, -1),
          EDGE(ANSWER, 1, ANSWER, ALL, 0, -1)},
         0,
         true,
         0},
        {"a step that the run does not make",
         "condition x: thought index 3: expected one within 2 positions",
         {EDGE(ANSWER, ALL, THOUGHT, 3, 0, -1)},
         2,
         true,
         0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) run_case(&cases[i]);
}

static void test_allowed(void **state) {
    (void)state;
    const lp_timed_edit edits[] = {
        {.position = 6, .what = {.at = {.head = 1}, .operation = LP_OP_FORBID}, .key_begin = 2, .key_end = 4},
        {.position = 7, .what = {.at = {.head = -1}, .operation = LP_OP_FORBID}, .all = true, .key_end = 1}};
    bool allowed[16];
    lp_timed_edit placed[2] = {edits[0], edits[1]};
    for (int i = 0; i < 2; i++) placed[i].depth = LP_SITE_Z;
    assert_false(lp_edges_allowed(placed, 2, 0, 0, 6, allowed));
    assert_false(lp_edges_allowed(placed, 2, 1, 1, 6, allowed));
    assert_true(lp_edges_allowed(placed, 2, 0, 1, 6, allowed));
    for (int p = 0; p <= 6; p++) assert_int_equal(allowed[p], p != 2 && p != 3);
    for (int32_t position = 7; position < 12; position++) {
        assert_true(lp_edges_allowed(placed, 2, 0, 3, position, allowed));
        for (int p = 0; p <= position; p++) assert_int_equal(allowed[p], p != 0);
    }
}

/* ---- A step left out of the cache -------------------------------------------------------------------------------- */

enum { N_POSITIONS = 24, LEFT_OUT = 9 };

/* Feeds tokens one by one, all positions in the tail. Of the positions from `from` on, the cache does not hold
 * LEFT_OUT, or all heads of all layers are forbidden it. hidden [D] of the last one. */
static void feed(lp_backend *be, lp_forward *forward, const lp_model *model, const lp_kv_pool *pool, int32_t from,
                 bool forbidden, float *hidden) {
    static const int32_t zero = 0;
    static const uint8_t one = 1;
    lp_forward_choice choices[LP_MAX_LAYERS];
    for (int32_t position = 0; position < N_POSITIONS; position++) {
        int32_t all[N_POSITIONS], left[N_POSITIONS], n_left = 0;
        for (int32_t p = 0; p <= position; p++) {
            all[p] = p;
            if (p != LEFT_OUT || position < from) left[n_left++] = p;
        }
        for (int32_t l = 0; l < model->config.n_layers; l++)
            choices[l] =
                (lp_forward_choice){.layer = l, .choice = {.n_heads = model->config.n_heads, .length = n_left}};
        bool chooses = forbidden && position >= from;
        const int32_t length = forbidden ? position + 1 : n_left;
        const lp_row_input input = {.token = (position * 7 + 3) % model->config.n_embedded};
        const lp_forward_batch batch = {.n_rows = 1,
                                        .first_layer = &zero,
                                        .source = &zero,
                                        .input = &input,
                                        .output = &one,
                                        .position = &position,
                                        .slot = &position,
                                        .prompt_begin = &zero,
                                        .prompt_length = &zero,
                                        .tail_begin = &zero,
                                        .tail_length = &length,
                                        .tail = forbidden ? all : left,
                                        .n_tail = length,
                                        .choices = choices,
                                        .n_choices = chooses ? model->config.n_layers : 0,
                                        .chosen = left,
                                        .n_chosen = chooses ? n_left : 0,
                                        .pool = pool};
        const float *out = NULL;
        int32_t n_out = 0;
        lp_status status = lp_forward_run(forward, &batch, &out, &n_out, failure);
        if (status != LP_OK) fail_msg("position %d: %s", position, error.text);
        OK(be->download(be, hidden, out, (size_t)model->config.d_model * sizeof(float), err));
    }
}

static void test_left_out(void **state) {
    (void)state;
    static const char *const models[] = {"gpt2-ln", "llama-gqa"};
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
        golden_model m;
        lp_backend *cpu = NULL, *be = NULL;
        lp_weights *weights = NULL;
        lp_forward *forward = NULL;
        void *keys = NULL, *values = NULL;
        float hidden[3][64];
        golden_model_open(models[i], &m);
        const lp_model_config *c = &m.model.config;
        assert_true(c->d_model <= 64);
        OK(lp_backend_cpu_new(1, &cpu, err));
        OK(lp_backend_check_new(cpu, &be, err));
        OK(lp_weights_new(be, &m.model, &weights, err));
        OK(lp_forward_new(weights, 1, c->n_context, &forward, err));
        lp_kv_pool pool = {.n_slots = N_POSITIONS, .n_layers = c->n_layers, .width = c->n_kv_heads * c->head_dim};
        size_t bytes = (size_t)(pool.n_layers * pool.n_slots * pool.width) * sizeof(float);
        OK(be->alloc(be, bytes, "keys", &keys, err));
        OK(be->alloc(be, bytes, "values", &values, err));
        pool.keys = keys;
        pool.values = values;
        feed(be, forward, &m.model, &pool, LEFT_OUT + 1, false, hidden[0]);
        feed(be, forward, &m.model, &pool, LEFT_OUT + 1, true, hidden[1]);
        feed(be, forward, &m.model, &pool, N_POSITIONS, true, hidden[2]);
        size_t row = (size_t)c->d_model * sizeof(float);
        if (memcmp(hidden[0], hidden[1], row) != 0) fail_msg("%s: forbidden is not left out", models[i]);
        if (memcmp(hidden[0], hidden[2], row) == 0) fail_msg("%s: forbidding it changes nothing", models[i]);
        be->release(be, keys);
        be->release(be, values);
        lp_forward_free(forward);
        lp_weights_free(weights);
        lp_backend_free(be);
        golden_model_close(&m);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_effective), cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_allowed), cmocka_unit_test(test_left_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
