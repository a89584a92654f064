#include "job/job.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/number.h"
#include "patch/lens.h"

enum { JOB_MAX_BYTES = 16 << 20, MAX_VECTORS = 10000 };

const char *const *lp_filter_names(void) {
    static const char *const names[] = {"both-correct", "clean-correct", "all", NULL};
    return names;
}
const char *const *lp_executor_names(void) {
    static const char *const names[] = {"batched", "reference", NULL};
    return names;
}
const char *const *lp_device_names(void) {
    static const char *const names[] = {"auto", "cpu", "cuda", NULL};
    return names;
}
const char *const *lp_compute_names(void) {
    static const char *const names[] = {"fp32", "tf32", "bf16", "fp32-simt", "fp32-tc", NULL};
    return names;
}

/* ---- Optional values: *out keeps its default where the key is missing -------------------------------------------- */

/* lp_json_only, and a "comment" in every section. */
static lp_status only_keys(const lp_json *section, const char *const *known, lp_error *err) {
    enum { MOST = 24 };
    const char *keys[MOST] = {0};
    size_t n = 0;
    for (; known[n]; n++) {
        LP_ASSERT(n + 2 < MOST);
        keys[n] = known[n];
    }
    keys[n] = "comment";
    return lp_json_only(section, keys, err);
}

static lp_status opt_section(const lp_json *root, const char *key, const char *const *known, lp_json *out,
                             lp_error *err) {
    lp_status status = lp_json_find(root, key, out, err);
    if (status == LP_OK && out->node) status = only_keys(out, known, err);
    return status;
}

static lp_status opt_text(const lp_json *section, const char *key, char **out, lp_error *err) {
    lp_json value;
    const char *text = NULL;
    if (!section->node) return LP_OK;
    lp_status status = lp_json_find(section, key, &value, err);
    if (status != LP_OK || !value.node) return status;
    status = lp_json_string(&value, &text, err);
    if (status == LP_OK && !*text) status = lp_json_fail(&value, err, "a string that is not empty");
    return status == LP_OK ? lp_mem_text(out, text, strlen(text), err) : status;
}

static lp_status opt_path(const lp_job *job, const lp_json *section, const char *key, char **out, lp_error *err) {
    char *text = NULL;
    lp_status status = opt_text(section, key, &text, err);
    if (status == LP_OK && text) status = lp_path_join(job->folder, text, out, err);
    lp_mem_free(text);
    return status;
}

static lp_status need_path(const lp_job *job, const lp_json *section, const char *name, const char *key, char **out,
                           lp_error *err) {
    lp_status status = opt_path(job, section, key, out, err);
    if (status == LP_OK && !*out)
        return lp_fail(err, LP_ERR_VALUE, "%s: $.%s: the key \"%s\" is missing", job->file, name, key);
    return status;
}

/* ---- Settings from the command line ------------------------------------------------------------------------------ */

static lp_status apply_setting(cJSON *document, const char *setting, lp_error *err) {
    const char *equals = strchr(setting, '=');
    if (!equals || equals == setting)
        return lp_fail(err, LP_ERR_USAGE, "--set %.100s: expected section.key=value", setting);
    cJSON *value = NULL;
    lp_json view;
    if (lp_json_parse(equals + 1, strlen(equals + 1), "--set", &value, &view, NULL) != LP_OK)
        value = cJSON_CreateString(equals + 1);
    cJSON *node = document;
    const char *p = setting;
    while (value) {
        char key[128];
        size_t n = strcspn(p, ".=");
        if (n == 0 || n >= sizeof key) break;
        memcpy(key, p, n);
        key[n] = '\0';
        bool last = p + n == equals;
        int64_t index = -1;
        bool is_index = cJSON_IsArray(node) && lp_read_integer(key, INT32_MIN, INT32_MAX, &index);
        if (is_index && (index < 0 || index >= cJSON_GetArraySize(node))) {
            cJSON_Delete(value);
            return lp_fail(err, LP_ERR_USAGE, "--set %.100s: %.*s: expected an index below %d, found %s", setting,
                           (int)(p - setting - 1), setting, cJSON_GetArraySize(node), key);
        }
        if (!is_index && !cJSON_IsObject(node)) break;
        if (last && is_index) {
            cJSON_ReplaceItemInArray(node, (int)index, value);
            return LP_OK;
        }
        if (last) {
            cJSON_DeleteItemFromObjectCaseSensitive(node, key);
            cJSON_AddItemToObject(node, key, value);
            return LP_OK;
        }
        cJSON *next = is_index ? cJSON_GetArrayItem(node, (int)index) : cJSON_GetObjectItemCaseSensitive(node, key);
        if (!next && !is_index) next = cJSON_AddObjectToObject(node, key);
        node = next;
        p += n + 1;
    }
    cJSON_Delete(value);
    return lp_fail(err, LP_ERR_USAGE, "--set %.100s: no such place in the job", setting);
}

