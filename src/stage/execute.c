#include "stage/execute.h"

#include <time.h>

lp_status lp_stage_execute(const lp_session *session, const lp_work_source *source, lp_error *err) {
    lp_executor_options options = lp_session_executor(session);
    return lp_execute_reference(&options, source, err);
}

void lp_stage_time(char out[32]) {
    time_t t = time(NULL);
    struct tm utc;
    out[0] = '\0';
    if (gmtime_r(&t, &utc)) strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}
