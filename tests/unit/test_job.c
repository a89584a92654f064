/* Job files: every key with its default and its value, every refusal with its message, --set, paths. */
#include "job/job.h"

#include "base/memory.h"
#include "base/output.h"

#include <setjmp.h>
#include <unistd.h>

#include <cmocka.h>

#define LEAST                                                                                                           \
    "\"model\":{\"base\":\"m/base\",\"codi\":\"m/codi-ckpt\"},\"pairs\":{\"file\":\"p.json\"},\"store\":{\"file\":\"o/" \
    "s.store.h5\"}"
#define RESULTS "\"results\":{\"file\":\"o/r.results.h5\"}"
#define GROUP   "{\"site\":\"resid_post\",\"layers\":\"all\",\"steps\":\"first:1-2\"}"

static const char path[] = "jobs/some/job.json";

static lp_status parse(const char *text, const char *const *settings, size_t n, lp_job *job, lp_error *err) {
    /* An exact copy, so that the address sanitizer sees a read beyond the end. */
    size_t size = strlen(text);
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, text, size);
    lp_status status = lp_job_parse(copy, size, path, settings, n, job, err);
    free(copy);
    return status;
}

static lp_job good(const char *text) {
    lp_job job = {0};
    lp_error err = {0};
    if (parse(text, NULL, 0, &job, &err) != LP_OK) fail_msg("%s\n%s", text, err.text);
    return job;
}

static void test_defaults(void **state) {
    (void)state;
    lp_job j = good("{" LEAST "}");
    assert_string_equal(j.model.base, "jobs/some/m/base");
    assert_string_equal(j.model.codi, "jobs/some/m/codi-ckpt");
    assert_string_equal(j.model.name, "codi-ckpt");
    assert_int_equal(j.model.lora_rank, 0);
    assert_true(j.model.lora_alpha == 32);
    assert_int_equal(j.model.base_rounding, LP_BASE_AS_STORED);
    assert_int_equal(j.protocol.kind, LP_PROTOCOL_CODI);
    assert_int_equal(j.protocol.n_steps, 6);
    assert_false(j.protocol.changed);
    assert_int_equal(j.protocol.answer_start.n, 1);
    assert_false(j.protocol.normalise_spaces);
    assert_string_equal(j.pairs.file, "jobs/some/p.json");
    assert_int_equal(j.pairs.limit, 0);
    assert_int_equal(j.pairs.equal_answers, LP_EQUAL_ANSWERS_REFUSE);
    assert_string_equal(j.store.file, "jobs/some/o/s.store.h5");
    assert_int_equal(j.store.n_sites, 0);
    assert_false(j.sweep.present);
    assert_int_equal(j.decode.max_new_tokens, 200);
    assert_null(j.decode.eos);
    assert_false(j.metrics.logits || j.metrics.answer_logprob);
    assert_int_equal(j.classifier, LP_CLASSIFIER_SEED);
    assert_int_equal(j.lens_top, 0);
    assert_null(j.results.file);
    assert_int_equal(j.engine.executor, LP_EXECUTOR_BATCHED);
    assert_int_equal(j.engine.device, LP_DEVICE_AUTO);
    assert_int_equal(j.engine.dtype, LP_COMPUTE_FP32);
    assert_int_equal(j.engine.threads, 0);
    assert_int_equal(j.engine.memory_limit, 0);
    assert_int_equal(j.engine.hang_limit_s, 600);
    lp_job_release(&j);
    j = good("{" LEAST "," RESULTS ",\"sweep\":{\"conditions\":[" GROUP "]}}");
    assert_true(j.sweep.present && j.sweep.denoise && !j.sweep.noise);
    assert_int_equal(j.sweep.filter, LP_FILTER_BOTH_CORRECT);
    assert_true(j.sweep.controls.self && j.sweep.controls.shuffled);
    assert_int_equal(j.sweep.seed, 1);
    assert_string_equal(j.results.file, "jobs/some/o/r.results.h5");
    assert_string_equal(j.results.csv, "jobs/some/o/r.csv");
    assert_string_equal(j.results.summary, "jobs/some/o/r.summary.json");
    lp_job_release(&j);
}

/* Each field by itself changes the preset and nothing else. */
static void test_protocol_fields(void **state) {
    (void)state;
    lp_job j = good("{" LEAST ",\"protocol\":{\"name\":\"coconut\",\"steps\":2}}");
    assert_int_equal(j.protocol.kind, LP_PROTOCOL_COCONUT);
    assert_false(j.protocol.changed);
    assert_int_equal(j.protocol.feedback, LP_FEEDBACK_NONE);
    assert_string_equal(j.protocol.after_question.items[0].text, "\n");
    assert_int_equal(j.protocol.not_chosen.n, 0);
    lp_job_release(&j);
    j = good("{" LEAST ",\"protocol\":{\"after_question\":[{\"token\":\"<x>\"},\"bot\"],\"first_input\":{\"token\":5},"
             "\"feedback\":\"none\",\"answer_start\":[\"eot\",{\"text\":\" The\"}],\"not_chosen\":[],"
             "\"stop\":[\"eos\",{\"token\":9}],\"tokens\":{\"bot\":3,\"eot\":\"<e>\"}}}");
    const lp_protocol *p = &j.protocol;
    assert_true(p->changed);
    assert_int_equal(p->after_question.n, 2);
    assert_int_equal(p->after_question.items[0].kind, LP_MARKER_TOKEN);
    assert_string_equal(p->after_question.items[0].text, "<x>");
    assert_int_equal(p->after_question.items[1].kind, LP_MARKER_BOT);
    assert_false(p->first_reads_prompt);
    assert_int_equal(p->first_input.id, 5);
    assert_int_equal(p->feedback, LP_FEEDBACK_NONE);
    assert_int_equal(p->answer_start.items[1].kind, LP_MARKER_TEXT);
    assert_int_equal(p->not_chosen.n, 0);
    assert_int_equal(p->stop.items[1].id, 9);
    assert_true(p->tokens[LP_ROLE_BOT].given && p->tokens[LP_ROLE_BOT].id == 3 && !p->tokens[LP_ROLE_PAD].given);
    assert_string_equal(p->tokens[LP_ROLE_EOT].text, "<e>");
    lp_job_release(&j);
    j = good("{" LEAST ",\"protocol\":{\"name\":\"bot-first\",\"first_input\":\"prompt\"}}");
    assert_true(j.protocol.first_reads_prompt && j.protocol.changed);
    lp_job_release(&j);
}

