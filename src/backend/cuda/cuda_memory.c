/* Device memory, and the way there and back through pinned host memory. */
#include "backend/cuda/cuda.h"

#include "base/memory.h"

lp_status lp_cuda_check(const lp_backend_cuda *cuda, cudaError_t code, const char *call, const char *file, int line,
                        lp_error *err) {
    if (code == cudaSuccess) return LP_OK;
    int name = (int)strcspn(call, "(");
    const char *slash = strrchr(file, '/');
    return lp_fail(err, code == cudaErrorMemoryAllocation ? LP_ERR_MEMORY : LP_ERR_DEVICE,
                   "device %d (%s): %.*s: %s (%s) at %s:%d", cuda->device, cuda->device_name, name, call,
                   cudaGetErrorString(code), cudaGetErrorName(code), slash ? slash + 1 : file, line);
}

lp_status lp_cuda_check_blas(const lp_backend_cuda *cuda, cublasStatus_t code, const char *call, const char *file,
                             int line, lp_error *err) {
    if (code == CUBLAS_STATUS_SUCCESS) return LP_OK;
    int name = (int)strcspn(call, "(");
    const char *slash = strrchr(file, '/');
    return lp_fail(err, code == CUBLAS_STATUS_ALLOC_FAILED ? LP_ERR_MEMORY : LP_ERR_DEVICE,
                   "device %d (%s): %.*s: %s at %s:%d", cuda->device, cuda->device_name, name, call,
                   cublasLtGetStatusString(code), slash ? slash + 1 : file, line);
}

lp_status lp_cuda_memory_init(lp_backend_cuda *cuda, lp_error *err) {
    lp_status status = LP_OK;
    cuda->ring = (lp_cuda_ring){.segment_bytes = LP_CUDA_SEGMENT_BYTES, .n_segments = LP_CUDA_SEGMENTS};
    LP_CUDA(cudaMallocHost((void **)&cuda->pinned, (size_t)LP_CUDA_SEGMENTS * LP_CUDA_SEGMENT_BYTES));
    for (int i = 0; i < LP_CUDA_SEGMENTS; i++)
        LP_CUDA(cudaEventCreateWithFlags(&cuda->drained[i], cudaEventDisableTiming));
    for (int i = 0; i < LP_FETCHES; i++)
        LP_CUDA(cudaEventCreateWithFlags(&cuda->fetches[i].arrived, cudaEventDisableTiming));
    LP_CUDA(cudaMalloc(&cuda->list, LP_CUDA_LIST_BYTES));
    LP_CUDA(cudaMalloc(&cuda->workspace, LP_CUDA_WORKSPACE_BYTES));
    LP_CUDA(cudaMalloc((void **)&cuda->finished, LP_CUDA_FINISHED_ROWS * sizeof *cuda->finished));
    LP_CUDA(cudaMemsetAsync(cuda->finished, 0, LP_CUDA_FINISHED_ROWS * sizeof *cuda->finished, cuda->stream));
out:
    return status;
}

/* What fails while things are taken down cannot be helped and was reported by the operation that broke them. */
void lp_cuda_memory_release(lp_backend_cuda *cuda) {
    while (cuda->held) {
        lp_cuda_held *held = cuda->held;
        cuda->held = held->next;
        (void)cudaFree(held->dev);
        lp_mem_free(held);
    }
    (void)cudaFree(cuda->packed.dev);
    (void)cudaFree(cuda->result.dev);
    (void)cudaFree(cuda->list);
    (void)cudaFree(cuda->workspace);
    (void)cudaFree(cuda->finished);
    for (int i = 0; i < LP_FETCHES; i++) {
        if (cuda->fetches[i].arrived) (void)cudaEventDestroy(cuda->fetches[i].arrived);
        (void)cudaFreeHost(cuda->fetches[i].pinned);
    }
    for (int i = 0; i < LP_CUDA_SEGMENTS; i++)
        if (cuda->drained[i]) (void)cudaEventDestroy(cuda->drained[i]);
    (void)cudaFreeHost(cuda->pinned);
}

lp_status lp_cuda_alloc(lp_backend *be, size_t bytes, const char *what, void **out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    void *dev = NULL;
    cudaError_t code = cudaMalloc(&dev, bytes > 0 ? bytes : 1);
    if (code == cudaErrorMemoryAllocation) {
        size_t available = 0, total = 0;
        (void)cudaGetLastError(); /* otherwise the next kernel's start would report it again */
        if (cudaMemGetInfo(&available, &total) != cudaSuccess) available = total = 0;
        return lp_fail(err, LP_ERR_MEMORY, "device %d (%s): %s: %zu bytes wanted, %zu of %zu are free", cuda->device,
                       cuda->device_name, what, bytes, available, total);
    }
    lp_status status = lp_cuda_check(cuda, code, "cudaMalloc", __FILE__, __LINE__, err);
    if (status == LP_OK) *out = dev;
    return status;
}

void lp_cuda_release(lp_backend *be, void *dev) {
    (void)be;
    (void)cudaFree(dev);
}

