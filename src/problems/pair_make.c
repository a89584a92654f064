#include "problems/pair_make.h"

#include "base/memory.h"
#include "base/random.h"
#include "problems/keyed.h"
#include "problems/pair_template.h"
#include "problems/pair_write.h"
#include "problems/problem_annotate.h"

/* Streams of random numbers, so that one choice never shifts another. */
enum { STREAM_NUMBER = 0x7061, STREAM_VALUE, STREAM_SELECT, STREAM_SPLIT };
enum { MAX_UNITS = 19, MAX_PER_PROBLEM = 16 };

typedef struct {
    const lp_make_options *options;
    lp_made *made;
    lp_graph graph;
    lp_recomputed changed;
    lp_text question, solution, extra, annotated; /* reused */
    size_t capacity;                              /* of made->set.pairs */
    char *prefix;
    const char *file_name;
    size_t source; /* the first record with the question at hand: variants of one question have one source */
} pair_maker;

static lp_status log_rejected(const pair_maker *maker, const lp_problem *problem, const char *number, const char *to,
                              lp_reason reason, lp_error *err) {
    lp_text *out = maker->options->rejected;
    if (!out) return LP_OK;
    LP_CHECK(lp_text_format(out, err, "{\"index\": %zu, \"reason\": \"%s\"", problem->index, lp_reason_name(reason)));
    if (number) LP_CHECK(lp_json_format(out, err, ", \"from\": %s", number));
    if (to) LP_CHECK(lp_json_format(out, err, ", \"to\": %s", to));
    /* The recomputed solution lets a reader see whose answer is right. */
    if (reason == LP_REASON_OTHER_ANSWER)
        LP_CHECK(lp_json_format(out, err, ", \"solution\": %s", lp_text_get(&maker->solution)));
    return lp_text_put(out, "}\n", err);
}

static lp_status add_graph(const lp_graph *graph, const lp_recomputed *changed, lp_text *out, lp_error *err) {
    LP_CHECK(lp_text_put(out, ", \"graph\": [", err));
    for (int s = 0; s < graph->n_steps; s++) {
        const lp_step *step = &graph->steps[s];
        char *equation = NULL;
        LP_CHECK(lp_mem_text(&equation, graph->solution + step->expression_at, step->expression_length, err));
        lp_status status = lp_text_put(out, s > 0 ? ", " : "", err);
        if (status == LP_OK) status = lp_json_format(out, err, "{\"equation\": %s, \"clean\": \"", equation);
        lp_mem_free(equation);
        LP_CHECK(status);
        LP_CHECK(lp_rational_print(step->result, 0, LP_COMMAS_NO, out, err));
        LP_CHECK(lp_text_put(out, "\", \"corrupted\": \"", err));
        LP_CHECK(lp_rational_print(changed->steps[s], 0, LP_COMMAS_NO, out, err));
        LP_CHECK(lp_text_put(out, "\", \"uses\": ", err));
        LP_CHECK(lp_graph_uses(graph, s, out, err));
        LP_CHECK(lp_text_put(out, "}", err));
    }
    return lp_text_put(out, "]", err);
}

/* Adds the pair whose new texts are in m->question and m->solution. */
static lp_status add_pair(pair_maker *maker, const lp_problem *problem, size_t nth, const char *from, const char *to,
                          lp_error *err) {
    lp_pair_set *set = &maker->made->set;
    lp_text *extra = &maker->extra;
    LP_CHECK(lp_mem_grow(&set->pairs, &maker->capacity, set->n + 1, sizeof *set->pairs, "pairs", err));
    lp_pair *pair = &set->pairs[set->n];
    *pair = (lp_pair){.n_steps = maker->graph.n_steps, .place = problem->index};
    set->n++;
    LP_CHECK(nth > 0 ? lp_mem_format(&pair->id, err, "%s-%05zu-%zu", maker->prefix, problem->index, nth + 1)
                     : lp_mem_format(&pair->id, err, "%s-%05zu", maker->prefix, problem->index));
    LP_CHECK(lp_mem_format(&pair->source, err, "%s#%zu", maker->file_name, maker->source));
    LP_CHECK(lp_mem_strdup(&pair->clean.question, problem->question, err));
    LP_CHECK(lp_mem_strdup(&pair->clean.solution, maker->graph.solution, err));
    LP_CHECK(lp_mem_strdup(&pair->corrupted.question, lp_text_get(&maker->question), err));
    LP_CHECK(lp_mem_strdup(&pair->corrupted.solution, lp_text_get(&maker->solution), err));
    pair->clean.answer = lp_rational_to_double(problem->answer);
    pair->corrupted.answer = lp_rational_to_double(maker->changed.answer);
    LP_CHECK(lp_mem_strdup(&pair->change_from, from, err));
    LP_CHECK(lp_mem_strdup(&pair->change_to, to, err));
    LP_CHECK(lp_text_format(extra, err, ", \"index\": %zu", problem->index));
    LP_CHECK(add_graph(&maker->graph, &maker->changed, extra, err));
    return lp_mem_strdup(&pair->extra, lp_text_get(extra), err);
}

