#include "nn/batch_lists.h"

#include "backend/groups.h"
#include "base/memory.h"

/* In the order in which they lie in the block. */
typedef enum {
    POSITION,
    SLOT,
    PROMPT_BEGIN,
    PROMPT_LENGTH,
    TAIL_BEGIN,
    TAIL_LENGTH,
    SOURCE,
    TOKEN_ROWS,
    TOKEN_IDS,
    LATENT_ROWS,
    LATENT_IDS,
    OUT_ROWS,
    OUTPUT_FROM,
    OUTPUT_TO,
    COPY_FROM,
    COPY_TO,
    GROUP_ROW,
    GROUP_BEGIN,
    TAIL,
    CHOSEN,
    N_LISTS
} list;

/* Where each list begins, and the length of all. */
typedef struct {
    size_t begin[N_LISTS + 1];
} layout;

static layout lay_out(const lp_forward_batch *batch, int32_t n_fresh, size_t n_copies, bool groups) {
    size_t n = (size_t)batch->n_rows, fresh = (size_t)n_fresh;
    const size_t length[N_LISTS] = {[POSITION] = n,
                                    [SLOT] = n,
                                    [PROMPT_BEGIN] = n,
                                    [PROMPT_LENGTH] = n,
                                    [TAIL_BEGIN] = n,
                                    [TAIL_LENGTH] = n,
                                    [SOURCE] = n,
                                    [TOKEN_ROWS] = fresh,
                                    [TOKEN_IDS] = fresh,
                                    [LATENT_ROWS] = fresh,
                                    [LATENT_IDS] = fresh,
                                    [OUT_ROWS] = n,
                                    [OUTPUT_FROM] = n,
                                    [OUTPUT_TO] = n,
                                    [COPY_FROM] = n_copies,
                                    [COPY_TO] = n_copies,
                                    [GROUP_ROW] = groups ? n : 0,
                                    [GROUP_BEGIN] = groups ? n + 1 : 0,
                                    [TAIL] = (size_t)batch->n_tail,
                                    [CHOSEN] = (size_t)batch->n_chosen};
    layout out = {{0}};
    for (int i = 0; i < N_LISTS; i++) out.begin[i + 1] = out.begin[i] + length[i];
    return out;
}

static void copy(int32_t *to, const int32_t *from, int32_t n) {
    if (n > 0) memcpy(to, from, (size_t)n * sizeof *to);
}

static void list_inputs(lp_batch_lists *lists, const layout *at, const lp_forward_batch *batch) {
    for (int32_t r = 0; r < lists->n_fresh; r++) {
        bool token = batch->input[r].token >= 0;
        int32_t k = token ? lists->n_tokens++ : lists->n_latents++;
        lists->host[at->begin[token ? TOKEN_ROWS : LATENT_ROWS] + (size_t)k] = r;
        lists->host[at->begin[token ? TOKEN_IDS : LATENT_IDS] + (size_t)k] =
            token ? batch->input[r].token : batch->input[r].latent;
    }
}

static void list_outputs(lp_batch_lists *lists, const layout *at, const lp_forward_batch *batch, int32_t n_layers) {
    int32_t *out_rows = lists->host + at->begin[OUT_ROWS];
    int32_t *from = lists->host + at->begin[OUTPUT_FROM], *to = lists->host + at->begin[OUTPUT_TO];
    for (int32_t r = 0; r < batch->n_rows; r++) {
        lists->host_compact[r] = batch->output[r] ? lists->n_out : -1;
        if (batch->output[r]) out_rows[lists->n_out++] = r;
    }
    for (int32_t r = 0; r < batch->n_rows; r++) {
        if (batch->first_layer[r] < n_layers || !batch->output[r]) continue;
        LP_ASSERT(lists->host_compact[batch->source[r]] >= 0);
        from[lists->n_output_copies] = lists->host_compact[batch->source[r]];
        to[lists->n_output_copies++] = lists->host_compact[r];
    }
}

/* The row whose slot holds row r's K and V of a layer below its first. */
static int32_t owner_at(const lp_forward_batch *batch, int32_t r, int32_t layer) {
    while (batch->first_layer[r] > layer) r = batch->source[r];
    return r;
}

static void list_copies(lp_batch_lists *lists, const layout *at, const lp_forward_batch *batch, int32_t n_layers) {
    int32_t *from = lists->host + at->begin[COPY_FROM], *to = lists->host + at->begin[COPY_TO], k = 0;
    for (int32_t layer = 0; layer < n_layers; layer++) {
        lists->copy_begin[layer] = k;
        for (int32_t r = lists->n_fresh; r < batch->n_rows; r++) {
            if (batch->first_layer[r] <= layer) continue;
            from[k] = batch->slot[owner_at(batch, r, layer)];
            to[k++] = batch->slot[r];
        }
    }
    lists->copy_begin[n_layers] = k;
}

