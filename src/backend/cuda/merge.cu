// Weights from stored tensors: widened, merged with their LoRA update, rounded to what products take, in one pass. The
// product is ours and not the library's: true float32, summed in the order of the rank, whatever the device.
#include "backend/cuda/kernels.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace {

constexpr int TILE = 64;  // rows and columns of a block
constexpr int DEPTH = 16; // of the rank, at a time
constexpr int SIDE = 16;  // threads each way; each has EACH x EACH values, SIDE apart
constexpr int EACH = TILE / SIDE;
constexpr int BLOCK = SIDE * SIDE;

__device__ inline float load(const void *data, lp_cuda_stored type, int64_t at) {
    if (type == LP_CUDA_STORED_BF16) return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[at]);
    if (type == LP_CUDA_STORED_F16) return __half2float(static_cast<const __half *>(data)[at]);
    return static_cast<const float *>(data)[at];
}

// shared [DEPTH, TILE] = factor's rows row .. row + DEPTH - 1 and columns column .. column + TILE - 1, zeros outside
// [rows, columns]. Threads side by side read what lies side by side.
__device__ void take_tile(const lp_cuda_factor &factor, int64_t row, int64_t column, int64_t rows, int64_t columns,
                          float (*shared)[TILE]) {
    bool along_columns = factor.column_step == 1;
    for (int n = static_cast<int>(threadIdx.x); n < DEPTH * TILE; n += BLOCK) {
        int i = along_columns ? n / TILE : n % DEPTH, j = along_columns ? n % TILE : n / DEPTH;
        bool inside = row + i < rows && column + j < columns;
        int64_t at = (row + i) * factor.row_step + (column + j) * factor.column_step;
        shared[i][j] = inside ? load(factor.data, factor.type, at) : 0.0f;
    }
}

__device__ void finish(const lp_cuda_merge &m, int64_t i, int64_t j, float sum) {
    float value = load(m.w, m.type, i * m.columns + j);
    if (m.through_f16) value = __half2float(__float2half_rn(value));
    if (m.rank > 0) value = fmaf(m.scale, sum, value);
    bool finite = (__float_as_int(value) & 0x7f800000) != 0x7f800000;
    if (!finite && m.not_finite) *m.not_finite = 1; // all that write, write the same
    if (m.to_bf16)
        static_cast<__nv_bfloat16 *>(m.to)[i * m.stride + j] = __float2bfloat16_rn(value);
    else
        static_cast<float *>(m.to)[i * m.stride + j] = value;
}

__global__ void widen_kernel(lp_cuda_merge m, int64_t n) {
    int64_t stride = static_cast<int64_t>(gridDim.x) * BLOCK;
    for (int64_t at = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x; at < n; at += stride)
        finish(m, at / m.columns, at % m.columns, 0.0f);
}

__global__ void merge_kernel(lp_cuda_merge m, int64_t tiles_wide) {
    __shared__ float left[DEPTH][TILE], right[DEPTH][TILE];
    int64_t row = blockIdx.x / tiles_wide * TILE, column = blockIdx.x % tiles_wide * TILE;
    int down = static_cast<int>(threadIdx.x) / SIDE, across = static_cast<int>(threadIdx.x) % SIDE;
    // Its rows are the rank, as the right one's.
    lp_cuda_factor turned = {m.left.data, m.left.type, m.left.column_step, m.left.row_step};
    float sum[EACH][EACH] = {};
    for (int64_t k = 0; k < m.rank; k += DEPTH) {
        take_tile(turned, k, row, m.rank, m.rows, left);
        take_tile(m.right, k, column, m.rank, m.columns, right);
        __syncthreads();
        for (int d = 0; d < DEPTH; d++)
            for (int a = 0; a < EACH; a++)
                for (int b = 0; b < EACH; b++)
                    sum[a][b] = fmaf(left[d][down + a * SIDE], right[d][across + b * SIDE], sum[a][b]);
        __syncthreads();
    }
    for (int a = 0; a < EACH; a++)
        for (int b = 0; b < EACH; b++) {
            int64_t i = row + down + a * SIDE, j = column + across + b * SIDE;
            if (i < m.rows && j < m.columns) finish(m, i, j, sum[a][b]);
        }
}

} // namespace

cudaError_t lp_cuda_merge_weights(const lp_cuda_merge *merge, cudaStream_t stream) {
    lp_cuda_merge cuda_merge = *merge;
    int64_t n = cuda_merge.rows * cuda_merge.columns;
    if (n == 0) return cudaSuccess;
    if (cuda_merge.rank > 0) {
        int64_t wide = (cuda_merge.columns + TILE - 1) / TILE, high = (cuda_merge.rows + TILE - 1) / TILE;
        merge_kernel<<<static_cast<unsigned>(wide * high), BLOCK, 0, stream>>>(cuda_merge, wide);
    } else {
        constexpr int64_t MOST_BLOCKS = 4096;
        int64_t blocks = (n + BLOCK - 1) / BLOCK;
        widen_kernel<<<static_cast<unsigned>(blocks < MOST_BLOCKS ? blocks : MOST_BLOCKS), BLOCK, 0, stream>>>(
            cuda_merge, n);
    }
    return cudaGetLastError();
}
