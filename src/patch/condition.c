#include "patch/condition.h"

#include "base/memory.h"

const char *const *lp_donor_names(void) {
    static const char *const names[] = {"clean",    "corrupted", "self", "zero", "mean",
                                        "shuffled", "random",    "file", NULL};
    return names;
}

const char *const *lp_direction_names(void) {
    static const char *const names[] = {"denoise", "noise", NULL};
    return names;
}

const char *const *lp_role_names(void) {
    static const char *const names[] = {"effect", "control", "unpatched", NULL};
    return names;
}

static void condition_release(lp_condition *condition) {
    lp_mem_free(condition->name);
    lp_mem_free(condition->layers);
    lp_mem_free(condition->steps);
    lp_mem_free(condition->defects);
}

lp_status lp_condition_add(lp_condition_set *set, const char *name, const char *layers, const char *steps,
                           const char *defects, lp_condition **out, lp_error *err) {
    lp_condition fresh = {.layer = -1,
                          .head = LP_ALL_HEADS,
                          .vector = -1,
                          .from_layer = -1,
                          .from_step = -1,
                          .factor = 1.0f,
                          .first = set->n_replacements};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_text(&fresh.name, name, strlen(name), err));
    LP_TRY(lp_mem_text(&fresh.layers, layers, strlen(layers), err));
    LP_TRY(lp_mem_text(&fresh.steps, steps, strlen(steps), err));
    LP_TRY(lp_mem_text(&fresh.defects, defects, strlen(defects), err));
    LP_TRY(lp_mem_grow(&set->conditions, &set->capacity, set->n + 1, sizeof *set->conditions, "conditions", err));
    set->conditions[set->n] = fresh;
    *out = &set->conditions[set->n++];
    return LP_OK;
out:
    condition_release(&fresh);
    return status;
}

lp_status lp_condition_replace(lp_condition_set *set, const lp_replacement *replacement, lp_error *err) {
    LP_ASSERT(set->n > 0);
    lp_status status = lp_mem_grow(&set->replacements, &set->replacement_capacity, set->n_replacements + 1,
                                   sizeof *set->replacements, "replacements", err);
    if (status != LP_OK) return status;
    set->replacements[set->n_replacements++] = *replacement;
    set->conditions[set->n - 1].n++;
    return LP_OK;
}

void lp_condition_set_release(lp_condition_set *set) {
    for (size_t i = 0; i < set->n; i++) condition_release(&set->conditions[i]);
    lp_mem_free(set->conditions);
    lp_mem_free(set->replacements);
    *set = (lp_condition_set){0};
}
