#include "model/hf_config.h"

#include "base/json.h"
#include "model/tensor_source.h"

#include <math.h>

/* Far above any model of these architectures; low enough that products of two stay well inside 63 bits. */
enum { MAX_WIDTH = 1 << 20, MAX_VOCAB = 1 << 24, MAX_CONTEXT = 1 << 26 };

/* What a class of LLaMA's shape takes for keys that are absent. n_kv_heads, head_dim 0: follow from the others. */
typedef struct {
    const char *name;
    int32_t n_context, n_kv_heads, head_dim;
} family_defaults;

static const family_defaults FAMILIES[] = {[LP_FAMILY_GPT2] = {.name = "gpt2"},
                                           [LP_FAMILY_LLAMA] = {.name = "llama", .n_context = 2048},
                                           [LP_FAMILY_QWEN2] = {"qwen2", 32768, 32, 0},
                                           [LP_FAMILY_QWEN3] = {"qwen3", 32768, 32, 128},
                                           [LP_FAMILY_MISTRAL] = {"mistral", 131072, 8, 0}};
enum { N_FAMILIES = sizeof FAMILIES / sizeof *FAMILIES };

const char *lp_family_name(lp_family family) {
    return FAMILIES[family].name;
}

const char *lp_activation_name(lp_activation kind) {
    return kind == LP_ACT_GELU_TANH ? "gelu_tanh" : kind == LP_ACT_GELU_ERF ? "gelu_erf" : "silu";
}

const char *lp_rope_name(lp_rope_kind kind) {
    static const char *const names[] = {"none", "plain", "llama3", "linear"};
    return names[kind];
}

static lp_status get_int(const lp_json *root, const char *key, int64_t max, int32_t *out, lp_error *err) {
    int64_t number = 0;
    LP_CHECK(lp_json_get_int(root, key, 1, max, &number, err));
    *out = (int32_t)number;
    return LP_OK;
}

static lp_status require_bool(const lp_json *root, const char *key, bool wanted, const char *what, lp_error *err) {
    bool found = wanted;
    lp_status status = lp_json_opt_bool(root, key, &found, err);
    if (status == LP_OK && found != wanted)
        status = lp_fail(err, LP_ERR_UNSUPPORTED, "%s: $.%s: %s is not supported", root->file, key, what);
    return status;
}

static lp_status refuse_key(const lp_json *root, const char *key, const char *what, lp_error *err) {
    lp_json value;
    lp_status status = lp_json_find(root, key, &value, err);
    if (status == LP_OK && value.node)
        status = lp_fail(err, LP_ERR_UNSUPPORTED, "%s: $.%s: %s is not supported", root->file, key, what);
    return status;
}

/* A token id, a list of them, or nothing. */
static lp_status find_tokens(const lp_json *root, const char *key, int32_t n_vocab, int32_t ids[LP_MAX_EOS], int32_t *n,
                             lp_error *err) {
    lp_json value, item;
    int64_t id = -1;
    *n = 0;
    LP_CHECK(lp_json_find(root, key, &value, err));
    if (!value.node) return LP_OK;
    bool list = lp_json_is_array(&value);
    if (list)
        lp_json_first(&value, &item);
    else
        item = value;
    for (; item.node; lp_json_next(&value, &item)) {
        if (*n == LP_MAX_EOS) return lp_json_fail(&value, err, "at most %d ids", LP_MAX_EOS);
        LP_CHECK(lp_json_int(&item, 0, (int64_t)n_vocab + 2, &id, err));
        ids[(*n)++] = (int32_t)id;
        if (!list) break;
    }
    return LP_OK;
}

static lp_status find_token(const lp_json *root, const char *key, int32_t n_vocab, int32_t *out, lp_error *err) {
    int32_t ids[LP_MAX_EOS], n = 0;
    lp_status status = find_tokens(root, key, n_vocab, ids, &n, err);
    *out = n ? ids[0] : -1;
    return status;
}

/* Negative where the config's class has it as a default that was never set. */
static lp_status find_latent(const lp_json *root, const char *key, int32_t n_vocab, int32_t *out, lp_error *err) {
    int64_t id = -1;
    LP_CHECK(lp_json_opt_int(root, key, -100, (int64_t)n_vocab + 2, &id, err));
    *out = id < 0 ? -1 : (int32_t)id;
    return LP_OK;
}

/* A failure at a value that a config may have, and that this program does not know. */
static lp_status unsupported(lp_status failure, lp_error *err) {
    if (failure != LP_OK && err) err->status = LP_ERR_UNSUPPORTED;
    return failure != LP_OK ? LP_ERR_UNSUPPORTED : LP_OK;
}

