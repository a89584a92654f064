#include "support/golden.h"

#include "base/file.h"
#include "base/gemm.h"
#include "base/json.h"
#include "base/memory.h"

#include <dirent.h>
#include <math.h>

#define DATA LP_SOURCE_DIR "/tests/golden/data/"

bool golden_kernels_run_here(void) {
    lp_error err = {0};
    if (lp_gemm_check_setting(&err) == LP_OK) return true;
    printf("skipped: %s\n", err.text);
    return false;
}

bool golden_quick(void) {
    return getenv("LP_TEST_QUICK") != NULL;
}

static int compare_paths(const void *a, const void *b) {
    const golden_file *left = a;
    const golden_file *right = b;
    return strcmp(left->path, right->path);
}

size_t golden_files(const char *suffix, golden_file out[GOLDEN_MAX]) {
    DIR *folder = opendir(DATA);
    size_t n = 0;
    if (!folder) fail_msg("%s: cannot open", DATA);
    for (const struct dirent *entry = readdir(folder); entry; entry = readdir(folder)) {
        const char *name = entry->d_name;
        const char *dot = strchr(name, '.');
        const char *end = strstr(name, suffix);
        if (!dot || !end || dot >= end || end[strlen(suffix)] != '\0') continue;
        assert_true(n < GOLDEN_MAX && end - dot < GOLDEN_NAME && dot - name < GOLDEN_NAME);
        snprintf(out[n].model, GOLDEN_NAME, "%.*s", (int)(dot - name), name);
        snprintf(out[n].protocol, GOLDEN_NAME, "%.*s", (int)(end - dot - 1), dot + 1);
        snprintf(out[n].path, sizeof out[n].path, "%s%.200s", DATA, name);
        n++;
    }
    closedir(folder);
    if (n == 0) fail_msg("no file *%s in %s", suffix, DATA);
    qsort(out, n, sizeof *out, compare_paths);
    return n;
}

void golden_path(const char *name, const char *suffix, char *out, size_t size) {
    snprintf(out, size, "%s%s%s", DATA, name, suffix);
}

/* lora.json beside base/ and codi/, or the job of a demo model. Beside alpha, where the checkpoint and its tokenizer
 * lie, [size] each. */
static double lora_alpha(const char *folder, const char *demo, char *codi, char *tokenizer, size_t size) {
    char path[600];
    cJSON *document = NULL;
    lp_json root, model, lora, value;
    double alpha = 0;
    const char *name = NULL;
    snprintf(codi, size, "codi");
    snprintf(tokenizer, size, "base");
    snprintf(path, sizeof path, "%.500s/lora.json", folder);
    if (demo) snprintf(path, sizeof path, "%s/jobs/%.60s.json", LP_SOURCE_DIR, demo);
    OK(lp_json_load(path, 1 << 20, &document, &root, err));
    lora = root;
    if (demo) {
        OK(lp_json_get(&root, "model", &model, err));
        OK(lp_json_get(&model, "lora", &lora, err));
    }
    OK(lp_json_get(&lora, "alpha", &value, err));
    OK(lp_json_number(&value, 0, 1e6, &alpha, err));
    OK(lp_json_find(&lora, "codi", &value, err));
    if (value.node) OK(lp_json_string(&value, &name, err));
    if (value.node) snprintf(codi, size, "%s", name);
    OK(lp_json_find(&lora, "tokenizer", &value, err));
    if (value.node) OK(lp_json_string(&value, &name, err));
    if (value.node) snprintf(tokenizer, size, "%s", name);
    cJSON_Delete(document);
    return alpha;
}

void golden_model_open(const char *name, golden_model *out) {
    char folder[440], base[520], codi[520], codi_name[32], tokenizer_name[32];
    bool demo = strncmp(name, "demo-", 5) == 0;
    *out = (golden_model){0};
    snprintf(folder, sizeof folder, "%.400s/%s", LP_SOURCE_DIR, demo ? "jobs/demo/" : "tests/golden/models/");
    snprintf(folder + strlen(folder), sizeof folder - strlen(folder), "%s", demo ? name + 5 : name);
    double alpha = lora_alpha(folder, demo ? name : NULL, codi_name, tokenizer_name, sizeof codi_name);
    snprintf(base, sizeof base, "%s/base", folder);
    snprintf(codi, sizeof codi, "%s/%s", folder, codi_name);
    snprintf(out->base, sizeof out->base, "%s/%s", folder, tokenizer_name);
    bool is_merged = strcmp(codi_name, "base") == 0; /* one folder has it all */
    lp_model_source source = {.base = base, .codi = is_merged ? NULL : codi, .lora_alpha = alpha};
    OK(lp_model_load(&source, &out->model, err));
    OK(lp_tokenizer_load(out->base, &out->tokenizer, err));
    golden_vocabulary(out, "codi", &out->vocabulary);
}

static int32_t role_id(const lp_vocabulary *v, const lp_marker *marker) {
    assert_true(marker->kind <= LP_MARKER_EOT);
    const int32_t ids[] = {v->eos, v->pad, v->bot, v->eot};
    return ids[marker->kind];
}

