/* From files to weights: config.json -> checkpoints mapped -> slots bound (codi_layout) -> places laid out
 * (lp_model_open) -> pointers set, arena filled (fill) by widening and merging (merge) (lp_model_fill). */
#include "model/model.h"

#include "base/gemm.h"
#include "base/gemm_argmax.h"
#include "base/json.h"
#include "base/memory.h"
#include "model/hf_config.h"
#include "model/model_files.h"

static lp_status read_config(const lp_model_source *source, lp_model *model, lp_error *err) {
    char *path = NULL;
    const lp_checkpoint_file *file = NULL;
    lp_status status = LP_OK;
    if (lp_path_look(source->base) != LP_PATH_FOLDER)
        LP_FAIL(LP_ERR_IO, "%s: expected the folder of the base model (with config.json), found %s", source->base,
                lp_path_look(source->base) == LP_PATH_MISSING ? "nothing" : "a file");
    LP_TRY(lp_path_join(source->base, "config.json", &path, err));
    LP_TRY(lp_checkpoint_add_file(&model->files->base, path, "base", &file, err));
    status = lp_hf_config_parse((const char *)file->map.data, file->map.size, file->path, &model->config, err);
out:
    lp_mem_free(path);
    return status;
}

/* The base weights are asked for only where the CODI checkpoint lacks some: says which, where they are not there. */
static lp_status read_base_weights(const lp_model_source *source, const char *missing, const lp_tensor_list *codi,
                                   lp_checkpoint *base, lp_error *err) {
    lp_error own = {0};
    lp_status status = lp_checkpoint_add_weights(base, source->base, "base", &own);
    if (status == LP_OK) return LP_OK;
    if (!source->codi) return lp_fail(err, status, "%s", own.text);
    return lp_fail(err, status, "%s (they are needed because %s holds no \"%s\"%s)", own.text, source->codi, missing,
                   lp_layout_foreign(codi));
}

/* peft's own file beside the checkpoint, where there is one, says how LoRA is scaled. */
static lp_status check_adapter_config(const char *codi, lp_error *err) {
    static const struct {
        const char *key, *what;
    } kinds[] = {{"use_rslora", "rsLoRA (LoRA scaled by alpha / sqrt(rank))"},
                 {"use_dora", "DoRA (LoRA with magnitudes)"}};
    char *path = NULL;
    cJSON *document = NULL;
    lp_json root;
    lp_status status = LP_OK;
    if (lp_path_look(codi) != LP_PATH_FOLDER) return LP_OK;
    LP_TRY(lp_path_join(codi, "adapter_config.json", &path, err));
    if (lp_path_look(path) != LP_PATH_FILE) goto out;
    LP_TRY(lp_json_load(path, 1 << 20, &document, &root, err));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bool on = false;
        LP_TRY(lp_json_opt_bool(&root, kinds[i].key, &on, err));
        if (on)
            LP_FAIL(LP_ERR_UNSUPPORTED, "%s: $.%s: %s is not supported: merge it into the weights first", path,
                    kinds[i].key, kinds[i].what);
    }
out:
    cJSON_Delete(document);
    lp_mem_free(path);
    return status;
}

static lp_status read_weights(const lp_model_source *source, lp_model *model, lp_error *err) {
    lp_model_files *files = model->files;
    char missing[LP_SLOT_NAME] = "";
    if (source->codi) {
        LP_CHECK(check_adapter_config(source->codi, err));
        LP_CHECK(lp_checkpoint_add_weights(&files->codi, source->codi, "codi", err));
        LP_CHECK(lp_layout_codi_lacks(&model->config, &files->codi.tensors, missing, err));
    }
    bool whole = source->codi && !missing[0];
    if (!whole) LP_CHECK(read_base_weights(source, missing, &files->codi.tensors, &files->base, err));
    LP_CHECK(lp_layout_bind(&model->config, whole ? NULL : &files->base.tensors, source->base,
                            source->codi ? &files->codi.tensors : NULL, source->codi, source->lora_rank, &files->table,
                            err));
    if (files->table.lora_rank && !(source->lora_alpha > 0 && source->lora_alpha < 1e9))
        return lp_fail(err, LP_ERR_VALUE, "%s: has LoRA tensors: expected a positive LoRA alpha, found %g",
                       source->codi, source->lora_alpha);
    model->has_thoughts = source->codi != NULL || files->table.has_projection || model->config.latent_start_id >= 0;
    return LP_OK;
}

/* ---- layout of the arena ---- */

