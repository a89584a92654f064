/* Rotary embedding against transformers 4.52.4 (LlamaRotaryEmbedding, apply_rotary_pos_emb): x = 0.25, 0.5, ... 2 of
 * one head of 8, at positions 0, 1, 7, 100 and 255. */
#include "nn/rope.h"

#include <math.h>
#include <setjmp.h>

#include <cmocka.h>

enum { HEAD = 8, N_PLACES = 5 };
static const int32_t places[N_PLACES] = {0, 1, 7, 100, 255};

static const struct {
    const char *name;
    lp_model_config config;
    float wanted[N_PLACES][HEAD];
} cases[] = {
    {"plain, theta 10,000",
     {.rope = LP_ROPE_PLAIN, .rope_theta = 10000},
     {{0.25f, 0.5f, 0.75f, 1.0f, 1.25f, 1.5f, 1.75f, 2.0f},
      {-0.916763067f, 0.347751975f, 0.732462823f, 0.997999549f, 0.885745645f, 1.54242301f, 1.75741243f, 2.00099897f},
      {-0.632757723f, -0.583905339f, 0.625763297f, 0.985975623f, 1.10662448f, 1.46937215f, 1.7981714f, 2.00695086f},
      {0.848536849f, 0.396495938f, -1.06734753f, 0.795337319f, 0.951307178f, -1.53061783f, 1.57663226f, 2.08984184f},
      {0.417413622f, -0.0719299614f, -1.59848666f, 0.463172436f, -1.20447743f, 1.57950187f, -1.03433084f, 2.187572f}}},
    {"plain, theta 500,000",
     {.rope = LP_ROPE_PLAIN, .rope_theta = 500000},
     {{0.25f, 0.5f, 0.75f, 1.0f, 1.25f, 1.5f, 1.75f, 2.0f},
      {-0.916763067f, 0.443250716f, 0.747524381f, 0.999893606f, 0.885745645f, 1.5177381f, 1.75105882f, 2.00005317f},
      {-0.632757723f, 0.0924569964f, 0.732639432f, 0.999255359f, 1.10662448f, 1.57843328f, 1.75733876f, 2.00037217f},
      {0.848536849f, 0.46311754f, 0.495849252f, 0.989349306f, 0.951307178f, -1.51179433f, 1.83824193f, 2.00529003f},
      {0.417413622f, -0.247206032f, 0.0842550397f, 0.972785532f, -1.20447743f, -1.56169438f, 1.90207815f,
       2.01337719f}}},
    {"linear, factor 4",
     {.rope = LP_ROPE_LINEAR, .rope_theta = 10000, .rope_factor = 4},
     {{0.25f, 0.5f, 0.75f, 1.0f, 1.25f, 1.5f, 1.75f, 2.0f},
      {-0.0670268387f, 0.462347656f, 0.745622694f, 0.999499977f, 1.27299154f, 1.51203001f, 1.75186956f, 2.0002501f},
      {-1.274544f, 0.231201082f, 0.719261706f, 0.996498466f, 0.0231889337f, 1.5641439f, 1.76285636f, 2.00174689f},
      {0.413240403f, -1.29828f, 0.293727398f, 0.949692726f, 1.20591557f, -0.902479291f, 1.88114965f, 2.02437234f},
      {-0.841273725f, 0.360365361f, -0.438889921f, 0.870554984f, 0.957736194f, 1.53952479f, 1.85266721f, 2.05964422f}}},
    {"llama3, theta 500, all three ranges",
     {.rope = LP_ROPE_LLAMA3,
      .rope_theta = 500,
      .rope_factor = 8,
      .rope_low_freq_factor = 1,
      .rope_high_freq_factor = 4,
      .rope_original_context = 64},
     {{0.25f, 0.5f, 0.75f, 1.0f, 1.25f, 1.5f, 1.75f, 2.0f},
      {-0.916763067f, 0.351427138f, 0.740205586f, 0.997634947f, 0.885745645f, 1.54158974f, 1.75416529f, 2.00118065f},
      {-0.632757723f, -0.559310913f, 0.680963755f, 0.983415484f, 1.10662448f, 1.4789089f, 1.77800119f, 2.00820661f},
      {0.848536849f, 0.0239279866f, -0.292285264f, 0.757135332f, 0.951307178f, -1.58095777f, 1.88137424f, 2.1039834f},
      {0.417413622f, 0.842892826f, -1.6229645f, 0.361085355f, -1.20447743f, 1.33773375f, 0.995482922f, 2.20672083f}}},
};

static void test_rotation(void **state) {
    (void)state;
    /* An angle of 255 in float32 is known to 1.5e-5; the rest is a few roundings. */
    const float bound = 4e-5f;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_model_config config = cases[i].config;
        lp_rope rope = {0};
        lp_error err = {0};
        config.head_dim = HEAD;
        assert_int_equal(lp_rope_init(&config, 256, &rope, &err), LP_OK);
        assert_int_equal(rope.half, HEAD / 2);
        for (int p = 0; p < N_PLACES; p++) {
            float x[HEAD];
            for (int k = 0; k < HEAD; k++) x[k] = 0.25f * (float)(k + 1);
            lp_rope_rotate(&rope, places[p], x);
            for (int k = 0; k < HEAD; k++)
                if (!(fabsf(x[k] - cases[i].wanted[p][k]) < bound))
                    fail_msg("%s, position %d, element %d: expected %.9g, found %.9g", cases[i].name, places[p], k,
                             (double)cases[i].wanted[p][k], (double)x[k]);
        }
        lp_rope_release(&rope);
    }
}

static void test_without(void **state) {
    (void)state;
    const lp_model_config config = {.rope = LP_ROPE_NONE, .head_dim = HEAD};
    lp_rope rope = {.half = 9};
    lp_error err = {0};
    assert_int_equal(lp_rope_init(&config, 256, &rope, &err), LP_OK);
    assert_int_equal(rope.half, 0);
    assert_null(rope.cosine);
    lp_rope_release(&rope);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rotation), cmocka_unit_test(test_without)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
