#include "base/memory.h"
#include "cli/arguments.h"
#include "cli/print.h"
#include "store/store_admin.h"

static const char help[] =
    "usage: latentpatch store info FILE [--json]\n"
    "       latentpatch store verify FILE [--quick]\n"
    "       latentpatch store archive FILE ARCHIVE\n"
    "       latentpatch store export FILE FOLDER [--field NAME]... [--layer L]... [--pair INDEX]...\n"
    "       latentpatch store merge MERGED FILE... [--pair-file-digest SHA256]\n\n"
    "info     what a store holds, whose it is, how far it is, and how large\n"
    "verify   the checksum of every pair; names those that are torn or altered (exit 1); --quick looks at structure only\n"
    "archive  a compressed copy (shuffle, deflate, checksums) that every command reads like the store; read back and compared\n"
    "export   fields as .npy, e.g. --field resid_post --layer 3\n"
    "merge    several stores of different pairs (same model and protocol) into one; those of different pair files need the\n"
    "         SHA-256 of the file that holds all their pairs, in order of first appearance (sha256sum ALL.json);\n"
    "         with one FILE, a store of an older version becomes one of this version, which can be continued\n";

typedef struct {
    bool json, quick;
    const char *fields[LP_MAX_OPERANDS], *layers[LP_MAX_OPERANDS], *pairs[LP_MAX_OPERANDS];
    size_t n_fields, n_layers, n_pairs;
    const char *digest;
} store_options;

static lp_status parse_number(const char *text, int64_t *out, const char *option, lp_error *err) {
    char *end = NULL;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || value < 0 || value > INT32_MAX)
        return lp_fail(err, LP_ERR_USAGE, "%s: expected a number from 0, found \"%.40s\"", option, text);
    *out = value;
    return LP_OK;
}

static lp_status export_parts(const char *path, const char *folder, const store_options *o, lp_text *out,
                              lp_error *err) {
    int32_t layers[LP_MAX_OPERANDS];
    int64_t pairs[LP_MAX_OPERANDS];
    for (size_t i = 0; i < o->n_layers; i++) {
        int64_t layer = 0;
        lp_status status = parse_number(o->layers[i], &layer, "--layer", err);
        if (status != LP_OK) return status;
        layers[i] = (int32_t)layer;
    }
    for (size_t i = 0; i < o->n_pairs; i++) {
        lp_status status = parse_number(o->pairs[i], &pairs[i], "--pair", err);
        if (status != LP_OK) return status;
    }
    lp_export_options wanted = {.fields = o->fields,
                                .n_fields = o->n_fields,
                                .layers = layers,
                                .n_layers = o->n_layers,
                                .pairs = pairs,
                                .n_pairs = o->n_pairs};
    return lp_store_export(path, folder, &wanted, out, err);
}

/* Options of one verb mean nothing to the others. */
static lp_status refuse_options(const char *verb, const store_options *o, lp_error *err) {
    const struct {
        bool given;
        const char *option, *verb;
    } options[] = {{o->json, "--json", "info"},
                   {o->quick, "--quick", "verify"},
                   {o->n_fields > 0, "--field", "export"},
                   {o->n_layers > 0, "--layer", "export"},
                   {o->n_pairs > 0, "--pair", "export"},
                   {o->digest != NULL, "--pair-file-digest", "merge"}};
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++)
        if (options[i].given && strcmp(options[i].verb, verb) != 0)
            return lp_fail(err, LP_ERR_USAGE, "%s is an option of %s alone", options[i].option, options[i].verb);
    return LP_OK;
}

static lp_status run_verb(const lp_operands *words, const store_options *o, lp_text *out, lp_error *err) {
    const char *verb = words->n > 0 ? words->operands[0] : "";
    const char *const *rest = words->operands + 1;
    size_t n = words->n > 0 ? words->n - 1 : 0;
    lp_status status = refuse_options(verb, o, err);
    if (status != LP_OK) return status;
    if (strcmp(verb, "info") == 0 && n == 1)
        return lp_store_info(rest[0], o->json ? LP_REPORT_JSON : LP_REPORT_TEXT, out, err);
    if (strcmp(verb, "verify") == 0 && n == 1) {
        lp_verify_counts counts;
        return lp_store_verify(rest[0], o->quick ? LP_VERIFY_QUICK : LP_VERIFY_FULL, &counts, out, err);
    }
    if (strcmp(verb, "archive") == 0 && n == 2) return lp_store_archive(rest[0], rest[1], out, err);
    if (strcmp(verb, "export") == 0 && n == 2) return export_parts(rest[0], rest[1], o, out, err);
    if (strcmp(verb, "merge") == 0 && n >= 2) return lp_store_merge(rest + 1, n - 1, rest[0], o->digest, out, err);
    return lp_fail(err, LP_ERR_USAGE, "expected info, verify, archive, export or merge with their files");
}

int lp_cmd_store(int argc, char **argv) {
    store_options o = {0};
    const lp_option options[] = {{.name = "--json", .flag = &o.json},
                                 {.name = "--quick", .flag = &o.quick},
                                 {.name = "--field", .values = o.fields, .n_values = &o.n_fields},
                                 {.name = "--layer", .values = o.layers, .n_values = &o.n_layers},
                                 {.name = "--pair", .values = o.pairs, .n_values = &o.n_pairs},
                                 {.name = "--pair-file-digest", .value = &o.digest}};
    lp_operands operands;
    lp_error error = {0}, *err = &error;
    lp_text out = {0};
    if (lp_arguments_read(argc, argv, options, sizeof options / sizeof options[0], &operands, err) != LP_OK)
        return lp_exit_usage("store", err);
    if (operands.help) {
        printf("%s", help);
        return LP_EXIT_OK;
    }
    lp_status status = run_verb(&operands, &o, &out, err);
    lp_status printed = lp_print(lp_text_get(&out), LP_PRINT_BLOCK, status == LP_OK ? err : NULL);
    if (status == LP_OK) status = printed;
    lp_text_release(&out);
    return status == LP_ERR_USAGE ? lp_exit_usage("store", err) : lp_exit_with(NULL, status, err);
}
