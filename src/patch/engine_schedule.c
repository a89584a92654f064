/* Which parts of which pairs run.
 *
 * The oldest pair comes first: parts are begun in the order in which pairs were taken in, each of as many runs as the
 * free pages have room for when answers are as long as they were so far. That is a guess. Where it was wrong, a request
 * whose rows find no pages waits for others to end; where none goes on, the youngest branches are set back until the
 * oldest request has its pages. A request that is alone sheds its own branches, down to one run, which always fits. */
#include "patch/engine_state.h"

#include "base/memory.h"

enum { LEAST_SHARE = 8 };

static int32_t rows_wanted(const lp_engine *e) {
    return e->engine->rows_wanted > 0 ? e->engine->rows_wanted : e->be->batch_rows;
}

/* Tokens that an answer is expected to have: a quarter more than those before. */
static int32_t expected_tokens(const lp_engine *e) {
    const lp_engine_schedule *s = &e->schedule;
    if (e->engine->expected_tokens > 0) return e->engine->expected_tokens;
    if (s->n_answers == 0) return LP_FIRST_GUESS;
    return (int32_t)((5 * s->n_answer_tokens + 4 * s->n_answers - 1) / (4 * s->n_answers)) + 1;
}

/* ---- Requests in flight ------------------------------------------------------------------------------------------ */

/* Requests by age, from 0 on; NULL after the last. */
static lp_request *request_at(const lp_engine *e, int32_t where) {
    const lp_engine_schedule *s = &e->schedule;
    for (int32_t i = 0; i < s->n_inflight; i++) {
        int32_t n = (int32_t)s->inflight[i]->unit->n_groups;
        if (where < n) return &s->inflight[i]->requests[where];
        where -= n;
    }
    return NULL;
}

static int32_t n_requests(const lp_engine *e) {
    int32_t n = 0;
    for (int32_t i = 0; i < e->schedule.n_inflight; i++) n += (int32_t)e->schedule.inflight[i]->unit->n_groups;
    return n;
}

bool lp_engine_is_active(const lp_engine *e) {
    const lp_engine_schedule *s = &e->schedule;
    for (int32_t i = 0; i < s->n_inflight; i++)
        for (size_t g = 0; g < s->inflight[i]->unit->n_groups; g++)
            if (s->inflight[i]->requests[g].is_active) return true;
    return false;
}

static int64_t rows_inflight(const lp_engine *e) {
    const lp_engine_schedule *s = &e->schedule;
    int64_t n = 0;
    for (int32_t i = 0; i < s->n_inflight; i++)
        for (size_t g = 0; g < s->inflight[i]->unit->n_groups; g++)
            if (s->inflight[i]->requests[g].is_active) n += s->inflight[i]->requests[g].max_branches;
    return n;
}

static void drop(lp_engine *e, lp_request *request) {
    if (request->is_active) e->counters.n_preemptions++;
    lp_request_drop(request, &e->schedule.n_answers, &e->schedule.n_answer_tokens);
}

/* ---- Parts ------------------------------------------------------------------------------------------------------- */

static bool fits(const lp_request_need *need, const lp_request_need *limits) {
    return need->pages <= limits->pages && need->rows <= limits->rows && need->saved <= limits->saved;
}

/* Begins the request's next part where there is room for one that is worth it. alone: nothing else runs. */
static lp_status begin_part(lp_engine *e, lp_request *request, int64_t *to_come, bool alone, bool *begun,
                            lp_error *err) {
    const lp_page_pool *pages = &e->kv.pages;
    lp_request_need need,
        limits = {.pages = pages->n_free - (int32_t)(*to_come < pages->n_free ? *to_come : pages->n_free),
                  .rows = e->max_rows,
                  .saved = e->kv.saved_rows.n_free};
    int32_t expected = expected_tokens(e);
    lp_status status = LP_OK;
    *begun = false;
    if (limits.pages == 0 && !alone) return LP_OK;
    LP_TRY(lp_request_plan_part(request, &limits, expected, &need, err));
    bool is_rest = request->part_end == request->order.n;
    if (!alone && (!fits(&need, &limits) || (!is_rest && need.pages < pages->n / LEAST_SHARE))) return LP_OK;
    LP_TRY(lp_request_begin_part(request, begun, err));
    if (!*begun) return LP_OK;
    *to_come += lp_request_pages_to_come(request, expected);
    e->counters.n_parts++;
out:
    return status;
}

