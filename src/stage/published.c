#include "stage/published.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"

enum { MAX_BYTES = 64 << 20 };

const char *const lp_published_layers[LP_PUBLISHED_LAYERS] = {"early", "middle", "late"};
static const char *const sides[2] = {"clean", "corrupted"};

/* ---- Bare Infinity and NaN --------------------------------------------------------------------------------------- */

static size_t bare_number(const char *text, size_t left) {
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i]);
        if (left >= n && memcmp(text, words[i], n) == 0) return n;
    }
    return 0;
}

/* *out = the text with null for those words, outside strings. */
static lp_status without_bare_numbers(const char *text, size_t size, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    size_t done = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        if (in_string && text[i] == '\\') {
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string) {
            size_t n = bare_number(text + i, size - i);
            if (n == 0) continue;
            LP_TRY(lp_text_add(out, text + done, i - done, err));
            LP_TRY(lp_text_add(out, "null", 4, err));
            done = i + n;
            i = done - 1;
        }
    }
    status = lp_text_add(out, text + done, size - done, err);
out:
    return status;
}

/* ---- Pairs ------------------------------------------------------------------------------------------------------- */

static lp_status read_id(const lp_json *entry, char **out, lp_error *err) {
    lp_json value;
    int64_t number = 0;
    lp_text text = {0};
    lp_status status = lp_json_get(entry, "pair_id", &value, err);
    if (status == LP_OK) status = lp_json_int(&value, 0, INT32_MAX, &number, err);
    if (status == LP_OK) status = lp_text_format(&text, err, "%lld", (long long)number);
    if (status == LP_OK) *out = text.data;
    return status;
}

static lp_status read_patching(const lp_json *entry, lp_published_pair *out, lp_error *err) {
    /* In the order of LP_CLASS: the names of the original, which says other_coherent where we say other. */
    static const char *const classes[] = {"clean_answer", "corrupted_answer", "other_coherent", "gibberish", NULL};
    lp_json side, patched, layer, value;
    lp_status status = LP_OK;
    for (int k = 0; k < 2; k++) {
        LP_TRY(lp_json_get(entry, sides[k], &side, err));
        LP_TRY(lp_json_get_string(&side, "generated", &out->text[k], err));
        out->correct[k] = true;
    }
    LP_TRY(lp_json_get(entry, "patched", &patched, err));
    for (int l = 0; l < LP_PUBLISHED_LAYERS; l++) {
        LP_TRY(lp_json_get(&patched, lp_published_layers[l], &layer, err));
        LP_TRY(lp_json_get(&layer, "classification", &value, err));
        LP_TRY(lp_json_choice(&value, classes, &out->outcome[l], err));
        LP_TRY(lp_json_get_string(&layer, "generated", &out->patched[l], err));
    }
out:
    return status;
}

static lp_status read_baseline(const lp_json *entry, lp_published_pair *out, lp_error *err) {
    lp_json side;
    lp_status status = LP_OK;
    for (int k = 0; k < 2; k++) {
        LP_TRY(lp_json_get(entry, sides[k], &side, err));
        LP_TRY(lp_json_get_string(&side, "output", &out->text[k], err));
        LP_TRY(lp_json_get_bool(&side, "correct", &out->correct[k], err));
    }
out:
    return status;
}

static lp_status read_necessity(const lp_json *entry, lp_published_pair *out, lp_error *err) {
    static const char *const baseline[] = {"clean_baseline_correct", "corrupted_baseline_correct"};
    static const char *const ablated[] = {"clean_ablated_correct", "corrupted_ablated_correct"};
    lp_json side;
    lp_status status = LP_OK;
    for (int k = 0; k < 2; k++) {
        LP_TRY(lp_json_find(entry, sides[k], &side, err));
        const lp_json *from = side.node ? &side : entry;
        LP_TRY(lp_json_get_bool(from, side.node ? "baseline_correct" : baseline[k], &out->correct[k], err));
        LP_TRY(lp_json_get_bool(from, side.node ? "ablated_correct" : ablated[k], &out->ablated[k], err));
    }
out:
    return status;
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

/* The list of pairs and the kind, by the keys. */
static lp_status find_list(const lp_json *root, lp_json *list, lp_published *out, lp_error *err) {
    lp_json config, value, first;
    int64_t n = 1;
    lp_status status = LP_OK;
    *list = *root;
    if (!lp_json_is_array(root)) {
        LP_TRY(lp_json_find(root, "valid_results", list, err));
        if (list->node) {
            out->kind = LP_PUBLISHED_PATCHING;
            LP_TRY(lp_json_find(root, "config", &config, err));
            value.node = NULL;
            if (config.node) LP_TRY(lp_json_find(&config, "tokens_patched", &value, err));
            if (value.node) LP_TRY(lp_json_int(&value, 1, LP_PUBLISHED_THOUGHTS, &n, err));
            out->n_tokens = (int32_t)n;
            goto out;
        }
        LP_TRY(lp_json_find(root, "results", list, err));
        if (!list->node) {
            status = lp_json_fail(root, err, "per-pair results (valid_results, results, or a list)");
            goto out;
        }
    }
    lp_json_first(list, &first);
    if (!first.node) {
        status = lp_json_fail(list, err, "at least one pair");
        goto out;
    }
    LP_TRY(lp_json_get(&first, "pair_id", &value, err));
    LP_TRY(lp_json_find(&first, "both_correct", &value, err));
    out->kind = value.node ? LP_PUBLISHED_BASELINE : LP_PUBLISHED_NECESSITY;
out:
    return status;
}

lp_status lp_published_parse(const char *text, size_t size, const char *name, lp_published *out, lp_error *err) {
    static lp_status (*const readers[])(const lp_json *, lp_published_pair *,
                                        lp_error *) = {read_patching, read_necessity, read_baseline};
    lp_published published = {0};
    lp_text clean = {0};
    lp_json root, list, entry;
    size_t n = 0;
    lp_status status = LP_OK;
    LP_TRY(without_bare_numbers(text, size, &clean, err));
    LP_TRY(lp_json_parse(lp_text_get(&clean), clean.length, name, &published.document, &root, err));
    LP_TRY(find_list(&root, &list, &published, err));
    LP_TRY(lp_json_array_size(&list, &n, err));
    LP_TRY(lp_mem_new(&published.pairs, n, sizeof *published.pairs, "published pairs", err));
    for (lp_json_first(&list, &entry); entry.node; lp_json_next(&list, &entry)) {
        lp_published_pair *pair = &published.pairs[published.n++];
        LP_TRY(read_id(&entry, &pair->id, err));
        LP_TRY(readers[published.kind](&entry, pair, err));
    }
    *out = published;
    lp_text_release(&clean);
    return LP_OK;
out:
    lp_text_release(&clean);
    lp_published_release(&published);
    return status;
}

lp_status lp_published_load(const char *path, lp_published *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_file_read(path, MAX_BYTES, &text, err);
    if (status == LP_OK) status = lp_published_parse(lp_text_get(&text), text.length, path, out, err);
    lp_text_release(&text);
    return status;
}

void lp_published_release(lp_published *published) {
    for (size_t i = 0; published->pairs && i < published->n; i++) lp_mem_free(published->pairs[i].id);
    lp_mem_free(published->pairs);
    cJSON_Delete(published->document);
    *published = (lp_published){0};
}

const lp_published_pair *lp_published_find(const lp_published *published, const char *id) {
    for (size_t i = 0; i < published->n; i++)
        if (strcmp(published->pairs[i].id, id) == 0) return &published->pairs[i];
    return NULL;
}
