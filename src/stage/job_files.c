#include "stage/job_files.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/text.h"

#include <dirent.h>
#include <sys/stat.h>

/* Of an output's path: names derived from it, and messages about it, need room as well. */
enum { MAX_LENGTH = 2000 };

/* A file of the job: made (an output) or only read. */
typedef struct {
    const char *place; /* "$.results.csv"; NULL: not written by that name */
    const char *word;  /* "the store" */
    const char *path;  /* as the job has it */
    char *resolved;    /* links followed, as far as it exists */
    bool exists;
    dev_t device;
    ino_t inode;
} named_file;

static lp_status look(const char *place, const char *word, const char *path, named_file *out, lp_error *err) {
    struct stat found;
    *out = (named_file){.place = place, .word = word, .path = path};
    out->exists = stat(path, &found) == 0;
    if (out->exists) {
        out->device = found.st_dev;
        out->inode = found.st_ino;
    }
    return lp_path_resolve(path, &out->resolved, err);
}

static bool is_same(const named_file *a, const named_file *b) {
    if (a->exists && b->exists) return a->device == b->device && a->inode == b->inode;
    return strcmp(a->resolved, b->resolved) == 0;
}

/* Fails where one of the outputs [n] is the file `path`. */
static lp_status refuse(const lp_job *job, const named_file *outputs, size_t n, const char *word, const char *path,
                        lp_error *err) {
    named_file input;
    lp_status status = look(NULL, word, path, &input, err);
    for (size_t i = 0; status == LP_OK && i < n; i++)
        if (is_same(&outputs[i], &input))
            status = lp_fail(err, LP_ERR_VALUE, "%s: %s: expected a file of its own, found %s (%s)", job->file,
                             outputs[i].place, word, path);
    lp_mem_free(input.resolved);
    return status;
}

/* Every file of a model's folder, or the one file. */
static lp_status refuse_model(const lp_job *job, const named_file *outputs, size_t n, const char *path, lp_error *err) {
    lp_text file = {0};
    lp_status status = LP_OK;
    DIR *folder = path ? opendir(path) : NULL;
    if (path && !folder) return refuse(job, outputs, n, "a file of the model", path, err);
    for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
        lp_text_clear(&file);
        LP_TRY(lp_text_format(&file, err, "%s/%s", path, entry->d_name));
        LP_TRY(refuse(job, outputs, n, "a file of the model", lp_text_get(&file), err));
    }
out:
    if (folder) closedir(folder);
    lp_text_release(&file);
    return status;
}

/* Outputs are renamed to their names when they are whole: nothing but a file may stand there, and be replaced. */
static lp_status refuse_kind(const lp_job *job, const char *place, const char *path, lp_error *err) {
    lp_path_kind kind = lp_path_look(path);
    bool folder = kind == LP_PATH_FOLDER || path[strlen(path) - 1] == '/';
    if (kind != LP_PATH_OTHER && !folder) return LP_OK;
    return lp_fail(err, LP_ERR_VALUE, "%s: %s: expected a file, found %s (%s)", job->file, place,
                   folder ? "a folder" : "a device or a pipe", path);
}

lp_status lp_job_check_files(const lp_job *job, lp_error *err) {
    const struct {
        const char *place, *word, *path;
    } named[] = {{"$.store.file", "the store", job->store.file},
                 {"$.results.file", "the results", job->results.file},
                 {"$.results.csv", "the CSV", job->results.csv},
                 {"$.results.summary", "the summary", job->results.summary}};
    enum { MOST = sizeof named / sizeof *named };
    named_file outputs[MOST] = {{0}};
    size_t n = 0;
    lp_text partial = {0};
    lp_status status = LP_OK;
    for (size_t i = 0; i < MOST; i++) {
        if (!named[i].path) continue;
        LP_TRY(refuse_kind(job, named[i].place, named[i].path, err));
        LP_TRY(look(named[i].place, named[i].word, named[i].path, &outputs[n], err));
        size_t length = strlen(outputs[n++].resolved);
        if (length > MAX_LENGTH)
            LP_FAIL(LP_ERR_VALUE, "%s: %s: expected a path of at most %d bytes, found %zu", job->file, named[i].place,
                    MAX_LENGTH, length);
        for (size_t k = 0; k + 1 < n; k++)
            if (is_same(&outputs[k], &outputs[n - 1]))
                LP_FAIL(LP_ERR_VALUE, "%s: %s: expected a file of its own, found %s (%s)", job->file, named[i].place,
                        outputs[k].word, outputs[k].path);
    }
    LP_TRY(refuse(job, outputs, n, "the job", job->file, err));
    LP_TRY(refuse(job, outputs, n, "the pairs", job->pairs.file, err));
    for (size_t i = 0; i < job->sweep.n_vectors; i++)
        LP_TRY(refuse(job, outputs, n, "a vector", job->sweep.vectors[i], err));
    LP_TRY(refuse_model(job, outputs, n, job->model.base, err));
    LP_TRY(refuse_model(job, outputs, n, job->model.codi, err));
    if (job->results.file) {
        LP_TRY(lp_text_format(&partial, err, "%s.partial", job->results.file));
        LP_TRY(refuse(job, outputs, n, "the rows of the running sweep", lp_text_get(&partial), err));
    }
out:
    for (size_t i = 0; i < n; i++) lp_mem_free(outputs[i].resolved);
    lp_text_release(&partial);
    return status;
}
