// Rotary embedding, the KV pool, and attention of ragged rows over [shared prompt + own tail].
//
// A block takes the queries (row x query head) of one KV head of up to 32 / group rows that share a prompt, and walks
// over positions in tiles of 32: position = lane. The prompt's keys and values of a tile are read once into shared
// memory for all the block's queries; each warp has eight queries. Softmax is the running one (maximum, sum and
// weighted values rescaled from tile to tile; Milakov and Gimelshein, "Online normalizer calculation for softmax").
//
// What a row sees is one sequence, prompt then tail; tiles are cut at multiples of 32 of that sequence, and every
// operation on a tile is the same wherever its keys come from. So a row's bits depend neither on its company nor on
// where its prompt ends and its tail begins.
#include "backend/cuda/kernels.h"

#include <cuda_bf16.h>

namespace {

constexpr int WARPS = 4, PER_WARP = 8, TILE = 32;
constexpr int BLOCK = WARPS * 32, QUERIES = WARPS * PER_WARP;
static_assert(QUERIES == LP_CUDA_MAX_QUERIES, "a KV head's queries fit one block");
constexpr unsigned ALL = 0xffffffffu;

// Floats between rows of a tile in shared memory: a multiple of 4 for vector loads, and such that the 32 lanes' vectors
// of one column lie in different banks.
__host__ __device__ constexpr int stride_of(int head_dim) {
    return (head_dim + 3) / 4 * 4 + 4;
}

template <bool ALIGNED> __device__ inline float4 load_four(const float *p, int32_t at, int32_t head_dim) {
    if (ALIGNED) return *reinterpret_cast<const float4 *>(p + at);
    return make_float4(p[at], at + 1 < head_dim ? p[at + 1] : 0.0f, at + 2 < head_dim ? p[at + 2] : 0.0f,
                       at + 3 < head_dim ? p[at + 3] : 0.0f);
}

// Four partial sums, one per place in the vectors.
__device__ inline void multiply_add(float4 &sum, float4 a, float4 b) {
    sum.x = fmaf(a.x, b.x, sum.x);
    sum.y = fmaf(a.y, b.y, sum.y);
    sum.z = fmaf(a.z, b.z, sum.z);
    sum.w = fmaf(a.w, b.w, sum.w);
}

__device__ inline float warp_max(float x) {
    for (int half = 16; half > 0; half /= 2) x = fmaxf(x, __shfl_xor_sync(ALL, x, half));
    return x;
}

__device__ inline float warp_sum(float x) {
    for (int half = 16; half > 0; half /= 2) x = x + __shfl_xor_sync(ALL, x, half);
    return x;
}

// A query on its way: what the tiles so far came to. CHUNKS x 32 >= head_dim; lane l holds elements l, l + 32, ...
template <int CHUNKS> struct running { float most, total, value[CHUNKS]; };

// Takes one tile's scores in (one per lane; -inf: no position there) and returns the lane's weight.
template <int CHUNKS> __device__ inline float take_scores(running<CHUNKS> &run, float score) {
    float most = fmaxf(run.most, warp_max(score));
    float weight = expf(score - most), rescale = expf(run.most - most);
    run.total = run.total * rescale + warp_sum(weight);
    run.most = most;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) run.value[c] = run.value[c] * rescale;
    return weight;
}

