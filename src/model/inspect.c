/* lp_model_inspect: the facts are gathered once, then printed as text or as JSON. */
#include "base/json.h"
#include "base/memory.h"
#include "base/printable.h"
#include "model/hf_config.h"
#include "model/merge.h"
#include "model/model_files.h"

#include <math.h>

enum { N_DTYPES = LP_TEXT + 1, GROUPED = 32 };

static const char *const PART_NAMES[LP_N_PARTS] = {"embedding", "attention", "mlp", "norms", "head", "projection"};
static const char *const UNUSED_REASONS[] = {"unexpected",
                                             "a buffer, not a weight",
                                             "the head is tied to the embedding",
                                             "the CODI checkpoint has it too",
                                             "for training only",
                                             "a second name of the embedding"};

typedef struct {
    /* Elements of the parameters, as torch's named_parameters counts the CODI module: a tied head once. */
    int64_t part[LP_N_PARTS], lora, total;
    int64_t n_tensors_of[N_DTYPES], n_elements_of[N_DTYPES];
    size_t n_adapted;    /* linear layers with LoRA */
    double *update_norm; /* [n_layers], Frobenius norm of all of a layer's updates together */
    int64_t projection_width;
    size_t mapped_bytes; /* of tensors that are used where they are mapped */
    size_t n_files;
} model_facts;

static const lp_checkpoint_file *file_at(const lp_model *model, size_t i) {
    const lp_checkpoint *base = &model->files->base;
    return i < base->n_files ? base->files[i] : model->files->codi.files[i - base->n_files];
}

static void count_tensor(model_facts *facts, const lp_tensor *tensor) {
    facts->n_tensors_of[tensor->dtype]++;
    facts->n_elements_of[tensor->dtype] += tensor->n_elements;
    facts->total += tensor->n_elements;
}

static lp_status gather_slots(const lp_model *model, model_facts *facts, lp_error *err) {
    const lp_layout_table *table = &model->files->table;
    double scale = table->lora_rank ? model->files->lora_alpha / table->lora_rank : 0;
    for (size_t i = 0; i < table->n_slots; i++) {
        const lp_slot *slot = &table->slots[i];
        count_tensor(facts, slot->tensor);
        facts->part[slot->part] += slot->tensor->n_elements;
        if (slot->role == LP_SLOT_PRJ_IN) facts->projection_width = slot->rows;
        if (model->files->places[i].where == LP_PLACE_MAPPED)
            facts->mapped_bytes += (size_t)slot->tensor->n_elements * sizeof(float);
        if (!slot->lora_a) continue;
        count_tensor(facts, slot->lora_a);
        count_tensor(facts, slot->lora_b);
        facts->lora += slot->lora_a->n_elements + slot->lora_b->n_elements;
        facts->n_adapted++;
        double norm2 = 0;
        LP_CHECK(lp_merge_update_norm2(slot, scale, &norm2, err));
        facts->update_norm[slot->layer] += norm2;
    }
    for (int32_t k = 0; k < model->config.n_layers; k++) facts->update_norm[k] = sqrt(facts->update_norm[k]);
    return LP_OK;
}

static lp_status gather(const lp_model *model, model_facts *facts, lp_error *err) {
    facts->n_files = model->files->base.n_files + model->files->codi.n_files;
    LP_CHECK(lp_mem_new(&facts->update_norm, (size_t)model->config.n_layers, sizeof *facts->update_norm, "norms", err));
    LP_CHECK(gather_slots(model, facts, err));
    return lp_digests_wait(model->files, err);
}

/* 144499200 as "144,499,200". */
static const char *grouped(int64_t number, char out[GROUPED]) {
    char digits[GROUPED];
    int n = snprintf(digits, sizeof digits, "%lld", (long long)number);
    size_t used = 0;
    for (int i = 0; i < n && used + 2 < GROUPED; i++) {
        out[used++] = digits[i];
        if ((n - 1 - i) % 3 == 0 && i != n - 1 && digits[i] != '-') out[used++] = ',';
    }
    out[used] = '\0';
    return out;
}

