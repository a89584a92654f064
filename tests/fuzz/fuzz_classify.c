/* Fuzzes the outcome classifiers: any bytes are a text that a model may have written. */
#include "pairs/classify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = size ? (const char *)data : "";
    for (int i = 0; i < 2; i++) {
        lp_verdict verdict = lp_classify((lp_classifier)i, text, size, 17, 20);
        char shown[LP_ANSWER_TEXT];
        lp_answer_text(verdict.number, shown);
        LP_ASSERT(strtod(shown, NULL) == verdict.number);
        LP_ASSERT(verdict.has_number || verdict.outcome == LP_OTHER || verdict.outcome == LP_GIBBERISH);
    }
    return 0;
}