/* ---- Sections ---------------------------------------------------------------------------------------------------- */

static lp_status read_model(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"name", "base", "codi", "tokenizer", "lora", "base_rounding", NULL};
    static const char *const lora_keys[] = {"rank", "alpha", NULL};
    static const char *const roundings[] = {"none", "fp16", NULL};
    lp_json section, lora;
    LP_CHECK(lp_json_get(root, "model", &section, err));
    LP_CHECK(only_keys(&section, keys, err));
    LP_CHECK(need_path(job, &section, "model", "base", &job->model.base, err));
    LP_CHECK(opt_path(job, &section, "codi", &job->model.codi, err));
    LP_CHECK(opt_path(job, &section, "tokenizer", &job->model.tokenizer, err));
    if (!job->model.tokenizer)
        LP_CHECK(lp_mem_text(&job->model.tokenizer, job->model.base, strlen(job->model.base), err));
    LP_CHECK(opt_text(&section, "name", &job->model.name, err));
    LP_CHECK(opt_section(&section, "lora", lora_keys, &lora, err));
    LP_CHECK(lp_json_opt_int32(&lora, "rank", 1, 65536, &job->model.lora_rank, err));
    job->model.lora_alpha = 32;
    LP_CHECK(lp_json_opt_number(&lora, "alpha", 0, 1e6, &job->model.lora_alpha, err));
    LP_JSON_OPT_ENUM(&section, "base_rounding", roundings, job->model.base_rounding);
    if (!job->model.name) {
        const char *path = job->model.codi ? job->model.codi : job->model.base;
        size_t end = strlen(path);
        while (end > 1 && path[end - 1] == '/') end--;
        size_t begin = end;
        while (begin > 0 && path[begin - 1] != '/') begin--;
        LP_CHECK(lp_mem_text(&job->model.name, path + begin, end - begin, err));
    }
    return LP_OK;
}

static lp_status read_marker(const lp_json *value, lp_marker *out, lp_error *err) {
    static const char *const keys[] = {"text", "token", NULL};
    const char *text = NULL;
    lp_json member;
    int64_t id = 0;
    int role = 0;
    *out = (lp_marker){.id = -1};
    if (!lp_json_is_object(value)) {
        LP_CHECK(lp_json_choice(value, lp_marker_names(), &role, err));
        out->kind = (lp_marker_kind)role;
        return LP_OK;
    }
    LP_CHECK(lp_json_only(value, keys, err));
    LP_CHECK(lp_json_find(value, "text", &member, err));
    out->kind = member.node ? LP_MARKER_TEXT : LP_MARKER_TOKEN;
    if (!member.node) LP_CHECK(lp_json_get(value, "token", &member, err));
    if (out->kind == LP_MARKER_TOKEN && lp_json_is_number(&member)) {
        LP_CHECK(lp_json_int(&member, 0, INT32_MAX, &id, err));
        out->id = (int32_t)id;
        return LP_OK;
    }
    LP_CHECK(lp_json_string(&member, &text, err));
    if (!*text || strlen(text) >= LP_MARKER_BYTES)
        return lp_json_fail(&member, err, "1 to %d bytes", LP_MARKER_BYTES - 1);
    snprintf(out->text, sizeof out->text, "%s", text);
    return LP_OK;
}

/* *found: the job has the key. */
static lp_status read_markers(const lp_json *section, const char *key, lp_marker_list *out, bool *found,
                              lp_error *err) {
    lp_json value, entry;
    size_t n = 0;
    *found = false;
    if (!section->node) return LP_OK;
    LP_CHECK(lp_json_find(section, key, &value, err));
    if (!value.node) return LP_OK;
    *found = true;
    LP_CHECK(lp_json_array_size(&value, &n, err));
    if (n > LP_MAX_MARKERS) return lp_json_fail(&value, err, "at most %d entries", LP_MAX_MARKERS);
    out->n = 0;
    for (lp_json_first(&value, &entry); entry.node; lp_json_next(&value, &entry))
        LP_CHECK(read_marker(&entry, &out->items[out->n++], err));
    return LP_OK;
}

