/* The virtual machine of Python's pickle (pickletools.py describes the opcodes): a stack, a memo, and containers.
 * Values are small tagged structs; containers live in one pool and are named by their index, so that shared and even
 * cyclic references cost nothing and freeing is one loop. Each opcode adds at most a constant amount of memory. */
#include "model/pickle.h"

#include "base/json.h"
#include "base/memory.h"
#include "base/reader.h"

/* The pickle of a checkpoint takes some hundred bytes per tensor; the limit bounds what a hostile one can allocate. */
enum { MAX_GLOBAL_NAME = 120, MAX_PICKLE = 16 << 20 };

typedef enum {
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STRING,
    V_GLOBAL,
    V_STORAGE,
    V_TENSOR,
    V_TUPLE,
    V_LIST,
    V_DICT,
    V_MARK
} value_kind;

static const char *const KIND_NAMES[] = {"None",      "a bool",   "an int",  "a float", "a string", "a global",
                                         "a storage", "a tensor", "a tuple", "a list",  "a dict",   "a mark"};

/* Bytes of memory for each byte of a pickle; small ones may take the floor. torch's need less. */
enum { PICKLE_MEMORY = 10, PICKLE_MEMORY_FLOOR = 16 << 20 };

/* What a global may be. */
typedef enum { G_ORDERED_DICT, G_REBUILD_TENSOR, G_REBUILD_PARAMETER, G_STORAGE } global_kind;

typedef struct {
    value_kind kind;
    global_kind global;
    lp_dtype dtype;   /* V_GLOBAL storage type */
    int64_t integer;  /* V_INT, V_BOOL; index into objects, storages or tensors */
    const char *text; /* V_STRING, borrowed */
    size_t length;
} pickle_value;

typedef struct {
    pickle_value *items; /* a dict's: key, value, key, value, ... */
    size_t n, capacity;
} pickle_object;

typedef struct {
    lp_pickle_storage storage;
    int64_t offset;
    lp_tensor shape;
} pickle_tensor;

typedef struct {
    lp_reader reader;
    const char *file;
    pickle_value *stack;
    size_t depth, stack_capacity;
    pickle_value *memo;
    bool *memo_set;
    size_t memo_capacity, memo_set_capacity, n_memo;
    pickle_object *objects;
    size_t n_objects, object_capacity;
    lp_pickle_storage *storages;
    size_t n_storages, storage_capacity;
    pickle_tensor *tensors;
    size_t n_tensors, tensor_capacity;
} pickle_machine;

static const struct {
    const char *name;
    global_kind kind;
    lp_dtype dtype;
} GLOBALS[] = {
    {"collections.OrderedDict", G_ORDERED_DICT, LP_F32},
    {"torch._utils._rebuild_tensor_v2", G_REBUILD_TENSOR, LP_F32},
    {"torch._utils._rebuild_parameter", G_REBUILD_PARAMETER, LP_F32},
    {"torch.FloatStorage", G_STORAGE, LP_F32},
    {"torch.HalfStorage", G_STORAGE, LP_F16},
    {"torch.BFloat16Storage", G_STORAGE, LP_BF16},
    {"torch.DoubleStorage", G_STORAGE, LP_F64},
    {"torch.LongStorage", G_STORAGE, LP_I64},
    {"torch.IntStorage", G_STORAGE, LP_I32},
    {"torch.ShortStorage", G_STORAGE, LP_I16},
    {"torch.CharStorage", G_STORAGE, LP_I8},
    {"torch.ByteStorage", G_STORAGE, LP_U8},
    {"torch.BoolStorage", G_STORAGE, LP_BOOL},
};

static lp_status push(pickle_machine *machine, pickle_value value, lp_error *err) {
    lp_status status = lp_mem_grow(&machine->stack, &machine->stack_capacity, machine->depth + 1,
                                   sizeof *machine->stack, "pickle stack", err);
    if (status == LP_OK) machine->stack[machine->depth++] = value;
    return status;
}

