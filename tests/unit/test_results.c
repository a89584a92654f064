/* The results of a sweep: rows in, three files out; what is in them, what is refused, and that a failure leaves
 * nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "store/results.h"
#include "store/results_text.h"
#include "store/wilson.h"

#include <math.h>
#include <unistd.h>

enum { P = 4, C = 3, NEW = 3, M = 2 };

static lp_parallel *parallel;
static char folder[64];
static char results[128], csv[128], summary[128], partial[160];

static const char *const ids[P] = {"p1", "p,2", "p3", "p\"4"};
static const char *const sources[P] = {"s1", "s1", "s3", "s4"};
static const char *const clean[P] = {"2 and 2?", "3 and 3?", "5?", "7?"};
static const char *const corrupted[P] = {"2 and 1?", "3 and 1?", "4?", "8?"};
static const double clean_answer[P] = {4, 6, 5, 7};
static const double corrupted_answer[P] = {3, 4, 4, 8};
static const char *const clean_text[P] = {"4", "6", "9", "7"};
static const char *const corrupted_text[P] = {"3", "4", "4", "8"};
static const uint8_t clean_correct[P] = {1, 1, 0, 1};
static const uint8_t corrupted_correct[P] = {1, 1, 1, 1};
static const uint8_t included[P] = {1, 1, 0, 1};
static const char *const metrics[M] = {"logit_diff", "kl"};
#define UNPATCHED(text, way, self)                                                                                     \
    {                                                                                                                  \
        .name = text, .role = "unpatched", .direction = way, .phase = "", .site = "", .layer = -1, .layers = "",       \
        .head = -1, .steps = "", .index = "", .donor = "", .vector = -1, .from_site = "", .from_layer = -1,            \
        .from_step = -1, .operation = "", .factor = 1, .defects = "", .same_as = self                                  \
    }
static const lp_result_condition conditions[C] = {
    UNPATCHED("unpatched/corrupted", "denoise", 0),
    UNPATCHED("unpatched/clean", "noise", 1),
    {.name = "denoise/file1/lerp:0.1/k.h0/L2/set:0,1<v<L0<step4/stop:5/+decode_leak",
     .role = "effect",
     .direction = "denoise",
     .phase = "thought",
     .site = "k",
     .layer = 2,
     .layers = "2",
     .head = 0,
     .steps = "set:0,1",
     .step_mask = 3,
     .n_steps = 2,
     .index = "",
     .donor = "file",
     .vector = 1,
     .from_site = "v",
     .from_layer = 0,
     .from_step = 4,
     .operation = "lerp",
     .factor = 0.1F,
     .stop_after = 5,
     .defects = "decode_leak",
     .dead = true,
     .same_as = 2,
     .n_no_donor = 4},
};
static const lp_provenance_item provenance[] = {{"model", "demo", true},
                                                {"protocol", "codi", true},
                                                {"job", "{\"answer\": 42}", false},
                                                {"control.unpatched_differ", "5", false}};

static const lp_results_plan plan = {
    .n_pairs = P,
    .pair_id = ids,
    .pair_source = sources,
    .clean_question = clean,
    .corrupted_question = corrupted,
    .clean_answer = clean_answer,
    .corrupted_answer = corrupted_answer,
    .clean_text = clean_text,
    .corrupted_text = corrupted_text,
    .clean_correct = clean_correct,
    .corrupted_correct = corrupted_correct,
    .included = included,
    .conditions = conditions,
    .n_conditions = C,
    .max_new_tokens = NEW,
    .metrics = metrics,
    .n_metrics = M,
    .provenance = provenance,
    .n_provenance = sizeof provenance / sizeof *provenance,
};

/* Class, tokens: pair 0 and pair 3 share the answer {7}. */
static const uint8_t outcome[P][C] = {{1, 0, 0}, {1, 0, 2}, {0, 0, 0}, {1, 0, 3}};
static const int32_t lengths[P][C] = {{1, 1, 1}, {1, 2, 3}, {0, 0, 0}, {1, 1, 0}};
static const int32_t tokens[P][C][NEW] = {{{7, -1, -1}, {8, -1, -1}, {8, -1, -1}},
                                          {{9, -1, -1}, {8, 9, -1}, {1, 2, 3}},
                                          {{0}},
                                          {{7, -1, -1}, {8, -1, -1}, {-1, -1, -1}}};
