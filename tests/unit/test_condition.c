/* Effective edits: what of a condition acts on a run, in which order; and which conditions are the same. */
#include "patch/condition.h"

#include "base/memory.h"

#include <setjmp.h>

#include <cmocka.h>

enum { L = 3, T = 6, P = 5, MAX = 8 };
static const lp_model_config config = {
    .n_layers = L, .d_model = 8, .n_heads = 2, .n_kv_heads = 2, .head_dim = 4, .n_vocab = 10, .n_embedded = 13};

static lp_run_shape shape_of(lp_protocol_kind kind, bool remove_eos) {
    lp_protocol protocol = lp_protocol_preset(kind, T);
    if (!remove_eos) lp_protocol_keep_eos(&protocol);
    return (lp_run_shape){.config = &config, .protocol = protocol, .n_prompt = P};
}

static lp_replacement put(lp_phase phase, int32_t index, lp_site site, int32_t layer) {
    lp_replacement r = {.at = {.phase = phase, .index = index, .site = site, .layer = layer, .head = LP_ALL_HEADS},
                        .factor = 1.0f,
                        .donor = LP_DONOR_CLEAN};
    r.from = r.at;
    return r;
}

static void add(lp_condition_set *set, const char *name, lp_direction direction, const lp_replacement *list, size_t n) {
    lp_error err = {0};
    lp_condition *condition = NULL;
    assert_int_equal(lp_condition_add(set, name, "", "", "", &condition, &err), LP_OK);
    condition->direction = direction;
    condition->n_steps_run = T;
    for (size_t i = 0; i < n; i++) assert_int_equal(lp_condition_replace(set, &list[i], &err), LP_OK);
}

#define PROMPT(i, site, l)  put(LP_PHASE_PROMPT, i, LP_SITE_##site, l)
#define THOUGHT(i, site, l) put(LP_PHASE_THOUGHT, i, LP_SITE_##site, l)
#define ANSWER(i, site, l)  put(LP_PHASE_ANSWER, i, LP_SITE_##site, l)

/* Which of the replacements are left, as letters in the order of time: a is the first of the list. */
typedef struct {
    const char *what;
    lp_replacement list[MAX];
    size_t n;
    lp_protocol_kind kind;
    bool keep_eos;
    const char *left;
} edit_case;

static const lp_protocol_kind CODI = LP_PROTOCOL_CODI, BOT = LP_PROTOCOL_BOT_FIRST;

static void run_case(const edit_case *c) {
    lp_condition_set set = {0};
    lp_edit_sequence edits = {0};
    lp_error err = {0};
    lp_replacement marked[MAX];
    char left[MAX + 1] = "";
    lp_run_shape shape = shape_of(c->kind, !c->keep_eos);
    for (size_t i = 0; i < c->n; i++) {
        marked[i] = c->list[i];
        marked[i].vector = (int32_t)i;
    }
    add(&set, c->what, LP_DENOISE, marked, c->n);
    if (lp_condition_effective(&set, 0, &shape, &edits, &err) != LP_OK) fail_msg("%s: %s", c->what, err.text);
    for (size_t i = 0; i < edits.n && i < MAX; i++) left[i] = (char)('a' + edits.edits[i].what.vector);
    if (strcmp(left, c->left) != 0) fail_msg("%s: expected edits \"%s\", found \"%s\"", c->what, c->left, left);
    lp_edit_sequence_release(&edits);
    lp_condition_set_release(&set);
}

static lp_replacement with(lp_replacement r, lp_operation operation, float factor) {
    r.operation = operation;
    r.factor = factor;
    return r;
}