/* ---- text ---- */

static lp_status text_config(const lp_model *model, lp_text *out, lp_error *err) {
    const lp_model_config *config = &model->config;
    LP_CHECK(lp_text_format(out, err, "architecture   %s: %d layers of width %d, %d heads of %d",
                            lp_family_name(config->family), config->n_layers, config->d_model, config->n_heads,
                            config->head_dim));
    if (config->n_kv_heads != config->n_heads)
        LP_CHECK(lp_text_format(out, err, " (%d for keys and values)", config->n_kv_heads));
    LP_CHECK(lp_text_format(out, err, ", MLP %d, %s, norm eps %g\n", config->d_ff,
                            lp_activation_name(config->activation), (double)config->norm_eps));
    if (config->qkv_bias)
        LP_CHECK(
            lp_text_format(out, err, "               biases on q, k, v%s\n", config->attn_out_bias ? " and o" : ""));
    if (config->head_norm) LP_CHECK(lp_text_format(out, err, "               RMSNorm on each head of q and k\n"));
    LP_CHECK(lp_text_format(out, err, "context        %d positions", config->n_context));
    if (config->rope == LP_ROPE_NONE)
        LP_CHECK(lp_text_format(out, err, ", learned\n"));
    else
        LP_CHECK(lp_text_format(out, err, ", RoPE %s, theta %g", lp_rope_name(config->rope), config->rope_theta));
    if (config->rope == LP_ROPE_LINEAR || config->rope == LP_ROPE_LLAMA3)
        LP_CHECK(lp_text_format(out, err, ", factor %g", config->rope_factor));
    if (config->rope == LP_ROPE_LLAMA3)
        LP_CHECK(lp_text_format(out, err, " (frequencies %g to %g, original context %d)", config->rope_low_freq_factor,
                                config->rope_high_freq_factor, config->rope_original_context));
    if (config->rope != LP_ROPE_NONE) LP_CHECK(lp_text_format(out, err, "\n"));
    LP_CHECK(lp_text_format(out, err, "vocabulary     %d tokens, %d embedded", config->n_vocab, config->n_embedded));
    LP_CHECK(lp_text_format(out, err, "\n               config.json: "));
    if (config->bos_id >= 0)
        LP_CHECK(lp_text_format(out, err, "bos %d, ", config->bos_id));
    else
        LP_CHECK(lp_text_format(out, err, "no bos, "));
    if (config->eos_id >= 0)
        LP_CHECK(lp_text_format(out, err, "eos %d\n", config->eos_id));
    else
        LP_CHECK(lp_text_format(out, err, "no eos\n"));
    return LP_OK;
}

static lp_status text_parameters(const lp_model *model, const model_facts *facts, lp_text *out, lp_error *err) {
    char number[GROUPED];
    LP_CHECK(lp_text_format(out, err, "parameters     %15s\n", grouped(facts->total, number)));
    for (int p = 0; p < LP_N_PARTS; p++) {
        bool tied = p == LP_PART_HEAD && model->config.tied_head;
        LP_CHECK(lp_text_format(out, err, "  %-12s %15s%s\n", PART_NAMES[p], grouped(facts->part[p], number),
                                tied ? "  (tied to the embedding)" : ""));
    }
    LP_CHECK(lp_text_format(out, err, "  %-12s %15s\n", "LoRA", grouped(facts->lora, number)));
    for (int d = 0; d < N_DTYPES; d++)
        if (facts->n_tensors_of[d])
            LP_CHECK(lp_text_format(out, err, "  %-12s %15s  in %lld tensors\n", lp_dtype_name((lp_dtype)d),
                                    grouped(facts->n_elements_of[d], number), (long long)facts->n_tensors_of[d]));
    return LP_OK;
}

