#include "base/digest.h"

#include "base/file.h"
#include "base/memory.h"
#include "base/pulse.h"

#include <openssl/evp.h>

struct lp_sha256 {
    EVP_MD_CTX *context;
};

static lp_status failed(lp_error *err) {
    return lp_fail(err, LP_ERR_MEMORY, "SHA-256: OpenSSL refused");
}

lp_status lp_sha256_new(lp_sha256 **out, lp_error *err) {
    lp_sha256 *digest = NULL;
    LP_CHECK(lp_mem_new(&digest, 1, sizeof *digest, "SHA-256", err));
    digest->context = EVP_MD_CTX_new();
    if (!digest->context || EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL) != 1) {
        lp_sha256_free(digest);
        return failed(err);
    }
    *out = digest;
    return LP_OK;
}

lp_status lp_sha256_add(lp_sha256 *digest, const void *data, size_t size, lp_error *err) {
    if (size == 0) return LP_OK;
    return EVP_DigestUpdate(digest->context, data, size) == 1 ? LP_OK : failed(err);
}

lp_status lp_sha256_finish(lp_sha256 *digest, unsigned char out[LP_SHA256_BYTES], lp_error *err) {
    unsigned int length = 0;
    if (EVP_DigestFinal_ex(digest->context, out, &length) != 1 || length != LP_SHA256_BYTES ||
        EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL) != 1)
        return failed(err);
    return LP_OK;
}

void lp_sha256_free(lp_sha256 *digest) {
    if (!digest) return;
    EVP_MD_CTX_free(digest->context);
    lp_mem_free(digest);
}

lp_status lp_sha256_of(const void *data, size_t size, unsigned char out[LP_SHA256_BYTES], lp_error *err) {
    enum { PIECE = 16 << 20 }; /* of a mapped file on a slow disk, that is still a while */
    const unsigned char *at = data;
    lp_sha256 *digest = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_sha256_new(&digest, err));
    while (size > 0) {
        size_t n = size < PIECE ? size : PIECE;
        LP_TRY(lp_sha256_add(digest, at, n, err));
        lp_pulse();
        at += n;
        size -= n;
    }
    status = lp_sha256_finish(digest, out, err);
out:
    lp_sha256_free(digest);
    return status;
}

lp_status lp_sha256_of_file(const char *path, char out[LP_SHA256_HEX], lp_error *err) {
    lp_mapped_file file = {0};
    lp_status status = lp_file_map(path, &file, err);
    if (status != LP_OK) return status;
    unsigned char digest[LP_SHA256_BYTES];
    status = lp_sha256_of(file.data, file.size, digest, err);
    if (status == LP_OK) lp_sha256_hex(digest, out);
    lp_file_unmap(&file);
    return status;
}

void lp_sha256_hex(const unsigned char digest[LP_SHA256_BYTES], char out[LP_SHA256_HEX]) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < LP_SHA256_BYTES; i++) {
        out[2 * i] = digits[digest[i] >> 4];
        out[2 * i + 1] = digits[digest[i] & 15];
    }
    out[2 * LP_SHA256_BYTES] = '\0';
}