static lp_weight_source source_of(const lp_model_files *files, const lp_slot *slot) {
    bool rounded = files->base_rounding == LP_BASE_FP16 && slot->part != LP_PART_PROJECTION;
    double scale = slot->lora_a ? files->lora_alpha / files->table.lora_rank : 0;
    return (lp_weight_source){.tensor = slot->tensor,
                              .lora_a = slot->lora_a,
                              .lora_b = slot->lora_b,
                              .scale = (float)scale,
                              .rounding = rounded ? LP_WIDEN_THROUGH_F16 : LP_WIDEN_EXACT};
}

static bool can_stay_mapped(const lp_weight_source *source) {
    const lp_tensor *tensor = source->tensor;
    return tensor->dtype == LP_F32 && !source->lora_a && source->rounding == LP_WIDEN_EXACT &&
           lp_tensor_is_contiguous(tensor) && (uintptr_t)tensor->data % sizeof(float) == 0;
}

/* Those that forward passes read as matrices; the positions are a vector to them. */
static bool is_matrix(const lp_slot *slot) {
    return slot->shape != LP_SHAPE_VECTOR && slot->role != LP_SLOT_POSITIONS;
}

/* Slots that share one fused matrix or vector: q, k, v, their biases, and gate, up of LLaMA. */
static size_t group_size(const lp_slot *slot) {
    return slot->role == LP_SLOT_Q || slot->role == LP_SLOT_Q_BIAS ? 3 : slot->role == LP_SLOT_GATE ? 2 : 1;
}

/* Is the arena's matrix [in, out] the transpose of the file's tensor? */
static bool turned(const lp_slot *slot, bool packed) {
    return slot->shape == LP_SHAPE_LINEAR || (packed && slot->shape == LP_SHAPE_TABLE);
}

/* Columns of the arena's matrix that are this slot's. */
static int64_t columns_of(const lp_slot *slot, bool packed) {
    return turned(slot, packed) ? slot->rows : slot->columns;
}

/* Those that only linear layers read, unless the slot is a table in which tokens are looked up. */
static bool is_packed(const lp_model *model, const lp_slot *slot) {
    if (!model->files->packs_matrices || !is_matrix(slot)) return false;
    return slot->role != LP_SLOT_EMBEDDING || model->config.tied_head;
}

static bool is_head(const lp_model *model, const lp_slot *slot) {
    return slot->role == (model->config.tied_head ? LP_SLOT_EMBEDDING : LP_SLOT_HEAD);
}

static void place_slots(lp_model *model) {
    lp_model_files *files = model->files;
    size_t used = 0, codes = 0;
    const size_t step = LP_ALIGNMENT / sizeof(float);
    for (size_t i = 0; i < files->table.n_slots;) {
        const lp_slot *slots = &files->table.slots[i];
        size_t n = group_size(slots);
        /* Biases of several layers are one vector only when they are copied. */
        bool packed = is_packed(model, slots), mapped = !packed && (n == 1 || slots->shape != LP_SHAPE_VECTOR);
        bool left = files->leaves_matrices && is_matrix(slots);
        int64_t columns = 0;
        for (size_t k = 0; k < n; k++) {
            files->places[i + k] = (lp_placement){.where = left ? LP_PLACE_LEFT : LP_PLACE_MAPPED};
            mapped = mapped && can_stay_mapped(&files->sources[i + k]);
            columns += columns_of(&slots[k], packed);
        }
        int64_t column = 0, n_in = turned(slots, packed) ? slots->columns : slots->rows;
        bool in_arena = !left && !mapped;
        for (size_t k = 0; k < n && in_arena; k++) {
            files->places[i + k] = (lp_placement){.where = LP_PLACE_ARENA,
                                                  .offset = used + (packed ? 0 : (size_t)column),
                                                  .ld = packed ? n_in : columns,
                                                  .packed = packed,
                                                  .column = column};
            column += columns_of(&slots[k], packed);
        }
        size_t floats = (size_t)(packed ? lp_gemm_panel_floats(n_in, columns) : n_in * columns);
        if (in_arena) used += (floats + step - 1) / step * step;
        if (packed && is_head(model, slots) && lp_gemm_argmax_is_quick(n_in))
            codes = lp_gemm_codes_bytes(n_in, columns);
        i += n;
    }
    model->arena_bytes = used * sizeof(float) + codes;
    files->codes_at = codes > 0 ? used * sizeof(float) : 0;
}

