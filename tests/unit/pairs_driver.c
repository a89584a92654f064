/* Reads paths of pair files from stdin, one a line, and says for each whether the reader takes it: `ok`, or the error.
 */
#include "pairs/pairs.h"

int main(void) {
    char path[4096];
    while (fgets(path, sizeof path, stdin)) {
        lp_pair_set set = {0};
        lp_error error = {0};
        lp_pairs_options options = {.equal_answers = LP_EQUAL_ANSWERS_ALLOW};
        path[strcspn(path, "\n")] = 0;
        puts(lp_pairs_load(path, &options, &set, &error) == LP_OK ? "ok" : error.text);
        lp_pairs_release(&set);
    }
    return 0;
}
