#include "token/tokenizer_files.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

enum { MAX_BYTES = 256 << 20 };

static const char qwen_pattern[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| "
                                   "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

static cJSON *byte_level(bool use_regex) {
    cJSON *level = cJSON_CreateObject();
    cJSON_AddStringToObject(level, "type", "ByteLevel");
    cJSON_AddBoolToObject(level, "add_prefix_space", false);
    cJSON_AddBoolToObject(level, "trim_offsets", false);
    cJSON_AddBoolToObject(level, "use_regex", use_regex);
    return level;
}

static void add_parts(cJSON *root, bool qwen) {
    cJSON_AddItemToObject(root, "decoder", byte_level(true));
    if (!qwen) {
        cJSON_AddItemToObject(root, "pre_tokenizer", byte_level(true));
        return;
    }
    cJSON_AddStringToObject(cJSON_AddObjectToObject(root, "normalizer"), "type", "NFC");
    cJSON *sequence = cJSON_AddObjectToObject(root, "pre_tokenizer"), *split = cJSON_CreateObject();
    cJSON_AddStringToObject(sequence, "type", "Sequence");
    cJSON *members = cJSON_AddArrayToObject(sequence, "pretokenizers");
    cJSON_AddStringToObject(split, "type", "Split");
    cJSON_AddStringToObject(cJSON_AddObjectToObject(split, "pattern"), "Regex", qwen_pattern);
    cJSON_AddStringToObject(split, "behavior", "Isolated");
    cJSON_AddBoolToObject(split, "invert", false);
    cJSON_AddItemToArray(members, split);
    cJSON_AddItemToArray(members, byte_level(false));
}

/* Lines "a b" after an optional "#version". */
static lp_status add_merges(const char *folder, cJSON *model, lp_error *err) {
    char *path = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    cJSON *merges = cJSON_AddArrayToObject(model, "merges");
    LP_TRY(lp_path_join(folder, "merges.txt", &path, err));
    LP_TRY(lp_file_read(path, MAX_BYTES, &text, err));
    for (char *line = text.data, *end; line && *line; line = end) {
        size_t n = strcspn(line, "\n");
        end = line + n + (line[n] != '\0');
        if (n && line[n - 1] == '\r') n--;
        line[n] = '\0';
        if (n && strncmp(line, "#version", 8) != 0) cJSON_AddItemToArray(merges, cJSON_CreateString(line));
    }
out:
    lp_mem_free(path);
    lp_text_release(&text);
    return status;
}

/* The next token that is no part of the model; `from` is an entry of added_tokens_decoder, or NULL. */
static void add_token(cJSON *added, int64_t id, const char *content, const cJSON *from, bool special) {
    static const char *const flags[] = {"single_word", "lstrip", "rstrip", "normalized"};
    cJSON *token = cJSON_CreateObject();
    cJSON_AddNumberToObject(token, "id", (double)id);
    cJSON_AddStringToObject(token, "content", content);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        cJSON_AddBoolToObject(token, flags[i], cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(from, flags[i])));
    const cJSON *said = cJSON_GetObjectItemCaseSensitive(from, "special");
    cJSON_AddBoolToObject(token, "special", said ? cJSON_IsTrue(said) : special);
    cJSON_AddItemToArray(added, token);
}

static int compare_ids(const void *a, const void *b) {
    const cJSON *left = *(const cJSON *const *)a, *right = *(const cJSON *const *)b;
    long x = strtol(left->string, NULL, 10), y = strtol(right->string, NULL, 10);
    return (x > y) - (x < y);
}

