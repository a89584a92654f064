/* Reason codes: why a problem, or a change of one of its numbers, gives no pair. */
#ifndef LP_PROBLEMS_PROBLEM_REASON_H
#define LP_PROBLEMS_PROBLEM_REASON_H

/* Name and meaning of each, in the order of the summary. */
/* clang-format off: a row a line */
#define LP_REASONS(ROW)                                                                                                \
    ROW(NONE, "none", "sound")                                                                                         \
    /* of a problem */                                                                                                 \
    ROW(NO_ANNOTATION, "no-annotation", "the solution has no <<...>> annotation")                                      \
    ROW(BAD_ANNOTATION, "bad-annotation", "an annotation is not expression=number")                                    \
    ROW(DIVISION_BY_ZERO, "division-by-zero", "a step divides by zero")                                                \
    ROW(OVERFLOW, "overflow", "a step leaves the range of exact arithmetic")                                           \
    ROW(INEXACT_STEP, "inexact-step", "an annotation's result is not its expression's exact value")                    \
    ROW(NO_ANSWER, "no-answer", "the problem states no answer, or none that is a number")                              \
    ROW(ANSWER_NOT_DERIVED, "answer-not-derived", "the last step does not give the stated answer")                     \
    ROW(UNEXPLAINED_OPERAND, "unexplained-operand", "an operand comes from nowhere that can be named")                 \
    ROW(UNEXPLAINED_TEXT, "unexplained-text", "the solution's text has a number that comes from nowhere")              \
    ROW(CONDITIONAL, "conditional",                                                                                    \
        "the wording compares, or a number is not used (a threshold, a total), so a change may turn it")               \
    ROW(TOO_LARGE, "too-large", "more numbers or steps than can be followed")                                          \
    ROW(DUPLICATE, "duplicate", "the question occurred before")                                                        \
    ROW(NO_NUMBER, "no-number", "no number of the question gives a sound change")                                      \
    /* of a change */                                                                                                  \
    ROW(FIXED_NUMBER, "fixed-number", "a date, time, name, fraction or other number that is not changed")              \
    ROW(REPEATED_VALUE, "repeated-value", "the question has the value more than once")                                 \
    ROW(NOT_LINKED, "not-linked", "no step uses the number")                                                           \
    ROW(AMBIGUOUS_LINK, "ambiguous-link", "a number of the solution has two sources that now differ")                  \
    ROW(ENUMERATED, "enumerated", "the number counts things that the question names one by one")                       \
    ROW(REDUNDANT, "redundant", "the question states a sum that the change would break")                               \
    ROW(ARTICLE, "article", "the a or an in front of the number would be wrong")                                       \
    ROW(NO_ROOM, "no-room", "no other value keeps to the rules of size")                                               \
    ROW(NOT_WHOLE, "not-whole", "a step or operand that was whole is not, or a step has more decimals")                \
    ROW(NOT_POSITIVE, "not-positive", "a step or difference changes its sign")                                         \
    ROW(PERCENT_RANGE, "percent-range", "a percentage goes over 100")                                                  \
    ROW(CROSSES_ONE, "crosses-one", "a share or ratio crosses 1")                                                      \
    ROW(TEXT_EQUATION, "text-equation", "an equation that the solution's text writes out no longer holds")             \
    ROW(LOOSE_STEP, "loose-step", "a changed step is used by no later step")                                           \
    ROW(EQUAL_ANSWER, "equal-answer", "the answer stays the same")                                                     \
    ROW(TOKEN_COUNT, "token-count", "the two questions differ in their number of tokens")                              \
    ROW(OTHER_TEXT, "other-text", "the variant differs from its seed in more than numbers")                            \
    ROW(OTHER_ANSWER, "other-answer", "the recomputed answer is not the one that the source states")
/* clang-format on */

#define LP_REASON_CODE(code, name, meaning) LP_REASON_##code,
typedef enum { LP_REASONS(LP_REASON_CODE) LP_N_REASONS } lp_reason;

const char *lp_reason_name(lp_reason reason);    /* "ambiguous-link" */
const char *lp_reason_meaning(lp_reason reason); /* one line for the summary */

#endif