template <int CHUNKS, bool ALIGNED>
__global__ void __launch_bounds__(BLOCK)
    attend_kernel(lp_cuda_attention a, const float *qkv, int32_t n, int32_t group, int32_t parts, float *out) {
    extern __shared__ float4 shared_memory[];
    const int32_t hd = a.head_dim, stride = stride_of(hd), rows_per_block = QUERIES / group;
    float *keys = reinterpret_cast<float *>(shared_memory); // [TILE, stride]
    float *values = keys + TILE * stride;                   // [TILE, stride]
    float *queries = values + TILE * stride;                // [QUERIES, stride]
    float *weights = queries + QUERIES * stride;            // [QUERIES, TILE]
    const float *pool_keys = static_cast<const float *>(a.keys), *pool_values = static_cast<const float *>(a.values);
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, warp = static_cast<int32_t>(threadIdx.x) / 32;
    const int32_t head = static_cast<int32_t>(blockIdx.y);
    const int32_t g = static_cast<int32_t>(blockIdx.x) / parts, part = static_cast<int32_t>(blockIdx.x) % parts;
    const int32_t begin = (a.rows.group_row ? a.rows.group_begin[g] : g) + part * rows_per_block;
    const int32_t end = a.rows.group_row ? a.rows.group_begin[g + 1] : g + 1;
    const int64_t q_width = static_cast<int64_t>(a.n_heads) * hd,
                  qkv_width = q_width + 2 * static_cast<int64_t>(a.width);

    // Rows ascend within a group: those of this block that are in the batch so far come first.
    int32_t n_rows = 0;
    while (n_rows < rows_per_block && begin + n_rows < end &&
           (a.rows.group_row ? a.rows.group_row[begin + n_rows] : begin + n_rows) < n)
        n_rows++;
    if (n_rows == 0) return;
    const int32_t n_queries = n_rows * group, n_mine = n_queries - warp * PER_WARP;

    int32_t row[PER_WARP];
    running<CHUNKS> run[PER_WARP];
    int32_t whole = INT32_MAX; // positions that every query of this warp finds in the prompt
    int32_t longest = 0;
#pragma unroll
    for (int i = 0; i < PER_WARP; i++) {
        int32_t query = warp * PER_WARP + i;
        bool used = query < n_queries;
        int32_t at = begin + (used ? query / group : 0);
        row[i] = a.rows.group_row ? a.rows.group_row[at] : at;
        const int32_t in_prompt = used ? a.rows.prompt_length[row[i]] : INT32_MAX;
        const int32_t length = used ? in_prompt + a.rows.tail_length[row[i]] : 0;
        if (in_prompt < whole) whole = in_prompt;
        if (length > longest) longest = length;
        run[i].most = -INFINITY;
        run[i].total = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) run[i].value[c] = 0.0f;
    }
    // Over the whole block: the longest row, and the prompt positions that somebody reads from shared memory.
    int32_t block_longest = 0, block_prompt = 0, prompt_begin = 0;
    for (int32_t r = 0; r < n_rows; r++) {
        int32_t at = a.rows.group_row ? a.rows.group_row[begin + r] : begin + r;
        int32_t in_prompt = a.rows.prompt_length[at], all = in_prompt + a.rows.tail_length[at];
        if (r == 0) prompt_begin = a.rows.prompt_begin[at];
        if (in_prompt > block_prompt) block_prompt = in_prompt;
        if (all > block_longest) block_longest = all;
    }
    const float scale = 1.0f / sqrtf(static_cast<float>(hd));

    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n_queries * stride; i += BLOCK) {
        int32_t query = i / stride, at = i - query * stride;
        int32_t r = begin + query / group;
        int64_t from = (a.rows.group_row ? a.rows.group_row[r] : r) * qkv_width +
                       (static_cast<int64_t>(head) * group + query % group) * hd;
        queries[i] = at < hd ? qkv[from + at] : 0.0f;
    }

    for (int32_t base = 0; base < block_longest; base += TILE) {
        const bool staged = base + TILE <= block_prompt;
        __syncthreads();
        if (staged) {
            for (int32_t position = warp; position < TILE; position += WARPS) {
                int64_t from =
                    static_cast<int64_t>(prompt_begin + base + position) * a.width + static_cast<int64_t>(head) * hd;
                for (int32_t at = 4 * lane; at < stride - 4; at += 128) {
                    *reinterpret_cast<float4 *>(keys + position * stride + at) =
                        load_four<ALIGNED>(pool_keys + from, at, hd);
                    *reinterpret_cast<float4 *>(values + position * stride + at) =
                        load_four<ALIGNED>(pool_values + from, at, hd);
                }
            }
        }
        __syncthreads();
        if (base >= longest) continue;
        if (staged && base + TILE <= whole) {
            float4 sum[PER_WARP];
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) sum[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            for (int32_t d = 0; d < hd; d += 4) {
                float4 key = *reinterpret_cast<const float4 *>(keys + lane * stride + d);
#pragma unroll
                for (int i = 0; i < PER_WARP; i++)
                    if (i < n_mine)
                        multiply_add(sum[i],
                                     *reinterpret_cast<const float4 *>(queries + (warp * PER_WARP + i) * stride + d),
                                     key);
            }
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) {
                if (i >= n_mine) continue;
                float score = ((sum[i].x + sum[i].y) + (sum[i].z + sum[i].w)) * scale;
                weights[(warp * PER_WARP + i) * TILE + lane] = take_scores(run[i], score);
            }
            __syncwarp();
            for (int32_t p = 0; p < TILE; p += 4) {
                float4 four[PER_WARP];
#pragma unroll
                for (int i = 0; i < PER_WARP; i++)
                    four[i] = *reinterpret_cast<const float4 *>(weights + (warp * PER_WARP + i) * TILE + p);
#pragma unroll
                for (int c = 0; c < CHUNKS; c++) {
                    int32_t d = lane + 32 * c;
                    if (d >= hd) continue;
                    const float *value = values + p * stride + d;
#pragma unroll
                    for (int i = 0; i < PER_WARP; i++) {
                        float sum = fmaf(four[i].x, value[0], run[i].value[c]);
                        sum = fmaf(four[i].y, value[stride], sum);
                        sum = fmaf(four[i].z, value[2 * stride], sum);
                        run[i].value[c] = fmaf(four[i].w, value[3 * stride], sum);
                    }
                }
            }
            __syncwarp();
            continue;
        }
        // Row by row: a key or value is read once for all query heads of its row.
        for (int32_t first = warp * PER_WARP, behind; first < n_queries && first < (warp + 1) * PER_WARP;
             first = behind) {
            const int32_t r = first / group;
            behind = (r + 1) * group;
            const int32_t this_row = a.rows.group_row ? a.rows.group_row[begin + r] : begin + r;
            const int32_t in_prompt = a.rows.prompt_length[this_row], all = in_prompt + a.rows.tail_length[this_row];
            if (base >= all) continue;
            const int32_t position = base + lane;
            const bool there = position < all;
            int64_t slot = 0;
            if (there)
                slot = position < in_prompt ? a.rows.prompt_begin[this_row] + position
                                            : a.rows.tail[a.rows.tail_begin[this_row] + position - in_prompt];
            const int64_t head_at = static_cast<int64_t>(head) * hd;
            const float *key = pool_keys + slot * a.width + head_at;
            float4 sum[PER_WARP];
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) sum[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            if (there)
                for (int32_t d = 0; d < hd; d += 4) {
                    const float4 four = load_four<ALIGNED>(key, d, hd);
#pragma unroll
                    for (int i = 0; i < PER_WARP; i++) {
                        const int32_t query = warp * PER_WARP + i;
                        if (query >= first && query < behind)
                            multiply_add(sum[i], *reinterpret_cast<const float4 *>(queries + query * stride + d), four);
                    }
                }
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) {
                const int32_t query = warp * PER_WARP + i;
                if (query < first || query >= behind) continue;
                const float score = there ? ((sum[i].x + sum[i].y) + (sum[i].z + sum[i].w)) * scale : -INFINITY;
                weights[query * TILE + lane] = take_scores(run[i], score);
            }
            __syncwarp();
            const int32_t in_tile = all - base < TILE ? all - base : TILE;
