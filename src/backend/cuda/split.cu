// Split operands (split.cuh) that are made of whole matrices, and what is left to do after their three products.
#include "backend/cuda/split.cuh"

namespace {

constexpr int BLOCK = 256;
constexpr int64_t MAX_ROWS = 65535; // of a grid

__global__ void split_rows_kernel(char *dst, const float *src, const int32_t *src_rows, int32_t width) {
    __shared__ uint32_t shared[BLOCK];
    const float *from = src + (src_rows ? src_rows[blockIdx.x] : static_cast<int64_t>(blockIdx.x)) * width;
    split::block_operand([=](int32_t i) { return from[i]; }, width,
                         dst + static_cast<int64_t>(blockIdx.x) * split::operand_bytes(width), shared);
}

// low before high: a row of weights meets high before low of the inputs.
__global__ void split_weights_kernel(__half *dst, int32_t *exponents, const float *src, int32_t depth, int32_t width,
                                     int64_t row_step, int64_t column_step) {
    __shared__ uint32_t shared[BLOCK];
    const float *from = src + static_cast<int64_t>(blockIdx.x) * row_step;
    __half *to = dst + static_cast<int64_t>(blockIdx.x) * 2 * depth;
    const int32_t e =
        split::block_split([=](int32_t i) { return from[i * column_step]; }, width, depth, to + depth, to, shared);
    if (threadIdx.x == 0) exponents[blockIdx.x] = e;
}

// What float32 gives where the row has infinities: only these count.
__device__ float infinite_product(const __half *x, const __half *w, int32_t depth, int32_t width) {
    float sum = 0.0f;
    for (int32_t i = 0; i < width; i++) {
        const float high = __half2float(x[i]);
        if (split::magnitude_bits(high) != split::INFINITY_BITS) continue;
        sum = sum + high * (__half2float(w[depth + i]) + __half2float(w[i]));
    }
    return sum;
}

__global__ void finish_kernel(lp_cuda_finish f) {
    const int64_t at = static_cast<int64_t>(blockIdx.x) * BLOCK + threadIdx.x;
    if (at >= f.n_out) return;
    const int32_t depth = (f.n_in + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
    const int32_t column = f.exponents[at];
    for (int64_t row = blockIdx.y; row < f.rows; row += gridDim.y) {
        const char *x = static_cast<const char *>(f.x) + row * split::operand_bytes(f.n_in);
        const int32_t e = *reinterpret_cast<const int32_t *>(x + static_cast<int64_t>(depth) * 4);
        float value;
        if (e < split::HAS_INFINITY)
            value = split::times_power(f.from[row * f.from_stride + at], e + column);
        else if (e == split::HAS_INFINITY)
            value = infinite_product(reinterpret_cast<const __half *>(x),
                                     static_cast<const __half *>(f.weights) + at * 2 * depth, depth, f.n_in);
        else
            value = nanf("");
        f.to[row * f.to_stride + at] = f.bias ? value + f.bias[at] : value;
    }
}

} // namespace

cudaError_t lp_cuda_split_rows(void *dst, const float *src, const int32_t *src_rows, int64_t rows, int32_t width,
                               cudaStream_t stream) {
    if (rows == 0) return cudaSuccess;
    split_rows_kernel<<<static_cast<unsigned>(rows), BLOCK, 0, stream>>>(static_cast<char *>(dst), src, src_rows,
                                                                         width);
    return cudaGetLastError();
}

cudaError_t lp_cuda_split_weights(void *dst, int32_t *exponents, const float *src, int64_t rows, int32_t width,
                                  int64_t row_step, int64_t column_step, cudaStream_t stream) {
    const int32_t depth = (width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
    if (rows == 0) return cudaSuccess;
    split_weights_kernel<<<static_cast<unsigned>(rows), BLOCK, 0, stream>>>(static_cast<__half *>(dst), exponents, src,
                                                                            depth, width, row_step, column_step);
    return cudaGetLastError();
}

cudaError_t lp_cuda_finish_split(const lp_cuda_finish *finish, cudaStream_t stream) {
    if (finish->rows == 0 || finish->n_out == 0) return cudaSuccess;
    const dim3 grid(static_cast<unsigned>((finish->n_out + BLOCK - 1) / BLOCK),
                    static_cast<unsigned>(finish->rows < MAX_ROWS ? finish->rows : MAX_ROWS));
    finish_kernel<<<grid, BLOCK, 0, stream>>>(*finish);
    return cudaGetLastError();
}
