#include "problems/pair_template.h"

#include "base/digest.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/random.h"
#include "problems/pair_write.h"

static const size_t max_file_bytes = (size_t)64 << 20;
static const char *const comparisons[] = {"<", "<=", ">", ">=", "==", "!=", NULL};

void lp_templates_release(lp_template_file *file) {
    cJSON_Delete(file->document);
    lp_mem_free(file->choices);
    lp_mem_free(file->items);
    *file = (lp_template_file){0};
}

/* ---- reading ---- */

static int find_name(const lp_template *item, int n, const char *name, size_t length) {
    for (int i = 0; i < n; i++)
        if (strlen(item->names[i]) == length && memcmp(item->names[i], name, length) == 0) return i;
    return -1;
}

static lp_status read_term(const lp_template *item, int n_names, const char *text, size_t length, const lp_json *place,
                           lp_template_term *out, lp_error *err) {
    lp_rational number = {0, 1};
    *out = (lp_template_term){.name = find_name(item, n_names, text, length)};
    if (out->name >= 0) return LP_OK;
    if (!lp_rational_parse(text, length, &number) || number.d != 1)
        return lp_json_fail(place, err, "a variable, an earlier result or an integer instead of \"%.*s\"",
                            (int)(length < 40 ? length : 40), text);
    out->integer = number.n;
    return LP_OK;
}

static lp_status read_side(const lp_template *item, int n_names, const lp_json *equation, const char *key,
                           lp_template_term *out, lp_error *err) {
    lp_json value;
    lp_status status = lp_json_get(equation, key, &value, err);
    if (status != LP_OK) return status;
    if (lp_json_is_number(&value)) {
        *out = (lp_template_term){.name = -1};
        return lp_json_int(&value, -1000000000, 1000000000, &out->integer, err);
    }
    const char *text = NULL;
    status = lp_json_string(&value, &text, err);
    return status == LP_OK ? read_term(item, n_names, text, strlen(text), &value, out, err) : status;
}

static lp_status read_range(const lp_json *value, int64_t *low, int64_t *high, lp_error *err) {
    lp_json end;
    size_t n = 0;
    LP_CHECK(lp_json_array_size(value, &n, err));
    if (n != 2) return lp_json_fail(value, err, "a range [lowest, highest]");
    LP_CHECK(lp_json_at(value, 0, &end, err));
    LP_CHECK(lp_json_int(&end, -1000000000, 1000000000, low, err));
    LP_CHECK(lp_json_at(value, 1, &end, err));
    return lp_json_int(&end, *low, 1000000000, high, err);
}

static lp_status read_variables(const lp_json *record, lp_template *out, lp_error *err) {
    lp_json variables, value;
    LP_CHECK(lp_json_get(record, "variables", &variables, err));
    if (!lp_json_is_object(&variables)) return lp_json_fail(&variables, err, "an object of ranges");
    for (lp_json_first(&variables, &value); value.node; lp_json_next(&variables, &value)) {
        if (out->n_variables == LP_TEMPLATE_VARIABLES)
            return lp_json_fail(&variables, err, "at most %d variables", LP_TEMPLATE_VARIABLES);
        int i = out->n_variables++;
        out->names[i] = value.node->string;
        LP_CHECK(read_range(&value, &out->low[i], &out->high[i], err));
    }
    return out->n_variables > 0 ? LP_OK : lp_json_fail(&variables, err, "at least one variable");
}

static lp_status read_words(const lp_json *record, const char ***choices, lp_template *out, lp_error *err) {
    lp_json words, value, choice;
    lp_status status = lp_json_find(record, "words", &words, err);
    if (status != LP_OK || !words.node) return status;
    if (!lp_json_is_object(&words)) return lp_json_fail(&words, err, "an object of word lists");
    for (lp_json_first(&words, &value); value.node; lp_json_next(&words, &value)) {
        if (out->n_words == LP_TEMPLATE_WORDS)
            return lp_json_fail(&words, err, "at most %d kinds of words", LP_TEMPLATE_WORDS);
        lp_template_word *word = &out->words[out->n_words++];
        *word = (lp_template_word){.name = value.node->string, .choices = *choices};
        status = lp_json_array_size(&value, &word->n_choices, err);
        if (status == LP_OK && word->n_choices == 0) status = lp_json_fail(&value, err, "at least one word");
        if (status != LP_OK) return status;
        for (lp_json_first(&value, &choice); choice.node; lp_json_next(&value, &choice)) {
            status = lp_json_string(&choice, (*choices)++, err);
            if (status != LP_OK) return status;
        }
    }
    return LP_OK;
}

