/* Sites: names, widths, order within a position, and the four operations. */
#include "nn/site.h"

#include <setjmp.h>

#include <cmocka.h>

static const lp_model_config config = {.n_layers = 3, .d_model = 20, .n_heads = 6, .n_kv_heads = 2, .head_dim = 4};

static void test_names_and_widths(void **state) {
    (void)state;
    static const struct {
        lp_site site;
        const char *name;
        int32_t width;
        bool has_layer;
    } cases[LP_N_SITES] = {{LP_SITE_LATENT_IN, "latent_in", 20, false},
                           {LP_SITE_RESID_PRE, "resid_pre", 20, true},
                           {LP_SITE_Q, "q", 24, true},
                           {LP_SITE_K, "k", 8, true},
                           {LP_SITE_V, "v", 8, true},
                           {LP_SITE_Z, "z", 24, true},
                           {LP_SITE_ATTN_OUT, "attn_out", 20, true},
                           {LP_SITE_RESID_MID, "resid_mid", 20, true},
                           {LP_SITE_MLP_OUT, "mlp_out", 20, true},
                           {LP_SITE_RESID_POST, "resid_post", 20, true},
                           {LP_SITE_LATENT_RAW, "latent_raw", 20, false}};
    for (int i = 0; i < LP_N_SITES; i++) {
        assert_string_equal(lp_site_names()[cases[i].site], cases[i].name);
        assert_int_equal(lp_site_width(&config, cases[i].site, LP_ALL_HEADS), cases[i].width);
        assert_int_equal(lp_site_has_layer(cases[i].site), cases[i].has_layer);
    }
    assert_null(lp_site_names()[LP_N_SITES]);
    assert_int_equal(lp_site_width(&config, LP_SITE_K, 1), 4);
    assert_int_equal(lp_site_width(&config, LP_SITE_Z, 5), 4);
    assert_int_equal(lp_site_n_heads(&config, LP_SITE_Q), 6);
    assert_int_equal(lp_site_n_heads(&config, LP_SITE_V), 2);
    assert_int_equal(lp_site_n_heads(&config, LP_SITE_ATTN_OUT), 0);
    assert_int_equal(lp_site_offset(&config, 1), 4);
    assert_int_equal(lp_site_offset(&config, LP_ALL_HEADS), 0);
    assert_string_equal(lp_phase_names()[LP_PHASE_ANSWER], "answer");
    assert_string_equal(lp_operation_names()[LP_OP_LERP], "lerp");
}

static void test_order(void **state) {
    (void)state;
    int32_t before = INT32_MIN;
    for (int32_t layer = -1; layer <= config.n_layers; layer++)
        for (int site = 0; site < LP_N_SITES; site++) {
            bool inside = layer >= 0 && layer < config.n_layers;
            bool first = layer == -1 && site == LP_SITE_LATENT_IN;
            bool last = layer == config.n_layers && site == LP_SITE_LATENT_RAW;
            if (!(lp_site_has_layer((lp_site)site) ? inside : first || last)) continue;
            lp_address at = {.site = (lp_site)site, .layer = inside ? layer : 0};
            int32_t depth = lp_address_depth(&config, &at);
            if (depth <= before) fail_msg("%s %d: depth %d after %d", lp_site_names()[site], layer, depth, before);
            before = depth;
        }
}

static void test_operations(void **state) {
    (void)state;
    static const struct {
        lp_operation operation;
        float factor, wanted[3];
    } cases[] = {
        {LP_OP_REPLACE, 9, {10, -20, 0.5f}}, {LP_OP_ADD, 0.5f, {6, -8, 3.25f}},           {LP_OP_ADD, 0, {1, 2, 3}},
        {LP_OP_SCALE, -2, {-2, -4, -6}},     {LP_OP_LERP, 0.25f, {3.25f, -3.5f, 2.375f}}, {LP_OP_LERP, 0, {1, 2, 3}},
        {LP_OP_LERP, 1, {10, -20, 0.5f}}};
    const float vector[3] = {10, -20, 0.5f};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        float x[4] = {1, 2, 3, 7};
        lp_edit edit = {.operation = cases[i].operation,
                        .factor = cases[i].factor,
                        .vector = cases[i].operation == LP_OP_SCALE ? NULL : vector};
        lp_edit_apply(&edit, x, 3);
        for (int k = 0; k < 3; k++)
            if (x[k] != cases[i].wanted[k])
                fail_msg("case %zu element %d: expected %g, found %g", i, k, (double)cases[i].wanted[k], (double)x[k]);
        assert_true(x[3] == 7);
    }
}

/* resid_pre[l] is resid_post[l-1]; the first layer has no other name for it. */
static void test_canonical(void **state) {
    (void)state;
    const struct {
        lp_site site, expected_site;
        int32_t layer, expected_layer;
    } cases[] = {{LP_SITE_RESID_PRE, LP_SITE_RESID_POST, 3, 2},
                 {LP_SITE_RESID_PRE, LP_SITE_RESID_POST, 1, 0},
                 {LP_SITE_RESID_PRE, LP_SITE_RESID_PRE, 0, 0},
                 {LP_SITE_RESID_POST, LP_SITE_RESID_POST, 3, 3},
                 {LP_SITE_K, LP_SITE_K, 2, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_address at = {
            .phase = LP_PHASE_PROMPT, .index = -2, .site = cases[i].site, .layer = cases[i].layer, .head = 1};
        lp_address_canonical(&at);
        assert_int_equal(at.site, cases[i].expected_site);
        assert_int_equal(at.layer, cases[i].expected_layer);
        assert_true(at.phase == LP_PHASE_PROMPT && at.index == -2 && at.head == 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names_and_widths), cmocka_unit_test(test_order),
                                       cmocka_unit_test(test_operations), cmocka_unit_test(test_canonical)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
