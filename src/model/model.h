/* A language model's weights in memory, as float32, ready for the forward pass.
 *
 * Owns: the mapped checkpoint files and, through the caller's arena, every tensor that had to be changed (LoRA
 * merged, 16-bit widened). Tensors that are float32 in the file and need no merge are used where they are mapped;
 * matrices may be left to a device that makes them itself. Knows nothing of tokens, protocols or devices. After
 * lp_model_open everything has been checked: each tensor of the architecture is there with the right shape.
 * lp_model_fill then computes the arena; until it has run (in every process that shares the arena's memory) the
 * pointers into the arena hold no values.
 *
 * Notation: D = d_model, Q = n_heads*head_dim, KV = n_kv_heads*head_dim, F = d_ff, V = base vocabulary. */
#ifndef LP_MODEL_MODEL_H
#define LP_MODEL_MODEL_H

#include "base/dtype.h"
#include "base/error.h"
#include "base/text.h"
#include "model/activation.h"

/* The shape of a block: GPT-2's, or LLaMA's, which Qwen2, Qwen3 and Mistral share but for the flags of
 * lp_model_config. */
typedef enum { LP_ARCH_GPT2, LP_ARCH_LLAMA } lp_arch;
enum { LP_MAX_EOS = 8, LP_MAX_LAYERS = 256 };

/* model_type of config.json. */
typedef enum { LP_FAMILY_GPT2, LP_FAMILY_LLAMA, LP_FAMILY_QWEN2, LP_FAMILY_QWEN3, LP_FAMILY_MISTRAL } lp_family;
typedef enum { LP_ROPE_NONE, LP_ROPE_PLAIN, LP_ROPE_LLAMA3, LP_ROPE_LINEAR } lp_rope_kind;

typedef struct {
    lp_family family;
    lp_arch arch;
    bool qkv_bias, attn_out_bias; /* of LLaMA's shape: linear layers with a bias; GPT-2's all have one */
    bool head_norm;               /* RMSNorm over each head of q and of k, before the rotation (Qwen3) */
    int32_t n_layers;
    int32_t d_model;
    int32_t n_heads;
    int32_t n_kv_heads; /* == n_heads for GPT-2 */
    int32_t head_dim;
    int32_t d_ff;
    int32_t n_vocab;                    /* V: tokens of the base model */
    int32_t n_embedded;                 /* rows of the embedding: V, or as many as the thought checkpoint has */
    int32_t n_context;                  /* positions the model can take */
    int32_t bos_id;                     /* -1 where config.json names none */
    int32_t eos_id;                     /* first one where config.json lists several; -1 where none */
    int32_t eos_ids[LP_MAX_EOS], n_eos; /* all of them */
    int32_t latent_id, latent_start_id, latent_end_id; /* of LatentTTS's configs; -1: none */
    lp_activation activation;
    float norm_eps;
    bool tied_head; /* the output head is the embedding */
    lp_rope_kind rope;
    double rope_theta;
    double rope_factor;                                 /* LLAMA3 and LINEAR */
    double rope_low_freq_factor, rope_high_freq_factor; /* LLAMA3 */
    int32_t rope_original_context;                      /* LLAMA3 */
} lp_model_config;

/* IN_OUT: data [n_in, n_out], y = x W (GPT-2's Conv1D). OUT_IN: data [n_out, n_in], y = x W^T (torch.nn.Linear).
 * PANELS: W as lp_gemm reads it fastest, element (in, out) at data[lp_gemm_panel_at(n_in, in, out)] (base/gemm.h). */
typedef enum { LP_IN_OUT, LP_OUT_IN, LP_PANELS } lp_layout;

typedef struct lp_weight_source lp_weight_source; /* model/weight_source.h */

typedef struct {
    const float *data;              /* row-major, borrowed from the model; NULL: left to be made from the source */
    const lp_weight_source *source; /* NULL where there are data */
    int64_t n_in, n_out;
    lp_layout layout;
    const void *codes; /* of PANELS: their codes (base/gemm_argmax.h); NULL: none */
} lp_matrix;

/* y [rows, n_out] = x [rows, n_in] W + bias; W's columns are those of its parts, one after the other (a fused q|k|v is
 * one part where it was merged or stored fused, three where three files' tensors are mapped). */
typedef struct {
    lp_matrix part[3];
    int n_parts;
    int64_t n_in, n_out;
    const float *bias; /* [n_out] or NULL */
    int64_t stride;    /* floats between the rows of y; 0: n_out */
} lp_linear;

static inline int64_t lp_linear_stride(const lp_linear *linear) {
    return linear->stride > 0 ? linear->stride : linear->n_out;
}

typedef struct {
    const float *weight; /* [D] */
    const float *bias;   /* [D]; NULL: RMSNorm */
} lp_norm;

typedef struct {
    lp_norm norm_attn, norm_mlp;
    lp_norm norm_q, norm_k; /* [head_dim] of each head; weight NULL: none */
    lp_linear qkv;          /* D -> Q + KV + KV, columns q | k | v */
    lp_linear attn_out;     /* Q -> D */
    lp_linear mlp_in;       /* D -> F (GPT-2), or D -> F + F, columns gate | up (LLaMA) */
    lp_linear mlp_out;      /* F -> D */
} lp_block;

