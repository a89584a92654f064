#include "parallel/communicator.h"

#include "base/host.h"
#include "base/memory.h"
#include "base/number.h"

#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

lp_status lp_mpi_check(int code, const char *what, lp_error *err) {
    if (code == MPI_SUCCESS) return LP_OK;
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    if (MPI_Error_string(code, text, &length) != MPI_SUCCESS) snprintf(text, sizeof text, "error %d", code);
    size_t name = strcspn(what, "(");
    return lp_fail(err, LP_ERR_MPI, "%.*s: %s", (int)name, what, text);
}

static lp_status share_cpus(lp_parallel *parallel, lp_error *err) {
    lp_status status = LP_OK;
    uint8_t *masks = NULL, mine[LP_CPU_MASK_BYTES];
    lp_host_sources host = lp_host_here();
    double quota = lp_host_cpu_quota(&host) / parallel->node_size;
    LP_TRY(lp_mem_new(&masks, (size_t)parallel->node_size, LP_CPU_MASK_BYTES, "CPU masks", err));
    lp_host_cpu_mask(mine);
    LP_TRY_MPI(
        MPI_Allgather(mine, LP_CPU_MASK_BYTES, MPI_UINT8_T, masks, LP_CPU_MASK_BYTES, MPI_UINT8_T, parallel->node));
    parallel->cpus = lp_host_cpu_share(masks, parallel->node_size, parallel->node_rank);
    if (quota > 0 && quota < parallel->cpus) parallel->cpus = quota < 1 ? 1 : (int)quota;
out:
    lp_mem_free(masks);
    return status;
}

static lp_status set_up(lp_parallel *parallel, lp_error *err) {
    LP_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &parallel->comm));
    LP_MPI(MPI_Comm_set_errhandler(parallel->comm, MPI_ERRORS_RETURN));
    LP_MPI(MPI_Comm_rank(parallel->comm, &parallel->rank));
    LP_MPI(MPI_Comm_size(parallel->comm, &parallel->size));
    LP_MPI(MPI_Comm_split_type(parallel->comm, MPI_COMM_TYPE_SHARED, parallel->rank, MPI_INFO_NULL, &parallel->node));
    LP_MPI(MPI_Comm_set_errhandler(parallel->node, MPI_ERRORS_RETURN));
    LP_MPI(MPI_Comm_rank(parallel->node, &parallel->node_rank));
    LP_MPI(MPI_Comm_size(parallel->node, &parallel->node_size));
    int leader = parallel->node_rank == 0;
    LP_MPI(MPI_Allreduce(&leader, &parallel->n_nodes, 1, MPI_INT, MPI_SUM, parallel->comm));
    parallel->node_leader = parallel->rank;
    LP_MPI(MPI_Bcast(&parallel->node_leader, 1, MPI_INT, 0, parallel->node));
    int length = 0;
    LP_MPI(MPI_Get_processor_name(parallel->host, &length));
    return share_cpus(parallel, err);
}

/* A process that no launcher started has nobody to reach. Open MPI need not look for networks then, which takes longer
 * than a small job. What the user has set stays; other MPIs do not read this. (ess_singleton_isolated would save more,
 * but such processes remove each other's session folders.) */
