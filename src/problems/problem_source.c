#include "problems/problem_source.h"

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

static const size_t max_file_bytes = (size_t)1 << 30;

const char *const lp_source_format_names[] = {"gsm8k", "gsm8k-aug", "svamp", "gsm-plus", "templates", NULL};
const char *const lp_question_format_names[] = {"gsm8k", "gsm8k-aug", "svamp", "gsm-plus", NULL};

static void release_problem(lp_problem *problem) {
    lp_mem_free(problem->question);
    lp_mem_free(problem->solution);
    if (problem->variant) {
        lp_mem_free(problem->variant->question);
        lp_mem_free(problem->variant->kind);
    }
    lp_mem_free(problem->variant);
}

void lp_problems_release(lp_problem_list *list) {
    for (size_t i = 0; i < list->n; i++) release_problem(&list->items[i]);
    lp_mem_free(list->items);
    *list = (lp_problem_list){0};
}

static bool parse_answer(const char *text, lp_rational *out) {
    while (*text == ' ' || *text == '$') text++;
    size_t length = strcspn(text, " \t\r\n%");
    while (length > 0 && text[length - 1] == '.') length--;
    return lp_rational_parse(text, length, out);
}

bool lp_solution_answer(const char *solution, lp_rational *out) {
    const char *mark = NULL;
    for (const char *at = strstr(solution, "####"); at; at = strstr(at + 4, "####")) mark = at;
    return mark && parse_answer(mark + 4, out);
}

static lp_status copy_member(const lp_json *object, const char *key, char **out, lp_error *err) {
    const char *text = NULL;
    lp_status status = lp_json_get_string(object, key, &text, err);
    return status == LP_OK ? lp_mem_strdup(out, text, err) : status;
}

static lp_status read_gsm8k(const lp_json *record, lp_problem *out, lp_error *err) {
    LP_CHECK(copy_member(record, "question", &out->question, err));
    LP_CHECK(copy_member(record, "answer", &out->solution, err));
    out->has_answer = lp_solution_answer(out->solution, &out->answer);
    return LP_OK;
}

static lp_status read_gsm_plus(const lp_json *record, lp_problem *out, lp_error *err) {
    const char *text = NULL;
    LP_CHECK(copy_member(record, "seed_question", &out->question, err));
    LP_CHECK(copy_member(record, "seed_solution", &out->solution, err));
    LP_CHECK(lp_json_get_string(record, "seed_answer", &text, err));
    out->has_answer = parse_answer(text, &out->answer);
    LP_CHECK(lp_mem_new(&out->variant, 1, sizeof *out->variant, "problem", err));
    LP_CHECK(copy_member(record, "question", &out->variant->question, err));
    LP_CHECK(copy_member(record, "perturbation_type", &out->variant->kind, err));
    LP_CHECK(lp_json_get_string(record, "answer", &text, err));
    out->variant->has_answer = parse_answer(text, &out->variant->answer);
    return LP_OK;
}

/* "( 76.0 - 25.0 )" and 51 become "<<76-25=51>>51\n#### 51". */
static lp_status print_equation(const char *equation, const char *answer, lp_text *out, lp_error *err) {
    size_t length = strlen(equation);
    LP_CHECK(lp_text_put(out, "<<", err));
    for (size_t at = 0; at < length;) {
        lp_rational number = {0, 1};
        size_t used = 0;
        lp_rational_scan(equation + at, length - at, &number, &used);
        if (used > 0)
            LP_CHECK(lp_rational_print(number, 0, LP_COMMAS_NO, out, err));
        else if (equation[at] != ' ')
            LP_CHECK(lp_text_add(out, equation + at, 1, err));
        at += used > 0 ? used : 1;
    }
    const char *const before[] = {"=", ">>", "\n#### "};
    for (size_t i = 0; i < 3; i++) {
        LP_CHECK(lp_text_put(out, before[i], err));
        LP_CHECK(lp_text_put(out, answer, err));
    }
    return LP_OK;
}

