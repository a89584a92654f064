/* The arena's values. The tensors are cut into pieces of whole rows, by their shape alone, and the pieces are computed
 * in the order in which they lie in the files, so that the disk reads ahead while the processors work: each turn asks
 * for the bytes of a piece further on, computes its own, and lets the mapped pages go. Who takes which piece cannot
 * change a value: no two of them touch the same place. The first turns ask for the arena's memory, while SHA-256 reads
 * the files ahead: page by page, as they are written, costs the kernel twice as much. */
#include "base/file.h"
#include "base/memory.h"
#include "base/pulse.h"
#include "model/merge.h"
#include "model/model_files.h"

#include <sys/mman.h>

enum { PIECE_ELEMENTS = 1 << 19, AHEAD = 16, TOUCH_BYTES = 1 << 24 };

typedef struct {
    size_t slot;
    int64_t first, n; /* rows of the file's tensor */
    const unsigned char *bytes;
    size_t n_bytes; /* 0 where the rows are not one run of bytes */
} fill_piece;

typedef struct {
    fill_piece *items; /* [n] */
    size_t n, capacity;
} piece_list;

static int64_t rows_of_piece(const lp_slot *slot, const lp_placement *place) {
    bool in_arena = place->where == LP_PLACE_ARENA;
    if (in_arena && (slot->shape == LP_SHAPE_LINEAR || place->packed)) return LP_MERGE_ROWS;
    return slot->columns < PIECE_ELEMENTS ? PIECE_ELEMENTS / slot->columns : 1;
}

static lp_status add_pieces(const lp_model_files *files, size_t i, piece_list *list, lp_error *err) {
    const lp_slot *slot = &files->table.slots[i];
    const lp_tensor *tensor = slot->tensor;
    if (files->places[i].where == LP_PLACE_LEFT) return LP_OK;
    int64_t step = rows_of_piece(slot, &files->places[i]);
    size_t row_bytes = (size_t)slot->columns * lp_dtype_bytes(tensor->dtype);
    for (int64_t first = 0; first < slot->rows; first += step) {
        LP_CHECK(
            lp_mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items, "pieces of the weights", err));
        int64_t n = slot->rows - first < step ? slot->rows - first : step;
        bool run = lp_tensor_is_contiguous(tensor);
        list->items[list->n++] = (fill_piece){.slot = i,
                                              .first = first,
                                              .n = n,
                                              .bytes = tensor->data + (run ? (size_t)first * row_bytes : 0),
                                              .n_bytes = run ? (size_t)n * row_bytes : 0};
    }
    return LP_OK;
}

static int compare_pieces(const void *a, const void *b) {
    const fill_piece *left = a, *right = b;
    if (left->bytes != right->bytes) return left->bytes < right->bytes ? -1 : 1;
    if (left->slot != right->slot) return left->slot < right->slot ? -1 : 1;
    return left->first < right->first ? -1 : left->first > right->first;
}

/* Part number `part` of the arena; where the kernel does not know the wish (before Linux 5.14) pages come one by one.
 */
static void ask_for_memory(float *arena, size_t bytes, int64_t part) {
#ifdef MADV_POPULATE_WRITE
    size_t page = lp_page_bytes(), skipped = (page - (uintptr_t)arena % page) % page, at = (size_t)part * TOUCH_BYTES;
    if (bytes < skipped + at) return;
    size_t n = bytes - skipped - at < TOUCH_BYTES ? bytes - skipped - at : TOUCH_BYTES;
    (void)madvise((unsigned char *)arena + skipped + at, n / page * page, MADV_POPULATE_WRITE);
#else
    (void)arena, (void)bytes, (void)part;
#endif
}

static lp_status compute_piece(const lp_model_files *files, const fill_piece *piece, float *arena, float *scratch,
                               lp_error *err) {
    const lp_slot *slot = &files->table.slots[piece->slot];
    const lp_placement *place = &files->places[piece->slot];
    lp_pulse();
    if (place->where == LP_PLACE_MAPPED) {
        const float *mapped = (const float *)(const void *)slot->tensor->data;
        return lp_merge_check_finite(slot, mapped + piece->first * slot->columns, 1, piece->n * slot->columns, 0, err);
    }
    const lp_weight_source *source = &files->sources[piece->slot];
    const lp_merge_target target = {
        .data = arena + place->offset, .ld = place->ld, .packed = place->packed, .column = place->column};
    lp_status status =
        lp_merge_rows(slot, source->scale, source->rounding, piece->first, piece->n, &target, scratch, err);
    lp_pages_let_go(piece->bytes, piece->n_bytes);
    return status;
}

/* The failure of the lowest slot is the one that is reported. */
typedef struct {
    size_t slot;
    lp_status status;
    lp_error *err;
} fill_verdict;

static void note(fill_verdict *verdict, size_t slot, lp_status status, const lp_error *err) {
#pragma omp critical(lp_fill_verdict)
    if (status != LP_OK && (verdict->status == LP_OK || slot < verdict->slot)) {
        verdict->slot = slot;
        verdict->status = status;
        if (verdict->err) *verdict->err = *err;
    }
}

static void take_turns(const lp_model_files *files, const piece_list *list, float *arena, size_t arena_bytes,
                       lp_model_turns *turns, fill_verdict *verdict) {
    lp_error err = {0};
    float *scratch = NULL;
    lp_status status = lp_mem_new(&scratch, LP_MERGE_SCRATCH, sizeof *scratch, "merge", &err);
    if (status != LP_OK) {
        note(verdict, 0, status, &err);
        return;
    }
    int64_t n = (int64_t)list->n, n_parts = (int64_t)((arena_bytes + TOUCH_BYTES - 1) / TOUCH_BYTES);
    for (int64_t turn; (turn = atomic_fetch_add(&turns->next, 1)) < n_parts + n;) {
        int64_t i = turn - n_parts;
        if (i < 0) {
            ask_for_memory(arena, arena_bytes, turn);
            continue;
        }
        if (i + AHEAD < n) lp_pages_want(list->items[i + AHEAD].bytes, list->items[i + AHEAD].n_bytes);
        note(verdict, list->items[i].slot, compute_piece(files, &list->items[i], arena, scratch, &err), &err);
    }
    lp_mem_free(scratch);
}

lp_status lp_fill_arena(lp_model_files *files, float *arena, size_t arena_bytes, lp_model_turns *turns, lp_error *err) {
    piece_list list = {0};
    fill_verdict verdict = {.err = err};
    lp_status status = LP_OK;
    for (size_t i = 0; i < files->table.n_slots; i++) LP_TRY(add_pieces(files, i, &list, err));
    if (list.n) qsort(list.items, list.n, sizeof *list.items, compare_pieces);
#pragma omp parallel
    take_turns(files, &list, arena, arena_bytes, turns, &verdict);
    status = verdict.status;
out:
    lp_mem_free(list.items);
    return status;
}

void lp_files_drop_pages(const lp_model_files *files) {
    const lp_checkpoint *checkpoints[] = {&files->base, &files->codi};
    for (size_t c = 0; c < 2; c++)
        for (size_t i = 0; i < checkpoints[c]->n_files; i++) {
            const lp_mapped_file *map = &checkpoints[c]->files[i]->map;
            if (map->mapping) (void)madvise(map->mapping, map->size, MADV_DONTNEED);
        }
}
