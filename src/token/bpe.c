#include "token/bpe.h"

#include "base/memory.h"
#include "token/utf8.h"

/* One symbol of the piece that is being merged: a doubly linked list inside of an array. */
struct lp_bpe_symbol {
    int32_t id; /* -1: swallowed by its left neighbour */
    int32_t previous;
    int32_t next;
};

/* A merge that was possible when it was pushed; checked again when it is popped. */
struct lp_bpe_candidate {
    int32_t rank;
    int32_t at; /* the left symbol */
    int32_t left;
    int32_t right;
    int32_t merged;
};

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0xd6e8feb86659fd93u;
    x ^= x >> 32;
    return x;
}

static size_t spelling_slot(const lp_bpe *bpe, const char *spelling, size_t length) {
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (size_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)spelling[i]) * 0x100000001b3u;
    size_t slot = (size_t)mix(hash) & (bpe->n_spelling_slots - 1);
    while (bpe->by_spelling[slot] >= 0) {
        const lp_bpe_token *token = &bpe->tokens[bpe->by_spelling[slot]];
        if (token->length == length && memcmp(bpe->spellings.data + token->at, spelling, length) == 0) break;
        slot = (slot + 1) & (bpe->n_spelling_slots - 1);
    }
    return slot;
}

static size_t merge_slot(const lp_bpe *bpe, uint64_t pair) {
    size_t slot = (size_t)mix(pair * 0x9e3779b97f4a7c15u) & (bpe->n_merge_slots - 1);
    while (bpe->merges[slot].merged >= 0 && bpe->merges[slot].pair != pair)
        slot = (slot + 1) & (bpe->n_merge_slots - 1);
    return slot;
}

/* At most two thirds full, and never without a free slot. */
static size_t slots_for(size_t n) {
    size_t slots = 16;
    while (slots < n + n / 2) slots *= 2;
    return slots;
}

lp_status lp_bpe_init(lp_bpe *bpe, size_t n_vocab, size_t n_tokens, size_t n_merges, lp_error *err) {
    lp_status status = LP_OK;
    lp_bpe made = {.n_vocab = n_vocab, .n_tokens = n_tokens};
    made.n_spelling_slots = slots_for(n_tokens);
    made.n_merge_slots = slots_for(n_merges);
    LP_TRY(lp_mem_new(&made.tokens, n_tokens, sizeof *made.tokens, "tokens", err));
    LP_TRY(lp_mem_new(&made.by_spelling, made.n_spelling_slots, sizeof *made.by_spelling, "token index", err));
    LP_TRY(lp_mem_new(&made.merges, made.n_merge_slots, sizeof *made.merges, "merges", err));
    for (size_t i = 0; i < made.n_spelling_slots; i++) made.by_spelling[i] = -1;
    for (size_t i = 0; i < made.n_merge_slots; i++) made.merges[i].merged = -1;
    for (size_t i = 0; i < 256; i++) made.byte_token[i] = -1;
    *bpe = made;
    made = (lp_bpe){0};
out:
    lp_bpe_release(&made);
    return status;
}

void lp_bpe_release(lp_bpe *bpe) {
    lp_text_release(&bpe->spellings);
    lp_mem_free(bpe->tokens);
    lp_mem_free(bpe->by_spelling);
    lp_mem_free(bpe->merges);
    *bpe = (lp_bpe){0};
}

lp_status lp_bpe_add_token(lp_bpe *bpe, int32_t id, const char *spelling, bool *added, lp_error *err) {
    size_t length = strlen(spelling);
    size_t slot = spelling_slot(bpe, spelling, length);
    lp_bpe_token *token = &bpe->tokens[id];
    *added = bpe->by_spelling[slot] < 0 && !token->known;
    if (!*added) return LP_OK;
    size_t at = bpe->spellings.length;
    LP_CHECK(lp_text_add(&bpe->spellings, spelling, length + 1, err));
    *token = (lp_bpe_token){.at = at, .length = (uint32_t)length, .known = true};
    bpe->by_spelling[slot] = id;
    return LP_OK;
}

