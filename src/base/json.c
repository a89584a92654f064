#include "base/json.h"

#include "base/file.h"
#include "base/memory.h"

#include <math.h>

/* Bytes that a tree may take for each byte of its text, and what a small text may take in any case. With the text, and
 * what is made of the tree, a reader stays below 16 bytes for each byte. */
enum { MEMORY = 12, MEMORY_FLOOR = 16 << 20 };

/* Bytes that cJSON takes for the text: a node a value, and a block of its own for every string. */
static uint64_t tree_bytes(const char *text, size_t size) {
    enum { BLOCK = 16, SHORTEST = 32 }; /* of malloc */
    uint64_t n_values = 1, n_quotes = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (in_string && c == '\\') {
            i++;
        } else if (c == '"') {
            in_string = !in_string;
            n_quotes++;
        } else if (!in_string) {
            n_values += c == ',' || c == '[' || c == '{';
        }
    }
    return n_values * (sizeof(cJSON) + BLOCK) + n_quotes / 2 * SHORTEST + size;
}

/* cJSON recurses over nesting without asking us, so depth is checked before it sees the text. */
static size_t deepest(const char *text, size_t size) {
    size_t depth = 0, most = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > most) most = depth;
        } else if ((c == '}' || c == ']') && depth > 0) {
            depth--;
        }
    }
    return most;
}

void lp_json_place(const char *text, size_t offset, size_t *line, size_t *column) {
    *line = 1;
    *column = 1;
    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            ++*line;
            *column = 1;
        } else {
            ++*column;
        }
    }
}

/* cJSON ends a string at an escaped NUL without a word. */
static const char *find_nul_escape(const char *text, size_t size) {
    for (size_t i = 0; i + 5 < size; i++) {
        if (text[i] != '\\') continue;
        if (memcmp(text + i, "\\u0000", 6) == 0) return text + i;
        i++;
    }
    return NULL;
}

/* The end of a number as JSON writes it, from its sign or first digit; NULL where it is none ("064", "64.", "+1"). */
static const char *end_of_number(const char *p, const char *end) {
    p += p < end && *p == '-';
    if (p == end || *p < '0' || *p > '9') return NULL;
    const char *first = p;
    while (p < end && *p >= '0' && *p <= '9') p++;
    if (*first == '0' && p - first > 1) return NULL;
    if (p < end && *p == '.') {
        const char *digits = ++p;
        while (p < end && *p >= '0' && *p <= '9') p++;
        if (p == digits) return NULL;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        p += p < end && (*p == '+' || *p == '-');
        const char *digits = p;
        while (p < end && *p >= '0' && *p <= '9') p++;
        if (p == digits) return NULL;
    }
    return p;
}

/* The next number at p or after it, outside strings and words; NULL if there is none. `after` is its end, or NULL where
 * JSON's grammar does not know it. */
static const char *next_number(const char *p, const char *end, const char **after) {
    for (; p < end; p++) {
        if (*p == '"') {
            for (p++; p < end && *p != '"'; p++) p += *p == '\\' && p + 1 < end;
        } else if (strchr("+-.0123456789", *p)) {
            *after = end_of_number(p, end);
            if (*after && *after < end && strchr("+-.0123456789", **after)) *after = NULL;
            return p;
        } else if (*p >= 'a' && *p <= 'z') {
            while (p + 1 < end && p[1] >= 'a' && p[1] <= 'z') p++;
        }
    }
    return NULL;
}

/* cJSON reads numbers by strtod, which takes more than JSON's grammar does. NULL: there is no such number. */
static const char *find_bad_number(const char *text, size_t size) {
    const char *after = text, *number = NULL;
    while ((number = next_number(after, text + size, &after)) != NULL)
        if (!after) return number;
    return NULL;
}

enum {
    CJSON_NUMBER = 63
}; /* characters that every release of cJSON reads; 1.7.15 to 1.7.17 call a longer one malformed */

