#include "cli/commands.h"
int lp_cmd_compare(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 1;
}
