/* Metric positions: where the continuous metrics of a run are read, from the recipient's unpatched answer.
 *
 * The place is in front of the first token of the number (docs/design.md, Metrics): the first answer token whose text
 * has a digit, or the one before it, where that ends in a minus and the digits follow at once. A whole answer is the
 * text of the number, tokenised together with the recipient's own prefix and with what the first token has in front of
 * the number (a blank, for GPT-2), then eos. If the tokens do not begin with the prefix, there is no whole answer. If
 * the tokenizer would not make the prefix of the prefix's own text, the text of the number is tokenised by itself. */
#ifndef LP_PATCH_METRIC_POSITION_H
#define LP_PATCH_METRIC_POSITION_H

#include "patch/executor.h"
#include "token/tokenizer.h"

typedef struct {
    lp_metric_position position; /* points into the lists below */
    bool usable;                 /* false: the answer has no number, so there is nothing to read */
    lp_token_list prefix, clean, corrupted;
} lp_pair_metrics;

typedef struct {
    const lp_tokenizer *tokenizer;
    int32_t eos; /* lp_vocabulary's */
    double clean_answer, corrupted_answer;
    bool whole_answers; /* the ANSWER metrics too */
    int32_t room;       /* of lp_metric_position */
} lp_pair_metrics_options;

/* tokens [n]: the recipient's unpatched answer. *out is {0} or an earlier one, whose memory is used again. */
lp_status lp_pair_metrics_make(const lp_pair_metrics_options *options, const int32_t *tokens, int32_t n,
                               lp_pair_metrics *out, lp_error *err);
void lp_pair_metrics_release(lp_pair_metrics *metrics);

#endif