static const double numbers[P][C] = {{3, 4, 4}, {4, 6, 1.5}, {0}, {8, 7, (double)NAN}};
static const uint8_t changed[P][C] = {{0, 0, 1}, {0, 0, 1}, {0}, {0, 0, 1}};
static const float values[P][M][C] = {
    {{-2, 2, 1}, {0, 0, 0.1F}}, {{-4, 4, 2}, {0, 0, 0.25F}}, {{0}}, {{-6, 9, NAN}, {0, 0, 1e-7F}}};
static const int64_t good_counts[C * LP_N_OUTCOMES] = {0, 3, 0, 0, 3, 0, 0, 0, 1, 0, 1, 1};

static lp_status decode(void *state, const int32_t *ids_of, size_t n, lp_text *out, lp_error *err) {
    *(int *)state += 1;
    lp_status status = LP_OK;
    for (size_t i = 0; i < n; i++) {
        LP_TRY(lp_text_format(out, err, "%s%d", i ? ", " : "", ids_of[i]));
        if (n > 1 && ids_of[i] == 2) out->data[out->length - 1] = '\0'; /* a text is not a C string */
    }
out:
    return status;
}

/* The values of a pair's rows; metrics [M, C]. */
typedef struct {
    const uint8_t *outcome;
    const double *number;
    const int32_t *length, *token;
    const uint8_t *change;
    const float *metric;
} row_values;

static row_values values_of_pair(int64_t i) {
    return (row_values){outcome[i], numbers[i], lengths[i], tokens[i][0], changed[i], values[i][0]};
}

static void add_row(lp_result_rows *rows, const row_values *v, int32_t c) {
    size_t at = lp_result_rows_add(rows, c), from = (size_t)c;
    ((uint8_t *)rows->column[LP_ROW_OUTCOME])[at] = v->outcome[from];
    ((double *)rows->column[LP_ROW_NUMBER])[at] = v->number[from];
    ((int32_t *)rows->column[LP_ROW_ANSWER_LEN])[at] = v->length[from];
    memcpy((int32_t *)rows->column[LP_ROW_ANSWER_TOKENS] + at * NEW, v->token + from * NEW, NEW * sizeof *v->token);
    ((uint8_t *)rows->column[LP_ROW_CHANGED])[at] = v->change[from];
    for (size_t m = 0; m < M; m++) ((float *)rows->column[LP_N_ROW_COLUMNS + m])[at] = v->metric[m * C + from];
}

