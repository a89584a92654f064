#include "model/checkpoint.h"

#include "base/json.h"
#include "base/memory.h"
#include "model/safetensors.h"
#include "model/torch_bin.h"

lp_status lp_checkpoint_add_file(lp_checkpoint *checkpoint, const char *path, const char *role,
                                 const lp_checkpoint_file **out, lp_error *err) {
    lp_checkpoint_file *file = NULL;
    lp_text label = {0};
    const char *slash = strrchr(path, '/');
    lp_status status = LP_OK;
    LP_TRY(lp_mem_grow(&checkpoint->files, &checkpoint->file_capacity, checkpoint->n_files + 1,
                       sizeof *checkpoint->files, "file list", err));
    LP_TRY(lp_mem_new(&file, 1, sizeof *file, "file", err));
    LP_TRY(lp_mem_text(&file->path, path, strlen(path), err));
    LP_TRY(lp_text_format(&label, err, "%s/%s", role, slash ? slash + 1 : path));
    file->label = label.data;
    LP_TRY(lp_file_map(path, &file->map, err));
    checkpoint->files[checkpoint->n_files++] = file;
    *out = file;
    return lp_checkpoint_sniff(file->map.data, file->map.size, file->path, err);
out:
    if (file) lp_mem_free(file->path);
    lp_text_release(&label);
    lp_mem_free(file);
    return status;
}

/* By its name, or, as a file of a cache has none, by its beginning: a length, then an object that it holds. */
static bool looks_like_safetensors(const char *path, const unsigned char *data, size_t size) {
    static const char suffix[] = ".safetensors";
    size_t n = strlen(path), m = sizeof suffix - 1;
    uint64_t length = 0;
    if (n >= m && strcmp(path + n - m, suffix) == 0) return true;
    for (size_t i = 0; i < 8 && size > 8; i++) length |= (uint64_t)data[i] << (8 * i);
    return size > 8 && length > 1 && length <= size - 8 && data[8] == '{';
}

static lp_status add_weight_file(lp_checkpoint *checkpoint, const char *path, const char *role, lp_error *err) {
    const lp_checkpoint_file *file = NULL;
    LP_CHECK(lp_checkpoint_add_file(checkpoint, path, role, &file, err));
    if (lp_torch_bin_recognise(file->map.data, file->map.size))
        return lp_torch_bin_parse(file->map.data, file->map.size, file->path, &checkpoint->tensors, err);
    if (looks_like_safetensors(path, file->map.data, file->map.size))
        return lp_safetensors_parse(file->map.data, file->map.size, file->path, &checkpoint->tensors, err);
    return lp_fail(err, LP_ERR_FORMAT,
                   "%s: neither a PyTorch file (a zip archive) nor a safetensors file: expected a checkpoint", path);
}

static int compare_texts(const void *a, const void *b) {
    const char *const *left = a, *const *right = b;
    return strcmp(*left, *right);
}

