/* The words of a sweep: step sets, layer sets, and the conditions that groups of a job span. */
#include "patch/expand.h"

#include "base/memory.h"

#include <setjmp.h>

#include <cmocka.h>

/* ---- Step sets --------------------------------------------------------------------------------------------------- */

/* `sets`: words=steps, separated by blanks; NULL: refused. */
typedef struct {
    const char *text;
    int32_t n_steps;
    const char *sets;
} language_case;

static void check_language(const language_case *c, const lp_text *found, lp_status status, const lp_error *err,
                           const char *message) {
    if (!c->sets) {
        if (status != LP_ERR_VALUE || !strstr(err->text, message) || strncmp(err->text, "job.json: $.x: ", 15) != 0)
            fail_msg("\"%s\": expected refusal \"job.json: $.x: ...%s\", found %s \"%s\"", c->text, message,
                     lp_status_name(status), err->text);
        return;
    }
    if (status != LP_OK) fail_msg("\"%s\": %s", c->text, err->text);
    if (strcmp(lp_text_get(found), c->sets) != 0)
        fail_msg("\"%s\": expected \"%s\", found \"%s\"", c->text, c->sets, lp_text_get(found));
}

static void test_step_sets(void **state) {
    (void)state;
    static const language_case cases[] = {
        {"all", 6, "all=012345"},
        {"all", 1, "all=0"},
        {"first:1", 6, "first:1=0"},
        {"first:1-3", 6, "first:1=0 first:2=01 first:3=012"},
        {"first:6", 6, "first:6=012345"},
        {"last:1-2", 6, "last:1=5 last:2=45"},
        {"last:6", 6, "last:6=012345"},
        {"single:0-2", 3, "single:0=0 single:1=1 single:2=2"},
        {"window:2", 4, "window:2@0=01 window:2@1=12 window:2@2=23"},
        {"window:2-3", 3, "window:2@0=01 window:2@1=12 window:3@0=012"},
        {"set:0,1,4,5", 6, "set:0,1,4,5=0145"},
        {"set:5,0", 6, "set:0,5=05"},
        {"set:3", 6, "set:3=3"},
        {"subset:all", 2, "set:0=0 set:1=1 set:0,1=01"},
        {"complement:first:2", 6, "complement:first:2=2345"},
        {"complement:single:0-1", 3, "complement:single:0=12 complement:single:1=02"},
        {"complement:first:1-3", 3, "complement:first:1=12 complement:first:2=2"},
        {"complement:set:1,2", 4, "complement:set:1,2=03"},
        {"", 6, NULL},
        {"first", 6, NULL},
        {"first:", 6, NULL},
        {"first:0", 6, NULL},
        {"first:7", 6, NULL},
        {"first:1-7", 6, NULL},
        {"first:3-2", 6, NULL},
        {"first:1-", 6, NULL},
        {"first:-1", 6, NULL},
        {"first: 1", 6, NULL},
        {"first:1 ", 6, NULL},
        {"first:+1", 6, NULL},
        {"first:99999999999999999999", 6, NULL},
        {"first:1,2", 6, NULL},
        {"First:1", 6, NULL},
        {"firs:1", 6, NULL},
        {"firsts:1", 6, NULL},
        {"last:0", 6, NULL},
        {"single:6", 6, NULL},
        {"window:7", 6, NULL},
        {"window:0", 6, NULL},
        {"all:1", 6, NULL},
        {"all:", 6, NULL},
        {"set:", 6, NULL},
        {"set:6", 6, NULL},
        {"set:1,1", 6, NULL},
        {"set:1,", 6, NULL},
        {"set:,1", 6, NULL},
        {"set:0-2", 6, NULL},
        {"set:-1", 6, NULL},
        {"subset:1", 6, NULL},
        {"subset", 6, NULL},
        {"complement", 6, NULL},
        {"complement:", 6, NULL},
        {"complement:complement:first:1", 6, NULL},
        {"complement:first:9", 6, NULL},
        {"complement:all:1", 6, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_step_set *sets = NULL;
        size_t n = 0, capacity = 0;
        lp_error err = {0};
        lp_text found = {0};
        lp_status status =
            lp_step_sets_parse(cases[i].text, cases[i].n_steps, "job.json: $.x", &sets, &n, &capacity, &err);
        for (size_t k = 0; status == LP_OK && k < n; k++) {
            lp_error ignored;
            assert_int_equal(lp_text_format(&found, &ignored, "%s%s=", k ? " " : "", sets[k].words), LP_OK);
            for (int t = 0; t < 64; t++)
                if (sets[k].mask >> t & 1) assert_int_equal(lp_text_format(&found, &ignored, "%d", t), LP_OK);
        }
        check_language(&cases[i], &found, status, &err, "expected a step set within 6 steps");
        lp_text_release(&found);
        lp_mem_free(sets);
    }
}

static void test_step_set_limits(void **state) {
    (void)state;
    lp_step_set *sets = NULL;
    size_t n = 0, capacity = 0;
    lp_error err = {0};
    assert_int_equal(lp_step_sets_parse("subset:all", 12, "x", &sets, &n, &capacity, &err), LP_OK);
    assert_int_equal(n, 4095);
    assert_int_equal(sets[4094].mask, 4095);
    assert_string_equal(sets[4094].words, "set:0,1,2,3,4,5,6,7,8,9,10,11");
    assert_int_equal(lp_step_sets_parse("subset:all", 13, "x", &sets, &n, &capacity, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "x: subset:all of 13 steps is 8191 sets: at most 12 steps");
    assert_int_equal(lp_step_sets_parse("complement:all", 6, "x", &sets, &n, &capacity, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "x: \"complement:all\" leaves no step");
    assert_int_equal(lp_step_sets_parse("all", 0, "x", &sets, &n, &capacity, &err), LP_ERR_VALUE);
    assert_string_equal(err.text,
                        "x: expected a protocol with thought steps, found protocol.steps 0 (the phases of the run are "
                        "prompt and answer)");
    n = 0;
    assert_int_equal(lp_step_sets_parse("all", 64, "x", &sets, &n, &capacity, &err), LP_OK);
    assert_true(sets[0].mask == UINT64_MAX);
    assert_int_equal(lp_step_sets_parse("last:1", 64, "x", &sets, &n, &capacity, &err), LP_OK);
    assert_true(sets[1].mask == UINT64_C(1) << 63);
    /* Words say the whole set, however long: conditions are told apart by them. */
    char text[512] = "set:0";
    for (int t = 1; t < 63; t++) snprintf(text + strlen(text), sizeof text - strlen(text), ",%d", t);
    assert_int_equal(lp_step_sets_parse(text, 64, "x", &sets, &n, &capacity, &err), LP_OK);
    assert_string_equal(sets[2].words, text);
    lp_mem_free(sets);
}

/* ---- Layer sets -------------------------------------------------------------------------------------------------- */

static void test_layer_sets(void **state) {
    (void)state;
    static const language_case cases[] = {
        {"0", 12, "0=0"},
        {"2-4", 12, "2=2 3=3 4=4"},
        {"all", 3, "0=0 1=1 2=2"},
        {"early", 12, "3=3"},
        {"middle", 12, "6=6"},
        {"late", 12, "11=11"},
        {"early", 16, "4=4"},
        {"middle", 16, "8=8"},
        {"late", 16, "14=14"},
        {"late", 1, "0=0"},
        {"together:all", 3, "0-2=0,1,2"},
        {"together:1-2", 3, "1-2=1,2"},
        {"together:1", 3, "1=1"},
        {"window:2", 4, "0-1=0,1 1-2=1,2 2-3=2,3"},
        {"window:1", 2, "0=0 1=1"},
        {"window:2-3", 3, "0-1=0,1 1-2=1,2 0-2=0,1,2"},
        {"12", 12, NULL},
        {"-1", 12, NULL},
        {"3-2", 12, NULL},
        {"0-12", 12, NULL},
        {"", 12, NULL},
        {"every", 12, NULL},
        {"together", 12, NULL},
        {"together:", 12, NULL},
        {"together:0-12", 12, NULL},
        {"window:0", 12, NULL},
        {"window:13", 12, NULL},
        {"0,1", 12, NULL},
        {"late ", 12, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_layer_set *sets = NULL;
        size_t n = 0, capacity = 0;
        lp_error err = {0};
        lp_text found = {0};
        lp_status status =
            lp_layer_sets_parse(cases[i].text, cases[i].n_steps, "job.json: $.x", &sets, &n, &capacity, &err);
        for (size_t k = 0; status == LP_OK && k < n; k++) {
            lp_error ignored;
            assert_int_equal(lp_text_format(&found, &ignored, "%s%s=", k ? " " : "", sets[k].words), LP_OK);
            for (int32_t l = 0; l < sets[k].n; l++)
                assert_int_equal(lp_text_format(&found, &ignored, l ? ",%d" : "%d", sets[k].layers[l]), LP_OK);
        }
        check_language(&cases[i], &found, status, &err, "expected layers within 0-11");
        lp_text_release(&found);
        lp_mem_free(sets);
    }
}

/* ---- Expansion --------------------------------------------------------------------------------------------------- */

enum { N_LAYERS = 3 };
static const lp_model_config config = {
    .n_layers = N_LAYERS, .d_model = 8, .n_heads = 4, .n_kv_heads = 2, .head_dim = 2, .n_vocab = 10, .n_embedded = 13};

/* A group with room of its own, so that a test changes what it is about. */
typedef struct {
    lp_site sites[4];
    lp_donor donors[4];
    int32_t heads[2], indices[2], from_layers[4];
    float factors[2];
    lp_sweep_group group;
} words;

static void make(words *w, const char *layers, const char *steps, int32_t n_steps) {
    lp_error err = {0};
    size_t capacity = 0;
    *w = (words){.sites = {LP_SITE_RESID_POST}, .heads = {LP_ALL_HEADS}, .factors = {1}};
    lp_sweep_group *g = &w->group;
    *g = (lp_sweep_group){.phase = LP_PHASE_THOUGHT,
                          .sites = w->sites,
                          .n_sites = 1,
                          .donors = w->donors,
                          .n_donors = 1,
                          .heads = w->heads,
                          .n_heads = 1,
                          .indices = w->indices,
                          .factors = w->factors,
                          .n_factors = 1,
                          .from_step = -1};
    if (layers)
        assert_int_equal(lp_layer_sets_parse(layers, N_LAYERS, "", &g->layers, &g->n_layers, &capacity, &err), 0);
    capacity = 0;
    if (steps) assert_int_equal(lp_step_sets_parse(steps, n_steps, "", &g->steps, &g->n_steps, &capacity, &err), 0);
}

static void drop(words *w) {
    lp_mem_free(w->group.layers);
    lp_mem_free(w->group.steps);
    *w = (words){.sites = {LP_SITE_LATENT_IN}};
}

static lp_status group_of(void *user, size_t i, const lp_sweep_group **out, lp_error *err) {
    (void)err;
    *out = (const lp_sweep_group *)user + i;
    return LP_OK;
}

static lp_status expand(const words *w, size_t n, lp_sweep_words options, int32_t n_steps, lp_condition_set *set,
                        lp_error *err) {
    lp_sweep_group groups[4];
    for (size_t i = 0; i < n; i++) groups[i] = w[i].group;
    options.group = group_of;
    options.user = groups;
    options.n_groups = n;
    return lp_conditions_expand(&options, &config, n_steps, set, err);
}

/* "name: phase index site layer <- donor phase index site layer; ..." of one condition. */
static void describe(const lp_condition_set *set, size_t i, lp_text *out) {
    lp_error err;
    const lp_condition *c = &set->conditions[i];
    assert_int_equal(lp_text_format(out, &err, "%s [%s]", c->name, lp_role_names()[c->role]), LP_OK);
    for (size_t k = 0; k < c->n; k++) {
        const lp_replacement *r = &set->replacements[c->first + k];
        const lp_address *const both[2] = {&r->at, &r->from};
        for (int side = 0; side < 2; side++) {
            const lp_address *a = both[side];
            char index[16] = "*";
            if (a->index != LP_INDEX_ALL) snprintf(index, sizeof index, "%d", a->index);
            assert_int_equal(lp_text_format(out, &err, "%s%c%s.%s.%d", side ? "<" : " ", lp_phase_names()[a->phase][0],
                                            index, lp_site_names()[a->site], a->layer),
                             LP_OK);
        }
    }
}

static void check_set(const lp_condition_set *set, const char *const *wanted, size_t n) {
    for (size_t i = 0; i < n && i < set->n; i++) {
        lp_text found = {0};
        describe(set, i, &found);
        if (strcmp(lp_text_get(&found), wanted[i]) != 0)
            fail_msg("condition %zu:\n  expected %s\n  found    %s", i, wanted[i], lp_text_get(&found));
        lp_text_release(&found);
    }
    assert_int_equal(set->n, n);
}

#define CHECK(set, ...)                                                                                                \
    do {                                                                                                               \
        static const char *const check_wanted[] = {__VA_ARGS__};                                                       \
        check_set(set, check_wanted, sizeof check_wanted / sizeof check_wanted[0]);                                    \
        lp_condition_set_release(set);                                                                                 \
    } while (0)

static void test_product_and_controls(void **state) {
    (void)state;
    lp_condition_set set = {0};
    lp_error err = {0};
    words w;
    make(&w, "1-2", "first:1-2", 6);
    w.sites[1] = LP_SITE_LATENT_IN;
    w.group.n_sites = 2;
    assert_int_equal(expand(&w, 1, (lp_sweep_words){.denoise = true}, 6, &set, &err), LP_OK);
    CHECK(
        &set, "denoise/unpatched [unpatched]",
        "denoise/clean/replace/resid_post/L1/first:1 [effect] t0.resid_post.1<t0.resid_post.1",
        "denoise/clean/replace/resid_post/L1/first:2 [effect] t0.resid_post.1<t0.resid_post.1 "
        "t1.resid_post.1<t1.resid_post.1",
        "denoise/clean/replace/resid_post/L2/first:1 [effect] t0.resid_post.2<t0.resid_post.2",
        "denoise/clean/replace/resid_post/L2/first:2 [effect] t0.resid_post.2<t0.resid_post.2 "
        "t1.resid_post.2<t1.resid_post.2",
        "denoise/clean/replace/latent_in/first:1 [effect] t0.latent_in.0<t0.latent_in.0",
        "denoise/clean/replace/latent_in/first:2 [effect] t0.latent_in.0<t0.latent_in.0 t1.latent_in.0<t1.latent_in.0");

    /* Controls: self for the largest set, shuffled for every effect of the other run; each direction has its own.
     * Donors clean and corrupted together are the other run. */
    lp_sweep_words both = {.denoise = true, .noise = true, .controls = {true, true}};
    drop(&w);
    make(&w, "0", "first:1-2", 6);
    w.donors[1] = LP_DONOR_CORRUPTED;
    w.group.n_donors = 2;
    assert_int_equal(expand(&w, 1, both, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]", "noise/unpatched [unpatched]",
          "denoise/clean/replace/resid_post/L0/first:1 [effect] t0.resid_post.0<t0.resid_post.0",
          "denoise/clean/replace/resid_post/L0/first:2 [effect] t0.resid_post.0<t0.resid_post.0 "
          "t1.resid_post.0<t1.resid_post.0",
          "noise/corrupted/replace/resid_post/L0/first:1 [effect] t0.resid_post.0<t0.resid_post.0",
          "noise/corrupted/replace/resid_post/L0/first:2 [effect] t0.resid_post.0<t0.resid_post.0 "
          "t1.resid_post.0<t1.resid_post.0",
          "denoise/self/replace/resid_post/L0/first:2 [control] t0.resid_post.0<t0.resid_post.0 "
          "t1.resid_post.0<t1.resid_post.0",
          "denoise/shuffled/replace/resid_post/L0/first:1 [control] t0.resid_post.0<t0.resid_post.0",
          "denoise/shuffled/replace/resid_post/L0/first:2 [control] t0.resid_post.0<t0.resid_post.0 "
          "t1.resid_post.0<t1.resid_post.0",
          "noise/self/replace/resid_post/L0/first:2 [control] t0.resid_post.0<t0.resid_post.0 "
          "t1.resid_post.0<t1.resid_post.0",
          "noise/shuffled/replace/resid_post/L0/first:1 [control] t0.resid_post.0<t0.resid_post.0",
          "noise/shuffled/replace/resid_post/L0/first:2 [control] t0.resid_post.0<t0.resid_post.0 "
          "t1.resid_post.0<t1.resid_post.0");

    /* They are not, where the recipient's own run may change something; unless nothing else was meant. */
    w.group.from_step = 2;
    assert_int_equal(expand(&w, 1, (lp_sweep_words){.noise = true}, 6, &set, &err), LP_OK);
    assert_int_equal(set.n, 5);
    lp_condition_set_release(&set);
    w.group.other_run = true;
    assert_int_equal(expand(&w, 1, (lp_sweep_words){.noise = true}, 6, &set, &err), LP_OK);
    CHECK(&set, "noise/unpatched [unpatched]",
          "noise/corrupted/replace/resid_post/L0/first:1<step2 [effect] t0.resid_post.0<t2.resid_post.0",
          "noise/corrupted/replace/resid_post/L0/first:2<step2 [effect] t0.resid_post.0<t2.resid_post.0 "
          "t1.resid_post.0<t2.resid_post.0");

    /* Controls are self and shuffled; a random donor is an effect that the job asked for. */
    drop(&w);
    make(&w, "0", "single:1", 6);
    w.donors[0] = LP_DONOR_RANDOM;
    w.donors[1] = LP_DONOR_SHUFFLED;
    w.group.n_donors = 2;
    assert_int_equal(expand(&w, 1, (lp_sweep_words){.denoise = true}, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/random/replace/resid_post/L0/single:1 [effect] t1.resid_post.0<t1.resid_post.0",
          "denoise/shuffled/replace/resid_post/L0/single:1 [control] t1.resid_post.0<t1.resid_post.0");
    assert_int_equal(expand(&w, 1, (lp_sweep_words){.denoise = true, .n_draws = 3}, 6, &set, &err), LP_OK);
    assert_int_equal(set.n, 5);
    for (int32_t i = 0; i < 3; i++) {
        assert_int_equal(set.conditions[2 + i].draw, i);
        assert_int_equal(set.replacements[set.conditions[2 + i].first].vector, i);
    }
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/random/replace/resid_post/L0/single:1 [effect] t1.resid_post.0<t1.resid_post.0",
          "denoise/shuffled/replace/resid_post/L0/single:1 [control] t1.resid_post.0<t1.resid_post.0",
          "denoise/shuffled1/replace/resid_post/L0/single:1 [control] t1.resid_post.0<t1.resid_post.0",
          "denoise/shuffled2/replace/resid_post/L0/single:1 [control] t1.resid_post.0<t1.resid_post.0");

    /* Self is no control where it may change something; equal names are made once. */
    drop(&w);
    make(&w, "together:all", "single:3", 6);
    w.group.operation = LP_OP_ADD;
    w.factors[0] = 0.5f;
    words twice[2] = {w, w};
    assert_int_equal(expand(twice, 2, (lp_sweep_words){.denoise = true, .controls = {.self = true}}, 6, &set, &err),
                     LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/add:0.5/resid_post/L0-2/single:3 [effect] t3.resid_post.0<t3.resid_post.0 "
          "t3.resid_post.1<t3.resid_post.1 t3.resid_post.2<t3.resid_post.2");
    drop(&w);
}

static void test_other_donor_addresses(void **state) {
    (void)state;
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_sweep_words denoise = {.denoise = true};
    words w;
    make(&w, "0-1", "single:2", 6);
    w.group.from_other_site = true;
    w.group.from_site = LP_SITE_ATTN_OUT;
    w.from_layers[0] = 2;
    w.from_layers[1] = 0;
    w.group.from_layers = w.from_layers;
    w.group.from_step = 4;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/resid_post/L0/single:2<attn_out<L2<step4 [effect] t2.resid_post.0<t4.attn_out.2",
          "denoise/clean/replace/resid_post/L1/single:2<attn_out<L0<step4 [effect] t2.resid_post.1<t4.attn_out.0");
    drop(&w);
    /* A target without layers, from each of the donor's. */
    make(&w, "0-2", "single:1", 6);
    w.sites[0] = LP_SITE_LATENT_IN;
    w.group.from_other_site = true;
    w.group.from_site = LP_SITE_RESID_POST;
    for (int32_t l = 0; l < 3; l++) w.from_layers[l] = 2 - l;
    w.group.from_layers = w.from_layers;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/latent_in/single:1<resid_post<L2 [effect] t1.latent_in.0<t1.resid_post.2",
          "denoise/clean/replace/latent_in/single:1<resid_post<L1 [effect] t1.latent_in.0<t1.resid_post.1",
          "denoise/clean/replace/latent_in/single:1<resid_post<L0 [effect] t1.latent_in.0<t1.resid_post.0");
    drop(&w);
    /* A step's vector into a prompt or answer position. */
    make(&w, "1", NULL, 6);
    w.group.phase = LP_PHASE_ANSWER;
    w.indices[0] = LP_INDEX_ALL;
    w.group.n_indices = 1;
    w.group.from_step = 5;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/resid_post/L1/answer:all<step5 [effect] a*.resid_post.1<t5.resid_post.1");
    w.group.phase = LP_PHASE_PROMPT;
    w.indices[0] = -1;
    w.group.from_step = -1;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/resid_post/L1/prompt:-1 [effect] p-1.resid_post.1<p-1.resid_post.1");
    drop(&w);
    make(&w, "1", "single:0", 6);
    w.sites[0] = LP_SITE_K;
    w.heads[0] = 1;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    assert_int_equal(set.replacements[0].at.head, 1);
    assert_int_equal(set.replacements[0].from.head, 1);
    CHECK(&set, "denoise/unpatched [unpatched]", "denoise/clean/replace/k.h1/L1/single:0 [effect] t0.k.1<t0.k.1");
    drop(&w);
}

/* Keys and values in one condition, beside a site by itself; a leak takes both too. */
static void test_sites_together(void **state) {
    (void)state;
    words w;
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_sweep_words denoise = {.denoise = true, .controls = {.self = true}};
    uint32_t beside[2] = {1u << LP_SITE_V, 0};
    make(&w, "together:0-1", "single:0", 6);
    w.sites[0] = LP_SITE_K;
    w.sites[1] = LP_SITE_V;
    w.group.n_sites = 2;
    w.group.beside = beside;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/k+v/L0-1/single:0 [effect] t0.k.0<t0.k.0 t0.v.0<t0.v.0 t0.k.1<t0.k.1 t0.v.1<t0.v.1",
          "denoise/clean/replace/v/L0-1/single:0 [effect] t0.v.0<t0.v.0 t0.v.1<t0.v.1",
          "denoise/self/replace/k+v/L0-1/single:0 [control] t0.k.0<t0.k.0 t0.v.0<t0.v.0 t0.k.1<t0.k.1 t0.v.1<t0.v.1",
          "denoise/self/replace/v/L0-1/single:0 [control] t0.v.0<t0.v.0 t0.v.1<t0.v.1");
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    assert_string_equal(set.conditions[1].sites, "k+v");
    assert_string_equal(set.conditions[2].sites, "v");
    lp_condition_set_release(&set);
    /* Heads are those that each of the sites has. */
    beside[0] = 1u << LP_SITE_ATTN_OUT;
    w.heads[0] = 0;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "sweep.conditions[0].heads: only for the sites q, k, v and z");
    drop(&w);
}

