/* Private to src/model: what stands behind an lp_model. */
#ifndef LP_MODEL_MODEL_FILES_H
#define LP_MODEL_MODEL_FILES_H

#include "model/checkpoint.h"
#include "model/codi_layout.h"
#include "model/model.h"

/* Where the values of a slot lie: in the mapped file, or in the arena. */
typedef struct {
    bool in_arena;
    size_t offset; /* in floats, of the first value in the arena */
    int64_t ld;    /* row stride of a matrix in the arena */
} lp_placement;

struct lp_model_files {
    lp_checkpoint base; /* config.json first */
    lp_checkpoint codi;
    lp_layout_table table;
    lp_placement *places; /* [table.n_slots] */
    double lora_alpha;
    lp_base_rounding base_rounding;
    const float *arena; /* NULL until lp_model_fill */
    void *own_arena;    /* lp_model_load's */
};

#endif
