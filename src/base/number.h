/* Numbers as people write them: on command lines, in the little languages of the job file, in environment variables.
 * The whole text must be the number; no blanks, no sign '+', no hexadecimal digits, no words such as "nan". */
#ifndef LP_BASE_NUMBER_H
#define LP_BASE_NUMBER_H

#include "base/error.h"

/* "-12": *out, where the number lies in [min, max]; otherwise false and *out is left alone. */
bool lp_read_integer(const char *text, int64_t min, int64_t max, int64_t *out);
/* The digits at *text, without a sign: moves *text beyond them. False where there is none, and above max. */
bool lp_take_integer(const char **text, int64_t max, int64_t *out);
/* "-0.5", "1e-3"; finite. */
bool lp_read_number(const char *text, double *out);

#endif
