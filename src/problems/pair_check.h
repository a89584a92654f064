/* Checking a pair file: the defects that spoilt earlier pair sets, found pair by pair.
 *
 * A pair with a defect is unfit, and `--fix` leaves it out. A note is only worth knowing. The corrupted answer is
 * recomputed from the worked solution (problem_graph.h). A pair is noted as unverified where it has no solution, or one
 * that cannot be followed. */
#ifndef LP_PROBLEMS_PAIR_CHECK_H
#define LP_PROBLEMS_PAIR_CHECK_H

#include "problems/pair_make.h"

/* Name and meaning of each, in the order of the table; the notes come last. */
/* clang-format off: a row a line */
#define LP_DEFECTS(ROW)                                                                                                \
    ROW(DEFECT_REPEATED_ID, "repeated-id", "the id occurred before")                                                   \
    ROW(DEFECT_REPEATED_PAIR, "repeated-pair", "both questions occurred before as a pair")                             \
    ROW(DEFECT_REPEATED_QUESTION, "repeated-question", "the clean question occurred before, from another source")      \
    ROW(DEFECT_EMPTY_QUESTION, "empty-question", "a question has no text")                                             \
    ROW(DEFECT_MISSING_ANSWER, "missing-answer", "an answer is missing")                                               \
    ROW(DEFECT_EQUAL_ANSWERS, "equal-answers", "both sides have the same answer")                                      \
    ROW(DEFECT_CUT_ANSWER, "cut-answer", "the clean answer was cut at its thousands comma")                            \
    ROW(DEFECT_CLEAN_ANSWER, "clean-answer", "the clean answer is not its worked solution's")                          \
    ROW(DEFECT_CORRUPTED_ANSWER, "corrupted-answer", "the corrupted answer is not what the changed number gives")      \
    ROW(DEFECT_NEGATIVE_ANSWER, "negative-answer", "the corrupted answer is negative")                                 \
    ROW(DEFECT_SPLIT_NUMBER, "split-number", "the change is inside a number: before its decimals or thousands")        \
    ROW(DEFECT_SPLIT_FRACTION, "split-fraction", "the change is inside a fraction, a ratio or a time")                 \
    ROW(DEFECT_OTHER_CHANGE, "other-change", "the questions differ in other than the stated change")                   \
    ROW(DEFECT_UNUSED_CHANGE, "unused-change", "the questions are the same")                                           \
    ROW(DEFECT_TOKEN_COUNT, "token-count", "the two questions differ in their number of tokens")                       \
    ROW(DEFECT_TOO_LONG, "too-long", "a question has more tokens than allowed")                                        \
    ROW(DEFECT_IN_TRAINING, "in-training", "the question is close to one of the training file")                        \
    ROW(NOTE_UNVERIFIED, "unverified", "the corrupted answer cannot be recomputed")                                    \
    ROW(NOTE_FRACTIONAL_ANSWER, "fractional-answer", "an answer is not whole")                                         \
    ROW(NOTE_TOKEN_COUNT, "token-count", "the two questions differ in their number of tokens")
/* clang-format on */

#define LP_DEFECT_CODE(code, name, meaning) LP_##code,
typedef enum { LP_DEFECTS(LP_DEFECT_CODE) LP_N_DEFECTS, LP_N_REAL_DEFECTS = LP_NOTE_UNVERIFIED } lp_defect;

const char *lp_defect_name(lp_defect defect); /* "repeated-id" */

typedef enum { LP_UNVERIFIED_ALLOW, LP_UNVERIFIED_REFUSE } lp_unverified_rule;

typedef struct {
    lp_named_tokenizer tokenizers[LP_MAX_TOKENIZERS];
    size_t n_tokenizers;
    lp_tokens_rule tokens;     /* EQUAL: different counts are a defect, otherwise a note */
    size_t max_tokens;         /* of a question, in any of the tokenizers; 0: no limit */
    const char *training_path; /* questions that no pair may come close to; NULL: not checked */
    lp_source_format training_format;
    lp_unverified_rule unverified; /* REFUSE: unverified pairs are not sound */
} lp_check_options;

typedef struct {
    uint32_t *found;    /* [n], bit d: the pair has defect or note d; owned */
    double *recomputed; /* [n], the corrupted answer that the changed number gives; NaN: unverified; owned */
    size_t n, n_sound;
    size_t counts[LP_N_DEFECTS];
    size_t first[LP_N_DEFECTS];                                          /* index of the first pair that has it */
    size_t n_verified;                                                   /* recomputed, and equal */
    size_t min_tokens[LP_MAX_TOKENIZERS], max_tokens[LP_MAX_TOKENIZERS]; /* over both sides of all pairs */
    lp_unverified_rule unverified;
} lp_check_report;

/* Fails when the training file cannot be read. set is from lp_pairs_load under LP_PAIRS_AUDIT. */
lp_status lp_pairs_check(const lp_pair_set *set, const lp_check_options *options, lp_check_report *out, lp_error *err);
void lp_check_release(lp_check_report *report);

bool lp_check_is_sound(const lp_check_report *report, size_t i);
/* Adds the table: one line a defect with its count and the first pair that has it. */
lp_status lp_check_print(const lp_pair_set *set, const lp_check_options *options, const lp_check_report *report,
                         lp_text *out, lp_error *err);

/* Adds one CSV line a pair: its element of the file, id, defects and notes, the stated and the recomputed answer. */
lp_status lp_check_list(const lp_pair_set *set, const lp_check_report *report, lp_text *out, lp_error *err);

/* Adds a file of our own format with the sound pairs: of our own file (text) as they are, with everything that stands
 * beside them; of the original's, converted. */
lp_status lp_check_fix(const lp_pair_set *set, const lp_check_report *report, const char *name, const char *text,
                       size_t size, lp_text *out, lp_error *err);

#endif
