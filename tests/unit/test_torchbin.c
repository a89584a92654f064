/* PyTorch's .bin files: the zip container, the pickle interpreter and both together. Archives and pickles are made
 * here, byte by byte, so that each can be wrong in one place; that files of torch.save itself load is tested in
 * test_model. */
#include "base/memory.h"
#include "model/pickle.h"
#include "model/torch_bin.h"
#include "model/torch_zip.h"

#include <setjmp.h>

#include <cmocka.h>

#define FILE_NAME "m.bin"

static void add(lp_text *text, const void *bytes, size_t n) {
    lp_error err = {0};
    assert_int_equal(lp_text_add(text, bytes, n, &err), LP_OK);
}

/* The bytes of a literal without its final NUL. */
#define ADD(text, literal) add(text, literal, sizeof(literal) - 1)

static void add_number(lp_text *text, uint64_t number, size_t width) {
    for (size_t i = 0; i < width; i++) {
        char byte = (char)(i < 8 ? number >> (8 * i) & 255 : 0);
        add(text, &byte, 1);
    }
}

static void check(const char *what, lp_status status, const lp_error *err, const char *message) {
    if (status == LP_OK) fail_msg("%s: was taken, expected \"%s\"", what, message);
    if (!strstr(err->text, message) || strncmp(err->text, FILE_NAME ": ", strlen(FILE_NAME ": ")) != 0)
        fail_msg("%s: expected \"%s\", found \"%s\"", what, message, err->text);
}

/* ---- zip ---- */

typedef struct {
    const char *name;
    const char *data;
    size_t size;
    const char *local_name;          /* NULL: name */
    uint16_t flags, method, padding; /* padding: bytes of the local extra field */
    int64_t size_error;              /* added to the size in the directory */
    int64_t offset_error;
    bool zip64; /* sizes and offset of the directory in the zip64 extra field */
} entry_spec;

typedef struct {
    bool zip64_end;
    int n_entries_error;
    int64_t directory_error; /* added to the directory's offset in the end record */
    const char *comment;
} end_spec;

static void make_zip(const entry_spec *entries, size_t n, end_spec end, lp_text *out) {
    uint64_t offsets[16];
    assert_true(n <= 16);
    for (size_t i = 0; i < n; i++) {
        const entry_spec *e = &entries[i];
        const char *name = e->local_name ? e->local_name : e->name;
        offsets[i] = out->length;
        ADD(out, "PK\3\4\0\0");
        add_number(out, e->flags, 2);
        add_number(out, e->method, 2);
        add_number(out, 0, 8); /* time, CRC */
        add_number(out, e->size, 4);
        add_number(out, e->size, 4);
        add_number(out, strlen(name), 2);
        add_number(out, e->padding, 2);
        add(out, name, strlen(name));
        for (size_t k = 0; k < e->padding; k++) ADD(out, "Z");
        add(out, e->data, e->size);
    }
    uint64_t directory = out->length;
    for (size_t i = 0; i < n; i++) {
        const entry_spec *e = &entries[i];
        uint64_t size = e->size + (uint64_t)e->size_error, offset = offsets[i] + (uint64_t)e->offset_error;
        ADD(out, "PK\1\2\0\0\0\0");
        add_number(out, e->flags, 2);
        add_number(out, e->method, 2);
        add_number(out, 0, 8);
        add_number(out, e->zip64 ? UINT32_MAX : size, 4);
        add_number(out, e->zip64 ? UINT32_MAX : size, 4);
        add_number(out, strlen(e->name), 2);
        add_number(out, e->zip64 ? 28 + 5 : 0, 2);
        add_number(out, 0, 10); /* comment, disk, attributes */
        add_number(out, e->zip64 ? UINT32_MAX : offset, 4);
        add(out, e->name, strlen(e->name));
        if (e->zip64) {
            ADD(out, "\7\0\1\0x\1\0\30\0"); /* a field of 1 byte that is not ours, then zip64 */
            add_number(out, size, 8);
            add_number(out, size, 8);
            add_number(out, offset, 8);
        }
    }
    uint64_t directory_size = out->length - directory, end64 = out->length;
    uint64_t count = n + (uint64_t)end.n_entries_error, at = directory + (uint64_t)end.directory_error;
    if (end.zip64_end) {
        ADD(out, "PK\6\6");
        add_number(out, 44, 8);
        add_number(out, 0, 12); /* versions, disks */
        add_number(out, count, 8);
        add_number(out, count, 8);
        add_number(out, directory_size, 8);
        add_number(out, at, 8);
        ADD(out, "PK\6\7\0\0\0\0");
        add_number(out, end64, 8);
        add_number(out, 1, 4);
    }
    ADD(out, "PK\5\6\0\0\0\0");
    add_number(out, end.zip64_end ? UINT16_MAX : count, 2);
    add_number(out, end.zip64_end ? UINT16_MAX : count, 2);
    add_number(out, end.zip64_end ? UINT32_MAX : directory_size, 4);
    add_number(out, end.zip64_end ? UINT32_MAX : at, 4);
    size_t n_comment = end.comment ? strlen(end.comment) : 0;
    add_number(out, n_comment, 2);
    add(out, end.comment, n_comment);
}

