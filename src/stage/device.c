#include "stage/device.h"

#include "backend/device.h"
#include "base/gemm.h"
#include "base/log.h"
#include "base/memory.h"

int32_t lp_stage_threads(const lp_session *session) {
    if (session->job.engine.threads > 0) return session->job.engine.threads;
    return lp_parallel_cpus(session->parallel);
}

static lp_status open_backend(const lp_session *session, lp_backend **out, lp_error *err) {
    const lp_job *job = &session->job;
    lp_device_options device = {.device = (lp_device_use)job->engine.device,
                                .dtype = (lp_dtype_use)job->engine.dtype,
                                .node_rank = lp_parallel_node_rank(session->parallel),
                                .threads = lp_stage_threads(session)};
    /* A variable of the environment, not a key of the job. */
    lp_status status = job->engine.device == LP_DEVICE_CUDA ? LP_OK : lp_gemm_check_setting(err);
    if (status != LP_OK) return status;
    status = lp_backend_open(&device, out, err);
    if (status != LP_OK)
        lp_error_prefix(err, "%s: $.engine.%s", job->file, job->engine.device == LP_DEVICE_CUDA ? "device" : "dtype");
    return status;
}

/* The ranks of the node that have this one's device: how many, and whether this is the first of them. */
static lp_status count_sharing(const lp_session *session, const lp_backend *backend, int *n_sharing, bool *is_first,
                               lp_error *err) {
    enum { ID = 64 };
    int n = lp_parallel_node_size(session->parallel), me = lp_parallel_node_rank(session->parallel);
    char mine[ID] = "", *all = NULL;
    lp_status status = LP_OK;
    *n_sharing = 0;
    *is_first = true;
    if (backend->device_id) snprintf(mine, sizeof mine, "%s", backend->device_id);
    LP_TRY(lp_mem_new(&all, (size_t)n, ID, "devices", err));
    LP_TRY(lp_parallel_node_gather(session->parallel, mine, ID, all, err));
    for (int i = 0; mine[0] && i < n; i++) {
        bool same = strcmp(all + i * ID, mine) == 0;
        *n_sharing += same;
        if (same && i < me) *is_first = false;
    }
out:
    lp_mem_free(all);
    return status;
}

lp_status lp_stage_open_device(lp_session *session, lp_error *err) {
    lp_backend *backend = NULL;
    int n_sharing = 0;
    bool is_first = true;
    lp_status status = LP_OK;
    snprintf(session->device, sizeof session->device, "cpu");
    if (session->job.engine.executor == LP_EXECUTOR_REFERENCE) {
        if (session->job.engine.dtype != LP_COMPUTE_FP32)
            status = lp_fail(err, LP_ERR_UNSUPPORTED,
                             "%s: $.engine.dtype: the reference executor computes in fp32 only, found \"%s\"",
                             session->job.file, lp_compute_names()[session->job.engine.dtype]);
        return status;
    }
    LP_TRY(lp_parallel_agree(session->parallel, open_backend(session, &backend, err), err));
    snprintf(session->device, sizeof session->device, "%s: %s", backend->name, backend->description);
    LP_TRY(count_sharing(session, backend, &n_sharing, &is_first, err));
    if (n_sharing > 1) {
        backend->memory_bytes /= n_sharing;
        if (is_first)
            lp_log(LP_LOG_WARN, "%s: %d ranks share one GPU (%.100s): start one rank a GPU for speed",
                   lp_parallel_host(session->parallel), n_sharing, backend->description);
    }
    session->backend = backend;
    backend = NULL;
out:
    lp_backend_free(backend);
    return status;
}

lp_status lp_stage_choose_matrices(lp_session *session, lp_error *err) {
    int n = lp_parallel_node_size(session->parallel);
    const lp_backend *be = session->backend;
    enum { PLAIN, LEFT, PACKED };
    uint8_t mine = !be ? PLAIN : be->makes_weights ? LEFT : be->takes_panels ? PACKED : PLAIN, *all = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&all, (size_t)n, 1, "devices", err));
    LP_TRY(lp_parallel_node_gather(session->parallel, &mine, 1, all, err));
    for (int i = 0; i < n; i++)
        if (all[i] != mine) mine = PLAIN;
    if (mine == LEFT) lp_model_leave_matrices(&session->model);
    if (mine == PACKED) lp_model_pack_matrices(&session->model);
out:
    lp_mem_free(all);
    return status;
}

lp_status lp_stage_make_weights(lp_session *session, lp_error *err) {
    if (!session->backend) return LP_OK;
    lp_status status = LP_OK;
    if (session->backend->makes_weights) {
        lp_watch_doing(session->watch, "the weights of the device");
        status = lp_weights_new(session->backend, &session->model, &session->weights, err);
        lp_watch_doing(session->watch, "");
    }
    return lp_parallel_agree(session->parallel, status, err);
}