static lp_status begin_parts(lp_engine *e, lp_error *err) {
    int64_t to_come = 0;
    bool active = lp_engine_is_active(e);
    lp_status status = LP_OK;
    lp_request *request = NULL;
    for (int32_t i = 0; (request = request_at(e, i)); i++)
        to_come += lp_request_pages_to_come(request, expected_tokens(e));
    for (int32_t i = 0; (request = request_at(e, i)) && status == LP_OK; i++) {
        bool begun = false;
        if (request->is_active || request->in_batch || lp_request_is_done(request)) continue;
        LP_TRY(begin_part(e, request, &to_come, !active, &begun, err));
        if (!begun && !active) {
            /* What others hold of their prompts is in the way. */
            lp_request *other = NULL;
            for (int32_t k = 0; (other = request_at(e, k)); k++)
                if (other != request) drop(e, other);
            LP_TRY(begin_part(e, request, &to_come, true, &begun, err));
            LP_ASSERT(begun);
        }
        if (!begun) break;
        active = true;
    }
out:
    return status;
}

/* ---- Units ------------------------------------------------------------------------------------------------------- */

void lp_engine_free_inflight(lp_inflight_pair *pair) {
    if (!pair) return;
    for (size_t i = 0; i < pair->request_capacity; i++) lp_request_release(&pair->requests[i]);
    lp_mem_free(pair->requests);
    lp_mem_free(pair);
}

static lp_status open_unit(lp_engine *e, lp_work_unit *unit, lp_inflight_pair **out, lp_error *err) {
    lp_engine_schedule *s = &e->schedule;
    lp_inflight_pair *pair = s->n_idle > 0 ? s->idle[--s->n_idle] : NULL;
    lp_status status = LP_OK;
    if (!pair) LP_TRY(lp_mem_new(&pair, 1, sizeof *pair, "unit", err));
    pair->unit = unit;
    LP_TRY(
        lp_mem_grow(&pair->requests, &pair->request_capacity, unit->n_groups, sizeof *pair->requests, "requests", err));
    for (size_t g = 0; g < unit->n_groups; g++) {
        LP_TRY(lp_request_open(&pair->requests[g], e->options, &unit->groups[g], &e->kv.pages, &e->kv.saved_rows, err));
        if (e->source->run_done) lp_request_set_sink(&pair->requests[g], &e->sink, unit, g);
    }
    *out = pair;
    return LP_OK;
out:
    lp_engine_free_inflight(pair);
    return status;
}

/* Puts the waiting unit into flight; *entered is false when there is no room for it now. */
static lp_status enter(lp_engine *e, bool *entered, lp_error *err) {
    lp_engine_schedule *s = &e->schedule;
    lp_inflight_pair *pair = s->waiting;
    lp_request_need least = lp_unit_least(pair->requests, pair->unit->n_groups);
    lp_unit_need whole;
    bool fits_pools = least.pages <= e->kv.pages.n && least.rows <= e->max_rows && least.saved <= e->kv.saved_rows.n;
    lp_status status = LP_OK;
    *entered = false;
    if (!fits_pools) {
        if (s->n_inflight > 0) return LP_OK;
        LP_TRY(lp_unit_need_of(pair->requests, pair->unit->n_groups, &whole, err));
        LP_TRY(lp_engine_size_for(e, &whole, err));
    }
    if (s->n_inflight == LP_MAX_INFLIGHT || least.saved > e->kv.saved_rows.n_free) return LP_OK;
    for (size_t g = 0; g < pair->unit->n_groups; g++) {
        bool reserved = lp_request_reserve_saved(&pair->requests[g]);
        LP_ASSERT(reserved);
    }
    s->inflight[s->n_inflight++] = pair;
    s->waiting = NULL;
    *entered = true;
    e->counters.n_requests += pair->unit->n_groups;
    if (s->n_inflight > e->counters.most_units) e->counters.most_units = s->n_inflight;
out:
    return status;
}

/* Does a request wait for room for its next part? */
static bool is_short(const lp_engine *e) {
    const lp_request *request = NULL;
    for (int32_t i = 0; (request = request_at(e, i)); i++)
        if (!request->is_active && !lp_request_is_done(request)) return true;
    return false;
}

static lp_status grow(lp_engine *e, lp_error *err) {
    lp_request *request = NULL;
    for (int32_t i = 0; (request = request_at(e, i)); i++) drop(e, request);
    e->schedule.wants_growth = false;
    return lp_engine_grow(e, err);
}

