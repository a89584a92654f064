/* Bounded reader: the only way in which foreign bytes are read.
 *
 * A cursor over bytes that it borrows. Every read checks the space left and fails with the offset; nothing
 * is ever read past the end. Numbers are little-endian. */
#ifndef LP_BASE_READER_H
#define LP_BASE_READER_H

#include "base/error.h"

typedef struct {
    const unsigned char *data; /* borrowed, [size] */
    size_t size;
    size_t offset;    /* <= size */
    const char *what; /* names the source in messages; borrowed */
} lp_reader;

lp_reader lp_reader_make(const void *data, size_t size, const char *what);
size_t lp_reader_left(const lp_reader *reader);

/* *out = the number of the next n bytes, n <= 8. */
lp_status lp_read_unsigned(lp_reader *reader, size_t n, uint64_t *out, lp_error *err);
lp_status lp_read_u8(lp_reader *reader, uint8_t *out, lp_error *err);
lp_status lp_read_u16(lp_reader *reader, uint16_t *out, lp_error *err);
lp_status lp_read_u32(lp_reader *reader, uint32_t *out, lp_error *err);
lp_status lp_read_u64(lp_reader *reader, uint64_t *out, lp_error *err);
/* *out = the next n bytes, borrowed from the source. */
lp_status lp_read_bytes(lp_reader *reader, size_t n, const unsigned char **out, lp_error *err);
/* The bytes up to the next '\n' (which is passed over, not returned). Fails when there is none. */
lp_status lp_read_line(lp_reader *reader, const char **out, size_t *length, lp_error *err);
lp_status lp_reader_seek(lp_reader *reader, size_t offset, lp_error *err);

/* *out = a * b, or a + b; false when it does not fit. For shapes and offsets that a file names. */
bool lp_mul_u64(uint64_t a, uint64_t b, uint64_t *out);
bool lp_add_u64(uint64_t a, uint64_t b, uint64_t *out);

#endif
