#include "base/log.h"

#include "base/printable.h"

static lp_log_level log_level = LP_LOG_INFO;
static int log_rank;
static int log_size = 1;

void lp_log_setup(lp_log_level level, int rank, int size) {
    log_level = level;
    log_rank = rank;
    log_size = size;
}

bool lp_log_shows(lp_log_level level) {
    return level >= log_level;
}

void lp_log(lp_log_level level, const char *format, ...) {
    static const char *const names[] = {"debug: ", "", "warning: ", "error: "};
    if (!lp_log_shows(level) || (level < LP_LOG_WARN && log_rank != 0)) return;
    char line[2048], text[2048];
    int used = log_size > 1 && level >= LP_LOG_WARN
                   ? snprintf(line, sizeof line, "latentpatch: rank %d: %s", log_rank, names[level])
                   : snprintf(line, sizeof line, "latentpatch: %s", names[level]);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    lp_printable(text, strlen(text), LP_PRINT_LINE, line + used, sizeof line - (size_t)used - 1);
    size_t length = strlen(line);
    line[length] = '\n';
    /* One write a line, so that lines of several ranks do not mix. */
    fwrite(line, 1, length + 1, stderr);
}
