// Kernels of the probe in cuda_linear.c: inputs, rows in another order, and the comparison of bits.
#include "backend/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr int BLOCK = 256;
constexpr unsigned GRID = 1024;

__global__ void fill_kernel(void *x, int64_t n, lp_cuda_stored type, uint32_t seed) {
    int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += stride) {
        // The finaliser of splitmix64.
        uint64_t z = (static_cast<uint64_t>(i) + 1) * 0x9E3779B97F4A7C15ull + seed;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
        z ^= z >> 31;
        const float value = static_cast<float>(static_cast<int32_t>(z >> 40)) * (1.0f / 8388608.0f) - 1.0f;
        switch (type) {
        case LP_CUDA_STORED_BF16: static_cast<__nv_bfloat16 *>(x)[i] = __float2bfloat16_rn(value); break;
        case LP_CUDA_STORED_F16: static_cast<__half *>(x)[i] = __float2half_rn(value); break;
        default: static_cast<float *>(x)[i] = value;
        }
    }
}

__device__ inline int64_t source_row(int64_t i, int32_t step, int32_t shift, int32_t n) {
    return (i * step + shift) % n;
}

__global__ void permute_kernel(float *dst, int32_t n, const float *src, int32_t n_src, int32_t step, int32_t shift,
                               int64_t width) {
    int64_t total = n * width, stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
        int64_t row = i / width, at = i - row * width;
        dst[i] = src[source_row(row, step, shift, n_src) * width + at];
    }
}

// All threads that write, write the same.
__global__ void compare_kernel(const float *a, int32_t n, const float *b, int32_t n_b, int32_t step, int32_t shift,
                               int64_t width, int32_t *differs) {
    int64_t total = n * width, stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < total; i += stride) {
        int64_t row = i / width, at = i - row * width;
        float other = b[source_row(row, step, shift, n_b) * width + at];
        if (__float_as_int(a[i]) != __float_as_int(other)) *differs = 1;
    }
}

} // namespace

cudaError_t lp_cuda_fill(void *x, int64_t n, lp_cuda_stored type, uint32_t seed, cudaStream_t stream) {
    fill_kernel<<<GRID, BLOCK, 0, stream>>>(x, n, type, seed);
    return cudaGetLastError();
}

cudaError_t lp_cuda_permute(float *dst, int32_t n, const float *src, int32_t n_src, int32_t step, int32_t shift,
                            int64_t width, cudaStream_t stream) {
    permute_kernel<<<GRID, BLOCK, 0, stream>>>(dst, n, src, n_src, step, shift, width);
    return cudaGetLastError();
}

cudaError_t lp_cuda_compare(const float *a, int32_t n, const float *b, int32_t n_b, int32_t step, int32_t shift,
                            int64_t width, int32_t *differs, cudaStream_t stream) {
    compare_kernel<<<GRID, BLOCK, 0, stream>>>(a, n, b, n_b, step, shift, width, differs);
    return cudaGetLastError();
}
