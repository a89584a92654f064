/* Checksum of a pair's bytes: XXH3, 128 bits, by xxHash, in its canonical (big-endian) form, as `xxhsum -H2` prints it.
 * It is there to find torn and altered data, at many times the speed of a cryptographic digest, because every pair is
 * summed when it is written and whenever it is read; files that are named by their contents have SHA-256 (digest.h). */
#ifndef LP_BASE_CHECKSUM_H
#define LP_BASE_CHECKSUM_H

#include "base/error.h"

enum { LP_CHECKSUM_BYTES = 16 };

typedef struct lp_checksum lp_checksum;
lp_status lp_checksum_new(lp_checksum **out, lp_error *err);
void lp_checksum_add(lp_checksum *sum, const void *data, size_t size);
/* Writes the checksum of what was added and makes the object ready for the next one. */
void lp_checksum_finish(lp_checksum *sum, unsigned char out[LP_CHECKSUM_BYTES]);
/* NULL is accepted. */
void lp_checksum_free(lp_checksum *sum);

#endif
