/* SHA-256 of the files of a model. A thread for each file reads it from the first byte to the last, faster than a disk
 * delivers it: it goes ahead of those who compute the weights from the same pages, so that the files are read once. */
#include "model/model_files.h"

#include "base/clock.h"
#include "base/memory.h"

#include <pthread.h>
#include <sys/mman.h>

enum { CHUNK = 1 << 22, CHUNKS_AHEAD = 4 };

struct lp_digest_task {
    pthread_t thread;
    bool running;
    lp_checkpoint_file *file;
    const atomic_bool *stop;
    double seconds;
    lp_status status; /* the thread's; read after it has ended */
    lp_error error;
};

static lp_status digest_file(lp_checkpoint_file *file, const atomic_bool *stop, lp_error *err) {
    const lp_mapped_file *map = &file->map;
    unsigned char sum[LP_SHA256_BYTES];
    lp_sha256 *digest = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_sha256_new(&digest, err));
    for (size_t at = 0; at < map->size && !atomic_load(stop); at += CHUNK) {
        size_t left = map->size - at, soon = (size_t)CHUNK * CHUNKS_AHEAD;
        if (left > soon) (void)madvise((unsigned char *)map->mapping + at + soon, CHUNK, MADV_WILLNEED);
        LP_TRY(lp_sha256_add(digest, map->data + at, left < CHUNK ? left : CHUNK, err));
    }
    LP_TRY(lp_sha256_finish(digest, sum, err));
    if (!atomic_load(stop)) lp_sha256_hex(sum, file->sha256);
out:
    lp_sha256_free(digest);
    return status;
}

static void *digest_main(void *argument) {
    lp_digest_task *task = argument;
    double start = lp_seconds_now();
    task->status = digest_file(task->file, task->stop, &task->error);
    task->seconds = lp_seconds_now() - start;
    return NULL;
}

void lp_digests_start(lp_model_files *files) {
    lp_checkpoint *checkpoints[] = {&files->base, &files->codi};
    lp_digest_run *run = &files->digests;
    size_t n = files->base.n_files + files->codi.n_files;
    if (lp_mem_new(&run->tasks, n, sizeof *run->tasks, "digests", NULL) != LP_OK) return;
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < checkpoints[c]->n_files; i++) {
            lp_digest_task *task = &run->tasks[run->n_tasks++];
            task->file = checkpoints[c]->files[i];
            task->stop = &run->stop;
            task->running = pthread_create(&task->thread, NULL, digest_main, task) == 0;
        }
}

/* Joins the threads. The failure of the first file in order is the one that is reported. */
static lp_status join_all(lp_digest_run *run, lp_error *err) {
    lp_status status = LP_OK;
    for (size_t i = 0; i < run->n_tasks; i++) {
        lp_digest_task *task = &run->tasks[i];
        if (!task->running) continue;
        pthread_join(task->thread, NULL);
        run->n_threads++;
        if (task->seconds > run->longest_seconds) run->longest_seconds = task->seconds;
        if (status == LP_OK && task->status != LP_OK) {
            status = task->status;
            if (err) *err = task->error;
        }
    }
    lp_mem_free(run->tasks);
    run->tasks = NULL;
    run->n_tasks = 0;
    return status;
}

lp_status lp_digests_wait(lp_model_files *files, lp_error *err) {
    lp_checkpoint *checkpoints[] = {&files->base, &files->codi};
    lp_digest_run *run = &files->digests;
    bool beside = run->n_tasks > 0;
    lp_status status = join_all(run, err);
    if (beside) lp_files_drop_pages(files);
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < checkpoints[c]->n_files && status == LP_OK; i++)
            if (!checkpoints[c]->files[i]->sha256[0]) status = digest_file(checkpoints[c]->files[i], &run->stop, err);
    return status;
}

void lp_digests_stop(lp_model_files *files) {
    if (files->digests.n_tasks == 0) return;
    atomic_store(&files->digests.stop, true);
    (void)join_all(&files->digests, NULL);
}
