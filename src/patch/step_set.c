/* Step sets, layer sets and position sets: the little language of the job file. */
#include "base/memory.h"
#include "base/number.h"
#include "patch/expand.h"

/* "a" or "a-b" with min <= a <= b <= max; the whole text must be used. */
static bool parse_range(const char *text, int32_t min, int32_t max, int32_t *first, int32_t *last) {
    int64_t a = 0;
    if (!lp_take_integer(&text, max, &a)) return false;
    int64_t b = a;
    if (*text == '-') {
        text++;
        if (!lp_take_integer(&text, max, &b)) return false;
    }
    if (*text || a < min || a > b) return false;
    *first = (int32_t)a;
    *last = (int32_t)b;
    return true;
}

static lp_status add_steps(lp_step_set **sets, size_t *n, size_t *capacity, uint64_t mask, lp_error *err,
                           const char *format, ...) __attribute__((format(printf, 6, 7)));
static lp_status add_steps(lp_step_set **sets, size_t *n, size_t *capacity, uint64_t mask, lp_error *err,
                           const char *format, ...) {
    LP_CHECK(lp_mem_grow(sets, capacity, *n + 1, sizeof **sets, "step sets", err));
    lp_step_set *set = &(*sets)[(*n)++];
    va_list args;
    va_start(args, format);
    vsnprintf(set->words, sizeof set->words, format, args);
    va_end(args);
    set->mask = mask;
    return LP_OK;
}

static uint64_t first_bits(int32_t n) {
    return n >= 64 ? UINT64_MAX : (UINT64_C(1) << n) - 1;
}

/* "0,1,4,5" -> mask; false on anything else, on repeats and on steps outside the range. */
static bool parse_list(const char *text, int32_t n_steps, uint64_t *mask) {
    uint64_t found = 0;
    const char *p = text;
    for (;;) {
        int64_t step = 0;
        if (!lp_take_integer(&p, n_steps - 1, &step) || (found >> step & 1)) return false;
        found |= UINT64_C(1) << step;
        if (*p == '\0') break;
        if (*p++ != ',') return false;
    }
    *mask = found;
    return true;
}

static void list_words(uint64_t mask, char out[LP_WORDS]) {
    size_t used = (size_t)snprintf(out, LP_WORDS, "set:");
    for (int32_t t = 0; t < 64 && used < LP_WORDS; t++)
        if (mask >> t & 1) used += (size_t)snprintf(out + used, LP_WORDS - used, used > 4 ? ",%d" : "%d", t);
}

