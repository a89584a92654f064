/* Protocols: how a thought run goes, from the question's text to the first input of the answer.
 *
 *                      codi                                            bot-first
 *   prompt             tokens(question) [+ eos] + bot                  tokens(question)
 *   input of step 0    prj(latent_raw of the last prompt position)     embedding of bot
 *   input of step t    prj(latent_raw of step t-1)                     the same
 *   answer starts from embedding of eot [, eos]                        the same
 *
 * The parts in brackets belong to `remove_eos: false`. `codi` is the reference evaluation of CODI;
 * `bot-first` is what the published patching scripts ran. */
#ifndef LP_THOUGHT_PROTOCOL_H
#define LP_THOUGHT_PROTOCOL_H

#include "base/error.h"
#include "model/model.h"
#include "token/tokenizer.h"

typedef enum { LP_PROTOCOL_CODI, LP_PROTOCOL_BOT_FIRST } lp_protocol_kind;

typedef struct {
    lp_protocol_kind kind;
    int32_t n_steps; /* T */
    bool remove_eos;
    bool normalise_spaces; /* strip the question and fold double blanks, as CODI's own evaluation does */
} lp_protocol;

const char *const *lp_protocol_names(void); /* NULL-terminated, in the order of the enum */

/* The ids that steer a run. */
typedef struct {
    int32_t pad, bot, eot; /* V, V+1, V+2; -1 in a model without CODI parts */
    int32_t eos;           /* ends the answer */
    int32_t n_candidates;  /* greedy decoding chooses among 0 .. n_candidates-1: V+2 with CODI parts, V without */
} lp_vocabulary;

/* eos_token: a token spelt as in tokenizer.json, or NULL: then tokenizer_config.json's eos_token in the
 * folder `base`, then config.json's eos_token_id. Fails when none of them gives an id, or it lies outside the
 * model's vocabulary. */
lp_status lp_vocabulary_init(const lp_model *model, const lp_tokenizer *tokenizer, const char *base,
                             const char *eos_token, lp_vocabulary *out, lp_error *err);

/* Appends the prompt's ids to *out (cleared first). Fails on an empty prompt and on ids outside the model's
 * embedding. */
lp_status lp_protocol_prompt(const lp_protocol *protocol, const lp_model *model, const lp_tokenizer *tokenizer,
                             const lp_vocabulary *vocabulary, const char *question, lp_token_list *out, lp_error *err);

/* ids[2] = what the answer starts from; returns how many (1 or 2). */
int32_t lp_protocol_answer_start(const lp_protocol *protocol, const lp_vocabulary *vocabulary, int32_t ids[2]);

#endif
