/* Encoding:
 *
 *   bytes -> well-formed UTF-8 -> cut at added tokens (those not `normalized`, then, after the normalizer, the others)
 *         -> pre-tokenizer steps, one inside of the other -> BPE per piece -> post-processor's tokens around all
 */
#include "token/tokenizer.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "token/nfc.h"
#include "token/tokenizer_files.h"
#include "token/tokenizer_parts.h"
#include "token/utf8.h"

/* What one call of lp_tokenizer_encode works with; the tokenizer itself is shared by threads. */
typedef struct {
    const lp_tokenizer *tokenizer;
    lp_matcher *matcher;
    lp_bpe_scratch scratch;
    lp_token_list *out;
    lp_error *err;
} encoder;

lp_status lp_token_list_add(lp_token_list *list, const int32_t *ids, size_t n, lp_error *err) {
    LP_CHECK(lp_mem_grow(&list->ids, &list->capacity, list->n + n, sizeof *list->ids, "token ids", err));
    if (n) memcpy(list->ids + list->n, ids, n * sizeof *ids);
    list->n += n;
    return LP_OK;
}

void lp_token_list_release(lp_token_list *list) {
    lp_mem_free(list->ids);
    *list = (lp_token_list){0};
}

lp_status lp_tokenizer_parse(const char *text, size_t size, const char *name, lp_tokenizer **out, lp_error *err) {
    static const char pointer[] = "version https://git-lfs";
    lp_status status = LP_OK;
    lp_tokenizer *tokenizer = NULL;
    unsigned char digest[LP_SHA256_BYTES];
    if (size >= sizeof pointer - 1 && memcmp(text, pointer, sizeof pointer - 1) == 0)
        LP_FAIL(LP_ERR_FORMAT, "%s: this is a Git LFS pointer, not the file: fetch it with git lfs pull", name);
    LP_TRY(lp_mem_new(&tokenizer, 1, sizeof *tokenizer, "tokenizer", err));
    LP_TRY(lp_tokenizer_read(text, size, name, tokenizer, err));
    LP_TRY(lp_sha256_of(text, size, digest, err));
    lp_sha256_hex(digest, tokenizer->digest);
    *out = tokenizer;
    tokenizer = NULL;
out:
    lp_tokenizer_free(tokenizer);
    return status;
}

/* tokenizer_config.json beside tokenizer.json. */
static lp_status read_clean_up(const char *path, bool *out, lp_error *err) {
    char *folder = NULL, *file = NULL;
    cJSON *document = NULL;
    lp_json root;
    lp_status status = LP_OK;
    LP_TRY(lp_path_folder(path, &folder, err));
    LP_TRY(lp_path_join(folder, "tokenizer_config.json", &file, err));
    if (lp_path_look(file) != LP_PATH_FILE) goto out;
    LP_TRY(lp_json_load(file, 64u << 20, &document, &root, err));
    LP_TRY(lp_json_opt_bool(&root, "clean_up_tokenization_spaces", out, err));
out:
    cJSON_Delete(document);
    lp_mem_free(folder);
    lp_mem_free(file);
    return status;
}

/* A folder without tokenizer.json, but with vocab.json. */
static lp_status has_older_files(const char *folder, const char *newer, bool *out, lp_error *err) {
    char *path = NULL;
    LP_CHECK(lp_path_join(folder, "vocab.json", &path, err));
    *out = lp_path_look(newer) == LP_PATH_MISSING && lp_path_look(path) == LP_PATH_FILE;
    lp_mem_free(path);
    return LP_OK;
}