static lp_status text_codi(const lp_model *model, const model_facts *facts, lp_text *out, lp_error *err) {
    const lp_layout_table *table = &model->files->table;
    const lp_name_layout *layout = &table->layout;
    static const char *const other[] = {
        "no codi.* (CODI), base_causallm.* (Coconut) or module that holds it as model.*", "codi.*", "base_causallm.*",
        "model.*"};
    LP_CHECK(lp_text_format(out, err, "layout         %s: ", lp_layout_name(layout->kind)));
    if (layout->kind != LP_LAYOUT_PLAIN) LP_CHECK(lp_text_format(out, err, "%zu of ", layout->n_body));
    LP_CHECK(lp_text_format(out, err,
                            "%zu tensors%s%s, %zu with peft's names, %zu of a projection, %zu for training only\n",
                            layout->n_tensors, layout->kind == LP_LAYOUT_PLAIN ? ", " : " are ", other[layout->kind],
                            layout->n_peft, layout->n_projection, layout->n_training));
    if (layout->outer[0])
        LP_CHECK(lp_text_format(out, err, "               \"%s\" in front of all names\n", layout->outer));
    if (!model->has_thoughts) return lp_text_format(out, err, "thoughts       none: a plain language model\n");
    if (table->has_projection)
        LP_CHECK(lp_text_format(out, err, "projection     %d -> %lld -> %d, GELU, %s\n", model->config.d_model,
                                (long long)facts->projection_width, model->config.d_model,
                                table->has_projection_norm ? "LayerNorm" : "no LayerNorm"));
    else
        LP_CHECK(lp_text_format(out, err, "projection     none: the hidden state itself is the next input\n"));
    if (!table->lora_rank) return lp_text_format(out, err, "LoRA           none\n");
    LP_CHECK(lp_text_format(out, err, "LoRA           rank %d, alpha %g (scale %g) on %zu linear layers\n",
                            table->lora_rank, model->files->lora_alpha, model->files->lora_alpha / table->lora_rank,
                            facts->n_adapted));
    LP_CHECK(lp_text_format(out, err, "               Frobenius norm of the update, by layer:\n"));
    for (int32_t k = 0; k < model->config.n_layers; k++)
        LP_CHECK(lp_text_format(out, err, "  layer %-6d %15.6g\n", k, facts->update_norm[k]));
    return LP_OK;
}

static lp_status text_files(const lp_model *model, const model_facts *facts, lp_text *out, lp_error *err) {
    const lp_layout_table *table = &model->files->table;
    char number[GROUPED];
    LP_CHECK(
        lp_text_format(out, err, "memory         %s bytes computed", grouped((int64_t)model->arena_bytes, number)));
    LP_CHECK(lp_text_format(out, err, ", %s used as they are mapped\n", grouped((int64_t)facts->mapped_bytes, number)));
    if (model->files->base_rounding == LP_BASE_FP16)
        LP_CHECK(lp_text_format(out, err, "               the base weights are rounded to fp16\n"));
    LP_CHECK(lp_text_format(out, err, "files\n"));
    for (size_t i = 0; i < facts->n_files; i++) {
        LP_CHECK(lp_text_format(out, err, "  %s  %15s bytes  ", file_at(model, i)->sha256,
                                grouped((int64_t)file_at(model, i)->map.size, number)));
        LP_CHECK(lp_text_add_printable(out, file_at(model, i)->label, LP_PRINT_LINE, err));
        LP_CHECK(lp_text_add(out, "\n", 1, err));
    }
    LP_CHECK(lp_text_format(out, err, "missing        no tensor\nunused         %zu tensors\n", table->n_unused));
    for (size_t i = 0; i < table->n_unused; i++) {
        LP_CHECK(lp_text_add(out, "  ", 2, err));
        LP_CHECK(lp_text_add_printable(out, table->unused[i].tensor->name, LP_PRINT_LINE, err));
        LP_CHECK(lp_text_format(out, err, " (%s): %s\n", lp_dtype_name(table->unused[i].tensor->dtype),
                                UNUSED_REASONS[table->unused[i].reason]));
    }
    return LP_OK;
}

