/* Reading tokenizer.json:
 *
 *   model.vocab -> tokens by id -> model.merges -> added_tokens -> pre_tokenizer -> post_processor -> decoder
 *
 * Ids of added tokens are not free: the `tokenizers` package gives them out itself (the vocabulary's own id, or the
 * next one), so a file that states others is refused instead of being read differently from there. `truncation` and
 * `padding` are the settings of some past call; transformers resets both at every call, so neither is applied. */
#include "token/tokenizer_parts.h"

#include "base/json_stream.h"
#include "base/memory.h"
#include "token/nfc.h"

/* Word characters as Rust's regex crate has them: Alphabetic, Mark, Decimal_Number, Connector_Punctuation and
 * Join_Control (UTS #18). */
static const char word_character[] =
    "[\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\xe2\x80\x8c\xe2\x80\x8d\xe2\x92\xb6-\xe2\x93\xa9\xf0\x9f\x84\xb0-\xf0\x9f\x85\x89"
    "\xf0\x9f\x85\x90-\xf0\x9f\x85\xa9\xf0\x9f\x85\xb0-\xf0\x9f\x86\x89]";

static lp_status expect_null_or_zero(const lp_json *object, const char *key, lp_error *err) {
    lp_json value;
    lp_status status = lp_json_find(object, key, &value, err);
    if (status != LP_OK || !value.node || (cJSON_IsNumber(value.node) && value.node->valuedouble == 0)) return status;
    return lp_json_fail(&value, err, "null or 0 (nothing else is supported)");
}

static lp_status expect_null_or_empty(const lp_json *object, const char *key, lp_error *err) {
    lp_json value;
    lp_status status = lp_json_find(object, key, &value, err);
    if (status != LP_OK || !value.node || (lp_json_is_string(&value) && value.node->valuestring[0] == '\0'))
        return status;
    return lp_json_fail(&value, err, "null or \"\" (nothing else is supported)");
}

/* The vocabulary and the merges are hundreds of thousands of entries: they are read from the text, without a tree. */
typedef struct {
    const char *text, *name;
    lp_json_cut vocab, merges;
} long_parts;

/* The entry that comes now: its token in stream->string, its id; -1 where that is not an id. */
static lp_status next_entry(lp_json_stream *stream, double *id, lp_error *err) {
    LP_CHECK(lp_json_stream_string(stream, err));
    if (!lp_json_stream_take(stream, ':')) return lp_json_stream_fail(stream, err);
    if (!lp_json_stream_number(stream, id)) *id = -1;
    return LP_OK;
}

/* *n: entries; *highest: of their ids. Ids need not be without holes; but a table of them is made, so they are bounded
 * by the number of tokens. */
static lp_status count_vocabulary(const long_parts *parts, const lp_json *vocab, size_t *n, size_t *highest,
                                  lp_error *err) {
    lp_json_stream stream = {0};
    lp_text last = {0}; /* the token of the highest id */
    lp_status status = LP_OK;
    double most = -1;
    lp_json_stream_begin(&stream, parts->text, parts->name, &parts->vocab);
    for (*n = 0;; ++*n) {
        double id = 0;
        bool more = false;
        LP_TRY(lp_json_stream_more(&stream, &more, err));
        if (!more) break;
        LP_TRY(next_entry(&stream, &id, err));
        if (!(id >= 0 && id <= INT32_MAX) || id != (double)(int32_t)id)
            LP_FAIL(LP_ERR_VALUE, "%s: %s[\"%.80s\"]: expected an id, a whole number from 0", vocab->file, vocab->path,
                    lp_text_get(&stream.string));
        if (id <= most) continue;
        most = id;
        lp_text_clear(&last);
        LP_TRY(lp_text_put(&last, lp_text_get(&stream.string), err));
    }
    if (most >= 2 * (double)*n + 65536)
        LP_FAIL(LP_ERR_VALUE, "%s: %s[\"%.80s\"]: expected an id from 0 to %zu (there are %zu tokens)", vocab->file,
                vocab->path, lp_text_get(&last), 2 * *n + 65535, *n);
    *highest = most < 0 ? 0 : (size_t)most;
out:
    lp_text_release(&last);
    lp_json_stream_release(&stream);
    return status;
}