/* In two pieces, as rows become final: the last condition first. */
static void put_pair(lp_record_file *file, int64_t i, const row_values *v, const int32_t *lens,
                     const float *lens_numbers) {
    static const int32_t order[C] = {2, 0, 1};
    lp_result_rows rows;
    lp_error err = {0};
    if (lp_result_rows_init(&rows, 2, C, NEW, M, &err) != LP_OK) fail_msg("%s", err.text);
    for (int k = 0; k < C; k++) {
        if (rows.n == rows.capacity && lp_results_partial_put(file, i, &rows, &err) != LP_OK) fail_msg("%s", err.text);
        add_row(&rows, v, order[k]);
    }
    if (lp_results_partial_put(file, i, &rows, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(rows.n, 0);
    assert_int_equal(lp_record_file_state(file)[i], 0);
    if (lp_results_partial_end(file, i, lens, lens_numbers, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lp_record_file_state(file)[i], 1);
    lp_result_rows_release(&rows);
}

static void write_rows(int64_t first, int64_t last) {
    lp_error err = {0};
    lp_record_file *file = NULL;
    if (lp_results_partial_open(parallel, results, &plan, &file, NULL, &err) != LP_OK) fail_msg("%s", err.text);
    for (int64_t i = first; i <= last; i++) {
        const row_values v = values_of_pair(i);
        if (included[i]) put_pair(file, i, &v, NULL, NULL);
    }
    lp_record_file_close(file);
}

static int clear(void **state) {
    (void)state;
    unlink(results);
    unlink(csv);
    unlink(summary);
    unlink(partial);
    return 0;
}

static lp_status finish(const int64_t *counts, int *n_decoded, lp_error *err) {
    const lp_results_paths paths = {.results = results, .csv = csv, .summary = summary};
    *n_decoded = 0;
    return lp_results_finish(&paths, &plan, counts, decode, n_decoded, err);
}

static void assert_file(const char *path, const char *expected) {
    lp_text text = {0};
    lp_error err = {0};
    if (lp_file_read(path, 1 << 20, &text, &err) != LP_OK) fail_msg("%s", err.text);
    assert_string_equal(lp_text_get(&text), expected);
    lp_text_release(&text);
}

static void three_files_come_out(void **state) {
    (void)state;
    lp_error err = {0};
    int n_decoded = 0;
    write_rows(2, 3);
    write_rows(0, 1);
    if (finish(good_counts, &n_decoded, &err) != LP_OK) fail_msg("%s", err.text);
    /* {7} {8} {9} {8,9} {1,2,3} {} : once each */
    assert_int_equal(n_decoded, 6);
    assert_int_equal(lp_path_look(partial), LP_PATH_MISSING);
#define NONE ",-1,,-1,,0,,,-1,0,,-1,-1,,1,0,,0,"
#define EFFECT                                                                                                         \
    "\"denoise/file1/lerp:0.1/k.h0/L2/set:0,1<v<L0<step4/stop:5/+decode_leak\",effect,denoise,thought,k,2,2,0,"        \
    "\"set:0,1\",2,,file,1,0,v,0,4,lerp,0.1,5,decode_leak,1,"
    assert_file(
        csv, "pair,source,condition,role,direction,phase,site,layer,layers,head,steps,n_steps,index,donor,vector,draw,"
             "from_site,from_layer,from_step,operation,factor,stop_after,defects,dead,class,number,changed,"
             "text,logit_diff,kl\n"
             "p1,s1,unpatched/corrupted,unpatched,denoise,," NONE "corrupted_answer,3,0,7,-2,0\n"
             "p1,s1,unpatched/clean,unpatched,noise,," NONE "clean_answer,4,0,8,2,0\n"
             "p1,s1," EFFECT "clean_answer,4,1,8,1,0.1\n"
             "\"p,2\",s1,unpatched/corrupted,unpatched,denoise,," NONE "corrupted_answer,4,0,9,-4,0\n"
             "\"p,2\",s1,unpatched/clean,unpatched,noise,," NONE "clean_answer,6,0,\"8, 9\",4,0\n"
             "\"p,2\",s1," EFFECT "other,1.5,1,\"1, \xef\xbf\xbd, 3\",2,0.25\n"
             "\"p\"\"4\",s4,unpatched/corrupted,unpatched,denoise,," NONE "corrupted_answer,8,0,7,-6,0\n"
             "\"p\"\"4\",s4,unpatched/clean,unpatched,noise,," NONE "clean_answer,7,0,8,9,0\n"
             "\"p\"\"4\",s4," EFFECT "gibberish,,1,,,1e-07\n");
}

static double number_at(const lp_json *root, const char *const *keys) {
    lp_json at = *root;
    lp_error err = {0};
    double value = 0;
    for (; *keys; keys++) {
        lp_json next;
        bool index = **keys >= '0' && **keys <= '9';
        lp_status status =
            index ? lp_json_at(&at, (size_t)(**keys - '0'), &next, &err) : lp_json_get(&at, *keys, &next, &err);
        if (status != LP_OK) fail_msg("%s", err.text);
        at = next;
    }
    if (lp_json_number(&at, -1e9, 1e9, &value, &err) != LP_OK) fail_msg("%s", err.text);
    return value;
}

static void summary_says_it_again(void **state) {
    (void)state;
    lp_error err = {0};
    int n_decoded = 0;
    write_rows(0, 3);
    assert_int_equal(finish(good_counts, &n_decoded, &err), LP_OK);
    cJSON *document = NULL;
    lp_json root;
    if (lp_json_load(summary, 1 << 20, &document, &root, &err) != LP_OK) fail_msg("%s", err.text);
    const struct {
        const char *keys[6];
        double expected;
    } cases[] = {
        {{"version"}, 2},
        {{"n_pairs"}, 4},
        {{"n_included"}, 3},
        {{"unpatched", "clean_correct"}, 3},
        {{"unpatched", "both_correct"}, 3},
        {{"controls", "dead", "n_conditions"}, 1},
        {{"controls", "dead", "n_rows"}, 3},
        {{"controls", "dead", "n_changed"}, 3},
        {{"controls", "self", "n_rows"}, 0},
        {{"controls", "unpatched", "n_conditions"}, 2},
        {{"controls", "unpatched", "n_rows"}, 6},
        {{"controls", "unpatched", "n_changed"}, 5},
        {{"provenance", "job", "answer"}, 42},
        {{"conditions", "2", "n"}, 3},
        {{"conditions", "2", "layer"}, 2},
        {{"conditions", "2", "not_run", "no_position"}, 0},
        {{"conditions", "2", "not_run", "no_donor"}, 4},
        {{"conditions", "2", "head"}, 0},
        {{"conditions", "2", "vector"}, 1},
        {{"conditions", "2", "from_layer"}, 0},
        {{"conditions", "2", "from_step"}, 4},
        {{"conditions", "2", "factor"}, 0.1},
        {{"conditions", "2", "stop_after"}, 5},
        {{"conditions", "2", "counts", "gibberish"}, 1},
        {{"conditions", "2", "share", "other"}, 1.0 / 3},
        {{"conditions", "2", "metrics", "logit_diff", "mean"}, 1.5},
        {{"conditions", "2", "metrics", "logit_diff", "n"}, 2},
        /* (1.5 - -3) / (3 - -3): the ratio of means over the two pairs that have it */
        {{"conditions", "2", "metrics", "logit_diff", "recovery"}, 0.75},
        {{"conditions", "0", "metrics", "logit_diff", "recovery"}, 0},
        {{"conditions", "1", "metrics", "logit_diff", "recovery"}, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double found = number_at(&root, cases[i].keys);
        if (fabs(found - cases[i].expected) > 1e-12)
            fail_msg("case %zu (%s): expected %.17g, found %.17g", i, cases[i].keys[0], cases[i].expected, found);
    }
    cJSON_Delete(document);
}

/* A self donor is a control only where it writes back what is there. */
static void self_controls_are_identities(void **state) {
    (void)state;
    for (int identity = 0; identity < 2; identity++) {
        lp_error err = {0};
        lp_result_condition some[C];
        lp_results_plan of_some = plan;
        int64_t n_changed[C] = {0, 0, 3};
        double sums_of[M * C] = {0};
        int64_t ns_of[M * C] = {0};
        double recovery[C][3] = {{0}};
        const lp_result_sums sums = {
            .changed = n_changed, .metric_sum = sums_of, .metric_n = ns_of, .recovery = recovery};
        memcpy(some, conditions, sizeof some);
        some[2].donor = "self";
        some[2].identity = identity;
        of_some.conditions = some;
        char *text = NULL;
        size_t size = 0;
        FILE *stream = open_memstream(&text, &size);
        if (lp_summary_write(&of_some, good_counts, &sums, stream, "summary", &err) != LP_OK) fail_msg("%s", err.text);
        fclose(stream);
        cJSON *document = cJSON_Parse(text);
        /* Conditions are printed one by one, as they are in a whole document. */
        char *whole = cJSON_Print(document);
        assert_int_equal(size, strlen(whole) + 1);
        assert_memory_equal(text, whole, strlen(whole));
        cJSON_free(whole);
        const cJSON *self = cJSON_GetObjectItem(cJSON_GetObjectItem(document, "controls"), "self");
        const struct {
            const char *key;
            int expected;
        } cases[] = {{"n_conditions", identity}, {"n_rows", 3 * identity}, {"n_changed", 3 * identity}};
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            const cJSON *found = cJSON_GetObjectItem(self, cases[i].key);
            if (!found || found->valueint != cases[i].expected)
                fail_msg("identity %d, %s: expected %d, found %d", identity, cases[i].key, cases[i].expected,
                         found ? found->valueint : -1);
        }
        cJSON_Delete(document);
        free(text);
    }
}

/* Rows of pairs [first, first + n) as they lie in the file. */
static lp_status read_rows(const char *path, lp_dtype type, int64_t first, int64_t n, void *out) {
    lp_error err = {0};
    int64_t shape[2];
    hid_t dataset = H5I_INVALID_HID, list = lp_h5_access(), file = H5Fopen(results, H5F_ACC_RDONLY, list);
    lp_status status = lp_h5_open_dataset(file, path, type, 2, shape, NULL, &dataset, results, &err);
    if (status == LP_OK) status = lp_h5_read_part(dataset, first, n, out, results, path, &err);
    lp_h5_close(dataset);
    lp_h5_close(file);
    lp_h5_close(list);
    return status;
}

static void read_back(void **state) {
    (void)state;
    lp_error err = {0};
    int n_decoded = 0;
    lp_results *r = NULL;
    write_rows(0, 3);
    assert_int_equal(finish(good_counts, &n_decoded, &err), LP_OK);
    if (lp_results_open(results, &r, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lp_results_n_pairs(r), P);
    assert_int_equal(lp_results_n_included(r), 3);
    assert_int_equal(lp_results_n_conditions(r), C);
    assert_memory_equal(lp_results_counts(r), good_counts, sizeof good_counts);
    assert_memory_equal(lp_results_included(r), included, sizeof included);
    assert_string_equal(lp_results_pair_id(r, 3), "p\"4");
    const lp_result_condition *condition = lp_results_condition(r, 2);
    assert_string_equal(condition->name, conditions[2].name);
    assert_string_equal(condition->role, "effect");
    assert_string_equal(condition->phase, "thought");
    assert_string_equal(condition->index, "");
    assert_string_equal(condition->donor, "file");
    assert_string_equal(condition->from_site, "v");
    const struct {
        const char *what;
        int32_t expected, found;
    } numbers_of[] = {{"head", 0, condition->head},
                      {"vector", 1, condition->vector},
                      {"from_layer", 0, condition->from_layer},
                      {"from_step", 4, condition->from_step},
                      {"stop_after", 5, condition->stop_after},
                      {"identity", 0, condition->identity},
                      {"same_as", 2, condition->same_as},
                      {"head of none", -1, lp_results_condition(r, 0)->head}};
    for (size_t i = 0; i < sizeof numbers_of / sizeof *numbers_of; i++)
        if (numbers_of[i].expected != numbers_of[i].found)
            fail_msg("%s: expected %d, found %d", numbers_of[i].what, numbers_of[i].expected, numbers_of[i].found);
    assert_true(condition->factor == 0.1F);
    assert_string_equal(condition->steps, "set:0,1");
    assert_string_equal(condition->defects, "decode_leak");
    assert_int_equal(condition->layer, 2);
    assert_int_equal(condition->step_mask, 3);
    assert_true(condition->dead);
    assert_string_equal(lp_results_condition(r, 0)->site, "");
    uint8_t classes[P * C];
    assert_int_equal(read_rows("rows/class", LP_U8, 0, P, classes), LP_OK);
    for (int i = 0; i < P; i++)
        for (int c = 0; c < C; c++) assert_int_equal(classes[i * C + c], included[i] ? outcome[i][c] : 255);
    float diff[2 * C];
    assert_int_equal(lp_results_metric(r, "logit_diff", 1, 2, diff, &err), LP_OK);
    assert_true(diff[2] == 2.0F);
    assert_true(isnan(diff[3]));
    assert_int_equal(lp_results_metric(r, "colour", 0, 1, diff, &err), LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "has no metric colour"));
    lp_text text = {0};
    assert_int_equal(lp_results_provenance(r, "protocol", &text, &err), LP_OK);
    assert_string_equal(lp_text_get(&text), "codi");
    lp_text_release(&text);
    lp_results_free(r);
    assert_int_equal(lp_results_open(csv, &r, &err), LP_ERR_FORMAT);
    assert_true(strstr(err.text, csv) == err.text);
}

/* What a row holds before it was run, how many rows are held at once, and their order. */
static void rows_are_held(void **state) {
    (void)state;
    const row_values v = values_of_pair(1);
    lp_result_rows rows;
    lp_error err = {0};
    assert_int_equal(lp_result_rows_init(&rows, 0, C, NEW, M, &err), LP_OK);
    assert_int_equal(rows.capacity, C);
    lp_result_rows_add(&rows, 2);
    assert_int_equal(((uint8_t *)rows.column[LP_ROW_OUTCOME])[0], LP_OUTCOME_NOT_RUN);
    assert_true(isnan(((double *)rows.column[LP_ROW_NUMBER])[0]));
    assert_int_equal(((int32_t *)rows.column[LP_ROW_ANSWER_LEN])[0], 0);
    for (size_t i = 0; i < NEW; i++) assert_int_equal(((int32_t *)rows.column[LP_ROW_ANSWER_TOKENS])[i], -1);
    assert_int_equal(((uint8_t *)rows.column[LP_ROW_CHANGED])[0], 0);
    for (size_t m = 0; m < M; m++) assert_true(isnan(((float *)rows.column[LP_N_ROW_COLUMNS + m])[0]));
    add_row(&rows, &v, 0);
    add_row(&rows, &v, 1);
    lp_result_rows_sort(&rows);
    for (size_t i = 0; i < C; i++) assert_int_equal(lp_result_rows_condition(&rows, i), i);
    const int32_t *ordered = lp_result_rows_ordered(&rows, LP_ROW_ANSWER_LEN);
    assert_true(ordered[0] == lengths[1][0] && ordered[1] == lengths[1][1] && ordered[2] == 0);
    lp_result_rows_release(&rows);
    /* However many conditions, the rows in memory take about LP_ROWS_BYTES. */
    assert_int_equal(lp_result_rows_init(&rows, 0, 1000000, 200, 8, &err), LP_OK);
    assert_true(rows.capacity > 1000 && rows.capacity * (14 + 4 * 208) < 2 * LP_ROWS_BYTES);
    lp_result_rows_release(&rows);
}

/* One condition of an included pair could not be run. */
static void a_row_not_run(void **state) {
    (void)state;
    static const uint8_t classes[C] = {1, 0, LP_OUTCOME_NOT_RUN};
    static const int64_t counts[C * LP_N_OUTCOMES] = {0, 3, 0, 0, 3, 0, 0, 0, 1, 0, 1, 0};
    static const double no_number[C] = {8, 7, (double)NAN};
    static const uint8_t same[C] = {0};
    static const float metric[M][C] = {{-3, 3, NAN}, {0, 0, NAN}};
    const row_values rows = {classes, no_number, lengths[3], tokens[3][0], same, metric[0]};
    lp_error err = {0};
    lp_record_file *file = NULL;
    lp_results *r = NULL;
    int n_decoded = 0;
    write_rows(0, 1);
    if (lp_results_partial_open(parallel, results, &plan, &file, NULL, &err) != LP_OK) fail_msg("%s", err.text);
    put_pair(file, 3, &rows, NULL, NULL);
    int64_t before[C * LP_N_OUTCOMES] = {0};
    assert_int_equal(lp_results_partial_count(file, before, &err), LP_OK);
    assert_memory_equal(before, counts, sizeof counts);
    lp_record_file_close(file);
    if (finish(counts, &n_decoded, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(n_decoded, 5); /* an empty answer is not among them */
    lp_text text = {0};
    assert_int_equal(lp_file_read(csv, 1 << 20, &text, &err), LP_OK);
    assert_non_null(strstr(lp_text_get(&text), ",lerp,0.1,5,decode_leak,1,not_run,,0,,,\n"));
    lp_text_release(&text);
    uint8_t found[C];
    int32_t answers[C];
    assert_int_equal(lp_results_open(results, &r, &err), LP_OK);
    assert_int_equal(read_rows("rows/class", LP_U8, 3, 1, found), LP_OK);
    assert_memory_equal(found, classes, sizeof found);
    assert_int_equal(read_rows("rows/answer", LP_I32, 3, 1, answers), LP_OK);
    assert_true(answers[0] >= 0 && answers[1] >= 0 && answers[2] == -1);
    lp_results_free(r);
}

static void failures_leave_nothing(void **state) {
    (void)state;
    lp_error err = {0};
    int n_decoded = 0;
    write_rows(0, 1);
    assert_int_equal(finish(good_counts, &n_decoded, &err), LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "rows of 1 pairs are missing"));
    write_rows(3, 3);
    int64_t wrong[C * LP_N_OUTCOMES];
    memcpy(wrong, good_counts, sizeof wrong);
    wrong[4]++;
    assert_int_equal(finish(wrong, &n_decoded, &err), LP_ERR_MISMATCH);
    assert_non_null(strstr(err.text, "condition unpatched/clean, clean_answer: the ranks counted 4, the rows say 3"));
    const char *const gone[] = {results, csv, summary};
    for (size_t i = 0; i < 3; i++) {
        char temporary[160];
        snprintf(temporary, sizeof temporary, "%s.tmp", gone[i]);
        assert_int_equal(lp_path_look(gone[i]), LP_PATH_MISSING);
        assert_int_equal(lp_path_look(temporary), LP_PATH_MISSING);
    }
    /* The rows are still there. */
    if (finish(good_counts, &n_decoded, &err) != LP_OK) fail_msg("%s", err.text);
}

static void counted_again_after_a_restart(void **state) {
    (void)state;
    lp_error err = {0};
    int64_t counts[C * LP_N_OUTCOMES] = {0};
    lp_record_file *file = NULL;
    bool created = true;
    write_rows(0, 3);
    assert_int_equal(lp_results_partial_open(parallel, results, &plan, &file, &created, &err), LP_OK);
    assert_false(created);
    assert_int_equal(lp_results_partial_count(file, counts, &err), LP_OK);
    lp_record_file_close(file);
    assert_memory_equal(counts, good_counts, sizeof counts);
}

/* Golden values: scipy 1.14.1, stats.binomtest(k, n).proportion_ci(0.95, method="wilson"). */
static void wilson_intervals(void **state) {
    (void)state;
    const struct {
        int64_t k, n;
        double low, high;
    } cases[] = {
        {0, 10, 0, 0.27753279986288926},
        {10, 10, 0.7224672001371109, 1},
        {5, 10, 0.236593090512564, 0.7634069094874361},
        {1, 532, 0.0003318901709330434, 0.01056957839693457},
        {263, 532, 0.4520689657569451, 0.5367336923777855},
        {0, 0, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_interval found = lp_wilson95(cases[i].k, cases[i].n);
        if (fabs(found.low - cases[i].low) > 1e-12 || fabs(found.high - cases[i].high) > 1e-12)
            fail_msg("%lld of %lld: expected [%.17g, %.17g], found [%.17g, %.17g]", (long long)cases[i].k,
                     (long long)cases[i].n, cases[i].low, cases[i].high, found.low, found.high);
    }
}

static void many_answers_keep_their_numbers(void **state) {
    (void)state;
    lp_answers answers;
    lp_error err = {0};
    int n_decoded = 0;
    assert_int_equal(lp_answers_init(&answers, decode, &n_decoded, &err), LP_OK);
    for (int round = 0; round < 2; round++)
        for (int32_t i = 0; i < 5000; i++) {
            const int32_t answer[3] = {i / 100, i % 100, 5};
            int32_t index = -1;
            assert_int_equal(lp_answers_add(&answers, answer, i % 2 ? 3 : 2, &index, &err), LP_OK);
            assert_int_equal(index, i);
        }
    assert_int_equal(n_decoded, 5000);
    assert_int_equal(answers.n, 5000);
    assert_string_equal(lp_answers_text(&answers, 4999), "49, 99, 5");
    assert_int_equal(answers.offset[5000], (int64_t)answers.n_tokens);
    lp_answers_release(&answers);
}

/* The logit lens: what was written comes back, pair by pair; a token has its text once; pairs that were not run have
 * none; and a file without a lens says so. */
static void lens_comes_back(void **state) {
    (void)state;
    enum { POSITIONS = 3, LAYERS = 2, TOP = 2, N = POSITIONS * LAYERS * TOP };
    lp_error err = {0};
    lp_results_plan with_lens = plan;
    with_lens.lens = (lp_lens_shape){.n_positions = POSITIONS, .n_layers = LAYERS, .top = TOP, .show = decode};
    const lp_results_paths paths = {.results = results};
    lp_record_file *file = NULL;
    lp_results *r = NULL;
    int32_t lens_tokens[P][2][N], found[N];
    float log_probability[P][2][N], values_found[N];
    for (int i = 0; i < P; i++)
        for (int side = 0; side < 2; side++)
            for (int k = 0; k < N; k++) {
                lens_tokens[i][side][k] = (7 * i + 5 * side + 3 * k) % 11 + (k == 4 ? 100000 : 0);
                log_probability[i][side][k] = -(float)(i + 1) / (float)(k + 2 + side);
            }
    if (lp_results_partial_open(parallel, results, &with_lens, &file, NULL, &err) != LP_OK) fail_msg("%s", err.text);
    for (int i = 0; i < P; i++) {
        const row_values v = values_of_pair(i);
        if (included[i]) put_pair(file, i, &v, lens_tokens[i][0], log_probability[i][0]);
    }
    lp_record_file_close(file);
    int n_decoded = 0;
    if (lp_results_finish(&paths, &with_lens, good_counts, decode, &n_decoded, &err) != LP_OK) fail_msg("%s", err.text);

    lp_lens_shape shape;
    if (lp_results_open(results, &r, &err) != LP_OK) fail_msg("%s", err.text);
    if (lp_results_lens(r, &shape, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(shape.n_positions, POSITIONS);
    assert_int_equal(shape.n_layers, LAYERS);
    assert_int_equal(shape.top, TOP);
    for (int i = 0; i < P; i++)
        for (int side = 0; side < 2; side++) {
            if (lp_results_lens_pair(r, side, i, found, values_found, &err) != LP_OK) fail_msg("%s", err.text);
            for (int k = 0; k < N; k++) {
                int32_t wanted = included[i] ? lens_tokens[i][side][k] : -1;
                bool same = included[i] ? values_found[k] == log_probability[i][side][k] : isnan(values_found[k]);
                if (found[k] != wanted || !same)
                    fail_msg("pair %d, side %d, number %d: expected %d, found %d (%g)", i, side, k, wanted, found[k],
                             (double)values_found[k]);
                if (wanted < 0) continue;
                char text[16];
                snprintf(text, sizeof text, "%d", wanted);
                assert_non_null(lp_results_lens_text(r, wanted));
                assert_string_equal(lp_results_lens_text(r, wanted), text);
            }
        }
    assert_null(lp_results_lens_text(r, 11));
    assert_null(lp_results_lens_text(r, 200000));
    lp_results_free(r);
    r = NULL;

    clear(NULL);
    write_rows(0, 3);
    assert_int_equal(finish(good_counts, &n_decoded, &err), LP_OK);
    if (lp_results_open(results, &r, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lp_results_lens(r, &shape, &err), LP_OK);
    assert_int_equal(shape.top, 0);
    lp_results_free(r);
}

int main(int argc, char **argv) {
    lp_error err = {0};
    if (lp_parallel_start(&argc, &argv, &parallel, &err) != LP_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    snprintf(folder, sizeof folder, "results.XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(results, sizeof results, "%s/x.results.h5", folder);
    snprintf(csv, sizeof csv, "%s/x.csv", folder);
    snprintf(summary, sizeof summary, "%s/x.summary.json", folder);
    snprintf(partial, sizeof partial, "%s.partial", results);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(three_files_come_out, clear, NULL),
        cmocka_unit_test_setup_teardown(summary_says_it_again, clear, NULL),
        cmocka_unit_test(self_controls_are_identities),
        cmocka_unit_test_setup_teardown(read_back, clear, NULL),
        cmocka_unit_test_setup_teardown(lens_comes_back, clear, NULL),
        cmocka_unit_test(rows_are_held),
        cmocka_unit_test_setup_teardown(a_row_not_run, clear, NULL),
        cmocka_unit_test_setup_teardown(failures_leave_nothing, clear, NULL),
        cmocka_unit_test_setup_teardown(counted_again_after_a_restart, clear, NULL),
        cmocka_unit_test(wilson_intervals),
        cmocka_unit_test(many_answers_keep_their_numbers),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    clear(NULL);
    rmdir(folder);
    lp_parallel_finish(parallel);
    return failed;
}
