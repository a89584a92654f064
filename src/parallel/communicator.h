/* MPI's side of lp_parallel, for src/parallel and src/store only. */
#ifndef LP_PARALLEL_COMMUNICATOR_H
#define LP_PARALLEL_COMMUNICATOR_H

#include "parallel/parallel.h"

#include <mpi.h>

struct lp_parallel {
    MPI_Comm comm; /* all ranks; errors are returned */
    MPI_Comm node; /* the ranks that share memory with this one */
    int rank;
    int size;
    int node_rank;
    int node_size;
    int n_nodes;
    int node_leader; /* rank of the node's first rank */
    int cpus;        /* share of the node's CPUs */
    bool threads;    /* MPI_THREAD_MULTIPLE was granted */
    char host[MPI_MAX_PROCESSOR_NAME];
};

/* Turns a code of MPI into an error; `what` names the call. */
lp_status lp_mpi_check(int code, const char *what, lp_error *err);
/* LP_CHECK and LP_TRY for a call of MPI. */
#define LP_MPI(call)     LP_CHECK(lp_mpi_check((call), #call, err))
#define LP_TRY_MPI(call) LP_TRY(lp_mpi_check((call), #call, err))

#endif
