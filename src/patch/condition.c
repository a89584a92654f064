#include "patch/condition.h"

#include "base/memory.h"
#include "base/text.h"

const char *const *lp_donor_names(void) {
    static const char *const names[] = {"clean",  "corrupted", "self",  "zero",          "mean", "shuffled",
                                        "random", "file",      "noise", "nearest_token", NULL};
    return names;
}

const char *const *lp_label_names(void) {
    static const char *const names[] = {"none",   "answer", "source",   "template", "steps",
                                        "change", "result", "equation", NULL};
    return names;
}

const char *const *lp_noise_centre_names(void) {
    static const char *const names[] = {"own", "zero", "mean", NULL};
    return names;
}

const char *const *lp_direction_names(void) {
    static const char *const names[] = {"denoise", "noise", NULL};
    return names;
}

const char *const *lp_role_names(void) {
    static const char *const names[] = {"effect", "control", "unpatched", NULL};
    return names;
}

/* A block of texts, and the one before it. */
typedef struct {
    void *before;
    char text[];
} text_block;

lp_status lp_condition_text(lp_condition_set *set, const char *text, const char *like, const char **out,
                            lp_error *err) {
    enum { BLOCK = 1 << 16 };
    size_t bytes = strlen(text) + 1;
    text_block *block = set->texts;
    if (like && strcmp(like, text) == 0) {
        *out = like;
        return LP_OK;
    }
    if (bytes > set->text_room) {
        size_t room = bytes > BLOCK ? bytes : BLOCK;
        LP_CHECK(lp_mem_new(&block, sizeof *block + room, 1, "conditions", err));
        block->before = set->texts;
        set->texts = block;
        set->text_room = room;
    }
    /* From the end of the block towards its beginning. */
    set->text_room -= bytes;
    *out = memcpy(block->text + set->text_room, text, bytes);
    return LP_OK;
}

lp_status lp_condition_add(lp_condition_set *set, const char *name, const char *layers, const char *steps,
                           const char *defects, lp_condition **out, lp_error *err) {
    static const lp_condition none = {.name = NULL};
    const lp_condition *last = set->n > 0 ? &set->conditions[set->n - 1] : &none;
    lp_condition fresh = {.layer = -1,
                          .head = LP_ALL_HEADS,
                          .vector = -1,
                          .from_layer = -1,
                          .from_step = -1,
                          .factor = 1.0f,
                          .first = set->n_replacements};
    if (set->n == LP_MAX_CONDITIONS)
        return lp_fail(err, LP_ERR_VALUE,
                       "sweep.conditions: expected at most %d conditions, found more (the last one is %.100s)",
                       LP_MAX_CONDITIONS, last->name);
    LP_CHECK(lp_condition_text(set, name, NULL, &fresh.name, err));
    LP_CHECK(lp_condition_text(set, layers, last->layers, &fresh.layers, err));
    LP_CHECK(lp_condition_text(set, steps, last->steps, &fresh.steps, err));
    LP_CHECK(lp_condition_text(set, defects, last->defects, &fresh.defects, err));
    LP_CHECK(lp_mem_grow(&set->conditions, &set->capacity, set->n + 1, sizeof *set->conditions, "conditions", err));
    set->conditions[set->n] = fresh;
    *out = &set->conditions[set->n++];
    return LP_OK;
}

static void add_word(char *out, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));
static void add_word(char *out, size_t size, const char *format, ...) {
    va_list args;
    if (out[strlen(out) - 1] != '(') lp_append(out, size, ", ");
    va_start(args, format);
    lp_append_args(out, size, format, args);
    va_end(args);
}

/* Without the bracket where nothing is in it. */
static void end_words(char *out, size_t size) {
    size_t used = strlen(out);
    if (out[used - 1] == '(')
        out[used - 1] = '\0';
    else
        lp_append(out, size, ")");
}

void lp_label_words(lp_label label, int32_t step, char *out, size_t size) {
    bool of_graph = label == LP_LABEL_RESULT || label == LP_LABEL_EQUATION;
    snprintf(out, size, of_graph ? "%s:%d" : "%s", lp_label_names()[label], step);
}

/* The mean's part of the words. */
static void mean_words(const lp_donor_detail *detail, char *out, size_t size) {
    char label[32];
    if (detail->all_steps) add_word(out, size, "all steps");
    if (detail->label == LP_LABEL_NONE) return;
    lp_label_words(detail->label, detail->label_step, label, sizeof label);
    add_word(out, size, "%s %s", detail->is_different ? "different" : "same", label);
    if (detail->least > 1) add_word(out, size, "least %d", detail->least);
}

/* Of what is taken from the nearest token, or from the span of several. */
static void token_words(const lp_token_rule *rule, char *out, size_t size) {
    if (rule->by == LP_NEAREST_COSINE) add_word(out, size, "cosine");
    if (rule->shift) add_word(out, size, "%+d", rule->shift);
    if (rule->layer_norm) add_word(out, size, "layer norm");
    if (rule->keep_norm) add_word(out, size, "keep norm");
    if (rule->along[0]) add_word(out, size, "%.6g along %s", (double)rule->times, rule->along);
}