/* Makes the new texts and asks the tokenizers; *reason says whether the pair stands. */
static lp_status write_texts(pair_maker *maker, const lp_problem *problem, lp_reason *reason, lp_error *err) {
    lp_text_clear(&maker->question);
    lp_text_clear(&maker->solution);
    lp_text_clear(&maker->extra);
    LP_CHECK(lp_graph_question(&maker->graph, &maker->changed, &maker->question, err));
    LP_CHECK(lp_graph_solution(&maker->graph, &maker->changed, &maker->solution, err));
    return lp_pair_count_tokens(maker->options, problem->question, lp_text_get(&maker->question), reason, &maker->extra,
                                err);
}

/* ---- values ---- */

static int64_t power_of_ten(int n) {
    int64_t power = 1;
    while (n-- > 0) power *= 10;
    return power;
}

static int count_digits(int64_t whole) {
    int n = 1;
    for (; whole >= 10; whole /= 10) n++;
    return n;
}

/* The number as an integer of its last decimal (19.50 is 1950); false when it is too large to step through. */
static bool scaled_value(const lp_number *number, int64_t *out) {
    lp_rational scaled = {0, 1};
    if (number->decimals > 6) return false;
    if (lp_rational_multiply(number->value, lp_rational_whole(power_of_ten(number->decimals)), &scaled) !=
        LP_RATIONAL_OK)
        return false;
    *out = scaled.n;
    return scaled.d == 1 && scaled.n < INT64_MAX / 1000;
}

/* Draws the order of items[start..end). */
static void shuffle(int64_t *items, size_t start, size_t end, lp_random_key key) {
    for (size_t i = end; i > start + 1; i--) {
        size_t other = start + lp_random_below(key, (uint32_t)i, (uint32_t)(i - start));
        int64_t last = items[i - 1];
        items[i - 1] = items[other];
        items[other] = last;
    }
}

/* The new values to try for number i, best first: whole units of its last digit that is not 0 (20: 30, 40, 10), then
 * finer ones, each in an order drawn by the seed. */
typedef struct {
    int64_t values[200];
    size_t n;
} value_list;

static void list_values(const pair_maker *maker, const lp_problem *problem, size_t i, value_list *out) {
    const lp_make_options *options = maker->options;
    const lp_number *number = &maker->graph.numbers.items[i];
    int min_delta = options->max_delta > 0 ? options->min_delta : 1;
    int max_delta = options->max_delta > 0 ? options->max_delta : 5;
    int64_t scaled = 0, scale = power_of_ten(number->decimals), limit = lp_graph_limit(&maker->graph, i);
    bool word = number->kind == LP_NUMBER_WORD;
    out->n = 0;
    if (!scaled_value(number, &scaled)) return;
    int64_t unit = 1;
    while (!word && scaled % (unit * 10) == 0 && scaled / (unit * 10) > 0) unit *= 10;
    for (uint32_t tier = 0; unit >= 1; unit /= 10, tier++) {
        size_t start = out->n;
        for (int delta = -max_delta; delta <= max_delta; delta++) {
            int64_t value = scaled + delta * unit;
            if (abs(delta) < min_delta || delta == 0 || value <= scale) continue;
            if (options->digits == LP_DIGITS_SAME && count_digits(value / scale) != count_digits(scaled / scale))
                continue;
            if (word && !lp_number_word(lp_rational_whole(value))) continue;
            if (limit > 0 && value > limit * scale) continue;
            if (out->n < sizeof out->values / sizeof *out->values) out->values[out->n++] = value;
        }
        lp_random_key key = {maker->options->seed, STREAM_VALUE, (uint32_t)problem->index, (uint32_t)i * 32 + tier};
        shuffle(out->values, start, out->n, key);
    }
}

