/* Checkpoints that must not load: each case copies good files to a folder of its own, breaks them in one place, and
 * asserts the line that a person gets to see. */
#include "base/memory.h"
#include "base/output.h"
#include "model/checkpoint.h"
#include "model/codi_layout.h"
#include "model/hf_config.h"
#include "model/model.h"

#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

#define FIXTURES LP_SOURCE_DIR "/tests/fixtures/model/"
#define WHOLE    "codi.base_model.model.transformer."

typedef struct {
    const char *from, *to;      /* below FIXTURES, below the case's folder */
    const char *find, *replace; /* of the same length; NULL: copied as it is */
} copy;

typedef struct {
    copy copies[4];
    const char *codi; /* below the case's folder; NULL: a plain model */
    int32_t lora_rank;
    double lora_alpha; /* 0: 5 */
    lp_status status;
    const char *message;
} bad_case;

#define GPT2_CONFIG                                                                                                    \
    { "gpt2-base/config.json", "base/config.json", NULL, NULL }
#define GPT2_WEIGHTS                                                                                                   \
    { "gpt2-base/model.safetensors", "base/model.safetensors", NULL, NULL }
#define GPT2_CODI                                                                                                      \
    { "gpt2-f32.safetensors", "codi.safetensors", NULL, NULL }
#define BROKEN_BASE(find, replace)                                                                                     \
    { "gpt2-base/model.safetensors", "base/model.safetensors", find, replace }
#define BROKEN_CODI(find, replace)                                                                                     \
    { "gpt2-f32.safetensors", "codi.safetensors", find, replace }
#define LLAMA_CONFIG                                                                                                   \
    { "llama-base/config.json", "base/config.json", NULL, NULL }
#define SHARD(k)                                                                                                       \
    { "llama-base/model-0000" k "-of-00002.safetensors", "base/model-0000" k "-of-00002.safetensors", NULL, NULL }
#define INDEX(find, replace)                                                                                           \
    { "llama-base/model.safetensors.index.json", "base/model.safetensors.index.json", find, replace }

