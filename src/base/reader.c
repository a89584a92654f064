#include "base/reader.h"

lp_reader lp_reader_make(const void *data, size_t size, const char *what) {
    return (lp_reader){.data = data, .size = size, .offset = 0, .what = what};
}

size_t lp_reader_left(const lp_reader *reader) {
    return reader->size - reader->offset;
}

lp_status lp_read_bytes(lp_reader *reader, size_t n, const unsigned char **out, lp_error *err) {
    if (n > lp_reader_left(reader))
        return lp_fail(err, LP_ERR_FORMAT, "%s: truncated at byte %zu: expected %zu more bytes, found %zu",
                       reader->what, reader->offset, n, lp_reader_left(reader));
    *out = reader->data + reader->offset;
    reader->offset += n;
    return LP_OK;
}

lp_status lp_read_unsigned(lp_reader *reader, size_t n, uint64_t *out, lp_error *err) {
    const unsigned char *bytes = NULL;
    LP_CHECK(lp_read_bytes(reader, n, &bytes, err));
    uint64_t value = 0;
    for (size_t i = n; i-- > 0;) value = value << 8 | bytes[i];
    *out = value;
    return LP_OK;
}

#define READ(bits)                                                                                                     \
    lp_status lp_read_u##bits(lp_reader *reader, uint##bits##_t *out, lp_error *err) {                                 \
        uint64_t value = 0;                                                                                            \
        LP_CHECK(lp_read_unsigned(reader, bits / 8, &value, err));                                                     \
        *out = (uint##bits##_t)value;                                                                                  \
        return LP_OK;                                                                                                  \
    }
READ(8)
READ(16)
READ(32)
READ(64)

lp_status lp_read_line(lp_reader *reader, const char **out, size_t *length, lp_error *err) {
    const unsigned char *start = reader->data + reader->offset;
    size_t left = lp_reader_left(reader);
    const unsigned char *end = left ? memchr(start, '\n', left) : NULL;
    if (!end) return lp_fail(err, LP_ERR_FORMAT, "%s: line at byte %zu has no end", reader->what, reader->offset);
    *out = (const char *)start;
    *length = (size_t)(end - start);
    reader->offset += *length + 1;
    return LP_OK;
}

lp_status lp_reader_seek(lp_reader *reader, size_t offset, lp_error *err) {
    if (offset > reader->size)
        return lp_fail(err, LP_ERR_FORMAT, "%s: offset %zu is past the end (%zu bytes)", reader->what, offset,
                       reader->size);
    reader->offset = offset;
    return LP_OK;
}

bool lp_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

bool lp_add_u64(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
