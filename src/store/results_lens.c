#include "store/results_lens.h"

#include "base/memory.h"

#include <math.h>

/* Numbers of one chunk, at least; one pair, at least. */
enum { BLOCK_NUMBERS = 65536, N_SIDES = 2 };

static const char *const token_paths[N_SIDES] = {"readout/logit_lens/clean/token",
                                                 "readout/logit_lens/corrupted/token"};
static const char *const probability_paths[N_SIDES] = {"readout/logit_lens/clean/log_probability",
                                                       "readout/logit_lens/corrupted/log_probability"};

static lp_status make_set(const lp_lens_writer *w, const char *path, lp_dtype type, const char *description, hid_t *out,
                          lp_error *err) {
    const lp_lens_shape *shape = &w->plan->lens;
    return lp_h5_make_dataset(
        w->file,
        &(lp_h5_dataset){.path = path,
                         .type = type,
                         .n_dims = 4,
                         .dims = {w->plan->n_pairs, shape->n_positions, shape->n_layers, shape->top},
                         .description = description,
                         .chunk_first = w->block},
        NULL, out, w->path, err);
}

lp_status lp_lens_writer_begin(lp_lens_writer *out, hid_t file, const lp_results_plan *plan, const char *path,
                               lp_error *err) {
    const lp_lens_shape *shape = &plan->lens;
    lp_lens_writer w = {.plan = plan, .path = path, .file = file};
    lp_status status = LP_OK;
    for (int side = 0; side < N_SIDES; side++) w.token_set[side] = w.probability_set[side] = H5I_INVALID_HID;
    w.of_side = (size_t)shape->n_positions * (size_t)shape->n_layers * (size_t)shape->top;
    w.block = BLOCK_NUMBERS / (int64_t)w.of_side;
    if (w.block > plan->n_pairs) w.block = plan->n_pairs;
    if (w.block < 1) w.block = 1;
    for (int side = 0; side < N_SIDES; side++) {
        LP_TRY(make_set(&w, token_paths[side], LP_I32,
                        "[pairs, last prompt position then thought steps, layers, likeliest first]; -1: not run",
                        &w.token_set[side], err));
        LP_TRY(make_set(&w, probability_paths[side], LP_F32, "natural logarithm, over the candidates of decoding",
                        &w.probability_set[side], err));
        LP_TRY(lp_mem_new(&w.tokens[side], (size_t)w.block * w.of_side, sizeof(int32_t), "logit lens", err));
        LP_TRY(lp_mem_new(&w.log_probability[side], (size_t)w.block * w.of_side, sizeof(float), "logit lens", err));
    }
    *out = w;
    return LP_OK;
out:
    lp_lens_writer_release(&w);
    return status;
}

static lp_status flush(lp_lens_writer *w, lp_error *err) {
    lp_status status = LP_OK;
    for (int side = 0; side < N_SIDES; side++) {
        LP_TRY(lp_h5_write_part(w->token_set[side], w->first, w->n_held, w->tokens[side], w->path, token_paths[side],
                                err));
        LP_TRY(lp_h5_write_part(w->probability_set[side], w->first, w->n_held, w->log_probability[side], w->path,
                                probability_paths[side], err));
    }
    w->first += w->n_held;
    w->n_held = 0;
out:
    return status;
}

/* Index of the first token in `seen` that is not below this one. */
static size_t place_of(const lp_lens_writer *w, int32_t token) {
    size_t low = 0, high = w->n_seen;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (w->seen[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static lp_status see(lp_lens_writer *w, int32_t token, lp_error *err) {
    size_t at = place_of(w, token);
    if (at < w->n_seen && w->seen[at] == token) return LP_OK;
    lp_status status = lp_mem_grow(&w->seen, &w->seen_capacity, w->n_seen + 1, sizeof *w->seen, "tokens", err);
    if (status != LP_OK) return status;
    memmove(w->seen + at + 1, w->seen + at, (w->n_seen - at) * sizeof *w->seen);
    w->seen[at] = token;
    w->n_seen++;
    return LP_OK;
}

lp_status lp_lens_writer_add(lp_lens_writer *w, const int32_t *tokens, const float *log_probability, lp_error *err) {
    size_t n = w->of_side;
    for (size_t side = 0; side < N_SIDES; side++) {
        int32_t *to = w->tokens[side] + (size_t)w->n_held * n;
        float *probability = w->log_probability[side] + (size_t)w->n_held * n;
        for (size_t i = 0; i < n; i++) {
            to[i] = tokens ? tokens[side * n + i] : -1;
            probability[i] = log_probability ? log_probability[side * n + i] : NAN;
            lp_status status = to[i] >= 0 ? see(w, to[i], err) : LP_OK;
            if (status != LP_OK) return status;
        }
    }
    return ++w->n_held == w->block ? flush(w, err) : LP_OK;
}

lp_status lp_lens_writer_end(lp_lens_writer *w, void *state, lp_error *err) {
    char **texts = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(flush(w, err));
    LP_TRY(lp_mem_new(&texts, w->n_seen, sizeof *texts, "tokens", err));
    for (size_t i = 0; i < w->n_seen; i++) {
        lp_text_clear(&text);
        LP_TRY(w->plan->lens.show(state, &w->seen[i], 1, &text, err));
        LP_TRY(lp_mem_text(&texts[i], lp_text_get(&text), text.length, err));
    }
    LP_TRY(lp_h5_make_dataset(w->file,
                              &(lp_h5_dataset){.path = "readout/logit_lens/token_id",
                                               .type = LP_I32,
                                               .n_dims = 1,
                                               .dims = {(int64_t)w->n_seen},
                                               .description = "every token that occurs, ascending"},
                              w->seen, NULL, w->path, err));
    LP_TRY(lp_h5_put_strings(w->file, "readout/logit_lens/token_text", (const char *const *)texts, (int64_t)w->n_seen,
                             "text of token_id, control characters escaped", w->path, err));
out:
    for (size_t i = 0; texts && i < w->n_seen; i++) lp_mem_free(texts[i]);
    lp_mem_free(texts);
    lp_text_release(&text);
    return status;
}

void lp_lens_writer_release(lp_lens_writer *w) {
    for (int side = 0; side < N_SIDES; side++) {
        if (w->plan) {
            lp_h5_close(w->token_set[side]);
            lp_h5_close(w->probability_set[side]);
        }
        lp_mem_free(w->tokens[side]);
        lp_mem_free(w->log_probability[side]);
    }
    lp_mem_free(w->seen);
    *w = (lp_lens_writer){0};
}
