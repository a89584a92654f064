#include "token/tokenizer_files.h"

#include "base/file.h"
#include "base/json_stream.h"
#include "base/memory.h"
#include "base/number.h"

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

/* Lines "a b" after an optional "#version", as JSON strings. */
static lp_status add_merges(const char *path, lp_tokenizer_file merges, lp_text *out, lp_error *err) {
    lp_text line = {0};
    lp_status status = LP_OK;
    bool first = true;
    size_t at = 0, bad = 0, number = 1;
    bool sound = lp_utf8_valid(merges.data, merges.size, &bad);
    const char *nul = merges.size ? memchr(merges.data, 0, sound ? merges.size : bad) : NULL;
    if (nul) bad = (size_t)(nul - merges.data);
    if (!sound || nul) {
        for (size_t i = 0; i < bad; i++) number += merges.data[i] == '\n';
        LP_FAIL(LP_ERR_FORMAT, "%s line %zu: expected UTF-8 text, found byte 0x%02x", path, number,
                (unsigned char)merges.data[bad]);
    }
    while (at < merges.size) {
        const char *text = merges.data + at, *newline = memchr(text, '\n', merges.size - at);
        size_t n = newline ? (size_t)(newline - text) : merges.size - at;
        at += n + 1;
        if (n && text[n - 1] == '\r') n--;
        lp_text_clear(&line);
        LP_TRY(lp_text_add(&line, text, n, err));
        if (n == 0 || strncmp(line.data, "#version", 8) == 0) continue;
        if (!first) LP_TRY(lp_text_put(out, ",", err));
        first = false;
        LP_TRY(lp_json_quote(line.data, out, err));
    }
out:
    lp_text_release(&line);
    return status;
}

/* Checks that it is an object of tokens and numbers; *end = the id of the token that ends GPT-2's texts, or -1. *cut:
 * where the object stands in the text. */
static lp_status read_vocab(const char *path, lp_tokenizer_file vocab, lp_json_cut *cut, double *end, lp_error *err) {
    cJSON *document = NULL;
    lp_json root;
    lp_json_stream stream = {0};
    lp_status status = LP_OK;
    *cut = (lp_json_cut){0};
    *end = -1;
    LP_TRY(lp_json_parse_around(vocab.data, vocab.size, path, cut, 1, &document, &root, err));
    if (!lp_json_is_object(&root)) {
        status = lp_json_fail(&root, err, "an object of tokens and ids");
        goto out;
    }
    lp_json_stream_begin(&stream, vocab.data, path, cut);
    for (;;) {
        double id = 0;
        bool more = false;
        LP_TRY(lp_json_stream_more(&stream, &more, err));
        if (!more) break;
        LP_TRY(lp_json_stream_string(&stream, err));
        if (!lp_json_stream_take(&stream, ':')) {
            status = lp_json_stream_fail(&stream, err);
            goto out;
        }
        if (!lp_json_stream_number(&stream, &id))
            LP_FAIL(LP_ERR_VALUE, "%s: $[\"%.80s\"]: expected an id, a whole number from 0", path,
                    lp_text_get(&stream.string));
        if (strcmp(lp_text_get(&stream.string), "<|endoftext|>") == 0) *end = id;
    }
out:
    lp_json_stream_release(&stream);
    cJSON_Delete(document);
    return status;
}

/* The next token that is not part of the model; `from` is an entry of added_tokens_decoder, or NULL. */
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
static lp_status add_tokens(const lp_json *config, double end, cJSON *root, lp_error *err) {
    lp_json decoder = {0}, value;
    const cJSON **items = NULL, *item = NULL;
    size_t n = 0, capacity = 0;
    lp_status status = LP_OK;
    cJSON *added = cJSON_AddArrayToObject(root, "added_tokens");
    if (config->node) LP_TRY(lp_json_find(config, "added_tokens_decoder", &decoder, err));
    if (!decoder.node) {
        if (end >= 0 && end < INT32_MAX) add_token(added, (int64_t)end, "<|endoftext|>", NULL, true);
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
        int64_t id = -1;
        if (!lp_read_integer(items[i]->string, 0, INT32_MAX - 1, &id))
            LP_FAIL(LP_ERR_VALUE, "%s: %s: expected ids as keys, found \"%.80s\"", decoder.file, decoder.path,
                    items[i]->string);
        LP_TRY(lp_json_get_string(&value, "content", &content, err));
        add_token(added, id, content, items[i], false);
    }
out:
    lp_mem_free(items);
    return status;
}