/* Writes every longer number with 17 digits, which are the same double, and fills up with blanks, so that each place in
 * the text stays what it was. `copy` is NULL if there is none. */
static lp_status shorten_numbers(const char *text, size_t size, char **copy, lp_error *err) {
    const char *after = text, *number = NULL;
    while ((number = next_number(after, text + size, &after)) != NULL) {
        if (after - number <= CJSON_NUMBER) continue;
        if (!*copy) {
            lp_status status = lp_mem_text(copy, text, size, err);
            if (status != LP_OK) return status;
        }
        char *at = *copy + (number - text);
        double value = strtod(at, NULL);
        memset(at, ' ', (size_t)(after - number));
        int n = isinf(value) ? snprintf(at, CJSON_NUMBER, "%s1e999", value < 0 ? "-" : "") /* strtod's infinity */
                             : snprintf(at, CJSON_NUMBER, "%.17g", value);
        at[n] = ' ';
    }
    return LP_OK;
}

static int compare_keys(const void *a, const void *b) {
    const char *const *left = a;
    const char *const *right = b;
    return strcmp(*left, *right);
}

/* Duplicate keys are legal for cJSON, which finds the first: refuse them, at any depth. */
static lp_status refuse_duplicates(const cJSON *node, const char *file, lp_error *err) {
    lp_status status = LP_OK;
    const char **keys = NULL;
    size_t n = 0;
    const cJSON *child = NULL;
    cJSON_ArrayForEach(child, node) n++;
    if (cJSON_IsObject(node) && n > 1) {
        LP_TRY(lp_mem_new(&keys, n, sizeof *keys, "JSON keys", err));
        size_t i = 0;
        cJSON_ArrayForEach(child, node) keys[i++] = child->string;
        qsort(keys, n, sizeof *keys, compare_keys);
        for (i = 1; i < n; i++)
            if (strcmp(keys[i - 1], keys[i]) == 0)
                LP_FAIL(LP_ERR_FORMAT, "%s: the key \"%.80s\" occurs twice in one object%s%.80s%s", file, keys[i],
                        node->string ? " (\"" : "", node->string ? node->string : "", node->string ? "\")" : "");
    }
    cJSON_ArrayForEach(child, node) {
        LP_TRY(refuse_duplicates(child, file, err));
    }
out:
    lp_mem_free(keys);
    return status;
}

static lp_status fail_at(const char *text, size_t offset, const char *file, const char *what, lp_error *err) {
    size_t line = 0, column = 0;
    lp_json_place(text, offset, &line, &column);
    return lp_fail(err, LP_ERR_FORMAT, "%s:%zu:%zu: %s", file, line, column, what);
}

/* What can be said of a text before a tree is made of it. */
static lp_status check_text(const char *text, size_t size, const char *file, lp_error *err) {
    size_t bad = 0, line = 0, column = 0;
    if (!lp_utf8_valid(text, size, &bad)) {
        lp_json_place(text, bad, &line, &column);
        return lp_fail(err, LP_ERR_FORMAT, "%s:%zu:%zu: not valid UTF-8 (byte 0x%02x)", file, line, column,
                       (unsigned char)text[bad]);
    }
    const char *nul = size ? memchr(text, 0, size) : NULL;
    if (nul) return fail_at(text, (size_t)(nul - text), file, "a NUL byte in JSON text", err);
    const char *escape = find_nul_escape(text, size);
    if (escape) return fail_at(text, (size_t)(escape - text), file, "a NUL character (\\u0000) in JSON text", err);
    if (deepest(text, size) > LP_JSON_MAX_DEPTH)
        return lp_fail(err, LP_ERR_FORMAT, "%s: JSON nested deeper than %d", file, LP_JSON_MAX_DEPTH);
    const char *number = find_bad_number(text, size);
    if (number)
        return fail_at(text, (size_t)(number - text), file, "malformed JSON: a number that JSON does not know", err);
    return LP_OK;
}

