/* SHA-256 of the files of a model. One thread reads them from the first byte to the last, faster than a disk delivers
 * them: it goes ahead of those who compute the weights from the same pages, so that the files are read once. */
#include "model/model_files.h"

#include <sys/mman.h>

enum { CHUNK = 1 << 22, CHUNKS_AHEAD = 4 };

static lp_status digest_file(lp_checkpoint_file *file, const atomic_bool *stop, lp_sha256 *digest, lp_error *err) {
    const lp_mapped_file *map = &file->map;
    unsigned char sum[LP_SHA256_BYTES];
    lp_status status = LP_OK;
    for (size_t at = 0; at < map->size && !atomic_load(stop); at += CHUNK) {
        size_t left = map->size - at, soon = (size_t)CHUNK * CHUNKS_AHEAD;
        if (left > soon) (void)madvise((unsigned char *)map->mapping + at + soon, CHUNK, MADV_WILLNEED);
        LP_TRY(lp_sha256_add(digest, map->data + at, left < CHUNK ? left : CHUNK, err));
    }
    LP_TRY(lp_sha256_finish(digest, sum, err));
    if (!atomic_load(stop)) lp_sha256_hex(sum, file->sha256);
out:
    return status;
}

static lp_status digest_all(lp_model_files *files, lp_error *err) {
    lp_checkpoint *checkpoints[] = {&files->base, &files->codi};
    lp_sha256 *digest = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_sha256_new(&digest, err));
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < checkpoints[c]->n_files; i++)
            if (!checkpoints[c]->files[i]->sha256[0])
                LP_TRY(digest_file(checkpoints[c]->files[i], &files->digests.stop, digest, err));
out:
    lp_sha256_free(digest);
    return status;
}

static void *digest_main(void *argument) {
    lp_model_files *files = argument;
    files->digests.status = digest_all(files, &files->digests.error);
    return NULL;
}

void lp_digests_start(lp_model_files *files) {
    files->digests.running = pthread_create(&files->digests.thread, NULL, digest_main, files) == 0;
}

lp_status lp_digests_wait(lp_model_files *files, lp_error *err) {
    lp_digest_run *run = &files->digests;
    if (!run->running) return digest_all(files, err);
    pthread_join(run->thread, NULL);
    run->running = false;
    lp_files_drop_pages(files);
    if (run->status != LP_OK && err) *err = run->error;
    return run->status;
}

void lp_digests_stop(lp_model_files *files) {
    if (!files->digests.running) return;
    atomic_store(&files->digests.stop, true);
    pthread_join(files->digests.thread, NULL);
    files->digests.running = false;
}