static lp_status damaged(const pickle_machine *machine, const char *what, lp_error *err) {
    return lp_fail(err, LP_ERR_FORMAT, "%s: damaged pickle before byte %zu: %s", machine->file, machine->reader.offset,
                   what);
}

/* Takes the top value; a mark is none. */
static lp_status pop(pickle_machine *machine, pickle_value *out, lp_error *err) {
    if (machine->depth == 0 || machine->stack[machine->depth - 1].kind == V_MARK)
        return damaged(machine, "the stack is empty", err);
    *out = machine->stack[--machine->depth];
    return LP_OK;
}

static lp_status top(pickle_machine *machine, pickle_value **out, lp_error *err) {
    if (machine->depth == 0 || machine->stack[machine->depth - 1].kind == V_MARK)
        return damaged(machine, "the stack is empty", err);
    *out = &machine->stack[machine->depth - 1];
    return LP_OK;
}

/* The values above the highest mark: stack[*first .. depth). The mark is at *first - 1. */
static lp_status above_mark(pickle_machine *machine, size_t *first, lp_error *err) {
    for (size_t i = machine->depth; i-- > 0;)
        if (machine->stack[i].kind == V_MARK) {
            *first = i + 1;
            return LP_OK;
        }
    return damaged(machine, "a mark is missing", err);
}

static lp_status new_object(pickle_machine *machine, value_kind kind, pickle_value *out, lp_error *err) {
    LP_CHECK(lp_mem_grow(&machine->objects, &machine->object_capacity, machine->n_objects + 1, sizeof *machine->objects,
                         "pickle objects", err));
    *out = (pickle_value){.kind = kind, .integer = (int64_t)machine->n_objects};
    machine->objects[machine->n_objects++] = (pickle_object){0};
    return LP_OK;
}

static lp_status append(pickle_machine *machine, const pickle_value *container, const pickle_value *items, size_t n,
                        lp_error *err) {
    pickle_object *object = &machine->objects[container->integer];
    LP_CHECK(lp_mem_grow(&object->items, &object->capacity, object->n + n, sizeof *object->items, "pickle items", err));
    if (n) memcpy(object->items + object->n, items, n * sizeof *items);
    object->n += n;
    return LP_OK;
}

/* ---- memo ---- */

static lp_status memo_put(pickle_machine *machine, uint64_t at, lp_error *err) {
    pickle_value *value = NULL;
    LP_CHECK(top(machine, &value, err));
    /* torch numbers the memo from 0 on; a far index would only be a way to ask for memory. */
    if (at > machine->n_memo + 1) return damaged(machine, "the memo is not numbered in order", err);
    LP_CHECK(lp_mem_grow(&machine->memo, &machine->memo_capacity, (size_t)at + 1, sizeof *machine->memo, "pickle memo",
                         err));
    LP_CHECK(lp_mem_grow(&machine->memo_set, &machine->memo_set_capacity, (size_t)at + 1, sizeof *machine->memo_set,
                         "pickle memo", err));
    machine->memo[at] = *value;
    machine->memo_set[at] = true;
    if (at >= machine->n_memo) machine->n_memo = (size_t)at + 1;
    return LP_OK;
}

static lp_status memo_get(pickle_machine *machine, uint64_t at, lp_error *err) {
    if (at >= machine->n_memo || !machine->memo_set[at])
        return damaged(machine, "it refers to a value that was never stored", err);
    return push(machine, machine->memo[at], err);
}

/* ---- globals, storages, tensors ---- */

static lp_status push_global(pickle_machine *machine, const char *module, size_t module_length, const char *name,
                             size_t name_length, lp_error *err) {
    char full[MAX_GLOBAL_NAME];
    bool fits = module_length + name_length + 2 <= sizeof full;
    snprintf(full, sizeof full, "%.*s.%.*s", (int)(module_length < 60 ? module_length : 60), module,
             (int)(name_length < 58 ? name_length : 58), name);
    for (size_t i = 0; fits && i < sizeof GLOBALS / sizeof *GLOBALS; i++)
        if (strcmp(GLOBALS[i].name, full) == 0)
            return push(machine, (pickle_value){.kind = V_GLOBAL, .global = GLOBALS[i].kind, .dtype = GLOBALS[i].dtype},
                        err);
    return lp_fail(err, LP_ERR_FORMAT,
                   "%s: the pickle asks for \"%s\", which a checkpoint of plain tensors does not need: refused",
                   machine->file, full);
}

