#include "patch/lens.h"

#include "patch/executor.h"

int32_t lp_lens_positions(int32_t n_steps) {
    return 1 + n_steps;
}

void lp_lens_captures(const lp_model_config *config, int32_t n_prompt, int32_t n_steps, float *vectors,
                      lp_capture *captures) {
    for (int32_t p = 0; p < lp_lens_positions(n_steps); p++)
        for (int32_t l = 0; l < config->n_layers; l++, vectors += config->d_model)
            *captures++ = (lp_capture){.at = {.phase = p == 0 ? LP_PHASE_PROMPT : LP_PHASE_THOUGHT,
                                              .index = p == 0 ? n_prompt - 1 : p - 1,
                                              .site = LP_SITE_RESID_POST,
                                              .layer = l,
                                              .head = LP_ALL_HEADS},
                                       .out = vectors};
}

void lp_lens_rank(const float *logits, int32_t n, int32_t top, int32_t *tokens, float *log_probability) {
    int32_t found = 0;
    LP_ASSERT(top >= 1 && top <= n);
    for (int32_t id = 0; id < n; id++) {
        int32_t at = found;
        while (at > 0 && logits[id] > logits[tokens[at - 1]]) at--;
        if (at >= top) continue;
        if (found < top) found++;
        memmove(tokens + at + 1, tokens + at, (size_t)(found - at - 1) * sizeof *tokens);
        tokens[at] = id;
    }
    double total = lp_log_sum_exp(logits, n);
    for (int32_t k = 0; k < top; k++) log_probability[k] = (float)((double)logits[tokens[k]] - total);
}

lp_status lp_lens_show(const lp_tokenizer *tokenizer, const lp_vocabulary *vocabulary, int32_t token, lp_text *out,
                       lp_error *err) {
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_tokenizer_decode(tokenizer, &token, 1, LP_DECODE_ALL, &text, err));
    if (text.length == 0) {
        if (token == vocabulary->pad || token == vocabulary->bot)
            status = lp_text_format(out, err, "%s", token == vocabulary->pad ? "<pad>" : "<bot>");
        else
            status = lp_text_format(out, err, "<%d>", token);
        goto out;
    }
    for (size_t i = 0; i < text.length; i++) {
        unsigned char c = (unsigned char)text.data[i];
        if (c == '\n')
            LP_TRY(lp_text_add(out, "\\n", 2, err));
        else if (c < 0x20 || c == 0x7f)
            LP_TRY(lp_text_format(out, err, "\\x%02x", c));
        else
            LP_TRY(lp_text_add(out, text.data + i, 1, err));
    }
out:
    lp_text_release(&text);
    return status;
}