static lp_status read_first_input(const lp_json *section, lp_protocol *protocol, bool *found, lp_error *err) {
    lp_json value;
    *found = false;
    if (!section->node) return LP_OK;
    LP_CHECK(lp_json_find(section, "first_input", &value, err));
    if (!value.node) return LP_OK;
    *found = true;
    protocol->first_reads_prompt = lp_json_is_string(&value) && strcmp(value.node->valuestring, "prompt") == 0;
    if (protocol->first_reads_prompt) return LP_OK;
    LP_CHECK(read_marker(&value, &protocol->first_input, err));
    if (protocol->first_input.kind == LP_MARKER_TEXT) return lp_json_fail(&value, err, "\"prompt\" or a token");
    return LP_OK;
}

/* protocol.tokens: ids or spellings by role. */
static lp_status read_tokens(const lp_json *section, lp_protocol *protocol, lp_error *err) {
    lp_json tokens, value;
    const char *text = NULL;
    int64_t id = 0;
    if (!section->node) return LP_OK;
    LP_CHECK(opt_section(section, "tokens", lp_token_role_names(), &tokens, err));
    for (int role = 0; tokens.node && role < LP_N_ROLES; role++) {
        lp_given_token *given = &protocol->tokens[role];
        LP_CHECK(lp_json_find(&tokens, lp_token_role_names()[role], &value, err));
        if (!value.node) continue;
        given->given = true;
        if (lp_json_is_number(&value)) {
            LP_CHECK(lp_json_int(&value, 0, INT32_MAX, &id, err));
            given->id = (int32_t)id;
            continue;
        }
        LP_CHECK(lp_json_string(&value, &text, err));
        if (!*text || strlen(text) >= LP_MARKER_BYTES)
            return lp_json_fail(&value, err, "an id, or a token of 1 to %d bytes", LP_MARKER_BYTES - 1);
        snprintf(given->text, sizeof given->text, "%s", text);
    }
    return LP_OK;
}

static lp_status read_protocol(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"name",           "steps",       "remove_eos", "normalise_spaces",
                                       "after_question", "first_input", "feedback",   "answer_start",
                                       "not_chosen",     "stop",        "tokens",     NULL};
    lp_protocol *protocol = &job->protocol;
    struct {
        const char *key;
        lp_marker_list *list;
        bool found;
    } lists[] = {{"after_question", &protocol->after_question, false},
                 {"answer_start", &protocol->answer_start, false},
                 {"not_chosen", &protocol->not_chosen, false},
                 {"stop", &protocol->stop, false}};
    lp_json section;
    int32_t n_steps = 6;
    int kind = LP_PROTOCOL_CODI;
    bool remove_eos = true, found = false;
    LP_CHECK(opt_section(root, "protocol", keys, &section, err));
    LP_CHECK(lp_json_opt_choice(&section, "name", lp_protocol_names(), &kind, err));
    LP_CHECK(lp_json_opt_int32(&section, "steps", 0, LP_MAX_STEPS, &n_steps, err));
    *protocol = lp_protocol_preset((lp_protocol_kind)kind, n_steps);
    LP_CHECK(lp_json_opt_bool(&section, "remove_eos", &remove_eos, err));
    LP_CHECK(lp_json_opt_bool(&section, "normalise_spaces", &protocol->normalise_spaces, err));
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        LP_CHECK(read_markers(&section, lists[i].key, lists[i].list, &lists[i].found, err));
        protocol->changed |= lists[i].found;
    }
    if (!remove_eos && (lists[0].found || lists[1].found))
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: $.protocol.remove_eos: expected it to be left out where %s says what stands there",
                       job->file, lists[0].found ? "after_question" : "answer_start");
    if (!remove_eos && kind != LP_PROTOCOL_CODI && kind != LP_PROTOCOL_BOT_FIRST)
        return lp_fail(err, LP_ERR_VALUE,
                       "%s: $.protocol.remove_eos: false belongs to codi and bot-first, found name %s", job->file,
                       lp_protocol_names()[kind]);
    if (protocol->answer_start.n == 0 || protocol->stop.n == 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: $.protocol.%s: expected at least one entry, found none", job->file,
                       protocol->stop.n == 0 ? "stop" : "answer_start");
    protocol->n_answer_start = protocol->answer_start.n;
    if (!remove_eos) lp_protocol_keep_eos(protocol);
    LP_CHECK(read_first_input(&section, protocol, &found, err));
    protocol->changed |= found;
    const lp_feedback preset = protocol->feedback;
    LP_JSON_OPT_ENUM(&section, "feedback", lp_feedback_names(), protocol->feedback);
    protocol->changed |= protocol->feedback != preset;
    return read_tokens(&section, protocol, err);
}

