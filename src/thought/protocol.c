#include "thought/protocol.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "token/utf8.h"

const char *const *lp_protocol_names(void) {
    static const char *const names[] = {"codi", "bot-first", "codi-eos", "coconut", NULL};
    return names;
}

const char *const *lp_feedback_names(void) {
    static const char *const names[] = {"projection", "none", NULL};
    return names;
}

const char *const *lp_marker_names(void) {
    static const char *const names[] = {"eos", "pad", "bot", "eot", NULL};
    return names;
}

/* ---- Presets ----------------------------------------------------------------------------------------------------- */

static lp_marker_list only(lp_marker_kind kind) {
    return (lp_marker_list){.items = {{.kind = kind}}, .n = 1};
}

bool lp_marker_add(lp_marker_list *list, lp_marker marker) {
    if (list->n == LP_MAX_MARKERS) return false;
    list->items[list->n++] = marker;
    return true;
}

lp_protocol lp_protocol_preset(lp_protocol_kind kind, int32_t n_steps) {
    lp_protocol protocol = {.kind = kind,
                            .n_steps = n_steps,
                            .first_reads_prompt = true,
                            .feedback = LP_FEEDBACK_PROJECTION,
                            .after_question = only(LP_MARKER_BOT),
                            .answer_start = only(LP_MARKER_EOT),
                            .not_chosen = only(LP_MARKER_EOT),
                            .stop = only(LP_MARKER_EOS),
                            .n_answer_start = 1};
    switch (kind) {
    case LP_PROTOCOL_CODI: break;
    case LP_PROTOCOL_BOT_FIRST:
        protocol.after_question = (lp_marker_list){0};
        protocol.first_reads_prompt = false;
        protocol.first_input = (lp_marker){.kind = LP_MARKER_BOT};
        break;
    case LP_PROTOCOL_CODI_EOS:
        protocol.after_question = only(LP_MARKER_EOS);
        lp_marker_add(&protocol.after_question, (lp_marker){.kind = LP_MARKER_BOT});
        break;
    case LP_PROTOCOL_COCONUT:
        protocol.after_question = (lp_marker_list){.items = {{.kind = LP_MARKER_TEXT, .text = "\n"}}, .n = 1};
        lp_marker_add(&protocol.after_question, (lp_marker){.kind = LP_MARKER_BOT});
        protocol.feedback = LP_FEEDBACK_NONE;
        protocol.not_chosen = (lp_marker_list){0};
        break;
    }
    return protocol;
}

lp_protocol lp_protocol_plain(void) {
    return (lp_protocol){.kind = LP_PROTOCOL_BOT_FIRST, .changed = true, .stop = only(LP_MARKER_EOS)};
}

void lp_protocol_keep_eos(lp_protocol *protocol) {
    const lp_marker eos = {.kind = LP_MARKER_EOS};
    lp_marker_list *after = &protocol->after_question;
    if (after->n > 0 && after->items[after->n - 1].kind == LP_MARKER_BOT && after->n < LP_MAX_MARKERS) {
        after->items[after->n] = after->items[after->n - 1];
        after->items[after->n++ - 1] = eos;
    }
    if (lp_marker_add(&protocol->answer_start, eos)) protocol->n_answer_start++;
    protocol->changed = true;
}

const char *lp_protocol_label(const lp_protocol *protocol, char out[32]) {
    snprintf(out, 32, "%s%s", lp_protocol_names()[protocol->kind], protocol->changed ? " (changed)" : "");
    return out;
}

/* ---- Ids --------------------------------------------------------------------------------------------------------- */

bool lp_vocabulary_stops(const lp_vocabulary *vocabulary, int32_t token) {
    for (int32_t i = 0; i < vocabulary->n_stop; i++)
        if (vocabulary->stop[i] == token) return true;
    return false;
}

/* The eos_token that one file of the tokenizer names: a string, or an object with `content`. *id stays as it is where
 * there is none. */
