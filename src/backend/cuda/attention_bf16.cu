// Attention of ragged rows over [shared prompt + own tail] on tensor cores, with keys and values held in bf16.
//
// A block takes the queries (row x query head) of one KV head of up to 128 / group rows that share a prompt: all rows
// of a group where a KV head has four query heads or fewer. A warp has 16 of its queries, which are the 16 rows of one
// product mma.m16n8k16. Positions come in tiles of 32. A tile of the prompt is read once into shared memory for all the
// block's queries. A tile that reaches into the tail is taken row by row, straight from the pool into the registers of
// the products: it costs a product of 16 queries for one row's few, which is cheap beside reading its bytes.
//
// Both operands are read 16 bytes at a time. For scores, the four lanes of a query read 8 neighbouring numbers each of
// q and of k; the products then add the numbers of a head in another order than they lie in, the same for q and k. For
// values a lane reads 8 neighbouring numbers of each of its positions, one for each of 8 products, and pairs them with
// the next position's (__byte_perm). The weights of a tile are already where the next product wants them.
//
// Softmax is the running one, as in attention.cu. Weights are rounded to bf16 before they are added up, so that those
// that values are multiplied with have the sum that they are divided by. Sums are float32.
//
// What a row sees is one sequence, prompt then tail; tiles are cut at multiples of 32 of it, each query's numbers go
// through the same products and sums wherever its tile lies and in whichever of the 16 places it stands, and what a
// product does to other rows' queries is thrown away. So a row's bits depend neither on its company nor on where its
// prompt ends and its tail begins.
//
// Expected, not measured, on an H100 at 4,096 rows of LLaMA-1B (32 / 8 heads of 64, 70 + 20 positions): 168 MB of keys
// and values of tails at most (float32 had 335), 17 MB of prompts, 67 MB of queries and results, which take 75 us
// at 3.35 TB/s. Products: 64 of 16 queries a KV head over the prompt and 32 a row over the tail, 1.6 million, which
// take 14 us at the 1,024 multiply-adds a cycle and multiprocessor that an A100 has. Compiled for heads of 64: 128
// registers, 156 bytes spilled, two blocks of 256 threads a multiprocessor, of which each lane has up to 8 loads of 16
// bytes under way. The kernel before took 395 us, 20 % of bf16's time: its lanes read the keys of a tail each in a row
// of its own, and it multiplied on the ordinary units.
#include "backend/cuda/kernels.h"

#include <cuda_bf16.h>