static lp_status read_vocabulary(const long_parts *parts, const lp_json *vocab, lp_bpe *bpe, lp_error *err) {
    lp_json_stream stream = {0};
    lp_status status = LP_OK;
    lp_json_stream_begin(&stream, parts->text, parts->name, &parts->vocab);
    for (;;) {
        double id = 0;
        bool added = false, more = false;
        LP_TRY(lp_json_stream_more(&stream, &more, err));
        if (!more) break;
        LP_TRY(next_entry(&stream, &id, err));
        const char *token = lp_text_get(&stream.string);
        LP_TRY(lp_bpe_add_token(bpe, (int32_t)id, token, &added, err));
        if (!added && lp_bpe_find(bpe, token, stream.string.length) >= 0)
            LP_FAIL(LP_ERR_FORMAT, "%s: the key \"%.80s\" occurs twice in one object (\"vocab\")", vocab->file, token);
        if (!added)
            LP_FAIL(LP_ERR_VALUE, "%s: %s[\"%.80s\"]: the id %d is already that of \"%.80s\"", vocab->file, vocab->path,
                    token, (int)id, lp_bpe_spelling(bpe, (int32_t)id));
    }
out:
    lp_json_stream_release(&stream);
    return status;
}

/* The merge that comes now, written "a b" or ["a", "b"]: both sides one after the other in *joined; *n_left bytes are
 * of the left one. *merge is false when it is neither, or a line that came along from merges.txt (*header). */
static lp_status next_merge(lp_json_stream *stream, lp_text *joined, size_t *n_left, bool *merge, bool *header,
                            lp_error *err) {
    lp_text_clear(joined);
    *merge = *header = false;
    if (lp_json_stream_at_string(stream)) {
        LP_CHECK(lp_json_stream_string(stream, err));
        const char *text = lp_text_get(&stream->string), *space = strchr(text, ' ');
        *header = strncmp(text, "#version", 8) == 0;
        if (*header || !space || strchr(space + 1, ' ')) return LP_OK;
        *n_left = (size_t)(space - text);
        LP_CHECK(lp_text_add(joined, text, *n_left, err));
        LP_CHECK(lp_text_put(joined, space + 1, err));
    } else {
        if (!lp_json_stream_take(stream, '[') || !lp_json_stream_at_string(stream)) return LP_OK;
        LP_CHECK(lp_json_stream_string(stream, err));
        *n_left = stream->string.length;
        LP_CHECK(lp_text_add(joined, lp_text_get(&stream->string), *n_left, err));
        if (!lp_json_stream_take(stream, ',') || !lp_json_stream_at_string(stream)) return LP_OK;
        LP_CHECK(lp_json_stream_string(stream, err));
        LP_CHECK(lp_text_put(joined, lp_text_get(&stream->string), err));
        if (!lp_json_stream_take(stream, ']')) return LP_OK;
    }
    *merge = true;
    return LP_OK;
}

/* bpe NULL: *n, which counts them, is all that is wanted. */
static lp_status read_merges(const long_parts *parts, const lp_json *merges, lp_bpe *bpe, size_t *n, lp_error *err) {
    lp_json_stream stream = {0};
    lp_status status = LP_OK;
    lp_text joined = {0};
    int32_t rank = 0;
    lp_json_stream_begin(&stream, parts->text, parts->name, &parts->merges);
    for (*n = 0;; ++*n) {
        size_t n_left = 0;
        bool more = false, merge = false, header = false;
        LP_TRY(lp_json_stream_more(&stream, &more, err));
        if (!more) break;
        LP_TRY(next_merge(&stream, &joined, &n_left, &merge, &header, err));
        if (!merge && !header)
            LP_FAIL(LP_ERR_VALUE, "%s: %s[%zu]: expected a merge, \"a b\" or [\"a\", \"b\"]", merges->file,
                    merges->path, *n);
        if (header || !bpe) continue;
        const char *both = lp_text_get(&joined), *right = both + n_left;
        size_t n_right = joined.length - n_left;
        int32_t left_id = lp_bpe_find(bpe, both, n_left);
        int32_t right_id = lp_bpe_find(bpe, right, n_right);
        int32_t merged = lp_bpe_find(bpe, both, joined.length);
        if (left_id < 0 || right_id < 0 || merged < 0)
            LP_FAIL(LP_ERR_VALUE, "%s: %s[%zu]: the token \"%.*s\" is not in the vocabulary", merges->file,
                    merges->path, *n,
                    (int)(left_id < 0    ? n_left
                          : right_id < 0 ? n_right
                                         : joined.length),
                    left_id >= 0 && right_id < 0 ? right : both);
        lp_bpe_add_merge(bpe, left_id, right_id, rank++, merged);
    }
out:
    lp_text_release(&joined);
    lp_json_stream_release(&stream);
    return status;
}