/* ---- one problem ---- */

/* Tries one value of number i. */
static lp_reason try_value(pair_maker *maker, size_t i, lp_rational value) {
    lp_graph_unchanged(&maker->graph, &maker->changed);
    for (size_t k = 0; k < maker->graph.numbers.n; k++)
        if (k != i && lp_rational_equal(maker->graph.numbers.items[k].value, value)) return LP_REASON_REPEATED_VALUE;
    if (!lp_graph_article_fits(&maker->graph, i, value)) return LP_REASON_ARTICLE;
    maker->changed.numbers[i].value = value;
    lp_reason reason = lp_graph_recompute(&maker->graph, &maker->changed);
    if (reason == LP_REASON_NONE) reason = lp_graph_sound(&maker->graph, &maker->changed);
    return reason == LP_REASON_NONE && maker->changed.answer.n < 0 ? LP_REASON_NOT_POSITIVE : reason;
}

/* Tries number i; *found when it gave a pair. */
static lp_status try_number(pair_maker *maker, const lp_problem *problem, size_t i, size_t nth, bool *found,
                            lp_error *err) {
    const lp_number *number = &maker->graph.numbers.items[i];
    lp_status status = LP_OK;
    lp_text from = {0}, to = {0};
    value_list values;
    LP_TRY(lp_text_add(&from, problem->question + number->at, number->length, err));
    lp_reason reason = lp_graph_changeable(&maker->graph, i);
    if (reason == LP_REASON_NONE) {
        list_values(maker, problem, i, &values);
        if (values.n == 0) reason = LP_REASON_NO_ROOM;
    }
    if (reason != LP_REASON_NONE) {
        maker->made->candidates[reason]++;
        LP_TRY(log_rejected(maker, problem, lp_text_get(&from), NULL, reason, err));
        goto out;
    }
    for (size_t k = 0; k < values.n && !*found; k++) {
        lp_rational value = {0, 1};
        lp_text_clear(&to);
        if (lp_rational_make(values.values[k], power_of_ten(number->decimals), &value) != LP_RATIONAL_OK) continue;
        LP_TRY(lp_number_print(number, problem->question, value, &to, err));
        reason = try_value(maker, i, value);
        if (reason == LP_REASON_NONE) LP_TRY(write_texts(maker, problem, &reason, err));
        maker->made->candidates[reason]++;
        if (reason == LP_REASON_NONE) {
            LP_TRY(add_pair(maker, problem, nth, lp_text_get(&from), lp_text_get(&to), err));
            *found = true;
        } else {
            LP_TRY(log_rejected(maker, problem, lp_text_get(&from), lp_text_get(&to), reason, err));
        }
        /* Every value of an ambiguous number is refused for the same cause. */
        if (reason == LP_REASON_AMBIGUOUS_LINK) break;
    }
out:
    lp_text_release(&from);
    lp_text_release(&to);
    return status;
}

static void order_numbers(const pair_maker *maker, const lp_problem *problem, int64_t order[LP_MAX_NUMBERS]) {
    size_t n = maker->graph.numbers.n;
    for (size_t i = 0; i < n; i++) order[i] = (int64_t)(maker->options->which == LP_CHANGE_LAST ? n - 1 - i : i);
    if (maker->options->which != LP_CHANGE_ANY) return;
    lp_random_key key = {maker->options->seed, STREAM_NUMBER, (uint32_t)problem->index, 0};
    shuffle(order, 0, n, key);
}

static lp_status make_by_rule(pair_maker *maker, const lp_problem *problem, lp_reason *reason, lp_error *err) {
    int64_t order[LP_MAX_NUMBERS];
    size_t n_found = 0;
    size_t wanted = maker->options->per_problem > 0 ? maker->options->per_problem : 1;
    order_numbers(maker, problem, order);
    for (size_t i = 0; i < maker->graph.numbers.n && n_found < wanted; i++) {
        bool found = false;
        LP_CHECK(try_number(maker, problem, (size_t)order[i], n_found, &found, err));
        n_found += found;
    }
    if (n_found == 0) *reason = LP_REASON_NO_NUMBER;
    return LP_OK;
}

/* ---- problems that come with a variant ---- */

