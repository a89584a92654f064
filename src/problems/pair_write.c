#include "problems/pair_write.h"

#include <math.h>

static lp_status member(const char *key, const char *text, lp_text *out, lp_error *err) {
    lp_status status = lp_text_format(out, err, ", \"%s\": ", key);
    return status == LP_OK ? lp_json_quote(text, out, err) : status;
}

/* The shortest decimal text that reads back as the same number. */
static lp_status print_number(double number, lp_text *out, lp_error *err) {
    char text[40];
    if (isnan(number)) return lp_text_put(out, "null", err);
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (strtod(text, NULL) == number) break;
    }
    if (fabs(number) < 1e15 && floor(number) == number) snprintf(text, sizeof text, "%.0f", number);
    return lp_text_put(out, text, err);
}

/* {"question": ..., "answer": ...} without braces, with the solution where it has a key. */
static lp_status print_side(const lp_pair_side *side, const char *solution_key, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_put(out, "\"question\": ", err));
    LP_CHECK(lp_json_quote(side->question, out, err));
    LP_CHECK(lp_text_put(out, ", \"answer\": ", err));
    LP_CHECK(print_number(side->answer, out, err));
    if (side->solution && solution_key) LP_CHECK(member(solution_key, side->solution, out, err));
    return LP_OK;
}

static lp_status print_own(const lp_pair *pair, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_put(out, "{\"id\": ", err));
    LP_CHECK(lp_json_quote(pair->id, out, err));
    LP_CHECK(lp_text_put(out, ", \"clean\": {", err));
    LP_CHECK(print_side(&pair->clean, "solution", out, err));
    LP_CHECK(lp_text_put(out, "}, \"corrupted\": {", err));
    LP_CHECK(print_side(&pair->corrupted, "solution", out, err));
    LP_CHECK(lp_text_put(out, "}", err));
    if (strcmp(pair->source, pair->id) != 0) LP_CHECK(member("source", pair->source, out, err));
    if (pair->change_from && pair->change_to) {
        LP_CHECK(lp_text_put(out, ", \"change\": {\"from\": ", err));
        LP_CHECK(lp_json_quote(pair->change_from, out, err));
        LP_CHECK(member("to", pair->change_to, out, err));
        LP_CHECK(lp_text_put(out, "}", err));
    }
    if (pair->n_steps >= 0) LP_CHECK(lp_text_format(out, err, ", \"steps\": %lld", (long long)pair->n_steps));
    if (pair->split != LP_SPLIT_NONE)
        LP_CHECK(member("split", pair->split == LP_SPLIT_TUNE ? "tune" : "test", out, err));
    if (pair->extra) LP_CHECK(lp_text_put(out, pair->extra, err));
    return lp_text_put(out, "}", err);
}

/* The original's ids are integers; others become strings. */
static lp_status print_original_id(const char *id, lp_text *out, lp_error *err) {
    size_t n = strlen(id);
    bool integer = n > 0 && n < 16 && strspn(id, "0123456789") == n && (id[0] != '0' || n == 1);
    LP_CHECK(lp_text_put(out, "{\"pair_id\": ", err));
    return integer ? lp_text_put(out, id, err) : lp_json_quote(id, out, err);
}

static lp_status print_original(const lp_pair *pair, lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_text change = {0};
    LP_TRY(print_original_id(pair->id, out, err));
    LP_TRY(lp_text_put(out, ", \"clean\": {", err));
    LP_TRY(print_side(&pair->clean, "full_answer", out, err));
    LP_TRY(lp_text_put(out, "}, \"corrupted\": {", err));
    LP_TRY(print_side(&pair->corrupted, NULL, out, err));
    if (pair->change_from && pair->change_to) {
        LP_TRY(lp_text_format(&change, err, "%s -> %s", pair->change_from, pair->change_to));
        LP_TRY(member("changed_number", lp_text_get(&change), out, err));
    }
    LP_TRY(lp_text_put(out, "}}", err));
out:
    lp_text_release(&change);
    return status;
}

static lp_status print_flat_row(const lp_pair *pair, const lp_pair_side *side, const char *variant, lp_text *out,
                                lp_error *err) {
    LP_CHECK(print_original_id(pair->id, out, err));
    LP_CHECK(member("variant", variant, out, err));
    LP_CHECK(lp_text_put(out, ", ", err));
    LP_CHECK(print_side(side, "full_solution", out, err));
    if (pair->n_steps >= 0) LP_CHECK(lp_text_format(out, err, ", \"reasoning_steps\": %lld", (long long)pair->n_steps));
    return lp_text_put(out, "}", err);
}

static lp_status print_flat(const lp_pair *pair, lp_text *out, lp_error *err) {
    lp_status status = print_flat_row(pair, &pair->clean, "clean", out, err);
    if (status == LP_OK) status = lp_text_put(out, ",\n  ", err);
    return status == LP_OK ? print_flat_row(pair, &pair->corrupted, "corrupted", out, err) : status;
}

lp_status lp_pairs_print(const lp_pair_set *set, const lp_pairs_print_options *options, lp_text *out, lp_error *err) {
    bool own = options->format == LP_PAIRS_OWN;
    if (own) {
        LP_CHECK(lp_text_put(out, "{\"format\": \"latentpatch-pairs\", \"version\": 1", err));
        if (options->source) LP_CHECK(member("source", options->source, out, err));
        if (options->seed >= 0) LP_CHECK(lp_text_format(out, err, ", \"seed\": %lld", (long long)options->seed));
        LP_CHECK(lp_text_put(out, ", \"pairs\": ", err));
    }
    LP_CHECK(lp_text_put(out, "[", err));
    const char *comma = "";
    for (size_t i = 0; i < set->n; i++) {
        const lp_pair *pair = &set->pairs[i];
        if (options->only != LP_SPLIT_NONE && pair->split != options->only) continue;
        LP_CHECK(lp_text_format(out, err, "%s\n  ", comma));
        comma = ",";
        LP_CHECK(own                                    ? print_own(pair, out, err)
                 : options->format == LP_PAIRS_ORIGINAL ? print_original(pair, out, err)
                                                        : print_flat(pair, out, err));
    }
    return lp_text_put(out, own ? "\n]}\n" : "\n]\n", err);
}
