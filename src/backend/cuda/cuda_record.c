/* Recorded sequences: what is issued under one key for the second time is captured into a CUDA graph, and issued as one
 * from then on. The first time it is issued plainly, so that nothing is captured that does not come again, and every
 * kernel is loaded before it is captured. Where the driver or the library cannot capture, the backend goes on
 * without. */
#include "backend/cuda/cuda.h"

void lp_cuda_record_forget(lp_backend_cuda *cuda) {
    bool any = false;
    for (int32_t i = 0; i < LP_CUDA_RECORDS; i++) any |= cuda->records[i].graph != NULL;
    if (any) (void)cudaStreamSynchronize(cuda->stream);
    for (int32_t i = 0; i < LP_CUDA_RECORDS; i++) {
        if (cuda->records[i].graph) (void)cudaGraphExecDestroy(cuda->records[i].graph);
        cuda->records[i] = (lp_cuda_record){0};
    }
}

/* The record of the key, or the one that has not been used for longest. */
static lp_cuda_record *find(lp_backend_cuda *cuda, const lp_record_key *key) {
    lp_cuda_record *oldest = &cuda->records[0];
    for (int32_t i = 0; i < LP_CUDA_RECORDS; i++) {
        lp_cuda_record *record = &cuda->records[i];
        if (record->last_use > 0 && memcmp(&record->key, key, sizeof *key) == 0) return record;
        if (record->last_use < oldest->last_use) oldest = record;
    }
    return oldest;
}

lp_status lp_cuda_record_begin(lp_backend *be, const lp_record_key *key, bool *replayed, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_cuda_record *record = find(cuda, key);
    bool is_known = record->last_use > 0 && memcmp(&record->key, key, sizeof *key) == 0;
    lp_status status = LP_OK;
    LP_ASSERT(!cuda->recording);
    *replayed = false;
    if (be->record_rows == 0) return LP_OK;
    if (is_known && record->graph) {
        LP_CUDA(cudaGraphLaunch(record->graph, cuda->stream));
        be->counters.gemm_flops += record->gemm_flops;
        be->counters.padded_flops += record->padded_flops;
        be->counters.n_graphs++;
        *replayed = true;
    } else if (is_known) {
        cuda->before = be->counters;
        LP_CUDA(cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal));
        cuda->recording = record;
    } else {
        if (record->graph) LP_CUDA(cudaStreamSynchronize(cuda->stream));
        if (record->graph) LP_CUDA(cudaGraphExecDestroy(record->graph));
        *record = (lp_cuda_record){.key = *key};
    }
    record->last_use = ++cuda->n_uses;
out:
    return status;
}

/* Ends the capture; r->graph stays NULL where there is none. */
static cudaError_t instantiate(lp_backend_cuda *cuda, lp_cuda_record *record, bool is_whole) {
    cudaGraph_t graph = NULL;
    cudaError_t code = cudaStreamEndCapture(cuda->stream, &graph);
    if (code == cudaSuccess && is_whole) code = cudaGraphInstantiate(&record->graph, graph, 0);
    if (code != cudaSuccess) record->graph = NULL;
    if (graph) (void)cudaGraphDestroy(graph);
    return code;
}

lp_status lp_cuda_record_end(lp_backend *be, lp_status issued, bool *again, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_cuda_record *record = cuda->recording;
    lp_status status = LP_OK;
    *again = false;
    if (!record) return issued;
    cuda->recording = NULL;
    cudaError_t code = instantiate(cuda, record, issued == LP_OK);
    if (!record->graph) {
        /* A call that failed because it was captured fails again when it is issued plainly if it must. */
        cuda->log(LP_LOG_WARN, "device %d (%s): batches are issued call by call: they cannot be captured (%s)",
                  cuda->device, cuda->device_name, code != cudaSuccess ? cudaGetErrorName(code) : "a call failed");
        (void)cudaGetLastError();
        be->counters = cuda->before;
        be->record_rows = 0;
        lp_cuda_record_forget(cuda);
        *again = true;
        return LP_OK;
    }
    record->gemm_flops = be->counters.gemm_flops - cuda->before.gemm_flops;
    record->padded_flops = be->counters.padded_flops - cuda->before.padded_flops;
    LP_CUDA(cudaGraphLaunch(record->graph, cuda->stream));
    be->counters.n_graphs++;
out:
    return status;
}
