// Kernels that work on rows one by one. Reductions are trees of fixed shape: BLOCK threads take every BLOCK-th element
// in order, then fold in halves.
#include "backend/cuda/split.cuh"

#include <cuda_bf16.h>

namespace {

constexpr int BLOCK = 256;
constexpr int64_t MAX_ROWS = 65535; // of a grid

// Columns along x, rows along y; the kernels stride over what is beyond the grid.
dim3 grid_for(int64_t rows, int64_t width) {
    return dim3(static_cast<unsigned>((width + BLOCK - 1) / BLOCK),
                static_cast<unsigned>(rows < MAX_ROWS ? rows : MAX_ROWS));
}

bool fours(const void *pointer, int64_t width) {
    return width % 4 == 0 && reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

__device__ inline int32_t column() {
    return static_cast<int32_t>(blockIdx.x * BLOCK + threadIdx.x);
}

template <typename T>
__global__ void copy_kernel(T *dst, const int32_t *dst_rows, const T *src, const int32_t *src_rows, int32_t n,
                            int32_t width) {
    int32_t at = column();
    if (at >= width) return;
    for (int32_t row = static_cast<int32_t>(blockIdx.y); row < n; row += static_cast<int32_t>(gridDim.y)) {
        int64_t to = dst_rows ? dst_rows[row] : row, from = src_rows ? src_rows[row] : row;
        dst[to * width + at] = src[from * width + at];
    }
}

__device__ inline float add(float x, float y) {
    return x + y;
}

__device__ inline float4 add(float4 x, float4 y) {
    return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}

template <typename T> __global__ void add_kernel(T *x, const T *y, const int32_t *y_rows, int32_t n, int32_t width) {
    int32_t at = column();
    if (at >= width) return;
    for (int32_t row = static_cast<int32_t>(blockIdx.y); row < n; row += static_cast<int32_t>(gridDim.y)) {
        int64_t from = y_rows ? y_rows[row] : row, to = static_cast<int64_t>(row) * width + at;
        x[to] = add(x[to], y[from * width + at]);
    }
}

__global__ void scale_kernel(float *x, int32_t n, int32_t width, int32_t n_columns, const float *scale) {
    int32_t at = column();
    if (at >= n_columns) return;
    for (int32_t row = static_cast<int32_t>(blockIdx.y); row < n; row += static_cast<int32_t>(gridDim.y))
        x[static_cast<int64_t>(row) * width + at] *= scale[at];
}

// The sum of one number per thread, the same on all threads. `shared` has BLOCK numbers.
template <typename T> __device__ T block_sum(T value, T *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = shared[threadIdx.x] + shared[threadIdx.x + half];
        __syncthreads();
    }
    T sum = shared[0];
    __syncthreads();
    return sum;
}

// The same for the largest; NaN is larger than nothing.
__device__ float block_max(float value, float *shared) {
    shared[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = fmaxf(shared[threadIdx.x], shared[threadIdx.x + half]);
        __syncthreads();
    }
    float most = shared[0];
    __syncthreads();
    return most;
}

// In units of 16 bytes, of which a split row has a whole number.
struct alignas(16) split_row {
    char bytes[16];
};

// Elements between rows of results: floats, bf16 with zeros after them, or split rows.
template <typename T> __device__ inline int64_t row_stride(int32_t width) {
    if (sizeof(T) == sizeof(split_row)) return split::operand_bytes(width) / static_cast<int64_t>(sizeof(split_row));
    return sizeof(T) == 4 ? width : (width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
}

__device__ inline void store(float *to, float value) {
    *to = value;
}

__device__ inline void store(__nv_bfloat16 *to, float value) {
    *to = __float2bfloat16_rn(value);
}

// What one row's norm needs: its mean (0 for RMSNorm) and one over its scale.
struct moments {
    float mean, scale;
};

// A thread meets the same elements in both loops. `shared` has BLOCK numbers.
__device__ inline moments block_moments(const float *from, bool centred, float eps, int32_t width, float *shared) {
    float mean = 0.0f, sum = 0.0f;
    if (centred) {
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += BLOCK) sum = sum + from[i];
        mean = block_sum(sum, shared) / static_cast<float>(width);
        sum = 0.0f;
    }
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += BLOCK) {
        float d = from[i] - mean;
        sum = fmaf(d, d, sum);
    }
    float scale = 1.0f / sqrtf(block_sum(sum, shared) / static_cast<float>(width) + eps);
    return {mean, scale};
}

