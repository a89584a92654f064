/* Protocols: how a thought run goes, from the question's text to the end of the answer.
 *
 * A protocol is a set of fields; a name is a preset of them, and a job may change single fields.
 *
 *                    codi              bot-first         codi-eos          coconut
 *   after_question   bot               (nothing)         eos, bot          "\n", bot
 *   first_input      prompt            bot               prompt            prompt
 *   feedback         projection        projection        projection        none
 *   answer_start     eot               eot               eot               eot
 *   not_chosen       eot               eot               eot               (nothing)
 *   stop             eos               eos               eos               eos
 *
 * `codi` is the reference evaluation of CODI, `bot-first` what the published patching scripts ran, `codi-eos` the fork
 * whose prompts end in eos and bot, and `coconut` the official generation of Coconut, where bot and eot are called
 * <|start-latent|> and <|end-latent|>. A first_input of `prompt` is what the last prompt position computed, fed back as
 * between two steps. */
#ifndef LP_THOUGHT_PROTOCOL_H
#define LP_THOUGHT_PROTOCOL_H

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "model/model.h"
#include "token/tokenizer.h"

typedef enum { LP_PROTOCOL_CODI, LP_PROTOCOL_BOT_FIRST, LP_PROTOCOL_CODI_EOS, LP_PROTOCOL_COCONUT } lp_protocol_kind;

/* What stands between question, thoughts and answer: a token by its role, any other token, or a text. */
typedef enum {
    LP_MARKER_EOS,
    LP_MARKER_PAD,
    LP_MARKER_BOT,
    LP_MARKER_EOT,
    LP_MARKER_TOKEN, /* by its spelling (text), or by its id where text is empty */
    LP_MARKER_TEXT
} lp_marker_kind;

enum { LP_MARKER_BYTES = 64, LP_MAX_MARKERS = 8, LP_MAX_ANSWER_START = 32, LP_MAX_STOP = 24 };

typedef struct {
    lp_marker_kind kind;
    int32_t id;                 /* TOKEN */
    char text[LP_MARKER_BYTES]; /* TOKEN, TEXT */
} lp_marker;

typedef struct {
    lp_marker items[LP_MAX_MARKERS];
    int32_t n;
} lp_marker_list;

/* Roles of the tokens around thoughts: bot before them, eot after them. */
typedef enum { LP_ROLE_PAD, LP_ROLE_BOT, LP_ROLE_EOT, LP_ROLE_LATENT } lp_token_role;
enum { LP_N_ROLES = 4 };

typedef struct {
    bool given;
    int32_t id;
    char text[LP_MARKER_BYTES]; /* spelling; empty: id */
} lp_given_token;

typedef enum { LP_FEEDBACK_PROJECTION, LP_FEEDBACK_NONE } lp_feedback;

typedef struct {
    lp_protocol_kind kind;
    bool changed;                  /* single fields differ from the preset's */
    int32_t n_steps;               /* T */
    bool normalise_spaces;         /* strip the question and fold double blanks, as CODI's own evaluation does */
    bool first_reads_prompt;       /* step 0 is fed what the last prompt position computed; otherwise first_input */
    lp_marker first_input;         /* of one token */
    lp_feedback feedback;          /* PROJECTION: the model's, where it has one */
    lp_marker_list after_question; /* texts in front are tokenized together with the question */
    lp_marker_list answer_start;   /* at least one token */
    lp_marker_list not_chosen;
    lp_marker_list stop;
    lp_given_token tokens[LP_N_ROLES]; /* what the job says that they are */
    int32_t n_answer_start; /* positions that answer_start takes; exact after lp_vocabulary_init where it has texts */
} lp_protocol;

const char *const *lp_protocol_names(void); /* NULL-terminated, in the order of the enum */
const char *const *lp_feedback_names(void);
const char *const *lp_token_role_names(void); /* pad, bot, eot, latent */
const char *const *lp_marker_names(void);     /* of the roles: eos, pad, bot, eot */

/* The preset's fields with n_steps thought steps. */
lp_protocol lp_protocol_preset(lp_protocol_kind kind, int32_t n_steps);
/* No thoughts: the prompt is the question, and the answer continues it. For the reference executor. */
lp_protocol lp_protocol_plain(void);
/* CODI's switch remove_eos, turned off: eos comes after the question (in front of bot, where there is one) and after
 * eot. */
