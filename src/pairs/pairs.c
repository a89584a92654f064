#include "pairs/pairs.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "pairs/classify.h"

#include <math.h>

static const size_t max_file_bytes = (size_t)1 << 30;
/* Whole numbers up to here are doubles, with room for a sum. */
static const double max_answer = 1e15;
static const double max_count = 9007199254740992.0;

static bool is_blank(const char *text) {
    return text[strspn(text, " \t\n\r\f\v")] == 0;
}

static lp_status read_id(const lp_json *value, char **out, lp_error *err) {
    if (lp_json_is_number(value)) {
        int64_t number = 0;
        LP_CHECK(lp_json_int(value, 0, (int64_t)max_count, &number, err));
        char text[32];
        snprintf(text, sizeof text, "%lld", (long long)number);
        return lp_mem_strdup(out, text, err);
    }
    const char *text = "";
    if (lp_json_is_string(value)) text = value->node->valuestring;
    bool control = false, visible = false;
    for (const char *p = text; *p; p++) {
        unsigned char c = (unsigned char)*p;
        control = control || c < 0x20 || c == 0x7f;
        visible = visible || c > 0x20;
    }
    if (control || !visible)
        return lp_json_fail(value, err, "an integer from 0, or a text without control characters, as id");
    return lp_mem_strdup(out, text, err);
}

static lp_status read_answer(const lp_json *side, lp_pairs_mode mode, double *out, lp_error *err) {
    lp_json value;
    LP_CHECK(lp_json_find(side, "answer", &value, err));
    if (!value.node && mode == LP_PAIRS_AUDIT) {
        *out = NAN;
        return LP_OK;
    }
    if (!value.node) return lp_json_fail(&value, err, "a number as answer");
    return lp_json_number(&value, -max_answer, max_answer, out, err);
}

static lp_status read_question(const lp_json *side, lp_pairs_mode mode, char **out, lp_error *err) {
    lp_json value;
    const char *text = NULL;
    LP_CHECK(lp_json_get(side, "question", &value, err));
    LP_CHECK(lp_json_string(&value, &text, err));
    if (mode == LP_PAIRS_STRICT && is_blank(text)) return lp_json_fail(&value, err, "a question that is not empty");
    return lp_mem_strdup(out, text, err);
}

/* *out = a copy of the member's text, or NULL when it is absent. */
static lp_status read_optional_text(const lp_json *object, const char *key, char **out, lp_error *err) {
    const char *text = NULL;
    LP_CHECK(lp_json_opt_string(object, key, &text, err));
    return text ? lp_mem_strdup(out, text, err) : LP_OK;
}

/* lp_json_only, and no null: in our own format an absent key is the one way to say nothing. */
static lp_status only_keys(const lp_json *object, const char *const *keys, lp_error *err) {
    LP_CHECK(lp_json_only(object, keys, err));
    lp_json member;
    for (lp_json_first(object, &member); member.node; lp_json_next(object, &member))
        if (cJSON_IsNull(member.node)) return lp_json_fail(&member, err, "a value (or leave the key out)");
    return LP_OK;
}

static void release_side(lp_pair_side *side) {
    lp_mem_free(side->question);
    lp_mem_free(side->solution);
}

void lp_pair_release(lp_pair *pair) {
    lp_mem_free(pair->id);
    lp_mem_free(pair->source);
    lp_mem_free(pair->template);
    lp_mem_free(pair->change_from);
    lp_mem_free(pair->change_to);
    lp_mem_free(pair->extra);
    for (size_t i = 0; i < pair->n_graph; i++) {
        lp_mem_free(pair->graph[i].equation);
        lp_mem_free(pair->graph[i].clean);
        lp_mem_free(pair->graph[i].corrupted);
    }
    lp_mem_free(pair->graph);
    release_side(&pair->clean);
    release_side(&pair->corrupted);
}

void lp_pairs_release(lp_pair_set *set) {
    for (size_t i = 0; i < set->n; i++) lp_pair_release(&set->pairs[i]);
    lp_mem_free(set->pairs);
    *set = (lp_pair_set){0};
}

/* ---- our own format ---- */

static lp_status read_own_side(const lp_json *pair, const char *key, lp_pairs_mode mode, lp_pair_side *out,
                               lp_error *err) {
    static const char *const keys[] = {"question", "answer", "solution", NULL};
    lp_json side;
    LP_CHECK(lp_json_get(pair, key, &side, err));
    LP_CHECK(only_keys(&side, keys, err));
    LP_CHECK(read_question(&side, mode, &out->question, err));
    LP_CHECK(read_answer(&side, mode, &out->answer, err));
    return read_optional_text(&side, "solution", &out->solution, err);
}