namespace {

constexpr int TILE = 32, WARP_QUERIES = 16, MOST_WARPS = 8;
static_assert(LP_CUDA_MAX_QUERIES <= MOST_WARPS * WARP_QUERIES, "a KV head's queries fit one block");
constexpr unsigned ALL = 0xffffffffu;

__host__ __device__ constexpr int32_t padded(int32_t head_dim) {
    return (head_dim + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
}

// Bytes between the rows of a tile in shared memory, such that eight lanes that read at once meet different banks: two
// rows of 64 bytes for keys, four rows, every second, of 32 bytes for values.
__host__ __device__ constexpr int32_t key_stride(int32_t head_dim) {
    return (2 * padded(head_dim) + 127) / 128 * 128 + 64;
}

__host__ __device__ constexpr int32_t value_stride(int32_t head_dim) {
    return (2 * padded(head_dim) + 63) / 64 * 64 + 16;
}

// d [16, 8] += a [16, 16] b [16, 8], in the registers that PTX names for mma.m16n8k16.
__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if defined(LP_TESTS_CUDA_EMULATOR_DEVICE_H)
    emulator::multiply_bf16(d, a, b0, b1);
#elif defined(__CUDA_ARCH__)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

__device__ inline uint32_t bits_of(__nv_bfloat162 pair) {
    return static_cast<uint32_t>(__bfloat16_as_ushort(pair.x)) | static_cast<uint32_t>(__bfloat16_as_ushort(pair.y))
                                                                     << 16;
}

__device__ inline uint4 load_sixteen(const char *p, bool there) {
    return there ? *reinterpret_cast<const uint4 *>(p) : make_uint4(0, 0, 0, 0);
}

// Where a tile's keys and values lie, 16 bytes aligned: those of position p in step number `place` of lane p.
struct tile_place {
    const char *keys, *values;
    int32_t key_step, value_step;
    int32_t place;
};

// The 16 queries of a warp on their way. A lane has two of them, lane / 4 and lane / 4 + 8, and of each a quarter.
template <int DIMS> struct warp_queries {
    static constexpr int KEY_BLOCKS = DIMS / 32, VALUE_BLOCKS = (DIMS + 63) / 64;
    uint32_t query[KEY_BLOCKS][2][4]; // numbers 32 b + 8 (lane % 4) .. + 7
    float most[2], total[2];
    float value[VALUE_BLOCKS][8][4]; // [b][j]: numbers 64 b + 16 (lane % 4) + j and + 8, of the first query, the second

    __device__ void begin(const float *first, const float *second, int32_t head_dim, int32_t quarter) {
        const float *from[2] = {first, second};
#pragma unroll
        for (int k = 0; k < 2; k++) {
            most[k] = -INFINITY;
            total[k] = 0.0f;
#pragma unroll
            for (int b = 0; b < KEY_BLOCKS; b++)
#pragma unroll
                for (int w = 0; w < 4; w++) {
                    const int32_t at = 32 * b + 8 * quarter + 2 * w;
                    query[b][k][w] =
                        bits_of(__floats2bfloat162_rn(from[k] && at < head_dim ? from[k][at] : 0.0f,
                                                      from[k] && at + 1 < head_dim ? from[k][at + 1] : 0.0f));
                }
        }
#pragma unroll
        for (int b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 4; i++) value[b][j][i] = 0.0f;
    }

    // Takes a tile in, of which the first n positions are there. Queries that are not `mine` stay as they are.
    __device__ void take_tile(const tile_place &tile, int32_t n, const bool (&mine)[2], float scale, int32_t head_dim) {
        const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, eighth = lane / 4, quarter = lane % 4;
        const int32_t width = padded(head_dim);
        float score[4][4];
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const int32_t p = 8 * t + eighth;
            const char *from = tile.keys + static_cast<int64_t>(__shfl_sync(ALL, tile.place, p)) * tile.key_step;
            uint4 keys[KEY_BLOCKS];
#pragma unroll
            for (int b = 0; b < KEY_BLOCKS; b++) {
                const int32_t at = 32 * b + 8 * quarter;
                keys[b] = load_sixteen(from + 2 * at, p < n && at < width);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) score[t][i] = 0.0f;
#pragma unroll
            for (int b = 0; b < KEY_BLOCKS; b++) {
                const uint32_t low[4] = {query[b][0][0], query[b][1][0], query[b][0][1], query[b][1][1]};
                const uint32_t high[4] = {query[b][0][2], query[b][1][2], query[b][0][3], query[b][1][3]};
                multiply_add(score[t], low, keys[b].x, keys[b].y);
                multiply_add(score[t], high, keys[b].z, keys[b].w);
            }
        }
        uint32_t weight[2][4];
        take_scores(score, n, mine, scale, weight);
        int32_t places[2][4];
#pragma unroll
        for (int s = 0; s < 2; s++)
#pragma unroll
            for (int i = 0; i < 4; i++) places[s][i] = __shfl_sync(ALL, tile.place, position_of(s, i, quarter));
#pragma unroll
        for (int b = 0; b < VALUE_BLOCKS; b++) {
            const int32_t at = 64 * b + 8 * eighth;
            uint4 row[2][4];
#pragma unroll
            for (int s = 0; s < 2; s++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    row[s][i] =
                        load_sixteen(tile.values + static_cast<int64_t>(places[s][i]) * tile.value_step + 2 * at,
                                     position_of(s, i, quarter) < n && at < width);
                }
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float sum[4];
#pragma unroll
                for (int i = 0; i < 4; i++) sum[i] = value[b][j][i];
#pragma unroll
                for (int s = 0; s < 2; s++) {
                    const uint32_t which = j % 2 == 0 ? 0x5410 : 0x7632;
                    multiply_add(sum, weight[s], __byte_perm(word(row[s][0], j / 2), word(row[s][1], j / 2), which),
                                 __byte_perm(word(row[s][2], j / 2), word(row[s][3], j / 2), which));
                }
#pragma unroll
                for (int i = 0; i < 4; i++) value[b][j][i] = mine[i / 2] ? sum[i] : value[b][j][i];
            }
        }
    }