/* Settings that only act on bytes without a token of their own are harmless where every byte has one. */
static lp_status check_unknown_token(const lp_json *model, const lp_bpe *bpe, lp_error *err) {
    lp_json unknown;
    bool fuse = false, fallback = false;
    LP_CHECK(lp_json_find(model, "unk_token", &unknown, err));
    LP_CHECK(lp_json_opt_bool(model, "fuse_unk", &fuse, err));
    LP_CHECK(lp_json_opt_bool(model, "byte_fallback", &fallback, err));
    if (!unknown.node && !fallback) return LP_OK;
    for (size_t byte = 0; byte < 256; byte++)
        if (bpe->byte_token[byte] < 0)
            return lp_fail(
                err, LP_ERR_UNSUPPORTED,
                "%s: %s: unk_token and byte_fallback are only supported where every byte has a token, and byte "
                "0x%02zx has none",
                model->file, model->path, byte);
    return LP_OK;
}

/* *n_entries: tokens of the vocabulary; the first added token gets this id. */
static lp_status read_model(const lp_json *root, const lp_json *added, const long_parts *parts, lp_bpe *bpe,
                            size_t *n_entries, lp_error *err) {
    static const char *const keys[] = {"type",          "dropout",       "unk_token", "continuing_subword_prefix",
                                       "vocab",         "merges",        "fuse_unk",  "end_of_word_suffix",
                                       "byte_fallback", "ignore_merges", NULL};
    static const char *const types[] = {"BPE", NULL};
    lp_json model, type, vocab, merges;
    LP_CHECK(lp_json_get(root, "model", &model, err));
    LP_CHECK(lp_json_find(&model, "type", &type, err));
    int choice = 0;
    if (type.node) LP_CHECK(lp_json_choice(&type, types, &choice, err));
    LP_CHECK(lp_json_only(&model, keys, err));
    LP_CHECK(expect_null_or_zero(&model, "dropout", err));
    LP_CHECK(expect_null_or_empty(&model, "continuing_subword_prefix", err));
    LP_CHECK(expect_null_or_empty(&model, "end_of_word_suffix", err));
    LP_CHECK(lp_json_get(&model, "vocab", &vocab, err));
    LP_CHECK(lp_json_get(&model, "merges", &merges, err));
    size_t n_merges = 0, n_added = 0, highest = 0;
    *n_entries = 0;
    if (lp_json_is_object(&vocab) && parts->vocab.end)
        LP_CHECK(count_vocabulary(parts, &vocab, n_entries, &highest, err));
    if (*n_entries == 0) return lp_json_fail(&vocab, err, "an object of tokens and ids");
    if (!lp_json_is_array(&merges) || !parts->merges.end) return lp_json_fail(&merges, err, "an array");
    LP_CHECK(read_merges(parts, &merges, NULL, &n_merges, err));
    LP_CHECK(lp_json_array_size(added, &n_added, err));
    LP_CHECK(lp_bpe_init(bpe, highest + 1, highest + 1 + n_added, n_merges, err));
    LP_CHECK(lp_json_opt_bool(&model, "ignore_merges", &bpe->ignore_merges, err));
    LP_CHECK(read_vocabulary(parts, &vocab, bpe, err));
    LP_CHECK(read_merges(parts, &merges, bpe, &n_merges, err));
    lp_bpe_find_bytes(bpe);
    return check_unknown_token(&model, bpe, err);
}