/* Parses a copy of exactly that size, so that a read past the end is seen by the sanitizers. */
static lp_status parse_zip(const char *bytes, size_t size, lp_zip *zip, unsigned char **copy, lp_error *err) {
    *copy = malloc(size ? size : 1);
    assert_non_null(*copy);
    if (size) memcpy(*copy, bytes, size);
    return lp_zip_parse(*copy, size, FILE_NAME, zip, err);
}

static void test_good_zips(void **state) {
    (void)state;
    static const end_spec ends[] = {{0}, {.zip64_end = true}, {.comment = "a comment PK\5\6 with a signature"}};
    for (size_t k = 0; k < 2 * sizeof ends / sizeof *ends; k++) {
        entry_spec entries[] = {{.name = "a/one", .data = "1", .size = 1, .padding = 3},
                                {.name = "a/none", .data = "", .size = 0},
                                {.name = "a/two", .data = "22", .size = 2}};
        for (size_t i = 0; i < 3; i++) entries[i].zip64 = k % 2 != 0;
        lp_text file = {0};
        lp_zip zip = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        make_zip(entries, 3, ends[k / 2], &file);
        if (parse_zip(file.data, file.length, &zip, &copy, &err) != LP_OK) fail_msg("case %zu: %s", k, err.text);
        assert_int_equal(zip.n, 3);
        const lp_zip_entry *two = lp_zip_find(&zip, "a/x", 2, "two", 3);
        assert_non_null(two);
        assert_int_equal(two->size, 2);
        assert_memory_equal(two->data, "22", 2);
        assert_null(lp_zip_find(&zip, "a", 1, "two", 3));
        lp_zip_release(&zip);
        lp_text_release(&file);
        free(copy);
    }
}

#define ENTRY(n, d) .name = n, .data = d, .size = sizeof(d) - 1

static const struct {
    const char *what;
    entry_spec entries[2];
    end_spec end;
    const char *message;
} BAD_ZIPS[] = {
    {"compressed",
     {{ENTRY("a", "1"), .method = 8}, {ENTRY("b", "2")}},
     {0},
     "zip entry \"a\" is compressed (method 8)"},
    {"encrypted", {{ENTRY("a", "1"), .flags = 1}, {ENTRY("b", "2")}}, {0}, "zip entry \"a\" is encrypted"},
    {"two names",
     {{ENTRY("a", "1"), .local_name = "c"}, {ENTRY("b", "2")}},
     {0},
     "and the directory name it differently"},
    {"offset", {{ENTRY("a", "1"), .offset_error = 1}, {ENTRY("b", "2")}}, {0}, "no zip entry at byte 1"},
    {"far offset", {{ENTRY("a", "1"), .offset_error = 70000}, {ENTRY("b", "2")}}, {0}, "offset 70000 is past the end"},
    {"far zip64 offset",
     {{ENTRY("a", "1"), .offset_error = INT64_MIN, .zip64 = true}, {ENTRY("b", "2")}},
     {0},
     "offset 9223372036854775808 is past the end"},
    {"long", {{ENTRY("a", "1")}, {ENTRY("b", "2"), .size_error = 1}}, {0}, "zip entry \"b\": 2 bytes at 63 reach past"},
    {"huge",
     {{ENTRY("a", "1"), .size_error = -2, .zip64 = true}, {ENTRY("b", "2")}},
     {0},
     "zip entry \"a\": 18446744073709551615"},
    {"overlap", {{ENTRY("a", "1"), .size_error = 40}, {ENTRY("b", "2345678901")}}, {0}, "\"a\" and \"b\" overlap"},
    {"too many",
     {{ENTRY("a", "1")}, {ENTRY("b", "2")}},
     {.n_entries_error = 1},
     "a zip directory of 94 bytes cannot hold 3"},
    {"far too many",
     {{ENTRY("a", "1")}, {ENTRY("b", "2")}},
     {.zip64_end = true, .n_entries_error = -3},
     "cannot hold 18446744073709551615"},
    {"directory", {{ENTRY("a", "1")}, {ENTRY("b", "2")}}, {.directory_error = -1}, "damaged zip directory at byte 0"},
    {"far directory",
     {{ENTRY("a", "1")}, {ENTRY("b", "2")}},
     {.zip64_end = true, .directory_error = 1 << 20},
     "is past the end"},
};

