#include "report/lens_table.h"

#include "base/memory.h"
#include "base/printable.h"
#include "store/results_text.h"

#include <math.h>

static const char *const side_names[2] = {"clean", "corrupted"};

/* One side of one pair. */
typedef struct {
    lp_lens_shape shape;
    size_t n;        /* numbers of it */
    int32_t *tokens; /* [positions, layers, top] */
    float *log_probability;
} lens_reading;

static void release(lens_reading *reading) {
    lp_mem_free(reading->tokens);
    lp_mem_free(reading->log_probability);
}

static lp_status begin(lp_results *results, lens_reading *reading, lp_error *err) {
    lp_status status = lp_results_lens(results, &reading->shape, err);
    if (status == LP_OK && reading->shape.top == 0)
        status = lp_fail(err, LP_ERR_VALUE,
                         "no logit lens in this file: run the sweep with \"readout\": \"logit_lens top 5\"");
    if (status != LP_OK) return status;
    reading->n = (size_t)reading->shape.n_positions * (size_t)reading->shape.n_layers * (size_t)reading->shape.top;
    status = lp_mem_new(&reading->tokens, reading->n, sizeof *reading->tokens, "logit lens", err);
    if (status == LP_OK) status = lp_mem_new(&reading->log_probability, reading->n, sizeof(float), "logit lens", err);
    return status;
}

static size_t place_of(const lp_lens_shape *shape, int32_t position, int32_t layer) {
    return ((size_t)position * (size_t)shape->n_layers + (size_t)layer) * (size_t)shape->top;
}

static lp_status text_of(lp_results *results, int32_t token, const char **out, lp_error *err) {
    *out = lp_results_lens_text(results, token);
    return *out ? LP_OK : lp_fail(err, LP_ERR_FORMAT, "/readout/logit_lens: token %d has no text", token);
}

/* The first `most` characters of a text: bytes that UTF-8 continues with do not count. */
static int cut(const char *text, int most, int *shown) {
    int bytes = 0;
    *shown = 0;
    while (text[bytes] && *shown < most) {
        bytes++;
        while (((unsigned char)text[bytes] & 0xc0) == 0x80) bytes++;
        ++*shown;
    }
    return bytes;
}

static lp_status add_cell(lp_results *results, int32_t token, double share, lp_text *out, lp_error *err) {
    enum { MOST = 7 };
    const char *text = NULL;
    int shown = 0;
    LP_CHECK(text_of(results, token, &text, err));
    int bytes = cut(text, MOST, &shown);
    return lp_text_format(out, err, "  \"%.*s\"%*s%3.0f", bytes, text, MOST - shown, "", share);
}

static lp_status add_heading(const lp_lens_shape *shape, const char *what, lp_text *out, lp_error *err) {
    lp_status status = lp_text_format(out, err, "%s\n  layer  %-14s", what, "question");
    for (int32_t p = 1; p < shape->n_positions && status == LP_OK; p++)
        status = lp_text_format(out, err, "thought %-6d", p - 1);
    while (out->length > 0 && out->data[out->length - 1] == ' ') out->data[--out->length] = '\0';
    return status == LP_OK ? lp_text_format(out, err, "\n") : status;
}

/* How often a token comes first in one cell. */
typedef struct {
    int32_t token;
    int32_t count;
} tally;

static void count_first(tally *cell, int64_t *n, int32_t token) {
    for (int64_t i = 0; i < *n; i++)
        if (cell[i].token == token) {
            cell[i].count++;
            return;
        }
    cell[(*n)++] = (tally){.token = token, .count = 1};
}

/* first [cells, included]: the first token of each cell in each included pair. */
static lp_status read_first(lp_results *results, int side, lens_reading *reading, int32_t *first, lp_error *err) {
    const uint8_t *included = lp_results_included(results);
    int64_t n = lp_results_n_included(results), at = 0;
    for (int64_t i = 0; i < lp_results_n_pairs(results); i++) {
        if (!included[i]) continue;
        LP_CHECK(lp_results_lens_pair(results, side, i, reading->tokens, reading->log_probability, err));
        for (size_t cell = 0; cell * (size_t)reading->shape.top < reading->n; cell++)
            first[cell * (size_t)n + (size_t)at] = reading->tokens[cell * (size_t)reading->shape.top];
        at++;
    }
    return LP_OK;
}

