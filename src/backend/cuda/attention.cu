// Rotary embedding, the KV pool, and attention of ragged rows over [shared prompt + own tail] in float32.
//
// A block takes the queries (row x query head) of one KV head of up to 64 / group rows that share a prompt, eight of
// them a warp, and walks over positions in tiles of 32: position = lane. A tile of the prompt is copied once into
// shared memory for all the block's queries. A tile that reaches into the tail is taken row by row: a warp copies the
// tile's keys, then its values, 32 numbers of each position at a time, so that eight lanes read the 128 bytes of a
// position that lie together. All copies are asynchronous and of 16 bytes where heads are a multiple of 4 wide. Softmax
// is the running one (maximum, sum and weighted values rescaled from tile to tile; Milakov and Gimelshein, "Online
// normalizer calculation for softmax").
//
// What a row sees is one sequence, prompt then tail; tiles are cut at multiples of 32 of that sequence, and every
// operation on a tile is the same wherever its keys come from. So a row's bits depend neither on its company nor on
// where its prompt ends and its tail begins.
//
// Results are floats, or split operands of the output projection (split.cuh), whose powers of two need all heads of a
// row, which different blocks have. Each block then leaves its floats in the place of the queries that it has read, and
// counts itself for its rows; the one that is last to do so splits the rows, which are in the device's cache still. It
// waits for nobody, and the largest of a row's numbers does not depend on who comes last.
//
// Compiled for heads of 64 and sm_90: 128 registers, 292 bytes spilled, 80 KB of shared memory for a block of 256
// threads, so two blocks a multiprocessor (an H100 has 228 KB, an A100 164). Expected, not measured, on an H100 at
// 4,096 rows of LLaMA-1B (70 + 20 positions, 395 us before): 335 MB of keys and values of tails, 100 us at 3.35 TB/s.
#include "backend/cuda/split.cuh"

#include <cuda_bf16.h>

namespace {

constexpr int MOST_WARPS = 8, PER_WARP = 8, TILE = 32;
constexpr int BLOCK = 128; // of the kernels that do not multiply
static_assert(LP_CUDA_MAX_QUERIES <= MOST_WARPS * PER_WARP, "a KV head's queries fit one block");
constexpr unsigned ALL = 0xffffffffu;

// Floats between rows of a tile in shared memory: a multiple of 4 for vector loads, and such that the 32 lanes' vectors
// of one column lie in different banks.
__host__ __device__ constexpr int stride_of(int head_dim) {
    return (head_dim + 3) / 4 * 4 + 4;
}
constexpr int PART = 32, PART_STRIDE = PART + 4; // numbers of a position that a warp copies at a time

// Of a block's prompt tile, and of what each warp has: queries, weights, a part of a tile.
__host__ __device__ constexpr int tile_floats(int head_dim) {
    return 2 * TILE * stride_of(head_dim);
}
__host__ __device__ constexpr int warp_floats(int head_dim) {
    return PER_WARP * stride_of(head_dim) + PER_WARP * TILE + TILE * PART_STRIDE;
}

// Begins to copy 16 bytes into shared memory; copies_done waits for all that this thread began.
__device__ inline void copy_sixteen(float *to, const float *from) {
#if defined(LP_TESTS_CUDA_EMULATOR_DEVICE_H)
    emulator::copy_later(to, from, 16);
#elif defined(__CUDA_ARCH__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(static_cast<unsigned>(__cvta_generic_to_shared(to))),
                 "l"(from)
                 : "memory");
#endif
}