static lp_status read_equations(const lp_json *record, lp_template *out, lp_error *err) {
    static const char *const keys[] = {"left", "op", "right", "result", NULL};
    static const char *const ops[] = {"+", "-", "*", "/", NULL};
    lp_json equations, value, member;
    LP_CHECK(lp_json_get(record, "equations", &equations, err));
    if (!lp_json_is_array(&equations) || !equations.node->child)
        return lp_json_fail(&equations, err, "a list of equations");
    for (lp_json_first(&equations, &value); value.node; lp_json_next(&equations, &value)) {
        int i = out->n_equations, n_names = out->n_variables + i, op = 0;
        if (i == LP_TEMPLATE_EQUATIONS)
            return lp_json_fail(&equations, err, "at most %d equations", LP_TEMPLATE_EQUATIONS);
        LP_CHECK(lp_json_only(&value, keys, err));
        LP_CHECK(read_side(out, n_names, &value, "left", &out->left[i], err));
        LP_CHECK(read_side(out, n_names, &value, "right", &out->right[i], err));
        LP_CHECK(lp_json_get_choice(&value, "op", ops, &op, err));
        out->op[i] = ops[op][0];
        LP_CHECK(lp_json_get(&value, "result", &member, err));
        LP_CHECK(lp_json_string(&member, &out->names[n_names], err));
        if (find_name(out, n_names, out->names[n_names], strlen(out->names[n_names])) >= 0)
            return lp_json_fail(&member, err, "a name that is not in use yet");
        out->n_equations++;
    }
    return LP_OK;
}

static lp_status read_constraints(const lp_json *record, lp_template *out, lp_error *err) {
    lp_json constraints, value;
    const char *text = NULL;
    LP_CHECK(lp_json_find(record, "constraints", &constraints, err));
    if (!constraints.node) return LP_OK;
    if (!lp_json_is_array(&constraints)) return lp_json_fail(&constraints, err, "a list of comparisons");
    for (lp_json_first(&constraints, &value); value.node; lp_json_next(&constraints, &value)) {
        if (out->n_constraints == LP_TEMPLATE_CONSTRAINTS)
            return lp_json_fail(&constraints, err, "at most %d constraints", LP_TEMPLATE_CONSTRAINTS);
        LP_CHECK(lp_json_string(&value, &text, err));
        size_t left = strcspn(text, " "), gap = strspn(text + left, " ");
        const char *op = text + left + gap;
        size_t op_length = strcspn(op, " ");
        const char *right = op + op_length + strspn(op + op_length, " ");
        int n_names = out->n_variables + out->n_equations, comparison = 0;
        while (comparisons[comparison] &&
               (strlen(comparisons[comparison]) != op_length || memcmp(comparisons[comparison], op, op_length) != 0))
            comparison++;
        if (!comparisons[comparison]) return lp_json_fail(&value, err, "\"LEFT OP RIGHT\" with one of < <= > >= == !=");
        size_t i = out->n_constraints++;
        out->constraints[i].comparison = comparison;
        LP_CHECK(read_term(out, n_names, text, left, &value, &out->constraints[i].left, err));
        LP_CHECK(read_term(out, n_names, right, strlen(right), &value, &out->constraints[i].right, err));
    }
    return LP_OK;
}

/* The word or variable of a {name} in the text, which starts at `open`; false when there is none. */
typedef struct {
    int variable; /* -1: a word */
    int word;
    size_t length; /* with braces */
} placeholder;

