#include "base/build.h"

#include "lp_revision.h"

const char *lp_build_version(void) {
    return LP_VERSION;
}
const char *lp_build_revision(void) {
    return LP_REVISION;
}
const char *lp_build_compiler(void) {
    return LP_COMPILER;
}
const char *lp_build_flags(void) {
    return LP_FLAGS;
}