static lp_status read_pairs(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"file", "limit", "equal_answers", NULL};
    static const char *const equal[] = {"refuse", "allow", NULL};
    lp_json section;
    LP_CHECK(opt_section(root, "pairs", keys, &section, err));
    LP_CHECK(need_path(job, &section, "pairs", "file", &job->pairs.file, err));
    LP_CHECK(lp_json_opt_int(&section, "limit", 0, INT32_MAX, &job->pairs.limit, err));
    LP_JSON_OPT_ENUM(&section, "equal_answers", equal, job->pairs.equal_answers);
    return LP_OK;
}

static lp_status read_cache_site(lp_cache_site *site, const lp_json *entry, lp_error *err) {
    static const char *const keys[] = {"phase", "site", "index", NULL};
    lp_json value;
    int choice = 0;
    site->phase = LP_PHASE_THOUGHT;
    if (lp_json_is_string(entry)) {
        LP_CHECK(lp_json_choice(entry, lp_site_names(), &choice, err));
        site->site = (lp_site)choice;
        return LP_OK;
    }
    LP_CHECK(lp_json_only(entry, keys, err));
    LP_CHECK(lp_json_get_choice(entry, "site", lp_site_names(), &choice, err));
    site->site = (lp_site)choice;
    LP_JSON_OPT_ENUM(entry, "phase", lp_phase_names(), site->phase);
    LP_CHECK(lp_json_find(entry, "index", &value, err));
    if (site->phase == LP_PHASE_THOUGHT && value.node)
        return lp_json_fail(&value, err, "no index: the store keeps all thought steps of a site");
    if (site->phase == LP_PHASE_THOUGHT) return LP_OK;
    if (!value.node)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: the key \"index\" is missing (which %s positions to keep)",
                       entry->file, entry->path, lp_phase_names()[site->phase]);
    LP_CHECK(lp_json_array_size(&value, &site->n_indices, err));
    if (site->n_indices == 0) return lp_json_fail(&value, err, "at least one position");
    LP_CHECK(lp_mem_new(&site->indices, site->n_indices, sizeof *site->indices, "indices", err));
    size_t i = 0;
    lp_json element;
    for (lp_json_first(&value, &element); element.node; lp_json_next(&value, &element)) {
        int64_t index = 0;
        LP_CHECK(lp_json_int(&element, site->phase == LP_PHASE_PROMPT ? -65536 : 0, 65536, &index, err));
        site->indices[i++] = (int32_t)index;
    }
    return LP_OK;
}

static lp_status read_store(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"file", "sites", NULL};
    lp_json section, sites, entry;
    LP_CHECK(opt_section(root, "store", keys, &section, err));
    LP_CHECK(need_path(job, &section, "store", "file", &job->store.file, err));
    LP_CHECK(lp_json_find(&section, "sites", &sites, err));
    if (!sites.node) return LP_OK;
    size_t n = 0;
    LP_CHECK(lp_json_array_size(&sites, &n, err));
    LP_CHECK(lp_mem_new(&job->store.sites, n, sizeof *job->store.sites, "cache sites", err));
    for (lp_json_first(&sites, &entry); entry.node; lp_json_next(&sites, &entry))
        LP_CHECK(read_cache_site(&job->store.sites[job->store.n_sites++], &entry, err));
    return LP_OK;
}

static lp_status read_controls(lp_job *job, const lp_json *section, lp_error *err) {
    static const char *const names[] = {"self", "shuffled", NULL};
    lp_json value, entry;
    bool on = true;
    job->sweep.controls = (lp_controls){true, true};
    LP_CHECK(lp_json_find(section, "controls", &value, err));
    if (!value.node) return LP_OK;
    if (!lp_json_is_array(&value)) {
        LP_CHECK(lp_json_bool(&value, &on, err));
        job->sweep.controls = (lp_controls){on, on};
        return LP_OK;
    }
    job->sweep.controls = (lp_controls){false, false};
    for (lp_json_first(&value, &entry); entry.node; lp_json_next(&value, &entry)) {
        int choice = 0;
        LP_CHECK(lp_json_choice(&entry, names, &choice, err));
        job->sweep.controls.self |= choice == 0;
        job->sweep.controls.shuffled |= choice == 1;
    }
    return LP_OK;
}