static void test_bad_zips(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_ZIPS / sizeof *BAD_ZIPS; i++) {
        lp_text file = {0};
        lp_zip zip = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        make_zip(BAD_ZIPS[i].entries, 2, BAD_ZIPS[i].end, &file);
        lp_status status = parse_zip(file.data, file.length, &zip, &copy, &err);
        check(BAD_ZIPS[i].what, status, &err, BAD_ZIPS[i].message);
        lp_text_release(&file);
        free(copy);
    }
    static const char end[] = "PK\5\6\0\0\0\0\377\377\377\377\377\377\377\377\377\377\377\377\0"; /* and a NUL */
    lp_zip zip = {0};
    lp_error err = {0};
    unsigned char *copy = NULL;
    check("end alone", parse_zip(end, sizeof end, &zip, &copy, &err), &err, "the zip64 end record is missing");
    free(copy);
}

/* ---- pickle ---- */

static void add_string(lp_text *out, const char *text) {
    ADD(out, "X");
    add_number(out, strlen(text), 4);
    add(out, text, strlen(text));
}

static void add_int(lp_text *out, int64_t number) {
    if (number >= INT32_MIN && number <= INT32_MAX) {
        ADD(out, "J");
        add_number(out, (uint64_t)number, 4);
    } else {
        ADD(out, "\x8a\x08");
        add_number(out, (uint64_t)number, 8);
    }
}

typedef struct {
    const char *storage_type; /* NULL: FloatStorage */
    const char *key;          /* NULL: "0" */
    int64_t n_stored, offset;
    int64_t shape[2], strides[2];
    bool is_parameter;
} tensor_spec;

static void add_tensor(lp_text *out, const tensor_spec *t) {
    if (t->is_parameter) ADD(out, "ctorch._utils\n_rebuild_parameter\n");
    ADD(out, "ctorch._utils\n_rebuild_tensor_v2\n((");
    add_string(out, "storage");
    ADD(out, "ctorch\n");
    const char *type = t->storage_type ? t->storage_type : "FloatStorage";
    add(out, type, strlen(type));
    ADD(out, "\n");
    add_string(out, t->key ? t->key : "0");
    add_string(out, "cpu");
    add_int(out, t->n_stored);
    ADD(out, "tQ");
    add_int(out, t->offset);
    for (int k = 0; k < 2; k++) {
        const int64_t *pair = k == 0 ? t->shape : t->strides;
        add_int(out, pair[0]);
        add_int(out, pair[1]);
        ADD(out, "\x86");
    }
    ADD(out, "\x89"
             "ccollections\nOrderedDict\n)RtR");
    if (t->is_parameter)
        ADD(out, "\x89"
                 "ccollections\nOrderedDict\n)R\x87R");
}

/* {name: tensor} with `_metadata` attached, as torch.save writes it. */
static void make_pickle(const char *name, const tensor_spec *t, lp_text *out) {
    ADD(out, "\x80\2ccollections\nOrderedDict\n)Rq\0(");
    add_string(out, name);
    add_tensor(out, t);
    ADD(out, "u}q\1");
    add_string(out, "_metadata");
    ADD(out, "ccollections\nOrderedDict\n)Rq\2sb.");
}

static lp_status parse_pickle(const char *bytes, size_t size, lp_pickle_state *pickle, unsigned char **copy,
                              lp_error *err) {
    *copy = malloc(size ? size : 1);
    assert_non_null(*copy);
    if (size) memcpy(*copy, bytes, size);
    return lp_pickle_parse(*copy, size, FILE_NAME, pickle, err);
}

