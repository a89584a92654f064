#include "base/checksum.h"

#include "base/memory.h"

#include <xxhash.h>

struct lp_checksum {
    XXH3_state_t *state;
};

lp_status lp_checksum_new(lp_checksum **out, lp_error *err) {
    lp_checksum *sum = NULL;
    LP_CHECK(lp_mem_new(&sum, 1, sizeof *sum, "checksum", err));
    sum->state = XXH3_createState();
    if (!sum->state) {
        lp_mem_free(sum);
        return lp_fail(err, LP_ERR_MEMORY, "checksum: out of memory");
    }
    XXH3_128bits_reset(sum->state);
    *out = sum;
    return LP_OK;
}

void lp_checksum_add(lp_checksum *sum, const void *data, size_t size) {
    if (size > 0) XXH3_128bits_update(sum->state, data, size);
}

void lp_checksum_finish(lp_checksum *sum, unsigned char out[LP_CHECKSUM_BYTES]) {
    XXH128_canonical_t canonical;
    _Static_assert(sizeof canonical == LP_CHECKSUM_BYTES, "size of XXH3-128");
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(sum->state));
    memcpy(out, &canonical, LP_CHECKSUM_BYTES);
    XXH3_128bits_reset(sum->state);
}

void lp_checksum_free(lp_checksum *sum) {
    if (!sum) return;
    XXH3_freeState(sum->state);
    lp_mem_free(sum);
}
