#include "problems/problem_reason.h"

static const struct {
    const char *name, *meaning;
} reasons[LP_N_REASONS] = {
    [LP_REASON_NONE] = {"none", "sound"},
    [LP_REASON_NO_ANNOTATION] = {"no-annotation", "the solution has no <<...>> annotation"},
    [LP_REASON_BAD_ANNOTATION] = {"bad-annotation", "an annotation is not expression=number"},
    [LP_REASON_DIVISION_BY_ZERO] = {"division-by-zero", "a step divides by zero"},
    [LP_REASON_OVERFLOW] = {"overflow", "a step leaves the range of exact arithmetic"},
    [LP_REASON_INEXACT_STEP] = {"inexact-step", "an annotation's result is not its expression's exact value"},
    [LP_REASON_NO_ANSWER] = {"no-answer", "the problem states no answer, or none that is a number"},
    [LP_REASON_ANSWER_NOT_DERIVED] = {"answer-not-derived", "the last step does not give the stated answer"},
    [LP_REASON_UNEXPLAINED_OPERAND] = {"unexplained-operand", "an operand comes from nowhere that can be named"},
    [LP_REASON_UNEXPLAINED_TEXT] = {"unexplained-text", "the solution's text has a number that comes from nowhere"},
    [LP_REASON_CONDITIONAL] =
        {"conditional",
         "the wording compares, or a number is not used (a threshold, a total), so a change may turn it"},
    [LP_REASON_TOO_LARGE] = {"too-large", "more numbers or steps than can be followed"},
    [LP_REASON_DUPLICATE] = {"duplicate", "the question occurred before"},
    [LP_REASON_NO_NUMBER] = {"no-number", "no number of the question gives a sound change"},
    [LP_REASON_FIXED_NUMBER] = {"fixed-number", "a date, time, name, fraction or other number that is not changed"},
    [LP_REASON_REPEATED_VALUE] = {"repeated-value", "the question has the value more than once"},
    [LP_REASON_NOT_LINKED] = {"not-linked", "no step uses the number"},
    [LP_REASON_AMBIGUOUS_LINK] = {"ambiguous-link", "a number of the solution has two sources that now differ"},
    [LP_REASON_ENUMERATED] = {"enumerated", "the number counts things that the question names one by one"},
    [LP_REASON_REDUNDANT] = {"redundant", "the question states a sum that the change would break"},
    [LP_REASON_ARTICLE] = {"article", "the a or an in front of the number would be wrong"},
    [LP_REASON_NO_ROOM] = {"no-room", "no other value keeps to the rules of size"},
    [LP_REASON_NOT_WHOLE] = {"not-whole", "a step or operand that was whole is not, or a step has more decimals"},
    [LP_REASON_NOT_POSITIVE] = {"not-positive", "a step or difference changes its sign"},
    [LP_REASON_PERCENT_RANGE] = {"percent-range", "a percentage goes over 100"},
    [LP_REASON_CROSSES_ONE] = {"crosses-one", "a share or ratio crosses 1"},
    [LP_REASON_TEXT_EQUATION] = {"text-equation", "an equation that the solution's text writes out no longer holds"},
    [LP_REASON_LOOSE_STEP] = {"loose-step", "a changed step is used by no later step"},
    [LP_REASON_EQUAL_ANSWER] = {"equal-answer", "the answer stays the same"},
    [LP_REASON_TOKEN_COUNT] = {"token-count", "the two questions differ in their number of tokens"},
    [LP_REASON_OTHER_TEXT] = {"other-text", "the variant differs from its seed in more than numbers"},
    [LP_REASON_OTHER_ANSWER] = {"other-answer", "the recomputed answer is not the one that the source states"},
};

const char *lp_reason_name(lp_reason reason) {
    return reasons[reason].name;
}
const char *lp_reason_meaning(lp_reason reason) {
    return reasons[reason].meaning;
}
