#include "patch/step_change.h"

#include "patch/executor.h"

#include <math.h>

const char *lp_step_number_name(int32_t step, int32_t number) {
    static const char *const numbers[LP_N_STEP_NUMBERS] = {"cosine", "change", "kl"};
    static char names[LP_MAX_STEPS][LP_N_STEP_NUMBERS][24];
    char *name = names[step][number];
    if (name[0] == '\0') snprintf(name, sizeof names[0][0], "step%d_%s", step, numbers[number]);
    return name;
}

void lp_step_captures(const lp_model_config *config, lp_step_reading *reading, lp_capture *captures) {
    size_t d = (size_t)config->d_model;
    for (size_t i = 0; i < (size_t)reading->n_steps * d; i++) reading->vectors[i] = NAN;
    for (int32_t i = 0; i < reading->n_steps * LP_N_STEP_NUMBERS; i++) reading->numbers[i] = NAN;
    for (int32_t t = 0; t < reading->n_steps; t++)
        captures[t] = (lp_capture){
            .at = {.phase = LP_PHASE_THOUGHT, .index = t, .site = LP_SITE_LATENT_RAW, .head = LP_ALL_HEADS},
            .out = reading->vectors + (size_t)t * d};
}

void lp_step_compare(const lp_step_reading *unpatched, lp_step_reading *reading, int32_t d_model, int32_t n_steps_run,
                     bool *differs) {
    size_t d = (size_t)d_model;
    for (int32_t t = 0; t < reading->n_steps; t++) {
        const float *base = unpatched->vectors + (size_t)t * d;
        float *x = reading->vectors + (size_t)t * d, *numbers = reading->numbers + t * LP_N_STEP_NUMBERS;
        double dot = 0, xx = 0, bb = 0, difference = 0;
        differs[t] = false;
        if (t >= n_steps_run) continue;
        if (isnan(x[0])) memcpy(x, base, d * sizeof *x);
        differs[t] = memcmp(x, base, d * sizeof *x) != 0;
        for (size_t k = 0; k < d; k++) {
            double a = (double)x[k], b = (double)base[k];
            dot += a * b;
            xx += a * a;
            bb += b * b;
            difference += (a - b) * (a - b);
        }
        numbers[LP_STEP_COSINE] = differs[t] ? (float)(dot / sqrt(xx * bb)) : 1.0f;
        numbers[LP_STEP_CHANGE] = (float)sqrt(difference / bb);
        if (!differs[t]) numbers[LP_STEP_KL] = 0;
    }
}

double lp_step_divergence(const float *base, const float *other, int32_t n_candidates) {
    double before = lp_log_sum_exp(base, n_candidates), after = lp_log_sum_exp(other, n_candidates), kl = 0;
    for (int32_t i = 0; i < n_candidates; i++) {
        double p = (double)base[i] - before;
        kl += exp(p) * (p - ((double)other[i] - after));
    }
    return kl < 0 ? 0 : kl;
}