lp_status lp_lens_table(lp_results *results, lp_text *out, lp_error *err) {
    lens_reading reading = {0};
    int32_t *first = NULL;
    tally *cell = NULL;
    int64_t n = lp_results_n_included(results);
    lp_status status = LP_OK;
    LP_TRY(begin(results, &reading, err));
    if (n == 0) LP_FAIL(LP_ERR_VALUE, "no pair of this file was run");
    LP_TRY(lp_mem_new(&first, reading.n / (size_t)reading.shape.top * (size_t)n, sizeof *first, "logit lens", err));
    LP_TRY(lp_mem_new(&cell, (size_t)n, sizeof *cell, "logit lens", err));
    for (int side = 0; side < 2; side++) {
        LP_TRY(read_first(results, side, &reading, first, err));
        LP_TRY(lp_text_format(out, err, "%slogit lens, %s runs of %lld pairs: ", side ? "\n" : "", side_names[side],
                              (long long)n));
        LP_TRY(add_heading(&reading.shape, "the token that most of them have first, and in how many per cent it is",
                           out, err));
        for (int32_t l = 0; l < reading.shape.n_layers; l++) {
            LP_TRY(lp_text_format(out, err, "  %-5d", l));
            for (int32_t p = 0; p < reading.shape.n_positions; p++) {
                size_t at = place_of(&reading.shape, p, l) / (size_t)reading.shape.top * (size_t)n;
                int64_t n_tokens = 0, best = 0;
                for (int64_t i = 0; i < n; i++) count_first(cell, &n_tokens, first[at + (size_t)i]);
                for (int64_t i = 1; i < n_tokens; i++)
                    if (cell[i].count > cell[best].count) best = i;
                LP_TRY(add_cell(results, cell[best].token, 100.0 * cell[best].count / (double)n, out, err));
            }
            LP_TRY(lp_text_format(out, err, "\n"));
        }
    }
out:
    release(&reading);
    lp_mem_free(first);
    lp_mem_free(cell);
    return status;
}

lp_status lp_lens_pair_table(lp_results *results, const char *id, lp_text *out, lp_error *err) {
    lens_reading reading = {0};
    int64_t pair = 0, n = lp_results_n_pairs(results);
    lp_status status = LP_OK;
    LP_TRY(begin(results, &reading, err));
    while (pair < n && strcmp(lp_results_pair_id(results, pair), id) != 0) pair++;
    if (pair == n) LP_FAIL(LP_ERR_VALUE, "no pair \"%s\" in this file", id);
    if (!lp_results_included(results)[pair])
        LP_FAIL(LP_ERR_VALUE, "pair \"%s\" did not pass the sweep's filter and was not run", id);
    for (int side = 0; side < 2; side++) {
        const char *answer = side ? lp_results_corrupted_text(results, pair) : lp_results_clean_text(results, pair);
        LP_TRY(lp_results_lens_pair(results, side, pair, reading.tokens, reading.log_probability, err));
        LP_TRY(lp_text_format(out, err, "%slogit lens, %s run of ", side ? "\n" : "", side_names[side]));
        LP_TRY(lp_text_add_printable(out, id, LP_PRINT_LINE, err));
        LP_TRY(lp_text_format(out, err, ", which answered \""));
        LP_TRY(lp_text_add_printable(out, answer, LP_PRINT_LINE, err));
        LP_TRY(lp_text_format(out, err, "\": "));
        LP_TRY(add_heading(&reading.shape, "the likeliest token and its probability in per cent", out, err));
        for (int32_t l = 0; l < reading.shape.n_layers; l++) {
            LP_TRY(lp_text_format(out, err, "  %-5d", l));
            for (int32_t p = 0; p < reading.shape.n_positions; p++) {
                size_t at = place_of(&reading.shape, p, l);
                LP_TRY(add_cell(results, reading.tokens[at], 100 * exp((double)reading.log_probability[at]), out, err));
            }
            LP_TRY(lp_text_format(out, err, "\n"));
        }
    }
out:
    release(&reading);
    return status;
}

lp_status lp_lens_csv_heading(lp_text *out, lp_error *err) {
    return lp_text_format(out, err, "pair,run,position,layer,rank,token,text,log_probability\n");
}

lp_status lp_lens_csv_pair(lp_results *results, int64_t pair, lp_text *out, lp_error *err) {
    lens_reading reading = {0};
    lp_status status = LP_OK;
    LP_TRY(begin(results, &reading, err));
    for (int side = 0; side < 2 && lp_results_included(results)[pair]; side++) {
        LP_TRY(lp_results_lens_pair(results, side, pair, reading.tokens, reading.log_probability, err));
        for (size_t i = 0; i < reading.n; i++) {
            size_t cell = i / (size_t)reading.shape.top, layers = (size_t)reading.shape.n_layers;
            const char *text = NULL;
            LP_TRY(text_of(results, reading.tokens[i], &text, err));
            LP_TRY(lp_csv_quote(lp_results_pair_id(results, pair), out, err));
            LP_TRY(lp_text_format(out, err, ",%s,", side_names[side]));
            LP_TRY(cell < layers ? lp_text_format(out, err, "question")
                                 : lp_text_format(out, err, "thought:%zu", cell / layers - 1));
            LP_TRY(lp_text_format(out, err, ",%zu,%zu,%d,", cell % layers, i % (size_t)reading.shape.top,
                                  reading.tokens[i]));
            LP_TRY(lp_csv_quote(text, out, err));
            LP_TRY(lp_text_format(out, err, ",%.9g\n", (double)reading.log_probability[i]));
        }
    }
out:
    release(&reading);
    return status;
}