/* added_tokens_decoder of tokenizer_config.json, by ids; without one, the token that ends GPT-2's texts. */
static lp_status add_tokens(const lp_json *config, const cJSON *vocab, cJSON *root, lp_error *err) {
    lp_json decoder = {0}, value;
    const cJSON **items = NULL, *item = NULL;
    size_t n = 0, capacity = 0;
    lp_status status = LP_OK;
    cJSON *added = cJSON_AddArrayToObject(root, "added_tokens");
    if (config->node) LP_TRY(lp_json_find(config, "added_tokens_decoder", &decoder, err));
    if (!decoder.node) {
        const cJSON *end = cJSON_GetObjectItemCaseSensitive(vocab, "<|endoftext|>");
        if (cJSON_IsNumber(end)) add_token(added, (int64_t)end->valuedouble, "<|endoftext|>", NULL, true);
        goto out;
    }
    cJSON_ArrayForEach(item, decoder.node) {
        LP_TRY(lp_mem_grow(&items, &capacity, n + 1, sizeof *items, "added tokens", err));
        items[n++] = item;
    }
    if (n) qsort(items, n, sizeof *items, compare_ids);
    for (size_t i = 0; i < n; i++) {
        const char *content = NULL;
        value = decoder;
        value.node = items[i];
        LP_TRY(lp_json_get_string(&value, "content", &content, err));
        add_token(added, strtol(items[i]->string, NULL, 10), content, items[i], false);
    }
out:
    lp_mem_free(items);
    return status;
}

static lp_status read_class(const lp_json *config, bool *qwen, lp_error *err) {
    static const char *const classes[] = {"GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast",
                                          NULL};
    static const char *const refused[] = {"add_prefix_space", "add_bos_token", "add_eos_token"};
    lp_json value;
    int choice = 0;
    lp_status status = LP_OK;
    *qwen = false;
    if (!config->node) return LP_OK;
    LP_TRY(lp_json_find(config, "tokenizer_class", &value, err));
    if (value.node) LP_TRY(lp_json_choice(&value, classes, &choice, err));
    *qwen = choice >= 2;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        bool on = false;
        LP_TRY(lp_json_find(config, refused[i], &value, err));
        if (value.node) LP_TRY(lp_json_bool(&value, &on, err));
        if (on)
            LP_FAIL(LP_ERR_UNSUPPORTED,
                    "%s: $.%s is not supported with vocab.json and merges.txt: save the tokenizer as tokenizer.json",
                    config->file, refused[i]);
    }
out:
    return status;
}

lp_status lp_tokenizer_compose(const char *folder, lp_text *out, lp_error *err) {
    char *path = NULL, *config_path = NULL, *printed = NULL;
    cJSON *vocab = NULL, *config_document = NULL, *root = cJSON_CreateObject();
    lp_json vocab_root, config = {0};
    bool qwen = false;
    lp_status status = LP_OK;
    LP_TRY(lp_path_join(folder, "vocab.json", &path, err));
    LP_TRY(lp_path_join(folder, "tokenizer_config.json", &config_path, err));
    LP_TRY(lp_json_load(path, MAX_BYTES, &vocab, &vocab_root, err));
    if (lp_path_look(config_path) == LP_PATH_FILE)
        LP_TRY(lp_json_load(config_path, MAX_BYTES, &config_document, &config, err));
    LP_TRY(read_class(&config, &qwen, err));
    cJSON_AddStringToObject(root, "version", "1.0");
    add_parts(root, qwen);
    cJSON *model = cJSON_AddObjectToObject(root, "model");
    cJSON_AddStringToObject(model, "type", "BPE");
    LP_TRY(add_merges(folder, model, err));
    LP_TRY(add_tokens(&config, vocab, root, err));
    cJSON_AddItemToObject(model, "vocab", vocab);
    vocab = NULL;
    printed = cJSON_PrintUnformatted(root);
    if (!printed) LP_FAIL(LP_ERR_MEMORY, "%s: out of memory", folder);
    status = lp_text_add(out, printed, strlen(printed), err);
out:
    cJSON_free(printed);
    cJSON_Delete(vocab);
    cJSON_Delete(config_document);
    cJSON_Delete(root);
    lp_mem_free(path);
    lp_mem_free(config_path);
    return status;
}