typedef struct {
    const char *name;
    lp_activation kind;
} activation_name;

static lp_status find_activation(const lp_json *root, const char *key, const activation_name *names, size_t n,
                                 lp_activation *out, lp_error *err) {
    lp_json value;
    const char *name = NULL;
    LP_CHECK(lp_json_find(root, key, &value, err));
    if (!value.node) return LP_OK;
    LP_CHECK(lp_json_string(&value, &name, err));
    char list[160] = "";
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i].name, name) == 0) {
            *out = names[i].kind;
            return LP_OK;
        }
        used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", names[i].name);
    }
    return unsupported(lp_json_fail(&value, err, "a supported activation (%s)", list), err);
}

static lp_status parse_gpt2(const lp_json *root, lp_model_config *config, lp_error *err) {
    static const activation_name activations[] = {
        {"gelu_new", LP_ACT_GELU_TANH}, {"gelu_pytorch_tanh", LP_ACT_GELU_TANH}, {"gelu", LP_ACT_GELU_ERF}};
    double eps = 1e-5;
    config->arch = LP_ARCH_GPT2;
    config->tied_head = true;
    config->activation = LP_ACT_GELU_TANH;
    config->rope = LP_ROPE_NONE;
    LP_CHECK(get_int(root, "n_embd", MAX_WIDTH, &config->d_model, err));
    LP_CHECK(get_int(root, "n_layer", LP_MAX_LAYERS, &config->n_layers, err));
    LP_CHECK(get_int(root, "n_head", MAX_WIDTH, &config->n_heads, err));
    LP_CHECK(get_int(root, "n_positions", MAX_CONTEXT, &config->n_context, err));
    if (config->d_model % config->n_heads != 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: $.n_embd: expected a multiple of n_head (%d), found %d", root->file,
                       config->n_heads, config->d_model);
    config->n_kv_heads = config->n_heads;
    config->head_dim = config->d_model / config->n_heads;
    config->d_ff = 4 * config->d_model;
    LP_CHECK(lp_json_opt_int32(root, "n_inner", 1, 4 * MAX_WIDTH, &config->d_ff, err));
    LP_CHECK(find_activation(root, "activation_function", activations, sizeof activations / sizeof *activations,
                             &config->activation, err));
    LP_CHECK(lp_json_opt_number(root, "layer_norm_epsilon", 0, 1, &eps, err));
    config->norm_eps = (float)eps;
    LP_CHECK(require_bool(root, "scale_attn_weights", true, "attention without the factor 1/sqrt(head size)", err));
    LP_CHECK(require_bool(root, "scale_attn_by_inverse_layer_idx", false, "scaling attention by the layer", err));
    LP_CHECK(require_bool(root, "reorder_and_upcast_attn", false, "reordered attention", err));
    return require_bool(root, "add_cross_attention", false, "cross attention", err);
}

/* rope_scaling (transformers 4) or rope_parameters (transformers 5, which moved rope_theta into it). */
static lp_status parse_rope(const lp_json *root, lp_model_config *config, lp_error *err) {
    lp_json scaling, type;
    const char *name = NULL;
    config->rope = LP_ROPE_PLAIN;
    config->rope_theta = 10000.0;
    config->rope_factor = 1.0;
    lp_json parameters, older;
    double theta = 0, rotary = 1.0;
    LP_CHECK(lp_json_opt_number(root, "rope_theta", 1e-3, 1e15, &theta, err));
    if (theta > 0) config->rope_theta = theta;
    LP_CHECK(lp_json_find(root, "rope_scaling", &scaling, err));
    LP_CHECK(lp_json_find(root, "rope_parameters", &parameters, err));
    if (scaling.node && parameters.node && !cJSON_Compare(scaling.node, parameters.node, 1))
        return lp_json_fail(&parameters, err, "what rope_scaling says as well");
    if (!scaling.node) scaling = parameters;
    if (!scaling.node) return LP_OK;
    LP_CHECK(lp_json_opt_number(&scaling, "rope_theta", 1e-3, 1e15, &config->rope_theta, err));
    if (theta > 0 && theta != config->rope_theta)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s.rope_theta: expected $.rope_theta (%g), found %g", root->file,
                       scaling.path, theta, config->rope_theta);
    LP_CHECK(lp_json_opt_number(&scaling, "partial_rotary_factor", 0, 1, &rotary, err));
    if (rotary < 1.0)
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "%s: %s.partial_rotary_factor: RoPE over a part of the head is not supported", root->file,
                       scaling.path);
    LP_CHECK(lp_json_find(&scaling, "rope_type", &type, err));
    LP_CHECK(lp_json_find(&scaling, "type", &older, err));
    if (!type.node) LP_CHECK(lp_json_get(&scaling, "type", &type, err));
    LP_CHECK(lp_json_string(&type, &name, err));
    if (older.node && !cJSON_Compare(older.node, type.node, 1))
        return lp_json_fail(&older, err, "what rope_type says (\"%.40s\")", name);
    if (strcmp(name, "default") == 0) return LP_OK;
    if (strcmp(name, "linear") != 0 && strcmp(name, "llama3") != 0)
        return unsupported(lp_json_fail(&type, err, "a supported RoPE scaling (default, linear, llama3)"), err);
    lp_json value;
    LP_CHECK(lp_json_get_number(&scaling, "factor", 1.0, 1e6, &config->rope_factor, err));
    config->rope = LP_ROPE_LINEAR;
    if (strcmp(name, "linear") == 0) return LP_OK;
    config->rope = LP_ROPE_LLAMA3;
    LP_CHECK(lp_json_get_number(&scaling, "low_freq_factor", 1e-6, 1e6, &config->rope_low_freq_factor, err));
    LP_CHECK(lp_json_get(&scaling, "high_freq_factor", &value, err));
    LP_CHECK(lp_json_number(&value, 1e-6, 1e6, &config->rope_high_freq_factor, err));
    if (config->rope_high_freq_factor <= config->rope_low_freq_factor)
        return lp_json_fail(&value, err, "more than low_freq_factor (%g)", config->rope_low_freq_factor);
    return get_int(&scaling, "original_max_position_embeddings", MAX_CONTEXT, &config->rope_original_context, err);
}

