/* config.json: what is read, the defaults of transformers, and what is refused by name. */
#include "base/memory.h"
#include "model/hf_config.h"

#include <setjmp.h>

#include <cmocka.h>

#define GPT2                                                                                                           \
    "\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_embd\":768,\"n_layer\":12,\"n_head\":12,\"n_positions\":1024"
#define LLAMA                                                                                                          \
    "\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":2048,\"intermediate_size\":8192,"                  \
    "\"num_hidden_layers\":16,\"num_attention_heads\":32"
#define SHAPE                                                                                                          \
    ",\"vocab_size\":151936,\"hidden_size\":2048,\"intermediate_size\":6144,\"num_hidden_layers\":2,"                  \
    "\"num_attention_heads\":32"
#define QWEN(n) "\"model_type\":\"qwen" n "\"" SHAPE
#define MISTRAL "\"model_type\":\"mistral\"" SHAPE
#define LLAMA3  "\"rope_type\":\"llama3\",\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0"

static lp_status parse(const char *text, lp_model_config *config, lp_error *err) {
    size_t n = strlen(text);
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, text, n);
    lp_status status = lp_hf_config_parse(copy, n, "config.json", config, err);
    free(copy);
    return status;
}

static lp_model_config parse_good(const char *text) {
    lp_model_config config = {0};
    lp_error err = {0};
    if (parse(text, &config, &err) != LP_OK) fail_msg("%s", err.text);
    return config;
}

static void test_gpt2(void **state) {
    (void)state;
    lp_model_config c = parse_good("{" GPT2 ",\"bos_token_id\":50256,\"eos_token_id\":50256,\"n_ctx\":1024}");
    assert_int_equal(c.arch, LP_ARCH_GPT2);
    assert_int_equal(c.n_layers, 12);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.n_kv_heads, 12);
    assert_int_equal(c.d_ff, 3072);
    assert_int_equal(c.n_context, 1024);
    assert_int_equal(c.eos_id, 50256);
    assert_int_equal(c.activation, LP_ACT_GELU_TANH);
    assert_int_equal(c.rope, LP_ROPE_NONE);
    assert_true(c.tied_head);
    assert_true(c.norm_eps == 1e-5f);
    c = parse_good("{" GPT2 ",\"n_inner\":100,\"activation_function\":\"gelu\",\"tie_word_embeddings\":false}");
    assert_int_equal(c.d_ff, 100);
    assert_int_equal(c.activation, LP_ACT_GELU_ERF);
    assert_false(c.tied_head);
    assert_int_equal(c.bos_id, -1);
    assert_int_equal(c.eos_id, -1);
}

static void test_llama(void **state) {
    (void)state;
    lp_model_config c = parse_good("{" LLAMA "}");
    assert_int_equal(c.arch, LP_ARCH_LLAMA);
    assert_int_equal(c.n_kv_heads, 32);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.n_context, 2048);
    assert_int_equal(c.rope, LP_ROPE_PLAIN);
    assert_true(c.rope_theta == 10000.0 && c.norm_eps == 1e-6f);
    assert_false(c.tied_head);
    c = parse_good("{" LLAMA
                   ",\"num_key_value_heads\":8,\"head_dim\":128,\"rope_theta\":500000.0,\"rms_norm_eps\":1e-5,"
                   "\"max_position_embeddings\":131072,\"tie_word_embeddings\":true,\"bos_token_id\":128000,"
                   "\"eos_token_id\":[128001,128008,128009],\"attention_bias\":false,\"mlp_bias\":false,"
                   "\"rope_scaling\":{" LLAMA3 ",\"original_max_position_embeddings\":8192}}");
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.head_dim, 128);
    assert_int_equal(c.n_context, 131072);
    assert_int_equal(c.bos_id, 128000);
    assert_int_equal(c.eos_id, 128001);
    assert_int_equal(c.rope, LP_ROPE_LLAMA3);
    assert_true(c.rope_theta == 500000.0 && c.rope_factor == 32.0 && c.rope_low_freq_factor == 1.0);
    assert_true(c.rope_high_freq_factor == 4.0);
    assert_int_equal(c.rope_original_context, 8192);
    assert_true(c.tied_head);
    c = parse_good("{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.5}}");
    assert_int_equal(c.rope, LP_ROPE_LINEAR);
    assert_true(c.rope_factor == 2.5);
    c = parse_good("{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":2000.0}}");
    assert_int_equal(c.rope, LP_ROPE_PLAIN);
    assert_true(c.rope_theta == 2000.0);
}

