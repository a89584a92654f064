/* Fuzzes the readers of pair files, problem files and templates, and what is computed from them. The first byte
 * chooses the reader. */
#include "problems/pair_check.h"
#include "problems/pair_template.h"
#include "problems/pair_write.h"
#include "problems/problem_annotate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_pair_file(const char *text, size_t size) {
    lp_pair_set set = {0};
    lp_check_report report = {0};
    lp_check_options check = {0};
    lp_error error = {0};
    lp_text out = {0};
    lp_pairs_options options = {.mode = LP_PAIRS_AUDIT};
    if (lp_pairs_parse(text, size, "fuzz", &options, &set, &error) == LP_OK) {
        LP_ASSERT(lp_pairs_check(&set, &check, &report, &error) == LP_OK);
        LP_ASSERT(lp_check_print(&set, &check, &report, &out, &error) == LP_OK);
        LP_ASSERT(lp_check_fix(&set, &report, "fuzz", text, size, &out, &error) == LP_OK);
    }
    lp_check_release(&report);
    lp_pairs_release(&set);
    options.mode = LP_PAIRS_STRICT;
    if (lp_pairs_parse(text, size, "fuzz", &options, &set, &error) == LP_OK) {
        /* What was read and written is read again. */
        lp_pair_set again = {0};
        lp_pairs_print_options print = {.format = LP_PAIRS_OWN, .seed = -1};
        lp_text_clear(&out);
        LP_ASSERT(lp_pairs_print(&set, &print, &out, &error) == LP_OK);
        LP_ASSERT(lp_pairs_parse(lp_text_get(&out), out.length, "fuzz", &options, &again, &error) == LP_OK);
        LP_ASSERT(again.n == set.n);
        lp_pairs_release(&again);
    }
    lp_pairs_release(&set);
    lp_text_release(&out);
}

static void fuzz_problems(const char *text, size_t size, lp_source_format format) {
    static lp_graph graph;
    static lp_recomputed changed;
    lp_problem_list list = {0};
    lp_error error = {0};
    if (lp_problems_parse(text, size, "fuzz", format, &list, &error) != LP_OK) return;
    for (size_t i = 0; i < list.n; i++) {
        const lp_problem *problem = &list.items[i];
        lp_text annotated = {0};
        size_t n_added = 0;
        LP_ASSERT(lp_solution_annotate(problem->solution, &annotated, &n_added, &error) == LP_OK);
        (void)lp_graph_build(problem->question, lp_text_get(&annotated), problem->answer, &graph);
        lp_text_release(&annotated);
        if (lp_graph_build(problem->question, problem->solution, problem->answer, &graph) != LP_REASON_NONE) continue;
        lp_graph_unchanged(&graph, &changed);
        for (size_t k = 0; k < graph.numbers.n; k++) {
            lp_text out = {0};
            if (lp_graph_changeable(&graph, k) != LP_REASON_NONE) continue;
            lp_graph_unchanged(&graph, &changed);
            changed.numbers[k].value = lp_rational_whole(lp_graph_limit(&graph, k) + 3);
            if (lp_graph_recompute(&graph, &changed) != LP_REASON_NONE) continue;
            (void)lp_graph_sound(&graph, &changed);
            LP_ASSERT(lp_graph_question(&graph, &changed, &out, &error) == LP_OK);
            LP_ASSERT(lp_graph_solution(&graph, &changed, &out, &error) == LP_OK);
            lp_text_release(&out);
        }
        if (problem->variant) (void)lp_graph_take_variant(&graph, problem->variant->question, &changed);
    }
    lp_problems_release(&list);
}

static void fuzz_templates(const char *text, size_t size) {
    lp_template_file file = {0};
    lp_error error = {0};
    if (lp_templates_parse(text, size, "fuzz", &file, &error) != LP_OK) return;
    for (size_t i = 0; i < file.n; i++) {
        const lp_template *item = &file.items[i];
        int64_t values[LP_TEMPLATE_NAMES] = {0};
        uint32_t choice[LP_TEMPLATE_WORDS] = {0};
        lp_text out = {0};
        for (int v = 0; v < item->n_variables; v++) values[v] = item->low[v];
        (void)lp_template_solve(&file, item, values);
        LP_ASSERT(lp_template_question(item, values, choice, &out, &error) == LP_OK);
        lp_text_release(&out);
    }
    lp_templates_release(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    const char *text = (const char *)data + 1;
    switch (data[0] % 6) {
    case 0: fuzz_pair_file(text, size - 1); break;
    case 1: fuzz_problems(text, size - 1, LP_SOURCE_GSM8K); break;
    case 2: fuzz_problems(text, size - 1, LP_SOURCE_GSM8K_AUG); break;
    case 3: fuzz_problems(text, size - 1, LP_SOURCE_SVAMP); break;
    case 4: fuzz_problems(text, size - 1, LP_SOURCE_GSM_PLUS); break;
    default: fuzz_templates(text, size - 1); break;
    }
    return 0;
}
