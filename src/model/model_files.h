/* Private to src/model: what an lp_model owns. */
#ifndef LP_MODEL_MODEL_FILES_H
#define LP_MODEL_MODEL_FILES_H

#include "model/checkpoint.h"
#include "model/codi_layout.h"
#include "model/model.h"
#include "model/weight_source.h"

#include <stdatomic.h>

/* Where the values of a slot lie: in the mapped file, in the arena, or nowhere here: they are left to the device. */
typedef enum { LP_PLACE_MAPPED, LP_PLACE_ARENA, LP_PLACE_LEFT } lp_place;

typedef struct {
    lp_place where;
    size_t offset; /* in floats, of the first value in the arena */
    int64_t ld;    /* row stride of a matrix in the arena */
    bool packed;   /* in the arena as LP_PANELS; ld: its depth; column: of the slot's first output */
    int64_t column;
} lp_placement;

/* SHA-256 of the files, computed by a thread for each; digests.c. */
typedef struct lp_digest_task lp_digest_task;
typedef struct {
    lp_digest_task *tasks; /* [n_tasks] while they run */
    size_t n_tasks;
    atomic_bool stop;
    int n_threads; /* that have ended, and how long the last of them took */
    double longest_seconds;
} lp_digest_run;

struct lp_model_files {
    lp_checkpoint base; /* config.json first */
    lp_checkpoint codi;
    lp_layout_table table;
    lp_placement *places;      /* [table.n_slots] */
    lp_weight_source *sources; /* [table.n_slots] */
    double lora_alpha;
    lp_base_rounding base_rounding;
    bool leaves_matrices, packs_matrices;
    size_t codes_at; /* in the arena, of the codes of the head; 0: there are none */
    lp_digest_run digests;
    const float *arena; /* NULL until lp_model_fill */
    void *own_arena;    /* lp_model_load's */
};

/* fill.c: computes the arena, one piece after the other in the order in which they lie in the files. */
lp_status lp_fill_arena(lp_model_files *files, float *arena, size_t arena_bytes, lp_model_turns *turns, lp_error *err);

/* digests.c. Starts the threads; what none of them does, lp_digests_wait does itself. */
void lp_digests_start(lp_model_files *files);
/* Afterwards every lp_checkpoint_file has its sha256. */
lp_status lp_digests_wait(lp_model_files *files, lp_error *err);
/* Ends the threads soon, whatever they have done. */
void lp_digests_stop(lp_model_files *files);

/* What was copied into the arena need not stay resident twice. The maps are read-only: pages come back when touched. */
void lp_files_drop_pages(const lp_model_files *files);

#endif
