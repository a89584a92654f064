#include "store/answers.h"

#include "base/memory.h"

enum { FIRST_SLOTS = 1024 };

/* FNV-1a (Fowler, Noll, Vo) over the tokens. */
static uint64_t hash_tokens(const int32_t *tokens, size_t n) {
    uint64_t hash = UINT64_C(14695981039346656037) ^ n;
    for (size_t i = 0; i < n; i++) {
        hash ^= (uint32_t)tokens[i];
        hash *= UINT64_C(1099511628211);
    }
    return hash ^ hash >> 29;
}

lp_status lp_answers_init(lp_answers *answers, lp_decode_answer *decode, void *state, lp_error *err) {
    *answers = (lp_answers){.decode = decode, .state = state};
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&answers->offset, &answers->offset_capacity, 1, sizeof *answers->offset, "answers", err));
    LP_TRY(lp_mem_new(&answers->slots, FIRST_SLOTS, sizeof *answers->slots, "answers", err));
    answers->n_slots = FIRST_SLOTS;
out:
    if (status != LP_OK) lp_answers_release(answers);
    return status;
}

void lp_answers_release(lp_answers *answers) {
    lp_mem_free(answers->tokens);
    lp_mem_free(answers->offset);
    lp_text_release(&answers->text);
    lp_mem_free(answers->text_offset);
    lp_mem_free(answers->slots);
    *answers = (lp_answers){0};
}

/* The slot that holds these tokens, or the free one where they belong. */
static size_t find_slot(const lp_answers *answers, const int32_t *tokens, size_t n) {
    size_t slot = hash_tokens(tokens, n) & (answers->n_slots - 1);
    for (;; slot = (slot + 1) & (answers->n_slots - 1)) {
        int32_t held = answers->slots[slot];
        if (held == 0) return slot;
        const int64_t *offset = answers->offset + held - 1;
        if ((size_t)(offset[1] - offset[0]) == n &&
            (n == 0 || memcmp(answers->tokens + offset[0], tokens, n * sizeof *tokens) == 0))
            return slot;
    }
}

static lp_status grow_slots(lp_answers *answers, lp_error *err) {
    int32_t *fresh = NULL;
    LP_CHECK(lp_mem_new(&fresh, 2 * answers->n_slots, sizeof *fresh, "answers", err));
    lp_mem_free(answers->slots);
    answers->slots = fresh;
    answers->n_slots *= 2;
    for (int32_t i = 0; i < answers->n; i++) {
        const int64_t *offset = answers->offset + i;
        answers->slots[find_slot(answers, answers->tokens + offset[0], (size_t)(offset[1] - offset[0]))] = i + 1;
    }
    return LP_OK;
}

lp_status lp_answers_add(lp_answers *answers, const int32_t *tokens, size_t n, int32_t *index, lp_error *err) {
    lp_text text = {0};
    lp_status status = LP_OK;
    if ((size_t)answers->n * 2 >= answers->n_slots) LP_TRY(grow_slots(answers, err));
    size_t slot = find_slot(answers, tokens, n);
    if (answers->slots[slot]) {
        *index = answers->slots[slot] - 1;
        return LP_OK;
    }
    if (answers->n == INT32_MAX - 1) LP_FAIL(LP_ERR_VALUE, "too many distinct answers: at most %d", INT32_MAX - 1);
    size_t next = (size_t)answers->n;
    LP_TRY(
        lp_mem_grow(&answers->tokens, &answers->token_capacity, answers->n_tokens + n, sizeof *tokens, "answers", err));
    LP_TRY(lp_mem_grow(&answers->offset, &answers->offset_capacity, next + 2, sizeof *answers->offset, "answers", err));
    LP_TRY(lp_mem_grow(&answers->text_offset, &answers->text_capacity, next + 1, sizeof *answers->text_offset,
                       "answers", err));
    answers->text_offset[next] = answers->text.length;
    LP_TRY(answers->decode(answers->state, tokens, n, &text, err));
    LP_TRY(lp_text_add_without_nul(&answers->text, lp_text_get(&text), text.length, err));
    LP_TRY(lp_text_add(&answers->text, "", 1, err));
    if (n) memcpy(answers->tokens + answers->n_tokens, tokens, n * sizeof *tokens);
    answers->n_tokens += n;
    answers->offset[next + 1] = (int64_t)answers->n_tokens;
    answers->slots[slot] = answers->n + 1;
    *index = answers->n++;
out:
    lp_text_release(&text);
    return status;
}

const char *lp_answers_text(const lp_answers *answers, int32_t index) {
    LP_ASSERT(index >= 0 && index < answers->n);
    return answers->text.data + answers->text_offset[index];
}
