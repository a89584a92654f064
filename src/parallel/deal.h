/* Dealing units of work to the ranks of a running job: a rank that is free takes the next unit of the dealer's order.
 *
 * The counter lies in memory that the ranks of rank 0's host share; they take from it with one atomic
 * operation and disturb nobody. Ranks on other hosts ask by a message, which a thread of rank 0 answers, also
 * while rank 0 computes. (MPI's own one-sided operations between hosts were measured first: under Open
 * MPI 4.1 over TCP a fetch from a computing rank returned only when that rank next called MPI.) Where MPI
 * grants no MPI_THREAD_MULTIPLE, rank 0 answers between its own units.
 *
 * Two flags travel with the counter: a rank that fails or is asked to stop ends all ranks at their next unit.
 */
#ifndef LP_PARALLEL_DEAL_H
#define LP_PARALLEL_DEAL_H

#include "parallel/parallel.h"

typedef struct lp_deal lp_deal;

/* How ranks reach the counter. LP_DEAL_AUTO is for everybody; the others let one host test what several do.
 */
typedef enum { LP_DEAL_AUTO, LP_DEAL_MESSAGES, LP_DEAL_MESSAGES_NO_THREAD } lp_deal_way;

typedef struct {
    const int64_t *costs; /* [n_units] e.g. tokens; NULL: all equal; the same on all ranks */
    const uint8_t *done;  /* [n_units] non-zero: not to be dealt; NULL: none; the same on all ranks */
    int64_t n_units;
    lp_deal_way way;
} lp_deal_options;

/* Collective; fails on all ranks or on none. Borrows nothing. */
lp_status lp_deal_new(const lp_parallel *parallel, const lp_deal_options *options, lp_deal **out, lp_error *err);

/* Local. Gives up to `wanted` (>= 1) unit ids; *units [*n] is valid until lp_deal_end. *n is 0 when this rank
 * is to end: nothing is left, a rank failed, or the job was asked to stop (lp_stop_requested of any rank). */
lp_status lp_deal_next(lp_deal *deal, int64_t wanted, const int64_t **units, int64_t *n, lp_error *err);
/* Local. Counts n units as done, for the progress and for the message of a job that stops early. */
void lp_deal_done(lp_deal *deal, int64_t n);

/* Units to do in all, as dealt by this object. */
int64_t lp_deal_total(const lp_deal *deal);
/* On rank 0: units done so far by all ranks (those of other hosts as of their last request). Any thread. */
int64_t lp_deal_count(const lp_deal *deal);

/* Collective; the status of all ranks, when all are done. `mine` is how this rank's work went, with its text in *err.
 * A failure ends the others at their next unit and is returned on every rank as by lp_parallel_agree. When units are
 * left because somebody asked to stop: LP_ERR_STOPPED, saying who asked and how many are left. Counts can still be
 * asked for afterwards. */
lp_status lp_deal_join(lp_deal *deal, lp_status mine, lp_error *err);
/* Collective, after lp_deal_join; NULL is accepted, on all ranks. */
void lp_deal_free(lp_deal *deal);
/* Both at once; NULL is accepted, on all ranks, and gives `mine`. */
lp_status lp_deal_end(lp_deal *deal, lp_status mine, lp_error *err);

#endif