static lp_status read_added_token(const lp_json *entry, lp_tokenizer *tokenizer, int32_t *next_id, lp_error *err) {
    static const char *const keys[] = {"id",     "content",    "single_word", "lstrip",
                                       "rstrip", "normalized", "special",     NULL};
    lp_bpe *bpe = &tokenizer->bpe;
    lp_added_token token = {0};
    const char *content = NULL;
    int64_t id = 0;
    LP_CHECK(lp_json_only(entry, keys, err));
    LP_CHECK(lp_json_get_int(entry, "id", 0, INT32_MAX - 1, &id, err));
    LP_CHECK(lp_json_get_string(entry, "content", &content, err));
    LP_CHECK(lp_json_get_bool(entry, "single_word", &token.single_word, err));
    LP_CHECK(lp_json_get_bool(entry, "lstrip", &token.lstrip, err));
    LP_CHECK(lp_json_get_bool(entry, "rstrip", &token.rstrip, err));
    LP_CHECK(lp_json_get_bool(entry, "normalized", &token.normalized, err));
    LP_CHECK(lp_json_get_bool(entry, "special", &token.special, err));
    token.length = strlen(content);
    if (token.length == 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: an added token without content", entry->file, entry->path);
    int32_t own = lp_bpe_find(bpe, content, token.length);
    token.id = own >= 0 ? own : *next_id;
    if (token.id != id)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: \"%.80s\" says id %lld, but %s, %d", entry->file, entry->path,
                       content, (long long)id, own >= 0 ? "it already has one" : "the next free one counts", token.id);
    for (size_t i = 0; i < tokenizer->n_added; i++)
        if (tokenizer->added[i].id == token.id)
            return lp_fail(err, LP_ERR_VALUE, "%s: %s: the added token \"%.80s\" occurs twice", entry->file,
                           entry->path, content);
    if (own < 0) {
        bool added = false;
        LP_CHECK(lp_bpe_add_token(bpe, token.id, content, &added, err));
        if (!added)
            return lp_fail(err, LP_ERR_VALUE, "%s: %s: \"%.80s\": the id %d is already that of \"%.80s\"", entry->file,
                           entry->path, content, token.id, lp_bpe_spelling(bpe, token.id));
        ++*next_id;
    }
    if (token.normalized && tokenizer->nfc) {
        lp_text normal = {0};
        lp_status status = lp_nfc(content, token.length, &normal, err);
        bool same = status == LP_OK && strcmp(lp_text_get(&normal), content) == 0;
        lp_text_release(&normal);
        if (status == LP_OK && !same)
            status = lp_fail(err, LP_ERR_UNSUPPORTED,
                             "%s: %s: a token that is looked for after normalization, but is not in form C",
                             entry->file, entry->path);
        LP_CHECK(status);
    }
    tokenizer->special[token.id] = token.special;
    tokenizer->added_starts[(unsigned char)content[0]] = true;
    tokenizer->added[tokenizer->n_added++] = token;
    if (!token.single_word || tokenizer->word) return LP_OK;
    return lp_pattern_new(word_character, entry->file, &tokenizer->word, err);
}

static int longest_first(const void *a, const void *b) {
    const lp_added_token *left = a, *right = b;
    if (left->length != right->length) return left->length > right->length ? -1 : 1;
    return left->id < right->id ? -1 : 1;
}

