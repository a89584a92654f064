/* Where tests find data that is not part of the repository: $LATENTPATCH_TEST_DATA, or ../shared/data beside the
 * repository. Where it is missing, a test says so and skips. */
#ifndef LP_TESTS_OUTSIDE_DATA_H
#define LP_TESTS_OUTSIDE_DATA_H

#include "base/file.h"

/* Writes the path of `name` into path; false, with a line on stdout, when it is not there. */
static inline bool outside_data(const char *name, char *path, size_t size) {
    const char *folder = getenv("LATENTPATCH_TEST_DATA");
    snprintf(path, size, "%s/%s", folder ? folder : LP_SOURCE_DIR "/../shared/data", name);
    if (lp_path_look(path) != LP_PATH_MISSING) return true;
    printf("skipped: no outside data (%s)\n", name);
    return false;
}

#endif
