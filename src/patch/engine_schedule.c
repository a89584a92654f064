/* Which parts of which pairs run.
 *
 * The oldest pair comes first: parts are begun in the order in which pairs were taken in, each of as many runs as the
 * free pages have room for when answers are as long as they were so far. That is a guess. Where it was wrong, a request
 * whose rows find no pages waits for others to end; where none goes on, the youngest branches are set back until the
 * oldest request has its pages. A request that is alone sheds its own branches, down to one run, which always fits. */
#include "patch/engine_state.h"

#include "base/memory.h"

enum { LEAST_SHARE = 8 };

static int32_t rows_wanted(const lp_engine *engine) {
    return engine->engine->rows_wanted > 0 ? engine->engine->rows_wanted : engine->be->batch_rows;
}

/* Tokens that an answer is expected to have: a quarter more than those before. */
static int32_t expected_tokens(const lp_engine *engine) {
    const lp_engine_schedule *schedule = &engine->schedule;
    if (engine->engine->expected_tokens > 0) return engine->engine->expected_tokens;
    if (schedule->n_answers == 0) return LP_FIRST_GUESS;
    return (int32_t)((5 * schedule->n_answer_tokens + 4 * schedule->n_answers - 1) / (4 * schedule->n_answers)) + 1;
}

/* ---- Requests in flight ------------------------------------------------------------------------------------------ */

/* Requests by age, from 0 on; NULL after the last. */
static lp_request *request_at(const lp_engine *engine, int32_t where) {
    const lp_engine_schedule *schedule = &engine->schedule;
    for (int32_t i = 0; i < schedule->n_inflight; i++) {
        int32_t n = (int32_t)schedule->inflight[i]->unit->n_groups;
        if (where < n) return &schedule->inflight[i]->requests[where];
        where -= n;
    }
    return NULL;
}

static int32_t n_requests(const lp_engine *engine) {
    int32_t n = 0;
    for (int32_t i = 0; i < engine->schedule.n_inflight; i++)
        n += (int32_t)engine->schedule.inflight[i]->unit->n_groups;
    return n;
}

bool lp_engine_is_active(const lp_engine *engine) {
    const lp_engine_schedule *schedule = &engine->schedule;
    for (int32_t i = 0; i < schedule->n_inflight; i++)
        for (size_t g = 0; g < schedule->inflight[i]->unit->n_groups; g++)
            if (schedule->inflight[i]->requests[g].is_active) return true;
    return false;
}

static int64_t rows_inflight(const lp_engine *engine) {
    const lp_engine_schedule *schedule = &engine->schedule;
    int64_t n = 0;
    for (int32_t i = 0; i < schedule->n_inflight; i++)
        for (size_t g = 0; g < schedule->inflight[i]->unit->n_groups; g++)
            if (schedule->inflight[i]->requests[g].is_active) n += schedule->inflight[i]->requests[g].max_branches;
    return n;
}

static void drop(lp_engine *engine, lp_request *request) {
    if (request->is_active) engine->counters.n_preemptions++;
    lp_request_drop(request, &engine->schedule.n_answers, &engine->schedule.n_answer_tokens);
}

/* ---- Parts ------------------------------------------------------------------------------------------------------- */

static bool fits(const lp_request_need *need, const lp_request_need *limits) {
    return need->pages <= limits->pages && need->rows <= limits->rows && need->saved <= limits->saved;
}

/* Begins the request's next part where there is room for one that is worth it. alone: nothing else runs. */
static lp_status begin_part(lp_engine *engine, lp_request *request, int64_t *to_come, bool alone, bool *begun,
                            lp_error *err) {
    const lp_page_pool *pages = &engine->kv.pages;
    lp_request_need need,
        limits = {.pages = pages->n_free - (int32_t)(*to_come < pages->n_free ? *to_come : pages->n_free),
                  .rows = engine->max_rows,
                  .saved = engine->kv.saved_rows.n_free};
    int32_t expected = expected_tokens(engine);
    *begun = false;
    if (limits.pages == 0 && !alone) return LP_OK;
    LP_CHECK(lp_request_plan_part(request, &limits, expected, &need, err));
    bool is_rest = request->part_end == request->order.n;
    if (!alone && (!fits(&need, &limits) || (!is_rest && need.pages < pages->n / LEAST_SHARE))) return LP_OK;
    LP_CHECK(lp_request_begin_part(request, begun, err));
    if (!*begun) return LP_OK;
    *to_come += lp_request_pages_to_come(request, expected);
    engine->counters.n_parts++;
    return LP_OK;
}

