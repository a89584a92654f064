/* Which tensor of the files is which tensor of the architecture.
 *
 * A model is a list of slots, one for each tensor that the architecture needs, in the order embedding, blocks, final
 * norm, head, projection. Binding finds each slot's tensor (and its LoRA pair) in the thought checkpoint, else in the
 * base checkpoint, under any of the names that Hugging Face and the published codes write:
 *   plain         transformer.* / model.* and the same without that prefix; lm_head.weight
 *   CODI          codi.<plain>
 *   Coconut       base_causallm.<plain>; embedding.weight is a second name of the input embedding
 *   wrapper       model.<plain>, of a module that holds the language model as `model`
 *   with peft     any of them with base_model.model. in front of <plain>, where a linear layer X with LoRA is
 *                 X.base_layer.{weight,bias}, X.lora_A.default.weight [r, in] and X.lora_B.default.weight [out, r],
 *                 `default` being the adapter's name
 *   projection    prj.1.*, prj.3.*, prj.ln.* (nn.Sequential: dropout, linear, GELU, linear, "ln"), or projector.1.*,
 *                 projector.3.*, projector.4.*; nothing else may begin so
 * module. and coconut. in front of all names are taken off, model. where a whole CODI or Coconut module comes after it,
 * and _orig_mod. and _fsdp_wrapped_module. wherever they stand. decoder.*, pj_in.*, pj_out.* and expainable_llm.* are
 * SIM-CoT's, for training only. Shapes and dtypes are checked here. Tensors that nobody asked for are kept in a list
 * with the reason.
 */
#ifndef LP_MODEL_CODI_LAYOUT_H
#define LP_MODEL_CODI_LAYOUT_H

#include "model/model.h"
#include "model/tensor_source.h"

typedef enum {
    LP_SLOT_EMBEDDING,
    LP_SLOT_POSITIONS,
    LP_SLOT_NORM_ATTN_WEIGHT,
    LP_SLOT_NORM_ATTN_BIAS,
    LP_SLOT_QKV, /* GPT-2: q | k | v in one */
    LP_SLOT_QKV_BIAS,
    LP_SLOT_Q,
    LP_SLOT_K,
    LP_SLOT_V,
    LP_SLOT_Q_BIAS,
    LP_SLOT_K_BIAS,
    LP_SLOT_V_BIAS,
    LP_SLOT_Q_NORM,
    LP_SLOT_K_NORM,
    LP_SLOT_ATTN_OUT,
    LP_SLOT_ATTN_OUT_BIAS,
    LP_SLOT_NORM_MLP_WEIGHT,
    LP_SLOT_NORM_MLP_BIAS,
    LP_SLOT_GATE,
    LP_SLOT_UP,
    LP_SLOT_MLP_IN, /* GPT-2's c_fc */
    LP_SLOT_MLP_IN_BIAS,
    LP_SLOT_MLP_OUT,
    LP_SLOT_MLP_OUT_BIAS,
    LP_SLOT_FINAL_NORM_WEIGHT,
    LP_SLOT_FINAL_NORM_BIAS,
    LP_SLOT_HEAD,
    LP_SLOT_PRJ_IN,
    LP_SLOT_PRJ_IN_BIAS,
    LP_SLOT_PRJ_OUT,
    LP_SLOT_PRJ_OUT_BIAS,
    LP_SLOT_PRJ_NORM_WEIGHT,
    LP_SLOT_PRJ_NORM_BIAS,
    LP_N_SLOT_ROLES
} lp_slot_role;

typedef enum {
    LP_PART_EMBEDDING,
    LP_PART_ATTENTION,
    LP_PART_MLP,
    LP_PART_NORM,
    LP_PART_HEAD,
    LP_PART_PROJECTION
} lp_part;
enum { LP_N_PARTS = 6 };

/* VECTOR: [columns]. TABLE: [rows, columns], rows are looked up. CONV1D: [in, out]. LINEAR: [out, in]. */
typedef enum { LP_SHAPE_VECTOR, LP_SHAPE_TABLE, LP_SHAPE_CONV1D, LP_SHAPE_LINEAR } lp_slot_shape;

enum { LP_SLOT_NAME = 80 };

typedef struct {
    lp_slot_role role;
    lp_part part;
    lp_slot_shape shape;
    int32_t layer;                    /* -1 outside the blocks */
    int64_t rows, columns;            /* of the file's tensor; rows 1 for a vector */
    char name[LP_SLOT_NAME];          /* in Hugging Face's words: "transformer.h.0.attn.c_attn.weight" */
    const lp_tensor *tensor;          /* bound; borrowed from its list */
    const lp_tensor *lora_a, *lora_b; /* [r, in], [out, r]; NULL where there is no LoRA */
} lp_slot;

/* Why a tensor of the files is not used. */
typedef enum {
    LP_UNUSED_UNEXPECTED,
    LP_UNUSED_BUFFER,
    LP_UNUSED_TIED_HEAD,
    LP_UNUSED_CODI_WINS,
    LP_UNUSED_TRAINING,
    LP_UNUSED_SECOND_NAME
} lp_unused_reason;

typedef enum { LP_LAYOUT_PLAIN, LP_LAYOUT_CODI, LP_LAYOUT_COCONUT, LP_LAYOUT_WRAPPER } lp_layout_kind;

/* How the names of a list of tensors are made. */
typedef struct {
    lp_layout_kind kind;
    char outer[48];   /* in front of all names: "module.", "coconut.", both; taken off */
    char adapter[32]; /* of LoRA, "default"; empty where there is none */
    const char *body; /* in front of the language model's names: "codi.", "base_causallm.", "model." or "" */
    size_t n_tensors, n_body, n_peft, n_projection, n_training;
} lp_name_layout;

typedef struct {
    const lp_tensor *tensor;
    lp_unused_reason reason;
} lp_unused_tensor;

typedef struct {
    lp_slot *slots; /* [n_slots] */
    size_t n_slots, slot_capacity;
    lp_name_layout layout; /* of the thought checkpoint; of the base where there is none */
    int32_t lora_rank;     /* 0: no LoRA */
    bool has_projection, has_projection_norm;
    lp_unused_tensor *unused; /* [n_unused] */
    size_t n_unused, unused_capacity;
} lp_layout_table;

/* missing: the name of the first tensor of the base model that the CODI tensors do not hold; empty where they hold all
 * of them, so that the base weights need not be read. */
lp_status lp_layout_codi_lacks(const lp_model_config *config, const lp_tensor_list *codi, char missing[LP_SLOT_NAME],
                               lp_error *err);

/* Builds and binds the table. base or codi may be NULL, not both; they are borrowed and must not change afterwards.
 * base_file and codi_file name the two in messages. Sets config->n_embedded: the rows of the embedding. lora_rank: 0 or
 * what it must be. */
lp_status lp_layout_bind(lp_model_config *config, const lp_tensor_list *base, const char *base_file,
                         const lp_tensor_list *codi, const char *codi_file, int32_t lora_rank, lp_layout_table *out,
                         lp_error *err);
/* "; it has the names of ..." where a file that lacks tensors has the names of another format; otherwise "". Static. */
const char *lp_layout_foreign(const lp_tensor_list *list);
/* "CODI module", "Coconut", ... */
const char *lp_layout_name(lp_layout_kind kind);

void lp_layout_release(lp_layout_table *table);

#endif
