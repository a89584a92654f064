#include "nn/site.h"

const char *const *lp_site_names(void) {
    static const char *const names[] = {"latent_in", "resid_pre", "q",       "k",          "v",          "z",
                                        "attn_out",  "resid_mid", "mlp_out", "resid_post", "latent_raw", NULL};
    return names;
}

const char *const *lp_phase_names(void) {
    static const char *const names[] = {"prompt", "thought", "answer", NULL};
    return names;
}

const char *const *lp_operation_names(void) {
    static const char *const names[] = {"replace", "add", "scale", "lerp", "forbid", "remove", "keep", "swap", NULL};
    return names;
}

bool lp_operation_takes_vector(lp_operation operation) {
    return operation == LP_OP_REPLACE || operation == LP_OP_ADD || operation == LP_OP_LERP || operation == LP_OP_SWAP;
}

bool lp_operation_has_factor(lp_operation operation) {
    return operation == LP_OP_ADD || operation == LP_OP_SCALE || operation == LP_OP_LERP;
}

bool lp_operation_has_subspace(lp_operation operation) {
    return operation == LP_OP_REMOVE || operation == LP_OP_KEEP || operation == LP_OP_SWAP;
}

bool lp_site_has_layer(lp_site site) {
    return site != LP_SITE_LATENT_IN && site != LP_SITE_LATENT_RAW;
}

int32_t lp_site_n_heads(const lp_model_config *config, lp_site site) {
    switch (site) {
    case LP_SITE_Q:
    case LP_SITE_Z: return config->n_heads;
    case LP_SITE_K:
    case LP_SITE_V: return config->n_kv_heads;
    default: return 0;
    }
}

bool lp_site_is_after_keys(lp_site site) {
    return site == LP_SITE_Q || site > LP_SITE_V;
}

int32_t lp_site_width(const lp_model_config *config, lp_site site, int32_t head) {
    int32_t n_heads = lp_site_n_heads(config, site);
    if (n_heads == 0) return config->d_model;
    return head == LP_ALL_HEADS ? n_heads * config->head_dim : config->head_dim;
}

int32_t lp_site_offset(const lp_model_config *config, int32_t head) {
    return head == LP_ALL_HEADS ? 0 : head * config->head_dim;
}

void lp_address_canonical(lp_address *address) {
    if (address->site != LP_SITE_RESID_PRE || address->layer <= 0) return;
    address->site = LP_SITE_RESID_POST;
    address->layer--;
}

int32_t lp_address_depth(const lp_model_config *config, const lp_address *address) {
    if (address->site == LP_SITE_LATENT_IN) return -1;
    if (address->site == LP_SITE_LATENT_RAW) return config->n_layers * LP_N_SITES;
    return address->layer * LP_N_SITES + (int32_t)address->site;
}

/* All coordinates come from x as it was. */
static void apply_in_subspace(const lp_edit *edit, float *x, int32_t width) {
    const lp_subspace *subspace = edit->subspace;
    double at[LP_MAX_DIRECTIONS];
    LP_ASSERT(subspace->width == width && subspace->n <= LP_MAX_DIRECTIONS);
    for (int32_t j = 0; j < subspace->n; j++) {
        const float *direction = subspace->directions + (size_t)j * (size_t)width;
        at[j] = 0;
        for (int32_t i = 0; i < width; i++) {
            double from = edit->operation == LP_OP_SWAP ? (double)x[i] - (double)edit->vector[i] : (double)x[i];
            at[j] += from * (double)direction[i];
        }
    }
    for (int32_t i = 0; i < width; i++) {
        double part = 0;
        for (int32_t j = 0; j < subspace->n; j++)
            part += at[j] * (double)subspace->directions[(size_t)j * (size_t)width + (size_t)i];
        x[i] = (float)(edit->operation == LP_OP_KEEP ? part : (double)x[i] - part);
    }
}

void lp_edit_apply(const lp_edit *edit, float *x, int32_t width) {
    const float *v = edit->vector;
    float factor = edit->factor;
    switch (edit->operation) {
    case LP_OP_REPLACE: memcpy(x, v, (size_t)width * sizeof *x); break;
    case LP_OP_ADD:
        for (int32_t i = 0; i < width; i++) x[i] = x[i] + factor * v[i];
        break;
    case LP_OP_SCALE:
        for (int32_t i = 0; i < width; i++) x[i] = factor * x[i];
        break;
    case LP_OP_LERP:
        for (int32_t i = 0; i < width; i++) x[i] = (1.0f - factor) * x[i] + factor * v[i];
        break;
    case LP_OP_REMOVE:
    case LP_OP_KEEP:
    case LP_OP_SWAP: apply_in_subspace(edit, x, width); break;
    case LP_OP_FORBID: LP_ASSERT(false); break;
    }
}