lp_status lp_engine_admit(lp_engine *e, lp_error *err) {
    lp_engine_schedule *s = &e->schedule;
    lp_status status = LP_OK;
    if (s->wants_growth) {
        if (lp_engine_is_active(e) || e->n_under_way > 0) return LP_OK;
        LP_TRY(grow(e, err));
    }
    if (s->n_inflight > 0) LP_TRY(begin_parts(e, err));
    while (s->n_inflight == 0 ||
           (rows_inflight(e) < 2 * rows_wanted(e) && s->n_inflight < LP_MAX_INFLIGHT && !is_short(e))) {
        bool entered = false;
        if (!s->waiting) {
            lp_work_unit *unit = NULL;
            LP_TRY(e->source->next(e->source->user, &unit, err));
            if (!unit) break;
            LP_TRY(open_unit(e, unit, &s->waiting, err));
        }
        LP_TRY(enter(e, &entered, err));
        if (!entered) break;
        LP_TRY(begin_parts(e, err));
    }
out:
    return status;
}

lp_status lp_engine_finish_units(lp_engine *e, lp_error *err) {
    lp_engine_schedule *s = &e->schedule;
    int32_t n_left = 0;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < s->n_inflight; i++) {
        lp_inflight_pair *pair = s->inflight[i];
        bool done = true;
        for (size_t g = 0; g < pair->unit->n_groups; g++) {
            lp_request *request = &pair->requests[g];
            if (request->is_active && !request->in_batch && lp_request_count_rows(request, NULL) == 0)
                lp_request_end_part(request, &s->n_answers, &s->n_answer_tokens);
            done &= lp_request_is_done(request);
        }
        if (status == LP_OK && e->sink.err.status != LP_OK) {
            status = e->sink.err.status;
            *err = e->sink.err;
        }
        if (!done || status != LP_OK) {
            s->inflight[n_left++] = pair;
            continue;
        }
        for (size_t g = 0; g < pair->unit->n_groups; g++)
            e->counters.row_layers_lost += pair->requests[g].row_layers_lost;
        status = lp_engine_read_lenses(e, pair->unit, err);
        if (status == LP_OK) status = e->source->done(e->source->user, pair->unit, err);
        if (e->counters.seconds_first == 0) e->counters.seconds_first = lp_engine_seconds() - e->began;
        s->idle[s->n_idle++] = pair;
    }
    s->n_inflight = n_left;
    if (e->kv.pages.n > e->counters.n_pages) e->counters.n_pages = e->kv.pages.n;
    if (e->kv.pages.most_used > e->counters.most_pages) e->counters.most_pages = e->kv.pages.most_used;
    return status;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static bool add_rows(lp_engine *e, lp_step_batch *batch, lp_request *request) {
    int32_t pages = 0, n = lp_request_count_rows(request, &pages);
    if (n == 0 || batch->n_rows + n > e->max_rows || pages > e->kv.pages.n_free) return false;
    lp_request_make_rows(request);
    LP_ASSERT(request->n_rows > 0 && request->n_rows <= n);
    int32_t first = batch->n_rows;
    for (int32_t r = 0; r < request->n_rows; r++)
        batch->rows[batch->n_rows++] = (lp_batch_row){.request = request, .request_row = r, .first = first};
    return true;
}

/* Sets others back until the oldest request that has rows has pages for them, and the last of its own where that is not
 * enough. No batch is under way. */
static void preempt_for_oldest(lp_engine *e, lp_step_batch *batch) {
    lp_request *oldest = NULL, *victim = NULL;
    int32_t own = 0, pages = 0;
    for (; (oldest = request_at(e, own)); own++)
        if (lp_request_count_rows(oldest, NULL) > 0) break;
    if (!oldest) return;
    e->schedule.wants_growth = lp_engine_can_grow(e);
    for (int32_t k = n_requests(e); k >= 0;) {
        int32_t place = k > 0 ? k - 1 : own; /* its own branches last */
        lp_request_count_rows(oldest, &pages);
        if (pages <= e->kv.pages.n_free) break;
        victim = request_at(e, place);
        if ((k == 0 || place != own) && lp_request_shed(victim)) {
            e->counters.n_preemptions++;
            continue;
        }
        if (place != own) drop(e, victim);
        k--;
    }
    if (add_rows(e, batch, oldest)) return;
    drop(e, oldest);
    oldest->is_single = true;
}

void lp_engine_gather_rows(lp_engine *e, lp_step_batch *batch) {
    lp_engine_schedule *s = &e->schedule;
    batch->n_rows = 0;
    for (int32_t i = 0; i < s->n_inflight; i++) {
        lp_inflight_pair *pair = s->inflight[(s->first_inflight + i) % s->n_inflight];
        for (size_t g = 0; g < pair->unit->n_groups; g++)
            if (!pair->requests[g].in_batch) add_rows(e, batch, &pair->requests[g]);
    }
    s->first_inflight = s->n_inflight > 0 ? (s->first_inflight + 1) % s->n_inflight : 0;
    if (batch->n_rows == 0 && e->n_under_way == 0) preempt_for_oldest(e, batch);
}
