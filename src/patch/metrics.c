#include "patch/executor.h"

#include <math.h>

const char *const *lp_metric_names(void) {
    static const char *const names[] = {"logit_clean",
                                        "logit_corrupted",
                                        "logprob_clean",
                                        "logprob_corrupted",
                                        "logit_diff",
                                        "kl",
                                        "answer_logprob_clean",
                                        "answer_logprob_corrupted",
                                        NULL};
    return names;
}

bool lp_metric_position_forces(const lp_metric_position *metric_at, bool corrupted) {
    int32_t n = corrupted ? metric_at->corrupted.n : metric_at->clean.n;
    return metric_at->whole_answers && n > 0 && (metric_at->room == 0 || metric_at->index + n <= metric_at->room);
}

int64_t lp_run_group_unpatched(const lp_run_group *group, int32_t n_steps) {
    for (size_t i = 0; i < group->n_runs; i++)
        if (group->runs[i].n_edits == 0 && group->runs[i].n_steps == n_steps) return (int64_t)i;
    return -1;
}

double lp_log_sum_exp(const float *logits, int32_t n) {
    double most = (double)logits[0];
    for (int32_t i = 1; i < n; i++)
        if ((double)logits[i] > most) most = (double)logits[i];
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += exp((double)logits[i] - most);
    return most + log(sum);
}

double lp_log_probability(const float *logits, int32_t n, int32_t token) {
    return (double)logits[token] - lp_log_sum_exp(logits, n);
}

void lp_metrics_of_logits(const float *logits, const float *unpatched, int32_t n, const lp_metric_position *metric_at,
                          float out[LP_N_METRICS]) {
    double total = lp_log_sum_exp(logits, n);
    out[LP_METRIC_LOGIT_CLEAN] = out[LP_METRIC_LOGIT_CORRUPTED] = NAN;
    out[LP_METRIC_LOGPROB_CLEAN] = out[LP_METRIC_LOGPROB_CORRUPTED] = NAN;
    out[LP_METRIC_LOGIT_DIFF] = out[LP_METRIC_KL] = NAN;
    if (metric_at->clean.n > 0) {
        float logit = logits[metric_at->clean.tokens[0]];
        out[LP_METRIC_LOGIT_CLEAN] = logit;
        out[LP_METRIC_LOGPROB_CLEAN] = (float)((double)logit - total);
    }
    if (metric_at->corrupted.n > 0) {
        float logit = logits[metric_at->corrupted.tokens[0]];
        out[LP_METRIC_LOGIT_CORRUPTED] = logit;
        out[LP_METRIC_LOGPROB_CORRUPTED] = (float)((double)logit - total);
    }
    if (metric_at->clean.n > 0 && metric_at->corrupted.n > 0)
        out[LP_METRIC_LOGIT_DIFF] = out[LP_METRIC_LOGIT_CLEAN] - out[LP_METRIC_LOGIT_CORRUPTED];
    if (unpatched) {
        double before = lp_log_sum_exp(unpatched, n);
        double kl = 0;
        for (int32_t i = 0; i < n; i++) {
            double p = (double)unpatched[i] - before;
            kl += exp(p) * (p - ((double)logits[i] - total));
        }
        out[LP_METRIC_KL] = (float)(kl < 0 ? 0 : kl);
    }
}
