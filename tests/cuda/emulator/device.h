// A device on the cpu: one block at a time, its threads as fibers that change over at barriers and shuffles alone.
#ifndef LP_TESTS_CUDA_EMULATOR_DEVICE_H
#define LP_TESTS_CUDA_EMULATOR_DEVICE_H

#include <cmath>
#include <cstdint>
#include <cstring>
#include <cuda_runtime_api.h>
#include <functional>
#include <tuple>
#include <vector>
#include <vector_functions.h>

#undef __global__
#undef __device__
#undef __host__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __launch_bounds__(...)

namespace emulator {

struct place {
    uint3 thread, block;
    dim3 grid, size;
};
extern place here;

// The stream: nothing runs before somebody waits for it, as late as a device might. Work is numbered from 1.
void enqueue(std::function<void()> work);
uint64_t last_enqueued();
void run_until(uint64_t number);

// waits: threads of a block wait for each other.
void launch(bool waits, dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()> &kernel);
void *dynamic_shared();
void sync_block();
void sync_warp();
// d [16, 8] += a [16, 16] b [16, 8] by the lanes of a warp: mma.m16n8k16 of bf16, as PTX spreads it over them. Products
// and their sum are exact but for double precision.
void multiply_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
// Asynchronous copies of this thread: nothing arrives before it is waited for.
void copy_later(void *to, const void *from, size_t bytes);
void copy_now();
// What lane `from` of the warp put in.
uint64_t exchange(uint64_t value, int from);

template <typename T> T shuffle(T value, int from) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(bits, from);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

} // namespace emulator

#define threadIdx     emulator::here.thread
#define blockIdx      emulator::here.block
#define gridDim       emulator::here.grid
#define blockDim      emulator::here.size
#define __syncthreads emulator::sync_block
#define __threadfence()
#define __syncwarp                         emulator::sync_warp
#define __shfl_sync(mask, value, lane)     emulator::shuffle(value, lane)
#define __shfl_xor_sync(mask, value, half) emulator::shuffle(value, static_cast<int>(threadIdx.x % 32) ^ (half))

template <typename T> T __ldcg(const T *p) {
    return *p;
}

inline int atomicAdd(int *p, int value) {
    const int before = *p;
    *p += value;
    return before;
}

inline int __float_as_int(float x) {
    int bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t which) {
    const uint64_t bytes = static_cast<uint64_t>(high) << 32 | low;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) out |= static_cast<uint32_t>(bytes >> (which >> (4 * i) & 7) * 8 & 0xff) << (8 * i);
    return out;
}

inline float __int_as_float(int bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