/* The file of a group is that of its donor `file` alone: a zero is the same zero beside any of them. */
static void test_vector_of_the_file_donor(void **state) {
    (void)state;
    words w;
    lp_condition_set set = {0};
    lp_error err = {0};
    make(&w, "1", "first:1", 6);
    w.donors[0] = LP_DONOR_FILE;
    w.donors[1] = LP_DONOR_ZERO;
    w.group.n_donors = 2;
    w.group.vector = 3;
    if (expand(&w, 1, (lp_sweep_words){.denoise = true}, 6, &set, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(set.n_replacements, 2);
    for (size_t i = 0; i < 2; i++) {
        int32_t expected = set.replacements[i].donor == LP_DONOR_FILE ? 3 : 0;
        if (set.replacements[i].vector != expected)
            fail_msg("donor %s: expected vector %d, found %d", lp_donor_names()[set.replacements[i].donor], expected,
                     set.replacements[i].vector);
    }
    lp_condition_set_release(&set);
    drop(&w);
}

static void test_defects(void **state) {
    (void)state;
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_sweep_words denoise = {.denoise = true, .controls = {.self = true}};
    words w;
    make(&w, "1", "single:0", 2);
    w.group.defects = (lp_defects){.off_by_one = true, .prefill_leak = true, .decode_leak = true};
    assert_int_equal(expand(&w, 1, denoise, 2, &set, &err), LP_OK);
    assert_string_equal(set.conditions[1].defects, "off_by_one,prefill_leak,decode_leak");
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/resid_post/L1/single:0/+off_by_one,prefill_leak,decode_leak [effect] "
          "p-1.resid_post.1<t0.resid_pre.1 t0.resid_post.1<t0.resid_pre.1");
    drop(&w);
    make(&w, "1", "all", 2);
    w.group.defects = (lp_defects){.decode_leak = true};
    assert_int_equal(expand(&w, 1, denoise, 2, &set, &err), LP_OK);
    CHECK(&set, "denoise/unpatched [unpatched]",
          "denoise/clean/replace/resid_post/L1/all/+decode_leak [effect] t0.resid_post.1<t0.resid_post.1 "
          "t1.resid_post.1<t1.resid_post.1 a*.resid_post.1<t1.resid_post.1");
    drop(&w);
}

static void test_early_stop(void **state) {
    (void)state;
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_sweep_words denoise = {.denoise = true};
    words w;
    make(&w, "1", "first:2", 6);
    w.group.stop_after = 3;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_OK);
    assert_int_equal(set.conditions[0].n_steps_run, 6);
    assert_int_equal(set.conditions[1].n_steps_run, 3);
    assert_string_equal(set.conditions[1].name, "denoise/clean/replace/resid_post/L1/first:2/stop:3");
    lp_condition_set_release(&set);
    w.group.stop_after = 1;
    assert_int_equal(expand(&w, 1, denoise, 6, &set, &err), LP_ERR_VALUE);
    assert_string_equal(
        err.text,
        "sweep.conditions: condition denoise/clean/replace/resid_post/L1/first:2/stop:1: a step beyond the end "
        "of the run (1 steps)");
    drop(&w);
    make(&w, "1", "all", LP_MAX_STEPS);
    assert_int_equal(expand(&w, 1, denoise, LP_MAX_STEPS, &set, &err), LP_OK);
    assert_int_equal(set.conditions[1].n, LP_MAX_STEPS);
    lp_condition_set_release(&set);
    drop(&w);
}

