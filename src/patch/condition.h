/* Conditions: what a sweep does to a run, as data.
 *
 * A condition is a set of replacements applied to one run, the recipient. A replacement says where (target address),
 * what (operation, factor) and from where (donor and donor address). This module knows the words of the experiment and
 * their order in time; it knows no model weights, no files and no JSON. All rules about which replacements are equal,
 * dead or overwritten live in condition_effective.c, for every executor alike. */
#ifndef LP_PATCH_CONDITION_H
#define LP_PATCH_CONDITION_H

#include "base/error.h"
#include "nn/site.h"
#include "nn/token_edit.h"
#include "thought/protocol.h"

typedef enum {
    LP_DONOR_CLEAN,     /* the pair's clean run */
    LP_DONOR_CORRUPTED, /* the pair's corrupted run */
    LP_DONOR_SELF,      /* the recipient's own unpatched run */
    LP_DONOR_ZERO,      /* zeros */
    LP_DONOR_MEAN,      /* mean over the store's other pairs of the source run, per address */
    LP_DONOR_SHUFFLED,  /* the source run of another pair, drawn by a seed */
    LP_DONOR_RANDOM,    /* Gaussian with the mean and norm of the source run's vector */
    LP_DONOR_FILE,      /* a vector from a file */
    LP_DONOR_NOISE,     /* Gaussian numbers of a size measured in the store */
    LP_DONOR_TOKEN      /* the embedding nearest to the vector that is changed */
} lp_donor;

/* What pairs have in common in a mean over some of them. Their texts are those of the source run. */
typedef enum {
    LP_LABEL_NONE,
    LP_LABEL_ANSWER,   /* its right answer */
    LP_LABEL_SOURCE,   /* what the pair was made from */
    LP_LABEL_TEMPLATE, /* the text that it was written from */
    LP_LABEL_STEPS,    /* steps of the worked solution */
    LP_LABEL_CHANGE,   /* the changed number as the run's question spells it */
    LP_LABEL_RESULT,   /* of the pair's graph: the result of a step */
    LP_LABEL_EQUATION  /* of the pair's graph: the equation of a step */
} lp_label;

/* What noise is put around: the run's own vector (so it is added to what is there), zeros, or the donor mean's. */
typedef enum { LP_AROUND_OWN, LP_AROUND_ZERO, LP_AROUND_MEAN } lp_noise_centre;

enum { LP_TOKEN_TEXT = 64 };

/* What an edit has to do with the tokens nearest to the vector that it changes, in words; see lp_token_edit. */
typedef struct {
    bool chooses; /* the donor TOKEN, or a subspace of nearest embeddings */
    lp_nearest_by by;
    int32_t top;               /* of a subspace; otherwise 1 */
    bool only_numbers;         /* the vector is left as it is where the nearest token is not a number */
    int32_t shift;             /* TOKEN: the embedding is that of the number + shift */
    bool layer_norm;           /* TOKEN */
    bool keep_norm;            /* TOKEN and KEEP */
    char along[LP_TOKEN_TEXT]; /* REMOVE: text of the token of lp_token_edit; "": none */
    float times;
} lp_token_rule;

/* What MEAN and NOISE need to know beside the address. {0}: the mean over all other pairs at this very step. */
typedef struct {
    bool all_steps;     /* over all thought steps as well */
    lp_label label;     /* NONE: over all other pairs */
    int32_t label_step; /* RESULT and EQUATION: the step, from 0; negative: from the last one */
    bool is_different;  /* over those with another label than the pair's own; otherwise those with the same */
    int32_t least;      /* smallest number of pairs to take a mean over; 0 is 1 */
    lp_noise_centre around;
    float sigma;         /* NOISE: its standard deviation, in units of */
    lp_token_rule token; /* TOKEN */
    bool in_rms;         /* the root mean square of the vector it is put around (of the run's own one around zeros);
                            otherwise the standard deviation of the place over the store */
} lp_donor_detail;

/* Which run is changed. The source run of MEAN, SHUFFLED and RANDOM is the other one. */
typedef enum { LP_DENOISE /* recipient: corrupted run */, LP_NOISE /* recipient: clean run */ } lp_direction;

typedef enum { LP_ROLE_EFFECT, LP_ROLE_CONTROL, LP_ROLE_UNPATCHED } lp_role;

/* Lists of a group multiply, so that a few lines of a job can ask for more conditions than any machine plans. */
enum {
    LP_MAX_STEPS = 64,
    LP_MAX_DRAWS = 64,
    LP_MAX_CONDITIONS = 500000,
    LP_MAX_DETAILS = 1000,
    LP_MAX_TOKEN_RULES = 1000
};

/* With the operation FORBID: the row at `at` (site z, the head a query head) does not attend to the positions of phase
 * and index `from`; its donor is ZERO. */