/* How many tokens a tokenizer gives the two questions: {"name": [clean, corrupted]}. */
static lp_status check_tokens(const lp_json *pair, lp_error *err) {
    lp_json tokens, counts, count;
    LP_CHECK(lp_json_find(pair, "tokens", &tokens, err));
    if (!tokens.node) return LP_OK;
    if (!lp_json_is_object(&tokens)) return lp_json_fail(&tokens, err, "an object");
    for (lp_json_first(&tokens, &counts); counts.node; lp_json_next(&tokens, &counts)) {
        size_t n = 0;
        int64_t number = 0;
        LP_CHECK(lp_json_array_size(&counts, &n, err));
        if (n != 2) return lp_json_fail(&counts, err, "two counts (clean, corrupted)");
        for (lp_json_first(&counts, &count); count.node; lp_json_next(&counts, &count))
            LP_CHECK(lp_json_int(&count, 0, (int64_t)max_count, &number, err));
    }
    return LP_OK;
}

/* The equation graph: one object a step, in the order of the solution. */
static lp_status read_graph(const lp_json *pair, lp_pair *out, lp_error *err) {
    static const char *const keys[] = {"equation", "clean", "corrupted", "uses", NULL};
    lp_json graph, step;
    const char *text = NULL;
    size_t capacity = 0;
    LP_CHECK(lp_json_find(pair, "graph", &graph, err));
    if (!graph.node) return LP_OK;
    if (!lp_json_is_array(&graph)) return lp_json_fail(&graph, err, "an array");
    for (lp_json_first(&graph, &step); step.node; lp_json_next(&graph, &step)) {
        LP_CHECK(only_keys(&step, keys, err));
        LP_CHECK(lp_mem_grow(&out->graph, &capacity, out->n_graph + 1, sizeof *out->graph, "graph", err));
        lp_pair_step *of = &out->graph[out->n_graph++];
        *of = (lp_pair_step){.equation = NULL};
        char **const texts[] = {&of->equation, &of->clean, &of->corrupted};
        for (size_t i = 0; i < 3; i++) {
            LP_CHECK(lp_json_get_string(&step, keys[i], &text, err));
            LP_CHECK(lp_mem_strdup(texts[i], text, err));
        }
        lp_json uses, use;
        LP_CHECK(lp_json_get(&step, "uses", &uses, err));
        if (!lp_json_is_array(&uses)) return lp_json_fail(&uses, err, "an array of steps");
        int64_t number = 0;
        for (lp_json_first(&uses, &use); use.node; lp_json_next(&uses, &use))
            LP_CHECK(lp_json_int(&use, 0, (int64_t)max_count, &number, err));
    }
    return LP_OK;
}

static lp_status read_own_pair(const lp_json *value, lp_pairs_mode mode, lp_pair *out, lp_error *err) {
    static const char *const keys[] = {"id",    "clean", "corrupted", "source", "index", "change", "steps",
                                       "split", "graph", "template",  "tokens", "notes", NULL};
    static const char *const change_keys[] = {"from", "to", NULL};
    static const char *const splits[] = {"tune", "test", NULL};
    lp_json id, change, split;
    const char *unused = NULL;
    int64_t index = 0;
    int choice = 0;
    LP_CHECK(only_keys(value, keys, err));
    LP_CHECK(lp_json_get(value, "id", &id, err));
    LP_CHECK(read_id(&id, &out->id, err));
    LP_CHECK(read_own_side(value, "clean", mode, &out->clean, err));
    LP_CHECK(read_own_side(value, "corrupted", mode, &out->corrupted, err));
    LP_CHECK(read_optional_text(value, "source", &out->source, err));
    LP_CHECK(lp_json_opt_int(value, "index", 0, (int64_t)max_count, &index, err));
    LP_CHECK(lp_json_opt_int(value, "steps", 0, (int64_t)max_count, &out->n_steps, err));
    LP_CHECK(lp_json_find(value, "split", &split, err));
    if (split.node) {
        LP_CHECK(lp_json_choice(&split, splits, &choice, err));
        out->split = choice == 0 ? LP_SPLIT_TUNE : LP_SPLIT_TEST;
    }
    LP_CHECK(lp_json_find(value, "change", &change, err));
    if (change.node) {
        LP_CHECK(only_keys(&change, change_keys, err));
        for (size_t i = 0; i < 2; i++) {
            lp_json member;
            LP_CHECK(lp_json_get(&change, change_keys[i], &member, err));
        }
        LP_CHECK(read_optional_text(&change, "from", &out->change_from, err));
        LP_CHECK(read_optional_text(&change, "to", &out->change_to, err));
    }
    LP_CHECK(check_tokens(value, err));
    LP_CHECK(read_graph(value, out, err));
    LP_CHECK(read_optional_text(value, "template", &out->template, err));
    if (!out->source && out->template) /* pairs of one template are not independent */
        LP_CHECK(lp_mem_strdup(&out->source, out->template, err));
    return lp_json_opt_string(value, "notes", &unused, err);
}

