/* The time of day, for people and for files that say when they were made. What is measured uses the monotonic clock. */
#ifndef LP_BASE_CLOCK_H
#define LP_BASE_CLOCK_H

enum { LP_UTC_TEXT = 32 };
/* Now, as "2026-01-31T12:00:00Z"; "unknown" where the system does not say. */
void lp_utc_now(char out[LP_UTC_TEXT]);

/* Seconds of the monotonic clock. */
double lp_seconds_now(void);

#endif
