#include "base/error.h"

#include <ctype.h>

static void make_printable(char *text) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c < 0x20 || c == 0x7f) *text = '?';
    }
}

lp_status lp_fail(lp_error *err, lp_status status, const char *format, ...) {
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->text, sizeof err->text, format, args);
        va_end(args);
        make_printable(err->text);
        err->status = status;
    }
    return status;
}

lp_status lp_error_prefix(lp_error *err, const char *format, ...) {
    if (!err) return LP_ERR_VALUE;
    char prefix[LP_ERROR_TEXT];
    char rest[LP_ERROR_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(prefix, sizeof prefix, format, args);
    va_end(args);
    memcpy(rest, err->text, sizeof rest);
    size_t used = strnlen(prefix, sizeof prefix - 1);
    if (used > sizeof err->text - 3) used = sizeof err->text - 3;
    memcpy(err->text, prefix, used);
    err->text[used] = ':';
    err->text[used + 1] = ' ';
    size_t room = sizeof err->text - used - 3;
    size_t length = strnlen(rest, sizeof rest - 1);
    if (length > room) length = room;
    memcpy(err->text + used + 2, rest, length);
    err->text[used + 2 + length] = '\0';
    make_printable(err->text);
    return err->status;
}

const char *lp_status_name(lp_status status) {
    switch (status) {
    case LP_OK: return "ok";
    case LP_ERR_IO: return "io";
    case LP_ERR_FORMAT: return "format";
    case LP_ERR_VALUE: return "value";
    case LP_ERR_MISMATCH: return "mismatch";
    case LP_ERR_MEMORY: return "memory";
    case LP_ERR_DEVICE: return "device";
    case LP_ERR_MPI: return "mpi";
    case LP_ERR_HDF5: return "hdf5";
    case LP_ERR_BUSY: return "busy";
    case LP_ERR_STOPPED: return "stopped";
    case LP_ERR_USAGE: return "usage";
    case LP_ERR_UNSUPPORTED: return "unsupported";
    }
    return "unknown";
}

void lp_assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "latentpatch: internal error: %s:%d: %s\n", file, line, condition);
    abort();
}
