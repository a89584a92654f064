#include "nn/token_edit.h"

#include <math.h>

static double dot_of(const double *a, const double *b, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

static double norm_of(const float *x, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sqrt(sum);
}

float lp_token_scale(const float *x, int32_t n) {
    double norm = norm_of(x, n);
    return norm > 0 ? (float)(1 / norm) : 0.0f;
}

/* Is v the nearest token's embedding? */
static bool takes_embedding(const lp_edit *edit) {
    return lp_operation_takes_vector(edit->operation) && !edit->vector && edit->operation != LP_OP_SWAP;
}

/* Is the subspace that of the nearest embeddings? */
static bool takes_span(const lp_edit *edit) {
    return (edit->operation == LP_OP_REMOVE || edit->operation == LP_OP_KEEP) && !edit->subspace;
}

int32_t lp_token_edit_list(const lp_edit *edit, const int32_t *nearest, int32_t *out) {
    const lp_token_edit *token = edit->token;
    int32_t chosen = token->map ? token->map[nearest[0]] : nearest[0], n = 0;
    if (chosen < 0) return -1;
    if (takes_embedding(edit)) out[n++] = chosen;
    if (!takes_span(edit)) return n;
    for (; n < token->top; n++) out[n] = nearest[n];
    if (token->along >= 0) out[n++] = token->along;
    return n;
}

static void replace_by_embedding(const lp_edit *edit, const float *embedding, float *x, int32_t width, float *v) {
    const lp_token_edit *token = edit->token;
    double mean = 0, square = 0;
    memcpy(v, embedding, (size_t)width * sizeof *v);
    for (int32_t i = 0; i < width && token->layer_norm; i++) mean += (double)v[i] / width;
    for (int32_t i = 0; i < width && token->layer_norm; i++) square += ((double)v[i] - mean) * ((double)v[i] - mean);
    for (int32_t i = 0; i < width && token->layer_norm; i++)
        v[i] = (float)(((double)v[i] - mean) / sqrt(square / width + 1e-5));
    double norm = norm_of(v, width), scale = norm > 0 ? norm_of(x, width) / norm : 0;
    for (int32_t i = 0; i < width && token->keep_norm; i++) v[i] = (float)(scale * (double)v[i]);
    lp_edit plain = *edit;
    plain.vector = v;
    lp_edit_apply(&plain, x, width);
}

/* Makes row `n` of the basis orthogonal to those before it, of length 1; false where nothing of it is left. */
static bool orthonormalise(double *basis, int32_t n, int32_t width) {
    double *x = basis + (int64_t)n * width, before = dot_of(x, x, width);
    for (int32_t k = 0; k < 2 * n; k++) {
        const double *y = basis + (int64_t)(k % n) * width;
        double dot = dot_of(x, y, width);
        for (int32_t i = 0; i < width; i++) x[i] -= dot * y[i];
    }
    double after = dot_of(x, x, width);
    if (!(after > 1e-10 * before)) return false;
    for (int32_t i = 0; i < width; i++) x[i] /= sqrt(after);
    return true;
}

static void project(const lp_edit *edit, const float *embeddings, int32_t n, float *x, int32_t width, double *work) {
    const lp_token_edit *token = edit->token;
    double *part = work, *basis = work + width;
    int32_t n_basis = 0, n_span = n - (token->along >= 0);
    for (int32_t j = 0; j < n_span; j++) {
        double *row = basis + (int64_t)n_basis * width;
        for (int32_t i = 0; i < width; i++) row[i] = (double)embeddings[(int64_t)j * width + i];
        n_basis += orthonormalise(basis, n_basis, width);
    }
    for (int32_t i = 0; i < width; i++) part[i] = 0;
    for (int32_t j = 0; j < n_basis; j++) {
        const double *row = basis + (int64_t)j * width;
        double dot = 0;
        for (int32_t i = 0; i < width; i++) dot += (double)x[i] * row[i];
        for (int32_t i = 0; i < width; i++) part[i] += dot * row[i];
    }
    if (edit->operation == LP_OP_KEEP) {
        double norm = sqrt(dot_of(part, part, width)), scale = norm > 0 ? norm_of(x, width) / norm : 0;
        for (int32_t i = 0; i < width; i++) x[i] = (float)(token->keep_norm ? scale * part[i] : part[i]);
        return;
    }
    double added = 0, square = 0;
    const float *along = embeddings + (int64_t)n_span * width;
    for (int32_t i = 0; i < width && token->along >= 0; i++) {
        added += (double)x[i] * (double)along[i];
        square += (double)along[i] * (double)along[i];
    }
    added = square > 0 ? (double)token->times * added / square : 0;
    for (int32_t i = 0; i < width; i++)
        x[i] = (float)((double)x[i] - part[i] + (token->along >= 0 ? added * (double)along[i] : 0));
}

void lp_token_edit_apply(const lp_edit *edit, const float *embeddings, int32_t n, float *x, int32_t width,
                         double *work) {
    if (takes_span(edit))
        project(edit, embeddings, n, x, width, work);
    else if (takes_embedding(edit))
        replace_by_embedding(edit, embeddings, x, width, (float *)(void *)work);
    else
        lp_edit_apply(edit, x, width);
}