static const pickle_value *tuple_items(const pickle_machine *machine, const pickle_value *value, size_t *n) {
    *n = 0;
    if (value->kind != V_TUPLE) return NULL;
    *n = machine->objects[value->integer].n;
    return machine->objects[value->integer].items;
}

/* ('storage', <storage type>, key, location, number of elements) */
static lp_status push_storage(pickle_machine *machine, lp_error *err) {
    pickle_value id = {0};
    size_t n = 0;
    LP_CHECK(pop(machine, &id, err));
    const pickle_value *part = tuple_items(machine, &id, &n);
    bool good = n == 5 && part[0].kind == V_STRING && part[0].length == 7 && memcmp(part[0].text, "storage", 7) == 0 &&
                part[1].kind == V_GLOBAL && part[1].global == G_STORAGE && part[2].kind == V_STRING &&
                part[3].kind == V_STRING && part[4].kind == V_INT && part[4].integer >= 0;
    if (!good) return damaged(machine, "a persistent id that is not ('storage', type, key, location, size)", err);
    LP_CHECK(lp_mem_grow(&machine->storages, &machine->storage_capacity, machine->n_storages + 1,
                         sizeof *machine->storages, "storages", err));
    machine->storages[machine->n_storages] = (lp_pickle_storage){.key = part[2].text,
                                                                 .key_length = part[2].length,
                                                                 .dtype = part[1].dtype,
                                                                 .n_elements = (uint64_t)part[4].integer};
    return push(machine, (pickle_value){.kind = V_STORAGE, .integer = (int64_t)machine->n_storages++}, err);
}

static lp_status read_extents(const pickle_machine *machine, const pickle_value *value, int64_t *out, int *n_dims,
                              lp_error *err) {
    size_t n = 0;
    const pickle_value *items = tuple_items(machine, value, &n);
    if (value->kind != V_TUPLE || n > LP_TENSOR_MAX_DIMS)
        return damaged(machine, "a tensor's size or stride is not a tuple of at most 8 integers", err);
    for (size_t i = 0; i < n; i++) {
        if (items[i].kind != V_INT || items[i].integer < 0)
            return damaged(machine, "a tensor's size or stride is not a tuple of non-negative integers", err);
        out[i] = items[i].integer;
    }
    *n_dims = (int)n;
    return LP_OK;
}

/* The last element that shape and strides reach must lie in the storage. */
static bool lies_inside(const lp_tensor *tensor, int64_t offset, uint64_t n_elements) {
    uint64_t last = (uint64_t)offset;
    if (tensor->n_elements == 0) return last <= n_elements;
    for (int d = 0; d < tensor->n_dims; d++) {
        uint64_t reach = 0;
        if (!lp_mul_u64((uint64_t)(tensor->shape[d] - 1), (uint64_t)tensor->strides[d], &reach) ||
            !lp_add_u64(last, reach, &last))
            return false;
    }
    return last < n_elements;
}