void lp_protocol_keep_eos(lp_protocol *protocol);
/* Appends a marker; false where the list is full. */
bool lp_marker_add(lp_marker_list *list, lp_marker marker);
/* "codi", or "codi (changed)" where single fields differ. */
const char *lp_protocol_label(const lp_protocol *protocol, char out[32]);

/* The ids that steer a run. */
typedef struct {
    int32_t pad, bot, eot, latent;      /* -1 where the checkpoint has none */
    int32_t eos_ids[LP_MAX_EOS], n_eos; /* what `eos` stands for: several only where the tokenizer's files name none */
    int32_t eos;                        /* the tokenizer's; scored where whole answers are */
    const char *eos_source;             /* the file that names it, or "decode.eos"; static */
    int32_t stop[LP_MAX_STOP], n_stop;  /* ids that end the answer */
    int32_t first_input;                /* fed to step 0; -1: what the last prompt position computed */
    int32_t answer_start[LP_MAX_ANSWER_START], n_answer_start;
    int32_t n_candidates; /* greedy decoding chooses among 0 .. n_candidates-1, less the ids of not_chosen */
    int32_t not_chosen[LP_MAX_ANSWER_START], n_not_chosen; /* each once, all below n_candidates */
} lp_vocabulary;

/* A logit as low as this makes a token that is never chosen as unlikely as one outside the candidates: exp gives 0. */
#define LP_NEVER_LOGIT (-1e30f)

/* True where the token ends an answer. */
bool lp_vocabulary_stops(const lp_vocabulary *vocabulary, int32_t token);

/* Finds every id that the protocol names, and sets protocol->n_answer_start. The tokens around thoughts are, in this
 * order, those that the protocol gives; those of config.json (latent_start_id, latent_end_id, latent_id); tokens of the
 * tokenizer called <|bocot|>, <|eocot|> or <|start-latent|>, <|end-latent|>, <|latent|>; or what the rows of the
 * embedding beyond the base vocabulary V are: V+3 or more rows are pad, bot, eot (coconut: bot, eot, latent), V+2 rows
 * are bot, eot. Two sources that disagree are an error that names both. eos_token: a token spelt as in
 * tokenizer.json, or NULL: then what tokenizer_config.json or special_tokens_map.json in the folder `base` name, then
 * all ids of generation_config.json, then of config.json, as `generate` of transformers has it; where those two differ,
 * a log line names both. Fails, naming the job's key, where a token is not there or lies outside the model's
 * vocabulary. */
lp_status lp_vocabulary_init(const lp_model *model, const lp_tokenizer *tokenizer, const char *base,
                             const char *eos_token, lp_protocol *protocol, lp_vocabulary *out, lp_error *err);

/* Appends the prompt's ids to *out (cleared first). Fails on an empty prompt and on ids outside the model's
 * embedding. */
lp_status lp_protocol_prompt(const lp_protocol *protocol, const lp_model *model, const lp_tokenizer *tokenizer,
                             const lp_vocabulary *vocabulary, const char *question, lp_token_list *out, lp_error *err);

/* Short texts into out [size], which they return: what does not fit is cut. The markers as a job lists them
 * ("eos, bot, text \"\\n\"", "nothing"), where step 0 gets its input, and the ids. */
const char *lp_marker_list_text(const lp_marker_list *list, char *out, size_t size);
const char *lp_protocol_first_input(const lp_protocol *protocol, char *out, size_t size);
const char *lp_vocabulary_text(const lp_vocabulary *vocabulary, char *out, size_t size);
/* The whole protocol in words, one aligned line a subject. */
lp_status lp_protocol_describe(const lp_protocol *protocol, const lp_vocabulary *vocabulary, lp_text *out,
                               lp_error *err);
/* Adds the protocol's fields to a JSON object, markers as a job writes them, and under "ids" what they are on this
 * model. */
void lp_protocol_json(const lp_protocol *protocol, const lp_vocabulary *vocabulary, cJSON *object);

#endif