__device__ inline void copies_done() {
#if defined(LP_TESTS_CUDA_EMULATOR_DEVICE_H)
    emulator::copy_now();
#elif defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

template <bool ALIGNED> __device__ inline float4 load_four(const float *p, int32_t at, int32_t head_dim) {
    if (ALIGNED) return *reinterpret_cast<const float4 *>(p + at);
    return make_float4(p[at], at + 1 < head_dim ? p[at + 1] : 0.0f, at + 2 < head_dim ? p[at + 2] : 0.0f,
                       at + 3 < head_dim ? p[at + 3] : 0.0f);
}

// to [4] = numbers at .. at + 3 of a head, zeros after its end.
template <bool ALIGNED> __device__ inline void copy_four(float *to, const float *head, int32_t at, int32_t head_dim) {
    if (ALIGNED)
        copy_sixteen(to, head + at);
    else
        *reinterpret_cast<float4 *>(to) = load_four<false>(head, at, head_dim);
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

__device__ inline int32_t row_at(const lp_cuda_attention &a, int32_t at) {
    return a.rows.group_row ? a.rows.group_row[at] : at;
}

// part [TILE, PART_STRIDE] = numbers 32 c .. of the head at `pool` of all lanes' slots, where `there`.
template <bool ALIGNED>
__device__ inline void copy_part(float *part, const float *pool, int64_t slot, bool there, int32_t width, int c,
                                 int32_t head_dim) {
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, at = 4 * (lane % 8);
    __syncwarp(); // all have read what was there
#pragma unroll
    for (int32_t first = 0; first < TILE; first += 4) {
        const int32_t position = first + lane / 8;
        const int64_t from = __shfl_sync(ALL, slot, position);
        const bool wanted = __shfl_sync(ALL, static_cast<int>(there), position) && PART * c + at < head_dim;
        if (wanted)
            copy_four<ALIGNED>(part + position * PART_STRIDE + at, pool + from * width, PART * c + at, head_dim);
    }
    copies_done();
    __syncwarp();
}

// The rows of a block, whose floats lie in the place of their queries, as split operands; a row by warp.
template <bool ALIGNED>
__device__ void split_rows(const lp_cuda_attention &a, const float *qkv, int64_t qkv_width, int32_t q_width,
                           int32_t begin, int32_t n_rows, char *out) {
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / 32, warps = static_cast<int32_t>(blockDim.x) / 32;
    for (int32_t r = warp; r < n_rows; r += warps) {
        const int64_t row = row_at(a, begin + r);
        const float *from = qkv + row * qkv_width;
        char *to = out + row * split::operand_bytes(q_width);
        if (ALIGNED)
            split::warp_operand_fours([=](int32_t i) { return __ldcg(reinterpret_cast<const float4 *>(from + i)); },
                                      q_width, to);
        else
            split::warp_operand([=](int32_t i) { return __ldcg(from + i); }, q_width, to);
    }
}

template <int CHUNKS, bool ALIGNED>
__global__ void __launch_bounds__(MOST_WARPS * 32, CHUNKS <= 2 ? 2 : 1)
    attend_kernel(lp_cuda_attention a, float *qkv, int32_t n, int32_t group, int32_t rows_per_block, int32_t parts,
                  lp_cuda_attended to) {
    extern __shared__ float4 shared_memory[];
    const int32_t hd = a.head_dim, stride = stride_of(hd);
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, warp = static_cast<int32_t>(threadIdx.x) / 32;
    const int32_t warps = static_cast<int32_t>(blockDim.x) / 32;
    float *keys = reinterpret_cast<float *>(shared_memory);           // [TILE, stride]
    float *values = keys + TILE * stride;                             // [TILE, stride]
    float *queries = keys + tile_floats(hd) + warp * warp_floats(hd); // [PER_WARP, stride]
    float *weights = queries + PER_WARP * stride;                     // [PER_WARP, TILE]
    float *part_of_tile = weights + PER_WARP * TILE;                  // [TILE, PART_STRIDE]
    const int32_t head = static_cast<int32_t>(blockIdx.y);
    const int64_t head_at = static_cast<int64_t>(head) * hd;
    const float *pool_keys = static_cast<const float *>(a.keys) + head_at,
                *pool_values = static_cast<const float *>(a.values) + head_at;
    const int32_t g = static_cast<int32_t>(blockIdx.x) / parts, part = static_cast<int32_t>(blockIdx.x) % parts;
    const int32_t begin = (a.rows.group_row ? a.rows.group_begin[g] : g) + part * rows_per_block;
    const int32_t end = a.rows.group_row ? a.rows.group_begin[g + 1] : g + 1;
    const int64_t q_width = static_cast<int64_t>(a.n_heads) * hd,
                  qkv_width = q_width + 2 * static_cast<int64_t>(a.width);

    // Rows ascend within a group: those of this block that are in the batch so far come first.
    int32_t n_rows = 0, block_longest = 0, block_prompt = 0, prompt_begin = 0;
    for (; n_rows < rows_per_block && begin + n_rows < end && row_at(a, begin + n_rows) < n; n_rows++) {
        const int32_t at = row_at(a, begin + n_rows), in_prompt = a.rows.prompt_length[at];
        const int32_t all = in_prompt + a.rows.tail_length[at];
        if (n_rows == 0) prompt_begin = a.rows.prompt_begin[at];
        if (in_prompt > block_prompt) block_prompt = in_prompt;
        if (all > block_longest) block_longest = all;
    }
    if (n_rows == 0) return;
    const int32_t n_queries = n_rows * group, first_query = warp * PER_WARP, n_mine = n_queries - first_query;

    running<CHUNKS> run[PER_WARP];
    int32_t whole = INT32_MAX; // positions that every query of this warp finds in the prompt
    int32_t longest = 0;
#pragma unroll
    for (int i = 0; i < PER_WARP; i++) {
        if (i < n_mine) {
            const int32_t row = row_at(a, begin + (first_query + i) / group);
            const int32_t in_prompt = a.rows.prompt_length[row], length = in_prompt + a.rows.tail_length[row];
            if (in_prompt < whole) whole = in_prompt;
            if (length > longest) longest = length;
        }
        run[i].most = -INFINITY;
        run[i].total = 0.0f;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) run[i].value[c] = 0.0f;
    }
    const float scale = 1.0f / sqrtf(static_cast<float>(hd));

    // Where a query of the warp lies in qkv, which is also where its result goes before it is split.
    auto query_at = [=](int32_t i) {
        const int32_t query = first_query + i;
        return row_at(a, begin + query / group) * qkv_width + (static_cast<int64_t>(head) * group + query % group) * hd;
    };
    for (int32_t i = 0; i < PER_WARP && i < n_mine; i++) {
        const int64_t from = query_at(i);
        for (int32_t at = lane; at < stride; at += 32) queries[i * stride + at] = at < hd ? qkv[from + at] : 0.0f;
    }
    __syncwarp();

    for (int32_t base = 0; base < block_longest; base += TILE) {
        const bool staged = base + TILE <= block_prompt;
        if (staged) {
            const int32_t fours = (hd + 3) / 4;
            __syncthreads();
            for (int32_t i = static_cast<int32_t>(threadIdx.x); i < TILE * fours; i += 32 * warps) {
                const int32_t position = i / fours, at = 4 * (i - position * fours);
                const int64_t from = static_cast<int64_t>(prompt_begin + base + position) * a.width;
                copy_four<ALIGNED>(keys + position * stride + at, pool_keys + from, at, hd);
                copy_four<ALIGNED>(values + position * stride + at, pool_values + from, at, hd);
            }
            copies_done();
            __syncthreads();
        }
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
                        multiply_add(sum[i], *reinterpret_cast<const float4 *>(queries + i * stride + d), key);
            }
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) {
                if (i >= n_mine) continue;
                float score = ((sum[i].x + sum[i].y) + (sum[i].z + sum[i].w)) * scale;
                weights[i * TILE + lane] = take_scores(run[i], score);
            }
            __syncwarp();
            for (int32_t p = 0; p < TILE; p += 4) {
                float4 four[PER_WARP];
#pragma unroll
                for (int i = 0; i < PER_WARP; i++) four[i] = *reinterpret_cast<const float4 *>(weights + i * TILE + p);
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
        for (int32_t first = 0, after; first < PER_WARP && first < n_mine; first = after) {
            const int32_t r = (first_query + first) / group;
            after = (r + 1) * group - first_query;
            const int32_t this_row = row_at(a, begin + r);
            const int32_t in_prompt = a.rows.prompt_length[this_row], all = in_prompt + a.rows.tail_length[this_row];
            if (base >= all) continue;
            const int32_t position = base + lane;
            const bool there = position < all;
            int64_t slot = 0;
            if (there)
                slot = position < in_prompt ? a.rows.prompt_begin[this_row] + position
                                            : a.rows.tail[a.rows.tail_begin[this_row] + position - in_prompt];
            float4 sum[PER_WARP];
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) sum[i] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                copy_part<ALIGNED>(part_of_tile, pool_keys, slot, there, a.width, c, hd);
                for (int32_t d = 0; d < PART && PART * c + d < hd; d += 4) {
                    const float4 key = *reinterpret_cast<const float4 *>(part_of_tile + lane * PART_STRIDE + d);
#pragma unroll
                    for (int i = 0; i < PER_WARP; i++)
                        if (i >= first && i < after)
                            multiply_add(sum[i], *reinterpret_cast<const float4 *>(queries + i * stride + PART * c + d),
                                         key);
                }
            }
#pragma unroll
            for (int i = 0; i < PER_WARP; i++) {
                if (i < first || i >= after) continue;
                const float score = there ? ((sum[i].x + sum[i].y) + (sum[i].z + sum[i].w)) * scale : -INFINITY;
                weights[i * TILE + lane] = take_scores(run[i], score);
            }
            const int32_t in_tile = all - base < TILE ? all - base : TILE;
#pragma unroll
            for (int c = 0; c < CHUNKS; c++) {
                copy_part<ALIGNED>(part_of_tile, pool_values, slot, there, a.width, c, hd);
                if (lane + PART * c >= hd) continue;
#pragma unroll 4
                for (int32_t p = 0; p < in_tile; p++) {
                    const float value = part_of_tile[p * PART_STRIDE + lane];
#pragma unroll
                    for (int i = 0; i < PER_WARP; i++)
                        if (i >= first && i < after)
                            run[i].value[c] = fmaf(weights[i * TILE + p], value, run[i].value[c]);
                }
            }
        }
    }