static void test_every_key(void **state) {
    (void)state;
    lp_job j = good(
        "{\"comment\":[\"any\",1],\"model\":{\"name\":\"n\",\"base\":\"/b\",\"codi\":\"c\",\"lora\":{\"rank\":3,\"alpha\":6.5},"
        "\"base_rounding\":\"fp16\"},\"protocol\":{\"name\":\"bot-first\",\"steps\":64,\"remove_eos\":false,"
        "\"normalise_spaces\":true},\"pairs\":{\"file\":\"/p\",\"limit\":7,\"equal_answers\":\"allow\"},\"store\":{\"file\":"
        "\"/s\",\"sites\":[\"k\",{\"phase\":\"prompt\",\"site\":\"resid_post\",\"index\":[-1,0]},{\"site\":\"v\"},"
        "{\"phase\":\"answer\",\"site\":\"latent_raw\",\"index\":[0,3]}]},\"sweep\":{\"filter\":\"all\",\"directions\":"
        "[\"noise\"],\"controls\":[\"shuffled\"],\"seed\":9007199254740992,\"shuffled_seeds\":[4,0],\"vectors\":[\"v.npy\",\"/w.npy\"],\"conditions\":["
        "{}]},\"decode\":{\"max_new_tokens\":1,\"eos\":\"<end>\"},\"metrics\":[\"logits\",\"answer_logprob\",\"steps\"],\"readout\":\"logit_lens top 50\","
        "\"classifier\":"
        "\"codi\",\"results\":{\"file\":\"r\",\"csv\":\"x\",\"summary\":\"/y\"},\"engine\":{\"executor\":\"reference\","
        "\"device\":\"cuda\",\"dtype\":\"bf16\",\"threads\":1024,\"memory_limit\":\"1.5GiB\"}}");
    assert_string_equal(j.model.name, "n");
    assert_string_equal(j.model.base, "/b");
    assert_int_equal(j.model.lora_rank, 3);
    assert_true(j.model.lora_alpha == 6.5);
    assert_int_equal(j.model.base_rounding, LP_BASE_FP16);
    assert_int_equal(j.protocol.kind, LP_PROTOCOL_BOT_FIRST);
    assert_int_equal(j.protocol.n_steps, 64);
    assert_true(j.protocol.changed);
    assert_int_equal(j.protocol.n_answer_start, 2);
    assert_int_equal(j.protocol.answer_start.items[1].kind, LP_MARKER_EOS);
    assert_int_equal(j.protocol.after_question.n, 0);
    assert_true(j.protocol.normalise_spaces);
    assert_int_equal(j.pairs.limit, 7);
    assert_int_equal(j.pairs.equal_answers, LP_EQUAL_ANSWERS_ALLOW);
    assert_int_equal(j.store.n_sites, 4);
    assert_int_equal(j.store.sites[0].site, LP_SITE_K);
    assert_int_equal(j.store.sites[0].phase, LP_PHASE_THOUGHT);
    assert_int_equal(j.store.sites[1].phase, LP_PHASE_PROMPT);
    assert_int_equal(j.store.sites[1].n_indices, 2);
    assert_int_equal(j.store.sites[1].indices[0], -1);
    assert_int_equal(j.store.sites[2].site, LP_SITE_V);
    assert_int_equal(j.store.sites[3].phase, LP_PHASE_ANSWER);
    assert_int_equal(j.store.sites[3].indices[1], 3);
    assert_int_equal(j.sweep.filter, LP_FILTER_ALL);
    assert_true(j.sweep.noise && !j.sweep.denoise);
    assert_true(j.sweep.controls.shuffled && !j.sweep.controls.self);
    assert_true(j.sweep.seed == UINT64_C(9007199254740992));
    assert_int_equal(j.sweep.n_draws, 2);
    assert_true(j.sweep.shuffled_seeds[0] == 4 && j.sweep.shuffled_seeds[1] == 0);
    assert_int_equal(j.lens_top, 50);
    assert_int_equal(j.sweep.n_vectors, 2);
    assert_string_equal(j.sweep.vectors[0], "jobs/some/v.npy");
    assert_string_equal(j.sweep.vectors[1], "/w.npy");
    assert_int_equal(j.decode.max_new_tokens, 1);
    assert_string_equal(j.decode.eos, "<end>");
    assert_true(j.metrics.logits && j.metrics.answer_logprob && j.metrics.steps);
    assert_int_equal(j.classifier, LP_CLASSIFIER_CODI);
    assert_string_equal(j.results.csv, "jobs/some/x");
    assert_string_equal(j.results.summary, "/y");
    assert_int_equal(j.engine.executor, LP_EXECUTOR_REFERENCE);
    assert_int_equal(j.engine.device, LP_DEVICE_CUDA);
    assert_int_equal(j.engine.dtype, LP_COMPUTE_BF16);
    assert_int_equal(j.engine.threads, 1024);
    assert_int_equal(j.engine.memory_limit, 1610612736);
    lp_job_release(&j);
}