static lp_status read_added_tokens(const lp_json *added, lp_tokenizer *tokenizer, size_t n_entries, lp_error *err) {
    int32_t next_id = (int32_t)n_entries;
    LP_CHECK(lp_mem_new(&tokenizer->added, tokenizer->bpe.n_tokens - tokenizer->bpe.n_vocab, sizeof *tokenizer->added,
                        "added tokens", err));
    LP_CHECK(
        lp_mem_new(&tokenizer->special, tokenizer->bpe.n_tokens, sizeof *tokenizer->special, "special tokens", err));
    lp_json entry;
    for (lp_json_first(added, &entry); entry.node; lp_json_next(added, &entry))
        LP_CHECK(read_added_token(&entry, tokenizer, &next_id, err));
    if (tokenizer->n_added) qsort(tokenizer->added, tokenizer->n_added, sizeof *tokenizer->added, longest_first);
    return LP_OK;
}

static lp_status add_step(const lp_json *at, lp_tokenizer *tokenizer, bool prefix_space, const char *pattern,
                          lp_error *err) {
    if (tokenizer->n_steps == LP_TOKENIZER_MAX_STEPS)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: %s: more than %d pre-tokenizers are not supported", at->file,
                       at->path, (int)LP_TOKENIZER_MAX_STEPS);
    char place[LP_JSON_PATH + 264];
    snprintf(place, sizeof place, "%.255s: %s", at->file, at->path);
    lp_pretoken_step *step = &tokenizer->steps[tokenizer->n_steps++];
    step->prefix_space = prefix_space;
    return pattern ? lp_pattern_new(pattern, place, &step->pattern, err) : LP_OK;
}

static lp_status read_split(const lp_json *split, lp_tokenizer *tokenizer, lp_error *err) {
    static const char *const keys[] = {"type", "pattern", "behavior", "invert", NULL};
    static const char *const pattern_keys[] = {"Regex", NULL};
    static const char *const behaviors[] = {"Isolated", NULL};
    lp_json pattern, regex, invert_value;
    const char *source = NULL;
    int choice = 0;
    bool invert = false;
    LP_CHECK(lp_json_only(split, keys, err));
    LP_CHECK(lp_json_get_choice(split, "behavior", behaviors, &choice, err));
    LP_CHECK(lp_json_get(split, "invert", &invert_value, err));
    LP_CHECK(lp_json_bool(&invert_value, &invert, err));
    if (invert) return lp_json_fail(&invert_value, err, "false (nothing else is supported)");
    LP_CHECK(lp_json_get(split, "pattern", &pattern, err));
    LP_CHECK(lp_json_only(&pattern, pattern_keys, err));
    LP_CHECK(lp_json_get(&pattern, "Regex", &regex, err));
    LP_CHECK(lp_json_string(&regex, &source, err));
    return add_step(&regex, tokenizer, false, source, err);
}

static lp_status read_byte_level(const lp_json *level, bool *prefix_space, bool *use_regex, lp_error *err) {
    static const char *const keys[] = {"type", "add_prefix_space", "trim_offsets", "use_regex", NULL};
    bool trim_offsets = false;
    *use_regex = true;
    LP_CHECK(lp_json_only(level, keys, err));
    LP_CHECK(lp_json_get_bool(level, "add_prefix_space", prefix_space, err));
    LP_CHECK(lp_json_get_bool(level, "trim_offsets", &trim_offsets, err));
    return lp_json_opt_bool(level, "use_regex", use_regex, err);
}

/* What was read of the parts that may be nested in sequences. */
typedef struct {
    lp_tokenizer *tokenizer;
    bool byte_level; /* a ByteLevel pre-tokenizer: nothing may come after it, because it leaves letters instead of text
                      */
    bool templated;  /* a TemplateProcessing */
    int n_decoders;  /* of kind ByteLevel */
} parts_read;

typedef lp_status (*part_reader)(const lp_json *part, parts_read *read, lp_error *err);

/* {"type": "Sequence", KEY: [part, ...]} */
static lp_status read_sequence(const lp_json *sequence, const char *key, part_reader each, parts_read *read,
                               lp_error *err) {
    const char *const keys[] = {"type", key, NULL};
    lp_json members, member;
    size_t n = 0;
    LP_CHECK(lp_json_only(sequence, keys, err));
    LP_CHECK(lp_json_get(sequence, key, &members, err));
    LP_CHECK(lp_json_array_size(&members, &n, err));
    for (lp_json_first(&members, &member); member.node; lp_json_next(&members, &member))
        LP_CHECK(each(&member, read, err));
    return LP_OK;
}