static bool find_placeholder(const lp_template *item, const char *open, placeholder *out) {
    size_t length = strcspn(open + 1, "}");
    *out = (placeholder){
        .variable = find_name(item, item->n_variables, open + 1, length), .word = -1, .length = length + 2};
    for (size_t w = 0; w < item->n_words; w++)
        if (strlen(item->words[w].name) == length && memcmp(item->words[w].name, open + 1, length) == 0)
            out->word = (int)w;
    return open[1 + length] == '}' && (out->variable >= 0 || out->word >= 0);
}

static lp_status check_text(const lp_json *value, const lp_template *item, lp_error *err) {
    for (const char *open = strchr(item->text, '{'); open; open = strchr(open + 1, '{')) {
        placeholder found;
        if (!find_placeholder(item, open, &found))
            return lp_json_fail(value, err, "only {names} of variables and words in the text (not %.20s)", open);
    }
    return LP_OK;
}

static lp_status read_template(const lp_json *record, const char ***choices, lp_template *out, lp_error *err) {
    static const char *const keys[] = {"id",          "steps",     "text",   "words", "variables",
                                       "constraints", "equations", "answer", NULL};
    lp_json value;
    const char *answer = NULL;
    int64_t steps = 0;
    LP_CHECK(lp_json_only(record, keys, err));
    LP_CHECK(lp_json_get_string(record, "id", &out->id, err));
    LP_CHECK(read_variables(record, out, err));
    LP_CHECK(read_words(record, choices, out, err));
    LP_CHECK(read_equations(record, out, err));
    LP_CHECK(read_constraints(record, out, err));
    LP_CHECK(lp_json_get(record, "text", &value, err));
    LP_CHECK(lp_json_string(&value, &out->text, err));
    LP_CHECK(check_text(&value, out, err));
    LP_CHECK(lp_json_opt_int(record, "steps", out->n_equations, out->n_equations, &steps, err));
    LP_CHECK(lp_json_get(record, "answer", &value, err));
    LP_CHECK(lp_json_string(&value, &answer, err));
    out->answer = find_name(out, out->n_variables + out->n_equations, answer, strlen(answer));
    if (out->answer < 0) return lp_json_fail(&value, err, "the name of a result");
    return LP_OK;
}

/* How many words all templates have together. */
static size_t count_choices(const lp_json *templates) {
    size_t n = 0;
    const cJSON *item = NULL, *word = NULL;
    cJSON_ArrayForEach(item, templates->node) {
        cJSON_ArrayForEach(word, cJSON_GetObjectItemCaseSensitive(item, "words")) n += (size_t)cJSON_GetArraySize(word);
    }
    return n;
}

static lp_status read_file(const lp_json *root, lp_template_file *out, lp_error *err) {
    static const char *const keys[] = {"format",           "version",   "about", "result_range",
                                       "held_out_modulus", "templates", NULL};
    lp_json value, templates;
    size_t n = 0;
    int64_t number = 0;
    LP_CHECK(lp_json_head(root, "latentpatch-templates", 1, err));
    LP_CHECK(lp_json_only(root, keys, err));
    LP_CHECK(lp_json_get(root, "result_range", &value, err));
    LP_CHECK(read_range(&value, &out->result_low, &out->result_high, err));
    LP_CHECK(lp_json_find(root, "held_out_modulus", &value, err));
    if (value.node) LP_CHECK(lp_json_int(&value, 2, 1000000, &number, err));
    out->held_out_modulus = value.node ? (uint32_t)number : 0;
    LP_CHECK(lp_json_get(root, "templates", &templates, err));
    LP_CHECK(lp_json_array_size(&templates, &n, err));
    if (n == 0) return lp_json_fail(&templates, err, "at least one template");
    LP_CHECK(lp_mem_new(&out->items, n, sizeof *out->items, "templates", err));
    LP_CHECK(lp_mem_new(&out->choices, count_choices(&templates), sizeof *out->choices, "words of templates", err));
    const char **choices = out->choices;
    for (lp_json_first(&templates, &value); value.node; lp_json_next(&templates, &value))
        LP_CHECK(read_template(&value, &choices, &out->items[out->n++], err));
    return LP_OK;
}

