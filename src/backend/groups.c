#include "backend/groups.h"

static int compare_keys(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int32_t lp_row_groups(const int32_t *prompt_begin, int32_t n_rows, int32_t group_rows, int32_t *group_row,
                      int32_t *group_begin, uint64_t *scratch) {
    int32_t n_groups = 0, in_group = 0;
    for (int32_t r = 0; r < n_rows; r++) scratch[r] = (uint64_t)(uint32_t)prompt_begin[r] << 32 | (uint32_t)r;
    if (n_rows > 1) qsort(scratch, (size_t)n_rows, sizeof *scratch, compare_keys);
    for (int32_t i = 0; i < n_rows; i++) {
        bool same = i > 0 && scratch[i] >> 32 == scratch[i - 1] >> 32;
        if (!same || in_group == group_rows) {
            group_begin[n_groups++] = i;
            in_group = 0;
        }
        group_row[i] = (int32_t)(uint32_t)scratch[i];
        in_group++;
    }
    group_begin[n_groups] = n_rows;
    return n_groups;
}