/* prj of CODI: Linear, GELU(erf), Linear, optional LayerNorm (eps 1e-5). */
typedef struct {
    bool present; /* false: the hidden state itself is the next input */
    lp_linear in, out;
    bool has_norm;
    lp_norm norm;
} lp_projection;

typedef struct lp_model_files lp_model_files; /* maps and bookkeeping, private */

typedef struct {
    lp_model_config config;
    lp_matrix embedding;    /* [n_embedded, D]; layout LP_OUT_IN: as output head y = x E^T */
    const float *positions; /* [n_context, D], GPT-2; NULL for LLaMA */
    lp_block *blocks;       /* [n_layers] */
    lp_norm final_norm;
    lp_matrix head; /* [n_embedded, D] LP_OUT_IN; == embedding where tied */
    lp_projection projection;
    bool has_thoughts; /* a thought checkpoint was read, or the base model is one: it has tokens around thoughts */
    size_t arena_bytes;
    lp_model_files *files;
} lp_model;

typedef enum { LP_BASE_AS_STORED, LP_BASE_FP16 } lp_base_rounding;

typedef struct {
    const char *base;  /* folder with config.json and, unless the CODI checkpoint holds them, the base weights */
    const char *codi;  /* CODI checkpoint: a folder or a file (.safetensors, .bin); NULL: a plain HF model */
    int32_t lora_rank; /* 0: take it from the tensors; otherwise it must agree with them */
    double lora_alpha; /* the public checkpoints': 32 with rank 128 */
    lp_base_rounding base_rounding; /* FP16: the base weights are rounded to fp16 first, as the published scripts did */
    bool with_digests; /* lp_model_digests or lp_model_inspect will be called: threads read the files from the start */
} lp_model_source;

/* Reads headers, maps the files, checks every tensor's presence, shape and dtype, and lays out the arena. Fails naming
 * the file and the tensor, with expected and found. Computes nothing that needs the arena. Local. */
lp_status lp_model_open(const lp_model_source *source, lp_model *out, lp_error *err);

/* Before lp_model_fill, in every process that shares the arena: the matrices (linear layers, embedding, head) are left
 * to a device that makes them from their sources; arena_bytes becomes what the rest needs. Such a model has neither
 * their values nor were they checked for NaN: it is for backends with makes_weights alone. */
void lp_model_leave_matrices(lp_model *model);

/* Before lp_model_fill, in every process that shares the arena: linear layers, the head, and an embedding that is the
 * head as well are laid out in the arena as LP_PANELS, for backends with takes_panels. None of them stays mapped, so
 * float32 matrices of the files then take memory of their own. */
void lp_model_pack_matrices(lp_model *model);

/* After lp_model_fill has returned in every process that shares the arena: makes part `part` of n_parts of the head's
 * codes there, where the head lies in panels and the processor gains from them, and sets head.codes. They are to be
 * read when all parts are made. Local. */
void lp_model_fill_codes(lp_model *model, void *arena, int64_t part, int64_t n_parts);

/* How far the processes that fill one arena together are. Zero before the first of them starts, in memory that all of
 * them see. */
typedef struct {
    _Atomic int64_t next;
} lp_model_turns;

/* Puts the arena [arena_bytes, aligned to 64] under the model: sets every pointer, and computes the merged and widened
 * tensors there (W + alpha/r B A in float32). Processes that share the arena and *turns share the work: the arena holds
 * all values when every one of them has returned (turns NULL: this process does everything). Fails on NaN or infinity
 * in any tensor that the architecture needs and that is not left, naming it (mapped tensors are checked too). The arena
 * is borrowed and must outlive the model. Works with as many OpenMP threads as the process allows; the values depend
 * neither on their number nor on that of the processes. Local. */
lp_status lp_model_fill(lp_model *model, void *arena, lp_model_turns *turns, lp_error *err);

/* open + an own arena + fill, for programs of one process. */
lp_status lp_model_load(const lp_model_source *source, lp_model *out, lp_error *err);

void lp_model_close(lp_model *model);

/* SHA-256 of every file that was read, one `name  digest` per line in the order base first; for provenance. Waits for
 * the threads of with_digests; without them, computes. */
lp_status lp_model_digests(const lp_model *model, lp_text *out, lp_error *err);
/* After lp_model_digests: threads that worked beside the caller, and seconds of the one that took longest. */
int lp_model_digest_threads(const lp_model *model, double *longest_seconds);

/* What `latentpatch inspect` prints: text for people, or JSON. Enough that the model is open; reads every file whole,
 * as lp_model_digests does. */
typedef enum { LP_INSPECT_TEXT, LP_INSPECT_JSON } lp_inspect_format;
lp_status lp_model_inspect(const lp_model *model, lp_inspect_format format, lp_text *out, lp_error *err);

#endif
