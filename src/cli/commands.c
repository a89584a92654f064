#include "cli/arguments.h"

const lp_command *const lp_commands[] = {
    &lp_cmd_run,          &lp_cmd_cache,         &lp_cmd_sweep,      &lp_cmd_summary,      &lp_cmd_plan,
    &lp_cmd_init,         &lp_cmd_inspect,       &lp_cmd_tokenize,   &lp_cmd_generate,     &lp_cmd_pairs_make,
    &lp_cmd_pairs_check,  &lp_cmd_pairs_convert, &lp_cmd_store_info, &lp_cmd_store_verify, &lp_cmd_store_archive,
    &lp_cmd_store_export, &lp_cmd_store_merge,   &lp_cmd_completion, &lp_cmd_man,
};
const size_t lp_n_commands = sizeof lp_commands / sizeof lp_commands[0];