static lp_status upload(lp_batch_lists *lists, lp_backend *be, size_t n, lp_error *err) {
    if (n > lists->dev_capacity) {
        void *dev = NULL;
        if (lists->dev) be->release(be, lists->dev);
        lists->dev = NULL;
        lists->dev_capacity = 0;
        LP_CHECK(be->alloc(be, 2 * n * sizeof(int32_t), "index lists", &dev, err));
        lists->dev = dev;
        lists->dev_capacity = 2 * n;
    }
    return be->upload(be, lists->dev, lists->host, n * sizeof(int32_t), err);
}

static void name_lists(lp_batch_lists *lists, const layout *at, int32_t n_groups) {
    const int32_t *dev[N_LISTS];
    for (int i = 0; i < N_LISTS; i++) dev[i] = lists->dev + at->begin[i];
    lists->rows = (lp_row_table){.position = dev[POSITION],
                                 .slot = dev[SLOT],
                                 .prompt_begin = dev[PROMPT_BEGIN],
                                 .prompt_length = dev[PROMPT_LENGTH],
                                 .tail_begin = dev[TAIL_BEGIN],
                                 .tail_length = dev[TAIL_LENGTH],
                                 .tail = dev[TAIL],
                                 .group_row = n_groups > 0 ? dev[GROUP_ROW] : NULL,
                                 .group_begin = n_groups > 0 ? dev[GROUP_BEGIN] : NULL,
                                 .n_groups = n_groups};
    lists->source = dev[SOURCE];
    lists->token_rows = dev[TOKEN_ROWS];
    lists->token_ids = dev[TOKEN_IDS];
    lists->latent_rows = dev[LATENT_ROWS];
    lists->latent_ids = dev[LATENT_IDS];
    lists->out_rows = dev[OUT_ROWS];
    lists->host_out_rows = lists->host + at->begin[OUT_ROWS];
    lists->compact = lists->host_compact;
    lists->output_from = dev[OUTPUT_FROM];
    lists->output_to = dev[OUTPUT_TO];
    lists->copy_from = dev[COPY_FROM];
    lists->copy_to = dev[COPY_TO];
    lists->chosen = dev[CHOSEN];
}

lp_status lp_batch_lists_make(lp_batch_lists *lists, lp_backend *be, const lp_forward_batch *batch, int32_t n_layers,
                              lp_error *err) {
    size_t n_copies = 0;
    int32_t n_groups = 0;
    LP_ASSERT(n_layers <= LP_MAX_LAYERS);
    lists->n_fresh = lists->n_tokens = lists->n_latents = lists->n_out = lists->n_output_copies = 0;
    while (lists->n_fresh < batch->n_rows && batch->first_layer[lists->n_fresh] == 0) lists->n_fresh++;
    for (int32_t r = lists->n_fresh; r < batch->n_rows; r++) n_copies += (size_t)batch->first_layer[r];
    const layout at = lay_out(batch, lists->n_fresh, n_copies, be->wants_groups);
    size_t n = (size_t)batch->n_rows, n_all = at.begin[N_LISTS];
    LP_CHECK(lp_mem_grow(&lists->host, &lists->host_capacity, n_all, sizeof *lists->host, "index lists", err));
    LP_CHECK(lp_mem_grow(&lists->host_compact, &lists->compact_capacity, n, sizeof *lists->host_compact, "rows", err));
    const int32_t *const given[] = {[POSITION] = batch->position,
                                    [SLOT] = batch->slot,
                                    [PROMPT_BEGIN] = batch->prompt_begin,
                                    [PROMPT_LENGTH] = batch->prompt_length,
                                    [TAIL_BEGIN] = batch->tail_begin,
                                    [TAIL_LENGTH] = batch->tail_length,
                                    [SOURCE] = batch->source};
    for (int i = 0; i <= SOURCE; i++) copy(lists->host + at.begin[i], given[i], batch->n_rows);
    copy(lists->host + at.begin[TAIL], batch->tail, batch->n_tail);
    copy(lists->host + at.begin[CHOSEN], batch->chosen, batch->n_chosen);
    list_inputs(lists, &at, batch);
    list_outputs(lists, &at, batch, n_layers);
    list_copies(lists, &at, batch, n_layers);
    if (be->wants_groups) {
        LP_CHECK(
            lp_mem_grow(&lists->group_keys, &lists->group_keys_capacity, n, sizeof *lists->group_keys, "rows", err));
        n_groups = lp_row_groups(batch->prompt_begin, batch->n_rows, LP_GROUP_ROWS, lists->host + at.begin[GROUP_ROW],
                                 lists->host + at.begin[GROUP_BEGIN], lists->group_keys);
    }
    LP_CHECK(upload(lists, be, n_all, err));
    name_lists(lists, &at, n_groups);
    return LP_OK;
}

void lp_batch_lists_release(lp_batch_lists *lists, lp_backend *be) {
    if (lists->dev) be->release(be, lists->dev);
    lp_mem_free(lists->host);
    lp_mem_free(lists->host_compact);
    lp_mem_free(lists->group_keys);
    *lists = (lp_batch_lists){.host = NULL};
}