static lp_status print_text(const lp_model *model, const model_facts *facts, lp_text *out, lp_error *err) {
    LP_CHECK(text_config(model, out, err));
    LP_CHECK(text_parameters(model, facts, out, err));
    LP_CHECK(text_codi(model, facts, out, err));
    return text_files(model, facts, out, err);
}

/* ---- JSON ---- */

static void add_number(cJSON *object, const char *key, int64_t number) {
    cJSON_AddNumberToObject(object, key, (double)number);
}

static void add_id(cJSON *object, const char *key, int32_t id) {
    if (id < 0)
        cJSON_AddNullToObject(object, key);
    else
        cJSON_AddNumberToObject(object, key, id);
}

static void json_config(const lp_model *model, cJSON *root) {
    const lp_model_config *config = &model->config;
    cJSON_AddStringToObject(root, "architecture", lp_family_name(config->family));
    add_number(root, "layers", config->n_layers);
    add_number(root, "hidden_size", config->d_model);
    add_number(root, "heads", config->n_heads);
    add_number(root, "kv_heads", config->n_kv_heads);
    add_number(root, "head_size", config->head_dim);
    add_number(root, "mlp_size", config->d_ff);
    add_number(root, "context", config->n_context);
    cJSON_AddStringToObject(root, "activation", lp_activation_name(config->activation));
    char eps[32];
    snprintf(eps, sizeof eps, "%g", (double)config->norm_eps);
    cJSON_AddRawToObject(root, "norm_eps", eps);
    cJSON_AddBoolToObject(root, "qkv_bias", config->qkv_bias || config->arch == LP_ARCH_GPT2);
    cJSON_AddBoolToObject(root, "head_norm", config->head_norm);
    cJSON *rope = cJSON_AddObjectToObject(root, "rope");
    cJSON_AddStringToObject(rope, "kind", lp_rope_name(config->rope));
    if (config->rope != LP_ROPE_NONE) cJSON_AddNumberToObject(rope, "theta", config->rope_theta);
    if (config->rope == LP_ROPE_LINEAR || config->rope == LP_ROPE_LLAMA3)
        cJSON_AddNumberToObject(rope, "factor", config->rope_factor);
    if (config->rope == LP_ROPE_LLAMA3) {
        cJSON_AddNumberToObject(rope, "low_freq_factor", config->rope_low_freq_factor);
        cJSON_AddNumberToObject(rope, "high_freq_factor", config->rope_high_freq_factor);
        add_number(rope, "original_context", config->rope_original_context);
    }
    cJSON *tokens = cJSON_AddObjectToObject(root, "tokens");
    add_number(tokens, "vocabulary", config->n_vocab);
    add_number(tokens, "embedded", config->n_embedded);
    add_id(tokens, "bos", config->bos_id);
    add_id(tokens, "eos", config->eos_id);
    cJSON_AddBoolToObject(root, "tied_head", config->tied_head);
}

static void json_parameters(const model_facts *facts, cJSON *root) {
    cJSON *parameters = cJSON_AddObjectToObject(root, "parameters");
    add_number(parameters, "total", facts->total);
    for (int p = 0; p < LP_N_PARTS; p++) add_number(parameters, PART_NAMES[p], facts->part[p]);
    add_number(parameters, "lora", facts->lora);
    cJSON *dtypes = cJSON_AddObjectToObject(root, "dtypes");
    for (int d = 0; d < N_DTYPES; d++)
        if (facts->n_tensors_of[d]) {
            cJSON *one = cJSON_AddObjectToObject(dtypes, lp_dtype_name((lp_dtype)d));
            add_number(one, "tensors", facts->n_tensors_of[d]);
            add_number(one, "elements", facts->n_elements_of[d]);
        }
}

