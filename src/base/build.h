/* What this program is: for provenance and for `latentpatch --version`. All strings are static. */
#ifndef LP_BASE_BUILD_H
#define LP_BASE_BUILD_H

const char *lp_build_version(void);  /* "0.2.0" */
const char *lp_build_revision(void); /* git revision, "-dirty" where the tree had changes, or "unknown" */
const char *lp_build_compiler(void); /* "GNU 12.2.0" */
const char *lp_build_flags(void);    /* build type and flags */

#endif