lp_status lp_templates_parse(const char *text, size_t size, const char *name, lp_template_file *out, lp_error *err) {
    lp_template_file file = {0};
    lp_json root;
    lp_status status = lp_json_parse(text, size, name, &file.document, &root, err);
    if (status == LP_OK) status = read_file(&root, &file, err);
    if (status == LP_OK)
        *out = file;
    else
        lp_templates_release(&file);
    return status;
}

lp_status lp_templates_load(const char *path, lp_template_file *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_file_read(path, max_file_bytes, &text, err);
    if (status == LP_OK) status = lp_templates_parse(lp_text_get(&text), text.length, path, out, err);
    lp_text_release(&text);
    return status;
}

/* ---- one combination ---- */

static lp_rational term_value(const lp_template_term *term, const int64_t *values) {
    return lp_rational_whole(term->name >= 0 ? values[term->name] : term->integer);
}

static bool compare(int comparison, int order) {
    const bool results[] = {order<0, order <= 0, order> 0, order >= 0, order == 0, order != 0};
    return results[comparison];
}

bool lp_template_solve(const lp_template_file *file, const lp_template *item, int64_t values[LP_TEMPLATE_NAMES]) {
    for (int i = 0; i < item->n_equations; i++) {
        lp_rational left = term_value(&item->left[i], values), right = term_value(&item->right[i], values),
                    found = {0, 1};
        lp_rational_result result = item->op[i] == '+'   ? lp_rational_add(left, right, &found)
                                    : item->op[i] == '-' ? lp_rational_subtract(left, right, &found)
                                    : item->op[i] == '*' ? lp_rational_multiply(left, right, &found)
                                                         : lp_rational_divide(left, right, &found);
        if (result != LP_RATIONAL_OK || found.d != 1 || found.n < file->result_low || found.n > file->result_high)
            return false;
        values[item->n_variables + i] = found.n;
    }
    for (size_t i = 0; i < item->n_constraints; i++)
        if (!compare(item->constraints[i].comparison,
                     lp_rational_compare(term_value(&item->constraints[i].left, values),
                                         term_value(&item->constraints[i].right, values))))
            return false;
    return true;
}

lp_status lp_template_held_out(const lp_template_file *file, const lp_template *item, const int64_t *values, bool *out,
                               lp_error *err) {
    lp_status status = LP_OK;
    lp_text key = {0};
    unsigned char digest[LP_SHA256_BYTES];
    *out = false;
    if (file->held_out_modulus == 0) return LP_OK;
    LP_TRY(lp_text_format(&key, err, "%s", item->id));
    for (int i = 0; i < item->n_variables; i++)
        LP_TRY(lp_text_format(&key, err, "|%s=%lld", item->names[i], (long long)values[i]));
    LP_TRY(lp_sha256_of(key.data, key.length, digest, err));
    uint32_t head = (uint32_t)digest[0] << 24 | (uint32_t)digest[1] << 16 | (uint32_t)digest[2] << 8 | digest[3];
    *out = head % file->held_out_modulus == 0;
out:
    lp_text_release(&key);
    return status;
}

lp_status lp_template_question(const lp_template *item, const int64_t *values, const uint32_t *choice, lp_text *out,
                               lp_error *err) {
    const char *at = item->text;
    for (const char *open = strchr(at, '{'); open; open = strchr(at, '{')) {
        placeholder found;
        LP_ASSERT(find_placeholder(item, open, &found));
        LP_CHECK(lp_text_add(out, at, (size_t)(open - at), err));
        if (found.variable >= 0) {
            LP_CHECK(lp_text_format(out, err, "%lld", (long long)values[found.variable]));
        } else {
            const char *word = item->words[found.word].choices[choice[found.word]];
            LP_CHECK(lp_text_put(out, word, err));
        }
        at = open + found.length;
    }
    return lp_text_put(out, at, err);
}

lp_status lp_template_solution(const lp_template *item, const int64_t *values, lp_text *out, lp_error *err) {
    for (int i = 0; i < item->n_equations; i++)
        LP_CHECK(lp_text_format(out, err, "<<%lld%c%lld=%lld>>\n", (long long)term_value(&item->left[i], values).n,
                                item->op[i], (long long)term_value(&item->right[i], values).n,
                                (long long)values[item->n_variables + i]));
    return lp_text_format(out, err, "#### %lld", (long long)values[item->answer]);
}