lp_status lp_tokenizer_load(const char *path, lp_tokenizer **out, lp_error *err) {
    lp_status status = LP_OK;
    char *inside = NULL;
    lp_tokenizer *tokenizer = NULL;
    lp_mapped_file file = {0};
    lp_text composed = {0};
    bool older = false;
    if (lp_path_look(path) == LP_PATH_FOLDER) {
        LP_TRY(lp_path_join(path, "tokenizer.json", &inside, err));
        LP_TRY(has_older_files(path, inside, &older, err));
        if (older) LP_TRY(lp_tokenizer_compose(path, &composed, err));
        if (older) {
            lp_mem_free(inside);
            inside = NULL;
            LP_TRY(lp_path_join(path, "vocab.json", &inside, err));
        }
        path = inside;
    }
    if (older) {
        /* Messages say "vocab.json: $.model.merges[3]: ...". */
        LP_TRY(lp_tokenizer_parse(composed.data, composed.length, path, &tokenizer, err));
    } else {
        LP_TRY(lp_file_map(path, &file, err));
        LP_TRY(lp_tokenizer_parse((const char *)file.data, file.size, path, &tokenizer, err));
    }
    LP_TRY(read_clean_up(path, &tokenizer->clean_up, err));
    *out = tokenizer;
    tokenizer = NULL;
out:
    lp_tokenizer_free(tokenizer);
    lp_file_unmap(&file);
    lp_mem_free(inside);
    lp_text_release(&composed);
    return status;
}

void lp_tokenizer_free(lp_tokenizer *tokenizer) {
    if (!tokenizer) return;
    for (size_t i = 0; i < tokenizer->n_steps; i++) lp_pattern_free(tokenizer->steps[i].pattern);
    lp_pattern_free(tokenizer->word);
    lp_bpe_release(&tokenizer->bpe);
    lp_mem_free(tokenizer->added);
    lp_mem_free(tokenizer->special);
    lp_token_list_release(&tokenizer->before);
    lp_token_list_release(&tokenizer->after);
    lp_mem_free(tokenizer);
}

static lp_status encode_piece(encoder *self, const char *text, size_t length, size_t step);

/* Cuts text into matches and the gaps between them, each of which goes on to the next step. */
static lp_status encode_matches(encoder *self, const lp_pattern *pattern, const char *text, size_t length,
                                size_t next_step) {
    size_t done = 0, from = 0;
    while (from < length) {
        bool found = false;
        size_t start = 0, end = 0;
        LP_CHECK(lp_pattern_find(pattern, self->matcher, text, length, from, &found, &start, &end, self->err));
        if (!found) break;
        LP_CHECK(encode_piece(self, text + done, start - done, next_step));
        LP_CHECK(encode_piece(self, text + start, end - start, next_step));
        done = end;
        from = end;
        if (start == end && end < length) { /* an empty match: go on after the next character */
            uint32_t code_point = 0;
            bool well_formed = false;
            from += lp_utf8_next(text + end, length - end, &code_point, &well_formed);
        }
    }
    return encode_piece(self, text + done, length - done, next_step);
}

static lp_status encode_piece(encoder *self, const char *text, size_t length, size_t step) {
    if (length == 0) return LP_OK;
    const lp_tokenizer *tokenizer = self->tokenizer;
    if (step == tokenizer->n_steps)
        return lp_bpe_encode(&tokenizer->bpe, text, length, &self->scratch, self->out, self->err);
    lp_status status = LP_OK;
    lp_error *err = self->err;
    const lp_pretoken_step *current = &tokenizer->steps[step];
    lp_text spaced = {0};
    if (current->prefix_space && text[0] != ' ') {
        LP_TRY(lp_text_add(&spaced, " ", 1, err));
        LP_TRY(lp_text_add(&spaced, text, length, err));
        text = spaced.data;
        length = spaced.length;
    }
    if (current->pattern)
        LP_TRY(encode_matches(self, current->pattern, text, length, step + 1));
    else
        LP_TRY(encode_piece(self, text, length, step + 1));
out:
    lp_text_release(&spaced);
    return status;
}

/* The longest added token of the given kind that text[0..length) begins with, or NULL. */
static const lp_added_token *added_at(const lp_tokenizer *tokenizer, bool normalized, const char *text, size_t length) {
    if (!tokenizer->added_starts[(unsigned char)text[0]]) return NULL;
    for (size_t i = 0; i < tokenizer->n_added; i++) {
        const lp_added_token *token = &tokenizer->added[i];
        if (token->normalized == normalized && token->length <= length &&
            memcmp(lp_bpe_spelling(&tokenizer->bpe, token->id), text, token->length) == 0)
            return token;
    }
    return NULL;
}