/* Bytes that each make an object: refused at 10 bytes of memory for each, and not at 200. */
static void test_memory_of_pickle(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t n;
    } repeated[] = {{"\x85", 1}, {"]Na", 3}, {"N", 1}, {"N\x94", 2}, {"}", 1}};
    enum { SIZE = 4 << 20 };
    char *bytes = malloc(SIZE);
    assert_non_null(bytes);
    for (size_t i = 0; i < sizeof repeated / sizeof *repeated; i++) {
        lp_pickle_state pickle = {0};
        lp_error err = {0};
        memcpy(bytes, "\x80\2N", 3);
        for (size_t at = 3; at < SIZE; at++) bytes[at] = repeated[i].bytes[(at - 3) % repeated[i].n];
        assert_int_equal(lp_pickle_parse(bytes, SIZE, FILE_NAME, &pickle, &err), LP_ERR_FORMAT);
        if (!strstr(err.text, "that needs more than 41943040 bytes of memory lists no tensors"))
            fail_msg("%s", err.text);
    }
    free(bytes);
}

static void test_good_pickle(void **state) {
    (void)state;
    static const struct {
        const char *type;
        lp_dtype dtype;
    } types[] = {{"FloatStorage", LP_F32},
                 {"HalfStorage", LP_F16},
                 {"BFloat16Storage", LP_BF16},
                 {"LongStorage", LP_I64},
                 {"BoolStorage", LP_BOOL}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        tensor_spec t = {.storage_type = types[i].type,
                         .key = "17",
                         .n_stored = INT64_C(1) << 33,
                         .offset = 5,
                         .shape = {2, 3},
                         .strides = {1, 1 << 20},
                         .is_parameter = i % 2 == 1};
        lp_text bytes = {0};
        lp_pickle_state pickle = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        make_pickle("prj.1.weight", &t, &bytes);
        if (parse_pickle(bytes.data, bytes.length, &pickle, &copy, &err) != LP_OK) fail_msg("%s", err.text);
        assert_int_equal(pickle.n, 1);
        const lp_pickle_tensor *found = &pickle.tensors[0];
        assert_int_equal(found->name_length, 12);
        assert_memory_equal(found->name, "prj.1.weight", 12);
        assert_int_equal(found->storage.dtype, types[i].dtype);
        assert_int_equal(found->storage.n_elements, INT64_C(1) << 33);
        assert_int_equal(found->storage.key_length, 2);
        assert_int_equal(found->offset, 5);
        assert_int_equal(found->shape.n_elements, 6);
        assert_int_equal(found->shape.strides[1], 1 << 20);
        for (size_t size = 0; size < bytes.length; size++) {
            lp_pickle_state part = {0};
            unsigned char *part_copy = NULL;
            lp_status status = parse_pickle(bytes.data, size, &part, &part_copy, &err);
            if (status == LP_OK)
                fail_msg("the first %zu of %zu bytes were taken as a whole pickle", size, bytes.length);
            free(part_copy);
        }
        lp_pickle_release(&pickle);
        lp_text_release(&bytes);
        free(copy);
    }
}

static const struct {
    tensor_spec tensor;
    const char *message;
} BAD_TENSORS[] = {
    {{.n_stored = 5, .shape = {2, 3}, .strides = {3, 1}},
     "a tensor of shape [2, 3] at offset 0 reaches past its storage of 5"},
    {{.n_stored = 6, .offset = 1, .shape = {2, 3}, .strides = {3, 1}}, "at offset 1 reaches past"},
    {{.n_stored = 6, .offset = -1, .shape = {2, 3}, .strides = {3, 1}}, "_rebuild_tensor_v2 with other arguments"},
    {{.n_stored = 6, .offset = INT64_MAX, .shape = {2, 3}, .strides = {INT64_MAX, INT64_MAX}},
     "reaches past its storage"},
    {{.n_stored = 6, .shape = {-1, 3}, .strides = {3, 1}}, "not a tuple of non-negative integers"},
    {{.n_stored = 6, .shape = {2, 3}, .strides = {3, -1}}, "not a tuple of non-negative integers"},
    {{.n_stored = 6, .shape = {INT64_MAX, INT64_MAX}, .strides = {0, 0}}, "the product of a tensor's shape overflows"},
    {{.n_stored = -6, .shape = {2, 3}, .strides = {3, 1}}, "a persistent id that is not ('storage', type"},
    {{.storage_type = "UntypedStorage", .n_stored = 6}, "the pickle asks for \"torch.UntypedStorage\""},
    {{.storage_type = "QInt8Storage", .n_stored = 6}, "the pickle asks for \"torch.QInt8Storage\""},
};

