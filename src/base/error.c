#include "base/error.h"

#include "base/printable.h"

lp_status lp_fail(lp_error *err, lp_status status, const char *format, ...) {
    if (err) {
        char raw[LP_ERROR_TEXT];
        va_list args;
        va_start(args, format);
        vsnprintf(raw, sizeof raw, format, args);
        va_end(args);
        lp_printable(raw, strlen(raw), LP_PRINT_LINE, err->text, sizeof err->text);
        err->status = status;
    }
    return status;
}

lp_status lp_error_prefix(lp_error *err, const char *format, ...) {
    if (!err) return LP_ERR_VALUE;
    char prefix[LP_ERROR_TEXT], shown[LP_ERROR_TEXT], rest[LP_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    lp_printable(prefix, strlen(prefix), LP_PRINT_LINE, shown, sizeof shown);
    memcpy(rest, err->text, sizeof rest);
    size_t used = strlen(shown), room = sizeof err->text - 3, length = strnlen(rest, sizeof rest - 1);
    if (used > room) used = room;
    if (length > room - used) length = room - used;
    memcpy(err->text, shown, used);
    memcpy(err->text + used, ": ", 2);
    memcpy(err->text + used + 2, rest, length);
    err->text[used + 2 + length] = '\0';
    return err->status;
}

const char *lp_status_name(lp_status status) {
    static const char *const names[] = {"ok",  "io",   "format", "value",   "mismatch", "memory",     "device",
                                        "mpi", "hdf5", "busy",   "stopped", "usage",    "unsupported"};
    return status <= 0 && status >= LP_ERR_UNSUPPORTED ? names[-status] : "unknown";
}

void lp_assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "latentpatch: internal error: %s:%d: %s\n", file, line, condition);
    abort();
}
