#include "problems/pair_write.h"

#include <math.h>

/* The shortest decimal text that reads back as the same number. */
static const char *number_text(double number, char out[40]) {
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, 40, "%.*g", digits, number);
        if (strtod(out, NULL) == number) break;
    }
    if (fabs(number) < 1e15 && floor(number) == number) snprintf(out, 40, "%.0f", number);
    return isnan(number) ? "null" : out;
}

/* "question": ..., "answer": ... and the solution where it has a key. */
static lp_status print_side(const lp_pair_side *side, const char *solution_key, lp_text *out, lp_error *err) {
    char answer[40];
    LP_CHECK(lp_json_format(out, err, "\"question\": %s, \"answer\": ", side->question));
    LP_CHECK(lp_text_put(out, number_text(side->answer, answer), err));
    if (!side->solution || !solution_key) return LP_OK;
    return lp_json_format(out, err, ", %s: %s", solution_key, side->solution);
}

static lp_status print_sides(const lp_pair *pair, const char *clean_key, const char *corrupted_key, lp_text *out,
                             lp_error *err) {
    LP_CHECK(lp_text_put(out, ", \"clean\": {", err));
    LP_CHECK(print_side(&pair->clean, clean_key, out, err));
    LP_CHECK(lp_text_put(out, "}, \"corrupted\": {", err));
    return print_side(&pair->corrupted, corrupted_key, out, err);
}

static lp_status print_own(const lp_pair *pair, lp_text *out, lp_error *err) {
    LP_CHECK(lp_json_format(out, err, "{\"id\": %s", pair->id));
    LP_CHECK(print_sides(pair, "solution", "solution", out, err));
    LP_CHECK(lp_text_put(out, "}", err));
    if (strcmp(pair->source, pair->id) != 0) LP_CHECK(lp_json_format(out, err, ", \"source\": %s", pair->source));
    if (pair->change_from && pair->change_to)
        LP_CHECK(
            lp_json_format(out, err, ", \"change\": {\"from\": %s, \"to\": %s}", pair->change_from, pair->change_to));
    if (pair->n_steps >= 0) LP_CHECK(lp_text_format(out, err, ", \"steps\": %lld", (long long)pair->n_steps));
    if (pair->split != LP_SPLIT_NONE)
        LP_CHECK(lp_json_format(out, err, ", \"split\": %s", pair->split == LP_SPLIT_TUNE ? "tune" : "test"));
    return lp_text_format(out, err, "%s}", pair->extra ? pair->extra : "");
}

/* The original's ids are integers; others become strings. */
static lp_status print_original_id(const char *id, lp_text *out, lp_error *err) {
    size_t n = strlen(id);
    bool integer = n > 0 && n < 16 && strspn(id, "0123456789") == n && (id[0] != '0' || n == 1);
    LP_CHECK(lp_text_put(out, "{\"pair_id\": ", err));
    return integer ? lp_text_put(out, id, err) : lp_json_quote(id, out, err);
}

static lp_status print_original(const lp_pair *pair, lp_text *out, lp_error *err) {
    lp_text change = {0};
    LP_CHECK(print_original_id(pair->id, out, err));
    LP_CHECK(print_sides(pair, "full_answer", NULL, out, err));
    if (pair->change_from && pair->change_to) {
        lp_status status = lp_text_format(&change, err, "%s -> %s", pair->change_from, pair->change_to);
        if (status == LP_OK) status = lp_json_format(out, err, ", \"changed_number\": %s", lp_text_get(&change));
        lp_text_release(&change);
        LP_CHECK(status);
    }
    return lp_text_put(out, "}}", err);
}

static lp_status print_flat(const lp_pair *pair, lp_text *out, lp_error *err) {
    for (int k = 0; k < 2; k++) {
        if (k > 0) LP_CHECK(lp_text_put(out, ",\n  ", err));
        LP_CHECK(print_original_id(pair->id, out, err));
        LP_CHECK(lp_json_format(out, err, ", \"variant\": %s, ", k == 0 ? "clean" : "corrupted"));
        LP_CHECK(print_side(k == 0 ? &pair->clean : &pair->corrupted, "full_solution", out, err));
        if (pair->n_steps >= 0)
            LP_CHECK(lp_text_format(out, err, ", \"reasoning_steps\": %lld", (long long)pair->n_steps));
        LP_CHECK(lp_text_put(out, "}", err));
    }
    return LP_OK;
}

lp_status lp_pairs_print(const lp_pair_set *set, const lp_pairs_print_options *options, lp_text *out, lp_error *err) {
    bool own = options->format == LP_PAIRS_OWN;
    if (own) {
        LP_CHECK(lp_text_put(out, "{\"format\": \"latentpatch-pairs\", \"version\": 1", err));
        if (options->source) LP_CHECK(lp_json_format(out, err, ", \"source\": %s", options->source));
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
