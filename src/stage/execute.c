#include "stage/execute.h"

#include "base/host.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pulse.h"
#include "parallel/progress.h"
#include "parallel/signals.h"
#include "patch/engine.h"
#include "stage/device.h"

#include <sys/stat.h>
#include <unistd.h>

/* What the weights leave of the device; 0: there is none, or nothing is left. */
static int64_t device_memory_left(const lp_backend *backend) {
    int64_t left = backend->memory_bytes - (int64_t)backend->counters.weight_bytes;
    return backend->memory_bytes > 0 && left > 0 ? left : 0;
}

/* Seven eighths of what the weights leave of the device: lists, results on their way and the libraries take some. Or
 * half of what the node lets each of its ranks have. The engine takes no more of it than is of use. */
static int64_t default_memory_limit(const lp_session *session, const lp_backend *backend) {
    if (backend->memory_bytes > 0) return device_memory_left(backend) / 8 * 7;
    lp_host_sources host = lp_host_here();
    int64_t limit = lp_host_memory_limit(&host), memory = lp_host_memory();
    if (memory < limit) limit = memory;
    return limit < INT64_MAX ? limit / (2 * (int64_t)lp_parallel_node_size(session->parallel)) : INT64_C(4) << 30;
}

lp_status lp_stage_execute(lp_session *session, const lp_work_source *source, lp_error *err) {
    const lp_job *job = &session->job;
    lp_executor_options options = lp_session_executor(session);
    if (job->engine.executor == LP_EXECUTOR_REFERENCE) return lp_execute_reference(&options, source, err);
    lp_backend *backend = session->backend;
    lp_engine_counters counters = {0};
    lp_engine_options engine = {.backend = backend,
                                .weights = session->weights,
                                .memory_limit = job->engine.memory_limit > 0 ? job->engine.memory_limit
                                                                             : default_memory_limit(session, backend),
                                /* One run that needs a little more is not refused while the device has room. */
                                .memory_most =
                                    job->engine.memory_limit > 0 ? 0 : device_memory_left(backend) / 32 * 31};
    lp_log(LP_LOG_DEBUG, "batched executor on %s, %d threads a rank, memory limit %lld MiB", backend->description,
           lp_stage_threads(session), (long long)(engine.memory_limit >> 20));
    LP_CHECK(lp_execute_batched(&options, &engine, source, &counters, err));
    session->counters = counters;
    lp_log(
        LP_LOG_DEBUG,
        "%llu row-layers in %llu batches of %.1f rows (mean), %.1f GFLOP in matrix products (%.1f with padding), up to %d "
        "units at once",
        (unsigned long long)counters.row_layers, (unsigned long long)counters.batches,
        counters.batches > 0 ? (double)counters.rows / (double)counters.batches : 0.0,
        (double)counters.gemm_flops * 1e-9, (double)counters.padded_flops * 1e-9, counters.most_units);
    lp_log(LP_LOG_DEBUG,
           "keys and values: %d of %d pages in use at most, %.1f MiB; workspace %.1f MiB; %.2f parts a request, %llu "
           "preemptions, %.2f %% of the row-layers computed again",
           counters.most_pages, counters.n_pages, (double)counters.kv_bytes / 1048576.0,
           (double)counters.workspace_bytes / 1048576.0,
           counters.n_requests > 0 ? (double)counters.n_parts / (double)counters.n_requests : 0.0,
           (unsigned long long)counters.n_preemptions,
           counters.row_layers > 0 ? 100.0 * (double)counters.row_layers_lost / (double)counters.row_layers : 0.0);
    lp_log(LP_LOG_DEBUG,
           "first unit after %.3f s, all in %.3f s; %.1f MiB to the device, %.1f MiB back, the host waited %llu times",
           counters.seconds_first, counters.seconds, (double)counters.bytes_up / 1048576.0,
           (double)counters.bytes_down / 1048576.0, (unsigned long long)counters.n_waits);
    return LP_OK;
}

/* `touch` makes a request to stop; a file that holds something is somebody's. */
static bool is_request(const struct stat *file) {
    return S_ISREG(file->st_mode) && file->st_size == 0;
}

lp_status lp_stage_watch(const char *output, lp_error *err) {
    lp_text path = {0};
    struct stat there;
    lp_status status = lp_text_format(&path, err, "%s.stop", output);
    if (status == LP_OK && lstat(lp_text_get(&path), &there) == 0 && !is_request(&there))
        status =
            lp_fail(err, LP_ERR_VALUE, "%s: expected an empty file, which asks a job to stop, found something else",
                    lp_text_get(&path));
    if (status == LP_OK) status = lp_stop_watch(lp_text_get(&path), err);
    lp_text_release(&path);
    return status;
}

void lp_stage_stopped(const lp_session *session, const char *output, lp_status status) {
    char path[4096];
    if (status != LP_ERR_STOPPED || lp_parallel_rank(session->parallel) != 0) return;
    struct stat there;
    if (snprintf(path, sizeof path, "%s.stop", output) < (int)sizeof path && lstat(path, &there) == 0 &&
        is_request(&there))
        unlink(path);
}

