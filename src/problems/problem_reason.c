#include "problems/problem_reason.h"

#define NAME(code, name, meaning)    name,
#define MEANING(code, name, meaning) meaning,

const char *lp_reason_name(lp_reason reason) {
    static const char *const names[] = {LP_REASONS(NAME)};
    return names[reason];
}

const char *lp_reason_meaning(lp_reason reason) {
    static const char *const meanings[] = {LP_REASONS(MEANING)};
    return meanings[reason];
}
