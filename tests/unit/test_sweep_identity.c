/* What makes results those of another sweep: each input of a sweep shows under its own key of the identity and under no
 * other, and what changes no result shows under none. */
#include "support/golden.h"

#include "base/memory.h"
#include "stage/sweep_identity.h"

#define MODELS LP_SOURCE_DIR "/tests/golden/models/"

typedef struct {
    lp_session session;
    lp_condition_set set;
    lp_tokenizer *other_tokenizer;
} sweep;

static void add_condition(sweep *s, const char *name) {
    lp_condition *condition = NULL;
    OK(lp_condition_add(&s->set, name, "", "", "", &condition, err));
}

static void sweep_make(sweep *s) {
    static char name[] = "model", digests[] = "a.safetensors  00", job[] = "{}";
    lp_parallel *parallel = NULL;
    *s = (sweep){.session = {.n_pairs = 3, .model_digests = digests, .resolved_job = job}};
    OK(lp_parallel_alone(&parallel, err));
    s->session.parallel = parallel;
    s->session.job.model.name = name;
    s->session.job.model.lora_alpha = 32;
    s->session.job.protocol = lp_protocol_preset(LP_PROTOCOL_CODI, 6);
    s->session.job.decode.max_new_tokens = 16;
    OK(lp_tokenizer_load(MODELS "gpt2-ln/base", &s->session.tokenizer, err));
    OK(lp_tokenizer_load(MODELS "llama-gqa/base", &s->other_tokenizer, err));
    add_condition(s, "one");
    add_condition(s, "two");
}

static void sweep_release(sweep *s) {
    lp_tokenizer_free(s->session.tokenizer);
    lp_tokenizer_free(s->other_tokenizer);
    lp_condition_set_release(&s->set);
    lp_parallel_finish((lp_parallel *)s->session.parallel);
}

/* ---- What may change --------------------------------------------------------------------------------------------- */

static void change_model_files(sweep *s) {
    static char others[] = "a.safetensors  01";
    s->session.model_digests = others;
}
static void change_tokenizer(sweep *s) {
    lp_tokenizer *before = s->session.tokenizer;
    s->session.tokenizer = s->other_tokenizer;
    s->other_tokenizer = before;
}
static void change_pair_file(sweep *s) {
    s->session.pairs.digest[0] = '1';
}
static void change_steps(sweep *s) {
    s->session.job.protocol.n_steps = 5;
}
static void change_spaces(sweep *s) {
    s->session.job.protocol.normalise_spaces = true;
}
static void change_answer_start(sweep *s) {
    lp_marker_add(&s->session.job.protocol.answer_start, (lp_marker){.kind = LP_MARKER_TEXT, .text = "So"});
}
static void change_stop(sweep *s) {
    lp_marker_add(&s->session.job.protocol.stop, (lp_marker){.kind = LP_MARKER_TOKEN, .id = 3});
}
static void change_feedback(sweep *s) {
    s->session.job.protocol.feedback = LP_FEEDBACK_NONE;
}
static void change_token_ids(sweep *s) {
    s->session.vocabulary.n_candidates = 99;
}
static void change_eos(sweep *s) {
    s->session.vocabulary.eos = 7;
}
static void change_lora_alpha(sweep *s) {
    s->session.job.model.lora_alpha += 1e-12;
}
static void change_rounding(sweep *s) {
    s->session.job.model.base_rounding = LP_BASE_FP16;
}
static void change_max_new_tokens(sweep *s) {
    s->session.job.decode.max_new_tokens = 17;
}
static void change_dtype(sweep *s) {
    s->session.job.engine.dtype = LP_COMPUTE_TF32;
}
static void change_n_pairs(sweep *s) {
    s->session.n_pairs = 2;
}
static void change_seed(sweep *s) {
    s->session.job.sweep.seed = UINT64_MAX;
}
static void change_filter(sweep *s) {
    s->session.job.sweep.filter = LP_FILTER_ALL;
}
static void change_conditions(sweep *s) {
    add_condition(s, "three");
}
static void change_classifier(sweep *s) {
    s->session.job.classifier = LP_CLASSIFIER_CODI;
}
static void change_metrics(sweep *s) {
    s->session.job.metrics.answer_logprob = true;
}
static void change_vectors(sweep *s) {
    static char *files[] = {MODELS "gpt2-ln/lora.json"};
    s->session.job.sweep.vectors = files;
    s->session.job.sweep.n_vectors = 1;
}
static void change_lens(sweep *s) {
    s->session.job.lens_top = 5;
}
static void change_name(sweep *s) {
    static char other[] = "another name";
    s->session.job.model.name = other;
}
static void change_job(sweep *s) {
    static char other[] = "{\"engine\":{\"threads\":2}}";
    s->session.resolved_job = other;
}
static void change_executor(sweep *s) {
    s->session.job.engine.executor = LP_EXECUTOR_REFERENCE;
}

