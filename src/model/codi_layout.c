#include "model/codi_layout.h"

#include "base/log.h"
#include "base/memory.h"

enum { MAX_KEY = 192 };

/* A tensor under its plain name: prefixes and peft's words taken off, LoRA factors as "<module>.lora_A". */
typedef struct {
    char *plain;
    const lp_tensor *tensor;
    bool wrapped; /* the name had "base_layer": a LoRA pair must be there */
    bool used;
} key;

typedef struct {
    key *keys; /* [n], sorted by plain name */
    size_t n, capacity;
    lp_name_layout layout;
} key_index;

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *text, const char *suffix) {
    size_t n = strlen(text), m = strlen(suffix);
    return n >= m && strcmp(text + n - m, suffix) == 0;
}

static const char *skip_prefix(const char *text, const char *prefix) {
    return starts_with(text, prefix) ? text + strlen(prefix) : text;
}

static const char *backbone(lp_arch arch) {
    return arch == LP_ARCH_GPT2 ? "transformer." : "model.";
}

const char *lp_layout_name(lp_layout_kind kind) {
    static const char *const names[] = {"plain weights", "CODI module", "Coconut", "wrapped module"};
    return names[kind];
}

static void cut_all(char *text, const char *part) {
    for (char *at = strstr(text, part); at; at = strstr(at, part))
        memmove(at, at + strlen(part), strlen(at + strlen(part)) + 1);
}

/* The name without what compilers and wrappers of training put into it. */
static bool clean_name(const lp_name_layout *layout, const char *name, char out[MAX_KEY]) {
    if (strlen(name) >= MAX_KEY) return false;
    memcpy(out, name, strlen(name) + 1);
    cut_all(out, "_orig_mod.");
    cut_all(out, "_fsdp_wrapped_module.");
    size_t n = strlen(layout->outer);
    if (n && starts_with(out, layout->outer)) memmove(out, out + n, strlen(out + n) + 1);
    return true;
}

static bool all_start_with(const lp_tensor_list *list, const char *prefix) {
    for (size_t i = 0; i < list->n; i++)
        if (!starts_with(list->items[i].name, prefix)) return false;
    return list->n > 0;
}

static bool is_projection(const char *name) {
    return starts_with(name, "prj.") || starts_with(name, "projector.");
}

/* Of SIM-CoT's CODI and of its Coconut, which spells it so. */
static bool is_for_training(const char *name) {
    return starts_with(name, "decoder.") || starts_with(name, "pj_in.") || starts_with(name, "pj_out.") ||
           starts_with(name, "expainable_llm.");
}

/* A module that holds CODI's or Coconut's as `model`. */
static bool holds_module(const lp_tensor_list *list, const char *outer) {
    size_t n = strlen(outer);
    for (size_t i = 0; i < list->n; i++)
        if (starts_with(list->items[i].name + n, "codi.") || starts_with(list->items[i].name + n, "base_causallm."))
            return true;
    return false;
}

enum { MAX_ADAPTER = sizeof((lp_name_layout *)0)->adapter };

static char *lora_factor(const char *name) {
    char *factor = strstr(name, ".lora_A.");
    return factor ? factor : strstr(name, ".lora_B.");
}

/* "default" of X.lora_A.default.weight; false: another name. */
static bool adapter_of(const char *name, char out[MAX_ADAPTER]) {
    const char *factor = lora_factor(name), *begin = factor ? factor + strlen(".lora_A.") : NULL;
    const char *end = begin ? strchr(begin, '.') : NULL;
    if (!end || strcmp(end, ".weight") != 0 || end - begin >= MAX_ADAPTER) return false;
    snprintf(out, MAX_ADAPTER, "%.*s", (int)(end - begin), begin);
    return true;
}

