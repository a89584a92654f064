#include "cli/rate.h"

#include "backend/backend.h"
#include "stage/device.h"

#include <time.h>

lp_status lp_measure_rate(const lp_session *session, double wanted_s, double *flops_per_s, lp_error *err) {
    enum { CPU_ROWS = 256 };
    const lp_linear *host = &session->model.blocks[0].mlp_in;
    lp_backend *own = NULL, *be = session->backend;
    lp_backend_linear *linear = NULL;
    void *x = NULL, *y = NULL;
    struct timespec t0, t1;
    double seconds = 0;
    int64_t rounds = 0;
    lp_status status = LP_OK;
    if (!be) LP_TRY(lp_backend_cpu_new(lp_stage_threads(session), &own, err));
    if (own) be = own;
    int32_t rows = be->is_asynchronous ? be->batch_rows : CPU_ROWS;
    size_t room = (size_t)(rows + LP_ROW_PADDING) * sizeof(float);
    LP_TRY(be->linear_new(be, host, &linear, err));
    LP_TRY(be->alloc(be, room * (size_t)host->n_in, "plan", &x, err));
    LP_TRY(be->alloc(be, room * (size_t)host->n_out, "plan", &y, err));
    LP_TRY(be->linear(be, linear, LP_FLOATS, x, rows, y, err));
    LP_TRY(be->sync(be, err));
    clock_gettime(CLOCK_MONOTONIC, &t0);
    while (seconds < wanted_s) {
        LP_TRY(be->linear(be, linear, LP_FLOATS, x, rows, y, err));
        LP_TRY(be->sync(be, err));
        rounds++;
        clock_gettime(CLOCK_MONOTONIC, &t1);
        seconds = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    }
    *flops_per_s = 2.0 * rows * (double)host->n_in * (double)host->n_out * (double)rounds / seconds;
out:
    if (linear) be->linear_free(be, linear);
    if (x) be->release(be, x);
    if (y) be->release(be, y);
    lp_backend_free(own);
    return status;
}
