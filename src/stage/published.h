/* Per-pair results of the original study, as its scripts wrote them in JSON.
 *
 * Three kinds of files, told apart by their keys:
 *   patching   an object with `valid_results`: {pair_id, clean {generated}, corrupted {generated},
 *              patched {early, middle, late: {classification, generated}}}; `config.tokens_patched` = N (absent: 1)
 *   necessity  {results: [{pair_id, clean {baseline_correct, ablated_correct}, corrupted {...}}]}, or a list of
 *              {pair_id, clean_baseline_correct, clean_ablated_correct, corrupted_...}: all thoughts zeroed
 *   baseline   {results: [{pair_id, clean {output, correct}, corrupted {...}}]}: unpatched runs
 * Python wrote bare Infinity and NaN into some of them; they count as null. Other keys are passed over. */
#ifndef LP_STAGE_PUBLISHED_H
#define LP_STAGE_PUBLISHED_H

#include "base/error.h"

#include <cjson/cJSON.h>

typedef enum { LP_PUBLISHED_PATCHING, LP_PUBLISHED_NECESSITY, LP_PUBLISHED_BASELINE } lp_published_kind;

enum { LP_PUBLISHED_LAYERS = 3, LP_PUBLISHED_THOUGHTS = 6 };
extern const char *const lp_published_layers[LP_PUBLISHED_LAYERS]; /* "early", "middle", "late" */

/* Sides are 0 clean, 1 corrupted. Texts are borrowed from the document. */
typedef struct {
    char *id;
    const char *text[2]; /* unpatched answers; necessity: NULL */
    bool correct[2];     /* unpatched answers; patching: true */
    bool ablated[2];     /* necessity: still correct without thoughts */
    int outcome[LP_PUBLISHED_LAYERS];
    const char *patched[LP_PUBLISHED_LAYERS];
} lp_published_pair;

typedef struct {
    cJSON *document;
    lp_published_kind kind;
    int32_t n_tokens; /* patching: the first n thoughts were patched */
    lp_published_pair *pairs;
    size_t n;
} lp_published;

lp_status lp_published_load(const char *path, lp_published *out, lp_error *err);
/* The same from memory, for tests; `name` is for messages. */
lp_status lp_published_parse(const char *text, size_t size, const char *name, lp_published *out, lp_error *err);
void lp_published_release(lp_published *published);
/* The first pair of that id, or NULL: some files have an id twice. */
const lp_published_pair *lp_published_find(const lp_published *published, const char *id);

#endif