static lp_status parse_tree(const char *original, size_t size, const char *file, cJSON **document, lp_json *root,
                            lp_error *err) {
    cJSON *parsed = NULL;
    char *copy = NULL;
    lp_status status = LP_OK;
    const uint64_t needed = tree_bytes(original, size), share = (uint64_t)MEMORY * size,
                   most = share > MEMORY_FLOOR ? share : MEMORY_FLOOR;
    if (needed > most)
        LP_FAIL(LP_ERR_FORMAT,
                "%s: %zu bytes of JSON of so many small values that they need %llu bytes of memory: expected at "
                "most %llu (%d for each byte); split the file",
                file, size, (unsigned long long)needed, (unsigned long long)most, (int)MEMORY);
    LP_TRY(shorten_numbers(original, size, &copy, err));
    const char *text = copy ? copy : original, *end = NULL;
    parsed = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    if (!parsed) {
        size_t offset = end && end >= text && (size_t)(end - text) <= size ? (size_t)(end - text) : 0;
        /* cJSON does not say that the system has no memory: then it would have none for another tree either. */
        void *again = malloc((size_t)needed);
        free(again);
        if (!again) LP_FAIL(LP_ERR_MEMORY, "%s: out of memory: %llu bytes wanted", file, (unsigned long long)needed);
        LP_TRY(fail_at(text, offset, file, "malformed JSON", err));
    }
    for (const char *p = end; p < text + size; p++)
        if (*p != ' ' && *p != '\t' && *p != '\n' && *p != '\r')
            LP_TRY(fail_at(text, (size_t)(p - text), file, "text after the end of the JSON value", err));
    LP_TRY(refuse_duplicates(parsed, file, err));
    *document = parsed;
    *root = (lp_json){.node = parsed, .file = file, .path = "$"};
    parsed = NULL;
out:
    cJSON_Delete(parsed);
    lp_mem_free(copy);
    return status;
}

lp_status lp_json_parse(const char *text, size_t size, const char *file, cJSON **document, lp_json *root,
                        lp_error *err) {
    lp_status status = check_text(text, size, file, err);
    return status == LP_OK ? parse_tree(text, size, file, document, root, err) : status;
}

static size_t end_of_string(const char *text, size_t size, size_t at) {
    for (at++; at < size && text[at] != '"'; at++) at += text[at] == '\\' && at + 1 < size;
    return at < size ? at + 1 : size;
}