/* ---- pairs ---- */

enum { STREAM_VALUES = 0x7100, STREAM_WORDS, STREAM_VARIABLE, STREAM_NEW_VALUE };
enum { MAX_TRIES = 400 };

typedef struct {
    const lp_make_options *options;
    lp_template_file file;
    lp_made *made;
    size_t capacity;
    const char *name; /* of the file, without folders */
} template_maker;

static lp_status on_side(const template_maker *maker, const lp_template *item, const int64_t *values, bool *out,
                         lp_error *err) {
    bool held_out = false;
    lp_status status = lp_template_held_out(&maker->file, item, values, &held_out, err);
    *out = maker->options->side == LP_SIDE_ALL || maker->file.held_out_modulus == 0 ||
           held_out == (maker->options->side == LP_SIDE_HELD_OUT);
    return status;
}

static int64_t draw_value(const lp_template *item, int variable, lp_random_key key, uint32_t index) {
    uint32_t width = (uint32_t)(item->high[variable] - item->low[variable] + 1);
    return item->low[variable] + (int64_t)lp_random_below(key, index, width);
}

/* The variable stands in the text exactly once. */
static bool stands_once(const lp_template *item, int variable) {
    int n = 0;
    for (const char *open = strchr(item->text, '{'); open; open = strchr(open + 1, '{')) {
        placeholder found;
        n += find_placeholder(item, open, &found) && found.variable == variable;
    }
    return n == 1;
}

typedef struct {
    int64_t clean[LP_TEMPLATE_NAMES], corrupted[LP_TEMPLATE_NAMES];
    uint32_t words[LP_TEMPLATE_WORDS];
    int variable;
} template_draw;

/* The draw with this number, *reason NONE when it makes a pair. */
static lp_status draw_pair(const template_maker *maker, const lp_template *item, uint32_t template_index,
                           uint32_t number, template_draw *out, lp_reason *reason, lp_error *err) {
    uint64_t seed = maker->options->seed;
    bool good = false;
    *reason = LP_REASON_NOT_WHOLE;
    lp_random_key key = {seed, STREAM_VALUES, template_index, number};
    for (int i = 0; i < item->n_variables; i++) out->clean[i] = draw_value(item, i, key, (uint32_t)i);
    if (!lp_template_solve(&maker->file, item, out->clean)) return LP_OK;
    *reason = LP_REASON_NO_ROOM;
    LP_CHECK(on_side(maker, item, out->clean, &good, err));
    if (!good) return LP_OK;
    key.stream = STREAM_VARIABLE;
    out->variable = (int)lp_random_below(key, 0, (uint32_t)item->n_variables);
    *reason = LP_REASON_REPEATED_VALUE;
    if (!stands_once(item, out->variable)) return LP_OK;
    memcpy(out->corrupted, out->clean, sizeof out->clean);
    key.stream = STREAM_NEW_VALUE;
    out->corrupted[out->variable] = draw_value(item, out->variable, key, 0);
    *reason = LP_REASON_NOT_WHOLE;
    if (!lp_template_solve(&maker->file, item, out->corrupted)) return LP_OK;
    *reason = LP_REASON_EQUAL_ANSWER;
    if (out->clean[item->answer] == out->corrupted[item->answer]) return LP_OK;
    *reason = LP_REASON_NO_ROOM;
    LP_CHECK(on_side(maker, item, out->corrupted, &good, err));
    if (!good) return LP_OK;
    key.stream = STREAM_WORDS;
    for (size_t w = 0; w < item->n_words; w++)
        out->words[w] = lp_random_below(key, (uint32_t)w, (uint32_t)item->words[w].n_choices);
    *reason = LP_REASON_NONE;
    return LP_OK;
}

static lp_status take(lp_text *text, char **out, lp_error *err) {
    lp_status status = lp_mem_text(out, lp_text_get(text), text->length, err);
    lp_text_clear(text);
    return status;
}