static lp_status make_from_variant(pair_maker *maker, const lp_problem *problem, lp_reason *reason, lp_error *err) {
    lp_status status = LP_OK;
    lp_text from = {0}, to = {0};
    const char *comma = "";
    lp_graph_unchanged(&maker->graph, &maker->changed);
    *reason = lp_graph_take_variant(&maker->graph, problem->variant->question, &maker->changed);
    if (*reason == LP_REASON_NONE) *reason = lp_graph_recompute(&maker->graph, &maker->changed);
    if (*reason == LP_REASON_NONE && !problem->variant->has_answer) *reason = LP_REASON_NO_ANSWER;
    if (*reason == LP_REASON_NONE) *reason = lp_graph_sound(&maker->graph, &maker->changed);
    /* An equal answer makes no pair, but it can be compared with the stated one. */
    if (*reason == LP_REASON_NONE || *reason == LP_REASON_EQUAL_ANSWER) {
        bool agreeing = lp_rational_equal(maker->changed.answer, problem->variant->answer);
        maker->made->n_linked++;
        maker->made->n_agreeing += agreeing;
        if (!agreeing) *reason = LP_REASON_OTHER_ANSWER;
        LP_TRY(lp_rational_print(problem->variant->answer, 0, LP_COMMAS_NO, &from, err));
        LP_TRY(lp_rational_print(maker->changed.answer, 0, LP_COMMAS_NO, &to, err));
    }
    if (*reason == LP_REASON_NONE || *reason == LP_REASON_OTHER_ANSWER)
        LP_TRY(write_texts(maker, problem, reason, err));
    maker->made->candidates[*reason]++;
    if (*reason != LP_REASON_NONE) {
        LP_TRY(log_rejected(maker, problem, from.length ? lp_text_get(&from) : NULL,
                            to.length ? lp_text_get(&to) : NULL, *reason, err));
        goto out;
    }
    lp_text_clear(&from);
    lp_text_clear(&to);
    for (size_t i = 0; i < maker->graph.numbers.n; i++) {
        const lp_number *before = &maker->graph.numbers.items[i], *after = &maker->changed.numbers[i];
        if (lp_rational_equal(before->value, after->value)) continue;
        LP_TRY(lp_text_format(&from, err, "%s%.*s", comma, (int)before->length, problem->question + before->at));
        LP_TRY(lp_text_format(&to, err, "%s%.*s", comma, (int)after->length, problem->variant->question + after->at));
        comma = "; ";
    }
    lp_text_clear(&maker->question);
    LP_TRY(lp_text_put(&maker->question, problem->variant->question, err));
    LP_TRY(add_pair(maker, problem, 0, lp_text_get(&from), lp_text_get(&to), err));
out:
    lp_text_release(&from);
    lp_text_release(&to);
    return status;
}

/* ---- all problems ---- */

/* first[i]: the first problem with the question of problem i, blanks left out; of problems with variants, these count
 * as part of the question where `variants` is true. */
static lp_status find_first(const lp_problem_list *list, bool variants, size_t *first, lp_error *err) {
    lp_status status = LP_OK;
    lp_keyed *keys = NULL;
    LP_TRY(lp_mem_new(&keys, list->n, sizeof *keys, "question hashes", err));
    for (size_t i = 0; i < list->n; i++) {
        const lp_problem_variant *variant = variants ? list->items[i].variant : NULL;
        const char *parts[] = {list->items[i].question, variant ? variant->question : NULL};
        uint64_t hash = 14695981039346656037u; /* FNV-1a */
        for (size_t p = 0; p < 2; p++)
            for (const char *at = parts[p]; at && *at; at++)
                if (*at != ' ' && *at != '\n') hash = (hash ^ (unsigned char)*at) * 1099511628211u;
        keys[i] = (lp_keyed){hash, i};
    }
    qsort(keys, list->n, sizeof *keys, lp_keyed_compare);
    for (size_t i = 0; i < list->n; i++) {
        bool same = i > 0 && keys[i].key == keys[i - 1].key;
        first[keys[i].index] = same ? first[keys[i - 1].index] : keys[i].index;
    }
out:
    lp_mem_free(keys);
    return status;
}

/* The graph of the problem; where its annotations alone do not derive the answer, the equations that the text writes
 * out count as steps, too. */