static size_t skip_space(const char *text, size_t size, size_t at) {
    while (at < size && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r')) at++;
    return at;
}

/* The end of the array or object that begins at `at`; `at` where it has none. */
static size_t end_of_container(const char *text, size_t size, size_t at) {
    size_t depth = 0, i = at;
    while (i < size) {
        char c = text[i];
        if (c == '"') {
            i = end_of_string(text, size, i);
            continue;
        }
        depth += c == '{' || c == '[';
        depth -= c == '}' || c == ']';
        i++;
        if (depth == 0) return i;
    }
    return at;
}

static bool is_key(const char *text, size_t begin, size_t end, const char *key) {
    return end - begin == strlen(key) && memcmp(text + begin, key, end - begin) == 0;
}

static void find_cuts(const char *text, size_t size, lp_json_cut *cuts, size_t n) {
    size_t depth = 0, parent = 0, parent_end = 0, i = skip_space(text, size, 0);
    if (n == 1 && !cuts->key) {
        size_t end = i < size && (text[i] == '{' || text[i] == '[') ? end_of_container(text, size, i) : i;
        if (end > i) *cuts = (lp_json_cut){.begin = i, .end = end};
        return;
    }
    while (i < size) {
        if (text[i] != '"') {
            depth += text[i] == '{' || text[i] == '[';
            if (depth > 0) depth -= text[i] == '}' || text[i] == ']';
            i++;
            continue;
        }
        const size_t key = i + 1, after = end_of_string(text, size, i), colon = skip_space(text, size, after);
        i = after;
        if (colon >= size || text[colon] != ':') continue;
        if (depth == 1) {
            parent = key;
            parent_end = after - 1;
        }
        for (size_t k = 0; depth == 2 && k < n; k++) {
            size_t value = skip_space(text, size, colon + 1);
            bool named = is_key(text, key, after - 1, cuts[k].key) && is_key(text, parent, parent_end, cuts[k].parent);
            if (!named || cuts[k].end || value >= size || (text[value] != '[' && text[value] != '{')) continue;
            size_t end = end_of_container(text, size, value);
            if (end == value) continue;
            cuts[k].begin = value;
            cuts[k].end = i = end;
        }
    }
}

lp_status lp_json_parse_around(const char *text, size_t size, const char *file, lp_json_cut *cuts, size_t n,
                               cJSON **document, lp_json *root, lp_error *err) {
    char *around = NULL;
    lp_status status = LP_OK;
    for (size_t k = 0; k < n; k++) cuts[k].begin = cuts[k].end = 0;
    LP_TRY(check_text(text, size, file, err));
    find_cuts(text, size, cuts, n);
    /* Blanks in place of what is left out: lines and columns stay what they are. */
    LP_TRY(lp_mem_text(&around, text, size, err));
    for (size_t k = 0; k < n; k++)
        for (size_t i = cuts[k].begin + 1; i + 1 < cuts[k].end; i++)
            if (around[i] != '\n') around[i] = ' ';
    status = parse_tree(around, size, file, document, root, err);
out:
    lp_mem_free(around);
    return status;
}

lp_status lp_json_load(const char *file, size_t max_bytes, cJSON **document, lp_json *root, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_file_read(file, max_bytes, &text, err);
    if (status == LP_OK) status = lp_json_parse(lp_text_get(&text), text.length, file, document, root, err);
    lp_text_release(&text);
    return status;
}

lp_status lp_json_fail(const lp_json *value, lp_error *err, const char *format, ...) {
    char expected[512];
    va_list args;
    va_start(args, format);
    vsnprintf(expected, sizeof expected, format, args);
    va_end(args);
    char *found = value->node ? cJSON_PrintUnformatted(value->node) : NULL;
    const char *shown = found ? found : value->node ? "?" : "nothing";
    size_t length = strlen(shown);
    lp_fail(err, LP_ERR_VALUE, "%s: %s: expected %s, found %.60s%s", value->file, value->path, expected, shown,
            length > 60 ? "..." : "");
    cJSON_free(found);
    return LP_ERR_VALUE;
}

/* cJSON prints a number beyond those of a double as null. */
static const cJSON *find_infinite(const cJSON *node) {
    if (cJSON_IsNumber(node) && !isfinite(node->valuedouble)) return node;
    const cJSON *child = NULL;
    cJSON_ArrayForEach(child, node) {
        const cJSON *found = find_infinite(child);
        if (found) return found;
    }
    return NULL;
}

lp_status lp_json_print(const lp_json *value, char **out, lp_error *err) {
    const cJSON *infinite = find_infinite(value->node);
    if (infinite)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: a number that is too large for a double%s%.80s%s", value->file,
                       value->path, infinite->string ? " (\"" : "", infinite->string ? infinite->string : "",
                       infinite->string ? "\")" : "");
    char *text = cJSON_PrintUnformatted(value->node);
    if (!text) return lp_fail(err, LP_ERR_MEMORY, "%s: out of memory", value->file);
    lp_status status = lp_mem_text(out, text, strlen(text), err);
    cJSON_free(text);
    return status;
}

/* "%.190s.%.60s"; a group of a job asks for twenty members, and a job may have 100,000 groups. */
static void member_path(const lp_json *object, const char *key, lp_json *out) {
    enum { MOST_OF_OBJECT = 190, MOST_OF_KEY = 60 };
    size_t of_object = strnlen(object->path, MOST_OF_OBJECT), of_key = strnlen(key, MOST_OF_KEY);
    out->file = object->file;
    memcpy(out->path, object->path, of_object);
    out->path[of_object] = '.';
    memcpy(out->path + of_object + 1, key, of_key);
    out->path[of_object + 1 + of_key] = '\0';
}