/* _rebuild_tensor_v2(storage, storage_offset, size, stride, requires_grad, backward_hooks[, metadata]) */
static lp_status rebuild_tensor(pickle_machine *machine, const pickle_value *args, size_t n, pickle_value *out,
                                lp_error *err) {
    if (n < 6 || n > 7 || args[0].kind != V_STORAGE || args[1].kind != V_INT || args[1].integer < 0)
        return damaged(machine, "_rebuild_tensor_v2 with other arguments than a storage, an offset, ...", err);
    pickle_tensor value = {.storage = machine->storages[args[0].integer], .offset = args[1].integer};
    int64_t strides[LP_TENSOR_MAX_DIMS] = {0};
    int n_strides = 0;
    value.shape.dtype = value.storage.dtype;
    LP_CHECK(read_extents(machine, &args[2], value.shape.shape, &value.shape.n_dims, err));
    LP_CHECK(read_extents(machine, &args[3], strides, &n_strides, err));
    if (n_strides != value.shape.n_dims)
        return damaged(machine, "a tensor has a size and a stride of different lengths", err);
    if (lp_tensor_set_shape(&value.shape, err) != LP_OK)
        return damaged(machine, "the product of a tensor's shape overflows", err);
    memcpy(value.shape.strides, strides, sizeof strides);
    if (!lies_inside(&value.shape, value.offset, value.storage.n_elements)) {
        char shape[128];
        lp_tensor_shape_text(&value.shape, shape, sizeof shape);
        return lp_fail(err, LP_ERR_FORMAT,
                       "%s: a tensor of shape %s at offset %lld reaches past its storage of %llu elements",
                       machine->file, shape, (long long)value.offset, (unsigned long long)value.storage.n_elements);
    }
    LP_CHECK(lp_mem_grow(&machine->tensors, &machine->tensor_capacity, machine->n_tensors + 1, sizeof *machine->tensors,
                         "tensors", err));
    machine->tensors[machine->n_tensors] = value;
    *out = (pickle_value){.kind = V_TENSOR, .integer = (int64_t)machine->n_tensors++};
    return LP_OK;
}

static lp_status reduce(pickle_machine *machine, lp_error *err) {
    pickle_value args = {0}, callable = {0}, result = {0};
    size_t n = 0;
    LP_CHECK(pop(machine, &args, err));
    LP_CHECK(pop(machine, &callable, err));
    const pickle_value *items = tuple_items(machine, &args, &n);
    if (callable.kind != V_GLOBAL || args.kind != V_TUPLE)
        return damaged(machine, "a call of something that is not callable", err);
    switch (callable.global) {
    case G_ORDERED_DICT:
        if (n != 0) return damaged(machine, "OrderedDict with arguments", err);
        LP_CHECK(new_object(machine, V_DICT, &result, err));
        break;
    case G_REBUILD_TENSOR: LP_CHECK(rebuild_tensor(machine, items, n, &result, err)); break;
    case G_REBUILD_PARAMETER:
        if (n != 3 || items[0].kind != V_TENSOR)
            return damaged(machine, "_rebuild_parameter with other arguments than a tensor, a flag and hooks", err);
        result = items[0];
        break;
    case G_STORAGE: return damaged(machine, "a storage type is called", err);
    }
    return push(machine, result, err);
}

/* ---- opcodes ---- */

static lp_status push_text(pickle_machine *machine, uint64_t n, lp_error *err) {
    const unsigned char *bytes = NULL;
    size_t bad = 0;
    if (n > lp_reader_left(&machine->reader)) return damaged(machine, "a string reaches past the end", err);
    LP_CHECK(lp_read_bytes(&machine->reader, (size_t)n, &bytes, err));
    if (!lp_utf8_valid((const char *)bytes, (size_t)n, &bad))
        return damaged(machine, "a string is not valid UTF-8", err);
    return push(machine, (pickle_value){.kind = V_STRING, .text = (const char *)bytes, .length = (size_t)n}, err);
}

/* LONG1: little-endian two's complement of n bytes. */
static lp_status push_long(pickle_machine *machine, lp_error *err) {
    uint8_t n = 0;
    const unsigned char *bytes = NULL;
    LP_CHECK(lp_read_u8(&machine->reader, &n, err));
    LP_CHECK(lp_read_bytes(&machine->reader, n, &bytes, err));
    if (n > 8) return damaged(machine, "an integer of more than 64 bits", err);
    uint64_t bits = n > 0 && (bytes[n - 1] & 0x80) ? UINT64_MAX : 0;
    for (size_t i = n; i-- > 0;) bits = bits << 8 | bytes[i];
    return push(machine, (pickle_value){.kind = V_INT, .integer = (int64_t)bits}, err);
}