__device__ inline float normed(const float *from, const float *weight, const float *bias, moments m, int32_t i) {
    float value = (from[i] - m.mean) * m.scale * weight[i];
    return bias ? value + bias[i] : value;
}

// One row of floats, or of bf16 with zeros after them.
template <typename T>
__device__ void block_norm(const float *from, const float *weight, const float *bias, float eps, int32_t width, T *to,
                           float *shared) {
    const moments m = block_moments(from, bias != nullptr, eps, width, shared);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += BLOCK)
        store(to + i, normed(from, weight, bias, m, i));
    for (int32_t i = width + static_cast<int32_t>(threadIdx.x); i < row_stride<T>(width); i += BLOCK)
        store(to + i, 0.0f);
}

// One row as a split operand.
__device__ inline void block_norm(const float *from, const float *weight, const float *bias, float eps, int32_t width,
                                  split_row *to, float *shared) {
    const moments m = block_moments(from, bias != nullptr, eps, width, shared);
    split::block_operand([=](int32_t i) { return normed(from, weight, bias, m, i); }, width, to,
                         reinterpret_cast<uint32_t *>(shared));
}

template <typename T>
__global__ void norm_kernel(const float *x, const float *weight, const float *bias, float eps, int32_t width, T *y) {
    __shared__ float shared[BLOCK];
    const int64_t row = blockIdx.x;
    block_norm(x + row * width, weight, bias, eps, width, y + row * row_stride<T>(width), shared);
}

// One block a head: blockIdx.x counts rows, blockIdx.y the heads of q, then of k.
__global__ void norm_heads_kernel(float *qkv, int64_t stride, int32_t q_heads, int32_t width, const float *q_weight,
                                  const float *k_weight, float eps) {
    __shared__ float shared[BLOCK];
    int32_t head = static_cast<int32_t>(blockIdx.y);
    float *x = qkv + static_cast<int64_t>(blockIdx.x) * stride + static_cast<int64_t>(head) * width;
    block_norm(x, head < q_heads ? q_weight : k_weight, nullptr, eps, width, x, shared);
}

template <typename T>
__global__ void add_norm_kernel(float *x, const float *y, const float *weight, const float *bias, float eps,
                                int32_t width, T *h) {
    __shared__ float shared[BLOCK];
    const int64_t at = static_cast<int64_t>(blockIdx.x) * width;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += BLOCK) x[at + i] = add(x[at + i], y[at + i]);
    block_norm(x + at, weight, bias, eps, width, h + static_cast<int64_t>(blockIdx.x) * row_stride<T>(width), shared);
}

template <int KIND> __device__ inline float activation(float x) {
    if (KIND == LP_ACT_GELU_ERF) return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
    if (KIND == LP_ACT_SILU) return x / (1.0f + expf(-x));
    float u = 0.7978845608028654f * (x + 0.044715f * x * x * x);
    return x / (1.0f + expf(-2.0f * u));
}

template <int KIND> __device__ inline float4 activation(float4 x) {
    return make_float4(activation<KIND>(x.x), activation<KIND>(x.y), activation<KIND>(x.z), activation<KIND>(x.w));
}

__device__ inline float multiply(float x, float y) {
    return x * y;
}

__device__ inline float4 multiply(float4 x, float4 y) {
    return make_float4(x.x * y.x, x.y * y.y, x.z * y.z, x.w * y.w);
}

template <int KIND, typename T>
__device__ inline T activate_one(bool gated, const T *x, int64_t row, int32_t width, int32_t at) {
    const T *from = x + row * width * (gated ? 2 : 1) + at;
    T value = activation<KIND>(*from);
    return gated ? multiply(value, from[width]) : value;
}