lp_status lp_json_find(const lp_json *object, const char *key, lp_json *out, lp_error *err) {
    if (!lp_json_is_object(object)) return lp_json_fail(object, err, "an object");
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object->node, key);
    lp_json found;
    member_path(object, key, &found);
    found.node = cJSON_IsNull(node) ? NULL : node;
    *out = found;
    return LP_OK;
}

lp_status lp_json_get(const lp_json *object, const char *key, lp_json *out, lp_error *err) {
    lp_json found;
    LP_CHECK(lp_json_find(object, key, &found, err));
    if (!found.node)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: the key \"%s\" is missing", object->file, object->path, key);
    *out = found;
    return LP_OK;
}

enum { LIST_BYTES = 400 };

/* The words with commas between them, each in quotes, for a message. */
static void list_words(const char *const *words, const char *quote, char out[LIST_BYTES]) {
    size_t used = 0;
    out[0] = '\0';
    for (; *words && used < LIST_BYTES - 1; words++) {
        int n = snprintf(out + used, LIST_BYTES - used, "%s%s%s%s", used ? ", " : "", quote, *words, quote);
        used += n > 0 ? (size_t)n : 0;
    }
}

lp_status lp_json_only(const lp_json *object, const char *const *keys, lp_error *err) {
    if (!lp_json_is_object(object)) return lp_json_fail(object, err, "an object");
    const cJSON *child = NULL;
    cJSON_ArrayForEach(child, object->node) {
        bool known = false;
        for (const char *const *key = keys; *key && !known; key++) known = strcmp(*key, child->string) == 0;
        if (known) continue;
        char list[LIST_BYTES];
        list_words(keys, "", list);
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: unknown key \"%.80s\" (known: %s)", object->file, object->path,
                       child->string, list);
    }
    return LP_OK;
}

lp_status lp_json_array_size(const lp_json *array, size_t *out, lp_error *err) {
    if (!lp_json_is_array(array)) return lp_json_fail(array, err, "an array");
    *out = (size_t)cJSON_GetArraySize(array->node);
    return LP_OK;
}

static void element_path(const lp_json *array, size_t i, lp_json *out) {
    char path[LP_JSON_PATH];
    snprintf(path, sizeof path, "%.220s[%zu]", array->path, i);
    out->file = array->file;
    memcpy(out->path, path, sizeof path);
}

lp_status lp_json_at(const lp_json *array, size_t i, lp_json *out, lp_error *err) {
    size_t size = 0;
    LP_CHECK(lp_json_array_size(array, &size, err));
    LP_ASSERT(i < size);
    lp_json found = {.node = cJSON_GetArrayItem(array->node, (int)i)};
    element_path(array, i, &found);
    *out = found;
    return LP_OK;
}

void lp_json_first(const lp_json *container, lp_json *out) {
    lp_json first = {.node = container->node ? container->node->child : NULL};
    if (first.node && cJSON_IsObject(container->node))
        member_path(container, first.node->string, &first);
    else
        element_path(container, 0, &first);
    *out = first;
}

void lp_json_next(const lp_json *container, lp_json *at) {
    const cJSON *next = at->node->next;
    if (next && cJSON_IsObject(container->node)) {
        member_path(container, next->string, at);
    } else if (next) {
        size_t i = 0;
        const char *bracket = strrchr(at->path, '[');
        if (bracket) i = (size_t)strtoull(bracket + 1, NULL, 10) + 1;
        element_path(container, i, at);
    }
    at->node = next;
}

bool lp_json_is_object(const lp_json *value) {
    return value->node && cJSON_IsObject(value->node);
}
bool lp_json_is_array(const lp_json *value) {
    return value->node && cJSON_IsArray(value->node);
}
bool lp_json_is_string(const lp_json *value) {
    return value->node && cJSON_IsString(value->node);
}
bool lp_json_is_number(const lp_json *value) {
    return value->node && cJSON_IsNumber(value->node);
}

