/* Loading whole models: what lp_model_load makes of checkpoints that transformers, peft, safetensors and torch.save
 * wrote (tests/model_fixtures.py), against the weights of peft's merge_and_unload. */
#include "base/digest.h"
#include "base/gemm.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/output.h"
#include "model/model.h"

#include <math.h>
#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

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
            return part->layout == LP_PANELS   ? part->data[lp_gemm_panel_at(part->n_in, in, out)]
                   : part->layout == LP_IN_OUT ? part->data[in * part->n_out + out]
                                               : part->data[out * part->n_in + in];
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
        assert_true(model.has_thoughts);
        assert_int_equal(model.config.n_embedded, model.config.n_vocab + 3);
        assert_int_equal(model.projection.has_norm, strcmp(c->codi, "llama-full.bin") != 0);
        compare_with_file(&model, c->expected);
        lp_model_close(&model);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

static void open_shared(lp_model *model) {
    lp_model_source source = {.base = FIXTURES "llama-base", .codi = FIXTURES "llama-f32.safetensors", .lora_alpha = 5};
    lp_error err = {0};
    if (lp_model_open(&source, model, &err) != LP_OK) fail_msg("%s", err.text);
}

/* Two processes that share an arena: the second finds all turns taken, computes nothing and has its pointers set. */
static void test_shared_arena(void **state) {
    (void)state;
    lp_model first, second;
    lp_error err = {0};
    lp_model_turns turns = {0};
    void *arena = NULL;
    open_shared(&first);
    open_shared(&second);
    assert_int_equal(first.arena_bytes, second.arena_bytes);
    assert_int_equal(lp_mem_new(&arena, first.arena_bytes, 1, "arena", &err), LP_OK);
    assert_int_equal(lp_model_fill(&first, arena, &turns, &err), LP_OK);
    compare_with_file(&first, "llama-f32.expected");
    memset(arena, 0x7f, first.arena_bytes);
    assert_int_equal(lp_model_fill(&second, arena, &turns, &err), LP_OK);
    for (size_t i = 0; i < first.arena_bytes; i++)
        if (((unsigned char *)arena)[i] != 0x7f) fail_msg("byte %zu was computed twice", i);
    turns = (lp_model_turns){0};
    assert_int_equal(lp_model_fill(&second, arena, &turns, &err), LP_OK);
    compare_with_file(&first, "llama-f32.expected");
    compare_with_file(&second, "llama-f32.expected");
    lp_model_close(&first);
    lp_model_close(&second);
    lp_mem_free(arena);
}

/* float32 tensors that need no merge are used where they are mapped. */
static void test_plain_models_are_mapped(void **state) {
    (void)state;
    lp_model model;
    load("gpt2-base", NULL, LP_BASE_AS_STORED, &model);
    assert_int_equal(model.arena_bytes, 0);
    assert_false(model.has_thoughts);
    assert_false(model.projection.present);
    assert_int_equal(model.config.n_embedded, 19);
    assert_int_equal(model.blocks[1].qkv.n_parts, 1);
    assert_int_equal(model.blocks[1].qkv.part[0].layout, LP_IN_OUT);
    assert_ptr_equal(model.head.data, model.embedding.data);
    lp_model_close(&model);

    load("llama-base", NULL, LP_BASE_AS_STORED, &model);
    assert_int_equal(model.arena_bytes, 0);
    const lp_block *block = &model.blocks[0];
    assert_int_equal(block->qkv.n_parts, 3);
    assert_int_equal(block->qkv.part[2].layout, LP_OUT_IN);
    assert_int_equal(block->qkv.n_out, 32);
    assert_int_equal(block->mlp_in.n_parts, 2);
    assert_int_equal(block->mlp_in.n_out, 40);
    assert_null(block->norm_attn.bias);
    assert_null(model.positions);
    lp_model_close(&model);

    load("llama-base", NULL, LP_BASE_FP16, &model);
    assert_true(model.arena_bytes > 0);
    assert_int_equal(model.blocks[0].qkv.n_parts, 1);
    assert_int_equal(model.blocks[0].qkv.part[0].layout, LP_IN_OUT);
    lp_model_close(&model);
}

static void check_same(const char *what, const lp_linear *plain, const lp_linear *packed) {
    assert_int_equal(packed->n_out, plain->n_out);
    for (int p = 0; p < packed->n_parts; p++) assert_int_equal(packed->part[p].layout, LP_PANELS);
    for (int64_t in = 0; in < plain->n_in; in++)
        for (int64_t out = 0; out < plain->n_out; out++) {
            float want = linear_at(plain, in, out), found = linear_at(packed, in, out);
            if (memcmp(&want, &found, sizeof want) != 0)
                fail_msg("%s [%lld, %lld]: expected %.9g, found %.9g", what, (long long)in, (long long)out,
                         (double)want, (double)found);
        }
}