static lp_status eos_of_file(const lp_tokenizer *tokenizer, const char *folder, const char *name, int32_t *id,
                             lp_error *err) {
    char *path = NULL;
    cJSON *document = NULL;
    lp_json root, value;
    lp_status status = LP_OK;
    LP_TRY(lp_path_join(folder, name, &path, err));
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

/* The list of generation_config.json, which `generate` of transformers ends at; *n stays 0 where there is none. */
static lp_status ends_of_generation(const char *folder, int32_t rows, int32_t ids[LP_MAX_EOS], int32_t *n,
                                    lp_error *err) {
    char *path = NULL;
    cJSON *document = NULL;
    lp_json root, value, item;
    lp_status status = LP_OK;
    LP_TRY(lp_path_join(folder, "generation_config.json", &path, err));
    if (lp_path_look(path) != LP_PATH_FILE) goto out;
    LP_TRY(lp_json_load(path, 1 << 20, &document, &root, err));
    LP_TRY(lp_json_find(&root, "eos_token_id", &value, err));
    if (!value.node) goto out;
    bool list = lp_json_is_array(&value);
    if (list)
        lp_json_first(&value, &item);
    else
        item = value;
    for (; item.node; lp_json_next(&value, &item)) {
        int64_t id = 0;
        if (*n == LP_MAX_EOS) LP_TRY(lp_json_fail(&value, err, "at most %d ids", LP_MAX_EOS));
        LP_TRY(lp_json_int(&item, 0, rows - 1, &id, err));
        ids[(*n)++] = (int32_t)id;
        if (!list) break;
    }
out:
    cJSON_Delete(document);
    lp_mem_free(path);
    return status;
}

static bool holds(const int32_t *ids, int32_t n, int32_t id) {
    for (int32_t i = 0; i < n; i++)
        if (ids[i] == id) return true;
    return false;
}

static void append_ids(const int32_t *ids, int32_t n, char *out, size_t size) {
    for (int32_t i = 0; i < n; i++) lp_append(out, size, " %d", ids[i]);
}

static bool same_ids(const int32_t *a, int32_t n_a, const int32_t *b, int32_t n_b) {
    bool same = true;
    for (int32_t i = 0; i < n_a && same; i++) same = holds(b, n_b, a[i]);
    for (int32_t i = 0; i < n_b && same; i++) same = holds(a, n_a, b[i]);
    return same;
}

/* The tokens that `eos` stands for: the tokenizer's one, as in the published evaluations; where its files name none,
 * all of generation_config.json's, as in `generate`, or of config.json's. */
static lp_status find_eos(const lp_model *model, const lp_tokenizer *tokenizer, const char *folder,
                          const char *eos_token, lp_vocabulary *out, lp_error *err) {
    int32_t own = -1, mapped = -1, v = model->config.n_vocab;
    const lp_model_config *config = &model->config;
    out->n_eos = 0;
    if (eos_token) {
        out->eos_source = "decode.eos";
        own = lp_tokenizer_find(tokenizer, eos_token);
        if (own < 0) return lp_fail(err, LP_ERR_VALUE, "decode.eos: \"%s\" is not a token of the tokenizer", eos_token);
    } else {
        LP_CHECK(eos_of_file(tokenizer, folder, "tokenizer_config.json", &own, err));
        LP_CHECK(eos_of_file(tokenizer, folder, "special_tokens_map.json", &mapped, err));
        if (own >= 0 && mapped >= 0 && own != mapped)
            return lp_fail(
                err, LP_ERR_MISMATCH,
                "%s: eos_token is %d in tokenizer_config.json, but %d in special_tokens_map.json: set decode.eos",
                folder, own, mapped);
        out->eos_source = own >= 0 ? "tokenizer_config.json" : "special_tokens_map.json";
        if (own < 0) own = mapped;
    }
    if (own >= 0) {
        out->eos_ids[out->n_eos++] = own;
    } else {
        out->eos_source = "generation_config.json";
        LP_CHECK(ends_of_generation(folder, config->n_embedded, out->eos_ids, &out->n_eos, err));
        if (out->n_eos == 0) {
            out->eos_source = "config.json";
            out->n_eos = config->n_eos;
            memcpy(out->eos_ids, config->eos_ids, sizeof config->eos_ids);
        } else if (config->n_eos && !same_ids(out->eos_ids, out->n_eos, config->eos_ids, config->n_eos)) {
            char used[128] = "", other[128] = "";
            append_ids(out->eos_ids, out->n_eos, used, sizeof used);
            append_ids(config->eos_ids, config->n_eos, other, sizeof other);
            lp_log(LP_LOG_INFO,
                   "%s: eos_token_id is%s in generation_config.json, but%s in config.json; the first is used, as in "
                   "`generate` of transformers (decode.eos sets another)",
                   folder, used, other);
        }
    }
    out->eos = out->n_eos ? out->eos_ids[0] : -1;
    if (out->eos < 0 || out->eos >= v)
        return lp_fail(
            err, LP_ERR_VALUE,
            "%s: no end-of-sequence token: expected eos_token in tokenizer_config.json or special_tokens_map.json, "
            "eos_token_id in generation_config.json or config.json, or decode.eos in the job; found id %d with a "
            "vocabulary of %d",
            folder, out->eos, v);
    return LP_OK;
}

/* What the markers of one field are resolved with. */
typedef struct {
    const lp_model *model;
    const lp_tokenizer *tokenizer;
    const lp_vocabulary *vocabulary;
    const char *field;
    lp_error *err;
} token_resolver;

/* The id of a marker that is one token. */
static lp_status resolve_token(const token_resolver *resolver, const lp_marker *marker, int32_t *out) {
    const lp_vocabulary *vocabulary = resolver->vocabulary;
    int32_t rows = resolver->model->config.n_embedded, id = marker->id;
    switch (marker->kind) {
    case LP_MARKER_EOS: id = vocabulary->eos; break;
    case LP_MARKER_PAD: id = vocabulary->pad; break;
    case LP_MARKER_BOT: id = vocabulary->bot; break;
    case LP_MARKER_EOT: id = vocabulary->eot; break;
    case LP_MARKER_TOKEN:
        if (marker->text[0]) id = lp_tokenizer_find(resolver->tokenizer, marker->text);
        if (marker->text[0] && id < 0)
            return lp_fail(resolver->err, LP_ERR_VALUE, "protocol.%s: \"%s\" is not a token of the tokenizer",
                           resolver->field, marker->text);
        break;
    case LP_MARKER_TEXT:
        return lp_fail(resolver->err, LP_ERR_VALUE, "protocol.%s: expected a token, found a text", resolver->field);
    }
    if (id < 0)
        return lp_fail(
            resolver->err, LP_ERR_VALUE,
            "protocol.%s names the %s token, which was not found: config.json and the tokenizer name none, and the "
            "embedding has %d rows for a vocabulary of %d; expected a thought checkpoint (model.codi), or its id "
            "in protocol.tokens",
            resolver->field, lp_marker_names()[marker->kind], resolver->model->config.n_embedded,
            resolver->model->config.n_vocab);
    if (id >= rows)
        return lp_fail(resolver->err, LP_ERR_VALUE,
                       "protocol.%s: token id %d lies outside the model's embedding of %d rows", resolver->field, id,
                       rows);
    *out = id;
    return LP_OK;
}

/* Appends the ids of markers [first, n) to *out. */
static lp_status resolve_list(const token_resolver *resolver, const lp_marker_list *list, int32_t first,
                              lp_token_list *out) {
    lp_status status = LP_OK;
    for (int32_t i = first; i < list->n && status == LP_OK; i++) {
        const lp_marker *marker = &list->items[i];
        int32_t id = -1;
        if (marker->kind == LP_MARKER_TEXT) {
            status = lp_tokenizer_encode(resolver->tokenizer, marker->text, strlen(marker->text), LP_TOKENS_PLAIN, out,
                                         resolver->err);
        } else {
            status = resolve_token(resolver, marker, &id);
            if (status == LP_OK) status = lp_token_list_add(out, &id, 1, resolver->err);
        }
    }
    return status;
}

/* The ids of a list, at most `most` of them, into out. */
static lp_status resolve_into(const token_resolver *resolver, const lp_marker_list *list, int32_t most, int32_t *out,
                              int32_t *n) {
    lp_token_list ids = {0};
    lp_status status = resolve_list(resolver, list, 0, &ids);
    if (status == LP_OK && ids.n > (size_t)most)
        status = lp_fail(resolver->err, LP_ERR_VALUE, "protocol.%s: expected at most %d tokens, found %zu",
                         resolver->field, most, ids.n);
    if (status == LP_OK) {
        if (ids.n) memcpy(out, ids.ids, ids.n * sizeof *out);
        *n = (int32_t)ids.n;
    }
    lp_token_list_release(&ids);
    return status;
}

/* Greedy decoding chooses among the ids below the first that no token has. Those at its end that may not be chosen
 * shorten it; others are listed. */
static lp_status find_candidates(token_resolver *resolver, const lp_protocol *protocol, lp_vocabulary *vocabulary) {
    const lp_model_config *config = &resolver->model->config;
    int32_t forbidden[LP_MAX_ANSWER_START], n_forbidden = 0, n = config->n_vocab;
    const int32_t roles[] = {vocabulary->pad, vocabulary->bot, vocabulary->eot, vocabulary->latent};
    resolver->field = "not_chosen";
    LP_CHECK(resolve_into(resolver, &protocol->not_chosen, LP_MAX_ANSWER_START, forbidden, &n_forbidden));
    for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
        if (roles[i] >= n) n = roles[i] + 1;
    if (n > config->n_embedded) n = config->n_embedded;
    while (n > 0 && holds(forbidden, n_forbidden, n - 1)) n--;
    for (int32_t i = 0; i < n_forbidden; i++)
        if (forbidden[i] < n && !holds(vocabulary->not_chosen, vocabulary->n_not_chosen, forbidden[i]))
            vocabulary->not_chosen[vocabulary->n_not_chosen++] = forbidden[i];
    vocabulary->n_candidates = n;
    n -= vocabulary->n_not_chosen;
    if (n < 2) return lp_fail(resolver->err, LP_ERR_VALUE, "protocol.not_chosen leaves %d tokens to choose from", n);
    return LP_OK;
}

const char *const *lp_token_role_names(void) {
    static const char *const names[] = {"pad", "bot", "eot", "latent", NULL};
    return names;
}

/* The ids that one source has for the roles; -1: it says nothing. */
typedef struct {
    const char *source;
    int32_t ids[LP_N_ROLES];
} role_ids;

static lp_status roles_of_job(const lp_model *model, const lp_tokenizer *tokenizer, const lp_protocol *protocol,
                              role_ids *out, lp_error *err) {
    for (int role = 0; role < LP_N_ROLES; role++) {
        const lp_given_token *given = &protocol->tokens[role];
        if (!given->given) continue;
        int32_t id = given->text[0] ? lp_tokenizer_find(tokenizer, given->text) : given->id;
        if (id < 0)
            return lp_fail(err, LP_ERR_VALUE, "protocol.tokens.%s: \"%s\" is not a token of the tokenizer",
                           lp_token_role_names()[role], given->text);
        if (id >= model->config.n_embedded)
            return lp_fail(err, LP_ERR_VALUE,
                           "protocol.tokens.%s: token id %d lies outside the model's embedding of %d rows",
                           lp_token_role_names()[role], id, model->config.n_embedded);
        out->ids[role] = id;
    }
    return LP_OK;
}

/* Names that published codes add to tokenizers, in the order of the roles. */
static lp_status roles_of_names(const lp_model *model, const lp_tokenizer *tokenizer, role_ids *out, lp_error *err) {
    static const char *const sets[][LP_N_ROLES] = {{NULL, "<|bocot|>", "<|eocot|>", NULL},
                                                   {NULL, "<|start-latent|>", "<|end-latent|>", NULL}};
    const char *from = NULL;
    for (size_t s = 0; s < sizeof sets / sizeof *sets; s++) {
        int32_t bot = lp_tokenizer_find(tokenizer, sets[s][LP_ROLE_BOT]);
        int32_t eot = lp_tokenizer_find(tokenizer, sets[s][LP_ROLE_EOT]);
        if (bot < 0 || eot < 0 || bot >= model->config.n_embedded || eot >= model->config.n_embedded) continue;
        if (from)
            return lp_fail(
                err, LP_ERR_MISMATCH,
                "the tokenizer has both %s (%d) and %s (%d): set protocol.tokens.bot and protocol.tokens.eot", from,
                out->ids[LP_ROLE_BOT], sets[s][LP_ROLE_BOT], bot);
        from = sets[s][LP_ROLE_BOT];
        out->ids[LP_ROLE_BOT] = bot;
        out->ids[LP_ROLE_EOT] = eot;
    }
    int32_t latent = lp_tokenizer_find(tokenizer, "<|latent|>");
    if (latent < model->config.n_embedded) out->ids[LP_ROLE_LATENT] = latent;
    return LP_OK;
}

/* Rows that training added after the base vocabulary. */
static void roles_of_rows(const lp_model *model, const lp_protocol *protocol, role_ids *out) {
    int32_t v = model->config.n_vocab, added = model->config.n_embedded - v;
    bool two = added == 2, coconut = protocol->kind == LP_PROTOCOL_COCONUT;
    if (!model->has_thoughts || added < 2) return;
    int32_t first = two || coconut ? v : v + 1;
    if (!two && !coconut) out->ids[LP_ROLE_PAD] = v;
    out->ids[LP_ROLE_BOT] = first;
    out->ids[LP_ROLE_EOT] = first + 1;
    if (!two && coconut) out->ids[LP_ROLE_LATENT] = v + 2;
}

/* The first source that says something counts; config.json and the tokenizer, which both know, must agree. */
static lp_status find_roles(const lp_model *model, const lp_tokenizer *tokenizer, const lp_protocol *protocol,
                            int32_t ids[LP_N_ROLES], lp_error *err) {
    enum { JOB, CONFIG, NAMES, ROWS, N_SOURCES };
    const lp_model_config *model_config = &model->config;
    role_ids sources[N_SOURCES] = {
        {"the job", {-1, -1, -1, -1}},
        {"config.json", {-1, model_config->latent_start_id, model_config->latent_end_id, model_config->latent_id}},
        {"the tokenizer", {-1, -1, -1, -1}},
        {"the rows of the embedding", {-1, -1, -1, -1}}};
    lp_status status = roles_of_job(model, tokenizer, protocol, &sources[JOB], err);
    bool both = sources[JOB].ids[LP_ROLE_BOT] >= 0 && sources[JOB].ids[LP_ROLE_EOT] >= 0;
    if (status == LP_OK && !both) status = roles_of_names(model, tokenizer, &sources[NAMES], err);
    if (status != LP_OK) return status;
    bool known = sources[CONFIG].ids[LP_ROLE_BOT] >= 0 || sources[NAMES].ids[LP_ROLE_BOT] >= 0;
    if (!known) roles_of_rows(model, protocol, &sources[ROWS]);
    for (int role = 0; role < LP_N_ROLES; role++) {
        int32_t config = sources[CONFIG].ids[role], name = sources[NAMES].ids[role];
        ids[role] = -1;
        for (int s = 0; s < N_SOURCES && ids[role] < 0; s++) ids[role] = sources[s].ids[role];
        if (sources[JOB].ids[role] < 0 && config >= 0 && name >= 0 && config != name)
            return lp_fail(err, LP_ERR_MISMATCH,
                           "the %s token is %d in config.json, but %d in the tokenizer: set protocol.tokens.%s",
                           lp_token_role_names()[role], config, name, lp_token_role_names()[role]);
    }
    return LP_OK;
}

lp_status lp_vocabulary_init(const lp_model *model, const lp_tokenizer *tokenizer, const char *base,
                             const char *eos_token, lp_protocol *protocol, lp_vocabulary *out, lp_error *err) {
    int32_t roles[LP_N_ROLES];
    lp_vocabulary vocabulary = {.pad = -1, .bot = -1, .eot = -1, .latent = -1, .first_input = -1};
    token_resolver resolver = {.model = model, .tokenizer = tokenizer, .vocabulary = &vocabulary, .err = err};
    LP_CHECK(find_roles(model, tokenizer, protocol, roles, err));
    vocabulary.pad = roles[LP_ROLE_PAD];
    vocabulary.bot = roles[LP_ROLE_BOT];
    vocabulary.eot = roles[LP_ROLE_EOT];
    vocabulary.latent = roles[LP_ROLE_LATENT];
    LP_CHECK(find_eos(model, tokenizer, base, eos_token, &vocabulary, err));
    resolver.field = "stop";
    LP_CHECK(resolve_into(&resolver, &protocol->stop, LP_MAX_STOP - LP_MAX_EOS, vocabulary.stop, &vocabulary.n_stop));
    if (lp_vocabulary_stops(&vocabulary, vocabulary.eos))
        for (int32_t i = 1; i < vocabulary.n_eos; i++) vocabulary.stop[vocabulary.n_stop++] = vocabulary.eos_ids[i];
    resolver.field = "first_input";
    if (!protocol->first_reads_prompt && protocol->n_steps > 0)
        LP_CHECK(resolve_token(&resolver, &protocol->first_input, &vocabulary.first_input));
    resolver.field = "answer_start";
    LP_CHECK(resolve_into(&resolver, &protocol->answer_start, LP_MAX_ANSWER_START, vocabulary.answer_start,
                          &vocabulary.n_answer_start));
    LP_CHECK(find_candidates(&resolver, protocol, &vocabulary));
    protocol->n_answer_start = vocabulary.n_answer_start;
    *out = vocabulary;
    return LP_OK;
}

/* ---- Prompts ----------------------------------------------------------------------------------------------------- */

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
    const lp_marker_list *after = &protocol->after_question;
    token_resolver resolver = {
        .model = model, .tokenizer = tokenizer, .vocabulary = vocabulary, .field = "after_question", .err = err};
    lp_text text = {0};
    lp_status status = LP_OK;
    int32_t n_texts = 0;
    out->n = 0;
    if (protocol->normalise_spaces)
        LP_TRY(normalised(question, &text, err));
    else
        LP_TRY(lp_text_add(&text, question, strlen(question), err));
    while (n_texts < after->n && after->items[n_texts].kind == LP_MARKER_TEXT) {
        const char *more = after->items[n_texts++].text;
        LP_TRY(lp_text_add(&text, more, strlen(more), err));
    }
    LP_TRY(lp_tokenizer_encode(tokenizer, lp_text_get(&text), text.length, LP_TOKENS_WITH_SPECIAL, out, err));
    LP_TRY(resolve_list(&resolver, after, n_texts, out));
    for (size_t i = 0; i < out->n; i++)
        if (out->ids[i] < 0 || out->ids[i] >= model->config.n_embedded)
            LP_FAIL(LP_ERR_MISMATCH, "tokenizer gives id %d, but the model's embedding has %d rows", out->ids[i],
                    model->config.n_embedded);
    if (out->n == 0) LP_FAIL(LP_ERR_VALUE, "the question has no tokens");
out:
    lp_text_release(&text);
    return status;
}

