// The parts of the CUDA runtime and of cuBLASLt that the backend uses, on the host. Device memory is ordinary memory
// that is handed out full of NaN. Everything that is issued to the stream runs only when somebody waits for it, so
// that what is read too early, or memory that is used again too early, shows. The first algorithm that is offered for a
// product depends on the number of rows: the backend's probe must refuse it. LATENTPATCH_EMULATOR makes a worse
// device: "memory=N" gives no more than N bytes though it promises more, "dies_after=N" fails for good when N things
// have been issued; "devices=N" makes a node with N of them, "free=N" says that N bytes are free.
#include "cuda/emulator/device.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <unordered_map>
#include <vector>

static cudaError_t last_error = cudaSuccess;

static std::unordered_map<void *, size_t> held;
static size_t held_bytes;

// The number behind a word of LATENTPATCH_EMULATOR; the largest where it is not there.
static uint64_t wish(const char *word) {
    const char *text = getenv("LATENTPATCH_EMULATOR"), *at = text ? strstr(text, word) : nullptr;
    return at ? strtoull(at + strlen(word), nullptr, 10) : UINT64_MAX;
}

static bool is_dead() {
    static const uint64_t after = wish("dies_after=");
    return emulator::last_enqueued() > after;
}
#define ALIVE()                                                                                                        \
    if (is_dead()) return cudaErrorIllegalAddress

extern "C" {

cudaError_t cudaMalloc(void **out, size_t bytes) {
    static const uint64_t most = wish("memory=");
    bool fits = bytes < (size_t(1) << 40) && held_bytes + bytes <= most;
    *out = fits ? aligned_alloc(256, (bytes + 255) / 256 * 256) : nullptr;
    if (!*out) return last_error = cudaErrorMemoryAllocation;
    held[*out] = bytes;
    held_bytes += bytes;
    memset(*out, 0xff, bytes);
    return cudaSuccess;
}
cudaError_t cudaFree(void *p) {
    emulator::run_until(emulator::last_enqueued());
    if (p) {
        held_bytes -= held[p];
        held.erase(p);
    }
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **out, size_t bytes) {
    *out = malloc(bytes);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void *p) {
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, cudaMemcpyKind, cudaStream_t) {
    emulator::enqueue([=] { memcpy(to, from, n); });
    return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void *to, size_t to_step, const void *from, size_t from_step, size_t width, size_t rows,
                              cudaMemcpyKind, cudaStream_t) {
    emulator::enqueue([=] {
        for (size_t r = 0; r < rows; r++)
            memcpy(static_cast<char *>(to) + r * to_step, static_cast<const char *>(from) + r * from_step, width);
    });
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t) {
    emulator::enqueue([=] { memset(p, value, n); });
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned) {
    *s = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    ALIVE();
    emulator::run_until(emulator::last_enqueued());
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned) {
    *e = reinterpret_cast<cudaEvent_t>(new uint64_t(0));
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) {
    delete reinterpret_cast<uint64_t *>(e);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t) {
    *reinterpret_cast<uint64_t *>(e) = emulator::last_enqueued();
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
    ALIVE();
    emulator::run_until(*reinterpret_cast<uint64_t *>(e));
    return cudaSuccess;
}
cudaError_t cudaGetLastError(void) {
    ALIVE();
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}
const char *cudaGetErrorString(cudaError_t) {
    return "emulated error";
}
const char *cudaGetErrorName(cudaError_t error) {
    if (error == cudaErrorMemoryAllocation) return "cudaErrorMemoryAllocation";
    if (error == cudaErrorIllegalAddress) return "cudaErrorIllegalAddress";
    return "cudaErrorEmulated";
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
    static const uint64_t most = wish("free=");
    *available = *total = most < UINT64_MAX ? most : size_t(4) << 30;
    return cudaSuccess;
}
// The node's devices that this process sees, by CUDA_VISIBLE_DEVICES as a driver reads it: up to the first number that
// names none.
static std::vector<int> visible_devices() {
    const uint64_t wanted = wish("devices="), n = wanted == UINT64_MAX ? 1 : wanted;
    const char *at = getenv("CUDA_VISIBLE_DEVICES");
    std::vector<int> out;
    if (!at)
        for (uint64_t i = 0; i < n; i++) out.push_back(static_cast<int>(i));
    while (at && *at) {
        char *end = nullptr;
        const uint64_t device = strtoull(at, &end, 10);
        if (end == at || device >= n) break;
        out.push_back(static_cast<int>(device));
        at = *end == ',' ? end + 1 : end;
    }
    return out;
}

cudaError_t cudaGetDeviceCount(int *n) {
    const size_t found = visible_devices().size();
    if (found == 0) return last_error = cudaErrorNoDevice; // and nothing is written
    *n = static_cast<int>(found);
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    return device < static_cast<int>(visible_devices().size()) ? cudaSuccess : last_error = cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *p, int device) {
    memset(p, 0, sizeof *p);
    strcpy(p->name, "emulated device");
    p->major = 8;
    p->uuid.bytes[0] = static_cast<char>('A' + visible_devices().at(static_cast<size_t>(device)));
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int *v) {
    *v = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int *v) {
    *v = CUDART_VERSION;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int *device) {
    *device = 0;
    return cudaSuccess;
}
// That of the smallest device that is supported.
cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr what, int) {
    if (what != cudaDevAttrMaxSharedMemoryPerBlockOptin) return cudaErrorInvalidValue;
    *value = 99 * 1024;
    return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void *, cudaFuncAttribute, int) {
    return cudaSuccess;
}

