/* The job's store as both stages and the check before them expect it: its specification, and the answers in it. */
#ifndef LP_STAGE_STORE_SPEC_H
#define LP_STAGE_STORE_SPEC_H

#include "stage/layout.h"

/* Arrays that the tables of a store's specification point to. {0} before; texts are borrowed from the session. */
typedef struct {
    const char **texts[4];
    double *answers[2];
    lp_table tables[6];
    lp_text sites; /* what store.sites adds, in words */
} lp_store_tables;

/* The specification of the job's store. Everything it points to is borrowed from the arguments. Local. */
lp_status lp_store_spec(const lp_session *session, const lp_store_layout *layout, lp_provenance *provenance,
                        lp_store_tables *tables, lp_record_file_spec *spec, lp_error *err);
void lp_store_tables_release(lp_store_tables *tables);

/* *text = what an unpatched run of the store answered; *right: with the right number, by the job's classifier (that of
 * the job that made the store may have been another). Local. */
lp_status lp_store_answer(const lp_session *session, const lp_store_layout *layout, lp_record_file *store, int64_t pair,
                          int side, lp_text *text, bool *right, lp_error *err);

#endif
