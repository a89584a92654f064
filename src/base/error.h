/* Errors: a status code to branch on and one line of text for a person.
 *
 * A fallible function returns lp_status and takes an lp_error as its last parameter. The text is written
 * once, where the facts are known (file, tensor or JSON path, what was expected, what was found), and left
 * alone on the way up. Nothing below src/cli prints an error or ends the process. */
#ifndef LP_BASE_ERROR_H
#define LP_BASE_ERROR_H

#include "base/banned.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    LP_OK = 0,
    LP_ERR_IO = -1,          /* the operating system refused: open, read, write, map, no space */
    LP_ERR_FORMAT = -2,      /* foreign bytes are not what their format says */
    LP_ERR_VALUE = -3,       /* well-formed input with a value that cannot be used */
    LP_ERR_MISMATCH = -4,    /* two things that must agree do not (store and model, shape and config) */
    LP_ERR_MEMORY = -5,      /* out of memory */
    LP_ERR_DEVICE = -6,      /* a device or its library failed */
    LP_ERR_MPI = -7,         /* MPI failed */
    LP_ERR_HDF5 = -8,        /* HDF5 failed */
    LP_ERR_BUSY = -9,        /* held by another process */
    LP_ERR_STOPPED = -10,    /* ended early on request; what was done is kept */
    LP_ERR_USAGE = -11,      /* the command line is wrong */
    LP_ERR_UNSUPPORTED = -12 /* known, but not supported; the text says what to do instead */
} lp_status;

enum { LP_ERROR_TEXT = 1536 };

typedef struct {
    lp_status status;
    char text[LP_ERROR_TEXT]; /* one line, no newline at the end */
} lp_error;

/* Writes the text and returns status, so that a caller can `return lp_fail(...)`. err may be NULL.
 * Control characters in the text are escaped (printable.h), because parts of it may come from a hostile file. */
lp_status lp_fail(lp_error *err, lp_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts `prefix: ` in front of an existing text; for callers that know the file when the callee did not. */
lp_status lp_error_prefix(lp_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A short name of the status ("io", "format", ...). */
const char *lp_status_name(lp_status status);

/* LP_CHECK(call): returns the call's status where it failed. For functions that have nothing to release. */
#define LP_CHECK(call)                                                                                                 \
    do {                                                                                                               \
        const lp_status lp_checked = (call);                                                                           \
        if (lp_checked != LP_OK) return lp_checked;                                                                    \
    } while (0)

/* LP_TRY(call): for those that have. Needs a local `lp_status status` and a label `out:`. */
#define LP_TRY(call)                                                                                                   \
    do {                                                                                                               \
        status = (call);                                                                                               \
        if (status != LP_OK) goto out;                                                                                 \
    } while (0)

/* LP_FAIL(...): the same for an error that is found here. */
#define LP_FAIL(code, ...)                                                                                             \
    do {                                                                                                               \
        status = lp_fail(err, (code), __VA_ARGS__);                                                                    \
        goto out;                                                                                                      \
    } while (0)

/* Programmer errors only: prints place and condition, then aborts. */
#define LP_ASSERT(condition)                                                                                           \
    do {                                                                                                               \
        if (!(condition)) lp_assert_failed(#condition, __FILE__, __LINE__);                                            \
    } while (0)
void lp_assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn));

#endif