typedef struct {
    const lp_deal *deal;
    double row_layers; /* expected of this rank, if all ranks do the same; 0: not known */
    uint64_t begin;
} work_done;

static int64_t count_done(const void *state) {
    const work_done *done = state;
    return lp_deal_count(done->deal);
}

static double share_done(const void *state) {
    const work_done *done = state;
    return done->row_layers > 0 ? (double)(lp_row_layers() - done->begin) / done->row_layers : 0;
}

/* The stage's source, with the watch told what this rank has in hand. */
typedef struct {
    const lp_session *session;
    const lp_work_source *inner;
    int64_t *in_hand; /* [n] pairs, the longest there first */
    size_t n, capacity;
} watched_source;

static void tell_watch(const watched_source *source) {
    char text[160] = "";
    if (source->n > 0) {
        int used = snprintf(text, sizeof text, "pair %.100s", source->session->pairs.pairs[source->in_hand[0]].id);
        if (source->n > 1) snprintf(text + used, sizeof text - (size_t)used, " and %zu more", source->n - 1);
    }
    lp_watch_doing(source->session->watch, text);
}

static lp_status watched_next(void *user, lp_work_unit **unit, lp_error *err) {
    watched_source *source = user;
    lp_status status =
        lp_mem_grow(&source->in_hand, &source->capacity, source->n + 1, sizeof *source->in_hand, "pairs in hand", err);
    if (status == LP_OK) status = source->inner->next(source->inner->user, unit, err);
    if (status != LP_OK || !*unit) return status;
    source->in_hand[source->n++] = (*unit)->id;
    tell_watch(source);
    return LP_OK;
}

static lp_status watched_run_done(void *user, lp_work_unit *unit, size_t group, size_t run, const lp_run_result *result,
                                  lp_error *err) {
    watched_source *source = user;
    return source->inner->run_done(source->inner->user, unit, group, run, result, err);
}

static lp_status watched_done(void *user, lp_work_unit *unit, lp_error *err) {
    watched_source *source = user;
    int64_t id = unit->id;
    size_t kept = 0;
    lp_status status = source->inner->done(source->inner->user, unit, err);
    for (size_t i = 0; i < source->n; i++)
        if (source->in_hand[i] != id) source->in_hand[kept++] = source->in_hand[i];
    source->n = kept;
    tell_watch(source);
    return status;
}

static lp_status execute_watched(lp_session *session, const lp_work_source *inner, lp_error *err) {
    watched_source w = {.session = session, .inner = inner};
    lp_work_source source = {
        .user = &w, .next = watched_next, .run_done = inner->run_done ? watched_run_done : NULL, .done = watched_done};
    lp_status status = lp_stage_execute(session, &source, err);
    lp_watch_doing(session->watch, "");
    lp_mem_free(w.in_hand);
    return status;
}

/* A job that fails before its first pair, such as one whose memory limit is too small, leaves no file. */
static void remove_unused(const lp_session *session, const lp_stage_work *work) {
    int64_t most = lp_record_file_n_done(*work->file); /* that this rank knows of */
    lp_error ignored;
    if (lp_parallel_max_i64(session->parallel, &most, 1, &ignored) != LP_OK || most > 0) return;
    if (lp_parallel_rank(session->parallel) == 0) unlink(lp_record_file_path(*work->file));
}

lp_status lp_stage_run(lp_session *session, const lp_stage_work *work, lp_error *err) {
    lp_progress *progress = NULL;
    lp_deal *deal = NULL;
    work_done done;
    lp_status status = LP_OK;
    lp_deal_options options = {.costs = work->costs, .done = work->skip, .n_units = session->n_pairs};
    LP_TRY(lp_deal_new(session->parallel, &options, &deal, err));
    *work->deal = deal;
    if (lp_parallel_rank(session->parallel) == 0) {
        done = (work_done){.deal = deal, .begin = lp_row_layers()};
        if (session->job.engine.executor != LP_EXECUTOR_REFERENCE)
            done.row_layers =
                work->row_layers * (double)(work->total - work->before) / lp_parallel_size(session->parallel);
        lp_progress_options shown = {.label = work->label,
                                     .unit = "pairs",
                                     .total = work->total,
                                     .before = work->before,
                                     .count = count_done,
                                     .share = share_done,
                                     .state = &done,
                                     .quiet = !lp_log_shows(LP_LOG_INFO)};
        status = lp_progress_start(&shown, &progress, err);
    }
    if (status == LP_OK) status = execute_watched(session, &work->source, err);
    status = lp_deal_join(deal, status, err);
    lp_progress_stop(progress);
    lp_stage_stopped(session, work->output, status);
    if (status != LP_OK && status != LP_ERR_STOPPED && *work->file && *work->created) remove_unused(session, work);
out:
    *work->deal = NULL;
    lp_deal_free(deal);
    return status;
}

int64_t lp_stage_share(const lp_session *session, int64_t n_units) {
    enum { BATCH = 32 };
    int64_t ranks = lp_parallel_size(session->parallel);
    int64_t fair = (n_units + ranks - 1) / ranks, quarter = (fair + 3) / 4;
    if (ranks == 1 || fair <= BATCH) return fair;
    return quarter > BATCH ? quarter : BATCH;
}
