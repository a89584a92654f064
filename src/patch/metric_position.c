#include "patch/metric_position.h"

#include "base/memory.h"
#include "pairs/classify.h"

/* Bytes in front of the first digit; the whole length where there is none. */
static size_t first_digit(const lp_text *text) {
    size_t i = 0;
    while (i < text->length && !(text->data[i] >= '0' && text->data[i] <= '9')) i++;
    return i;
}

static bool begins_with(const lp_token_list *tokens, const lp_token_list *prefix) {
    return tokens->n >= prefix->n &&
           (prefix->n == 0 || memcmp(tokens->ids, prefix->ids, prefix->n * sizeof *prefix->ids) == 0);
}

/* *out = tokens of `context` (the text of the prefix, and of the lead between it and the number) + number after the
 * prefix, then eos; none where these tokens do not begin with the prefix. */
static lp_status continue_with(const lp_pair_metrics_options *options, const lp_text *context, size_t lead,
                               const lp_token_list *prefix, double answer, lp_token_list *out, lp_error *err) {
    char number[LP_ANSWER_TEXT];
    lp_text whole = {0};
    lp_token_list all = {0}, again = {0};
    lp_status status = LP_OK;
    out->n = 0;
    lp_answer_text(answer, number);
    LP_TRY(lp_text_add(&whole, lp_text_get(context), context->length, err));
    LP_TRY(lp_text_add(&whole, number, strlen(number), err));
    LP_TRY(lp_tokenizer_encode(options->tokenizer, whole.data, whole.length, LP_TOKENS_PLAIN, &all, err));
    size_t skip = prefix->n;
    if (!begins_with(&all, prefix) || all.n == skip) {
        size_t begin = context->length - lead;
        LP_TRY(lp_tokenizer_encode(options->tokenizer, whole.data, begin, LP_TOKENS_PLAIN, &again, err));
        if (again.n == prefix->n && begins_with(&again, prefix)) goto out;
        skip = all.n = 0;
        LP_TRY(lp_tokenizer_encode(options->tokenizer, whole.data + begin, whole.length - begin, LP_TOKENS_PLAIN, &all,
                                   err));
    }
    size_t n = all.n - skip;
    LP_TRY(lp_mem_grow(&out->ids, &out->capacity, n + 1, sizeof *out->ids, "answer tokens", err));
    if (n) memcpy(out->ids, all.ids + skip, n * sizeof *out->ids);
    out->ids[n] = options->eos;
    out->n = n ? n + 1 : 0;
out:
    lp_text_release(&whole);
    lp_token_list_release(&all);
    lp_token_list_release(&again);
    return status;
}

lp_status lp_pair_metrics_make(const lp_pair_metrics_options *options, const int32_t *tokens, int32_t n,
                               lp_pair_metrics *out, lp_error *err) {
    lp_text text = {0}, token = {0}, before = {0};
    lp_status status = LP_OK;
    int32_t place = 0;
    size_t lead = 0;
    out->usable = false;
    out->prefix.n = 0;
    for (; place < n; place++) {
        lp_text_clear(&token);
        LP_TRY(lp_tokenizer_decode(options->tokenizer, tokens + place, 1, LP_DECODE_SKIP_SPECIAL, &token, err));
        lead = first_digit(&token);
        if (lead < token.length) break;
    }
    if (place == n) goto out;
    if (lead == 0 && place > 0) {
        LP_TRY(lp_tokenizer_decode(options->tokenizer, tokens + place - 1, 1, LP_DECODE_SKIP_SPECIAL, &before, err));
        if (before.length > 0 && before.data[before.length - 1] == '-') {
            lp_text_clear(&token);
            LP_TRY(lp_text_add(&token, before.data, before.length, err));
            lead = before.length;
            place--;
        }
    }
    LP_TRY(
        lp_mem_grow(&out->prefix.ids, &out->prefix.capacity, (size_t)place + 1, sizeof(int32_t), "answer prefix", err));
    if (place) memcpy(out->prefix.ids, tokens, (size_t)place * sizeof(int32_t));
    out->prefix.n = (size_t)place;
    if (lead > 0 && token.data[lead - 1] == '-') lead--;
    LP_TRY(lp_tokenizer_decode(options->tokenizer, tokens, (size_t)place, LP_DECODE_SKIP_SPECIAL, &text, err));
    LP_TRY(lp_text_add(&text, token.data, lead, err));
    LP_TRY(continue_with(options, &text, lead, &out->prefix, options->clean_answer, &out->clean, err));
    LP_TRY(continue_with(options, &text, lead, &out->prefix, options->corrupted_answer, &out->corrupted, err));
    out->position = (lp_metric_position){.index = place,
                                         .prefix = out->prefix.ids,
                                         .clean = {out->clean.ids, (int32_t)out->clean.n},
                                         .corrupted = {out->corrupted.ids, (int32_t)out->corrupted.n},
                                         .whole_answers = options->whole_answers,
                                         .room = options->room};
    out->usable = true;
out:
    lp_text_release(&text);
    lp_text_release(&token);
    lp_text_release(&before);
    return status;
}

void lp_pair_metrics_release(lp_pair_metrics *metrics) {
    lp_token_list_release(&metrics->prefix);
    lp_token_list_release(&metrics->clean);
    lp_token_list_release(&metrics->corrupted);
    *metrics = (lp_pair_metrics){0};
}