static lp_status read_class(const lp_json *config, bool *qwen, lp_error *err) {
    static const char *const classes[] = {"GPT2Tokenizer", "GPT2TokenizerFast", "Qwen2Tokenizer", "Qwen2TokenizerFast",
                                          NULL};
    static const char *const refused[] = {"add_prefix_space", "add_bos_token", "add_eos_token"};
    int choice = 0;
    *qwen = false;
    if (!config->node) return LP_OK;
    LP_CHECK(lp_json_opt_choice(config, "tokenizer_class", classes, &choice, err));
    *qwen = choice >= 2;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        bool on = false;
        LP_CHECK(lp_json_opt_bool(config, refused[i], &on, err));
        if (on)
            return lp_fail(
                err, LP_ERR_UNSUPPORTED,
                "%s: $.%s is not supported with vocab.json and merges.txt: save the tokenizer as tokenizer.json",
                config->file, refused[i]);
    }
    return LP_OK;
}

lp_status lp_tokenizer_compose_parse(const char *folder, lp_tokenizer_file vocab, lp_tokenizer_file merges,
                                     lp_tokenizer_file config_file, lp_text *out, lp_error *err) {
    char *paths[3] = {NULL, NULL, NULL}, *printed = NULL;
    cJSON *document = NULL, *root = cJSON_CreateObject();
    lp_json config = {0};
    lp_json_cut cut;
    lp_text made = {0};
    bool qwen = false;
    double end = -1;
    lp_status status = LP_OK;
    LP_TRY(lp_path_join(folder, "vocab.json", &paths[0], err));
    LP_TRY(lp_path_join(folder, "merges.txt", &paths[1], err));
    LP_TRY(lp_path_join(folder, "tokenizer_config.json", &paths[2], err));
    LP_TRY(read_vocab(paths[0], vocab, &cut, &end, err));
    if (config_file.data) LP_TRY(lp_json_parse(config_file.data, config_file.size, paths[2], &document, &config, err));
    LP_TRY(read_class(&config, &qwen, err));
    cJSON_AddStringToObject(root, "version", "1.0");
    add_parts(root, qwen);
    LP_TRY(add_tokens(&config, end, root, err));
    printed = cJSON_PrintUnformatted(root);
    if (!printed) LP_FAIL(LP_ERR_MEMORY, "%s: out of memory", folder);
    LP_TRY(lp_text_add(&made, printed, strlen(printed) - 1, err));
    LP_TRY(lp_text_put(&made, ",\"model\":{\"type\":\"BPE\",\"merges\":[", err));
    LP_TRY(add_merges(paths[1], merges, &made, err));
    LP_TRY(lp_text_put(&made, "],\"vocab\":", err));
    LP_TRY(lp_text_add(&made, vocab.data + cut.begin, cut.end - cut.begin, err));
    LP_TRY(lp_text_put(&made, "}}", err));
    status = lp_text_add(out, made.data, made.length, err);
out:
    cJSON_free(printed);
    cJSON_Delete(document);
    cJSON_Delete(root);
    for (size_t i = 0; i < 3; i++) lp_mem_free(paths[i]);
    lp_text_release(&made);
    return status;
}

lp_status lp_tokenizer_compose(const char *folder, lp_text *out, lp_error *err) {
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    lp_text texts[3] = {{0}, {0}, {0}};
    lp_tokenizer_file files[3] = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
    char *path = NULL;
    lp_status status = LP_OK;
    for (size_t i = 0; i < 3; i++) {
        lp_mem_free(path);
        path = NULL;
        LP_TRY(lp_path_join(folder, names[i], &path, err));
        if (i == 2 && lp_path_look(path) != LP_PATH_FILE) break;
        LP_TRY(lp_file_read(path, MAX_BYTES, &texts[i], err));
        files[i] = (lp_tokenizer_file){lp_text_get(&texts[i]), texts[i].length};
    }
    status = lp_tokenizer_compose_parse(folder, files[0], files[1], files[2], out, err);
out:
    lp_mem_free(path);
    for (size_t i = 0; i < 3; i++) lp_text_release(&texts[i]);
    return status;
}