/* What is the architecture's own, and what its class takes for keys that are absent. */
static void test_families(void **state) {
    (void)state;
    lp_model_config c = parse_good("{" QWEN("2") ",\"use_sliding_window\":false,\"sliding_window\":32768}");
    assert_int_equal(c.family, LP_FAMILY_QWEN2);
    assert_int_equal(c.arch, LP_ARCH_LLAMA);
    assert_true(c.qkv_bias && !c.attn_out_bias && !c.head_norm);
    assert_int_equal(c.n_kv_heads, 32);
    assert_int_equal(c.head_dim, 64);
    assert_int_equal(c.n_context, 32768);
    /* As transformers 5 writes it. */
    c = parse_good(
        "{" QWEN("3") ",\"dtype\":\"bfloat16\",\"num_key_value_heads\":8,\"layer_types\":[\"full_attention\","
                      "\"full_attention\"],\"rope_parameters\":{\"rope_theta\":1000000,\"rope_type\":\"default\"}}");
    assert_int_equal(c.family, LP_FAMILY_QWEN3);
    assert_true(!c.qkv_bias && !c.attn_out_bias && c.head_norm);
    assert_int_equal(c.head_dim, 128);
    assert_true(c.rope_theta == 1e6);
    c = parse_good("{" QWEN("3") ",\"attention_bias\":true,\"head_dim\":80}");
    assert_true(c.qkv_bias && c.attn_out_bias);
    assert_int_equal(c.head_dim, 80);
    c = parse_good("{" MISTRAL ",\"sliding_window\":null}");
    assert_int_equal(c.family, LP_FAMILY_MISTRAL);
    assert_true(!c.qkv_bias && !c.head_norm);
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.n_context, 131072);
    c = parse_good("{" LLAMA ",\"attention_bias\":true}");
    assert_true(c.qkv_bias && c.attn_out_bias);
}

static const struct {
    const char *text;
    lp_status status;
    const char *message;
} BAD[] = {
    {"", LP_ERR_FORMAT, "config.json: the file is empty"},
    {"[]", LP_ERR_VALUE, "config.json: $: expected an object, found []"},
    {"{", LP_ERR_FORMAT, "malformed JSON"},
    {"{}", LP_ERR_VALUE, "config.json: $: the key \"model_type\" is missing"},
    {"{\"model_type\":\"gemma\"}", LP_ERR_UNSUPPORTED,
     "$.model_type: expected a supported architecture (gpt2, llama, qwen2, qwen3, mistral), found \"gemma\""},
    {"{" QWEN("2") ",\"use_sliding_window\":true,\"sliding_window\":64}", LP_ERR_UNSUPPORTED,
     "$.use_sliding_window: attention in a sliding window is not supported"},
    {"{" QWEN("3") ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", LP_ERR_UNSUPPORTED,
     "$.layer_types[1]: \"sliding_attention\" is not supported (expected full_attention)"},
    {"{" MISTRAL "}", LP_ERR_UNSUPPORTED,
     "$.sliding_window: expected null, found no such key, which stands for a sliding window of 4096"},
    {"{" MISTRAL ",\"sliding_window\":4096}", LP_ERR_UNSUPPORTED, "$.sliding_window: attention in a sliding window"},
    {"{\"model_type\":\"gpt2\"}", LP_ERR_VALUE, "the key \"vocab_size\" is missing"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":0}", LP_ERR_VALUE, "$.vocab_size: expected an integer from 1"},
    {"{\"model_type\":\"gpt2\",\"vocab_size\":10,\"n_embd\":12,\"n_layer\":1,\"n_head\":5,\"n_positions\":4}",
     LP_ERR_VALUE, "$.n_embd: expected a multiple of n_head (5), found 12"},
    {"{" GPT2 ",\"scale_attn_weights\":false}", LP_ERR_UNSUPPORTED, "$.scale_attn_weights: attention without"},
    {"{" GPT2 ",\"scale_attn_by_inverse_layer_idx\":true}", LP_ERR_UNSUPPORTED, "$.scale_attn_by_inverse_layer_idx"},
    {"{" GPT2 ",\"reorder_and_upcast_attn\":true}", LP_ERR_UNSUPPORTED, "$.reorder_and_upcast_attn: reordered"},
    {"{" GPT2 ",\"add_cross_attention\":true}", LP_ERR_UNSUPPORTED, "$.add_cross_attention: cross attention is not"},
    {"{" GPT2 ",\"activation_function\":\"relu\"}", LP_ERR_UNSUPPORTED,
     "$.activation_function: expected a supported activation (gelu_new, gelu_pytorch_tanh, gelu), found \"relu\""},
    {"{" GPT2 ",\"eos_token_id\":50260}", LP_ERR_VALUE, "$.eos_token_id: expected an integer from 0 to 50259"},
    {"{" GPT2 ",\"eos_token_id\":\"</s>\"}", LP_ERR_VALUE, "$.eos_token_id: expected an integer"},
    {"{" GPT2 ",\"tie_word_embeddings\":1}", LP_ERR_VALUE, "$.tie_word_embeddings: expected true or false, found 1"},
    {"{" GPT2 ",\"layer_norm_epsilon\":-1}", LP_ERR_VALUE, "$.layer_norm_epsilon: expected a number from 0 to 1"},
    {"{" GPT2 ",\"quantization_config\":{}}", LP_ERR_UNSUPPORTED, "$.quantization_config: a quantised model"},
    {"{" LLAMA ",\"num_key_value_heads\":5}", LP_ERR_VALUE,
     "$.num_attention_heads: expected a multiple of num_key_value_heads (5), found 32"},
    {"{" LLAMA ",\"head_dim\":63}", LP_ERR_VALUE, "$.head_dim: expected an even number"},
    {"{" LLAMA ",\"head_dim\":1048576}", LP_ERR_VALUE, "$.head_dim: 32 heads of 1048576"},
    {"{" LLAMA ",\"attention_bias\":1}", LP_ERR_VALUE, "$.attention_bias: expected true or false, found 1"},
    {"{" LLAMA ",\"mlp_bias\":true}", LP_ERR_UNSUPPORTED, "$.mlp_bias: a bias in the MLP's"},
    {"{" LLAMA ",\"sliding_window\":4096}", LP_ERR_UNSUPPORTED, "$.sliding_window: attention in a sliding window"},
    {"{" LLAMA ",\"partial_rotary_factor\":0.5}", LP_ERR_UNSUPPORTED, "$.partial_rotary_factor: RoPE over a part"},
    {"{" LLAMA ",\"pretraining_tp\":2}", LP_ERR_UNSUPPORTED, "$.pretraining_tp: sliced linear layers"},
    {"{" LLAMA ",\"hidden_act\":\"gelu\"}", LP_ERR_UNSUPPORTED, "(silu, swish), found \"gelu\""},
    {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}", LP_ERR_UNSUPPORTED,
     "$.rope_scaling.rope_type: expected a supported RoPE scaling (default, linear, llama3), found \"yarn\""},
    /* Two values for one thing. */
    {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"linear\",\"type\":\"llama3\",\"factor\":2}}", LP_ERR_VALUE,
     "$.rope_scaling.type: expected what rope_type says (\"linear\"), found \"llama3\""},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2},"
     "\"rope_parameters\":{\"type\":\"linear\",\"factor\":4}}",
     LP_ERR_VALUE, "$.rope_parameters: expected what rope_scaling says as well, found "},
    {"{" LLAMA ",\"rope_theta\":10000,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":500000}}",
     LP_ERR_VALUE, "$.rope_parameters.rope_theta: expected $.rope_theta (10000), found 500000"},
    {"{" LLAMA ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}", LP_ERR_UNSUPPORTED,
     "$.rope_parameters.partial_rotary_factor: RoPE over a part of the head is not supported"},
    {"{" LLAMA ",\"rope_scaling\":{\"factor\":2}}", LP_ERR_VALUE, "$.rope_scaling: the key \"type\" is missing"},
    {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\"}}", LP_ERR_VALUE,
     "$.rope_scaling: the key \"factor\" is missing"},
    {"{" LLAMA ",\"rope_scaling\":{" LLAMA3 "}}", LP_ERR_VALUE, "\"original_max_position_embeddings\" is missing"},
    {"{" LLAMA
     ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}}",
     LP_ERR_VALUE, "$.rope_scaling.high_freq_factor: expected more than low_freq_factor (4), found 4"},
    {"version https://git-lfs.github.com/spec/v1\n", LP_ERR_FORMAT, "this is a Git LFS pointer, not the file"},
};

