#include "backend/backend.h"

static lp_status no_wait(lp_backend *be, lp_error *err) {
    (void)be;
    (void)err;
    return LP_OK;
}

static lp_status own_matrix(lp_backend *be, const lp_matrix *host, const float **out, lp_error *err) {
    (void)be;
    (void)err;
    LP_ASSERT(host->data);
    *out = host->data;
    return LP_OK;
}

static lp_status own_vector(lp_backend *be, const float *host, size_t n, const float **out, lp_error *err) {
    (void)be;
    (void)n;
    (void)err;
    *out = host;
    return LP_OK;
}

static void keep_own(lp_backend *be, const float *vector) {
    (void)be;
    (void)vector;
}

static lp_status copy_rows(lp_backend *be, float *dst, const float *src, const int32_t *src_rows, int32_t n,
                           int32_t width, lp_error *err) {
    return be->copy_rows(be, dst, NULL, src, src_rows, n, width, err);
}

static lp_status no_quicker_way(lp_backend *be, const lp_backend_linear *head, const float *x, int32_t n,
                                const lp_choosable *among, int32_t *best, bool *found, lp_error *err) {
    (void)be;
    (void)head;
    (void)x;
    (void)n;
    (void)among;
    (void)best;
    (void)err;
    *found = false;
    return LP_OK;
}

void lp_backend_use_defaults(lp_backend *be) {
    if (!be->sync) be->sync = no_wait;
    if (!be->choose) be->choose = no_quicker_way;
    if (!be->pack_rows) be->pack_rows = copy_rows;
    if (!be->matrix_new) be->matrix_new = own_matrix;
    if (!be->vector_new) be->vector_new = own_vector;
    if (!be->vector_free) be->vector_free = keep_own;
}

void lp_backend_free(lp_backend *be) {
    if (be) be->free(be);
}
