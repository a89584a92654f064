#include "store/pair_file_internal.h"

#include "base/memory.h"

typedef struct {
    lp_pair_file *file;
    lp_open_tables *tables;
    lp_error *err;
    lp_status status;
} visit;

static bool is_field(const lp_pair_file *file, const char *path) {
    size_t index = 0;
    return lp_pair_file_find(file, path, &index);
}

static lp_status add_table(visit *v, const char *path, lp_error *err) {
    lp_status status = LP_OK;
    lp_open_table *grown = NULL;
    lp_field_type type = LP_FIELD_U8;
    hid_t dataset = H5Dopen2(v->file->file, path, H5P_DEFAULT);
    LP_TRY(lp_h5_type_of(dataset, &type, NULL, v->file->path, path, err));
    LP_TRY(lp_mem_new(&grown, v->tables->n + 1, sizeof *grown, "tables", err));
    if (v->tables->n) memcpy(grown, v->tables->table, v->tables->n * sizeof *grown);
    lp_mem_free(v->tables->table);
    v->tables->table = grown;
    lp_open_table *table = &grown[v->tables->n++];
    table->type = type;
    LP_TRY(lp_mem_text(&table->path, path, strlen(path), err));
    status = lp_pair_file_table(v->file, path, type, &table->block, &table->n, &table->item_bytes, err);
out:
    lp_h5_close(dataset);
    return status;
}

static herr_t look_at(hid_t group, const char *path, const H5L_info_t *info, void *state) {
    visit *v = state;
    (void)info;
    if (strncmp(path, "journal/", 8) == 0 || is_field(v->file, path)) return 0;
    hid_t object = H5Oopen(group, path, H5P_DEFAULT);
    bool is_dataset = object >= 0 && H5Iget_type(object) == H5I_DATASET;
    if (object < 0) v->status = lp_h5_fail(v->err, v->file->path, "open /%s", path);
    lp_h5_close(object);
    if (is_dataset) v->status = add_table(v, path, v->err);
    return v->status == LP_OK ? 0 : 1;
}

lp_status lp_pair_file_read_tables(lp_pair_file *file, lp_open_tables *out, lp_error *err) {
    lp_open_tables tables = {0};
    visit v = {.file = file, .tables = &tables, .err = err};
    if (H5Lvisit(file->file, H5_INDEX_NAME, H5_ITER_INC, look_at, &v) < 0 && v.status == LP_OK)
        v.status = lp_h5_fail(err, file->path, "list the datasets");
    if (v.status != LP_OK) {
        lp_open_tables_release(&tables);
        return v.status;
    }
    *out = tables;
    return LP_OK;
}

void lp_open_tables_release(lp_open_tables *tables) {
    for (size_t i = 0; i < tables->n; i++) {
        lp_mem_free(tables->table[i].path);
        lp_mem_free(tables->table[i].block);
    }
    lp_mem_free(tables->table);
    *tables = (lp_open_tables){0};
}
