/* Reads damaged files for tests/mutate.py, one command a line of standard input, words apart by tabs, in one process: a
 * start of the whole program costs a hundred times what reading a file does. For each line goes out "0" or "1 message".
 * A command that takes 10 s of processor time, or 120 s, ends the process.
 *
 *   mutation_driver
 */
#include "base/memory.h"
#include "job/job.h"
#include "model/model.h"
#include "pairs/pairs.h"
#include "report/lens_table.h"
#include "report/outcome_table.h"
#include "store/store_admin.h"
#include "token/tokenizer.h"

#include <sys/time.h>
#include <unistd.h>

enum { MAX_WORDS = 6, LIMIT_S = 10, LIMIT_ASLEEP_S = 120 };

/* 0: no limit. Their signals end the process. */
static void limit(unsigned processor_s, unsigned wall_s) {
    const struct itimerval timer = {.it_value = {.tv_sec = processor_s}};
    if (setitimer(ITIMER_PROF, &timer, NULL) != 0) abort();
    alarm(wall_s);
}

static lp_status read_results(const char *path, lp_text *out, lp_error *err) {
    lp_results *results = NULL;
    const lp_grid_options options = {0};
    lp_lens_shape lens;
    lp_status status = LP_OK;
    LP_TRY(lp_results_open(path, &results, err));
    LP_TRY(lp_outcome_table(results, out, err));
    LP_TRY(lp_outcome_grid(results, &options, out, err));
    LP_TRY(lp_results_lens(results, &lens, err));
    if (lens.top > 0) {
        LP_TRY(lp_lens_table(results, out, err));
        for (int64_t i = 0; i < lp_results_n_pairs(results); i++) LP_TRY(lp_lens_csv_pair(results, i, out, err));
    }
out:
    lp_results_free(results);
    return status;
}

static lp_status read_model(const char *base, const char *codi, lp_text *out, lp_error *err) {
    const lp_model_source source = {.base = base, .codi = codi, .lora_alpha = 32};
    lp_model model = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_model_load(&source, &model, err));
    LP_TRY(lp_model_inspect(&model, LP_INSPECT_TEXT, out, err));
    LP_TRY(lp_model_inspect(&model, LP_INSPECT_JSON, out, err));
out:
    lp_model_close(&model);
    return status;
}

static lp_status read_tokenizer(const char *folder, lp_error *err) {
    static const char text[] = "Tom has 3 pens, 12?\n";
    lp_tokenizer *tokenizer = NULL;
    lp_token_list ids = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_tokenizer_load(folder, &tokenizer, err));
    LP_TRY(lp_tokenizer_encode(tokenizer, text, strlen(text), LP_TOKENS_WITH_SPECIAL, &ids, err));
out:
    lp_token_list_release(&ids);
    lp_tokenizer_free(tokenizer);
    return status;
}

/* The conditions are those of a small model. */
static lp_status read_job(const char *path, lp_error *err) {
    static const lp_model_config config = {
        .n_layers = 3, .d_model = 8, .n_heads = 4, .n_kv_heads = 2, .head_dim = 2, .n_vocab = 10, .n_embedded = 13};
    lp_job job = {0};
    lp_condition_set set = {0};
    lp_status status = LP_OK;
    LP_TRY(lp_job_load(path, NULL, 0, &job, err));
    LP_TRY(lp_job_conditions(&job, &config, &set, err));
out:
    lp_condition_set_release(&set);
    lp_job_release(&job);
    return status;
}

static lp_status run(char **words, size_t n, lp_text *out, lp_error *err) {
    const char *verb = words[0], *path = n > 1 ? words[1] : "", *second = n > 2 ? words[2] : "";
    const lp_export_options everything = {0};
    lp_verify_counts counts;
    lp_status status = LP_OK;
    if (strcmp(verb, "info") == 0) {
        LP_TRY(lp_store_info(path, LP_REPORT_TEXT, out, err));
        status = lp_store_info(path, LP_REPORT_JSON, out, err);
    } else if (strcmp(verb, "verify") == 0) {
        status = lp_store_verify(path, LP_VERIFY_FULL, &counts, out, err);
    } else if (strcmp(verb, "archive") == 0) {
        status = lp_store_archive(path, second, out, err);
    } else if (strcmp(verb, "export") == 0) {
        status = lp_store_export(path, second, &everything, out, err);
    } else if (strcmp(verb, "merge") == 0) {
        const char *const sources[] = {second, n > 3 ? words[3] : ""};
        status = lp_store_merge(sources, n > 3 ? 2 : 1, path, NULL, out, err);
    } else if (strcmp(verb, "summary") == 0) {
        status = read_results(path, out, err);
    } else if (strcmp(verb, "inspect") == 0) {
        status = read_model(path, second, out, err);
    } else if (strcmp(verb, "tokenize") == 0) {
        status = read_tokenizer(path, err);
    } else if (strcmp(verb, "job") == 0) {
        status = read_job(path, err);
    } else if (strcmp(verb, "pairs") == 0) {
        lp_pair_set pairs = {0};
        const lp_pairs_options options = {0};
        status = lp_pairs_load(path, &options, &pairs, err);
        lp_pairs_release(&pairs);
    } else {
        status = lp_fail(err, LP_ERR_USAGE, "unknown verb");
    }
out:
    return status;
}

int main(void) {
    char line[8192];
    while (fgets(line, sizeof line, stdin)) {
        char *words[MAX_WORDS];
        size_t n = 0;
        lp_error error = {0};
        lp_text text = {0};
        line[strcspn(line, "\n")] = '\0';
        for (char *at = line; at && n < MAX_WORDS;) {
            words[n++] = at;
            at = strchr(at, '\t');
            if (at) *at++ = '\0';
        }
        limit(LIMIT_S, LIMIT_ASLEEP_S);
        lp_status status = run(words, n, &text, &error);
        limit(0, 0);
        lp_text_release(&text);
        if (status == LP_OK)
            printf("0\n");
        else
            printf("1 %s\n", error.text);
        fflush(stdout);
    }
    return 0;
}