    // Of the i-th of the positions that a lane has of product s of two.
    __device__ static int32_t position_of(int s, int i, int32_t quarter) {
        return 16 * s + 2 * quarter + i % 2 + i / 2 * 8;
    }

    __device__ static uint32_t word(const uint4 &from, int i) {
        return i == 0 ? from.x : i == 1 ? from.y : i == 2 ? from.z : from.w;
    }

    // weight: of the tile, as products take it. What was summed up so far is rescaled.
    __device__ void take_scores(float (&score)[4][4], int32_t n, const bool (&mine)[2], float scale,
                                uint32_t (&weight)[2][4]) {
        const int32_t quarter = static_cast<int32_t>(threadIdx.x) % 4;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float largest = -INFINITY;
#pragma unroll
            for (int t = 0; t < 4; t++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int32_t p = 8 * t + 2 * quarter + i;
                    float &one = score[t][2 * k + i];
                    one = p < n ? one * scale : -INFINITY;
                    largest = fmaxf(largest, one);
                }
            largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(ALL, largest, 2));
            largest = fmaxf(largest, most[k]);
            float sum = 0.0f;
#pragma unroll
            for (int t = 0; t < 4; t++) {
                const __nv_bfloat162 pair =
                    __floats2bfloat162_rn(expf(score[t][2 * k] - largest), expf(score[t][2 * k + 1] - largest));
                sum = sum + (__bfloat162float(pair.x) + __bfloat162float(pair.y));
                weight[t / 2][2 * (t % 2) + k] = bits_of(pair);
            }
            sum = sum + __shfl_xor_sync(ALL, sum, 1);
            sum = sum + __shfl_xor_sync(ALL, sum, 2);
            const float rescale = mine[k] ? expf(most[k] - largest) : 1.0f;
            total[k] = mine[k] ? total[k] * rescale + sum : total[k];
            most[k] = mine[k] ? largest : most[k];
#pragma unroll
            for (int b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
                for (int j = 0; j < 8; j++)
#pragma unroll
                    for (int i = 0; i < 2; i++) value[b][j][2 * k + i] = value[b][j][2 * k + i] * rescale;
        }
    }

    // to [head_dim] = query k of this lane's two, rounded; 16 bytes at a time where heads are a multiple of 8 wide
    __device__ void finish(int k, __nv_bfloat16 *to, int32_t head_dim, int32_t quarter) const {
#pragma unroll
        for (int b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int32_t at = 64 * b + 16 * quarter + 8 * i;
                float x[8];
#pragma unroll
                for (int j = 0; j < 8; j++) x[j] = value[b][j][2 * k + i] / total[k];
                if (head_dim % 8 == 0) {
                    const uint4 eight = {
                        bits_of(__floats2bfloat162_rn(x[0], x[1])), bits_of(__floats2bfloat162_rn(x[2], x[3])),
                        bits_of(__floats2bfloat162_rn(x[4], x[5])), bits_of(__floats2bfloat162_rn(x[6], x[7]))};
                    if (at < head_dim) *reinterpret_cast<uint4 *>(to + at) = eight;
                } else {
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        if (at + j < head_dim) to[at + j] = __float2bfloat16_rn(x[j]);
                }
            }
    }

    // to [head_dim] = query k of this lane's two
    __device__ void finish(int k, float *to, int32_t head_dim, int32_t quarter) const {
#pragma unroll
        for (int b = 0; b < VALUE_BLOCKS; b++)
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int32_t at = 64 * b + 16 * quarter + 8 * i + j;
                    if (at < head_dim) to[at] = value[b][j][2 * k + i] / total[k];
                }
    }
};

