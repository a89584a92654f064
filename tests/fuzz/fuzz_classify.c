/* Fuzzes the outcome classifiers: any bytes are a text that a model may have written. */
#include "pairs/classify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = size ? (const char *)data : "";
    for (int i = 0; i < 2; i++) {
        lp_answer_outcome found = lp_classify((lp_classifier)i, text, size, 17, 20);
        char shown[LP_ANSWER_TEXT];
        lp_answer_text(found.number, shown);
        LP_ASSERT(strtod(shown, NULL) == found.number);
        LP_ASSERT(found.has_number || found.outcome == LP_OTHER || found.outcome == LP_GIBBERISH);
    }
    return 0;
}
