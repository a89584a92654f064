/* What this process may use of its host: cores by its affinity mask, and cores and memory by the limits of Slurm and
 * of its control groups (version 1 and 2, and all groups above its own). A limit that cannot be read does not count. */
#ifndef LP_BASE_HOST_H
#define LP_BASE_HOST_H

#include "base/error.h"

#include <stdint.h>

/* Where to look. {0} is this host. */
typedef struct {
    const char *root; /* in front of /proc/self/cgroup, /proc/self/mountinfo and what they name; NULL: nothing */
    const char *mem_per_node; /* SLURM_MEM_PER_NODE: MiB, 0: all; NULL: not set */
    const char *mem_per_cpu;  /* SLURM_MEM_PER_CPU: MiB */
    const char *cpus_on_node; /* SLURM_CPUS_ON_NODE */
} lp_host_sources;

/* This host, with Slurm's environment. */
lp_host_sources lp_host_here(void);

/* Bytes that all processes of the job may use on this host together; INT64_MAX: no limit known. */
int64_t lp_host_memory_limit(const lp_host_sources *sources);
/* CPUs that they may use on average (a quota of time); 0: no limit known. */
double lp_host_cpu_quota(const lp_host_sources *sources);
/* Fails where the limit of this process's address space (ulimit -v) leaves no room for that many bytes more; `what`
 * needs them. Libraries that get no memory hang or crash, so it is asked before they start. */
lp_status lp_host_check_address_space(size_t bytes, const char *what, lp_error *err);
/* Bytes of memory that the host has; INT64_MAX: unknown. */
int64_t lp_host_memory(void);

/* A set of CPUs: bit c % 8 of byte c / 8. */
enum { LP_CPU_MASK_BYTES = 1024 };
/* The CPUs that the calling thread may run on; all online ones where the system does not say. */
void lp_host_cpu_mask(uint8_t mask[LP_CPU_MASK_BYTES]);
/* The share of process `mine` in the CPUs of its mask, each divided by the processes that may use it, rounded down; at
 * least 1. masks [n, LP_CPU_MASK_BYTES]. */
int32_t lp_host_cpu_share(const uint8_t *masks, int32_t n, int32_t mine);

#endif