static bool is_white_space(uint32_t c) {
    return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* The offset of the character before text[at]; at > 0. */
static size_t step_back(const char *text, size_t at) {
    do at--;
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

static lp_status word_at(encoder *self, const char *text, size_t length, bool *is_word) {
    uint32_t code_point = 0;
    bool well_formed = false;
    size_t n = lp_utf8_next(text, length, &code_point, &well_formed), start = 0, end = 0;
    return lp_pattern_find(self->tokenizer->word, self->matcher, text, n, 0, is_word, &start, &end, self->err);
}

static lp_status touches_word(encoder *self, const char *text, size_t length, size_t start, size_t end, bool *touches) {
    bool left = false, right = false;
    if (start > 0) LP_CHECK(word_at(self, text + step_back(text, start), length - step_back(text, start), &left));
    if (end < length) LP_CHECK(word_at(self, text + end, length - end, &right));
    *touches = left || right;
    return LP_OK;
}

static lp_status encode_added(encoder *self, const char *text, size_t length, bool normalized);

/* The text between the added tokens that are looked for before normalization. */
static lp_status encode_normalized(encoder *self, const char *text, size_t length) {
    if (!self->tokenizer->nfc) return encode_added(self, text, length, true);
    lp_text normal = {0};
    lp_status status = lp_nfc(text, length, &normal, self->err);
    if (status == LP_OK) status = encode_added(self, lp_text_get(&normal), normal.length, true);
    lp_text_release(&normal);
    return status;
}

/* Cuts text at the added tokens of one kind; what lies between goes on to the other kind, then to the steps. Follows
 * AddedVocabulary::find_matches of the `tokenizers` package: leftmost, longest, not overlapping. */
static lp_status encode_added(encoder *self, const char *text, size_t length, bool normalized) {
    size_t done = 0, at = 0;
    lp_error *err = self->err;
    while (at < length) {
        const lp_added_token *token = added_at(self->tokenizer, normalized, text + at, length - at);
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, end = at + token->length;
        at = end;
        if (token->single_word) {
            bool touches = false;
            LP_CHECK(touches_word(self, text, length, start, end, &touches));
            if (touches) continue;
        }
        uint32_t code_point = 0;
        bool well_formed = false;
        if (token->lstrip && start < done) start = done; /* the token before has swallowed this one's beginning */
        while (token->lstrip && start > done) {
            size_t previous = step_back(text, start);
            lp_utf8_next(text + previous, length - previous, &code_point, &well_formed);
            if (!is_white_space(code_point)) break;
            start = previous;
        }
        while (token->rstrip && end < length) {
            size_t n = lp_utf8_next(text + end, length - end, &code_point, &well_formed);
            if (!is_white_space(code_point)) break;
            end += n;
        }
        if (done < start)
            LP_CHECK(normalized ? encode_piece(self, text + done, start - done, 0)
                                : encode_normalized(self, text + done, start - done));
        if (start < end) LP_CHECK(lp_token_list_add(self->out, &token->id, 1, err));
        done = end;
    }
    if (done < length)
        LP_CHECK(normalized ? encode_piece(self, text + done, length - done, 0)
                            : encode_normalized(self, text + done, length - done));
    return LP_OK;
}

lp_status lp_tokenizer_encode(const lp_tokenizer *tokenizer, const char *text, size_t length, lp_token_special special,
                              lp_token_list *out, lp_error *err) {
    lp_status status = LP_OK;
    size_t n_before = out->n;
    lp_text repaired = {0};
    encoder self = {.tokenizer = tokenizer, .out = out, .err = err};
    if (length > INT32_MAX / 4) LP_FAIL(LP_ERR_VALUE, "a text of %zu bytes is too long to tokenize", length);
    LP_TRY(lp_matcher_new(&self.matcher, err));
    LP_TRY(lp_utf8_repair(text, length, &repaired, err));
    if (special == LP_TOKENS_WITH_SPECIAL)
        LP_TRY(lp_token_list_add(out, tokenizer->before.ids, tokenizer->before.n, err));
    LP_TRY(encode_added(&self, lp_text_get(&repaired), repaired.length, false));
    if (special == LP_TOKENS_WITH_SPECIAL)
        LP_TRY(lp_token_list_add(out, tokenizer->after.ids, tokenizer->after.n, err));
out:
    if (status != LP_OK) out->n = n_before;
    lp_matcher_free(self.matcher);
    lp_bpe_scratch_release(&self.scratch);
    lp_text_release(&repaired);
    return status;
}

/* The bytes that a token's letters stand for; a token with any other character stands for itself. */
static lp_status add_token_bytes(const char *spelling, lp_text *out, lp_error *err) {
    size_t length = strlen(spelling), before = out->length;
    for (size_t i = 0; i < length;) {
        uint32_t letter = 0;
        bool well_formed = false;
        i += lp_utf8_next(spelling + i, length - i, &letter, &well_formed);
        int byte = lp_letter_byte(letter);
        char c = (char)byte;
        if (byte < 0) {
            out->length = before;
            return lp_text_add(out, spelling, length, err);
        }
        LP_CHECK(lp_text_add(out, &c, 1, err));
    }
    return LP_OK;
}

/* In this order, each over the whole text (PreTrainedTokenizerBase.clean_up_tokenization of transformers). */
static void clean_up(char *text, size_t *length) {
    static const char *const changes[][2] = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                             {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                             {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t c = 0; c < sizeof changes / sizeof *changes; c++) {
        size_t n = strlen(changes[c][0]), m = strlen(changes[c][1]), to = 0;
        for (size_t at = 0; at < *length;) {
            if (*length - at >= n && memcmp(text + at, changes[c][0], n) == 0) {
                memcpy(text + to, changes[c][1], m);
                at += n;
                to += m;
            } else {
                text[to++] = text[at++];
            }
        }
        *length = to;
    }
    text[*length] = '\0';
}

lp_status lp_tokenizer_decode(const lp_tokenizer *tokenizer, const int32_t *ids, size_t n, lp_decode_special special,
                              lp_text *out, lp_error *err) {
    lp_status status = LP_OK;
    lp_text bytes = {0};
    for (size_t i = 0; i < n; i++) {
        const char *spelling = lp_tokenizer_spelling(tokenizer, ids[i]);
        if (!spelling || (special != LP_DECODE_ALL && tokenizer->special[ids[i]])) continue;
        LP_TRY(add_token_bytes(spelling, &bytes, err));
    }
    size_t before = out->length;
    LP_TRY(lp_utf8_repair(lp_text_get(&bytes), bytes.length, out, err));
    if (special == LP_DECODE_ANSWER && tokenizer->clean_up && out->length > before) {
        size_t length = out->length - before;
        clean_up(out->data + before, &length);
        out->length = before + length;
    }
out:
    lp_text_release(&bytes);
    return status;
}

int32_t lp_tokenizer_size(const lp_tokenizer *tokenizer) {
    size_t n = tokenizer->bpe.n_tokens;
    while (n > 0 && !tokenizer->bpe.tokens[n - 1].known) n--;
    return (int32_t)n;
}

int32_t lp_tokenizer_find(const lp_tokenizer *tokenizer, const char *token) {
    return lp_bpe_find(&tokenizer->bpe, token, strlen(token));
}

const char *lp_tokenizer_spelling(const lp_tokenizer *tokenizer, int32_t id) {
    return lp_bpe_spelling(&tokenizer->bpe, id);
}

bool lp_tokenizer_is_special(const lp_tokenizer *tokenizer, int32_t id) {
    return id >= 0 && id < lp_tokenizer_size(tokenizer) && tokenizer->special[id];
}

bool lp_tokenizer_cleans_up(const lp_tokenizer *tokenizer) {
    return tokenizer->clean_up;
}

const char *lp_tokenizer_digest(const lp_tokenizer *tokenizer) {
    return tokenizer->digest;
}