static lp_status begin_parts(lp_engine *engine, lp_error *err) {
    int64_t to_come = 0;
    bool active = lp_engine_is_active(engine);
    lp_status status = LP_OK;
    lp_request *request = NULL;
    for (int32_t i = 0; (request = request_at(engine, i)); i++)
        to_come += lp_request_pages_to_come(request, expected_tokens(engine));
    for (int32_t i = 0; (request = request_at(engine, i)) && status == LP_OK; i++) {
        bool begun = false;
        if (request->is_active || request->in_batch || lp_request_is_done(request)) continue;
        LP_TRY(begin_part(engine, request, &to_come, !active, &begun, err));
        if (!begun && !active) {
            /* What others hold of their prompts is in the way. */
            lp_request *other = NULL;
            for (int32_t k = 0; (other = request_at(engine, k)); k++)
                if (other != request) drop(engine, other);
            LP_TRY(begin_part(engine, request, &to_come, true, &begun, err));
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

static lp_status open_unit(lp_engine *engine, lp_work_unit *unit, lp_inflight_pair **out, lp_error *err) {
    lp_engine_schedule *schedule = &engine->schedule;
    lp_inflight_pair *pair = schedule->n_idle > 0 ? schedule->idle[--schedule->n_idle] : NULL;
    lp_status status = LP_OK;
    if (!pair) LP_TRY(lp_mem_new(&pair, 1, sizeof *pair, "unit", err));
    pair->unit = unit;
    LP_TRY(
        lp_mem_grow(&pair->requests, &pair->request_capacity, unit->n_groups, sizeof *pair->requests, "requests", err));
    for (size_t g = 0; g < unit->n_groups; g++) {
        LP_TRY(lp_request_open(&pair->requests[g], engine->options, &unit->groups[g], &engine->kv.pages,
                               &engine->kv.saved_rows, err));
        if (engine->source->run_done) lp_request_set_sink(&pair->requests[g], &engine->sink, unit, g);
    }
    *out = pair;
    return LP_OK;
out:
    lp_engine_free_inflight(pair);
    return status;
}

/* Puts the waiting unit into flight; *entered is false when there is no room for it now. */
static lp_status enter(lp_engine *engine, bool *entered, lp_error *err) {
    lp_engine_schedule *schedule = &engine->schedule;
    lp_inflight_pair *pair = schedule->waiting;
    lp_request_need least = lp_unit_least(pair->requests, pair->unit->n_groups);
    lp_unit_need whole;
    bool fits_pools =
        least.pages <= engine->kv.pages.n && least.rows <= engine->max_rows && least.saved <= engine->kv.saved_rows.n;
    *entered = false;
    if (!fits_pools) {
        if (schedule->n_inflight > 0) return LP_OK;
        LP_CHECK(lp_unit_need_of(pair->requests, pair->unit->n_groups, &whole, err));
        LP_CHECK(lp_engine_size_for(engine, &whole, err));
    }
    if (schedule->n_inflight == LP_MAX_INFLIGHT || least.saved > engine->kv.saved_rows.n_free) return LP_OK;
    for (size_t g = 0; g < pair->unit->n_groups; g++) {
        bool reserved = lp_request_reserve_saved(&pair->requests[g]);
        LP_ASSERT(reserved);
    }
    schedule->inflight[schedule->n_inflight++] = pair;
    schedule->waiting = NULL;
    *entered = true;
    engine->counters.n_requests += pair->unit->n_groups;
    if (schedule->n_inflight > engine->counters.most_units) engine->counters.most_units = schedule->n_inflight;
    return LP_OK;
}

/* Does a request wait for room for its next part? */
static bool is_short(const lp_engine *engine) {
    const lp_request *request = NULL;
    for (int32_t i = 0; (request = request_at(engine, i)); i++)
        if (!request->is_active && !lp_request_is_done(request)) return true;
    return false;
}

static lp_status grow(lp_engine *engine, lp_error *err) {
    lp_request *request = NULL;
    for (int32_t i = 0; (request = request_at(engine, i)); i++) drop(engine, request);
    engine->schedule.wants_growth = false;
    return lp_engine_grow(engine, err);
}

lp_status lp_engine_admit(lp_engine *engine, lp_error *err) {
    lp_engine_schedule *schedule = &engine->schedule;
    if (schedule->wants_growth) {
        if (lp_engine_is_active(engine) || engine->n_under_way > 0) return LP_OK;
        LP_CHECK(grow(engine, err));
    }
    if (schedule->n_inflight > 0) LP_CHECK(begin_parts(engine, err));
    while (schedule->n_inflight == 0 || (rows_inflight(engine) < 2 * rows_wanted(engine) &&
                                         schedule->n_inflight < LP_MAX_INFLIGHT && !is_short(engine))) {
        bool entered = false;
        if (!schedule->waiting) {
            lp_work_unit *unit = NULL;
            LP_CHECK(engine->source->next(engine->source->user, &unit, err));
            if (!unit) break;
            LP_CHECK(open_unit(engine, unit, &schedule->waiting, err));
        }
        LP_CHECK(enter(engine, &entered, err));
        if (!entered) break;
        LP_CHECK(begin_parts(engine, err));
    }
    return LP_OK;
}

lp_status lp_engine_finish_units(lp_engine *engine, lp_error *err) {
    lp_engine_schedule *schedule = &engine->schedule;
    int32_t n_left = 0;
    lp_status status = LP_OK;
    for (int32_t i = 0; i < schedule->n_inflight; i++) {
        lp_inflight_pair *pair = schedule->inflight[i];
        bool done = true;
        for (size_t g = 0; g < pair->unit->n_groups; g++) {
            lp_request *request = &pair->requests[g];
            if (request->is_active && !request->in_batch && lp_request_count_rows(request, NULL) == 0)
                lp_request_end_part(request, &schedule->n_answers, &schedule->n_answer_tokens);
            done &= lp_request_is_done(request);
        }
        if (status == LP_OK && engine->sink.err.status != LP_OK) {
            status = engine->sink.err.status;
            *err = engine->sink.err;
        }
        if (!done || status != LP_OK) {
            schedule->inflight[n_left++] = pair;
            continue;
        }
        for (size_t g = 0; g < pair->unit->n_groups; g++)
            engine->counters.row_layers_lost += pair->requests[g].row_layers_lost;
        status = lp_engine_read_lenses(engine, pair->unit, err);
        if (status == LP_OK) status = engine->source->done(engine->source->user, pair->unit, err);
        if (engine->counters.seconds_first == 0) engine->counters.seconds_first = lp_engine_seconds() - engine->began;
        schedule->idle[schedule->n_idle++] = pair;
    }
    schedule->n_inflight = n_left;
    if (engine->kv.pages.n > engine->counters.n_pages) engine->counters.n_pages = engine->kv.pages.n;
    if (engine->kv.pages.most_used > engine->counters.most_pages)
        engine->counters.most_pages = engine->kv.pages.most_used;
    return status;
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static bool add_rows(lp_engine *engine, lp_step_batch *batch, lp_request *request) {
    int32_t pages = 0, n = lp_request_count_rows(request, &pages);
    if (n == 0 || batch->n_rows + n > engine->max_rows || pages > engine->kv.pages.n_free) return false;
    lp_request_make_rows(request);
    LP_ASSERT(request->n_rows > 0 && request->n_rows <= n);
    int32_t first = batch->n_rows;
    for (int32_t r = 0; r < request->n_rows; r++)
        batch->rows[batch->n_rows++] = (lp_batch_row){.request = request, .request_row = r, .first = first};
    return true;
}

/* Sets others back until the oldest request that has rows has pages for them, and the last of its own where that is not
 * enough. No batch is under way. */
static void preempt_for_oldest(lp_engine *engine, lp_step_batch *batch) {
    lp_request *oldest = NULL, *victim = NULL;
    int32_t own = 0, pages = 0;
    for (; (oldest = request_at(engine, own)); own++)
        if (lp_request_count_rows(oldest, NULL) > 0) break;
    if (!oldest) return;
    engine->schedule.wants_growth = lp_engine_can_grow(engine);
    for (int32_t k = n_requests(engine); k >= 0;) {
        int32_t place = k > 0 ? k - 1 : own; /* its own branches last */
        lp_request_count_rows(oldest, &pages);
        if (pages <= engine->kv.pages.n_free) break;
        victim = request_at(engine, place);
        if ((k == 0 || place != own) && lp_request_shed(victim)) {
            engine->counters.n_preemptions++;
            continue;
        }
        if (place != own) drop(engine, victim);
        k--;
    }
    if (add_rows(engine, batch, oldest)) return;
    drop(engine, oldest);
    oldest->is_single = true;
}

void lp_engine_gather_rows(lp_engine *engine, lp_step_batch *batch) {
    lp_engine_schedule *schedule = &engine->schedule;
    batch->n_rows = 0;
    for (int32_t i = 0; i < schedule->n_inflight; i++) {
        lp_inflight_pair *pair = schedule->inflight[(schedule->first_inflight + i) % schedule->n_inflight];
        for (size_t g = 0; g < pair->unit->n_groups; g++)
            if (!pair->requests[g].in_batch) add_rows(engine, batch, &pair->requests[g]);
    }
    schedule->first_inflight = schedule->n_inflight > 0 ? (schedule->first_inflight + 1) % schedule->n_inflight : 0;
    if (batch->n_rows == 0 && engine->n_under_way == 0) preempt_for_oldest(engine, batch);
}