/* A place in pinned memory that may be written now. */
static lp_status take_place(lp_backend_cuda *cuda, size_t bytes, lp_cuda_place *place, lp_error *err) {
    lp_status status = LP_OK;
    *place = lp_cuda_ring_take(&cuda->ring, bytes);
    if (place->close >= 0) LP_CUDA(cudaEventRecord(cuda->drained[place->close], cuda->stream));
    if (place->wait >= 0) LP_CUDA(cudaEventSynchronize(cuda->drained[place->wait]));
out:
    return status;
}

lp_status lp_cuda_upload(lp_backend *be, void *dev, const void *host, size_t bytes, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    for (size_t done = 0; done < bytes;) {
        lp_cuda_place place;
        LP_TRY(take_place(cuda, bytes - done, &place, err));
        memcpy(cuda->pinned + place.offset, (const char *)host + done, place.bytes);
        LP_CUDA(cudaMemcpyAsync((char *)dev + done, cuda->pinned + place.offset, place.bytes, cudaMemcpyHostToDevice,
                                cuda->stream));
        be->counters.bytes_up += place.bytes;
        done += place.bytes;
    }
out:
    return status;
}

lp_status lp_cuda_download(lp_backend *be, void *host, const void *dev, size_t bytes, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    for (size_t done = 0; done < bytes;) {
        lp_cuda_place place;
        LP_TRY(take_place(cuda, bytes - done, &place, err));
        LP_CUDA(cudaMemcpyAsync(cuda->pinned + place.offset, (const char *)dev + done, place.bytes,
                                cudaMemcpyDeviceToHost, cuda->stream));
        LP_CUDA(cudaStreamSynchronize(cuda->stream));
        be->counters.n_waits++;
        be->counters.bytes_down += place.bytes;
        memcpy((char *)host + done, cuda->pinned + place.offset, place.bytes);
        done += place.bytes;
    }
out:
    return status;
}

lp_status lp_cuda_fetch_begin(lp_backend *be, int fetch, const void *dev, size_t bytes, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    if (bytes > cuda->fetches[fetch].capacity) {
        (void)cudaFreeHost(cuda->fetches[fetch].pinned);
        cuda->fetches[fetch].pinned = NULL;
        cuda->fetches[fetch].capacity = 0;
        LP_CUDA(cudaMallocHost((void **)&cuda->fetches[fetch].pinned, 2 * bytes));
        cuda->fetches[fetch].capacity = 2 * bytes;
    }
    LP_CUDA(cudaMemcpyAsync(cuda->fetches[fetch].pinned, dev, bytes, cudaMemcpyDeviceToHost, cuda->stream));
    LP_CUDA(cudaEventRecord(cuda->fetches[fetch].arrived, cuda->stream));
    be->counters.bytes_down += bytes;
out:
    return status;
}

lp_status lp_cuda_fetch_end(lp_backend *be, int fetch, void *host, size_t bytes, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(cudaEventSynchronize(cuda->fetches[fetch].arrived));
    be->counters.n_waits++;
    memcpy(host, cuda->fetches[fetch].pinned, bytes);
out:
    return status;
}

lp_status lp_cuda_sync(lp_backend *be, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    lp_status status = LP_OK;
    LP_CUDA(cudaStreamSynchronize(cuda->stream));
out:
    return status;
}

lp_cuda_held *lp_cuda_find_held(lp_backend_cuda *cuda, const void *key, size_t bytes) {
    for (lp_cuda_held *held = cuda->held; held; held = held->next)
        if (held->key == key && held->bytes == bytes) return held;
    return NULL;
}

lp_status lp_cuda_hold(lp_backend_cuda *cuda, const void *key, size_t bytes, void *dev, lp_error *err) {
    lp_cuda_held *held = NULL;
    lp_status status = lp_mem_new(&held, 1, sizeof *held, "weights", err);
    if (status != LP_OK) return status;
    *held = (lp_cuda_held){.key = key, .bytes = bytes, .dev = dev, .users = 1, .next = cuda->held};
    cuda->held = held;
    cuda->base.counters.weight_bytes += bytes;
    return LP_OK;
}

lp_status lp_cuda_vector_new(lp_backend *be, const float *host, size_t n, const float **out, lp_error *err) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    size_t bytes = n * sizeof(float);
    lp_cuda_held *held = lp_cuda_find_held(cuda, host, bytes);
    if (held) {
        held->users++;
        *out = held->dev;
        return LP_OK;
    }
    void *dev = NULL;
    lp_status status = lp_cuda_alloc(be, bytes, "weights", &dev, err);
    if (status != LP_OK) return status;
    LP_TRY(lp_cuda_upload(be, dev, host, bytes, err));
    LP_TRY(lp_cuda_hold(cuda, host, bytes, dev, err));
    *out = dev;
    return LP_OK;
out:
    (void)cudaFree(dev);
    return status;
}

void lp_cuda_vector_free(lp_backend *be, const float *vector) {
    lp_backend_cuda *cuda = lp_cuda_of(be);
    for (lp_cuda_held **at = &cuda->held; *at; at = &(*at)->next) {
        lp_cuda_held *held = *at;
        if (held->dev != vector) continue;
        if (--held->users > 0) return;
        *at = held->next;
        be->counters.weight_bytes -= held->bytes;
        (void)cudaFree(held->dev);
        lp_mem_free(held);
        return;
    }
}