/* transformers lists what each layer attends to, where layers may differ. */
static lp_status check_layer_types(const lp_json *root, lp_error *err) {
    lp_json types, item;
    const char *type = NULL;
    size_t n = 0;
    LP_CHECK(lp_json_find(root, "layer_types", &types, err));
    if (!types.node) return LP_OK;
    LP_CHECK(lp_json_array_size(&types, &n, err));
    for (lp_json_first(&types, &item); item.node; lp_json_next(&types, &item)) {
        LP_CHECK(lp_json_string(&item, &type, err));
        if (strcmp(type, "full_attention") != 0)
            return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: %s: \"%.40s\" is not supported (expected full_attention)",
                           root->file, item.path, type);
    }
    return LP_OK;
}

/* Qwen's window counts where use_sliding_window says so; Mistral's where there is a number, which is 4096 where the key
 * is absent. */
static lp_status check_window(const lp_json *root, lp_family family, lp_error *err) {
    LP_CHECK(check_layer_types(root, err));
    if (family == LP_FAMILY_QWEN2 || family == LP_FAMILY_QWEN3)
        return require_bool(root, "use_sliding_window", false, "attention in a sliding window", err);
    LP_CHECK(refuse_key(root, "sliding_window", "attention in a sliding window", err));
    if (family == LP_FAMILY_MISTRAL && !cJSON_GetObjectItemCaseSensitive(root->node, "sliding_window"))
        return lp_fail(
            err, LP_ERR_UNSUPPORTED,
            "%s: $.sliding_window: expected null, found no such key, which stands for a sliding window of 4096",
            root->file);
    return LP_OK;
}