static lp_status make_tuple(pickle_machine *machine, size_t n, bool from_mark, lp_error *err) {
    pickle_value tuple = {0};
    size_t first = 0;
    if (from_mark) {
        LP_CHECK(above_mark(machine, &first, err));
        n = machine->depth - first;
    } else if (machine->depth < n) {
        return damaged(machine, "the stack is empty", err);
    } else {
        first = machine->depth - n;
        for (size_t i = first; i < machine->depth; i++)
            if (machine->stack[i].kind == V_MARK) return damaged(machine, "a tuple across a mark", err);
    }
    LP_CHECK(new_object(machine, V_TUPLE, &tuple, err));
    if (n) {
        pickle_object *object = &machine->objects[tuple.integer];
        LP_CHECK(lp_mem_new(&object->items, n, sizeof *object->items, "pickle tuple", err));
        memcpy(object->items, machine->stack + first, n * sizeof *object->items);
        object->n = object->capacity = n;
    }
    machine->depth = first - (from_mark ? 1 : 0);
    return push(machine, tuple, err);
}

/* SETITEMS, APPENDS: everything above the mark goes into the container below it. */
static lp_status fill_container(pickle_machine *machine, value_kind kind, lp_error *err) {
    size_t first = 0;
    LP_CHECK(above_mark(machine, &first, err));
    size_t n = machine->depth - first;
    if (first < 2 || machine->stack[first - 2].kind != kind || (kind == V_DICT && n % 2 != 0))
        return damaged(machine, kind == V_DICT ? "items without a dict" : "items without a list", err);
    LP_CHECK(append(machine, &machine->stack[first - 2], machine->stack + first, n, err));
    machine->depth = first - 1;
    return LP_OK;
}

static lp_status set_item(pickle_machine *machine, lp_error *err) {
    pickle_value pair[2] = {0}, *dict = NULL;
    LP_CHECK(pop(machine, &pair[1], err));
    LP_CHECK(pop(machine, &pair[0], err));
    LP_CHECK(top(machine, &dict, err));
    if (dict->kind != V_DICT) return damaged(machine, "an item without a dict", err);
    return append(machine, dict, pair, 2, err);
}

static lp_status append_one(pickle_machine *machine, lp_error *err) {
    pickle_value item = {0}, *list = NULL;
    LP_CHECK(pop(machine, &item, err));
    LP_CHECK(top(machine, &list, err));
    if (list->kind != V_LIST) return damaged(machine, "an item without a list", err);
    return append(machine, list, &item, 1, err);
}

/* BUILD sets attributes. A state dict has one, `_metadata`, which says nothing about the weights: dropped. */
static lp_status build(pickle_machine *machine, lp_error *err) {
    pickle_value attributes = {0}, *target = NULL;
    LP_CHECK(pop(machine, &attributes, err));
    LP_CHECK(top(machine, &target, err));
    if (target->kind != V_DICT || attributes.kind != V_DICT)
        return damaged(machine, "attributes are set on something that is not a state dict", err);
    return LP_OK;
}

static lp_status read_global(pickle_machine *machine, lp_error *err) {
    const char *module = NULL, *name = NULL;
    size_t module_length = 0, name_length = 0;
    LP_CHECK(lp_read_line(&machine->reader, &module, &module_length, err));
    LP_CHECK(lp_read_line(&machine->reader, &name, &name_length, err));
    return push_global(machine, module, module_length, name, name_length, err);
}

static lp_status stack_global(pickle_machine *machine, lp_error *err) {
    pickle_value module = {0}, name = {0};
    LP_CHECK(pop(machine, &name, err));
    LP_CHECK(pop(machine, &module, err));
    if (module.kind != V_STRING || name.kind != V_STRING)
        return damaged(machine, "the name of a global is not a string", err);
    return push_global(machine, module.text, module.length, name.text, name.length, err);
}

