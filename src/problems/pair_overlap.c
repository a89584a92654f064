#include "problems/pair_overlap.h"

#include "base/memory.h"
#include "problems/keyed.h"

enum { RUN_WORDS = 6, CLOSE_PERCENT = 70, MAX_RUNS = 1000 };

struct lp_overlap {
    lp_keyed *runs; /* [n], questions by the hash of six words in a row */
    size_t n, capacity;
    uint32_t *hits; /* [n_questions], of the question that is asked about */
    size_t n_questions;
};

static uint64_t mix(uint64_t hash, unsigned char byte) {
    return (hash ^ byte) * 1099511628211u; /* FNV-1a */
}

/* The hash of the next word, numbers all the same; 0 at the end of the text. */
static uint64_t next_word(const char **at) {
    const char *p = *at;
    uint64_t hash = 14695981039346656037u;
    bool digits = false, any = false;
    for (; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if (c >= 'A' && c <= 'Z') c = (unsigned char)(c - 'A' + 'a');
        bool number = c >= '0' && c <= '9';
        bool letter = (c >= 'a' && c <= 'z') || c >= 0x80;
        if (!number && !letter && !(digits && (c == ',' || c == '.') && p[1] >= '0' && p[1] <= '9')) {
            if (any) break;
            continue;
        }
        if (any && number != digits && letter) break;
        digits = digits || number;
        any = true;
        if (!digits) hash = mix(hash, c);
    }
    *at = p;
    return any ? digits ? 1 : hash | 2 : 0;
}

/* The hashes of all runs of words; one for a text that is shorter than a run. Returns how many. */
static size_t runs_of(const char *text, uint64_t hashes[MAX_RUNS]) {
    uint64_t words[RUN_WORDS] = {0};
    size_t n_words = 0, n = 0;
    for (uint64_t word = next_word(&text); word && n < MAX_RUNS; word = next_word(&text)) {
        words[n_words++ % RUN_WORDS] = word;
        if (n_words < RUN_WORDS) continue;
        uint64_t hash = 14695981039346656037u;
        for (size_t k = 0; k < RUN_WORDS; k++) hash = (hash ^ words[(n_words + k) % RUN_WORDS]) * 1099511628211u;
        hashes[n++] = hash;
    }
    if (n == 0 && n_words > 0) {
        hashes[n++] = 0;
        for (size_t k = 0; k < n_words; k++) hashes[0] = (hashes[0] ^ words[k]) * 1099511628211u;
    }
    return n;
}

void lp_overlap_free(lp_overlap *overlap) {
    if (!overlap) return;
    lp_mem_free(overlap->runs);
    lp_mem_free(overlap->hits);
    lp_mem_free(overlap);
}

lp_status lp_overlap_load(const char *path, lp_source_format format, lp_overlap **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_problem_list list = {0};
    lp_overlap *overlap = NULL;
    uint64_t hashes[MAX_RUNS];
    LP_TRY(lp_problems_load(path, format, &list, err));
    LP_TRY(lp_mem_new(&overlap, 1, sizeof *overlap, "training questions", err));
    overlap->n_questions = list.n;
    LP_TRY(lp_mem_new(&overlap->hits, list.n, sizeof *overlap->hits, "training questions", err));
    for (size_t i = 0; i < list.n; i++) {
        size_t n = runs_of(list.items[i].question, hashes);
        LP_TRY(
            lp_mem_grow(&overlap->runs, &overlap->capacity, overlap->n + n, sizeof *overlap->runs, "word runs", err));
        for (size_t k = 0; k < n; k++) overlap->runs[overlap->n++] = (lp_keyed){hashes[k], i};
    }
    qsort(overlap->runs, overlap->n, sizeof *overlap->runs, lp_keyed_compare);
    *out = overlap;
    overlap = NULL;
out:
    lp_overlap_free(overlap);
    lp_problems_release(&list);
    return status;
}

/* The first run with this hash, or where it would stand. */
static size_t find_run(const lp_overlap *overlap, uint64_t hash) {
    size_t low = 0, high = overlap->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (overlap->runs[middle].key < hash)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

bool lp_overlap_is_close(lp_overlap *overlap, const char *question) {
    uint64_t hashes[MAX_RUNS];
    size_t n = runs_of(question, hashes);
    uint32_t most = 0;
    memset(overlap->hits, 0, overlap->n_questions * sizeof *overlap->hits);
    for (size_t k = 0; k < n; k++) {
        size_t last = SIZE_MAX;
        for (size_t at = find_run(overlap, hashes[k]); at < overlap->n && overlap->runs[at].key == hashes[k]; at++) {
            size_t other = overlap->runs[at].index;
            if (other == last) continue;
            last = other;
            if (++overlap->hits[other] > most) most = overlap->hits[other];
        }
    }
    return n > 0 && (size_t)most * 100 >= n * CLOSE_PERCENT;
}
