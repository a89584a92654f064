/* Fuzzes the job file: the bytes are a job, and where they begin with "--set ", the first line is a setting for the job
 * after it. What is accepted is expanded for a small model. */
#include "base/memory.h"
#include "job/job.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const lp_model_config config = {
        .n_layers = 3, .d_model = 8, .n_heads = 4, .n_kv_heads = 2, .head_dim = 2, .n_vocab = 10, .n_embedded = 13};
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
    } else {
        LP_ASSERT(error.text[0] != '\0' && set.n == 0);
    }
    lp_condition_set_release(&set);
    lp_job_release(&job);
    return 0;
}
