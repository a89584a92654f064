/* The cuda backend's arithmetic of sizes: row tiles of matrix products, and the ring of pinned memory through which
 * everything goes to the device. Plain C without CUDA, so that it is tested where there is none. */
#ifndef LP_BACKEND_CUDA_PLAN_H
#define LP_BACKEND_CUDA_PLAN_H

#include "base/error.h"

enum {
    LP_CUDA_TILE_ROWS = 128, /* rows of a tile: every product has a multiple of it */
    LP_CUDA_CALL_TILES = 16  /* most tiles of one library call */
};

/* Columns that a product with n_out of them is made with: n_out where that is a multiple of 8, otherwise the next
 * multiple of 64, so that the library need not fall back to kernels for odd addresses. */
static inline int64_t lp_cuda_padded_width(int64_t n_out) {
    return n_out % 8 == 0 ? n_out : (n_out + 63) / 64 * 64;
}

/* Most tiles of one call for a product with n_out columns, so that its result has at most limit_bytes; 1 .. 16. */
int32_t lp_cuda_call_tiles(int64_t n_out, size_t limit_bytes);

/* The calls that cover n rows: call i has *rows rows, a multiple of LP_CUDA_TILE_ROWS, from row *first on. Returns
 * false after the last. The rows after n are filling: fewer than LP_CUDA_TILE_ROWS. */
bool lp_cuda_call(int32_t n, int32_t call_tiles, int32_t i, int32_t *first, int32_t *rows);

/* Pinned memory in segments. Copies are packed into the current segment; one that does not fit goes to the next, which
 * must first have been drained. */
typedef struct {
    size_t segment_bytes;
    int32_t n_segments;
    int32_t current;
    size_t used; /* of the current segment */
} lp_cuda_ring;

typedef struct {
    size_t offset; /* into the whole memory */
    size_t bytes;  /* that could be had: at most segment_bytes */
    int32_t close; /* segment whose copies are all issued now: to be marked by an event; -1: none */
    int32_t wait;  /* segment whose event must have passed before the memory is written; -1: none */
} lp_cuda_place;

/* Takes room for `bytes` or as much of it as a segment holds. Places are aligned to 256. */
lp_cuda_place lp_cuda_ring_take(lp_cuda_ring *ring, size_t bytes);

/* The device of a rank of the node among those that it sees. */
int32_t lp_cuda_device_of(int32_t node_rank, int32_t n_devices);

#endif
