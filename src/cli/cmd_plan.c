#include "cli/commands.h"
int lp_cmd_plan(int argc, char **argv) {
    (void)argc;
    (void)argv;
    return 1;
}
