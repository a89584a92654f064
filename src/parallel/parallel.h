/* The processes of a job: start and end of MPI, who is where, and the few collectives that the program needs.
 *
 * A program started without mpirun is a job of one rank; everything works the same. "Collective" functions
 * are called by all ranks in the same order; the others are local. MPI's own types stay out of this header
 * (communicator.h has them), so that only src/parallel and src/store know mpi.h.
 *
 * MPI is asked for MPI_THREAD_MULTIPLE because the dealer answers other hosts from a thread of its own
 * (deal.h), and another one watches for hung ranks (watch.h); where the library grants less, everything
 * works with these left out. Apart from them, only the thread that called lp_parallel_start may call
 * functions of this folder. */
#ifndef LP_PARALLEL_PARALLEL_H
#define LP_PARALLEL_PARALLEL_H

#include "base/error.h"

typedef struct lp_parallel lp_parallel;

/* Collective; once in a program. argc and argv may be NULL. */
lp_status lp_parallel_start(int *argc, char ***argv, lp_parallel **out, lp_error *err);
/* A job of this process alone, without MPI: for commands that compute nothing, on a login node where MPI does not start
 * or must not. lp_parallel_finish ends it too. Data are neither dealt nor written with it. */
lp_status lp_parallel_alone(lp_parallel **out, lp_error *err);
/* What the launcher says in the environment, before MPI starts (MPI sets such variables itself): this process's number,
 * 0 where there is none, and how many processes it started, 1 where it does not say. */
int lp_parallel_launched_rank(void);
int lp_parallel_launched_size(void);
/* Collective; ends MPI. NULL is accepted. */
void lp_parallel_finish(lp_parallel *parallel);
/* Ends all ranks at once with this exit code: the last resort, when the others cannot be told. Prints `why` as the
 * job's error. From any thread; the process ends even where MPI or a stream is stuck. */
void lp_parallel_abort(const lp_parallel *parallel, int code, const char *why) __attribute__((noreturn));

int lp_parallel_rank(const lp_parallel *parallel);
int lp_parallel_size(const lp_parallel *parallel);
/* Rank among the ranks that share this one's memory, and their number. Launchers' variables are not asked:
 * they differ and are wrong under some (mpirun inside Slurm). */
int lp_parallel_node_rank(const lp_parallel *parallel);
int lp_parallel_node_size(const lp_parallel *parallel);
int lp_parallel_n_nodes(const lp_parallel *parallel);
/* CPUs for this rank's threads, at least 1: those of its affinity mask, each divided by the ranks of the node that may
 * run there too, and no more than its part of a quota that the node's ranks share. */
int lp_parallel_cpus(const lp_parallel *parallel);
/* Name of the host, as MPI has it. */
const char *lp_parallel_host(const lp_parallel *parallel);
/* "Open MPI v4.1.4, ..." in one line; for provenance. */
const char *lp_parallel_library(void);

/* Collective. Waits asleep, so that a rank that is done does not take a core from one that still computes. */
lp_status lp_parallel_barrier(const lp_parallel *parallel, lp_error *err);
/* Collective: data[size] of rank 0 to all. */
lp_status lp_parallel_broadcast(const lp_parallel *parallel, void *data, size_t size, lp_error *err);
/* Collective: data[n] on rank 0 becomes the sums over the ranks; elsewhere it is left as it was. */
lp_status lp_parallel_sum_i64(const lp_parallel *parallel, int64_t *data, size_t n, lp_error *err);
/* Collective: data[n] becomes the largest over the ranks, on all. */
lp_status lp_parallel_max_i64(const lp_parallel *parallel, int64_t *data, size_t n, lp_error *err);

/* Collective: all [node_size, bytes] = what each rank of the node passed as mine [bytes], by node rank. */
lp_status lp_parallel_node_gather(const lp_parallel *parallel, const void *mine, size_t bytes, void *all,
                                  lp_error *err);

/* Collective: the ranks agree on how things went. Every rank passes its own status, with its text in *err
 * when that is a failure. Returns LP_OK when all did well; otherwise, on every rank, the same failure with
 * its text: that of the lowest rank that failed, a real failure before LP_ERR_STOPPED. Where only some ranks
 * failed, and the failure can be one of their machine (IO, MEMORY, DEVICE, MPI, HDF5), the text ends with the rank. Any
 * other failure is of the input: which rank met it first says nothing, and depends on timing. Idiom:
 * LP_TRY(lp_parallel_agree(parallel, something(...), err)). */
lp_status lp_parallel_agree(const lp_parallel *parallel, lp_status mine, lp_error *err);

/* Memory that the ranks of a node share: the model's weights are held once a node. */
typedef struct lp_shared lp_shared;
/* Collective. One block a node of size bytes, aligned to 64; *out is the handle. What it holds is not defined: zeroing
 * it here would touch every page of the weights twice. */
lp_status lp_shared_new(const lp_parallel *parallel, size_t size, lp_shared **out, lp_error *err);
/* The block; valid until lp_shared_free. */
void *lp_shared_data(lp_shared *shared);
/* Collective: what any rank of the node wrote before is seen by all of them after. */
lp_status lp_shared_fence(lp_shared *shared, lp_error *err);
/* Collective. NULL is accepted (then on all ranks). */
void lp_shared_free(lp_shared *shared);

#endif