typedef struct {
    lp_address at; /* index may be negative (from the end) in prompt and thought, or LP_INDEX_ALL */
    lp_operation operation;
    float factor;
    lp_donor donor;
    lp_address from; /* in the donor's run; equal to `at` by default */
    int32_t vector; /* FILE: index of the file in the job; SHUFFLED: number of the draw; MEAN, NOISE: index of the set's
                       details, beyond them stands for {0}; otherwise 0 */
    int32_t subspace; /* operations with one of a file: index of the file in the job + 1; otherwise 0 */
    int32_t token;    /* index of the set's token rules + 1; 0: none */
    int32_t source;   /* place of the donor's vector in the table of whoever provides vectors, which sets it. Where each
                         position of a prompt or each thought takes a vector of its own, the place of the first one;
                         the others follow it */
} lp_replacement;

typedef struct {
    const char *name; /* unique in the set; the set owns this and the other words */
    lp_role role;
    lp_direction direction;
    lp_site site;
    lp_phase phase;
    lp_operation operation; /* FORBID: attention edges alone, without site and donor */
    float factor;
    lp_donor donor;
    int32_t index;  /* phases prompt and answer: as in the job, or LP_INDEX_ALL */
    int32_t head;   /* KV head of k and v, otherwise query head; LP_ALL_HEADS */
    int32_t vector; /* FILE: index of the file in the job; -1 otherwise */
    int32_t draw;   /* SHUFFLED: number of the draw; 0 otherwise */
    bool from_other_site;
    lp_site from_site;           /* where from_other_site */
    int32_t from_layer;          /* -1: the target's */
    int32_t from_step;           /* -1: the target's */
    int32_t stop_after;          /* as in the job; 0: all steps */
    int32_t layer;               /* -1: none or several */
    const char *sites;           /* in words: "k", "k+v" */
    const char *layers;          /* in words: "2", "0-3" */
    const char *steps;           /* the step set as the job writes it; attention edges in words */
    int32_t subspace;            /* index of its file in the job + 1; 0: none */
    const char *operation_words; /* the operation, with its subspace and token rule; NULL: its name says it all */
    const char *donor_words;     /* the donor, with its detail: "mean(same answer)"; NULL: none */
    const char *defects;         /* comma-separated switches that are on, "" by default */
    uint64_t mask;               /* thought steps that are targets */
    int32_t n_steps_run;         /* thought steps that the run makes; the protocol's unless stopped early */
    size_t first;                /* replacements [first, first + n) of the set */
    size_t n;
} lp_condition;

typedef struct {
    lp_condition *conditions;
    size_t n;
    size_t capacity;
    lp_replacement *replacements;
    size_t n_replacements;
    size_t replacement_capacity;
    lp_donor_detail *details; /* [n_details] each once */
    size_t n_details;
    size_t detail_capacity;
    lp_token_rule *token_rules; /* [n_token_rules] each once */
    size_t n_token_rules;
    size_t token_rule_capacity;
    void *texts; /* all words of the conditions, in blocks: a job may have a million conditions */
    size_t text_room;
} lp_condition_set;

const char *const *lp_donor_names(void);
const char *const *lp_label_names(void);        /* NULL-terminated, as are the next; [0] is "none" */
const char *const *lp_noise_centre_names(void); /* "own", "zero", "mean" */
const char *const *lp_direction_names(void);
const char *const *lp_role_names(void);

/* Appends an empty condition with copies of the words; *out is valid until the next addition. */
lp_status lp_condition_add(lp_condition_set *set, const char *name, const char *layers, const char *steps,
                           const char *defects, lp_condition **out, lp_error *err);
/* *out = a copy of the text that lives as long as the set; `like`, where it is such a copy of the same text. */
lp_status lp_condition_text(lp_condition_set *set, const char *text, const char *like, const char **out, lp_error *err);
/* "answer", "result:0" */
void lp_label_words(lp_label label, int32_t step, char *out, size_t size);
/* "mean", "mean(all steps, same answer)", "noise(0.5, rms, around mean)": one text for each donor and detail. */
void lp_donor_words(lp_donor donor, const lp_donor_detail *detail, char *out, size_t size);
/* "replace", "remove(1)", "keep(nearest_token top 5, keep norm, numbers only)"; rule NULL: none. */
void lp_operation_words(lp_operation operation, int32_t subspace, const lp_token_rule *rule, char *out, size_t size);
/* *index = 1 + the place of this rule in the set, which gets it where it has none like it. */
lp_status lp_condition_token_rule(lp_condition_set *set, const lp_token_rule *rule, int32_t *index, lp_error *err);
/* *index = of this detail in the set, which gets it where it has none like it. */
lp_status lp_condition_detail(lp_condition_set *set, const lp_donor_detail *detail, int32_t *index, lp_error *err);
/* Does the donor have one vector for each address? */
bool lp_donor_has_place(lp_donor donor);
/* Is it applied with a vector that comes from outside of the run? */
bool lp_replacement_takes_vector(const lp_replacement *replacement);
/* Of a MEAN or NOISE replacement. */
const lp_donor_detail *lp_replacement_detail(const lp_condition_set *set, const lp_replacement *replacement);
/* Appends a replacement to the last condition. */
lp_status lp_condition_replace(lp_condition_set *set, const lp_replacement *replacement, lp_error *err);
void lp_condition_set_release(lp_condition_set *set);