static void test_memory_limits(void **state) {
    (void)state;
    static const struct {
        const char *value;
        int64_t bytes; /* -1: refused */
    } cases[] = {{"0", 0},
                 {"123", 123},
                 {"\"123\"", 123},
                 {"\"2KB\"", 2000},
                 {"\"2KiB\"", 2048},
                 {"\"3B\"", 3},
                 {"\"1MB\"", 1000000},
                 {"\"1MiB\"", 1 << 20},
                 {"\"0.5GB\"", 500000000},
                 {"\"1TB\"", 1000000000000},
                 {"\"1TiB\"", INT64_C(1) << 40},
                 {"-1", -1},
                 {"1.5", -1},
                 {"1e17", -1},
                 {"\"\"", -1},
                 {"\"GB\"", -1},
                 {"\"-1GB\"", -1},
                 {"\" 1GB\"", -1},
                 {"\"1 GB\"", -1},
                 {"\"1gb\"", -1},
                 {"\"0x10\"", -1},
                 {"\"inf\"", -1},
                 {"\"nan\"", -1},
                 {"\"1e3\"", -1},
                 {"\"10000TB\"", -1},
                 {"true", -1},
                 {"[1]", -1},
                 {"\"+5\"", -1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[600];
        lp_job job = {0};
        lp_error err = {0};
        snprintf(text, sizeof text, "{" LEAST ",\"engine\":{\"memory_limit\":%s}}", cases[i].value);
        lp_status status = parse(text, NULL, 0, &job, &err);
        if (cases[i].bytes < 0 && (status != LP_ERR_VALUE || !strstr(err.text, "$.engine.memory_limit: expected")))
            fail_msg("%s: expected a refusal, found %lld \"%s\"", cases[i].value, (long long)job.engine.memory_limit,
                     err.text);
        if (cases[i].bytes >= 0 && (status != LP_OK || job.engine.memory_limit != cases[i].bytes))
            fail_msg("%s: expected %lld, found %lld \"%s\"", cases[i].value, (long long)cases[i].bytes,
                     (long long)job.engine.memory_limit, err.text);
        lp_job_release(&job);
    }
}

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text;
        const char *message; /* after "jobs/some/job.json" */
    } cases[] = {
        {"", ":1:1: malformed JSON"},
        {"[]", ": $: expected an object, found []"},
        {"{" LEAST ",}", ":1:"},
        {"{" LEAST ",\"models\":{}}",
         ": $: unknown key \"models\" (known: model, protocol, pairs, store, sweep, decode, "
         "metrics, readout, results, classifier, engine, $schema, comment)"},
        {"{\"pairs\":{\"file\":\"p\"}}", ": $: the key \"model\" is missing"},
        {"{\"model\":1}", ": $.model: expected an object, found 1"},
        {"{\"model\":{}}", ": $.model: the key \"base\" is missing"},
        {"{\"model\":{\"base\":1}}", ": $.model.base: expected a string, found 1"},
        {"{\"model\":{\"base\":\"\"}}", ": $.model.base: expected a string that is not empty, found \"\""},
        {"{\"model\":{\"base\":\"b\",\"Codi\":\"c\"}}", ": $.model: unknown key \"Codi\""},
        {"{\"model\":{\"base\":\"b\",\"codi\":[]}}", ": $.model.codi: expected a string, found []"},
        {"{\"model\":{\"base\":\"b\",\"lora\":128}}", ": $.model.lora: expected an object, found 128"},
        {"{\"model\":{\"base\":\"b\",\"lora\":{\"r\":1}}}",
         ": $.model.lora: unknown key \"r\" (known: rank, alpha, comment)"},
        {"{\"model\":{\"base\":\"b\",\"lora\":{\"rank\":0}}}",
         ": $.model.lora.rank: expected an integer from 1 to 65536, found 0"},
        {"{\"model\":{\"base\":\"b\",\"lora\":{\"rank\":1.5}}}", ": $.model.lora.rank: expected an integer"},
        {"{\"model\":{\"base\":\"b\",\"lora\":{\"alpha\":\"32\"}}}",
         ": $.model.lora.alpha: expected a number from 0 to 1e+06, found \"32\""},
        {"{\"model\":{\"base\":\"b\",\"lora\":{\"alpha\":-1}}}", ": $.model.lora.alpha: expected a number"},
        {"{\"model\":{\"base\":\"b\",\"base_rounding\":\"bf16\"}}",
         ": $.model.base_rounding: expected one of \"none\", \"fp16\", found \"bf16\""},
        {"{\"model\":{\"base\":\"b\",\"name\":\"\"}}", ": $.model.name: expected a string that is not empty"},
        {"{" LEAST ",\"protocol\":\"codi\"}", ": $.protocol: expected an object, found \"codi\""},
        {"{" LEAST ",\"protocol\":{\"kind\":\"codi\"}}", ": $.protocol: unknown key \"kind\""},
        {"{" LEAST ",\"protocol\":{\"name\":\"bot_first\"}}",
         ": $.protocol.name: expected one of \"codi\", \"bot-first\", \"codi-eos\", \"coconut\", found \"bot_first\""},
        {"{" LEAST ",\"protocol\":{\"answer_start\":[]}}",
         ": $.protocol.answer_start: expected at least one entry, found none"},
        {"{" LEAST ",\"protocol\":{\"stop\":[]}}", ": $.protocol.stop: expected at least one entry, found none"},
        {"{" LEAST ",\"protocol\":{\"stop\":\"eos\"}}", ": $.protocol.stop: expected an array, found \"eos\""},
        {"{" LEAST ",\"protocol\":{\"answer_start\":[\"end\"]}}",
         ": $.protocol.answer_start[0]: expected one of \"eos\", \"pad\", \"bot\", \"eot\", found \"end\""},
        {"{" LEAST ",\"protocol\":{\"answer_start\":[{\"text\":\"\"}]}}",
         ": $.protocol.answer_start[0].text: expected 1 to 63 bytes, found \"\""},
        {"{" LEAST ",\"protocol\":{\"not_chosen\":[{\"token\":-1}]}}",
         ": $.protocol.not_chosen[0].token: expected an integer from 0 to 2147483647, found -1"},
        {"{" LEAST ",\"protocol\":{\"not_chosen\":[{\"id\":1}]}}", ": $.protocol.not_chosen[0]: unknown key \"id\""},
        {"{" LEAST
         ",\"protocol\":{\"after_question\":[\"bot\",\"bot\",\"bot\",\"bot\",\"bot\",\"bot\",\"bot\",\"bot\",\"bot\"]}}",
         ": $.protocol.after_question: expected at most 8 entries"},
        {"{" LEAST ",\"protocol\":{\"first_input\":{\"text\":\"a\"}}}",
         ": $.protocol.first_input: expected \"prompt\" or a token"},
        {"{" LEAST ",\"protocol\":{\"tokens\":{\"bot\":\"\"}}}",
         ": $.protocol.tokens.bot: expected an id, or a token of 1 to 63 bytes, found \"\""},
        {"{" LEAST ",\"protocol\":{\"tokens\":{\"start\":1}}}", ": $.protocol.tokens: unknown key \"start\""},
        {"{" LEAST ",\"protocol\":{\"tokens\":{\"bot\":-1}}}",
         ": $.protocol.tokens.bot: expected an integer from 0 to 2147483647, found -1"},
        {"{" LEAST ",\"protocol\":{\"feedback\":\"prj\"}}",
         ": $.protocol.feedback: expected one of \"projection\", \"none\", found \"prj\""},
        {"{" LEAST ",\"protocol\":{\"remove_eos\":false,\"answer_start\":[\"eot\"]}}",
         ": $.protocol.remove_eos: expected it to be left out where answer_start says what stands there"},
        {"{" LEAST ",\"protocol\":{\"remove_eos\":false,\"name\":\"coconut\"}}",
         ": $.protocol.remove_eos: false belongs to codi and bot-first, found name coconut"},
        {"{" LEAST ",\"protocol\":{\"steps\":-1}}", ": $.protocol.steps: expected an integer from 0 to 64, found -1"},
        {"{" LEAST ",\"protocol\":{\"steps\":65}}", ": $.protocol.steps: expected an integer from 0 to 64, found 65"},
        {"{" LEAST ",\"protocol\":{\"remove_eos\":0}}", ": $.protocol.remove_eos: expected true or false, found 0"},
        {"{" LEAST ",\"protocol\":{\"normalise_spaces\":\"no\"}}",
         ": $.protocol.normalise_spaces: expected true or false"},
        {"{\"model\":{\"base\":\"b\"}}", ": $.pairs: the key \"file\" is missing"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{}}", ": $.pairs: the key \"file\" is missing"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":\"p.json\"}", ": $.pairs: expected an object"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\",\"limit\":-1}}",
         ": $.pairs.limit: expected an integer from 0"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\",\"equal_answers\":true}}",
         ": $.pairs.equal_answers: expected one of \"refuse\", \"allow\", found true"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"}}", ": $.store: the key \"file\" is missing"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":\"k\"}}",
         ": $.store.sites: expected an array, found \"k\""},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":[\"key\"]}}",
         ": $.store.sites[0]: expected one of \"latent_in\", \"resid_pre\""},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":[\"k\",{\"phase\":\"prompt\"}]}}",
         ": $.store.sites[1]: the key \"site\" is missing"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":[{\"phase\":\"prompt\","
         "\"site\":\"k\"}]}}",
         ": $.store.sites[0]: the key \"index\" is missing (which prompt positions to keep)"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":[{\"site\":\"k\",\"index\":[0]}]}}",
         ": $.store.sites[0].index: expected no index: the store keeps all thought steps of a site"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":[{\"phase\":\"answer\","
         "\"site\":\"k\",\"index\":[-1]}]}}",
         ": $.store.sites[0].index[0]: expected an integer from 0 to 65536, found -1"},
        {"{\"model\":{\"base\":\"b\"},\"pairs\":{\"file\":\"p\"},\"store\":{\"file\":\"s\",\"sites\":[{\"site\":\"k\",\"layer\":1}]}}",
         ": $.store.sites[0]: unknown key \"layer\" (known: phase, site, index)"},
        {"{" LEAST ",\"sweep\":[]}", ": $.sweep: expected an object, found []"},
        {"{" LEAST ",\"sweep\":{}}", ": $.sweep: the key \"conditions\" is missing"},
        {"{" LEAST ",\"sweep\":{\"conditions\":[]}}",
         ": $.sweep.conditions: expected at least one condition, found none"},
        {"{" LEAST ",\"sweep\":{\"conditions\":{}}}", ": $.sweep.conditions: expected an array, found {}"},
        {"{" LEAST ",\"sweep\":{\"condition\":[]}}", ": $.sweep: unknown key \"condition\""},
        {"{" LEAST ",\"sweep\":{\"conditions\":[{}]}}", ": $.results: the key \"file\" is missing"},
        {"{" LEAST ",\"sweep\":{\"filter\":\"none\",\"conditions\":[{}]}}",
         ": $.sweep.filter: expected one of \"both-correct\", \"clean-correct\", \"all\", found \"none\""},
        {"{" LEAST ",\"sweep\":{\"directions\":\"noise\",\"conditions\":[{}]}}",
         ": $.sweep.directions: expected an array"},
        {"{" LEAST ",\"sweep\":{\"directions\":[\"both\"],\"conditions\":[{}]}}",
         ": $.sweep.directions[0]: expected one of \"denoise\", \"noise\", found \"both\""},
        {"{" LEAST ",\"sweep\":{\"controls\":\"self\",\"conditions\":[{}]}}",
         ": $.sweep.controls: expected true or false"},
        {"{" LEAST ",\"sweep\":{\"controls\":[\"zero\"],\"conditions\":[{}]}}",
         ": $.sweep.controls[0]: expected one of \"self\", \"shuffled\", found \"zero\""},
        {"{" LEAST ",\"sweep\":{\"seed\":-1,\"conditions\":[{}]}}", ": $.sweep.seed: expected an integer from 0"},
        {"{" LEAST ",\"sweep\":{\"shuffled_seeds\":[],\"conditions\":[{}]}}",
         ": $.sweep.shuffled_seeds: expected 1 to 64 seeds"},
        {"{" LEAST ",\"sweep\":{\"shuffled_seeds\":[1,2,1],\"conditions\":[{}]}}",
         ": $.sweep.shuffled_seeds[2]: expected a seed that is not in the list yet, found 1"},
        {"{" LEAST ",\"sweep\":{\"vectors\":[1],\"conditions\":[{}]}}",
         ": $.sweep.vectors[0]: expected a string, found 1"},
        {"{" LEAST ",\"decode\":{\"max_new_tokens\":0}}",
         ": $.decode.max_new_tokens: expected an integer from 1 to 65536"},
        {"{" LEAST ",\"decode\":{\"max_tokens\":5}}", ": $.decode: unknown key \"max_tokens\""},
        {"{" LEAST ",\"decode\":{\"eos\":5}}", ": $.decode.eos: expected a string, found 5"},
        {"{" LEAST ",\"metrics\":\"logits\"}", ": $.metrics: expected an array, found \"logits\""},
        {"{" LEAST ",\"metrics\":[\"kl\"]}",
         ": $.metrics[0]: expected one of \"logits\", \"answer_logprob\", \"steps\", found \"kl\""},
        {"{" LEAST ",\"readout\":5}", ": $.readout: expected a string, found 5"},
        {"{" LEAST ",\"readout\":\"logit_lens\"}",
         ": $.readout: expected \"logit_lens top K\" with K from 1 to 50, found \"logit_lens\""},
        {"{" LEAST ",\"readout\":\"logit_lens top 0\"}", ": $.readout: expected \"logit_lens top K\""},
        {"{" LEAST ",\"readout\":\"logit_lens top 51\"}", ": $.readout: expected \"logit_lens top K\""},
        {"{" LEAST ",\"readout\":\"logit_lens top  5\"}", ": $.readout: expected \"logit_lens top K\""},
        {"{" LEAST ",\"readout\":\"logit_lens top 5x\"}", ": $.readout: expected \"logit_lens top K\""},
        {"{" LEAST ",\"readout\":\"logit_lens top 99999999999999999999\"}",
         ": $.readout: expected \"logit_lens top K\""},
        {"{" LEAST ",\"classifier\":\"exact\"}", ": $.classifier: expected one of \"seed\", \"codi\", found \"exact\""},
        {"{" LEAST ",\"results\":{}}", ": $.results: the key \"file\" is missing"},
        {"{" LEAST ",\"results\":{\"file\":\"r\",\"json\":\"x\"}}", ": $.results: unknown key \"json\""},
        {"{" LEAST ",\"engine\":{\"executor\":\"fast\"}}",
         ": $.engine.executor: expected one of \"batched\", \"reference\""},
        {"{" LEAST ",\"engine\":{\"device\":\"gpu\"}}",
         ": $.engine.device: expected one of \"auto\", \"cpu\", \"cuda\""},
        {"{" LEAST ",\"engine\":{\"dtype\":\"fp16\"}}",
         ": $.engine.dtype: expected one of \"fp32\", \"tf32\", \"bf16\", \"fp32-simt\", \"fp32-tc\""},
        {"{" LEAST ",\"engine\":{\"threads\":1025}}",
         ": $.engine.threads: expected an integer from 0 to 1024, found 1025"},
        {"{" LEAST ",\"engine\":{\"hang_limit\":-1}}",
         ": $.engine.hang_limit: expected an integer from 0 to 604800, found -1"},
        {"{" LEAST ",\"engine\":{\"batch\":8}}", ": $.engine: unknown key \"batch\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_job job = {0};
        lp_error err = {0};
        char wanted[512];
        snprintf(wanted, sizeof wanted, "%s%s", path, cases[i].message);
        lp_status status = parse(cases[i].text, NULL, 0, &job, &err);
        if (status == LP_OK || strncmp(err.text, wanted, strlen(wanted)) != 0)
            fail_msg("%s\n  expected %s...\n  found    %s", cases[i].text, wanted, status ? err.text : "no error");
        assert_null(job.file);
    }
}

