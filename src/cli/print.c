#include "cli/print.h"

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

lp_status lp_print(const char *text, lp_print_layout layout, lp_error *err) {
    lp_text shown = {0};
    lp_status status = lp_text_add_printable(&shown, text, layout, err);
    if (status == LP_OK && shown.length > 0) (void)fwrite(shown.data, 1, shown.length, stdout);
    lp_text_release(&shown);
    return status;
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