template <int KIND, typename T>
__global__ void activate_kernel(bool gated, const T *x, int32_t n, int32_t width, T *y) {
    int32_t at = column();
    if (at >= width) return;
    for (int64_t row = blockIdx.y; row < n; row += gridDim.y)
        y[row * width + at] = activate_one<KIND>(gated, x, row, width, at);
}

struct alignas(8) bf16_four {
    __nv_bfloat162 low, high;
};

__device__ inline bf16_four round_four(float4 x) {
    bf16_four four;
    four.low = __floats2bfloat162_rn(x.x, x.y);
    four.high = __floats2bfloat162_rn(x.z, x.w);
    return four;
}

// y has zeros after its width.
template <int KIND>
__global__ void activate_bf16_kernel(bool gated, const float *x, int32_t n, int32_t width, int32_t stride,
                                     __nv_bfloat16 *y) {
    int32_t at = column();
    if (at >= stride) return;
    for (int64_t row = blockIdx.y; row < n; row += gridDim.y)
        store(y + row * stride + at, at < width ? activate_one<KIND>(gated, x, row, width, at) : 0.0f);
}

// The same for widths and strides in units of four.
template <int KIND>
__global__ void activate_bf16_fours_kernel(bool gated, const float4 *x, int32_t n, int32_t width, int32_t stride,
                                           bf16_four *y) {
    int32_t at = column();
    if (at >= stride) return;
    for (int64_t row = blockIdx.y; row < n; row += gridDim.y) {
        float4 value = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (at < width) value = activate_one<KIND>(gated, x, row, width, at);
        y[row * stride + at] = round_four(value);
    }
}

// One block a row, which needs its largest value before the first is written: each is computed twice.
template <int KIND> __global__ void activate_split_kernel(bool gated, const float *x, int32_t width, split_row *y) {
    __shared__ uint32_t shared[BLOCK];
    const int64_t row = blockIdx.x;
    split::block_operand([=](int32_t i) { return activate_one<KIND>(gated, x, row, width, i); }, width,
                         y + row * row_stride<split_row>(width), shared);
}

// remove, keep, swap: 5, 6, 7. at [LP_MAX_EDIT_DIRECTIONS], sums [BLOCK]: shared.
__device__ void edit_in_subspace(const lp_row_edit &edit, float *to, const float *vector, const float *directions,
                                 double *at, double *sums) {
    for (int32_t j = 0; j < edit.n_directions; j++) {
        const float *direction = directions + static_cast<int64_t>(j) * edit.width;
        double sum = 0;
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < edit.width; i += BLOCK) {
            double from = static_cast<double>(to[i]);
            if (edit.operation == 7) from -= static_cast<double>(vector[i]);
            sum += from * static_cast<double>(direction[i]);
        }
        double total = block_sum(sum, sums);
        if (threadIdx.x == 0) at[j] = total;
    }
    __syncthreads();
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < edit.width; i += BLOCK) {
        double part = 0;
        for (int32_t j = 0; j < edit.n_directions; j++)
            part += at[j] * static_cast<double>(directions[static_cast<int64_t>(j) * edit.width + i]);
        to[i] = static_cast<float>(edit.operation == 6 ? part : static_cast<double>(to[i]) - part);
    }
}

__global__ void edit_kernel(float *x, int32_t stride, const lp_row_edit *edits, const float *vectors) {
    lp_row_edit edit = edits[blockIdx.x];
    float *to = x + static_cast<int64_t>(edit.row) * stride + edit.offset;
    const float *vector = vectors + edit.vector;
    float f = edit.factor;
    __shared__ double at[LP_MAX_EDIT_DIRECTIONS], sums[BLOCK];
    if (edit.operation >= 5) {
        edit_in_subspace(edit, to, vector, vectors + edit.directions, at, sums);
        return;
    }
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < edit.width; i += BLOCK) {
        switch (edit.operation) {
        case 0: to[i] = vector[i]; break;
        case 1: to[i] = to[i] + f * vector[i]; break;
        case 2: to[i] = f * to[i]; break;
        default: to[i] = (1.0f - f) * to[i] + f * vector[i];
        }
    }
}