/* ---- Conditions -------------------------------------------------------------------------------------------------- */

static const lp_model_config config = {
    .n_layers = 4, .d_model = 8, .n_heads = 4, .n_kv_heads = 2, .head_dim = 2, .n_vocab = 10, .n_embedded = 13};

static void job_text(const char *sweep, const char *group, char *out, size_t size) {
    snprintf(out, size, "{" LEAST "," RESULTS ",\"sweep\":{%s\"controls\":false,\"conditions\":[%s]}}", sweep, group);
}

static void test_conditions(void **state) {
    (void)state;
    static const struct {
        const char *group;
        size_t n; /* conditions but for the unpatched one */
        const char *last;
    } cases[] = {
        {GROUP, 8, "denoise/clean/replace/resid_post/L3/first:2"},
        {"{\"comment\":\"x\",\"site\":[\"k\",\"v\"],\"layers\":[0,\"2-3\"],\"steps\":[\"all\",\"single:0\"],\"heads\":[0,1]}",
         24, "denoise/clean/replace/v.h1/L3/single:0"},
        {"{\"site\":\"latent_in\",\"steps\":\"all\"}", 1, "denoise/clean/replace/latent_in/all"},
        {"{\"phase\":\"prompt\",\"site\":\"resid_post\",\"layers\":1,\"index\":[-1,0,\"all\"]}", 3,
         "denoise/clean/replace/resid_post/L1/prompt:all"},
        {"{\"phase\":\"answer\",\"site\":\"resid_post\",\"layers\":1,\"index\":0,\"donor\":[\"zero\",\"clean\"]}", 2,
         "denoise/clean/replace/resid_post/L1/answer:0"},
        {"{\"site\":\"v\",\"layers\":\"late\",\"steps\":\"all\",\"operation\":\"lerp\",\"factor\":[0,0.5]}", 2,
         "denoise/clean/lerp:0.5/v/L3/all"},
        {"{\"site\":\"v\",\"layers\":[1,2],\"steps\":\"all\",\"from\":{\"layers\":[0,1],\"step\":2,\"site\":\"k\"}}", 2,
         "denoise/clean/replace/v/L2/all<k<L1<step2"},
        {"{\"site\":\"resid_post\",\"layers\":1,\"steps\":\"all\",\"defects\":[\"off_by_one\",\"decode_leak\"]}", 1,
         "denoise/clean/replace/resid_post/L1/all/+off_by_one,decode_leak"},
        {"{\"site\":\"resid_post\",\"layers\":1,\"steps\":\"first:2\",\"stop_after\":2}", 1,
         "denoise/clean/replace/resid_post/L1/first:2/stop:2"},
        {"{\"site\":\"resid_post\",\"layers\":1,\"steps\":\"all\",\"donor\":\"file\",\"vector\":1}", 1,
         "denoise/file1/replace/resid_post/L1/all"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":[\"zero\",{\"mean\":{\"by\":\"answer\"}},{\"mean\":{\"steps\":\"all\","
         "\"by\":\"source\",\"value\":\"different\",\"least\":5}}]}",
         3, "denoise/mean(all steps, different source, least 5)/replace/k/L1/all"},
        {"{\"site\":\"latent_in\",\"steps\":\"all\",\"donor\":[\"zero\",{\"nearest_token\":{\"by\":\"cosine\",\"shift\":-1,"
         "\"layer_norm\":true,\"keep_norm\":true}}],\"only\":\"numbers\",\"last_prompt\":true}",
         2,
         "denoise/nearest_token(cosine, -1, layer norm, keep norm)/replace(numbers only)/latent_in/all/+last_prompt"},
        {"{\"site\":\"latent_raw\",\"steps\":\"all\",\"operation\":\"remove\",\"subspace\":{\"nearest_token\":{\"top\":2,"
         "\"add_along\":{\"token\":\"5\",\"factor\":3}}}}",
         1, "denoise/zero/remove(nearest_token top 2, 3 along 5)/latent_raw/all"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"operation\":\"remove\",\"subspace\":1}", 1,
         "denoise/zero/remove(1)/k/L1/all"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"operation\":\"swap\",\"subspace\":0}", 1,
         "denoise/clean/swap(0)/k/L1/all"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"noise\":{\"sigma\":[1,0.1]}},\"operation\":\"add\"}",
         2, "denoise/noise(0.1)/add:1/k/L1/all"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"noise\":{\"sigma\":2,\"around\":\"mean\",\"in\":\"rms\","
         "\"steps\":\"all\"}}}",
         1, "denoise/noise(2, rms, around mean, all steps)/replace/k/L1/all"},
        {"{\"phase\":\"answer\",\"site\":\"v\",\"layers\":1,\"index\":\"all\",\"from\":{\"step\":5}}", 1,
         "denoise/clean/replace/v/L1/answer:all<step5"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024];
        lp_condition_set set = {0};
        lp_error err = {0};
        job_text("\"vectors\":[\"a\",\"b\"],", cases[i].group, text, sizeof text);
        lp_job job = good(text);
        if (lp_job_conditions(&job, &config, &set, &err) != LP_OK) fail_msg("%s: %s", cases[i].group, err.text);
        if (set.n != cases[i].n + 1 || strcmp(set.conditions[set.n - 1].name, cases[i].last) != 0)
            fail_msg("%s: expected %zu conditions, the last %s; found %zu and %s", cases[i].group, cases[i].n,
                     cases[i].last, set.n - 1, set.conditions[set.n - 1].name);
        lp_condition_set_release(&set);
        lp_job_release(&job);
    }
}