static lp_name_layout recognise(const lp_tensor_list *list) {
    static const char *const outers[] = {"module.", "coconut."};
    lp_name_layout layout = {.body = ""};
    size_t n_codi = 0, n_coconut = 0, n_wrapped = 0;
    if (!list) return layout;
    layout.n_tensors = list->n;
    for (size_t i = 0; i < 4; i++) {
        char longer[64];
        snprintf(longer, sizeof longer, "%s%s", layout.outer, outers[i % 2]);
        if (strlen(longer) < sizeof layout.outer && all_start_with(list, longer))
            memcpy(layout.outer, longer, strlen(longer) + 1);
    }
    char within[64];
    snprintf(within, sizeof within, "%smodel.", layout.outer);
    if (strlen(within) < sizeof layout.outer && all_start_with(list, within) && holds_module(list, within))
        memcpy(layout.outer, within, strlen(within) + 1);
    for (size_t i = 0; i < list->n; i++) {
        char name[MAX_KEY];
        if (!clean_name(&layout, list->items[i].name, name)) continue;
        n_codi += starts_with(name, "codi.");
        n_coconut += starts_with(name, "base_causallm.");
        n_wrapped += starts_with(name, "model.base_model.") || starts_with(name, "model.model.") ||
                     starts_with(name, "model.transformer.");
        layout.n_projection += is_projection(name);
        layout.n_training += is_for_training(name);
        layout.n_peft += strstr(name, "base_model.model.") != NULL;
        char adapter[MAX_ADAPTER];
        if (adapter_of(name, adapter) && (layout.adapter[0] == '\0' || strcmp(adapter, "default") == 0))
            memcpy(layout.adapter, adapter, sizeof adapter);
    }
    layout.kind = n_codi      ? LP_LAYOUT_CODI
                  : n_coconut ? LP_LAYOUT_COCONUT
                  : n_wrapped ? LP_LAYOUT_WRAPPER
                              : LP_LAYOUT_PLAIN;
    static const char *const bodies[] = {"", "codi.", "base_causallm.", "model."};
    layout.body = bodies[layout.kind];
    layout.n_body = n_codi ? n_codi : n_coconut ? n_coconut : n_wrapped;
    return layout;
}

/* False where the name cannot be one of ours. with_lora: LoRA's words are taken off, of the thought checkpoint alone.
 */
static bool plain_name(lp_arch arch, const lp_name_layout *layout, bool with_lora, const char *raw, char out[MAX_KEY],
                       bool *wrapped) {
    char clean[MAX_KEY];
    const char *name = clean;
    *wrapped = false;
    if (!clean_name(layout, raw, clean)) return false;
    if (is_projection(clean)) {
        const char *rest = strchr(clean, '.') + 1;
        bool norm = starts_with(rest, "4.");
        snprintf(out, MAX_KEY, "prj.%s%s", norm ? "ln" : "", norm ? rest + 1 : rest);
        return true;
    }
    if (is_for_training(clean) || !starts_with(name, layout->body)) return false;
    name = skip_prefix(name + strlen(layout->body), "base_model.model.");
    name = skip_prefix(name, backbone(arch));
    size_t n = strlen(name);
    memmove(out, name, n + 1);
    if (!with_lora) return true;
    char *layer = strstr(out, ".base_layer.");
    if (layer) {
        size_t skip = strlen(".base_layer");
        memmove(layer, layer + skip, strlen(layer + skip) + 1);
        *wrapped = true;
        return true;
    }
    char *factor = lora_factor(out), adapter[MAX_ADAPTER];
    if (factor && adapter_of(out, adapter) && strcmp(adapter, layout->adapter) == 0) factor[strlen(".lora_A")] = '\0';
    return true;
}

static int compare_keys(const void *a, const void *b) {
    const key *left = a, *right = b;
    return strcmp(left->plain, right->plain);
}

static void index_release(key_index *index) {
    for (size_t i = 0; i < index->n; i++) lp_mem_free(index->keys[i].plain);
    lp_mem_free(index->keys);
    *index = (key_index){0};
}

static lp_status index_build(lp_arch arch, const lp_tensor_list *list, bool with_lora, key_index *index,
                             lp_error *err) {
    index->layout = recognise(list);
    if (!with_lora) { /* a base model has no wrapper */
        index->layout.kind = LP_LAYOUT_PLAIN;
        index->layout.body = "";
    }
    for (size_t i = 0; list && i < list->n; i++) {
        char plain[MAX_KEY];
        key added = {.tensor = &list->items[i]};
        if (!plain_name(arch, &index->layout, with_lora, list->items[i].name, plain, &added.wrapped)) continue;
        LP_CHECK(lp_mem_grow(&index->keys, &index->capacity, index->n + 1, sizeof *index->keys, "tensor index", err));
        LP_CHECK(lp_mem_text(&added.plain, plain, strlen(plain), err));
        index->keys[index->n++] = added;
    }
    if (index->n) qsort(index->keys, index->n, sizeof *index->keys, compare_keys);
    for (size_t i = 1; i < index->n; i++) {
        const key *left = &index->keys[i - 1], *right = &index->keys[i];
        if (strcmp(left->plain, right->plain) == 0)
            return lp_fail(err, LP_ERR_FORMAT,
                           "%s: tensors \"%.200s\" and \"%.200s\" are two names for the same parameter",
                           right->tensor->file, left->tensor->name, right->tensor->name);
    }
    return LP_OK;
}

static int compare_name(const void *name, const void *item) {
    return strcmp(name, ((const key *)item)->plain);
}

static key *index_find(const key_index *index, const char *plain) {
    return index->n ? bsearch(plain, index->keys, index->n, sizeof *index->keys, compare_name) : NULL;
}

/* ---- slots ---- */

typedef struct {
    lp_layout_table *table;
    lp_arch arch;
    int32_t layer;
    lp_status status;
    lp_error *err;
} slot_adder;