// values[0], places[0] = the largest value of all threads, ties to the lowest place; a place below 0 has none.
__device__ void block_best(float value, int32_t place, float *values, int32_t *places) {
    values[threadIdx.x] = value;
    places[threadIdx.x] = place;
    __syncthreads();
    for (unsigned half = BLOCK / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            float other = values[threadIdx.x + half];
            int32_t there = places[threadIdx.x + half], here = places[threadIdx.x];
            bool larger = other > values[threadIdx.x] || (other == values[threadIdx.x] && there < here);
            if (there >= 0 && (here < 0 || larger)) {
                values[threadIdx.x] = other;
                places[threadIdx.x] = there;
            }
        }
        __syncthreads();
    }
}

// NaN never wins, as on the cpu; a row without any other number gives 0.
__global__ void argmax_kernel(const float *logits, int32_t width, int32_t n_candidates, int32_t *best) {
    __shared__ float values[BLOCK];
    __shared__ int32_t places[BLOCK];
    const float *row = logits + static_cast<int64_t>(blockIdx.x) * width;
    float value = 0.0f;
    int32_t place = -1;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n_candidates; i += BLOCK) {
        float x = row[i];
        if (x > value || (place < 0 && x == x)) {
            value = x;
            place = i;
        }
    }
    block_best(value, place, values, places);
    if (threadIdx.x == 0) best[blockIdx.x] = places[0] < 0 ? 0 : places[0];
}

__global__ void save_kernel(const float *logits, float *saved, int32_t width, const lp_logit_query *reads) {
    const lp_logit_query read = reads[blockIdx.x];
    if (read.row < 0 || read.saved_row < 0) return;
    const float *from = logits + static_cast<int64_t>(read.row) * width;
    float *to = saved + static_cast<int64_t>(read.saved_row) * width;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += BLOCK) to[i] = from[i];
}

// log of the sum of exp(x), the same on all threads.
__device__ double block_log_sum_exp(const float *x, int32_t n, float *most_shared, double *shared) {
    float most = -INFINITY;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += BLOCK) most = fmaxf(most, x[i]);
    most = block_max(most, most_shared);
    double sum = 0.0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += BLOCK)
        sum = sum + exp(static_cast<double>(x[i]) - static_cast<double>(most));
    return static_cast<double>(most) + log(block_sum(sum, shared));
}

__global__ void read_kernel(const float *logits, const float *saved, int32_t width, int32_t n,
                            const lp_logit_query *reads, lp_logit_stats *out) {
    __shared__ float most_shared[BLOCK];
    __shared__ double shared[BLOCK];
    const lp_logit_query read = reads[blockIdx.x];
    const float *x = read.row >= 0 ? logits + static_cast<int64_t>(read.row) * width
                                   : saved + static_cast<int64_t>(read.saved_row) * width;
    const double nothing = nan("");
    double log_sum = block_log_sum_exp(x, n, most_shared, shared), kl = nothing;
    if (read.base >= 0) {
        const float *base = saved + static_cast<int64_t>(read.base) * width;
        double before = block_log_sum_exp(base, n, most_shared, shared), sum = 0.0;
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += BLOCK) {
            double p = static_cast<double>(base[i]) - before;
            sum = sum + exp(p) * (p - (static_cast<double>(x[i]) - log_sum));
        }
        kl = block_sum(sum, shared);
    }
    if (threadIdx.x > 0) return;
    lp_logit_stats stats;
    stats.log_sum = log_sum;
    stats.kl = kl;
    for (int k = 0; k < 2; k++) stats.logit[k] = read.token[k] >= 0 ? static_cast<double>(x[read.token[k]]) : nothing;
    out[blockIdx.x] = stats;
}

