/* From the words of a sweep to its conditions: step sets, layer sets, and the product of sites x layers x steps x
 * donors x factors x directions that a group of the job spans; then the controls. No JSON here: src/job reads the
 * words. */
#ifndef LP_PATCH_EXPAND_H
#define LP_PATCH_EXPAND_H

#include "patch/condition.h"

enum { LP_WORDS = 256, LP_LONG_WORDS = 4 * LP_WORDS };

/* Thought steps that one condition replaces together. */
typedef struct {
    uint64_t mask;        /* bit t: step t */
    char words[LP_WORDS]; /* "first:3", "set:0,1,4,5" */
} lp_step_set;

/* Layers, or heads, that one condition changes together. */
typedef struct {
    int16_t layers[LP_MAX_LAYERS]; /* small: a job may list thousands of sets */
    int32_t n;
    char words[LP_WORDS]; /* "2", "0-3" */
} lp_layer_set;

/* Appends the sets that `text` stands for: first:N, last:N, single:I, window:W (N, I, W: a number or a range a-b), all,
 * set:i,j,..., subset:all (every non-empty subset), complement:<one of the others>. `where` names the place in
 * messages. */
lp_status lp_step_sets_parse(const char *text, int32_t n_steps, const char *where, lp_step_set **sets, size_t *n,
                             size_t *capacity, lp_error *err);

/* Appends the sets that `text` stands for: a number or a range a-b (each layer by itself), all (each by itself), early,
 * middle, late (25, 50, 90 % of the depth), window:W (every run of W neighbours together), together:all, together:a-b.
 */
lp_status lp_layer_sets_parse(const char *text, int32_t n_layers, const char *where, lp_layer_set **sets, size_t *n,
                              size_t *capacity, lp_error *err);

/* Positions of one phase, together. */
typedef struct {
    lp_phase phase;
    uint64_t mask;       /* thought steps */
    bool all;            /* prompt and answer: every position; otherwise [first, last] */
    int32_t first, last; /* in the prompt also negative, from the end */
    char words[LP_WORDS];
} lp_position_set;

/* Appends the sets that the index `text` of a prompt or an answer stands for: a number, all, together:a-b; in the
 * prompt numbers may be negative. */
lp_status lp_position_sets_parse(const char *text, lp_phase phase, const char *where, lp_position_set **sets, size_t *n,
                                 size_t *capacity, lp_error *err);

/* The indices of a set, one after the other: LP_INDEX_ALL where it is the whole phase. False: there is none left. */
bool lp_position_first(const lp_position_set *set, int32_t *index);
bool lp_position_next(const lp_position_set *set, int32_t *index);

/* Attention edges in words: each list spans. */
typedef struct {
    lp_position_set *from, *to; /* rows, and the positions that they may not attend to */
    size_t n_from, n_to;
    lp_layer_set *layers; /* n_layers 0: those of the group's own cell */
    size_t n_layers;
    lp_layer_set *heads; /* query heads, or KV heads with all of their queries; n_heads 0: all together */
    size_t n_heads;
    bool by_kv_head;
} lp_edge_words;

/* Appends the sets of heads that `text` stands for, in the words of layers but for early, middle and late. */
lp_status lp_head_sets_parse(const char *text, int32_t n_heads, const char *where, lp_layer_set **sets, size_t *n,
                             size_t *capacity, lp_error *err);

/* Switches of the published scripts' defects (docs/design.md, Protocols), and what else changes more than the steps. */
typedef struct {
    bool off_by_one;   /* the donor's vector is taken one block earlier: resid_pre[l] goes to resid_post[l] */
    bool prefill_leak; /* sets with step 0: the last prompt position gets the donor's step 0 too */
    bool last_prompt;  /* the last prompt position is changed too, from the same place of the donor's run */
    bool decode_leak;  /* sets with the last step: every answer position gets the donor's last step too */
} lp_defects;

typedef struct {
    lp_phase phase;
    lp_site *sites; /* none: attention edges alone */
    size_t n_sites;
    uint32_t
        *beside; /* [n_sites] bit s: site s, with layers, is changed beside it in the same conditions; NULL: none */
    lp_layer_set *layers; /* of sites with layers */
    size_t n_layers;
    lp_step_set *steps; /* phase thought */
    size_t n_steps;
    int32_t *indices; /* phases prompt and answer; LP_INDEX_ALL for "all" */
    size_t n_indices;
    int32_t *heads; /* of k, v, q and z; one LP_ALL_HEADS by default */
    size_t n_heads;
    lp_donor *donors;
    size_t n_donors;
    lp_donor_detail *details; /* [n_donors] for mean and noise; NULL: {0} for all */
    bool other_run;           /* of clean and corrupted, only the run that is not the recipient, in each direction */
    lp_operation operation;
    float *factors; /* one 1 by default */
    size_t n_factors;
    /* Donor address, where it differs from the target's. */
    bool from_other_site;
    lp_site from_site;
    int32_t *from_layers; /* parallel to `layers`, which must be single layers then (a target without layers takes the
                             vectors of all of them, each by itself); NULL: the same */
    int32_t from_step;    /* -1: the same step; otherwise this step for all targets */
    lp_edge_words *edges; /* forbidden together, beside the replacements */
    size_t n_edges;
    lp_defects defects;
    int32_t vector;      /* index of the file for LP_DONOR_FILE */
    int32_t subspace;    /* of operations with one of a file: index of the file + 1 */
    lp_token_rule token; /* `chooses`: the subspace is that of the nearest embeddings; otherwise only_numbers alone */
    int32_t stop_after;  /* 0: all steps; otherwise the run makes this many thought steps */
} lp_sweep_group;
void lp_sweep_group_release(lp_sweep_group *group);

typedef struct {
    bool self;     /* self at every site and layer, all steps of the group's largest set */
    bool shuffled; /* shuffled donor for every effect whose donor is the other run */
} lp_controls;

typedef struct {
    /* *out = group i, valid until the next call. They are asked for one after the other from 0, several times: a job
     * may have more groups than memory has room for all at once. */
    lp_status (*group)(void *user, size_t i, const lp_sweep_group **out, lp_error *err);
    void *user; /* of `group` */
    size_t n_groups;
    bool denoise, noise;
    lp_controls controls;
    int32_t n_draws; /* of the donor shuffled: conditions that differ in the pair drawn; 0 means 1 */
} lp_sweep_words;

/* The role of a condition is control for the donors self and shuffled, whoever asked for them, and otherwise effect.
 * *out ({0} before) = the unpatched run of each direction (always; condition 0 on), then the effects in the order of
 * the groups, then the controls. A group with the donors clean and corrupted both stands for the other run, whichever
 * the direction: the recipient's own run back into itself is left out. A group that names only that one is refused: its
 * effect would be none. Conditions of equal name are made once. Fails on
 * a sweep without conditions and on addresses that the model or the protocol does not have. */
lp_status lp_conditions_expand(const lp_sweep_words *words, const lp_model_config *config, int32_t n_steps,
                               lp_condition_set *out, lp_error *err);

#endif