static lp_status push_new(pickle_machine *machine, value_kind kind, lp_error *err) {
    pickle_value made = {0};
    lp_status status = new_object(machine, kind, &made, err);
    return status == LP_OK ? push(machine, made, err) : status;
}

typedef enum {
    OP_MARK = '(',
    OP_STOP = '.',
    OP_BINFLOAT = 'G',
    OP_BININT = 'J',
    OP_BININT1 = 'K',
    OP_BININT2 = 'M',
    OP_NONE = 'N',
    OP_BINPERSID = 'Q',
    OP_REDUCE = 'R',
    OP_BINUNICODE = 'X',
    OP_EMPTY_LIST = ']',
    OP_APPEND = 'a',
    OP_BUILD = 'b',
    OP_GLOBAL = 'c',
    OP_APPENDS = 'e',
    OP_BINGET = 'h',
    OP_LONG_BINGET = 'j',
    OP_BINPUT = 'q',
    OP_LONG_BINPUT = 'r',
    OP_SETITEM = 's',
    OP_TUPLE = 't',
    OP_EMPTY_TUPLE = ')',
    OP_SETITEMS = 'u',
    OP_EMPTY_DICT = '}',
    OP_PROTO = 0x80,
    OP_TUPLE1 = 0x85,
    OP_TUPLE2 = 0x86,
    OP_TUPLE3 = 0x87,
    OP_NEWTRUE = 0x88,
    OP_NEWFALSE = 0x89,
    OP_LONG1 = 0x8a,
    OP_SHORT_BINUNICODE = 0x8c,
    OP_BINUNICODE8 = 0x8d,
    OP_STACK_GLOBAL = 0x93,
    OP_MEMOIZE = 0x94,
    OP_FRAME = 0x95
} opcode;

/* The names of what is refused, for the message. */
static const char *opcode_name(uint8_t code) {
    static const char *const names[256] = {['0'] = "POP",
                                           ['1'] = "POP_MARK",
                                           ['2'] = "DUP",
                                           ['F'] = "FLOAT",
                                           ['I'] = "INT",
                                           ['L'] = "LONG",
                                           ['P'] = "PERSID",
                                           ['S'] = "STRING",
                                           ['T'] = "BINSTRING",
                                           ['U'] = "SHORT_BINSTRING",
                                           ['V'] = "UNICODE",
                                           ['d'] = "DICT",
                                           ['g'] = "GET",
                                           ['i'] = "INST",
                                           ['l'] = "LIST",
                                           ['o'] = "OBJ",
                                           ['p'] = "PUT",
                                           ['B'] = "BINBYTES",
                                           ['C'] = "SHORT_BINBYTES",
                                           [0x81] = "NEWOBJ",
                                           [0x82] = "EXT1",
                                           [0x83] = "EXT2",
                                           [0x84] = "EXT4",
                                           [0x8b] = "LONG4",
                                           [0x8e] = "BINBYTES8",
                                           [0x8f] = "EMPTY_SET",
                                           [0x90] = "ADDITEMS",
                                           [0x91] = "FROZENSET",
                                           [0x92] = "NEWOBJ_EX",
                                           [0x96] = "BYTEARRAY8",
                                           [0x97] = "NEXT_BUFFER",
                                           [0x98] = "READONLY_BUFFER"};
    return names[code] ? names[code] : "no opcode";
}

static lp_status push_int(pickle_machine *machine, size_t width, lp_error *err) {
    uint64_t number = 0;
    LP_CHECK(lp_read_unsigned(&machine->reader, width, &number, err));
    int64_t signed_number = width == 4 ? (int64_t)(int32_t)(uint32_t)number : (int64_t)number;
    return push(machine, (pickle_value){.kind = V_INT, .integer = signed_number}, err);
}

static lp_status push_text_of(pickle_machine *machine, size_t width, lp_error *err) {
    uint64_t n = 0;
    lp_status status = lp_read_unsigned(&machine->reader, width, &n, err);
    return status == LP_OK ? push_text(machine, n, err) : status;
}