static lp_status build_graph(pair_maker *maker, const lp_problem *problem, lp_reason *reason, lp_error *err) {
    size_t n_added = 0;
    *reason = lp_graph_build(problem->question, problem->solution, problem->answer, &maker->graph);
    if (*reason != LP_REASON_NO_ANNOTATION && *reason != LP_REASON_ANSWER_NOT_DERIVED &&
        *reason != LP_REASON_UNEXPLAINED_OPERAND)
        return LP_OK;
    lp_text_clear(&maker->annotated);
    LP_CHECK(lp_solution_annotate(problem->solution, &maker->annotated, &n_added, err));
    if (n_added == 0) return LP_OK;
    lp_reason again = lp_graph_build(problem->question, lp_text_get(&maker->annotated), problem->answer, &maker->graph);
    if (again == LP_REASON_NONE || again == LP_REASON_CONDITIONAL) *reason = again;
    return LP_OK;
}

static lp_status make_from_problem(pair_maker *maker, const lp_problem *problem, bool repeated, lp_error *err) {
    lp_reason reason = !problem->has_answer ? LP_REASON_NO_ANSWER : repeated ? LP_REASON_DUPLICATE : LP_REASON_NONE;
    if (reason == LP_REASON_NONE) LP_CHECK(build_graph(maker, problem, &reason, err));
    if (reason == LP_REASON_CONDITIONAL && problem->variant) reason = LP_REASON_NONE;
    if (reason != LP_REASON_NONE)
        LP_CHECK(log_rejected(maker, problem, NULL, NULL, reason, err));
    else if (problem->variant)
        LP_CHECK(make_from_variant(maker, problem, &reason, err));
    else
        LP_CHECK(make_by_rule(maker, problem, &reason, err));
    maker->made->problems[reason]++;
    return LP_OK;
}

static lp_status make_from_problems(pair_maker *maker, lp_error *err) {
    lp_status status = LP_OK;
    lp_problem_list list = {0};
    size_t *first = NULL, *seed = NULL;
    LP_TRY(lp_problems_load(maker->options->path, maker->options->format, &list, err));
    maker->made->n_problems = list.n;
    LP_TRY(lp_mem_new(&first, list.n, sizeof *first, "repeated questions", err));
    LP_TRY(lp_mem_new(&seed, list.n, sizeof *seed, "seed questions", err));
    LP_TRY(find_first(&list, true, first, err));
    LP_TRY(find_first(&list, false, seed, err));
    for (size_t i = 0; i < list.n; i++) {
        maker->source = seed[i];
        LP_TRY(make_from_problem(maker, &list.items[i], first[i] != i, err));
    }
out:
    lp_mem_free(first);
    lp_mem_free(seed);
    lp_problems_release(&list);
    return status;
}

/* ---- selection ---- */

static size_t stratum_of(const lp_make_options *options, int64_t n_steps) {
    if (options->n_strata == 0) return 0;
    for (size_t i = 0; i < options->n_strata; i++)
        if (n_steps >= options->strata[i].min_steps && n_steps <= options->strata[i].max_steps) return i;
    return LP_MAX_STRATA;
}

/* Keeps `count` pairs drawn by the seed, as equally over the strata as they allow, in the order they have. */
static lp_status select_pairs(const lp_make_options *options, lp_made *made, lp_error *err) {
    lp_status status = LP_OK;
    lp_pair_set *set = &made->set;
    lp_keyed *draws = NULL;
    bool *kept = NULL;
    size_t n_strata = options->n_strata > 0 ? options->n_strata : 1, taken[LP_MAX_STRATA] = {0}, available = 0;
    size_t wanted[LP_MAX_STRATA] = {0}, has[LP_MAX_STRATA + 1] = {0};
    LP_TRY(lp_mem_new(&draws, set->n, sizeof *draws, "drawn pairs", err));
    LP_TRY(lp_mem_new(&kept, set->n, sizeof *kept, "kept pairs", err));
    for (size_t i = 0; i < set->n; i++) {
        lp_random_key key = {options->seed, STREAM_SELECT, (uint32_t)set->pairs[i].place, 0};
        draws[i] = (lp_keyed){lp_random_u32(key, 0), i};
        has[stratum_of(options, set->pairs[i].n_steps)]++;
    }
    for (size_t s = 0; s < n_strata; s++) available += has[s];
    made->n_available = available;
    size_t left = options->count > 0 && options->count < available ? options->count : available;
    /* One more for each stratum that has one, until all are given out. */
    for (size_t s = 0; left > 0; s = (s + 1) % n_strata)
        if (wanted[s] < has[s]) {
            wanted[s]++;
            left--;
        }
    qsort(draws, set->n, sizeof *draws, lp_keyed_compare);
    for (size_t i = 0; i < set->n; i++) {
        size_t s = stratum_of(options, set->pairs[draws[i].index].n_steps);
        if (s < n_strata && taken[s] < wanted[s]) {
            taken[s]++;
            kept[draws[i].index] = true;
        }
    }
    size_t n = 0;
    for (size_t i = 0; i < set->n; i++) {
        lp_pair pair = set->pairs[i];
        set->pairs[i] = (lp_pair){0};
        if (kept[i])
            set->pairs[n++] = pair;
        else
            lp_pair_release(&pair);
    }
    set->n = n;
out:
    lp_mem_free(draws);
    lp_mem_free(kept);
    return status;
}