#pragma unroll 4
            for (int32_t p = 0; p < in_tile; p++) {
                const int64_t from = __shfl_sync(ALL, slot, p) * a.width + head_at;
#pragma unroll
                for (int c = 0; c < CHUNKS; c++) {
                    const int32_t d = lane + 32 * c;
                    const float value = d < hd ? pool_values[from + d] : 0.0f;
#pragma unroll
                    for (int i = 0; i < PER_WARP; i++) {
                        const int32_t query = warp * PER_WARP + i;
                        if (query >= first && query < behind)
                            run[i].value[c] = fmaf(weights[query * TILE + p], value, run[i].value[c]);
                    }
                }
            }
            __syncwarp();
        }
    }
#pragma unroll
    for (int i = 0; i < PER_WARP; i++) {
        int32_t query = warp * PER_WARP + i;
        if (query >= n_queries) continue;
        float *to = out + row[i] * q_width + (static_cast<int64_t>(head) * group + query % group) * hd;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            int32_t d = lane + 32 * c;
            if (d < hd) to[d] = run[i].value[c] / run[i].total;
        }
    }
}

// One warp for one query head of a choice: the operations of attend_kernel on a row that sees only a tail.
template <int CHUNKS, bool ALIGNED>
__global__ void __launch_bounds__(32) chosen_kernel(lp_cuda_attention a, const float *qkv, const lp_row_choice *choices,
                                                    const int32_t *slots, float *out) {
    __shared__ float4 query_memory[32 * CHUNKS / 4 + 1];
    __shared__ float weights[TILE];
    float *query = reinterpret_cast<float *>(query_memory);
    const lp_row_choice choice = choices[blockIdx.x];
    const int32_t lane = static_cast<int32_t>(threadIdx.x), hd = a.head_dim;
    if (static_cast<int32_t>(blockIdx.y) >= choice.n_heads) return;
    const int32_t head = choice.first_head + static_cast<int32_t>(blockIdx.y);
    const int64_t q_width = static_cast<int64_t>(a.n_heads) * hd, head_at = head / (a.n_heads / a.n_kv_heads) * hd;
    const float *from =
        qkv + choice.row * (q_width + 2 * static_cast<int64_t>(a.width)) + static_cast<int64_t>(head) * hd;
    for (int32_t at = lane; at < (hd + 3) / 4 * 4; at += 32) query[at] = at < hd ? from[at] : 0.0f;
    __syncwarp();
    const float scale = 1.0f / sqrtf(static_cast<float>(hd));
    running<CHUNKS> run;
    run.most = -INFINITY;
    run.total = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) run.value[c] = 0.0f;
    for (int32_t base = 0; base < choice.length; base += TILE) {
        const bool there = base + lane < choice.length;
        const int64_t slot = there ? slots[choice.begin + base + lane] : 0;
        const float *key = static_cast<const float *>(a.keys) + slot * a.width + head_at;
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (there)
            for (int32_t d = 0; d < hd; d += 4)
                multiply_add(sum, *reinterpret_cast<const float4 *>(query + d), load_four<ALIGNED>(key, d, hd));
        weights[lane] = take_scores(run, there ? ((sum.x + sum.y) + (sum.z + sum.w)) * scale : -INFINITY);
        __syncwarp();
        const int32_t in_tile = choice.length - base < TILE ? choice.length - base : TILE;
        for (int32_t p = 0; p < in_tile; p++) {
            const float *value = static_cast<const float *>(a.values) + __shfl_sync(ALL, slot, p) * a.width + head_at;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                const int32_t d = lane + 32 * c;
                run.value[c] = fmaf(weights[p], d < hd ? value[d] : 0.0f, run.value[c]);
            }
        }
        __syncwarp();
    }
    float *to = out + choice.row * q_width + static_cast<int64_t>(head) * hd;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        const int32_t d = lane + 32 * c;
        if (d < hd) to[d] = run.value[c] / run.total;
    }
}

