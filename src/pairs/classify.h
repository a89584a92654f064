/* What a generated answer counts as: the two classifiers of the field, rule by rule.
 *
 *   seed  the number is the first that one of four rules finds: after "####"; after "answer", "total" or "result";
 *         at the end of the text; the last one anywhere. Two answers match when they differ by less than 0.01.
 *   codi  commas are deleted, the last number counts, answers match when they are equal (CODI's own evaluation).
 *
 * Both were written in Python, so its meanings hold: text is code points, white space and digits are Unicode's, letters
 * match in either case. Functions here keep no state. */
#ifndef LP_PAIRS_CLASSIFY_H
#define LP_PAIRS_CLASSIFY_H

#include "base/error.h"

/* Answers closer than this are the same one (seed). */
#define LP_SEED_TOLERANCE 0.01

typedef enum { LP_CLASSIFIER_SEED, LP_CLASSIFIER_CODI } lp_classifier;
extern const char *const lp_classifier_names[]; /* "seed", "codi", NULL */

/* LP_OTHER: a number that is neither answer, or a sentence without a number. LP_GIBBERISH: no number, and fewer than
 * 10 characters or no letter. */
typedef enum { LP_CLEAN_ANSWER, LP_CORRUPTED_ANSWER, LP_OTHER, LP_GIBBERISH } lp_outcome;
enum { LP_N_OUTCOMES = 4 };
extern const char *const lp_outcome_names[];       /* "clean_answer", "corrupted_answer", "other", "gibberish", NULL */
extern const char lp_outcome_codes[];              /* the same as the attribute of a dataset: "0 clean_answer, 1 ..." */
extern const char *const lp_outcome_short_names[]; /* for a line of a table: "clean", ... */

typedef struct {
    bool has_number;
    double number; /* 0 where there is none; may be infinite */
    lp_outcome outcome;
} lp_answer_outcome;

/* text: UTF-8, not NUL-terminated. The clean answer is tried first, so equal answers count as clean. */
lp_answer_outcome lp_classify(lp_classifier classifier, const char *text, size_t length, double clean_answer,
                              double corrupted_answer);
/* The number alone; false when there is none (*number is left alone). */
bool lp_extract_number(lp_classifier classifier, const char *text, size_t length, double *number);
/* Infinite and NaN answers match nothing under seed; under codi, infinite ones match themselves. */
bool lp_answers_match(lp_classifier classifier, double a, double b);

enum { LP_ANSWER_TEXT = 32 };
/* The shortest decimal text that reads back as the same double: 17, 97.5, -3. Without an exponent from 1e-7 up to
 * below 1e15. */
void lp_answer_text(double answer, char out[LP_ANSWER_TEXT]);

#endif
