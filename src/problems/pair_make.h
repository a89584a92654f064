/* Making pairs by rule: from each problem, a corrupted twin in which one number differs and every step of the worked
 * solution stays sound. A change that is not certainly sound is refused, and refusals are counted by reason.
 *
 * The result depends on the source's bytes, the options and the seed alone. Random choices are keyed by seed and
 * problem, so a problem gives the same pair whatever other problems the source has. */
#ifndef LP_PROBLEMS_PAIR_MAKE_H
#define LP_PROBLEMS_PAIR_MAKE_H

#include "pairs/pairs.h"
#include "problems/problem_graph.h"
#include "problems/problem_source.h"
#include "token/tokenizer.h"

/* Which of the numbers that can be changed. */
typedef enum { LP_CHANGE_ANY, LP_CHANGE_FIRST, LP_CHANGE_LAST } lp_change_which;
typedef enum { LP_DIGITS_SAME, LP_DIGITS_ANY } lp_digits_rule;
typedef enum { LP_TOKENS_IGNORE, LP_TOKENS_EQUAL } lp_tokens_rule;
/* Templates say which combinations of values were kept out of a model's training. */
typedef enum { LP_SIDE_HELD_OUT, LP_SIDE_TRAINING, LP_SIDE_ALL } lp_template_side;

enum { LP_MAX_STRATA = 8, LP_MAX_TOKENIZERS = 4 };

/* Problems of min_steps to max_steps steps. */
typedef struct {
    int min_steps, max_steps;
} lp_stratum;

typedef struct {
    const char *name; /* borrowed; the key in "tokens" */
    const lp_tokenizer *tokenizer;
} lp_named_tokenizer;

typedef struct {
    const char *path;   /* of the source */
    const char *prefix; /* of the ids; NULL: the file's name without its ending */
    lp_source_format format;
    uint64_t seed;
    size_t count;       /* 0: all there are */
    size_t per_problem; /* pairs of one problem; 0 means 1 */
    lp_change_which which;
    lp_digits_rule digits;
    int min_delta, max_delta; /* in units of the number's last digit that is not 0; 0, 0 means 1 to 5 */
    lp_named_tokenizer tokenizers[LP_MAX_TOKENIZERS];
    size_t n_tokenizers;
    lp_tokens_rule tokens;
    lp_stratum strata[LP_MAX_STRATA]; /* count is shared equally among them */
    size_t n_strata;                  /* 0: one stratum of everything */
    double tune_share;                /* of the problems get "split": "tune", the others "test"; 0: no split */
    lp_template_side side;
    lp_text *rejected; /* NULL, or gets one JSON line a refusal */
} lp_make_options;

typedef struct {
    lp_pair_set set;                 /* in the order of the source */
    size_t n_problems;               /* read */
    size_t n_available;              /* pairs before count was applied */
    size_t problems[LP_N_REASONS];   /* problems by verdict; NONE: gave a pair */
    size_t candidates[LP_N_REASONS]; /* changes tried by verdict, numbers that cannot be changed included */
    /* Of a source with variants: those that recompute soundly and state an answer, and those where it is equal. */
    size_t n_linked, n_agreeing;
} lp_made;
void lp_made_release(lp_made *made);

/* The tokens of a text, special ones included. */
lp_status lp_count_tokens(const lp_tokenizer *tokenizer, const char *text, size_t *out, lp_error *err);
/* Adds , "tokens": {"name": [clean, corrupted], ...} to *out where there are tokenizers. *reason = TOKEN_COUNT where
 * the counts differ and must not. */
lp_status lp_pair_count_tokens(const lp_make_options *options, const char *clean, const char *corrupted,
                               lp_reason *reason, lp_text *out, lp_error *err);

/* Fails when the source cannot be read. It does not fail when there are fewer pairs than count: compare made->set.n. */
lp_status lp_pairs_make(const lp_make_options *options, lp_made *out, lp_error *err);

#endif