static void test_dead_and_wiped(void **state) {
    (void)state;
    const lp_replacement last_post = THOUGHT(T - 1, RESID_POST, L - 1);
    const edit_case cases[] = {
        {"order of time", {THOUGHT(1, V, 0), THOUGHT(0, MLP_OUT, 1), PROMPT(0, K, 2)}, 3, CODI, false, "cba"},
        {"order within a position",
         {THOUGHT(0, LATENT_RAW, 0), THOUGHT(0, K, 1), THOUGHT(0, LATENT_IN, 0), THOUGHT(0, ATTN_OUT, 0)},
         4,
         CODI,
         false,
         "cdba"},
        {"last step, last layer", {last_post}, 1, CODI, false, ""},
        {"last step, last layer, bot-first", {last_post}, 1, BOT, false, ""},
        {"last step, last layer, attention", {THOUGHT(T - 1, ATTN_OUT, L - 1)}, 1, CODI, false, ""},
        {"last step, last layer, middle", {THOUGHT(T - 1, RESID_MID, L - 1)}, 1, CODI, false, ""},
        {"last step, last layer, MLP", {THOUGHT(T - 1, MLP_OUT, L - 1)}, 1, CODI, false, ""},
        {"last step, final hidden", {THOUGHT(T - 1, LATENT_RAW, 0)}, 1, BOT, false, ""},
        {"last step, last layer's input", {THOUGHT(T - 1, RESID_PRE, L - 1)}, 1, CODI, false, "a"},
        {"last step, last layer's keys", {THOUGHT(T - 1, K, L - 1)}, 1, CODI, false, "a"},
        {"last step, last layer's values", {THOUGHT(T - 1, V, L - 1)}, 1, CODI, false, "a"},
        {"last step, counted from the end", {THOUGHT(-1, RESID_POST, L - 1)}, 1, CODI, false, ""},
        {"step before the last, last layer", {THOUGHT(T - 2, RESID_POST, L - 1)}, 1, CODI, false, "a"},
        {"last prompt position feeds step 0", {PROMPT(-1, RESID_POST, L - 1)}, 1, CODI, false, "a"},
        {"last prompt position, bot-first", {PROMPT(-1, RESID_POST, L - 1)}, 1, BOT, false, ""},
        {"last prompt position, final hidden", {PROMPT(P - 1, LATENT_RAW, 0)}, 1, BOT, false, ""},
        {"prompt position inside", {PROMPT(1, RESID_POST, L - 1)}, 1, CODI, false, ""},
        {"prompt position inside, lower layer", {PROMPT(1, RESID_POST, L - 2)}, 1, CODI, false, "a"},
        {"eot chooses the first token", {ANSWER(0, RESID_POST, L - 1)}, 1, CODI, false, "a"},
        {"eot before eos chooses none", {ANSWER(0, RESID_POST, L - 1)}, 1, CODI, true, ""},
        {"eot before eos, final hidden", {ANSWER(0, LATENT_RAW, 0)}, 1, CODI, true, ""},
        {"eos chooses the first token", {ANSWER(1, RESID_POST, L - 1)}, 1, CODI, true, "a"},
        {"all answer positions are never dead", {ANSWER(LP_INDEX_ALL, RESID_POST, L - 1)}, 1, CODI, true, "a"},
        {"attn_out under resid_mid", {THOUGHT(0, ATTN_OUT, 1), THOUGHT(0, RESID_MID, 1)}, 2, CODI, false, "b"},
        {"mlp_out under resid_post", {THOUGHT(0, MLP_OUT, 1), THOUGHT(0, RESID_POST, 1)}, 2, CODI, false, "b"},
        {"resid_mid under resid_post", {THOUGHT(0, RESID_MID, 1), THOUGHT(0, RESID_POST, 1)}, 2, CODI, false, "b"},
        {"attn_out under resid_post", {THOUGHT(0, ATTN_OUT, 1), THOUGHT(0, RESID_POST, 1)}, 2, CODI, false, "b"},
        {"attn_out under the next layer's resid_pre",
         {THOUGHT(0, ATTN_OUT, 1), THOUGHT(0, RESID_PRE, 2)},
         2,
         CODI,
         false,
         "b"},
        {"keys are read beside resid_post", {THOUGHT(0, K, 1), THOUGHT(0, RESID_POST, 1)}, 2, CODI, false, "ab"},
        {"resid_pre is read by the keys", {THOUGHT(0, RESID_PRE, 0), THOUGHT(0, RESID_POST, 0)}, 2, CODI, false, "ab"},
        {"another layer's resid_post", {THOUGHT(0, MLP_OUT, 0), THOUGHT(0, RESID_POST, 1)}, 2, CODI, false, "ab"},
        {"latent_in under resid_pre[0]", {THOUGHT(0, LATENT_IN, 0), THOUGHT(0, RESID_PRE, 0)}, 2, CODI, false, "b"},
        {"last layer under latent_raw", {THOUGHT(0, MLP_OUT, L - 1), THOUGHT(0, LATENT_RAW, 0)}, 2, CODI, false, "b"},
        {"last layer's values beside latent_raw",
         {THOUGHT(0, V, L - 1), THOUGHT(0, LATENT_RAW, 0)},
         2,
         CODI,
         false,
         "ab"},
        {"lower layer beside latent_raw", {THOUGHT(0, RESID_POST, 0), THOUGHT(0, LATENT_RAW, 0)}, 2, CODI, false, "ab"},
        {"latent_raw under the next latent_in",
         {THOUGHT(1, LATENT_RAW, 0), THOUGHT(2, LATENT_IN, 0)},
         2,
         CODI,
         false,
         "b"},
        {"last layer under the next latent_in",
         {THOUGHT(1, RESID_POST, L - 1), THOUGHT(2, LATENT_IN, 0)},
         2,
         CODI,
         false,
         "b"},
        {"lower layer beside the next latent_in",
         {THOUGHT(1, RESID_POST, 0), THOUGHT(2, LATENT_IN, 0)},
         2,
         CODI,
         false,
         "ab"},
        {"prompt's output under step 0's input",
         {PROMPT(-1, LATENT_RAW, 0), THOUGHT(0, LATENT_IN, 0)},
         2,
         CODI,
         false,
         "b"},
        {"an answer's output chooses a token",
         {ANSWER(0, LATENT_RAW, 0), ANSWER(1, LATENT_IN, 0)},
         2,
         CODI,
         false,
         "ab"},
        {"a scaled sum keeps its parts",
         {THOUGHT(0, ATTN_OUT, 1), with(THOUGHT(0, RESID_MID, 1), LP_OP_SCALE, 2)},
         2,
         CODI,
         false,
         "ab"},
        {"lerp keeps its parts",
         {THOUGHT(0, MLP_OUT, 1), with(THOUGHT(0, RESID_POST, 1), LP_OP_LERP, 0.5f)},
         2,
         CODI,
         false,
         "ab"},
        {"added parts are wiped out too",
         {with(THOUGHT(0, MLP_OUT, 1), LP_OP_ADD, 2), THOUGHT(0, RESID_POST, 1)},
         2,
         CODI,
         false,
         "b"},
        {"all answer positions wipe nothing out",
         {ANSWER(1, MLP_OUT, 1), ANSWER(LP_INDEX_ALL, RESID_POST, 1)},
         2,
         CODI,
         false,
         "ba"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) run_case(&cases[i]);
}

static lp_timed_edit effective(lp_replacement r, lp_direction direction) {
    lp_condition_set set = {0};
    lp_edit_sequence edits = {0};
    lp_error err = {0};
    lp_run_shape shape = shape_of(LP_PROTOCOL_CODI, true);
    add(&set, "one", direction, &r, 1);
    if (lp_condition_effective(&set, 0, &shape, &edits, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(edits.n, 1);
    lp_timed_edit edit = edits.edits[0];
    lp_edit_sequence_release(&edits);
    lp_condition_set_release(&set);
    return edit;
}

static void test_resolution(void **state) {
    (void)state;
    lp_timed_edit e = effective(THOUGHT(2, RESID_PRE, 2), LP_DENOISE);
    assert_int_equal(e.position, P + 2);
    assert_int_equal(e.what.at.site, LP_SITE_RESID_POST);
    assert_int_equal(e.what.at.layer, 1);
    assert_int_equal(e.what.from.site, LP_SITE_RESID_POST);
    assert_int_equal(e.what.from.layer, 1);
    e = effective(THOUGHT(2, RESID_PRE, 0), LP_DENOISE);
    assert_int_equal(e.what.at.site, LP_SITE_RESID_PRE);
    e = effective(PROMPT(-2, K, 0), LP_DENOISE);
    assert_int_equal(e.position, P - 2);
    assert_int_equal(e.what.at.index, P - 2);
    assert_int_equal(e.what.from.index, -2); /* the donor's prompt has its own length */
    e = effective(ANSWER(3, V, 1), LP_DENOISE);
    assert_int_equal(e.position, P + T + 3);
    e = effective(ANSWER(LP_INDEX_ALL, V, 1), LP_DENOISE);
    assert_int_equal(e.position, P + T);
    assert_true(e.all);
    lp_replacement self = THOUGHT(0, V, 0);
    self.donor = LP_DONOR_SELF;
    assert_int_equal(effective(self, LP_DENOISE).what.donor, LP_DONOR_CORRUPTED);
    assert_int_equal(effective(self, LP_NOISE).what.donor, LP_DONOR_CLEAN);
}

static void test_all_positions(void **state) {
    (void)state;
    const struct {
        lp_phase phase;
        size_t n;
        int32_t first;
    } cases[] = {{LP_PHASE_PROMPT, P, 0}, {LP_PHASE_THOUGHT, T, P}};
    for (size_t i = 0; i < 2; i++) {
        lp_condition_set set = {0};
        lp_edit_sequence edits = {0};
        lp_error err = {0};
        lp_run_shape shape = shape_of(LP_PROTOCOL_CODI, true);
        lp_replacement r = put(cases[i].phase, LP_INDEX_ALL, LP_SITE_K, 1);
        add(&set, "all", LP_DENOISE, &r, 1);
        assert_int_equal(lp_condition_effective(&set, 0, &shape, &edits, &err), LP_OK);
        assert_int_equal(edits.n, cases[i].n);
        for (size_t k = 0; k < edits.n; k++) {
            assert_int_equal(edits.edits[k].position, cases[i].first + (int32_t)k);
            assert_int_equal(edits.edits[k].what.from.index, k);
            assert_false(edits.edits[k].all);
        }
        lp_edit_sequence_release(&edits);
        lp_condition_set_release(&set);
    }
}

static lp_replacement of_head(lp_replacement r, int32_t head) {
    r.at.head = r.from.head = head;
    return r;
}

static void test_refusals(void **state) {
    (void)state;
    const struct {
        lp_replacement list[2];
        size_t n;
        const char *message;
    } cases[] = {
        {{THOUGHT(T, V, 0)}, 1, "condition bad: thought index 6: expected one within 6 positions"},
        {{THOUGHT(-T - 1, V, 0)}, 1, "condition bad: thought index -7: expected one within 6 positions"},
        {{ANSWER(-1, V, 0)}, 1, "condition bad: answer positions cannot be counted from the end"},
        {{THOUGHT(1, V, 0), THOUGHT(1, V, 0)}, 2, "two replacements of the same address: thought 1 v layer 0"},
        {{THOUGHT(-1, V, 0), THOUGHT(T - 1, V, 0)}, 2, "two replacements of the same address: thought 5 v layer 0"},
        {{THOUGHT(0, RESID_PRE, 1), THOUGHT(0, RESID_POST, 0)}, 2, "same address: thought 0 resid_post layer 0"},
        {{of_head(THOUGHT(0, K, 1), 1), THOUGHT(0, K, 1)}, 2, "same address: thought 0 k layer 1"},
        {{ANSWER(LP_INDEX_ALL, V, 0), ANSWER(0, V, 0)}, 2, "same address: answer"},
        {{ANSWER(LP_INDEX_ALL, V, 0), ANSWER(4, V, 0)}, 2, "same address: answer 4 v layer 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_condition_set set = {0};
        lp_edit_sequence edits = {0};
        lp_error err = {0};
        lp_run_shape shape = shape_of(LP_PROTOCOL_CODI, true);
        add(&set, "bad", LP_DENOISE, cases[i].list, cases[i].n);
        if (lp_condition_effective(&set, 0, &shape, &edits, &err) != LP_ERR_VALUE ||
            !strstr(err.text, cases[i].message))
            fail_msg("case %zu: expected \"%s\", found \"%s\"", i, cases[i].message, err.text);
        lp_condition_set_release(&set);
    }
    lp_condition_set set = {0};
    lp_edit_sequence edits = {0};
    lp_error err = {0};
    lp_run_shape shape = shape_of(LP_PROTOCOL_CODI, true);
    const lp_replacement two_heads[] = {of_head(THOUGHT(0, K, 1), 1), of_head(THOUGHT(0, K, 1), 0)};
    add(&set, "two heads", LP_DENOISE, two_heads, 2);
    assert_int_equal(lp_condition_effective(&set, 0, &shape, &edits, &err), LP_OK);
    assert_int_equal(edits.n, 2);
    lp_edit_sequence_release(&edits);
    lp_condition_set_release(&set);
}

static lp_run_shapes shapes_of(lp_protocol_kind kind, const int32_t *lengths, size_t n) {
    lp_run_shape shape = shape_of(kind, true);
    return (lp_run_shapes){
        .config = shape.config, .protocol = shape.protocol, .n_prompt = {lengths, lengths}, .n = {n, n}};
}

static lp_replacement zero(lp_replacement r) {
    r.donor = LP_DONOR_ZERO;
    return r;
}

/* What holds for one prompt length need not hold for another. */
static void test_prompt_lengths(void **state) {
    (void)state;
    static const struct {
        int32_t n_prompt[3];
        size_t n;
        struct {
            int32_t index, layer;
        } at[2];
        const char *dead, *same_as; /* a digit for each condition */
        const char *message;        /* instead */
    } cases[] = {
        {{30}, 1, {{14, 0}, {-16, 0}}, "00", "00", NULL},
        {{17, 30}, 2, {{14, 0}, {-16, 0}}, "00", "01", NULL},
        {{17, 20}, 2, {{14, 0}, {-16, 0}}, "00", "01", NULL},
        {{18, 30}, 2, {{16, L - 1}, {17, L - 1}}, "10", "01", NULL},
        {{17, 30}, 2, {{16, L - 1}, {17, L - 1}}, "01", "01", NULL},
        {{20, 30}, 2, {{16, L - 1}, {17, L - 1}}, "11", "00", NULL},
        {{5, 30}, 2, {{9, 0}, {-21, 0}}, "00", "00", NULL},
        {{5, 9, 30}, 3, {{8, 0}, {-22, 0}}, "00", "01", NULL},
        {{5, 9}, 2, {{8, 0}, {9, 0}}, NULL, NULL, "condition 1: prompt index 9: expected one within 9 positions"},
        {{9, 5}, 2, {{-10, 0}, {1, 0}}, NULL, NULL, "condition 0: prompt index -10: expected one within 9 positions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_condition_set set = {0};
        lp_error err = {0};
        bool dead[2];
        int32_t same_as[2], fed_as[2];
        lp_condition_family family[2];
        char found[2][3] = {"", ""};
        for (int k = 0; k < 2; k++) {
            lp_replacement r = zero(PROMPT(cases[i].at[k].index, RESID_POST, cases[i].at[k].layer));
            add(&set, k == 0 ? "0" : "1", LP_DENOISE, &r, 1);
        }
        lp_run_shapes shapes = shapes_of(CODI, cases[i].n_prompt, cases[i].n);
        lp_status status = lp_conditions_compare(&set, &shapes, dead, same_as, family, fed_as, &err);
        if (cases[i].message) {
            if (status != LP_ERR_VALUE || strcmp(err.text, cases[i].message) != 0)
                fail_msg("case %zu: expected \"%s\", found \"%s\"", i, cases[i].message, err.text);
        } else {
            assert_int_equal(status, LP_OK);
            for (int k = 0; k < 2; k++) {
                found[0][k] = (char)('0' + dead[k]);
                found[1][k] = (char)('0' + same_as[k]);
            }
            if (strcmp(found[0], cases[i].dead) != 0 || strcmp(found[1], cases[i].same_as) != 0)
                fail_msg("case %zu: expected dead %s, same as %s; found %s and %s", i, cases[i].dead, cases[i].same_as,
                         found[0], found[1]);
        }
        lp_condition_set_release(&set);
    }
}

static void test_absent(void **state) {
    (void)state;
    static const struct {
        int32_t index;
        bool absent;
    } cases[] = {{0, false}, {P - 1, false}, {P, true}, {-P, false}, {-P - 1, true}, {LP_INDEX_ALL, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_condition_set set = {0};
        lp_edit_sequence edits = {0};
        lp_error err = {0};
        lp_run_shape shape = shape_of(CODI, true);
        const lp_replacement list[] = {PROMPT(cases[i].index, V, 0), THOUGHT(1, V, 0)};
        add(&set, "one", LP_DENOISE, list, 2);
        assert_int_equal(lp_condition_effective(&set, 0, &shape, &edits, &err), LP_OK);
        if (edits.absent != cases[i].absent || (edits.n == 0) != cases[i].absent)
            fail_msg("index %d: absent is %d, %zu edits", cases[i].index, edits.absent, edits.n);
        assert_int_equal(lp_condition_is_absent(&set, 0, &shape), cases[i].absent);
        lp_edit_sequence_release(&edits);
        lp_condition_set_release(&set);
    }
}

/* An answer of three positions; of a run whose answer is not known yet, none is absent. */
static void test_absent_answer(void **state) {
    (void)state;
    static const struct {
        int32_t index, n_answer;
        bool absent;
    } cases[] = {{0, 3, false}, {2, 3, false}, {3, 3, true}, {3, 0, false}, {LP_INDEX_ALL, 3, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_condition_set set = {0};
        lp_edit_sequence events = {0};
        lp_error err = {0};
        lp_run_shape shape = shape_of(CODI, true);
        lp_replacement list[] = {THOUGHT(1, V, 0), THOUGHT(cases[i].index, V, 0)};
        list[1].at.phase = list[1].from.phase = LP_PHASE_ANSWER;
        shape.n_answer = cases[i].n_answer;
        add(&set, "one", LP_DENOISE, list, 2);
        assert_int_equal(lp_condition_effective(&set, 0, &shape, &events, &err), LP_OK);
        if (events.absent != cases[i].absent || events.n != (cases[i].absent ? 0 : 2))
            fail_msg("answer %d of %d: absent is %d, %zu events", cases[i].index, cases[i].n_answer, events.absent,
                     events.n);
        lp_edit_sequence_release(&events);
        lp_condition_set_release(&set);
    }
}

static void add_first(lp_condition_set *set, const char *name, lp_direction direction, int32_t n, int32_t layer) {
    lp_replacement list[T];
    for (int32_t t = 0; t < n; t++) list[t] = THOUGHT(t, RESID_POST, layer);
    add(set, name, direction, list, (size_t)n);
}

static void test_compare(void **state) {
    (void)state;
    static const struct {
        const char *name;
        bool dead;
        const char *same_as;
    } wanted[] = {{"unpatched", false, "unpatched"},
                  {"first:5 L2", false, "first:5 L2"},
                  {"first:6 L2", false, "first:5 L2"},
                  {"first:6 L1", false, "first:6 L1"},
                  {"single:5 L2", true, "unpatched"},
                  {"first:6 L1 noise", false, "first:6 L1 noise"},
                  {"first:6 pre L2", false, "first:6 L1"},
                  {"self V", false, "self V"},
                  {"corrupted V", false, "self V"},
                  {"clean V", false, "clean V"},
                  {"add 1", false, "add 1"},
                  {"add 2", false, "add 2"},
                  {"scale by clean", false, "scale by clean"},
                  {"scale by zero", false, "scale by clean"},
                  {"stopped", false, "stopped"},
                  {"dead again", true, "unpatched"}};
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_replacement r;
    add(&set, "unpatched", LP_DENOISE, NULL, 0);
    add_first(&set, "first:5 L2", LP_DENOISE, 5, 2);
    add_first(&set, "first:6 L2", LP_DENOISE, 6, 2);
    add_first(&set, "first:6 L1", LP_DENOISE, 6, 1);
    r = THOUGHT(5, RESID_POST, 2);
    add(&set, "single:5 L2", LP_DENOISE, &r, 1);
    add_first(&set, "first:6 L1 noise", LP_NOISE, 6, 1);
    lp_replacement pre[T];
    for (int32_t t = 0; t < T; t++) pre[T - 1 - t] = THOUGHT(t, RESID_PRE, 2);
    add(&set, "first:6 pre L2", LP_DENOISE, pre, T);
    r = THOUGHT(1, V, 0);
    r.donor = LP_DONOR_SELF;
    add(&set, "self V", LP_DENOISE, &r, 1);
    r.donor = LP_DONOR_CORRUPTED;
    add(&set, "corrupted V", LP_DENOISE, &r, 1);
    r.donor = LP_DONOR_CLEAN;
    add(&set, "clean V", LP_DENOISE, &r, 1);
    r = with(r, LP_OP_ADD, 1);
    add(&set, "add 1", LP_DENOISE, &r, 1);
    r = with(r, LP_OP_ADD, 2);
    add(&set, "add 2", LP_DENOISE, &r, 1);
    r = with(r, LP_OP_SCALE, 2);
    add(&set, "scale by clean", LP_DENOISE, &r, 1);
    r.donor = LP_DONOR_ZERO;
    add(&set, "scale by zero", LP_DENOISE, &r, 1);
    add(&set, "stopped", LP_DENOISE, NULL, 0);
    set.conditions[set.n - 1].n_steps_run = T - 1;
    r = THOUGHT(5, LATENT_RAW, 0);
    add(&set, "dead again", LP_DENOISE, &r, 1);
    assert_int_equal(set.n, sizeof wanted / sizeof wanted[0]);

    for (int kind = 0; kind < 2; kind++) {
        bool dead[32];
        int32_t same_as[32], fed_as[32];
        lp_condition_family family[32];
        const int32_t lengths[] = {P, P + 2};
        lp_run_shapes shapes = shapes_of((lp_protocol_kind)kind, lengths, 2);
        if (lp_conditions_compare(&set, &shapes, dead, same_as, family, fed_as, &err) != LP_OK)
            fail_msg("%s", err.text);
        for (size_t i = 0; i < set.n; i++) {
            assert_string_equal(set.conditions[i].name, wanted[i].name);
            if (dead[i] != wanted[i].dead) fail_msg("%s: dead is %d", wanted[i].name, dead[i]);
            const char *same = set.conditions[same_as[i]].name;
            if (strcmp(same, wanted[i].same_as) != 0)
                fail_msg("%s: expected same as %s, found %s", wanted[i].name, wanted[i].same_as, same);
        }
    }
    lp_condition_set_release(&set);
}

/* A product of long lists ends with a message, not with the memory. */
static void test_most_conditions(void **state) {
    (void)state;
    lp_condition_set set = {0};
    lp_condition *condition = NULL;
    lp_error error = {0};
    for (int i = 0; i < LP_MAX_CONDITIONS; i++)
        if (lp_condition_add(&set, "c", "", "", "", &condition, &error) != LP_OK) fail_msg("%s", error.text);
    assert_int_equal(lp_condition_add(&set, "d", "", "", "", &condition, &error), LP_ERR_VALUE);
    assert_string_equal(error.text,
                        "sweep.conditions: expected at most 500000 conditions, found more (the last one is c)");
    assert_int_equal(set.n, LP_MAX_CONDITIONS);
    lp_condition_set_release(&set);
}

static lp_replacement edge(int32_t row, int32_t to) {
    lp_replacement r = put(LP_PHASE_THOUGHT, row, LP_SITE_Z, 1);
    r.operation = LP_OP_FORBID;
    r.donor = LP_DONOR_ZERO;
    r.from.index = to;
    return r;
}

static lp_replacement of(lp_replacement r, lp_donor donor) {
    r.donor = donor;
    return r;
}

/* What is known of the second of two conditions, and whether it is like the first. */
static void test_families(void **state) {
    (void)state;
    const struct {
        const char *what;
        lp_replacement first[3], second[3];
        size_t n_first, n_second;
        lp_condition_family family;
        bool is_like;
    } cases[] = {
        {"different", {THOUGHT(0, K, 0)}, {THOUGHT(0, V, 0)}, 1, 1, LP_FAMILY_NONE, false},
        {"nobody reads it", {THOUGHT(0, K, 0)}, {THOUGHT(T - 1, Z, L - 1)}, 1, 1, LP_FAMILY_DEAD_UNREAD, false},
        {"an edge to a later step", {THOUGHT(0, K, 0)}, {edge(1, 3)}, 1, 1, LP_FAMILY_DEAD_CAUSAL, false},
        {"a step more that nobody reads",
         {THOUGHT(0, RESID_POST, L - 1)},
         {THOUGHT(0, RESID_POST, L - 1), THOUGHT(T - 1, RESID_POST, L - 1)},
         1,
         2,
         LP_FAMILY_EQUAL_UNREAD,
         true},
        {"written over",
         {THOUGHT(0, RESID_POST, 1), THOUGHT(0, MLP_OUT, 1)},
         {THOUGHT(0, RESID_POST, 1)},
         2,
         1,
         LP_FAMILY_EQUAL_OVERWRITTEN,
         true},
        {"a joint condition with a later edge",
         {THOUGHT(0, RESID_POST, 1)},
         {THOUGHT(0, RESID_POST, 1), edge(1, 3)},
         1,
         2,
         LP_FAMILY_EQUAL_CAUSAL,
         true},
        {"all steps, as far as they come",
         {edge(1, 0), edge(1, 1)},
         {edge(1, LP_INDEX_ALL)},
         2,
         1,
         LP_FAMILY_EQUAL_CAUSAL,
         true},
        {"in different words",
         {of_head(edge(2, 0), 0), of_head(edge(2, 0), 1)},
         {edge(2, 0)},
         2,
         1,
         LP_FAMILY_EQUAL_WORDS,
         true},
        {"fed to the next step", {THOUGHT(1, LATENT_RAW, 0)}, {THOUGHT(2, LATENT_IN, 0)}, 1, 1, LP_FAMILY_FED, true},
        {"two outputs and two inputs",
         {THOUGHT(2, LATENT_IN, 0), THOUGHT(3, LATENT_IN, 0)},
         {THOUGHT(1, RESID_POST, L - 1), THOUGHT(2, LATENT_RAW, 0)},
         2,
         2,
         LP_FAMILY_FED,
         true},
        {"the mean of outputs is not fed",
         {of(THOUGHT(2, LATENT_IN, 0), LP_DONOR_MEAN)},
         {of(THOUGHT(1, LATENT_RAW, 0), LP_DONOR_MEAN)},
         1,
         1,
         LP_FAMILY_NONE,
         false},
        {"nor is what is added",
         {with(THOUGHT(2, LATENT_IN, 0), LP_OP_ADD, 1)},
         {with(THOUGHT(1, LATENT_RAW, 0), LP_OP_ADD, 1)},
         1,
         1,
         LP_FAMILY_NONE,
         false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        static const int32_t lengths[] = {P};
        lp_condition_set set = {0};
        lp_error err = {0};
        bool dead[2];
        int32_t same_as[2], fed_as[2];
        lp_condition_family family[2];
        const lp_run_shapes shapes = shapes_of(CODI, lengths, 1);
        add(&set, "first", LP_DENOISE, cases[i].first, cases[i].n_first);
        add(&set, "second", LP_DENOISE, cases[i].second, cases[i].n_second);
        if (lp_conditions_compare(&set, &shapes, dead, same_as, family, fed_as, &err) != LP_OK)
            fail_msg("%s: %s", cases[i].what, err.text);
        bool is_like = same_as[1] == 0 || fed_as[1] == 0;
        if (family[1] != cases[i].family || is_like != cases[i].is_like)
            fail_msg("%s: expected %s, found %s", cases[i].what, lp_condition_family_reason(cases[i].family),
                     lp_condition_family_reason(family[1]));
        assert_int_equal(dead[1], family[1] == LP_FAMILY_DEAD_UNREAD || family[1] == LP_FAMILY_DEAD_CAUSAL);
        lp_condition_set_release(&set);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_most_conditions), cmocka_unit_test(test_dead_and_wiped),
                                       cmocka_unit_test(test_resolution),      cmocka_unit_test(test_all_positions),
                                       cmocka_unit_test(test_refusals),        cmocka_unit_test(test_compare),
                                       cmocka_unit_test(test_prompt_lengths),  cmocka_unit_test(test_absent),
                                       cmocka_unit_test(test_absent_answer),   cmocka_unit_test(test_families)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
