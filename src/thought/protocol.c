#include "thought/protocol.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "token/utf8.h"

const char *const *lp_protocol_names(void) {
    static const char *const names[] = {"codi", "bot-first", NULL};
    return names;
}

/* tokenizer_config.json's eos_token: a string or an object with `content`. *id stays as it is where there is
 * none. */
static lp_status eos_of_tokenizer_config(const lp_tokenizer *tokenizer, const char *base, int32_t *id, lp_error *err) {
    char *path = NULL;
    cJSON *document = NULL;
    lp_json root, value;
    lp_status status = LP_OK;
    LP_TRY(lp_path_join(base, "tokenizer_config.json", &path, err));
    if (lp_path_look(path) != LP_PATH_FILE) goto out;
    LP_TRY(lp_json_load(path, 64u << 20, &document, &root, err));
    LP_TRY(lp_json_find(&root, "eos_token", &value, err));
    if (lp_json_is_object(&value)) LP_TRY(lp_json_find(&value, "content", &value, err));
    if (!value.node) goto out;
    const char *spelling = NULL;
    LP_TRY(lp_json_string(&value, &spelling, err));
    int32_t found = lp_tokenizer_find(tokenizer, spelling);
    if (found < 0) LP_FAIL(LP_ERR_MISMATCH, "%s: eos_token \"%s\" is not a token of tokenizer.json", path, spelling);
    *id = found;
out:
    cJSON_Delete(document);
    lp_mem_free(path);
    return status;
}

lp_status lp_vocabulary_init(const lp_model *model, const lp_tokenizer *tokenizer, const char *base,
                             const char *eos_token, lp_vocabulary *out, lp_error *err) {
    const lp_model_config *config = &model->config;
    int32_t v = config->n_vocab;
    lp_vocabulary vocabulary = {.pad = -1, .bot = -1, .eot = -1, .eos = -1, .n_candidates = v};
    if (model->is_codi) {
        vocabulary.pad = v;
        vocabulary.bot = v + 1;
        vocabulary.eot = v + 2;
        vocabulary.n_candidates = v + 2;
    }
    if (eos_token) {
        vocabulary.eos = lp_tokenizer_find(tokenizer, eos_token);
        if (vocabulary.eos < 0)
            return lp_fail(err, LP_ERR_VALUE, "decode.eos: \"%s\" is not a token of the tokenizer", eos_token);
    } else {
        lp_status status = eos_of_tokenizer_config(tokenizer, base, &vocabulary.eos, err);
        if (status != LP_OK) return status;
        if (vocabulary.eos < 0) vocabulary.eos = config->eos_id;
    }
    if (vocabulary.eos < 0 || vocabulary.eos >= v)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: no end-of-sequence token: expected eos_token in tokenizer_config.json, eos_token_id in "
                       "config.json, or decode.eos in the job; found id %d with a vocabulary of %d",
                       base, vocabulary.eos, v);
    *out = vocabulary;
    return LP_OK;
}

/* Python's str.strip() and replace("  ", " "), as CODI's evaluation uses them. */
static lp_status normalised(const char *question, lp_text *out, lp_error *err) {
    size_t begin = 0, n = 0, size = strlen(question);
    bool inside = false;
    for (size_t at = 0; at < size;) {
        uint32_t c = 0;
        bool well_formed = false;
        size_t next = at + lp_utf8_next(question + at, size - at, &c, &well_formed);
        bool space = lp_utf8_is_space(c);
        if (!space && !inside) begin = at;
        inside = inside || !space;
        if (!space) n = next;
        at = next;
    }
    lp_status status = LP_OK;
    for (size_t i = begin; i < n && status == LP_OK; i++) {
        status = lp_text_add(out, question + i, 1, err);
        if (question[i] == ' ' && i + 1 < n && question[i + 1] == ' ') i++;
    }
    return status;
}

lp_status lp_protocol_prompt(const lp_protocol *protocol, const lp_model *model, const lp_tokenizer *tokenizer,
                             const lp_vocabulary *vocabulary, const char *question, lp_token_list *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = LP_OK;
    out->n = 0;
    if (protocol->normalise_spaces) {
        LP_TRY(normalised(question, &text, err));
        question = lp_text_get(&text);
    }
    LP_TRY(lp_tokenizer_encode(tokenizer, question, strlen(question), LP_TOKENS_WITH_SPECIAL, out, err));
    for (size_t i = 0; i < out->n; i++)
        if (out->ids[i] < 0 || out->ids[i] >= model->config.n_vocab)
            LP_FAIL(LP_ERR_MISMATCH, "tokenizer gives id %d, but the model's vocabulary has %d tokens", out->ids[i],
                    model->config.n_vocab);
    if (protocol->kind == LP_PROTOCOL_CODI) {
        LP_TRY(lp_mem_grow(&out->ids, &out->capacity, out->n + 2, sizeof *out->ids, "prompt", err));
        if (!protocol->remove_eos) out->ids[out->n++] = vocabulary->eos;
        out->ids[out->n++] = vocabulary->bot;
    }
    if (out->n == 0) LP_FAIL(LP_ERR_VALUE, "the question has no tokens");
out:
    lp_text_release(&text);
    return status;
}

int32_t lp_protocol_answer_start(const lp_protocol *protocol, const lp_vocabulary *vocabulary, int32_t ids[2]) {
    ids[0] = vocabulary->eot;
    ids[1] = vocabulary->eos;
    return protocol->remove_eos ? 1 : 2;
}