/* Finds the list of pairs and checks what stands around it. */
static lp_status read_own_head(const lp_json *root, lp_json *list, lp_error *err) {
    static const char *const keys[] = {"format", "version", "source", "pairs", "seed", "about", "$schema", NULL};
    const char *unused = NULL;
    int64_t number = 0;
    LP_CHECK(lp_json_head(root, "latentpatch-pairs", 1, err));
    LP_CHECK(only_keys(root, keys, err));
    LP_CHECK(lp_json_opt_string(root, "source", &unused, err));
    LP_CHECK(lp_json_opt_string(root, "about", &unused, err));
    LP_CHECK(lp_json_opt_string(root, "$schema", &unused, err));
    LP_CHECK(lp_json_opt_int(root, "seed", 0, (int64_t)max_count, &number, err));
    return lp_json_get(root, "pairs", list, err);
}

/* ---- the original's formats ---- */

/* "16 -> 17" in two; anything else is left alone. */
static lp_status split_change(const char *text, lp_pair *out, lp_error *err) {
    const char *arrow = strstr(text, " -> ");
    if (!arrow) return LP_OK;
    lp_status status = lp_mem_text(&out->change_from, text, (size_t)(arrow - text), err);
    return status == LP_OK ? lp_mem_strdup(&out->change_to, arrow + 4, err) : status;
}

static lp_status read_original_pair(const lp_json *value, lp_pairs_mode mode, lp_pair *out, lp_error *err) {
    lp_json id, side;
    const char *change = NULL;
    LP_CHECK(lp_json_get(value, "pair_id", &id, err));
    LP_CHECK(read_id(&id, &out->id, err));
    LP_CHECK(lp_json_get(value, "clean", &side, err));
    LP_CHECK(read_question(&side, mode, &out->clean.question, err));
    LP_CHECK(read_answer(&side, mode, &out->clean.answer, err));
    LP_CHECK(read_optional_text(&side, "full_answer", &out->clean.solution, err));
    LP_CHECK(lp_json_get(value, "corrupted", &side, err));
    LP_CHECK(read_question(&side, mode, &out->corrupted.question, err));
    LP_CHECK(read_answer(&side, mode, &out->corrupted.answer, err));
    LP_CHECK(lp_json_opt_string(&side, "changed_number", &change, err));
    return change ? split_change(change, out, err) : LP_OK;
}

typedef struct {
    lp_json value;
    lp_pair_side side;
    char *id; /* NULL: a row of no pair */
    int64_t n_steps;
    int variant; /* 0 clean, 1 corrupted */
    bool taken;
} flat_row;

static lp_status read_flat_row(const lp_json *value, lp_pairs_mode mode, flat_row *out, lp_error *err) {
    static const char *const variants[] = {"clean", "corrupted", NULL};
    lp_json id;
    out->value = *value;
    out->n_steps = -1;
    LP_CHECK(lp_json_find(value, "pair_id", &id, err));
    if (!id.node && mode == LP_PAIRS_AUDIT) return LP_OK;
    LP_CHECK(lp_json_get(value, "pair_id", &id, err));
    LP_CHECK(read_id(&id, &out->id, err));
    LP_CHECK(lp_json_get_choice(value, "variant", variants, &out->variant, err));
    LP_CHECK(read_question(value, mode, &out->side.question, err));
    LP_CHECK(read_answer(value, mode, &out->side.answer, err));
    LP_CHECK(read_optional_text(value, "full_solution", &out->side.solution, err));
    return lp_json_opt_int(value, "reasoning_steps", 0, (int64_t)max_count, &out->n_steps, err);
}

typedef struct {
    const char *id;
    int variant;
    size_t row;
} flat_key;

static int compare_flat_keys(const void *a, const void *b) {
    const flat_key *left = a, *right = b;
    int order = strcmp(left->id, right->id);
    if (order != 0) return order;
    if (left->variant != right->variant) return left->variant < right->variant ? -1 : 1;
    return left->row < right->row ? -1 : left->row > right->row;
}