static void test_bad_tensors(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_TENSORS / sizeof *BAD_TENSORS; i++) {
        lp_text bytes = {0};
        lp_pickle_state pickle = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        make_pickle("w", &BAD_TENSORS[i].tensor, &bytes);
        lp_status status = parse_pickle(bytes.data, bytes.length, &pickle, &copy, &err);
        check("bad tensor", status, &err, BAD_TENSORS[i].message);
        lp_text_release(&bytes);
        free(copy);
    }
}

#define PICKLE(text) text, sizeof(text) - 1
#define REBUILD(size, stride)                                                                                          \
    "\x80\2ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0"                       \
    "0X\3\0\0\0cpuK\6tQK\0" size stride "\x89NtR."

static const struct {
    const char *bytes;
    size_t size;
    const char *message;
} BAD_PICKLES[] = {
    {PICKLE("\x80\2cos\nsystem\nX\4\0\0\0echo\x85R."), "the pickle asks for \"os.system\""},
    {PICKLE("\x80\4\x8c\5posix\x8c\6system\x93\x8c\4echo\x85R."), "the pickle asks for \"posix.system\""},
    {PICKLE("\x80\2c__builtin__\neval\n."), "the pickle asks for \"__builtin__.eval\""},
    {PICKLE("\x80\2ctorch._utils\n_rebuild_tensor_v3\n."), "\"torch._utils._rebuild_tensor_v3\""},
    {PICKLE("\x80\2ctorch.serialization\n_get_layout\n."), "\"torch.serialization._get_layout\""},
    {PICKLE("\x80\2(S'os'\ni"), "pickle opcode 0x53 (STRING)"},
    {PICKLE("\x80\2(ios\nsystem\n."), "pickle opcode 0x69 (INST)"},
    {PICKLE("\x80\2)\x81."), "pickle opcode 0x81 (NEWOBJ)"},
    {PICKLE("\x80\2\x82\1."), "pickle opcode 0x82 (EXT1)"},
    {PICKLE("\x80\2o."), "pickle opcode 0x6f (OBJ)"},
    {PICKLE("\x80\2\xff."), "pickle opcode 0xff (no opcode)"},
    {PICKLE("\x80\1}."), "pickle protocol 1: expected 2 to 5"},
    {PICKLE("\x80\6}."), "pickle protocol 6: expected 2 to 5"},
    {PICKLE("}."), "not a pickle of protocol 2 or later"},
    {PICKLE("\x80\2."), "the stack is empty"},
    {PICKLE("\x80\2}.}"), "bytes after its end"},
    {PICKLE("\x80\2]."), "expected a state dict (name -> tensor), found a list"},
    {PICKLE("\x80\2N."), "expected a state dict (name -> tensor), found None"},
    {PICKLE("\x80\2}X\5\0\0\0epochK\3s."), "entry \"epoch\": expected a tensor, found an int"},
    {PICKLE("\x80\2}X\5\0\0\0modelG\0\0\0\0\0\0\0\0s."), "entry \"model\": expected a tensor, found a float"},
    {PICKLE("\x80\2}K\1K\2s."), "found a key that is an int"},
    {PICKLE("\x80\2}X\1\0\0\0\377K\2s."), "a string is not valid UTF-8"},
    {PICKLE("\x80\2}X\377\377\377\377K\2s."), "a string reaches past the end"},
    {PICKLE("\x80\4}\x8d\377\377\377\377\377\377\377\377K\2s."), "a string reaches past the end"},
    {PICKLE("\x80\2}X\1\0\0\0\0K\2s."), "found a key that is an empty or broken string"},
    {PICKLE("\x80\2h\0."), "it refers to a value that was never stored"},
    {PICKLE("\x80\2}r\377\377\377\377."), "the memo is not numbered in order"},
    {PICKLE("\x80\2}u."), "a mark is missing"},
    {PICKLE("\x80\2(K\1K\2u."), "items without a dict"},
    {PICKLE("\x80\2}(K\1u."), "items without a dict"},
    {PICKLE("\x80\2}(K\1e."), "items without a list"},
    {PICKLE("\x80\2(\x85."), "a tuple across a mark"},
    {PICKLE("\x80\2K\1\x87."), "the stack is empty"},
    {PICKLE("\x80\2K\1a."), "the stack is empty"},
    {PICKLE("\x80\2K\1K\2K\3s."), "an item without a dict"},
    {PICKLE("\x80\2K\1K\2a."), "an item without a list"},
    {PICKLE(REBUILD("K\1", "K\1\x85")), "a tensor's size or stride is not a tuple of at most 8 integers"},
    {PICKLE(REBUILD("K\1\x85", "K\1K\1\x86")), "a tensor has a size and a stride of different lengths"},
    {PICKLE("\x80\2K\1K\2\x93."), "the name of a global is not a string"},
    {PICKLE("\x80\2K\1)R."), "a call of something that is not callable"},
    {PICKLE("\x80\2ctorch\nFloatStorage\n)R."), "a storage type is called"},
    {PICKLE("\x80\2ccollections\nOrderedDict\n]\x85R."), "OrderedDict with arguments"},
    {PICKLE("\x80\2ctorch._utils\n_rebuild_tensor_v2\n)R."), "_rebuild_tensor_v2 with other arguments"},
    {PICKLE("\x80\2ctorch._utils\n_rebuild_parameter\n)R."), "_rebuild_parameter with other arguments"},
    {PICKLE("\x80\2K\1Q."), "a persistent id that is not"},
    {PICKLE("\x80\2K\1}b."), "attributes are set on something that is not a state dict"},
    {PICKLE("\x80\2\x8a\x09\0\0\0\0\0\0\0\0\1."), "an integer of more than 64 bits"},
    {PICKLE("\x80\2\x8a\5\0"), "truncated at byte 4"},
    {PICKLE("\x80\2cos"), "line at byte 3 has no end"},
};