lp_status lp_json_string(const lp_json *value, const char **out, lp_error *err) {
    if (!lp_json_is_string(value)) return lp_json_fail(value, err, "a string");
    *out = value->node->valuestring;
    return LP_OK;
}

lp_status lp_json_bool(const lp_json *value, bool *out, lp_error *err) {
    if (!value->node || !cJSON_IsBool(value->node)) return lp_json_fail(value, err, "true or false");
    *out = cJSON_IsTrue(value->node) != 0;
    return LP_OK;
}

lp_status lp_json_int(const lp_json *value, int64_t min, int64_t max, int64_t *out, lp_error *err) {
    double number = lp_json_is_number(value) ? value->node->valuedouble : 0.5;
    /* Beyond 2^53 a double no longer tells integers apart. */
    if (!(fabs(number) <= 9007199254740992.0) || number != floor(number) || number < (double)min ||
        number > (double)max)
        return lp_json_fail(value, err, "an integer from %lld to %lld", (long long)min, (long long)max);
    *out = (int64_t)number;
    return LP_OK;
}

lp_status lp_json_number(const lp_json *value, double min, double max, double *out, lp_error *err) {
    double number = lp_json_is_number(value) ? value->node->valuedouble : NAN;
    if (!(number >= min && number <= max)) return lp_json_fail(value, err, "a number from %g to %g", min, max);
    *out = number;
    return LP_OK;
}

lp_status lp_json_choice(const lp_json *value, const char *const *names, int *out, lp_error *err) {
    const char *text = lp_json_is_string(value) ? value->node->valuestring : NULL;
    for (int i = 0; text && names[i]; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return LP_OK;
        }
    char list[LIST_BYTES];
    list_words(names, "\"", list);
    return lp_json_fail(value, err, "one of %s", list);
}

/* The getters of each type: for a member that must be there, and for one that may be missing. */
#define LIST(...) __VA_ARGS__
#define GETTERS(type, parameters, arguments)                                                                           \
    lp_status lp_json_get_##type(const lp_json *object, const char *key, LIST parameters, lp_error *err) {             \
        lp_json value;                                                                                                 \
        LP_CHECK(lp_json_get(object, key, &value, err));                                                               \
        return lp_json_##type(&value, LIST arguments, err);                                                            \
    }                                                                                                                  \
    lp_status lp_json_opt_##type(const lp_json *object, const char *key, LIST parameters, lp_error *err) {             \
        lp_json value = {.node = NULL};                                                                                \
        if (object->node) LP_CHECK(lp_json_find(object, key, &value, err));                                            \
        return value.node ? lp_json_##type(&value, LIST arguments, err) : LP_OK;                                       \
    }
GETTERS(string, (const char **out), (out))
GETTERS(bool, (bool *out), (out))
GETTERS(int, (int64_t min, int64_t max, int64_t *out), (min, max, out))
GETTERS(number, (double min, double max, double *out), (min, max, out))
GETTERS(choice, (const char *const *names, int *out), (names, out))

lp_status lp_json_opt_int32(const lp_json *object, const char *key, int64_t min, int64_t max, int32_t *out,
                            lp_error *err) {
    int64_t value = *out;
    LP_ASSERT(min >= INT32_MIN && max <= INT32_MAX);
    LP_CHECK(lp_json_opt_int(object, key, min, max, &value, err));
    *out = (int32_t)value;
    return LP_OK;
}

lp_status lp_json_head(const lp_json *root, const char *format, int64_t version, lp_error *err) {
    const char *const formats[] = {format, NULL};
    lp_json value;
    int choice = 0;
    int64_t number = 0;
    LP_CHECK(lp_json_get(root, "format", &value, err));
    LP_CHECK(lp_json_choice(&value, formats, &choice, err));
    LP_CHECK(lp_json_get(root, "version", &value, err));
    return lp_json_int(&value, version, version, &number, err);
}
