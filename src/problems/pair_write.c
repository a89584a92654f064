#include "problems/pair_write.h"

#include <math.h>

lp_status lp_json_quote(const char *text, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    const char *from = text;
    LP_TRY(lp_text_add(out, "\"", 1, err));
    for (const char *at = text;; at++) {
        unsigned char c = (unsigned char)*at;
        if (c >= 0x20 && c != '"' && c != '\\') continue;
        LP_TRY(lp_text_add(out, from, (size_t)(at - from), err));
        from = at + 1;
        if (c == 0) break;
        if (c == '"' || c == '\\')
            LP_TRY(lp_text_format(out, err, "\\%c", c));
        else if (c == '\n')
            LP_TRY(lp_text_add(out, "\\n", 2, err));
        else
            LP_TRY(lp_text_format(out, err, "\\u%04x", c));
    }
    LP_TRY(lp_text_add(out, "\"", 1, err));
out:
    return status;
}

static lp_status member(const char *key, const char *text, lp_text *out, lp_error *err) {
    lp_status status = lp_text_format(out, err, ", \"%s\": ", key);
    return status == LP_OK ? lp_json_quote(text, out, err) : status;
}

/* The shortest decimal text that reads back as the same number. */
static lp_status print_number(double number, lp_text *out, lp_error *err) {
    char text[40];
    if (isnan(number)) return lp_text_add(out, "null", 4, err);
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    if (fabs(number) < 1e15 && floor(number) == number) snprintf(text, sizeof text, "%.0f", number);
    return lp_text_add(out, text, strlen(text), err);
}

static lp_status print_question(const lp_pair_side *side, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(lp_text_add(out, "\"question\": ", 12, err));
    LP_TRY(lp_json_quote(side->question, out, err));
    LP_TRY(lp_text_add(out, ", \"answer\": ", 12, err));
    LP_TRY(print_number(side->answer, out, err));
out:
    return status;
}

static lp_status print_own(const lp_pair *pair, lp_text *out, lp_error *err) {
    const lp_pair_side *const sides[] = {&pair->clean, &pair->corrupted};
    static const char *const names[] = {"clean", "corrupted"};
    lp_status status = LP_OK;
    LP_TRY(lp_text_add(out, "{\"id\": ", 7, err));
    LP_TRY(lp_json_quote(pair->id, out, err));
    for (size_t i = 0; i < 2; i++) {
        LP_TRY(lp_text_format(out, err, ", \"%s\": {", names[i]));
        LP_TRY(print_question(sides[i], out, err));
        if (sides[i]->solution) LP_TRY(member("solution", sides[i]->solution, out, err));
        LP_TRY(lp_text_add(out, "}", 1, err));
    }
    if (strcmp(pair->source, pair->id) != 0) LP_TRY(member("source", pair->source, out, err));
    if (pair->change_from && pair->change_to) {
        LP_TRY(lp_text_add(out, ", \"change\": {\"from\": ", 21, err));
        LP_TRY(lp_json_quote(pair->change_from, out, err));
        LP_TRY(member("to", pair->change_to, out, err));
        LP_TRY(lp_text_add(out, "}", 1, err));
    }
    if (pair->n_steps >= 0) LP_TRY(lp_text_format(out, err, ", \"steps\": %lld", (long long)pair->n_steps));
    if (pair->split != LP_SPLIT_NONE)
        LP_TRY(lp_text_format(out, err, ", \"split\": \"%s\"", pair->split == LP_SPLIT_TUNE ? "tune" : "test"));
    if (pair->extra) LP_TRY(lp_text_add(out, pair->extra, strlen(pair->extra), err));
    LP_TRY(lp_text_add(out, "}", 1, err));
out:
    return status;
}

/* The original's ids are integers; others become strings. */
static lp_status print_original_id(const char *id, lp_text *out, lp_error *err) {
    size_t n = strlen(id);
    bool integer = n > 0 && n < 16 && strspn(id, "0123456789") == n && (id[0] != '0' || n == 1);
    lp_status status = lp_text_add(out, "{\"pair_id\": ", 12, err);
    if (status != LP_OK) return status;
    return integer ? lp_text_add(out, id, n, err) : lp_json_quote(id, out, err);
}

static lp_status print_original(const lp_pair *pair, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    LP_TRY(print_original_id(pair->id, out, err));
    LP_TRY(lp_text_add(out, ", \"clean\": {", 12, err));
    LP_TRY(print_question(&pair->clean, out, err));
    if (pair->clean.solution) LP_TRY(member("full_answer", pair->clean.solution, out, err));
    LP_TRY(lp_text_add(out, "}, \"corrupted\": {", 17, err));
    LP_TRY(print_question(&pair->corrupted, out, err));
    if (pair->change_from && pair->change_to) {
        LP_TRY(lp_text_add(out, ", \"changed_number\": ", 20, err));
        lp_text change = {0};
        status = lp_text_format(&change, err, "%s -> %s", pair->change_from, pair->change_to);
        if (status == LP_OK) status = lp_json_quote(lp_text_get(&change), out, err);
        lp_text_release(&change);
        LP_TRY(status);
    }
    LP_TRY(lp_text_add(out, "}}", 2, err));
out:
    return status;
}

static lp_status print_flat(const lp_pair *pair, lp_text *out, lp_error *err) {
    const lp_pair_side *const sides[] = {&pair->clean, &pair->corrupted};
    static const char *const names[] = {"clean", "corrupted"};
    lp_status status = LP_OK;
    for (size_t i = 0; i < 2; i++) {
        if (i > 0) LP_TRY(lp_text_add(out, ",\n  ", 4, err));
        LP_TRY(print_original_id(pair->id, out, err));
        LP_TRY(member("variant", names[i], out, err));
        LP_TRY(lp_text_add(out, ", ", 2, err));
        LP_TRY(print_question(sides[i], out, err));
        if (sides[i]->solution) LP_TRY(member("full_solution", sides[i]->solution, out, err));
        if (pair->n_steps >= 0)
            LP_TRY(lp_text_format(out, err, ", \"reasoning_steps\": %lld", (long long)pair->n_steps));
        LP_TRY(lp_text_add(out, "}", 1, err));
    }
out:
    return status;
}

lp_status lp_pairs_print(const lp_pair_set *set, const lp_pairs_print_options *options, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    bool own = options->format == LP_PAIRS_OWN;
    if (own) {
        LP_TRY(lp_text_format(out, err, "{\"format\": \"latentpatch-pairs\", \"version\": 1"));
        if (options->source) LP_TRY(member("source", options->source, out, err));
        if (options->seed >= 0) LP_TRY(lp_text_format(out, err, ", \"seed\": %lld", (long long)options->seed));
        LP_TRY(lp_text_add(out, ", \"pairs\": ", 11, err));
    }
    LP_TRY(lp_text_add(out, "[", 1, err));
    const char *comma = "";
    for (size_t i = 0; i < set->n; i++) {
        const lp_pair *pair = &set->pairs[i];
        if (options->only != LP_SPLIT_NONE && pair->split != options->only) continue;
        LP_TRY(lp_text_format(out, err, "%s\n  ", comma));
        comma = ",";
        LP_TRY(own                                    ? print_own(pair, out, err)
               : options->format == LP_PAIRS_ORIGINAL ? print_original(pair, out, err)
                                                      : print_flat(pair, out, err));
    }
    LP_TRY(lp_text_format(out, err, own ? "\n]}\n" : "\n]\n"));
out:
    return status;
}