static lp_status read_pre_tokenizer(const lp_json *pre, parts_read *read, lp_error *err) {
    static const char *const types[] = {"ByteLevel", "Split", "Sequence", "Digits", NULL};
    static const char *const digits_keys[] = {"type", "individual_digits", NULL};
    bool prefix_space = false, use_regex = true, individual = false;
    int choice = 0;
    LP_CHECK(lp_json_get_choice(pre, "type", types, &choice, err));
    if (read->byte_level)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: %s: a pre-tokenizer after ByteLevel is not supported", pre->file,
                       pre->path);
    if (choice == 0) {
        LP_CHECK(read_byte_level(pre, &prefix_space, &use_regex, err));
        read->byte_level = true;
        return add_step(pre, read->tokenizer, prefix_space, use_regex ? lp_pattern_byte_level : NULL, err);
    }
    if (choice == 1) return read_split(pre, read->tokenizer, err);
    if (choice == 2) return read_sequence(pre, "pretokenizers", read_pre_tokenizer, read, err);
    LP_CHECK(lp_json_only(pre, digits_keys, err));
    LP_CHECK(lp_json_get_bool(pre, "individual_digits", &individual, err));
    return add_step(pre, read->tokenizer, false, individual ? "\\p{N}" : "\\p{N}+", err);
}

/* The ids of one special token of a template, appended to *out. */
static lp_status read_template_token(const lp_json *specials, const lp_json *piece, const lp_tokenizer *tokenizer,
                                     lp_token_list *out, lp_error *err) {
    lp_json special, ids, id_value;
    const char *name = NULL;
    size_t n = 0;
    LP_CHECK(lp_json_get_string(piece, "id", &name, err));
    LP_CHECK(lp_json_get(specials, name, &special, err));
    LP_CHECK(lp_json_get(&special, "ids", &ids, err));
    LP_CHECK(lp_json_array_size(&ids, &n, err));
    for (lp_json_first(&ids, &id_value); id_value.node; lp_json_next(&ids, &id_value)) {
        int64_t id = 0;
        LP_CHECK(lp_json_int(&id_value, 0, lp_tokenizer_size(tokenizer) - 1, &id, err));
        int32_t narrow = (int32_t)id;
        LP_CHECK(lp_token_list_add(out, &narrow, 1, err));
    }
    return LP_OK;
}

static lp_status read_template(const lp_json *template, lp_tokenizer *tokenizer, bool *done, lp_error *err) {
    static const char *const keys[] = {"type", "single", "pair", "special_tokens", NULL};
    static const char *const piece_keys[] = {"SpecialToken", "Sequence", NULL};
    bool text_seen = false;
    size_t n = 0;
    lp_json single, specials, piece, part;
    if (*done)
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: %s: a second TemplateProcessing is not supported", template->file,
                       template->path);
    *done = true;
    LP_CHECK(lp_json_only(template, keys, err));
    LP_CHECK(lp_json_get(template, "single", &single, err));
    LP_CHECK(lp_json_get(template, "special_tokens", &specials, err));
    LP_CHECK(lp_json_array_size(&single, &n, err));
    for (lp_json_first(&single, &piece); piece.node; lp_json_next(&single, &piece)) {
        LP_CHECK(lp_json_only(&piece, piece_keys, err));
        LP_CHECK(lp_json_find(&piece, "Sequence", &part, err));
        if (part.node) {
            const char *which = NULL;
            LP_CHECK(lp_json_get_string(&part, "id", &which, err));
            if (text_seen || strcmp(which, "A") != 0)
                return lp_fail(err, LP_ERR_UNSUPPORTED,
                               "%s: %s: a template that holds more than the sequence A once is not supported",
                               part.file, part.path);
            text_seen = true;
        } else {
            LP_CHECK(lp_json_get(&piece, "SpecialToken", &part, err));
            LP_CHECK(read_template_token(&specials, &part, tokenizer,
                                         text_seen ? &tokenizer->after : &tokenizer->before, err));
        }
    }
    if (!text_seen)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: the template has no sequence A", single.file, single.path);
    return LP_OK;
}

