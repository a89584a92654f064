/* What a sweep will do, known before anything is computed: its conditions, which of them are the same or can change
 * nothing, and where the store keeps what they take. */
#ifndef LP_STAGE_PLAN_H
#define LP_STAGE_PLAN_H

#include "stage/donors.h"
#include "stage/token_edits.h"

typedef struct {
    const lp_session *session;
    lp_store_layout *layout;
    lp_condition_set *set;       /* the session's */
    int32_t *lengths[2];         /* by direction: prompt lengths of its recipients, ascending, each once */
    lp_run_shapes shapes;        /* borrows them */
    bool *dead;                  /* [set.n] */
    int32_t *same_as;            /* [set.n] */
    bool *identity;              /* [set.n] controls that must change nothing: self, replaced at its own address */
    lp_condition_family *family; /* [set.n] why it is dead or equal, or what it must give */
    int32_t *fed_as;             /* [set.n] */
    size_t n_distinct;
    lp_token_edits tokens;    /* of the set's token rules */
    bool used[2];             /* directions of the sweep */
    lp_donor_table donors[2]; /* of these; see lp_sweep_plan_donors */
} lp_sweep_plan;

/* Local. A job without a sweep has a plan without conditions: the layout alone. */
lp_status lp_sweep_plan_init(lp_session *session, lp_sweep_plan *out, lp_error *err);
/* Local. Lists the donors' vectors, and reads those that come from files. */
lp_status lp_sweep_plan_donors(lp_sweep_plan *plan, lp_error *err);
void lp_sweep_plan_release(lp_sweep_plan *plan);
/* The condition that one of a family of pairs is like; -1: none. */
int32_t lp_sweep_plan_like(const lp_sweep_plan *plan, size_t condition);
/* Appends a line for each family that the plan has: its reason, how many, and an example where these are wanted. */
typedef enum { LP_FAMILIES_ALONE, LP_FAMILIES_WITH_EXAMPLES } lp_family_detail;
lp_status lp_sweep_plan_families(const lp_sweep_plan *plan, lp_family_detail detail, lp_text *out, lp_error *err);

#endif
