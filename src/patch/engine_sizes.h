/* How large the engine's memory is: workspace of batches, pages of keys and values, rows of saved logits, within a
 * limit. Arithmetic alone, so that `plan` can say before a sweep what it will take. */
#ifndef LP_PATCH_ENGINE_SIZES_H
#define LP_PATCH_ENGINE_SIZES_H

#include "patch/request.h"

/* Tokens that answers are taken to have before there are any. */
enum { LP_FIRST_GUESS = 16 };

/* The work that comes: one unit that stands for all. */
typedef struct {
    lp_request_need least; /* of any of its requests; saved: of all of them together */
    lp_request_need whole; /* all its parts at once, with answers as they are expected; rows: of its largest request */
    int32_t branches;      /* rows that its runs can have at once */
} lp_unit_need;

/* lp_unit_need.least of a unit of n requests that were opened. */
lp_request_need lp_unit_least(const lp_request *requests, size_t n);
/* The need of a unit of n requests that were opened. Plans their first parts. */
lp_status lp_unit_need_of(lp_request *requests, size_t n, lp_unit_need *out, lp_error *err);

typedef struct {
    int32_t rows, pages, saved;
    int64_t bytes;
} lp_engine_sizes;

/* Rows that the output head takes at once, of batches of `rows`: its logits are wide. be NULL: the cpu's. */
int32_t lp_engine_head_rows(const lp_backend *be, int32_t rows);
/* Bytes of everything but pages and saved logits, for batches of `rows`. */
int64_t lp_engine_work_bytes(const lp_backend *be, const lp_model *model, int32_t rows);
/* One page: keys and values of all layers, and a row of latents. One row of saved logits. */
int64_t lp_engine_page_bytes(const lp_backend *be, const lp_model *model);
int64_t lp_engine_saved_bytes(const lp_model *model);

/* The smallest memory with which units like this one can be run at all. */
int64_t lp_engine_least_bytes(const lp_backend *be, const lp_model *model, const lp_unit_need *unit);
/* As much as is of use within `limit` bytes, which is at least lp_engine_least_bytes; INT64_MAX: as much as is of use
 * at all. rows_wanted: rows that a batch should have; 0: the backend's batch_rows. */
lp_engine_sizes lp_engine_size(const lp_backend *be, const lp_model *model, const lp_unit_need *unit,
                               int32_t rows_wanted, int64_t limit);

#endif
