/* Fuzzes the reader of config.json: what it accepts keeps the promises that sizes are computed from. */
#include "model/hf_config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    lp_model_config c = {0};
    lp_error err = {0};
    if (lp_hf_config_parse((const char *)data, size, "input", &c, &err) == LP_OK) {
        LP_ASSERT(c.n_layers > 0 && c.d_model > 0 && c.d_ff > 0 && c.n_vocab > 0 && c.n_context > 0);
        LP_ASSERT(c.n_kv_heads > 0 && c.n_heads % c.n_kv_heads == 0 && c.head_dim > 0);
        LP_ASSERT((int64_t)c.n_heads * c.head_dim <= 1 << 22 && c.eos_id < c.n_vocab + 3 && c.bos_id >= -1);
        LP_ASSERT(c.arch == LP_ARCH_GPT2 || c.head_dim % 2 == 0);
    } else {
        LP_ASSERT(err.text[0] != '\0');
    }
    return 0;
}
