/* Waves: the rows of one batch, from the time they are made until their results are back.
 *
 * A wave knows which requests its rows are of, what is to be read for them, and where its results lie; the engine makes
 * the batch and runs it. The requests of a wave that is under way are not touched. Local. */
#ifndef LP_PATCH_WAVE_H
#define LP_PATCH_WAVE_H

#include "patch/request.h"

/* A row of the wave: which request, which of its rows. */
typedef struct {
    lp_request *request;
    int32_t request_row;
    int32_t first; /* of the request's rows in the unsorted lp_wave */
} lp_wave_row;

/* Where a captured vector goes. */
typedef struct {
    float *out;
    int32_t width;
    int64_t at; /* floats into the wave's captured */
} lp_wave_capture;

/* A wave on its way: what has to be known when its results arrive. Those are one block on the device, captured vectors,
 * readings and chosen tokens behind each other, and come back in one copy. */
typedef struct {
    int number;        /* of its fetch */
    lp_wave_row *rows; /* [n_rows] */
    int32_t *order;    /* [n_rows] unsorted rows by join */
    int32_t n_rows;
    int32_t *choosing; /* [n_tokens] rows of the batch that choose a token, in the order of the hidden states read */
    int32_t n_tokens;
    lp_request_reads reads; /* by choosing row */
    int32_t head_rows;      /* how many choosing rows a call of the output head takes */
    lp_wave_capture *captures;
    size_t capture_capacity;
    int32_t n_captures;
    size_t n_captured; /* floats */
    char *results;     /* dev */
    char *host_results;
    size_t capacity, host_capacity;
} lp_wave;

const lp_request_row *lp_wave_row_of(const lp_wave_row *row);
/* Lists of the wave's rows by what becomes of their hidden states, `lists` [3, max_rows]: hidden states of rows that
 * feed a step, the latents they become, hidden states of rows that choose. output [n_rows]: rows that have one. Returns
 * how many feed a step. */
int32_t lp_wave_list_outcomes(lp_wave *w, const uint8_t *output, int32_t *lists, int32_t max_rows);
/* Asks the requests what is to be read, and sets head_rows: equal parts of at most `most`. */
lp_status lp_wave_list_reads(lp_wave *w, int32_t most, lp_error *err);
/* Is reading k, if there is one, that of this row? */
bool lp_wave_reads_for(const lp_wave *w, size_t k, const lp_wave_row *row);
/* Where the parts of the results begin, and their end: captured vectors are at 0. */
size_t lp_wave_readings_at(const lp_wave *w);
size_t lp_wave_tokens_at(const lp_wave *w);
size_t lp_wave_results_bytes(const lp_wave *w);
/* Hands host_results out to captures and requests, which are free for the next wave then. */
void lp_wave_hand_out(lp_wave *w);

#endif