/* Adds the drawn pair unless its clean question is there already or its token counts differ. */
static lp_status add_drawn(template_maker *maker, const lp_template *item, const template_draw *draw, lp_reason *reason,
                           lp_error *err) {
    const lp_make_options *options = maker->options;
    lp_pair_set *set = &maker->made->set;
    lp_status status = LP_OK;
    lp_text text = {0}, extra = {0};
    lp_pair pair = {.n_steps = item->n_equations, .place = set->n};
    LP_TRY(lp_template_question(item, draw->clean, draw->words, &text, err));
    LP_TRY(take(&text, &pair.clean.question, err));
    for (size_t i = 0; i < set->n && *reason == LP_REASON_NONE; i++)
        if (strcmp(set->pairs[i].clean.question, pair.clean.question) == 0) *reason = LP_REASON_DUPLICATE;
    LP_TRY(lp_template_question(item, draw->corrupted, draw->words, &text, err));
    LP_TRY(take(&text, &pair.corrupted.question, err));
    LP_TRY(lp_json_format(&extra, err, ", \"template\": %s", item->id));
    LP_TRY(lp_pair_count_tokens(maker->options, pair.clean.question, pair.corrupted.question, reason, &extra, err));
    if (*reason != LP_REASON_NONE) goto out;
    LP_TRY(lp_template_solution(item, draw->clean, &text, err));
    LP_TRY(take(&text, &pair.clean.solution, err));
    LP_TRY(lp_template_solution(item, draw->corrupted, &text, err));
    LP_TRY(take(&text, &pair.corrupted.solution, err));
    pair.clean.answer = (double)draw->clean[item->answer];
    pair.corrupted.answer = (double)draw->corrupted[item->answer];
    LP_TRY(lp_mem_format(&pair.change_from, err, "%lld", (long long)draw->clean[draw->variable]));
    LP_TRY(lp_mem_format(&pair.change_to, err, "%lld", (long long)draw->corrupted[draw->variable]));
    LP_TRY(lp_mem_format(&pair.id, err, "%s-%05zu", options->prefix ? options->prefix : item->id, set->n));
    LP_TRY(lp_mem_format(&pair.source, err, "%s#%s", maker->name, item->id)); /* what statistics take as the unit */
    LP_TRY(take(&extra, &pair.extra, err));
    LP_TRY(lp_mem_grow(&set->pairs, &maker->capacity, set->n + 1, sizeof *set->pairs, "pairs", err));
    set->pairs[set->n++] = pair;
    pair = (lp_pair){0};
out:
    lp_pair_release(&pair);
    lp_text_release(&text);
    lp_text_release(&extra);
    return status;
}

lp_status lp_pairs_make_from_templates(const lp_make_options *options, lp_made *out, lp_error *err) {
    lp_status status = LP_OK;
    const char *slash = strrchr(options->path, '/');
    template_maker maker = {.options = options, .made = out, .name = slash ? slash + 1 : options->path};
    LP_TRY(lp_templates_load(options->path, &maker.file, err));
    out->n_problems = maker.file.n;
    /* Four times its share from each template, so that strata of few templates can be filled. */
    size_t wanted = options->count > 0 ? 4 * (options->count / maker.file.n + 1) : 100;
    for (size_t t = 0; t < maker.file.n; t++) {
        size_t made = 0;
        for (size_t number = 0; number < MAX_TRIES * wanted && made < wanted; number++) {
            template_draw draw;
            lp_reason reason = LP_REASON_NONE;
            LP_TRY(draw_pair(&maker, &maker.file.items[t], (uint32_t)t, (uint32_t)number, &draw, &reason, err));
            if (reason == LP_REASON_NONE) LP_TRY(add_drawn(&maker, &maker.file.items[t], &draw, &reason, err));
            out->candidates[reason]++;
            made += reason == LP_REASON_NONE;
        }
        out->problems[made > 0 ? LP_REASON_NONE : LP_REASON_NO_NUMBER]++;
    }
out:
    lp_templates_release(&maker.file);
    return status;
}
