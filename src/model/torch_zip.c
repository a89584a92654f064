#include "model/torch_zip.h"

#include "base/memory.h"
#include "base/reader.h"

/* PKWARE APPNOTE 6.3: record sizes without their variable parts, and signatures. */
enum { END_BYTES = 22, END64_LOCATOR_BYTES = 20, CENTRAL_BYTES = 46, MAX_COMMENT = 65535 };
#define END_SIGNATURE         0x06054b50u
#define END64_SIGNATURE       0x06064b50u
#define END64_LOCATOR         0x07064b50u
#define CENTRAL_SIGNATURE     0x02014b50u
#define LOCAL_SIGNATURE       0x04034b50u
#define FOLLOWS_IN_ZIP64      0xffffffffu
#define FOLLOWS_IN_ZIP64_16   0xffffu
#define ZIP64_EXTRA           0x0001u
#define FLAG_ENCRYPTED        0x0001u
#define FLAG_STRONG_ENCRYPTED 0x0040u

typedef struct {
    uint64_t n_entries, offset, size; /* of the central directory */
} directory;

static lp_status find_end(lp_reader *reader, lp_error *err) {
    static const unsigned char signature[] = {'P', 'K', 5, 6};
    if (reader->size < END_BYTES)
        return lp_fail(err, LP_ERR_FORMAT, "%s: too short for a zip archive: %zu bytes", reader->what, reader->size);
    size_t lowest = reader->size - END_BYTES > MAX_COMMENT ? reader->size - END_BYTES - MAX_COMMENT : 0;
    for (size_t at = reader->size - END_BYTES + 1; at-- > lowest;) {
        if (memcmp(reader->data + at, signature, sizeof signature) != 0) continue;
        size_t comment = (size_t)reader->data[at + 20] | (size_t)reader->data[at + 21] << 8;
        if (at + END_BYTES + comment == reader->size) return lp_reader_seek(reader, at, err);
    }
    return lp_fail(err, LP_ERR_FORMAT, "%s: the zip archive has no end record: the file is cut short or not complete",
                   reader->what);
}

static lp_status read_end64(lp_reader *reader, size_t end_at, directory *out, lp_error *err) {
    uint32_t signature = 0, disk = 0;
    uint64_t at = 0, ignored64 = 0, n_here = 0;
    uint16_t ignored16 = 0;
    if (end_at < END64_LOCATOR_BYTES)
        return lp_fail(err, LP_ERR_FORMAT, "%s: the zip64 end record is missing", reader->what);
    LP_CHECK(lp_reader_seek(reader, end_at - END64_LOCATOR_BYTES, err));
    LP_CHECK(lp_read_u32(reader, &signature, err));
    if (signature != END64_LOCATOR)
        return lp_fail(err, LP_ERR_FORMAT, "%s: the zip64 end record is missing", reader->what);
    LP_CHECK(lp_read_u32(reader, &disk, err));
    LP_CHECK(lp_read_u64(reader, &at, err));
    LP_CHECK(lp_reader_seek(reader, (size_t)at, err));
    LP_CHECK(lp_read_u32(reader, &signature, err));
    if (signature != END64_SIGNATURE)
        return lp_fail(err, LP_ERR_FORMAT, "%s: no zip64 end record at byte %llu", reader->what,
                       (unsigned long long)at);
    LP_CHECK(lp_read_u64(reader, &ignored64, err)); /* size of this record */
    LP_CHECK(lp_read_u16(reader, &ignored16, err)); /* made by */
    LP_CHECK(lp_read_u16(reader, &ignored16, err)); /* needed to extract */
    LP_CHECK(lp_read_u32(reader, &disk, err));
    LP_CHECK(lp_read_u32(reader, &disk, err));
    LP_CHECK(lp_read_u64(reader, &n_here, err));
    LP_CHECK(lp_read_u64(reader, &out->n_entries, err));
    LP_CHECK(lp_read_u64(reader, &out->size, err));
    LP_CHECK(lp_read_u64(reader, &out->offset, err));
    if (n_here != out->n_entries)
        return lp_fail(err, LP_ERR_FORMAT, "%s: a zip archive in several parts", reader->what);
    return LP_OK;
}

static lp_status read_end(lp_reader *reader, directory *out, lp_error *err) {
    uint32_t signature = 0, size = 0, offset = 0;
    uint16_t disk = 0, first_disk = 0, n_here = 0, n = 0;
    LP_CHECK(find_end(reader, err));
    size_t end_at = reader->offset;
    LP_CHECK(lp_read_u32(reader, &signature, err));
    LP_CHECK(lp_read_u16(reader, &disk, err));
    LP_CHECK(lp_read_u16(reader, &first_disk, err));
    LP_CHECK(lp_read_u16(reader, &n_here, err));
    LP_CHECK(lp_read_u16(reader, &n, err));
    LP_CHECK(lp_read_u32(reader, &size, err));
    LP_CHECK(lp_read_u32(reader, &offset, err));
    if (n == FOLLOWS_IN_ZIP64_16 || size == FOLLOWS_IN_ZIP64 || offset == FOLLOWS_IN_ZIP64)
        return read_end64(reader, end_at, out, err);
    if (disk != 0 || first_disk != 0 || n_here != n)
        return lp_fail(err, LP_ERR_FORMAT, "%s: a zip archive in several parts", reader->what);
    *out = (directory){.n_entries = n, .offset = offset, .size = size};
    return LP_OK;
}