// Rows of a block: members `begin` .. of a group, or one row that is a group of its own.
__device__ inline int32_t row_at(const lp_cuda_attention &a, int32_t at) {
    return a.rows.group_row ? a.rows.group_row[at] : at;
}

template <int DIMS>
__global__ void __launch_bounds__(MOST_WARPS * 32, DIMS <= 64 ? 2 : 1)
    attend_bf16_kernel(lp_cuda_attention a, const float *qkv, int32_t n, int32_t group, int32_t rows_per_block,
                       int32_t parts, lp_cuda_attended to) {
    extern __shared__ float4 shared_memory[];
    const int32_t hd = a.head_dim;
    char *keys = reinterpret_cast<char *>(shared_memory); // [TILE] rows of key_stride
    char *values = keys + TILE * key_stride(hd);          // [TILE] rows of value_stride
    const int32_t lane = static_cast<int32_t>(threadIdx.x) % 32, warp = static_cast<int32_t>(threadIdx.x) / 32;
    const int32_t eighth = lane / 4, quarter = lane % 4, head = static_cast<int32_t>(blockIdx.y);
    const int32_t g = static_cast<int32_t>(blockIdx.x) / parts, part = static_cast<int32_t>(blockIdx.x) % parts;
    const int32_t begin = (a.rows.group_row ? a.rows.group_begin[g] : g) + part * rows_per_block;
    const int32_t end = a.rows.group_row ? a.rows.group_begin[g + 1] : g + 1;
    const int64_t q_width = static_cast<int64_t>(a.n_heads) * hd,
                  qkv_width = q_width + 2 * static_cast<int64_t>(a.width);
    const int64_t head_at = static_cast<int64_t>(head) * padded(hd) * 2;
    const char *pool_keys = static_cast<const char *>(a.keys) + head_at,
               *pool_values = static_cast<const char *>(a.values) + head_at;

    // Rows ascend within a group: those of this block that are in the batch so far come first.
    int32_t n_rows = 0, block_prompt = 0, block_longest = 0, prompt_begin = 0;
    for (; n_rows < rows_per_block && begin + n_rows < end && row_at(a, begin + n_rows) < n; n_rows++) {
        const int32_t row = row_at(a, begin + n_rows), in_prompt = a.rows.prompt_length[row];
        const int32_t all = in_prompt + a.rows.tail_length[row];
        if (n_rows == 0) prompt_begin = a.rows.prompt_begin[row];
        if (in_prompt > block_prompt) block_prompt = in_prompt;
        if (all > block_longest) block_longest = all;
    }
    if (n_rows == 0) return;
    const int32_t n_queries = n_rows * group, first_query = warp * WARP_QUERIES;
    const int32_t last_query = first_query + WARP_QUERIES < n_queries ? first_query + WARP_QUERIES - 1 : n_queries - 1;
    const int32_t first_row = first_query / group, last_row = first_query < n_queries ? last_query / group : -1;

    int32_t whole = INT32_MAX; // positions that every query of this warp finds in the prompt
    for (int32_t r = first_row; r <= last_row; r++) {
        const int32_t in_prompt = a.rows.prompt_length[row_at(a, begin + r)];
        if (in_prompt < whole) whole = in_prompt;
    }
    int32_t row_of[2];
    const float *from[2];
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int32_t query = first_query + eighth + 8 * k;
        row_of[k] = query < n_queries ? query / group : -1;
        from[k] = nullptr;
        if (row_of[k] >= 0)
            from[k] = qkv + row_at(a, begin + row_of[k]) * qkv_width +
                      (static_cast<int64_t>(head) * group + query % group) * hd;
    }
    warp_queries<DIMS> run;
    run.begin(from[0], from[1], hd, quarter);
    const float scale = 1.0f / sqrtf(static_cast<float>(hd));
    const int32_t slot_bytes = static_cast<int32_t>(a.slot_bytes);

    for (int32_t base = 0; base < block_longest; base += TILE) {
        const bool staged = base + TILE <= block_prompt;
        if (staged) {
            const int32_t chunks = padded(hd) / 8;
            __syncthreads();
            for (int32_t i = static_cast<int32_t>(threadIdx.x); i < TILE * chunks;
                 i += static_cast<int32_t>(blockDim.x)) {
                const int32_t p = i / chunks, at = 16 * (i - p * chunks);
                const int64_t slot = static_cast<int64_t>(prompt_begin + base + p) * a.slot_bytes + at;
                *reinterpret_cast<uint4 *>(keys + p * key_stride(hd) + at) = load_sixteen(pool_keys + slot, true);
                *reinterpret_cast<uint4 *>(values + p * value_stride(hd) + at) = load_sixteen(pool_values + slot, true);
            }
            __syncthreads();
        }
        if (last_row < 0) continue;
        // All its queries at once from shared memory, or row by row from the pool.
        const bool together = staged && base + TILE <= whole;
        for (int32_t r = together ? last_row : first_row; r <= last_row; r++) {
            int32_t place = lane, n_there = TILE; // of position base + lane; positions that are there
            if (!together) {
                const int32_t row = row_at(a, begin + r), in_prompt = a.rows.prompt_length[row];
                const int32_t all = in_prompt + a.rows.tail_length[row], position = base + lane;
                if (base >= all) continue;
                n_there = all - base < TILE ? all - base : TILE;
                place = position >= all        ? 0
                        : position < in_prompt ? a.rows.prompt_begin[row] + position
                                               : a.rows.tail[a.rows.tail_begin[row] + position - in_prompt];
            }
            const bool mine[2] = {together || row_of[0] == r, together || row_of[1] == r};
            const tile_place at = {together ? keys : pool_keys, together ? values : pool_values,
                                   together ? key_stride(hd) : slot_bytes, together ? value_stride(hd) : slot_bytes,
                                   place};
            run.take_tile(at, n_there, mine, scale, hd);
        }
    }