void golden_resolve_roles(const lp_protocol *protocol, lp_vocabulary *v) {
    v->n_answer_start = protocol->answer_start.n;
    for (int32_t i = 0; i < v->n_answer_start; i++) v->answer_start[i] = role_id(v, &protocol->answer_start.items[i]);
    v->n_stop = protocol->stop.n;
    for (int32_t i = 0; i < v->n_stop; i++) v->stop[i] = role_id(v, &protocol->stop.items[i]);
    v->first_input = protocol->first_reads_prompt ? -1 : role_id(v, &protocol->first_input);
}

void golden_vocabulary(const golden_model *m, const char *protocol, lp_vocabulary *out) {
    lp_protocol resolved = golden_protocol(protocol, 1);
    OK(lp_vocabulary_init(&m->model, m->tokenizer, m->base, NULL, &resolved, out, err));
}

void golden_model_close(golden_model *model) {
    lp_model_close(&model->model);
    lp_tokenizer_free(model->tokenizer);
    *model = (golden_model){0};
}

static void add_token(lp_marker_list *list, const char *spelling) {
    lp_marker marker = {.kind = LP_MARKER_TOKEN};
    snprintf(marker.text, sizeof marker.text, "%s", spelling);
    assert_true(lp_marker_add(list, marker));
}

/* Presets of which single fields are changed; false: not one of them. */
static bool changed_protocol(const char *name, int32_t n_steps, lp_protocol *out) {
    *out = lp_protocol_preset(LP_PROTOCOL_CODI, n_steps);
    out->changed = true;
    if (strcmp(name, "codi-keep-eos") == 0) {
        lp_protocol_keep_eos(out);
        return true;
    }
    out->not_chosen.n = 0;
    if (strcmp(name, "codi-open") == 0) return true;
    if (strcmp(name, "codi-barred") == 0) {
        static const char *const barred[] = {"<|latent|>", "q", "c"};
        for (int i = 0; i < 3; i++) add_token(&out->not_chosen, barred[i]);
        return true;
    }
    out->after_question.n = 0;
    add_token(&out->after_question, "<|eot_id|>");
    if (strcmp(name, "multimode") == 0) return lp_marker_add(&out->after_question, (lp_marker){.kind = LP_MARKER_BOT});
    out->n_steps = 0;
    if (strcmp(name, "written") == 0) out->answer_start.items[0].kind = LP_MARKER_BOT;
    return strcmp(name, "written") == 0 || strcmp(name, "direct") == 0;
}

lp_protocol golden_protocol(const char *name, int32_t n_steps) {
    const char *const *names = lp_protocol_names();
    lp_protocol protocol;
    int kind = 0;
    while (names[kind] && strcmp(names[kind], name) != 0) kind++;
    if (names[kind]) return lp_protocol_preset((lp_protocol_kind)kind, n_steps);
    if (!changed_protocol(name, n_steps, &protocol)) fail_msg("golden protocol %s: not known", name);
    return protocol;
}

static const lp_tensor *find(const lp_tensor_list *list, const char *name) {
    for (size_t i = 0; i < list->n; i++)
        if (strcmp(list->items[i].name, name) == 0) return &list->items[i];
    return NULL;
}

lp_json golden_member(const lp_json *object, const char *key) {
    lp_json out;
    OK(lp_json_get(object, key, &out, err));
    return out;
}

bool golden_truth(const lp_json *object, const char *key) {
    lp_json value = golden_member(object, key);
    bool out = false;
    OK(lp_json_bool(&value, &out, err));
    return out;
}

const lp_tensor *golden_tensor(const lp_tensor_list *list, const char *format, ...) {
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return find(list, name);
}

const lp_tensor *golden_need(const lp_tensor_list *list, lp_dtype dtype, const char *format, ...) {
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const lp_tensor *tensor = find(list, name);
    if (!tensor) fail_msg("%s: no tensor %s", list->n ? list->items[0].file : "golden file", name);
    if (tensor->dtype != dtype || !lp_tensor_is_contiguous(tensor))
        fail_msg("%s: %s: expected contiguous %s, found %s", tensor->file, name, lp_dtype_name(dtype),
                 lp_dtype_name(tensor->dtype));
    return tensor;
}

void golden_compare(golden_error_of *error, const float *got, const float *wanted, size_t n, const char *format, ...) {
    double largest = 0, most = 0, square = 0, total = 0;
    for (size_t i = 0; i < n; i++) {
        double a = (double)got[i], b = (double)wanted[i];
        if (!isfinite(a) || !isfinite(b)) {
            error->n_unequal++;
            continue;
        }
        if (fabs(b) > largest) largest = fabs(b);
        if (fabs(a - b) > most) most = fabs(a - b);
        square += (a - b) * (a - b);
        total += b * b;
    }
    double relative = largest > 0 ? most / largest : most;
    double l2 = total > 0 ? sqrt(square / total) : sqrt(square);
    error->n += (int64_t)n;
    if (l2 > error->worst_l2) error->worst_l2 = l2;
    if (relative < error->worst) return;
    error->worst = relative;
    va_list args;
    va_start(args, format);
    vsnprintf(error->where, sizeof error->where, format, args);
    va_end(args);
}