lp_status lp_step_sets_parse(const char *text, int32_t n_steps, const char *where, lp_step_set **sets, size_t *n,
                             size_t *capacity, lp_error *err) {
    LP_ASSERT(n_steps >= 0 && n_steps <= LP_MAX_STEPS);
    if (n_steps == 0)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: expected a protocol with thought steps, found protocol.steps 0 (the phases of the run are "
                       "prompt and answer)",
                       where);
    const char *colon = strchr(text, ':');
    size_t word = colon ? (size_t)(colon - text) : strlen(text);
    const char *argument = colon ? colon + 1 : "";
    int32_t a = 0, b = 0;
#define IS(name) (word == sizeof(name) - 1 && strncmp(text, name, word) == 0)
    if (IS("all") && !colon) {
        LP_CHECK(add_steps(sets, n, capacity, first_bits(n_steps), err, "all"));
    } else if (IS("first") && parse_range(argument, 1, n_steps, &a, &b)) {
        for (int32_t k = a; k <= b; k++) LP_CHECK(add_steps(sets, n, capacity, first_bits(k), err, "first:%d", k));
    } else if (IS("last") && parse_range(argument, 1, n_steps, &a, &b)) {
        for (int32_t k = a; k <= b; k++)
            LP_CHECK(add_steps(sets, n, capacity, first_bits(k) << (n_steps - k), err, "last:%d", k));
    } else if (IS("single") && parse_range(argument, 0, n_steps - 1, &a, &b)) {
        for (int32_t k = a; k <= b; k++) LP_CHECK(add_steps(sets, n, capacity, UINT64_C(1) << k, err, "single:%d", k));
    } else if (IS("window") && parse_range(argument, 1, n_steps, &a, &b)) {
        for (int32_t w = a; w <= b; w++)
            for (int32_t k = 0; k + w <= n_steps; k++)
                LP_CHECK(add_steps(sets, n, capacity, first_bits(w) << k, err, "window:%d@%d", w, k));
    } else if (IS("subset") && strcmp(argument, "all") == 0) {
        if (n_steps > 12)
            return lp_fail(err, LP_ERR_VALUE, "%s: subset:all of %d steps is %llu sets: at most 12 steps", where,
                           n_steps, (unsigned long long)first_bits(n_steps));
        for (uint64_t mask = 1; mask <= first_bits(n_steps); mask++) {
            char words[LP_WORDS];
            list_words(mask, words);
            LP_CHECK(add_steps(sets, n, capacity, mask, err, "%s", words));
        }
    } else if (IS("set") && colon) {
        uint64_t mask = 0;
        if (!parse_list(argument, n_steps, &mask)) goto refuse;
        char words[LP_WORDS];
        list_words(mask, words);
        LP_CHECK(add_steps(sets, n, capacity, mask, err, "%s", words));
    } else if (IS("complement") && colon && strncmp(argument, "complement", 10) != 0) {
        size_t before = *n;
        LP_CHECK(lp_step_sets_parse(argument, n_steps, where, sets, n, capacity, err));
        size_t kept = before;
        for (size_t i = before; i < *n; i++) {
            lp_step_set set = {.mask = first_bits(n_steps) & ~(*sets)[i].mask};
            snprintf(set.words, sizeof set.words, "complement:%.240s", (*sets)[i].words);
            if (set.mask) (*sets)[kept++] = set;
        }
        *n = kept;
        if (kept == before) return lp_fail(err, LP_ERR_VALUE, "%s: \"%s\" leaves no step", where, text);
    } else {
        goto refuse;
    }
#undef IS
    return LP_OK;
refuse:
    return lp_fail(
        err, LP_ERR_VALUE,
        "%s: expected a step set within %d steps (first:N, last:N, single:I, window:W with a number or a range "
        "a-b; all; set:i,j; subset:all; complement:...), found \"%.60s\"",
        where, n_steps, text);
}

static lp_status add_layers(lp_layer_set **sets, size_t *n, size_t *capacity, int32_t first, int32_t last,
                            lp_error *err) {
    LP_CHECK(lp_mem_grow(sets, capacity, *n + 1, sizeof **sets, "layer sets", err));
    lp_layer_set *set = &(*sets)[(*n)++];
    set->n = 0;
    for (int32_t l = first; l <= last; l++) set->layers[set->n++] = (int16_t)l;
    if (first == last)
        snprintf(set->words, sizeof set->words, "%d", first);
    else
        snprintf(set->words, sizeof set->words, "%d-%d", first, last);
    return LP_OK;
}

/* Depth in per cent to a layer, rounded: 25 % of 12 is 3, 90 % of 12 is 11, 90 % of 16 is 14. */
static int32_t layer_at(int32_t n_layers, int32_t percent) {
    int32_t layer = (n_layers * percent + 50) / 100;
    return layer < n_layers ? layer : n_layers - 1;
}

/* Numbers below n: one by one, some neighbours together, all together; *known: false where the text is none of these.
 */
static lp_status add_numbers(const char *text, int32_t count, lp_layer_set **sets, size_t *n, size_t *capacity,
                             bool *known, lp_error *err) {
    int32_t a = 0, b = 0;
    *known = true;
    if (strcmp(text, "all") == 0 || parse_range(text, 0, count - 1, &a, &b)) {
        if (strcmp(text, "all") == 0) b = count - 1;
        for (int32_t l = a; l <= b; l++) LP_CHECK(add_layers(sets, n, capacity, l, l, err));
    } else if (strcmp(text, "together:all") == 0) {
        LP_CHECK(add_layers(sets, n, capacity, 0, count - 1, err));
    } else if (strncmp(text, "together:", 9) == 0 && parse_range(text + 9, 0, count - 1, &a, &b)) {
        LP_CHECK(add_layers(sets, n, capacity, a, b, err));
    } else if (strncmp(text, "window:", 7) == 0 && parse_range(text + 7, 1, count, &a, &b)) {
        for (int32_t w = a; w <= b; w++)
            for (int32_t l = 0; l + w <= count; l++) LP_CHECK(add_layers(sets, n, capacity, l, l + w - 1, err));
    } else {
        *known = false;
    }
    return LP_OK;
}