__global__ void store_kernel(lp_cuda_attention a, float *qkv, const float *cosine, const float *sine) {
    const int32_t hd = a.head_dim, half = hd / 2, row = static_cast<int32_t>(blockIdx.x);
    const int64_t q_width = static_cast<int64_t>(a.n_heads) * hd;
    float *from = qkv + row * (q_width + 2 * static_cast<int64_t>(a.width));
    const int64_t at_slot = static_cast<int64_t>(a.rows.slot[row]) * a.slot_bytes;
    if (cosine) {
        const float *c = cosine + static_cast<int64_t>(a.rows.position[row]) * half;
        const float *s = sine + static_cast<int64_t>(a.rows.position[row]) * half;
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < (a.n_heads + a.n_kv_heads) * half; i += BLOCK) {
            int32_t head = i / half, at = i - head * half;
            float *x = from + static_cast<int64_t>(head) * hd + at;
            float first = x[0], second = x[half];
            x[0] = first * c[at] - second * s[at];
            x[half] = second * c[at] + first * s[at];
        }
        __syncthreads();
    }
    const float *kv = from + q_width;
    if (a.is_bf16) {
        __nv_bfloat16 *key = reinterpret_cast<__nv_bfloat16 *>(static_cast<char *>(a.keys) + at_slot);
        __nv_bfloat16 *value = reinterpret_cast<__nv_bfloat16 *>(static_cast<char *>(a.values) + at_slot);
        const int32_t width = (hd + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
        for (int32_t i = static_cast<int32_t>(threadIdx.x); i < a.n_kv_heads * width; i += BLOCK) {
            const int32_t head = i / width, at = i - head * width;
            key[i] = __float2bfloat16_rn(at < hd ? kv[head * hd + at] : 0.0f);
            value[i] = __float2bfloat16_rn(at < hd ? kv[a.width + head * hd + at] : 0.0f);
        }
        return;
    }
    float *key = reinterpret_cast<float *>(static_cast<char *>(a.keys) + at_slot);
    float *value = reinterpret_cast<float *>(static_cast<char *>(a.values) + at_slot);
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < a.width; i += BLOCK) {
        key[i] = kv[i];
        value[i] = kv[a.width + i];
    }
}

// In words of four bytes.
__global__ void copy_kernel(uint32_t *keys, uint32_t *values, int32_t words, const int32_t *from, const int32_t *to) {
    const int64_t source = static_cast<int64_t>(from[blockIdx.x]) * words;
    const int64_t target = static_cast<int64_t>(to[blockIdx.x]) * words;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < words; i += BLOCK) {
        keys[target + i] = keys[source + i];
        values[target + i] = values[source + i];
    }
}