static lp_status memo_op(pickle_machine *machine, size_t width, bool put, lp_error *err) {
    uint64_t at = 0;
    LP_CHECK(lp_read_unsigned(&machine->reader, width, &at, err));
    return put ? memo_put(machine, at, err) : memo_get(machine, at, err);
}

static lp_status check_protocol(pickle_machine *machine, lp_error *err) {
    uint64_t protocol = 0;
    lp_status status = lp_read_unsigned(&machine->reader, 1, &protocol, err);
    if (status == LP_OK && (protocol < 2 || protocol > 5))
        status = lp_fail(err, LP_ERR_FORMAT, "%s: pickle protocol %llu: expected 2 to 5", machine->file,
                         (unsigned long long)protocol);
    return status;
}

static lp_status step(pickle_machine *machine, uint8_t code, lp_error *err) {
    uint64_t ignored = 0;
    switch ((opcode)code) {
    case OP_PROTO: return check_protocol(machine, err);
    case OP_FRAME: return lp_read_unsigned(&machine->reader, 8, &ignored, err);
    case OP_STOP: return LP_OK;
    case OP_MARK: return push(machine, (pickle_value){.kind = V_MARK}, err);
    case OP_NONE: return push(machine, (pickle_value){.kind = V_NONE}, err);
    case OP_NEWTRUE: return push(machine, (pickle_value){.kind = V_BOOL, .integer = 1}, err);
    case OP_NEWFALSE: return push(machine, (pickle_value){.kind = V_BOOL}, err);
    case OP_BININT: return push_int(machine, 4, err);
    case OP_BININT1: return push_int(machine, 1, err);
    case OP_BININT2: return push_int(machine, 2, err);
    case OP_LONG1: return push_long(machine, err);
    case OP_BINFLOAT: {
        lp_status status = lp_read_unsigned(&machine->reader, 8, &ignored, err);
        return status == LP_OK ? push(machine, (pickle_value){.kind = V_FLOAT}, err) : status;
    }
    case OP_SHORT_BINUNICODE: return push_text_of(machine, 1, err);
    case OP_BINUNICODE: return push_text_of(machine, 4, err);
    case OP_BINUNICODE8: return push_text_of(machine, 8, err);
    case OP_EMPTY_TUPLE: return make_tuple(machine, 0, false, err);
    case OP_TUPLE1: return make_tuple(machine, 1, false, err);
    case OP_TUPLE2: return make_tuple(machine, 2, false, err);
    case OP_TUPLE3: return make_tuple(machine, 3, false, err);
    case OP_TUPLE: return make_tuple(machine, 0, true, err);
    case OP_EMPTY_LIST: return push_new(machine, V_LIST, err);
    case OP_EMPTY_DICT: return push_new(machine, V_DICT, err);
    case OP_APPEND: return append_one(machine, err);
    case OP_APPENDS: return fill_container(machine, V_LIST, err);
    case OP_SETITEM: return set_item(machine, err);
    case OP_SETITEMS: return fill_container(machine, V_DICT, err);
    case OP_BINPUT: return memo_op(machine, 1, true, err);
    case OP_LONG_BINPUT: return memo_op(machine, 4, true, err);
    case OP_MEMOIZE: return memo_put(machine, machine->n_memo, err);
    case OP_BINGET: return memo_op(machine, 1, false, err);
    case OP_LONG_BINGET: return memo_op(machine, 4, false, err);
    case OP_GLOBAL: return read_global(machine, err);
    case OP_STACK_GLOBAL: return stack_global(machine, err);
    case OP_BINPERSID: return push_storage(machine, err);
    case OP_REDUCE: return reduce(machine, err);
    case OP_BUILD: return build(machine, err);
    }
    return lp_fail(err, LP_ERR_FORMAT, "%s: pickle opcode 0x%02x (%s) at byte %zu, which torch.save does not write",
                   machine->file, code, opcode_name(code), machine->reader.offset - 1);
}

/* ---- the result ---- */