typedef enum {
    NO_SITES,
    NO_DONORS,
    NO_LAYERS,
    NO_STEPS,
    NO_INDEX,
    NO_HEADS,
    NO_FACTOR,
    NO_DIRECTION,
    OWN_RUN,
    NO_GROUPS,
    LEAK_IN_PROMPT,
    OFF_BY_ONE_ELSEWHERE,
    STOP_LATE,
    FROM_LATE,
    HEAD_RANGE,
    HEAD_SITE,
    FROM_LAYERS_TOGETHER,
    FROM_WITHOUT_LAYERS,
    FROM_LAYERS_OF_NONE
} flaw;

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        flaw flaw;
        const char *message;
    } cases[] = {
        {NO_SITES, "sweep.conditions[0]: no sites or no donors"},
        {NO_DONORS, "sweep.conditions[0]: no sites or no donors"},
        {NO_LAYERS, "sweep.conditions[0]: no layers"},
        {NO_STEPS, "sweep.conditions[0]: no steps"},
        {NO_INDEX, "sweep.conditions[0]: no index"},
        {NO_HEADS, "sweep.conditions[0]: no heads"},
        {NO_FACTOR, "sweep.conditions[0]: no factor"},
        {NO_DIRECTION, "sweep.directions: no direction"},
        {OWN_RUN, "sweep.conditions[0].donor: \"clean\" is the recipient's own run in direction noise and would change "
                  "nothing: expected [\"clean\", \"corrupted\"], the other run in each direction"},
        {NO_GROUPS, "sweep.conditions: expected at least one condition, found none"},
        {LEAK_IN_PROMPT, "sweep.conditions[0].defects: only for phase thought"},
        {OFF_BY_ONE_ELSEWHERE, "sweep.conditions[0].defects: off_by_one is only for site resid_post"},
        {STOP_LATE, "sweep.conditions[0].stop_after: expected 1 to 6, found 7"},
        {FROM_LATE, "sweep.conditions[0].from.step: expected 0 to 5, found 6"},
        {HEAD_RANGE, "sweep.conditions[0].heads: expected heads 0 to 1 of k, found 2"},
        {HEAD_SITE, "sweep.conditions[0].heads: only for the sites q, k, v and z"},
        {FROM_LAYERS_TOGETHER, "sweep.conditions[0].from.layers: only for single target layers"},
        {FROM_WITHOUT_LAYERS, "sweep.conditions[0].from: expected the key \"layers\" (and as many in the condition's "
                              "own), as mlp_out has layers and latent_in none"},
        {FROM_LAYERS_OF_NONE, "sweep.conditions[0].from.layers: latent_raw has no layers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_condition_set set = {0};
        lp_error err = {0};
        words w;
        make(&w, "together:all", "all", 6);
        lp_sweep_group *g = &w.group;
        lp_sweep_words options = {.denoise = true};
        size_t n_groups = 1;
        switch (cases[i].flaw) {
        case NO_SITES: g->n_sites = 0; break;
        case NO_DONORS: g->n_donors = 0; break;
        case NO_LAYERS: g->n_layers = 0; break;
        case NO_STEPS: g->n_steps = 0; break;
        case NO_INDEX: g->phase = LP_PHASE_PROMPT; break;
        case NO_HEADS: g->n_heads = 0; break;
        case NO_FACTOR: g->n_factors = 0; break;
        case NO_DIRECTION: options.denoise = false; break;
        case OWN_RUN: options.noise = true; break;
        case NO_GROUPS: n_groups = 0; break;
        case LEAK_IN_PROMPT:
            g->phase = LP_PHASE_PROMPT;
            g->n_indices = 1;
            g->defects.decode_leak = true;
            break;
        case OFF_BY_ONE_ELSEWHERE:
            w.sites[0] = LP_SITE_MLP_OUT;
            g->defects.off_by_one = true;
            break;
        case STOP_LATE: g->stop_after = 7; break;
        case FROM_LATE: g->from_step = 6; break;
        case HEAD_RANGE:
            w.sites[0] = LP_SITE_K;
            w.heads[0] = 2;
            break;
        case HEAD_SITE: w.heads[0] = 1; break;
        case FROM_LAYERS_TOGETHER: g->from_layers = w.from_layers; break;
        case FROM_WITHOUT_LAYERS:
            w.sites[0] = LP_SITE_LATENT_IN;
            g->from_other_site = true;
            g->from_site = LP_SITE_MLP_OUT;
            break;
        case FROM_LAYERS_OF_NONE:
            g->layers[0].n = 1;
            g->from_layers = w.from_layers;
            g->from_other_site = true;
            g->from_site = LP_SITE_LATENT_RAW;
            break;
        }
        lp_status status = expand(&w, n_groups, options, 6, &set, &err);
        if (status != LP_ERR_VALUE || strcmp(err.text, cases[i].message) != 0)
            fail_msg("expected \"%s\", found \"%s\"", cases[i].message, err.text);
        assert_int_equal(set.n, 0);
        drop(&w);
    }
}

