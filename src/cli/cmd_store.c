#include "cli/arguments.h"
#include "store/store_admin.h"

typedef struct {
    bool json, quick;
    lp_texts fields;
    lp_integers layers, pairs;
    const char *digest;
} store_options;

static lp_status info(const void *given, const lp_texts *files, lp_text *out, lp_error *err) {
    const store_options *options = given;
    return lp_store_info(files->items[0], options->json ? LP_REPORT_JSON : LP_REPORT_TEXT, out, err);
}

static lp_status verify(const void *given, const lp_texts *files, lp_text *out, lp_error *err) {
    const store_options *options = given;
    lp_verify_counts counts;
    return lp_store_verify(files->items[0], options->quick ? LP_VERIFY_QUICK : LP_VERIFY_FULL, &counts, out, err);
}

static lp_status archive(const void *given, const lp_texts *files, lp_text *out, lp_error *err) {
    (void)given;
    return lp_store_archive(files->items[0], files->items[1], out, err);
}

static lp_status export(const void *given, const lp_texts *files, lp_text *out, lp_error *err) {
    const store_options *options = given;
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

static lp_status merge(const void *given, const lp_texts *files, lp_text *out, lp_error *err) {
    const store_options *options = given;
    return lp_store_merge(files->items + 1, files->n - 1, files->items[0], options->digest, out, err);
}

static const lp_option info_table[] = {
    LP_FLAG("--json", store_options, json, "print JSON"),
};

static const lp_option verify_table[] = {
    LP_FLAG("--quick", store_options, quick, "look at the structure only"),
};

static const lp_option export_table[] = {
    LP_VALUE(TEXTS, "--field", store_options, fields, "NAME", "this field only, e.g. resid_post"),
    LP_RANGE(INTEGERS, "--layer", store_options, layers, "L", 0, INT32_MAX, "this layer only"),
    LP_RANGE(INTEGERS, "--pair", store_options, pairs, "INDEX", 0, INT32_MAX, "this pair only"),
};

static const lp_option merge_table[] = {
    LP_VALUE(
        TEXT, "--pair-file-digest", store_options, digest, "SHA256",
        "digest of the file that holds all pairs, in order of first appearance (sha256sum ALL.json); needed where the stores "
        "come from different pair files"),
};

const lp_command lp_cmd_store_info = {
    .name = "store info",
    .summary = "what a store holds, whose it is, how far it is, and how large",
    .usage = (const char *const[]){"FILE [--json]", NULL},
    .description =
        "Prints the data sets of a store, the pairs that are written, and the provenance. Fields with a star must "
        "agree when a job uses the store again.",
    LP_OPTIONS(info_table, store_options, 0),
    LP_OPERANDS("one store", 1, 1),
    .run = info,
};

const lp_command lp_cmd_store_verify = {
    .name = "store verify",
    .summary = "check the checksum of every pair",
    .usage = (const char *const[]){"FILE [--quick]", NULL},
    .description =
        "Computes the checksum of every pair again and names the pairs that are torn or altered. The exit code is "
        "then 1.",
    LP_OPTIONS(verify_table, store_options, 0),
    LP_OPERANDS("one store", 1, 1),
    .run = verify,
};

const lp_command lp_cmd_store_archive = {
    .name = "store archive",
    .summary = "make a compressed copy",
    .usage = (const char *const[]){"FILE ARCHIVE", NULL},
    .description =
        "Writes a compressed copy (shuffle, deflate, checksums), reads it back and compares it. Every command reads "
        "the copy like the store.",
    LP_OPERANDS("a store and the name of its archive", 2, 2),
    .run = archive,
};

const lp_command lp_cmd_store_export = {
    .name = "store export",
    .summary = "take fields out as .npy files",
    .usage = (const char *const[]){"FILE FOLDER [--field NAME]... [--layer L]... [--pair INDEX]...", NULL},
    .description = "Writes fields of a store as .npy files, e.g. --field resid_post --layer 3.",
    LP_OPTIONS(export_table, store_options, 0),
    LP_OPERANDS("a store and a folder", 2, 2),
    .run = export,
};

const lp_command lp_cmd_store_merge = {
    .name = "store merge",
    .summary = "join stores of different pairs",
    .usage = (const char *const[]){"MERGED FILE... [--pair-file-digest SHA256]", NULL},
    .description =
        "Joins several stores of different pairs (same model and protocol) into one. Stores of different pair "
        "files need the SHA-256 of the file that holds all their pairs. With one FILE, a store of an older version "
        "becomes one of this version, which can be continued.",
    LP_OPTIONS(merge_table, store_options, 0),
    LP_OPERANDS("the name of the merged store and at least one store", 2, LP_MAX_OPERANDS),
    .run = merge,
};
