#include "cli/commands.h"
int lp_cmd_pairs(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 1;
}
