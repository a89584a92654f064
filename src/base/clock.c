#include "base/clock.h"

#include <string.h>
#include <time.h>

void lp_utc_now(char out[LP_UTC_TEXT]) {
    time_t now = time(NULL);
    struct tm utc;
    if (now == (time_t)-1 || !gmtime_r(&now, &utc) || strftime(out, LP_UTC_TEXT, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
        memcpy(out, "unknown", sizeof "unknown");
}

double lp_seconds_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