static void add_slot(slot_adder *adder, lp_slot_role role, lp_part part, lp_slot_shape shape, const char *name,
                     int64_t rows, int64_t columns) {
    lp_layout_table *table = adder->table;
    if (adder->status != LP_OK) return;
    adder->status = lp_mem_grow(&table->slots, &table->slot_capacity, table->n_slots + 1, sizeof *table->slots, "slots",
                                adder->err);
    if (adder->status != LP_OK) return;
    lp_slot *slot = &table->slots[table->n_slots++];
    *slot =
        (lp_slot){.role = role, .part = part, .shape = shape, .layer = adder->layer, .rows = rows, .columns = columns};
    bool outside = part == LP_PART_HEAD || part == LP_PART_PROJECTION;
    const char *prefix = outside ? "" : backbone(adder->arch);
    if (adder->layer >= 0)
        snprintf(slot->name, sizeof slot->name, "%s%s.%d.%s", prefix, adder->arch == LP_ARCH_GPT2 ? "h" : "layers",
                 adder->layer, name);
    else
        snprintf(slot->name, sizeof slot->name, "%s%s", prefix, name);
}

static void add_gpt2_slots(slot_adder *adder, const lp_model_config *config) {
    int64_t d = config->d_model, f = config->d_ff;
    add_slot(adder, LP_SLOT_EMBEDDING, LP_PART_EMBEDDING, LP_SHAPE_TABLE, "wte.weight", config->n_embedded, d);
    add_slot(adder, LP_SLOT_POSITIONS, LP_PART_EMBEDDING, LP_SHAPE_TABLE, "wpe.weight", config->n_context, d);
    for (adder->layer = 0; adder->layer < config->n_layers; adder->layer++) {
        add_slot(adder, LP_SLOT_NORM_ATTN_WEIGHT, LP_PART_NORM, LP_SHAPE_VECTOR, "ln_1.weight", 1, d);
        add_slot(adder, LP_SLOT_NORM_ATTN_BIAS, LP_PART_NORM, LP_SHAPE_VECTOR, "ln_1.bias", 1, d);
        add_slot(adder, LP_SLOT_QKV, LP_PART_ATTENTION, LP_SHAPE_CONV1D, "attn.c_attn.weight", d, 3 * d);
        add_slot(adder, LP_SLOT_QKV_BIAS, LP_PART_ATTENTION, LP_SHAPE_VECTOR, "attn.c_attn.bias", 1, 3 * d);
        add_slot(adder, LP_SLOT_ATTN_OUT, LP_PART_ATTENTION, LP_SHAPE_CONV1D, "attn.c_proj.weight", d, d);
        add_slot(adder, LP_SLOT_ATTN_OUT_BIAS, LP_PART_ATTENTION, LP_SHAPE_VECTOR, "attn.c_proj.bias", 1, d);
        add_slot(adder, LP_SLOT_NORM_MLP_WEIGHT, LP_PART_NORM, LP_SHAPE_VECTOR, "ln_2.weight", 1, d);
        add_slot(adder, LP_SLOT_NORM_MLP_BIAS, LP_PART_NORM, LP_SHAPE_VECTOR, "ln_2.bias", 1, d);
        add_slot(adder, LP_SLOT_MLP_IN, LP_PART_MLP, LP_SHAPE_CONV1D, "mlp.c_fc.weight", d, f);
        add_slot(adder, LP_SLOT_MLP_IN_BIAS, LP_PART_MLP, LP_SHAPE_VECTOR, "mlp.c_fc.bias", 1, f);
        add_slot(adder, LP_SLOT_MLP_OUT, LP_PART_MLP, LP_SHAPE_CONV1D, "mlp.c_proj.weight", f, d);
        add_slot(adder, LP_SLOT_MLP_OUT_BIAS, LP_PART_MLP, LP_SHAPE_VECTOR, "mlp.c_proj.bias", 1, d);
    }
    adder->layer = -1;
    add_slot(adder, LP_SLOT_FINAL_NORM_WEIGHT, LP_PART_NORM, LP_SHAPE_VECTOR, "ln_f.weight", 1, d);
    add_slot(adder, LP_SLOT_FINAL_NORM_BIAS, LP_PART_NORM, LP_SHAPE_VECTOR, "ln_f.bias", 1, d);
}