// Each pass over the row finds the next: the largest, lowest place first, of what comes after the one before.
__global__ void top_kernel(const float *logits, int32_t width, int32_t n_candidates, int32_t top, int32_t *tokens,
                           float *log_probability) {
    __shared__ float values[BLOCK];
    __shared__ int32_t places[BLOCK];
    __shared__ float most_shared[BLOCK];
    __shared__ double shared[BLOCK];
    const float *row = logits + static_cast<int64_t>(blockIdx.x) * width;
    const double log_sum = block_log_sum_exp(row, n_candidates, most_shared, shared);
    float before = INFINITY;
    int32_t before_place = -1;
    for (int32_t k = 0; k < top; k++) {
        float value = 0.0f;
        int32_t place = -1;
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n_candidates; i += BLOCK) {
            float x = row[i];
            bool is_behind = x < before || (x == before && i > before_place);
            if (is_behind && (place < 0 || x > value)) {
                value = x;
                place = i;
            }
        }
        block_best(value, place, values, places);
        before = values[0];
        before_place = places[0];
        if (threadIdx.x == 0) {
            const int64_t at = static_cast<int64_t>(blockIdx.x) * top + k;
            tokens[at] = before_place < 0 ? 0 : before_place;
            log_probability[at] =
                before_place < 0 ? nanf("") : static_cast<float>(static_cast<double>(before) - log_sum);
        }
        if (before_place < 0) before = -INFINITY;
        if (before_place < 0) before_place = n_candidates;
        __syncthreads();
    }
}

__global__ void capture_kernel(const float *x, int32_t stride, const lp_row_capture *captures, float *out) {
    const lp_row_capture capture = captures[blockIdx.x];
    const float *from = x + static_cast<int64_t>(capture.row) * stride + capture.offset;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < capture.width; i += BLOCK) out[capture.out + i] = from[i];
}

__global__ void pad_kernel(float *dst, int64_t dst_stride, const float *src, int64_t rows, int64_t width) {
    int64_t at = column();
    if (at >= dst_stride) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y)
        dst[row * dst_stride + at] = at < width ? src[row * width + at] : 0.0f;
}

__device__ inline int64_t source_of(const int32_t *src_rows, int64_t row) {
    return src_rows ? src_rows[row] : row;
}

__global__ void bf16_kernel(__nv_bfloat16 *dst, int64_t dst_stride, const float *src, const int32_t *src_rows,
                            int64_t rows, int64_t width) {
    int64_t at = column();
    if (at >= dst_stride) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y)
        dst[row * dst_stride + at] =
            __float2bfloat16_rn(at < width ? src[source_of(src_rows, row) * width + at] : 0.0f);
}

// The same for widths and strides in units of four.
__global__ void bf16_fours_kernel(bf16_four *dst, int64_t dst_stride, const float4 *src, const int32_t *src_rows,
                                  int64_t rows, int64_t width) {
    int64_t at = column();
    if (at >= dst_stride) return;
    for (int64_t row = blockIdx.y; row < rows; row += gridDim.y) {
        dst[row * dst_stride + at] =
            round_four(at < width ? src[source_of(src_rows, row) * width + at] : make_float4(0.0f, 0.0f, 0.0f, 0.0f));
    }
}

