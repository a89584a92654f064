/* Which rows of a batch share a prompt: the lists that lp_row_table's groups point to. Knows no backend. */
#ifndef LP_BACKEND_GROUPS_H
#define LP_BACKEND_GROUPS_H

#include "base/error.h"

/* Groups rows with the same prompt_begin [n_rows], at most group_rows each. group_row [n_rows], group_begin
 * [n_rows + 1]; scratch [n_rows]. Rows ascend within a prompt's groups, so that the rows of a prefix of the batch fill
 * the first groups of each prompt. Returns the number of groups. */
int32_t lp_row_groups(const int32_t *prompt_begin, int32_t n_rows, int32_t group_rows, int32_t *group_row,
                      int32_t *group_begin, uint64_t *scratch);

#endif