static void add_llama_slots(slot_adder *adder, const lp_model_config *config) {
    int64_t d = config->d_model, f = config->d_ff;
    int64_t q = (int64_t)config->n_heads * config->head_dim, kv = (int64_t)config->n_kv_heads * config->head_dim;
    add_slot(adder, LP_SLOT_EMBEDDING, LP_PART_EMBEDDING, LP_SHAPE_TABLE, "embed_tokens.weight", config->n_embedded, d);
    for (adder->layer = 0; adder->layer < config->n_layers; adder->layer++) {
        add_slot(adder, LP_SLOT_NORM_ATTN_WEIGHT, LP_PART_NORM, LP_SHAPE_VECTOR, "input_layernorm.weight", 1, d);
        add_slot(adder, LP_SLOT_Q, LP_PART_ATTENTION, LP_SHAPE_LINEAR, "self_attn.q_proj.weight", q, d);
        add_slot(adder, LP_SLOT_K, LP_PART_ATTENTION, LP_SHAPE_LINEAR, "self_attn.k_proj.weight", kv, d);
        add_slot(adder, LP_SLOT_V, LP_PART_ATTENTION, LP_SHAPE_LINEAR, "self_attn.v_proj.weight", kv, d);
        if (config->qkv_bias) {
            add_slot(adder, LP_SLOT_Q_BIAS, LP_PART_ATTENTION, LP_SHAPE_VECTOR, "self_attn.q_proj.bias", 1, q);
            add_slot(adder, LP_SLOT_K_BIAS, LP_PART_ATTENTION, LP_SHAPE_VECTOR, "self_attn.k_proj.bias", 1, kv);
            add_slot(adder, LP_SLOT_V_BIAS, LP_PART_ATTENTION, LP_SHAPE_VECTOR, "self_attn.v_proj.bias", 1, kv);
        }
        if (config->head_norm) {
            int64_t hd = config->head_dim;
            add_slot(adder, LP_SLOT_Q_NORM, LP_PART_NORM, LP_SHAPE_VECTOR, "self_attn.q_norm.weight", 1, hd);
            add_slot(adder, LP_SLOT_K_NORM, LP_PART_NORM, LP_SHAPE_VECTOR, "self_attn.k_norm.weight", 1, hd);
        }
        add_slot(adder, LP_SLOT_ATTN_OUT, LP_PART_ATTENTION, LP_SHAPE_LINEAR, "self_attn.o_proj.weight", d, q);
        if (config->attn_out_bias)
            add_slot(adder, LP_SLOT_ATTN_OUT_BIAS, LP_PART_ATTENTION, LP_SHAPE_VECTOR, "self_attn.o_proj.bias", 1, d);
        add_slot(adder, LP_SLOT_NORM_MLP_WEIGHT, LP_PART_NORM, LP_SHAPE_VECTOR, "post_attention_layernorm.weight", 1,
                 d);
        add_slot(adder, LP_SLOT_GATE, LP_PART_MLP, LP_SHAPE_LINEAR, "mlp.gate_proj.weight", f, d);
        add_slot(adder, LP_SLOT_UP, LP_PART_MLP, LP_SHAPE_LINEAR, "mlp.up_proj.weight", f, d);
        add_slot(adder, LP_SLOT_MLP_OUT, LP_PART_MLP, LP_SHAPE_LINEAR, "mlp.down_proj.weight", d, f);
    }
    adder->layer = -1;
    add_slot(adder, LP_SLOT_FINAL_NORM_WEIGHT, LP_PART_NORM, LP_SHAPE_VECTOR, "norm.weight", 1, d);
}

static lp_status add_base_slots(const lp_model_config *config, lp_layout_table *table, lp_error *err) {
    slot_adder adder = {.table = table, .arch = config->arch, .layer = -1, .err = err};
    if (config->arch == LP_ARCH_GPT2)
        add_gpt2_slots(&adder, config);
    else
        add_llama_slots(&adder, config);
    if (!config->tied_head)
        add_slot(&adder, LP_SLOT_HEAD, LP_PART_HEAD, LP_SHAPE_TABLE, "lm_head.weight", config->n_embedded,
                 config->d_model);
    return adder.status;
}

static lp_status add_projection_slots(const lp_model_config *config, int64_t width, lp_layout_table *table,
                                      lp_error *err) {
    slot_adder adder = {.table = table, .arch = config->arch, .layer = -1, .err = err};
    const lp_part part = LP_PART_PROJECTION;
    int64_t d = config->d_model;
    add_slot(&adder, LP_SLOT_PRJ_IN, part, LP_SHAPE_LINEAR, "prj.1.weight", width, d);
    add_slot(&adder, LP_SLOT_PRJ_IN_BIAS, part, LP_SHAPE_VECTOR, "prj.1.bias", 1, width);
    add_slot(&adder, LP_SLOT_PRJ_OUT, part, LP_SHAPE_LINEAR, "prj.3.weight", d, width);
    add_slot(&adder, LP_SLOT_PRJ_OUT_BIAS, part, LP_SHAPE_VECTOR, "prj.3.bias", 1, d);
    if (table->has_projection_norm) {
        add_slot(&adder, LP_SLOT_PRJ_NORM_WEIGHT, part, LP_SHAPE_VECTOR, "prj.ln.weight", 1, d);
        add_slot(&adder, LP_SLOT_PRJ_NORM_BIAS, part, LP_SHAPE_VECTOR, "prj.ln.bias", 1, d);
    }
    return adder.status;
}