static void test_bad(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        lp_model_config config = {0};
        lp_error err = {0};
        lp_status status = parse(BAD[i].text, &config, &err);
        if (status != BAD[i].status || err.status != status || !strstr(err.text, BAD[i].message))
            fail_msg("%s: expected %s \"%s\", found %s \"%s\"", BAD[i].text, lp_status_name(BAD[i].status),
                     BAD[i].message, lp_status_name(status), err.text);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* LP_MAX_LAYERS is the one limit: arrays by layer have that size. */
static void test_most_layers(void **state) {
    (void)state;
    static const char *const others[] = {
        "\"model_type\":\"gpt2\",\"vocab_size\":50257,\"n_embd\":768,\"n_head\":12,\"n_positions\":1024,\"n_layer\"",
        "\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":2048,\"intermediate_size\":8192,"
        "\"num_attention_heads\":32,\"num_hidden_layers\""};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        lp_model_config config = {0};
        lp_error err = {0};
        char text[256], wanted[64];
        snprintf(text, sizeof text, "{%s:%d}", others[i], LP_MAX_LAYERS);
        assert_int_equal(parse_good(text).n_layers, LP_MAX_LAYERS);
        snprintf(text, sizeof text, "{%s:%d}", others[i], LP_MAX_LAYERS + 1);
        snprintf(wanted, sizeof wanted, "found %d", LP_MAX_LAYERS + 1);
        assert_int_not_equal(parse(text, &config, &err), LP_OK);
        if (!strstr(err.text, wanted)) fail_msg("%s", err.text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2), cmocka_unit_test(test_llama),       cmocka_unit_test(test_families),
        cmocka_unit_test(test_bad),  cmocka_unit_test(test_most_layers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
