/* What the plan says of random conditions at several prompt lengths, against the reference executor: conditions that
 * are the same as another give its answers at every length, dead ones those of the unpatched run. The reference gets
 * all replacements, the overwritten and the unread ones too, so nothing of the plan's rules is taken for granted. */
#include "test_engine_support.h"

#include "base/memory.h"
#include "thought/reference.h"

#if defined(__SANITIZE_ADDRESS__)
enum { DRAWS = 3 };
#else
enum { DRAWS = 15 };
#endif
enum { N_CONDITIONS = 20, N_LENGTHS = 3, MAX_REPLACED = 3, MAX_NEW = 6, N_WIDTH = 256, N_STEPS = 3, SHORTEST = 4 };

static const char *const models[] = {"gpt2-ln", "llama-gqa"};
enum { N_MODELS = sizeof models / sizeof models[0] };

typedef struct {
    const char *name;
    const golden_model *model;
    lp_protocol protocol;
    lp_condition_set set;
    int32_t lengths[N_LENGTHS]; /* ascending */
    float vector[N_WIDTH], zeros[N_WIDTH];
    int32_t prompt[32];
} drawing;

static lp_replacement draw_one(dice *d, const drawing *w) {
    static const lp_site sites[] = {LP_SITE_RESID_POST, LP_SITE_RESID_POST, LP_SITE_RESID_PRE, LP_SITE_MLP_OUT,
                                    LP_SITE_LATENT_RAW};
    lp_replacement r = {.factor = 1, .donor = roll(d, 3) ? LP_DONOR_ZERO : LP_DONOR_FILE};
    lp_address *at = &r.at;
    *at = (lp_address){.site = sites[roll(d, 5)], .head = LP_ALL_HEADS, .phase = LP_PHASE_PROMPT};
    if (lp_site_has_layer(at->site)) {
        int32_t n_layers = w->model->model.config.n_layers;
        at->layer = roll(d, 2) ? n_layers - 1 : roll(d, n_layers);
    }
    int32_t length = w->lengths[roll(d, N_LENGTHS)], k = roll(d, length + 2);
    at->index = roll(d, 2) ? k : -1 - k;
    if (roll(d, 4) == 0) at->index = length - 1;
    if (roll(d, 4) == 0) {
        at->phase = LP_PHASE_THOUGHT;
        at->index = roll(d, N_STEPS);
    }
    r.from = r.at;
    return r;
}

/* A condition of its own, or an earlier one's with its prompt positions counted from the other end of one length. */
static void draw_condition(dice *d, drawing *w, int32_t number) {
    lp_condition *condition = NULL;
    lp_replacement list[MAX_REPLACED];
    size_t n = 1 + (size_t)roll(d, MAX_REPLACED);
    char name[16];
    for (size_t i = 0; i < n; i++) list[i] = draw_one(d, w);
    if (number > 1 && roll(d, 2)) {
        const lp_condition *like = &w->set.conditions[1 + roll(d, number - 1)];
        int32_t length = w->lengths[roll(d, N_LENGTHS)];
        n = like->n;
        for (size_t i = 0; i < n; i++) {
            list[i] = w->set.replacements[like->first + i];
            if (list[i].at.phase == LP_PHASE_PROMPT) list[i].at.index += list[i].at.index < 0 ? length : -length;
            list[i].from = list[i].at;
        }
    }
    snprintf(name, sizeof name, "c%d", number);
    OK(lp_condition_add(&w->set, name, "", "", "", &condition, err));
    condition->n_steps_run = roll(d, 5) ? N_STEPS : N_STEPS - 1;
    for (size_t i = 0; i < n; i++) {
        if (list[i].at.phase == LP_PHASE_THOUGHT && list[i].at.index >= condition->n_steps_run) list[i].at.index = 0;
        OK(lp_condition_replace(&w->set, &list[i], err));
    }
}

/* The last condition goes where it contradicts itself at some length, or is nowhere. */
static bool is_good(const drawing *w, size_t index) {
    lp_edit_sequence edits = {0};
    lp_error error = {0};
    bool good = true, present = false;
    for (size_t l = 0; l < N_LENGTHS && good; l++) {
        lp_run_shape shape = {.config = &w->model->model.config, .protocol = w->protocol, .n_prompt = w->lengths[l]};
        good = lp_condition_effective(&w->set, index, &shape, &edits, &error) == LP_OK;
        present |= good && !edits.absent;
    }
    lp_edit_sequence_release(&edits);
    return good && present;
}

static void remove_last(lp_condition_set *set) {
    lp_condition *last = &set->conditions[--set->n];
    set->n_replacements -= last->n;
}

typedef struct {
    int32_t tokens[MAX_NEW], n;
} answer;

