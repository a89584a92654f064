/* Checks of programs that run under mpirun: the first failure prints both values and ends all ranks, so that a
 * failure on one rank is never a hang of the others. */
#ifndef LP_TESTS_MPI_CHECK_H
#define LP_TESTS_MPI_CHECK_H

#include "parallel/parallel.h"

#define CHECK(parallel, condition, ...)                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: rank %d: %s: ", __FILE__, __LINE__, lp_parallel_rank(parallel), #condition);       \
            fprintf(stderr, __VA_ARGS__);                                                                              \
            fprintf(stderr, "\n");                                                                                     \
            lp_parallel_abort(parallel, 1, "a check failed");                                                          \
        }                                                                                                              \
    } while (0)

#define CHECK_OK(parallel, call)                                                                                       \
    do {                                                                                                               \
        lp_error check_err = {0};                                                                                      \
        lp_error *const err = &check_err;                                                                              \
        lp_status check_status = (call);                                                                               \
        CHECK(parallel, check_status == LP_OK, "%s: %s", lp_status_name(check_status), check_err.text);                \
    } while (0)

#define CHECK_I64(parallel, expected, found)                                                                           \
    CHECK(parallel, (int64_t)(expected) == (int64_t)(found), "expected %lld, found %lld", (long long)(expected),       \
          (long long)(found))

#endif