static void start_alone(void) {
    static const char *const launched[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMIX_NAMESPACE", "PMI_RANK", NULL};
    if (lp_parallel_launched_size() > 1) return;
    for (const char *const *name = launched; *name; name++)
        if (getenv(*name)) return;
    (void)setenv("OMPI_MCA_pml", "ob1", 0);
}

lp_status lp_parallel_start(int *argc, char ***argv, lp_parallel **out, lp_error *err) {
    lp_parallel *parallel = NULL;
    lp_status status = lp_mem_new(&parallel, 1, sizeof *parallel, "MPI state", err);
    if (status != LP_OK) return status;
    parallel->comm = MPI_COMM_NULL;
    parallel->node = MPI_COMM_NULL;
    int provided = MPI_THREAD_SINGLE;
    start_alone();
    LP_TRY_MPI(MPI_Init_thread(argc, argv, MPI_THREAD_MULTIPLE, &provided));
    parallel->threads = provided >= MPI_THREAD_MULTIPLE;
    LP_TRY(set_up(parallel, err));
    *out = parallel;
    parallel = NULL;
out:
    lp_mem_free(parallel);
    return status;
}

lp_status lp_parallel_alone(lp_parallel **out, lp_error *err) {
    lp_parallel *parallel = NULL;
    lp_host_sources host = lp_host_here();
    double quota = lp_host_cpu_quota(&host);
    uint8_t mask[LP_CPU_MASK_BYTES];
    LP_CHECK(lp_mem_new(&parallel, 1, sizeof *parallel, "MPI state", err));
    *parallel = (lp_parallel){
        .comm = MPI_COMM_NULL, .node = MPI_COMM_NULL, .size = 1, .node_size = 1, .n_nodes = 1, .host = "unknown"};
    (void)gethostname(parallel->host, sizeof parallel->host - 1);
    lp_host_cpu_mask(mask);
    parallel->cpus = lp_host_cpu_share(mask, 1, 0);
    if (quota > 0 && quota < parallel->cpus) parallel->cpus = quota < 1 ? 1 : (int)quota;
    *out = parallel;
    return LP_OK;
}

/* The first of these variables that holds a number; -1: none does. */
static int64_t number_from(const char *const *names) {
    int64_t number = -1;
    for (; *names; names++) {
        const char *text = getenv(*names);
        if (text && lp_read_integer(text, 0, INT32_MAX, &number)) break;
    }
    return number;
}

int lp_parallel_launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID", NULL};
    int64_t rank = number_from(names);
    return rank > 0 ? (int)rank : 0;
}

int lp_parallel_launched_size(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", NULL};
    int64_t size = number_from(names);
    return size > 1 ? (int)size : 1;
}

void lp_parallel_finish(lp_parallel *parallel) {
    if (!parallel) return;
    if (parallel->comm == MPI_COMM_NULL) {
        lp_mem_free(parallel);
        return;
    }
    MPI_Comm_free(&parallel->node);
    MPI_Comm_free(&parallel->comm);
    MPI_Finalize();
    lp_mem_free(parallel);
}

void lp_parallel_abort(const lp_parallel *parallel, int code, const char *why) {
    enum { ABORT_S = 20 };
    char line[LP_ERROR_TEXT + 32];
    /* SIGALRM ends this process, and with it the job, if anything below waits for what hangs. */
    signal(SIGALRM, SIG_DFL);
    alarm(ABORT_S);
    int length = snprintf(line, sizeof line, "latentpatch: error: %s\n", why);
    /* Not through stdio, whose lock another thread may hold for ever. */
    ssize_t written = write(STDERR_FILENO, line, (size_t)length);
    (void)written;
    MPI_Abort(parallel ? parallel->comm : MPI_COMM_WORLD, code);
    _Exit(code);
}

int lp_parallel_rank(const lp_parallel *parallel) {
    return parallel->rank;
}

int lp_parallel_size(const lp_parallel *parallel) {
    return parallel->size;
}

int lp_parallel_node_rank(const lp_parallel *parallel) {
    return parallel->node_rank;
}

int lp_parallel_node_size(const lp_parallel *parallel) {
    return parallel->node_size;
}

int lp_parallel_n_nodes(const lp_parallel *parallel) {
    return parallel->n_nodes;
}

int lp_parallel_cpus(const lp_parallel *parallel) {
    return parallel->cpus;
}

const char *lp_parallel_host(const lp_parallel *parallel) {
    return parallel->host;
}

const char *lp_parallel_library(void) {
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length = 0;
    if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "unknown";
    text[strcspn(text, "\n")] = '\0';
    return text;
}

lp_status lp_parallel_barrier(const lp_parallel *parallel, lp_error *err) {
    if (parallel->size == 1) return LP_OK;
    MPI_Request request = MPI_REQUEST_NULL;
    LP_MPI(MPI_Ibarrier(parallel->comm, &request));
    /* A short wait spins, so that ranks that arrive together leave together; a long one sleeps. */
    for (int turn = 0;; turn++) {
        int done = 0;
        LP_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
        if (done) break;
        if (turn > 200) nanosleep(&(struct timespec){.tv_nsec = 500 * 1000}, NULL);
    }
    return LP_OK;
}

