/* Loading whole models: what lp_model_load makes of checkpoints that transformers, peft, safetensors and torch.save
 * wrote (tests/model_fixtures.py), against the weights of peft's merge_and_unload. */
#include "base/file.h"
#include "base/memory.h"
#include "base/reader.h"
#include "model/model.h"

#include <cmocka.h>
#include <math.h>
#include <setjmp.h>

#define FIXTURES LP_SOURCE_DIR "/tests/fixtures/model/"

enum { FIXTURE_ALPHA = 5 };
static const double MAX_RELATIVE_ERROR = 1e-6;

typedef struct {
    const char *base, *codi, *expected; /* below FIXTURES */
    lp_base_rounding rounding;
} load_case;

static const load_case LOAD_CASES[] = {
    {"gpt2-base", "gpt2-f32.safetensors", "gpt2-f32.expected", LP_BASE_AS_STORED},
    {"gpt2-base", "gpt2-f32.safetensors", "gpt2-fp16.expected", LP_BASE_FP16},
    {"gpt2-base", "gpt2-mixed.bin", "gpt2-mixed.expected", LP_BASE_AS_STORED},
    {"gpt2-base", "gpt2-trained.safetensors", "gpt2-trained.expected", LP_BASE_AS_STORED},
    {"llama-base", "llama-f32.safetensors", "llama-f32.expected", LP_BASE_AS_STORED},
    {"llama-base", "llama-f32.safetensors", "llama-fp16.expected", LP_BASE_FP16},
    {"llama-base", "llama-mixed.bin", "llama-mixed.expected", LP_BASE_AS_STORED},
    {"llama-untied-base", "llama-full.bin", "llama-full.expected", LP_BASE_AS_STORED},
};

static void load(const char *base, const char *codi, lp_base_rounding rounding, lp_model *model) {
    lp_text base_path = {0}, codi_path = {0};
    lp_error err = {0};
    assert_int_equal(lp_text_format(&base_path, &err, "%s%s", FIXTURES, base), LP_OK);
    if (codi) assert_int_equal(lp_text_format(&codi_path, &err, "%s%s", FIXTURES, codi), LP_OK);
    lp_model_source source = {.base = base_path.data,
                              .codi = codi ? codi_path.data : NULL,
                              .lora_alpha = FIXTURE_ALPHA,
                              .base_rounding = rounding};
    if (lp_model_load(&source, model, &err) != LP_OK) fail_msg("%s", err.text);
    lp_text_release(&base_path);
    lp_text_release(&codi_path);
}

static float linear_at(const lp_linear *linear, int64_t in, int64_t out) {
    for (int p = 0; p < linear->n_parts; p++) {
        const lp_matrix *part = &linear->part[p];
        if (out < part->n_out)
            return part->layout == LP_IN_OUT ? part->data[in * part->n_out + out] : part->data[out * part->n_in + in];
        out -= part->n_out;
    }
    fail_msg("column past the last part");
    return 0;
}

/* A field of the model by the name in an .expected file: a linear layer, a table, or a vector. */
typedef struct {
    const lp_linear *linear;
    const lp_matrix *table;
    const float *vector;
} field;

static field linear_field(const lp_linear *linear, const char *rest) {
    if (strcmp(rest, ".bias") == 0) return (field){.vector = linear->bias};
    return (field){.linear = linear};
}

static field norm_field(const lp_norm *norm, const char *rest) {
    return (field){.vector = strcmp(rest, ".bias") == 0 ? norm->bias : norm->weight};
}

