/* Job files: one JSON file says everything that a run does; nothing in the environment changes results.
 *
 * Unknown keys, wrong types and values out of range are errors that name the file and the JSON path. Relative paths are
 * relative to the job file's folder. What depends on the model (layers, steps) is read as words and checked when the
 * sweep is expanded. schemas/job.schema.json describes the same format. */
#ifndef LP_JOB_JOB_H
#define LP_JOB_JOB_H

#include "base/error.h"
#include "base/json.h"
#include "model/model.h"
#include "pairs/classify.h"
#include "pairs/pairs.h"
#include "patch/expand.h"
#include "thought/protocol.h"

typedef enum { LP_FILTER_BOTH_CORRECT, LP_FILTER_CLEAN_CORRECT, LP_FILTER_ALL } lp_filter;
typedef enum { LP_EXECUTOR_BATCHED, LP_EXECUTOR_REFERENCE } lp_executor;
typedef enum { LP_DEVICE_AUTO, LP_DEVICE_CPU, LP_DEVICE_CUDA } lp_device_choice;
typedef enum { LP_COMPUTE_FP32, LP_COMPUTE_TF32, LP_COMPUTE_BF16, LP_COMPUTE_FP32_SIMT, LP_COMPUTE_FP32_TC } lp_compute;

/* One place that the store keeps beside the default ones. */
typedef struct {
    lp_phase phase;
    lp_site site;
    int32_t *indices; /* prompt and answer phases; thought keeps all steps */
    size_t n_indices;
} lp_cache_site;

typedef struct {
    char *file;   /* of the job, as given */
    char *folder; /* of the job */
    char *text;   /* with the settings applied, as one line */

    struct {
        char *name;      /* for tables; by default the name of the CODI checkpoint's folder */
        char *base;      /* resolved path */
        char *codi;      /* resolved path, NULL: the base folder is the whole model */
        char *tokenizer; /* resolved path of the folder with tokenizer.json; base by default */
        int32_t lora_rank;
        double lora_alpha;
        lp_base_rounding base_rounding;
    } model;
    lp_protocol protocol;
    struct {
        char *file;
        int64_t limit; /* 0: all */
        lp_equal_answers equal_answers;
    } pairs;
    struct {
        char *file;
        lp_cache_site *sites;
        size_t n_sites;
    } store;
    struct {
        bool present;
        lp_filter filter;
        bool denoise, noise;
        lp_controls controls;
        uint64_t seed;
        uint64_t shuffled_seeds[LP_MAX_DRAWS]; /* [n_draws] one for each draw of the donor shuffled */
        int32_t n_draws;                       /* 1 by default, with the seed above */
        char *groups;                          /* text of the array; read by lp_job_conditions, group by group */
        size_t n_groups;
        char **vectors; /* resolved paths of the files that donors name */
        size_t n_vectors;
    } sweep;
    struct {
        int32_t max_new_tokens;
        char *eos; /* NULL: the tokenizer's */
    } decode;
    struct {
        bool logits;         /* logit and log-probability of the first answer tokens, their difference, KL */
        bool answer_logprob; /* teacher-forced log-probability of both whole answers */
        bool steps;          /* at each thought step, how far the run is from the unpatched one */
    } metrics;
    int32_t lens_top; /* readout "logit_lens top K"; 0: none */
    lp_classifier classifier;
    struct {
        char *file, *csv, *summary;
    } results;
    struct {
        lp_executor executor;
        lp_device_choice device;
        lp_compute dtype;
        int32_t threads;      /* 0: the CPUs that this rank is bound to */
        int64_t memory_limit; /* bytes for activations and KV; 0: half of what this rank may use */
        int32_t hang_limit_s; /* a rank that does not move for so long ends the job; 0: none does */
    } engine;
} lp_job;

/* settings: n texts "section.key=value" applied before reading; the value is JSON, or a plain string where it is not.
 */
lp_status lp_job_load(const char *path, const char *const *settings, size_t n_settings, lp_job *out, lp_error *err);
/* The same from memory, for tests and fuzzing; `path` names it and gives the folder. */
lp_status lp_job_parse(const char *text, size_t size, const char *path, const char *const *settings, size_t n_settings,
                       lp_job *out, lp_error *err);
void lp_job_release(lp_job *job);

/* The conditions of the job's sweep for a model; *out is {0} before. */
lp_status lp_job_conditions(const lp_job *job, const lp_model_config *config, lp_condition_set *out, lp_error *err);

const char *const *lp_filter_names(void);
const char *const *lp_executor_names(void);
const char *const *lp_device_names(void);
const char *const *lp_compute_names(void);

#endif
