/* SHA-256 (FIPS 180-4), by OpenSSL. Provenance names files by it. */
#ifndef LP_BASE_DIGEST_H
#define LP_BASE_DIGEST_H

#include "base/error.h"

enum { LP_SHA256_BYTES = 32, LP_SHA256_HEX = 65 };

typedef struct lp_sha256 lp_sha256;
lp_status lp_sha256_new(lp_sha256 **out, lp_error *err);
lp_status lp_sha256_add(lp_sha256 *digest, const void *data, size_t size, lp_error *err);
/* Writes the digest and makes the object ready for the next one. */
lp_status lp_sha256_finish(lp_sha256 *digest, unsigned char out[LP_SHA256_BYTES], lp_error *err);
void lp_sha256_free(lp_sha256 *digest);

/* One call for bytes at hand. */
lp_status lp_sha256_of(const void *data, size_t size, unsigned char out[LP_SHA256_BYTES], lp_error *err);
/* The digest of a file's bytes as 64 lower-case hexadecimal digits and a NUL. */
lp_status lp_sha256_of_file(const char *path, char out[LP_SHA256_HEX], lp_error *err);
void lp_sha256_hex(const unsigned char digest[LP_SHA256_BYTES], char out[LP_SHA256_HEX]);

#endif
