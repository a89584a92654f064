/* Sites and addresses: the places of a run where a vector lives and can be captured or changed.
 *
 * A run is a sequence of positions in three phases: prompt tokens, thought steps, answer positions (answer
 * index 0 is the position of eot). At one position the vectors come into being in the order of lp_site within
 * each layer:
 *
 *   latent_in (the embedding fed in, before position embeddings)
 *   of each layer: resid_pre, then q, k and v, z, attn_out, resid_mid, mlp_out, resid_post
 *   latent_raw (after the final norm; the projection or the output head reads it)
 *
 * resid_post[l] and resid_pre[l+1] are the same vector. q and k are query and key before rotary position embedding (so
 * that a donor from another position keeps its content and takes the target's position), after the norm of each head
 * where the model has one; v is the value; z is what the heads attended to, before the output projection. q and z are
 * of all query heads, or of one; k and v of all KV heads, or of one. */
#ifndef LP_NN_SITE_H
#define LP_NN_SITE_H

#include "base/error.h"
#include "model/model.h"

typedef enum {
    LP_SITE_LATENT_IN,
    LP_SITE_RESID_PRE,
    LP_SITE_Q,
    LP_SITE_K,
    LP_SITE_V,
    LP_SITE_Z,
    LP_SITE_ATTN_OUT,
    LP_SITE_RESID_MID,
    LP_SITE_MLP_OUT,
    LP_SITE_RESID_POST,
    LP_SITE_LATENT_RAW
} lp_site;
enum { LP_N_SITES = 11 };

typedef enum { LP_PHASE_PROMPT, LP_PHASE_THOUGHT, LP_PHASE_ANSWER } lp_phase;

enum { LP_INDEX_ALL = INT32_MIN, LP_ALL_HEADS = -1 };

typedef struct {
    lp_phase phase;
    int32_t index; /* within the phase, from 0; LP_INDEX_ALL: every position of the phase */
    lp_site site;
    int32_t layer; /* 0 for latent_in and latent_raw */
    int32_t head;  /* KV head for k and v, query head for q and z; LP_ALL_HEADS: all of them, or a site without heads */
} lp_address;

typedef enum {
    LP_OP_REPLACE, /* x = v */
    LP_OP_ADD,     /* x = x + factor v */
    LP_OP_SCALE,   /* x = factor x */
    LP_OP_LERP,    /* x = (1 - factor) x + factor v */
    LP_OP_FORBID,  /* site z: the head attends to what is left without some positions */
    /* with P, the projection onto a subspace */
    LP_OP_REMOVE, /* x = x - P x */
    LP_OP_KEEP,   /* x = P x */
    LP_OP_SWAP    /* x = x + P (v - x) */
} lp_operation;

/* Directions that span a subspace: orthonormal rows. */
typedef struct {
    const float *directions; /* [n, width] borrowed */
    int32_t n;               /* 1 .. LP_MAX_DIRECTIONS */
    int32_t width;
} lp_subspace;
enum { LP_MAX_DIRECTIONS = 64 };

/* One change of one vector of a run. */
typedef struct {
    lp_address at; /* index as in the run (not negative) or LP_INDEX_ALL */
    lp_operation operation;
    float factor;
    const float *vector;               /* [lp_site_width] borrowed; NULL where the operation takes none */
    const lp_subspace *subspace;       /* borrowed; NULL where the operation has none */
    const struct lp_token_edit *token; /* borrowed; depends on the tokens nearest to x (token_edit.h); NULL: does not */
    int32_t key_begin, key_end; /* FORBID: positions of the run, [key_begin, key_end), that are not attended to */
} lp_edit;

/* A copy of one vector of a run, taken after the edits there. */
typedef struct {
    lp_address at;
    float *out; /* [lp_site_width] */
} lp_capture;

const char *const *lp_site_names(void);      /* NULL-terminated, in the order of the enum */
const char *const *lp_phase_names(void);     /* NULL-terminated */
const char *const *lp_operation_names(void); /* NULL-terminated */

/* Has the operation a value v? */
bool lp_operation_takes_vector(lp_operation operation);
bool lp_operation_has_factor(lp_operation operation);
bool lp_operation_has_subspace(lp_operation operation);

/* True for sites that exist once per layer. */
bool lp_site_has_layer(lp_site site);
/* Heads that the site is made of: query heads, KV heads, or 0 where it has none. */
int32_t lp_site_n_heads(const lp_model_config *config, lp_site site);
/* True for what comes into being in a layer after its K and V, or beside them: later positions do not read it there. */
bool lp_site_is_after_keys(lp_site site);
/* Number of floats of the vector. */
int32_t lp_site_width(const lp_model_config *config, lp_site site, int32_t head);
/* Where the vector begins inside its buffer: head * head_dim for one head, otherwise 0. */
int32_t lp_site_offset(const lp_model_config *config, int32_t head);
/* resid_pre of a layer above the first becomes resid_post of the layer below: the name under which that vector is
 * edited, captured and stored. */
void lp_address_canonical(lp_address *address);
/* Order within one position: (layer, site) as one number; smaller comes first. */
int32_t lp_address_depth(const lp_model_config *config, const lp_address *address);

/* x[width] changed in place by the edit, which is not FORBID and whose vector and subspace are there. One definition
 * for every executor on the host. */
void lp_edit_apply(const lp_edit *edit, float *x, int32_t width);

#endif
