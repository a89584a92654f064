/* Reads job files as a run does, for a model of 12 layers and 2 KV heads; a line each: "ok" or the message. For
 * tests/test_schemas.py. */
#include "job/job.h"

int main(int argc, char **argv) {
    static const lp_model_config config = {
        .n_layers = 12, .d_model = 8, .n_heads = 4, .n_kv_heads = 2, .head_dim = 2, .n_vocab = 10, .n_embedded = 13};
    for (int i = 1; i < argc; i++) {
        lp_job job = {0};
        lp_condition_set set = {0};
        lp_error err = {0};
        lp_status status = lp_job_load(argv[i], NULL, 0, &job, &err);
        if (status == LP_OK && job.sweep.present) status = lp_job_conditions(&job, &config, &set, &err);
        printf("%s\n", status == LP_OK ? "ok" : err.text);
        lp_condition_set_release(&set);
        lp_job_release(&job);
    }
    return 0;
}