static void test_condition_refusals(void **state) {
    (void)state;
#define AT "jobs/some/job.json: $.sweep.conditions[0]"
    static const struct {
        const char *group;
        const char *message;
    } cases[] = {
        {"1", AT ": expected an object, found 1"},
        {"{}", AT ": the key \"site\" is missing"},
        {"{\"sites\":\"k\"}", AT ": unknown key \"sites\""},
        {"{\"site\":\"key\"}", AT ".site: expected one of \"latent_in\", \"resid_pre\""},
        {"{\"site\":[\"k\",\"key\"]}", AT ".site[1]: expected one of"},
        {"{\"site\":[]}", AT ".site: expected at least one element, found"},
        {"{\"site\":\"k\"}", AT ": no layers"},
        {"{\"site\":\"k\",\"layers\":1}", AT ": no steps"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":[]}", AT ".steps: expected at least one element, found"},
        {"{\"site\":\"k\",\"layers\":4}", AT ".layers: expected an integer from 0 to 3, found 4"},
        {"{\"site\":\"k\",\"layers\":\"0-4\"}", AT ".layers: expected layers within 0-3"},
        {"{\"site\":\"k\",\"layers\":[0,true]}", AT ".layers[1]: expected a string, found true"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"first:7\"}", AT ".steps: expected a step set within 6 steps"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":2}", AT ".steps: expected a string, found 2"},
        {"{\"phase\":\"thoughts\",\"site\":\"k\"}", AT ".phase: expected one of \"prompt\", \"thought\", \"answer\""},
        {"{\"phase\":\"prompt\",\"site\":\"k\",\"layers\":1}", "sweep.conditions[0]: no index"},
        {"{\"phase\":\"prompt\",\"site\":\"k\",\"layers\":1,\"index\":\"last\"}", AT ".index: expected an integer"},
        {"{\"phase\":\"answer\",\"site\":\"k\",\"layers\":1,\"index\":-1}", AT ".index: expected an integer from 0"},
        {"{\"phase\":\"answer\",\"site\":\"k\",\"layers\":1,\"index\":0,\"steps\":\"all\"}",
         AT ".steps: only for phase thought"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"index\":0}",
         AT ".index: only for the phases prompt and answer"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"factor\":0.5}",
         AT ".factor: only for the operations add, scale and lerp"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"operation\":\"mul\"}",
         AT ".operation: expected one of \"replace\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"operation\":\"add\",\"factor\":\"1\"}",
         AT ".factor: expected a number"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"operation\":\"add\",\"factor\":[]}",
         AT ".factor: expected at least one element"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"heads\":[]}", AT ".heads: expected at least one element"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"heads\":2}",
         AT ".heads: expected an integer from 0 to 1, found 2"},
        {"{\"site\":\"attn_out\",\"layers\":1,\"steps\":\"all\",\"heads\":0}",
         "sweep.conditions[0].heads: only for the sites q, k, v and z"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":\"other\"}", AT ".donor: expected one of \"clean\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":\"noise\"}",
         AT ".donor: expected an object with its size"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":[{\"noise\":{\"sigma\":1}}]}",
         "sweep.conditions[0].donor: noise around the run's own vector is added to it: expected operation \"add\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"noise\":{\"sigma\":[]}}}",
         AT ".donor.noise.sigma: expected at least one number"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"noise\":{\"sigma\":1,\"by\":\"answer\"}}}",
         AT ".donor.noise: expected \"around\": \"mean\" beside the keys \"steps\" and \"by\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"mean\":{\"value\":\"same\"}}}",
         AT ".donor.mean.value: expected the key \"by\" beside it"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"mean\":{\"by\":\"none\"}}}",
         AT ".donor.mean.by: expected one of \"answer\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":{\"mean\":{},\"noise\":{}}}",
         AT ".donor: expected one of the keys \"mean\", \"noise\" and \"nearest_token\""},
        {"{\"phase\":\"prompt\",\"site\":\"k\",\"layers\":1,\"index\":0,\"donor\":{\"mean\":{\"steps\":\"all\"}}}",
         "sweep.conditions[0].donor: \"steps\": \"all\" is only for thought steps"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":\"file\"}",
         AT ": donor \"file\" needs the key \"vector\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"donor\":\"file\",\"vector\":2}",
         AT ".vector: expected an integer from 0 to 1"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"vector\":0}", AT ".vector: only for donor file"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"from\":1}", AT ".from: expected an object"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"from\":{\"phase\":\"prompt\"}}",
         AT ".from: unknown key \"phase\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"from\":{\"step\":6}}",
         AT ".from.step: expected an integer from 0 to 5"},
        {"{\"site\":\"k\",\"layers\":[1,2],\"steps\":\"all\",\"from\":{\"layers\":0}}",
         AT ".from.layers: expected as many layers as the targets have (2), found 1"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"from\":{\"layers\":[0,1]}}",
         AT ".from.layers: expected as many layers as the targets have (1), found 2"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"defects\":\"leak\"}",
         AT ".defects: expected one of \"off_by_one\""},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"stop_after\":0}",
         AT ".stop_after: expected an integer from 1 to 6"},
        {"{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"stop_after\":2}",
         ": $.sweep.conditions: condition denoise/clean/replace/k/L1/all/stop:2: a step beyond the end of the run (2 "
         "steps)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[1024];
        lp_condition_set set = {0};
        lp_error err = {0};
        job_text("\"vectors\":[\"a\",\"b\"],", cases[i].group, text, sizeof text);
        lp_job job = good(text);
        lp_status status = lp_job_conditions(&job, &config, &set, &err);
        if (status == LP_OK || !strstr(err.text, cases[i].message))
            fail_msg("%s\n  expected ...%s...\n  found    %s", cases[i].group, cases[i].message,
                     status ? err.text : "no error");
        assert_int_equal(set.n, 0);
        lp_job_release(&job);
    }
    /* A protocol without thoughts: words instead of a range from 1 to 0. */
    static const char *const thoughts[] = {"\"stop_after\":1", "\"from\":{\"step\":0}"};
    static const char *const places[] = {".stop_after", ".from.step"};
    for (size_t i = 0; i < 2; i++) {
        char text[1024], message[128];
        lp_condition_set none = {0};
        lp_error error = {0};
        snprintf(text, sizeof text,
                 "{" LEAST "," RESULTS ",\"protocol\":{\"steps\":0},\"sweep\":{\"controls\":false,\"conditions\":[{"
                 "\"phase\":\"prompt\",\"index\":0,\"site\":\"k\",\"layers\":1,%s}]}}",
                 thoughts[i]);
        snprintf(message, sizeof message, AT "%s: expected a protocol with thought steps, found protocol.steps 0",
                 places[i]);
        lp_job without = good(text);
        assert_int_equal(lp_job_conditions(&without, &config, &none, &error), LP_ERR_VALUE);
        assert_string_equal(error.text, message);
        lp_job_release(&without);
    }
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_job job = good("{" LEAST "}");
    assert_int_equal(lp_job_conditions(&job, &config, &set, &err), LP_ERR_VALUE);
    assert_string_equal(err.text, "jobs/some/job.json: $: the key \"sweep\" is missing");
    lp_job_release(&job);
    const char *nowhere = "{" LEAST "," RESULTS ",\"sweep\":{\"directions\":[],\"conditions\":[" GROUP "]}}";
    assert_int_equal(parse(nowhere, NULL, 0, &job, &err), LP_ERR_VALUE);
    assert_non_null(strstr(err.text, "jobs/some/job.json: $.sweep.directions: expected at least one direction, found"));
}

/* Without a donor a group takes the values of the other run, in each direction. */
static void test_default_donor(void **state) {
    (void)state;
    static const char *const names[] = {"denoise/unpatched", "noise/unpatched", "denoise/clean/replace/k/L1/all<step2",
                                        "noise/corrupted/replace/k/L1/all<step2"};
    lp_condition_set set = {0};
    lp_error err = {0};
    lp_job job = good("{" LEAST "," RESULTS ",\"sweep\":{\"directions\":[\"denoise\",\"noise\"],\"controls\":false,"
                      "\"conditions\":[{\"site\":\"k\",\"layers\":1,\"steps\":\"all\",\"from\":{\"step\":2}}]}}");
    if (lp_job_conditions(&job, &config, &set, &err) != LP_OK) fail_msg("%s", err.text);
    assert_int_equal(set.n, 4);
    for (size_t i = 0; i < set.n; i++) assert_string_equal(set.conditions[i].name, names[i]);
    lp_condition_set_release(&set);
    lp_job_release(&job);
}

/* ---- Settings and files ------------------------------------------------------------------------------------------ */

static void test_settings(void **state) {
    (void)state;
    static const struct {
        const char *setting;
        const char *resolved; /* part of the resolved job; NULL: refused */
        const char *message;
    } cases[] = {
        {"protocol.steps=3", "\"protocol\":{\"steps\":3}", NULL},
        {"model.codi=other/folder", "\"codi\":\"other/folder\"", NULL},
        {"model.codi=null", "\"codi\":null", NULL},
        {"model.codi=\"123\"", "\"codi\":\"123\"", NULL},
        {"model.lora.alpha=16", "\"lora\":{\"alpha\":16}", NULL},
        {"sweep.conditions.0.steps=all", "\"steps\":\"all\"", NULL},
        {"sweep.conditions.0={\"site\":\"k\"}", "\"conditions\":[{\"site\":\"k\"}]", NULL},
        {"metrics=[\"logits\"]", "\"metrics\":[\"logits\"]", NULL},
        {"store.file=a=b.h5", "\"file\":\"a=b.h5\"", NULL},
        {"decode.eos=", "", "jobs/some/job.json: $.decode.eos: expected a string that is not empty"},
        {"protocol.steps", NULL, "--set protocol.steps: expected section.key=value"},
        {"=3", NULL, "--set =3: expected section.key=value"},
        {"protocol..steps=3", NULL, "--set protocol..steps=3: no such place in the job"},
        {".steps=3", NULL, "--set .steps=3: no such place in the job"},
        {"protocol.=3", NULL, "--set protocol.=3: no such place in the job"},
        {"pairs.file.name=3", NULL, "--set pairs.file.name=3: no such place in the job"},
        {"sweep.conditions.1.steps=all", NULL,
         "--set sweep.conditions.1.steps=all: sweep.conditions: expected an index below 1, found 1"},
        {"sweep.conditions.-1=1", NULL,
         "--set sweep.conditions.-1=1: sweep.conditions: expected an index below 1, found -1"},
        {"sweep.conditions.x=1", NULL, "--set sweep.conditions.x=1: no such place in the job"},
        {"sweep.conditions.=1", NULL, "--set sweep.conditions.=1: no such place in the job"},
        {"protocol.stepz=3", "", "jobs/some/job.json: $.protocol: unknown key \"stepz\""},
        {"protocl.steps=3", "", "jobs/some/job.json: $: unknown key \"protocl\""},
        {"protocol.steps=three", "",
         "jobs/some/job.json: $.protocol.steps: expected an integer from 0 to 64, found \"three\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        lp_job job = {0};
        lp_error err = {0};
        lp_status status =
            parse("{" LEAST "," RESULTS ",\"sweep\":{\"conditions\":[" GROUP "]}}", &cases[i].setting, 1, &job, &err);
        if (cases[i].message) {
            lp_status wanted = cases[i].resolved ? LP_ERR_VALUE : LP_ERR_USAGE;
            if (status != wanted || strncmp(err.text, cases[i].message, strlen(cases[i].message)) != 0)
                fail_msg("%s: expected \"%s\", found %s \"%s\"", cases[i].setting, cases[i].message,
                         lp_status_name(status), err.text);
            continue;
        }
        if (status != LP_OK) fail_msg("%s: %s", cases[i].setting, err.text);
        if (!strstr(job.text, cases[i].resolved))
            fail_msg("%s: expected %s in %s", cases[i].setting, cases[i].resolved, job.text);
        lp_job_release(&job);
    }
    /* Later settings win. */
    static const char *const twice[] = {"protocol.steps=3", "protocol.steps=4"};
    lp_job job = {0};
    lp_error err = {0};
    assert_int_equal(parse("{" LEAST "}", twice, 2, &job, &err), LP_OK);
    assert_int_equal(job.protocol.n_steps, 4);
    lp_job_release(&job);
}

static void test_paths(void **state) {
    (void)state;
    static const struct {
        const char *job, *results, *csv;
    } cases[] = {{"job.json", "x.results.h5", "x.csv"},         {"job.json", "long/name.results.h5", "long/name.csv"},
                 {"/a/job.json", "r.results.h5", "/a/r.csv"},   {"/job.json", "r.h5", "/r.h5.csv"},
                 {"a/job.json", "/out/r.h5", "/out/r.h5.csv"},  {"a/job.json", "../r.results.h5", "a/../r.csv"},
                 {"job.json", ".results.h5", ".results.h5.csv"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        lp_job job = {0};
        lp_error err = {0};
        snprintf(text, sizeof text, "{" LEAST ",\"results\":{\"file\":\"%s\"}}", cases[i].results);
        assert_int_equal(lp_job_parse(text, strlen(text), cases[i].job, NULL, 0, &job, &err), LP_OK);
        assert_string_equal(job.results.csv, cases[i].csv);
        lp_job_release(&job);
    }
}

static void test_load(void **state) {
    (void)state;
    lp_job job = {0};
    lp_error err = {0};
    assert_int_equal(lp_job_load("no/such/job.json", NULL, 0, &job, &err), LP_ERR_IO);
    assert_string_equal(err.text, "no/such/job.json: cannot open: No such file or directory");
    const char text[] = "{" LEAST "}";
    assert_int_equal(lp_output_write("test_job.tmp.json", text, sizeof text - 1, LP_OUTPUT_OWN, &err), LP_OK);
    assert_int_equal(lp_job_load("test_job.tmp.json", NULL, 0, &job, &err), LP_OK);
    assert_string_equal(job.model.base, "m/base");
    assert_string_equal(job.folder, ".");
    lp_job_release(&job);
    assert_int_equal(unlink("test_job.tmp.json"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults),      cmocka_unit_test(test_protocol_fields),
                                       cmocka_unit_test(test_every_key),     cmocka_unit_test(test_memory_limits),
                                       cmocka_unit_test(test_refusals),      cmocka_unit_test(test_conditions),
                                       cmocka_unit_test(test_default_donor), cmocka_unit_test(test_condition_refusals),
                                       cmocka_unit_test(test_settings),      cmocka_unit_test(test_paths),
                                       cmocka_unit_test(test_load)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