template <int CHUNKS, bool ALIGNED>
cudaError_t start_attend(const lp_cuda_attention &a, const float *qkv, int32_t n, float *out, cudaStream_t stream) {
    const int32_t group = a.n_heads / a.n_kv_heads, rows_per_block = QUERIES / group;
    // Blocks beyond a group's rows end at once.
    const int32_t parts = a.rows.group_row ? (LP_GROUP_ROWS + rows_per_block - 1) / rows_per_block : 1;
    const size_t floats =
        static_cast<size_t>(2 * TILE + QUERIES) * static_cast<size_t>(stride_of(a.head_dim)) + QUERIES * TILE;
    const size_t bytes = floats * sizeof(float);
    if (bytes > 48 * 1024) {
        cudaError_t error = cudaFuncSetAttribute(reinterpret_cast<const void *>(attend_kernel<CHUNKS, ALIGNED>),
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
        if (error != cudaSuccess) return error;
    }
    const dim3 grid(static_cast<unsigned>((a.rows.group_row ? a.rows.n_groups : n) * parts),
                    static_cast<unsigned>(a.n_kv_heads));
    attend_kernel<CHUNKS, ALIGNED><<<grid, BLOCK, bytes, stream>>>(a, qkv, n, group, parts, out);
    return cudaGetLastError();
}

bool is_aligned(const lp_cuda_attention &a) {
    return a.head_dim % 4 == 0 && reinterpret_cast<uintptr_t>(a.keys) % 16 == 0;
}

template <int CHUNKS>
cudaError_t choose_alignment(const lp_cuda_attention &a, const float *qkv, int32_t n, float *out, cudaStream_t stream) {
    return is_aligned(a) ? start_attend<CHUNKS, true>(a, qkv, n, out, stream)
                         : start_attend<CHUNKS, false>(a, qkv, n, out, stream);
}

template <int CHUNKS>
cudaError_t start_chosen(const lp_cuda_attention &a, const float *qkv, const lp_row_choice *choices, int32_t n,
                         int32_t most_heads, const int32_t *slots, float *out, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>(most_heads));
    if (is_aligned(a))
        chosen_kernel<CHUNKS, true><<<grid, 32, 0, stream>>>(a, qkv, choices, slots, out);
    else
        chosen_kernel<CHUNKS, false><<<grid, 32, 0, stream>>>(a, qkv, choices, slots, out);
    return cudaGetLastError();
}

} // namespace

cudaError_t lp_cuda_store_kv(const lp_cuda_attention *attention, float *qkv, int32_t n, const float *cosine,
                             const float *sine, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    store_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(*attention, qkv, cosine, sine);
    return cudaGetLastError();
}

cudaError_t lp_cuda_copy_kv(void *keys, void *values, int64_t slot_bytes, const int32_t *from, const int32_t *to,
                            int32_t n, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    copy_kernel<<<static_cast<unsigned>(n), BLOCK, 0, stream>>>(
        static_cast<uint32_t *>(keys), static_cast<uint32_t *>(values), static_cast<int32_t>(slot_bytes / 4), from, to);
    return cudaGetLastError();
}

cudaError_t lp_cuda_attend(const lp_cuda_attention *attention, const float *qkv, int32_t n, float *out,
                           cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    if (attention->head_dim <= 32) return choose_alignment<1>(*attention, qkv, n, out, stream);
    if (attention->head_dim <= 64) return choose_alignment<2>(*attention, qkv, n, out, stream);
    if (attention->head_dim <= 128) return choose_alignment<4>(*attention, qkv, n, out, stream);
    return choose_alignment<8>(*attention, qkv, n, out, stream);
}

cudaError_t lp_cuda_attend_chosen(const lp_cuda_attention *attention, const float *qkv, const lp_row_choice *choices,
                                  int32_t n, int32_t most_heads, const int32_t *slots, float *out,
                                  cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    if (attention->head_dim <= 32) return start_chosen<1>(*attention, qkv, choices, n, most_heads, slots, out, stream);
    if (attention->head_dim <= 64) return start_chosen<2>(*attention, qkv, choices, n, most_heads, slots, out, stream);
    if (attention->head_dim <= 128) return start_chosen<4>(*attention, qkv, choices, n, most_heads, slots, out, stream);
    return start_chosen<8>(*attention, qkv, choices, n, most_heads, slots, out, stream);
}
