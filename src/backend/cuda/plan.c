#include "backend/cuda/plan.h"

int32_t lp_cuda_call_tiles(int64_t n_out, size_t limit_bytes) {
    size_t tile_bytes = (size_t)LP_CUDA_TILE_ROWS * (size_t)n_out * sizeof(float);
    size_t tiles = tile_bytes > 0 ? limit_bytes / tile_bytes : LP_CUDA_CALL_TILES;
    if (tiles < 1) return 1;
    return tiles < LP_CUDA_CALL_TILES ? (int32_t)tiles : LP_CUDA_CALL_TILES;
}

bool lp_cuda_call(int32_t n, int32_t call_tiles, int32_t i, int32_t *first, int32_t *rows) {
    int64_t begin = (int64_t)i * call_tiles * LP_CUDA_TILE_ROWS;
    if (begin >= n) return false;
    int64_t left = n - begin, most = (int64_t)call_tiles * LP_CUDA_TILE_ROWS;
    int64_t padded = (left + LP_CUDA_TILE_ROWS - 1) / LP_CUDA_TILE_ROWS * LP_CUDA_TILE_ROWS;
    *first = (int32_t)begin;
    *rows = (int32_t)(padded < most ? padded : most);
    return true;
}

lp_cuda_place lp_cuda_ring_take(lp_cuda_ring *ring, size_t bytes) {
    enum { ALIGN = 256 };
    lp_cuda_place place = {.close = -1, .wait = -1};
    if (bytes > ring->segment_bytes) bytes = ring->segment_bytes;
    size_t begin = (ring->used + ALIGN - 1) / ALIGN * ALIGN;
    if (begin + bytes > ring->segment_bytes) {
        place.close = ring->current;
        ring->current = (ring->current + 1) % ring->n_segments;
        place.wait = ring->current;
        begin = 0;
    }
    place.offset = (size_t)ring->current * ring->segment_bytes + begin;
    place.bytes = bytes;
    ring->used = begin + bytes;
    return place;
}

int32_t lp_cuda_device_of(int32_t node_rank, int32_t n_devices) {
    return node_rank % n_devices;
}
