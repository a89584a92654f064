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
#define __launch_bounds__(n)

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

#define threadIdx                          emulator::here.thread
#define blockIdx                           emulator::here.block
#define gridDim                            emulator::here.grid
#define blockDim                           emulator::here.size
#define __syncthreads                      emulator::sync_block
#define __syncwarp                         emulator::sync_warp
#define __shfl_sync(mask, value, lane)     emulator::shuffle(value, lane)
#define __shfl_xor_sync(mask, value, half) emulator::shuffle(value, static_cast<int>(threadIdx.x % 32) ^ (half))

inline int __float_as_int(float x) {
    int bits;
    std::memcpy(&bits, &x, sizeof bits);
    return bits;
}

inline float __int_as_float(int bits) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

#endif
