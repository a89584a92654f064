/* JSON input by cJSON, with strict getters that know where they are.
 *
 * lp_json is a view of one value of a parsed document together with its path ("$.sweep.layers[2]"), so that
 * every complaint names the file, the path, what was expected and what was found. */
#ifndef LP_BASE_JSON_H
#define LP_BASE_JSON_H

#include "base/utf8.h"

#include <cjson/cJSON.h>

enum { LP_JSON_MAX_DEPTH = 64, LP_JSON_PATH = 256 };

typedef struct {
    const cJSON *node; /* borrowed from the document; NULL when an optional value is absent */
    const char *file;  /* borrowed; names the document in messages */
    char path[LP_JSON_PATH];
} lp_json;

/* Parses size bytes of UTF-8 text. Fails with line and column on malformed text, on anything but white space
 * after the value, on nesting deeper than LP_JSON_MAX_DEPTH, on duplicate keys, on NUL bytes or invalid
 * UTF-8, and on a text of so many small values that its tree would take more than 12 bytes for
 * each byte (and more than 16 MiB). *document is owned by the caller (cJSON_Delete); *root is the view of the whole. */
lp_status lp_json_parse(const char *text, size_t size, const char *file, cJSON **document, lp_json *root,
                        lp_error *err);
/* A long array or object that is left out of the tree: the member `key` of the root's member `parent`; the root itself
 * where both are NULL. */
typedef struct {
    const char *parent, *key; /* borrowed */
    size_t begin, end;        /* of its text, brackets included; 0, 0: there is none */
} lp_json_cut;
/* The same, but the values of cuts [n] are empty in the tree, which would take many times the memory of their text.
 * They are read by json_stream.h, which also checks their syntax. A key that is written with escapes is not found. */
lp_status lp_json_parse_around(const char *text, size_t size, const char *file, lp_json_cut *cuts, size_t n,
                               cJSON **document, lp_json *root, lp_error *err);
/* Line and column, from 1, of text[offset]. */
void lp_json_place(const char *text, size_t offset, size_t *line, size_t *column);
/* lp_json_parse of a file of at most max_bytes. `file` is borrowed as the name. */
lp_status lp_json_load(const char *file, size_t max_bytes, cJSON **document, lp_json *root, lp_error *err);

/* The member `key` of an object; fails when `object` is not an object or the member is missing. */
lp_status lp_json_get(const lp_json *object, const char *key, lp_json *out, lp_error *err);
/* The same, but a missing member gives out->node == NULL. A JSON null counts as missing. */
lp_status lp_json_find(const lp_json *object, const char *key, lp_json *out, lp_error *err);
/* Fails when the object has a key that is not in the NULL-terminated list. */
lp_status lp_json_only(const lp_json *object, const char *const *keys, lp_error *err);

lp_status lp_json_array_size(const lp_json *array, size_t *out, lp_error *err);
/* Element i, i < size. O(i): to walk a long array, use lp_json_first and lp_json_next. */
lp_status lp_json_at(const lp_json *array, size_t i, lp_json *out, lp_error *err);
/* The first element or member value; out->node NULL when there is none. */
void lp_json_first(const lp_json *container, lp_json *out);
/* The sibling after *at, where `container` is what lp_json_first was given. */
void lp_json_next(const lp_json *container, lp_json *at);

lp_status lp_json_string(const lp_json *value, const char **out, lp_error *err); /* borrowed */
lp_status lp_json_bool(const lp_json *value, bool *out, lp_error *err);
lp_status lp_json_int(const lp_json *value, int64_t min, int64_t max, int64_t *out, lp_error *err);
lp_status lp_json_number(const lp_json *value, double min, double max, double *out, lp_error *err);
/* *out = index of the string in the NULL-terminated list of names; the message lists them all. */
lp_status lp_json_choice(const lp_json *value, const char *const *names, int *out, lp_error *err);

/* lp_json_get and the getter of the member's type in one. */
lp_status lp_json_get_string(const lp_json *object, const char *key, const char **out, lp_error *err);
lp_status lp_json_get_bool(const lp_json *object, const char *key, bool *out, lp_error *err);
lp_status lp_json_get_int(const lp_json *object, const char *key, int64_t min, int64_t max, int64_t *out,
                          lp_error *err);
lp_status lp_json_get_number(const lp_json *object, const char *key, double min, double max, double *out,
                             lp_error *err);
lp_status lp_json_get_choice(const lp_json *object, const char *key, const char *const *names, int *out, lp_error *err);
/* The same for members that may be missing: *out then keeps its value. The object may be missing too (node NULL). */
lp_status lp_json_opt_string(const lp_json *object, const char *key, const char **out, lp_error *err);
lp_status lp_json_opt_bool(const lp_json *object, const char *key, bool *out, lp_error *err);
lp_status lp_json_opt_int(const lp_json *object, const char *key, int64_t min, int64_t max, int64_t *out,
                          lp_error *err);
lp_status lp_json_opt_int32(const lp_json *object, const char *key, int64_t min, int64_t max, int32_t *out,
                            lp_error *err);
lp_status lp_json_opt_number(const lp_json *object, const char *key, double min, double max, double *out,
                             lp_error *err);
lp_status lp_json_opt_choice(const lp_json *object, const char *key, const char *const *names, int *out, lp_error *err);
/* The same for the place of an enum, which keeps its value where the member is missing. Returns a failure. */
#define LP_JSON_OPT_ENUM(object, key, names, place)                                                                    \
    do {                                                                                                               \
        int lp_chosen = (int)(place);                                                                                  \
        LP_CHECK(lp_json_opt_choice((object), (key), (names), &lp_chosen, err));                                       \
        (place) = lp_chosen;                                                                                           \
    } while (0)
/* The head of a file of ours: {"format": format, "version": version}. */
lp_status lp_json_head(const lp_json *root, const char *format, int64_t version, lp_error *err);

/* *out = the value as one line of JSON; caller frees with lp_mem_free. Fails on a number that no double holds. */
lp_status lp_json_print(const lp_json *value, char **out, lp_error *err);

bool lp_json_is_object(const lp_json *value);
bool lp_json_is_array(const lp_json *value);
bool lp_json_is_string(const lp_json *value);
bool lp_json_is_number(const lp_json *value);
/* `file: path: expected <expected>, found <the value, shortened>`. */
lp_status lp_json_fail(const lp_json *value, lp_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

#endif