int32_t bf16_stride(int32_t width) {
    return (width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
}

template <typename T>
void start_norm(const float *x, const float *weight, const float *bias, float eps, int32_t n, int32_t width, T *y,
                cudaStream_t stream) {
    norm_kernel<T><<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(x, weight, bias, eps, width, y);
}

template <typename T>
void start_add_norm(float *x, const float *y, const float *weight, const float *bias, float eps, int32_t n,
                    int32_t width, T *h, cudaStream_t stream) {
    add_norm_kernel<T><<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(x, y, weight, bias, eps, width, h);
}

template <int KIND>
void start_bf16_activation(bool gated, const float *x, int32_t n, int32_t width, void *y, cudaStream_t stream) {
    const int32_t stride = bf16_stride(width);
    if (fours(x, width) && fours(y, stride))
        activate_bf16_fours_kernel<KIND><<<grid_for(n, stride / 4), BLOCK, 0, stream>>>(
            gated, reinterpret_cast<const float4 *>(x), n, width / 4, stride / 4, static_cast<bf16_four *>(y));
    else
        activate_bf16_kernel<KIND>
            <<<grid_for(n, stride), BLOCK, 0, stream>>>(gated, x, n, width, stride, static_cast<__nv_bfloat16 *>(y));
}

template <int KIND>
void start_activation(bool gated, const float *x, int32_t n, int32_t width, lp_cuda_form as, void *out,
                      cudaStream_t stream) {
    float *y = static_cast<float *>(out);
    if (as == LP_CUDA_AS_BF16)
        start_bf16_activation<KIND>(gated, x, n, width, out, stream);
    else if (as == LP_CUDA_AS_SPLIT)
        activate_split_kernel<KIND>
            <<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(gated, x, width, static_cast<split_row *>(out));
    else if (fours(x, width) && fours(y, width))
        activate_kernel<KIND><<<grid_for(n, width / 4), BLOCK, 0, stream>>>(
            gated, reinterpret_cast<const float4 *>(x), n, width / 4, reinterpret_cast<float4 *>(y));
    else
        activate_kernel<KIND><<<grid_for(n, width), BLOCK, 0, stream>>>(gated, x, n, width, y);
}

} // namespace

cudaError_t lp_cuda_copy_rows(float *dst, const int32_t *dst_rows, const float *src, const int32_t *src_rows, int32_t n,
                              int32_t width, cudaStream_t stream) {
    if (n == 0 || width == 0) return cudaSuccess;
    if (fours(dst, width) && fours(src, width))
        copy_kernel<<<grid_for(n, width / 4), BLOCK, 0, stream>>>(
            reinterpret_cast<float4 *>(dst), dst_rows, reinterpret_cast<const float4 *>(src), src_rows, n, width / 4);
    else
        copy_kernel<<<grid_for(n, width), BLOCK, 0, stream>>>(dst, dst_rows, src, src_rows, n, width);
    return cudaGetLastError();
}

cudaError_t lp_cuda_scale_columns(float *x, int32_t n, int32_t width, int32_t n_columns, const float *scale,
                                  cudaStream_t stream) {
    if (n == 0 || n_columns == 0) return cudaSuccess;
    scale_kernel<<<grid_for(n, n_columns), BLOCK, 0, stream>>>(x, n, width, n_columns, scale);
    return cudaGetLastError();
}

cudaError_t lp_cuda_add_rows(float *x, const float *y, const int32_t *y_rows, int32_t n, int32_t width,
                             cudaStream_t stream) {
    if (n == 0 || width == 0) return cudaSuccess;
    if (fours(x, width) && fours(y, width))
        add_kernel<<<grid_for(n, width / 4), BLOCK, 0, stream>>>(
            reinterpret_cast<float4 *>(x), reinterpret_cast<const float4 *>(y), y_rows, n, width / 4);
    else
        add_kernel<<<grid_for(n, width), BLOCK, 0, stream>>>(x, y, y_rows, n, width);
    return cudaGetLastError();
}

cudaError_t lp_cuda_norm(const float *x, const float *weight, const float *bias, float eps, int32_t n, int32_t width,
                         lp_cuda_form as, void *y, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    switch (as) {
    case LP_CUDA_AS_BF16: start_norm(x, weight, bias, eps, n, width, static_cast<__nv_bfloat16 *>(y), stream); break;
    case LP_CUDA_AS_SPLIT: start_norm(x, weight, bias, eps, n, width, static_cast<split_row *>(y), stream); break;
    default: start_norm(x, weight, bias, eps, n, width, static_cast<float *>(y), stream);
    }
    return cudaGetLastError();
}

cudaError_t lp_cuda_norm_heads(float *qkv, int64_t stride, int32_t n, int32_t q_heads, int32_t kv_heads, int32_t width,
                               const float *q_weight, const float *k_weight, float eps, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>(q_heads + kv_heads));
    norm_heads_kernel<<<grid, BLOCK, 0, stream>>>(qkv, stride, q_heads, width, q_weight, k_weight, eps);
    return cudaGetLastError();
}

