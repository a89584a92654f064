/* The files that a job names, compared with each other: an output must not lie on an input or on another output,
 * and must be a file. */
#ifndef LP_STAGE_JOB_FILES_H
#define LP_STAGE_JOB_FILES_H

#include "job/job.h"

/* Local; before anything is opened. LP_ERR_VALUE names the output's place in the job and what lies there. Files are the
 * same where device and inode are, or, of files not made yet, where their paths are, links resolved. */
lp_status lp_job_check_files(const lp_job *job, lp_error *err);

#endif
