#include "stage/layout.h"

#include "base/memory.h"
#include "pairs/classify.h"

static lp_status add_site(lp_store_layout *layout, const lp_session *session, lp_phase phase, lp_site site,
                          int32_t first_layer, int32_t n_layers, const int32_t *indices, int32_t n_indices,
                          lp_error *err) {
    if (n_indices == 0) return LP_OK; /* a protocol without thoughts */
    const lp_model_config *config = &session->model.config;
    if (layout->n_captured == LP_MAX_CAPTURED)
        return lp_fail(err, LP_ERR_VALUE, "store.sites: more than %d sites", LP_MAX_CAPTURED);
    lp_captured_site *captured = &layout->captured[layout->n_captured];
    *captured = (lp_captured_site){.phase = phase,
                                   .site = site,
                                   .n_layers = n_layers,
                                   .n_indices = n_indices,
                                   .width = lp_site_width(config, site, LP_ALL_HEADS)};
    snprintf(captured->name, sizeof captured->name, "%s%s%s", phase == LP_PHASE_THOUGHT ? "" : lp_phase_names()[phase],
             phase == LP_PHASE_THOUGHT ? "" : "_", lp_site_names()[site]);
    for (size_t i = 0; i < layout->n_captured; i++)
        if (strcmp(layout->captured[i].name, captured->name) == 0)
            return lp_fail(err, LP_ERR_VALUE,
                           "%s: store.sites: %s is kept twice (resid_post, latent_in and latent_raw of the "
                           "thought steps are kept by default)",
                           session->job.file, captured->name);
    layout->n_captured++;
    lp_status status = lp_mem_new(&captured->layers, (size_t)n_layers, sizeof(int32_t), "layers", err);
    if (status == LP_OK) status = lp_mem_new(&captured->indices, (size_t)n_indices, sizeof(int32_t), "indices", err);
    for (int32_t l = 0; status == LP_OK && l < n_layers; l++) captured->layers[l] = first_layer + l;
    for (int32_t i = 0; status == LP_OK && i < n_indices; i++) captured->indices[i] = indices ? indices[i] : i;
    return status;
}

static lp_status add_job_site(lp_store_layout *layout, const lp_session *session, const lp_cache_site *wanted,
                              lp_error *err) {
    const lp_model_config *config = &session->model.config;
    bool thought = wanted->phase == LP_PHASE_THOUGHT;
    if (thought && wanted->site == LP_SITE_RESID_PRE) return LP_OK; /* lp_address_canonical: it is kept */
    int32_t n_layers = lp_site_has_layer(wanted->site) ? config->n_layers : 1;
    return add_site(layout, session, wanted->phase, wanted->site, 0, n_layers, wanted->indices,
                    thought ? session->job.protocol.n_steps : (int32_t)wanted->n_indices, err);
}

/* Places that the store keeps beside the default ones: those that the job names, then those that its conditions take.
 */
typedef struct {
    lp_cache_site *sites;
    size_t n, capacity;
} wanted_sites;

static lp_status want_index(lp_cache_site *wanted, int32_t index, lp_error *err) {
    int32_t *more = NULL;
    for (size_t i = 0; i < wanted->n_indices; i++)
        if (wanted->indices[i] == index) return LP_OK;
    LP_CHECK(lp_mem_new(&more, wanted->n_indices + 1, sizeof *more, "indices", err));
    if (wanted->n_indices) memcpy(more, wanted->indices, wanted->n_indices * sizeof *more);
    more[wanted->n_indices++] = index;
    lp_mem_free(wanted->indices);
    wanted->indices = more;
    return LP_OK;
}

static lp_status want_site(wanted_sites *list, lp_phase phase, lp_site site, lp_cache_site **out, lp_error *err) {
    LP_CHECK(lp_mem_grow(&list->sites, &list->capacity, list->n + 1, sizeof *list->sites, "sites", err));
    list->sites[list->n] = (lp_cache_site){.phase = phase, .site = site};
    *out = &list->sites[list->n++];
    return LP_OK;
}

