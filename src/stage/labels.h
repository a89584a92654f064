/* Labels: what pairs have in common in a mean over some of them, and the groups that have it. */
#ifndef LP_STAGE_LABELS_H
#define LP_STAGE_LABELS_H

#include "stage/session.h"

/* The pairs by one label: pairs of one group have the same text. */
typedef struct {
    lp_label label;
    int32_t step;   /* RESULT and EQUATION: of the graph; negative: from its end */
    int32_t *group; /* [n_pairs]; -1: the pair has no such text, or no other pair has the same */
    bool *has_text; /* [n_pairs] */
    int32_t n_groups;
} lp_pair_labels;

/* Of the texts that the runs of `side` have. Fails where no pair has one. */
lp_status lp_pair_labels_init(const lp_session *session, int side, lp_label label, int32_t step, lp_pair_labels *out,
                              lp_error *err);
void lp_pair_labels_release(lp_pair_labels *labels);

#endif