/* ---- binding ---- */

typedef struct {
    lp_model_config *config;
    key_index base, codi;
    const lp_tensor_list *base_list, *codi_list;
    const char *base_file, *codi_file;
    lp_layout_table *table;
    size_t n_missing;
    char first_missing[MAX_KEY];
} layout_binder;

static const char *plain_slot_name(const layout_binder *binder, const lp_slot *slot) {
    return skip_prefix(slot->name, backbone(binder->config->arch));
}

static bool is_linear(const lp_slot *slot) {
    return slot->part != LP_PART_PROJECTION && (slot->shape == LP_SHAPE_CONV1D || slot->shape == LP_SHAPE_LINEAR);
}

static void note_missing(layout_binder *binder, const char *name) {
    if (binder->n_missing++ == 0) snprintf(binder->first_missing, sizeof binder->first_missing, "%s", name);
}

static lp_status check_float(const lp_tensor *tensor, lp_error *err) {
    if (tensor->dtype == LP_F32 || tensor->dtype == LP_F16 || tensor->dtype == LP_BF16) return LP_OK;
    return lp_fail(err, LP_ERR_MISMATCH, "%s: tensor \"%.200s\": expected dtype f32, f16 or bf16, found %s",
                   tensor->file, tensor->name, lp_dtype_name(tensor->dtype));
}

/* rows 0: any number of rows from 1 on. */
static lp_status check_shape(const lp_tensor *tensor, int n_dims, int64_t rows, int64_t columns, const char *why,
                             lp_error *err) {
    bool fits = tensor->n_dims == n_dims && tensor->shape[n_dims - 1] == columns;
    if (fits && n_dims == 2) fits = rows ? tensor->shape[0] == rows : tensor->shape[0] > 0;
    if (fits) return check_float(tensor, err);
    char found[128], expected[64];
    lp_tensor_shape_text(tensor, found, sizeof found);
    if (n_dims == 1)
        snprintf(expected, sizeof expected, "[%lld]", (long long)columns);
    else if (rows == 0)
        snprintf(expected, sizeof expected, "[rank, %lld]", (long long)columns);
    else
        snprintf(expected, sizeof expected, "[%lld, %lld]", (long long)rows, (long long)columns);
    return lp_fail(err, LP_ERR_MISMATCH, "%s: tensor \"%.200s\": expected shape %s%s, found %s", tensor->file,
                   tensor->name, expected, why, found);
}

static lp_status bind_lora(layout_binder *binder, lp_slot *slot, bool wrapped, int32_t wanted_rank, lp_error *err) {
    char module[LP_SLOT_NAME], name[LP_SLOT_NAME + 32];
    const char *plain = plain_slot_name(binder, slot);
    snprintf(module, sizeof module, "%.*s", (int)(strlen(plain) - strlen(".weight")), plain);
    snprintf(name, sizeof name, "%s.lora_A", module);
    key *a = index_find(&binder->codi, name);
    snprintf(name, sizeof name, "%s.lora_B", module);
    key *bb = index_find(&binder->codi, name);
    if (!a && !bb && !wrapped) return LP_OK;
    if (!a || !bb) {
        snprintf(name, sizeof name, "%s.%s.default.weight", module, a ? "lora_B" : "lora_A");
        note_missing(binder, name);
        return LP_OK;
    }
    a->used = bb->used = true;
    bool conv = slot->shape == LP_SHAPE_CONV1D;
    int64_t n_in = conv ? slot->rows : slot->columns, n_out = conv ? slot->columns : slot->rows;
    LP_CHECK(check_shape(a->tensor, 2, binder->table->lora_rank, n_in,
                         binder->table->lora_rank ? " (the rank of the other LoRA tensors)" : "", err));
    int64_t rank = a->tensor->shape[0];
    if (rank > INT32_MAX)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: tensor \"%.200s\": a LoRA rank of %lld", a->tensor->file,
                       a->tensor->name, (long long)rank);
    if (wanted_rank && rank != wanted_rank)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: tensor \"%.200s\": expected LoRA rank %d, found %lld",
                       a->tensor->file, a->tensor->name, wanted_rank, (long long)rank);
    LP_CHECK(check_shape(bb->tensor, 2, n_out, rank, "", err));
    binder->table->lora_rank = (int32_t)rank;
    slot->lora_a = a->tensor;
    slot->lora_b = bb->tensor;
    return LP_OK;
}

/* A tied head is one parameter with two names. Where a file has both, with other values, torch's load_state_dict copies
 * the head's last, since its module is: so do we, and say it. */