static lp_status parse_llama(const lp_json *root, lp_model_config *config, lp_error *err) {
    static const activation_name activations[] = {{"silu", LP_ACT_SILU}, {"swish", LP_ACT_SILU}};
    double eps = 1e-6, rotary = 1.0;
    int32_t parallel = 1;
    config->arch = LP_ARCH_LLAMA;
    config->activation = LP_ACT_SILU;
    config->n_context = FAMILIES[config->family].n_context;
    config->head_dim = FAMILIES[config->family].head_dim;
    LP_CHECK(get_int(root, "hidden_size", MAX_WIDTH, &config->d_model, err));
    LP_CHECK(get_int(root, "intermediate_size", 4 * MAX_WIDTH, &config->d_ff, err));
    LP_CHECK(get_int(root, "num_hidden_layers", LP_MAX_LAYERS, &config->n_layers, err));
    LP_CHECK(get_int(root, "num_attention_heads", MAX_WIDTH, &config->n_heads, err));
    config->n_kv_heads = FAMILIES[config->family].n_kv_heads ? FAMILIES[config->family].n_kv_heads : config->n_heads;
    LP_CHECK(lp_json_opt_int32(root, "num_key_value_heads", 1, MAX_WIDTH, &config->n_kv_heads, err));
    if (config->n_heads % config->n_kv_heads != 0)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: $.num_attention_heads: expected a multiple of num_key_value_heads (%d), found %d",
                       root->file, config->n_kv_heads, config->n_heads);
    LP_CHECK(lp_json_opt_int32(root, "head_dim", 2, MAX_WIDTH, &config->head_dim, err));
    if (config->head_dim == 0) {
        if (config->d_model % config->n_heads != 0)
            return lp_fail(err, LP_ERR_VALUE,
                           "%s: $.hidden_size: expected a multiple of num_attention_heads (%d), found %d", root->file,
                           config->n_heads, config->d_model);
        config->head_dim = config->d_model / config->n_heads;
    }
    if (config->head_dim % 2 != 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: $.head_dim: expected an even number (RoPE turns pairs), found %d",
                       root->file, config->head_dim);
    if ((int64_t)config->n_heads * config->head_dim > 4 * MAX_WIDTH)
        return lp_fail(err, LP_ERR_VALUE, "%s: $.head_dim: %d heads of %d are more than %d in all", root->file,
                       config->n_heads, config->head_dim, 4 * MAX_WIDTH);
    LP_CHECK(lp_json_opt_int32(root, "max_position_embeddings", 1, MAX_CONTEXT, &config->n_context, err));
    LP_CHECK(find_activation(root, "hidden_act", activations, sizeof activations / sizeof *activations,
                             &config->activation, err));
    LP_CHECK(lp_json_opt_number(root, "rms_norm_eps", 0, 1, &eps, err));
    config->norm_eps = (float)eps;
    LP_CHECK(parse_rope(root, config, err));
    if (config->family == LP_FAMILY_LLAMA || config->family == LP_FAMILY_QWEN3)
        LP_CHECK(lp_json_opt_bool(root, "attention_bias", &config->attn_out_bias, err));
    config->qkv_bias = config->attn_out_bias || config->family == LP_FAMILY_QWEN2;
    config->head_norm = config->family == LP_FAMILY_QWEN3;
    LP_CHECK(require_bool(root, "mlp_bias", false, "a bias in the MLP's linear layers", err));
    LP_CHECK(check_window(root, config->family, err));
    LP_CHECK(lp_json_opt_number(root, "partial_rotary_factor", 0, 1, &rotary, err));
    if (rotary < 1.0)
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "%s: $.partial_rotary_factor: RoPE over a part of the head is not supported", root->file);
    LP_CHECK(lp_json_opt_int32(root, "pretraining_tp", 1, MAX_WIDTH, &parallel, err));
    if (parallel != 1)
        return lp_fail(err, LP_ERR_UNSUPPORTED,
                       "%s: $.pretraining_tp: sliced linear layers are not supported (expected 1, found %d)",
                       root->file, parallel);
    return LP_OK;
}

lp_status lp_hf_config_parse(const char *text, size_t size, const char *file, lp_model_config *out, lp_error *err) {
    lp_model_config config = {0};
    cJSON *document = NULL;
    lp_json root, type;
    const char *name = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_checkpoint_sniff(text, size, file, err));
    LP_TRY(lp_json_parse(text, size, file, &document, &root, err));
    LP_TRY(lp_json_get(&root, "model_type", &type, err));
    LP_TRY(lp_json_string(&type, &name, err));
    int family = 0;
    while (family < N_FAMILIES && strcmp(name, FAMILIES[family].name) != 0) family++;
    if (family == N_FAMILIES)
        LP_TRY(unsupported(lp_json_fail(&type, err, "a supported architecture (gpt2, llama, qwen2, qwen3, mistral)"),
                           err));
    LP_TRY(refuse_key(&root, "quantization_config", "a quantised model", err));
    LP_TRY(get_int(&root, "vocab_size", MAX_VOCAB, &config.n_vocab, err));
    config.n_embedded = config.n_vocab;
    config.family = (lp_family)family;
    LP_TRY(config.family == LP_FAMILY_GPT2 ? parse_gpt2(&root, &config, err) : parse_llama(&root, &config, err));
    LP_TRY(lp_json_opt_bool(&root, "tie_word_embeddings", &config.tied_head, err));
    LP_TRY(find_token(&root, "bos_token_id", config.n_vocab, &config.bos_id, err));
    LP_TRY(find_tokens(&root, "eos_token_id", config.n_vocab, config.eos_ids, &config.n_eos, err));
    config.eos_id = config.n_eos ? config.eos_ids[0] : -1;
    LP_TRY(find_latent(&root, "latent_id", config.n_vocab, &config.latent_id, err));
    LP_TRY(find_latent(&root, "latent_start_id", config.n_vocab, &config.latent_start_id, err));
    LP_TRY(find_latent(&root, "latent_end_id", config.n_vocab, &config.latent_end_id, err));
    *out = config;
out:
    cJSON_Delete(document);
    return status;
}