/* Every combination of what a name is made of gives a name of its own. */
static void test_names_are_unique(void **state) {
    (void)state;
    lp_condition_set set = {0};
    lp_error err = {0};
    static words w[4];
    make(&w[0], "all", "subset:all", 4);
    make(&w[1], "window:1-3", "window:1-4", 4);
    make(&w[2], "0", "single:0-3", 4);
    make(&w[3], "0", "single:0-3", 4);
    for (int i = 0; i < 4; i++) {
        w[i].sites[1] = LP_SITE_V;
        w[i].donors[0] = LP_DONOR_MEAN;
        w[i].donors[1] = LP_DONOR_ZERO;
        w[i].group.n_sites = w[i].group.n_donors = 2;
    }
    w[2].group.operation = LP_OP_LERP;
    w[2].factors[1] = 0.25f;
    w[2].group.n_factors = 2;
    w[3].group.stop_after = 4;
    assert_int_equal(expand(w, 4, (lp_sweep_words){.denoise = true, .noise = true}, 4, &set, &err), LP_OK);
    for (size_t i = 0; i < set.n; i++)
        for (size_t k = 0; k < i; k++) assert_string_not_equal(set.conditions[i].name, set.conditions[k].name);
    /* 2 unpatched; per direction 4 x (3 x 15 + 6 x 10 + 4 x 2 + 4). */
    assert_int_equal(set.n, 2 + 2 * 4 * (3 * 15 + 6 * 10 + 4 * 2 + 4));
    lp_condition_set_release(&set);
    for (int i = 0; i < 4; i++) drop(&w[i]);
}