/* Body and question are two texts: a body without a full stop is the first half of the question's sentence. */
static lp_status join_svamp(const char *body, const char *question, lp_text *out, lp_error *err) {
    size_t length = strlen(body);
    while (length > 0 && body[length - 1] == ' ') length--;
    bool ended = length == 0 || strchr(".?!,", body[length - 1]);
    lp_status status = lp_text_add(out, body, length, err);
    if (status == LP_OK && length > 0) status = lp_text_add(out, ended ? " " : ", ", ended ? 1 : 2, err);
    char first = question[0];
    if (!ended && first >= 'A' && first <= 'Z') first = (char)(first - 'A' + 'a');
    if (status == LP_OK && first) status = lp_text_add(out, &first, 1, err);
    return status == LP_OK && first ? lp_text_add(out, question + 1, strlen(question + 1), err) : status;
}

static lp_status read_svamp(const lp_json *record, lp_problem *out, lp_error *err) {
    const char *body = NULL, *question = NULL, *equation = NULL;
    lp_text text = {0}, exact = {0};
    double number = 0;
    char digits[40];
    lp_status status = LP_OK;
    LP_TRY(lp_json_get_string(record, "Body", &body, err));
    LP_TRY(lp_json_get_string(record, "Question", &question, err));
    LP_TRY(lp_json_get_string(record, "Equation", &equation, err));
    LP_TRY(lp_json_get_number(record, "Answer", -1e15, 1e15, &number, err));
    snprintf(digits, sizeof digits, "%.15g", number);
    out->has_answer = lp_rational_parse(digits, strlen(digits), &out->answer);
    LP_TRY(join_svamp(body, question, &text, err));
    LP_TRY(lp_mem_strdup(&out->question, lp_text_get(&text), err));
    lp_text_clear(&text);
    if (out->has_answer) LP_TRY(lp_rational_print(out->answer, 0, LP_COMMAS_NO, &exact, err));
    LP_TRY(print_equation(equation, out->has_answer ? lp_text_get(&exact) : digits, &text, err));
    LP_TRY(lp_mem_strdup(&out->solution, lp_text_get(&text), err));
out:
    lp_text_release(&exact);
    lp_text_release(&text);
    return status;
}

static lp_status read_aug(const char *line, size_t length, const char *name, size_t number, lp_problem *out,
                          lp_error *err) {
    size_t bad = 0, at = 0;
    if (!lp_utf8_valid(line, length, &bad))
        return lp_fail(err, LP_ERR_FORMAT, "%s:%zu:%zu: not valid UTF-8 (byte 0x%02x)", name, number, bad + 1,
                       (unsigned char)line[bad]);
    if (memchr(line, 0, length)) return lp_fail(err, LP_ERR_FORMAT, "%s:%zu: a NUL byte", name, number);
    while (at + 1 < length && !(line[at] == '|' && line[at + 1] == '|')) at++;
    if (at + 1 >= length)
        return lp_fail(err, LP_ERR_FORMAT, "%s:%zu: expected \"question||<<...>> #### answer\", found no ||", name,
                       number);
    LP_CHECK(lp_mem_text(&out->question, line, at, err));
    LP_CHECK(lp_mem_text(&out->solution, line + at + 2, length - at - 2, err));
    out->has_answer = lp_solution_answer(out->solution, &out->answer);
    return LP_OK;
}

/* A line is parsed on its own, so its errors say line 1: put the file's line there. */
static void correct_line(const char *name, size_t line, lp_error *err) {
    size_t length = strlen(name);
    if (!err || strncmp(err->text, name, length) != 0) return;
    char rest[LP_ERROR_TEXT];
    const char *after = err->text + length;
    bool placed = strncmp(after, ":1:", 3) == 0;
    snprintf(rest, sizeof rest, "%s", placed ? after + 3 : after + 1 + (after[0] == ':' && after[1] == ' '));
    lp_fail(err, err->status, placed ? "%s:%zu:%s" : "%s:%zu: %s", name, line, rest);
}

