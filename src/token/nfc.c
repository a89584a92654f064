/* Decompose (recursively; Hangul by arithmetic) -> order the marks of each character by class -> put pairs together. */
#include "token/nfc.h"

#include "base/memory.h"
#include "token/utf8.h"

#include <stdlib.h>

#include "token/nfc_tables.h"

enum {
    HANGUL = 0xac00,
    LEAD = 0x1100,
    VOWEL = 0x1161,
    TRAIL = 0x11a7,
    N_LEADS = 19,
    N_VOWELS = 21,
    N_TRAILS = 28,
    N_HANGUL = N_LEADS * N_VOWELS * N_TRAILS
};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* The entry {first, last, .} of a table that holds c; NULL: none. */
static const uint32_t *find(const uint32_t (*table)[3], size_t n, uint32_t c) {
    for (size_t low = 0, high = n; low < high;) {
        size_t middle = (low + high) / 2;
        if (c < table[middle][0])
            high = middle;
        else if (c > table[middle][1])
            low = middle + 1;
        else
            return table[middle];
    }
    return NULL;
}

typedef struct {
    uint32_t *points;
    size_t n, capacity;
    lp_error *err;
} point_list;

static lp_status push(point_list *list, uint32_t c) {
    lp_status status =
        lp_mem_grow(&list->points, &list->capacity, list->n + 1, sizeof *list->points, "normalization", list->err);
    if (status == LP_OK) list->points[list->n++] = c;
    return status;
}

static lp_status decompose(point_list *list, uint32_t c) {
    if (c >= HANGUL && c < HANGUL + N_HANGUL) {
        uint32_t k = c - HANGUL, trail = k % N_TRAILS;
        lp_status status = push(list, LEAD + k / (N_VOWELS * N_TRAILS));
        if (status == LP_OK) status = push(list, VOWEL + k % (N_VOWELS * N_TRAILS) / N_TRAILS);
        return status == LP_OK && trail ? push(list, TRAIL + trail) : status;
    }
    const uint32_t *run = find(nfc_single_runs, LENGTH(nfc_single_runs), c);
    if (run) return decompose(list, nfc_singles[run[2] + c - run[0]]);
    run = find(nfc_pair_runs, LENGTH(nfc_pair_runs), c);
    if (!run) return push(list, c);
    const uint32_t *pair = nfc_pairs[run[2] + c - run[0]];
    LP_CHECK(decompose(list, pair[0]));
    return decompose(list, pair[1]);
}

static uint32_t class_of(uint32_t c) {
    const uint32_t *run = find(nfc_classes, LENGTH(nfc_classes), c);
    return run ? run[2] : 0;
}

/* The character that two others make; 0: they make none. */
static uint32_t composed(uint32_t a, uint32_t b) {
    if (a >= LEAD && a < LEAD + N_LEADS && b >= VOWEL && b < VOWEL + N_VOWELS)
        return HANGUL + ((a - LEAD) * N_VOWELS + (b - VOWEL)) * N_TRAILS;
    if (a >= HANGUL && a < HANGUL + N_HANGUL && (a - HANGUL) % N_TRAILS == 0 && b > TRAIL && b < TRAIL + N_TRAILS)
        return a + (b - TRAIL);
    for (size_t k = 0; k < LENGTH(nfc_pair_runs); k++)
        for (uint32_t c = nfc_pair_runs[k][0], i = nfc_pair_runs[k][2]; c <= nfc_pair_runs[k][1]; c++, i++)
            if (nfc_pairs[i][1] == b && nfc_pairs[i][0] == a) return nfc_pairs[i][2] ? c : 0;
    return 0;
}

static int compare_keys(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Stable, by class, within each run of marks: class, place and character are one number that is sorted. */
static lp_status order_marks(uint32_t *points, size_t n, lp_error *err) {
    uint64_t *keys = NULL;
    size_t capacity = 0;
    lp_status status = LP_OK;
    for (size_t i = 0, end; i < n && status == LP_OK; i = end) {
        for (end = i; end < n && class_of(points[end]) > 0;) end++;
        size_t marks = end - i;
        if (marks == 0) end++;
        if (marks < 2) continue;
        status = lp_mem_grow(&keys, &capacity, marks, sizeof *keys, "normalization", err);
        if (status != LP_OK) break;
        for (size_t k = 0; k < marks; k++)
            keys[k] = (uint64_t)class_of(points[i + k]) << 53 | (uint64_t)k << 21 | points[i + k];
        qsort(keys, marks, sizeof *keys, compare_keys);
        for (size_t k = 0; k < marks; k++) points[i + k] = (uint32_t)(keys[k] & 0x1fffff);
    }
    lp_mem_free(keys);
    return status;
}

/* Each mark joins the last starter, unless one of its class or of a higher one stands between them. */
static size_t compose(uint32_t *points, size_t n) {
    size_t kept = 0, starter = 0;
    bool has_starter = false;
    uint32_t last = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t c = points[i], k = class_of(c);
        bool beside = has_starter && kept == starter + 1;
        uint32_t whole = has_starter && (beside || last < k) ? composed(points[starter], c) : 0;
        if (whole) {
            points[starter] = whole;
            continue;
        }
        if (k == 0) {
            starter = kept;
            has_starter = true;
        }
        last = k;
        points[kept++] = c;
    }
    return kept;
}

lp_status lp_nfc(const char *text, size_t length, lp_text *out, lp_error *err) {
    point_list list = {.err = err};
    lp_status status = LP_OK;
    bool plain = true;
    /* Below U+0300, which begins with the byte CC, every text is in form C. */
    for (size_t i = 0; i < length && plain; i++) plain = (unsigned char)text[i] < 0xcc;
    if (plain) return lp_text_add(out, text, length, err);
    for (size_t at = 0; at < length;) {
        uint32_t c = 0;
        bool well_formed = false;
        at += lp_utf8_next(text + at, length - at, &c, &well_formed);
        LP_TRY(decompose(&list, c));
    }
    LP_TRY(order_marks(list.points, list.n, err));
    list.n = compose(list.points, list.n);
    for (size_t i = 0; i < list.n; i++) {
        char bytes[4];
        size_t n = lp_utf8_put(list.points[i], bytes);
        LP_TRY(lp_text_add(out, bytes, n, err));
    }
out:
    lp_mem_free(list.points);
    return status;
}