static const struct {
    void (*change)(sweep *s);
    const char *key; /* "": none */
} changes[] = {{change_model_files, "model_files"},
               {change_tokenizer, "tokenizer"},
               {change_pair_file, "pair_file"},
               {change_steps, "steps"},
               {change_spaces, "normalise_spaces"},
               {change_answer_start, "answer_start"},
               {change_stop, "stop"},
               {change_feedback, "feedback"},
               {change_token_ids, "token_ids"},
               {change_eos, "eos"},
               {change_lora_alpha, "lora_alpha"},
               {change_rounding, "base_rounding"},
               {change_max_new_tokens, "max_new_tokens"},
               {change_dtype, "dtype"},
               {change_n_pairs, "n_pairs"},
               {change_seed, "seed"},
               {change_filter, "filter"},
               {change_conditions, "conditions"},
               {change_classifier, "classifier"},
               {change_metrics, "metrics"},
               {change_vectors, "vectors"},
               {change_lens, "readout"},
               {change_name, ""},
               {change_job, ""},
               {change_executor, ""}};

/* The value of an identity's key; NULL where it has none. */
static const char *value_of(const lp_provenance *p, const char *key) {
    for (size_t i = 0; i < p->n; i++)
        if (p->items[i].identity && strcmp(p->items[i].key, key) == 0) return p->items[i].value;
    return NULL;
}

/* Keys of `a` that `b` has not, or with another value, each followed by a blank. */
static void list_differences(const lp_provenance *a, const lp_provenance *b, char *out, size_t size) {
    for (size_t i = 0; i < a->n; i++) {
        if (!a->items[i].identity) continue;
        const char *other = value_of(b, a->items[i].key);
        size_t used = strlen(out);
        if (!other || strcmp(a->items[i].value, other) != 0) snprintf(out + used, size - used, "%s ", a->items[i].key);
    }
}

static void test_keys(void **state) {
    (void)state;
    lp_sweep_identity *before = NULL, *after = NULL;
    OK(lp_mem_new(&before, 1, sizeof *before, "identity", err));
    OK(lp_mem_new(&after, 1, sizeof *after, "identity", err));
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        sweep s;
        char found[512] = "", wanted[64] = "";
        sweep_make(&s);
        OK(lp_sweep_identity_init(&s.session, &s.set, before, err));
        changes[i].change(&s);
        OK(lp_sweep_identity_init(&s.session, &s.set, after, err));
        list_differences(&after->provenance, &before->provenance, found, sizeof found);
        if (changes[i].key[0]) snprintf(wanted, sizeof wanted, "%s ", changes[i].key);
        if (strcmp(found, wanted) != 0) fail_msg("change %zu: expected \"%s\", found \"%s\"", i, wanted, found);
        lp_sweep_identity_release(before);
        lp_sweep_identity_release(after);
        sweep_release(&s);
    }
    lp_mem_free(before);
    lp_mem_free(after);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_keys)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
