#include "nn/batch_lists.h"

#include "backend/groups.h"
#include "base/memory.h"

/* In the order in which they lie in the block. The tail comes after those that recorded sequences read, because its
 * length changes at every step. */
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

static layout lay_out(const lp_forward_batch *b, int32_t n_fresh, size_t n_copies, bool groups) {
    size_t n = (size_t)b->n_rows, fresh = (size_t)n_fresh;
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
                                    [TAIL] = (size_t)b->n_tail,
                                    [CHOSEN] = (size_t)b->n_chosen};
    layout out = {{0}};
    for (int i = 0; i < N_LISTS; i++) out.begin[i + 1] = out.begin[i] + length[i];
    return out;
}

static void copy(int32_t *to, const int32_t *from, int32_t n) {
    if (n > 0) memcpy(to, from, (size_t)n * sizeof *to);
}

static void list_inputs(lp_batch_lists *l, const layout *at, const lp_forward_batch *b) {
    for (int32_t r = 0; r < l->n_fresh; r++) {
        bool token = b->input[r].token >= 0;
        int32_t k = token ? l->n_tokens++ : l->n_latents++;
        l->host[at->begin[token ? TOKEN_ROWS : LATENT_ROWS] + (size_t)k] = r;
        l->host[at->begin[token ? TOKEN_IDS : LATENT_IDS] + (size_t)k] = token ? b->input[r].token : b->input[r].latent;
    }
}

static void list_outputs(lp_batch_lists *l, const layout *at, const lp_forward_batch *b, int32_t n_layers) {
    int32_t *out_rows = l->host + at->begin[OUT_ROWS];
    int32_t *from = l->host + at->begin[OUTPUT_FROM], *to = l->host + at->begin[OUTPUT_TO];
    for (int32_t r = 0; r < b->n_rows; r++) {
        l->host_compact[r] = b->output[r] ? l->n_out : -1;
        if (b->output[r]) out_rows[l->n_out++] = r;
    }
    for (int32_t r = 0; r < b->n_rows; r++) {
        if (b->first_layer[r] < n_layers || !b->output[r]) continue;
        LP_ASSERT(l->host_compact[b->source[r]] >= 0);
        from[l->n_output_copies] = l->host_compact[b->source[r]];
        to[l->n_output_copies++] = l->host_compact[r];
    }
}

/* The row whose slot holds row r's K and V of a layer below its first. */
static int32_t owner_at(const lp_forward_batch *b, int32_t r, int32_t layer) {
    while (b->first_layer[r] > layer) r = b->source[r];
    return r;
}

static void list_copies(lp_batch_lists *l, const layout *at, const lp_forward_batch *b, int32_t n_layers) {
    int32_t *from = l->host + at->begin[COPY_FROM], *to = l->host + at->begin[COPY_TO], k = 0;
    for (int32_t layer = 0; layer < n_layers; layer++) {
        l->copy_begin[layer] = k;
        for (int32_t r = l->n_fresh; r < b->n_rows; r++) {
            if (b->first_layer[r] <= layer) continue;
            from[k] = b->slot[owner_at(b, r, layer)];
            to[k++] = b->slot[r];
        }
    }
    l->copy_begin[n_layers] = k;
}

static lp_status upload(lp_batch_lists *l, lp_backend *be, size_t n, lp_error *err) {
    if (n > l->dev_capacity) {
        void *dev = NULL;
        if (l->dev) be->release(be, l->dev);
        l->dev = NULL;
        l->dev_capacity = 0;
        lp_status status = be->alloc(be, 2 * n * sizeof(int32_t), "index lists", &dev, err);
        if (status != LP_OK) return status;
        l->dev = dev;
        l->dev_capacity = 2 * n;
    }
    return be->upload(be, l->dev, l->host, n * sizeof(int32_t), err);
}