lp_status lp_layer_sets_parse(const char *text, int32_t n_layers, const char *where, lp_layer_set **sets, size_t *n,
                              size_t *capacity, lp_error *err) {
    LP_ASSERT(n_layers >= 1 && n_layers <= LP_MAX_LAYERS);
    bool known = false;
    lp_status status = add_numbers(text, n_layers, sets, n, capacity, &known, err);
    if (status != LP_OK || known) return status;
    if (strcmp(text, "early") == 0 || strcmp(text, "middle") == 0 || strcmp(text, "late") == 0) {
        int32_t l = layer_at(n_layers, text[0] == 'e' ? 25 : text[0] == 'm' ? 50 : 90);
        return add_layers(sets, n, capacity, l, l, err);
    }
    return lp_fail(
        err, LP_ERR_VALUE,
        "%s: expected layers within 0-%d (a number, a range a-b, all, early, middle, late, window:W, together:all, "
        "together:a-b), found \"%.60s\"",
        where, n_layers - 1, text);
}

lp_status lp_head_sets_parse(const char *text, int32_t n_heads, const char *where, lp_layer_set **sets, size_t *n,
                             size_t *capacity, lp_error *err) {
    bool known = false;
    if (n_heads > LP_MAX_LAYERS)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: expected a model with at most %d heads, found %d", where,
                       LP_MAX_LAYERS, n_heads);
    lp_status status = add_numbers(text, n_heads, sets, n, capacity, &known, err);
    if (status != LP_OK || known) return status;
    return lp_fail(err, LP_ERR_VALUE,
                   "%s: expected heads within 0-%d (a number, a range a-b, all, window:W, together:all, together:a-b), "
                   "found \"%.60s\"",
                   where, n_heads - 1, text);
}

bool lp_position_first(const lp_position_set *set, int32_t *index) {
    *index = set->phase == LP_PHASE_THOUGHT ? __builtin_ctzll(set->mask) : set->all ? LP_INDEX_ALL : set->first;
    return true;
}

bool lp_position_next(const lp_position_set *set, int32_t *index) {
    if (set->phase != LP_PHASE_THOUGHT) return !set->all && (*index)++ < set->last;
    do ++*index;
    while (*index < LP_MAX_STEPS && !(set->mask >> *index & 1));
    return *index < LP_MAX_STEPS;
}

/* A number with a sign, where one is allowed; false on anything else. */
static bool take_index(const char **text, bool is_signed, int32_t *out) {
    int64_t value = 0;
    bool negative = is_signed && **text == '-';
    if (negative) ++*text;
    if (!lp_take_integer(text, 65536, &value) || (negative && value == 0)) return false;
    *out = (int32_t)(negative ? -value : value);
    return true;
}

lp_status lp_position_sets_parse(const char *text, lp_phase phase, const char *where, lp_position_set **sets, size_t *n,
                                 size_t *capacity, lp_error *err) {
    lp_position_set set = {.phase = phase};
    const char *rest = text;
    bool together = strncmp(text, "together:", 9) == 0, good = false;
    LP_ASSERT(phase != LP_PHASE_THOUGHT);
    if (strcmp(text, "all") == 0) {
        set.all = good = true;
    } else {
        if (together) rest += 9;
        good = take_index(&rest, phase == LP_PHASE_PROMPT, &set.first);
        set.last = set.first;
        if (good && together) good = *rest++ == '-' && take_index(&rest, phase == LP_PHASE_PROMPT, &set.last);
        good = good && *rest == '\0' && set.first <= set.last && (set.first < 0) == (set.last < 0);
    }
    if (!good)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: expected positions of the %s (a number, all, together:a-b%s), found \"%.60s\"", where,
                       lp_phase_names()[phase], phase == LP_PHASE_PROMPT ? "; negative numbers count from the end" : "",
                       text);
    LP_CHECK(lp_mem_grow(sets, capacity, *n + 1, sizeof **sets, "position sets", err));
    snprintf(set.words, sizeof set.words, "%s:%.200s", lp_phase_names()[phase], together ? text + 9 : text);
    (*sets)[(*n)++] = set;
    return LP_OK;
}