#pragma unroll
    for (int i = 0; i < PER_WARP; i++) {
        if (i >= n_mine) continue;
        const int32_t query = first_query + i;
        float *result = to.as_split ? qkv + query_at(i)
                                    : static_cast<float *>(to.out) + row_at(a, begin + query / group) * q_width +
                                          (static_cast<int64_t>(head) * group + query % group) * hd;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            int32_t d = lane + 32 * c;
            if (d < hd) result[d] = run[i].value[c] / run[i].total;
        }
    }
    if (!to.as_split) return;
    // The blocks of the other KV heads have the same rows, and count them at the same place: the first row's.
    bool *is_last = reinterpret_cast<bool *>(shared_memory);
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        int32_t *count = to.finished + row_at(a, begin);
        *is_last = atomicAdd(count, 1) == a.n_kv_heads - 1;
        if (*is_last) *count = 0; // for the next launch
    }
    __syncthreads();
    if (!*is_last) return;
    __threadfence();
    split_rows<ALIGNED>(a, qkv, qkv_width, static_cast<int32_t>(q_width), begin, n_rows, static_cast<char *>(to.out));
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

// The most shared memory that a block may have, by device: asked for once.
cudaError_t most_shared(int *bytes) {
    static int known = 0;
    cudaError_t error = cudaSuccess;
    int device = 0, most = 0;
    if (known == 0) {
        error = cudaGetDevice(&device);
        if (error == cudaSuccess)
            error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        if (error == cudaSuccess) known = most;
    }
    *bytes = known;
    return error;
}