static lp_status read_line(const char *line, size_t length, const char *name, size_t number, lp_source_format format,
                           lp_problem *out, lp_error *err) {
    if (format == LP_SOURCE_GSM8K_AUG) return read_aug(line, length, name, number, out, err);
    cJSON *document = NULL;
    lp_json root;
    lp_status status = lp_json_parse(line, length, name, &document, &root, err);
    if (status == LP_OK)
        status = format == LP_SOURCE_GSM8K ? read_gsm8k(&root, out, err) : read_gsm_plus(&root, out, err);
    if (status != LP_OK) correct_line(name, number, err);
    cJSON_Delete(document);
    return status;
}

/* A new problem at the end of the list, its index set. */
static lp_status append(lp_problem_list *list, lp_problem **out, lp_error *err) {
    LP_CHECK(lp_mem_grow(&list->items, &list->capacity, list->n + 1, sizeof *list->items, "problems", err));
    *out = &list->items[list->n];
    **out = (lp_problem){.index = list->n};
    list->n++;
    return LP_OK;
}

static lp_status parse_lines(const char *text, size_t size, const char *name, lp_source_format format,
                             lp_problem_list *out, lp_error *err) {
    size_t number = 0, n_lines = 1;
    for (size_t i = 0; i < size; i++) n_lines += text[i] == '\n';
    /* All room at once: a list that grows is there twice. */
    LP_CHECK(lp_mem_new(&out->items, n_lines, sizeof *out->items, "problems", err));
    out->capacity = n_lines;
    for (size_t at = 0; at < size;) {
        const char *end = memchr(text + at, '\n', size - at);
        size_t length = end ? (size_t)(end - text) - at : size - at;
        size_t shown = length > 0 && text[at + length - 1] == '\r' ? length - 1 : length;
        number++;
        if (shown > 0) {
            lp_problem *problem = NULL;
            LP_CHECK(append(out, &problem, err));
            LP_CHECK(read_line(text + at, shown, name, number, format, problem, err));
        }
        at += length + 1;
    }
    return LP_OK;
}

static lp_status parse_array(const char *text, size_t size, const char *name, lp_problem_list *out, lp_error *err) {
    lp_status status = LP_OK;
    cJSON *document = NULL;
    lp_json root, record;
    size_t n = 0;
    LP_TRY(lp_json_parse(text, size, name, &document, &root, err));
    LP_TRY(lp_json_array_size(&root, &n, err));
    LP_TRY(lp_mem_new(&out->items, n, sizeof *out->items, "problems", err));
    out->capacity = n;
    for (lp_json_first(&root, &record); record.node; lp_json_next(&root, &record)) {
        lp_problem *problem = NULL;
        LP_TRY(append(out, &problem, err));
        LP_TRY(read_svamp(&record, problem, err));
    }
out:
    cJSON_Delete(document);
    return status;
}

lp_status lp_problems_parse(const char *text, size_t size, const char *name, lp_source_format format,
                            lp_problem_list *out, lp_error *err) {
    LP_ASSERT(format != LP_SOURCE_TEMPLATES);
    lp_problem_list list = {0};
    lp_status status = format == LP_SOURCE_SVAMP ? parse_array(text, size, name, &list, err)
                                                 : parse_lines(text, size, name, format, &list, err);
    if (status == LP_OK && list.n == 0) status = lp_fail(err, LP_ERR_VALUE, "%s: no problems in this file", name);
    if (status == LP_OK)
        *out = list;
    else
        lp_problems_release(&list);
    return status;
}

lp_status lp_problems_load(const char *path, lp_source_format format, lp_problem_list *out, lp_error *err) {
    lp_text text = {0};
    lp_status status = lp_file_read(path, max_file_bytes, &text, err);
    if (status == LP_OK) status = lp_problems_parse(lp_text_get(&text), text.length, path, format, out, err);
    lp_text_release(&text);
    return status;
}