static int compare_tensor_names(const void *a, const void *b) {
    const lp_tensor *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

/* Sorted pointers to the list's tensors from `first` on; fails on a name that two shards hold. */
static lp_status sort_names(const lp_tensor_list *list, size_t first, const lp_tensor ***out, lp_error *err) {
    const lp_tensor **sorted = NULL;
    size_t n = list->n - first;
    lp_status status = LP_OK;
    LP_TRY(lp_mem_new(&sorted, n, sizeof *sorted, "tensor names", err));
    for (size_t i = 0; i < n; i++) sorted[i] = &list->items[first + i];
    if (n) qsort(sorted, n, sizeof *sorted, compare_tensor_names);
    for (size_t i = 1; i < n; i++)
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            LP_FAIL(LP_ERR_FORMAT, "%s: tensor \"%.200s\" is in %s too", sorted[i]->file, sorted[i]->name,
                    sorted[i - 1]->file);
    *out = sorted;
    return LP_OK;
out:
    lp_mem_free(sorted);
    return status;
}

/* Every name of the index's weight_map must be in the shard that it names. */
static lp_status check_index(const lp_json *map, const char *folder, const lp_tensor_list *list, size_t first,
                             lp_error *err) {
    const lp_tensor **sorted = NULL;
    lp_json item;
    const char *shard = NULL;
    lp_status status = LP_OK;
    LP_TRY(sort_names(list, first, &sorted, err));
    for (lp_json_first(map, &item); item.node; lp_json_next(map, &item)) {
        LP_TRY(lp_json_string(&item, &shard, err));
        lp_tensor wanted = {.name = item.node->string};
        const lp_tensor *key = &wanted;
        const lp_tensor **found =
            list->n > first ? bsearch(&key, sorted, list->n - first, sizeof *sorted, compare_tensor_names) : NULL;
        if (!found)
            LP_FAIL(LP_ERR_FORMAT, "%s: tensor \"%.200s\" should be in %s/%s, which does not hold it", map->file,
                    item.node->string, folder, shard);
        const char *slash = strrchr((*found)->file, '/');
        if (strcmp(slash ? slash + 1 : (*found)->file, shard) != 0)
            LP_FAIL(LP_ERR_FORMAT, "%s: tensor \"%.200s\" should be in %s, but is in %s", map->file, item.node->string,
                    shard, (*found)->file);
    }
out:
    lp_mem_free(sorted);
    return status;
}

static lp_status add_index(lp_checkpoint *checkpoint, const char *path, const char *folder, const char *role,
                           lp_error *err) {
    const lp_checkpoint_file *file = NULL;
    cJSON *document = NULL;
    const char **shards = NULL;
    char *shard_path = NULL;
    size_t n = 0, capacity = 0, first = checkpoint->tensors.n;
    lp_json root, map, item;
    lp_status status = LP_OK;
    LP_TRY(lp_checkpoint_add_file(checkpoint, path, role, &file, err));
    if (file->map.size > LP_SAFETENSORS_MAX_HEADER)
        LP_FAIL(LP_ERR_FORMAT, "%s: too large for an index: %zu bytes", path, file->map.size);
    LP_TRY(lp_json_parse((const char *)file->map.data, file->map.size, file->path, &document, &root, err));
    LP_TRY(lp_json_get(&root, "weight_map", &map, err));
    if (!lp_json_is_object(&map)) {
        status = lp_json_fail(&map, err, "an object: tensor name -> file name");
        goto out;
    }
    for (lp_json_first(&map, &item); item.node; lp_json_next(&map, &item)) {
        LP_TRY(lp_mem_grow(&shards, &capacity, n + 1, sizeof *shards, "shard names", err));
        LP_TRY(lp_json_string(&item, &shards[n], err));
        if (strchr(shards[n], '/') || shards[n][0] == '.' || shards[n][0] == '\0') {
            status = lp_json_fail(&item, err, "the name of a file in the same folder");
            goto out;
        }
        n++;
    }
    if (n) qsort(shards, n, sizeof *shards, compare_texts);
    for (size_t i = 0; i < n; i++) {
        if (i > 0 && strcmp(shards[i - 1], shards[i]) == 0) continue;
        lp_mem_free(shard_path);
        shard_path = NULL;
        LP_TRY(lp_path_join(folder, shards[i], &shard_path, err));
        if (lp_path_look(shard_path) == LP_PATH_MISSING)
            LP_FAIL(LP_ERR_IO, "%s: the shard %s that it names is missing", path, shard_path);
        LP_TRY(add_weight_file(checkpoint, shard_path, role, err));
    }
    status = check_index(&map, folder, &checkpoint->tensors, first, err);
out:
    lp_mem_free(shard_path);
    lp_mem_free(shards);
    cJSON_Delete(document);
    return status;
}

lp_status lp_checkpoint_add_weights(lp_checkpoint *checkpoint, const char *path, const char *role, lp_error *err) {
    static const struct {
        const char *name;
        bool is_index;
    } names[] = {{"model.safetensors", false},
                 {"model.safetensors.index.json", true},
                 {"pytorch_model.bin", false},
                 {"pytorch_model.bin.index.json", true}};
    if (lp_path_look(path) != LP_PATH_FOLDER) return add_weight_file(checkpoint, path, role, err);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *inside = NULL;
        lp_status status = lp_path_join(path, names[i].name, &inside, err);
        if (status != LP_OK) return status;
        bool there = lp_path_look(inside) != LP_PATH_MISSING;
        if (there)
            status = names[i].is_index ? add_index(checkpoint, inside, path, role, err)
                                       : add_weight_file(checkpoint, inside, role, err);
        lp_mem_free(inside);
        if (there) return status;
    }
    return lp_fail(err, LP_ERR_IO,
                   "%s: no weights in this folder: expected model.safetensors, model.safetensors.index.json, "
                   "pytorch_model.bin or pytorch_model.bin.index.json",
                   path);
}

void lp_checkpoint_release(lp_checkpoint *checkpoint) {
    lp_tensor_list_release(&checkpoint->tensors);
    for (size_t i = 0; i < checkpoint->n_files; i++) {
        lp_checkpoint_file *file = checkpoint->files[i];
        lp_file_unmap(&file->map);
        lp_mem_free(file->path);
        lp_mem_free(file->label);
        lp_mem_free(file);
    }
    lp_mem_free(checkpoint->files);
    *checkpoint = (lp_checkpoint){0};
}