static lp_linear linear_of(const lp_matrix *matrix) {
    return (lp_linear){.part = {*matrix}, .n_parts = 1, .n_in = matrix->n_in, .n_out = matrix->n_out};
}

/* Packed matrices have the plain ones' values, to the bit; an embedding that is not the head stays as it is. */
static void test_packed_matrices(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"gpt2-base", "gpt2-mixed.bin"}, {"llama-untied-base", "llama-full.bin"}, {"llama-base", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char base[256], codi[256];
        lp_model plain, packed;
        lp_error err = {0};
        void *arena = NULL;
        load(cases[i][0], cases[i][1], LP_BASE_AS_STORED, &plain);
        snprintf(base, sizeof base, "%s%s", FIXTURES, cases[i][0]);
        snprintf(codi, sizeof codi, "%s%s", FIXTURES, cases[i][1] ? cases[i][1] : "");
        lp_model_source source = {.base = base, .codi = cases[i][1] ? codi : NULL, .lora_alpha = FIXTURE_ALPHA};
        assert_int_equal(lp_model_open(&source, &packed, &err), LP_OK);
        lp_model_pack_matrices(&packed);
        assert_int_equal(lp_mem_new(&arena, packed.arena_bytes, 1, "arena", &err), LP_OK);
        assert_int_equal(lp_model_fill(&packed, arena, NULL, &err), LP_OK);
        for (int32_t l = 0; l < plain.config.n_layers; l++) {
            check_same("qkv", &plain.blocks[l].qkv, &packed.blocks[l].qkv);
            check_same("attn_out", &plain.blocks[l].attn_out, &packed.blocks[l].attn_out);
            check_same("mlp_in", &plain.blocks[l].mlp_in, &packed.blocks[l].mlp_in);
            check_same("mlp_out", &plain.blocks[l].mlp_out, &packed.blocks[l].mlp_out);
        }
        if (plain.projection.present) check_same("projection", &plain.projection.in, &packed.projection.in);
        lp_linear heads[] = {linear_of(&plain.head), linear_of(&packed.head)};
        check_same("head", &heads[0], &heads[1]);
        assert_int_equal(packed.embedding.layout, packed.config.tied_head ? LP_PANELS : LP_OUT_IN);
        assert_true((packed.embedding.data == packed.head.data) == packed.config.tied_head);
        lp_model_close(&plain);
        lp_model_close(&packed);
        lp_mem_free(arena);
    }
}

