#include "stage/token_edits.h"

#include "base/memory.h"

/* Numbers of more digits are not counted up or down. */
enum { MOST_DIGITS = 18 };

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

/* Where the number begins; NULL: the text is none. */
static const char *find_number(const char *text) {
    if (*text && strchr(" \t\n\r\v\f", *text)) text++;
    return is_digit(*text) ? text : NULL;
}

/* The id of a text that is one token; -1: it is none, or several. */
static lp_status find_token(const lp_tokenizer *tokenizer, const char *text, size_t length, int32_t *out,
                            lp_error *err) {
    lp_token_list ids = {0};
    lp_status status = lp_tokenizer_encode(tokenizer, text, length, LP_TOKENS_PLAIN, &ids, err);
    if (status == LP_OK) *out = ids.n == 1 ? ids.ids[0] : -1;
    lp_token_list_release(&ids);
    return status;
}

/* The token of the text with its number changed by `shift`; -1: there is none. */
static lp_status shift_number(const lp_tokenizer *tokenizer, const lp_text *text, const char *digits, int32_t shift,
                              int32_t *out, lp_error *err) {
    size_t length = strspn(digits, "0123456789"), before = (size_t)(digits - text->data);
    long long number = length <= MOST_DIGITS ? strtoll(digits, NULL, 10) + shift : -1;
    lp_text changed = {0};
    lp_status status = LP_OK;
    *out = -1;
    if (number < 0) return LP_OK;
    LP_TRY(lp_text_format(&changed, err, "%.*s%lld", (int)before, text->data, number));
    LP_TRY(lp_text_add(&changed, digits + length, text->length - before - length, err));
    status = find_token(tokenizer, lp_text_get(&changed), changed.length, out, err);
out:
    lp_text_release(&changed);
    return status;
}

static lp_status make_map(const lp_token_rule *rule, const lp_tokenizer *tokenizer, int32_t n, lp_token_edit *edit,
                          lp_error *err) {
    int32_t *map = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&map, (size_t)n, sizeof *map, "token numbers", err));
    edit->map = map;
    for (int32_t id = 0; id < n; id++) {
        lp_text_clear(&text);
        LP_TRY(lp_tokenizer_decode(tokenizer, &id, 1, LP_DECODE_ALL, &text, err));
        const char *digits = text.length > 0 ? find_number(lp_text_get(&text)) : NULL;
        map[id] = digits ? id : -1;
        if (digits && rule->shift) {
            LP_TRY(shift_number(tokenizer, &text, digits, rule->shift, &map[id], err));
            if (map[id] >= n) map[id] = -1;
        }
    }
out:
    lp_text_release(&text);
    return status;
}

lp_status lp_token_edits_init(const lp_session *session, const lp_condition_set *set, lp_token_edits *out,
                              lp_error *err) {
    const lp_tokenizer *tokenizer = session->tokenizer;
    lp_token_edits made = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&made.edits, set->n_token_rules, sizeof *made.edits, "token rules", err));
    for (; made.n < set->n_token_rules; made.n++) {
        const lp_token_rule *rule = &set->token_rules[made.n];
        lp_token_edit *edit = &made.edits[made.n];
        *edit = (lp_token_edit){.by = rule->by,
                                .top = rule->top,
                                .layer_norm = rule->layer_norm,
                                .keep_norm = rule->keep_norm,
                                .along = -1,
                                .times = rule->times};
        if (rule->along[0]) {
            LP_TRY(find_token(tokenizer, rule->along, strlen(rule->along), &edit->along, err));
            if (edit->along < 0)
                LP_FAIL(LP_ERR_VALUE, "%s: add_along.token: expected a text of one token, found \"%s\"",
                        session->job.file, rule->along);
        }
        if (rule->only_numbers || rule->shift)
            LP_TRY(make_map(rule, tokenizer, session->vocabulary.n_candidates, edit, err));
    }
    *out = made;
    return LP_OK;
out:
    made.n = set->n_token_rules;
    lp_token_edits_release(&made);
    return status;
}

void lp_token_edits_release(lp_token_edits *edits) {
    for (size_t i = 0; edits->edits && i < edits->n; i++) lp_mem_free((void *)(uintptr_t)edits->edits[i].map);
    lp_mem_free(edits->edits);
    *edits = (lp_token_edits){0};
}