#pragma unroll
    for (int k = 0; k < 2; k++) {
        const int32_t query = first_query + eighth + 8 * k;
        if (row_of[k] < 0) continue;
        const int64_t row = row_at(a, begin + row_of[k]),
                      at = (static_cast<int64_t>(head) * group + query % group) * hd;
        if (to.as_bf16) {
            const int64_t width = (q_width + LP_CUDA_STEP - 1) / LP_CUDA_STEP * LP_CUDA_STEP;
            __nv_bfloat16 *operand = static_cast<__nv_bfloat16 *>(to.out) + row * width;
            run.finish(k, operand + at, hd, quarter);
            for (int64_t i = q_width + quarter; at + hd == q_width && i < width; i += 4)
                operand[i] = __float2bfloat16_rn(0.0f);
        } else {
            run.finish(k, static_cast<float *>(to.out) + row * q_width + at, hd, quarter);
        }
    }
}

// One warp for one query head of a choice: the operations of attend_bf16_kernel on a row that sees only a tail.
template <int DIMS>
__global__ void __launch_bounds__(32)
    chosen_bf16_kernel(lp_cuda_attention a, const float *qkv, const lp_row_choice *choices, const int32_t *slots,
                       float *out) {
    const lp_row_choice choice = choices[blockIdx.x];
    const int32_t lane = static_cast<int32_t>(threadIdx.x), hd = a.head_dim;
    if (static_cast<int32_t>(blockIdx.y) >= choice.n_heads) return;
    const int32_t head = choice.first_head + static_cast<int32_t>(blockIdx.y);
    const int64_t q_width = static_cast<int64_t>(a.n_heads) * hd, at = static_cast<int64_t>(head) * hd;
    const int64_t head_at = static_cast<int64_t>(head / (a.n_heads / a.n_kv_heads)) * padded(hd) * 2;
    const char *pool_keys = static_cast<const char *>(a.keys) + head_at,
               *pool_values = static_cast<const char *>(a.values) + head_at;
    const float *from = qkv + choice.row * (q_width + 2 * static_cast<int64_t>(a.width)) + at;
    warp_queries<DIMS> run;
    run.begin(lane < 4 ? from : nullptr, nullptr, hd, lane % 4);
    const float scale = 1.0f / sqrtf(static_cast<float>(hd));
    const int32_t slot_bytes = static_cast<int32_t>(a.slot_bytes);
    const bool mine[2] = {lane < 4, false};
    for (int32_t base = 0; base < choice.length; base += TILE) {
        const int32_t left = choice.length - base, slot = lane < left ? slots[choice.begin + base + lane] : 0;
        const tile_place tile = {pool_keys, pool_values, slot_bytes, slot_bytes, slot};
        run.take_tile(tile, left < TILE ? left : TILE, mine, scale, hd);
    }
    if (lane < 4) run.finish(0, out + choice.row * q_width + at, hd, lane);
}