/* Draws of the donor shuffled: one by default, with the sweep's seed. */
static lp_status read_draws(lp_job *job, const lp_json *section, lp_error *err) {
    lp_json list, entry;
    size_t n = 0;
    int32_t read = 0;
    job->sweep.shuffled_seeds[0] = job->sweep.seed;
    job->sweep.n_draws = 1;
    LP_CHECK(lp_json_find(section, "shuffled_seeds", &list, err));
    if (!list.node) return LP_OK;
    LP_CHECK(lp_json_array_size(&list, &n, err));
    if (n < 1 || n > LP_MAX_DRAWS) return lp_json_fail(&list, err, "1 to %d seeds", LP_MAX_DRAWS);
    for (lp_json_first(&list, &entry); entry.node; lp_json_next(&list, &entry)) {
        int64_t seed = 0;
        LP_CHECK(lp_json_int(&entry, 0, INT64_C(1) << 53, &seed, err));
        for (int32_t i = 0; i < read; i++)
            if (job->sweep.shuffled_seeds[i] == (uint64_t)seed)
                return lp_json_fail(&entry, err, "a seed that is not in the list yet");
        job->sweep.shuffled_seeds[read++] = (uint64_t)seed;
    }
    job->sweep.n_draws = read;
    return LP_OK;
}

static lp_status read_sweep(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"filter",         "directions", "controls", "seed",
                                       "shuffled_seeds", "conditions", "vectors",  NULL};
    lp_json section, value, entry;
    LP_CHECK(opt_section(root, "sweep", keys, &section, err));
    if (!section.node) return LP_OK;
    job->sweep.present = true;
    LP_JSON_OPT_ENUM(&section, "filter", lp_filter_names(), job->sweep.filter);
    LP_CHECK(lp_json_find(&section, "directions", &value, err));
    job->sweep.denoise = !value.node;
    if (value.node) {
        size_t n = 0;
        LP_CHECK(lp_json_array_size(&value, &n, err));
        if (n == 0) return lp_json_fail(&value, err, "at least one direction");
        for (lp_json_first(&value, &entry); entry.node; lp_json_next(&value, &entry)) {
            int choice = 0;
            LP_CHECK(lp_json_choice(&entry, lp_direction_names(), &choice, err));
            if (choice == 0)
                job->sweep.denoise = true;
            else
                job->sweep.noise = true;
        }
    }
    LP_CHECK(read_controls(job, &section, err));
    int64_t seed = 1;
    LP_CHECK(lp_json_opt_int(&section, "seed", 0, INT64_C(1) << 53, &seed, err));
    job->sweep.seed = (uint64_t)seed;
    LP_CHECK(read_draws(job, &section, err));
    LP_CHECK(lp_json_find(&section, "vectors", &value, err));
    if (value.node) {
        size_t n = 0;
        LP_CHECK(lp_json_array_size(&value, &n, err));
        if (n > MAX_VECTORS)
            return lp_fail(err, LP_ERR_VALUE,
                           "%s: %s: expected at most %d files, found %zu (a file may hold many rows)", value.file,
                           value.path, MAX_VECTORS, n);
        LP_CHECK(lp_mem_new(&job->sweep.vectors, n, sizeof *job->sweep.vectors, "vectors", err));
        for (lp_json_first(&value, &entry); entry.node; lp_json_next(&value, &entry)) {
            const char *text = NULL;
            LP_CHECK(lp_json_string(&entry, &text, err));
            LP_CHECK(lp_path_join(job->folder, text, &job->sweep.vectors[job->sweep.n_vectors++], err));
        }
    }
    LP_CHECK(lp_json_get(&section, "conditions", &value, err));
    LP_CHECK(lp_json_array_size(&value, &job->sweep.n_groups, err));
    if (job->sweep.n_groups == 0)
        return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected at least one condition, found none", value.file,
                       value.path);
    return lp_json_print(&value, &job->sweep.groups, err);
}

