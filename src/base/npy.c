#include "base/npy.h"

#include "base/dtype.h"
#include "base/file.h"
#include "base/memory.h"
#include "base/number.h"
#include "base/reader.h"

#include <math.h>

/* The header is a Python dict literal: {'descr': '<f4', 'fortran_order': False, 'shape': (768,), }. */

static const char *skip_blanks(const char *p) {
    return p + strspn(p, " \t\n\r");
}

/* True, and *p moved beyond it and the blanks around it, where the text goes on with `word`. */
static bool take_word(const char **p, const char *word) {
    const char *at = skip_blanks(*p);
    size_t n = strlen(word);
    if (strncmp(at, word, n) != 0) return false;
    *p = skip_blanks(at + n);
    return true;
}

/* (), (5,), (5, 6) or (5, 6,): the product of the sizes, and whether there is at most one other than 1 in front. */
static lp_status take_shape(const char **p, const char *name, uint64_t *count, bool *flat, lp_error *err) {
    int64_t size = 0;
    uint64_t n = 1, dims = 0;
    bool comma = true;
    *flat = true;
    if (!take_word(p, "("))
        return lp_fail(err, LP_ERR_FORMAT, "%s: header: expected a shape, found \"%.40s\"", name, *p);
    while (comma && lp_take_integer(p, INT64_MAX, &size)) {
        if (!lp_mul_u64(n, (uint64_t)size, &n)) return lp_fail(err, LP_ERR_FORMAT, "%s: shape overflows", name);
        *flat &= dims++ == 0 || size == 1;
        comma = take_word(p, ",");
    }
    if ((dims == 1 && !comma) || !take_word(p, ")"))
        return lp_fail(err, LP_ERR_FORMAT, "%s: header: expected a shape, found \"%.40s\"", name, *p);
    *count = n;
    return LP_OK;
}

static lp_status parse_header(const char *header, size_t length, const char *name, size_t *item, uint64_t *count,
                              lp_error *err) {
    enum { DESCR = 1, ORDER = 2, SHAPE = 4, ALL = 7 };
    char text[512];
    int seen = 0;
    bool flat = true, fortran = false;
    if (length >= sizeof text)
        return lp_fail(err, LP_ERR_FORMAT, "%s: header of %zu bytes: expected less than 512", name, length);
    memcpy(text, header, length);
    text[length] = '\0';
    const char *p = text;
    bool more = take_word(&p, "{");
    while (more && *p != '}') {
        int key = take_word(&p, "'descr'") ? DESCR : take_word(&p, "'fortran_order'") ? ORDER : SHAPE;
        if ((seen & key) || (key == SHAPE && !take_word(&p, "'shape'")) || !take_word(&p, ":")) break;
        seen |= key;
        if (key == DESCR) {
            *item = take_word(&p, "'<f4'") ? 4 : take_word(&p, "'<f8'") ? 8 : take_word(&p, "'<f2'") ? 2 : 0;
            if (*item == 0)
                return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: expected dtype float16, float32 or float64, found %.40s",
                               name, p);
        } else if (key == ORDER) {
            fortran = take_word(&p, "True");
            if (!fortran && !take_word(&p, "False")) break;
        } else {
            LP_CHECK(take_shape(&p, name, count, &flat, err));
        }
        more = take_word(&p, ",");
    }
    if (!take_word(&p, "}") || seen != ALL || p != text + length)
        return lp_fail(err, LP_ERR_FORMAT, "%s: header: expected descr, fortran_order and shape, found \"%.200s\"",
                       name, text);
    if (fortran && !flat) return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: expected C order, found Fortran order", name);
    return LP_OK;
}

lp_status lp_npy_parse_f32(const void *data, size_t size, const char *name, float **out, size_t *n, lp_error *err) {
    lp_reader reader = lp_reader_make(data, size, name);
    const unsigned char *bytes = NULL;
    float *values = NULL;
    uint8_t major = 0, minor = 0;
    uint16_t short_length = 0;
    uint32_t length = 0;
    size_t item = 0;
    uint64_t count = 0, wanted = 0;
    lp_status status = LP_OK;
    LP_TRY(lp_read_bytes(&reader, 6, &bytes, err));
    if (memcmp(bytes, "\x93NUMPY", 6) != 0) LP_FAIL(LP_ERR_FORMAT, "%s: not an .npy file", name);
    LP_TRY(lp_read_u8(&reader, &major, err));
    LP_TRY(lp_read_u8(&reader, &minor, err));
    if (major == 1) {
        LP_TRY(lp_read_u16(&reader, &short_length, err));
        length = short_length;
    } else if (major == 2) {
        LP_TRY(lp_read_u32(&reader, &length, err));
    } else {
        LP_FAIL(LP_ERR_UNSUPPORTED, "%s: .npy version %d.%d: expected 1.0 or 2.0", name, major, minor);
    }
    LP_TRY(lp_read_bytes(&reader, length, &bytes, err));
    LP_TRY(parse_header((const char *)bytes, length, name, &item, &count, err));
    if (!lp_mul_u64(count, item, &wanted) || wanted != lp_reader_left(&reader))
        LP_FAIL(LP_ERR_FORMAT, "%s: expected %llu bytes of data, found %zu", name, (unsigned long long)wanted,
                lp_reader_left(&reader));
    LP_TRY(lp_read_bytes(&reader, (size_t)wanted, &bytes, err));
    LP_TRY(lp_mem_new(&values, (size_t)count, sizeof *values, name, err));
    if (item != 8) lp_to_f32(bytes, item == 4 ? LP_F32 : LP_F16, values, (size_t)count);
    for (size_t i = 0; i < count; i++) {
        double wide = 0;
        if (item == 8) {
            memcpy(&wide, bytes + 8 * i, 8);
            values[i] = (float)wide;
        }
        if (!isfinite(values[i])) LP_FAIL(LP_ERR_VALUE, "%s: number %zu is not finite", name, i);
    }
    *out = values;
    *n = (size_t)count;
    return LP_OK;
out:
    lp_mem_free(values);
    return status;
}

lp_status lp_npy_read_f32(const char *path, float **out, size_t *n, lp_error *err) {
    lp_mapped_file file = {0};
    lp_status status = lp_file_map(path, &file, err);
    if (status == LP_OK) status = lp_npy_parse_f32(file.data, file.size, path, out, n, err);
    lp_file_unmap(&file);
    return status;
}
