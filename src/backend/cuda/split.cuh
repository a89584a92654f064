// Rows of float32 as two fp16 numbers each, for products on tensor cores that are no less exact than float32's.
//
// A row x is scaled by a power of two, its own, so that its largest value lies in [1/2, 1): x = 2^e (h + l / 2^11), h
// and l fp16. What is lost is below 2^-22 of the value, or 2^-35 of the row's largest. A number that is not 0 keeps a
// part that is not 0. Infinity stays in h with l = 0; the row says that it has NaN or infinity, and finish_kernel
// (split.cu) makes its products. The idea is Ootomo's and Yokota's: "Recovering single precision accuracy from Tensor
// Cores while surpassing the FP32 theoretical peak performance", 2022.
#ifndef LP_BACKEND_CUDA_SPLIT_CUH
#define LP_BACKEND_CUDA_SPLIT_CUH

#include "backend/cuda/kernels.h"

#include <cuda_fp16.h>

namespace split {

constexpr int32_t HAS_INFINITY = INT32_MAX - 1, HAS_NAN = INT32_MAX; // in the place of e
constexpr float LOW_SCALE = 2048.0f;
constexpr uint32_t INFINITY_BITS = 0x7f800000u;

// The largest of one number per thread, the same on all threads. `shared` has as many numbers as the block threads, a
// power of two.
__device__ inline uint32_t block_most(uint32_t value, uint32_t *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half && shared[threadIdx.x + half] > shared[threadIdx.x])
            shared[threadIdx.x] = shared[threadIdx.x + half];
        __syncthreads();
    }
    uint32_t most = shared[0];
    __syncthreads();
    return most;
}

__device__ inline uint32_t magnitude_bits(float x) {
    return static_cast<uint32_t>(__float_as_int(x)) & 0x7fffffffu;
}

// x 2^e, rounded once.
__device__ inline float times_power(float x, int32_t e) {
    if (e >= -126 && e <= 127) return x * __int_as_float((e + 127) << 23);
    return ldexpf(x, e);
}

// Of the row's largest magnitude; also where that is subnormal.
__device__ inline int32_t exponent_of(uint32_t most) {
    if (most == 0) return 0;
    if (most > INFINITY_BITS) return HAS_NAN;
    if (most == INFINITY_BITS) return HAS_INFINITY;
    int e;
    (void)frexpf(__int_as_float(static_cast<int>(most)), &e);
    return e;
}

__device__ inline void split_one(float x, int32_t e, __half *high, __half *low) {
    const uint32_t bits = magnitude_bits(x);
    const float scaled = bits >= INFINITY_BITS || e >= HAS_INFINITY ? x : times_power(x, -e);
    const __half h = __float2half_rn(scaled);
    const float left = scaled - __half2float(h);
    __half l = __float2half_rn(bits >= INFINITY_BITS || e >= HAS_INFINITY ? 0.0f : left * LOW_SCALE);
    if (bits > 0 && __half2float(h) == 0.0f && __half2float(l) == 0.0f)
        l = __float2half_rn(x < 0.0f ? -0x1p-24f : 0x1p-24f);
    *high = h;
    *low = l;
}

// All threads of a block: high and low [depth] of the row value(0) .. value(width - 1), zeros from there on. Returns e.
template <typename VALUE>
__device__ int32_t block_split(VALUE value, int32_t width, int32_t depth, __half *high, __half *low, uint32_t *shared) {
    uint32_t most = 0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += static_cast<int32_t>(blockDim.x)) {
        const uint32_t bits = magnitude_bits(value(i));
        if (bits > most) most = bits;
    }
    const int32_t e = exponent_of(block_most(most, shared));
    for (int32_t i = 2 * static_cast<int32_t>(threadIdx.x); i < depth; i += 2 * static_cast<int32_t>(blockDim.x)) {
        __half h[2], l[2];
        for (int k = 0; k < 2; k++) split_one(i + k < width ? value(i + k) : 0.0f, e, &h[k], &l[k]);
        *reinterpret_cast<__half2 *>(high + i) = __halves2half2(h[0], h[1]);
        *reinterpret_cast<__half2 *>(low + i) = __halves2half2(l[0], l[1]);
    }
    return e;
}

// The row of an operand: high, low, e, zeros up to its whole length.
template <typename VALUE> __device__ void block_operand(VALUE value, int32_t width, void *row, uint32_t *shared) {
    const int32_t depth = (width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
    __half *high = static_cast<__half *>(row);
    const int32_t e = block_split(value, width, depth, high, high + depth, shared);
    int32_t *tail = reinterpret_cast<int32_t *>(high + 2 * static_cast<int64_t>(depth));
    if (threadIdx.x < LP_CUDA_SPLIT_TAIL / 4) tail[threadIdx.x] = threadIdx.x == 0 ? e : 0;
}

// The same row by one warp, of value(0) .. one by one, or four by four (width is a multiple of 4).
__device__ inline uint32_t warp_most(uint32_t value) {
    for (int half = 16; half > 0; half /= 2) {
        const uint32_t other = __shfl_xor_sync(0xffffffffu, value, half);
        if (other > value) value = other;
    }
    return value;
}

__device__ inline void warp_tail(__half *row, int32_t depth, int32_t e) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32;
    if (lane < LP_CUDA_SPLIT_TAIL / 4)
        reinterpret_cast<int32_t *>(row + 2 * static_cast<int64_t>(depth))[lane] = lane == 0 ? e : 0;
}

template <typename VALUE> __device__ void warp_operand(VALUE value, int32_t width, void *row) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32,
                  depth = (width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
    __half *high = static_cast<__half *>(row), *low = high + depth;
    uint32_t most = 0;
    for (int32_t i = lane; i < width; i += 32) {
        const uint32_t bits = magnitude_bits(value(i));
        if (bits > most) most = bits;
    }
    const int32_t e = exponent_of(warp_most(most));
    for (int32_t i = lane; i < depth; i += 32) split_one(i < width ? value(i) : 0.0f, e, high + i, low + i);
    warp_tail(high, depth, e);
}

struct alignas(8) half_four {
    __half at[4];
};

template <typename VALUE> __device__ void warp_operand_fours(VALUE value, int32_t width, void *row) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32,
                  depth = (width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
    __half *high = static_cast<__half *>(row), *low = high + depth;
    uint32_t most = 0;
#pragma unroll 4
    for (int32_t i = 4 * lane; i < width; i += 128) {
        const float4 x = value(i);
        const uint32_t bits[4] = {magnitude_bits(x.x), magnitude_bits(x.y), magnitude_bits(x.z), magnitude_bits(x.w)};
        for (int k = 0; k < 4; k++)
            if (bits[k] > most) most = bits[k];
    }
    const int32_t e = exponent_of(warp_most(most));
    for (int32_t i = 4 * lane; i < depth; i += 128) {
        half_four h, l;
        const float4 x = i < width ? value(i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        split_one(x.x, e, &h.at[0], &l.at[0]);
        split_one(x.y, e, &h.at[1], &l.at[1]);
        split_one(x.z, e, &h.at[2], &l.at[2]);
        split_one(x.w, e, &h.at[3], &l.at[3]);
        *reinterpret_cast<half_four *>(high + i) = h;
        *reinterpret_cast<half_four *>(low + i) = l;
    }
    warp_tail(high, depth, e);
}

__host__ __device__ inline int64_t operand_bytes(int32_t width) {
    return static_cast<int64_t>((width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP) * 4 + LP_CUDA_SPLIT_TAIL;
}

} // namespace split

#endif