static lp_status collect(pickle_machine *machine, const pickle_value *root, lp_pickle_state *out, lp_error *err) {
    if (root->kind != V_DICT)
        return lp_fail(err, LP_ERR_FORMAT, "%s: expected a state dict (name -> tensor), found %s", machine->file,
                       KIND_NAMES[root->kind]);
    const pickle_object *dict = &machine->objects[root->integer];
    for (size_t i = 0; i + 1 < dict->n; i += 2) {
        const pickle_value *name = &dict->items[i], *v = &dict->items[i + 1];
        if (name->kind != V_STRING || name->length == 0 || memchr(name->text, 0, name->length))
            return lp_fail(err, LP_ERR_FORMAT, "%s: expected a state dict (name -> tensor), found a key that is %s",
                           machine->file,
                           name->kind == V_STRING ? "an empty or broken string" : KIND_NAMES[name->kind]);
        if (v->kind != V_TENSOR)
            return lp_fail(err, LP_ERR_FORMAT,
                           "%s: entry \"%.*s\": expected a tensor, found %s: save the model's state_dict() alone",
                           machine->file, (int)(name->length < 200 ? name->length : 200), name->text,
                           KIND_NAMES[v->kind]);
        LP_CHECK(lp_mem_grow(&out->tensors, &out->capacity, out->n + 1, sizeof *out->tensors, "state dict", err));
        const pickle_tensor *value = &machine->tensors[v->integer];
        out->tensors[out->n++] = (lp_pickle_tensor){.name = name->text,
                                                    .name_length = name->length,
                                                    .storage = value->storage,
                                                    .offset = value->offset,
                                                    .shape = value->shape};
    }
    return LP_OK;
}

static void machine_release(pickle_machine *machine) {
    for (size_t i = 0; i < machine->n_objects; i++) lp_mem_free(machine->objects[i].items);
    lp_mem_free(machine->objects);
    lp_mem_free(machine->stack);
    lp_mem_free(machine->memo);
    lp_mem_free(machine->memo_set);
    lp_mem_free(machine->storages);
    lp_mem_free(machine->tensors);
}

lp_status lp_pickle_parse(const void *data, size_t size, const char *file, lp_pickle_state *out, lp_error *err) {
    pickle_machine machine = {.reader = lp_reader_make(data, size, file), .file = file};
    lp_pickle_state state = {0};
    pickle_value root = {0};
    uint8_t code = 0;
    lp_status status = LP_OK;
    if (size < 2 || ((const unsigned char *)data)[0] != OP_PROTO)
        LP_FAIL(LP_ERR_FORMAT, "%s: not a pickle of protocol 2 or later", file);
    if (size > MAX_PICKLE) LP_FAIL(LP_ERR_FORMAT, "%s: a pickle of %zu bytes, at most %d", file, size, MAX_PICKLE);
    const size_t before = lp_mem_count().live_bytes, share = PICKLE_MEMORY * size,
                 most = share > PICKLE_MEMORY_FLOOR ? share : PICKLE_MEMORY_FLOOR;
    do {
        LP_TRY(lp_read_u8(&machine.reader, &code, err));
        LP_TRY(step(&machine, code, err));
        if (lp_mem_count().live_bytes - before > most)
            LP_FAIL(LP_ERR_FORMAT,
                    "%s: a pickle of %zu bytes that needs more than %zu bytes of memory lists no tensors", file, size,
                    most);
    } while (code != OP_STOP);
    if (lp_reader_left(&machine.reader) != 0) {
        status = damaged(&machine, "bytes after its end", err);
        goto out;
    }
    LP_TRY(pop(&machine, &root, err));
    LP_TRY(collect(&machine, &root, &state, err));
    *out = state;
    state = (lp_pickle_state){0};
out:
    lp_pickle_release(&state);
    machine_release(&machine);
    return status;
}

void lp_pickle_release(lp_pickle_state *state) {
    lp_mem_free(state->tensors);
    *state = (lp_pickle_state){0};
}
