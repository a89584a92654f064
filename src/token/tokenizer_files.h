/* The older files of a tokenizer: vocab.json and merges.txt, with what tokenizer_config.json says, put
 * together as the tokenizer.json that transformers makes of them. For the classes of GPT-2 and Qwen2. */
#ifndef LP_TOKEN_TOKENIZER_FILES_H
#define LP_TOKEN_TOKENIZER_FILES_H

#include "base/error.h"
#include "base/text.h"

/* *out += the text of tokenizer.json. Fails where a file is missing, or where the class or a setting is another. */
lp_status lp_tokenizer_compose(const char *folder, lp_text *out, lp_error *err);
/* The same from memory: vocab.json, merges.txt and tokenizer_config.json (data NULL: there is none). `folder` is for
 * messages. The fuzz target. */
typedef struct {
    const char *data;
    size_t size;
} lp_tokenizer_file;
lp_status lp_tokenizer_compose_parse(const char *folder, lp_tokenizer_file vocab, lp_tokenizer_file merges,
                                     lp_tokenizer_file config, lp_text *out, lp_error *err);

#endif