/* Matrices that are left take no place in the arena and have their sources; everything else has its values. */
static void test_left_matrices(void **state) {
    (void)state;
    static const char *const cases[][2] = {{"gpt2-base", "gpt2-mixed.bin"}, {"llama-untied-base", "llama-full.bin"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char base[256], codi[256];
        lp_model whole, left;
        lp_error err = {0};
        void *arena = NULL;
        load(cases[i][0], cases[i][1], LP_BASE_AS_STORED, &whole);
        snprintf(base, sizeof base, "%s%s", FIXTURES, cases[i][0]);
        snprintf(codi, sizeof codi, "%s%s", FIXTURES, cases[i][1]);
        lp_model_source source = {.base = base, .codi = codi, .lora_alpha = FIXTURE_ALPHA};
        assert_int_equal(lp_model_open(&source, &left, &err), LP_OK);
        lp_model_leave_matrices(&left);
        assert_int_equal(lp_mem_new(&arena, left.arena_bytes, 1, "arena", &err), LP_OK);
        assert_int_equal(lp_model_fill(&left, arena, NULL, &err), LP_OK);
        if (left.arena_bytes >= whole.arena_bytes / 2)
            fail_msg("%s: %zu bytes of arena, %zu with the matrices", cases[i][1], left.arena_bytes, whole.arena_bytes);
        const lp_block *block = &left.blocks[1];
        const lp_linear *linears[] = {&block->qkv,     &block->attn_out,    &block->mlp_in,
                                      &block->mlp_out, &left.projection.in, &left.projection.out};
        for (size_t k = 0; k < sizeof linears / sizeof *linears; k++)
            for (int p = 0; p < linears[k]->n_parts; p++) {
                assert_null(linears[k]->part[p].data);
                assert_non_null(linears[k]->part[p].source);
            }
        assert_int_equal(block->qkv.n_out, whole.blocks[1].qkv.n_out);
        assert_null(left.embedding.data);
        assert_null(left.head.data);
        assert_true((left.head.source == left.embedding.source) == left.config.tied_head);
        size_t d = (size_t)left.config.d_model;
        assert_memory_equal(block->norm_mlp.weight, whole.blocks[1].norm_mlp.weight, d * sizeof(float));
        assert_memory_equal(left.projection.in.bias, whole.projection.in.bias,
                            (size_t)left.projection.in.n_out * sizeof(float));
        if (whole.positions) assert_memory_equal(left.positions, whole.positions, d * sizeof(float));
        lp_model_close(&whole);
        lp_model_close(&left);
        lp_mem_free(arena);
    }
}

static int64_t json_count(const cJSON *object, const char *key) {
    const cJSON *number = cJSON_GetObjectItemCaseSensitive(object, key);
    return number ? (int64_t)number->valuedouble : 0;
}

/* Counts and norms as torch and peft say them (NAME.facts.json). */
static void test_inspect_equals_torch(void **state) {
    (void)state;
    static const struct {
        const char *base, *codi, *facts;
    } cases[] = {{"gpt2-base", "gpt2-f32.safetensors", "gpt2-f32.facts.json"},
                 {"llama-base", "llama-f32.safetensors", "llama-f32.facts.json"},
                 {"llama-untied-base", "llama-full.bin", "llama-full.facts.json"}};
    static const char *const parts[] = {"total", "embedding", "attention",  "mlp",
                                        "norms", "head",      "projection", "lora"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        lp_model model;
        lp_text path = {0}, printed = {0};
        lp_error err = {0};
        lp_json root;
        cJSON *expected = NULL;
        load(cases[i].base, cases[i].codi, LP_BASE_AS_STORED, &model);
        if (lp_model_inspect(&model, LP_INSPECT_JSON, &printed, &err) != LP_OK) fail_msg("%s", err.text);
        cJSON *found = cJSON_Parse(printed.data);
        assert_non_null(found);
        assert_int_equal(lp_text_format(&path, &err, "%s%s", FIXTURES, cases[i].facts), LP_OK);
        if (lp_json_load(path.data, 1 << 16, &expected, &root, &err) != LP_OK) fail_msg("%s", err.text);
        const cJSON *want = cJSON_GetObjectItem(expected, "parameters"),
                    *have = cJSON_GetObjectItem(found, "parameters");
        for (size_t p = 0; p < sizeof parts / sizeof *parts; p++)
            if (json_count(want, parts[p]) != json_count(have, parts[p]))
                fail_msg("%s: %s: expected %lld, found %lld", cases[i].codi, parts[p],
                         (long long)json_count(want, parts[p]), (long long)json_count(have, parts[p]));
        const cJSON *norm = cJSON_GetArrayItem(cJSON_GetObjectItem(expected, "update_norm_by_layer"), 0);
        const cJSON *lora = cJSON_GetObjectItem(found, "lora");
        assert_int_equal(norm == NULL, cJSON_IsNull(lora));
        for (int k = 0; norm; norm = norm->next, k++) {
            const cJSON *layer = cJSON_GetArrayItem(cJSON_GetObjectItem(lora, "update_norm_by_layer"), k);
            assert_non_null(layer);
            if (!(fabs(layer->valuedouble / norm->valuedouble - 1) < 1e-6))
                fail_msg("layer %d: expected %g, found %g", k, norm->valuedouble, layer->valuedouble);
        }
        cJSON_Delete(expected);
        cJSON_Delete(found);
        lp_text_release(&path);
        lp_text_release(&printed);
        lp_model_close(&model);
    }
}

static void test_inspect_text(void **state) {
    (void)state;
    static const char *const lines[] = {
        "architecture   gpt2: 2 layers of width 12, 3 heads of 4, MLP 20, gelu_tanh, norm eps 1e-05\n",
        "context        10 positions, learned\n",
        "vocabulary     19 tokens, 22 embedded\n",
        "layout         CODI module: 20 of 26 tensors are codi.*, ",
        "config.json: bos 18, eos 18\n",
        "parameters               3,803\n",
        "  head                       0  (tied to the embedding)\n",
        "projection     12 -> 7 -> 12, GELU, LayerNorm\n",
        "LoRA           rank 3, alpha 5 (scale 1.66667) on 8 linear layers\n",
        "bytes  base/config.json\n",
        "bytes  base/model.safetensors\n",
        "bytes  codi/gpt2-trained.safetensors\n",
        "  codi.base_model.model.score.weight (f32): unexpected\n",
        "  codi.base_model.model.transformer.h.0.attn.bias (bool): a buffer, not a weight\n",
        "  codi.base_model.model.transformer.h.0.attn.masked_bias (f32): a buffer, not a weight\n",
        "  transformer.wte.weight (f32): the CODI checkpoint has it too\n",
    };
    lp_model model;
    lp_text text = {0}, digests = {0};
    lp_error err = {0};
    char sha[LP_SHA256_HEX];
    load("gpt2-base", "gpt2-trained.safetensors", LP_BASE_AS_STORED, &model);
    if (lp_model_inspect(&model, LP_INSPECT_TEXT, &text, &err) != LP_OK) fail_msg("%s", err.text);
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!strstr(text.data, lines[i])) fail_msg("expected \"%s\" in\n%s", lines[i], text.data);
    if (lp_model_digests(&model, &digests, &err) != LP_OK) fail_msg("%s", err.text);
    static const char *const files[] = {"base/config.json", "base/model.safetensors", "codi/gpt2-trained.safetensors"};
    static const char *const paths[] = {FIXTURES "gpt2-base/config.json", FIXTURES "gpt2-base/model.safetensors",
                                        FIXTURES "gpt2-trained.safetensors"};
    const char *line = digests.data;
    for (size_t i = 0; i < 3; i++) {
        char expected[128];
        if (lp_sha256_of_file(paths[i], sha, &err) != LP_OK) fail_msg("%s", err.text);
        int n = snprintf(expected, sizeof expected, "%s  %s\n", files[i], sha);
        if (strncmp(line, expected, (size_t)n) != 0) fail_msg("expected \"%s\" in\n%s", expected, digests.data);
        line += n;
        assert_non_null(strstr(text.data, sha));
    }
    assert_int_equal(*line, '\0');
    lp_text_release(&text);
    lp_text_release(&digests);
    lp_model_close(&model);
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* The thread reads files in chunks of 4 MiB: one file is longer than one. A model that is closed at once ends it early.
 */
static void test_digests_beside(void **state) {
    (void)state;
    char folder[] = "/tmp/lp_digests_XXXXXX", config[64], weights[64], sha[LP_SHA256_HEX];
    lp_text bytes = {0}, digests = {0};
    lp_model model;
    lp_error err = {0};
    assert_non_null(mkdtemp(folder));
    snprintf(config, sizeof config, "%s/config.json", folder);
    snprintf(weights, sizeof weights, "%s/model.safetensors", folder);
    assert_int_equal(lp_file_read(FIXTURES "gpt2-base/model.safetensors", 1 << 20, &bytes, &err), LP_OK);
    assert_int_equal(lp_output_write(weights, bytes.data, bytes.length, LP_OUTPUT_OWN, &err), LP_OK);
    lp_text_clear(&bytes);
    assert_int_equal(lp_file_read(FIXTURES "gpt2-base/config.json", 1 << 20, &bytes, &err), LP_OK);
    while (bytes.length < 9u << 20) assert_int_equal(lp_text_add(&bytes, "\n         ", 10, &err), LP_OK);
    assert_int_equal(lp_output_write(config, bytes.data, bytes.length, LP_OUTPUT_OWN, &err), LP_OK);
    lp_model_source source = {.base = folder, .with_digests = true};
    if (lp_model_load(&source, &model, &err) != LP_OK) fail_msg("%s", err.text);
    if (lp_model_digests(&model, &digests, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(lp_sha256_of_file(config, sha, &err), LP_OK);
    if (!strstr(digests.data, sha)) fail_msg("expected %s in\n%s", sha, digests.data);
    assert_int_equal(lp_sha256_of_file(weights, sha, &err), LP_OK);
    if (!strstr(digests.data, sha)) fail_msg("expected %s in\n%s", sha, digests.data);
    lp_model_close(&model);
    if (lp_model_open(&source, &model, &err) != LP_OK) fail_msg("%s", err.text);
    lp_model_close(&model);
    lp_text_release(&bytes);
    lp_text_release(&digests);
    unlink(config);
    unlink(weights);
    rmdir(folder);
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_weights_equal_peft),
        cmocka_unit_test(test_shared_arena),
        cmocka_unit_test(test_plain_models_are_mapped),
        cmocka_unit_test(test_left_matrices),
        cmocka_unit_test(test_packed_matrices),
        cmocka_unit_test(test_inspect_equals_torch),
        cmocka_unit_test(test_inspect_text),
        cmocka_unit_test(test_digests_beside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