lp_status lp_parallel_broadcast(const lp_parallel *parallel, void *data, size_t size, lp_error *err) {
    unsigned char *at = data;
    if (parallel->size == 1) return LP_OK;
    while (size > 0) {
        int part = size > (1U << 30) ? 1 << 30 : (int)size;
        LP_MPI(MPI_Bcast(at, part, MPI_BYTE, 0, parallel->comm));
        at += part;
        size -= (size_t)part;
    }
    return LP_OK;
}

static lp_status count_of(size_t n, int *out, lp_error *err) {
    if (n > INT_MAX) return lp_fail(err, LP_ERR_VALUE, "reduction of %zu numbers: at most %d", n, INT_MAX);
    *out = (int)n;
    return LP_OK;
}

lp_status lp_parallel_sum_i64(const lp_parallel *parallel, int64_t *data, size_t n, lp_error *err) {
    int count = 0;
    if (parallel->size == 1) return LP_OK;
    LP_CHECK(count_of(n, &count, err));
    if (parallel->rank == 0)
        LP_MPI(MPI_Reduce(MPI_IN_PLACE, data, count, MPI_INT64_T, MPI_SUM, 0, parallel->comm));
    else
        LP_MPI(MPI_Reduce(data, NULL, count, MPI_INT64_T, MPI_SUM, 0, parallel->comm));
    return LP_OK;
}

lp_status lp_parallel_max_i64(const lp_parallel *parallel, int64_t *data, size_t n, lp_error *err) {
    int count = 0;
    if (parallel->size == 1) return LP_OK;
    LP_CHECK(count_of(n, &count, err));
    LP_MPI(MPI_Allreduce(MPI_IN_PLACE, data, count, MPI_INT64_T, MPI_MAX, parallel->comm));
    return LP_OK;
}

lp_status lp_parallel_node_gather(const lp_parallel *parallel, const void *mine, size_t bytes, void *all,
                                  lp_error *err) {
    int count = 0;
    if (parallel->node_size == 1) {
        memcpy(all, mine, bytes);
        return LP_OK;
    }
    LP_CHECK(count_of(bytes, &count, err));
    LP_MPI(MPI_Allgather(mine, count, MPI_BYTE, all, count, MPI_BYTE, parallel->node));
    return LP_OK;
}

/* 0: did well, 1: was asked to stop, 2: failed. */
static int severity(lp_status status) {
    if (status == LP_OK) return 0;
    return status == LP_ERR_STOPPED ? 1 : 2;
}

/* A failure of the machine that a rank runs on, not of the input that all ranks have. */
static bool is_of_machine(lp_status status) {
    return status == LP_ERR_IO || status == LP_ERR_MEMORY || status == LP_ERR_DEVICE || status == LP_ERR_MPI ||
           status == LP_ERR_HDF5;
}

lp_status lp_parallel_agree(const lp_parallel *parallel, lp_status mine, lp_error *err) {
    if (parallel->size == 1) return mine;
    /* MAXLOC takes the lowest rank among equals. */
    struct {
        int value;
        int rank;
    } worst = {severity(mine), parallel->rank};
    LP_MPI(MPI_Allreduce(MPI_IN_PLACE, &worst, 1, MPI_2INT, MPI_MAXLOC, parallel->comm));
    if (worst.value == 0) return LP_OK;
    int same = severity(mine) == worst.value;
    int n_same = 0;
    LP_MPI(MPI_Allreduce(&same, &n_same, 1, MPI_INT, MPI_SUM, parallel->comm));
    struct {
        lp_status status;
        char text[LP_ERROR_TEXT];
    } report = {.status = mine};
    if (err && mine != LP_OK) memcpy(report.text, err->text, sizeof report.text);
    LP_MPI(MPI_Bcast(&report, (int)sizeof report, MPI_BYTE, worst.rank, parallel->comm));
    report.text[LP_ERROR_TEXT - 1] = '\0';
    if (n_same < parallel->size && is_of_machine(report.status))
        return lp_fail(err, report.status, "%.*s (rank %d)", LP_ERROR_TEXT - 32, report.text, worst.rank);
    return lp_fail(err, report.status, "%s", report.text);
}