static int compare_places(const void *a, const void *b) {
    const lp_pair *left = a, *right = b;
    return left->place < right->place ? -1 : left->place > right->place;
}

/* Rows of one pair_id become a pair; the pairs come out in the order of their clean rows. */
static lp_status join_flat_rows(const char *name, flat_row *rows, size_t n_rows, lp_pairs_mode mode, lp_pair_set *out,
                                lp_error *err) {
    static const char *const variants[] = {"clean", "corrupted"};
    lp_status status = LP_OK;
    flat_key *keys = NULL;
    size_t n_keys = 0;
    LP_TRY(lp_mem_new(&keys, n_rows, sizeof *keys, "rows of a pair file", err));
    for (size_t i = 0; i < n_rows; i++)
        if (rows[i].id) keys[n_keys++] = (flat_key){rows[i].id, rows[i].variant, i};
    qsort(keys, n_keys, sizeof *keys, compare_flat_keys);
    for (size_t i = 1; i < n_keys && mode == LP_PAIRS_STRICT; i++)
        if (compare_flat_keys(&keys[i - 1], &(flat_key){keys[i].id, keys[i].variant, keys[i - 1].row}) == 0)
            LP_FAIL(LP_ERR_VALUE, "%s: pair_id %s has two %s rows: $[%zu] and $[%zu]", name, keys[i].id,
                    variants[keys[i].variant], keys[i - 1].row, keys[i].row);
    LP_TRY(lp_mem_new(&out->pairs, n_rows / 2 + 1, sizeof *out->pairs, "pairs", err));
    for (size_t i = 0; i + 1 < n_keys; i++) {
        flat_row *clean = &rows[keys[i].row], *corrupted = &rows[keys[i + 1].row];
        if (strcmp(clean->id, corrupted->id) != 0 || clean->variant == corrupted->variant) continue;
        lp_pair *pair = &out->pairs[out->n++];
        *pair = (lp_pair){.id = clean->id, .n_steps = clean->n_steps, .place = keys[i].row};
        pair->clean = clean->side;
        pair->corrupted = corrupted->side;
        clean->id = NULL;
        clean->side = corrupted->side = (lp_pair_side){0};
        clean->taken = corrupted->taken = true;
        keys[i].id = pair->id;
        i++;
    }
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i].taken) continue;
        if (mode == LP_PAIRS_STRICT)
            LP_FAIL(LP_ERR_VALUE, "%s: %s: the %s row of pair_id %s has no partner", name, rows[i].value.path,
                    variants[rows[i].variant], rows[i].id);
        out->n_unpaired++;
    }
    qsort(out->pairs, out->n, sizeof *out->pairs, compare_places);
out:
    lp_mem_free(keys);
    return status;
}

static lp_status read_flat(const lp_json *list, size_t n_rows, lp_pairs_mode mode, lp_pair_set *out, lp_error *err) {
    lp_status status = LP_OK;
    flat_row *rows = NULL;
    lp_json value;
    size_t i = 0;
    LP_TRY(lp_mem_new(&rows, n_rows, sizeof *rows, "rows of a pair file", err));
    for (lp_json_first(list, &value); value.node; lp_json_next(list, &value), i++)
        LP_TRY(read_flat_row(&value, mode, &rows[i], err));
    LP_TRY(join_flat_rows(list->file, rows, n_rows, mode, out, err));
out:
    for (i = 0; rows && i < n_rows; i++) {
        lp_mem_free(rows[i].id);
        release_side(&rows[i].side);
    }
    lp_mem_free(rows);
    return status;
}

/* ---- all formats ---- */

static int compare_ids(const void *a, const void *b) {
    const lp_pair *const *left = a;
    const lp_pair *const *right = b;
    int order = strcmp((*left)->id, (*right)->id);
    if (order != 0) return order;
    return (*left)->place < (*right)->place ? -1 : (*left)->place > (*right)->place;
}

static lp_status refuse_repeated_ids(const lp_json *list, const lp_pair_set *set, lp_error *err) {
    lp_status status = LP_OK;
    const lp_pair **order = NULL, *first = NULL, *again = NULL;
    LP_TRY(lp_mem_new(&order, set->n, sizeof *order, "order of pair ids", err));
    for (size_t i = 0; i < set->n; i++) order[i] = &set->pairs[i];
    qsort(order, set->n, sizeof *order, compare_ids);
    for (size_t i = 1; i < set->n; i++)
        if (strcmp(order[i - 1]->id, order[i]->id) == 0 && (!again || order[i]->place < again->place)) {
            first = order[i - 1];
            again = order[i];
        }
    if (again)
        LP_FAIL(LP_ERR_VALUE, "%s: the id \"%.80s\" occurs twice: %s[%zu] and %s[%zu]", list->file, again->id,
                list->path, first->place, list->path, again->place);
out:
    lp_mem_free(order);
    return status;
}