/* "logit_lens top 5" */
static lp_status read_readout(lp_job *job, const lp_json *root, lp_error *err) {
    static const char words[] = "logit_lens top ";
    lp_json value;
    const char *text = NULL;
    lp_status status = lp_json_find(root, "readout", &value, err);
    if (status != LP_OK || !value.node) return status;
    status = lp_json_string(&value, &text, err);
    if (status != LP_OK) return status;
    size_t n = sizeof words - 1;
    int64_t top = 0;
    if (strncmp(text, words, n) == 0 && text[n] != '0' && lp_read_integer(text + n, 1, LP_MAX_LENS_TOP, &top)) {
        job->lens_top = (int32_t)top;
        return LP_OK;
    }
    return lp_json_fail(&value, err, "\"logit_lens top K\" with K from 1 to %d", LP_MAX_LENS_TOP);
}

static lp_status read_decode_and_metrics(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const decode_keys[] = {"max_new_tokens", "eos", NULL};
    static const char *const metric_names[] = {"logits", "answer_logprob", "steps", NULL};
    static const char *const classifiers[] = {"seed", "codi", NULL};
    lp_json section, entry;
    job->decode.max_new_tokens = 200;
    LP_CHECK(opt_section(root, "decode", decode_keys, &section, err));
    LP_CHECK(lp_json_opt_int32(&section, "max_new_tokens", 1, 65536, &job->decode.max_new_tokens, err));
    LP_CHECK(opt_text(&section, "eos", &job->decode.eos, err));
    LP_CHECK(lp_json_find(root, "metrics", &section, err));
    if (section.node) {
        size_t n = 0;
        LP_CHECK(lp_json_array_size(&section, &n, err));
        for (lp_json_first(&section, &entry); entry.node; lp_json_next(&section, &entry)) {
            int choice = 0;
            LP_CHECK(lp_json_choice(&entry, metric_names, &choice, err));
            job->metrics.logits |= choice == 0;
            job->metrics.answer_logprob |= choice == 1;
            job->metrics.steps |= choice == 2;
        }
    }
    LP_CHECK(read_readout(job, root, err));
    LP_JSON_OPT_ENUM(root, "classifier", classifiers, job->classifier);
    return LP_OK;
}

static lp_status with_suffix(const char *path, const char *suffix, char **out, lp_error *err) {
    size_t n = strlen(path);
    static const char own[] = ".results.h5";
    if (n >= sizeof own && strcmp(path + n - (sizeof own - 1), own) == 0) n -= sizeof own - 1;
    lp_text text = {0};
    lp_status status = lp_text_format(&text, err, "%.*s%s", (int)n, path, suffix);
    if (status == LP_OK) *out = text.data;
    return status;
}

static lp_status read_results(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"file", "csv", "summary", NULL};
    lp_json section;
    LP_CHECK(opt_section(root, "results", keys, &section, err));
    if (!section.node && !job->sweep.present) return LP_OK;
    LP_CHECK(need_path(job, &section, "results", "file", &job->results.file, err));
    LP_CHECK(opt_path(job, &section, "csv", &job->results.csv, err));
    LP_CHECK(opt_path(job, &section, "summary", &job->results.summary, err));
    if (!job->results.csv) LP_CHECK(with_suffix(job->results.file, ".csv", &job->results.csv, err));
    if (!job->results.summary) LP_CHECK(with_suffix(job->results.file, ".summary.json", &job->results.summary, err));
    return LP_OK;
}

/* 8589934592, "8GiB", "500MB" */
static lp_status read_bytes(const lp_json *value, int64_t *out, lp_error *err) {
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},      {"B", 1},        {"KB", 1e3},        {"MB", 1e6},           {"GB", 1e9},
                 {"TB", 1e12}, {"KiB", 1024.0}, {"MiB", 1048576.0}, {"GiB", 1073741824.0}, {"TiB", 1099511627776.0}};
    if (lp_json_is_number(value)) return lp_json_int(value, 0, INT64_C(1) << 53, out, err);
    const char *text = lp_json_is_string(value) ? value->node->valuestring : "";
    char digits[64];
    double number = 0;
    size_t n = strspn(text, "0123456789.");
    snprintf(digits, sizeof digits, "%.*s", (int)n, text);
    bool plain = n < sizeof digits && lp_read_number(digits, &number);
    for (size_t i = 0; plain && i < sizeof units / sizeof units[0]; i++)
        if (strcmp(text + n, units[i].unit) == 0 && number * units[i].bytes < 9e15) {
            *out = (int64_t)(number * units[i].bytes);
            return LP_OK;
        }
    return lp_json_fail(value, err, "a number of bytes such as 4000000000 or \"4GiB\"");
}