template <int CHUNKS, bool ALIGNED>
cudaError_t start_attend(const lp_cuda_attention &a, float *qkv, int32_t n, const lp_cuda_attended &to,
                         cudaStream_t stream) {
    const int32_t group = a.n_heads / a.n_kv_heads, members = a.rows.group_row ? LP_GROUP_ROWS : 1;
    const int32_t least = (group + PER_WARP - 1) / PER_WARP; // warps that a row takes
    const int tile_bytes = tile_floats(a.head_dim) * 4, warp_bytes = warp_floats(a.head_dim) * 4;
    int most = 0;
    cudaError_t error = most_shared(&most);
    if (error != cudaSuccess) return error;
    int32_t warps = (members * group + PER_WARP - 1) / PER_WARP;
    if (warps > MOST_WARPS) warps = MOST_WARPS;
    while (warps > least && tile_bytes + warps * warp_bytes > most) warps--;
    const int32_t fit = warps * PER_WARP / group, rows_per_block = fit < members ? fit : members;
    // Blocks beyond a group's rows end at once.
    const int32_t parts = (members + rows_per_block - 1) / rows_per_block;
    const int bytes = tile_bytes + warps * warp_bytes;
    if (bytes > 48 * 1024) {
        error = cudaFuncSetAttribute(reinterpret_cast<const void *>(attend_kernel<CHUNKS, ALIGNED>),
                                     cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
        if (error != cudaSuccess) return error;
    }
    const dim3 grid(static_cast<unsigned>((a.rows.group_row ? a.rows.n_groups : n) * parts),
                    static_cast<unsigned>(a.n_kv_heads));
    const unsigned threads = static_cast<unsigned>(32 * warps);
    attend_kernel<CHUNKS, ALIGNED>
        <<<grid, threads, static_cast<size_t>(bytes), stream>>>(a, qkv, n, group, rows_per_block, parts, to);
    return cudaGetLastError();
}

bool is_aligned(const lp_cuda_attention &a) {
    return a.head_dim % 4 == 0 && reinterpret_cast<uintptr_t>(a.keys) % 16 == 0;
}

template <int CHUNKS>
cudaError_t choose_alignment(const lp_cuda_attention &a, float *qkv, int32_t n, const lp_cuda_attended &to,
                             cudaStream_t stream) {
    return is_aligned(a) ? start_attend<CHUNKS, true>(a, qkv, n, to, stream)
                         : start_attend<CHUNKS, false>(a, qkv, n, to, stream);
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

cudaError_t lp_cuda_attend(const lp_cuda_attention *attention, float *qkv, int32_t n, const lp_cuda_attended *to,
                           cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    if (attention->head_dim <= 32) return choose_alignment<1>(*attention, qkv, n, *to, stream);
    if (attention->head_dim <= 64) return choose_alignment<2>(*attention, qkv, n, *to, stream);
    if (attention->head_dim <= 128) return choose_alignment<4>(*attention, qkv, n, *to, stream);
    return choose_alignment<8>(*attention, qkv, n, *to, stream);
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