struct lp_shared {
    MPI_Comm node;  /* borrowed from lp_parallel */
    MPI_Win window; /* MPI_WIN_NULL on a node with one rank */
    void *private;  /* owned; the block of a node with one rank */
    void *data;
};

/* Open MPI keeps shared windows in /dev/shm, and a container's is often small: better to say so than to die
 * of SIGBUS at the first touch. */
static lp_status check_room(size_t size, lp_error *err) {
    struct statvfs room;
    if (statvfs("/dev/shm", &room) != 0) return LP_OK;
    uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    if (free_bytes >= size) return LP_OK;
    return lp_fail(err, LP_ERR_MEMORY,
                   "/dev/shm: expected room for %zu bytes that the ranks of a node share, found %llu "
                   "(give it more, or start one rank a node)",
                   size, (unsigned long long)free_bytes);
}

static lp_status new_window(const lp_parallel *parallel, size_t size, lp_shared *shared, lp_error *err) {
    /* A little more than asked, so that the block can be aligned; the node's first rank owns all of it. */
    size_t padded = size + LP_ALIGNMENT;
    bool leader = parallel->node_rank == 0;
    lp_status room = LP_OK;
    if (leader) room = check_room(padded, err);
    int verdict = room;
    LP_MPI(MPI_Bcast(&verdict, 1, MPI_INT, 0, parallel->node));
    if (room != LP_OK) return room;
    if (verdict != LP_OK) return lp_fail(err, LP_ERR_MEMORY, "shared memory: the first rank of the node found no room");
    void *base = NULL;
    LP_MPI(MPI_Win_allocate_shared(leader ? (MPI_Aint)padded : 0, 1, MPI_INFO_NULL, parallel->node, &base,
                                   &shared->window));
    MPI_Aint found = 0;
    int unit = 0;
    LP_MPI(MPI_Win_shared_query(shared->window, 0, &found, &unit, &base));
    shared->data = (void *)(((uintptr_t)base + LP_ALIGNMENT - 1) / LP_ALIGNMENT * LP_ALIGNMENT);
    LP_MPI(MPI_Win_lock_all(MPI_MODE_NOCHECK, shared->window));
    return LP_OK;
}

lp_status lp_shared_new(const lp_parallel *parallel, size_t size, lp_shared **out, lp_error *err) {
    lp_status status = LP_OK;
    lp_shared *shared = NULL;
    LP_TRY(lp_mem_new(&shared, 1, sizeof *shared, "shared memory", err));
    shared->node = parallel->node;
    shared->window = MPI_WIN_NULL;
    if (size > (size_t)PTRDIFF_MAX - LP_ALIGNMENT)
        LP_FAIL(LP_ERR_MEMORY, "shared memory: size overflows: %zu bytes", size);
    if (parallel->node_size == 1) {
        LP_TRY(lp_mem_new(&shared->private, size, 1, "shared memory", err));
        shared->data = shared->private;
    } else {
        LP_TRY(new_window(parallel, size, shared, err));
    }
    *out = shared;
    shared = NULL;
out:
    lp_mem_free(shared);
    return status;
}

void *lp_shared_data(lp_shared *shared) {
    return shared->data;
}

lp_status lp_shared_fence(lp_shared *shared, lp_error *err) {
    if (shared->window == MPI_WIN_NULL) return LP_OK;
    atomic_thread_fence(memory_order_seq_cst);
    LP_MPI(MPI_Win_sync(shared->window));
    LP_MPI(MPI_Barrier(shared->node));
    LP_MPI(MPI_Win_sync(shared->window));
    atomic_thread_fence(memory_order_seq_cst);
    return LP_OK;
}

void lp_shared_free(lp_shared *shared) {
    if (!shared) return;
    if (shared->window != MPI_WIN_NULL) {
        MPI_Win_unlock_all(shared->window);
        MPI_Win_free(&shared->window);
    }
    lp_mem_free(shared->private);
    lp_mem_free(shared);
}
