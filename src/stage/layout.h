/* Layout of the activation store: which sites are captured, as which field of a pair record, and where one vector lies
 * in it. Both stages use the same layout, made from the job and the model; no input or output here. */
#ifndef LP_STAGE_LAYOUT_H
#define LP_STAGE_LAYOUT_H

#include "stage/session.h"

/* One captured site of one run. Vectors lie as [layers, indices, width]. */
typedef struct {
    lp_phase phase;
    lp_site site;
    int32_t *layers;  /* [n_layers] */
    int32_t *indices; /* [n_indices] within the phase; prompt ones may be negative */
    int32_t n_layers, n_indices, width;
    char name[48]; /* "resid_post", "prompt_resid_post" */
} lp_captured_site;

/* Fields of a run that are not sites, in their order after the sites. */
typedef enum {
    LP_STORED_PROMPT_TOKENS,
    LP_STORED_ANSWER_TOKENS,
    LP_STORED_ANSWER_LEN,
    LP_STORED_ANSWER_ENDED,
    LP_STORED_ANSWER_TEXT,
    LP_STORED_NUMBER,
    LP_STORED_OUTCOME
} lp_stored;
enum { LP_N_STORED = 7, LP_N_DEFAULT_CAPTURED = 4, LP_MAX_CAPTURED = 24, LP_ANSWER_TEXT_BYTES = 256 };

typedef struct {
    lp_captured_site captured[LP_MAX_CAPTURED];
    size_t n_captured;
    lp_field fields[2 * (LP_MAX_CAPTURED + LP_N_STORED)]; /* clean's, then corrupted's */
    size_t n_fields;
    char paths[2 * (LP_MAX_CAPTURED + LP_N_STORED)][80];
    char notes[LP_MAX_CAPTURED][120];
} lp_store_layout;

/* The default sites (resid_post of all layers, resid_pre of layer 0, latent_in, latent_raw at the thought steps), those
 * of the job's store.sites, and those that its conditions take vectors from ("all" positions of prompt or answer
 * excepted: store.sites has to name these). Fails on a site named twice. Too large for the stack of a thread: allocate
 * it. */
lp_status lp_store_layout_init(const lp_session *session, lp_store_layout *out, lp_error *err);
void lp_store_layout_release(lp_store_layout *layout);

size_t lp_store_layout_site_field(const lp_store_layout *layout, int side, size_t captured);
size_t lp_store_layout_stored_field(const lp_store_layout *layout, int side, lp_stored what);

/* Where the vector of an address lies: captured site and offset in floats. False when the store does not hold it.
 * n_prompt: of the run, to match indices counted from the end. */
bool lp_store_layout_find(const lp_store_layout *layout, const lp_session *session, const lp_address *address,
                          int32_t n_prompt, size_t *captured, size_t *offset);

#endif
