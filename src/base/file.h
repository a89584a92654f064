/* Files for reading: mapped, or read whole; and what a path is. Files are written by output.h. */
#ifndef LP_BASE_FILE_H
#define LP_BASE_FILE_H

#include "base/error.h"
#include "base/text.h"

/* A file mapped read-only. The bytes stay valid until lp_file_unmap. */
typedef struct {
    const unsigned char *data; /* [size]; not NULL even when the file is empty */
    size_t size;
    void *mapping; /* owned; NULL when size is 0 */
} lp_mapped_file;

/* Fails as reading the file would: it is missing, not a file (a pipe is not waited for), or not to be read. */
lp_status lp_file_check(const char *path, lp_error *err);
/* From now on a mapped file that is made shorter while it is in use ends the process with a line that names it. */
lp_status lp_file_watch_maps(lp_error *err);
/* Fails with the path when the file is missing, no regular file, or unreadable. */
lp_status lp_file_map(const char *path, lp_mapped_file *out, lp_error *err);
void lp_file_unmap(lp_mapped_file *file);

size_t lp_page_bytes(void);
/* Hints for bytes of a map, and of nothing else: they will be read soon; they need not stay resident, where they have
 * pages of their own. */
void lp_pages_want(const void *bytes, size_t n);
void lp_pages_let_go(const void *bytes, size_t n);

/* Adds the whole file to *out. Files over max_bytes are refused. */
lp_status lp_file_read(const char *path, size_t max_bytes, lp_text *out, lp_error *err);

typedef enum { LP_PATH_MISSING, LP_PATH_FILE, LP_PATH_FOLDER, LP_PATH_OTHER } lp_path_kind;
lp_path_kind lp_path_look(const char *path);

/* *out = `path` when it is absolute, otherwise folder/path. Caller frees with lp_mem_free. */
lp_status lp_path_join(const char *folder, const char *path, char **out, lp_error *err);
/* *out = the folder part of `path` ("." when it has none). Caller frees with lp_mem_free. */
lp_status lp_path_folder(const char *path, char **out, lp_error *err);
/* *out = the path from the root with links followed as far as it exists; "." and ".." of the rest are removed as text.
 * A link in the last component is followed even where its target does not exist. Caller frees with lp_mem_free. */
lp_status lp_path_resolve(const char *path, char **out, lp_error *err);
/* Makes the folder that `path` lies in, and those above it, where they are missing. */
lp_status lp_path_make_folder_for(const char *path, lp_error *err);

#endif
