#include "cli/arguments.h"
#include "cli/print.h"
#include "store/store_admin.h"

typedef struct {
    bool json, quick;
    lp_texts fields;
    lp_integers layers, pairs;
    const char *digest;
} store_options;

/* The work of a command on its files; *out += what to print, also after a failure. */
typedef lp_status (*store_work)(const lp_texts *files, const store_options *options, lp_text *out, lp_error *err);

static int run_on_files(const lp_command *command, int argc, char **argv, store_work work) {
    store_options options = {0};
    lp_texts files;
    lp_error error = {0};
    lp_text out = {0};
    int code = 0;
    if (!lp_command_begin(command, argc, argv, &options, &files, &code)) return code;
    lp_status status = work(&files, &options, &out, &error);
    lp_status printed = lp_print(lp_text_get(&out), LP_PRINT_BLOCK, status == LP_OK ? &error : NULL);
    if (status == LP_OK) status = printed;
    lp_text_release(&out);
    return status == LP_ERR_USAGE ? lp_exit_usage(command, &error) : lp_exit_with(NULL, status, &error);
}

static lp_status info(const lp_texts *files, const store_options *options, lp_text *out, lp_error *err) {
    return lp_store_info(files->items[0], options->json ? LP_REPORT_JSON : LP_REPORT_TEXT, out, err);
}

static lp_status verify(const lp_texts *files, const store_options *options, lp_text *out, lp_error *err) {
    lp_verify_counts counts;
    return lp_store_verify(files->items[0], options->quick ? LP_VERIFY_QUICK : LP_VERIFY_FULL, &counts, out, err);
}

static lp_status archive(const lp_texts *files, const store_options *options, lp_text *out, lp_error *err) {
    (void)options;
    return lp_store_archive(files->items[0], files->items[1], out, err);
}

static lp_status export(const lp_texts *files, const store_options *options, lp_text *out, lp_error *err) {
    int32_t layers[LP_MAX_OPERANDS];
    for (size_t i = 0; i < options->layers.n; i++) layers[i] = (int32_t)options->layers.items[i];
    lp_export_options wanted = {.fields = options->fields.items,
                                .n_fields = options->fields.n,
                                .layers = layers,
                                .n_layers = options->layers.n,
                                .pairs = options->pairs.items,
                                .n_pairs = options->pairs.n};
    return lp_store_export(files->items[0], files->items[1], &wanted, out, err);
}

static lp_status merge(const lp_texts *files, const store_options *options, lp_text *out, lp_error *err) {
    return lp_store_merge(files->items + 1, files->n - 1, files->items[0], options->digest, out, err);
}

static int run_info(const lp_command *command, int argc, char **argv) {
    return run_on_files(command, argc, argv, info);
}
static int run_verify(const lp_command *command, int argc, char **argv) {
    return run_on_files(command, argc, argv, verify);
}
static int run_archive(const lp_command *command, int argc, char **argv) {
    return run_on_files(command, argc, argv, archive);
}
static int run_export(const lp_command *command, int argc, char **argv) {
    return run_on_files(command, argc, argv, export);
}
static int run_merge(const lp_command *command, int argc, char **argv) {
    return run_on_files(command, argc, argv, merge);
}

static const lp_option info_table[] = {
    {.name = "--json", .kind = LP_OPTION_FLAG, .offset = offsetof(store_options, json), .help = "print JSON"},
};

static const lp_option verify_table[] = {
    {.name = "--quick",
     .kind = LP_OPTION_FLAG,
     .offset = offsetof(store_options, quick),
     .help = "look at the structure only"},
};

static const lp_option export_table[] = {
    {.name = "--field",
     .kind = LP_OPTION_TEXTS,
     .offset = offsetof(store_options, fields),
     .value = "NAME",
     .help = "this field only, e.g. resid_post"},
    {.name = "--layer",
     .kind = LP_OPTION_INTEGERS,
     .offset = offsetof(store_options, layers),
     .value = "L",
     .help = "this layer only",
     .max = INT32_MAX},
    {.name = "--pair",
     .kind = LP_OPTION_INTEGERS,
     .offset = offsetof(store_options, pairs),
     .value = "INDEX",
     .help = "this pair only",
     .max = INT32_MAX},
};

static const lp_option merge_table[] = {
    {.name = "--pair-file-digest",
     .kind = LP_OPTION_TEXT,
     .offset = offsetof(store_options, digest),
     .value = "SHA256",
     .help =
         "digest of the file that holds all pairs, in order of first appearance (sha256sum ALL.json); needed where the stores "
         "come from different pair files"},
};

const lp_command lp_cmd_store_info = {
    .name = "store info",
    .summary = "what a store holds, whose it is, how far it is, and how large",
    .usage = (const char *const[]){"FILE [--json]", NULL},
    .description =
        "Prints the data sets of a store, the pairs that are written, and the provenance. Fields with a star must "
        "agree when a job uses the store again.",
    .options = info_table,
    .n_options = sizeof info_table / sizeof info_table[0],
    .operands = "one store",
    .min_operands = 1,
    .max_operands = 1,
    .run = run_info,
};

const lp_command lp_cmd_store_verify = {
    .name = "store verify",
    .summary = "check the checksum of every pair",
    .usage = (const char *const[]){"FILE [--quick]", NULL},
    .description =
        "Computes the checksum of every pair again and names the pairs that are torn or altered. The exit code is "
        "then 1.",
    .options = verify_table,
    .n_options = sizeof verify_table / sizeof verify_table[0],
    .operands = "one store",
    .min_operands = 1,
    .max_operands = 1,
    .run = run_verify,
};

const lp_command lp_cmd_store_archive = {
    .name = "store archive",
    .summary = "make a compressed copy",
    .usage = (const char *const[]){"FILE ARCHIVE", NULL},
    .description =
        "Writes a compressed copy (shuffle, deflate, checksums), reads it back and compares it. Every command reads "
        "the copy like the store.",
    .operands = "a store and the name of its archive",
    .min_operands = 2,
    .max_operands = 2,
    .run = run_archive,
};

const lp_command lp_cmd_store_export = {
    .name = "store export",
    .summary = "take fields out as .npy files",
    .usage = (const char *const[]){"FILE FOLDER [--field NAME]... [--layer L]... [--pair INDEX]...", NULL},
    .description = "Writes fields of a store as .npy files, e.g. --field resid_post --layer 3.",
    .options = export_table,
    .n_options = sizeof export_table / sizeof export_table[0],
    .operands = "a store and a folder",
    .min_operands = 2,
    .max_operands = 2,
    .run = run_export,
};

const lp_command lp_cmd_store_merge = {
    .name = "store merge",
    .summary = "join stores of different pairs",
    .usage = (const char *const[]){"MERGED FILE... [--pair-file-digest SHA256]", NULL},
    .description =
        "Joins several stores of different pairs (same model and protocol) into one. Stores of different pair "
        "files need the SHA-256 of the file that holds all their pairs. With one FILE, a store of an older version "
        "becomes one of this version, which can be continued.",
    .options = merge_table,
    .n_options = sizeof merge_table / sizeof merge_table[0],
    .operands = "the name of the merged store and at least one store",
    .min_operands = 2,
    .max_operands = LP_MAX_OPERANDS,
    .run = run_merge,
};
