#include "store/results_lens.h"

#include "base/memory.h"

#include <math.h>

/* Numbers of one chunk, at least; one pair, at least. */
enum { BLOCK_NUMBERS = 65536, N_SIDES = 2 };

static const char *const token_paths[N_SIDES] = {"readout/logit_lens/clean/token",
                                                 "readout/logit_lens/corrupted/token"};
static const char *const probability_paths[N_SIDES] = {"readout/logit_lens/clean/log_probability",
                                                       "readout/logit_lens/corrupted/log_probability"};

static lp_status make_set(const lp_lens_writer *writer, const char *path, lp_dtype type, const char *description,
                          hid_t *out, lp_error *err) {
    const lp_lens_shape *shape = &writer->plan->lens;
    return lp_h5_make_dataset(
        writer->file,
        &(lp_h5_dataset){.path = path,
                         .type = type,
                         .n_dims = 4,
                         .dims = {writer->plan->n_pairs, shape->n_positions, shape->n_layers, shape->top},
                         .description = description,
                         .chunk_first = writer->block},
        NULL, out, writer->path, err);
}

lp_status lp_lens_writer_begin(lp_lens_writer *out, hid_t file, const lp_results_plan *plan, const char *path,
                               lp_error *err) {
    const lp_lens_shape *shape = &plan->lens;
    lp_lens_writer writer = {.plan = plan, .path = path, .file = file};
    lp_status status = LP_OK;
    for (int side = 0; side < N_SIDES; side++) writer.token_set[side] = writer.probability_set[side] = H5I_INVALID_HID;
    writer.of_side = (size_t)shape->n_positions * (size_t)shape->n_layers * (size_t)shape->top;
    writer.block = BLOCK_NUMBERS / (int64_t)writer.of_side;
    if (writer.block > plan->n_pairs) writer.block = plan->n_pairs;
    if (writer.block < 1) writer.block = 1;
    for (int side = 0; side < N_SIDES; side++) {
        LP_TRY(make_set(&writer, token_paths[side], LP_I32,
                        "[pairs, last prompt position then thought steps, layers, likeliest first]; -1: not run",
                        &writer.token_set[side], err));
        LP_TRY(make_set(&writer, probability_paths[side], LP_F32, "natural logarithm, over the candidates of decoding",
                        &writer.probability_set[side], err));
        LP_TRY(lp_mem_new(&writer.tokens[side], (size_t)writer.block * writer.of_side, sizeof(int32_t), "logit lens",
                          err));
        LP_TRY(lp_mem_new(&writer.log_probability[side], (size_t)writer.block * writer.of_side, sizeof(float),
                          "logit lens", err));
    }
    *out = writer;
    return LP_OK;
out:
    lp_lens_writer_release(&writer);
    return status;
}

static lp_status flush(lp_lens_writer *writer, lp_error *err) {
    for (int side = 0; side < N_SIDES; side++) {
        LP_CHECK(lp_h5_write_part(writer->token_set[side], writer->first, writer->n_held, writer->tokens[side],
                                  writer->path, token_paths[side], err));
        LP_CHECK(lp_h5_write_part(writer->probability_set[side], writer->first, writer->n_held,
                                  writer->log_probability[side], writer->path, probability_paths[side], err));
    }
    writer->first += writer->n_held;
    writer->n_held = 0;
    return LP_OK;
}

/* Index of the first token in `seen` that is not below this one. */
static size_t place_of(const lp_lens_writer *writer, int32_t token) {
    size_t low = 0, high = writer->n_seen;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (writer->seen[middle] < token)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static lp_status see(lp_lens_writer *writer, int32_t token, lp_error *err) {
    size_t at = place_of(writer, token);
    if (at < writer->n_seen && writer->seen[at] == token) return LP_OK;
    LP_CHECK(
        lp_mem_grow(&writer->seen, &writer->seen_capacity, writer->n_seen + 1, sizeof *writer->seen, "tokens", err));
    memmove(writer->seen + at + 1, writer->seen + at, (writer->n_seen - at) * sizeof *writer->seen);
    writer->seen[at] = token;
    writer->n_seen++;
    return LP_OK;
}

lp_status lp_lens_writer_add(lp_lens_writer *writer, const int32_t *tokens, const float *log_probability,
                             lp_error *err) {
    size_t n = writer->of_side;
    for (size_t side = 0; side < N_SIDES; side++) {
        int32_t *to = writer->tokens[side] + (size_t)writer->n_held * n;
        float *probability = writer->log_probability[side] + (size_t)writer->n_held * n;
        for (size_t i = 0; i < n; i++) {
            to[i] = tokens ? tokens[side * n + i] : -1;
            probability[i] = log_probability ? log_probability[side * n + i] : NAN;
            LP_CHECK(to[i] >= 0 ? see(writer, to[i], err) : LP_OK);
        }
    }
    return ++writer->n_held == writer->block ? flush(writer, err) : LP_OK;
}

lp_status lp_lens_writer_end(lp_lens_writer *writer, void *state, lp_error *err) {
    char **texts = NULL;
    lp_text text = {0};
    lp_status status = LP_OK;
    LP_TRY(flush(writer, err));
    LP_TRY(lp_mem_new(&texts, writer->n_seen, sizeof *texts, "tokens", err));
    for (size_t i = 0; i < writer->n_seen; i++) {
        lp_text_clear(&text);
        LP_TRY(writer->plan->lens.show(state, &writer->seen[i], 1, &text, err));
        LP_TRY(lp_mem_text(&texts[i], lp_text_get(&text), text.length, err));
    }
    LP_TRY(lp_h5_make_dataset(writer->file,
                              &(lp_h5_dataset){.path = "readout/logit_lens/token_id",
                                               .type = LP_I32,
                                               .n_dims = 1,
                                               .dims = {(int64_t)writer->n_seen},
                                               .description = "every token that occurs, ascending"},
                              writer->seen, NULL, writer->path, err));
    LP_TRY(lp_h5_put_strings(writer->file, "readout/logit_lens/token_text", (const char *const *)texts,
                             (int64_t)writer->n_seen, "text of token_id, control characters escaped", writer->path,
                             err));
out:
    for (size_t i = 0; texts && i < writer->n_seen; i++) lp_mem_free(texts[i]);
    lp_mem_free(texts);
    lp_text_release(&text);
    return status;
}

void lp_lens_writer_release(lp_lens_writer *writer) {
    for (int side = 0; side < N_SIDES; side++) {
        if (writer->plan) {
            lp_h5_close(writer->token_set[side]);
            lp_h5_close(writer->probability_set[side]);
        }
        lp_mem_free(writer->tokens[side]);
        lp_mem_free(writer->log_probability[side]);
    }
    lp_mem_free(writer->seen);
    *writer = (lp_lens_writer){0};
}