static uint64_t pair_of(int32_t left, int32_t right) {
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

void lp_bpe_add_merge(lp_bpe *bpe, int32_t left, int32_t right, int32_t rank, int32_t merged) {
    uint64_t pair = pair_of(left, right);
    bpe->merges[merge_slot(bpe, pair)] = (lp_bpe_merge){.pair = pair, .rank = rank, .merged = merged};
}

void lp_bpe_find_bytes(lp_bpe *bpe) {
    for (size_t byte = 0; byte < 256; byte++) {
        char letter[4];
        size_t length = lp_utf8_put(lp_byte_letter((unsigned char)byte), letter);
        bpe->byte_token[byte] = lp_bpe_find(bpe, letter, length);
    }
}

int32_t lp_bpe_find(const lp_bpe *bpe, const char *spelling, size_t length) {
    return bpe->by_spelling[spelling_slot(bpe, spelling, length)];
}

const char *lp_bpe_spelling(const lp_bpe *bpe, int32_t id) {
    if (id < 0 || (size_t)id >= bpe->n_tokens || !bpe->tokens[id].known) return NULL;
    return bpe->spellings.data + bpe->tokens[id].at;
}

void lp_bpe_scratch_release(lp_bpe_scratch *scratch) {
    lp_text_release(&scratch->letters);
    lp_mem_free(scratch->symbols);
    lp_mem_free(scratch->heap);
    *scratch = (lp_bpe_scratch){0};
}

static bool before(const struct lp_bpe_candidate *a, const struct lp_bpe_candidate *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static lp_status heap_push(lp_bpe_scratch *scratch, struct lp_bpe_candidate candidate, lp_error *err) {
    LP_CHECK(lp_mem_grow(&scratch->heap, &scratch->heap_capacity, scratch->n_heap + 1, sizeof *scratch->heap,
                         "merge candidates", err));
    struct lp_bpe_candidate *heap = scratch->heap;
    size_t i = scratch->n_heap++;
    while (i > 0 && before(&candidate, &heap[(i - 1) / 2])) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = candidate;
    return LP_OK;
}

static struct lp_bpe_candidate heap_pop(lp_bpe_scratch *scratch) {
    struct lp_bpe_candidate *heap = scratch->heap;
    struct lp_bpe_candidate top = heap[0];
    struct lp_bpe_candidate last = heap[--scratch->n_heap];
    size_t n = scratch->n_heap, i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && before(&heap[child + 1], &heap[child])) child++;
        if (!before(&heap[child], &last)) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

/* Pushes the merge of symbol `at` with its right neighbour, if there is one. */
static lp_status push_merge(const lp_bpe *bpe, lp_bpe_scratch *scratch, int32_t at, lp_error *err) {
    int32_t next = at < 0 ? -1 : scratch->symbols[at].next;
    if (next < 0) return LP_OK;
    int32_t left = scratch->symbols[at].id, right = scratch->symbols[next].id;
    const lp_bpe_merge *merge = &bpe->merges[merge_slot(bpe, pair_of(left, right))];
    if (merge->merged < 0) return LP_OK;
    return heap_push(
        scratch,
        (struct lp_bpe_candidate){.rank = merge->rank, .at = at, .left = left, .right = right, .merged = merge->merged},
        err);
}

static lp_status add_id(lp_token_list *out, int32_t id, lp_error *err) {
    return lp_token_list_add(out, &id, 1, err);
}

lp_status lp_bpe_encode(const lp_bpe *bpe, const char *bytes, size_t length, lp_bpe_scratch *scratch,
                        lp_token_list *out, lp_error *err) {
    if (bpe->ignore_merges) {
        lp_text_clear(&scratch->letters);
        for (size_t i = 0; i < length; i++) {
            char letter[4];
            size_t n = lp_utf8_put(lp_byte_letter((unsigned char)bytes[i]), letter);
            LP_CHECK(lp_text_add(&scratch->letters, letter, n, err));
        }
        int32_t whole = lp_bpe_find(bpe, lp_text_get(&scratch->letters), scratch->letters.length);
        if (whole >= 0 && (size_t)whole < bpe->n_vocab) return add_id(out, whole, err);
    }
    LP_CHECK(
        lp_mem_grow(&scratch->symbols, &scratch->symbols_capacity, length, sizeof *scratch->symbols, "symbols", err));
    struct lp_bpe_symbol *symbols = scratch->symbols;
    int32_t n = 0;
    for (size_t i = 0; i < length; i++) {
        int32_t id = bpe->byte_token[(unsigned char)bytes[i]];
        if (id < 0) continue;
        symbols[n] = (struct lp_bpe_symbol){.id = id, .previous = n - 1, .next = n + 1};
        n++;
    }
    if (n == 0) return LP_OK;
    symbols[n - 1].next = -1;
    scratch->n_heap = 0;
    for (int32_t i = 0; i < n; i++) LP_CHECK(push_merge(bpe, scratch, i, err));
    while (scratch->n_heap > 0) {
        struct lp_bpe_candidate top = heap_pop(scratch);
        struct lp_bpe_symbol *left = &symbols[top.at];
        if (left->id != top.left || left->next < 0 || symbols[left->next].id != top.right) continue;
        struct lp_bpe_symbol *right = &symbols[left->next];
        left->id = top.merged;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) symbols[left->next].previous = top.at;
        LP_CHECK(push_merge(bpe, scratch, left->previous, err));
        LP_CHECK(push_merge(bpe, scratch, top.at, err));
    }
    for (int32_t i = 0; i >= 0; i = symbols[i].next) LP_CHECK(add_id(out, symbols[i].id, err));
    return LP_OK;
}
