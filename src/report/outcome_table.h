/* The outcomes of a results file, as text for a terminal: a table with a line for each condition, and a grid that fits
 * the screen. */
#ifndef LP_REPORT_OUTCOME_TABLE_H
#define LP_REPORT_OUTCOME_TABLE_H

#include "base/text.h"
#include "store/results.h"

/* Appends: what was run; the unpatched run; then for every combination of direction, donor, operation, site and defects
 * the table (layers x step sets): share of each outcome with its Wilson 95 % interval, n, and the mean KL where the
 * file has that metric; the controls; dead cells; and whether the sweep is sound (self controls and the unpatched run
 * changed nothing). */
lp_status lp_outcome_table(lp_results *results, lp_text *out, lp_error *err);

typedef struct {
    int width;  /* columns of the screen */
    bool shade; /* the terminal understands the colours of xterm's 256 */
} lp_grid_options;

/* Appends the same in short. Every combination that is not a control is a grid, layers down and step sets across: the
 * share of the donor's answer where the donor is the other run, marked where it overtakes the recipient's, and
 * otherwise the share of the recipient's own answer. What does not fit the width has one line a layer: lowest, median
 * and highest share. A control is one line. Texts of the file are escaped; the shades are not, so print it as it is. */
lp_status lp_outcome_grid(lp_results *results, const lp_grid_options *options, lp_text *out, lp_error *err);

#endif
