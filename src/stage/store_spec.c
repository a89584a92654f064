#include "stage/store_spec.h"

#include "base/memory.h"
#include "store/store_admin.h"

/* What store.sites adds to the places that every store keeps: "k, prompt resid_post [-2,-1]". */
static lp_status name_sites(const lp_store_layout *layout, lp_text *out, lp_error *err) {
    for (size_t i = LP_N_DEFAULT_CAPTURED; i < layout->n_captured; i++) {
        const lp_captured_site *captured = &layout->captured[i];
        bool thought = captured->phase == LP_PHASE_THOUGHT;
        LP_CHECK(lp_text_format(out, err, "%s%s%s%s", out->length ? ", " : "",
                                thought ? "" : lp_phase_names()[captured->phase], thought ? "" : " ",
                                lp_site_names()[captured->site]));
        for (int32_t k = 0; !thought && k < captured->n_indices; k++)
            LP_CHECK(lp_text_format(out, err, "%s%d%s", k ? "," : " [", captured->indices[k],
                                    k + 1 == captured->n_indices ? "]" : ""));
    }
    if (out->length == 0) return lp_text_format(out, err, "none");
    return LP_OK;
}

lp_status lp_store_spec(const lp_session *session, const lp_store_layout *layout, lp_provenance *provenance,
                        lp_store_tables *tables, lp_record_file_spec *spec, lp_error *err) {
    int64_t p = session->n_pairs;
    char n_pairs[24];
    for (int i = 0; i < 4; i++) LP_CHECK(lp_mem_new(&tables->texts[i], (size_t)p, sizeof(char *), "pair table", err));
    for (int side = 0; side < 2; side++)
        LP_CHECK(lp_mem_new(&tables->answers[side], (size_t)p, sizeof(double), "pair table", err));
    for (int64_t i = 0; i < p; i++) {
        const lp_pair *pair = &session->pairs.pairs[i];
        tables->texts[0][i] = pair->id;
        tables->texts[1][i] = pair->source;
        tables->texts[2][i] = pair->clean.question;
        tables->texts[3][i] = pair->corrupted.question;
        tables->answers[LP_CLEAN][i] = pair->clean.answer;
        tables->answers[LP_CORRUPTED][i] = pair->corrupted.answer;
    }
    static const char *const text_paths[4] = {"pairs/id", "pairs/source", "pairs/clean_question",
                                              "pairs/corrupted_question"};
    static const char *const number_paths[2] = {"pairs/clean_answer", "pairs/corrupted_answer"};
    for (int i = 0; i < 4; i++)
        tables->tables[i] =
            (lp_table){.path = text_paths[i], .type = LP_TEXT, .n_dims = 1, .dims = {p}, .data = tables->texts[i]};
    for (int i = 0; i < 2; i++)
        tables->tables[4 + i] =
            (lp_table){.path = number_paths[i], .type = LP_F64, .n_dims = 1, .dims = {p}, .data = tables->answers[i]};
    lp_session_provenance(session, provenance);
    /* The file says itself how many it holds; a job may mean the first of them. */
    snprintf(n_pairs, sizeof n_pairs, "%lld", (long long)p);
    lp_provenance_add(provenance, "n_pairs", n_pairs, false);
    LP_CHECK(name_sites(layout, &tables->sites, err));
    lp_provenance_add(provenance, "sites", lp_text_get(&tables->sites), true);
    lp_provenance_add(provenance, "classifier", lp_classifier_names[session->job.classifier], false);
    lp_provenance_add(provenance, "device", session->device, false);
    *spec = (lp_record_file_spec){.format = LP_STORE_FORMAT,
                                  .version = LP_STORE_VERSION,
                                  .n_pairs = p,
                                  .first_of_more = true,
                                  .fields = layout->fields,
                                  .n_fields = layout->n_fields,
                                  .tables = tables->tables,
                                  .n_tables = 6,
                                  .provenance = provenance->items,
                                  .n_provenance = provenance->n,
                                  .advice = "name another store.file, or remove it",
                                  .convert = "latentpatch store merge NEW.store.h5"};
    return LP_OK;
}

void lp_store_tables_release(lp_store_tables *tables) {
    for (int i = 0; i < 4; i++) lp_mem_free(tables->texts[i]);
    for (int side = 0; side < 2; side++) lp_mem_free(tables->answers[side]);
    lp_text_release(&tables->sites);
    *tables = (lp_store_tables){0};
}

lp_status lp_store_answer(const lp_session *session, const lp_store_layout *layout, lp_record_file *store, int64_t pair,
                          int side, lp_text *text, bool *right, lp_error *err) {
    int32_t most = session->job.decode.max_new_tokens, n = 0;
    int32_t *tokens = NULL;
    lp_text whole = {0};
    lp_status status = LP_OK;
    lp_text_clear(text);
    LP_TRY(lp_mem_new(&tokens, (size_t)most, sizeof *tokens, "answer", err));
    LP_TRY(lp_record_file_read(store, pair, lp_store_layout_stored_field(layout, side, LP_STORED_ANSWER_TOKENS), tokens,
                               err));
    LP_TRY(lp_record_file_read(store, pair, lp_store_layout_stored_field(layout, side, LP_STORED_ANSWER_LEN), &n, err));
    if (n < 0 || n > most)
        LP_FAIL(LP_ERR_FORMAT, "%s: pair %s: answer_len is %d", session->job.store.file, session->pairs.pairs[pair].id,
                n);
    LP_TRY(lp_tokenizer_decode(session->tokenizer, tokens, (size_t)n, LP_DECODE_ANSWER, &whole, err));
    LP_TRY(lp_text_add_without_nul(text, lp_text_get(&whole), whole.length, err));
    double number = 0;
    *right = lp_extract_number(session->job.classifier, lp_text_get(&whole), whole.length, &number) &&
             lp_answers_match(session->job.classifier, number, lp_session_side(session, pair, side)->answer);
out:
    lp_text_release(&whole);
    lp_mem_free(tokens);
    return status;
}