/* Sizes and offset that did not fit into 32 bits stand in the zip64 extra field, in this order. */
static lp_status read_zip64_extra(const unsigned char *extra, size_t n_extra, const char *file, uint64_t *size,
                                  uint64_t *stored, uint64_t *offset, lp_error *err) {
    lp_reader reader = lp_reader_make(extra, n_extra, file);
    while (lp_reader_left(&reader) >= 4) {
        uint16_t id = 0, n = 0;
        const unsigned char *field = NULL;
        LP_CHECK(lp_read_u16(&reader, &id, err));
        LP_CHECK(lp_read_u16(&reader, &n, err));
        LP_CHECK(lp_read_bytes(&reader, n, &field, err));
        if (id != ZIP64_EXTRA) continue;
        lp_reader values = lp_reader_make(field, n, file);
        if (*size == FOLLOWS_IN_ZIP64) LP_CHECK(lp_read_u64(&values, size, err));
        if (*stored == FOLLOWS_IN_ZIP64) LP_CHECK(lp_read_u64(&values, stored, err));
        if (*offset == FOLLOWS_IN_ZIP64) LP_CHECK(lp_read_u64(&values, offset, err));
        return LP_OK;
    }
    return LP_OK;
}

/* The local header repeats the name; its extra field (torch pads with it) may differ from the central one. */
static lp_status locate_data(const lp_reader *whole, uint64_t offset, uint64_t size, uint64_t limit,
                             lp_zip_entry *entry, lp_error *err) {
    lp_reader reader = *whole;
    uint32_t signature = 0;
    uint16_t n_name = 0, n_extra = 0;
    const unsigned char *skipped = NULL, *name = NULL;
    LP_CHECK(lp_reader_seek(&reader, (size_t)offset, err));
    LP_CHECK(lp_read_u32(&reader, &signature, err));
    if (signature != LOCAL_SIGNATURE)
        return lp_fail(err, LP_ERR_FORMAT, "%s: no zip entry at byte %llu", whole->what, (unsigned long long)offset);
    LP_CHECK(lp_read_bytes(&reader, 22, &skipped, err));
    LP_CHECK(lp_read_u16(&reader, &n_name, err));
    LP_CHECK(lp_read_u16(&reader, &n_extra, err));
    LP_CHECK(lp_read_bytes(&reader, n_name, &name, err));
    if (n_name != entry->name_length || memcmp(name, entry->name, n_name) != 0)
        return lp_fail(err, LP_ERR_FORMAT, "%s: the zip entry at byte %llu and the directory name it differently",
                       whole->what, (unsigned long long)offset);
    LP_CHECK(lp_read_bytes(&reader, n_extra, &skipped, err));
    if (reader.offset > limit || size > limit - reader.offset)
        return lp_fail(err, LP_ERR_FORMAT,
                       "%s: zip entry \"%.*s\": %llu bytes at %zu reach past the last one's end, %llu", whole->what,
                       (int)entry->name_length, entry->name, (unsigned long long)size, reader.offset,
                       (unsigned long long)limit);
    LP_CHECK(lp_read_bytes(&reader, (size_t)size, &entry->data, err));
    entry->size = (size_t)size;
    return LP_OK;
}

