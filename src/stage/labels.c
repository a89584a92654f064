#include "stage/labels.h"

#include "base/memory.h"

/* The step of the pair's graph; NULL: it has none. */
static const lp_pair_step *step_of(const lp_pair *pair, int32_t step) {
    int64_t at = step < 0 ? (int64_t)pair->n_graph + step : step;
    return at >= 0 && at < (int64_t)pair->n_graph ? &pair->graph[at] : NULL;
}

/* The text of a pair's label; NULL: it has none. */
static const char *label_text(const lp_pair *pair, bool clean, lp_label label, int32_t step, char *scratch,
                              size_t size) {
    const lp_pair_step *of_graph = NULL;
    switch (label) {
    case LP_LABEL_ANSWER:
        snprintf(scratch, size, "%.17g", clean ? pair->clean.answer : pair->corrupted.answer);
        return scratch;
    case LP_LABEL_SOURCE: return pair->source;
    case LP_LABEL_TEMPLATE: return pair->template;
    case LP_LABEL_STEPS:
        if (pair->n_steps < 0) return NULL;
        snprintf(scratch, size, "%lld", (long long)pair->n_steps);
        return scratch;
    case LP_LABEL_CHANGE: return clean ? pair->change_from : pair->change_to;
    case LP_LABEL_RESULT:
        of_graph = step_of(pair, step);
        return !of_graph ? NULL : clean ? of_graph->clean : of_graph->corrupted;
    case LP_LABEL_EQUATION: of_graph = step_of(pair, step); return of_graph ? of_graph->equation : NULL;
    case LP_LABEL_NONE: break;
    }
    return NULL;
}

typedef struct {
    char *text;
    int64_t pair;
} labelled;

static int compare_labelled(const void *pa, const void *pb) {
    const labelled *a = pa, *b = pb;
    int order = strcmp(a->text, b->text);
    return order ? order : (a->pair > b->pair) - (a->pair < b->pair);
}

/* Groups of pairs with the same text; a pair that is alone needs no sum of its own. */
lp_status lp_pair_labels_init(const lp_session *session, int side, lp_label label, int32_t step, lp_pair_labels *out,
                              lp_error *err) {
    lp_pair_labels made = {.label = label, .step = step};
    size_t n_pairs = (size_t)session->n_pairs, n = 0;
    labelled *list = NULL;
    char scratch[40];
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&list, n_pairs, sizeof *list, "labels", err));
    LP_TRY(lp_mem_new(&made.group, n_pairs, sizeof *made.group, "labels", err));
    LP_TRY(lp_mem_new(&made.has_text, n_pairs, sizeof *made.has_text, "labels", err));
    for (size_t i = 0; i < n_pairs; i++) {
        const char *text = label_text(&session->pairs.pairs[i], side == LP_CLEAN, label, step, scratch, sizeof scratch);
        made.group[i] = -1;
        made.has_text[i] = text != NULL;
        if (!text) continue;
        LP_TRY(lp_mem_strdup(&list[n].text, text, err));
        list[n++].pair = (int64_t)i;
    }
    if (n == 0) {
        char words[64];
        lp_label_words(label, step, words, sizeof words);
        LP_FAIL(LP_ERR_VALUE, "%s: donor mean by \"%s\": no pair of %s has it", session->job.file, words,
                session->job.pairs.file);
    }
    if (n > 1) qsort(list, n, sizeof *list, compare_labelled);
    for (size_t i = 0, end = 0; i < n; i = end) {
        while (end < n && strcmp(list[i].text, list[end].text) == 0) end++;
        for (size_t k = i; end - i > 1 && k < end; k++) made.group[list[k].pair] = made.n_groups;
        made.n_groups += end - i > 1;
    }
    *out = made;
    made = (lp_pair_labels){.n_groups = 0};
out:
    for (size_t i = 0; list && i < n_pairs; i++) lp_mem_free(list[i].text);
    lp_mem_free(list);
    lp_pair_labels_release(&made);
    return status;
}

void lp_pair_labels_release(lp_pair_labels *labels) {
    lp_mem_free(labels->group);
    lp_mem_free(labels->has_text);
    *labels = (lp_pair_labels){.n_groups = 0};
}