/* The place that a donor's vector comes from, where the store does not keep it anyway. */
static lp_status want_address(wanted_sites *list, const lp_address *from, lp_error *err) {
    lp_cache_site *found = NULL;
    bool thought = from->phase == LP_PHASE_THOUGHT;
    lp_address kept = *from;
    lp_address_canonical(&kept);
    lp_site site = kept.site;
    bool by_default = site == LP_SITE_RESID_POST || site == LP_SITE_RESID_PRE || site == LP_SITE_LATENT_IN ||
                      site == LP_SITE_LATENT_RAW;
    if ((thought && by_default) || (!thought && from->index == LP_INDEX_ALL)) return LP_OK;
    for (size_t i = 0; i < list->n && !found; i++)
        if (list->sites[i].phase == from->phase && list->sites[i].site == site) found = &list->sites[i];
    if (!found) {
        LP_CHECK(want_site(list, from->phase, site, &found, err));
    }
    return thought ? LP_OK : want_index(found, from->index, err);
}

static lp_status list_wanted(const lp_session *session, wanted_sites *list, lp_error *err) {
    const lp_job *job = &session->job;
    const lp_condition_set *set = &session->conditions;
    lp_cache_site *site = NULL;
    lp_status status = LP_OK;
    for (size_t i = 0; i < job->store.n_sites; i++) {
        const lp_cache_site *named = &job->store.sites[i];
        LP_TRY(want_site(list, named->phase, named->site, &site, err));
        for (size_t k = 0; k < named->n_indices; k++) LP_TRY(want_index(site, named->indices[k], err));
    }
    for (size_t i = 0; i < set->n_replacements; i++) {
        const lp_replacement *replacement = &set->replacements[i];
        if (lp_replacement_takes_vector(replacement) && lp_donor_has_place(replacement->donor))
            LP_TRY(want_address(list, &replacement->from, err));
    }
out:
    return status;
}

static void add_field(lp_store_layout *layout, int side, const char *name, lp_field field) {
    char *path = layout->paths[layout->n_fields];
    snprintf(path, sizeof layout->paths[0], "runs/%s/%s", side == LP_CLEAN ? "clean" : "corrupted", name);
    field.path = path;
    layout->fields[layout->n_fields++] = field;
}

static void add_fields_of_run(lp_store_layout *layout, const lp_session *session, int side) {
    int64_t a = session->job.decode.max_new_tokens;
    for (size_t i = 0; i < layout->n_captured; i++) {
        const lp_captured_site *captured = &layout->captured[i];
        lp_field field = {.type = LP_F32, .description = layout->notes[i]};
        char *note = layout->notes[i];
        size_t size = sizeof layout->notes[0];
        bool has_layers = lp_site_has_layer(captured->site);
        int used =
            snprintf(note, size, "%s of %s positions: [pairs, %spositions, width]", lp_site_names()[captured->site],
                     lp_phase_names()[captured->phase], has_layers ? "layers, " : "");
        for (int32_t k = 0; captured->phase != LP_PHASE_THOUGHT && k < captured->n_indices && used < (int)size - 12;
             k++)
            used += snprintf(note + used, size - (size_t)used, "%s%d", k ? "," : "; positions ", captured->indices[k]);
        if (has_layers) {
            field.dims[field.n_dims++] = captured->n_layers;
            field.layers = captured->layers;
            field.n_layers = (size_t)captured->n_layers;
        }
        field.dims[field.n_dims++] = captured->n_indices;
        field.dims[field.n_dims++] = captured->width;
        add_field(layout, side, captured->name, field);
    }
    add_field(layout, side, "prompt_tokens", (lp_field){.type = LP_I32, .description = "number of prompt positions"});
    add_field(
        layout, side, "answer_tokens",
        (lp_field){
            .type = LP_I32, .n_dims = 1, .dims = {a}, .description = "generated ids without eos, -1 beyond the end"});
    add_field(layout, side, "answer_len", (lp_field){.type = LP_I32, .description = "number of generated ids"});
    add_field(layout, side, "answer_ended", (lp_field){.type = LP_U8, .description = "1: ended by eos"});
    add_field(layout, side, "answer_text",
              (lp_field){.type = LP_TEXT,
                         .text_bytes = LP_ANSWER_TEXT_BYTES,
                         .description = "decoded answer, cut at this length"});
    add_field(layout, side, "number",
              (lp_field){.type = LP_F64, .description = "number found in the answer, NaN: none"});
    add_field(layout, side, "outcome", (lp_field){.type = LP_U8, .description = lp_outcome_codes});
}

