/* Reason codes: why a problem, or a change of one of its numbers, gives no pair. */
#ifndef LP_PROBLEMS_PROBLEM_REASON_H
#define LP_PROBLEMS_PROBLEM_REASON_H

/* Why a problem, or a change of one of its numbers, is not taken. The order is that of the summary. */
typedef enum {
    LP_REASON_NONE,
    /* of a problem */
    LP_REASON_NO_ANNOTATION,
    LP_REASON_BAD_ANNOTATION,
    LP_REASON_DIVISION_BY_ZERO,
    LP_REASON_OVERFLOW,
    LP_REASON_INEXACT_STEP,
    LP_REASON_NO_ANSWER,
    LP_REASON_ANSWER_NOT_DERIVED,
    LP_REASON_UNEXPLAINED_OPERAND,
    LP_REASON_UNEXPLAINED_TEXT,
    LP_REASON_CONDITIONAL,
    LP_REASON_TOO_LARGE,
    LP_REASON_DUPLICATE,
    LP_REASON_NO_NUMBER,
    /* of a change */
    LP_REASON_FIXED_NUMBER,
    LP_REASON_REPEATED_VALUE,
    LP_REASON_NOT_LINKED,
    LP_REASON_AMBIGUOUS_LINK,
    LP_REASON_ENUMERATED,
    LP_REASON_REDUNDANT,
    LP_REASON_ARTICLE,
    LP_REASON_NO_ROOM,
    LP_REASON_NOT_WHOLE,
    LP_REASON_NOT_POSITIVE,
    LP_REASON_PERCENT_RANGE,
    LP_REASON_CROSSES_ONE,
    LP_REASON_TEXT_EQUATION,
    LP_REASON_LOOSE_STEP,
    LP_REASON_EQUAL_ANSWER,
    LP_REASON_TOKEN_COUNT,
    LP_REASON_OTHER_TEXT,
    LP_REASON_OTHER_ANSWER,
    LP_N_REASONS
} lp_reason;

const char *lp_reason_name(lp_reason reason);    /* "ambiguous-link" */
const char *lp_reason_meaning(lp_reason reason); /* one line for the summary */

#endif