static void test_bad_pickles(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof BAD_PICKLES / sizeof *BAD_PICKLES; i++) {
        lp_pickle_state pickle = {0};
        lp_error err = {0};
        unsigned char *copy = NULL;
        lp_status status = parse_pickle(BAD_PICKLES[i].bytes, BAD_PICKLES[i].size, &pickle, &copy, &err);
        check("bad pickle", status, &err, BAD_PICKLES[i].message);
        free(copy);
    }
    enum { LONG = (16 << 20) + 1 };
    lp_pickle_state pickle = {0};
    lp_error err = {0};
    unsigned char *bytes = calloc(LONG, 1);
    assert_non_null(bytes);
    memcpy(bytes, "\x80\2", 2);
    check("long", lp_pickle_parse(bytes, LONG, FILE_NAME, &pickle, &err), &err, "a pickle of 16777217 bytes, at most");
    free(bytes);
}

/* A list that contains itself: nothing may follow it. */
static void test_cycle(void **state) {
    (void)state;
    static const char bytes[] = "\x80\2}q\0X\1\0\0\0ah\0s.";
    lp_pickle_state pickle = {0};
    lp_error err = {0};
    unsigned char *copy = NULL;
    lp_status status = parse_pickle(bytes, sizeof bytes - 1, &pickle, &copy, &err);
    check("cycle", status, &err, "entry \"a\": expected a tensor, found a dict");
    free(copy);
}

/* ---- the whole file ---- */

static const tensor_spec MATRIX = {.n_stored = 8, .offset = 1, .shape = {2, 3}, .strides = {1, 2}};

/* An archive "x" of one tensor "w" with a storage of n_bytes bytes 0, 1, 2, ... and one more entry. */
static void make_bin(size_t n_bytes, const char *storage_name, entry_spec extra, lp_text *out) {
    lp_text pickle = {0};
    char storage[64];
    assert_true(n_bytes <= sizeof storage);
    for (size_t i = 0; i < n_bytes; i++) storage[i] = (char)i;
    make_pickle("w", &MATRIX, &pickle);
    entry_spec entries[] = {{.name = "x/data.pkl", .data = pickle.data, .size = pickle.length},
                            {.name = storage_name, .data = storage, .size = n_bytes, .padding = 1},
                            extra};
    make_zip(entries, extra.name ? 3 : 2, (end_spec){0}, out);
    lp_text_release(&pickle);
}