static lp_status refuse_equal_answers(const lp_json *list, const lp_pair_set *set, lp_error *err) {
    for (size_t i = 0; i < set->n; i++)
        if (fabs(set->pairs[i].clean.answer - set->pairs[i].corrupted.answer) < LP_SEED_TOLERANCE)
            return lp_fail(
                err, LP_ERR_VALUE,
                "%s: %s[%zu]: pair \"%.80s\" has the answers %.15g and %.15g, which count as one, so it cannot "
                "show an effect (pairs.equal_answers \"allow\" in the job keeps such pairs)",
                list->file, list->path, set->pairs[i].place, set->pairs[i].id, set->pairs[i].clean.answer,
                set->pairs[i].corrupted.answer);
    return LP_OK;
}

static lp_status read_list(const lp_json *list, const lp_pairs_options *options, lp_pair_set *out, lp_error *err) {
    size_t n = 0;
    lp_json value;
    LP_CHECK(lp_json_array_size(list, &n, err));
    if (n == 0) return lp_json_fail(list, err, "at least one pair");
    if (out->format != LP_PAIRS_OWN) {
        lp_json_first(list, &value);
        if (!lp_json_is_object(&value)) return lp_json_fail(&value, err, "a pair (an object)");
        lp_json clean;
        LP_CHECK(lp_json_find(&value, "clean", &clean, err));
        if (!clean.node) out->format = LP_PAIRS_ORIGINAL_FLAT;
    }
    if (out->format == LP_PAIRS_ORIGINAL_FLAT) {
        LP_CHECK(read_flat(list, n, options->mode, out, err));
    } else {
        LP_CHECK(lp_mem_new(&out->pairs, n, sizeof *out->pairs, "pairs", err));
        for (lp_json_first(list, &value); value.node; lp_json_next(list, &value)) {
            lp_pair *pair = &out->pairs[out->n];
            *pair = (lp_pair){.n_steps = -1, .place = out->n};
            out->n++;
            LP_CHECK(out->format == LP_PAIRS_OWN ? read_own_pair(&value, options->mode, pair, err)
                                                 : read_original_pair(&value, options->mode, pair, err));
        }
    }
    for (size_t i = 0; i < out->n; i++)
        if (!out->pairs[i].source) LP_CHECK(lp_mem_strdup(&out->pairs[i].source, out->pairs[i].id, err));
    if (options->mode == LP_PAIRS_AUDIT) return LP_OK;
    LP_CHECK(refuse_repeated_ids(list, out, err));
    if (options->equal_answers == LP_EQUAL_ANSWERS_REFUSE) LP_CHECK(refuse_equal_answers(list, out, err));
    return LP_OK;
}

lp_status lp_pairs_parse(const char *text, size_t size, const char *name, const lp_pairs_options *options,
                         lp_pair_set *out, lp_error *err) {
    lp_status status = LP_OK;
    cJSON *document = NULL;
    lp_json root, list;
    lp_pair_set set = {0};
    unsigned char digest[LP_SHA256_BYTES];
    LP_TRY(lp_json_parse(text, size, name, &document, &root, err));
    if (lp_json_is_array(&root)) {
        set.format = LP_PAIRS_ORIGINAL;
        list = root;
    } else if (lp_json_is_object(&root)) {
        LP_TRY(read_own_head(&root, &list, err));
    } else {
        LP_TRY(lp_json_fail(&root, err, "a pair file (an object with \"format\": \"latentpatch-pairs\", or an array)"));
    }
    LP_TRY(read_list(&list, options, &set, err));
    LP_TRY(lp_sha256_of(text, size, digest, err));
    lp_sha256_hex(digest, set.digest);
    *out = set;
    set = (lp_pair_set){0};
out:
    lp_pairs_release(&set);
    cJSON_Delete(document);
    return status;
}

lp_status lp_pairs_load(const char *path, const lp_pairs_options *options, lp_pair_set *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_file_read(path, max_file_bytes, &text, err);
    if (status == LP_OK) status = lp_pairs_parse(lp_text_get(&text), text.length, path, options, out, err);
    lp_text_release(&text);
    return status;
}