static lp_status read_entry(lp_reader *central, const lp_reader *whole, uint64_t limit, lp_zip_entry *entry,
                            lp_error *err) {
    uint32_t signature = 0, ignored32 = 0, stored32 = 0, size32 = 0, offset32 = 0;
    uint16_t ignored16 = 0, flags = 0, method = 0, n_name = 0, n_extra = 0, n_comment = 0;
    const unsigned char *name = NULL, *extra = NULL, *comment = NULL;
    LP_CHECK(lp_read_u32(central, &signature, err));
    if (signature != CENTRAL_SIGNATURE)
        return lp_fail(err, LP_ERR_FORMAT, "%s: damaged zip directory at byte %zu of it", whole->what,
                       central->offset - 4);
    LP_CHECK(lp_read_u32(central, &ignored32, err)); /* versions */
    LP_CHECK(lp_read_u16(central, &flags, err));
    LP_CHECK(lp_read_u16(central, &method, err));
    LP_CHECK(lp_read_u32(central, &ignored32, err)); /* time */
    LP_CHECK(lp_read_u32(central, &ignored32, err)); /* CRC-32, which torch can be told not to compute */
    LP_CHECK(lp_read_u32(central, &stored32, err));
    LP_CHECK(lp_read_u32(central, &size32, err));
    LP_CHECK(lp_read_u16(central, &n_name, err));
    LP_CHECK(lp_read_u16(central, &n_extra, err));
    LP_CHECK(lp_read_u16(central, &n_comment, err));
    LP_CHECK(lp_read_u16(central, &ignored16, err)); /* disk */
    LP_CHECK(lp_read_u16(central, &ignored16, err)); /* attributes */
    LP_CHECK(lp_read_u32(central, &ignored32, err));
    LP_CHECK(lp_read_u32(central, &offset32, err));
    LP_CHECK(lp_read_bytes(central, n_name, &name, err));
    LP_CHECK(lp_read_bytes(central, n_extra, &extra, err));
    LP_CHECK(lp_read_bytes(central, n_comment, &comment, err));
    *entry = (lp_zip_entry){.name = (const char *)name, .name_length = n_name};
    if (flags & (FLAG_ENCRYPTED | FLAG_STRONG_ENCRYPTED))
        return lp_fail(err, LP_ERR_UNSUPPORTED, "%s: zip entry \"%.*s\" is encrypted", whole->what, (int)n_name,
                       entry->name);
    if (method != 0)
        return lp_fail(
            err, LP_ERR_UNSUPPORTED,
            "%s: zip entry \"%.*s\" is compressed (method %u), which torch.save does not do: expected a PyTorch "
            "checkpoint",
            whole->what, (int)n_name, entry->name, method);
    uint64_t size = size32, stored = stored32, offset = offset32;
    LP_CHECK(read_zip64_extra(extra, n_extra, whole->what, &size, &stored, &offset, err));
    if (size != stored)
        return lp_fail(err, LP_ERR_FORMAT, "%s: zip entry \"%.*s\" is stored, but has two sizes: %llu and %llu",
                       whole->what, (int)n_name, entry->name, (unsigned long long)size, (unsigned long long)stored);
    return locate_data(whole, offset, size, limit, entry, err);
}

static int compare_data(const void *a, const void *b) {
    const lp_zip_entry *left = a, *right = b;
    if (left->data != right->data) return left->data < right->data ? -1 : 1;
    return left->size < right->size ? -1 : left->size > right->size;
}

static lp_status check_overlap(const lp_zip *zip, const char *file, lp_error *err) {
    lp_zip_entry *sorted = NULL;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&sorted, zip->n, sizeof *sorted, "zip entries", err));
    if (zip->n) {
        memcpy(sorted, zip->entries, zip->n * sizeof *sorted);
        qsort(sorted, zip->n, sizeof *sorted, compare_data);
    }
    for (size_t i = 1; i < zip->n; i++)
        if (sorted[i].data < sorted[i - 1].data + sorted[i - 1].size)
            LP_FAIL(LP_ERR_FORMAT, "%s: zip entries \"%.*s\" and \"%.*s\" overlap", file,
                    (int)sorted[i - 1].name_length, sorted[i - 1].name, (int)sorted[i].name_length, sorted[i].name);
out:
    lp_mem_free(sorted);
    return status;
}

lp_status lp_zip_parse(const void *data, size_t size, const char *file, lp_zip *out, lp_error *err) {
    lp_reader whole = lp_reader_make(data, size, file);
    directory where = {0};
    lp_zip zip = {0};
    const unsigned char *bytes = NULL;
    lp_status status = LP_OK;
    LP_TRY(read_end(&whole, &where, err));
    LP_TRY(lp_reader_seek(&whole, (size_t)where.offset, err));
    LP_TRY(lp_read_bytes(&whole, (size_t)where.size, &bytes, err));
    if (where.n_entries > where.size / CENTRAL_BYTES)
        LP_FAIL(LP_ERR_FORMAT, "%s: a zip directory of %llu bytes cannot hold %llu entries", file,
                (unsigned long long)where.size, (unsigned long long)where.n_entries);
    lp_reader central = lp_reader_make(bytes, (size_t)where.size, file);
    for (uint64_t i = 0; i < where.n_entries; i++) {
        LP_TRY(lp_mem_grow(&zip.entries, &zip.capacity, zip.n + 1, sizeof *zip.entries, "zip entries", err));
        LP_TRY(read_entry(&central, &whole, where.offset, &zip.entries[zip.n], err));
        zip.n++;
    }
    LP_TRY(check_overlap(&zip, file, err));
    *out = zip;
    return LP_OK;
out:
    lp_zip_release(&zip);
    return status;
}

void lp_zip_release(lp_zip *zip) {
    lp_mem_free(zip->entries);
    *zip = (lp_zip){0};
}

const lp_zip_entry *lp_zip_find(const lp_zip *zip, const char *prefix, size_t prefix_length, const char *suffix,
                                size_t suffix_length) {
    for (size_t i = 0; i < zip->n; i++) {
        const lp_zip_entry *entry = &zip->entries[i];
        if (entry->name_length == prefix_length + suffix_length && memcmp(entry->name, prefix, prefix_length) == 0 &&
            memcmp(entry->name + prefix_length, suffix, suffix_length) == 0)
            return entry;
    }
    return NULL;
}
