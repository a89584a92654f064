/* Reader of a Hugging Face config.json, for the architectures gpt2, llama, qwen2, qwen3 and mistral, as transformers 4
 * and 5 write it.
 *
 * Keys that change the arithmetic and are not supported are refused by name; keys that do not matter for a forward
 * pass are ignored. Absent keys take the defaults of the architecture's class in transformers. */
#ifndef LP_MODEL_HF_CONFIG_H
#define LP_MODEL_HF_CONFIG_H

#include "model/model.h"

/* text [size]; `file` names it in messages. Sets everything but n_embedded, which is n_vocab until the weights say
 * otherwise. This is the fuzz target. */
lp_status lp_hf_config_parse(const char *text, size_t size, const char *file, lp_model_config *out, lp_error *err);

const char *lp_family_name(lp_family family);       /* "gpt2", "llama", "qwen2", "qwen3", "mistral" */
const char *lp_activation_name(lp_activation kind); /* "gelu_tanh", "gelu_erf", "silu" */
const char *lp_rope_name(lp_rope_kind kind);        /* "none", "plain", "llama3", "linear" */

#endif