static field find_field(const lp_model *model, const char *name) {
    char *rest = NULL;
    long layer = strtol(name, &rest, 10);
    if (rest != name) {
        const lp_block *block = &model->blocks[layer];
        rest++;
        if (strncmp(rest, "norm_attn", 9) == 0) return norm_field(&block->norm_attn, rest + 9);
        if (strncmp(rest, "norm_mlp", 8) == 0) return norm_field(&block->norm_mlp, rest + 8);
        if (strncmp(rest, "qkv", 3) == 0) return linear_field(&block->qkv, rest + 3);
        if (strncmp(rest, "attn_out", 8) == 0) return linear_field(&block->attn_out, rest + 8);
        if (strncmp(rest, "mlp_in", 6) == 0) return linear_field(&block->mlp_in, rest + 6);
        if (strncmp(rest, "mlp_out", 7) == 0) return linear_field(&block->mlp_out, rest + 7);
    }
    if (strcmp(name, "embedding") == 0) return (field){.table = &model->embedding};
    if (strcmp(name, "head") == 0) return (field){.table = &model->head};
    if (strcmp(name, "positions") == 0) return (field){.vector = model->positions};
    if (strncmp(name, "final_norm", 10) == 0) return norm_field(&model->final_norm, name + 10);
    if (strncmp(name, "prj.in", 6) == 0) return linear_field(&model->projection.in, name + 6);
    if (strncmp(name, "prj.out", 7) == 0) return linear_field(&model->projection.out, name + 7);
    if (strncmp(name, "prj.norm", 8) == 0) return norm_field(&model->projection.norm, name + 8);
    fail_msg("no field \"%s\"", name);
    return (field){0};
}

/* max |found - expected| / max |expected| of one matrix. */
static double matrix_error(const lp_model *model, const char *name, const unsigned char *expected, int64_t rows,
                           int64_t columns) {
    field f = find_field(model, name);
    if (f.linear) {
        assert_int_equal(f.linear->n_in, rows);
        assert_int_equal(f.linear->n_out, columns);
    } else if (f.table) {
        assert_int_equal(f.table->n_out, rows);
        assert_int_equal(f.table->n_in, columns);
        assert_int_equal(f.table->layout, LP_OUT_IN);
    } else {
        assert_non_null(f.vector);
    }
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            float want = 0;
            memcpy(&want, expected + (size_t)(i * columns + j) * sizeof want, sizeof want);
            float found = f.linear  ? linear_at(f.linear, i, j)
                          : f.table ? f.table->data[i * columns + j]
                                    : f.vector[i * columns + j];
            worst = fmax(worst, fabs((double)found - (double)want));
            largest = fmax(largest, fabs((double)want));
        }
    return worst / largest;
}

static void compare_with_file(const lp_model *model, const char *expected) {
    lp_text path = {0}, bytes = {0};
    lp_error err = {0};
    assert_int_equal(lp_text_format(&path, &err, "%s%s", FIXTURES, expected), LP_OK);
    if (lp_file_read(path.data, 1 << 20, &bytes, &err) != LP_OK) fail_msg("%s", err.text);
    const char *end = strstr(bytes.data, "\n\n");
    assert_non_null(end);
    const unsigned char *data = (const unsigned char *)end + 2;
    size_t n_compared = 0;
    for (const char *line = bytes.data; line <= end; line = strchr(line, '\n') + 1) {
        char name[64];
        long long rows = 0, columns = 0;
        assert_int_equal(sscanf(line, "%63s %lld %lld", name, &rows, &columns), 3);
        double error = matrix_error(model, name, data, rows, columns);
        if (!(error <= MAX_RELATIVE_ERROR))
            fail_msg("%s: %s: max relative error %g, at most %g", expected, name, error, MAX_RELATIVE_ERROR);
        data += (size_t)(rows * columns) * sizeof(float);
        n_compared++;
    }
    assert_ptr_equal(data, bytes.data + bytes.length);
    assert_true(n_compared >= 19);
    lp_text_release(&path);
    lp_text_release(&bytes);
}

static void test_weights_equal_peft(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof LOAD_CASES / sizeof *LOAD_CASES; i++) {
        const load_case *c = &LOAD_CASES[i];
        lp_model model;
        load(c->base, c->codi, c->rounding, &model);
        assert_true(model.is_codi);
        assert_int_equal(model.config.n_embedded, model.config.n_vocab + 3);
        assert_int_equal(model.projection.has_norm, strcmp(c->codi, "llama-full.bin") != 0);
        compare_with_file(&model, c->expected);
        lp_model_close(&model);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_equal_peft),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