/* Factors that print the same in six digits are conditions of their own; the same factor twice is one. */
static void test_factor_names(void **state) {
    (void)state;
    static const struct {
        float factor;
        const char *word;
    } cases[] = {{0.5f, "0.5"},
                 {1.0f / 3, "0.33333334"},
                 {0.333333f, "0.333333"},
                 {1.0000001f, "1.0000001"},
                 {-2.5e-7f, "-2.5e-07"},
                 {16777215.0f, "16777215"},
                 {0.5f, NULL}};
    enum { N = sizeof cases / sizeof cases[0] };
    lp_condition_set set = {0};
    lp_error err = {0};
    float factors[N];
    words w;
    make(&w, "0", "single:0", 6);
    for (size_t i = 0; i < N; i++) factors[i] = cases[i].factor;
    float *own = w.group.factors;
    w.group.operation = LP_OP_ADD;
    w.group.factors = factors;
    w.group.n_factors = N;
    assert_int_equal(expand(&w, 1, (lp_sweep_words){.denoise = true}, 6, &set, &err), LP_OK);
    assert_int_equal(set.n, N); /* one less, and the unpatched run */
    for (size_t i = 0; i + 1 < N; i++) {
        char wanted[128];
        snprintf(wanted, sizeof wanted, "denoise/clean/add:%s/resid_post/L0/single:0", cases[i].word);
        assert_string_equal(set.conditions[1 + i].name, wanted);
        assert_true(set.conditions[1 + i].factor == cases[i].factor);
    }
    lp_condition_set_release(&set);
    w.group.factors = own;
    drop(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_step_sets),
                                       cmocka_unit_test(test_step_set_limits),
                                       cmocka_unit_test(test_layer_sets),
                                       cmocka_unit_test(test_product_and_controls),
                                       cmocka_unit_test(test_other_donor_addresses),
                                       cmocka_unit_test(test_sites_together),
                                       cmocka_unit_test(test_vector_of_the_file_donor),
                                       cmocka_unit_test(test_defects),
                                       cmocka_unit_test(test_early_stop),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_names_are_unique),
                                       cmocka_unit_test(test_factor_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