lp_status lp_store_layout_init(const lp_session *session, lp_store_layout *out, lp_error *err) {
    const lp_job *job = &session->job;
    int32_t n_layers = session->model.config.n_layers;
    int32_t t = job->protocol.n_steps;
    wanted_sites wanted = {0};
    lp_status status = LP_OK;
    *out = (lp_store_layout){0};
    LP_TRY(add_site(out, session, LP_PHASE_THOUGHT, LP_SITE_RESID_POST, 0, n_layers, NULL, t, err));
    LP_TRY(add_site(out, session, LP_PHASE_THOUGHT, LP_SITE_RESID_PRE, 0, 1, NULL, t, err));
    LP_TRY(add_site(out, session, LP_PHASE_THOUGHT, LP_SITE_LATENT_IN, 0, 1, NULL, t, err));
    LP_TRY(add_site(out, session, LP_PHASE_THOUGHT, LP_SITE_LATENT_RAW, 0, 1, NULL, t, err));
    LP_TRY(list_wanted(session, &wanted, err));
    for (size_t i = 0; i < wanted.n; i++) LP_TRY(add_job_site(out, session, &wanted.sites[i], err));
    for (int side = 0; side < 2; side++) add_fields_of_run(out, session, side);
out:
    for (size_t i = 0; i < wanted.n; i++) lp_mem_free(wanted.sites[i].indices);
    lp_mem_free(wanted.sites);
    if (status != LP_OK) lp_store_layout_release(out);
    return status;
}

void lp_store_layout_release(lp_store_layout *layout) {
    for (size_t i = 0; i < layout->n_captured; i++) {
        lp_mem_free(layout->captured[i].layers);
        lp_mem_free(layout->captured[i].indices);
    }
    *layout = (lp_store_layout){0};
}

size_t lp_store_layout_site_field(const lp_store_layout *layout, int side, size_t captured) {
    return (size_t)side * layout->n_fields / 2 + captured;
}

size_t lp_store_layout_stored_field(const lp_store_layout *layout, int side, lp_stored what) {
    return (size_t)side * layout->n_fields / 2 + layout->n_captured + (size_t)what;
}

bool lp_store_layout_find(const lp_store_layout *layout, const lp_session *session, const lp_address *address,
                          int32_t n_prompt, size_t *captured, size_t *offset) {
    for (size_t i = 0; i < layout->n_captured; i++) {
        const lp_captured_site *site = &layout->captured[i];
        if (site->phase != address->phase || site->site != address->site) continue;
        for (int32_t l = 0; l < site->n_layers; l++) {
            if (site->layers[l] != address->layer) continue;
            for (int32_t k = 0; k < site->n_indices; k++) {
                int32_t index = site->indices[k];
                if (site->phase == LP_PHASE_PROMPT && index < 0) index += n_prompt;
                int32_t wanted = address->index;
                if (site->phase == LP_PHASE_PROMPT && wanted < 0) wanted += n_prompt;
                if (index != wanted) continue;
                *captured = i;
                *offset = ((size_t)l * (size_t)site->n_indices + (size_t)k) * (size_t)site->width +
                          (size_t)lp_site_offset(&session->model.config, address->head);
                return true;
            }
        }
    }
    return false;
}