/* ---- Effective conditions: what really acts on a run ------------------------------------------------------------ */

/* The run that a condition is applied to, as far as the order of edits depends on it. */
typedef struct {
    const lp_model_config *config;
    lp_protocol protocol;
    int32_t n_prompt; /* positions of the recipient's prompt */
    int32_t n_answer; /* answer positions of the recipient's unpatched run; 0: not known, so none of them is absent */
} lp_run_shape;

/* One replacement of a run, with its place in time: sort key (position, depth). `all`: at every answer position from
 * there on. */
typedef struct {
    int32_t position; /* within the run; answer index 0 is n_prompt + n_steps_run */
    int32_t depth;    /* lp_address_depth */
    bool all;
    lp_replacement
        what; /* index resolved: not negative; SELF resolved to CLEAN or CORRUPTED; resid_pre[l>0] is resid_post[l-1] */
    int32_t key_begin, key_end; /* FORBID: positions of the run, [key_begin, key_end), that are not attended to */
} lp_timed_edit;

typedef struct {
    lp_timed_edit *edits; /* [n] in order of time */
    size_t n;
    bool absent; /* the condition cannot be applied: the recipient's run lacks one of its positions; n is 0 */
    /* why something of the condition is not among the edits */
    bool unread;      /* no later position reads it */
    bool causal;      /* edges to later positions */
    bool overwritten; /* a later replacement takes its place */
} lp_edit_sequence;

/* True where the recipient's unpatched run lacks one of the positions that the condition names, in the prompt or in the
 * answer. */
bool lp_condition_is_absent(const lp_condition_set *set, size_t index, const lp_run_shape *shape);

/* The edits of condition `index` on a run of that shape: resolved, sorted, those that no later position reads (dead)
 * and those that a later replacement of the same vector wipes out left out. *out must be {0} or an earlier result,
 * whose memory is used again. An index outside the prompt or the answer makes it absent. Attention edges are in the
 * form of edges.h; what causality forbids anyway is left out. Fails when an index lies outside the steps, when two
 * replacements of the condition write the same address, or when a head may attend to nothing. */
lp_status lp_condition_effective(const lp_condition_set *set, size_t index, const lp_run_shape *shape,
                                 lp_edit_sequence *out, lp_error *err);
void lp_edit_sequence_release(lp_edit_sequence *list);

/* < 0, 0, > 0: order by time and then by content; 0 means that the two do exactly the same. */
int lp_timed_edit_compare(const lp_timed_edit *a, const lp_timed_edit *b);

/* The runs that conditions are applied to, by the direction of the condition. */
typedef struct {
    const lp_model_config *config;
    lp_protocol protocol;
    const int32_t *n_prompt[2]; /* [n[direction]] the prompt lengths that occur, each once */
    size_t n[2];
} lp_run_shapes;

/* How many of the prompt lengths [0, result) of a direction have to be looked at: edits depend on the length only
 * through prompt positions other than the last. */
size_t lp_conditions_count_shapes(const lp_condition_set *set, const lp_run_shapes *shapes, lp_direction direction);

/* Why a condition is known to do nothing, or the same as an earlier one. */
typedef enum {
    LP_FAMILY_NONE,
    LP_FAMILY_DEAD_UNREAD,
    LP_FAMILY_DEAD_CAUSAL,
    LP_FAMILY_EQUAL_UNREAD,
    LP_FAMILY_EQUAL_OVERWRITTEN,
    LP_FAMILY_EQUAL_CAUSAL,
    LP_FAMILY_EQUAL_WORDS,
    LP_FAMILY_SELF,      /* a control that is made, and must change nothing */
    LP_FAMILY_SELF_STOP, /* the same with an early stop: is made, and must be as the earlier one */
    LP_FAMILY_FED        /* is made, and differs from the earlier one in its rounding at most */
} lp_condition_family;
enum { LP_N_FAMILIES = 10 };
/* The reason in one sentence, without its full stop; NULL for NONE. */
const char *lp_condition_family_reason(lp_condition_family family);

/* For every condition, over all prompt lengths that occur: dead[i] = nothing of it acts although it names replacements
 * (and it makes all thought steps: stopping early acts);
 * same_as[i] = the first condition with the same recipient, the same number of steps run and the same edits, or absent
 * like it, at every length (i itself where none); family[i] = why, of dead and equal conditions, and FED with
 * fed_as[i], the first condition that feeds every step the same (i itself where none). All [set->n]. Fails on a
 * condition that is absent at every length. */
lp_status lp_conditions_compare(const lp_condition_set *set, const lp_run_shapes *shapes, bool *dead, int32_t *same_as,
                                lp_condition_family *family, int32_t *fed_as, lp_error *err);

#endif
