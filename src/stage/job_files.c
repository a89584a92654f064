#include "stage/job_files.h"

#include "base/memory.h"
#include "base/output.h"
#include "base/text.h"

lp_status lp_job_check_files(const lp_job *job, lp_error *err) {
    const struct {
        const char *place, *word, *path;
        const lp_derived_name *derived;
    } named[] = {{"$.store.file", "the store", job->store.file, lp_names_of_store},
                 {"$.results.file", "the results", job->results.file, lp_names_of_results},
                 {"$.results.csv", "the CSV", job->results.csv, NULL},
                 {"$.results.summary", "the summary", job->results.summary, NULL}};
    lp_outputs outputs = {0};
    lp_text where = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < sizeof named / sizeof *named; i++) {
        if (!named[i].path) continue;
        lp_text_clear(&where);
        LP_TRY(lp_text_format(&where, err, "%s: %s", job->file, named[i].place));
        LP_TRY(lp_outputs_add(&outputs, lp_text_get(&where), named[i].word, named[i].path, named[i].derived, err));
    }
    LP_TRY(lp_outputs_check_input(&outputs, "the job", job->file, err));
    LP_TRY(lp_outputs_check_input(&outputs, "the pairs", job->pairs.file, err));
    for (size_t i = 0; i < job->sweep.n_vectors; i++)
        LP_TRY(lp_outputs_check_input(&outputs, "a vector", job->sweep.vectors[i], err));
    LP_TRY(lp_outputs_check_input(&outputs, "a file of the model", job->model.base, err));
    if (job->model.codi) LP_TRY(lp_outputs_check_input(&outputs, "a file of the model", job->model.codi, err));
out:
    lp_outputs_release(&outputs);
    lp_text_release(&where);
    return status;
}