cudaError_t lp_cuda_add_norm(float *x, const float *y, const float *weight, const float *bias, float eps, int32_t n,
                             int32_t width, lp_cuda_form as, void *h, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    switch (as) {
    case LP_CUDA_AS_BF16:
        start_add_norm(x, y, weight, bias, eps, n, width, static_cast<__nv_bfloat16 *>(h), stream);
        break;
    case LP_CUDA_AS_SPLIT:
        start_add_norm(x, y, weight, bias, eps, n, width, static_cast<split_row *>(h), stream);
        break;
    default: start_add_norm(x, y, weight, bias, eps, n, width, static_cast<float *>(h), stream);
    }
    return cudaGetLastError();
}

cudaError_t lp_cuda_activate(lp_activation kind, bool gated, const float *x, int32_t n, int32_t width, lp_cuda_form as,
                             void *y, cudaStream_t stream) {
    if (n == 0 || width == 0) return cudaSuccess;
    switch (kind) {
    case LP_ACT_GELU_TANH: start_activation<LP_ACT_GELU_TANH>(gated, x, n, width, as, y, stream); break;
    case LP_ACT_GELU_ERF: start_activation<LP_ACT_GELU_ERF>(gated, x, n, width, as, y, stream); break;
    default: start_activation<LP_ACT_SILU>(gated, x, n, width, as, y, stream);
    }
    return cudaGetLastError();
}

cudaError_t lp_cuda_edit_rows(float *x, int32_t stride, const lp_row_edit *edits, int32_t n, const float *vectors,
                              cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    edit_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(x, stride, edits, vectors);
    return cudaGetLastError();
}

cudaError_t lp_cuda_argmax(const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t *best,
                           cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    argmax_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(logits, width, n_candidates, best);
    return cudaGetLastError();
}

cudaError_t lp_cuda_top(const float *logits, int32_t n, int32_t width, int32_t n_candidates, int32_t top,
                        int32_t *tokens, float *log_probability, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    top_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(logits, width, n_candidates, top, tokens,
                                                               log_probability);
    return cudaGetLastError();
}

cudaError_t lp_cuda_read_logits(const float *logits, float *saved, int32_t width, int32_t n_candidates,
                                const lp_logit_query *reads, int32_t n, lp_logit_stats *out, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    save_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(logits, saved, width, reads);
    cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) return error;
    read_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(logits, saved, width, n_candidates, reads, out);
    return cudaGetLastError();
}

cudaError_t lp_cuda_capture_rows(const float *x, int32_t stride, const lp_row_capture *captures, int32_t n, float *out,
                                 cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    capture_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(x, stride, captures, out);
    return cudaGetLastError();
}

cudaError_t lp_cuda_pad_rows(float *dst, int64_t dst_stride, const float *src, int64_t rows, int64_t width,
                             cudaStream_t stream) {
    if (rows == 0) return cudaSuccess;
    pad_kernel<<<grid_for(rows, dst_stride), BLOCK, 0, stream>>>(dst, dst_stride, src, rows, width);
    return cudaGetLastError();
}

cudaError_t lp_cuda_to_bf16(void *dst, int64_t dst_stride, const float *src, const int32_t *src_rows, int64_t rows,
                            int64_t width, cudaStream_t stream) {
    if (rows == 0) return cudaSuccess;
    if (fours(src, width) && fours(dst, dst_stride))
        bf16_fours_kernel<<<grid_for(rows, dst_stride / 4), BLOCK, 0, stream>>>(
            static_cast<bf16_four *>(dst), dst_stride / 4, reinterpret_cast<const float4 *>(src), src_rows, rows,
            width / 4);
    else
        bf16_kernel<<<grid_for(rows, dst_stride), BLOCK, 0, stream>>>(static_cast<__nv_bfloat16 *>(dst), dst_stride,
                                                                      src, src_rows, rows, width);
    return cudaGetLastError();
}