struct operation {
    cublasOperation_t turn;
    cublasLtEpilogue_t epilogue;
    const float *bias;
    cublasComputeType_t compute;
};
struct layout {
    cudaDataType type;
    uint64_t rows, cols;
    int64_t ld;
    int32_t batch;
    int64_t step;
};

size_t cublasLtGetVersion(void) {
    return 0;
}
const char *cublasLtGetStatusString(cublasStatus_t) {
    return "emulated status";
}
cublasStatus_t cublasLtCreate(cublasLtHandle_t *h) {
    *h = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *d, cublasComputeType_t compute, cudaDataType_t) {
    *d =
        reinterpret_cast<cublasLtMatmulDesc_t>(new operation{CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr, compute});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    delete reinterpret_cast<operation *>(d);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void *v,
                                              size_t n) {
    operation *o = reinterpret_cast<operation *>(d);
    if (a == CUBLASLT_MATMUL_DESC_TRANSA)
        memcpy(&o->turn, v, n);
    else if (a == CUBLASLT_MATMUL_DESC_EPILOGUE)
        memcpy(&o->epilogue, v, n);
    else if (a == CUBLASLT_MATMUL_DESC_BIAS_POINTER)
        memcpy(&o->bias, v, n);
    else
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *l, cudaDataType type, uint64_t rows, uint64_t cols,
                                          int64_t ld) {
    if (ld < static_cast<int64_t>(rows)) return CUBLAS_STATUS_INVALID_VALUE;
    *l = reinterpret_cast<cublasLtMatrixLayout_t>(new layout{type, rows, cols, ld, 1, 0});
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    delete reinterpret_cast<layout *>(l);
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t m, cublasLtMatrixLayoutAttribute_t a,
                                                const void *v, size_t n) {
    layout *l = reinterpret_cast<layout *>(m);
    if (a == CUBLASLT_MATRIX_LAYOUT_COLS && n == 8)
        memcpy(&l->cols, v, n);
    else if (a == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT && n == 4)
        memcpy(&l->batch, v, n);
    else if (a == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET && n == 8)
        memcpy(&l->step, v, n);
    else
        return CUBLAS_STATUS_INVALID_VALUE;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *p) {
    *p = nullptr;
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) {
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                                    const void *, size_t) {
    return CUBLAS_STATUS_SUCCESS;
}
// Candidate 0 depends on the number of rows of one product, candidate 1 does not where rows are batched (its rows are
// then always as many), candidate 2 never.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int n, cublasLtMatmulHeuristicResult_t *out,
                                              int *found) {
    bool only_batched = reinterpret_cast<operation *>(d)->epilogue == CUBLASLT_EPILOGUE_BIAS;
    *found = 0;
    for (int i = 0; i < 2 && i < n; i++) {
        memset(&out[i], 0, sizeof out[i]);
        out[i].algo.data[0] = i == 0 || only_batched ? 1 : 2;
        (*found)++;
    }
    return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoConfigGetAttribute(const cublasLtMatmulAlgo_t *,
                                                    cublasLtMatmulAlgoConfigAttributes_t what, void *value, size_t,
                                                    size_t *written) {
    int32_t number = what == CUBLASLT_ALGO_CONFIG_SPLITK_NUM ? 1 : 0;
    memcpy(value, &number, sizeof number);
    *written = sizeof number;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCapGetAttribute(const cublasLtMatmulAlgo_t *, cublasLtMatmulAlgoCapAttributes_t what,
                                                 void *value, size_t bytes, size_t *written) {
    const uint64_t number = what == CUBLASLT_ALGO_CAP_NUMERICAL_IMPL_FLAGS ? CUBLASLT_NUMERICAL_IMPL_FLAGS_HMMA : 16;
    memcpy(value, &number, bytes);
    *written = bytes;
    return CUBLAS_STATUS_SUCCESS;
}

static float element(const void *p, cudaDataType type, int64_t at) {
    if (type == CUDA_R_16F) return __half2float(static_cast<const __half *>(p)[at]);
    return type == CUDA_R_16BF ? __bfloat162float(static_cast<const __nv_bfloat16 *>(p)[at])
                               : static_cast<const float *>(p)[at];
}

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

constexpr uint64_t ROWS = 4; // that one pass over the weights serves

// sum [ROWS, out] = x [ROWS, depth] weights [depth, out]; an element's terms are added in the order of k, or against
// it.
FOR_EACH_PROCESSOR static void multiply_rows(const float *weights, const float *x, uint64_t depth, uint64_t out,
                                             bool backwards, float *__restrict sum) {
    for (uint64_t i = 0; i < ROWS * out; i++) sum[i] = 0.0f;
    for (uint64_t n = 0; n < depth; n++) {
        const uint64_t k = backwards ? depth - 1 - n : n;
        const float *w = weights + k * out;
        const float x0 = x[k], x1 = x[depth + k], x2 = x[2 * depth + k], x3 = x[3 * depth + k];
        float *s0 = sum, *s1 = sum + out, *s2 = sum + 2 * out, *s3 = sum + 3 * out;
#pragma GCC ivdep
        for (uint64_t i = 0; i < out; i++) {
            s0[i] += x0 * w[i];
            s1[i] += x1 * w[i];
            s2[i] += x2 * w[i];
            s3[i] += x3 * w[i];
        }
    }
}

static void multiply(const operation &o, float alpha, const layout &a, const void *a_data, const layout &b,
                     const void *b_data, float beta, const layout &y, void *y_data, bool backwards) {
    const bool turned = o.turn == CUBLAS_OP_T;
    const uint64_t depth = b.rows, out = y.rows;
    std::vector<float> weights(depth * out), x(ROWS * depth), sum(ROWS * out);
    for (int32_t batch = 0; batch < b.batch; batch++) {
        if (batch == 0 || a.step != 0)
            for (uint64_t k = 0; k < depth; k++)
                for (uint64_t i = 0; i < out; i++)
                    weights[k * out + i] = element(
                        a_data, a.type, batch * a.step + static_cast<int64_t>(turned ? i * a.ld + k : k * a.ld + i));
        for (uint64_t first = 0; first < b.cols; first += ROWS) {
            const uint64_t rows = b.cols - first < ROWS ? b.cols - first : ROWS;
            for (uint64_t j = 0; j < rows; j++)
                for (uint64_t k = 0; k < depth; k++)
                    x[j * depth + k] =
                        element(b_data, b.type, batch * b.step + static_cast<int64_t>((first + j) * b.ld + k));
            multiply_rows(weights.data(), x.data(), depth, out, backwards, sum.data());
            for (uint64_t j = 0; j < rows; j++) {
                float *to = static_cast<float *>(y_data) + batch * y.step + static_cast<int64_t>((first + j) * y.ld);
                for (uint64_t i = 0; i < out; i++) {
                    float value = alpha * sum[j * out + i];
                    if (beta != 0.0f) value += beta * to[i];
                    to[i] = o.epilogue == CUBLASLT_EPILOGUE_BIAS ? value + o.bias[i] : value;
                }
            }
        }
    }
}

// A real library multiplies what is not aligned too, several times slower; this one does not, so that it shows.
static bool is_aligned(const layout &l, const void *data) {
    const int64_t item = l.type == CUDA_R_32F ? 4 : 2;
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && l.ld * item % 16 == 0 && l.step * item % 16 == 0 &&
           l.rows % 8 == 0;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void *alpha, const void *a_data,
                              cublasLtMatrixLayout_t a_layout, const void *b_data, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *, cublasLtMatrixLayout_t, void *d_data,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *, size_t,
                              cudaStream_t) {
    const operation *o = reinterpret_cast<operation *>(d);
    const layout *a = reinterpret_cast<layout *>(a_layout), *b = reinterpret_cast<layout *>(b_layout);
    const layout *y = reinterpret_cast<layout *>(d_layout);
    bool turned = o->turn == CUBLAS_OP_T;
    uint64_t depth = turned ? a->rows : a->cols, out = turned ? a->cols : a->rows;
    if (depth != b->rows || out != y->rows || b->cols != y->cols || a->batch != b->batch || b->batch != y->batch)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (!is_aligned(*a, a_data) || !is_aligned(*b, b_data) || !is_aligned(*y, d_data))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    const float by = *static_cast<const float *>(alpha), before = *static_cast<const float *>(beta);
    bool backwards = algorithm->data[0] == 1 && b->cols > 128;
    emulator::enqueue(
        [=, o = *o, a = *a, b = *b, y = *y] { multiply(o, by, a, a_data, b, b_data, before, y, d_data, backwards); });
    return CUBLAS_STATUS_SUCCESS;
}

} // extern "C"