lp_status lp_model_open(const lp_model_source *source, lp_model *out, lp_error *err) {
    lp_model model = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&model.files, 1, sizeof *model.files, "model", err));
    model.files->lora_alpha = source->lora_alpha;
    model.files->base_rounding = source->base_rounding;
    LP_TRY(read_config(source, &model, err));
    LP_TRY(read_weights(source, &model, err));
    LP_TRY(lp_mem_new(&model.blocks, (size_t)model.config.n_layers, sizeof *model.blocks, "blocks", err));
    LP_TRY(
        lp_mem_new(&model.files->places, model.files->table.n_slots, sizeof *model.files->places, "placements", err));
    LP_TRY(
        lp_mem_new(&model.files->sources, model.files->table.n_slots, sizeof *model.files->sources, "placements", err));
    for (size_t i = 0; i < model.files->table.n_slots; i++)
        model.files->sources[i] = source_of(model.files, &model.files->table.slots[i]);
    place_slots(&model);
    if (source->with_digests) lp_digests_start(model.files);
    *out = model;
    return LP_OK;
out:
    lp_model_close(&model);
    return status;
}

void lp_model_leave_matrices(lp_model *model) {
    model->files->leaves_matrices = true;
    place_slots(model);
}

void lp_model_pack_matrices(lp_model *model) {
    model->files->packs_matrices = true;
    place_slots(model);
}

/* ---- pointers ---- */

static const float *values_of(const lp_model_files *files, size_t i) {
    const lp_placement *place = &files->places[i];
    if (place->where == LP_PLACE_LEFT) return NULL;
    if (place->where == LP_PLACE_ARENA) return files->arena + place->offset;
    return (const float *)(const void *)files->table.slots[i].tensor->data;
}

/* The tensor of slot i as the file has it: mapped, or left with its source. */
static lp_matrix stored_matrix(const lp_model_files *files, size_t i) {
    const lp_slot *slot = &files->table.slots[i];
    bool conv = slot->shape == LP_SHAPE_CONV1D;
    return (lp_matrix){.data = values_of(files, i),
                       .source = files->places[i].where == LP_PLACE_LEFT ? &files->sources[i] : NULL,
                       .n_in = conv ? slot->rows : slot->columns,
                       .n_out = conv ? slot->columns : slot->rows,
                       .layout = files->places[i].packed ? LP_PANELS
                                 : conv                  ? LP_IN_OUT
                                                         : LP_OUT_IN};
}

/* The linear layer of n slots from slot i on: one part [in, out] in the arena, or the tensors as they are stored. */
static void set_linear(const lp_model_files *files, size_t i, size_t n, lp_linear *linear) {
    linear->n_parts = (int)n;
    linear->n_out = 0;
    for (size_t k = 0; k < n; k++) {
        linear->part[k] = stored_matrix(files, i + k);
        linear->n_out += linear->part[k].n_out;
    }
    linear->n_in = linear->part[0].n_in;
    if (files->places[i].where != LP_PLACE_ARENA) return;
    linear->n_parts = 1;
    linear->part[0].n_out = linear->n_out;
    if (!files->places[i].packed) linear->part[0].layout = LP_IN_OUT;
}