/* ---- Words ------------------------------------------------------------------------------------------------------- */

static void append_quoted(const char *bytes, char *out, size_t size) {
    lp_append(out, size, "\"");
    for (; *bytes; bytes++) {
        unsigned char c = (unsigned char)*bytes;
        if (c == '\n')
            lp_append(out, size, "\\n");
        else if (c == '"' || c == '\\')
            lp_append(out, size, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            lp_append(out, size, "\\x%02x", c);
        else
            lp_append(out, size, "%c", c);
    }
    lp_append(out, size, "\"");
}

static void append_marker(const lp_marker *marker, char *out, size_t size) {
    if (marker->kind == LP_MARKER_TEXT || (marker->kind == LP_MARKER_TOKEN && marker->text[0])) {
        lp_append(out, size, "%s ", marker->kind == LP_MARKER_TEXT ? "text" : "token");
        append_quoted(marker->text, out, size);
    } else if (marker->kind == LP_MARKER_TOKEN) {
        lp_append(out, size, "token %d", marker->id);
    } else {
        lp_append(out, size, "%s", lp_marker_names()[marker->kind]);
    }
}

const char *lp_marker_list_text(const lp_marker_list *list, char *out, size_t size) {
    out[0] = '\0';
    if (list->n == 0) lp_append(out, size, "nothing");
    for (int32_t i = 0; i < list->n; i++) {
        if (i > 0) lp_append(out, size, ", ");
        append_marker(&list->items[i], out, size);
    }
    return out;
}

const char *lp_protocol_first_input(const lp_protocol *protocol, char *out, size_t size) {
    out[0] = '\0';
    if (protocol->first_reads_prompt)
        lp_append(out, size, "prompt");
    else
        append_marker(&protocol->first_input, out, size);
    return out;
}

const char *lp_vocabulary_text(const lp_vocabulary *vocabulary, char *out, size_t size) {
    out[0] = '\0';
    lp_append(out, size, "pad %d, bot %d, eot %d, answer", vocabulary->pad, vocabulary->bot, vocabulary->eot);
    append_ids(vocabulary->answer_start, vocabulary->n_answer_start, out, size);
    lp_append(out, size, ", stop");
    append_ids(vocabulary->stop, vocabulary->n_stop, out, size);
    lp_append(out, size, ", below %d", vocabulary->n_candidates);
    if (vocabulary->n_not_chosen > 0) lp_append(out, size, ", but not");
    append_ids(vocabulary->not_chosen, vocabulary->n_not_chosen, out, size);
    return out;
}

lp_status lp_protocol_describe(const lp_protocol *protocol, const lp_vocabulary *vocabulary, lp_text *out,
                               lp_error *err) {
    enum { LINE = 1024 };
    char label[32], words[LINE], ids[LINE] = "";
    LP_CHECK(lp_text_format(out, err, "protocol       %s\n  prompt       the question%s, then %s\n",
                            lp_protocol_label(protocol, label),
                            protocol->normalise_spaces ? " with its spaces normalised" : "",
                            lp_marker_list_text(&protocol->after_question, words, sizeof words)));
    LP_CHECK(lp_text_format(out, err, "  thoughts     %d steps", protocol->n_steps));
    if (protocol->n_steps > 0)
        LP_CHECK(lp_text_format(out, err, "; each is fed %s of the position before it",
                                protocol->feedback == LP_FEEDBACK_PROJECTION ? "the projected final hidden state"
                                                                             : "the final hidden state itself"));
    if (protocol->n_steps > 0 && !protocol->first_reads_prompt)
        LP_CHECK(lp_text_format(out, err, "; step 0 is fed the embedding of %s",
                                lp_protocol_first_input(protocol, words, sizeof words)));
    append_ids(vocabulary->answer_start, vocabulary->n_answer_start, ids, sizeof ids);
    LP_CHECK(lp_text_format(out, err, "\n  answer       opens with %s (%s)\n",
                            lp_marker_list_text(&protocol->answer_start, words, sizeof words), ids + (ids[0] == ' ')));
    ids[0] = '\0';
    append_ids(vocabulary->stop, vocabulary->n_stop, ids, sizeof ids);
    LP_CHECK(lp_text_format(out, err, "  end          %s (%s) ends the answer; ",
                            lp_marker_list_text(&protocol->stop, words, sizeof words), ids + (ids[0] == ' ')));
    LP_CHECK(lp_text_format(out, err, "never chosen: %s; %d ids to choose from\n",
                            lp_marker_list_text(&protocol->not_chosen, words, sizeof words),
                            vocabulary->n_candidates - vocabulary->n_not_chosen));
    return lp_text_format(out, err, "  ids          pad %d, bot %d, eot %d, eos %d of %s (-1: none)\n", vocabulary->pad,
                          vocabulary->bot, vocabulary->eot, vocabulary->eos, vocabulary->eos_source);
}

static cJSON *marker_json(const lp_marker *marker) {
    if (marker->kind != LP_MARKER_TEXT && marker->kind != LP_MARKER_TOKEN)
        return cJSON_CreateString(lp_marker_names()[marker->kind]);
    cJSON *object = cJSON_CreateObject();
    if (marker->kind == LP_MARKER_TEXT)
        cJSON_AddStringToObject(object, "text", marker->text);
    else if (marker->text[0])
        cJSON_AddStringToObject(object, "token", marker->text);
    else
        cJSON_AddNumberToObject(object, "token", marker->id);
    return object;
}

static void add_list(cJSON *object, const char *key, const lp_marker_list *list) {
    cJSON *array = cJSON_AddArrayToObject(object, key);
    for (int32_t i = 0; i < list->n; i++) cJSON_AddItemToArray(array, marker_json(&list->items[i]));
}

static void add_id(cJSON *object, const char *key, int32_t id) {
    if (id < 0)
        cJSON_AddNullToObject(object, key);
    else
        cJSON_AddNumberToObject(object, key, id);
}

void lp_protocol_json(const lp_protocol *protocol, const lp_vocabulary *vocabulary, cJSON *object) {
    const int32_t roles[LP_N_ROLES] = {vocabulary->pad, vocabulary->bot, vocabulary->eot, vocabulary->latent};
    cJSON_AddStringToObject(object, "name", lp_protocol_names()[protocol->kind]);
    cJSON_AddBoolToObject(object, "changed", protocol->changed);
    cJSON_AddNumberToObject(object, "steps", protocol->n_steps);
    cJSON_AddBoolToObject(object, "normalise_spaces", protocol->normalise_spaces);
    add_list(object, "after_question", &protocol->after_question);
    cJSON_AddItemToObject(object, "first_input",
                          protocol->first_reads_prompt ? cJSON_CreateString("prompt")
                                                       : marker_json(&protocol->first_input));
    cJSON_AddStringToObject(object, "feedback", lp_feedback_names()[protocol->feedback]);
    add_list(object, "answer_start", &protocol->answer_start);
    add_list(object, "not_chosen", &protocol->not_chosen);
    add_list(object, "stop", &protocol->stop);
    cJSON *ids = cJSON_AddObjectToObject(object, "ids");
    for (int role = 0; role < LP_N_ROLES; role++) add_id(ids, lp_token_role_names()[role], roles[role]);
    cJSON_AddNumberToObject(ids, "eos", vocabulary->eos);
    cJSON_AddStringToObject(ids, "eos_source", vocabulary->eos_source);
    cJSON_AddItemToObject(ids, "answer_start",
                          cJSON_CreateIntArray(vocabulary->answer_start, vocabulary->n_answer_start));
    cJSON_AddItemToObject(ids, "stop", cJSON_CreateIntArray(vocabulary->stop, vocabulary->n_stop));
    cJSON_AddNumberToObject(ids, "n_candidates", vocabulary->n_candidates);
    if (vocabulary->n_not_chosen > 0)
        cJSON_AddItemToObject(ids, "not_chosen",
                              cJSON_CreateIntArray(vocabulary->not_chosen, vocabulary->n_not_chosen));
}