/* Tune or test by problem, so that pairs of one problem stay together. */
static void split_pairs(const lp_make_options *options, lp_pair_set *set) {
    for (size_t i = 0; i < set->n && options->tune_share > 0; i++) {
        lp_random_key key = {options->seed, STREAM_SPLIT, (uint32_t)set->pairs[i].place, 0};
        bool tune = lp_random_u32(key, 0) / 4294967296.0 < options->tune_share;
        set->pairs[i].split = tune ? LP_SPLIT_TUNE : LP_SPLIT_TEST;
    }
}

void lp_made_release(lp_made *made) {
    lp_pairs_release(&made->set);
    *made = (lp_made){0};
}

lp_status lp_count_tokens(const lp_tokenizer *tokenizer, const char *text, size_t *out, lp_error *err) {
    lp_token_list list = {0};
    lp_status status = lp_tokenizer_encode(tokenizer, text, strlen(text), LP_TOKENS_WITH_SPECIAL, &list, err);
    *out = list.n;
    lp_token_list_release(&list);
    return status;
}

lp_status lp_pair_count_tokens(const lp_make_options *options, const char *clean, const char *corrupted,
                               lp_reason *reason, lp_text *out, lp_error *err) {
    for (size_t i = 0; i < options->n_tokenizers; i++) {
        const lp_named_tokenizer *named = &options->tokenizers[i];
        size_t n_clean = 0, n_corrupted = 0;
        LP_CHECK(lp_count_tokens(named->tokenizer, clean, &n_clean, err));
        LP_CHECK(lp_count_tokens(named->tokenizer, corrupted, &n_corrupted, err));
        if (n_clean != n_corrupted && options->tokens == LP_TOKENS_EQUAL) *reason = LP_REASON_TOKEN_COUNT;
        LP_CHECK(lp_text_put(out, i == 0 ? ", \"tokens\": {" : ", ", err));
        LP_CHECK(lp_json_quote(named->name, out, err));
        LP_CHECK(lp_text_format(out, err, ": [%zu, %zu]", n_clean, n_corrupted));
    }
    return options->n_tokenizers > 0 ? lp_text_put(out, "}", err) : LP_OK;
}

lp_status lp_pairs_make(const lp_make_options *options, lp_made *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_made made = {0};
    pair_maker *maker = NULL;
    const char *name = strrchr(options->path, '/');
    name = name ? name + 1 : options->path;
    LP_TRY(lp_mem_new(&maker, 1, sizeof *maker, "pair maker", err));
    maker->options = options;
    maker->made = &made;
    maker->file_name = name;
    if (options->prefix)
        LP_TRY(lp_mem_strdup(&maker->prefix, options->prefix, err));
    else
        LP_TRY(lp_mem_text(&maker->prefix, name, strcspn(name, "."), err));
    LP_TRY(options->format == LP_SOURCE_TEMPLATES ? lp_pairs_make_from_templates(options, &made, err)
                                                  : make_from_problems(maker, err));
    LP_TRY(select_pairs(options, &made, err));
    split_pairs(options, &made.set);
    *out = made;
    made = (lp_made){0};
out:
    lp_made_release(&made);
    if (maker) {
        lp_text_release(&maker->question);
        lp_text_release(&maker->solution);
        lp_text_release(&maker->extra);
        lp_text_release(&maker->annotated);
        lp_mem_free(maker->prefix);
    }
    lp_mem_free(maker);
    return status;
}