static void json_codi(const lp_model *model, const model_facts *facts, cJSON *root) {
    const lp_layout_table *table = &model->files->table;
    cJSON_AddStringToObject(root, "layout", lp_layout_name(table->layout.kind));
    cJSON_AddBoolToObject(root, "thoughts", model->has_thoughts);
    if (table->has_projection) {
        cJSON *projection = cJSON_AddObjectToObject(root, "projection");
        add_number(projection, "width", facts->projection_width);
        cJSON_AddBoolToObject(projection, "layer_norm", table->has_projection_norm);
    } else {
        cJSON_AddNullToObject(root, "projection");
    }
    if (!table->lora_rank) {
        cJSON_AddNullToObject(root, "lora");
        return;
    }
    cJSON *lora = cJSON_AddObjectToObject(root, "lora");
    add_number(lora, "rank", table->lora_rank);
    cJSON_AddNumberToObject(lora, "alpha", model->files->lora_alpha);
    add_number(lora, "linear_layers", (int64_t)facts->n_adapted);
    cJSON *norms = cJSON_AddArrayToObject(lora, "update_norm_by_layer");
    for (int32_t k = 0; k < model->config.n_layers; k++)
        cJSON_AddItemToArray(norms, cJSON_CreateNumber(facts->update_norm[k]));
}

static void json_files(const lp_model *model, const model_facts *facts, cJSON *root) {
    const lp_layout_table *table = &model->files->table;
    cJSON *memory = cJSON_AddObjectToObject(root, "memory");
    add_number(memory, "computed_bytes", (int64_t)model->arena_bytes);
    add_number(memory, "mapped_bytes", (int64_t)facts->mapped_bytes);
    cJSON_AddStringToObject(root, "base_rounding", model->files->base_rounding == LP_BASE_FP16 ? "fp16" : "none");
    cJSON *files = cJSON_AddArrayToObject(root, "files");
    for (size_t i = 0; i < facts->n_files; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "name", file_at(model, i)->label);
        add_number(one, "bytes", (int64_t)file_at(model, i)->map.size);
        cJSON_AddStringToObject(one, "sha256", file_at(model, i)->sha256);
        cJSON_AddItemToArray(files, one);
    }
    cJSON_AddArrayToObject(root, "missing");
    cJSON *unused = cJSON_AddArrayToObject(root, "unused");
    for (size_t i = 0; i < table->n_unused; i++) {
        cJSON *one = cJSON_CreateObject();
        cJSON_AddStringToObject(one, "tensor", table->unused[i].tensor->name);
        cJSON_AddStringToObject(one, "reason", UNUSED_REASONS[table->unused[i].reason]);
        cJSON_AddItemToArray(unused, one);
    }
}

static lp_status print_json(const lp_model *model, const model_facts *facts, lp_text *out, lp_error *err) {
    cJSON *root = cJSON_CreateObject();
    char *printed = NULL;
    lp_status status = LP_OK;
    json_config(model, root);
    json_parameters(facts, root);
    json_codi(model, facts, root);
    json_files(model, facts, root);
    printed = cJSON_Print(root);
    if (!printed) LP_FAIL(LP_ERR_MEMORY, "inspect: out of memory");
    LP_TRY(lp_text_add(out, printed, strlen(printed), err));
    LP_TRY(lp_text_add(out, "\n", 1, err));
out:
    cJSON_free(printed);
    cJSON_Delete(root);
    return status;
}

lp_status lp_model_inspect(const lp_model *model, lp_inspect_format format, lp_text *out, lp_error *err) {
    model_facts facts = {0};
    lp_status status = LP_OK;
    LP_TRY(gather(model, &facts, err));
    status = format == LP_INSPECT_JSON ? print_json(model, &facts, out, err) : print_text(model, &facts, out, err);
out:
    lp_mem_free(facts.update_norm);
    return status;
}