static const bad_case CASES[] = {
    /* files and folders */
    {{{0}}, NULL, 0, 0, LP_ERR_IO, "/base: expected the folder of the base model (with config.json), found nothing"},
    {{{"gpt2-base/config.json", "base", NULL, NULL}}, NULL, 0, 0, LP_ERR_IO, "(with config.json), found a file"},
    {{GPT2_WEIGHTS}, NULL, 0, 0, LP_ERR_IO, "/base/config.json: cannot open: No such file"},
    {{GPT2_CONFIG}, NULL, 0, 0, LP_ERR_IO, "/base: no weights in this folder: expected model.safetensors, model."},
    {{GPT2_CONFIG}, "codi.safetensors", 0, 0, LP_ERR_IO, "/codi.safetensors: cannot open: No such file"},
    {{GPT2_CONFIG}, "base", 0, 0, LP_ERR_IO, "/base: no weights in this folder"},
    {{GPT2_CONFIG, BROKEN_CODI("ln_f.weight", "ln_f.weighs")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_IO,
     "/codi.safetensors holds no \"transformer.ln_f.weight\")"},
    {{GPT2_CONFIG},
     "base/config.json",
     0,
     0,
     LP_ERR_FORMAT,
     "neither a PyTorch file (a zip archive) nor a safetensors file"},
    {{GPT2_CONFIG, {"gpt2-base/config.json", "base/model.safetensors/x", NULL, NULL}},
     NULL,
     0,
     0,
     LP_ERR_IO,
     "/base/model.safetensors: expected a file, found a folder"},
    {{GPT2_CONFIG, {"../../fuzz/corpus/hfconfig/pointer", "codi.bin", NULL, NULL}},
     "codi.bin",
     0,
     0,
     LP_ERR_FORMAT,
     "/codi.bin: this is a Git LFS pointer, not the file: fetch it with `git lfs pull`"},
    /* tensors */
    {{GPT2_CONFIG, BROKEN_BASE("ln_f.weight", "ln_f.weighs")},
     NULL,
     0,
     0,
     LP_ERR_MISMATCH,
     "/base: missing tensor \"transformer.ln_f.weight\""},
    {{GPT2_CONFIG, BROKEN_CODI("prj.3.bias", "prj.3.bigs")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "/codi.safetensors: missing tensor \"prj.3.bias\""},
    {{GPT2_CONFIG, BROKEN_BASE("ln_f.weight", "ln_f.weighs"), BROKEN_CODI(WHOLE "ln_f.weight", WHOLE "ln_f.weighs")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "missing tensor \"transformer.ln_f.weight\": it is neither in"},
    {{GPT2_CONFIG, {"gpt2-f32.safetensors", "base/model.safetensors", NULL, NULL}},
     NULL,
     0,
     0,
     LP_ERR_MISMATCH,
     "missing tensor \"transformer.wte.weight\" (and 27 more); it holds tensors of a thought checkpoint: name "
     "it as the CODI checkpoint (model.codi)"},
    {{GPT2_CONFIG, GPT2_WEIGHTS},
     "base/model.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "/base/model.safetensors: not a CODI checkpoint: none of its 28 tensors is named codi.*, base_causallm.*"},
    {{GPT2_CONFIG, BROKEN_CODI("[12,36]", "[36,12]")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "tensor \"" WHOLE "h.0.attn.c_attn.base_layer.weight\": expected shape [12, 36], found [36, 12]"},
    {{{"gpt2-base/config.json", "base/config.json", "\"n_layer\": 2", "\"n_layer\": 3"}, GPT2_CODI, GPT2_WEIGHTS},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "missing tensor \"transformer.h.2.ln_1.weight\" (and 11 more)"},
    {{GPT2_CONFIG, BROKEN_CODI("{\"dtype\":\"F32\",\"shape\":[36]", "{\"dtype\":\"I32\",\"shape\":[36]")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "expected dtype f32, f16 or bf16, found i32"},
    {{GPT2_CONFIG, BROKEN_CODI(WHOLE "h.0.ln_1.bias", "codi.transformer.h.0.mlp.c_proj.base_layer.bias")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_FORMAT,
     "mlp.c_proj.base_layer.bias\" are two names for the same parameter"},
    /* LoRA */
    {{GPT2_CONFIG, GPT2_CODI},
     "codi.safetensors",
     4,
     0,
     LP_ERR_MISMATCH,
     "h.0.attn.c_attn.lora_A.default.weight\": expected LoRA rank 4, found 3"},
    {{GPT2_CONFIG, GPT2_CODI}, "codi.safetensors", 3, -1, LP_ERR_VALUE, "expected a positive LoRA alpha, found -1"},
    {{GPT2_CONFIG, BROKEN_CODI("h.0.attn.c_attn.lora_B.default", "h.0.attn.c_attn.lora_B.defaulx")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "missing tensor \"h.0.attn.c_attn.lora_B.default.weight\""},
    {{GPT2_CONFIG, BROKEN_CODI("shape\":[3,12]", "shape\":[12,3]")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "lora_A.default.weight\": expected shape [rank, 12], found [12, 3]"},
    {{GPT2_CONFIG, BROKEN_CODI("shape\":[36,3]", "shape\":[3,36]")},
     "codi.safetensors",
     0,
     0,
     LP_ERR_MISMATCH,
     "lora_B.default.weight\": expected shape [36, 3], found [3, 36]"},
    /* shards */
    {{LLAMA_CONFIG, INDEX(NULL, NULL), SHARD("1")},
     NULL,
     0,
     0,
     LP_ERR_IO,
     "/base/model.safetensors.index.json: the shard "},
    {{LLAMA_CONFIG, INDEX("\"weight_map\"", "\"weight_mop\""), SHARD("1"), SHARD("2")},
     NULL,
     0,
     0,
     LP_ERR_VALUE,
     "the key \"weight_map\" is missing"},
    {{LLAMA_CONFIG, INDEX("model.norm.weight", "model.norm.weighs"), SHARD("1"), SHARD("2")},
     NULL,
     0,
     0,
     LP_ERR_FORMAT,
     "tensor \"model.norm.weighs\" should be in "},
    {{LLAMA_CONFIG, INDEX("model.norm.weight\": \"model-00002", "model.norm.weight\": \"model-00001"), SHARD("1"),
      SHARD("2")},
     NULL,
     0,
     0,
     LP_ERR_FORMAT,
     "tensor \"model.norm.weight\" should be in model-00001-of-00002.safetensors, but is in"},
    {{LLAMA_CONFIG, INDEX("\"model-00001", "\"../el-00001"), SHARD("1"), SHARD("2")},
     NULL,
     0,
     0,
     LP_ERR_VALUE,
     "expected the name of a file in the same folder, found \"../el-00001-of-00002.safetensors\""},
    {{LLAMA_CONFIG,
      INDEX(NULL, NULL),
      SHARD("1"),
      {"llama-base/model-00001-of-00002.safetensors", "base/model-00002-of-00002.safetensors", NULL, NULL}},
     NULL,
     0,
     0,
     LP_ERR_FORMAT,
     "\" is in "},
};

static void replace_once(lp_text *bytes, const char *find, const char *replace) {
    size_t n = strlen(find);
    assert_int_equal(strlen(replace), n);
    char *at = memmem(bytes->data, bytes->length, find, n);
    if (!at) fail_msg("the fixture does not hold \"%s\"", find);
    memcpy(at, replace, n);
}

static void copy_file(const char *folder, const copy *c) {
    lp_text from = {0}, to = {0}, bytes = {0};
    lp_error err = {0};
    assert_int_equal(lp_text_format(&from, &err, "%s%s", FIXTURES, c->from), LP_OK);
    assert_int_equal(lp_text_format(&to, &err, "%s/%s", folder, c->to), LP_OK);
    if (lp_file_read(from.data, 1 << 20, &bytes, &err) != LP_OK) fail_msg("%s", err.text);
    if (c->find && c->replace) replace_once(&bytes, c->find, c->replace);
    if (lp_path_make_folder_for(to.data, &err) != LP_OK) fail_msg("%s", err.text);
    if (lp_output_write(to.data, bytes.data, bytes.length, LP_OUTPUT_OWN, &err) != LP_OK) fail_msg("%s", err.text);
    lp_text_release(&from);
    lp_text_release(&to);
    lp_text_release(&bytes);
}

static lp_status try_load(const char *folder, const bad_case *c, lp_error *err) {
    lp_text base = {0}, codi = {0};
    lp_model model = {0};
    assert_int_equal(lp_text_format(&base, err, "%s/base", folder), LP_OK);
    if (c->codi) assert_int_equal(lp_text_format(&codi, err, "%s/%s", folder, c->codi), LP_OK);
    lp_model_source source = {.base = base.data,
                              .codi = c->codi ? codi.data : NULL,
                              .lora_rank = c->lora_rank,
                              .lora_alpha = c->lora_alpha != 0 ? c->lora_alpha : 5};
    lp_status status = lp_model_load(&source, &model, err);
    if (status == LP_OK) lp_model_close(&model);
    lp_text_release(&base);
    lp_text_release(&codi);
    return status;
}

static void make_folder(char folder[32]) {
    snprintf(folder, 32, "model_errors_XXXXXX");
    assert_non_null(mkdtemp(folder));
}

static void remove_folder(const char *folder, const bad_case *c) {
    char path[256];
    for (size_t i = 0; i < sizeof c->copies / sizeof *c->copies; i++)
        if (c->copies[i].to) {
            snprintf(path, sizeof path, "%s/%s", folder, c->copies[i].to);
            unlink(path);
        }
    snprintf(path, sizeof path, "%s/base/model.safetensors", folder);
    rmdir(path);
    snprintf(path, sizeof path, "%s/base", folder);
    rmdir(path);
    assert_int_equal(rmdir(folder), 0);
}

static void test_bad_checkpoints(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        const bad_case *c = &CASES[i];
        char folder[32];
        lp_error err = {0};
        make_folder(folder);
        for (size_t k = 0; k < sizeof c->copies / sizeof *c->copies; k++)
            if (c->copies[k].from) copy_file(folder, &c->copies[k]);
        lp_status status = try_load(folder, c, &err);
        remove_folder(folder, c);
        if (status != c->status || !strstr(err.text, c->message))
            fail_msg("case %zu: expected %s \"%s\", found %s \"%s\"", i, lp_status_name(c->status), c->message,
                     lp_status_name(status), err.text);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* Puts a value at the start of a tensor of the CODI file and expects the load to name it. */
static void test_not_finite(void **state) {
    (void)state;
    static const struct {
        const char *tensor;
        uint32_t bits;
    } cases[] = {{WHOLE "h.0.attn.c_attn.base_layer.bias", 0x7fc00000u},
                 {WHOLE "h.0.attn.c_attn.base_layer.weight", 0x7f800000u},
                 {WHOLE "h.0.attn.c_attn.lora_A.default.weight", 0xffc00000u},
                 {WHOLE "h.1.mlp.c_proj.lora_B.default.weight", 0xff800000u},
                 {WHOLE "wte.weight", 0x7fc00000u},
                 {"prj.ln.bias", 0x7f800000u}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bad_case c = {.copies = {GPT2_CONFIG, GPT2_CODI}, .codi = "codi.safetensors"};
        char folder[32], path[64], expected[200];
        lp_text bytes = {0};
        lp_error err = {0};
        make_folder(folder);
        copy_file(folder, &c.copies[0]);
        copy_file(folder, &c.copies[1]);
        snprintf(path, sizeof path, "%s/codi.safetensors", folder);
        assert_int_equal(lp_file_read(path, 1 << 20, &bytes, &err), LP_OK);
        uint64_t n_header = 0;
        memcpy(&n_header, bytes.data, sizeof n_header);
        const char *entry = memmem(bytes.data, bytes.length, cases[i].tensor, strlen(cases[i].tensor));
        assert_non_null(entry);
        size_t begin = strtoull(strstr(entry, "data_offsets\":[") + strlen("data_offsets\":["), NULL, 10);
        memcpy(bytes.data + sizeof n_header + n_header + begin, &cases[i].bits, sizeof cases[i].bits);
        assert_int_equal(lp_output_write(path, bytes.data, bytes.length, LP_OUTPUT_OWN, &err), LP_OK);
        lp_status status = try_load(folder, &c, &err);
        remove_folder(folder, &c);
        lp_text_release(&bytes);
        snprintf(expected, sizeof expected, "codi.safetensors: tensor \"%s\" holds NaN or infinity", cases[i].tensor);
        if (status != LP_ERR_VALUE || !strstr(err.text, expected))
            fail_msg("expected \"%s\", found %s \"%s\"", expected, lp_status_name(status), err.text);
    }
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* No file is so large: the shape is changed in the list. */
static void test_rank_beyond_int32(void **state) {
    (void)state;
    static const char name[] = WHOLE "h.0.attn.c_attn.lora_A.default.weight";
    lp_checkpoint codi = {0};
    lp_model_config config;
    lp_layout_table table = {0};
    lp_error err = {0};
    lp_text json = {0};
    const char *file = FIXTURES "gpt2-base/config.json";
    if (lp_file_read(file, 1 << 20, &json, &err) != LP_OK) fail_msg("%s", err.text);
    if (lp_hf_config_parse(json.data, json.length, file, &config, &err) != LP_OK) fail_msg("%s", err.text);
    lp_text_release(&json);
    if (lp_checkpoint_add_weights(&codi, FIXTURES "gpt2-f32.safetensors", "codi", &err) != LP_OK)
        fail_msg("%s", err.text);
    size_t at = 0;
    while (at < codi.tensors.n && strcmp(codi.tensors.items[at].name, name) != 0) at++;
    assert_true(at < codi.tensors.n);
    codi.tensors.items[at].shape[0] = INT64_C(1) << 31;
    assert_int_equal(lp_layout_bind(&config, NULL, "base", &codi.tensors, "codi", 0, &table, &err), LP_ERR_MISMATCH);
    assert_string_equal(err.text, FIXTURES "gpt2-f32.safetensors: tensor \"" WHOLE
                                           "h.0.attn.c_attn.lora_A.default.weight\": a LoRA rank of 2147483648");
    lp_layout_release(&table);
    lp_checkpoint_release(&codi);
    assert_int_equal(lp_mem_count().live_bytes, 0);
}

/* A base model that was saved after its vocabulary had grown by CODI's three tokens. */
static void test_base_with_added_tokens(void **state) {
    (void)state;
    bad_case c = {.copies = {{"gpt2-base/config.json", "base/config.json", "\"vocab_size\": 19", "\"vocab_size\": 16"},
                             GPT2_WEIGHTS}};
    char folder[32], base[64];
    lp_model model = {0};
    lp_error err = {0};
    make_folder(folder);
    copy_file(folder, &c.copies[0]);
    copy_file(folder, &c.copies[1]);
    snprintf(base, sizeof base, "%s/base", folder);
    lp_model_source source = {.base = base};
    lp_status status = lp_model_load(&source, &model, &err);
    remove_folder(folder, &c);
    if (status != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(model.config.n_vocab, 16);
    assert_int_equal(model.config.n_embedded, 19);
    lp_model_close(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_checkpoints),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_rank_beyond_int32),
        cmocka_unit_test(test_base_with_added_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