void lp_operation_words(lp_operation operation, int32_t subspace, const lp_token_rule *rule, char *out, size_t size) {
    bool of_file = lp_operation_has_subspace(operation) && subspace > 0;
    snprintf(out, size, "%s(", lp_operation_names()[operation]);
    if (of_file) {
        add_word(out, size, "%d", subspace - 1);
    } else if (rule && lp_operation_has_subspace(operation)) {
        add_word(out, size, rule->top > 1 ? "nearest_token top %d" : "nearest_token", rule->top);
        token_words(rule, out, size);
    }
    if (rule && rule->only_numbers) add_word(out, size, "numbers only");
    end_words(out, size);
}

void lp_donor_words(lp_donor donor, const lp_donor_detail *detail, char *out, size_t size) {
    char word[80];
    bool is_noise = donor == LP_DONOR_NOISE;
    snprintf(out, size, "%s(", lp_donor_names()[donor]);
    if (is_noise) {
        int digits = 6;
        do snprintf(word, sizeof word, "%.*g", digits, (double)detail->sigma);
        while (strtof(word, NULL) != detail->sigma && digits++ < 9);
        add_word(out, size, "%s", word);
        if (detail->in_rms) add_word(out, size, "rms");
        if (detail->around != LP_AROUND_OWN) add_word(out, size, "around %s", lp_noise_centre_names()[detail->around]);
    }
    if (donor == LP_DONOR_MEAN || is_noise) mean_words(detail, out, size);
    if (donor == LP_DONOR_TOKEN) token_words(&detail->token, out, size);
    end_words(out, size);
}

static bool same_detail(const lp_donor_detail *a, const lp_donor_detail *b) {
    return a->all_steps == b->all_steps && a->label == b->label && a->label_step == b->label_step &&
           a->is_different == b->is_different && a->least == b->least && a->around == b->around &&
           a->sigma == b->sigma && a->in_rms == b->in_rms;
}

static bool same_rule(const lp_token_rule *a, const lp_token_rule *b) {
    return a->chooses == b->chooses && a->by == b->by && a->top == b->top && a->only_numbers == b->only_numbers &&
           a->shift == b->shift && a->layer_norm == b->layer_norm && a->keep_norm == b->keep_norm &&
           strcmp(a->along, b->along) == 0 && a->times == b->times;
}

lp_status lp_condition_token_rule(lp_condition_set *set, const lp_token_rule *rule, int32_t *index, lp_error *err) {
    size_t i = 0;
    while (i < set->n_token_rules && !same_rule(&set->token_rules[i], rule)) i++;
    *index = (int32_t)i + 1;
    if (i < set->n_token_rules) return LP_OK;
    if (i == LP_MAX_TOKEN_RULES)
        return lp_fail(err, LP_ERR_VALUE,
                       "sweep.conditions: expected at most %d kinds of edits by nearest tokens, found more",
                       LP_MAX_TOKEN_RULES);
    lp_status status =
        lp_mem_grow(&set->token_rules, &set->token_rule_capacity, i + 1, sizeof *set->token_rules, "token rules", err);
    if (status == LP_OK) set->token_rules[set->n_token_rules++] = *rule;
    return status;
}

lp_status lp_condition_detail(lp_condition_set *set, const lp_donor_detail *detail, int32_t *index, lp_error *err) {
    for (size_t i = 0; i < set->n_details; i++)
        if (same_detail(&set->details[i], detail)) {
            *index = (int32_t)i;
            return LP_OK;
        }
    if (set->n_details == LP_MAX_DETAILS)
        return lp_fail(err, LP_ERR_VALUE,
                       "sweep.conditions: expected at most %d kinds of donors mean and noise, found more",
                       LP_MAX_DETAILS);
    LP_CHECK(lp_mem_grow(&set->details, &set->detail_capacity, set->n_details + 1, sizeof *set->details,
                         "donor details", err));
    *index = (int32_t)set->n_details;
    set->details[set->n_details++] = *detail;
    return LP_OK;
}

bool lp_donor_has_place(lp_donor donor) {
    return donor != LP_DONOR_ZERO && donor != LP_DONOR_FILE && donor != LP_DONOR_TOKEN;
}

bool lp_replacement_takes_vector(const lp_replacement *replacement) {
    return lp_operation_takes_vector(replacement->operation) && replacement->donor != LP_DONOR_TOKEN;
}

const lp_donor_detail *lp_replacement_detail(const lp_condition_set *set, const lp_replacement *replacement) {
    static const lp_donor_detail plain = {0};
    size_t index = (size_t)replacement->vector;
    return index < set->n_details ? &set->details[index] : &plain;
}

lp_status lp_condition_replace(lp_condition_set *set, const lp_replacement *replacement, lp_error *err) {
    LP_ASSERT(set->n > 0);
    LP_CHECK(lp_mem_grow(&set->replacements, &set->replacement_capacity, set->n_replacements + 1,
                         sizeof *set->replacements, "replacements", err));
    set->replacements[set->n_replacements++] = *replacement;
    set->conditions[set->n - 1].n++;
    return LP_OK;
}

void lp_condition_set_release(lp_condition_set *set) {
    for (text_block *block = set->texts; block;) {
        text_block *before = block->before;
        lp_mem_free(block);
        block = before;
    }
    lp_mem_free(set->conditions);
    lp_mem_free(set->replacements);
    lp_mem_free(set->details);
    lp_mem_free(set->token_rules);
    *set = (lp_condition_set){0};
}