static lp_status read_engine(lp_job *job, const lp_json *root, lp_error *err) {
    static const char *const keys[] = {"executor", "device", "dtype", "threads", "memory_limit", "hang_limit", NULL};
    lp_json section, value;
    job->engine.hang_limit_s = 600;
    LP_CHECK(opt_section(root, "engine", keys, &section, err));
    if (!section.node) return LP_OK;
    LP_JSON_OPT_ENUM(&section, "executor", lp_executor_names(), job->engine.executor);
    LP_JSON_OPT_ENUM(&section, "device", lp_device_names(), job->engine.device);
    LP_JSON_OPT_ENUM(&section, "dtype", lp_compute_names(), job->engine.dtype);
    LP_CHECK(lp_json_opt_int32(&section, "threads", 0, 1024, &job->engine.threads, err));
    LP_CHECK(lp_json_find(&section, "memory_limit", &value, err));
    if (value.node) LP_CHECK(read_bytes(&value, &job->engine.memory_limit, err));
    return lp_json_opt_int32(&section, "hang_limit", 0, 604800, &job->engine.hang_limit_s, err);
}

lp_status lp_job_parse(const char *text, size_t size, const char *path, const char *const *settings, size_t n_settings,
                       lp_job *out, lp_error *err) {
    static const char *const keys[] = {"model",   "protocol", "pairs",      "store",  "sweep",   "decode", "metrics",
                                       "readout", "results",  "classifier", "engine", "$schema", NULL};
    lp_job job = {0};
    lp_json root;
    cJSON *document = NULL;
    const char *ignored = NULL; /* it is for editors */
    lp_status status = LP_OK;
    LP_TRY(lp_mem_text(&job.file, path, strlen(path), err));
    LP_TRY(lp_path_folder(path, &job.folder, err));
    LP_TRY(lp_json_parse(text, size, job.file, &document, &root, err));
    LP_TRY(only_keys(&root, keys, err));
    for (size_t i = 0; i < n_settings; i++) LP_TRY(apply_setting(document, settings[i], err));
    LP_TRY(only_keys(&root, keys, err));
    LP_TRY(lp_json_opt_string(&root, "$schema", &ignored, err));
    LP_TRY(read_model(&job, &root, err));
    LP_TRY(read_protocol(&job, &root, err));
    LP_TRY(read_pairs(&job, &root, err));
    LP_TRY(read_store(&job, &root, err));
    LP_TRY(read_sweep(&job, &root, err));
    LP_TRY(read_decode_and_metrics(&job, &root, err));
    LP_TRY(read_results(&job, &root, err));
    LP_TRY(read_engine(&job, &root, err));
    LP_TRY(lp_json_print(&root, &job.text, err));
    *out = job;
    job = (lp_job){0};
out:
    cJSON_Delete(document);
    lp_job_release(&job);
    return status;
}

lp_status lp_job_load(const char *path, const char *const *settings, size_t n_settings, lp_job *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_file_read(path, JOB_MAX_BYTES, &text, err);
    if (status == LP_OK) status = lp_job_parse(lp_text_get(&text), text.length, path, settings, n_settings, out, err);
    lp_text_release(&text);
    return status;
}

void lp_job_release(lp_job *job) {
    lp_mem_free(job->file);
    lp_mem_free(job->folder);
    lp_mem_free(job->model.name);
    lp_mem_free(job->model.base);
    lp_mem_free(job->model.codi);
    lp_mem_free(job->model.tokenizer);
    lp_mem_free(job->pairs.file);
    lp_mem_free(job->store.file);
    for (size_t i = 0; i < job->store.n_sites; i++) lp_mem_free(job->store.sites[i].indices);
    lp_mem_free(job->store.sites);
    for (size_t i = 0; i < job->sweep.n_vectors; i++) lp_mem_free(job->sweep.vectors[i]);
    lp_mem_free(job->sweep.vectors);
    lp_mem_free(job->decode.eos);
    lp_mem_free(job->results.file);
    lp_mem_free(job->results.csv);
    lp_mem_free(job->results.summary);
    lp_mem_free(job->text);
    lp_mem_free(job->sweep.groups);
    *job = (lp_job){0};
}
