/* How fast this machine is, for estimates of time. */
#ifndef LP_CLI_RATE_H
#define LP_CLI_RATE_H

#include "stage/session.h"

/* Local. *flops_per_s = the rate of the model's own MLP product in batches of rows as a sweep mostly has them, on what
 * this rank would use, measured for `wanted_s`. */
lp_status lp_measure_rate(const lp_session *session, double wanted_s, double *flops_per_s, lp_error *err);

#endif
