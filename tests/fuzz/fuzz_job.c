/* Fuzzes the job file: the bytes are a job, and where they begin with "--set ", the first line is a setting for the job
 * after it. What is accepted is expanded for one of four small models, by the size of the job, and compared as `plan`
 * does it, for prompts of one position and more. */
#include "base/memory.h"
#include "job/job.h"

enum { MOST = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What a plan says of the conditions. */
static void compare(const lp_job *job, const lp_model_config *config, const lp_condition_set *set, lp_error *error) {
    static const int32_t lengths[] = {1, 4, 9};
    const lp_run_shapes shapes = {.config = config,
                                  .protocol = job->protocol,
                                  .n_prompt = {lengths, lengths},
                                  .n = {sizeof lengths / sizeof lengths[0], 1}};
    bool dead[MOST];
    int32_t same_as[MOST], fed_as[MOST];
    lp_condition_family family[MOST];
    if (lp_conditions_compare(set, &shapes, dead, same_as, family, fed_as, error) != LP_OK) {
        LP_ASSERT(error->text[0] != '\0');
        return;
    }
    for (size_t i = 0; i < set->n; i++) {
        LP_ASSERT(same_as[i] >= 0 && (size_t)same_as[i] <= i && fed_as[i] >= 0 && (size_t)fed_as[i] <= i);
        LP_ASSERT(!dead[i] || lp_condition_family_reason(family[i]));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const lp_model_config configs[] = {
        {.n_layers = 3, .d_model = 8, .n_heads = 4, .n_kv_heads = 2, .head_dim = 2, .n_vocab = 10, .n_embedded = 13},
        {.n_layers = 1, .d_model = 2, .n_heads = 1, .n_kv_heads = 1, .head_dim = 2, .n_vocab = 1, .n_embedded = 1},
        {.n_layers = 2, .d_model = 8, .n_heads = 2, .n_kv_heads = 2, .head_dim = 8, .n_vocab = 60, .n_embedded = 60},
        {.n_layers = 12, .d_model = 64, .n_heads = 32, .n_kv_heads = 1, .head_dim = 2, .n_vocab = 9, .n_embedded = 9}};
    const lp_model_config config = configs[size % (sizeof configs / sizeof configs[0])];
    const char *text = size ? (const char *)data : "";
    char setting[256] = "";
    const char *const settings[] = {setting};
    const char *end = size > 6 && memcmp(text, "--set ", 6) == 0 ? memchr(text, '\n', size) : NULL;
    if (end && (size_t)(end - text) < sizeof setting) {
        memcpy(setting, text + 6, (size_t)(end - text) - 6);
        size -= (size_t)(end - text) + 1;
        text = end + 1;
    }
    lp_job job = {0};
    lp_condition_set set = {0};
    lp_error error = {0};
    if (lp_job_parse(text, size, "jobs/fuzz.json", settings, setting[0] != '\0', &job, &error) != LP_OK) {
        LP_ASSERT(error.text[0] != '\0' && job.file == NULL);
        return 0;
    }
    LP_ASSERT(job.text[0] == '{');
    if (lp_job_conditions(&job, &config, &set, &error) == LP_OK) {
        lp_run_shape shape = {.config = &config, .protocol = job.protocol, .n_prompt = 4};
        lp_edit_sequence edits = {0};
        for (size_t i = 0; i < set.n && i < 64; i++)
            LP_ASSERT(lp_condition_effective(&set, i, &shape, &edits, &error) == LP_OK || error.text[0] != '\0');
        lp_edit_sequence_release(&edits);
        if (set.n > 0 && set.n <= MOST) compare(&job, &config, &set, &error);
    } else {
        LP_ASSERT(error.text[0] != '\0' && set.n == 0);
    }
    lp_condition_set_release(&set);
    lp_job_release(&job);
    return 0;
}