static void set_pointer(lp_model *model, size_t i) {
    const lp_model_files *files = model->files;
    const lp_slot *slot = &files->table.slots[i];
    const float *values = values_of(files, i);
    lp_block *block = slot->layer >= 0 ? &model->blocks[slot->layer] : NULL;
    switch (slot->role) {
    case LP_SLOT_EMBEDDING: model->embedding = stored_matrix(files, i); break;
    case LP_SLOT_POSITIONS: model->positions = values; break;
    case LP_SLOT_NORM_ATTN_WEIGHT: block->norm_attn.weight = values; break;
    case LP_SLOT_NORM_ATTN_BIAS: block->norm_attn.bias = values; break;
    case LP_SLOT_QKV: set_linear(files, i, 1, &block->qkv); break;
    case LP_SLOT_QKV_BIAS: block->qkv.bias = values; break;
    case LP_SLOT_Q: set_linear(files, i, 3, &block->qkv); break;
    case LP_SLOT_K:
    case LP_SLOT_V:
    case LP_SLOT_K_BIAS:
    case LP_SLOT_V_BIAS: break;
    case LP_SLOT_Q_BIAS: block->qkv.bias = values; break;
    case LP_SLOT_Q_NORM: block->norm_q.weight = values; break;
    case LP_SLOT_K_NORM: block->norm_k.weight = values; break;
    case LP_SLOT_ATTN_OUT: set_linear(files, i, 1, &block->attn_out); break;
    case LP_SLOT_ATTN_OUT_BIAS: block->attn_out.bias = values; break;
    case LP_SLOT_NORM_MLP_WEIGHT: block->norm_mlp.weight = values; break;
    case LP_SLOT_NORM_MLP_BIAS: block->norm_mlp.bias = values; break;
    case LP_SLOT_GATE: set_linear(files, i, 2, &block->mlp_in); break;
    case LP_SLOT_UP: break;
    case LP_SLOT_MLP_IN: set_linear(files, i, 1, &block->mlp_in); break;
    case LP_SLOT_MLP_IN_BIAS: block->mlp_in.bias = values; break;
    case LP_SLOT_MLP_OUT: set_linear(files, i, 1, &block->mlp_out); break;
    case LP_SLOT_MLP_OUT_BIAS: block->mlp_out.bias = values; break;
    case LP_SLOT_FINAL_NORM_WEIGHT: model->final_norm.weight = values; break;
    case LP_SLOT_FINAL_NORM_BIAS: model->final_norm.bias = values; break;
    case LP_SLOT_HEAD: model->head = stored_matrix(files, i); break;
    case LP_SLOT_PRJ_IN: set_linear(files, i, 1, &model->projection.in); break;
    case LP_SLOT_PRJ_IN_BIAS: model->projection.in.bias = values; break;
    case LP_SLOT_PRJ_OUT: set_linear(files, i, 1, &model->projection.out); break;
    case LP_SLOT_PRJ_OUT_BIAS: model->projection.out.bias = values; break;
    case LP_SLOT_PRJ_NORM_WEIGHT: model->projection.norm.weight = values; break;
    case LP_SLOT_PRJ_NORM_BIAS: model->projection.norm.bias = values; break;
    case LP_N_SLOT_ROLES: break;
    }
}

/* ---- values ---- */

lp_status lp_model_fill(lp_model *model, void *arena, lp_model_turns *turns, lp_error *err) {
    lp_model_files *files = model->files;
    lp_model_turns own = {0};
    LP_ASSERT((uintptr_t)arena % LP_ALIGNMENT == 0);
    files->arena = arena;
    for (size_t i = 0; i < files->table.n_slots; i++) set_pointer(model, i);
    if (model->config.tied_head) model->head = model->embedding;
    model->projection.present = files->table.has_projection;
    model->projection.has_norm = files->table.has_projection_norm;
    lp_status status = lp_fill_arena(files, arena, model->arena_bytes, turns ? turns : &own, err);
    lp_files_drop_pages(files);
    return status;
}

void lp_model_fill_codes(lp_model *model, void *arena, int64_t part, int64_t n_parts) {
    const lp_model_files *files = model->files;
    lp_matrix *head = &model->head;
    if (files->codes_at == 0) return;
    unsigned char *codes = (unsigned char *)arena + files->codes_at;
    lp_gemm_codes_make(head->data, head->n_in, head->n_out, part, n_parts, codes);
    head->codes = codes;
}

lp_status lp_model_load(const lp_model_source *source, lp_model *out, lp_error *err) {
    lp_model model = {0};
    lp_status status = lp_model_open(source, &model, err);
    if (status != LP_OK) return status;
    LP_TRY(lp_mem_new(&model.files->own_arena, model.arena_bytes, 1, "weights", err));
    LP_TRY(lp_model_fill(&model, model.files->own_arena, NULL, err));
    *out = model;
    return LP_OK;
out:
    lp_model_close(&model);
    return status;
}

void lp_model_close(lp_model *model) {
    if (model->files) {
        lp_digests_stop(model->files);
        lp_layout_release(&model->files->table);
        lp_checkpoint_release(&model->files->base);
        lp_checkpoint_release(&model->files->codi);
        lp_mem_free(model->files->places);
        lp_mem_free(model->files->sources);
        lp_mem_free(model->files->own_arena);
        lp_mem_free(model->files);
    }
    lp_mem_free(model->blocks);
    *model = (lp_model){0};
}

lp_status lp_model_digests(const lp_model *model, lp_text *out, lp_error *err) {
    const lp_checkpoint *checkpoints[] = {&model->files->base, &model->files->codi};
    LP_CHECK(lp_digests_wait(model->files, err));
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < checkpoints[c]->n_files; i++)
            LP_CHECK(lp_text_format(out, err, "%s  %s\n", checkpoints[c]->files[i]->label,
                                    checkpoints[c]->files[i]->sha256));
    return LP_OK;
}

int lp_model_digest_threads(const lp_model *model, double *longest_seconds) {
    *longest_seconds = model->files->digests.longest_seconds;
    return model->files->digests.n_threads;
}