static key *choose_tied(const layout_binder *binder, const char *plain, key *embedding) {
    key *head = index_find(&binder->codi, "lm_head.weight");
    if (!head && !index_find(&binder->codi, plain)) head = index_find(&binder->base, "lm_head.weight");
    if (!head || !embedding) return embedding;
    const lp_tensor *tensor = embedding->tensor, *y = head->tensor;
    bool same = tensor->dtype == y->dtype && tensor->n_elements == y->n_elements &&
                memcmp(tensor->data, y->data, (size_t)tensor->n_elements * lp_dtype_bytes(tensor->dtype)) == 0;
    if (same) return embedding;
    lp_log(
        LP_LOG_WARN,
        "%s: tensor \"%.200s\" differs from \"%.200s\", although the head is tied to the embedding: it is used for both, "
        "as PyTorch does when it loads them",
        y->file, y->name, tensor->name);
    embedding->used = true;
    return head;
}

static lp_status bind_slot(layout_binder *binder, lp_slot *slot, int32_t wanted_rank, lp_error *err) {
    const char *plain = plain_slot_name(binder, slot);
    key *found = index_find(&binder->codi, plain);
    if (!found) found = index_find(&binder->base, plain);
    if (slot->role == LP_SLOT_EMBEDDING && binder->config->tied_head) found = choose_tied(binder, plain, found);
    if (!found) {
        note_missing(binder, slot->name);
        return LP_OK;
    }
    found->used = true;
    slot->tensor = found->tensor;
    bool tokens = slot->role == LP_SLOT_HEAD;
    lp_status status = check_shape(found->tensor, slot->shape == LP_SHAPE_VECTOR ? 1 : 2, slot->rows, slot->columns,
                                   tokens ? " (as many rows as the embedding)" : "", err);
    if (status == LP_OK && is_linear(slot)) status = bind_lora(binder, slot, found->wrapped, wanted_rank, err);
    return status;
}

/* peft adapts a kind of layer in every block or in none; anything else is a damaged file. */
static lp_status check_lora_in_all_layers(const lp_layout_table *table, lp_error *err) {
    const lp_slot *with[LP_N_SLOT_ROLES] = {0}, *without[LP_N_SLOT_ROLES] = {0};
    for (size_t i = 0; i < table->n_slots; i++) {
        const lp_slot *slot = &table->slots[i];
        const lp_slot **seen = slot->lora_a ? with : without;
        if (!seen[slot->role]) seen[slot->role] = slot;
    }
    for (int role = 0; role < LP_N_SLOT_ROLES; role++)
        if (with[role] && without[role])
            return lp_fail(err, LP_ERR_MISMATCH, "%s: \"%s\" has no LoRA tensors, but \"%s\" has",
                           with[role]->lora_a->file, without[role]->name, with[role]->name);
    return LP_OK;
}

static bool is_buffer(const char *plain) {
    return ends_with(plain, ".attn.bias") || ends_with(plain, ".attn.masked_bias") ||
           ends_with(plain, "rotary_emb.inv_freq");
}

static const key *key_of(const key_index *index, const lp_tensor *tensor, lp_arch arch, bool with_lora) {
    char plain[MAX_KEY];
    bool wrapped = false;
    return plain_name(arch, &index->layout, with_lora, tensor->name, plain, &wrapped) ? index_find(index, plain) : NULL;
}

static lp_unused_reason why_unused(const layout_binder *binder, const key_index *index, const key *k, bool is_codi,
                                   const char *name) {
    char clean[MAX_KEY];
    if (k && is_buffer(k->plain)) return LP_UNUSED_BUFFER;
    if (k && binder->config->tied_head && strcmp(k->plain, "lm_head.weight") == 0) return LP_UNUSED_TIED_HEAD;
    if (k && !is_codi && index_find(&binder->codi, k->plain)) return LP_UNUSED_CODI_WINS;
    if (k || !clean_name(&index->layout, name, clean)) return LP_UNUSED_UNEXPECTED;
    if (is_for_training(clean)) return LP_UNUSED_TRAINING;
    if (index->layout.kind == LP_LAYOUT_COCONUT && strcmp(clean, "embedding.weight") == 0) return LP_UNUSED_SECOND_NAME;
    return LP_UNUSED_UNEXPECTED;
}

static lp_status refuse_lora(const lp_name_layout *layout, const lp_tensor *tensor, bool is_codi, lp_error *err) {
    char adapter[MAX_ADAPTER];
    const char *what = "a LoRA tensor in the base model: name this checkpoint as the CODI one (model.codi)";
    if (strstr(tensor->name, "lora_magnitude_vector"))
        what = "DoRA (LoRA with magnitudes), which is not supported: merge it into the weights first";
    else if (strstr(tensor->name, "lora_embedding"))
        what = "LoRA on the embedding, which is not supported: merge it into the weights first";
    else if (ends_with(tensor->name, ".lora_A.weight") || ends_with(tensor->name, ".lora_B.weight"))
        what = "the names of a peft adapter file, not of a whole module: merge it into the weights first";
    else if (strstr(tensor->name, "modules_to_save"))
        what =
            "a module that peft saved whole (modules_to_save), which is not supported: merge it into the weights first";
    else if (is_codi && adapter_of(tensor->name, adapter) && strcmp(adapter, layout->adapter) != 0)
        what = "a second LoRA adapter, which is not supported: merge what is used into the weights first";
    else if (is_codi)
        what = "LoRA on a part that cannot be merged (only the linear layers of the blocks can)";
    return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: tensor \"%.200s\": %s", tensor->file, tensor->name, what);
}