static void name_lists(lp_batch_lists *l, const layout *at, int32_t n_groups) {
    const int32_t *dev[N_LISTS];
    for (int i = 0; i < N_LISTS; i++) dev[i] = l->dev + at->begin[i];
    l->rows = (lp_row_table){.position = dev[POSITION],
                             .slot = dev[SLOT],
                             .prompt_begin = dev[PROMPT_BEGIN],
                             .prompt_length = dev[PROMPT_LENGTH],
                             .tail_begin = dev[TAIL_BEGIN],
                             .tail_length = dev[TAIL_LENGTH],
                             .tail = dev[TAIL],
                             .group_row = n_groups > 0 ? dev[GROUP_ROW] : NULL,
                             .group_begin = n_groups > 0 ? dev[GROUP_BEGIN] : NULL,
                             .n_groups = n_groups};
    l->source = dev[SOURCE];
    l->token_rows = dev[TOKEN_ROWS];
    l->token_ids = dev[TOKEN_IDS];
    l->latent_rows = dev[LATENT_ROWS];
    l->latent_ids = dev[LATENT_IDS];
    l->out_rows = dev[OUT_ROWS];
    l->host_out_rows = l->host + at->begin[OUT_ROWS];
    l->compact = l->host_compact;
    l->output_from = dev[OUTPUT_FROM];
    l->output_to = dev[OUTPUT_TO];
    l->copy_from = dev[COPY_FROM];
    l->copy_to = dev[COPY_TO];
    l->chosen = dev[CHOSEN];
}

lp_status lp_batch_lists_make(lp_batch_lists *l, lp_backend *be, const lp_forward_batch *b, int32_t n_layers,
                              lp_error *err) {
    size_t n_copies = 0;
    int32_t n_groups = 0;
    lp_status status = LP_OK;
    LP_ASSERT(n_layers <= LP_MAX_LAYERS);
    l->n_fresh = l->n_tokens = l->n_latents = l->n_out = l->n_output_copies = 0;
    while (l->n_fresh < b->n_rows && b->first_layer[l->n_fresh] == 0) l->n_fresh++;
    for (int32_t r = l->n_fresh; r < b->n_rows; r++) n_copies += (size_t)b->first_layer[r];
    const layout at = lay_out(b, l->n_fresh, n_copies, be->wants_groups);
    size_t n = (size_t)b->n_rows, n_all = at.begin[N_LISTS];
    LP_TRY(lp_mem_grow(&l->host, &l->host_capacity, n_all, sizeof *l->host, "index lists", err));
    LP_TRY(lp_mem_grow(&l->host_compact, &l->compact_capacity, n, sizeof *l->host_compact, "rows", err));
    const int32_t *const given[] = {[POSITION] = b->position,
                                    [SLOT] = b->slot,
                                    [PROMPT_BEGIN] = b->prompt_begin,
                                    [PROMPT_LENGTH] = b->prompt_length,
                                    [TAIL_BEGIN] = b->tail_begin,
                                    [TAIL_LENGTH] = b->tail_length,
                                    [SOURCE] = b->source};
    for (int i = 0; i <= SOURCE; i++) copy(l->host + at.begin[i], given[i], b->n_rows);
    copy(l->host + at.begin[TAIL], b->tail, b->n_tail);
    copy(l->host + at.begin[CHOSEN], b->chosen, b->n_chosen);
    list_inputs(l, &at, b);
    list_outputs(l, &at, b, n_layers);
    list_copies(l, &at, b, n_layers);
    if (be->wants_groups) {
        LP_TRY(lp_mem_grow(&l->group_keys, &l->group_keys_capacity, n, sizeof *l->group_keys, "rows", err));
        n_groups = lp_row_groups(b->prompt_begin, b->n_rows, LP_GROUP_ROWS, l->host + at.begin[GROUP_ROW],
                                 l->host + at.begin[GROUP_BEGIN], l->group_keys);
    }
    LP_TRY(upload(l, be, n_all, err));
    name_lists(l, &at, n_groups);
out:
    return status;
}

void lp_batch_lists_release(lp_batch_lists *l, lp_backend *be) {
    if (l->dev) be->release(be, l->dev);
    lp_mem_free(l->host);
    lp_mem_free(l->host_compact);
    lp_mem_free(l->group_keys);
    *l = (lp_batch_lists){.host = NULL};
}