static lp_status parse_bin(const char *bytes, size_t size, lp_tensor_list *list, unsigned char **copy, lp_error *err) {
    *copy = malloc(size ? size : 1);
    assert_non_null(*copy);
    if (size) memcpy(*copy, bytes, size);
    return lp_torch_bin_parse(*copy, size, FILE_NAME, list, err);
}

static void test_good_bin(void **state) {
    (void)state;
    lp_text file = {0};
    lp_tensor_list list = {0};
    lp_error err = {0};
    unsigned char *copy = NULL;
    make_bin(32, "x/data/0", (entry_spec){ENTRY("x/byteorder", "little")}, &file);
    assert_true(lp_torch_bin_recognise(file.data, file.length));
    if (parse_bin(file.data, file.length, &list, &copy, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(list.n, 1);
    assert_string_equal(list.items[0].name, "w");
    assert_int_equal(list.items[0].data[0], 4);
    assert_int_equal(list.items[0].strides[1], 2);
    assert_false(lp_tensor_is_contiguous(&list.items[0]));
    lp_tensor_list_release(&list);
    free(copy);
    for (size_t size = 0; size < file.length; size++) {
        lp_status status = parse_bin(file.data, size, &list, &copy, &err);
        if (status == LP_OK) fail_msg("the first %zu of %zu bytes were taken as a whole file", size, file.length);
        lp_tensor_list_release(&list);
        free(copy);
    }
    lp_text_release(&file);
}

static const struct {
    size_t n_bytes;
    const char *storage_name;
    entry_spec extra;
    const char *message;
} BAD_BINS[] = {
    {31, "x/data/0", {0}, "tensor \"w\": its storage of 8 f32 values needs more than the 31 bytes of data/0"},
    {32, "x/data/1", {0}, "tensor \"w\": its storage, the entry data/0, is missing"},
    {32, "y/data/0", {0}, "tensor \"w\": its storage, the entry data/0, is missing"},
    {32, "x/data/0", {ENTRY("x/byteorder", "big")}, "written on a big-endian machine"},
    {32, "x/data/0", {ENTRY("y/data.pkl", "\x80\2}.")}, "two entries are named */data.pkl"},
    {32, "x/data/0", {ENTRY("x/constants.pkl", "\x80\2}.")}, "a TorchScript archive, not a checkpoint"},
};

static void test_bad_bins(void **state) {
    (void)state;
    lp_text file = {0};
    lp_tensor_list list = {0};
    lp_error err = {0};
    unsigned char *copy = NULL;
    for (size_t i = 0; i < sizeof BAD_BINS / sizeof *BAD_BINS; i++) {
        make_bin(BAD_BINS[i].n_bytes, BAD_BINS[i].storage_name, BAD_BINS[i].extra, &file);
        lp_status status = parse_bin(file.data, file.length, &list, &copy, &err);
        check("bad file", status, &err, BAD_BINS[i].message);
        lp_tensor_list_release(&list);
        lp_text_clear(&file);
        free(copy);
    }
    make_zip(&(entry_spec){ENTRY("word/document.xml", "<x/>")}, 1, (end_spec){0}, &file);
    check("docx", parse_bin(file.data, file.length, &list, &copy, &err), &err,
          "a zip archive, but not a PyTorch checkpoint");
    free(copy);
    static const char legacy[] = "\x80\2\x8a\nl\xfc\x9c"
                                 "F\xf9 j\xa8P\x19.\x80\2M\xe9\3.";
    assert_true(lp_torch_bin_recognise(legacy, sizeof legacy - 1));
    check("legacy", parse_bin(legacy, sizeof legacy - 1, &list, &copy, &err), &err,
          "written in PyTorch's old format (before 1.6): convert it with python -c \"import torch; torch.save(");
    free(copy);
    check("empty", parse_bin("", 0, &list, &copy, &err), &err, "the file is empty");
    free(copy);
    lp_text_release(&file);
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_zips),   cmocka_unit_test(test_bad_zips),
        cmocka_unit_test(test_good_pickle), cmocka_unit_test(test_memory_of_pickle),
        cmocka_unit_test(test_bad_tensors), cmocka_unit_test(test_bad_pickles),
        cmocka_unit_test(test_cycle),       cmocka_unit_test(test_good_bin),
        cmocka_unit_test(test_bad_bins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
