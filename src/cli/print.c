#include "cli/print.h"

#include "base/memory.h"
#include "cli/commands.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

void lp_print_begin(void) {
    /* Read-only: writing to it fails, as it would have without. open() returns the lowest number that is free. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", O_RDONLY) < 0) return;
}

lp_status lp_print_bytes(const char *bytes, size_t length, lp_print_layout layout, lp_error *err) {
    char *shown = NULL;
    size_t wanted = lp_printable(bytes, length, layout, NULL, 0);
    lp_status status = lp_mem_new(&shown, wanted + 1, 1, "text", err);
    if (status == LP_OK) (void)fwrite(shown, 1, lp_printable(bytes, length, layout, shown, wanted + 1), stdout);
    lp_mem_free(shown);
    return status;
}

lp_status lp_print(const char *text, lp_print_layout layout, lp_error *err) {
    return lp_print_bytes(text, strlen(text), layout, err);
}

void lp_print_ours(const char *text) {
    (void)fputs(text, stdout);
}

int lp_print_width(void) {
    enum { PLAIN = 100, LEAST = 40 };
    struct winsize size = {0};
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return PLAIN;
    return size.ws_col < LEAST ? LEAST : size.ws_col;
}

bool lp_print_has_shades(void) {
    const char *term = getenv("TERM"), *no = getenv("NO_COLOR"), *colour = getenv("COLORTERM");
    return isatty(STDOUT_FILENO) && !(no && *no) && ((term && strstr(term, "256color")) || (colour && *colour));
}

lp_status lp_print_path(const char *name, const char *path, lp_error *err) {
    char *whole = realpath(path, NULL);
    printf("%s: ", name);
    lp_status status = lp_print(whole ? whole : path, LP_PRINT_LINE, err);
    printf("\n");
    free(whole); /* from realpath */
    return status;
}

int lp_print_end(int code) {
    errno = 0;
    bool lost = fflush(stdout) != 0;
    int why = errno;
    lost |= ferror(stdout) != 0;
    if (!lost) return code;
    fprintf(stderr, "latentpatch: error: standard output could not be written: %s\n",
            why ? strerror(why) : "a write failed");
    return code == LP_EXIT_OK ? LP_EXIT_ERROR : code;
}