static lp_status list_unused(layout_binder *binder, const lp_tensor_list *list, const key_index *index, bool is_codi,
                             lp_error *err) {
    lp_layout_table *table = binder->table;
    for (size_t i = 0; list && i < list->n; i++) {
        const lp_tensor *tensor = &list->items[i];
        const key *k = key_of(index, tensor, binder->config->arch, is_codi);
        if (k && k->used) continue;
        if (strstr(tensor->name, "lora_") || strstr(tensor->name, "modules_to_save"))
            return refuse_lora(&index->layout, tensor, is_codi, err);
        char clean[MAX_KEY];
        if (clean_name(&index->layout, tensor->name, clean) && is_projection(clean))
            return lp_fail(err, LP_ERR_UNSUPPORTED,
                           "%s: tensor \"%.200s\": not a part of a projection that is known (1, 3, and 4 or ln)",
                           tensor->file, tensor->name);
        lp_unused_tensor unused = {.tensor = tensor, .reason = why_unused(binder, index, k, is_codi, tensor->name)};
        LP_CHECK(lp_mem_grow(&table->unused, &table->unused_capacity, table->n_unused + 1, sizeof *table->unused,
                             "unused tensors", err));
        table->unused[table->n_unused++] = unused;
    }
    return LP_OK;
}

const char *lp_layout_foreign(const lp_tensor_list *list) {
    for (size_t i = 0; list && i < list->n; i++) {
        const char *name = list->items[i].name;
        if (starts_with(name, "tok_embeddings.") || strstr(name, ".attention.wq."))
            return "; it has the names of Meta's own LLaMA files: convert it to those of Hugging Face";
        if (ends_with(name, ".gamma") || ends_with(name, ".beta"))
            return "; it has the old names gamma and beta of norms: save it again with a current transformers";
        if (starts_with(name, "blk.") || strcmp(name, "token_embd.weight") == 0)
            return "; it has the names of a GGUF file: convert it to those of Hugging Face";
        if (strstr(name, ".modules_to_save."))
            return "; it has modules that peft saved whole (modules_to_save): merge them into the weights first";
        if (ends_with(name, ".lora_A.weight"))
            return "; it has the names of a peft adapter alone: merge it into the weights first";
        if (starts_with(name, "gpt_neox.")) return "; it is a GPT-NeoX model, which is not supported";
    }
    return "";
}

static lp_status fail_missing(const layout_binder *binder, lp_error *err) {
    char more[64] = "";
    const char *hint = lp_layout_foreign(binder->codi_list ? binder->codi_list : binder->base_list);
    if (binder->n_missing > 1) snprintf(more, sizeof more, " (and %zu more)", binder->n_missing - 1);
    for (size_t i = 0; !binder->codi_list && i < binder->base_list->n; i++)
        if (starts_with(binder->base_list->items[i].name, "codi.") ||
            starts_with(binder->base_list->items[i].name, "base_causallm."))
            hint = "; it holds tensors of a thought checkpoint: name it as the CODI checkpoint (model.codi)";
    if (!binder->base_list)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: missing tensor \"%s\"%s%s", binder->codi_file, binder->first_missing,
                       more, hint);
    if (!binder->codi_list)
        return lp_fail(err, LP_ERR_MISMATCH, "%s: missing tensor \"%s\"%s%s", binder->base_file, binder->first_missing,
                       more, hint);
    return lp_fail(err, LP_ERR_MISMATCH, "missing tensor \"%s\"%s: it is neither in %s nor in %s%s",
                   binder->first_missing, more, binder->codi_file, binder->base_file, hint);
}

/* The projection is the thought checkpoint's, or, where that has none, the base's (a merged model in one folder). */
static lp_status look_at_projection(layout_binder *binder, int64_t *width, lp_error *err) {
    const key_index *index = binder->codi.layout.n_projection ? &binder->codi : &binder->base;
    *width = 0;
    if (!index->layout.n_projection) return LP_OK;
    binder->table->has_projection = true;
    for (size_t i = 0; i < index->n; i++)
        if (starts_with(index->keys[i].plain, "prj.ln.")) binder->table->has_projection_norm = true;
    const key *first = index_find(index, "prj.1.weight");
    if (!first)
        return lp_fail(err, LP_ERR_MISMATCH,
                       "%s: missing tensor \"prj.1.weight\", although there are other tensors of prj",
                       index == &binder->codi ? binder->codi_file : binder->base_file);
    if (first->tensor->n_dims == 2) *width = first->tensor->shape[0];
    if (*width == 0) *width = binder->config->d_model;
    return LP_OK;
}