static lp_status read_post_processor(const lp_json *post, parts_read *read, lp_error *err) {
    static const char *const types[] = {"ByteLevel", "TemplateProcessing", "Sequence", NULL};
    bool prefix_space = false, use_regex = true; /* a ByteLevel moves offsets only, which we do not report */
    int choice = 0;
    LP_CHECK(lp_json_get_choice(post, "type", types, &choice, err));
    if (choice == 0) return read_byte_level(post, &prefix_space, &use_regex, err);
    if (choice == 1) return read_template(post, read->tokenizer, &read->templated, err);
    return read_sequence(post, "processors", read_post_processor, read, err);
}

static lp_status read_decoder(const lp_json *decoder, parts_read *read, lp_error *err) {
    static const char *const types[] = {"ByteLevel", "Sequence", NULL};
    bool prefix_space = false, use_regex = true;
    int choice = 0;
    LP_CHECK(lp_json_get_choice(decoder, "type", types, &choice, err));
    if (choice == 1) return read_sequence(decoder, "decoders", read_decoder, read, err);
    read->n_decoders++;
    return read_byte_level(decoder, &prefix_space, &use_regex, err);
}

static lp_status read_normalizer(const lp_json *normalizer, parts_read *read, lp_error *err) {
    static const char *const types[] = {"NFC", "Sequence", NULL};
    int choice = 0;
    LP_CHECK(lp_json_get_choice(normalizer, "type", types, &choice, err));
    if (choice == 1) return read_sequence(normalizer, "normalizers", read_normalizer, read, err);
    read->tokenizer->nfc = true;
    return LP_OK;
}

lp_status lp_tokenizer_read(const char *text, size_t size, const char *name, lp_tokenizer *tokenizer, lp_error *err) {
    static const char *const keys[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                       "pre_tokenizer", "post_processor", "decoder", "model",        NULL};
    static const char *const versions[] = {"1.0", NULL};
    lp_status status = LP_OK;
    cJSON *document = NULL;
    lp_json root, added, part;
    parts_read read = {.tokenizer = tokenizer};
    int choice = 0;
    size_t n_entries = 0;
    lp_json_cut cuts[] = {{.parent = "model", .key = "vocab"}, {.parent = "model", .key = "merges"}};
    LP_TRY(lp_json_parse_around(text, size, name, cuts, 2, &document, &root, err));
    const long_parts parts = {.text = text, .name = name, .vocab = cuts[0], .merges = cuts[1]};
    LP_TRY(lp_json_only(&root, keys, err));
    LP_TRY(lp_json_get_choice(&root, "version", versions, &choice, err));
    LP_TRY(lp_json_find(&root, "normalizer", &part, err));
    if (part.node) LP_TRY(read_normalizer(&part, &read, err));
    LP_TRY(lp_json_get(&root, "added_tokens", &added, err));
    LP_TRY(read_model(&root, &added, &parts, &tokenizer->bpe, &n_entries, err));
    LP_TRY(read_added_tokens(&added, tokenizer, n_entries, err));
    LP_TRY(lp_json_get(&root, "pre_tokenizer", &part, err));
    LP_TRY(read_pre_tokenizer(&part, &read, err));
    if (!read.byte_level)
        LP_FAIL(LP_ERR_UNSUPPORTED, "%s: %s: no ByteLevel in it, and only byte-level BPE is supported", part.file,
                part.path);
    LP_TRY(lp_json_find(&root, "post_processor", &part, err));
    if (part.node) LP_TRY(read_post_processor(&part, &read, err));
    LP_TRY(lp_json_get(&root, "decoder", &part, err));
    LP_TRY(read_decoder(&part, &read, err));
    if (read.n_decoders != 1)
        LP_FAIL(LP_ERR_UNSUPPORTED, "%s: %s: expected one ByteLevel, found %d", part.file, part.path, read.n_decoders);
out:
    cJSON_Delete(document);
    return status;
}