/* The answer of a condition at one length; false where it names a position that is not there. */
static bool answer_of(const drawing *w, lp_reference *reference, size_t index, int32_t n_prompt, answer *out) {
    const lp_condition *condition = &w->set.conditions[index];
    lp_edit edits[MAX_REPLACED];
    lp_run_answer got;
    for (size_t i = 0; i < condition->n; i++) {
        const lp_replacement *r = &w->set.replacements[condition->first + i];
        lp_address at = r->at;
        if (at.phase == LP_PHASE_PROMPT && at.index < 0) at.index += n_prompt;
        if (at.phase == LP_PHASE_PROMPT && (at.index < 0 || at.index >= n_prompt)) return false;
        if (at.site == LP_SITE_RESID_PRE && at.layer > 0) {
            at.site = LP_SITE_RESID_POST;
            at.layer--;
        }
        edits[i] = (lp_edit){.at = at,
                             .operation = LP_OP_REPLACE,
                             .factor = 1,
                             .vector = r->donor == LP_DONOR_ZERO ? w->zeros : w->vector};
    }
    lp_run_request request = {.prompt = w->prompt,
                              .n_prompt = n_prompt,
                              .n_steps = condition->n_steps_run,
                              .edits = edits,
                              .n_edits = (int32_t)condition->n,
                              .max_new_tokens = MAX_NEW};
    OK(lp_reference_run(reference, &request, out->tokens, &got, err));
    out->n = got.n_tokens;
    return true;
}

static bool same_answer(const answer *a, const answer *b) {
    return a->n == b->n && memcmp(a->tokens, b->tokens, (size_t)a->n * sizeof(int32_t)) == 0;
}

typedef struct {
    int64_t n_merged, n_dead, n_absent, n_different;
} tally;

static void check_drawing(drawing *w, uint64_t seed, tally *t) {
    bool dead[N_CONDITIONS];
    int32_t same_as[N_CONDITIONS], fed_as[N_CONDITIONS];
    lp_condition_family family[N_CONDITIONS];
    lp_reference *reference = NULL;
    const lp_run_shapes shapes = {.config = &w->model->model.config,
                                  .protocol = w->protocol,
                                  .n_prompt = {w->lengths, w->lengths},
                                  .n = {N_LENGTHS, N_LENGTHS}};
    OK(lp_conditions_compare(&w->set, &shapes, dead, same_as, family, fed_as, err));
    lp_vocabulary vocabulary = w->model->vocabulary;
    golden_resolve_roles(&w->protocol, &vocabulary);
    OK(lp_reference_new(&w->model->model, &w->protocol, &vocabulary, w->model->model.config.n_context, &reference,
                        err));
    for (size_t l = 0; l < N_LENGTHS; l++) {
        answer answers[N_CONDITIONS];
        bool present[N_CONDITIONS];
        for (size_t i = 0; i < w->set.n; i++) present[i] = answer_of(w, reference, i, w->lengths[l], &answers[i]);
        for (size_t i = 0; i < w->set.n; i++) {
            size_t first = (size_t)same_as[i];
            t->n_absent += !present[i];
            t->n_merged += first != i;
            t->n_dead += dead[i];
            if (present[first] != present[i] || (present[i] && !same_answer(&answers[first], &answers[i])))
                fail_msg("%s seed %llu, prompt of %d: c%zu is said to be the same as c%zu", w->name,
                         (unsigned long long)seed, w->lengths[l], i, first);
            if (!present[i]) continue;
            bool differs = !same_answer(&answers[0], &answers[i]);
            t->n_different += differs;
            if (dead[i] && differs)
                fail_msg("%s seed %llu, prompt of %d: c%zu is said to be dead", w->name, (unsigned long long)seed,
                         w->lengths[l], i);
        }
    }
    lp_reference_free(reference);
}

static void test_random_conditions(void **state) {
    (void)state;
    tally t = {0};
    for (size_t m = 0; m < N_MODELS; m++) {
        golden_model model;
        golden_model_open(models[m], &model);
        assert_true(model.model.config.d_model <= N_WIDTH);
        for (int k = 0; k < 2 * DRAWS; k++) {
            uint64_t seed = 7000 + 100 * (uint64_t)m + (uint64_t)k;
            dice d = {.key = {.seed = seed, .stream = 3}};
            drawing w = {
                .name = models[m], .model = &model, .protocol = lp_protocol_preset((lp_protocol_kind)(k % 4), N_STEPS)};
            if (roll(&d, 2)) lp_protocol_keep_eos(&w.protocol);
            lp_condition *unpatched = NULL;
            for (int32_t l = 0, n = SHORTEST; l < N_LENGTHS; l++) w.lengths[l] = n += 1 + roll(&d, 4);
            lp_random_normal((lp_random_key){.seed = seed, .stream = 4}, w.vector, N_WIDTH);
            for (size_t i = 0; i < sizeof w.prompt / sizeof w.prompt[0]; i++)
                w.prompt[i] = roll(&d, model.model.config.n_vocab);
            OK(lp_condition_add(&w.set, "c0", "", "", "", &unpatched, err));
            unpatched->n_steps_run = N_STEPS;
            while (w.set.n < N_CONDITIONS) {
                draw_condition(&d, &w, (int32_t)w.set.n);
                if (!is_good(&w, w.set.n - 1)) remove_last(&w.set);
            }
            check_drawing(&w, seed, &t);
            lp_condition_set_release(&w.set);
        }
        golden_model_close(&model);
    }
    printf("%lld rows of merged conditions, %lld of dead ones, %lld absent, %lld differ from the unpatched run\n",
           (long long)t.n_merged, (long long)t.n_dead, (long long)t.n_absent, (long long)t.n_different);
    assert_true(t.n_merged > 0 && t.n_dead > 0 && t.n_absent > 0 && t.n_different > t.n_merged);
}

int main(void) {
    if (!golden_kernels_run_here()) return GOLDEN_SKIPPED;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_conditions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