template <int DIMS>
cudaError_t start_attend(const lp_cuda_attention &a, const float *qkv, int32_t n, const lp_cuda_attended &to,
                         cudaStream_t stream) {
    const int32_t group = a.n_heads / a.n_kv_heads, most = MOST_WARPS * WARP_QUERIES / group;
    const int32_t members = a.rows.group_row ? LP_GROUP_ROWS : 1, rows_per_block = most < members ? most : members;
    // Blocks beyond a group's rows end at once.
    const int32_t parts = (members + rows_per_block - 1) / rows_per_block;
    const unsigned warps = static_cast<unsigned>((rows_per_block * group + WARP_QUERIES - 1) / WARP_QUERIES);
    const size_t bytes =
        static_cast<size_t>(TILE) * static_cast<size_t>(key_stride(a.head_dim) + value_stride(a.head_dim));
    const dim3 grid(static_cast<unsigned>((a.rows.group_row ? a.rows.n_groups : n) * parts),
                    static_cast<unsigned>(a.n_kv_heads));
    attend_bf16_kernel<DIMS><<<grid, 32 * warps, bytes, stream>>>(a, qkv, n, group, rows_per_block, parts, to);
    return cudaGetLastError();
}
static_assert(TILE * (key_stride(LP_CUDA_MAX_HEAD_DIM) + value_stride(LP_CUDA_MAX_HEAD_DIM)) <= 48 * 1024,
              "a tile fits the shared memory that every block may have");

template <int DIMS>
cudaError_t start_chosen(const lp_cuda_attention &a, const float *qkv, const lp_row_choice *choices, int32_t n,
                         int32_t most_heads, const int32_t *slots, float *out, cudaStream_t stream) {
    const dim3 grid(static_cast<unsigned>(n), static_cast<unsigned>(most_heads));
    chosen_bf16_kernel<DIMS><<<grid, 32, 0, stream>>>(a, qkv, choices, slots, out);
    return cudaGetLastError();
}

} // namespace

cudaError_t lp_cuda_attend_bf16(const lp_cuda_attention *attention, float *qkv, int32_t n, const lp_cuda_attended *to,
                                cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    if (attention->head_dim <= 64) return start_attend<64>(*attention, qkv, n, *to, stream);
    if (attention->head_dim <= 128) return start_attend<128>(*attention, qkv, n, *to, stream);
    return start_attend<256>(*attention, qkv, n, *to, stream);
}

cudaError_t lp_cuda_attend_chosen_bf16(const lp_cuda_attention *attention, const float *qkv,
                                       const lp_row_choice *choices, int32_t n, int32_t most_heads,
                                       const int32_t *slots, float *out, cudaStream_t stream) {
    if (n == 0) return cudaSuccess;
    if (attention->head_dim <= 64) return start_chosen<64>(*attention, qkv, choices, n, most_heads, slots, out, stream);
    if (attention->head_dim <= 128)
        return start_chosen<128>(*attention, qkv, choices, n, most_heads, slots, out, stream);
    return start_chosen<256>(*attention, qkv, choices, n, most_heads, slots, out, stream);
}