/* The thought checkpoint must bring something that belongs to the model. */
static lp_status check_brings(const layout_binder *binder, lp_error *err) {
    if (!binder->codi_list) return LP_OK;
    const lp_name_layout *layout = &binder->codi.layout;
    bool bare = layout->kind == LP_LAYOUT_PLAIN && !layout->n_projection && binder->config->latent_start_id < 0 &&
                binder->config->n_embedded == binder->config->n_vocab;
    for (size_t i = 0; i < binder->codi.n && !bare; i++)
        if (binder->codi.keys[i].used) return LP_OK;
    return lp_fail(err, LP_ERR_MISMATCH,
                   "%s: not a CODI checkpoint: none of its %zu tensors is named codi.*, base_causallm.*, prj.* or "
                   "projector.*, and it has no rows for thought tokens%s",
                   binder->codi_file, binder->codi_list->n, lp_layout_foreign(binder->codi_list));
}

lp_status lp_layout_bind(lp_model_config *config, const lp_tensor_list *base, const char *base_file,
                         const lp_tensor_list *codi, const char *codi_file, int32_t lora_rank, lp_layout_table *out,
                         lp_error *err) {
    lp_layout_table table = {0};
    layout_binder binder = {.config = config,
                            .base_list = base,
                            .codi_list = codi,
                            .base_file = base_file,
                            .codi_file = codi_file,
                            .table = &table};
    int64_t width = 0;
    lp_status status = LP_OK;
    LP_TRY(index_build(config->arch, base, false, &binder.base, err));
    LP_TRY(index_build(config->arch, codi, true, &binder.codi, err));
    LP_TRY(look_at_projection(&binder, &width, err));
    table.layout = codi ? binder.codi.layout : binder.base.layout;

    /* Thought checkpoints have as many rows as their training gave them; a base model, its config's or CODI's. */
    const char *embedding = config->arch == LP_ARCH_GPT2 ? "wte.weight" : "embed_tokens.weight";
    const key *rows = index_find(&binder.codi, embedding);
    bool any = rows != NULL;
    if (!rows) rows = index_find(&binder.base, embedding);
    int64_t n_rows = rows && rows->tensor->n_dims == 2 ? rows->tensor->shape[0] : 0;
    bool fits = (any && n_rows > 0 && n_rows <= INT32_MAX / 2) || n_rows == (int64_t)config->n_vocab + 3;
    config->n_embedded = fits ? (int32_t)n_rows : config->n_vocab;

    LP_TRY(add_base_slots(config, &table, err));
    if (table.has_projection) LP_TRY(add_projection_slots(config, width, &table, err));
    for (size_t i = 0; i < table.n_slots; i++) LP_TRY(bind_slot(&binder, &table.slots[i], lora_rank, err));
    LP_TRY(check_brings(&binder, err));
    if (binder.n_missing) {
        status = fail_missing(&binder, err);
        goto out;
    }
    if (lora_rank && !table.lora_rank && codi)
        LP_FAIL(LP_ERR_MISMATCH, "%s: expected LoRA tensors of rank %d, found none", codi_file, lora_rank);
    LP_TRY(check_lora_in_all_layers(&table, err));
    LP_TRY(list_unused(&binder, base, &binder.base, false, err));
    LP_TRY(list_unused(&binder, codi, &binder.codi, true, err));
    *out = table;
    table = (lp_layout_table){0};
out:
    lp_layout_release(&table);
    index_release(&binder.base);
    index_release(&binder.codi);
    return status;
}

lp_status lp_layout_codi_lacks(const lp_model_config *config, const lp_tensor_list *codi, char missing[LP_SLOT_NAME],
                               lp_error *err) {
    lp_layout_table table = {0};
    key_index index = {0};
    lp_status status = LP_OK;
    missing[0] = '\0';
    LP_TRY(index_build(config->arch, codi, true, &index, err));
    LP_TRY(add_base_slots(config, &table, err));
    for (size_t i = 0; i < table.n_slots; i++)
        if (!index_find(&index, skip_prefix(table.slots[i].name, backbone(config->arch)))) {
            memcpy(missing, table.slots[i].name, LP_SLOT_NAME);
            break;
        }
out:
    lp_layout_release(&table);
    index_release(&index);
    return status;
}

void lp_layout_release(lp_layout_table *table) {
    lp_mem_free(table->slots);
    lp_mem_free(table->unused);
    *table = (lp_layout_table){0};
}
